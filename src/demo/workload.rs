//! The demo's visible workload: many clients that move money between accounts, and check what they read.
//!
//! Every answer proves something: a reader sees a total of zero, whatever is being moved, and its own nonce,
//! so that a row of somebody else's would be noticed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::wire::{Client, Error, Target};

pub(super) const ACCOUNTS: u64 = 100;
/// Between two transactions of one client: most clients of a pooler are idle most of the time.
const THINK_TIME: Duration = Duration::from_millis(20);

/// What the clients have done so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) transactions: u64,
    pub(super) transfers: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    totals: Totals,
    stopping: bool,
    /// Of the transactions since the last look, in microseconds.
    latencies: Vec<u32>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stop: Condvar,
}

/// A running workload; [`Workload::finish`] ends it. Dropping it tells the clients to stop, too.
#[derive(Debug)]
pub(super) struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// Transactions since the last look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    pub(super) transactions: usize,
    pub(super) p50: Duration,
    pub(super) p95: Duration,
}

impl Workload {
    /// Starts `clients` clients of the proxy at `address`.
    pub(super) fn start(address: SocketAddr, clients: usize) -> std::io::Result<Self> {
        let mut workload = Self { shared: Arc::default(), clients: Vec::with_capacity(clients) };
        for id in 0..clients {
            let shared = Arc::clone(&workload.shared);
            let builder = std::thread::Builder::new().name(format!("client-{id}")).stack_size(256 << 10);
            workload.clients.push(builder.spawn(move || client(id, address, &shared))?);
        }
        Ok(workload)
    }

    pub(super) fn totals(&self) -> Totals {
        self.shared.state.lock().totals.clone()
    }

    pub(super) fn interval(&self) -> Interval {
        let mut latencies = std::mem::take(&mut self.shared.state.lock().latencies);
        latencies.sort_unstable();
        let at = |percent: usize| {
            let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            Duration::from_micros(latencies.get(index).copied().unwrap_or(0).into())
        };
        Interval { transactions: latencies.len(), p50: at(50), p95: at(95) }
    }

    /// Lets every client finish its transaction and leave.
    pub(super) fn finish(mut self) -> Totals {
        self.shared.ask_to_stop();
        for client in std::mem::take(&mut self.clients) {
            if client.join().is_err() {
                self.shared.fail("a client thread panicked".to_owned());
            }
        }
        self.totals()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.ask_to_stop();
    }
}

impl Shared {
    fn ask_to_stop(&self) {
        self.state.lock().stopping = true;
        self.stop.notify_all();
    }

    fn fail(&self, error: String) {
        let totals = &mut self.state.lock().totals;
        totals.errors += 1;
        totals.first_error.get_or_insert(error);
    }

    /// Counts a transaction, then thinks; false when it is time to leave.
    fn committed(&self, took: Duration, transfer: bool) -> bool {
        let mut state = self.state.lock();
        state.totals.transactions += 1;
        state.totals.transfers += u64::from(transfer);
        state.latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        self.stop.wait_while_for(&mut state, |s| !s.stopping, THINK_TIME);
        !state.stopping
    }
}

fn client(id: usize, address: SocketAddr, shared: &Shared) {
    if let Err(e) = session(id, address, shared) {
        shared.fail(format!("client {id}: {e}"));
    }
}

fn session(id: usize, address: SocketAddr, shared: &Shared) -> Result<(), Error> {
    let application = format!("howdah-demo-{id}");
    let startup = [("user", "app"), ("database", "app"), ("application_name", application.as_str())];
    let mut client = Client::connect_with(&Target::Tcp(address), &startup, Duration::from_secs(30))?;
    let mut turn = 0_u64;
    loop {
        let transfer = turn.is_multiple_of(2);
        let started = Instant::now();
        if transfer {
            move_money(&mut client, id as u64, turn)?;
        } else {
            check_total(&mut client, &format!("client-{id}-turn-{turn}"))?;
        }
        if !shared.committed(started.elapsed(), transfer) {
            return client.close().map_err(Error::Io);
        }
        turn += 1;
    }
}

/// Five round trips in one transaction. The lower account comes first, so that two transfers never deadlock.
fn move_money(client: &mut Client, id: u64, turn: u64) -> Result<(), Error> {
    let a = (id * 31 + turn * 17) % ACCOUNTS;
    let b = (a + 1 + (id + turn) % (ACCOUNTS - 1)) % ACCOUNTS;
    let amount = 1 + turn % 100;
    client.query("BEGIN")?;
    for (account, change) in [(a.min(b), format!("- {amount}")), (a.max(b), format!("+ {amount}"))] {
        let sql = format!(
            "UPDATE accounts SET balance = balance {change}, moves = moves + 1 WHERE id = {account} RETURNING id"
        );
        expect(&client.value(&sql)?, &account.to_string())?;
    }
    expect(
        &client.value(&format!("SELECT 'client-{id}-turn-{turn}'"))?,
        &format!("client-{id}-turn-{turn}"),
    )?;
    client.query("COMMIT").map(drop)
}

fn check_total(client: &mut Client, nonce: &str) -> Result<(), Error> {
    client.query("BEGIN READ ONLY")?;
    let seen = client.value(&format!("SELECT '{nonce} ' || sum(balance) FROM accounts"))?;
    expect(&seen, &format!("{nonce} 0"))?;
    client.query("COMMIT").map(drop)
}

fn expect(seen: &str, wanted: &str) -> Result<(), Error> {
    if seen == wanted {
        return Ok(());
    }
    Err(Error::Protocol(format!("read {seen:?} where {wanted:?} was right")))
}
