//! What the process owes the system: its account, its detachment, and word to a supervisor.

use std::io::{BufRead as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setsid, setuid};

use crate::config::Config;

/// Tells a child that it is the one that was detached.
const DETACHED: &str = "_HOWDAH_DETACHED";

/// Changes to the account that was asked for; only root can, or that account itself.
pub(super) fn become_user(name: &str) -> Result<(), String> {
    let fail = |what: &str, e: nix::Error| format!("cannot change to user {name}: {what}: {e}");
    let user = User::from_name(name)
        .map_err(|e| fail("looking it up", e))?
        .ok_or_else(|| format!("cannot change to user {name}: there is no such user"))?;
    if Uid::effective() == user.uid {
        return Ok(());
    }
    let c_name = std::ffi::CString::new(name).map_err(|_| "a user's name has no zero byte".to_owned())?;
    initgroups(&c_name, Gid::from_raw(user.gid.as_raw())).map_err(|e| fail("its groups", e))?;
    setgid(user.gid).map_err(|e| fail("its group", e))?;
    setuid(user.uid).map_err(|e| fail("its number", e))
}

pub(super) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// What `-d` does: the same program again without a terminal. Returns in the parent when the child serves or has
/// failed.
pub(super) fn detach(config: &Config) -> Result<ExitCode, String> {
    let papers = &config.compat.process;
    if papers.pid_file.is_none() {
        return Err("-d needs a pidfile in the configuration".to_owned());
    }
    if papers.log_file.is_none() && !papers.syslog {
        return Err("-d needs a logfile or syslog in the configuration".to_owned());
    }
    let program = std::env::current_exe().map_err(|e| format!("cannot find our own program: {e}"))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the detached process: {e}"))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = std::io::BufReader::new(out).read_line(&mut said);
    }
    if said.trim() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let _ = child.wait();
    Ok(ExitCode::FAILURE)
}

const READY: &str = "ready";

/// Whether this process is the one that [`detach`] has started; makes it the leader of a session.
pub(super) fn is_detached() -> bool {
    let is = std::env::var_os(DETACHED).is_some();
    if is {
        let _ = setsid();
    }
    is
}

/// The detached process serves: its parent may go, and the terminal with it.
pub(super) fn report_detached() {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Word to the supervisor, where it wants it (`sd_notify(3)`).
pub(super) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = socket.as_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(Path::new(&socket)),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
    if let Err(e) = sent {
        tracing::debug!(error = %e, "the supervisor could not be told: {state}");
    }
}

/// A reload begins; the supervisor wants to know since when.
pub(super) fn notify_reloading() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(|t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000);
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.unwrap_or(0)));
}
