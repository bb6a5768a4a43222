//! A file that is written by one task, in the order in which its pieces were handed over.
//!
//! The client keeps a connection to datanodes for ever where what it does is cut off in the middle of a block. So nothing here is: an upload
//! that is dropped or given up tells its task, which ends at the next step and closes what it has opened.

use super::stage::Stage;
use super::{Inner, RUNTIME, unwritten};
use async_trait::async_trait;
use hdfs_native::HdfsError;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// What the datanodes are handed in one step. The client makes packets of it and waits only where there are many.
const STEP_BYTES: usize = 1 << 20;

enum Order {
    Piece(PutPayload, oneshot::Sender<Result<()>>),
    Complete(oneshot::Sender<Result<()>>),
}

/// Dropped or given up, its task ends soon, and the staged file is removed. A completion that was asked for goes on.
pub(super) struct HdfsUpload {
    /// Unbounded: whoever uploads has few pieces on their way.
    orders: Option<mpsc::UnboundedSender<Order>>,
    given_up: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
    inner: Arc<Inner>,
}

/// What the task works on.
struct Writing {
    stage: Option<Stage>,
    target: String,
    overwrite: bool,
    given_up: Arc<AtomicBool>,
}

impl HdfsUpload {
    /// The file is to be `target`. Without `overwrite` nothing may have that name.
    pub(super) fn begin(stage: Stage, target: String, overwrite: bool) -> Result<Self> {
        let runtime = RUNTIME.as_ref().map_err(|error| failed(&format!("no thread for it: {error}")))?;
        let (orders, received) = mpsc::unbounded_channel();
        let inner = Arc::clone(stage.inner());
        let given_up = Arc::new(AtomicBool::new(false));
        let writing = Writing { stage: Some(stage), target, overwrite, given_up: Arc::clone(&given_up) };
        let task = Some(runtime.spawn(writing.obey(received)));
        Ok(Self { orders: Some(orders), given_up, task, inner })
    }
}

impl Writing {
    async fn obey(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            // Nobody may wait for it any more.
            drop(match order {
                Order::Piece(payload, told) => told.send(self.append(payload).await),
                Order::Complete(told) => told.send(self.place().await),
            });
        }
    }

    /// The piece is on the datanodes' disks then, and none of it in memory (U-4).
    async fn append(&mut self, payload: PutPayload) -> Result<()> {
        // Until it has gone well the stage is not there: what failed is not gone on with.
        let mut stage = self.stage.take().ok_or_else(|| failed("an earlier piece could not be written"))?;
        for mut bytes in payload {
            while !bytes.is_empty() {
                if self.given_up.load(Ordering::Relaxed) {
                    return Err(failed(OVER));
                }
                stage.write(bytes.split_to(bytes.len().min(STEP_BYTES))).await?;
            }
        }
        stage.sync().await?;
        self.stage = Some(stage);
        Ok(())
    }

    async fn place(&mut self) -> Result<()> {
        let stage = self.stage.take().ok_or_else(|| failed("one of its pieces could not be written"))?;
        stage.place(&self.target, self.overwrite).await
    }
}

fn failed(what: &str) -> Error {
    unwritten(HdfsError::OperationFailed(what.to_string()))
}

const OVER: &str = "the upload is over already";

#[async_trait]
impl MultipartUpload for HdfsUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (told, outcome) = oneshot::channel();
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(Order::Piece(data, told)).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(failed(OVER));
            }
            outcome.await.unwrap_or_else(|_| Err(failed(OVER)))
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let orders = self.orders.take().ok_or_else(|| failed(OVER))?;
        let (told, outcome) = oneshot::channel();
        orders.send(Order::Complete(told)).map_err(|_| failed(OVER))?;
        outcome.await.unwrap_or_else(|_| Err(failed(OVER)))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Aborting what is over already is no failure: an abort is made again where its answer was lost.
    async fn abort(&mut self) -> Result<()> {
        self.give_up();
        Ok(())
    }
}

impl HdfsUpload {
    fn give_up(&mut self) {
        if self.orders.take().is_some() {
            self.given_up.store(true, Ordering::Relaxed);
        }
        let Some(task) = self.task.take().filter(|task| !task.is_finished()) else { return };
        // Its staged file goes when it ends, which is counted from then on.
        let at_work = self.inner.at_work.subscribe();
        if let Ok(runtime) = &*RUNTIME {
            runtime.spawn(async move {
                drop(task.await);
                drop(at_work);
            });
        }
    }
}

impl Drop for HdfsUpload {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for HdfsUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HdfsUpload")
    }
}
