//! An archive read back without siltstone's own code, and counted.

use super::kafka::{Sent, Topic};
use super::setting;
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, TimestampMillisecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use base64::Engine;
use flate2::read::MultiGzDecoder;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::{ObjectStore, aws::AmazonS3Builder};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Every object of one destination, by key under its prefix.
pub(crate) struct Archive {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
}

/// What the receipts say of one output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) archived: u64,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
}

pub(crate) fn counts(archived: u64, dead: u64, dropped: u64) -> Counts {
    Counts { archived, dead, dropped }
}

impl Archive {
    pub(crate) fn on_disk(root: &Path) -> Self {
        let mut objects = BTreeMap::new();
        for path in files_below(root) {
            let key = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_string();
            match std::fs::read(&path) {
                Ok(bytes) => drop(objects.insert(key, bytes)),
                // A half-written file that has its name by now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        Self { objects }
    }

    pub(crate) fn on_s3(prefix: &str) -> Self {
        let store = s3();
        let objects = runtime().block_on(async {
            let mut objects = BTreeMap::new();
            let listed: Vec<_> =
                store.list(Some(&object_store::path::Path::from(prefix))).try_collect().await.expect("listed");
            for object in listed {
                let bytes = store.get(&object.location).await.expect("got").bytes().await.expect("read");
                let key = object.location.as_ref().strip_prefix(prefix).expect("below the prefix");
                objects.insert(key.trim_start_matches('/').to_string(), bytes.to_vec());
            }
            objects
        });
        Self { objects }
    }

    /// Deletes a file in HDFS.
    pub(crate) fn remove_from_hdfs(path: &str) {
        ask_webhdfs(path, "DELETE");
    }

    /// Read through WebHDFS. Files on their way do not count.
    pub(crate) fn on_hdfs(folder: &str) -> Self {
        let mut objects = BTreeMap::new();
        let mut pending = vec![folder.to_string()];
        while let Some(at) = pending.pop() {
            let listed: Value = serde_json::from_slice(&ask_webhdfs(&at, "LISTSTATUS")).expect("JSON");
            for entry in listed["FileStatuses"]["FileStatus"].as_array().expect("entries") {
                let name = entry["pathSuffix"].as_str().expect("a name");
                let path = format!("{at}/{name}");
                match entry["type"].as_str() {
                    Some("DIRECTORY") if name == ".siltstone-staging" => {}
                    Some("DIRECTORY") => pending.push(path),
                    _ => {
                        let key = path.strip_prefix(folder).expect("below the folder").trim_start_matches('/');
                        objects.insert(key.to_string(), ask_webhdfs(&path, "OPEN"));
                    }
                }
            }
        }
        Self { objects }
    }

    /// What lies at the top of the bucket.
    pub(crate) fn top_of_s3() -> Vec<String> {
        let listed = runtime().block_on(s3().list_with_delimiter(None)).expect("listed");
        let objects = listed.objects.into_iter().map(|object| object.location);
        listed.common_prefixes.into_iter().chain(objects).map(|path| path.to_string()).collect()
    }

    pub(crate) fn remove_from_s3(path: &str) {
        runtime().block_on(s3().delete(&object_store::path::Path::from(path))).expect("deleted");
    }

    pub(crate) fn put_to_s3(path: &str, bytes: Vec<u8>) {
        runtime().block_on(s3().put(&object_store::path::Path::from(path), bytes.into())).expect("put");
    }

    /// When each object was written last.
    pub(crate) fn times_on_s3(prefix: &str) -> BTreeMap<String, i64> {
        let listed = s3().list(Some(&object_store::path::Path::from(prefix))).try_collect::<Vec<_>>();
        let listed = runtime().block_on(listed).expect("listed").into_iter();
        let key = |path: &object_store::path::Path| {
            path.as_ref().strip_prefix(prefix).expect("below the prefix").trim_start_matches('/').to_string()
        };
        listed.map(|object| (key(&object.location), object.last_modified.timestamp_millis())).collect()
    }

    /// Puts other bytes under a path, with the metadata that the ones before had.
    pub(crate) fn damage_on_s3(path: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let (store, path) = (s3(), object_store::path::Path::from(path));
        runtime().block_on(async {
            let found = store.get(&path).await.expect("got");
            let attributes = found.attributes.clone();
            let mut bytes = found.bytes().await.expect("read").to_vec();
            damage(&mut bytes);
            let options = object_store::PutOptions { attributes, ..object_store::PutOptions::default() };
            store.put_opts(&path, bytes.into(), options).await.expect("put");
        });
    }

    /// Keys of objects with data, dead letters among them.
    pub(crate) fn data_keys(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).filter(|key| !key.starts_with("_siltstone/")).collect()
    }

    pub(crate) fn receipts(&self) -> Vec<Value> {
        let receipts =
            self.objects.iter().filter(|(key, _)| key.starts_with("_siltstone/receipts/v1/") && key.ends_with(".json"));
        receipts.map(|(_, bytes)| serde_json::from_slice(bytes).expect("JSON")).collect()
    }

    /// Sums over all receipts.
    pub(crate) fn counts(&self, output: &str) -> Counts {
        let mut sum = Counts::default();
        for receipt in self.receipts() {
            let of = &receipt["balance"]["outputs"][output];
            sum.archived += of["archived"].as_u64().expect("a count");
            sum.dead += of["dead_lettered"].as_u64().expect("a count");
            sum.dropped +=
                of["dropped"].as_object().map_or(0, |dropped| dropped.values().filter_map(Value::as_u64).sum());
        }
        sum
    }

    /// Lines of all gzip objects whose key begins with `prefix`.
    pub(crate) fn lines(&self, prefix: &str) -> Vec<String> {
        let keys = self.data_keys().into_iter().filter(|key| key.starts_with(prefix) && key.ends_with(".gz"));
        keys.flat_map(|key| text(&self.objects[key]).lines().map(str::to_string).collect::<Vec<_>>()).collect()
    }

    /// Rows of JSON objects below `prefix`, parsed.
    pub(crate) fn rows(&self, prefix: &str) -> Vec<Value> {
        self.lines(prefix).iter().map(|line| serde_json::from_str(line).expect("a JSON row")).collect()
    }

    /// Ids of rows below `prefix`, sorted.
    pub(crate) fn ids(&self, prefix: &str) -> Vec<u64> {
        let mut ids: Vec<u64> = self.rows(prefix).iter().filter_map(|row| row["id"].as_u64()).collect();
        ids.sort_unstable();
        ids
    }

    /// Rows of Parquet objects below `prefix`, as JSON.
    pub(crate) fn parquet(&self, prefix: &str) -> Vec<Value> {
        self.batches(prefix).iter().flat_map(rows_of).collect()
    }

    /// Rows of Avro objects below `prefix`, as JSON.
    pub(crate) fn avro(&self, prefix: &str) -> Vec<Value> {
        let keys = self.data_keys().into_iter().filter(|key| key.starts_with(prefix) && key.ends_with(".avro"));
        keys.flat_map(|key| avro_batches(&self.objects[key])).flat_map(|batch| rows_of(&batch)).collect()
    }

    fn batches(&self, prefix: &str) -> Vec<RecordBatch> {
        let keys = self.data_keys().into_iter().filter(|key| key.starts_with(prefix) && key.ends_with(".parquet"));
        let read = |key: &str| {
            let bytes = bytes::Bytes::from(self.objects[key].clone());
            let reader =
                ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|reader| reader.build()).expect("Parquet");
            reader.map(|batch| batch.expect("a batch")).collect::<Vec<_>>()
        };
        keys.flat_map(read).collect()
    }

    /// Dead letters in the form of lines, whatever form they have.
    pub(crate) fn dead_letters(&self) -> Vec<Value> {
        let of_parquet = self.batches("_dead/");
        self.rows("_dead/").into_iter().chain(of_parquet.iter().flat_map(letters_of)).collect()
    }

    /// Nothing is lost and nothing is doubled: receipts chain from 0 to the last record of each partition; for each output the
    /// balance is even and its sum is what was produced; objects and receipts name each other, with sizes, checksums and
    /// counted rows; each dead letter is the record, byte for byte.
    #[track_caller]
    pub(crate) fn assert_even(&self, topic: &Topic) {
        self.assert_even_with(topic, &topic.sent());
    }

    /// The same, `sent` being what a reader of `topic` sees.
    #[track_caller]
    pub(crate) fn assert_even_with(&self, topic: &Topic, sent: &[Sent]) {
        let receipts: Vec<Value> = self.receipts().into_iter().filter(|one| one["topic"] == *topic.name).collect();
        assert_chained(&receipts, &topic.ends());
        let mut named = BTreeSet::new();
        let mut consumed = 0;
        let mut dead_letter_rows = BTreeMap::new();
        for receipt in &receipts {
            let balance = &receipt["balance"];
            let of_batch = balance["consumed"].as_u64().expect("a count");
            consumed += of_batch;
            let mut rows: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for object in receipt["objects"].as_array().expect("objects") {
                let output = object["output"].as_str().expect("an output");
                let destination = object["destination"].as_str().expect("a destination");
                *rows.entry((output, destination)).or_default() += object["rows"].as_u64().expect("rows");
                let key = object["key"].as_str().expect("a key");
                // With several destinations each archive sees only its own objects.
                if let Some(bytes) = self.objects.get(key) {
                    named.insert(key);
                    assert_object(object, bytes);
                }
            }
            for (output, of) in balance["outputs"].as_object().expect("outputs") {
                let count = |key: &str| of[key].as_u64().expect("a count");
                let dropped: u64 =
                    of["dropped"].as_object().map_or(0, |dropped| dropped.values().filter_map(Value::as_u64).sum());
                assert_eq!(count("archived") + count("dead_lettered") + dropped, of_batch, "{output}: {balance}");
                *dead_letter_rows.entry(output.clone()).or_insert(0) += count("dead_lettered");
                for ((_, destination), &found) in rows.iter().filter(|((name, _), _)| name == output) {
                    assert_eq!(found, count("rows"), "{output} at {destination}: {receipt}");
                }
            }
        }
        assert_eq!(consumed, sent.len() as u64, "consumed and produced differ");
        let alone = receipts.len() == self.receipts().len();
        let there: BTreeSet<&str> =
            self.data_keys().into_iter().filter(|key| alone || key.contains(&topic.name)).collect();
        assert_eq!(named, there, "objects that receipts name, and objects that are there");
        self.assert_dead_letters(sent, dead_letter_rows);
    }

    /// Objects and receipts name each other, with sizes, checksums and counted rows, whatever else is missing.
    #[track_caller]
    pub(crate) fn assert_as_named(&self) {
        let mut named = BTreeSet::new();
        let receipts = self.receipts();
        for object in receipts.iter().flat_map(|receipt| receipt["objects"].as_array().expect("objects")) {
            let key = object["key"].as_str().expect("a key");
            assert_object(object, self.objects.get(key).unwrap_or_else(|| panic!("{key} is not there")));
            assert!(named.insert(key), "{key} is named twice");
        }
        assert_eq!(
            named,
            self.data_keys().into_iter().collect(),
            "objects that receipts name, and objects that are there"
        );
    }

    #[track_caller]
    fn assert_dead_letters(&self, sent: &[Sent], mut counted: BTreeMap<String, u64>) {
        let mut identities = BTreeSet::new();
        for letter in self.dead_letters() {
            let identity = ["topic", "partition", "offset", "index"].map(|part| letter[part].to_string());
            assert!(identities.insert(identity), "two dead letters of one identity: {letter}");
            let (partition, offset) = (letter["partition"].as_i64(), letter["offset"].as_i64());
            let found =
                sent.iter().find(|one| Some(i64::from(one.partition)) == partition && Some(one.offset) == offset);
            let one = found.unwrap_or_else(|| panic!("never produced: {letter}"));
            assert_eq!(bytes_of(&letter["value_base64"]), one.value, "{partition:?} {offset:?}");
            assert_eq!(bytes_of(&letter["key_base64"]), one.key);
            assert_eq!(letter["timestamp"].as_i64(), Some(one.timestamp));
            let headers = letter["headers"].as_array().expect("headers").iter();
            let headers: Vec<_> =
                headers.map(|header| (header[0].as_str().expect("a name").to_string(), bytes_of(&header[1]))).collect();
            assert_eq!(headers, one.headers);
            for output in letter["outputs"].as_array().expect("outputs") {
                *counted.get_mut(output.as_str().expect("a name")).expect("an output") -= 1;
            }
        }
        assert!(counted.values().all(|&left| left == 0), "dead letters and receipts differ by {counted:?}");
    }
}

/// Ranges of each partition lie end to end, from the first offset to the log's end.
#[track_caller]
fn assert_chained(receipts: &[Value], ends: &BTreeMap<i64, i64>) {
    let mut reached: BTreeMap<i64, i64> = BTreeMap::new();
    for receipt in receipts {
        let at = reached.entry(receipt["partition"].as_i64().expect("a partition")).or_default();
        assert_eq!(receipt["first"].as_i64(), Some(*at), "{receipt}");
        *at = receipt["end"].as_i64().expect("an end");
    }
    assert_eq!(&reached, ends, "what receipts reach, and what was produced");
}

/// An object is as its receipt says, counted rows included.
#[track_caller]
pub(crate) fn assert_object(object: &Value, bytes: &[u8]) {
    use sha2::Digest;
    let key = object["key"].as_str().expect("a key");
    assert_eq!(object["bytes"].as_u64(), Some(bytes.len() as u64), "{key}");
    let sum: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(object["sha256"].as_str(), Some(&*sum), "{key}");
    let rows = match () {
        () if key.ends_with(".parquet") => {
            let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.to_vec())).expect("Parquet");
            u64::try_from(reader.metadata().file_metadata().num_rows()).expect("a count")
        }
        () if key.ends_with(".avro") => avro_batches(bytes).iter().map(|batch| batch.num_rows() as u64).sum(),
        () if key.ends_with(".bin.gz") => framed(&unpacked(bytes)).len() as u64,
        () if key.ends_with(".gz") => unpacked(bytes).iter().filter(|&&byte| byte == b'\n').count() as u64,
        () if key.ends_with(".json") => bytes.iter().filter(|&&byte| byte == b'\n').count() as u64,
        () => panic!("no way to count {key}"),
    };
    assert_eq!(object["rows"].as_u64(), Some(rows), "{key}");
}

fn avro_batches(bytes: &[u8]) -> Vec<RecordBatch> {
    let reader = arrow_avro::reader::ReaderBuilder::new().build(bytes).expect("an Avro file");
    reader.map(|batch| batch.expect("a batch")).collect()
}

fn rows_of(batch: &RecordBatch) -> Vec<Value> {
    let mut lines = arrow_json::LineDelimitedWriter::new(Vec::new());
    lines.write(&without_zones(batch)).expect("JSON");
    lines.finish().expect("JSON");
    let lines = String::from_utf8(lines.into_inner()).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect()
}

/// Dead letters of Parquet as those of lines: bytes as base64, headers as pairs.
fn letters_of(batch: &RecordBatch) -> Vec<Value> {
    let base64 = |array: &ArrayRef, at: usize| match array.is_null(at) {
        true => Value::Null,
        false => base64::engine::general_purpose::STANDARD.encode(array.as_binary::<i32>().value(at)).into(),
    };
    let column = |name: &str| batch.column_by_name(name).expect("a column of dead letters");
    let plain = rows_of(batch);
    let letter = |(at, mut row): (usize, Value)| {
        let headers = column("headers").as_list::<i32>().value(at);
        let (names, values) = (headers.as_struct().column(0), headers.as_struct().column(1));
        let pairs = (0..headers.len())
            .map(|index| serde_json::json!([names.as_string::<i32>().value(index), base64(values, index)]));
        row["headers"] = pairs.collect();
        row["key_base64"] = base64(column("key"), at);
        row["value_base64"] = base64(column("value"), at);
        let times = column("timestamp").as_primitive::<TimestampMillisecondType>();
        row["timestamp"] = if times.is_null(at) { Value::Null } else { times.value(at).into() };
        row
    };
    plain.into_iter().enumerate().map(letter).collect()
}

/// Arrow writes times with a zone only where it has a table of zones.
fn without_zones(batch: &RecordBatch) -> RecordBatch {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Arc::new(column.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(None::<&str>))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>))
            }
            _ => column.clone(),
        }
    });
    let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    RecordBatch::try_from_iter_with_nullable(names.into_iter().zip(columns).map(|(name, column)| (name, column, true)))
        .expect("the same columns")
}

fn ask_webhdfs(path: &str, operation: &str) -> Vec<u8> {
    // What is percent-encoded in a key is so in the name: the URL has it once more.
    let url = format!("{}/{}?op={operation}", setting("HDFS_WEB"), path.replace('%', "%25"));
    let (method, url) = match operation {
        // As the user that siltstone is there.
        "DELETE" => ("DELETE", format!("{url}&user.name={}", user())),
        _ => ("GET", url),
    };
    for left in (0..5).rev() {
        let asked = std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--location", "--request", method, &url])
            .output()
            .expect("curl runs");
        if asked.status.success() {
            return asked.stdout;
        }
        // A datanode notices late that its own connection is one to a namenode that has been started again since, and says 403 once.
        assert!(left > 0, "{url}: {}", String::from_utf8_lossy(&asked.stderr));
        super::pause();
    }
    unreachable!("the last try returns or fails")
}

/// Whom the machine takes this process for.
fn user() -> String {
    let said = std::process::Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8(said.stdout).expect("a name").trim().to_string()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn s3() -> impl ObjectStore {
    AmazonS3Builder::new()
        .with_endpoint(setting("S3_ENDPOINT"))
        .with_bucket_name(setting("S3_BUCKET"))
        .with_access_key_id(setting("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(setting("AWS_SECRET_ACCESS_KEY"))
        .with_region("us-east-1")
        .with_allow_http(true)
        .build()
        .expect("a store")
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    value.as_str().map(|text| base64::engine::general_purpose::STANDARD.decode(text).expect("base64"))
}

/// All members of a gzip object.
pub(crate) fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut all).expect("gzip");
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(unpacked(bytes)).expect("UTF-8")
}

/// Payloads of a length-framed object; `None` is a tombstone.
pub(crate) fn framed(mut bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_be_bytes(*length);
        let length = if length == u32::MAX { None } else { Some(length as usize) };
        let (payload, rest) = rest.split_at(length.unwrap_or(0));
        payloads.push(length.map(|_| payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "bytes behind the last frame");
    payloads
}

/// Every file below `root`, whatever it is called.
pub(crate) fn files_below(root: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.expect("listed");
            if entry.file_type().expect("a kind").is_dir() {
                folders.push(entry.path())
            } else {
                files.push(entry.path())
            }
        }
    }
    files
}
