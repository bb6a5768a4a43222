use super::*;
use crate::layout::encode::NULL_VALUE;
use crate::layout::preset::preset;
use crate::layout::{Compression, Ending, Newlines, OutputFormat, Pages, SchemaSource, UnknownFields};
use chrono::DateTime;
use proptest::prelude::*;

fn place(path: &str, name: &str, zone: &str) -> Place {
    Place {
        path: path.into(),
        name: name.into(),
        zone: zone.into(),
        destinations: vec!["file:///x".into()],
        ending: Ending::Whole,
    }
}

fn compile(path: &str, name: &str, zone: &str) -> KeyTemplate {
    KeyTemplate::compile(&place(path, name, zone), "json", "json.gz", 1).expect("the templates of this test are valid")
}

fn ms(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).expect("RFC 3339").timestamp_millis()
}

fn at(event: &str) -> WindowValues<'static> {
    let event_ms = ms(event);
    WindowValues { topic: "app.access", partition: 3, event_ms, fields: &[], headers: &[], key: None }
}

const RANGE: OffsetRange = OffsetRange { first: 1_000, end: 2_500 };

#[test]
fn golden_keys() {
    let event = at("2025-11-21T03:04:05.678Z");
    let hive = preset("hive").unwrap();
    let fluentd = preset("fluentd").unwrap();
    let table = [
        (
            (hive.path, hive.name, "UTC"),
            "app.access/dt=2025-11-21/hr=03/app.access+00003+00000000000000001000-00000000000000002500.json.gz",
        ),
        (
            (hive.path, hive.name, "America/Los_Angeles"),
            "app.access/dt=2025-11-20/hr=19/app.access+00003+00000000000000001000-00000000000000002500.json.gz",
        ),
        ((fluentd.path, fluentd.name, "UTC"), "2025/11/21/03/20251121-0304_app.access_3_1000-2500.json.gz"),
        (("", "{topic}-{partition}-{first}", "UTC"), "app.access-3-1000.json.gz"),
        (("{topic[1]}/{topic[2]}", "{first}", "UTC"), "access/__HIVE_DEFAULT_PARTITION__/1000.json.gz"),
        (("{output}/{generation}", "{first}", "UTC"), "json/1/1000.json.gz"),
        (("{{a}}/100%%", "{{{first}}}", "UTC"), "{a}/100%/{1000}.json.gz"),
        (("%G-W%V", "%j_%H%M%S%3f_{first}", "UTC"), "2025-W47/325_030405678_1000.json.gz"),
    ];
    for ((path, name, zone), key) in table {
        let template = compile(path, name, zone);
        let window = template.window(&event);
        assert_eq!(template.key(&window, RANGE), key);
        assert_eq!(&*window.folder, key.rsplit_once('/').map_or("", |(folder, _)| folder), "{path}");
    }
}

/// Exactly Secor's names, so that tables and jobs on top of them go on. Dead letters, which Secor has none of, keep names of
/// our own outside of its folders.
#[test]
fn golden_keys_of_secor() {
    let secor = preset("secor").unwrap();
    let place = Place { ending: secor.ending, ..place(secor.path, secor.name, "UTC") };
    let parquet = |compression| OutputFormat::Parquet {
        compression,
        schema: SchemaSource::Infer,
        unknown: UnknownFields::Rest,
        row_group_bytes: 1 << 20,
        row_group_rows: 1000,
        pages: Pages::default(),
    };
    let raw = |compression| OutputFormat::Raw { compression, newlines: Newlines::Refuse };
    let table = [
        (raw(Compression::Gzip(6)), "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000.gz"),
        (raw(Compression::None), "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000"),
        (
            OutputFormat::Json { compression: Compression::Gzip(9) },
            "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000.gz",
        ),
        (
            OutputFormat::Json { compression: Compression::Zstd(3) },
            "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000.zst",
        ),
        (parquet(Compression::Gzip(6)), "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000.parquet"),
        (parquet(Compression::Snappy), "app.access/dt=2025-11-21/hr=03/1_3_00000000000000001000.parquet"),
    ];
    let key = |place: &Place, format: &OutputFormat, generation| {
        let template = KeyTemplate::compile(place, "o", &place.extension(format), generation).unwrap();
        template.window(&at("2025-11-21T03:04:05Z")).key(RANGE)
    };
    for (format, expected) in table {
        assert_eq!(key(&place, &format, 1), expected);
        assert_eq!(key(&place, &format, 7), expected.replace("/1_3_", "/7_3_"));
    }
    let hive = preset("hive").unwrap();
    let dead = self::place("_dead/{topic}/dt=%Y-%m-%d", hive.name, "UTC");
    assert_eq!(
        key(&dead, &OutputFormat::Json { compression: Compression::Gzip(6) }, 1),
        "_dead/app.access/dt=2025-11-21/app.access+00003+00000000000000001000-00000000000000002500.json.gz"
    );
}

#[test]
fn generations_are_in_every_name() {
    let hive = preset("hive").unwrap();
    let key = |name: &str, generation| {
        let template = KeyTemplate::compile(&place("{topic}", name, "UTC"), "json", "", generation).unwrap();
        template.window(&at("2025-11-21T03:04:05Z")).key(RANGE)
    };
    assert_eq!(key(hive.name, 2), "app.access/g2-app.access+00003+00000000000000001000-00000000000000002500");
    assert_eq!(key(hive.name, 1), "app.access/app.access+00003+00000000000000001000-00000000000000002500");
    assert_eq!(key("{generation}_{partition}_{first:020}", 12), "app.access/12_3_00000000000000001000");
    assert_eq!(key("{generation:03}_{partition}_{first:020}", 12), "app.access/012_3_00000000000000001000");
}

#[test]
fn values_come_from_fields_headers_and_key() {
    let template = compile("{field.a.b}/{header.h}/{key}", "{field.c}-{field.a.b}-{partition}-{first}", "UTC");
    let needs = template.needs();
    assert_eq!(needs.fields, [vec!["a".to_string(), "b".into()], vec!["c".into()]]);
    assert_eq!((needs.headers.as_slice(), needs.key, needs.time), (&["h".to_string()][..], true, false));
    let values = WindowValues {
        fields: &[Some("\"../\\u0078\""), Some("null")],
        headers: &[Some(b"\xffh")],
        key: Some(b"_k"),
        ..at("2025-11-21T03:04:05Z")
    };
    let window = template.window(&values);
    assert_eq!(&*window.folder, "%2E.%2Fx/%FFh/%5Fk");
    assert_eq!(&*window.pattern, "%2E.%2Fx/%FFh/%5Fk/__HIVE_DEFAULT_PARTITION__-..%2Fx-3-{first}.json.gz");
    assert_eq!(window.end_ms, None);

    let mut bound = template.clone();
    bound.bind(&[vec!["z".into()], vec!["c".into()], vec!["a".into(), "b".into()]], &["g".into(), "h".into()]);
    let shared = WindowValues {
        fields: &[Some("1"), Some("null"), Some("\"../\\u0078\"")],
        headers: &[None, Some(b"\xffh")],
        ..values
    };
    assert_eq!(bound.window(&shared).pattern, window.pattern);
}

#[test]
fn long_topics_fit_into_a_file_name() {
    let hive = preset("hive").unwrap();
    let topic = "a.".repeat(124) + "b";
    assert_eq!(topic.len(), 249);
    for extension in ["json.gz", "parquet", "json.zst", "snappy.parquet", ""] {
        for generation in [1, u32::MAX] {
            let place = place(hive.path, hive.name, "UTC");
            let template = KeyTemplate::compile(&place, "json", extension, generation).unwrap();
            let values = WindowValues { topic: &topic, partition: i32::MAX, ..at("2025-11-21T03:04:05Z") };
            let key = template.window(&values).key(OffsetRange { first: i64::MAX - 1, end: i64::MAX });
            let longest = key.split('/').map(str::len).max().unwrap();
            assert!(longest <= SEGMENT_BYTES_MAX, "{key}");
            assert!(key.starts_with(&format!("{}~", &topic[..150])), "{key}");
        }
    }
    // A topic of 180 bytes stays whole in all of them, whatever the generation.
    let topic = "t".repeat(180);
    for generation in [1, u32::MAX] {
        let place = place(hive.path, hive.name, "UTC");
        let template = KeyTemplate::compile(&place, "json", "json.gz", generation).unwrap();
        let window = template.window(&WindowValues { topic: &topic, ..at("2025-11-21T03:04:05Z") });
        assert_eq!(window.pattern.matches(&topic).count(), 2, "{}", window.pattern);
    }
}

#[test]
fn templates_that_cannot_fit_are_refused() {
    let fields: String = (0..5).map(|number| format!("{{field.f{number}}}")).collect();
    compile("", &format!("{fields}{{first}}"), "UTC");
    let fields: String = (0..6).map(|number| format!("{{field.f{number}}}")).collect();
    let error = KeyTemplate::compile(&place("", &format!("{fields}{{first}}"), "UTC"), "o", "x", 1).unwrap_err();
    assert!(error.to_string().contains("at most 255"), "{error}");
    let deep = vec!["{field.f}"; 30].join("/");
    let error = KeyTemplate::compile(&place(&deep, "{first}", "UTC"), "o", "x", 1).unwrap_err();
    assert!(error.to_string().contains("at most 900"), "{error}");
    let error = KeyTemplate::compile(&place("", "{first}", "Europe/Atlantis"), "o", "x", 1).unwrap_err();
    assert!(error.to_string().contains("unknown time zone `Europe/Atlantis`"), "{error}");
    for extension in [".gz", "gz.", "a..b", "a/b", "ä"] {
        let error = KeyTemplate::compile(&place("", "{first}", "UTC"), "o", extension, 1).unwrap_err();
        assert!(error.to_string().contains("extension"), "{error}");
    }
}

#[test]
fn times_outside_the_calendar_have_a_window() {
    let template = compile("%Y-%m-%d", "{first}", "Pacific/Kiritimati");
    let window = |event_ms| template.window(&WindowValues { event_ms, ..at("2025-11-21T03:04:05Z") });
    assert_eq!(&*window(i64::MAX).folder, "9999-12-29");
    assert_eq!(window(i64::MAX).end_ms, None);
    assert_eq!(&*window(i64::MIN).folder, "0001-01-02");
    assert!(window(i64::MIN).end_ms.is_some());
    template.time_granule(i64::MIN);
    template.time_granule(i64::MAX);
}

fn any_values() -> impl Strategy<Value = (String, Vec<u8>, Option<Vec<u8>>, i64, i32)> {
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..300), "[._/%~a-]{0,12}".prop_map(String::into_bytes)];
    (
        prop_oneof![".{0,80}", "[./_]{0,6}"],
        bytes,
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        any::<i64>(),
        0..i32::MAX,
    )
}

proptest! {
    /// K-2 for whatever a record holds.
    #[test]
    fn no_record_leaves_its_prefix((text, header, key, event_ms, partition) in any_values()) {
        let template = compile("x/{field.a}/{header.h}-{key}/%Y", "{key}{header.h}{field.a}_{topic}-{partition}-{first}", "Asia/Tokyo");
        let json = serde_json::to_string(&text).unwrap();
        let values = WindowValues {
            topic: "_a.b",
            partition,
            event_ms,
            fields: &[Some(&json)],
            headers: &[Some(&header)],
            key: key.as_deref(),
        };
        let window = template.window(&values);
        let object = window.key(RANGE);
        prop_assert!(object.len() <= KEY_BYTES_MAX);
        prop_assert_eq!(object.split('/').count(), 5, "{}", object);
        prop_assert!(object.starts_with("x/") && object.starts_with(&*window.folder));
        for segment in object.split('/') {
            prop_assert!(!segment.is_empty() && segment.len() <= SEGMENT_BYTES_MAX, "{}", object);
            prop_assert!(!segment.starts_with('.'), "{}", object);
            prop_assert!(!segment.starts_with('_') || segment.starts_with(NULL_VALUE), "{}", object);
            prop_assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{}", object);
        }
    }

    #[test]
    fn distinct_values_have_distinct_windows(one in ".{0,16}", other in ".{0,16}") {
        let template = compile("{field.a}", "x{field.a}+{first}", "UTC");
        let pattern = |text: &str| {
            let json = serde_json::to_string(text).unwrap();
            template.window(&WindowValues { fields: &[Some(&json)], ..at("2025-11-21T03:04:05Z") }).pattern
        };
        prop_assert_eq!(pattern(&one) == pattern(&other), one == other);
    }

    #[test]
    fn instants_of_a_granule_have_one_window(event_ms in -62_000_000_000_000i64..253_000_000_000_000, off in 0..60_000i64, zone in 0..5usize) {
        let zone = ["UTC", "Europe/Berlin", "Africa/Monrovia", "Asia/Kathmandu", "Europe/Amsterdam"][zone];
        for name in ["%Y%m%d%H%M_{first}", "%F_%z{first}", "%H%M%S_{first}", "%S%3f_{first}", "%H_{first}"] {
            let template = compile("", name, zone);
            let window = |event_ms| template.window(&WindowValues { event_ms, ..at("2025-11-21T03:04:05Z") });
            if template.time_granule(event_ms) == template.time_granule(event_ms + off) {
                let (one, other) = (window(event_ms), window(event_ms + off));
                prop_assert_eq!(one.pattern, other.pattern, "{}", name);
                prop_assert_eq!(one.end_ms, other.end_ms, "{}", name);
            }
        }
    }
}

/// Local time reaches the end of each window as told, on ordinary days and on days of 23, 24.5 and 25 hours.
#[test]
fn windows_end_where_local_time_leaves_them() {
    let table = [
        // (zone, path, event, end)
        ("UTC", "%Y-%m-%d/%H", "2025-11-21T03:04:05Z", "2025-11-21T04:00:00Z"),
        ("UTC", "%H", "2025-11-21T03:59:59.999Z", "2025-11-21T04:00:00Z"),
        ("UTC", "%H%M", "2025-11-21T03:04:05Z", "2025-11-21T03:05:00Z"),
        ("UTC", "%M", "2025-11-21T03:04:05Z", "2025-11-21T03:05:00Z"),
        ("UTC", "%S", "2025-11-21T03:04:05.5Z", "2025-11-21T03:04:06Z"),
        ("UTC", "%3f", "2025-11-21T03:04:05.500Z", "2025-11-21T03:04:05.501Z"),
        ("UTC", "%d", "2025-11-21T03:04:05Z", "2025-11-22T00:00:00Z"),
        ("UTC", "%Y%m", "2025-11-21T03:04:05Z", "2025-12-01T00:00:00Z"),
        ("UTC", "%q", "2025-11-21T03:04:05Z", "2026-01-01T00:00:00Z"),
        ("UTC", "%Y", "2024-02-29T03:04:05Z", "2025-01-01T00:00:00Z"),
        ("UTC", "%C", "2024-02-29T03:04:05Z", "2100-01-01T00:00:00Z"),
        ("UTC", "%G", "2024-12-30T03:04:05Z", "2025-12-29T00:00:00Z"),
        ("UTC", "%G-%V", "2025-11-21T03:04:05Z", "2025-11-24T00:00:00Z"),
        ("UTC", "%U", "2025-12-31T03:04:05Z", "2026-01-01T00:00:00Z"),
        ("UTC", "%p", "2025-11-21T13:04:05Z", "2025-11-22T00:00:00Z"),
        ("UTC", "%I", "2025-11-21T13:04:05Z", "2025-11-21T14:00:00Z"),
        ("UTC", "%s", "2025-11-21T13:04:05.5Z", "2025-11-21T13:04:06Z"),
        ("Asia/Kathmandu", "%F/%H", "2025-11-21T03:20:00Z", "2025-11-21T04:15:00Z"),
        ("Asia/Kathmandu", "%F", "2025-11-21T03:20:00Z", "2025-11-21T18:15:00Z"),
        // Berlin, 25 hours: 02:00 to 03:00 comes twice.
        ("Europe/Berlin", "%F/%H", "2025-10-26T00:30:00Z", "2025-10-26T02:00:00Z"),
        ("Europe/Berlin", "%F/%H", "2025-10-26T01:30:00Z", "2025-10-26T02:00:00Z"),
        ("Europe/Berlin", "%F/%H", "2025-10-25T23:30:00Z", "2025-10-26T00:00:00Z"),
        ("Europe/Berlin", "%F/%H", "2025-10-26T02:30:00Z", "2025-10-26T03:00:00Z"),
        ("Europe/Berlin", "%F/%H%M", "2025-10-26T00:30:10Z", "2025-10-26T01:31:00Z"),
        ("Europe/Berlin", "%F", "2025-10-26T00:30:00Z", "2025-10-26T23:00:00Z"),
        ("Europe/Berlin", "%H", "2025-10-26T00:30:00Z", "2025-10-26T02:00:00Z"),
        // … and told apart by the offset, or by the epoch.
        ("Europe/Berlin", "%F/%H%z", "2025-10-26T00:30:00Z", "2025-10-26T01:00:00Z"),
        ("Europe/Berlin", "%F/%H%z", "2025-10-26T01:30:00Z", "2025-10-26T02:00:00Z"),
        ("Europe/Berlin", "%F/%Z", "2025-10-26T00:30:00Z", "2025-10-26T01:00:00Z"),
        ("Europe/Berlin", "%Y%z", "2025-07-26T00:30:00Z", "2025-10-26T01:00:00Z"),
        ("Europe/Berlin", "%z", "2025-07-26T00:30:00Z", "2025-10-26T01:00:00Z"),
        ("Europe/Berlin", "%s", "2025-10-26T00:30:00Z", "2025-10-26T00:30:01Z"),
        // Berlin, 23 hours: 02:00 to 03:00 does not come.
        ("Europe/Berlin", "%F/%H", "2025-03-30T00:30:00Z", "2025-03-30T01:00:00Z"),
        ("Europe/Berlin", "%F/%H", "2025-03-30T01:30:00Z", "2025-03-30T02:00:00Z"),
        ("Europe/Berlin", "%F", "2025-03-30T00:30:00Z", "2025-03-30T22:00:00Z"),
        ("America/New_York", "%F/%H", "2025-11-02T05:30:00Z", "2025-11-02T07:00:00Z"),
        ("America/New_York", "%F/%H", "2025-11-02T06:30:00Z", "2025-11-02T07:00:00Z"),
        ("America/New_York", "%F/%H", "2025-03-09T06:30:00Z", "2025-03-09T07:00:00Z"),
        ("America/New_York", "%F", "2025-03-09T06:30:00Z", "2025-03-10T04:00:00Z"),
        ("America/New_York", "%F", "2025-11-02T06:30:00Z", "2025-11-03T05:00:00Z"),
        // Lord Howe changes by half an hour: back from 02:00 to 01:30, forward from 02:00 to 02:30.
        ("Australia/Lord_Howe", "%F/%H", "2025-04-05T14:10:00Z", "2025-04-05T15:30:00Z"),
        ("Australia/Lord_Howe", "%F/%H", "2025-04-05T15:10:00Z", "2025-04-05T15:30:00Z"),
        ("Australia/Lord_Howe", "%F/%H", "2025-10-04T15:45:00Z", "2025-10-04T16:00:00Z"),
        ("Australia/Lord_Howe", "%F", "2025-04-05T14:10:00Z", "2025-04-06T13:30:00Z"),
        // Clocks went back at midnight, over the end of the day, and forward at midnight.
        ("America/Sao_Paulo", "%F", "2019-02-16T20:00:00Z", "2019-02-17T03:00:00Z"),
        ("America/Sao_Paulo", "%F/%H", "2019-02-17T01:30:00Z", "2019-02-17T03:00:00Z"),
        ("America/Sao_Paulo", "%F/%H", "2018-11-04T02:30:00Z", "2018-11-04T03:00:00Z"),
        ("America/Havana", "%F", "2025-11-01T20:00:00Z", "2025-11-02T04:00:00Z"),
        // Clocks went forward from 23:30 to 00:30: the end of the hour and of the day is inside what was skipped.
        ("America/Toronto", "%F/%H", "1919-03-31T04:15:00Z", "1919-03-31T04:30:00Z"),
        ("America/Toronto", "%F", "1919-03-30T20:00:00Z", "1919-03-31T04:30:00Z"),
        // A whole day was skipped.
        ("Pacific/Apia", "%F", "2011-12-30T09:00:00Z", "2011-12-30T10:00:00Z"),
        ("Pacific/Apia", "%Y%m", "2011-12-30T09:00:00Z", "2011-12-31T10:00:00Z"),
    ];
    for (zone, path, event, end) in table {
        let template = compile(path, "{first}", zone);
        let window = template.window(&at(event));
        let found = window.end_ms.and_then(DateTime::from_timestamp_millis).map(|end| end.to_rfc3339());
        assert_eq!(window.end_ms, Some(ms(end)), "{zone} {path} {event}: found {found:?}");
    }
}

/// Every minute of days with a change of clocks: the end of a window is behind each of its instants, and is itself in
/// another one. Hours and days only: minutes come back an hour later.
#[test]
fn window_ends_agree_with_a_walk_through_the_day() {
    let days = [
        ("Europe/Berlin", "2025-10-25T12:00:00Z"),
        ("Europe/Berlin", "2025-03-29T12:00:00Z"),
        ("America/New_York", "2025-11-01T12:00:00Z"),
        ("America/New_York", "2025-03-08T12:00:00Z"),
        ("Australia/Lord_Howe", "2025-04-05T00:00:00Z"),
        ("Australia/Lord_Howe", "2025-10-04T00:00:00Z"),
        ("Asia/Kathmandu", "2025-10-04T00:00:00Z"),
        ("America/Sao_Paulo", "2018-11-03T12:00:00Z"),
    ];
    for (zone, start) in days {
        for path in ["%F/%H", "%F", "%F/%H%z"] {
            let template = compile(path, "{first}", zone);
            let window = |event_ms| template.window(&WindowValues { event_ms, ..at(start) });
            for minute in 0..48 * 60 {
                let event_ms = ms(start) + minute * 60_000;
                let here = window(event_ms);
                let end_ms = here.end_ms.unwrap();
                assert!(end_ms > event_ms, "{zone} {path} minute {minute}");
                assert_eq!(window(end_ms - 1).pattern, here.pattern, "{zone} {path} minute {minute}");
                assert_ne!(window(end_ms).pattern, here.pattern, "{zone} {path} minute {minute}");
                assert_eq!(window(end_ms - 1).end_ms, here.end_ms, "{zone} {path} minute {minute}");
            }
        }
    }
}

/// What the granule of a minute relies on.
#[test]
fn zones_change_in_whole_minutes_since_1973() {
    use chrono::{Offset, TimeZone};
    let offset = |zone: Tz, second: i64| {
        let utc = DateTime::from_timestamp(second, 0).unwrap().naive_utc();
        zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
    };
    let (start, end) = (ms("1973-01-01T00:00:00Z") / 1000, ms("2060-01-01T00:00:00Z") / 1000);
    let mut changes = 0;
    for zone in chrono_tz::TZ_VARIANTS {
        let mut here = start;
        while here < end {
            let there = here + 7 * 86_400;
            assert_eq!(offset(zone, here) % 60, 0, "{zone} at {here}");
            if offset(zone, here) != offset(zone, there) {
                let (mut before, mut behind) = (here, there);
                while behind - before > 1 {
                    let middle = (before + behind) / 2;
                    if offset(zone, middle) == offset(zone, here) { before = middle } else { behind = middle }
                }
                assert_eq!(behind % 60, 0, "{zone} changes at {behind}");
                changes += 1;
            }
            here = there;
        }
    }
    assert!(changes > 10_000, "{changes}");
}

#[test]
fn a_replay_has_a_name_of_its_own() {
    let of = |key: &str, extension: &str| replay_key(key, extension, 12);
    assert_eq!(of("t/dt=1/t+00003+1-2.json.gz", "json.gz").as_deref(), Some("t/dt=1/t+00003+1-2+replay-12.json.gz"));
    assert_eq!(of("t.d/x", "").as_deref(), Some("t.d/x+replay-12"));
    assert_eq!(of("t/x.txt", "json"), None);
    assert_eq!(of(&"x".repeat(245), "").map(|key| key.len()), Some(255));
    assert_eq!(of(&"x".repeat(246), ""), None);
    assert!(!super::super::alphabet::ByteSet::ENCODED.contains(b'+'));
}
