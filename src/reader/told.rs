//! What a row still tells of the record it was made of: offset, event time, and for `--where` Kafka's own.

use super::row::{Body, Row};
use crate::format::keep::base_name;
use crate::layout::{Decode, Keep, KeptColumn, Layout, OutputFormat, OutputLayout, TimestampRule, TimestampSource};
use crate::parse::json::{Captures, JsonScan};
use crate::parse::timestamp::{TimeReader, rfc3339};
use crate::record::{HeaderList, OwnedRecord, TopicPartition};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

/// Reads what the rows of one output tell.
pub struct Teller {
    source: TimestampSource,
    time: TimeReader,
    /// Instants among the columns are shown as RFC 3339, whatever the payload had.
    has_columns: bool,
    /// A payload is the JSON that was archived, so that its fields can be looked for.
    payload_is_row: bool,
    scan: JsonScan,
    /// Places among the scanned fields.
    offset: Option<usize>,
    timestamp: Option<usize>,
    headers: Option<usize>,
    field: Option<usize>,
    /// Scanned for `--where` alone.
    key: JsonScan,
}

/// What a row tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Offset of its record.
    pub offset: Option<i64>,
    /// Its event time, milliseconds UTC: the one that its window was chosen by.
    pub event_ms: Option<i64>,
}

/// Headers as JSON rows keep them.
#[derive(Deserialize)]
struct KeptHeader {
    name: String,
    value: Option<String>,
    #[serde(default)]
    base64: bool,
}

impl Teller {
    /// Of the rows of `output`.
    ///
    /// # Errors
    /// The layout's rule of event times is none of this release's.
    pub(super) fn of(layout: &Layout, output: &OutputLayout) -> Result<Self, String> {
        let payload_is_row = layout.transform.is_none()
            && matches!(&layout.decode, Decode::Json { unfold: false, names, .. } if names.is_empty());
        let has_columns = output.format.schema().is_some();
        let records = matches!(output.format, OutputFormat::Raw { .. } | OutputFormat::Envelope { .. });
        let keep = if records { None } else { output.keep.as_ref() };
        Self::new(&layout.timestamp, keep, has_columns, payload_is_row)
    }

    /// Of dead letters: their time is the Kafka timestamp, their window's.
    ///
    /// # Errors
    /// None.
    pub(super) fn of_dead_letters() -> Result<Self, String> {
        let columns = vec![KeptColumn::Offset, KeptColumn::Timestamp];
        let keep = Keep { columns, prefix: String::new() };
        let rule = TimestampRule {
            source: TimestampSource::Kafka,
            format: crate::layout::TimeFormat::Auto,
            zone: "UTC".to_string(),
            fallback: crate::layout::TimestampFallback::Kafka,
        };
        Self::new(&rule, Some(&keep), false, false)
    }

    fn new(rule: &TimestampRule, keep: Option<&Keep>, has_columns: bool, payload_is_row: bool) -> Result<Self, String> {
        let mut paths: Vec<Vec<String>> = Vec::new();
        let mut place = |path: Vec<String>| {
            paths.push(path);
            Some(paths.len() - 1)
        };
        let kept = |column| {
            let keep = keep.filter(|keep| keep.columns.contains(&column))?;
            Some(vec![format!("{}{}", keep.prefix, base_name(column))])
        };
        let offset = kept(KeptColumn::Offset).and_then(&mut place);
        let timestamp = kept(KeptColumn::Timestamp).and_then(&mut place);
        let by_header = matches!(rule.source, TimestampSource::Header(_));
        let headers = kept(KeptColumn::Headers).filter(|_| by_header).and_then(&mut place);
        let field = match &rule.source {
            TimestampSource::Field(path) => place(path.clone()),
            TimestampSource::Kafka | TimestampSource::Header(_) => None,
        };
        let prefix = keep.map_or("", |keep| keep.prefix.as_str());
        let of_record = [KeptColumn::Key, KeptColumn::Headers].map(|column| kept(column).unwrap_or_default());
        let key_base64 = kept(KeptColumn::Key).map(|_| vec![format!("{prefix}key_base64")]).unwrap_or_default();
        let [key, kept_headers] = of_record;
        Ok(Self {
            source: rule.source.clone(),
            time: TimeReader::new(rule)?,
            has_columns,
            payload_is_row,
            scan: JsonScan::new(&paths, false),
            offset,
            timestamp,
            headers,
            field,
            key: JsonScan::new(&[key, key_base64, kept_headers], false),
        })
    }

    /// Whether rows tell their offset.
    pub fn tells_offsets(&self, has_records: bool) -> bool {
        has_records || self.offset.is_some()
    }

    /// Whether rows can tell their event time: some of them may yet tell none.
    pub(super) fn tells_times(&self, has_payloads: bool, has_records: bool) -> bool {
        match &self.source {
            TimestampSource::Field(_) => !has_payloads || self.payload_is_row,
            TimestampSource::Kafka => has_records || self.timestamp.is_some(),
            TimestampSource::Header(_) => has_records || self.headers.is_some(),
        }
    }

    /// Whether a row is the payload of its record, as it was.
    pub fn payload_is_row(&self) -> bool {
        self.payload_is_row
    }

    /// Where event times come from.
    pub fn source(&self) -> &TimestampSource {
        &self.source
    }

    /// What `row` tells.
    pub fn tell(&self, row: &Row) -> Told {
        match &row.body {
            Body::Json(line) => self.of_line(line),
            Body::Payload(payload) => {
                Told { offset: None, event_ms: payload.as_deref().and_then(|payload| self.of_payload(payload)) }
            }
            Body::Record(record) => Told { offset: Some(record.offset), event_ms: self.of_record(record) },
        }
    }

    fn of_line(&self, line: &[u8]) -> Told {
        let mut found = Captures::new();
        if self.scan.scan(line, &mut found).is_err() {
            return Told::default();
        }
        let at = |place: Option<usize>| found.as_slice().get(place?).copied().flatten();
        let number = |place| at(place).and_then(|raw| raw.parse().ok());
        let kafka_ms = number(self.timestamp);
        let told = match &self.source {
            TimestampSource::Kafka => None,
            TimestampSource::Field(_) => at(self.field).and_then(|raw| self.read(raw)),
            TimestampSource::Header(name) => at(self.headers).and_then(|raw| {
                let headers = header_list(raw)?;
                self.time.read_text(crate::record::Headers::last(&headers, name)?).ok()
            }),
        };
        // Without the time that it should tell, a row is archived by its Kafka timestamp or not at all. Whether a header told it, only
        // kept headers say.
        let unknown = matches!(self.source, TimestampSource::Header(_)) && self.headers.is_none();
        Told { offset: number(self.offset), event_ms: told.or(kafka_ms.filter(|_| !unknown)) }
    }

    fn read(&self, raw: &str) -> Option<i64> {
        if self.has_columns
            && let Some(text) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'))
            && let Some(instant) = rfc3339(text)
        {
            return Some(instant.timestamp_millis());
        }
        self.time.read_json(raw).ok()
    }

    /// The time that a payload tells by its field; `None` too where nobody looked into it.
    fn of_payload(&self, payload: &[u8]) -> Option<i64> {
        let place = self.field.filter(|_| self.payload_is_row)?;
        let mut found = Captures::new();
        self.scan.scan(payload, &mut found).ok()?;
        self.read(found.as_slice().get(place).copied().flatten()?)
    }

    fn of_record(&self, record: &OwnedRecord) -> Option<i64> {
        match &self.source {
            TimestampSource::Kafka => record.timestamp,
            TimestampSource::Header(name) => {
                let told = crate::record::Headers::last(&record.headers, name);
                told.and_then(|text| self.time.read_text(text).ok()).or(record.timestamp)
            }
            TimestampSource::Field(_) if self.payload_is_row || record.value.is_none() => {
                record.value.as_deref().and_then(|payload| self.of_payload(payload)).or(record.timestamp)
            }
            TimestampSource::Field(_) => None,
        }
    }

    /// The record of `row` as far as it tells it: what `%` holds in a condition.
    pub fn record(&self, partition: &TopicPartition, row: &Row) -> OwnedRecord {
        let told = self.tell(row);
        let mut record = OwnedRecord {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            offset: told.offset.unwrap_or_default(),
            ..OwnedRecord::default()
        };
        match &row.body {
            Body::Record(known) => return OwnedRecord::clone(known),
            Body::Payload(payload) => record.value.clone_from(payload),
            Body::Json(line) => {
                let mut found = Captures::new();
                if self.scan.scan(line, &mut found).is_ok() {
                    let place = self.timestamp.and_then(|place| found.as_slice().get(place).copied().flatten());
                    record.timestamp = place.and_then(|raw| raw.parse().ok());
                }
                if self.key.scan(line, &mut found).is_ok()
                    && let [key, is_base64, headers] = found.as_slice()
                {
                    let text = key.and_then(|raw| serde_json::from_str::<Option<String>>(raw).ok().flatten());
                    record.key = text.and_then(|text| bytes(text, *is_base64 == Some("true")));
                    record.headers = headers.and_then(header_list).unwrap_or_default();
                }
            }
        }
        record
    }
}

fn bytes(text: String, is_base64: bool) -> Option<Vec<u8>> {
    if is_base64 { BASE64.decode(text).ok() } else { Some(text.into_bytes()) }
}

fn header_list(raw: &str) -> Option<HeaderList> {
    let kept: Vec<KeptHeader> = serde_json::from_str(raw).ok()?;
    let header = |KeptHeader { name, value, base64 }| (name, value.and_then(|value| bytes(value, base64)));
    Some(kept.into_iter().map(header).collect())
}
