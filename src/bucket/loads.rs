//! Which revisions of complete folders were loaded, by which loader: what makes a retry cheap, and an audit possible.
//!
//! ```text
//! _siltstone/load/v1/{loader}/{topic}/<digest of the folder, as in completions>/{revision:06}.json   created only if absent
//! _siltstone/load/tables/<digest of the table's full name>.json                                      the same: whose folders it has
//! ```
//! - **K-14** A table is of the same folders for good ([`TableOwner`]): neither do two topics whose names are one name over there (`a.b`, `a-b`) replace each
//!   other's rows, nor the folders of another path, destination or generation those of the same hour.
//! - **K-13** A document is created once its revision was loaded, and after the newest revision was looked for again: so the newest document of a folder
//!   tells what its table has at least. Without a document a folder is loaded again, which changes nothing there.
//!
//! # The document, version 1
//! ```json
//! {
//!   "version": 1, "loader": "warehouse", "archive": "access", "generation": 1, "topic": "access", "output": "json", "destination": "gs://logs/prod",
//!   "folder": "access/dt=2025-11-21/hr=03", "revision": 1, "rows": 98123, "loaded_rows": 98123, "into": "p.d.access$2025112103", "by": "siltstone_…_1",
//!   "loaded_ms": 1763697700000
//! }
//! ```
//! `rows`: what the revision says; `loaded_rows`: what the other side counted, where it does.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::bucket::completions::Completed;
use crate::complete::tally::FolderId;
use crate::effect::Effect;
use crate::upload::hex;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// Version of the stored form of [`Loaded`].
pub const LOADED_VERSION: u32 = 1;

/// A revision of a folder that was loaded. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// [`LOADED_VERSION`] of the writer.
    pub version: u32,
    /// Name of the loader.
    pub loader: String,
    /// Name of the archive.
    pub archive: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Topic.
    pub topic: String,
    /// Which folder.
    #[serde(flatten)]
    pub id: FolderId,
    /// Its revision.
    pub revision: u32,
    /// Rows of the revision.
    pub rows: u64,
    /// Rows as the other side counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_rows: Option<u64>,
    /// Where it was loaded into, in the other side's words; empty where it was passed over.
    pub into: String,
    /// Why it was passed over, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<String>,
    /// What did it, in the other side's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Wall time, milliseconds UTC.
    pub loaded_ms: i64,
}

/// Whose folders a table has (K-14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOwner {
    /// 1.
    pub version: u32,
    /// The table, in full.
    pub table: String,
    /// The id of the loader.
    pub loader: String,
    /// Archive.
    pub archive: String,
    /// Topic; empty where the table is of all of them.
    pub topic: String,
    /// Output.
    pub output: String,
    /// Destination.
    pub destination: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Template of the path, and the zone.
    pub path: String,
}

impl fmt::Display for TableOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loader, archive, topic, output, destination, generation, path, .. } = self;
        let topic = if topic.is_empty() { String::new() } else { format!(", topic {topic}") };
        write!(
            f,
            "archive {archive} (generation {generation}){topic}, output {output} at {destination} with path {path}, by the loader {loader}"
        )
    }
}

/// The folder of a loader's documents of a topic. The loader comes first: a topic may be called like anything.
fn topic_folder(loader: &str, topic: &str, generation: u32) -> String {
    let inside = if generation > 1 { format!("/g{generation}") } else { String::new() };
    format!("{CONTROL_FOLDER}/load/v1/{loader}/{topic}{inside}")
}

/// Digest and revision of a document. Whatever else lies there is of another generation, or no revision.
fn named(rest: &str) -> Option<(u128, u32)> {
    let mut parts = rest.trim_start_matches('/').rsplit('/');
    let revision = parts.next()?.strip_suffix(".json")?.parse().ok()?;
    let digest = match parts.next() {
        None => 0,
        Some(digest) if digest.len() == 32 && parts.next().is_none() => u128::from_str_radix(digest, 16).ok()?,
        Some(_) => return None,
    };
    Some((digest, revision))
}

/// Newest revisions, by the first 16 bytes of a folder's digest as a number.
pub type Newest = BTreeMap<u128, u32>;

impl Bucket {
    /// The newest revision of a folder that `loader` has loaded; 0 where there is none.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn newest_loaded(&self, loader: &str, topic: &str, id: &FolderId) -> Result<u32, BucketError> {
        let folder = format!("{}/{}", topic_folder(loader, topic, self.generation), id.digest());
        Ok(self.newest_below(&folder).await?.into_values().max().unwrap_or(0))
    }

    /// Of every folder of a topic that `loader` has loaded: the newest revision. One listing.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn all_loaded(&self, loader: &str, topic: &str) -> Result<Newest, BucketError> {
        self.newest_below(&topic_folder(loader, topic, self.generation)).await
    }

    /// The newest revisions among the documents `<digest>/<revision>.json` in `folder`; of `<revision>.json` the digest is 0.
    pub(super) async fn newest_below(&self, folder: &str) -> Result<Newest, BucketError> {
        let path = self.destination.path(folder)?;
        let mut objects = self.destination.store().list(Some(&path));
        let mut newest = Newest::new();
        while let Some(object) = objects.try_next().await.map_err(|error| self.store_error("list", folder, &error))? {
            let Some((digest, revision)) = object.location.as_ref().strip_prefix(path.as_ref()).and_then(named) else {
                continue;
            };
            let known: &mut u32 = newest.entry(digest).or_default();
            *known = revision.max(*known);
        }
        Ok(newest)
    }

    /// Creates the document that `loaded` says. That it is there already is as good.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put_loaded(&self, loaded: &Loaded) -> Result<(), BucketError> {
        let Loaded { loader, topic, id, revision, .. } = loaded;
        let key = format!("{}/{}/{revision:06}.json", topic_folder(loader, topic, self.generation), id.digest());
        match self.create(Effect::LoadedPut, &key, to_json(loaded)).await? {
            Created::Now | Created::Found(_) => Ok(()),
        }
    }

    /// Makes a table the one of `owner`, if it is nobody's yet. Whose it is and the document that says so, where it is another's (K-14).
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn own_table(&self, owner: &TableOwner) -> Result<Option<(TableOwner, String)>, BucketError> {
        let digest = hex(&Sha256::digest(owner.table.as_bytes()));
        let key = format!("{CONTROL_FOLDER}/load/tables/{}.json", &digest[..32]);
        let Created::Found(stored) = self.create(Effect::LoadedPut, &key, to_json(owner)).await? else {
            return Ok(None);
        };
        let found: TableOwner = self.parse(&key, &stored.bytes, 1)?;
        Ok((found != *owner).then_some((found, key)))
    }

    /// What was loaded of a folder at `revision`; `None` where nothing says so.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn loaded(
        &self,
        loader: &str,
        topic: &str,
        id: &FolderId,
        revision: u32,
    ) -> Result<Option<Loaded>, BucketError> {
        let key = format!("{}/{}/{revision:06}.json", topic_folder(loader, topic, self.generation), id.digest());
        let bytes = self.get(&key).await?;
        bytes.map(|bytes| self.parse(&key, &bytes, LOADED_VERSION)).transpose()
    }
}

impl Loaded {
    /// That `completed` was loaded.
    pub fn of(completed: &Completed, loader: &str, loaded_ms: i64) -> Self {
        let Completed { archive, generation, topic, id, revision, rows, .. } = completed.clone();
        let (into, by) = (String::new(), String::new());
        let version = LOADED_VERSION;
        let loader = loader.to_string();
        Self {
            version,
            loader,
            archive,
            generation,
            topic,
            id,
            revision,
            rows,
            loaded_rows: None,
            into,
            passed: None,
            by,
            loaded_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: of all that lies in a topic's folder revisions of this generation alone count.
    #[test]
    fn revisions_are_told_from_what_lies_beside_them() {
        let digest = "0123456789abcdef0123456789abcdef";
        let number = u128::from_str_radix(digest, 16).expect("hex");
        assert_eq!(named(&format!("/{digest}/000007.json")), Some((number, 7)));
        assert_eq!(named("/000012.json"), Some((0, 12)));
        for other in [
            format!("/g2/{digest}/000001.json"),
            "/progress.json".into(),
            format!("/{digest}/x.json"),
            "/g2/000001.json".into(),
        ] {
            assert_eq!(named(&other), None, "{other}");
        }
    }
}
