//! The harness of the integration tests: PostgreSQL servers of several versions, the built `howdah` with a
//! configuration that the test writes, and the tools that may be on this machine.
//!
//! What is not on the machine is *left out*, aloud: [`left_out`] prints a line that `make test` shows. A tool
//! that is there and fails is a failure.

pub mod advice;
mod app;
pub mod certs;
pub mod exposition;
mod left_out;
pub mod ops_port;
pub mod partition;
pub mod program;
pub mod proxy;
pub mod replicas;
pub mod rig;
pub mod tls;
pub mod tools;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use app::{Running, app, app_with, backend, config, metric, refusal, run, start, value};
pub(crate) use left_out::{left_out, root};
pub use ops_port::http;
pub use program::{processes_with, program};

pub use howdah::demo::install::Install;
pub use howdah::demo::postgres::{Cluster, Options, SUPERUSER, Stop};
pub use howdah::demo::process::free_port;
pub use howdah::demo::wire::{Client, Target};

/// The versions that every compatibility test runs on, oldest first.
pub const VERSIONS: [u32; 2] = [15, 18];

/// Where `tests/support/setup.sh` puts what it downloads.
pub fn cache() -> PathBuf {
    std::env::var_os("HOWDAH_TEST_CACHE").map_or_else(|| root().join("tests/.cache"), PathBuf::from)
}

/// The installation of a major version: the system's, or else the downloaded one. `None` is said aloud.
pub fn install(major: u32) -> Option<Install> {
    if let Some(found) = Install::system(major) {
        return Some(found);
    }
    let found = Install::find().ok().filter(|i| i.major() == major);
    if found.is_some() {
        return found;
    }
    match fetch(major) {
        Ok(found) => Some(found),
        Err(why) => {
            left_out(&format!("PostgreSQL {major}"), &why);
            None
        }
    }
}

/// Runs once for each version in one process; the script itself holds a lock against other processes.
fn fetch(major: u32) -> Result<Install, String> {
    static FETCHED: Mutex<Vec<(u32, Result<Install, String>)>> = Mutex::new(Vec::new());
    let mut fetched = FETCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, found)) = fetched.iter().find(|(m, _)| *m == major) {
        return found.clone();
    }
    let found = run_fetch_script(major);
    fetched.push((major, found.clone()));
    found
}

fn run_fetch_script(major: u32) -> Result<Install, String> {
    let script = root().join("tests/support/fetch-postgres.sh");
    let output = Command::new(script).arg(major.to_string()).output().map_err(|e| e.to_string())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(stderr.lines().last().unwrap_or("the fetch script failed").to_owned());
    }
    let bin = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Install::at(Path::new(&bin)).map_err(|e| e.to_string())
}

/// A new cluster of this version, for one test alone; `None` is said aloud.
pub fn cluster(major: u32, options: Options) -> Option<Cluster> {
    let options = Options { install: Some(install(major)?), ..options };
    Some(Cluster::start_new(options).expect("PostgreSQL starts"))
}

/// A cluster that all tests of this binary share (where the runner gives every test its own process, it is
/// made once for each). It has a role `app` and its database `app`. `None` is said aloud.
///
/// Statics are never dropped: the guard of the cluster ends it with this process.
pub fn shared(major: u32) -> Option<&'static Cluster> {
    static SHARED: [OnceLock<Option<Cluster>>; 32] = [const { OnceLock::new() }; 32];
    let slot = &SHARED[usize::try_from(major).expect("small") % SHARED.len()];
    slot.get_or_init(|| cluster(major, app_options())).as_ref()
}

/// A role `app` that owns the database `app`, and 300 connections.
pub fn app_options() -> Options {
    Options::default()
        .setting("max_connections", "300")
        .sql("CREATE ROLE app LOGIN")
        .sql("CREATE DATABASE app OWNER app")
}

/// Server connections of a role, as the server itself sees them. Asked directly, by the superuser.
pub fn connections(cluster: &Cluster, user: &str) -> usize {
    count(cluster, &format!("usename = '{user}' AND backend_type = 'client backend'"))
}

/// Rows of `pg_stat_activity` where `condition` holds, the asking session apart.
pub fn count(cluster: &Cluster, condition: &str) -> usize {
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND ({condition})");
    cluster.value(&sql).expect("the server answers a direct question").parse().expect("a count")
}

/// Polls until `holds`; for what no event announces, such as a row of `pg_stat_activity` that goes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
