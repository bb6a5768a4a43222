//! The simulated buckets: objects outlive every process, answers get lost, writes land late and out of order.

use crate::receipts::layout_in;
use crate::requests::Kind;
use crate::state::{Life, Shared, State, note};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::collections::BTreeMap;
use std::fmt;

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) attributes: Attributes,
    /// Another one for each content that the key ever had.
    pub(crate) version: u64,
}

/// What a write asks of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    None,
    Absent,
    Version(u64),
}

/// An upload in pieces that is neither completed nor aborted.
#[derive(Debug, Default)]
struct Upload {
    pieces: BTreeMap<usize, Bytes>,
}

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    /// By bucket and key.
    pub(crate) objects: BTreeMap<(&'static str, String), Object>,
    /// Contents that were replaced.
    pub(crate) replaced: Vec<(&'static str, String, Bytes)>,
    uploads: BTreeMap<u64, Upload>,
    last_upload: u64,
    last_version: u64,
}

/// What a store answers, before it is told in `object_store`'s words.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Exists,
    Denied,
    Gone,
    TimedOut,
    Unreachable,
}

impl Answer {
    fn error(self, key: &str) -> Error {
        let path = key.to_string();
        let http = |kind, io: std::io::ErrorKind| Error::Generic {
            store: "sim",
            source: Box::new(HttpError::new(kind, std::io::Error::from(io))),
        };
        match self {
            Self::Exists => Error::AlreadyExists { path, source: "it is there".into() },
            Self::Denied => Error::PermissionDenied { path, source: "retention".into() },
            Self::Gone => Error::NotFound { path, source: "no such object".into() },
            Self::TimedOut => http(HttpErrorKind::Timeout, std::io::ErrorKind::TimedOut),
            Self::Unreachable => http(HttpErrorKind::Connect, std::io::ErrorKind::ConnectionRefused),
        }
    }
}

impl Buckets {
    /// Uploads in pieces that were begun and neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        self.uploads.len()
    }
}

impl State {
    /// Counts receipts of batches that are finished with another layout than their process has.
    fn note_stored_layout(&mut self, life: Life, kind: Kind, object: &Object) {
        if kind != Kind::Receipt {
            return;
        }
        let receipt: serde_json::Value = serde_json::from_slice(&object.bytes).expect("a receipt is JSON");
        let place = format!("_siltstone/layouts/{}.json", receipt["fingerprint"].as_str().expect("a fingerprint"));
        let Some(stored) = self.buckets.objects.get(&("a", place)) else { return };
        let stored = serde_json::from_slice(&stored.bytes).ok().and_then(|document| layout_in(&document));
        if stored.is_some_and(|stored| stored != self.layouts[&life]) {
            self.fault("batch finished with a layout that its process does not have", "");
        }
    }

    fn put(
        &mut self,
        bucket: &'static str,
        key: &str,
        mut object: Object,
        condition: Condition,
    ) -> std::result::Result<(), Answer> {
        let place = (bucket, key.to_string());
        let size = object.bytes.len();
        self.buckets.last_version += 1;
        object.version = self.buckets.last_version;
        if let Some(found) = self.buckets.objects.get(&place) {
            let answer = match condition {
                Condition::Absent => Some(Answer::Exists),
                Condition::Version(version) if version != found.version => Some(Answer::Exists),
                _ if self.knobs.write_once => Some(Answer::Denied),
                _ => None,
            };
            if let Some(answer) = answer {
                let what =
                    if matches!(answer, Answer::Denied) { "refused by a write-once store" } else { "found there" };
                self.fault(what, kind_of(key).name());
                note!(self, "put {bucket}/{key} ({size} bytes): {answer:?}");
                return Err(answer);
            }
            if found.bytes != object.bytes {
                let found = found.bytes.clone();
                self.buckets.replaced.push((bucket, key.to_string(), found));
            }
        }
        note!(self, "put {bucket}/{key} ({size} bytes)");
        self.buckets.objects.insert(place, object);
        Ok(())
    }
}

impl State {
    /// Archiving needs no right to delete, but for receipts that a fold has.
    fn delete(&mut self, bucket: &'static str, key: &str) -> std::result::Result<(), Answer> {
        if kind_of(key) != Kind::Receipt || self.knobs.write_once {
            note!(self, "delete {bucket}/{key}: refused");
            return Err(Answer::Denied);
        }
        note!(self, "delete {bucket}/{key}");
        // To delete what is not there is no error.
        self.buckets.objects.remove(&(bucket, key.to_string()));
        Ok(())
    }
}

/// What an object is, by its key.
fn kind_of(key: &str) -> Kind {
    match key.strip_prefix("_siltstone/") {
        None => Kind::Object,
        Some(document) if !document.starts_with("receipts/") => Kind::Document,
        Some(receipt) if receipt.ends_with(".json") => Kind::Receipt,
        Some(fold) if fold.ends_with(".jsonl.gz") => Kind::Fold,
        Some(_) => Kind::Claim,
    }
}

/// One process's way to one bucket.
#[derive(Clone)]
pub(crate) struct SimStore {
    shared: Shared,
    life: Life,
    bucket: &'static str,
}

impl SimStore {
    pub(crate) fn new(shared: Shared, life: Life, bucket: &'static str) -> Self {
        Self { shared, life, bucket }
    }

    async fn ask<T: Send + 'static>(
        &self,
        kind: Kind,
        key: &str,
        effect: impl FnOnce(&mut State) -> std::result::Result<T, Answer> + Send + 'static,
    ) -> Result<T> {
        let answer = {
            let mut state = self.shared.lock();
            let down = state.now_ms < state.stores_down_until_ms;
            let lost = if down { Answer::Unreachable } else { Answer::TimedOut };
            state.ask(self.life, kind, Err(lost), effect)
        };
        answer.await.unwrap_or(Err(Answer::TimedOut)).map_err(|answer| answer.error(key))
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({}, p{})", self.bucket, self.life)
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn meta(key: &str, size: usize) -> ObjectMeta {
    let last_modified = chrono::DateTime::UNIX_EPOCH;
    ObjectMeta { location: Path::from(key), last_modified, size: size as u64, e_tag: None, version: None }
}

/// A path that is taken as it is.
fn raw_meta(key: &str, size: usize) -> ObjectMeta {
    let location = Path::parse(key).unwrap_or_else(|_| Path::from(key));
    ObjectMeta { location, ..meta("x", size) }
}

const DONE: PutResult = PutResult { e_tag: None, version: None };

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (bucket, key) = (self.bucket, location.to_string());
        let kind = kind_of(&key);
        let condition = match opts.mode {
            PutMode::Overwrite => Condition::None,
            PutMode::Create => Condition::Absent,
            PutMode::Update(update) => {
                Condition::Version(update.e_tag.and_then(|version| version.parse().ok()).expect("a version of ours"))
            }
        };
        let object = Object { bytes: Bytes::from(payload), attributes: opts.attributes, version: 0 };
        let life = self.life;
        let effect = move |state: &mut State| {
            state.note_stored_layout(life, kind, &object);
            state.put(bucket, &key, object, condition)
        };
        self.ask(kind, location.as_ref(), effect).await.map(|()| DONE)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begin = |state: &mut State| {
            state.buckets.last_upload += 1;
            let id = state.buckets.last_upload;
            state.buckets.uploads.insert(id, Upload::default());
            Ok(id)
        };
        let id = self.ask(Kind::Piece, location.as_ref(), begin).await?;
        let key = location.to_string();
        Ok(Box::new(SimUpload { store: self.clone(), key, attributes: opts.attributes, id, pieces: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let place = (self.bucket, location.to_string());
        let read = move |state: &mut State| state.buckets.objects.get(&place).cloned().ok_or(Answer::Gone);
        let object = self.ask(Kind::StoreRead, location.as_ref(), read).await?;
        let size = object.bytes.len();
        let bytes = if options.head { Bytes::new() } else { object.bytes };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta: ObjectMeta { e_tag: Some(object.version.to_string()), ..raw_meta(location.as_ref(), size) },
            range: 0..size as u64,
            attributes: object.attributes,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let (bucket, key) = (store.bucket, location.to_string());
                let delete = move |state: &mut State| state.delete(bucket, &key);
                let done = store.ask(Kind::Delete, location.as_ref(), delete).await;
                done.map(|()| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (bucket, store) = (self.bucket, self.clone());
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let read = move |state: &mut State| {
            let found = state.buckets.objects.range((bucket, folder.clone())..);
            let found = found.take_while(|((of, key), _)| *of == bucket && key.starts_with(&folder));
            Ok(found.map(|((_, key), object)| Ok(raw_meta(key, object.bytes.len()))).collect::<Vec<_>>())
        };
        let listed = async move { store.ask(Kind::StoreRead, "list", read).await };
        let listed = listed.map(|listed| stream::iter(listed.unwrap_or_else(|error| vec![Err(error)])));
        listed.flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list_with_delimiter".into(), implementer: "SimStore".into() })
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy_opts".into(), implementer: "SimStore".into() })
    }
}

#[derive(Debug)]
struct SimUpload {
    store: SimStore,
    key: String,
    attributes: Attributes,
    id: u64,
    pieces: usize,
}

#[async_trait]
impl MultipartUpload for SimUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, key, id, number) = (self.store.clone(), self.key.clone(), self.id, self.pieces);
        self.pieces += 1;
        let bytes = Bytes::from(data);
        let effect = move |state: &mut State| {
            let upload = state.buckets.uploads.get_mut(&id).ok_or(Answer::Gone)?;
            upload.pieces.insert(number, bytes);
            Ok(())
        };
        async move { store.ask(Kind::Piece, &key, effect).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (bucket, key, id, wanted) = (self.store.bucket, self.key.clone(), self.id, self.pieces);
        let attributes = self.attributes.clone();
        let effect = move |state: &mut State| {
            let upload = state.buckets.uploads.remove(&id).filter(|upload| upload.pieces.len() == wanted);
            let upload = upload.ok_or(Answer::Gone)?;
            let mut bytes = BytesMut::new();
            upload.pieces.values().for_each(|piece| bytes.extend_from_slice(piece));
            let object = Object { bytes: bytes.freeze(), attributes, version: 0 };
            state.put(bucket, &key, object, Condition::None)
        };
        self.store.ask(Kind::Piece, &self.key, effect).await.map(|()| DONE)
    }

    async fn abort(&mut self) -> Result<()> {
        let id = self.id;
        let effect = move |state: &mut State| state.buckets.uploads.remove(&id).map(|_| ()).ok_or(Answer::Gone);
        self.store.ask(Kind::Piece, &self.key, effect).await
    }
}
