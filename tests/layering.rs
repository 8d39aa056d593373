//! The layers of the crate, enforced: who may name whom, and which parts decide without doing. A program of its own,
//! because it only reads the sources: it says within a second what a change of them has broken.

use std::path::{Path, PathBuf};

/// A folder or file, the crate's modules that it may name, and whether it is a core: one that does no I/O, asks
/// no clock, counts nothing and holds nothing global. The longest path that fits a file is its rule.
struct Rule {
    path: &'static str,
    may_name: &'static [&'static str],
    core: bool,
}

const fn rule(path: &'static str, may_name: &'static [&'static str], core: bool) -> Rule {
    Rule { path, may_name, core }
}

const ANY: &[&str] = &["*"];

/// Conversions of numbers, which have no layer.
const EVERYBODY_MAY_NAME: [&str; 2] = ["number", "session_state"];

const RULES: &[Rule] = &[
    rule("app", ANY, false),
    rule("lib.rs", ANY, false),
    rule("main.rs", ANY, false),
    // Decide.
    rule("number.rs", &[], true),
    rule("session_state.rs", &[], true),
    rule("clock.rs", &[], false),
    rule("error", &[], true),
    rule("config", &["tls"], true),
    rule("tls", &[], true),
    rule("proto", &["error"], true),
    rule("auth", &["auth", "config", "error", "proto"], true),
    rule("pool/core.rs", &["error"], true),
    rule("pool/shed.rs", &[], true),
    rule("pool/adapt.rs", &[], true),
    rule("routing", &["config", "proto", "routing"], true),
    rule("capacity", &["config"], true),
    rule("fleet", &[], true),
    rule("doctor", &["capacity", "proto"], true),
    rule("doctor/figures.rs", &["metrics"], false),
    rule("net/lane.rs", &[], true),
    rule("net/buffer.rs", &[], true),
    rule("queries", &["proto"], true),
    rule("relay/state.rs", &["error", "proto", "queries"], true),
    rule("relay/up.rs", &["error", "net", "proto", "relay"], true),
    rule("relay/suspect.rs", &["error", "proto", "relay"], true),
    rule("relay/down.rs", &["error", "net", "proto", "relay"], true),
    // Do.
    rule("fleet/control.rs", &["capacity", "clock", "config", "pool", "services"], false),
    rule("fleet/link.rs", &["capacity", "clock", "config", "pool", "server", "services"], false),
    rule("doctor/ask", &["capacity", "config", "ops", "routing", "server", "services", "tls"], false),
    rule("capacity/ask.rs", &["config", "pool", "server", "services"], false),
    rule("capacity/admit.rs", &["config", "metrics", "services"], false),
    rule("net", &["config"], false),
    rule("monitor/core.rs", &[], true),
    rule("monitor/names.rs", &[], true),
    rule("monitor", &["clock", "config", "monitor", "pool", "routing", "server", "services"], false),
    rule("metrics", &["error"], false),
    rule(
        "server",
        &["auth", "clock", "config", "error", "net", "pool", "proto", "relay", "server", "tls"],
        false,
    ),
    rule(
        "pool",
        &[
            "client", "clock", "config", "error", "journal", "metrics", "monitor", "net", "pool", "proto",
            "queries", "relay", "server", "services", "tls",
        ],
        false,
    ),
    rule(
        "relay",
        &[
            "client", "clock", "config", "error", "net", "pool", "proto", "queries", "relay", "server",
            "services",
        ],
        false,
    ),
    // A session meets its server in the relay only.
    rule(
        "client",
        &[
            "auth",
            "cancel",
            "client",
            "clock",
            "config",
            "directory",
            "error",
            "journal",
            "lookup",
            "monitor",
            "net",
            "pool",
            "proto",
            "queries",
            "relay",
            "routing",
            "services",
            "tls",
        ],
        false,
    ),
    rule("directory.rs", &["config"], false),
    rule("cancel.rs", &["client", "config", "proto", "server", "services"], false),
    rule(
        "services.rs",
        &[
            "auth",
            "client",
            "clock",
            "config",
            "control",
            "directory",
            "error",
            "lookup",
            "metrics",
            "monitor",
            "net",
            "pool",
            "proto",
            "queries",
        ],
        false,
    ),
    rule("lookup.rs", &["auth", "clock", "config", "error", "pool", "server", "services"], false),
    rule("journal.rs", &["client", "config", "error", "net", "services"], false),
    rule("control.rs", &["config", "error", "pool"], false),
    rule("console/command.rs", &["config", "error"], true),
    rule("console/message.rs", &["proto"], true),
    rule("console/rows.rs", &["console"], true),
    rule("console/protocol.rs", &["config", "error", "proto"], true),
    rule(
        "console",
        &[
            "client", "clock", "config", "console", "control", "doctor", "error", "monitor", "net", "pool",
            "proto", "routing", "server", "services",
        ],
        false,
    ),
    rule(
        "ops",
        &[
            "client", "clock", "config", "error", "metrics", "monitor", "net", "ops", "pool", "queries",
            "services",
        ],
        false,
    ),
    // A program of its own beside the pooler.
    rule("demo", &[], false),
];

/// What no core names.
const FORBIDDEN_IN_CORES: &[&str] = &[
    "tokio",
    "Clock::",
    "Instant::now",
    "SystemTime::now",
    "crate::metrics",
    "std::net::Tcp",
    "thread::sleep",
    "thread::spawn",
];

/// Non-test lines that a file may have.
const LONG: usize = 600;

/// Files that are longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "client/login.rs",
        "one handshake from the first byte to the welcome; its steps share what it has learnt",
    ),
    ("client/session.rs", "one client: idle, waiting, active, and how each of them ends share every field"),
    ("config/settings.rs", "a table: one declaration for each setting"),
    ("error/report.rs", "a table: one row for each error"),
    ("pool/core.rs", "one state machine; its parts share every field"),
    ("pool/mod.rs", "the handle that does what the core decides: opening, giving back, cancels"),
    ("relay/flow.rs", "one loop: both directions and the clocks of a lease share every field"),
    ("relay/up.rs", "one scan: a function for each message of a frontend"),
];

/// Statics, each with the reason.
const STATICS: &[(&str, &str)] = &[
    ("demo/process.rs", "numbers the ports that a test run has taken"),
    ("demo/scratch.rs", "numbers the scratch directories of one process"),
];

struct Source {
    /// Below `src`, with forward slashes.
    path: String,
    /// Without comments and tests.
    code: Vec<String>,
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// What stands before the module of unit tests, which ends every file that has one.
fn without_tests(text: &str) -> &str {
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => text.split_at(at).0,
        None => text,
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let found: Vec<Source> = paths
        .iter()
        .filter_map(|p| {
            let path = p.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
            let test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
            let text = std::fs::read_to_string(p).expect("a text");
            let code = without_tests(&text)
                .lines()
                .map(|l| if l.trim_start().starts_with("//") { String::new() } else { l.to_owned() })
                .collect();
            (!test).then_some(Source { path, code })
        })
        .collect();
    assert!(found.len() > 50, "the sources are found");
    found
}

fn rule_of(path: &str) -> Option<&'static Rule> {
    RULES
        .iter()
        .filter(|r| path.strip_prefix(r.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        .max_by_key(|r| r.path.len())
}

/// The crate's modules that a line names; `{` where it names several at once.
fn named(line: &str) -> Vec<String> {
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c == '$' || c.is_alphanumeric() || c == '_'))
        .map(|(at, m)| {
            let rest = &line[at + m.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end == 0 { "{".to_owned() } else { rest[..end].to_owned() }
        })
        .collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_file_has_a_rule_and_every_rule_a_file() {
    let sources = sources();
    let mut problems = Vec::new();
    for s in &sources {
        if rule_of(&s.path).is_none() {
            problems.push(format!("src/{}: no rule says what it may name", s.path));
        }
    }
    for r in RULES {
        if !sources.iter().any(|s| rule_of(&s.path).is_some_and(|found| std::ptr::eq(found, r))) {
            problems.push(format!("the rule for {} fits no file", r.path));
        }
    }
    report(&problems);
}

#[test]
fn modules_name_only_those_below_them() {
    let mut problems = Vec::new();
    for s in sources() {
        let Some(rule) = rule_of(&s.path) else { continue };
        if rule.may_name == ANY {
            continue;
        }
        for (n, line) in s.code.iter().enumerate() {
            for name in named(line) {
                if !EVERYBODY_MAY_NAME.contains(&name.as_str()) && !rule.may_name.contains(&name.as_str()) {
                    problems.push(format!("src/{}:{}: names crate::{name}", s.path, n + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn cores_do_nothing() {
    let mut problems = Vec::new();
    for s in sources() {
        if !rule_of(&s.path).is_some_and(|r| r.core) {
            continue;
        }
        for (n, line) in s.code.iter().enumerate() {
            for what in FORBIDDEN_IN_CORES {
                if line.contains(what) {
                    problems.push(format!("src/{}:{}: a core names {what}", s.path, n + 1));
                }
            }
            if line.contains("async fn") || line.contains(".await") {
                problems.push(format!("src/{}:{}: a core waits", s.path, n + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_global() {
    let mut problems = Vec::new();
    let mut with = Vec::new();
    for s in sources() {
        for (n, line) in s.code.iter().enumerate() {
            let line = line.trim_start();
            let item = line.strip_prefix("pub ").unwrap_or(line);
            if item.starts_with("static ") || item.contains("thread_local!") || item.contains("lazy_static!")
            {
                with.push(s.path.clone());
                if !STATICS.iter().any(|(p, _)| *p == s.path) {
                    problems.push(format!("src/{}:{}: a static", s.path, n + 1));
                }
            }
        }
    }
    for (path, _) in STATICS {
        if !with.iter().any(|p| p == path) {
            problems.push(format!("src/{path} has no static any more"));
        }
    }
    report(&problems);
}

#[test]
fn long_files_have_a_reason() {
    let mut problems = Vec::new();
    let sources = sources();
    for s in &sources {
        let listed = LONG_FILES.iter().any(|(p, _)| *p == s.path);
        match (s.code.len() > LONG, listed) {
            (true, false) => problems.push(format!("src/{}: {} lines and no reason", s.path, s.code.len())),
            (false, true) => problems.push(format!("src/{}: is not long any more", s.path)),
            _ => {}
        }
    }
    for (path, why) in LONG_FILES.iter().chain(STATICS) {
        assert!(why.len() > 20, "{path} needs a reason");
        assert!(sources.iter().any(|s| s.path == *path), "{path} is gone");
    }
    report(&problems);
}
