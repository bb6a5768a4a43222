use super::*;
use crate::decode::{Aim, Schemas};
use crate::destination::{Destination, StoreKind};
use crate::layout::{Layout, RegistryFormat};
use crate::pipeline::partition::Partition;
use crate::record::OwnedRecord;
use crate::registry::{Lookup, Registry};
use crate::spool::Spool;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const KAFKA_MS: i64 = 1_763_712_000_000;

fn place(folder: &str) -> Value {
    json!({"path": format!("{folder}/hr=%H"), "name": "{topic}+{partition}+{first}-{end}", "zone": "UTC",
        "destinations": ["memory:///"]})
}

/// An output called `name` of that format.
fn output(name: &str, format: Value) -> Value {
    json!({"name": name, "keep": null, "place": place(name), "format": format})
}

fn parquet(name: &str) -> Value {
    let columns = json!([{"name": "id", "kind": "int64", "nullable": false},
        {"name": "time", "kind": "int64", "nullable": true}]);
    output(
        name,
        json!({"type": "parquet", "compression": {"codec": "none"}, "schema": {"columns": columns}, "unknown": "rest",
            "row_group_bytes": 1_000_000, "row_group_rows": 1000}),
    )
}

fn lines(name: &str) -> Value {
    output(name, json!({"type": "json", "compression": {"codec": "none"}}))
}

fn raw(name: &str) -> Value {
    output(name, json!({"type": "raw", "compression": {"codec": "none"}, "newlines": "refuse"}))
}

/// An archive with those outputs.
fn compiled(outputs: &[Value], fallback: &str) -> Arc<Archive> {
    compiled_with(outputs, fallback, "dead")
}

/// The same with dead letters in the folders of `dead`.
fn compiled_with(outputs: &[Value], fallback: &str, dead: &str) -> Arc<Archive> {
    let timestamp = json!({"source": {"field": ["time"]}, "format": "auto", "zone": "UTC", "fallback": fallback});
    compiled_of(json!({"version": 1, "code": {"rows": 1, "tzdata": "test"},
        "archive": "a", "generation": 1, "decode": {"type": "json", "validate": true}, "timestamp": timestamp,
        "tombstones": "keep", "outputs": outputs, "dead_letters": {"place": place(dead)}}))
}

/// An archive that unfolds JSON and runs `program` on each row.
fn unfolding(outputs: &[Value], program: Option<&str>) -> Arc<Archive> {
    let timestamp = json!({"source": {"field": ["time"]}, "format": "auto", "zone": "UTC", "fallback": "kafka"});
    compiled_of(json!({"version": 1, "code": {"rows": 1, "tzdata": "test"},
        "archive": "a", "generation": 1, "decode": {"type": "json", "validate": true, "unfold": true}, "transform": program,
        "timestamp": timestamp, "tombstones": "keep", "outputs": outputs, "dead_letters": {"place": place("dead")}}))
}

fn compiled_of(layout: Value) -> Arc<Archive> {
    compiled_by(layout, &Schemas::default())
}

/// The same with what it needs of a schema registry.
fn compiled_by(layout: Value, schemas: &Schemas) -> Arc<Archive> {
    let layout: Layout = serde_json::from_value(layout).expect("a layout");
    let memory = Destination::from_store("main", "memory:///", Arc::new(InMemory::new()), StoreKind::Memory);
    let destinations = BTreeMap::from([("memory:///".to_string(), Arc::new(memory))]);
    Arc::new(Archive::compile(&layout, &destinations, &BTreeMap::new(), schemas).expect("a layout that compiles"))
}

/// An archive with a Parquet output, and with `more` a JSON one behind it.
fn archive(more: bool, fallback: &str) -> Arc<Archive> {
    if more { compiled(&[parquet("rows"), lines("lines")], fallback) } else { compiled(&[parquet("rows")], fallback) }
}

/// A batch of records with those payloads from offset 0 on.
fn batch_of(archive: &Arc<Archive>, payloads: &[Option<&[u8]>]) -> OpenBatch {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive.clone(), 0, None, dir, opened);
    for (offset, payload) in (0..).zip(payloads) {
        let record = OwnedRecord {
            topic: "t".to_string(),
            offset,
            timestamp: Some(KAFKA_MS),
            value: payload.map(<[u8]>::to_vec),
            ..OwnedRecord::default()
        };
        batch.append(&record.as_record(), &mut Workspace::default(), &mut Vec::new());
    }
    assert!(batch.balance.holds() && batch.rows_agree(), "{:?}", batch.balance);
    batch
}

fn dead_letters(batch: &mut OpenBatch) -> Vec<Value> {
    let dead = batch.archive.dead_letters();
    let mut letters = Vec::new();
    for part in batch.parts.iter_mut().filter(|part| part.output == dead) {
        let lines = part.part.rows().split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        letters.extend(lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON")));
    }
    letters
}

/// Event time of a record with that payload, and the dead letters it makes: stage, reason, outputs.
fn outcome(archive: &Arc<Archive>, payload: &[u8]) -> (Option<i64>, Vec<(Value, Value, Value)>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive.clone(), 0, None, dir, opened);
    let record = OwnedRecord {
        topic: "t".to_string(),
        timestamp: Some(KAFKA_MS),
        value: Some(payload.to_vec()),
        ..OwnedRecord::default()
    };
    let event_ms = batch.append(&record.as_record(), &mut Workspace::default(), &mut Vec::new());
    let letters = dead_letters(&mut batch).into_iter();
    let told = letters.map(|letter| (letter["stage"].clone(), letter["reason"].clone(), letter["outputs"].clone()));
    (event_ms, told.collect())
}

/// Where every output reads a payload to its end nobody does so before: what becomes of a record is the same.
#[test]
fn broken_payloads_are_told_from_unfit_ones_whoever_reads_them() {
    let cases: [(&[u8], &str); 12] = [
        (br#"{"id":1,"time":1763683205604}"#, ""),
        (br#"{"time":1763683205604,"id":"x"}"#, "row"),
        (br#"{"time":1763683205604}"#, "row"),
        (br#"[1763683205604]"#, "row"),
        (br#"{"time":1763683205604,"id":"x""#, "decode"),
        (br#"{"time":1763683205604,"id":1} {}"#, "decode"),
        (br#"{"time":1763683205604,"id":1,"y":[}"#, "decode"),
        (br#"{"time":1763683205604,"id":1,"id":2,}"#, "decode"),
        (br#"{"id":1,"#, "decode"),
        (br#"{"id":1}x"#, "decode"),
        (b"[1", "decode"),
        (b"{\"time\":1763683205604,\"id\":1,\"y\":\"\xff\"}", "decode"),
    ];
    for fallback in ["kafka", "dead_letter"] {
        let (alone, with_lines) = (archive(false, fallback), archive(true, fallback));
        for (payload, stage) in cases {
            let shown = String::from_utf8_lossy(payload);
            let (event_ms, letters) = outcome(&alone, payload);
            let (expected_ms, mut expected) = outcome(&with_lines, payload);
            expected.iter_mut().for_each(|(_, _, outputs)| *outputs = json!(["rows"]));
            assert_eq!((event_ms, &letters), (expected_ms, &expected), "{shown} {fallback}");
            let is_timeless = fallback == "dead_letter" && stage == "row" && payload.starts_with(b"[");
            let stage = if is_timeless { "timestamp" } else { stage };
            assert_eq!(letters.first().map_or("", |(stage, ..)| stage.as_str().expect("text")), stage, "{shown}");
        }
    }
}

/// Whatever made it a dead letter: topic, key, headers and Kafka partition are the record's own, fields are null.
#[test]
fn dead_letters_lie_where_their_key_and_headers_say() {
    let dead = "dead/{topic}/{topic[1]}/{header.h}/{key}/{partition}/{output}/{field.id}";
    let archive = compiled_with(&[parquet("rows"), lines("lines")], "kafka", dead);
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive.clone(), 0, None, dir, opened);
    let null = crate::layout::encode::NULL_VALUE;
    let mut expected = Vec::new();
    for (payload, header) in [(&br#"{"id":"#[..], Some(&b"eu"[..])), (br#"{"id":"x"}"#, None)] {
        let record = OwnedRecord {
            topic: "a.b".to_string(),
            partition: 7,
            timestamp: Some(KAFKA_MS),
            key: Some(b"k/1".to_vec()),
            headers: header.map(|value| ("h".to_string(), Some(value.to_vec()))).into_iter().collect(),
            value: Some(payload.to_vec()),
            ..OwnedRecord::default()
        };
        batch.append(&record.as_record(), &mut Workspace::default(), &mut Vec::new());
        let header = header.map_or(null, |_| "eu");
        expected.push(format!("dead/a.b/b/{header}/k%2F1/7/dead_letters/{null}/hr=08"));
    }
    let dead = batch.parts.iter().filter(|part| part.output == archive.dead_letters());
    let folders: Vec<&str> = dead.map(|part| &*part.window.folder).collect();
    assert_eq!(folders, expected);
}

/// No two dead letters are alike in topic, Kafka partition, offset and index, and a redo gives them the same.
#[test]
fn dead_letters_of_one_record_are_told_apart() {
    let outputs = [parquet("one"), raw("raw"), parquet("two"), lines("lines"), parquet("three")];
    let archive = compiled(&outputs, "dead_letter");
    let payloads: [Option<&[u8]>; 5] = [
        Some(br#"{"time":1763683205604}"#),
        Some(b"{"),
        Some(b"{\n\"time\":1763683205604,\"id\":\"x\"}"),
        Some(br#"{"id":1,"time":0}"#),
        Some(b"{\n"),
    ];
    let letters = dead_letters(&mut batch_of(&archive, &payloads));
    let told: Vec<Value> = letters.iter().map(|one| json!([one["offset"], one["index"], one["outputs"]])).collect();
    let expected = json!([
        [0, 0, ["one"]],
        [0, 1, ["two"]],
        [0, 2, ["three"]],
        [1, 0, ["one", "two", "lines", "three"]],
        [2, 0, ["one"]],
        [2, 1, ["raw"]],
        [2, 2, ["two"]],
        [2, 3, ["three"]],
        [3, 0, ["one", "two", "lines", "three"]],
        [4, 0, ["one", "two", "lines", "three"]],
        [4, 1, ["raw"]],
    ]);
    assert_eq!(Value::Array(told), expected);
    assert_eq!(dead_letters(&mut batch_of(&archive, &payloads)), letters);
}

/// A record that is archived by another time than the layout asks for is counted, once.
#[test]
fn kafka_timestamps_that_stand_in_are_counted() {
    let good: &[u8] = br#"{"id":1,"time":1763683205604}"#;
    let payloads: [Option<&[u8]>; 7] =
        [Some(good), Some(br#"{"id":1}"#), Some(br#"{"id":1,"time":0}"#), Some(b"{"), Some(b"[1]"), None, Some(good)];
    let fallbacks = |outputs: &[Value], fallback: &str| {
        let balance = batch_of(&compiled(outputs, fallback), &payloads).balance;
        (balance.time_fallbacks, balance.outputs[0].archived)
    };
    assert_eq!(fallbacks(&[lines("lines"), raw("raw")], "kafka"), (4, 6));
    assert_eq!(fallbacks(&[lines("lines")], "kafka"), (3, 6));
    assert_eq!(fallbacks(&[parquet("rows")], "kafka"), (2, 4));
    assert_eq!(fallbacks(&[lines("lines")], "dead_letter"), (0, 3));
    assert_eq!(fallbacks(&[raw("raw"), lines("lines")], "dead_letter"), (4, 7));
}

/// The lines of an output, whatever its windows.
fn lines_of(batch: &mut OpenBatch, output: usize) -> Vec<String> {
    let parts = batch.parts.iter_mut().filter(|part| part.output == output);
    let text: Vec<u8> = parts.flat_map(|part| part.part.rows().clone()).collect();
    String::from_utf8(text).expect("text").lines().map(str::to_string).collect()
}

/// Rows are counted beside records; a record with a row that is a dead letter is one, with its other rows archived.
#[test]
fn a_record_unfolds_to_rows() {
    let archive = unfolding(&[parquet("rows"), lines("lines"), raw("raw")], None);
    let payloads: [Option<&[u8]>; 6] = [
        Some(br#"[{"id":1,"time":1763683205604},{"id":2,"time":1763690000000},{"id":3}]"#),
        Some(br#"[{"id":4},{"id":"x"},{"id":6}]"#),
        Some(b"[]"),
        Some(b"[1,"),
        Some(br#"{"id":7}"#),
        None,
    ];
    let mut batch = batch_of(&archive, &payloads);
    let told: Vec<_> =
        batch.balance.outputs.iter().map(|of| (of.archived, of.rows, of.dead_lettered, of.dropped.clone())).collect();
    let empty = BTreeMap::from([("empty", 1)]);
    let nothing = BTreeMap::new();
    assert_eq!(told, [(2, 6, 3, empty.clone()), (4, 8, 1, empty), (6, 6, 0, nothing)]);
    assert_eq!(batch.balance.time_fallbacks, 4, "of four records a row or more has no time of its own");
    let letters: Vec<Value> = dead_letters(&mut batch)
        .iter()
        .map(|one| json!([one["offset"], one["index"], one["row"], one["stage"]]))
        .collect();
    assert_eq!(Value::Array(letters), json!([[1, 0, 1, "row"], [3, 0, null, "decode"], [5, 0, null, "row"]]));
    let expected =
        [r#"{"id":1,"time":1763683205604}"#, r#"{"id":2,"time":1763690000000}"#, r#"{"id":3}"#, r#"{"id":4}"#];
    let found = lines_of(&mut batch, 1);
    assert!(expected.iter().all(|line| found.contains(&line.to_string())), "{found:?}");
    // Of each part, how many records its rows are of.
    let parts: Vec<(u64, u64)> =
        batch.parts.iter().filter(|part| part.output == 1).map(|part| (part.rows, part.records)).collect();
    assert_eq!(parts, [(1, 1), (1, 1), (6, 4)]);
    assert_eq!(lines_of(&mut batch, 2).len(), 6);
}

/// Every record is accounted for in every output, whatever program, routes and filters do with its rows.
#[test]
fn programs_drop_route_and_fail() {
    let program =
        "if .drop == true { abort }\n.time = .t\ndel(.t)\nif exists(.to) { .output = del(.to) }\n.n = to_int!(.n)";
    let mut errors = lines("errors");
    errors["filter"] = json!(".n > 1");
    let archive = unfolding(&[lines("all"), errors, raw("raw")], Some(program));
    let payloads: [Option<&[u8]>; 7] = [
        Some(br#"{"n":"1","t":1763683205604}"#),
        Some(br#"{"n":"2","to":"errors"}"#),
        Some(br#"[{"drop":true},{"n":"3","to":["all","errors"]}]"#),
        Some(br#"{"drop":true}"#),
        Some(br#"{"n":"x"}"#),
        Some(br#"{"n":"4","to":"nowhere"}"#),
        Some(b"{"),
    ];
    let mut batch = batch_of(&archive, &payloads);
    let told: Vec<_> =
        batch.balance.outputs.iter().map(|of| (of.archived, of.rows, of.dead_lettered, of.dropped.clone())).collect();
    assert_eq!(
        told,
        [
            (2, 2, 3, BTreeMap::from([("route", 1), ("transform", 1)])),
            (2, 2, 3, BTreeMap::from([("filter", 1), ("transform", 1)])),
            (7, 7, 0, BTreeMap::new()),
        ]
    );
    assert_eq!(lines_of(&mut batch, 0), [r#"{"n":1,"time":1763683205604}"#, r#"{"n":3,"time":null}"#]);
    assert_eq!(lines_of(&mut batch, 1), [r#"{"n":2,"time":null}"#, r#"{"n":3,"time":null}"#]);
    let letters: Vec<Value> =
        dead_letters(&mut batch).iter().map(|one| json!([one["offset"], one["stage"], one["outputs"]])).collect();
    let both = json!(["all", "errors"]);
    assert_eq!(Value::Array(letters), json!([[4, "transform", both], [5, "transform", both], [6, "decode", both]]));
    // The event time is that of the row as it is archived.
    let folders: Vec<&str> =
        batch.parts.iter().filter(|part| part.output == 0).map(|part| &*part.window.folder).collect();
    assert_eq!(folders, ["all/hr=00", "all/hr=08"]);
}

/// A filter of an output that takes every record looks at the rows that are left; where none is, none passes.
#[test]
fn raw_outputs_follow_the_rows_that_are_left() {
    let mut filtered = raw("filtered");
    filtered["filter"] = json!(".id == 2");
    let archive = unfolding(&[raw("raw"), filtered], Some("if .drop == true { abort }"));
    let payloads: [Option<&[u8]>; 4] = [
        Some(br#"[{"drop":true},{"id":1,"time":1763683205604}]"#),
        Some(br#"[{"id":1},{"id":2,"time":1763683205604}]"#),
        Some(br#"{"drop":true}"#),
        Some(b"{"),
    ];
    let mut batch = batch_of(&archive, &payloads);
    let told: Vec<_> = batch.balance.outputs.iter().map(|of| (of.archived, of.dropped.clone())).collect();
    let dropped = BTreeMap::from([("transform", 2)]);
    assert_eq!(told, [(4, BTreeMap::new()), (2, dropped)]);
    assert_eq!(lines_of(&mut batch, 1), [r#"[{"id":1},{"id":2,"time":1763683205604}]"#, "{"]);
    // The first row that is left tells the window.
    let folders: Vec<(&str, u64)> =
        batch.parts.iter().filter(|part| part.output == 0).map(|part| (&*part.window.folder, part.rows)).collect();
    assert_eq!(folders, [("raw/hr=00", 1), ("raw/hr=08", 3)]);
}

/// What is broken before a program sees it is refused for that, whether the archive validates or not.
#[test]
fn broken_json_is_no_matter_of_the_transform() {
    for validate in [true, false] {
        let timestamp = json!({"source": "kafka", "format": "auto", "zone": "UTC", "fallback": "kafka"});
        let archive =
            compiled_of(json!({"version": 1, "code": {"rows": 1, "tzdata": "test"}, "archive": "a", "generation": 1,
            "decode": {"type": "json", "validate": validate}, "transform": ".a = 1", "timestamp": timestamp,
            "tombstones": "keep", "outputs": [lines("lines")], "dead_letters": {"place": place("dead")}}));
        let mut batch = batch_of(&archive, &[Some(b"{\"b\":[}"), Some(b"{} {}"), Some(b""), Some(b" {\"b\":2} ")]);
        let stages: Vec<Value> = dead_letters(&mut batch).iter().map(|one| one["stage"].clone()).collect();
        assert_eq!(stages, ["decode", "decode", "decode"], "{validate}");
        assert_eq!(lines_of(&mut batch, 0), [r#"{"a":1,"b":2}"#]);
    }
}

/// An archive that reads Avro by `registry`, with rows projected onto schema `target`.
fn by_registry(registry: &Arc<Registry>, target: Option<u32>) -> Arc<Archive> {
    let aim = target.map_or(Aim::Own, |id| match registry.lookup(id) {
        Lookup::Known(schema) => Aim::At(id.to_string().parse().expect("a target"), schema),
        other => panic!("schema {id}: {other:?}"),
    });
    let layout = json!({"version": 1, "code": {"rows": 1, "tzdata": "test"},
        "archive": "a", "generation": 1, "decode": {"type": "registry", "format": "avro"},
        "timestamp": {"source": "kafka", "format": "auto", "zone": "UTC", "fallback": "kafka"}, "tombstones": "keep",
        "outputs": [lines("lines")], "dead_letters": {"place": place("dead")}});
    compiled_by(layout, &Schemas { registry: Some(registry.clone()), aim, ..Schemas::default() })
}

const RECORD: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;

/// Goal: a record whose schema the claim says was unknown has no row, even if the registry has got the schema a moment ago: a redo
/// would make none.
#[test]
fn a_batch_says_one_thing_of_each_schema() {
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, &[(7, RECORD, &[], 1)]));
    let archive = by_registry(&registry, None);
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20, 1).expect("a spool");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive, 0, None, spool.batch_dir().expect("a folder in it"), opened);
    let payload = [0, 0, 0, 0, 7, 2];
    let record = |offset| OwnedRecord {
        offset,
        timestamp: Some(KAFKA_MS),
        value: Some(payload.to_vec()),
        ..OwnedRecord::default()
    };
    batch.note(7, false);
    batch.note(8, true);
    let named = |id| [0, 0, 0, 0, id, 2];
    let noted = |id| (batch.noted(&named(id)), batch.noted_stray(&named(id)));
    assert_eq!([noted(7), noted(8), noted(9)], [(true, false), (true, true), (false, false)]);
    batch.append(&record(0).as_record(), &mut Workspace::default(), &mut Vec::new());
    assert!(lines_of(&mut batch, 0).is_empty() && !batch.has_read(7));
    batch.unknown_schemas.clear();
    batch.append(&record(1).as_record(), &mut Workspace::default(), &mut Vec::new());
    assert_eq!(lines_of(&mut batch, 0).len(), 1);
    assert!(batch.has_read(7), "it must end before the schema counts as unknown again");
    let letters = dead_letters(&mut batch);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "the schema registry has no schema 7");
}

/// Goal: schemas that are newer than each other in a circle end a batch each once, not one per record.
#[test]
fn a_partition_never_goes_back_to_a_target() {
    let schemas = [(1, RECORD, &[][..], 1), (2, RECORD, &[][..], 2)];
    let registry = Arc::new(Registry::knowing(RegistryFormat::Avro, &schemas));
    let held = crate::consume::Held {
        partition: crate::record::TopicPartition { topic: "t".into(), partition: 0 },
        assignment: 1,
    };
    let mut partition = Partition::new(held, 0);
    let left = |partition: &Partition| {
        let mut left: Vec<String> = partition.left.iter().map(ToString::to_string).collect();
        left.sort();
        left
    };
    partition.go_to_next_target();
    assert!(partition.at_target.is_none());
    for (target, expected) in [(1, &[][..]), (2, &["1"])] {
        partition.next_target = Some(by_registry(&registry, Some(target)));
        partition.go_to_next_target();
        partition.go_to_next_target();
        assert_eq!(left(&partition), expected);
    }
    partition.reset();
    assert!(left(&partition).is_empty(), "taken over again, it begins with what is carried along");
}

/// Goal: what one large record took is not held for the next one, and batches hold no room of that kind at all.
#[test]
fn a_large_record_leaves_little_behind() {
    let archive = unfolding(&[lines("lines")], None);
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20, 1).expect("a spool");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive, 0, None, spool.batch_dir().expect("a folder in it"), opened);
    let mut workspace = Workspace::default();
    let many = format!("[{}]", vec!["{}"; 1_000_000].join(","));
    let long = format!(r#"[{{"id":1,"text":"{}"}}]"#, "x".repeat(4 << 20));
    for (offset, payload) in (0..).zip([many, long, r#"[{"id":2}]"#.to_string()]) {
        let record = OwnedRecord {
            offset,
            timestamp: Some(KAFKA_MS),
            value: Some(payload.into_bytes()),
            ..OwnedRecord::default()
        };
        batch.append(&record.as_record(), &mut workspace, &mut Vec::new());
        assert!(workspace.scratch.bytes() <= 3 << 20, "{} bytes", workspace.scratch.bytes());
    }
    assert_eq!((batch.balance.consumed, batch.balance.outputs[0].rows), (3, 1_000_002));
}
