//! Certificates and keys: their files are read with the configuration, so that a reload reads them again and a
//! broken one leaves the old ones in force.

use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::build::{Builder, shown, source_at};
use super::files::bytes as read_file;
use super::problem::ConfigError;
use super::raw::Table;
use super::resolved::{ChannelBinding, Config};
use crate::tls::{Acceptor, Connector, Files, Mode};

/// TLS of both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    pub client: TlsFiles,
    pub server: TlsFiles,
    /// The ops port's; its mode follows from what is stated.
    pub ops: TlsFiles,
    /// TLS to servers begins without an SSLRequest.
    pub direct: bool,
    /// A server may be sent a password as it is, over TCP without TLS.
    pub cleartext: bool,
    pub binding: ChannelBinding,
    /// `None` where the mode is `disable`.
    pub acceptor: Option<Arc<Acceptor>>,
    pub connector: Option<Arc<Connector>>,
    /// `None` is plain HTTP.
    pub ops_acceptor: Option<Arc<Acceptor>>,
}

/// What one side's settings name.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsFiles {
    pub mode: Mode,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub protocols: Vec<String>,
    pub ciphers: Vec<String>,
}

/// Mode, certificate, key, CA, protocols and ciphers; the end of the key after `client_tls_` or `server_tls_`.
struct Read {
    cert: Option<Zeroizing<Vec<u8>>>,
    key: Option<Zeroizing<Vec<u8>>>,
    ca: Option<Zeroizing<Vec<u8>>>,
}

impl Builder<'_, '_> {
    /// Makes both sides of TLS of what the settings name.
    pub(super) fn tls(&mut self, tree: &Table, config: &mut Config) {
        self.ops_tls(tree, config);
        let client = config.tls.client.clone();
        if let Some(read) = self.tls_files(tree, "client_tls_", &client) {
            match Acceptor::new(client.mode, &files(&read, &client)) {
                Ok(a) => config.tls.acceptor = Some(Arc::new(a)),
                Err(problems) => self.tls_problems(tree, "client_tls_", problems),
            }
        }
        let server = config.tls.server.clone();
        let direct = config.tls.direct;
        if direct && server.mode < Mode::Require {
            let why = "direct needs server_tls_mode to be require, verify-ca or verify-full: there is no plain text to fall back to";
            self.tls_problems(tree, "server_tls_", vec![("negotiation", why.to_owned())]);
        }
        if let Some(read) = self.tls_files(tree, "server_tls_", &server) {
            match Connector::new(server.mode, direct, &files(&read, &server)) {
                Ok(c) => config.tls.connector = Some(Arc::new(c)),
                Err(problems) => self.tls_problems(tree, "server_tls_", problems),
            }
        }
    }

    /// HTTPS for the ops port, where it has a certificate.
    fn ops_tls(&mut self, tree: &Table, config: &mut Config) {
        let mut ops = config.tls.ops.clone();
        ops.protocols = vec!["secure".to_owned()];
        ops.ciphers = vec!["default".to_owned()];
        ops.mode = match (&ops.cert, &ops.key, &ops.ca) {
            (None, None, None) => return,
            (_, _, Some(_)) => Mode::VerifyCa,
            (_, _, None) => Mode::Require,
        };
        config.tls.ops = ops.clone();
        if let Some(read) = self.tls_files(tree, "ops_tls_", &ops) {
            match Acceptor::new(ops.mode, &files(&read, &ops)) {
                Ok(a) => config.tls.ops_acceptor = Some(Arc::new(a.for_http())),
                Err(problems) => self.tls_problems(tree, "ops_tls_", problems),
            }
        }
    }

    fn tls_problems(&mut self, tree: &Table, prefix: &str, problems: Vec<(&'static str, String)>) {
        for (end, why) in problems {
            let key = format!("{prefix}{end}");
            let source = source_at(tree, &[&key], &self.context.whole());
            self.errors.push(ConfigError::new(&source, &key, why));
        }
    }

    /// The files' contents; `None` where TLS is off, or where one cannot be read, which is told.
    fn tls_files(&mut self, tree: &Table, prefix: &str, of: &TlsFiles) -> Option<Read> {
        if of.mode == Mode::Disable {
            return None;
        }
        let mut unreadable = false;
        let mut read = |name: &str, path: &Option<PathBuf>| {
            let path = self.context.dir.join(path.as_ref()?);
            match read_file(&path) {
                Ok(bytes) => Some(Zeroizing::new(bytes)),
                Err(e) => {
                    unreadable = true;
                    let key = format!("{prefix}{name}");
                    let source = source_at(tree, &[&key], &self.context.whole());
                    let e = ConfigError::new(&source, &key, format!("cannot be read: {e}"));
                    self.errors.push(e.value(Some(shown(&path))));
                    None
                }
            }
        };
        let files = Read { cert: read("cert", &of.cert), key: read("key", &of.key), ca: read("ca", &of.ca) };
        (!unreadable).then_some(files)
    }
}

fn files<'a>(read: &'a Read, of: &'a TlsFiles) -> Files<'a> {
    let bytes = |b: &'a Option<Zeroizing<Vec<u8>>>| b.as_ref().map(|b| b.as_slice());
    Files {
        cert: bytes(&read.cert),
        key: bytes(&read.key),
        ca: bytes(&read.ca),
        protocols: &of.protocols,
        ciphers: &of.ciphers,
    }
}
