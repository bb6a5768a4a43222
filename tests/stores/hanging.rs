//! Bytes that change on their way, answers that are lost there, and stores that answer nothing at all.

use crate::leftovers;
use crate::objects::{MIB, SETTINGS, content, sealed};
use crate::places::{self, Place, setting};
use crate::storm::Weather;
use crate::wire::{self, MARK};
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use siltstone::destination::fault::{FaultKind, Verdict};
use siltstone::destination::{Destination, StoreKind};
use siltstone::upload::{How, UploadError, put_file};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The S3 server at the end of that wire, in calm weather.
async fn s3_by_wire() -> (Place, Arc<wire::Tampering>, Arc<Weather>) {
    let (endpoint, tampering) = wire::to(&setting("S3_ENDPOINT")).await;
    let weather = Weather::calm();
    (places::s3_at(&endpoint).in_weather(&weather), tampering, weather)
}

/// Goal: bytes that change on their way to the store are noticed by it, never become visible and are sent again.
#[tokio::test]
async fn changed_on_the_way_is_never_visible() {
    let (place, tampering, weather) = s3_by_wire().await;
    for bytes in [200_000, 11 * MIB] {
        let mut content = content(bytes, 1);
        // So many that no read of the wire misses all of them.
        for at in (0..bytes - MARK.len()).step_by(10_000) {
            content[at..at + MARK.len()].copy_from_slice(MARK);
        }
        let file = sealed(&place, &format!("flipped/{bytes}"), &content);
        tampering.flips.store(1, Ordering::SeqCst);
        let error = put_file(&place.destination, &file, SETTINGS).await.expect_err("a byte changed");
        assert_eq!(tampering.flips.load(Ordering::SeqCst), 0, "a byte was changed");
        let UploadError::Store { fault, .. } = &error else { panic!("{error}") };
        assert_eq!((fault.kind, error.verdict()), (FaultKind::Damaged, Verdict::Retry), "{error}");
        assert_eq!(crate::list(&place, "flipped").await.len(), usize::from(bytes > MIB), "{bytes} bytes");
        leftovers::none(&place, &weather).await;
        let placed = put_file(&place.destination, &file, SETTINGS).await.expect("put");
        assert_eq!(placed.how, How::New);
        let path = place.destination.path(&file.key).expect("a key");
        let stored = place.destination.store().get(&path).await.expect("there").bytes().await.expect("its bytes");
        assert!(stored == content, "{bytes} bytes");
    }
}

/// Goal: what the store has done is found where the connection broke before its answer, on every cloud: one PUT, and pieces that were
/// put together. The client asks again by itself, and then the store knows no such upload any more.
#[tokio::test]
async fn an_answer_that_was_lost_on_the_wire_is_found() {
    type At = fn(&str) -> Place;
    let stores: [(&str, At, &str); 3] = [
        ("S3_ENDPOINT", places::s3_at, "?uploadId="),
        ("GCS_ENDPOINT", places::gcs_at, "?uploadId="),
        ("AZURE_ENDPOINT", places::azure_at, "comp=blocklist"),
    ];
    for (endpoint, at, completion) in stores {
        let (address, tampering) = wire::to(&setting(endpoint)).await;
        let weather = Weather::calm();
        let place = at(&address).in_weather(&weather);
        for (bytes, request) in [(100_000, "PUT /"), (11 * MIB, completion)] {
            let file = sealed(&place, &format!("lost/{bytes}"), &content(bytes, 1));
            *tampering.loses.lock().expect("no panic inside") = Some(request);
            let placed = put_file(&place.destination, &file, SETTINGS).await;
            assert_eq!(*tampering.loses.lock().expect("no panic inside"), None, "{endpoint}: an answer was lost");
            let how = placed.unwrap_or_else(|error| panic!("{endpoint}, {bytes} bytes: {error}")).how;
            // A store may take the second request to put the same pieces together for the first.
            let again = how == How::New && request == completion;
            assert!(how == How::AlreadyThere || again, "{endpoint}, {bytes} bytes: {how:?}");
        }
        leftovers::none(&place, &weather).await;
    }
}

/// Goal: a store that takes requests and answers none is left after a while, with a trouble that may pass, and worked with as soon as
/// it answers. The clock is stopped once the store has the request, so that its minutes pass at once.
#[tokio::test]
async fn a_store_that_hangs_is_left_in_time() {
    let (place, tampering, weather) = s3_by_wire().await;
    for bytes in [200_000, 11 * MIB] {
        let file = sealed(&place, &format!("hangs/{bytes}"), &content(bytes, 1));
        tampering.hangs.store(true, Ordering::SeqCst);
        let before = tampering.swallowed.load(Ordering::SeqCst);
        let mut put = Box::pin(put_file(&place.destination, &file, SETTINGS));
        let swallowed = async {
            while tampering.swallowed.load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! { _ = &mut put => panic!("nobody answers it"), () = swallowed => {} }
        tokio::time::pause();
        let began = Instant::now();
        let error = put.await.expect_err("nobody answers");
        let took = began.elapsed();
        tokio::time::resume();
        assert_eq!(error.verdict(), Verdict::Retry, "{error}");
        assert!(took <= Duration::from_secs(600), "{took:?}");
        tampering.hangs.store(false, Ordering::SeqCst);
        // Requests on connections that hung are answered by nobody; new ones are.
        let placed = loop {
            match put_file(&place.destination, &file, SETTINGS).await {
                Ok(placed) => break placed,
                Err(error) => assert_eq!(error.verdict(), Verdict::Retry, "{error}"),
            }
        };
        assert!(matches!(placed.how, How::New | How::AlreadyThere));
    }
    leftovers::none(&place, &weather).await;
}

/// What a store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    /// The first piece of each upload; the second one is refused.
    Pieces,
    /// The first abort.
    FirstAbort,
    /// Any abort.
    Aborts,
}

#[derive(Debug, Default)]
struct Seen {
    /// Pieces on their way.
    on_their_way: AtomicUsize,
    /// Pieces that were on their way when the first abort came.
    overtaken: AtomicUsize,
    aborts: AtomicUsize,
}

/// A store whose second piece of each upload is refused, and that does not answer something else.
#[derive(Debug)]
struct HangingStore {
    inner: InMemory,
    silent: Silent,
    seen: Arc<Seen>,
}

impl fmt::Display for HangingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HangingStore({:?})", self.silent)
    }
}

#[async_trait]
impl ObjectStore for HangingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(HangingUpload { inner, silent: self.silent, seen: self.seen.clone(), pieces: 0 }))
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct HangingUpload {
    inner: Box<dyn MultipartUpload>,
    silent: Silent,
    seen: Arc<Seen>,
    pieces: usize,
}

#[async_trait]
impl MultipartUpload for HangingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.pieces += 1;
        if self.pieces == 2 {
            return Box::pin(async { Err(Error::Generic { store: "hanging", source: "refused".into() }) });
        }
        let (part, silent, seen) = (self.inner.put_part(data), self.silent, self.seen.clone());
        Box::pin(async move {
            seen.on_their_way.fetch_add(1, Ordering::SeqCst);
            if silent == Silent::Pieces {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            seen.on_their_way.fetch_sub(1, Ordering::SeqCst);
            part.await
        })
    }
    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }
    async fn abort(&mut self) -> Result<()> {
        let aborts = self.seen.aborts.fetch_add(1, Ordering::SeqCst) + 1;
        if aborts == 1 {
            self.seen.overtaken.store(self.seen.on_their_way.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        let hangs = match self.silent {
            Silent::Pieces => false,
            Silent::FirstAbort => aborts == 1,
            Silent::Aborts => true,
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        self.inner.abort().await
    }
}

/// Goal: the abort overtakes no piece that lands in time, waits for no other longer than its limit, is made again where its answer
/// is lost, and ends where nobody ever answers (P-1, P-2). So it does where the upload was given up.
#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_pieces_and_has_an_end() {
    for (silent, overtaken, aborts, at_least, at_most) in
        [(Silent::Pieces, 1, 1, 10, 11), (Silent::FirstAbort, 0, 2, 8, 9), (Silent::Aborts, 0, 5, 28, 40)]
    {
        for given_up in [false, true] {
            let seen = Arc::new(Seen::default());
            let store = HangingStore { inner: InMemory::new(), silent, seen: seen.clone() };
            let destination = Destination::from_store("main", "memory://", Arc::new(store), StoreKind::Memory);
            let folder = tempfile::tempdir().expect("a temporary folder");
            let place = Place { destination: Arc::new(destination), folder };
            let file = sealed(&place, "x", &content(11 * MIB, 1));
            let began = Instant::now();
            let put = put_file(&place.destination, &file, SETTINGS);
            if given_up {
                let over = tokio::time::timeout(Duration::from_millis(100), put).await;
                assert!(over.is_err(), "it waits for what is on its way");
            } else {
                assert_eq!(put.await.expect_err("a piece is refused").verdict(), Verdict::Retry);
            }
            assert!(place.destination.at_rest(Duration::from_secs(60)).await);
            let took = began.elapsed().as_secs();
            assert!((at_least..=at_most).contains(&took), "{silent:?}, given up: {given_up}: {took} s");
            let counted = (seen.overtaken.load(Ordering::SeqCst), seen.aborts.load(Ordering::SeqCst));
            assert_eq!(counted, (overtaken, aborts), "{silent:?}, given up: {given_up}");
        }
    }
}
