//! Hooks: a command, an HTTP server and a Kafka topic are told of every receipt and every complete folder, whoever dies, and nothing waits for one that fails.

use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, good};
use crate::support::process::{free_address, get};
use crate::support::{DEADLINE, Stopwatch, setting, until};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use siltstone::effect::Effect;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What only hooks have.
pub(crate) const EFFECTS: [Effect; 5] =
    [Effect::HookBegin, Effect::HookCursor, Effect::HookCommand, Effect::HookPost, Effect::HookRecord];

const SIGABRT: i32 = 6;
const HOUR_MS: i64 = 3_600_000;
const TOKEN: &str = "hunter2-of-hooks";

/// A key, and the body that came with it.
type Told = (String, Value);

/// An HTTP server on loopback that notes what it is told, and answers with that status.
struct Server {
    address: String,
    told: Arc<Mutex<Vec<Told>>>,
    status: Arc<AtomicU16>,
}

impl Server {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (told, status) = (Arc::default(), Arc::new(AtomicU16::new(status)));
        let server = Self { address, told: Arc::clone(&told), status: status.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (told, status) = (told.clone(), status.clone());
                std::thread::spawn(move || while answer(&stream, &told, &status).is_some() {});
            }
        });
        server
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().expect("no panic").clone()
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn hook(&self, further: &str) -> String {
        format!(
            "[[archive.hook]]\ntype = \"http\"\nurl = \"http://{}/archived?sig={TOKEN}\"\ntoken = \"{TOKEN}\"\n{further}\n",
            self.address
        )
    }
}

fn answer(stream: &std::io::Result<TcpStream>, told: &Mutex<Vec<Told>>, status: &AtomicU16) -> Option<()> {
    let mut stream = stream.as_ref().ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&count| count > 0)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let mut body = vec![0; headers["content-length"].parse().expect("a number")];
    reader.read_exact(&mut body).ok()?;
    let status = status.load(Ordering::SeqCst);
    if (200..300).contains(&status) {
        assert!(line.starts_with(&format!("POST /archived?sig={TOKEN} ")), "{line}");
        assert_eq!(
            (headers["content-type"].as_str(), headers["authorization"].as_str()),
            ("application/json", format!("Bearer {TOKEN}").as_str())
        );
        let body = serde_json::from_slice(&body).expect("JSON");
        told.lock().expect("no panic").push((headers["idempotency-key"].clone(), body));
    }
    let said = "try later";
    write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{said}", said.len()).ok()
}

/// A command that notes what it is told, a line each.
struct Notes(PathBuf);

impl Notes {
    fn new(trial: &Trial) -> Self {
        Self(trial.dir().join("notes"))
    }

    fn hook(&self, further: &str) -> String {
        // One write a line, as several may be at it.
        let script =
            format!("read -r body; printf '%s %s\\\\n' \\\"$SILTSTONE_KEY\\\" \\\"$body\\\" >> {}", self.0.display());
        format!("[[archive.hook]]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n{further}\n")
    }

    fn told(&self) -> Vec<Told> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let of = |line: &str| {
            let (key, body) = line.split_once(' ').expect("a key");
            (key.to_string(), serde_json::from_str(body).expect("JSON"))
        };
        text.lines().map(of).collect()
    }
}

fn kafka_hook(into: &Topic, further: &str) -> String {
    format!("[[archive.hook]]\ntype = \"kafka\"\ntopic = \"{}\"\n{further}\n", into.name)
}

/// What partition 0 of a topic has, whoever produced it.
fn records(topic: &Topic) -> Vec<Told> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", setting("KAFKA_BROKERS")).set("group.id", "nobody");
    let reader: BaseConsumer = settings.set("enable.auto.commit", "false").create().expect("a consumer");
    let (_, end) = reader.fetch_watermarks(&topic.name, 0, DEADLINE).expect("an end");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic.name, 0, Offset::Beginning).expect("an offset");
    reader.assign(&from).expect("assigned");
    let mut told = Vec::new();
    while (told.len() as i64) < end {
        let record = reader.poll(DEADLINE).expect("a record within the deadline").expect("a record");
        let key = String::from_utf8(record.key().expect("a key").to_vec()).expect("UTF-8");
        told.push((key, serde_json::from_slice(record.payload().expect("a value")).expect("JSON")));
    }
    told
}

/// By key: the receipts that were told, each of which must come from its key alone, in order of offsets within each Kafka partition unless they were told before.
fn batches(told: &[Told]) -> BTreeMap<String, Value> {
    let mut by_key: BTreeMap<String, Value> = BTreeMap::new();
    let mut newest: BTreeMap<i64, i64> = BTreeMap::new();
    for (key, body) in told.iter().filter(|(_, body)| body["kind"] == "batch") {
        assert_eq!(body["key"], key.as_str());
        let receipt = &body["receipt"];
        let (partition, first) =
            (receipt["partition"].as_i64().expect("a number"), receipt["first"].as_i64().expect("an offset"));
        if let Some(before) = by_key.insert(key.clone(), receipt.clone()) {
            assert_eq!(before, *receipt, "told twice under {key}");
        } else {
            let before = newest.insert(partition, first);
            assert!(before.is_none_or(|before| before < first), "{first} of {partition} comes behind {before:?}");
        }
    }
    by_key
}

/// Every receipt of the archive was told, and nothing else.
#[track_caller]
fn assert_told(trial: &Trial, told: &[Told]) -> BTreeMap<String, Value> {
    let by_key = batches(told);
    let sorted = |receipts: Vec<Value>| {
        let mut texts: Vec<String> = receipts.iter().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    assert_eq!(sorted(by_key.values().cloned().collect()), sorted(trial.archive().receipts()));
    by_key
}

/// Folder and revision of each folder that was told.
fn folders(told: &[Told]) -> BTreeSet<(String, u64, u64)> {
    let of = |(key, body): &Told| {
        assert_eq!(body["key"], key.as_str());
        let number = |name: &str| body[name].as_u64().expect("a number");
        (body["folder"].as_str().expect("a folder").to_string(), number("revision"), number("rows"))
    };
    told.iter().filter(|(_, body)| body["kind"] == "folder").map(of).collect()
}

fn of_hour(id: u64, hour: i64, partition: i32) -> Shape {
    let time = BASE_MS + hour * HOUR_MS + id as i64;
    let mut shape = Shape::of(format!(r#"{{"id":{id},"time":{time}}}"#)).at(time);
    shape.partition = partition;
    shape
}

const COMPLETE: &str = "timestamp = { field = \"time\", unit = \"ms\" }\n[archive.complete]\nallowed_lateness = \"1m\"\nidle_grace = \"0s\"\nrevise_after = \"0s\"\n\
    [[archive.output]]\nname = \"json\"\nlayout = { path = \"{topic}/dt=%Y-%m-%d/hr=%H\", zone = \"UTC\" }\n";

/// Goal: a command, a server and a topic are told of every batch and every folder of a drain, with the same keys, in order; the next drain tells what is new, and
/// nothing shows a secret. Method: on a folder and on the S3 server.
#[test]
fn a_drain_tells_every_batch_and_folder() {
    for trial in [Trial::on_disk, Trial::on_s3] {
        let (topic, receipts, server) = (Topic::create(2), Topic::create(1), Server::start(200));
        // In the order of their hours: none is late.
        topic.send_all((0..60).map(|id| of_hour(id, id as i64 / 20, (id % 2) as i32)));
        let mut trial = trial(&topic);
        let notes = Notes::new(&trial);
        trial.rotate = "records = 5".to_string();
        let hooks = format!("{}{}{}", server.hook(""), notes.hook(""), kafka_hook(&receipts, ""));
        let trial = trial.with(&format!("{COMPLETE}{hooks}"));
        trial.drain().expect(0).hides(&[TOKEN]);
        let all = || [server.told(), notes.told(), records(&receipts)];
        let folder =
            |hour: &str, revision: u64, rows: u64| (format!("{}/dt=2025-11-21/hr={hour}", topic.name), revision, rows);
        let first = [folder("08", 1, 20), folder("09", 1, 20), folder("10", 1, 20)];
        let mut keys = BTreeSet::new();
        for told in all() {
            let by_key = assert_told(&trial, &told);
            assert!(by_key.len() >= 4, "{} batches", by_key.len());
            assert_eq!(folders(&told), first.clone().into());
            keys.insert(by_key.into_keys().collect::<Vec<_>>());
        }
        assert_eq!(keys.len(), 1, "all are told under the same keys");
        let before = all().map(|told| told.len());
        trial.drain().expect(0);
        assert_eq!(all().map(|told| told.len()), before, "nothing is new");
        topic.send_all((60..64).map(|id| of_hour(id, 1, 0)));
        trial.drain().expect(0);
        for told in all() {
            assert_told(&trial, &told);
            assert_eq!(
                folders(&told).difference(&first.clone().into()).cloned().collect::<Vec<_>>(),
                [folder("09", 2, 24)]
            );
        }
        let status = trial.command("status", &[]).expect(0).hides(&[TOKEN]);
        status.prints(&["hook http, topic", "hook command, topic", "hook kafka, topic", "told of everything"]);
        trial.command("verify", &["--deep"]).expect(0);
    }
}

/// Goal: wherever a process dies that tells, every receipt is told, and those that are told twice have one key. Method: at each effect of each hook, before and
/// after it; then a drain.
#[test]
fn telling_that_is_aborted_at_any_effect_is_told_at_least_once() {
    let topic = Topic::create(1);
    topic.send_good(0, 20, 1);
    let mut cases = Vec::new();
    for call in ["hook-command", "hook-post", "hook-record"] {
        for (effect, time) in [("hook-begin", 1), (call, 1), (call, 2), ("hook-cursor", 1)] {
            cases.extend(["before", "after"].map(|side| (call, format!("{effect}:{side}:{time}"))));
        }
    }
    let next = Mutex::new(cases.iter());
    let play = |call: &str, failpoint: &str| {
        let (receipts, server) = (Topic::create(1), Server::start(200));
        let mut trial = Trial::on_disk(&topic);
        let notes = Notes::new(&trial);
        trial.rotate = "records = 5".to_string();
        trial.sections =
            "[kafka.client]\n\"session.timeout.ms\" = \"3000\"\n\"heartbeat.interval.ms\" = \"500\"".to_string();
        let hook = match call {
            "hook-command" => notes.hook(""),
            "hook-post" => server.hook(""),
            _ => kafka_hook(&receipts, ""),
        };
        let trial = trial.with(&hook);
        let aborted = trial.start_in(&[("SILTSTONE_FAILPOINT", failpoint)], "run", &["--drain"]).wait(DEADLINE);
        assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
        trial.drain().expect(0);
        let told = match call {
            "hook-command" => notes.told(),
            "hook-post" => server.told(),
            _ => records(&receipts),
        };
        let by_key = assert_told(&trial, &told);
        assert!(by_key.len() >= 2, "{failpoint}");
        if failpoint == format!("{call}:after:2") {
            assert!(
                told.len() > by_key.len(),
                "{failpoint}: what was told before the cursor was written is told again"
            );
        }
        let cursor =
            &trial.archive().objects[&format!("_siltstone/hook/v1/{}/{}/00000.json", name_of(call), topic.name)];
        let cursor: Value = serde_json::from_slice(cursor).expect("JSON");
        assert_eq!(cursor["through"], 20, "{failpoint}");
    };
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let Some((call, failpoint)) = next.lock().expect("no panic").next() else { break };
                    play(call, failpoint);
                }
            });
        }
    });
}

fn name_of(call: &str) -> &'static str {
    match call {
        "hook-command" => "command",
        "hook-post" => "http",
        _ => "kafka",
    }
}

/// The sum of a metric's samples whose labels have all of `parts`.
fn metric(address: &str, name: &str, parts: &[&str]) -> f64 {
    let (_, text) = get(address, "/metrics");
    let samples = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part)));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Goal: while a server refuses and a command hangs, everything is archived and committed, and another hook is told of all; health, metrics and status name what is
/// wrong, and once it is mended everything is told. A drain says so with its exit code.
#[test]
fn hooks_that_fail_hold_back_nothing() {
    let (topic, receipts, server) = (Topic::create(2), Topic::create(1), Server::start(503));
    let mut trial = Trial::on_disk(&topic);
    let address = free_address();
    let path = trial.dir().join("hangs");
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    trial.rotate = "records = 5\nage = \"1s\"".to_string();
    let hangs = format!(
        "[[archive.hook]]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"while [ -e {} ]; do sleep 0.1; done\"]\ntimeout = \"1s\"\n",
        path.display()
    );
    std::fs::write(&path, "").expect("written");
    let trial = trial.with(&format!("{}{hangs}{}", server.hook("timeout = \"5s\""), kafka_hook(&receipts, "")));
    let mut running = trial.start(&[]);
    running.until_says("partition taken over");
    topic.send_good(0, 100, 2);
    trial.until_all_committed(&topic);
    until("the topic has all receipts", DEADLINE, || {
        let told: BTreeSet<String> = batches(&records(&receipts)).into_keys().collect();
        (told.len() == trial.archive().receipts().len()).then_some(())
    });
    assert_told(&trial, &records(&receipts));
    assert!(server.told().is_empty());
    until("health names both", DEADLINE, || {
        let (_, text) = get(&address, "/readyz");
        (text.contains("503") && text.contains("no end within 1 s") && text.contains("tell a hook of receipts"))
            .then_some(())
    });
    assert!(metric(&address, "siltstone_hook_failures_total", &["hook=\"http\"", "kind=\"batch\""]) >= 1.0);
    assert_eq!(metric(&address, "siltstone_hook_failures_total", &["hook=\"kafka\""]), 0.0);
    let behind = |hook: &str| metric(&address, "siltstone_hook_behind_offsets", &[hook]);
    until("the gauges tell", DEADLINE, || {
        (behind("hook=\"http\"") == 100.0 && behind("hook=\"kafka\"") == 0.0).then_some(())
    });
    until("status names both", DEADLINE, || {
        let told = trial.command("status", &[]).expect(0).hides(&[TOKEN]);
        (told.out.contains("100 offsets behind in Kafka partitions 0, 1") && told.out.contains("try later"))
            .then_some(())
    });
    let lines = trial.command("status", &["--json"]).expect(0).out;
    let behind: BTreeMap<String, i64> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["kind"] == "hook")
        .map(|line| (line["hook"].as_str().expect("a name").to_string(), line["behind"].as_i64().expect("a number")))
        .collect();
    assert_eq!(
        behind,
        [("command", 100), ("http", 100), ("kafka", 0)].map(|(name, behind)| (name.to_string(), behind)).into()
    );
    // What hangs does not keep it from ending.
    let began = Stopwatch::start();
    running.stop().expect(0).hides(&[TOKEN]);
    assert!(began.elapsed() < Duration::from_secs(30));
    let failed = trial.drain().expect(4);
    failed.says(&["everything is archived and committed, but", "the next run tells what is left"]).hides(&[TOKEN]);
    server.answers(404);
    std::fs::remove_file(&path).expect("removed");
    trial.drain().expect(3).says(&["404"]);
    server.answers(202);
    trial.drain().expect(0);
    assert_told(&trial, &server.told());
    trial.command("status", &[]).expect(0).prints(&["hook http", "told of everything"]);
}

/// Goal: a live process goes on telling once what failed is mended, without a restart.
#[test]
fn a_live_process_tells_what_failed_once_it_is_mended() {
    let (topic, server) = (Topic::create(1), Server::start(500));
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 5\nage = \"1s\"".to_string();
    let trial = trial.with(&server.hook(""));
    let mut running = trial.start(&[]);
    running.until_says("partition taken over");
    topic.send_good(0, 20, 1);
    trial.until_all_committed(&topic);
    running.until_says("500");
    server.answers(200);
    until("all is told", DEADLINE, || {
        (batches(&server.told()).len() == trial.archive().receipts().len()).then_some(())
    });
    // What comes now is told soon.
    topic.send_all([good(20)]);
    trial.until_all_committed(&topic);
    until("the new one is told", DEADLINE, || {
        (batches(&server.told()).len() == trial.archive().receipts().len()).then_some(())
    });
    running.stop().expect(0);
    assert_told(&trial, &server.told());
}

/// Goal: a hook begins at what is committed when it sees a Kafka partition first, and what a backfill archives behind it is not told.
#[test]
fn what_a_backfill_archives_is_not_told() {
    let topic = Topic::create(1);
    topic.send_good(0, 20, 1);
    let mut trial = Trial::on_disk(&topic);
    let notes = Notes::new(&trial);
    trial.kafka = "start = \"latest\"\n[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let trial = trial.with(&notes.hook(""));
    trial.drain().expect(0);
    trial.command("backfill", &["--topic", &topic.name, "--json"]).expect(0);
    assert_eq!(trial.archive().receipts().len(), 1);
    topic.send_good(20, 1, 1);
    trial.drain().expect(0);
    let told = notes.told();
    assert_eq!((told.len(), &told[0].1["receipt"]["first"]), (1, &20.into()));
}

/// Goal: a topic that is not there is not made by producing into it, and the message says what to do.
#[test]
fn a_topic_that_is_not_there_is_not_made() {
    let topic = Topic::create(1);
    topic.send_good(0, 5, 1);
    let missing = crate::support::unique("missing");
    let hook = format!("[[archive.hook]]\ntype = \"kafka\"\ntopic = \"{missing}\"\n");
    let trial = Trial::on_disk(&topic).with(&hook);
    trial.drain().expect(4).says(&[&missing, "siltstone creates no topic"]);
    let asking: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", setting("KAFKA_BROKERS")).create().expect("a consumer");
    let known = asking.fetch_metadata(None, DEADLINE).expect("metadata");
    assert!(known.topics().iter().all(|topic| topic.name() != missing));
    assert_eq!(trial.archive().ids(&topic.name).len(), 5);
}

/// Goal: a hook is no shell, and what it writes that is no line does no harm.
#[test]
fn a_command_that_is_not_there_is_named() {
    let topic = Topic::create(1);
    topic.send_good(0, 5, 1);
    let hook = "[[archive.hook]]\ntype = \"command\"\ncommand = [\"./no/such/program\", \"hunter2-of-hooks\"]\n";
    let trial = Trial::on_disk(&topic).with(hook);
    let path: &Path = trial.dir();
    let program = path.join("./no/such/program").display().to_string();
    trial.drain().expect(3).says(&[&program, "is the program there"]).hides(&[TOKEN]);
}
