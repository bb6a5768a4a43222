//! Turns a pipeline on a thread of its own until it ends or a signal says so.

use crate::clock::Clock;
use crate::consume::Source;
use crate::exit::{Exit, Failure};
use crate::pipeline::{Ended, Pipeline};
use crate::telemetry::http::Heartbeat;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long one turn may wait for a record.
const TURN_WAIT: Duration = Duration::from_millis(20);
/// How long leaving the group may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Asks a driven pipeline to shut down.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Turns `pipeline` until it ends; leaves the group before it returns.
///
/// # Errors
/// The thread could not be started, or it panicked (a bug; nothing is lost).
pub async fn drive<S: Source + Send + 'static>(
    mut pipeline: Pipeline<S>,
    stop: Stop,
    heartbeat: Arc<Heartbeat>,
    clock: Arc<dyn Clock>,
) -> Result<Ended, Failure> {
    let (report, ended) = tokio::sync::oneshot::channel();
    let turn = move || {
        let ended = loop {
            heartbeat.beat(clock.monotonic_ms());
            if stop.is_asked() {
                pipeline.shut_down();
            }
            if let Some(ended) = pipeline.turn(TURN_WAIT) {
                break ended;
            }
        };
        pipeline.close(CLOSE_DEADLINE);
        // Nobody waits any more only when the process is ending anyway.
        drop(report.send(ended));
    };
    std::thread::Builder::new()
        .name("pipeline".to_string())
        .spawn(turn)
        .map_err(|error| Failure::new(Exit::Failed, format!("start the pipeline's thread: {error}")))?;
    ended.await.map_err(|_| {
        Failure::new(
            Exit::Failed,
            "the pipeline's thread panicked; this is a bug, nothing is lost: what was open is read again",
        )
    })
}

/// The first SIGTERM or SIGINT asks `stop`; the second ends the process at once.
///
/// # Errors
/// The signals cannot be caught.
pub fn stop_on_signals(stop: Stop) -> Result<(), Failure> {
    let catch = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("catch signals: {error}")));
    let (mut term, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked {
                tracing::warn!("second signal: leaving at once; what was open is read again by the next owner");
                std::process::exit(Exit::Interrupted as i32);
            }
            asked = true;
            stop.ask();
        }
    });
    Ok(())
}

/// The exit code of an ended pipeline.
///
/// # Errors
/// What the user should read, with its code.
pub fn exit_of(ended: Ended) -> Result<Exit, Failure> {
    match ended {
        Ended::Done => Ok(Exit::Done),
        Ended::Shutdown { complete: true, stopped: None } => Ok(Exit::Done),
        Ended::Shutdown { complete: true, stopped: Some(reason) } => Err(Failure::new(
            Exit::Stopped,
            format!("shut down, and what was open is committed, but a partition stays stopped: {reason}"),
        )),
        Ended::Shutdown { complete: false, .. } => Err(Failure::new(
            Exit::Incomplete,
            "shut down before everything open was committed; nothing is lost, the next owner reads the rest again",
        )),
        Ended::Fatal(reason) => Err(Failure::new(Exit::Stopped, reason)),
    }
}
