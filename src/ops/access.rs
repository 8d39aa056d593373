//! Who may ask what. Where only this machine can ask, and no token is set, everything is answered. Elsewhere metrics
//! and health are open, and all that tells of statements, clients and addresses needs the token.
//!
//! Where everything is answered because only this machine can ask, a browser on it can be made to ask, too: a page lets
//! its own name point to a loopback address (DNS rebinding). Such a request names that page's host, so only requests
//! that name a loopback host, or one of `ops_hosts`, are answered.

use base64::Engine;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use subtle::ConstantTimeEq;

use crate::config::resolved::Secret;

/// What a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Everything,
    /// Metrics and health.
    Open,
    /// The same, and there is no token that would give more.
    Closed,
}

/// `local`: only this machine can ask.
pub(super) fn of(headers: &HeaderMap, token: Option<&Secret>, local: bool) -> Access {
    match token {
        None if local => Access::Everything,
        None => Access::Closed,
        Some(token) if given(headers).is_some_and(|g| same(&g, token)) => Access::Everything,
        Some(_) => Access::Open,
    }
}

/// Whether the host that a request is for is one of this machine's loopback names and addresses, or one of `named`.
pub(super) fn is_for_us(uri: &Uri, headers: &HeaderMap, named: &[String]) -> bool {
    let mut given = headers.get_all(HOST).iter();
    let (first, more) = (given.next(), given.next());
    let authority = match (uri.authority(), first) {
        (Some(a), _) => a.as_str(),
        (None, Some(h)) if more.is_none() => h.to_str().unwrap_or_default(),
        (None, _) => return false,
    };
    let host = without_port(authority);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    address.is_ok_and(|a| a.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
        || named.iter().any(|n| n.eq_ignore_ascii_case(host))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !host_is_bare_v6(host) =>
        {
            host
        }
        _ => authority,
    }
}

/// An address of IPv6 without its brackets has no port behind it.
fn host_is_bare_v6(host: &str) -> bool {
    host.contains(':') && !host.ends_with(']')
}

/// `Bearer TOKEN`; or `Basic` with the token as password, which is what a browser can ask people for.
fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

fn same(given: &[u8], token: &Secret) -> bool {
    let (Secret::Plain(t) | Secret::Md5(t) | Secret::Scram(t)) = token;
    given.ct_eq(t.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_token_must_be_for_this_machine() {
        let named = ["metrics.internal".to_owned()];
        let asks = |uri: &str, host: Option<&str>| {
            let mut h = HeaderMap::new();
            if let Some(host) = host {
                h.insert(HOST, host.parse().unwrap());
            }
            is_for_us(&uri.parse().unwrap(), &h, &named)
        };
        for host in [
            "localhost",
            "LOCALHOST:9127",
            "127.0.0.1",
            "127.0.0.1:9127",
            "127.8.8.8:1",
            "[::1]:9127",
            "[::1]",
            "::1",
            "[::ffff:127.0.0.1]:9127",
            "metrics.internal:9127",
            "Metrics.Internal",
        ] {
            assert!(asks("/stats", Some(host)), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9127",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            ":9127",
            "metrics.internal.evil",
            "evil@localhost",
            "0.0.0.0:9127",
        ] {
            assert!(!asks("/stats", Some(host)), "{host}");
        }
        assert!(!asks("/stats", None));
        assert!(
            !asks("http://evil.example/stats", Some("localhost")),
            "what the request line says comes first"
        );
        assert!(asks("http://localhost/stats", Some("evil.example")));
        let mut twice = HeaderMap::new();
        twice.append(HOST, "localhost".parse().unwrap());
        twice.append(HOST, "evil.example".parse().unwrap());
        assert!(!is_for_us(&"/stats".parse().unwrap(), &twice, &named));
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let token = Secret::Plain("s3cret".to_owned().into());
        let with = |value: &str| {
            let mut h = HeaderMap::new();
            h.insert(AUTHORIZATION, value.parse().unwrap());
            of(&h, Some(&token), true)
        };
        assert_eq!(with("Bearer s3cret"), Access::Everything);
        assert_eq!(with("bearer  s3cret "), Access::Everything);
        assert_eq!(with("Basic eDpzM2NyZXQ="), Access::Everything);
        for wrong in
            ["Bearer s3cre", "Bearer s3cret2", "Bearer", "Basic s3cret", "Basic eDp4", "Digest s3cret"]
        {
            assert_eq!(with(wrong), Access::Open, "{wrong}");
        }
        let nothing = HeaderMap::new();
        assert_eq!(of(&nothing, Some(&token), true), Access::Open);
        assert_eq!(of(&nothing, None, true), Access::Everything);
        assert_eq!(of(&nothing, None, false), Access::Closed);
    }
}
