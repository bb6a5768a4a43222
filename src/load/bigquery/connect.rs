//! Who is asked, and as whom.

use super::api::Api;
use super::fault::{LoadFault, LoadFaultKind};
use super::{BigQuery, Pace};
use crate::clock::Clock;
use google_cloud_auth::credentials::{
    self, Credentials as Login, anonymous, external_account, service_account, user_account,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What logins are for: BigQuery, and the objects that it reads in our name.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// As whom BigQuery is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// What the machine has: `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`, or the metadata server, which on
    /// Kubernetes is workload identity.
    #[default]
    Application,
    /// A file: the key of a service account, or what workload identity federation writes.
    File(PathBuf),
    /// Nobody: an emulator.
    Nobody,
}

/// Where and how tables are loaded.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The project in which jobs run and that pays for them.
    pub project: String,
    /// Where jobs run: `EU`, `US`, `europe-west3`, … `None`: where each dataset is.
    pub location: Option<String>,
    /// Another place than Google's own, without a path: `http://127.0.0.1:9050`.
    pub endpoint: Option<String>,
    /// As whom.
    pub credentials: Credentials,
    /// Labels of jobs and tables, beside our own.
    pub labels: BTreeMap<String, String>,
    /// How long things are waited for.
    pub pace: Pace,
}

impl BigQuery {
    /// Makes the clients. Asks nobody, but for a login of the machine's.
    ///
    /// # Errors
    /// [`LoadFaultKind::Login`]: the credentials cannot be used. [`LoadFaultKind::Invalid`]: the endpoint is none.
    pub async fn connect(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, LoadFault> {
        // What is there already serves as well: somebody else was faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        let Settings { project, location, endpoint, credentials, labels, pace } = settings;
        let login = login(&credentials)?;
        let api = Api::new(project, endpoint.as_deref(), login, pace.answer).await?;
        Ok(Self { api, location, labels, pace, clock, locations: tokio::sync::Mutex::default() })
    }
}

fn login(credentials: &Credentials) -> Result<Login, LoadFault> {
    match credentials {
        Credentials::Nobody => Ok(anonymous::Builder::new().build()),
        Credentials::Application => credentials::Builder::default()
            .with_scopes([SCOPE])
            .build()
            .map_err(|error| refused(format!("the machine has no credentials for Google: {error}"))),
        Credentials::File(path) => login_of_file(path),
    }
}

fn login_of_file(path: &Path) -> Result<Login, LoadFault> {
    let failed = |what: String| refused(format!("credentials {}: {what}", path.display()));
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    // What a parser says of a place in the file may show a piece of the key.
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|_| failed("this is no JSON".to_string()))?;
    let kind = json.get("type").and_then(serde_json::Value::as_str).unwrap_or_default().to_string();
    let built = match kind.as_str() {
        "service_account" => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
            .build(),
        "external_account" => external_account::Builder::new(json).with_scopes([SCOPE]).build(),
        "authorized_user" => user_account::Builder::new(json).with_scopes([SCOPE]).build(),
        _ => {
            return Err(failed(format!(
                "its type is `{kind}`, expected service_account, external_account or authorized_user"
            )));
        }
    };
    built.map_err(|error| failed(error.to_string()))
}

fn refused(what: String) -> LoadFault {
    LoadFault::new(LoadFaultKind::Login, what)
}
