//! Runs the examples of one page, in their order: a directory, a PostgreSQL, and the built program.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use howdah::demo::install::Install;
use howdah::demo::postgres::{Cluster, Options};
use howdah::demo::process::{free_port, signal};

use crate::left_out::{left_out, root};
use crate::page::{Page, Part, Wish};

/// What a fragment of a configuration is laid over.
const BASE: &str =
    "[users.app]\npassword = \"change-me\"\n[databases.app]\nhost = \"127.0.0.1\"\npool_size = 20\n";

/// Longer than any example takes, on a loaded machine.
const PATIENCE: &str = "120";

/// `howdah FILE` serves until it is told to end: here it returns when it listens, and leaves its number in `pids`.
const WRAPPER: &str = r#"#!/usr/bin/env bash
real=@PROGRAM@
for word in "$@"; do
    case "$word" in
        check | plan | doctor | convert | demo | help | health | schema | completions | man | init | show) exec "$real" "$@" ;;
        -V | --version | -h | --help) exec "$real" "$@" ;;
    esac
done
log=@DIR@/.serving.$$
"$real" "$@" >"$log" 2>&1 </dev/null &
pid=$!
echo $pid >>@DIR@/.pids
until grep -q -e ' serving ' -e '"serving"' -e 'process up' "$log"; do
    if ! kill -0 $pid 2>/dev/null; then
        cat "$log" >&2
        exit 1
    fi
    sleep 0.05
done
cat "$log" >&2
"#;

struct Lab {
    dir: tempfile::TempDir,
    names: Vec<(String, String)>,
    server: Option<(Cluster, Option<Cluster>)>,
    output: String,
    checked: u32,
}

/// Every example of this page.
pub fn run(name: &str) {
    let page = Page::read(name);
    let parts = page.parts();
    let needs_server = parts.iter().any(|p| match p {
        Part::Setup(_) => true,
        Part::Block { lang, wish, .. } => {
            *wish != Wish::Shown && !["toml", "ini", "text"].contains(&lang.as_str())
        }
    });
    let Some(mut lab) = Lab::new(needs_server, page.needs("replica")) else { return };
    for part in &parts {
        match part {
            Part::Setup(text) => {
                lab.shell(text, name, false);
            }
            Part::Block { line, lang, wish, text } => {
                let place = format!("{name}:{line}");
                lab.block(&place, lang, wish, text);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(self.dir.path().join(".pids")).unwrap_or_default();
        let pids: Vec<u32> = pids.lines().filter_map(|l| l.parse().ok()).collect();
        drop(signal("KILL", &pids));
    }
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// A role `app` with a database of its name; every role has the same password, and TCP asks for it.
fn servers(replica: bool) -> Option<(Cluster, Option<Cluster>)> {
    let options = Options::default()
        .setting("max_connections", "100")
        .setting("password_encryption", "scram-sha-256")
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .hba("host replication all 127.0.0.1/32 scram-sha-256")
        .sql("ALTER ROLE postgres PASSWORD 'change-me'")
        .sql("CREATE ROLE app LOGIN PASSWORD 'change-me'")
        .sql("CREATE DATABASE app OWNER app");
    let mut primary = match Cluster::start_new(options) {
        Ok(c) => c,
        Err(why) => {
            left_out("examples of the documents", &why.to_string());
            return None;
        }
    };
    let second = replica.then(|| primary.replica().expect("a replica"));
    if let Some(r) = &second {
        r.await_replay(&primary).expect("it follows");
    }
    Some((primary, second))
}

impl Lab {
    /// `None` where this machine has no PostgreSQL, which is said aloud.
    fn new(needs_server: bool, replica: bool) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().display().to_string();
        std::fs::create_dir(dir.path().join(".bin")).expect("a directory");
        let wrapper = WRAPPER.replace("@PROGRAM@", env!("CARGO_BIN_EXE_howdah")).replace("@DIR@", &path);
        executable(&dir.path().join(".bin/howdah"), &wrapper);
        let server = if needs_server { Some(servers(replica)?) } else { None };
        let mut names = vec![("/etc/howdah".to_owned(), path)];
        for port in ["6432", "6433", "9127", "9128"] {
            names.push((port.to_owned(), free_port().expect("a port").to_string()));
        }
        if let Some((primary, second)) = &server {
            names.push(("5432".to_owned(), primary.port().to_string()));
            let own = second.as_ref().map_or_else(|| primary.port(), Cluster::port);
            names.push(("5433".to_owned(), own.to_string()));
            let pass = dir.path().join(".pgpass");
            std::fs::write(&pass, "*:*:*:*:change-me\n").expect("written");
            private(&pass);
        }
        Some(Self { dir, names, server, output: String::new(), checked: 0 })
    }

    /// The text with the names of this machine in place of those that readers see.
    fn here(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |t, (shown, here)| t.replace(shown, here))
    }

    fn block(&mut self, place: &str, lang: &str, wish: &Wish, text: &str) {
        match (wish, lang) {
            (Wish::Shown, _) => {}
            (Wish::File(name), _) => self.file(place, name, text),
            (Wish::Output, _) => self.compare(place, text),
            (_, "toml") => self.check(place, "toml", &over_base(place, text)),
            (_, "ini") => self.check(place, "ini", text),
            (_, "sh") => self.shell(text, place, *wish == Wish::Fails),
            (_, "console") => self.console(text, place, *wish == Wish::Fails),
            (Wish::Sql(to), _) => self.sql(place, to, text),
            (_, "sql") => self.sql(place, "server", text),
            (_, "python") => self.script(place, "venv/bin/python", "py", text),
            (_, "js") => self.script(place, "node", "js", text),
            _ => panic!("{place}: {lang} cannot be run"),
        }
    }

    fn file(&mut self, place: &str, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, self.here(text) + "\n").expect("written");
        private(&path);
        let whole = text.contains("[databases");
        if whole && (name.ends_with(".toml") || name.ends_with(".ini")) {
            self.command(Command::new(self.program()).arg("check").arg(&path), place, false);
        }
    }

    fn check(&mut self, place: &str, kind: &str, text: &str) {
        self.checked += 1;
        let path = self.dir.path().join(format!("checked-{}.{kind}", self.checked));
        std::fs::write(&path, self.here(text) + "\n").expect("written");
        private(&path);
        self.command(Command::new(self.program()).arg("check").arg(&path), place, false);
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join(".bin/howdah")
    }

    fn sql(&mut self, place: &str, to: &str, text: &str) {
        let (user, port, database) = match to {
            "howdah" => ("app", "6432", "app"),
            "console" => ("operator", "6432", "howdah"),
            "replica" => ("postgres", "5433", "app"),
            _ => ("postgres", "5432", "app"),
        };
        let dsn = self.here(&format!("postgresql://{user}@127.0.0.1:{port}/{database}"));
        let mut command = Command::new("psql");
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &dsn, "-c"]).arg(self.here(text));
        self.command(&mut command, place, false);
    }

    fn shell(&mut self, text: &str, place: &str, fails: bool) {
        let text = format!("set -euo pipefail\n{}", self.here(text));
        self.command(Command::new("bash").arg("-c").arg(text), place, fails);
    }

    /// Lines that begin with `$` are run one after the other; the others are what they print.
    fn console(&mut self, text: &str, place: &str, fails: bool) {
        let mut shown = String::new();
        let mut lines = text.lines().peekable();
        let mut all = String::new();
        while let Some(line) = lines.next() {
            let Some(first) = line.strip_prefix("$ ") else {
                let _ = writeln!(shown, "{line}");
                continue;
            };
            let mut command = first.to_owned();
            while command.ends_with('\\') {
                let more = lines.next().unwrap_or_default();
                let _ = write!(command, "\n{more}");
            }
            self.shell(&command, place, fails);
            all.push_str(&self.output);
        }
        self.output = all;
        self.compare(place, &shown);
    }

    /// Each line is one of the output, but for numbers and blanks; `…` stands for anything.
    fn compare(&self, place: &str, shown: &str) {
        let said: Vec<String> = self.output.lines().map(plain).collect();
        for line in shown.lines().map(|l| plain(&self.here(l))).filter(|l| !l.is_empty() && l != "…") {
            let found = said.iter().any(|s| fits(s, &line));
            assert!(found, "{place}: no line {line:?} in:\n{}", self.output);
        }
    }

    fn script(&mut self, place: &str, with: &str, kind: &str, text: &str) {
        let cache =
            std::env::var_os("HOWDAH_TEST_CACHE").map_or_else(|| root().join("tests/.cache"), PathBuf::from);
        let with = if with.contains('/') { cache.join(with) } else { PathBuf::from(with) };
        if with.is_absolute() && !with.exists() || !cache.join("node").exists() && kind == "js" {
            return left_out(
                place,
                "the driver is not installed; tests/support/setup.sh installs it where it can",
            );
        }
        let path = self.dir.path().join(format!("example.{kind}"));
        std::fs::write(&path, self.here(text) + "\n").expect("written");
        let mut command = Command::new(with);
        command
            .arg(path)
            .env("NODE_PATH", cache.join("node/node_modules"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        self.command(&mut command, place, false);
    }

    /// Runs it in the page's directory, with nothing of the caller's settings, and keeps what it printed.
    fn command(&mut self, command: &mut Command, place: &str, fails: bool) {
        let tools = Install::find().map(|i| i.bin().to_owned()).unwrap_or_default();
        let old = std::env::var_os("PATH").unwrap_or_default();
        let mut path = vec![self.dir.path().join(".bin"), tools];
        path.extend(std::env::split_paths(&old));
        let mut limited = Command::new("timeout");
        limited.arg(PATIENCE).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            limited.env(name, value.unwrap_or_default());
        }
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("PG") || (name.starts_with("HOWDAH_") && name != "HOWDAH_PG_BIN") {
                limited.env_remove(&*name);
            }
        }
        limited.env("PATH", std::env::join_paths(path).expect("a path")).env("HOME", self.dir.path());
        limited.env("PGPASSFILE", self.dir.path().join(".pgpass")).env("PGCONNECT_TIMEOUT", "20");
        let output =
            limited.current_dir(self.dir.path()).stdin(Stdio::null()).output().expect("it can be run");
        self.output = String::from_utf8_lossy(&output.stdout).into_owned();
        self.output.push_str(&String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success() != fails,
            "{place}: {}\n{}\n--- log of the server\n{}",
            output.status,
            self.output,
            self.server.as_ref().map(|s| tail(&s.0.log())).unwrap_or_default()
        );
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// Whether the pieces between the `…` of `shown` stand in `line` in their order, the outer ones at its ends.
fn fits(line: &str, shown: &str) -> bool {
    let pieces: Vec<&str> = shown.split('…').map(str::trim).collect();
    let Some((last, before)) = pieces.split_last() else { return false };
    let mut rest = line;
    for (i, piece) in before.iter().enumerate() {
        match rest.find(piece) {
            Some(at) if i > 0 || at == 0 => rest = &rest[at + piece.len()..],
            _ => return false,
        }
    }
    if before.is_empty() { line == *last } else { rest.ends_with(last) }
}

/// Without what differs from run to run: each number is 0, and blanks are single.
fn plain(line: &str) -> String {
    let mut out = String::new();
    for c in line.trim().chars() {
        match c {
            '0'..='9' => {
                if !out.ends_with('0') {
                    out.push('0');
                }
            }
            c if c.is_whitespace() || c == '-' => {
                if !out.ends_with([' ', '-']) {
                    out.push(if c == '-' { '-' } else { ' ' });
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// A part of a configuration, laid over a whole one.
fn over_base(place: &str, text: &str) -> String {
    let own: toml::Table = text.parse().unwrap_or_else(|e| panic!("{place}: {e}"));
    let mut base: toml::Table = BASE.parse().expect("TOML");
    if own.get("databases").and_then(|d| d.as_table()).is_some_and(|d| !d.contains_key("app")) {
        base.remove("databases");
    }
    if own.get("users").and_then(|u| u.as_table()).is_some_and(|u| u.contains_key("app")) {
        base.remove("users");
    }
    lay(&mut base, own);
    toml::to_string(&base).expect("TOML")
}

fn lay(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(b)), toml::Value::Table(o)) => lay(b, o),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
