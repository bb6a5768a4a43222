//! Statements as they are printed, and what is refused. The golden texts lie in `tests/`; `BLESS=1` writes them anew, and a person reads the
//! difference against the engines' own documents. What can run here runs: `tests/it/ddl.rs`, `scripts/ddl.sh`.

use super::pattern::{Token, meets, text};
use super::{Beside, Dialect, Source, Store, Table, statement};
use crate::config;
use crate::layout::{Column, ColumnKind, Layout};
use chrono::NaiveDate;
use std::path::Path;

const DIALECTS: [(Dialect, &str); 6] = [
    (Dialect::Hive, "hive"),
    (Dialect::Athena, "athena"),
    (Dialect::BigQuery, "bigquery"),
    (Dialect::Spark, "spark"),
    (Dialect::DuckDb, "duckdb"),
    (Dialect::ClickHouse, "clickhouse"),
];

/// Every type, with names that need quotes.
const SCHEMA: &str = r#"[
  { name = "id", type = "INT64", mode = "REQUIRED" },
  { name = "time", type = "TIMESTAMP", unit = "ms" },
  { name = "seen", type = "TIMESTAMP" },
  { name = "price", type = "NUMERIC", precision = 12, scale = 2 },
  { name = "big", type = "NUMERIC", precision = 38, scale = 18 },
  { name = "day", type = "DATE" },
  { name = "ok", type = "BOOL" },
  { name = "ratio", type = "FLOAT64" },
  { name = "body", type = "BYTES" },
  { name = "extra", type = "JSON" },
  { name = "order", type = "STRING" },
  { name = "tags", type = "STRING", mode = "REPEATED" },
  { name = "request", type = "RECORD", fields = [{ name = "path", type = "STRING" }, { name = "at", type = "TIMESTAMP" }] },
  { name = "labels", type = "MAP", value = { type = "INT64" } },
]"#;

/// An archive with these outputs (lines of TOML), whose destinations are `urls` in order.
fn layouts(urls: &[&str], archives: &str) -> Vec<Layout> {
    let mut toml = "[kafka]\nbrokers = \"k:9092\"\n".to_string();
    for (index, url) in urls.iter().enumerate() {
        toml += &format!("[destinations.d{index}]\nurl = \"{url}\"\n");
    }
    toml += archives;
    let config = config::parse(&toml, Path::new("/"), &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{toml}"));
    config.archives.into_iter().map(|archive| archive.layout).collect()
}

fn archive(outputs: &str) -> String {
    format!("[[archive]]\nname = \"web\"\ntopics = [\"access\"]\n{outputs}")
}

/// The table of the first archive's output number `index`, for the topic `access`.
fn table(layouts: &[Layout], index: usize, columns: Option<&[Column]>) -> Result<Table, String> {
    table_of(layouts, index, columns, ACCESS)
}

/// What a table is asked for, of an archive with these topics.
#[derive(Clone, Copy)]
struct Asked<'a> {
    topics: &'a [&'a str],
    topic: Option<&'a str>,
    one_topic: bool,
    marker: &'a str,
}

const ACCESS: Asked<'_> = Asked { topics: &["access"], topic: Some("access"), one_topic: false, marker: "_SUCCESS" };

fn table_of(layouts: &[Layout], index: usize, columns: Option<&[Column]>, asked: Asked<'_>) -> Result<Table, String> {
    let Asked { topics, topic, one_topic, marker } = asked;
    let output = &layouts[0].outputs[index];
    let url = &output.place.destinations[0];
    let region = |name: &str| (name == "region").then(|| "eu-central-1".to_string());
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_string()).collect();
    let beside = |layout| Beside { layout, topics: &topics, marker: Some(marker) };
    let all: Vec<Beside<'_>> = layouts.iter().map(beside).collect();
    Table::new(&Source {
        layout: &layouts[0],
        output,
        topic,
        topics: &topics,
        one_topic,
        columns,
        store: Store::new(url, |name| if url.starts_with("s3") { region(name) } else { None }),
        name: "lake.access".to_string(),
        since: NaiveDate::from_ymd_opt(2025, 1, 1).expect("a day"),
        all: &all,
    })
}

/// One archive, its first output.
fn first(url: &str, outputs: &str) -> Result<Table, String> {
    table(&layouts(&[url], &archive(outputs)), 0, None)
}

fn output(format: &str, path: &str) -> String {
    format!("[[archive.output]]\nformat = {format}\nlayout.path = \"{path}\"\n")
}

fn parquet() -> String {
    format!("{{ type = \"parquet\", schema = {} }}", SCHEMA.replace('\n', " "))
}

/// Compares with the golden text of that name, or writes it.
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ddl/tests").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).expect("the golden text is written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name}: BLESS=1 writes it anew");
}

/// All dialects' statements, or refusals, one after the other.
fn everywhere(make: impl Fn(&str) -> Result<Table, String>) -> String {
    let mut all = String::new();
    for (dialect, name) in DIALECTS {
        let url = if dialect == Dialect::BigQuery { "gs://logs/prod" } else { "s3://logs/prod" };
        let said = make(url).and_then(|table| statement(dialect, &table));
        all += &format!("== {name}\n{}\n", said.unwrap_or_else(|why| format!("refused: {why}\n")));
    }
    all
}

#[test]
fn parquet_by_day_and_hour() {
    let path = "parquet/{topic}/dt=%Y-%m-%d/hr=%H";
    let made = |url: &str| {
        first(url, &(output(&parquet(), path) + "keep = [\"key\", \"headers\", \"timestamp\", \"offset\"]\n"))
    };
    golden("parquet.sql", &everywhere(made));
}

#[test]
fn avro_has_its_own_names_and_its_schema() {
    let format = r#"{ type = "avro", schema = [{ name = "user-agent", type = "STRING" }, { name = "it's", type = "TIMESTAMP" }, { name = "price", type = "NUMERIC", precision = 12, scale = 2 }] }"#;
    golden("avro.sql", &everywhere(|url| first(url, &output(format, "avro/{topic}/dt=%F"))));
}

#[test]
fn json_has_the_columns_of_its_sibling() {
    let layouts = |url: &str| {
        layouts(
            &[url],
            &archive(
                &(output("\"json\"", "json/{topic}/dt=%F/hr=%H")
                    + "keep = [\"key\", \"headers\", \"timestamp\"]\n"
                    + &output(&parquet(), "parquet/{topic}")),
            ),
        )
    };
    let columns = |layouts: &[Layout]| match layouts[0].outputs[1].format.schema() {
        Some(crate::layout::SchemaSource::Columns(columns)) => columns.clone(),
        other => panic!("{other:?}"),
    };
    golden(
        "json.sql",
        &everywhere(|url| {
            let layouts = layouts(url);
            table(&layouts, 0, Some(&columns(&layouts)))
        }),
    );
}

#[test]
fn json_without_a_schema_is_text() {
    golden("json-unknown.sql", &everywhere(|url| first(url, &output("\"json\"", "json/{topic}/dt=%F"))));
}

#[test]
fn raw_payloads_are_lines() {
    golden(
        "raw.sql",
        &everywhere(|url| {
            first(
                url,
                &output("{ type = \"raw\", compression = \"gzip\", newlines = \"escape\" }", "raw/{topic}/dt=%F"),
            )
        }),
    );
}

#[test]
fn envelopes_by_topic_and_partition() {
    let path = "all/t={topic}/dt=%F/kp={partition:03}";
    golden("envelope.sql", &everywhere(|url| first(url, &output("\"envelope\"", path))));
}

#[test]
fn folders_without_names() {
    golden("bare.sql", &everywhere(|url| first(url, &output(&parquet(), "tag/%Y/%m/%d/%H"))));
}

#[test]
fn fields_in_the_path() {
    let path = "by/{topic}/host={field.host}/y=%Y/m=%m";
    golden("fields.sql", &everywhere(|url| first(url, &output(&parquet(), path))));
}

/// Goal: D-1 at the root of a destination, where `_siltstone` and the dead letters lie beside the data.
#[test]
fn at_the_root_nothing_else_is_read() {
    golden("root.sql", &everywhere(|url| first(url, &output(&parquet(), "%Y/%m/%d/%H"))));
    golden("root-keyed.sql", &everywhere(|url| first(url, &output("\"json\"", "dt=%F"))));
    // Values that can be anything: DuckDB leaves names out, ClickHouse and BigQuery cannot.
    let plain = |path: &str| first("gs://logs/prod", &output("{ type = \"json\", compression = \"none\" }", path));
    let any = plain("{field.x}/%F").expect("a table");
    for dialect in [Dialect::BigQuery, Dialect::ClickHouse] {
        let why = statement(dialect, &any).expect_err("it would read more");
        assert!(why.contains("_siltstone") || why.contains("dead letters"), "{why}");
    }
    assert!(statement(Dialect::DuckDb, &any).expect("a view").contains("/prod/[!_.]*/"));
}

/// Goal: D-1 among outputs. Method: two outputs that differ in their extension alone, and two that do not. Parquet beside JSON lines is refused by
/// everybody: a compaction may make Parquet of these.
#[test]
fn outputs_in_one_folder_are_told_apart_or_refused() {
    let said = |dialect: Dialect, outputs: &str, index: usize| {
        let url = if dialect == Dialect::BigQuery { "gs://logs" } else { "s3://logs" };
        let layouts = layouts(&[url], &archive(outputs));
        statement(dialect, &table(&layouts, index, None).expect("a table"))
    };
    let raw = output(&parquet(), "{topic}/dt=%F") + &output("\"raw\"", "{topic}/dt=%F");
    let json = output(&parquet(), "{topic}/dt=%F") + &output("\"json\"", "{topic}/dt=%F");
    for (dialect, name) in DIALECTS {
        let reads_all = matches!(dialect, Dialect::Hive | Dialect::Athena | Dialect::Spark);
        if reads_all {
            let why = said(dialect, &raw, 0).expect_err(name);
            assert!(why.contains("output raw of archive web"), "{name}: {why}");
        } else {
            assert!(said(dialect, &raw, 0).expect(name).contains("*.parquet"), "{name}");
            let why = said(dialect, &json, 0).expect_err(name);
            assert!(why.contains("compact --to parquet` makes of output json of archive web"), "{name}: {why}");
        }
        // The JSON lines themselves, with what becomes of rows that are no longer lines.
        let own = said(dialect, &output("\"json\"", "{topic}/dt=%F"), 0).expect(name);
        let note = if reads_all { "which this table would read as text" } else { "are not here any more" };
        assert!(own.contains(note), "{name}: {own}");
        assert_eq!(said(dialect, &json, 1).is_ok(), !reads_all, "{name}");
    }
    // The same extension below another output's location.
    let nested = archive(&(output(&parquet(), "dt=%F") + &output("\"envelope\"", "deep/dt=%F")));
    let said = |dialect, url| statement(dialect, &table(&layouts(&[url], &nested), 0, None).expect("a table"));
    // Hive looks through the other's folders for partitions of its own.
    let hive = said(Dialect::Hive, "s3://logs").expect("a table");
    assert!(hive.contains("SET hive.msck.path.validation=ignore;\nMSCK REPAIR TABLE"), "{hive}");
    assert!(said(Dialect::BigQuery, "gs://logs").expect("a beginning of its own").contains("'gs://logs/dt=*.parquet'"));
    let below = archive(&(output(&parquet(), "a/%Y") + &output("\"envelope\"", "a/b/dt=%F")));
    for (dialect, url) in [(Dialect::Spark, "s3://logs"), (Dialect::BigQuery, "gs://logs")] {
        let why =
            statement(dialect, &table(&layouts(&[url], &below), 0, None).expect("a table")).expect_err("too much");
        assert!(why.contains("output envelope of archive web"), "{why}");
    }
}

/// Goal: a table of one topic has no rows of another. Method: paths that have the topic below what changes, not at all, or a part of it.
#[test]
fn a_table_of_one_topic_has_no_rows_of_another() {
    let two = Asked { topics: &["access", "audit"], one_topic: true, ..ACCESS };
    let made = |dialect: Dialect, path: &str, asked: Asked<'_>| {
        let url = if dialect == Dialect::BigQuery { "gs://logs" } else { "s3://logs" };
        let layouts = layouts(&[url], &archive(&output(&parquet(), path)));
        table_of(&layouts, 0, None, asked).and_then(|table| statement(dialect, &table))
    };
    for path in ["%Y/%m/%d/{topic}", "dt=%F/t={topic}", "%Y/v1-{topic}"] {
        for dialect in [Dialect::Spark, Dialect::BigQuery] {
            let why = made(dialect, path, two).expect_err("it looks through all of them");
            assert!(why.contains("other topics or generations"), "{path}: {why}");
            // There is no other one.
            assert!(made(dialect, path, Asked { one_topic: true, ..ACCESS }).is_ok(), "{path}");
            // Nobody knows whether there is another one.
            assert!(made(dialect, path, Asked { topics: &[], ..two }).is_err(), "{path}");
        }
        for dialect in [Dialect::Hive, Dialect::Athena, Dialect::DuckDb, Dialect::ClickHouse] {
            let said = made(dialect, path, two).expect("level by level");
            assert!(said.contains("access/"), "{path}: {said}");
        }
    }
    for (dialect, name) in DIALECTS {
        for path in ["all/dt=%F", "{topic[0]}/dt=%F", "t={topic}-{partition}/dt=%F", "{topic}-{partition}/dt=%F"] {
            let why = made(dialect, path, Asked { topics: &["access", "access.b"], ..two }).expect_err(name);
            assert!(why.contains("no folder of topic access alone"), "{name} {path}: {why}");
            assert!(why.contains("--topic"), "{name} {path}: {why}");
        }
        // Parts of topics tell these apart, as far as is known.
        let said = made(dialect, "{topic[0]}/dt=%F", two).expect(name);
        assert!(said.contains("/access/"), "{name}: {said}");
        assert!(made(dialect, "{topic[0]}/dt=%F", Asked { topics: &[], ..two }).is_err(), "{name}");
        // Of all topics: nothing is claimed.
        assert!(made(dialect, "all/dt=%F", Asked { topic: None, one_topic: false, ..two }).is_ok(), "{name}");
    }
}

/// Hive and Spark read HDFS, by a namenode or a nameservice; what is staged there has a name that they pass over.
#[test]
fn tables_in_hdfs() {
    for url in ["hdfs://nn1.example.com:8020/data/archive", "hdfs://prod/data/archive"] {
        let made = |dialect: Dialect, path: &str| {
            first(url, &output(&parquet(), path)).and_then(|table| statement(dialect, &table))
        };
        for dialect in [Dialect::Hive, Dialect::Spark] {
            let said = made(dialect, "{topic}/dt=%F/hr=%H").expect("a table");
            assert!(said.contains(&format!("LOCATION '{url}/access'")), "{said}");
            assert!(said.contains(&format!("-- Reads {url}/access/dt=*/hr=*/*: Parquet.")), "{said}");
        }
        for dialect in [Dialect::Athena, Dialect::BigQuery, Dialect::DuckDb, Dialect::ClickHouse] {
            let why = made(dialect, "{topic}/dt=%F/hr=%H").expect_err("it cannot get there");
            assert!(why.contains("hdfs://"), "{dialect:?}: {why}");
        }
    }
}

/// An `enum` of topics is of folders that are there; of what is made of topics nothing tells the values.
#[test]
fn only_folders_that_are_topics_are_projected_as_topics() {
    let two = Asked { topics: &["app.access", "app.audit"], topic: None, ..ACCESS };
    let of = |path: &str| {
        let layouts = layouts(&["s3://logs"], &archive(&output(&parquet(), path)));
        table_of(&layouts, 0, None, two).and_then(|table| statement(Dialect::Athena, &table)).expect("a table")
    };
    let whole = of("t={topic}/dt=%F");
    assert!(whole.contains("'projection.t.values' = 'app.access,app.audit'"), "{whole}");
    for path in ["t={topic[0]}/dt=%F", "t=v1-{topic}/dt=%F", "t={topic}-{generation}/dt=%F"] {
        let said = of(path);
        assert!(said.contains("'projection.t.type' = 'injected'") && !said.contains("app.audit"), "{path}: {said}");
    }
}

/// Markers can be called as objects end.
#[test]
fn markers_that_look_like_objects_are_not_read() {
    let asked = Asked { marker: "_DONE.parquet", ..ACCESS };
    let of = |dialect: Dialect, url: &str| {
        let layouts = layouts(&[url], &archive(&output(&parquet(), "{topic}/dt=%F")));
        table_of(&layouts, 0, None, asked).and_then(|table| statement(dialect, &table))
    };
    for (dialect, url) in
        [(Dialect::DuckDb, "s3://logs"), (Dialect::ClickHouse, "s3://logs"), (Dialect::BigQuery, "gs://logs")]
    {
        let why = of(dialect, url).expect_err("it would read them");
        assert!(why.contains("_DONE.parquet") && why.contains("archive.complete.marker"), "{why}");
    }
    for dialect in [Dialect::Hive, Dialect::Athena, Dialect::Spark] {
        assert!(of(dialect, "s3://logs").is_ok(), "it passes over names that start with _");
    }
}

#[test]
fn what_fails_in_an_engine_is_written_otherwise_or_told() {
    let json = |url: &str, more: &str| {
        let outputs = output("\"json\"", "j/{topic}/%Y/%m/%d") + &output(&parquet(), "p/{topic}");
        let layouts = layouts(&[url], &(archive(more) + &outputs));
        let Some(crate::layout::SchemaSource::Columns(columns)) = layouts[0].outputs[1].format.schema() else {
            panic!("columns")
        };
        table(&layouts, 0, Some(columns)).expect("a table")
    };
    // The JsonSerDe of Hive 3.
    let hive = statement(Dialect::Hive, &json("s3://b", "tombstones = \"keep\"\n")).expect("a table");
    assert!(hive.contains("-- Needs Hive 4") && hive.contains("as extra can, and at lines that are null"), "{hive}");
    // The rows have a column `day`, and so would have these folders.
    assert!(
        hive.contains("PARTITIONED BY (`day_2` STRING)") && hive.contains("PARTITION (`day_2` = '2025/11/21')"),
        "{hive}"
    );
    // Arrays of BigQuery are never null.
    let bigquery = statement(Dialect::BigQuery, &json("gs://b", "")).expect("a table");
    assert!(bigquery.contains("`tags` JSON") && !bigquery.contains("ARRAY<"), "{bigquery}");
    assert!(bigquery.contains("(RFC 3339) is null"), "{bigquery}");
    // A URI without an object is an error.
    let root = first("gs://b", &output(&parquet(), "%Y/%m/%d")).and_then(|table| statement(Dialect::BigQuery, &table));
    let root = root.expect("a table");
    assert!(root.contains("uris = ['gs://b/2*.parquet']") && root.contains("rows of 1999 and before"), "{root}");
    assert!(root.contains("decimal_target_types = ['NUMERIC', 'BIGNUMERIC']"), "{root}");
    // A carriage return ends a line of Hadoop's.
    let raw = output("\"raw\"", "r/{topic}/dt=%F");
    let spark = first("s3://b", &raw).and_then(|table| statement(Dialect::Spark, &table)).expect("a table");
    assert!(spark.contains(r"OPTIONS (lineSep '\n')"), "{spark}");
}

#[test]
fn what_an_engine_cannot_read_is_refused_in_words() {
    let refused = |dialect, url: &str, outputs: &str| {
        first(url, outputs).and_then(|table| statement(dialect, &table)).expect_err("it cannot be read")
    };
    let text = output("{ type = \"json\", compression = \"zstd\" }", "j/{topic}");
    assert!(refused(Dialect::BigQuery, "gs://b", &text).contains("zstd"));
    let lz4 = output(
        "{ type = \"parquet\", compression = \"lz4\", schema = [{ name = \"a\", type = \"INT64\" }] }",
        "p/{topic}",
    );
    assert!(refused(Dialect::BigQuery, "gs://b", &lz4).contains("LZ4"));
    let avro = output(
        "{ type = \"avro\", compression = \"zstd\", schema = [{ name = \"a\", type = \"INT64\" }] }",
        "a/{topic}",
    );
    assert!(refused(Dialect::BigQuery, "gs://b", &avro).contains("zstd"));
    let plain = output(&parquet(), "p/{topic}");
    assert!(refused(Dialect::BigQuery, "s3://b", &plain).contains("gs://"));
    assert!(refused(Dialect::Athena, "gs://b", &plain).contains("s3://"));
    let framed = output("{ type = \"raw\", newlines = \"length\" }", "r/{topic}");
    for (dialect, _) in DIALECTS {
        assert!(refused(dialect, "s3://b", &framed).contains("length"));
    }
    let lists = r#"{ type = "parquet", schema = [{ name = "a", type = "ARRAY", element = { type = "ARRAY", element = { type = "INT64" } } }] }"#;
    assert!(refused(Dialect::BigQuery, "gs://b", &output(lists, "l/{topic}")).contains("lists in a list"));
    let odd = r#"{ type = "parquet", schema = [{ name = "a", type = "RECORD", fields = [{ name = "b-c", type = "INT64" }] }] }"#;
    for dialect in [Dialect::Hive, Dialect::Athena] {
        assert!(refused(dialect, "s3://b", &output(odd, "o/{topic}")).contains("a.b-c"));
    }
    let twice = output("\"envelope\"", "e/topic={topic}/dt=%F");
    for dialect in [Dialect::Hive, Dialect::Athena, Dialect::Spark] {
        assert!(refused(dialect, "s3://b", &twice).contains("column topic is in the rows and in the path"));
    }
    let both = first("s3://b", &twice).and_then(|table| statement(Dialect::ClickHouse, &table)).expect("a table");
    assert_eq!(both.matches("`topic` String").count(), 1, "{both}");
}

#[test]
fn a_table_is_of_one_topic_where_the_path_begins_with_it() {
    let layouts = layouts(
        &["s3://b"],
        "[[archive]]\nname = \"web\"\ntopics = [\"^app.*\"]\n[[archive.output]]\nformat = \"envelope\"\n",
    );
    let all: Vec<Beside<'_>> = layouts.iter().map(|layout| Beside { layout, topics: &[], marker: None }).collect();
    let source = |topic| Source {
        layout: &layouts[0],
        output: &layouts[0].outputs[0],
        topic,
        topics: &[],
        one_topic: true,
        columns: None,
        store: Store::new("s3://b", |_| None),
        name: "t".to_string(),
        since: NaiveDate::MIN,
        all: &all,
    };
    let why = Table::new(&source(None)).expect_err("of which?");
    assert!(why.contains("--topic"), "{why}");
    assert_eq!(Table::new(&source(Some("app.x"))).expect("a table").folders.fixed, ["app.x"]);
}

/// Goal: D-2. A name or a text cannot end its quotes.
#[test]
fn names_and_texts_are_quoted() {
    let schema = r#"{ type = "parquet", schema = [{ name = "a`b\"c'd\\e", type = "STRING" }] }"#;
    for (dialect, column) in [
        (Dialect::Hive, r#"`a``b"c'd\e` STRING"#),
        (Dialect::Spark, r#"`a``b"c'd\e` STRING"#),
        (Dialect::ClickHouse, r#"`a\`b"c'd\\e` Nullable(String)"#),
    ] {
        let table = first("s3://b", &output(schema, "p/{topic}")).expect("a table");
        let said = statement(dialect, &table).expect("a statement");
        assert!(said.contains(column), "{said}");
    }
    let mut table = first("file:///srv/it%27s", &output(schema, "p/{topic}")).expect("a table");
    table.name = "x\"; DROP TABLE y; --\n".to_string();
    let said = statement(Dialect::DuckDb, &table).expect("a view");
    assert!(said.contains("'/srv/it''s/p/access/*.parquet'"), "{said}");
    assert!(said.contains("VIEW \"x\"\"; DROP TABLE y; --\n\" AS"), "{said}");
    assert!(said.starts_with("-- x\"; DROP TABLE y; -- : "), "{said}");
}

#[test]
fn columns_of_a_pinned_schema_count() {
    let layouts = layouts(&["s3://b"], &archive(&output("{ type = \"parquet\", schema = \"infer\" }", "p/{topic}")));
    let pinned = [Column { name: "a".to_string(), kind: ColumnKind::Int64, nullable: true }];
    let said = statement(Dialect::Spark, &table(&layouts, 0, Some(&pinned)).expect("a table")).expect("a statement");
    assert!(said.contains("  `a` BIGINT,\n  `_rest` STRING\n"), "{said}");
    let why = table(&layouts, 0, None).expect_err("nobody knows");
    assert!(why.contains("not pinned yet"), "{why}");
}

#[test]
fn patterns_meet_where_a_key_is_of_both() {
    let tokens = |pattern: &str| -> Vec<Token> {
        let token = |c: char| match c {
            '*' => Token::Run,
            '^' => Token::Visible,
            '#' => Token::Digit,
            '?' => Token::One,
            '~' => Token::All,
            c => Token::Char(c),
        };
        pattern.chars().map(token).collect()
    };
    let meet = [
        ("a/b", "a/b"),
        ("a/*", "a/b"),
        ("*/*", "a/b"),
        ("~", "a/b/c"),
        ("a~.json", "a/b/c.json"),
        ("a/*.json", "~.json"),
        ("*a", "b*"),
        ("####/##", "????/*"),
        ("dt=*/x", "dt=~"),
        ("^", "a"),
        ("*", ""),
    ];
    let miss = [
        ("a/b", "a/c"),
        ("a/*", "a/b/c"),
        ("*", "a/b"),
        ("*.json", "*.parquet"),
        ("####/*", "_siltstone/~"),
        ("^/*", "_dead/*"),
        ("^", ".x"),
        ("^", ""),
        ("##", "#"),
        ("#", "a"),
        ("~.json.gz", "x.json"),
    ];
    for (one, other) in meet {
        assert!(meets(&tokens(one), &tokens(other)) && meets(&tokens(other), &tokens(one)), "{one} {other}");
    }
    for (one, other) in miss {
        assert!(!meets(&tokens(one), &tokens(other)) && !meets(&tokens(other), &tokens(one)), "{one} {other}");
    }
    assert_eq!(text("a/"), [Token::Char('a'), Token::Char('/')]);
}
