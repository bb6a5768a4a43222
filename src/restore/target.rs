//! What restores are produced into: the seam towards Kafka, and what a topic's settings would do to old records.

use super::position::Kept;
use crate::parse::timestamp::render_instant;
use crate::record::OwnedRecord;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;

/// Why something could not be produced or committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The transaction is to be aborted, which tells whether one of its records is refused; else what it held can be tried again.
    Passing(String),
    /// It would be refused again, whatever the record: a right is missing.
    Refused(String),
    /// Another process has gone on with the job.
    Fenced(String),
    /// The producer is of no use any more, whether or not the last commit happened. Starting again finds out.
    Fatal(String),
}

/// What became of a record that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handed {
    /// It is in the transaction.
    Taken,
    /// There is no room now.
    Full,
    /// It cannot be sent, and why. It is not in the transaction.
    Never(String),
}

/// A record that the broker refuses for what it is, and would again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Which of those that the transaction was handed, from 0. `None`: the broker refuses whole batches, and has not told it; it is known once the
    /// records are handed over again.
    pub number: Option<usize>,
    /// Why, and what to do.
    pub why: String,
}

/// Transactions on one topic, by one job.
pub trait Target: Send + Sync {
    /// Ends what an earlier process has left open, and makes it unable to go on; then what the job's transactions have committed.
    ///
    /// # Errors
    /// As [`Trouble`] says.
    fn recover(&self) -> BoxFuture<'_, Result<Vec<Kept>, Trouble>>;
    /// Begins a transaction; there is none.
    ///
    /// # Errors
    /// As [`Trouble`] says.
    fn begin(&self) -> Result<(), Trouble>;
    /// Hands over a record, for this partition or the one that its key decides.
    ///
    /// # Errors
    /// As [`Trouble`] says; of records that were handed over before.
    fn put(&self, partition: Option<i32>, record: &OwnedRecord) -> Result<Handed, Trouble>;
    /// Waits for room, a moment at most.
    fn room(&self) -> BoxFuture<'_, ()>;
    /// Commits the transaction: its records and how far the job is then.
    ///
    /// # Errors
    /// As [`Trouble`] says.
    fn commit(&self, progress: Vec<Kept>) -> BoxFuture<'_, Result<(), Trouble>>;
    /// Gives the transaction up. What became of all its records is known then: gives the one that is refused, if that is why.
    ///
    /// # Errors
    /// As [`Trouble`] says. With [`Trouble::Refused`] it is given up, and that is why it had to be.
    fn abort(&self) -> BoxFuture<'_, Result<Option<RefusedRecord>, Trouble>>;
}

/// Something that may be changed, deleted or doubled, and is done all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Accept {
    /// The broker replaces timestamps by its own.
    Timestamps,
    /// The broker may delete old records soon after.
    Retention,
    /// The archive takes from the topic, and would archive again what is restored.
    Loop,
    /// The topic's settings cannot be read, and so not be checked.
    Unknown,
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timestamps => "timestamps",
            Self::Retention => "retention",
            Self::Loop => "loop",
            Self::Unknown => "unknown",
        })
    }
}

/// What speaks against a restore, or is to be known before it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Nothing is produced because of it.
    pub refused: bool,
    /// What it is about, and what to do.
    pub text: String,
}

/// What is known before the first record.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Topic to produce into.
    pub topic: String,
    /// Its brokers.
    pub brokers: String,
    /// Its partitions.
    pub partitions: i32,
    /// Largest source partition, where partitions are to be preserved.
    pub preserved_max: Option<i32>,
    /// The oldest time among the records, as far as it is known, milliseconds UTC.
    pub oldest_ms: Option<i64>,
    /// The latest.
    pub newest_ms: Option<i64>,
    /// Now, milliseconds UTC.
    pub now_ms: i64,
    /// It is the very topic that was archived, in the same cluster.
    pub is_source: bool,
    /// The archive of the same cluster that takes it.
    pub archived_by: Option<String>,
    /// Bytes of what is to be restored, as they lie in the bucket.
    pub bytes: u64,
}

/// A topic's settings, as the broker tells them; `Err`: why it does not.
pub type Settings = Result<BTreeMap<String, String>, String>;

/// Kafka's default of `max.message.bytes`.
const MESSAGE_BYTES_USUAL: i64 = 1_048_588;

/// Something that stops a restore unless it is accepted, where it can be.
fn refusal(what: String, accept: Option<Accept>, accepted: &[Accept]) -> Finding {
    let is_accepted = accept.is_some_and(|accept| accepted.contains(&accept));
    let text = match accept {
        Some(accept) if !is_accepted => format!("{what}; or restore all the same with --accept {accept}"),
        _ => what,
    };
    Finding { refused: !is_accepted, text }
}

/// The milliseconds of a setting; `None`: it is off.
fn limit_ms(settings: &BTreeMap<String, String>, names: &[&str]) -> Option<i64> {
    // Brokers that have the newer names tell both, and hold a record to the older one where it is set.
    let values = names.iter().filter_map(|name| settings.get(*name)?.parse::<i64>().ok());
    values.filter(|value| (0..i64::MAX).contains(value)).min()
}

fn replaces_times(settings: &BTreeMap<String, String>) -> bool {
    settings.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime")
}

fn policy(settings: &BTreeMap<String, String>, word: &str) -> bool {
    let policy = settings.get("cleanup.policy").map_or("delete", String::as_str);
    policy.split(',').any(|one| one.trim() == word)
}

/// Limits of Kafka timestamps, for each record on its way: what is known beforehand are event times, and they may be others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// Older ones would be deleted soon.
    pub kept_from_ms: Option<i64>,
    /// Older ones would be refused.
    pub taken_from_ms: Option<i64>,
    /// Later ones would be refused.
    pub taken_to_ms: Option<i64>,
}

const BEFORE: [&str; 2] = ["message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"];
const AFTER: [&str; 2] = ["message.timestamp.after.max.ms", "message.timestamp.difference.max.ms"];

impl TimeLimits {
    /// Of a topic with these settings, at `now_ms`.
    pub fn of(settings: &Settings, now_ms: i64, accepted: &[Accept]) -> Self {
        let Ok(settings) = settings else { return Self::default() };
        if replaces_times(settings) {
            return Self::default();
        }
        let retention = limit_ms(settings, &["retention.ms"]).filter(|_| policy(settings, "delete"));
        Self {
            kept_from_ms: retention
                .filter(|_| !accepted.contains(&Accept::Retention))
                .map(|retention| now_ms.saturating_sub(retention)),
            taken_from_ms: limit_ms(settings, &BEFORE).map(|before| now_ms.saturating_sub(before)),
            taken_to_ms: limit_ms(settings, &AFTER).map(|after| now_ms.saturating_add(after)),
        }
    }

    /// Why a record of that time may not be produced.
    pub fn problem(&self, at_ms: i64, topic: &str) -> Option<String> {
        let at = || render_instant(at_ms);
        if self.taken_from_ms.is_some_and(|from| at_ms < from) || self.taken_to_ms.is_some_and(|to| at_ms > to) {
            let keys = "message.timestamp.before.max.ms or message.timestamp.after.max.ms";
            return Some(format!(
                "its timestamp {} is beyond {keys} of {topic}, which would refuse it: raise that",
                at()
            ));
        }
        if self.kept_from_ms.is_some_and(|from| at_ms < from) {
            return Some(format!(
                "its timestamp {} is older than retention.ms of {topic} allows, so it would be deleted soon: raise that, or --accept retention",
                at()
            ));
        }
        None
    }
}

/// What speaks against producing into the topic, or is to be known: refusals first.
pub fn findings(settings: &Settings, facts: &Facts, accepted: &[Accept]) -> Vec<Finding> {
    let mut found = Vec::new();
    let (topic, brokers) = (&facts.topic, &facts.brokers);
    let alter = |setting: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config {setting}"
        )
    };
    if let Some(most) = facts.preserved_max.filter(|&most| most >= facts.partitions) {
        found.push(refusal(
            format!(
                "--preserve-partitions: {topic} has {} partitions, and there are records of partition {most}: \
                 kafka-topics.sh --bootstrap-server {brokers} --alter --topic {topic} --partitions {}",
                facts.partitions,
                i64::from(most) + 1
            ),
            None,
            accepted,
        ));
    }
    match (facts.is_source, &facts.archived_by) {
        (true, _) => found.push(refusal(
            format!("{topic} is the topic that is archived: what is restored into it would be archived once more; choose another --to-topic"),
            Some(Accept::Loop),
            accepted,
        )),
        (false, Some(archive)) => found.push(Finding {
            refused: false,
            text: format!("archive {archive} takes the topic {topic} as well: what is restored into it is archived once more"),
        }),
        (false, None) => {}
    }
    let settings = match settings {
        Ok(settings) => settings,
        Err(why) => {
            found.push(refusal(
                format!(
                    "the settings of {topic} cannot be read ({why}), so nobody knows whether it would change, delete or refuse old \
                     timestamps: give this user the right DESCRIBE_CONFIGS on it"
                ),
                Some(Accept::Unknown),
                accepted,
            ));
            return sorted(found);
        }
    };
    if replaces_times(settings) {
        found.push(refusal(
            format!(
                "{topic} has message.timestamp.type=LogAppendTime: every timestamp would be replaced by the time of the restore. {}",
                alter("message.timestamp.type=CreateTime")
            ),
            Some(Accept::Timestamps),
            accepted,
        ));
    } else {
        let age = facts.oldest_ms.map(|oldest| facts.now_ms.saturating_sub(oldest));
        let oldest = facts.oldest_ms.map(render_instant).unwrap_or_default();
        let retention = limit_ms(settings, &["retention.ms"]).filter(|_| policy(settings, "delete"));
        if let Some(retention) = retention.filter(|&retention| age.is_some_and(|age| age > retention)) {
            found.push(refusal(
                format!(
                    "{topic} has retention.ms={retention}, and the oldest records are of {oldest}: they would be deleted soon. {}",
                    alter("retention.ms=-1")
                ),
                Some(Accept::Retention),
                accepted,
            ));
        }
        if let Some(before) = limit_ms(settings, &BEFORE).filter(|&before| age.is_some_and(|age| age > before)) {
            found.push(refusal(
                format!(
                    "{topic} takes no timestamps older than {before} ms ({}), and the oldest records are of {oldest}. {}",
                    BEFORE[0],
                    alter(&format!("{}={}", BEFORE[0], i64::MAX))
                ),
                None,
                accepted,
            ));
        }
        let ahead = facts.newest_ms.map(|newest| newest.saturating_sub(facts.now_ms));
        if let Some(after) = limit_ms(settings, &AFTER).filter(|&after| ahead.is_some_and(|ahead| ahead > after)) {
            found.push(refusal(
                format!(
                    "{topic} takes no timestamps more than {after} ms ahead ({}), and the latest records are of {}. {}",
                    AFTER[0],
                    facts.newest_ms.map(render_instant).unwrap_or_default(),
                    alter(&format!("{}={}", AFTER[0], i64::MAX))
                ),
                None,
                accepted,
            ));
        }
    }
    let mut warn = |text: String| found.push(Finding { refused: false, text });
    if policy(settings, "compact") {
        warn(format!(
            "{topic} is compacted: of each key only the newest record stays, and records without a key are refused"
        ));
    }
    if let Some(bytes) = limit_ms(settings, &["retention.bytes"]) {
        warn(format!(
            "{topic} keeps retention.bytes={bytes} a partition, and what is to be restored takes {} bytes packed in the bucket: older records \
             may be deleted",
            facts.bytes
        ));
    }
    if let Some(bytes) = limit_ms(settings, &["max.message.bytes"]).filter(|&bytes| bytes < MESSAGE_BYTES_USUAL) {
        warn(format!(
            "{topic} has max.message.bytes={bytes}: a source partition stops at a record that is larger even when it is packed, and goes on once that is \
             raised"
        ));
    }
    sorted(found)
}

fn sorted(mut found: Vec<Finding>) -> Vec<Finding> {
    found.sort_by_key(|finding| !finding.refused);
    found
}

/// What to say where the topic is not there: how to make it.
pub fn no_such_topic(topic: &str, brokers: &str, partitions: i32) -> String {
    format!(
        "there is no topic {topic} at {brokers}. To make one that keeps old timestamps: kafka-topics.sh --bootstrap-server {brokers} --create \
         --topic {topic} --partitions {partitions} --config message.timestamp.type=CreateTime --config retention.ms=-1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn facts() -> Facts {
        Facts {
            topic: "u".to_string(),
            brokers: "b:1".to_string(),
            partitions: 3,
            oldest_ms: Some(90 * DAY_MS),
            newest_ms: Some(95 * DAY_MS),
            now_ms: 100 * DAY_MS,
            ..Facts::default()
        }
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Ok(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn texts(settings: &Settings, facts: &Facts, accepted: &[Accept]) -> Vec<(bool, String)> {
        findings(settings, facts, accepted).into_iter().map(|one| (one.refused, one.text)).collect()
    }

    /// Goal: each setting that changes, deletes or refuses is met, and what may be accepted can be.
    #[test]
    fn settings_that_old_records_do_not_survive_are_refused() {
        let week = (7 * DAY_MS).to_string();
        for (pairs, says, accept) in [
            (vec![("message.timestamp.type", "LogAppendTime")], "LogAppendTime", Some(Accept::Timestamps)),
            (vec![("retention.ms", week.as_str())], "retention.ms=604800000", Some(Accept::Retention)),
            (
                vec![("retention.ms", week.as_str()), ("cleanup.policy", "compact,delete")],
                "retention.ms",
                Some(Accept::Retention),
            ),
            (vec![("message.timestamp.before.max.ms", week.as_str())], "before.max.ms=9223372036854775807", None),
            (vec![("message.timestamp.difference.max.ms", week.as_str())], "before.max.ms=9223372036854775807", None),
        ] {
            let settings = settings(&pairs);
            let found = texts(&settings, &facts(), &[]);
            assert!(found[0].0 && found[0].1.contains(says), "{found:?}");
            let all = [Accept::Timestamps, Accept::Retention, Accept::Loop, Accept::Unknown];
            let accepted = texts(&settings, &facts(), &all);
            assert_eq!(accepted[0].0, accept.is_none(), "{accepted:?}");
            assert_eq!(found[0].1.contains("--accept"), accept.is_some(), "{found:?}");
        }
        let unknown = Err("not allowed".to_string());
        assert!(texts(&unknown, &facts(), &[])[0].0);
        assert!(!texts(&unknown, &facts(), &[Accept::Unknown])[0].0);
    }

    #[test]
    fn settings_that_keep_old_records_are_fine() {
        for pairs in [
            vec![],
            vec![("retention.ms", "-1"), ("message.timestamp.before.max.ms", "9223372036854775807")],
            vec![("retention.ms", "864000001")],
        ] {
            assert_eq!(findings(&settings(&pairs), &facts(), &[]), [], "{pairs:?}");
        }
        let compacted = settings(&[("retention.ms", "1"), ("cleanup.policy", "compact"), ("retention.bytes", "5")]);
        let found = texts(&compacted, &facts(), &[]);
        assert!(found.iter().all(|(refused, _)| !refused) && found.len() == 2, "{found:?}");
    }

    #[test]
    fn the_topic_itself_is_refused_and_an_archived_one_told() {
        let is_source = Facts { is_source: true, archived_by: Some("a".to_string()), ..facts() };
        let found = texts(&settings(&[]), &is_source, &[]);
        assert!(found.len() == 1 && found[0].0 && found[0].1.contains("--accept loop"), "{found:?}");
        let archived = Facts { archived_by: Some("a".to_string()), ..facts() };
        assert!(!texts(&settings(&[]), &archived, &[])[0].0);
    }

    #[test]
    fn partitions_that_are_missing_are_told_with_the_command() {
        let many = Facts { preserved_max: Some(3), ..facts() };
        let found = texts(&settings(&[]), &many, &[]);
        assert!(found[0].0 && found[0].1.contains("--alter --topic u --partitions 4"), "{found:?}");
        assert_eq!(texts(&settings(&[]), &Facts { preserved_max: Some(2), ..facts() }, &[]), []);
    }

    #[test]
    fn each_record_is_held_to_the_limits() {
        let week = (7 * DAY_MS).to_string();
        let kept = TimeLimits::of(&settings(&[("retention.ms", &week)]), 100 * DAY_MS, &[]);
        assert_eq!(kept.problem(93 * DAY_MS, "u"), None);
        assert!(kept.problem(93 * DAY_MS - 1, "u").expect("too old").contains("--accept retention"));
        let accepted = TimeLimits::of(&settings(&[("retention.ms", &week)]), 100 * DAY_MS, &[Accept::Retention]);
        assert_eq!(accepted, TimeLimits::default());
        let taken = TimeLimits::of(&settings(&[(AFTER[0], "1000"), (BEFORE[0], "1000")]), 50_000, &[]);
        let problems: Vec<_> =
            [48_999, 49_000, 51_000, 51_001].map(|at| taken.problem(at, "u").is_some()).into_iter().collect();
        assert_eq!(problems, [true, false, false, true]);
    }
}
