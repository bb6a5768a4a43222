use super::*;
use crate::layout::{Column, ColumnKind};

fn known(registry: &Registry, id: u32) -> Arc<Schema> {
    match registry.lookup(id) {
        Lookup::Known(schema) => schema,
        other => panic!("schema {id}: {other:?}"),
    }
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
    let known: Vec<_> = (1..).zip(schemas).map(|(id, text)| (id, text, &[][..], id)).collect();
    let registry = Registry::knowing(RegistryFormat::Avro, &known);
    reads(&registry, "2", "1").expect("by its aliases and defaults");
    reads(&registry, "1", "2").expect_err("a field without default is missing");
    reads(&registry, "3", "1").expect_err("a field without default is missing");
    reads(&registry, "4", "1").expect_err("no number is a text");
    reads(&registry, "5", "1").expect("a number that has a meaning now");
    let problem = reads(&registry, "6", "5").expect_err("another meaning");
    assert_eq!(problem, "a.R.id was timestamp-millis and is timestamp-micros");
    reads(&registry, "7", "1").expect("a default of bytes");
    reads(&registry, "9", "8").expect("no scale is a scale of 0");
    let problem = reads(&registry, "10", "9").expect_err("another scale");
    assert_eq!(problem, "a.R.d was decimal of scale 0 and is decimal of scale 2");
    reads(&registry, "11", "10").expect("one more branch, of another meaning");
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
    let known: Vec<_> = (1..).zip(&texts).map(|(id, text)| (id, text.as_str(), &[][..], id)).collect();
    let registry = Registry::knowing(RegistryFormat::Protobuf, &known);
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
    let known: Vec<_> = (1..).zip(&texts).map(|(id, text)| (id, text.as_str(), &[][..], id)).collect();
    let registry = Registry::knowing(RegistryFormat::Protobuf, &known);
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
