use super::*;
use crate::layout::preset::{NAMES, preset};
use crate::layout::window::{WindowValues, key_of};
use crate::record::OffsetRange;
use proptest::prelude::*;
use std::collections::HashMap;

/// Archive, output, path, name, extension, the only topic, generation.
type Line<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, Option<&'a str>, u32);

const HIVE: &str = "{topic}/dt=%Y-%m-%d/hr=%H";
const NAME: &str = "{topic}+{partition:05}+{first:020}-{end:020}";

fn place(path: &str, name: &str) -> Place {
    let (path, name, zone) = (path.into(), name.into(), "UTC".into());
    Place { path, name, zone, destinations: Vec::new(), ending: Default::default() }
}

fn check_at(lines: &[Line<'_>], urls: &[&str]) -> Result<(), String> {
    let places: Vec<Place> = lines.iter().map(|line| place(line.2, line.3)).collect();
    let claimants: Vec<Claimant<'_>> = lines
        .iter()
        .zip(&places)
        .enumerate()
        .map(|(index, (line, place))| Claimant {
            archive: line.0,
            output: line.1,
            place,
            extension: line.4,
            topic: line.5,
            generation: line.6,
            spots: vec![Spot::from_url(urls[index % urls.len()], None)],
        })
        .collect();
    check(&claimants).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

fn check_lines(lines: &[Line<'_>]) -> Result<(), String> {
    check_at(lines, &["s3://bucket/prod"])
}

#[test]
fn presets_are_accepted_together_with_dead_letters() {
    for preset_name in NAMES {
        let preset = preset(preset_name).unwrap();
        for generation in [1, 2, 30] {
            for topic in [None, Some("access")] {
                let dead_hive = ("a", "dead_letters", "_dead/{topic}/dt=%Y-%m-%d", NAME, "json.gz", topic, generation);
                let ending = if preset.ending.is_whole() { "json.gz" } else { "gz" };
                let json = ("a", "json", preset.path, preset.name, ending, topic, generation);
                let parquet = ("a", "parquet", preset.path, preset.name, "parquet", topic, generation);
                let dead =
                    ("a", "dead_letters", "_dead/{topic}/dt=%Y-%m-%d", preset.name, "json.gz", topic, generation);
                assert_eq!(check_lines(&[json, parquet, dead]), Ok(()), "{preset_name} {generation} {topic:?}");
                assert_eq!(check_lines(&[json, parquet, dead_hive]), Ok(()), "{preset_name} {generation} {topic:?}");
                let plain = ("a", "json", preset.path, preset.name, "", topic, generation);
                assert_eq!(check_lines(&[plain, parquet, dead]), Ok(()), "{preset_name} {generation} {topic:?}");
            }
        }
    }
}

#[test]
fn reasonable_templates_are_accepted() {
    let table = [
        ("", NAME),
        ("logs/{topic}/%Y/%m/%d", "{partition}-{first}"),
        ("logs/%Y/%m/%d/{topic}", "{topic}-{partition}-{first}-{end}"),
        ("{topic}/app={field.app}/dt=%F", "{partition}_{first}"),
        ("{topic}/{field.app}/{header.region}/{key}", "{partition}_{first}"),
        ("{field.app}/{topic}/%Y", "{partition}+{first}"),
        ("{topic[0]}/{topic[1]}/%F", "{topic}+{partition}+{first}"),
        ("{topic}/p={partition}/%F", "{first:020}"),
        ("%Y%m%d/{topic}.%H", "{partition:05}.{first:020}.{end:020}"),
        ("{topic}-%Y-%m", "{partition}-{first}"),
        ("{topic}", "{topic}{partition:010}{first:020}"),
        ("{topic}/{partition}", "part-{first:020}-{field.host}"),
        ("{topic}", "{field.host}-{partition}-{first}"),
        ("{topic}", "{field.a}-{field.b}-{partition}-{first}"),
        ("{topic}", "{first:020}{field.a}{field.b}={partition}"),
        ("%A", "{topic}+{partition}+{first}+{key}"),
        ("%B/{topic}", "%Z+{partition}+{first}"),
    ];
    for (path, name) in table {
        assert_eq!(check_lines(&[("a", "json", path, name, "json", None, 1)]), Ok(()), "{path} {name}");
    }
    let one_topic =
        [("%F", "{partition}-{first}"), ("access/%F", "{partition}+{first:020}"), ("", "{first:020}-{partition}")];
    for (path, name) in one_topic {
        assert_eq!(check_lines(&[("a", "json", path, name, "json", Some("access"), 1)]), Ok(()), "{path} {name}");
    }
}

#[test]
fn refusals_say_what_to_add_and_where() {
    let table = [
        (
            ("a", "json", "%F", "{partition}-{first}", "json", None, 1),
            "topics could get equal keys; add {topic} to `path`",
        ),
        (("a", "json", "{topic[0]}", "{partition}-{first}", "json", None, 1), "add {topic} to `path`"),
        (
            ("a", "json", "{topic}", "{first}", "json", None, 1),
            "Kafka partitions could get equal keys; add {partition} to `name`",
        ),
        (
            ("a", "json", "{topic}", "{partition}", "json", None, 1),
            "batches could get equal keys; add {first} to `name`",
        ),
        (("a", "json", "{topic}", "{partition}-{end}", "json", None, 1), "add {first} to `name`"),
        (("a", "json", "{topic}", "{partition}{first}", "json", None, 1), "{partition} runs into its neighbours"),
        (("a", "json", "{topic}-{field.x}", "{partition}-{first}", "json", None, 1), "{topic} runs into"),
        (("a", "json", "{topic}{partition}", "{first}", "json", None, 1), "{partition} runs into"),
        (("a", "json", "{topic}", "{partition}-{field.a}{first}{field.b}", "json", None, 1), "{first} runs into"),
        // The value of {first} is told by its second place, but not where the first one stands.
        (
            ("a", "json", "{topic}", "{field.a}{first}{field.b}-{partition}-{first}", "json", None, 1),
            "{first} runs into",
        ),
        (("a", "json", "{topic}", "{field.a}{end}{field.b}-{partition}-{first}", "json", None, 1), "{first} runs into"),
        (("a", "json", "{topic}", "{topic}%H{partition}-{first}", "json", None, 1), ""),
        (("a", "json", "{topic}", "%-H{partition}-{first}", "json", None, 1), "{partition} runs into"),
        (("a", "json", "%F", NAME, "json", None, 2), "add {generation}+ to the start of `name`"),
        (
            ("a", "json", "{topic}", "{partition}-{field.a}{generation}{field.b}{first:020}", "json", None, 2),
            "{generation}+",
        ),
        (("a", "json", "_siltstone", NAME, "json", None, 1), "_siltstone"),
        (("a", "json", "_siltstone/{topic}/%F", NAME, "json", None, 1), "_siltstone"),
        (("a", "json", "_{field.a}/{topic}", NAME, "json", None, 1), "_siltstone"),
        (("a", "json", "_silt{header.h}e/{topic}", NAME, "json", None, 1), "_siltstone"),
        (("a", "json", "{topic}/a//b", NAME, "json", None, 1), "empty folder name"),
        (("a", "json", "{topic}", "a/{first}", "json", None, 1), "cannot contain `/`"),
    ];
    for (line, part) in table {
        let message = match check_lines(&[line]) {
            Ok(()) if part.is_empty() => continue,
            Ok(()) => panic!("accepted: {line:?}"),
            Err(message) => message,
        };
        assert!(!part.is_empty() && message.contains(part), "{line:?}: {message}");
        assert!(message.starts_with("archive `a`, output `json`: "), "{message}");
    }
}

#[test]
fn pairs_are_told_apart_or_refused() {
    let json = ("a", "json", HIVE, NAME, "json.gz", None, 1);
    let table: &[(Line<'_>, Line<'_>, bool)] = &[
        (json, ("a", "raw", HIVE, NAME, "json.gz", None, 1), false),
        (json, ("a", "raw", "{output}/{topic}/dt=%F", NAME, "json.gz", None, 1), true),
        (json, ("a", "raw", HIVE, "{output}+{topic}+{partition:05}+{first:020}-{end:020}", "json.gz", None, 1), true),
        (json, ("a", "raw", "{topic}/dt=%Y-%m-%d/hr=%M", NAME, "json.gz", None, 1), false),
        (json, ("a", "raw", "{topic}/raw/dt=%Y-%m-%d/hr=%H", NAME, "json.gz", None, 1), true),
        // Different archives: the topic tells them apart if both are read alike.
        (json, ("b", "json", HIVE, NAME, "json.gz", None, 1), true),
        (json, ("b", "json", HIVE, NAME, "json.gz", Some("x"), 1), true),
        (json, ("b", "json", HIVE, "{partition}+{first}", "json.gz", None, 1), true),
        (json, ("b", "json", HIVE, NAME, "json.gz", None, 7), true),
        (("a", "j", "x/{topic}", NAME, "g", None, 1), ("b", "j", "{topic}/x", NAME, "g", None, 1), true),
        (
            ("a", "j", "x/{topic}", "{partition}+{first}", "g", None, 1),
            ("b", "j", "{topic}/x", "{partition}+{first}", "g", None, 1),
            false,
        ),
        (
            ("a", "j", "%F", "{partition}+{first}", "g", Some("x"), 1),
            ("b", "j", "%F", "{partition}+{first}", "g", Some("y"), 1),
            false,
        ),
        (
            ("a", "j", "x/%F", "{partition}+{first}", "g", Some("x"), 1),
            ("b", "j", "y/%F", "{partition}+{first}", "g", Some("y"), 1),
            true,
        ),
        // An earlier generation of the first archive had no prefix.
        (
            ("a", "j", "", "{topic}+{partition:010}+{first:020}+{end:020}+{generation}", "g", None, 2),
            ("b", "j", "", "{topic}+{partition:010}+{first:020}+{end:020}+1", "g", None, 1),
            false,
        ),
        (
            ("a", "j", "x", "%Y+{partition}+{first}", "g", Some("t"), 2),
            ("b", "j", "x", "%Y+{partition}+{first}", "g", Some("u"), 1),
            false,
        ),
        (("a", "j", "_dead/{topic}", NAME, "g", None, 1), ("a", "k", "{field.a}/{topic}", NAME, "g", None, 1), true),
        (("a", "j", "dead/{topic}", NAME, "g", None, 1), ("a", "k", "{field.a}/{topic}", NAME, "g", None, 1), false),
    ];
    for (one, other, apart) in table {
        for lines in [[*one, *other], [*other, *one]] {
            let found = check_lines(&lines);
            assert_eq!(found.is_ok(), *apart, "{lines:?}: {found:?}");
            if let Err(message) = found {
                let part = if one.0 == other.0 { "{output}/" } else { "{topic} the same folder of both" };
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

#[test]
fn only_keys_of_one_bucket_can_collide() {
    let lines = [("a", "json", HIVE, NAME, "json.gz", None, 1), ("a", "raw", HIVE, NAME, "json.gz", None, 1)];
    let table = [
        ("s3://bucket/prod", "s3://bucket/prod", false),
        ("s3://bucket/prod", "s3://bucket/prod/", false),
        ("s3://bucket/prod", "s3://bucket/test", true),
        ("s3://bucket/prod", "s3://other/prod", true),
        ("s3://bucket/prod", "gs://bucket/prod", true),
        ("s3://bucket", "s3://bucket/prod", true),
        ("file:///archive", "file:///archive/", false),
        ("file:///archive", "file:///archive/json", true),
        ("s3://bucket/a%20b", "s3://bucket/a b", false),
    ];
    for (one, other, apart) in table {
        assert_eq!(check_at(&lines, &[one, other]).is_ok(), apart, "{one} {other}");
    }
    // A prefix inside another's: its first folder can be the other's topic.
    let nested =
        [("a", "json", "{topic}/{field.b}", NAME, "gz", None, 1), ("a", "raw", "{topic}", NAME, "gz", None, 1)];
    assert!(check_at(&nested, &["s3://bucket", "s3://bucket/prod"]).is_err());
    // … and its objects may not land among the other's receipts, nor the other way round.
    let control = [("a", "json", "{topic}", NAME, "gz", None, 1), ("a", "raw", "{topic}", NAME, "json", None, 1)];
    assert!(check_at(&control, &["s3://bucket", "s3://bucket/_siltstone/x"]).is_err());
    let at_endpoint = |endpoint| Spot::from_url("s3://bucket/prod", Some(endpoint));
    assert_ne!(at_endpoint("http://127.0.0.1:1"), at_endpoint("http://127.0.0.1:2"));
}

// Goal: whatever is accepted never gives one key to two parts. Method: random templates out of pieces and separators
// that run into each other, accepted ones fed with values chosen to look like separators, numbers and each other.

const PIECES: &[&str] = &[
    "{topic}",
    "{partition}",
    "{first}",
    "{partition}",
    "{first}",
    "{end}",
    "{topic[0]}",
    "{field.a}",
    "{key}",
    "{output}",
    "%H",
    "%-H",
    "%B",
    "{generation}",
    "{first:020}",
    "{partition:010}",
    "a",
    "1",
    "g2-",
    "{topic}",
    "%z",
];
const SEPARATORS: &[&str] = &["", "", "-", "_", "+", "=", "1", "."];
const TOPICS: &[&str] = &["a", "a-1", "a_1", "1", "1-1", "g2-a", "g2-1", "a.1", "_a", "11", "a-1-1", "json", "json-a"];
const RAW_FIELDS: &[Option<&str>] =
    &[None, Some("1"), Some("11"), Some("\"a\""), Some("\"-1\""), Some("\"1-1\""), Some("\"_\"")];

fn piece_list(pieces: usize) -> impl Strategy<Value = String> {
    let piece = (prop::sample::select(PIECES), prop::sample::select(SEPARATORS));
    prop::collection::vec(piece, 1..=pieces)
        .prop_map(|list| list.into_iter().map(|(piece, separator)| format!("{piece}{separator}")).collect())
}

fn templates() -> impl Strategy<Value = (String, String)> {
    let path = prop::collection::vec(piece_list(2), 0..3).prop_map(|segments| segments.join("/"));
    let told = prop::sample::select(&["", "{topic}/", "{topic}/", "%H/{topic}/"][..]);
    let path = (told, path).prop_map(|(told, rest)| format!("{told}{rest}").trim_end_matches('/').to_string());
    let ends = &["", "{partition}-{first}", "{partition}+{first:020}", "+{partition:010}{first:020}"][..];
    (path, (piece_list(4), prop::sample::select(ends)).prop_map(|(list, end)| format!("{list}{end}")))
}

/// Every key that the claimant's records could get, with all that must differ when keys do not.
fn keys_of(claimant: &Claimant<'_>, owns: impl Fn(&str) -> bool, keys: &mut HashMap<String, String>) {
    for generation in 1..=claimant.generation {
        let compiled = KeyTemplate::compile(claimant.place, claimant.output, claimant.extension, generation).unwrap();
        let fields = compiled.needs().fields.len();
        for topic in TOPICS.iter().filter(|topic| owns(topic) && claimant.topic.is_none_or(|only| only == **topic)) {
            for (partition, first) in [(1, 1), (1, 11), (11, 1), (0, 1), (1, 0), (11, 11), (111, 1), (1, 111)] {
                for index in 0..RAW_FIELDS.len() {
                    let values = WindowValues {
                        topic,
                        partition,
                        event_ms: 3_600_000 * (1 + 10 * (index as i64 % 2)),
                        fields: &(0..fields)
                            .map(|slot| RAW_FIELDS[(index + 2 * slot) % RAW_FIELDS.len()])
                            .collect::<Vec<_>>(),
                        headers: &[],
                        key: if index % 3 == 0 { Some(b"1") } else { Some(b"-1") },
                    };
                    let pattern = compiled.window(&values).pattern;
                    let key = key_of(&pattern, OffsetRange::new(first, first + 10));
                    let (archive, output) = (claimant.archive, claimant.output);
                    let part = format!("{archive} {output} {generation} {topic} {partition} {first} {pattern}");
                    if let Some(other) = keys.insert(key.clone(), part.clone()) {
                        assert_eq!(part, other, "one key, {key}, under {:?}", claimant.place);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn accepted_templates_never_collide(
        one in templates(), other in templates(), same_path: bool, same_name: bool, one_archive: bool, extension: bool,
        generation in 1..4u32, only in prop::sample::select(&[None, None, Some("a-1")][..]),
    ) {
        let first = place(&one.0, &one.1);
        let second = place(if same_path { &one.0 } else { &other.0 }, if same_name { &one.1 } else { &other.1 });
        let spots = vec![Spot { store: "s".into(), prefix: String::new() }];
        let claimants = [
            Claimant { archive: "x", output: "a", place: &first, extension: "gz", topic: only, generation, spots: spots.clone() },
            Claimant {
                archive: if one_archive { "x" } else { "y" },
                output: "1",
                place: &second,
                extension: if extension { "gz" } else { "json" },
                topic: if one_archive { only } else { None },
                generation: if one_archive { generation } else { 1 },
                spots,
            },
        ];
        let owns = |index: usize, topic: &str| one_archive || (topic == "a-1" || topic.contains('1')) == (index == 0);
        if check(&claimants).is_ok() {
            let mut keys = HashMap::new();
            keys_of(&claimants[0], |topic| owns(0, topic), &mut keys);
            keys_of(&claimants[1], |topic| owns(1, topic), &mut keys);
        } else {
            for claimant in &claimants {
                if check(std::slice::from_ref(claimant)).is_ok() {
                    keys_of(claimant, |_| true, &mut HashMap::new());
                }
            }
        }
    }
}
