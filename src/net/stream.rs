//! One connection of either side: TCP, Unix, or TLS over TCP.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

use super::socket;
use super::tls::{Handshakes, Tls};
use crate::config::resolved::Keepalive;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
}

/// The other end, for logs and `SHOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(a) => a.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What the reactor has seen of the other side's end of a connection. Bytes that nobody has read may lie before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// It may say more.
    Open,
    /// It says nothing more. Whether it still listens is not known: a TCP peer that has closed its socket and one that
    /// has shut down its sending side look the same until something is sent to them.
    Silent,
    /// Nothing reaches it any more.
    Gone,
}

macro_rules! each {
    ($self:ident, $s:ident => $e:expr, $tls:ident => $t:expr) => {
        match $self {
            Stream::Tcp($s) => $e,
            Stream::Unix($s) => $e,
            Stream::Tls($tls) => $t,
        }
    };
}

impl Stream {
    /// Reads what is there. A read that does not fill `buf` tells the reactor that there is no more, so that the
    /// next call costs no system call. Cancel safe.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        each!(self, s => socket::poll_read(s, cx, buf), tls => tls.poll_read(cx, buf))
    }

    /// Whether the reactor has seen something to read. Costs no system call and no lock, and arranges for no wake.
    #[inline]
    pub fn may_read(&self) -> bool {
        each!(self, s => s.try_io(Interest::READABLE, || Ok(())).is_ok(), tls => tls.may_read())
    }

    /// Whether a read may find something; asks the reactor, not the kernel.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read_ready(cx), tls => tls.poll_read_ready(cx))
    }

    /// Whether a write may find room; asks the reactor, not the kernel.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_write_ready(cx), tls => tls.poll_write_ready(cx))
    }

    /// Whether the other side has ended, without reading what it sent before. Asks the reactor, not the kernel, and
    /// arranges for no wake.
    pub fn peer_end(&self) -> PeerEnd {
        let both = Interest::READABLE | Interest::WRITABLE;
        let ready =
            each!(self, s => s.ready(both).now_or_never(), tls => tls.tcp().ready(both).now_or_never());
        match ready {
            Some(Ok(r)) if r.is_write_closed() => PeerEnd::Gone,
            Some(Ok(r)) if r.is_read_closed() => PeerEnd::Silent,
            _ => PeerEnd::Open,
        }
    }

    /// Reads without waiting; `WouldBlock` costs no system call when the reactor has seen nothing.
    #[inline]
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, s => socket::try_read(s, buf), tls => tls.try_read(buf))
    }

    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        each!(self, s => socket::try_write(s, &[IoSlice::new(buf)]), tls => tls.try_write(buf))
    }

    /// Writes `a`, then `b`, as far as there is room. Cancel safe.
    #[inline]
    pub fn poll_write2(&mut self, cx: &mut Context<'_>, a: &[u8], b: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => socket::poll_write2(s, cx, a, b), tls => tls.poll_write2(cx, a, b))
    }

    /// Writes all of it. Not cancel safe: what was written is not known.
    pub async fn write_all(&mut self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = std::future::poll_fn(|cx| self.poll_write2(cx, buf, &[])).await?;
            buf = buf.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that nothing more will be written. The other side may still write.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx), tls => tls.poll_shutdown(cx))
    }

    /// Appends what there is to read; 0 is the end. Cancel safe.
    pub async fn read_some(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            // On the stack of one poll: in the future, each task that reads would carry it.
            let mut chunk = [0; 2048];
            let n = ready!(self.poll_read(cx, &mut chunk))?;
            into.extend_from_slice(chunk.get(..n).unwrap_or_default());
            Poll::Ready(Ok(n))
        })
        .await
    }

    /// This end and the other, where they have addresses.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Self::Tcp(s) => (s.local_addr().ok(), s.peer_addr().ok()),
            Self::Unix(_) => (None, None),
            Self::Tls(s) => (s.tcp().local_addr().ok(), s.tcp().peer_addr().ok()),
        }
    }

    /// The user and process at the other end of a Unix socket.
    pub fn unix_peer(&self) -> Option<(u32, Option<i32>)> {
        match self {
            Self::Unix(s) => s.peer_cred().ok().map(|c| (c.uid(), c.pid())),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// From here on TLS, with a handshake first; `early` are bytes of it that were read already, and `beside` is where it
    /// is computed. Only TCP has TLS, as with PostgreSQL.
    pub async fn into_tls(
        self,
        connection: rustls::Connection,
        early: &[u8],
        beside: &Handshakes,
    ) -> io::Result<Self> {
        match self {
            Self::Tcp(s) => Ok(Self::Tls(Box::new(Tls::handshake(s, connection, early, beside).await?))),
            Self::Unix(_) | Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What TLS there is.
    pub fn tls(&self) -> Option<&rustls::Connection> {
        match self {
            Self::Tls(s) => Some(s.connection()),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// No Nagle, and keepalive as configured. Unix sockets need neither.
    pub fn tune(&self, k: &Keepalive) -> io::Result<()> {
        let Self::Tcp(s) = self else { return Ok(()) };
        s.set_nodelay(true)?;
        let sock = socket2::SockRef::from(s);
        if k.enabled {
            let mut ka = socket2::TcpKeepalive::new();
            if let Some(t) = k.idle {
                ka = ka.with_time(t);
            }
            if let Some(t) = k.interval {
                ka = ka.with_interval(t);
            }
            if let Some(n) = k.count {
                ka = ka.with_retries(n);
            }
            sock.set_tcp_keepalive(&ka)?;
        }
        if k.user_timeout.is_some() {
            sock.set_tcp_user_timeout(k.user_timeout)?;
        }
        Ok(())
    }
}
