//! Drivers and tools that know nothing of Howdah: what each sees through it is what it sees without it.
//!
//! Each test takes one PostgreSQL version and one driver; what is not installed is left out aloud.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::proxy::Howdah;
use crate::harness::tools::{ASYNCPG, Driver, NODE_PG, PSYCOPG, check_driver, client_program, succeed};
use crate::harness::{self, Cluster, shared};

const POOL_SIZE: usize = 20;

/// Where all tests run in one process they share clusters, and so tables and connection counts: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shipped configuration (the one of the images and of the demo), before this cluster, without a replica.
fn howdah_before(cluster: &Cluster) -> Howdah {
    let config = include_str!("../../../docker/howdah.toml");
    let (config, _replica) = config.split_once("\n[databases.app.replica]").expect("the replica comes last");
    let config = config
        .replace("when_no_replica = \"primary\"\n", "")
        .replace("0.0.0.0:6432", "127.0.0.1:{port}")
        .replace("0.0.0.0:9127", "127.0.0.1:{ops_port}")
        .replace("primary:5432", &cluster.tcp().to_string())
        .replace("pool_size = 5", &format!("pool_size = {POOL_SIZE}"));
    Howdah::start(&config)
}

fn driver(driver: Driver, major: u32) {
    let _alone = alone();
    let Some(cluster) = shared(major) else { return };
    let howdah = howdah_before(cluster);
    check_driver(driver, &cluster.dsn("app", "app"), &howdah.dsn("app", "app"));
    // Those of the script's direct connection take a moment to be gone.
    harness::eventually("the pool is bounded", || harness::connections(cluster, "app") <= POOL_SIZE);
}

/// The scripts themselves: over twice the same server there is never a difference, or they compare what varies.
fn driver_against_itself(driver: Driver, major: u32) {
    let _alone = alone();
    let Some(cluster) = shared(major) else { return };
    check_driver(driver, &cluster.dsn("app", "app"), &cluster.dsn("app", "app"));
}

fn psql(major: u32) {
    let _alone = alone();
    let (Some(cluster), Some(psql)) = (shared(major), client_program("psql")) else { return };
    let howdah = howdah_before(cluster);
    let script = harness::root().join("tests/drivers/psql.sql");
    let [direct, proxied] = [cluster.dsn("app", "app"), howdah.dsn("app", "app")].map(|dsn| {
        let mut command = Command::new(&psql);
        command.args(["-X", "-a", "-d", &dsn, "-f"]).arg(&script).env("LC_ALL", "C.UTF-8");
        let output = command.output().expect("psql runs");
        let all = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&all).into_owned())
    });
    assert_eq!(direct, proxied);
    assert_eq!(direct.0, Some(0), "{}", direct.1);
}

fn pgbench(major: u32) {
    let _alone = alone();
    let (Some(cluster), Some(pgbench)) = (shared(major), client_program("pgbench")) else { return };
    let howdah = howdah_before(cluster);
    let seconds = std::env::var("HOWDAH_PGBENCH_SECONDS").unwrap_or_else(|_| "3".to_owned());
    let port = howdah.port().to_string();
    let base = ["-h", "127.0.0.1", "-p", &port, "-U", "app"];
    succeed(Command::new(&pgbench).args(base).args(["-i", "-q", "-s", "5", "app"]), "pgbench -i");
    for mode in ["simple", "extended", "prepared"] {
        let mut command = Command::new(&pgbench);
        command.args(base).args(["-M", mode, "-c", "200", "-j", "2", "-T", &seconds, "app"]);
        let said = succeed(&mut command, mode);
        assert!(said.contains("number of failed transactions: 0 "), "{mode}:\n{said}");
        assert!(harness::connections(cluster, "app") <= POOL_SIZE, "the pool is bounded");
    }
}

/// One test for each version that the compatibility tests run on.
macro_rules! on_every_version {
    ($($(#[$attribute:meta])* $name:ident => $run:expr;)*) => { $(
        mod $name {
            use super::*;

            #[test]
            $(#[$attribute])*
            fn on_postgres_15() {
                ($run)(15);
            }

            #[test]
            $(#[$attribute])*
            fn on_postgres_18() {
                ($run)(18);
            }
        }
    )* };
}

mod scripts {
    use super::*;

    on_every_version! {
        psycopg => |major| driver_against_itself(PSYCOPG, major);
        asyncpg => |major| driver_against_itself(ASYNCPG, major);
        node_postgres => |major| driver_against_itself(NODE_PG, major);
    }
}

mod through_howdah {
    use super::*;

    on_every_version! {
        with_psycopg => |major| driver(PSYCOPG, major);
        with_asyncpg => |major| driver(ASYNCPG, major);
        with_node_postgres => |major| driver(NODE_PG, major);
        with_psql => psql;
        with_pgbench => pgbench;
    }
}
