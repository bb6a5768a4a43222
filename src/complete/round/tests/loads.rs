//! What completes and what loads: whatever is lost between them, each folder is loaded at its newest revision.

use super::*;
use crate::bucket::jobs::JobRange;
use crate::bucket::recounts::Recount;
use crate::destination::fault::Verdict;
use crate::load::work::LoadSeams;
use crate::load::{LoadFailure, Loader, Report, Window};
use async_trait::async_trait;
use std::sync::atomic::AtomicBool;

/// Folder, revision, earlier revisions, and when an older one was loaded meanwhile.
type Asked = (String, u32, Vec<u32>, Option<i64>);

/// Remembers what it was asked for.
#[derive(Debug, Default)]
struct Table {
    asked: Mutex<Vec<Asked>>,
    /// Rows by folder.
    rows: Mutex<BTreeMap<String, u64>>,
    is_down: AtomicBool,
    /// The folder is completed again while it is loaded, once.
    meanwhile: Mutex<Option<(Bucket, Completed)>>,
}

#[async_trait]
impl Loader for Table {
    async fn load(&self, window: &Window<'_>) -> Result<Report, LoadFailure> {
        let Completed { id, revision, rows, .. } = window.completed.clone();
        let earlier = window.earlier.iter().map(|earlier| earlier.revision).collect();
        self.asked.lock().expect("no panic").push((id.folder.clone(), revision, earlier, window.after_ms));
        if self.is_down.load(Ordering::SeqCst) {
            return Err(LoadFailure::Failed { message: "it is down".into(), verdict: Verdict::Retry });
        }
        let meanwhile = self.meanwhile.lock().expect("no panic").take();
        if let Some((bucket, completed)) = meanwhile {
            assert_eq!(bucket.put_completed(&completed).await.expect("created"), None);
        }
        self.rows.lock().expect("no panic").insert(id.folder, rows);
        Ok(Report { into: "table".into(), rows: Some(rows), ended_ms: Some(i64::from(revision)), ..Report::default() })
    }

    fn asks_for_earlier(&self) -> bool {
        true
    }
}

fn setup(name: &str, table: &Arc<Table>) -> Setup {
    Setup {
        output: Some("lines".into()),
        destination: Some("s3://a".into()),
        ..Setup::new(name, name.to_string(), table.clone())
    }
}

impl World {
    /// A round, and whatever waits is tried once.
    async fn round_and_load(&self, completer: &mut Completer) -> Result<(), Failure> {
        self.round(completer).await;
        let goes_on = || true;
        let load = LoadSeams {
            bucket: self.bucket.clone(),
            clock: Arc::new(ManualClock::at(self.clock.wall_ms())),
            goes_on: Arc::new(|| true),
            archive: "main".into(),
            topic: "t".into(),
        };
        completer.load_all(&self.seams(&goes_on), &load).await
    }

    /// Batches of each Kafka partition in the hour, all of it past.
    async fn hour_is_over(&mut self, hour: i64) {
        for number in 0..NUMBERS {
            self.archive(number, &[hour], 5).await;
        }
        self.clock.advance(2 * HOUR_MS);
    }
}

fn asked(table: &Table) -> Vec<(String, u32)> {
    let asked = table.asked.lock().expect("no panic");
    asked.iter().map(|(folder, revision, ..)| (folder.clone(), *revision)).collect()
}

/// Goal: a folder is loaded once it is complete, again when late data changed it, and not a third time: also where the process that completed it is gone, and where
/// nobody knows how far it had got.
#[tokio::test]
async fn a_folder_is_loaded_once_at_each_revision() {
    let mut world = World::new().await;
    let table = Arc::new(Table::default());
    world.loaders = vec![setup("a", &table)];
    world.hour_is_over(0).await;
    // It is completed, and the process dies before it loads.
    world.round(&mut Completer::default()).await;
    assert!(asked(&table).is_empty());
    let mut completer = Completer::default();
    world.round_and_load(&mut completer).await.expect("loaded");
    assert_eq!(asked(&table), [(folder_of(0), 1)]);
    world.archive(0, &[0], 7).await;
    world.round_and_load(&mut completer).await.expect("loaded");
    assert_eq!(asked(&table)[1..], [(folder_of(0), 2)]);
    assert_eq!(table.asked.lock().expect("no panic")[1].2, [1], "it is told what came before");
    assert_eq!(*table.rows.lock().expect("no panic"), world.truth);
    let id = FolderId { output: "lines".into(), destination: "s3://a".into(), folder: folder_of(0) };
    let loaded = world.bucket.loaded("a", "t", &id, 2).await.expect("readable").expect("it says so");
    assert_eq!((loaded.rows, loaded.loaded_rows, loaded.into.as_str()), (22, Some(22), "table"));
    for _ in 0..2 {
        world.round_and_load(&mut Completer::default()).await.expect("nothing to do");
        let progress = StorePath::from("_siltstone/complete/v1/t/progress.json");
        world.store.delete(&progress).await.expect("deleted");
    }
    assert_eq!(asked(&table).len(), 2, "what was loaded is not loaded again");
}

/// Goal: what fails waits, with its reason, over a restart; another loader goes on; one that comes later gets all of it.
#[tokio::test]
async fn what_fails_waits_and_who_comes_later_gets_all() {
    let mut world = World::new().await;
    let (down, up) = (Arc::new(Table::default()), Arc::new(Table::default()));
    down.is_down.store(true, Ordering::SeqCst);
    world.loaders = vec![setup("down", &down), setup("up", &up)];
    for hour in 0..3 {
        world.hour_is_over(hour).await;
    }
    let mut completer = Completer::default();
    let failure = world.round_and_load(&mut completer).await.expect_err("one is down");
    assert!(
        failure.message.contains("it is down") && failure.message.contains("down (3 folders)"),
        "{}",
        failure.message
    );
    assert_eq!((asked(&down).len(), asked(&up).len()), (3, 3));
    assert_eq!(completer.loads().map(|queue| (queue.len("down"), queue.len("up"))), Some((3, 0)));
    let goes_on = || true;
    let status = world.seams(&goes_on).status().await.expect("told");
    let told: Vec<_> = status.loads.iter().map(|load| (load.loader.as_str(), load.id.folder.clone())).collect();
    assert_eq!(told, (0..3).map(|hour| ("down", folder_of(hour))).collect::<Vec<_>>());
    assert!(status.loads.iter().all(|load| load.error.as_ref().is_some_and(|error| error.contains("it is down"))));
    // The next process tries at once; a third loader is new.
    down.is_down.store(false, Ordering::SeqCst);
    let late = Arc::new(Table::default());
    world.loaders.push(setup("late", &late));
    world.round_and_load(&mut Completer::default()).await.expect("all is loaded");
    for table in [&down, &up, &late] {
        assert_eq!(*table.rows.lock().expect("no panic"), world.truth);
    }
    assert_eq!((asked(&up).len(), asked(&late).len()), (3, 3));
}

/// Goal: a folder that is completed again while it is loaded is loaded again at once, by a load that comes after the first one.
#[tokio::test]
async fn a_folder_that_is_completed_meanwhile_is_loaded_again() {
    let mut world = World::new().await;
    let table = Arc::new(Table::default());
    world.loaders = vec![setup("a", &table)];
    world.hour_is_over(0).await;
    let mut completer = Completer::default();
    world.round(&mut completer).await;
    let newest = world.newest(&folder_of(0)).await.expect("complete");
    let next = Completed { revision: 2, rows: newest.rows + 1, ..newest };
    *table.meanwhile.lock().expect("no panic") = Some((world.bucket.clone(), next));
    world.round_and_load(&mut completer).await.expect("loaded");
    let asked = table.asked.lock().expect("no panic").clone();
    assert_eq!(asked, [(folder_of(0), 1, vec![], None), (folder_of(0), 2, vec![1], Some(1))]);
    assert_eq!(
        world
            .bucket
            .newest_loaded(
                "a",
                "t",
                &FolderId { output: "lines".into(), destination: "s3://a".into(), folder: folder_of(0) }
            )
            .await
            .expect("listed"),
        2
    );
}

/// Goal: rows that a job puts below what was looked at make the next revision of a complete folder once the job has ended, are counted where the folder is open, and are not
/// counted twice however often it is asked.
#[tokio::test]
async fn what_a_job_puts_below_is_counted_once_it_has_ended() {
    let mut world = World::new().await;
    let table = Arc::new(Table::default());
    world.loaders = vec![setup("a", &table)];
    for number in 0..NUMBERS {
        world.tell(number, |told| (told.offset, told.end) = (100, 100));
    }
    world.hour_is_over(0).await;
    let mut completer = Completer::default();
    world.round_and_load(&mut completer).await.expect("loaded");
    // Another hour is open; the job puts rows into both.
    world.archive(0, &[3], 5).await;
    world.round(&mut completer).await;
    let request = Recount::of_job("t", "j", &[JobRange { partition: 0, first: 0, end: 100, batch: false }]);
    world.bucket.ask_recount(&request).await.expect("asked");
    let Told { offset, watermark_ms, .. } = world.told(0);
    world.tell(0, |told| told.offset = 40);
    world.archive(0, &[0, 3], 7).await;
    world.tell(0, |told| (told.offset, told.watermark_ms) = (offset, watermark_ms));
    world.clock.advance(120_000);
    assert_eq!(world.round(&mut completer).await.revised, 0, "the job has not ended");
    world.bucket.end_job("j", 0).await.expect("ended");
    for _ in 0..2 {
        world.clock.advance(120_000);
        world.round_and_load(&mut completer).await.expect("loaded");
        let revised = world.newest(&folder_of(0)).await.expect("complete");
        assert_eq!((revised.revision, revised.rows, revised.objects), (2, 22, 4));
        assert_eq!(revised.covers(0), Some(Covered { first: 40, end: 105 }));
        assert_eq!(world.marker(&folder_of(0)).await, Some(revised));
        assert_eq!(world.bucket.recounts("t", |_| true).await.expect("listed").0.len(), 1, "a folder of it is open");
        // Somebody asks once more.
        world.bucket.ask_recount(&request).await.expect("asked");
    }
    assert_eq!(asked(&table), [(folder_of(0), 1), (folder_of(0), 2)]);
    world.clock.advance(10 * HOUR_MS);
    world.round_and_load(&mut Completer::default()).await.expect("loaded");
    assert_eq!(world.newest(&folder_of(3)).await.expect("complete").rows, 12);
    assert!(world.bucket.recounts("t", |_| true).await.expect("listed").0.is_empty(), "it is answered");
    assert_eq!(*table.rows.lock().expect("no panic"), world.truth);
}
