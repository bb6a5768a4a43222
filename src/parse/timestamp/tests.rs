use super::*;
use crate::layout::{TimestampFallback, TimestampSource};
use proptest::prelude::*;

fn reader(format: TimeFormat, zone: &str) -> TimeReader {
    TimeReader::new(&rule(format, zone)).expect("the rules of this test are valid")
}

fn rule(format: TimeFormat, zone: &str) -> TimestampRule {
    TimestampRule { source: TimestampSource::Kafka, format, zone: zone.into(), fallback: TimestampFallback::Kafka }
}

fn pattern(text: &str, zone: &str) -> TimeReader {
    reader(TimeFormat::Pattern(text.into()), zone)
}

fn rendered(result: Result<i64, TimeError>) -> String {
    match result {
        Ok(ms) => render_instant(ms),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn auto_tells_units_by_size() {
    let table = [
        ("1763694245", "2025-11-21T03:04:05.000Z"),
        ("1763694245678", "2025-11-21T03:04:05.678Z"),
        ("1763694245678901", "2025-11-21T03:04:05.678Z"),
        ("1763694245678901234", "2025-11-21T03:04:05.678Z"),
        ("1763694245.678", "2025-11-21T03:04:05.678Z"),
        ("1763694245.6789999", "2025-11-21T03:04:05.678Z"),
        ("1763694245678.9", "2025-11-21T03:04:05.678Z"),
        ("1.763694245678E12", "2025-11-21T03:04:05.678Z"),
        ("1763694245678e-3", "2025-11-21T03:04:05.678Z"),
        ("17636942456780000e-7", "2025-11-21T03:04:05.678Z"),
        ("\"1763694245\"", "2025-11-21T03:04:05.000Z"),
        ("\" 1763694245.5 \"", "2025-11-21T03:04:05.500Z"),
        ("\"+1763694245\"", "2025-11-21T03:04:05.000Z"),
        ("100000000", "1973-03-03T09:46:40.000Z"),
        ("99999999", "UnitUnclear"),
        ("9999999999.9", "2286-11-20T17:46:39.900Z"),
        ("10000000000", "UnitUnclear"),
        ("999999999999", "UnitUnclear"),
        ("1000000000000", "2001-09-09T01:46:40.000Z"),
        ("10000000000000", "UnitUnclear"),
        ("1000000000000000", "2001-09-09T01:46:40.000Z"),
        ("10000000000000000", "UnitUnclear"),
        ("1000000000000000000", "2001-09-09T01:46:40.000Z"),
        ("9999999999999999999", "2286-11-20T17:46:39.999Z"),
        ("10000000000000000000", "UnitUnclear"),
        ("0", "Unset"),
        ("-1", "Unset"),
        ("-1.0", "Unset"),
        ("0e5", "Unset"),
        ("-0.0", "Unset"),
        ("\"0\"", "Unset"),
        ("-0.5", "UnitUnclear"),
        ("-1763694245", "UnitUnclear"),
        ("1e400", "UnitUnclear"),
        ("1e-400", "UnitUnclear"),
        ("1e999999999", "Unreadable(\"an epoch number\")"),
        ("null", "Missing"),
        ("\"\"", "Missing"),
        ("\"  \"", "Missing"),
        ("", "Missing"),
        ("true", "WrongType(\"a number or a string\")"),
        ("[1763694245]", "WrongType(\"a number or a string\")"),
        ("{}", "WrongType(\"a number or a string\")"),
        ("\"NaN\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"Infinity\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"yesterday\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"1763694245s\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"1.\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\".5\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"0x10\"", "Unreadable(\"an epoch or as RFC 3339\")"),
        ("\"2025-11-21T03:04:05.678Z\"", "2025-11-21T03:04:05.678Z"),
        ("\"\\u0032025-11-21T03:04:05Z\"", "2025-11-21T03:04:05.000Z"),
        ("\"\\ud800\"", "Unreadable(\"a JSON string\")"),
    ];
    for (raw, expected) in table {
        assert_eq!(rendered(reader(TimeFormat::Auto, "UTC").read_json(raw)), expected, "{raw}");
    }
}

#[test]
fn declared_units_are_believed() {
    let table = [
        // Cloud Foundry's envelopes.
        ("1763694245678901234", TimeUnit::Ns, "2025-11-21T03:04:05.678Z"),
        ("\"1763694245678901234\"", TimeUnit::Ns, "2025-11-21T03:04:05.678Z"),
        ("1763694245678901", TimeUnit::Us, "2025-11-21T03:04:05.678Z"),
        ("1763694245678", TimeUnit::Ms, "2025-11-21T03:04:05.678Z"),
        ("1763694245.678", TimeUnit::S, "2025-11-21T03:04:05.678Z"),
        ("1.763694245678e9", TimeUnit::S, "2025-11-21T03:04:05.678Z"),
        // 1970 as a number: another unit, or no time.
        ("1763694245", TimeUnit::Ms, "In1970"),
        ("\"1763694245\"", TimeUnit::Ms, "In1970"),
        ("1763694245.678", TimeUnit::Ms, "In1970"),
        ("1763694245678", TimeUnit::Us, "In1970"),
        ("1763694245678901", TimeUnit::Ns, "In1970"),
        ("1", TimeUnit::S, "In1970"),
        ("1", TimeUnit::Ns, "In1970"),
        ("0.5", TimeUnit::Ms, "In1970"),
        ("31535999.999", TimeUnit::S, "In1970"),
        ("31536000", TimeUnit::S, "1971-01-01T00:00:00.000Z"),
        ("31536000000", TimeUnit::Ms, "1971-01-01T00:00:00.000Z"),
        ("-1", TimeUnit::Us, "Unset"),
        ("-2", TimeUnit::Ms, "1969-12-31T23:59:59.998Z"),
        ("-86400", TimeUnit::S, "1969-12-31T00:00:00.000Z"),
        ("-1500001", TimeUnit::Us, "1969-12-31T23:59:58.499Z"),
        ("0", TimeUnit::Ms, "Unset"),
        ("-1", TimeUnit::Ms, "Unset"),
        ("-1", TimeUnit::S, "Unset"),
        ("253402300799", TimeUnit::S, "9999-12-31T23:59:59.000Z"),
        ("253402300799.9999", TimeUnit::S, "9999-12-31T23:59:59.999Z"),
        ("253402300800", TimeUnit::S, "OutOfRange"),
        ("-62135596800", TimeUnit::S, "0001-01-01T00:00:00.000Z"),
        ("-62135596800.001", TimeUnit::S, "OutOfRange"),
        ("1763694245678", TimeUnit::S, "OutOfRange"),
        ("99999999999999999999999999999999999999999999", TimeUnit::Ns, "OutOfRange"),
        ("1e38", TimeUnit::S, "OutOfRange"),
        ("\"2025-11-21T03:04:05Z\"", TimeUnit::S, "Unreadable(\"an epoch number\")"),
        ("0.000000000000000000000000000000000000001763694245678e51", TimeUnit::Ms, "2025-11-21T03:04:05.678Z"),
    ];
    for (raw, unit, expected) in table {
        assert_eq!(rendered(reader(TimeFormat::Epoch(unit), "Asia/Tokyo").read_json(raw)), expected, "{raw} {unit:?}");
    }
    let long = "9".repeat(1_000_000);
    assert!(reader(TimeFormat::Auto, "UTC").read_json(&long).is_err());
}

#[test]
fn rfc3339_is_read_with_its_offset() {
    const UNREADABLE: &str = "unreadable";
    let table = [
        ("2025-11-21T03:04:05Z", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21t03:04:05z", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21 03:04:05Z", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21T12:04:05+09:00", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21T12:04:05+0900", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21T12:04:05.25+0900", "2025-11-21T03:04:05.250Z"),
        ("2025-11-20T22:34:05-04:30", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21T03:04:05-00:00", "2025-11-21T03:04:05.000Z"),
        ("2025-11-21T03:04:05.6Z", "2025-11-21T03:04:05.600Z"),
        ("2025-11-21T03:04:05.678901234Z", "2025-11-21T03:04:05.678Z"),
        ("2025-11-21T03:04:05.6789012345678Z", "2025-11-21T03:04:05.678Z"),
        // rsyslog's default for RFC 5424.
        ("2003-08-24T05:14:15.000003-07:00", "2003-08-24T12:14:15.000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00+00:01", "OutOfRange"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59-00:01", "OutOfRange"),
        ("0000-06-01T00:00:00Z", "OutOfRange"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-06-01T12:00:00Z", "1970-06-01T12:00:00.000Z"),
        ("2025-11-21T03:04:05", UNREADABLE),
        ("2025-11-21T03:04Z", UNREADABLE),
        ("2025-11-21", UNREADABLE),
        ("2025-02-29T00:00:00Z", UNREADABLE),
        ("2025-11-21T24:00:00Z", UNREADABLE),
        ("2025-11-21T03:04:05,6Z", UNREADABLE),
        ("2025-11-21T03:04:05+25:00", UNREADABLE),
        ("2025-11-21T03:04:05Zé", UNREADABLE),
        ("2025-11-21T03:04:05é", UNREADABLE),
        ("20251121T030405Z", UNREADABLE),
        ("+12025-11-21T03:04:05Z", UNREADABLE),
    ];
    for (text, expected) in table {
        let found = reader(TimeFormat::Rfc3339, "Asia/Tokyo").read_text(text.as_bytes());
        match expected {
            UNREADABLE => assert!(matches!(found, Err(TimeError::Unreadable(_))), "{text}: {found:?}"),
            _ => assert_eq!(rendered(found), expected, "{text}"),
        }
    }
    assert_eq!(reader(TimeFormat::Rfc3339, "UTC").read_json("1763694245"), Err(TimeError::WrongType("RFC 3339 text")));
    assert!(reader(TimeFormat::Rfc3339, "UTC").read_text(b"2025-11-21T03:04:05\xff").is_err());
}

#[test]
fn patterns_read_what_programs_write() {
    let table = [
        // Apache, LTSV.
        ("%d/%b/%Y:%H:%M:%S %z", "UTC", "10/Oct/2000:13:55:36 -0700", "2000-10-10T20:55:36.000Z"),
        ("[%d/%b/%Y:%H:%M:%S %z]", "UTC", "[10/Oct/2000:13:55:36 +0000]", "2000-10-10T13:55:36.000Z"),
        // Fluentd, in the zone of the machine that wrote it.
        ("%Y-%m-%d %H:%M:%S %z", "UTC", "2013-02-28 12:00:00 +0900", "2013-02-28T03:00:00.000Z"),
        ("%Y-%m-%d %H:%M:%S", "Asia/Tokyo", "2013-02-28 12:00:00", "2013-02-28T03:00:00.000Z"),
        // Java's SimpleDateFormat: yyyy-MM-dd HH:mm:ss,SSS and yyyy-MM-dd'T'HH:mm:ss.SSSZ.
        ("%Y-%m-%d %H:%M:%S,%3f", "America/New_York", "2025-11-21 03:04:05,678", "2025-11-21T08:04:05.678Z"),
        ("%Y-%m-%dT%H:%M:%S%.f%z", "UTC", "2025-11-21T03:04:05.678+0100", "2025-11-21T02:04:05.678Z"),
        ("%Y-%m-%dT%H:%M:%S%.f%#z", "UTC", "2025-11-21T03:04:05Z", "2025-11-21T03:04:05.000Z"),
        ("%Y-%m-%dT%H:%M:%S%.f%#z", "UTC", "2025-11-21T03:04:05.5+01", "2025-11-21T02:04:05.500Z"),
        // Date.toString(), HTTP, RFC 2822.
        ("%a %b %e %H:%M:%S %Z %Y", "UTC", "Fri Nov 21 03:04:05 UTC 2025", "2025-11-21T03:04:05.000Z"),
        ("%a, %d %b %Y %H:%M:%S GMT", "UTC", "Fri, 21 Nov 2025 03:04:05 GMT", "2025-11-21T03:04:05.000Z"),
        // nginx's $msec, and others.
        ("%s%.f", "Asia/Tokyo", "1763694245.678", "2025-11-21T03:04:05.678Z"),
        ("%s", "Asia/Tokyo", "0", "Unset"),
        ("%s", "Asia/Tokyo", "1", "In1970"),
        ("%Y-%m-%d", "UTC", "1970-01-01", "1970-01-01T00:00:00.000Z"),
        ("%Y-%m-%d %H:%M:%S", "Asia/Tokyo", "1970-06-01 00:00:00", "1970-05-31T15:00:00.000Z"),
        ("%s", "Asia/Tokyo", "-1", "Unreadable(\"the declared pattern\")"),
        ("%m/%d/%Y %I:%M:%S %p", "UTC", "11/21/2025 03:04:05 PM", "2025-11-21T15:04:05.000Z"),
        ("%Y%m%d%H%M%S", "UTC", "20251121030405", "2025-11-21T03:04:05.000Z"),
        ("%Y-%m-%d", "Asia/Tokyo", "2025-11-21", "2025-11-20T15:00:00.000Z"),
        ("%Y-%m-%d %H", "UTC", "2025-11-21 03", "2025-11-21T03:00:00.000Z"),
        ("%G-W%V-%u", "UTC", "2025-W47-5", "2025-11-21T00:00:00.000Z"),
        ("%Y-%j", "UTC", "2025-325", "2025-11-21T00:00:00.000Z"),
        ("%Y-%m-%d %H:%M:%S", "UTC", "2016-12-31 23:59:60", "2017-01-01T00:00:00.000Z"),
        ("%Y-%m-%d %H:%M:%S", "UTC", "2025-11-21 25:00:00", "Unreadable(\"the declared pattern\")"),
        ("%Y-%m-%d %H:%M:%S", "UTC", "2025-11-21 03:04:05 and more", "Unreadable(\"the declared pattern\")"),
        ("%a %Y-%m-%d", "UTC", "Mon 2025-11-21", "Unreadable(\"the declared pattern\")"),
        ("%Y-%m-%d", "UTC", "99999-11-21", "Unreadable(\"the declared pattern\")"),
        ("%Y-%m-%d", "UTC", "+99999-11-21", "OutOfRange"),
        ("%Y-%m-%d", "UTC", "0000-11-21", "OutOfRange"),
        // Twice: the earlier instant. Never: as far behind the gap.
        ("%Y-%m-%d %H:%M", "Europe/Berlin", "2025-10-26 02:30", "2025-10-26T00:30:00.000Z"),
        ("%Y-%m-%d %H:%M", "Europe/Berlin", "2025-03-30 02:30", "2025-03-30T01:30:00.000Z"),
        ("%Y-%m-%d %H:%M", "Europe/Berlin", "2025-03-30 02:00", "2025-03-30T01:00:00.000Z"),
        ("%Y-%m-%d %H:%M", "America/New_York", "2025-11-02 01:30", "2025-11-02T05:30:00.000Z"),
        ("%Y-%m-%d %H:%M", "America/New_York", "2025-03-09 02:30", "2025-03-09T07:30:00.000Z"),
        ("%Y-%m-%d %H:%M", "Australia/Lord_Howe", "2025-04-06 01:45", "2025-04-05T14:45:00.000Z"),
        ("%Y-%m-%d %H:%M", "Australia/Lord_Howe", "2025-10-05 02:15", "2025-10-04T15:45:00.000Z"),
        ("%Y-%m-%d %H:%M", "Pacific/Apia", "2011-12-30 12:00", "2011-12-30T22:00:00.000Z"),
        ("%Y-%m-%d %H:%M", "Asia/Kathmandu", "2025-11-21 05:45", "2025-11-21T00:00:00.000Z"),
    ];
    for (format, zone, text, expected) in table {
        let reader = pattern(format, zone);
        assert_eq!(rendered(reader.read_text(text.as_bytes())), expected, "{format} {zone} {text}");
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(rendered(reader.read_json(&json)), expected, "{format} {zone} {json}");
    }
    assert_eq!(rendered(pattern("%Y%m%d", "UTC").read_json("20251121")), "2025-11-21T00:00:00.000Z");
}

#[test]
fn rules_that_cannot_work_are_refused() {
    for text in
        ["", "%Q", "%", "time", "%H:%M:%S", "%b %d %H:%M:%S", "%Y-%m", "%Y-%m-%d %I:%M", "%Y-%m-%d %M", "%y-%j %I"]
    {
        let error = TimeReader::new(&rule(TimeFormat::Pattern(text.into()), "UTC")).unwrap_err();
        assert!(error.contains("time pattern"), "{text}: {error}");
    }
    let error = TimeReader::new(&rule(TimeFormat::Auto, "CEST")).unwrap_err();
    assert_eq!(error, "unknown time zone `CEST`; write an IANA name such as UTC or Europe/Berlin");
}

#[test]
fn any_instant_can_be_shown() {
    assert_eq!(render_instant(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(render_instant(-1), "1969-12-31T23:59:59.999Z");
    assert_eq!(render_instant(i64::MAX), "9223372036854775807 ms since 1970-01-01T00:00:00Z");
    assert_eq!(render_instant(i64::MIN), "-9223372036854775808 ms since 1970-01-01T00:00:00Z");
}

fn all_readers() -> Vec<TimeReader> {
    let formats = [
        TimeFormat::Auto,
        TimeFormat::Epoch(TimeUnit::S),
        TimeFormat::Epoch(TimeUnit::Ns),
        TimeFormat::Rfc3339,
        TimeFormat::Pattern("%Y-%m-%d %H:%M:%S".into()),
        TimeFormat::Pattern("%s%.f".into()),
        TimeFormat::Pattern("%d/%b/%y %I %p %#z".into()),
    ];
    formats.into_iter().map(|format| reader(format, "Europe/Berlin")).collect()
}

proptest! {
    #[test]
    fn nothing_panics_and_everything_is_in_range(
        text in prop_oneof![".{0,40}", "[-+0-9.eE]{1,30}", "\"?[-+0-9:TZ .]{10,35}\"?"],
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        for reader in all_readers() {
            for found in [reader.read_json(&text), reader.read_text(text.as_bytes()), reader.read_text(&bytes)] {
                prop_assert!(found.is_err() || (TIME_MS_MIN..=TIME_MS_MAX).contains(&found.unwrap()));
            }
        }
    }

    #[test]
    fn whole_numbers_come_back_in_each_unit(ms in TIME_MS_MIN..=TIME_MS_MAX, below in 0..1_000_000i128) {
        for (unit, number) in [
            (TimeUnit::Ms, ms.to_string()),
            (TimeUnit::Us, (i128::from(ms) * 1_000 + below / 1_000).to_string()),
            (TimeUnit::Ns, (i128::from(ms) * 1_000_000 + below).to_string()),
            (TimeUnit::S, format!("{ms}e-3")),
            (TimeUnit::Ms, format!("{ms}.0")),
        ] {
            let reader = reader(TimeFormat::Epoch(unit), "UTC");
            prop_assume!(ms != -1 && !YEAR_1970_MS.contains(&ms));
            prop_assert_eq!(reader.read_json(&number), Ok(ms), "{} {:?}", number, unit);
            prop_assert_eq!(reader.read_text(number.as_bytes()), Ok(ms));
        }
        let seconds = ms.div_euclid(1_000);
        if seconds != -1 && !YEAR_1970_MS.contains(&(seconds * 1_000)) {
            prop_assert_eq!(reader(TimeFormat::Epoch(TimeUnit::S), "UTC").read_json(&seconds.to_string()), Ok(seconds * 1_000));
        }
    }

    #[test]
    fn guessed_units_agree_with_declared_ones(ms in 1_000_000_000_000i64..10_000_000_000_000) {
        let auto = reader(TimeFormat::Auto, "UTC");
        prop_assert_eq!(auto.read_json(&(ms / 1_000).to_string()), Ok(ms / 1_000 * 1_000));
        prop_assert_eq!(auto.read_json(&ms.to_string()), Ok(ms));
        prop_assert_eq!(auto.read_json(&(ms * 1_000).to_string()), Ok(ms));
        prop_assert_eq!(auto.read_json(&(i128::from(ms) * 1_000_000).to_string()), Ok(ms));
    }

    #[test]
    fn shown_instants_are_read_back(ms in TIME_MS_MIN..=TIME_MS_MAX) {
        prop_assert_eq!(reader(TimeFormat::Rfc3339, "UTC").read_text(render_instant(ms).as_bytes()), Ok(ms));
        prop_assert_eq!(reader(TimeFormat::Auto, "UTC").read_text(render_instant(ms).as_bytes()), Ok(ms));
    }

    /// A local time is read as an instant that shows that local time, unless clocks skip it.
    #[test]
    fn local_times_are_read_in_their_zone(ms in 0..4_000_000_000_000i64, zone in 0..4usize) {
        let zone: Tz = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"][zone].parse().unwrap();
        let local = zone.timestamp_millis_opt(ms / 1_000 * 1_000).unwrap();
        let text = local.format("%Y-%m-%d %H:%M:%S").to_string();
        let read = pattern("%Y-%m-%d %H:%M:%S", zone.name()).read_text(text.as_bytes()).unwrap();
        prop_assert_eq!(zone.timestamp_millis_opt(read).unwrap().naive_local(), local.naive_local());
        prop_assert!(read <= ms);
    }
}
