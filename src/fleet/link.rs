//! The control connection itself: joining, asking, and being woken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{PAUSE, SETTLE, STALE, TICK};
use super::share::{Member, Terms, View};
use super::sql::{self, Call, Decision, Scope};
use crate::capacity::ask;
use crate::capacity::need::HostNeed;
use crate::clock::Clock;
use crate::config::Config;
use crate::pool::ledger::Places;
use crate::server::own::{self, Own, OwnError, Rows};
use crate::services::Services;

/// A server that does not answer a control connection for so long has lost it.
const ANSWER: Duration = Duration::from_secs(3);

/// Why there is no control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Perhaps later.
    Unreachable(String),
    /// Never, as things are: the operator must change something.
    Unfit(String),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Unfit(why) => f.write_str(why),
        }
    }
}

#[derive(Debug)]
pub(super) struct Control {
    own: Own,
    scope: Scope,
    pub(super) terms: Terms,
    /// `fleet.database`, to which the connection is.
    database: String,
    max_connections: u32,
    /// How long an answer may take.
    answer: Duration,
    id: String,
    known: Vec<String>,
    pub(super) frozen_until: Instant,
    told: Option<Member>,
    pub(super) seen: Option<(Instant, View)>,
    /// The server is a primary, and tells when others call.
    listening: bool,
    /// Somebody has called since the others were looked at.
    woken: bool,
    /// When this instance called last, and what it wanted then.
    called: Option<(Instant, u32)>,
}

fn terms(config: &Config, need: &HostNeed, max_connections: u32) -> Terms {
    let budget = config.fleet.budget.map_or(0, |b| b.of(max_connections));
    // The control connection apart.
    Terms { budget, instances: config.capacity.instances, minimum: config.fleet.minimum, own: need.own - 1 }
}

fn scope(config: &Config, need: &HostNeed) -> Scope {
    let texts = |set: std::collections::BTreeSet<&str>| set.into_iter().map(str::to_owned).collect();
    Scope {
        fleet: config.fleet.name.clone(),
        databases: texts(need.databases()),
        roles: if config.users.is_empty() { Vec::new() } else { texts(need.roles()) },
        own: &own::NAMES,
    }
}

pub(super) async fn connect(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
) -> Result<Control, Lost> {
    let scope = scope(config, need);
    let id = format!("{:08x}", rand::random::<u32>());
    let me = Member { id: id.clone(), minimum: config.fleet.minimum, ..Member::default() };
    let name = sql::first_name(&scope, &me);
    let opened = ask::open(services, config, need, Some(&config.fleet.database), &name).await;
    let mut own = opened.map_err(Lost::Unreachable)?;
    let told = own.conn().pid.to_string();
    // A notification makes a transaction that writes; nobody waits for its WAL to reach a disk or a standby.
    let rows = query(
        &mut own,
        "SET standard_conforming_strings = on; SET statement_timeout = '5s'; SET synchronous_commit = off; \
         SET client_connection_check_interval = '1s'; \
         SELECT pg_backend_pid() AS pid, current_setting('max_connections') AS max",
        answer(config),
    )
    .await
    .map_err(|e| Lost::Unreachable(e.into()))?;
    if rows.get(0, "pid") != Some(told.as_str()) {
        return Err(Lost::Unfit(format!(
            "there is another pooler on the way to the server (it announced process {told}, the session runs in {}): a \
             budget cannot be held through it; state the server's own address",
            rows.get(0, "pid").unwrap_or("another")
        )));
    }
    let max_connections = rows.get(0, "max").and_then(|v| v.parse().ok()).unwrap_or(0);
    let terms = terms(config, need, max_connections);
    let now = Clock::now();
    tracing::info!(host = %need.host, budget = terms.budget, id, "fleet: joined");
    Ok(Control {
        own,
        scope,
        terms,
        database: config.fleet.database.clone(),
        max_connections,
        answer: answer(config),
        id,
        known: Vec::new(),
        // Who has gone just now, a newcomer cannot know.
        frozen_until: now + SETTLE,
        told: None,
        seen: None,
        listening: false,
        woken: false,
        called: None,
    })
}

/// Who waits for an answer does not give back meanwhile.
fn answer(config: &Config) -> Duration {
    ANSWER.min(config.fleet.control_timeout)
}

async fn query(own: &mut Own, sql: &str, limit: Duration) -> Result<Rows, OwnError> {
    own::within(limit, own.query(sql)).await
}

/// Waits until another instance calls, and says how many did; the error is the end of the connection.
pub(super) async fn called(control: &mut Option<Control>) -> Result<u64, String> {
    let Some(control) = control else { return std::future::pending().await };
    loop {
        control.own.watch().await?;
        let heard = control.own.heard()?;
        if heard > 0 {
            control.woken = true;
            return Ok(heard);
        }
    }
}

impl Control {
    /// Takes over what a reload has changed; false if that needs another connection.
    pub(super) fn follow(&mut self, config: &Config, need: &HostNeed) -> bool {
        let same = self.scope.fleet == config.fleet.name && self.database == config.fleet.database;
        if same {
            self.terms = terms(config, need, self.max_connections);
            self.scope = scope(config, need);
            self.answer = answer(config);
        }
        same
    }

    pub(super) fn member(&self, places: &Places, wants: u32) -> Member {
        Member {
            id: self.id.clone(),
            minimum: self.terms.minimum,
            used: crate::number::count(places.open),
            opening: crate::number::count(places.granted + places.dialling + places.lingering),
            wants,
        }
    }

    /// Whether the others must hear of `me`, or `me` of them.
    pub(super) fn must_ask(&self, me: &Member, now: Instant) -> bool {
        let oldest = if self.woken { PAUSE } else { STALE };
        self.told.as_ref() != Some(me)
            || self.seen.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= oldest)
    }

    /// How long the next look may wait.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let at = self.seen.as_ref().filter(|_| self.woken).map(|(at, _)| *at + PAUSE);
        at.map_or(TICK, |at| at.saturating_duration_since(now).min(TICK))
    }

    /// When the others are called, so that they look at once: once for each want that is not met, and when what was
    /// lent to this instance has been given back; at most once in a tick, for a notification costs a transaction.
    fn call(&self, me: &Member, wanted: u32, now: Instant) -> Call {
        let too_soon = self.called.is_some_and(|(at, _)| now.saturating_duration_since(at) < TICK);
        if !self.listening || too_soon {
            return Call::default();
        }
        let before = self.told.as_ref().map_or(0, |t| t.used);
        Call {
            lack: wanted > 0 && self.called.is_none_or(|(_, wants)| me.wants > wants),
            freed: before > me.used && before > me.minimum,
        }
    }

    /// Tells the others of `me`, and asks for `wanted` connections. What came of calling them, where they were called, is
    /// the label of its metric.
    pub(super) async fn ask(
        &mut self,
        me: &Member,
        wanted: u32,
    ) -> Result<(Decision, Option<&'static str>), String> {
        let now = Clock::now();
        let call = self.call(me, wanted, now);
        let text = sql::decide(&self.scope, &self.terms, me, &self.known, wanted);
        let rows = query(&mut self.own, &text, self.answer).await?;
        let decision = sql::read(|column| rows.get(0, column)).ok_or("an answer that cannot be read")?;
        if decision.primary && !self.listening {
            query(&mut self.own, &sql::listen(&self.scope), self.answer).await?;
            self.listening = true;
        }
        self.known = decision.view.others.iter().map(|m| m.id.clone()).collect();
        self.told = Some(Member { opening: me.opening + decision.granted, ..me.clone() });
        self.seen = Some((Clock::now(), decision.view.clone()));
        if decision.vanished > 0 {
            self.frozen_until = Clock::now() + SETTLE;
        }
        // Who called while this was asked is perhaps not in the answer.
        self.woken = self.own.heard()? > 0;
        if wanted == 0 || decision.granted == wanted {
            // The next want that is not met is a new one.
            self.called = self.called.map(|(at, _)| (at, 0));
        }
        let lack = call.lack && decision.granted < wanted;
        let freed = call.freed && decision.view.others.iter().any(|m| m.wants > m.used + m.opening);
        if !lack && !freed {
            return Ok((decision, None));
        }
        self.called = Some((now, if call.lack { me.wants } else { 0 }));
        match query(&mut self.own, &sql::call(&self.scope), self.answer).await {
            Ok(_) => Ok((decision, Some("sent"))),
            // They look by themselves, a little later.
            Err(OwnError::Refused(_)) => Ok((decision, Some("refused"))),
            // What was granted is lost with the connection.
            Err(e @ OwnError::Lost(_)) => Err(e.into()),
        }
    }
}
