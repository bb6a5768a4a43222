//! S3, GCS and Azure clients: options first, then the environment, then the identity of the machine.
//!
//! A login that is given as an option is used alone: nothing of the environment's login is mixed into it.
//! Every request is bounded: [`CONNECT_TIMEOUT`], [`REQUEST_TIMEOUT`], [`RETRIES`] repetitions within
//! [`RETRY_TIMEOUT`]. Waiting longer is the caller's business, who can say so in health and log.

use super::DestinationError;
use crate::config::Secret;
use ::url::Url;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Most time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most time for one request with its answer: an 8 MiB piece within it needs 1.1 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Most repetitions of a request that the client makes by itself.
const RETRIES: usize = 3;
/// Most time after which the client still repeats.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The account and key that every Azurite has and every client library knows: no secret.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000";

/// A key of a service account that makes requests without a token: GCS emulators.
const ANONYMOUS_ACCOUNT: &str =
    r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;

type Store = Arc<dyn ObjectStore>;

/// The options of one destination.
pub(super) struct Options<'a> {
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) values: &'a BTreeMap<String, Secret>,
}

impl Options<'_> {
    pub(super) fn get(&self, option: &str) -> Option<&str> {
        self.values.get(option).map(Secret::reveal)
    }

    fn flag(&self, option: &'static str) -> Result<Option<bool>, DestinationError> {
        match self.get(option) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.refused(option, "allowed are true and false")),
        }
    }

    /// The endpoint without a slash at its end, and whether it is plain HTTP.
    fn endpoint(&self) -> Result<Option<Endpoint>, DestinationError> {
        let allow_http = self.flag("allow_http")?;
        let Some(text) = self.get("endpoint") else { return Ok(None) };
        let what = "it is a URL like https://host:port, without user, query and fragment";
        let url = Url::parse(text).map_err(|_| self.refused("endpoint", what))?;
        let plain = url.scheme() == "http";
        let extras = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        if !(plain || url.scheme() == "https") || extras || !url.has_host() {
            return Err(self.refused("endpoint", what));
        }
        if plain && allow_http == Some(false) {
            return Err(self.refused("endpoint", "it is plain http, and allow_http is false"));
        }
        Ok(Some(Endpoint { url, plain }))
    }

    /// Host and port of the endpoint.
    pub(super) fn authority(&self) -> Result<Option<String>, DestinationError> {
        Ok(self.endpoint()?.map(|endpoint| endpoint.url.authority().to_string()))
    }

    pub(super) fn refused(&self, option: &'static str, what: &str) -> DestinationError {
        DestinationError::Option { name: self.name.to_string(), option, what: what.to_string() }
    }

    fn client(&self, error: &object_store::Error) -> DestinationError {
        DestinationError::Client { name: self.name.to_string(), id: self.id.to_string(), what: error.to_string() }
    }
}

struct Endpoint {
    url: Url,
    plain: bool,
}

impl Endpoint {
    fn text(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_string()
    }
}

fn client_options(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("siltstone/", env!("CARGO_PKG_VERSION"))))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_allow_http(allow_http)
}

fn retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT }
}

/// The store, and whether it creates only if absent.
pub(super) fn s3(bucket: &str, options: &Options<'_>) -> Result<(Store, bool), DestinationError> {
    let endpoint = options.endpoint()?;
    let conditional_put = options.flag("conditional_put")?.unwrap_or(true);
    let mut builder = s3_login(options)?;
    let from_env = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let env_endpoint = from_env(AmazonS3ConfigKey::S3Endpoint).or_else(|| from_env(AmazonS3ConfigKey::Endpoint));
    let plain = match &endpoint {
        Some(endpoint) => endpoint.plain,
        None => env_endpoint.as_deref().is_some_and(|url| url.starts_with("http://")),
    };
    let path_style = options.flag("path_style")?.unwrap_or(endpoint.is_some() || env_endpoint.is_some());
    if let Some(endpoint) = &endpoint {
        // Both keys: the S3-specific one, perhaps from the environment, would win over the general one.
        let url = if path_style { endpoint.text() } else { virtual_host(endpoint, bucket, options)? };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, url.clone()).with_endpoint(url);
    }
    if let Some(region) = options.get("region") {
        builder = builder.with_region(region);
    }
    builder = match options.get("checksum") {
        None | Some("sha256") => builder.with_checksum_algorithm(Checksum::SHA256),
        Some("none") => builder,
        Some(_) => return Err(options.refused("checksum", "allowed are sha256 and none")),
    };
    let conditional = if conditional_put { S3ConditionalPut::ETagMatch } else { S3ConditionalPut::Disabled };
    let store = builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!path_style)
        .with_conditional_put(conditional)
        .with_client_options(client_options(plain || options.flag("allow_http")?.unwrap_or(false)))
        .with_retry(retries())
        .build()
        .map_err(|error| options.client(&error))?;
    Ok((Arc::new(store), conditional_put))
}

/// The environment's settings, with its login replaced by that of the options where they have one.
fn s3_login(options: &Options<'_>) -> Result<AmazonS3Builder, DestinationError> {
    let (Some(id), Some(secret)) = (options.get("access_key_id"), options.get("secret_access_key")) else {
        if options.get("access_key_id").is_some() || options.get("secret_access_key").is_some() {
            return Err(options.refused("access_key_id", "it goes together with secret_access_key"));
        }
        if options.get("session_token").is_some() {
            return Err(options.refused("session_token", "it goes together with access_key_id and secret_access_key"));
        }
        return Ok(AmazonS3Builder::from_env());
    };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        match name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse()) {
            None | Some(Err(_)) | Some(Ok(AmazonS3ConfigKey::Token)) => {}
            Some(Ok(key)) => builder = builder.with_config(key, value),
        }
    }
    builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    Ok(match options.get("session_token") {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

/// `https://bucket.host`: the client wants the bucket inside the endpoint when it is not in the path.
fn virtual_host(endpoint: &Endpoint, bucket: &str, options: &Options<'_>) -> Result<String, DestinationError> {
    let what = "path_style = false needs an endpoint with a host name";
    let host = endpoint.url.domain().ok_or_else(|| options.refused("endpoint", what))?;
    let mut url = endpoint.url.clone();
    url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|_| options.refused("endpoint", what))?;
    Ok(url.as_str().trim_end_matches('/').to_string())
}

pub(super) fn gcs(bucket: &str, options: &Options<'_>) -> Result<Store, DestinationError> {
    let endpoint = options.endpoint()?;
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.plain);
    let mut builder = match (options.get("service_account_file"), options.get("service_account_key")) {
        (Some(_), Some(_)) => {
            let what = "it cannot be given together with service_account_file";
            return Err(options.refused("service_account_key", what));
        }
        (Some(file), None) => GoogleCloudStorageBuilder::new().with_service_account_path(file),
        (None, Some(key)) => GoogleCloudStorageBuilder::new().with_service_account_key(key),
        // Plain HTTP is an emulator: it knows no accounts. (The builder's own switch for unsigned requests is not
        // heeded by writes in object_store 0.13.2.)
        (None, None) if plain => GoogleCloudStorageBuilder::new().with_service_account_key(ANONYMOUS_ACCOUNT),
        (None, None) => GoogleCloudStorageBuilder::from_env(),
    };
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(&endpoint.text());
    }
    // Without this header GCS unpacks objects that carry `Content-Encoding: gzip`, and a HEAD has no length then.
    let mut headers = HeaderMap::new();
    headers.insert("accept-encoding", HeaderValue::from_static("gzip"));
    let allow_http = plain || options.flag("allow_http")?.unwrap_or(false);
    let store = builder
        .with_bucket_name(bucket)
        .with_client_options(client_options(allow_http).with_default_headers(headers))
        .with_retry(retries())
        .build()
        .map_err(|error| options.client(&error))?;
    Ok(Arc::new(store))
}

pub(super) fn azure(container: &str, options: &Options<'_>) -> Result<Store, DestinationError> {
    let emulator = options.flag("use_emulator")?.unwrap_or(false);
    let login = options.get("access_key").is_some() || options.get("sas_token").is_some();
    if options.get("access_key").is_some() && options.get("sas_token").is_some() {
        return Err(options.refused("sas_token", "it cannot be given together with access_key"));
    }
    let env = MicrosoftAzureBuilder::from_env();
    let env_account = env.get_config_value(&AzureConfigKey::AccountName);
    let account = options.get("account").map(str::to_string);
    let (mut builder, account) = if emulator {
        let account = account.unwrap_or_else(|| EMULATOR_ACCOUNT.to_string());
        let builder = MicrosoftAzureBuilder::new();
        (if login { builder } else { builder.with_access_key(EMULATOR_KEY) }, Some(account))
    } else if login {
        (MicrosoftAzureBuilder::new(), account.or(env_account))
    } else {
        (env, account.or(env_account))
    };
    let Some(account) = account else {
        return Err(options.refused("account", "it is missing, and AZURE_STORAGE_ACCOUNT_NAME is not set either"));
    };
    let endpoint = match options.endpoint()? {
        None if emulator => Some(emulator_endpoint(options)?),
        other => other,
    };
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.plain);
    if let Some(endpoint) = &endpoint {
        // The emulator has the account in the path. The builder's own emulator mode takes its address from the
        // environment alone, so it is not used.
        let lacks_account = emulator && endpoint.url.path() == "/";
        let url = if lacks_account { format!("{}/{account}", endpoint.text()) } else { endpoint.text() };
        builder = builder.with_endpoint(url);
    }
    let given = [
        ("access_key", AzureConfigKey::AccessKey),
        ("sas_token", AzureConfigKey::SasKey),
        ("client_id", AzureConfigKey::ClientId),
        ("tenant_id", AzureConfigKey::AuthorityId),
    ];
    for (option, key) in given {
        if let Some(value) = options.get(option) {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_account(account)
        .with_container_name(container)
        .with_use_emulator(false)
        .with_client_options(client_options(plain || options.flag("allow_http")?.unwrap_or(false)))
        .with_retry(retries())
        .build()
        .map_err(|error| options.client(&error))?;
    Ok(Arc::new(store))
}

fn emulator_endpoint(options: &Options<'_>) -> Result<Endpoint, DestinationError> {
    let url = Url::parse(EMULATOR_ENDPOINT).map_err(|_| options.refused("use_emulator", "its address is broken"))?;
    Ok(Endpoint { url, plain: true })
}
