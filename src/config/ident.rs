//! `pg_ident.conf`: which name of the outside is which database user (PostgreSQL documentation, 21.2).

use std::path::Path;

use super::hba;
use super::problem::ConfigError;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ident {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    map: String,
    system: String,
    /// `None` is `all`.
    user: Option<String>,
}

impl Ident {
    /// Whether the map lets this name of the outside in as this user. Without a map the names must be equal.
    pub fn allows(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        let Some(map) = map else { return system == user };
        let fits = |l: &&Line| l.map == map && l.system == system;
        self.lines.iter().filter(fits).any(|l| l.user.as_deref().is_none_or(|u| u == user))
    }

    pub fn knows(&self, map: &str) -> bool {
        self.lines.iter().any(|l| l.map == map)
    }
}

/// Reads a file of maps; a line that cannot be understood is a problem, and no map.
pub(super) fn read(path: &Path, errors: &mut Vec<ConfigError>) -> Ident {
    let mut ident = Ident::default();
    for (source, fields) in hba::lines(path, 0, None, errors) {
        let words: Vec<_> = fields.iter().flatten().collect();
        match words.as_slice() {
            [map, system, user] if fields.len() == 3 => {
                let named = [system, user].iter().any(|t| !t.quoted && t.text.starts_with(['/', '+']));
                if named {
                    let why = "patterns and memberships of roles are not supported";
                    errors.push(ConfigError::new(&source, "", why));
                    continue;
                }
                let user = (user.quoted || user.text != "all").then(|| user.text.clone());
                ident.lines.push(Line { map: map.text.clone(), system: system.text.clone(), user });
            }
            _ => errors.push(
                ConfigError::new(&source, "", "not a line of a map").allowed("MAP SYSTEM-USER DATABASE-USER"),
            ),
        }
    }
    ident
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_lets_in_whom_it_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ident");
        let text = "# c\nm root app\nm root \"all\"\nother \"a b\" all\nm /x y\nshort one\n";
        std::fs::write(&path, text).expect("a file");
        let mut errors = Vec::new();
        let ident = read(&path, &mut errors);
        assert_eq!(errors.len(), 2);
        assert!(ident.allows(None, "bob", "bob") && !ident.allows(None, "bob", "eve"));
        assert!(ident.allows(Some("m"), "root", "app") && ident.allows(Some("m"), "root", "all"));
        assert!(!ident.allows(Some("m"), "root", "bob") && !ident.allows(Some("m"), "app", "app"));
        assert!(ident.allows(Some("other"), "a b", "anyone") && !ident.allows(Some("none"), "x", "x"));
        assert!(ident.knows("m") && !ident.knows("none"));
    }
}
