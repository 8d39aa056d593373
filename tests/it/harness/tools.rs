//! Programs beside Howdah: psql, pgbench, and the drivers that `tests/support/setup.sh` installs.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::{cache, left_out, root};

/// What one driver script needs to run.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    pub name: &'static str,
    script: &'static str,
    /// In the cache; there when the driver is installed.
    needs: &'static str,
    node: bool,
}

pub const PSYCOPG: Driver =
    Driver { name: "psycopg", script: "psycopg_check.py", needs: "venv/.psycopg", node: false };
pub const ASYNCPG: Driver =
    Driver { name: "asyncpg", script: "asyncpg_check.py", needs: "venv/.asyncpg", node: false };
pub const NODE_PG: Driver =
    Driver { name: "node-postgres", script: "node_pg_check.js", needs: "node/node_modules/pg", node: true };

/// Runs the statements of a driver over both DSNs and fails with the script's diff. Left out if not installed.
pub fn check_driver(driver: Driver, direct: &str, proxied: &str) {
    if !cache().join(driver.needs).exists() {
        left_out(driver.name, "not installed; tests/support/setup.sh installs it where it can");
        return;
    }
    let mut command = if driver.node {
        let mut command = Command::new("node");
        command.env("NODE_PATH", cache().join("node/node_modules"));
        command
    } else {
        Command::new(cache().join("venv/bin/python"))
    };
    command.arg(root().join("tests/drivers").join(driver.script)).arg(direct).arg(proxied);
    succeed(command.env("PYTHONDONTWRITEBYTECODE", "1"), driver.name);
}

/// A client program of PostgreSQL, from the usual places or `PATH`; said aloud if there is none. What stands in `PATH` on
/// Debian is a script that looks for the program, and takes longer than the program does.
pub fn client_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
    let mut versions = (13..=19).rev().filter_map(|major| super::Install::system(major)?.tool(name));
    let found = versions.next().or_else(in_path);
    if found.is_none() {
        left_out(name, "not on this machine");
    }
    found
}

/// Runs a command to its end and fails with everything that it said, if it fails. Gives what it printed.
pub fn succeed(command: &mut Command, what: &str) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program can be run");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{what}: {stdout}");
    assert!(status.success(), "{what} failed ({status})\n{stdout}\n{stderr}");
    stdout.into_owned()
}
