//! A schema of the registry, complete with what it refers to.

mod avro;
mod built_in;
mod json;
mod protobuf;
mod resolution;

pub use avro::whole_avro;
pub use protobuf::Message;
pub use resolution::Resolution;

use super::Target;
use crate::layout::{Column, RegistryFormat};
use prost_reflect::FileDescriptor;
use std::collections::BTreeMap;

/// A schema, and where it is registered.
#[derive(Debug)]
pub struct Schema {
    /// Its id.
    pub id: u32,
    /// Its version by subject.
    pub(super) versions: BTreeMap<String, u32>,
    /// What it says; or why it cannot be used, which does not pass.
    pub(super) shape: Result<Shape, String>,
}

/// A schema that others are made of.
pub(super) struct Part {
    /// What it is called by those.
    pub(super) name: String,
    /// As it is registered.
    pub(super) text: String,
}

/// What a schema says.
#[derive(Debug)]
pub enum Shape {
    /// An Avro schema as JSON, with everything it refers to in it and all names in full.
    Avro(serde_json::Value),
    /// A `.proto` file with all that it imports.
    Protobuf(FileDescriptor),
    /// What a JSON Schema says of the fields of a row.
    Json(Vec<Column>),
}

impl Shape {
    /// Reads the text of a schema. `parts`: what it refers to, what others need before them.
    ///
    /// # Errors
    /// It cannot be used, and why.
    pub(super) fn compile(format: RegistryFormat, text: &str, parts: &[Part]) -> Result<Self, String> {
        let compile = || match format {
            RegistryFormat::Avro => avro::whole(text, parts).map(Self::Avro),
            RegistryFormat::Protobuf => protobuf::file(text, parts).map(Self::Protobuf),
            RegistryFormat::JsonSchema => json::columns(text).map(Self::Json),
        };
        let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(compile));
        compiled.unwrap_or_else(|_| Err("reading it ended in a panic, which is a bug: please report it".to_string()))
    }
}

impl Schema {
    pub(super) fn new(id: u32, versions: BTreeMap<String, u32>, shape: Result<Shape, String>) -> Self {
        Self { id, versions, shape: shape.map_err(|problem| format!("schema {id} cannot be used: {problem}")) }
    }

    /// What it says.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn shape(&self) -> Result<&Shape, String> {
        self.shape.as_ref().map_err(String::clone)
    }

    /// Whether it was registered after `other`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let common = self.versions.iter().filter_map(|(subject, mine)| Some((*mine, *other.versions.get(subject)?)));
        let told = common.into_iter().find(|(mine, theirs)| mine != theirs);
        told.map_or(self.id > other.id, |(mine, theirs)| mine > theirs)
    }

    /// How data of `writer` is read as data of this schema, both of Avro.
    ///
    /// # Errors
    /// It cannot be, and what is in the way.
    pub fn resolution(&self, writer: &Self) -> Result<Resolution, String> {
        match (self.shape()?, writer.shape()?) {
            (Shape::Avro(reader), Shape::Avro(writer)) => avro::resolution(reader, writer),
            _ => Err("they are not both of Avro".to_string()),
        }
    }

    /// The columns of rows that are projected onto `target`, which is of this schema.
    ///
    /// # Errors
    /// There are none that could hold them.
    pub fn columns(&self, target: &Target) -> Result<Vec<Column>, String> {
        match self.shape()? {
            Shape::Avro(schema) => avro::columns(schema),
            Shape::Protobuf(file) => Message::of_target(file, target)?.columns(),
            Shape::Json(columns) => Ok(columns.clone()),
        }
    }

    /// Whether rows of `target`, which is of this schema, hold all that data written by `writer` says, or what is in the way.
    ///
    /// # Errors
    /// What is in the way.
    pub fn reads(&self, target: &Target, writer: &Self, written: &Target) -> Result<(), String> {
        match (self.shape()?, writer.shape()?) {
            (Shape::Avro(reader), Shape::Avro(writer)) => avro::resolution(reader, writer).map(drop),
            (Shape::Protobuf(reader), Shape::Protobuf(writer)) => {
                Message::of_target(reader, target)?.reads(&Message::of_target(writer, written)?)
            }
            (Shape::Json(reader), Shape::Json(writer)) => json::reads(reader, writer),
            _ => Err("they are of two formats".to_string()),
        }
    }
}
