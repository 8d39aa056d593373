//! Which rule lets a client in, and how: the first line of `pg_hba.conf` that fits decides, or the one method for
//! all.

use std::net::IpAddr;

use crate::config::hba::{Address, ClientCert, Hba, Kind, Name, Rule};
use crate::config::ident::Ident;
use crate::config::resolved::AuthMethod;

/// What is known of a client before anybody asks it for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller<'a> {
    /// `None` is the Unix socket.
    pub address: Option<IpAddr>,
    pub tls: bool,
    pub user: &'a str,
    pub database: &'a str,
    /// To no database.
    pub physical_replication: bool,
    /// This machine's addresses and their masks, where a rule goes by them.
    pub interfaces: &'a [(IpAddr, IpAddr)],
}

/// The first rule that fits.
pub fn choose<'h>(hba: &'h Hba, caller: &Caller<'_>) -> Option<&'h Rule> {
    hba.rules.iter().find(|r| fits(r, caller))
}

fn fits(rule: &Rule, c: &Caller<'_>) -> bool {
    let kind = match (rule.kind, c.address) {
        (Kind::Local, address) => address.is_none(),
        (_, None) => false,
        (Kind::Host, Some(_)) => true,
        (Kind::HostSsl, Some(_)) => c.tls,
        (Kind::HostNoSsl, Some(_)) => !c.tls,
    };
    let database = |n: &Name| match n {
        Name::Replication => c.physical_replication,
        _ if c.physical_replication => false,
        Name::All => true,
        Name::SameUser => c.database == c.user,
        Name::Exact(name) => name == c.database,
        Name::Fits(pattern) => pattern.fits(c.database),
    };
    let user = |n: &Name| match n {
        Name::All => true,
        Name::Exact(name) => name == c.user,
        Name::Fits(pattern) => pattern.fits(c.user),
        Name::SameUser | Name::Replication => false,
    };
    kind && c.address.is_none_or(|a| contains(rule.address, a, c.interfaces))
        && rule.databases.iter().any(database)
        && rule.users.iter().any(user)
}

fn contains(network: Address, ip: IpAddr, interfaces: &[(IpAddr, IpAddr)]) -> bool {
    let ip = ip.to_canonical();
    match (network, ip) {
        (Address::Any, _) => true,
        (Address::SameHost, _) => interfaces.iter().any(|(own, _)| *own == ip),
        (Address::SameNet, _) => interfaces.iter().any(|(own, mask)| beside(*own, *mask, ip)),
        (Address::V4(net, mask), IpAddr::V4(ip)) => ip.to_bits() & mask == net,
        (Address::V6(net, mask), IpAddr::V6(ip)) => ip.to_bits() & mask == net,
        (Address::V4(..), IpAddr::V6(_)) | (Address::V6(..), IpAddr::V4(_)) => false,
    }
}

/// Whether both addresses are in one network with this mask.
fn beside(own: IpAddr, mask: IpAddr, ip: IpAddr) -> bool {
    match (own, mask, ip) {
        (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(ip)) => {
            (own.to_bits() ^ ip.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(ip)) => {
            (own.to_bits() ^ ip.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

/// Who the outside says that a client is, besides what it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The system's user at the other end of the Unix socket.
    pub system_user: Option<String>,
    /// It has shown a certificate, and that was verified.
    pub certified: bool,
    /// Of that certificate, where they can be read.
    pub common_name: Option<String>,
    pub distinguished_name: Option<String>,
}

/// Whether a certificate or the socket's other end proves that the client is this user; `None` where the method is
/// one that asks.
pub fn proved(
    method: AuthMethod,
    rule: Option<&Rule>,
    maps: &Ident,
    who: &Identity,
    user: &str,
) -> Option<bool> {
    let map = rule.and_then(|r| r.map.as_deref());
    let name = match method {
        AuthMethod::Peer => &who.system_user,
        AuthMethod::Cert if rule.is_some_and(|r| r.whole_name) => &who.distinguished_name,
        AuthMethod::Cert => &who.common_name,
        _ => return None,
    };
    Some(name.as_deref().is_some_and(|n| maps.allows(map, n, user)))
}

/// Whether the certificate is as the rule wants it, beside its method.
pub fn certificate_fits(rule: &Rule, who: &Identity, user: &str) -> bool {
    match rule.client_cert {
        // The method itself compares the name, by its map.
        _ if rule.method == AuthMethod::Cert => true,
        ClientCert::NotAsked => true,
        ClientCert::VerifyCa => who.certified,
        ClientCert::VerifyFull if rule.whole_name => who.distinguished_name.as_deref() == Some(user),
        ClientCert::VerifyFull => who.common_name.as_deref() == Some(user),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Kind, databases: Vec<Name>, address: Address) -> Rule {
        Rule {
            place: "hba:1".to_owned(),
            kind,
            databases,
            users: vec![Name::All],
            address,
            method: AuthMethod::Md5,
            map: None,
            whole_name: false,
            client_cert: ClientCert::NotAsked,
            ldap: None,
            pam_service: None,
        }
    }

    #[test]
    fn a_certificate_beside_the_method_is_compared_by_what_the_rule_says() {
        let mut r = rule(Kind::HostSsl, vec![Name::All], Address::Any);
        let who = Identity {
            common_name: Some("u".to_owned()),
            distinguished_name: Some("CN=u,O=evil".to_owned()),
            ..Identity::default()
        };
        r.client_cert = ClientCert::VerifyFull;
        assert!(certificate_fits(&r, &who, "u"));
        r.whole_name = true;
        assert!(!certificate_fits(&r, &who, "u") && certificate_fits(&r, &who, "CN=u,O=evil"));
    }

    /// `cert` asks for that itself, and goes by its map.
    #[test]
    fn verify_full_adds_nothing_to_cert() {
        let mut r = rule(Kind::HostSsl, vec![Name::All], Address::Any);
        r.method = AuthMethod::Cert;
        r.client_cert = ClientCert::VerifyFull;
        let who = Identity { common_name: Some("c".to_owned()), ..Identity::default() };
        assert!(certificate_fits(&r, &who, "u"));
    }

    fn caller(address: Option<&str>, tls: bool) -> Caller<'static> {
        let address = address.map(|a| a.parse().expect("an address"));
        Caller { address, tls, user: "u", database: "d", physical_replication: false, interfaces: &[] }
    }

    #[test]
    fn this_machine_s_own_addresses_and_networks() {
        let pair = |a: &str, m: &str| (a.parse().expect("an address"), m.parse().expect("a mask"));
        let own = [
            pair("127.0.0.1", "255.0.0.0"),
            pair("10.1.2.3", "255.255.255.0"),
            pair("2001:db8::5", "ffff:ffff:ffff:ffff::"),
        ];
        for (from, same_host, same_net) in [
            ("127.0.0.1", true, true),
            ("127.9.9.9", false, true),
            ("10.1.2.3", true, true),
            ("::ffff:10.1.2.3", true, true),
            ("10.1.2.200", false, true),
            ("10.1.3.3", false, false),
            ("2001:db8::5", true, true),
            ("2001:db8::9:9", false, true),
            ("2001:db8:0:1::5", false, false),
        ] {
            for (network, expected) in [(Address::SameHost, same_host), (Address::SameNet, same_net)] {
                let r = rule(Kind::Host, vec![Name::All], network);
                assert_eq!(
                    fits(&r, &Caller { interfaces: &own, ..caller(Some(from), false) }),
                    expected,
                    "{from} {network:?}"
                );
                assert!(!fits(&r, &caller(Some(from), false)), "an unknown one is none");
            }
        }
        let r = rule(
            Kind::Host,
            vec![Name::Fits(crate::config::pattern::Pattern::read("^d|e$").expect("a pattern"))],
            Address::Any,
        );
        assert!(fits(&r, &caller(Some("10.0.0.1"), false)));
        assert!(!fits(&r, &Caller { database: "x", ..caller(Some("10.0.0.1"), false) }));
    }

    #[test]
    fn a_rule_fits_its_kind_network_and_names() {
        let ten = Address::V4(0x0a00_0000, 0xff00_0000);
        for (kind, from, tls, expected) in [
            (Kind::Local, None, false, true),
            (Kind::Local, Some("10.0.0.1"), false, false),
            (Kind::Host, None, false, false),
            (Kind::Host, Some("10.9.9.9"), true, true),
            (Kind::Host, Some("::ffff:10.9.9.9"), false, true),
            (Kind::Host, Some("11.0.0.1"), false, false),
            (Kind::Host, Some("::1"), false, false),
            (Kind::HostSsl, Some("10.0.0.1"), true, true),
            (Kind::HostSsl, Some("10.0.0.1"), false, false),
            (Kind::HostNoSsl, Some("10.0.0.1"), false, true),
            (Kind::HostNoSsl, Some("10.0.0.1"), true, false),
        ] {
            let r = rule(kind, vec![Name::All], ten);
            assert_eq!(fits(&r, &caller(from, tls)), expected, "{kind:?} {from:?} {tls}");
        }
        let named = |n| rule(Kind::Local, vec![n], Address::Any);
        let local = caller(None, false);
        assert!(fits(&named(Name::Exact("d".to_owned())), &local));
        assert!(!fits(&named(Name::Exact("all".to_owned())), &local));
        assert!(!fits(&named(Name::SameUser), &local));
        assert!(fits(&named(Name::SameUser), &Caller { database: "u", ..local }));
        let replica = Caller { physical_replication: true, ..local };
        assert!(fits(&named(Name::Replication), &replica) && !fits(&named(Name::Replication), &local));
        assert!(!fits(&named(Name::All), &replica), "all is every database, and this is to none");
    }

    #[test]
    fn names_of_the_outside_prove_nothing_where_there_are_none() {
        let maps = Ident::default();
        let nobody = Identity::default();
        let me = Identity {
            system_user: Some("u".to_owned()),
            common_name: Some("u".to_owned()),
            ..Identity::default()
        };
        for method in [AuthMethod::Peer, AuthMethod::Cert] {
            assert_eq!(proved(method, None, &maps, &nobody, "u"), Some(false));
            assert_eq!(proved(method, None, &maps, &me, "u"), Some(true));
            assert_eq!(proved(method, None, &maps, &me, "v"), Some(false));
        }
        assert_eq!(proved(AuthMethod::Md5, None, &maps, &me, "u"), None);
    }
}
