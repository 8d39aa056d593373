//! The built `howdah` binary as a child process, with the configuration text of the test.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use howdah::demo::process::{free_port, signal};
use howdah::demo::wire::{Client, Error, Target};

const START_DEADLINE: Duration = Duration::from_secs(20);

/// A running Howdah. Dropping it kills it, and shows its log if the test is failing.
pub struct Howdah {
    child: Child,
    port: u16,
    ops_port: u16,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    directory: tempfile::TempDir,
}

/// Lines of standard output and standard error, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, usize)>,
    changed: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, usize)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        self.lock().1 += 1;
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                log.lock().0.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                log.changed.notify_all();
                line.clear();
            }
            log.lock().1 -= 1;
            log.changed.notify_all();
        })
    }
}

impl Howdah {
    /// Starts it and waits until it accepts connections. In `config`, `{port}`, `{ops_port}` and `{dir}` stand
    /// for a free port, another one, and a directory of this process's own.
    pub fn start(config: &str) -> Self {
        let howdah = Self::spawn(config, &[]);
        howdah.await_listening();
        howdah
    }

    /// Starts it with more arguments after the configuration's path, and does not wait.
    pub fn spawn(config: &str, arguments: &[&str]) -> Self {
        Self::spawn_by(&[], config, arguments)
    }

    /// The same, run by another program, which becomes it.
    pub fn spawn_by(runner: &[&str], config: &str, arguments: &[&str]) -> Self {
        let (port, ops_port) = (free_port().expect("a port"), free_port().expect("a port"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = config
            .replace("{port}", &port.to_string())
            .replace("{ops_port}", &ops_port.to_string())
            .replace("{dir}", &directory.path().display().to_string());
        let path = directory.path().join("howdah.toml");
        let capacity = ["capacity_check", "instances", "[fleet]"].iter().any(|k| config.contains(k));
        std::fs::write(&path, config).expect("the configuration is written");
        let program = env!("CARGO_BIN_EXE_howdah");
        let words: Vec<&str> = runner.iter().copied().chain([program]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        // Scripted servers expect no login but those that the test is about.
        if !capacity {
            command.env("HOWDAH_CAPACITY_CHECK", "off");
        }
        let mut child = command
            .arg(&path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("howdah can be run");
        let log = Arc::new(Log::default());
        let mut readers = vec![log.follow(child.stdout.take().expect("piped"))];
        readers.push(log.follow(child.stderr.take().expect("piped")));
        Self { child, port, ops_port, log, readers, directory }
    }

    /// The configuration file; write it anew and call [`Howdah::hup`] to reload.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("howdah.toml")
    }

    pub fn rewrite_config(&self, config: &str) {
        let config = config
            .replace("{port}", &self.port.to_string())
            .replace("{ops_port}", &self.ops_port.to_string())
            .replace("{dir}", &self.directory.path().display().to_string());
        std::fs::write(self.config_path(), config).expect("the configuration is written");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn ops_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ops_port))
    }

    pub fn dsn(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub fn connect(&self, user: &str, database: &str) -> Result<Client, Error> {
        Client::connect(&Target::Tcp(self.address()), user, database)
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        self.log.lock().0.join("\n")
    }

    /// The first line, from the start of the process, that holds `text`; waits for it.
    pub fn await_log(&self, text: &str, timeout: Duration) -> String {
        let deadline = Instant::now() + timeout;
        let mut lines = self.log.lock();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = left.is_zero() || lines.1 == 0;
            assert!(!over, "no line with {text:?} in the log:\n{}", lines.0.join("\n"));
            lines = self.log.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the port accepts; fails at once, with the log, if the process has ended.
    pub fn await_listening(&self) {
        let deadline = Instant::now() + START_DEADLINE;
        while std::net::TcpStream::connect(self.address()).is_err() {
            let ended = self.log.lock().1 == 0;
            assert!(!ended && Instant::now() < deadline, "howdah does not listen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn term(&self) {
        self.signal("TERM");
    }

    pub fn hup(&self) {
        self.signal("HUP");
    }

    /// Sends a signal by its short name, for example `INT` or `USR1`.
    pub fn signal(&self, name: &str) {
        signal(name, &[self.pid()]).expect("a signal can be sent");
    }

    /// Waits until all that the process has printed is read. A child of its own that lives on may keep the outputs open.
    fn await_end_of_log(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut lines = self.log.lock();
        while lines.1 > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            lines = self.log.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the process, and kills it and fails after `timeout`; then its log is whole.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                self.await_end_of_log();
                return status;
            }
            if Instant::now() > deadline {
                drop(self.child.kill());
                panic!("howdah did not end within {timeout:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Howdah {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("--- log of howdah\n{}\n---", self.log());
        }
    }
}
