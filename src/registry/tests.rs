mod large;

use super::*;
use crate::decode::{Aim, Decoder, Rows, Schemas, by_registry};
use crate::layout::{Column, ColumnKind, Decode};
use crate::record::OwnedRecord;

fn known(registry: &Registry, id: u32) -> Arc<Schema> {
    match registry.lookup(id) {
        Lookup::Known(schema) => schema,
        other => panic!("schema {id}: {other:?}"),
    }
}

/// A registry with these schemas, whose ids and versions count from 1.
fn numbered(format: RegistryFormat, texts: &[impl AsRef<str>]) -> Registry {
    let known: Vec<_> = (1..).zip(texts).map(|(id, text)| (id, text.as_ref(), &[][..], id)).collect();
    Registry::knowing(format, &known)
}

fn target(text: &str) -> Target {
    text.parse().expect("a target")
}

fn reads(registry: &Registry, reader: &str, writer: &str) -> Result<(), String> {
    let (reader, writer) = (target(reader), target(writer));
    known(registry, reader.id).reads(&reader, &known(registry, writer.id), &writer)
}

#[test]
fn the_wire_format_begins_with_a_zero_and_a_positive_id() {
    assert_eq!(schema_id(&[0, 0, 0, 1, 2]), Some(258));
    assert_eq!(schema_id(&[0, 0, 0, 0, 7, 1, 2]), Some(7));
    for none in [&[][..], &[0, 0, 0, 7], &[1, 0, 0, 0, 7], &[0, 0, 0, 0, 0], &[0, 255, 0, 0, 7], b"{\"a\":1}"] {
        assert_eq!(schema_id(none), None, "{none:?}");
    }
}

#[test]
fn a_target_is_its_text() {
    for text in ["7", "7:web.Hit"] {
        assert_eq!(target(text).to_string(), text);
    }
    for wrong in ["", ":web.Hit", "x", "-1"] {
        wrong.parse::<Target>().expect_err(wrong);
    }
}

#[test]
fn the_newer_schema_has_the_higher_version_of_a_common_subject() {
    let text = r#"{"type":"record","name":"R","fields":[]}"#;
    let registry = Registry::knowing(RegistryFormat::Avro, &[(1, text, &[], 3), (2, text, &[], 1), (3, text, &[], 1)]);
    let of = |id| known(&registry, id);
    assert!(of(1).is_newer_than(&of(2)), "by its version");
    assert!(!of(2).is_newer_than(&of(1)));
    assert!(of(3).is_newer_than(&of(2)), "by its id, as both have one version");
}

#[test]
fn avro_that_is_in_parts_is_made_whole() {
    let address = r#"{"type":"record","name":"Address","namespace":"shared","fields":[{"name":"city","type":"string"},{"name":"next","type":["null","Address"]}]}"#;
    let user = r#"{"type":"record","name":"User","namespace":"app","fields":[
        {"name":"home","type":"shared.Address"},{"name":"work","type":["null","shared.Address"]},
        {"name":"seen","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"tags","type":{"type":"array","items":{"type":"map","values":"shared.Address"}}}]}"#;
    let registry =
        Registry::knowing(RegistryFormat::Avro, &[(1, user, &[("shared.Address", address)], 1), (2, user, &[], 1)]);
    let schema = known(&registry, 1);
    let Ok(Shape::Avro(whole)) = schema.shape() else { panic!("it can be used: {schema:?}") };
    let text = whole.to_string();
    assert_eq!(text.matches("\"city\"").count(), 1, "{text}");
    assert!(text.contains(r#""name":"app.User""#) && text.contains(r#""name":"shared.Address""#), "{text}");
    let columns = known(&registry, 1).columns(&target("1")).expect("columns");
    assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["home", "work", "seen", "tags"]);
    let problem = known(&registry, 2).shape().expect_err("its part is missing");
    assert!(problem.contains("nothing says what shared.Address is"), "{problem}");
}

#[test]
fn avro_reads_what_its_rules_let_it() {
    let schemas = [
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":"int"},{"name":"old","type":"string"}]}"#,
        // A default, a wider number, another name, one field less.
        r#"{"type":"record","name":"a.S","aliases":["R"],"fields":[{"name":"number","aliases":["id"],"type":"long"},{"name":"more","type":"string","default":"x"}]}"#,
        // No default.
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":"int"},{"name":"must","type":"string"}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":"string"}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"id","type":"int"},{"name":"b","type":"bytes","default":"\u00ff"}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9}}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":0}}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}}]}"#,
        r#"{"type":"record","name":"a.R","fields":[{"name":"d","type":["null",{"type":"bytes","logicalType":"decimal","precision":12,"scale":2},{"type":"string","logicalType":"uuid"}]}]}"#,
    ];
    let registry = numbered(RegistryFormat::Avro, &schemas);
    reads(&registry, "2", "1").expect("by its aliases and defaults");
    reads(&registry, "1", "2").expect_err("a field without default is missing");
    reads(&registry, "3", "1").expect_err("a field without default is missing");
    reads(&registry, "4", "1").expect_err("no number is a text");
    reads(&registry, "5", "1").expect("a number that has a meaning now");
    let problem = reads(&registry, "6", "5").expect_err("another meaning");
    assert_eq!(problem, "R.id: it was timestamp-millis and is timestamp-micros");
    reads(&registry, "7", "1").expect("a default of bytes");
    reads(&registry, "9", "8").expect("no scale is a scale of 0");
    let problem = reads(&registry, "10", "9").expect_err("another scale");
    assert_eq!(problem, "R.d: it was decimal of scale 0 and is decimal of scale 2");
    reads(&registry, "11", "10").expect("one more branch, of another meaning");
}

/// The row of `data`, written by the first of two Avro schemas, as one of the second.
fn projected(writer: &str, reader: &str, data: &[u8]) -> Result<String, String> {
    row_of(&[(1, writer, &[], 1), (2, reader, &[], 2)], "2", data)
}

/// The row of `data` of schema 1.
fn row_of(schemas: &[KnownSchema<'_>], aim: &str, data: &[u8]) -> Result<String, String> {
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, schemas));
    let aim = Aim::At(target(aim), known(&registry, target(aim).id));
    let schemas = Schemas { registry: Some(registry), aim, ..Schemas::default() };
    let decode = Decode::Registry { format: RegistryFormat::Avro, ignore_unknown: false };
    let decoder = by_registry(&decode, &schemas).expect("a registry").expect("a decoder");
    let payload = [&[0, 0, 0, 0, 1], data].concat();
    let record = OwnedRecord { value: Some(payload.clone()), ..OwnedRecord::default() };
    let mut rows = Rows::default();
    decoder.decode(&record.as_record(), &payload, &mut rows).map_err(|error| error.to_string())?;
    Ok(rows.get(0).expect("a row").to_string())
}

fn record_of(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
}

#[test]
fn avro_numbers_mean_the_same_wherever_their_type_is_mentioned() {
    let at = |namespace: &str, meaning: &str| {
        format!(
            r#"{{"type":"record","name":"R","namespace":"{namespace}","fields":[{{"name":"ts","type":{{"type":"long","logicalType":"{meaning}"}}}}]}}"#
        )
    };
    let data = number_as_data(1_700_000_000_000);
    let same = projected(&at("a", "timestamp-millis"), &at("b", "timestamp-millis"), &data);
    assert_eq!(same.as_deref(), Ok(r#"{"ts":"2023-11-14T22:13:20Z"}"#));
    let problem =
        projected(&at("a", "timestamp-millis"), &at("b", "timestamp-micros"), &data).expect_err("microseconds");
    assert!(problem.ends_with("R.ts: it was timestamp-millis and is timestamp-micros"), "{problem}");

    let fixed = |scale: u32| {
        format!(r#"{{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9,"scale":{scale}}}"#)
    };
    let first = record_of(&format!(r#"{{"name":"amount","type":{}}}"#, fixed(2)));
    let second = |scale| {
        record_of(&format!(
            r#"{{"name":"fee","type":{},"default":"\u0000\u0000\u0000\u0000"}},{{"name":"amount","type":"D"}}"#,
            fixed(scale)
        ))
    };
    let amount = 12_345_i32.to_be_bytes();
    assert_eq!(projected(&first, &second(2), &amount).as_deref(), Ok(r#"{"fee":0.00,"amount":123.45}"#));
    projected(&first, &second(4), &amount).expect_err("of another scale where it is first mentioned");

    let bytes = |scale: u32| format!(r#"{{"type":"bytes","logicalType":"decimal","precision":9,"scale":{scale}}}"#);
    let first = record_of(&format!(r#"{{"name":"d","type":{}}}"#, bytes(2)));
    let second = |scale| record_of(&format!(r#"{{"name":"d","type":[{},{}]}}"#, bytes(scale), fixed(2)));
    let data = [&[4][..], &12_345_i16.to_be_bytes()].concat();
    assert_eq!(projected(&first, &second(2), &data).as_deref(), Ok(r#"{"d":123.45}"#));
    projected(&first, &second(4), &data).expect_err("the other branch has the writer's scale");
}

#[test]
fn avro_logical_types_that_mean_nothing_hinder_nothing() {
    let of = |kind: &str, logical: &str| {
        record_of(&format!(r#"{{"name":"f","type":{{"type":"{kind}","logicalType":"{logical}"}}}}"#))
    };
    let text = &[2, b'x'];
    // Not known; known, and at another type than its own.
    assert_eq!(projected(&of("string", "url"), &of("string", "uri"), text).as_deref(), Ok(r#"{"f":"x"}"#));
    assert_eq!(projected(&of("string", "uuid"), &of("string", "uri"), text).as_deref(), Ok(r#"{"f":"x"}"#));
    assert_eq!(projected(&of("int", "time-micros"), &of("long", "date"), &[4]).as_deref(), Ok(r#"{"f":2}"#));
    // A number that has a meaning only now, or has none any more.
    let millis = of("long", "timestamp-millis");
    let since_1970 = r#"{"f":"1970-01-01T00:00:00.002Z"}"#;
    assert_eq!(projected(&of("long", "epoch"), &millis, &[4]).as_deref(), Ok(since_1970));
    assert_eq!(projected(&millis, &of("long", "epoch"), &[4]).as_deref(), Ok(r#"{"f":2}"#));
    let problem = projected(&of("int", "date"), &millis, &[4]).expect_err("days are no milliseconds");
    assert!(problem.ends_with("R.f: it was date and is timestamp-millis"), "{problem}");
    projected(&millis, &of("long", "local-timestamp-millis"), &[4]).expect_err("without its zone");
}

/// Goal: a default that holds itself, or tries too much, is a reason for a dead letter and not the end of the process.
#[test]
fn avro_defaults_have_an_end() {
    let first = r#"{"type":"record","name":"O","fields":[]}"#;
    let endless = r#"{"type":"record","name":"O","fields":[{"name":"f","type":{"type":"record","name":"R","fields":[{"name":"next","type":["R",{"type":"map","values":"int"}],"default":{}}]},"default":{}}]}"#;
    let schemas: &[KnownSchema<'_>] = &[(1, first, &[], 1), (2, endless, &[], 2)];
    let problem = row_of(schemas, "2", &[]).expect_err("no end");
    assert!(problem.ends_with("O.f: its default is too large, or has no end"), "{problem}");
    // As it was found: a newer record, while rows are of the older schema.
    let registry = Registry::knowing(RegistryFormat::Avro, schemas);
    reads(&registry, "2", "1").expect_err("it does not read the target");
    reads(&registry, "1", "2").expect("no field is read");
    let older: &[KnownSchema<'_>] = &[(3, first, &[], 2), (1, endless, &[], 1)];
    row_of(older, "3", &[2, 0]).expect("no field is read");
    let mut doubling = "\"int\"".to_string();
    for level in 0..31 {
        let inner = if level == 0 { doubling.clone() } else { format!("\"L{}\"", level - 1) };
        let fields = format!(
            r#"{{"name":"a","type":{doubling},"default":{0}}},{{"name":"b","type":{inner},"default":{0}}}"#,
            if level == 0 { "7" } else { "{}" }
        );
        doubling = format!(r#"{{"type":"record","name":"L{level}","fields":[{fields}]}}"#);
        if level == 10 {
            let reader =
                format!(r#"{{"type":"record","name":"O","fields":[{{"name":"f","type":{doubling},"default":{{}}}}]}}"#);
            assert_eq!(projected(first, &reader, &[]).expect("a row").matches(":7").count(), 2_048);
        }
        if level == 30 {
            let reader =
                format!(r#"{{"type":"record","name":"O","fields":[{{"name":"f","type":{doubling},"default":{{}}}}]}}"#);
            let problem = projected(first, &reader, &[]).expect_err("2 to the power of 31");
            assert!(problem.contains("holds more than"), "{problem}");
        }
    }
    let itself = record_of(r#"{"name":"f","type":"int"},{"name":"r","type":"R"}"#);
    let problem = projected(&record_of(""), &itself, &[]).expect_err("no value could be whole");
    assert!(problem.contains("R holds itself"), "{problem}");
    let wrong = record_of(r#"{"name":"f","type":"int","default":"x"}"#);
    let problem = projected(&record_of(""), &wrong, &[]).expect_err("no number");
    assert!(problem.ends_with(r#"R.f: the default "x" is not of its type"#), "{problem}");
}

/// Goal: what a payload becomes is bounded, whatever its target's defaults are.
#[test]
fn avro_that_is_projected_costs_no_more_than_its_rows() {
    let list = |fields: &str| {
        record_of(&format!(
            r#"{{"name":"items","type":{{"type":"array","items":{{"type":"record","name":"I","fields":[{{"name":"a","type":"int"}}{fields}]}}}}}}"#
        ))
    };
    let many: String =
        (0..20).map(|number| format!(r#",{{"name":"n{number}","type":["null","string"],"default":null}}"#)).collect();
    let items = |count: usize| {
        let writer = number_as_data(count);
        [&writer[..], &vec![2; count], &[0]].concat()
    };
    let row = projected(&list(""), &list(&many), &items(1_000)).expect("a row");
    assert_eq!((row.matches("\"a\":1").count(), row.matches("null").count()), (1_000, 20_000));
    let schemas: &[KnownSchema<'_>] = &[(1, &list(""), &[], 1), (2, &list(&many), &[], 2)];
    let registry = Registry::knowing(RegistryFormat::Avro, schemas);
    let resolution = known(&registry, 2).resolution(&known(&registry, 1)).expect("it reads it");
    let data = resolution.apply(&items(1_000_000)).expect("data");
    assert_eq!(data.len(), 1_000_000 * 21 + 4);
    let long = format!(r#",{{"name":"text","type":"string","default":"{}"}}"#, "x".repeat(1_000));
    let problem = projected(&list(""), &list(&long), &items(1_000_000)).map(|row| row.len()).expect_err("a gigabyte");
    assert!(problem.contains("it becomes more than"), "{problem}");
    let endless = format!(r#",{{"name":"text","type":"string","default":"{}"}}"#, "x".repeat(5 << 20));
    assert!(projected(&list(""), &list(&endless), &items(1)).is_err(), "one default of many megabytes");
}

fn number_as_data(number: usize) -> Vec<u8> {
    apache_avro::to_avro_datum(&apache_avro::Schema::Long, i64::try_from(number).expect("a number")).expect("data")
}

#[test]
fn avro_that_others_read_is_read() {
    // A logical type beside the type is none, and hinders nothing.
    let beside = record_of(
        r#"{"name":"at","type":"long","logicalType":"timestamp-millis","default":0},{"name":"b","type":"int","default":1}"#,
    );
    let first = record_of(r#"{"name":"at","type":"long","logicalType":"timestamp-micros"}"#);
    assert_eq!(projected(&first, &beside, &[4]).as_deref(), Ok(r#"{"at":2,"b":1}"#));
    // Defaults that were never right, of the writer and of a field that is there.
    let legacy =
        record_of(r#"{"name":"a","type":"int","default":null},{"name":"s","type":["null","string"],"default":"null"}"#);
    let longer = record_of(r#"{"name":"a","type":"long","default":"none"},{"name":"more","type":"int","default":3}"#);
    assert_eq!(projected(&legacy, &longer, &[4, 2, 2, b'x']).as_deref(), Ok(r#"{"a":2,"more":3}"#));
    // An alias whose field has got its new name, beside the old one.
    let both = record_of(r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":0}"#);
    let renamed = record_of(r#"{"name":"b","aliases":["a"],"type":"int"}"#);
    assert_eq!(projected(&both, &renamed, &[2, 4]).as_deref(), Ok(r#"{"b":2}"#));
    assert_eq!(projected(&record_of(r#"{"name":"a","type":"int"}"#), &renamed, &[2]).as_deref(), Ok(r#"{"b":1}"#));
    // One field is read as one, however many call themselves so.
    let twice = record_of(
        r#"{"name":"b","aliases":["a"],"type":"int","default":8},{"name":"c","aliases":["a"],"type":"int","default":9}"#,
    );
    assert_eq!(projected(&record_of(r#"{"name":"a","type":"int"}"#), &twice, &[2]).as_deref(), Ok(r#"{"b":1,"c":9}"#));
    // Another order, and parts that nobody asks for.
    let writer = record_of(
        r#"{"name":"gone","type":{"type":"array","items":["null",{"type":"map","values":"R"}]}},{"name":"f","type":"float"},{"name":"i","type":"long"},{"name":"b","type":"bytes"}"#,
    );
    let reader = record_of(
        r#"{"name":"b","type":"string"},{"name":"new","type":"boolean","default":true},{"name":"i","type":"double"},{"name":"f","type":["null","double"]}"#,
    );
    let part = [0, 0, 0, 0x3f, 6, 2, b'x'];
    let inner = [&[0][..], &part].concat();
    // A block of two with its size, then one of one.
    let data = [&[3, 26, 0, 2, 2, 2, b'k'][..], &inner, &[0, 2, 0, 0], &part].concat();
    assert_eq!(projected(&writer, &reader, &data).as_deref(), Ok(r#"{"b":"x","new":true,"i":3.0,"f":0.5}"#));
    let broken = [&data[..data.len() - 1], &[0xff]].concat();
    projected(&writer, &reader, &broken).expect_err("no text");
}

#[test]
fn avro_types_are_found_where_others_find_them() {
    let part = r#"{"type":"record","name":"Foo","namespace":"c","fields":[{"name":"bar","type":{"type":"enum","name":"Bar","symbols":["X","Y"]}},{"name":"in","type":["null","d.In"],"default":null}]}"#;
    let inside = r#"{"type":"error","name":"In","namespace":"d","fields":[{"name":"foo","type":["null","c.Foo"]}]}"#;
    let root = r#"{"type":"record","name":"n.R","fields":[{"name":"b","type":"c.Bar"},{"name":"f","type":"c.Foo"},{"name":"e","type":{"type":"enum","name":"E","symbols":["P"]}},
        {"name":"again","type":{"type":"E"}},{"name":"late","type":["null","Late"]},{"name":"l","type":{"type":"record","name":"Late","fields":[]}},
        {"name":"bare","type":{"type":"record","name":"Bare","namespace":"","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":4}}]}},{"name":"more","type":["null",{"type":"Bare"}]},
        {"name":"x","type":{"type":"array","name":"E","items":{"type":"string","name":"E","logicalType":"decimal","scale":2}}}]}"#;
    let parts = [("c.Foo", part), ("d.In", inside)];
    let schemas: &[KnownSchema<'_>] = &[(1, root, &parts, 1)];
    // b: Y; f: X, null; e, again: P; no late, a late one; 5 as a decimal, and no more; no text.
    let row = row_of(schemas, "1", &[2, 0, 0, 0, 0, 0, 2, 5, 0, 0]).expect("a row");
    assert_eq!(
        row,
        r#"{"b":"Y","f":{"bar":"X","in":null},"e":"P","again":"P","late":null,"l":{},"bare":{"d":5},"more":null,"x":[]}"#
    );
    let row = row_of(&[(1, root, &parts, 1), (2, root, &parts, 2)], "2", &[2, 0, 0, 0, 0, 0, 2, 5, 2, 2, 4, 0]);
    assert!(row.as_ref().is_ok_and(|row| row.contains(r#""more":{"d":4}"#)), "{row:?}");
}

const PROTO: &str = r#"
    syntax = "proto3";
    package web;
    import "other.proto";
    import "google/protobuf/timestamp.proto";
    message Hit { int64 id = 1; repeated string tags = 2; shared.User user = 3; google.protobuf.Timestamp at = 4; map<string, int32> counts = 5;
        message Inner { string deep = 1; message Innermost { bool yes = 1; } } }
    message Second { Hit hit = 1; }
"#;
const OTHER: &str = r#"syntax = "proto3"; package shared; message User { string name = 1; }"#;

#[test]
fn messages_are_told_by_their_place_in_the_file() {
    let registry = Registry::knowing(RegistryFormat::Protobuf, &[(1, PROTO, &[("other.proto", OTHER)], 1)]);
    let schema = known(&registry, 1);
    let Ok(Shape::Protobuf(file)) = schema.shape() else { panic!("it can be used: {schema:?}") };
    // Count and indexes are zigzag; a lone zero is the first message. Entries of maps do not count.
    let cases = [
        (&[0, 9, 9][..], Some(("web.Hit", 1))),
        (&[2, 0, 9], Some(("web.Hit", 2))),
        (&[2, 2], Some(("web.Second", 2))),
        (&[4, 0, 0], Some(("web.Hit.Inner", 3))),
        (&[6, 0, 0, 0, 8], Some(("web.Hit.Inner.Innermost", 4))),
        (&[2, 4], None),
        (&[4, 0, 2], None),
        (&[1], None),
        (&[2, 1], None),
        (&[], None),
        (&[0x80], None),
        (&[0xfe, 0xff, 0xff, 0xff, 0x0f], None),
    ];
    for (payload, expected) in cases {
        let found = Message::of_payload(file, payload).ok();
        let found = found.as_ref().map(|(message, bytes)| (message.0.full_name(), *bytes));
        assert_eq!(found, expected, "{payload:?}");
    }
    let deep = format!("syntax = \"proto3\"; {}{}", "message M { ".repeat(200), "}".repeat(200));
    let meta = "syntax = \"proto3\"; import \"confluent/meta.proto\"; import \"confluent/type/decimal.proto\"; message M { confluent.type.Decimal d = 1 [(confluent.field_meta).doc = \"x\"]; }";
    let others = Registry::knowing(RegistryFormat::Protobuf, &[(1, &deep, &[], 1), (2, meta, &[], 2)]);
    known(&others, 1).shape().expect_err("too deep");
    known(&others, 2).shape().expect("Confluent's own files are known");
    let columns = schema.columns(&target("1:web.Hit")).expect("columns");
    assert_eq!(columns.len(), 5);
    assert!(schema.columns(&target("1:web.Gone")).is_err());
}

#[test]
fn protobuf_reads_fields_of_the_same_kind() {
    let message = |fields: &str| format!("syntax = \"proto3\"; message M {{ {fields} }} message N {{ string s = 1; }}");
    let texts = [
        message("int32 a = 1; string b = 2; N n = 3;"),
        message("int64 a = 1; N n = 3; string more = 4;"),
        message("string a = 1;"),
        message("repeated int32 a = 1;"),
        message("map<string, N> m = 5;"),
        message("map<string, int32> m = 5;"),
    ];
    let registry = numbered(RegistryFormat::Protobuf, &texts);
    reads(&registry, "2:M", "1:M").expect("wider, one less, one more");
    reads(&registry, "2:N", "1:N").expect("the same");
    for (reader, writer) in [("3:M", "1:M"), ("4:M", "1:M"), ("2:M", "1:N"), ("6:M", "5:M"), ("2:M", "1:gone")] {
        reads(&registry, reader, writer).expect_err(&format!("{reader} {writer}"));
    }
}

#[test]
fn json_schema_tells_columns() {
    let text = r##"{"type":"object","required":["id","home"],"properties":{
        "id":{"type":"integer"},"name":{"oneOf":[{"type":"null"},{"type":"string"}]},"price":{"type":["number","null"]},
        "tags":{"type":"array","items":{"type":"string"}},"home":{"$ref":"#/definitions/Address"},
        "any":{},"either":{"type":["string","integer"]},"counts":{"type":"object","additionalProperties":{"type":"integer"}}},
        "definitions":{"Address":{"type":"object","properties":{"city":{"type":"string"},"next":{"$ref":"#/definitions/Address"}}}}}"##;
    let wider = r#"{"type":"object","properties":{"id":{"type":"number"},"more":{"type":"string"}}}"#;
    let stricter =
        r#"{"type":"object","required":["more"],"properties":{"id":{"type":"integer"},"more":{"type":"string"}}}"#;
    let schemas: &[KnownSchema<'_>] = &[
        (1, text, &[], 1),
        (2, wider, &[], 2),
        (3, stricter, &[], 3),
        (4, r#"{"type":"string"}"#, &[], 4),
        (5, r##"{"$ref":"#"}"##, &[], 5),
        (6, r##"{"type":"object","properties":{"l":{"$ref":"#"},"r":{"type":"array","items":{"$ref":"#"}}}}"##, &[], 6),
    ];
    let registry = Registry::knowing(RegistryFormat::JsonSchema, schemas);
    let columns = known(&registry, 1).columns(&target("1")).expect("columns");
    let of = |name: &str| columns.iter().find(|column| column.name == name).cloned().expect("a column");
    assert_eq!((of("id").kind, of("id").nullable), (ColumnKind::Int64, false));
    assert_eq!((of("name").kind, of("name").nullable), (ColumnKind::String, true));
    assert_eq!((of("price").kind, of("price").nullable), (ColumnKind::Float64, true));
    assert_eq!((of("any").kind, of("either").kind), (ColumnKind::Json, ColumnKind::Json));
    let element = Column { name: "element".to_string(), kind: ColumnKind::String, nullable: false };
    assert_eq!(of("tags").kind, ColumnKind::List(Box::new(element)));
    assert!(matches!(of("counts").kind, ColumnKind::Map(_)));
    let ColumnKind::Struct(address) = of("home").kind else { panic!("a struct") };
    assert_eq!(address[1].kind, ColumnKind::Json, "what holds itself: {address:?}");
    reads(&registry, "2", "1").expect("wider");
    reads(&registry, "3", "1").expect_err("a field is required that older rows have not");
    known(&registry, 4).shape().expect_err("no object");
    known(&registry, 5).shape().expect_err("nothing but itself");
    let tree = known(&registry, 6).columns(&target("6")).expect("columns");
    assert_eq!(tree[0].kind, ColumnKind::Json);
}

#[test]
fn protobuf_fields_that_could_be_set_together_do_not_fit_a_oneof() {
    let message = |fields: &str| format!("syntax = \"proto3\"; message M {{ {fields} }}");
    let texts = [
        message("int32 a = 1; int32 b = 2;"),
        message("oneof x { int32 a = 1; int32 b = 2; }"),
        message("optional int32 a = 1; optional int32 b = 2;"),
        message("oneof x { int32 a = 1; int32 c = 3; }"),
        message("oneof x { int32 a = 1; int32 b = 2; int32 c = 3; }"),
    ];
    let registry = numbered(RegistryFormat::Protobuf, &texts);
    let problem = reads(&registry, "2:M", "1:M").expect_err("both could be set");
    assert_eq!(problem, "fields 1 and 2 of M exclude each other in one schema and not in the other");
    reads(&registry, "2:M", "3:M").expect_err("both could be set");
    reads(&registry, "1:M", "2:M").expect("one is never set");
    reads(&registry, "3:M", "1:M").expect("each has a presence of its own");
    reads(&registry, "4:M", "1:M").expect("one of them alone is in it");
    reads(&registry, "5:M", "2:M").expect("they excluded each other before");
}

#[test]
fn protobuf_knows_the_common_types_of_google() {
    let types = [
        ("calendar_period", "CalendarPeriod"),
        ("color", "Color"),
        ("date", "Date"),
        ("datetime", "DateTime"),
        ("dayofweek", "DayOfWeek"),
        ("decimal", "Decimal"),
        ("expr", "Expr"),
        ("fraction", "Fraction"),
        ("interval", "Interval"),
        ("latlng", "LatLng"),
        ("localized_text", "LocalizedText"),
        ("money", "Money"),
        ("month", "Month"),
        ("phone_number", "PhoneNumber"),
        ("postal_address", "PostalAddress"),
        ("quaternion", "Quaternion"),
        ("timeofday", "TimeOfDay"),
    ];
    let imports: String = types.iter().map(|(file, _)| format!("import \"google/type/{file}.proto\";")).collect();
    let fields = (1..).zip(types).map(|(number, (_, name))| format!("google.type.{name} f{number} = {number};"));
    let all = format!("syntax = \"proto3\"; {imports} message M {{ {} }}", fields.collect::<String>());
    let own = "syntax = \"proto3\"; import \"schema.proto\"; message M { N n = 1; }";
    let part = ("schema.proto", "syntax = \"proto3\"; message N { string s = 1; }");
    let registry = Registry::knowing(RegistryFormat::Protobuf, &[(1, &all, &[], 1), (2, own, &[part], 2)]);
    let columns = known(&registry, 1).columns(&target("1:M")).expect("all of them are there");
    assert_eq!(columns.len(), types.len());
    known(&registry, 2).shape().expect("an import may be called anything");
}
