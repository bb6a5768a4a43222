//! Reading a file, or what is known of it.

use super::{absolute, bounded, meta, stored};
use futures::stream::{self, StreamExt};
use hdfs_native::client::FileStatus;
use hdfs_native::file::FileReader;
use hdfs_native::{Client, HdfsError};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult, GetResultPayload, Result};
use std::ops::Range;

/// How often a file is opened again that was replaced between two questions.
const OPENINGS_MAX: u32 = 10;

pub(super) async fn get(client: &Client, location: &Path, options: GetOptions) -> Result<GetResult> {
    let path = absolute(location);
    if options.head {
        let meta = meta(&file(client, &path).await.map_err(|error| stored(error, location))?)?;
        options.check_preconditions(&meta)?;
        let range = 0..meta.size;
        let payload = GetResultPayload::Stream(stream::empty().boxed());
        return Ok(GetResult { payload, meta, range, attributes: Default::default() });
    }
    let (reader, status) = open(client, &path).await.map_err(|error| stored(error, location))?;
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
    let location = location.clone();
    let bytes = reader.read_range_stream(at(start), at(end - start));
    let bytes = bytes.map(move |read| read.map_err(|error| stored(error, &location))).boxed();
    Ok(GetResult { payload: GetResultPayload::Stream(bytes), meta, range, attributes: Default::default() })
}

async fn file(client: &Client, path: &str) -> hdfs_native::Result<FileStatus> {
    let status = bounded(client.get_file_info(path)).await?;
    if status.isdir { Err(HdfsError::FileNotFound(path.to_string())) } else { Ok(status) }
}

/// The blocks of a file, and what is known of it, of one size.
async fn open(client: &Client, path: &str) -> hdfs_native::Result<(FileReader, FileStatus)> {
    for _ in 0..OPENINGS_MAX {
        let status = file(client, path).await?;
        let reader = bounded(client.read(path)).await?;
        if reader.file_length() == status.length {
            return Ok((reader, status));
        }
    }
    Err(HdfsError::OperationFailed(format!("{path} is replaced all the time")))
}
