//! Commands and POSTs.

use super::{Caller, HookFailure, SAID_BYTES_MAX, said};
use crate::config::Secret;
use crate::effect::Effect;
use crate::pipeline::start::chain;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::FusedFuture;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Error, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command as Process};
use url::Url;

/// The variable in which a command finds the key.
pub const KEY_VARIABLE: &str = "SILTSTONE_KEY";
/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long it is waited for the last words of a command that has ended: something that it left behind may keep them open.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);

/// A command that gets the body on its standard input and the key in [`KEY_VARIABLE`]; it was told when it ends with 0.
#[derive(Debug)]
pub struct Command {
    /// The program: a path, or a name that `PATH` has.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<Secret>,
}

/// Ends a command that is not waited for any more, with whatever it has started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody has waited for it yet, so the number is its own. It may be gone all the same.
        if let Some(pid) = self.0 {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

#[async_trait]
impl Caller for Command {
    fn effect(&self) -> Effect {
        Effect::HookCommand
    }

    fn shown(&self) -> String {
        format!("run {}", self.program)
    }

    async fn call(&self, key: &str, body: &str) -> Result<(), HookFailure> {
        let mut process = Process::new(&self.program);
        process
            .args(self.arguments.iter().map(Secret::reveal))
            .env(KEY_VARIABLE, key)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A signal to the terminal's group is not meant for it, and it can be ended with what it starts.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = process.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                HookFailure::refused(format!("{error}; is the program there, and may it be run?"))
            }
            _ => HookFailure::passing(error.to_string()),
        })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let mut heard = Vec::new();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // One that does not read it may be right: its exit code tells.
                drop(stdin.write_all(body.as_bytes()).await);
                drop(stdin.write_all(b"\n").await);
            }
        };
        let status = run(&mut child, Group(pid), feed, stderr, &mut heard).await;
        let status = status.map_err(|error| HookFailure::passing(format!("wait for it: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let heard = said(&heard);
        let words =
            if heard.is_empty() { "; it wrote nothing to standard error".to_string() } else { format!(": {heard}") };
        Err(HookFailure::passing(format!("{}{words}", ended(status))))
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

/// Feeds and hears a command until it ends.
async fn run(
    child: &mut Child,
    mut group: Group,
    feed: impl Future<Output = ()>,
    stderr: Option<ChildStderr>,
    heard: &mut Vec<u8>,
) -> Result<ExitStatus, Error> {
    let hear = async {
        if let Some(stderr) = stderr {
            hear(stderr, heard).await;
        }
    };
    let (feed, hear) = (feed.fuse(), hear.fuse());
    tokio::pin!(feed, hear);
    let status = loop {
        tokio::select! {
            status = child.wait() => {
                // From now on its number may be another one's.
                group.0 = None;
                break status;
            }
            () = &mut feed => {}
            () = &mut hear => {}
        }
    };
    if !hear.is_terminated() {
        drop(tokio::time::timeout(LAST_WORDS_WAIT, hear).await);
    }
    status
}

/// Reads to the end, and keeps the last of it.
async fn hear(mut stderr: ChildStderr, heard: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while let Ok(count) = stderr.read(&mut piece).await {
        if count == 0 {
            return;
        }
        heard.extend_from_slice(&piece[..count]);
        let surplus = heard.len().saturating_sub(2 * SAID_BYTES_MAX);
        heard.drain(..surplus);
    }
}

/// A POST of the body to a URL, with the key as `Idempotency-Key`; it was told when the answer is 2xx.
#[derive(Debug)]
pub struct Post {
    http: reqwest::Client,
    url: Secret,
    token: Option<Secret>,
}

impl Post {
    /// Contacts nobody yet.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(url: Secret, token: Option<Secret>) -> Result<Self, String> {
        // A redirect would make a GET of it.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .redirect(Policy::none())
            .user_agent(concat!("siltstone/", env!("CARGO_PKG_VERSION")));
        let http = http.build().map_err(|error| format!("no HTTP client can be made: {error}"))?;
        Ok(Self { http, url, token })
    }
}

/// A URL without what may be a secret: path and query.
pub fn shown_url(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "***".to_string() };
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
    format!("{}/{}", url.origin().ascii_serialization(), if is_bare { "" } else { "***" })
}

#[async_trait]
impl Caller for Post {
    fn effect(&self) -> Effect {
        Effect::HookPost
    }

    fn shown(&self) -> String {
        format!("POST to {}", shown_url(self.url.reveal()))
    }

    async fn call(&self, key: &str, body: &str) -> Result<(), HookFailure> {
        let mut request = self
            .http
            .request(reqwest::Method::POST, self.url.reveal())
            .header(CONTENT_TYPE, "application/json")
            .header(HeaderName::from_static("idempotency-key"), key)
            .body(body.to_string());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        // The URL may be a secret.
        let answer = request.send().await.map_err(|error| HookFailure::passing(chain(&error.without_url())))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let heard = self.hidden(said(&beginning(answer).await));
        let words = if heard.is_empty() { String::new() } else { format!(": {heard}") };
        Err(match status {
            _ if status.is_redirection() => HookFailure::refused(format!(
                "{status}: it sends elsewhere, which is not followed; give the url that answers"
            )),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                HookFailure::passing(format!("{status}{words}"))
            }
            _ if status.is_client_error() => HookFailure::refused(format!("{status}{words}")),
            _ => HookFailure::passing(format!("{status}{words}")),
        })
    }
}

impl Post {
    /// An answer may repeat what it was sent.
    fn hidden(&self, text: String) -> String {
        match &self.token {
            Some(token) => text.replace(token.reveal(), "***"),
            None => text,
        }
    }
}

/// The first bytes of an answer.
async fn beginning(mut answer: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() >= SAID_BYTES_MAX {
            bytes.truncate(SAID_BYTES_MAX);
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::fault::Verdict;
    use crate::hook::{Hook, Kind};

    fn shell(script: &str) -> Command {
        let arguments = ["-c", script].map(Secret::new).to_vec();
        Command { program: "sh".to_string(), arguments }
    }

    /// Goal: a command gets body and key, and its exit code tells; what it says is in the failure. One that reads nothing of a large body is no failure.
    #[tokio::test]
    async fn a_command_gets_the_body_and_its_exit_code_tells() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("told");
        let script = format!("cat > {0}; printf %s \"$SILTSTONE_KEY\" >> {0}", path.display());
        shell(&script).call("the-key", "{\"a\":1}").await.expect("told");
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "{\"a\":1}\nthe-key");
        shell("exit 0").call("k", &"x".repeat(1 << 20)).await.expect("told");
        let failure =
            shell("cat >/dev/null; echo no such table >&2; exit 7").call("k", "{}").await.expect_err("it says no");
        assert_eq!((failure.message.as_str(), failure.verdict), ("exit code 7: no such table", Verdict::Retry));
        let failure = shell("kill -TERM $$").call("k", "{}").await.expect_err("ended");
        assert!(failure.message.starts_with("ended by signal 15"), "{}", failure.message);
        // Much is said before anything is read.
        let failure = shell("head -c 300000 /dev/zero | tr '\\0' x >&2; echo last >&2; cat >/dev/null; exit 1");
        let failure = failure.call("k", &"x".repeat(1 << 20)).await.expect_err("it says no");
        assert!(failure.message.len() < 1_100 && failure.message.ends_with("last"), "{}", failure.message);
        let nowhere = Command { program: "/nowhere/at/all".to_string(), arguments: Vec::new() };
        assert_eq!(nowhere.call("k", "{}").await.expect_err("not there").verdict, Verdict::Refused);
    }

    /// Goal: a command that hangs ends with the timeout, and so does what it has started; one that leaves something behind is not waited for.
    #[tokio::test]
    async fn a_command_that_hangs_is_ended_with_all_it_has_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", path.display());
        let hook = Hook::new(("a", "h"), (true, false), Duration::from_millis(500), Box::new(shell(&script)));
        let failure = hook.call(Kind::Batch, "k", "{}").await.expect_err("it hangs");
        assert!(failure.message.contains("run sh: no end within 0.5 s"), "{}", failure.message);
        let pid: i32 = std::fs::read_to_string(&path).expect("a number").trim().parse().expect("a number");
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            state.map_or(true, |state| state.contains(") Z "))
        };
        for _ in 0..100 {
            if is_gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(is_gone(), "{pid} is there still");
        let leaves = shell("sleep 5 & echo left >&2; exit 3").call("k", "{}").await.expect_err("it says no");
        assert_eq!(leaves.message, "exit code 3: left");
    }

    /// Goal: nothing of a URL that may be a secret is shown.
    #[test]
    fn a_url_is_shown_without_its_secrets() {
        assert_eq!(shown_url("https://hooks.example.com:8443/T0/s3cr3t?sig=x"), "https://hooks.example.com:8443/***");
        assert_eq!(shown_url("http://h/?sig=x"), "http://h/***");
        assert_eq!(shown_url("http://h:80"), "http://h/");
        let post = Post::new(Secret::new("http://127.0.0.1:1/s3cr3t"), Some(Secret::new("t0k3n"))).expect("a client");
        assert!(!format!("{post:?}{}", post.shown()).contains("s3cr3t"));
        assert_eq!(post.hidden("401 for t0k3n".to_string()), "401 for ***");
    }

    #[tokio::test]
    async fn a_refused_connection_shows_no_url() {
        let post = Post::new(Secret::new("http://127.0.0.1:1/s3cr3t"), None).expect("a client");
        let failure = post.call("k", "{}").await.expect_err("nobody listens");
        assert!(!failure.message.contains("s3cr3t") && failure.message.contains("refused"), "{}", failure.message);
        assert_eq!(failure.verdict, Verdict::Retry);
    }
}
