//! A fake PostgreSQL on one thread: it trusts every login and answers from `answers`.
//!
//! Only the pooler is measured, so this side does as little as a correct server can: no storage,
//! no planning, one read and one write per batch.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::answers::{self, Canned, Kind, classify};
use crate::wire::{self, be_u32, cstring, malformed, message, split_cstring};

const LISTENER: Token = Token(usize::MAX);
const SCRATCH: usize = 256 * 1024;

pub(crate) fn run(listen: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; SCRATCH];
    let canned = Canned::new();
    let mut sessions: Slab<Session> = Slab::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut sessions)?;
                continue;
            }
            let key = event.token().0;
            let Some(session) = sessions.get_mut(key) else { continue };
            if !matches!(session.serve(&canned, &mut scratch, event.is_read_closed()), Ok(true)) {
                sessions.remove(key);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, sessions: &mut Slab<Session>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nodelay(true)?;
                let entry = sessions.vacant_entry();
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(entry.key()), both)?;
                let pid = entry.key() as u32 + 1;
                entry.insert(Session::new(stream, pid));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => eprintln!("canned backend: accept: {error}"),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Statement {
    kind: Kind,
    /// Whether there is a `$1`; the bench knows no statement with more.
    parameter: bool,
}

struct Session {
    stream: TcpStream,
    pid: u32,
    started: bool,
    status: u8,
    copying: bool,
    skipping: bool,
    copied: u64,
    /// Bytes of a message that has not arrived whole.
    partial: Vec<u8>,
    /// Replies the socket did not take yet.
    pending: Vec<u8>,
    statements: HashMap<Vec<u8>, Statement>,
    portal: Kind,
}

impl Session {
    fn new(stream: TcpStream, pid: u32) -> Self {
        Self {
            stream,
            pid,
            started: false,
            status: b'I',
            copying: false,
            skipping: false,
            copied: 0,
            partial: Vec::new(),
            pending: Vec::new(),
            statements: HashMap::new(),
            portal: Kind::OneRow,
        }
    }

    /// Reads and answers until the socket is dry or full; false once the session is over.
    fn serve(&mut self, canned: &Canned, scratch: &mut [u8], closed: bool) -> io::Result<bool> {
        loop {
            if !self.flush()? {
                return Ok(true);
            }
            let count = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            if !self.take(canned, &scratch[..count])? {
                self.flush()?;
                return Ok(false);
            }
            // A short read has emptied the socket: the next byte makes a new edge.
            if count < scratch.len() && !closed {
                self.flush()?;
                return Ok(true);
            }
        }
    }

    /// True once nothing is left to write.
    fn flush(&mut self) -> io::Result<bool> {
        let mut at = 0;
        while at < self.pending.len() {
            match self.stream.write(&self.pending[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending.drain(..at);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.pending.clear();
        Ok(true)
    }

    fn take(&mut self, canned: &Canned, chunk: &[u8]) -> io::Result<bool> {
        if self.partial.is_empty() {
            let (used, go_on) = self.messages(canned, chunk)?;
            self.partial.extend_from_slice(&chunk[used..]);
            return Ok(go_on);
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(chunk);
        let (used, go_on) = self.messages(canned, &bytes)?;
        bytes.drain(..used);
        self.partial = bytes;
        Ok(go_on)
    }

    fn messages(&mut self, canned: &Canned, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let mut used = 0;
        while !self.started {
            let Some(length) = be_u32(bytes, used) else { return Ok((used, true)) };
            let Some(packet) = bytes.get(used..used + length as usize) else { return Ok((used, true)) };
            used += packet.len();
            if !self.startup(packet)? {
                return Ok((used, false));
            }
        }
        while let Some((tag, body, size)) = wire::whole(&bytes[used..])? {
            used += size;
            if tag == b'X' {
                return Ok((used, false));
            }
            self.answer(canned, tag, body)?;
        }
        Ok((used, true))
    }

    /// False for a cancel request: there is never anything to cancel.
    fn startup(&mut self, packet: &[u8]) -> io::Result<bool> {
        match be_u32(packet, 4) {
            Some(wire::SSL_REQUEST | wire::GSSENC_REQUEST) => self.pending.push(b'N'),
            Some(wire::CANCEL_REQUEST) => return Ok(false),
            Some(version) if version >> 16 == 3 => {
                if version != wire::PROTOCOL_3_0 {
                    message(&mut self.pending, b'v', |body| body.extend_from_slice(&[0; 8]));
                }
                let mut rest = packet.get(8..).unwrap_or_default();
                let (mut user, mut application) = (String::new(), String::new());
                while let Some((name, after)) = split_cstring(rest) {
                    let Some((value, after)) = split_cstring(after) else { break };
                    rest = after;
                    match name {
                        b"user" => user = String::from_utf8_lossy(value).into_owned(),
                        b"application_name" => application = String::from_utf8_lossy(value).into_owned(),
                        _ => {}
                    }
                }
                self.pending.extend(answers::greeting(&user, &application, self.pid));
                self.started = true;
            }
            _ => return Err(malformed("not a startup message")),
        }
        Ok(true)
    }

    fn answer(&mut self, canned: &Canned, tag: u8, body: &[u8]) -> io::Result<()> {
        if self.skipping && tag != b'S' {
            return Ok(());
        }
        let out = &mut self.pending;
        match tag {
            b'Q' => {
                let (text, _) = split_cstring(body).ok_or_else(|| malformed("unterminated query"))?;
                self.simple(canned, text);
            }
            b'P' => {
                let (name, rest) = split_cstring(body).ok_or_else(|| malformed("bad Parse"))?;
                let (text, _) = split_cstring(rest).ok_or_else(|| malformed("bad Parse"))?;
                let parameter = memchr::memmem::find(text, b"$1").is_some();
                let statement = Statement { kind: classify(text), parameter };
                match self.statements.get_mut(name) {
                    Some(known) => *known = statement,
                    None => drop(self.statements.insert(name.to_vec(), statement)),
                }
                message(out, b'1', |_| {});
            }
            b'B' => {
                let (_, rest) = split_cstring(body).ok_or_else(|| malformed("bad Bind"))?;
                let (name, _) = split_cstring(rest).ok_or_else(|| malformed("bad Bind"))?;
                match self.statements.get(name) {
                    Some(statement) => {
                        self.portal = statement.kind;
                        message(out, b'2', |_| {});
                    }
                    // A pooler that lost a statement must not look fast.
                    None => {
                        self.skipping = true;
                        error(out, "26000", "prepared statement does not exist");
                    }
                }
            }
            b'D' if body.first() == Some(&b'S') => {
                let (name, _) = split_cstring(body.get(1..).unwrap_or_default())
                    .ok_or_else(|| malformed("bad Describe"))?;
                let statement = self.statements.get(name).copied().unwrap_or_default();
                let types: &[u8] = if statement.parameter { &[0, 1, 0, 0, 0, 23] } else { &[0, 0] };
                message(out, b't', |body| body.extend_from_slice(types));
                canned.describe(out, statement.kind);
            }
            b'D' => canned.describe(out, self.portal),
            b'E' => canned.execute(out, self.portal, &mut self.status),
            b'C' => {
                if let (Some(&b'S'), Some((name, _))) =
                    (body.first(), split_cstring(body.get(1..).unwrap_or_default()))
                {
                    self.statements.remove(name);
                }
                message(out, b'3', |_| {});
            }
            b'S' => {
                self.skipping = false;
                answers::ready(out, self.status);
            }
            b'd' => self.copied += 1,
            b'c' if self.copying => {
                self.copying = false;
                answers::complete(out, &format!("COPY {}", self.copied));
                answers::ready(out, self.status);
            }
            b'f' if self.copying => {
                self.copying = false;
                error(out, "57014", "COPY from stdin failed");
                answers::ready(out, self.status);
            }
            b'H' | b'c' | b'f' => {}
            _ => return Err(malformed("unexpected message")),
        }
        Ok(())
    }

    fn simple(&mut self, canned: &Canned, text: &[u8]) {
        let out = &mut self.pending;
        // Quoted semicolons do not occur in what a bench sends.
        for text in text.split(|byte| *byte == b';') {
            // No workload sends one; poolers do.
            if text.len() > 24
                && let Some((name, value)) = answers::config(text)
            {
                answers::configured(out, canned, &name, &value);
                continue;
            }
            let kind = classify(text);
            match kind {
                Kind::Empty => continue,
                Kind::OneRow | Kind::Rows(_) => canned.describe(out, kind),
                Kind::Set => {
                    if let Some((name, value)) = answers::reported_set(text) {
                        answers::parameter(out, &name, &value);
                    }
                }
                _ => {}
            }
            canned.execute(out, kind, &mut self.status);
            if kind == Kind::CopyIn {
                self.copying = true;
                self.copied = 0;
                return;
            }
        }
        if text.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b';') {
            canned.execute(out, Kind::Empty, &mut self.status);
        }
        answers::ready(out, self.status);
    }
}

fn error(out: &mut Vec<u8>, sqlstate: &str, text: &str) {
    message(out, b'E', |body| {
        for (field, value) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', sqlstate), (b'M', text)] {
            body.push(field);
            cstring(body, value.as_bytes());
        }
        body.push(0);
    });
}
