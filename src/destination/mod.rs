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
pub mod local;

use crate::config::DestinationConfig;
use local::LocalStore;
use object_store::ObjectStore;
use object_store::path::Path;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

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
            "file" => Some(Self::File),
            _ => None,
        }
    }

    /// The names that `[destinations.NAME]` may hold beside `url`.
    pub fn option_names(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
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
            Self::Gcs => &["endpoint", "service_account_file", "service_account_key", "allow_http"],
            Self::Azure => &[
                "account",
                "access_key",
                "sas_token",
                "client_id",
                "tenant_id",
                "endpoint",
                "use_emulator",
                "allow_http",
            ],
            Self::File | Self::Memory => &[],
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
        /// As written, without user and password.
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
    prefix: Path,
    endpoint: Option<String>,
    conditional_put: bool,
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
        let place = Place::parse(name, &config.url)?;
        let allowed = place.kind.option_names();
        if let Some(option) = config.options.keys().find(|option| !allowed.contains(&option.as_str())) {
            let allowed = if allowed.is_empty() { "none".to_string() } else { allowed.join(", ") };
            return Err(DestinationError::UnknownOption { name: name.to_string(), option: option.clone(), allowed });
        }
        let options = cloud::Options { name, id: &place.id, values: &config.options };
        let mut opened = Self {
            name: name.to_string(),
            id: place.id.clone(),
            kind: place.kind,
            store: Arc::new(object_store::memory::InMemory::new()),
            local: None,
            prefix: place.prefix,
            endpoint: options.authority()?,
            conditional_put: true,
        };
        match place.kind {
            StoreKind::S3 => (opened.store, opened.conditional_put) = cloud::s3(&place.bucket, &options)?,
            StoreKind::Gcs => opened.store = cloud::gcs(&place.bucket, &options)?,
            StoreKind::Azure => opened.store = cloud::azure(&place.bucket, &options)?,
            StoreKind::File | StoreKind::Memory => {
                let local = Arc::new(LocalStore::new(place.folder));
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
            prefix: Path::ROOT,
            endpoint: None,
            conditional_put: true,
        }
    }

    /// The same, for a store that cannot create only if absent.
    pub fn without_conditional_put(self) -> Self {
        Self { conditional_put: false, ..self }
    }

    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL without secrets and without a slash at its end: `s3://logs/prod`. Equal ids are equal places, for equal
    /// endpoints.
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

    /// Where `key` lies in [`Destination::store`]: the prefix and the key, character by character.
    ///
    /// # Errors
    /// [`DestinationError::Key`]: empty segments, `.`, `..`, control characters or a slash at either end.
    pub fn path(&self, key: &str) -> Result<Path, DestinationError> {
        let whole = if self.prefix.is_root() { key.to_string() } else { format!("{}/{key}", self.prefix) };
        let refused = |what: String| DestinationError::Key { key: key.to_string(), id: self.id.clone(), what };
        let path = Path::parse(&whole).map_err(|error| refused(error.to_string()))?;
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

    /// Removes what uploads of dead processes left in a local folder: staged files last written `older_than` before
    /// `now_ms` (wall clock, milliseconds UTC). Returns how many. Nothing to do elsewhere. Walks the whole folder.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn sweep_stages(&self, older_than: Duration, now_ms: i64) -> std::io::Result<u64> {
        match &self.local {
            Some(local) => local.sweep_stages(older_than, now_ms).await,
            None => Ok(0),
        }
    }
}

/// What the URL says.
struct Place {
    kind: StoreKind,
    id: String,
    bucket: String,
    prefix: Path,
    folder: PathBuf,
}

impl Place {
    fn parse(name: &str, text: &str) -> Result<Self, DestinationError> {
        let refused = |url: &str, what: &str| DestinationError::Url {
            name: name.to_string(),
            url: url.to_string(),
            what: what.to_string(),
        };
        const ALLOWED: &str =
            "allowed are file:///folder, s3://bucket/prefix, gs://bucket/prefix and az://container/prefix";
        // A text that does not parse is not shown: it might hold a password.
        let url = Url::parse(text).map_err(|_| refused("…", ALLOWED))?;
        let kind = StoreKind::of_scheme(url.scheme()).ok_or_else(|| refused(&without_login(&url), ALLOWED))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            let what = "user, password, query and fragment do not belong there; credentials are options of their own";
            return Err(refused(&without_login(&url), what));
        }
        let shown = url.as_str();
        let path = percent_encoding::percent_decode_str(url.path())
            .decode_utf8()
            .map_err(|_| refused(shown, "the path is not UTF-8"))?;
        let prefix = Path::parse(&path).map_err(|error| refused(shown, &error.to_string()))?;
        let bucket = url.host_str().unwrap_or_default().to_string();
        match (kind, bucket.is_empty()) {
            (StoreKind::File, false) => return Err(refused(shown, "a file URL has three slashes: file:///folder")),
            (StoreKind::File, true) if prefix.is_root() => {
                return Err(refused(shown, "it names the root of the file system"));
            }
            (StoreKind::File, true) => {}
            (_, true) => return Err(refused(shown, ALLOWED)),
            (_, false) => {}
        }
        let folder = PathBuf::from(format!("/{prefix}"));
        let id = url.as_str().trim_end_matches('/').to_string();
        Ok(Self { kind, id, bucket, prefix, folder })
    }
}

/// `url` as it may be shown.
fn without_login(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    if shown.set_password(None).is_err() || shown.set_username("").is_err() {
        return format!("{}:…", url.scheme());
    }
    shown.to_string()
}

/// The id that [`Destination::open`] would give `url`, for layouts and comparisons.
///
/// # Errors
/// [`DestinationError::Url`].
pub fn id_of_url(name: &str, url: &str) -> Result<String, DestinationError> {
    Place::parse(name, url).map(|place| place.id)
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
    fn ids_are_urls_without_anything_else() {
        let cases = [
            ("s3://logs/prod/", "s3://logs/prod"),
            ("s3://logs", "s3://logs"),
            ("s3://logs/", "s3://logs"),
            ("gs://b/a/b", "gs://b/a/b"),
            ("az://c/x%20y", "az://c/x%20y"),
            ("az://c/x y/", "az://c/x%20y"),
            ("file:///srv/archive/", "file:///srv/archive"),
        ];
        for (url, id) in cases {
            assert_eq!(id_of_url("d", url).as_deref(), Ok(id), "{url}");
        }
    }

    #[test]
    fn unusable_urls_say_what_is_allowed_and_hide_the_password() {
        let cases = [
            ("hdfs://n/x", "allowed are"),
            ("nonsense", "allowed are"),
            ("s3:///prefix", "allowed are"),
            ("file://host/x", "three slashes"),
            ("file:///", "root of the file system"),
            ("s3://user:PASSWORD@b/x", "credentials are options"),
            ("s3://b/x?sig=PASSWORD", "credentials are options"),
            ("s3://b/a//b", "empty path segment"),
        ];
        for (url, what) in cases {
            let text = id_of_url("d", url).expect_err(url).to_string();
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
