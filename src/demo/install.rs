//! Where PostgreSQL's programs are, and as whom they can run.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// A directory that holds at least `initdb` and `postgres`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    bin: PathBuf,
    major: u32,
}

impl Install {
    /// `HOWDAH_PG_BIN` or `PG_BIN` if set, else `PATH`, else the newest in the usual places.
    pub fn find() -> Result<Self, Error> {
        for variable in ["HOWDAH_PG_BIN", "PG_BIN"] {
            if let Some(dir) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
                return Self::at(Path::new(&dir));
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some(found) = std::env::split_paths(&path).find_map(|dir| Self::at(&dir).ok()) {
            return Ok(found);
        }
        usual_places().iter().filter_map(|dir| Self::at(dir).ok()).max_by_key(|i| i.major).ok_or_else(|| {
            Error::Setup(
                "no PostgreSQL server found: install one (package `postgresql`), or set HOWDAH_PG_BIN to the \
                 directory that holds initdb and postgres"
                    .to_owned(),
            )
        })
    }

    /// The installation of this major version in the usual places, if there is one.
    pub fn system(major: u32) -> Option<Self> {
        usual_places().iter().filter_map(|dir| Self::at(dir).ok()).find(|i| i.major == major)
    }

    /// The installation in `bin`.
    pub fn at(bin: &Path) -> Result<Self, Error> {
        let missing = ["initdb", "postgres"].into_iter().find(|name| !bin.join(name).is_file());
        if let Some(name) = missing {
            return Err(Error::Setup(format!("no {name} in {}", bin.display())));
        }
        let version = Command::new(bin.join("postgres")).arg("--version").stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        match parse_major(&text) {
            Some(major) => Ok(Self { bin: bin.to_owned(), major }),
            None => Err(Error::Setup(format!("{}/postgres --version said {text:?}", bin.display()))),
        }
    }

    pub const fn major(&self) -> u32 {
        self.major
    }

    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// One of its programs, if it has it; some packages are server only.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        Some(self.bin.join(name)).filter(|path| path.is_file())
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, `18devel`, `19beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..digits)?.parse().ok()
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/usr/local/pgsql/bin"), PathBuf::from("/usr/local/bin")];
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let matching = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        places.extend(matching.map(|e| e.path().join("bin")));
    }
    places
}

/// Whom the server runs as, where that is not the caller: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// `None` when the caller is not root, and so can run the server itself.
    pub fn needed() -> Result<Option<Self>, Error> {
        let id = Command::new("id").arg("-u").stdin(Stdio::null()).output()?;
        if String::from_utf8_lossy(&id.stdout).trim() != "0" {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"].into_iter().find_map(|name| parse_passwd(&passwd, name)).map(Some).ok_or_else(
            || {
                Error::Setup(
                    "PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as"
                        .to_owned(),
                )
            },
        )
    }

    /// Makes `command` run as this account, with its main group only.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

fn parse_passwd(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_versions() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_major("postgres 15"), None);
        assert_eq!(parse_major(""), None);
    }

    #[test]
    fn accounts_are_found_by_exact_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:7::/:/x\npostgres:x:101:104:,,,:/var:/bin/sh\n";
        let found = parse_passwd(passwd, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (101, 104));
        assert_eq!(parse_passwd(passwd, "nobody"), None);
    }
}
