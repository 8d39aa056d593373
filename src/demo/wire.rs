//! A tiny blocking PostgreSQL client: startup with trust authentication, and the simple query protocol.
//!
//! The demo and the integration tests use it, so that neither needs a driver and both see errors as the
//! server sent them. It is a peer for tests, never part of the proxy's path.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Larger than any message that the demo or a test asks for; a peer that announces more has lost its frame.
const MESSAGE_LIMIT: usize = 64 << 20;
const PROTOCOL_3_0: u32 = 196_608;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tcp(SocketAddr),
    /// The socket file itself, `<dir>/.s.PGSQL.<port>`.
    Unix(PathBuf),
}

impl Target {
    pub fn unix(dir: &Path, port: u16) -> Self {
        Self::Unix(dir.join(format!(".s.PGSQL.{port}")))
    }
}

/// The fields of an ErrorResponse or NoticeResponse that people read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Every field as it came, by its one-letter name.
    pub fields: BTreeMap<char, String>,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Server(Box<ServerError>),
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

impl Error {
    /// The SQLSTATE, if the server gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(e) => Some(&e.code),
            Self::Io(_) | Self::Protocol(_) => None,
        }
    }
}

/// One row, as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// What one simple query answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Column names of the last statement that returned rows.
    pub columns: Vec<String>,
    /// Rows of all statements, in order.
    pub rows: Vec<Row>,
    /// Command tags, one for each statement.
    pub tags: Vec<String>,
}

impl Reply {
    /// The first column of the first row; `None` for no row or NULL.
    pub fn value(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buf),
            Self::Unix(s) => s.read(buf),
        }
    }
}

impl Stream {
    fn connect(target: &Target, timeout: Duration) -> io::Result<Self> {
        let stream = match target {
            Target::Tcp(addr) => {
                let s = TcpStream::connect_timeout(addr, timeout)?;
                s.set_nodelay(true)?;
                Self::Tcp(s)
            }
            Target::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        };
        stream.set_timeout(Some(timeout))?;
        Ok(stream)
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
            Self::Unix(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.write_all(bytes),
            Self::Unix(s) => s.write_all(bytes),
        }
    }
}

/// A session. Dropping it closes the socket; [`Client::close`] says Terminate first.
pub struct Client {
    stream: BufReader<Stream>,
    parameters: BTreeMap<String, String>,
    notices: Vec<ServerError>,
    key: (u32, Vec<u8>),
    status: u8,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("pid", &self.key.0).field("status", &char::from(self.status)).finish()
    }
}

impl Client {
    /// Connects, with 30 seconds for the connection and for every answer.
    pub fn connect(target: &Target, user: &str, database: &str) -> Result<Self, Error> {
        Self::connect_with(target, &[("user", user), ("database", database)], Duration::from_secs(30))
    }

    /// Connects with these startup parameters; `timeout` bounds the connection and every later read and write.
    pub fn connect_with(
        target: &Target,
        parameters: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Self, Error> {
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        for (name, value) in parameters {
            put_cstr(&mut body, name);
            put_cstr(&mut body, value);
        }
        body.push(0);
        let mut client = Self {
            stream: BufReader::new(Stream::connect(target, timeout)?),
            parameters: BTreeMap::new(),
            notices: Vec::new(),
            key: (0, Vec::new()),
            status: b'I',
        };
        client.stream.get_mut().send(&framed(None, &body))?;
        client.until_ready(&mut Reply::default())?;
        Ok(client)
    }

    /// Runs one query string, which may hold several statements. After a server error the session is ready
    /// for the next query, unless the error was FATAL.
    pub fn query(&mut self, sql: &str) -> Result<Reply, Error> {
        let mut body = Vec::with_capacity(sql.len() + 1);
        put_cstr(&mut body, sql);
        self.stream.get_mut().send(&framed(Some(b'Q'), &body))?;
        let mut reply = Reply::default();
        self.until_ready(&mut reply)?;
        Ok(reply)
    }

    /// Sends all of them before it reads the first answer.
    pub fn queries(&mut self, all: &[&str]) -> Result<Vec<Result<Reply, Error>>, Error> {
        let mut out = Vec::new();
        for sql in all {
            let mut body = Vec::with_capacity(sql.len() + 1);
            put_cstr(&mut body, sql);
            out.extend_from_slice(&framed(Some(b'Q'), &body));
        }
        self.stream.get_mut().send(&out)?;
        let mut answers = Vec::with_capacity(all.len());
        for _ in all {
            let mut reply = Reply::default();
            answers.push(self.until_ready(&mut reply).map(|()| reply));
        }
        Ok(answers)
    }

    /// The first column of the first row of `sql`, as text.
    pub fn value(&mut self, sql: &str) -> Result<String, Error> {
        let reply = self.query(sql)?;
        reply.value().map(str::to_owned).ok_or_else(|| Error::Protocol(format!("no value from {sql}")))
    }

    /// What the server reported through ParameterStatus, newest values.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// Notices that have come since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        std::mem::take(&mut self.notices)
    }

    /// Process id and secret of BackendKeyData.
    pub fn cancel_key(&self) -> (u32, &[u8]) {
        (self.key.0, &self.key.1)
    }

    /// `I` idle, `T` in a transaction, `E` in a failed one; from the last ReadyForQuery.
    pub fn status(&self) -> char {
        char::from(self.status)
    }

    /// Bounds every later read and write.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_timeout(timeout)
    }

    /// Says Terminate and waits for the server's end of the connection.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.get_mut().send(&framed(Some(b'X'), &[]))?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(drop)
    }

    /// Reads up to ReadyForQuery. The first error of the batch is the result.
    fn until_ready(&mut self, reply: &mut Reply) -> Result<(), Error> {
        let mut failed = None;
        loop {
            let (tag, body) = match self.read_message() {
                Ok(message) => message,
                // A FATAL error is followed by the end of the stream: the error says more.
                Err(e) => return Err(failed.map_or(e, Error::Server)),
            };
            match tag {
                b'Z' => {
                    self.status = body.first().copied().unwrap_or(b'I');
                    return failed.map_or(Ok(()), |e| Err(Error::Server(e)));
                }
                b'E' => drop(failed.get_or_insert(Box::new(parse_error(&body)))),
                b'N' => self.notices.push(parse_error(&body)),
                b'R' => check_authentication(&body)?,
                b'S' => {
                    let mut strings = body.split(|b| *b == 0).map(text);
                    let name = strings.next().unwrap_or_default();
                    self.parameters.insert(name, strings.next().unwrap_or_default());
                }
                b'K' => self.key = (Fields(&body).u32()?, body.get(4..).unwrap_or_default().to_vec()),
                b'T' => reply.columns = parse_columns(&body)?,
                b'D' => reply.rows.push(parse_row(&body)?),
                b'C' => reply.tags.push(text(body.strip_suffix(&[0]).unwrap_or(&body))),
                // EmptyQueryResponse, NotificationResponse, NegotiateProtocolVersion.
                b'I' | b'A' | b'v' => {}
                // COPY is refused: this client has no data to give. CopyData to us is skipped.
                b'G' => self.stream.get_mut().send(&framed(Some(b'f'), b"not supported\0"))?,
                b'H' | b'd' | b'c' => {}
                other => return Err(Error::Protocol(format!("message {:?}", char::from(other)))),
            }
        }
    }

    fn read_message(&mut self) -> Result<(u8, Vec<u8>), Error> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [tag, a, b, c, d] = header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match length.checked_sub(4) {
            Some(length) if length <= MESSAGE_LIMIT => {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                Ok((tag, body))
            }
            _ => Err(Error::Protocol(format!("message {:?} of length {length}", char::from(tag)))),
        }
    }
}

/// Asks the server at `target` to cancel what the session with this key is doing; waits until it has read that.
pub fn cancel(target: &Target, key: (u32, &[u8])) -> io::Result<()> {
    let mut body = 80_877_102_u32.to_be_bytes().to_vec();
    body.extend_from_slice(&key.0.to_be_bytes());
    body.extend_from_slice(key.1);
    let mut stream = Stream::connect(target, Duration::from_secs(10))?;
    stream.send(&framed(None, &body))?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(drop)
}

fn framed(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.extend(tag);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn put_cstr(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(s.as_bytes());
    out.push(0);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_authentication(body: &[u8]) -> Result<(), Error> {
    match Fields(body).u32()? {
        0 => Ok(()),
        method => {
            Err(Error::Protocol(format!("authentication method {method}; this client knows only trust")))
        }
    }
}

fn parse_error(body: &[u8]) -> ServerError {
    let mut fields = BTreeMap::new();
    for field in body.split(|b| *b == 0) {
        if let Some((name, value)) = field.split_first() {
            fields.insert(char::from(*name), text(value));
        }
    }
    let field = |name| fields.get(&name).cloned();
    ServerError {
        severity: field('V').or_else(|| field('S')).unwrap_or_default(),
        code: field('C').unwrap_or_default(),
        message: field('M').unwrap_or_default(),
        detail: field('D'),
        hint: field('H'),
        fields,
    }
}

/// A reader over the fields of one message; every step checks what is left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or_else(|| Error::Protocol("message too short".to_owned()))?;
        self.0 = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        Ok(self.take(2)?.iter().fold(0, |n, b| (n << 8) | u16::from(*b)))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(self.take(4)?.iter().fold(0, |n, b| (n << 8) | u32::from(*b)))
    }

    fn cstr(&mut self) -> Result<&'a [u8], Error> {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        let value = self.take(end)?;
        self.take(1)?;
        Ok(value)
    }
}

fn parse_columns(body: &[u8]) -> Result<Vec<String>, Error> {
    let mut fields = Fields(body);
    let count = fields.u16()?;
    (0..count)
        .map(|_| {
            let name = text(fields.cstr()?);
            // Table, attribute, type, size, modifier, format.
            fields.take(18)?;
            Ok(name)
        })
        .collect()
}

fn parse_row(body: &[u8]) -> Result<Row, Error> {
    let mut fields = Fields(body);
    let count = fields.u16()?;
    (0..count)
        .map(|_| match fields.u32()? {
            u32::MAX => Ok(None),
            length => Ok(Some(text(fields.take(length as usize)?))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_null_apart_from_the_empty_string() {
        let body = [&[0, 3][..], &[0xff; 4], &[0, 0, 0, 0], &[0, 0, 0, 1, b'x']].concat();
        assert_eq!(parse_row(&body).unwrap(), vec![None, Some(String::new()), Some("x".to_owned())]);
        assert!(parse_row(&body[..body.len() - 1]).is_err(), "a row cut short is no row");
    }

    #[test]
    fn error_fields_are_read_by_name() {
        let e = parse_error(b"SFEHLER\0VERROR\0C42P01\0Mno such table\0Hlook again\0\0");
        assert_eq!((e.severity.as_str(), e.code.as_str()), ("ERROR", "42P01"));
        assert_eq!(e.to_string(), "ERROR 42P01: no such table");
        assert_eq!(e.hint.as_deref(), Some("look again"));
        assert_eq!(e.detail, None);
    }
}
