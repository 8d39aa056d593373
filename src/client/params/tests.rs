//! The model against a small PostgreSQL: clients take turns on two connections, and each must find what a connection
//! of its own would have.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::in_doubt;
use crate::proto::holdings::{Holdings, Rules};
use crate::proto::params::{ParamInterner, ParamSet};
use crate::proto::session::{self, Outcome, Scope};
use crate::proto::sql::TextEffects;
use crate::relay::state::{ClientProto, DISCARDED, ServerState};
use crate::session_state::{Way, Ways};

type Values = BTreeMap<&'static str, String>;

const ZONE: &str = "TimeZone";
const STYLE: &str = "DateStyle";
const MEMORY: &str = "work_mem";
const TENANT: &str = "app.tenant";
const ALL: [&str; 4] = [ZONE, STYLE, MEMORY, TENANT];
const REPORTED: [&str; 2] = [ZONE, STYLE];

/// One backend: what its login found, what its startup packet named, and what is set in its session.
#[derive(Debug, Clone, Default)]
struct Backend {
    defaults: Values,
    startup: Values,
    set: Values,
    told: Values,
}

impl Backend {
    fn new(defaults: &Values) -> Self {
        let mut b = Self { defaults: defaults.clone(), ..Self::default() };
        b.told = b.reported();
        b
    }

    fn get(&self, name: &str) -> String {
        let found = self.set.get(name).or_else(|| self.startup.get(name)).or_else(|| self.defaults.get(name));
        found.cloned().unwrap_or_default()
    }

    fn reported(&self) -> Values {
        REPORTED.into_iter().map(|n| (n, self.get(n))).collect()
    }

    /// `DateStyle` is relative: a value without an order keeps that in force.
    fn spell(&self, name: &str, value: &str) -> String {
        if name != STYLE || value.contains(',') {
            return value.to_owned();
        }
        let now = self.get(STYLE);
        format!("{value}, {}", now.split(", ").nth(1).unwrap_or("MDY"))
    }

    fn set(&mut self, name: &'static str, value: &str) {
        let value = self.spell(name, value);
        self.set.insert(name, value);
    }

    /// What ReadyForQuery tells of.
    fn tells(&mut self) -> Vec<(&'static str, String)> {
        let now = self.reported();
        let news = now.iter().filter(|(n, v)| self.told.get(*n) != Some(*v));
        let news = news.map(|(n, v)| (*n, v.clone())).collect();
        self.told = now;
        news
    }
}

#[derive(Debug, Clone)]
enum Op {
    Set(&'static str, &'static str),
    /// By a function: no text and no tag tells of it, but for the server's report that something has changed.
    Config(&'static str, &'static str),
    Reset(&'static str),
    ResetAll,
    Discard,
    Nothing,
}

#[derive(Debug, Clone)]
enum Turn {
    Transaction {
        client: usize,
        server: usize,
        ops: Vec<Op>,
        heard_idle: bool,
    },
    Login {
        client: usize,
        named: Vec<(&'static str, &'static str)>,
        server: usize,
    },
    Reload(&'static str, &'static str),
    /// The client leaves and its connection is not asked.
    Leave {
        client: usize,
        server: usize,
        ops: Vec<Op>,
    },
}

fn value_of() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        prop::sample::select(vec!["UTC", "CET", "Asia/Tokyo"]).prop_map(|v| (ZONE, v)),
        prop::sample::select(vec!["ISO", "SQL", "ISO, MDY", "SQL, DMY"]).prop_map(|v| (STYLE, v)),
        prop::sample::select(vec!["4MB", "9MB"]).prop_map(|v| (MEMORY, v)),
        prop::sample::select(vec!["a", "b"]).prop_map(|v| (TENANT, v)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => value_of().prop_map(|(n, v)| Op::Set(n, v)),
        1 => Just(Op::Config(ZONE, "America/Lima")),
        2 => prop::sample::select(ALL.to_vec()).prop_map(Op::Reset),
        1 => Just(Op::ResetAll),
        1 => Just(Op::Discard),
        3 => Just(Op::Nothing),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    let ops = || prop::collection::vec(op(), 0..3);
    prop_oneof![
        8 => (0..3usize, 0..2usize, ops(), any::<bool>())
            .prop_map(|(client, server, ops, heard_idle)| Turn::Transaction { client, server, ops, heard_idle }),
        2 => (0..3usize, prop::collection::vec(value_of(), 0..3), 0..2usize)
            .prop_map(|(client, named, server)| Turn::Login { client, named, server }),
        1 => value_of().prop_map(|(n, v)| Turn::Reload(n, if v.contains(',') || n != STYLE { v } else { "ISO, MDY" })),
        1 => (0..3usize, 0..2usize, ops()).prop_map(|(client, server, ops)| Turn::Leave { client, server, ops }),
    ]
}

fn params(values: &Values) -> ParamSet {
    let mut set = ParamSet::default();
    values.iter().for_each(|(n, v)| set.set(n, v.as_bytes()));
    set
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn known(name: &str) -> &'static str {
    ALL.into_iter().find(|n| n.eq_ignore_ascii_case(name)).expect("one of ours")
}

struct World {
    interner: ParamInterner,
    nothing: Arc<ParamSet>,
    defaults: Values,
    servers: Vec<(Backend, ServerState)>,
    /// Each with the connection of its own that it is compared with.
    clients: Vec<(ClientProto, Backend)>,
    resets: bool,
    rules: Rules,
}

/// What becomes of what no server reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreported {
    Follows,
    IsReset,
    Stays,
}

impl World {
    fn new(unreported: Unreported) -> Self {
        let follows = unreported == Unreported::Follows;
        let ways = Ways { parameters: Way::Follow, ..Ways::RESET };
        let reported = Rules {
            asks: false,
            always: false,
            own_connection: false,
            ways: Ways::RESET,
            timeout: std::time::Duration::ZERO,
        };
        let rules = if follows { Rules { asks: true, ways, ..reported } } else { reported };
        let resets = unreported != Unreported::Stays;
        let interner = ParamInterner::default();
        let nothing = interner.intern(ParamSet::default());
        let defaults: Values =
            [(ZONE, "UTC"), (STYLE, "ISO, MDY"), (MEMORY, "4MB")].map(|(n, v)| (n, v.to_owned())).into();
        let server = || {
            let b = Backend::new(&defaults);
            let s = ServerState::new(interner.intern(params(&b.reported())), nothing.clone());
            (b, s)
        };
        let servers = vec![server(), server()];
        let client = |id| {
            (ClientProto::new(id, nothing.clone(), nothing.clone(), &Arc::default()), Backend::new(&defaults))
        };
        let clients = vec![client(1), client(2), client(3)];
        Self { interner, nothing, defaults, servers, clients, resets, rules }
    }

    fn apply(&mut self, client: usize, server: usize, raw: &ParamSet) {
        let (c, _) = &mut self.clients[client];
        let (b, s) = &mut self.servers[server];
        let list = session::changes(&s.standing(), &c.overrides, raw);
        let mut ended: Vec<Outcome> = Vec::new();
        for change in &list {
            let name = known(&change.name);
            if let Some(from) = &change.from {
                b.set.remove(name);
                assert_eq!(*from, None, "no on_connect here");
            }
            ended.push(Some(match &change.value {
                None => {
                    b.set.remove(name);
                    None
                }
                Some(v) => {
                    b.set(name, &text(v));
                    Some(b.get(name).into_bytes())
                }
            }));
            b.tells().iter().for_each(|(n, v)| s.on_parameter(n, v.as_bytes()).expect("few"));
        }
        super::note_defaults(s, &list, &ended);
        let (applied, doubtful) = session::after(&s.standing(), &list, &ended);
        assert!(doubtful.is_empty());
        s.applied = self.interner.intern(applied);
        s.doubtful = doubtful;
        s.view_changed = false;
        c.overrides = s.applied.clone();
    }

    fn run(&mut self, client: usize, server: usize, ops: &[Op]) {
        let asks = self.rules.asks;
        let (c, own) = &mut self.clients[client];
        let (b, s) = &mut self.servers[server];
        for op in ops {
            let mut tag = |c: &mut ClientProto, name: Option<&str>, what: &'static str| {
                c.set_in_transaction = true;
                if name.is_none_or(|n| REPORTED.contains(&n)) {
                    c.effects.add(TextEffects::REPORTED_SET);
                }
                if name.is_none_or(|n| !REPORTED.contains(&n)) {
                    s.marked = Some(what);
                    c.effects.add(TextEffects::SESSION_SET);
                }
                if asks && name == Some(TENANT) {
                    s.doubt_named(b"set app.tenant = 'x'");
                }
            };
            match *op {
                Op::Nothing => {}
                Op::Set(name, value) => {
                    // What is relative is the client's own business as long as its transaction lasts.
                    let value = own.spell(name, value);
                    b.set(name, &value);
                    own.set(name, &value);
                    tag(c, Some(name), "SET");
                }
                Op::Config(name, value) => {
                    b.set(name, value);
                    own.set(name, value);
                }
                Op::Reset(name) => {
                    b.set.remove(name);
                    own.set.remove(name);
                    tag(c, Some(name), "RESET");
                }
                Op::ResetAll => {
                    b.set.clear();
                    own.set.clear();
                    tag(c, None, "RESET");
                }
                Op::Discard => {
                    b.set.clear();
                    own.set.clear();
                    s.marked = Some(DISCARDED);
                    s.nothing_applied(Arc::default());
                    c.discarded = true;
                }
            }
        }
        b.tells().iter().for_each(|(n, v)| s.on_parameter(n, v.as_bytes()).expect("few"));
    }

    /// What nobody reports does not follow its client: it is reset, and the startup packet's value is in force again.
    fn forget_unreported(&mut self, client: usize) {
        let own = &mut self.clients[client].1;
        own.set.retain(|n, _| REPORTED.contains(n));
    }

    fn give_back(&mut self, client: usize, server: usize, asked: bool) {
        let (c, _) = &mut self.clients[client];
        let (b, s) = &mut self.servers[server];
        let doubt = in_doubt(c, s, &self.rules);
        let scope = if self.rules.asks { Scope::Everything } else { Scope::Reported };
        if doubt && asked {
            let found = session::settled(&c.named, c.carried(), &s.standing(), &params(&b.set), scope);
            if self.rules.asks {
                s.marked =
                    self.rules.mark(&Holdings::default(), s.marked, c.effects.has(TextEffects::NAMELESS));
            }
            s.new_defaults(self.interner.intern(found.defaults));
            s.applied = self.interner.intern(found.applied);
            s.doubtful.clear();
            c.overrides = self.interner.intern(found.overrides);
        } else if doubt {
            s.mark("SET");
            if !self.resets {
                // Closed.
                *b = Backend::new(&self.defaults);
                *s = ServerState::new(self.interner.intern(params(&b.reported())), self.nothing.clone());
            }
        } else if c.discarded {
            s.nothing_applied(self.nothing.clone());
            c.overrides = c.named.clone();
        }
        s.view_changed = false;
        (c.set_in_transaction, c.discarded, c.effects) = Default::default();
        match s.marked.take() {
            Some(mark) if self.resets && mark != DISCARDED => {
                b.set.clear();
                b.tells().iter().for_each(|(n, v)| s.on_parameter(n, v.as_bytes()).expect("few"));
                s.nothing_applied(self.nothing.clone());
                s.defaults = s.view.clone();
                s.view_changed = false;
            }
            Some("SET" | "RESET") => s.doubt_unreported(),
            _ => {}
        }
        if !(asked && self.rules.asks) {
            self.forget_unreported(client);
        }
    }

    fn compare(&self, client: usize, server: usize) {
        let (b, own) = (&self.servers[server].0, &self.clients[client].1);
        for name in ALL {
            // Without a reset, what nobody named stays where it was set: the configuration says so.
            let leaks = !self.resets && !REPORTED.contains(&name) && !own.startup.contains_key(name);
            if !leaks {
                assert_eq!(b.get(name), own.get(name), "{name} of client {client} on server {server}");
            }
        }
    }

    fn turn(&mut self, turn: &Turn) {
        match turn {
            Turn::Transaction { client, server, ops, heard_idle } => {
                if *heard_idle {
                    let (b, s) = &mut self.servers[*server];
                    b.tells().iter().for_each(|(n, v)| s.on_parameter_idle(n, v.as_bytes()).expect("few"));
                }
                self.apply(*client, *server, &ParamSet::default());
                self.compare(*client, *server);
                self.run(*client, *server, ops);
                self.give_back(*client, *server, true);
            }
            Turn::Leave { client, server, ops } => {
                self.apply(*client, *server, &ParamSet::default());
                self.compare(*client, *server);
                self.run(*client, *server, ops);
                self.give_back(*client, *server, false);
                self.login(*client, &[], *server);
            }
            Turn::Login { client, named, server } => self.login(*client, named, *server),
            Turn::Reload(name, value) => {
                self.defaults.insert(name, (*value).to_owned());
                let owns = self.clients.iter_mut().map(|(_, own)| own);
                for b in self.servers.iter_mut().map(|(b, _)| b).chain(owns) {
                    b.defaults.insert(name, (*value).to_owned());
                }
            }
        }
    }

    fn login(&mut self, client: usize, named: &[(&'static str, &'static str)], server: usize) {
        let mut own = Backend::new(&self.defaults);
        let mut raw = ParamSet::default();
        for (name, value) in named {
            // The last of a name counts.
            let fresh = Backend::new(&self.defaults);
            own.startup.insert(name, fresh.spell(name, value));
            raw.set(name, value.as_bytes());
        }
        let proto =
            ClientProto::new(client as u64, Arc::new(raw.clone()), self.nothing.clone(), &Arc::default());
        self.clients[client] = (proto, own);
        self.apply(client, server, &raw);
        let c = &mut self.clients[client].0;
        c.named = c.overrides.clone();
        self.compare(client, server);
    }
}

fn play(turns: &[Turn], unreported: Unreported) {
    let mut world = World::new(unreported);
    turns.iter().for_each(|t| world.turn(t));
    for client in 0..3 {
        for server in 0..2 {
            world.apply(client, server, &ParamSet::default());
            world.compare(client, server);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_shared_connection_has_what_an_own_one_would(
        turns in prop::collection::vec(turn(), 1..24),
        unreported in prop::sample::select(vec![Unreported::Follows, Unreported::IsReset, Unreported::Stays]),
    ) {
        play(&turns, unreported);
    }
}

/// Others of the same wishes keep what they named, and so does the client itself.
#[test]
fn a_discard_is_one_clients_own() {
    for end in [Op::Discard, Op::ResetAll, Op::Reset(ZONE)] {
        for unreported in [Unreported::Follows, Unreported::IsReset, Unreported::Stays] {
            let named = vec![(ZONE, "CET"), (MEMORY, "9MB")];
            let at = |client, ops| Turn::Transaction { client, server: 0, ops, heard_idle: false };
            let login = |client| Turn::Login { client, named: named.clone(), server: 0 };
            play(&[login(0), login(1), at(0, vec![end.clone()]), at(1, vec![]), at(0, vec![])], unreported);
        }
    }
}

#[test]
fn a_partial_value_means_what_it_means_to_a_login() {
    let at = |client, ops| Turn::Transaction { client, server: 0, ops, heard_idle: false };
    let login = |client| Turn::Login { client, named: vec![(STYLE, "ISO")], server: 0 };
    play(&[at(0, vec![Op::Set(STYLE, "SQL, DMY")]), login(1), at(1, vec![])], Unreported::IsReset);
}

#[test]
fn what_was_named_outlasts_a_reload() {
    let at = |client| Turn::Transaction { client, server: 0, ops: vec![], heard_idle: false };
    let named = vec![(ZONE, "UTC")];
    play(
        &[
            Turn::Login { client: 0, named, server: 0 },
            at(0),
            Turn::Reload(ZONE, "Asia/Tokyo"),
            at(0),
            at(1),
            at(0),
        ],
        Unreported::IsReset,
    );
}

/// A connection has its default behind a RESET, and the client's own would have what it named: it is told of that, and
/// only where it knows otherwise.
#[test]
fn a_reset_is_reported_as_on_a_connection_of_ones_own() {
    let interner = ParamInterner::default();
    let one = |value: &str| interner.intern(params(&[(ZONE, value.to_owned())].into()));
    let mut c = ClientProto::new(1, one("CET"), one("CET"), &Arc::default());
    let mut s = ServerState::new(one("UTC"), interner.intern(ParamSet::default()));
    let mut hears = |c: &mut ClientProto, value: &str| {
        let told = c.led_back(ZONE, value.as_bytes(), &s).map(|(_, told)| told.map(|v| text(&v)));
        s.on_parameter(ZONE, value.as_bytes()).expect("few");
        told
    };
    assert_eq!(hears(&mut c, "CET"), None, "what it named is set");
    c.led_back = Some(Box::default());
    assert_eq!(hears(&mut c, "UTC"), Some(None), "it has known CET all the time");
    assert_eq!(hears(&mut c, "Asia/Tokyo"), None, "a SET behind it");
    c.led_back = Some(Box::default());
    assert_eq!(hears(&mut c, "UTC"), Some(Some("CET".to_owned())), "it has known the other");
    c.led_back = None;
    assert_eq!(hears(&mut c, "UTC"), None, "nothing was reset");
}
