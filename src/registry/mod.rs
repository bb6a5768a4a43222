//! The schema registry: what the ids in payloads stand for.
//!
//! Confluent's API and its wire format: a payload begins with a zero byte and the schema's id in 4 bytes, big endian. An id
//! stands for the same schema for ever, so a schema that was once answered is never asked for again. What it means depends on
//! the format that an archive reads: one that is of another format than one archive's payloads may be of the next one's.
//!
//! # Guarantees
//! - **R-1** A registry that does not answer decides nothing: whoever asks waits, and asks again.
//! - **R-2** "There is no such schema" is an answer until it is asked again, on the side, at the first record that names the id
//!   after a minute. Where nobody answers then, it is one no more, and R-1 goes for the next record: only ids that are taken for
//!   chance stay unknown, of which there are several at once, not little above the known ones. The answer may be another one
//!   later, so a batch keeps the ids that it took for unknown in its claim: whoever redoes it takes the same ones for unknown.
//! - **R-3** Which of two schemas is the newer one is told by their versions under a common subject, by their ids where they
//!   have none.

mod client;
mod resolve;
mod schema;

pub use client::RegistryError;
pub use schema::{Message, Resolution, Schema, Shape, whole_avro};

use crate::clock::{Clock, SystemClock};
use crate::config::RegistryConfig;
use crate::layout::RegistryFormat;
use client::Client;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use url::Url;

/// Most ids that are remembered as unknown: payloads that begin like the wire format by chance can name any.
const UNKNOWN_MAX: usize = 100_000;
/// For how long an id counts as unknown before it is asked for again, while it still does.
const UNKNOWN_MS: i64 = 60_000;

/// How often, and after which pause, an id is asked for again that may be new.
const SECOND_LOOKS: u32 = 3;
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How little above the greatest known id one is likely to be new.
const NEW_IDS: u32 = 100;
/// Unknown ids beside which one further above, or below, is taken for chance: it is not looked for twice, as each look holds up a
/// partition, and stays unknown while nobody answers.
const CHANCE_IDS: usize = 3;

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
    clock: Arc<dyn Clock>,
    /// Between two looks for an id that may be new.
    second_look: Duration,
    unknown_ids: BTreeSet<u32>,
    /// An unknown id is being asked for again.
    is_looking: AtomicBool,
    known: RwLock<Answers>,
}

#[derive(Default)]
struct Answers {
    /// By id and what it is read as. At most as many as the registry has, for each format.
    schemas: HashMap<(u32, RegistryFormat), Arc<Schema>>,
    /// When the registry said that it has none, monotonic milliseconds.
    unknown: HashMap<u32, i64>,
}

impl Answers {
    /// The greatest known id.
    fn last(&self) -> u32 {
        self.schemas.keys().map(|&(id, _)| id).max().unwrap_or(0)
    }

    /// Whether `id`, which has no schema, is taken for one that a payload begins with by chance.
    fn takes_for_chance(&self, id: u32) -> bool {
        let others = self.unknown.len() - usize::from(self.unknown.contains_key(&id));
        let is_next = id.checked_sub(self.last()).is_some_and(|above| (1..=NEW_IDS).contains(&above));
        others >= CHANCE_IDS && !is_next
    }
}

impl Registry {
    /// A registry of which nothing is known. Contacts nobody yet.
    ///
    /// # Errors
    /// The settings cannot work, in words for the person who wrote them.
    pub fn new(config: &RegistryConfig) -> Result<Self, String> {
        Ok(Self {
            client: Client::new(config)?,
            clock: Arc::new(SystemClock::new()),
            second_look: SECOND_LOOK,
            unknown_ids: config.unknown_ids.clone(),
            is_looking: AtomicBool::new(false),
            known: RwLock::default(),
        })
    }

    /// A registry that nobody answers for, with these schemas known: for tests of what is read by them.
    pub fn knowing(format: RegistryFormat, schemas: &[KnownSchema<'_>]) -> Self {
        let url = Url::parse("http://127.0.0.1:1").expect("a URL");
        let config = RegistryConfig { urls: vec![url], login: None, ca_file: None, unknown_ids: BTreeSet::new() };
        let registry = Self::new(&config).expect("settings that work");
        for &(id, text, parts, version) in schemas {
            let part = |&(name, text): &(&str, &str)| schema::Part { name: name.to_string(), text: text.to_string() };
            let parts: Vec<_> = parts.iter().map(part).collect();
            let versions = [("t-value".to_string(), version)].into_iter().collect();
            let schema = Arc::new(Schema::new(id, versions, Shape::compile(format, text, &parts)));
            registry.known.write().unwrap_or_else(PoisonError::into_inner).schemas.insert((id, format), schema);
        }
        registry
    }

    /// What is known of `id`, read as `format` says. Never waits for anybody.
    pub fn answer(&self, id: u32, format: RegistryFormat) -> Lookup {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.schemas.get(&(id, format)) {
            Some(schema) => Lookup::Known(schema.clone()),
            None if known.unknown.contains_key(&id) => Lookup::Unknown,
            None => Lookup::NotAsked,
        }
    }

    /// Whether it is time to ask again for `id`, which the registry had no schema of: then call [`Registry::look_again`]. For one id
    /// at a time, and for each once a minute.
    pub fn looks_again(&self, id: u32) -> bool {
        let now_ms = self.clock.monotonic_ms();
        let is_due = |known: &Answers| known.unknown.get(&id).is_some_and(|told_ms| now_ms - told_ms >= UNKNOWN_MS);
        if !is_due(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            return false;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !is_due(&known) || self.is_looking.swap(true, Ordering::Relaxed) {
            return false;
        }
        // As if it had just been told: nobody else asks beside this look.
        known.unknown.insert(id, now_ms);
        true
    }

    /// Asks again for `id`. Nothing waits for the answer; without one, whoever meets the id next asks and waits.
    pub async fn look_again(&self, id: u32, format: RegistryFormat) {
        if let Err(error) = self.ask(id, format).await {
            tracing::debug!(id, %error, "could not ask for a schema again that was unknown");
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if !known.takes_for_chance(id) {
                known.unknown.remove(&id);
            }
        }
        self.is_looking.store(false, Ordering::Relaxed);
    }

    /// Whether the configuration says that `id` stands for nothing, whatever the registry says: a batch that is cut from now on
    /// takes it for unknown.
    pub fn is_given_up(&self, id: u32) -> bool {
        self.unknown_ids.contains(&id)
    }

    /// What `id` stands for, read as `format` says; `None` where the registry has no such schema. Asks unless it is known.
    ///
    /// # Errors
    /// [`RegistryError`]: no answer, or one that says nothing of the schema. Ask again.
    pub async fn schema(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        match self.answer(id, format) {
            Lookup::Known(schema) => Ok(Some(schema)),
            Lookup::Unknown => Ok(None),
            Lookup::NotAsked => self.ask(id, format).await,
        }
    }

    /// As [`Registry::schema`], but asks again where there was no such schema before, and takes no answer for "there is none" where
    /// the configuration gives the id up.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn schema_or_ask(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        match self.answer(id, format) {
            Lookup::Known(schema) => Ok(Some(schema)),
            Lookup::Unknown | Lookup::NotAsked => match self.ask(id, format).await {
                Err(_) if self.is_given_up(id) => Ok(None),
                answered => answered,
            },
        }
    }

    /// Asks what `id` stands for, whatever is known of it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn ask(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        let mut found = self.find(id, format).await?;
        // A new schema may reach some servers of a registry a moment later than its first record reaches Kafka.
        let looks = if found.is_none() && self.may_be_new(id) { SECOND_LOOKS } else { 0 };
        for _ in 0..looks {
            tokio::time::sleep(self.second_look).await;
            found = self.find(id, format).await?;
            if found.is_some() {
                break;
            }
        }
        let now_ms = self.clock.monotonic_ms();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(schema) => {
                known.unknown.remove(&id);
                known.schemas.insert((id, format), schema.clone());
            }
            None => {
                if known.unknown.len() >= UNKNOWN_MAX {
                    known.unknown.retain(|_, &mut told_ms| now_ms - told_ms < UNKNOWN_MS);
                }
                if known.unknown.len() >= UNKNOWN_MAX {
                    known.unknown.clear();
                }
                known.unknown.insert(id, now_ms);
            }
        }
        Ok(found)
    }

    async fn find(&self, id: u32, format: RegistryFormat) -> Result<Option<Arc<Schema>>, RegistryError> {
        let Some(found) = self.client.by_id(id).await? else { return Ok(None) };
        Ok(resolve::schema(&self.client, id, found, format).await?.map(Arc::new))
    }

    /// Whether `id` is one that a registry could have given away since: they are counted up. Each is looked for twice only once.
    fn may_be_new(&self, id: u32) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        id > known.last() && !known.unknown.contains_key(&id) && !known.takes_for_chance(id)
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
    /// What is known of `id`, in whichever format.
    pub(crate) fn lookup(&self, id: u32) -> Lookup {
        let answers = [RegistryFormat::Avro, RegistryFormat::Protobuf, RegistryFormat::JsonSchema];
        let mut answers = answers.map(|format| self.answer(id, format)).into_iter();
        let last = answers.next_back().expect("three");
        answers.find(|answer| matches!(answer, Lookup::Known(_))).unwrap_or(last)
    }

    /// Takes `id` for one without a schema.
    pub(crate) fn forget(&self, id: u32) {
        let now_ms = self.clock.monotonic_ms();
        let mut known = self.known.write().expect("no panic before");
        known.schemas.retain(|&(known, _), _| known != id);
        known.unknown.insert(id, now_ms);
    }

    /// By that clock, and without pauses.
    pub(crate) fn by_clock(self, clock: Arc<crate::clock::ManualClock>) -> Self {
        Self { clock, second_look: Duration::ZERO, ..self }
    }
}

#[cfg(test)]
mod tests;
