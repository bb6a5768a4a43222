//! What a restore says: its plan, how far it is, its balance; as text or JSON lines.

use crate::cli::RestoreArgs;
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::parse::timestamp::render_instant;
use crate::restore::plan::{Choice, Survey};
use crate::restore::position::{RowsOf, known_end};
use crate::restore::tally::Tally;
use crate::restore::target::Finding;
use crate::telemetry::progress::Progress;
use serde::Serialize;
use std::io::Write;

/// How often a line is written where there is no terminal.
const LINES_MS: i64 = 10_000;

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Said<'a> {
    Plan {
        job: &'a str,
        group: &'a str,
        archive: &'a str,
        #[serde(flatten)]
        choice: &'a Choice,
        survey: &'a Survey,
        earlier: u64,
        findings: &'a [Finding],
        dry_run: bool,
    },
    Progress {
        job: &'a str,
        rows: u64,
        #[serde(flatten)]
        tally: &'a Tally,
        records_per_s: u64,
    },
    Balance {
        job: &'a str,
        complete: bool,
        balance: &'a Balance<'a>,
    },
}

/// What came of everything.
#[derive(Serialize)]
pub(super) struct Balance<'a> {
    #[serde(flatten)]
    pub(super) tally: Tally,
    /// Records that earlier runs of the job have produced.
    pub(super) earlier: u64,
    /// Of those that do not meet the condition: rows of which it cannot say, and why the first one.
    pub(super) undecided: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) undecided_why: &'a str,
    /// Records produced though their rows do not tell a time or offset, and something of their objects lies outside of those asked for.
    pub(super) untold_times: u64,
    pub(super) untold_offsets: u64,
    #[serde(flatten)]
    pub(super) left_out: LeftOut<'a>,
    /// How far each source partition has come.
    pub(super) partitions: Vec<Come<'a>>,
}

/// How far a source partition has come.
#[derive(Serialize)]
pub(super) struct Come<'a> {
    pub(super) partition: i32,
    /// All below it is done with.
    pub(super) next: i64,
    /// … and so many rows behind it …
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) rows: u64,
    /// … of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rows_of: Option<RowsOf>,
    /// `None`: nobody can tell it yet.
    pub(super) end: Option<i64>,
    /// Why it stopped there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<&'a str>,
}

fn end_text(end: Option<i64>) -> String {
    end.map_or("an end that is not known yet".to_string(), |end| end.to_string())
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Come<'_> {
    fn line(&self, topic: &str) -> String {
        let Self { partition, next, rows, rows_of, end, stopped } = self;
        let (of, is_left) = (end_text(*end), *next < end.unwrap_or(i64::MAX));
        let at = match rows_of {
            Some(RowsOf::Record) => format!("{next} ({rows} rows of offset {next} are restored, and it has more)"),
            Some(RowsOf::Object) => format!("{next} and {rows} rows behind it"),
            None => next.to_string(),
        };
        match stopped {
            Some(why) => format!("\n  {topic}/{partition}: stopped at {at}, of {of}: {why}"),
            None if is_left => format!("\n  {topic}/{partition}: at {at}, of {of}"),
            None => format!("\n  {topic}/{partition}: whole, to {of}"),
        }
    }
}

/// Records of the range that the output does not have.
#[derive(Serialize)]
pub(super) struct LeftOut<'a> {
    dead_letters: u64,
    dropped: &'a std::collections::BTreeMap<String, u64>,
    without_output: u64,
    absent: u64,
    lost: u64,
}

impl<'a> LeftOut<'a> {
    pub(super) fn of(survey: &'a Survey) -> Self {
        Self {
            dead_letters: survey.dead_letters,
            dropped: &survey.dropped,
            without_output: survey.without_output,
            absent: survey.absent,
            lost: survey.lost,
        }
    }

    /// A line for each, as far as there is something.
    fn lines(&self) -> String {
        let dropped = self.dropped.values().sum();
        let lines = [
            (self.dead_letters, "records are not in it but dead letters (`siltstone dead-letters`)"),
            (dropped, "records were dropped by rules when they were archived"),
            (self.without_output, "records were archived when there was no such output"),
            (self.absent, "offsets were gone from Kafka before they could be archived, or hold no records"),
            (self.lost, "rows are gone from the bucket"),
        ];
        let said =
            lines.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("\n  not there: {count} {what}"));
        said.collect()
    }
}

pub(super) fn say(
    out: &mut dyn Write,
    json: bool,
    line: &Said<'_>,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let line = match json {
        true => serde_json::to_string(line).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
        false => text(),
    };
    let wrote = writeln!(out, "{line}").and_then(|()| out.flush());
    wrote.map_err(|error| Failure::new(Exit::Failed, format!("write to the terminal: {error}")))
}

pub(super) fn plan_text(
    args: &RestoreArgs,
    job: &str,
    choice: &Choice,
    survey: &Survey,
    earlier: u64,
    findings: &[Finding],
) -> String {
    let (topic, to) = (&args.topic, &args.to_topic);
    let begin = match (args.dry_run, earlier) {
        (true, _) => format!("job {job}, not begun with: --dry-run"),
        (false, 0) => format!("job {job}"),
        (false, earlier) => format!("job {job}, gone on with: {earlier} records are restored already"),
    };
    let mut text = format!("{begin}\n  {topic} to {to}, from the output {}", choice.output);
    if !choice.is_asked && !choice.others.is_empty() {
        text += &format!(" (there are also {}: --output NAME)", choice.others.join(", "));
    }
    for (partition, (first, end)) in &survey.partitions {
        text += &format!("\n  {topic}/{partition} [{first}, {})", end_text(known_end(*end)));
    }
    if survey.partitions.is_empty() {
        return text + "\n  nothing of it is archived";
    }
    let time = |ms: Option<i64>| ms.map_or("unknown".to_string(), render_instant);
    text += &format!(
        "\n  {} rows in {} objects of {} batches, {}; event times {} to {}",
        survey.rows,
        survey.objects,
        survey.batches,
        indicatif::HumanBytes(survey.bytes),
        time(survey.event_min_ms),
        time(survey.event_max_ms)
    );
    for loss in &survey.losses {
        text += &format!("\n  lost: {loss}");
    }
    if survey.of_other_parts > 0 {
        text += &format!(
            "\n  left out: {} rows that tell no offset, of objects that begin before --from-offset: they are of the part before it",
            survey.of_other_parts
        );
    }
    if survey.losses.is_empty() {
        text += "\n  records come back as they were; their offsets are new";
    }
    for (untold, asked, told) in [(survey.untold_times, "times", "time"), (survey.untold_offsets, "offsets", "offset")]
    {
        if untold.objects > 0 {
            text += &format!(
                "\n  warning: {} objects reach beyond the {asked} asked for, and their rows tell no {told}: all of their {} rows are restored",
                untold.objects, untold.rows
            );
        }
    }
    for (partition, why) in &survey.unreadable {
        text += &format!(
            "\n  warning: {topic}/{partition} will stop where something cannot be read, the others go on: {why}"
        );
    }
    text += &LeftOut::of(survey).lines();
    for finding in findings {
        text += &format!("\n  {}: {}", if finding.refused { "refused" } else { "warning" }, finding.text);
    }
    text
}

pub(super) fn balance_text(job: &str, topic: &str, to_topic: &str, balance: &Balance<'_>) -> String {
    let tally = &balance.tally;
    let mut text = format!(
        "job {job}: {} records produced to {to_topic} in {} transactions, {}; {} restored earlier\n  {} rows read, {} outside of the times \
         and offsets, {} not meeting the condition",
        tally.produced,
        tally.transactions,
        indicatif::HumanBytes(tally.bytes),
        balance.earlier,
        tally.read,
        tally.outside,
        tally.filtered
    );
    if balance.undecided > 0 {
        text += &format!(
            "\n  of {} rows the condition cannot say whether they meet it: {}",
            balance.undecided, balance.undecided_why
        );
    }
    for (count, what) in [
        (tally.untimed, "records have the time of the restore: they had none, or 0"),
        (balance.untold_times, "records are restored though their rows do not tell their time"),
        (balance.untold_offsets, "records are restored though their rows do not tell their offset"),
    ] {
        if count > 0 {
            text += &format!("\n  {count} {what}");
        }
    }
    text += &balance.left_out.lines();
    let come: String = balance.partitions.iter().map(|come| come.line(topic)).collect();
    text + &come
}

/// Shows how far it is: a bar on a terminal, lines elsewhere.
pub(super) struct Watch<'a> {
    bar: Option<(indicatif::ProgressBar, Progress)>,
    args: &'a RestoreArgs,
    job: &'a str,
    rows: u64,
    clock: &'a dyn Clock,
    began_ms: i64,
    next_line_ms: i64,
    unwritten: Option<Failure>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        progress: Option<Progress>,
        args: &'a RestoreArgs,
        job: &'a str,
        rows: u64,
        clock: &'a dyn Clock,
    ) -> Self {
        let bar = progress.map(|progress| (progress.bar(&args.to_topic, rows), progress));
        let began_ms = clock.monotonic_ms();
        Self { bar, args, job, rows, clock, began_ms, next_line_ms: began_ms + LINES_MS, unwritten: None }
    }

    pub(super) fn see(&mut self, tally: &Tally, out: &mut dyn Write) {
        let now_ms = self.clock.monotonic_ms();
        if let Some((bar, _)) = &self.bar {
            bar.set_position(tally.read);
            return;
        }
        if now_ms < self.next_line_ms {
            return;
        }
        self.next_line_ms = now_ms + LINES_MS;
        let seconds = (now_ms - self.began_ms).max(1) as f64 / 1000.0;
        let records_per_s = (tally.produced as f64 / seconds).round() as u64;
        let (rows, job) = (self.rows, self.job);
        let said = Said::Progress { job, rows, tally, records_per_s };
        let text =
            || format!("{} of {rows} rows, {} records produced, {records_per_s} records/s", tally.read, tally.produced);
        if let Err(failure) = say(out, self.args.json, &said, text) {
            self.unwritten.get_or_insert(failure);
        }
    }

    /// Takes the bar off the terminal.
    ///
    /// # Errors
    /// A line could not be written.
    pub(super) fn end(self) -> Result<(), Failure> {
        if let Some((bar, progress)) = self.bar {
            bar.finish_and_clear();
            drop(progress);
        }
        self.unwritten.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what `rows` are of is said, and no number that nobody knows.
    #[test]
    fn how_far_a_source_partition_is() {
        let of = |next, rows, rows_of, end, stopped| Come { partition: 3, next, rows, rows_of, end, stopped }.line("t");
        let record = Some(RowsOf::Record);
        assert_eq!(
            of(5, 20, record, Some(9), Some("why")),
            "\n  t/3: stopped at 5 (20 rows of offset 5 are restored, and it has more), of 9: why"
        );
        assert_eq!(
            of(5, 20, record, Some(9), None),
            "\n  t/3: at 5 (20 rows of offset 5 are restored, and it has more), of 9"
        );
        assert_eq!(of(5, 20, Some(RowsOf::Object), Some(9), None), "\n  t/3: at 5 and 20 rows behind it, of 9");
        assert_eq!(of(5, 0, None, Some(9), Some("why")), "\n  t/3: stopped at 5, of 9: why");
        assert_eq!(of(9, 0, None, Some(9), None), "\n  t/3: whole, to 9");
        assert_eq!(of(5, 0, None, None, Some("why")), "\n  t/3: stopped at 5, of an end that is not known yet: why");
    }
}
