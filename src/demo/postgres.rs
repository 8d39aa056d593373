//! A private PostgreSQL cluster in a temporary directory, for the demo and for tests.
//!
//! It listens on a Unix socket in that directory, which only its own account may enter, and on 127.0.0.1. It
//! is made for throw-away data: `fsync` is off. Everything here blocks; readiness is a real session, never a
//! fixed wait. Dropping a [`Cluster`] ends the server and removes the directory, and so does the death of the
//! process that made it.

mod rejoin;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Error;
use super::install::{Account, Install};
use super::process;
use super::scratch::Scratch;
use super::wire::{Client, Target};

/// The bootstrap superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Settings that every cluster starts with; [`Options::settings`] come after them and so win.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %u@%d %a "),
    // A replica finds its primary again soon after a restart.
    ("wal_retrieve_retry_interval", "200ms"),
];

/// What a cluster is made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which programs; `None` finds them.
    pub install: Option<Install>,
    /// Lines of postgresql.conf, for example `("max_connections", "200")`.
    pub settings: Vec<(String, String)>,
    /// Lines of pg_hba.conf for TCP; none means trust for everybody on 127.0.0.1. The Unix socket is always
    /// trusted, and cannot be reached by other accounts.
    pub hba: Vec<String>,
    /// Run once as the superuser, in order, when the cluster is new.
    pub initial_sql: Vec<String>,
}

impl Options {
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    #[must_use]
    pub fn sql(mut self, sql: &str) -> Self {
        self.initial_sql.push(sql.to_owned());
        self
    }
}

/// How the server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends its sessions with 57P01 and writes a checkpoint.
    Fast,
    /// Quits without a checkpoint; the next start recovers.
    Immediate,
    /// SIGKILL to every process, as a machine that fails.
    Kill,
}

/// One server.
#[derive(Debug)]
pub struct Cluster {
    install: Install,
    account: Option<Account>,
    options: Options,
    port: u16,
    server: Option<Child>,
    scratch: Scratch,
}

impl Cluster {
    /// Makes and starts a new cluster.
    pub fn start_new(options: Options) -> Result<Self, Error> {
        let mut cluster = Self::prepare(options)?;
        cluster.initdb()?;
        cluster.start_on_free_port()?;
        let mut client = cluster.connect(SUPERUSER, SUPERUSER)?;
        for sql in &cluster.options.initial_sql {
            client.query(sql)?;
        }
        Ok(cluster)
    }

    fn prepare(options: Options) -> Result<Self, Error> {
        let install = options.install.clone().map_or_else(Install::find, Ok)?;
        let account = Account::needed()?;
        let scratch = Scratch::new(account.as_ref())?;
        Ok(Self { install, account, options, port: 0, server: None, scratch })
    }

    pub fn install(&self) -> &Install {
        &self.install
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tcp(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The directory of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.scratch.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// A DSN over TCP.
    pub fn dsn(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// A session over the Unix socket, which is always trusted.
    pub fn connect(&self, user: &str, database: &str) -> Result<Client, Error> {
        Ok(Client::connect(&Target::unix(self.scratch.path(), self.port), user, database)?)
    }

    /// One value, asked by the superuser in a session of its own.
    pub fn value(&self, sql: &str) -> Result<String, Error> {
        Ok(self.connect(SUPERUSER, SUPERUSER)?.value(sql)?)
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Process id of the postmaster while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Starts a stopped server, on the port that it had.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.server.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.command(&self.install.bin().join("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(self.scratch.path());
        command.args(["-p", &self.port.to_string()]);
        command.stdout(log.try_clone()?).stderr(log);
        self.server = Some(command.spawn()?);
        self.await_ready()
    }

    /// Stops the server and waits for its end.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let pids = process::family(server.id());
        match how {
            // The first is the postmaster.
            Stop::Fast => process::signal("INT", pids.get(..1).unwrap_or_default())?,
            Stop::Immediate => process::signal("QUIT", pids.get(..1).unwrap_or_default())?,
            Stop::Kill => process::signal("KILL", &pids)?,
        }
        // A suspended server acts on none of these until it goes on.
        process::signal("CONT", &pids)?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while server.try_wait()?.is_none() {
            if Instant::now() > deadline {
                process::signal("KILL", &process::family(server.id()))?;
                server.wait()?;
                return Err(Error::Setup(format!("PostgreSQL did not stop: {}", self.log_tail())));
            }
            std::thread::sleep(POLL);
        }
        if how == Stop::Kill {
            // A server does not start while a process of the one before it has its shared memory. Those that were
            // killed may still be ending, and one may have been born while the signals were on their way.
            let home = self.data_dir().canonicalize()?;
            loop {
                let left = process::working_in(&home);
                if left.is_empty() {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Error::Setup(format!("processes of PostgreSQL did not end: {left:?}")));
                }
                process::signal("KILL", &left)?;
                std::thread::sleep(POLL);
            }
            // The number may soon be somebody else's.
            drop(std::fs::remove_file(self.data_dir().join("postmaster.pid")));
        }
        Ok(())
    }

    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// SIGSTOP to the postmaster and then to every process of its: it accepts connections and answers nothing.
    pub fn suspend(&self) -> Result<(), Error> {
        // Twice: a child may have been born while the first round was on its way.
        process::signal("STOP", &process::family(self.running()?))?;
        process::signal("STOP", &process::family(self.running()?))
    }

    /// SIGCONT to all of them.
    pub fn resume(&self) -> Result<(), Error> {
        process::signal("CONT", &process::family(self.running()?))
    }

    /// Rereads the configuration files.
    pub fn reload(&self) -> Result<(), Error> {
        process::signal("HUP", &[self.running()?])
    }

    /// Replaces the TCP lines of pg_hba.conf; effective after [`Cluster::reload`] or a start.
    pub fn write_hba(&self, lines: &[String]) -> Result<(), Error> {
        let mut text = String::from("local all all trust\nlocal replication all trust\n");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        self.write_data("pg_hba.conf", &text)
    }

    /// A streaming replica of this server, running. Where the installation has no `pg_basebackup`, this server
    /// is stopped for the time of the copy.
    pub fn replica(&mut self) -> Result<Self, Error> {
        let mut options = self.options.clone();
        options.install = Some(self.install.clone());
        options.initial_sql.clear();
        let mut replica = Self::prepare(options)?;
        match self.install.tool("pg_basebackup") {
            Some(tool) => self.base_backup(&replica, &tool)?,
            None => self.copy_stopped(&replica)?,
        }
        replica.start_on_free_port()?;
        Ok(replica)
    }

    /// Waits until this replica has replayed what `primary` has written so far.
    pub fn await_replay(&self, primary: &Self) -> Result<(), Error> {
        let target = primary.value("SELECT pg_current_wal_lsn()")?;
        let sql = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{target}', false)");
        let mut client = self.connect(SUPERUSER, SUPERUSER)?;
        let deadline = Instant::now() + START_DEADLINE;
        while client.value(&sql)? != "t" {
            if Instant::now() > deadline {
                return Err(Error::Setup(format!("the replica does not catch up: {}", self.log_tail())));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn initdb(&self) -> Result<(), Error> {
        let mut command = self.command(&self.install.bin().join("initdb"));
        command.arg("-D").arg(self.data_dir()).args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]);
        command.args(["--locale=C", "--no-sync"]);
        process::run(&mut command)?;
        let mut conf = OpenOptions::new().append(true).open(self.data_dir().join("postgresql.conf"))?;
        let given = self.options.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        for (name, value) in SETTINGS.iter().copied().chain(given) {
            writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        let everybody = ["host all all 127.0.0.1/32 trust".to_owned()];
        self.write_hba(if self.options.hba.is_empty() { &everybody } else { &self.options.hba })
    }

    fn base_backup(&self, replica: &Self, tool: &Path) -> Result<(), Error> {
        let mut command = replica.command(tool);
        command.arg("-D").arg(replica.data_dir()).arg("-h").arg(self.socket_dir());
        command.args(["-p", &self.port.to_string(), "-U", SUPERUSER]);
        command.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
        process::run(&mut command)
    }

    fn copy_stopped(&mut self, replica: &Self) -> Result<(), Error> {
        self.stop(Stop::Fast)?;
        let copied = process::run(
            replica.command(Path::new("cp")).arg("-a").arg(self.data_dir()).arg(replica.data_dir()),
        );
        self.start()?;
        copied?;
        let conninfo = format!("host={} port={} user={SUPERUSER}", self.socket_dir().display(), self.port)
            .replace('\'', "''");
        replica.write_data("standby.signal", "")?;
        let mut auto =
            OpenOptions::new().append(true).open(replica.data_dir().join("postgresql.auto.conf"))?;
        writeln!(auto, "primary_conninfo = '{conninfo}'")?;
        Ok(())
    }

    /// Another process may take a port between our look and the server's bind; then another one is tried.
    fn start_on_free_port(&mut self) -> Result<(), Error> {
        let mut tries = 5;
        loop {
            self.port = process::free_port()?;
            match self.start() {
                Err(e) if tries > 0 && self.log().contains("Address already in use") => {
                    drop(e);
                    tries -= 1;
                    drop(File::create(self.log_path())?);
                }
                other => return other,
            }
        }
    }

    /// Polls with real sessions; a server that has ended tells why.
    fn await_ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let refusal = match self.connect(SUPERUSER, SUPERUSER) {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            let ended = match &mut self.server {
                Some(server) => server.try_wait()?.is_some(),
                None => true,
            };
            if ended {
                self.server = None;
                return Err(Error::Setup(format!("PostgreSQL did not start:\n{}", self.log_tail())));
            }
            if Instant::now() > deadline {
                self.stop(Stop::Kill)?;
                let tail = self.log_tail();
                return Err(Error::Setup(format!("PostgreSQL is not ready: {refusal}\n{tail}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// A command that runs as the server's account, in its directory, with nothing of the caller's PostgreSQL
    /// environment, in a process group of its own so that Ctrl-C is ours to handle.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir(self.scratch.path()).process_group(0).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        command
    }

    fn write_data(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.data_dir().join(name);
        std::fs::write(&path, text)?;
        if let Some(account) = &self.account {
            std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))?;
        }
        Ok(())
    }

    fn running(&self) -> Result<u32, Error> {
        self.pid().ok_or_else(|| Error::Setup("the server is not running".to_owned()))
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A failure leaves the rest to the guard of the directory, which is dropped after this.
        drop(self.stop(Stop::Immediate));
    }
}
