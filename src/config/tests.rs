//! Goal: every mistake is reported in the words that stand here, all at once, and no secret ever shows.

use super::{Config, effective_toml, parse};
use crate::layout::{
    Column, ColumnKind, Compression, Decode, Keep, KeptColumn, Newlines, OutputFormat, Pages, SchemaSource, TimeFormat,
    TimeUnit, TimestampSource, UnknownFields,
};
use proptest::prelude::*;
use std::path::Path;

const GOLDEN: &str = include_str!("golden.txt");

fn env(name: &str) -> Option<String> {
    match name {
        "HOSTNAME" | "POD_NAME" => Some("pod-7".to_string()),
        "RECORDS" => Some("1_000".to_string()),
        "TRUE" => Some("true".to_string()),
        "BAD" => Some("s3cr3t".to_string()),
        _ => None,
    }
}

fn errors(text: &str) -> String {
    match parse(text, Path::new("/etc/siltstone"), &env) {
        Ok(_) => "no problem".to_string(),
        Err(errors) => errors.to_string(),
    }
}

fn good(text: &str) -> Config {
    match parse(text, Path::new("/etc/siltstone"), &env) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// A whole configuration whose archive goes on with `archive`.
fn with(archive: &str) -> String {
    format!("kafka.brokers='k'\ndestinations.main.url='s3://b'\n[[archive]]\ntopics=['t']\n{archive}")
}

/// Goal: error texts are as in `golden.txt`. Method: there, a `=== ` line starts a case, a `--- ` line its errors; cases
/// named `…+` are put behind a configuration of four lines. `BLESS=1` rewrites the file; read the difference.
#[test]
fn errors_read_as_written_down() {
    let mut now = String::new();
    for case in GOLDEN.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (text, _) = rest.split_once("---\n").expect("a --- line");
        let whole = if title.ends_with('+') { with(text) } else { text.to_string() };
        now.push_str(&format!("=== {title}\n{text}---\n{}\n", errors(&whole)));
    }
    if std::env::var_os("BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/golden.txt");
        std::fs::write(path, now).expect("the project can be written");
        return;
    }
    for (now, before) in now.split("=== ").zip(GOLDEN.split("=== ")) {
        assert_eq!(now, before);
    }
}

#[test]
fn short_and_long_forms_mean_the_same() {
    for (short, long) in [
        ("decode='raw'", "decode={type='raw'}"),
        ("decode='json'", "decode={type='json',validate=true}"),
        ("", "[[archive.output]]\nformat='json'"),
        ("decode='raw'", "decode='raw'\n[[archive.output]]\nformat={type='raw',compression='gzip',newlines='refuse'}"),
        (
            "[[archive.output]]\nformat='parquet'",
            "[[archive.output]]\nformat={type='parquet',compression='zstd',level=3,schema='infer',unknown='rest'}",
        ),
        (
            "[[archive.output]]\nkeep=['key','offset']",
            "[[archive.output]]\nkeep={columns=['key','offset'],prefix='_kafka_'}",
        ),
        ("timestamp={field='a.b'}", "timestamp={field=['a','b'],format='auto',zone='UTC',fallback='kafka'}"),
        ("[[archive.output]]\ndestination='main'", "[[archive.output]]\ndestination=['main']"),
        ("", "[[archive.output]]\nlayout={preset='hive'}"),
        ("", "[[archive.output]]\nlayout={path='{topic}/dt=%Y-%m-%d/hr=%H'}"),
    ] {
        assert_eq!(effective_toml(&good(&with(short))), effective_toml(&good(&with(long))), "{long}");
    }
}

#[test]
fn values_are_resolved() {
    let config = good(
        r#"
        destinations = { main = { url = "s3://b/p//", endpoint = "http://h:1/" }, gs = { url = "gs://c", service_account_file = "key.json" } }
        rotate = { size = "1MiB", grace = "off", bytes = "1GiB", records = "${RECORDS}" }
        spool = { dir = "spool" }
        http.listen = "[::1]:80"
        [kafka]
        brokers = "a:1, b, [::1]:9092, ssl://c:3"
        start = 2025-11-21T00:00:00Z
        instance_id = "${HOSTNAME}"
        client = { "fetch.min.bytes" = 1, check.crcs = true, client.rack = "s" }
        [[archive]]
        topics = ["^a|bc", "x"]
        exclude = ["^ab"]
        decode = { validate = "${TRUE}" }
        timestamp = { header = "h", unit = "us", fallback = "dead_letter" }
        on_gap = "halt"
        rotate = { bytes = "off", grace = "5s", age = "1h" }
        dead_letters.destination = "gs"
        [[archive.output]]
        format = { type = "parquet", level = 5, unknown = "drop", schema = [{ name = "a.b", type = "integer", mode = "repeated" }] }
        keep = ["offset", "key"]
        layout = { preset = "secor", zone = "Asia/Tokyo" }
        destination = ["gs", "main"]
        [[archive.output]]
        name = "other"
        format = { type = "json", compression = "none" }
        destination = "main"
        "#,
    );
    assert_eq!(config.kafka.brokers, "a:1,b,[::1]:9092,ssl://c:3");
    assert_eq!(config.kafka.start, super::Start::Time(1_763_683_200_000));
    assert_eq!(config.kafka.instance_id.as_deref(), Some("pod-7"));
    let client: Vec<_> = config.kafka.client.iter().map(|(key, value)| (key.as_str(), value.reveal())).collect();
    assert_eq!(client, [("check.crcs", "true"), ("client.rack", "s"), ("fetch.min.bytes", "1")]);
    assert_eq!(config.spool.dir, Path::new("/etc/siltstone/spool"));
    assert_eq!(config.http.map(|address| address.port()), Some(80));
    let main = &config.destinations["main"];
    assert_eq!(main.url, "s3://b/p");
    let options: Vec<_> = main.options.iter().map(|(key, value)| (key.as_str(), value.reveal())).collect();
    let expected = [
        ("allow_http", "true"),
        ("checksum", "sha256"),
        ("conditional_put", "true"),
        ("endpoint", "http://h:1"),
        ("path_style", "true"),
    ];
    assert_eq!(options, expected);
    assert_eq!(config.destinations["gs"].options["service_account_file"].reveal(), "/etc/siltstone/key.json");

    let archive = &config.archives[0];
    for (topic, expected) in [("a", true), ("bc", true), ("x", true), ("ab", false), ("abc", false), ("c", false)] {
        assert_eq!(archive.topics.matches(topic), expected, "{topic}");
    }
    let rotate = archive.rotate;
    assert_eq!((rotate.size, rotate.records, rotate.bytes), (1 << 20, 1000, None));
    assert_eq!((rotate.age.as_secs(), rotate.grace.map(|grace| grace.as_secs())), (3600, Some(5)));
    assert!(archive.halt_on_gap);
    assert_eq!(archive.destination_names, [vec!["gs", "main"], vec!["main"], vec!["gs"]]);
    let layout = &archive.layout;
    assert_eq!(layout.decode, Decode::Json { validate: true, unfold: false, names: Vec::new() });
    assert_eq!(layout.timestamp.source, TimestampSource::Header("h".to_string()));
    assert_eq!(layout.timestamp.format, TimeFormat::Epoch(TimeUnit::Us));
    assert_eq!(layout.outputs[0].place.destinations, ["gs://c", "s3://b/p"]);
    assert_eq!(layout.outputs[0].place.zone, "Asia/Tokyo");
    assert_eq!(
        layout.outputs[0].keep,
        Some(Keep { columns: vec![KeptColumn::Offset, KeptColumn::Key], prefix: "_kafka_".to_string() })
    );
    let element = Column { name: "element".to_string(), kind: ColumnKind::Int64, nullable: true };
    let column = Column { name: "a.b".to_string(), kind: ColumnKind::List(Box::new(element)), nullable: true };
    assert_eq!(
        layout.outputs[0].format,
        OutputFormat::Parquet {
            compression: Compression::Zstd(5),
            schema: SchemaSource::Columns(vec![column]),
            unknown: UnknownFields::Drop,
            row_group_bytes: 8 << 20,
            row_group_rows: 1_000_000,
            pages: Pages::default(),
        }
    );
    assert_eq!(layout.outputs[1].format, OutputFormat::Json { compression: Compression::None });
    let raw = good(&with("decode='raw'")).archives.remove(0).layout.outputs.remove(0);
    assert_eq!(raw.format, OutputFormat::Raw { compression: Compression::Gzip(6), newlines: Newlines::Refuse });
    assert_eq!(raw.name, "raw");
}

/// Goal: what a layout refers to is the destination that is opened, however its URL was spelt.
#[test]
fn layouts_refer_to_destinations_by_their_ids() {
    let mut fingerprints = Vec::new();
    for url in ["file:///tmp/Übung a", "file:///tmp/%C3%9Cbung%20a/", "FILE:///tmp/%c3%9cbung a//"] {
        let config = good(&format!("kafka.brokers='k'\ndestinations.main.url='{url}'\narchive=[{{topics=['t']}}]"));
        let opened = crate::destination::Destination::open("main", &config.destinations["main"]).expect(url);
        let layout = &config.archives[0].layout;
        assert_eq!(layout.outputs[0].place.destinations, [opened.id()]);
        assert_eq!(layout.dead_letters.place.destinations, [opened.id()]);
        fingerprints.push(layout.fingerprint());
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1, "one place, one layout");
}

#[test]
fn schema_files_are_read_in_both_forms() {
    let folder = tempfile::tempdir().expect("a folder");
    let fields = r#"[{"name":"id","type":"INTEGER","mode":"REQUIRED","description":"x"},
        {"name":"n","type":"NUMERIC"},{"name":"m","type":"BIGNUMERIC","precision":"20","scale":"4"},
        {"name":"r","type":"STRUCT","mode":"REPEATED","fields":[{"name":"t","type":"TIMESTAMP","unit":"ms"}]}]"#;
    std::fs::write(folder.path().join("bare.json"), fields).expect("written");
    std::fs::write(folder.path().join("wrapped.json"), format!("{{\"fields\":{fields}}}")).expect("written");
    let read = |file: &str| {
        let text = with(&format!("[[archive.output]]\nformat={{type='parquet',schema='{file}'}}"));
        match parse(&text, folder.path(), &env) {
            Ok(mut config) => config.archives.remove(0).layout.outputs.remove(0).format,
            Err(errors) => panic!("{errors}"),
        }
    };
    assert_eq!(read("bare.json"), read("wrapped.json"));
    let OutputFormat::Parquet { schema: SchemaSource::Columns(columns), .. } = read("bare.json") else {
        panic!("a schema")
    };
    let kinds: Vec<_> = columns.iter().map(|column| (&column.kind, column.nullable)).collect();
    assert_eq!(kinds[0], (&ColumnKind::Int64, false));
    assert_eq!(kinds[1], (&ColumnKind::Decimal { precision: 38, scale: 9 }, true));
    assert_eq!(kinds[2], (&ColumnKind::Decimal { precision: 20, scale: 4 }, true));

    // A decimal without a scale, and a type in a type: the library alone refuses both.
    let avro = r#"{"type":"record","name":"R","fields":[{"name":"m","type":{"type":"map","values":{"type":"array","items":"int"}}},
        {"name":"d","type":{"type":{"type":"bytes","logicalType":"decimal","precision":4}}}]}"#;
    std::fs::write(folder.path().join("r.avsc"), avro).expect("written");
    let arrow = r#"{"fields":[{"name":"a","data_type":"Int8","nullable":false,"dict_id":0,"dict_is_ordered":false,"metadata":{}}],"metadata":{}}"#;
    std::fs::write(folder.path().join("r.arrow.json"), arrow).expect("written");
    let OutputFormat::Parquet { schema: SchemaSource::Columns(columns), .. } = read("r.avsc") else {
        panic!("a schema")
    };
    assert!(matches!(&columns[0].kind, ColumnKind::Map(value) if matches!(value.kind, ColumnKind::List(_))));
    assert_eq!(columns[1].kind, ColumnKind::Decimal { precision: 4, scale: 0 });
    let config = parse(&with("decode={type='avro',schema='r.avsc'}"), folder.path(), &env);
    let decode = config.unwrap_or_else(|errors| panic!("{errors}")).archives.remove(0).layout.decode;
    assert_eq!(decode, Decode::Avro { schema: avro.to_string() }, "the layout has the text as it was written");
    let OutputFormat::Parquet { schema: SchemaSource::Columns(columns), .. } = read("r.arrow.json") else {
        panic!("a schema")
    };
    assert_eq!((&columns[0].kind, columns[0].nullable), (&ColumnKind::Int64, false));
    std::fs::write(folder.path().join("bad.avsc"), "\"int\"").expect("written");
    let text = with("[[archive.output]]\nformat={type='parquet',schema='bad.avsc'}");
    let errors = parse(&text, folder.path(), &env).expect_err("no record").to_string();
    assert!(errors.contains("in the file, the Avro schema is no record"), "{errors}");

    std::fs::write(
        folder.path().join("bad.json"),
        r#"[{"name":"a","type":"RECORD","fields":[{"name":"b","type":"STRNG"}]}]"#,
    )
    .expect("written");
    let text = with("[[archive.output]]\nformat={type='parquet',schema='bad.json'}");
    let errors = parse(&text, folder.path(), &env).expect_err("an unknown type").to_string();
    assert!(errors.contains("line 6: archive[0].output[0].format.schema = \"bad.json\"\n"), "{errors}");
    assert!(
        errors.contains("in the file, field a.b: type \"STRNG\" is not known; did you mean `STRING`\n"),
        "{errors}"
    );
}

/// Goal: what `check -v` prints is a configuration that means the same.
#[test]
fn the_effective_configuration_means_the_same() {
    for archive in [
        "",
        "decode='raw'\n[[archive.output]]\nformat={type='raw',newlines='length',compression='zstd'}",
        "timestamp={field=['a.b','c'],format='%d/%b/%Y:%H:%M:%S %z'}\ntombstones='drop'\ngeneration=3",
        "[[archive.output]]\nkeep=['key']\nformat={type='parquet',schema=[{name='a',type='TIMESTAMP',unit='ns'},\
         {name='b',type='RECORD',mode='REPEATED',fields=[{name='c',type='NUMERIC',precision=5}]}]}",
        "[[archive.output]]\nformat={type='parquet',schema=[{name='a',type='MAP',value={type='ARRAY',mode='REQUIRED',\
         element={type='RECORD',mode='REQUIRED',fields=[{name='b',type='MAP',value={type='TIMESTAMP',unit='ms'}}]}}},\
         {name='c',type='ARRAY',element={type='STRING',mode='REPEATED'}},{name='d',type='array',mode='required',element={type='int64'}}]}",
        "[[archive.output]]\nkeep=['offset']\nformat={type='avro',compression='snappy',unknown='drop',block_bytes='64KiB'}\n\
         [[archive.output]]\nformat='envelope'\nlayout.path='e/{topic}'\n[archive.dead_letters]\nformat='parquet'",
        "[[archive.output]]\nformat={type='parquet',compression='lz4',bloom_filters=['a','r.b'],dictionary=['a'],page_bytes='64KiB',\
         schema=[{name='a',type='STRING'},{name='r',type='RECORD',fields=[{name='b',type='INT64'}]}]}\n\
         [[archive.output]]\nname='p'\nlayout.path='p'\nformat={type='parquet',dictionary=false,page_bytes='1MiB'}",
        "decode={type='avro',registry=true}\n[registry]\nurl='http://r:1'\nunknown_ids=[12,7]",
        "exclude=['^x\\d+\"']\ntimestamp={header='$${A}\"'}\nmax_future='2h'\ncontent_encoding=true\n[archive.rotate]\ngrace='off'",
        "[archive.complete]",
        "[archive.complete]\nallowed_lateness='0s'\nidle_grace='90s'\nrevise_after='0s'\nmarker='_DONE.json'",
        "[archive.complete]\n[[archive.load]]\ntype='hive'\nuri=['thrift://a','thrift://b:9']\ntls=true\nca_file='/ca.pem'\nuser='u'\ndatabase='d'\n\
         table='x_{topic}'\ncreate=true\nadd_columns=true\nlocation='s3a://b/p/'\nparameters={k='v'}",
        "[archive.complete]\n[[archive.load]]\nname='h'\ntype='hive'\nsince='2026-11-01'\nuri='thrift://a'",
        "[archive.complete]\n[[archive.hook]]\ntype='command'\ncommand=['bin/tell','a','']\n[[archive.hook]]\ntype='http'\nurl='https://h:8/p?q=1'\n\
         token='t'\non='folder'\n[[archive.hook]]\ntype='kafka'\ntopic='receipts'\non=['batch']\ntimeout='5s'",
        "[[archive.hook]]\nname='n'\ntype='command'\ncommand='tell'",
    ] {
        let config = good(&with(archive));
        let text = effective_toml(&config);
        let again = good(&text);
        assert_eq!(format!("{config:?}"), format!("{again:?}"), "{text}");
        assert_eq!(config.archives[0].layout.fingerprint(), again.archives[0].layout.fingerprint());
    }
}

const SECRET: &str = "hunter2-tr0ub4dor";

/// Every place where a secret may stand, in a file that is right but for what `broken` adds.
fn with_secrets(value: &str, broken: &str) -> String {
    let key = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        r#"
        kafka.brokers = "k"
        kafka.client = {{ "sasl.password" = "{key}", "ssl.key.password" = "{key}" }}
        [destinations.s3]
        url = "s3://b"
        access_key_id = "{key}"
        secret_access_key = "{key}"
        session_token = "{key}"
        [destinations.gs]
        url = "gs://b"
        service_account_key = "{key}"
        [destinations.az]
        url = "az://b"
        access_key = "{key}"
        [destinations.az2]
        url = "az://c"
        sas_token = "{key}"
        [[archive]]
        topics = ["t"]
        [[archive.output]]
        destination = "s3"
        [[archive.hook]]
        type = "http"
        url = "https://h/{key}?{key}"
        token = "{key}"
        [[archive.hook]]
        type = "command"
        command = ["tell", "{key}"]
        {broken}
        "#
    )
}

#[test]
fn secrets_show_nowhere() {
    let env = |name: &str| (name == "S").then(|| SECRET.to_string());
    for value in [SECRET, "${S}", "x${S}y", "${NONE:-hunter2-tr0ub4dor}"] {
        let good = with_secrets(value, "");
        let config = parse(&good, Path::new(""), &env).expect("right");
        assert!(config.kafka.client["sasl.password"].reveal().contains(SECRET));
        for shown in [effective_toml(&config), format!("{config:?}")] {
            assert!(!shown.contains(SECRET), "{shown}");
        }
        for broken in [
            "unknown = 1".to_string(),
            "[destinations.s3.url]".to_string(),
            format!("[destinations.x]\nurl = \"s3://u:{value}@b\""),
            format!("[destinations.x]\nurl = \"s3://b?{value}\""),
            format!("[destinations.x]\nurl = \"s3://b\"\nendpoint = \"https://u:{value}@h\""),
            format!("[destinations.x]\nurl = \"s3://b\"\nsecret_acess_key = \"{value}\"\npath_style = \"{value}\""),
            format!("[destinations]\nx = \"{value}\""),
            format!("[kafka.client.x]\ny = [\"{value}\"]"),
            format!(
                "[[archive.hook]]\ntype = \"http\"\nname = \"x\"\nurl = \"https://u:{value}@h\"\ntoken = \"a {value}\""
            ),
            format!("[[archive.hook]]\ntype = \"http\"\nname = \"x\"\nurl = [\"{value}\"]\ncommand = \"{value}\""),
            format!("[[archive.hook]]\ntype = \"command\"\nname = \"x\"\ncommand = [\"\", \"{value}\"]"),
            format!("[[archive]]\ntopics = [\"u\"]\nname = \"x\"\nhook = \"{value}\""),
            format!("[kafka.client]\n\"group.id\" = \"{value}\""),
            format!("[rotate]\nsize = \"{value}\""),
            format!("[rotate]\nsize = {value}"),
            format!("x = \"{value}"),
        ] {
            let text = with_secrets(value, &broken);
            let errors = parse(&text, Path::new(""), &env).expect_err("broken").to_string();
            let sized = broken.starts_with("[rotate]") && value != "${S}" && value != "x${S}y";
            assert!(sized || !errors.contains(SECRET), "{errors}");
        }
    }
}

/// Makes lines of a configuration: known keys and sections, right and wrong values, in any order.
fn lines() -> impl Strategy<Value = String> {
    let sections: Vec<String> = super::SHAPES
        .iter()
        .flat_map(|shape| {
            let at = shape.at.replace('*', "main");
            [format!("[{at}]"), format!("[[{at}]]")]
        })
        .collect();
    let keys: Vec<&str> = super::SHAPES.iter().flat_map(|shape| shape.keys.iter().copied()).collect();
    let values = prop::sample::select(vec![
        "1",
        "-1",
        "9223372036854775807",
        "99999999999999999999",
        "1.5",
        "true",
        "\"\"",
        "\"x\"",
        "\"1MiB\"",
        "\"10m\"",
        "[]",
        "{}",
        "[[]]",
        "[\"t\"]",
        "[\"^(\"]",
        "\"${A}\"",
        "\"${A:-1}\"",
        "\"${\"",
        "\"parquet\"",
        "\"raw\"",
        "\"s3://b\"",
        "\"file:///x\"",
        "\"%Q\"",
        "\"%Y{topic}\"",
        "\"{\"",
        "2025-01-01",
        "{ type = \"parquet\", schema = [{}] }",
        "{ type = \"parquet\", schema = [{ name = \"m\", type = \"MAP\" }] }",
        "{ type = \"parquet\", schema = [{ name = \"m\", type = \"MAP\", value = { name = \"v\", type = \"STRING\" } }] }",
        "{ type = \"parquet\", schema = [{ name = \"m\", type = \"ARRAY\", value = { type = \"STRING\" } }] }",
        "{ type = \"parquet\", schema = [{ name = \"m\", type = \"ARRAY\", element = { type = \"STRNG\" } }] }",
        "{ type = \"parquet\", schema = \"none.avsc\" }",
        "{ type = \"parquet\", schema = { message = \"web.Hit\" } }",
        "{ type = \"parquet\", schema = { descriptors = \"AAAA\", message = \"web.Hit\" } }",
        "{ type = \"parquet\", schema = { descriptors = \"CjkKCWhpdC5wcm90bxIDd2ViIh8KA0hpdBIKCgJpZBgBIAEoAxIMCgR0YWdzGAIgAygJYgZwcm90bzM=\", message = \"web.Miss\" } }",
        "[{ name = \"a\", type = \"RECORD\", fields = [] }]",
        "{ columns = [\"key\", \"key\"], prefix = \"\" }",
        "\"\\u0000\"",
        "\"ä€\"",
        "nan",
    ]);
    prop_oneof![
        1 => prop::sample::select(sections),
        4 => (prop::sample::select(keys), values).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _either = parse(&text, Path::new(""), &env).is_ok();
    }

    #[test]
    fn any_bytes_of_toml_are_read_or_refused(text in "[\\[\\]{}=.,\"'a-c\n#\\\\$1 ]*") {
        let _either = parse(&text, Path::new(""), &env).is_ok();
    }

    #[test]
    fn any_configuration_is_read_or_refused_with_reasons(lines in prop::collection::vec(lines(), 0..12)) {
        if let Err(errors) = parse(&lines.join("\n"), Path::new("/nowhere"), &env) {
            prop_assert!(!errors.0.is_empty());
            for error in &errors.0 {
                prop_assert!(!error.problem.is_empty());
                prop_assert!(error.line.is_none_or(|line| line <= lines.len().max(1) + 1));
            }
        }
    }

    #[test]
    fn no_variable_shows(secret in "[a-zA-Z0-9!%&/()=?+*#@:.,;-]{8,20}", lines in prop::collection::vec(lines(), 0..6)) {
        let env = |name: &str| Some(if name == "S" { format!("<{secret}>") } else { "1".to_string() });
        let text = with_secrets("${S}", &lines.join("\n"));
        let shown = match parse(&text, Path::new("/nowhere"), &env) {
            Ok(config) => effective_toml(&config),
            Err(errors) => errors.to_string(),
        };
        prop_assert!(!shown.contains(&secret), "{}", shown);
    }
}

#[test]
fn destinations_in_hdfs_are_read_and_checked() {
    let with = |section: &str, output: &str| {
        format!("kafka.brokers='k'\n[destinations.main]\n{section}\n[[archive]]\ntopics=['t']\n{output}")
    };
    let section =
        "url='HDFS://NN:08020/data'\nuser='u'\nhadoop_conf='conf'\nhadoop={dfs.ha.namenodes.prod='a,b','x.y'=1}";
    let config = good(&with(section, ""));
    let main = &config.destinations["main"];
    assert_eq!(main.url, "hdfs://nn:8020/data");
    assert_eq!(main.options["hadoop_conf"].reveal(), "/etc/siltstone/conf");
    assert_eq!(main.options["hadoop"].reveal(), r#"{"dfs.ha.namenodes.prod":"a,b","x.y":"1"}"#);
    let shown = effective_toml(&config);
    assert!(shown.contains(r#"hadoop = { "dfs.ha.namenodes.prod" = "a,b", "x.y" = "1" }"#), "{shown}");
    for (section, part) in [
        ("url='hdfs:///data'", "nameservice"),
        ("url='hdfs://nn:8020/'", "the root of the file system"),
        ("url='hdfs://nn:8020/a:b'", "no colon"),
        ("url='hdfs://nn:8020/a'\nkeytab='x'", "missing, but keytab is given"),
        ("url='hdfs://nn:8020/a'\nhadoop={a=['b']}", "a plain value"),
        ("url='hdfs://nn:8020/a'\nendpoint='http://x'", "not a key of hdfs://"),
    ] {
        let said = errors(&with(section, ""));
        assert!(said.contains(part), "{section}: {said}");
    }
    for path in ["{topic}/%H:%M", "{topic}/%T"] {
        let output = format!("[[archive.output]]\nlayout={{path='{path}'}}");
        let said = errors(&with("url='hdfs://nn:8020/a'", &output));
        assert!(said.contains("a colon in its path or name"), "{path}: {said}");
        assert_eq!(errors(&with("url='s3://b/a'", &output)), "no problem");
    }
}
