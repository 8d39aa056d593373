//! What the documents say, held: links lead somewhere, every page is in the book, and every example of configuration,
//! SQL and shell is run, or says why it is not. A program of its own, because it needs the crate's private PostgreSQL and
//! the built program, and nothing of the other tests' harness.
//!
//! A comment before a block of a page says what becomes of it:
//!
//! | comment | meaning |
//! |---|---|
//! | none | TOML and INI are checked by `howdah check`; `sh` and `console` are run, and what a `console` block shows is compared; SQL is run on the server |
//! | `<!-- not run: REASON -->` | it is only shown |
//! | `<!-- file: NAME -->` | it is written to this file first, for the blocks behind it |
//! | `<!-- sql: howdah -->`, `console`, `replica` | the SQL goes there |
//! | `<!-- fails -->` | the commands must fail |
//! | `<!-- output -->` | the output of the block before has these lines |
//! | `<!-- setup`, lines, `-->` | commands that a reader does not see |
//! | `<!-- server: replica -->` | the page needs a replica |
//!
//! A directory of its own stands for `/etc/howdah`, and free ports for 5432, 5433 (the replica), 6432, 6433 and 9127.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]
#![allow(clippy::indexing_slicing, reason = "a panic is a failed test")]
#![allow(unreachable_pub, reason = "no other crate uses this program")]

#[path = "docs/lab.rs"]
mod lab;
#[path = "it/harness/left_out.rs"]
mod left_out;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/page.rs"]
mod page;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use left_out::{left_out, root};
use page::{Page, pages};

/// One test for each page with something to run; another test sees to it that none is missing.
macro_rules! run {
    ($($name:ident: $path:literal,)*) => {
        const RUN: &[&str] = &[$($path),*];
        mod examples_of {
            $(#[test] fn $name() { super::lab::run($path); })*
        }
    };
}

run! {
    readme: "README.md",
    pooling_explained: "docs/src/explanation/transaction-pooling.md",
    routing_explained: "docs/src/explanation/routing.md",
    drivers: "docs/src/how-to/drivers.md",
    drop_database: "docs/src/how-to/drop-database.md",
    fleet: "docs/src/how-to/fleet.md",
    kubernetes: "docs/src/how-to/kubernetes.md",
    migrate: "docs/src/how-to/migrate.md",
    monitor: "docs/src/how-to/monitor.md",
    replicas: "docs/src/how-to/replicas.md",
    size: "docs/src/how-to/size.md",
    systemd: "docs/src/how-to/systemd.md",
    tls_and_authentication: "docs/src/how-to/tls-and-authentication.md",
    upgrade: "docs/src/how-to/upgrade.md",
    who_holds: "docs/src/how-to/who-holds.md",
    tutorial: "docs/src/tutorial.md",
    authentication: "docs/src/reference/authentication.md",
}

#[test]
fn every_page_with_examples_has_its_test() {
    let with: BTreeSet<String> =
        pages().iter().filter(|p| p.has_examples()).map(|p| p.name.clone()).collect();
    assert_eq!(with, RUN.iter().map(|p| (*p).to_owned()).collect());
}

#[test]
fn what_is_not_run_says_why() {
    let problems: Vec<String> = pages().iter().flat_map(Page::problems).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let problems: Vec<String> = pages().iter().flat_map(links::dead).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_summary_has_every_page_once() {
    let summary = Page::read("docs/src/SUMMARY.md");
    let mut listed: Vec<String> = links::of(&summary.text)
        .into_iter()
        .map(|l| format!("docs/src/{}", l.trim_start_matches("./")))
        .collect();
    listed.sort_unstable();
    let mut there: Vec<String> = pages().into_iter().map(|p| p.name).collect();
    there.retain(|p| p.starts_with("docs/src/") && p != "docs/src/SUMMARY.md");
    there.sort_unstable();
    assert_eq!(listed, there);
}

#[test]
fn the_readme_is_short() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines <= 150, "{lines} lines");
}

#[test]
fn the_book_can_be_built() {
    let to = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("mdbook");
    command.arg("build").arg(root().join("docs")).arg("--dest-dir").arg(to.path());
    let Ok(output) = command.output() else {
        return left_out("the book", "mdbook is not installed; `make docs` says how to install it");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ERROR") && !said.contains("WARN"), "{said}");
    let page = std::fs::read_to_string(to.path().join("reference/settings.html")).expect("a page");
    assert!(page.contains("query_wait_timeout"), "the settings are included");
    assert!(Path::new(&to.path().join("index.html")).exists());
}
