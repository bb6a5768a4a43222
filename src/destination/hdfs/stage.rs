//! A file on its way: written in a folder for such files, then renamed.

use super::{Inner, RUNTIME, STAGING, STEP_TIMEOUT, exists, unwritten, within};
use crate::destination::local::stage_name;
use bytes::Bytes;
use hdfs_native::file::FileWriter;
use hdfs_native::{HdfsError, WriteOptions};
use object_store::Result;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the removal of a file that was given up is tried, and how long is waited between two of them: a namenode that starts
/// again has left safe mode within this minute, mostly. What stays is swept by a later start.
const REMOVALS_MAX: u32 = 12;
const REMOVAL_PAUSE: Duration = Duration::from_secs(5);

/// Modes of what is made, as HDFS has them by default.
const FOLDER_MODE: u32 = 0o755;

/// No file below this size is asked for the size of its blocks: a namenode takes no smaller ones, by default.
const BLOCK_BYTES_MIN: u64 = 1 << 20;

/// Dropped without [`Stage::place`] having returned success, the file is removed.
pub(super) struct Stage {
    inner: Arc<Inner>,
    location: Path,
    path: String,
    writer: Option<FileWriter>,
    written: u64,
    /// Bytes of a block; 0 where they are not known yet.
    block: u64,
    /// All written bytes are on the datanodes' disks.
    synced: bool,
    syncs: bool,
    /// Nothing is left to remove.
    placed: bool,
    /// Until somebody has got it.
    _opening: Option<watch::Receiver<()>>,
}

impl Stage {
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Dropped while the namenode is asked, the question goes on: the file must not be made after it was removed.
    pub(super) async fn open(inner: &Arc<Inner>, location: &Path) -> Result<Self> {
        let runtime = RUNTIME.as_ref().map_err(|error| unwritten(HdfsError::OperationFailed(error.to_string())))?;
        let path = format!("/{}/{}", staging(&inner.root, location), stage_name());
        // Before the file is made: it is removed also where the answer does not come.
        let mut stage = Self {
            inner: Arc::clone(inner),
            location: location.clone(),
            path,
            writer: None,
            written: 0,
            block: 0,
            synced: true,
            syncs: true,
            placed: false,
            _opening: Some(inner.at_work.subscribe()),
        };
        let opening = runtime.spawn(async move {
            let namenode = stage.inner.namenode();
            let made = namenode.answer(namenode.client.create(&stage.path, WriteOptions::default())).await;
            // The namenode has said no: there is nothing to remove.
            stage.placed = matches!(made, Err(HdfsError::RPCError(..) | HdfsError::AlreadyExists(_)));
            stage.writer = Some(made.map_err(unwritten)?);
            Ok::<_, object_store::Error>(stage)
        });
        let mut stage = opening.await.map_err(|source| object_store::Error::JoinError { source })??;
        stage._opening = None;
        Ok(stage)
    }

    /// Appends `bytes`.
    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len() as u64).await?;
            let now = bytes.split_to(usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len())));
            self.written += now.len() as u64;
            self.synced = false;
            let writer = self.writer.as_mut().ok_or_else(is_over)?;
            within(STEP_TIMEOUT, writer.write_bytes(now)).await.map_err(unwritten)?;
            // The client syncs the block that it is at, never one before.
            if self.block > 0 && self.written.is_multiple_of(self.block) {
                self.sync().await?;
            }
        }
        Ok(())
    }

    /// How many bytes fit into the block, at least.
    async fn room(&mut self, more: u64) -> Result<u64> {
        if self.written + more < BLOCK_BYTES_MIN {
            return Ok(more);
        }
        if self.block == 0 {
            let namenode = self.inner.namenode();
            let status = namenode.answer(namenode.client.get_file_info(&self.path)).await.map_err(unwritten)?;
            self.block = status.blocksize.filter(|&bytes| bytes > 0).unwrap_or(u64::MAX);
        }
        Ok(self.block - self.written % self.block)
    }

    /// Brings what was written to the disks of all its datanodes.
    pub(super) async fn sync(&mut self) -> Result<()> {
        if self.synced || !self.syncs {
            return Ok(());
        }
        let writer = self.writer.as_mut().ok_or_else(is_over)?;
        match within(STEP_TIMEOUT, writer.hsync()).await {
            Err(HdfsError::OperationFailed(what)) if what.contains("erasure-coded") => self.syncs = false,
            synced => synced.map_err(unwritten)?,
        }
        self.synced = true;
        Ok(())
    }

    /// Gives the file its name. Without `overwrite` nothing may have it.
    pub(super) async fn place(mut self, target: &str, overwrite: bool) -> Result<()> {
        self.sync().await?;
        let writer = self.writer.as_mut().ok_or_else(is_over)?;
        within(STEP_TIMEOUT, writer.close()).await.map_err(unwritten)?;
        self.writer = None;
        let namenode = self.inner.namenode();
        if let Some((folder, _)) = target.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
            namenode.answer(namenode.client.mkdirs(folder, FOLDER_MODE, true)).await.map_err(unwritten)?;
        }
        match namenode.answer(namenode.client.rename(&self.path, target, overwrite)).await {
            Err(error @ HdfsError::AlreadyExists(_)) if !overwrite => return Err(exists(error, &self.location)),
            renamed => renamed.map_err(unwritten)?,
        }
        self.placed = true;
        Ok(())
    }
}

fn is_over() -> object_store::Error {
    unwritten(HdfsError::OperationFailed("the upload is over already".to_string()))
}

/// The folder for files on their way to `location`, without the leading slash.
fn staging(root: &str, location: &Path) -> String {
    let below = location.as_ref().strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
    match below.and_then(|below| below.split_once('/')) {
        Some((first, _)) => format!("{root}/{first}/{STAGING}"),
        None => format!("{root}/{STAGING}"),
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let writer = self.writer.take();
        if self.placed {
            return;
        }
        let (inner, path) = (Arc::clone(&self.inner), std::mem::take(&mut self.path));
        let at_work = inner.at_work.subscribe();
        if let Ok(runtime) = &*RUNTIME {
            runtime.spawn(async move {
                tokio::join!(hang_up(writer), remove(&inner, &path));
                drop(at_work);
            });
        }
    }
}

/// A writer that is merely dropped in the middle of a block keeps its connection to the datanodes, and a thread of each of them, for ever.
async fn hang_up(writer: Option<FileWriter>) {
    if let Some(mut writer) = writer {
        // Whatever comes of it: the file goes.
        drop(within(STEP_TIMEOUT, writer.close()).await);
    }
}

async fn remove(inner: &Inner, path: &str) {
    for left in (0..REMOVALS_MAX).rev() {
        let namenode = inner.namenode();
        match namenode.answer(namenode.client.delete(path, false)).await {
            Ok(_) => return,
            Err(_) if left > 0 => tokio::time::sleep(REMOVAL_PAUSE).await,
            Err(error) => tracing::warn!(stage = path, %error, "staged file stays until a later start sweeps it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_staged_in_the_first_folder_below_the_destinations() {
        let cases = [
            ("data/prod/access/dt=2025-11-21/hr=09/x.gz", "data/prod/access/.siltstone-staging"),
            ("data/prod/_siltstone/receipts/v1/t/00000/1.json", "data/prod/_siltstone/.siltstone-staging"),
            ("data/prod/x.gz", "data/prod/.siltstone-staging"),
        ];
        for (location, folder) in cases {
            assert_eq!(staging("data/prod", &Path::from(location)), folder);
        }
    }
}
