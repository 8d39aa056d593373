//! TLS with a server, before its login: libpq's six modes (PostgreSQL documentation, 32.19 SSL Support, 54.2.10
//! SSL Session Encryption). Nothing that a server says before the handshake is believed or passed on.

use std::io;
use std::sync::Arc;

use crate::config::resolved::HostAddr;
use crate::error::Error;
use crate::net::stream::Stream;
use crate::net::tls::Handshakes;
use crate::tls::{ALPN, Connector, Mode};

/// One way to begin a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    Plain,
    Tls,
    /// TLS, or plain text on the same connection if the server says that it has none.
    TlsIfOffered,
}

impl Attempt {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain text",
            Self::Tls => "TLS",
            Self::TlsIfOffered => "TLS if it is offered",
        }
    }
}

/// What to try, in this order. A Unix socket has no TLS, as with libpq.
pub(super) fn attempts(host: &HostAddr, tls: Option<&Connector>) -> &'static [Attempt] {
    match (host, tls.map_or(Mode::Disable, |c| c.mode)) {
        (HostAddr::Unix { .. }, _) | (_, Mode::Disable) => &[Attempt::Plain],
        (_, Mode::Allow) => &[Attempt::Plain, Attempt::Tls],
        (_, Mode::Prefer) => &[Attempt::TlsIfOffered, Attempt::Plain],
        (_, Mode::Require | Mode::VerifyCa | Mode::VerifyFull) => &[Attempt::Tls],
    }
}

/// SSLRequest.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// Makes a fresh connection what the attempt wants it to be. An error about TLS is [`Error::ServerTls`].
pub(super) async fn secure(
    mut stream: Stream,
    host: &HostAddr,
    tls: Option<&Arc<Connector>>,
    attempt: Attempt,
    beside: &Handshakes,
) -> Result<Stream, Failure> {
    let (HostAddr::Tcp { host: name, .. }, Some(connector)) = (host, tls) else { return Ok(stream) };
    if attempt == Attempt::Plain {
        return Ok(stream);
    }
    let failed = |reason: String| Failure::Tls(Error::ServerTls { host: host.to_string(), reason });
    if !connector.direct && !asked(&mut stream, host, attempt).await? {
        return Ok(stream);
    }
    let connection = connector.connection(name).map_err(failed)?;
    let stream = stream.into_tls(connection, &[], beside).await.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            failed("the server closed the connection in the handshake".to_owned())
        }
        _ => failed(e.to_string()),
    })?;
    if connector.direct && stream.tls().and_then(|c| c.alpn_protocol()) != Some(ALPN) {
        return Err(failed("direct TLS, and the server did not answer to ALPN \"postgresql\"".to_owned()));
    }
    Ok(stream)
}

/// Sends an SSLRequest; false if the connection goes on in plain text.
async fn asked(stream: &mut Stream, host: &HostAddr, attempt: Attempt) -> Result<bool, Failure> {
    let failed =
        |reason: &str| Failure::Tls(Error::ServerTls { host: host.to_string(), reason: reason.to_owned() });
    stream.write_all(SSL_REQUEST).await.map_err(Failure::Io)?;
    let mut answer = Vec::new();
    if stream.read_some(&mut answer).await.map_err(Failure::Io)? == 0 {
        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match answer.as_slice() {
        b"S" => Ok(true),
        b"N" if attempt == Attempt::TlsIfOffered => Ok(false),
        b"N" => Err(failed("the server does not support TLS")),
        // Whoever is in between could put words into the server's mouth (CVE-2021-23222).
        [b'S' | b'N', ..] => Err(failed("received unencrypted data behind the answer to the SSLRequest")),
        // What an error says here is not read: nobody vouches for it.
        _ => Err(failed("the server did not answer the SSLRequest by S or N")),
    }
}

pub(super) enum Failure {
    Io(io::Error),
    Tls(Error),
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tls::Files;

    async fn with_a_server_that_has_no_tls(beside: &Handshakes) -> Result<Stream, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Failure::Io)?;
        let port = listener.local_addr().map_err(Failure::Io)?.port();
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(Failure::Io)?;
        let (mut server, _) = listener.accept().await.map_err(Failure::Io)?;
        server.write_all(b"no handshake at all").await.map_err(Failure::Io)?;
        let connector = Connector::new(Mode::Require, true, &Files::default()).expect("it needs nothing");
        let host = HostAddr::Tcp { host: "localhost".into(), port };
        secure(Stream::Tcp(tcp), &host, Some(&Arc::new(connector)), Attempt::Tls, beside).await
    }

    #[tokio::test]
    async fn a_handshake_with_a_server_is_computed_in_its_place_or_waits_for_one() {
        let none = Handshakes::new(0);
        let waits = async {
            while none.waiting() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = with_a_server_that_has_no_tls(&none) => panic!("there is no place"),
            () = waits => {}
        }
        assert_eq!((none.steps(), none.waiting()), (0, 0), "who has left waits no more");
        let one = Handshakes::new(1);
        let failed = with_a_server_that_has_no_tls(&one).await;
        assert!(matches!(failed, Err(Failure::Tls(Error::ServerTls { .. }))));
        assert_eq!((one.steps(), one.waiting()), (1, 0));
    }
}
