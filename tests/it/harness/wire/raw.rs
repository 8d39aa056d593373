//! A blocking client that sends exactly the bytes it is told and shows exactly the frames it gets.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::auth::{Scram, md5_response};
use super::msg::{self, Frame};
use super::{Dsn, check};

/// How long a read waits unless told otherwise; long enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        // Zero means "for ever" to the kernel, the opposite of what a spent deadline wants.
        let limit = Some(limit.max(Duration::from_millis(1)));
        match self {
            Stream::Tcp(s) => s.set_read_timeout(limit),
            Stream::Unix(s) => s.set_read_timeout(limit),
        }
    }

    fn as_read(&mut self) -> &mut dyn Read {
        match self {
            Stream::Tcp(s) => s,
            Stream::Unix(s) => s,
        }
    }

    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Stream::Tcp(s) => s,
            Stream::Unix(s) => s,
        }
    }
}

/// What the other side said instead of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The connection ended, by FIN or RST, on a frame boundary.
    Closed,
    /// It ended inside a frame, or the frame is no frame.
    Broken(String),
    /// Nothing, or only a part of a frame, before the deadline.
    Timeout,
}

/// The scripted client.
pub struct Raw {
    stream: Stream,
    inbox: Vec<u8>,
    /// Bytes per `write` call; 0 writes all at once.
    chunk: usize,
    pub patience: Duration,
    pub pid: u32,
    pub key: Vec<u8>,
    /// Every frame of the login, in order.
    pub login: Vec<Frame>,
}

impl Raw {
    /// Connects and sends nothing.
    pub fn connect(dsn: &Dsn) -> io::Result<Self> {
        let stream = if dsn.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", dsn.host, dsn.port);
            Stream::Unix(UnixStream::connect(path)?)
        } else {
            let tcp = TcpStream::connect((dsn.host.as_str(), dsn.port))?;
            tcp.set_nodelay(true)?;
            Stream::Tcp(tcp)
        };
        Ok(Raw {
            stream,
            inbox: Vec::new(),
            chunk: 0,
            patience: PATIENCE,
            pid: 0,
            key: Vec::new(),
            login: Vec::new(),
        })
    }

    /// Connects and logs in with protocol 3.0; panics with the server's error if refused.
    pub fn login(dsn: &Dsn) -> Self {
        Self::login_with(dsn, msg::PROTOCOL_3_0, &[])
    }

    /// As [`Raw::login`], with a version and startup parameters beside user and database.
    pub fn login_with(dsn: &Dsn, version: u32, params: &[(&str, &str)]) -> Self {
        Self::try_login(dsn, version, params).unwrap_or_else(|e| panic!("login to {dsn:?}: {e}"))
    }

    pub fn try_login(dsn: &Dsn, version: u32, params: &[(&str, &str)]) -> Result<Self, String> {
        let mut raw = Self::connect(dsn).map_err(|e| e.to_string())?;
        raw.start(dsn, version, params)?;
        Ok(raw)
    }

    /// Sends the startup packet and logs in.
    pub fn start(&mut self, dsn: &Dsn, version: u32, params: &[(&str, &str)]) -> Result<(), String> {
        let mut all = vec![("user", dsn.user.as_str()), ("database", &dsn.database)];
        all.extend_from_slice(params);
        self.send(&msg::startup(version, &all)).map_err(|e| e.to_string())?;
        self.finish_login(dsn)
    }

    /// Answers whatever authentication is asked until ReadyForQuery.
    pub fn finish_login(&mut self, dsn: &Dsn) -> Result<(), String> {
        let password = dsn.password.clone().unwrap_or_default();
        let mut scram = Scram::new(&password);
        loop {
            let frame = self.next().map_err(|e| format!("{e:?} during login"))?;
            self.login.push(frame.clone());
            let mut c = frame.cursor();
            match frame.tag {
                b'R' => {
                    let code = c.i32().ok_or("short authentication request")?;
                    let words = String::from_utf8_lossy(c.0).into_owned();
                    let answer = match code {
                        0 => continue,
                        3 => msg::password(password.as_bytes()),
                        5 => msg::password(md5_response(&dsn.user, &password, c.0).as_bytes()),
                        10 => msg::sasl_initial("SCRAM-SHA-256", scram.first().as_bytes()),
                        11 => msg::message(b'p', scram.last(&words)?.as_bytes()),
                        12 if scram.verify(&words) => continue,
                        other => return Err(format!("authentication request {other}: {words}")),
                    };
                    self.send(&answer).map_err(|e| e.to_string())?;
                }
                b'K' => {
                    self.pid = c.i32().ok_or("short key data")?.cast_unsigned();
                    self.key = c.0.to_vec();
                }
                b'E' => return Err(check::show_fields(&frame.body)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Writes in pieces of `bytes` from now on; each piece is its own segment.
    pub fn chunked(&mut self, bytes: usize) {
        self.chunk = bytes;
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = if self.chunk == 0 { bytes.len().max(1) } else { self.chunk };
        for piece in bytes.chunks(size) {
            self.stream.as_write().write_all(piece)?;
        }
        Ok(())
    }

    /// Sends what a correct server must be able to take; panics if the connection is gone.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.send(bytes).expect("the connection takes the bytes");
        self
    }

    /// The next frame within `patience`.
    #[allow(clippy::should_implement_trait)] // not an iterator: a failure carries a reason
    pub fn next(&mut self) -> Result<Frame, Missing> {
        self.next_within(self.patience)
    }

    pub fn next_within(&mut self, limit: Duration) -> Result<Frame, Missing> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.pop()? {
                return Ok(frame);
            }
            self.fill(deadline)?;
        }
    }

    fn pop(&mut self) -> Result<Option<Frame>, Missing> {
        if self.inbox.len() < 5 {
            return Ok(None);
        }
        let mut c = msg::Cursor(&self.inbox[1..]);
        let length = c.i32().unwrap_or_default();
        let total = usize::try_from(length).unwrap_or(0) + 1;
        if total < 5 {
            return Err(Missing::Broken(format!(
                "length {length} after tag {:?}",
                char::from(self.inbox[0])
            )));
        }
        if self.inbox.len() < total {
            return Ok(None);
        }
        let rest = self.inbox.split_off(total);
        let bytes = std::mem::replace(&mut self.inbox, rest);
        Ok(Some(Frame { tag: bytes[0], body: bytes[5..].to_vec() }))
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Missing> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Missing::Timeout);
        }
        self.stream.set_read_timeout(left).map_err(|e| Missing::Broken(e.to_string()))?;
        let mut buffer = [0; 64 * 1024];
        match self.stream.as_read().read(&mut buffer) {
            Ok(0) => Err(self.ended()),
            Ok(n) => {
                self.inbox.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Missing::Timeout),
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(self.ended()),
            },
        }
    }

    fn ended(&self) -> Missing {
        match self.inbox.len() {
            0 => Missing::Closed,
            n => Missing::Broken(format!("closed inside a frame, after {n} bytes of it")),
        }
    }

    /// One byte outside any frame: the answer to SSLRequest and GSSENCRequest.
    pub fn byte(&mut self) -> Result<u8, Missing> {
        let deadline = Instant::now() + self.patience;
        while self.inbox.is_empty() {
            self.fill(deadline)?;
        }
        Ok(self.inbox.remove(0))
    }

    /// Frames up to and with the first of tag `tag`; panics if it does not come.
    pub fn until(&mut self, tag: u8) -> Vec<Frame> {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Ok(frame) => {
                    let last = frame.tag == tag;
                    seen.push(frame);
                    if last {
                        return seen;
                    }
                }
                Err(e) => panic!("no {:?}: {e:?} after {}", char::from(tag), tags(&seen)),
            }
        }
    }

    /// Sends and reads up to the next ReadyForQuery.
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.put(bytes).until(b'Z')
    }

    /// A simple query; panics unless it succeeds, and gives the first columns of its rows.
    pub fn select(&mut self, sql: &str) -> Vec<String> {
        let frames = self.ask(&msg::query(sql));
        if let Some(e) = frames.iter().find(|f| f.tag == b'E') {
            panic!("{sql}: {}", check::show_fields(&e.body));
        }
        frames.iter().filter(|f| f.tag == b'D').map(Frame::text).collect()
    }

    /// Reads exactly the given tags, as in `"12DCZ"`.
    pub fn expect(&mut self, want: &str) -> Vec<Frame> {
        let mut seen = Vec::new();
        for tag in want.bytes() {
            match self.next() {
                Ok(frame) => seen.push(frame),
                Err(e) => panic!("wanted {want:?}, got {:?} and then {e:?}", tags(&seen)),
            }
            let last = seen.last().map_or(0, |f| f.tag);
            assert_eq!(last, tag, "wanted {want:?}, got {:?}", tags(&seen));
        }
        seen
    }

    /// Reads an ErrorResponse and checks severity and SQLSTATE.
    pub fn expect_error(&mut self, severity: &str, code: &str) -> Frame {
        let frame = self.expect("E").remove(0);
        let got = (frame.field(b'V'), frame.field(b'C'));
        assert_eq!(got, (Some(severity.into()), Some(code.into())), "{frame:?}");
        frame
    }

    /// Nothing may come for so long.
    pub fn expect_silence(&mut self, limit: Duration) {
        assert_eq!(self.next_within(limit), Err(Missing::Timeout));
    }

    pub fn expect_closed(&mut self) {
        assert_eq!(self.next(), Err(Missing::Closed));
    }

    /// Sends FIN and keeps reading.
    pub fn half_close(&mut self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
        }
    }

    /// Ends with RST: the peer's next read or write fails. A Unix socket just closes.
    pub fn reset(self) {
        if let Stream::Tcp(s) = &self.stream {
            let linger = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
            linger.expect("a connected socket takes SO_LINGER");
        }
    }

    /// The same connection for a thread that writes while this one reads.
    pub fn writer(&self) -> io::Result<TcpStream> {
        match &self.stream {
            Stream::Tcp(s) => s.try_clone(),
            Stream::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Small kernel buffers make backpressure visible at once.
    pub fn shrink_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(s) => socket2::SockRef::from(s).set_recv_buffer_size(bytes),
            Stream::Unix(s) => socket2::SockRef::from(s).set_recv_buffer_size(bytes),
        }
    }

    /// Opens a connection of its own, sends the request, waits for the close as libpq does.
    pub fn cancel(&self, dsn: &Dsn) -> io::Result<()> {
        let mut other = Raw::connect(dsn)?;
        other.send(&msg::cancel_request(self.pid, &self.key))?;
        let _ = other.next();
        Ok(())
    }
}

/// The tags of some frames as a word.
pub fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|f| char::from(f.tag)).collect()
}
