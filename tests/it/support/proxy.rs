//! A TCP proxy in front of a store: while it is held, nothing that a client sends arrives.

use super::{DEADLINE, setting, until};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Default)]
struct State {
    held: bool,
    /// Connections with something to send.
    waiting: usize,
    over: bool,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no proxy panics inside")
    }

    fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        let mut state = self.changed.wait_while(state, |state| state.held).expect("no proxy panics inside");
        state.waiting -= 1;
    }
}

/// Open when it is made.
pub(crate) struct Proxy {
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Proxy {
    /// In front of the S3 server.
    pub(crate) fn to_s3() -> Self {
        let endpoint = setting("S3_ENDPOINT");
        let target = endpoint.strip_prefix("http://").expect("http").trim_end_matches('/').to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let gate = Arc::<Gate>::default();
        let ours = gate.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ours.state().over {
                    return;
                }
                let (client, server) = (client.expect("a connection"), TcpStream::connect(&target).expect("S3 runs"));
                let other = |one: &TcpStream| one.try_clone().expect("a socket");
                let (to_client, to_server, gate) = (other(&client), other(&server), ours.clone());
                std::thread::spawn(move || carry(client, to_server, || gate.pass()));
                std::thread::spawn(move || carry(server, to_client, || {}));
            }
        });
        Self { address, gate }
    }

    /// For `endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing passes.
    pub(crate) fn hold(&self) {
        self.gate.state().held = true;
    }

    /// Waits until somebody waits for the store.
    pub(crate) fn until_waiting(&self) {
        until("a request is held", DEADLINE, || (self.gate.state().waiting > 0).then_some(()));
    }

    /// What was held goes on.
    pub(crate) fn release(&self) {
        self.gate.state().held = false;
        self.gate.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.state().over = true;
        self.release();
        // Wakes the listener, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

/// Carries bytes until a side ends, then ends the other.
fn carry(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut()) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        pass();
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // Either may have ended already.
    drop((to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both)));
}
