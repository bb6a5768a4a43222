//! `siltstone cat`: the records of any range, from objects of any format, to a pipe.
//!
//! # Beside a compaction
//! An object that is to be read gives way to another one, and is not there any more. Then what counts of its Kafka partition is planned again, and read
//! from where the command stood: rows that were given under other names are left out ([`crate::reader::again`]).

mod printer;

use super::{Unprinted, ended, wanted};
use crate::bucket::compactions::CompactionId;
use crate::cli::{CatArgs, CatOrder};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, Site};
use crate::pipeline::start::{open_destinations, patiently};
use crate::reader::again::{Given, ListedCompactions, Made};
use crate::reader::merge::{Merge, Next, Order, Source};
use crate::reader::plan::{Batch, Chosen, Counting, Shapes, Wanted, batch, batches_from, is_replaced, sites};
use crate::record::{OffsetRange, TopicPartition};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use printer::Printer;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

/// Most objects that are put in the order of time: their receipts' entries are in memory, some 500 bytes each.
const OBJECTS_MAX: usize = 200_000;

/// How often what counts of one Kafka partition is planned again, without a row in between.
const AGAIN_MAX: u32 = 5;

/// How often `-f` looks for new receipts, milliseconds: between this and half as much again.
const POLL_MS: i64 = 4_000;

/// Prints the rows that are meant to `out`, and to `notes` what is to be known of them.
///
/// # Errors
/// A store refuses or does not answer; a receipt, layout or object is damaged; [`Exit::Config`]: what is asked for cannot be.
pub async fn cat(args: &CatArgs, config: &Config, out: &mut dyn Write, notes: &mut dyn Write) -> Result<Exit, Failure> {
    let interrupted = async {
        // Anything else may be ended at once: nothing of it is to be finished.
        if !args.follow || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    cat_in(args, config, &open_destinations(config)?, &SystemClock::new(), Streams { out, notes }, interrupted).await
}

/// Where rows and remarks go.
pub struct Streams<'o> {
    /// Rows.
    pub out: &'o mut dyn Write,
    /// Remarks.
    pub notes: &'o mut dyn Write,
}

/// The same with opened destinations. Ends quietly, behind a whole line, when `interrupted` does.
///
/// # Errors
/// As [`cat`].
pub async fn cat_in(
    args: &CatArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    streams: Streams<'_>,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    if !config.archives.iter().any(|archive| archive.topics.matches(&args.topic)) {
        let what = format!("no archive of this configuration takes the topic {}", args.topic);
        return Err(Failure::new(Exit::Config, what));
    }
    let wanted = wanted(&args.part, Some(&args.topic), clock.wall_ms());
    let mut printer = Printer::new(args, &wanted, streams)?;
    let mut cat = Cat { args, config, destinations, clock, wanted, reached: HashMap::new(), places: HashMap::new() };
    let outcome = tokio::select! {
        printed = cat.run(&mut printer) => printed,
        () = interrupted => Ok(()),
    };
    let finished = printer.finish();
    ended(outcome.and(finished).map(|()| Exit::Done))
}

struct Cat<'a> {
    args: &'a CatArgs,
    config: &'a Config,
    destinations: &'a Destinations,
    clock: &'a dyn Clock,
    wanted: Wanted,
    /// Up to which offset receipts were seen.
    reached: HashMap<TopicPartition, i64>,
    /// Where each Kafka partition is.
    places: HashMap<TopicPartition, Place>,
}

/// What was given of a Kafka partition.
struct Place {
    given: Given,
    /// Once it was planned again: its compactions, as they were listed behind the plan; perhaps none yet.
    again: Option<ListedCompactions>,
}

impl Place {
    fn from(first: i64) -> Self {
        Self { given: Given::before(first), again: None }
    }
}

/// A part of a Kafka partition that is printed.
#[derive(Clone, Copy)]
struct Span<'s> {
    /// Number of the archive.
    site: usize,
    partition: &'s TopicPartition,
    offsets: OffsetRange,
}

/// What is printed, in its order.
struct Part<'s> {
    sites: &'s [Site<'s>],
    /// By archive.
    wanted: &'s [Wanted],
    spans: Vec<Span<'s>>,
}

/// Batches, each with the number of its archive.
type Batches<'s> = BoxStream<'s, Result<(usize, Batch), Failure>>;

impl Cat<'_> {
    async fn run(&mut self, printer: &mut Printer<'_>) -> Result<(), Unprinted> {
        let sites = sites(self.config, self.destinations, self.clock, &self.wanted).await?;
        if sites.iter().all(|site| site.partitions.is_empty()) {
            printer.note(&format!("nothing of {} is archived yet", self.args.topic))?;
        }
        let wanted: Vec<Wanted> = sites.iter().map(|site| self.of_site(site, printer)).collect::<Result<_, _>>()?;
        let offsets = self.wanted.offsets;
        let mut spans = Vec::new();
        for (number, site) in sites.iter().enumerate() {
            spans.extend(site.partitions.iter().map(|partition| Span { site: number, partition, offsets }));
        }
        let part = Part { sites: &sites, wanted: &wanted, spans };
        let batches = part.planned(part.spans.clone(), self.clock);
        if self.print(&part, batches, printer).await? {
            return Ok(());
        }
        while self.args.follow {
            printer.flush()?;
            let pause = POLL_MS + self.clock.wall_ms().rem_euclid(POLL_MS / 2);
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
            if self.print_news(printer).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What is wanted of an archive: without `--output`, its first output.
    fn of_site(&self, site: &Site<'_>, printer: &mut Printer<'_>) -> Result<Wanted, Unprinted> {
        let outputs = &site.archive.layout.outputs;
        let mut wanted = self.wanted.clone();
        if wanted.output.is_none() {
            wanted.output = Some(outputs[0].name.clone());
            if outputs.len() > 1 {
                let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
                let (archive, names) = (&site.archive.name, names.join(", "));
                printer.note_once(&format!(
                    "archive {archive} has the outputs {names}: this is {}, --output NAME chooses another",
                    outputs[0].name
                ))?;
            }
        }
        Ok(wanted)
    }

    /// Prints the objects of `batches`, which are those of `part`; `true`: all that was asked for is printed.
    async fn print<'s>(
        &mut self,
        part: &Part<'s>,
        mut batches: Batches<'s>,
        printer: &mut Printer<'_>,
    ) -> Result<bool, Unprinted>
    where
        Self: 's,
    {
        let order = self.order();
        let mut queue: VecDeque<(usize, Chosen)> = VecDeque::new();
        if order == Order::Time {
            self.gather(&mut batches, &mut queue).await?;
        }
        let mut shapes: Vec<Shapes> = part.sites.iter().map(Shapes::new).collect();
        let mut merge = Merge::new(order);
        let mut times = HashMap::new();
        loop {
            let next = merge.next().await;
            merge.take_finished().iter().for_each(|source| self.finish(&source.chosen));
            let next = match next {
                Ok(next) => next,
                Err(failure) => {
                    let gone = self.check_again(part, &merge, &mut times, failure).await?;
                    if merge.is_crowded() {
                        printer.note_once(CROWDED)?;
                    }
                    batches = self.again(part, (merge, &gone), &mut queue).await?;
                    merge = Merge::new(order);
                    continue;
                }
            };
            match next {
                Next::Row(item) => {
                    times.clear();
                    if printer.print(&item)? {
                        return Ok(true);
                    }
                }
                Next::End => break,
                Next::WantsObject => {
                    while queue.is_empty()
                        && let Some((site, batch)) = batches.try_next().await?
                    {
                        self.reach(&batch);
                        queue.extend(batch.objects.into_iter().map(|chosen| (site, chosen)));
                    }
                    let Some((site, chosen)) = queue.pop_front() else {
                        merge.end();
                        continue;
                    };
                    let left = self.left(part, site, &chosen).await?;
                    if left.is_empty() {
                        continue;
                    }
                    let shape = shapes[site].of(&part.sites[site], self.clock, &chosen).await?;
                    printer.check(&shape)?;
                    let place = chosen.place(self.destinations)?;
                    merge.push_left(Source { chosen, place, shape }, left);
                }
            }
        }
        if merge.is_crowded() {
            printer.note_once(CROWDED)?;
        }
        Ok(false)
    }

    /// Adds all objects of `batches` to `queue`, and puts it in the order of time.
    async fn gather(
        &mut self,
        batches: &mut Batches<'_>,
        queue: &mut VecDeque<(usize, Chosen)>,
    ) -> Result<(), Failure> {
        while let Some((site, batch)) = batches.try_next().await? {
            self.reach(&batch);
            queue.extend(batch.objects.into_iter().map(|chosen| (site, chosen)));
            if queue.len() > OBJECTS_MAX {
                let what =
                    format!("more than {OBJECTS_MAX} objects to put in order: ask for less, or for --order offset");
                return Err(Failure::new(Exit::Config, what));
            }
        }
        queue.make_contiguous().sort_by_cached_key(|(_, chosen)| {
            let object = &chosen.object;
            (object.event_min_ms, chosen.partition.clone(), chosen.range.first, object.key.clone())
        });
        Ok(())
    }

    /// All rows of `chosen` were given.
    fn finish(&mut self, chosen: &Chosen) {
        let order = self.order();
        let place = self.places.entry(chosen.partition.clone()).or_insert(Place::from(i64::MIN));
        if order == Order::Offset {
            // As in `again`.
            place.given.pass(chosen.batch);
        }
        place.given.add(chosen, u64::MAX);
    }

    /// The rows of an object that are left to be given.
    async fn left(&mut self, part: &Part<'_>, site: usize, chosen: &Chosen) -> Result<Vec<Range<u64>>, Failure> {
        let offsets = self.wanted.offsets;
        let alone = Made::alone(chosen);
        let Some(Place { given, again }) = self.places.get(&chosen.partition) else {
            return Ok(Given::before(i64::MIN).left(&alone, offsets));
        };
        let (left, from) = (given.left(&alone, offsets), given.from());
        let (Some(listed), Some(id)) = (again, &chosen.compaction) else { return Ok(left) };
        // Where receipts overlap it may come with a batch that was given, and have rows of one that was not.
        let is_given = left.is_empty() && (chosen.batch >= from || chosen.range.end <= from);
        let reaches_back = self.order() == Order::Time || chosen.range.first <= from;
        if is_given || !reaches_back {
            return Ok(left);
        }
        // Of a Kafka partition that is planned behind another one the compactions are not listed yet.
        if listed.get(id).is_none_or(|documents| documents.receipt.is_none()) {
            self.list_again(&part.sites[site], chosen).await?;
        }
        let Some(Place { given, again: Some(listed) }) = self.places.get(&chosen.partition) else { return Ok(left) };
        Ok(given.left(&Made::read(&part.sites[site], self.clock, listed, chosen).await?, offsets))
    }

    /// Lists the compactions of the Kafka partition of `chosen` behind its plan, so that all which the plan holds are among them.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`Exit::Incomplete`]: one whose rows were given was taken back. The plan may have its inputs, then, and
    /// nobody keeps account of which of their rows these were.
    async fn list_again(&mut self, site: &Site<'_>, chosen: &Chosen) -> Result<(), Failure> {
        let partition = &chosen.partition;
        let list = || site.bucket.listed_compactions(partition);
        let listed = patiently(self.clock, "list compactions", list).await?;
        let place = self.places.entry(partition.clone()).or_insert(Place::from(i64::MIN));
        if place.given.compactions().chain(&chosen.compaction).any(|id| is_undone(&listed, id)) {
            return Err(incomplete(chosen, UNDONE));
        }
        place.again = Some(listed);
        Ok(())
    }

    /// The object that gave way, where what counts may be planned again after `failure`. `times`: how often each Kafka partition was, since the last row.
    ///
    /// # Errors
    /// `failure`, unless its object gave way to another one. [`Exit::Incomplete`]: it is not known how to go on.
    async fn check_again(
        &self,
        part: &Part<'_>,
        merge: &Merge,
        times: &mut HashMap<TopicPartition, u32>,
        failure: Failure,
    ) -> Result<Chosen, Failure> {
        let Some(Source { chosen, .. }) = merge.gone() else { return Err(failure) };
        let Some(span) = part.spans.iter().find(|span| *span.partition == chosen.partition) else {
            return Err(failure);
        };
        let site = &part.sites[span.site];
        let list = || site.bucket.listed_compactions(span.partition);
        let Ok(listed) = patiently(self.clock, "list compactions", list).await else { return Err(failure) };
        let given = self.places.get(span.partition).into_iter().flat_map(|place| place.given.compactions());
        if given.chain(&chosen.compaction).any(|id| is_undone(&listed, id)) {
            return Err(incomplete(chosen, UNDONE));
        }
        // Who compacts counts first, and deletes then.
        if !matches!(is_replaced(site, self.clock, chosen).await, Ok(true)) {
            return Err(failure);
        }
        let times = times.entry(chosen.partition.clone()).or_default();
        *times += 1;
        if *times > AGAIN_MAX {
            let what = format!(
                "was compacted while this command ran, and so were those that took its place, {AGAIN_MAX} times over"
            );
            return Err(incomplete(chosen, &what));
        }
        Ok(chosen.clone())
    }

    /// Plans the Kafka partition again of which an object gave way, from where `merge` is; in the order of offsets also those behind it. What comes
    /// before the batches that it gives is put into `queue`.
    async fn again<'s>(
        &mut self,
        part: &Part<'s>,
        (merge, gone): (Merge, &Chosen),
        queue: &mut VecDeque<(usize, Chosen)>,
    ) -> Result<Batches<'s>, Failure>
    where
        Self: 's,
    {
        let at = part.spans.iter().position(|span| gone.partition == *span.partition).unwrap_or_default();
        if self.order() == Order::Offset {
            // Objects come batch by batch: those before it are done with.
            self.places.entry(gone.partition.clone()).or_insert(Place::from(i64::MIN)).given.pass(gone.batch);
        }
        let left = merge.leave();
        for (source, rows) in &left {
            let place = self.places.entry(source.chosen.partition.clone()).or_insert(Place::from(i64::MIN));
            place.given.add(&source.chosen, *rows);
        }
        let mut spans = part.spans[at..].to_vec();
        if let Some(place) = self.places.get(spans[0].partition) {
            spans[0].offsets.first = spans[0].offsets.first.max(place.given.from());
        }
        let site = &part.sites[spans[0].site];
        if self.order() == Order::Offset {
            queue.clear();
            for span in &spans[1..] {
                if let Some(place) = self.places.get_mut(span.partition) {
                    place.again.get_or_insert_default();
                }
            }
            let mut batches = part.planned(spans, self.clock);
            // With its first batch the first Kafka partition is planned.
            if let Some((site, batch)) = batches.try_next().await? {
                self.reach(&batch);
                queue.extend(batch.objects.into_iter().map(|chosen| (site, chosen)));
            }
            self.list_again(site, gone).await?;
            return Ok(batches);
        }
        spans.truncate(1);
        let number = |partition: &TopicPartition| {
            let span = part.spans.iter().find(|span| span.partition == partition);
            span.map_or(0, |span| span.site)
        };
        queue.extend(left.iter().map(|(source, _)| (number(&source.chosen.partition), source.chosen.clone())));
        queue.retain(|(_, chosen)| chosen.partition != *spans[0].partition);
        let mut batches = part.planned(spans, self.clock);
        self.gather(&mut batches, queue).await?;
        self.list_again(site, gone).await?;
        Ok(stream::empty().boxed())
    }

    fn order(&self) -> Order {
        match self.args.order {
            Some(CatOrder::Offset) => Order::Offset,
            Some(CatOrder::Time) => Order::Time,
            None if self.args.part.from_offset.is_some() || self.args.part.to_offset.is_some() => Order::Offset,
            None => Order::Time,
        }
    }

    fn reach(&mut self, batch: &Batch) {
        let reached = self.reached.entry(batch.receipt.topic_partition()).or_default();
        *reached = batch.receipt.end.max(*reached);
    }

    /// Prints what receipts tell that were not there at the last look.
    async fn print_news(&mut self, printer: &mut Printer<'_>) -> Result<bool, Unprinted> {
        let sites = sites(self.config, self.destinations, self.clock, &self.wanted).await?;
        let wanted: Vec<Wanted> = sites.iter().map(|site| self.of_site(site, printer)).collect::<Result<_, _>>()?;
        let (mut news, mut spans) = (Vec::new(), Vec::new());
        for (number, site) in sites.iter().enumerate() {
            for partition in &site.partitions {
                let from = self.reached.get(partition).copied().unwrap_or(self.wanted.offsets.first);
                let before = news.len();
                let listed =
                    patiently(self.clock, "list receipts", || site.bucket.listed_from(partition, from)).await?;
                let firsts = listed.iter().filter(|listed| listed.receipt).map(|listed| listed.first);
                for first in firsts.take_while(|&first| first < self.wanted.offsets.end) {
                    let what = format!("{partition}: the receipt of {first}");
                    let read = || site.bucket.receipt(partition, first);
                    let Some(receipt) = patiently(self.clock, &what, read).await? else { continue };
                    // Nothing of them is compacted yet, or it is planned again.
                    let batch = batch(site, self.clock, &wanted[number], receipt, &Counting::default()).await?;
                    news.push(Ok((number, batch)));
                }
                if news.len() > before {
                    let offsets = OffsetRange::new(from, self.wanted.offsets.end);
                    spans.push(Span { site: number, partition, offsets });
                    // What was printed before is known by its offsets.
                    self.places.insert(partition.clone(), Place::from(from));
                }
            }
        }
        if news.is_empty() {
            return Ok(false);
        }
        let part = Part { sites: &sites, wanted: &wanted, spans };
        self.print(&part, stream::iter(news).boxed(), printer).await
    }
}

/// What an object is that cannot be followed.
const UNDONE: &str =
    "cannot be followed to what takes its place: a compaction of its Kafka partition was taken back meanwhile";

fn is_undone(listed: &ListedCompactions, id: &CompactionId) -> bool {
    listed.get(id).is_some_and(|documents| documents.undone)
}

/// Why it ends at `chosen`.
fn incomplete(chosen: &Chosen, what: &str) -> Failure {
    let key = &chosen.object.key;
    let what = format!(
        "{key} {what}: rows up to here are right, and are not all. The same command again reads what is there now, from the beginning"
    );
    Failure::new(Exit::Incomplete, what)
}

/// What is said where rows are not in order.
const CROWDED: &str = "more objects overlap in time than are merged at once: some rows are out of order";

impl<'s> Part<'s> {
    /// The batches of `spans`, by archive, Kafka partition and offset.
    fn planned(&self, spans: Vec<Span<'s>>, clock: &'s dyn Clock) -> Batches<'s> {
        let (sites, wanted) = (self.sites, self.wanted);
        let of_span = move |Span { site, partition, offsets }: Span<'s>| async move {
            let batches = batches_from(&sites[site], partition, clock, &wanted[site], offsets).await?;
            Ok::<_, Failure>(batches.map_ok(move |batch| (site, batch)))
        };
        stream::iter(spans.into_iter().map(Ok)).and_then(of_span).try_flatten().boxed()
    }
}
