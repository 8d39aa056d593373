//! One client of the load generator: its socket, its login and the step it is at.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::login::{Credentials, Keys, Login};
use crate::wire::{self, Scanner};
use crate::workload::{Step, Until};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Offline,
    Connecting,
    LoggingIn,
    SettingUp,
    Ready,
    Busy,
}

/// What one event brought a client to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Waiting,
    /// Logged in and set up.
    Arrived,
    /// The transaction is over; true if an error was among the answers.
    Finished {
        failed: bool,
    },
}

pub(crate) struct Client {
    pub(crate) phase: Phase,
    pub(crate) began: Instant,
    stream: Option<TcpStream>,
    login: Option<Box<(Login, Vec<u8>)>>,
    scanner: Scanner,
    step: usize,
    failed: bool,
    unsent: Vec<u8>,
}

/// What all clients share.
pub(crate) struct Shared {
    pub(crate) address: SocketAddr,
    pub(crate) who: Credentials,
    pub(crate) keys: Keys,
    pub(crate) startup: Vec<u8>,
    pub(crate) setup: Option<Vec<u8>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) first_error: Option<String>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Offline,
            began: Instant::now(),
            stream: None,
            login: None,
            scanner: Scanner::default(),
            step: 0,
            failed: false,
            unsent: Vec::new(),
        }
    }

    pub(crate) fn connect(&mut self, key: usize, shared: &Shared, registry: &Registry) -> io::Result<()> {
        self.began = Instant::now();
        let mut stream = TcpStream::connect(shared.address)?;
        registry.register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
        *self = Self { stream: Some(stream), phase: Phase::Connecting, ..Self::new() };
        Ok(())
    }

    /// Says goodbye and closes.
    pub(crate) fn disconnect(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // Nobody is left to care whether it arrives.
            let _ = stream.write(&[b'X', 0, 0, 0, 4]);
        }
        self.phase = Phase::Offline;
    }

    pub(crate) fn start(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.phase = Phase::Busy;
        self.began = Instant::now();
        self.step = 0;
        self.failed = false;
        self.send(bytes)
    }

    /// The same for a client whose time runs since it began to connect.
    pub(crate) fn go_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.phase = Phase::Busy;
        self.step = 0;
        self.send(bytes)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(bytes);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn serve(&mut self, shared: &mut Shared, closed: bool) -> io::Result<Progress> {
        if self.phase == Phase::Connecting {
            self.connected(&shared.startup)?;
        }
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
        }
        let mut scratch = std::mem::take(&mut shared.scratch);
        let progress = self.read(shared, &mut scratch, closed);
        shared.scratch = scratch;
        progress
    }

    fn connected(&mut self, startup: &[u8]) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        stream.set_nodelay(true)?;
        self.phase = Phase::LoggingIn;
        self.login = Some(Box::default());
        self.send(startup)
    }

    fn read(&mut self, shared: &mut Shared, scratch: &mut [u8], closed: bool) -> io::Result<Progress> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(Progress::Waiting) };
            let count = match stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) => return Err(error),
            };
            let progress = match self.phase {
                Phase::LoggingIn => self.log_in(&scratch[..count], shared)?,
                _ => self.scan(&scratch[..count], shared)?,
            };
            // A short read has emptied the socket: the next byte makes a new edge.
            if progress != Progress::Waiting || (count < scratch.len() && !closed) {
                return Ok(progress);
            }
        }
    }

    fn log_in(&mut self, chunk: &[u8], shared: &mut Shared) -> io::Result<Progress> {
        let Some(mut login) = self.login.take() else { return Ok(Progress::Waiting) };
        let (state, bytes) = &mut *login;
        bytes.extend_from_slice(chunk);
        let (mut used, mut out, mut ready) = (0, Vec::new(), false);
        while let Some((tag, body, size)) = wire::whole(&bytes[used..])? {
            match tag {
                b'R' => drop(state.answer(body, &shared.who, &mut shared.keys, &mut out)?),
                b'E' => return Err(io::Error::other(error_text(body))),
                b'Z' => ready = true,
                _ => {}
            }
            used += size;
        }
        bytes.drain(..used);
        if !out.is_empty() {
            self.send(&out)?;
        }
        if !ready {
            self.login = Some(login);
            return Ok(Progress::Waiting);
        }
        let Some(setup) = shared.setup.as_deref() else {
            self.phase = Phase::Ready;
            return Ok(Progress::Arrived);
        };
        self.phase = Phase::SettingUp;
        self.send(setup)?;
        Ok(Progress::Waiting)
    }

    fn scan(&mut self, chunk: &[u8], shared: &mut Shared) -> io::Result<Progress> {
        let (mut ready, mut copy_in, mut failed) = (false, false, false);
        self.scanner.feed(chunk, |tag, _| match tag {
            b'Z' => ready = true,
            b'G' => copy_in = true,
            b'E' => failed = true,
            _ => {}
        })?;
        if failed {
            self.failed = true;
            let text = || String::from_utf8_lossy(&chunk[..chunk.len().min(200)]).replace('\0', " ");
            shared.first_error.get_or_insert_with(text);
            if self.phase == Phase::SettingUp {
                return Err(io::Error::other("the server refused to prepare a statement"));
            }
        }
        if ready && self.phase == Phase::SettingUp {
            self.phase = Phase::Ready;
            return Ok(Progress::Arrived);
        }
        let Some(step) = shared.steps.get(self.step) else { return Ok(Progress::Waiting) };
        let over = ready || (copy_in && step.until == Until::CopyIn);
        if !over {
            return Ok(Progress::Waiting);
        }
        self.step += 1;
        match shared.steps.get(self.step) {
            Some(next) if !self.failed => {
                self.send(&next.bytes)?;
                Ok(Progress::Waiting)
            }
            _ => {
                self.phase = Phase::Ready;
                Ok(Progress::Finished { failed: self.failed })
            }
        }
    }
}

/// The message of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0);
    let text = fields.filter(|field| matches!(field.first(), Some(b'C' | b'M')));
    text.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).collect::<Vec<_>>().join(" ")
}
