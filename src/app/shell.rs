//! What shells and `man` know of the command line, made from its declaration.

use std::io::{self, Write as _};
use std::path::Path;

use clap_complete::Shell;

/// The completions, on standard output.
pub(super) fn completions(mut program: clap::Command, shell: Shell) -> Result<(), String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program, "howdah", &mut text);
    match io::stdout().write_all(&text) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {e}")),
        _ => Ok(()),
    }
}

/// `howdah.1`, and a page for each command, into a directory.
pub(super) fn man(program: clap::Command, dir: &Path) -> Result<(), String> {
    let told = |e: io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(dir).map_err(told)?;
    clap_mangen::generate_to(program.version(env!("CARGO_PKG_VERSION")), dir).map_err(told)
}
