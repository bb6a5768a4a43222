//! [`KafkaSource`]: records and rebalances of one group member.
//!
//! One group client; all partitions flow through one queue, read in batches, so librdkafka's queue limits hold for all
//! of them together. The group's own events are drained before every batch.
//!
//! A member ends by being dropped whole, on a thread of its own: leaving the group may take as long as it likes, and
//! neither the poll thread nor a shutdown waits for it longer than they said.

use super::KafkaError;
use super::batch_queue::{BATCH_MAX, BatchQueue, Delivery, forward};
use super::client::Member as Settings;
use super::group::{Event, GroupContext, list};
use super::held::Ownership;
use super::meta::TopicWatch;
use super::readers::{Phase, Readers};
use super::trouble::explain;
use crate::clock::{Clock, SystemClock};
use crate::consume::{Held, Source, SourceSink};
use crate::record::TopicPartition;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// How long the group's events may wait while there are no records.
const SLICE: Duration = Duration::from_millis(50);
/// How long a seek may take: librdkafka's own thread answers it, no broker.
const SEEK_WAIT: Duration = Duration::from_millis(500);
/// After a damaged batch or a refused fetch, before the same position is tried again.
const RETRY_MS: i64 = 5_000;
/// After librdkafka refused to seek, mostly because it still starts or stops the partition.
const PUT_BACK_MS: i64 = 100;
/// How long a new member waits for the old one to have left.
const LEAVE_WAIT_MS: i64 = 30_000;

/// What the source and the coordinator share: who holds what, and the client to commit with.
pub struct Membership {
    pub(super) ownership: Arc<Ownership>,
    pub(super) grace: Duration,
    client: Mutex<Option<Arc<BaseConsumer<GroupContext>>>>,
    /// Set by a commit that found this member put out of the group, or got no answer.
    pub(super) put_out: AtomicBool,
}

impl Membership {
    pub(super) fn new(grace: Duration) -> Self {
        Self { ownership: Arc::default(), grace, client: Mutex::default(), put_out: AtomicBool::new(false) }
    }

    /// The client of the present member; `None` between two memberships.
    pub(super) fn client(&self) -> Option<Arc<BaseConsumer<GroupContext>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the membership that `client` stands for, if it is still the present one: everything held is dead at once, and the
    /// source leaves with its next poll. A commit that comes back late must not end its successor.
    pub(super) fn end(&self, client: &Arc<BaseConsumer<GroupContext>>) {
        let present = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, client)) {
            self.ownership.clear();
            self.put_out.store(true, Ordering::SeqCst);
        }
    }

    fn set_client(&self, client: Option<Arc<BaseConsumer<GroupContext>>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

/// The present membership.
struct Member {
    // Declared before the client: dropped first.
    queue: BatchQueue<GroupContext>,
    client: Arc<BaseConsumer<GroupContext>>,
}

/// An old membership on its way out.
struct Leaving {
    done: mpsc::Receiver<()>,
    since_ms: i64,
}

/// Records and rebalances of one group member. See [`Source`] for what each call does.
pub struct KafkaSource {
    settings: Settings,
    brokers: String,
    membership: Arc<Membership>,
    topics: TopicWatch,
    subscribed: Vec<String>,
    /// The listing that `subscribed` was made from.
    listing: u64,
    readers: Readers,
    member: Option<Member>,
    leaving: Option<Leaving>,
    /// Events of ours, to be handed over before the next of the client.
    events: VecDeque<Event>,
    /// How many records the next batch may hold, from the size of the last ones.
    batch_records: usize,
    clock: SystemClock,
    closed: bool,
}

impl KafkaSource {
    pub(super) fn new(
        settings: Settings,
        brokers: String,
        membership: Arc<Membership>,
        topics: TopicWatch,
    ) -> Result<Self, KafkaError> {
        let mut source = Self {
            settings,
            brokers,
            membership,
            topics,
            subscribed: Vec::new(),
            listing: 0,
            readers: Readers::default(),
            member: None,
            leaving: None,
            events: VecDeque::new(),
            batch_records: BATCH_MAX / 10,
            clock: SystemClock::new(),
            closed: false,
        };
        source.join()?;
        Ok(source)
    }

    /// Makes a new member. It joins the group with its first subscription.
    fn join(&mut self) -> Result<(), KafkaError> {
        let create = |problem: String| KafkaError::Create { brokers: self.brokers.clone(), problem };
        let context = GroupContext::new(self.membership.ownership.clone(), self.membership.grace);
        let client: BaseConsumer<GroupContext> =
            self.settings.client.create_with_context(context).map_err(|error| create(error.to_string()))?;
        let client = Arc::new(client);
        let queue = BatchQueue::new(&client).ok_or_else(|| create("out of memory".to_string()))?;
        client.context().set_queue(queue.native());
        self.membership.set_client(Some(client.clone()));
        self.membership.put_out.store(false, Ordering::SeqCst);
        self.subscribed.clear();
        self.listing = 0;
        self.member = Some(Member { queue, client });
        Ok(())
    }

    /// Ends the membership: everything held dies at once, the client goes away on its own thread.
    fn leave(&mut self) {
        let Some(Member { queue, client }) = self.member.take() else { return };
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
        self.readers.clear();
        if !lost.is_empty() {
            self.events.push_back(Event::Lost(lost));
        }
        if client.client().fatal_error().is_some() {
            // librdkafka 2.12 refuses to close such a client, and to destroy it then never ends and keeps a core busy.
            // The process ends after a fatal error, so the client is left to that.
            std::mem::forget((queue, client));
            return;
        }
        let (sender, done) = mpsc::channel();
        let close = move || {
            drop(queue);
            drop(client);
            // Nobody may be waiting any more.
            sender.send(()).ok();
        };
        match std::thread::Builder::new().name("kafka-leave".into()).spawn(close) {
            Ok(_) => self.leaving = Some(Leaving { done, since_ms: self.clock.monotonic_ms() }),
            Err(error) => tracing::warn!(%error, "no thread to leave the group on; it was left on this one"),
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
        if let Some(leaving) = &self.leaving {
            let waited_ms = self.clock.monotonic_ms() - leaving.since_ms;
            if waited_ms < LEAVE_WAIT_MS && leaving.done.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            self.leaving = None;
        }
        if let Err(error) = self.join() {
            self.events.push_back(Event::Trouble(error.to_string()));
            std::thread::park_timeout(wait); // Nothing can happen before the next try.
        }
    }

    /// Drains the group's events into `sink`, waiting up to `wait` for one.
    fn serve_group(&mut self, wait: Duration, sink: &mut dyn SourceSink) {
        let Some(client) = self.member.as_ref().map(|member| member.client.clone()) else {
            return self.hand_over_events(None, sink);
        };
        let mut wait = wait;
        loop {
            let before = client.context().reported();
            let polled = client.poll(wait);
            wait = Duration::ZERO;
            let quiet = polled.is_none() && client.context().reported() == before;
            match polled {
                // A record here went past our queue: its partition is put back to its position, so it comes again.
                Some(Ok(message)) => {
                    use rdkafka::Message;
                    self.displace(message.topic(), message.partition(), 0);
                }
                // Errors with a text were reported through the context, this is the bare code of some of them. Unknown
                // topics are the watcher's to report.
                Some(Err(error)) => tracing::debug!(%error, "the group client met an error"),
                None => {}
            }
            self.hand_over_events(Some(&client), sink);
            if quiet {
                return;
            }
            if let Some((code, reason)) = client.client().fatal_error() {
                return self.give_up(&explain(code, &reason), sink);
            }
        }
    }

    /// librdkafka has stopped for good, and gives everything back without telling: so it is told here.
    fn give_up(&mut self, what: &str, sink: &mut dyn SourceSink) {
        self.closed = true;
        self.leave();
        self.hand_over_events(None, sink);
        sink.fatal(format!("the Kafka client cannot go on: {what}"));
    }

    fn hand_over_events(&mut self, client: Option<&Arc<BaseConsumer<GroupContext>>>, sink: &mut dyn SourceSink) {
        let mut moved = false;
        while let Some(event) = self.events.pop_front().or_else(|| client.and_then(|one| one.context().next_event())) {
            match event {
                Event::Moved => moved = true,
                Event::Assigned(held) => {
                    held.iter().for_each(|one| self.readers.add(one));
                    sink.assigned(held);
                }
                Event::Revoked(partitions) => {
                    partitions.iter().for_each(|one| self.readers.remove(one));
                    sink.revoked(&partitions);
                }
                Event::Lost(partitions) => {
                    partitions.iter().for_each(|one| self.readers.remove(one));
                    sink.lost(&partitions);
                }
                Event::Trouble(what) => sink.trouble(what),
            }
        }
        if moved {
            for reader in self.readers.iter_mut().filter(|reader| reader.phase == Phase::Running) {
                reader.phase = Phase::Displaced { at_ms: 0 };
            }
        }
        self.put_back();
    }

    /// Puts displaced readers back to their positions and lets them run.
    fn put_back(&mut self) {
        let Some(member) = &self.member else { return };
        let now_ms = self.clock.monotonic_ms();
        let due = |phase: Phase| matches!(phase, Phase::Displaced { at_ms } if at_ms <= now_ms);
        for reader in self.readers.iter_mut().filter(|reader| due(reader.phase)) {
            match put(member, &reader.partition, reader.next) {
                Ok(()) => reader.phase = Phase::Running,
                Err(problem) => {
                    tracing::debug!(partition = %reader.partition, problem, "reader not put back yet");
                    reader.phase = Phase::Displaced { at_ms: now_ms + PUT_BACK_MS };
                }
            }
        }
    }

    /// A running reader stops, and is put back to its position `after_ms` later.
    fn displace(&mut self, topic: &str, partition: i32, after_ms: i64) {
        let at_ms = self.clock.monotonic_ms() + after_ms;
        if let Some(reader) = self.readers.get(topic, partition)
            && reader.phase == Phase::Running
        {
            reader.phase = Phase::Displaced { at_ms };
        }
    }

    /// Brings the subscription up to what the watcher found. Partitions already held stay (cooperative).
    fn follow_topics(&mut self) {
        let Some(member) = &self.member else { return };
        for what in self.topics.troubles() {
            self.events.push_back(Event::Trouble(what));
        }
        let Some((listing, topics)) = self.topics.newer_than(self.listing) else { return };
        self.listing = listing;
        if topics == self.subscribed {
            return;
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if names.is_empty() {
            member.client.unsubscribe();
        } else if let Err(error) = member.client.subscribe(&names) {
            self.events.push_back(Event::Trouble(format!("subscribe to {} topics: {error}", names.len())));
            return;
        }
        tracing::info!(topics = names.len(), "subscription changed");
        self.subscribed = topics;
    }

    /// Hands over one batch, waiting up to `wait` for its first record. Returns how many deliveries there were.
    fn take_records(&mut self, wait: Duration, sink: &mut dyn SourceSink) -> usize {
        let Some(member) = &self.member else { return 0 };
        let (readers, now_ms) = (&mut self.readers, self.clock.monotonic_ms());
        let (mut bytes, mut records) = (0_u64, 0_u64);
        let taken = member.queue.consume(self.batch_records, wait, |delivery| match delivery {
            Delivery::Record(record) => {
                records += 1;
                bytes += size(record.key) + size(record.value);
                if readers.accept(record.topic, record.partition, record.offset) {
                    sink.record(&record);
                }
            }
            Delivery::Event { topic, partition, code, offset, text } => {
                let met = Met { topic, partition, code, offset, text: &text };
                met.hand_over(readers, now_ms, sink);
            }
        });
        if let Some(average) = bytes.checked_div(records) {
            // A batch is outside librdkafka's queue limits while it is handed over: an eighth of them at most, about.
            let fitting = usize::try_from(self.settings.memory.queue_bytes / 8 / average.max(1)).unwrap_or(BATCH_MAX);
            self.batch_records = fitting.clamp(10, BATCH_MAX);
        }
        taken
    }
}

fn size(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

/// Something other than a record that a reader met.
struct Met<'a> {
    topic: &'a str,
    partition: i32,
    code: RDKafkaErrorCode,
    offset: i64,
    text: &'a str,
}

impl Met<'_> {
    fn hand_over(&self, readers: &mut Readers, now_ms: i64, sink: &mut dyn SourceSink) {
        match self.code {
            RDKafkaErrorCode::PartitionEOF => {
                if let Some(partition) = readers.end(self.topic, self.partition, self.offset) {
                    sink.end_of_partition(partition, self.offset);
                }
            }
            // librdkafka has stopped this reader for good: a seek is refused from here on.
            RDKafkaErrorCode::AutoOffsetReset => {
                if let Some(reader) = readers.get(self.topic, self.partition) {
                    let started = reader.phase != Phase::Idle;
                    reader.phase = Phase::Stalled;
                    if started {
                        sink.out_of_range(&reader.partition, None);
                    }
                }
            }
            // librdkafka goes on behind a batch that it cannot read. That would be a silent loss: stay before it.
            code => {
                if let Some(reader) = readers.get(self.topic, self.partition)
                    && reader.phase == Phase::Running
                {
                    reader.phase = Phase::Displaced { at_ms: now_ms + RETRY_MS };
                }
                sink.trouble(format!("{}/{}: {}", self.topic, self.partition, explain(code, self.text)));
            }
        }
    }
}

/// Seeks and resumes: the only way in which a reader comes to run.
fn put(member: &Member, partition: &TopicPartition, offset: i64) -> Result<(), String> {
    let mut target = TopicPartitionList::new();
    target
        .add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offset))
        .map_err(|error| format!("{partition} cannot start at {offset}: {error}"))?;
    let sought =
        member.client.seek_partitions(target, SEEK_WAIT).map_err(|error| format!("seek {partition}: {error}"))?;
    for entry in sought.elements() {
        entry.error().map_err(|error| format!("seek {partition} to {offset}: {error}"))?;
    }
    // An earlier stop of the same partition may have undone it.
    forward(&member.client, partition, Some(member.queue.native()));
    member.client.resume(&list([partition])).map_err(|error| format!("resume {partition}: {error}"))
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration, take_records: bool, sink: &mut dyn SourceSink) {
        self.keep_membership(wait);
        self.follow_topics();
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
        if reader.phase == Phase::Stalled {
            self.rejoin();
            return Err(format!(
                "{}: the reader was out of range; joining the group again to restart it",
                held.partition
            ));
        }
        reader.phase = Phase::Idle;
        let member = self.member.as_ref().ok_or("between two memberships")?;
        put(member, &held.partition, offset)?;
        reader.next = offset;
        reader.phase = Phase::Running;
        Ok(())
    }

    fn pause(&mut self, held: &Held) {
        let Some(reader) = self.readers.of(held) else { return };
        if !matches!(reader.phase, Phase::Running | Phase::Displaced { .. }) {
            return;
        }
        reader.phase = Phase::Paused;
        if let Some(member) = &self.member
            && let Err(error) = member.client.pause(&list([&held.partition]))
        {
            tracing::warn!(partition = %held.partition, %error, "the client did not pause; its records are dropped and read again");
        }
    }

    fn resume(&mut self, held: &Held) {
        if let Some(reader) = self.readers.of(held)
            && reader.phase == Phase::Paused
        {
            reader.phase = Phase::Displaced { at_ms: 0 };
            self.put_back();
        }
    }

    fn rejoin(&mut self) {
        self.leave();
    }

    fn close(&mut self, deadline: Duration) {
        self.closed = true;
        self.topics.stop();
        self.leave();
        if let Some(leaving) = self.leaving.take()
            && leaving.done.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!(?deadline, "the group was not left in time; the broker will notice by itself");
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.topics.stop();
        self.leave();
    }
}
