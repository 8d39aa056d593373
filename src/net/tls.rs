//! TLS on a TCP socket: rustls does the protocol, this moves its bytes.
//!
//! Between messages nothing is kept but what rustls keeps itself: no buffer of ours waits with an idle peer.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::socket;

pub struct Tls {
    tcp: TcpStream,
    connection: Connection,
    /// Decrypted bytes that wait in rustls.
    plain: usize,
    /// The peer has said goodbye, or just gone: PostgreSQL takes both for the end.
    ended: bool,
    /// Bytes that a writer gave us, whose records are not all with the kernel yet.
    owed: usize,
    said_goodbye: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// The socket in a poll, as what rustls reads from and writes to.
struct Polled<'a, 'b>(&'a TcpStream, &'a mut Context<'b>);

fn polled<T>(p: Poll<io::Result<T>>) -> io::Result<T> {
    match p {
        Poll::Ready(r) => r,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        polled(socket::poll_read(self.0, self.1, buf))
    }
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        polled(socket::poll_write(self.0, self.1, &[IoSlice::new(buf)]))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        polled(socket::poll_write(self.0, self.1, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket, without waiting.
struct Tried<'a>(&'a TcpStream);

impl Read for Tried<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        socket::try_read(self.0, buf)
    }
}

impl Write for Tried<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        socket::try_write(self.0, &[IoSlice::new(buf)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blocked(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock
}

fn poll_send(tcp: &TcpStream, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while connection.wants_write() {
        match connection.write_tls(&mut Polled(tcp, cx)) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(e) if blocked(&e) => return Poll::Pending,
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    Poll::Ready(Ok(()))
}

/// Sends what it can; what it cannot is sent with the next write.
fn try_send(tcp: &TcpStream, connection: &mut Connection) {
    while connection.wants_write() {
        if !matches!(connection.write_tls(&mut Tried(tcp)), Ok(n) if n > 0) {
            return;
        }
    }
}

fn poll_read_tls(
    tcp: &TcpStream,
    connection: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    match connection.read_tls(&mut Polled(tcp, cx)) {
        Err(e) if blocked(&e) => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// Where the handshakes of each side are computed: see [`Handshakes`]. The sides wait apart from each other, so that
/// strangers who open connections by the thousand hold up neither a connection to a server nor a liveness probe.
#[derive(Debug)]
pub struct Sides {
    pub clients: Handshakes,
    pub servers: Handshakes,
    pub ops: Handshakes,
}

impl Sides {
    pub fn new(workers: usize) -> Self {
        let half = (workers / 2).max(1);
        Self { clients: Handshakes::new(half), servers: Handshakes::new(half), ops: Handshakes::new(1) }
    }

    /// Each with its name in metrics.
    pub fn each(&self) -> [(&'static str, &Handshakes); 3] {
        [("client", &self.clients), ("server", &self.servers), ("ops", &self.ops)]
    }
}

/// The places in which handshakes are computed: beside the threads that relay, so many at a time. A signature takes
/// a tenth of a millisecond to one, and whoever opens connections by the thousand would take that time from every client.
#[derive(Debug)]
pub struct Handshakes {
    places: Arc<Semaphore>,
    steps: AtomicU64,
    waiting: AtomicUsize,
}

/// A handshake that waits for a place.
struct InQueue<'a>(&'a AtomicUsize);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handshakes {
    pub fn new(places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { places, steps: AtomicU64::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Steps of handshakes that were computed here; a handshake has one or two.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Handshakes that wait for a place now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn place(&self) -> io::Result<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_queue = InQueue(&self.waiting);
        self.places.clone().acquire_owned().await.map_err(io::Error::other)
    }

    /// Takes in what was read. Whoever gives up in the queue is not computed for.
    async fn digest(
        &self,
        mut connection: Connection,
    ) -> io::Result<(Connection, Result<rustls::IoState, rustls::Error>)> {
        let place = self.place().await?;
        self.steps.fetch_add(1, Ordering::Relaxed);
        let compute = move || {
            let done = connection.process_new_packets();
            // Until the end, also where nobody waits for that any more.
            drop(place);
            (connection, done)
        };
        tokio::task::spawn_blocking(compute).await.map_err(io::Error::other)
    }
}

impl Tls {
    /// Does the handshake; `early` are bytes of it that were read already. It is computed `beside` the threads that
    /// relay. An error holds rustls' own, where the peer is to blame. Not cancel safe: a
    /// handshake that is given up is over.
    pub async fn handshake(
        tcp: TcpStream,
        mut connection: Connection,
        mut early: &[u8],
        beside: &Handshakes,
    ) -> io::Result<Self> {
        let (mut plain, mut ended) = (0, false);
        loop {
            std::future::poll_fn(|cx| poll_send(&tcp, &mut connection, cx)).await?;
            if !connection.is_handshaking() && early.is_empty() {
                return Ok(Self { tcp, connection, plain, ended, owed: 0, said_goodbye: false });
            }
            let n = if early.is_empty() {
                std::future::poll_fn(|cx| poll_read_tls(&tcp, &mut connection, cx)).await?
            } else {
                connection.read_tls(&mut early)?
            };
            if n == 0 || ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (back, done) = beside.digest(connection).await?;
            connection = back;
            match done {
                Ok(state) => {
                    plain = state.plaintext_bytes_to_read();
                    ended |= state.peer_has_closed();
                }
                Err(e) => {
                    // There is an alert for the peer.
                    try_send(&tcp, &mut connection);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
        }
    }

    pub(super) const fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes in what `read_tls` has read.
    fn digest(&mut self) -> io::Result<()> {
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.plain = state.plaintext_bytes_to_read();
                self.ended |= state.peer_has_closed();
                Ok(())
            }
            Err(e) => {
                // There is an alert for the peer.
                self.try_send();
                Err(io::Error::new(io::ErrorKind::InvalidData, e))
            }
        }
    }

    fn received(&mut self, read: io::Result<usize>) -> io::Result<()> {
        match read {
            Ok(0) => {
                self.ended = true;
                Ok(())
            }
            Ok(_) => {
                self.digest()?;
                if self.connection.wants_write() && !self.connection.is_handshaking() {
                    // A key update is answered by the way.
                    self.try_send();
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = self.connection.read_tls(&mut Polled(&self.tcp, cx));
        match self.received(read) {
            Err(e) if blocked(&e) => Poll::Pending,
            done => Poll::Ready(done),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_send(&self.tcp, &mut self.connection, cx)
    }

    fn try_send(&mut self) {
        try_send(&self.tcp, &mut self.connection);
    }

    fn take_plain(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.connection.reader().read(buf)?;
        self.plain = self.plain.saturating_sub(n);
        Ok(n)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.plain > 0 {
                return Poll::Ready(self.take_plain(buf));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    pub(super) fn may_read(&self) -> bool {
        self.plain > 0 || self.ended || self.tcp.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_goodbye {
            self.said_goodbye = true;
            self.connection.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.plain > 0 || self.ended {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    pub(super) fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.plain > 0 {
                return self.take_plain(buf);
            }
            if self.ended {
                return Ok(0);
            }
            let read = self.connection.read_tls(&mut Tried(&self.tcp));
            self.received(read)?;
        }
    }

    pub(super) fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.connection.writer().write(buf)?;
        self.try_send();
        Ok(n)
    }

    /// Writes `a`, then `b`. Bytes are reported as written when the kernel has all their records: until then
    /// the caller must come back with the same bytes.
    pub(super) fn poll_write2(
        &mut self,
        cx: &mut Context<'_>,
        a: &[u8],
        b: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if self.owed == 0 {
            self.owed = self.connection.writer().write_vectored(&[IoSlice::new(a), IoSlice::new(b)])?;
            ready!(self.poll_send(cx))?;
        }
        // What the caller has thrown away since is not counted.
        Poll::Ready(Ok(std::mem::take(&mut self.owed).min(a.len() + b.len())))
    }
}

impl Drop for Tls {
    /// Without the goodbye, OpenSSL would call the end of the connection an error.
    fn drop(&mut self) {
        if !self.said_goodbye {
            self.connection.send_close_notify();
            self.try_send();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::{ClientHello, ResolvesServerCert, ServerConnection};
    use rustls::sign::CertifiedKey;
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl ResolvesServerCert for Nobody {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    fn server() -> Connection {
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Nobody));
        ServerConnection::new(Arc::new(config)).expect("a connection").into()
    }

    #[tokio::test]
    async fn handshakes_are_computed_in_places_of_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it accepts");
        let (tcp, _) = listener.accept().await.expect("a connection");
        // No handshake at all: to see that it is none, it must be computed.
        client.try_write(b"GET / HTTP/1.1\r\n\r\n").expect("room");
        let handshakes = Sides::new(4).clients;
        assert_eq!(handshakes.places.available_permits(), 2, "half of those that relay");
        let all = handshakes.places.clone().acquire_many_owned(2).await.expect("both places");
        let handshake = Tls::handshake(tcp, server(), &[], &handshakes);
        tokio::pin!(handshake);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(50), handshake.as_mut()).await;
        assert!(waits.is_err(), "there is no place");
        assert_eq!((handshakes.waiting(), handshakes.steps()), (1, 0));
        drop(all);
        let failed = handshake.await.expect_err("it is no handshake");
        assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        assert_eq!((handshakes.waiting(), handshakes.steps()), (0, 1));
        assert_eq!(handshakes.places.available_permits(), 2);
    }
}
