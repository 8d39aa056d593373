//! The layers of the crate, held: each module names only those below it, and some parts decide without doing. A program of its own,
//! because it only reads the sources: it says within a second what a change of them has broken.

use std::path::{Path, PathBuf};

/// A folder or file, and the crate's modules that it may name if it is a core: one that does no I/O, asks no clock,
/// counts nothing and holds nothing global. The longest path that fits a file is its rule; a file without one is no
/// core, and may name what is below it.
struct Rule {
    path: &'static str,
    core: Option<&'static [&'static str]>,
}

const fn core(path: &'static str, may_name: &'static [&'static str]) -> Rule {
    Rule { path, core: Some(may_name) }
}

/// What acts, within a folder of cores.
const fn acts(path: &'static str) -> Rule {
    Rule { path, core: None }
}

/// Ids, conversions of numbers, and the kinds of state that a session has.
const EVERYBODY_MAY_NAME: [&str; 3] = ["ids", "number", "session_state"];

const RULES: &[Rule] = &[
    core("ids.rs", &[]),
    core("number.rs", &[]),
    core("session_state.rs", &[]),
    core("error", &[]),
    core("config", &["tls"]),
    core("tls", &[]),
    core("proto", &["error"]),
    core("auth", &["auth", "config", "error", "proto"]),
    core("pool/core.rs", &["control", "error"]),
    core("pool/shed.rs", &[]),
    core("pool/adapt.rs", &[]),
    core("routing", &["config", "proto", "routing"]),
    core("capacity", &["config"]),
    acts("capacity/ask.rs"),
    acts("capacity/admit.rs"),
    core("fleet", &[]),
    acts("fleet/control.rs"),
    acts("fleet/link.rs"),
    core("doctor", &["capacity", "proto"]),
    acts("doctor/figures.rs"),
    acts("doctor/ask"),
    core("net/lane.rs", &[]),
    core("net/buffer.rs", &[]),
    core("queries", &["proto"]),
    core("relay", &["error", "net", "proto", "queries", "relay"]),
    core("listener/core.rs", &["proto"]),
    core("monitor/core.rs", &[]),
    core("monitor/names.rs", &[]),
    core("console/command.rs", &["config", "error"]),
    core("console/message.rs", &["proto"]),
    core("console/rows.rs", &["console"]),
    core("console/protocol.rs", &["config", "error", "proto"]),
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
    ("client/flow.rs", "one loop: both directions and the clocks of a lease share every field"),
    ("relay/up.rs", "one scan: a function for each message of a frontend"),
];

/// Lines that a function may have.
const LONG_FUNCTION: usize = 80;

/// Functions that are longer, each with the reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("error/report.rs report", "a table: one row for each error"),
    ("error/console.rs row", "a table: one row for each error of the console"),
    ("config/blank.rs blank", "a table: one line for each setting"),
    ("relay/down.rs step", "one arm for each message of a server"),
    ("relay/down/error.rs error", "one error, which every account of what was sent must hear of"),
    ("relay/up.rs bind", "one message, which is rewritten while it is read"),
    ("relay/up.rs parse", "one message, which is kept, renamed, answered or sent on"),
    ("client/flow.rs watch_time", "every clock of a lease, in the order in which they end it"),
];

/// Methods that a type may have, tests apart.
const MANY_METHODS: usize = 40;

/// Types that have more, each with how many and the reason. The numbers only shrink.
const TYPES_WITH_MORE: &[(&str, usize, &str)] = &[
    (
        "client::Session",
        86,
        "not split yet: a client's transactions, waits, channels and ends share its socket and parameters",
    ),
    ("pool::Pool", 88, "not split yet: checkout, dials, cancels and figures share the lock of its core"),
    ("pool::PoolCore", 66, "one pure state machine: the queue and the slots share every invariant"),
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
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = std::env::var_os("HOWDAH_SOURCES").map_or(here, PathBuf::from);
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

/// The crate's modules that a line names.
fn named(line: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c == '$' || word(c)))
        .flat_map(|(at, m)| {
            let rest = &line[at + m.len()..];
            match rest.strip_prefix('{') {
                Some(several) => several.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
                None => vec![rest],
            }
        })
        .map(|path| path.chars().take_while(|c| word(*c)).collect())
        .collect()
}

/// The floors of the modules, as the table in `src/lib.rs` has them: from the roof down.
fn floors() -> Vec<(String, u32)> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(lib).expect("a text");
    let mut floors = Vec::new();
    for row in text.lines().filter_map(|l| l.strip_prefix("//! | ")) {
        let mut cells = row.split(" | ");
        let Some(Ok(floor)) = cells.next().map(str::parse) else { continue };
        let module = cells.next().expect("a module").trim_start_matches("[`").trim_end_matches("`]");
        floors.push((module.to_owned(), floor));
    }
    floors
}

fn floor_of(floors: &[(String, u32)], module: &str) -> Option<u32> {
    floors.iter().find(|(m, _)| m == module).map(|(_, f)| *f)
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_rule_fits_a_file() {
    let sources = sources();
    let without = RULES
        .iter()
        .filter(|r| !sources.iter().any(|s| rule_of(&s.path).is_some_and(|found| std::ptr::eq(found, *r))));
    report(&without.map(|r| format!("the rule for {} fits no file", r.path)).collect::<Vec<_>>());
}

#[test]
fn the_table_of_layers_has_each_module_once_from_the_roof_down() {
    let floors = floors();
    assert!(floors.windows(2).all(|w| w[0].1 >= w[1].1), "from the roof down: {floors:?}");
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(lib).expect("a text");
    let mut declared: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut listed: Vec<&str> = floors.iter().map(|(m, _)| m.as_str()).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, declared);
}

/// An order without a cycle: each arrow leads down.
#[test]
fn modules_name_only_those_below_them() {
    let floors = floors();
    let mut problems = Vec::new();
    for s in sources() {
        let module = s.path.split(['/', '.']).next().expect("a module");
        let Some(floor) = floor_of(&floors, module) else { continue };
        for (n, line) in s.code.iter().enumerate() {
            for name in named(line) {
                let below = floor_of(&floors, &name).is_some_and(|f| f < floor);
                if name != module && !below {
                    let line = n + 1;
                    problems.push(format!("src/{}:{line}: names crate::{name}, which is not below", s.path));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn cores_name_only_what_they_may() {
    let mut problems = Vec::new();
    for s in sources() {
        let Some(may_name) = rule_of(&s.path).and_then(|r| r.core) else { continue };
        for (n, line) in s.code.iter().enumerate() {
            for name in named(line) {
                let may = EVERYBODY_MAY_NAME.contains(&name.as_str()) || may_name.contains(&name.as_str());
                if !may {
                    problems.push(format!("src/{}:{}: a core names crate::{name}", s.path, n + 1));
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
        if rule_of(&s.path).is_none_or(|r| r.core.is_none()) {
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

/// The functions of a file: where each begins, its name, and its lines.
fn functions(s: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, line) in s.code.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start().split("fn ").next().unwrap_or_default();
        let is_head = head
            .split_whitespace()
            .all(|w| ["pub", "const", "async", "pub(super)", "pub(crate)", "pub(in", "crate)"].contains(&w));
        if !line.contains("fn ") || !is_head {
            continue;
        }
        let name = line.split("fn ").nth(1).unwrap_or_default();
        let name = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let rest = s.code.get(at..).unwrap_or_default();
        let declared = rest.iter().take_while(|l| !l.contains('{')).any(|l| l.trim_end().ends_with(';'));
        let end = format!("{}}}", " ".repeat(indent));
        match rest.iter().position(|l| *l == end) {
            Some(lines) if !declared => found.push((at + 1, name, lines + 1)),
            _ => {}
        }
    }
    found
}

#[test]
fn long_functions_have_a_reason() {
    let mut problems = Vec::new();
    let mut met = Vec::new();
    for s in sources() {
        for (at, name, lines) in functions(&s) {
            let key = format!("{} {name}", s.path);
            let listed = LONG_FUNCTIONS.iter().any(|(f, _)| *f == key);
            if lines > LONG_FUNCTION && !listed {
                problems.push(format!("src/{}:{at}: {name} has {lines} lines and no reason", s.path));
            } else if lines > LONG_FUNCTION {
                met.push(key);
            }
        }
    }
    let short = LONG_FUNCTIONS.iter().filter(|(f, _)| !met.iter().any(|m| m == f));
    problems.extend(short.map(|(f, _)| format!("src/{f}: is not long any more")));
    report(&problems);
}

/// Every name of a file, a folder or an item in the answers for newcomers.
#[test]
fn what_newcomers_are_told_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("CONTRIBUTING.md")).expect("a text");
    let (_, answers) = text.split_once("## Where to look first").expect("the answers");
    let answers = answers.split("\n## ").next().unwrap_or_default();
    let mut code = String::new();
    for s in sources() {
        code.push_str(&s.code.join("\n"));
    }
    let mut names = 0;
    for name in answers.split('`').skip(1).step_by(2) {
        if name.contains(' ') {
            // A command.
            continue;
        }
        names += 1;
        let exists = if name.contains('/') { root.join(name).exists() } else { code.contains(name) };
        assert!(exists, "`{name}` is in no source, and is no file");
    }
    assert!(names > 15, "the answers have {names} names");
}

/// What follows the generics of an `impl`.
fn behind_generics(head: &str) -> &str {
    let mut depth = 0;
    for (at, c) in head.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => return head.split_at(at).1,
            _ => {}
        }
    }
    head
}

/// The types with methods of their own, each behind its module, and how many each has in all files of that module.
fn methods(sources: &[Source]) -> Vec<(String, usize)> {
    let mut methods: Vec<(String, usize)> = Vec::new();
    for s in sources {
        let module = s.path.split(['/', '.']).next().expect("a module");
        let mut of: Option<String> = None;
        for line in &s.code {
            if let Some(head) = line.strip_prefix("impl").filter(|l| !l.contains(" for ")) {
                let name = behind_generics(head).trim_start();
                let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                of = Some(format!("{module}::{name}"));
            } else if line == "}" {
                of = None;
            }
            if let Some(of) = of.as_ref().filter(|_| line.starts_with("    ") && line.contains("fn ")) {
                match methods.iter_mut().find(|(name, _)| name == of) {
                    Some((_, n)) => *n += 1,
                    None => methods.push((of.clone(), 1)),
                }
            }
        }
    }
    methods
}

#[test]
fn types_with_many_methods_have_a_reason() {
    let found = methods(&sources());
    let mut problems = Vec::new();
    for (name, n) in found.iter().filter(|(_, n)| *n > MANY_METHODS) {
        match TYPES_WITH_MORE.iter().find(|(listed, ..)| listed == name) {
            None => problems.push(format!("{name} has {n} methods and no reason")),
            Some((_, most, _)) if n > most => {
                problems
                    .push(format!("{name} has {n} methods, which were {most}: give it a part of its own"));
            }
            Some((_, most, _)) if n < most => {
                problems.push(format!("{name} has {n} methods now: list so many"))
            }
            Some(_) => {}
        }
    }
    for (name, _, why) in TYPES_WITH_MORE {
        assert!(why.len() > 20, "{name} needs a reason");
        if !found.iter().any(|(f, n)| f == name && *n > MANY_METHODS) {
            problems.push(format!("{name} has no more than {MANY_METHODS} methods any more"));
        }
    }
    report(&problems);
}

/// For people: `cargo test --test layering -- --ignored --nocapture numbers`; `HOWDAH_SOURCES` names another `src`.
#[test]
#[ignore = "prints numbers, and holds nothing"]
fn numbers_of_the_house() {
    let sources = sources();
    let part = |mut all: Vec<usize>, percent: usize| {
        all.sort_unstable();
        all.get(all.len() * percent / 100).copied().unwrap_or_default()
    };
    let lengths: Vec<usize> = sources.iter().map(|s| s.code.len()).collect();
    println!(
        "{} files, median {} lines, p90 {}",
        lengths.len(),
        part(lengths.clone(), 50),
        part(lengths.clone(), 90)
    );
    let mut long: Vec<(usize, String)> = Vec::new();
    let mut public = 0;
    for s in &sources {
        long.extend(functions(s).into_iter().map(|(_, name, lines)| (lines, format!("{} {name}", s.path))));
        let of_file = s.code.iter().filter(|l| l.trim_start().starts_with("pub ") && !l.contains("pub mod "));
        public += of_file.count();
    }
    let mut methods = methods(&sources);
    long.sort_by(|a, b| b.cmp(a));
    methods.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    println!("longest functions: {:?}", long.iter().take(8).collect::<Vec<_>>());
    println!("most methods: {:?}", methods.iter().take(6).collect::<Vec<_>>());
    println!("{public} pub items; {} modules, each in a cycle of 1 (the floors)", floors().len());
}
