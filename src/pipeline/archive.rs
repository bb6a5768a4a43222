//! A layout compiled into something that can route records: decoder, event time, outputs with their destinations.
//!
//! Pure once compiled: the same record gives the same rows in the same windows.

use super::unpack::{Refusal, Scratch, Unpacked, Unpacker};
use crate::bucket::Bucket;
use crate::decode::{Aim, ByRegistry, Schemas};
use crate::destination::Destination;
use crate::format::dead_letter::DeadLetterStage;
use crate::format::{self, Format};
use crate::layout::window::{KeyTemplate, Window, WindowValues};
use crate::layout::{
    Column, ColumnKind, DeadLetterFormat, Decode, Layout, SchemaSource, TimestampFallback, TimestampSource, Tombstones,
};
use crate::parse::json::{Captures, JsonScan};
use crate::parse::timestamp::TimeReader;
use crate::record::Record;
use crate::registry::Target;
use crate::transform::Filter;
use crate::upload;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A compiled layout.
pub struct Archive {
    /// What it was compiled from.
    pub layout: Layout,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Hash of each inferred schema, by output.
    pub schemas: BTreeMap<String, String>,
    /// The schema in the registry that its rows are projected onto.
    pub target: Option<Target>,
    /// The outputs in layout order, then the dead letters.
    pub outputs: Vec<Output>,
    /// What rows of dead letters are.
    pub letters: DeadLetterFormat,
    /// Claims and receipts: under the first destination of the first output.
    pub bucket: Bucket,
    unpacker: Unpacker,
    scan: JsonScan,
    /// Reads a payload to its end, where `scan` does not because every output does.
    whole: Option<JsonScan>,
    time: TimeReader,
}

/// One output, or the dead letters.
pub struct Output {
    /// Its name; `dead_letters` for the dead letters.
    pub name: String,
    /// How its objects are written.
    pub format: Arc<dyn Format>,
    /// Where its objects lie.
    pub keys: KeyTemplate,
    /// Confirmed in all of these before the commit.
    pub destinations: Vec<Arc<Destination>>,
    /// Takes records whether they decode or not.
    pub takes_every_record: bool,
    /// What rows must meet.
    pub filter: Option<Filter>,
    /// Positions of the fields its templates need among the archive's captured fields.
    fields: Vec<usize>,
    headers: Vec<String>,
    /// Whether the window depends on the event time alone.
    pub by_time_alone: bool,
}

/// A row's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json<'a> {
    /// JSON.
    Row(&'a str),
    /// The record has no payload, or the archive does not decode.
    NotDecoded,
    /// The record unfolds to no row.
    NoRow,
}

/// A row after decoding.
pub struct Decoded<'a> {
    /// The JSON text, or why there is none.
    pub json: Result<Json<'a>, Refusal>,
    /// The event time, or why there is none.
    pub event_ms: Result<i64, Refusal>,
    /// The Kafka timestamp stands in, because the field or header that should tell the time is missing or unreadable.
    pub is_fallback: bool,
    /// Captured fields, for the templates.
    pub captures: Captures<'a>,
}

/// What an output's schema must be when it was inferred, by output name.
pub type PinnedSchemas = BTreeMap<String, Vec<Column>>;

fn no_column() -> Column {
    // Required, so that no row has it: neither one that tells nothing (a tombstone) nor any other.
    Column { name: "_".to_string(), kind: ColumnKind::Json, nullable: false }
}

/// The name of the dead letters among outputs.
pub const DEAD_LETTERS: &str = "dead_letters";

impl Archive {
    /// Compiles `layout`. `destinations`: by URL; `pinned`: a schema for every output that infers one; `registered`: what it
    /// needs of a registry, if it needs one.
    ///
    /// # Errors
    /// What this version cannot read or this configuration does not have, for the operator.
    pub fn compile(
        layout: &Layout,
        destinations: &BTreeMap<String, Arc<Destination>>,
        pinned: &PinnedSchemas,
        registered: &Schemas,
    ) -> Result<Self, String> {
        let mut fields = Vec::new();
        if let TimestampSource::Field(path) = &layout.timestamp.source {
            fields.push(path.clone());
        }
        let mut outputs = Vec::new();
        let mut schemas = BTreeMap::new();
        let (target, columns_of_target) = match &registered.aim {
            Aim::At(target, schema) => (Some(target.clone()), schema.columns(target)?),
            // Rows are refused before there is a target, so that nothing depends on these.
            Aim::Own | Aim::Open => (None, vec![no_column()]),
        };
        for output in &layout.outputs {
            let columns = match output.format.schema() {
                Some(SchemaSource::Registry) => Some(columns_of_target.as_slice()),
                _ => pinned.get(&output.name).map(Vec::as_slice),
            };
            if let (Some(columns), Some(SchemaSource::Infer)) = (columns, output.format.schema()) {
                schemas.insert(output.name.clone(), format::parquet::schema::schema_hash(columns));
            }
            let format = format::build(&output.format, output.keep.as_ref(), columns)?;
            let place = &output.place;
            let keys = KeyTemplate::compile(place, &output.name, &place.extension(&output.format), layout.generation)
                .map_err(|error| format!("output {}: {error}", output.name))?;
            let filter = output.filter.as_ref().map(|source| Filter::compile(source)).transpose();
            let compiled = Output::new(
                &output.name,
                format,
                keys,
                resolve(&place.destinations, destinations)?,
                output.format.takes_every_record(),
                &mut fields,
            );
            let filter = filter.map_err(|error| format!("output {}: filter: {error}", output.name))?;
            outputs.push(Output { filter, ..compiled });
        }
        let dead = &layout.dead_letters.place;
        let format = format::dead_letters(layout.dead_letters.format);
        let extension = layout.dead_letters.extension();
        let keys = KeyTemplate::compile(dead, DEAD_LETTERS, &extension, layout.generation)
            .map_err(|error| format!("dead letters: {error}"))?;
        outputs.push(Output::new(
            DEAD_LETTERS,
            format,
            keys,
            resolve(&dead.destinations, destinations)?,
            true,
            &mut fields,
        ));
        let unpacker = Unpacker::compile(layout, registered)?;
        // What a decoder or a transform writes is valid.
        let validate = unpacker.leaves_as_is() && matches!(layout.decode, Decode::Json { validate: true, .. });
        // Rows of columns are made of the whole payload and refuse a broken one: nobody needs to read it before.
        let outputs_validate = layout.outputs.iter().all(|output| output.format.schema().is_some());
        let home =
            outputs.first().and_then(|output| output.destinations.first()).ok_or("the layout has no destination")?;
        Ok(Self {
            fingerprint: layout.fingerprint(),
            letters: layout.dead_letters.format,
            layout: layout.clone(),
            target,
            schemas,
            bucket: Bucket::new(home.clone()).of_generation(layout.generation),
            unpacker,
            scan: JsonScan::new(&fields, validate && !outputs_validate),
            whole: (validate && outputs_validate).then(|| JsonScan::new(&fields, true)),
            time: TimeReader::new(&layout.timestamp)?,
            outputs,
        })
    }

    /// Outputs without the dead letters.
    pub fn data_outputs(&self) -> usize {
        self.outputs.len() - 1
    }

    /// The dead letters' place among the outputs.
    pub fn dead_letters(&self) -> usize {
        self.outputs.len() - 1
    }

    /// One hash over all inferred schemas; `None` where none is inferred. As long for many outputs as for one: it stands in
    /// the plan, which Kafka bounds. Which schemas they are stands in the claim.
    pub fn schemas_hash(&self) -> Option<String> {
        schemas_hash(&self.schemas)
    }

    /// What the layout says of tombstones.
    pub fn tombstones(&self) -> Tombstones {
        self.layout.tombstones
    }

    /// Finds the rows of `record`. They stand in `scratch` afterwards, and nothing else does.
    pub fn unpack(&self, record: &Record<'_>, scratch: &mut Scratch) -> Unpacked {
        self.unpacker.unpack(record, scratch)
    }

    /// The decoder where it reads by a registry.
    pub fn by_registry(&self) -> Option<&ByRegistry> {
        self.unpacker.by_registry()
    }

    /// How many records so many rows are of, where that is known without them.
    pub fn records_of(&self, rows: Option<u64>) -> Option<u64> {
        rows.filter(|_| self.unpacker.makes_one_row())
    }

    /// Finds the event time of a row of `record`.
    pub fn decode_row<'a>(&self, record: &Record<'_>, row: &'a str) -> Decoded<'a> {
        let mut captures = Captures::new();
        let json = self.scan_json(row.as_bytes(), &mut captures);
        self.with_event_time(record, json, captures)
    }

    /// What counts of a record whose payload is refused.
    pub fn refused(&self, record: &Record<'_>, refusal: Refusal) -> Decoded<'static> {
        self.with_event_time(record, Err(refusal), Captures::new())
    }

    /// What counts of a record without any row, by its Kafka timestamp.
    pub fn nothing(&self, record: &Record<'_>) -> Decoded<'static> {
        let event_ms = kafka_time(record);
        Decoded { json: Ok(Json::NoRow), event_ms, is_fallback: false, captures: Captures::new() }
    }

    fn scan_json<'a>(&self, payload: &'a [u8], captures: &mut Captures<'a>) -> Result<Json<'a>, Refusal> {
        self.scan.scan(payload, captures).map(Json::Row).map_err(|error| {
            *captures = Captures::new();
            (DeadLetterStage::Decode, error.to_string())
        })
    }

    /// Decodes `record` and finds its event time. Never fails as a whole: what could not be read says why. Where every
    /// output is Parquet the payload is read no further than the fields needed: see [`Archive::broken`].
    pub fn decode<'a>(&self, record: &Record<'a>) -> Decoded<'a> {
        let mut captures = Captures::new();
        let json = match (&self.layout.decode, record.value) {
            (Decode::Raw, _) | (_, None) => Ok(Json::NotDecoded),
            (_, Some(payload)) => self.scan_json(payload, &mut captures),
        };
        let decoded = self.with_event_time(record, json, captures);
        match &decoded.event_ms {
            // A broken payload is refused for that alone, also where it has no event time.
            Err(_) => self.broken(record).unwrap_or(decoded),
            Ok(_) => decoded,
        }
    }

    /// What [`Archive::decode`] leaves to the outputs where all of them read a payload to its end: the record as it
    /// counts if it is broken, `None` if it is not. To be asked when an output has refused the record.
    #[cold]
    pub fn broken<'a>(&self, record: &Record<'a>) -> Option<Decoded<'a>> {
        let error = self.whole.as_ref()?.scan(record.value?, &mut Captures::new()).err()?;
        let json = Err((DeadLetterStage::Decode, error.to_string()));
        Some(self.with_event_time(record, json, Captures::new()))
    }

    fn with_event_time<'a>(
        &self,
        record: &Record<'_>,
        json: Result<Json<'a>, Refusal>,
        captures: Captures<'a>,
    ) -> Decoded<'a> {
        let kafka = || kafka_time(record);
        let source = &self.layout.timestamp.source;
        let (event_ms, is_fallback) = match source {
            TimestampSource::Kafka => (kafka(), false),
            // A tombstone has no fields: the Kafka timestamp is its own.
            TimestampSource::Field(_) if record.value.is_none() => (kafka(), false),
            // A payload that does not decode is judged by `json`.
            TimestampSource::Field(_) if json.is_err() => (kafka(), true),
            _ => match (self.told_time(record, &captures), self.layout.timestamp.fallback) {
                (Ok(event_ms), _) => (Ok(event_ms), false),
                (Err(_), TimestampFallback::Kafka) => (kafka(), true),
                // Outputs that take every record take it by its Kafka timestamp.
                (Err(reason), TimestampFallback::DeadLetter) => (Err((DeadLetterStage::Timestamp, reason)), true),
            },
        };
        Decoded { json, event_ms, is_fallback, captures }
    }

    /// The time that the record tells, by the layout's field or header, or why it tells none.
    fn told_time(&self, record: &Record<'_>, captures: &Captures<'_>) -> Result<i64, String> {
        match &self.layout.timestamp.source {
            TimestampSource::Kafka => record.timestamp.ok_or_else(|| "the record has no Kafka timestamp".to_string()),
            TimestampSource::Field(path) => match captures.as_slice().first().copied().flatten() {
                Some(raw) => self.time.read_json(raw).map_err(|error| format!("field {}: {error}", path.join("."))),
                None => Err(format!("field {} is missing", path.join("."))),
            },
            TimestampSource::Header(name) => match record.headers.last(name) {
                Some(value) => self.time.read_text(value).map_err(|error| format!("header {name}: {error}")),
                None => Err(format!("header {name} is missing")),
            },
        }
    }
}

fn kafka_time(record: &Record<'_>) -> Result<i64, Refusal> {
    record.timestamp.ok_or_else(|| (DeadLetterStage::Timestamp, "the record has no Kafka timestamp".to_string()))
}

impl Output {
    fn new(
        name: &str,
        format: Arc<dyn Format>,
        keys: KeyTemplate,
        destinations: Vec<Arc<Destination>>,
        takes_every_record: bool,
        captured: &mut Vec<Vec<String>>,
    ) -> Self {
        let needs = keys.needs();
        let by_time_alone = needs.fields.is_empty() && needs.headers.is_empty() && !needs.key;
        let fields = needs.fields.iter().map(|path| position_or_add(captured, path)).collect();
        let headers = needs.headers.clone();
        Self {
            name: name.to_string(),
            format,
            destinations,
            takes_every_record,
            filter: None,
            fields,
            headers,
            by_time_alone,
            keys,
        }
    }

    /// The window of a record whose event time is `event_ms`.
    pub fn window(&self, record: &Record<'_>, captures: &Captures<'_>, event_ms: i64) -> Window {
        let fields: Vec<Option<&str>> =
            self.fields.iter().map(|&index| captures.as_slice().get(index).copied().flatten()).collect();
        let headers: Vec<Option<&[u8]>> = self.headers.iter().map(|name| record.headers.last(name)).collect();
        self.keys.window(&WindowValues {
            topic: record.topic,
            partition: record.partition,
            event_ms,
            fields: &fields,
            headers: &headers,
            key: record.key,
        })
    }
}

fn schemas_hash(schemas: &BTreeMap<String, String>) -> Option<String> {
    if schemas.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    for (output, hash) in schemas {
        digest.update(format!("{output}={hash}\n"));
    }
    Some(upload::hex(&digest.finalize()[..16]))
}

fn position_or_add(captured: &mut Vec<Vec<String>>, path: &[String]) -> usize {
    captured.iter().position(|known| known == path).unwrap_or_else(|| {
        captured.push(path.to_vec());
        captured.len() - 1
    })
}

fn resolve(
    urls: &[String],
    destinations: &BTreeMap<String, Arc<Destination>>,
) -> Result<Vec<Arc<Destination>>, String> {
    let find = |url: &String| {
        destinations.get(url).cloned().ok_or_else(|| {
            format!("the layout writes to {url}, which this configuration has no [destinations] section for; add one")
        })
    };
    urls.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_schemas_tells_them_apart_and_does_not_grow() {
        let of = |schemas: &[(&str, &str)]| {
            schemas_hash(&schemas.iter().map(|(output, hash)| (output.to_string(), hash.to_string())).collect())
        };
        assert_eq!(of(&[]), None);
        let one = of(&[("a", "1")]);
        assert!(one.is_some());
        assert_eq!(one, of(&[("a", "1")]));
        for other in [&[("a", "2")][..], &[("b", "1")], &[("a", "1"), ("b", "1")]] {
            assert_ne!(one, of(other), "{other:?}");
        }
        let names: Vec<String> = (0..100).map(|number| format!("{number:064}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "0123456789abcdef")).collect();
        assert_eq!(of(&many).map(|hash| hash.len()), Some(32));
    }
}
