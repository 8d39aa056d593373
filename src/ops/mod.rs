//! The ops port: metrics, health and statistics over HTTP, on a listener with limits of its own.
//!
//! No handler connects to a database or waits for one. Figures are copied under short locks and rendered on the
//! runtime's blocking threads, one scrape at a time, so that a storm of scrapes takes at most one core.

mod access;
mod advice;
pub mod ask;
mod exporter;
mod exposition;
mod http;
mod places;
mod process;
mod queries;
mod ready;
mod refusal;
mod routes;
mod secured;
mod snapshot;
mod stats;
mod written;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use self::http::Endpoints;
use self::places::{Place, Places};
use self::secured::Secured;
use crate::net::stream::Stream;
use crate::services::Services;

/// What the ops port may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at one time. Where there are more, one that waits for nothing but its peer's next request ends, the
    /// one that has waited longest; with none such, the oldest.
    connections: usize,
    /// Between a connection's beginning, or its last answer, and the end of the next request's header.
    header: Duration,
    /// From a request to its answer.
    request: Duration,
    /// A connection that is older ends after its answer, and a little later in any case: a peer that reads
    /// nothing must not keep a place.
    lifetime: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    header: Duration::from_secs(5),
    request: Duration::from_secs(10),
    lifetime: Duration::from_secs(60),
};

/// For the end of an answer to a connection that makes room for another.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Binds `addr` and serves until the task is aborted. To be called within a runtime.
pub fn start(addr: SocketAddr, services: Arc<Services>) -> io::Result<JoinHandle<()>> {
    Ok(tokio::spawn(serve(bind(addr)?, services, LIMITS)))
}

/// What /stats answers, for those within the process.
pub fn stats(services: &Arc<Services>) -> Result<String, String> {
    stats::render(&snapshot::Snapshot::take(services))
}

/// What /queries answers.
pub fn queries(services: &Services) -> Result<String, String> {
    queries::render(services)
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let l = std::net::TcpListener::bind(addr)?;
    l.set_nonblocking(true)?;
    TcpListener::from_std(l)
}

async fn serve(listener: TcpListener, services: Arc<Services>, limits: Limits) {
    let local = listener.local_addr().is_ok_and(|a| a.ip().is_loopback());
    let endpoints = Arc::new(Endpoints::new(services, local));
    let places = Arc::new(Places::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (place, made_room) = places.enter(limits.connections);
                if made_room {
                    endpoints.services().counters.count("ops_connections_cut_total", "");
                }
                tokio::spawn(secured(stream, endpoints.clone(), limits, place));
            }
            Err(e) => {
                tracing::warn!(error = %e, "ops port: cannot accept; pausing for 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The handshake, where the port has a certificate; a reload brings another.
async fn secured(stream: TcpStream, endpoints: Arc<Endpoints>, limits: Limits, place: Place) {
    let services = endpoints.services().clone();
    let Some(acceptor) = services.config().tls.ops_acceptor.clone() else {
        return connection(stream, endpoints, limits, &place).await;
    };
    let accepted = async {
        let tls = acceptor.connection().map_err(io::Error::other)?;
        Stream::Tcp(stream).into_tls(tls, &[], &services.handshakes.ops).await
    };
    let accepted = tokio::select! {
        done = tokio::time::timeout(limits.header, accepted) => done,
        () = place.cut() => return,
    };
    match accepted {
        Ok(Ok(stream)) => {
            services.counters.count("tls_handshakes_total", "ops");
            connection(Secured(stream), endpoints, limits, &place).await;
        }
        failed => {
            services.counters.count("tls_handshake_failures_total", "ops");
            let error = match failed {
                Ok(Err(e)) => e.to_string(),
                _ => "it was not over in time".to_owned(),
            };
            tracing::info!(error, "ops port: TLS handshake failed");
        }
    }
}

/// One connection; errors are the peer's business alone.
async fn connection<S>(stream: S, endpoints: Arc<Endpoints>, limits: Limits, place: &Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = place.busy();
    let answer = service_fn(move |request| {
        let (endpoints, busy) = (endpoints.clone(), busy.clone());
        async move {
            busy.begin();
            let answer = endpoints.answer(request, limits.request).await;
            busy.end();
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = place.cut() => {
            // What is being written yet has this long.
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_WORDS, connection).await;
            return;
        }
        () = tokio::time::sleep(limits.lifetime) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(limits.request, connection).await;
}
