//! What tests/pooler-bugs.md and tests/faults.md name exists. A program of its own, because it only reads the sources.

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

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("the page")
}

/// All sources and tests, one behind the other.
fn code() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    files.iter().map(|f| std::fs::read_to_string(f).expect("a source")).collect()
}

/// The cells of each row of a page's tables, without their heads.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let heads = ["row", "what went wrong elsewhere"];
    let rows = page.lines().filter_map(|l| l.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|l| l.split(" | ").collect())
        .filter(|cells: &Vec<&str>| !cells.first().is_some_and(|c| heads.contains(c)))
        .collect()
}

/// The last cell of each row names tests that exist.
fn names_tests(rows: &[Vec<&str>]) {
    let code = code();
    for row in rows {
        let shown = row.last().expect("cells");
        assert!(!shown.is_empty(), "{row:?}");
        for name in shown.split('`').skip(1).step_by(2) {
            assert!(is_a_test(&code, name), "{row:?}: no test {name}");
        }
    }
}

#[test]
fn every_row_names_tests_that_exist_or_a_reason() {
    let page = page("tests/pooler-bugs.md");
    let rows = rows(&page);
    names_tests(&rows);
    let wanted: Vec<String> =
        (1..=45).map(|n| n.to_string()).chain((47..=54).map(|n| format!("F{n}"))).collect();
    assert_eq!(rows.iter().map(|cells| cells[0]).collect::<Vec<_>>(), wanted);
    assert!(rows.iter().all(|cells| cells.len() == 3));
}

#[test]
fn every_fault_names_tests_that_exist_or_a_reason() {
    let page = page("tests/faults.md");
    let (faults, bugs): (Vec<_>, Vec<_>) = rows(&page).into_iter().partition(|cells| cells.len() == 4);
    names_tests(&faults);
    names_tests(&bugs);
    let wanted: Vec<String> = (1..=75).map(|n| format!("F{n}")).collect();
    assert_eq!(faults.iter().map(|cells| cells[0]).collect::<Vec<_>>(), wanted);
    assert!(bugs.iter().all(|cells| cells.len() == 2));
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
