//! Destinations: a URL and options become an object store with a name, a prefix and known abilities.
//!
//! A [`Destination`] hides which store it is, but for four things that callers must know: its kind, its prefix,
//! whether it can create an object only if absent, and what a confirmed upload proves there (see [`StoreKind`]).
//! Opening one reads the environment and, at most, a key file; it connects nowhere and creates nothing.
//!
//! Keys are taken as they are: whoever made them has percent-encoded what needs it, and `%2F` arrives in the bucket as
//! the three characters `%2F`.

mod cloud;
pub mod fault;
mod hdfs;
pub mod local;
#[cfg(test)]
#[path = "tests/stepped.rs"]
pub(crate) mod stepped;
pub mod url;

use crate::config::DestinationConfig;
use fault::Fault;
use hdfs::HdfsStore;
use local::LocalStore;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, UpdateVersion};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use url::StoreUrl;

/// Which store it is, and with that what a confirmed upload proves.
///
/// Always: a request was answered with success and a later HEAD showed the exact size (and, where the store keeps
/// metadata, the SHA-256 that was sent as metadata).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// S3 and everything that speaks it. The server verified the SHA-256 of the object, or of each piece of a
    /// multipart upload (`checksum = "none"` switches that off).
    S3,
    /// Google Cloud Storage. The client exposes no content checksum: size, and TLS on the way.
    Gcs,
    /// Azure Blob Storage. As for GCS.
    Azure,
    /// HDFS. Every datanode checked the checksums of what it got and synced its blocks; no SHA-256 is kept.
    Hdfs,
    /// A local folder. File and folders were synced; what was written is what was hashed.
    File,
    /// Memory: tests, simulation.
    Memory,
}

impl StoreKind {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Gcs),
            "az" => Some(Self::Azure),
            "hdfs" => Some(Self::Hdfs),
            "file" => Some(Self::File),
            _ => None,
        }
    }

    /// What its URLs begin with.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::Hdfs => "hdfs",
            Self::File => "file",
            Self::Memory => "memory",
        }
    }

    /// The keys of a section `[destinations.NAME]`, `url` first: the one list of them.
    pub const fn section_keys(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
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
            ],
            Self::Gcs => &["url", "endpoint", "service_account_file", "service_account_key", "allow_http"],
            Self::Azure => {
                &["url", "account", "access_key", "sas_token", "client_id", "tenant_id", "endpoint", "use_emulator"]
            }
            Self::Hdfs => &["url", "hadoop_conf", "hadoop", "user", "principal", "keytab", "ticket_cache"],
            Self::File | Self::Memory => &["url"],
        }
    }

    /// The names that `[destinations.NAME]` may hold beside `url`.
    pub const fn option_names(self) -> &'static [&'static str] {
        match self.section_keys() {
            [_, options @ ..] => options,
            [] => &[],
        }
    }
}

/// Why a destination cannot be opened, or a key not be used there. All of them are mistakes in the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Not one of the known kinds of URL, or not a URL at all.
    #[error("destination {name}: url {url:?} is not usable: {what}")]
    Url {
        /// Destination.
        name: String,
        /// As written; `…` where it may hold a secret.
        url: String,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// An option that this kind of store does not have.
    #[error("destination {name}: unknown option {option:?}; allowed are {allowed}")]
    UnknownOption {
        /// Destination.
        name: String,
        /// As written.
        option: String,
        /// The known names.
        allowed: String,
    },
    /// An option whose value is not usable. The value itself is not shown: it may be a secret.
    #[error("destination {name}: option {option}: {what}")]
    Option {
        /// Destination.
        name: String,
        /// Its name.
        option: &'static str,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// The client could not be set up.
    #[error("destination {name}: set up the client for {id}: {what}")]
    Client {
        /// Destination.
        name: String,
        /// URL without secrets.
        id: String,
        /// What the client said.
        what: String,
    },
    /// A key that no store takes: empty segments, `.` or `..`, control characters.
    #[error("key {key:?} cannot be stored at {id}: {what}")]
    Key {
        /// The key.
        key: String,
        /// URL without secrets.
        id: String,
        /// What is wrong with it.
        what: String,
    },
}

/// An opened destination. Cheap to share behind an `Arc`; used by many tasks at once.
pub struct Destination {
    name: String,
    id: String,
    kind: StoreKind,
    store: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalStore>>,
    hdfs: Option<Arc<HdfsStore>>,
    prefix: Path,
    endpoint: Option<String>,
    conditional_put: bool,
    at_work: watch::Sender<()>,
}

/// Held by what is to come to its end before the process does, see [`Destination::at_rest`].
#[derive(Clone)]
pub struct AtWork {
    _counted: watch::Receiver<()>,
}

impl fmt::Debug for Destination {
    /// Without the store: its own `Debug` shows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({}, {})", self.name, self.id)
    }
}

impl Destination {
    /// Opens the destination called `name`. Connects nowhere; the first request tells whether it is right (see
    /// [`crate::bucket::Bucket::probe`]).
    ///
    /// # Errors
    /// [`DestinationError`]: the configuration is wrong; each names the option and what is allowed.
    pub fn open(name: &str, config: &DestinationConfig) -> Result<Self, DestinationError> {
        let url = parse_url(name, &config.url)?;
        let (kind, id) = (url.kind(), url.to_string());
        let allowed = kind.option_names();
        if let Some(option) = config.options.keys().find(|option| !allowed.contains(&option.as_str())) {
            let allowed = if allowed.is_empty() { "none".to_string() } else { allowed.join(", ") };
            return Err(DestinationError::UnknownOption { name: name.to_string(), option: option.clone(), allowed });
        }
        let prefix = Path::parse(url.prefix()).map_err(|error| DestinationError::Url {
            name: name.to_string(),
            url: id.clone(),
            what: error.to_string(),
        })?;
        let options = cloud::Options { name, id: &id, values: &config.options };
        let mut opened = Self {
            name: name.to_string(),
            id: id.clone(),
            kind,
            store: Arc::new(object_store::memory::InMemory::new()),
            local: None,
            hdfs: None,
            prefix,
            endpoint: options.authority()?,
            conditional_put: true,
            at_work: watch::Sender::default(),
        };
        match kind {
            StoreKind::S3 => (opened.store, opened.conditional_put) = cloud::s3(url.bucket(), &options)?,
            StoreKind::Gcs => opened.store = cloud::gcs(url.bucket(), &options)?,
            StoreKind::Azure => opened.store = cloud::azure(url.bucket(), &options)?,
            StoreKind::Hdfs => {
                let hdfs = Arc::new(hdfs::store(&url, &options)?);
                opened.store = hdfs.clone();
                opened.hdfs = Some(hdfs);
                opened.endpoint = Some(url.bucket().to_string());
            }
            StoreKind::File | StoreKind::Memory => {
                let local = Arc::new(LocalStore::new(PathBuf::from(format!("/{}", url.prefix()))));
                opened.store = local.clone();
                opened.local = Some(local);
            }
        }
        Ok(opened)
    }

    /// Wraps any store: tests and simulation. Keys lie directly at its root; it can create only if absent.
    pub fn from_store(name: &str, id: &str, store: Arc<dyn ObjectStore>, kind: StoreKind) -> Self {
        Self {
            name: name.to_string(),
            id: id.to_string(),
            kind,
            store,
            local: None,
            hdfs: None,
            prefix: Path::ROOT,
            endpoint: None,
            conditional_put: true,
            at_work: watch::Sender::default(),
        }
    }

    /// The same behind a layer over its store: tests.
    pub fn behind(self, layer: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { store: layer(self.store), ..self }
    }

    /// The same, for a store that cannot create only if absent.
    pub fn without_conditional_put(self) -> Self {
        Self { conditional_put: false, ..self }
    }

    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL in its normal form ([`StoreUrl`]): `s3://logs/prod`. Equal ids are equal places, for equal endpoints.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Which store it is.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The store itself; paths come from [`Destination::path`].
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Host and port of the endpoint, where the configuration names one.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether an object can be created only if it is absent.
    pub fn conditional_put(&self) -> bool {
        self.conditional_put
    }

    /// What names exactly the object of `meta` to a store that compares before it replaces; `None` where it does not.
    pub fn version(&self, meta: &ObjectMeta) -> Option<UpdateVersion> {
        let compares = self.conditional_put && !self.is_files() && (meta.e_tag.is_some() || meta.version.is_some());
        compares.then(|| UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() })
    }

    /// Whether objects are plain files, which keep no metadata and are not compared before they are replaced.
    pub fn is_files(&self) -> bool {
        matches!(self.kind, StoreKind::File | StoreKind::Hdfs)
    }

    /// Whether a write that failed like this may nevertheless have happened, or may happen later. A local folder loses no answers:
    /// what failed there was not done to its end.
    pub fn may_have_done(&self, fault: &Fault) -> bool {
        self.kind != StoreKind::File && fault.may_have_happened()
    }

    /// Where `key` lies in [`Destination::store`]: the prefix and the key, character by character.
    ///
    /// # Errors
    /// [`DestinationError::Key`]: empty segments, `.`, `..`, control characters or a slash at either end.
    pub fn path(&self, key: &str) -> Result<Path, DestinationError> {
        let whole = if self.prefix.is_root() { key.to_string() } else { format!("{}/{key}", self.prefix) };
        let refused = |what: String| DestinationError::Key { key: key.to_string(), id: self.id.clone(), what };
        let path = Path::parse(&whole).map_err(|error| refused(error.to_string()))?;
        if self.kind == StoreKind::Hdfs && key.contains(':') {
            return Err(refused(hdfs::NO_COLON.to_string()));
        }
        if key.is_empty() || path.as_ref() != whole {
            return Err(refused("it is empty, or begins or ends with a slash".to_string()));
        }
        Ok(path)
    }

    /// The prefix under which all keys lie, for listing everything.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The key of a path that a listing gave; `None` where it lies outside the prefix.
    pub fn key_of(&self, path: &Path) -> Option<String> {
        let whole = path.as_ref();
        if self.prefix.is_root() {
            return Some(whole.to_string());
        }
        whole.strip_prefix(self.prefix.as_ref())?.strip_prefix('/').map(str::to_string)
    }

    /// Makes sure that an object which was found, and may have been put a moment ago by somebody who is dead since, outlives a
    /// power cut: its entry in a local folder is synced, and logged by HDFS's namenode. Its content was before it became visible.
    /// Nothing to do elsewhere.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn sync(&self, location: &Path) -> object_store::Result<()> {
        match (&self.local, &self.hdfs) {
            (Some(local), _) => local.sync(location).await,
            (None, Some(hdfs)) => hdfs.sync(location).await,
            (None, None) => Ok(()),
        }
    }

    /// Counts as work on the way until it is dropped.
    pub fn at_work(&self) -> AtWork {
        AtWork { _counted: self.at_work.subscribe() }
    }

    /// Waits until nothing is on its way any more that goes on by itself: pieces of uploads that were given up, and their aborts.
    /// At most `limit`; tells whether all of it ended.
    pub async fn at_rest(&self, limit: Duration) -> bool {
        let ended = async {
            self.at_work.closed().await;
            if let Some(hdfs) = &self.hdfs {
                hdfs.at_rest().await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Removes what uploads of dead processes left in a local folder or in HDFS: staged files last written `older_than` before
    /// `now_ms` (wall clock, milliseconds UTC). Returns how many. Nothing to do elsewhere. Walks the whole local folder.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn sweep_stages(&self, older_than: Duration, now_ms: i64) -> std::io::Result<u64> {
        match (&self.local, &self.hdfs) {
            (Some(local), _) => local.sweep_stages(older_than, now_ms).await,
            (None, Some(hdfs)) => hdfs.sweep_stages(older_than, now_ms).await,
            (None, None) => Ok(0),
        }
    }
}

/// Reads the URL of the destination called `name`.
fn parse_url(name: &str, text: &str) -> Result<StoreUrl, DestinationError> {
    const ALLOWED: &str = "allowed are file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix and hdfs://host:port/folder";
    StoreUrl::parse(text).map_err(|problem| {
        let url = if problem == url::UrlProblem::MayHoldSecret { "…" } else { text };
        DestinationError::Url { name: name.to_string(), url: url.to_string(), what: format!("{problem}; {ALLOWED}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn config(url: &str, options: &[(&str, &str)]) -> DestinationConfig {
        let options = options.iter().map(|(key, value)| (key.to_string(), Secret::new(*value))).collect();
        DestinationConfig { url: url.to_string(), options }
    }

    #[test]
    fn spellings_of_one_place_open_under_one_id() {
        for spelling in ["file:///tmp/Übung a", "file:///tmp/%C3%9cbung%20a/", "FILE:///tmp/%c3%9Cbung a//"] {
            let opened = Destination::open("d", &config(spelling, &[])).expect(spelling);
            assert_eq!((opened.id(), opened.prefix().as_ref()), ("file:///tmp/%C3%9Cbung%20a", "tmp/Übung a"));
            let again = Destination::open("d", &config(opened.id(), &[])).expect("its own id");
            assert_eq!((again.id(), again.prefix()), (opened.id(), opened.prefix()));
        }
    }

    #[tokio::test]
    async fn folders_of_any_name_keep_objects() {
        use object_store::ObjectStoreExt;
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["Übung", "a b", "100%", "a#b?c", "x~[y]{z}*'\"<>|^`", "a%2Fb", "né=ü+ö,(x)", "…"] {
            let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            let url = format!("file://{}/{encoded}", folder.path().display());
            let opened = Destination::open("d", &config(&url, &[])).expect(&url);
            let path = opened.path("t/dt=1/x%2Fy.json").expect("a key");
            opened.store().put(&path, "rows".into()).await.expect(name);
            let file = folder.path().join(name).join("t/dt=1/x%2Fy.json");
            assert_eq!(std::fs::read(&file).expect(name), b"rows");
            let listed = opened.store().list_with_delimiter(Some(&opened.path("t/dt=1").expect("a folder"))).await;
            let keys: Vec<_> =
                listed.expect(name).objects.iter().map(|object| opened.key_of(&object.location)).collect();
            assert_eq!(keys, [Some("t/dt=1/x%2Fy.json".to_string())], "{name}");
        }
    }

    #[test]
    fn unusable_urls_say_what_is_allowed_and_hide_the_password() {
        let cases = [
            ("ftp://n/x", "the scheme is not known; allowed are file:///folder"),
            ("nonsense", "allowed are"),
            ("file://host/x", "three slashes"),
            ("s3://user:PASSWORD@b/x", "hold secrets"),
            ("s3://b/x?sig=PASSWORD", "hold secrets"),
            ("s3://b/a//b", "an empty part"),
        ];
        for (url, what) in cases {
            let text = Destination::open("d", &config(url, &[])).expect_err(url).to_string();
            assert!(text.contains(what), "{url}: {text}");
            assert!(!text.contains("PASSWORD"), "{url}: {text}");
        }
    }

    #[test]
    fn unknown_options_name_the_known_ones() {
        let error = Destination::open("d", &config("s3://b", &[("regoin", "x")])).expect_err("unknown");
        assert!(error.to_string().contains("allowed are endpoint, region"), "{error}");
        let error = Destination::open("d", &config("file:///tmp/x", &[("region", "x")])).expect_err("unknown");
        assert!(error.to_string().contains("allowed are none"), "{error}");
    }

    #[test]
    fn keys_arrive_as_they_are_or_are_refused() {
        let opened = Destination::open("d", &config("file:///srv/a%20b", &[])).expect("opens");
        let path = opened.path("t/a%2Fb/x=%E2%82%AC").expect("a key");
        assert_eq!(path.as_ref(), "srv/a b/t/a%2Fb/x=%E2%82%AC");
        assert_eq!(opened.key_of(&path).as_deref(), Some("t/a%2Fb/x=%E2%82%AC"));
        assert_eq!(opened.key_of(&Path::from("srv/a bc/t")), None);
        for key in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb"] {
            assert!(opened.path(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let options = [("access_key_id", "AKID"), ("secret_access_key", "SECRET"), ("region", "r")];
        let opened = Destination::open("d", &config("s3://b", &options)).expect("opens");
        assert_eq!(format!("{opened:?}"), "Destination(d, s3://b)");
    }
}
