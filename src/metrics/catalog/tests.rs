use std::path::{Path, PathBuf};

use super::*;
use crate::error::catalog::samples;
use crate::error::report;

#[test]
fn names_follow_the_conventions() {
    for (i, m) in METRICS.iter().enumerate() {
        assert!(METRICS[..i].iter().all(|o| o.name != m.name), "{} twice", m.name);
        assert!(m.name.starts_with(PREFIX) || m.name.starts_with("process_"), "{}", m.name);
        assert!(m.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", m.name);
        assert_eq!(m.name.ends_with("_total"), m.kind == Counter, "{}", m.name);
        assert_eq!(m.unit == "seconds" && m.kind != Counter, m.name.ends_with("_seconds"), "{}", m.name);
        assert!(m.help.ends_with('.') && !m.help.contains('|'), "{}", m.name);
        if let Source::Event(known) = m.source {
            assert_eq!(
                m.labels.len(),
                usize::from(!known.is_empty()),
                "{}: one label, with known values",
                m.name
            );
        }
    }
}

#[test]
fn codes_are_those_of_the_errors() {
    let codes: Vec<&str> = samples().iter().map(|e| report(e).code).collect();
    assert_eq!(codes, CODES);
    assert!(LOGIN_CODES.iter().all(|c| CODES.contains(c)));
}

/// `UPDATE=1 cargo test` writes the file anew.
#[test]
fn the_committed_table_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, table()).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == table(), "run UPDATE=1 cargo test");
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The string literal that `text` begins with, and what follows it.
fn literal(text: &str) -> Option<(&str, &str)> {
    text.trim_start().strip_prefix('"')?.split_once('"')
}

/// Each counted name has its row, each literal label is one of the known values, and no row is never counted.
#[test]
fn what_the_code_counts_is_in_the_catalog() {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    let mut counted = Vec::new();
    for file in files {
        if file.to_string_lossy().contains("/src/metrics/") || file.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        // However the call is broken into lines.
        let text: String =
            text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" .count(", ".count(");
        for call in text.split("counters.count(").skip(1) {
            let file = file.display();
            let (name, rest) = literal(call).unwrap_or_else(|| panic!("{file}: a name that is no literal"));
            let row = METRICS.iter().find(|m| m.event() == Some(name));
            let row = row.unwrap_or_else(|| panic!("{file} counts {name}, which is not in the catalog"));
            let label = rest.strip_prefix(',').and_then(literal).map(|(l, _)| l);
            if let (Some(label), Source::Event(known)) = (label, row.source) {
                assert!(label.is_empty() || known.contains(&label), "{file}: {name} does not know {label:?}");
            }
            counted.push(name.to_owned());
        }
    }
    assert!(counted.len() > 20, "only {} calls found", counted.len());
    for row in METRICS.iter().filter_map(Metric::event) {
        assert!(counted.iter().any(|n| n == row), "nothing counts {row}");
    }
}
