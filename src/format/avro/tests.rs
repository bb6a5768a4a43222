//! Goal: what is accepted is read back by other readers, whole. Method: a typed reader of another library, and arrow's own
//! against Parquet files of the same rows.

use super::*;
use crate::format::parquet::roundtrip::{Rng, random_object, random_schema};
use crate::format::parquet::tests::read_back;
use crate::format::testing::{Sample, file_of};
use crate::layout::{ColumnKind, Compression, KeptColumn, OutputFormat, Pages, SchemaSource};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
};
use arrow_avro::reader::ReaderBuilder;
use arrow_schema::TimeUnit;
use proptest::prelude::*;
use serde_avro_fast::object_container_file_encoding::Reader;
use serde_json::json;
use std::io::Seek;

const CODECS: [AvroCodec; 4] = [AvroCodec::None, AvroCodec::Deflate, AvroCodec::Snappy, AvroCodec::Zstd];

fn column(name: &str, kind: ColumnKind, nullable: bool) -> Column {
    Column { name: name.to_string(), kind, nullable }
}

fn columns() -> Vec<Column> {
    let inner = vec![column("path", ColumnKind::String, false), column("n-1", ColumnKind::Int64, true)];
    vec![
        column("id", ColumnKind::Int64, false),
        column("user-agent", ColumnKind::String, true),
        column("user agent", ColumnKind::Json, true),
        column("1st", ColumnKind::Bytes, true),
        column("request", ColumnKind::Struct(inner.clone()), true),
        column("price", ColumnKind::Decimal { precision: 9, scale: 2 }, true),
        column("at", ColumnKind::Timestamp { unit: None }, true),
        column("day", ColumnKind::Date, true),
        column("items", ColumnKind::List(Box::new(column("", ColumnKind::Struct(inner), true))), true),
        column("args", ColumnKind::Map(Box::new(column("", ColumnKind::Float64, false))), true),
    ]
}

fn keep() -> Keep {
    Keep { columns: vec![KeptColumn::Headers, KeptColumn::Timestamp], prefix: "_kafka_".to_string() }
}

fn format(columns: &[Column], keep: Option<&Keep>, codec: AvroCodec) -> AvroFormat {
    AvroFormat::new(columns, keep, UnknownFields::Rest, codec, 1 << 20).expect("a format")
}

fn append(format: &dyn Format, payload: &str, rows: &mut Vec<u8>) {
    let mut sample = Sample::new(Some(payload.as_bytes()));
    sample.record.headers = vec![("h".to_string(), None)];
    sample.json_row(|row| format.append_row(row, rows)).expect(payload);
}

#[test]
fn the_schema_has_stable_names() {
    let format = format(&columns(), Some(&keep()), AvroCodec::None);
    let schema: Value = serde_json::from_str(&format.container.schema.metadata()[SCHEMA_METADATA_KEY]).expect("JSON");
    let of = |kind: &str, logical: &str| json!({"type": kind, "logicalType": logical});
    let nullable = |name: &str, kind: Value| json!({"name": name, "type": ["null", kind], "default": null});
    let named =
        |name: &str, kind: Value, doc: &str| json!({"name": name, "type": ["null", kind], "default": null, "doc": doc});
    let record = |name: &str, namespace: &str| {
        json!({"type": "record", "name": name, "namespace": namespace, "fields": [
            {"name": "path", "type": "string"}, named("n_1", json!("long"), "n-1"),
        ]})
    };
    let header = json!({"type": "record", "name": "element", "namespace": "siltstone.row._kafka_headers", "fields": [
        {"name": "name", "type": "string"}, nullable("value", json!("bytes")),
    ]});
    let expected = json!({"type": "record", "name": "row", "namespace": "siltstone", "fields": [
        {"name": "_kafka_headers", "type": {"type": "array", "items": header}},
        nullable("_kafka_timestamp", of("long", "timestamp-millis")),
        {"name": "id", "type": "long"},
        named("user_agent", json!("string"), "user-agent"),
        named("user_agent_2", json!("string"), "user agent"),
        named("_1st", json!("bytes"), "1st"),
        nullable("request", record("request", "siltstone.row")),
        nullable("price", json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2})),
        nullable("at", of("long", "timestamp-micros")),
        nullable("day", of("int", "date")),
        nullable("items", json!({"type": "array", "items": ["null", record("element", "siltstone.row.items")]})),
        nullable("args", json!({"type": "map", "values": "double"})),
        nullable("_rest", json!("string")),
    ]});
    assert_eq!(schema, expected);
}

#[derive(Debug, Deserialize, PartialEq)]
struct Found {
    id: i64,
    user_agent: Option<String>,
    request: Option<FoundRequest>,
    items: Option<Vec<Option<FoundRequest>>>,
    args: Option<BTreeMap<String, f64>>,
    #[serde(rename = "_rest")]
    rest: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct FoundRequest {
    path: String,
    n_1: Option<i64>,
}

#[test]
fn another_reader_reads_every_codec() {
    let payloads = [
        r#"{"id":1,"user-agent":"ä","request":{"path":"/a","n-1":-5},"items":[null,{"path":""}],"args":{"x":0.5},"new":[1]}"#,
        r#"{"id":-9223372036854775808}"#,
    ];
    let request = |path: &str, n_1| FoundRequest { path: path.to_string(), n_1 };
    let expected = [
        Found {
            id: 1,
            user_agent: Some("\u{e4}".to_string()),
            request: Some(request("/a", Some(-5))),
            items: Some(vec![None, Some(request("", None))]),
            args: Some([("x".to_string(), 0.5)].into()),
            rest: Some(r#"{"new":[1]}"#.to_string()),
        },
        Found { id: i64::MIN, user_agent: None, request: None, items: None, args: None, rest: None },
    ];
    for codec in CODECS {
        let format = format(&columns(), Some(&keep()), codec);
        let mut rows = Vec::new();
        payloads.iter().for_each(|payload| append(&format, payload, &mut rows));
        let file = file_of(&format, &[(rows.clone(), 2), (rows, 2)], &[]);
        let mut reader = Reader::from_slice(&file).expect("a container file");
        let found: Vec<Found> = reader.deserialize().collect::<Result<_, _>>().expect("rows");
        assert_eq!(found[..2], expected, "{codec:?}");
        assert_eq!(found[2..], expected, "{codec:?}");
    }
}

/// F-2: nothing of chance is in a file, and other schemas and codecs have other markers.
#[test]
fn equal_rows_give_equal_bytes() {
    let mut markers = HashSet::new();
    for codec in CODECS {
        for columns in [columns(), columns()[..1].to_vec()] {
            let made = || {
                let format = format(&columns, None, codec);
                let mut rows = Vec::new();
                append(&format, r#"{"id":7}"#, &mut rows);
                file_of(&format, &[(rows, 1)], &[])
            };
            let file = made();
            assert_eq!(file, made());
            markers.insert(file[file.len() - MARKER_BYTES..].to_vec());
        }
    }
    assert_eq!(markers.len(), 8);
}

#[test]
fn wide_rows_of_nulls_have_blocks_of_few() {
    let many: Vec<Column> =
        (0..2_000).map(|at| column(&format!("c{at}"), ColumnKind::Decimal { precision: 38, scale: 0 }, true)).collect();
    let format = format(&many, None, AvroCodec::None);
    let limit = format.block_limit().rows;
    assert_eq!(limit, BLOCK_CELLS_MAX / 2_001);
    let mut rows = Vec::new();
    (0..limit).for_each(|_| append(&format, "{}", &mut rows));
    assert_eq!(rows.len(), usize::try_from(limit).expect("few"));
    assert!(format.encoding_memory(u64::from(limit)) >= u64::from(limit) * 2_001 * 17);
    let file = file_of(&format, &[(rows, limit)], &[]);
    let reader = ReaderBuilder::new().build(file.as_slice()).expect("a container file");
    let found: usize = reader.map(|batch| batch.expect("rows").num_rows()).sum();
    assert_eq!(u32::try_from(found), Ok(limit));
}

#[test]
fn a_block_of_other_rows_is_an_error_not_a_file() {
    let format = format(&columns(), None, AvroCodec::Deflate);
    let mut rows = Vec::new();
    append(&format, r#"{"id":7}"#, &mut rows);
    for (rows, count) in [(&rows[..], 2), (&rows[..rows.len() - 1], 1), (b"\xff\xff", 1), (b"\x00", 1)] {
        assert!(format.encode_block(rows, count).is_err(), "{rows:?}");
    }
}

/// What a reader finds at row `at`, without names: records are lists of their values.
fn plain(array: &dyn Array, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(at)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(at)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(at).to_bits()),
        DataType::Utf8 => json!(array.as_string::<i32>().value(at)),
        DataType::Binary => json!(array.as_binary::<i32>().value(at)),
        DataType::Date32 => json!(array.as_primitive::<Date32Type>().value(at)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            json!(array.as_primitive::<TimestampMillisecondType>().value(at))
        }
        DataType::Timestamp(..) => json!(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value(at).to_string()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| plain(column, at)).collect(),
        DataType::List(_) => {
            let elements = array.as_list::<i32>().value(at);
            (0..elements.len()).map(|index| plain(&elements, index)).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(at);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
            (0..entries.len()).map(|index| json!([keys.value(index), plain(values, index)])).collect()
        }
        other => panic!("no column has the type {other}"),
    }
}

fn plain_rows(batches: &[RecordBatch]) -> Vec<Vec<Value>> {
    let row = |batch: &RecordBatch, at| batch.columns().iter().map(|column| plain(column, at)).collect();
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |at| row(batch, at))).collect()
}

proptest! {
    /// F-3: Avro holds what Parquet holds, whatever columns and rows are.
    #[test]
    fn files_hold_what_parquet_holds(seed: u64) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let avro = format(&columns, Some(&keep()), CODECS[rng.index(4)]);
        let output = OutputFormat::Parquet {
            compression: Compression::None,
            schema: SchemaSource::Columns(columns.clone()),
            unknown: UnknownFields::Rest,
            row_group_bytes: 1 << 20,
            row_group_rows: 1_000,
            pages: Pages::default(),
        };
        let parquet = crate::format::build(&output, Some(&keep()), None).expect("a format");
        let (mut rows, mut of_parquet) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let payload = random_object(&mut rng, &columns).text;
            append(&avro, &payload, &mut rows);
            append(&*parquet, &payload, &mut of_parquet);
        }
        let file = file_of(&avro, &[(rows, 20)], &[]);
        let mut stored = tempfile::tempfile().expect("a temporary file");
        stored.write_all(&file).expect("written");
        stored.rewind().expect("back at its begin");
        prop_assert_eq!(avro.count_rows(stored).expect("a file of its own"), 20);
        let reader = ReaderBuilder::new().build(file.as_slice()).expect("a container file");
        let found: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("rows");
        let expected = read_back(file_of(&*parquet, &[(of_parquet, 20)], &[]));
        prop_assert_eq!(plain_rows(&found), plain_rows(&expected), "seed {}", seed);
    }
}
