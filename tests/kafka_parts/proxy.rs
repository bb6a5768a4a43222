//! A TCP proxy in front of the broker: cuts all connections, or holds back what a client sends.
//!
//! The broker's own address is replaced in its answers, so that clients stay behind the proxy whatever it advertises.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Kafka's number of the request.
pub(crate) const OFFSET_COMMIT: i16 = 8;
/// Also what a new member sends under the protocol `consumer`.
pub(crate) const JOIN_GROUP: i16 = 11;
const CONSUMER_GROUP_HEARTBEAT: i16 = 68;

#[derive(Default)]
struct State {
    down: bool,
    /// Requests with this number are held back, and all that follows on the same connection.
    hold: Option<i16>,
    /// Connections held back.
    held: usize,
    /// The numbers of all requests sent on.
    requests: Vec<i16>,
    connections: Vec<TcpStream>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while requests of `number` are held back.
    fn pass(&self, number: i16) {
        let mut state = self.state();
        if state.hold == Some(number) {
            state.held += 1;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.hold == Some(number) && !state.down)
                .unwrap_or_else(PoisonError::into_inner);
            state.held -= 1;
        }
        state.requests.push(number);
    }
}

/// The proxy; up when made.
pub(crate) struct Proxy {
    target: SocketAddr,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let target = super::support::env("KAFKA_BROKERS").parse().expect("one broker as address:port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut proxy = Self { target, address, shared: Arc::default(), accepting: None };
        proxy.accept(listener);
        proxy
    }

    /// For `[kafka] brokers`.
    pub(crate) fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// All connections end, new ones are refused.
    pub(crate) fn cut(&mut self) {
        self.shared.state().down = true;
        self.shared.changed.notify_all();
        // Wakes the listener, which then closes; it may have met another connection first.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("no panic");
        }
        for connection in self.shared.state().connections.drain(..) {
            // It may have ended by itself.
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Takes connections again.
    pub(crate) fn restore(&mut self) {
        self.shared.state().down = false;
        let listener = TcpListener::bind(self.address).expect("the same port");
        self.accept(listener);
    }

    /// From now on requests of this number are held back, and what follows on their connections.
    pub(crate) fn hold(&self, number: i16) {
        self.shared.state().hold = Some(number);
    }

    /// How many connections are held back.
    pub(crate) fn held(&self) -> usize {
        self.shared.state().held
    }

    /// What was held back goes on.
    pub(crate) fn release(&self) {
        self.shared.state().hold = None;
        self.shared.changed.notify_all();
    }

    /// How many requests of this number went through so far.
    pub(crate) fn requests(&self, number: i16) -> usize {
        self.shared.state().requests.iter().filter(|one| **one == number).count()
    }

    fn accept(&mut self, listener: TcpListener) {
        let (shared, target, address) = (self.shared.clone(), self.target, self.address);
        self.accepting = Some(std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let mut state = shared.state();
                if state.down {
                    return;
                }
                let broker = TcpStream::connect(target).expect("the broker runs");
                for one in [&client, &broker] {
                    one.set_nodelay(true).expect("a socket");
                    state.connections.push(one.try_clone().expect("a socket"));
                }
                drop(state);
                serve(&shared, client, broker, [target, address]);
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
        self.cut();
    }
}

/// Carries both directions until one of them ends.
fn serve(shared: &Arc<Shared>, client: TcpStream, broker: TcpStream, [target, address]: [SocketAddr; 2]) {
    let other = |one: &TcpStream| one.try_clone().expect("a socket");
    let (to_client, to_broker, shared) = (other(&client), other(&broker), shared.clone());
    std::thread::spawn(move || {
        carry(client, to_broker, |frame| {
            if let Some(number) = number(frame) {
                shared.pass(number);
            }
        });
    });
    let (own, ours) = (written(target), written(address));
    std::thread::spawn(move || carry(broker, to_client, |frame| replace(frame, &own, &ours)));
}

/// Kafka's number of a request.
fn number(frame: &[u8]) -> Option<i16> {
    let number = i16::from_be_bytes(frame.get(..2)?.try_into().ok()?);
    let joins = number == CONSUMER_GROUP_HEARTBEAT && member_epoch(frame) == Some(0);
    Some(if joins { JOIN_GROUP } else { number })
}

/// Of a heartbeat: behind number, version and correlation (8 bytes), the client's name, no tags, the group and the member.
fn member_epoch(frame: &[u8]) -> Option<i32> {
    let name = usize::from(u16::from_be_bytes(frame.get(8..10)?.try_into().ok()?));
    let group = 10 + name + 1;
    // A length here is one more than the text has bytes; all of them are below 128, where it is one byte.
    let member = group + usize::from(*frame.get(group)?);
    let epoch = member + usize::from(*frame.get(member)?);
    Some(i32::from_be_bytes(frame.get(epoch..epoch + 4)?.try_into().ok()?))
}

/// An address as Kafka's answers have it: the host's text, then the port as four bytes.
fn written(address: SocketAddr) -> Vec<u8> {
    let mut bytes = address.ip().to_string().into_bytes();
    bytes.extend(i32::from(address.port()).to_be_bytes());
    bytes
}

/// Both are of one length.
fn replace(frame: &mut [u8], own: &[u8], ours: &[u8]) {
    assert_eq!(own.len(), ours.len(), "the proxy and the broker have the same host");
    for start in 0..frame.len().saturating_sub(own.len() - 1) {
        if frame[start..].starts_with(own) {
            frame[start..start + ours.len()].copy_from_slice(ours);
        }
    }
}

/// Carries frames (a length of four bytes, then the rest) until a side ends, then ends the other.
fn carry(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&mut [u8])) {
    loop {
        let mut length = [0; 4];
        let mut frame = Vec::new();
        let read = from.read_exact(&mut length).and_then(|()| {
            frame.resize(u32::from_be_bytes(length) as usize, 0);
            from.read_exact(&mut frame)
        });
        let carried = read.and_then(|()| {
            see(&mut frame);
            to.write_all(&length)?;
            to.write_all(&frame)
        });
        if let Err(error) = carried {
            let ended = matches!(
                error.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::NotConnected
            );
            assert!(ended, "proxy: {error}");
            // It may have ended already.
            to.shutdown(Shutdown::Both).ok();
            from.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}
