//! Outputs as tables: `siltstone ddl` against real output, in the engine that is always there. The others: `scripts/ddl.sh`.

use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic};
use crate::support::python;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// 2025-11-21T03:00:00Z
const FIRST_MS: u64 = 1_763_694_000_000;

/// What DuckDB answers to `queries` when it has run `script`.
fn duckdb(script: &str, queries: &[String]) -> Vec<Value> {
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/engines.py");
    let mut command = Command::new(python());
    command.arg(engines).arg("duckdb").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut engine = command.spawn().expect("DuckDB starts");
    let work = json!({"script": script, "queries": queries}).to_string();
    engine.stdin.take().expect("its input").write_all(work.as_bytes()).expect("written");
    let ended = engine.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{script}\n{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).expect("its answers")
}

/// Of every type, with names that need quotes. The second topic's ids begin at 1000.
const SCHEMA: &str = r#"[{ name = "id", type = "INT64", mode = "REQUIRED" }, { name = "time", type = "TIMESTAMP", unit = "ms" },
  { name = "seen", type = "TIMESTAMP" }, { name = "price", type = "NUMERIC", precision = 12, scale = 2 }, { name = "day", type = "DATE" },
  { name = "ok", type = "BOOL" }, { name = "ratio", type = "FLOAT64" }, { name = "body", type = "BYTES" }, { name = "extra", type = "JSON" },
  { name = "order", type = "STRING" }, { name = "tags", type = "STRING", mode = "REPEATED" },
  { name = "items", type = "RECORD", mode = "REPEATED", fields = [{ name = "n", type = "INT64" }] },
  { name = "request", type = "RECORD", fields = [{ name = "path", type = "STRING" }, { name = "at", type = "TIMESTAMP", unit = "s" }] },
  { name = "labels", type = "MAP", value = { type = "INT64" } }]"#;

/// A payload with all of them; every third one has nothing but its id and time.
fn payload(id: u64, number: u64) -> String {
    let ms = FIRST_MS + number * 300_000;
    if number % 3 == 1 {
        return format!(r#"{{"id":{id},"time":{ms}}}"#);
    }
    format!(
        r#"{{"id":{id},"time":{ms},"seen":"1969-12-31T23:59:59.123456Z","price":"-{id}.25","day":"1950-02-28","ok":{},"ratio":{number}.5,"body":"AP8=","extra":{{"a":[1,null]}},"order":"o'{id}\"","tags":["a","ü"],"items":[{{"n":{id}}},{{}}],"request":{{"path":"/{id}","at":1763694000}},"labels":{{"k":{id}}},"new":[{id}]}}"#,
        number.is_multiple_of(2)
    )
}

/// Goal: each statement makes a view that holds exactly the rows of its output and topic, by hour and value by value, although another topic, dead
/// letters, claims and receipts and the objects of other outputs lie beside them, some in the same folders.
#[test]
fn duckdb_reads_every_output_and_nothing_else() {
    let topics = [Topic::create(2), Topic::create(2)];
    for (topic, first) in topics.iter().zip([0, 1000]) {
        let row = |number: u64| Shape {
            partition: i32::try_from(number % 2).expect("small"),
            ..Shape::of(payload(first + number, number))
        };
        topic.send_all((0..30).map(row));
        topic.send_all([Shape::of("{broken").at(i64::try_from(FIRST_MS).expect("a time"))]);
    }
    let archive = format!(
        "timestamp = {{ field = \"time\", unit = \"ms\" }}\n\
         [[archive.output]]\nformat = {{ type = \"parquet\", schema = {} }}\n\
         [[archive.output]]\nname = \"beside\"\nformat = {{ type = \"raw\", compression = \"gzip\" }}\n\
         [[archive.output]]\nformat = \"json\"\nkeep = [\"offset\"]\nlayout.path = \"json/{{topic}}/dt=%F/hr=%H\"\n\
         [[archive.output]]\nformat = \"envelope\"\nlayout.path = \"all/t={{topic}}/dt=%F\"\n\
         [[archive.output]]\nformat = {{ type = \"raw\", compression = \"gzip\" }}\nlayout.path = \"%Y/%m/%d/%H\"\n",
        SCHEMA.replace('\n', " ")
    );
    let mut trial = Trial::on_disk(&topics[0]).with(&archive);
    trial.topics = format!("[\"{}\", \"{}\"]", topics[0].name, topics[1].name);
    trial.drain().expect(0);
    trial.archive().assert_as_named();
    let mut script = trial.command("ddl", &["duckdb"]).expect(0).out;
    let one = ["duckdb", "--topic", &topics[1].name, "--output", "envelope", "--table", "one"];
    script += &trial.command("ddl", &one).expect(0).out;
    let names: Vec<String> = topics.iter().map(|topic| topic.name.replace('-', "_")).collect();
    let mut queries = Vec::new();
    for name in &names {
        queries.extend([
            format!("SELECT dt, hr, count(*), sum(id), min(time), count(_rest) FROM {name}_parquet GROUP BY ALL ORDER BY ALL"),
            format!("SELECT dt, hr, count(*), sum(id), min(time), count(_kafka_offset) FROM {name}_json GROUP BY ALL ORDER BY ALL"),
            format!("SELECT * EXCLUDE (dt, hr) FROM {name}_parquet WHERE hr = 4 AND id % 1000 IN (13, 14) ORDER BY id"),
            format!("SELECT * EXCLUDE (dt, hr, _kafka_offset) FROM {name}_json WHERE hr = 4 AND id % 1000 IN (13, 14) ORDER BY id"),
        ]);
    }
    queries.extend([
        "SELECT t, count(*), count(DISTINCT \"offset\") FROM it_envelope GROUP BY ALL ORDER BY ALL".to_string(),
        "SELECT topic, count(*) FROM one GROUP BY ALL".to_string(),
        "SELECT count(*), count(DISTINCT filename) > 4 FROM it_raw".to_string(),
    ]);
    let answers = duckdb(&script, &queries);
    let hours = |first: u64, time: &dyn Fn(u64) -> String, count_of: &dyn Fn(&[u64]) -> usize| -> Value {
        let of_hour = |hour: u64| {
            let ids: Vec<u64> = (0..30).filter(|number| number / 12 == hour).map(|number| first + number).collect();
            let sum: u64 = ids.iter().sum();
            json!([
                "2025-11-21",
                (3 + hour).to_string(),
                ids.len().to_string(),
                sum.to_string(),
                time(hour),
                count_of(&ids).to_string()
            ])
        };
        (0..3).map(of_hour).collect()
    };
    for (answers, first) in answers.chunks(4).zip([0, 1000]) {
        let [files, lines, of_files, of_lines] = answers else { panic!("{answers:?}") };
        let full = |ids: &[u64]| ids.iter().filter(|id| (*id - first) % 3 != 1).count();
        let time = |hour: u64| format!("2025-11-21 0{}:00:00+00:00", 3 + hour);
        assert_eq!(*files, hours(first, &time, &full), "{script}");
        let millis = |hour: u64| (FIRST_MS + hour * 3_600_000).to_string();
        assert_eq!(*lines, hours(first, &millis, &<[u64]>::len), "{script}");
        let (bare, id) = (first + 13, first + 14);
        let empty = json!(null);
        let values = |shown: [Value; 5]| {
            let [time, seen, body, at, rest] = shown;
            let mut row = json!([
                id.to_string(), time, seen, format!("-{id}.25"), "1950-02-28", "true", "14.5", body, "{\"a\":[1,null]}", format!("o'{id}\""),
                ["a", "ü"], [{"n": id.to_string()}, {"n": null}], {"path": format!("/{id}"), "at": at}, {"k": id.to_string()}
            ]);
            row.as_array_mut().expect("a row").extend((!rest.is_null()).then_some(rest));
            row
        };
        let nothing = |time: &str, columns: usize| {
            let mut row = vec![json!(bare.to_string()), json!(time)];
            row.resize(columns, empty.clone());
            Value::Array(row)
        };
        let shown =
            ["2025-11-21 04:10:00+00:00", "1969-12-31 23:59:59.123456+00:00", "00ff", "2025-11-21 03:00:00+00:00"];
        let rest = json!(format!("{{\"new\":[{id}]}}"));
        let [time, seen, body, at] = shown.map(Value::from);
        assert_eq!(
            *of_files,
            json!([nothing("2025-11-21 04:05:00+00:00", 15), values([time, seen, body, at, rest])]),
            "{script}"
        );
        let shown =
            [(FIRST_MS + 14 * 300_000).to_string(), "1969-12-31T23:59:59.123456Z".to_string(), "AP8=".to_string()];
        let [time, seen, body] = shown.map(Value::from);
        let at = json!("1763694000");
        let bare_ms = (FIRST_MS + 13 * 300_000).to_string();
        assert_eq!(
            *of_lines,
            json!([nothing(&bare_ms, 14), values([time, seen, body, at, empty.clone()])]),
            "{script}"
        );
    }
    let [.., by_topic, one, lines] = answers.as_slice() else { panic!("{answers:?}") };
    let mut both = topics.each_ref().map(|topic| topic.name.clone());
    both.sort();
    assert_eq!(*by_topic, json!(both.map(|name| [name, "31".to_string(), "16".to_string()])), "{script}");
    assert_eq!(*one, json!([[*topics[1].name, "31"]]), "{script}");
    assert_eq!(*lines, json!([["62", "true"]]), "{script}");
}
