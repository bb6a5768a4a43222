//! [`KafkaSource`]: records and rebalances of one group member.
//!
//! Two clients: the member of the group, which is drained of its events before every batch, and the one that reads what
//! the member holds.

use super::KafkaError;
use super::batch_queue::Delivery;
use super::client::Settings;
use super::group::{Event, GroupContext};
use super::membership::{GroupClient, Leaving, Membership};
use super::met::Met;
use super::readers::{Phase, Readers};
use super::reading::Reading;
use super::topics::Subscription;
use super::trouble::explain;
use crate::clock::{Clock, SystemClock};
use crate::consume::{Held, Source, SourceSink};
use crate::record::TopicPartition;
use rdkafka::consumer::Consumer;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the group's events may wait while there are no records.
const SLICE: Duration = Duration::from_millis(50);
/// After librdkafka refused to place a reader, mostly because it still starts or stops the partition.
const PLACE_AGAIN_MS: i64 = 100;
/// A reader that could not be placed this often is reported, and again each time.
const TRIES_QUIET: u32 = 100;

/// Records and rebalances of one group member. See [`Source`] for what each call does.
pub struct KafkaSource {
    settings: Settings,
    membership: Arc<Membership>,
    subscription: Subscription,
    readers: Readers,
    /// The client that reads. It outlives memberships; `None` once closed.
    reading: Option<Reading>,
    /// The present member of the group.
    member: Option<Arc<GroupClient>>,
    leaving: Option<Leaving>,
    /// Events of ours, to be handed over before the next of the client.
    events: VecDeque<Event>,
    clock: SystemClock,
    closed: bool,
}

impl KafkaSource {
    pub(super) fn new(
        settings: Settings,
        membership: Arc<Membership>,
        subscription: Subscription,
    ) -> Result<Self, KafkaError> {
        let reading = Reading::new(&settings)?;
        let mut source = Self {
            settings,
            membership,
            subscription,
            readers: Readers::default(),
            reading: Some(reading),
            member: None,
            leaving: None,
            events: VecDeque::new(),
            clock: SystemClock::new(),
            closed: false,
        };
        source.join()?;
        Ok(source)
    }

    /// Makes a new member. It joins the group with its first subscription.
    fn join(&mut self) -> Result<(), KafkaError> {
        let create = |problem: String| KafkaError::Create { brokers: self.settings.brokers.clone(), problem };
        let context = GroupContext::new(self.membership.ownership.clone(), self.membership.grace);
        let client: GroupClient =
            self.settings.member.create_with_context(context).map_err(|error| create(error.to_string()))?;
        let client = Arc::new(client);
        self.membership.set_client(Some(client.clone()));
        self.membership.put_out.store(false, Ordering::SeqCst);
        self.subscription.forget();
        self.member = Some(client);
        Ok(())
    }

    /// Ends the membership: everything held dies at once, the client goes away on its own thread.
    fn leave(&mut self) {
        let Some(client) = self.member.take() else { return };
        self.membership.set_client(None);
        client.context().leave();
        // What the client reported and nobody has seen yet came before the end, and is made void by it.
        while let Some(event) = client.context().next_event() {
            if let Event::Trouble(_) = &event {
                self.events.push_back(event);
            }
        }
        self.membership.ownership.clear();
        // What the sink was told it holds: a partition assigned but not yet reported is simply never reported.
        let lost: Vec<TopicPartition> = self.readers.iter_mut().map(|reader| reader.partition.clone()).collect();
        self.forget(&lost);
        if !lost.is_empty() {
            self.events.push_back(Event::Lost(lost));
        }
        self.leaving = Leaving::start(client, self.membership.ownership.clone(), self.clock.monotonic_ms());
    }

    /// Ends everything; returns what is still on its way out.
    fn end(&mut self) -> impl Iterator<Item = Leaving> + use<> {
        self.closed = true;
        self.subscription.stop();
        self.leave();
        let now_ms = self.clock.monotonic_ms();
        let reading = self.reading.take().and_then(|reading| Leaving::stop_reading(reading, now_ms));
        [self.leaving.take(), reading].into_iter().flatten()
    }

    /// Nothing of `partitions` is read any more.
    fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|one| self.readers.remove(one));
        if let Some(reading) = &mut self.reading {
            reading.stop(partitions);
        }
    }

    /// Makes sure that there is a member, waiting up to `wait` for the old one to be gone.
    fn keep_membership(&mut self, wait: Duration) {
        if self.membership.put_out.swap(false, Ordering::SeqCst) {
            self.events.push_back(Event::Trouble(
                "put out of the group, or a commit without an answer; joining again as a new member".into(),
            ));
            self.leave();
        }
        if self.member.is_some() {
            return;
        }
        if self.closed {
            std::thread::park_timeout(wait); // Nothing can happen any more.
            return;
        }
        if let Some(leaving) = self.leaving.take() {
            let overdue = leaving.overdue(self.clock.monotonic_ms());
            if !overdue && !leaving.wait(wait) {
                self.leaving = Some(leaving);
                return;
            }
            if overdue {
                self.events.push_back(Event::Trouble(
                    "the old membership has not ended, a commit may still be under way in it; joining again beside it"
                        .into(),
                ));
            }
        }
        if let Err(error) = self.join() {
            self.events.push_back(Event::Trouble(error.to_string()));
            std::thread::park_timeout(wait); // Nothing can happen before the next try.
        }
    }

    /// Drains the group's events into `sink`, waiting up to `wait` for one.
    fn serve_group(&mut self, wait: Duration, sink: &mut dyn SourceSink) {
        let mut wait = wait;
        while let Some(client) = &self.member {
            let before = client.context().reported();
            let polled = client.poll(wait);
            wait = Duration::ZERO;
            let quiet = polled.is_none() && client.context().reported() == before;
            match polled {
                // Fetched in the moment before its partition was paused; the other client reads it.
                Some(Ok(_)) | None => {}
                // Errors with a text were reported through the context, this is the bare code of some of them. Unknown
                // topics are the watcher's to report.
                Some(Err(error)) => tracing::debug!(%error, "the group client met an error"),
            }
            let fatal = client.client().fatal_error();
            self.hand_over_events(sink);
            if quiet {
                break;
            }
            if let Some((code, reason)) = fatal {
                return self.give_up(&explain(code, &reason), sink);
            }
        }
        self.hand_over_events(sink);
        self.serve_readers(sink);
    }

    /// librdkafka has stopped for good, and gives everything back without telling: so it is told here.
    fn give_up(&mut self, what: &str, sink: &mut dyn SourceSink) {
        self.closed = true;
        self.leave();
        self.hand_over_events(sink);
        sink.fatal(format!("the Kafka client cannot go on: {what}"));
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.member.as_ref()?.context().next_event())
    }

    fn hand_over_events(&mut self, sink: &mut dyn SourceSink) {
        while let Some(event) = self.next_event() {
            match event {
                Event::Assigned(held) => {
                    held.iter().for_each(|one| self.readers.add(one));
                    sink.assigned(held);
                }
                Event::Revoked(partitions) => {
                    self.forget(&partitions);
                    sink.revoked(&partitions);
                }
                Event::Lost(partitions) => {
                    self.forget(&partitions);
                    sink.lost(&partitions);
                }
                Event::Trouble(what) => sink.trouble(what),
            }
        }
    }

    /// Takes in what the reading client reports, and places the readers that are due.
    fn serve_readers(&mut self, sink: &mut dyn SourceSink) {
        let Some(reading) = &self.reading else { return };
        let readers = &mut self.readers;
        let troubles = reading.drain(|topic, partition| {
            if let Some(reader) = readers.get(topic, partition)
                && reader.phase == Phase::Running
            {
                reader.phase = Phase::Displaced { at_ms: 0 };
            }
        });
        troubles.into_iter().for_each(|what| sink.trouble(what));
        self.place_readers();
    }

    /// Puts displaced readers to their positions and lets them run: the only way in which a reader comes to run.
    fn place_readers(&mut self) {
        let Some(reading) = &mut self.reading else { return };
        let now_ms = self.clock.monotonic_ms();
        let due = |phase: Phase| matches!(phase, Phase::Displaced { at_ms } if at_ms <= now_ms);
        for reader in self.readers.iter_mut().filter(|reader| due(reader.phase)) {
            match reading.place(&reader.partition, reader.next) {
                Ok(()) => (reader.phase, reader.tries) = (Phase::Running, 0),
                Err(problem) => {
                    tracing::debug!(partition = %reader.partition, problem, "reader not placed yet");
                    reader.phase = Phase::Displaced { at_ms: now_ms + PLACE_AGAIN_MS };
                    reader.tries += 1;
                    if reader.tries.is_multiple_of(TRIES_QUIET) {
                        let tries = reader.tries;
                        self.events.push_back(Event::Trouble(format!("not read for {tries} tries: {problem}")));
                    }
                }
            }
        }
    }

    /// Hands over one batch, waiting up to `wait` for its first record. Returns how many deliveries there were.
    fn take_records(&mut self, wait: Duration, sink: &mut dyn SourceSink) -> usize {
        let Some(reading) = &mut self.reading else { return 0 };
        let (readers, now_ms) = (&mut self.readers, self.clock.monotonic_ms());
        reading.consume(wait, |delivery| match delivery {
            Delivery::Record(record) => {
                if readers.accept(record.topic, record.partition, record.offset) {
                    sink.record(&record);
                }
            }
            Delivery::Event { topic, partition, code, offset, text } => {
                let met = Met { topic, partition, code, offset, text: &text };
                met.hand_over(readers, now_ms, sink);
            }
        })
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration, take_records: bool, sink: &mut dyn SourceSink) {
        self.keep_membership(wait);
        if let Some(member) = &self.member {
            self.events.extend(self.subscription.follow(member).into_iter().map(Event::Trouble));
        }
        if self.member.is_none() || !take_records {
            let wait = if self.member.is_some() { wait } else { Duration::ZERO };
            return self.serve_group(wait, sink);
        }
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let until_ms = self.clock.monotonic_ms().saturating_add(wait_ms);
        loop {
            self.serve_group(Duration::ZERO, sink);
            let left_ms = until_ms - self.clock.monotonic_ms();
            let slice = SLICE.min(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
            if self.take_records(slice, sink) > 0 || left_ms <= 0 || self.member.is_none() {
                return;
            }
        }
    }

    fn start_at(&mut self, held: &Held, offset: i64) -> Result<(), String> {
        let Some(reader) = self.readers.of(held) else {
            return Err(format!("{} is no longer held", held.partition));
        };
        (reader.next, reader.phase, reader.tries) = (offset, Phase::Displaced { at_ms: 0 }, 0);
        self.place_readers();
        Ok(())
    }

    fn pause(&mut self, held: &Held) {
        let Some(reader) = self.readers.of(held) else { return };
        if !matches!(reader.phase, Phase::Running | Phase::Displaced { .. }) {
            return;
        }
        reader.phase = Phase::Paused;
        if let Some(reading) = &self.reading
            && let Err(error) = reading.pause(&held.partition)
        {
            tracing::warn!(partition = %held.partition, error, "the client did not pause; its records are dropped and read again");
        }
    }

    fn resume(&mut self, held: &Held) {
        if let Some(reader) = self.readers.of(held)
            && reader.phase == Phase::Paused
        {
            reader.phase = Phase::Displaced { at_ms: 0 };
            self.place_readers();
        }
    }

    fn rejoin(&mut self) {
        self.leave();
    }

    fn close(&mut self, deadline: Duration) {
        let began_ms = self.clock.monotonic_ms();
        for leaving in self.end() {
            let spent = Duration::from_millis(self.clock.monotonic_ms().saturating_sub(began_ms).unsigned_abs());
            if !leaving.wait(deadline.saturating_sub(spent)) {
                tracing::warn!(?deadline, "Kafka was not left in time; the broker will notice by itself");
            }
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        drop(self.end());
    }
}
