//! The comparison: for each workload and round, every contender in turn, pinned alike.
//!
//! The pooler has CPU 0 to itself; the backend and the load generator share CPU 1. Turn by turn
//! (A B C A B C), so that whatever else the machine does meets all of them alike.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::ValueEnum;

use crate::contender::{Contender, Setting, free_address, launch, pinned};
use crate::probe::{self, Cpu, Tool};
use crate::table::{self, Row, Sample};
use crate::workload::Workload;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// One round of one second: does it work at all?
    #[arg(long)]
    short: bool,
    /// PgBouncer binaries, the first of which is what ratios refer to [default: $PGBOUNCER, or the
    /// one in PATH or /usr/sbin].
    #[arg(long, value_delimiter = ',')]
    rivals: Vec<PathBuf>,
    /// Howdah's binary [default: $HOWDAH_BIN, or the one built beside this bench].
    #[arg(long)]
    howdah: Option<PathBuf>,
    /// Numbers of Howdah's workers; each is a contender of its own.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    workers: Vec<usize>,
    /// All unless told.
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Of each contender, in server connections.
    #[arg(long, default_value_t = 40)]
    pool_size: usize,
    /// Clients connected, instead of each workload's own number.
    #[arg(long)]
    clients: Option<usize>,
    #[arg(long)]
    in_flight: Option<usize>,
    /// A real PostgreSQL instead of the canned backend: user and database `bench`, trusted, with a
    /// table `howdah_bench (line text)` for COPY.
    #[arg(long)]
    backend: Option<SocketAddr>,
    /// Leave system calls and instructions uncounted.
    #[arg(long)]
    no_counts: bool,
    #[arg(long)]
    no_relay: bool,
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let scratch = tempfile::tempdir()?;
    let directory = scratch.path();
    // PgBouncer runs as another user and must be able to read its configuration.
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let pin = pinning();
    let canned = match args.backend {
        Some(_) => None,
        None => {
            let address = free_address()?;
            let mut command = pinned(&env::current_exe()?, pin.then_some("1"));
            command.args(["canned", "--listen", &address.to_string()]);
            Some(launch(&mut command, address, &directory.join("canned.log"))?)
        }
    };
    let backend = args.backend.or(canned.as_ref().map(|running| running.address));
    let backend = backend.ok_or_else(|| io::Error::other("no backend"))?;
    let bench =
        Bench { args, directory, backend, pin, tool: (!args.no_counts).then(Tool::available).flatten() };
    let contenders = bench.contenders();
    let workloads =
        if args.workloads.is_empty() { Workload::value_variants() } else { args.workloads.as_slice() };
    let mut rows = Vec::new();
    for workload in workloads {
        rows.extend(bench.compare(*workload, &contenders));
    }
    println!("{}", table::render(&rows));
    Ok(())
}

/// Whether there are two CPUs to pin to, and the tool for it.
fn pinning() -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
    let mut probe = pinned(Path::new("true"), Some("1"));
    let works = two && probe.status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("not pinned: this takes two CPUs and `taskset`; throughput and latency will not compare");
    }
    works
}

struct Bench<'a> {
    args: &'a Args,
    directory: &'a Path,
    backend: SocketAddr,
    pin: bool,
    tool: Option<Tool>,
}

impl Bench<'_> {
    fn contenders(&self) -> Vec<Contender> {
        let args = self.args;
        let mut contenders = Vec::new();
        let howdah = args.howdah.clone().or_else(|| env::var_os("HOWDAH_BIN").map(PathBuf::from));
        let howdah = howdah.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_howdah")));
        for workers in &args.workers {
            contenders.push(Contender::Howdah { binary: howdah.clone(), workers: *workers });
        }
        let mut rivals = args.rivals.clone();
        if rivals.is_empty() {
            rivals.push(env::var_os("PGBOUNCER").map_or_else(installed, PathBuf::from));
        }
        for rival in rivals {
            match Contender::pgbouncer(rival.clone()) {
                Ok(contender) => contenders.push(contender),
                Err(error) => eprintln!("left out {}: {error}", rival.display()),
            }
        }
        if !args.no_relay {
            contenders.push(Contender::Relay);
        }
        contenders
    }

    fn compare(&self, workload: Workload, contenders: &[Contender]) -> Vec<Row> {
        let mut able: Vec<_> = contenders.iter().filter(|one| one.can(workload)).collect();
        let first_rival =
            able.iter().find(|one| matches!(one, Contender::PgBouncer { .. })).map(|one| one.name());
        let mut rows: Vec<Row> =
            able.iter().map(|one| self.row(workload, one, first_rival.as_deref())).collect();
        let rounds = if self.args.short { 1 } else { self.args.rounds };
        for round in 0..rounds {
            for (contender, row) in able.iter_mut().zip(&mut rows) {
                if row.failure.is_some() {
                    continue;
                }
                if let Err(error) = self.measure(workload, contender, round == 0, row) {
                    row.failure = Some(error.to_string());
                }
                if let Some(sample) = row.samples.last() {
                    let (cpu, tps) = (sample.cpu, sample.tps);
                    let (name, round) = (&row.contender, round + 1);
                    let what = &row.workload;
                    eprintln!("{what:<16} {name:<18} round {round}: {cpu:.2} µs/tx, {tps:.0} tx/s");
                }
            }
        }
        rows
    }

    fn row(&self, workload: Workload, contender: &Contender, reference: Option<&str>) -> Row {
        Row {
            workload: workload.name(),
            contender: contender.name(),
            idle: workload.idles(),
            reference: reference == Some(contender.name().as_str()),
            samples: Vec::new(),
            syscalls: None,
            instructions: None,
            failure: None,
        }
    }

    fn measure(
        &self,
        workload: Workload,
        contender: &Contender,
        count: bool,
        row: &mut Row,
    ) -> io::Result<()> {
        let cpus = match contender {
            Contender::Howdah { workers, .. } if *workers > 1 => format!("0-{}", workers - 1),
            _ => "0".to_owned(),
        };
        let setting = Setting {
            directory: self.directory,
            backend: self.backend,
            pool_size: self.args.pool_size,
            workload,
            cpus: self.pin.then_some(cpus),
            tls: false,
        };
        let running = contender.start(&setting)?;
        let pid = running.child.id();
        let mut load = Load::start(self, workload, running.address)?;
        let mut sample = Sample::default();
        if workload.idles() {
            sleep(Duration::from_secs(1));
        } else {
            let seconds = if self.args.short { 1.0 } else { self.args.seconds };
            let before = Cpu::of(pid)?;
            let result = load.measure(&format!("seconds {seconds}"))?;
            let spent = Cpu::of(pid)?.since(before);
            let transactions = result.get("transactions").max(1.0);
            sample.cpu = spent.total / transactions / 1_000.0;
            sample.user = spent.user / transactions / 1_000.0;
            sample.tps = result.get("tps");
            (sample.p50, sample.p99, sample.p999) =
                (result.get("p50"), result.get("p99"), result.get("p999"));
            sample.errors = result.get("errors") as u64;
        }
        let (rss, pss) = probe::memory(pid);
        let megabytes = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
        (sample.rss, sample.pss) = (megabytes(rss), megabytes(pss));
        row.samples.push(sample);
        if let (Some(tool), true, false) = (self.tool, count, workload.idles()) {
            let output = self.directory.join("counts.txt");
            let counter = tool.attach(pid, &output)?;
            let result = load.measure(if tool == Tool::Perf { "seconds 1" } else { "transactions 4000" });
            let counts = counter.finish(&output)?;
            let transactions = result?.get("transactions").max(1.0);
            row.syscalls = counts.syscalls.map(|value| value as f64 / transactions);
            row.instructions = counts.instructions.map(|value| value as f64 / transactions);
        }
        Ok(())
    }
}

/// The load generator in its own process, driven through its pipes.
struct Load {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// One `result` line of the load generator.
struct Outcome(String);

impl Outcome {
    fn get(&self, name: &str) -> f64 {
        let fields = self.0.split(' ').filter_map(|field| field.split_once('='));
        fields.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0.0)
    }
}

impl Load {
    fn start(bench: &Bench<'_>, workload: Workload, address: SocketAddr) -> io::Result<Self> {
        let mut command = pinned(&env::current_exe()?, bench.pin.then_some("1"));
        command.args(["load", "--driven", "--address", &address.to_string()]);
        command.args(["--workload", &workload.name()]);
        for (name, value) in [("--clients", bench.args.clients), ("--in-flight", bench.args.in_flight)] {
            if let Some(value) = value {
                command.args([name, &value.to_string()]);
            }
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("no pipes to the load generator"))?;
        let mut load = Self { child, input, output: BufReader::new(output) };
        load.line("ready")?;
        Ok(load)
    }

    fn line(&mut self, wanted: &str) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.starts_with(wanted) {
            return Ok(line.trim_end().to_owned());
        }
        Err(io::Error::other("the load generator gave up"))
    }

    fn measure(&mut self, command: &str) -> io::Result<Outcome> {
        writeln!(self.input, "{command}")?;
        let outcome = Outcome(self.line("result")?);
        self.line("ready")?;
        Ok(outcome)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|one| one.join("pgbouncer")).find(|one| one.is_file());
    found.unwrap_or_else(|| PathBuf::from("/usr/sbin/pgbouncer"))
}
