//! The HTTP listener: `/metrics` for Prometheus, `/healthz` for liveness, `/readyz` for readiness.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/healthz` | the pipeline's thread has turned within the last minute | it has not: restart the process |
//! | `/readyz` | started, nothing is wrong | not started, retrying something, or a partition stopped; the body says what |

use super::health::{Health, State};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// How long the pipeline's thread may be silent before it counts as hung, milliseconds.
const SILENCE_MS_MAX: i64 = 60_000;

/// Tells the listener that the pipeline's thread is alive.
#[derive(Debug, Default)]
pub struct Heartbeat {
    last_monotonic_ms: AtomicI64,
    started: AtomicI64,
}

impl Heartbeat {
    /// The thread has turned.
    pub fn beat(&self, monotonic_ms: i64) {
        self.last_monotonic_ms.store(monotonic_ms, Ordering::Relaxed);
        self.started.store(1, Ordering::Relaxed);
    }
}

/// What the listener shows.
#[derive(Clone)]
pub struct Shown {
    /// What is wrong.
    pub health: Arc<Health>,
    /// Life of the pipeline's thread.
    pub heartbeat: Arc<Heartbeat>,
    /// Time.
    pub clock: Arc<dyn crate::clock::Clock>,
    /// Numbers.
    pub metrics: PrometheusHandle,
}

/// The process's metrics recorder, installed on first use.
///
/// # Errors
/// Another recorder is installed.
pub fn metrics_recorder() -> Result<PrometheusHandle, String> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| format!("install the metrics recorder: {error}"))?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Binds `address` and serves until the process ends. Gives the address bound.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, shown: Shown) -> Result<SocketAddr, String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("[http] listen = \"{address}\": {error}"))?;
    let bound = listener.local_addr().map_err(|error| format!("[http] listen: {error}"))?;
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shown);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the http listener ended");
        }
    });
    Ok(bound)
}

async fn metrics_page(Shared(shown): Shared<Shown>) -> impl IntoResponse {
    shown.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shown.metrics.render())
}

async fn healthz(Shared(shown): Shared<Shown>) -> impl IntoResponse {
    let silent_ms = shown.clock.monotonic_ms() - shown.heartbeat.last_monotonic_ms.load(Ordering::Relaxed);
    // A process that still starts has no such thread yet, and ends by itself if it cannot.
    if shown.heartbeat.started.load(Ordering::Relaxed) != 0 && silent_ms > SILENCE_MS_MAX {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("the pipeline's thread has not turned for {silent_ms} ms\n"));
    }
    (StatusCode::OK, "alive\n".to_string())
}

async fn readyz(Shared(shown): Shared<Shown>) -> impl IntoResponse {
    if shown.heartbeat.started.load(Ordering::Relaxed) == 0 {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_string());
    }
    match shown.health.state() {
        State::Healthy => (StatusCode::OK, "ready\n".to_string()),
        State::Degraded | State::Stopped => (StatusCode::SERVICE_UNAVAILABLE, shown.health.lines().join("\n") + "\n"),
    }
}

/// Counters with labels: they begin where their labels are known, or at their first event.
const LABELLED: [&str; 3] =
    ["siltstone_sealed_batches_total", "siltstone_records_total", "siltstone_time_fallbacks_total"];

/// Help texts, so that `/metrics` explains itself. Counters without labels are there from the start, at 0: an alert on
/// `increase()` does not see the event that makes a counter appear.
fn describe() {
    let counters = [
        ("siltstone_sealed_batches_total", "batches sealed, by reason"),
        ("siltstone_committed_batches_total", "batches archived and committed"),
        ("siltstone_redone_batches_total", "unfinished batches of a predecessor that were redone"),
        ("siltstone_adopted_claims_total", "batches given up because another process had claimed another end"),
        ("siltstone_uploaded_objects_total", "objects uploaded and confirmed"),
        ("siltstone_uploaded_bytes_total", "bytes of objects uploaded and confirmed"),
        ("siltstone_records_total", "records of committed batches, by archive, output and outcome"),
        ("siltstone_dropped_fields_total", "fields outside a schema that `unknown = \"drop\"` left out"),
        (
            "siltstone_time_fallbacks_total",
            "records archived by their Kafka timestamp for want of their own, by archive",
        ),
        ("siltstone_absent_offsets_total", "offsets that Kafka deleted before they were read"),
        ("siltstone_folded_receipts_total", "receipts put into folds"),
        ("siltstone_retries_total", "tries of a store or coordinator that failed and were repeated"),
        ("siltstone_rejoins_total", "times the group was left because a commit's answer was unknown"),
        ("siltstone_offsets_behind_total", "times a committed offset had fallen behind"),
        ("siltstone_spool_failures_total", "batches thrown away because the spool failed"),
    ];
    for (name, help) in counters {
        metrics::describe_counter!(name, help);
        if !LABELLED.contains(&name) {
            metrics::counter!(name).increment(0);
        }
    }
    let gauges = [
        ("siltstone_held_partitions", "Kafka partitions held by this process, by topic"),
        ("siltstone_stopped_partitions", "held Kafka partitions that wait for a person, by topic"),
        ("siltstone_lag_offsets", "offsets between the committed one and the log's end, by topic"),
        ("siltstone_open_parts", "parts of open batches, by topic"),
        ("siltstone_uploading_batches", "sealed batches on their way, by topic"),
        ("siltstone_spool_bytes", "bytes in the spool"),
        ("siltstone_encoding_bytes", "bytes of memory of blocks that await or undergo encoding"),
    ];
    for (name, help) in gauges {
        metrics::describe_gauge!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_without_labels_are_there_before_their_first_event() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        let page = handle.render();
        for name in ["siltstone_absent_offsets_total", "siltstone_dropped_fields_total", "siltstone_retries_total"] {
            assert!(page.lines().any(|line| line == format!("{name} 0")), "{name}: {page}");
        }
        // A sample without the label would be another series for ever.
        for name in LABELLED {
            assert!(!page.lines().any(|line| line.starts_with(name)), "{name}: {page}");
        }
    }
}
