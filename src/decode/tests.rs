//! What each decoder makes of good, odd and broken payloads.

use super::*;
use crate::layout::{TextFields, TextType};
use crate::parse::json::{DEPTH_MAX, JsonScan};
use crate::record::OwnedRecord;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const KAFKA_MS: i64 = 1_763_712_000_000; // 2025-11-21T08:00:00Z

fn record(payload: &[u8]) -> OwnedRecord {
    OwnedRecord { timestamp: Some(KAFKA_MS), value: Some(payload.to_vec()), ..OwnedRecord::default() }
}

/// The rows of a payload, or why there are none.
pub(super) fn rows(decode: &Decode, payload: &[u8]) -> Result<Vec<String>, String> {
    let decoder = compile(decode).expect("a good layout").expect("a decoder");
    let mut rows = Rows::default();
    let record = record(payload);
    decoder.decode(&record.as_record(), payload, &mut rows).map_err(|error| error.to_string())?;
    Ok(rows.iter().map(str::to_string).collect())
}

/// The same, parsed.
fn values(decode: &Decode, payload: &[u8]) -> Result<Vec<Value>, String> {
    rows(decode, payload).map(|rows| rows.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect())
}

fn fields(types: &[(&str, TextType)], nulls: &[&str]) -> TextFields {
    TextFields {
        types: types.iter().map(|(name, kind)| (name.to_string(), *kind)).collect(),
        nulls: nulls.iter().map(ToString::to_string).collect(),
    }
}

fn json_of(unfold: bool, names: &[&str]) -> Decode {
    Decode::Json { validate: true, unfold, names: names.iter().map(ToString::to_string).collect() }
}

fn msgpack_of(unfold: bool, names: &[&str]) -> Decode {
    Decode::Msgpack { unfold, names: names.iter().map(ToString::to_string).collect() }
}

fn ltsv() -> Decode {
    let types =
        [("status", TextType::Int), ("time", TextType::Float), ("ok", TextType::Bool), ("more", TextType::Json)];
    Decode::Ltsv { fields: fields(&types, &["-"]) }
}

fn csv(unfold: bool, quote: Option<char>) -> Decode {
    let columns = ["a", "b"].map(ToString::to_string).to_vec();
    Decode::Csv { columns, delimiter: ',', quote, unfold, fields: fields(&[("b", TextType::Int)], &[""]) }
}

fn regex() -> Decode {
    let pattern = r"^(?<host>\S+) (?<status>\d+)(?: (?<more>.*))?$".to_string();
    Decode::Regex { pattern, fields: fields(&[("status", TextType::Int)], &[]) }
}

fn grok() -> Decode {
    let patterns = BTreeMap::from([("CODE".to_string(), "[A-Z]{3}".to_string())]);
    let pattern = "%{IPORHOST:client} %{CODE:code} %{NUMBER:took}".to_string();
    Decode::Grok { pattern, patterns, fields: fields(&[("took", TextType::Float)], &[]) }
}

fn syslog(zone: &str) -> Decode {
    Decode::Syslog { zone: zone.to_string() }
}

#[test]
fn json_unfolds_arrays_and_streams() {
    let unfold = json_of(true, &[]);
    for (payload, expected) in [
        (r#"[{"a":1}, {"a":2.50}]"#, &[r#"{"a":1}"#, r#"{"a":2.50}"#][..]),
        ("{\"a\":1}\n{\"a\":2}\n", &[r#"{"a":1}"#, r#"{"a":2}"#]),
        (r#"{"a":1}[2,[3]]"#, &[r#"{"a":1}"#, "2", "[3]"]),
        ("[]", &[]),
        (" 5 ", &["5"]),
    ] {
        assert_eq!(rows(&unfold, payload.as_bytes()).expect("rows"), expected, "{payload}");
    }
    for payload in ["", " ", "[1", "[1]x", "[1,]", "\u{feff}1", "{\"a\":1}}"] {
        rows(&unfold, payload.as_bytes()).expect_err(payload);
    }
    assert!(rows(&unfold, b"\xff").expect_err("no text").contains("byte 0"));
    let deep = format!("[{}1{}]", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    assert!(rows(&unfold, deep.as_bytes()).expect_err("deep").contains("deeper"));
}

#[test]
fn arrays_get_names() {
    let named = json_of(false, &["tag", "time", "record"]);
    let payload = br#"["app.web", 1763712000, {"x": "1\n"}]"#;
    assert_eq!(rows(&named, payload).expect("a row"), [r#"{"tag":"app.web","time":1763712000,"record":{"x": "1\n"}}"#]);
    assert_eq!(rows(&named, b"{\"tag\":1}").expect("already an object"), ["{\"tag\":1}"]);
    assert!(rows(&named, b"[1,2]").expect_err("too few").contains("2 elements, where names has 3"));
    assert!(rows(&named, b"[1,2,3] [1,2,3]").expect_err("two").contains("unfold"));
    let both = json_of(true, &["a", "b"]);
    assert_eq!(rows(&both, b"[[1,2],[3,4]]").expect("rows"), [r#"{"a":1,"b":2}"#, r#"{"a":3,"b":4}"#]);
    assert_eq!(rows(&both, b"[1,2] [\"x\",{}]").expect("rows"), [r#"{"a":1,"b":2}"#, r#"{"a":"x","b":{}}"#]);
    assert!(rows(&both, b"[1]").expect_err("no row").contains("1 elements, where names has 2"));
    assert!(rows(&both, b"1").expect_err("no row").contains("neither an array"));
}

#[test]
fn ltsv_has_typed_fields() {
    let payload = "host:10.0.0.1\tstatus:0200\ttime:0.10\tok:true\tua:a:b \u{e4}\treferer:-\tmore:[1, 2]\tempty:\n";
    let expected = r#"{"host":"10.0.0.1","status":200,"time":0.10,"ok":true,"ua":"a:b ä","referer":null,"more":[1, 2],"empty":""}"#;
    assert_eq!(rows(&ltsv(), payload.as_bytes()).expect("a row"), [expected]);
    for (payload, reason) in [
        ("", "empty"),
        ("\n", "empty"),
        ("a", "no label"),
        ("a:1\t\tb:2", "no label"),
        ("a:1\ta:2", "twice"),
        ("a:1\nb:2", "more than one line"),
        ("status:x", "whole number"),
        ("ok:yes", "true or false"),
        ("more:{", "no JSON"),
    ] {
        assert!(rows(&ltsv(), payload.as_bytes()).expect_err(payload).contains(reason), "{payload:?}");
    }
}

#[test]
fn csv_is_read_by_columns() {
    assert_eq!(rows(&csv(false, Some('"')), b"\"x,\"\"y\"\"\",7\r\n").expect("a row"), [r#"{"a":"x,\"y\"","b":7}"#]);
    assert_eq!(rows(&csv(false, None), b"\"x\",7").expect("a row"), [r#"{"a":"\"x\"","b":7}"#]);
    assert_eq!(
        rows(&csv(true, Some('"')), "ä,1\n\n,\n\"b\nc\",3".as_bytes()).expect("rows"),
        [r#"{"a":"ä","b":1}"#, r#"{"a":null,"b":null}"#, r#"{"a":"b\nc","b":3}"#]
    );
    // A byte order mark before a payload is no part of it.
    assert_eq!(
        rows(&csv(true, None), "\u{feff}a,1\n\u{feff}b,2".as_bytes()).expect("rows"),
        [r#"{"a":"a","b":1}"#, "{\"a\":\"\u{feff}b\",\"b\":2}"]
    );
    for (payload, reason) in
        [("", "empty"), ("a", "1 values"), ("a,1,2", "3 values"), ("a,x", "whole number"), ("a,1\nb,2", "unfold")]
    {
        assert!(rows(&csv(false, Some('"')), payload.as_bytes()).expect_err(payload).contains(reason), "{payload:?}");
    }
}

#[test]
fn patterns_make_fields() {
    assert_eq!(
        rows(&regex(), b"web1 200 and more\n").expect("a row"),
        [r#"{"host":"web1","status":200,"more":"and more"}"#]
    );
    assert_eq!(rows(&regex(), b"web1 200").expect("a row"), [r#"{"host":"web1","status":200,"more":null}"#]);
    assert!(rows(&regex(), b"web1 x").expect_err("no match").contains("does not match"));
    assert_eq!(
        rows(&grok(), b"10.0.0.1 ABC 0.5").expect("a row"),
        [r#"{"client":"10.0.0.1","code":"ABC","took":0.5}"#]
    );
    assert!(rows(&grok(), b"10.0.0.1 abc 0.5").expect_err("no match").contains("does not match"));
    let none = TextFields::default();
    for (pattern, problem) in [("(", "unclosed"), ("a", "no named group")] {
        let decode = Decode::Regex { pattern: pattern.to_string(), fields: none.clone() };
        let found = compile(&decode).err().expect("no pattern of use");
        assert!(found.contains(problem), "{found}");
    }
    let grok_of =
        |pattern: &str| Decode::Grok { pattern: pattern.to_string(), patterns: BTreeMap::new(), fields: none.clone() };
    // One field in two alternatives is the one that matched.
    let either = grok_of("^(?:x=%{WORD:a}|y=%{WORD:a}|z=%{WORD:b})$");
    for (payload, row) in [
        ("x=foo", r#"{"a":"foo","b":null}"#),
        ("y=foo", r#"{"a":"foo","b":null}"#),
        ("z=foo", r#"{"a":null,"b":"foo"}"#),
    ] {
        assert_eq!(rows(&either, payload.as_bytes()).expect("a row"), [row]);
    }
    let fields = compile(&either).expect("good").expect("a decoder").fields();
    assert_eq!(fields, Some(vec!["a".to_string(), "b".to_string()]));
    let both = rows(&grok_of("%{WORD:a} %{WORD:a}"), b"foo bar").expect_err("two values");
    assert!(both.contains("more than one of them matched"), "{both}");
    for pattern in ["%{NOPE:x}", "abc", "%{NUMBER:n", "(?<a>x)|%{WORD:a}"] {
        let decode = Decode::Grok { pattern: pattern.to_string(), patterns: BTreeMap::new(), fields: none.clone() };
        assert!(compile(&decode).is_err(), "{pattern}");
    }
}

#[test]
fn syslog_of_both_kinds_is_read() {
    let line = "<34>1 2025-11-21T09:14:15.003+01:00 web1 su 77 ID47 [ex@1 a=\"b\\\"c\"][o@2 x=\"\" ip=\"1\" ip=\"2\"] \u{feff}failed for root";
    let expected = json!({"facility": "auth", "severity": "crit", "timestamp": "2025-11-21T08:14:15.003Z", "hostname": "web1",
        "appname": "su", "procid": "77", "msgid": "ID47", "structured_data": {"ex@1": {"a": "b\"c"}, "o@2": {"x": "", "ip": ["1", "2"]}},
        "message": "failed for root"});
    assert_eq!(values(&syslog("UTC"), line.as_bytes()).expect("RFC 5424"), [expected]);
    let expected = json!({"facility": "user", "severity": "notice", "timestamp": "2025-11-21T06:59:30Z", "hostname": "web1",
        "appname": "cron", "procid": "12", "message": "done"});
    let line = b"<13>Nov 21 07:59:30 web1 cron[12]: done\n";
    assert_eq!(values(&syslog("Europe/Berlin"), line).expect("RFC 3164"), [expected]);
    // With an offset of its own the zone does not count.
    let line = b"<13>2025-11-21T07:59:30+02:00 web1 cron[12]: done";
    let found = values(&syslog("Europe/Berlin"), line).expect("RFC 3164 as rsyslog sends it");
    assert_eq!(found[0]["timestamp"], "2025-11-21T05:59:30Z");
    for payload in
        ["", "hello", "<34>", "<34>1 yesterday web1 su - - - x", "{\"a\":1}", "<13>Feb 30 07:59:30 web1 x: y"]
    {
        rows(&syslog("UTC"), payload.as_bytes()).expect_err(payload);
    }
}

/// The message is what the line says behind its header, and what is no header is not passed over.
#[test]
fn syslog_without_a_time_is_read() {
    let line = r#"<34>1 - host app 1 ID47 [a b="c"] - hello"#;
    let expected = json!({"facility": "auth", "severity": "crit", "hostname": "host", "appname": "app", "procid": "1",
        "msgid": "ID47", "structured_data": {"a": {"b": "c"}}, "message": "- hello"});
    assert_eq!(values(&syslog("UTC"), line.as_bytes()), Ok(vec![expected]));
    let bare = values(&syslog("UTC"), b"<34>1 - - - - - -").expect("RFC 5424");
    assert_eq!(bare, [json!({"facility": "auth", "severity": "crit", "message": ""})]);
    for broken in [r#"<34>1 - host app 1 ID47 [a b="c" hello"#, "<34>1 - host", "<13>-[foo a=\"b\"]"] {
        values(&syslog("UTC"), broken.as_bytes()).expect_err(broken);
    }
}

#[test]
fn syslog_lines_lose_nothing() {
    let one = |line: &str| values(&syslog("UTC"), line.as_bytes()).map(|rows| rows[0].clone());
    let new = "<34>1 2003-10-11T22:14:15.003Z host app 007 ID47";
    for (behind, message) in [
        (" - hello", "hello"),
        (" -", ""),
        (" - ", ""),
        (" - - hello", "- hello"),
        (" -   hello  ", "  hello  "),
        (" [a b=\"c\"] [d] hello", "[d] hello"),
        (" [a b=\"]\\\"\"][c] hello", "hello"),
        (" [a b=\"c\"]", ""),
        (" - \u{feff}hello", "hello"),
    ] {
        let row = one(&format!("{new}{behind}")).expect(behind);
        assert_eq!((&row["message"], &row["procid"]), (&json!(message), &json!("007")), "{behind}");
    }
    for behind in
        [" [a b=\"c\"][bad x=y] hello", " [bad x=y] hello", " -hello", " [a b=\"c\"]hello", " [a b=\"c\" hello"]
    {
        let reason = one(&format!("{new}{behind}")).expect_err(behind);
        assert!(reason.contains("structured data") || reason.contains("no syslog line"), "{behind}: {reason}");
    }
    let row = one(&format!(r#"{new} [a b="c\nd" path="C:\new" all="\"\]\\ \x"] hello"#)).expect("a row");
    assert_eq!(row["structured_data"]["a"], json!({"b": r"c\nd", "path": r"C:\new", "all": r#""]\ \x"#}));

    let old = "<34>Oct 11 22:14:15";
    for (behind, host, app, message) in [
        (" host app: - hello", Some("host"), Some("app"), "- hello"),
        (" host app:   hello ", Some("host"), Some("app"), "  hello "),
        (" host app:hello", Some("host"), Some("app"), "hello"),
        (" host app hello", Some("host"), Some("app"), "hello"),
        (" host app :) hello", Some("host"), Some("app"), ":) hello"),
        (" host app: [a b=\"c\"] hello", Some("host"), Some("app"), "[a b=\"c\"] hello"),
        (" host  {\"a\": 1}", Some("host"), None, "{\"a\": 1}"),
        (" host - hello", Some("host"), None, "hello"),
        (": host app: hello", Some("host"), Some("app"), "hello"),
        (" : a message", None, None, "a message"),
        (" host: hello", Some("host"), None, "hello"),
        (" host:", Some("host"), None, ""),
        (" host", Some("host"), None, ""),
        ("", None, None, ""),
        (".123 host app: hello", Some("host"), Some("app"), "hello"),
    ] {
        let row = one(&format!("{old}{behind}")).expect(behind);
        let found = (row["hostname"].as_str(), row["appname"].as_str(), row["message"].as_str());
        assert_eq!(found, (host, app, Some(message)), "{behind}");
    }
    let row = one("<34>Oct 11 22:14:15 host su(pam)[007]: hello").expect("a row");
    assert_eq!((&row["appname"], &row["procid"]), (&json!("su(pam)"), &json!("007")));
    for (time, told) in [
        ("Oct 11 22:14:15.123", "2025-10-11T22:14:15.123Z"),
        ("Oct 11 2003 22:14:15.123456789", "2003-10-11T22:14:15.123456789Z"),
        ("Oct 11 22:14:15.5:", "2025-10-11T22:14:15.500Z"),
        ("2003-10-11T22:14:15.003Z", "2003-10-11T22:14:15.003Z"),
    ] {
        let row = one(&format!("<34>{time} host app: hello")).expect(time);
        assert_eq!((&row["timestamp"], &row["message"]), (&json!(told), &json!("hello")), "{time}");
    }
    for line in [
        "<34>Oct 11 22:14:15.1234567890 host app: hello",
        "<34>Oct 11 22:14:15,123 host app: hello",
        "<34>Oct 11 22:14:15Z host app: hello",
        "<192>Oct 11 22:14:15 host app: hello",
    ] {
        one(line).expect_err(line);
    }
}

/// The year is the record's, not the reader's.
#[test]
fn a_year_is_told_by_the_kafka_timestamp() {
    let decoder = compile(&syslog("UTC")).expect("good").expect("a decoder");
    let told = |kafka: Option<&str>, date: &str| {
        let line = format!("<13>{date} 23:59:59 web1 cron[12]: done");
        let timestamp = kafka.map(|at| at.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp_millis());
        let record = OwnedRecord { timestamp, ..record(line.as_bytes()) };
        let mut rows = Rows::default();
        decoder.decode(&record.as_record(), line.as_bytes(), &mut rows).map_err(|error| error.to_string())?;
        let row: Value = serde_json::from_str(rows.iter().next().expect("a row")).expect("JSON");
        Ok::<String, String>(row["timestamp"].as_str().expect("a time").to_string())
    };
    for (kafka, date, year) in [
        ("2026-01-01T00:00:05Z", "Dec 31", 2025),
        ("2025-12-31T23:59:58Z", "Jan  1", 2026),
        ("2025-07-01T00:00:00Z", "Jul  1", 2025),
        ("2025-07-01T00:00:00Z", "Feb 29", 2024),
        ("1901-06-01T00:00:00Z", "Feb 29", 1904),
    ] {
        let found = told(Some(kafka), date).expect("a row");
        assert!(found.starts_with(&year.to_string()), "{kafka} {date}: {found}");
    }
    assert!(told(None, "Dec 31").expect_err("no year").contains("no year"));
}

#[test]
fn msgpack_becomes_json() {
    let one = msgpack_of(false, &[]);
    for (payload, expected) in [
        (&b"\xc0"[..], "null"),
        (b"\xc3", "true"),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
        (b"\xd3\x80\0\0\0\0\0\0\0", "-9223372036854775808"),
        (b"\xca\x3d\xcc\xcc\xcd", "0.1"),
        (b"\xcb\x7f\xf8\0\0\0\0\0\0", "\"NaN\""),
        (b"\xcb\xff\xf0\0\0\0\0\0\0", "\"-Infinity\""),
        (b"\xa1\"", "\"\\\"\""),
        (b"\xc4\x02\xff\x00", "\"/wA=\""),
        (b"\x82\xa1a\x01\x07\x91\xc2", r#"{"a":1,"7":[false]}"#),
        (b"\xd6\xff\x69\x20\x1c\x80", "1763712128"),
        (b"\xd7\xff\x00\x00\x00\x04\x69\x20\x1c\x80", "1763712128.000000001"),
        (b"\xc7\x0c\xff\x1d\xcd\x65\x00\xff\xff\xff\xff\xff\xff\xff\xff", "-0.500000000"),
        (b"\xd7\x00\x69\x20\x1c\x80\x3b\x9a\xc9\xff", "1763712128.999999999"),
        (b"\xd4\x05\xff", r#"{"type":5,"base64":"/w=="}"#),
    ] {
        assert_eq!(rows(&one, payload).expect("a row"), [expected], "{payload:?}");
    }
    for (payload, reason) in [
        (&b""[..], "empty"),
        (b"\xc1", "not MessagePack"),
        (b"\xa5ab", "not MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "not MessagePack"),
        (b"\xa1\xff", "UTF-8"),
        (b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (b"\x82\xa11\x01\x01\x02", "twice"),
        (b"\x81\xc0\x01", "a key"),
        (b"\x01\x02", "unfold"),
    ] {
        assert!(rows(&one, payload).expect_err("no row").contains(reason), "{payload:?}");
    }
    let nested = |levels: usize| [vec![0x91; levels], vec![1]].concat();
    assert_eq!(rows(&one, &nested(DEPTH_MAX)).expect("deep enough").len(), 1);
    assert!(rows(&one, &nested(DEPTH_MAX + 1)).is_err());
    assert!(rows(&one, &nested(1_000_000)).is_err());
}

#[test]
fn fluentd_records_are_unfolded_and_named() {
    let decode = msgpack_of(true, &["tag", "time", "record"]);
    let entry = b"\x93\xa5app.x\xce\x69\x20\x1c\x80\x81\xa1m\xa2hi";
    let expected = r#"{"tag":"app.x","time":1763712128,"record":{"m":"hi"}}"#;
    // In a stream of arrays their elements are rows: a batch is an array of entries.
    let batch = [&b"\x92"[..], entry, entry].concat();
    assert_eq!(rows(&decode, &batch).expect("rows"), [expected, expected]);
    assert_eq!(rows(&decode, &[&b"\x91"[..], entry, b"\x90"].concat()).expect("rows"), [expected]);
    assert_eq!(rows(&msgpack_of(false, &["tag", "time", "record"]), entry).expect("a row"), [expected]);
    assert_eq!(rows(&decode, &[&entry[..], entry].concat()).expect("rows"), [expected, expected]);
    assert!(rows(&decode, b"\x01").expect_err("no row").contains("neither an array"));
}

fn avro(schema: &Value) -> Decode {
    Decode::Avro { schema: schema.to_string() }
}

/// A schema with every type that there is.
pub(super) fn avro_schema() -> Value {
    let of = |kind: &str, logical: &str| json!({"type": kind, "logicalType": logical});
    json!({"type": "record", "name": "R", "namespace": "a.b", "fields": [
        {"name": "nothing", "type": "null"},
        {"name": "yes", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": ["null", "long"]},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "bytes", "type": "bytes"},
        {"name": "text", "type": ["string", "null"]},
        {"name": "list", "type": {"type": "array", "items": "int"}},
        {"name": "map", "type": {"type": "map", "values": ["null", "string"]}},
        {"name": "kind", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "four", "type": {"type": "fixed", "name": "F", "size": 4}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2}},
        {"name": "day", "type": of("int", "date")},
        {"name": "at", "type": ["null", of("long", "timestamp-millis")]},
        {"name": "exact", "type": of("long", "timestamp-micros")},
        {"name": "local", "type": of("long", "local-timestamp-millis")},
        {"name": "time", "type": of("int", "time-millis")},
        {"name": "inner", "type": ["null", "R"]},
    ]})
}

/// Bytes of a record of that schema; lengths and numbers below 64 are one byte, doubled.
pub(super) fn avro_payload(inner: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = vec![
        b"\x01",
        b"\x0d",
        b"\x02\x80\x80\x80\x80\x10",
        b"\x00\x00\x00\x3f",
        b"\x00\x00\x00\x00\x00\x00\xf8\x7f",
        b"\x04\xff\x00",
        b"\x00\x04\xc3\xa4",
        b"\x04\x02\x04\x02\x06\x00",
        b"\x02\x02x\x02\x02y\x00",
        b"\x02",
        b"\x01\x02\x03\x04",
        b"\x02\xff",
        b"\x02",
        b"\x02\x80\x80\xeb\xd6\xd4\x66",
        b"\x01",
        b"\x00",
        b"\x02",
        inner,
    ];
    parts.concat()
}

#[test]
fn avro_is_read_by_its_schema() {
    let decode = avro(&avro_schema());
    let found = values(&decode, &avro_payload(b"\x00")).expect("a row");
    let expected = json!({"nothing": null, "yes": true, "int": -7, "long": 2_147_483_648_i64, "float": 0.5, "double": "NaN",
        "bytes": "/wA=", "text": "\u{e4}", "list": [1, 2, 3], "map": {"x": "y"}, "kind": "B", "four": "AQIDBA==", "price": -0.01,
        "day": "1970-01-02", "at": "2025-11-21T08:00:00Z", "exact": "1969-12-31T23:59:59.999999Z", "local": "1970-01-01T00:00:00",
        "time": "00:00:00.001", "inner": null});
    assert_eq!(found, [expected]);
    assert!(rows(&decode, &avro_payload(b"\x00")).expect("a row")[0].contains("\"price\":-0.01,"));
    let inside = avro_payload(&[b"\x02".to_vec(), avro_payload(b"\x00")].concat());
    assert_eq!(values(&decode, &inside).expect("a row")[0]["inner"]["kind"], "B");
    let long = avro_payload(b"\x00\x00");
    assert!(rows(&decode, &long).expect_err("too long").contains("1 bytes are behind"));
    let whole = avro_payload(b"\x00");
    for length in 0..whole.len() {
        rows(&decode, &whole[..length]).expect_err("cut");
    }
    let mut deep = avro_payload(b"\x00");
    for _ in 0..100_000 {
        deep = [&deep[..deep.len() - 1], b"\x02", &whole].concat();
        if deep.len() > 20_000 {
            break;
        }
    }
    assert!(rows(&decode, &deep).is_err(), "a recursive schema ends somewhere");
}

#[test]
fn avro_that_claims_more_than_it_has_is_refused() {
    let nulls = avro(&json!({"type": "array", "items": "null"}));
    assert_eq!(rows(&nulls, b"\x04\x00").expect("a row"), ["[null,null]"]);
    let lots = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f\x00";
    rows(&nulls, lots).expect_err("nulls without end");
    let nested = avro(&json!({"type": "array", "items": {"type": "array", "items": "null"}}));
    let many = [&b"\x80\x01"[..], &b"\x80\x01\x00".repeat(64), b"\x00"].concat();
    assert!(rows(&nested, &many).map_or(true, |rows| rows[0].len() < many.len() * 50));
    for (schema, problem) in [("{", "not an Avro schema"), ("\"no-such-type\"", "not an Avro schema"), ("[]", "")] {
        let found = compile(&Decode::Avro { schema: schema.to_string() }).err();
        assert!(found.is_none_or(|found| found.contains(problem)), "{schema}");
    }
}

#[test]
fn avro_of_a_file_is_read_as_that_of_a_registry() {
    let schema = json!({"type": "error", "name": "a.Failure", "fields": [
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4}},
        {"name": "digits", "type": {"type": {"type": "string", "logicalType": "decimal", "scale": 2}}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["x"], "doc": "one"}},
        {"name": "again", "type": {"type": "enum", "name": "Kind", "symbols": ["x"], "doc": "the same"}},
        {"name": "inner", "type": ["null", {"type": "a.Kind"}]},
    ]});
    let row = rows(&avro(&schema), b"\x02\x05\x02x\x00\x00\x02\x00");
    assert_eq!(row, Ok(vec![r#"{"price":5,"digits":"x","kind":"x","again":"x","inner":"x"}"#.to_string()]));
    let twice =
        json!([{"type": "enum", "name": "E", "symbols": ["x"]}, {"type": "enum", "name": "E", "symbols": ["y"]}]);
    let problem = compile(&avro(&twice)).err();
    assert_eq!(problem.as_deref(), Some("not an Avro schema: E is defined twice, as two different types"));
}

#[test]
fn avro_branches_may_be_called_as_primitives_are() {
    let record = |name: &str| json!({"type": "record", "name": name, "fields": [{"name": "a", "type": "int"}]});
    let fixed = json!({"type": "fixed", "name": "Bytes", "size": 1});
    let letters = json!({"type": "enum", "name": "Long", "symbols": ["x"]});
    let union = avro(&json!(["null", "string", record("String"), "bytes", fixed, "long", letters, record("0")]));
    for (payload, row) in [
        (&b"\x02\x02x"[..], "\"x\""),
        (b"\x04\x02", r#"{"a":1}"#),
        (b"\x06\x02\xff", "\"/w==\""),
        (b"\x08\xff", "\"/w==\""),
        (b"\x0a\x02", "1"),
        (b"\x0c\x00", "\"x\""),
        (b"\x0e\x02", r#"{"a":1}"#),
    ] {
        assert_eq!(rows(&union, payload), Ok(vec![row.to_string()]), "{payload:?}");
    }
}

/// `package web; message Hit { int64 id = 1; repeated string tags = 2; }`
const HIT: &str = "CjkKCWhpdC5wcm90bxIDd2ViIh8KA0hpdBIKCgJpZBgBIAEoAxIMCgR0YWdzGAIgAygJYgZwcm90bzM=";

fn protobuf(ignore_unknown: bool) -> Decode {
    Decode::Protobuf { descriptors: HIT.to_string(), message: "web.Hit".to_string(), ignore_unknown }
}

/// `message Bag { float z = 1; map<string, int32> m = 2; } message Held { google.protobuf.Any a = 1; }` of the package web.
const BAG: &str = "ClwKGWdvb2dsZS9wcm90b2J1Zi9hbnkucHJvdG8SD2dvb2dsZS5wcm90b2J1ZiImCgNBbnkSEAoIdHlwZV91cmwYASABKAkSDQoFdmFsdWUYAiABKAxiBnByb3RvMwq0AQoJYmFnLnByb3RvEgN3ZWIaGWdvb2dsZS9wcm90b2J1Zi9hbnkucHJvdG8iVgoDQmFnEgkKAXoYASABKAISGgoBbRgCIAMoCzIPLndlYi5CYWcuTUVudHJ5GigKBk1FbnRyeRILCgNrZXkYASABKAkSDQoFdmFsdWUYAiABKAU6AjgBIicKBEhlbGQSHwoBYRgBIAEoCzIULmdvb2dsZS5wcm90b2J1Zi5BbnliBnByb3RvMw==";

/// The library keeps maps in an order of the moment; a row has one order.
#[test]
fn maps_of_protobuf_have_an_order() {
    let of = |message: &str| Decode::Protobuf {
        descriptors: BAG.to_string(),
        message: message.to_string(),
        ignore_unknown: false,
    };
    let mut payload = b"\x0d\xcd\xcc\xcc\x3d".to_vec();
    for number in (0..20_u8).rev() {
        payload.extend([0x12, 0x05, 0x0a, 0x01, b'a' + number, 0x10, number]);
    }
    let entries: Vec<String> = (0..20_u8).map(|number| format!("\"{}\":{number}", char::from(b'a' + number))).collect();
    let expected = format!("{{\"m\":{{{}}},\"z\":0.1}}", entries.join(","));
    for _ in 0..5 {
        assert_eq!(rows(&of("web.Bag"), &payload).expect("a row"), [expected.as_str()]);
    }
    assert!(compile(&of("web.Held")).err().expect("no decoder").contains("google.protobuf.Any"));
}

#[test]
fn protobuf_is_read_by_its_descriptors() {
    let strict = protobuf(false);
    let payload = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x12\x02\xc3\xa4\x12\x00";
    assert_eq!(rows(&strict, payload).expect("a row"), [r#"{"id":9223372036854775807,"tags":["ä",""]}"#]);
    assert_eq!(rows(&strict, b"").expect("all defaults"), [r#"{"id":0,"tags":[]}"#]);
    for (payload, reason) in [
        (&b"\x08"[..], "web.Hit"),
        (b"\x12\x05a", "web.Hit"),
        (b"\x12\x01\xff", "web.Hit"),
        (b"\x08\x01\x18\x07", "field 3"),
    ] {
        assert!(rows(&strict, payload).expect_err("broken").contains(reason), "{payload:?}");
    }
    assert_eq!(rows(&protobuf(true), b"\x08\x01\x18\x07").expect("a row"), [r#"{"id":1,"tags":[]}"#]);
    let problem = |descriptors: &str, message: &str| {
        let (descriptors, message) = (descriptors.to_string(), message.to_string());
        compile(&Decode::Protobuf { descriptors, message, ignore_unknown: false }).err().expect("no decoder")
    };
    assert!(problem(HIT, "web.Miss").contains("there are web.Hit"));
    assert!(problem("AAAA", "web.Hit").contains("FileDescriptorSet"));
    assert!(problem("?", "web.Hit").contains("base64"));
}

/// All decoders, with every option in use.
fn all() -> Vec<(&'static str, Decode)> {
    vec![
        ("json", json_of(true, &["a", "b"])),
        ("json of one", json_of(false, &["a", "b"])),
        ("ltsv", ltsv()),
        ("csv", csv(true, Some('"'))),
        ("csv without quotes", csv(true, None)),
        ("regex", regex()),
        ("grok", grok()),
        ("syslog", syslog("Europe/Berlin")),
        ("msgpack", msgpack_of(true, &["a", "b"])),
        ("protobuf", protobuf(true)),
        ("avro", avro(&avro_schema())),
        ("avro arrays", avro(&json!({"type": "array", "items": ["null", {"type": "array", "items": "null"}]}))),
    ]
}

/// D-2 to D-4: rows that are valid JSON of a bounded depth and size, or a reason that quotes little; the same each time.
fn judge(name: &str, decode: &Decode, payload: &[u8]) {
    let found = rows(decode, payload);
    assert_eq!(found, rows(decode, payload), "{name}: {payload:?}");
    let rows = match found {
        Ok(rows) => rows,
        Err(reason) => return assert!(reason.len() < 1_000, "{name}: {reason}"),
    };
    let scan = JsonScan::new(&[], true);
    for row in &rows {
        let whole =
            scan.scan(row.as_bytes(), &mut crate::parse::json::Captures::new()).expect("valid and not too deep");
        assert_eq!(whole.len(), row.len(), "{name}: white space around {row:?}");
    }
    let bytes: usize = rows.iter().map(String::len).sum();
    assert!(bytes <= payload.len() * 50 + 1_000, "{name}: {bytes} bytes of {}", payload.len());
}

proptest! {
    #[test]
    fn any_bytes_are_rows_or_a_reason(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        for (name, decode) in all() {
            judge(name, &decode, &payload);
        }
    }

    #[test]
    fn any_text_is_rows_or_a_reason(payload in "[\\[\\]{}\",:<>0-9a-e\\\\ \t\n\r\\-+.\u{e4}\u{1F600}\u{feff}]{0,120}") {
        for (name, decode) in all() {
            judge(name, &decode, payload.as_bytes());
        }
    }

    /// No letter of a line is in none of the fields.
    #[test]
    fn syslog_keeps_all_letters(behind in "[ :\\-a-c\\[\\]\t.]{0,40}") {
        for head in ["<13>Nov 21 07:59:30", "<13>2025-11-21T07:59:30Z", "<13>1 2025-11-21T07:59:30Z web1 su 77 ID -"] {
            let line = format!("{head}{behind}");
            let Ok(rows) = values(&syslog("UTC"), line.as_bytes()) else { continue };
            let told: String = ["hostname", "appname", "procid", "message"].iter().filter_map(|name| rows[0][name].as_str()).collect();
            let letters = |text: &str| text.chars().filter(|letter| matches!(letter, 'a'..='c')).collect::<String>();
            prop_assert_eq!(letters(&told), letters(&line), "{:?} {}", &line, &rows[0]);
            prop_assert!(line.ends_with(rows[0]["message"].as_str().unwrap_or("no message")), "{:?} {}", &line, &rows[0]);
        }
    }

    /// What is cut, doubled or changed on its way.
    #[test]
    fn damaged_payloads_are_rows_or_a_reason(which in 0..9_usize, at in 0..200_usize, byte: u8, cut: bool) {
        let good: [&[u8]; 9] = [
            br#"[[1,{"x":"\u00e4"}],[2,null]]"#,
            b"host:a\tstatus:200\ttime:0.5\tok:true",
            b"a,1\n\"b\"\"\",2\n",
            b"web1 200 more",
            b"10.0.0.1 ABC 0.5",
            b"<34>1 2025-11-21T09:14:15.003Z web1 su 77 ID47 [ex@1 a=\"b\"] failed",
            b"<13>Nov 21 07:59:30 web1 cron[12]: done",
            &avro_payload(b"\x00"),
            b"\x92\x92\xa1a\x81\xa1b\xd7\x00\x69\x20\x1c\x80\0\0\0\x01\x92\x01\xc4\x01\xff",
        ];
        let mut payload = good[which].to_vec();
        let at = at % payload.len();
        payload[at] = byte;
        if cut {
            payload.truncate(at);
        }
        for (name, decode) in all() {
            judge(name, &decode, &payload);
        }
    }
}
