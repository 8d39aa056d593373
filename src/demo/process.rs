//! Processes and ports of this machine, through what the standard library and a POSIX shell offer.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Error;

/// A port on 127.0.0.1 that nobody has at the moment, below the range that outgoing connections use.
pub fn free_port() -> Result<u16, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const RANGE: std::ops::Range<u32> = 10_240..32_000;
    for _ in RANGE {
        // Processes start far from each other, and one process never gives the same port twice in a row.
        let n = std::process::id().wrapping_mul(7919).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = RANGE.start + n % (RANGE.end - RANGE.start);
        let Ok(port) = u16::try_from(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::Setup("no free port on 127.0.0.1".to_owned()))
}

/// Signals processes that may just have ended; that some have is no error.
pub fn signal(name: &str, pids: &[u32]) -> Result<(), Error> {
    let mut command = Command::new("sh");
    command.args(["-c", r#"s=$1; shift; for p; do kill -s "$s" "$p" 2>/dev/null; done; :"#, "signal", name]);
    command.args(pids.iter().map(u32::to_string)).stdin(Stdio::null());
    run(&mut command)
}

/// A process first, then its children.
pub fn family(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    std::iter::once(parent).chain(pids.filter(|pid| parent_of(*pid) == Some(parent))).collect()
}

/// The processes whose working directory this is; one that has ended and was not waited for has none.
pub fn working_in(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let here = entries.filter(|e| std::fs::read_link(e.path().join("cwd")).is_ok_and(|cwd| cwd == directory));
    here.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; state and parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a program to its end; what it said on standard error is the error.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Error::Setup(format!("cannot run {program}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::Setup(format!("{program} failed ({}):\n{}", output.status, stderr.trim_end())))
}
