//! `[destinations.NAME]`: a URL, and options that depend on its scheme.
//!
//! Nothing of these sections is ever shown but a URL that holds no secret: a value in the wrong place may be one.

use super::raw::{Field, Section};
use super::shape::{self, Shape};
use super::tree::Value;
use super::{DestinationConfig, Secret, resolve};
use crate::destination::StoreKind;
use crate::destination::url::{StoreUrl, UrlProblem};
use std::collections::BTreeMap;
use std::path::Path;
use url::Url;

const URL: &str = "file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or hdfs://host:port/folder, without user, query or fragment";
const ENDPOINT: &str = "http://host:port or https://host:port, without user, query or fragment";
const HADOOP: &str =
    "settings of a Hadoop client as in hdfs-site.xml, for example \"dfs.ha.namenodes.prod\" = \"nn1,nn2\"";
const NAME: &str = "1 to 64 letters, digits, `-` or `_`";

/// All destinations by name. A URL with problems is empty.
pub(super) fn resolve(root: &Section<'_>, base_dir: &Path) -> BTreeMap<String, DestinationConfig> {
    let mut destinations = BTreeMap::new();
    let Some(field) = root.field("destinations") else {
        if !root.has("destinations") {
            root.missing(
                "destinations",
                "no destination is given",
                "at least one section [destinations.NAME] with a url",
            );
        }
        return destinations;
    };
    let entries = field.clone().hide().entries("sections [destinations.NAME]").unwrap_or_default();
    for (name, field) in &entries {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            field.wrong::<()>("not a name of a destination", NAME);
        }
        let opened = destination(field, base_dir).unwrap_or_else(nothing);
        let twin = destinations
            .iter()
            .find(|(_, other): &(&String, &DestinationConfig)| !opened.url.is_empty() && other.url == opened.url);
        if let Some((other, _)) = twin {
            field.wrong::<()>(
                format!("the same url as [destinations.{other}]"),
                "one section for each url: claims and receipts tell destinations apart by it",
            );
        }
        destinations.insert((*name).to_string(), opened);
    }
    if entries.is_empty() && field.is_table() {
        root.missing("destinations", "no destination is given", "at least one section [destinations.NAME] with a url");
    }
    destinations
}

fn nothing() -> DestinationConfig {
    DestinationConfig { url: String::new(), options: BTreeMap::new() }
}

fn destination(field: &Field<'_>, base_dir: &Path) -> Option<DestinationConfig> {
    if !field.is_table() {
        return field.wrong(format!("{}, where a section is needed", field.node.kind()), "a section with a url");
    }
    let Some(url_field) = field.peek("url") else {
        let section = field.section(&shape::ANY_DESTINATION)?;
        if !section.has("url") {
            section.missing("url", "missing", URL);
        }
        return None;
    };
    let Some(url) = url(&url_field) else {
        field.section(&shape::ANY_DESTINATION)?;
        return None;
    };
    let section = field.section(keys_of(url.kind()))?;
    let mut options = BTreeMap::new();
    match url.kind() {
        StoreKind::File | StoreKind::Memory => {}
        StoreKind::S3 => s3(&section, url.bucket(), &mut options),
        StoreKind::Gcs => gs(&section, base_dir, &mut options),
        StoreKind::Azure => az(&section, &mut options),
        StoreKind::Hdfs => hdfs(&section, base_dir, &mut options),
    }
    Some(DestinationConfig { url: url.to_string(), options })
}

fn keys_of(kind: StoreKind) -> &'static Shape {
    match kind {
        StoreKind::File | StoreKind::Memory => &shape::FILE,
        StoreKind::S3 => &shape::S3,
        StoreKind::Gcs => &shape::GS,
        StoreKind::Azure => &shape::AZ,
        StoreKind::Hdfs => &shape::HDFS,
    }
}

/// What the URL says. Shown in errors unless it may hold a secret.
fn url(field: &Field<'_>) -> Option<StoreUrl> {
    let text = field.text(URL)?;
    match StoreUrl::parse(text) {
        Ok(url) => Some(url),
        Err(problem @ UrlProblem::MayHoldSecret) => {
            field.wrong(problem.to_string(), format!("{URL}; logins are keys of this section"))
        }
        Err(problem) => field.clone().show().wrong(problem.to_string(), URL),
    }
}

/// Takes the texts of `keys` over as they are.
fn texts(section: &Section<'_>, keys: &[&'static str], options: &mut BTreeMap<String, Secret>) {
    for key in keys {
        if let Some(text) = section.field(key).and_then(|field| field.text("a string")) {
            options.insert((*key).to_string(), Secret::new(text));
        }
    }
}

fn flag(section: &Section<'_>, key: &'static str, default: bool, options: &mut BTreeMap<String, Secret>) -> bool {
    let value = section.field(key).and_then(|field| field.flag()).unwrap_or(default);
    options.insert(key.to_string(), Secret::new(value.to_string()));
    value
}

/// The URL of an HTTP server, if `text` is one that holds nothing but it: no user, query or fragment.
pub(super) fn http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// Takes the endpoint over, where there is one.
fn endpoint(section: &Section<'_>, options: &mut BTreeMap<String, Secret>) -> Option<Url> {
    let field = section.field("endpoint")?;
    let text = field.text(ENDPOINT)?;
    let Some(url) = http_url(text) else {
        return field.wrong("not an endpoint; it is not shown, because it may hold a secret", ENDPOINT);
    };
    // In the URL standard's form: it tells apart servers whose buckets have one name.
    options.insert("endpoint".to_string(), Secret::new(url.as_str().trim_end_matches('/')));
    Some(url)
}

fn allow_http(section: &Section<'_>, endpoint: Option<&Url>, options: &mut BTreeMap<String, Secret>) {
    let plain_http = endpoint.is_some_and(|url| url.scheme() == "http");
    if !flag(section, "allow_http", plain_http, options) && plain_http {
        section.cross(
            "allow_http",
            "false, but the endpoint begins with http://".to_string(),
            "true, or an endpoint with https://".to_string(),
        );
    }
}

/// Refuses one key without the other.
fn needs(section: &Section<'_>, key: &'static str, other: &'static str) {
    if section.has(key) && !section.has(other) {
        section.missing(
            other,
            &format!("missing, but {key} is given"),
            "both, or neither: then the environment and the machine's identity count",
        );
    }
}

/// Refuses two keys that say the same in two ways.
fn either(section: &Section<'_>, key: &'static str, other: &'static str) {
    if section.has(key) && section.has(other) {
        section.cross(key, format!("given together with {other}"), format!("only one of {key} and {other}"));
    }
}

fn s3(section: &Section<'_>, bucket: &str, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["region", "access_key_id", "secret_access_key", "session_token"], options);
    let endpoint = endpoint(section, options);
    // Without both keys the environment may name an endpoint (AWS_ENDPOINT_URL): the client decides when it knows.
    let is_decided = section.has("path_style") || section.has("endpoint");
    if is_decided && !flag(section, "path_style", section.has("endpoint"), options) {
        check_virtual_host(section, bucket, endpoint.as_ref());
    }
    allow_http(section, endpoint.as_ref(), options);
    flag(section, "conditional_put", true, options);
    let checksum =
        section.field("checksum").and_then(|field| field.show().choice(&[("sha256", "sha256"), ("none", "none")]));
    options.insert("checksum".to_string(), Secret::new(checksum.unwrap_or("sha256")));
    needs(section, "access_key_id", "secret_access_key");
    needs(section, "secret_access_key", "access_key_id");
    needs(section, "session_token", "access_key_id");
}

/// The bucket is to be a part of the host's name: refuses what cannot be one.
fn check_virtual_host(section: &Section<'_>, bucket: &str, endpoint: Option<&Url>) {
    let allowed = || "path_style = true".to_string();
    if endpoint.is_some_and(|url| url.domain().is_none()) {
        section.cross("path_style", "false, but the endpoint has an address, no name of a host".to_string(), allowed());
    }
    if bucket.contains(|c: char| c.is_ascii_uppercase() || c == '_') {
        section.cross(
            "path_style",
            "false, but a bucket with upper case or `_` cannot be a part of the host's name".to_string(),
            allowed(),
        );
    }
}

fn gs(section: &Section<'_>, base_dir: &Path, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["service_account_key"], options);
    if let Some(field) = section.field("service_account_file")
        && let Some(file) = resolve::path(&field, base_dir, "the path of a JSON key file")
    {
        options.insert("service_account_file".to_string(), Secret::new(file.to_string_lossy()));
    }
    let endpoint = endpoint(section, options);
    allow_http(section, endpoint.as_ref(), options);
    either(section, "service_account_file", "service_account_key");
}

fn az(section: &Section<'_>, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["account", "access_key", "sas_token", "client_id", "tenant_id"], options);
    endpoint(section, options);
    flag(section, "use_emulator", false, options);
    either(section, "access_key", "sas_token");
    needs(section, "tenant_id", "client_id");
}

fn hdfs(section: &Section<'_>, base_dir: &Path, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["user", "principal", "ticket_cache"], options);
    let paths = [
        ("hadoop_conf", "the path of a folder with core-site.xml and hdfs-site.xml"),
        ("keytab", "the path of a keytab"),
    ];
    for (key, needed) in paths {
        if let Some(field) = section.field(key)
            && let Some(path) = resolve::path(&field, base_dir, needed)
        {
            options.insert(key.to_string(), Secret::new(path.to_string_lossy()));
        }
    }
    if let Some(field) = section.field("hadoop") {
        let mut settings = BTreeMap::new();
        hadoop(&field, "", &mut settings);
        let text = serde_json::to_string(&settings).unwrap_or_default();
        options.insert("hadoop".to_string(), Secret::new(text));
    }
    for key in ["keytab", "ticket_cache"] {
        if section.has(key) && !section.has("principal") {
            section.missing("principal", &format!("missing, but {key} is given"), "the principal to log in as");
        }
    }
}

/// `dfs.x = "1"` without quotes around the key is a table in a table to TOML; both ways of writing mean the same.
fn hadoop(field: &Field<'_>, prefix: &str, settings: &mut BTreeMap<String, String>) {
    for (key, field) in field.entries(HADOOP).unwrap_or_default() {
        let name = format!("{prefix}{key}");
        if field.is_table() {
            hadoop(&field, &format!("{name}."), settings);
            continue;
        }
        let value = match &field.node.value {
            Value::Text(text) | Value::Float(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            _ => {
                field.wrong::<()>(format!("{}, where a plain value is needed", field.node.kind()), HADOOP);
                continue;
            }
        };
        if settings.insert(name, value).is_some() {
            field.wrong::<()>("given twice, once with and once without quotes", HADOOP);
        }
    }
}

/// Whether `effective_toml` may show the setting's value.
pub(super) fn is_shown_of_hadoop(setting: &str) -> bool {
    !["password", "secret", "key"].iter().any(|word| setting.to_ascii_lowercase().contains(word))
}

/// Options that `effective_toml` may show.
pub(super) const SHOWN_OPTIONS: &[&str] = &[
    "endpoint",
    "region",
    "path_style",
    "allow_http",
    "checksum",
    "conditional_put",
    "service_account_file",
    "account",
    "client_id",
    "tenant_id",
    "use_emulator",
    "hadoop_conf",
    "hadoop",
    "user",
    "principal",
    "keytab",
    "ticket_cache",
];
