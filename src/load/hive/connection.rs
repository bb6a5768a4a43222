//! One connection to a metastore, and one call after the other on it.

use super::HiveSettings;
use super::error::{Exception, HiveError};
use super::wire::{self, ANSWER_BYTES_MAX, Answer, Fields, Unread, Value, fields, text, texts};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use url::Url;

/// How long a call may take, with its answer.
pub(super) const CALL_WAIT: Duration = Duration::from_secs(30);
/// How long one metastore has to take a connection, with TLS.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// What the metastore listens on where nobody said otherwise.
const PORT: u16 = 9083;
/// Most characters of a metastore's own text that are shown. They can be whole Java stack traces.
const MESSAGE_CHARS_MAX: usize = 300;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;

const SET_USER: Method = Method { name: "set_ugi", throws: &[(1, Exception::Meta)] };

/// A call of the metastore's interface, and the exceptions it declares by the ids that they have in its results.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) throws: &'static [(i16, Exception)],
}

/// Metastores over the same database.
pub(super) struct Servers {
    servers: Vec<Server>,
    tls: Option<TlsConnector>,
    user: Option<String>,
    /// Which one is tried first. One that breaks or stays silent is the last.
    first: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let uris = self.servers.iter().map(|server| &server.uri);
        f.debug_list().entries(uris).finish()
    }
}

struct Server {
    uri: String,
    host: String,
    port: u16,
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection. After an error that is no answer it is of no use.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    uri: String,
    sequence: i32,
    /// Of [`Servers`]: counted up when this one turns out to be of no use.
    first: Arc<AtomicUsize>,
}

enum ConnectError {
    Failed(String),
    Tls(String),
}

impl Servers {
    pub(super) fn new(settings: &HiveSettings) -> Result<Self, HiveError> {
        let servers: Result<Vec<Server>, HiveError> = settings.uris.iter().map(|uri| server(uri)).collect();
        let servers = servers?;
        if servers.is_empty() {
            let reason = "at least one is needed, such as thrift://metastore:9083".to_string();
            return Err(HiveError::Settings { key: "uris", value: "[]".to_string(), reason });
        }
        let tls = settings.tls.as_ref().map(|tls| connector(tls.ca_file.as_deref())).transpose()?;
        Ok(Self { servers, tls, user: settings.user.clone(), first: Arc::default() })
    }

    /// A connection to the first that takes one.
    pub(super) async fn connect(&self, what: &str) -> Result<Connection, HiveError> {
        let (mut reasons, mut untrusted) = (Vec::new(), None);
        let count = self.servers.len();
        let first = self.first.load(Ordering::Relaxed) % count;
        for server in self.servers.iter().cycle().skip(first).take(count) {
            let opened = timeout(CONNECT_WAIT, open(server, self.tls.as_ref()));
            let late = || Err(ConnectError::Failed(format!("nothing within {} s", CONNECT_WAIT.as_secs())));
            match opened.await.unwrap_or_else(|_| late()) {
                Ok(stream) => {
                    let (uri, first) = (server.uri.clone(), Arc::clone(&self.first));
                    let mut connection = Connection { stream, uri, sequence: 0, first };
                    if let Some(user) = &self.user {
                        let nobody: [&str; 0] = [];
                        let arguments = fields([(1, text(user)), (2, texts(nobody))]);
                        connection.call(what, &SET_USER, arguments).await?;
                    }
                    return Ok(connection);
                }
                Err(ConnectError::Failed(reason)) => reasons.push(format!("{}: {reason}", server.uri)),
                Err(ConnectError::Tls(reason)) => {
                    reasons.push(format!("{}: {reason}", server.uri));
                    let what = what.to_string();
                    untrusted.get_or_insert(HiveError::Tls { what, uri: server.uri.clone(), reason });
                }
            }
        }
        let unreachable = || HiveError::Unreachable { what: what.to_string(), reasons: reasons.join("; ") };
        Err(untrusted.unwrap_or_else(unreachable))
    }
}

fn server(uri: &str) -> Result<Server, HiveError> {
    let wrong = |reason: &str| HiveError::Settings {
        key: "uris",
        value: uri.to_string(),
        reason: format!("{reason}; it is to be like thrift://metastore:9083"),
    };
    let url = Url::parse(uri).map_err(|error| wrong(&error.to_string()))?;
    if url.scheme() != "thrift" {
        return Err(wrong("another scheme than thrift"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("no host"))?;
    let is_more = !url.username().is_empty() || url.query().is_some() || !matches!(url.path(), "" | "/");
    if is_more {
        return Err(wrong("more than a host and a port"));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
    Ok(Server { uri: uri.to_string(), host, port: url.port().unwrap_or(PORT) })
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, HiveError> {
    let mut roots = RootCertStore::empty();
    // What the machine trusts, as far as it can be read: with a file of one's own nothing else may be needed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |reason: String| HiveError::Settings {
            key: "ca_file",
            value: path.display().to_string(),
            reason: format!("{reason}; it is to hold certificates in PEM"),
        };
        let mut count = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(wrong("no certificate is in it".to_string()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HiveError::Settings { key: "tls", value: "true".to_string(), reason: error.to_string() })?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

async fn open(server: &Server, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>, ConnectError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(|error| ConnectError::Failed(error.to_string()))?;
    // Calls are small and waited for.
    stream.set_nodelay(true).map_err(|error| ConnectError::Failed(error.to_string()))?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(server.host.clone()).map_err(|error| ConnectError::Tls(error.to_string()))?;
    match tls.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if is_of_tls(&error) => Err(ConnectError::Tls(error.to_string())),
        Err(error) => Err(ConnectError::Failed(format!("TLS: {error}"))),
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

impl Connection {
    /// What the metastore answers; `None` where the call has no result.
    pub(super) async fn call(
        &mut self,
        what: &str,
        method: &Method,
        arguments: Fields,
    ) -> Result<Option<Value>, HiveError> {
        self.sequence += 1;
        let call = method.name;
        let bytes = match wire::call(call, self.sequence, &arguments) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.not_thrift(what, call, wire::said(&error))),
        };
        let answer = match timeout(CALL_WAIT, self.exchange(&bytes)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Broken::Connection(reason))) => return Err(self.interrupted(what, call, reason)),
            Ok(Err(Broken::Bytes(reason))) => return Err(self.not_thrift(what, call, reason)),
            Err(_) => {
                let reason = format!("there was no answer within {} s", CALL_WAIT.as_secs());
                return Err(self.interrupted(what, call, reason));
            }
        };
        let (exception, message) = match answer {
            Answer::Failure(message) => (Exception::Application, message),
            Answer::Reply(mut fields) => {
                let thrown = method.throws.iter().find_map(|(id, exception)| Some((*exception, fields.get(id)?)));
                let Some((exception, value)) = thrown else { return Ok(fields.remove(&0)) };
                let message = value.as_fields().and_then(|fields| fields.get(&1)).and_then(Value::as_text);
                (exception, message.unwrap_or_default())
            }
        };
        let (what, uri, message) = (what.to_string(), self.uri.clone(), shown(&message));
        Err(HiveError::Answered { what, uri, call, exception, message })
    }

    /// The struct that an answer is.
    pub(super) fn fields(&self, what: &str, method: &Method, answer: Option<Value>) -> Result<Fields, HiveError> {
        match answer {
            Some(Value::Struct(fields)) => Ok(fields),
            _ => Err(self.not_thrift(what, method.name, "a result of another type".to_string())),
        }
    }

    /// The struct that lies in the field `id` of an answer.
    pub(super) fn part(
        &self,
        what: &str,
        method: &Method,
        answer: Option<Value>,
        id: i16,
    ) -> Result<Fields, HiveError> {
        let part = self.fields(what, method, answer)?.remove(&id);
        self.fields(what, method, part)
    }

    async fn exchange(&mut self, bytes: &[u8]) -> Result<Answer, Broken> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        let mut answer = Vec::new();
        loop {
            // Nothing tells how long an answer is, so what is there is read anew until it is whole. Most fit into one read.
            answer.reserve(CHUNK_BYTES);
            if self.stream.read_buf(&mut answer).await? == 0 {
                let reason = match answer.len() {
                    0 => "the connection was closed without an answer".to_string(),
                    bytes => format!("the connection was closed after {bytes} bytes of the answer"),
                };
                return Err(Broken::Connection(reason));
            }
            match wire::answer(&answer, self.sequence) {
                Ok(answer) => return Ok(answer),
                Err(Unread::Incomplete) if answer.len() <= ANSWER_BYTES_MAX => {}
                Err(Unread::Incomplete) => {
                    return Err(Broken::Bytes(format!("more than {ANSWER_BYTES_MAX} bytes")));
                }
                Err(Unread::Wrong(reason)) => return Err(Broken::Bytes(reason)),
            }
        }
    }

    fn interrupted(&self, what: &str, call: &'static str, reason: String) -> HiveError {
        self.first.fetch_add(1, Ordering::Relaxed);
        HiveError::Interrupted { what: what.to_string(), uri: self.uri.clone(), call, reason }
    }

    fn not_thrift(&self, what: &str, call: &'static str, reason: String) -> HiveError {
        self.first.fetch_add(1, Ordering::Relaxed);
        HiveError::NotMetastore { what: what.to_string(), uri: self.uri.clone(), call, reason: shown(&reason) }
    }
}

enum Broken {
    Connection(String),
    Bytes(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Connection(format!("the connection broke: {error}"))
    }
}

/// One line of a text that may be a stack trace.
fn shown(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}
