//! Layouts by their fingerprints: the one that a claim decided with, and the one that a dead letter was refused by.

use crate::bucket::replays::Replay;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::layout::{Layout, OutputLayout};
use crate::ledger::Destinations;
use crate::pipeline::archive::{Archive, PinnedSchemas};
use crate::pipeline::context::load_pinned;
use crate::pipeline::start::{chain, patiently};
use crate::registry::Target;
use crate::replay::claims::unfinished;
use crate::replay::schemas::Asker;
use std::collections::BTreeMap;
use std::sync::Arc;

/// For each output of a layout, in its order: whether rows keep the numbers that another one gave them, or why not.
pub type Numbers = Arc<[Result<(), String>]>;

/// Stored layouts of one archive, each read and compared once.
pub struct Layouts {
    own: Arc<Layout>,
    read: BTreeMap<String, Result<Arc<Layout>, String>>,
    numbers: BTreeMap<String, Numbers>,
}

impl Layouts {
    /// Knows `own` already.
    pub fn new(own: &Layout) -> Self {
        let own = Arc::new(own.clone());
        let read = BTreeMap::from([(own.fingerprint(), Ok(own.clone()))]);
        Self { own, read, numbers: BTreeMap::new() }
    }

    /// The layout with that fingerprint, or why this release cannot use it.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn get(
        &mut self,
        bucket: &Bucket,
        clock: &dyn Clock,
        fingerprint: &str,
    ) -> Result<Result<Arc<Layout>, String>, Failure> {
        if let Some(known) = self.read.get(fingerprint) {
            return Ok(known.clone());
        }
        let what = format!("layout {fingerprint}");
        let read = patiently(clock, &what, || async {
            match bucket.get_layout(fingerprint).await {
                Ok(layout) => Ok::<_, BucketError>(Ok(Arc::new(layout))),
                Err(error) if error.verdict() == Verdict::Stop => Ok(Err(chain(&error))),
                Err(error) => Err(error),
            }
        });
        let read = read.await?;
        self.read.insert(fingerprint.to_string(), read.clone());
        Ok(read)
    }

    /// Whether rows that the layout with that fingerprint numbered have the same numbers under the own one
    /// ([`rows_keep_their_numbers`]).
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn numbers(&mut self, bucket: &Bucket, clock: &dyn Clock, fingerprint: &str) -> Result<Numbers, Failure> {
        if let Some(known) = self.numbers.get(fingerprint) {
            return Ok(known.clone());
        }
        let old = self.get(bucket, clock, fingerprint).await?;
        let numbers = rows_keep_their_numbers(&old, &self.own);
        self.numbers.insert(fingerprint.to_string(), numbers.clone());
        Ok(numbers)
    }
}

/// What layouts are compiled with.
#[derive(Clone, Copy)]
pub struct Seams<'a> {
    /// Pinned schemas.
    pub bucket: &'a Bucket,
    /// Stores by URL.
    pub destinations: &'a Destinations,
    /// The schema registry.
    pub asker: &'a Asker,
}

/// `layout`, ready to make rows, which are projected onto `target`.
///
/// # Errors
/// A schema that is not pinned yet, a destination that the configuration has not, or what a store or the registry says.
pub async fn compile(seams: Seams<'_>, layout: &Layout, target: Option<Target>) -> Result<Arc<Archive>, Failure> {
    compile_for(seams, layout, target, false).await
}

async fn compile_for(
    seams: Seams<'_>,
    layout: &Layout,
    target: Option<Target>,
    is_claimed: bool,
) -> Result<Arc<Archive>, Failure> {
    let what = format!("archive {}", layout.archive);
    let clock = &*seams.asker.clock;
    let pinned: Option<PinnedSchemas> = patiently(clock, &what, || load_pinned(seams.bucket, layout)).await?;
    let pinned = pinned.ok_or_else(|| {
        let problem = "an output has schema = \"infer\", and no schema is pinned yet: `siltstone run` pins it with its first records";
        Failure::new(Exit::Config, format!("{what}: {problem}; replay then"))
    })?;
    let mut schemas = seams.asker.schemas(layout, target).await?;
    schemas.by_ids_alone = is_claimed;
    let compiled = Archive::compile(layout, seams.destinations, &pinned, &schemas);
    compiled.map(Arc::new).map_err(|reason| Failure::new(Exit::Config, format!("{what}: {reason}")))
}

/// The layout that a claim decided with, ready to make the same rows.
///
/// # Errors
/// [`Exit::Stopped`]: it cannot be had as it was. Or what a store or the registry says.
pub async fn compile_claimed(
    seams: Seams<'_>,
    replay: &Replay,
    layout: Result<Arc<Layout>, String>,
) -> Result<Arc<Archive>, Failure> {
    let unusable = |what: String| unfinished(replay, format!(", and its layout cannot be used: {what}"));
    let layout = layout.map_err(unusable)?;
    let target = replay.target.as_deref().map(str::parse).transpose().map_err(unusable)?;
    let compiled = compile_for(seams, &layout, target, true).await;
    let archive = compiled.map_err(|failure| match failure.exit {
        Exit::Config => unusable(failure.message),
        _ => failure,
    })?;
    if archive.schemas != replay.schemas {
        return Err(unusable(format!(
            "the pinned schemas are others ({:?}, now {:?}); restore _siltstone/schemas as they were",
            replay.schemas, archive.schemas
        )));
    }
    Ok(archive)
}

/// Whether the numbers that `old` gave to the rows of a record mean the same rows under `new`, for each of its outputs; or why not. The
/// other rows of the record were archived, so one that is taken for another would be there twice, and one is lost.
///
/// They do where both decode alike and either run the same transform or none that may make several rows of one: then the nth row comes from
/// the nth value in the payload under both.
///
/// Compiles both transforms where they differ: not for every dead letter.
pub fn rows_keep_their_numbers(old: &Result<Arc<Layout>, String>, new: &Layout) -> Numbers {
    let old = match old {
        Ok(old) => old,
        Err(why) => {
            let reason = format!("the layout that numbered its rows cannot be read: {why}");
            return new.outputs.iter().map(|_| Err(reason.clone())).collect();
        }
    };
    let of_rows = of_rows(old, new);
    let of_output =
        |output: &OutputLayout| {
            let before = old.outputs.iter().find(|of| of.name == output.name).map(|of| of.format.takes_every_record());
            match (before, output.format.takes_every_record()) {
                // There the record counts as a whole.
                (Some(true), true) => Ok(()),
                (Some(false), false) => of_rows.map_err(str::to_string),
                _ => Err("it is one of several rows, and this output took whole records before, or takes them now"
                    .to_string()),
            }
        };
    new.outputs.iter().map(of_output).collect()
}

/// The same for outputs that take rows before and now.
fn of_rows(old: &Layout, new: &Layout) -> Result<(), &'static str> {
    if old.decode != new.decode {
        return Err("it is one of several rows, and `decode` is another one now: its number may mean another row");
    }
    let spreads = |layout: &Layout| layout.transform.as_deref().is_some_and(may_spread);
    if old.transform != new.transform && (spreads(old) || spreads(new)) {
        return Err(
            "it is one of several rows, and a transform that makes several rows of one has changed: its number may \
             mean another row",
        );
    }
    Ok(())
}

/// Whether a transform may make several rows of one. One that does not compile any more: nobody knows.
fn may_spread(source: &str) -> bool {
    crate::transform::Transform::compile(source, &[]).map_or(true, |transform| transform.spreads())
}
