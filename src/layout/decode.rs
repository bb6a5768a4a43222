//! How payloads become rows: the part of the layout that [`crate::decode`] compiles.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How payloads become rows. Files that the configuration names (schemas, descriptors) are in here with their contents:
/// what they say later changes nothing for a batch that was planned before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decode {
    /// JSON (RFC 8259, UTF-8), one value a record unless `unfold`.
    Json {
        /// Every payload is parsed in full and a broken one is a dead letter; without, only as far as the fields needed.
        validate: bool,
        /// See [`Decode::Msgpack`]; a stream is values behind each other, with or without white space between them.
        #[serde(default, skip_serializing_if = "is_false")]
        unfold: bool,
        /// See [`Decode::Msgpack`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
    },
    /// Bytes, never looked into: only Kafka's timestamp, key and headers can be used.
    Raw,
    /// Labeled tab-separated values: `label:value` between tabs.
    Ltsv {
        /// What the values are.
        fields: TextFields,
    },
    /// Comma-separated values (RFC 4180), without a header: one line a record unless `unfold`.
    Csv {
        /// Names of the columns: as many as each line has.
        columns: Vec<String>,
        /// Between values; ASCII.
        delimiter: char,
        /// Around values that hold delimiters or newlines, doubled inside; ASCII. `None`: nothing is quoted.
        quote: Option<char>,
        /// Each line is a row.
        #[serde(default, skip_serializing_if = "is_false")]
        unfold: bool,
        /// What the values are.
        fields: TextFields,
    },
    /// A regular expression with named groups.
    Regex {
        /// The expression, in the syntax of the `regex` crate.
        pattern: String,
        /// What the groups are.
        fields: TextFields,
    },
    /// A grok pattern.
    Grok {
        /// The pattern: `%{NAME:field}`.
        pattern: String,
        /// Patterns of one's own by name, beside the well-known ones.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        patterns: BTreeMap<String, String>,
        /// What the fields are.
        fields: TextFields,
    },
    /// Syslog lines, RFC 5424 or RFC 3164.
    Syslog {
        /// IANA zone of times that tell none (RFC 3164).
        zone: String,
    },
    /// MessagePack, one value a record unless `unfold`.
    Msgpack {
        /// Each element of an array is a row, and each value of a stream. In a stream of arrays their elements are the rows.
        #[serde(default, skip_serializing_if = "is_false")]
        unfold: bool,
        /// A row that is an array of as many elements becomes an object with these names: `["tag", "time", "record"]`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
    },
    /// Avro's binary encoding, one datum a record.
    Avro {
        /// The schema, as JSON.
        schema: String,
    },
    /// Protocol Buffers, one message a record.
    Protobuf {
        /// Base64 of a `FileDescriptorSet` with everything that the message needs.
        descriptors: String,
        /// Full name of the message.
        message: String,
        /// Fields that the schema does not have are left out; otherwise the record is a dead letter.
        ignore_unknown: bool,
    },
    /// Confluent's wire format: the id of a schema in a registry, then data of that schema.
    Registry {
        /// What the data is.
        format: RegistryFormat,
        /// Of Protocol Buffers: see [`Decode::Protobuf`].
        #[serde(default, skip_serializing_if = "is_false")]
        ignore_unknown: bool,
    },
}

/// What the schemas of a registry describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryFormat {
    /// Avro's binary encoding.
    Avro,
    /// Protocol Buffers: the indexes of the message stand between the id and the data.
    Protobuf,
    /// JSON.
    JsonSchema,
}

impl Decode {
    /// What the data is, where it names schemas of a registry.
    pub fn registry_format(&self) -> Option<RegistryFormat> {
        match self {
            Self::Registry { format, .. } => Some(*format),
            _ => None,
        }
    }

    /// Whether a record may be several rows.
    pub fn unfolds(&self) -> bool {
        matches!(
            self,
            Self::Json { unfold: true, .. } | Self::Csv { unfold: true, .. } | Self::Msgpack { unfold: true, .. }
        )
    }
}

/// What the values of a text format are. Without any of it: strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFields {
    /// Values that are no strings, by name. One that is not of its type makes the record a dead letter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, TextType>,
    /// Values that stand for null, such as `-`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nulls: Vec<String>,
}

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextType {
    /// Decimal digits with or without a sign, of any length.
    Int,
    /// A number with or without fraction and exponent, as JSON has it; never infinite.
    Float,
    /// `true` or `false`.
    Bool,
    /// JSON.
    Json,
}

fn is_false(value: &bool) -> bool {
    !value
}
