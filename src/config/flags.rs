//! A configuration without a file: `howdah --database URL [--replica URL] --pool-size N`.

use std::path::PathBuf;
use std::sync::Arc;

use super::hidden::Hidden;
use super::load::{Overrides, Start, finish};
use super::problem::ConfigError;
use super::raw::{Node, Source, Table, table_at};
use super::resolved::{Config, Profile};

/// The flags that describe the one database; everything else is an override.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `postgres://user:password@host:port/dbname`
    pub database: Hidden,
    /// URLs of replicas; only their hosts count.
    pub replicas: Vec<Hidden>,
    pub pool_size: Option<u32>,
    pub when_no_replica: Option<String>,
}

const NO_SIZE: &str =
    "--pool-size is needed as well: how many connections the server can spare has no safe default";
const NO_REPLICA: &str = "--when-no-replica is needed as well: there is no safe default for what happens to \
     reads when no replica can take them";

/// Builds the configuration of one database. Its user logs in to Howdah with the same name and password.
pub fn from_flags(flags: &Flags, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let source = Source::Flag("database".to_owned());
    let replica = Source::Flag("replica".to_owned());
    let mut read = |url: &str, source: &Source| match Url::parse(url) {
        Ok(url) => Some(url),
        Err(why) => {
            // Not the URL itself: it may hold a password.
            errors.push(
                ConfigError::new(source, "", why).allowed("postgres://user:password@host:port/database"),
            );
            None
        }
    };
    let url = read(&flags.database, &source);
    let replicas: Vec<Url> = flags.replicas.iter().filter_map(|u| read(u, &replica)).collect();
    let (Some(url), true) = (url, errors.is_empty()) else { return Err(errors) };
    let name = url.dbname.clone().or_else(|| url.user.clone()).unwrap_or_else(|| "postgres".to_owned());
    if !replicas.is_empty() && flags.when_no_replica.is_none() {
        errors.push(
            ConfigError::new(&replica, "", NO_REPLICA).allowed("--when-no-replica primary, wait or error"),
        );
    }
    let stated = |key: &str| overrides.states(key);
    if flags.pool_size.is_none() && !stated("pool_size") && !stated(&format!("databases.{name}.pool_size")) {
        errors.push(ConfigError::new(&source, "", NO_SIZE).allowed("--pool-size and a whole number from 1"));
    }
    // A password in the URL is in the list of processes; there are ways to state it elsewhere.
    let user = url.user.as_deref().unwrap_or_default();
    let ways = ["password", "password_file", "password_env"].map(|way| format!("users.{user}.{way}"));
    let elsewhere = ways.iter().any(|way| stated(way));
    if url.password.is_none() && !elsewhere && !stated("auth_method") && !stated("auth_file") {
        errors.push(
            ConfigError::new(&source, "", "there is no password, so clients could not prove who they are")
                .allowed("--set users.NAME.password_file=FILE, the variable HOWDAH_USERS__NAME__PASSWORD, a password in the URL, or --set auth_method=trust"),
        );
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut tree = tree(flags, &name, &url, &replicas);
    // Only who is known may log in, also without a password; a user list says itself who is.
    if let (Some(user), None, false) = (&url.user, &url.password, stated("auth_file")) {
        let _ = table_at(&mut tree, &["users", user], &source);
    }
    let start = Start {
        origin: Arc::from("command line"),
        dir: PathBuf::new(),
        profile: Profile::Native,
        ini: false,
        warnings: Vec::new(),
        errors,
    };
    finish(tree, start, overrides)
}

fn tree(flags: &Flags, name: &str, url: &Url, replicas: &[Url]) -> Table {
    let mut tree = Table::new();
    let mut put = |path: &[&str], key: &str, value: &str, flag: &str| {
        let source = Source::Flag(flag.to_owned());
        if let Some(table) = table_at(&mut tree, path, &source) {
            table.insert(key.to_owned(), Node::loose(value, &source));
        }
    };
    let database = ["databases", name];
    put(&database, "host", &url.hosts(), "database");
    for (setting, value) in &url.tls {
        put(&[], setting, value, "database");
    }
    if let Some(size) = flags.pool_size {
        put(&database, "pool_size", &size.to_string(), "pool-size");
    }
    if let Some(word) = &flags.when_no_replica {
        put(&database, "when_no_replica", word, "when-no-replica");
    }
    if let (Some(user), Some(password)) = (&url.user, &url.password) {
        put(&["users", user], "password", password, "database");
    }
    if !replicas.is_empty() {
        let hosts = replicas.iter().map(Url::hosts).collect::<Vec<_>>().join(",");
        put(&["databases", name, "replica"], "host", &hosts, "replica");
    }
    tree
}

/// The parts of a connection URL that Howdah uses.
#[derive(Default)]
struct Url {
    user: Option<String>,
    password: Option<Hidden>,
    /// With their ports; a directory stays as it is.
    hosts: Vec<String>,
    dbname: Option<String>,
    /// Settings of TLS to servers, and their values.
    tls: Vec<(&'static str, String)>,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or("not a postgres:// URL")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let mut url = Self::default();
        if let Some(userinfo) = userinfo {
            let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
            url.user = non_empty(decode(user)?);
            url.password = password.map(decode).transpose()?.and_then(non_empty).map(Hidden::from);
        }
        for host in hosts.split(',').filter(|h| !h.is_empty()) {
            url.hosts.push(decode(host)?);
        }
        url.dbname = non_empty(decode(path)?);
        let mut port = None;
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or("the part after ? is not of the form key=value")?;
            url.parameter(key, decode(value)?, &mut port)?;
        }
        if url.hosts.is_empty() {
            return Err("the URL has no host".to_owned());
        }
        if let Some(port) = port {
            for host in url.hosts.iter_mut().filter(|h| !h.contains(':') && !h.starts_with('/')) {
                *host = format!("{host}:{port}");
            }
        }
        Ok(url)
    }

    fn parameter(&mut self, key: &str, value: String, port: &mut Option<String>) -> Result<(), String> {
        match key {
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "port" => *port = Some(value),
            "user" => self.user = non_empty(value),
            "password" => self.password = non_empty(value).map(Hidden::from),
            "dbname" => self.dbname = non_empty(value),
            "sslmode" => self.tls.push(("server_tls_mode", value)),
            "sslrootcert" => self.tls.push(("server_tls_ca", value)),
            "sslcert" => self.tls.push(("server_tls_cert", value)),
            "sslkey" => self.tls.push(("server_tls_key", value)),
            "channel_binding" => self.tls.push(("server_channel_binding", value)),
            // They are about the client that the URL was written for.
            "application_name" | "connect_timeout" => {}
            other => {
                return Err(format!("the URL's parameter \"{}\" is not supported", other.escape_debug()));
            }
        }
        Ok(())
    }

    fn hosts(&self) -> String {
        self.hosts.join(",")
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn decode(text: &str) -> Result<String, String> {
    let wrong = || "the URL has a % that is not followed by two hex digits".to_owned();
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(wrong);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).expect("two hex digits are at most 255"));
    }
    String::from_utf8(out).map_err(|_| "the URL decodes to something that is not UTF-8".to_owned())
}
