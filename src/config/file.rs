//! In which language a file is: the name says it, and otherwise the text.

use std::path::Path;

/// Whether the file is read as PgBouncer's: its name ends in `.ini`, or in anything but `.toml` and it has a section
/// `[pgbouncer]`, which no TOML of ours can have.
pub fn is_ini(path: &Path) -> bool {
    if ends_in(path, "ini") || ends_in(path, "toml") {
        return ends_in(path, "ini");
    }
    std::fs::read_to_string(path).is_ok_and(|text| has_main_section(&text))
}

/// Why the text cannot be in the language that the file's name promises.
pub(super) fn misnamed(path: &Path, text: &str) -> Option<&'static str> {
    if ends_in(path, "toml") && has_main_section(text) {
        return Some(
            "has a section [pgbouncer], and so is a pgbouncer.ini; its name must not end in .toml, since such a file is \
             read as TOML",
        );
    }
    let section =
        |l: &str| l.trim_start().starts_with("[databases.") || l.trim_start().starts_with("[users.");
    if ends_in(path, "ini") && !has_main_section(text) && text.lines().any(section) {
        return Some(
            "has sections of TOML and no section [pgbouncer]; a file whose name ends in .ini is read as a \
             pgbouncer.ini, so call this one .toml",
        );
    }
    None
}

fn ends_in(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

fn has_main_section(text: &str) -> bool {
    text.lines().any(|l| l.trim().to_ascii_lowercase().starts_with("[pgbouncer]"))
}
