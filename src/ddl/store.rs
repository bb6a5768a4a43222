//! Where a table's objects lie, as engines call it.

use percent_encoding::percent_decode_str;

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// `s3`, `gs`, `az`, `file`, or what else the destination's URL begins with.
    pub scheme: String,
    /// Bucket or container; empty for a local folder.
    pub bucket: String,
    /// Prefix inside, as it stands in the keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Of the server, where one is configured.
    pub endpoint: Option<String>,
    /// Of an S3 bucket, where it is configured.
    pub region: Option<String>,
    /// Of Azure, where it is configured.
    pub account: Option<String>,
}

impl Store {
    /// Splits a destination's URL. `option` tells the values of its section.
    pub fn new(url: &str, option: impl Fn(&str) -> Option<String>) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = percent_decode_str(path).decode_utf8_lossy().trim_matches('/').to_string();
        Self {
            scheme: scheme.to_string(),
            bucket: bucket.to_string(),
            prefix,
            endpoint: option("endpoint"),
            region: option("region"),
            account: option("account"),
        }
    }

    /// Whether `url` is in the same bucket.
    pub(super) fn has(&self, url: &str) -> bool {
        let other = Self::new(url, |_| None);
        (other.scheme, other.bucket) == (self.scheme.clone(), self.bucket.clone())
    }

    /// The folders of the prefix.
    pub(super) fn prefix_segments(&self) -> impl Iterator<Item = &str> {
        self.prefix.split('/').filter(|segment| !segment.is_empty())
    }

    /// The URL of `key` (from the bucket's root), with the scheme that siltstone has.
    pub(super) fn url(&self, key: &str) -> String {
        format!("{}://{}/{key}", self.scheme, self.bucket)
    }

    /// The URL of `key` as Hadoop's file systems have it, and what should be known of it.
    pub(crate) fn hadoop_url(&self, key: &str, notes: &mut Vec<String>) -> String {
        match self.scheme.as_str() {
            "s3" => {
                notes.push("s3a:// is Hadoop's own S3; on Amazon EMR write s3://.".to_string());
                format!("s3a://{}/{key}", self.bucket)
            }
            "az" => {
                let account = self.account_or_note(notes);
                format!("abfss://{}@{account}.dfs.core.windows.net/{key}", self.bucket)
            }
            _ => self.url(key),
        }
    }

    /// The account of Azure; a name to be replaced where the configuration has none.
    pub(super) fn account_or_note(&self, notes: &mut Vec<String>) -> String {
        self.account.clone().unwrap_or_else(|| {
            notes.push("Write the storage account for ACCOUNT: the configuration does not name it.".to_string());
            "ACCOUNT".to_string()
        })
    }
}
