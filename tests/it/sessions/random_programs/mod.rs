//! Random programs of session commands, by three clients over a pool of two or three connections in transaction mode,
//! against the same programs on connections of their own: each answer is the same, and so is what the clients and
//! strangers find afterwards. [`program`] makes the programs up, [`play`] runs one and finds the first difference.
//!
//! `HOWDAH_TEST_SEED` runs the program of that seed alone, `HOWDAH_TEST_PROGRAMS` says how many programs the long form runs, and
//! `HOWDAH_TEST_KEEP` how many differences are shrunk and shown.

mod play;
mod program;
mod side;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::{self, Cluster, app_options, cluster};
use play::{End, Game};
use program::{Op, Program};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

fn prepared(major: u32) -> Option<Cluster> {
    let options = app_options()
        .setting("fsync", "off")
        .setting("timezone", "Europe/Berlin")
        .sql("CREATE ROLE reader")
        .sql("CREATE ROLE plain LOGIN IN ROLE reader")
        .sql("ALTER ROLE app SUPERUSER")
        .sql("CREATE DATABASE direct OWNER app")
        .sql("CREATE DATABASE pooled OWNER app");
    let cluster = cluster(major, options)?;
    for database in ["direct", "pooled"] {
        let mut c = cluster.connect(harness::SUPERUSER, database).expect("a direct session");
        c.query(
            "CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO public; \
             CREATE TABLE public.kept AS SELECT 'public' AS who; \
             CREATE TABLE elsewhere.kept AS SELECT 'elsewhere' AS who, 2 AS number; \
             GRANT SELECT, UPDATE ON public.kept, elsewhere.kept TO public",
        )
        .expect("tables");
    }
    Some(cluster)
}

/// The fewest operations that still differ.
fn shrunk(game: &mut Game<'_>, program: &Program, first: End) -> (Program, End) {
    let mut best = (program.clone(), first);
    let mut size = best.0.ops.len().div_ceil(2);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut at = 0;
        let mut gone = false;
        while at < best.0.ops.len() && Instant::now() < until {
            let mut ops: Vec<Op> = best.0.ops.clone();
            ops.drain(at..(at + size).min(ops.len()));
            let candidate = Program { ops, ..best.0.clone() };
            match game.play(&candidate) {
                end @ End::Differs(_) => {
                    best = (candidate, end);
                    gone = true;
                }
                _ => at += size,
            }
        }
        if size == 1 && !gone || Instant::now() > until {
            return best;
        }
        size = (size / 2).max(1);
    }
}

/// Runs programs until enough time or enough of them have passed.
fn fuzz(major: u32, first: u64, most: u64, time: Duration) {
    let Some(cluster) = prepared(major) else { return };
    let mut game = Game::new(&cluster);
    let started = Instant::now();
    let (mut run, mut stated) = (0, BTreeMap::<&str, u32>::new());
    let mut found = Vec::new();
    let keep = number("HOWDAH_TEST_KEEP").unwrap_or(3);
    for seed in first..first.saturating_add(most) {
        if started.elapsed() > time || found.len() as u64 >= keep {
            break;
        }
        let program = Program::new(seed);
        run += 1;
        match game.play(&program) {
            End::Equal => {}
            End::Stated(why) => *stated.entry(why).or_default() += 1,
            end @ End::Differs(_) => {
                if std::env::var_os("HOWDAH_TEST_SHOW").is_some() {
                    println!("{program}");
                }
                let (program, end) = shrunk(&mut game, &program, end);
                let End::Differs(why) = end else { continue };
                println!("{program}    {why}\n");
                found.push(format!("{program}    {why}"));
            }
        }
    }
    println!(
        "{run} programs from seed {first} in {:.1?}: {} differ; ended early: {stated:?}",
        started.elapsed(),
        found.len()
    );
    assert!(found.is_empty(), "{} of {run} programs differ\n{}", found.len(), found.join("\n"));
}

fn for_a_while(major: u32, first: u64) {
    match number("HOWDAH_TEST_SEED") {
        Some(seed) => fuzz(major, seed, 1, Duration::MAX),
        None => fuzz(major, first, u64::MAX, Duration::from_secs(20)),
    }
}

#[test]
fn random_programs_of_session_commands_run_as_on_connections_of_their_own() {
    for_a_while(15, 1);
}

#[test]
fn they_do_with_postgresql_18_as_well() {
    for_a_while(18, 500_000);
}

#[test]
#[ignore = "takes long: make soak"]
fn soak_random_programs_of_session_commands() {
    let first = number("HOWDAH_TEST_SEED").unwrap_or(1_000_000);
    let programs = number("HOWDAH_TEST_PROGRAMS").unwrap_or(20_000);
    fuzz(15, first, programs / 2, Duration::MAX);
    fuzz(18, first + programs / 2, programs / 2, Duration::MAX);
}
