//! What HDFS alone can get wrong: order, files on their way, failover, rights. Read back through WebHDFS, which is not ours.

use crate::killed::{whole, write_and_kill};
use crate::leftovers::stages_in_hdfs;
use crate::objects::{content, sealed};
use crate::places::{self, Place, config, fresh, hdfs_config, setting};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutOptions};
use siltstone::bucket::Bucket;
use siltstone::bucket::probe::ProbeError;
use siltstone::clock::{Clock, SystemClock};
use siltstone::destination::fault::{Fault, FaultKind, Verdict};
use siltstone::destination::{Destination, DestinationError};
use siltstone::upload::{UploadSettings, put_file};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// What `curl` with these arguments brings.
fn curl(arguments: &[&str]) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--location", "--globoff"]);
    let asked = curl.args(arguments).output().expect("curl runs");
    assert!(asked.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&asked.stderr));
    asked.stdout
}

/// What is asked of WebHDFS as the superuser.
fn url(path: &str, operation: &str) -> String {
    static USER: LazyLock<String> = LazyLock::new(|| {
        let user = Command::new("id").arg("-un").output().expect("id runs");
        String::from_utf8(user.stdout).expect("a name").trim().to_string()
    });
    format!("{}/{path}?user.name={}&op={operation}", setting("HDFS_WEB"), *USER)
}

/// Changes something through WebHDFS.
fn change(path: &str, operation: &str) {
    let url = url(path, operation);
    curl(&["--request", "PUT", "--header", "Content-Length: 0", &url]);
}

/// The number `name` of the one bean that is asked for. The servers count anew every ten seconds, some of them.
fn counted(server: &str, bean: &str, name: &str) -> u64 {
    let url = format!("{}?qry=Hadoop:{bean}", setting(server));
    let told: serde_json::Value = serde_json::from_slice(&curl(&[&url])).expect("JSON");
    told["beans"][0][name].as_u64().unwrap_or_else(|| panic!("no {name} in {told}"))
}

const METRICS_DEADLINE: Duration = Duration::from_secs(60);

/// Looks until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(METRICS_DEADLINE, waits).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Asks WebHDFS; nothing where it says 404.
fn ask(path: &str, operation: &str) -> Option<Vec<u8>> {
    let url = url(path, operation);
    let asked =
        Command::new("curl").args(["--silent", "--show-error", "--fail", "--location", "--globoff", &url]).output();
    let asked = asked.expect("curl runs");
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.success() || said.contains("404"), "{url}: {said}");
    asked.status.success().then_some(asked.stdout)
}

/// The names in a folder.
pub(crate) fn names(folder: &str) -> Vec<String> {
    let Some(listed) = ask(folder, "LISTSTATUS") else { return Vec::new() };
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
    let entries = listed["FileStatuses"]["FileStatus"].as_array().expect("entries");
    entries.iter().map(|entry| entry["pathSuffix"].as_str().expect("a name").to_string()).collect()
}

fn keys(place: &Place, listed: &[ObjectMeta]) -> Vec<String> {
    listed.iter().map(|object| place.destination.key_of(&object.location).expect("below the prefix")).collect()
}

/// Goal: what reads ranges of keys may stop early. Method: names around the slash, from every offset.
#[tokio::test]
async fn listings_are_in_the_order_of_whole_keys() {
    let place = places::hdfs();
    let store = place.destination.store();
    let mut all = ["a/x", "a-b", "a.b/c", "a0", "a/y/z", "a/y-/z", "Z/1", "b/%2F", "b/\u{e9}", "a/x.json"]
        .map(String::from)
        .to_vec();
    for key in &all {
        crate::put_text(&place, key, key).await;
    }
    all.sort();
    let prefix = place.destination.prefix();
    let listed: Vec<_> = store.list(Some(prefix)).try_collect().await.expect("a listing");
    assert_eq!(keys(&place, &listed), all);
    for (at, key) in all.iter().enumerate() {
        let offset = place.destination.path(key).expect("a key");
        let listed: Vec<_> = store.list_with_offset(Some(prefix), &offset).try_collect().await.expect("a listing");
        assert_eq!(keys(&place, &listed), all[at + 1..], "behind {key}");
        assert!(store.list(Some(&offset)).try_next().await.expect("a listing").is_none(), "{key} is no folder");
    }
    let top = store.list_with_delimiter(Some(prefix)).await.expect("a listing");
    assert_eq!(keys(&place, &top.objects), ["a-b", "a0"]);
    assert_eq!(top.common_prefixes.len(), 4, "{:?}", top.common_prefixes);
}

/// Goal: a folder of more entries than the namenode tells with one answer.
#[tokio::test]
async fn a_large_folder_is_listed_whole() {
    const FILES: usize = 1100;
    let place = places::hdfs();
    let names: Vec<String> = (0..FILES).map(|number| format!("many/{number:05}.json")).collect();
    for some in names.chunks(50) {
        futures::future::join_all(some.iter().map(|key| crate::put_text(&place, key, "x"))).await;
    }
    let folder = place.destination.path("many").expect("a key");
    let listed: Vec<_> = place.destination.store().list(Some(&folder)).try_collect().await.expect("a listing");
    assert_eq!(keys(&place, &listed), names);
}

/// Goal: what others read is what was put, over several blocks. Blocks have 1 MiB there.
#[tokio::test]
async fn objects_of_several_blocks_are_read_by_others() {
    const MIB: usize = 1 << 20;
    let place = places::hdfs();
    for (bytes, part_size) in
        [(MIB - 1, 64 * MIB), (MIB, 64 * MIB), (3 * MIB + 17, 64 * MIB), (3 * MIB + 17, 700_000), (2 * MIB, MIB)]
    {
        let key = format!("blocks/{bytes}-{part_size}.gz");
        let bytes = content(bytes, 3);
        let settings = UploadSettings { part_size: part_size as u64, pieces: 2 };
        put_file(&place.destination, &sealed(&place, &key, &bytes), settings).await.expect("put");
        let path = place.destination.path(&key).expect("a key");
        assert!(ask(path.as_ref(), "OPEN").as_ref() == Some(&bytes), "{key}");
        let range = 1_000_000.min(bytes.len() - 10)..(1_000_000 + 100_000).min(bytes.len());
        let read =
            place.destination.store().get_range(&path, range.start as u64..range.end as u64).await.expect("read");
        assert!(read == bytes[range], "{key}");
    }
    assert_eq!(stages_in_hdfs(&place), Vec::<Path>::new());
}

/// Goal: whatever moment a process dies at, files under their own names are whole, what was confirmed is there, and what was on its way is
/// shown nowhere and swept by a later start: with the leases of the dead still running.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_whole_files() {
    let mut left_on_the_way = 0;
    for round in 0..4 {
        let url = format!("{}/{}", setting("HDFS_URL"), fresh());
        let confirmed = write_and_kill(&url, 5 + 13 * round);
        let place = places::at(&url);
        let store = place.destination.store();
        let listed: Vec<_> = store.list(Some(place.destination.prefix())).try_collect().await.expect("a listing");
        let mut found = BTreeMap::new();
        for object in &listed {
            let name = object.location.filename().expect("a name");
            let bytes = ask(object.location.as_ref(), "OPEN").expect("a file");
            let Some((key, version)) = whole(name, &bytes) else {
                panic!("round {round}: {name} has {} bytes that are no version of it", bytes.len());
            };
            found.insert(key, version);
        }
        for (key, version) in confirmed {
            let there = found.get(&key);
            assert!(
                there >= Some(&version),
                "round {round}: {key} was confirmed as {version} and is there as {there:?}"
            );
        }
        let hidden = stages_in_hdfs(&place).len();
        left_on_the_way += hidden;
        let now_ms = SystemClock::new().wall_ms();
        let hour = Duration::from_secs(3600);
        assert_eq!(place.destination.sweep_stages(hour, now_ms).await.expect("swept"), 0, "they are younger");
        let swept = place.destination.sweep_stages(hour, now_ms + 2 * 3_600_000).await.expect("swept");
        assert_eq!((swept as usize, stages_in_hdfs(&place)), (hidden, Vec::new()), "round {round}");
        let after: Vec<_> = store.list(Some(place.destination.prefix())).try_collect().await.expect("a listing");
        assert_eq!(after.len(), listed.len(), "round {round}");
    }
    assert!(left_on_the_way > 0, "no kill came in the middle of a write: the test shows nothing");
}

/// Goal: a nameservice is found as Hadoop's clients find it, and a namenode that is not there is passed over.
#[tokio::test]
async fn a_nameservice_fails_over() {
    let alive = setting("HDFS_URL").replace("hdfs://", "");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
    let hadoop = serde_json::json!({
        "dfs.ha.namenodes.Prod": "gone,there",
        "dfs.namenode.rpc-address.Prod.gone": free.to_string(),
        "dfs.namenode.rpc-address.Prod.there": alive,
    });
    let url = format!("hdfs://Prod/{}", fresh());
    let options = [("hadoop", hadoop.to_string())];
    let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let destination = Destination::open("main", &config(url.clone(), &options)).expect("a destination");
    Bucket::new(destination.into()).probe().await.expect("it can be worked with");

    let error = Destination::open("main", &config(url, &[])).expect_err("nothing says what it is");
    assert!(matches!(error, DestinationError::Client { .. }) && error.to_string().contains("hadoop_conf"), "{error}");
}

/// Goal: a namenode that takes connections and says nothing is passed over, and so is the blank before the name of the next one, both of which
/// are in the files of a Hadoop client. Method: a listener that nobody serves, before the real namenode.
#[tokio::test]
async fn a_silent_namenode_is_passed_over() {
    let alive = setting("HDFS_URL").replace("hdfs://", "");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let conf = tempfile::tempdir().expect("a folder");
    let property = |name: &str, value: &str| format!("<property><name>{name}</name><value>{value}</value></property>");
    let site = [
        property("dfs.ha.namenodes.prod", " silent, there\n"),
        property("dfs.namenode.rpc-address.prod.silent", &silent.local_addr().expect("its address").to_string()),
        property("dfs.namenode.rpc-address.prod.there", &format!("\n{alive}\n")),
        property("dfs.client.use.datanode.hostname", "true"),
    ];
    let site = format!("<?xml version=\"1.0\"?><configuration>{}</configuration>", site.concat());
    std::fs::write(conf.path().join("hdfs-site.xml"), site).expect("written");
    let conf = conf.path().to_str().expect("UTF-8");
    let hadoop = r#"{"ipc.client.rpc-timeout.ms": "1000"}"#;
    let options = [("hadoop_conf", conf), ("hadoop", hadoop)];
    let place = config(format!("hdfs://prod/{}", fresh()), &options);
    let destination = Destination::open("main", &place).expect("a destination");
    let path = destination.path("a/x").expect("a key");
    let error = destination.store().put(&path, "x".into()).await.expect_err("it says nothing");
    let fault = Fault::of(&error);
    assert_eq!((fault.kind, fault.verdict()), (FaultKind::Interrupted, Verdict::Retry), "{fault}");
    // The next one is asked, by whoever comes; and what was begun is removed there.
    destination.store().put(&path, "x".into()).await.expect("put");
    let bucket = Bucket::new(destination.into());
    bucket.probe().await.expect("it can be worked with");
    assert_eq!(ask(path.as_ref(), "OPEN").as_deref(), Some(&b"x"[..]));
}

/// The files of a Hadoop client, and a folder without any.
#[tokio::test]
async fn a_folder_of_settings_is_read() {
    let conf = setting("HDFS_CONF");
    let place = hdfs_config(&[("hadoop_conf", conf.as_str())]);
    let destination = Destination::open("main", &place).expect("a destination");
    Bucket::new(destination.into()).probe().await.expect("it can be worked with");
    let empty = tempfile::tempdir().expect("a folder");
    let error = Destination::open("main", &hdfs_config(&[("hadoop_conf", empty.path().to_str().expect("UTF-8"))]));
    assert!(matches!(error, Err(DestinationError::Option { option: "hadoop_conf", .. })), "{error:?}");
}

/// Goal: whom the namenode does not let write is told so, with the namenode's own words.
#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    crate::put_text(&places::hdfs(), "x", "x").await; // The parent folder is the superuser's.
    let destination = Destination::open("main", &hdfs_config(&[("user", "stranger")])).expect("a destination");
    let path = destination.path("k/x").expect("a key");
    let error = destination.store().put(&path, "x".into()).await.expect_err("not allowed");
    let fault = Fault::of(&error);
    assert_eq!((fault.kind, fault.verdict()), (FaultKind::Denied, Verdict::Refused), "{fault}");
    assert!(fault.to_string().contains("user=stranger, access=WRITE"), "{fault}");
    let error = Bucket::new(destination.into()).probe().await.expect_err("not allowed");
    assert!(matches!(error, ProbeError::NotAllowed { .. }), "{error}");
}

/// Goal: nobody there is told as that, with the address, and may pass.
#[tokio::test]
async fn a_namenode_that_is_not_there_may_come_back() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
    let destination = Destination::open("main", &config(format!("hdfs://{free}/x"), &[])).expect("a destination");
    let error = Bucket::new(destination.into()).probe().await.expect_err("nobody is there");
    assert!(matches!(error, ProbeError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()) && error.verdict() == Verdict::Retry, "{error}");
}

/// Goal: names that HDFS or a sweep would stumble over are refused before anything is written.
#[tokio::test]
async fn impossible_names_are_refused() {
    let place = places::hdfs();
    let error = place.destination.path("hr=09:00/x").expect_err("a colon");
    assert!(error.to_string().contains("colon"), "{error}");
    for key in [".siltstone-staging/x", "a/.siltstone-x"] {
        let path = place.destination.path(key).expect("a key");
        let error = place.destination.store().put(&path, "x".into()).await.expect_err("refused");
        assert_eq!(Fault::of(&error).kind, FaultKind::Invalid, "{error}");
    }
    // A file where a folder has to be.
    crate::put_text(&place, "a/file", "x").await;
    let path = place.destination.path("a/file/x").expect("a key");
    let error = place.destination.store().put(&path, "x".into()).await.expect_err("refused");
    assert_eq!(Fault::of(&error).verdict(), Verdict::Refused, "{error}");
    // And a folder where the file has to be: not replaced, not created.
    crate::put_text(&place, "folder/x", "x").await;
    let path = place.destination.path("folder").expect("a key");
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let options = PutOptions { mode, ..PutOptions::default() };
        let error = place.destination.store().put_opts(&path, "x".into(), options).await.expect_err("refused");
        let fault = Fault::of(&error);
        assert_eq!((fault.kind, fault.verdict()), (FaultKind::Invalid, Verdict::Refused), "{fault}");
    }
    assert_eq!(crate::list(&place, "folder").await, ["folder/x"]);
    assert!(place.destination.at_rest(Duration::from_secs(60)).await);
    assert_eq!(stages_in_hdfs(&place), Vec::<Path>::new());
}

/// Goal: a folder that we may not look into keeps no other one from being swept. Method: a stranger sweeps, with one staged file that it may
/// remove, and before it the folder of somebody who lets nobody in.
#[tokio::test]
async fn a_locked_folder_does_not_end_the_sweep() {
    let place = places::hdfs();
    let root = place.destination.prefix().to_string();
    for folder in ["locked", "open"] {
        let staging = format!("{root}/{folder}/.siltstone-staging");
        change(&staging, "MKDIRS");
        change(&format!("{staging}/.siltstone-x"), "CREATE");
    }
    change(&format!("{root}/locked"), "SETPERMISSION&permission=700");
    change(&format!("{root}/open/.siltstone-staging"), "SETPERMISSION&permission=777");
    assert_eq!(stages_in_hdfs(&place).len(), 2);
    let url = format!("{}/{root}", setting("HDFS_URL"));
    let stranger = Destination::open("main", &config(url, &[("user", "stranger")])).expect("a destination");
    let later_ms = SystemClock::new().wall_ms() + 60_000;
    assert_eq!(stranger.sweep_stages(Duration::from_secs(1), later_ms).await.expect("swept"), 1);
    assert_eq!(stages_in_hdfs(&place), [Path::from(format!("{root}/locked/.siltstone-staging/.siltstone-x"))]);
}

/// Goal: an upload that is given up in the middle of a block leaves no connection and no thread at the datanode. Method: far more of them than
/// all tests together have at work; the datanode says how many threads write and read.
#[tokio::test]
async fn an_upload_that_is_given_up_hangs_up() {
    const UPLOADS: usize = 200;
    let threads = || counted("HDFS_DATANODE_JMX", "service=DataNode,name=DataNodeInfo", "XceiverCount");
    let place = places::hdfs();
    let store = place.destination.store();
    let mut uploads = Vec::new();
    for number in 0..UPLOADS {
        let path = place.destination.path(&format!("given-up/{number}")).expect("a key");
        let mut upload = store.put_multipart(&path).await.expect("begun");
        upload.put_part(content(10_000, 1).into()).await.expect("a piece");
        uploads.push((upload, path));
    }
    assert!(threads() >= UPLOADS as u64, "each has one");
    for (number, (mut upload, path)) in uploads.into_iter().enumerate() {
        // Aborted; dropped; dropped while a piece is on its way; and a put that nobody waits for.
        match number % 4 {
            0 => upload.abort().await.expect("aborted"),
            1 => drop(upload),
            2 => drop(upload.put_part(content(300_000, 2).into())),
            _ => {
                let mut put = Box::pin(store.put(&path, content(3_000_000, 3).into()));
                tokio::select! { done = &mut put => drop(done), () = tokio::time::sleep(Duration::from_millis(5)) => {} }
            }
        }
    }
    assert!(place.destination.at_rest(METRICS_DEADLINE).await, "what was given up comes to an end");
    assert_eq!(stages_in_hdfs(&place), Vec::<Path>::new());
    until("threads of the datanode end", || threads() < UPLOADS as u64 / 4).await;
}

/// Goal: H-1, as far as it can be seen: the datanode has synced each file to its disk, and the namenode was made to log each name. Method:
/// both count. Nothing but our own puts is synced there.
#[tokio::test]
async fn files_are_synced_and_names_are_logged() {
    const FILES: u64 = 30;
    let synced = || counted("HDFS_DATANODE_JMX", "service=DataNode,name=DataNodeActivity*", "FsyncCount");
    let port = setting("HDFS_URL").rsplit(':').next().expect("a port").to_string();
    let bean = format!("service=NameNode,name=RpcDetailedActivityForPort{port}");
    let url = format!("{}?qry=Hadoop:{bean}", setting("HDFS_NAMENODE_JMX"));
    // It is not told before the first one.
    let logged = || {
        let told: serde_json::Value = serde_json::from_slice(&curl(&[&url])).expect("JSON");
        told["beans"][0]["SetTimesNumOps"].as_u64().unwrap_or(0)
    };
    let place = places::hdfs();
    let before = (synced(), logged());
    for number in 0..FILES {
        let key = format!("synced/{number}");
        crate::put_text(&place, &key, "some bytes of a block").await;
        let path = place.destination.path(&key).expect("a key");
        let was = place.destination.store().head(&path).await.expect("there");
        place.destination.sync(&path).await.expect("synced");
        let is = place.destination.store().head(&path).await.expect("there");
        assert_eq!(was, is, "its times stay");
    }
    until("files are synced", || synced() >= before.0 + FILES).await;
    until("names are logged", || logged() >= before.1 + FILES).await;
}

/// Goal: every piece is on the datanode's disk when it counts as sent, and every block before the next one begins. Method: the namenode shows
/// the length of a file that is being written as it was at the last sync.
#[tokio::test]
async fn a_piece_that_counts_as_sent_is_synced() {
    const BLOCK: usize = 1 << 20;
    let place = places::hdfs();
    let path = place.destination.path("pieces/x").expect("a key");
    let mut upload = place.destination.store().put_multipart(&path).await.expect("begun");
    let mut sent = 0;
    for bytes in [1000, BLOCK - 1000, BLOCK + 5, 3 * BLOCK] {
        upload.put_part(content(bytes, 1).into()).await.expect("a piece");
        sent += bytes as u64;
        let [stage] = &stages_in_hdfs(&place)[..] else { panic!("one staged file") };
        let told = ask(stage.as_ref(), "GETFILESTATUS").expect("there");
        let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!(told["FileStatus"]["length"].as_u64(), Some(sent));
    }
    upload.complete().await.expect("put together");
    assert_eq!(place.destination.store().head(&path).await.expect("there").size, sent);
}
