//! librdkafka's settings: ours, the user's, and which of the two wins.
//!
//! The user's `[kafka.client]` settings override ours, except those that the delivery protocol owns: these are refused
//! with the reason ([`refused_setting`]), here as in the configuration. Values never appear in an error: any of them may be a secret.

use super::KafkaError;
use crate::config::{GroupProtocol, Isolation, KafkaConfig, refused_setting};
use crate::restore::TRANSACTION_TIMEOUT_MS;
use crate::restore::produce::BYTES_MAX;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::time::Duration;

/// How often librdkafka and the topic watcher look for new topics and partitions. One look, one rebalance and a round
/// of assignment stay well under the promised 60 s.
pub(super) const REFRESH_MS: u64 = 15_000;

/// How librdkafka's memory is divided. With one queue for all partitions its limits hold for all of them together.
///
/// ```text
/// queue     = budget / 2            payload and keys waiting (queued.max.messages.kbytes)
/// records   = budget / 4 / 512 B    what librdkafka spends on each waiting record (queued.min.messages)
/// response  = budget / 32           one fetch, as sent by the broker (fetch.max.bytes), 1 to 16 MiB
/// partition = response / 2          of it from one partition (max.partition.fetch.bytes), at least 1 MiB
/// ```
/// The rest, a quarter, is for responses unpacked while the queue is full: brokers × compression ratio ≤ 8 fits. A record
/// larger than `response` is still read: Kafka sends at least one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Payload and keys waiting, bytes.
    pub queue_bytes: u64,
    /// Records waiting.
    pub queue_records: u64,
    /// One fetch response, bytes.
    pub response_bytes: u64,
    /// One partition's share of it, bytes.
    pub partition_bytes: u64,
}

impl Memory {
    /// Divides `budget` bytes. Below 32 MiB the smallest working sizes are used and the budget is exceeded.
    pub fn of(budget: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let response_bytes = (budget / 32).clamp(MIB, 16 * MIB);
        Self {
            // librdkafka's own range of the setting ends at 2 GiB.
            queue_bytes: (budget / 2).clamp(2 * MIB, 2047 * MIB),
            queue_records: (budget / 4 / 512).clamp(1_000, 10_000_000),
            response_bytes,
            partition_bytes: (response_bytes / 2).max(MIB),
        }
    }
}

/// Checked settings of the two clients of a source.
pub(super) struct Settings {
    pub(super) member: ClientConfig,
    pub(super) reading: ClientConfig,
    pub(super) brokers: String,
    pub(super) memory: Memory,
}

impl Settings {
    /// With `memory_bytes` divided as [`Memory`] says.
    ///
    /// # Errors
    /// [`KafkaError::Setting`]: a setting may not be set, is unknown or has a bad value.
    pub(super) fn of(config: &KafkaConfig, memory_bytes: u64) -> Result<Self, KafkaError> {
        let memory = Memory::of(memory_bytes);
        let (member, reading) = (member(config)?, reading(config, memory)?);
        Ok(Self { member, reading, brokers: config.brokers.clone(), memory })
    }
}

/// The settings of the group member, which reads nothing.
fn member(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    client
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    match config.protocol {
        GroupProtocol::Classic => client.set("partition.assignment.strategy", "cooperative-sticky"),
        GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
    };
    if let Some(instance) = &config.instance_id {
        client.set("group.instance.id", instance);
    }
    overlay(&mut client, config)?;
    Ok(client)
}

/// The settings of the client that reads. It names the group, as librdkafka wants it to, and never joins it.
fn reading(config: &KafkaConfig, memory: Memory) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    client
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Not the default in librdkafka. Without it a damaged batch would be archived.
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "250")
        .set("queued.max.messages.kbytes", (memory.queue_bytes / 1024).to_string())
        .set("queued.min.messages", memory.queue_records.to_string())
        .set("fetch.max.bytes", memory.response_bytes.to_string())
        .set("max.partition.fetch.bytes", memory.partition_bytes.to_string());
    overlay(&mut client, config)?;
    Ok(client)
}

/// The settings of the client that only asks questions. It names the group, to read its offsets, and never joins it.
///
/// # Errors
/// As [`Settings::of`].
pub(super) fn asking(config: &KafkaConfig, isolation: Isolation) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    client
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation_level(isolation))
        // Closed connections are told at this level only, and they explain an unreachable broker.
        .set_log_level(log_level(RDKafkaLogLevel::Info));
    overlay(&mut client, config)?;
    Ok(client)
}

/// Settings that only consumers have, which other clients warn of.
const OF_CONSUMERS: &[&str] = &[
    "allow.auto.create.topics",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "check.crcs",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];

/// The largest record that is handed to a broker, bytes: all that librdkafka lets it be. It looks at a record as it is; what a topic takes is told of one
/// that is packed, and is the broker's to decide.
const PRODUCED_BYTES_MAX: u64 = 1_000_000_000;
/// The largest one where the topic takes no more, or nobody knows: a broker closes the connection at a request of more than its socket.request.max.bytes, of
/// which this is the default, and all source partitions would end with it.
const REQUEST_BYTES_USUAL: u64 = 100 << 20;
/// Bytes of records in a batch that has more than one.
const BATCH_BYTES_MAX: u64 = 1_000_000;
/// Records that wait in a producer: more than a transaction of a restore has.
const PRODUCING_RECORDS: u64 = 100_000;

/// The settings of a client that asks for topics' settings: those of `config` that are not for consumers alone.
///
/// # Errors
/// As [`Settings::of`].
pub(super) fn administering(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    for setting in OF_CONSUMERS {
        client.remove(setting);
    }
    overlay(&mut client, &without_consumers(config))?;
    Ok(client)
}

/// The settings of a transactional producer; `batch_bytes_max`: the largest batch that its topic takes, packed. A key goes where a Java producer puts
/// it.
///
/// A broker compares `max.message.bytes` of the topic with a batch as it is packed, and refuses it as a whole. So several records are in one batch only
/// where that would be taken unpacked as well (librdkafka sends none that packing makes larger): one that is refused for its size is a record alone.
///
/// # Errors
/// As [`Settings::of`].
pub(super) fn producing(
    config: &KafkaConfig,
    transactional_id: &str,
    batch_bytes_max: Option<u64>,
) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    for setting in OF_CONSUMERS {
        client.remove(setting);
    }
    client
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        .set(
            "message.max.bytes",
            batch_bytes_max.unwrap_or(0).clamp(REQUEST_BYTES_USUAL, PRODUCED_BYTES_MAX).to_string(),
        )
        .set("queue.buffering.max.messages", PRODUCING_RECORDS.to_string());
    overlay(&mut client, &without_consumers(config))?;
    let number = |client: &ClientConfig, setting: &str| client.get(setting).and_then(|own| own.parse::<u64>().ok());
    // What waits is bounded by what a transaction holds. The largest record has room beside that, or it would wait for ever.
    let room = (number(&client, "message.max.bytes").unwrap_or(PRODUCED_BYTES_MAX) + BYTES_MAX).div_ceil(1 << 10);
    let own = number(&client, "queue.buffering.max.kbytes").unwrap_or_default();
    client.set("queue.buffering.max.kbytes", own.max(room).to_string());
    // What is refused must be one record, whatever somebody sets.
    let own = number(&client, "batch.size");
    let most = own.unwrap_or(BATCH_BYTES_MAX).min(batch_bytes_max.unwrap_or(u64::MAX));
    client.set("batch.size", most.max(1).to_string());
    // What makes it exactly once is nobody's to change.
    client
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string())
        .set("enable.idempotence", "true")
        .set("acks", "all");
    Ok(client)
}

/// The settings of a producer whose records are acknowledged one by one within `timeout`. A key goes where a Java producer puts it.
///
/// # Errors
/// As [`Settings::of`].
pub(super) fn telling(config: &KafkaConfig, timeout: Duration) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config);
    for setting in OF_CONSUMERS {
        client.remove(setting);
    }
    client
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", REQUEST_BYTES_USUAL.to_string());
    overlay(&mut client, &without_consumers(config))?;
    // What a hook relies on is nobody's to change.
    for setting in ["transactional.id", "delivery.timeout.ms", "request.required.acks"] {
        client.remove(setting);
    }
    client.set("acks", "all").set("message.timeout.ms", timeout.as_millis().to_string());
    Ok(client)
}

fn without_consumers(config: &KafkaConfig) -> KafkaConfig {
    let mut own = config.clone();
    own.client.retain(|setting, _| !OF_CONSUMERS.contains(&setting.as_str()));
    own
}

fn isolation_level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    }
}

fn common(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", &config.group)
        .set("client.id", "siltstone")
        .set("isolation.level", isolation_level(config.isolation))
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", REFRESH_MS.to_string())
        .set("metadata.max.age.ms", (3 * REFRESH_MS).to_string())
        .set("statistics.interval.ms", "0")
        .set_log_level(log_level(RDKafkaLogLevel::Warning));
    client
}

/// librdkafka formats only what the log will show, and what is at least `least`.
fn log_level(least: RDKafkaLogLevel) -> RDKafkaLogLevel {
    if tracing::enabled!(target: "librdkafka", tracing::Level::TRACE) {
        RDKafkaLogLevel::Debug
    } else if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Info
    } else {
        least
    }
}

/// Puts the user's settings over ours and lets librdkafka check all of them.
fn overlay(client: &mut ClientConfig, config: &KafkaConfig) -> Result<(), KafkaError> {
    for (key, value) in &config.client {
        if let Some(reason) = refused_setting(key, config.protocol) {
            return Err(refused(key, format!("may not be set: {reason}")));
        }
        client.set(key, value.reveal());
    }
    match client.create_native_config() {
        Ok(_) => Ok(()),
        Err(rdkafka::error::KafkaError::ClientConfig(_, problem, key, value)) => {
            Err(refused(&key, without_value(&problem, &key, &value)))
        }
        Err(other) => Err(KafkaError::Create { brokers: config.brokers.clone(), problem: other.to_string() }),
    }
}

/// What librdkafka has against this one setting, whatever the others are: unknown, or a value it does not take. Asks
/// nobody else, and never shows the value.
pub fn setting_problem(key: &str, value: &str) -> Option<String> {
    match ClientConfig::new().set(key, value).create_native_config() {
        Err(rdkafka::error::KafkaError::ClientConfig(_, problem, ..)) => Some(without_value(&problem, key, value)),
        // Anything else is met again, and told, where the client is made.
        _ => None,
    }
}

/// librdkafka's sentence. It may quote the value or a part of it, so everything quoted but the key goes.
fn without_value(problem: &str, key: &str, value: &str) -> String {
    let plain = |part: &str| match value {
        "" => part.to_string(),
        // A number is told as it is, and may be part of another one.
        _ if value.parse::<i64>().is_ok() => {
            part.split(' ').map(|word| if word == value { "***" } else { word }).collect::<Vec<_>>().join(" ")
        }
        _ => part.replace(value, "***"),
    };
    let parts = problem.trim_end().split('"').enumerate().map(|(index, part)| match index % 2 {
        0 => plain(part),
        _ if part == key => part.to_string(),
        _ => "***".to_string(),
    });
    parts.collect::<Vec<_>>().join("\"")
}

fn refused(key: &str, problem: String) -> KafkaError {
    KafkaError::Setting { key: key.to_string(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::tests::config;

    #[test]
    fn the_users_settings_win_over_ours() {
        let plain = reading(&config("b:1"), Memory::of(64 << 20)).expect("our own settings are sound");
        assert_eq!(plain.get("check.crcs"), Some("true"));
        assert_eq!(plain.get("queued.max.messages.kbytes"), Some("32768"));
        let mut tuned = config("b:1");
        tuned.client.insert("check.crcs".into(), crate::config::Secret::new("false"));
        let tuned = reading(&tuned, Memory::of(64 << 20)).expect("allowed");
        assert_eq!(tuned.get("check.crcs"), Some("false"));
    }

    #[test]
    fn bad_settings_are_named_and_their_values_hidden() {
        let cases = [
            ("enable.auto.commit", "true", "may not be set: siltstone alone commits"),
            ("auto.offset.reset", "latest", "set `start` in [kafka]"),
            ("no.such.key", "hush-hush", "No such configuration property"),
            ("security.protocol", "hush-hush", "Invalid value"),
            ("socket.timeout.ms", "hush-hush", "Invalid value"),
        ];
        for (key, value, expected) in cases {
            let mut config = config("b:1");
            config.client.insert(key.into(), crate::config::Secret::new(value));
            let error = match member(&config) {
                Ok(_) => panic!("{key} = {value} was taken"),
                Err(error) => error.to_string(),
            };
            assert!(error.starts_with(&format!("[kafka.client] \"{key}\": ")), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hush-hush"), "{error}");
        }
    }

    #[test]
    fn one_setting_is_judged_alone_and_its_value_hidden() {
        assert_eq!(setting_problem("session.timeout.ms", "10000"), None);
        assert_eq!(setting_problem("sasl.password", "hush"), None);
        let cases = [
            ("no.such.key", "hush", "No such configuration property: \"no.such.key\""),
            ("sesion.timeout.ms", "10", "No such configuration property: \"sesion.timeout.ms\""),
            ("security.protocol", "hush", "Invalid value \"***\" for configuration property \"security.protocol\""),
            ("debug", "broker,hush", "Invalid value \"***\" for configuration property \"debug\""),
            ("check.crcs", "hush", "Expected bool value for \"check.crcs\": true or false"),
            ("session.timeout.ms", "hush", "Invalid value for configuration property \"session.timeout.ms\""),
            (
                "session.timeout.ms",
                "7777777",
                "Configuration property \"session.timeout.ms\" value *** is outside allowed range 1..3600000",
            ),
        ];
        for (key, value, expected) in cases {
            assert_eq!(setting_problem(key, value).as_deref(), Some(expected), "{key}");
        }
    }

    #[test]
    fn the_new_group_protocol_refuses_settings_of_the_old_one() {
        for key in ["session.timeout.ms", "heartbeat.interval.ms"] {
            let mut config = config("b:1");
            config.client.insert(key.into(), crate::config::Secret::new("10000"));
            member(&config).map(drop).expect("allowed with the classic protocol");
            config.protocol = GroupProtocol::Consumer;
            let error = member(&config).map(drop).expect_err("refused").to_string();
            assert!(error.contains("the broker decides it"), "{error}");
        }
    }

    #[test]
    fn a_producer_takes_what_is_not_for_consumers_and_stays_exactly_once() {
        let mut config = config("b:1");
        for (key, value) in
            [("fetch.max.bytes", "1000000"), ("sasl.username", "u"), ("acks", "0"), ("compression.type", "zstd")]
        {
            config.client.insert(key.into(), crate::config::Secret::new(value));
        }
        let client = producing(&config, "x", Some(8 << 20)).expect("sound");
        let has = |key: &str| client.get(key);
        assert_eq!((has("fetch.max.bytes"), has("group.id"), has("isolation.level")), (None, None, None));
        assert_eq!(
            (has("sasl.username"), has("acks"), has("compression.type")),
            (Some("u"), Some("all"), Some("zstd"))
        );
        assert_eq!(has("transactional.id"), Some("x"));
        assert_eq!((has("message.max.bytes"), has("queue.buffering.max.kbytes")), (Some("104857600"), Some("135168")));
        client.create_native_config().expect("librdkafka takes it");
        assert_eq!(administering(&config).expect("sound").get("transactional.id"), None);
    }

    /// Goal: a record that a broker would close the connection for is not handed to it; any that is has room beside a transaction, whatever somebody sets.
    #[test]
    fn the_largest_record_is_what_brokers_take_and_has_room() {
        let found = |own: &[(&str, &str)], most| {
            let mut config = config("b:1");
            let own = own.iter().map(|&(setting, value)| (setting.to_string(), crate::config::Secret::new(value)));
            config.client.extend(own);
            let client = producing(&config, "x", most).expect("sound");
            client.create_native_config().expect("librdkafka takes it");
            let number = |setting: &str| client.get(setting).expect("set").parse::<u64>().expect("a number");
            (number("message.max.bytes"), number("queue.buffering.max.kbytes") << 10)
        };
        let usual = 100 << 20;
        assert_eq!(found(&[], None), (usual, usual + BYTES_MAX));
        assert_eq!(found(&[], Some(1_000)), (usual, usual + BYTES_MAX));
        assert_eq!(found(&[], Some(300 << 20)), (300 << 20, (300 << 20) + BYTES_MAX));
        assert_eq!(found(&[], Some(u64::MAX)).0, PRODUCED_BYTES_MAX);
        let room = "queue.buffering.max.kbytes";
        assert_eq!(found(&[("message.max.bytes", "5000"), (room, "10")], None), (5_000, 5 * 1_024 + BYTES_MAX));
        assert_eq!(found(&[(room, "1048576")], None), (usual, 1 << 30));
    }

    /// Goal: a batch of several records is never more than the topic takes, also unpacked; what somebody sets is kept where it is less.
    #[test]
    fn batches_of_several_records_are_what_the_topic_takes() {
        let batch = |own: Option<&str>, most| {
            let mut config = config("b:1");
            config.client.extend(own.map(|own| ("batch.size".to_string(), crate::config::Secret::new(own))));
            let client = producing(&config, "x", most).expect("sound");
            client.create_native_config().expect("librdkafka takes it");
            client.get("batch.size").map(str::to_string)
        };
        for (own, most, expected) in [
            (None, None, "1000000"),
            (None, Some(8 << 20), "1000000"),
            (None, Some(20_000), "20000"),
            (None, Some(0), "1"),
            (Some("500000"), Some(20_000), "20000"),
            (Some("5000"), Some(20_000), "5000"),
            (Some("2000000"), None, "2000000"),
        ] {
            assert_eq!(batch(own, most).as_deref(), Some(expected), "{own:?} {most:?}");
        }
    }

    #[test]
    fn memory_stays_in_the_budget() {
        for mib in [32_u64, 64, 256, 1024] {
            let budget = mib << 20;
            let memory = Memory::of(budget);
            let used = memory.queue_bytes + memory.queue_records * 512 + 8 * memory.response_bytes;
            assert!(used <= budget, "{mib} MiB: {used} of {budget}");
            assert!(memory.partition_bytes >= 1 << 20 && memory.partition_bytes <= memory.response_bytes);
        }
    }
}
