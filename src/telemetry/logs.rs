//! Logs: one line an event on standard error, as text or JSON, never per record.
//!
//! ERROR: data is at risk or a person must act. WARN: went on, unexpected. INFO: start, assign, seal, commit, stop.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The client of HDFS warns of each try of its own; what comes of them is logged as with every other store. That a namenode refuses the login it says
/// nowhere else.
const QUIETER: &str = "hdfs_native=error,hdfs_native::hdfs::connection=warn";

/// Installs the process's logger. `level`: a `tracing` filter such as `info` or `siltstone=debug`. Lines go to `writer`, so
/// that a progress line on the same terminal can step aside. Only the first call has an effect.
///
/// # Errors
/// The filter cannot be read.
pub fn install<W>(format: LogFormat, level: &str, colours: bool, writer: W) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let directives = if ["warn", "info"].contains(&level) { format!("{level},{QUIETER}") } else { level.to_string() };
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        format!("log level {level:?}: {error}; allowed: error, warn, info, debug, trace, or module=level,…")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // A second logger in one process (tests) is refused; the first one stays.
    let installed = match format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(installed);
    Ok(())
}
