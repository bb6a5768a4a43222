//! Records in a Kafka topic.

use super::{Caller, HookFailure};
use crate::consume::Coordinator;
use crate::effect::Effect;
use crate::kafka::telling::{Producing, TellingError};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A record for each body, whose key is the key; it was told when all in-sync replicas have it.
pub struct Record {
    producing: Producing,
    coordinator: Arc<dyn Coordinator>,
    topic: String,
    /// Whether the topic was there when it was last asked for.
    is_there: AtomicBool,
}

impl Record {
    /// Into `topic`, which must be there.
    pub fn new(producing: Producing, coordinator: Arc<dyn Coordinator>, topic: &str) -> Self {
        Self { producing, coordinator, topic: topic.to_string(), is_there: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[async_trait]
impl Caller for Record {
    fn effect(&self) -> Effect {
        Effect::HookRecord
    }

    fn shown(&self) -> String {
        format!("produce to {}", self.topic)
    }

    async fn call(&self, key: &str, body: &str) -> Result<(), HookFailure> {
        // To produce into a topic that is not there may create it.
        if !self.is_there.load(Ordering::Relaxed) {
            self.coordinator.partitions(&self.topic).await.map_err(|reason| {
                HookFailure::passing(format!("{reason}; siltstone creates no topic: if there is none, create it"))
            })?;
            self.is_there.store(true, Ordering::Relaxed);
        }
        self.producing.send(&self.topic, key, body).await.map_err(|error| {
            self.is_there.store(false, Ordering::Relaxed);
            match error {
                TellingError::Passing(what) => HookFailure::passing(what),
                TellingError::Refused(what) => HookFailure::refused(what),
            }
        })
    }
}
