//! Records that no output can hold as they are: each is a dead letter byte for byte, or counted as dropped.

use crate::support::archive::{Archive, counts, framed, unpacked};
use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic, good};
use std::collections::BTreeSet;

const GOOD_AND_BROKEN: [&[u8]; 9] = [
    br#"{"id":1}"#,
    b"{",
    b"not json",
    br#"{"id":2} x"#,
    b"{\"id\":\"\xff\xfe\"}",
    b"",
    br#"{"id":3}"#,
    b"\0\0",
    b"{\"text\":\"a\nb\"}",
];

fn stages(archive: &Archive) -> BTreeSet<String> {
    archive.dead_letters().iter().map(|letter| letter["stage"].as_str().unwrap().to_string()).collect()
}

#[test]
fn broken_json_and_empty_payloads_are_dead_letters_with_the_reason() {
    let topic = Topic::create(1);
    topic.send_all(GOOD_AND_BROKEN.map(Shape::of));
    let archive = Trial::on_disk(&topic).drained(&topic);
    assert_eq!(archive.counts("json"), counts(2, 7, 0));
    assert_eq!(archive.ids(&topic.name), [1, 3]);
    assert_eq!(stages(&archive), BTreeSet::from(["decode".to_string()]));
    let reasons: Vec<String> = archive.dead_letters().iter().map(|one| one["reason"].to_string()).collect();
    assert!(reasons.iter().all(|reason| reason.len() > 10), "{reasons:?}");
}

#[test]
fn a_raw_output_takes_what_is_not_json() {
    let topic = Topic::create(1);
    let without_newlines = GOOD_AND_BROKEN.iter().filter(|payload| !payload.contains(&b'\n'));
    topic.send_all(without_newlines.map(|payload| Shape::of(*payload)));
    let outputs = "[[archive.output]]\nformat = \"raw\"\nlayout = { path = \"raw/{topic}\" }\n\
                   [[archive.output]]\nformat = \"json\"\nlayout = { path = \"json/{topic}\" }";
    let archive = Trial::on_disk(&topic).with(outputs).drained(&topic);
    assert_eq!(archive.counts("raw"), counts(8, 0, 0));
    assert_eq!(archive.counts("json"), counts(2, 6, 0));
    let raw = archive.data_keys().into_iter().find(|key| key.starts_with("raw/")).unwrap();
    let mut expected: Vec<u8> = Vec::new();
    for sent in topic.sent() {
        expected.extend(sent.value.unwrap());
        expected.push(b'\n');
    }
    assert_eq!(unpacked(&archive.objects[raw]), expected);
}

#[test]
fn tombstones_follow_their_rule() {
    let topic = Topic::create(1);
    topic.send_all([good(0), Shape::tombstone("k1"), good(1), Shape::tombstone("k2"), Shape::tombstone("k3")]);
    for (rule, expected) in [("keep", counts(5, 0, 0)), ("dead_letter", counts(2, 3, 0)), ("drop", counts(2, 0, 3))] {
        let archive = Trial::on_disk(&topic).with(&format!("tombstones = \"{rule}\"")).drained(&topic);
        assert_eq!(archive.counts("json"), expected, "{rule}");
        assert_eq!(archive.ids(&topic.name), [0, 1], "{rule}");
        let nulls = archive.rows(&topic.name).iter().filter(|row| row.is_null()).count();
        assert_eq!(nulls, if rule == "keep" { 3 } else { 0 }, "{rule}");
        let stages = stages(&archive);
        assert_eq!(stages.contains("tombstone"), rule == "dead_letter", "{stages:?}");
    }
}

/// A batch of nothing but dropped records still moves the group on.
#[test]
fn a_batch_that_drops_everything_has_a_receipt_and_no_object() {
    let topic = Topic::create(1);
    topic.send_all((0..10).map(|_| Shape::tombstone("k")));
    let archive = Trial::on_disk(&topic).with("tombstones = \"drop\"").drained(&topic);
    assert_eq!(archive.counts("json"), counts(0, 0, 10));
    assert_eq!(archive.data_keys(), Vec::<&str>::new());
}

#[test]
fn records_of_megabytes_go_through() {
    let topic = Topic::create(1);
    let sizes = [1 << 20, 5 << 20, 10, (1 << 20) + 1];
    topic.send_all(sizes.iter().enumerate().map(|(id, &size)| {
        // Hardly compressible, so that blocks and pieces are as large as the records.
        let mut state = id as u32 + 1;
        let text: String = (0..size)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'a' + (state >> 24) as u8 % 26)
            })
            .collect();
        Shape::of(format!(r#"{{"id":{id},"text":"{text}"}}"#))
    }));
    let outputs = "[[archive.output]]\nformat = \"json\"\nlayout = { path = \"json/{topic}\" }\n[[archive.output]]\n\
                   format = \"parquet\"\nlayout = { path = \"parquet/{topic}\" }";
    let archive = Trial::on_disk(&topic).with(outputs).drained(&topic);
    assert_eq!(archive.counts("json"), counts(4, 0, 0));
    let mut rows = archive.lines("json/");
    rows.sort_unstable();
    let mut sent: Vec<String> =
        topic.sent().into_iter().map(|one| String::from_utf8(one.value.unwrap()).unwrap()).collect();
    sent.sort_unstable();
    assert!(rows == sent, "the rows are not the payloads");
    let mut lengths: Vec<usize> =
        archive.parquet("parquet/").iter().map(|row| row["text"].as_str().unwrap().len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [10, 1 << 20, (1 << 20) + 1, 5 << 20]);
}

#[test]
fn newlines_in_raw_payloads_follow_their_rule() {
    let topic = Topic::create(1);
    let payloads: [&[u8]; 5] = [b"plain", b"two\nlines", b"back\\slash\n", b"", b"\n"];
    topic.send_all(payloads.map(Shape::of));
    topic.send_all([Shape::tombstone("k")]);
    let raw = |rule: &str| {
        let output = format!(
            "decode = \"raw\"\n[[archive.output]]\nformat = {{ type = \"raw\", compression = \"gzip\", newlines = \"{rule}\" }}"
        );
        let archive = Trial::on_disk(&topic).with(&output).drained(&topic);
        let keys = archive.data_keys();
        let key = keys.iter().find(|key| key.starts_with(&topic.name)).unwrap();
        (archive.counts("raw"), unpacked(&archive.objects[*key]))
    };
    assert_eq!(raw("refuse"), (counts(3, 3, 0), b"plain\n\n\n".to_vec()));
    assert_eq!(raw("escape"), (counts(6, 0, 0), b"plain\ntwo\\nlines\nback\\\\slash\\n\n\n\\n\n\n".to_vec()));
    let (found, bytes) = raw("length");
    assert_eq!(found, counts(6, 0, 0));
    assert_eq!(framed(&bytes), topic.sent().into_iter().map(|one| one.value).collect::<Vec<_>>());
}

#[test]
fn a_missing_or_unreadable_time_follows_the_rule_and_is_never_1970() {
    let topic = Topic::create(1);
    let bad = [
        r#"{"id":1}"#,
        r#"{"id":2,"time":null}"#,
        r#"{"id":3,"time":"yesterday"}"#,
        r#"{"id":4,"time":{"ms":1}}"#,
        r#"{"id":5,"time":1e300}"#,
        r#"{"id":6,"time":""}"#,
        r#"{"id":7,"time":true}"#,
        // Seconds, where milliseconds are declared.
        r#"{"id":9,"time":1763715600}"#,
    ];
    topic.send_all(bad.map(Shape::of));
    // One hour after the Kafka timestamp, so that the two can be told apart.
    topic.send_all([Shape::of(r#"{"id":8,"time":1763715600000}"#)]);
    let rule = |fallback: &str| {
        let line = format!("timestamp = {{ field = \"time\", unit = \"ms\", fallback = \"{fallback}\" }}");
        Trial::on_disk(&topic).with(&line).drained(&topic)
    };
    let kafka = rule("kafka");
    assert_eq!(kafka.counts("json"), counts(9, 0, 0));
    assert_eq!(kafka.ids(&format!("{}/dt=2025-11-21/hr=08/", topic.name)), [1, 2, 3, 4, 5, 6, 7, 9]);
    assert_eq!(kafka.ids(&format!("{}/dt=2025-11-21/hr=09/", topic.name)), [8]);
    let dead = rule("dead_letter");
    assert_eq!(dead.counts("json"), counts(1, 8, 0));
    assert_eq!(dead.ids(&format!("{}/dt=2025-11-21/hr=09/", topic.name)), [8]);
    assert_eq!(stages(&dead), BTreeSet::from(["timestamp".to_string()]));
    let outside = dead.data_keys().into_iter().filter(|key| !key.contains("/dt=2025-11-21/")).count();
    assert_eq!(outside, 0, "{:?}", dead.data_keys());
}

#[test]
fn the_time_can_come_from_a_header() {
    let topic = Topic::create(1);
    let record = |id: u32| Shape::of(format!(r#"{{"id":{id}}}"#));
    topic.send_all([
        record(1).header("received", Some(b"2024-02-29T23:30:00+00:00")),
        record(2)
            .header("received", Some(b"2020-01-01T00:00:00Z"))
            .header("received", Some(b"2024-03-01T01:15:00+02:00")),
        record(3).header("other", Some(b"2024-02-29T23:30:00Z")),
        record(4).header("received", None),
        record(5).header("received", Some(b"\xff")),
    ]);
    let line = "timestamp = { header = \"received\", format = \"rfc3339\", fallback = \"dead_letter\" }";
    let archive = Trial::on_disk(&topic).with(line).drained(&topic);
    assert_eq!(archive.counts("json"), counts(2, 3, 0));
    assert_eq!(archive.ids(&format!("{}/dt=2024-02-29/hr=23/", topic.name)), [1, 2], "the last header counts");
}
