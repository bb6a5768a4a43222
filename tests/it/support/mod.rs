//! What every test here needs: topics and records, configurations, the real binary, and reading an archive back.

pub(crate) mod archive;
pub(crate) mod configuration;
pub(crate) mod disk;
pub(crate) mod kafka;
pub(crate) mod member;
pub(crate) mod process;
pub(crate) mod proxy;

use siltstone::clock::{Clock, SystemClock};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Nothing on one machine takes longer than this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Between two looks at something that is waited for, always with a deadline.
#[allow(clippy::disallowed_methods)] // Other processes are waited for: nothing wakes us.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// The setting `name` of a running service. Absent services are failures, never skips.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run scripts/test.sh, or scripts/services.sh start and eval \"$(scripts/services.sh env)\"")
    })
}

/// A Python with the packages of the tests.
pub(crate) fn python() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python.sh");
    let printed = Command::new(script).output().expect("scripts/python.sh runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    String::from_utf8(printed.stdout).expect("a path").trim().to_string()
}

/// A name that no other test and no other run has.
pub(crate) fn unique(what: &str) -> String {
    format!("it-{what}-{:016x}", RandomState::new().build_hasher().finish())
}

/// Time since it was made.
pub(crate) struct Stopwatch(SystemClock);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(SystemClock::new())
    }
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.monotonic_ms().unsigned_abs())
    }
}

/// Looks until `found` gives something; fails with `what` at the deadline.
pub(crate) fn until<T>(what: &str, deadline: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Stopwatch::start();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(began.elapsed() < deadline, "not within {} s: {what}", deadline.as_secs());
        pause();
    }
}
