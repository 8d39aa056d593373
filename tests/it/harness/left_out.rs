//! What this machine lacks. A file of its own, because `tests/cost.rs`, a target of its own, uses nothing else.

use std::path::Path;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says that something was not tried here, and why.
pub(crate) fn left_out(what: &str, why: &str) {
    println!("LEFT OUT: {what}: {why}");
    // The test runners hide the output of tests that pass; `make test` prints this file at its end.
    let note = root().join("target/left-out");
    let line = format!("{what}: {why}\n");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(note);
    drop(file.and_then(|mut f| std::io::Write::write_all(&mut f, line.as_bytes())));
}
