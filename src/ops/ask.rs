//! A question to the ops port of a running Howdah, which is found from the configuration that it serves by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Config;
use crate::config::resolved::Secret;
use crate::tls::{Acceptor, Connector, Files, Mode, in_one_line};

/// More than any Howdah has to say.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// A certificate and its key, in PEM, for an ops port that asks for one.
pub struct Identity {
    pub cert: Vec<u8>,
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

/// What it answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The status line, for messages.
    pub line: String,
    pub body: String,
}

/// Asks for a path, in plain HTTP or TLS as the configuration says, and shows the token where there is one.
pub async fn ask(
    ops: SocketAddr,
    path: &str,
    config: &Config,
    identity: Option<&Identity>,
    patience: Duration,
) -> Result<Answer, String> {
    let ops = from_here(ops);
    let token = match &config.process.ops_token {
        Some(Secret::Plain(t)) => format!("Authorization: Bearer {}\r\n", t.as_str()),
        _ => String::new(),
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ops}\r\n{token}Connection: close\r\n\r\n");
    let answer = async {
        let stream = TcpStream::connect(ops).await.map_err(|e| format!("cannot connect: {e}"))?;
        match &config.tls.ops_acceptor {
            None => exchange(stream, &request).await,
            Some(own) => exchange(secured(stream, ops, own, identity).await?, &request).await,
        }
    };
    let late = |_| format!("no answer within {:.1} s", patience.as_secs_f64());
    let answer = tokio::time::timeout(patience, answer).await.map_err(late)??;
    read(&String::from_utf8_lossy(&answer))
}

fn read(answer: &str) -> Result<Answer, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an answer of HTTP")?;
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or("not an answer of HTTP/1.1")?;
    Ok(Answer { status, line: line.to_owned(), body: body.to_owned() })
}

/// Who listens on every address is asked on loopback.
pub fn from_here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<Vec<u8>, String> {
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
    match read {
        // The end of TLS is not always said; that of the answer is, by its own form.
        Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(e.to_string()),
        _ => Ok(answer),
    }
}

/// TLS with the one Howdah that has the certificate of this configuration: no CA need be asked, and nobody else gets the
/// token.
async fn secured(
    stream: TcpStream,
    ops: SocketAddr,
    own: &Acceptor,
    identity: Option<&Identity>,
) -> Result<TlsStream<TcpStream>, String> {
    let all = ["secure".to_owned()];
    let files = Files {
        cert: identity.map(|i| i.cert.as_slice()),
        key: identity.map(|i| i.key.as_slice()),
        ca: None,
        protocols: &all,
        ciphers: &["default".to_owned()],
    };
    let connector = Connector::new(Mode::Require, true, &files).map_err(in_one_line)?.for_http();
    let name = ServerName::from(ops.ip());
    let stream = TlsConnector::from(connector.config().clone()).connect(name, stream).await;
    let stream = stream.map_err(|e| format!("TLS: {e}"))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
    if shown.map(|c| c.as_ref()) != own.material().certificate.as_deref() {
        return Err(
            "it shows another certificate than that of ops_tls_cert; after a new one, reload it".to_owned()
        );
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_refused() {
        let answer = read("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "{}"));
        assert_eq!(answer.line, "HTTP/1.1 503 Service Unavailable");
        for bad in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 \r\n\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 2\u{e9}0\r\n\r\n"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        let asked = |text: &str| from_here(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:9127"), "127.0.0.1:9127");
        assert_eq!(asked("[::]:9127"), "[::1]:9127");
        assert_eq!(asked("10.0.0.7:9127"), "10.0.0.7:9127");
    }
}
