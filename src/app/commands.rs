//! A first argument that is no command and no file, before it is taken for a file that cannot be read.

use std::ffi::OsStr;
use std::path::Path;

/// What other programs call what `howdah FILE` does.
const SERVE: [&str; 4] = ["serve", "server", "start", "run"];

/// What to say where the first argument reads like a command and is none.
pub(super) fn unknown(first: Option<&OsStr>, all: &clap::Command) -> Option<String> {
    let word = first?.to_str()?;
    let like_a_command = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    if !like_a_command || word.starts_with('-') || Path::new(word).exists() {
        return None;
    }
    let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
    if known.contains(&word) {
        return None;
    }
    let meant = if SERVE.contains(&word) {
        "; `howdah FILE` serves".to_owned()
    } else {
        let near = known.iter().map(|k| (strsim::damerau_levenshtein(word, k), *k)).min();
        let near = near.filter(|(distance, _)| *distance <= 2);
        near.map_or_else(String::new, |(_, k)| format!("; did you mean `{k}`?"))
    };
    Some(format!(
        "there is no command \"{word}\", and no file of this name{meant} (commands: {})",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn a_word_that_is_no_command_is_not_taken_for_a_file() {
        let all = Command::new("howdah").subcommand(Command::new("check")).subcommand(Command::new("plan"));
        let said = |word: &str| unknown(Some(OsStr::new(word)), &all);
        assert!(said("chekc").is_some_and(|s| s.contains("did you mean `check`?")));
        assert!(said("serve").is_some_and(|s| s.contains("`howdah FILE` serves")));
        assert!(
            said("frobnicate").is_some_and(|s| s.contains("commands: check, plan") && !s.contains("mean"))
        );
        for good in ["check", "help", "-V", "--database", "howdah.toml", "dir/file", "src", ""] {
            assert_eq!(said(good), None, "{good}");
        }
    }
}
