use super::*;
use crate::cli::{Cli, Command};
use crate::config;
use clap::Parser;
use std::path::Path;

const FIRST: &str = "[kafka]\nbrokers = \"k:9092\"\n[destinations.main]\nurl = \"file:///nowhere/at/all\"\n";

/// What `siltstone ddl` with these arguments prints, or says.
fn said(archives: &str, arguments: &[&str]) -> Result<String, Failure> {
    let text = format!("{FIRST}{archives}");
    let config = config::parse(&text, Path::new("/"), &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    let mut line = vec!["siltstone", "ddl"];
    line.extend(arguments);
    line.extend(["-c", "x.toml"]);
    let Command::Ddl(args) = Cli::try_parse_from(line).expect("a command line").command else { panic!("not ddl") };
    let mut out = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = runtime.block_on(ddl(&args, &config, &mut out));
    done.map(|_| String::from_utf8(out).expect("text"))
}

fn archive(name: &str, topics: &str, outputs: &str) -> String {
    format!("[[archive]]\nname = \"{name}\"\ntopics = [{topics}]\n{outputs}")
}

const ENVELOPE: &str = "[[archive.output]]\nformat = \"envelope\"\nlayout.path = \"all/{topic}/dt=%F\"\n";

#[test]
fn a_table_for_each_topic_and_output() {
    let two = archive("web", "\"access\", \"App.2\"", &format!("{ENVELOPE}[[archive.output]]\nformat = \"raw\"\n"));
    let all = said(&two, &["duckdb"]).expect("statements");
    for name in ["access_envelope", "app_2_envelope", "access_raw", "app_2_raw"] {
        assert!(all.contains(&format!("VIEW \"{name}\" AS")), "{all}");
    }
    let one = said(&two, &["duckdb", "--topic", "App.2", "--output", "raw", "--table", "db.x"]).expect("one");
    assert!(one.contains("VIEW \"db\".\"x\" AS") && one.matches("VIEW").count() == 1, "{one}");
    let why = said(&two, &["duckdb", "--table", "x"]).expect_err("which?");
    assert!(why.exit == Exit::Config && why.message.contains("--topic"), "{why}");
    let why = said(&two, &["duckdb", "--output", "nope"]).expect_err("none");
    assert!(why.message.contains("output raw of archive web"), "{why}");
    let why = said(&two, &["duckdb", "--topic", "nope"]).expect_err("none");
    assert!(why.message.contains("no output is meant"), "{why}");
}

/// Goal: a table called after a topic has its rows alone.
#[test]
fn a_topic_that_no_folder_shows_is_refused() {
    let output = "[[archive.output]]\nformat = \"raw\"\nlayout.path = \"all/dt=%F\"\n";
    let two = archive("web", "\"access\", \"audit\"", output);
    let why = said(&two, &["duckdb", "--topic", "access"]).expect_err("it has rows of both");
    assert!(why.exit == Exit::Config && why.message.contains("leave --topic out"), "{why}");
    assert!(said(&two, &["duckdb"]).expect("of both").contains("VIEW \"web\" AS"));
    let one = archive("web", "\"access\"", output);
    assert!(said(&one, &["duckdb", "--topic", "access"]).expect("the only one").contains("VIEW \"access\" AS"));
    let words = output.replace("all/", "{topic[0]}/");
    let why = said(&archive("web", "\"app.a\", \"app.b\"", &words), &["duckdb"]).expect_err("it has rows of both");
    assert!(why.message.contains("no folder of topic app.a alone"), "{why}");
}

/// Goal: no table takes the place of another.
#[test]
fn two_tables_of_one_name_are_refused() {
    let topics = archive("web", "\"app-x\", \"APP_X\"", ENVELOPE);
    let why = said(&topics, &["duckdb"]).expect_err("one name");
    assert!(why.exit == Exit::Config && why.message.contains("would both be called app_x"), "{why}");
    assert!(why.message.contains("topic app-x") && why.message.contains("topic APP_X"), "{why}");
    assert!(said(&topics, &["duckdb", "--topic", "app-x", "--table", "x"]).is_ok());
    let outputs = |name: &str, path: &str| {
        format!("[[archive.output]]\nname = \"{name}\"\nformat = \"raw\"\nlayout.path = \"{path}/dt=%F\"\n")
    };
    let one = archive("a", "\"one\"", &(outputs("b_c", "1") + &outputs("d", "2")));
    let other = archive("a_b", "\"two\"", &(outputs("c", "3") + &outputs("d", "4")));
    let why = said(&(one + &other), &["duckdb"]).expect_err("one name");
    assert!(why.message.contains("would both be called a_b_c"), "{why}");
}

/// A name cannot leave its comment.
#[test]
fn a_name_of_several_lines_is_refused() {
    let why =
        said(&archive("web", "\"access\"", ENVELOPE), &["hive", "--table", "x\nDROP TABLE y"]).expect_err("two lines");
    assert!(why.exit == Exit::Config && why.message.contains("--table"), "{why}");
}

#[test]
fn a_topic_by_pattern_is_asked_for() {
    let pattern = archive("web", "\"^app.*\"", ENVELOPE);
    let why = said(&pattern, &["spark"]).expect_err("of which?");
    assert!(why.exit == Exit::Config && why.message.contains("--topic"), "{why}");
    let one = said(&pattern, &["spark", "--topic", "apple"]).expect("one");
    assert!(one.contains("/all/apple'"), "{one}");
}

#[test]
fn what_cannot_be_is_a_comment_beside_what_can() {
    let length = "[[archive.output]]\nname = \"framed\"\nformat = { type = \"raw\", newlines = \"length\" }\nlayout.path = \"r/{topic}\"\n";
    let two = archive("web", "\"access\"", &format!("{ENVELOPE}{length}"));
    let all = said(&two, &["duckdb"]).expect("one of them");
    assert!(all.contains("-- archive web, output framed, topic access: no table: its payloads follow"), "{all}");
    let why = said(&two, &["duckdb", "--output", "framed"]).expect_err("nothing else");
    assert!(why.exit == Exit::Config && why.message.contains("length"), "{why}");
    let why = said(&two, &["bigquery"]).expect_err("not there");
    assert!(why.message.contains("gs://"), "{why}");
}

/// A schema that is inferred is in the bucket, or nowhere yet.
#[test]
fn an_inferred_schema_comes_from_the_bucket() {
    let dir = tempfile::tempdir().expect("a folder");
    let url = format!("file://{}", dir.path().display());
    let outputs = "[[archive.output]]\nformat = \"parquet\"\nlayout.path = \"p/{topic}/dt=%F\"\n[[archive.output]]\nformat = \"json\"\nlayout.path = \"j/{topic}\"\n";
    let text = archive("web", "\"access\"", outputs);
    let said = |arguments: &[&str]| {
        let text = format!("[kafka]\nbrokers = \"k:9092\"\n[destinations.main]\nurl = \"{url}\"\n{text}");
        let config = config::parse(&text, Path::new("/"), &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let mut line = vec!["siltstone", "ddl", "-c", "x.toml"];
        line.extend(arguments);
        let Command::Ddl(args) = Cli::try_parse_from(line).expect("a command line").command else { panic!("not ddl") };
        let mut out = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let done = runtime.block_on(ddl(&args, &config, &mut out));
        done.map(|_| String::from_utf8(out).expect("text"))
    };
    let why = said(&["spark", "--output", "parquet"]).expect_err("not pinned");
    assert!(why.message.contains("pinned there when `siltstone run`"), "{why}");
    assert!(said(&["spark", "--output", "json"]).expect("lines").contains("`line` STRING"));
    let key = crate::bucket::schemas::schema_key("web", "parquet", 1);
    let path = dir.path().join(key);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let pinned = r#"{"version":1,"columns":[{"name":"id","kind":"int64","nullable":true}]}"#;
    std::fs::write(path, pinned).expect("pinned");
    let both = said(&["spark"]).expect("statements");
    assert!(both.contains("`id` BIGINT,\n  `_rest` STRING,\n  `dt` DATE"), "{both}");
    assert!(both.contains("`id` BIGINT\n)\nUSING json"), "{both}");
}
