//! What BigQuery answered, and what can be done about it.

use crate::destination::fault::Verdict;
use google_cloud_bigquery_v2::model::{ErrorProto, JobStatus};
use google_cloud_gax::error::rpc::StatusDetails;
use google_cloud_gax::error::{CredentialsError, Error};
use std::fmt;

/// Row errors that a fault's text repeats; the fault holds all that BigQuery told.
const SHOWN_MAX: usize = 5;
/// Longest message that is shown, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// Reasons of what passes by itself.
const BUSY: &[&str] = &[
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "rateLimitExceeded",
    "jobRateLimitExceeded",
    "userRateLimitExceeded",
    "RATE_LIMIT_EXCEEDED",
    "tableUnavailable",
    "timeout",
];
/// Reasons of limits that take hours to be free again.
const QUOTA: &[&str] = &["quotaExceeded", "resourcesExceeded", "RESOURCE_EXHAUSTED"];
/// Reasons of rights that are missing.
const DENIED: &[&str] = &[
    "accessDenied",
    "responseTooLarge",
    "blocked",
    "billingNotEnabled",
    "billingTierLimitExceeded",
    "accessNotConfigured",
];

/// What kind of trouble a [`LoadFault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFaultKind {
    /// No credentials, or they are not accepted.
    Login,
    /// The login is right, the right is missing, or the project does not pay.
    Denied,
    /// No such project, dataset or object.
    NotFound,
    /// BigQuery does not take the request, or we do not make it: names, limits, columns that do not fit the table.
    Invalid,
    /// A job failed at what is in the objects, or in what they are loaded into.
    Rows,
    /// Somebody stopped the job.
    Stopped,
    /// Overloaded or broken for a moment.
    Busy,
    /// A quota is used up.
    Quota,
    /// No connection: nothing was sent.
    Unreachable,
    /// The connection broke, or no answer came in time: what was asked may have happened.
    Interrupted,
    /// A job still runs. Whoever asks again waits for the same one.
    Running,
    /// A newer set of ranges is loaded, or about to be: this one never will be. Read again what is complete.
    Superseded,
    /// The id of the job belongs to something else.
    Foreign,
}

/// A row, or an object, that could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Where, as BigQuery tells it: often the object.
    pub location: String,
    /// BigQuery's word for it.
    pub reason: String,
    /// What was wrong.
    pub message: String,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)?;
        if self.location.is_empty() { Ok(()) } else { write!(f, " at {}", self.location) }
    }
}

/// Why a table is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFault {
    /// What kind of trouble.
    pub kind: LoadFaultKind,
    /// HTTP status, where a request was refused.
    pub status: Option<u16>,
    /// BigQuery's own word, for example `rateLimitExceeded`.
    pub reason: Option<String>,
    /// What a failed job says of rows and objects, all that BigQuery tells.
    pub rows: Vec<RowError>,
    what: String,
}

impl fmt::Display for LoadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for row in self.rows.iter().take(SHOWN_MAX) {
            write!(f, "; {row}")?;
        }
        match self.rows.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for LoadFault {}

impl LoadFault {
    pub(super) fn new(kind: LoadFaultKind, what: String) -> Self {
        Self { kind, status: None, reason: None, rows: Vec::new(), what }
    }

    /// Why `what` was refused or has no answer.
    pub(super) fn of(what: &str, error: &Error) -> Self {
        let status = error.http_status_code();
        let reason = reason(error);
        let message = match (error.status(), error.http_payload()) {
            (Some(told), _) => told.message.clone(),
            (None, Some(payload)) => String::from_utf8_lossy(payload).into_owned(),
            (None, None) => innermost(error),
        };
        let kind = match status {
            Some(status) => kind_of_answer(status, reason.as_deref()),
            None if error.is_authentication() && !login_may_pass(error) => LoadFaultKind::Login,
            None if error.is_authentication() => LoadFaultKind::Unreachable,
            None if error.is_connect() => LoadFaultKind::Unreachable,
            None if error.is_binding() || error.is_serialization() => LoadFaultKind::Invalid,
            None => LoadFaultKind::Interrupted,
        };
        let message = one_line(&message);
        let text = match (status, &reason) {
            (Some(status), Some(reason)) => format!("{what}: BigQuery answered {status} {reason} ({message})"),
            (Some(status), None) => format!("{what}: BigQuery answered {status} ({message})"),
            (None, _) if error.is_authentication() => format!("{what}: no login for Google: {message}"),
            (None, _) => format!("{what}: no answer from BigQuery: {message}"),
        };
        Self { kind, status, reason, rows: Vec::new(), what: text }
    }

    /// Why a job failed; `None`: it did not.
    pub(super) fn of_job(job_id: &str, status: &JobStatus) -> Option<Self> {
        let result = status.error_result.as_ref()?;
        let kind = kind_of_job(&result.reason);
        let what = format!("load job {job_id} failed: {}", row_error(result));
        // BigQuery repeats the result as one of the errors.
        let rows = status.errors.iter().map(row_error).filter(|row| *row != row_error(result)).collect();
        Some(Self { kind, status: None, reason: Some(result.reason.clone()), rows, what })
    }

    /// What the caller does next.
    pub fn verdict(&self) -> Verdict {
        use LoadFaultKind::{
            Busy, Denied, Foreign, Interrupted, Invalid, Login, NotFound, Quota, Rows, Running, Stopped, Superseded,
            Unreachable,
        };
        match self.kind {
            Busy | Quota | Unreachable | Interrupted | Running => Verdict::Retry,
            Login | Denied | NotFound | Invalid | Rows | Stopped => Verdict::Refused,
            Superseded | Foreign => Verdict::Stop,
        }
    }
}

/// The first word that BigQuery has for it.
fn reason(error: &Error) -> Option<String> {
    let told = error.status()?;
    told.details.iter().find_map(|detail| match detail {
        StatusDetails::ErrorInfo(info) if !info.reason.is_empty() => Some(info.reason.clone()),
        _ => None,
    })
}

/// Whether the service that gives logins is not there just now, or refuses.
fn login_may_pass(error: &Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref::<CredentialsError>()).any(CredentialsError::is_transient)
}

fn kind_of_answer(status: u16, reason: Option<&str>) -> LoadFaultKind {
    match (status, reason) {
        (_, Some(reason)) if BUSY.contains(&reason) => LoadFaultKind::Busy,
        (_, Some(reason)) if QUOTA.contains(&reason) => LoadFaultKind::Quota,
        (401, _) => LoadFaultKind::Login,
        (403, _) => LoadFaultKind::Denied,
        (404, _) => LoadFaultKind::NotFound,
        // 412: what was asked for has changed while it was done.
        (408 | 412 | 429 | 500..=599, _) => LoadFaultKind::Busy,
        // Answers that are none: a proxy's page.
        (200..=399, _) => LoadFaultKind::Interrupted,
        _ => LoadFaultKind::Invalid,
    }
}

fn kind_of_job(reason: &str) -> LoadFaultKind {
    match reason {
        _ if BUSY.contains(&reason) => LoadFaultKind::Busy,
        _ if QUOTA.contains(&reason) => LoadFaultKind::Quota,
        _ if DENIED.contains(&reason) => LoadFaultKind::Denied,
        "notFound" => LoadFaultKind::NotFound,
        "stopped" => LoadFaultKind::Stopped,
        // Two first jobs for a table, each of which was about to make it.
        "duplicate" => LoadFaultKind::Busy,
        _ => LoadFaultKind::Rows,
    }
}

fn row_error(error: &ErrorProto) -> RowError {
    RowError { location: error.location.clone(), reason: error.reason.clone(), message: one_line(&error.message) }
}

fn innermost(error: &Error) -> String {
    let first = std::error::Error::source(error);
    let last = std::iter::successors(first, |cause| cause.source()).last();
    last.map_or_else(|| error.to_string(), ToString::to_string)
}

fn one_line(text: &str) -> String {
    let text = text.replace(['\n', '\r', '\t'], " ");
    text.trim().chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}
