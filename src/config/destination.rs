//! `[destinations.NAME]`: a URL, and options that depend on its scheme.
//!
//! Nothing of these sections is ever shown but a URL that holds no secret: a value in the wrong place may be one.

use super::raw::{Field, Section};
use super::shape::{self, Shape};
use super::{DestinationConfig, Secret, resolve};
use std::collections::BTreeMap;
use std::path::Path;

/// What a URL begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    File,
    S3,
    Gs,
    Az,
}

const URL: &str =
    "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, without user, query or fragment";
const ENDPOINT: &str = "http://host:port or https://host:port, without user, query or fragment";
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
        let section = field.section(&ANY)?;
        if !section.has("url") {
            section.missing("url", "missing", URL);
        }
        return None;
    };
    let Some((scheme, url)) = url(&url_field) else {
        field.section(&ANY)?;
        return None;
    };
    let section = field.section(keys_of(scheme))?;
    let mut options = BTreeMap::new();
    match scheme {
        Scheme::File => {}
        Scheme::S3 => s3(&section, &mut options),
        Scheme::Gs => gs(&section, base_dir, &mut options),
        Scheme::Az => az(&section, &mut options),
    }
    Some(DestinationConfig { url, options })
}

/// Of sections whose scheme is not known.
const ANY: Shape = Shape {
    at: "destinations.*",
    of: "",
    keys: &[
        "url",
        "endpoint",
        "region",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "path_style",
        "allow_http",
        "checksum",
        "conditional_put",
        "service_account_file",
        "service_account_key",
        "account",
        "access_key",
        "sas_token",
        "client_id",
        "tenant_id",
        "use_emulator",
    ],
};

fn keys_of(scheme: Scheme) -> &'static Shape {
    match scheme {
        Scheme::File => &shape::FILE,
        Scheme::S3 => &shape::S3,
        Scheme::Gs => &shape::GS,
        Scheme::Az => &shape::AZ,
    }
}

/// Scheme and normal form of the URL: without trailing slashes.
fn url(field: &Field<'_>) -> Option<(Scheme, String)> {
    let text = field.text(URL)?;
    if text.contains(['@', '?', '#']) {
        return field.wrong(
            "a URL with a user, a query or a fragment; it is not shown, because such URLs hold secrets",
            format!("{URL}; logins are keys of this section"),
        );
    }
    let shown = field.clone().show();
    let Some((scheme, rest)) = text.split_once("://") else {
        return shown.wrong("not a URL", URL);
    };
    let scheme = match scheme {
        "file" => Scheme::File,
        "s3" => Scheme::S3,
        "gs" => Scheme::Gs,
        "az" => Scheme::Az,
        _ => return shown.wrong("the scheme is not known", URL),
    };
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"%\\\"'<>{}`|^*".contains(c);
    if !rest.chars().all(plain) {
        return shown.wrong("a character that cannot stand in such a URL", URL);
    }
    let trimmed = rest.trim_end_matches('/');
    let (host, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    if scheme == Scheme::File {
        if !host.is_empty() || path.is_empty() {
            return shown.wrong("not an absolute folder: three slashes and a path", URL);
        }
    } else if host.is_empty() || host.contains(':') || url::Url::parse(text).is_err() {
        return shown.wrong("the bucket or container is missing or no name of one", URL);
    }
    if !path.is_empty() && path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return shown.wrong("the path has an empty part, `.` or `..`", URL);
    }
    Some((scheme, format!("{}://{trimmed}", text.split_once("://").map_or("", |(scheme, _)| scheme))))
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

/// Takes the endpoint over; whether it is plain HTTP, where there is one.
fn endpoint(section: &Section<'_>, options: &mut BTreeMap<String, Secret>) -> Option<bool> {
    let field = section.field("endpoint")?;
    let text = field.text(ENDPOINT)?;
    let good = url::Url::parse(text).ok().filter(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let Some(url) = good else {
        return field.wrong("not an endpoint; it is not shown, because it may hold a secret", ENDPOINT);
    };
    options.insert("endpoint".to_string(), Secret::new(text.trim_end_matches('/')));
    Some(url.scheme() == "http")
}

fn allow_http(section: &Section<'_>, plain_http: Option<bool>, options: &mut BTreeMap<String, Secret>) {
    let plain_http = plain_http == Some(true);
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

fn s3(section: &Section<'_>, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["region", "access_key_id", "secret_access_key", "session_token"], options);
    let plain_http = endpoint(section, options);
    flag(section, "path_style", section.has("endpoint"), options);
    allow_http(section, plain_http, options);
    flag(section, "conditional_put", true, options);
    let checksum = section
        .field("checksum")
        .and_then(|field| field.show().choice(&[("sha256", "sha256"), ("crc64nvme", "crc64nvme"), ("none", "none")]));
    options.insert("checksum".to_string(), Secret::new(checksum.unwrap_or("sha256")));
    needs(section, "access_key_id", "secret_access_key");
    needs(section, "secret_access_key", "access_key_id");
    needs(section, "session_token", "access_key_id");
}

fn gs(section: &Section<'_>, base_dir: &Path, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["service_account_key"], options);
    if let Some(field) = section.field("service_account_file")
        && let Some(file) = resolve::path(&field, base_dir, "the path of a JSON key file")
    {
        options.insert("service_account_file".to_string(), Secret::new(file.to_string_lossy()));
    }
    let plain_http = endpoint(section, options);
    allow_http(section, plain_http, options);
    either(section, "service_account_file", "service_account_key");
}

fn az(section: &Section<'_>, options: &mut BTreeMap<String, Secret>) {
    texts(section, &["account", "access_key", "sas_token", "client_id", "tenant_id"], options);
    endpoint(section, options);
    flag(section, "use_emulator", false, options);
    either(section, "access_key", "sas_token");
    needs(section, "tenant_id", "client_id");
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
];
