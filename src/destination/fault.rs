//! What a store answered, in the words of the person who reads it at night, and what can be done about it.
//!
//! A [`Fault`] is all that the rest of the program sees of an `object_store` error. It never holds a URL, a header or
//! a whole answer: those may be signed or carry secrets. Pure.
//!
//! `object_store` 0.13 keeps its HTTP error type private, so the status code and the answer's `<Code>` are read from
//! its text where no variant tells them; the tests of `tests/stores.rs` hold that against real servers.

use hdfs_native::HdfsError;
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use std::fmt;
use std::io;

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// May pass: wait and try the same again. Nothing about the work changes.
    Retry,
    /// Will not pass by itself: rights, login, bucket or settings. At start the process ends; later it keeps trying
    /// slowly, because somebody may repair it.
    Refused,
    /// Trying again would be wrong: what lies here or in the bucket is not what it must be.
    Stop,
}

/// What kind of trouble a [`Fault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// 404: no such object, or no such bucket.
    NotFound,
    /// 409 or 412: something is there already, or the store was busy with it.
    Exists,
    /// 401, or 403 with a code that says the login itself is wrong.
    Login,
    /// 403: the login is right, the right is missing.
    Denied,
    /// No credentials are configured and the machine's identity service does not answer.
    NoIdentity,
    /// No connection: name, address, port, TLS. Nothing was sent.
    Unreachable,
    /// The connection broke or the answer did not come in time: what was asked may have happened, or may still happen.
    Interrupted,
    /// 408, 429 or 5xx, or an upload in pieces that is over: the store is overloaded or broken, or was faster than its answer. What was asked may have happened.
    Busy,
    /// The store found that bytes changed on their way to it.
    Damaged,
    /// No space left.
    Full,
    /// The store cannot do this at all.
    Unsupported,
    /// Any other refusal: a key or a setting that the store does not take.
    Invalid,
    /// Anything else.
    Other,
}

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of trouble.
    pub kind: FaultKind,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// The store's own error code, for example `NoSuchBucket`.
    pub code: Option<String>,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Longest piece of a store's own message that is shown, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// Codes of a refused login, as S3, GCS and Azure send them with 400 or 403.
const LOGIN_CODES: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "RequestTimeTooSkewed",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "NoAuthenticationInformation",
    "AuthenticationRequired",
    "AuthorizationHeaderMalformed",
];

/// Codes of a passing state that come with a status of their own, some of them with 409. The last three are told where an upload in
/// pieces is over at the store: completed by a request whose answer was lost, or thrown away by another one to the same place.
const BUSY_CODES: &[&str] = &[
    "SlowDown",
    "InternalError",
    "ServerBusy",
    "OperationAborted",
    "ConditionalRequestConflict",
    "NoSuchUpload",
    "InvalidBlockList",
    "InvalidPart",
];

/// Codes of an object that a rule of the bucket protects, with a 409 that otherwise says that something is there.
const PROTECTED_CODES: &[&str] = &["BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"];

/// Codes of bytes that changed on their way.
const DAMAGE_CODES: &[&str] =
    &["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "Md5Mismatch", "Crc64Mismatch", "IncompleteBody"];

impl Fault {
    /// Reads `error`.
    pub fn of(error: &Error) -> Self {
        let hdfs = causes(error).find_map(|cause| cause.downcast_ref::<HdfsError>()).map(super::hdfs::told);
        if let Some((kind, code, what)) = hdfs {
            return match error {
                Error::Generic { .. } => Self { kind, status: None, code, what },
                _ => Self { kind: kind_of(error, "", None, None), status: None, code, what },
            };
        }
        let text = error.to_string();
        let (status, code, message) = match http_answer(&text) {
            Some((status, body)) => (Some(status), element(body, "Code"), element(body, "Message")),
            None => (None, code_of_delete(&text), None),
        };
        let kind = kind_of(error, &text, status, code.as_deref());
        let what = describe(error, kind, status, code.as_deref(), message.as_deref());
        Self { kind, status, code, what }
    }

    /// What the caller does next.
    pub fn verdict(&self) -> Verdict {
        match self.kind {
            FaultKind::Unreachable
            | FaultKind::Interrupted
            | FaultKind::Busy
            | FaultKind::Damaged
            | FaultKind::Full
            | FaultKind::Other => Verdict::Retry,
            FaultKind::NotFound
            | FaultKind::Exists
            | FaultKind::Login
            | FaultKind::Denied
            | FaultKind::NoIdentity
            | FaultKind::Unsupported
            | FaultKind::Invalid => Verdict::Refused,
        }
    }

    /// Whether a write that failed like this may nevertheless have happened, or may happen later.
    pub fn may_have_happened(&self) -> bool {
        match self.kind {
            FaultKind::Interrupted | FaultKind::Busy | FaultKind::Other => true,
            FaultKind::NotFound
            | FaultKind::Exists
            | FaultKind::Login
            | FaultKind::Denied
            | FaultKind::NoIdentity
            | FaultKind::Unreachable
            | FaultKind::Damaged
            | FaultKind::Full
            | FaultKind::Unsupported
            | FaultKind::Invalid => false,
        }
    }

    /// The same, as something that may pass.
    pub fn passing(self) -> Self {
        Self { kind: FaultKind::Busy, ..self }
    }

    /// Whether a rule of the bucket protects what is there, for ever or for years.
    pub fn is_protected(&self) -> bool {
        is_one_of(self.code.as_deref(), PROTECTED_CODES)
    }

    /// Whether the bucket (or container) itself is missing, as far as the answer tells.
    pub fn bucket_is_missing(&self) -> bool {
        matches!(self.code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound"))
    }
}

fn kind_of(error: &Error, text: &str, status: Option<u16>, code: Option<&str>) -> FaultKind {
    match error {
        _ if is_one_of(code, BUSY_CODES) => FaultKind::Busy,
        Error::NotFound { .. } => FaultKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } if is_one_of(code, PROTECTED_CODES) => {
            FaultKind::Denied
        }
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => FaultKind::Exists,
        Error::Unauthenticated { .. } => FaultKind::Login,
        Error::PermissionDenied { .. } => denied(code),
        Error::NotSupported { .. } | Error::NotImplemented { .. } => FaultKind::Unsupported,
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => FaultKind::Invalid,
        // `Generic`, and what later versions of the enum add.
        _ => match status {
            Some(status) => kind_of_status(status, code),
            None if is_one_of(code, LOGIN_CODES) => FaultKind::Login,
            None if is_one_of(code, &["AccessDenied"]) => FaultKind::Denied,
            None => kind_of_chain(error, text),
        },
    }
}

/// The code of one key in the answer to a request that deletes several, which comes with status 200.
fn code_of_delete(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("DeleteObjects request failed for key ")?;
    let (code, _) = rest.rsplit_once("(code: ")?.1.split_once(')')?;
    Some(code.to_string())
}

fn is_one_of(code: Option<&str>, codes: &[&str]) -> bool {
    code.is_some_and(|code| codes.contains(&code))
}

fn denied(code: Option<&str>) -> FaultKind {
    if is_one_of(code, LOGIN_CODES) { FaultKind::Login } else { FaultKind::Denied }
}

fn kind_of_status(status: u16, code: Option<&str>) -> FaultKind {
    match status {
        400 if is_one_of(code, LOGIN_CODES) => FaultKind::Login,
        400 if is_one_of(code, DAMAGE_CODES) => FaultKind::Damaged,
        400 if is_one_of(code, &["RequestTimeout"]) => FaultKind::Interrupted,
        401 => FaultKind::Login,
        403 => denied(code),
        409 if is_one_of(code, PROTECTED_CODES) => FaultKind::Denied,
        404 => FaultKind::NotFound,
        408 | 429 => FaultKind::Busy,
        409 | 412 => FaultKind::Exists,
        501 => FaultKind::Unsupported,
        507 => FaultKind::Full,
        200..=299 | 500..=599 => FaultKind::Busy,
        _ => FaultKind::Invalid,
    }
}

/// Where machines in the clouds ask who they are: addresses, and paths for where the address is set otherwise.
const IDENTITY_SERVICES: &[&str] = &[
    "//169.254.169.254",
    "//169.254.170.2",
    "//metadata.google.internal",
    "/latest/api/token",
    "/latest/meta-data/",
    "/computeMetadata/v1/",
    "/metadata/identity/",
];

fn kind_of_chain(error: &Error, text: &str) -> FaultKind {
    if IDENTITY_SERVICES.iter().any(|address| text.contains(address)) {
        return FaultKind::NoIdentity;
    }
    if text.contains("Received redirect") {
        return FaultKind::Invalid;
    }
    for cause in causes(error) {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect => FaultKind::Unreachable,
                HttpErrorKind::Request | HttpErrorKind::Timeout | HttpErrorKind::Interrupted => FaultKind::Interrupted,
                _ => FaultKind::Other,
            };
        }
        if let Some(file) = cause.downcast_ref::<io::Error>() {
            return kind_of_io(file);
        }
    }
    FaultKind::Other
}

fn kind_of_io(error: &io::Error) -> FaultKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FaultKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::Full,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => {
            FaultKind::Invalid
        }
        _ => FaultKind::Other,
    }
}

fn describe(error: &Error, kind: FaultKind, status: Option<u16>, code: Option<&str>, message: Option<&str>) -> String {
    if kind == FaultKind::NoIdentity {
        return "no credentials are configured and this machine's identity service does not answer".to_string();
    }
    let Some(status) = status else { return describe_cause(error, kind) };
    let mut what = format!("the store answered {status}");
    if let Some(code) = code {
        what = format!("{what} {code}");
    }
    if let Some(message) = message {
        what = format!("{what} ({message})");
    }
    if (300..400).contains(&status) {
        what.push_str(", a redirect: the region or endpoint is probably another");
    }
    what
}

/// The innermost cause is the one that tells: `Connection refused`, `No space left on device`.
fn describe_cause(error: &Error, kind: FaultKind) -> String {
    let cause = causes(error).last().map(|cause| one_line(&cause.to_string())).unwrap_or_default();
    match kind {
        FaultKind::NotFound => "not found".to_string(),
        FaultKind::Exists => "it exists already".to_string(),
        FaultKind::Unreachable => format!("no connection: {cause}"),
        FaultKind::Interrupted => format!("the connection broke or timed out: {cause}"),
        _ if causes(error).count() == 0 => one_line(&error.to_string()),
        _ => cause,
    }
}

/// The causes of `error`, outermost first, without `error` itself.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// Status and body of an HTTP answer that `object_store` put into its text.
fn http_answer(text: &str) -> Option<(u16, &str)> {
    // Of an answer that says 200 and tells an error the client shows the body alone.
    if let Some((_, body)) = text.split_once("Server returned error response: ") {
        return Some((200, body));
    }
    let (_, answer) = text.split_once("non-2xx status code: ")?;
    let status = answer.get(..3)?.parse().ok()?;
    Some((status, answer.get(3..).unwrap_or_default()))
}

/// The text of the first `<name>` element: S3, GCS and Azure all tell their errors as `<Error><Code>…</Code><Message>…`.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(one_line(inside))
}

pub(super) fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    fn status(status: &str, body: &str) -> Error {
        answer(&format!(
            "Error performing PUT http://h/b?sig=SECRET in 3ms - Server returned non-2xx status code: {status}: {body}"
        ))
    }

    #[test]
    fn statuses_and_codes_decide_kind_and_verdict() {
        let code = |code: &str| format!("<?xml?><Error><Code>{code}</Code><Message>m</Message></Error>");
        let cases = [
            (status("500 Internal Server Error", ""), FaultKind::Busy, Verdict::Retry),
            (status("503 Service Unavailable", &code("SlowDown")), FaultKind::Busy, Verdict::Retry),
            (status("429 Too Many Requests", ""), FaultKind::Busy, Verdict::Retry),
            (status("501 Not Implemented", ""), FaultKind::Unsupported, Verdict::Refused),
            (status("400 Bad Request", &code("BadDigest")), FaultKind::Damaged, Verdict::Retry),
            (status("400 Bad Request", &code("RequestTimeout")), FaultKind::Interrupted, Verdict::Retry),
            (status("400 Bad Request", &code("ExpiredToken")), FaultKind::Login, Verdict::Refused),
            (status("400 Bad Request", &code("KeyTooLongError")), FaultKind::Invalid, Verdict::Refused),
            (status("404 Not Found", &code("NoSuchBucket")), FaultKind::NotFound, Verdict::Refused),
            (status("403 Forbidden", &code("SignatureDoesNotMatch")), FaultKind::Login, Verdict::Refused),
            (status("403 Forbidden", &code("AccessDenied")), FaultKind::Denied, Verdict::Refused),
            (status("409 Conflict", &code("BlobImmutableDueToPolicy")), FaultKind::Denied, Verdict::Refused),
            (status("409 Conflict", &code("BlobAlreadyExists")), FaultKind::Exists, Verdict::Refused),
            (status("404 Not Found", &code("NoSuchUpload")), FaultKind::Busy, Verdict::Retry),
            (status("400 Bad Request", &code("InvalidBlockList")), FaultKind::Busy, Verdict::Retry),
            (status("400 Bad Request", &code("IncompleteBody")), FaultKind::Damaged, Verdict::Retry),
            (status("409 Conflict", &code("OperationAborted")), FaultKind::Busy, Verdict::Retry),
            (status("409 Conflict", ""), FaultKind::Exists, Verdict::Refused),
            (status("412 Precondition Failed", ""), FaultKind::Exists, Verdict::Refused),
            (status("408 Request Timeout", ""), FaultKind::Busy, Verdict::Retry),
            (status("504 Gateway Timeout", ""), FaultKind::Busy, Verdict::Retry),
            (
                answer(&format!("Server returned error response: {}", code("InternalError"))),
                FaultKind::Busy,
                Verdict::Retry,
            ),
            (
                answer("DeleteObjects request failed for key a/b (c): no (code: AccessDenied)"),
                FaultKind::Denied,
                Verdict::Refused,
            ),
            (answer("DeleteObjects request failed for key a: slow (code: SlowDown)"), FaultKind::Busy, Verdict::Retry),
            (answer("DeleteObjects request failed for key a: what (code: New)"), FaultKind::Other, Verdict::Retry),
            (status("301 Moved Permanently", ""), FaultKind::Invalid, Verdict::Refused),
            (answer("Received redirect without LOCATION"), FaultKind::Invalid, Verdict::Refused),
            (answer("Error performing PUT http://169.254.169.254/x in 1s"), FaultKind::NoIdentity, Verdict::Refused),
            (answer("Error performing PUT http://h:1/latest/api/token in 1s"), FaultKind::NoIdentity, Verdict::Refused),
            (
                Error::NotImplemented { operation: "x".into(), implementer: "y".into() },
                FaultKind::Unsupported,
                Verdict::Refused,
            ),
        ];
        for (error, kind, verdict) in cases {
            let fault = Fault::of(&error);
            assert_eq!((fault.kind, fault.verdict()), (kind, verdict), "{error}");
        }
    }

    #[test]
    fn the_text_names_what_came_back_and_no_url() {
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied.\nno</Message><StringToSign>S</StringToSign></Error>";
        let fault = Fault::of(&status("403 Forbidden", body));
        assert_eq!(fault.to_string(), "the store answered 403 AccessDenied (Access Denied.)");
        assert!(!fault.to_string().contains("SECRET"));
    }

    #[test]
    fn file_errors_are_told_by_their_kind() {
        let cases = [
            (io::ErrorKind::PermissionDenied, FaultKind::Denied),
            (io::ErrorKind::StorageFull, FaultKind::Full),
            (io::ErrorKind::InvalidFilename, FaultKind::Invalid),
            (io::ErrorKind::BrokenPipe, FaultKind::Other),
        ];
        for (io_kind, kind) in cases {
            let error = Error::Generic { store: "file", source: Box::new(io::Error::from(io_kind)) };
            assert_eq!(Fault::of(&error).kind, kind, "{io_kind:?}");
        }
    }
}
