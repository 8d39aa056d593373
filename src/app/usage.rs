//! `docs/src/reference/command-line.md`: the help of every command, from its declaration.

use std::fmt::Write as _;

const HEAD: &str = "\
# The command line

Generated from `src/app/cli.rs`; do not edit.
";

/// The page, whole.
pub(super) fn render(mut program: clap::Command) -> String {
    program.build();
    let mut out = HEAD.to_owned();
    section(&mut out, "howdah", &mut program.clone());
    for command in program.get_subcommands_mut().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        let title = format!("howdah {}", command.get_name());
        section(&mut out, &title, command);
    }
    out
}

fn section(out: &mut String, title: &str, command: &mut clap::Command) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(out, "\n## {title}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
}
