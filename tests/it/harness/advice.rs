//! Runs `howdah doctor`, and does what it says, to the letter.

use std::path::Path;

use serde_json::Value;

use super::{metric, program};
use crate::harness::proxy::Howdah;
use crate::harness::{Cluster, SUPERUSER, Stop, eventually};
use howdah::doctor::Code;

/// One report: its exit code, and what it printed for machines.
pub struct Report {
    pub exit: Option<i32>,
    pub text: String,
    json: Value,
}

impl Report {
    pub fn of(config: &Path, arguments: &[&str]) -> Self {
        let mut command = program();
        command.arg("doctor").arg(config).arg("--json").args(arguments);
        let out = command.output().expect("it runs");
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        Self { exit: out.status.code(), text, json }
    }

    pub fn advice(&self) -> &[Value] {
        self.json["advice"].as_array().expect("a list")
    }

    pub fn find(&self, code: Code) -> Option<Value> {
        self.advice().iter().find(|a| a["code"] == code.as_str()).cloned()
    }

    pub fn not_examined(&self) -> Vec<&str> {
        self.json["not_examined"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
    }
}

pub fn report(howdah: &Howdah) -> Report {
    Report::of(&howdah.config_path(), &[])
}

/// The text of a finding's field.
pub fn word<'v>(advice: &'v Value, field: &str) -> &'v str {
    advice[field].as_str().expect("a string")
}

/// One piece of advice, from the state in which it must not be given to the one in which its change has removed it.
pub struct Case {
    code: Code,
    arguments: Vec<String>,
    was_absent: bool,
    given: bool,
    removed: bool,
}

impl Case {
    pub fn new(code: Code) -> Self {
        Self { code, arguments: Vec::new(), was_absent: false, given: false, removed: false }
    }

    /// Arguments of every run from now on.
    pub fn with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    }

    fn run(&self, howdah: &Howdah) -> Report {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        Report::of(&howdah.config_path(), &arguments)
    }

    /// It must not be given now.
    pub fn absent(&mut self, howdah: &Howdah) {
        let report = self.run(howdah);
        assert_eq!(report.find(self.code), None, "{}", report.text);
        self.was_absent = true;
    }

    /// It must be given, as soon as the servers' statistics show what has happened.
    pub fn given(&mut self, howdah: &Howdah) -> Value {
        let mut last = None;
        eventually(self.code.as_str(), || {
            last = self.run(howdah).find(self.code);
            last.is_some()
        });
        self.given = true;
        last.expect("found")
    }

    /// It must not be given any more, as soon as the servers' statistics show it.
    pub fn removed(&mut self, howdah: &Howdah) {
        assert!(self.given, "nothing was given that could be removed");
        eventually("its removal", || self.run(howdah).find(self.code).is_none());
        self.removed = true;
    }

    pub fn end(self) {
        let all = (self.was_absent, self.given, self.removed);
        assert_eq!(all, (true, true, true), "{}: absent, given, removed", self.code.as_str());
    }
}

/// Does each step as it was printed: statements as the superuser, settings in the configuration's file.
pub fn apply(advice: &Value, servers: &mut [&mut Cluster], howdah: &Howdah) {
    let steps = advice["steps"].as_array().expect("a list");
    assert!(!steps.is_empty(), "nothing to do: {advice:#}");
    let mut set = false;
    for step in steps {
        match word(step, "do") {
            "sql" => {
                let database = step.get("database").and_then(Value::as_str).unwrap_or(SUPERUSER);
                let mut session = server(step, servers).connect(SUPERUSER, database).expect("a login");
                let sql = word(step, "sql");
                session.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
            "restart" => server(step, servers).restart(Stop::Fast).expect("it is back"),
            "set" => {
                let lines = step["lines"].as_array().expect("lines").iter().filter_map(Value::as_str);
                let text = lines.collect::<Vec<_>>().join("\n");
                let file = howdah.config_path();
                let config = std::fs::read_to_string(&file).expect("a configuration");
                std::fs::write(&file, with_lines(&config, word(step, "section"), &text)).expect("written");
                set = true;
            }
            other => panic!("no such step: {other}"),
        }
    }
    if set {
        let before = metric(howdah, "howdah_reloads_total", &[]);
        howdah.hup();
        eventually("the reload", || metric(howdah, "howdah_reloads_total", &[]) > before);
    }
}

fn server<'s>(step: &Value, servers: &'s mut [&mut Cluster]) -> &'s mut Cluster {
    let host = word(step, "host");
    servers.iter_mut().find(|s| s.tcp().to_string() == host).expect("one of the servers")
}

/// A configuration in which a section has these lines, in place of what it had.
fn with_lines(config: &str, section: &str, lines: &str) -> String {
    let mut config: toml::Table = config.parse().expect("TOML");
    let stated: toml::Table = lines.parse().expect("lines of TOML");
    if section == "[[pools]]" {
        let pools = config.entry("pools").or_insert_with(|| toml::Value::Array(Vec::new()));
        pools.as_array_mut().expect("an array").push(toml::Value::Table(stated));
        return config.to_string();
    }
    // The names in its header are TOML's own.
    let header: toml::Table =
        if section.is_empty() { toml::Table::new() } else { section.parse().expect("a header of TOML") };
    let (mut from, mut to) = (&header, &mut config);
    while let Some((name, inner)) = from.iter().next() {
        from = inner.as_table().expect("a header names tables");
        let inner = to.entry(name.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        to = inner.as_table_mut().expect("a table");
    }
    to.extend(stated);
    config.to_string()
}
