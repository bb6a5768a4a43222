//! The rebalance callback and the client's errors, as events in order.
//!
//! Runs on the thread that polls (or closes) the group client, inside librdkafka's callback: until it returns, the
//! member cannot rejoin. So whatever must be dead before that dies here (K-3). Makes no client calls afterwards.

use super::held::Ownership;
use super::trouble::explain;
use crate::consume::Held;
use crate::record::TopicPartition;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happened to the member, in order.
#[derive(Debug)]
pub(super) enum Event {
    Assigned(Vec<Held>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
    Trouble(String),
}

/// Context of the group client.
pub(super) struct GroupContext {
    ownership: Arc<Ownership>,
    grace: Duration,
    events: Mutex<VecDeque<Event>>,
    /// Counts everything that the client reported, so that a reader knows when it has drained the client.
    reported: AtomicU64,
    leaving: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(ownership: Arc<Ownership>, grace: Duration) -> Self {
        Self {
            ownership,
            grace,
            events: Mutex::default(),
            reported: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        }
    }

    /// From now on everything is given back without waiting and without a report: the owner has already reported it.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(super) fn reported(&self) -> u64 {
        self.reported.load(Ordering::SeqCst)
    }

    pub(super) fn next_event(&self) -> Option<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn report(&self, event: Event) {
        if !self.leaving.load(Ordering::SeqCst) {
            self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        }
    }

    /// New partitions are paused and stay so, at a placeholder: what is read of them is read by another client (K-2).
    fn assign(&self, consumer: &BaseConsumer<Self>, given: &mut TopicPartitionList) {
        let partitions = named(given);
        if let Err(error) = given.set_all_offsets(Offset::Offset(0)) {
            self.report(Event::Trouble(format!("placeholder for the assigned partitions: {error}")));
        }
        self.pause(consumer, given);
        if let Err(error) = consumer.incremental_assign(given) {
            self.report(Event::Trouble(format!("take {} partitions from the group: {error}", partitions.len())));
            return;
        }
        self.pause(consumer, given);
        if self.leaving.load(Ordering::SeqCst) {
            return;
        }
        let held = self.ownership.add(&partitions);
        self.ownership.moved();
        self.report(Event::Assigned(held));
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, taken: &TopicPartitionList) {
        let partitions = named(taken);
        let lost = consumer.assignment_lost();
        let leaving = self.leaving.load(Ordering::SeqCst);
        if !lost && !leaving {
            // A commit that was refused because the group moved may try again now: the member has its new generation.
            self.ownership.moved();
            if !self.ownership.wait_planned(&partitions, self.grace) {
                tracing::warn!(grace = ?self.grace, "planned batches were not finished in time; others will redo them");
            }
        }
        if !leaving {
            self.ownership.remove(&partitions);
        }
        if let Err(error) = consumer.incremental_unassign(taken) {
            self.report(Event::Trouble(format!("give {} partitions back to the group: {error}", partitions.len())));
        }
        self.report(if lost { Event::Lost(partitions) } else { Event::Revoked(partitions) });
    }

    fn pause(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        if partitions.count() > 0
            && let Err(error) = consumer.pause(partitions)
        {
            self.report(Event::Trouble(format!("pause: {error}")));
        }
    }
}

/// The partitions of a list.
pub(super) fn named(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|entry| TopicPartition::new(entry.topic(), entry.partition())).collect()
}

/// A list of partitions, without offsets.
pub(super) fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            _ => self.revoke(consumer, partitions),
        }
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.report(Event::Trouble(explain(code, reason)));
    }
}

/// librdkafka calls a refused connection an error; for us it is a passing fault, which is reported as trouble as well.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::info!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::debug!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::trace!(target: "librdkafka", facility, "{message}"),
    }
}
