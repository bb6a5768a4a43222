//! Goal: `ls`, `cat` and `find` show exactly what is asked for, and read only the objects that can hold it. Method: archives that the pipeline's
//! own parts make on a store in memory, and the commands with their arguments as they are typed.

use crate::cli::{Cli, Command};
use crate::clock::ManualClock;
use crate::commands::cat::{Streams, cat_in};
use crate::commands::find::find_in;
use crate::commands::ls::ls_in;
use crate::config::{Config, parse};
use crate::decode::Schemas;
use crate::destination::{Destination, StoreKind};
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::pipeline::testing::archive_batch;
use crate::record::{OffsetRange, OwnedRecord};
use clap::Parser;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const URL: &str = "s3://bucket/archive";
pub(crate) const SPARE: &str = "s3://spare/archive";
/// 2025-11-21T08:00:00Z.
pub(crate) const BASE_MS: i64 = 1_763_712_000_000;
pub(crate) const MINUTE_MS: i64 = 60_000;

/// Buckets, and a folder for spools.
pub(crate) struct World {
    pub(crate) main: Arc<InMemory>,
    pub(crate) spare: Arc<InMemory>,
    pub(crate) spool: tempfile::TempDir,
}

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) exit: Result<Exit, Failure>,
    pub(crate) out: String,
    pub(crate) notes: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        match &self.exit {
            Ok(Exit::Done) => self,
            Ok(other) => panic!("{other:?}: {}", self.out),
            Err(failure) => panic!("{failure}"),
        }
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// The ids of the rows, in their order.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.json().iter().map(|row| row["id"].as_i64().expect("an id")).collect()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let spool = tempfile::tempdir().expect("a folder");
        Self { main: Arc::new(InMemory::new()), spare: Arc::new(InMemory::new()), spool }
    }

    pub(crate) fn config(&self, archive: &str) -> Config {
        let text = format!(
            "[kafka]\nbrokers = \"k\"\ngroup = \"g\"\n[spool]\ndir = \"{}\"\n[destinations.main]\nurl = \"{URL}\"\n\
             [destinations.spare]\nurl = \"{SPARE}\"\n[[archive]]\nname = \"a\"\ntopics = [\"t\"]\n{archive}",
            self.spool.path().display()
        );
        parse(&text, self.spool.path(), &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    pub(crate) fn destinations(&self) -> Destinations {
        let of = |name: &str, url: &str, store: &Arc<InMemory>| {
            let destination =
                Destination::from_store(name, url, store.clone() as Arc<dyn ObjectStore>, StoreKind::Memory);
            (url.to_string(), Arc::new(destination))
        };
        BTreeMap::from([of("main", URL, &self.main), of("spare", SPARE, &self.spare)])
    }

    /// Archives `records` as the batch of `range`.
    pub(crate) async fn archived(&self, config: &Config, range: (i64, i64), records: &[OwnedRecord]) {
        let range = OffsetRange::new(range.0, range.1);
        let schemas = Schemas::default();
        archive_batch(config, &self.destinations(), self.spool.path(), range, records, &schemas).await;
    }

    pub(crate) async fn run(&self, config: &Config, arguments: &str) -> Ran {
        let clock = ManualClock::at(BASE_MS + 24 * 60 * MINUTE_MS);
        let words = ["siltstone"].into_iter().chain(arguments.split_whitespace()).chain(["-c", "x"]);
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut notes, destinations) = (Vec::new(), Vec::new(), self.destinations());
        let exit = match &cli.command {
            Command::Ls(args) => ls_in(args, config, &destinations, &clock, &mut out).await,
            Command::Find(args) => find_in(args, config, &destinations, &clock, &mut out).await,
            Command::Cat(args) => {
                let streams = Streams { out: &mut out, notes: &mut notes };
                cat_in(args, config, &destinations, &clock, streams, std::future::pending()).await
            }
            other => panic!("{other:?}"),
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ran { exit, out: text(out), notes: text(notes) }
    }

    pub(crate) async fn keys(&self) -> Vec<Path> {
        self.main.list(None).map_ok(|object| object.location).try_collect().await.expect("listed")
    }
}

pub(crate) fn record(partition: i32, offset: i64, time_ms: i64) -> OwnedRecord {
    let id = id(partition, offset);
    let value = format!(r#"{{"id":{id},"time":{time_ms},"even":{}}}"#, offset % 2 == 0);
    OwnedRecord {
        topic: "t".into(),
        partition,
        offset,
        timestamp: Some(time_ms + 5),
        key: Some(format!("k{id}").into_bytes()),
        value: Some(value.into_bytes()),
        headers: vec![("h".into(), Some(vec![0xff])), ("h".into(), None)],
    }
}

pub(crate) fn id(partition: i32, offset: i64) -> i64 {
    i64::from(partition) * 1_000_000 + offset
}

pub(crate) const BY_TIME: &str = "timestamp = { field = \"time\", unit = \"ms\", fallback = \"dead_letter\" }\n\
    [archive.dead_letters]\ndestination = \"main\"\n";

pub(crate) fn output(name: &str, format: &str, more: &str) -> String {
    let destination = if more.contains("destination") { "" } else { "destination = \"main\"\n" };
    let layout = format!("layout = {{ path = \"{name}/hr=%H\" }}");
    format!("[[archive.output]]\nname = \"{name}\"\nformat = {{ {format} }}\n{layout}\n{destination}{more}")
}

const COLUMNS: &str = "schema = [{ name = \"id\", type = \"INT64\" }, { name = \"time\", type = \"TIMESTAMP\", unit = \"ms\" }, \
    { name = \"even\", type = \"BOOL\" }]";

/// One output of each format.
pub(crate) fn every_format() -> String {
    [
        BY_TIME.to_string(),
        output("json", "type = \"json\", compression = \"gzip\"", ""),
        output(
            "kept",
            "type = \"json\", compression = \"zstd\"",
            "keep = [\"offset\", \"timestamp\", \"key\", \"headers\"]\n",
        ),
        output("raw", "type = \"raw\", compression = \"none\"", ""),
        output("avro", &format!("type = \"avro\", {COLUMNS}"), ""),
        output("parquet", &format!("type = \"parquet\", {COLUMNS}"), ""),
        output("envelope", "type = \"envelope\"", ""),
    ]
    .concat()
}

pub(crate) const ROWS_WITH_IDS: [&str; 5] = ["json", "kept", "raw", "avro", "parquet"];

/// Three partitions with three batches each of ten records, whose times go on with their offsets; `scatter` moves times about.
pub(crate) async fn three_by_three(
    world: &World,
    config: &Config,
    scatter: impl Fn(i32, i64) -> i64,
) -> Vec<(i64, i64)> {
    let mut all = Vec::new();
    for partition in 0..3 {
        for batch in 0..3 {
            let (first, end) = (batch * 10, batch * 10 + 10);
            let at =
                |offset| BASE_MS + offset * 7 * MINUTE_MS + i64::from(partition) * 1000 + scatter(partition, offset);
            let records: Vec<OwnedRecord> = (first..end).map(|offset| record(partition, offset, at(offset))).collect();
            all.extend((first..end).map(|offset| (at(offset), id(partition, offset))));
            world.archived(config, (first, end), &records).await;
        }
    }
    all
}

fn shown(ms: i64) -> String {
    crate::parse::timestamp::render_instant(ms)
}

#[tokio::test]
async fn rows_come_by_time_or_by_offset() {
    let world = World::new();
    let config = world.config(&every_format());
    let mut all = three_by_three(&world, &config, |_, _| 0).await;
    let by_offset: Vec<i64> = all.iter().map(|(_, id)| *id).collect();
    all.sort_unstable();
    let by_time: Vec<i64> = all.iter().map(|(_, id)| *id).collect();
    for name in ROWS_WITH_IDS {
        assert_eq!(world.run(&config, &format!("cat --topic t --output {name}")).await.done().ids(), by_time, "{name}");
        let ran = world.run(&config, &format!("cat --topic t --output {name} --order offset")).await.done();
        assert_eq!((ran.ids(), ran.notes.as_str()), (by_offset.clone(), ""), "{name}");
    }
    let records = world.run(&config, "cat --topic t --output envelope").await.done().json();
    let ids: Vec<i64> = records
        .iter()
        .map(|record| id(record["partition"].as_i64().unwrap() as i32, record["offset"].as_i64().unwrap()))
        .collect();
    assert_eq!(ids, by_time);
    let first = &records[0];
    assert_eq!((&first["key"], &first["timestamp"]), (&"k0".into(), &(BASE_MS + 5).into()));
    assert_eq!(first["headers"], serde_json::json!([["h", "/w=="], ["h", null]]));
    let values = world.run(&config, "cat --topic t --output envelope --raw").await.done();
    assert_eq!(values.ids(), by_time);
    // Without --output the first one, and it is said that there are others.
    let ran = world.run(&config, "cat --topic t --partition 1-2 -n 3").await.done();
    assert_eq!(ran.ids(), [id(1, 0), id(2, 0), id(1, 1)]);
    assert!(ran.notes.contains("json, kept, raw, avro, parquet, envelope"), "{}", ran.notes);
}

/// Only objects that can hold what is asked for are read: without the others the answer is the same.
#[tokio::test]
async fn other_objects_are_not_touched() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let (since, until) = (shown(BASE_MS + 65 * MINUTE_MS), shown(BASE_MS + 80 * MINUTE_MS));
    let range = format!("--topic t --partition 2 --since {since} --until {until}");
    let before = world.run(&config, &format!("cat {range} --output json")).await.done();
    assert_eq!(before.ids(), [id(2, 10), id(2, 11)]);
    let listed = world.run(&config, &format!("ls {range} --output json --json")).await.done().json();
    let needed: Vec<&str> = listed.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!(needed.len(), 1, "{listed:?}");
    for key in world.keys().await {
        if !key.as_ref().starts_with("_siltstone/") && !needed.contains(&key.as_ref()) {
            world.main.delete(&key).await.expect("deleted");
        }
    }
    assert_eq!(world.run(&config, &format!("cat {range} --output json")).await.done().out, before.out);
    let gone = world.run(&config, "cat --topic t --partition 2 --output json").await;
    let failure = gone.exit.expect_err("an object is gone");
    assert!(failure.exit == Exit::Stopped && failure.message.contains("is not there"), "{failure}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Any range of time gives the rows of that range, whatever the order of their times, and no others.
    #[test]
    fn any_range_gives_its_rows(scatter: u64, ranges in prop::collection::vec((-10_i64..300, 1_i64..120), 3)) {
        let runtime = runtime();
        runtime.block_on(async {
            let world = World::new();
            let config = world.config(&every_format());
            let spread = |partition: i32, offset: i64| {
                let mixed = scatter.wrapping_mul(offset.unsigned_abs() * 31 + partition.unsigned_abs() as u64 + 1);
                (mixed >> 20) as i64 % 90 * MINUTE_MS
            };
            let all = three_by_three(&world, &config, spread).await;
            for (from, length) in ranges {
                let (since, until) = (BASE_MS + from * MINUTE_MS, BASE_MS + (from + length) * MINUTE_MS);
                let mut wanted: Vec<i64> =
                    all.iter().filter(|(at, _)| (since..until).contains(at)).map(|(_, id)| *id).collect();
                wanted.sort_unstable();
                for name in ROWS_WITH_IDS {
                    for order in ["time", "offset"] {
                        let (since, until) = (shown(since), shown(until));
                        let line = format!("cat --topic t --output {name} --since {since} --until {until} --order {order}");
                        let ran = world.run(&config, &line).await.done();
                        let mut found = ran.ids();
                        found.sort_unstable();
                        assert_eq!(found, wanted, "{line}");
                        assert_eq!(ran.notes, "");
                    }
                }
            }
        });
    }
}

#[tokio::test]
async fn offsets_are_exact_where_rows_tell_them() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let range = "--topic t --partition 1 --from-offset 8 --to-offset 12";
    let wanted: Vec<i64> = (8..12).map(|offset| id(1, offset)).collect();
    for (name, is_exact) in [("kept", true), ("json", false)] {
        let ran = world.run(&config, &format!("cat {range} --output {name}")).await.done();
        if is_exact {
            assert_eq!((ran.ids(), ran.notes.as_str()), (wanted.clone(), ""));
        } else {
            assert_eq!(ran.ids().len(), 20, "both batches");
            assert!(ran.notes.contains("20 rows do not tell their offset"), "{}", ran.notes);
        }
    }
    let records = world.run(&config, &format!("cat {range} --output envelope --json")).await.done().json();
    let offsets: Vec<_> = records.iter().map(|line| line["record"]["offset"].as_i64()).collect();
    assert_eq!(offsets, [Some(8), Some(9), Some(10), Some(11)]);
    // One window: the row of an offset is its distance from the first.
    let one = World::new();
    let config = one.config(&format!("{BY_TIME}{}", output("json", "type = \"json\"", "").replace("hr=%H", "all")));
    three_by_three(&one, &config, |_, _| 0).await;
    let ran = one.run(&config, &format!("cat {range}")).await.done();
    assert_eq!((ran.ids(), ran.notes.as_str()), (wanted, ""));
}

#[tokio::test]
async fn conditions_expressions_and_forms() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let even: Vec<i64> = (0..30).filter(|offset| offset % 2 == 0).map(|offset| id(0, offset)).collect();
    for name in ROWS_WITH_IDS {
        let ran = world.run(&config, &format!("cat --topic t --partition 0 --output {name} --where .even==true")).await;
        assert_eq!(ran.done().ids(), even, "{name}");
    }
    for (line, count) in [
        ("--output kept --where %key==\"k7\"", 1),
        ("--output kept --where %offset>27", 2),
        ("--output envelope --where .even==true", 15),
        ("--output envelope --where %offset<3", 3),
        ("--output envelope --grep \"key\":\"k1[0-9]\"", 10),
        ("--output raw --grep true", 15),
        ("--output json --grep ^.\"id\":5,", 1),
        ("--output json --where exists(.nothing)", 0),
        ("--output json --since 25h --until 23h", 9),
    ] {
        let ran = world.run(&config, &format!("cat --topic t --partition 0 {line}")).await.done();
        assert_eq!(ran.out.lines().count(), count, "{line}\n{}{}", ran.out, ran.notes);
    }
    let failing = world.run(&config, "cat --topic t --partition 0 --output json --where parse_int(.id)>3").await.done();
    assert!(failing.out.is_empty() && failing.notes.contains("--where failed for 30 rows"), "{}", failing.notes);
    let line = &world.run(&config, "cat --topic t --output kept --json -n 1").await.done().json()[0];
    assert_eq!((&line["partition"], &line["offset"], &line["index"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!((&line["row"]["id"], &line["event_time"]), (&0.into(), &shown(BASE_MS).into()));
    for (line, exit) in [
        ("--output parquet --raw", Exit::Config),
        ("--grep (", Exit::Config),
        ("--where .x=1", Exit::Config),
        ("--archive b", Exit::Config),
    ] {
        let failure = world.run(&config, &format!("cat --topic t {line}")).await.exit.expect_err(line);
        assert_eq!(failure.exit, exit, "{line}: {failure}");
    }
    let failure = world.run(&config, "cat --topic u").await.exit.expect_err("nobody takes it");
    assert_eq!(failure.exit, Exit::Config);
}

#[tokio::test]
async fn objects_are_listed_with_what_they_hold() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let lines = world.run(&config, "ls --json").await.done().json();
    let (total, objects) = lines.split_last().expect("totals");
    assert_eq!(total["total"]["objects"], objects.len());
    assert_eq!(total["total"]["rows"], 6 * 90);
    let data = world.keys().await.into_iter().filter(|key| !key.as_ref().starts_with("_siltstone/")).count();
    assert_eq!(objects.len(), data);
    let bytes: u64 = objects.iter().filter_map(|line| line["bytes"].as_u64()).sum();
    assert_eq!(total["total"]["bytes"], bytes);
    let first = &objects[0];
    assert_eq!((&first["first"], &first["end"], &first["output"]), (&0.into(), &10.into(), &"avro".into()));
    assert_eq!(first["event_min"], shown(BASE_MS));

    let folders = world.run(&config, "ls --output json --folders --json").await.done().json();
    let rows: Vec<_> =
        folders.iter().filter_map(|line| Some((line["folder"].as_str()?, line["rows"].as_u64()?))).collect();
    // Nine records an hour and partition, but for the last.
    assert_eq!(rows, [("json/hr=08", 27), ("json/hr=09", 27), ("json/hr=10", 24), ("json/hr=11", 12)]);
    let summary = world.run(&config, "ls --output json --summary --json --partition 0,2").await.done().json();
    let rows: Vec<_> =
        summary.iter().filter_map(|line| Some((line["partition"].as_i64()?, line["rows"].as_u64()?))).collect();
    assert_eq!(rows, [(0, 30), (2, 30)]);

    let text = world.run(&config, "ls --output raw --partition 1 --from-offset 10 --to-offset 20").await.done().out;
    assert!(text.contains("t/1") && text.contains("[10, 20)") && !text.contains("[0, 10)"), "{text}");
    assert!(text.ends_with("of 1 Kafka partitions\n"), "{text}");
    let text = world.run(&config, "ls --folders").await.done().out;
    assert!(text.contains("s3://bucket/archive/json/hr=08"), "{text}");
}

#[tokio::test]
async fn an_offset_is_found_or_it_is_said_why_not() {
    let world = World::new();
    let dropping = format!("tombstones = \"drop\"\n{}", every_format());
    let config = world.config(&dropping);
    let mut records: Vec<OwnedRecord> =
        (100..120).map(|offset| record(1, offset, BASE_MS + offset * MINUTE_MS)).collect();
    records[3].value = Some(b"{broken".to_vec());
    records[4].value = None;
    records.remove(5);
    world.archived(&config, (100, 120), &records).await;
    let later: Vec<OwnedRecord> = (130..140).map(|offset| record(1, offset, BASE_MS)).collect();
    world.archived(&config, (130, 140), &later).await;

    let find = |offset: i64| {
        let (world, config) = (&world, &config);
        async move {
            let ran = world.run(config, &format!("find t/1/{offset} --json")).await;
            (ran.exit.expect("found out"), serde_json::from_str::<Value>(&ran.out).expect("JSON"))
        }
    };
    let fate = |found: &Value, name: &str| {
        let outputs = found["outputs"].as_array().expect("outputs");
        outputs.iter().find(|output| output["output"] == name).cloned().expect("the output")
    };
    let (exit, found) = find(107).await;
    assert_eq!((exit, &found["state"], &found["batch"]["first"]), (Exit::Done, &"batch".into(), &100.into()));
    for name in ["kept", "envelope"] {
        let of = fate(&found, name);
        assert_eq!((&of["fate"], of["objects"].as_array().map(Vec::len)), (&"archived".into(), Some(1)), "{of}");
        // Three of those before it are not there; whole records are, but for the one that Kafka has not and the tombstone.
        let row = if name == "kept" { 4 } else { 5 };
        assert_eq!(of["objects"][0]["rows"][0], row, "{name}: {of}");
    }
    for name in ["json", "raw", "parquet", "avro"] {
        let of = fate(&found, name);
        assert_eq!(of["fate"], "possible", "{of}");
        assert!(of["why"].as_str().is_some_and(|why| why.contains("do not tell")), "{of}");
    }
    let (exit, found) = find(103).await;
    assert_eq!((exit, &fate(&found, "json")["fate"]), (Exit::Done, &"dead_letter".into()));
    assert_eq!(fate(&found, "kept")["dead_letters"][0]["stage"], "decode");
    assert_eq!(fate(&found, "envelope")["fate"], "archived");
    let (_, found) = find(104).await;
    let of = fate(&found, "kept");
    assert!(of["fate"] == "not_there" && of["why"].as_str().is_some_and(|why| why.contains("tombstones: 1")), "{of}");
    let (exit, found) = find(105).await;
    assert_eq!((exit, &fate(&found, "envelope")["fate"]), (Exit::Done, &"not_there".into()), "others can have it");
    for (offset, state) in [(99, "below"), (120, "gap"), (129, "gap"), (140, "above")] {
        let (exit, found) = find(offset).await;
        assert_eq!((exit, &found["state"]), (Exit::Failed, &state.into()), "{offset}: {found}");
    }
    // Every offset of that batch is a record and a row of one object.
    let (_, found) = find(133).await;
    assert_eq!(
        (&fate(&found, "raw")["fate"], &fate(&found, "raw")["objects"][0]["rows"][0]),
        (&"archived".into(), &3.into())
    );
    let text = world.run(&config, "find t/1/103").await.done().out;
    assert!(text.contains("a dead letter") && text.contains("decode"), "{text}");
    let nowhere = world.run(&config, "find t/7/0").await;
    assert!(matches!(nowhere.exit, Ok(Exit::Failed)) && nowhere.out.contains("not archived"), "{}", nowhere.out);
    assert_eq!(world.run(&config, "find u/7/0").await.exit.expect_err("nobody takes it").exit, Exit::Config);

    // Dead letters are an output of their own.
    let letters = world.run(&config, "cat --topic t --output dead_letters").await.done().json();
    assert_eq!((letters.len(), &letters[0]["offset"], &letters[0]["stage"]), (1, &103.into(), &"decode".into()));
}

/// Objects come from receipts: names of other tools that tell neither range nor format are read alike.
#[tokio::test]
async fn archives_under_other_names_are_read() {
    for preset in ["secor", "fluentd"] {
        for format in [
            "type = \"json\", compression = \"gzip\"",
            "type = \"json\", compression = \"none\"",
            &format!("type = \"parquet\", {COLUMNS}"),
        ] {
            let world = World::new();
            let archive = format!(
                "{BY_TIME}[[archive.output]]\nname = \"o\"\nformat = {{ {format} }}\nlayout = {{ preset = \"{preset}\" }}\ndestination = \"main\"\n"
            );
            let config = world.config(&archive);
            let mut all = three_by_three(&world, &config, |_, _| 0).await;
            all.sort_unstable();
            let by_time: Vec<i64> = all.iter().map(|(_, id)| *id).collect();
            assert_eq!(world.run(&config, "cat --topic t").await.done().ids(), by_time, "{preset} {format}");
            assert_eq!(
                world.run(&config, "ls --json").await.done().json().last().expect("totals")["total"]["rows"],
                90
            );
            world.run(&config, "find t/2/15").await.done();
        }
    }
}

/// Each object is read by the layout that wrote it, whatever the configuration is now.
#[tokio::test]
async fn objects_of_earlier_layouts_are_read_by_those() {
    let world = World::new();
    let formats = [
        "type = \"json\", compression = \"gzip\"".to_string(),
        "type = \"raw\", compression = \"zstd\", newlines = \"escape\"".to_string(),
        format!("type = \"parquet\", {COLUMNS}"),
    ];
    let mut wanted = Vec::new();
    for (batch, format) in (0..).zip(&formats) {
        let config = world.config(&format!("{BY_TIME}{}", output("o", format, "")));
        let records: Vec<OwnedRecord> =
            (batch * 5..batch * 5 + 5).map(|offset| record(0, offset, BASE_MS + offset * MINUTE_MS)).collect();
        world.archived(&config, (batch * 5, batch * 5 + 5), &records).await;
        wanted.extend((batch * 5..batch * 5 + 5).map(|offset| id(0, offset)));
    }
    let now = world.config(&format!("{BY_TIME}{}", output("o", &formats[0], "")));
    assert_eq!(world.run(&now, "cat --topic t").await.done().ids(), wanted);
}

#[tokio::test]
async fn another_destination_is_asked_where_the_first_has_lost_an_object() {
    let world = World::new();
    let twice = output("o", "type = \"json\"", "destination = [\"main\", \"spare\"]\n");
    let config = world.config(&format!("{BY_TIME}{twice}"));
    let all = three_by_three(&world, &config, |_, _| 0).await;
    let listed = world.run(&config, "ls --json").await.done().json();
    assert_eq!(listed.last().expect("totals")["total"]["rows"], 90, "each object counts once");
    assert_eq!(listed[0]["destinations"], serde_json::json!([URL, SPARE]));
    let data: Vec<Path> =
        world.keys().await.into_iter().filter(|key| !key.as_ref().starts_with("_siltstone/")).collect();
    for key in data.iter().step_by(2) {
        world.main.delete(key).await.expect("deleted");
    }
    assert_eq!(world.run(&config, "cat --topic t").await.done().ids().len(), all.len());
    for key in &data {
        world.spare.delete(key).await.expect("deleted");
    }
    assert_eq!(world.run(&config, "cat --topic t").await.exit.expect_err("gone").exit, Exit::Stopped);
}

/// More objects overlap than are merged at once: all rows are there, and it is said that they are out of order.
#[tokio::test]
async fn many_objects_of_one_time_are_read_with_few_open() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
    let many = super::super::merge::OPEN_MAX as i64 + 8;
    for batch in 0..many {
        let records =
            [record(0, batch * 2, BASE_MS + batch), record(0, batch * 2 + 1, BASE_MS + 30 * MINUTE_MS - batch)];
        world.archived(&config, (batch * 2, batch * 2 + 2), &records).await;
    }
    let ran = world.run(&config, "cat --topic t").await.done();
    let mut ids = ran.ids();
    ids.sort_unstable();
    assert_eq!(ids, (0..many * 2).collect::<Vec<_>>());
    assert!(ran.notes.contains("out of order"), "{}", ran.notes);
}

/// A pipe that closes behind so many bytes.
struct Closing(usize);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_pipe_is_the_end_and_no_error() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let (destinations, clock) = (world.destinations(), ManualClock::at(BASE_MS));
    for arguments in ["cat --topic t", "ls", "ls --json", "find t/0/5"] {
        let words = ["siltstone"].into_iter().chain(arguments.split_whitespace()).chain(["-c", "x"]);
        let cli = Cli::try_parse_from(words).expect("arguments");
        let (mut out, mut notes) = (Closing(20), Vec::new());
        let exit = match &cli.command {
            Command::Ls(args) => ls_in(args, &config, &destinations, &clock, &mut out).await,
            Command::Find(args) => find_in(args, &config, &destinations, &clock, &mut out).await,
            Command::Cat(args) => {
                let streams = Streams { out: &mut out, notes: &mut notes };
                cat_in(args, &config, &destinations, &clock, streams, std::future::pending()).await
            }
            other => panic!("{other:?}"),
        };
        assert!(matches!(exit, Ok(Exit::Done)), "{arguments}: {exit:?}");
    }
}

/// What is printed, for somebody who watches.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Vec<u8>>>);

impl Watched {
    pub(crate) fn lines(&self) -> usize {
        self.0.lock().expect("no panic").iter().filter(|&&byte| byte == b'\n').count()
    }

    pub(crate) async fn has(&self, lines: usize) {
        while self.lines() < lines {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// With `-f` what is archived later is printed too, of Kafka partitions that are new as well, until somebody interrupts.
#[tokio::test(start_paused = true)]
async fn following_prints_what_comes_later() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
    let batch = |partition: i32, first: i64| -> Vec<OwnedRecord> {
        (first..first + 5).map(|offset| record(partition, offset, BASE_MS + offset * MINUTE_MS)).collect()
    };
    world.archived(&config, (0, 5), &batch(0, 0)).await;
    let words = ["siltstone", "cat", "-f", "--topic", "t", "-c", "x"];
    let Command::Cat(args) = Cli::try_parse_from(words).expect("arguments").command else { panic!("cat") };
    let (watched, destinations, clock) = (Watched::default(), world.destinations(), ManualClock::at(BASE_MS));
    let (mut out, mut notes) = (watched.clone(), Vec::new());
    let events = async {
        watched.has(5).await;
        world.archived(&config, (5, 10), &batch(0, 5)).await;
        watched.has(10).await;
        world.archived(&config, (3, 8), &batch(1, 3)).await;
        world.archived(&config, (10, 15), &batch(0, 10)).await;
        watched.has(20).await;
    };
    let streams = Streams { out: &mut out, notes: &mut notes };
    let ended = cat_in(&args, &config, &destinations, &clock, streams, events).await;
    assert!(matches!(ended, Ok(Exit::Done)), "{ended:?}");
    let text = String::from_utf8(watched.0.lock().expect("no panic").clone()).expect("text");
    let mut ids: Vec<i64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_i64().expect("an id"))
        .collect();
    assert_eq!(ids[..10], (0..10).collect::<Vec<_>>());
    ids.sort_unstable();
    assert_eq!(ids, (0..15).chain((3..8).map(|offset| id(1, offset))).collect::<Vec<_>>());
}
