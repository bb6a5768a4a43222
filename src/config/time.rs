//! `timestamp` of an archive: where the event time comes from and how it is read; zones.

use super::error::did_you_mean;
use super::raw::{Field, Section};
use super::shape;
use super::tree::Value;
use crate::layout::{TimeFormat, TimeUnit, TimestampFallback, TimestampRule, TimestampSource};
use crate::parse::timestamp::TimeReader;

const FIELD: &str = "a name, `a.b` for b inside a, or a list of names where names themselves hold dots";
const FORMAT: &str = "rfc3339, auto, or a strftime pattern with day and time";
const ZONE: &str = "a name of the IANA time zone database, as in UTC, Europe/Berlin, Asia/Tokyo";
/// Units of an epoch.
pub(super) const UNITS: &[(&str, TimeUnit)] =
    &[("s", TimeUnit::S), ("ms", TimeUnit::Ms), ("us", TimeUnit::Us), ("ns", TimeUnit::Ns)];

/// The rule of an archive; without any, the Kafka timestamp counts.
pub(super) fn rule(archive: &Section<'_>) -> TimestampRule {
    let section = archive.section("timestamp", &shape::TIMESTAMP);
    let source = source(&section);
    let from_kafka = source == TimestampSource::Kafka;
    for key in ["unit", "format", "zone"] {
        if from_kafka && section.has(key) && !section.has("field") && !section.has("header") {
            section.cross(
                key,
                "says how to read a field or header, but none is given".to_string(),
                "together with field or header".to_string(),
            );
        }
    }
    TimestampRule {
        source,
        format: format(&section),
        zone: section.field("zone").and_then(|field| zone(&field)).unwrap_or_else(|| "UTC".to_string()),
        fallback: section
            .field("fallback")
            .and_then(|field| {
                field.choice(&[("kafka", TimestampFallback::Kafka), ("dead_letter", TimestampFallback::DeadLetter)])
            })
            .unwrap_or(TimestampFallback::Kafka),
    }
}

fn source(section: &Section<'_>) -> TimestampSource {
    if section.has("field") && section.has("header") {
        section.cross(
            "header",
            "given together with field".to_string(),
            "one of field and header, or neither: then the Kafka timestamp counts".to_string(),
        );
    }
    if let Some(field) = section.field("field") {
        return path(&field).map_or(TimestampSource::Kafka, TimestampSource::Field);
    }
    match section.field("header").and_then(|field| field.text("the name of a header")) {
        Some(name) => TimestampSource::Header(name.to_string()),
        None => TimestampSource::Kafka,
    }
}

fn path(field: &Field<'_>) -> Option<Vec<String>> {
    let names: Vec<&str> = match field.node.value {
        Value::List(_) => field.list(FIELD)?.iter().map(|item| item.text(FIELD)).collect::<Option<_>>()?,
        _ => field.text(FIELD)?.split('.').collect(),
    };
    if names.is_empty() || names.iter().any(|name| name.is_empty()) {
        return field.wrong("a name in it is empty", FIELD);
    }
    Some(names.into_iter().map(str::to_string).collect())
}

fn format(section: &Section<'_>) -> TimeFormat {
    if section.has("unit") && section.has("format") {
        section.cross(
            "unit",
            "given together with format".to_string(),
            "unit for numbers, format for texts, or neither: then numbers are read by their size and texts as RFC 3339"
                .to_string(),
        );
    }
    if let Some(unit) = section.field("unit").and_then(|field| field.choice(UNITS)) {
        return TimeFormat::Epoch(unit);
    }
    let Some(field) = section.field("format") else { return TimeFormat::Auto };
    match field.text(FORMAT) {
        None | Some("auto") => TimeFormat::Auto,
        Some("rfc3339") => TimeFormat::Rfc3339,
        Some(pattern) => {
            check_pattern(&field, pattern);
            TimeFormat::Pattern(pattern.to_string())
        }
    }
}

/// Refuses patterns that chrono does not know, and those that no instant can be read back from.
fn check_pattern(field: &Field<'_>, pattern: &str) {
    if !pattern.contains('%') {
        field.wrong::<()>(format!("not one of the words{}", did_you_mean(pattern, ["rfc3339", "auto"])), FORMAT);
        return;
    }
    let rule = TimestampRule {
        source: TimestampSource::Kafka,
        format: TimeFormat::Pattern(pattern.to_string()),
        zone: "UTC".to_string(),
        fallback: TimestampFallback::Kafka,
    };
    if let Err(problem) = TimeReader::new(&rule) {
        field.wrong::<()>(problem, FORMAT);
    }
}

/// A zone of the IANA database.
pub(super) fn zone(field: &Field<'_>) -> Option<String> {
    let text = field.text(ZONE)?;
    if text.parse::<chrono_tz::Tz>().is_ok() {
        return Some(text.to_string());
    }
    let hint = did_you_mean(text, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
    field.wrong(format!("not a time zone{hint}"), ZONE)
}
