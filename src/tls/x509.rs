//! One certificate, read leniently enough for X.509 v1, which private CAs and old tools still make.

use std::fmt::Write as _;

use rustls::pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::asn1_rs::Tag;
use x509_parser::der_parser::oid::Oid;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name, X509Version,
};

pub(super) struct Certificate<'a> {
    parsed: X509Certificate<'a>,
    der: &'a [u8],
}

/// What a certificate says about who may use it for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// An alternative name that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AltName {
    Dns(String),
    Ip(Vec<u8>),
    Other,
}

/// Tag, contents and rest of the first DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        rest = after;
    }
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) => Ok(Self { parsed, der }),
            Ok(_) => Err("a certificate with bytes behind its end".to_owned()),
            Err(_) => Err("a certificate that cannot be read".to_owned()),
        }
    }

    pub(super) fn der(&self) -> &'a [u8] {
        self.der
    }

    pub(super) fn subject(&self) -> &[u8] {
        self.parsed.tbs_certificate.subject.as_raw()
    }

    /// Whether its issuer is called as that certificate's subject. Only names are compared, not keys.
    pub(super) fn is_issued_by(&self, issuer: &Certificate<'_>) -> bool {
        same(&self.parsed.tbs_certificate.issuer, &issuer.parsed.tbs_certificate.subject)
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.is_issued_by(self)
    }

    pub(super) fn is_v1(&self) -> bool {
        self.parsed.tbs_certificate.version == X509Version::V1
    }

    pub(super) fn not_before(&self) -> i64 {
        self.parsed.tbs_certificate.validity.not_before.timestamp()
    }

    pub(super) fn not_after(&self) -> i64 {
        self.parsed.tbs_certificate.validity.not_after.timestamp()
    }

    /// SubjectPublicKeyInfo, whole.
    pub(super) fn public_key_info(&self) -> &'a [u8] {
        self.parsed.tbs_certificate.subject_pki.raw
    }

    /// AlgorithmIdentifier and bits of the public key.
    fn public_key(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (_, info, _) = element(self.public_key_info())?;
        let (_, algorithm, rest) = element(info)?;
        let (_, bits, _) = element(rest)?;
        // The first byte counts unused bits, of which a key has none.
        Some((algorithm, bits.strip_prefix(&[0])?))
    }

    /// What was signed, the AlgorithmIdentifier, and the signature.
    fn signature(&self) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let (_, whole, _) = element(self.der)?;
        let (_, _, rest) = element(whole)?;
        let signed = whole.get(..whole.len() - rest.len())?;
        let (_, algorithm, rest) = element(rest)?;
        let (_, bits, _) = element(rest)?;
        Some((signed, algorithm, bits.strip_prefix(&[0])?))
    }

    /// Whether `issuer`'s key made this certificate's signature, by an algorithm that is still trusted.
    pub(super) fn is_signed_by(
        &self,
        issuer: &Certificate<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let (Some((signed, algorithm, signature)), Some((key_type, key))) =
            (self.signature(), issuer.public_key())
        else {
            return false;
        };
        algorithms.iter().any(|a| {
            is(a.signature_alg_id(), algorithm)
                && is(a.public_key_alg_id(), key_type)
                && a.verify_signature(key, signed, signature).is_ok()
        })
    }

    /// Whether this certificate's key made a signature over `message` by one of the algorithms.
    pub(super) fn has_signed(
        &self,
        message: &[u8],
        signature: &[u8],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let Some((key_type, key)) = self.public_key() else { return false };
        algorithms.iter().any(|a| {
            is(a.public_key_alg_id(), key_type) && a.verify_signature(key, message, signature).is_ok()
        })
    }

    /// Whether a critical extension is not understood. Name constraints are among those, critical or not: a CA
    /// that may not vouch for every name must not be taken for one that may. So is what limits a certificate and
    /// cannot be read, or is stated twice: OpenSSL takes such a certificate for invalid.
    pub(super) fn has_unknown_limits(&self) -> bool {
        let all = self.parsed.extensions();
        let twice = |oid: &Oid<'_>| all.iter().filter(|e| e.oid == *oid).nth(1).is_some();
        all.iter().any(|e| match e.parsed_extension() {
            ParsedExtension::NameConstraints(_) => true,
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::CertificatePolicies(_) => twice(&e.oid),
            ParsedExtension::ParseError { .. } => e.critical || LIMITS.contains(&e.oid),
            _ => e.critical,
        })
    }

    /// Whether it may be shown by a peer of this side.
    pub(super) fn fits_as_leaf(&self, purpose: Purpose) -> bool {
        let usage = self.parsed.key_usage().ok().flatten().is_none_or(|u| match purpose {
            Purpose::Server => {
                u.value.digital_signature() || u.value.key_encipherment() || u.value.key_agreement()
            }
            Purpose::Client => u.value.digital_signature() || u.value.key_agreement(),
        });
        usage && self.fits_purpose(purpose)
    }

    /// ExtendedKeyUsage, which binds CAs, too.
    fn fits_purpose(&self, purpose: Purpose) -> bool {
        self.parsed.extended_key_usage().ok().flatten().is_none_or(|u| match purpose {
            Purpose::Server => u.value.server_auth,
            Purpose::Client => u.value.client_auth,
        })
    }

    /// Whether it may have signed others, `below` of them between it and the leaf. A v1 certificate may only
    /// if it is self-signed.
    pub(super) fn fits_as_ca(&self, purpose: Purpose, below: usize) -> bool {
        if self.is_v1() {
            return self.is_self_issued();
        }
        let usage = self.parsed.key_usage().ok().flatten();
        if usage.as_ref().is_some_and(|u| !u.value.key_cert_sign()) || !self.fits_purpose(purpose) {
            return false;
        }
        match self.parsed.basic_constraints().ok().flatten() {
            Some(b) => b.value.ca && b.value.path_len_constraint.is_none_or(|n| below <= n as usize),
            // As OpenSSL: that it may sign certificates says enough.
            None => usage.is_some(),
        }
    }

    /// The bytes of it, whatever kind of string they are said to be: so libpq and PostgreSQL compare it. A zero byte
    /// in it (a BMPString has many) is left for who compares.
    pub(super) fn common_name(&self) -> Option<String> {
        let first = self.parsed.subject().iter_common_name().next()?;
        std::str::from_utf8(first.as_slice()).ok().map(str::to_owned)
    }

    /// Most specific part first, with the short names of RFC 2253.
    pub(super) fn subject_rfc2253(&self) -> Option<String> {
        let mut parts = Vec::new();
        for rdn in self.parsed.subject().iter() {
            let mut set = Vec::new();
            for attribute in rdn.iter() {
                let oid = attribute.attr_type().to_id_string();
                let name = SHORT.iter().find(|(o, _)| *o == oid).map_or(oid.as_str(), |(_, n)| *n);
                set.push(format!("{name}={}", escaped(attribute.as_str().ok()?)));
            }
            parts.push(set.join("+"));
        }
        parts.reverse();
        Some(parts.join(","))
    }

    /// The names of the extension, or `None` where there is no such extension.
    pub(super) fn alt_names(&self) -> Option<Vec<AltName>> {
        let san = self.parsed.subject_alternative_name().ok().flatten()?;
        let names = san.value.general_names.iter().map(|n| match n {
            GeneralName::DNSName(d) => AltName::Dns((*d).to_owned()),
            GeneralName::IPAddress(a) => AltName::Ip(a.to_vec()),
            _ => AltName::Other,
        });
        Some(names.collect())
    }

    pub(super) fn end_point_hash(&self) -> Option<Vec<u8>> {
        let oid = self.parsed.signature_algorithm.algorithm.to_id_string();
        let oid = if oid == RSA_PSS { self.pss_hash()? } else { oid };
        Some(match oid.as_str() {
            // MD5 and SHA-1 count as SHA-256 (RFC 5929, 4.1).
            "1.2.840.113549.1.1.4"
            | "1.2.840.113549.1.1.5"
            | "1.2.840.10045.4.1"
            | "1.3.14.3.2.26"
            | "1.2.840.113549.1.1.11"
            | "1.2.840.10045.4.3.2"
            | "2.16.840.1.101.3.4.2.1" => Sha256::digest(self.der).to_vec(),
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
                Sha384::digest(self.der).to_vec()
            }
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
                Sha512::digest(self.der).to_vec()
            }
            _ => return None,
        })
    }

    /// The hash of RSA-PSS stands in its parameters, SHA-1 where it does not.
    fn pss_hash(&self) -> Option<String> {
        use x509_parser::signature_algorithm::SignatureAlgorithm;
        match SignatureAlgorithm::try_from(&self.parsed.signature_algorithm).ok()? {
            SignatureAlgorithm::RSASSA_PSS(p) => Some(p.hash_algorithm_oid().to_id_string()),
            _ => None,
        }
    }
}

/// Extensions that say for what and for whom a certificate is.
const LIMITS: [Oid<'static>; 5] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_NAME_CONSTRAINTS,
];

/// Whether two names are one, as OpenSSL has it (`X509_NAME_cmp`): whichever kind of string a part is written as, in
/// upper or lower case, with more or fewer blanks.
fn same(a: &X509Name<'_>, b: &X509Name<'_>) -> bool {
    let parts = |n: &X509Name<'_>| -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let part = |a: &AttributeTypeAndValue<'_>| (a.attr_type().as_bytes().to_vec(), canonical(a));
        n.iter().map(|set| set.iter().map(part).collect()).collect()
    };
    a.as_raw() == b.as_raw() || parts(a) == parts(b)
}

/// A part of a name, its type apart; what is no text is itself, with its tag before it.
fn canonical(part: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let (tag, bytes) = (part.attr_value().tag(), part.as_slice());
    let units =
        |n: &[u8]| n.chunks(2).map(|c| c.iter().fold(0, |u, b| u << 8 | u16::from(*b))).collect::<Vec<_>>();
    let text = match tag {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        }
        // OpenSSL takes it for Latin-1, too.
        Tag::T61String => Some(bytes.iter().map(|b| char::from(*b)).collect()),
        Tag::BmpString if bytes.len().is_multiple_of(2) => String::from_utf16(&units(bytes)).ok(),
        _ => None,
    };
    let Some(text) = text else { return [&tag.0.to_be_bytes()[..], bytes].concat() };
    let words: Vec<&str> = text.split(|c: char| c.is_ascii_whitespace()).filter(|w| !w.is_empty()).collect();
    words.join(" ").to_ascii_lowercase().into_bytes()
}

const RSA_PSS: &str = "1.2.840.113549.1.1.10";

/// Attribute types that RFC 2253 and OpenSSL have short names for.
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// RFC 2253, 2.4, with what is not ASCII as OpenSSL writes it (`XN_FLAG_RFC2253`).
fn escaped(value: &str) -> String {
    let mut out = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (i, c) in value.chars().enumerate() {
        if c.is_control() || !c.is_ascii() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "\\{byte:02X}");
            }
            continue;
        }
        let edge = (c == ' ' && (i == 0 || i == last)) || (c == '#' && i == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn is(known: AlgorithmIdentifier, found: &[u8]) -> bool {
    known.as_ref() == found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `openssl x509 -nameopt RFC2253` writes them.
    #[test]
    fn names_are_escaped_as_openssl_has_it() {
        for (name, written) in [
            ("plain", "plain"),
            ("Müller", "M\\C3\\BCller"),
            ("a\u{7}b", "a\\07b"),
            (" a, b ", "\\ a\\, b\\ "),
            ("#x", "\\#x"),
        ] {
            assert_eq!(escaped(name), written);
        }
    }
}
