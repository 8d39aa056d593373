//! The load generator: a closed loop over one epoll, so many transactions in flight and no more.
//!
//! Clients take turns (the one that waited longest goes next), so every client of 10,000 is used.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::client::{Client, Phase, Progress, Shared};
use crate::histogram::Histogram;
use crate::login::{Credentials, Keys};
use crate::wire;
use crate::workload::{self, Workload};

const STUCK: Duration = Duration::from_secs(20);
const MAX_ERRORS: u64 = 10_000;

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    /// Clients connected; the workload's own number unless told.
    #[arg(long)]
    pub(crate) clients: Option<usize>,
    /// Clients with a transaction in flight.
    #[arg(long)]
    pub(crate) in_flight: Option<usize>,
    /// Logins under way at once while the clients connect: fewer than any pooler's listen backlog.
    #[arg(long, default_value_t = 64)]
    pub(crate) connecting: usize,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// End after so many transactions instead.
    #[arg(long)]
    pub(crate) transactions: Option<u64>,
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warmup: f64,
    #[arg(long, default_value = "bench")]
    pub(crate) user: String,
    #[arg(long, default_value = "bench")]
    pub(crate) database: String,
    #[arg(long, default_value = "bench")]
    pub(crate) password: String,
    /// Say `ready` and wait for a line, `seconds N` or `transactions N`, before each measurement.
    #[arg(long)]
    pub(crate) driven: bool,
}

#[derive(Clone, Copy)]
enum Until {
    Elapsed(Duration),
    Transactions(u64),
}

struct Stats {
    latency: Histogram,
    transactions: u64,
    errors: u64,
    seconds: f64,
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let mut load = Load::new(args)?;
    if !args.workload.reconnects() {
        load.connect_all(args.connecting.max(1))?;
    }
    match args.workload {
        Workload::Idle => {}
        Workload::IdlePrepared => drop(load.drive(Until::Transactions(load.clients.len() as u64))?),
        _ => drop(load.drive(Until::Elapsed(Duration::from_secs_f64(args.warmup)))?),
    }
    if !args.driven {
        let until = args
            .transactions
            .map_or_else(|| Until::Elapsed(Duration::from_secs_f64(args.seconds)), Until::Transactions);
        return load.report(until);
    }
    let mut lines = io::stdin().lock().lines();
    loop {
        println!("ready");
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        let until = match line.split_once(' ') {
            Some(("seconds", text)) => text.parse().ok().map(|n| Until::Elapsed(Duration::from_secs_f64(n))),
            Some(("transactions", text)) => text.parse().ok().map(Until::Transactions),
            _ => None,
        };
        load.report(until.ok_or_else(|| wire::malformed("neither `seconds N` nor `transactions N`"))?)?;
    }
}

struct Load {
    poll: Poll,
    events: Events,
    shared: Shared,
    clients: Vec<Client>,
    idle: VecDeque<usize>,
    workload: Workload,
    in_flight: usize,
    number: u64,
    distinct: Vec<u8>,
}

impl Load {
    fn new(args: &Args) -> io::Result<Self> {
        let (clients, in_flight) = args.workload.size();
        let clients = args.clients.unwrap_or(clients);
        let mut load = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            shared: Shared {
                address: args.address,
                who: Credentials { user: args.user.clone(), password: args.password.clone() },
                keys: Keys::default(),
                startup: wire::startup(&args.user, &args.database),
                setup: args.workload.setup(),
                steps: args.workload.steps(),
                scratch: vec![0; 256 * 1024],
                first_error: None,
            },
            clients: (0..clients).map(|_| Client::new()).collect(),
            idle: VecDeque::with_capacity(clients),
            workload: args.workload,
            in_flight: args.in_flight.unwrap_or(in_flight).min(clients),
            number: 0,
            distinct: Vec::new(),
        };
        if args.workload.reconnects() {
            load.idle.extend(0..clients);
        }
        Ok(load)
    }

    /// Waits for events and serves each client that has one.
    fn pump(&mut self, each: &mut Vec<(usize, io::Result<Progress>)>) -> io::Result<()> {
        each.clear();
        self.poll.poll(&mut self.events, Some(STUCK))?;
        if self.events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer for 20 seconds"));
        }
        for event in &self.events {
            let key = event.token().0;
            if let Some(client) = self.clients.get_mut(key).filter(|client| client.phase != Phase::Offline) {
                let closed = event.is_read_closed() || event.is_error();
                each.push((key, client.serve(&mut self.shared, closed)));
            }
        }
        Ok(())
    }

    fn connect_all(&mut self, window: usize) -> io::Result<()> {
        let (mut next, mut arrived, mut progress) = (0, 0, Vec::new());
        while arrived < self.clients.len() {
            while next < self.clients.len() && next - arrived < window {
                self.clients[next].connect(next, &self.shared, self.poll.registry())?;
                next += 1;
            }
            self.pump(&mut progress)?;
            for (key, progress) in progress.drain(..) {
                if progress? == Progress::Arrived {
                    arrived += 1;
                    self.idle.push_back(key);
                }
            }
        }
        Ok(())
    }

    /// Starts the client that waited longest; false if there is none.
    fn start_next(&mut self) -> io::Result<bool> {
        while let Some(key) = self.idle.pop_front() {
            if self.workload.reconnects() {
                self.clients[key].connect(key, &self.shared, self.poll.registry())?;
                return Ok(true);
            }
            if self.clients[key].phase == Phase::Ready {
                let bytes = match self.workload {
                    Workload::SimpleDistinct => {
                        self.number += 1;
                        self.distinct.clear();
                        workload::distinct(&mut self.distinct, self.number);
                        &self.distinct
                    }
                    _ => &self.shared.steps[0].bytes,
                };
                self.clients[key].start(bytes)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs the closed loop and lets it run dry, so that no transaction is counted half.
    fn drive(&mut self, until: Until) -> io::Result<Stats> {
        let began = Instant::now();
        let mut stats = Stats { latency: Histogram::new(), transactions: 0, errors: 0, seconds: 0.0 };
        let (mut flying, mut started, mut progress) = (0, 0, Vec::new());
        let reconnects = self.workload.reconnects();
        loop {
            let more = match until {
                Until::Elapsed(limit) => began.elapsed() < limit,
                Until::Transactions(limit) => started < limit,
            };
            while more && flying < self.in_flight {
                if matches!(until, Until::Transactions(limit) if started >= limit) || !self.start_next()? {
                    break;
                }
                flying += 1;
                started += 1;
            }
            if flying == 0 {
                break;
            }
            self.pump(&mut progress)?;
            for (key, progress) in progress.drain(..) {
                let client = &mut self.clients[key];
                match progress {
                    Ok(Progress::Waiting) => {}
                    Ok(Progress::Arrived) => client.go_on(&self.shared.steps[0].bytes)?,
                    Ok(Progress::Finished { failed }) => {
                        stats.latency.record(client.began.elapsed());
                        stats.transactions += 1;
                        stats.errors += u64::from(failed);
                        flying -= 1;
                        if reconnects {
                            client.disconnect();
                        }
                        self.idle.push_back(key);
                    }
                    Err(error) => {
                        let waiting = reconnects || client.phase == Phase::Busy;
                        client.disconnect();
                        stats.errors += 1;
                        self.shared.first_error.get_or_insert_with(|| error.to_string());
                        if waiting {
                            flying -= 1;
                        }
                        if reconnects {
                            self.idle.push_back(key);
                        }
                        if stats.errors > MAX_ERRORS {
                            return Err(error);
                        }
                    }
                }
            }
        }
        stats.seconds = began.elapsed().as_secs_f64();
        Ok(stats)
    }

    fn report(&mut self, until: Until) -> io::Result<()> {
        let stats = self.drive(until)?;
        if let Some(error) = self.shared.first_error.take() {
            eprintln!("load: first error: {error}");
        }
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| stats.latency.quantile(share));
        println!(
            "result transactions={} errors={} seconds={:.4} tps={:.0} p50={p50:.1} p99={p99:.1} p999={p999:.1}",
            stats.transactions,
            stats.errors,
            stats.seconds,
            stats.transactions as f64 / stats.seconds,
        );
        io::stdout().flush()
    }
}
