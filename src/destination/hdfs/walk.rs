//! Listings in the order of keys.
//!
//! The namenode lists one folder at a time, by the names in it. The order of whole keys is another one: `a-b` comes before `a/x`,
//! since `-` comes before `/`. So each folder counts as its name with a slash behind it.

use super::namenode::{Namenode, Namenodes};
use super::{STAGE_PREFIX, meta, stored};
use hdfs_native::HdfsError;
use hdfs_native::client::FileStatus;
use object_store::path::Path;
use object_store::{ObjectMeta, Result};
use std::sync::Arc;

/// Everything below a folder, folder by folder: memory holds the entries of one from each level.
pub(super) struct Walk {
    namenodes: Arc<Namenodes>,
    at: Path,
    begin: Option<String>,
    /// Only keys behind it.
    offset: Option<String>,
    open: Vec<std::vec::IntoIter<FileStatus>>,
}

impl Walk {
    pub(super) fn new(namenodes: &Arc<Namenodes>, folder: Option<&Path>, offset: Option<&Path>) -> Self {
        let at = folder.cloned().unwrap_or_default();
        Self {
            namenodes: Arc::clone(namenodes),
            begin: Some(format!("/{at}")),
            at,
            offset: offset.map(|offset| offset.as_ref().to_string()),
            open: Vec::new(),
        }
    }

    /// The next file. After an error nothing follows.
    pub(super) async fn next(&mut self) -> Option<Result<ObjectMeta>> {
        if let Some(begin) = self.begin.take()
            && let Err(error) = self.enter(&begin).await
        {
            return Some(Err(self.failed(error)));
        }
        loop {
            let entry = match self.open.last_mut()?.next() {
                Some(entry) => entry,
                None => {
                    self.open.pop();
                    continue;
                }
            };
            let offset = self.offset.as_deref();
            if entry.isdir {
                if !offset.is_some_and(|offset| is_behind_folder(offset, key(&entry)))
                    && let Err(error) = self.enter(&entry.path).await
                {
                    return Some(Err(self.failed(error)));
                }
            } else if offset.is_none_or(|offset| key(&entry) > offset) {
                return Some(meta(&entry));
            }
        }
    }

    async fn enter(&mut self, folder: &str) -> hdfs_native::Result<()> {
        let entries = shown(entries(&self.namenodes.now(), folder).await?);
        self.open.push(entries.into_iter());
        Ok(())
    }

    fn failed(&mut self, error: HdfsError) -> object_store::Error {
        self.open.clear();
        stored(error, &self.at)
    }
}

/// What lies in `folder`; nothing where it is not there, or is a file.
pub(super) async fn entries(namenode: &Namenode, folder: &str) -> hdfs_native::Result<Vec<FileStatus>> {
    let listing = namenode.client.list_status_iter(folder, false);
    let mut found = Vec::new();
    loop {
        let next = namenode.answer(async { listing.next().await.transpose() }).await;
        match next {
            // Of a file the namenode lists the file itself.
            Ok(Some(entry)) if entry.path.trim_end_matches('/') == folder.trim_end_matches('/') => {}
            Ok(Some(entry)) => found.push(entry),
            Ok(None) => return Ok(found),
            Err(HdfsError::FileNotFound(_)) => return Ok(Vec::new()),
            Err(HdfsError::RPCError(class, _)) if class == "java.io.FileNotFoundException" => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

/// Without files on their way and the folders of such, in the order of keys.
pub(super) fn shown(mut entries: Vec<FileStatus>) -> Vec<FileStatus> {
    entries.retain(|entry| !name(entry).starts_with(STAGE_PREFIX));
    entries.sort_by_cached_key(|entry| {
        let end = if entry.isdir { "/" } else { "" };
        format!("{}{end}", name(entry))
    });
    entries
}

fn key(entry: &FileStatus) -> &str {
    entry.path.trim_start_matches('/')
}

fn name(entry: &FileStatus) -> &str {
    entry.path.rsplit('/').next().unwrap_or_default()
}

/// Whether no key in `folder` comes behind `offset`.
fn is_behind_folder(offset: &str, folder: &str) -> bool {
    match offset.strip_prefix(folder) {
        // In it; or behind it where its rest begins with what comes behind a slash.
        Some(rest) => !rest.starts_with('/') && rest > "/",
        None => offset > folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, isdir: bool) -> FileStatus {
        FileStatus {
            path: path.to_string(),
            length: 0,
            isdir,
            permission: 0,
            owner: String::new(),
            group: String::new(),
            modification_time: 0,
            access_time: 0,
            replication: None,
            blocksize: None,
        }
    }

    #[test]
    fn a_folder_stands_where_its_keys_do() {
        let entries = vec![
            entry("/p/.siltstone-staging", true),
            entry("/p/a", true),
            entry("/p/a-b", false),
            entry("/p/a.b", true),
            entry("/p/a0", false),
            entry("/p/Z", false),
        ];
        let order: Vec<_> = shown(entries).into_iter().map(|entry| entry.path).collect();
        // `-` < `.` < `/` < `0`
        assert_eq!(order, ["/p/Z", "/p/a-b", "/p/a.b", "/p/a", "/p/a0"]);
    }

    /// Goal: what is skipped is exactly what holds no key behind the offset. Method: against the keys themselves.
    #[test]
    fn only_folders_before_the_offset_are_skipped() {
        let offsets = ["p/a", "p/a/", "p/a/x", "p/a-b", "p/a0", "p/b/x", "p", "p/A", "p/a/x/y", "q"];
        let folders = ["p/a", "p/a-b", "p/a0", "p/b", "p"];
        for offset in offsets {
            for folder in folders {
                let some_behind =
                    ["!", "~~~~", "\u{10ffff}"].iter().any(|name| format!("{folder}/{name}").as_str() > offset);
                assert_eq!(is_behind_folder(offset, folder), !some_behind, "{offset} {folder}");
            }
        }
    }
}
