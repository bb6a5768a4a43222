//! Names made of what others chose: topics and values of fields. No record leaves its prefix.

use crate::support::archive::{Archive, counts, files_below};
use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic};
use crate::support::unique;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

#[test]
fn a_topic_name_of_249_characters_with_dots_is_archived_everywhere() {
    let start = unique("long");
    let name = format!("{start}{}", ".part".repeat(60)).chars().take(249).collect::<String>();
    let topic = Topic::named(&name, 2);
    topic.send_good(0, 100, 2);
    // Another that differs only where names are cut.
    let other_name = format!("{}X", &name[..248]);
    let other = Topic::named(&other_name, 1);
    other.send_good(1000, 10, 1);
    for mut trial in [Trial::on_disk(&topic), Trial::on_s3(&topic)] {
        trial.topics = format!("[\"{name}\", \"{other_name}\"]");
        trial.drain().expect(0);
        let archive = trial.archive();
        assert_eq!(archive.counts("json"), counts(110, 0, 0));
        let all: Vec<u64> = (0..100).chain(1000..1010).collect();
        assert_eq!(archive.ids("it-long"), all);
        assert!(archive.objects.keys().flat_map(|key| key.split('/')).all(|segment| segment.len() <= 255));
        let again = trial.drain().expect(0);
        assert!(!again.err.contains("batch sealed"), "{}", again.err);
        assert_eq!(trial.archive().objects, archive.objects);
    }
}

/// Secor's names to the letter, in a folder whose name is no ASCII; a second run under another spelling of it goes on there.
#[test]
fn secor_names_in_a_folder_of_any_name() {
    let topic = Topic::create(2);
    topic.send_good(0, 100, 2);
    let mut trial = Trial::on_disk(&topic).with(
        "timestamp = { field = \"time\" }\n[[archive.output]]\nlayout = { preset = \"secor\" }\n\
         [[archive.output]]\nformat = \"parquet\"\nlayout = { preset = \"secor\" }\n",
    );
    let folder = trial.dir().join("outside/Übung a");
    trial.destination = format!("url = \"file://{}/outside/Übung a\"", trial.dir().display());
    trial.drain().expect(0);
    let archive = Archive::on_disk(&folder);
    assert_eq!(archive.ids(&topic.name), (0..100).collect::<Vec<_>>());
    let mut endings = BTreeMap::new();
    for key in archive.data_keys() {
        let (path, name) = key.rsplit_once('/').expect("a folder");
        let (name, ending) = name.split_once('.').expect("an extension");
        assert!(path.starts_with(&format!("{}/dt=", topic.name)) && path.contains("/hr="), "{key}");
        let fields: Vec<&str> = name.split('_').collect();
        assert!(matches!(fields[..], ["1", "0" | "1", first] if first.len() == 20), "{key}");
        *endings.entry(ending).or_insert(0) += 1;
    }
    assert_eq!(endings.keys().copied().collect::<Vec<_>>(), ["gz", "parquet"]);
    topic.send_good(100, 20, 2);
    trial.destination = format!("url = \"file://{}/outside/%C3%9cbung%20a/\"", trial.dir().display());
    trial.drain().expect(0);
    let archive = Archive::on_disk(&folder);
    assert_eq!(archive.ids(&topic.name), (0..120).collect::<Vec<_>>());
    let layouts = archive.objects.keys().filter(|key| key.starts_with("_siltstone/layouts/")).count();
    assert_eq!(layouts, 1, "one place, one layout");
}

/// What `{field.tenant}` is made of, and what it must read back as; `None`: the null value.
fn tenants() -> Vec<(String, Option<String>)> {
    let mut tenants: Vec<(String, Option<String>)> = [
        "..",
        ".",
        "../../x",
        "../../../../../../../../tmp/x",
        "/etc/x",
        "a/b",
        "a//b/",
        "grüße 世界",
        "%2e%2e",
        "\\..\\x",
        "_hidden",
        ".hidden",
        "line\nbreak",
        "nul\0",
        "a=b",
        "*?[x]",
        "__HIVE_DEFAULT_PARTITION__",
        " ",
        "~",
    ]
    .iter()
    .map(|value| (serde_json::json!(value).to_string(), Some((*value).to_string())))
    .collect();
    tenants.push((serde_json::json!("v".repeat(2000)).to_string(), Some("v".repeat(2000))));
    tenants.push((serde_json::json!("v".repeat(1999) + "w").to_string(), Some("v".repeat(1999) + "w")));
    tenants.extend(["\"\"", "null"].map(|value| (value.to_string(), None)));
    tenants.extend([("17".to_string(), Some("17".to_string())), ("true".to_string(), Some("true".to_string()))]);
    tenants
}

fn check_tenants(archive: &Archive, topic: &Topic) {
    assert_eq!(archive.counts("json"), counts(topic.count(), 0, 0));
    let mut found: BTreeMap<u64, String> = BTreeMap::new();
    for key in archive.data_keys() {
        let segments: Vec<&str> = key.split('/').collect();
        assert_eq!(segments.len(), 4, "{key}");
        assert_eq!(segments[0], topic.name);
        assert!(segments.iter().all(|segment| segment.len() <= 255), "{key}");
        let tenant = segments[1].strip_prefix("tenant=").unwrap();
        assert!(tenant.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\*?[".contains(&byte)), "{key}");
        for id in archive.ids(key) {
            assert_eq!(found.insert(id, tenant.to_string()), None, "{id} is there twice");
        }
    }
    let mut by_name: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (id, (_, value)) in tenants().into_iter().enumerate() {
        let name = &found[&(id as u64)];
        match &value {
            None => assert_eq!(name, "__HIVE_DEFAULT_PARTITION__"),
            Some(value) if value.len() > 200 => assert!(name.contains('~') && name.len() <= 200, "{name}"),
            Some(value) => assert_eq!(&percent_decode_str(name).decode_utf8().unwrap(), value),
        }
        let before = by_name.insert(name.clone(), value.clone());
        assert!(before.is_none_or(|before| before == value), "{name} stands for two values");
    }
    let missing = tenants().len() as u64;
    assert_eq!(found[&missing], "__HIVE_DEFAULT_PARTITION__");
}

fn topic_of_tenants() -> Topic {
    let topic = Topic::create(1);
    let records = tenants().into_iter().enumerate();
    topic.send_all(records.map(|(id, (json, _))| Shape::of(format!(r#"{{"id":{id},"tenant":{json}}}"#))));
    topic.send_all([Shape::of(format!(r#"{{"id":{}}}"#, tenants().len()))]);
    topic
}

const BY_TENANT: &str =
    "[[archive.output]]\nformat = \"json\"\nlayout = { path = \"{topic}/tenant={field.tenant}/dt=%Y-%m-%d\" }";

#[test]
fn no_value_of_a_field_leaves_its_folder_on_disk() {
    let topic = topic_of_tenants();
    let trial = Trial::on_disk(&topic).with(BY_TENANT);
    check_tenants(&trial.drained(&topic), &topic);
    let allowed = [trial.root(), trial.spool.clone(), trial.dir().join("siltstone.toml")];
    for file in files_below(trial.dir()) {
        assert!(allowed.iter().any(|place| file.starts_with(place)), "{} was made", file.display());
    }
}

#[test]
fn no_value_of_a_field_leaves_its_prefix_on_s3() {
    let topic = topic_of_tenants();
    let trial = Trial::on_s3(&topic).with(BY_TENANT);
    check_tenants(&trial.drained(&topic), &topic);
    let beside = Archive::on_s3(trial.s3_parent());
    assert!(beside.objects.keys().all(|key| key.starts_with("archive/")), "{:?}", beside.objects.keys());
    let top = Archive::top_of_s3();
    for name in ["x", "tmp", "etc", "..", "."] {
        assert!(!top.iter().any(|found| found == name), "{top:?}");
    }
}

/// The same through a header and the key, in path and name.
#[test]
fn headers_and_keys_in_names_stay_inside() {
    let topic = Topic::create(1);
    topic.send_all([
        Shape::of(r#"{"id":0}"#).keyed(Some(b"../../k")).header("who", Some(b"../../h")),
        Shape::of(r#"{"id":1}"#).keyed(Some(b"\xff\xfe")).header("who", Some(b"\xff/..")),
        Shape::of(r#"{"id":2}"#).keyed(None).header("who", None),
        Shape::of(r#"{"id":3}"#).keyed(Some(b"")),
    ]);
    let output = "[[archive.output]]\nformat = \"json\"\n\
                  layout = { path = \"{topic}/who={header.who}\", name = \"{key}+{topic}+{partition:05}+{first:020}-{end:020}\" }";
    let trial = Trial::on_disk(&topic).with(output);
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), [0, 1, 2, 3]);
    let keys = archive.data_keys();
    assert!(keys.iter().all(|key| key.split('/').count() == 3), "{keys:?}");
    assert!(keys.iter().any(|key| key.contains("/who=..%2F..%2Fh/%2E.%2F..%2Fk+")), "{keys:?}");
    assert!(
        keys.iter().any(|key| key.contains("/who=__HIVE_DEFAULT_PARTITION__/__HIVE_DEFAULT_PARTITION__+")),
        "{keys:?}"
    );
    for file in files_below(trial.dir()) {
        let allowed = [trial.root(), trial.spool.clone(), trial.dir().join("siltstone.toml")];
        assert!(allowed.iter().any(|place| file.starts_with(place)), "{} was made", file.display());
    }
}
