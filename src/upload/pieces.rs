//! An upload in pieces, which is completed or aborted, also where nobody waits for it any more: pieces of dead uploads cost money.
//!
//! What the store is asked runs in tasks of its own. An upload that is dropped in the middle (its Kafka partition was revoked)
//! cuts off no request whose effect nobody would learn of: neither the one that begins it, nor a piece, nor its completion.
//!
//! # Invariants
//! - **P-1** The abort goes out after the last piece on its way has landed, or [`PIECES_WAIT_MAX`] later: a store that takes a
//!   piece after the abort keeps it.
//! - **P-2** An abort that failed, or whose answer was lost, is made again, [`ABORTS_MAX`] times at most. A store that answers
//!   none of them keeps the pieces: the bucket's own rule for dead uploads is the last resort, as it is for an upload that was begun
//!   and whose id nobody was told.

use super::{Target, UploadError};
use crate::destination::AtWork;
use crate::destination::fault::Fault;
use crate::effect::{Effect, requests};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutMultipartOptions, PutPayload, Result};
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Longest that an upload which failed or was given up waits for its pieces on their way.
const PIECES_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest that an abort waits for its answer.
const ABORT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Most aborts of one upload.
const ABORTS_MAX: u32 = 5;
/// Before the second abort; twice as long before each one after it.
const ABORT_PAUSE: Duration = Duration::from_millis(100);

/// An upload in pieces that is open.
pub(super) struct Pieces {
    upload: Option<Box<dyn MultipartUpload>>,
    on_their_way: JoinSet<Result<()>>,
    location: Path,
    at_work: AtWork,
    /// Of the tasks; it may be dropped on any thread.
    runtime: Handle,
}

impl Pieces {
    /// Begins an upload. One that nobody waits for any more is given up as soon as the store has told its id.
    pub(super) async fn begin(target: &Target<'_>) -> std::result::Result<Self, UploadError> {
        let options = PutMultipartOptions { attributes: target.attributes(), ..PutMultipartOptions::default() };
        let (store, location) = (target.destination.store().clone(), target.location.clone());
        let at_work = target.destination.at_work();
        let (tell, begun) = oneshot::channel();
        tokio::spawn(async move {
            let upload = requests::begin(Effect::UploadBegin, &store, &location, options).await;
            let runtime = Handle::current();
            let pieces = upload.map(|upload| Self {
                upload: Some(upload),
                on_their_way: JoinSet::new(),
                location,
                at_work,
                runtime,
            });
            // Dropped here, or in the channel, it is given up.
            drop(tell.send(pieces));
        });
        let over = |_| Err(Error::Generic { store: "upload", source: "its task has ended".into() });
        begun.await.unwrap_or_else(over).map_err(|error| target.store_error(&error))
    }

    /// How many pieces are on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.on_their_way.len()
    }

    /// Sends the next piece, and waits for nothing.
    pub(super) fn send(&mut self, bytes: Bytes) {
        if let Some(upload) = &mut self.upload {
            let piece = requests::piece(Effect::UploadPiece, upload.as_mut(), PutPayload::from_bytes(bytes));
            self.on_their_way.spawn(piece);
        }
    }

    /// Waits until one of the pieces on their way has landed, where there are any.
    pub(super) async fn landed(&mut self) -> Result<()> {
        match self.on_their_way.join_next().await {
            None => Ok(()),
            Some(Ok(landed)) => landed,
            Some(Err(source)) => Err(Error::JoinError { source }),
        }
    }

    /// Puts the pieces together. Aborted where that fails.
    pub(super) async fn complete(mut self) -> Result<()> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        let (location, at_work) = (self.location.clone(), self.at_work.clone());
        to_its_end(async move {
            let _at_work = at_work;
            let done = requests::complete(Effect::UploadComplete, upload.as_mut()).await;
            if done.is_err() {
                abort(upload, &location).await;
            }
            done.map(|_| ())
        })
        .await
    }

    /// Aborts it, once the pieces on their way have landed.
    pub(super) async fn give_up(mut self) {
        if let Some(given_up) = self.giving_up() {
            let ended = async {
                given_up.await;
                Ok(())
            };
            drop(to_its_end(ended).await);
        }
    }

    fn giving_up(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let upload = self.upload.take()?;
        let mut on_their_way = std::mem::take(&mut self.on_their_way);
        let (location, at_work) = (self.location.clone(), self.at_work.clone());
        Some(async move {
            let _at_work = at_work;
            let landed = async { while on_their_way.join_next().await.is_some() {} };
            if tokio::time::timeout(PIECES_WAIT_MAX, landed).await.is_err() {
                on_their_way.shutdown().await;
            }
            abort(upload, &location).await;
        })
    }
}

impl Drop for Pieces {
    /// The upload was given up in the middle: whoever awaited it is gone, so a task of its own has to tell the store.
    fn drop(&mut self) {
        if let Some(given_up) = self.giving_up() {
            self.runtime.spawn(given_up);
        }
    }
}

/// Runs `work` to its end, also where the caller goes away meanwhile.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|source| Err(Error::JoinError { source }))
}

/// Tells the store to forget the upload (P-2).
async fn abort(mut upload: Box<dyn MultipartUpload>, location: &Path) {
    let mut pause = ABORT_PAUSE;
    for left in (0..ABORTS_MAX).rev() {
        let fault =
            match tokio::time::timeout(ABORT_WAIT_MAX, requests::abort(Effect::UploadAbort, upload.as_mut())).await {
                // Not found: aborted by a request whose answer was lost, or completed.
                Ok(Ok(()) | Err(Error::NotFound { .. })) => return,
                Ok(Err(error)) => Fault::of(&error).to_string(),
                Err(_) => format!("no answer within {} s", ABORT_WAIT_MAX.as_secs()),
            };
        if left == 0 {
            tracing::warn!(%location, fault, "pieces of a failed upload may be left in the bucket; its rule for unfinished uploads removes them");
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
