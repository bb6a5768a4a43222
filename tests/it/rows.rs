//! What rows hold: kept columns, fields outside a schema, several outputs and destinations.

use crate::support::archive::{Archive, counts};
use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic, committed};
use crate::support::process::{free_address, get};
use crate::support::{DEADLINE, until};
use serde_json::{Value, json};

#[test]
fn kept_columns_that_collide_with_a_schema_are_a_configuration_error() {
    let topic = Topic::create(1);
    let output = "[[archive.output]]\nkeep = [\"offset\"]\n\
                  format = { type = \"parquet\", schema = [{ name = \"_kafka_offset\", type = \"INT64\" }] }";
    let trial = Trial::on_disk(&topic).with(output);
    let says = ["line ", "archive[0].output[0].keep", "`offset` would be called like another column", "another prefix"];
    trial.command("check", &[]).expect(2).says(&says);
    trial.drain().expect(2).says(&says);
}

#[test]
fn a_record_whose_field_is_named_like_a_kept_column_is_a_dead_letter() {
    let topic = Topic::create(1);
    topic.send_all([
        Shape::of(r#"{"id":1}"#),
        Shape::of(r#"{"id":2,"_kafka_offset":5}"#),
        Shape::of(r#"{"id":3,"in":{"_kafka_offset":5}}"#),
        Shape::of(r#"{"id":4,"_kafk\u0061_key":null}"#),
    ]);
    let output = "[[archive.output]]\nformat = \"json\"\nkeep = [\"offset\", \"key\"]";
    let archive = Trial::on_disk(&topic).with(output).drained(&topic);
    assert_eq!(archive.counts("json"), counts(2, 2, 0));
    assert_eq!(archive.ids(&topic.name), [1, 3]);
    assert!(
        archive.dead_letters().iter().all(|one| one["reason"].as_str().is_some_and(|text| text.contains("_kafka_")))
    );
}

#[test]
fn headers_with_repeats_and_null_keys_are_kept_in_every_format() {
    let topic = Topic::create(2);
    let all = Shape::of(r#"{"id":0}"#)
        .keyed(Some(b"key"))
        .header("trace", Some(b"one"))
        .header("trace", Some(b"two"))
        .header("none", None)
        .header("trace", Some(b"\xff"))
        .header("", Some(b""));
    topic.send_all([
        all,
        Shape { partition: 1, ..Shape::of(r#"{"id":1}"#) },
        Shape::of(r#"{"id":2}"#).keyed(Some(b"\xff")),
    ]);
    let keep = "keep = [\"key\", \"headers\", \"timestamp\", \"topic\", \"partition\", \"offset\"]";
    let outputs = format!(
        "[[archive.output]]\nformat = \"json\"\nlayout = {{ path = \"json/{{topic}}\" }}\n{keep}\n[[archive.output]]\n\
         format = {{ type = \"parquet\", schema = [{{ name = \"id\", type = \"INT64\" }}] }}\n\
         layout = {{ path = \"parquet/{{topic}}\" }}\n{keep}"
    );
    let archive = Trial::on_disk(&topic).with(&outputs).drained(&topic);
    let by_id = |rows: Vec<Value>| -> Vec<Value> {
        let mut rows = rows;
        rows.sort_by_key(|row| row["id"].as_u64());
        rows
    };
    let json = by_id(archive.rows("json/"));
    assert_eq!(json.len(), 3);
    let headers = json!([
        {"name": "trace", "value": "one"},
        {"name": "trace", "value": "two"},
        {"name": "none", "value": null},
        {"name": "trace", "value": "/w==", "base64": true},
        {"name": "", "value": ""}
    ]);
    assert_eq!(json[0]["_kafka_headers"], headers);
    assert_eq!(json[0]["_kafka_key"], "key");
    assert_eq!((&json[1]["_kafka_key"], &json[1]["_kafka_headers"]), (&Value::Null, &json!([])));
    assert!(json[1].as_object().unwrap().contains_key("_kafka_key"));
    assert_eq!((&json[2]["_kafka_key"], &json[2]["_kafka_key_base64"]), (&json!("/w=="), &json!(true)));
    let parquet = by_id(archive.parquet("parquet/"));
    assert_eq!(parquet.len(), 3);
    for (id, partition, offset) in [(0, 0, 0), (1, 1, 0), (2, 0, 1)] {
        for rows in [&json, &parquet] {
            let row = &rows[id];
            assert_eq!((&row["_kafka_partition"], &row["_kafka_offset"]), (&json!(partition), &json!(offset)), "{row}");
            assert_eq!(row["_kafka_topic"], *topic.name);
        }
    }
    let kept = parquet[0]["_kafka_headers"].as_array().unwrap();
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert_eq!(parquet[1]["_kafka_key"], Value::Null);
}

/// Goal: one read serves every format, and nothing of a record is lost in an envelope or in dead letters as Parquet.
#[test]
fn avro_envelopes_and_dead_letters_in_parquet_hold_every_record() {
    let topic = Topic::create(2);
    topic.send_all([
        Shape::of(r#"{"id":1,"user-agent":"a","tags":["x","y"]}"#).header("trace", Some(b"\xff")),
        Shape::of(r#"{"id":2,"new":{"deep":[1]}}"#).keyed(Some(b"k")),
        Shape { partition: 1, ..Shape::of("{broken").keyed(Some(b"\xff")).header("none", None) },
        Shape { partition: 1, ..Shape::of(r#"{"id":"no number"}"#) },
    ]);
    let output = "[archive.dead_letters]\nformat = \"parquet\"\n\
                  [[archive.output]]\nkeep = [\"offset\"]\nlayout.path = \"avro/{topic}\"\n\
                  format = { type = \"avro\", compression = \"zstd\", schema = [{ name = \"id\", type = \"INT64\" }, \
                  { name = \"user-agent\", type = \"STRING\" }, { name = \"tags\", type = \"STRING\", mode = \"REPEATED\" }] }\n\
                  [[archive.output]]\nformat = \"envelope\"\nlayout.path = \"envelope/{topic}\"";
    let archive = Trial::on_disk(&topic).with(output).drained(&topic);
    assert_eq!(archive.counts("avro"), counts(2, 2, 0));
    assert_eq!(archive.counts("envelope"), counts(4, 0, 0));
    let avro = archive.avro("avro/");
    let row = |id: u64| avro.iter().find(|row| row["id"] == id).expect("a row");
    assert_eq!((&row(1)["user_agent"], &row(1)["tags"]), (&json!("a"), &json!(["x", "y"])));
    assert_eq!((&row(2)["_rest"], &row(2)["_kafka_offset"]), (&json!(r#"{"new":{"deep":[1]}}"#), &json!(1)));
    let envelope = archive.parquet("envelope/");
    let broken = envelope.iter().find(|row| row["value"] == "7b62726f6b656e").expect("the broken record, in hex");
    assert_eq!(
        (&broken["partition"], &broken["key"], &broken["topic"]),
        (&json!(1), &json!("ff"), &json!(*topic.name))
    );
    assert_eq!(broken["headers"][0]["key"], "none");
    let stages: Vec<String> = archive.dead_letters().iter().map(|letter| letter["stage"].to_string()).collect();
    assert_eq!(stages.len(), 2);
    assert!(stages.contains(&"\"decode\"".to_string()) && stages.contains(&"\"row\"".to_string()), "{stages:?}");
}

#[test]
fn fields_outside_a_schema_follow_their_rule_and_are_counted() {
    let topic = Topic::create(1);
    topic.send_all([
        Shape::of(r#"{"id":1,"name":"a"}"#),
        Shape::of(r#"{"id":2,"name":"b","extra":{"deep":[1,2]},"more":null}"#),
        Shape::of(r#"{"id":3,"other":17.5}"#),
        Shape::of(r#"{"id":"not a number"}"#),
    ]);
    let output = |rule: &str| {
        format!(
            "[[archive.output]]\nformat = {{ type = \"parquet\", unknown = \"{rule}\", schema = [\
             {{ name = \"id\", type = \"INT64\", mode = \"REQUIRED\" }}, {{ name = \"name\", type = \"STRING\" }}] }}"
        )
    };
    let rest = Trial::on_disk(&topic).with(&output("rest")).drained(&topic);
    assert_eq!(rest.counts("parquet"), counts(3, 1, 0));
    let rows = rest.parquet(&topic.name);
    let rest_of = |id: u64| -> Value {
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        row["_rest"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    };
    assert_eq!(rest_of(1), Value::Null);
    assert_eq!(rest_of(2), json!({"extra": {"deep": [1, 2]}, "more": null}));
    assert_eq!(rest_of(3), json!({"other": 17.5}));
    let dead = Trial::on_disk(&topic).with(&output("dead_letter")).drained(&topic);
    assert_eq!(dead.counts("parquet"), counts(1, 3, 0));
    // A process that stays shows how many fields were dropped.
    let mut trial = Trial::on_disk(&topic).with(&output("drop"));
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    trial.rotate = "age = \"1s\"".to_string();
    let running = trial.start(&[]);
    until("the records are committed", DEADLINE, || {
        committed(&trial.group, &topic, 0).filter(|(offset, _)| *offset == 4)
    });
    until("three dropped fields are counted", DEADLINE, || {
        get(&address, "/metrics").1.lines().any(|line| line == "siltstone_dropped_fields_total 3").then_some(())
    });
    running.stop().expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.counts("parquet"), counts(3, 1, 0));
    assert!(archive.parquet(&topic.name).iter().all(|row| row.get("_rest").is_none()));
}

#[test]
fn an_inferred_schema_is_pinned_and_takes_later_fields_into_rest() {
    let topic = Topic::create(2);
    topic.send_good(0, 100, 2);
    let trial = Trial::on_disk(&topic).with("[[archive.output]]\nformat = { type = \"parquet\", schema = \"infer\" }");
    trial.drained(&topic);
    topic.send_all([Shape::of(r#"{"id":100,"late":"field"}"#)]);
    let archive = trial.drained(&topic);
    assert_eq!(archive.counts("parquet"), counts(101, 0, 0));
    let mut ids: Vec<u64> = archive.parquet(&topic.name).iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..=100).collect::<Vec<_>>());
    let late = archive.parquet(&topic.name).into_iter().find(|row| row["id"] == 100).unwrap();
    assert_eq!(late["_rest"], r#"{"late":"field"}"#);
    assert_eq!(archive.objects.keys().filter(|key| key.starts_with("_siltstone/schemas/")).count(), 1);
}

#[test]
fn several_outputs_go_to_several_destinations() {
    let topic = Topic::create(3);
    topic.send_good(0, 300, 3);
    topic.send_all([Shape::of("broken")]);
    let mut trial = Trial::on_disk(&topic);
    let on_s3 = Trial::on_s3(&topic);
    let second = trial.dir().join("second");
    trial.sections = format!(
        "[destinations.second]\nurl = \"file://{}\"\n[destinations.s3]\n{}",
        second.display(),
        on_s3.destination
    );
    trial.archive = "[archive.dead_letters]\ndestination = \"main\"\n\
                     [[archive.output]]\nformat = \"json\"\nlayout = { path = \"json/{topic}/dt=%Y-%m-%d\" }\n\
                     destination = [\"main\", \"second\", \"s3\"]\n\
                     [[archive.output]]\nformat = \"parquet\"\nlayout = { path = \"parquet/{topic}/dt=%Y-%m-%d\" }\n\
                     destination = \"s3\""
        .to_string();
    let main = trial.drained(&topic);
    assert_eq!((main.counts("json"), main.counts("parquet")), (counts(300, 1, 0), counts(300, 1, 0)));
    let (second, s3) = (Archive::on_disk(&second), on_s3.archive());
    let json = |archive: &Archive| -> Vec<(String, Vec<u8>)> {
        let keys = archive.data_keys().into_iter().filter(|key| key.starts_with("json/"));
        keys.map(|key| (key.to_string(), archive.objects[key].clone())).collect()
    };
    assert_eq!(main.ids("json/"), (0..300).collect::<Vec<_>>());
    assert!(json(&main) == json(&second) && json(&main) == json(&s3), "the copies differ");
    let data = json(&second).into_iter().map(|(key, _)| key);
    let mut expected: Vec<String> = data.chain(["_siltstone/probe/start".to_string()]).collect();
    expected.sort_unstable();
    assert_eq!(
        second.objects.keys().collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>(),
        "only data and the proof that it can be written goes to further destinations"
    );
    assert_eq!(s3.parquet("parquet/").len(), 300);
    assert!(main.parquet("parquet/").is_empty());
}
