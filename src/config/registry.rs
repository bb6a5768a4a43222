//! `[registry]`: where schemas are asked for.

use super::raw::{Field, Section};
use super::{RegistryConfig, RegistryLogin, Secret, destination, resolve, shape};
use crate::layout::{Decode, SchemaSource};
use std::collections::BTreeSet;
use std::path::Path;
use url::Url;

const URL: &str = "http://host:port/path or https://host/path of a schema registry, or a list of them; without user, query or fragment";

/// What the file says; `None` where there is no such section.
pub(super) fn resolve(root: &Section<'_>, base_dir: &Path) -> Option<RegistryConfig> {
    let field = root.field("registry")?.hide();
    let section = field.section(&shape::REGISTRY)?;
    let urls = match section.field("url") {
        Some(field) => field.one_or_many(URL)?.iter().filter_map(url).collect(),
        None => {
            if !section.has("url") {
                section.missing("url", "missing", URL);
            }
            Vec::new()
        }
    };
    if let Some(field) = section.field("url").filter(Field::is_empty_list) {
        field.wrong::<()>("empty", URL);
    }
    let secret = |key| section.field(key).and_then(|field| field.text("a string")).map(Secret::new);
    let user = section.field("username").and_then(|field| field.text("a string")).map(str::to_string);
    let (password, token) = (secret("password"), secret("token"));
    if token.is_some() && (section.has("username") || section.has("password")) {
        section.cross(
            "token",
            "given together with username or password".to_string(),
            "username and password, or token, or neither".to_string(),
        );
    }
    for (key, other) in [("username", "password"), ("password", "username")] {
        if section.has(key) && !section.has(other) {
            section.missing(other, &format!("missing, but {key} is given"), "both, or neither");
        }
    }
    let login = match (user, password, token) {
        (Some(user), Some(password), _) => Some(RegistryLogin::Basic(user, password)),
        (_, _, Some(token)) => Some(RegistryLogin::Bearer(token)),
        _ => None,
    };
    let ca_file = section.field("ca_file");
    let ca_file = ca_file.and_then(|field| resolve::path(&field.show(), base_dir, "the path of certificates in PEM"));
    let unknown_ids = section.field("unknown_ids").map(|field| ids(&field.show())).unwrap_or_default();
    Some(RegistryConfig { urls, login, ca_file, unknown_ids })
}

fn ids(field: &Field<'_>) -> BTreeSet<u32> {
    let items = field.list("a list of ids of schemas: [7, 12]").unwrap_or_default();
    // Ids are positive numbers of 32 bits with a sign.
    let ids = items.iter().filter_map(|item| item.count(1..=u64::from(i32::MAX.unsigned_abs())));
    ids.filter_map(|id| u32::try_from(id).ok()).collect()
}

fn url(field: &Field<'_>) -> Option<Url> {
    let text = field.text(URL)?;
    match destination::http_url(text) {
        Some(url) => Some(url),
        None => field.wrong("not the URL of a registry; it is not shown, because it may hold a secret", URL),
    }
}

/// Refuses `decode` where it needs a registry and there is no section of one.
pub(super) fn check_decode(archive: &Section<'_>, decode: &Decode, has_registry: bool) {
    if decode.registry_format().is_some() && !has_registry {
        archive.cross(
            "decode",
            "its schemas are in a registry, but there is no section [registry]".to_string(),
            "a section [registry] with a url, or a decode with a schema of its own".to_string(),
        );
    }
}

/// Refuses the schema of an output where it is to come from a registry that the archive does not read by.
pub(super) fn check_output(output: &Section<'_>, schema: Option<&SchemaSource>, decode: &Decode) {
    if matches!(schema, Some(SchemaSource::Registry)) && decode.registry_format().is_none() {
        output.cross(
            "format",
            "schema = \"registry\", but the payloads of this archive name no schema of a registry".to_string(),
            "another schema, or decode = { type = \"avro\", registry = true }, protobuf as well, or json_schema"
                .to_string(),
        );
    }
}
