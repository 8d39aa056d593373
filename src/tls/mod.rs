//! TLS for both sides: certificates and keys from PEM, what is accepted of a peer's certificate, and from both
//! the configurations that rustls runs with. No I/O: files come as bytes, sockets are `net::tls`'s.
//!
//! Certificates are judged as libpq and PostgreSQL judge them, through OpenSSL, and not as browsers do: see
//! [`verify`].

mod material;
pub mod verify;
mod x509;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

pub use material::{Files, Material};

/// What is asked of TLS, with libpq's words; a later one asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    pub const WORDS: &'static [&'static str] =
        &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

    pub fn from_word(word: &str) -> Self {
        match word {
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => Self::Disable,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// The protocol's name in ALPN; direct TLS needs it, so that no other protocol's bytes can be turned on us.
pub const ALPN: &[u8] = b"postgresql";

/// Howdah's side of TLS with its clients.
#[derive(Clone)]
pub struct Acceptor {
    pub mode: Mode,
    config: Arc<ServerConfig>,
    material: Material,
    end_point: Option<Vec<u8>>,
}

impl Acceptor {
    /// The mode may not be `Disable`. With CA certificates a client is asked for a certificate, and one that it
    /// shows must be good; `verify-ca` and `verify-full` insist on one.
    pub fn new(mode: Mode, files: &Files<'_>) -> Result<Self, Vec<(&'static str, String)>> {
        let material = Material::read(files)?;
        let Some(key) = material.key.clone() else {
            return Err(vec![("cert", "is missing; without a certificate there is no TLS".to_owned())]);
        };
        if mode >= Mode::VerifyCa && material.roots.is_empty() {
            return Err(vec![("ca", format!("is missing; {} has nothing to verify with", mode.as_str()))]);
        }
        let provider = material.provider();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&material.versions)
            .map_err(|e| vec![("protocols", e.to_string())])?;
        let builder = if material.roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_verifier(Arc::new(verify::OfClients::new(
                material.roots.clone(),
                mode >= Mode::VerifyCa,
            )))
        };
        let mut config = builder.with_cert_resolver(key);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // libpq resumes no session, and what is kept for one costs memory for each client.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let end_point = material.certificate.as_deref().and_then(end_point_hash);
        Ok(Self { mode, config: Arc::new(config), material, end_point })
    }

    /// The same for HTTP: nobody speaks PostgreSQL there.
    #[must_use]
    pub fn for_http(mut self) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        self
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// What a login can be bound to: see [`end_point_hash`].
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// A new connection of this side.
    pub fn connection(&self) -> Result<rustls::Connection, rustls::Error> {
        rustls::ServerConnection::new(self.config.clone()).map(Into::into)
    }

    pub fn material(&self) -> &Material {
        &self.material
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("mode", &self.mode).field("material", &self.material).finish()
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.material == other.material
    }
}

/// What is wrong with the files of a side, in one line.
pub fn in_one_line(problems: Vec<(&'static str, String)>) -> String {
    problems.into_iter().map(|(what, why)| format!("the {what} {why}")).collect::<Vec<_>>().join("; ")
}

/// Howdah's side of TLS with its servers.
#[derive(Clone)]
pub struct Connector {
    pub mode: Mode,
    /// Begin with TLS at once, without an SSLRequest.
    pub direct: bool,
    config: Arc<ClientConfig>,
    material: Material,
}

impl Connector {
    /// The mode may not be `Disable`. As with libpq, CA certificates are verified with in every mode that has
    /// them; only `verify-full` compares the server's name.
    pub fn new(mode: Mode, direct: bool, files: &Files<'_>) -> Result<Self, Vec<(&'static str, String)>> {
        let material = Material::read(files)?;
        if mode >= Mode::VerifyCa && material.roots.is_empty() {
            return Err(vec![("ca", format!("is missing; {} has nothing to verify with", mode.as_str()))]);
        }
        let verifier = verify::OfServers::new(material.roots.clone(), mode == Mode::VerifyFull);
        let builder = ClientConfig::builder_with_provider(material.provider())
            .with_protocol_versions(&material.versions)
            .map_err(|e| vec![("protocols", e.to_string())])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match material.key.clone() {
            Some(key) => builder.with_client_cert_resolver(key),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { mode, direct, config: Arc::new(config), material })
    }

    /// The same for HTTP: nobody speaks PostgreSQL there.
    #[must_use]
    pub fn for_http(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![b"http/1.1".to_vec()];
        self
    }

    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Whether a server's certificate is verified with a CA, in whatever mode.
    pub fn verifies(&self) -> bool {
        !self.material.roots.is_empty()
    }

    /// A new connection to the server of this name or address.
    pub fn connection(&self, host: &str) -> Result<rustls::Connection, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("\"{}\" is no name that TLS can ask for", host.escape_debug()))?;
        rustls::ClientConnection::new(self.config.clone(), name).map(Into::into).map_err(|e| e.to_string())
    }

    pub fn material(&self) -> &Material {
        &self.material
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("mode", &self.mode)
            .field("direct", &self.direct)
            .field("material", &self.material)
            .finish()
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.direct == other.direct && self.material == other.material
    }
}

/// What a connection agreed on, for logs and `SHOW`: `TLSv1.3/TLS_AES_256_GCM_SHA384`, with OpenSSL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed(rustls::ProtocolVersion, rustls::CipherSuite);

impl Agreed {
    /// Nothing before the end of the handshake.
    pub fn of(c: &rustls::Connection) -> Option<Self> {
        Some(Self(c.protocol_version()?, c.negotiated_cipher_suite()?.suite()))
    }
}

impl std::fmt::Display for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = match self.0 {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        };
        write!(f, "{version}/{}", material::openssl_name(self.1.as_str().unwrap_or("unknown")))
    }
}

/// The common name of a certificate's subject; the first one where there are several, as PostgreSQL has it.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    x509::Certificate::parse(certificate).ok()?.common_name()
}

/// The subject of a certificate as RFC 2253 writes it, as `clientname=DN` of pg_hba.conf compares it.
pub fn distinguished_name(certificate: &[u8]) -> Option<String> {
    x509::Certificate::parse(certificate).ok()?.subject_rfc2253()
}

/// `tls-server-end-point` (RFC 5929): the certificate's hash, by its signature's hash function, or by SHA-256
/// where that is MD5 or SHA-1. `None` where the signature has no hash function of its own (Ed25519).
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    x509::Certificate::parse(certificate).ok()?.end_point_hash()
}
