//! What is in the bucket: folders listed side by side, each object crossed off in the table or, if it has one of the archive's
//! names, handed over as a stranger.
//!
//! Memory: one page of each of [`LISTINGS_MAX`] listings, and [`STRANGERS_MAX`] strangers.

use super::Counters;
use super::layouts::Names;
use super::table::{Seen, Table, digest};
use crate::bucket::CONTROL_FOLDER;
use crate::destination::Destination;
use crate::destination::fault::{Fault, Verdict};
use crate::exit::{Exit, Failure};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Folders listed side by side.
const LISTINGS_MAX: usize = 16;
/// With so many folders there is enough to do side by side: none is split up further.
const FOLDERS_ENOUGH: usize = 64;
/// Strangers that wait to be looked into.
pub(super) const STRANGERS_MAX: usize = 1_024;

/// A folder to list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Folder {
    /// Index of the destination.
    pub(super) destination: usize,
    /// Without slashes at its ends; empty: all of the destination.
    pub(super) name: String,
    /// Levels of folders below it in which no object lies: it may be split up so far.
    pub(super) depth: usize,
    /// Only what lies directly in it counts.
    pub(super) flat: bool,
}

/// An object that nobody is known to name, and that bears one of the names that are verified.
#[derive(Debug)]
pub(super) struct Stranger {
    /// Index of the archive.
    pub(super) archive: usize,
    pub(super) output: String,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) first: i64,
    pub(super) end: Option<i64>,
    pub(super) replay: Option<u32>,
    pub(super) compaction: Option<u32>,
    /// Index of the destination.
    pub(super) destination: usize,
    pub(super) key: String,
    pub(super) bytes: u64,
}

/// The names of one output at some destinations.
pub(super) struct Known {
    /// Index of the archive.
    pub(super) archive: usize,
    pub(super) names: Names,
    /// Indexes of the destinations that it lies at.
    pub(super) destinations: Vec<usize>,
    /// Topics by how they stand in keys.
    pub(super) topics: HashMap<String, Arc<str>>,
    /// The topic, where keys tell none.
    pub(super) only: Option<Arc<str>>,
    /// Kafka partitions that are meant; empty: all.
    pub(super) partitions: Vec<i32>,
}

/// Decides what each listed object is.
pub(super) struct Judge {
    pub(super) table: Arc<Table>,
    pub(super) destinations: Arc<Vec<Arc<Destination>>>,
    pub(super) known: Arc<Vec<Known>>,
    pub(super) counters: Arc<Counters>,
    pub(super) strangers: mpsc::Sender<Stranger>,
}

impl Judge {
    async fn object(&self, folder: &Folder, object: &ObjectMeta) {
        let destination = &self.destinations[folder.destination];
        let Some(key) = destination.key_of(&object.location) else { return };
        let parent = key.rsplit_once('/').map_or("", |(parent, _)| parent);
        if is_control(&key) || (folder.flat && parent != folder.name) {
            return;
        }
        match self.table.cross_off(digest(destination.id(), &key), object.size) {
            Seen::OtherPass => return,
            Seen::Named => {}
            Seen::Unnamed => match self.stranger(folder.destination, &key, object.size) {
                // An error: nobody wants to know any more, and the listing ends soon.
                Some(stranger) => drop(self.strangers.send(stranger).await),
                None => drop(self.counters.others.fetch_add(1, Ordering::Relaxed)),
            },
        }
        self.counters.listed.fetch_add(1, Ordering::Relaxed);
    }

    fn stranger(&self, destination: usize, key: &str, bytes: u64) -> Option<Stranger> {
        self.known.iter().filter(|known| known.destinations.contains(&destination)).find_map(|known| {
            let told = known.names.recogniser.read(key)?;
            let topic = match told.topic {
                Some(text) => known.topics.get(text)?,
                None => known.only.as_ref()?,
            };
            let is_meant = known.partitions.is_empty() || known.partitions.contains(&told.partition);
            is_meant.then(|| Stranger {
                archive: known.archive,
                output: known.names.output.clone(),
                topic: topic.clone(),
                partition: told.partition,
                first: told.first,
                end: told.end,
                replay: told.replay,
                compaction: told.compaction,
                destination,
                key: key.to_string(),
                bytes,
            })
        })
    }
}

fn is_control(key: &str) -> bool {
    key.strip_prefix(CONTROL_FOLDER).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Removes folders that lie in others of the list.
pub(super) fn outermost(mut folders: Vec<Folder>) -> Vec<Folder> {
    folders.sort_unstable();
    let mut kept: BTreeMap<(usize, String), Folder> = BTreeMap::new();
    for folder in folders {
        // From the whole destination down to the folder itself.
        let above = std::iter::once("").chain(folder.name.match_indices('/').map(|(at, _)| &folder.name[..at]));
        if above
            .into_iter()
            .any(|above| above != folder.name && kept.contains_key(&(folder.destination, above.to_string())))
        {
            continue;
        }
        let place = (folder.destination, folder.name.clone());
        let known = kept.entry(place).or_insert_with(|| folder.clone());
        // Objects lie no deeper than the least says.
        known.depth = known.depth.min(folder.depth);
    }
    kept.into_values().collect()
}

/// Lists `folders`, which do not overlap, and hands every object to `judge`. Folders that tell how deep they are are split up while
/// there are few, so that there is work side by side.
///
/// # Errors
/// A store that refuses or does not answer.
pub(super) async fn list(judge: Arc<Judge>, mut folders: Vec<Folder>) -> Result<(), Failure> {
    while folders.len() < FOLDERS_ENOUGH && folders.iter().any(|folder| folder.depth > 0) {
        let (deep, mut next): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| folder.depth > 0);
        let split = deep.into_iter().map(|folder| split(&judge, folder));
        let mut split = stream::iter(split).buffer_unordered(LISTINGS_MAX);
        while let Some(below) = split.try_next().await? {
            next.extend(below);
        }
        folders = next;
    }
    let listings = folders.into_iter().map(|folder| super::read::spawned(list_folder(judge.clone(), folder)));
    stream::iter(listings).buffer_unordered(LISTINGS_MAX).try_collect::<()>().await
}

/// The folders in `folder`, each of them one level nearer to objects. What lies in it itself is judged.
async fn split(judge: &Judge, folder: Folder) -> Result<Vec<Folder>, Failure> {
    let destination = &judge.destinations[folder.destination];
    let path = path_of(destination, &folder.name)?;
    let listed = destination.store().list_with_delimiter(path.as_ref()).await;
    let listed = match listed {
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        listed => listed.map_err(|error| failure(destination, &folder.name, &error))?,
    };
    for object in &listed.objects {
        judge.object(&folder, object).await;
    }
    let names = listed.common_prefixes.iter().filter_map(|path| destination.key_of(path));
    let below = names.filter(|name| !is_control(name)).map(|name| Folder { name, depth: folder.depth - 1, ..folder });
    Ok(below.collect())
}

async fn list_folder(judge: Arc<Judge>, folder: Folder) -> Result<(), Failure> {
    let destination = judge.destinations[folder.destination].clone();
    let path = path_of(&destination, &folder.name)?;
    let mut objects = destination.store().list(path.as_ref());
    loop {
        match objects.try_next().await {
            Ok(Some(object)) => judge.object(&folder, &object).await,
            Ok(None) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(failure(&destination, &folder.name, &error)),
        }
    }
}

fn path_of(destination: &Destination, folder: &str) -> Result<Option<Path>, Failure> {
    if folder.is_empty() {
        let prefix = destination.prefix();
        return Ok((!prefix.is_root()).then(|| prefix.clone()));
    }
    destination.path(folder).map(Some).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))
}

fn failure(destination: &Destination, folder: &str, error: &Error) -> Failure {
    failed(&format!("list {}/{folder}", destination.id()), error)
}

/// What a store's error means for the process; `what` was tried.
pub(super) fn failed(what: &str, error: &Error) -> Failure {
    let fault = Fault::of(error);
    let exit = match fault.verdict() {
        Verdict::Retry => Exit::Unreachable,
        Verdict::Refused => Exit::Refused,
        Verdict::Stop => Exit::Stopped,
    };
    Failure::new(exit, format!("{what}: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(destination: usize, name: &str, depth: usize) -> Folder {
        Folder { destination, name: name.to_string(), depth, flat: false }
    }

    #[test]
    fn folders_in_others_are_left_out() {
        let folders = vec![
            folder(0, "a/b", 2),
            folder(0, "a", 3),
            folder(0, "a", 1),
            folder(0, "ab", 1),
            folder(0, "b/c/d", 1),
            folder(0, "b/c", 0),
            folder(1, "a/b", 2),
            folder(2, "", 4),
            folder(2, "x/y", 0),
        ];
        let expected =
            [folder(0, "a", 1), folder(0, "ab", 1), folder(0, "b/c", 0), folder(1, "a/b", 2), folder(2, "", 4)];
        assert_eq!(outermost(folders), expected);
    }

    #[test]
    fn control_documents_are_no_objects() {
        let keys = [("_siltstone", true), ("_siltstone/x", true), ("_siltstonex/x", false), ("a/_siltstone/x", false)];
        for (key, expected) in keys {
            assert_eq!(is_control(key), expected, "{key}");
        }
    }
}
