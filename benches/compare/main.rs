//! Howdah beside PgBouncer and a bare relay: `cargo bench --bench compare -- --help`.
//!
//! One program plays every role, each in a process of its own: the canned-answer backend, the load
//! generator, the relay that marks the floor, and the runner that starts them all in turn.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "the numbers are the benchmark's own, and a panic ends no service"
)]
#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod answers;
mod canned;
mod client;
mod contender;
mod histogram;
mod load;
mod login;
mod probe;
mod relay;
mod runner;
mod secure;
mod table;
mod wire;
mod workload;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures what a transaction costs in Howdah, PgBouncer and a bare relay")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    compare: runner::Args,
}

#[derive(Subcommand)]
enum Role {
    /// A fake PostgreSQL that answers everything from memory.
    Canned {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The load generator alone, against any pooler or server.
    Load(load::Args),
    /// A transaction-mode relay without features.
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        backend: SocketAddr,
        #[arg(long, default_value_t = 40)]
        pool_size: usize,
    },
    /// What TLS towards clients costs, beside another pooler.
    Tls(secure::Args),
    /// Asks a stats endpoint ten times a second, until it is gone.
    Scrape {
        #[arg(long)]
        address: SocketAddr,
    },
}

fn main() -> ExitCode {
    // `cargo bench` says `--bench`; `cargo test --all-targets` says nothing and wants nothing run.
    if std::env::args_os().len() == 1 {
        println!("nothing to test here; `cargo bench --bench compare` compares");
        return ExitCode::SUCCESS;
    }
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    let outcome = run(Cli::parse_from(arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> io::Result<()> {
    // Inherited by everything that is started below.
    howdah::net::descriptors::raise_limit(20_000);
    match cli.role {
        Some(Role::Canned { listen }) => canned::run(listen),
        Some(Role::Load(args)) => load::run(&args),
        Some(Role::Relay { listen, backend, pool_size }) => relay::run(listen, backend, pool_size),
        Some(Role::Tls(args)) => secure::run(&args),
        Some(Role::Scrape { address }) => scrape(address),
        None => runner::run(&cli.compare),
    }
}

fn scrape(address: SocketAddr) -> io::Result<()> {
    let mut answer = Vec::new();
    loop {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        answer.clear();
        stream.read_to_end(&mut answer)?;
        std::thread::sleep(Duration::from_millis(100));
    }
}
