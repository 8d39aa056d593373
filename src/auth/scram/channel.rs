//! Channel binding by `tls-server-end-point` (RFC 5802, section 6; RFC 5929): proof that both ends of a login see the
//! same certificate, so that nobody sits between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How gs2-header begins where the channel is bound.
const BOUND: &str = "p=tls-server-end-point";

/// What the server of a login can bind to, and which mechanism its client chose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The hash of the own certificate; with it, `SCRAM-SHA-256-PLUS` was on offer.
    pub end_point: Option<Vec<u8>>,
    /// The client chose `SCRAM-SHA-256-PLUS`.
    pub plus: bool,
}

impl Offer {
    /// What `c=` must repeat after this gs2-header, in base64; an error where the header does not fit the choice.
    pub(super) fn expected(&self, flag: &str, header: &str) -> Result<String, &'static str> {
        match (flag, self.plus, &self.end_point) {
            ("n", false, _) | ("y", false, None) => Ok(STANDARD.encode(header)),
            // Somebody has taken our offer out of the list.
            ("y", false, Some(_)) => {
                Err("the client supports channel binding but believes that it was not offered; it was")
            }
            (BOUND, true, Some(hash)) => Ok(STANDARD.encode([header.as_bytes(), hash].concat())),
            ("n" | "y", true, _) => {
                Err("client selected SCRAM-SHA-256-PLUS, but its message has no channel binding data")
            }
            (flag, true, _) if flag.starts_with("p=") => Err("unsupported SCRAM channel-binding type"),
            (flag, false, _) if flag.starts_with("p=") => {
                Err("client requires SCRAM channel binding, but has not selected it")
            }
            _ => Err("unexpected channel-binding flag"),
        }
    }
}

/// What the client of a login does about the channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Binding {
    /// There is no TLS, or it is not wanted.
    #[default]
    None,
    /// It could, and the server does not offer it: a server that does takes this for an attack.
    NotOffered,
    /// To the certificate with this hash.
    EndPoint(Vec<u8>),
}

impl Binding {
    pub(super) fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// The value of `c=`.
    pub(super) fn value(&self) -> String {
        match self {
            Self::EndPoint(hash) => STANDARD.encode([self.header().as_bytes(), hash].concat()),
            Self::None | Self::NotOffered => STANDARD.encode(self.header()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_where_they_see_the_same_certificate_and_only_there() {
        let offer = |end_point: Option<&[u8]>, plus| Offer { end_point: end_point.map(<[u8]>::to_vec), plus };
        let agree = |o: &Offer, b: &Binding| {
            let flag = b.header().split(',').next().unwrap_or_default();
            o.expected(flag, b.header()).map(|c| c == b.value())
        };
        let bound = Binding::EndPoint(b"hash".to_vec());
        assert_eq!(agree(&offer(Some(b"hash"), true), &bound), Ok(true));
        assert_eq!(agree(&offer(Some(b"other"), true), &bound), Ok(false));
        assert_eq!(agree(&offer(Some(b"hash"), false), &Binding::None), Ok(true));
        assert_eq!(agree(&offer(None, false), &Binding::NotOffered), Ok(true));
        assert!(agree(&offer(Some(b"hash"), false), &Binding::NotOffered).is_err(), "a downgrade");
        assert!(agree(&offer(Some(b"hash"), false), &bound).is_err());
        assert!(agree(&offer(None, false), &bound).is_err());
        for flag in ["n", "y", "p=tls-unique", "x", ""] {
            assert!(offer(Some(b"hash"), true).expected(flag, "h").is_err(), "{flag}");
        }
    }
}
