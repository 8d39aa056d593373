//! Both scans against a model of PostgreSQL: several clients share two servers, their messages arrive in any
//! pieces and any order, and each client must hear, byte for byte, what a server of its own would have said.

mod model;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::frame::fe;
use crate::proto::params::ParamSet;
use crate::proto::pipeline::TxStatus;
use crate::proto::prepared::{Interner, STAND_IN};
use crate::relay::down::{self, Down};
use crate::relay::state::{ClientProto, Env, ServerState};
use crate::relay::up::{self, Alone};
use model::{Model, message};

/// One message of a client.
#[derive(Debug, Clone)]
enum Op {
    Query(&'static str),
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str),
    /// With a tail that is longer than any buffer of the test.
    LongBind(&'static str),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute(&'static str, u8),
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Flush,
    Sync,
    Function(bool),
    Data(bool),
    LongData,
    CopyDone,
    CopyFail,
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&0)
}

impl Op {
    /// `who` makes the texts of each client its own, where they are not shared on purpose.
    fn bytes(&self, who: usize) -> Vec<u8> {
        let own = |t: &str| t.replace('@', &who.to_string()).into_bytes();
        match self {
            Op::Query(t) => message(b'Q', &cat(&[&own(t), b""])),
            Op::Parse(n, t) => message(b'P', &cat(&[n.as_bytes(), &own(t), b"\0"])),
            Op::Bind(p, n) => message(b'B', &cat(&[p.as_bytes(), n.as_bytes(), &[0; 6]])),
            Op::LongBind(n) => message(b'B', &cat(&[b"", n.as_bytes(), &[0; 700]])),
            Op::DescribeStatement(n) => message(b'D', &cat(&[&[b"S", n.as_bytes()].concat(), b""])),
            Op::DescribePortal(n) => message(b'D', &cat(&[&[b"P", n.as_bytes()].concat(), b""])),
            Op::Execute(p, max) => message(b'E', &cat(&[p.as_bytes(), &[0, 0, 0, *max]])),
            Op::CloseStatement(n) => message(b'C', &cat(&[&[b"S", n.as_bytes()].concat(), b""])),
            Op::ClosePortal(n) => message(b'C', &cat(&[&[b"P", n.as_bytes()].concat(), b""])),
            Op::Flush => message(b'H', b""),
            Op::Sync => message(b'S', b""),
            Op::Function(ok) => message(b'F', &[if *ok { 0 } else { 0xff }, 0, 0, 0]),
            Op::Data(good) => message(b'd', if *good { b"row" } else { b"X" }),
            Op::LongData => message(b'd', &[b'r'; 900]),
            Op::CopyDone => message(b'c', b""),
            Op::CopyFail => message(b'f', b"no\0"),
        }
    }
}

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => prop::sample::select(vec!["sel @", "sel shared", "sel shared2", "rows 3", "rows 5"]),
        1 => Just("bad @"),
        1 => Just("fail @"),
        1 => Just(""),
        3 => prop::sample::select(vec!["begin", "commit", "rollback"]),
        1 => Just("copyout @"),
        1 => Just("notice @"),
    ]
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "b", "c"])
}

fn portal() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "p"])
}

fn extended() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        // An empty text under a name only where a failed transaction cannot tell how it came to be refused.
        4 => (name(), text()).prop_map(|(n, t)| {
            vec![Op::Parse(n, if t.is_empty() && !n.is_empty() { "sel @" } else { t })]
        }),
        4 => (portal(), name(), 0u8..4).prop_map(|(p, n, m)| vec![Op::Bind(p, n), Op::Execute(p, m)]),
        1 => (portal(), name()).prop_map(|(p, n)| vec![Op::Bind(p, n)]),
        1 => name().prop_map(|n| vec![Op::LongBind(n), Op::Execute("", 0)]),
        1 => name().prop_map(|n| vec![Op::DescribeStatement(n)]),
        1 => portal().prop_map(|p| vec![Op::DescribePortal(p)]),
        1 => (portal(), 0u8..3).prop_map(|(p, m)| vec![Op::Execute(p, m)]),
        2 => name().prop_map(|n| vec![Op::CloseStatement(n)]),
        1 => portal().prop_map(|p| vec![Op::ClosePortal(p)]),
        1 => Just(vec![Op::Flush]),
        1 => text().prop_map(|t| vec![Op::Query(t)]),
        1 => any::<bool>().prop_map(|ok| vec![Op::Function(ok)]),
    ]
}

fn data() -> impl Strategy<Value = Vec<Op>> {
    let piece = prop_oneof![
        6 => Just(Op::Data(true)),
        1 => Just(Op::Data(false)),
        1 => Just(Op::LongData),
        1 => Just(Op::Flush),
    ];
    (prop::collection::vec(piece, 0..4), any::<bool>()).prop_map(|(mut v, done)| {
        v.push(if done { Op::CopyDone } else { Op::CopyFail });
        v
    })
}

/// What a client sends as one: a simple query, a batch to its Sync, a COPY.
fn unit() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        3 => text().prop_map(|t| vec![Op::Query(t)]),
        8 => prop::collection::vec(extended(), 0..6).prop_map(|v| {
            let mut v = v.concat();
            v.push(Op::Sync);
            v
        }),
        1 => any::<bool>().prop_map(|ok| vec![Op::Function(ok)]),
        // PostgreSQL ignores a Sync inside of the COPY, and the rest of a COPY that has failed.
        1 => (any::<bool>(), data()).prop_map(|(sync, d)| {
            let mut v = vec![Op::Query("copyin")];
            v.extend(sync.then_some(Op::Sync));
            v.extend(d);
            v
        }),
        1 => (any::<bool>(), data(), any::<bool>()).prop_map(|(sync, d, close)| {
            let mut v = vec![Op::Parse("", "copyin"), Op::Bind("", ""), Op::Execute("", 0)];
            v.extend(sync.then_some(Op::Sync));
            v.extend(d);
            v.extend(close.then_some(Op::CloseStatement("a")));
            // So that no later Bind finds the COPY without its data.
            v.extend([Op::Sync, Op::Parse("", "sel @"), Op::Sync]);
            v
        }),
        1 => Just(vec![Op::Data(true), Op::CopyDone]),
        1 => prop::sample::select(vec!["deallocate a", "deallocate b", "deallocate all", "discard all"])
            .prop_map(|t| vec![Op::Query(t)]),
        // So that no later Bind finds the text, which meant the name as it was.
        1 => (prop::sample::select(vec!["deallocate a", "deallocate b"]), any::<bool>()).prop_map(|(t, named)| {
            let n = if named { "d" } else { "" };
            let run = [Op::Parse(n, t), Op::Bind("", n), Op::Execute("", 0), Op::Sync];
            run.into_iter().chain([Op::CloseStatement(n), Op::Sync]).collect()
        }),
    ]
}

struct Client {
    bytes: Vec<u8>,
    sent: usize,
    up: Lane,
    down: Lane,
    proto: ClientProto,
    server: Option<usize>,
    /// A boundary was seen while a message to the server was not complete.
    at_end: bool,
    skip_to_sync: bool,
    heard: Vec<u8>,
}

#[derive(Debug)]
struct Server {
    model: Model,
    state: ServerState,
    taken: bool,
}

struct World {
    interner: Interner,
    clients: Vec<Client>,
    servers: Vec<Server>,
    limit: usize,
    rng: StdRng,
}

impl World {
    fn new(scripts: &[Vec<Op>], servers: usize, limit: usize, seed: u64) -> Self {
        let nothing = Arc::new(ParamSet::default());
        let clients = scripts
            .iter()
            .enumerate()
            .map(|(i, ops)| Client {
                bytes: ops.iter().flat_map(|o| o.bytes(i)).collect(),
                sent: 0,
                up: Lane::default(),
                down: Lane::default(),
                proto: ClientProto::new(i as u64, nothing.clone(), nothing.clone(), &Arc::default()),
                server: None,
                at_end: false,
                skip_to_sync: false,
                heard: Vec::new(),
            })
            .collect();
        let servers = (0..servers)
            .map(|_| Server {
                model: Model::default(),
                state: ServerState::new(nothing.clone(), nothing.clone()),
                taken: false,
            })
            .collect();
        Self { interner: Interner::default(), clients, servers, limit, rng: StdRng::seed_from_u64(seed) }
    }

    fn run(&mut self) {
        let mut stuck = 0;
        while stuck < 200 {
            let i = self.rng.random_range(0..self.clients.len());
            stuck = if self.turn(i) { 0 } else { stuck + 1 };
        }
    }

    /// One client does something; `false` when nothing was to be done.
    fn turn(&mut self, i: usize) -> bool {
        let Self { interner, clients, servers, limit, rng } = self;
        let pins = Arc::default();
        let env = Env { max_server_statements: *limit, ..Env::in_a_test(interner, &pins) };
        let c = &mut clients[i];
        let mut progress = false;
        if rng.random() && c.sent < c.bytes.len() {
            let most = if rng.random_ratio(1, 4) { 4096 } else { 24 };
            let n = rng.random_range(1..=most).min(c.bytes.len() - c.sent);
            c.up.push(&c.bytes[c.sent..c.sent + n]);
            c.sent += n;
            progress = true;
        }
        let Some(at) = c.server else {
            if c.without_server(&env) {
                let free: Vec<usize> = (0..servers.len()).filter(|s| !servers[*s].taken).collect();
                if !free.is_empty() {
                    let at = free[rng.random_range(0..free.len())];
                    servers[at].taken = true;
                    c.server = Some(at);
                    c.at_end = false;
                    progress = true;
                }
            }
            c.heard.extend(c.down.take_output());
            return progress;
        };
        let s = &mut servers[at];
        if rng.random() && !c.up.has_output() {
            let before = c.up.unscanned().len();
            let idle = s.state.pipeline.is_empty();
            up::probe(&mut c.up, &mut s.state);
            up::scan(&mut c.up, &mut c.proto, &mut s.state, &env).expect("the client keeps the protocol");
            up::flush_for_us(&mut c.up, &mut s.state, !c.down.has_output());
            if idle && !s.state.pipeline.is_empty() {
                c.at_end = false;
                down::emit_local(&mut c.down, &mut c.proto, &mut s.state);
            }
            progress |= c.up.unscanned().len() != before || c.up.has_output();
        }
        if rng.random() && c.up.has_output() {
            s.model.input.extend(c.up.take_output());
            progress = true;
        }
        for _ in 0..rng.random_range(0..4) {
            progress |= s.model.step();
        }
        if rng.random() && !s.model.output.is_empty() {
            let n = rng.random_range(1..=s.model.output.len());
            let bytes: Vec<u8> = s.model.output.drain(..n).collect();
            c.down.push(&bytes);
            let end = down::scan(&mut c.down, &mut c.proto, &mut s.state, &env);
            let end = end.unwrap_or_else(|e| panic!("{e:?} after {:?}: {s:?}", lines(&c.heard)));
            c.at_end = end == Down::Boundary;
            c.heard.extend(c.down.take_output());
            progress = true;
        }
        let all_told = s.model.output.is_empty() && c.down.is_empty() && !c.down.mid_message();
        let all_done = s.model.input.is_empty() && !c.up.has_output() && !c.up.mid_pass();
        if all_told && all_done && !s.state.pipeline.needs_probe() {
            assert_eq!(
                s.state.pipeline.at_boundary(),
                s.model.idle(),
                "{:?} beside {:?}",
                s.state.pipeline,
                s.model
            );
        }
        c.heard.extend(c.down.take_output());
        if c.at_end && !c.up.has_output() && !c.up.mid_pass() && s.state.pipeline.at_boundary() {
            // CopyData and Flush outside of a COPY may still be on their way; they change nothing.
            while s.model.step() {}
            assert!(s.model.idle(), "given away while not idle: {:?}", s.model);
            c.server = None;
            c.proto.effects = Default::default();
            s.taken = false;
            progress = true;
        }
        progress
    }
}

impl Client {
    /// As a session deals with what needs no server; `true` when the next message needs one.
    fn without_server(&mut self, env: &Env<'_>) -> bool {
        loop {
            if self.up.mid_message() {
                self.up.continue_message();
                if self.up.mid_message() {
                    return false;
                }
            }
            let header = up::next_header(&self.up, env.max_message).expect("the client keeps the protocol");
            let Some(h) = header else { return false };
            match h.tag {
                fe::SYNC => {
                    self.up.discard(h.total);
                    self.skip_to_sync = false;
                    self.down.insert().extend_from_slice(&encode::ready_for_query(TxStatus::Idle));
                }
                fe::COPY_DATA | fe::COPY_DONE | fe::COPY_FAIL | fe::FLUSH => self.up.discard(h.total),
                fe::PARSE | fe::CLOSE => {
                    match up::alone(&mut self.up, h, &mut self.proto, env).expect("a good message") {
                        Alone::Answered(bytes) => self.down.insert().extend_from_slice(bytes),
                        Alone::NeedsServer => return true,
                        Alone::NeedMore => return false,
                    }
                }
                _ => return true,
            }
        }
    }
}

/// What a server of the client's own answers.
fn oracle(bytes: &[u8]) -> Vec<u8> {
    let mut m = Model::default();
    m.input.extend_from_slice(bytes);
    while m.step() {}
    assert!(m.input.is_empty());
    m.output
}

/// A transcript as readable lines.
fn lines(mut bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(h) = crate::proto::frame::header(bytes, i32::MAX as u32).expect("whole messages") {
        let (message, rest) = bytes.split_at(h.total.min(bytes.len()));
        out.push(format!("{} {}", h.tag as char, message[5..].escape_ascii()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a message: {bytes:?}");
    out
}

fn play(scripts: &[Vec<Op>], servers: usize, limit: usize, seed: u64) {
    let mut w = World::new(scripts, servers, limit, seed);
    w.run();
    for (i, c) in w.clients.iter().enumerate() {
        let done = c.sent == c.bytes.len() && c.up.is_empty() && c.server.is_none();
        assert!(done, "client {i} is stuck: {:?} {:?}", c.up, c.server.map(|s| &w.servers[s]));
        assert_eq!(lines(&c.heard), lines(&oracle(&c.bytes)));
    }
    for s in &w.servers {
        // And the unnamed one, and what stood in for one that was not there.
        let stand_in = usize::from(s.model.statements.contains_key(STAND_IN));
        assert!(s.model.statements.len() <= limit + 1 + stand_in, "{:?}", s.model.statements);
        for (name, text) in &s.model.statements {
            assert!(name.is_empty() || name.starts_with(b"__howdah_"), "{name:?} is {text:?}");
        }
    }
}

/// Scripts end with a rollback and a Sync, so that no client keeps its server.
fn script() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(unit(), 1..12).prop_map(|v| {
        let mut v = v.concat();
        v.extend([Op::Query("rollback"), Op::Sync]);
        v
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3_000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_shared_server_says_what_an_own_one_would(
        scripts in prop::collection::vec(script(), 1..5),
        servers in 1usize..3,
        limit in 1usize..4,
        seed: u64,
    ) {
        play(&scripts, servers, limit, seed);
    }
}

/// One script, in many fragmentations, for one client or two.
fn always(scripts: &[&[Op]]) {
    let scripts: Vec<Vec<Op>> = scripts
        .iter()
        .map(|s| s.iter().cloned().chain([Op::Query("rollback"), Op::Sync]).collect())
        .collect();
    for seed in 0..200 {
        for limit in 1..3 {
            play(&scripts, 1, limit, seed);
        }
    }
}

#[test]
fn names_behind_what_drops_them_are_new_ones() {
    let run = |name| [Op::Bind("", name), Op::Execute("", 0)];
    for text in ["deallocate a", "deallocate all", "discard all"] {
        let mut script = vec![Op::Parse("a", "sel shared"), Op::Sync, Op::Parse("", text)];
        script.extend(run(""));
        script.extend([Op::Parse("a", "sel @"), Op::Sync]);
        script.extend(run("a"));
        script.extend([Op::Sync, Op::Parse("b", text), Op::Parse("c", "sel shared"), Op::Sync]);
        script.extend(run("b"));
        script.extend(run("a"));
        script.extend([Op::Sync]);
        script.extend(run("c"));
        script.extend([Op::CloseStatement("c"), Op::Parse("c", "sel @"), Op::Sync, Op::Query("sel @")]);
        always(&[&script, &[Op::Parse("a", "sel shared"), Op::Bind("", "a"), Op::Execute("", 0), Op::Sync]]);
    }
}

#[test]
fn a_batch_that_was_only_flushed_keeps_its_server() {
    let select = [Op::Parse("", "sel @"), Op::Bind("", ""), Op::Execute("", 0)];
    let mut script = select.to_vec();
    script.push(Op::Sync);
    script.extend(select);
    script.extend([Op::Flush, Op::Sync]);
    always(&[&script, &script]);
}

#[test]
fn a_copy_in_a_pipeline_ends_where_the_server_says() {
    let begin = [Op::Parse("", "copyin"), Op::Bind("", ""), Op::Execute("", 0), Op::Sync];
    for end in [vec![Op::CopyDone], vec![Op::CopyFail], vec![Op::Data(false), Op::Data(true), Op::CopyDone]] {
        let mut script = begin.to_vec();
        script.push(Op::Data(true));
        script.extend(end);
        script.extend([Op::Sync, Op::Query("sel @")]);
        always(&[&script, &[Op::Query("sel @")]]);
    }
}

#[test]
fn late_copy_data_is_ignored() {
    for first in [Op::CloseStatement("a"), Op::Query("sel @"), Op::Bind("", "")] {
        let begin = [Op::Parse("", "sel @"), first, Op::Data(true), Op::LongData, Op::CopyDone];
        always(&[&[&begin[..], &[Op::Sync, Op::Query("sel @")]].concat()]);
    }
}

#[test]
fn a_skipped_query_drops_no_unnamed_statement() {
    let keeps = [Op::Parse("", "sel @"), Op::Sync, Op::Parse("a", "bad @"), Op::Query("sel @"), Op::Sync];
    let stranger = [Op::Bind("", ""), Op::Execute("", 0), Op::Sync];
    let mut again = keeps.to_vec();
    again.extend(stranger.clone());
    always(&[&again, &stranger]);
}

#[test]
fn a_failed_batch_is_undone_before_the_next_builds_on_it() {
    let refused = [Op::Bind("", ""), Op::Parse("a", "sel @"), Op::Sync];
    for next in [
        vec![Op::DescribeStatement("a")],
        vec![Op::Bind("", "a"), Op::Execute("", 0)],
        vec![Op::Parse("a", "rows 3"), Op::Bind("", "a"), Op::Execute("", 0)],
        vec![Op::CloseStatement("a"), Op::Parse("a", "rows 5")],
    ] {
        let mut script = refused.to_vec();
        script.extend(next);
        script.push(Op::Sync);
        always(&[&script, &script]);
    }
}

#[test]
fn statements_dropped_by_text_are_gone_and_can_come_again() {
    let run = [Op::Bind("", "a"), Op::Execute("", 0), Op::Sync];
    for text in ["deallocate all", "discard all", "deallocate a"] {
        let mut script = vec![Op::Parse("a", "sel shared"), Op::Sync, Op::Query(text)];
        script.extend(run.clone());
        script.push(Op::Parse("a", "sel shared"));
        script.extend(run.clone());
        script.extend([Op::Query("fail @"), Op::Query(text)]);
        script.extend(run.clone());
        always(&[&script, &script]);
        let extended = [Op::Parse("a", "sel shared"), Op::Sync, Op::Parse("", "deallocate all")];
        let mut script = extended.to_vec();
        script.extend([Op::Bind("", ""), Op::Execute("", 0), Op::Sync]);
        script.extend(run.clone());
        always(&[&script, &script]);
    }
}

#[test]
fn one_name_stands_for_each_client_s_own_text() {
    let script = [
        Op::Parse("a", "sel @"),
        Op::Sync,
        Op::Bind("", "a"),
        Op::Execute("", 0),
        Op::Parse("b", "rows 3"),
        Op::Bind("p", "b"),
        Op::Execute("p", 2),
        Op::Flush,
        Op::Execute("p", 2),
        Op::Sync,
        Op::Bind("", "a"),
        Op::Execute("", 0),
        Op::Sync,
    ];
    always(&[&script, &script, &script]);
}
