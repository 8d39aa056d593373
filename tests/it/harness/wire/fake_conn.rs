//! One connection of the fake server, as its script sees it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auth::md5_response;
use super::check;
use super::fake::{Auth, Login, Shared, Step, bad};
use super::msg::{self, Cursor, Frame};

/// A script waits at most so long for the pooler.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct FakeConn {
    /// Counts from 0 in order of startup packets.
    pub id: usize,
    pub params: Vec<(String, String)>,
    /// What ReadyForQuery says.
    pub status: u8,
    /// `None` after a reset.
    stream: Option<Arc<TcpStream>>,
    shared: Arc<Shared>,
    logged_in: bool,
}

impl FakeConn {
    pub(super) fn run(
        stream: Arc<TcpStream>,
        shared: &Arc<Shared>,
        params: Vec<(String, String)>,
        behaviour: &dyn Fn(&mut FakeConn) -> io::Result<()>,
    ) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let id = shared.update(|seen| {
            let conn = seen.startups;
            seen.startups += 1;
            seen.frames.push(Vec::new());
            seen.logging_in += 1;
            seen.most_logging_in = seen.most_logging_in.max(seen.logging_in);
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
            conn
        });
        let shared = Arc::clone(shared);
        let mut conn = FakeConn { id, params, status: b'I', stream: Some(stream), shared, logged_in: false };
        behaviour(&mut conn)
    }

    /// A startup parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn login(&mut self, login: &Login) -> io::Result<()> {
        self.send(&login.before_auth)?;
        let user = self.param("user").unwrap_or_default().to_owned();
        match &login.auth {
            Auth::Trust => {}
            Auth::Cleartext(want) => self.challenge(&msg::auth(3, &[]), want)?,
            Auth::Md5(password) => {
                let salt = [1, 2, 3, 4];
                let want = md5_response(&user, password, &salt);
                self.challenge(&msg::auth(5, &salt), &want)?;
            }
        }
        std::thread::sleep(login.delay);
        self.send(&msg::auth(0, &[]))?;
        self.send(&login.after_auth)?;
        for (name, value) in &login.params {
            self.send(&msg::parameter_status(name, value))?;
        }
        let id = u32::try_from(self.id).map_err(|_| bad("too many connections".into()))?;
        let own = (id + 1, id.wrapping_mul(0x9e37_79b9).to_be_bytes().to_vec());
        let (pid, key) = login.key.clone().unwrap_or(own);
        // Before the last message: who reads it may dial the next at once.
        self.leave_login();
        self.send(&[msg::backend_key(pid, &key), msg::ready(b'I')].concat())
    }

    fn challenge(&mut self, request: &[u8], want: &str) -> io::Result<()> {
        self.send(request)?;
        let answer = self.expect(b'p')?;
        let given = Cursor(&answer.body).cstr().unwrap_or_default();
        if want.as_bytes() != given {
            self.send(&msg::error("FATAL", "28P01", "password authentication failed"))?;
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    fn leave_login(&mut self) {
        if !std::mem::replace(&mut self.logged_in, true) {
            self.shared.update(|seen| seen.logging_in -= 1);
        }
    }

    /// The next frame; `None` when the peer closed on a frame boundary.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut tag = [0];
        match self.io()?.read(&mut tag) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(e),
        }
        let mut length = [0; 4];
        self.io()?.read_exact(&mut length).map_err(|e| self.cut(tag[0], &e))?;
        let length = i32::from_be_bytes(length);
        let size = usize::try_from(length - 4).map_err(|_| bad(format!("frame of length {length}")))?;
        let mut body = vec![0; size];
        self.io()?.read_exact(&mut body).map_err(|e| self.cut(tag[0], &e))?;
        let frame = Frame { tag: tag[0], body };
        if let Err(why) = check::frontend(frame.tag, &frame.body) {
            return Err(bad(format!("connection {}: {why}", self.id)));
        }
        let (id, copy) = (self.id, frame.clone());
        self.shared.update(|seen| seen.frames[id].push(copy));
        Ok(Some(frame))
    }

    /// Half a frame and then the end is legal when a client vanished, so it is no violation.
    fn cut(&self, tag: u8, e: &io::Error) -> io::Error {
        let text = format!("connection {}: cut inside {:?}: {e}", self.id, char::from(tag));
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }

    /// Reads frames until one of the tag; the end of the connection is a violation.
    pub fn expect(&mut self, tag: u8) -> io::Result<Frame> {
        loop {
            match self.next()? {
                Some(frame) if frame.tag == tag => return Ok(frame),
                Some(_) => {}
                None => {
                    let text = format!("connection {}: ended before {:?}", self.id, char::from(tag));
                    return Err(bad(text));
                }
            }
        }
    }

    /// As [`FakeConn::expect`], for a simple query that contains `text`.
    pub fn expect_query(&mut self, text: &str) -> io::Result<String> {
        loop {
            let frame = self.expect(b'Q')?;
            let sql = sql_of(&frame);
            if sql.contains(text) {
                return Ok(sql);
            }
        }
    }

    /// Returns when a cancel request has come to the server, whomever it was for; at most [`PATIENCE`].
    pub fn wait_for_cancel(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.shared.update(|seen| seen.cancels.is_empty()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io()?.write_all(bytes)
    }

    pub fn trickle(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(1).try_for_each(|b| self.io()?.write_all(b))
    }

    pub fn close(&mut self) -> io::Result<()> {
        self.io()?.shutdown(Shutdown::Both)
    }

    /// RST instead of FIN; nothing can follow. What the kernel has not sent yet is lost: stall first
    /// where the bytes before matter.
    pub fn reset(&mut self) -> io::Result<()> {
        let stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
    }

    fn io(&self) -> io::Result<&TcpStream> {
        self.stream.as_deref().ok_or(io::ErrorKind::NotConnected.into())
    }

    pub fn step(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Login(login) => self.login(&login),
            Step::Query(text) => self.expect_query(&text).map(drop),
            Step::Send(bytes) => self.send(&bytes),
            Step::Trickle(bytes) => self.trickle(&bytes),
            Step::Serve => self.serve(),
            Step::Stall(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Step::Reset => self.reset(),
        }
    }

    /// A small honest server until the client leaves: `select 'x'` answers the text between its
    /// first quotes, BEGIN, COMMIT and ROLLBACK move the status, all else completes with its first
    /// word. The extended protocol answers the same for the last Parse of the connection, or the
    /// first value of its Bind.
    pub fn serve(&mut self) -> io::Result<()> {
        self.serve_with(&|_, _| Ok(false))
    }

    /// The same, save for simple queries that `special` answers itself: it says so with `true`.
    pub fn serve_with(
        &mut self,
        special: &dyn Fn(&mut FakeConn, &str) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut sql = String::new();
        while let Some(frame) = self.next()? {
            if frame.tag == b'Q' && special(self, &sql_of(&frame))? {
                continue;
            }
            let reply = match frame.tag {
                b'Q' => [self.answer(&sql_of(&frame), true), msg::ready(self.status)].concat(),
                b'P' => {
                    let mut c = frame.cursor();
                    c.cstr();
                    sql = String::from_utf8_lossy(c.cstr().unwrap_or_default()).into_owned();
                    msg::bare(b'1')
                }
                b'B' => {
                    if let Some(value) = first_value(&frame) {
                        sql = format!("select '{value}'");
                    }
                    msg::bare(b'2')
                }
                b'C' => msg::bare(b'3'),
                b'D' => msg::row_description(&["?column?"]),
                b'E' => self.answer(&sql, false),
                b'S' => msg::ready(self.status),
                b'X' => return Ok(()),
                _ => continue,
            };
            self.send(&reply)?;
        }
        Ok(())
    }

    fn answer(&mut self, sql: &str, describe: bool) -> Vec<u8> {
        let word = sql.split([' ', ';']).next().unwrap_or_default().to_uppercase();
        match word.as_str() {
            "" => return msg::bare(b'I'),
            "BEGIN" => self.status = b'T',
            "COMMIT" | "ROLLBACK" => self.status = b'I',
            "SELECT" => {
                let value = sql.split('\'').nth(1).unwrap_or_default();
                let head = if describe { msg::row_description(&["?column?"]) } else { Vec::new() };
                let row = msg::data_row(&[msg::text(value)]);
                return [head, row, msg::command_complete("SELECT 1")].concat();
            }
            _ => {}
        }
        msg::command_complete(&word)
    }
}

impl Drop for FakeConn {
    fn drop(&mut self) {
        self.leave_login();
        self.shared.update(|seen| seen.open -= 1);
    }
}

fn sql_of(frame: &Frame) -> String {
    String::from_utf8_lossy(Cursor(&frame.body).cstr().unwrap_or_default()).into_owned()
}

/// The first parameter of a Bind, if it has any.
fn first_value(bind: &Frame) -> Option<String> {
    let mut c = bind.cursor();
    c.cstr()?;
    c.cstr()?;
    let formats = c.u16()?;
    c.take(usize::from(formats) * 2)?;
    (c.u16()? > 0).then(|| c.value())??.map(|v| String::from_utf8_lossy(&v).into_owned())
}
