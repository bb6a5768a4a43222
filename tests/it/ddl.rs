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

/// Goal: each statement makes a view that holds exactly the rows of its output, by hour, although dead letters, claims and receipts and the
/// objects of other outputs lie beside them, some in the same folders.
#[test]
fn duckdb_reads_every_output_and_nothing_else() {
    let topic = Topic::create(2);
    let row = |id: u64| {
        let ms = FIRST_MS + id * 300_000;
        let tags = if id.is_multiple_of(2) { r#"["a","b"]"# } else { "null" };
        let labels = format!(r#"{{"k":{id}}}"#);
        Shape {
            partition: i32::try_from(id % 2).expect("small"),
            ..Shape::of(format!(
                r#"{{"id":{id},"time":{ms},"price":"{id}.25","day":"2025-11-21","tags":{tags},"request":{{"path":"/{id}"}},"labels":{labels},"new":[{id}]}}"#
            ))
        }
    };
    topic.send_all((0..30).map(row));
    topic.send_all([Shape::of("{broken").at(i64::try_from(FIRST_MS).expect("a time"))]);
    let schema = "[{ name = \"id\", type = \"INT64\", mode = \"REQUIRED\" }, { name = \"time\", type = \"TIMESTAMP\", unit = \"ms\" }, \
                  { name = \"price\", type = \"NUMERIC\", precision = 12, scale = 2 }, { name = \"day\", type = \"DATE\" }, \
                  { name = \"tags\", type = \"STRING\", mode = \"REPEATED\" }, \
                  { name = \"request\", type = \"RECORD\", fields = [{ name = \"path\", type = \"STRING\" }] }, \
                  { name = \"labels\", type = \"MAP\", value = { type = \"INT64\" } }]";
    let archive = format!(
        "timestamp = {{ field = \"time\", unit = \"ms\" }}\n\
         [[archive.output]]\nformat = {{ type = \"parquet\", schema = {schema} }}\n\
         [[archive.output]]\nname = \"beside\"\nformat = {{ type = \"raw\", compression = \"gzip\" }}\n\
         [[archive.output]]\nformat = \"json\"\nkeep = [\"offset\"]\nlayout.path = \"json/{{topic}}/dt=%F/hr=%H\"\n\
         [[archive.output]]\nformat = \"envelope\"\nlayout.path = \"all/t={{topic}}/dt=%F\"\n\
         [[archive.output]]\nformat = {{ type = \"raw\", compression = \"gzip\" }}\nlayout.path = \"%Y/%m/%d/%H\"\n"
    );
    let trial = Trial::on_disk(&topic).with(&archive);
    trial.drained(&topic);
    let script = trial.command("ddl", &["duckdb"]).expect(0).out;
    let name = topic.name.replace('-', "_");
    let queries = [
        format!(
            "SELECT dt, hr, count(*), sum(id), min(time), count(_rest) FROM {name}_parquet GROUP BY ALL ORDER BY ALL"
        ),
        format!(
            "SELECT dt, hr, count(*), sum(id), min(time), count(_kafka_offset) FROM {name}_json GROUP BY ALL ORDER BY ALL"
        ),
        format!("SELECT price, day, tags, request.path, labels['k'] FROM {name}_parquet WHERE hr = 4 AND id = 14"),
        format!("SELECT price, day, tags, request.path, labels['k'] FROM {name}_json WHERE hr = 4 AND id = 14"),
        "SELECT t, count(*), count(DISTINCT \"offset\") FROM it_envelope GROUP BY ALL".to_string(),
        "SELECT count(*), count(DISTINCT filename) > 2 FROM it_raw".to_string(),
    ];
    let answers = duckdb(&script, &queries);
    let hours = |time: &dyn Fn(u64) -> String| -> Value {
        let of_hour = |hour: u64| {
            let ids: Vec<u64> = (0..30).filter(|id| id / 12 == hour).collect();
            let sum: u64 = ids.iter().sum();
            json!([
                "2025-11-21",
                (3 + hour).to_string(),
                ids.len().to_string(),
                sum.to_string(),
                time(hour),
                ids.len().to_string()
            ])
        };
        (0..3).map(of_hour).collect()
    };
    assert_eq!(answers[0], hours(&|hour| format!("2025-11-21 0{}:00:00+00:00", 3 + hour)), "{script}");
    assert_eq!(answers[1], hours(&|hour| (FIRST_MS + hour * 3_600_000).to_string()), "{script}");
    for answer in [&answers[2], &answers[3]] {
        assert_eq!(*answer, json!([["14.25", "2025-11-21", "['a', 'b']", "/14", "14"]]), "{script}");
    }
    assert_eq!(answers[4], json!([[*topic.name, "31", "16"]]), "{script}");
    assert_eq!(answers[5], json!([["31", "True"]]), "{script}");
}
