//! The poolers under test: how each is configured alike, started, pinned and stopped.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::login;
use crate::workload::Workload;

/// `nobody` on every common system; PgBouncer refuses to run as root.
const NOBODY: u32 = 65_534;

#[derive(Clone)]
pub(crate) enum Contender {
    Howdah { binary: PathBuf, workers: usize },
    PgBouncer { binary: PathBuf, release: String, version: (u32, u32) },
    Relay,
}

/// What every contender is told.
pub(crate) struct Setting<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) backend: SocketAddr,
    pub(crate) pool_size: usize,
    pub(crate) workload: Workload,
    pub(crate) cpus: Option<String>,
    /// Clients need TLS; its key and certificate lie in the directory.
    pub(crate) tls: bool,
}

/// A process that dies with its owner.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Contender {
    pub(crate) fn pgbouncer(binary: PathBuf) -> io::Result<Self> {
        let output = unprivileged(&mut Command::new(&binary)).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let release = text.strip_prefix("PgBouncer ").and_then(|rest| rest.split_whitespace().next());
        let version = release.and_then(|release| {
            let mut parts = release.split('.').map(|part| part.parse().ok());
            Some((parts.next()??, parts.next()??))
        });
        match release.zip(version) {
            Some((release, version)) => Ok(Self::PgBouncer { release: release.to_owned(), binary, version }),
            None => Err(io::Error::other("it does not call itself PgBouncer")),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Howdah { workers: 1, .. } => "Howdah".to_owned(),
            Self::Howdah { workers, .. } => format!("Howdah, {workers} workers"),
            Self::PgBouncer { release, .. } => format!("PgBouncer {release}"),
            Self::Relay => "bare relay".to_owned(),
        }
    }

    /// Whether the workload can be asked of it at all.
    pub(crate) fn can(&self, workload: Workload) -> bool {
        match self {
            Self::Howdah { .. } => true,
            Self::PgBouncer { version, .. } => *version >= (1, 21) || !workload.prepares(),
            Self::Relay => workload != Workload::Scram,
        }
    }

    pub(crate) fn start(&self, setting: &Setting<'_>) -> io::Result<Running> {
        let address = free_address()?;
        let mut command = match self {
            Self::Howdah { binary, workers } => {
                let file =
                    write(setting.directory, "howdah.toml", &howdah_toml(address, *workers, setting)?)?;
                let mut command = pinned(binary, setting.cpus.as_deref());
                command.arg(file);
                command
            }
            Self::PgBouncer { binary, version, .. } => {
                let users = format!("\"bench\" \"{}\"\n", login::verifier("bench"));
                let users = write(setting.directory, "users.txt", &users)?;
                let text = pgbouncer_ini(address, &users, *version, setting);
                let file = write(setting.directory, "pgbouncer.ini", &text)?;
                let mut command = pinned(binary, setting.cpus.as_deref());
                unprivileged(&mut command).arg(file);
                command
            }
            Self::Relay => {
                let mut command = pinned(&std::env::current_exe()?, setting.cpus.as_deref());
                command.args(["relay", "--listen", &address.to_string()]);
                command.args(["--backend", &setting.backend.to_string()]);
                command.args(["--pool-size", &setting.pool_size.to_string()]);
                command
            }
        };
        launch(&mut command, address, &setting.directory.join("pooler.log"))
    }
}

/// The command, on the given CPUs only.
pub(crate) fn pinned(program: &Path, cpus: Option<&str>) -> Command {
    let Some(cpus) = cpus else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", cpus]).arg(program);
    command
}

/// Starts a server and waits until it accepts connections.
pub(crate) fn launch(command: &mut Command, address: SocketAddr, log: &Path) -> io::Result<Running> {
    let file = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut running = Running { child: command.spawn()?, address };
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        let ended = running.child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing").to_owned();
            let how = ended.map_or_else(|| "does not listen".to_owned(), |status| status.to_string());
            return Err(io::Error::other(format!("{how}: {last}")));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(running)
}

/// A fresh port each time, below the range that outgoing connections use.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        let offset = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 64;
        let address = SocketAddr::from(([127, 0, 0, 1], 17_000 + (offset % 12_000) as u16));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn unprivileged(command: &mut Command) -> &mut Command {
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if root { command.uid(NOBODY).gid(NOBODY) } else { command }
}

fn write(directory: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

/// The certificate and its key, where clients need TLS.
fn tls_files(setting: &Setting<'_>) -> Option<[String; 2]> {
    setting.tls.then(|| ["tls.crt", "tls.key"].map(|f| setting.directory.join(f).display().to_string()))
}

fn howdah_toml(address: SocketAddr, workers: usize, setting: &Setting<'_>) -> io::Result<String> {
    let ops = free_address()?;
    let (method, password) = match setting.workload {
        Workload::Scram => ("scram-sha-256", format!("password = \"{}\"", login::verifier("bench"))),
        _ => ("trust", String::new()),
    };
    let (host, port, pool_size) = (setting.backend.ip(), setting.backend.port(), setting.pool_size);
    let tls = tls_files(setting).map_or_else(String::new, |[crt, key]| {
        format!("client_tls_mode = \"require\"\nclient_tls_cert = \"{crt}\"\nclient_tls_key = \"{key}\"")
    });
    Ok(format!(
        r#"listen = ["{address}"]
{tls}
auth_method = "{method}"
log_connections = false
log_disconnections = false
ops_listen = "{ops}"
workers = {workers}
[users.bench]
{password}
[databases.bench]
host = "{host}"
port = {port}
pool_size = {pool_size}
"#
    ))
}

fn pgbouncer_ini(address: SocketAddr, users: &Path, version: (u32, u32), setting: &Setting<'_>) -> String {
    let method = if setting.workload == Workload::Scram { "scram-sha-256" } else { "trust" };
    // Earlier releases do not know the setting and would not start with it.
    let prepared = if version >= (1, 21) { "max_prepared_statements = 200" } else { "" };
    let (host, port, pool_size) = (setting.backend.ip(), setting.backend.port(), setting.pool_size);
    let tls = tls_files(setting).map_or_else(String::new, |[crt, key]| {
        format!("client_tls_sslmode = require\nclient_tls_cert_file = {crt}\nclient_tls_key_file = {key}")
    });
    format!(
        "[databases]
bench = host={host} port={port} dbname=bench
[pgbouncer]
listen_addr = {}
listen_port = {}
unix_socket_dir =
auth_type = {method}
auth_file = {}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 12000
server_idle_timeout = 0
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
{prepared}
{tls}
",
        address.ip(),
        address.port(),
        users.display(),
    )
}
