use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn paths(list: &[&str]) -> Vec<Vec<String>> {
    list.iter().map(|path| path.split('.').map(str::to_string).collect()).collect()
}

fn scan<'a>(fields: &[&str], validate: bool, payload: &'a [u8]) -> Result<(&'a str, Vec<Option<&'a str>>), ParseError> {
    let mut found = Captures::new();
    let text = JsonScan::new(&paths(fields), validate).scan(payload, &mut found)?;
    Ok((text, found.as_slice().to_vec()))
}

#[test]
fn fields_are_found() {
    type Case = (&'static [&'static str], &'static str, &'static [Option<&'static str>]);
    let table: &[Case] = &[
        (&["a"], r#"{"a":1}"#, &[Some("1")]),
        (&["a"], r#"{"b":1}"#, &[None]),
        (&["a", "b"], r#"{"b": "x\"y" , "a" : [1, {"b":2}] }"#, &[Some("[1, {\"b\":2}]"), Some("\"x\\\"y\"")]),
        (
            &["a.b", "a", "a.c.d"],
            r#"{"a":{"b":null,"c":{"d":1.50}}}"#,
            &[Some("null"), Some(r#"{"b":null,"c":{"d":1.50}}"#), Some("1.50")],
        ),
        (&["a.b"], r#"{"a":1}"#, &[None]),
        (&["a.b"], r#"{"a":[{"b":1}]}"#, &[None]),
        (&["a"], r#"{"x":{"a":1},"a":2}"#, &[Some("2")]),
        (&["a"], r#"{"x":"{\"a\":1}"}"#, &[None]),
        // The first of names that repeat counts, also below.
        (&["a"], r#"{"a":1,"a":2}"#, &[Some("1")]),
        (&["a.b"], r#"{"a":{"b":1,"b":2},"a":{"b":3}}"#, &[Some("1")]),
        (&["a.b"], r#"{"a":{"c":1},"a":{"b":3}}"#, &[None]),
        // Escapes in names.
        (&["a"], r#"{"\u0061":1}"#, &[Some("1")]),
        (&["a\\u0061"], r#"{"a\u0061":1}"#, &[None]),
        (&["a\\b"], r#"{"a\\b":1}"#, &[Some("1")]),
        (&["é"], r#"{"\u00e9":1,"é":2}"#, &[Some("1")]),
        (&["a"], r#"{"\ud800":0,"a":1}"#, &[Some("1")]),
        (&[""], r#"{"":1}"#, &[Some("1")]),
        // Not an object.
        (&["a"], "[{\"a\":1}]", &[None]),
        (&["a"], "\"a\"", &[None]),
        (&["a"], "17", &[None]),
        (&["a", "a"], r#"{"a":1}"#, &[Some("1"), Some("1")]),
        (&[], r#"{"a":1e999}"#, &[]),
    ];
    for (fields, payload, values) in table {
        for validate in [true, false] {
            assert_eq!(
                scan(fields, validate, payload.as_bytes()).map(|(_, values)| values).as_deref(),
                Ok(*values),
                "{payload}"
            );
        }
    }
}

#[test]
fn more_fields_than_fit_inline_are_found_too() {
    let names: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
    let body: Vec<String> = names.iter().rev().map(|name| format!("\"{name}\":\"{name}\"")).collect();
    let payload = format!("{{{}}}", body.join(","));
    for count in [7, 8, 9, 63, 64, 65, 100] {
        let wanted: Vec<&str> = names.iter().take(count).map(String::as_str).collect();
        for validate in [true, false] {
            let (_, values) = scan(&wanted, validate, payload.as_bytes()).unwrap();
            let expected: Vec<String> = wanted.iter().map(|name| format!("\"{name}\"")).collect();
            assert_eq!(values, expected.iter().map(|value| Some(value.as_str())).collect::<Vec<_>>());
        }
    }
}

#[test]
fn white_space_around_is_removed() {
    for validate in [true, false] {
        assert_eq!(scan(&["a"], validate, b" \r\n\t{ \"a\" :\t1 }\r\n ").unwrap(), ("{ \"a\" :\t1 }", vec![Some("1")]));
    }
}

#[test]
fn captures_are_reset_between_payloads() {
    let scanner = JsonScan::new(&paths(&["a"]), true);
    let mut found = Captures::new();
    scanner.scan(b"{\"a\":1}", &mut found).unwrap();
    scanner.scan(b"{}", &mut found).unwrap();
    assert_eq!(found.as_slice(), [None]);
}

#[test]
fn broken_payloads_are_refused_with_their_place() {
    let table: &[(&[u8], &str)] = &[
        (b"", "the payload is empty"),
        (b" \n", "the payload is empty"),
        (b"{\"a\":\"\xff\"}", "not UTF-8 at byte 6"),
        (b"\xef\xbb\xbf{}", "not JSON near byte 0: expected value"),
        (b"{\"a\":1", "ends inside its JSON value, after 6 bytes"),
        (b" {\"a\":\"x\n\"}", "not JSON near byte 7: control character"),
        (b"{\"a\":1}{", "goes on behind its JSON value, at byte 7"),
        (b"{} x", "goes on behind its JSON value, at byte 3"),
        (b"1 2", "goes on behind its JSON value, at byte 2"),
        (b" {\n\"a\":01}", "not JSON near byte 8"),
        (b"{\"a\":1,}", "not JSON near byte 7"),
        (b"{\"a\" 1}", "not JSON near byte 5: expected `:`"),
        (b"{a:1}", "not JSON near byte 1: key must be a string"),
        (b"{'a':1}", "not JSON near byte 1"),
        (b"{\"a\":+1}", "not JSON near byte 5"),
        (b"{\"a\":1.}", "not JSON near byte 7: invalid number"),
        (b"{\"a\":.5}", "not JSON near byte 5"),
        (b"{\"a\":NaN}", "not JSON near byte 5"),
        (b"{\"a\":tru}", "not JSON near byte 8"),
        (b"{\"a\\x\":1}", "not JSON near byte 4: invalid escape"),
        (b"{\"a\":\"\\u12g4\"}", "invalid escape"),
        (b"{\"a\":\"\x01\"}", "control character"),
        (b"{\"a\x01\":1}", "control character"),
        (b"[1,]", "not JSON near byte 3"),
        (b"[1}", "not JSON near byte 2"),
        (b"hello", "not JSON near byte 0: expected value"),
        (b"\x00", "not JSON near byte 0"),
    ];
    for (payload, part) in table {
        for fields in [&["b"][..], &[]] {
            let message = scan(fields, true, payload).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(part), "{}: {message}", payload.escape_ascii());
        }
    }
}

#[test]
fn errors_never_quote_the_payload() {
    let secret = "correct-horse-battery";
    for payload in [
        secret.to_string(),
        format!("{{\"a\":{secret}}}"),
        format!("{{\"{secret}\" \"{secret}\"}}"),
        format!("\"{secret}\" {secret}"),
    ] {
        let message = scan(&["a"], true, payload.as_bytes()).unwrap_err().to_string();
        assert!(!message.contains("horse"), "{message}");
    }
}

#[test]
fn without_validation_only_the_start_is_read() {
    assert_eq!(scan(&["a"], false, b"{\"a\":1, oops").unwrap().1, [Some("1")]);
    assert_eq!(scan(&[], false, b"oops").unwrap(), ("oops", vec![]));
    assert!(scan(&["a"], false, b"{\"b\":1, oops").is_err());
    assert!(scan(&["a"], false, b"{\"a\":1 \xff").is_err());
    assert!(scan(&["a"], false, b" ").is_err());
}

#[test]
fn depth_is_bounded() {
    for validate in [true, false] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
            assert!(scan(&["a", "b"], validate, nested(DEPTH_MAX).as_bytes()).is_ok());
            let error = scan(&["a", "b"], validate, nested(DEPTH_MAX + 1).as_bytes()).unwrap_err();
            assert_eq!(error, ParseError::TooDeep { at: open.len() * DEPTH_MAX, depth_max: DEPTH_MAX });
        }
        let error = scan(&["a"], validate, "[".repeat(1_000_000).as_bytes()).unwrap_err();
        assert_eq!(error, ParseError::TooDeep { at: DEPTH_MAX, depth_max: DEPTH_MAX });
    }
    // Many brackets, few levels; brackets in strings do not count.
    assert!(scan(&["a"], true, format!("[{}[]]", "[],".repeat(500)).as_bytes()).is_ok());
    assert!(scan(&["a"], true, format!("[\"\\\"{}\"]", "[".repeat(500)).as_bytes()).is_ok());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|half| Value::from(f64::from(half) / 2.0)),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[abc\"\\\\é]{0,2}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// JSON as text, with a few bytes changed, removed or repeated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (
        any::<prop::sample::Index>(),
        0..3u8,
        prop::sample::select(&b"{}[]\",:\\u0159.eE+-tn \n\x00\x1f\x7f\xc3\xff/"[..]),
    );
    (any_json(), any::<bool>(), prop::collection::vec(change, 0..4)).prop_map(|(value, pretty, changes)| {
        let mut bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        for (index, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The verdict is serde_json's own on the same bytes.
    #[test]
    fn verdicts_are_those_of_serde_json(payload in mutated()) {
        let expected = serde_json::from_slice::<&RawValue>(&payload);
        for fields in [&["a", "b.c", "\""][..], &[]] {
            let found = scan(fields, true, &payload);
            prop_assert_eq!(found.is_ok(), expected.is_ok(), "{:?} {:?}", found, expected);
            if let (Ok((text, _)), Ok(value)) = (found, &expected) {
                prop_assert_eq!(text, value.get());
            }
            // Without validation, nothing good is refused.
            prop_assert!(expected.is_err() || scan(fields, false, &payload).is_ok());
        }
    }

    #[test]
    fn found_fields_are_those_of_a_value(value in any_json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        for validate in [true, false] {
            let (_, found) = scan(&["a", "a.b", "é", "a.\\.c", "\""], validate, text.as_bytes()).unwrap();
            let parsed: Vec<Option<Value>> = found.iter().map(|raw| raw.map(|raw| serde_json::from_str(raw).unwrap())).collect();
            let a = value.get("a");
            let expected = [a, a.and_then(|a| a.get("b")), value.get("é"), a.and_then(|a| a.get("\\")).and_then(|it| it.get("c")), value.get("\"")];
            prop_assert_eq!(parsed, expected.map(|value| value.cloned()));
        }
    }
}
