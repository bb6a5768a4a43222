//! A schema from records: the columns that hold every value seen without losing any of it.
//!
//! Every column is nullable. Columns stand in the order in which their fields were first seen; equal records in equal
//! order give equal schemas.
//!
//! | values seen (null aside) | column |
//! |---|---|
//! | booleans, strings | `Bool`, `String` (strings stay strings, also where they look like times) |
//! | integers of 64 bits | `Int64` |
//! | numbers that a double tells back digit by digit, not all of them integers | `Float64` |
//! | objects | `Struct`, down to [`DEPTH_MAX`] |
//! | arrays | `List` of what the elements are together |
//! | mixed ones, longer numbers, deeper nesting, only empty objects or arrays, nested objects with more than [`STRUCT_FIELDS_MAX`] names (names that are data) | `Json`: their text |
//! | only null | none |
//!
//! Fields that get no column are not lost: they are fields outside the schema, `_rest` by default. That is so for
//! fields only null so far, names that are empty, reserved, longer than [`NAME_BYTES_MAX`] or equal to an earlier one but for upper and lower case,
//! and what comes after [`COLUMNS_MAX`]. Memory is bounded by these limits, whatever the records.

use super::number::{Number, lossless_double};
use super::schema::reserved_names;
use crate::format::RowError;
use crate::format::object::{elements, for_each_field};
use crate::layout::{Column, ColumnKind, Keep, UnknownFields};
use std::collections::HashMap;

/// Deepest nesting of structs and lists, a top-level column counted as 1. What lies deeper is JSON text.
pub const DEPTH_MAX: usize = 5;

/// Most columns and nested fields in all.
pub const COLUMNS_MAX: usize = 1000;

/// Most names in a nested object. One with more uses names as data, and is JSON text.
pub const STRUCT_FIELDS_MAX: usize = 200;

/// Longest name of a column, bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Collects what records hold.
#[derive(Clone, Debug)]
pub struct Inference {
    root: Fields,
    /// In lower case.
    reserved: Vec<String>,
    /// Fields found so far, at any depth.
    count: usize,
}

/// Fields of an object, in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
struct Fields {
    list: Vec<(String, Shape)>,
    /// By the name in lower case; looked up, never iterated.
    by_name: HashMap<String, usize>,
}

/// What the values of one field have in common.
#[derive(Clone, Debug, Default)]
enum Shape {
    /// Only null so far.
    #[default]
    Unseen,
    Bool,
    String,
    /// Integers of 64 bits; whether a double can hold all of them too.
    Int {
        fits_double: bool,
    },
    Float,
    Object(Fields),
    List(Box<Shape>),
    /// Nothing but JSON text can hold them.
    Mixed,
}

impl Inference {
    /// Starts for an output that keeps `keep`'s columns: payload fields of their names get no columns.
    pub fn new(keep: Option<&Keep>) -> Self {
        let reserved = reserved_names(keep, UnknownFields::Rest);
        let in_lower_case = reserved.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { root: Fields::default(), reserved: in_lower_case, count: 0 }
    }

    /// Takes one payload into account.
    ///
    /// # Errors
    /// It is no JSON object, and says nothing about columns. It becomes a dead letter when its turn comes.
    pub fn add(&mut self, json: &[u8]) -> Result<(), RowError> {
        let text = std::str::from_utf8(json)
            .map_err(|broken| RowError(format!("the payload is not UTF-8 at byte {}", broken.valid_up_to())))?;
        // A first walk for errors, so that half a record leaves no trace.
        for_each_field(text, |_, _| Ok(()))?;
        for_each_field(text, |name, value| {
            let is_reserved = self.reserved.contains(&name.to_ascii_lowercase());
            if !is_reserved && let Some(shape) = self.root.field(&name, COLUMNS_MAX, &mut self.count) {
                shape.add(value, 1, &mut self.count);
            }
            Ok(())
        })
    }

    /// Whether any field with a value was seen.
    pub fn has_columns(&self) -> bool {
        self.root.list.iter().any(|(_, shape)| !matches!(shape, Shape::Unseen))
    }

    /// The columns, all nullable. Empty where no field with a value was seen.
    pub fn finish(self) -> Vec<Column> {
        self.root.columns()
    }
}

impl Fields {
    /// The field `name`, new if need be. `None` where it cannot have a column: its name is empty, too long or another field has
    /// it in other letters, or there are `max` fields here or [`COLUMNS_MAX`] in all.
    fn field(&mut self, name: &str, max: usize, count: &mut usize) -> Option<&mut Shape> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let in_lower_case = name.to_ascii_lowercase();
        if let Some(&index) = self.by_name.get(&in_lower_case) {
            let (found, shape) = &mut self.list[index];
            return (found == name).then_some(shape);
        }
        if self.list.len() >= max || *count >= COLUMNS_MAX {
            return None;
        }
        *count += 1;
        self.by_name.insert(in_lower_case, self.list.len());
        self.list.push((name.to_string(), Shape::Unseen));
        self.list.last_mut().map(|(_, shape)| shape)
    }

    fn columns(self) -> Vec<Column> {
        let columns = self.list.into_iter();
        columns.filter_map(|(name, shape)| Some(Column { name, kind: shape.kind()?, nullable: true })).collect()
    }
}

impl Shape {
    /// Widens the shape to hold `text`, a value at nesting `depth`.
    fn add(&mut self, text: &str, depth: usize, count: &mut usize) {
        if text == "null" || matches!(self, Self::Mixed) {
            return;
        }
        let before = std::mem::take(self);
        *self = match text.as_bytes().first() {
            Some(b'{') => before.with_object(text, depth, count),
            Some(b'[') => before.with_array(text, depth, count),
            _ => before.with_scalar(scalar_shape(text)),
        };
    }

    fn with_scalar(self, scalar: Self) -> Self {
        match (self, scalar) {
            (Self::Unseen, scalar) => scalar,
            (Self::Bool, Self::Bool) => Self::Bool,
            (Self::String, Self::String) => Self::String,
            (Self::Float, Self::Float) => Self::Float,
            (Self::Int { fits_double: a }, Self::Int { fits_double: b }) => Self::Int { fits_double: a && b },
            (Self::Int { fits_double: true }, Self::Float) | (Self::Float, Self::Int { fits_double: true }) => {
                Self::Float
            }
            _ => Self::Mixed,
        }
    }

    fn with_object(self, text: &str, depth: usize, count: &mut usize) -> Self {
        let mut fields = match self {
            Self::Object(fields) => fields,
            Self::Unseen => Fields::default(),
            _ => return Self::Mixed,
        };
        let mut fits = true;
        let walked = for_each_field(text, |name, value| {
            match fields.field(&name, STRUCT_FIELDS_MAX, count) {
                Some(shape) if depth < DEPTH_MAX => shape.add(value, depth + 1, count),
                Some(_) => fits = false,
                None => fits &= fields.list.len() < STRUCT_FIELDS_MAX,
            }
            Ok(())
        });
        // A nested name that holds half a surrogate pair is none of a column.
        if fits && walked.is_ok() { Self::Object(fields) } else { Self::Mixed }
    }

    fn with_array(self, text: &str, depth: usize, count: &mut usize) -> Self {
        let mut element = match self {
            Self::List(element) => element,
            Self::Unseen => Box::default(),
            _ => return Self::Mixed,
        };
        match elements(text) {
            Ok(values) if depth < DEPTH_MAX => {
                for value in values {
                    element.add(value.get(), depth + 1, count);
                }
                Self::List(element)
            }
            _ => Self::Mixed,
        }
    }

    /// The column's type; `None` where only null was seen.
    fn kind(self) -> Option<ColumnKind> {
        Some(match self {
            Self::Unseen => return None,
            Self::Bool => ColumnKind::Bool,
            Self::String => ColumnKind::String,
            Self::Int { .. } => ColumnKind::Int64,
            Self::Float => ColumnKind::Float64,
            Self::Mixed => ColumnKind::Json,
            Self::Object(fields) => match fields.columns() {
                columns if columns.is_empty() => ColumnKind::Json,
                columns => ColumnKind::Struct(columns),
            },
            Self::List(element) => match element.kind() {
                None => ColumnKind::Json,
                Some(kind) => {
                    let element = Column { name: "element".to_string(), kind, nullable: true };
                    ColumnKind::List(Box::new(element))
                }
            },
        })
    }
}

/// Shape of one value that is no container and not null.
fn scalar_shape(text: &str) -> Shape {
    match text {
        "true" | "false" => return Shape::Bool,
        _ if text.starts_with('"') => return Shape::String,
        _ => {}
    }
    let Some(number) = Number::parse(text) else {
        return Shape::Mixed;
    };
    let fits_double = lossless_double(text, &number).is_some();
    match text.parse::<i64>() {
        Ok(_) if number.is_integer_literal => Shape::Int { fits_double },
        _ if fits_double && !number.is_integer_literal => Shape::Float,
        _ => Shape::Mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::parquet::schema::{check_columns, schema_hash, schema_json};
    use crate::layout::KeptColumn;
    use proptest::prelude::*;

    fn inferred(records: &[&str]) -> Vec<Column> {
        let keep = Keep { columns: vec![KeptColumn::Key], prefix: "_".to_string() };
        let mut inference = Inference::new(Some(&keep));
        for record in records {
            inference.add(record.as_bytes()).expect(record);
        }
        let columns = inference.finish();
        check_columns(&columns, Some(&keep), UnknownFields::Rest).expect("what is inferred can be a file");
        columns
    }

    /// `name kind` of each column, as compact text.
    fn told(columns: &[Column]) -> String {
        let kind = |kind: &ColumnKind| match kind {
            ColumnKind::Struct(fields) => format!("{{{}}}", told(fields)),
            ColumnKind::List(element) => format!("[{}]", told(std::slice::from_ref(element))),
            other => format!("{other:?}").to_lowercase(),
        };
        assert!(columns.iter().all(|column| column.nullable));
        columns.iter().map(|column| format!("{} {}", column.name, kind(&column.kind))).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_narrowest_type_that_loses_nothing() {
        let cases: [(&[&str], &str); 22] = [
            (&[r#"{"a":1}"#, r#"{"b":"x","a":-2}"#], "a int64, b string"),
            (&[r#"{"a":1}"#, r#"{"a":1.5}"#], "a float64"),
            (&[r#"{"a":1.5}"#, r#"{"a":9007199254740993}"#], "a json"),
            (&[r#"{"a":9007199254740993}"#], "a int64"),
            (&[r#"{"a":18446744073709551615}"#], "a json"),
            (&[r#"{"a":0.1000000000000000055}"#], "a json"),
            (&[r#"{"a":1e999}"#], "a json"),
            (&[r#"{"a":1}"#, r#"{"a":"1"}"#], "a json"),
            (&[r#"{"a":true}"#, r#"{"a":null}"#], "a bool"),
            (&[r#"{"a":"2025-11-21T08:00:00Z"}"#], "a string"),
            (&[r#"{"a":null,"b":1}"#], "b int64"),
            (&[r#"{"a":{},"b":[],"c":[null]}"#], "a json, b json, c json"),
            (&[r#"{"a":{}}"#, r#"{"a":{"x":1}}"#, r#"{"a":{"y":[]}}"#], "a {x int64, y json}"),
            (&[r#"{"a":[1,null]}"#, r#"{"a":[2.5]}"#], "a [element float64]"),
            (&[r#"{"a":[1,"x"]}"#], "a [element json]"),
            (&[r#"{"a":[{"x":1},{"y":true}]}"#], "a [element {x int64, y bool}]"),
            (&[r#"{"a":[1]}"#, r#"{"a":{"x":1}}"#], "a json"),
            (&[r#"{"a":{"b":{"c":{"d":{"e":1}}}}}"#], "a {b {c {d {e int64}}}}"),
            (&[r#"{"a":{"b":{"c":{"d":{"e":{"f":1}}}}}}"#], "a {b {c {d {e json}}}}"),
            (&[r#"{"_key":1,"_KEY":1,"_rest":1,"":1,"Z":1,"z":2}"#], "Z int64"),
            (&[r#"{"b":1,"a":{"\ud800":1}}"#, r#"{"a":1,"b":2}"#], "b int64, a json"),
            (&["{}"], ""),
        ];
        for (records, expected) in cases {
            assert_eq!(told(&inferred(records)), expected, "{records:?}");
        }
    }

    #[test]
    fn names_that_are_data_and_endless_schemas_stay_bounded() {
        let object = |count: usize, name: &str| {
            let fields: Vec<String> = (0..count).map(|at| format!("\"{name}{at}\":1")).collect();
            format!("{{{}}}", fields.join(","))
        };
        let by_user = format!("{{\"users\":{}}}", object(STRUCT_FIELDS_MAX + 1, "u"));
        assert_eq!(told(&inferred(&[&by_user])), "users json");
        let full = format!("{{\"users\":{}}}", object(STRUCT_FIELDS_MAX, "u"));
        assert!(told(&inferred(&[&full])).starts_with("users {u0 int64"));
        assert_eq!(inferred(&[&object(COLUMNS_MAX + 5, "c"), r#"{"late":1}"#]).len(), COLUMNS_MAX);
        let (long, longest) = ("n".repeat(NAME_BYTES_MAX + 1), "n".repeat(NAME_BYTES_MAX));
        let named = format!(r#"{{"{long}":1,"{longest}":1,"in":{{"{long}":1,"a":1}}}}"#);
        assert_eq!(told(&inferred(&[&named])), format!("{longest} int64, in {{a int64}}"));
    }

    #[test]
    fn what_is_no_object_says_nothing() {
        let mut inference = Inference::new(None);
        for broken in ["", "1", "[1]", "null", "{\"a\":1", "{\"a\":1}{", "{\"a\":1,\"b\":tru}"] {
            inference.add(broken.as_bytes()).expect_err(broken);
        }
        assert!(inference.finish().is_empty());
    }

    #[test]
    fn the_canonical_form_does_not_change() {
        let columns = inferred(&[r#"{"time":1,"req":{"path":"/","tags":["a"]},"ok":true,"t":1.5,"x":[]}"#]);
        let json = concat!(
            r#"[{"name":"time","kind":"int64","nullable":true},"#,
            r#"{"name":"req","kind":{"struct":[{"name":"path","kind":"string","nullable":true},"#,
            r#"{"name":"tags","kind":{"list":{"name":"element","kind":"string","nullable":true}},"nullable":true}]},"#,
            r#""nullable":true},{"name":"ok","kind":"bool","nullable":true},"#,
            r#"{"name":"t","kind":"float64","nullable":true},{"name":"x","kind":"json","nullable":true}]"#,
        );
        assert_eq!(schema_json(&columns), json);
        assert_eq!(schema_hash(&columns), "965ba3b6eb35b1d7");
        assert_eq!(serde_json::from_str::<Vec<Column>>(json).expect("its own form"), columns);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let mut inference = Inference::new(None);
            if inference.add(&bytes).is_err() {
                prop_assert!(inference.finish().is_empty());
            }
        }
    }
}
