//! Opening a server connection: dial, log in, `on_connect`. Bounded by `server_connect_timeout` as a whole.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::auth::require::{Channel, Permitted};
use crate::auth::{ServerAction, ServerAuth};
use crate::clock::Clock;
use crate::config::resolved::{HostAddr, Keepalive};
use crate::error::{Error, OpenFailure, ServerError};
use crate::net::stream::Stream;
use crate::net::tls::Handshakes;
use crate::proto::encode;
use crate::proto::frame::{self, be};
use crate::proto::params::{self, ParamSet};
use crate::proto::pipeline::TxStatus;
use crate::relay::down;
use crate::relay::state::ServerState;
use crate::server::conn::{Place, ServerConn};
use crate::server::questions;
use crate::server::secure::{Attempt, Failure, attempts, secure};
use crate::server::target::Target;
use crate::tls::Connector;

/// Bytes of a login in all, and again of each answer to a statement of `on_connect`. A login of PostgreSQL's brings some
/// hundred.
const MAX_LOGIN_BYTES: usize = 1024 * 1024;
/// Bytes that are kept of the error that refuses a login.
const MAX_ERROR: usize = 8 * 1024;
/// ParameterStatus messages of a login in all.
const MAX_LOGIN_PARAMETERS: usize = params::MOST;
/// Bytes of the key that a cancel must show (protocol 3.2 allows so many).
const MAX_CANCEL_KEY: usize = 256;

fn io_error(host: &HostAddr, e: &io::Error) -> OpenFailure {
    let error = |what: &str| Error::ServerUnreachable { host: host.to_string(), reason: what.to_owned() };
    // EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL: ours, not the server's.
    match e.raw_os_error() {
        Some(24 | 23 | 105 | 12 | 99) => {
            OpenFailure::Local(error("the pooler is out of sockets or descriptors"))
        }
        _ if e.kind() == io::ErrorKind::TimedOut => OpenFailure::Unreachable(error("connection timed out")),
        _ => OpenFailure::Unreachable(error(&match e.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::UnexpectedEof => "the server closed the connection during the login".to_owned(),
            _ => e.to_string(),
        })),
    }
}

/// Connects a socket. The caller bounds the time.
pub async fn dial(host: &HostAddr, keepalive: &Keepalive) -> io::Result<Stream> {
    let stream = match host {
        HostAddr::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
            let mut connected = None;
            for addr in tokio::net::lookup_host((host.as_str(), *port)).await? {
                match connect_tcp(addr).await {
                    Ok(s) => {
                        connected = Some(s);
                        break;
                    }
                    Err(e) => last = e,
                }
            }
            Stream::Tcp(connected.ok_or(last)?)
        }
        HostAddr::Unix { dir, port } => {
            let path = dir.join(format!(".s.PGSQL.{port}"));
            Stream::Unix(match path.to_str().and_then(|p| p.strip_prefix('@')) {
                // In the abstract namespace, where a name begins with a zero byte.
                Some(name) => UnixStream::connect(format!("\0{name}")).await?,
                None => UnixStream::connect(path).await?,
            })
        }
    };
    stream.tune(keepalive)?;
    Ok(stream)
}

async fn connect_tcp(addr: std::net::SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.connect(addr).await
}

/// Connects, with TLS where `tls` is given, for something other than a login. The caller bounds the time.
pub async fn dial_for_cancel(
    host: &HostAddr,
    keepalive: &Keepalive,
    tls: Option<&Arc<Connector>>,
    beside: &Handshakes,
) -> io::Result<Stream> {
    let stream = dial(host, keepalive).await?;
    let attempt = if tls.is_some() { Attempt::Tls } else { Attempt::Plain };
    secure(stream, host, tls, attempt, beside).await.map_err(|f| match f {
        Failure::Io(e) => e,
        Failure::Tls(e) => io::Error::other(e.to_string()),
    })
}

/// Opens, logs in and prepares one connection. A handshake of TLS is computed `beside` the threads that relay.
pub async fn open(
    host: HostAddr,
    t: &Target,
    epoch: u64,
    place: Box<dyn Place>,
    nothing: Arc<ParamSet>,
    beside: &Handshakes,
) -> Result<Box<ServerConn>, OpenFailure> {
    match tokio::time::timeout(t.timeout, open_inner(&host, t, epoch, place, nothing, beside)).await {
        Ok(r) => r,
        Err(_) => Err(OpenFailure::Unreachable(Error::ServerUnreachable {
            host: host.to_string(),
            reason: format!("no answer within server_connect_timeout, {:.3} s", t.timeout.as_secs_f64()),
        })),
    }
}

struct Login<'a> {
    stream: Stream,
    buf: Vec<u8>,
    host: &'a HostAddr,
    max: u32,
    proved: &'static str,
    /// Bytes that were read of this login, or of the present answer.
    read: usize,
    /// ParameterStatus messages that came.
    parameters: usize,
}

impl Login<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), OpenFailure> {
        self.stream.write_all(bytes).await.map_err(|e| io_error(self.host, &e))
    }

    /// The next message: its type and body.
    async fn next(&mut self) -> Result<(u8, Vec<u8>), OpenFailure> {
        loop {
            let h = frame::header(&self.buf, self.max)
                .map_err(|b| self.protocol(&format!("message announces {} bytes", b.length)))?;
            if let Some(h) = h {
                if h.total > MAX_LOGIN_BYTES {
                    return Err(self.protocol(&format!(
                        "a message of the login has {} bytes, and a login may have {MAX_LOGIN_BYTES}",
                        h.total
                    )));
                }
                if self.buf.len() >= h.total {
                    let rest = self.buf.split_off(h.total);
                    let mut message = std::mem::replace(&mut self.buf, rest);
                    if h.tag == be::PARAMETER_STATUS {
                        self.parameters += 1;
                    }
                    if self.parameters > MAX_LOGIN_PARAMETERS {
                        return Err(self.protocol(&format!(
                            "the login reports more than {MAX_LOGIN_PARAMETERS} parameters"
                        )));
                    }
                    return Ok((h.tag, message.split_off(frame::HEADER)));
                }
            }
            let n = self.stream.read_some(&mut self.buf).await.map_err(|e| io_error(self.host, &e))?;
            if n == 0 {
                return Err(io_error(self.host, &io::ErrorKind::UnexpectedEof.into()));
            }
            self.read += n;
            if self.read > MAX_LOGIN_BYTES {
                return Err(self.protocol(&format!("the login has more than {MAX_LOGIN_BYTES} bytes")));
            }
        }
    }

    fn protocol(&self, why: &str) -> OpenFailure {
        OpenFailure::Fatal(Error::ServerProtocol { host: self.host.to_string(), reason: why.to_owned() })
    }

    fn refused(&self, body: Vec<u8>) -> OpenFailure {
        // It is kept as the pool's last error, and each client that waits gets a copy.
        let e = ServerError { body }.shortened(MAX_ERROR);
        match e.sqlstate() {
            b"57P03" | b"53300" => OpenFailure::Transient(Error::ServerLogin(e)),
            // A server that shuts down will be back, or not: the backoff finds out.
            b"57P01" | b"57P02" => OpenFailure::Unreachable(Error::ServerLogin(e)),
            _ => OpenFailure::Fatal(Error::ServerLogin(e)),
        }
    }
}

async fn open_inner(
    host: &HostAddr,
    t: &Target,
    epoch: u64,
    place: Box<dyn Place>,
    nothing: Arc<ParamSet>,
    beside: &Handshakes,
) -> Result<Box<ServerConn>, OpenFailure> {
    let mut attempts = attempts(host, t.tls.as_deref()).iter().copied().peekable();
    let mut l = loop {
        let attempt = attempts.next().unwrap_or(Attempt::Plain);
        match begin(host, t, attempt, beside).await {
            Ok(l) => break l,
            Err(Begin { failure, .. }) if attempts.peek().is_none() => return Err(failure),
            Err(Begin { failure, about_tls: true }) => {
                let next = attempts.peek().map_or("nothing", |a| a.as_str());
                tracing::info!(%host, error = %failure.error(), next, "falling back to another way of connecting");
            }
            Err(Begin { failure, .. }) => return Err(failure),
        }
    };
    let mut defaults = ParamSet::default();
    let (mut pid, mut key) = (0, Vec::new());
    loop {
        let (tag, body) = l.next().await?;
        match tag {
            be::PARAMETER_STATUS => {
                let (n, v) = down::parameter(&body).map_err(|e| l.protocol(&e.0))?;
                defaults.set_within(n, v).map_err(|e| l.protocol(&e.to_string()))?;
            }
            be::BACKEND_KEY_DATA if body.len() > 4 + MAX_CANCEL_KEY => {
                return Err(l.protocol(&format!("BackendKeyData of {} bytes", body.len())));
            }
            be::BACKEND_KEY_DATA => {
                let Some((p, k)) = body.split_first_chunk::<4>() else {
                    return Err(l.protocol("BackendKeyData without a process id"));
                };
                pid = i32::from_be_bytes(*p);
                key = k.to_vec();
            }
            be::NOTICE | be::NEGOTIATE_VERSION => {}
            be::ERROR => return Err(l.refused(body)),
            be::READY if TxStatus::of_ready(&body) == Some(TxStatus::Idle) => break,
            be::READY => return Err(l.protocol("a ReadyForQuery in the login that does not say idle")),
            _ => return Err(l.protocol("an unexpected message in the login")),
        }
    }
    let mut status = TxStatus::Idle;
    for sql in &t.on_connect {
        status = run(&mut l, sql, &mut defaults).await?;
    }
    if status != TxStatus::Idle {
        return Err(l.protocol("on_connect left a transaction open"));
    }
    if !l.buf.is_empty() {
        return Err(l.protocol("bytes after ReadyForQuery of the login"));
    }
    let mut place = place;
    if !place.arrived() {
        return Err(OpenFailure::Local(Error::ServerUnreachable {
            host: host.to_string(),
            reason: "the fleet's control connection was lost during the login".to_owned(),
        }));
    }
    let state = ServerState { pid, ..ServerState::new(Arc::new(defaults), nothing) };
    let user = t.user.clone();
    let tls = t.tls.clone().filter(|_| l.stream.tls().is_some());
    let mut conn = ServerConn::new(l.stream, state, host.clone(), user, pid, key, Clock::now(), epoch, place);
    conn.tls = tls;
    conn.proved = l.proved;
    if !t.on_connect.is_empty() {
        // What it has set is what clients go back to.
        questions::ask_pool_set(&mut conn).await.map_err(|why| {
            let reason = format!("behind on_connect, the server does not say what is set ({why})");
            OpenFailure::Fatal(Error::ServerProtocol { host: host.to_string(), reason })
        })?;
    }
    Ok(Box::new(conn))
}

/// Why a connection did not get to the end of its authentication.
struct Begin {
    failure: OpenFailure,
    /// It could be otherwise with TLS, or without.
    about_tls: bool,
}

impl From<OpenFailure> for Begin {
    fn from(failure: OpenFailure) -> Self {
        Self { failure, about_tls: false }
    }
}

/// Dials and logs in, up to AuthenticationOk.
async fn begin<'a>(
    host: &'a HostAddr,
    t: &Target,
    attempt: Attempt,
    beside: &Handshakes,
) -> Result<Login<'a>, Begin> {
    let stream = dial(host, &t.keepalive).await.map_err(|e| io_error(host, &e))?;
    let stream = secure(stream, host, t.tls.as_ref(), attempt, beside).await.map_err(|f| match f {
        Failure::Io(e) => Begin::from(io_error(host, &e)),
        Failure::Tls(e) => Begin { failure: OpenFailure::Fatal(e), about_tls: true },
    })?;
    let mut l =
        Login { stream, buf: Vec::new(), host, max: t.max_message, proved: "none", read: 0, parameters: 0 };
    let mut params = vec![("user", &*t.user), ("database", t.dbname.as_str())];
    params.extend(t.startup.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let hello = encode::startup_message(&params).map_err(OpenFailure::Fatal)?;
    l.send(&hello).await?;
    let first = l.next().await?;
    // No line of pg_hba.conf for this kind of connection.
    if first.0 == be::ERROR && (ServerError { body: first.1.clone() }).sqlstate() == b"28000" {
        return Err(Begin { failure: l.refused(first.1), about_tls: true });
    }
    authenticate(&mut l, t, first).await?;
    Ok(l)
}

/// What the connection vouches for.
fn channel(stream: &Stream, tls: Option<&Connector>) -> Channel {
    let local = stream.addresses().1.is_some_and(|a| a.ip().to_canonical().is_loopback());
    match stream {
        Stream::Unix(_) => Channel::UnixSocket,
        _ if local => Channel::Loopback,
        Stream::Tls(_) if tls.is_some_and(Connector::verifies) => Channel::VerifiedTls,
        Stream::Tls(_) => Channel::UnverifiedTls,
        Stream::Tcp(_) => Channel::Plain,
    }
}

async fn authenticate(l: &mut Login<'_>, t: &Target, first: (u8, Vec<u8>)) -> Result<(), OpenFailure> {
    let permitted = Permitted {
        words: t.require_auth.clone(),
        cleartext: t.cleartext,
        channel: channel(&l.stream, t.tls.as_deref()),
    };
    let host = l.host.to_string();
    let certificate = l.stream.tls().and_then(|c| c.peer_certificates()).and_then(|c| c.first());
    let end_point = certificate.and_then(|c| crate::tls::end_point_hash(c));
    let mut auth =
        ServerAuth::new(&host, &t.user, t.secret.as_ref(), t.keys.clone(), permitted, &mut rand::rng())
            .bound_to(t.binding, end_point);
    let mut first = Some(first);
    loop {
        let (tag, body) = match first.take() {
            Some(m) => m,
            None => l.next().await?,
        };
        let mut action = match tag {
            be::AUTHENTICATION => auth.on_auth_message(&body),
            be::ERROR => return Err(l.refused(body)),
            be::NOTICE | be::PARAMETER_STATUS | be::NEGOTIATE_VERSION => continue,
            _ => return Err(l.protocol("an unexpected message before the end of the authentication")),
        };
        loop {
            match action {
                ServerAction::Send(bytes) => {
                    l.send(&bytes).await?;
                    break;
                }
                ServerAction::Wait => break,
                ServerAction::Accept => {
                    l.proved = auth.how();
                    return Ok(());
                }
                ServerAction::Fail(e) => return Err(OpenFailure::Fatal(e)),
                ServerAction::Derive(job) => {
                    // PBKDF2 takes milliseconds: not on a thread that relays.
                    let keys = tokio::task::spawn_blocking(move || job.run())
                        .await
                        .map_err(|e| OpenFailure::Fatal(Error::Internal(e.to_string())))?;
                    action = auth.resume(&keys);
                }
            }
        }
    }
}

/// Runs a statement of ours to its ReadyForQuery. The parameters that it changes are the connection's defaults.
async fn run(l: &mut Login<'_>, sql: &str, defaults: &mut ParamSet) -> Result<TxStatus, OpenFailure> {
    let q = encode::query(sql).map_err(OpenFailure::Fatal)?;
    l.send(&q).await?;
    l.read = 0;
    let mut failed = None;
    let status = loop {
        let (tag, body) = l.next().await?;
        match tag {
            be::ERROR => failed = Some(body),
            be::PARAMETER_STATUS => {
                let (n, v) = down::parameter(&body).map_err(|e| l.protocol(&e.0))?;
                defaults.set_within(n, v).map_err(|e| l.protocol(&e.to_string()))?;
            }
            be::COPY_IN | be::COPY_BOTH => return Err(l.protocol("on_connect began a COPY")),
            be::READY => {
                break TxStatus::of_ready(&body)
                    .ok_or_else(|| l.protocol("a ReadyForQuery without a status"))?;
            }
            _ => {}
        }
    };
    match failed {
        Some(body) => {
            Err(OpenFailure::Fatal(Error::ServerLogin(ServerError { body }.shortened(MAX_ERROR).fatal())))
        }
        None => Ok(status),
    }
}
