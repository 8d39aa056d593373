//! Listening sockets and the accept loops.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};

use super::taken;
use crate::client::ctl::ClientCtl;
use crate::client::login::{self, Login};
use crate::client::replication::Walsender;
use crate::client::strangers::Stranger;
use crate::clock::Clock;
use crate::config::compat::Listening;
use crate::config::resolved::{Config, Profile};
use crate::console;
use crate::journal::{self, Who};
use crate::net::stream::{Peer, Stream};
use crate::proto::startup::Replication;
use crate::services::Services;

/// One bound address.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && !path.as_os_str().is_empty()
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What TCP_MAXSEG can say.
const LONGEST_SEGMENT: usize = 32_767;

/// The default port, where no TCP address says another.
const PORT: u16 = 6432;

/// Binds everything that the configuration names, or says which could not be bound and why. Sockets that a
/// supervisor hands over (`LISTEN_FDS`) stand in place of all of them.
pub(super) fn bind(config: &Config) -> Result<Vec<Bound>, String> {
    let handed = activated()?;
    if !handed.is_empty() {
        if !config.listen.tcp.is_empty() || config.listen.unix_dir.is_some() {
            tracing::warn!(
                "sockets are handed over by the supervisor: listen and unix_socket_dir are ignored"
            );
        }
        return Ok(handed);
    }
    // Nobody is let in before every address is had: whoever reaches one of them reaches all.
    let listen = &config.listen;
    let backlog = i32::try_from(listen.backlog).unwrap_or(i32::MAX);
    let setting = match config.profile {
        Profile::Native => "listen",
        Profile::PgBouncer => "listen_addr, listen_port",
    };
    let mut tcp = Vec::new();
    for addr in &listen.tcp {
        let socket = match bind_tcp(*addr, &config.compat.listen) {
            Ok(socket) => socket,
            // `*` means both families, and a machine may have but one.
            Err(e) if config.profile == Profile::PgBouncer && second_family(&listen.tcp, addr) => {
                tracing::warn!("cannot listen on {addr}: {e}");
                continue;
            }
            Err(e) => return Err(taken::cannot_listen(*addr, setting, &e)),
        };
        tcp.push((*addr, socket));
    }
    let mut unix = None;
    if let Some(dir) = &listen.unix_dir {
        let port = listen.unix_port.or(listen.tcp.first().map(SocketAddr::port)).unwrap_or(PORT);
        let path = dir.join(format!(".s.PGSQL.{port}"));
        let group = config.compat.listen.unix_group.as_deref();
        let l = bind_unix(&path, listen.unix_mode, backlog, group)
            .map_err(|e| format!("cannot listen on {} (unix_socket_dir): {e}", path.display()))?;
        unix = Some(Bound::Unix(l, path));
    }
    let mut bound = Vec::new();
    for (addr, socket) in tcp {
        let listener = socket.listen(backlog).and_then(|()| TcpListener::from_std(socket.into()));
        let l = listener.map_err(|e| taken::cannot_listen(addr, setting, &e))?;
        tracing::info!("listening on {}", l.local_addr().unwrap_or(addr));
        bound.push(Bound::Tcp(l));
    }
    if let Some(Bound::Unix(_, path)) = &unix {
        tracing::info!("listening on unix:{}", path.display());
    }
    bound.extend(unix);
    Ok(bound)
}

fn second_family(all: &[SocketAddr], addr: &SocketAddr) -> bool {
    let other = SocketAddr::from(([0, 0, 0, 0], addr.port()));
    addr.is_ipv6() && addr.ip().is_unspecified() && all.contains(&other)
}

/// Listening sockets of the supervisor (`sd_listen_fds(3)`).
fn activated() -> Result<Vec<Bound>, String> {
    let mut fds = listenfd::ListenFd::from_env();
    let mut bound = Vec::new();
    let fail = |e: io::Error| format!("a socket of the supervisor: {e}");
    for i in 0..fds.len() {
        if let Ok(Some(l)) = fds.take_tcp_listener(i) {
            l.set_nonblocking(true).map_err(fail)?;
            tracing::info!("listening on {} (handed over)", l.local_addr().map_err(fail)?);
            bound.push(Bound::Tcp(TcpListener::from_std(l).map_err(fail)?));
        } else if let Ok(Some(l)) = fds.take_unix_listener(i) {
            l.set_nonblocking(true).map_err(fail)?;
            tracing::info!("listening on a Unix socket (handed over)");
            // The file is the supervisor's.
            bound.push(Bound::Unix(UnixListener::from_std(l).map_err(fail)?, PathBuf::new()));
        }
    }
    Ok(bound)
}

/// Bound, and not yet listening.
fn bind_tcp(addr: SocketAddr, more: &Listening) -> io::Result<socket2::Socket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let s = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    s.set_reuse_address(true)?;
    if more.reuse_port {
        s.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        s.set_only_v6(true)?;
    }
    if let Some(size) = more.socket_buffer {
        // Inherited by what is accepted, and in time for the window's scale.
        s.set_recv_buffer_size(size)?;
        s.set_send_buffer_size(size)?;
        // Over the loopback device one segment can be larger than such a buffer. A peer acknowledges a single segment
        // late, and until then there is no room for the next: two of them have to fit.
        if size < 2 * LONGEST_SEGMENT {
            s.set_tcp_mss(crate::number::count((size / 2).clamp(536, LONGEST_SEGMENT)))?;
        }
    }
    s.set_nonblocking(true)?;
    s.bind(&addr.into())?;
    Ok(s)
}

/// A socket file that nobody answers on is left from a process that was killed, and is replaced.
fn bind_unix(path: &Path, mode: u32, backlog: i32, group: Option<&str>) -> io::Result<UnixListener> {
    if path.to_string_lossy().starts_with('@') {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::ffi::OsStrExt as _;
        let name = path.as_os_str().as_bytes().get(1..).unwrap_or_default();
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        let l = std::os::unix::net::UnixListener::bind_addr(&address)?;
        l.set_nonblocking(true)?;
        return UnixListener::from_std(l);
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt as _;
        if !there.file_type().is_socket() {
            let why = "something that is no socket has the name of the Unix socket, and is not removed";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                let why = "unix socket is in use, cannot continue: another process answers on it";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let s = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // Linux makes the file with the socket's own mode less the umask: it is the owner's alone until it has its group
    // and its mode.
    let s = std::fs::File::from(std::os::fd::OwnedFd::from(s));
    s.set_permissions(std::fs::Permissions::from_mode(mode & 0o700))?;
    let s = socket2::Socket::from(std::os::fd::OwnedFd::from(s));
    s.bind(&socket2::SockAddr::unix(path)?)?;
    if let Some(name) = group {
        let found = nix::unistd::Group::from_name(name)?;
        let group = found.ok_or_else(|| io::Error::other(format!("there is no group {name}")))?;
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    s.set_nonblocking(true)?;
    s.listen(backlog)?;
    UnixListener::from_std(s.into())
}

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test]
    async fn the_socket_file_is_never_open_to_more_than_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (seen, over) = (path.clone(), Arc::new(AtomicBool::new(false)));
        let watcher = std::thread::spawn({
            let over = over.clone();
            move || {
                let mut modes = std::collections::BTreeSet::new();
                while !over.load(Ordering::Relaxed) {
                    modes.extend(std::fs::metadata(&seen).map(|m| m.permissions().mode() & 0o777));
                }
                modes
            }
        });
        for _ in 0..500 {
            let bound = Bound::Unix(bind_unix(&path, 0o600, 16, None).unwrap(), path.clone());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(bound);
        }
        over.store(true, Ordering::Relaxed);
        let modes = watcher.join().unwrap();
        assert_eq!(modes.into_iter().collect::<Vec<_>>(), [0o600], "and nothing else at any moment");
        let _open = Bound::Unix(bind_unix(&path, 0o777, 16, None).unwrap(), path.clone());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o777,
            "whatever the umask"
        );
    }
}
