//! The swarm: thousands of clients in one thread, each of which checks that every answer is its own.
//!
//! A client asks for a text made of its id and a counter. Half of the batches are pipelines of
//! several Syncs, so that an answer handed to the wrong client, dropped or given twice shows in the
//! very next comparison. Some clients are aborted (RST) at random moments, most of them with
//! something in flight, and replaced.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Logins in flight at once: more only fills the listener's backlog.
const CONNECTING: usize = 128;

#[derive(Clone, Debug)]
pub struct Options {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub clients: usize,
    /// How long the load lasts, counted from the moment when all clients are connected.
    pub load: Duration,
    /// One client in so many is aborted and replaced again and again; 0 aborts none.
    pub abort_one_in: usize,
    /// A client pauses up to this long between batches.
    pub pause: Duration,
    /// No answer for so long is an error.
    pub patience: Duration,
}

/// What happened. [`Report::ok`] is the verdict.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub clients: usize,
    pub connected_in: Duration,
    pub queries: u64,
    pub pipelines: u64,
    pub aborted: u64,
    /// Answers that belong to somebody else, with one example each.
    pub foreign: u64,
    /// By text, without the changing parts.
    pub errors: BTreeMap<String, u64>,
    /// Clients without a single answered query.
    pub unserved: usize,
}

impl Report {
    pub fn ok(&self) -> bool {
        self.foreign == 0 && self.errors.is_empty() && self.unserved == 0 && self.queries > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: u64 = self.errors.values().sum();
        writeln!(f, "clients   {} connected in {:.1?}", self.clients, self.connected_in)?;
        writeln!(f, "queries   {} in {} pipelines and the rest alone", self.queries, self.pipelines)?;
        writeln!(f, "aborted   {} and replaced", self.aborted)?;
        writeln!(f, "unserved  {}", self.unserved)?;
        writeln!(f, "foreign   {}", self.foreign)?;
        writeln!(f, "errors    {errors}")?;
        for (text, count) in &self.errors {
            writeln!(f, "  {count} × {text}")?;
        }
        Ok(())
    }
}

struct Shared {
    options: Options,
    report: RefCell<Report>,
    connecting: Semaphore,
    waiting: Cell<usize>,
    /// Set once all are connected.
    end: Cell<Option<Instant>>,
    served: RefCell<Vec<bool>>,
}

impl Shared {
    fn error(&self, text: String) {
        let mut report = self.report.borrow_mut();
        // A flood of texts that all differ must not fill memory.
        let text = if report.errors.len() < 50 { text } else { "others".into() };
        *report.errors.entry(text).or_default() += 1;
    }
}

/// Runs the whole swarm in the calling task; single-threaded by design (`Rc` throughout).
pub async fn swarm(options: Options) -> Report {
    let clients = options.clients;
    let shared = Rc::new(Shared {
        report: RefCell::new(Report { clients, ..Report::default() }),
        connecting: Semaphore::new(CONNECTING),
        waiting: Cell::new(clients),
        end: Cell::new(None),
        served: RefCell::new(vec![false; clients]),
        options,
    });
    let set = LocalSet::new();
    let started = Instant::now();
    for id in 0..clients {
        set.spawn_local(life(id, Rc::clone(&shared)));
    }
    let watch = Rc::clone(&shared);
    set.spawn_local(async move {
        while watch.waiting.get() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        watch.report.borrow_mut().connected_in = started.elapsed();
        watch.end.set(Some(Instant::now() + watch.options.load));
    });
    set.await;
    let mut report = shared.report.borrow().clone();
    report.unserved = shared.served.borrow().iter().filter(|s| !**s).count();
    report
}

/// One place in the swarm, from the first connect to the end, with replacements in between.
async fn life(id: usize, shared: Rc<Shared>) {
    let options = &shared.options;
    let victim = options.abort_one_in > 0 && id.is_multiple_of(options.abort_one_in);
    let mut counter = 0;
    let mut first = true;
    loop {
        let opened = open(&shared).await;
        if std::mem::take(&mut first) {
            shared.waiting.set(shared.waiting.get() - 1);
        }
        let mut client = match opened {
            Ok(client) => client,
            Err(why) => return shared.error(format!("login: {why}")),
        };
        let end = loop {
            match shared.end.get() {
                Some(end) => break end,
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        // Who has only ever been aborted gets its answer after the end, too.
        if !victim || Instant::now() >= end {
            client.work(id, &mut counter, end, &shared).await;
            return;
        }
        let longest = options.load.min(Duration::from_secs(3)).as_micros() as u64;
        let abort = Instant::now() + Duration::from_micros(rand::rng().random_range(0..=longest));
        tokio::select! {
            () = client.work(id, &mut counter, end, &shared) => return,
            () = sleep_until(abort) => {}
        }
        // Drops the socket with RST, wherever in a message it is.
        let _ = socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO));
        drop(client);
        shared.report.borrow_mut().aborted += 1;
        if Instant::now() >= end && shared.served.borrow()[id] {
            return;
        }
    }
}

struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

async fn open(shared: &Shared) -> Result<Client, String> {
    let _permit = shared.connecting.acquire().await.map_err(|e| e.to_string())?;
    let options = &shared.options;
    let logging_in = async {
        let address = (options.host.as_str(), options.port);
        let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut client = Client { stream, inbox: Vec::new() };
        let params = ["user", &options.user, "database", &options.database, "", ""];
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for word in &params[..4] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).map_err(|e| e.to_string())?;
        client.send(&[&length.to_be_bytes()[..], &body].concat()).await?;
        loop {
            match client.frame().await? {
                (b'Z', _) => return Ok(client),
                (b'E', body) => return Err(error_text(&body)),
                (b'R', body) if body != [0; 4] => return Err("the swarm knows trust only".into()),
                _ => {}
            }
        }
    };
    timeout(options.patience, logging_in).await.unwrap_or(Err("no answer".into()))
}

impl Client {
    /// Batches until `end`; the first error ends this client, a foreign row too.
    async fn work(&mut self, id: usize, counter: &mut u64, end: Instant, shared: &Shared) {
        let options = &shared.options;
        loop {
            let pause = rand::rng().random_range(0..=options.pause.as_micros() as u64);
            let next = Instant::now() + Duration::from_micros(pause);
            // Everybody is served at least once, however short the load.
            let served = shared.served.borrow()[id];
            if served && next >= end {
                break;
            }
            sleep_until(next).await;
            let pipeline = rand::rng().random_bool(0.5);
            let count = if pipeline { rand::rng().random_range(2..=5) } else { 1 };
            let base = *counter;
            *counter += count;
            match timeout(options.patience, self.batch(id, base, count, pipeline)).await {
                Ok(Ok(())) => {
                    let mut report = shared.report.borrow_mut();
                    report.queries += count;
                    report.pipelines += u64::from(pipeline);
                    shared.served.borrow_mut()[id] = true;
                }
                Ok(Err(Wrong::Foreign(text))) => {
                    shared.report.borrow_mut().foreign += 1;
                    eprintln!("foreign row: {text}");
                    return;
                }
                Ok(Err(Wrong::Other(text))) => return shared.error(text),
                Err(_) => return shared.error("no answer in time".into()),
            }
        }
        let _ = self.send(b"X\0\0\0\x04").await;
    }

    async fn batch(&mut self, id: usize, base: u64, count: u64, pipeline: bool) -> Result<(), Wrong> {
        let mut out = Vec::with_capacity(96 * count as usize);
        for n in base..base + count {
            let sql = format!("select '{}'", nonce(id, n));
            if !pipeline {
                message(&mut out, b'Q', &[sql.as_bytes(), b"\0"]);
                continue;
            }
            // Every third query is one statement that all share, the others are text of their own.
            if n % 3 == 0 {
                message(&mut out, b'P', &[b"\0select $1::text\0\0\0"]);
                let value = nonce(id, n);
                let length = u32::try_from(value.len()).unwrap_or_default().to_be_bytes();
                message(&mut out, b'B', &[b"\0\0\0\0\0\x01", &length, value.as_bytes(), b"\0\0"]);
            } else {
                message(&mut out, b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"]);
                message(&mut out, b'B', &[&[0; 8]]);
            }
            message(&mut out, b'E', &[&[0; 5]]);
            message(&mut out, b'S', &[]);
        }
        self.send(&out).await?;
        drop(out);
        for n in base..base + count {
            self.answer(&nonce(id, n)).await?;
        }
        // Frames beyond the last ReadyForQuery belong to nobody, or to somebody else.
        match self.inbox.len() {
            0 => self.inbox = Vec::new(),
            more => return Err(Wrong::Foreign(format!("{more} bytes after the last ReadyForQuery"))),
        }
        Ok(())
    }

    /// Exactly one row with the nonce, then ReadyForQuery.
    async fn answer(&mut self, want: &str) -> Result<(), Wrong> {
        let mut rows = 0;
        loop {
            match self.frame().await? {
                (b'D', body) => {
                    let got = body.get(6..).unwrap_or_default();
                    if got != want.as_bytes() {
                        let got = String::from_utf8_lossy(got);
                        return Err(Wrong::Foreign(format!("wanted {want:?}, got {got:?}")));
                    }
                    rows += 1;
                }
                (b'E', body) => return Err(Wrong::Other(error_text(&body))),
                (b'Z', body) if rows == 1 && body == *b"I" => return Ok(()),
                (b'Z', _) => return Err(Wrong::Foreign(format!("{rows} rows for {want:?}"))),
                (b'1' | b'2' | b'C' | b'T' | b'S' | b'N', _) => {}
                (tag, _) => return Err(Wrong::Foreign(format!("a {:?} for {want:?}", char::from(tag)))),
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|e| format!("write: {e}"))
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), String> {
        loop {
            if let Some(head) = self.inbox.get(1..5) {
                let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
                if !(4..1 << 20).contains(&length) {
                    return Err(format!("a frame of length {length}"));
                }
                if self.inbox.len() > length {
                    let frame: Vec<u8> = self.inbox.drain(..=length).collect();
                    return Ok((frame[0], frame[5..].to_vec()));
                }
            }
            // Waiting first costs no buffer: ten thousand idle clients hold none.
            self.stream.readable().await.map_err(|e| e.to_string())?;
            self.inbox.reserve(512);
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(_) => {}
                Err(e) => return Err(format!("read: {e}")),
            }
        }
    }
}

enum Wrong {
    Foreign(String),
    Other(String),
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Wrong::Other(text)
    }
}

fn nonce(id: usize, n: u64) -> String {
    format!("nonce-{id}-{n}")
}

fn message(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length = 4 + parts.iter().map(|p| p.len()).sum::<usize>();
    out.push(tag);
    out.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

/// Severity, SQLSTATE and message; DETAIL carries live numbers and would make every error new.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|&b| b == 0).filter(|f| matches!(f.first(), Some(b'S' | b'C' | b'M')));
    let words: Vec<_> = fields.map(|f| String::from_utf8_lossy(&f[1..]).into_owned()).collect();
    words.join(" ")
}
