//! From an answer of the registry to a schema that can be used: with everything that it refers to.

use super::client::{Client, Found, Reference, RegistryError};
use super::schema::{Part, Schema, Shape};
use crate::layout::RegistryFormat;
use std::collections::HashSet;

/// Most schemas that one is made of.
const PARTS_MAX: usize = 1_000;

/// Asks for what `found` refers to, and for its versions. `None`: the registry has not all of it.
pub(super) async fn schema(
    client: &Client,
    id: u32,
    found: Found,
    format: RegistryFormat,
) -> Result<Option<Schema>, RegistryError> {
    let versions = client.versions(id).await?;
    let versions = versions.into_iter().map(|registered| (registered.subject, registered.version)).collect();
    let wanted = match format {
        RegistryFormat::Avro => "AVRO",
        RegistryFormat::Protobuf => "PROTOBUF",
        RegistryFormat::JsonSchema => "JSON",
    };
    let kind = found.kind.as_deref().unwrap_or("AVRO");
    let shape = if kind == wanted {
        let Some(parts) = parts(client, id, found.references.unwrap_or_default()).await? else { return Ok(None) };
        Shape::compile(format, &found.schema, &parts)
    } else {
        Err(format!("it is of type {kind}, and the archive decodes {wanted}"))
    };
    Ok(Some(Schema::new(id, versions, shape)))
}

/// Everything that is referred to by `id`, what others need before them; `None` where some of it is gone.
async fn parts(client: &Client, id: u32, references: Vec<Reference>) -> Result<Option<Vec<Part>>, RegistryError> {
    let mut parts = Vec::new();
    let mut seen = HashSet::new();
    // A reference, and whether what it needs itself is there already.
    let mut open: Vec<(Reference, Option<String>)> = references.into_iter().rev().map(|one| (one, None)).collect();
    while let Some((reference, text)) = open.pop() {
        match text {
            Some(text) => parts.push(Part { name: reference.name, text }),
            None if seen.len() >= PARTS_MAX || !seen.insert(reference.name.clone()) => {}
            None => {
                let Some(found) = client.by_version(&reference).await? else {
                    let Reference { name, subject, version } = reference;
                    tracing::warn!(id, name, subject, version, "a schema refers to one that the registry has not");
                    return Ok(None);
                };
                open.push((reference, Some(found.schema)));
                open.extend(found.references.unwrap_or_default().into_iter().rev().map(|one| (one, None)));
            }
        }
    }
    Ok(Some(parts))
}
