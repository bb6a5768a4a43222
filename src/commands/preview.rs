//! `siltstone preview`: what becomes of real records, without archiving any.
//!
//! The very code that `run` archives with takes each record, alone, into a batch that is thrown away.

use super::run::{Connected, connect};
use crate::cli::PreviewArgs;
use crate::config::{ArchiveConfig, Config};
use crate::decode::{self, Needs, Schemas};
use crate::exit::{Exit, Failure};
use crate::kafka::look;
use crate::layout::DeadLetterFormat;
use crate::parse::text::printable;
use crate::parse::timestamp::render_instant;
use crate::pipeline::archive::{Archive, Json};
use crate::pipeline::context::{Decided, Missing, schemas};
use crate::pipeline::open_batch::{OpenBatch, Opened, Workspace};
use crate::pipeline::sample::{Sampler, inferring};
use crate::pipeline::start::{chain, open_destinations, open_registry};
use crate::pipeline::unpack::{Scratch, Unpacked, What};
use crate::record::{OffsetRange, OwnedRecord, TopicPartition, offset_after};
use crate::spool::{Spool, process_number};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What became of one record.
#[derive(Debug, Serialize)]
struct Outcome {
    archive: String,
    topic: String,
    partition: i32,
    offset: i64,
    /// The payload, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The payload, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// The rows that it becomes, after the transform.
    rows: Vec<PreviewRow>,
    /// The objects that they land in.
    objects: Vec<PreviewObject>,
    /// Outputs that have no row of it, by the rule that dropped it.
    dropped: BTreeMap<String, String>,
    dead_letters: Vec<PreviewDeadLetter>,
}

#[derive(Debug, Serialize)]
struct PreviewRow {
    row: Box<RawValue>,
    /// RFC 3339; `None` where the row has none.
    event_time: Option<String>,
    /// The outputs that the transform names; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct PreviewObject {
    output: String,
    /// Its name, as if this record were all of it.
    key: String,
    rows: u64,
}

/// What a dead letter says beside its record.
#[derive(Debug, Serialize, Deserialize)]
struct PreviewDeadLetter {
    stage: String,
    reason: String,
    outputs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<u32>,
}

/// A record in a file of samples.
#[derive(Deserialize)]
struct Sample {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    timestamp: Option<i64>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
    value: Option<String>,
    value_base64: Option<String>,
}

/// Writes what becomes of records to `out`.
///
/// # Errors
/// Nothing can be read, or an archive does not compile.
pub async fn preview(args: &PreviewArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let records = match (&args.lines, &args.records) {
        (Some(path), _) => from_lines(path, args, config)?,
        (None, Some(path)) => from_file(path, args, config)?,
        (None, None) => from_kafka(args, config).await?,
    };
    let spool = TemporarySpool::new();
    let mut shown = 0;
    for archive in &config.archives {
        let of_archive =
            |record: &&OwnedRecord| owner(config, &record.topic).is_some_and(|owner| owner.name == archive.name);
        let records: Vec<&OwnedRecord> = records.iter().filter(of_archive).collect();
        if records.is_empty() {
            continue;
        }
        let mut preview = Preview::new(config, archive, &records, &spool).await?;
        for record in records {
            let outcome = preview.outcome(record)?;
            let written = if args.json { write_json(&outcome, out) } else { write_text(&outcome, out) };
            written.map_err(|error| Failure::new(Exit::Failed, format!("write to the terminal: {error}")))?;
            shown += 1;
        }
    }
    if shown == 0 {
        let topics: Vec<&str> = records.iter().map(|record| record.topic.as_str()).collect();
        let what = topics
            .first()
            .map_or("there is no record".to_string(), |topic| format!("no archive takes the topic {topic}"));
        return Err(Failure::new(Exit::Refused, format!("preview: {what}")));
    }
    Ok(Exit::Done)
}

/// The archive that a topic belongs to.
fn owner<'c>(config: &'c Config, topic: &str) -> Option<&'c ArchiveConfig> {
    config.archives.iter().find(|archive| archive.topics.matches(topic))
}

async fn from_kafka(args: &PreviewArgs, config: &Config) -> Result<Vec<OwnedRecord>, Failure> {
    let Connected { topics, .. } = connect(config).await?;
    let wanted = topics.into_iter().filter(|(topic, _)| args.topic.as_ref().is_none_or(|only| only == topic));
    let mut partitions = Vec::new();
    for (topic, count) in wanted {
        partitions.extend((0..count).map(|number| TopicPartition::new(topic.as_str(), number)));
    }
    if partitions.is_empty() {
        let what = args
            .topic
            .as_ref()
            .map_or("no topic matches any archive".to_string(), |topic| format!("no topic {topic} of any archive"));
        return Err(Failure::new(
            Exit::Refused,
            format!("preview: {what}; `siltstone check --connect` shows what is there"),
        ));
    }
    let (kafka, count) = (config.kafka.clone(), args.count as usize);
    let looked = tokio::task::spawn_blocking(move || look::newest(&kafka, &partitions, count)).await;
    let mut records = looked
        .map_err(|error| Failure::new(Exit::Failed, format!("read from Kafka: {error}")))?
        .map_err(|error| Failure::new(error.exit(), chain(&error)))?;
    newest_of_each_topic(&mut records, count);
    Ok(records)
}

/// Keeps the newest `count` of each topic, by their timestamps.
fn newest_of_each_topic(records: &mut Vec<OwnedRecord>, count: usize) {
    let mut by_age: Vec<usize> = (0..records.len()).collect();
    by_age.sort_by_key(|&index| std::cmp::Reverse((records[index].timestamp, records[index].offset)));
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keep = vec![false; records.len()];
    for index in by_age {
        let taken = taken.entry(&records[index].topic).or_default();
        keep[index] = *taken < count;
        *taken += 1;
    }
    let mut keep = keep.into_iter();
    records.retain(|_| keep.next().unwrap_or(false));
}

/// The topic of samples that name none.
fn default_topic(args: &PreviewArgs, config: &Config) -> String {
    let first = || config.archives.iter().find_map(|archive| archive.topics.names.first().cloned());
    args.topic.clone().or_else(first).unwrap_or_default()
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::new(Exit::Config, format!("preview: read {}: {error}", path.display())))?;
    Ok(Box::new(BufReader::new(file)))
}

fn lines(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let lines: Result<Vec<_>, _> = open(path)?.split(b'\n').collect();
    lines.map_err(|error| Failure::new(Exit::Config, format!("preview: read {}: {error}", path.display())))
}

fn from_lines(path: &Path, args: &PreviewArgs, config: &Config) -> Result<Vec<OwnedRecord>, Failure> {
    let topic = default_topic(args, config);
    let record =
        |(offset, line)| OwnedRecord { topic: topic.clone(), offset, value: Some(line), ..OwnedRecord::default() };
    Ok((0..).zip(lines(path)?).map(record).collect())
}

fn from_file(path: &Path, args: &PreviewArgs, config: &Config) -> Result<Vec<OwnedRecord>, Failure> {
    let topic = default_topic(args, config);
    let mut records = Vec::new();
    for (offset, line) in (0..).zip(lines(path)?) {
        let wrong = |what: String| {
            Failure::new(Exit::Config, format!("preview: {} line {}: {what}", path.display(), offset_after(offset)))
        };
        let bytes = |text: Option<String>, base64: Option<String>| match base64 {
            Some(base64) => BASE64.decode(base64).map(Some).map_err(|error| wrong(format!("not base64: {error}"))),
            None => Ok(text.map(String::into_bytes)),
        };
        let sample: Sample = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        let mut headers = Vec::new();
        for (name, value) in sample.headers {
            headers.push((name, bytes(None, value)?));
        }
        records.push(OwnedRecord {
            topic: sample.topic.unwrap_or_else(|| topic.clone()),
            partition: sample.partition.unwrap_or(0),
            offset: sample.offset.unwrap_or(offset),
            timestamp: sample.timestamp,
            key: bytes(sample.key, sample.key_base64)?,
            value: bytes(sample.value, sample.value_base64)?,
            headers,
        });
    }
    Ok(records)
}

/// A spool that is gone with this value. Nothing is written there but folders.
struct TemporarySpool(PathBuf);

impl TemporarySpool {
    /// Opening a spool there makes it.
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("siltstone-preview-{:016x}", process_number())))
    }
}

impl Drop for TemporarySpool {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What `records` need of the schema registry, where the archive reads by one. Rows are projected onto the newest of their
/// schemas, as all of them were but for the first batch.
async fn decide(config: &Config, archive: &ArchiveConfig, records: &[&OwnedRecord]) -> Result<Schemas, String> {
    let layout = &archive.layout;
    let Some(format) = layout.decode.registry_format() else { return Ok(Schemas::default()) };
    let registry = open_registry(config).map_err(|failure| failure.to_string())?;
    let missing = |missing: Missing| match missing {
        Missing::Later(reason) | Missing::Gone(reason) | Missing::Never(reason) => reason,
    };
    let mut decided = Decided::default();
    let mut found = schemas(registry.as_ref(), layout, &decided).await.map_err(missing)?;
    let mut reader = decode::by_registry(&layout.decode, &found)?;
    for payload in records.iter().filter_map(|record| record.value.as_deref()) {
        while let (Some(by_registry), Some(registry)) = (&reader, &registry) {
            match by_registry.needs(payload) {
                Needs::Ask(id) => {
                    registry.ask(id, format).await.map_err(|error| chain(&error))?;
                }
                Needs::Target(target) => {
                    decided.target = Some(target);
                    found = schemas(Some(registry), layout, &decided).await.map_err(missing)?;
                    reader = decode::by_registry(&layout.decode, &found)?;
                }
                Needs::Nothing | Needs::Note(_) | Needs::Stray(_) => break,
            }
        }
    }
    Ok(found)
}

/// One archive at work.
struct Preview {
    archive: Arc<Archive>,
    spool: Spool,
    scratch: Scratch,
}

impl Preview {
    /// `records`: what a schema is inferred from, where the archive infers one.
    async fn new(
        config: &Config,
        archive: &ArchiveConfig,
        records: &[&OwnedRecord],
        spool: &TemporarySpool,
    ) -> Result<Self, Failure> {
        let failed = |what: String| Failure::new(Exit::Config, format!("preview: archive {}: {what}", archive.name));
        let destinations = open_destinations(config)?;
        let schemas = decide(config, archive, records).await.map_err(failed)?;
        let mut sampler = Sampler::new(&archive.layout, &schemas);
        for record in records {
            sampler.add(&record.as_record(), 0);
        }
        let pinned = sampler.take_if_enough(0, 0, true).unwrap_or_default();
        if pinned.values().any(Vec::is_empty) || (inferring(&archive.layout).next().is_some() && pinned.is_empty()) {
            return Err(failed("none of these records has a field that a schema could be inferred from".to_string()));
        }
        let mut compiled = Archive::compile(&archive.layout, &destinations, &pinned, &schemas).map_err(failed)?;
        // Whatever their objects hold: the rows are read here.
        compiled.letters = DeadLetterFormat::Json;
        let spool = Spool::open(&spool.0, u64::MAX, process_number()).map_err(|error| failed(chain(&error)))?;
        Ok(Self { archive: Arc::new(compiled), spool, scratch: Scratch::default() })
    }

    fn outcome(&mut self, owned: &OwnedRecord) -> Result<Outcome, Failure> {
        let record = owned.as_record();
        let rows = self.rows(owned);
        let dir = self
            .spool
            .batch_dir()
            .map_err(|error| Failure::new(Exit::Failed, format!("preview: {}", chain(&error))))?;
        let opened = Opened { number: 0, wall_ms: 0, monotonic_ms: 0 };
        let mut batch = OpenBatch::new(self.archive.clone(), record.offset, None, dir, opened);
        let mut blocks = Vec::new();
        batch.append(&record, &mut Workspace::default(), &mut blocks);
        let range = OffsetRange::new(record.offset, offset_after(record.offset));
        let mut objects = Vec::new();
        let mut letters = Vec::new();
        for (index, part) in batch.parts.iter_mut().enumerate().filter(|(_, part)| part.rows > 0) {
            let output = &self.archive.outputs[part.output];
            let key = output.keys.key(&part.window, range);
            objects.push(PreviewObject { output: output.name.clone(), key, rows: part.rows });
            if part.output == self.archive.dead_letters() {
                let cut = blocks.iter().filter(|(of, _)| *of == index).map(|(_, block)| block.plain());
                letters.extend(cut.chain([part.part.rows().as_slice()]).flat_map(dead_letters));
            }
        }
        let dropped = self.archive.outputs.iter().zip(&batch.balance.outputs);
        let dropped = dropped
            .filter_map(|(output, balance)| Some((output.name.clone(), balance.dropped.keys().next()?.to_string())));
        let text = owned.value.as_ref().map(|value| String::from_utf8(value.clone()));
        Ok(Outcome {
            archive: self.archive.layout.archive.clone(),
            topic: owned.topic.clone(),
            partition: owned.partition,
            offset: owned.offset,
            value: text.clone().and_then(Result::ok),
            value_base64: text.and_then(Result::err).map(|error| BASE64.encode(error.as_bytes())),
            rows,
            objects,
            dropped: dropped.collect(),
            dead_letters: letters,
        })
    }

    /// The rows that a record becomes.
    fn rows(&mut self, owned: &OwnedRecord) -> Vec<PreviewRow> {
        let record = owned.as_record();
        let outputs = &self.archive.outputs;
        let row = |text: &str, event_ms: Option<i64>, route: Option<Vec<String>>| {
            let row = RawValue::from_string(text.to_string()).ok()?;
            Some(PreviewRow { row, event_time: event_ms.map(render_instant), outputs: route })
        };
        match self.archive.unpack(&record, &mut self.scratch) {
            Unpacked::AsItIs => {
                let decoded = self.archive.decode(&record);
                let Ok(Json::Row(text)) = decoded.json else { return Vec::new() };
                row(text, decoded.event_ms.ok(), None).into_iter().collect()
            }
            Unpacked::Refused(_) => Vec::new(),
            Unpacked::Rows => {
                let rows = self.scratch.found.iter().filter_map(|what| {
                    let What::Row(index, route) = what else { return None };
                    let text = self.scratch.row(*index)?;
                    let names = |route: &std::collections::BTreeSet<usize>| {
                        route.iter().map(|output| outputs[*output].name.clone()).collect()
                    };
                    row(text, self.archive.decode_row(&record, text).event_ms.ok(), route.as_ref().map(names))
                });
                rows.collect()
            }
        }
    }
}

fn dead_letters(rows: &[u8]) -> Vec<PreviewDeadLetter> {
    rows.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn write_json(outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, outcome)?;
    writeln!(out)
}

fn write_text(outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
    /// Most characters of a payload or row that are shown.
    const SHOWN_MAX: usize = 2_000;
    let shown = |text: &str| {
        let mut letters = text.chars();
        let start: String = letters.by_ref().take(SHOWN_MAX).flat_map(printable).collect();
        if letters.next().is_some() { format!("{start}…") } else { start }
    };
    writeln!(out, "{}/{} offset {} (archive {})", outcome.topic, outcome.partition, outcome.offset, outcome.archive)?;
    match (&outcome.value, &outcome.value_base64) {
        (Some(text), _) => writeln!(out, "  payload      {}", shown(text))?,
        (None, Some(base64)) => writeln!(out, "  payload      base64 {}", shown(base64))?,
        (None, None) => writeln!(out, "  payload      null")?,
    }
    for row in &outcome.rows {
        writeln!(out, "  row          {}", shown(row.row.get()))?;
        let time = row.event_time.as_deref().unwrap_or("none");
        let route = row.outputs.as_ref().map_or(String::new(), |outputs| format!(", for {}", outputs.join(", ")));
        writeln!(out, "               event time {time}{route}")?;
    }
    for object in &outcome.objects {
        let rows = if object.rows == 1 { String::new() } else { format!(" ({} rows)", object.rows) };
        writeln!(out, "  {:<12} {}{rows}", object.output, object.key)?;
    }
    for (output, rule) in &outcome.dropped {
        writeln!(out, "  {output:<12} dropped by the rule {rule}")?;
    }
    for letter in &outcome.dead_letters {
        let row = letter.row.map_or(String::new(), |row| format!("row {row}, "));
        writeln!(
            out,
            "  dead letter  {row}{}: {}, missing in {}",
            letter.stage,
            letter.reason,
            letter.outputs.join(", ")
        )?;
    }
    Ok(())
}
