//! `siltstone cat`: the records of any range, from objects of any format, to a pipe.

mod printer;

use super::{Unprinted, ended, wanted};
use crate::cli::{CatArgs, CatOrder};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, Site};
use crate::pipeline::start::{open_destinations, patiently};
use crate::reader::merge::{Merge, Next, Order, Source};
use crate::reader::plan::{Batch, Chosen, Counting, Shapes, Wanted, batch, batches, is_replaced, sites};
use crate::record::TopicPartition;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use printer::Printer;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::Write;
use std::time::Duration;

/// Most objects that are put in the order of time: their receipts' entries are in memory, some 500 bytes each.
const OBJECTS_MAX: usize = 200_000;

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
    let mut cat = Cat { args, config, destinations, clock, wanted, reached: HashMap::new() };
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
}

impl Cat<'_> {
    async fn run(&mut self, printer: &mut Printer<'_>) -> Result<(), Unprinted> {
        let sites = sites(self.config, self.destinations, self.clock, &self.wanted).await?;
        if sites.iter().all(|site| site.partitions.is_empty()) {
            printer.note(&format!("nothing of {} is archived yet", self.args.topic))?;
        }
        let wanted: Vec<Wanted> = sites.iter().map(|site| self.of_site(site, printer)).collect::<Result<_, _>>()?;
        let batches = planned(&sites, &wanted, self.clock);
        if self.print(&sites, batches, printer).await? {
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

    /// Prints the objects of `batches`; `true`: all that was asked for is printed.
    async fn print(
        &mut self,
        sites: &[Site<'_>],
        mut batches: BoxStream<'_, Result<(usize, Batch), Failure>>,
        printer: &mut Printer<'_>,
    ) -> Result<bool, Unprinted> {
        let order = self.order();
        let mut queue: VecDeque<(usize, Chosen)> = VecDeque::new();
        if order == Order::Time {
            while let Some((site, batch)) = batches.try_next().await? {
                self.reach(&batch);
                queue.extend(batch.objects.into_iter().map(|chosen| (site, chosen)));
                if queue.len() > OBJECTS_MAX {
                    let what =
                        format!("more than {OBJECTS_MAX} objects to put in order: ask for less, or for --order offset");
                    return Err(Failure::new(Exit::Config, what).into());
                }
            }
            queue.make_contiguous().sort_by_cached_key(|(_, chosen)| {
                let object = &chosen.object;
                (object.event_min_ms, chosen.partition.clone(), chosen.range.first, object.key.clone())
            });
        }
        let mut shapes: Vec<Shapes> = sites.iter().map(Shapes::new).collect();
        let mut merge = Merge::new(order);
        loop {
            let next = match merge.next().await {
                Ok(next) => next,
                Err(failure) => return Err(self.unread(sites, &merge, failure).await.into()),
            };
            match next {
                Next::Row(item) => {
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
                    let shape = shapes[site].of(&sites[site], self.clock, &chosen).await?;
                    printer.check(&shape)?;
                    let place = chosen.place(self.destinations)?;
                    merge.push(Source { chosen, place, shape });
                }
            }
        }
        if merge.is_crowded() {
            printer.note_once("more objects overlap in time than are merged at once: some rows are out of order")?;
        }
        Ok(false)
    }

    /// Why there is no next row: `failure`, or that its object gave way to another one meanwhile.
    async fn unread(&self, sites: &[Site<'_>], merge: &Merge, failure: Failure) -> Failure {
        let Some(Source { chosen, .. }) = merge.gone() else { return failure };
        let Some(site) = sites.iter().find(|site| site.partitions.contains(&chosen.partition)) else { return failure };
        match is_replaced(site, self.clock, chosen).await {
            Ok(true) => {
                let what = format!(
                    "{} was compacted after this command had looked which objects there are: rows up to here are right, and are not all. The same \
                     command again reads what is there now, from the beginning",
                    chosen.object.key
                );
                Failure::new(Exit::Incomplete, what)
            }
            Ok(false) | Err(_) => failure,
        }
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
        let mut news = Vec::new();
        for (number, site) in sites.iter().enumerate() {
            let wanted = self.of_site(site, printer)?;
            for partition in &site.partitions {
                let from = self.reached.get(partition).copied().unwrap_or(self.wanted.offsets.first);
                let listed =
                    patiently(self.clock, "list receipts", || site.bucket.listed_from(partition, from)).await?;
                let firsts = listed.iter().filter(|listed| listed.receipt).map(|listed| listed.first);
                for first in firsts.take_while(|&first| first < self.wanted.offsets.end) {
                    let what = format!("{partition}: the receipt of {first}");
                    let read = || site.bucket.receipt(partition, first);
                    let Some(receipt) = patiently(self.clock, &what, read).await? else { continue };
                    news.push(Ok((number, batch(site, self.clock, &wanted, receipt, &Counting::default()).await?)));
                }
            }
        }
        if news.is_empty() {
            return Ok(false);
        }
        self.print(&sites, stream::iter(news).boxed(), printer).await
    }
}

/// The batches that are meant, by archive, Kafka partition and offset, each with the number of its archive.
fn planned<'s>(
    sites: &'s [Site<'s>],
    wanted: &'s [Wanted],
    clock: &'s dyn Clock,
) -> BoxStream<'s, Result<(usize, Batch), Failure>> {
    let pairs = sites.iter().zip(wanted).enumerate().flat_map(|(number, (site, wanted))| {
        site.partitions.iter().map(move |partition| Ok((number, site, partition, wanted)))
    });
    let of_partition =
        move |(number, site, partition, wanted): (usize, &'s Site<'s>, &'s TopicPartition, &'s Wanted)| async move {
            let batches = batches(site, partition, clock, wanted).await?;
            Ok::<_, Failure>(batches.map_ok(move |batch| (number, batch)))
        };
    stream::iter(pairs.collect::<Vec<_>>()).and_then(of_partition).try_flatten().boxed()
}
