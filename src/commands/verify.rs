//! `siltstone verify`: whether the archives are complete, and what is wrong where they are not.

use crate::cli::VerifyArgs;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kafka::KafkaCluster;
use crate::parse::text::printable;
use crate::pipeline::start::{chain, open_destinations};
use crate::verify::against::Cluster;
use crate::verify::finding::{Finding, Kind};
use crate::verify::{Counters, ENTRIES_MAX, Options, Parts, Summary, Told, Verified, verify};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// Findings of one kind that are shown to people; the rest is counted.
const SHOWN_MAX: u64 = 20;
/// How often the line on the terminal changes.
const REFRESH: Duration = Duration::from_millis(500);
/// How long a broker may be out of reach at the start.
const KAFKA_PATIENCE: Duration = Duration::from_secs(30);

/// Verifies, and writes findings and a summary to `out`.
///
/// # Errors
/// A store or Kafka refuses or does not answer; then nothing is proven.
pub async fn run(args: &VerifyArgs, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let options = Options {
        archive: args.archive.clone(),
        topic: args.topic.clone(),
        partitions: args.partition.clone(),
        since_ms: args.since,
        until_ms: args.until,
        deep: args.deep,
        counts: true,
        entries_max: ENTRIES_MAX,
    };
    let destinations = open_destinations(config)?;
    let cluster: Option<Arc<dyn Cluster>> = match args.against_kafka {
        true => {
            let connected = KafkaCluster::connect(&config.kafka, KAFKA_PATIENCE).await;
            Some(Arc::new(connected.map_err(|error| Failure::new(error.exit(), chain(&error)))?))
        }
        false => None,
    };
    let counters = Arc::new(Counters::default());
    let parts = Parts { destinations, clock: Arc::new(SystemClock::new()), cluster, counters: counters.clone() };
    let line = Line::new(io::stderr().is_terminal());
    let mut told = Output { out, json: args.json, shown: BTreeMap::new(), line: &line };
    let verified = {
        let mut tell = |what: Told| told.tell(&what);
        let mut verifying = std::pin::pin!(verify(config, parts, &options, &mut tell));
        loop {
            tokio::select! {
                verified = &mut verifying => break verified,
                () = tokio::time::sleep(REFRESH), if line.is_shown() => line.show(&counters),
            }
        }
    };
    line.clear();
    let Verified { summary, .. } = verified?;
    told.end(&summary, args)?;
    Ok(if summary.is_complete() { Exit::Done } else { Exit::Findings })
}

/// The line at the bottom of a terminal.
struct Line(Option<ProgressBar>);

impl Line {
    fn new(is_terminal: bool) -> Self {
        Self(is_terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            match ProgressStyle::with_template("{spinner} {wide_msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        }))
    }

    fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    fn show(&self, counters: &Counters) {
        if let Some(bar) = &self.0 {
            bar.set_message(counters.describe());
            bar.tick();
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }

    /// Writes while the line is out of the way.
    fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

struct Output<'o> {
    out: &'o mut (dyn Write + Send),
    json: bool,
    /// Findings so far, by kind.
    shown: BTreeMap<Kind, u64>,
    line: &'o Line,
}

impl Output<'_> {
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let (line, out) = (self.line, &mut *self.out);
        line.suspend(|| writeln!(out, "{text}")).map_err(|error| Failure::new(Exit::Failed, format!("write: {error}")))
    }

    fn tell(&mut self, told: &Told) -> Result<(), Failure> {
        let text = match told {
            Told::Finding(finding) if self.json => finding.to_json().to_string(),
            Told::Finding(finding) => match self.is_shown(finding) {
                true => shown(&finding.to_string()),
                false => return Ok(()),
            },
            Told::Note(note) if self.json => {
                let mut note = json!(note);
                note["kind"] = json!("note");
                note.to_string()
            }
            Told::Note(note) => {
                let of = note.of.as_deref().unwrap_or(&note.archive);
                shown(&format!("note        {of}: {}", note.what))
            }
        };
        self.write(&text)
    }

    fn is_shown(&mut self, finding: &Finding) -> bool {
        let count = self.shown.entry(finding.kind()).or_default();
        *count += 1;
        *count <= SHOWN_MAX
    }

    fn end(&mut self, summary: &Summary, args: &VerifyArgs) -> Result<(), Failure> {
        if self.json {
            let mut line = json!(summary);
            line["kind"] = json!("summary");
            line["complete"] = json!(summary.is_complete());
            line["seconds"] = json!(seconds(summary));
            line["deep"] = json!(args.deep);
            line["against_kafka"] = json!(args.against_kafka);
            line["since"] = time(args.since);
            line["until"] = time(args.until);
            return self.write(&line.to_string());
        }
        for line in lines(summary, args) {
            self.write(&line)?;
        }
        Ok(())
    }
}

fn seconds(summary: &Summary) -> f64 {
    summary.took_ms as f64 / 1_000.0
}

fn time(ms: Option<i64>) -> Value {
    ms.map_or(Value::Null, |ms| json!(crate::parse::timestamp::render_instant(ms)))
}

/// The summary for people.
fn lines(summary: &Summary, args: &VerifyArgs) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, &count) in &summary.findings {
        if count > SHOWN_MAX {
            lines.push(format!("{:<11} and {} more (all of them: --json)", kind.word(), count - SHOWN_MAX));
        }
    }
    if !summary.findings.is_empty() {
        lines.push(String::new());
        lines.push(format!("{:<11} {:>10}  what to do", "finding", "count"));
    }
    for (kind, count) in &summary.findings {
        lines.push(format!("{:<11} {count:>10}  {}", kind.word(), kind.advice()));
    }
    if !summary.findings.is_empty() {
        lines.push(String::new());
    }
    let Summary { partitions, receipts, objects, rows, bytes, listed, others, passes, .. } = summary;
    lines.push(format!(
        "{}: {receipts} receipts of {partitions} Kafka partitions, {objects} objects, {rows} rows, {bytes} bytes",
        summary.archives.join(", ")
    ));
    lines.push(format!(
        "{listed} objects listed, {others} of them with other names; {passes} passes, {:.1} s",
        seconds(summary)
    ));
    let besides = [
        (summary.open, "batches on their way"),
        (summary.absent, "offsets that Kafka had deleted before they could be read (absent)"),
        (summary.lost, "rows that receipts name as lost"),
        (summary.kept, "objects kept of an earlier try"),
        (summary.undecided, "objects of batches whose receipt cannot be read"),
        (summary.compactions, "compactions"),
        (summary.replaced, "objects that they replaced"),
        (summary.read_back, "objects read back"),
    ];
    for (count, what) in besides.into_iter().filter(|(count, _)| *count > 0) {
        lines.push(format!("{count} {what}"));
    }
    if args.since.is_some() || args.until.is_some() {
        lines.push("only batches of that time were looked at: gaps are told only between two of them".to_string());
    }
    if !args.deep {
        lines.push("no object was read: sizes are as their receipts say, contents are not proven (--deep)".to_string());
    }
    let verdict = if summary.is_complete() { "complete" } else { "NOT complete" };
    lines.push(verdict.to_string());
    lines
}

/// Text as a terminal may be given it.
fn shown(text: &str) -> String {
    text.chars().flat_map(printable).collect()
}
