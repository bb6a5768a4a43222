//! `siltstone ddl`: outputs as tables of other engines.
//!
//! The layout tells almost all of it. A schema that was inferred is read from the bucket, where it is pinned; of one in the registry the receipts in
//! the bucket tell which it is.

use crate::bucket::Bucket;
use crate::cli::{DdlArgs, DdlDialect};
use crate::clock::SystemClock;
use crate::config::{ArchiveConfig, Config};
use crate::ddl::{self, Beside, Dialect, Source, Store, Table};
use crate::decode::columns::{columns_of_avro, columns_of_message};
use crate::decode::message_of;
use crate::exit::{Exit, Failure};
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::{Column, Decode, OutputFormat, OutputLayout, SchemaSource};
use crate::ledger::{self, Destinations};
use crate::pipeline::start::{open_destinations, open_registry, patiently};
use crate::record::TopicPartition;
use crate::registry::{Schema, Target};
use chrono::NaiveDate;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

/// The first day that a projection covers where none is given.
const SINCE: (i32, u32, u32) = (2020, 1, 1);

/// Writes a statement for each output that is meant to `out`. What the engine cannot read is said in a comment, where something else is there
/// that it can.
///
/// # Errors
/// Nothing that is meant can be a table, in words; a store or the registry refuses or does not answer.
pub async fn ddl(args: &DdlArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let outputs = meant(args, config)?;
    if args.table.is_some() && outputs.len() > 1 {
        let names: Vec<String> = outputs.iter().map(Meant::to_string).collect();
        return Err(wrong(format!(
            "--table names one table, and there are {}; choose with --archive, --output and --topic: {}",
            outputs.len(),
            names.join("; ")
        )));
    }
    if let Some(name) = args.table.as_ref().filter(|name| name.contains(char::is_control)) {
        return Err(wrong(format!(
            "--table {name:?} has characters in it that end lines or do other than to be shown"
        )));
    }
    if args.table.is_none() {
        check_names(&outputs)?;
    }
    let dialect = dialect(args.dialect);
    let lookup = Lookup::new(config, &outputs)?;
    let all: Vec<Beside<'_>> = config
        .archives
        .iter()
        .map(|archive| Beside {
            layout: &archive.layout,
            topics: known_topics(archive),
            marker: archive.complete.as_ref().map(|complete| complete.marker.as_str()),
        })
        .collect();
    let (mut statements, mut refused) = (Vec::new(), Vec::new());
    for one in &outputs {
        let made = match reached(dialect, one.output) {
            Ok(url) => {
                let columns = lookup.columns(one).await?;
                columns.and_then(|columns| statement(args, config, one, columns.as_deref(), url, &all))
            }
            Err(why) => Err(why),
        };
        match made {
            Ok(statement) => statements.push(statement),
            Err(why) => {
                refused.push(format!("{one}: {why}"));
                let comment: String = format!("-- {one}: no table: {why}")
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                statements.push(format!("{comment}\n"));
            }
        }
    }
    if refused.len() == outputs.len() {
        return Err(wrong(refused.join("\nsiltstone: ddl: ")));
    }
    let written = out.write_all(statements.join("\n").as_bytes());
    written.map_err(|error| Failure::new(Exit::Failed, format!("write to standard output: {error}")))?;
    Ok(Exit::Done)
}

fn wrong(what: String) -> Failure {
    Failure::new(Exit::Config, format!("ddl: {what}"))
}

fn dialect(dialect: DdlDialect) -> Dialect {
    match dialect {
        DdlDialect::Hive => Dialect::Hive,
        DdlDialect::Athena => Dialect::Athena,
        DdlDialect::BigQuery => Dialect::BigQuery,
        DdlDialect::Spark => Dialect::Spark,
        DdlDialect::DuckDb => Dialect::DuckDb,
        DdlDialect::ClickHouse => Dialect::ClickHouse,
    }
}

/// An output that is to be a table, perhaps of one topic.
struct Meant<'c> {
    archive: &'c ArchiveConfig,
    output: &'c OutputLayout,
    topic: Option<&'c str>,
    /// The topic was asked for.
    one_topic: bool,
}

impl std::fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "archive {}, output {}", self.archive.name, self.output.name)?;
        self.topic.map_or(Ok(()), |topic| write!(f, ", topic {topic}"))
    }
}

/// The outputs that are meant, once for each topic where the path has the topic in front of what changes.
fn meant<'c>(args: &'c DdlArgs, config: &'c Config) -> Result<Vec<Meant<'c>>, Failure> {
    let mut meant = Vec::new();
    for archive in &config.archives {
        let owner = args.topic.as_deref().map(|topic| config.archives.iter().find(|other| other.topics.matches(topic)));
        let is_other = owner.is_some_and(|owner| owner.is_none_or(|owner| owner.name != archive.name));
        if is_other || args.archive.as_ref().is_some_and(|name| *name != archive.name) {
            continue;
        }
        for output in &archive.layout.outputs {
            if args.output.as_ref().is_some_and(|name| *name != output.name) {
                continue;
            }
            let topics: Vec<Option<&str>> = match &args.topic {
                Some(topic) => vec![Some(topic)],
                None if is_of_one_topic(&output.place.path) && !archive.topics.names.is_empty() => {
                    archive.topics.names.iter().map(|name| Some(name.as_str())).collect()
                }
                None => vec![None],
            };
            let one_topic = args.topic.is_some();
            meant.extend(topics.into_iter().map(|topic| Meant { archive, output, topic, one_topic }));
        }
    }
    if meant.is_empty() {
        let outputs = config.archives.iter().flat_map(|archive| {
            archive.layout.outputs.iter().map(|output| format!("output {} of archive {}", output.name, archive.name))
        });
        let there: Vec<String> = outputs.collect();
        return Err(wrong(format!("no output is meant; there are {}", there.join(", "))));
    }
    Ok(meant)
}

/// Whether the path has a topic that is no `name=value`.
fn is_of_one_topic(path: &str) -> bool {
    let Ok(template) = Template::parse(path, TemplateKind::Path) else { return false };
    let is_bare = |pieces: &Vec<Piece>| {
        let is_keyed = matches!(pieces.first(), Some(Piece::Text(text)) if text.find('=').is_some_and(|at| at > 0));
        !is_keyed && pieces.iter().any(|piece| matches!(piece, Piece::Topic | Piece::TopicWord(_)))
    };
    template.segments.iter().any(is_bare)
}

/// All topics that the archive can have; empty where it takes some by pattern.
fn known_topics(archive: &ArchiveConfig) -> &[String] {
    if archive.topics.patterns.is_empty() { &archive.topics.names } else { &[] }
}

/// The first destination of `output` that the dialect's engine can read.
fn reached(dialect: Dialect, output: &OutputLayout) -> Result<&str, String> {
    let mut why = String::new();
    for url in &output.place.destinations {
        match ddl::reaches(dialect, url) {
            Ok(()) => return Ok(url),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

fn statement(
    args: &DdlArgs,
    config: &Config,
    meant: &Meant<'_>,
    columns: Option<&[Column]>,
    url: &str,
    all: &[Beside<'_>],
) -> Result<String, String> {
    let (archive, output) = (meant.archive, meant.output);
    let section = config.destinations.values().find(|section| section.url == url);
    let option = |name: &str| Some(section?.options.get(name)?.reveal().to_string());
    let (year, month, day) = SINCE;
    let topics = known_topics(archive);
    let source = Source {
        layout: &archive.layout,
        output,
        topic: meant.topic,
        topics,
        one_topic: meant.one_topic,
        columns,
        store: Store::new(url, option),
        name: args.table.clone().unwrap_or_else(|| table_name(meant)),
        since: args.since.or(NaiveDate::from_ymd_opt(year, month, day)).unwrap_or_default(),
        all,
    };
    let mut table = Table::new(&source)?;
    if meant.topic.is_some() && !meant.one_topic && !archive.topics.patterns.is_empty() {
        table.notes.push("Topics that the archive takes by pattern have tables of their own: --topic.".to_string());
    }
    ddl::statement(dialect(args.dialect), &table)
}

/// Refuses two tables of one name: the second would be the first one again, as it is there already, or in its place.
fn check_names(outputs: &[Meant<'_>]) -> Result<(), Failure> {
    let mut named: BTreeMap<String, &Meant<'_>> = BTreeMap::new();
    for one in outputs {
        if let Some(other) = named.insert(table_name(one), one) {
            return Err(wrong(format!(
                "{other} and {one} would both be called {}: ask for each alone (--archive, --output, --topic) and name it with --table",
                table_name(one)
            )));
        }
    }
    Ok(())
}

/// `access`, `access_parquet`: the topic or archive, and the output where there are several.
fn table_name(meant: &Meant<'_>) -> String {
    let first = meant.topic.unwrap_or(&meant.archive.name);
    let whole = match meant.archive.layout.outputs.len() {
        1 => first.to_string(),
        _ => format!("{first}_{}", meant.output.name),
    };
    let mut name: String =
        whole.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit() || c == '_') {
        name.insert_str(0, "t_");
    }
    name
}

/// Finds columns that no layout tells.
struct Lookup<'c> {
    config: &'c Config,
    /// Opened only where somebody has to be asked.
    destinations: Destinations,
    clock: SystemClock,
}

impl<'c> Lookup<'c> {
    fn new(config: &'c Config, outputs: &[Meant<'_>]) -> Result<Self, Failure> {
        let asks = |output: &OutputLayout| {
            matches!(output.format.schema(), Some(SchemaSource::Infer | SchemaSource::Registry))
        };
        let needed = outputs.iter().any(|meant| match &meant.output.format {
            OutputFormat::Json { .. } => meant.archive.layout.outputs.iter().any(asks),
            _ => asks(meant.output),
        });
        let destinations = if needed { open_destinations(config)? } else { Destinations::new() };
        Ok(Self { config, destinations, clock: SystemClock::new() })
    }

    /// The columns of an output, where its layout does not name them; of JSON lines what is known of their fields. The inner error: they are
    /// not known yet.
    async fn columns(&self, meant: &Meant<'_>) -> Result<Result<Option<Vec<Column>>, String>, Failure> {
        match &meant.output.format {
            OutputFormat::Json { .. } => Ok(Ok(self.of_json(meant).await?)),
            format if matches!(format.schema(), None | Some(SchemaSource::Columns(_))) => Ok(Ok(None)),
            _ => Ok(self.of_files(meant, meant.output).await?.map(Some)),
        }
    }

    async fn of_files(&self, meant: &Meant<'_>, output: &OutputLayout) -> Result<Result<Vec<Column>, String>, Failure> {
        match output.format.schema() {
            Some(SchemaSource::Columns(columns)) => Ok(Ok(columns.clone())),
            Some(SchemaSource::Infer) => self.pinned(meant.archive, output).await,
            Some(SchemaSource::Registry) => self.registered(meant).await,
            None => Ok(Err("it has no schema".to_string())),
        }
    }

    /// The schema of another output of the archive, or of the payloads themselves.
    async fn of_json(&self, meant: &Meant<'_>) -> Result<Option<Vec<Column>>, Failure> {
        let layout = &meant.archive.layout;
        for output in layout.outputs.iter().filter(|output| output.format.schema().is_some()) {
            if let Ok(columns) = self.of_files(meant, output).await? {
                return Ok(Some(columns));
            }
        }
        // A program makes other rows of them.
        if layout.transform.is_some() {
            return Ok(None);
        }
        Ok(match &layout.decode {
            Decode::Avro { schema } => columns_of_avro(schema).ok(),
            Decode::Protobuf { descriptors, message, .. } => {
                message_of(descriptors, message).and_then(|message| columns_of_message(&message)).ok()
            }
            _ => None,
        })
    }

    /// The inferred schema, as it is pinned in the bucket.
    async fn pinned(
        &self,
        archive: &ArchiveConfig,
        output: &OutputLayout,
    ) -> Result<Result<Vec<Column>, String>, Failure> {
        let home = &archive.layout.outputs[0].place.destinations[0];
        let Some(destination) = self.destinations.get(home) else {
            return Ok(Err(format!("no destination has the URL {home}")));
        };
        let bucket = Bucket::new(destination.clone());
        let what = format!("the schema of output {} of archive {}", output.name, archive.name);
        let found = patiently(&self.clock, &what, || bucket.get_schema(&archive.name, &output.name, 1)).await?;
        Ok(found.ok_or_else(|| {
            format!(
                "its schema is inferred from the first records, and {home} has none yet: it is pinned there when `siltstone run` has read some"
            )
        }))
    }

    /// The newest schema of the registry that the last batches were projected onto.
    async fn registered(&self, meant: &Meant<'_>) -> Result<Result<Vec<Column>, String>, Failure> {
        let archive = meant.archive;
        let Some(format) = archive.layout.decode.registry_format() else {
            return Ok(Err("its schema is in the registry, which the archive does not decode by".to_string()));
        };
        let Some(registry) = open_registry(self.config)? else {
            return Ok(Err("its schema is in the registry, and there is no section [registry]".to_string()));
        };
        let takes = |partition: &TopicPartition| meant.topic.is_none_or(|topic| topic == &*partition.topic);
        let sites = ledger::sites(self.config, &self.destinations, &self.clock, Some(&archive.name), takes).await?;
        let mut targets = BTreeSet::new();
        for site in &sites {
            for partition in &site.partitions {
                let what = format!("{partition}: the last receipt");
                let mut last = patiently(&self.clock, &what, || site.bucket.highest(partition)).await?;
                if let Some(first) = last.as_ref().filter(|entry| entry.receipt.is_none()).map(|entry| entry.first) {
                    last = patiently(&self.clock, &what, || site.bucket.last_below(partition, first)).await?;
                }
                targets.extend(last.and_then(|entry| entry.receipt).and_then(|receipt| receipt.target));
            }
        }
        let mut newest: Option<(Target, Arc<Schema>)> = None;
        for text in &targets {
            let Ok(target) = text.parse::<Target>() else { continue };
            let what = format!("schema {text} of the registry");
            let Some(schema) = patiently(&self.clock, &what, || registry.schema_or_ask(target.id, format)).await?
            else {
                return Ok(Err(format!(
                    "the registry has schema {text} no more, which its last batches were written with"
                )));
            };
            if newest.as_ref().is_none_or(|(_, known)| schema.is_newer_than(known)) {
                newest = Some((target, schema));
            }
        }
        Ok(match newest {
            Some((target, schema)) => schema.columns(&target),
            None => Err(
                "its schema is the one of the registry that rows are projected onto, and no receipt in the bucket names one yet: they do when \
                 `siltstone run` has archived something"
                    .to_string(),
            ),
        })
    }
}

#[cfg(test)]
mod tests;
