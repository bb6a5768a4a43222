//! Rows by schemas of a registry, projected and not; and that no payload is lost.

use super::*;
use crate::record::OwnedRecord;
use crate::registry::KnownSchema;
use proptest::prelude::*;
use serde_json::{Value, json};

const HIT_1: &str = r#"{"type":"record","name":"web.Hit","fields":[{"name":"id","type":"int"},{"name":"path","type":"string"},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["GET","POST"]}}]}"#;
const HIT_2: &str = r#"{"type":"record","name":"web.Hit","fields":[{"name":"id","type":"long"},{"name":"url","aliases":["path"],"type":"string"},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["OTHER","GET"],"default":"OTHER"}},{"name":"user","type":["null",{"type":"record","name":"User","fields":[{"name":"name","type":"string"}]}],"default":null},{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u0001"}]}"#;
const OTHER: &str = r#"{"type":"record","name":"web.Other","fields":[]}"#;

fn avro() -> Arc<Registry> {
    let schemas: &[KnownSchema<'_>] =
        &[(11, HIT_1, &[], 1), (12, HIT_2, &[], 2), (13, OTHER, &[], 3), (14, "{", &[], 4)];
    Arc::new(Registry::knowing(RegistryFormat::Avro, schemas))
}

fn at(registry: &Registry, target: &str) -> Aim {
    let target: Target = target.parse().expect("a target");
    let Lookup::Known(schema) = registry.lookup(target.id) else { panic!("unknown") };
    Aim::At(target, schema)
}

fn decoder(registry: &Arc<Registry>, format: RegistryFormat, aim: Aim) -> Arc<ByRegistry> {
    let schemas = Schemas { registry: Some(registry.clone()), aim, ..Schemas::default() };
    Arc::new(ByRegistry::new(format, false, &schemas).expect("a registry"))
}

fn wire(id: u32, data: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), data].concat()
}

fn rows(decoder: &Arc<ByRegistry>, payload: &[u8]) -> Result<Vec<Value>, String> {
    let record = OwnedRecord { value: Some(payload.to_vec()), ..OwnedRecord::default() };
    let mut rows = Rows::default();
    decoder.decode(&record.as_record(), payload, &mut rows).map_err(|error| error.to_string())?;
    Ok(rows.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect())
}

/// id 5, path "/a", kind POST; id 6, url "/b", kind GET, no user, price 1.23.
const DATA_1: &[u8] = &[10, 4, b'/', b'a', 2];
const DATA_2: &[u8] = &[12, 4, b'/', b'b', 2, 0, 2, 123];

#[test]
fn without_a_target_each_record_is_read_by_its_own_schema() {
    let decoder = decoder(&avro(), RegistryFormat::Avro, Aim::Own);
    assert_eq!(rows(&decoder, &wire(11, DATA_1)), Ok(vec![json!({"id": 5, "path": "/a", "kind": "POST"})]));
    let second = json!({"id": 6, "url": "/b", "kind": "GET", "user": null, "price": 1.23});
    assert_eq!(rows(&decoder, &wire(12, DATA_2)), Ok(vec![second]));
    assert_eq!(rows(&decoder, &wire(13, &[])), Ok(vec![json!({})]));
    for id in 11..14 {
        assert_eq!(decoder.needs(&wire(id, &[])), Needs::Nothing);
    }
}

#[test]
fn older_rows_are_projected_onto_the_target() {
    let registry = avro();
    let decoder = decoder(&registry, RegistryFormat::Avro, at(&registry, "12"));
    // Another name, a wider number, a symbol that is no more, a default for what was not there.
    let projected = json!({"id": 5, "url": "/a", "kind": "OTHER", "user": null, "price": 0.01});
    assert_eq!(rows(&decoder, &wire(11, DATA_1)), Ok(vec![projected]));
    assert_eq!(decoder.needs(&wire(11, DATA_1)), Needs::Nothing);
    // What is broken by its own schema is broken.
    for broken in [&DATA_1[..4], &[DATA_1, &[0]].concat(), &[10, 4, b'/', 0xff, 2], &[10, 4, b'/', b'a', 6]] {
        rows(&decoder, &wire(11, broken)).expect_err("broken");
    }
    let problem = rows(&decoder, &wire(13, &[])).expect_err("another record");
    assert!(problem.starts_with("schema 13 is newer than schema 12 and does not read it: "), "{problem}");
    assert_eq!(decoder.needs(&wire(13, &[])), Needs::Nothing);
    let problem = rows(&decoder, &wire(14, &[])).expect_err("no schema at all");
    assert!(problem.starts_with("schema 14 cannot be used: not JSON"), "{problem}");
}

/// Goal: branches of unions, recursion and maps keep their values, and cost no more than they hold.
#[test]
fn unions_and_nested_records_are_projected_by_their_types() {
    let first = r#"{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]},
        {"name":"event","type":[{"type":"record","name":"Created","fields":[{"name":"id","type":"int"}]},{"type":"record","name":"Updated","fields":[{"name":"id","type":"int"},{"name":"name","type":"string"}]}]},
        {"name":"number","type":"long"},{"name":"tags","type":{"type":"map","values":"int"}}]}"#;
    let second = r#"{"type":"record","name":"Node","fields":[{"name":"tags","type":{"type":"map","values":"long"}},{"name":"number","type":["null","int","long","double"]},
        {"name":"event","type":[{"type":"record","name":"Created","fields":[{"name":"id","type":"int"}]},{"type":"record","name":"Updated","fields":[{"name":"id","type":"int"},{"name":"name","type":"string"}]}]},
        {"name":"next","type":["null","Node"]},{"name":"more","type":["null","bytes"],"default":null},{"name":"raw","type":"bytes","default":"\u00ff"}]}"#;
    let schemas: &[KnownSchema<'_>] = &[(1, first, &[], 1), (2, second, &[], 2)];
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, schemas));
    let decoder = decoder(&registry, RegistryFormat::Avro, at(&registry, "2"));
    // An Updated, a long beyond 32 bits, three tags; and the same below it, 30 times.
    let own: &[u8] = &[2, 14, 4, b'x', b'y', 0x80, 0x80, 0x80, 0x80, 0x40, 6, 2, b'c', 2, 2, b'a', 4, 2, b'b', 6, 0];
    let mut data = vec![2; 30];
    data.push(0);
    (0..31).for_each(|_| data.extend_from_slice(own));
    let found = rows(&decoder, &wire(1, &data)).expect("a row");
    let mut node = &found[0];
    for depth in 0..31 {
        assert_eq!(node["event"], json!({"id": 7, "name": "xy"}), "{depth}");
        assert_eq!(node["number"], json!(8_589_934_592_i64));
        assert_eq!((&node["more"], &node["raw"]), (&Value::Null, &json!("/w==")));
        node = &node["next"];
    }
    let record = OwnedRecord::default();
    let mut text = Rows::default();
    decoder.decode(&record.as_record(), &wire(1, &data), &mut text).expect("a row");
    assert_eq!(
        text.get(0).expect("a row").matches(r#""tags":{"a":2,"b":3,"c":1}"#).count(),
        31,
        "in the order of their keys"
    );
}

#[test]
fn a_newer_schema_is_the_next_target() {
    let registry = avro();
    let by_first = decoder(&registry, RegistryFormat::Avro, at(&registry, "11"));
    let by_none = decoder(&registry, RegistryFormat::Avro, Aim::Open);
    let second = Target { id: 12, message: None };
    // Kind has a symbol less, but the newer schema says what that becomes.
    assert_eq!(by_first.needs(&wire(12, DATA_2)), Needs::Target(second.clone()));
    assert_eq!(by_first.needs(&wire(11, DATA_1)), Needs::Nothing);
    assert_eq!(by_none.needs(&wire(12, b"broken")), Needs::Target(second));
    assert_eq!(by_none.needs(&wire(14, &[])), Needs::Nothing, "no rows could be of it");
    assert_eq!(by_none.needs(b"{}"), Needs::Nothing);
}

/// Goal: what outputs cannot hold is a dead letter, whether the batch has a target yet or not, and with the same reason: so a
/// redo, which knows the target from the start, decides as the first try did. Nothing that is in such a schema alone is lost.
#[test]
fn what_the_outputs_cannot_hold_is_refused_whatever_the_target() {
    let field = |name: &str| format!(r#"{{"name":"{name}","type":"int","default":0}}"#);
    let record = |names: &[&str]| {
        let fields: Vec<String> = names.iter().map(|name| field(name)).collect();
        format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","))
    };
    let (both, one) = (record(&["a", "A"]), record(&["a"]));
    let schemas: &[KnownSchema<'_>] =
        &[(1, &both, &[], 1), (2, &one, &[], 2), (3, &both, &[], 3), (4, r#""string""#, &[], 4)];
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, schemas));
    let fits: Fits = Arc::new(|columns| match columns.iter().any(|column| column.name == "A") {
        true => Err("another one has the same name but for upper and lower case".to_string()),
        false => Ok(()),
    });
    let reader = |aim| {
        let schemas = Schemas { registry: Some(registry.clone()), aim, fits: fits.clone(), ..Schemas::default() };
        Arc::new(ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry"))
    };
    let (open, aimed) = (reader(Aim::Open), reader(at(&registry, "2")));
    for (id, data) in [(1, &[2, 14][..]), (3, &[2, 14]), (4, &[2, b'x'])] {
        let payload = wire(id, data);
        assert_eq!((open.needs(&payload), aimed.needs(&payload)), (Needs::Nothing, Needs::Nothing), "{id}");
        let problem = rows(&aimed, &payload).expect_err("the outputs cannot hold it");
        assert!(problem.starts_with(&format!("schema {id} cannot be used: ")), "{problem}");
        assert_eq!(rows(&open, &payload), Err(problem));
    }
    assert_eq!(rows(&aimed, &wire(2, &[2])), Ok(vec![json!({"a": 1})]));
}

/// Goal: a newer version that does not read the target is refused also where its id is the lower one, as what is new in it would be
/// lost; and a redo decides as its claim says, whatever the versions are by then.
#[test]
fn a_newer_version_of_a_lower_id_is_not_projected_down() {
    let record = |more: &str| format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"int"}}{more}]}}"#);
    let (plain, more) = (record(""), record(r#",{"name":"b","type":"int"}"#));
    let schemas: &[KnownSchema<'_>] = &[(3, &more, &[], 2), (5, &plain, &[], 1), (4, &more, &[], 0)];
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, schemas));
    let reader = |settled: Option<&[u32]>| {
        let settled = settled.map(|ids| ids.iter().copied().collect());
        let aim = at(&registry, "5");
        let schemas = Schemas { registry: Some(registry.clone()), aim, settled, ..Schemas::default() };
        Arc::new(ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry"))
    };
    let (newer, older) = (wire(3, &[2, 14]), wire(4, &[2, 14]));
    let first = reader(None);
    assert_eq!(first.needs(&newer), Needs::Stray(3));
    let problem = rows(&first, &newer).expect_err("7 would be lost");
    assert_eq!((first.needs(&older), rows(&first, &older)), (Needs::Nothing, Ok(vec![json!({"a": 1})])));
    let redo = reader(Some(&[3]));
    assert_eq!((redo.needs(&newer), rows(&redo, &newer)), (Needs::Note(3), Err(problem)));
    // Its version was another one when that batch was cut.
    let redo = reader(Some(&[]));
    assert_eq!((redo.needs(&newer), rows(&redo, &newer)), (Needs::Nothing, Ok(vec![json!({"a": 1})])));
    // Nor does it matter to a replay whose rows are claimed.
    let (registry, aim) = (Some(registry.clone()), at(&registry, "5"));
    let schemas = Schemas { registry, aim, by_ids_alone: true, ..Schemas::default() };
    let claimed = Arc::new(ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry"));
    assert_eq!((claimed.needs(&newer), rows(&claimed, &newer)), (Needs::Nothing, Ok(vec![json!({"a": 1})])));
}

/// Goal: records that lose all of their fields stay as many as they were.
#[test]
fn items_that_lose_their_fields_are_counted_on() {
    let record = |fields: &str| {
        format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"items","type":{{"type":"array","items":{{"type":"record","name":"I","fields":[{fields}]}}}}}}]}}"#
        )
    };
    let (old, new) = (record(r#"{"name":"a","type":"int"}"#), record(""));
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, &[(1, &old, &[], 1), (2, &new, &[], 2)]));
    let payload = wire(1, &[&[0xd0, 0x0f][..], &[2; 1000], &[0]].concat());
    let rows = rows(&decoder(&registry, RegistryFormat::Avro, at(&registry, "2")), &payload).expect("a row");
    assert_eq!(rows[0]["items"].as_array().map(Vec::len), Some(1000));
}

/// A registry that nobody answers for, with `id` given up.
fn given_up(id: u32) -> Arc<Registry> {
    let urls = vec!["http://127.0.0.1:1".parse().expect("a URL")];
    let unknown_ids = BTreeSet::from([id]);
    let config = crate::config::RegistryConfig { urls, login: None, ca_file: None, unknown_ids };
    Arc::new(Registry::new(&config).expect("settings that work"))
}

/// Goal: what the configuration gives up is a dead letter, but not of a batch that was cut with it.
#[test]
fn ids_that_are_given_up_are_unknown() {
    let registry = given_up(7);
    let reader = |settled| {
        let schemas = Schemas { registry: Some(registry.clone()), settled, ..Schemas::default() };
        Arc::new(ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry"))
    };
    assert_eq!(reader(None).needs(&wire(7, &[])), Needs::Note(7));
    assert_eq!(rows(&reader(None), &wire(7, &[])), Err("the schema registry has no schema 7".to_string()));
    assert_eq!(reader(None).needs(&wire(8, &[])), Needs::Ask(8));
    assert_eq!(reader(Some(BTreeSet::new())).needs(&wire(7, &[])), Needs::Ask(7));
    let schemas = Schemas { registry: Some(registry.clone()), by_ids_alone: true, ..Schemas::default() };
    let claimed = ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry");
    assert_eq!(claimed.needs(&wire(7, &[])), Needs::Ask(7), "a replay that has claimed rows of it");
}

/// Goal: a target that was given up and cannot be asked for does not hold up whoever takes the partition over.
#[tokio::test]
async fn a_target_that_is_given_up_is_not_waited_for() {
    let registry = given_up(7);
    let avro = RegistryFormat::Avro;
    assert!(registry.schema_or_ask(7, avro).await.expect("nobody answers").is_none());
    registry.schema_or_ask(8, avro).await.expect_err("nobody answers");
    registry.ask(7, avro).await.expect_err("nobody answers");
}

/// Goal: a payload of a megabyte that stands for gigabytes of rows costs no more than the rows that a record may have.
#[test]
fn defaults_of_many_empty_messages_are_bounded() {
    let fields: String = (1..=100).map(|number| format!("int64 field_{number} = {number};")).collect();
    let text = format!("syntax = \"proto3\"; message M {{ repeated I items = 1; }} message I {{ {fields} }}");
    let registry = Arc::new(Registry::knowing(RegistryFormat::Protobuf, &[(1, &text, &[], 1)]));
    let decoder = decoder(&registry, RegistryFormat::Protobuf, Aim::Own);
    let payload = |items: usize| wire(1, &[&[0][..], &[10, 0].repeat(items)].concat());
    assert_eq!(rows(&decoder, &payload(500_000)), Err("its rows are more than 67108864 bytes".to_string()));
    assert_eq!(rows(&decoder, &payload(3)).expect("a row")[0]["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn what_is_unknown_is_noted_and_stays_so() {
    let registry = avro();
    let open = decoder(&registry, RegistryFormat::Avro, Aim::Open);
    assert_eq!(open.needs(&wire(99, &[])), Needs::Ask(99));
    registry.forget(99);
    assert_eq!(open.needs(&wire(99, &[])), Needs::Note(99));
    let problem = rows(&open, &wire(99, &[])).expect_err("unknown");
    assert!(problem.starts_with("the schema registry has no schema 99, or one that is newer"), "{problem}");
    let settled = |ids: &[u32]| {
        let settled = Some(ids.iter().copied().collect());
        let schemas = Schemas { registry: Some(registry.clone()), settled, ..Schemas::default() };
        Arc::new(ByRegistry::new(RegistryFormat::Avro, false, &schemas).expect("a registry"))
    };
    // It is there now, but the batch was cut without it.
    assert_eq!(settled(&[11]).needs(&wire(11, DATA_1)), Needs::Note(11));
    rows(&settled(&[11]), &wire(11, DATA_1)).expect_err("unknown");
    // It is gone now, but the batch was cut with it.
    assert_eq!(settled(&[]).needs(&wire(99, &[])), Needs::Ask(99));
}

#[test]
fn protobuf_is_projected_by_the_numbers_of_its_fields() {
    let first = r#"syntax = "proto3"; package web; message Other {} message Hit { int32 id = 1; string path = 2; string gone = 3; }"#;
    let second =
        r#"syntax = "proto3"; package web; message Hit { int64 id = 1; string url = 2; optional string more = 4; }"#;
    let schemas: &[KnownSchema<'_>] = &[(1, first, &[], 1), (2, second, &[], 2)];
    let registry = Arc::new(Registry::knowing(RegistryFormat::Protobuf, schemas));
    let own = decoder(&registry, RegistryFormat::Protobuf, Aim::Own);
    let aimed = decoder(&registry, RegistryFormat::Protobuf, at(&registry, "2:web.Hit"));
    let data = [8, 5, 18, 2, b'/', b'a', 26, 1, b'x'];
    let hit = wire(1, &[&[2, 2][..], &data].concat());
    assert_eq!(rows(&own, &hit), Ok(vec![json!({"id": 5, "path": "/a", "gone": "x"})]));
    assert_eq!(rows(&aimed, &hit), Ok(vec![json!({"id": 5, "url": "/a"})]));
    assert_eq!(rows(&own, &wire(1, &[0])), Ok(vec![json!({})]));
    let problem = rows(&aimed, &wire(1, &[0])).expect_err("another message");
    assert!(problem.starts_with("schema 1:web.Other does not fit schema 2:web.Hit"), "{problem}");
    // Field 9 is of no schema.
    rows(&aimed, &wire(1, &[2, 2, 72, 1])).expect_err("a field of no schema");
    rows(&own, &wire(1, &[4, 2])).expect_err("no such message");
    let first = decoder(&registry, RegistryFormat::Protobuf, at(&registry, "1:web.Hit"));
    let second = Target { id: 2, message: Some("web.Hit".to_string()) };
    assert_eq!(first.needs(&wire(2, &[0, 8, 5])), Needs::Target(second));
}

#[test]
fn numbers_that_json_has_not_are_told_or_refused() {
    let text = r#"syntax = "proto3"; import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto";
        message M { double plain = 1; google.protobuf.DoubleValue wrapped = 2; repeated google.protobuf.FloatValue many = 3; google.protobuf.Value any = 4; }"#;
    let registry = Arc::new(Registry::knowing(RegistryFormat::Protobuf, &[(1, text, &[], 1)]));
    let decoder = decoder(&registry, RegistryFormat::Protobuf, Aim::Own);
    let hit = |data: &[u8]| rows(&decoder, &wire(1, &[&[0][..], data].concat()));
    let (nan, one) = (f64::NAN.to_le_bytes(), 1.5_f64.to_le_bytes());
    assert_eq!(hit(&[&[9][..], &nan].concat()), Ok(vec![json!({"plain": "NaN", "many": []})]));
    assert_eq!(hit(&[&[18, 9, 9][..], &one].concat()), Ok(vec![json!({"plain": 0.0, "wrapped": 1.5, "many": []})]));
    hit(&[&[18, 9, 9][..], &nan].concat()).expect_err("a wrapped one");
    hit(&[&[26, 5, 13][..], &f32::INFINITY.to_le_bytes()].concat()).expect_err("one of many");
    hit(&[&[34, 9, 17][..], &nan].concat()).expect_err("any value");
}

#[test]
fn json_is_what_is_behind_the_id() {
    let text = r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#;
    let registry = Arc::new(Registry::knowing(RegistryFormat::JsonSchema, &[(1, text, &[], 1)]));
    let decoder = decoder(&registry, RegistryFormat::JsonSchema, at(&registry, "1"));
    assert_eq!(rows(&decoder, &wire(1, b"{\"a\":1}")), Ok(vec![json!({"a": 1})]));
    rows(&decoder, &wire(1, b"{\"a\":1")).expect_err("broken");
    rows(&decoder, b"{\"a\":1}").expect_err("no id");
}

proptest! {
    #[test]
    fn any_data_is_rows_or_a_reason(id in 10..16_u32, data in prop::collection::vec(any::<u8>(), 0..60), aimed: bool) {
        let registry = avro();
        let aim = if aimed { at(&registry, "12") } else { Aim::Own };
        let decoder = decoder(&registry, RegistryFormat::Avro, aim);
        let payload = wire(id, &data);
        let found = rows(&decoder, &payload);
        prop_assert_eq!(found.as_ref().map(Vec::len).unwrap_or(1), 1);
        prop_assert_eq!(found, rows(&decoder, &payload));
    }
}
