//! Reading a file, or what is known of it.

use super::namenode::Namenode;
use super::{STEP_TIMEOUT, absolute, meta, stored, within};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use hdfs_native::HdfsError;
use hdfs_native::client::FileStatus;
use hdfs_native::file::FileReader;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult, GetResultPayload, Result};
use std::ops::Range;

/// How often a file is opened again that was replaced between two questions.
const OPENINGS_MAX: u32 = 10;

pub(super) async fn get(namenode: &Namenode, location: &Path, options: GetOptions) -> Result<GetResult> {
    let path = absolute(location);
    if options.head {
        let meta = meta(&file(namenode, &path).await.map_err(|error| stored(error, location))?)?;
        options.check_preconditions(&meta)?;
        let range = 0..meta.size;
        let payload = GetResultPayload::Stream(stream::empty().boxed());
        return Ok(GetResult { payload, meta, range, attributes: Default::default() });
    }
    let (reader, status) = open(namenode, &path).await.map_err(|error| stored(error, location))?;
    let meta = meta(&status)?;
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        None => 0..meta.size,
        Some(range) => range
            .as_range(meta.size)
            .map_err(|error| Error::Generic { store: super::STORE, source: Box::new(error) })?,
    };
    let Range { start, end } = range.clone();
    let at = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let bytes = in_time(reader.read_range_stream(at(start), at(end - start)).boxed(), location.clone());
    Ok(GetResult { payload: GetResultPayload::Stream(bytes), meta, range, attributes: Default::default() })
}

/// The bytes, each of which comes within a step's time: the client asks the namenode again where it knows no datanode that has them.
fn in_time(bytes: BoxStream<'static, hdfs_native::Result<Bytes>>, location: Path) -> BoxStream<'static, Result<Bytes>> {
    let next = |(mut bytes, location): (BoxStream<'static, hdfs_native::Result<Bytes>>, Path)| async move {
        let read = within(STEP_TIMEOUT, async { bytes.next().await.transpose() }).await.transpose()?;
        let read = read.map_err(|error| stored(error, &location));
        // After an error nothing follows.
        if read.is_err() {
            bytes = stream::empty().boxed();
        }
        Some((read, (bytes, location)))
    };
    stream::unfold((bytes, location), next).fuse().boxed()
}

async fn file(namenode: &Namenode, path: &str) -> hdfs_native::Result<FileStatus> {
    let status = namenode.answer(namenode.client.get_file_info(path)).await?;
    if status.isdir { Err(HdfsError::FileNotFound(path.to_string())) } else { Ok(status) }
}

/// The blocks of a file, and what is known of it, of one size.
async fn open(namenode: &Namenode, path: &str) -> hdfs_native::Result<(FileReader, FileStatus)> {
    for _ in 0..OPENINGS_MAX {
        let status = file(namenode, path).await?;
        let reader = namenode.answer(namenode.client.read(path)).await?;
        if reader.file_length() == status.length {
            return Ok((reader, status));
        }
    }
    Err(HdfsError::OperationFailed(format!("{path} is replaced all the time")))
}
