//! Goal: every row of a payload fits the columns of its schema. Method: payloads with a value of every type, decoded, and
//! written to Parquet that refuses fields outside its columns.

use super::super::tests::{avro_payload, avro_schema, rows};
use super::*;
use crate::format;
use crate::layout::{Compression, Decode, OutputFormat, Pages, SchemaSource, UnknownFields};
use crate::record::OwnedRecord;
use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MessageOptions, OneofDescriptorProto,
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

/// Columns in few words: `name kind`, with `?` where null is allowed.
fn shown(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| format!("{} {}", column.name, kind_of(column))).collect()
}

fn kind_of(column: &Column) -> String {
    let kind = match &column.kind {
        ColumnKind::Struct(fields) => format!("{{{}}}", shown(fields).join(", ")),
        ColumnKind::List(element) => format!("[{}]", kind_of(element)),
        ColumnKind::Map(value) => format!("<{}>", kind_of(value)),
        ColumnKind::Timestamp { unit } => format!("Timestamp {unit:?}"),
        ColumnKind::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
        other => format!("{other:?}"),
    };
    if column.nullable { format!("{kind}?") } else { kind }
}

/// Writes `row` to a Parquet file of `columns`, which takes no other fields.
fn write(columns: &[Column], row: &str) {
    let output = OutputFormat::Parquet {
        compression: Compression::None,
        schema: SchemaSource::Columns(columns.to_vec()),
        unknown: UnknownFields::DeadLetter,
        row_group_bytes: 1 << 20,
        row_group_rows: 10,
        pages: Pages::default(),
    };
    let format = format::build(&output, None, None).expect("columns that Parquet has");
    let record = OwnedRecord::default();
    let record = record.as_record();
    let mut block = Vec::new();
    let row = format::Row { record: &record, json: Some(row), event_ms: 0 };
    if let Err(refused) = format.append_row(&row, &mut block) {
        panic!("{refused}: {row}", row = row.json.unwrap_or_default());
    }
    format.encode_block(&block, 1).expect("what was accepted can be encoded");
}

fn avro_of(fields: Value) -> String {
    json!({"type": "record", "name": "Row", "fields": fields}).to_string()
}

#[test]
fn avro_rows_fit_their_columns() {
    let schema = avro_schema().to_string();
    let columns = columns_of_avro(&schema).expect("columns");
    assert_eq!(
        shown(&columns),
        [
            "nothing Json?",
            "yes Bool",
            "int Int64",
            "long Int64?",
            "float Float64",
            "double Float64",
            "bytes Bytes",
            "text String?",
            "list [Int64]",
            "map <String?>",
            "kind String",
            "four Bytes",
            "price Decimal(30, 2)",
            "day Date",
            "at Timestamp Some(Ms)?",
            "exact Timestamp Some(Us)",
            "local String",
            "time String",
            "inner Json?",
        ]
    );
    let decode = Decode::Avro { schema };
    for payload in [avro_payload(b"\x00"), avro_payload(&[b"\x02".to_vec(), avro_payload(b"\x00")].concat())] {
        write(&columns, &rows(&decode, &payload).expect("a row")[0]);
    }
}

#[test]
fn avro_logical_types_and_unions_fit_their_columns() {
    let bytes_of = |logical: &str, size: u32| json!({"type": "fixed", "name": format!("{logical}{size}"), "size": size, "logicalType": logical});
    let of = |kind: &str, logical: &str| json!({"type": kind, "logicalType": logical});
    let point = json!({"type": "record", "name": "Point", "fields": [{"name": "x", "type": "float"}, {"name": "y", "type": ["null", "float"]}]});
    let schema = avro_of(json!([
        {"name": "id", "type": bytes_of("uuid", 16)},
        {"name": "id_text", "type": of("string", "uuid")},
        {"name": "lasts", "type": bytes_of("duration", 12)},
        {"name": "cents", "type": {"type": "fixed", "name": "Cents", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "large", "type": {"type": "bytes", "logicalType": "decimal", "precision": 50, "scale": 2}},
        {"name": "time", "type": of("long", "time-micros")},
        {"name": "nanos", "type": of("long", "timestamp-nanos")},
        {"name": "local", "type": of("long", "local-timestamp-micros")},
        {"name": "other", "type": of("long", "furlongs")},
        {"name": "either", "type": ["string", "int"]},
        {"name": "any", "type": ["null", "string", "Cents", point]},
        {"name": "number", "type": ["int", "long", "null"]},
        {"name": "points", "type": {"type": "array", "items": ["null", "Point"]}},
        {"name": "only", "type": ["Point"]},
        {"name": "empty", "type": {"type": "record", "name": "Empty", "fields": []}},
        {"name": "cases", "type": {"type": "record", "name": "Cases", "fields": [
            {"name": "a", "type": "int"}, {"name": "A", "type": "int"},
        ]}},
        {"name": "tree", "type": {"type": "map", "values": {"type": "array", "items": "Row"}}},
    ]));
    let columns = columns_of_avro(&schema).expect("columns");
    assert_eq!(
        shown(&columns),
        [
            "id String",
            "id_text String",
            "lasts {months Int64, days Int64, milliseconds Int64}",
            "cents Decimal(9, 2)",
            "large String",
            "time String",
            "nanos Timestamp Some(Ns)",
            "local String",
            "other Int64",
            "either Json",
            "any Json?",
            "number Int64?",
            "points [{x Float64, y Float64?}?]",
            "only {x Float64, y Float64?}",
            "empty Json",
            "cases Json",
            "tree <[Json]>",
        ]
    );
    let decode = Decode::Avro { schema };
    let one = b"\x9a\x99\x99\x3f"; // 1.2 as a float
    let row = |branch: &[u8], tree: &[u8]| {
        [
            &[7; 16][..],
            b"\x04ab",
            b"\x01\0\0\0\x02\0\0\0\xff\xff\xff\xff",
            b"\xff\xff\xff\xfe",
            &[&b"\x28"[..], &[0x7f; 20]].concat(),
            b"\x02",
            b"\x02",
            b"\x01",
            b"\x01",
            branch,
            b"\x02\x01",
            &[&b"\x04\x00\x02"[..], one, b"\x00\x00"].concat(),
            &[&b"\x00"[..], one, b"\x02", one].concat(),
            b"\x02\x04",
            tree,
        ]
        .concat()
    };
    let fixed = [&b"\x02\x0e\x04"[..], b"\0\0\0\x09"].concat();
    let record = [&b"\x00\x02x\x06"[..], one, b"\x00"].concat();
    let first = row(&fixed, b"\x00");
    let nested = [&b"\x02\x02k\x02"[..], &first, b"\x00\x00"].concat();
    for payload in [first, row(&record, b"\x00"), row(&fixed, &nested)] {
        write(&columns, &rows(&decode, &payload).expect("a row")[0]);
    }
}

#[test]
fn avro_that_is_no_record_has_no_columns() {
    for (schema, reason) in [
        ("\"int\"", "no record"),
        (r#"["null", "string"]"#, "no record"),
        (r#"["null"]"#, "no record"),
        ("{", "not an Avro schema"),
        (r#"{"type": "record", "name": "A", "fields": [{"name": "b", "type": "B"}]}"#, "not an Avro schema"),
        (r#"{"type": "record", "name": "A", "fields": [{"name": "a", "type": "A"}]}"#, "not an Avro schema"),
    ] {
        let found = columns_of_avro(schema).expect_err(schema);
        assert!(found.contains(reason), "{schema}: {found}");
    }
    let maybe = r#"["null", {"type": "record", "name": "A", "fields": [{"name": "b", "type": "int"}]}]"#;
    assert_eq!(shown(&columns_of_avro(maybe).expect("columns")), ["b Int64"]);
}

/// Types of types of types: each level doubles the columns.
#[test]
fn schemas_that_multiply_are_refused_and_deep_ones_end_as_text() {
    let doubled = |level: usize, inner: Value| json!({"type": "record", "name": format!("L{level}"), "fields": [{"name": "a", "type": inner}, {"name": "b", "type": format!("L{}", level - 1)}]});
    let mut schema = json!({"type": "record", "name": "L0", "fields": [{"name": "a", "type": "int"}]});
    for level in 1..15 {
        schema = doubled(level, schema);
    }
    let found = columns_of_avro(&schema.to_string()).expect_err("2^14 columns");
    assert!(found.contains("more than 10000 columns"), "{found}");

    let mut schema = json!("int");
    for _ in 0..30 {
        schema = json!({"type": "array", "items": schema});
    }
    let schema = avro_of(json!([{"name": "deep", "type": schema}]));
    let columns = columns_of_avro(&schema).expect("columns");
    assert_eq!(shown(&columns), [format!("deep {}Json{}", "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1))]);
    let payload = [[2; 30].to_vec(), vec![2], vec![0; 30]].concat();
    write(&columns, &rows(&Decode::Avro { schema }, &payload).expect("a row")[0]);
}

fn field(number: i32, name: &str, kind: Type, of: &str, label: Label) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_string()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: (!of.is_empty()).then(|| of.to_string()),
        ..FieldDescriptorProto::default()
    }
}

/// A file of messages that use every type that there is.
fn pool() -> DescriptorPool {
    use Type::{
        Bool, Bytes, Double, Enum, Fixed32, Fixed64, Float, Int32, Int64, Message, Sfixed32, Sfixed64, Sint32, Sint64,
        String, Uint32, Uint64,
    };
    let scalars = [
        Double, Float, Int64, Uint64, Int32, Fixed64, Fixed32, Bool, String, Bytes, Uint32, Sfixed32, Sfixed64, Sint32,
        Sint64,
    ];
    let known = [
        "Timestamp",
        "Duration",
        "FieldMask",
        "Struct",
        "Value",
        "ListValue",
        "Empty",
        "BoolValue",
        "Int32Value",
        "Int64Value",
        "UInt32Value",
        "UInt64Value",
        "FloatValue",
        "DoubleValue",
        "StringValue",
        "BytesValue",
    ];
    let mut fields: Vec<FieldDescriptorProto> = Vec::new();
    for kind in scalars {
        let number = i32::try_from(fields.len()).expect("few") + 1;
        fields.push(field(number, &format!("one_{kind:?}").to_lowercase(), kind, "", Label::Optional));
    }
    for name in known {
        let number = i32::try_from(fields.len()).expect("few") + 1;
        let of = format!(".google.protobuf.{name}");
        fields.push(field(number, &format!("known_{name}").to_lowercase(), Message, &of, Label::Optional));
    }
    let more = [
        field(40, "kind", Enum, ".web.Kind", Label::Optional),
        field(41, "null", Enum, ".google.protobuf.NullValue", Label::Optional),
        field(42, "inner", Message, ".web.Inner", Label::Optional),
        field(43, "itself", Message, ".web.All", Label::Optional),
        field(44, "texts", String, "", Label::Repeated),
        field(45, "inners", Message, ".web.Inner", Label::Repeated),
        field(46, "values", Message, ".google.protobuf.Value", Label::Repeated),
        field(47, "counts", Message, ".web.All.CountsEntry", Label::Repeated),
        FieldDescriptorProto { oneof_index: Some(0), ..field(48, "either", Uint64, "", Label::Optional) },
        FieldDescriptorProto { oneof_index: Some(0), ..field(49, "or", Bytes, "", Label::Optional) },
        field(50, "more", Message, ".web.All.MoreEntry", Label::Repeated),
    ];
    fields.extend(more);
    let entry = |name: &str, key: Type, value: Type, of: &str| DescriptorProto {
        name: Some(name.to_string()),
        field: vec![field(1, "key", key, "", Label::Optional), field(2, "value", value, of, Label::Optional)],
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    };
    let value = |name: &str, number| EnumValueDescriptorProto {
        name: Some(name.to_string()),
        number: Some(number),
        ..EnumValueDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("all.proto".to_string()),
        package: Some("web".to_string()),
        syntax: Some("proto3".to_string()),
        dependency: ["timestamp", "duration", "field_mask", "struct", "empty", "wrappers"]
            .map(|name| format!("google/protobuf/{name}.proto"))
            .to_vec(),
        message_type: vec![
            DescriptorProto {
                name: Some("All".to_string()),
                field: fields,
                nested_type: vec![
                    entry("CountsEntry", Int32, Uint64, ""),
                    entry("MoreEntry", String, Message, ".web.Inner"),
                ],
                oneof_decl: vec![OneofDescriptorProto {
                    name: Some("choice".to_string()),
                    ..OneofDescriptorProto::default()
                }],
                ..DescriptorProto::default()
            },
            DescriptorProto {
                name: Some("Inner".to_string()),
                field: vec![field(1, "x", Double, "", Label::Optional)],
                ..DescriptorProto::default()
            },
        ],
        enum_type: vec![EnumDescriptorProto {
            name: Some("Kind".to_string()),
            value: vec![value("A", 0), value("B", 1)],
            ..EnumDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let mut pool = DescriptorPool::global();
    pool.add_file_descriptor_proto(file).expect("a file of messages");
    pool
}

#[test]
fn protobuf_rows_fit_their_columns() {
    let pool = pool();
    let message = pool.get_message_by_name("web.All").expect("it is in the file");
    let columns = columns_of_message(&message).expect("columns");
    assert_eq!(
        shown(&columns),
        [
            "one_double Float64?",
            "one_float Float64?",
            "one_int64 Int64?",
            "one_uint64 Decimal(20, 0)?",
            "one_int32 Int64?",
            "one_fixed64 Decimal(20, 0)?",
            "one_fixed32 Int64?",
            "one_bool Bool?",
            "one_string String?",
            "one_bytes Bytes?",
            "one_uint32 Int64?",
            "one_sfixed32 Int64?",
            "one_sfixed64 Int64?",
            "one_sint32 Int64?",
            "one_sint64 Int64?",
            "known_timestamp Timestamp None?",
            "known_duration String?",
            "known_fieldmask String?",
            "known_struct Json?",
            "known_value Json?",
            "known_listvalue Json?",
            "known_empty Json?",
            "known_boolvalue Bool?",
            "known_int32value Int64?",
            "known_int64value Int64?",
            "known_uint32value Int64?",
            "known_uint64value Decimal(20, 0)?",
            "known_floatvalue Float64?",
            "known_doublevalue Float64?",
            "known_stringvalue String?",
            "known_bytesvalue Bytes?",
            "kind String?",
            "null Json?",
            "inner {x Float64?}?",
            "itself Json?",
            "texts [String]?",
            "inners [{x Float64?}]?",
            "values [Json?]?",
            "counts <Decimal(20, 0)>?",
            "either Decimal(20, 0)?",
            "or Bytes?",
            "more <{x Float64?}>?",
        ]
    );
    let full = r#"{
        "oneDouble": "NaN", "oneFloat": "-Infinity", "oneInt64": "-9223372036854775808", "oneUint64": "18446744073709551615",
        "oneInt32": -2147483648, "oneFixed64": "18446744073709551615", "oneFixed32": 4294967295, "oneBool": true,
        "oneString": "\u00e4\"", "oneBytes": "AP8=", "oneUint32": 4294967295, "oneSfixed32": -1, "oneSfixed64": "-1",
        "oneSint32": -1, "oneSint64": "-1", "knownTimestamp": "2025-11-21T08:00:00.123456789Z", "knownDuration": "-1.5s",
        "knownFieldmask": "a,bC.d", "knownStruct": {"a": [1, null, "x"]}, "knownValue": null, "knownListvalue": [1, "x"],
        "knownEmpty": {}, "knownBoolvalue": false, "knownInt32value": 0, "knownInt64value": "-1", "knownUint32value": 1,
        "knownUint64value": "18446744073709551615", "knownFloatvalue": 1.5, "knownDoublevalue": 0.1,
        "knownStringvalue": "", "knownBytesvalue": "", "kind": "B", "null": null, "inner": {"x": 1e300},
        "itself": {"itself": {"oneBool": true}}, "texts": ["", "b"], "inners": [{}, {"x": -0.5}],
        "values": [null, 1, {"a": 2}], "counts": {"-1": "18446744073709551615", "1": 0}, "or": "",
        "more": {"": {}, "k": {"x": 2}}
    }"#;
    let full: Value = serde_json::from_str(full).expect("JSON");
    let decode = Decode::Protobuf {
        descriptors: BASE64.encode(pool.encode_to_vec()),
        message: "web.All".to_string(),
        ignore_unknown: false,
    };
    let either = json!({"either": u64::MAX, "inner": {}});
    for json in [full, either, json!({})] {
        let payload = DynamicMessage::deserialize(message.clone(), json).expect("a message").encode_to_vec();
        write(&columns, &rows(&decode, &payload).expect("a row")[0]);
    }
    // A number that the enum has no name for.
    write(&columns, &rows(&decode, b"\xc0\x02\x07").expect("a row")[0]);

    let timestamp = pool.get_message_by_name("google.protobuf.Timestamp").expect("well known");
    columns_of_message(&timestamp).expect_err("a string");
    let any = pool.get_message_by_name("web.Inner").expect("it is in the file");
    assert_eq!(shown(&columns_of_message(&any).expect("columns")), ["x Float64?"]);
}

#[test]
fn arrow_schemas_become_columns() {
    let of = |name: &str, data_type| Field::new(name, data_type, true);
    let fields = Fields::from(vec![Field::new("x", DataType::Float32, false)]);
    let entries = Fields::from(vec![Field::new("keys", DataType::Utf8, false), of("values", DataType::Int8)]);
    let entries = Field::new("entries", DataType::Struct(entries), false);
    let json = of("json", DataType::Utf8).with_metadata([("ARROW:extension:name".into(), "arrow.json".into())].into());
    let schema = Schema::new(vec![
        of("null", DataType::Null),
        of("bool", DataType::Boolean),
        Field::new("u32", DataType::UInt32, false),
        of("u64", DataType::UInt64),
        of("half", DataType::Float16),
        of("text", DataType::LargeUtf8),
        json,
        of("bytes", DataType::FixedSizeBinary(4)),
        of("day", DataType::Date64),
        of("at", DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Berlin".into()))),
        of("time", DataType::Time64(TimeUnit::Nanosecond)),
        of("price", DataType::Decimal256(38, 4)),
        of("struct", DataType::Struct(fields)),
        of("list", DataType::LargeList(of("item", DataType::Binary).into())),
        of("map", DataType::Map(entries.into(), false)),
        of("word", DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into())),
    ]);
    let text = serde_json::to_string(&schema).expect("JSON");
    let columns = columns_of_arrow(&text).expect("columns");
    assert_eq!(
        shown(&columns),
        [
            "null Json?",
            "bool Bool?",
            "u32 Int64",
            "u64 Decimal(20, 0)?",
            "half Float64?",
            "text String?",
            "json Json?",
            "bytes Bytes?",
            "day Date?",
            "at Timestamp Some(Ms)?",
            "time String?",
            "price Decimal(38, 4)?",
            "struct {x Float64}?",
            "list [Bytes?]?",
            "map <Int64?>?",
            "word String?",
        ]
    );
    write(
        &columns,
        &json!({
            "null": 1, "bool": true, "u32": u32::MAX, "u64": u64::MAX, "half": 0.5, "text": "a", "json": [1], "bytes": "AQIDBA==",
            "day": "2025-11-21", "at": 1_763_712_000_123_i64, "time": "08:00:00", "price": "1.5", "struct": {"x": 1},
            "list": ["AA==", null], "map": {"a": null, "b": 1}, "word": "w",
        })
        .to_string(),
    );
    for (data_type, reason) in [
        (DataType::Timestamp(TimeUnit::Second, None), "without a zone"),
        (DataType::Duration(TimeUnit::Second), "has no column"),
        (DataType::Decimal128(5, -2), "digits"),
    ] {
        let inside = DataType::Struct(Fields::from(vec![of("b", data_type)]));
        let text = serde_json::to_string(&Schema::new(vec![of("a", inside)])).expect("JSON");
        let found = columns_of_arrow(&text).expect_err(reason);
        assert!(found.contains("field a.b: ") && found.contains(reason), "{found}");
    }
    columns_of_arrow("{}").expect_err("no schema");
}
