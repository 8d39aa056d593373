//! The options of the method `ldap`, as pg_hba.conf states them (PostgreSQL documentation, 21.10): who is asked, and
//! how a user's name becomes an entry of the directory.

use std::sync::Arc;

use super::access::needs_feature;
use super::hba::unknown;
use super::hidden::Hidden;

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    Base,
    One,
    #[default]
    Sub,
}

/// Who searches, where anonymous visitors may not.
#[derive(Clone, PartialEq, Eq)]
pub struct Searcher {
    pub dn: String,
    pub password: Hidden,
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Searcher({})", self.dn)
    }
}

/// How the user's entry is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `prefix user suffix`.
    Named { prefix: String, suffix: String },
    /// By a search below `base`; `filter` has `$username` in it.
    Searched { base: String, scope: Scope, filter: String, searcher: Option<Searcher> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ldap {
    /// Asked in this order: `ldap://host:port`.
    pub urls: Vec<String>,
    pub start_tls: bool,
    pub entry: Entry,
}

impl Ldap {
    /// The options of a rule or of the one method for all; refused where nothing could be asked.
    pub(super) fn usable(options: &[(String, String)]) -> Result<Arc<Self>, String> {
        needs_feature("ldap", cfg!(feature = "ldap"))?;
        Self::read(options.iter().map(|(n, v)| (n.as_str(), v.as_str()))).map(Arc::new)
    }

    /// Reads `name=value` options, in their order.
    fn read<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut o = Options::default();
        for (name, value) in options {
            o.set(name, value)?;
        }
        o.finish()
    }

    /// `None` for a name that could change what is asked.
    pub fn name(&self, user: &str) -> Option<String> {
        let safe = !user.is_empty() && !user.chars().any(|c| "*()\\/\0".contains(c));
        safe.then(|| match &self.entry {
            Entry::Named { prefix, suffix } => format!("{prefix}{user}{suffix}"),
            Entry::Searched { filter, .. } => filter.replace("$username", user),
        })
    }
}

const OPTIONS: &[&str] = &[
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapurl",
];

#[derive(Default)]
struct Options {
    servers: Vec<String>,
    port: Option<u16>,
    ldaps: bool,
    start_tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<Hidden>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Scope,
}

impl Options {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "ldapserver" => self.servers = value.split_whitespace().map(str::to_owned).collect(),
            "ldapport" => {
                let port = value.parse().ok().filter(|p| *p > 0);
                self.port = Some(port.ok_or("invalid LDAP port number: expected 1 to 65535")?);
            }
            "ldapscheme" => {
                self.ldaps = match value {
                    "ldap" => false,
                    "ldaps" => true,
                    _ => return Err("invalid ldapscheme value: expected ldap or ldaps".to_owned()),
                }
            }
            "ldaptls" => self.start_tls = value == "1",
            "ldapprefix" => self.prefix = Some(value.to_owned()),
            "ldapsuffix" => self.suffix = Some(value.to_owned()),
            "ldapbasedn" => self.base = Some(value.to_owned()),
            "ldapbinddn" => self.bind_dn = Some(value.to_owned()),
            "ldapbindpasswd" => self.bind_password = Some(value.into()),
            "ldapsearchattribute" => self.attribute = Some(value.to_owned()),
            "ldapsearchfilter" => self.filter = Some(value.to_owned()),
            "ldapurl" => self.url(value)?,
            _ => return Err(unknown("option of LDAP", name, OPTIONS)),
        }
        Ok(())
    }

    /// `ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]` (RFC 4516).
    fn url(&mut self, url: &str) -> Result<(), String> {
        let bad = || "could not parse the LDAP URL: expected ldap://host:port/basedn?attribute?scope?filter";
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        self.ldaps = match scheme {
            "ldap" => false,
            "ldaps" => true,
            _ => return Err("unsupported scheme of the LDAP URL: expected ldap or ldaps".to_owned()),
        };
        let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (host, None),
        };
        self.servers = vec![host.to_owned()].into_iter().filter(|h| !h.is_empty()).collect();
        if let Some(port) = port {
            self.set("ldapport", port)?;
        }
        let mut parts = rest.splitn(4, '?');
        let mut part = || parts.next().map(unescape).filter(|p| !p.is_empty());
        self.base = part().or(self.base.take());
        if let Some(attribute) = part() {
            self.attribute = Some(attribute.split(',').next().unwrap_or_default().to_owned());
        }
        self.scope = match part().as_deref() {
            None | Some("base") => Scope::Base,
            Some("one") => Scope::One,
            Some("sub") => Scope::Sub,
            Some(_) => return Err(bad().to_owned()),
        };
        self.filter = part().or(self.filter.take());
        Ok(())
    }

    fn finish(self) -> Result<Ldap, String> {
        let named = self.prefix.is_some() || self.suffix.is_some();
        let searched = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        if self.servers.is_empty() {
            return Err("ldap needs ldapserver or ldapurl: servers are not looked up in DNS".to_owned());
        }
        let entry = match (named, searched, self.base) {
            (true, true, _) => {
                return Err("cannot mix options for simple bind and search+bind modes".to_owned());
            }
            (true, false, _) => Entry::Named {
                prefix: self.prefix.unwrap_or_default(),
                suffix: self.suffix.unwrap_or_default(),
            },
            (false, _, Some(base)) => {
                let filter = match (self.filter, self.attribute) {
                    (Some(_), Some(_)) => {
                        return Err(
                            "cannot use ldapsearchattribute together with ldapsearchfilter".to_owned()
                        );
                    }
                    (Some(f), None) if f.starts_with('(') => f,
                    (Some(f), None) => format!("({f})"),
                    (None, attribute) => format!("({}=$username)", attribute.as_deref().unwrap_or("uid")),
                };
                let searcher = self
                    .bind_dn
                    .map(|dn| Searcher { dn, password: self.bind_password.clone().unwrap_or_default() });
                Entry::Searched { base, scope: self.scope, filter, searcher }
            }
            (false, _, None) => {
                return Err("ldap needs ldapprefix, ldapsuffix or ldapbasedn".to_owned());
            }
        };
        let scheme = if self.ldaps { "ldaps" } else { "ldap" };
        let port = self.port.unwrap_or(if self.ldaps { 636 } else { 389 });
        let urls = self.servers.iter().map(|host| format!("{scheme}://{host}:{port}")).collect();
        Ok(Ldap { urls, start_tls: self.start_tls, entry })
    }
}

/// Percent signs of a URL.
fn unescape(part: &str) -> String {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Splits `name=value name="value with blanks"`, as `auth_ldap_options` states them.
pub fn options(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(found);
        }
        let (mut word, mut open) = (String::new(), false);
        while let Some(c) = chars.next_if(|c| open || !c.is_whitespace()) {
            match c {
                '"' => open = !open,
                c => word.push(c),
            }
        }
        if open {
            return Err("a quote that is not closed".to_owned());
        }
        match word.split_once('=') {
            Some((name, value)) => found.push((name.to_owned(), value.to_owned())),
            // Not the word: it may be what follows a blank in a password.
            None => return Err("a word that is not NAME=VALUE".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Ldap, String> {
        let all = options(text)?;
        Ldap::read(all.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }

    #[test]
    fn a_name_is_put_between_prefix_and_suffix() {
        let l = read(r#"ldapserver="one two" ldapprefix="uid=" ldapsuffix=",dc=example,dc=net" ldaptls=1"#)
            .unwrap();
        assert_eq!(l.urls, ["ldap://one:389", "ldap://two:389"]);
        assert!(l.start_tls);
        assert_eq!(l.name("alice").as_deref(), Some("uid=alice,dc=example,dc=net"));
        for bad in ["", "a*", "a)", "a(", "a\\", "a/b"] {
            assert_eq!(l.name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_url_says_all_of_a_search() {
        let l =
            read(r#"ldapurl="ldaps://h:7/dc=a%20b,dc=c??sub?(|(uid=$username)(mail=$username))""#).unwrap();
        assert_eq!(l.urls, ["ldaps://h:7"]);
        assert_eq!(l.name("u").as_deref(), Some("(|(uid=u)(mail=u))"));
        let Entry::Searched { base, scope, searcher, .. } = &l.entry else { panic!("{l:?}") };
        assert_eq!((base.as_str(), *scope, searcher), ("dc=a b,dc=c", Scope::Sub, &None));
        let l = read("ldapurl=ldap://h/dc=c?cn?one").unwrap();
        assert_eq!((l.urls[0].as_str(), l.name("u").as_deref()), ("ldap://h:389", Some("(cn=u)")));
        let l = read("ldapserver=h ldapbasedn=dc=c ldapbinddn=cn=x ldapbindpasswd=secret").unwrap();
        assert_eq!(l.name("u").as_deref(), Some("(uid=u)"));
        assert!(!format!("{l:?}").contains("secret"));
        assert_eq!(
            read("ldapserver=h ldapbasedn=d ldapsearchfilter=uid=$username").unwrap().name("u").as_deref(),
            Some("(uid=u)")
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for bad in [
            "ldapprefix=a",
            "ldapserver=h",
            "ldapserver=h ldapprefix=a ldapbasedn=b",
            "ldapserver=h ldapbasedn=b ldapsearchattribute=c ldapsearchfilter=d",
            "ldapserver=h ldapprefix=a ldapport=0",
            "ldapserver=h ldapprefix=a ldapscheme=http",
            "ldapurl=http://h/x",
            "ldapserver=h ldapfoo=1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(options("a").is_err() && options("a=\"").is_err());
    }
}
