//! The sockets that clients come in by: bound first, and opened when Howdah is sure to serve.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::taken;
use crate::config::compat::Listening;
use crate::config::resolved::{Config, Profile};

/// One bound address.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "it is removed when the socket is dropped")] SocketFile),
}

/// The file of a Unix socket, where there is one that is ours: it goes with the socket.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// What TCP_MAXSEG can say.
const LONGEST_SEGMENT: usize = 32_767;

/// The default port, where no TCP address says another.
const PORT: u16 = 6432;

/// What the configuration names, had and not yet open to anybody.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    /// Sockets that a supervisor hands over (`LISTEN_FDS`) stand in place of all others.
    handed: Vec<Bound>,
    tcp: Vec<(SocketAddr, Socket)>,
    unix: Option<(Socket, SocketFile)>,
    backlog: i32,
    setting: &'static str,
}

/// Takes every address. What stands in the way is told at once, and not one address at a time.
pub(super) fn reserve(config: &Config) -> Result<Reserved, Vec<String>> {
    let listen = &config.listen;
    let mut all = Reserved {
        handed: activated().map_err(|e| vec![e])?,
        tcp: Vec::new(),
        unix: None,
        backlog: i32::try_from(listen.backlog).unwrap_or(i32::MAX),
        setting: match config.profile {
            Profile::Native => "listen",
            Profile::PgBouncer => "listen_addr, listen_port",
        },
    };
    if !all.handed.is_empty() {
        if !listen.tcp.is_empty() || listen.unix_dir.is_some() {
            tracing::warn!(
                "sockets are handed over by the supervisor: listen and unix_socket_dir are ignored"
            );
        }
        return Ok(all);
    }
    let mut failed = Vec::new();
    for addr in &listen.tcp {
        match bind_tcp(*addr, &config.compat.listen) {
            Ok(socket) => all.tcp.push((*addr, socket)),
            // `*` means both families, and a machine may have but one.
            Err(e) if config.profile == Profile::PgBouncer && second_family(&listen.tcp, addr) => {
                tracing::warn!("cannot listen on {addr}: {e}");
            }
            Err(e) => failed.push(taken::cannot_listen(*addr, all.setting, &e)),
        }
    }
    if let Some(dir) = &listen.unix_dir {
        let port = listen.unix_port.or(listen.tcp.first().map(SocketAddr::port)).unwrap_or(PORT);
        let path = dir.join(format!(".s.PGSQL.{port}"));
        match bind_unix(&path, listen.unix_mode, config.compat.listen.unix_group.as_deref()) {
            Ok(bound) => all.unix = Some(bound),
            Err(e) => failed.push(taken::cannot_make_socket(&path, &e)),
        }
    }
    if failed.is_empty() { Ok(all) } else { Err(failed) }
}

impl Reserved {
    /// From now on clients are let in. Whoever reaches one of the addresses reaches all.
    pub(super) fn open(self) -> Result<Vec<Bound>, String> {
        let mut bound = self.handed;
        for (addr, socket) in self.tcp {
            let listener = socket.listen(self.backlog).and_then(|()| TcpListener::from_std(socket.into()));
            let l = listener.map_err(|e| taken::cannot_listen(addr, self.setting, &e))?;
            tracing::info!("listening on {}", l.local_addr().unwrap_or(addr));
            bound.push(Bound::Tcp(l));
        }
        if let Some((socket, file)) = self.unix {
            let listener = socket.listen(self.backlog).and_then(|()| UnixListener::from_std(socket.into()));
            let l = listener.map_err(|e| taken::cannot_make_socket(&file.0, &e))?;
            tracing::info!("listening on unix:{}", file.0.display());
            bound.push(Bound::Unix(l, file));
        }
        Ok(bound)
    }
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
            bound.push(Bound::Unix(UnixListener::from_std(l).map_err(fail)?, SocketFile(PathBuf::new())));
        }
    }
    Ok(bound)
}

/// Bound, and not yet listening.
fn bind_tcp(addr: SocketAddr, more: &Listening) -> io::Result<Socket> {
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
fn bind_unix(path: &Path, mode: u32, group: Option<&str>) -> io::Result<(Socket, SocketFile)> {
    if path.to_string_lossy().starts_with('@') {
        // socket2 reads a leading zero byte as the mark of a name that is no file.
        let name = [b"\0", path.as_os_str().as_bytes().get(1..).unwrap_or_default()].concat();
        let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        s.set_nonblocking(true)?;
        s.bind(&SockAddr::unix(OsStr::from_bytes(&name))?)?;
        return Ok((s, SocketFile(PathBuf::new())));
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
    let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the file with the socket's own mode less the umask: it is the owner's alone until it has its group
    // and its mode.
    let s = std::fs::File::from(std::os::fd::OwnedFd::from(s));
    s.set_permissions(std::fs::Permissions::from_mode(mode & 0o700))?;
    let s = Socket::from(std::os::fd::OwnedFd::from(s));
    s.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    if let Some(name) = group {
        let found = nix::unistd::Group::from_name(name)?;
        let group = found.ok_or_else(|| io::Error::other(format!("there is no group {name}")))?;
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    s.set_nonblocking(true)?;
    Ok((s, file))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_socket_file_is_never_open_to_more_than_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (seen, over, saw) =
            (path.clone(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let watcher = std::thread::spawn({
            let (over, saw) = (over.clone(), saw.clone());
            move || {
                let mut modes = std::collections::BTreeSet::new();
                while !over.load(Ordering::Relaxed) {
                    modes.extend(std::fs::metadata(&seen).map(|m| m.permissions().mode() & 0o777));
                    saw.fetch_or(!modes.is_empty(), Ordering::Relaxed);
                }
                modes
            }
        });
        // Under load the watcher may come late.
        for _ in (0..100_000).take_while(|n| *n < 500 || !saw.load(Ordering::Relaxed)) {
            let bound = bind_unix(&path, 0o600, None).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(bound);
        }
        over.store(true, Ordering::Relaxed);
        let modes = watcher.join().unwrap();
        assert_eq!(modes.into_iter().collect::<Vec<_>>(), [0o600], "and nothing else at any moment");
        let _open = bind_unix(&path, 0o777, None).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o777,
            "whatever the umask"
        );
    }
}
