//! Thrift's bytes, tables that fit and those that do not, and servers that are no metastore. What a real one does: `tests/it/hive.rs`.

use super::table::{Step, missing_columns, new_table, partition, step, takes, with_columns};
use super::wire::{Answer, Unread, Value, answer, fields, message, structs, text, text_map};
use super::*;
use crate::destination::fault::Verdict;
use proptest::prelude::*;
use thrift::protocol::{TMessageIdentifier, TMessageType, TType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn column(name: &str, type_text: &str) -> HiveColumn {
    HiveColumn { name: name.to_string(), type_text: type_text.to_string(), comment: None }
}

fn events() -> HiveTable {
    HiveTable {
        database: "Logs".to_string(),
        table: "Events".to_string(),
        columns: vec![column("ts", "timestamp"), column("Who", "struct<Name:string, age:bigint>")],
        partition_keys: vec![column("dt", "string"), column("hr", "string")],
        format: HiveFormat::Parquet,
        location: "s3a://lake/events".to_string(),
        parameters: BTreeMap::from([("owned.by".to_string(), "us".to_string())]),
    }
}

fn hour() -> [(String, String); 2] {
    [("dt", "2026-11-29"), ("hr", "03")].map(|(name, value)| (name.to_string(), value.to_string()))
}

fn complete<'a>(values: &'a [(String, String)], revision: u32) -> HivePartition<'a> {
    HivePartition {
        values,
        location: "s3a://lake/events/dt=2026-11-29/hr=03",
        rows: Some(7),
        bytes: 700,
        objects: 2,
        revision,
    }
}

fn reply(sequence: i32, kind: TMessageType, body: &Fields) -> Vec<u8> {
    message(&TMessageIdentifier::new("m", kind, sequence), body).expect("bytes")
}

fn one_of_each() -> Fields {
    fields([
        (0, Value::Bool(true)),
        (1, Value::I8(-1)),
        (2, Value::I16(-2)),
        (3, Value::I32(3)),
        (4, Value::I64(i64::MIN)),
        (5, Value::Double(0.5)),
        (6, text("käse")),
        (7, Value::Uuid([7; 16])),
        (8, Value::Struct(fields([(1, text("inside"))]))),
        (9, structs([fields([]), fields([(1, Value::Bool(false))])])),
        (10, Value::Set(TType::I32, vec![Value::I32(1)])),
        (11, Value::Map(TType::String, TType::I64, vec![(text("a"), Value::I64(1))])),
        (12, text_map(&BTreeMap::new())),
        (300, Value::List(TType::Bool, Vec::new())),
    ])
}

/// Goal: an answer is read whole or not at all, wherever the connection cuts it, and nothing in it is lost (H-3).
#[test]
fn every_value_survives_and_every_beginning_is_incomplete() {
    let body = one_of_each();
    let bytes = reply(5, TMessageType::Reply, &body);
    assert_eq!(answer(&bytes, 5), Ok(Answer::Reply(body)));
    for cut in 0..bytes.len() {
        assert_eq!(answer(&bytes[..cut], 5), Err(Unread::Incomplete), "{cut} of {} bytes", bytes.len());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(answer(&longer, 5), Err(Unread::Wrong(_))));
    assert!(matches!(answer(&bytes, 6), Err(Unread::Wrong(_))), "an answer to another call");
}

#[test]
fn what_is_no_answer_is_told_as_such() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0x15, 3, 3, 0, 2, 2, 40], b"\0\0\0\x20\x80\x01\0\x02"] {
        assert!(matches!(answer(bytes, 1), Err(Unread::Wrong(_))), "{bytes:?}");
    }
    let mut deep = Value::Bool(true);
    for _ in 0..50 {
        deep = Value::List(TType::List, vec![deep]);
    }
    let bytes = reply(1, TMessageType::Reply, &fields([(0, deep)]));
    assert!(matches!(answer(&bytes, 1), Err(Unread::Wrong(_))));
}

proptest! {
    /// Goal: whatever answers, nothing panics and no memory is taken that did not come.
    #[test]
    fn any_bytes_are_read_without_harm(head in 0..2, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut all = if head == 0 { Vec::new() } else { vec![0x80, 1, 0, 2, 0, 0, 0, 1, b'm', 0, 0, 0, 1] };
        all.extend(bytes);
        drop(answer(&all, 1));
    }
}

fn found() -> Fields {
    new_table(&events())
}

#[test]
fn a_table_of_ours_fits_and_keeps_its_files() {
    assert_eq!(missing_columns(&events(), &found()), Ok(Vec::new()));
    let found = table::found_table(&found());
    assert_eq!(found.kind, "EXTERNAL_TABLE");
    let expected = [("EXTERNAL", "TRUE"), ("external.table.purge", "false"), ("owned.by", "us")];
    assert_eq!(found.parameters, expected.map(|(name, value)| (name.to_string(), value.to_string())).into());
    assert_eq!(found.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["ts", "who"]);
}

/// Names of columns and of their fields are small in some metastores, and blanks in types come and go.
#[test]
fn what_differs_is_named_with_what_is_wanted() {
    let mut other = events();
    other.columns =
        vec![column("TS", "TIMESTAMP"), column("who", "struct<name:string,age:bigint>"), column("extra", "int")];
    assert_eq!(missing_columns(&events(), &new_table(&other)), Ok(Vec::new()), "more columns do no harm");

    other.columns = vec![column("ts", "string")];
    let error = missing_columns(&events(), &new_table(&other)).expect_err("another type");
    assert_eq!(
        error.to_string(),
        "the Hive table logs.events has not the output's columns: ts is timestamp in the output and string in the table; who struct<Name:string, age:bigint> is not among (ts string). Types are not changed here: change the table's column (ALTER TABLE … CHANGE COLUMN), or name another table"
    );
    assert_eq!(error.verdict(), Verdict::Refused);

    let mut other = events();
    other.partition_keys.pop();
    let error = missing_columns(&events(), &new_table(&other)).expect_err("other keys").to_string();
    assert!(
        error.contains("partitioned by (dt string), but the layout's folders by (dt string, hr string)"),
        "{error}"
    );

    let mut other = events();
    other.format = HiveFormat::Json;
    let error = missing_columns(&events(), &new_table(&other)).expect_err("another format").to_string();
    assert!(error.contains("JsonSerDe") && error.contains("ParquetHiveSerDe (parquet)"), "{error}");

    let mut managed = found();
    managed.insert(12, text("MANAGED_TABLE"));
    let values = hour();
    let errors = [
        missing_columns(&events(), &managed).expect_err("managed"),
        takes(&managed, &events().name(), &complete(&values, 1)).expect_err("managed"),
    ];
    for error in errors {
        assert!(matches!(error, HiveError::NotExternal { .. }), "{error}");
    }
}

/// H-3.
#[test]
fn added_columns_leave_everything_else_as_it_is() {
    let mut there = found();
    there.insert(18, Value::I32(2)); // The type of the owner, since Hive 3.
    let mut wanted = events();
    wanted.columns.push(column("New", "double"));
    let missing = missing_columns(&wanted, &there).expect("fits");
    assert_eq!(missing, [column("New", "double")]);
    let changed = with_columns(&wanted, there.clone(), &missing);
    assert_eq!(missing_columns(&wanted, &changed), Ok(Vec::new()));
    assert_eq!(changed.get(&18), Some(&Value::I32(2)));
    let names: Vec<String> = table::found_table(&changed).columns.into_iter().map(|column| column.name).collect();
    assert_eq!(names, ["ts", "who", "new"]);
    for (id, value) in &there {
        assert!(*id == 7 || changed.get(id) == Some(value), "field {id}");
    }
}

#[test]
fn a_partition_is_only_one_of_the_tables_keys() {
    let values = hour();
    assert_eq!(takes(&found(), &events().name(), &complete(&values, 1)), Ok(()));
    let error = takes(&found(), &events().name(), &complete(&values[..1], 1)).expect_err("a key less");
    assert_eq!(error.verdict(), Verdict::Stop);
    let swapped = [values[1].clone(), values[0].clone()];
    assert!(takes(&found(), &events().name(), &complete(&swapped, 1)).is_err());
}

/// H-1, H-3, H-4.
#[test]
fn a_partition_is_written_only_where_it_differs_and_never_back() {
    let values = hour();
    let (table, name) = (found(), events().name());
    let mut there = partition(&table, &name, &complete(&values, 3));
    there.insert(10, Value::I64(-1));
    assert_eq!(step(&table, there.clone(), &complete(&values, 3), false), Step::Done);
    assert_eq!(step(&table, there.clone(), &complete(&values, 2), false), Step::Newer(3));

    let late = HivePartition { rows: Some(8), bytes: 800, ..complete(&values, 4) };
    let Step::Write(changed) = step(&table, there.clone(), &late, false) else { panic!("nothing to write") };
    assert_eq!(changed.get(&10), Some(&Value::I64(-1)));
    let state = table::found_partition(&changed);
    assert_eq!(state.revision, Some(4));
    assert_eq!(state.parameters.get("numRows").map(String::as_str), Some("8"));
    assert_eq!(step(&table, changed, &late, true), Step::Done);

    let moved = HivePartition { location: "s3a://other/place", ..complete(&values, 3) };
    assert!(matches!(step(&table, there.clone(), &moved, false), Step::Write(_)));
    assert_eq!(step(&table, there.clone(), &moved, true), Step::Done, "the metastore's words for a place are its own");
    // What was written a moment ago is of an older revision: somebody who looked before has written since.
    let newer = complete(&values, 4);
    assert!(matches!(step(&table, there, &newer, true), Step::Write(_)));
}

/// What MSCK or an engine has added has no revision, and statistics that were right once.
#[test]
fn a_partition_of_somebody_else_gets_our_statistics() {
    let values = hour();
    let (table, name) = (found(), events().name());
    let mut there = partition(&table, &name, &complete(&values, 1));
    let theirs =
        [("numRows", "1"), ("COLUMN_STATS_ACCURATE", "{}"), ("theirs", "kept"), ("transient_lastDdlTime", "5")];
    let theirs = theirs.map(|(name, value)| (name.to_string(), value.to_string()));
    there.insert(7, text_map(&theirs.into()));
    let uncounted = HivePartition { rows: None, ..complete(&values, 1) };
    let Step::Write(changed) = step(&table, there, &uncounted, false) else { panic!("nothing to write") };
    let parameters = table::found_partition(&changed).parameters;
    let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    let expected = [
        "STATS_GENERATED_VIA_STATS_TASK",
        "numFiles",
        "numFilesErasureCoded",
        "siltstone.revision",
        "theirs",
        "totalSize",
    ];
    assert_eq!(names, expected);
}

#[test]
fn places_are_the_same_in_the_metastores_words() {
    let values = hour();
    let (table, name) = (found(), events().name());
    let cases = [
        ("file:///data/t/dt=1", "file:/data/t/dt=1", true),
        ("s3a://b/t/", "s3a://b/t", true),
        ("hdfs:///t", "hdfs://name:8020/t", true),
        ("hdfs://name:8020/t", "hdfs://other:8020/t", false),
        ("s3a://b/t", "s3://b/t", false),
        ("s3a://b/t", "s3a://b/t2", false),
    ];
    for (wanted, there, same) in cases {
        let found = partition(&table, &name, &HivePartition { location: there, ..complete(&values, 1) });
        let step = step(&table, found, &HivePartition { location: wanted, ..complete(&values, 1) }, false);
        assert_eq!(step == Step::Done, same, "{wanted} and {there}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let with = |uri: &str| HiveSettings { uris: vec![uri.to_string()], ..HiveSettings::default() };
    for uri in
        ["", "metastore:9083", "http://m:9083", "thrift://", "thrift://m:9083/db", "thrift://u@m", "thrift://m:99999"]
    {
        let error = Metastore::new(&with(uri)).expect_err(uri);
        assert!(error.to_string().contains("thrift://metastore:9083"), "{error}");
        assert_eq!(error.verdict(), Verdict::Refused);
    }
    assert!(Metastore::new(&HiveSettings::default()).is_err());
    for uri in ["thrift://m", "thrift://[::1]:9083", "thrift://10.0.0.1:9083/"] {
        Metastore::new(&with(uri)).expect(uri);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, "no certificate").expect("written");
    for path in [file, folder.path().join("absent")] {
        let tls = Some(HiveTls { ca_file: Some(path) });
        let error = Metastore::new(&HiveSettings { tls, ..with("thrift://m") }).expect_err("no certificates");
        assert!(error.to_string().contains("ca_file"), "{error}");
    }
}

/// Answers every connection with `answers`, or says nothing and keeps it open where there are none.
async fn server(answers: Option<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let uri = format!("thrift://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1000];
            drop(stream.read(&mut buffer).await);
            match &answers {
                Some(answers) => drop(stream.write_all(answers).await),
                None => kept.push(stream),
            }
        }
    });
    uri
}

fn metastore(uris: &[&str]) -> Metastore {
    let uris = uris.iter().map(ToString::to_string).collect();
    Metastore::new(&HiveSettings { uris, ..HiveSettings::default() }).expect("settings")
}

#[tokio::test]
async fn what_answers_in_another_way_is_no_metastore() {
    let failure = reply(1, TMessageType::Exception, &fields([(1, text("Invalid method name: 'get_database'"))]));
    let declared =
        reply(1, TMessageType::Reply, &fields([(2, Value::Struct(fields([(1, text("db is down\n\tat java"))])))]));
    let no_library = "Got exception: UnsupportedFileSystemException No FileSystem for scheme \"s3a\"";
    let no_library = reply(1, TMessageType::Reply, &fields([(2, Value::Struct(fields([(1, text(no_library))])))]));
    let absent = reply(1, TMessageType::Reply, &fields([(1, Value::Struct(fields([(1, text("x"))])))]));
    let cases = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Verdict::Refused, "something else than unframed thrift"),
        (vec![0x15, 3, 3, 0, 2, 2, 40], Verdict::Refused, "check the port and tls"),
        (Vec::new(), Verdict::Retry, "closed without an answer"),
        (failure.clone()[..20].to_vec(), Verdict::Retry, "closed after 20 bytes of the answer"),
        (failure, Verdict::Refused, "Invalid method name: 'get_database': a metastore from 2.3 to 4.0 is needed"),
        (declared, Verdict::Retry, "answers get_database with MetaException: db is down: the metastore's own log"),
        (no_library, Verdict::Refused, "hadoop-aws for s3a"),
        (absent, Verdict::Refused, "has no database logs: create it there"),
    ];
    for (answer, verdict, told) in cases {
        let uri = server(Some(answer)).await;
        let error = metastore(&[&uri]).reach("Logs").await.expect_err(told);
        assert!(error.to_string().contains(told), "{error} does not tell: {told}");
        assert_eq!(error.verdict(), verdict, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_left_after_half_a_minute_and_tried_last() {
    let silent = server(None).await;
    let fine = server(Some(reply(1, TMessageType::Reply, &fields([(0, Value::Struct(fields([])))])))).await;
    let metastore = metastore(&[&silent, &fine]);
    let error = metastore.reach("logs").await.expect_err("silence");
    assert!(error.to_string().contains("no answer within 30 s"), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
    metastore.reach("logs").await.expect("the other one");
}

#[tokio::test]
async fn the_next_takes_the_connection_where_one_does_not() {
    let fine = server(Some(reply(1, TMessageType::Reply, &fields([(0, Value::Struct(fields([])))])))).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone = format!("thrift://{}", closed.local_addr().expect("an address"));
    drop(closed);
    metastore(&[&gone, &fine]).reach("logs").await.expect("the other one");
    let error = metastore(&[&gone]).reach("logs").await.expect_err("nobody");
    assert!(matches!(error, HiveError::Unreachable { .. }) && error.to_string().contains(&gone), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
}
