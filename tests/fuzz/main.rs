//! Fuzz targets: every decoder, transforms, and schemas of others, fed with what is almost right.
//!
//! Method: an input chooses a good payload and damages it: bytes are changed, removed, doubled and put in. What comes out is
//! rows that are valid JSON, not too deep and in proportion to the payload, or a short reason; and the same when asked again.
//! Each target runs for `SILTSTONE_FUZZ_SECONDS` (5 without); `scripts/fuzz.sh --seconds N` runs them all longer.
//! Panics are failures here: `run` makes dead letters of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bolero::check;
use siltstone::decode::{self, Aim, Decoder, Rows, Schemas, by_registry, columns, compile};
use siltstone::format::parquet::schema::check_columns;
use siltstone::layout::{Column, Decode, RegistryFormat, TextFields, TextType, UnknownFields};
use siltstone::parse::json::{Captures, JsonScan};
use siltstone::record::OwnedRecord;
use siltstone::registry::{KnownSchema, Lookup, Registry, Target};
use siltstone::transform::{Shaped, Transform};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of rows for each byte of a payload: names and quotes come on top of it.
const GROWTH_MAX: usize = 200;

fn time() -> Duration {
    let seconds = std::env::var("SILTSTONE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// A good payload, damaged as `input` says.
fn payload(samples: &[&[u8]], input: &[u8]) -> Vec<u8> {
    let Some((first, mut orders)) = input.split_first() else { return Vec::new() };
    let mut payload = samples[usize::from(*first) % samples.len()].to_vec();
    while let [order, at, byte, rest @ ..] = orders {
        orders = rest;
        let at = if payload.is_empty() { 0 } else { usize::from(*at) % payload.len() };
        match order % 6 {
            0 | 1 if !payload.is_empty() => payload[at] = *byte,
            2 => payload.insert(at, *byte),
            3 if !payload.is_empty() => drop(payload.remove(at)),
            4 => payload.truncate(at + usize::from(*byte)),
            _ => payload.extend_from_within(at..(at + usize::from(*byte % 16)).min(payload.len())),
        }
    }
    payload
}

fn record(payload: &[u8]) -> OwnedRecord {
    OwnedRecord { timestamp: Some(1_763_712_000_000), value: Some(payload.to_vec()), ..OwnedRecord::default() }
}

fn must_be_rows(rows: &Rows, payload: &[u8]) {
    let scan = JsonScan::new(&[], true);
    let mut bytes = 0;
    for row in rows.iter() {
        let whole = scan.scan(row.as_bytes(), &mut Captures::new()).expect("valid and not too deep");
        assert_eq!(whole.len(), row.len(), "white space around {row:?}");
        bytes += row.len();
    }
    assert!(bytes <= (payload.len() + 10) * GROWTH_MAX, "{bytes} bytes of {}", payload.len());
}

fn fuzz(decode: &Decode, samples: &[&[u8]]) {
    fuzz_decoder(compile(decode).expect("a good layout").expect("a decoder"), samples);
}

fn fuzz_decoder(decoder: Box<dyn Decoder>, samples: &[&[u8]]) {
    let decoder = AssertUnwindSafe(decoder);
    for sample in samples {
        let mut rows = Rows::default();
        decoder.decode(&record(sample).as_record(), sample, &mut rows).expect("a good payload");
        must_be_rows(&rows, sample);
    }
    check!().with_test_time(time()).for_each(|input: &[u8]| {
        let decoder = &decoder;
        let payload = payload(samples, input);
        let record = record(&payload);
        let (mut rows, mut again) = (Rows::default(), Rows::default());
        let found = decoder.decode(&record.as_record(), &payload, &mut rows);
        assert_eq!(found, decoder.decode(&record.as_record(), &payload, &mut again));
        match found {
            Ok(()) => {
                assert!(rows.iter().eq(again.iter()));
                must_be_rows(&rows, &payload);
            }
            Err(reason) => assert!(reason.0.len() < 1_000, "{reason}"),
        }
    });
}

fn fields() -> TextFields {
    let types =
        [("status", TextType::Int), ("took", TextType::Float), ("ok", TextType::Bool), ("more", TextType::Json)];
    TextFields {
        types: types.iter().map(|(name, kind)| (name.to_string(), *kind)).collect(),
        nulls: vec!["-".to_string()],
    }
}

fn names() -> Vec<String> {
    ["tag", "time", "record"].map(str::to_string).to_vec()
}

#[test]
fn json() {
    let decode = Decode::Json { validate: true, unfold: true, names: names() };
    fuzz(&decode, &[br#"[["a.b",1.5e3,{"x":["\u00e4",null]}],["c",2,{}]]"#, b"{\"a\":1}\n{\"a\":[2]}", b"[]"]);
}

#[test]
fn ltsv() {
    let samples: [&[u8]; 2] =
        [b"host:a\tstatus:200\ttook:0.5\tok:true\tmore:{\"a\":[1]}\n", "ua:Mozilla \u{e4}:\tr:-".as_bytes()];
    fuzz(&Decode::Ltsv { fields: fields() }, &samples);
}

#[test]
fn csv() {
    let columns = ["name", "status"].map(str::to_string).to_vec();
    let decode = Decode::Csv { columns, delimiter: ',', quote: Some('"'), unfold: true, fields: fields() };
    fuzz(&decode, &[b"a,1\r\n\"b \"\"c\"\",\n\",2\n", "\u{e4},-".as_bytes()]);
}

#[test]
fn regex() {
    let pattern = r"^(?<host>\S+) (?<status>\d+)(?: (?<rest>.*))?$".to_string();
    fuzz(&Decode::Regex { pattern, fields: fields() }, &[b"web1 200 and more", b"web2 404\n"]);
}

#[test]
fn grok() {
    let decode =
        Decode::Grok { pattern: "%{COMBINEDAPACHELOG}".to_string(), patterns: BTreeMap::new(), fields: fields() };
    let line =
        br#"10.0.0.1 - frank [21/Nov/2025:08:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 2326 "http://x/" "Mozilla/5.0""#;
    fuzz(&decode, &[line]);
}

#[test]
fn syslog() {
    let samples: [&[u8]; 4] = [
        b"<34>1 2025-11-21T09:14:15.003+01:00 web1 su 77 ID47 [ex@1 a=\"b\\\"c\"][o@2] \xef\xbb\xbffailed for root",
        b"<13>Nov 21 07:59:30 web1 cron[12]: done",
        b"<13>Nov 21 2025 07:59:30: %ASA-1-1: x",
        b"<13>2025-11-21T07:59:30+02:00 web1 cron[12]: done\n",
    ];
    fuzz(&Decode::Syslog { zone: "Europe/Berlin".to_string() }, &samples);
}

#[test]
fn msgpack() {
    let samples: [&[u8]; 2] = [
        b"\x92\x93\xa1a\xd7\x00\x69\x20\x1c\x80\0\0\0\x01\x81\xa1b\xc4\x02\xff\x00\x93\xa1c\x01\x80",
        b"\xde\x00\x02\xd9\x01x\xcb\x3f\xf8\0\0\0\0\0\0\xa1y\xc7\x0c\xff\0\0\0\x01\0\0\0\0\x69\x20\x1c\x80",
    ];
    fuzz(&Decode::Msgpack { unfold: true, names: names() }, &samples);
}

#[test]
fn avro() {
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "id", "type": "long"}, {"name": "text", "type": ["null", "string"]},
        {"name": "list", "type": {"type": "array", "items": ["null", "R"]}}, {"name": "map", "type": {"type": "map", "values": "null"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}]}"#;
    let samples: [&[u8]; 2] = [
        b"\x02\x02\x02a\x00\x00\x02\x02\x05",
        b"\x02\x00\x02\x02\x04\x00\x00\x00\x02\x00\x00\x02\x02x\x00\x04\x04\x01\xff",
    ];
    fuzz(&Decode::Avro { schema: schema.to_string() }, &samples);
}

#[test]
fn protobuf() {
    // message Hit { int64 id = 1; repeated string tags = 2; }
    let descriptors = "CjkKCWhpdC5wcm90bxIDd2ViIh8KA0hpdBIKCgJpZBgBIAEoAxIMCgR0YWdzGAIgAygJYgZwcm90bzM=".to_string();
    let decode = Decode::Protobuf { descriptors, message: "web.Hit".to_string(), ignore_unknown: true };
    fuzz(&decode, &[b"\x08\x96\x01\x12\x02\xc3\xa4\x12\x00", b"\x08\x01\x18\x07\x22\x01a"]);
}

#[test]
fn transform() {
    let program = ".n = to_int(.n) ?? 0\n.q = parse_query_string(.q) ?? {}\n.c = parse_key_value(.c, field_delimiter: \";\") ?? {}\n\
                   .u = parse_url(.u) ?? {}\n.t = parse_timestamp(.t, \"%Y-%m-%d %H:%M\") ?? null\n.x = encode_base64(string(.x) ?? \"\")";
    let outputs = [("json".to_string(), 0)];
    let transform = AssertUnwindSafe(Transform::compile(program, &outputs).expect("a program"));
    let row: &[u8] = br#"{"n":"12","q":"a=1&b=%20","c":"a=b; c","u":"https://x/y?z=1","t":"2025-11-21 08:00","x":[1,{"y":"\u00e4"}]}"#;
    let scan = JsonScan::new(&[], true);
    check!().with_test_time(time()).for_each(|input: &[u8]| {
        let transform = &transform;
        let payload = payload(&[row], input);
        let Ok(text) = scan.scan(&payload, &mut Captures::new()) else { return };
        let mut rows = Rows::default();
        match transform.run(&record(&payload).as_record(), text, &mut rows) {
            Shaped::Rows(routes) => assert_eq!(routes.len(), rows.len()),
            Shaped::Refused(reason) => assert!(rows.is_empty() && reason.len() < 2_000, "{reason}"),
            Shaped::Dropped => panic!("the program drops nothing"),
        }
        must_be_rows(&rows, &payload);
    });
}

/// Schemas of others: columns that Parquet can have, or a reason; the same each time.
#[test]
fn schemas() {
    let avro: &[u8] = br#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"r","type":["null","R"]},
        {"name":"m","type":{"type":"map","values":{"type":"fixed","name":"F","size":12,"logicalType":"duration"}}},{"name":"f","type":["int","F"]}]}"#;
    let arrow: &[u8] = br#"{"fields":[{"name":"a","data_type":{"Struct":[{"name":"b","data_type":{"Decimal128":[9,2]},"nullable":true,"dict_id":0,
        "dict_is_ordered":false,"metadata":{}}]},"nullable":true,"dict_id":0,"dict_is_ordered":false,"metadata":{}}],"metadata":{}}"#;
    let descriptors: &[u8] = b"\n9\n\thit.proto\x12\x03web\"\x1f\n\x03Hit\x12\n\n\x02id\x18\x01 \x01(\x03\x12\x0c\n\x04tags\x18\x02 \x03(\tb\x06proto3";
    let judge = |found: Result<Vec<Column>, String>, again: Result<Vec<Column>, String>| {
        assert_eq!(found, again);
        let Ok(columns) = found else { return };
        if let Err(problem) = check_columns(&columns, None, UnknownFields::Rest) {
            let known = ["same name but for", "the name is empty", "a kept column or `_rest`"];
            assert!(known.iter().any(|known| problem.contains(known)), "{problem}");
        }
    };
    let of_message = |bytes: &[u8]| {
        let message = decode::message_of(&BASE64.encode(bytes), "web.Hit")?;
        columns::columns_of_message(&message)
    };
    assert_eq!(of_message(descriptors).map(|columns| columns.len()), Ok(2));
    check!().with_test_time(time()).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(&payload(&[avro, arrow], input)).into_owned();
        judge(columns::columns_of_avro(&text), columns::columns_of_avro(&text));
        judge(columns::columns_of_arrow(&text), columns::columns_of_arrow(&text));
        let bytes = payload(&[descriptors], input);
        judge(of_message(&bytes), of_message(&bytes));
    });
}

/// Payloads that name `schemas`, the rows projected onto `target`.
fn fuzz_registry(format: RegistryFormat, schemas: &[KnownSchema<'_>], target: &str, samples: &[&[u8]]) {
    let registry = Arc::new(Registry::knowing(format, schemas));
    let target: Target = target.parse().expect("a target");
    let Lookup::Known(schema) = registry.answer(target.id, format) else {
        panic!("the target is not among the schemas")
    };
    let schemas = Schemas { registry: Some(registry), aim: Aim::At(target, schema), ..Schemas::default() };
    let decoder = by_registry(&Decode::Registry { format, ignore_unknown: false }, &schemas).expect("a registry");
    fuzz_decoder(Box::new(decoder.expect("its reader")), samples);
}

#[test]
fn avro_by_registry() {
    let first =
        r#"{"type":"record","name":"R","fields":[{"name":"id","type":"int"},{"name":"next","type":["null","R"]}]}"#;
    let second = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"double"},{"name":"next","type":["null","R"]},
        {"name":"tags","type":{"type":"array","items":"string"},"default":[]},{"name":"more","type":["null","bytes"],"default":null}]}"#;
    let samples: [&[u8]; 2] =
        [&[0, 0, 0, 0, 1, 4, 2, 6, 0], &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 64, 0, 2, 2, b'a', 0, 2, 2, 255]];
    fuzz_registry(RegistryFormat::Avro, &[(1, first, &[], 1), (2, second, &[], 2)], "2", &samples);
}

#[test]
fn protobuf_by_registry() {
    let first =
        "syntax = \"proto3\"; message A { message B { int32 id = 1; map<string, A> more = 2; string gone = 3; } }";
    let second =
        "syntax = \"proto3\"; message A { message B { int64 id = 1; map<string, A> more = 2; bytes new = 4; } }";
    let samples: [&[u8]; 2] = [
        &[0, 0, 0, 0, 1, 4, 0, 0, 8, 5, 18, 5, 10, 1, b'k', 18, 0, 26, 1, b'x'],
        &[0, 0, 0, 0, 2, 4, 0, 0, 8, 5, 34, 1, 255],
    ];
    fuzz_registry(RegistryFormat::Protobuf, &[(1, first, &[], 1), (2, second, &[], 2)], "2:A.B", &samples);
}

#[test]
fn json_by_registry() {
    let schema = r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#;
    fuzz_registry(RegistryFormat::JsonSchema, &[(1, schema, &[], 1)], "1", &[b"\0\0\0\0\x01{\"a\":1}"]);
}
