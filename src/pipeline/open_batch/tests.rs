use super::*;
use crate::destination::{Destination, StoreKind};
use crate::layout::Layout;
use crate::record::OwnedRecord;
use crate::spool::Spool;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const KAFKA_MS: i64 = 1_763_712_000_000;

/// An archive with a Parquet output, and with `more` a JSON one behind it.
fn archive(more: bool, fallback: &str) -> Arc<Archive> {
    archive_with(more, fallback, "dead/hr=%H")
}

/// The same with dead letters in the folders of `dead`.
fn archive_with(more: bool, fallback: &str, dead: &str) -> Arc<Archive> {
    let place = |folder: &str| {
        json!({"path": format!("{folder}"), "name": "{topic}+{partition}+{first}-{end}", "zone": "UTC",
            "destinations": ["memory:///"]})
    };
    let columns = json!([{"name": "id", "kind": "int64", "nullable": false},
        {"name": "time", "kind": "int64", "nullable": true}]);
    let mut outputs =
        vec![json!({"name": "rows", "keep": null, "place": place("rows/hr=%H"), "format": {"type": "parquet",
        "compression": {"codec": "none"}, "schema": {"columns": columns}, "unknown": "rest",
        "row_group_bytes": 1_000_000, "row_group_rows": 1000}})];
    if more {
        let format = json!({"type": "json", "compression": {"codec": "none"}});
        outputs.push(json!({"name": "lines", "keep": null, "place": place("lines/hr=%H"), "format": format}));
    }
    let timestamp = json!({"source": {"field": ["time"]}, "format": "auto", "zone": "UTC", "fallback": fallback});
    let layout: Layout = serde_json::from_value(json!({"version": 1, "code": {"rows": 1, "tzdata": "test"},
        "archive": "a", "generation": 1, "decode": {"type": "json", "validate": true}, "timestamp": timestamp,
        "tombstones": "keep", "outputs": outputs, "dead_letters": {"place": place(dead)}}))
    .expect("a layout");
    let memory = Destination::from_store("main", "memory:///", Arc::new(InMemory::new()), StoreKind::Memory);
    let destinations = BTreeMap::from([("memory:///".to_string(), Arc::new(memory))]);
    Arc::new(Archive::compile(&layout, &destinations, &BTreeMap::new()).expect("a layout that compiles"))
}

/// Event time of a record with that payload, and the dead letters it makes: stage, reason, outputs.
fn outcome(archive: &Arc<Archive>, payload: &[u8]) -> (Option<i64>, Vec<(Value, Value, Value)>) {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(folder.path(), 1 << 20).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let opened = Opened { number: 1, wall_ms: KAFKA_MS, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive.clone(), 0, None, dir, opened);
    let record = OwnedRecord {
        topic: "t".to_string(),
        timestamp: Some(KAFKA_MS),
        value: Some(payload.to_vec()),
        ..OwnedRecord::default()
    };
    let event_ms = batch.append(&record.as_record(), &mut Vec::new());
    let mut letters = Vec::new();
    for part in batch.parts.iter_mut().filter(|part| part.output == archive.dead_letters()) {
        for line in part.part.rows().split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let letter: Value = serde_json::from_slice(line).expect("JSON");
            letters.push((letter["stage"].clone(), letter["reason"].clone(), letter["outputs"].clone()));
        }
    }
    (event_ms, letters)
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
    let archive =
        archive_with(true, "kafka", "dead/{topic}/{topic[1]}/{header.h}/{key}/{partition}/{output}/{field.id}/hr=%H");
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(folder.path(), 1 << 20).expect("a spool");
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
        batch.append(&record.as_record(), &mut Vec::new());
        let header = header.map_or(null, |_| "eu");
        expected.push(format!("dead/a.b/b/{header}/k%2F1/7/dead_letters/{null}/hr=08"));
    }
    let dead = batch.parts.iter().filter(|part| part.output == archive.dead_letters());
    let folders: Vec<&str> = dead.map(|part| &*part.window.folder).collect();
    assert_eq!(folders, expected);
}
