//! The live lines on a terminal: one per topic, with rate, lag, open parts and uploads.

use super::status::{Status, TopicStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::fmt::MakeWriter;

/// How often the lines change.
const REFRESH: Duration = Duration::from_millis(500);
/// Topics shown; the rest is summed up in one line.
const TOPICS_MAX: usize = 12;

/// Lines at the bottom of the terminal. Cloning shares them.
#[derive(Clone, Default)]
pub struct Progress(MultiProgress);

/// The task that keeps the lines up to date. Dropping it asks the task to end; [`Following::end`] also waits for it.
pub struct Following {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Progress {
    /// A bar of its own for something that has `length` steps, with rate and time left.
    pub fn bar(&self, name: &str, length: u64) -> ProgressBar {
        let bar = self.0.add(ProgressBar::new(length));
        let template = "{prefix:<32} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_string());
        bar
    }

    /// Keeps the lines up to date until what it gives is ended or dropped.
    pub fn follow(&self, status: Arc<Status>) -> Following {
        let (stop, mut stopped) = oneshot::channel();
        let lines = self.0.clone();
        let task = tokio::spawn(async move {
            let mut bars: BTreeMap<String, ProgressBar> = BTreeMap::new();
            let mut before: BTreeMap<String, TopicStatus> = BTreeMap::new();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(REFRESH) => before = refresh(&lines, &mut bars, status.topics(), &before),
                    // An error is a sender that was dropped.
                    _ = &mut stopped => break,
                }
            }
            for bar in bars.into_values() {
                remove(&lines, &bar);
            }
            // A terminal that is gone needs no clearing.
            drop(lines.clear());
        });
        Following { stop, task }
    }
}

impl Following {
    /// Takes the lines off the terminal. Nothing is drawn after it.
    pub async fn end(self) {
        drop(self.stop);
        // A task that panicked draws nothing either.
        drop(self.task.await);
    }
}

/// Draws every line anew, and gives what they show.
fn refresh(
    lines: &MultiProgress,
    bars: &mut BTreeMap<String, ProgressBar>,
    topics: BTreeMap<String, TopicStatus>,
    before: &BTreeMap<String, TopicStatus>,
) -> BTreeMap<String, TopicStatus> {
    bars.retain(|name, bar| {
        let keep = topics.contains_key(name) || name.is_empty();
        if !keep {
            remove(lines, bar);
        }
        keep
    });
    for (shown, (name, topic)) in topics.iter().enumerate() {
        let hidden = topics.len().saturating_sub(TOPICS_MAX);
        if shown >= TOPICS_MAX {
            let bar = bars.entry(String::new()).or_insert_with(|| line(lines));
            show(bar, format!("… and {hidden} more topics"));
            break;
        }
        let bar = bars.entry(name.clone()).or_insert_with(|| line(lines));
        show(bar, describe(name, topic, before.get(name)));
    }
    topics
}

/// Changes a line and turns its spinner. Only the task draws: a ticker of the line's own would outlive it.
fn show(bar: &ProgressBar, text: String) {
    bar.set_message(text);
    bar.tick();
}

fn remove(lines: &MultiProgress, bar: &ProgressBar) {
    bar.finish_and_clear();
    lines.remove(bar);
}

fn line(lines: &MultiProgress) -> ProgressBar {
    let bar = lines.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::sync::Mutex;

    /// A terminal that remembers what was written to it.
    #[derive(Clone, Debug, Default)]
    struct Written(Arc<Mutex<String>>);

    impl Written {
        fn add(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("no test panics with it").push_str(text);
            Ok(())
        }

        fn text(&self) -> String {
            self.0.lock().expect("no test panics with it").clone()
        }
    }

    impl TermLike for Written {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.add(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.add(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.add("\r")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Log lines come after the end, too, and each of them would draw again what is left of the lines.
    #[tokio::test]
    async fn nothing_is_drawn_after_the_end() {
        let terminal = Written::default();
        let progress = Progress::default();
        progress.0.set_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let status = Arc::new(Status::default());
        status.set("access", TopicStatus::default());
        let live = progress.follow(status);
        let drawn = async {
            while !terminal.text().contains("access: ") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), drawn).await.expect("a line is drawn");
        live.end().await;
        let cleared = terminal.text();
        assert!(cleared.ends_with('\r'), "the line is left on the terminal: {cleared:?}");
        progress.0.suspend(|| ());
        let after = terminal.text()[cleared.len()..].to_string();
        assert!(!after.contains("access"), "{after:?}");
    }
}
