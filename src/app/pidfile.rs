//! The number of the process in a file. A mistyped path must not cost the file that is there, so that only what is
//! a pid file, and nobody's any more, is replaced, and no link is followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// More than any process's number has.
const LONGEST: u64 = 32;

/// Held for as long as this lives; it is removed at the end if it is still the one that was written.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    /// Open, so that no other file gets its number.
    file: File,
}

impl PidFile {
    /// Refuses what [`PidFile::write`] would refuse, and writes nothing.
    pub(super) fn check(path: &Path) -> Result<(), String> {
        replaceable(path).map(drop)
    }

    pub(super) fn write(path: &Path) -> Result<Self, String> {
        let fail = |e: io::Error| format!("cannot write pidfile '{}': {e}", path.display());
        let number = format!("{}\n", std::process::id());
        let file = match replaceable(path)? {
            // The file that was looked at, and no other that has taken its name since.
            Some(mut old) => {
                let rewind = old.rewind().and_then(|()| old.set_len(0));
                rewind.and_then(|()| old.write_all(number.as_bytes())).map_err(fail)?;
                old
            }
            None => create(path, &number).map_err(fail)?,
        };
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let number = |m: fs::Metadata| (m.dev(), m.ino());
        let there = fs::symlink_metadata(&self.path).map(number).ok();
        let own = there.is_some() && there == self.file.metadata().map(number).ok();
        // Another process may have taken it over in place.
        let ours = || fs::read_to_string(&self.path).is_ok_and(|t| pid(&t) == Some(std::process::id()));
        if own && ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file appears under its name with its content, and only where nothing has that name.
fn create(path: &Path, number: &str) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    let linked = file.write_all(number.as_bytes()).and_then(|()| fs::hard_link(&new, path));
    let _ = fs::remove_file(&new);
    linked.map(|()| file)
}

/// The file that may be written over; `None` where there is none.
fn replaceable(path: &Path) -> Result<Option<File>, String> {
    let refuse = |why: &str| Err(format!("pidfile '{}' {why}", path.display()));
    let failed = |what: &str, e: io::Error| format!("pidfile '{}' cannot be {what}: {e}", path.display());
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("looked at", e)),
        Ok(m) if m.is_symlink() => {
            return refuse("is a symbolic link, and none is followed; name the file itself");
        }
        Ok(m) if !m.is_file() => return refuse("is no regular file"),
        Ok(_) => {}
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|e| failed("opened", e))?;
    let mut text = Vec::new();
    (&mut file).take(LONGEST + 1).read_to_end(&mut text).map_err(|e| failed("read", e))?;
    let text = String::from_utf8_lossy(&text);
    if text.is_empty() {
        return Ok(Some(file));
    }
    let Some(pid) = pid(&text) else {
        return refuse(
            "exists and holds no process's number: it may be another file, and is not written over",
        );
    };
    let number = i32::try_from(pid).ok().filter(|n| *n > 0);
    // After a restart in a container the file holds our own number.
    let lives = number.is_some_and(|n| kill(Pid::from_raw(n), None) != Err(nix::Error::ESRCH));
    if lives && pid != std::process::id() {
        return refuse(&format!("exists, another instance running? (pid {pid})"));
    }
    Ok(Some(file))
}

/// The number, if that is all that the text holds.
fn pid(text: &str) -> Option<u32> {
    let number = text.trim_end();
    let is = text.len() as u64 <= LONGEST && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        (dir, path)
    }

    fn own() -> String {
        format!("{}\n", std::process::id())
    }

    #[test]
    fn a_living_process_keeps_its_file() {
        let (dir, path) = place();
        fs::write(&path, "1\n").unwrap();
        assert!(PidFile::write(&path).unwrap_err().contains("another instance running?"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        // No process has this number; nobody's is the empty one; ours is that of one before us in a container.
        for old in ["2147483646\n", "2147483646", "", &own()] {
            fs::write(&path, old).unwrap();
            let held = PidFile::write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), own());
            drop(held);
            assert!(!path.exists());
        }
        drop(PidFile::write(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_pid_file_is_never_written_over() {
        let (_dir, path) = place();
        for text in [
            "listen = []\n",
            "123 listen\n",
            "0x12\n",
            "-1\n",
            "\n",
            "99999999999\n",
            " 1\n",
            &"1".repeat(60),
        ] {
            fs::write(&path, text).unwrap();
            assert!(PidFile::check(&path).is_err() && PidFile::write(&path).is_err(), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(PidFile::write(&path).unwrap_err().contains("no regular file"));
        assert!(PidFile::write(&path.join("none/pid")).is_err());
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, path) = place();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        for content in [None, Some(""), Some("2147483646\n")] {
            if let Some(text) = content {
                fs::write(&target, text).unwrap();
            }
            assert!(PidFile::write(&path).unwrap_err().contains("symbolic link"));
            assert_eq!(fs::read_to_string(&target).ok().as_deref(), content);
        }
    }

    #[test]
    fn only_its_own_file_is_removed() {
        let (_dir, path) = place();
        let held = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(held);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n", "it is another process's by now");
        fs::remove_file(&path).unwrap();
        let held = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, own()).unwrap();
        drop(held);
        assert!(path.exists(), "it is another file");
    }
}
