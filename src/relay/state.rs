//! The protocol state of the two ends that a relay joins; no I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use super::tx_stats::TxStats;
use super::words::Words;
use crate::proto::holdings::{Holdings, Rules};
use crate::proto::params::{self, Excess, ParamSet};
use crate::proto::pipeline::Pipeline;
use crate::proto::prepared::{ClientStatements, Interner, Memory, ServerStatements, Statement};
use crate::proto::session::Standing;
use crate::proto::sql::{TextEffects, application_parameters};
use crate::queries::{Scope, calls::Calls};
use crate::relay::lend::Lent;
use crate::relay::waits::{Check, Drops, OwnFlush, Stalled};
use crate::session_state::{Kind, PinPlace, PinPlaces, Ways};

/// Whose unnamed statement a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    Nobody,
    Unknown,
    Client { id: u64, generation: u64 },
}

/// What is known of one server connection.
#[derive(Debug)]
pub struct ServerState {
    /// The server's process.
    pub pid: i32,
    pub pipeline: Pipeline,
    pub statements: ServerStatements,
    pub unnamed: Unnamed,
    /// As reported at login and by changes of the server's own.
    pub defaults: Arc<ParamSet>,
    /// What they were before changes of the server's own that its pool has not heard of.
    pub defaults_before: Option<Arc<ParamSet>>,
    /// As reported last.
    pub view: Arc<ParamSet>,
    pub view_changed: bool,
    /// What was set in this session and is in force: see [`crate::proto::session`].
    pub applied: Arc<ParamSet>,
    /// Parameters of which it is not known what is in force. While there are any, `applied` is no set that a client
    /// could have, so that nobody takes the connection for one that is in step.
    pub doubtful: Vec<Box<str>>,
    /// What `on_connect` has set in this session.
    pub pool_set: Arc<ParamSet>,
    /// What else it holds since then.
    pub pool_holds: Arc<Holdings>,
    /// What its client has prepared by PREPARE and this server has refused to prepare again.
    pub absent: Vec<Absent>,
    /// Where its client keeps it between transactions because of what its session holds.
    pub pinned: Option<Box<Pinned>>,
    /// Notifications that came while the server was asked something of Howdah's own.
    pub heard: Vec<u8>,
    /// For what runs in the current transaction and would pin.
    pub reserved: Option<PinPlace>,
    /// The completion tag that showed session state which must be reset.
    pub marked: Option<&'static str>,
    /// A ReadyForQuery has come for the client since the last boundary.
    pub ready_seen: bool,
    /// A FATAL or PANIC has come: the end of the stream will follow, and is no news.
    pub fatal: bool,
    /// A Query that may drop prepared statements is the last in flight.
    pub barrier: bool,
    /// The same of a text in a batch whose Sync has not come.
    pub barrier_at_sync: bool,
    /// Where such a text stands in that batch.
    pub drops: Drops,
    /// The current transaction has changed a catalogue.
    pub changes_catalogue: bool,
    /// A statement that this server lacked and that is compared before its client's message is sent.
    pub check: Option<Check>,
    /// Types of the parameters of the statement with this number, whose columns come next.
    pub described: Option<(u64, Box<[u8]>)>,
    /// Copies of shared statements on this server, to be closed before it prepares another statement.
    pub unshared: Vec<Arc<Statement>>,
    /// It may have others of our statements than are known here: it has taken what it should have refused.
    pub statements_doubtful: bool,
    /// Statements of the protocol that the server has under their client's own names until the batch's Sync.
    pub lent: Vec<Lent>,
    /// The batch that last changed which statements the server has or what the client's names mean.
    pub names_changed: Option<u64>,
    /// The same of the unnamed statement.
    pub unnamed_changed: Option<u64>,
    /// The next message refers to what an earlier batch changed that may still be skipped.
    pub stalled: Stalled,
    /// Whether Howdah asks for answers that its client has not asked for.
    pub own_flush: OwnFlush,
    /// Messages that the client has sent since it last asked for answers, by a Flush, a Sync or a Query.
    pub unasked: usize,
    /// What runs, for the statistics.
    pub calls: Calls,
    /// A batch is forwarded only when the one before it is answered: its transaction may belong on another server.
    pub one_at_a_time: bool,
    /// Why the transaction is on a replica, where it is.
    pub routed: Option<&'static str>,
    /// Where its role matters.
    pub role: Option<RoleWatch>,
}

/// A client's statement of PREPARE that its server connection lacks, for example because a table is gone.
#[derive(Debug)]
pub struct Absent {
    /// Among the session's parameters.
    pub key: String,
    /// The body of the server's error, without its position in a text that the client has not sent.
    pub refusal: Box<[u8]>,
}

/// A client that keeps its connection between transactions because of what its session holds.
#[derive(Debug)]
pub struct Pinned {
    pub kinds: Vec<Kind>,
    /// `pin_idle_timeout`.
    pub idle: Option<Duration>,
    pub rules: Rules,
}

/// What a server says of its role, and what its clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleWatch {
    /// Whether its pool is one of standbys.
    pub standby: bool,
    /// What clients see as in_hot_standby, whoever serves them.
    pub shown: bool,
    /// Its last word contradicts its pool.
    pub contradicts: bool,
}

impl RoleWatch {
    pub const PARAMETER: &str = "in_hot_standby";

    fn heard(&mut self, value: &[u8]) {
        self.contradicts = (value == b"on") != self.standby;
    }

    fn shown(self) -> &'static [u8] {
        if self.shown { b"on" } else { b"off" }
    }
}

/// The mark of a session that its client has reset: clean, but without what on_connect did.
pub const DISCARDED: &str = "DISCARD ALL";

/// So many bytes a server keeps back itself before it sends without being asked: PostgreSQL's PqSendBufferSize.
const KEPT_BACK: usize = 8192;

/// Messages that a client may have in flight; more wait in its socket.
const MAX_IN_FLIGHT: usize = 32_768;

impl ServerState {
    pub fn new(defaults: Arc<ParamSet>, nothing: Arc<ParamSet>) -> Self {
        Self {
            pid: 0,
            pipeline: Pipeline::default(),
            statements: ServerStatements::default(),
            unnamed: Unnamed::Nobody,
            view: defaults.clone(),
            defaults,
            defaults_before: None,
            view_changed: false,
            applied: nothing.clone(),
            doubtful: Vec::new(),
            pool_set: nothing,
            pool_holds: Arc::default(),
            absent: Vec::new(),
            pinned: None,
            heard: Vec::new(),
            reserved: None,
            marked: None,
            ready_seen: false,
            fatal: false,
            barrier: false,
            barrier_at_sync: false,
            drops: Drops::No,
            changes_catalogue: false,
            check: None,
            described: None,
            unshared: Vec::new(),
            statements_doubtful: false,
            lent: Vec::new(),
            names_changed: None,
            unnamed_changed: None,
            stalled: Stalled::No,
            own_flush: OwnFlush::default(),
            unasked: 0,
            calls: Calls::default(),
            one_at_a_time: false,
            routed: None,
            role: None,
        }
    }

    /// Something has been left in the session that must be reset, which a DISCARD ALL before it does not.
    pub fn mark(&mut self, tag: &'static str) {
        if self.marked.is_none_or(|m| m == DISCARDED) {
            self.marked = Some(tag);
        }
    }

    /// Parameters of applications that a text names where it may set them: the server is asked for them by name.
    pub fn doubt_named(&mut self, sql: &[u8]) {
        for name in application_parameters(sql) {
            if !self.doubtful.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
                self.doubtful.push(name.into());
            }
        }
    }

    /// For the model of its parameters.
    pub fn standing(&self) -> Standing<'_> {
        Standing {
            applied: &self.applied,
            doubtful: &self.doubtful,
            pool: &self.pool_set,
            defaults: &self.defaults,
            view: &self.view,
        }
    }

    /// A client may have set or reset what was applied here and the server does not report.
    pub fn doubt_unreported(&mut self) {
        let unreported = |n: &&str| self.view.get(n).is_none();
        let names: Vec<Box<str>> =
            self.applied.iter().map(|(n, _)| n).filter(unreported).map(Box::from).collect();
        if names.is_empty() {
            return;
        }
        let mut applied = (*self.applied).clone();
        names.iter().for_each(|n| applied.remove(n));
        self.applied = Arc::new(applied);
        self.doubtful.extend(names);
    }

    /// The session is as `on_connect` has left it, or as it began where there is none.
    pub fn nothing_applied(&mut self, nothing: Arc<ParamSet>) {
        self.applied = nothing;
        self.doubtful.clear();
    }

    /// From now on its in_hot_standby is a fact about the server, and no parameter that clients see.
    pub fn watch_role(&mut self, mut watch: RoleWatch) {
        // Servers before version 14 do not report it.
        if let Some(value) = self.defaults.get(RoleWatch::PARAMETER) {
            watch.heard(value);
            let mut d = (*self.defaults).clone();
            d.set(RoleWatch::PARAMETER, watch.shown());
            self.defaults = Arc::new(d);
            self.view = self.defaults.clone();
        }
        self.role = Some(watch);
    }

    /// Its last word contradicts the role of its pool.
    #[inline]
    pub fn contradicts_role(&self) -> bool {
        self.role.is_some_and(|r| r.contradicts)
    }

    /// Whether this parameter is not for clients.
    pub fn hides(&self, name: &str) -> bool {
        self.role.is_some() && name == RoleWatch::PARAMETER
    }

    /// Nothing more may be sent before answers have come.
    #[inline]
    pub fn full(&self) -> bool {
        // A server that waits for CopyData must get what the client sends, or it would wait for ever.
        self.pipeline.len() >= MAX_IN_FLIGHT
            || (!self.pipeline.wants_copy_data()
                && ((self.barrier && !self.pipeline.is_empty())
                    || (self.stalled != Stalled::No && self.unsettled(self.stalled))))
    }

    fn unsettled(&self, by: Stalled) -> bool {
        let changed = match by {
            Stalled::ByDrop => {
                return self.drops == Drops::Runs && !self.pipeline.is_empty();
            }
            Stalled::ByFailure => return !self.pipeline.is_empty(),
            Stalled::ByCheck => return matches!(self.check, Some(Check::Asked(_))),
            Stalled::No => None,
            Stalled::ByNames => self.names_changed,
            Stalled::ByUnnamed => self.unnamed_changed,
        };
        changed.is_some_and(|b| self.pipeline.may_be_skipped(b))
    }

    /// Whether a message that depends on `by` has to wait: an error in an earlier batch would undo what it
    /// builds on, when it is on its way already.
    #[inline]
    pub fn must_wait(&mut self, by: Stalled) -> bool {
        let wait = self.unsettled(by) && !self.pipeline.wants_copy_data();
        self.stalled = if wait { by } else { Stalled::No };
        wait
    }

    /// The client has asked for the answers to all that it has sent.
    #[inline]
    pub fn asked_by_client(&mut self) {
        self.unasked = 0;
        self.own_flush = OwnFlush::default();
    }

    /// Of answers that wait to be written to the client, so many bytes: whether its server would not have sent them yet.
    #[inline]
    pub fn keeps_back(&self, bytes: usize) -> bool {
        self.own_flush.keeps_back && bytes <= KEPT_BACK
    }

    /// A client has left, and what it had begun is over.
    pub fn forget_batch(&mut self) {
        self.asked_by_client();
        self.barrier = false;
        self.barrier_at_sync = false;
        self.drops = Drops::No;
        self.stalled = Stalled::No;
        self.described = None;
        // Its server may have a statement with other columns than the clients of that statement know.
        if let Some(check) = self.check.take() {
            self.statements_doubtful = true;
            if let Check::Asked(id) = check {
                self.statements.remove(id);
            }
        }
    }

    pub fn change_names(&mut self) {
        self.names_changed = Some(self.pipeline.batch());
    }

    pub fn change_unnamed(&mut self, to: Unnamed) {
        self.unnamed = to;
        self.unnamed_changed = Some(self.pipeline.batch());
    }

    /// ParameterStatus, while a client has the connection.
    pub fn on_parameter(&mut self, name: &str, value: &[u8]) -> Result<(), Excess> {
        if name == RoleWatch::PARAMETER
            && let Some(r) = &mut self.role
        {
            r.heard(value);
            return Ok(());
        }
        Arc::make_mut(&mut self.view).set_within(name, value)?;
        self.view_changed = true;
        if params::is_fixed(name) {
            let mut d = (*self.defaults).clone();
            d.set(name, value);
            self.defaults = Arc::new(d);
        }
        Ok(())
    }

    /// ParameterStatus, while nobody has it: the server's configuration changed.
    pub fn on_parameter_idle(&mut self, name: &str, value: &[u8]) -> Result<(), Excess> {
        self.on_parameter(name, value)?;
        if self.hides(name) {
            return Ok(());
        }
        let is = |n: &str| n.eq_ignore_ascii_case(name);
        let is_set = self.applied.get(name).or_else(|| self.pool_set.get(name)).is_some();
        if !is_set && !self.doubtful.iter().any(|n| is(n)) {
            let mut d = (*self.defaults).clone();
            d.set(name, value);
            self.new_defaults(Arc::new(d));
        }
        Ok(())
    }

    /// The server has other defaults than at its login.
    pub fn new_defaults(&mut self, defaults: Arc<ParamSet>) {
        let before = std::mem::replace(&mut self.defaults, defaults);
        self.defaults_before.get_or_insert(before);
    }
}

/// Where a batch stands whose statement the server turned out to have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    No,
    /// Its error has come, and the client has sent a Flush and no Sync. Howdah has to end the batch with a Sync first.
    NeedsSync,
    /// Its error came; the ReadyForQuery behind it is awaited.
    Waiting,
    /// To be sent again.
    Now,
}

/// A client's name, and the statement that the server gives up with it.
pub type Deallocating = (Box<[u8]>, Option<Arc<Statement>>);

/// In the order in which they were sent. Few clients have any, and all have room for where they are.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a queue that is empty is four times as large")]
pub struct DeallocatingQueue(Option<Box<VecDeque<Deallocating>>>);

impl DeallocatingQueue {
    pub fn push_back(&mut self, one: Deallocating) {
        self.0.get_or_insert_default().push_back(one);
    }

    pub fn pop_front(&mut self) -> Option<Deallocating> {
        self.0.as_mut().and_then(|q| q.pop_front())
    }

    pub fn front(&self) -> Option<&Deallocating> {
        self.0.as_ref().and_then(|q| q.front())
    }

    #[inline]
    pub fn clear(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }
}

/// What the relay knows of a client.
#[derive(Debug)]
pub struct ClientProto {
    pub id: u64,
    pub statements: ClientStatements,
    /// What it named in its startup packet.
    pub named: Arc<ParamSet>,
    /// What is in force for it: what it named, and what it has set since.
    pub overrides: Arc<ParamSet>,
    /// What it was told last.
    pub view: Arc<ParamSet>,
    /// Of the statements in the current transaction.
    pub effects: TextEffects,
    /// A SET or RESET was run in the current transaction: what the server reports changed is the client's, and what is prepared in it may mean something else elsewhere.
    pub set_in_transaction: bool,
    /// A DISCARD ALL was run in the current transaction.
    pub discarded: bool,
    /// Parameters that a RESET or DISCARD ALL has led back to what the client named, as far as it knows: on the connection
    /// they have their defaults until the client's values are set again. There from a RESET in the current transaction on.
    pub led_back: Option<Box<ParamSet>>,
    /// The client's bytes of a batch that begins with a named statement, as long as nothing of it has run.
    pub replay: Vec<u8>,
    pub retry: Retry,
    /// A Terminate was read.
    pub terminating: bool,
    /// What Howdah says to it in its server's place.
    pub words: Words,
    /// DEALLOCATE of this name was forwarded, and takes this statement off the server.
    pub deallocating: DeallocatingQueue,
    pub stats: TxStats,
}

impl ClientProto {
    /// What it had before whatever is found now: behind a DISCARD ALL, what it named at its login.
    pub fn carried(&self) -> &ParamSet {
        if self.discarded { &self.named } else { &self.overrides }
    }

    /// Of a report that follows a RESET or DISCARD ALL of a parameter that the client named: on a connection of its own
    /// the value named would be in force again, not the connection's default. Its name, and what the client is to be told
    /// instead, if that is news.
    pub fn led_back(
        &mut self,
        name: &str,
        value: &[u8],
        s: &ServerState,
    ) -> Option<(String, Option<Vec<u8>>)> {
        if !(self.discarded || self.led_back.is_some()) || s.defaults.get(name) != Some(value) {
            return None;
        }
        let named = self.named.get(name)?;
        let known = self.led_back.as_ref().and_then(|l| l.get(name)).or_else(|| s.view.get(name));
        let news = known != Some(named);
        let (told, name) = (named.to_vec(), name.to_owned());
        self.led_back.get_or_insert_default().set(&name, &told);
        Some((name, news.then_some(told)))
    }

    /// `SET name TO DEFAULT` is a RESET, and is answered as a SET.
    pub fn may_lead_back(&mut self, text: &[u8], effects: TextEffects) {
        const WORD: &[u8] = b"default";
        let sets = effects.has(TextEffects::REPORTED_SET) && !self.named.is_empty();
        if sets && text.windows(WORD.len()).any(|w| w.eq_ignore_ascii_case(WORD)) {
            self.led_back.get_or_insert_default();
        }
    }

    /// What it named at its login may not be in force any more.
    #[inline]
    pub fn may_have_reset(&self) -> bool {
        let set = self.set_in_transaction
            && (self.effects.has(TextEffects::SESSION_SET) || self.effects.has(TextEffects::REPORTED_SET));
        (self.discarded || set) && !self.named.is_empty()
    }

    /// `overrides`: what its startup packet names.
    pub fn new(id: u64, overrides: Arc<ParamSet>, view: Arc<ParamSet>, memory: &Arc<Memory>) -> Self {
        Self {
            id,
            statements: ClientStatements::new(memory),
            named: overrides.clone(),
            overrides,
            view,
            effects: TextEffects::default(),
            set_in_transaction: false,
            discarded: false,
            led_back: None,
            replay: Vec::new(),
            retry: Retry::No,
            terminating: false,
            words: Words::default(),
            deallocating: DeallocatingQueue::default(),
            stats: TxStats::default(),
        }
    }

    /// Forgets what the texts and tags of a transaction said of the session: it is known what has come of them.
    pub fn forget_sets(&mut self) {
        self.effects = TextEffects::default();
        self.set_in_transaction = false;
        self.discarded = false;
        self.led_back = None;
    }

    /// Forgets what belonged to one transaction, except its figures.
    pub fn end_transaction(&mut self) {
        self.forget_sets();
        self.statements.settle();
        self.deallocating.clear();
        self.words.clear_cancel();
    }
}

/// What both directions need besides the two ends.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    pub interner: &'a Interner,
    /// The pool's database and user, in which texts have their meaning.
    pub database: &'a str,
    pub user: &'a str,
    pub max_message: u32,
    pub max_statement: usize,
    pub max_server_statements: usize,
    pub max_client_statements: usize,
    /// Bytes of the statements that one server connection keeps, that one client holds, and of all there are.
    pub max_server_memory: usize,
    pub max_client_memory: usize,
    pub max_memory: usize,
    /// The server is asked what a suspected transaction has left: what a text names is kept for that.
    pub asks: bool,
    /// Where it is, a statement that would pin takes one of these first, and these say what would.
    pub pins: &'a Arc<PinPlaces>,
    pub ways: &'a Ways,
    /// Statements are renamed and shared; false in session mode, where everything passes as it is.
    pub share_statements: bool,
    /// Where statements are counted, if they are.
    pub queries: Option<&'a Scope>,
}

#[cfg(test)]
impl<'a> Env<'a> {
    /// Of a pool that shares statements and asks its servers nothing.
    pub fn in_a_test(interner: &'a Interner, pins: &'a Arc<PinPlaces>) -> Self {
        Self {
            interner,
            database: "app",
            user: "app",
            max_message: 1 << 20,
            max_statement: 1 << 16,
            max_server_statements: 10,
            max_client_statements: 100,
            max_server_memory: 1 << 30,
            max_client_memory: 1 << 30,
            max_memory: 1 << 30,
            share_statements: true,
            queries: None,
            asks: false,
            pins,
            ways: &Ways::RESET,
        }
    }
}
