//! The accept loops.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;

use super::bind::Bound;
use crate::client::login::{self, Login};
use crate::client::replication::Walsender;
use crate::clients::handle::ClientCtl;
use crate::clients::strangers::Stranger;
use crate::clock::Clock;
use crate::config::resolved::Profile;
use crate::console;
use crate::journal::{self, Who};
use crate::net::stream::{Peer, Stream};
use crate::proto::startup::Replication;
use crate::services::Services;

/// Places that clients could have and do not.
fn spare(services: &Services) -> usize {
    let limits = &services.config().limits;
    let most = limits.max_client_connections as usize + limits.reserved_client_connections as usize;
    let clients = &services.clients;
    let most = match clients.descriptors.load(Ordering::Relaxed) {
        0 => most,
        there_are => most.min(there_are),
    };
    let logging_in = clients.logging_in.load(Ordering::Relaxed);
    most.saturating_sub(clients.connected.load(Ordering::Relaxed).saturating_sub(logging_in))
}

/// Accepts until the task is aborted. Out of descriptors it pauses instead of spinning: connections wait in the
/// backlog.
pub(super) async fn accept_loop(bound: Bound, services: Arc<Services>) {
    loop {
        let accepted = match &bound {
            Bound::Tcp(l) => tokio::select! {
                a = l.accept() => a.map(|(s, a)| (Stream::Tcp(s), Peer::Tcp(a))),
                () = services.no_more_tcp() => return,
            },
            Bound::Unix(l, _) => l.accept().await.map(|(s, _)| (Stream::Unix(s), Peer::Unix)),
        };
        match accepted {
            Ok((stream, peer)) => {
                let limit = services.config().limits.max_login_connections as usize;
                let stranger = tokio::select! {
                    place = services.strangers.enter(peer, limit, || spare(&services)) => place,
                    () = services.no_more_tcp(), if matches!(peer, Peer::Tcp(_)) => return,
                };
                services.clients.connected.fetch_add(1, Ordering::Relaxed);
                services.clients.logging_in.fetch_add(1, Ordering::Relaxed);
                let places = Counted { services: services.clone(), logging_in: true };
                let login = Box::pin(log_in(stream, peer, services.clone(), stranger));
                tokio::spawn(serve(login, services.clone(), places));
            }
            Err(e) => {
                let label = match e.raw_os_error() {
                    Some(24) => "emfile",
                    Some(23) => "enfile",
                    _ => "other",
                };
                services.counters.count("accept_errors_total", label);
                if label != "other" {
                    tracing::warn!(error = %e, "cannot accept; pausing for 100 ms, connections wait");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// A connection in the figures; uncounted when dropped.
struct Counted {
    services: Arc<Services>,
    logging_in: bool,
}

impl Counted {
    fn logged_in(&mut self) {
        if std::mem::take(&mut self.logging_in) {
            self.services.clients.logging_in.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.logged_in();
        self.services.clients.connected.fetch_sub(1, Ordering::Relaxed);
        self.services.gone.notify_waiters();
    }
}

/// One connection from its first byte to its last. The login's state is gone before the session runs, so that
/// an idle client is as small as its session; what is handed in stays in its task, and must be small.
async fn serve(
    login: Pin<Box<impl Future<Output = Option<LoggedIn>>>>,
    services: Arc<Services>,
    mut counted: Counted,
) {
    let (ctl, reason) = match login.await {
        None => return,
        Some(LoggedIn::Session(mut session)) => {
            counted.logged_in();
            let ended = std::panic::AssertUnwindSafe(session.run()).catch_unwind().await;
            let reason = match ended {
                Ok(reason) => reason,
                Err(_) => {
                    session.after_panic().await;
                    "panic"
                }
            };
            (session.ctl.clone(), reason)
        }
        Some(LoggedIn::Replication(mut sender)) => {
            counted.logged_in();
            let ctl = sender.ctl.clone();
            // Seldom, too, and larger than a session.
            let served = Box::pin(sender.run());
            let ended = std::panic::AssertUnwindSafe(served).catch_unwind().await;
            let panicked = |_| services.counters.count("panics_total", "session");
            (ctl, ended.map_err(panicked).unwrap_or("panic"))
        }
        Some(LoggedIn::Console(visitor)) => {
            counted.logged_in();
            let ctl = visitor.ctl.clone();
            // Seldom, and larger than a session: it must not make every session's task larger.
            let served = Box::pin(console::serve(*visitor, &services));
            let ended = std::panic::AssertUnwindSafe(served).catch_unwind().await;
            services.clients.remove(ctl.id);
            let panicked = |_| services.counters.count("panics_total", "console");
            (ctl, ended.map_err(panicked).unwrap_or("panic"))
        }
    };
    services.counters.count("client_disconnects_total", reason);
    if services.pgbouncer() {
        // What a client was told is in the log already.
        let words = match reason {
            "terminate" => "client close request",
            "eof" | "eof_waiting" => "client unexpected eof",
            "read_error" | "read_error_waiting" | "write_error" => "client connection lost",
            _ => return,
        };
        let age = Clock::now().saturating_duration_since(ctl.connected);
        journal::closing(&services, &Who::client(&ctl), words, age);
    } else if services.log_disconnections() {
        let age = Clock::now().saturating_duration_since(ctl.connected);
        tracing::info!(
            client = ctl.id,
            peer = %ctl.peer,
            user = %ctl.user,
            database = %ctl.database,
            reason,
            duration_ms = crate::number::millis(age),
            "disconnected"
        );
    }
}

/// A login that has succeeded.
enum LoggedIn {
    Session(Box<crate::client::session::Session>),
    Console(Box<login::Visitor>),
    Replication(Box<Walsender>),
}

async fn log_in(stream: Stream, peer: Peer, services: Arc<Services>, stranger: Stranger) -> Option<LoggedIn> {
    let services = &services;
    let config = services.config();
    let _ = stream.tune(&config.listen.tcp_keepalive);
    let connected = |ctl: &ClientCtl| {
        services.counters.count("logins_total", "");
        if config.process.log_connections && config.profile == Profile::PgBouncer {
            let (database, user) = (&ctl.database, &ctl.user);
            let tls = ctl.place().tls.map_or_else(|| "no".to_owned(), |t| t.to_string());
            let replication = match ctl.place().replication {
                Replication::No => "no",
                Replication::Physical => "yes",
                Replication::Logical => "database",
            };
            let text =
                format!("login attempt: db={database} user={user} tls={tls} replication={replication}");
            journal::line(services, &Who::client(ctl), text);
        } else if config.process.log_connections {
            tracing::info!(
                client = ctl.id,
                %peer,
                user = %ctl.user,
                database = %ctl.database,
                application = %ctl.application_name(),
                "connected"
            );
        }
    };
    match login::login(stream, peer, services, &stranger).await {
        Login::Session(s) => {
            connected(&s.ctl);
            Some(LoggedIn::Session(s))
        }
        Login::Console(v) => {
            connected(&v.ctl);
            Some(LoggedIn::Console(v))
        }
        Login::Replication(r) => {
            connected(&r.ctl);
            Some(LoggedIn::Replication(r))
        }
        Login::Done | Login::Refused => None,
    }
}
