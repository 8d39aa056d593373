//! A byte-scripted PostgreSQL server: one thread per connection runs the test's closure.
//!
//! It records and checks every frame it receives, counts logins (in total and at once) and keeps the
//! cancel requests with their keys.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::fake_conn::FakeConn;
use super::msg::{Cursor, Frame};

/// A latch that the test opens and the script waits for (or the other way round).
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Whether it opened in time.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let shut = |open: &mut bool| !*open;
        let waited = self.0.1.wait_timeout_while(lock(&self.0.0), limit, shut);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A panicking script must not hide what it recorded.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the fake saw so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Startup packets that have come.
    pub startups: usize,
    /// Connections between startup packet and their first ReadyForQuery, or their end.
    pub logging_in: usize,
    pub most_logging_in: usize,
    pub open: usize,
    pub most_open: usize,
    pub cancels: Vec<Cancel>,
    /// Frames per connection, by [`FakeConn::id`].
    pub frames: Vec<Vec<Frame>>,
    /// Broken frames and failed expectations of scripts.
    pub violations: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    pub pid: u32,
    pub key: Vec<u8>,
}

type Behaviour = dyn Fn(&mut FakeConn) -> io::Result<()> + Send + Sync;

pub(super) struct Shared {
    pub(super) seen: Mutex<Seen>,
    changed: Condvar,
    stop: AtomicBool,
    /// Held shut, it keeps cancel connections open and their requests unread.
    cancel_gate: Mutex<Option<Gate>>,
    /// Weak, so that a connection really closes when its script lets go.
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

impl Shared {
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut lock(&self.seen));
        self.changed.notify_all();
        result
    }
}

pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Fake {
    /// Listens on a free port of 127.0.0.1 and runs `behaviour` after each startup packet.
    /// Encryption requests get `N`; cancel requests are recorded and closed.
    pub fn start(behaviour: impl Fn(&mut FakeConn) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free local port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            cancel_gate: Mutex::default(),
            streams: Mutex::default(),
        });
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting, &behaviour));
        Fake { address, shared }
    }

    /// Each connection takes the next script; the last one serves all that follow.
    pub fn scripted(scripts: Vec<Vec<Step>>) -> Self {
        let queue = Mutex::new(VecDeque::from(scripts));
        Fake::start(move |conn| {
            let steps = {
                let mut queue = lock(&queue);
                if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
            };
            steps.unwrap_or_default().into_iter().try_for_each(|step| conn.step(step))
        })
    }

    /// Logs everybody in and answers simple SELECTs: see [`FakeConn::serve`].
    pub fn serving() -> Self {
        Fake::start(|conn| {
            conn.login(&Login::default())?;
            conn.serve()
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    pub fn cancels(&self) -> Vec<Cancel> {
        self.seen().cancels
    }

    /// Waits until `what` holds; panics with the state if it does not within ten seconds.
    pub fn wait_until(&self, what: impl Fn(&Seen) -> bool) -> Seen {
        let not_yet = |seen: &mut Seen| !what(seen);
        let limit = Duration::from_secs(10);
        let guard = lock(&self.shared.seen);
        let waited = self.shared.changed.wait_timeout_while(guard, limit, not_yet);
        let (seen, result) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "the fake server never saw it: {seen:#?}");
        seen.clone()
    }

    /// Panics if any received byte did not belong to a well-formed frame or a script failed.
    pub fn assert_clean(&self) {
        let seen = self.seen();
        assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    }

    /// From now on cancel connections stay unanswered until the gate opens.
    pub fn hold_cancels(&self, gate: &Gate) {
        *lock(&self.shared.cancel_gate) = Some(gate.clone());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop; the scripts end by their sockets.
        let _ = TcpStream::connect(self.address);
        for stream in lock(&self.shared.streams).drain(..).filter_map(|s| s.upgrade()) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, behaviour: &Arc<Behaviour>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (shared, behaviour) = (Arc::clone(shared), Arc::clone(behaviour));
        std::thread::spawn(move || {
            let stream = Arc::new(stream);
            let mut streams = lock(&shared.streams);
            streams.retain(|s| s.strong_count() > 0);
            streams.push(Arc::downgrade(&stream));
            drop(streams);
            if let Err(e) = connection(stream, &shared, &*behaviour)
                && e.kind() == io::ErrorKind::InvalidData
            {
                shared.update(|seen| seen.violations.push(e.to_string()));
            }
        });
    }
}

fn connection(stream: Arc<TcpStream>, shared: &Arc<Shared>, behaviour: &Behaviour) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut head = [0; 8];
        (&*stream).read_exact(&mut head)?;
        let mut c = Cursor(&head);
        let length = usize::try_from(c.i32().unwrap_or(0)).unwrap_or(0);
        let code = c.i32().unwrap_or(0).cast_unsigned();
        if !(8..=10_000).contains(&length) {
            return Err(bad(format!("startup packet of length {length}")));
        }
        let mut body = vec![0; length - 8];
        (&*stream).read_exact(&mut body)?;
        match code {
            80_877_103 | 80_877_104 => (&*stream).write_all(b"N")?,
            80_877_102 => return cancel(&body, shared),
            _ => {
                let params = startup_params(&body).ok_or_else(|| bad("malformed startup packet".into()))?;
                return FakeConn::run(stream, shared, params, behaviour);
            }
        }
    }
}

fn cancel(body: &[u8], shared: &Shared) -> io::Result<()> {
    let mut c = Cursor(body);
    let pid = c.i32().ok_or_else(|| bad("short cancel request".into()))?.cast_unsigned();
    let cancel = Cancel { pid, key: c.0.to_vec() };
    shared.update(|seen| seen.cancels.push(cancel));
    let gate = lock(&shared.cancel_gate).clone();
    if let Some(gate) = gate {
        let _ = gate.wait(Duration::from_secs(60));
    }
    Ok(())
}

fn startup_params(body: &[u8]) -> Option<Vec<(String, String)>> {
    let mut c = Cursor(body);
    let mut params = Vec::new();
    loop {
        let key = String::from_utf8_lossy(c.cstr()?).into_owned();
        if key.is_empty() {
            return c.done().then_some(params);
        }
        params.push((key, String::from_utf8_lossy(c.cstr()?).into_owned()));
    }
}

pub(super) fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// How the fake logs a client in.
#[derive(Clone, Debug)]
pub struct Login {
    pub auth: Auth,
    pub params: Vec<(String, String)>,
    /// `None` gives each connection its own pid and a key of four bytes.
    pub key: Option<(u32, Vec<u8>)>,
    /// Raw bytes before the authentication request, and between AuthenticationOk and the rest.
    pub before_auth: Vec<u8>,
    pub after_auth: Vec<u8>,
    /// Waits for so long before AuthenticationOk.
    pub delay: Duration,
}

#[derive(Clone, Debug)]
pub enum Auth {
    Trust,
    Cleartext(String),
    Md5(String),
}

impl Default for Login {
    fn default() -> Self {
        let params = [
            ("server_version", "15.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("application_name", ""),
            ("is_superuser", "off"),
            ("session_authorization", "app"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
        ];
        Login {
            auth: Auth::Trust,
            params: params.map(|(k, v)| (k.into(), v.into())).to_vec(),
            key: None,
            before_auth: Vec::new(),
            after_auth: Vec::new(),
            delay: Duration::ZERO,
        }
    }
}

impl Login {
    /// Sets or adds one ParameterStatus.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.retain(|(n, _)| n != name);
        self.params.push((name.into(), value.into()));
        self
    }
}

/// One step of a scripted connection.
#[derive(Clone)]
pub enum Step {
    Login(Login),
    /// Reads frames until a simple query that contains the text.
    Query(String),
    Send(Vec<u8>),
    /// Sends the bytes one by one.
    Trickle(Vec<u8>),
    /// [`FakeConn::serve`] until the client leaves.
    Serve,
    Stall(Duration),
    /// RST.
    Reset,
}
