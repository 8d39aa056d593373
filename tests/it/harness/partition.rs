//! A relay between Howdah and its server that can be shut, as a network that is parted: both ends keep their
//! connections, and what one of them says reaches nobody until it is opened.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub struct Partition {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shut: bool,
    over: bool,
    links: Vec<TcpStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether it had to be waited for.
    fn await_open(&self) -> bool {
        let mut state = self.lock();
        let was_shut = state.shut;
        while state.shut {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        was_shut
    }

    fn link(self: &Arc<Self>, client: TcpStream, server: SocketAddr) {
        // Whoever calls while it is shut is not answered, and calls again.
        if self.await_open() {
            return;
        }
        let Ok(server) = TcpStream::connect(server) else { return };
        let twice = |s: &TcpStream| s.try_clone().expect("a descriptor");
        let (client_too, server_too) = (twice(&client), twice(&server));
        self.lock().links.extend([twice(&client), twice(&server)]);
        let other = Arc::clone(self);
        std::thread::spawn(move || other.pass(server_too, client_too));
        self.pass(client, server);
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = [0; 16 * 1024];
        loop {
            let n = from.read(&mut buf).unwrap_or(0);
            self.await_open();
            if n == 0 || to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Write));
    }
}

impl Partition {
    /// Open, before this server.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if inner.lock().over {
                    break;
                }
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || inner.link(client, server));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn shut(&self) {
        self.shared.lock().shut = true;
    }

    pub fn open(&self) {
        self.shared.lock().shut = false;
        self.shared.changed.notify_all();
    }

    /// Ends every connection through it, as keepalives do at both ends when a network stays parted.
    pub fn cut(&self) {
        for link in self.shared.lock().links.drain(..) {
            drop(link.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.cut();
        self.open();
        drop(TcpStream::connect(self.address));
    }
}
