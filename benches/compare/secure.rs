//! What TLS towards clients costs: a transaction, a handshake, an idle client. `compare tls`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args as Arguments;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::contender::{Contender, Setting, free_address, launch, pinned};
use crate::probe::{Cpu, memory};
use crate::wire;
use crate::workload::Workload;

#[derive(Arguments)]
pub(crate) struct Args {
    #[arg(long)]
    howdah: Option<PathBuf>,
    /// Another pooler's binary.
    #[arg(long, default_value = "/usr/sbin/pgbouncer")]
    rival: PathBuf,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Idle clients.
    #[arg(long, default_value_t = 2000)]
    idle: usize,
}

type Client = StreamOwned<ClientConnection, TcpStream>;

/// The certificate is the bench's own.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn client_config() -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    // Each handshake is a whole one.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Client> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
    let mut answer = [0];
    tcp.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other("no TLS is offered"));
    }
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut client = StreamOwned::new(tls, tcp);
    client.write_all(&wire::startup("bench", "bench"))?;
    until_ready(&mut client)?;
    Ok(client)
}

fn until_ready(client: &mut Client) -> io::Result<()> {
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = client.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&chunk[..n]);
        let mut at = 0;
        while let Some((tag, _, total)) = wire::whole(&seen[at..])? {
            match tag {
                b'E' => return Err(io::Error::other("an error")),
                b'Z' => return Ok(()),
                _ => at += total,
            }
        }
        seen.drain(..at);
    }
}

/// What one contender cost in one round.
struct Costs {
    /// Microseconds of CPU.
    transaction: f64,
    handshake: f64,
    handshakes_per_second: f64,
    idle_bytes: f64,
}

/// Runs `work` on so many threads for so long; how often it was done, and the pooler's CPU for each in microseconds.
fn timed(
    pid: u32,
    threads: usize,
    time: Duration,
    work: impl Fn() -> io::Result<Box<dyn FnMut() -> io::Result<()>>> + Sync,
) -> io::Result<(u64, f64)> {
    let done = AtomicU64::new(0);
    let before = Cpu::of(pid)?;
    let failed = std::thread::scope(|scope| {
        let run = || -> io::Result<()> {
            let mut once = work()?;
            let began = Instant::now();
            while began.elapsed() < time {
                once()?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().filter_map(|t| t.join().ok()?.err()).next()
    });
    if let Some(e) = failed {
        return Err(e);
    }
    let spent = Cpu::of(pid)?.since(before);
    let done = done.load(Ordering::Relaxed);
    Ok((done, spent.total / 1e3 / done.max(1) as f64))
}

fn measure(args: &Args, contender: &Contender, setting: &Setting<'_>) -> io::Result<Costs> {
    let pooler = contender.start(setting)?;
    let (pid, address) = (pooler.child.id(), pooler.address);
    let config = client_config()?;
    let time = Duration::from_secs(args.seconds);
    let (_, transaction) = timed(pid, 20, time, || {
        let mut client = connect(address, &config)?;
        let query = wire::query("SELECT 17 AS answer");
        Ok(Box::new(move || {
            client.write_all(&query)?;
            until_ready(&mut client)
        }))
    })?;
    let (handshakes, handshake) = timed(pid, 8, time, || {
        let config = config.clone();
        Ok(Box::new(move || connect(address, &config).map(drop)))
    })?;
    let resident = || memory(pid).0.unwrap_or(0) as f64;
    let before = resident();
    let clients: Vec<Client> =
        (0..args.idle).map(|_| connect(address, &config)).collect::<io::Result<_>>()?;
    let idle_bytes = (resident() - before) / args.idle as f64;
    drop(clients);
    let handshakes_per_second = handshakes as f64 / time.as_secs_f64();
    Ok(Costs { transaction, handshake, handshakes_per_second, idle_bytes })
}

/// A key and a certificate that says what it is for.
fn certificate(directory: &Path) -> io::Result<()> {
    let [key, crt] = ["tls.key", "tls.crt"].map(|f| directory.join(f));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&crt)
        .output()?;
    if !made.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
    }
    // PgBouncer reads them as another user.
    for file in [key, crt] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let scratch = tempfile::tempdir()?;
    let directory = scratch.path();
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    certificate(directory)?;
    // The poolers have the first CPU, the rest of this the second.
    let this = std::process::id().to_string();
    drop(Command::new("taskset").args(["-a", "-c", "-p", "1", &this]).output());
    let backend = free_address()?;
    let mut command = pinned(&std::env::current_exe()?, Some("1"));
    command.args(["canned", "--listen", &backend.to_string()]);
    let _canned = launch(&mut command, backend, &directory.join("canned.log"))?;
    let binary = args.howdah.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_howdah")));
    let contenders = [Contender::Howdah { binary, workers: 1 }, Contender::pgbouncer(args.rival.clone())?];
    let mut all: [Vec<Costs>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..args.rounds {
        for (contender, costs) in contenders.iter().zip(&mut all) {
            let setting = Setting {
                directory,
                backend,
                pool_size: 20,
                workload: Workload::Simple,
                cpus: Some("0".to_owned()),
                tls: true,
            };
            costs.push(measure(args, contender, &setting)?);
        }
    }
    println!(
        "{:<20} {:>14} {:>14} {:>13} {:>16}",
        "", "us/transaction", "us/handshake", "handshakes/s", "bytes/idle client"
    );
    for (contender, costs) in contenders.iter().zip(&all) {
        let of = |f: fn(&Costs) -> f64| median(costs.iter().map(f).collect());
        println!(
            "{:<20} {:>14.2} {:>14.1} {:>13.0} {:>16.0}",
            contender.name(),
            of(|c| c.transaction),
            of(|c| c.handshake),
            of(|c| c.handshakes_per_second),
            of(|c| c.idle_bytes)
        );
    }
    Ok(())
}
