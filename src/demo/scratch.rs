//! A private directory with a guard beside it that outlives this process.
//!
//! The guard is a small shell that waits for the end of its standard input. That end comes when the
//! [`Scratch`] is dropped, and also when this process is killed: so no server and no directory stays behind
//! in either case.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Error;
use super::install::Account;

/// Bytes of `sun_path` without its terminator.
const SOCKET_PATH_LIMIT: usize = 107;

/// `$1` is the directory. A process id is trusted only while that process works in the data directory, which a
/// postmaster always does: a stale `postmaster.pid` must not end somebody else's process.
const GUARD: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if ours "$1"; then
    kill -QUIT "$pid"
    kill -CONT "$pid"
    tries=0
    while ours "$1" && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    if ours "$1"; then kill -KILL "$pid"; fi
fi
rm -rf "$1"
"#;

/// The directory; removed with everything in it, and the server that works in its `data`, on drop.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    guard: Child,
}

impl Scratch {
    /// Makes a directory that only `account` (and root) may enter.
    pub(super) fn new(account: Option<&Account>) -> Result<Self, Error> {
        let path = make_directory(&base())?;
        // The guard comes before anything else that could stay behind.
        let guard = Command::new("sh")
            .args(["-c", GUARD, "howdah-guard"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Its own group: Ctrl-C at the terminal must not end it first.
            .process_group(0)
            .spawn()
            .inspect_err(|_| drop(std::fs::remove_dir(&path)))?;
        let scratch = Self { path, guard };
        if let Some(account) = account {
            std::os::unix::fs::chown(&scratch.path, Some(account.uid), Some(account.gid))?;
        }
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // Nothing to do about a failure here: the guard has reported to nobody by design.
        drop(self.guard.wait());
    }
}

/// The temporary directory, unless a socket in it would have too long a name.
fn base() -> PathBuf {
    let base = std::env::temp_dir();
    let longest = base.join("howdah-4294967295-4294967295").join(".s.PGSQL.65535");
    // Resolved, because the guard compares it with what the kernel says.
    let resolved = base.canonicalize().unwrap_or(base);
    if longest.as_os_str().len() <= SOCKET_PATH_LIMIT { resolved } else { PathBuf::from("/tmp") }
}

fn make_directory(base: &Path) -> Result<PathBuf, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("howdah-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::Setup(format!("cannot make {}: {e}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_when_dropped() {
        let scratch = Scratch::new(None).unwrap();
        let path = scratch.path().to_owned();
        std::fs::create_dir(path.join("data")).unwrap();
        std::fs::write(path.join("data/file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_guard_leaves_a_process_that_is_not_ours_alone() {
        let scratch = Scratch::new(None).unwrap();
        std::fs::create_dir(scratch.path().join("data")).unwrap();
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(scratch.path().join("data/postmaster.pid"), format!("{}\n", bystander.id())).unwrap();
        drop(scratch);
        assert_eq!(bystander.try_wait().unwrap(), None, "the bystander lives");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
