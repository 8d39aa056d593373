//! What tests/pooler-bugs.md names exists. A program of its own, because it only reads the sources.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')) {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_row_names_tests_that_exist_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let code: String = files.iter().map(|f| std::fs::read_to_string(f).expect("a source")).collect();
    let page = std::fs::read_to_string(root.join("tests/pooler-bugs.md")).expect("the page");
    let mut rows = Vec::new();
    for line in page.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| row")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, shown] = cells[..] else { panic!("three cells: {line}") };
        assert!(!shown.is_empty(), "{row}");
        for name in shown.split('`').skip(1).step_by(2) {
            assert!(is_a_test(&code, name), "row {row}: no test {name}");
        }
        rows.push(row.to_owned());
    }
    let wanted: Vec<String> =
        (1..=45).map(|n| n.to_string()).chain((47..=54).map(|n| format!("F{n}"))).collect();
    assert_eq!(rows, wanted);
}

/// A test of a module, or of the runtime.
fn is_a_test(code: &str, name: &str) -> bool {
    code.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let before = code[..at].lines().rev().take(3).collect::<String>();
        before.contains("#[test]") || before.contains("#[tokio::test")
    })
}

/// What `make guards` would take away is still where it says, and each row has a guard or a reason.
#[test]
fn every_guard_is_in_its_place() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/guards.sh");
    let output = std::process::Command::new(script).arg("check").output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Two rows rest on lints: those of narrowing casts and of indexing. `make lint` takes a warning for an error.
#[test]
fn the_lints_that_rows_rest_on_are_switched_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    for lint in ["cast_possible_truncation", "cast_possible_wrap", "cast_sign_loss", "indexing_slicing"] {
        assert_eq!(manifest["lints"]["clippy"][lint].as_str(), Some("warn"), "{lint}");
    }
    let makefile = std::fs::read_to_string(root.join("Makefile")).expect("the Makefile");
    assert!(makefile.contains("cargo clippy --locked --all-targets -- -D warnings"));
}
