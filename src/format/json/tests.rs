use super::*;
use crate::format::testing::{Sample, row_of};
use crate::layout::KeptColumn;
use crate::record::OwnedRecord;
use proptest::prelude::*;
use serde_json::Value;

const ALL: [KeptColumn; 6] = [
    KeptColumn::Key,
    KeptColumn::Headers,
    KeptColumn::Timestamp,
    KeptColumn::Topic,
    KeptColumn::Partition,
    KeptColumn::Offset,
];

fn kept(columns: &[KeptColumn]) -> JsonFormat {
    JsonFormat::new(Codec::None, Some(&Keep { columns: columns.to_vec(), prefix: "k_".to_string() }))
}

fn line(format: &JsonFormat, sample: &Sample) -> Result<String, RowError> {
    let mut rows = b"before\n".to_vec();
    let outcome = sample.json_row(|row| format.append_row(row, &mut rows));
    if outcome.is_err() {
        assert_eq!(rows, b"before\n", "a refused row leaves nothing (F-3)");
    }
    outcome.map(|_| String::from_utf8(rows.split_off(7)).expect("these payloads are UTF-8"))
}

#[test]
fn payloads_stay_as_they_are_but_for_newlines() {
    let plain = JsonFormat::new(Codec::None, None);
    let cases = [
        (r#"{"b": 1.50,  "a":"\u00e4"}"#, r#"{"b": 1.50,  "a":"\u00e4"}"#),
        ("{\r\n  \"a\": [1,\n2]\n}", "{  \"a\": [1,2]}"),
        ("12", "12"),
        ("{\"a\":1", "{\"a\":1"), // Not validated: on one line it stays what it is.
    ];
    for (payload, expected) in cases {
        let found = line(&plain, &Sample::new(Some(payload.as_bytes()))).expect(payload);
        assert_eq!(found, format!("{expected}\n"));
    }
    for broken in ["{\"a\":\n", "1\n2", "\"a\nb\"", ""] {
        line(&plain, &Sample::new(Some(broken.as_bytes()))).expect_err(broken);
    }
    assert_eq!(line(&plain, &Sample::new(None)).expect("a tombstone"), "null\n");
}

#[test]
fn a_payload_that_was_not_decoded_is_refused() {
    let plain = JsonFormat::new(Codec::None, None);
    row_of(Some(b"{}"), None, |row| plain.append_row(row, &mut Vec::new())).expect_err("decode = raw");
}

#[test]
fn kept_columns_stand_in_front() {
    let mut sample = Sample::new(Some(b"{\"a\":1,\n \"b\":{}}"));
    sample.record.key = Some(b"k\"1".to_vec());
    sample.record.headers =
        vec![("h".to_string(), Some(b"v".to_vec())), ("h".to_string(), Some(vec![0xff])), ("h".to_string(), None)];
    let expected = concat!(
        r#"{"k_key":"k\"1","k_headers":[{"name":"h","value":"v"},{"name":"h","value":"/w==","base64":true},"#,
        r#"{"name":"h","value":null}],"k_timestamp":1763712000000,"k_topic":"access","k_partition":3,"k_offset":17,"#,
        r#""a":1, "b":{}}"#,
        "\n"
    );
    assert_eq!(line(&kept(&ALL), &sample).expect("kept"), expected);
}

#[test]
fn each_kind_of_payload_and_key_is_told_apart() {
    let format = kept(&[KeptColumn::Key]);
    type Case = (Option<&'static [u8]>, Option<&'static [u8]>, &'static str);
    let cases: [Case; 8] = [
        (None, Some(b"{}"), r#"{"k_key":null}"#),
        (Some(b""), Some(b"{ }"), r#"{"k_key":"" }"#),
        (Some(b"\xff"), Some(b"{\"a\":1}"), r#"{"k_key":"/w==","k_key_base64":true,"a":1}"#),
        (Some(b"/w=="), Some(b"{\"a\":1}"), r#"{"k_key":"/w==","a":1}"#),
        (None, None, r#"{"k_key":null,"k_tombstone":true}"#),
        (None, Some(b"null"), r#"{"k_key":null,"k_value":null}"#),
        (None, Some(b"[1,\n2]"), r#"{"k_key":null,"k_value":[1,2]}"#),
        (None, Some(b" \"x\" "), r#"{"k_key":null,"k_value":"x"}"#),
    ];
    for (key, payload, expected) in cases {
        let mut sample = Sample::new(payload);
        sample.record.key = key.map(<[u8]>::to_vec);
        assert_eq!(line(&format, &sample).expect(expected), format!("{expected}\n"));
    }
}

#[test]
fn a_field_of_a_kept_name_is_refused() {
    for name in ["k_key", "k_key_base64", "k_value", "k_tombstone", r"k_k\u0065y"] {
        let payload = format!("{{\"a\":1,\"{name}\":2}}");
        let refused = line(&kept(&[KeptColumn::Key]), &Sample::new(Some(payload.as_bytes()))).expect_err(name);
        assert!(refused.0.contains("`k_"), "{refused}");
    }
    line(&kept(&[KeptColumn::Key]), &Sample::new(Some(b"{\"key\":1,\"k_offset\":2}"))).expect("other names are free");
    for broken in ["{", "{\"a\":1}}", "tru", "{\"a\":\u{1}}"] {
        line(&kept(&ALL), &Sample::new(Some(broken.as_bytes()))).expect_err(broken);
    }
}

#[test]
fn names_tell_the_codec() {
    let cases = [(Codec::None, "json"), (Codec::Gzip(6), "json.gz"), (Codec::Zstd(3), "json.zst")];
    for (codec, extension) in cases {
        assert_eq!(JsonFormat::new(codec, None).extension(), extension);
    }
}

proptest! {
    #[test]
    fn any_text_becomes_one_line_or_none(text in prop_oneof![".{0,40}", "[\\[\\]{}:,\"a1 \n\r\\\\]{0,12}"], with_keep: bool) {
        let format = if with_keep { kept(&ALL) } else { JsonFormat::new(Codec::None, None) };
        let mut rows = Vec::new();
        let outcome = Sample::new(Some(text.as_bytes())).json_row(|row| format.append_row(row, &mut rows));
        let lines = rows.iter().filter(|&&byte| byte == b'\n').count();
        prop_assert_eq!(lines, usize::from(outcome.is_ok()));
        prop_assert_eq!(rows.is_empty(), outcome.is_err());
    }

    /// Key, headers and fields come back from the row as they were.
    #[test]
    fn kept_columns_are_lossless(
        key: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
        field in "[a-z]{1,5}",
        value: i64,
    ) {
        let payload = format!("{{\"{field}\":{value}}}").into_bytes();
        let mut sample = Sample::new(Some(&payload));
        sample.record = OwnedRecord { key: key.clone(), headers: headers.clone(), ..sample.record };
        let row: Value = serde_json::from_str(&line(&kept(&ALL), &sample).expect("valid")).expect("one JSON value");
        let bytes = |text: &Value, is_base64: bool| -> Option<Vec<u8>> {
            use base64::Engine as _;
            let text = text.as_str()?;
            let decode = || base64::engine::general_purpose::STANDARD.decode(text).expect("flagged as base64");
            Some(if is_base64 { decode() } else { text.as_bytes().to_vec() })
        };
        prop_assert_eq!(bytes(&row["k_key"], row["k_key_base64"] == true), key);
        let found = row["k_headers"].as_array().expect("an array").iter().map(|header| {
            (header["name"].as_str().expect("a string").to_string(), bytes(&header["value"], header["base64"] == true))
        });
        prop_assert_eq!(found.collect::<Vec<_>>(), headers);
        prop_assert_eq!(row[&field].as_i64(), Some(value));
    }
}
