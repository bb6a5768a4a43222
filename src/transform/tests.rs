//! What programs make of rows, and which ones are no programs.

use super::*;
use crate::parse::json::DEPTH_MAX;
use crate::record::OwnedRecord;
use proptest::prelude::*;

fn record() -> OwnedRecord {
    OwnedRecord {
        topic: "access".to_string(),
        partition: 3,
        offset: 17,
        timestamp: Some(1_763_712_000_000),
        key: Some(b"k1".to_vec()),
        headers: vec![
            ("trace".to_string(), Some(b"a".to_vec())),
            ("trace".to_string(), Some(b"b".to_vec())),
            ("gone".to_string(), None),
        ],
        ..OwnedRecord::default()
    }
}

fn outputs() -> Vec<(String, usize)> {
    vec![("json".to_string(), 0), ("errors".to_string(), 2)]
}

fn transform(source: &str) -> Transform {
    Transform::compile(source, &outputs()).expect("a program")
}

/// What becomes of a row, and the rows that it becomes.
fn run(source: &str, row: &str) -> (Shaped, Vec<String>) {
    let mut out = Rows::default();
    let owned = record();
    let shaped = transform(source).run(&owned.as_record(), row, &mut out);
    (shaped, out.iter().map(str::to_string).collect())
}

/// The one row that it becomes, for all outputs.
fn one(source: &str, row: &str) -> String {
    let (shaped, rows) = run(source, row);
    assert_eq!(shaped, Shaped::Rows(vec![None]), "{source} {row}");
    rows.into_iter().next().expect("a row")
}

fn refused(source: &str, row: &str) -> String {
    match run(source, row) {
        (Shaped::Refused(reason), rows) if rows.is_empty() => reason,
        other => panic!("{source} {row}: {other:?}"),
    }
}

#[test]
fn rows_are_rewritten() {
    for (source, row, expected) in [
        (".a = del(.b)", r#"{"b":1,"c":"x"}"#, r#"{"a":1,"c":"x"}"#),
        ("del(.secret)", r#"{"secret":"x","z":1.50,"a":null}"#, r#"{"a":null,"z":1.5}"#),
        (". = {\"id\": .id}", r#"{"id":9007199254740993,"more":[1]}"#, r#"{"id":9007199254740993}"#),
        (".q = parse_query_string(string!(.q))", r#"{"q":"a=1&b=x%20y"}"#, r#"{"q":{"a":"1","b":"x y"}}"#),
        (
            ".cookie = parse_key_value!(.cookie, field_delimiter: \"; \")",
            r#"{"cookie":"sid=abc; lang=de"}"#,
            r#"{"cookie":{"lang":"de","sid":"abc"}}"#,
        ),
        (
            ".at = parse_timestamp!(.at, \"%Y-%m-%d %H:%M\")",
            r#"{"at":"2025-11-21 08:00"}"#,
            r#"{"at":"2025-11-21T08:00:00Z"}"#,
        ),
        (".m = redact(string!(.m), filters: [r'\\d{4}'])", r#"{"m":"pin 1234"}"#, r#"{"m":"pin [REDACTED]"}"#),
        (
            ".k = %key; .o = %offset; .h = %headers.trace; .g = %headers.gone",
            "{}",
            r#"{"g":null,"h":"b","k":"k1","o":17}"#,
        ),
        (".t = %topic; .p = %partition; .ms = %timestamp", "{}", r#"{"ms":1763712000000,"p":3,"t":"access"}"#),
        ("true", r#"{"a":"ä\u0000\"","a":2}"#, r#"{"a":"ä\u0000\""}"#),
        ("true", "5", "5"),
        (".h = sha2(string!(.h), variant: \"SHA-256\")", r#"{"h":""}"#, &format!("{{\"h\":\"{EMPTY_SHA256}\"}}")),
    ] {
        assert_eq!(one(source, row), expected, "{source}");
    }
}

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn rows_are_dropped_multiplied_and_routed() {
    assert_eq!(run("if .level == \"debug\" { abort }", r#"{"level":"debug"}"#).0, Shaped::Dropped);
    let (shaped, rows) = run(". = unnest!(.items)", r#"{"id":1,"items":[{"a":1},{"a":2}]}"#);
    assert_eq!(shaped, Shaped::Rows(vec![None, None]));
    assert_eq!(rows, [r#"{"id":1,"items":{"a":1}}"#, r#"{"id":1,"items":{"a":2}}"#]);
    assert_eq!(run(". = []", "{}"), (Shaped::Rows(Vec::new()), Vec::new()));

    let route = ".output = if .status == 500 { [\"json\", \"errors\"] } else { \"json\" }";
    let (shaped, rows) = run(route, r#"{"status":500}"#);
    assert_eq!((shaped, rows), (Shaped::Rows(vec![Some([0, 2].into())]), vec![r#"{"status":500}"#.to_string()]));
    assert_eq!(run(route, r#"{"status":200}"#).0, Shaped::Rows(vec![Some([0].into())]));
    assert_eq!(run(".output = null", "{}").0, Shaped::Rows(vec![None]));
    assert_eq!(run(".output = []", "{}").0, Shaped::Rows(vec![Some(BTreeSet::new())]));
    assert!(refused(".output = \"nowhere\"", "{}").contains("rows go to json, errors"));
    assert!(refused(".output = 5", "{}").contains("neither the name"));
    // A field of that name is the record's own where the program does not route.
    assert_eq!(one(".a = 1", r#"{"output":"nowhere"}"#), r#"{"a":1,"output":"nowhere"}"#);
}

#[test]
fn what_cannot_be_exact_is_refused() {
    assert!(refused("true", r#"{"id":9223372036854775808}"#).contains("9223372036854775808 exactly"));
    assert!(refused("true", r#"{"id":123456789012345678901234567890}"#).contains("exactly"));
    assert_eq!(one("true", r#"{"id":-9223372036854775808}"#), r#"{"id":-9223372036854775808}"#);
    assert!(refused(".a = decode_base64!(\"/w==\")", "{}").contains("encode_base64"));
    assert!(refused(".a = to_int!(.b)", r#"{"b":"x"}"#).contains("to_int"));
    assert!(refused(". = [{\"a\": 1}, decode_base64!(\"/w==\")]", "{}").contains("no text"));
    let long = format!("{{\"b\":\"{}\"}}", "x\\n".repeat(5_000));
    assert!(refused(".a = to_int!(.b)", &long).chars().count() < 400);
}

#[test]
fn programs_are_judged_when_they_are_written() {
    let problem = |source: &str| Transform::compile(source, &outputs()).err().expect(source);
    assert!(problem(".a = ").contains("syntax"), "{}", problem(".a = "));
    assert!(problem(".a = to_int(.b)").contains("fallible") || problem(".a = to_int(.b)").contains("unhandled"));
    for (name, _) in LEFT_OUT {
        let source = format!(".a = {name}(.b)");
        let text = problem(&source);
        assert!(text.contains(&format!("{name} is left out:")), "{text}");
    }
    assert!(!problem(".now = ").contains("left out"));
    let condition = |source: &str| Filter::compile(source).err();
    assert_eq!(condition(".status == 500"), None);
    assert!(condition(".status").expect("no condition").contains("true or false"));
    assert!(condition(".a = 1; true").expect("assigns").contains("only look"));
}

/// The machine's zone would make another row of a record elsewhere.
#[test]
fn zones_are_named_by_the_program() {
    let row = r#"{"at":"2025-11-21 08:00","tz":""}"#;
    let named = ".at = parse_timestamp!(.at, \"%Y-%m-%d %H:%M\", timezone: \"Asia/Tokyo\"); del(.tz)";
    assert_eq!(one(named, row), r#"{"at":"2025-11-20T23:00:00Z"}"#);
    for zone in ["\"local\"", "\"\"", ".tz", "\"Mars\""] {
        let source = format!(".at = parse_timestamp!(.at, \"%H\", timezone: {zone})");
        assert!(Transform::compile(&source, &outputs()).is_err(), "{zone}");
        let source = format!(".at = format_timestamp!(timestamp!(.at), \"%H\", {zone})");
        assert!(Transform::compile(&source, &outputs()).is_err(), "{zone}");
    }
}

/// Every function that VRL marks or knows as undetermined is among those left out.
#[test]
fn no_function_asks_the_clock() {
    let known: Vec<&str> = vrl::stdlib::all().iter().map(|function| function.identifier()).collect();
    assert!(known.len() > 150, "{}", known.len());
    for name in known.iter().filter(|name| left_out(name).is_none()) {
        let suspicious = ["now", "random", "uuid_v", "env", "hostname", "dns", "http", "timezone_name"];
        assert!(!suspicious.iter().any(|part| name.contains(part)), "{name}");
    }
}

#[test]
fn filters_say_yes_or_no() {
    let owned = record();
    let passes =
        |source: &str, row: &str| Filter::compile(source).expect("a condition").passes(&owned.as_record(), row);
    assert_eq!(passes(".status == 500", r#"{"status":500}"#), Ok(true));
    assert_eq!(passes(".status == 500", "[]"), Ok(false));
    assert_eq!(passes("%partition == 3 && %headers.trace == \"b\"", "{}"), Ok(true));
    assert!(passes("to_int!(.a) > 1", r#"{"a":"x"}"#).is_err());
    assert!(passes("true", "{").is_err());
}

proptest! {
    /// Any row goes through the empty program as it is, but for the order of names and what is refused.
    #[test]
    fn nothing_is_changed_silently(text in "[ \\[\\]{}\",:0-9a-c.eE\\-]{0,60}", deep in 1..200_usize) {
        let owned = record();
        let nothing = transform("true");
        for row in [text.clone(), format!("{}{}", "[".repeat(deep), "]".repeat(deep))] {
            let Ok(before) = serde_json::from_str::<serde_json::Value>(&row) else { continue };
            let mut out = Rows::default();
            match nothing.run(&owned.as_record(), &row, &mut out) {
                Shaped::Refused(reason) => prop_assert!(deep > DEPTH_MAX || reason.contains("exactly"), "{} {}", row, reason),
                Shaped::Dropped => prop_assert!(false, "{}", row),
                Shaped::Rows(_) => {
                    let rows: Vec<serde_json::Value> = out.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect();
                    let expected = vec![before];
                    let repeats = row.contains("\"a\"") || row.contains("\"\"") || row.contains("\"b\"");
                    prop_assert!(rows == expected || repeats, "{} {:?}", row, rows);
                }
            }
        }
    }
}
