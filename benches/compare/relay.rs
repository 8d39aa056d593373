//! The floor: a bare transaction-mode relay on one tokio thread, with no feature at all.
//!
//! It finds message boundaries, takes a connection from a pool behind a mutex and copies. What a
//! pooler costs beyond this is the price of its features.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::wire::{self, Scanner, be_u32, malformed};

const BUFFER: usize = 8 * 1024;

struct Pool {
    backend: SocketAddr,
    free: Mutex<Vec<Server>>,
    permits: Semaphore,
    greeting: Vec<u8>,
}

struct Server {
    stream: TcpStream,
    scanner: Scanner,
    buffer: Vec<u8>,
}

pub(crate) fn run(listen: SocketAddr, backend: SocketAddr, size: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (server, greeting) = Server::connect(backend).await?;
        let (free, permits) = (Mutex::new(vec![server]), Semaphore::new(size));
        let pool = Arc::new(Pool { backend, free, permits, greeting });
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            // A client that goes away takes nothing with it but its task.
            tokio::spawn(serve(stream, Arc::clone(&pool)));
        }
    })
}

impl Server {
    /// Also the bytes of the greeting, which every client gets in turn.
    async fn connect(backend: SocketAddr) -> io::Result<(Self, Vec<u8>)> {
        let mut stream = TcpStream::connect(backend).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&wire::startup("bench", "bench")).await?;
        let (mut greeting, mut ready, mut scanner) = (Vec::new(), false, Scanner::default());
        while !ready {
            let at = greeting.len();
            if stream.read_buf(&mut greeting).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            scanner.feed(&greeting[at..], |tag, _| ready |= tag == b'Z')?;
        }
        Ok((Self { stream, scanner, buffer: vec![0; BUFFER] }, greeting))
    }
}

impl Pool {
    async fn take(&self) -> io::Result<(Server, SemaphorePermit<'_>)> {
        let permit = self.permits.acquire().await.map_err(io::Error::other)?;
        let free = self.free.lock().pop();
        match free {
            Some(server) => Ok((server, permit)),
            None => Ok((Server::connect(self.backend).await?.0, permit)),
        }
    }
}

async fn start(stream: &mut TcpStream, greeting: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = stream.read_u32().await? as usize;
        if !(8..=10_000).contains(&length) {
            return Err(malformed("not a startup message"));
        }
        let mut rest = vec![0; length - 4];
        stream.read_exact(&mut rest).await?;
        match be_u32(&rest, 0) {
            Some(wire::SSL_REQUEST | wire::GSSENC_REQUEST) => stream.write_all(b"N").await?,
            Some(wire::CANCEL_REQUEST) => return Err(malformed("cancel")),
            _ => return stream.write_all(greeting).await,
        }
    }
}

/// How many ReadyForQuery the messages in `chunk` ask for; `None` once the client says goodbye.
fn asked(scanner: &mut Scanner, chunk: &[u8]) -> io::Result<Option<i32>> {
    let (mut asked, mut goodbye) = (0, chunk.is_empty());
    scanner.feed(chunk, |tag, _| match tag {
        b'Q' | b'S' | b'F' => asked += 1,
        b'X' => goodbye = true,
        _ => {}
    })?;
    Ok((!goodbye).then_some(asked))
}

async fn serve(mut client: TcpStream, pool: Arc<Pool>) -> io::Result<()> {
    start(&mut client, &pool.greeting).await?;
    let mut buffer = vec![0; BUFFER];
    let mut scanner = Scanner::default();
    loop {
        let count = client.read(&mut buffer).await?;
        let Some(mut awaited) = asked(&mut scanner, &buffer[..count])? else { return Ok(()) };
        let (mut server, permit) = pool.take().await?;
        server.stream.write_all(&buffer[..count]).await?;
        // Not idle before a ReadyForQuery has said so: the request may have arrived in part.
        let mut status = 0;
        while awaited > 0 || status != b'I' {
            let Server { stream, scanner: replies, buffer: from } = &mut server;
            tokio::select! {
                biased;
                count = stream.read(from) => {
                    let chunk = &from[..count?];
                    if chunk.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    replies.feed(chunk, |tag, first| if tag == b'Z' {
                        awaited -= 1;
                        status = first;
                    })?;
                    client.write_all(chunk).await?;
                }
                count = client.read(&mut buffer) => {
                    let chunk = &buffer[..count?];
                    let Some(more) = asked(&mut scanner, chunk)? else { return Ok(()) };
                    awaited += more;
                    stream.write_all(chunk).await?;
                }
            }
        }
        pool.free.lock().push(server);
        drop(permit);
    }
}
