//! `pg_hba.conf`: who may come from where, and how they prove who they are (PostgreSQL documentation, 21.1). Read
//! here, matched in [`crate::auth::access`].

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::access;
use super::files;
use super::ldap::Ldap;
use super::pattern::Pattern;
use super::problem::{ConfigError, nearest};
use super::raw::Source;
use super::resolved::{AuthMethod, Profile};

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

/// One entry of a rule's list of databases or users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    All,
    /// The database that is called as its user.
    SameUser,
    /// A physical replication connection, which is to no database.
    Replication,
    Exact(String),
    /// Of regular expressions, which begin with a slash.
    Fits(Pattern),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    Any,
    /// An address and its mask, as numbers of the family's width.
    V4(u32, u32),
    V6(u128, u128),
    /// One of this machine's own addresses, as they are when a client comes.
    SameHost,
    /// In one of the networks that this machine is directly in.
    SameNet,
}

/// What of a client's certificate a rule asks for beside its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCert {
    #[default]
    NotAsked,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `file:line`.
    pub place: String,
    pub kind: Kind,
    pub databases: Vec<Name>,
    pub users: Vec<Name>,
    pub address: Address,
    pub method: AuthMethod,
    pub map: Option<String>,
    /// The whole distinguished name is compared, not the common name.
    pub whole_name: bool,
    pub client_cert: ClientCert,
    /// Of the method `ldap`.
    pub ldap: Option<Arc<Ldap>>,
    /// Of the method `pam`.
    pub pam_service: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hba {
    pub rules: Vec<Rule>,
}

impl Hba {
    /// Whether a rule goes by this machine's own addresses.
    pub fn asks_for_interfaces(&self) -> bool {
        self.rules.iter().any(|r| matches!(r.address, Address::SameHost | Address::SameNet))
    }
}

/// A word of a line; one that begins with a quote is no keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub text: String,
    pub quoted: bool,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// How deep files may name files.
const MAX_DEPTH: usize = 10;

/// Where the files are that this one names.
fn beside(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Reads a file of rules; a line that cannot be understood is a problem, and no rule.
pub(super) fn read(path: &Path, profile: Profile, errors: &mut Vec<ConfigError>) -> Hba {
    let mut hba = Hba::default();
    for (source, fields) in lines(path, 0, None, errors) {
        // An included file names others beside itself.
        let from = match &source {
            Source::File { path, .. } => Path::new(&**path),
            _ => path,
        };
        match rule(&fields, &source.to_string(), beside(from), profile) {
            Ok(rule) => hba.rules.push(rule),
            Err(why) => errors.push(ConfigError::new(&source, "", why)),
        }
    }
    hba
}

/// The lines of a file and of those that it includes, as lists of words. `named_at` is the line that includes this file:
/// what stands there is not told, only where.
pub(super) fn lines(
    path: &Path,
    depth: usize,
    named_at: Option<&Source>,
    errors: &mut Vec<ConfigError>,
) -> Vec<(Source, Vec<Vec<Token>>)> {
    let name: Arc<str> = path.display().to_string().into();
    let text = match files::text(path) {
        Ok(text) if depth <= MAX_DEPTH => text,
        Ok(_) => {
            let source = Source::File { path: name, line: None };
            errors.push(ConfigError::new(&source, "", "files include each other more than 10 deep"));
            return Vec::new();
        }
        Err(e) => {
            let own = Source::File { path: name, line: None };
            let what = if named_at.is_some() { "the file that this line includes " } else { "" };
            let why = format!("{what}cannot be read: {e}");
            errors.push(ConfigError::new(named_at.unwrap_or(&own), "", why));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    let mut rest = text.lines().enumerate();
    while let Some((i, line)) = rest.next() {
        let mut line = line.to_owned();
        // A backslash at the end goes on with the next line.
        while line.ends_with('\\') {
            line.pop();
            line.push_str(rest.next().map_or("", |(_, l)| l));
        }
        let source = Source::File { path: name.clone(), line: Some(i + 1) };
        match fields(&line) {
            Ok(f) if f.is_empty() => {}
            Ok(f) => match included(&f, path, depth, &source, errors) {
                Some(mut lines) => found.append(&mut lines),
                None => found.push((source, f)),
            },
            Err(why) => errors.push(ConfigError::new(&source, "", why)),
        }
    }
    found
}

/// The lines that an `include` directive stands for; `None` where the line is none.
fn included(
    fields: &[Vec<Token>],
    from: &Path,
    depth: usize,
    source: &Source,
    errors: &mut Vec<ConfigError>,
) -> Option<Vec<(Source, Vec<Vec<Token>>)>> {
    let [directive, what] = fields else { return None };
    let ([directive], [what]) = (directive.as_slice(), what.as_slice()) else { return None };
    let path = beside(from).join(&what.text);
    if directive.is("include") || (directive.is("include_if_exists") && path.exists()) {
        return Some(lines(&path, depth + 1, Some(source), errors));
    }
    if directive.is("include_if_exists") {
        return Some(Vec::new());
    }
    if !directive.is("include_dir") {
        return None;
    }
    let mut files: Vec<_> = match std::fs::read_dir(&path) {
        Ok(dir) => dir.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(e) => {
            let why = format!("the directory that this line includes cannot be read: {e}");
            errors.push(ConfigError::new(source, "", why));
            return Some(Vec::new());
        }
    };
    files.retain(|f| {
        let name = f.file_name().and_then(|n| n.to_str()).unwrap_or(".");
        name.ends_with(".conf") && !name.starts_with('.')
    });
    files.sort();
    Some(files.iter().flat_map(|f| lines(f, depth + 1, Some(source), errors)).collect())
}

/// Splits a line at blanks into fields, and those at commas into words.
fn fields(line: &str) -> Result<Vec<Vec<Token>>, &'static str> {
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut chars = line.chars().peekable();
    // Whether the next word still belongs to the field before it.
    let mut goes_on = false;
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(&first) = chars.peek() else { break };
        if first == '#' {
            break;
        }
        if first == ',' {
            chars.next();
            goes_on = !fields.is_empty();
            continue;
        }
        let mut token = Token { text: String::new(), quoted: false };
        let mut open = false;
        while let Some(&c) = chars.peek() {
            if !open && (c.is_whitespace() || c == ',' || c == '#') {
                break;
            }
            chars.next();
            if c != '"' {
                token.text.push(c);
            } else if open && chars.next_if_eq(&'"').is_some() {
                token.text.push('"');
            } else {
                open = !open;
                token.quoted |= token.text.is_empty();
            }
        }
        if open {
            return Err("a quote that is not closed");
        }
        match fields.last_mut().filter(|_| goes_on) {
            Some(field) => field.push(token),
            None => fields.push(vec![token]),
        }
        goes_on = false;
    }
    Ok(fields)
}

fn rule(fields: &[Vec<Token>], place: &str, dir: &Path, profile: Profile) -> Result<Rule, String> {
    let mut rest = fields.iter();
    let mut next = |what: &str| rest.next().ok_or_else(|| format!("a rule ends before its {what}"));
    let one = |field: &[Token], what: &str| match field {
        [token] => Ok(token.text.clone()),
        _ => Err(format!("more than one {what}")),
    };
    let kind = match one(next("type")?, "type")?.as_str() {
        "local" => Kind::Local,
        // There is no GSSAPI here, so that what excludes it always holds.
        "host" | "hostnogssenc" => Kind::Host,
        "hostssl" => Kind::HostSsl,
        "hostnossl" => Kind::HostNoSsl,
        "hostgssenc" => return Err("hostgssenc: GSSAPI encryption is not spoken here".to_owned()),
        other => return Err(unknown("type of rule", other, KINDS)),
    };
    let databases = names(next("database")?, dir, true, 0)?;
    let users = names(next("user")?, dir, false, 0)?;
    let mut address = Address::Any;
    if kind != Kind::Local {
        let [token] = next("address")?.as_slice() else { return Err("more than one address".to_owned()) };
        let text = token.text.as_str();
        let (ip, network) = match text.split_once('/') {
            Some((ip, bits)) => (ip, network(ip, bits)?),
            None if token.is("all") => (text, Address::Any),
            None if token.is("samehost") => (text, Address::SameHost),
            None if token.is("samenet") => (text, Address::SameNet),
            None if text.parse::<IpAddr>().is_ok() => (text, masked(text, &one(next("mask")?, "mask")?)?),
            None => return Err(NO_ADDRESS.to_owned()),
        };
        if profile == Profile::PgBouncer && reaches_beyond(ip, network) {
            return Err("the address does not match its mask, and fits nobody".to_owned());
        }
        address = network;
    }
    let word = one(next("method")?, "method")?;
    let method = method(&word)?;
    if method == AuthMethod::Peer && kind != Kind::Local {
        return Err("peer is for local rules only".to_owned());
    }
    // PgBouncer takes it in host rules, too, where it lets in nobody without TLS; without the line a later one would decide.
    let anyhow = kind == Kind::Host && profile == Profile::PgBouncer;
    if method == AuthMethod::Cert && kind != Kind::HostSsl && !anyhow {
        return Err("cert is for hostssl rules only".to_owned());
    }
    let mut rule = Rule {
        place: place.to_owned(),
        kind,
        databases,
        users,
        address,
        method,
        map: None,
        whole_name: false,
        client_cert: ClientCert::NotAsked,
        ldap: None,
        pam_service: None,
    };
    if method == AuthMethod::Pam {
        access::needs_feature("pam", cfg!(feature = "pam"))?;
    }
    let mut of_ldap = Vec::new();
    for field in rest {
        // What a comma separates are options of their own, as PostgreSQL has it.
        for token in field {
            match token.text.split_once('=') {
                Some((name, value)) if method == AuthMethod::Ldap && name.starts_with("ldap") => {
                    of_ldap.push((name.to_owned(), value.to_owned()));
                }
                _ => option(&mut rule, &token.text)?,
            }
        }
    }
    if method == AuthMethod::Ldap {
        rule.ldap = Some(Ldap::usable(&of_ldap)?);
    }
    Ok(rule)
}

fn option(rule: &mut Rule, text: &str) -> Result<(), String> {
    let identity = matches!(rule.method, AuthMethod::Cert | AuthMethod::Peer);
    match text.split_once('=') {
        Some(("map", map)) if identity => rule.map = Some(map.to_owned()),
        // PostgreSQL's words; the host is always told by its address.
        Some(("pamservice", service)) if rule.method == AuthMethod::Pam => {
            rule.pam_service = Some(service.to_owned());
        }
        Some(("pam_use_hostname", "0")) if rule.method == AuthMethod::Pam => {}
        Some(("clientname", _)) if rule.kind != Kind::HostSsl => {
            return Err("clientname is for hostssl rules only".to_owned());
        }
        Some(("clientname", "CN")) => rule.whole_name = false,
        Some(("clientname", "DN")) => rule.whole_name = true,
        Some(("clientcert", "verify-ca")) if rule.method == AuthMethod::Cert => {
            return Err("cert takes clientcert=verify-full only".to_owned());
        }
        Some(("clientcert", "verify-ca")) if rule.kind == Kind::HostSsl => {
            rule.client_cert = ClientCert::VerifyCa;
        }
        Some(("clientcert", "verify-full")) if rule.kind == Kind::HostSsl => {
            rule.client_cert = ClientCert::VerifyFull;
        }
        Some((name, _)) => return Err(unknown("option of this rule", name, OPTIONS)),
        None => return Err("unknown option of this rule: a word that is not NAME=VALUE".to_owned()),
    }
    Ok(())
}

const KINDS: &[&str] = &["local", "host", "hostssl", "hostnossl", "hostnogssenc"];
const METHODS: &[&str] =
    &["trust", "reject", "password", "plain", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam"];
const OPTIONS: &[&str] = &["map", "clientname", "clientcert", "pamservice", "pam_use_hostname"];
const NO_ADDRESS: &str =
    "not an address: expected an address with its mask, all, samehost or samenet; names are not looked up";

/// Says what would have been right, and not what stands there: the file may be any, and the reader anybody who may name
/// one on the console.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let meant = nearest(word, known.iter().copied());
    let meant = meant.map_or_else(String::new, |m| format!("; did you mean `{m}`?"));
    format!("unknown {what}: expected {}{meant}", known.join(", "))
}

fn method(word: &str) -> Result<AuthMethod, String> {
    Ok(match word {
        "trust" => AuthMethod::Trust,
        "reject" => AuthMethod::Reject,
        "password" | "plain" => AuthMethod::Password,
        "md5" => AuthMethod::Md5,
        "scram-sha-256" => AuthMethod::ScramSha256,
        "cert" => AuthMethod::Cert,
        "peer" => AuthMethod::Peer,
        "ldap" => AuthMethod::Ldap,
        "pam" => AuthMethod::Pam,
        "gss" | "sspi" | "ident" | "radius" | "bsd" | "oauth" => {
            return Err(format!("method {word} is not supported"));
        }
        other => return Err(unknown("method", other, METHODS)),
    })
}

/// A list of names; `@file` stands for the words of a file beside this one, which mean what they mean here.
fn names(field: &[Token], dir: &Path, databases: bool, depth: usize) -> Result<Vec<Name>, String> {
    let mut names = Vec::new();
    for token in field {
        match token.text.as_str() {
            // As PostgreSQL has it, a pattern with a comma in it stands in quotes.
            text if text.starts_with('/') => names.push(Name::Fits(Pattern::read(&text[1..])?)),
            text if token.quoted => names.push(Name::Exact(text.to_owned())),
            "all" => names.push(Name::All),
            "sameuser" if databases => names.push(Name::SameUser),
            "replication" if databases => names.push(Name::Replication),
            "samerole" | "samegroup" if databases => return Err(MEMBERSHIP.to_owned()),
            text if text.starts_with('+') => return Err(MEMBERSHIP.to_owned()),
            text => match text.strip_prefix('@').filter(|file| !file.is_empty()) {
                Some(file) if depth < MAX_DEPTH => {
                    let file = dir.join(file);
                    names.extend(self::names(&words(&file)?, beside(&file), databases, depth + 1)?);
                }
                Some(_) => {
                    return Err(format!("files name each other by @FILE more than {MAX_DEPTH} deep"));
                }
                None => names.push(Name::Exact(text.to_owned())),
            },
        }
    }
    Ok(names)
}

const MEMBERSHIP: &str =
    "samerole, samegroup and +ROLE: who is a member of a role is known to the server alone";

fn words(path: &Path) -> Result<Vec<Token>, String> {
    let text = files::text(path).map_err(|e| format!("the file that @ names cannot be read: {e}"))?;
    let mut all = Vec::new();
    for line in text.lines() {
        all.extend(fields(line)?.into_iter().flatten());
    }
    Ok(all)
}

/// Whether an address has bits that its mask has not. PostgreSQL overlooks them; PgBouncer compares with the address as it
/// is written, so that nobody has ever come in by such a rule.
fn reaches_beyond(ip: &str, network: Address) -> bool {
    match (ip.parse(), network) {
        (Ok(IpAddr::V4(ip)), Address::V4(net, _)) => ip.to_bits() != net,
        (Ok(IpAddr::V6(ip)), Address::V6(net, _)) => ip.to_bits() != net,
        _ => false,
    }
}

fn network(ip: &str, bits: &str) -> Result<Address, String> {
    let bad = || "not a network: expected ADDRESS/BITS".to_owned();
    let bits: u32 = bits.parse().map_err(|_| bad())?;
    match ip.parse().map_err(|_| bad())? {
        IpAddr::V4(a) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Ok(Address::V4(a.to_bits() & mask, mask))
        }
        IpAddr::V6(a) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ok(Address::V6(a.to_bits() & mask, mask))
        }
        _ => Err(bad()),
    }
}

fn masked(ip: &str, mask: &str) -> Result<Address, String> {
    match (ip.parse(), mask.parse()) {
        (Ok(IpAddr::V4(a)), Ok(IpAddr::V4(m))) => Ok(Address::V4(a.to_bits() & m.to_bits(), m.to_bits())),
        (Ok(IpAddr::V6(a)), Ok(IpAddr::V6(m))) => Ok(Address::V6(a.to_bits() & m.to_bits(), m.to_bits())),
        _ => Err("not a mask of this address".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Hba, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hba");
        std::fs::write(&path, text).expect("a file");
        std::fs::write(dir.path().join("names"), "one, two\n\"three\" # four\n").expect("a file");
        std::fs::write(dir.path().join("more"), "local more all trust\n").expect("a file");
        let mut errors = Vec::new();
        let hba = read(&path, Profile::Native, &mut errors);
        (hba, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_form_of_a_rule_is_read() {
        let (hba, errors) = read_text(
            "# comment\n\nlocal all all peer map=m # x\nhost a,b , \"all\" u \t10.1.2.3/8 md5\n\
             host all @names 10.0.0.0 255.0.0.0 reject\nhostssl all all ::1/128 cert clientname=DN map=x\n\
             hostnossl replication,sameuser all all scram-sha-256\ninclude more\ninclude_if_exists none\n\
             host \\\nall all all trust\nhostssl all all all md5 clientcert=verify-full\n",
        );
        assert_eq!(errors, Vec::<String>::new());
        let exact = |n: &str| Name::Exact(n.to_owned());
        let rules = &hba.rules;
        assert_eq!(rules.len(), 8);
        assert_eq!(
            (rules[0].kind, rules[0].method, rules[0].map.as_deref()),
            (Kind::Local, AuthMethod::Peer, Some("m"))
        );
        assert_eq!(rules[1].databases, [exact("a"), exact("b"), exact("all")]);
        assert_eq!(rules[1].address, Address::V4(0x0a00_0000, 0xff00_0000));
        assert_eq!(rules[2].users, [exact("one"), exact("two"), exact("three")]);
        assert_eq!(rules[2].address, Address::V4(0x0a00_0000, 0xff00_0000));
        assert!(rules[3].whole_name);
        assert_eq!(rules[4].databases, [Name::Replication, Name::SameUser]);
        assert_eq!(rules[5].databases, [exact("more")]);
        assert_eq!(rules[6].method, AuthMethod::Trust);
        assert_eq!(rules[7].client_cert, ClientCert::VerifyFull);
    }

    /// Of two files of one name, that beside the file which names it.
    #[test]
    fn files_are_looked_for_beside_the_one_that_names_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
        std::fs::create_dir(dir.path().join("sub")).expect("a directory");
        write("who", "stranger\n");
        write("sub/who", "@more\n");
        write("more", "stranger\n");
        write("sub/more", "friend\n");
        write("sub/rules", "local all @who trust\n");
        write("hba", "include sub/rules\nlocal all @who reject\nlocal all @sub/who reject\n");
        let mut errors = Vec::new();
        let hba = read(&dir.path().join("hba"), Profile::Native, &mut errors);
        assert_eq!(errors, []);
        let users: Vec<_> = hba.rules.iter().map(|r| r.users.clone()).collect();
        assert_eq!(users, ["friend", "stranger", "friend"].map(|u| vec![Name::Exact(u.to_owned())]));
    }

    /// A quote counts where it comes first, as PostgreSQL has it.
    #[test]
    fn a_word_is_quoted_where_it_begins_with_a_quote() {
        let (hba, errors) = read_text("local a\"l\"l \"al\"l reject\nlocal \"\" @ trust\n");
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(
            (&hba.rules[0].databases[..], &hba.rules[0].users[..]),
            (&[Name::All][..], &[Name::Exact("all".to_owned())][..])
        );
        assert_eq!(hba.rules[1].databases, [Name::Exact(String::new())]);
        assert_eq!(hba.rules[1].users, [Name::Exact("@".to_owned())]);
    }

    /// In its place: lines that fit nobody there fit nobody here, and `cert` keeps its place before what follows.
    #[test]
    fn rules_of_pgbouncer_mean_what_they_mean_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hba");
        let text = "host all all 10.1.2.3/8 trust\nhost all all fe80::1 ffff:: trust\nhost all all 10.0.0.0/8 cert\n";
        std::fs::write(&path, text).expect("a file");
        let (mut told, mut untold) = (Vec::new(), Vec::new());
        let there = read(&path, Profile::PgBouncer, &mut told);
        let methods: Vec<_> = there.rules.iter().map(|r| (r.kind, r.method)).collect();
        assert_eq!(methods, [(Kind::Host, AuthMethod::Cert)]);
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|e| e.to_string().contains("does not match its mask")), "{told:?}");
        assert_eq!(read(&path, Profile::Native, &mut untold).rules.len(), 2);
        assert!(untold[0].to_string().contains("cert is for hostssl rules only"));
    }

    #[test]
    fn patterns_networks_and_what_quotes_take_away() {
        let (hba, errors) = read_text(
            "host /^app\\d$,x \"/^u,v$\" samehost trust\nhost \"sameuser\",\"replication\" \"all\",samerole samenet trust\n\
             \"local\" all all \"trust\"\nlocal all \"+g\" trust\n",
        );
        assert_eq!(errors, Vec::<String>::new());
        let exact = |n: &str| Name::Exact(n.to_owned());
        let fits = |p: &str| Name::Fits(Pattern::read(p).unwrap());
        let rules = &hba.rules;
        assert_eq!(rules[0].databases, [fits("^app\\d$"), exact("x")]);
        assert_eq!((&rules[0].users[..], rules[0].address), (&[fits("^u,v$")][..], Address::SameHost));
        assert_eq!(rules[1].databases, [exact("sameuser"), exact("replication")]);
        assert_eq!(rules[1].users, [exact("all"), exact("samerole")], "of databases alone");
        assert_eq!(rules[1].address, Address::SameNet);
        assert_eq!((rules[2].kind, rules[2].method), (Kind::Local, AuthMethod::Trust));
        assert_eq!(rules[3].users, [exact("+g")]);
        assert!(hba.asks_for_interfaces() && !Hba::default().asks_for_interfaces());
    }

    /// On the console any file can be named. Each word of each form of a line is a secret once.
    #[test]
    fn no_word_of_a_file_that_is_none_of_the_grammar_is_told() {
        let forms = [
            "local all all trust",
            "host all all 10.0.0.0/8 md5",
            "host all all 10.0.0.0 255.0.0.0 md5",
            "hostssl all all all cert clientcert=verify-full map=m",
            "host all all all ldap ldapserver=h ldapport=1 ldapscheme=ldap ldapurl=ldap://h/b",
            "host all all all pam pamservice=x",
            "include x",
            "include_dir x",
            "m system user",
        ];
        let mut lines =
            vec!["PATH=/bin:hunter2\0TOKEN=hunter2".to_owned(), "local all all x \"hunter2".to_owned()];
        for form in forms {
            let words: Vec<&str> = form.split(' ').collect();
            for i in 0..words.len() {
                for secret in [
                    "hunter2",
                    "10.0.0.0/hunter2",
                    "hunter2/8",
                    "+hunter2",
                    "@hunter2",
                    "/(hunter2",
                    "/[hunter2",
                    "hunter2=x",
                    "map=hunter2",
                    "ldapport=hunter2",
                    "ldapscheme=hunter2",
                    "ldapurl=hunter2",
                    "ldapurl=hunter2://h/x",
                    "ldapurl=ldap://h/b?a?hunter2",
                    "clientname=hunter2",
                    "clientcert=hunter2",
                ] {
                    let mut words = words.clone();
                    words[i] = secret;
                    lines.push(words.join(" "));
                }
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hba");
        for profile in [Profile::Native, Profile::PgBouncer] {
            std::fs::write(&path, lines.join("\n")).expect("a file");
            let mut errors = Vec::new();
            read(&path, profile, &mut errors);
            super::super::ident::read(&path, &mut errors);
            assert!(errors.len() > lines.len());
            for e in errors {
                assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
                assert!(e.line().is_some(), "{e}");
            }
        }
    }

    /// What PostgreSQL refuses, and (the last of them) what it takes and Howdah does not: docs/src/reference/authentication.md says why.
    #[test]
    fn every_problem_is_told_with_its_line_and_is_no_rule() {
        let bad = [
            ("locall all all trust", "unknown type of rule"),
            ("local", "a rule ends before its database"),
            ("local all", "a rule ends before its user"),
            ("local all all", "a rule ends before its method"),
            ("host all all trust", "not an address: expected an address with its mask, all, "),
            ("host all all 10.0.0.0 trust", "not a mask"),
            ("host all all 10.0.0.0/33 trust", "not a network"),
            ("host all all ::/129 trust", "not a network"),
            ("host all all 10.0.0.0 ::1 trust", "not a mask"),
            ("host all all \"all\" trust", "names are not looked up"),
            ("host all all \"samenet\" trust", "names are not looked up"),
            ("local all all what", "unknown method: expected trust, "),
            ("host all all all peer", "peer is for local rules only"),
            ("local all all cert", "cert is for hostssl rules only"),
            ("hostnossl all all all cert", "cert is for hostssl rules only"),
            ("local \"all all trust", "a quote that is not closed"),
            ("local all all trust map=x", "unknown option of this rule"),
            ("local all all peer what", "unknown option of this rule"),
            ("host all all all cert", "cert is for hostssl rules only"),
            ("host all all all trust clientname=CN", "clientname is for hostssl rules only"),
            ("hostssl all all all cert clientcert=verify-ca", "cert takes clientcert=verify-full only"),
            ("local all @none trust", "cannot be read"),
            ("local all /( trust", "a pattern: unclosed group"),
            ("include none", "cannot be read"),
            ("hostgssenc all all all trust", "GSSAPI encryption is not spoken here"),
            ("host all all all gss", "method gss is not supported"),
            ("host all all all ident", "method ident is not supported"),
            ("host all all all radius", "method radius is not supported"),
            ("host all all a.example trust", "names are not looked up"),
            ("host all all .example trust", "names are not looked up"),
            ("local all +g trust", "+ROLE: who is a member of a role is known to the server alone"),
            ("local samerole all trust", "samerole, samegroup and +ROLE: who is a member"),
            ("local samegroup all trust", "samerole, samegroup and +ROLE: who is a member"),
            ("local /(?i)x all trust", "not supported here"),
            ("local all all scram-sha-256 clientcert=verify-full", "unknown option of this rule"),
        ];
        let lines: Vec<&str> = bad.iter().map(|(line, _)| *line).collect();
        let (hba, errors) = read_text(&lines.join("\n"));
        assert_eq!(hba.rules, []);
        assert_eq!(errors.len(), bad.len(), "{errors:#?}");
        for (n, (line, why)) in bad.iter().enumerate() {
            let place = format!("hba:{}: ", n + 1);
            assert!(
                errors.iter().any(|e| e.contains(&place) && e.contains(why)),
                "{line}: {place} {why}: {errors:#?}"
            );
        }
    }
}
