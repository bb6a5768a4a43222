//! The URL of a destination, in one normal form.
//!
//! # Guarantees
//! - Two spellings of one place have one normal form (case of the scheme, slashes at the end, percent-encoding), and
//!   different places have different ones. It stands in layouts, claims and receipts, and tells destinations apart.
//! - The normal form is ASCII and is read back as itself.
//! - No error holds the text: where a login, a query or a fragment stands in it, it may hold a secret.
//!
//! Never looks at the file system: what a symbolic link points to is another place.

use super::StoreKind;
use crate::layout::window::{KEY_BYTES_MAX, SEGMENT_BYTES_MAX};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;

/// What is written as `%XX` in the normal form: all but letters, digits and these.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'(')
    .remove(b')')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'[')
    .remove(b']');

/// Longest prefix inside a bucket: with a slash and the longest key behind it a store's 1,024 bytes are full.
pub const PREFIX_BYTES_MAX: usize = 1024 - 1 - KEY_BYTES_MAX;
/// Longest folder: with the longest key behind it less than the 4,096 bytes of a path on Linux.
const FOLDER_BYTES_MAX: usize = 3000;

/// A place in a store: what a destination's URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    kind: StoreKind,
    bucket: String,
    prefix: String,
}

/// Why a text is no URL of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// The text may hold a secret and is not to be shown.
    #[error("a URL with a user, a query or a fragment; it is not shown, because such URLs hold secrets")]
    MayHoldSecret,
    /// No scheme.
    #[error("not a URL")]
    NotUrl,
    /// Another scheme.
    #[error("the scheme is not known")]
    Scheme,
    /// A character that would be read in another way, or cannot be in a path.
    #[error("the character {0:?} cannot stand there; percent-encode what belongs to a name")]
    Character(char),
    /// White space at an end.
    #[error("white space at one of its ends")]
    Trimmed,
    /// A `%` that is none.
    #[error("a % without two hexadecimal digits behind it; %25 stands for the character")]
    Escape,
    /// Percent-encoded bytes that are no text.
    #[error("what is percent-encoded in it is not UTF-8")]
    NotUtf8,
    /// Percent-encoded, and still impossible.
    #[error("a percent-encoded slash, backslash or control character")]
    Encoded,
    /// `file://host/…`.
    #[error("not an absolute folder: three slashes and a path")]
    NotAbsolute,
    /// `file:///`, `hdfs://host:port/`.
    #[error("the root of the file system")]
    Root,
    /// `s3://`, or a host with a port.
    #[error("the bucket or container is missing or no name of one")]
    Bucket,
    /// `hdfs:///folder`, or something that is no host with a port.
    #[error("the host is missing, or no name of a namenode with its port (host:8020) or of a nameservice (no port)")]
    Namenode,
    /// HDFS refuses them.
    #[error("HDFS takes no colon in names")]
    Colon,
    /// Upper case where the store has none.
    #[error("names of buckets and containers are in lower case there")]
    UpperCase,
    /// Not a plain path.
    #[error("the path has an empty part, `.` or `..`")]
    Segment,
    /// Keys would not fit behind it.
    #[error("its path has {bytes} bytes; at most {bytes_max} leave room for every key")]
    Long {
        /// Of the path.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
    /// A name that is too long for a file system.
    #[error("a folder in it has a name of more than {SEGMENT_BYTES_MAX} bytes")]
    LongSegment,
}

impl StoreUrl {
    /// Reads `text`. Blanks and letters outside ASCII may stand as they are or percent-encoded.
    ///
    /// # Errors
    /// [`UrlProblem`]: the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlProblem> {
        if text.contains(['@', '?', '#']) {
            return Err(UrlProblem::MayHoldSecret);
        }
        if text.trim() != text {
            return Err(UrlProblem::Trimmed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlProblem::NotUrl)?;
        let kind = StoreKind::of_scheme(&scheme.to_ascii_lowercase()).ok_or(UrlProblem::Scheme)?;
        if let Some(odd) = rest.chars().find(|&c| c.is_control() || "\\\"'<>{}`|^*".contains(c)) {
            return Err(UrlProblem::Character(odd));
        }
        let trimmed = rest.trim_end_matches('/');
        let (bucket, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        match kind {
            StoreKind::File if !bucket.is_empty() || rest.is_empty() => return Err(UrlProblem::NotAbsolute),
            StoreKind::File if path.is_empty() => return Err(UrlProblem::Root),
            StoreKind::Hdfs if path.is_empty() => {
                namenode(bucket)?;
                return Err(UrlProblem::Root);
            }
            StoreKind::File | StoreKind::Hdfs => {}
            _ => check_bucket(kind, bucket)?,
        }
        let bucket = if kind == StoreKind::Hdfs { namenode(bucket)? } else { bucket.to_string() };
        let prefix = decoded(path)?;
        check_prefix(kind, &prefix)?;
        Ok(Self { kind, bucket, prefix })
    }

    /// Which store.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// Bucket or container; the namenode (`host:port`) or nameservice; empty for folders.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What lies behind it, as it is in the store: not percent-encoded, no slash at either end, perhaps empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for StoreUrl {
    /// The normal form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.bucket)?;
        for segment in self.prefix.split('/').filter(|segment| !segment.is_empty()) {
            write!(f, "/{}", utf8_percent_encode(segment, ENCODED))?;
        }
        Ok(())
    }
}

fn check_bucket(kind: StoreKind, bucket: &str) -> Result<(), UrlProblem> {
    // Azure's own containers begin with a dollar sign ($web); old buckets of S3 may have upper case.
    let legal = |c: char| match kind {
        StoreKind::S3 | StoreKind::Gcs => c.is_ascii_alphanumeric() || "._-".contains(c),
        _ => c.is_ascii_alphanumeric() || "$-".contains(c),
    };
    if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(legal) {
        return Err(UrlProblem::Bucket);
    }
    if kind != StoreKind::S3 && bucket.contains(|c: char| c.is_ascii_uppercase()) {
        return Err(UrlProblem::UpperCase);
    }
    Ok(())
}

/// `host:port`, the host in lower case as it counts for nothing there; or the name of a nameservice, which is a key of settings.
fn namenode(text: &str) -> Result<String, UrlProblem> {
    let is_name = |name: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !name.is_empty() && name.len() <= 253 && name.chars().all(legal) && !name.starts_with(['.', '-'])
    };
    match text.split_once(':') {
        None if is_name(text) => Ok(text.to_string()),
        Some((host, port)) if is_name(host) && port.chars().all(|c| c.is_ascii_digit()) => {
            let port: u16 = port.parse().ok().filter(|&port| port > 0).ok_or(UrlProblem::Namenode)?;
            Ok(format!("{}:{port}", host.to_ascii_lowercase()))
        }
        _ => Err(UrlProblem::Namenode),
    }
}

fn decoded(path: &str) -> Result<String, UrlProblem> {
    let mut rest = path;
    while let Some((_, behind)) = rest.split_once('%') {
        let digits = behind.as_bytes().get(..2).ok_or(UrlProblem::Escape)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(UrlProblem::Escape);
        }
        let byte = u8::from_str_radix(&behind[..2], 16).map_err(|_| UrlProblem::Escape)?;
        if byte == b'/' || byte == b'\\' || byte.is_ascii_control() {
            return Err(UrlProblem::Encoded);
        }
        rest = &behind[2..];
    }
    let text = percent_decode_str(path).decode_utf8().map_err(|_| UrlProblem::NotUtf8)?;
    if text.chars().any(char::is_control) { Err(UrlProblem::Encoded) } else { Ok(text.into_owned()) }
}

fn check_prefix(kind: StoreKind, prefix: &str) -> Result<(), UrlProblem> {
    let is_folder = matches!(kind, StoreKind::File | StoreKind::Hdfs);
    let bytes_max = if is_folder { FOLDER_BYTES_MAX } else { PREFIX_BYTES_MAX };
    if prefix.is_empty() {
        return Ok(());
    }
    if prefix.split('/').any(|segment| ["", ".", ".."].contains(&segment)) {
        return Err(UrlProblem::Segment);
    }
    if kind == StoreKind::Hdfs && prefix.contains(':') {
        return Err(UrlProblem::Colon);
    }
    if prefix.split('/').any(|segment| segment.len() > SEGMENT_BYTES_MAX) {
        return Err(UrlProblem::LongSegment);
    }
    if prefix.len() > bytes_max {
        return Err(UrlProblem::Long { bytes: prefix.len(), bytes_max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> String {
        StoreUrl::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}")).to_string()
    }

    #[test]
    fn spellings_of_one_place_have_one_normal_form() {
        let table: &[(&str, &[&str])] = &[
            ("s3://logs/prod", &["s3://logs/prod", "s3://logs/prod/", "s3://logs/prod//", "S3://logs/%70rod"]),
            ("s3://logs", &["s3://logs", "s3://logs/"]),
            ("s3://Logs", &["s3://Logs"]),
            ("gs://b/a/b", &["gs://b/a/b", "GS://b/a/b/"]),
            ("az://c/x%20y", &["az://c/x%20y", "az://c/x y/"]),
            ("az://$web", &["az://$web/"]),
            ("s3://b/a%20b", &["s3://b/a%20b", "s3://b/a b"]),
            ("file:///tmp/%C3%9Cbung", &["file:///tmp/Übung", "file:///tmp/%c3%9cbung/", "file:///tmp/%C3%9Cbung"]),
            ("file:///tmp/a%20b", &["file:///tmp/a b", "file:///tmp/a%20b/", "FILE:///tmp/a%20b"]),
            ("file:///srv/100%25", &["file:///srv/100%25"]),
            ("file:///srv/a%40b%23%3F", &["file:///srv/a%40b%23%3f"]),
            ("hdfs://nn1.example.com:8020/a", &["hdfs://NN1.example.com:08020/a", "HDFS://nn1.example.com:8020/%61/"]),
            ("hdfs://Prod_1/a%20b", &["hdfs://Prod_1/a b/"]),
            ("s3://b/dt=1+2,(x)", &["s3://b/dt=1+2,(x)", "s3://b/dt%3D1%2B2%2C%28x%29"]),
        ];
        for (form, spellings) in table {
            for spelling in *spellings {
                assert_eq!(normal(spelling), *form, "{spelling}");
                assert_eq!(StoreUrl::parse(spelling), StoreUrl::parse(form), "{spelling}");
            }
        }
        assert_eq!(StoreUrl::parse("file:///tmp/%C3%9Cbung").expect("a folder").prefix(), "tmp/Übung");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let long = format!("s3://b/{}", "p".repeat(PREFIX_BYTES_MAX + 1));
        let deep = format!("file:///{}", "p".repeat(256));
        let table = [
            ("nonsense", UrlProblem::NotUrl),
            ("file:/x", UrlProblem::NotUrl),
            ("", UrlProblem::NotUrl),
            ("ftp://n/x", UrlProblem::Scheme),
            ("hdfs://", UrlProblem::Namenode),
            ("hdfs:///x", UrlProblem::Namenode),
            ("hdfs://:8020/x", UrlProblem::Namenode),
            ("hdfs://n:/x", UrlProblem::Namenode),
            ("hdfs://n:0/x", UrlProblem::Namenode),
            ("hdfs://n:65536/x", UrlProblem::Namenode),
            ("hdfs://n:8020:1/x", UrlProblem::Namenode),
            ("hdfs://n,m/x", UrlProblem::Namenode),
            ("hdfs://n:8020", UrlProblem::Root),
            ("hdfs://prod/", UrlProblem::Root),
            ("hdfs://n:8020/a:b", UrlProblem::Colon),
            ("hdfs://n:8020/a%3Ab", UrlProblem::Colon),
            ("hdfs://n:8020/../x", UrlProblem::Segment),
            ("s3://user:password@b/x", UrlProblem::MayHoldSecret),
            ("s3://b/x?sig=password", UrlProblem::MayHoldSecret),
            ("s3://b/x#password", UrlProblem::MayHoldSecret),
            (" s3://b", UrlProblem::Trimmed),
            ("file:///tmp/x ", UrlProblem::Trimmed),
            ("s3://b/a\tb", UrlProblem::Character('\t')),
            ("s3://b/{topic}", UrlProblem::Character('{')),
            ("s3://b/a\\b", UrlProblem::Character('\\')),
            ("s3://b/100%", UrlProblem::Escape),
            ("s3://b/%2", UrlProblem::Escape),
            ("s3://b/%zz", UrlProblem::Escape),
            ("s3://b/%ü", UrlProblem::Escape),
            ("s3://b/%FF", UrlProblem::NotUtf8),
            ("s3://b/a%2Fb", UrlProblem::Encoded),
            ("s3://b/a%5Cb", UrlProblem::Encoded),
            ("s3://b/a%00", UrlProblem::Encoded),
            ("s3://b/%C2%85", UrlProblem::Encoded),
            ("file://", UrlProblem::NotAbsolute),
            ("file://host/x", UrlProblem::NotAbsolute),
            ("file://relative", UrlProblem::NotAbsolute),
            ("file:///", UrlProblem::Root),
            ("file:////", UrlProblem::Root),
            ("file:////x", UrlProblem::Segment),
            ("file:///srv/../x", UrlProblem::Segment),
            ("file:///srv/%2e%2E/x", UrlProblem::Segment),
            ("gs://b/./x", UrlProblem::Segment),
            ("s3://b//x", UrlProblem::Segment),
            ("s3://", UrlProblem::Bucket),
            ("s3:///x", UrlProblem::Bucket),
            ("s3://h:9000/x", UrlProblem::Bucket),
            ("s3://b%20c/x", UrlProblem::Bucket),
            ("az://a_b", UrlProblem::Bucket),
            ("gs://Bucket", UrlProblem::UpperCase),
            ("az://Container/x", UrlProblem::UpperCase),
            (&long, UrlProblem::Long { bytes: PREFIX_BYTES_MAX + 1, bytes_max: PREFIX_BYTES_MAX }),
            (&deep, UrlProblem::LongSegment),
        ];
        for (text, problem) in table {
            assert_eq!(StoreUrl::parse(text), Err(problem), "{text}");
        }
    }

    proptest! {
        #[test]
        fn normal_forms_are_read_back(text in "(s3|gs|az|hdfs|file)://[a-zA-Z%/.é ~+=\\[2F0]{0,24}") {
            if let Ok(url) = StoreUrl::parse(&text) {
                let form = url.to_string();
                prop_assert!(form.is_ascii());
                prop_assert_eq!(StoreUrl::parse(&form), Ok(url));
            }
        }
    }
}
