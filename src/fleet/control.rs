//! The control connection of one instance to one host, for as long as there is a budget.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::link::{Control, Lost, called, connect};
use super::share::Member;
use super::sql::Decision;
use crate::capacity::need::{self, HostNeed};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolved::HostAddr;
use crate::pool::Pool;
use crate::pool::ledger::Ledger;
use crate::services::Services;

/// After a control connection has gone nobody grows for so long: logins of its instance show by then, or are over.
pub const SETTLE: Duration = Duration::from_millis(500);
/// How often the pools' wishes are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The oldest that a view of the others may get, whether anybody calls or not.
pub(super) const STALE: Duration = Duration::from_millis(400);
/// After a look that got the pools nothing that they lack, and between looks that others call for.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// What a pool wanted in so long a time counts as what it wants: transactions are shorter than a tick.
const REMEMBERED: Duration = Duration::from_secs(1);

/// What is remembered of a host across control connections.
#[derive(Debug)]
struct Host {
    services: Arc<Services>,
    host: HostAddr,
    control: Option<Control>,
    connecting: Option<JoinHandle<Result<Control, Lost>>>,
    lost_at: Instant,
    retry_at: Instant,
    /// Each is greater than those behind it.
    wishes: VecDeque<(Instant, u32)>,
    /// The last request got nothing.
    refused: bool,
    /// Until then no pool's want is a reason to look: the last look left some of it, and can do no more.
    rests_until: Option<Instant>,
}

/// Bounds every host of the configuration and starts its control; those that have one go on. The control connections
/// are tried once before this returns, so that what can never work is told at the start.
pub async fn begin(services: &Arc<Services>, config: &Arc<Config>) -> Result<(), String> {
    let mut unfit = Vec::new();
    for need in bounded(config) {
        if !services.ledger.bound(&need.host) {
            continue;
        }
        let now = Clock::now();
        let mut host = Host {
            services: services.clone(),
            host: need.host.clone(),
            control: None,
            connecting: None,
            lost_at: now,
            retry_at: now,
            wishes: VecDeque::new(),
            refused: false,
            rests_until: None,
        };
        match connect(services, config, &need).await {
            Ok(control) => host.control = Some(control),
            Err(Lost::Unfit(why)) => unfit.push(format!("{}: {why}", need.host)),
            Err(Lost::Unreachable(why)) if config.capacity.startup_requires_server => {
                unfit.push(format!(
                    "{}: no control connection, and startup_requires_server is true: {why}",
                    need.host
                ));
            }
            Err(Lost::Unreachable(why)) => host.lost(&why),
        }
        tokio::spawn(host.run());
    }
    if unfit.is_empty() { Ok(()) } else { Err(unfit.join("\n")) }
}

/// [`begin`] at a reload, when nothing waits for it.
pub fn follow(services: &Arc<Services>, config: &Arc<Config>) {
    let (services, config) = (services.clone(), config.clone());
    tokio::spawn(async move {
        if let Err(why) = begin(&services, &config).await {
            tracing::error!("fleet: {why}");
        }
    });
}

fn bounded(config: &Config) -> Vec<HostNeed> {
    if config.fleet.budget.is_none() { Vec::new() } else { need::needs(config) }
}

/// What the pools of this instance want of a host.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    /// Connections that they could keep busy.
    wants: u32,
    /// Connections that they would open at once.
    lack: u32,
}

/// What ends the wait for the next look.
enum Event {
    Look,
    Wanted,
    Called(u64),
    Joined(Box<Control>),
    Lost(String),
}

/// However many clients queue, it is a reason to look once in [`PAUSE`].
async fn place_wanted(ledger: &Ledger, host: &HostAddr, rests_until: Option<Instant>) {
    if let Some(until) = rests_until {
        tokio::time::sleep_until(until.into()).await;
    }
    ledger.place_wanted(host).await;
}

async fn joined(connecting: &mut Option<JoinHandle<Result<Control, Lost>>>) -> Result<Control, Lost> {
    let Some(task) = connecting else { return std::future::pending().await };
    let joined = task.await;
    *connecting = None;
    joined.unwrap_or_else(|e| Err(Lost::Unreachable(e.to_string())))
}

impl Host {
    async fn run(mut self) {
        loop {
            let config = self.services.config();
            let Some(need) = bounded(&config).into_iter().find(|n| n.host == self.host) else {
                self.services.ledger.unbound(&self.host);
                self.report(None);
                return;
            };
            let due = Clock::now() >= self.retry_at;
            if self.control.is_none() && self.connecting.is_none() && due {
                // Beside what follows: a dial into the dark takes longer than the pools may keep what they have.
                let (services, config, need) = (self.services.clone(), config.clone(), need.clone());
                self.connecting = Some(tokio::spawn(async move { connect(&services, &config, &need).await }));
            }
            if self.control.as_mut().is_some_and(|c| !c.follow(&config, &need)) {
                self.lost("it is of another name or in another database from now on");
                continue;
            }
            self.turn(&config).await;
            let pause = match &self.control {
                _ if self.refused => PAUSE,
                Some(control) => control.patience(Clock::now()),
                None => TICK,
            };
            let event = tokio::select! {
                () = place_wanted(&self.services.ledger, &self.host, self.rests_until) => Event::Wanted,
                () = tokio::time::sleep(pause) => Event::Look,
                calls = called(&mut self.control) => calls.map_or_else(Event::Lost, Event::Called),
                joined = joined(&mut self.connecting) => match joined {
                    Ok(control) => Event::Joined(Box::new(control)),
                    Err(why) => Event::Lost(why.to_string()),
                },
            };
            match event {
                Event::Look => {}
                Event::Wanted => self.services.counters.count("fleet_wants_total", ""),
                Event::Called(n) => self.count_wakes("heard", n),
                Event::Joined(control) => self.control = Some(*control),
                Event::Lost(why) => self.lost(&why),
            }
        }
    }

    fn lost(&mut self, why: &str) {
        let now = Clock::now();
        let had = self.control.take();
        let first = had.is_some() || self.retry_at == self.lost_at;
        self.retry_at = now + SETTLE;
        if first {
            // What the server said last is the last that is known to be true.
            self.lost_at = had.and_then(|c| c.seen.map(|(at, _)| at)).unwrap_or(now);
            self.services.counters.count("fleet_control_losses_total", "");
            tracing::warn!(host = %self.host, error = why, "fleet: no control connection, so no pool grows");
        }
        // What was granted through it and is not open yet is nobody's any more.
        self.services.ledger.revoke(&self.host);
        self.report_loss();
    }

    /// A host that pools could use but do not, such as a primary of before, makes no instance unready.
    fn report_loss(&self) {
        let all = self.services.pools.all();
        let here = |p: &&Arc<Pool>| p.current_host().as_ref() == Some(&self.host);
        let used = |p: &Arc<Pool>| p.key.host.is_none() || p.counts().live() + p.counts().waiting > 0;
        let elsewhere = all.iter().any(|p| p.spec().hosts.contains(&self.host));
        let matters = all.iter().filter(here).any(used) || !elsewhere;
        self.report(matters.then(|| "no control connection of the fleet".to_owned()));
    }

    fn count_wakes(&self, direction: &'static str, n: u64) {
        for _ in 0..n {
            self.services.counters.count("fleet_wakes_total", direction);
        }
    }

    /// One look at the pools, and what follows from it.
    async fn turn(&mut self, config: &Config) {
        let pools = pools(&self.services, &self.host);
        let wish = self.wish(&pools);
        let now = Clock::now();
        self.rests_until = (wish.lack > 0).then(|| now + PAUSE);
        self.refused = false;
        let Some(control) = &mut self.control else {
            if now.saturating_duration_since(self.lost_at) >= config.fleet.control_timeout {
                let open = self.services.ledger.places(&self.host, now, SETTLE).open;
                self.give_back(&pools, open.saturating_sub(config.fleet.minimum as usize));
            }
            self.report_loss();
            return;
        };
        // Places that nobody needs any more are free again when the others hear of it.
        let mut places = self.services.ledger.places(&self.host, now, SETTLE);
        if places.granted > wish.lack as usize {
            self.services.ledger.cap_grant(&self.host, wish.lack as usize);
            places = self.services.ledger.places(&self.host, now, SETTLE);
        }
        let me = control.member(&places, wish.wants);
        let has = me.used + me.opening;
        let share = control.seen.as_ref().map_or(0, |(_, view)| control.terms.share_of(view, &me));
        let unused = crate::number::count(places.granted);
        let lack = wish.lack.saturating_sub(unused);
        let mut wanted = lack.min(share.max(me.minimum).saturating_sub(has));
        // More than its share only by closing something else.
        let at_share = lack > 0 && wanted == 0;
        if now < control.frozen_until {
            wanted = 0;
        }
        if wanted > 0 || control.must_ask(&me, now) {
            match control.ask(&me, wanted).await {
                Ok((decision, called)) => {
                    if let Some(direction) = called {
                        self.count_wakes(direction, 1);
                    }
                    self.decided(&decision, &me, wanted);
                }
                Err(why) => return self.lost(&why),
            }
        }
        self.divide(&pools, wish, at_share);
    }

    fn decided(&mut self, decision: &Decision, me: &Member, wanted: u32) {
        if decision.vanished > 0 {
            self.services.counters.count("fleet_settles_total", "");
        }
        if decision.granted > 0 {
            self.rests_until = None;
            self.services.ledger.grant(&self.host, decision.granted as usize);
            self.services.counters.count("fleet_grants_total", "granted");
            self.services.ledger.look_again();
            for pool in pools(&self.services, &self.host) {
                pool.look();
            }
        } else if wanted > 0 {
            self.services.counters.count("fleet_grants_total", "refused");
            self.refused = true;
        }
        let short = wanted > 0 && decision.granted == 0 && me.used + me.opening < me.minimum;
        self.report(short.then(|| "the fleet's budget has no room for this instance's minimum".to_owned()));
    }

    /// Gives back what is above the share while others wait, and moves an idle connection to a pool that waits.
    fn divide(&mut self, pools: &[Arc<Pool>], wish: Wish, at_share: bool) {
        let now = Clock::now();
        let Some(control) = &self.control else { return };
        let Some((_, view)) = &control.seen else { return };
        let me = control.member(&self.services.ledger.places(&self.host, now, SETTLE), wish.wants);
        let mut back = control.terms.give_back(view, &me) as usize;
        let refused = wish.lack > 0 && self.refused;
        if back == 0 && (at_share || refused) {
            let counts = || pools.iter().map(|p| p.counts());
            // One at a time: its place comes back when it is closed.
            back = usize::from(counts().any(|c| c.idle > 0) && counts().all(|c| c.closing == 0));
        }
        self.give_back(pools, back);
    }

    fn give_back(&self, pools: &[Arc<Pool>], mut n: usize) {
        // Those that are being closed are still counted, and not given back twice.
        n = n.saturating_sub(pools.iter().map(|p| p.counts().closing).sum());
        // Who has most idle connections first, then who has most at all.
        let mut order: Vec<_> = pools.iter().map(|p| (p.counts(), p)).collect();
        order.sort_by_key(|(c, _)| std::cmp::Reverse((c.idle, c.live())));
        for (_, pool) in order {
            let given = pool.give_back(n);
            for _ in 0..given {
                self.services.counters.count("fleet_given_back_total", "");
            }
            n -= given.min(n);
        }
    }

    fn wish(&mut self, pools: &[Arc<Pool>]) -> Wish {
        let now = Clock::now();
        // Replication connections are their clients' own, and so is the wait for one.
        let waiting = self.services.ledger.tickets_without_place(&self.host);
        let owned: usize = self.services.pools.all().iter().map(|p| p.owned_at(&self.host)).sum();
        let (mut wants, mut lack) = (crate::number::count(owned + waiting), crate::number::count(waiting));
        for pool in pools {
            let (busy, missing) = pool.demand(now);
            wants += crate::number::count(busy);
            lack += crate::number::count(missing);
        }
        while self.wishes.back().is_some_and(|(_, w)| *w <= wants) {
            self.wishes.pop_back();
        }
        self.wishes.push_back((now, wants));
        let old = |(at, _): &(Instant, u32)| now.saturating_duration_since(*at) >= REMEMBERED;
        while self.wishes.front().is_some_and(old) {
            self.wishes.pop_front();
        }
        Wish { wants: self.wishes.front().map_or(wants, |(_, w)| *w), lack }
    }

    /// Says at /readyz why this instance should get no clients.
    fn report(&self, why: Option<String>) {
        let mut not_ready: parking_lot::MutexGuard<'_, BTreeMap<String, String>> =
            self.services.not_ready.lock();
        let key = format!("fleet {}", self.host);
        match why {
            Some(why) => {
                not_ready.insert(key, why);
            }
            None => {
                not_ready.remove(&key);
            }
        }
    }
}

/// The pools that open their connections at this host now.
fn pools(services: &Services, host: &HostAddr) -> Vec<Arc<Pool>> {
    services.pools.all().into_iter().filter(|p| p.current_host().as_ref() == Some(host)).collect()
}
