//! `[kafka.client]`: settings of librdkafka, as they are, but for those that the protocol owns. librdkafka itself is asked
//! about each of them: nobody else knows its settings.
//!
//! Any value may be a secret: none is ever shown.

use super::raw::Field;
use super::tree::Value;
use super::{GroupProtocol, Secret};
use crate::kafka::client::setting_problem;
use std::collections::BTreeMap;

/// Settings of librdkafka that belong to the protocol, each with the reason.
const OWNED: &[(&str, &str)] = &[
    ("enable.auto.commit", "siltstone alone commits, after everything of a batch is in the bucket"),
    ("auto.commit.enable", "siltstone alone commits, after everything of a batch is in the bucket"),
    ("auto.commit.interval.ms", "nothing is committed by time"),
    ("enable.auto.offset.store", "offsets are committed by number, never stored on the way"),
    ("offset.store.method", "offsets are kept by the group's coordinator and nowhere else"),
    ("offset.store.path", "offsets are kept by the group's coordinator and nowhere else"),
    ("offset.store.sync.interval.ms", "offsets are kept by the group's coordinator and nowhere else"),
    ("auto.offset.reset", "the first position is chosen once and committed; set `start` in [kafka]"),
    ("group.id", "set `group` in [kafka]: it is also written into the bucket"),
    ("group.instance.id", "set `instance_id` in [kafka]"),
    ("group.protocol", "set `protocol` in [kafka]"),
    ("group.protocol.type", "the members of the group are consumers"),
    ("group.remote.assignor", "the assignor belongs to the protocol"),
    ("partition.assignment.strategy", "the assignor belongs to the protocol: cooperative-sticky"),
    ("isolation.level", "set `isolation` in [kafka]"),
    ("enable.partition.eof", "the end of a partition must be seen: it is how the end of a planned batch is reached"),
    ("allow.auto.create.topics", "an archiver never creates a topic"),
    ("log.queue", "the client's log goes to the log of this process"),
    ("log_level", "set the level of librdkafka with --log-level"),
    ("plugin.library.paths", "no code is loaded into this process"),
    ("bootstrap.servers", "set `brokers` in [kafka]"),
    ("metadata.broker.list", "set `brokers` in [kafka]"),
];

/// Why `setting` may not stand in `[kafka.client]`, if so.
pub fn refused_setting(setting: &str, protocol: GroupProtocol) -> Option<&'static str> {
    if protocol == GroupProtocol::Consumer && OWNED_BY_BROKER.contains(&setting) {
        return Some("the broker decides it under protocol = \"consumer\"");
    }
    OWNED.iter().find(|(owned, _)| *owned == setting).map(|(_, reason)| *reason)
}

/// Settings that the broker decides under the protocol `consumer`.
const OWNED_BY_BROKER: &[&str] = &["session.timeout.ms", "heartbeat.interval.ms"];

const CLIENT: &str = "settings of librdkafka: strings, numbers, true or false";

/// All settings by their full name.
pub(super) fn settings(field: &Field<'_>, protocol: GroupProtocol) -> BTreeMap<String, Secret> {
    let mut settings = BTreeMap::new();
    entries(&field.clone().hide(), "", protocol, &mut settings);
    settings
}

/// `session.timeout.ms = 1` without quotes is a table in a table to TOML; both ways of writing mean the same.
fn entries(field: &Field<'_>, prefix: &str, protocol: GroupProtocol, settings: &mut BTreeMap<String, Secret>) {
    for (key, field) in field.entries(CLIENT).unwrap_or_default() {
        let name = format!("{prefix}{key}");
        if field.is_table() {
            entries(&field, &format!("{name}."), protocol, settings);
            continue;
        }
        if let Some(reason) = refused_setting(&name, protocol) {
            field.wrong::<()>(format!("not for [kafka.client]: {reason}"), CLIENT);
            continue;
        }
        let value = match &field.node.value {
            Value::Text(text) | Value::Float(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            _ => {
                field.wrong::<()>(format!("{}, where a plain value is needed", field.node.kind()), CLIENT);
                continue;
            }
        };
        let stands_clean = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
        if !stands_clean || value.contains('\0') {
            field.wrong::<()>("not a setting: a name of printable characters and a value without zero bytes", CLIENT);
        } else if let Some(problem) = setting_problem(&name, &value) {
            field.wrong::<()>(problem, CLIENT);
        } else if settings.insert(name, Secret::new(value)).is_some() {
            field.wrong::<()>("given twice, once with and once without quotes", CLIENT);
        }
    }
}

/// Whether `effective_toml` may show the setting's value: only what is known to be harmless.
pub(super) fn is_shown(setting: &str) -> bool {
    const HARMLESS: &[&str] = &[
        "broker.address.family",
        "check.crcs",
        "client.id",
        "client.rack",
        "debug",
        "enable.ssl.certificate.verification",
        "receive.message.max.bytes",
        "sasl.mechanism",
        "sasl.mechanisms",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
        "ssl.keystore.location",
    ];
    HARMLESS.contains(&setting) || [".ms", ".bytes", ".kbytes", ".messages"].iter().any(|end| setting.ends_with(end))
}
