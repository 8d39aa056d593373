//! Certificates, keys, protocols and cipher suites, read and checked.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{ALL_CIPHER_SUITES, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest, Sha256};

use super::x509::Certificate;

/// What the settings of one side name, the files as they were read.
#[derive(Debug, Default)]
pub struct Files<'a> {
    /// The certificate, with the intermediate ones that lead to its root behind it.
    pub cert: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    pub ca: Option<&'a [u8]>,
    /// `tlsv1.2`, `tlsv1.3`; `secure` and `default` are both of them. None is both.
    pub protocols: &'a [String],
    /// Names of OpenSSL or IANA; `default`, or none, are all that rustls has.
    pub ciphers: &'a [String],
}

/// All that was read, ready for use.
#[derive(Clone)]
pub struct Material {
    pub(super) key: Option<Arc<SingleCertAndKey>>,
    pub(super) roots: Arc<Vec<Vec<u8>>>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    ciphers: Vec<SupportedCipherSuite>,
    /// The end of the own certificate's validity and of the first CA certificate's to end, in seconds since 1970.
    pub not_after: Option<i64>,
    pub ca_not_after: Option<i64>,
    /// The own certificate.
    pub certificate: Option<Vec<u8>>,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Material({} CA certificates, own valid to {:?})", self.roots.len(), self.not_after)
    }
}

impl PartialEq for Material {
    /// Whether it was made of the same files and words.
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// A problem, with the end of the setting's name that it is about.
type Problem = (&'static str, String);

impl Material {
    /// Reads everything, or tells every problem.
    pub(super) fn read(files: &Files<'_>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut take = |r: Result<(), Problem>| {
            if let Err(p) = r {
                problems.push(p);
            }
        };
        let mut roots = Vec::new();
        let mut ca_not_after = None;
        take(read_roots(files.ca, &mut roots, &mut ca_not_after));
        let mut own = None;
        take(read_own(files, &mut own));
        let mut versions = Vec::new();
        take(read_versions(files.protocols, &mut versions));
        let mut ciphers = Vec::new();
        take(read_ciphers(files.ciphers, &mut ciphers));
        if problems.is_empty()
            && let Some(bare) = versions.iter().find(|v| ciphers.iter().all(|c| c.version() != **v))
        {
            let why = format!("none of them is of {:?}, which the protocols allow", bare.version);
            problems.push(("ciphers", why));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let (key, not_after, certificate) = match own {
            Some(Own { key, not_after, certificate }) => (Some(key), Some(not_after), Some(certificate)),
            None => (None, None, None),
        };
        let fingerprint = fingerprint(files);
        let roots = Arc::new(roots);
        Ok(Self { key, roots, versions, ciphers, not_after, ca_not_after, certificate, fingerprint })
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { cipher_suites: self.ciphers.clone(), ..default_provider() })
    }
}

fn fingerprint(files: &Files<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [files.cert, files.key, files.ca] {
        let part = part.unwrap_or_default();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    for word in files.protocols.iter().chain([&String::from("/")]).chain(files.ciphers) {
        hash.update(word);
        hash.update([0]);
    }
    hash.finalize().into()
}

fn certificates(pem: &[u8], of: &'static str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    // Not the parser's own words, which show the line: the file may be any.
    let all = read.map_err(|e| (of, format!("is not PEM: {}", pem_fault(&e))))?;
    if all.is_empty() {
        return Err((of, "has no certificate in it (no BEGIN CERTIFICATE)".to_owned()));
    }
    Ok(all)
}

fn pem_fault(e: &pem::Error) -> &'static str {
    match e {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is not base64",
        _ => "it cannot be read as such",
    }
}

fn read_roots(
    pem: Option<&[u8]>,
    roots: &mut Vec<Vec<u8>>,
    not_after: &mut Option<i64>,
) -> Result<(), Problem> {
    let Some(pem) = pem else { return Ok(()) };
    for (i, der) in certificates(pem, "ca")?.iter().enumerate() {
        let parsed =
            Certificate::parse(der).map_err(|e| ("ca", format!("certificate {} of it: {e}", i + 1)))?;
        let end = parsed.not_after();
        *not_after = Some(not_after.map_or(end, |n| n.min(end)));
        roots.push(der.to_vec());
    }
    Ok(())
}

struct Own {
    key: Arc<SingleCertAndKey>,
    not_after: i64,
    certificate: Vec<u8>,
}

fn read_own(files: &Files<'_>, own: &mut Option<Own>) -> Result<(), Problem> {
    let (cert, key) = match (files.cert, files.key) {
        (None, None) => return Ok(()),
        (Some(_), None) => return Err(("key", "is missing; the certificate needs its key".to_owned())),
        (None, Some(_)) => return Err(("cert", "is missing; the key needs its certificate".to_owned())),
        (Some(c), Some(k)) => (c, k),
    };
    let chain = certificates(cert, "cert")?;
    let Some(leaf) = chain.first().cloned() else { return Ok(()) };
    let parsed = Certificate::parse(&leaf).map_err(|e| ("cert", e))?;
    if memchr::memmem::find(key, b"ENCRYPTED").is_some() {
        return Err(("key", "is encrypted; a key without a passphrase is needed".to_owned()));
    }
    // Never the parser's own words: there is a key in that file.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| ("key", "has no private key in it (PKCS#8, PKCS#1 or SEC1, in PEM)".to_owned()))?;
    let key = default_provider().key_provider.load_private_key(key).map_err(|_| {
        ("key", "is of no usable type (RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519)".to_owned())
    })?;
    if key.public_key().is_some_and(|k| *k != *parsed.public_key_info()) {
        return Err(("key", "does not belong to the certificate".to_owned()));
    }
    *own = Some(Own {
        not_after: parsed.not_after(),
        certificate: leaf.to_vec(),
        key: Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))),
    });
    Ok(())
}

fn read_versions(
    words: &[String],
    versions: &mut Vec<&'static SupportedProtocolVersion>,
) -> Result<(), Problem> {
    let both = [&rustls::version::TLS12, &rustls::version::TLS13];
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => versions.push(both[0]),
            "tlsv1.3" => versions.push(both[1]),
            "secure" | "default" => versions.extend(both),
            _ => {
                let why =
                    format!("\"{}\" is not among tlsv1.2, tlsv1.3 and secure (both)", word.escape_debug());
                return Err(("protocols", why));
            }
        }
    }
    if versions.is_empty() {
        versions.extend(both);
    }
    Ok(())
}

/// OpenSSL's names of the suites of TLS 1.2; those of 1.3 are IANA's.
const OPENSSL: &[(&str, &str)] = &[
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// What OpenSSL, and so PgBouncer, calls a suite that rustls calls so.
pub(super) fn openssl_name(suite: &str) -> String {
    match OPENSSL.iter().find(|(_, iana)| *iana == suite) {
        Some((openssl, _)) => (*openssl).to_owned(),
        None => suite.replacen("TLS13_", "TLS_", 1),
    }
}

fn read_ciphers(words: &[String], ciphers: &mut Vec<SupportedCipherSuite>) -> Result<(), Problem> {
    for word in words {
        if matches!(word.as_str(), "default" | "secure") {
            ciphers.extend(ALL_CIPHER_SUITES);
            continue;
        }
        let iana = OPENSSL.iter().find(|(o, _)| o == word).map_or(word.as_str(), |(_, i)| *i);
        // rustls writes TLS13_ for what everybody else calls TLS_.
        let same = |s: &&SupportedCipherSuite| {
            let name = s.suite().as_str().unwrap_or_default();
            name == iana || name.strip_prefix("TLS13_").is_some_and(|n| iana.strip_prefix("TLS_") == Some(n))
        };
        match ALL_CIPHER_SUITES.iter().find(same) {
            Some(s) => ciphers.push(*s),
            None => {
                let known: Vec<&str> = OPENSSL.iter().map(|(o, _)| *o).collect();
                let why = format!(
                    "\"{}\" is not among default, TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, \
                     TLS_CHACHA20_POLY1305_SHA256, {}",
                    word.escape_debug(),
                    known.join(", ")
                );
                return Err(("ciphers", why));
            }
        }
    }
    if ciphers.is_empty() {
        ciphers.extend(ALL_CIPHER_SUITES);
    }
    Ok(())
}
