//! Who may ask what. Where only this machine can ask, and no token is set, everything is answered. Elsewhere metrics
//! and health are open, and all that tells of statements, clients and addresses needs the token.

use base64::Engine;
use hyper::header::{AUTHORIZATION, HeaderMap};
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
