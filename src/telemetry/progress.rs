//! The live lines on a terminal: one per topic, with rate, lag, open parts and uploads.

use super::status::{Status, TopicStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// How often the lines change.
const REFRESH: Duration = Duration::from_millis(500);
/// Topics shown; the rest is summed up in one line.
const TOPICS_MAX: usize = 12;

/// Lines at the bottom of the terminal. Cloning shares them.
#[derive(Clone, Default)]
pub struct Progress(MultiProgress);

impl Progress {
    /// Keeps the lines up to date until the runtime ends.
    pub fn follow(&self, status: Arc<Status>) {
        let lines = self.0.clone();
        tokio::spawn(async move {
            let mut bars: BTreeMap<String, ProgressBar> = BTreeMap::new();
            let mut before: BTreeMap<String, TopicStatus> = BTreeMap::new();
            loop {
                tokio::time::sleep(REFRESH).await;
                let topics = status.topics();
                bars.retain(|name, bar| {
                    let keep = topics.contains_key(name) || name.is_empty();
                    if !keep {
                        bar.finish_and_clear();
                    }
                    keep
                });
                for (shown, (name, topic)) in topics.iter().enumerate() {
                    let hidden = topics.len().saturating_sub(TOPICS_MAX);
                    if shown >= TOPICS_MAX {
                        let bar = bars.entry(String::new()).or_insert_with(|| line(&lines));
                        bar.set_message(format!("… and {hidden} more topics"));
                        break;
                    }
                    let bar = bars.entry(name.clone()).or_insert_with(|| line(&lines));
                    bar.set_message(describe(name, topic, before.get(name)));
                }
                before = topics;
            }
        });
    }

    /// Takes the lines off the terminal.
    pub fn clear(&self) {
        // A terminal that is gone needs no clearing.
        drop(self.0.clear());
    }
}

fn line(lines: &MultiProgress) -> ProgressBar {
    let bar = lines.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn describe(name: &str, now: &TopicStatus, before: Option<&TopicStatus>) -> String {
    let read = before.map_or(0, |before| now.read.saturating_sub(before.read));
    let rate = read as f64 / REFRESH.as_secs_f64();
    let stopped = if now.stopped > 0 { format!(", {} STOPPED", now.stopped) } else { String::new() };
    format!(
        "{name}: {rate:.0} records/s, lag {}, {} open parts, {} uploading, {} batches done ({} Kafka partitions{stopped})",
        now.lag, now.open_parts, now.uploading, now.committed_batches, now.partitions
    )
}

/// Log lines go above the progress lines.
impl<'a> MakeWriter<'a> for Progress {
    type Writer = AboveProgress;

    fn make_writer(&'a self) -> Self::Writer {
        AboveProgress { lines: self.0.clone(), text: Vec::new() }
    }
}

/// One log line on its way to the terminal.
pub struct AboveProgress {
    lines: MultiProgress,
    text: Vec<u8>,
}

impl Write for AboveProgress {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for AboveProgress {
    fn drop(&mut self) {
        self.lines.suspend(|| drop(io::stderr().write_all(&self.text)));
    }
}
