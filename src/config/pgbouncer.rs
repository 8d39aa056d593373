//! Reads a `pgbouncer.ini` into the tree that TOML is read into; the settings' declarations say which of its
//! keys is which setting. The profile's defaults, too, come from there.

use std::path::Path;
use std::sync::Arc;

use super::ciphers;
use super::files;
use super::ini::{connection_string, convert, integer, key_value};
use super::problem::ConfigError;
use super::raw::{Node, Raw, Source, Table, table_at};
use super::setting::{Level, Setting};
use super::settings::SETTINGS;

/// Keys of `[pgbouncer]` that need no setting of their own: what each becomes.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("client_tls13_ciphers", "`client_tls_ciphers`, together with the key of that name"),
    ("listen_addr", "`listen`, together with listen_port; names are looked up once, at the start"),
    ("listen_port", "`listen` and `unix_socket_port`"),
    ("log_stats", "0 is `stats_period = \"0\"`"),
    ("server_tls13_ciphers", "`server_tls_ciphers`, together with the key of that name"),
    ("verbose", "`log_level`: 1 is debug, 2 and more is trace"),
];
/// Keys that are read, checked for their form, and change nothing: why.
pub(super) const WITHOUT_MEANING: &[(&str, &str)] = &[
    (
        "client_tls_dheparams",
        "the key exchange is by elliptic curves; another value than auto or none is warned about",
    ),
    ("client_tls_ecdhcurve", "both sides agree on a curve; another value than auto is warned about"),
    ("conffile", "the file that is read is the one named on the command line"),
    ("dns_nxdomain_ttl", "each new server connection asks the system's resolver, so no answer is kept"),
    ("dns_zone_check_period", "each new server connection asks the system's resolver, so no zone is watched"),
    ("job_name", "an old name of syslog_ident; PgBouncer, too, uses it for that alone"),
    ("resolv_conf", "the system's resolver reads the system's /etc/resolv.conf"),
    ("sbuf_loopcnt", "connections take turns on the runtime's own budget"),
    (
        "suspend_timeout",
        "no bytes of a client are kept back between its transactions, so that SUSPEND waits for transactions alone",
    ),
    ("service_name", "an old name of syslog_ident"),
    (
        "tcp_defer_accept",
        "a connection that says nothing costs little here, and client_login_timeout ends it",
    ),
];
/// Keys of other sections without meaning: section, key, why.
pub(super) const WITHOUT_MEANING_ELSEWHERE: &[(&str, &str, &str)] =
    &[("peers", "pool_size", "a cancel request is forwarded at once, on a connection of its own")];
/// Keys of a `[databases]` entry that go into the startup packet.
pub(super) const STARTUP: &[&str] = &["client_encoding", "datestyle", "timezone", "application_name"];
const MAX_INCLUDES: usize = 10;

struct Line {
    section: String,
    key: String,
    value: String,
    source: Source,
    /// It stands in a file that another one includes.
    included: bool,
}

/// Reads the text; `dir` is what the paths of `%include` are relative to.
pub(super) fn read(
    text: &str,
    path: &Arc<str>,
    dir: &Path,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) -> Table {
    let mut reader =
        Reader { errors, warnings, tree: Table::new(), dir, section: String::new(), main: false };
    let mut lines = Vec::new();
    reader.lines(text, path, 0, &mut lines);
    let whole = Source::File { path: path.clone(), line: None };
    if !reader.main {
        reader.errors.push(ConfigError::new(&whole, "", "main section missing from config file"));
    }
    reader.listen(&lines, &whole);
    reader.tls_ciphers(&lines);
    for line in &lines {
        match line.section.as_str() {
            "pgbouncer" => reader.main_key(line),
            "databases" => reader.database(line),
            "users" => reader.user(line),
            _ => reader.peer(line),
        }
    }
    let dir = lines.iter().rfind(|l| l.section == "pgbouncer" && l.key == "unix_socket_dir");
    reader.default_hosts(dir.map_or("/tmp", |l| l.value.as_str()));
    let tree = reader.tree;
    // What is included need not be a configuration at all.
    for e in errors.iter_mut().filter(|e| e.file().is_some_and(|f| f != &**path)) {
        *e = e.without_content();
    }
    tree
}

/// Whether a line of `[pgbouncer]` may have this key.
pub(super) fn is_key(key: &str) -> bool {
    SETTINGS.iter().any(|s| s.at(Level::Global) && s.pgbouncer.main == Some(key))
        || ELSEWHERE.iter().any(|(k, _)| *k == key && !k.starts_with("listen_"))
        || WITHOUT_MEANING.iter().any(|(k, _)| *k == key)
        || key.contains("_tls")
}

/// One key of `[pgbouncer]` on the console: as on a line of the file. Returns what is to be said of it.
pub(super) fn set(tree: &mut Table, key: &str, value: &str) -> Result<Vec<String>, String> {
    let line = |key: &str, value: String| Line {
        section: "pgbouncer".to_owned(),
        key: key.to_owned(),
        value,
        source: Source::Console,
        included: false,
    };
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let mut reader = Reader {
        errors: &mut errors,
        warnings: &mut warnings,
        tree: std::mem::take(tree),
        dir: Path::new(""),
        section: String::new(),
        main: true,
    };
    match key {
        "client_tls_ciphers" | "client_tls13_ciphers" | "server_tls_ciphers" | "server_tls13_ciphers" => {
            let side = &key[..6];
            let both = match reader.tree.get(&format!("{side}_tls_ciphers")).map(|n| &n.raw) {
                Some(Raw::Loose(t) | Raw::Text(t)) => t.clone(),
                _ => String::new(),
            };
            let of_13 = |c: &&str| c.starts_with("TLS_");
            let (new, old): (Vec<&str>, Vec<&str>) =
                both.split(',').filter(|c| !c.is_empty()).partition(of_13);
            let mut lines = vec![
                line(&format!("{side}_tls13_ciphers"), new.join(",")),
                line(&format!("{side}_tls_ciphers"), old.join(",")),
            ];
            lines.retain(|l| l.key != key && !l.value.is_empty());
            lines.push(line(key, value.to_owned()));
            reader.tls_ciphers(&lines);
        }
        _ => reader.main_key(&line(key, value.to_owned())),
    }
    *tree = reader.tree;
    match errors.first() {
        None => Ok(warnings),
        Some(e) => Err(e.to_string()),
    }
}

struct Reader<'a> {
    errors: &'a mut Vec<ConfigError>,
    warnings: &'a mut Vec<String>,
    tree: Table,
    dir: &'a Path,
    section: String,
    main: bool,
}

impl Reader<'_> {
    fn lines(&mut self, text: &str, path: &Arc<str>, depth: usize, out: &mut Vec<Line>) {
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            let source = Source::File { path: path.clone(), line: Some(i + 1) };
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(file) = line.strip_prefix("%include") {
                self.include(file.trim(), &source, depth, out);
            } else if let Some(name) = line.strip_prefix('[') {
                self.start_section(name.strip_suffix(']'), &source);
            } else if let Some((key, value)) = key_value(line) {
                let section = self.section.clone();
                if section.is_empty() {
                    self.errors.push(ConfigError::new(&source, "", "a setting before the first section"));
                }
                out.push(Line { section, key, value, source, included: depth > 0 });
            } else {
                // Not the line itself: it may hold a password.
                self.errors.push(ConfigError::new(&source, "", "syntax error").allowed("key = value"));
            }
        }
    }

    fn start_section(&mut self, name: Option<&str>, source: &Source) {
        const SECTIONS: [&str; 4] = ["pgbouncer", "databases", "users", "peers"];
        match name.map(str::trim) {
            Some(name) if SECTIONS.contains(&name.to_lowercase().as_str()) => {
                self.section = name.to_lowercase();
                self.main |= self.section == "pgbouncer";
            }
            Some(name) => {
                let e = ConfigError::new(source, "", "unknown section").quote(name);
                self.errors.push(e.nearest(name, SECTIONS));
            }
            None => self.errors.push(ConfigError::new(source, "", "a section's name ends with ]")),
        }
    }

    fn include(&mut self, file: &str, source: &Source, depth: usize, out: &mut Vec<Line>) {
        if depth >= MAX_INCLUDES {
            self.errors.push(ConfigError::new(source, "", "%include is nested more than 10 deep"));
            return;
        }
        let path = self.dir.join(file);
        match files::text(&path) {
            Ok(text) => self.lines(&text, &Arc::from(path.display().to_string().as_str()), depth + 1, out),
            Err(e) => {
                let why = format!("%include: cannot be read: {e}");
                self.errors.push(ConfigError::new(source, "", why).quote(&path.display().to_string()));
            }
        }
    }

    fn put(&mut self, path: &[&str], key: &str, value: &str, source: &Source) {
        if let Some(table) = table_at(&mut self.tree, path, source) {
            table.insert(key.to_owned(), Node::loose(value, source));
        }
    }

    /// `listen_addr` and `listen_port` together.
    fn listen(&mut self, lines: &[Line], whole: &Source) {
        let main = |key: &str| lines.iter().rfind(|l| l.section == "pgbouncer" && l.key == key);
        let port = match main("listen_port").map(|l| (integer(&l.value), l)) {
            Some((Some(port), _)) if (0..=65_535).contains(&port) => port,
            Some((_, line)) => {
                self.errors.push(invalid(line, "not a port".to_owned()).allowed("0 to 65535"));
                return;
            }
            None => 6432,
        };
        self.put(&[], "unix_socket_port", &port.to_string(), whole);
        let Some(line) = main("listen_addr") else { return };
        let mut addresses = Vec::new();
        for address in line.value.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            match listen_addresses(address, u16::try_from(port).unwrap_or(0)) {
                Ok(found) => addresses.extend(found),
                Err(why) => self.errors.push(invalid(line, why)),
            }
        }
        self.put(&[], "listen", &addresses.join(","), &line.source);
    }

    /// The suites of TLS 1.2 and 1.3 stand in lists of their own there, and in one here; each has its default.
    fn tls_ciphers(&mut self, lines: &[Line]) {
        const TLS13: &str = "TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256,TLS_AES_128_GCM_SHA256";
        const TLS12: &str = "ECDHE-ECDSA-AES256-GCM-SHA384,ECDHE-ECDSA-AES128-GCM-SHA256,\
                             ECDHE-ECDSA-CHACHA20-POLY1305,ECDHE-RSA-AES256-GCM-SHA384,\
                             ECDHE-RSA-AES128-GCM-SHA256,ECDHE-RSA-CHACHA20-POLY1305";
        for side in ["client", "server"] {
            let find = |key: &str| {
                let key = format!("{side}_{key}");
                lines.iter().rfind(|l| l.section == "pgbouncer" && l.key == key && !l.value.is_empty())
            };
            let (old, new) = (find("tls_ciphers"), find("tls13_ciphers"));
            let Some(source) = old.or(new).map(|l| l.source.clone()) else { continue };
            let list = |line: Option<&Line>, preset: &str| match line.map(|l| l.value.as_str()) {
                None | Some("default" | "secure" | "compat" | "normal" | "fast") => preset.to_owned(),
                Some(list) => list.replace(':', ","),
            };
            let of_old = match old.map(|l| (l, ciphers::read(&l.value))) {
                // A problem that is told, if it is no word for all of them.
                None => list(old, TLS12),
                Some((_, read)) if read.suites.is_empty() => list(old, TLS12),
                Some((l, read)) => {
                    let suites = read.suites.join(",");
                    if !read.plain {
                        self.warnings.push(format!(
                            "{}: {}: of this list, Howdah has {suites}; these are in force for TLS 1.2",
                            l.source, l.key
                        ));
                    }
                    suites
                }
            };
            let both = format!("{},{of_old}", list(new, TLS13));
            self.put(&[], &format!("{side}_tls_ciphers"), &both, &source);
        }
    }

    fn main_key(&mut self, line: &Line) {
        let key = line.key.as_str();
        if key == "listen_addr" || key == "listen_port" {
            return;
        }
        if key == "log_stats" {
            match line.value.as_str() {
                "0" => self.put(&[], "stats_period", "0", &line.source),
                "1" => {}
                _ => self.errors.push(invalid(line, "not 0 or 1".to_owned())),
            }
            return;
        }
        if key == "verbose" {
            match integer(&line.value) {
                Some(n) => self.put(&[], "log_level", verbose(n), &line.source),
                None => self.errors.push(invalid(line, "not a whole number".to_owned())),
            }
            return;
        }
        if key.contains("_tls") && self.tls(line) {
            return;
        }
        if WITHOUT_MEANING.iter().any(|(k, _)| *k == key) {
            return;
        }
        let by_name = |s: &&Setting| s.pgbouncer.main == Some(key);
        match SETTINGS.iter().find(|s| s.at(Level::Global) && by_name(s)) {
            Some(setting) => self.setting(setting, &[], line, &line.value),
            None => {
                let known = SETTINGS
                    .iter()
                    .filter_map(|s| s.pgbouncer.main)
                    .chain(ELSEWHERE.iter().map(|(k, _)| *k))
                    .chain(WITHOUT_MEANING.iter().map(|(k, _)| *k));
                let name = if line.included { String::new() } else { format!(": pgbouncer/{key}") };
                let e = ConfigError::new(&line.source, "", format!("unknown parameter{name}"));
                // Howdah's own name of a setting that has another one in this file.
                let own = SETTINGS.iter().find(|s| s.at(Level::Global) && s.key == key);
                self.errors.push(match own.and_then(|s| s.pgbouncer.main) {
                    Some(theirs) => e.means(theirs),
                    None => e.nearest(key, known),
                });
            }
        }
    }

    /// What of TLS is not one of our settings by another name; false where it is.
    fn tls(&mut self, line: &Line) -> bool {
        let value = line.value.trim();
        match line.key.as_str() {
            // rustls has elliptic curves only, and chooses among its own.
            "client_tls_dheparams" if matches!(value, "auto" | "none" | "") => {}
            "client_tls_ecdhcurve" if matches!(value, "auto" | "") => {}
            "client_tls_dheparams" | "client_tls_ecdhcurve" => {
                let why = "the key exchange is by elliptic curves that both sides agree on";
                self.warnings.push(format!("{}: {}: without effect: {why}", line.source, line.key));
            }
            // See `tls_ciphers`.
            "client_tls13_ciphers" | "server_tls13_ciphers" | "client_tls_ciphers" | "server_tls_ciphers" => {
            }
            "client_tls_protocols" | "server_tls_protocols" if matches!(value, "" | "all" | "legacy") => {
                // They add 1.0 and 1.1, which nothing of ours speaks.
                if !value.is_empty() {
                    self.warnings
                        .push(format!("{}: {}: TLS 1.0 and 1.1 are not offered", line.source, line.key));
                }
                self.put(&[], &line.key, "secure", &line.source);
            }
            "client_tls_protocols" | "server_tls_protocols" => {
                let list = value.replace(':', ",");
                let old = |w: &&str| w.eq_ignore_ascii_case("tlsv1.0") || w.eq_ignore_ascii_case("tlsv1.1");
                let (old, new): (Vec<&str>, Vec<&str>) =
                    list.split(',').map(str::trim).filter(|w| !w.is_empty()).partition(old);
                if !old.is_empty() {
                    // What asks for nothing that is spoken here gets what is.
                    let instead = if new.is_empty() { "; TLS 1.2 and 1.3 are, in their place" } else { "" };
                    self.warnings.push(format!(
                        "{}: {}: TLS 1.0 and 1.1 are not offered{instead}",
                        line.source, line.key
                    ));
                }
                // Both words for the same thing: whoever states another is taken to want new connections.
                let new = if new.is_empty() { "tlsv1.2,tlsv1.3".to_owned() } else { new.join(",") };
                self.put(&[], &line.key, &new, &line.source);
            }
            _ => return false,
        }
        true
    }

    /// Puts the value of a setting into the section at `path`, in native notation.
    fn setting(&mut self, setting: &Setting, path: &[&str], line: &Line, value: &str) {
        let native = convert(setting, value)
            .and_then(|text| setting.kind.read(&Raw::Loose(text.clone())).map(|_| text));
        match native {
            Ok(text) => self.put(path, setting.key, &text, &line.source),
            Err(why) => {
                let mut e = invalid(line, why).allowed(setting.kind.allowed());
                // The line of a database or user may hold its password.
                e.value = e.value.filter(|_| path.is_empty() && !setting.is_secret());
                self.errors.push(e);
            }
        }
    }

    fn database(&mut self, line: &Line) {
        let path = ["databases", line.key.as_str()];
        let _ = table_at(&mut self.tree, &path, &line.source);
        for (key, value) in self.pairs(line) {
            let key = if key == "reserve_pool" { "reserve_pool_size" } else { key.as_str() };
            let by_name = |s: &&Setting| s.at(Level::Database) && s.pgbouncer.database == Some(key);
            if STARTUP.contains(&key) {
                let path = ["databases", line.key.as_str(), "startup"];
                self.put(&path, key, &value, &line.source);
            } else if let Some(setting) = SETTINGS.iter().find(by_name) {
                self.setting(setting, &path, line, &value);
            } else {
                let why = "unrecognized connection parameter";
                let known =
                    SETTINGS.iter().filter_map(|s| s.pgbouncer.database).chain(STARTUP.iter().copied());
                let e = ConfigError::new(&line.source, &place(line), why).quote(key);
                let meant =
                    |s: &&Setting| s.at(Level::Database) && (s.key == key || s.pgbouncer.main == Some(key));
                self.errors.push(match SETTINGS.iter().find(meant).and_then(|s| s.pgbouncer.database) {
                    Some(theirs) => e.means(theirs),
                    None => e.nearest(key, known),
                });
            }
        }
    }

    fn user(&mut self, line: &Line) {
        let path = ["users", line.key.as_str()];
        let _ = table_at(&mut self.tree, &path, &line.source);
        for (key, value) in self.pairs(line) {
            let by_name = |s: &&Setting| s.at(Level::User) && s.pgbouncer.user == Some(key.as_str());
            if let Some(setting) = SETTINGS.iter().find(by_name) {
                self.setting(setting, &path, line, &value);
            } else {
                let why = "unrecognized user parameter";
                let known = SETTINGS.iter().filter_map(|s| s.pgbouncer.user);
                let e = ConfigError::new(&line.source, &place(line), why).quote(&key);
                self.errors.push(e.nearest(&key, known));
            }
        }
    }

    fn peer(&mut self, line: &Line) {
        let path = ["peers", line.key.as_str()];
        let _ = table_at(&mut self.tree, &path, &line.source);
        for (key, value) in self.pairs(line) {
            let key = key.as_str();
            if WITHOUT_MEANING_ELSEWHERE.iter().any(|(s, k, _)| *s == "peers" && *k == key) {
                continue;
            }
            match SETTINGS.iter().find(|s| s.at(Level::Peer) && s.pgbouncer.database == Some(key)) {
                Some(setting) => self.setting(setting, &path, line, &value),
                None => {
                    let why = "unrecognized connection parameter";
                    let e = ConfigError::new(&line.source, &place(line), why).quote(key);
                    self.errors.push(e.nearest(key, ["host", "port", "pool_size"]));
                }
            }
        }
    }

    fn pairs(&mut self, line: &Line) -> Vec<(String, String)> {
        connection_string(&line.value).unwrap_or_else(|why| {
            self.errors.push(ConfigError::new(&line.source, &place(line), why));
            Vec::new()
        })
    }

    /// A database without a host is reached through the Unix socket.
    fn default_hosts(&mut self, dir: &str) {
        let Some(Node { raw: Raw::Table(databases), .. }) = self.tree.get_mut("databases") else { return };
        for node in databases.values_mut() {
            let host = Node::loose(dir, &node.source);
            if let Raw::Table(table) = &mut node.raw {
                table.entry("host".to_owned()).or_insert(host);
            }
        }
    }
}

/// Filters for logs, of `verbose = 1` and of 2 and more.
pub const VERBOSE: [&str; 2] = ["info,howdah=debug,pgbouncer=debug", "info,howdah=trace,pgbouncer=trace"];

/// PgBouncer's numbers as a filter for logs.
pub(super) fn verbose(level: i64) -> &'static str {
    match level {
        ..=0 => "info",
        1 => VERBOSE[0],
        _ => VERBOSE[1],
    }
}

/// One of `listen_addr`, with the port: `*` is every address of both families, a name all of its addresses.
fn listen_addresses(address: &str, port: u16) -> Result<Vec<String>, String> {
    use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
    if address == "*" {
        return Ok(vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    }
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port).to_string()]);
    }
    let found = (address, port).to_socket_addrs().map_err(|e| e.to_string())?;
    let mut all: Vec<String> = found.map(|a| a.to_string()).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

fn place(line: &Line) -> String {
    format!("{}/{}", line.section, line.key)
}

fn invalid(line: &Line, why: String) -> ConfigError {
    ConfigError::new(&line.source, &place(line), why)
        .value(Some(format!("\"{}\"", line.value.escape_debug())))
}
