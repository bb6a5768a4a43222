//! Questions to the registry over HTTP: Confluent's API, as far as a reader needs it.
//!
//! Source: "Schema Registry API Reference" of Confluent's documentation. The clients on crates.io bring a second HTTP stack and
//! do not ask for versions of an id, so the three requests are made here with the HTTP client that is in the program already.

use crate::config::{RegistryConfig, RegistryLogin};
use reqwest::{Certificate, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::time::Duration;
use url::Url;

/// How long one request may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Most bytes of an answer: a schema is far smaller.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most bytes of an answer that an error repeats.
const SHOWN_BYTES_MAX: usize = 200;
/// The API's codes for what is not there. A wrong path has 404.
const NOT_FOUND: std::ops::RangeInclusive<u32> = 40_400..=40_499;

/// Why a registry has not told what was asked. Never permanent: schemas are for ever, registries are mended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answered, or with a fault of their own.
    #[error("ask the schema registry for {what}: {reason}")]
    NoAnswer {
        /// What was asked for.
        what: String,
        /// What came back, of each URL.
        reason: String,
    },
    /// The login is refused by one URL, and no other one has an answer.
    #[error(
        "ask the schema registry for {what}: {url} refuses the login ({status}): check username and password, or token, in [registry]"
    )]
    Refused {
        /// What was asked for.
        what: String,
        /// Who was asked.
        url: String,
        /// The status.
        status: u16,
    },
}

/// What the registry says of a schema.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) schema: String,
    /// Avro where it is missing.
    #[serde(rename = "schemaType")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) references: Option<Vec<Reference>>,
}

/// Another schema that one is made of.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Reference {
    /// What it is called in there: a name of Avro's, a path of an import.
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) version: i64,
}

/// Where a schema is registered.
#[derive(Debug, Deserialize)]
pub(super) struct Registered {
    pub(super) subject: String,
    pub(super) version: u32,
}

#[derive(Deserialize)]
struct Failure {
    error_code: u32,
}

/// Asks a registry.
pub(super) struct Client {
    http: reqwest::Client,
    urls: Vec<Url>,
    login: Option<RegistryLogin>,
}

impl Client {
    pub(super) fn new(config: &RegistryConfig) -> Result<Self, String> {
        let mut http = reqwest::Client::builder().timeout(ANSWER_WAIT).connect_timeout(CONNECT_WAIT);
        if let Some(path) = &config.ca_file {
            let failed = |what: String| format!("ca_file {}: {what}", path.display());
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http.build().map_err(|error| format!("no HTTP client can be made: {error}"))?;
        Ok(Self { http, urls: config.urls.clone(), login: config.login.clone() })
    }

    /// The schema of `id`; `None` where there is none.
    pub(super) async fn by_id(&self, id: u32) -> Result<Option<Found>, RegistryError> {
        self.get(&["schemas", "ids", &id.to_string()]).await
    }

    /// Under which subjects the schema of `id` is registered, and as which version.
    pub(super) async fn versions(&self, id: u32) -> Result<Vec<Registered>, RegistryError> {
        Ok(self.get(&["schemas", "ids", &id.to_string(), "versions"]).await?.unwrap_or_default())
    }

    /// A schema by subject and version; `None` where there is none.
    pub(super) async fn by_version(&self, reference: &Reference) -> Result<Option<Found>, RegistryError> {
        self.get(&["subjects", &reference.subject, "versions", &reference.version.to_string()]).await
    }

    pub(super) async fn subjects(&self) -> Result<(), RegistryError> {
        let found: Option<IgnoredAny> = self.get(&["subjects"]).await?;
        found.map(drop).ok_or_else(|| RegistryError::NoAnswer {
            what: "subjects".to_string(),
            reason: "there are none: is this the API of a schema registry?".to_string(),
        })
    }

    /// Asks one URL after the other, also behind one that refuses the login. `None`: all of them say that there is nothing of that name.
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, RegistryError> {
        let what = path.join("/");
        let (mut reasons, mut is_nowhere, mut refused) = (Vec::new(), false, None);
        for base in &self.urls {
            let shown = base.as_str().trim_end_matches('/').to_string();
            let mut url = base.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path);
            }
            // What somebody has taken out of use is still in old records.
            if path.contains(&"versions") {
                url.query_pairs_mut().append_pair("deleted", "true");
            }
            let (status, body) = match self.answer(url).await {
                Ok(answer) => answer,
                Err(reason) => {
                    reasons.push(format!("{shown}: {reason}"));
                    continue;
                }
            };
            let start = || String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).trim().to_string();
            match status {
                StatusCode::OK => match serde_json::from_slice(&body) {
                    Ok(found) => {
                        if let Some(refused) = refused {
                            tracing::warn!("{refused}; another URL has answered");
                        }
                        return Ok(Some(found));
                    }
                    Err(error) => {
                        reasons.push(format!("{shown}: no answer of a schema registry ({error}): {}", start()))
                    }
                },
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let status = status.as_u16();
                    refused.get_or_insert(RegistryError::Refused { what: what.clone(), url: shown, status });
                }
                // Who says so in another way than the API does (a proxy, a wrong path) says nothing of the schema.
                // One that lags behind the others does not know it yet.
                StatusCode::NOT_FOUND if is_not_found(&body) => is_nowhere = true,
                _ => reasons.push(format!("{shown}: {status}: {}", start())),
            }
        }
        // Who refuses may know what the others do not.
        if let Some(refused) = refused {
            return Err(refused);
        }
        match is_nowhere && reasons.is_empty() {
            true => Ok(None),
            false => Err(RegistryError::NoAnswer { what, reason: reasons.join("; ") }),
        }
    }

    async fn answer(&self, url: Url) -> Result<(StatusCode, Vec<u8>), String> {
        let request = self.http.get(url).header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        let request = match &self.login {
            Some(RegistryLogin::Basic(user, password)) => request.basic_auth(user, Some(password.reveal())),
            Some(RegistryLogin::Bearer(token)) => request.bearer_auth(token.reveal()),
            None => request,
        };
        let mut response = request.send().await.map_err(|error| crate::pipeline::start::chain(&error.without_url()))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }
}

fn is_not_found(body: &[u8]) -> bool {
    serde_json::from_slice::<Failure>(body).is_ok_and(|failure| NOT_FOUND.contains(&failure.error_code))
}

#[cfg(test)]
mod tests;
