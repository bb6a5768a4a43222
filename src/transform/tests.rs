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
        ("true", r#"{"a":"ä\u0000\"","b":2}"#, r#"{"a":"ä\u0000\"","b":2}"#),
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
    // So does one that the program puts into rows, whichever way.
    let errors = (Shaped::Rows(vec![Some([2].into())]), vec![r#"{"a":1}"#.to_string()]);
    for source in [
        ". = [{\"a\":1,\"output\":\"errors\"}]",
        ". = {\"a\":1,\"output\":\"errors\"}",
        ". |= {\"output\":\"errors\"}",
        ". = merge(object!(.), {\"output\":\"errors\"})",
        "row = .; row.output = \"errors\"; . = row",
        "if .a == 1 { .output = \"errors\" }",
        ". = map_values([.]) -> |row| { merge(object!(row), {\"output\":\"errors\"}) }",
        "if .a == 1 { . |= {\"output\":[\"errors\"]} }",
    ] {
        assert_eq!(run(source, r#"{"a":1}"#), errors, "{source}");
    }
    let (shaped, rows) = run(". = [{\"output\":\"json\"},{\"output\":\"errors\"},{}]", "{}");
    assert_eq!((shaped, rows.len()), (Shaped::Rows(vec![Some([0].into()), Some([2].into()), None]), 3));
    for source in [".output[0] = \"errors\"", ".output.name = \"errors\""] {
        let problem = Transform::compile(source, &outputs()).err().expect(source);
        assert!(problem.contains("assigned as a whole"), "{problem}");
    }
    // A field of that name is the record's own where the program does not route.
    let kept = r#"{"a":1,"output":"nowhere"}"#;
    for source in [
        "if .output == \"x\" { .b = 1 }",
        "if exists(.output) && is_string(.output) { .a = 1 }",
        ". = parse_json!(encode_json(.))",
        ".x = string!(.output); del(.x)",
    ] {
        assert_eq!(one(source, kept), kept, "{source}");
    }
    assert_eq!(one("del(.output)", kept), r#"{"a":1}"#);
    assert_eq!(one(".a = 1", r#"{"output":"nowhere"}"#), r#"{"a":1,"output":"nowhere"}"#);
}

/// Of a row that is no object the value would be gone without a word.
#[test]
fn rows_that_would_be_replaced_are_refused() {
    for row in ["5", "\"hello\"", "[1,2]", "null"] {
        let reason = refused(".host = %topic", row);
        assert!(reason.contains("assigns .host, but . is `"), "{reason}");
        assert_eq!(one("if is_object(.) { .host = %topic }", row), row);
    }
    assert!(refused(". = parse_json!(.text); .host = 1", r#"{"text":"5"}"#).contains("would be lost"));
    // A variable is the program's own, and follows VRL's rule.
    assert_eq!(one("x = object!(.)\nx.a.b = 1\n. = x", r#"{"a":"text"}"#), r#"{"a":{"b":1}}"#);
    assert!(refused(".a.b = 1", r#"{"a":"text"}"#).contains("but .a is `"));
    assert!(refused(".a[0].c = 1", r#"{"a":[7]}"#).contains("but .a[0] is `7`"));
    assert_eq!(one(".a.b = 1", r#"{"a":null}"#), r#"{"a":{"b":1}}"#);
    assert_eq!(one(".a[-1] = 1", r#"{"a":[5,6]}"#), r#"{"a":[5,1]}"#);
    assert_eq!(one("del(.a); .a.b = 1", r#"{"a":"text"}"#), r#"{"a":{"b":1}}"#);
    assert_eq!(one(". = {\"was\": .}; .host = %topic", "5"), r#"{"host":"access","was":5}"#);
}

/// A row that is an array is many rows only where the program said so.
#[test]
fn arrays_that_are_left_alone_stay_one_row() {
    let source = "if is_object(.) { . = merge(object!(.), {\"x\":1}) }";
    assert_eq!(one(source, "[1,2]"), "[1,2]");
    assert_eq!(one(source, "{}"), r#"{"x":1}"#);
    assert_eq!(run(". = array!(.)", "[1,2]"), (Shaped::Rows(vec![None, None]), vec!["1".to_string(), "2".to_string()]));
}

#[test]
fn names_that_repeat_are_refused() {
    for source in [".b = 1", "true"] {
        for row in [r#"{"a":1,"a":2}"#, r#"{"c":[{"a":1,"\u0061":1}]}"#] {
            assert!(refused(source, row).contains("the name `a` comes twice"), "{source} {row}");
        }
    }
    // A filter changes nothing: the first counts.
    let owned = record();
    let passes = Filter::compile(".a == 1").expect("a condition").passes(&owned.as_record(), r#"{"a":1,"a":2}"#);
    assert_eq!(passes, Ok(true));
}

#[test]
fn what_decompresses_is_bounded() {
    use base64::Engine as _;
    use std::io::Write as _;
    let zeros = vec![0_u8; 70 << 20];
    let compressed = |name: &str, bytes: &[u8]| match name {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(bytes).and_then(|()| out.finish()).expect("in memory")
        }
        "zlib" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(bytes).and_then(|()| out.finish()).expect("in memory")
        }
        "zstd" => zstd::encode_all(bytes, 1).expect("in memory"),
        _ => snap::raw::Encoder::new().compress_vec(bytes).expect("in memory"),
    };
    for name in ["gzip", "zlib", "zstd", "snappy"] {
        let source = format!(".a = decode_{name}!(decode_base64!(.a))");
        let row = |bytes: &[u8]| {
            format!("{{\"a\":\"{}\"}}", base64::engine::general_purpose::STANDARD.encode(compressed(name, bytes)))
        };
        assert_eq!(one(&source, &row(b"text")), r#"{"a":"text"}"#, "{name}");
        assert_eq!(one(&source, &row(b"")), r#"{"a":""}"#, "{name}");
        assert!(refused(&source, &row(&zeros)).contains("more than 67108864 bytes"), "{name}");
        assert!(refused(&source, r#"{"a":"eHh4eHh4eHh4eA=="}"#).contains(&format!("decode_{name}")), "{name}");
    }
}

/// Neither what a payload says nor a large number: zeros are written one by one.
#[test]
fn arguments_that_a_payload_must_not_choose() {
    assert_eq!(one(".a = format_number!(.a, scale: 2)", r#"{"a":1.5}"#), r#"{"a":"1.50"}"#);
    for scale in ["int!(.s)", "1000000000", "-1"] {
        let source = format!(".a = format_number!(.a, scale: {scale})");
        assert!(Transform::compile(&source, &outputs()).is_err(), "{scale}");
    }
    let problem = Transform::compile(".a = parse_json!(.a, max_depth: 3)", &outputs()).err().expect("refused");
    assert!(problem.contains("differ from run to run"), "{problem}");
    let problem = Transform::compile(".a = parse_cef!(.a, translate_custom_fields: true)", &outputs()).err();
    assert!(problem.expect("refused").contains("parse_cef is left out: it reads custom fields in the order"));
}

#[test]
fn what_cannot_be_exact_is_refused() {
    for text in ["9223372036854775808", "-9223372036854775809", "1e300"] {
        let row = format!(r#"{{"t":"[{text}]"}}"#);
        assert!(refused(".t = parse_json!(.t)", &row).contains("2^63"), "{text}");
    }
    let large = r#"{"t":"[9223372036854775807,-9223372036854775808]"}"#;
    assert_eq!(one(".t = parse_json!(.t)", large), r#"{"t":[9223372036854775807,-9223372036854775808]}"#);
    // CBOR of 2^64 - 1.
    assert!(refused(".t = parse_cbor!(decode_base64!(.t))", r#"{"t":"G///////////"}"#).contains("2^63"));
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
    /// Doubles are what they were, whichever way they were written.
    #[test]
    fn doubles_stay_what_they_are(bits: u64) {
        let value = f64::from_bits(bits);
        // Beyond them a row is refused.
        prop_assume!(value.is_finite() && value.abs() < 9_223_372_036_854_775_808.0);
        let owned = record();
        let written = [format!("{value}"), format!("{value:e}"), serde_json::to_string(&value).expect("finite")];
        for (source, text) in written.iter().flat_map(|text| [("true", text), (".x = 1", text)]) {
            let mut out = Rows::default();
            let shaped = transform(source).run(&owned.as_record(), &format!("{{\"a\":{text}}}"), &mut out);
            prop_assert_eq!(shaped, Shaped::Rows(vec![None]));
            let row: serde_json::Value = serde_json::from_str(out.get(0).expect("a row")).expect("JSON");
            let found = row["a"].as_f64().expect("a number");
            prop_assert!(found == value, "{} {} {}", source, text, found);
        }
    }

    /// Any row goes through the empty program as it is, but for the order of names and what is refused.
    #[test]
    fn nothing_is_changed_silently(text in "[ \\[\\]{}\",:0-9a-c.eE\\-]{0,60}", deep in 1..200_usize) {
        let owned = record();
        let nothing = transform("true");
        for row in [text.clone(), format!("{}{}", "[".repeat(deep), "]".repeat(deep))] {
            let Ok(before) = serde_json::from_str::<serde_json::Value>(&row) else { continue };
            let mut out = Rows::default();
            match nothing.run(&owned.as_record(), &row, &mut out) {
                Shaped::Refused(reason) => prop_assert!(deep > DEPTH_MAX || reason.contains("exactly") || reason.contains("twice"), "{} {}", row, reason),
                Shaped::Dropped => prop_assert!(false, "{}", row),
                Shaped::Rows(_) => {
                    let rows: Vec<serde_json::Value> = out.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect();
                    let expected = vec![before];
                    prop_assert!(rows == expected, "{} {:?}", row, rows);
                }
            }
        }
    }
}
