//! Reads and writes of a socket that the reactor watches, each one system call.
//!
//! libc's are points of cancellation: in a process of several threads each call of them costs two locked exchanges that
//! nobody here needs. A call that moves less than it could have tells the reactor that there is no more to read, or no more
//! room, so that the next one costs no system call (epoll is asked by edges: see epoll(7)).

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// So much is written without asking first. Longer streams ask for their turn, so that others have one, too.
const AT_ONCE: usize = 8 * 1024;

pub(super) trait Socket: AsFd {
    fn try_io(&self, interest: Interest, call: impl FnOnce() -> io::Result<()>) -> io::Result<()>;

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($stream:ty) => {
        impl Socket for $stream {
            #[inline]
            fn try_io(&self, interest: Interest, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
                Self::try_io(self, interest, call)
            }

            #[inline]
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Self::poll_read_ready(self, cx)
            }

            #[inline]
            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Self::poll_write_ready(self, cx)
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

/// One `call` that moves at most `most` bytes, if the reactor has seen that it may.
#[inline]
fn once(
    s: &impl Socket,
    interest: Interest,
    most: usize,
    call: impl FnOnce() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = 0;
    let done = s.try_io(interest, || {
        moved = call()?;
        // To the reactor all the same as a call that has moved nothing.
        if 0 < moved && moved < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if moved > 0 { Ok(moved) } else { done.map(|()| 0) }
}

/// Reads without waiting; 0 is the end, for a `buf` that is not empty.
#[inline]
pub(super) fn try_read(s: &impl Socket, buf: &mut [u8]) -> io::Result<usize> {
    let most = buf.len();
    once(s, Interest::READABLE, most, || rustix::net::recv(s, buf, RecvFlags::empty()).map(|(_, n)| n))
}

#[inline]
fn total(bufs: &[IoSlice<'_>]) -> usize {
    bufs.iter().map(|b| b.len()).sum()
}

/// An end that is closed is an error, not a signal.
const FLAGS: SendFlags = SendFlags::NOSIGNAL;

/// Writes as far as there is room, without waiting.
#[inline]
pub(super) fn try_write(s: &impl Socket, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    once(s, Interest::WRITABLE, total(bufs), || match bufs {
        [one] => rustix::net::send(s, one, FLAGS),
        _ => rustix::net::sendmsg(s, bufs, &mut SendAncillaryBuffer::default(), FLAGS),
    })
}

/// Until one call moves something or fails, or the reactor knows of nothing and will wake us.
#[inline]
fn poll(
    mut call: impl FnMut() -> io::Result<usize>,
    mut is_ready: impl FnMut() -> Poll<io::Result<()>>,
) -> Poll<io::Result<usize>> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(is_ready())?,
            done => return Poll::Ready(done),
        }
    }
}

/// Reads what is there. Cancel safe.
#[inline]
pub(super) fn poll_read(s: &impl Socket, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    poll(|| try_read(s, buf), || s.poll_read_ready(cx))
}

/// Writes as far as there is room. Cancel safe.
#[inline]
pub(super) fn poll_write(
    s: &impl Socket,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if total(bufs) > AT_ONCE {
        ready!(s.poll_write_ready(cx))?;
    }
    let call = || match try_write(s, bufs) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        done => done,
    };
    poll(call, || s.poll_write_ready(cx))
}

/// The same of `a`, then `b`.
#[inline]
pub(super) fn poll_write2(
    s: &impl Socket,
    cx: &mut Context<'_>,
    a: &[u8],
    b: &[u8],
) -> Poll<io::Result<usize>> {
    match (a, b) {
        ([], one) | (one, []) => poll_write(s, cx, &[IoSlice::new(one)]),
        _ => poll_write(s, cx, &[IoSlice::new(a), IoSlice::new(b)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(s: &UnixStream, interest: Interest) -> bool {
        s.try_io(interest, || Ok(())).is_ok()
    }

    #[tokio::test]
    async fn a_read_that_leaves_room_tells_the_reactor_that_there_is_no_more() {
        let (a, b) = UnixStream::pair().expect("a pair");
        let mut buf = [0; 4];
        for round in 0..3 {
            assert_eq!(try_write(&b, &[IoSlice::new(b"abc"), IoSlice::new(b"defgh")]).expect("room"), 8);
            // A read that fills the buffer may have left something.
            for (expected, more) in [(&b"abcd"[..], true), (b"efgh", true)] {
                let n = std::future::poll_fn(|cx| poll_read(&a, cx, &mut buf)).await.expect("bytes");
                assert_eq!(buf.get(..n), Some(expected), "round {round}");
                assert_eq!(seen(&a, Interest::READABLE), more);
            }
            let nothing = try_read(&a, &mut buf).expect_err("nothing is there");
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            assert!(!seen(&a, Interest::READABLE));
            assert_eq!(try_write(&b, &[IoSlice::new(b"xyz")]).expect("room"), 3);
            let n = std::future::poll_fn(|cx| poll_read(&a, cx, &mut buf)).await.expect("bytes");
            assert_eq!((n, seen(&a, Interest::READABLE)), (3, false));
        }
        drop(b);
        assert_eq!(std::future::poll_fn(|cx| poll_read(&a, cx, &mut buf)).await.expect("the end"), 0);
        let closed = try_write(&a, &[IoSlice::new(b"x")]).expect_err("nobody reads");
        assert_eq!(closed.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_write_that_fits_in_part_tells_the_reactor_that_there_is_no_room() {
        let (a, b) = UnixStream::pair().expect("a pair");
        const MUCH: usize = 4 << 20;
        let write = async {
            let much = vec![7; MUCH];
            let mut left = &much[..];
            while !left.is_empty() {
                let half = left.split_at(left.len() / 2);
                let n = std::future::poll_fn(|cx| poll_write2(&a, cx, half.0, half.1)).await.expect("open");
                assert!(n == left.len() || !seen(&a, Interest::WRITABLE), "after {n} of {}", left.len());
                left = left.split_at(n).1;
            }
        };
        let read = async {
            let (mut all, mut room) = (0, vec![0; 1 << 20]);
            while all < MUCH {
                let n = std::future::poll_fn(|cx| poll_read(&b, cx, &mut room)).await.expect("bytes");
                assert!(room.iter().take(n).all(|x| *x == 7));
                all += n;
            }
        };
        tokio::join!(write, read);
    }
}
