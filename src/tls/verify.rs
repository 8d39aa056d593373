//! Whether a peer's certificate is accepted: as libpq and PostgreSQL decide it (PostgreSQL documentation, 32.19.1
//! Client Verification of Server Certificates, 18.9 Secure TCP/IP Connections with SSL), and OpenSSL for them.
//!
//! A chain must end at a self-signed certificate of the CA file, and a leaf that is itself in that file is one
//! such chain. Certificates of version 1 are accepted, as a leaf, and as a CA where they are self-signed. A name
//! is looked for among the alternative names of its kind, and in the CN only where there is none of that kind.
//!
//! What OpenSSL may accept and stays refused here: signatures by SHA-1 or MD5, RSA keys under 2048 bits, ECDSA
//! curves other than P-256 and P-384, Ed448, DSA, and CAs with name constraints.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};

use super::x509::{AltName, Certificate, Purpose};

/// Certificates that a chain may have beside its leaf, and signatures that are computed for one chain; so many
/// that no real one meets the limit.
const MAX_CHAIN: usize = 10;
const MAX_SIGNATURES: usize = 32;

/// Why a certificate was refused, where rustls has no word for it.
#[derive(Debug)]
struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(why: &'static str) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(Refused(why))))
}

/// Looks for a way from the leaf to a root.
struct Search<'a> {
    roots: &'a [Certificate<'a>],
    shown: &'a [Certificate<'a>],
    algorithms: &'a WebPkiSupportedAlgorithms,
    purpose: Purpose,
    now: i64,
    signatures_left: usize,
    /// The most telling reason so far.
    why: CertificateError,
}

impl Search<'_> {
    fn is_current(&mut self, c: &Certificate<'_>) -> bool {
        if self.now < c.not_before() {
            self.why = CertificateError::NotValidYet;
        } else if self.now > c.not_after() {
            self.why = CertificateError::Expired;
        } else if c.has_unknown_limits() {
            self.why =
                refused("a certificate has name constraints or a critical extension that is not known");
        } else {
            return true;
        }
        false
    }

    /// `below` certificates lie between this one and the leaf's issuer.
    fn leads_to_root(&mut self, c: &Certificate<'_>, below: usize) -> bool {
        if c.is_self_issued() && self.roots.iter().any(|r| r.der() == c.der()) {
            return true;
        }
        if below > MAX_CHAIN {
            return false;
        }
        let trusted = self.roots.iter().map(|r| (r, true));
        for (issuer, is_root) in trusted.chain(self.shown.iter().map(|s| (s, false))) {
            if !c.is_issued_by(issuer) || issuer.der() == c.der() {
                continue;
            }
            if !self.is_current(issuer) {
                continue;
            }
            if !issuer.fits_as_ca(self.purpose, below) {
                self.why = refused("a certificate was signed by one that is no CA for this use");
                continue;
            }
            let Some(left) = self.signatures_left.checked_sub(1) else { return false };
            self.signatures_left = left;
            if !c.is_signed_by(issuer, self.algorithms.all) {
                self.why = refused("a signature is wrong, or by an algorithm that is not trusted");
                continue;
            }
            let end = is_root && issuer.is_self_issued();
            // A self-issued one is not counted (RFC 5280, 4.2.1.9).
            if end || self.leads_to_root(issuer, below + usize::from(!issuer.is_self_issued())) {
                return true;
            }
        }
        false
    }
}

fn verify_chain(
    leaf: &Certificate<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[Vec<u8>],
    algorithms: &WebPkiSupportedAlgorithms,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let roots: Vec<Certificate<'_>> = roots.iter().filter_map(|r| Certificate::parse(r).ok()).collect();
    // One that cannot be read only matters if it would have been needed.
    let shown: Vec<Certificate<'_>> =
        intermediates.iter().take(MAX_CHAIN).filter_map(|i| Certificate::parse(i).ok()).collect();
    let mut search = Search {
        roots: &roots,
        shown: &shown,
        algorithms,
        purpose,
        now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        signatures_left: MAX_SIGNATURES,
        why: CertificateError::UnknownIssuer,
    };
    if !search.is_current(leaf) {
        return Err(search.why);
    }
    if !leaf.fits_as_leaf(purpose) {
        return Err(CertificateError::InvalidPurpose);
    }
    if search.leads_to_root(leaf, 0) { Ok(()) } else { Err(search.why) }
}

/// Whether the certificate is for this host, as libpq decides it.
pub(super) fn is_for(certificate: &Certificate<'_>, host: &str) -> bool {
    let ip: Option<IpAddr> = host.parse().ok();
    let mut of_this_kind = false;
    for name in certificate.alt_names().unwrap_or_default() {
        match name {
            AltName::Dns(pattern) => {
                of_this_kind |= ip.is_none();
                if matches_name(&pattern, host) {
                    return true;
                }
            }
            AltName::Ip(bytes) => {
                of_this_kind |= ip.is_some();
                let same = match ip {
                    Some(IpAddr::V4(a)) => a.octets().as_slice() == bytes,
                    Some(IpAddr::V6(a)) => a.octets().as_slice() == bytes,
                    None => false,
                };
                if same {
                    return true;
                }
            }
            AltName::Other => {}
        }
    }
    !of_this_kind && certificate.common_name().is_some_and(|cn| matches_name(&cn, host))
}

/// Whatever the case; `*` stands for one whole label at the beginning.
fn matches_name(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix('*').filter(|s| s.starts_with('.') && s.len() > 1) else {
        return false;
    };
    match host.split_once('.') {
        Some((label, _)) if !label.is_empty() => {
            host.get(label.len()..).is_some_and(|rest| rest.eq_ignore_ascii_case(suffix))
        }
        _ => false,
    }
}

fn handshake_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    tls13: bool,
) -> Result<HandshakeSignatureValid, Error> {
    let of_scheme = algorithms.mapping.iter().find(|(s, _)| *s == signed.scheme).map(|(_, a)| *a);
    let Some(of_scheme) = of_scheme else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    // RFC 8446, 4.2.3: of PKCS #1 v1.5 there are certificates alone.
    let pkcs1 = [
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512,
    ];
    if tls13 && pkcs1.contains(&signed.scheme) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    // In TLS 1.3 the scheme names the curve, too; the first of the list is the one.
    let of_scheme = if tls13 { of_scheme.get(..1).unwrap_or_default() } else { of_scheme };
    let parsed = Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
    if parsed.has_signed(message, signed.signature(), of_scheme) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            handshake_signature(&self.algorithms, message, cert, dss, false)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            handshake_signature(&self.algorithms, message, cert, dss, true)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Of servers, by Howdah.
#[derive(Debug)]
pub struct OfServers {
    roots: Arc<Vec<Vec<u8>>>,
    names: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OfServers {
    /// Without roots nothing is verified; with `names` the certificate must be for the host, too.
    pub fn new(roots: Arc<Vec<Vec<u8>>>, names: bool) -> Self {
        Self { roots, names, algorithms: default_provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.roots.is_empty() && !self.names {
            return Ok(ServerCertVerified::assertion());
        }
        let leaf = Certificate::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        verify_chain(&leaf, intermediates, &self.roots, &self.algorithms, Purpose::Server, now)?;
        if self.names && !is_for(&leaf, &server_name.to_str()) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Of clients, by Howdah.
#[derive(Debug)]
pub struct OfClients {
    roots: Arc<Vec<Vec<u8>>>,
    mandatory: bool,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OfClients {
    pub fn new(roots: Arc<Vec<Vec<u8>>>, mandatory: bool) -> Self {
        let parsed = roots.iter().filter_map(|r| Certificate::parse(r).ok());
        let hints = parsed.map(|c| DistinguishedName::from(c.subject().to_vec())).collect();
        Self { roots, mandatory, hints, algorithms: default_provider().signature_verification_algorithms }
    }
}

impl ClientCertVerifier for OfClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = Certificate::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        verify_chain(&leaf, intermediates, &self.roots, &self.algorithms, Purpose::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

#[cfg(test)]
mod tests {
    use super::matches_name;

    #[test]
    fn names_match_as_libpq_has_it() {
        for (pattern, host, expected) in [
            ("db.example.com", "db.example.com", true),
            ("DB.example.COM", "db.EXAMPLE.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("d*.example.com", "db.example.com", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("db.example.com", "db.example.com.evil.org", false),
            ("db.example.com\0.evil.org", "db.example.com", false),
            ("", "db", false),
        ] {
            assert_eq!(matches_name(pattern, host), expected, "{pattern} {host}");
        }
    }
}
