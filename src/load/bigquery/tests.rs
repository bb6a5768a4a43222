//! What BigQuery is asked, and what becomes of its answers: held against a server that keeps ids as BigQuery does ([`fake`]). The emulator of
//! `tests/it` honours neither ids nor decorators nor what a load job may do to a schema.

pub(crate) mod fake;

use super::*;
use crate::clock::ManualClock;
use crate::destination::fault::Verdict;
use fake::{Break, Fake, Outcome, Request};
use serde_json::{Value, json};

const D1: &str = "00112233445566778899aabbccddeeff";
const D2: &str = "ffeeddccbbaa99887766554433221100";
/// 2026-11-29T05:00:00Z.
const HOUR: i64 = 1_795_928_400_000;
const JOBS: &str = "/bigquery/v2/projects/payer/jobs";

struct Bench {
    fake: Fake,
    clock: Arc<ManualClock>,
    loader: BigQuery,
    table: TableRef,
}

fn settings(endpoint: &str) -> Settings {
    Settings {
        project: "payer".to_string(),
        location: Some("EU".to_string()),
        endpoint: Some(endpoint.to_string()),
        credentials: Credentials::Nobody,
        labels: BTreeMap::from([("team".to_string(), "web".to_string())]),
        pace: Pace {
            first: Duration::from_millis(1),
            most: Duration::from_millis(20),
            call: Duration::from_secs(20),
            ..Pace::default()
        },
    }
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let fake = Fake::start(HOUR).await;
        let clock = Arc::new(ManualClock::at(HOUR));
        let mut settings = settings(&fake.endpoint);
        change(&mut settings);
        let loader = BigQuery::connect(settings, clock.clone()).await.expect("a client");
        Self { fake, clock, loader, table: "proj.web.hits".parse().expect("a table") }
    }

    fn hour<'a>(&'a self, uris: &'a [String], digest: &'a str) -> HourLoad<'a> {
        HourLoad {
            table: &self.table,
            partition: Some((HOUR, Granularity::Hour)),
            partition_field: None,
            uris,
            has_proved_wildcards: false,
            format: Format::NewlineDelimitedJson,
            compression: Compression::Gzip,
            schema: &[],
            digest,
            earlier: &[],
            after_ms: None,
            archive: "Access.Logs",
        }
    }

    fn pass(&self, ms: i64) {
        self.clock.advance(ms);
        self.fake.advance(ms);
    }
}

fn uris(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("gs://b/dt=2026-11-29/hr=05/{name}")).collect()
}

fn job(digest: &str, attempt: u32) -> String {
    format!("siltstone_{digest}_{attempt}")
}

fn paths(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.path.split('?').next().unwrap()).collect()
}

/// The whole body of a load by hours: id, location, decorator, replacing, columns that may be added, partitions, labels.
#[tokio::test]
async fn an_hour_is_asked_for_in_these_words() {
    let bench = Bench::new().await;
    let columns = [
        BqField { name: "at".to_string(), kind: "TIMESTAMP".to_string(), mode: Mode::Required, ..BqField::default() },
        BqField {
            name: "tags".to_string(),
            kind: "RECORD".to_string(),
            mode: Mode::Repeated,
            fields: vec![BqField {
                name: "price".to_string(),
                kind: "NUMERIC".to_string(),
                digits: Some((9, 2)),
                ..BqField::default()
            }],
            description: Some("what it is about".to_string()),
            ..BqField::default()
        },
    ];
    let objects = uris(&["1.parquet", "2.parquet"]);
    let hour = HourLoad {
        partition_field: Some("at"),
        format: Format::Parquet,
        compression: Compression::Zstd,
        schema: &columns,
        ..bench.hour(&objects, D1)
    };
    let loaded = bench.loader.load(&hour).await.unwrap();
    assert_eq!((loaded.rows, loaded.bytes, loaded.objects), (Some(1234), Some(56_789), Some(2)));
    assert_eq!((loaded.job_id, loaded.attempt, loaded.is_new), (job(D1, 1), 1, true));
    assert!(HOUR < loaded.created_ms && loaded.created_ms <= loaded.ended_ms);

    let posts = bench.fake.requests("POST");
    assert_eq!(paths(&posts), [JOBS]);
    let wanted = json!({
        "jobReference": {"projectId": "payer", "jobId": job(D1, 1), "location": "EU"},
        "configuration": {
            "labels": {"team": "web", "siltstone-archive": "access_logs", "siltstone-attempt": "1"},
            "load": {
                "destinationTable": {"projectId": "proj", "datasetId": "web", "tableId": "hits$2026112905"},
                "sourceUris": objects,
                "sourceFormat": "PARQUET",
                "parquetOptions": {"enableListInference": true},
                "createDisposition": "CREATE_IF_NEEDED",
                "writeDisposition": "WRITE_TRUNCATE",
                "schemaUpdateOptions": ["ALLOW_FIELD_ADDITION"],
                "timePartitioning": {"type": "HOUR", "field": "at"},
                "schema": {"fields": [
                    {"name": "at", "type": "TIMESTAMP", "mode": "REQUIRED"},
                    {"name": "tags", "type": "RECORD", "mode": "REPEATED", "description": "what it is about", "fields": [
                        {"name": "price", "type": "NUMERIC", "mode": "NULLABLE", "precision": "9", "scale": "2"},
                    ]},
                ]},
            },
        },
    });
    assert_eq!(posts[0].body, wanted);
    let looks = bench.fake.requests("GET");
    assert!(looks.iter().all(|look| look.path.contains("location=EU")), "{looks:?}");
    assert!(!looks[0].headers.contains("authorization"), "{looks:?}");
}

/// By days and the time of ingestion; without partitions, where BigQuery refuses `schemaUpdateOptions`.
#[tokio::test]
async fn days_and_whole_tables_are_asked_for_in_these_words() {
    let bench = Bench::new().await;
    let objects = uris(&["1.json.gz"]);
    let day = HourLoad { partition: Some((HOUR - 5 * 3_600_000, Granularity::Day)), ..bench.hour(&objects, D1) };
    bench.loader.load(&day).await.unwrap();
    let whole = HourLoad {
        partition: None,
        format: Format::Avro,
        compression: Compression::Snappy,
        ..bench.hour(&objects, D2)
    };
    bench.loader.load(&whole).await.unwrap();
    let loads: Vec<Value> =
        bench.fake.requests("POST").iter().map(|post| post.body["configuration"]["load"].clone()).collect();
    let table = |name: &str| json!({"projectId": "proj", "datasetId": "web", "tableId": name});
    assert_eq!(
        loads,
        [
            json!({
                "destinationTable": table("hits$20261129"),
                "sourceUris": objects,
                "sourceFormat": "NEWLINE_DELIMITED_JSON",
                "createDisposition": "CREATE_IF_NEEDED",
                "writeDisposition": "WRITE_TRUNCATE",
                "schemaUpdateOptions": ["ALLOW_FIELD_ADDITION"],
                "timePartitioning": {"type": "DAY"},
            }),
            json!({
                "destinationTable": table("hits"),
                "sourceUris": objects,
                "sourceFormat": "AVRO",
                "useAvroLogicalTypes": true,
                "createDisposition": "CREATE_IF_NEEDED",
                "writeDisposition": "WRITE_TRUNCATE",
            }),
        ]
    );
}

#[tokio::test]
async fn a_set_that_is_loaded_is_not_loaded_again() {
    let bench = Bench::new().await;
    let objects = uris(&["1", "2"]);
    let first = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    let again = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    assert_eq!(again, Loaded { is_new: false, ..first });
    assert_eq!(bench.fake.jobs(), [job(D1, 1)]);
    assert_eq!(bench.fake.requests("POST").len(), 1);
}

#[tokio::test]
async fn a_job_that_runs_is_waited_for_by_whoever_asks() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    bench.fake.outcome(Outcome::Loads { looks: 12 });
    let hour = bench.hour(&objects, D1);
    let (one, other) = tokio::join!(bench.loader.load(&hour), bench.loader.load(&hour));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.job_id.as_str(), other.job_id.as_str()), (job(D1, 1).as_str(), job(D1, 1).as_str()));
    assert_eq!(bench.fake.jobs().len(), 1);
}

/// Another process makes the job between our look and our request: 409.
#[tokio::test]
async fn a_job_that_another_process_was_faster_with_is_waited_for() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    bench.fake.outcome(Outcome::Loads { looks: 2 });
    bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    bench.fake.breaks("GET", Break::Blind);
    let late = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    assert!(!late.is_new);
    assert_eq!(bench.fake.requests("POST").len(), 2, "it has tried");
    assert_eq!(bench.fake.jobs(), [job(D1, 1)]);
}

/// The request is carried out and its answer never comes; the process that tries again, the same or another, finds the job.
#[tokio::test]
async fn a_lost_answer_makes_no_second_job() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    bench.fake.outcome(Outcome::Loads { looks: 3 });
    bench.fake.breaks("POST", Break::Lose);
    let loaded = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    assert!(!loaded.is_new && loaded.attempt == 1, "{loaded:?}");
    assert_eq!(bench.fake.requests("POST").len(), 2);
    assert_eq!(bench.fake.jobs(), [job(D1, 1)]);

    // The same where the process dies with the answer: what it did stays, and its successor waits for it.
    let next = Bench::with(|settings| settings.pace.call = Duration::ZERO).await;
    next.fake.outcome(Outcome::Loads { looks: 2 });
    next.fake.breaks("POST", Break::Lose);
    let died = next.loader.load(&next.hour(&objects, D1)).await.unwrap_err();
    assert_eq!((died.kind, died.verdict()), (LoadFaultKind::Interrupted, Verdict::Retry));
    let found = next.loader.load(&next.hour(&objects, D1)).await.unwrap();
    assert!(!found.is_new && next.fake.requests("POST").len() == 1, "{found:?}");
}

/// Limits and faults of BigQuery's, also answers that are a proxy's.
#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    for how in [
        Break::Refuse(403, "rateLimitExceeded"),
        Break::Refuse(403, "quotaExceeded"),
        Break::Page(503),
        Break::Refuse(500, "backendError"),
    ] {
        bench.fake.breaks("POST", how);
        bench.fake.breaks("GET", how);
    }
    bench.fake.breaks("GET", Break::Lose);
    let loaded = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    assert_eq!((loaded.attempt, loaded.is_new), (1, true));
    assert_eq!(bench.fake.requests("POST").len(), 5);
}

#[tokio::test]
async fn what_may_pass_and_does_not_is_told_in_the_end() {
    let bench = Bench::with(|settings| settings.pace.call = Duration::from_millis(30)).await;
    for _ in 0..100 {
        bench.fake.breaks("POST", Break::Refuse(403, "rateLimitExceeded"));
    }
    let objects = uris(&["1"]);
    let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert_eq!((fault.kind, fault.verdict(), fault.status), (LoadFaultKind::Busy, Verdict::Retry, Some(403)));
    assert_eq!(
        fault.to_string(),
        format!("start job {}: BigQuery answered 403 rateLimitExceeded (told rateLimitExceeded)", job(D1, 1))
    );
    assert!(bench.fake.requests("POST").len() > 2);
}

#[tokio::test]
async fn what_is_refused_is_told_at_once() {
    for (status, reason, kind) in [
        (401, "authError", LoadFaultKind::Login),
        (403, "accessDenied", LoadFaultKind::Denied),
        (404, "notFound", LoadFaultKind::NotFound),
        (400, "invalid", LoadFaultKind::Invalid),
    ] {
        let bench = Bench::new().await;
        bench.fake.breaks("POST", Break::Refuse(status, reason));
        let objects = uris(&["1"]);
        let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
        assert_eq!((fault.kind, fault.verdict(), fault.reason.as_deref()), (kind, Verdict::Refused, Some(reason)));
        assert_eq!(bench.fake.requests("POST").len(), 1);
        assert!(bench.fake.jobs().is_empty(), "no attempt is used up");
    }
}

/// Row errors come with their places. How often it is tried again does not depend on how often, or by how many, it is asked for.
#[tokio::test]
async fn a_job_that_failed_at_its_rows_is_told_and_tried_again_later() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    for _ in 0..2 {
        bench.fake.outcome(Outcome::Fails { reason: "invalid" });
    }
    let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert_eq!((fault.kind, fault.verdict(), fault.rows.len()), (LoadFaultKind::Rows, Verdict::Refused, 7));
    let row = RowError {
        location: "gs://b/3".to_string(),
        reason: "invalid".to_string(),
        message: "row 3 is bad".to_string(),
    };
    assert_eq!(fault.rows[3], row);
    let text = fault.to_string();
    for says in [job(D1, 1).as_str(), "Error while reading data", "row 4 is bad (invalid) at gs://b/4", "and 2 more"] {
        assert!(text.contains(says), "{says}: {text}");
    }

    // Asked again at once, by whomever.
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err(), fault);
    assert_eq!(bench.fake.jobs().len(), 1);
    bench.pass(601_000);
    let second = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert!(second.to_string().contains(&job(D1, 2)), "{second}");
    // The pause has doubled.
    bench.pass(601_000);
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err(), second);
    bench.pass(601_000);
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap().attempt, 3);
    assert_eq!(bench.fake.holds("hits$2026112905"), objects);
}

#[tokio::test]
async fn a_job_that_failed_at_what_may_pass_is_followed_by_the_next_attempt() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    bench.fake.outcome(Outcome::Fails { reason: "backendError" });
    bench.fake.outcome(Outcome::Fails { reason: "rateLimitExceeded" });
    let loaded = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap();
    assert_eq!((loaded.attempt, bench.fake.jobs().len()), (3, 3));

    for _ in 0..3 {
        bench.fake.outcome(Outcome::Fails { reason: "internalError" });
    }
    let fault = bench.loader.load(&bench.hour(&objects, D2)).await.unwrap_err();
    assert_eq!((fault.kind, fault.verdict()), (LoadFaultKind::Busy, Verdict::Retry));
    assert_eq!(bench.fake.jobs().len(), 6);
    // The next call goes on behind it.
    assert_eq!(bench.loader.load(&bench.hour(&objects, D2)).await.unwrap().attempt, 4);
}

/// Numbers have no gaps, so the last of many is found with few looks.
#[tokio::test]
async fn the_last_of_many_attempts_is_found() {
    let bench = Bench::with(|settings| settings.pace.failed = Duration::ZERO).await;
    let objects = uris(&["1"]);
    for attempt in 1..=40 {
        bench.fake.outcome(Outcome::Fails { reason: "invalid" });
        bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
        assert_eq!(bench.fake.jobs().len(), attempt, "one job a call");
    }
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap().attempt, 41);
    let before = bench.fake.requests("GET").len();
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap().attempt, 41);
    assert!(bench.fake.requests("GET").len() - before <= 14);
}

/// Late data: another digest, the same partition, nothing left of before.
#[tokio::test]
async fn another_set_replaces_the_partition() {
    let bench = Bench::new().await;
    let (before, after) = (uris(&["1"]), uris(&["1", "2"]));
    bench.loader.load(&bench.hour(&before, D1)).await.unwrap();
    bench.loader.load(&bench.hour(&after, D2)).await.unwrap();
    assert_eq!(bench.fake.jobs(), [job(D1, 1), job(D2, 1)]);
    assert_eq!(bench.fake.holds("hits$2026112905"), after);
}

/// A process that stood still has loaded an older set over a newer one, reads the ranges again, and repairs it.
#[tokio::test]
async fn an_older_set_that_came_late_is_replaced_by_the_newest() {
    let bench = Bench::new().await;
    let (older, newest) = (uris(&["1"]), uris(&["1", "2"]));
    bench.loader.load(&bench.hour(&newest, D2)).await.unwrap();
    let late = bench.loader.load(&bench.hour(&older, D1)).await.unwrap();
    assert_eq!(bench.fake.holds("hits$2026112905"), older);
    let repair = HourLoad { after_ms: Some(late.ended_ms), ..bench.hour(&newest, D2) };
    assert_eq!(bench.loader.load(&repair).await.unwrap().attempt, 2);
    assert_eq!(bench.fake.holds("hits$2026112905"), newest);
    // That is done once.
    assert_eq!(bench.loader.load(&repair).await.unwrap().attempt, 2);
}

/// whoever loads the newer set first takes the id that the older one would need.
#[tokio::test]
async fn an_older_set_cannot_come_late_where_its_ids_are_barred() {
    let bench = Bench::new().await;
    let (older, newest) = (uris(&["1"]), uris(&["1", "2"]));
    let earlier = [D1.to_string()];
    let newer = HourLoad { earlier: &earlier, ..bench.hour(&newest, D2) };
    bench.loader.load(&newer).await.unwrap();
    // The late one has looked before the bar was there.
    bench.fake.breaks("GET", Break::Blind);
    let late = bench.loader.load(&bench.hour(&older, D1)).await.unwrap_err();
    assert_eq!((late.kind, late.verdict()), (LoadFaultKind::Superseded, Verdict::Stop));
    assert!(late.to_string().contains(D2), "{late}");
    assert_eq!(bench.fake.holds("hits$2026112905"), newest);
    let bar = &bench.fake.requests("POST")[0].body;
    let wanted = json!({
        "jobReference": {"projectId": "payer", "jobId": job(D1, 1), "location": "EU"},
        "configuration": {
            "labels": {"team": "web", "siltstone-archive": "access_logs"},
            "query": {"query": format!("SELECT '{D2}' AS siltstone_loads_instead"), "useLegacySql": false},
        },
    });
    assert_eq!(*bar, wanted);
    // Barred once, however often the newer one is asked for.
    bench.loader.load(&newer).await.unwrap();
    assert_eq!(bench.fake.jobs(), [job(D1, 1), job(D2, 1)]);
}

/// A job of the older set that runs is waited for: it must not end behind the newer one.
#[tokio::test]
async fn an_older_set_that_is_being_loaded_ends_before_the_newer_begins() {
    let bench = Bench::new().await;
    let (older, newest) = (uris(&["1"]), uris(&["1", "2"]));
    bench.fake.outcome(Outcome::Loads { looks: 5 });
    let slow = Bench {
        loader: BigQuery::connect(settings(&bench.fake.endpoint), bench.clock.clone()).await.unwrap(),
        ..Bench::new().await
    };
    let stale = slow.hour(&older, D1);
    let earlier = [D1.to_string()];
    let newer = HourLoad { earlier: &earlier, ..bench.hour(&newest, D2) };
    let (stale, newer) = tokio::join!(slow.loader.load(&stale), async {
        while bench.fake.jobs().is_empty() {
            tokio::task::yield_now().await;
        }
        bench.loader.load(&newer).await
    });
    assert!(stale.is_ok_and(|stale| stale.ended_ms < newer.unwrap().created_ms));
    assert_eq!(bench.fake.holds("hits$2026112905"), newest);
    assert_eq!(bench.fake.jobs(), [job(D1, 1), job(D1, 2), job(D2, 1)]);
    // And the older one is barred for ever.
    assert_eq!(slow.loader.load(&slow.hour(&older, D1)).await.unwrap_err().kind, LoadFaultKind::Superseded);
}

/// Ids count in one location, so it is asked for before a job is looked for; once.
#[tokio::test]
async fn jobs_run_where_the_dataset_is() {
    let mut bench = Bench::with(|settings| settings.location = None).await;
    let objects = uris(&["1"]);
    for digest in [D1, D2] {
        bench.loader.load(&bench.hour(&objects, digest)).await.unwrap();
    }
    let posts = bench.fake.requests("POST");
    assert!(posts.iter().all(|post| post.body["jobReference"]["location"] == "europe-west3"), "{posts:?}");
    let looks = bench.fake.requests("GET");
    assert_eq!(paths(&looks).iter().filter(|path| path.ends_with("/projects/proj/datasets/web")).count(), 1);
    bench.table.dataset = "gone".to_string();
    let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert_eq!(fault.kind, LoadFaultKind::NotFound);
    assert!(fault.to_string().contains("look for dataset proj.gone"), "{fault}");
}

#[tokio::test]
async fn a_job_of_somebody_else_under_our_id_stops_it() {
    let bench = Bench::new().await;
    let objects = uris(&["1"]);
    let body = json!({"jobReference": {"jobId": job(D1, 1)}, "configuration": {"query": {"query": "SELECT 2"}}});
    let http = reqwest::Client::new();
    let post = http.post(format!("{}{JOBS}", bench.fake.endpoint)).body(body.to_string());
    post.send().await.unwrap();
    let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert_eq!((fault.kind, fault.verdict()), (LoadFaultKind::Foreign, Verdict::Stop));
}

#[tokio::test]
async fn what_would_not_be_what_is_meant_is_refused_before_anything_is_asked() {
    let bench = Bench::new().await;
    let one = uris(&["1"]);
    let many: Vec<String> = (0..=URIS_MAX).map(|n| format!("gs://b/{n}")).collect();
    let (wild, other) = (uris(&["*"]), ["s3://b/1".to_string()]);
    let own = [D1.to_string()];
    let good = bench.hour(&one, D1);
    let cases = [
        (HourLoad { uris: &[], ..good.clone() }, "no object"),
        (HourLoad { uris: &many, ..good.clone() }, "10001 objects; a load job takes 10000"),
        (HourLoad { uris: &wild, ..good.clone() }, "nobody has looked"),
        (HourLoad { uris: &other, ..good.clone() }, "not in Google Cloud Storage"),
        (HourLoad { digest: "abc", ..good.clone() }, "32 hex digits"),
        (HourLoad { earlier: &own, ..good.clone() }, "its own earlier revision"),
        (
            HourLoad { partition: Some((HOUR + 1, Granularity::Hour)), ..good.clone() },
            "no start of a partition by HOUR",
        ),
        (HourLoad { partition: Some((HOUR, Granularity::Day)), ..good.clone() }, "no start of a partition by DAY"),
        (HourLoad { compression: Compression::Zstd, ..good.clone() }, "JSON lines packed with zstd: choose none, gzip"),
    ];
    for (hour, says) in cases {
        let fault = bench.loader.load(&hour).await.unwrap_err();
        assert_eq!((fault.kind, fault.verdict()), (LoadFaultKind::Invalid, Verdict::Refused));
        assert!(fault.to_string().contains(says), "{says}: {fault}");
    }
    assert!(bench.fake.requests("GET").is_empty());
    let proved = HourLoad { uris: &wild, has_proved_wildcards: true, ..good };
    bench.loader.load(&proved).await.unwrap();
}

#[tokio::test]
async fn an_external_table_is_asked_for_in_these_words() {
    let bench = Bench::new().await;
    let named = [("dt", "DATE"), ("hr", "STRING")];
    let column = [BqField { name: "at".to_string(), kind: "TIMESTAMP".to_string(), ..BqField::default() }];
    let wanted = ExternalTable {
        table: &bench.table,
        uri_prefix: "gs://b/prod/access/",
        uri_suffix: ".parquet",
        keys: HiveKeys::Named(&named),
        format: Format::Parquet,
        compression: Compression::Snappy,
        schema: &column,
        require_partition_filter: true,
        archive: "access",
    };
    assert_eq!(bench.loader.ensure_external_table(&wanted).await, Ok(Made::Now));
    assert_eq!(bench.loader.ensure_external_table(&wanted).await, Ok(Made::Before));
    let posts = bench.fake.requests("POST");
    assert_eq!(paths(&posts), ["/bigquery/v2/projects/proj/datasets/web/tables"]);
    let body = json!({
        "tableReference": {"projectId": "proj", "datasetId": "web", "tableId": "hits"},
        "labels": {"team": "web", "siltstone-archive": "access"},
        "externalDataConfiguration": {
            "sourceUris": ["gs://b/prod/access/*.parquet"],
            "sourceFormat": "PARQUET",
            "parquetOptions": {"enableListInference": true},
            "schema": {"fields": [{"name": "at", "type": "TIMESTAMP", "mode": "NULLABLE"}]},
            "hivePartitioningOptions": {
                "mode": "CUSTOM",
                "sourceUriPrefix": "gs://b/prod/access/{dt:DATE}/{hr:STRING}",
                "requirePartitionFilter": true,
            },
        },
    });
    assert_eq!(posts[0].body, body);

    let other: TableRef = "proj.web.json".parse().unwrap();
    let lines = ExternalTable {
        table: &other,
        uri_suffix: ".json.gz",
        keys: HiveKeys::Strings,
        format: Format::NewlineDelimitedJson,
        compression: Compression::Gzip,
        schema: &[],
        require_partition_filter: false,
        ..wanted.clone()
    };
    // Another process was faster.
    bench.fake.has_table("json", "EXTERNAL");
    bench.fake.breaks("GET", Break::Blind);
    assert_eq!(bench.loader.ensure_external_table(&lines).await, Ok(Made::Before));
    let source = &bench.fake.requests("POST")[1].body["externalDataConfiguration"];
    let wanted_source = json!({
        "sourceUris": ["gs://b/prod/access/*.json.gz"],
        "sourceFormat": "NEWLINE_DELIMITED_JSON",
        "compression": "GZIP",
        "autodetect": true,
        "hivePartitioningOptions": {"mode": "STRINGS", "sourceUriPrefix": "gs://b/prod/access/", "requirePartitionFilter": false},
    });
    assert_eq!(*source, wanted_source);
}

#[tokio::test]
async fn a_table_that_is_not_external_is_left_alone() {
    let bench = Bench::new().await;
    bench.fake.has_table("hits", "TABLE");
    let wanted = ExternalTable {
        table: &bench.table,
        uri_prefix: "gs://b/p/",
        uri_suffix: ".avro",
        keys: HiveKeys::Auto,
        format: Format::Avro,
        compression: Compression::Zstd,
        schema: &[],
        require_partition_filter: false,
        archive: "access",
    };
    let fault = bench.loader.ensure_external_table(&wanted).await.unwrap_err();
    assert!(fault.to_string().contains("of type TABLE"), "{fault}");
    for (wrong, says) in [
        (ExternalTable { uri_prefix: "gs://b/p", ..wanted.clone() }, "gs://BUCKET/FOLDER/"),
        (ExternalTable { compression: Compression::Gzip, ..wanted.clone() }, "Avro packed with gzip"),
    ] {
        let fault = bench.loader.ensure_external_table(&wrong).await.unwrap_err();
        assert!(fault.to_string().contains(says), "{fault}");
    }
    assert!(bench.fake.requests("POST").is_empty());
}

/// Two hours of a table that is not there yet: BigQuery lets one of the jobs make it.
#[tokio::test]
async fn a_job_that_was_about_to_make_the_table_as_another_did_is_followed_by_the_next() {
    let bench = Bench::new().await;
    bench.fake.outcome(Outcome::Fails { reason: "duplicate" });
    let objects = uris(&["1"]);
    assert_eq!(bench.loader.load(&bench.hour(&objects, D1)).await.unwrap().attempt, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut settings = settings(&endpoint);
    settings.pace.call = Duration::ZERO;
    let loader = BigQuery::connect(settings, Arc::new(ManualClock::at(HOUR))).await.unwrap();
    let bench = Bench { loader, ..Bench::new().await };
    let objects = uris(&["1"]);
    let fault = bench.loader.load(&bench.hour(&objects, D1)).await.unwrap_err();
    assert_eq!((fault.kind, fault.verdict()), (LoadFaultKind::Unreachable, Verdict::Retry), "{fault}");
}

/// The file is named, what is wrong too, and nothing of it is shown.
#[tokio::test]
async fn a_key_file_that_cannot_be_used_is_named_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.json");
    for (text, says) in [
        (None, "No such file"),
        (Some("{\"private_key\": \"SECRET"), "no JSON"),
        (Some("{\"type\": \"other\", \"private_key\": \"SECRET\"}"), "expected service_account"),
        (Some("{\"type\": \"service_account\", \"private_key\": \"SECRET\"}"), "key.json"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let settings = Settings { credentials: Credentials::File(path.clone()), ..settings("http://127.0.0.1:1") };
        let fault = BigQuery::connect(settings, Arc::new(ManualClock::at(0))).await.expect_err("no key");
        assert_eq!((fault.kind, fault.verdict()), (LoadFaultKind::Login, Verdict::Refused), "{fault}");
        let text = format!("{fault} {fault:?}");
        assert!(text.contains(says) && text.contains("key.json") && !text.contains("SECRET"), "{text}");
    }
}

#[test]
fn tables_are_named_in_three_parts() {
    let table: TableRef = "my-project.web.hits_2".parse().unwrap();
    assert_eq!((table.project.as_str(), table.dataset.as_str(), table.table.as_str()), ("my-project", "web", "hits_2"));
    assert_eq!(table.to_string(), "my-project.web.hits_2");
    let table: TableRef = "example.com:my-project.web.hits".parse().unwrap();
    assert_eq!(table.project, "example.com:my-project");
    for wrong in ["hits", "web.hits", "p.w-b.hits", "p.web.hits$2026112905", "p.web.", ".web.hits", "p.web.a/b"] {
        let error = wrong.parse::<TableRef>().unwrap_err();
        assert!(error.contains(wrong) && error.contains("PROJECT.DATASET.TABLE"), "{error}");
    }
}

#[test]
fn partitions_are_named_by_their_start() {
    assert_eq!(Granularity::Hour.partition_id(HOUR).as_deref(), Some("2026112905"));
    assert_eq!(Granularity::Day.partition_id(HOUR), None);
    assert_eq!(Granularity::Day.partition_id(HOUR - 5 * 3_600_000).as_deref(), Some("20261129"));
    assert_eq!(Granularity::Hour.partition_id(-3_600_000).as_deref(), Some("1969123123"));
    assert_eq!(Granularity::Hour.partition_id(i64::MAX), None);
}

#[test]
fn labels_are_what_bigquery_takes() {
    assert_eq!(request::label("Access.Logs/v2"), "access_logs_v2");
    assert_eq!(request::label(&"x".repeat(100)).len(), 63);
}
