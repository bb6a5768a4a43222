//! The client in use, and the one that takes its place where a namenode is silent.
//!
//! The client waits for ever for a namenode that takes a question and says nothing (a process that stands still), or whose machine is gone
//! without a word; it asks the next one only where a connection is refused, or where a namenode says that it is standby. So every question is
//! bounded here, and after one that was not answered in time a new client begins with the next namenode, over new connections.

use super::within;
use hdfs_native::{Client, HdfsError};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Makes a client that asks the namenodes in their order, beginning with that one; a number behind the last begins anew.
pub(super) type Make = dyn Fn(usize) -> hdfs_native::Result<Client> + Send + Sync;

/// The namenodes of a destination.
pub(super) struct Namenodes {
    make: Box<Make>,
    answer_max: Duration,
    now: Mutex<Now>,
}

struct Now {
    /// Which namenode is asked first.
    first: usize,
    client: Client,
}

/// The client in use at a moment.
pub(super) struct Namenode {
    pub(super) client: Client,
    first: usize,
    all: Arc<Namenodes>,
}

impl Namenodes {
    /// A question is answered within `answer_max`, or counts as one that was not.
    pub(super) fn new(make: Box<Make>, answer_max: Duration) -> hdfs_native::Result<Arc<Self>> {
        let client = make(0)?;
        Ok(Arc::new(Self { make, answer_max, now: Mutex::new(Now { first: 0, client }) }))
    }

    pub(super) fn now(self: &Arc<Self>) -> Namenode {
        let now = self.lock();
        Namenode { client: now.client.clone(), first: now.first, all: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever notices it first; many may wait for the same namenode.
    fn pass_over(&self, silent: usize) {
        if self.lock().first != silent {
            return;
        }
        // It reads files: nobody waits for the lock meanwhile.
        let made = (self.make)(silent + 1);
        let mut now = self.lock();
        match made {
            Ok(client) if now.first == silent => {
                *now = Now { first: silent + 1, client };
                tracing::warn!(
                    seconds = self.answer_max.as_secs_f64(),
                    "a namenode did not answer: the next one is asked, over new connections"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a namenode did not answer, and no new client can be made"),
        }
    }
}

impl Namenode {
    /// Waits for the answer to a question, which its client asks.
    pub(super) async fn answer<T>(
        &self,
        question: impl Future<Output = hdfs_native::Result<T>>,
    ) -> hdfs_native::Result<T> {
        let answer = within(self.all.answer_max, question).await;
        if matches!(&answer, Err(HdfsError::IOError(error)) if error.kind() == io::ErrorKind::TimedOut) {
            self.all.pass_over(self.first);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdfs_native::ClientBuilder;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Goal: a namenode that takes connections and says nothing is asked no longer, however many wait for it; the client that takes the place
    /// of the first begins with the next. Method: listeners that nobody serves.
    #[tokio::test]
    async fn a_silent_namenode_is_passed_over_once() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("its address");
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let make = move |first| {
            assert_eq!(count.fetch_add(1, Ordering::SeqCst), first);
            ClientBuilder::new().with_url(format!("hdfs://{address}")).build()
        };
        let namenodes = Namenodes::new(Box::new(make), Duration::from_millis(200)).expect("a client");
        let ask = async || {
            let namenode = namenodes.now();
            namenode.answer(namenode.client.get_file_info("/x")).await.expect_err("it says nothing")
        };
        let errors = futures::future::join_all((0..5).map(|_| ask())).await;
        for error in errors {
            assert!(error.to_string().contains("no answer within 0.2 s"), "{error}");
        }
        assert_eq!((made.load(Ordering::SeqCst), namenodes.now().first), (2, 1));
        ask().await;
        assert_eq!((made.load(Ordering::SeqCst), namenodes.now().first), (3, 2));
    }

    /// A namenode that answers no is one that answers.
    #[tokio::test]
    async fn an_error_is_an_answer() {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
        let make = move |_| {
            let settings = [("dfs.client.failover.max.attempts", "0")];
            ClientBuilder::new().with_url(format!("hdfs://{free}")).with_config(settings).build()
        };
        let namenodes = Namenodes::new(Box::new(make), Duration::from_secs(60)).expect("a client");
        let namenode = namenodes.now();
        namenode.answer(namenode.client.get_file_info("/x")).await.expect_err("nobody is there");
        assert_eq!(namenodes.now().first, 0);
    }
}
