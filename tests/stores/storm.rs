//! A layer over any store that refuses, loses answers and dawdles, by a seed.

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of so many requests one is refused, one loses its answer and one is slow.
const ONE_OF: u64 = 7;
/// Longest that a slow request takes more.
const SLOW_MS_MAX: u64 = 20;
/// Aborts of one upload after which the archiver leaves it to the bucket's own rule.
pub(crate) const ABORTS: u32 = 5;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Refused,
    /// It takes effect, and nobody is told.
    Lost,
    Slow(u64),
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Felt {
    pub(crate) requests: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) slow: u64,
}

/// The weather over a store, shared with the uploads that it has begun.
#[derive(Debug)]
pub(crate) struct Weather {
    seed: Option<u64>,
    requests: AtomicU64,
    felt: Mutex<Felt>,
    /// Where uploads in pieces were begun.
    begun: Mutex<BTreeSet<Path>>,
    /// Uploads that nobody can abort: their id was lost with the answer, or no abort of all that are tried came through.
    orphans: Mutex<Vec<(Path, Box<dyn MultipartUpload>)>>,
    /// Uploads that were aborted more often than was agreed.
    pestered: Mutex<BTreeSet<Path>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SplitMix64: the fate of each request follows from seed and number alone.
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number.wrapping_mul(0xD1B5_4A32_D192_ED03));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Weather {
    fn new(seed: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            seed,
            requests: AtomicU64::new(0),
            felt: Mutex::default(),
            begun: Mutex::default(),
            orphans: Mutex::default(),
            pestered: Mutex::default(),
        })
    }

    /// Nothing goes wrong.
    pub(crate) fn calm() -> Arc<Self> {
        Self::new(None)
    }

    pub(crate) fn storm(seed: u64) -> Arc<Self> {
        Self::new(Some(seed))
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.seed.is_none()
    }

    pub(crate) fn felt(&self) -> Felt {
        *lock(&self.felt)
    }

    /// Where uploads in pieces were begun.
    pub(crate) fn begun(&self) -> Vec<Path> {
        lock(&self.begun).iter().cloned().collect()
    }

    /// Where uploads stay unfinished that nobody can abort, one entry each, in order.
    pub(crate) fn orphans(&self) -> Vec<Path> {
        let mut found: Vec<_> = lock(&self.orphans).iter().map(|(location, _)| location.clone()).collect();
        found.sort();
        found
    }

    /// Where more than so many aborts were asked for of one upload.
    pub(crate) fn pestered(&self) -> Vec<Path> {
        lock(&self.pestered).iter().cloned().collect()
    }

    /// Aborts them, as the bucket's own rule would some day.
    pub(crate) async fn sweep_orphans(&self) {
        let orphans = std::mem::take(&mut *lock(&self.orphans));
        for (location, mut upload) in orphans {
            upload.abort().await.unwrap_or_else(|error| panic!("{location}: {error}"));
        }
    }

    fn fate(&self) -> Fate {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut felt = lock(&self.felt);
        felt.requests += 1;
        let Some(seed) = self.seed else { return Fate::Passes };
        let mixed = mixed(seed, number);
        match mixed % ONE_OF {
            0 => {
                felt.refused += 1;
                Fate::Refused
            }
            1 => {
                felt.lost += 1;
                Fate::Lost
            }
            2 => {
                felt.slow += 1;
                Fate::Slow((mixed >> 32) % SLOW_MS_MAX)
            }
            _ => Fate::Passes,
        }
    }

    /// One request: what becomes of it, and of its answer.
    async fn over<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate() {
            Fate::Passes => request.await,
            Fate::Refused => Err(self.refusal()),
            Fate::Lost => request.await.and_then(|_| Err(silence())),
            Fate::Slow(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                request.await
            }
        }
    }

    /// Nothing happened: the store is busy, or nobody is there.
    fn refusal(&self) -> Error {
        if lock(&self.felt).refused.is_multiple_of(2) {
            return http(HttpErrorKind::Connect, ErrorKind::ConnectionRefused);
        }
        let answer =
            "Server returned non-2xx status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>";
        Error::Generic { store: "storm", source: answer.into() }
    }
}

/// Nobody can tell whether it happened.
fn silence() -> Error {
    http(HttpErrorKind::Timeout, ErrorKind::TimedOut)
}

fn http(kind: HttpErrorKind, cause: ErrorKind) -> Error {
    Error::Generic { store: "storm", source: Box::new(HttpError::new(kind, std::io::Error::from(cause))) }
}

/// A store in that weather.
#[derive(Debug)]
pub(crate) struct StormStore {
    inner: Arc<dyn ObjectStore>,
    weather: Arc<Weather>,
}

impl StormStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, weather: Arc<Weather>) -> Self {
        Self { inner, weather }
    }
}

impl fmt::Display for StormStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StormStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for StormStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.weather.over(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let weather = &self.weather;
        let fate = weather.fate();
        if fate == Fate::Refused {
            return Err(weather.refusal());
        }
        if let Fate::Slow(ms) = fate {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        lock(&weather.begun).insert(location.clone());
        if fate == Fate::Lost {
            lock(&weather.orphans).push((location.clone(), inner));
            return Err(silence());
        }
        let (location, weather) = (location.clone(), weather.clone());
        Ok(Box::new(StormUpload { inner: Some(inner), location, weather, is_over: false, aborts_refused: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.weather.fate();
        if fate == Fate::Refused {
            return Err(self.weather.refusal());
        }
        if let Fate::Slow(ms) = fate {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let got = self.inner.get_opts(location, options).await?;
        if fate != Fate::Lost {
            return Ok(got);
        }
        // The answer breaks off in the middle, where it is a stream.
        let GetResult { payload: GetResultPayload::Stream(bytes), .. } = got else { return Err(silence()) };
        let broken = bytes.take(1).chain(stream::once(async { Err(silence()) })).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(broken), ..got })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, weather) = (self.inner.clone(), self.weather.clone());
        let delete = move |location: Result<Path>| {
            let (inner, weather) = (inner.clone(), weather.clone());
            async move {
                let location = location?;
                weather.over(inner.delete(&location)).await.map(|()| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.weather.over_listing(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.weather.over_listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.weather.over(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.weather.over(self.inner.copy_opts(from, to, options)).await
    }
}

impl Weather {
    /// A listing may break off at its begin or after some of it.
    fn over_listing(&self, listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate() {
            Fate::Refused => {
                let refusal = self.refusal();
                stream::once(async { Err(refusal) }).boxed()
            }
            Fate::Lost => listing.take(1).chain(stream::once(async { Err(silence()) })).boxed(),
            Fate::Passes | Fate::Slow(_) => listing,
        }
    }
}

#[derive(Debug)]
struct StormUpload {
    /// Not there any more once it is an orphan.
    inner: Option<Box<dyn MultipartUpload>>,
    location: Path,
    weather: Arc<Weather>,
    /// Completed or aborted, whatever was told.
    is_over: bool,
    aborts_refused: u32,
}

#[async_trait]
impl MultipartUpload for StormUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.inner.as_mut().expect("an upload that is open").put_part(data);
        let weather = self.weather.clone();
        Box::pin(async move { weather.over(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (inner, is_over) = (self.inner.as_mut().expect("an upload that is open"), &mut self.is_over);
        let complete = async {
            let done = inner.complete().await;
            *is_over |= done.is_ok();
            done
        };
        self.weather.over(complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        let fate = self.weather.fate();
        let Some(inner) = &mut self.inner else {
            // A panic would end in the task that aborts, where nobody looks.
            lock(&self.weather.pestered).insert(self.location.clone());
            return Err(self.weather.refusal());
        };
        if fate == Fate::Refused {
            self.aborts_refused += 1;
            if self.aborts_refused == ABORTS && !self.is_over {
                lock(&self.weather.orphans).extend(self.inner.take().map(|inner| (self.location.clone(), inner)));
            }
            return Err(self.weather.refusal());
        }
        let done = inner.abort().await;
        self.is_over |= done.is_ok();
        if fate == Fate::Lost { done.and_then(|()| Err(silence())) } else { done }
    }
}
