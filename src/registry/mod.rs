//! The schema registry: what the ids in payloads stand for.
//!
//! Confluent's API and its wire format: a payload begins with a zero byte and the schema's id in 4 bytes, big endian. An id
//! stands for the same schema for ever, so what was once answered is never asked again.
//!
//! # Guarantees
//! - **R-1** A registry that does not answer decides nothing: whoever asks waits, and asks again.
//! - **R-2** "There is no such schema" is an answer. It may be another one later, so a batch keeps the ids that it took for
//!   unknown in its claim: whoever redoes it takes the same ones for unknown.
//! - **R-3** Which of two schemas is the newer one is told by their versions under a common subject, by their ids where they
//!   have none.

mod client;
mod resolve;
mod schema;

pub use client::RegistryError;
pub use schema::{Message, Resolution, Schema, Shape};

use crate::config::RegistryConfig;
use crate::layout::RegistryFormat;
use client::Client;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use url::Url;

/// Most ids that are remembered as unknown: payloads that begin like the wire format by chance can name any.
const UNKNOWN_MAX: usize = 100_000;

/// How often, and after which pause, an id is asked for again that may be new.
const SECOND_LOOKS: u32 = 3;
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How far above the greatest known id one may be new.
const NEW_IDS: u32 = 100;

/// Bytes before the data: a zero byte and the id.
pub const HEADER_BYTES: usize = 5;

/// The id that `payload` begins with; `None` where it does not begin as the wire format does.
pub fn schema_id(payload: &[u8]) -> Option<u32> {
    let (&[magic, a, b, c, d], _) = payload.split_first_chunk::<HEADER_BYTES>()?;
    let id = i32::from_be_bytes([a, b, c, d]);
    u32::try_from(id).ok().filter(|&id| magic == 0 && id > 0)
}

/// What is known of an id without asking.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Its schema.
    Known(Arc<Schema>),
    /// The registry has none.
    Unknown,
    /// It was not asked for yet.
    NotAsked,
}

/// A schema that rows are projected onto: its id, and for Protocol Buffers which of its messages.
///
/// As text `7` or `7:web.Hit`: so it stands in plans, claims and receipts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The schema.
    pub id: u32,
    /// Full name of the message.
    pub message: Option<String>,
}

/// Longest text of a [`Target`]: it stands in Kafka's metadata.
pub const TARGET_BYTES_MAX: usize = 512;

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{}:{message}", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, message) = match text.split_once(':') {
            Some((id, message)) => (id, Some(message.to_string())),
            None => (text, None),
        };
        let id = id.parse().map_err(|_| format!("{text:?} does not begin with the id of a schema"))?;
        Ok(Self { id, message })
    }
}

/// Id, text, what it refers to (name and text), version.
pub type KnownSchema<'a> = (u32, &'a str, &'a [(&'a str, &'a str)], u32);

/// A registry with what it has answered. Shared by all threads.
pub struct Registry {
    client: Client,
    known: RwLock<Answers>,
}

#[derive(Default)]
struct Answers {
    schemas: HashMap<u32, Arc<Schema>>,
    unknown: HashSet<u32>,
}

impl Registry {
    /// A registry of which nothing is known. Contacts nobody yet.
    ///
    /// # Errors
    /// The settings cannot work, in words for the person who wrote them.
    pub fn new(config: &RegistryConfig) -> Result<Self, String> {
        Ok(Self { client: Client::new(config)?, known: RwLock::default() })
    }

    /// A registry that nobody answers for, with these schemas known: for tests of what is read by them.
    pub fn knowing(format: RegistryFormat, schemas: &[KnownSchema<'_>]) -> Self {
        let url = Url::parse("http://127.0.0.1:1").expect("a URL");
        let config = RegistryConfig { urls: vec![url], login: None, ca_file: None };
        let registry = Self::new(&config).expect("settings that work");
        for &(id, text, parts, version) in schemas {
            let part = |&(name, text): &(&str, &str)| schema::Part { name: name.to_string(), text: text.to_string() };
            let parts: Vec<_> = parts.iter().map(part).collect();
            let versions = [("t-value".to_string(), version)].into_iter().collect();
            let schema = Arc::new(Schema::new(id, versions, Shape::compile(format, text, &parts)));
            registry.known.write().unwrap_or_else(PoisonError::into_inner).schemas.insert(id, schema);
        }
        registry
    }

    /// What is known of `id`. Never waits for anybody.
    pub fn lookup(&self, id: u32) -> Lookup {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.schemas.get(&id) {
            Some(schema) => Lookup::Known(schema.clone()),
            None if known.unknown.contains(&id) => Lookup::Unknown,
            None => Lookup::NotAsked,
        }
    }

    /// What `id` stands for, read as `format` says; `None` where the registry has no such schema. Asks unless it is known.
    ///
    /// # Errors
    /// [`RegistryError`]: no answer, or one that says nothing of the schema. Ask again.
    pub async fn schema(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        match self.lookup(id) {
            Lookup::Known(schema) => Ok(Some(schema)),
            Lookup::Unknown => Ok(None),
            Lookup::NotAsked => self.ask(id, format).await,
        }
    }

    /// As [`Registry::schema`], but asks again where there was no such schema before.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn schema_or_ask(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        match self.lookup(id) {
            Lookup::Known(schema) => Ok(Some(schema)),
            Lookup::Unknown | Lookup::NotAsked => self.ask(id, format).await,
        }
    }

    /// Asks what `id` stands for, whatever is known of it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn ask(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        let mut answer = self.client.by_id(id).await?;
        // A new schema may reach some servers of a registry a moment later than its first record reaches Kafka.
        for _ in 0..SECOND_LOOKS {
            if answer.is_some() || !self.may_be_new(id) {
                break;
            }
            tokio::time::sleep(SECOND_LOOK).await;
            answer = self.client.by_id(id).await?;
        }
        let found = match answer {
            Some(found) => Some(Arc::new(resolve::schema(&self.client, id, found, format).await?)),
            None => None,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(schema) => {
                known.unknown.remove(&id);
                known.schemas.insert(id, schema.clone());
            }
            None => {
                if known.unknown.len() >= UNKNOWN_MAX {
                    known.unknown.clear();
                }
                known.unknown.insert(id);
            }
        }
        Ok(found)
    }

    /// Whether `id` is one that a registry could have given away since: they are counted up.
    fn may_be_new(&self, id: u32) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let last = known.schemas.keys().max().copied().unwrap_or(0);
        (last..=last.saturating_add(NEW_IDS)).contains(&id)
    }

    /// Asks for something that every registry has, to prove address and login.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn probe(&self) -> Result<(), RegistryError> {
        self.client.subjects().await
    }
}

#[cfg(test)]
impl Registry {
    /// Takes `id` for one without a schema.
    pub(crate) fn forget(&self, id: u32) {
        let mut known = self.known.write().expect("no panic before");
        known.schemas.remove(&id);
        known.unknown.insert(id);
    }
}

#[cfg(test)]
mod tests;
