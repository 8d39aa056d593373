//! What is in force, and lets more people in or read than its author may have meant: told as warnings.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::build::{Builder, join, source_at};
use super::hba::{Address, Kind};
use super::problem::ConfigError;
use super::raw::{Raw, Source, Table};
use super::resolved::{AuthMethod, Config};
use super::settings::SETTINGS;

/// The settings that name a file with a secret in it.
const FILES: &[&str] =
    &["auth_file", "password_file", "ops_token_file", "client_tls_key", "server_tls_key", "ops_tls_key"];

impl Builder<'_, '_> {
    pub(super) fn exposure(&mut self, tree: &Table, config: &Config) {
        let mut files = BTreeSet::new();
        self.secret_files(tree, "", &mut files);
        for (path, key) in files {
            let Some(mode) = read_by_everybody(&path) else { continue };
            let what = if key.is_empty() { String::new() } else { format!("{key} ") };
            let path = path.display();
            self.context.warnings.push(format!(
                "{what}{path} holds secrets, and everybody on this machine can read it (mode {mode:04o}): chmod o= {path}"
            ));
        }
        self.trust(tree, config);
    }

    /// The files with secrets in them, and the settings that name them; the configuration itself has no setting.
    fn secret_files(&self, table: &Table, at: &str, files: &mut BTreeSet<(PathBuf, String)>) {
        for (key, node) in table {
            match (&node.raw, &node.source) {
                (Raw::Table(table), _) => self.secret_files(table, &join(at, key), files),
                (Raw::Text(file) | Raw::Loose(file), _)
                    if FILES.contains(&key.as_str()) && !file.is_empty() =>
                {
                    files.insert((self.context.dir.join(file), join(at, key)));
                }
                (_, Source::File { path, .. }) if SETTINGS.iter().any(|s| s.key == *key && s.is_secret()) => {
                    files.insert((PathBuf::from(&**path), String::new()));
                }
                _ => {}
            }
        }
    }

    fn trust(&mut self, tree: &Table, config: &Config) {
        let Some(address) = config.listen.tcp.iter().find(|a| !a.ip().is_loopback()) else { return };
        const HELP: &str = "without a password, whoever can reach that address and names a user";
        if config.auth_method == AuthMethod::Trust {
            let source = source_at(tree, &["auth_method"], &self.context.whole());
            let why = format!("trust lets in on {address}, {HELP}");
            self.context.warnings.push(ConfigError::new(&source, "auth_method", why).to_string());
        }
        if config.auth_method != AuthMethod::Hba {
            return;
        }
        for rule in &config.access.hba.rules {
            let open = rule.method == AuthMethod::Trust && rule.kind != Kind::Local;
            if open && reaches_others(rule.address) {
                let place = &rule.place;
                self.context.warnings.push(format!("{place}: trust lets in on {address}, {HELP}"));
            }
        }
    }
}

/// Whether a rule's addresses are not this machine's own alone.
fn reaches_others(address: Address) -> bool {
    match address {
        Address::Any | Address::SameNet => true,
        Address::SameHost => false,
        Address::V4(net, mask) => {
            !(mask.leading_ones() >= 8 && IpAddr::from(net.to_be_bytes()).is_loopback())
        }
        Address::V6(net, mask) => !(mask == u128::MAX && IpAddr::from(net.to_be_bytes()).is_loopback()),
    }
}

/// The mode of a file that everybody can read: by its own bits, and by those of the directories above it.
fn read_by_everybody(path: &Path) -> Option<u32> {
    let path = path.canonicalize().ok()?;
    let mode = |p: &Path| {
        p.metadata().ok().filter(|m| m.is_file() || m.is_dir()).map(|m| m.permissions().mode() & 0o7777)
    };
    let own = mode(&path).filter(|m| m & 0o004 != 0)?;
    path.ancestors().skip(1).all(|d| mode(d).is_some_and(|m| m & 0o001 != 0)).then_some(own)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;
    use crate::config::{Overrides, load};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn warnings(path: &Path) -> Vec<String> {
        load(path, &Overrides::default()).unwrap_or_else(|e| panic!("{e:?}")).notes.warnings
    }

    #[test]
    fn a_file_with_secrets_that_everybody_can_read_is_told_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o755);
        let path = dir.path().join("h.toml");
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            chmod(&dir.path().join(name), 0o600);
        };
        file("list", "\"app\" \"x\"\n");
        file("word", "x\n");
        file("token", "x\n");
        let top = "auth_file = \"list\"\nops_token_file = \"token\"\n";
        let database =
            "[databases.app]\nhost = \"db\"\npool_size = 2\nuser = \"app\"\npassword_file = \"word\"\n";
        file("h.toml", &format!("{top}{database}"));
        chmod(&path, 0o644);
        assert_eq!(warnings(&path), Vec::<String>::new(), "there is no secret in the configuration itself");
        for (name, key) in
            [("list", "auth_file"), ("word", "databases.app.password_file"), ("token", "ops_token_file")]
        {
            let secret = dir.path().join(name);
            chmod(&secret, 0o644);
            let told = warnings(&path);
            assert_eq!(told.len(), 1, "{told:?}");
            let shown = secret.display().to_string();
            for part in [&format!("{key} {shown} "), "mode 0644", &format!("chmod o= {shown}")] {
                assert!(told[0].contains(part), "{told:?}");
            }
            chmod(&secret, 0o640);
            assert_eq!(warnings(&path), Vec::<String>::new());
        }
        file("h.toml", &format!("{top}{database}[users.other]\npassword = \"x\"\n"));
        assert_eq!(warnings(&path), Vec::<String>::new());
        chmod(&path, 0o604);
        let told = warnings(&path);
        assert!(told.len() == 1 && told[0].contains("h.toml") && told[0].contains("mode 0604"), "{told:?}");
        chmod(dir.path(), 0o700);
        assert_eq!(warnings(&path), Vec::<String>::new(), "nobody else comes to it");
    }

    #[test]
    fn trust_beyond_this_machine_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.toml");
        let told = |listen: &str, method: &str, rules: &str| {
            let hba = dir.path().join("hba");
            fs::write(&hba, rules).unwrap();
            let file = if method == "hba" {
                format!("auth_hba_file = \"{}\"\n", hba.display())
            } else {
                String::new()
            };
            let text = format!(
                "listen = [\"{listen}\"]\nauth_method = \"{method}\"\n{file}[users.app]\npassword = \"x\"\n\
                 [databases.app]\nhost = \"db\"\npool_size = 2\n"
            );
            fs::write(&path, text).unwrap();
            warnings(&path).iter().filter(|w| w.contains("trust lets in on ")).count()
        };
        assert_eq!(told("0.0.0.0:6432", "trust", ""), 1);
        assert_eq!(told("[::]:6432", "trust", ""), 1);
        for listen in ["127.0.0.1:6432", "127.1.2.3:6432", "[::1]:6432"] {
            assert_eq!(told(listen, "trust", ""), 0, "{listen}");
        }
        assert_eq!(told("0.0.0.0:6432", "scram-sha-256", ""), 0);
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n\
                     host all all samehost trust\nhost all all 0.0.0.0/0 md5\n";
        assert_eq!(told("0.0.0.0:6432", "hba", rules), 0);
        for rule in [
            "host all all 10.0.0.0/8 trust",
            "hostssl all all all trust",
            "host all all ::/0 trust",
            "host all all 127.0.0.0/4 trust",
        ] {
            assert_eq!(told("0.0.0.0:6432", "hba", &format!("{rules}{rule}\n")), 1, "{rule}");
            assert_eq!(told("127.0.0.1:6432", "hba", &format!("{rules}{rule}\n")), 0, "{rule}");
        }
    }
}
