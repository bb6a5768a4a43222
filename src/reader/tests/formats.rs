//! Goal: a row that an encoder wrote comes back. Method: objects made by the formats themselves, of every kind and codec, read through a
//! store; the rows of columns are compared with the JSON line that a JSON output writes of the same record.

use super::super::records::Records;
use super::super::row::Body;
use super::super::rows::{Place, Rows};
use super::super::shape::Shape;
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::exit::Exit;
use crate::format::testing::file_of;
use crate::format::{self, Row as FormatRow};
use crate::layout::{
    AvroCodec, CodeRevision, Column, ColumnKind, Compression, DeadLetterFormat, DeadLetterLayout, Decode, Ending, Keep,
    KeptColumn, LAYOUT_VERSION, Layout, Newlines, OutputFormat, OutputLayout, Pages, Place as LayoutPlace,
    SchemaSource, TimeFormat, TimeUnit, TimestampFallback, TimestampRule, TimestampSource, Tombstones, UnknownFields,
};
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use async_trait::async_trait;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectStoreExt};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const ALL_KEPT: [KeptColumn; 6] = [
    KeptColumn::Key,
    KeptColumn::Headers,
    KeptColumn::Timestamp,
    KeptColumn::Topic,
    KeptColumn::Partition,
    KeptColumn::Offset,
];

fn column(name: &str, kind: ColumnKind) -> Column {
    Column { name: name.to_string(), kind, nullable: true }
}

fn columns() -> SchemaSource {
    let json_list = ColumnKind::List(Box::new(column("e", ColumnKind::Json)));
    let inner = vec![column("text", ColumnKind::String), column("any", ColumnKind::Json)];
    SchemaSource::Columns(vec![
        column("id", ColumnKind::Int64),
        column("ok", ColumnKind::Bool),
        column("ratio", ColumnKind::Float64),
        column("name", ColumnKind::String),
        column("blob", ColumnKind::Bytes),
        column("any", ColumnKind::Json),
        column("day", ColumnKind::Date),
        column("at", ColumnKind::Timestamp { unit: Some(TimeUnit::Ms) }),
        column("price", ColumnKind::Decimal { precision: 20, scale: 3 }),
        column("inner", ColumnKind::Struct(inner)),
        column("list", json_list),
        column("map", ColumnKind::Map(Box::new(column("v", ColumnKind::Json)))),
    ])
}

fn text_codecs() -> [Compression; 3] {
    [Compression::None, Compression::Gzip(6), Compression::Zstd(3)]
}

/// Every format with every codec that it can have.
fn all_formats() -> Vec<OutputFormat> {
    let mut formats = Vec::new();
    for compression in text_codecs() {
        formats.push(OutputFormat::Json { compression });
        for newlines in [Newlines::Refuse, Newlines::Escape, Newlines::Length] {
            formats.push(OutputFormat::Raw { compression, newlines });
        }
    }
    for codec in [AvroCodec::None, AvroCodec::Deflate, AvroCodec::Snappy, AvroCodec::Zstd] {
        let (schema, unknown) = (columns(), UnknownFields::Rest);
        formats.push(OutputFormat::Avro { codec, schema, unknown, block_bytes: 1 << 20 });
    }
    let more = [Compression::Snappy, Compression::Lz4];
    for compression in text_codecs().into_iter().chain(more) {
        let (row_group_bytes, row_group_rows) = (1 << 20, 1_000);
        formats.push(OutputFormat::Envelope { compression, row_group_bytes, row_group_rows });
        let (schema, unknown, pages) = (columns(), UnknownFields::Rest, Pages::default());
        formats.push(OutputFormat::Parquet { compression, schema, unknown, row_group_bytes, row_group_rows, pages });
    }
    formats
}

fn place() -> LayoutPlace {
    LayoutPlace {
        path: "{topic}".into(),
        name: "{first}".into(),
        zone: "UTC".into(),
        destinations: vec!["memory:///".into()],
        ending: Ending::Whole,
    }
}

fn layout(format: OutputFormat, keep: Option<Keep>, source: TimestampSource) -> Layout {
    Layout {
        version: LAYOUT_VERSION,
        code: CodeRevision::current(),
        archive: "a".into(),
        generation: 1,
        decode: Decode::Json { validate: true, unfold: false, names: Vec::new() },
        transform: None,
        timestamp: TimestampRule {
            source,
            format: TimeFormat::Epoch(TimeUnit::Ms),
            zone: "UTC".into(),
            fallback: TimestampFallback::Kafka,
        },
        tombstones: Tombstones::Keep,
        outputs: vec![OutputLayout { name: "o".into(), filter: None, format, keep, place: place() }],
        dead_letters: DeadLetterLayout { place: place(), format: DeadLetterFormat::Json },
    }
}

/// A payload in the one form that JSON and columns agree on.
fn payload(id: i64, name: &str, any: &Value, blob: &[u8], at: i64) -> String {
    let at = crate::parse::timestamp::render_instant(at);
    let at = at.replace(".000Z", "Z");
    json!({
        "id": id, "ok": id % 2 == 0, "ratio": id as f64 / 8.0, "name": name, "blob": crate::parse::text::base64(blob),
        "any": any, "day": "2025-11-21", "at": at, "price": 12.125, "inner": {"text": name, "any": any},
        "list": [any, any], "map": {"k": any},
    })
    .to_string()
}

fn record(offset: i64, value: Option<Vec<u8>>, key: Option<Vec<u8>>, header: Option<Vec<u8>>) -> OwnedRecord {
    let headers = vec![("h".to_string(), header), ("h".to_string(), None), (String::new(), Some(b"x".to_vec()))];
    let timestamp = Some(1_763_712_000_000 + offset);
    OwnedRecord { topic: "t".into(), partition: 3, offset, timestamp, key, value, headers }
}

/// The object that `records` make, two blocks of them.
fn object(output: &OutputFormat, keep: Option<&Keep>, records: &[OwnedRecord]) -> Vec<u8> {
    let format = format::build(output, keep, None).expect("a format");
    let blocks: Vec<(Vec<u8>, u32)> = records
        .chunks(records.len().div_ceil(2).max(1))
        .map(|records| {
            let mut rows = Vec::new();
            for record in records {
                let record = record.as_record();
                let json = record.value.and_then(|value| std::str::from_utf8(value).ok());
                format.append_row(&FormatRow { record: &record, json, event_ms: 0 }, &mut rows).expect("a row");
            }
            (rows, records.len() as u32)
        })
        .collect();
    file_of(&*format, &blocks, &[])
}

async fn stored(bytes: Vec<u8>, rows: Option<u64>) -> Place {
    let store = Arc::new(InMemory::new());
    store.put(&"x".into(), bytes.into()).await.expect("put");
    let destination = Destination::from_store("m", "memory:///", store, StoreKind::Memory);
    Place { key: "x".into(), destinations: vec![Arc::new(destination)], rows }
}

async fn read(place: Place, shape: Arc<Shape>) -> Result<Vec<super::super::row::Row>, crate::exit::Failure> {
    let found = read_at(&place, &shape, 0).await?;
    // From any row on the same ones come.
    for first in [1, found.len() / 2, found.len()] {
        let first = first.min(found.len());
        assert_eq!(read_at(&place, &shape, first as u64).await?, found[first..], "from row {first} on");
    }
    Ok(found)
}

async fn read_at(
    place: &Place,
    shape: &Arc<Shape>,
    first: u64,
) -> Result<Vec<super::super::row::Row>, crate::exit::Failure> {
    let (mut rows, mut found) = (Rows::start_at(place.clone(), shape.clone(), first), Vec::new());
    while let Some(row) = rows.next().await? {
        found.push(row);
    }
    Ok(found)
}

/// The objects of a store are deleted after so many reads.
#[derive(Debug)]
struct Fading {
    left: AtomicI64,
}

#[async_trait]
impl StepIn for Fading {
    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(object_store::Error::NotFound { path: from.to_string(), source: "deleted".into() });
        }
        within.get_opts(from, options).await
    }
}

/// Goal: an object that is deleted at one destination while it is read goes on at the next one, and no row comes twice.
#[tokio::test]
async fn an_object_that_goes_away_goes_on_at_the_next_destination() {
    let output =
        OutputFormat::Envelope { compression: Compression::None, row_group_bytes: 1 << 20, row_group_rows: 200 };
    let records: Vec<_> = (0..400).map(|offset| record(offset, Some(vec![b'v'; 20]), None, None)).collect();
    let shape = Arc::new(Shape::of(&layout(output.clone(), None, TimestampSource::Kafka), "o", None).expect("a shape"));
    let bytes = object(&output, None, &records);
    let spare = stored(bytes.clone(), Some(400)).await;
    let mut partly = 0;
    for reads in 0..20 {
        let mut fading = Vec::new();
        for _ in 0..2 {
            let store = Stepped::over(Arc::new(InMemory::new()), Fading { left: AtomicI64::new(reads) });
            store.within.put(&"x".into(), bytes.clone().into()).await.expect("put");
            fading.push(Arc::new(Destination::from_store("f", "memory:///f", store, StoreKind::Memory)));
        }
        let alone = Place { destinations: fading.split_off(1), ..spare.clone() };
        let (mut rows, mut count) = (Rows::start(alone, shape.clone()), 0);
        let is_read = loop {
            match rows.next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!(rows.is_gone(), !is_read);
        partly += u32::from(!is_read && count > 0);
        let destinations = [fading, spare.destinations.clone()].concat();
        let found = read_at(&Place { destinations, ..spare.clone() }, &shape, 0).await.expect("read");
        let offsets = found.iter().map(|row| match &row.body {
            Body::Record(record) => record.offset,
            other => panic!("{other:?}"),
        });
        assert_eq!(offsets.collect::<Vec<_>>(), (0..400).collect::<Vec<_>>(), "after {reads} reads");
    }
    assert!(partly > 0, "it never was deleted in the middle");
}

/// What `body` is of the record, in words that compare.
fn expected(output: &OutputFormat, keep: Option<&Keep>, record: &OwnedRecord) -> Body {
    match output {
        OutputFormat::Raw { newlines, .. } => Body::Payload(match newlines {
            Newlines::Length => record.value.clone(),
            Newlines::Refuse | Newlines::Escape => Some(record.value.clone().unwrap_or_default()),
        }),
        OutputFormat::Envelope { .. } => Body::Record(Box::new(record.clone())),
        _ => {
            let json = OutputFormat::Json { compression: Compression::None };
            let mut line = object(&json, keep, std::slice::from_ref(record));
            line.pop();
            Body::Json(line)
        }
    }
}

/// A row in words that are equal where rows are: nulls at the top are left out of columns.
fn compared(body: &Body, is_columns: bool) -> String {
    match body {
        Body::Json(line) if is_columns => {
            let mut value: Value = serde_json::from_slice(line).expect("JSON");
            if let Some(fields) = value.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            value.to_string()
        }
        Body::Json(line) => String::from_utf8_lossy(line).into_owned(),
        other => format!("{other:?}"),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!({"a": [1, null, "x\n\u{2028}"], "b": 1.5})),
        Just(json!([])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn rows_of_every_format_and_codec_come_back(
        samples in prop::collection::vec(
            (any::<i32>(), ".{0,12}", any_json(), any::<Vec<u8>>(), -1_000_000_000_000_i64..4_000_000_000_000, any::<Option<Vec<u8>>>()),
            0..40,
        ),
        keeps: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for output in all_formats() {
            let is_columns = output.schema().is_some();
            let can_keep = !output.takes_every_record();
            let keep = (keeps && can_keep).then(|| Keep { columns: ALL_KEPT.to_vec(), prefix: "_".into() });
            let records: Vec<OwnedRecord> = (0..).zip(&samples).map(|(offset, (id, name, any, blob, at, bytes))| {
                let value = payload(i64::from(*id), name, any, blob, at - at.rem_euclid(1000));
                record(offset, Some(value.into_bytes()), bytes.clone(), Some(blob.clone()))
            }).collect();
            let layout = layout(output.clone(), keep.clone(), TimestampSource::Kafka);
            let shape = Arc::new(Shape::of(&layout, "o", None).expect("a shape"));
            let bytes = object(&output, keep.as_ref(), &records);
            let found = runtime.block_on(async {
                read(stored(bytes, Some(records.len() as u64)).await, shape.clone()).await
            }).unwrap_or_else(|failure| panic!("{output:?}: {failure}"));
            prop_assert_eq!(found.len(), records.len());
            for (row, record) in found.iter().zip(&records) {
                let wanted = compared(&expected(&output, keep.as_ref(), record), is_columns);
                prop_assert_eq!(compared(&row.body, is_columns), wanted, "{:?}", output);
                let told = shape.teller.tell(row);
                let tells = keep.is_some() || matches!(output, OutputFormat::Envelope { .. });
                prop_assert_eq!(told.offset, tells.then_some(record.offset));
                prop_assert_eq!(told.event_ms, record.timestamp.filter(|_| tells));
                if tells {
                    let partition = TopicPartition::new("t", 3);
                    let of_row = shape.teller.record(&partition, row);
                    prop_assert_eq!(
                        (&of_row.key, &of_row.headers, of_row.offset, of_row.timestamp),
                        (&record.key, &record.headers, record.offset, record.timestamp)
                    );
                }
            }
        }
    }

    /// Whatever a record holds, it comes back from an envelope, in the order of offsets.
    #[test]
    fn records_come_back_from_envelopes(
        samples in prop::collection::vec((any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>()), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let output = OutputFormat::Envelope { compression: Compression::Zstd(1), row_group_bytes: 4096, row_group_rows: 64 };
        let records: Vec<OwnedRecord> = (5..).zip(samples).map(|(offset, (value, key, header))| record(offset, value, key, header)).collect();
        let shape = Arc::new(Shape::of(&layout(output.clone(), None, TimestampSource::Kafka), "o", None).expect("a shape"));
        let bytes = object(&output, None, &records);
        let found = runtime.block_on(async {
            let partition = TopicPartition::new("t", 3);
            let mut reading = Records::start(stored(bytes, None).await, shape, partition, OffsetRange::new(5, 1000)).expect("whole records");
            let mut found = Vec::new();
            while let Some(record) = reading.next().await.expect("a record") {
                found.push(record);
            }
            found
        });
        prop_assert_eq!(found, records);
    }
}

#[tokio::test]
async fn records_of_other_batches_and_out_of_order_are_damage() {
    let output = OutputFormat::Envelope { compression: Compression::Snappy, row_group_bytes: 4096, row_group_rows: 64 };
    let shape = Arc::new(Shape::of(&layout(output.clone(), None, TimestampSource::Kafka), "o", None).expect("a shape"));
    let of = |offsets: &[i64]| offsets.iter().map(|&offset| record(offset, None, None, None)).collect::<Vec<_>>();
    for (records, range, partition, good) in [
        (of(&[1, 2, 9]), OffsetRange::new(1, 10), 3, true),
        (of(&[1, 2, 9]), OffsetRange::new(1, 9), 3, false),
        (of(&[1, 2, 9]), OffsetRange::new(1, 10), 4, false),
        (of(&[1, 1]), OffsetRange::new(1, 10), 3, false),
        (of(&[2, 1]), OffsetRange::new(1, 10), 3, false),
    ] {
        let place = stored(object(&output, None, &records), None).await;
        let partition = TopicPartition::new("t", partition);
        let mut reading = Records::start(place, shape.clone(), partition, range).expect("whole records");
        let outcome = loop {
            match reading.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure.exit),
            }
        };
        assert_eq!(outcome, if good { Ok(()) } else { Err(Exit::Stopped) }, "{records:?} {range}");
    }
    let lines = OutputFormat::Json { compression: Compression::None };
    let shape = Arc::new(Shape::of(&layout(lines, None, TimestampSource::Kafka), "o", None).expect("a shape"));
    let partition = TopicPartition::new("t", 3);
    let refused = Records::start(stored(Vec::new(), None).await, shape, partition, OffsetRange::new(0, 1));
    assert!(refused.is_err_and(|failure| failure.exit == Exit::Config));
}

/// Goal: no damage is taken for the end of the rows. Method: cut every object anywhere.
#[tokio::test]
async fn what_is_missing_is_noticed() {
    let records: Vec<OwnedRecord> = (0..20)
        .map(|offset| {
            let value = payload(offset, "n", &json!(1), b"b", 1_763_712_000_000);
            record(offset, Some(value.into_bytes()), None, None)
        })
        .collect();
    for output in all_formats() {
        let shape =
            Arc::new(Shape::of(&layout(output.clone(), None, TimestampSource::Kafka), "o", None).expect("a shape"));
        let bytes = object(&output, None, &records);
        for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            let outcome = read(stored(bytes[..end].to_vec(), Some(20)).await, shape.clone()).await;
            let failure = outcome.expect_err("it was cut off");
            assert_eq!(failure.exit, Exit::Stopped, "{output:?} cut to {end}: {failure}");
        }
        let other = read(stored(bytes, Some(21)).await, shape).await.expect_err("another number of rows");
        assert!(other.message.contains("20 rows") && other.message.contains("21"), "{other}");
    }
}

/// Stores may undo a codec that they were told of by `Content-Encoding`.
#[tokio::test]
async fn text_that_was_unpacked_on_the_way_is_read() {
    let records = [record(0, Some(b"{\"a\":1}".to_vec()), None, None)];
    for compression in text_codecs() {
        let packed = OutputFormat::Json { compression };
        let plain = object(&OutputFormat::Json { compression: Compression::None }, None, &records);
        let shape = Arc::new(Shape::of(&layout(packed, None, TimestampSource::Kafka), "o", None).expect("a shape"));
        let rows = read(stored(plain, Some(1)).await, shape).await.expect("lines");
        assert_eq!(rows[0].body, Body::Json(b"{\"a\":1}".to_vec()));
    }
}

/// Rows longer than a buffer, and more than a batch holds.
#[tokio::test]
async fn long_and_many_rows_come_back() {
    let long = format!("\"{}\"", "x".repeat(300_000));
    let records: Vec<OwnedRecord> = (0..2_000)
        .map(|offset| {
            let value = if offset % 700 == 3 { long.clone() } else { offset.to_string() };
            record(offset, Some(value.into_bytes()), None, None)
        })
        .collect();
    for compression in text_codecs() {
        let output = OutputFormat::Json { compression };
        let shape =
            Arc::new(Shape::of(&layout(output.clone(), None, TimestampSource::Kafka), "o", None).expect("a shape"));
        let rows = read(stored(object(&output, None, &records), Some(2_000)).await, shape).await.expect("lines");
        for (row, record) in rows.iter().zip(&records) {
            assert_eq!(row.index, record.offset.unsigned_abs());
            assert_eq!(row.body, Body::Json(record.value.clone().expect("a payload")));
        }
    }
}

/// Goal: the time of a row is the one that chose its window, where the row still tells it.
#[tokio::test]
async fn rows_tell_the_time_that_they_were_archived_by() {
    let at = 1_763_712_000_000;
    let field = TimestampSource::Field(vec!["at".into()]);
    let header = TimestampSource::Header("when".into());
    let keep = |columns: &[KeptColumn]| Some(Keep { columns: columns.to_vec(), prefix: "_".into() });
    let told = |value: &str| {
        let mut record = record(7, Some(value.as_bytes().to_vec()), None, None);
        record.headers = vec![("when".into(), Some(at.to_string().into_bytes()))];
        record
    };
    let kafka = told("").timestamp;
    let instant = format!("{{\"at\":{at}}}");
    let columns = || SchemaSource::Columns(vec![column("at", ColumnKind::Timestamp { unit: Some(TimeUnit::Ms) })]);
    let none = Compression::None;
    let json = || OutputFormat::Json { compression: none };
    let raw = || OutputFormat::Raw { compression: none, newlines: Newlines::Refuse };
    let envelope = || OutputFormat::Envelope { compression: none, row_group_bytes: 4096, row_group_rows: 10 };
    let avro = || OutputFormat::Avro {
        codec: AvroCodec::None,
        schema: columns(),
        unknown: UnknownFields::Rest,
        block_bytes: 4096,
    };
    for (output, keep, source, payload, expected) in [
        (json(), None, &field, instant.as_str(), Some(at)),
        (json(), None, &field, "{}", None),
        (json(), keep(&[KeptColumn::Timestamp]), &field, "{}", kafka),
        (json(), keep(&[KeptColumn::Timestamp]), &field, &instant, Some(at)),
        (json(), None, &TimestampSource::Kafka, &instant, None),
        (json(), keep(&[KeptColumn::Timestamp]), &TimestampSource::Kafka, &instant, kafka),
        (json(), keep(&[KeptColumn::Headers]), &header, "{}", Some(at)),
        (json(), keep(&[KeptColumn::Timestamp]), &header, "{}", None),
        (raw(), None, &field, &instant, Some(at)),
        (raw(), None, &field, "broken", None),
        (raw(), None, &header, &instant, None),
        (envelope(), None, &field, &instant, Some(at)),
        (envelope(), None, &field, "broken", kafka),
        (envelope(), None, &header, "broken", Some(at)),
        (envelope(), None, &TimestampSource::Kafka, &instant, kafka),
        (avro(), None, &field, &instant, Some(at)),
        (avro(), keep(&[KeptColumn::Timestamp]), &field, "{}", kafka),
    ] {
        let shape =
            Arc::new(Shape::of(&layout(output.clone(), keep.clone(), source.clone()), "o", None).expect("a shape"));
        let bytes = object(&output, keep.as_ref(), &[told(payload)]);
        let rows = read(stored(bytes, Some(1)).await, shape.clone()).await.expect("a row");
        assert_eq!(shape.teller.tell(&rows[0]).event_ms, expected, "{output:?} {keep:?} {source:?} {payload}");
    }
}
