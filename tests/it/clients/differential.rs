//! The same byte scripts sent to PostgreSQL directly and through Howdah give the same transcript.
//!
//! `HOWDAH_TEST_SCRIPTS` picks scripts whose name contains the word, `HOWDAH_TEST_SHOW` prints every
//! transcript.

use std::time::Instant;

use crate::harness;
use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::run::{difference, files, run};
use crate::harness::wire::script::Script;

/// Files with scripts that a pooler in transaction mode need not answer alike: see their headers.
const APART: &[&str] = &["violations", "session", "names"];

/// How many failing scripts are shown in full.
const SHOWN: usize = 40;

/// What every pooler must answer as PostgreSQL does: all files but those apart, and the generated.
fn binding() -> Vec<Script> {
    let chosen = files().into_iter().filter(|(file, _)| !APART.contains(&file.as_str()));
    let mut all: Vec<_> = chosen.flat_map(|(_, scripts)| scripts).collect();
    all.extend(harness::wire::generate::all());
    picked(all)
}

fn apart(names: &[&str]) -> Vec<Script> {
    let chosen = files().into_iter().filter(|(file, _)| names.contains(&file.as_str()));
    picked(chosen.flat_map(|(_, scripts)| scripts).collect())
}

fn picked(mut all: Vec<Script>) -> Vec<Script> {
    let word = std::env::var("HOWDAH_TEST_SCRIPTS").unwrap_or_default();
    all.retain(|s| s.name.contains(&word));
    all
}

/// Runs every script against both; gives the differences, ready to print.
///
/// `quiet` waits between two scripts until what a client has left behind is known and cleaned: else the next one may be served by
/// another connection in its middle, which shows in when PostgreSQL notices that a cached plan is stale.
fn compare(scripts: &[Script], left: (&str, &Dsn), right: (&str, &Dsn), quiet: &dyn Fn()) -> Vec<String> {
    let started = Instant::now();
    let mut found = Vec::new();
    for script in scripts {
        let transcripts = [run(script, left.1, left.1), run(script, right.1, left.1)];
        quiet();
        let [a, b] = &transcripts;
        if std::env::var_os("HOWDAH_TEST_SHOW").is_some() {
            println!("== {}\n    {}", script.name, a.join("\n    "));
        }
        if let Some(text) = difference((left.0, a), (right.0, b)) {
            found.push(format!("== {}\n{text}", script.name));
        } else if a.iter().any(|l| l.contains("! timeout") || l.contains("! login"))
            && !a.iter().any(|l| l.contains("C=\"XX000\""))
        {
            // Equal hangs prove nothing, except where PostgreSQL itself has lost its way and says so.
            found.push(format!("== {}\nboth: {}", script.name, a.join("\n      ")));
        }
    }
    let (total, bad) = (scripts.len(), found.len());
    println!("{total} scripts, {bad} differ, {:.1?}", started.elapsed());
    found
}

fn cleaned(howdah: &Howdah) {
    let servers = |state| harness::metric(howdah, "howdah_pool_servers", &[("state", state)]);
    harness::eventually("all connections are idle", || {
        ["active", "opening", "repairing", "canceling"].into_iter().map(servers).sum::<f64>() == 0.0
    });
}

fn verdict(found: &[String]) {
    let shown: Vec<_> = found.iter().take(SHOWN).map(String::as_str).collect();
    assert!(found.is_empty(), "{} scripts differ\n{}", found.len(), shown.join("\n"));
}

const CONFIG: &str = r#"
listen = ["127.0.0.1:{port}"]
ops_listen = "127.0.0.1:{ops_port}"
auth_method = "trust"
log_connections = false
log_disconnections = false
[users.app]
[databases.app]
host = "127.0.0.1:{pg}"
pool_size = 20
pool_mode = "{mode}"
"#;

/// A server of this version and a Howdah before it; `None` where there is none, which is said aloud.
struct Pair {
    direct: Dsn,
    proxied: Dsn,
    howdah: Howdah,
}

fn pair(major: u32, mode: &str) -> Option<Pair> {
    let cluster = harness::shared(major)?;
    let text = CONFIG.replace("{pg}", &cluster.port().to_string()).replace("{mode}", mode);
    let howdah = Howdah::start(&text);
    Some(Pair {
        direct: Dsn::local(cluster.port(), "app", "app"),
        proxied: Dsn::local(howdah.port(), "app", "app"),
        howdah,
    })
}

fn proxied_equals_direct(major: u32) {
    let Some(p) = pair(major, "transaction") else { return };
    verdict(&compare(&binding(), ("direct", &p.direct), ("proxied", &p.proxied), &|| cleaned(&p.howdah)));
}

#[test]
fn proxied_equals_direct_on_postgres_15() {
    proxied_equals_direct(15);
}

#[test]
fn proxied_equals_direct_on_postgres_18() {
    proxied_equals_direct(18);
}

/// A BEGIN that is held back is seen by nobody.
#[test]
fn a_deferred_begin_shows_nowhere() {
    let Some(cluster) = harness::shared(15) else { return };
    // The replica is down: whatever goes there goes to the primary, by the configuration.
    let text = CONFIG.replace("{pg}", &cluster.port().to_string()).replace("{mode}", "transaction");
    let down = harness::free_port().expect("a port");
    let text = format!(
        "{text}when_no_replica = \"primary\"\ndefer_begin = true\n[databases.app.replica]\nhost = \"127.0.0.1:{down}\"\n"
    );
    let howdah = Howdah::start(&text);
    let direct = Dsn::local(cluster.port(), "app", "app");
    let proxied = Dsn::local(howdah.port(), "app", "app");
    verdict(&compare(&binding(), ("direct", &direct), ("deferred", &proxied), &|| cleaned(&howdah)));
}

/// Compared too, yet on their own: both sides end the connection, perhaps in other words.
#[test]
fn violations_end_alike() {
    let Some(p) = pair(15, "transaction") else { return };
    for script in apart(&["violations"]) {
        let ends = |dsn| run(&script, dsn, &p.direct).last().is_some_and(|l| l.ends_with("! closed"));
        let ended = (ends(&p.direct), ends(&p.proxied));
        // Where PostgreSQL forgives a length that cannot be, Howdah does not: the boundary may be lost.
        assert!(ended.1, "{}: closed by PostgreSQL {}, by Howdah {}", script.name, ended.0, ended.1);
    }
}

/// Against a pool in session mode, where a client keeps its server.
#[test]
fn session_mode_keeps_session_state() {
    let Some(p) = pair(15, "session") else { return };
    // The one thing that even a session's own server connection does not know: the client's startup packet.
    let scripts = apart(&["session", "names"]).into_iter().filter(|s| !s.name.contains("defaults of reset"));
    verdict(&compare(&scripts.collect::<Vec<_>>(), ("direct", &p.direct), ("session", &p.proxied), &|| {
        cleaned(&p.howdah)
    }));
}

/// A script that differs from itself could show nothing about a proxy.
#[test]
fn direct_equals_itself() {
    let Some(cluster) = harness::shared(15) else { return };
    let direct = Dsn::local(cluster.port(), "app", "app");
    let all = [binding(), apart(APART)].concat();
    verdict(&compare(&all, ("first", &direct), ("second", &direct), &|| ()));
}

#[test]
fn scripts_compile_and_have_names_of_their_own() {
    let all = [binding(), apart(APART)].concat();
    let mut names: Vec<_> = all.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    assert!(twice.is_empty(), "used twice: {twice:?}");
    for script in &all {
        let steps = script.compile("hd_000000_000000").unwrap_or_else(|e| panic!("{e}"));
        assert!(steps.len() > 1, "{} does nothing", script.name);
    }
    let written: usize = files().iter().map(|(_, scripts)| scripts.len()).sum();
    assert!(std::env::var("HOWDAH_TEST_SCRIPTS").is_ok() || written >= 200, "{written} scripts");
}
