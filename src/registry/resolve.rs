//! From an answer of the registry to a schema that can be used: with everything that it refers to.

use super::client::{Client, Found, Reference, RegistryError};
use super::schema::{Part, Schema, Shape};
use crate::layout::RegistryFormat;
use std::collections::HashSet;

/// Most schemas that one is made of.
const PARTS_MAX: usize = 1_000;

/// Asks for what `found` refers to, and for its versions.
pub(super) async fn schema(
    client: &Client,
    id: u32,
    found: Found,
    format: RegistryFormat,
) -> Result<Schema, RegistryError> {
    let versions = client.versions(id).await?;
    let versions = versions.into_iter().map(|registered| (registered.subject, registered.version)).collect();
    let wanted = match format {
        RegistryFormat::Avro => "AVRO",
        RegistryFormat::Protobuf => "PROTOBUF",
        RegistryFormat::JsonSchema => "JSON",
    };
    let kind = found.kind.as_deref().unwrap_or("AVRO");
    let shape = if kind == wanted {
        let parts = parts(client, found.references.unwrap_or_default()).await?;
        Shape::compile(format, &found.schema, &parts)
    } else {
        Err(format!("it is of type {kind}, and the archive decodes {wanted}"))
    };
    Ok(Schema::new(id, versions, shape))
}

/// Everything that is referred to, what others need before them.
async fn parts(client: &Client, references: Vec<Reference>) -> Result<Vec<Part>, RegistryError> {
    let mut parts = Vec::new();
    let mut seen = HashSet::new();
    // A reference, and whether what it needs itself is there already.
    let mut open: Vec<(Reference, Option<String>)> = references.into_iter().rev().map(|one| (one, None)).collect();
    while let Some((reference, text)) = open.pop() {
        match text {
            Some(text) => parts.push(Part { name: reference.name, text }),
            None if seen.len() >= PARTS_MAX || !seen.insert(reference.name.clone()) => {}
            None => {
                let found = client.by_version(&reference).await?;
                open.push((reference, Some(found.schema)));
                open.extend(found.references.unwrap_or_default().into_iter().rev().map(|one| (one, None)));
            }
        }
    }
    Ok(parts)
}
