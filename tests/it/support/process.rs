//! The real binary: run to its end, or watched while it runs.

use super::{DEADLINE, Stopwatch, until};
use rustix::process::PidfdFlags;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Lines of one of its streams, so far.
type Lines = Arc<Mutex<String>>;

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ended {
    /// It ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        let Self { signal, out, err, .. } = &self;
        assert_eq!(self.code, Some(code), "signal: {signal:?}\nstdout:\n{out}\nstderr:\n{err}");
        self
    }
    /// Standard error has all of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in\n{}", self.err);
        }
        self
    }
    /// Standard output has all of `parts`.
    #[track_caller]
    pub(crate) fn prints(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in\n{}\nstderr:\n{}", self.out, self.err);
        }
        self
    }
    /// Neither stream has any of `secrets`.
    #[track_caller]
    pub(crate) fn hides(self, secrets: &[&str]) -> Self {
        for secret in secrets {
            assert!(
                !self.out.contains(secret) && !self.err.contains(secret),
                "{secret} was shown:\n{}{}",
                self.out,
                self.err
            );
        }
        self
    }
}

/// A running siltstone; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    /// Means this process alone, also when another one has its number.
    handle: OwnedFd,
    out: Lines,
    err: Lines,
    readers: Vec<JoinHandle<()>>,
    began: Stopwatch,
}

impl Running {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("SILTSTONE_CONFIG");
        for (name, value) in environment {
            command.env(name, value);
        }
        let mut child = command.spawn().expect("siltstone starts");
        let (out, err) = (Lines::default(), Lines::default());
        let readers = vec![
            follow(child.stdout.take().expect("piped"), out.clone()),
            follow(child.stderr.take().expect("piped"), err.clone()),
        ];
        // Nobody has waited for it yet, so the number is its own.
        let pid = rustix::process::Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("a handle");
        Self { child, handle, out, err, readers, began: Stopwatch::start() }
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().expect("no reader panics").clone()
    }

    /// Waits until standard error has `part`.
    #[track_caller]
    pub(crate) fn until_says(&mut self, part: &str) {
        let began = Stopwatch::start();
        loop {
            let err = self.err();
            if err.contains(part) {
                return;
            }
            let over = self.child.try_wait().expect("a child");
            assert!(over.is_none() && began.elapsed() < DEADLINE, "{part:?} is not said ({over:?}):\n{err}");
            super::pause();
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::pidfd_send_signal(&self.handle, signal).expect("it lives");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self, deadline: Duration) -> Ended {
        let began = Stopwatch::start();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if began.elapsed() >= deadline {
                panic!("still running after {} s:\n{}", deadline.as_secs(), self.err());
            }
            super::pause();
        };
        let took = self.began.elapsed();
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader");
        }
        let text = |lines: &Lines| lines.lock().expect("no reader panics").clone();
        Ended { code: status.code(), signal: status.signal(), out: text(&self.out), err: text(&self.err), took }
    }

    /// SIGTERM, then its end.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(rustix::process::Signal::TERM);
        self.wait(DEADLINE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what it said:\n{}", self.err());
        }
        // Already gone in a test that went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn follow(stream: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            lines.lock().expect("no test panics inside").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn siltstone(arguments: &[&str]) -> Ended {
    Running::start(arguments, &[]).wait(DEADLINE)
}

/// A GET of a running process's listener: status line and body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    until(&format!("http://{address}{path} answers"), DEADLINE, || try_get(address, path))
}

fn try_get(address: &str, path: &str) -> Option<(u16, String)> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_string()))
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}
