//! What the fault tests share: a Howdah before a real or a scripted server, other clients that must not notice
//! anything, and the invariants that hold after every fault.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::wire::fake::{Fake, Gate, Login};
use crate::harness::wire::fake_conn::FakeConn;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::wire::{Dsn, check};
use crate::harness::{self, Cluster};

/// In the configuration as a password and in the text of queries; it must never be in the log.
pub const CANARY: &str = "canary-8c1f";
/// Long enough for a loaded machine, for what should come at once.
pub const SOON: Duration = Duration::from_secs(10);

/// Short times, so that no test waits long; `more` lines of a test replace lines of the same key.
const GLOBALS: &str = r#"
ops_listen = "off"
auth_method = "trust"
log_level = "debug"
server_login_retry = "400ms"
server_repair_timeout = "1s"
cancel_wait_timeout = "1s"
client_write_timeout = "5s"
"#;

/// A server behind Howdah.
#[derive(Clone, Copy)]
pub enum Backend<'a> {
    Real(&'a Cluster),
    Fake(&'a Fake),
}

impl<'a> From<&'a Cluster> for Backend<'a> {
    fn from(c: &'a Cluster) -> Self {
        Backend::Real(c)
    }
}

impl<'a> From<&'a Fake> for Backend<'a> {
    fn from(f: &'a Fake) -> Self {
        Backend::Fake(f)
    }
}

impl Backend<'_> {
    fn host(self) -> String {
        match self {
            Backend::Real(c) => c.tcp().to_string(),
            Backend::Fake(f) => format!("127.0.0.1:{}", f.port()),
        }
    }
}

/// What a test changes of the configuration.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub size: usize,
    /// Lines of the top level.
    pub globals: &'a str,
    /// Lines of the database.
    pub database: &'a str,
    /// The database's hosts, where they are not just the backend.
    pub hosts: &'a str,
}

pub fn plan(size: usize) -> Plan<'static> {
    Plan { size, globals: "", database: "", hosts: "" }
}

impl<'a> Plan<'a> {
    pub fn globals(self, globals: &'a str) -> Self {
        Plan { globals, ..self }
    }

    pub fn database(self, database: &'a str) -> Self {
        Plan { database, ..self }
    }

    pub fn hosts(self, hosts: &'a str) -> Self {
        Plan { hosts, ..self }
    }

    /// The whole file for this user.
    pub fn config(&self, user: &str, backend: Backend<'_>) -> String {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let stated: Vec<String> = self.globals.lines().map(key).collect();
        let mut text = String::from("listen = [\"127.0.0.1:{port}\"]\n");
        for line in GLOBALS.lines().filter(|l| !l.is_empty() && !stated.contains(&key(l))) {
            text.push_str(line);
            text.push('\n');
        }
        let hosts = match self.hosts {
            "" => format!("\"{}\"", backend.host()),
            list => list.replace("{backend}", &backend.host()),
        };
        let (globals, database, size) = (self.globals, self.database, self.size);
        text + globals
            + &format!(
                "\n[users.{user}]\npassword = \"{CANARY}\"\n[databases.app]\nhost = [{hosts}]\n\
                 pool_size = {size}\n{database}\n"
            )
    }
}

/// A running Howdah of one test, with a user that no other test has.
pub struct Rig<'a> {
    pub howdah: Howdah,
    pub backend: Backend<'a>,
    pub user: String,
    pub size: usize,
    /// Open files of the process with a full pool and no client.
    baseline: usize,
}

impl<'a> Rig<'a> {
    /// Starts it, fills the pool once and takes the baseline.
    pub fn start(backend: impl Into<Backend<'a>>, plan: Plan<'_>) -> Self {
        let mut rig = Self::unproven(backend, plan);
        rig.take_baseline();
        rig
    }

    /// The same where the server cannot serve yet; call [`Rig::take_baseline`] when it can.
    pub fn unproven(backend: impl Into<Backend<'a>>, plan: Plan<'_>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let user = format!("u{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let backend = backend.into();
        if let Backend::Real(c) = backend {
            let mut admin = c.connect(harness::SUPERUSER, "app").expect("a direct session");
            admin.query(&format!("CREATE ROLE {user} LOGIN")).expect("a role");
            admin.query(&format!("CREATE SCHEMA AUTHORIZATION {user}")).expect("a schema of its own");
        }
        let howdah = Howdah::start(&plan.config(&user, backend));
        Rig { howdah, backend, user, size: plan.size, baseline: usize::MAX }
    }

    pub fn take_baseline(&mut self) {
        self.full_capacity();
        self.baseline = self.open_files();
        assert_eq!(self.connected(), 0);
    }

    pub fn cluster(&self) -> &'a Cluster {
        match self.backend {
            Backend::Real(c) => c,
            Backend::Fake(_) => panic!("this test has a scripted server"),
        }
    }

    pub fn dsn(&self) -> Dsn {
        Dsn { password: Some(CANARY.into()), ..Dsn::local(self.howdah.port(), &self.user, "app") }
    }

    pub fn client(&self) -> Raw {
        Raw::login(&self.dsn())
    }

    /// Sends a query of its own, past Howdah, as the superuser in the database of the test.
    pub fn direct(&self, sql: &str) -> String {
        let mut admin = self.cluster().connect(harness::SUPERUSER, "app").expect("a direct session");
        admin.value(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Rows of `pg_stat_activity` of this test's user where `condition` holds.
    pub fn backends(&self, condition: &str) -> usize {
        let all = format!("usename = '{}' AND backend_type = 'client backend' AND ({condition})", self.user);
        harness::count(self.cluster(), &all)
    }

    /// Waits until so many of this test's backends are in this condition.
    pub fn await_backends(&self, condition: &str, wanted: usize) {
        harness::eventually(condition, || self.backends(condition) == wanted);
    }

    /// `pool_size` clients hold a transaction at one time, and each reads its own row in it.
    pub fn full_capacity(&self) {
        let mut clients: Vec<Raw> = (0..self.size).map(|_| self.client()).collect();
        for c in &mut clients {
            // All of them at once: whoever gets no server is not answered.
            c.put(&msg::query("begin"));
        }
        for c in &mut clients {
            assert!(tags(&c.until(b'Z')).ends_with("CZ"));
        }
        for (i, c) in clients.iter_mut().enumerate() {
            let nonce = format!("{CANARY}-{i}");
            assert_eq!(c.select(&format!("select '{nonce}'")), [nonce], "own row");
        }
        for c in &mut clients {
            c.select("commit");
        }
    }

    /// Open files once nobody is connected. Clients that have left take a moment to be noticed.
    fn open_files(&self) -> usize {
        let count =
            || std::fs::read_dir(format!("/proc/{}/fd", self.howdah.pid())).expect("a process").count();
        let mut last = count();
        let mut same_since = Instant::now();
        while same_since.elapsed() < Duration::from_millis(150) {
            std::thread::sleep(Duration::from_millis(15));
            let now = count();
            if now != last {
                (last, same_since) = (now, Instant::now());
            }
        }
        last
    }

    /// Backends without the one that listens for all clients.
    fn of_the_pool(&self) -> usize {
        self.backends("application_name <> 'howdah listener'")
    }

    /// Clients whose connection Howdah has not closed, as the kernel sees it.
    fn connected(&self) -> usize {
        let port = format!(":{:04X}", self.howdah.port());
        let table =
            std::fs::read_to_string(format!("/proc/{}/net/tcp", self.howdah.pid())).unwrap_or_default();
        let rows = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        // ESTABLISHED or CLOSE_WAIT, and accepted: it has an inode.
        rows.filter(|r| r.len() > 9 && r[1].ends_with(&port) && ["01", "08"].contains(&r[3]) && r[9] != "0")
            .count()
    }

    /// What must hold after every fault, once nobody of the test is connected any more.
    pub fn invariants(&self) {
        harness::eventually("those who left are gone", || self.connected() == 0);
        match self.backend {
            Backend::Real(_) => {
                self.await_backends("state LIKE 'idle in transaction%'", 0);
                self.await_backends("state = 'active'", 0);
                assert!(self.of_the_pool() <= self.size, "more backends than the pool's size");
            }
            Backend::Fake(f) => {
                f.assert_clean();
                f.wait_until(|s| s.open <= self.size);
            }
        }
        self.full_capacity();
        harness::eventually("open files are back at their baseline", || self.open_files() <= self.baseline);
        if let Backend::Real(_) = self.backend {
            assert!(self.of_the_pool() <= self.size, "more backends than the pool's size");
        }
        self.log_is_clean();
    }

    pub fn log_is_clean(&self) {
        let log = self.howdah.log();
        assert!(!log.contains(CANARY), "a secret is in the log:\n{log}");
        assert!(!log.contains("panicked"), "a panic:\n{log}");
    }
}

/// A client that has nothing to do with the fault: it asks without a pause, and every answer must be its own.
pub struct Witness {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Witness {
    pub fn watch(rig: &Rig<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, dsn) = (Arc::clone(&stop), rig.dsn());
        let thread = std::thread::spawn(move || {
            let mut client = Raw::login(&dsn);
            let mut n = 0;
            while !seen.load(Ordering::Relaxed) || n < 3 {
                n += 1;
                let nonce = format!("witness-{n}");
                assert_eq!(client.select(&format!("select '{nonce}'")), [nonce], "somebody else's row");
                std::thread::sleep(Duration::from_millis(2));
            }
            n
        });
        Witness { stop, thread: Some(thread) }
    }

    /// Fails if it saw anything but its own rows.
    pub fn content(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let n = self.thread.take().expect("still there").join().expect("the other client noticed something");
        assert!(n >= 3);
    }
}

/// A scripted server that serves everybody, save for the simple queries that `special` takes over.
pub fn fake(special: impl Fn(&mut FakeConn, &str) -> io::Result<bool> + Send + Sync + 'static) -> Fake {
    Fake::start(move |conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&special)
    })
}

/// A server that answers a statement with the word "hangs" in it only when the first gate opens, and a cancel request when
/// the second does.
pub fn fake_that_hangs() -> (Fake, Gate, Gate) {
    let (gate, release) = (Gate::default(), Gate::default());
    let held = gate.clone();
    let fake = fake(move |conn, sql| {
        if !sql.contains("hangs") {
            return Ok(false);
        }
        assert!(held.wait(3 * SOON), "the test opens the gate");
        conn.send(&msg::one_row("hangs", conn.status))?;
        Ok(true)
    });
    fake.hold_cancels(&release);
    (fake, gate, release)
}

/// A client's error: severity, SQLSTATE; and nothing after it but the end.
pub fn fatal(client: &mut Raw, code: &str) -> Frame {
    let frame = client.expect_error("FATAL", code);
    client.expect_closed();
    frame
}

/// Severity and SQLSTATE of each error among the frames.
pub fn errors(frames: &[Frame]) -> Vec<(String, String)> {
    let of = |f: &Frame, k| f.field(k).unwrap_or_default();
    frames.iter().filter(|f| f.tag == b'E').map(|f| (of(f, b'V'), of(f, b'C'))).collect()
}

/// The SQLSTATE with which a login is refused.
pub fn refusal(dsn: &Dsn) -> String {
    match Raw::try_login(dsn, msg::PROTOCOL_3_0, &[]) {
        Ok(_) => "let in".to_owned(),
        Err(text) => {
            let code = text.split("C=\"").nth(1).and_then(|t| t.split('"').next());
            code.map_or(text.clone(), |c| {
                assert!(text.contains("S=\"FATAL\""), "{text}");
                c.to_owned()
            })
        }
    }
}

/// Sends a query and gives its one error.
pub fn error_of(client: &mut Raw, sql: &str) -> (String, String) {
    let frames = client.ask(&msg::query(sql));
    let mut all = errors(&frames);
    assert_eq!(all.len(), 1, "{}", frames.iter().map(|f| check::show_fields(&f.body)).collect::<String>());
    all.remove(0)
}

pub fn pair(severity: &str, code: &str) -> (String, String) {
    (severity.to_owned(), code.to_owned())
}
