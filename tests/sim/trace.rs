//! What happened, line by line. Two runs of one seed must give the same lines.

use std::fmt::Write;

/// The lines of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    text: String,
    lines: usize,
    aloud: bool,
}

impl Trace {
    /// No lines yet. With `SIM_LOG` set, each is also printed as it comes.
    pub(crate) fn new() -> Self {
        Self { text: String::new(), lines: 0, aloud: std::env::var_os("SIM_LOG").is_some() }
    }

    pub(crate) fn line(&mut self, now_ms: i64, what: std::fmt::Arguments<'_>) {
        self.lines += 1;
        if self.aloud {
            eprintln!("{:>9.3} {what}", now_ms as f64 / 1000.0);
        }
        writeln!(self.text, "{:>9.3} {what}", now_ms as f64 / 1000.0).expect("a string takes everything");
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn lines(&self) -> usize {
        self.lines
    }
}
