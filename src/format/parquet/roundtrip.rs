//! Random schemas and random records through the whole way: `append_row`, `encode_block`, a file, the Parquet reader.
//!
//! Goal: what is accepted can be encoded (F-3), comes back with the values that were sent, and nothing of a payload is
//! lost: its fields are the columns and `_rest` together. Method: records are generated from a random schema together
//! with what a reader must find; broken ones are made by cutting and joining good ones. To debug a failure, run the one
//! seed that its message names.

use super::check::RowCheck;
use super::tests::{column, format, read_back};
use super::*;
use crate::format::testing::{Sample, file_of};
use crate::layout::{ColumnKind, TimeUnit};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit as Unit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// SplitMix64: the sequence depends on the seed alone.
pub(in crate::format) struct Rng(pub(in crate::format) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    pub(in crate::format) fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }
    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
    /// An integer of a random number of bits.
    fn integer(&mut self) -> i64 {
        let shift = self.below(64);
        self.next() as i64 >> shift
    }
    fn text(&mut self) -> String {
        let length = self.index(8);
        (0..length).map(|_| ['a', 'Z', '"', '\\', '\n', '\0', 'ä', '😀', '{', '}', ',', ' '][self.index(12)]).collect()
    }
}

fn random_column(rng: &mut Rng, name: String, depth: usize) -> Column {
    let kind = match rng.below(if depth < 3 { 13 } else { 10 }) {
        0 => ColumnKind::Bool,
        1 | 9 => ColumnKind::Int64,
        2 => ColumnKind::Float64,
        3 => ColumnKind::String,
        4 => ColumnKind::Bytes,
        5 => ColumnKind::Json,
        6 => ColumnKind::Date,
        7 => ColumnKind::Timestamp {
            unit: [None, Some(TimeUnit::S), Some(TimeUnit::Ms), Some(TimeUnit::Us), Some(TimeUnit::Ns)][rng.index(5)],
        },
        8 => {
            let precision = 1 + rng.below(38) as u8;
            ColumnKind::Decimal { precision, scale: rng.below(u64::from(precision) + 1) as i8 }
        }
        10 => ColumnKind::Struct(random_schema(rng, depth + 1)),
        11 => ColumnKind::List(Box::new(random_column(rng, "element".to_string(), depth + 1))),
        _ => ColumnKind::Map(Box::new(random_column(rng, "value".to_string(), depth + 1))),
    };
    Column { name, kind, nullable: !rng.one_in(4) }
}

pub(in crate::format) fn random_schema(rng: &mut Rng, depth: usize) -> Vec<Column> {
    let count = 1 + rng.index(5);
    let mut columns = Vec::new();
    for at in 0..count {
        let name = format!("c{at}{}", ["", ".", "\"", "ä"][rng.index(4)]);
        columns.push(random_column(rng, name, depth));
    }
    columns
}

fn random_json(rng: &mut Rng, depth: usize) -> Value {
    match rng.below(if depth < 3 { 7 } else { 5 }) {
        0 => Value::Null,
        1 => Value::Bool(rng.one_in(2)),
        2 => json!(rng.integer()),
        3 => json!(rng.integer() as f64 / 8.0),
        4 => Value::String(rng.text()),
        5 => (0..rng.index(3)).map(|_| random_json(rng, depth + 1)).collect(),
        _ => Value::Object((0..rng.index(3)).map(|at| (format!("x{at}"), random_json(rng, depth + 1))).collect()),
    }
}

/// A value as it is sent, as it must be found, and the fields inside that have no column.
pub(in crate::format) struct Sent {
    pub(in crate::format) text: String,
    found: Value,
    rest: Map<String, Value>,
}

impl Sent {
    fn scalar(text: impl ToString, found: Value) -> Self {
        Self { text: text.to_string(), found, rest: Map::new() }
    }
}

fn random_value(rng: &mut Rng, column: &Column) -> Sent {
    if column.nullable && rng.one_in(5) {
        return Sent::scalar("null", Value::Null);
    }
    match &column.kind {
        ColumnKind::Bool => {
            let value = rng.one_in(2);
            Sent::scalar(value, json!(value))
        }
        ColumnKind::Int64 => {
            let value = rng.integer();
            Sent::scalar(format!("{value}{}", ["", ".0", "e0", ".000E+0"][rng.index(4)]), json!(value))
        }
        ColumnKind::Float64 => {
            let value = f64::from_bits(rng.next());
            let value = if value.is_finite() { value } else { 0.5 };
            Sent::scalar(format!("{value:e}"), json!(value))
        }
        ColumnKind::String if rng.one_in(4) => {
            let text = ["true", "-1.50e+3", "0"][rng.index(3)];
            Sent::scalar(text, json!(text))
        }
        ColumnKind::String => {
            let text = rng.text();
            Sent::scalar(json!(text), json!(text))
        }
        ColumnKind::Bytes => {
            let bytes: Vec<u8> = (0..rng.index(9)).map(|_| rng.next() as u8).collect();
            let text = BASE64.encode(&bytes);
            Sent::scalar(json!(text), json!(text))
        }
        ColumnKind::Json => match random_json(rng, 0) {
            // In a column that may be null, JSON's null is null.
            Value::Null => Sent::scalar("[ null]", json!("[ null]")),
            value => Sent::scalar(&value, json!(value.to_string())),
        },
        ColumnKind::Date => {
            let days = rng.below(20_000) as i32;
            let date = chrono::NaiveDate::from_num_days_from_ce_opt(719_163 + days).expect("in range");
            Sent::scalar(json!(date.to_string()), json!(days))
        }
        ColumnKind::Timestamp { unit } => random_timestamp(rng, *unit),
        ColumnKind::Decimal { precision, scale } => {
            let shift = rng.below(127);
            let bits = (u128::from(rng.next()) << 64 | u128::from(rng.next())) as i128 >> shift;
            let units = bits % 10_i128.pow(u32::from(*precision));
            let text = format!("{units}e-{scale}");
            let text = if rng.one_in(2) { text } else { json!(text).to_string() };
            Sent::scalar(text, json!(units.to_string()))
        }
        ColumnKind::Struct(columns) => random_object(rng, columns),
        ColumnKind::List(element) => random_list(rng, element),
        ColumnKind::Map(value) => random_map(rng, value),
    }
}

fn random_timestamp(rng: &mut Rng, unit: Option<TimeUnit>) -> Sent {
    let micros = 1_000_000_000_000_000 + rng.below(1_000_000_000_000_000) as i64;
    let text = match (rng.below(3), unit) {
        (0, _) => json!(chrono::DateTime::from_timestamp_micros(micros).expect("in range").to_rfc3339()).to_string(),
        (_, Some(TimeUnit::S)) => format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000),
        (_, Some(TimeUnit::Ms)) => format!("{micros}e-3"),
        (_, Some(TimeUnit::Us) | None) => micros.to_string(),
        (_, Some(TimeUnit::Ns)) => format!("{micros}{:03}", rng.below(1000)), // Cut off downwards.
    };
    Sent::scalar(text, json!(micros))
}

pub(in crate::format) fn random_object(rng: &mut Rng, columns: &[Column]) -> Sent {
    let (mut members, mut found, mut rest) = (Vec::new(), Map::new(), Map::new());
    for column in columns {
        if column.nullable && rng.one_in(6) {
            continue;
        }
        let sent = random_value(rng, column);
        members.push(format!("{}: {}", json!(column.name), sent.text));
        if !sent.found.is_null() {
            found.insert(column.name.clone(), sent.found);
        }
        if !sent.rest.is_empty() {
            rest.insert(column.name.clone(), Value::Object(sent.rest));
        }
    }
    for at in 0..rng.below(3) {
        let (name, value) = (format!("unknown{at}"), random_json(rng, 0));
        members.insert(rng.index(members.len() + 1), format!("{}:{value}", json!(name)));
        rest.insert(name, value);
    }
    let turn = rng.index(members.len().max(1));
    members.rotate_left(turn);
    Sent { text: format!("{{{}}}", members.join(" ,")), found: Value::Object(found), rest }
}

fn random_list(rng: &mut Rng, element: &Column) -> Sent {
    let sent: Vec<Sent> = (0..rng.index(4)).map(|_| random_value(rng, element)).collect();
    let texts: Vec<&str> = sent.iter().map(|one| one.text.as_str()).collect();
    let text = format!("[{}]", texts.join(", "));
    let mut rest = Map::new();
    let mut found = Vec::new();
    for (at, one) in sent.into_iter().enumerate() {
        found.push(one.found);
        if !one.rest.is_empty() {
            rest.insert(at.to_string(), Value::Object(one.rest));
        }
    }
    Sent { text, found: Value::Array(found), rest }
}

fn random_map(rng: &mut Rng, value: &Column) -> Sent {
    let (mut members, mut found, mut rest) = (Vec::new(), Map::new(), Map::new());
    for at in 0..rng.index(4) {
        let key = format!("{at}{}", rng.text());
        let sent = random_value(rng, value);
        members.push(format!("{}:{}", json!(key), sent.text));
        found.insert(key.clone(), sent.found);
        if !sent.rest.is_empty() {
            rest.insert(key, Value::Object(sent.rest));
        }
    }
    Sent { text: format!("{{{}}}", members.join(",")), found: Value::Object(found), rest }
}

/// What a reader finds in row `at` of `array`: the columns' own values, structs without their nulls.
fn found_at(array: &dyn Array, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(at)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(at)),
        DataType::Utf8 => json!(array.as_string::<i32>().value(at)),
        DataType::Binary => json!(BASE64.encode(array.as_binary::<i32>().value(at))),
        DataType::Date32 => json!(array.as_primitive::<Date32Type>().value(at)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(at)),
        DataType::Timestamp(Unit::Millisecond, _) => json!(array.as_primitive::<TimestampMillisecondType>().value(at)),
        DataType::Timestamp(..) => json!(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value(at).to_string()),
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let members = columns.map(|(field, column)| (field.name().clone(), found_at(column, at)));
            Value::Object(members.filter(|(_, value)| !value.is_null()).collect())
        }
        DataType::List(_) => {
            let elements = array.as_list::<i32>().value(at);
            (0..elements.len()).map(|index| found_at(&elements, index)).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(at);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
            Value::Object((0..entries.len()).map(|i| (keys.value(i).to_string(), found_at(values, i))).collect())
        }
        other => panic!("no column has the type {other}"),
    }
}

/// Rows of a file as objects without nulls.
pub(super) fn found_rows(batches: &[RecordBatch]) -> Vec<Value> {
    let rows = batches.iter().flat_map(|batch| {
        let array = arrow_array::StructArray::from(batch.clone());
        (0..batch.num_rows()).map(move |at| found_at(&array, at))
    });
    rows.collect()
}

/// Pieces of good payloads joined at random places: mostly broken, sometimes JSON, sometimes a row.
fn garbled(rng: &mut Rng, columns: &[Column]) -> Vec<u8> {
    let foreign = random_schema(rng, 1);
    let from = if rng.one_in(4) { &foreign } else { columns };
    let mut payload = random_object(rng, from).text.into_bytes();
    let other = random_object(rng, columns).text.into_bytes();
    for _ in 0..rng.below(3) {
        let (from, to) = (rng.index(payload.len()), rng.index(other.len()));
        let end = (to + rng.index(12)).min(other.len());
        let replaced = (from + rng.index(12)).min(payload.len());
        payload.splice(from..replaced, other[to..end].iter().copied());
        if payload.is_empty() {
            payload.push(rng.next() as u8);
        }
    }
    payload
}

fn encode_and_read(format: &ParquetFormat, rows: Vec<u8>, count: u32) -> Vec<Value> {
    found_rows(&read_back(file_of(format, &[(rows, count)], &[])))
}

proptest! {
    #[test]
    fn what_is_accepted_comes_back_whole(seed: u64) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let format = format(&columns, None, UnknownFields::Rest);
        let (mut rows, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let sent = random_object(&mut rng, &columns);
            let outcome = Sample::new(Some(sent.text.as_bytes())).json_row(|row| format.append_row(row, &mut rows));
            prop_assert!(outcome.is_ok(), "seed {seed}: {outcome:?} for {} in {columns:?}", sent.text);
            expected.push((sent.found, Value::Object(sent.rest)));
        }
        let found = encode_and_read(&format, rows, 20);
        prop_assert_eq!(found.len(), expected.len());
        for (mut row, (columns, rest)) in found.into_iter().zip(expected) {
            let text = row.as_object_mut().and_then(|row| row.remove("_rest"));
            let found_rest = text.map_or("{}".to_string(), |text| text.as_str().expect("text").to_string());
            // Both through the same parser: serde_json may read a double's last bit differently from how it was made.
            let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
            prop_assert_eq!(row, columns, "seed {}", seed);
            prop_assert_eq!(parsed(&found_rest), parsed(&rest.to_string()), "seed {}", seed);
        }
    }

    #[test]
    fn what_is_broken_is_refused_or_can_be_encoded(seed: u64) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let unknown = [UnknownFields::Rest, UnknownFields::Drop, UnknownFields::DeadLetter][rng.index(3)];
        let format = format(&columns, None, unknown);
        let (mut rows, mut count) = (Vec::new(), 0);
        for _ in 0..50 {
            let payload = garbled(&mut rng, &columns);
            let before = rows.len();
            match Sample::new(Some(&payload)).json_row(|row| format.append_row(row, &mut rows)) {
                Ok(_) => count += 1,
                Err(refused) => {
                    prop_assert_eq!(rows.len(), before, "seed {}", seed);
                    prop_assert!(!refused.0.is_empty());
                }
            }
        }
        prop_assert_eq!(encode_and_read(&format, rows, count).len(), count as usize, "seed {}", seed);
    }

    /// A payload is walked by type, and by text where that fails: the result is the same, but for what only text takes.
    #[test]
    fn both_walks_write_the_same(seed: u64) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let unknown = [UnknownFields::Rest, UnknownFields::Drop, UnknownFields::DeadLetter][rng.index(3)];
        let check = RowCheck::new(&columns, None, unknown);
        for _ in 0..20 {
            let text = garbled(&mut rng, &columns);
            let Ok(text) = std::str::from_utf8(&text) else { continue };
            let (mut by_type, mut by_text) = (Vec::new(), Vec::new());
            let text_outcome = check.payload(text, true, &mut by_text);
            if let Ok(dropped) = check.payload(text, false, &mut by_type) {
                prop_assert_eq!(Ok(dropped), text_outcome, "seed {}: {}", seed, text);
                prop_assert_eq!(&by_type, &by_text, "seed {}: {}", seed, text);
            }
        }
    }

    /// Who does not validate a payload before must be able to rely on it.
    #[test]
    fn what_is_accepted_is_one_json_value(seed: u64) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let format = format(&columns, None, UnknownFields::Drop);
        for _ in 0..20 {
            let payload = garbled(&mut rng, &columns);
            if Sample::new(Some(&payload)).json_row(|row| format.append_row(row, &mut Vec::new())).is_ok() {
                let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&payload);
                prop_assert!(parsed.is_ok(), "seed {seed}: {}", String::from_utf8_lossy(&payload));
            }
        }
    }

    /// Rows that were damaged on their way, and bytes that never were rows, are an error or other rows, never a panic.
    #[test]
    fn damaged_rows_are_no_panic(seed: u64, noise: Vec<u8>) {
        let mut rng = Rng(seed);
        let columns = random_schema(&mut rng, 0);
        let format = format(&columns, None, UnknownFields::Rest);
        let mut rows = Vec::new();
        for _ in 0..5 {
            let text = random_object(&mut rng, &columns).text;
            let outcome = Sample::new(Some(text.as_bytes())).json_row(|row| format.append_row(row, &mut rows));
            prop_assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        }
        prop_assert!(format.encode_block(&rows, 5).is_ok(), "seed {}", seed);
        for _ in 0..8 {
            let end = rng.index(rows.len());
            prop_assert!(format.encode_block(&rows[..end], 5).is_err(), "seed {seed}: cut at {end}");
            let mut damaged = rows.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.index(damaged.len());
                damaged[at] = if rng.one_in(2) { rng.next() as u8 } else { damaged[at] ^ 1 << rng.below(8) };
            }
            // Only that it returns counts: the damage may have made other rows.
            drop(format.encode_block(&damaged, 5));
        }
        drop(format.encode_block(&noise, 1));
    }

    #[test]
    fn any_text_is_refused_or_can_be_encoded(payloads: Vec<String>) {
        let format = format(&[column("a", ColumnKind::Json)], None, UnknownFields::Rest);
        let (mut rows, mut count) = (Vec::new(), 0);
        for payload in &payloads {
            if Sample::new(Some(payload.as_bytes())).json_row(|row| format.append_row(row, &mut rows)).is_ok() {
                count += 1;
            }
        }
        prop_assert_eq!(encode_and_read(&format, rows, count).len(), count as usize);
    }

    /// A schema inferred from records takes each of them, and loses nothing of any.
    #[test]
    fn an_inferred_schema_takes_its_own_records(seed: u64) {
        let mut rng = Rng(seed);
        let schemas = [random_schema(&mut rng, 1), random_schema(&mut rng, 1)];
        let mut inference = infer::Inference::new(None);
        let mut payloads = Vec::new();
        for _ in 0..15 {
            let schema = &schemas[rng.index(2)];
            let text = random_object(&mut rng, schema).text;
            inference.add(text.as_bytes()).expect("an object");
            payloads.push(text);
        }
        let columns = inference.finish();
        let format = format(&columns, None, UnknownFields::Rest);
        let mut rows = Vec::new();
        for payload in &payloads {
            let outcome = Sample::new(Some(payload.as_bytes())).json_row(|row| format.append_row(row, &mut rows));
            prop_assert!(outcome.is_ok(), "seed {seed}: {outcome:?} for {payload} in {columns:?}");
        }
        let found = encode_and_read(&format, rows, 15);
        prop_assert_eq!(found.len(), payloads.len());
        let root = ColumnKind::Struct(columns);
        for (row, payload) in found.iter().zip(&payloads) {
            let rest = row.get("_rest").and_then(Value::as_str).unwrap_or("{}");
            let rest: Value = serde_json::from_str(rest).expect("JSON");
            let sent: Value = serde_json::from_str(payload).expect("JSON");
            prop_assert!(is_whole(&sent, &root, row, &rest), "seed {seed}: {payload} became {row}");
        }
    }
}

/// Whether `found`, a value of a column of that kind, and `rest` together hold all of `sent`.
fn is_whole(sent: &Value, kind: &ColumnKind, found: &Value, rest: &Value) -> bool {
    match (kind, sent) {
        (_, Value::Null) => found.is_null(),
        (ColumnKind::Json, _) => {
            found.as_str().is_some_and(|text| serde_json::from_str(text).is_ok_and(|v: Value| v == *sent))
        }
        (ColumnKind::Struct(columns), Value::Object(sent)) => {
            sent.iter().all(|(name, value)| match columns.iter().find(|column| column.name == *name) {
                Some(column) => is_whole(value, &column.kind, &found[name], &rest[name]),
                None => rest.get(name) == Some(value),
            })
        }
        (ColumnKind::List(element), Value::Array(sent)) => {
            let is_same =
                |(at, value): (usize, &Value)| is_whole(value, &element.kind, &found[at], &rest[at.to_string()]);
            found.as_array().is_some_and(|found| found.len() == sent.len()) && sent.iter().enumerate().all(is_same)
        }
        (ColumnKind::Float64, Value::Number(_)) => match (sent.as_f64(), found.as_f64()) {
            // serde_json may read a double's last bit differently from arrow.
            (Some(sent), Some(found)) => (sent - found).abs() <= sent.abs() * 1e-15,
            _ => false,
        },
        _ => found == sent,
    }
}
