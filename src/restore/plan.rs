//! What is about to be restored, from receipts alone: which output, which source partitions, how much, and what does not come back.

use super::loss::{Loss, losses};
use super::position::{END_UNKNOWN, Position, known_end};
use super::read::{Archive, Left, Step, steps};
use super::value::{NO_TIMESTAMP, record_of};
use crate::bucket::receipt::ReceiptObject;
use crate::exit::{Exit, Failure};
use crate::layout::{KeptColumn, Layout, OutputFormat, TimestampSource};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::pipeline::open_batch::NO_TIME_MS;
use crate::reader::plan::{Batch, Shapes, Wanted, batches};
use crate::reader::shape::Shape;
use crate::record::{OffsetRange, TopicPartition};
use futures::{StreamExt, TryStreamExt};
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// Source partitions of which the first row is read, to see its timestamp.
const PEEKED_MAX: usize = 64;

/// The output that is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Its name.
    pub output: String,
    /// Other outputs that there are.
    pub others: Vec<String>,
    /// It was asked for.
    pub is_asked: bool,
}

/// Chooses the output: the one asked for, else whole records, else raw payloads, else the first one.
///
/// # Errors
/// [`Exit::Config`]: dead letters are asked for.
pub fn choose(layout: &Layout, asked: Option<&str>) -> Result<Choice, Failure> {
    if asked == Some(DEAD_LETTERS) {
        let what = "--output: dead letters are no records to restore: `siltstone dead-letters replay` archives them after a fix";
        return Err(Failure::new(Exit::Config, what));
    }
    let rank = |format: &OutputFormat| match format {
        OutputFormat::Envelope { .. } => 0,
        OutputFormat::Raw { .. } => 1,
        OutputFormat::Json { .. } | OutputFormat::Avro { .. } | OutputFormat::Parquet { .. } => 2,
    };
    let best = layout.outputs.iter().min_by_key(|output| rank(&output.format));
    let own = best.map(|output| output.name.clone()).unwrap_or_default();
    let output = asked.map_or(own, str::to_string);
    let names = layout.outputs.iter().map(|output| output.name.clone());
    Ok(Choice { others: names.filter(|name| *name != output).collect(), output, is_asked: asked.is_some() })
}

/// What receipts tell of what is asked for. Counts are of whole batches and objects: rows outside of the times, offsets and condition asked for are
/// among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// First offset and end of each source partition; [`END_UNKNOWN`] (`null`): what tells it cannot be read.
    #[serde(serialize_with = "with_known_ends")]
    pub partitions: BTreeMap<i32, (i64, i64)>,
    /// Batches.
    pub batches: u64,
    /// Objects.
    pub objects: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their earliest event time, milliseconds UTC.
    pub event_min_ms: Option<i64>,
    /// Their latest event time.
    pub event_max_ms: Option<i64>,
    /// The earliest timestamp that a restored record has, as far as it is known.
    pub oldest_ms: Option<i64>,
    /// The latest.
    pub newest_ms: Option<i64>,
    /// What does not come back.
    pub losses: BTreeSet<Loss>,
    /// Records that are dead letters of the output, so not in it.
    pub dead_letters: u64,
    /// Records that a rule dropped, by rule.
    pub dropped: BTreeMap<String, u64>,
    /// Records of batches that were archived without the output.
    pub without_output: u64,
    /// Offsets that Kafka held no more when they were to be archived.
    pub absent: u64,
    /// Rows that were deleted from the bucket.
    pub lost: u64,
    /// Objects that reach beyond the times asked for and whose rows tell no time: all of their rows are restored.
    pub untold_times: Untold,
    /// The same of offsets.
    pub untold_offsets: Untold,
    /// Rows that tell no offset, of objects that begin before the first one asked for: they are left to a restore that has the begin.
    pub of_other_parts: u64,
    /// Source partitions something of which cannot be read already, and why: they will stop there, and the others will not.
    pub unreadable: BTreeMap<i32, String>,
    /// The store refuses the first object of every source partition: a right is missing, as far as anybody can tell before a job is begun.
    #[serde(skip)]
    pub refused: Option<String>,
}

/// Objects of which nobody can tell which of their rows are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Untold {
    /// Objects.
    pub objects: u64,
    /// Rows in them.
    pub rows: u64,
}

impl Untold {
    fn add(&mut self, object: &ReceiptObject) {
        self.objects += 1;
        self.rows += object.rows.unwrap_or_default();
    }
}

fn with_known_ends<S: Serializer>(partitions: &BTreeMap<i32, (i64, i64)>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(partitions.iter().map(|(partition, &(first, end))| (partition, (first, known_end(end)))))
}

/// Looks at everything that `wanted` means, of one output. A receipt, fold or layout that is damaged ends the look at its source partition, or
/// at the objects that need it, and is no reason not to restore the others, and what precedes it.
///
/// # Errors
/// A store does not answer.
pub async fn survey(archive: Archive<'_>, wanted: &Wanted) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    let mut shapes = Shapes::new(archive.site);
    for partition in &archive.site.partitions {
        let number = partition.partition;
        let mut span = None;
        let looked = look_at(archive, partition, wanted, &mut shapes, &mut survey, &mut span).await;
        let first = span.map_or(0, |span: OffsetRange| span.first).max(wanted.offsets.first);
        if survey.is_readable(number, looked)? {
            let end = span.map(|span| span.end.min(wanted.offsets.end));
            survey.partitions.extend(end.map(|end| (number, (first, end))));
        } else {
            survey.partitions.insert(number, (first, END_UNKNOWN));
        }
    }
    look_at_first_rows(archive, wanted, &mut survey).await?;
    Ok(survey)
}

/// Adds what receipts tell of one source partition; `span`: what they cover, as far as they can be read.
async fn look_at(
    archive: Archive<'_>,
    partition: &TopicPartition,
    wanted: &Wanted,
    shapes: &mut Shapes,
    survey: &mut Survey,
    span: &mut Option<OffsetRange>,
) -> Result<(), Failure> {
    let mut batches = batches(archive.site, partition, archive.clock, wanted).await?;
    while let Some(batch) = batches.try_next().await? {
        let range = OffsetRange::new(batch.receipt.first, batch.receipt.end);
        let first = batch.objects.iter().map(|chosen| chosen.range.first).fold(range.first, i64::min);
        *span = Some(OffsetRange::new(span.map_or(first, |span| span.first.min(first)), range.end));
        survey.add(&batch, wanted);
        for chosen in &batch.objects {
            let found = shapes.of(archive.site, archive.clock, chosen).await;
            let shape = match found {
                Ok(shape) => shape,
                Err(failure) => {
                    survey.is_readable(partition.partition, Err(failure))?;
                    continue;
                }
            };
            survey.losses.extend(losses(&shape));
            if chosen.range.first < wanted.offsets.first && !chosen.tells_offsets(&shape) {
                survey.of_other_parts += chosen.object.rows.unwrap_or_default();
            } else {
                if !wanted.takes_all_times_of(&chosen.object) && !shape.tells_times() {
                    survey.untold_times.add(&chosen.object);
                }
                if !wanted.takes_all_offsets_of(chosen.range) && !chosen.tells_offsets(&shape) {
                    survey.untold_offsets.add(&chosen.object);
                }
            }
            if has_event_times(&shape) {
                survey.note_time(known_time(chosen.object.event_min_ms));
                survey.note_time(known_time(chosen.object.event_max_ms));
            }
        }
    }
    Ok(())
}

/// Takes in the timestamps of the first rows: receipts tell event times alone. One that cannot be read stops its source partition later, and is no
/// reason not to begin, unless the store refuses every one ([`Survey::refused`]).
async fn look_at_first_rows(archive: Archive<'_>, wanted: &Wanted, survey: &mut Survey) -> Result<(), Failure> {
    let peeked = archive.site.partitions.iter().filter_map(|partition| {
        let &(first, end) = survey.partitions.get(&partition.partition)?;
        let begin = wanted.offsets.first;
        let offsets = OffsetRange::new(first, end.min(wanted.offsets.end).max(first));
        let wanted = Wanted { offsets, ..wanted.clone() };
        let (partition, from) = (partition.clone(), Position::at(first));
        Some(Left { partition, from, begin, wanted, is_end_known: true, rows_max: 1 })
    });
    let peeked: Vec<Left> = peeked.take(PEEKED_MAX).collect();
    let (mut is_any_left_out, mut refused) = (peeked.len() == PEEKED_MAX, None);
    for left in peeked {
        let left = [left];
        let mut steps = steps(archive, &left);
        while let Some(step) = steps.next().await {
            match step {
                Ok(Step::Passed { .. }) => continue,
                Ok(Step::Rows { items, .. }) => {
                    let times = items.into_iter().map(|item| record_of(item).timestamp);
                    times.for_each(|at_ms| survey.note_time(at_ms.filter(|&at_ms| at_ms != NO_TIMESTAMP)));
                    is_any_left_out = true;
                }
                // One object that the store refuses, such as one in a cold tier, is its own source partition's trouble.
                Err((partition, failure)) if failure.exit == Exit::Refused => {
                    let why = format!(
                        "{}; the times of its records are not known, so nobody says beforehand whether the target would refuse or delete them",
                        failure.message
                    );
                    survey.unreadable.entry(partition).or_insert(why);
                    refused.get_or_insert(failure.message);
                }
                Err((partition, failure)) => {
                    survey.is_readable(partition, Err(failure))?;
                    is_any_left_out = true;
                }
            }
            break;
        }
    }
    survey.refused = refused.filter(|_| !is_any_left_out);
    Ok(())
}

/// Whether restored records have the event times that receipts tell of their objects.
fn has_event_times(shape: &Shape) -> bool {
    let keeps_time = shape.keep().is_some_and(|keep| keep.columns.contains(&KeptColumn::Timestamp));
    match shape.teller.source() {
        TimestampSource::Kafka => shape.has_records() || keeps_time,
        TimestampSource::Field(_) | TimestampSource::Header(_) => !shape.has_records() && !keeps_time,
    }
}

/// An event time of a receipt, but for the one that stands for none.
fn known_time(event_ms: Option<i64>) -> Option<i64> {
    event_ms.filter(|&event_ms| event_ms != NO_TIME_MS)
}

impl Survey {
    /// Notes what cannot be read of that source partition; whether all could be.
    ///
    /// # Errors
    /// The store does not answer, or refuses: the others cannot be read either, and what lies there is not known to be damaged.
    fn is_readable(&mut self, partition: i32, read: Result<(), Failure>) -> Result<bool, Failure> {
        match read {
            Ok(()) => Ok(true),
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::Refused) => Err(failure),
            Err(failure) => {
                self.unreadable.entry(partition).or_insert(failure.message);
                Ok(false)
            }
        }
    }

    fn note_time(&mut self, at_ms: Option<i64>) {
        self.oldest_ms = self.oldest_ms.into_iter().chain(at_ms).min();
        self.newest_ms = self.newest_ms.into_iter().chain(at_ms).max();
    }

    fn add(&mut self, batch: &Batch, wanted: &Wanted) {
        let (receipt, output) = (&batch.receipt, wanted.output.as_deref().unwrap_or_default());
        self.batches += 1;
        self.objects += batch.objects.len() as u64;
        for chosen in &batch.objects {
            let object = &chosen.object;
            self.rows += object.rows.unwrap_or_default();
            self.bytes += object.bytes;
            self.event_min_ms = self.event_min_ms.into_iter().chain(known_time(object.event_min_ms)).min();
            self.event_max_ms = self.event_max_ms.into_iter().chain(known_time(object.event_max_ms)).max();
        }
        let absent = receipt.balance.absent.iter().map(|absent| (absent.end - absent.first).unsigned_abs());
        self.absent += absent.sum::<u64>();
        let lost = receipt.lost.iter().filter(|lost| lost.output == output).map(|lost| (&lost.key, lost.rows));
        self.lost += lost.collect::<BTreeMap<_, _>>().into_values().sum::<u64>();
        match receipt.balance.outputs.get(output) {
            Some(balance) => {
                let replayed = batch.objects.iter().filter(|chosen| chosen.replay.is_some());
                let replayed: u64 = replayed.filter_map(|chosen| chosen.object.records).sum();
                self.dead_letters += balance.dead_lettered.saturating_sub(replayed);
                for (rule, records) in &balance.dropped {
                    *self.dropped.entry(rule.clone()).or_default() += records;
                }
            }
            None => self.without_output += receipt.balance.consumed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: that a store refuses, or does not answer, is no damage of one source partition.
    #[test]
    fn a_store_that_refuses_ends_the_look() {
        for (exit, is_damage) in [(Exit::Refused, false), (Exit::Unreachable, false), (Exit::Stopped, true)] {
            let mut survey = Survey::default();
            let looked = survey.is_readable(3, Err(Failure::new(exit, "why")));
            assert_eq!((looked.is_ok(), survey.unreadable.len()), (is_damage, usize::from(is_damage)), "{exit:?}");
        }
    }

    fn layout(outputs: &str) -> Layout {
        let text = format!(
            "[kafka]\nbrokers = \"k\"\n[spool]\ndir = \"/tmp/x\"\n[destinations.main]\nurl = \"s3://b/p\"\n[[archive]]\n\
             topics = [\"t\"]\n{outputs}"
        );
        let config = crate::config::parse(&text, std::path::Path::new("/"), &|_| None);
        config.unwrap_or_else(|errors| panic!("{errors}")).archives[0].layout.clone()
    }

    #[test]
    fn whole_records_are_chosen_before_payloads_and_payloads_before_rows() {
        let of = |formats: &[&str]| {
            let place = |format: &str| {
                let path = format!("layout = {{ path = \"{format}/{{topic}}\" }}");
                format!("[[archive.output]]\nformat = \"{format}\"\n{path}\n")
            };
            layout(&formats.iter().map(|format| place(format)).collect::<String>())
        };
        let name = |formats: &[&str], asked| choose(&of(formats), asked).expect("chosen").output;
        assert_eq!(name(&["json", "raw", "envelope"], None), "envelope");
        assert_eq!(name(&["json", "raw"], None), "raw");
        assert_eq!(name(&["json"], None), "json");
        assert_eq!(name(&["json", "envelope"], Some("json")), "json");
        let chosen = choose(&of(&["json", "raw"]), None).expect("chosen");
        assert_eq!((chosen.others, chosen.is_asked), (vec!["json".to_string()], false));
        assert_eq!(choose(&of(&["json"]), Some(DEAD_LETTERS)).expect_err("refused").exit, Exit::Config);
    }
}
