//! The membership that source and coordinator share, and how a member goes away.
//!
//! A member ends by being dropped whole, on a thread of its own: leaving the group may take as long as it likes, and
//! neither the poll thread nor a shutdown waits for it longer than they said.
//!
//! # Invariant
//! - **G-1** [`Leaving::wait`] says that the member is gone only when no commit of it is under way and none can start: the
//!   commit thread refers to a client only while it holds the gate, and the client is destroyed after the gate was free.

use super::group::GroupContext;
use super::held::Ownership;
use super::reading::Reading;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// The client of one member.
pub(super) type GroupClient = BaseConsumer<GroupContext>;

/// How long a new member waits for the old one to be gone (G-1).
///
/// Past it (a commit that hangs in a dead connection takes up to librdkafka's `socket.timeout.ms`, 60 s) the new member joins
/// all the same. What holds then: this process sends no other commit before the hanging one has ended, because there is
/// one commit thread; and whoever owns the Kafka partition by now is covered by the claim in the bucket, should the
/// old commit still be carried out over a newer one. On a store without conditional create the claim is a plain PUT, so
/// there this case has no fence but the owner's read-back of its committed offsets.
pub(super) const LEAVE_WAIT_MS: i64 = 30_000;

/// What the source and the coordinator share: who holds what, and the client to commit with.
pub(super) struct Membership {
    pub(super) ownership: Arc<Ownership>,
    pub(super) grace: Duration,
    client: Mutex<Option<Arc<GroupClient>>>,
    /// Set by a commit that found this member put out of the group, or got no answer.
    pub(super) put_out: AtomicBool,
}

impl Membership {
    pub(super) fn new(grace: Duration) -> Self {
        Self { ownership: Arc::default(), grace, client: Mutex::default(), put_out: AtomicBool::new(false) }
    }

    /// The client of the present member; `None` between two memberships.
    pub(super) fn client(&self) -> Option<Arc<GroupClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the membership that `client` stands for, if it is still the present one: everything held is dead at once, and the
    /// source leaves with its next poll. A commit that comes back late must not end its successor.
    pub(super) fn end(&self, client: &Arc<GroupClient>) {
        let present = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, client)) {
            self.ownership.clear();
            self.put_out.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn set_client(&self, client: Option<Arc<GroupClient>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

/// Destroys the client of a member that has ended.
///
/// librdkafka 2.12 refuses to close a client with a fatal error, and to destroy it then never ends and keeps a core busy. So
/// it is left as it is: idle, until the process ends.
pub(super) fn destroy(client: Arc<GroupClient>) {
    if client.client().fatal_error().is_some() {
        std::mem::forget(client);
    }
}

/// An old member on its way out.
pub(super) struct Leaving {
    done: mpsc::Receiver<()>,
    since_ms: i64,
}

impl Leaving {
    /// Sees `client` off: waits for a commit under way, leaves the group, destroys the client. The caller has taken it out of
    /// the [`Membership`], so no other commit finds it.
    pub(super) fn start(client: Arc<GroupClient>, ownership: Arc<Ownership>, now_ms: i64) -> Option<Self> {
        Self::aside(now_ms, move || {
            drop(ownership.gate());
            destroy(client);
        })
    }

    /// Ends the reading client as well, whose connections may take their time.
    pub(super) fn stop_reading(reading: Reading, now_ms: i64) -> Option<Self> {
        Self::aside(now_ms, move || drop(reading))
    }

    fn aside(now_ms: i64, end: impl FnOnce() + Send + 'static) -> Option<Self> {
        let (sender, done) = mpsc::channel();
        let close = move || {
            end();
            // Nobody may be waiting any more.
            sender.send(()).ok();
        };
        match std::thread::Builder::new().name("kafka-leave".into()).spawn(close) {
            Ok(_) => Some(Self { done, since_ms: now_ms }),
            Err(error) => {
                tracing::warn!(%error, "no thread to leave the group on; it was left on this one");
                None
            }
        }
    }

    /// Waits up to `wait` for it to be gone (G-1); whether it is.
    pub(super) fn wait(&self, wait: Duration) -> bool {
        self.done.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout)
    }

    /// Whether it has taken longer than a new member waits.
    pub(super) fn overdue(&self, now_ms: i64) -> bool {
        now_ms - self.since_ms >= LEAVE_WAIT_MS
    }
}
