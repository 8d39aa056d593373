//! The built program as a command: its files, what it says, and what it is to the system.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for the files of one test.
pub struct Dir(pub tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("written");
        // Secrets that everybody can read are worth a warning of their own.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }
}

/// The built program with nothing of the caller's `HOWDAH_*`.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("HOWDAH_")) {
        if name != "HOWDAH_PG_BIN" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it: exit code, standard output and standard error.
pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let out = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Command lines of all processes that mention `path`.
pub fn processes_with(path: &Path) -> Vec<String> {
    let wanted = path.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.map(|l| String::from_utf8_lossy(&l).replace('\0', " ")).filter(|l| l.contains(&wanted)).collect()
}

/// Resident memory of a process, in kB.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
