//! Where the suite runs: a fresh, empty prefix on each store.

use crate::storm::{StormStore, Weather};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use siltstone::config::{DestinationConfig, Secret};
use siltstone::destination::{Destination, StoreKind};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

/// A destination, and the folder that must live as long as it.
pub(crate) struct Place {
    pub(crate) destination: Arc<Destination>,
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    /// The same behind a layer over its store.
    pub(crate) fn behind(self, layer: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        let destination = Arc::into_inner(self.destination).expect("nobody uses it yet");
        Self { destination: Arc::new(destination.behind(layer)), ..self }
    }

    pub(crate) fn in_weather(self, weather: &Arc<Weather>) -> Self {
        self.behind(|store| Arc::new(StormStore::new(store, weather.clone())))
    }
}

/// The setting `name` of a running service. Absent services are failures, never skips.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `scripts/services.sh start` and `eval \"$(scripts/services.sh env)\"` first")
    })
}

pub(crate) fn config(url: String, options: &[(&str, &str)]) -> DestinationConfig {
    let options = options.iter().map(|(key, value)| (key.to_string(), Secret::new(*value))).collect();
    DestinationConfig { url, options }
}

fn open(config: &DestinationConfig) -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Place { destination: Arc::new(Destination::open("main", config).expect("a destination")), folder }
}

/// A prefix that nobody has used yet.
pub(crate) fn fresh() -> String {
    format!("stores-test/{:016x}", RandomState::new().build_hasher().finish())
}

pub(crate) fn memory() -> Place {
    let destination = Destination::from_store("main", "memory://", Arc::new(InMemory::new()), StoreKind::Memory);
    Place { destination: Arc::new(destination), folder: tempfile::tempdir().expect("a temporary folder") }
}

pub(crate) fn file() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("file://{}/archive with blank", folder.path().display());
    let destination = Destination::open("main", &config(url, &[])).expect("a destination");
    Place { destination: Arc::new(destination), folder }
}

/// S3 options for `bucket_url`, with a login of its own.
pub(crate) fn s3_config(bucket: &str, secret: &str, more: &[(&str, &str)]) -> DestinationConfig {
    s3_config_at(&setting("S3_ENDPOINT"), bucket, secret, more)
}

fn s3_config_at(endpoint: &str, bucket: &str, secret: &str, more: &[(&str, &str)]) -> DestinationConfig {
    let id = setting("AWS_ACCESS_KEY_ID");
    let mut options = vec![("endpoint", endpoint), ("access_key_id", &id), ("secret_access_key", secret)];
    options.extend_from_slice(more);
    config(format!("s3://{bucket}/{}", fresh()), &options)
}

pub(crate) fn s3() -> Place {
    open(&s3_config(&setting("S3_BUCKET"), &setting("AWS_SECRET_ACCESS_KEY"), &[]))
}

/// The S3 server at another address.
pub(crate) fn s3_at(endpoint: &str) -> Place {
    open(&s3_config_at(endpoint, &setting("S3_BUCKET"), &setting("AWS_SECRET_ACCESS_KEY"), &[]))
}

/// With the login from the environment.
pub(crate) fn s3_from_environment() -> Place {
    let url = format!("s3://{}/{}", setting("S3_BUCKET"), fresh());
    open(&config(url, &[("endpoint", &setting("S3_ENDPOINT")), ("region", "us-east-1")]))
}

/// As a store without conditional writes.
pub(crate) fn s3_without_conditions() -> Place {
    let more = [("conditional_put", "false"), ("checksum", "none")];
    open(&s3_config(&setting("S3_BUCKET"), &setting("AWS_SECRET_ACCESS_KEY"), &more))
}

pub(crate) fn gcs_config(bucket: &str) -> DestinationConfig {
    gcs_config_at(&setting("GCS_ENDPOINT"), bucket)
}

fn gcs_config_at(endpoint: &str, bucket: &str) -> DestinationConfig {
    config(format!("gs://{bucket}/{}", fresh()), &[("endpoint", endpoint)])
}

/// The emulator of GCS at another address.
pub(crate) fn gcs_at(endpoint: &str) -> Place {
    open(&gcs_config_at(endpoint, &setting("GCS_BUCKET")))
}

pub(crate) fn gcs() -> Place {
    open(&gcs_config(&setting("GCS_BUCKET")))
}

pub(crate) fn azure_config(container: &str, more: &[(&str, &str)]) -> DestinationConfig {
    azure_config_at(&setting("AZURE_ENDPOINT"), container, more)
}

/// The emulator of Azure at another address.
pub(crate) fn azure_at(endpoint: &str) -> Place {
    open(&azure_config_at(endpoint, &setting("AZURE_CONTAINER"), &[]))
}

fn azure_config_at(endpoint: &str, container: &str, more: &[(&str, &str)]) -> DestinationConfig {
    let mut options = vec![("endpoint", endpoint), ("use_emulator", "true")];
    options.extend_from_slice(more);
    config(format!("az://{container}/{}", fresh()), &options)
}

pub(crate) fn azure() -> Place {
    open(&azure_config(&setting("AZURE_CONTAINER"), &[]))
}

pub(crate) fn hdfs_config(more: &[(&str, &str)]) -> DestinationConfig {
    config(format!("{}/{}", setting("HDFS_URL"), fresh()), more)
}

pub(crate) fn hdfs() -> Place {
    open(&hdfs_config(&[]))
}

/// The same place once more.
pub(crate) fn at(url: &str) -> Place {
    open(&config(url.to_string(), &[]))
}
