use super::roundtrip::found_rows;
use super::*;
use crate::format::testing::{Sample, Shared, file_of};
use crate::layout::{ColumnKind, Dictionaries, KeptColumn, Pages, TimeUnit};
use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::printer::print_schema;
use serde_json::{Value, json};

pub(super) const LIMIT: BlockLimit = BlockLimit { bytes: 1 << 20, rows: 1000 };

pub(super) fn column(name: &str, kind: ColumnKind) -> Column {
    Column { name: name.to_string(), kind, nullable: true }
}

fn required(name: &str, kind: ColumnKind) -> Column {
    Column { name: name.to_string(), kind, nullable: false }
}

fn keep_all() -> Keep {
    use KeptColumn::{Headers, Key, Offset, Partition, Timestamp, Topic};
    Keep { columns: vec![Key, Headers, Timestamp, Topic, Partition, Offset], prefix: "k_".to_string() }
}

/// A schema with one of everything.
fn wide_schema() -> Vec<Column> {
    vec![
        column("ok", ColumnKind::Bool),
        column("n", ColumnKind::Int64),
        column("f", ColumnKind::Float64),
        column("s", ColumnKind::String),
        column("raw", ColumnKind::Bytes),
        column("any", ColumnKind::Json),
        column("day", ColumnKind::Date),
        column("at", ColumnKind::Timestamp { unit: Some(TimeUnit::Ms) }),
        column("small", ColumnKind::Decimal { precision: 9, scale: 2 }),
        column("price", ColumnKind::Decimal { precision: 18, scale: 4 }),
        column("huge", ColumnKind::Decimal { precision: 38, scale: 10 }),
        column(
            "req",
            ColumnKind::Struct(vec![
                column("path", ColumnKind::String),
                column("args", ColumnKind::Map(Box::new(column("value", ColumnKind::Int64)))),
            ]),
        ),
        column(
            "items",
            ColumnKind::List(Box::new(column("any", ColumnKind::Struct(vec![column("id", ColumnKind::Int64)])))),
        ),
    ]
}

const WIDE_ROW: &str = concat!(
    r#"{"ok":true,"n":1.0,"f":-0.5,"s":"ä\n","raw":"AP8=","any":{"x": [1]},"day":"2025-11-21","#,
    r#""at":1763712000123,"small":"1.5","price":-2,"huge":0.0000000001,"#,
    r#""req":{"path":"/a","args":{"q":1,"z":null}},"items":[{"id":1},null,{}]}"#
);

pub(super) fn format(columns: &[Column], keep: Option<&Keep>, unknown: UnknownFields) -> ParquetFormat {
    ParquetFormat::new(columns, keep, unknown, Compression::Zstd(3), LIMIT, &PageRules::USUAL).expect("a valid schema")
}

fn append(format: &ParquetFormat, payload: &str, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
    Sample::new(Some(payload.as_bytes())).json_row(|row| format.append_row(row, rows))
}

/// The row of `payload`, through a file and back.
fn row_found(format: &ParquetFormat, payload: &str) -> Value {
    let mut rows = Vec::new();
    append(format, payload, &mut rows).expect(payload);
    found_rows(&read_back(file_of(format, &[(rows, 1)], &[]))).remove(0)
}

/// Why `payload` is refused; also checks that it leaves nothing behind (F-3).
fn reason(format: &ParquetFormat, payload: &str) -> String {
    let mut rows = b"before".to_vec();
    let refused = append(format, payload, &mut rows).expect_err(payload);
    assert_eq!(rows, b"before", "{payload}");
    refused.0
}

pub(in crate::format) fn read_back(file: Vec<u8>) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).expect("a Parquet file");
    reader.with_batch_size(100_000).build().expect("readable").collect::<Result<_, _>>().expect("readable rows")
}

#[test]
fn a_file_has_the_types_that_readers_expect() {
    let format = format(&wide_schema(), Some(&keep_all()), UnknownFields::Rest);
    let file = SerializedFileReader::new(Bytes::from(file_of(&format, &[], &[]))).expect("a file without rows");
    let mut text = Vec::new();
    print_schema(&mut text, file.metadata().file_metadata().schema());
    let expected = "message schema {
  OPTIONAL BYTE_ARRAY k_key;
  REQUIRED group k_headers (LIST) {
    REPEATED group list {
      REQUIRED group element {
        REQUIRED BYTE_ARRAY name (STRING);
        OPTIONAL BYTE_ARRAY value;
      }
    }
  }
  OPTIONAL INT64 k_timestamp (TIMESTAMP(MILLIS,true));
  REQUIRED BYTE_ARRAY k_topic (STRING);
  REQUIRED INT32 k_partition;
  REQUIRED INT64 k_offset;
  OPTIONAL BOOLEAN ok;
  OPTIONAL INT64 n;
  OPTIONAL DOUBLE f;
  OPTIONAL BYTE_ARRAY s (STRING);
  OPTIONAL BYTE_ARRAY raw;
  OPTIONAL BYTE_ARRAY any (JSON);
  OPTIONAL INT32 day (DATE);
  OPTIONAL INT64 at (TIMESTAMP(MICROS,true));
  OPTIONAL INT32 small (DECIMAL(9,2));
  OPTIONAL INT64 price (DECIMAL(18,4));
  OPTIONAL FIXED_LEN_BYTE_ARRAY (16) huge (DECIMAL(38,10));
  OPTIONAL group req {
    OPTIONAL BYTE_ARRAY path (STRING);
    OPTIONAL group args (MAP) {
      REPEATED group key_value {
        REQUIRED BYTE_ARRAY key (STRING);
        OPTIONAL INT64 value;
      }
    }
  }
  OPTIONAL group items (LIST) {
    REPEATED group list {
      OPTIONAL group element {
        OPTIONAL INT64 id;
      }
    }
  }
  OPTIONAL BYTE_ARRAY _rest (JSON);
}
";
    assert_eq!(String::from_utf8(text).expect("text"), expected);
    let created_by = file.metadata().file_metadata().created_by().expect("set");
    assert_eq!(created_by, format!("siltstone version {} (build rows1)", env!("CARGO_PKG_VERSION")));
    assert_eq!(file.metadata().file_metadata().num_rows(), 0);
}

#[test]
fn rows_come_back_as_they_went_in() {
    let format = format(&wide_schema(), Some(&keep_all()), UnknownFields::Rest);
    let mut sample = Sample::new(Some(WIDE_ROW.as_bytes()));
    sample.record.key = Some(vec![0, 255]);
    sample.record.headers = vec![("h".to_string(), Some(b"v".to_vec())), ("h".to_string(), None)];
    let mut rows = Vec::new();
    sample.json_row(|row| format.append_row(row, &mut rows)).expect("fits");
    sample.record.value = None;
    sample.record.key = None;
    sample.record.headers.clear();
    sample.record.timestamp = None;
    sample.json_row(|row| format.append_row(row, &mut rows)).expect("a tombstone");

    let metadata = [("first".to_string(), "17".to_string())];
    let file = file_of(&format, &[(rows, 2)], &metadata);
    let expected = [
        json!({"k_key": "AP8=", "k_headers": [{"name": "h", "value": "dg=="}, {"name": "h"}],
            "k_timestamp": 1_763_712_000_000_i64, "k_topic": "access", "k_partition": 3, "k_offset": 17,
            "ok": true, "n": 1, "f": -0.5, "s": "ä\n", "raw": "AP8=", "any": "{\"x\": [1]}", "day": 20_413,
            "at": 1_763_712_000_123_000_i64, "small": "150", "price": "-20000", "huge": "1",
            "req": {"path": "/a", "args": {"q": 1, "z": null}}, "items": [{"id": 1}, null, {}]}),
        json!({"k_headers": [], "k_topic": "access", "k_partition": 3, "k_offset": 17}),
    ];
    assert_eq!(found_rows(&read_back(file.clone())), expected);
    let reader = SerializedFileReader::new(Bytes::from(file)).expect("a Parquet file");
    let found = reader.metadata().file_metadata().key_value_metadata().expect("set");
    assert_eq!((found[0].key.as_str(), found[0].value.as_deref()), ("first", Some("17")));
}

#[test]
fn fields_outside_the_schema_follow_the_rule() {
    let payload = r#"{"x": {"y": 1},"n":1,"req":{"new":"a","path":"/","args":{"q":1}},"items":[{"id":1},{"more":[2]}],"_rest":0}"#;
    let columns = wide_schema();
    let rest = format(&columns, None, UnknownFields::Rest);
    let expected = json!({"n": 1, "req": {"path": "/", "args": {"q": 1}}, "items": [{"id": 1}, {}],
        "_rest": r#"{"x":{"y": 1},"req":{"new":"a"},"items":{"1":{"more":[2]}},"_rest":0}"#});
    assert_eq!(row_found(&rest, payload), expected);

    let drop = format(&columns, None, UnknownFields::Drop);
    let appended = append(&drop, payload, &mut Vec::new()).expect("fits");
    assert_eq!(appended.fields_dropped, 4);
    assert_eq!(append(&drop, WIDE_ROW, &mut Vec::new()).expect("fits").fields_dropped, 0);

    let refuse = format(&columns, None, UnknownFields::DeadLetter);
    assert_eq!(reason(&refuse, payload), "field `x`: the schema has no such field");
    assert_eq!(reason(&refuse, r#"{"items":[{"a":1}]}"#), "field `items[0].a`: the schema has no such field");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let columns = vec![
        required("id", ColumnKind::Int64),
        column("when", ColumnKind::Timestamp { unit: None }),
        column("req", ColumnKind::Struct(vec![required("path", ColumnKind::String)])),
        column("tags", ColumnKind::List(Box::new(required("e", ColumnKind::Bool)))),
        column("args", ColumnKind::Map(Box::new(required("v", ColumnKind::Int64)))),
    ];
    let format = format(&columns, None, UnknownFields::Rest);
    let cases = [
        ("{}", "field `id`: the column is required, the field is missing"),
        (r#"{"id":null}"#, "field `id`: the column is required, the value is null"),
        (r#"{"id":"7"}"#, "field `id`: expected an integer, found `\\\"7\\\"`"),
        (r#"{"id":1,"id":1}"#, "field `id`: the field is there twice"),
        (r#"{"id":1,"x":1,"y":2,"x":3}"#, "field `x`: the field is there twice"),
        (r#"{"id":1,"i\u0064":1}"#, "field `id`: the field is there twice"),
        (r#"{"id":1,"when":"soon"}"#, "field `when`: expected a time as RFC 3339, found `\\\"soon\\\"`"),
        (r#"{"id":1,"req":{}}"#, "field `req.path`: the column is required, the field is missing"),
        (r#"{"id":1,"req":{"path":{"a":1}}}"#, "field `req.path`: expected a string, found `{\\\"a\\\":1}`"),
        (r#"{"id":1,"req":[1]}"#, "field `req`: expected an object, found `[1]`"),
        (r#"{"id":1,"tags":true}"#, "field `tags`: expected an array, found `true`"),
        (r#"{"id":1,"tags":[true,null]}"#, "field `tags[1]`: the column is required, the value is null"),
        (r#"{"id":1,"args":{"a.b":0,"c":"x"}}"#, "field `args.c`: expected an integer, found `\\\"x\\\"`"),
        (r#"{"id":1,"args":{"c":1,"c":2}}"#, "field `args.c`: the key is there twice"),
        ("[1]", "the payload is no object but `[1]`"),
        ("null", "the payload is no object but `null`"),
        (r#"{"id":1,"#, "the JSON ends too early at line 1 column 8"),
        (r#"{"id":1}x"#, "the JSON breaks at line 1 column 9"),
        ("", "the payload is empty"),
    ];
    for (payload, expected) in cases {
        assert_eq!(reason(&format, payload), expected, "{payload}");
    }
    let mut rows = Vec::new();
    let tombstone = Sample::new(None).json_row(|row| format.append_row(row, &mut rows));
    assert_eq!(tombstone.expect_err("id is required").0, "field `id`: the column is required, the field is missing");
    assert!(rows.is_empty());
}

#[test]
fn schemas_that_cannot_be_files_are_refused() {
    let int = |name: &str| column(name, ColumnKind::Int64);
    let decimal = |precision, scale| column("d", ColumnKind::Decimal { precision, scale });
    let mut deep = int("x");
    for _ in 0..schema::DEPTH_MAX {
        deep = column("x", ColumnKind::List(Box::new(deep)));
    }
    let cases = [
        (vec![int("a"), int("A")], "column `A`"),
        (vec![int("")], "column ``: the name is empty"),
        (vec![int("k_Key")], "column `k_Key`: a kept column"),
        (vec![int("_rest")], "column `_rest`: a kept column"),
        (vec![column("s", ColumnKind::Struct(vec![]))], "column `s`: a struct without fields"),
        (vec![column("s", ColumnKind::Struct(vec![int("x"), int("x")]))], "column `s.x`"),
        (vec![decimal(39, 0)], "column `d`: decimal(39, 0)"),
        (vec![decimal(0, 0)], "column `d`"),
        (vec![decimal(5, 6)], "column `d`"),
        (vec![decimal(5, -1)], "column `d`"),
        (vec![deep], "nested deeper"),
    ];
    for (columns, expected) in cases {
        let refused = schema::check_columns(&columns, Some(&keep_all()), UnknownFields::Rest).expect_err(expected);
        assert!(refused.contains(expected), "{refused}");
    }
    assert!(schema::check_columns(&[], None, UnknownFields::Drop).is_err());
    assert!(schema::check_columns(&[], None, UnknownFields::Rest).is_ok());
    let many = |limit| {
        let (unknown, zstd) = (UnknownFields::Rest, Compression::Zstd(20));
        ParquetFormat::new(&[int("a")], None, unknown, zstd, limit, &PageRules::USUAL).err()
    };
    assert!(many(LIMIT).expect("refused").contains("zstd level 20"));
}

fn log_rows(format: &ParquetFormat, count: u32) -> Vec<u8> {
    let mut rows = Vec::new();
    for at in 0..count {
        let payload = format!(r#"{{"n":{at},"s":"host-{}","f":{}.25,"extra":{{"a":{at}}}}}"#, at % 7, at % 100);
        append(format, &payload, &mut rows).expect("fits");
    }
    rows
}

#[test]
fn bytes_do_not_depend_on_thread_or_history() {
    let all = [Compression::None, Compression::Snappy, Compression::Lz4, Compression::Gzip(6), Compression::Zstd(3)];
    for compression in all {
        let make = || {
            let pages = Pages { bloom_filters: vec!["s".to_string(), "n".to_string()], ..Pages::default() };
            let (unknown, rules) = (UnknownFields::Rest, PageRules { pages: &pages, is_given: true });
            let format = ParquetFormat::new(&wide_schema(), Some(&keep_all()), unknown, compression, LIMIT, &rules)
                .expect("a valid schema");
            let blocks = [(log_rows(&format, 10_000), 10_000), (log_rows(&format, 1), 1)];
            file_of(&format, &blocks, &[])
        };
        let first = make();
        assert_eq!(first, make(), "{compression:?}");
        let elsewhere = std::thread::scope(|scope| scope.spawn(make).join().expect("no panic"));
        assert_eq!(first, elsewhere, "{compression:?}");
        let rows: usize = read_back(first).iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 10_001);
    }
}

#[test]
fn one_block_is_one_row_group_with_statistics() {
    let format = format(&wide_schema(), None, UnknownFields::Rest);
    let file = file_of(&format, &[(log_rows(&format, 9000), 9000), (log_rows(&format, 5), 5)], &[]);
    let reader = SerializedFileReader::new(Bytes::from(file)).expect("a Parquet file");
    let groups = reader.metadata().row_groups();
    assert_eq!(groups.iter().map(|group| group.num_rows()).collect::<Vec<_>>(), [9000, 5]);
    let statistics = groups[0].column(1).statistics().expect("of column n");
    let number = |bytes: Option<&[u8]>| bytes.and_then(|b| b.try_into().ok()).map(i64::from_le_bytes);
    assert_eq!((number(statistics.min_bytes_opt()), number(statistics.max_bytes_opt())), (Some(0), Some(8999)));
    assert!(groups[0].column(3).dictionary_page_offset().is_some());
}

/// Blocks are encoded on one thread and placed by another.
fn with_pages(pages: &Pages, is_given: bool) -> Result<ParquetFormat, String> {
    let (columns, rules) = (wide_schema(), PageRules { pages, is_given });
    ParquetFormat::new(&columns, Some(&keep_all()), UnknownFields::Rest, Compression::Zstd(3), LIMIT, &rules)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn filters_dictionaries_and_page_sizes_are_where_they_are_asked_for() {
    let pages = Pages {
        bloom_filters: names(&["s", "req.path", "items.list.element.id"]),
        dictionary: Dictionaries::Only(names(&["s"])),
        page_bytes: Some(4 << 10),
    };
    let format = with_pages(&pages, true).expect("a format");
    let file = file_of(&format, &[(log_rows(&format, 2_000), 2_000), (log_rows(&format, 10), 10)], &[]);
    let options = parquet::file::serialized_reader::ReadOptionsBuilder::new().with_reader_properties(
        parquet::file::properties::ReaderProperties::builder().set_read_bloom_filter(true).build(),
    );
    let reader = SerializedFileReader::new_with_options(Bytes::from(file.clone()), options.with_page_index().build())
        .expect("a file");
    for group in 0..2 {
        let read = reader.get_row_group(group).expect("a row group");
        for (at, column) in read.metadata().columns().iter().enumerate() {
            let path = column.column_path().string();
            let has_filter = pages.bloom_filters.contains(&path);
            assert_eq!(column.bloom_filter_offset().is_some(), has_filter, "{path}");
            let has_dictionary = column.dictionary_page_offset().is_some();
            assert!(!has_dictionary || path == "s", "{path}");
            assert!(column.statistics().is_some() || !matches!(path.as_str(), "s" | "n" | "f"), "{path}");
            if path == "s" {
                assert!(has_dictionary, "{path}");
                let filter = read.get_column_bloom_filter(at).expect("a filter");
                assert!(filter.check(&"host-3") && !filter.check(&"host-77") && !filter.check(&"ghost"));
            }
            if path == "n" && group == 0 {
                let index = reader.metadata().offset_index().expect("an index");
                let pages = index[group][at].page_locations().len();
                assert!(pages >= 2, "16 kB of numbers in pages of 4 KiB: {pages}");
            }
        }
    }
    let large = format.encoding_memory(1 << 20);
    assert!(large > with_pages(&Pages::default(), true).expect("a format").encoding_memory(1 << 20));
    assert!(large < 3 << 20, "{large}");
    assert_eq!(read_back(file).iter().map(RecordBatch::num_rows).sum::<usize>(), 2_010);

    let none = with_pages(&Pages { dictionary: Dictionaries::None, ..Pages::default() }, true).expect("a format");
    let file = file_of(&none, &[(log_rows(&none, 100), 100)], &[]);
    let reader = SerializedFileReader::new(Bytes::from(file)).expect("a file");
    assert!(reader.metadata().row_group(0).columns().iter().all(|column| column.dictionary_page_offset().is_none()));
}

#[test]
fn page_rules_name_columns_that_are_there() {
    let filters = |list: &[&str]| Pages { bloom_filters: names(list), ..Pages::default() };
    let only = Pages { dictionary: Dictionaries::Only(names(&["none"])), ..Pages::default() };
    for (pages, reason) in [
        (filters(&["nine"]), "bloom_filters: no column nine; there are k_key, k_headers"),
        (filters(&["req"]), "no column req;"),
        (filters(&["s", "s"]), "named twice"),
        (filters(&["ok"]), "true or false"),
        (only, "dictionary: no column none"),
    ] {
        let found = with_pages(&pages, true).err().expect(reason);
        assert!(found.contains(reason), "{found}");
        if !reason.contains("twice") {
            with_pages(&pages, false).map(drop).expect("of inferred columns nobody knows");
        }
    }
}

#[test]
fn blocks_and_assemblers_cross_threads() {
    fn crosses<T: Send>() {}
    crosses::<EncodedBlock>();
    crosses::<Box<dyn Assembler>>();
}

#[test]
fn a_block_of_other_rows_is_an_error_not_a_file() {
    let format = format(&wide_schema(), None, UnknownFields::Rest);
    let rows = log_rows(&format, 3);
    for (rows, count) in
        [(rows.as_slice(), 2), (&rows[..rows.len() - 5], 3), (b"{\"n\":\"x\"}\n".as_slice(), 1), (b"".as_slice(), 1)]
    {
        assert!(matches!(format.encode_block(rows, count), Err(FormatError::Encode { .. })));
    }
}

#[test]
fn large_rows_and_wide_schemas_fit() {
    let columns: Vec<Column> = (0..1000).map(|at| column(&format!("c{at}"), ColumnKind::Int64)).collect();
    let wide = format(&columns, None, UnknownFields::Rest);
    let members: Vec<String> = (0..1000).map(|at| format!("\"c{at}\":{at}")).collect();
    let payload = format!("{{{}}}", members.join(","));
    let mut rows = Vec::new();
    for _ in 0..300 {
        append(&wide, &payload, &mut rows).expect("fits");
    }
    let found: usize = read_back(file_of(&wide, &[(rows, 300)], &[])).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(found, 300);

    let text = format(&[column("s", ColumnKind::String)], None, UnknownFields::Rest);
    let payload = format!("{{\"s\":\"{}\",\"x\":\"{}\"}}", "a".repeat(3 << 20), "b".repeat(3 << 20));
    let mut rows = Vec::new();
    for _ in 0..3 {
        append(&text, &payload, &mut rows).expect("fits");
    }
    let batches = read_back(file_of(&text, &[(rows, 3)], &[]));
    assert_eq!(batches[0].num_rows(), 3);
}

/// JSON that is valid and still odd, through a file and back: nothing of it is lost or changed.
#[test]
fn odd_payloads_come_back_as_they_were() {
    let columns = [
        column("a.b", ColumnKind::Int64),
        column("a", ColumnKind::Struct(vec![column("b", ColumnKind::Int64)])),
        column("s", ColumnKind::String),
        column("j", ColumnKind::Json),
        column(
            "l",
            ColumnKind::List(Box::new(column(
                "e",
                ColumnKind::List(Box::new(column("e", ColumnKind::Struct(vec![column("x", ColumnKind::Int64)])))),
            ))),
        ),
    ];
    let format = format(&columns, None, UnknownFields::Rest);
    let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
    let deep_payload = format!(r#"{{"j":{deep},"new":{deep}}}"#);
    let cases = [
        (r#"{"a.b":1,"a":{"b":2,"B":3},"A":4}"#, json!({"a.b": 1, "a": {"b": 2}, "_rest": r#"{"a":{"B":3},"A":4}"#})),
        (r#"{"s":"x\u0000y","\u0000":"\u0000","":5}"#, json!({"s": "x\0y", "_rest": r#"{"\u0000":"\u0000","":5}"#})),
        (r#"{"_rest":{"_rest":1},"_REST":2}"#, json!({"_rest": r#"{"_rest":{"_rest":1},"_REST":2}"#})),
        (
            r#"{"j":{"a":1,"a":2,"n":1e999},"x":-1e-999}"#,
            json!({"j": r#"{"a":1,"a":2,"n":1e999}"#, "_rest": r#"{"x":-1e-999}"#}),
        ),
        (
            r#"{"j":"\ud83d\ude00\\ud800","x":"\\\ud83d\ude00"}"#,
            json!({"j": r#""\ud83d\ude00\\ud800""#, "_rest": r#"{"x":"\\\ud83d\ude00"}"#}),
        ),
        (r#"{"l":[[{"x":null},null,{"x":1}],null,[]],"a":null}"#, json!({"l": [[{}, null, {"x": 1}], null, []]})),
        (r#"{"l":[],"a":{},"j":null,"s":""}"#, json!({"l": [], "a": {}, "s": ""})),
        (
            r#"{"l":[[{"y":1}],[],[{},{"y":2}]]}"#,
            json!({"l": [[{}], [], [{}, {}]], "_rest": r#"{"l":{"0":{"0":{"y":1}},"2":{"1":{"y":2}}}}"#}),
        ),
        (&deep_payload, json!({"j": &deep, "_rest": format!(r#"{{"new":{deep}}}"#)})),
    ];
    for (payload, expected) in cases {
        assert_eq!(row_found(&format, payload), expected, "{payload}");
    }
}

/// One row that a reader cannot read makes it refuse the whole file: DuckDB does so for JSON text that holds half a
/// surrogate pair, and for Kafka timestamps past its calendar.
#[test]
fn what_would_make_a_file_unreadable_is_refused() {
    let plain = format(&[column("j", ColumnKind::Json)], None, UnknownFields::Rest);
    let half = r#"{"j":"\ud800"}"#;
    assert!(reason(&plain, half).starts_with("field `j`: half a surrogate pair is no character"));
    for payload in [
        r#"{"x":{"y":["\udc00"]}}"#,
        r#"{"x":"\uD83D\u0041"}"#,
        r#"{"j":["\\\ud83d"]}"#,
        r#"{"j":{"\udfff":1}}"#,
        r#"{"\ud800":1}"#,
    ] {
        reason(&plain, payload);
    }
    let drop = format(&[], Some(&keep_all()), UnknownFields::Drop);
    assert_eq!(append(&drop, half, &mut Vec::new()).expect("only dropped").fields_dropped, 1);

    let mut sample = Sample::new(Some(b"{}"));
    for (ms, fits) in [
        (-62_135_596_800_001, false),
        (-62_135_596_800_000, true),
        (253_402_300_799_999, true),
        (253_402_300_800_000, false),
        (i64::MAX, false),
        (i64::MIN, false),
    ] {
        sample.record.timestamp = Some(ms);
        let mut rows = b"before".to_vec();
        let outcome = sample.json_row(|row| drop.append_row(row, &mut rows));
        assert_eq!((outcome.is_ok(), rows.len() > 6), (fits, fits), "{ms}: {outcome:?}");
    }
}

/// Goal: no payload makes many more values than it has bytes, and those of real records pass. Method: elements that leave everything
/// out, in lists, maps and lists of lists.
#[test]
fn elements_that_leave_all_out_are_bounded() {
    let wide = ColumnKind::Struct((0..200).map(|number| column(&format!("f{number}"), ColumnKind::Int64)).collect());
    let list = |kind: ColumnKind| ColumnKind::List(Box::new(column("element", kind)));
    let columns = [
        column("list", list(wide.clone())),
        column("map", ColumnKind::Map(Box::new(column("value", wide)))),
        column("deep", list(list(ColumnKind::Int64))),
    ];
    let format = format(&columns, None, UnknownFields::Rest);
    let appended = |json: &str| append(&format, json, &mut Vec::new()).map(drop).map_err(|error| error.to_string());
    let many = |element: &str, count: usize| vec![element; count].join(",");
    for element in ["{}", "null"] {
        appended(&format!(r#"{{"list":[{}]}}"#, many(element, 1_000))).expect("few");
        let problem = appended(&format!(r#"{{"list":[{}]}}"#, many(element, 100_000))).expect_err("too many");
        assert!(problem.contains("too many values"), "{problem}");
    }
    let entries: Vec<String> = (0..50_000).map(|number| format!("\"{number}\":{{}}")).collect();
    appended(&format!(r#"{{"map":{{{}}}}}"#, entries.join(","))).expect_err("too many");
    appended(&format!(r#"{{"list":[{}]}}"#, many(r#"{"f7":12345678901234567}"#, 100_000)))
        .expect("as many as real ones");
    appended(&format!(r#"{{"deep":[{}]}}"#, many("[1,2]", 300_000))).expect("no more values than bytes");
}

/// Goal: what an open file keeps for its footer is counted. Method: against the memory of the footer when it is read back, for
/// wide and for narrow rows, few and many pages.
#[test]
fn what_goes_into_the_footer_is_counted() {
    let wide = format(&wide_schema(), Some(&keep_all()), UnknownFields::Drop);
    let small_pages = Pages { page_bytes: Some(4 << 10), ..Pages::default() };
    let rules = PageRules { pages: &small_pages, is_given: true };
    let texts = [column("n", ColumnKind::Int64), column("s", ColumnKind::String)];
    let narrow = ParquetFormat::new(&texts, None, UnknownFields::Drop, Compression::Zstd(3), LIMIT, &rules)
        .expect("a valid schema");
    let narrow_row = |row: usize| format!(r#"{{"n":{row},"s":"{row:x>100}"}}"#);
    let wide_row = |_: usize| WIDE_ROW.to_string();
    type Row<'a> = &'a dyn Fn(usize) -> String;
    let cases = [(&wide, &wide_row as Row<'_>, 30), (&narrow, &narrow_row, 1000)];
    for (format, row, rows_of_a_group) in cases {
        let out = Shared::default();
        let mut assembler = format.assemble(Box::new(out.clone())).expect("a file");
        for group in 0..50 {
            let mut rows = Vec::new();
            for number in 0..rows_of_a_group {
                append(format, &row(group * rows_of_a_group + number), &mut rows).expect("a row");
            }
            let block = format.encode_block(&rows, rows_of_a_group as u32).expect("a block");
            assembler.append(block).expect("appended");
        }
        let counted = assembler.memory();
        assembler.finish(&[]).expect("finished");
        let file = Bytes::from(out.0.lock().expect("no panic before").clone());
        let indexes = parquet::file::metadata::PageIndexPolicy::Required;
        let metadata = parquet::file::metadata::ParquetMetaDataReader::new()
            .with_page_index_policy(indexes)
            .parse_and_finish(&file)
            .expect("its own file");
        let pages: usize = metadata
            .offset_index()
            .expect("page indexes")
            .iter()
            .flatten()
            .map(|index| index.page_locations().len())
            .sum();
        let there = metadata.memory_size() as u64;
        assert!(counted >= there && counted < there * 3, "{counted} counted, {there} there, {pages} pages");
    }
}
