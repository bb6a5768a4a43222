//! Avro's binary encoding (specification 1.12), one datum a record.
//!
//! | Avro | JSON |
//! |---|---|
//! | null, boolean, int, long, float, double | as they are; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | string, enum | string |
//! | bytes, fixed | base64 |
//! | array, record | array, object |
//! | map | object, in the order of its keys |
//! | union | the value, without the name of its branch |
//! | decimal | number with all its digits |
//! | date | `"2025-11-21"` |
//! | time-millis, time-micros | `"08:00:00.123"` |
//! | timestamp-millis, -micros, -nanos | RFC 3339, UTC: `"2025-11-21T08:00:00.123Z"` |
//! | local-timestamp-… | the same without the zone |
//! | uuid | `"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"` |
//! | duration | `{"months": 1, "days": 2, "milliseconds": 3}` |
//!
//! Other logical types are passed over.

use super::rows::Writer;
use super::{DecodeError, Decoder, Rows};
use crate::parse::json::DEPTH_MAX;
use crate::record::Record;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta};
use num_bigint::BigInt;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_avro_fast::Schema;
use serde_avro_fast::de::read::SliceRead;
use serde_avro_fast::de::{DeserializerConfig, DeserializerState};
use serde_avro_fast::schema::{LogicalType, Name, RegularType, SchemaKey, SchemaMut, SchemaNode};
use std::fmt;
use std::io::Read;

/// Avro by one schema.
pub(super) struct Avro {
    schema: Schema,
    /// In the order of the schema's own nodes; the first is the root.
    nodes: Vec<Node>,
}

/// What a node of the schema is written as.
enum Node {
    Plain,
    Bytes(Meaning),
    Number(Meaning),
    Text,
    Array(usize),
    Map(usize),
    Record(Vec<usize>),
    /// Branches by the name that the library calls them by.
    Union(Vec<(String, usize)>),
}

/// What numbers and bytes stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Itself,
    Date,
    TimeMillis,
    TimeMicros,
    /// Units of a second, as a power of ten; whether it has a zone.
    Timestamp(u32, bool),
    Decimal(u32),
    Uuid,
    Duration,
}

impl Avro {
    pub(super) fn new(schema: &str) -> Result<Self, String> {
        let mut schema: SchemaMut = schema.parse().map_err(|error| format!("not an Avro schema: {error}"))?;
        // The library tells branches of unions by their names, and one of those may be `String`. No name is in a row.
        for (place, node) in schema.nodes_mut().iter_mut().enumerate() {
            let name = Name::from_fully_qualified_name(place.to_string());
            match &mut node.type_ {
                RegularType::Record(record) => record.name = name,
                RegularType::Enum(symbols) => symbols.name = name,
                RegularType::Fixed(fixed) => fixed.name = name,
                _ => {}
            }
        }
        let nodes = schema.nodes().iter().map(|node| compile(&schema, node)).collect::<Result<_, _>>()?;
        // What they mean is told by `nodes`: the library must not read them in a way of its own.
        schema.nodes_mut().iter_mut().for_each(|node| node.logical_type = None);
        Ok(Self { schema: schema.freeze().map_err(|error| format!("not an Avro schema: {error}"))?, nodes })
    }

    /// Reads one datum, which `payload` begins with; gives what is behind it. There are no more values without a byte of their own
    /// than `bytes` allow for.
    fn read<'p>(&self, bytes: usize, payload: &'p [u8], out: &mut Writer<'_>) -> Result<&'p [u8], DecodeError> {
        let mut config = DeserializerConfig::new(&self.schema);
        config.allowed_depth = DEPTH_MAX;
        config.max_seq_size = bytes.saturating_add(1);
        let mut state = DeserializerState::with_config(SliceRead::new(payload), config);
        // Values without a byte of their own (nulls, empty records) must not multiply.
        let mut left = bytes.saturating_add(1).saturating_mul(self.nodes.len());
        let datum = Datum::at(&self.nodes, 0, out, &mut left);
        datum
            .deserialize(state.deserializer())
            .map_err(|error| DecodeError(format!("the payload is not of the schema: {error}")))?;
        let mut rest = Vec::new();
        state.into_reader().read_to_end(&mut rest).map_err(|error| DecodeError(error.to_string()))?;
        Ok(&payload[payload.len() - rest.len()..])
    }
}

impl Decoder for Avro {
    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        self.decode_of(payload.len(), payload, rows)
    }
}

impl Avro {
    /// As [`Decoder::decode`], of data that was made of a payload of `bytes` bytes.
    pub(super) fn decode_of(&self, bytes: usize, data: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        rows.add(|out| match self.read(bytes.max(data.len()), data, out)? {
            [] => Ok(()),
            rest => Err(DecodeError(format!("{} bytes are behind the value of the schema", rest.len()))),
        })
    }
}

fn compile(schema: &SchemaMut, node: &SchemaNode) -> Result<Node, String> {
    let meaning = meaning(node);
    Ok(match &node.type_ {
        RegularType::Null | RegularType::Boolean | RegularType::Float | RegularType::Double => Node::Plain,
        RegularType::Int | RegularType::Long => Node::Number(meaning),
        RegularType::Bytes | RegularType::Fixed(_) => Node::Bytes(meaning),
        RegularType::String | RegularType::Enum(_) => Node::Text,
        RegularType::Array(array) => Node::Array(array.items.idx()),
        RegularType::Map(map) => Node::Map(map.values.idx()),
        RegularType::Record(record) => Node::Record(record.fields.iter().map(|field| field.type_.idx()).collect()),
        RegularType::Union(union) => {
            let branch = |key: &SchemaKey| {
                let branch = schema.get(*key).ok_or("a union names a type that is not there")?;
                Ok::<_, String>((name_of(&branch.type_).to_string(), key.idx()))
            };
            Node::Union(union.variants.iter().map(branch).collect::<Result<_, _>>()?)
        }
    })
}

/// What the library calls a branch of a union.
fn name_of(kind: &RegularType) -> &str {
    if let Some(name) = kind.name() {
        return name.fully_qualified_name();
    }
    match kind {
        RegularType::Null => "Null",
        RegularType::Boolean => "Boolean",
        RegularType::Int => "Int",
        RegularType::Long => "Long",
        RegularType::Float => "Float",
        RegularType::Double => "Double",
        RegularType::Bytes => "Bytes",
        RegularType::String => "String",
        RegularType::Array(_) => "Array",
        RegularType::Map(_) => "Map",
        _ => "Union",
    }
}

/// What numbers and bytes of a type stand for. Logical types that are not known, or stand at another type than theirs, mean nothing.
pub(crate) fn meaning(node: &SchemaNode) -> Meaning {
    let Some(logical) = &node.logical_type else { return Meaning::Itself };
    match (logical, &node.type_) {
        (LogicalType::Decimal(decimal), _) => Meaning::Decimal(decimal.scale),
        (LogicalType::Duration, RegularType::Fixed(fixed)) if fixed.size == 12 => Meaning::Duration,
        (LogicalType::Uuid, RegularType::Fixed(fixed)) if fixed.size == 16 => Meaning::Uuid,
        (LogicalType::Date, RegularType::Int) => Meaning::Date,
        (LogicalType::TimeMillis, RegularType::Int) => Meaning::TimeMillis,
        (LogicalType::TimeMicros, RegularType::Long) => Meaning::TimeMicros,
        (_, RegularType::Long) => match logical.as_str() {
            "timestamp-millis" => Meaning::Timestamp(3, true),
            "timestamp-micros" => Meaning::Timestamp(6, true),
            "timestamp-nanos" => Meaning::Timestamp(9, true),
            "local-timestamp-millis" => Meaning::Timestamp(3, false),
            "local-timestamp-micros" => Meaning::Timestamp(6, false),
            "local-timestamp-nanos" => Meaning::Timestamp(9, false),
            _ => Meaning::Itself,
        },
        _ => Meaning::Itself,
    }
}

/// One value on its way.
struct Datum<'a, 'o> {
    nodes: &'a [Node],
    node: usize,
    out: &'a mut Writer<'o>,
    /// How many values there may still be.
    left: &'a mut usize,
    /// Another element stands before it.
    comma: bool,
}

impl Datum<'_, '_> {
    fn at<'b, 'o>(nodes: &'b [Node], node: usize, out: &'b mut Writer<'o>, left: &'b mut usize) -> Datum<'b, 'o> {
        Datum { nodes, node, out, left, comma: false }
    }
}

impl<'de> DeserializeSeed<'de> for Datum<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        if self.out.is_full() {
            return Err(D::Error::custom("its rows are too large"));
        }
        *self.left = self.left.checked_sub(1).ok_or_else(|| D::Error::custom("more values than its bytes can be"))?;
        if self.comma {
            self.out.raw(",");
        }
        match &self.nodes[self.node] {
            Node::Union(_) => value.deserialize_enum("", &[], self),
            Node::Text => value.deserialize_str(self),
            Node::Bytes(_) => value.deserialize_bytes(self),
            _ => value.deserialize_any(self),
        }
    }
}

/// The name of a union's branch.
struct Branch<'a>(&'a [(String, usize)]);

impl<'de> DeserializeSeed<'de> for Branch<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<usize, D::Error> {
        name.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Branch<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a branch of the union")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        let found = self.0.iter().find(|(known, _)| known == name).map(|(_, node)| *node);
        found.ok_or_else(|| E::custom("a branch that the union has not"))
    }
}

impl<'de> Visitor<'de> for Datum<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the schema")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.out.raw("null");
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.out.raw(if value { "true" } else { "false" });
        Ok(())
    }
    fn visit_i32<E: Error>(self, value: i32) -> Result<(), E> {
        self.visit_i64(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        let Node::Number(meaning) = &self.nodes[self.node] else { return Err(E::custom("a number out of place")) };
        match told(*meaning, value) {
            Ok(None) => self.out.raw(&value.to_string()),
            Ok(Some(text)) => self.out.string(&text),
            Err(what) => return Err(E::custom(format!("{value} is no {what}"))),
        }
        Ok(())
    }
    fn visit_f32<E>(self, value: f32) -> Result<(), E> {
        self.out.single(value);
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.out.float(value);
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.out.string(text);
        Ok(())
    }
    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        let Node::Bytes(meaning) = &self.nodes[self.node] else { return Err(E::custom("bytes out of place")) };
        write_bytes(*meaning, bytes, self.out).map_err(E::custom)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Node::Array(items) = &self.nodes[self.node] else { return Err(A::Error::custom("an array out of place")) };
        self.out.begin_array().map_err(A::Error::custom)?;
        let mut comma = false;
        loop {
            let element = Datum { comma, ..Datum::at(self.nodes, *items, self.out, self.left) };
            if elements.next_element_seed(element)?.is_none() {
                break;
            }
            comma = true;
        }
        self.out.end_array();
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut members = self.out.object().map_err(A::Error::custom)?;
        let mut index = 0;
        let mut of_map = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            let start = self.out.len();
            let node = match &self.nodes[self.node] {
                Node::Map(values) => *values,
                Node::Record(fields) => *fields.get(index).ok_or_else(|| A::Error::custom("a field too many"))?,
                _ => return Err(A::Error::custom("an object out of place")),
            };
            index += 1;
            self.out.name(&mut members, &name).map_err(A::Error::custom)?;
            entries.next_value_seed(Datum::at(self.nodes, node, self.out, self.left))?;
            if let Node::Map(_) = self.nodes[self.node] {
                of_map.push((name, start..self.out.len()));
            }
        }
        self.out.sort(of_map);
        self.out.end_object();
        Ok(())
    }
    fn visit_enum<A: EnumAccess<'de>>(self, branch: A) -> Result<(), A::Error> {
        let Node::Union(branches) = &self.nodes[self.node] else {
            return Err(A::Error::custom("a union out of place"));
        };
        let (node, value) = branch.variant_seed(Branch(branches))?;
        value.newtype_variant_seed(Datum::at(self.nodes, node, self.out, self.left))
    }
}

/// What a number stands for, in words; `None`: itself.
fn told(meaning: Meaning, value: i64) -> Result<Option<String>, &'static str> {
    Ok(Some(match meaning {
        Meaning::Date => {
            let days = TimeDelta::try_days(value).and_then(|days| NaiveDate::default().checked_add_signed(days));
            days.ok_or("date")?.to_string()
        }
        Meaning::TimeMillis => time(value, 1_000)?,
        Meaning::TimeMicros => time(value, 1_000_000)?,
        Meaning::Timestamp(power, with_zone) => {
            let unit = 10_i64.pow(power);
            let nanoseconds = value.rem_euclid(unit) * (1_000_000_000 / unit);
            let at =
                DateTime::from_timestamp(value.div_euclid(unit), u32::try_from(nanoseconds).map_err(|_| "timestamp")?);
            let text = at.ok_or("timestamp that a calendar has")?.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            if with_zone { text } else { text.trim_end_matches('Z').to_string() }
        }
        _ => return Ok(None),
    }))
}

fn time(value: i64, unit: i64) -> Result<String, &'static str> {
    let (seconds, fraction) = (value.div_euclid(unit), value.rem_euclid(unit) * (1_000_000_000 / unit));
    let of_day = |seconds, fraction| NaiveTime::from_num_seconds_from_midnight_opt(seconds, fraction);
    let time = u32::try_from(seconds).ok().zip(u32::try_from(fraction).ok());
    time.and_then(|(seconds, fraction)| of_day(seconds, fraction)).map(|time| time.to_string()).ok_or("time of day")
}

fn write_bytes(meaning: Meaning, bytes: &[u8], out: &mut Writer<'_>) -> Result<(), String> {
    match meaning {
        Meaning::Decimal(scale) => out.raw(&decimal(bytes, scale)?),
        Meaning::Uuid => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| digits.get(group).unwrap_or_default());
            out.string(&groups.join("-"));
        }
        Meaning::Duration => {
            let part = |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map(u32::from_le_bytes);
            let mut members = out.object().map_err(|error| error.to_string())?;
            for (name, at) in [("months", 0), ("days", 4), ("milliseconds", 8)] {
                out.name(&mut members, name).map_err(|error| error.to_string())?;
                out.raw(&part(at).ok_or("a duration of less than 12 bytes")?.to_string());
            }
            out.end_object();
        }
        _ => out.base64(bytes),
    }
    Ok(())
}

/// Most bytes of a decimal: more than 2,400 digits. The time to write one grows with its square.
const UNSCALED_BYTES_MAX: usize = 1_024;

/// The number `unscaled` × 10^-`scale` with all its digits. `unscaled` is two's complement, big endian.
fn decimal(unscaled: &[u8], scale: u32) -> Result<String, String> {
    /// Most digits behind the point: more would be none that anybody counted.
    const SCALE_MAX: u32 = 1_000;
    let scale = usize::try_from(scale.min(SCALE_MAX + 1)).unwrap_or(usize::MAX);
    if scale > SCALE_MAX as usize {
        return Err(format!("a decimal with more than {SCALE_MAX} digits behind the point"));
    }
    if unscaled.len() > UNSCALED_BYTES_MAX {
        return Err(format!("a decimal of {} bytes", unscaled.len()));
    }
    let number = BigInt::from_signed_bytes_be(unscaled);
    let (sign, digits) =
        (if number.sign() == num_bigint::Sign::Minus { "-" } else { "" }, number.magnitude().to_string());
    if scale == 0 {
        return Ok(format!("{sign}{digits}"));
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    Ok(format!("{sign}{whole}.{fraction}"))
}
