//! A configuration as it was written, whatever it was written in: a tree of values that know their source.
//!
//! TOML, `pgbouncer.ini`, variables and flags all become this tree, in the shape of the TOML; later ones
//! replace values of earlier ones. Only then is anything judged, by one and the same code.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::ConfigError;

/// Where a value was stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File {
        path: Arc<str>,
        line: Option<usize>,
    },
    Variable(String),
    Flag(String),
    /// `--set KEY=VALUE`
    Set(String),
    /// SET on the console.
    Console,
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Self::File { path, line: None } => f.write_str(path),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Set(key) => write!(f, "--set {key}"),
            Self::Console => f.write_str("SET"),
            Self::Default => f.write_str("default"),
        }
    }
}

pub(super) type Table = BTreeMap<String, Node>;

#[derive(Clone)]
pub(super) struct Node {
    pub raw: Raw,
    pub source: Source,
}

/// Not `Debug`: it may hold a secret.
#[derive(Clone)]
pub(super) enum Raw {
    Text(String),
    /// Text from where everything is text: its type follows from the setting that it is for.
    Loose(String),
    Integer(i64),
    Boolean(bool),
    /// What TOML has and no setting takes: a float, a date, an integer beyond 64 bits.
    Other(String),
    List(Vec<Node>),
    Table(Table),
}

impl Raw {
    /// As it was written, shortened; for errors about values that are not secret.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            Self::Text(t) => format!("\"{}\"", t.escape_debug()),
            Self::Loose(t) => t.escape_debug().to_string(),
            Self::Integer(i) => i.to_string(),
            Self::Boolean(b) => b.to_string(),
            Self::Other(t) => t.clone(),
            Self::List(l) => {
                format!("[{}]", l.iter().map(|n| n.raw.shown()).collect::<Vec<_>>().join(", "))
            }
            Self::Table(_) => "{ … }".to_owned(),
        };
        match text.char_indices().nth(80) {
            Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
            None => text,
        }
    }
}

impl Node {
    pub(super) fn loose(text: impl Into<String>, source: &Source) -> Self {
        Self { raw: Raw::Loose(text.into()), source: source.clone() }
    }

    pub(super) fn table(source: &Source) -> Self {
        Self { raw: Raw::Table(Table::new()), source: source.clone() }
    }
}

/// The table at `path`, made where it is missing; `None` if something else is in the way.
pub(super) fn table_at<'t>(table: &'t mut Table, path: &[&str], source: &Source) -> Option<&'t mut Table> {
    let mut at = table;
    for name in path {
        let node = at.entry((*name).to_owned()).or_insert_with(|| Node::table(source));
        at = match &mut node.raw {
            Raw::Table(t) => t,
            _ => return None,
        };
    }
    Some(at)
}

/// Reads a TOML text; problems of its grammar go to `errors`, and what could be read is returned.
pub(super) fn from_toml(text: &str, path: &Arc<str>, errors: &mut Vec<ConfigError>) -> Table {
    let (document, problems) = DeTable::parse_recoverable(text);
    let lines = Lines { text, path };
    for problem in problems {
        let source = lines.source(problem.span().map_or(0, |s| s.start));
        // Only the message: the full text of the error quotes the line, which may hold a password.
        let e = ConfigError::new(&source, "", format!("not valid TOML: {}", problem.message()));
        if !errors.contains(&e) {
            errors.push(e);
        }
    }
    lines.table(document.get_ref())
}

struct Lines<'a> {
    text: &'a str,
    path: &'a Arc<str>,
}

impl Lines<'_> {
    fn source(&self, offset: usize) -> Source {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        Source::File { path: self.path.clone(), line: Some(line) }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        table
            .iter()
            .map(|(key, value)| {
                let mut node = self.node(value);
                // The key's line, not the line on which a long value starts.
                node.source = self.source(key.span().start);
                (key.get_ref().to_string(), node)
            })
            .collect()
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let raw = match value.get_ref() {
            DeValue::String(s) => Raw::Text(s.to_string()),
            DeValue::Integer(i) => match i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()) {
                Ok(number) => Raw::Integer(number),
                Err(_) => Raw::Other(i.as_str().to_owned()),
            },
            DeValue::Float(x) => Raw::Other(x.as_str().to_owned()),
            DeValue::Boolean(b) => Raw::Boolean(*b),
            DeValue::Datetime(d) => Raw::Other(d.to_string()),
            DeValue::Array(a) => Raw::List(a.iter().map(|v| self.node(v)).collect()),
            DeValue::Table(t) => Raw::Table(self.table(t)),
        };
        Node { raw, source: self.source(value.span().start) }
    }
}
