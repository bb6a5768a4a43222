//! Receipts as commands find them, beside folds and in them, and what that costs.

// The numbers of the guide are for people.
#![allow(clippy::print_stdout)]

use super::*;
use crate::bucket::folding::{Rules, Task};
use crate::bucket::receipt::receipt_key;
use crate::clock::SystemClock;
use crate::config::parse;
use crate::destination::StoreKind;
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries of a page, as S3 has them.
const PAGE: usize = 1_000;

/// Requests that a store was asked: gets, and pages of listings.
#[derive(Debug, Default)]
struct Counts {
    gets: AtomicUsize,
    pages: AtomicUsize,
}

impl Counts {
    fn take(&self) -> (usize, usize) {
        (self.pages.swap(0, Ordering::Relaxed), self.gets.swap(0, Ordering::Relaxed))
    }
}

/// A store in memory that counts.
#[derive(Debug)]
struct Counting {
    store: InMemory,
    counts: Arc<Counts>,
}

impl Counting {
    fn counted(
        &self,
        listed: BoxStream<'static, StoreResult<ObjectMeta>>,
    ) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let counts = self.counts.clone();
        // The first page is asked for also where there is nothing.
        counts.pages.fetch_add(1, Ordering::Relaxed);
        let count = move |(number, object): (usize, StoreResult<ObjectMeta>)| {
            if number > 0 && number.is_multiple_of(PAGE) {
                counts.pages.fetch_add(1, Ordering::Relaxed);
            }
            object
        };
        listed.enumerate().map(count).boxed()
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.counts.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.store.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.counted(self.store.list(prefix))
    }
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.counted(self.store.list_with_offset(prefix, offset))
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.store.copy_opts(from, to, options).await
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// Batches of ten offsets, each with a claim and a receipt.
async fn filled(batches: i64) -> (Bucket, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let store = Arc::new(Counting { store: InMemory::new(), counts: counts.clone() });
    for first in (0..batches).map(|number| number * 10) {
        let end = first + 10;
        let claim = format!(
            r#"{{"version":1,"topic":"t","partition":0,"first":{first},"end":{end},"fingerprint":"f","generation":1,"spool_bytes":0}}"#
        );
        let receipt = format!(
            r#"{{"version":1,"topic":"t","partition":0,"first":{first},"end":{end},"cluster_id":"c","archive":"t","generation":1,
            "fingerprint":"f","writer":"0","reason":"age","balance":{{"consumed":0,"outputs":{{}}}},"objects":[]}}"#
        );
        let key = receipt_key(&partition(), 1, first);
        let claim_key = crate::bucket::claim::claim_key(&partition(), 1, first);
        store.put(&Path::from(key), receipt.into()).await.expect("put");
        store.put(&Path::from(claim_key), claim.into()).await.expect("put");
    }
    (Bucket::new(Arc::new(Destination::from_store("main", "s3://b", store, StoreKind::Memory))), counts)
}

async fn fold(bucket: &Bucket, rules: Rules) -> u64 {
    let (partition, clock) = (partition(), SystemClock::new());
    let task = Task {
        partition: &partition,
        rules: Rules { min_age_ms: -1_000_000, ..rules },
        committed: i64::MAX,
        folds_max: usize::MAX,
        dry_run: false,
        goes_on: &|| true,
        clock: &clock,
    };
    bucket.fold_receipts(&task).await.expect("folded").folds
}

async fn firsts(bucket: &Bucket, range: OffsetRange) -> Vec<i64> {
    let text = "[kafka]\nbrokers = \"b:1\"\n[spool]\ndir = \"s\"\n[destinations.main]\nurl = \"s3://b\"\n[[archive]]\ntopics = [\"t\"]\n";
    let config = parse(text, std::path::Path::new(""), &|_| None).expect("a configuration");
    let site = Site { archive: &config.archives[0], bucket: bucket.clone(), partitions: vec![partition()] };
    let (partition, clock) = (partition(), SystemClock::new());
    let receipts = site.receipts(&partition, &clock, range).await.expect("listed");
    receipts.map_ok(|receipt| receipt.first).try_collect().await.expect("read")
}

const ALL: OffsetRange = OffsetRange { first: 0, end: i64::MAX };

#[tokio::test]
async fn receipts_come_in_order_wherever_they_are() {
    let (bucket, _) = filled(25).await;
    assert_eq!(fold(&bucket, Rules { fold: 4, kept: 3, min_age_ms: 0 }).await, 5);
    let expected = |from: i64, to: i64| (from..to).map(|number| number * 10).collect::<Vec<_>>();
    assert_eq!(firsts(&bucket, ALL).await, expected(0, 25));
    assert_eq!(firsts(&bucket, OffsetRange::new(15, 31)).await, expected(1, 4));
    assert_eq!(firsts(&bucket, OffsetRange::new(79, 80)).await, expected(7, 8));
    assert_eq!(firsts(&bucket, OffsetRange::new(195, 215)).await, expected(19, 22));
    assert_eq!(firsts(&bucket, OffsetRange::new(250, 260)).await, expected(0, 0));
}

/// Goal: the numbers of the guide's page on layouts. Method: count requests to a store in memory; `FOLD_BATCHES=100000` is what the guide says.
#[tokio::test]
async fn folds_make_reading_cheap() {
    let batches = std::env::var("FOLD_BATCHES").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000_i64);
    let (bucket, counts) = filled(batches).await;
    let thousands = usize::try_from(batches / 1_000).expect("a few");
    counts.take();
    assert_eq!(firsts(&bucket, ALL).await.len(), thousands * 1_000);
    let (pages, gets) = counts.take();
    println!("unfolded, all receipts: {pages} pages, {gets} gets");
    assert_eq!((pages, gets), (2 * thousands + 1, thousands * 1_000));
    assert_eq!(fold(&bucket, Rules::default()).await as usize, thousands - 1);
    let (pages, gets) = counts.take();
    println!("folding: {pages} pages, {gets} gets");
    assert!(pages <= 15 * thousands && gets <= 2_010 * thousands, "{pages} pages, {gets} gets");
    assert_eq!(fold(&bucket, Rules::default()).await, 0);
    let (pages, gets) = counts.take();
    println!("a look that finds nothing to fold: {pages} pages, {gets} gets");
    assert!(pages <= 10, "{pages}");
    assert_eq!(firsts(&bucket, ALL).await.len(), thousands * 1_000);
    let (pages, gets) = counts.take();
    println!("folded, all receipts: {pages} pages, {gets} gets");
    assert!(pages <= thousands + 3, "{pages}");
    assert!(gets <= thousands + 1_000, "{gets}");
    assert_eq!(firsts(&bucket, OffsetRange::new(505, 515)).await, [500, 510]);
    let (pages, gets) = counts.take();
    println!("folded, a range: {pages} pages, {gets} gets");
    // What a takeover asks for.
    assert_eq!(bucket.entries_from(&partition(), batches * 10).await.expect("listed"), []);
    println!("takeover, nothing behind the committed offset: {:?} pages and gets", counts.take());
    assert_eq!(bucket.entries_from(&partition(), batches * 10 - 10).await.expect("listed").len(), 1);
    println!("takeover, one batch behind it: {:?} pages and gets", counts.take());
}
