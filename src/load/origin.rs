//! Where the folders of a loader come from: an output of an archive at a destination, and what it is to engines.

use super::objects::{Objects, objects_of};
use super::table::{Sources, is_of_one_topic, table_of};
use super::{LoadFailure, Report};
use crate::bucket::Bucket;
use crate::bucket::completions::Completed;
use crate::bucket::loads::TableOwner;
use crate::clock::Clock;
use crate::ddl::{Store, Table};
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::layout::{Layout, OutputLayout};
use crate::pipeline::start::patiently;
use crate::registry::Registry;
use std::sync::Arc;

/// See the module.
pub struct Origin {
    /// The archive's layout.
    pub layout: Layout,
    /// The output.
    pub output: OutputLayout,
    /// All topics that the archive can have; empty where it takes some by pattern.
    pub topics: Vec<String>,
    /// The destination.
    pub store: Store,
    /// The name of the markers in complete folders.
    pub marker: String,
    /// The archive's bucket.
    pub bucket: Bucket,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where schemas are asked for.
    pub registry: Option<Arc<Registry>>,
}

impl Origin {
    /// The objects of a revision.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`LoadFailure::Passed`]: none of them is of this output's format. Refused: some are not.
    pub async fn objects(&self, completed: &Completed) -> Result<Objects, LoadFailure> {
        let objects = objects_of(&self.bucket, &*self.clock, completed).await.map_err(of_store)?;
        let extension = self.output.place.extension(&self.output.format);
        let others: Vec<&String> = match extension.as_str() {
            "" => Vec::new(),
            extension => objects.keys.iter().filter(|key| !key.ends_with(&format!(".{extension}"))).collect(),
        };
        match others.first() {
            None => Ok(objects),
            Some(other) if others.len() == objects.keys.len() && objects.compacted.is_empty() => {
                let what = format!("its objects, such as {other}, are no .{extension}: another layout wrote them");
                Err(LoadFailure::Passed(what))
            }
            Some(other) => Err(refused(format!(
                "{} of its {} objects, such as {other}, are no .{extension}, and a table has one format: another layout wrote them, or siltstone compact made \
                 them Parquet (--undo takes that back)",
                others.len(),
                objects.keys.len()
            ))),
        }
    }

    /// What the output is to engines.
    ///
    /// # Errors
    /// A store or the registry does not answer. Refused: it can be no table, or nothing tells its columns yet.
    pub async fn table(&self, completed: &Completed, objects: &Objects) -> Result<Table, LoadFailure> {
        let sources = Sources {
            bucket: &self.bucket,
            clock: &*self.clock,
            registry: self.registry.as_ref(),
            targets: &objects.targets,
            marker: &self.marker,
        };
        let topic = &completed.topic;
        let table = table_of(&self.layout, &self.output, topic, &self.topics, &self.store, &sources).await;
        table.map_err(of_store)?.map_err(refused)
    }

    /// Sees to it that the table with that full name is of these folders alone (L-5). `of_topic`: of one topic also where the path keeps none apart.
    ///
    /// # Errors
    /// A store that refuses or does not answer. Refused: it is another's.
    pub async fn own(
        &self,
        loader: &str,
        table: &str,
        completed: &Completed,
        of_topic: bool,
    ) -> Result<(), LoadFailure> {
        let place = &self.output.place;
        let is_of_one = of_topic || is_of_one_topic(&place.path);
        let owner = TableOwner {
            version: 1,
            table: table.to_string(),
            loader: loader.to_string(),
            archive: completed.archive.clone(),
            topic: if is_of_one { completed.topic.clone() } else { String::new() },
            output: completed.id.output.clone(),
            destination: completed.id.destination.clone(),
            generation: completed.generation,
            path: format!("{} in {}", place.path, place.zone),
        };
        let what = format!("make {table} the table of topic {}", completed.topic);
        let found = patiently(&*self.clock, &what, || self.bucket.own_table(&owner)).await.map_err(of_store)?;
        match found {
            None => Ok(()),
            Some((other, key)) => Err(refused(format!(
                "the table {table} is that of {other}, and these folders are of {owner}: each would take away rows of the other. Give the loader another `table`, which is \
                 then filled with all of it; or delete {key} if the table holds nothing else"
            ))),
        }
    }
}

/// A report that says where it is.
pub(super) fn report(into: String) -> Report {
    Report { into, ..Report::default() }
}

pub(super) fn refused(message: String) -> LoadFailure {
    LoadFailure::Failed { message, verdict: Verdict::Refused }
}

pub(super) fn of_store(failure: Failure) -> LoadFailure {
    let verdict = if failure.exit == Exit::Unreachable { Verdict::Retry } else { Verdict::Refused };
    LoadFailure::Failed { message: failure.message, verdict }
}
