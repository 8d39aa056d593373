//! MD5 password authentication (PostgreSQL documentation, 54.2.1, AuthenticationMD5Password):
//! `"md5" || md5(md5(password || user) || salt)`, all in hex.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::config::Hidden;
use crate::config::resolved::Secret;

/// The answer to a salt; `None` from a SCRAM verifier, which does not hold what is needed.
pub fn response(secret: &Secret, user: &str, salt: [u8; 4]) -> Option<Hidden> {
    let inner = inner_hash(secret, user)?;
    let outer = hex(&Md5::new().chain_update(inner.as_bytes()).chain_update(salt).finalize());
    Some(format!("md5{}", outer.as_str()).into())
}

/// Whether `answer` is the right one, in a time that does not depend on its content.
pub fn verify(secret: &Secret, user: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    response(secret, user, salt).is_some_and(|expected| expected.as_bytes().ct_eq(answer).into())
}

/// Whether a clear-text password is the one of an md5 secret.
pub fn verify_plain(secret: &Secret, user: &str, password: &str) -> bool {
    let given = inner_hash(&Secret::Plain(password.into()), user);
    match (inner_hash(secret, user), given) {
        (Some(a), Some(b)) => a.as_bytes().ct_eq(b.as_bytes()).into(),
        _ => false,
    }
}

/// md5(password || user) in lower-case hex.
fn inner_hash(secret: &Secret, user: &str) -> Option<Hidden> {
    match secret {
        Secret::Plain(p) => {
            Some(hex(&Md5::new().chain_update(p.as_bytes()).chain_update(user.as_bytes()).finalize()))
        }
        Secret::Md5(h) => h.strip_prefix("md5").map(|h| h.to_ascii_lowercase().into()),
        Secret::Scram(_) => None,
    }
}

fn hex(bytes: &[u8]) -> Hidden {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |n: u8| DIGITS.get(usize::from(n & 15)).copied().unwrap_or_default();
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(p: &str) -> Secret {
        Secret::classify(p)
    }

    #[test]
    fn known_answer() {
        // PostgreSQL's stored form of role "bob", password "secret": md5('secretbob').
        let stored = inner_hash(&plain("secret"), "bob").unwrap();
        assert_eq!(stored.as_str(), "21f3163f8f86fa10bdefbfbd502a8f06");
        let md5 = Secret::classify(&format!("md5{}", stored.as_str()));
        assert!(matches!(md5, Secret::Md5(_)));
        let a = response(&plain("secret"), "bob", [1, 2, 3, 4]).unwrap();
        assert_eq!(a.as_str(), "md5f21dfe33ff3a9e03dbc3e008251fe5cc");
        assert_eq!(response(&md5, "bob", [1, 2, 3, 4]).unwrap(), a);
        assert!(verify(&md5, "bob", [1, 2, 3, 4], a.as_bytes()));
        assert!(!verify(&md5, "bob", [1, 2, 3, 5], a.as_bytes()));
        assert!(!verify(&md5, "eve", [1, 2, 3, 4], b""));
        assert!(verify_plain(&md5, "bob", "secret"));
        assert!(!verify_plain(&md5, "bob", "Secret"));
        assert_eq!(hex(&Md5::digest(b"")).as_str(), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn upper_case_hex_is_the_same_secret() {
        let h = inner_hash(&plain("p"), "u").unwrap().to_ascii_uppercase();
        assert!(verify_plain(&Secret::classify(&format!("md5{h}")), "u", "p"));
    }

    #[test]
    fn a_scram_verifier_cannot_answer() {
        let s = Secret::classify("SCRAM-SHA-256$4096:c2FsdA==$x:y");
        assert!(response(&s, "u", [0; 4]).is_none());
        assert!(!verify(&s, "u", [0; 4], b"md5"));
    }
}
