//! An upload in pieces: one staged file, written by one task in the order in which the pieces were handed over.

use super::stage::Stage;
use super::{Inner, RUNTIME, unwritten};
use async_trait::async_trait;
use hdfs_native::HdfsError;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

enum Order {
    Piece(PutPayload, oneshot::Sender<Result<()>>),
    Complete(oneshot::Sender<Result<()>>),
}

/// Dropped or given up, its task ends where it is, and the staged file is removed. A completion that was asked for goes on.
pub(super) struct HdfsUpload {
    /// Unbounded: whoever uploads has few pieces on their way.
    orders: Option<mpsc::UnboundedSender<Order>>,
    task: Option<JoinHandle<()>>,
    inner: Arc<Inner>,
}

impl HdfsUpload {
    pub(super) fn begin(stage: Stage, target: String) -> Result<Self> {
        let runtime = RUNTIME.as_ref().map_err(|error| failed(&format!("no thread for it: {error}")))?;
        let (orders, received) = mpsc::unbounded_channel();
        let inner = Arc::clone(stage.inner());
        let task = Some(runtime.spawn(write(stage, target, received)));
        Ok(Self { orders: Some(orders), task, inner })
    }
}

async fn write(stage: Stage, target: String, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut stage = Some(stage);
    while let Some(order) = orders.recv().await {
        let told = match order {
            Order::Piece(payload, told) => {
                let outcome = match stage.as_mut() {
                    Some(stage) => append(stage, payload).await,
                    None => Err(failed("an earlier piece could not be written")),
                };
                if outcome.is_err() {
                    stage = None;
                }
                told.send(outcome)
            }
            Order::Complete(told) => told.send(match stage.take() {
                Some(stage) => stage.place(&target, true).await,
                None => Err(failed("one of its pieces could not be written")),
            }),
        };
        // Nobody waits for it any more.
        drop(told);
    }
}

async fn append(stage: &mut Stage, payload: PutPayload) -> Result<()> {
    for bytes in payload {
        stage.write(bytes).await?;
    }
    Ok(())
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
        let Some(task) = self.task.take().filter(|task| !task.is_finished()) else { return };
        if self.orders.take().is_some() {
            task.abort();
        }
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
