//! A wire to a server that changes bytes on their way, loses answers, or lets requests in and no answer out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What stands in a body where a byte is changed on its way.
pub(crate) const MARK: &[u8] = b"<<this byte changes: ?>>";

/// What the wire does.
#[derive(Debug, Default)]
pub(crate) struct Tampering {
    /// So many marks from now on lose a bit.
    pub(crate) flips: AtomicUsize,
    /// Requests reach nobody, and nothing is answered.
    pub(crate) hangs: AtomicBool,
    /// Reads of bytes that were swallowed so.
    pub(crate) swallowed: AtomicUsize,
    /// The next request that holds this loses its answer.
    pub(crate) loses: Mutex<Option<&'static str>>,
}

impl Tampering {
    fn loses_answer(&self, request: &[u8]) -> bool {
        let mut loses = self.loses.lock().expect("no panic inside");
        let holds = |part: &str| request.windows(part.len()).any(|window| window == part.as_bytes());
        loses.take_if(|part| holds(part)).is_some()
    }
}

/// A wire to the server at `endpoint`: the address of its other end, and what it does.
pub(crate) async fn to(endpoint: &str) -> (String, Arc<Tampering>) {
    let server = endpoint.strip_prefix("http://").expect("plain HTTP");
    let (server, path) =
        server.split_once('/').map_or((server, String::new()), |(host, path)| (host, format!("/{path}")));
    let server = server.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}{path}", listener.local_addr().expect("its address"));
    let tampering = Arc::new(Tampering::default());
    let does = tampering.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, does) = (TcpStream::connect(&server).await.expect("the server"), does.clone());
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let loses = Arc::new(AtomicBool::new(false));
            tokio::spawn(requests(from_client, to_server, does, loses.clone()));
            tokio::spawn(answers(from_server, to_client, loses));
        }
    });
    (address, tampering)
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, does: Arc<Tampering>, loses: Arc<AtomicBool>) {
    let mut bytes = vec![0; 256 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if does.hangs.load(Ordering::SeqCst) {
            does.swallowed.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let chunk = &mut bytes[..read];
        if does.loses_answer(chunk) {
            loses.store(true, Ordering::SeqCst);
        }
        if let Some(at) = chunk.windows(MARK.len()).position(|window| window == MARK) {
            let take = |left: usize| left.checked_sub(1);
            if does.flips.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                chunk[at + MARK.len() - 3] ^= 1;
            }
        }
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, loses: Arc<AtomicBool>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        // The server has done it, and the connection breaks before it can say so.
        if loses.load(Ordering::SeqCst) || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
