//! Generated login conversations that begin as they should and depart at one point: ten thousand of clients and ten
//! thousand of servers, in plain text and within a TLS whose handshake is complete. Nobody else may notice, nothing may
//! wait longer than its deadline, and no panic may follow. A conversation is made from its number, which a failure names.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::certs::Lab;
use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::auth::{Scram, ScramServer, md5_response};
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, metric};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const CONVERSATIONS: usize = 10_000;
/// What Howdah allows a login; one conversation in a hundred just falls silent.
const DEADLINE: Duration = Duration::from_secs(1);
/// Beyond the deadline on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "canary-9e2b";

/// How a message that would have been right is spoilt.
fn spoil(rng: &mut StdRng, message: &[u8], tagged: bool) -> Vec<u8> {
    let mut bytes = message.to_vec();
    let head = usize::from(tagged);
    let random = |rng: &mut StdRng, most: usize| {
        let n = rng.random_range(0..=most);
        (0..n).map(|_| rng.random()).collect::<Vec<u8>>()
    };
    match rng.random_range(0..9) {
        0 => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => {
            let own = bytes.len() as u32;
            let lengths = [
                0,
                1,
                3,
                4,
                5,
                7,
                8,
                own - 1,
                own + 1,
                10_001,
                65_536,
                0x4000_0000,
                0x7fff_ffff,
                1 << 31,
                u32::MAX,
            ];
            let length = lengths[rng.random_range(0..lengths.len())];
            if let Some(field) = bytes.get_mut(head..head + 4) {
                field.copy_from_slice(&length.to_be_bytes());
            }
        }
        2 => {
            let tag: u8 = rng.random();
            bytes[if tagged { 0 } else { rng.random_range(0..message.len().min(8)) }] = tag;
        }
        3 => {
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        4 => {
            let body = random(rng, 300);
            bytes.truncate(head);
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        5 => bytes.extend_from_slice(&random(rng, 100)),
        6 => bytes.extend_from_slice(message),
        7 => {
            // Without the zero or the last byte that ends it.
            bytes.pop();
            let length = bytes.len().saturating_sub(head) as u32;
            if let Some(field) = bytes.get_mut(head..head + 4) {
                field.copy_from_slice(&length.to_be_bytes());
            }
        }
        _ => bytes = random(rng, 40),
    }
    bytes
}

/// How many conversations departed in each state, and what went wrong.
#[derive(Default)]
struct Tally {
    states: Mutex<BTreeMap<String, usize>>,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn reached(&self, state: String) {
        *self.states.lock().expect("a lock").entry(state).or_default() += 1;
    }

    fn failed(&self, what: String) {
        self.failures.lock().expect("a lock").push(what);
    }

    /// Prints the shares; none may be under two of a hundred.
    fn settle(&self, side: &str, states: usize) {
        let failures = self.failures.lock().expect("a lock");
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        let seen = self.states.lock().expect("a lock");
        let all: usize = seen.values().sum();
        for (state, n) in &*seen {
            println!("{side}: {state}: {n} ({:.1} %)", *n as f64 * 100.0 / all as f64);
        }
        assert!(all >= CONVERSATIONS, "{all} conversations");
        assert_eq!(seen.len(), states, "each state is reached: {seen:?}");
        assert!(seen.values().all(|n| n * 50 >= all), "none under 2 %: {seen:?}");
    }
}

/// A client that works while all that happens: every answer is right.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Witness {
    fn start(howdah: &Howdah) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, mut client) = (stop.clone(), howdah.connect("witness", "witness").expect("a login"));
        let thread = std::thread::spawn(move || {
            let mut asked = 0;
            while !seen.load(Ordering::Relaxed) {
                let nonce = format!("n{asked}");
                let answer = client.value(&format!("SELECT '{nonce}'")).expect("an answer");
                assert_eq!(answer, nonce);
                asked += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            asked
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.thread.join().expect("the other client noticed nothing");
        assert!(asked > 100, "it asked {asked} times");
    }
}

fn is_unharmed(howdah: &Howdah) {
    assert_eq!(metric(howdah, "howdah_panics_total", &[]), 0.0, "{}", howdah.log());
    harness::eventually("nobody is left in a login", || {
        metric(howdah, "howdah_clients", &[("state", "login")]) == 0.0
    });
    assert_eq!(metric(howdah, "howdah_leaked_connections", &[]), 0.0);
    assert!(!howdah.log().contains(PASSWORD), "a password is in the log");
}

// ---- both sides

/// How far a conversation has come before it departs, beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In plain text, and never anything else.
    Plain,
    /// In plain text after encryption by GSSAPI was asked for and refused.
    Gss,
    /// Up to the handshake of TLS, which is not completed.
    Asked,
    /// Within TLS.
    Tls,
    /// Within TLS, with a certificate that the client has shown.
    Certified,
}

impl Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain | Self::Gss | Self::Asked => "",
            Self::Tls => "in TLS: ",
            Self::Certified => "in TLS with a certificate: ",
        })
    }
}

/// Where a conversation departs, how it gets there, and what is asked of whom (a user, or a method).
#[derive(Debug, Clone, Copy)]
struct Plan {
    way: Way,
    state: &'static str,
    by: &'static [&'static str],
}

const fn plan(way: Way, state: &'static str, by: &'static [&'static str]) -> Plan {
    Plan { way, state, by }
}

/// A connection, in plain text or within TLS.
struct Line {
    tcp: TcpStream,
    tls: Option<Box<rustls::Connection>>,
}

impl Line {
    fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { tcp, tls: None })
    }

    /// Completes a handshake.
    fn secure(&mut self, mut tls: rustls::Connection) -> io::Result<()> {
        while tls.is_handshaking() {
            tls.complete_io(&mut self.tcp)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// What this is on the wire: itself, or records.
    fn sealed(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let Some(tls) = &mut self.tls else { return Ok(bytes.to_vec()) };
        let mut sealed = Vec::new();
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sealed = self.sealed(bytes)?;
        self.tcp.write_all(&sealed)
    }

    /// The end of what this side says; within TLS with a word, or without.
    fn half_close(&mut self, with_a_word: bool) -> io::Result<()> {
        if let Some(tls) = self.tls.as_mut().filter(|_| with_a_word) {
            tls.send_close_notify();
            self.send(&[])?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(into) };
        loop {
            match tls.reader().read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn bytes(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let (mut bytes, mut have) = (vec![0; n], 0);
        while have < n {
            match self.read(&mut bytes[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => have += more,
            }
        }
        Ok(bytes)
    }

    /// The tag, if such messages have one, and the body.
    fn message(&mut self, tagged: bool) -> io::Result<(u8, Vec<u8>)> {
        let tag = if tagged { self.bytes(1)?[0] } else { 0 };
        let length = self.bytes(4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        assert!((4..10_000).contains(&length), "Howdah sent a message of {length} bytes");
        Ok((tag, self.bytes(length as usize - 4)?))
    }
}

/// One conversation: all that it says is right, up to the state that its plan names.
struct Talk<'a> {
    number: usize,
    rng: StdRng,
    line: Line,
    plan: Plan,
    /// What was sent where it departed.
    spoilt: Vec<u8>,
    tally: &'a Tally,
}

/// Whether the conversation goes on.
type Said = Result<(), io::Error>;

impl Talk<'_> {
    fn say(&mut self, state: &'static str, message: &[u8], tagged: bool) -> Said {
        // What goes around the records of TLS, and not into them.
        let sealed = (state, self.plan.state) == ("startup", "record")
            || (state, self.plan.state) == ("request", "record");
        if state != self.plan.state && !sealed {
            return self.line.send(message);
        }
        let Plan { way, state, .. } = self.plan;
        self.tally.reached(format!("{way}{state}"));
        // A few fall silent. Who is logged in may do that for as long as it likes.
        let silent = self.rng.random_range(0..100) == 0;
        let mut ends = state == "logged in" || !silent;
        if !silent {
            let whole = if sealed { self.line.sealed(message)? } else { message.to_vec() };
            self.spoilt = spoil(&mut self.rng, &whole, tagged);
            match sealed {
                true => self.line.tcp.write_all(&self.spoilt)?,
                false => self.line.send(&self.spoilt)?,
            }
            // Half a message without an end of the stream is a wait for the deadline, which there is in a login alone.
            ends =
                self.spoilt.len() >= whole.len() || state == "logged in" || self.rng.random_range(0..10) > 0;
        }
        if ends {
            let with_a_word = self.rng.random();
            self.line.half_close(with_a_word)?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Whatever was said, the connection ends, in time.
    fn ends(&mut self, side: &str) {
        let (began, mut rest) = (Instant::now(), [0; 4096]);
        let waits = |e: &io::Error| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        loop {
            match self.line.read(&mut rest) {
                Ok(0) => return,
                Err(e) if !waits(&e) => return,
                Ok(_) if began.elapsed() < PATIENCE => {}
                Ok(_) | Err(_) => {
                    let Self { number, plan, spoilt, .. } = self;
                    return self.tally.failed(format!("{side} {number} has no end: {plan:?} {spoilt:?}"));
                }
            }
        }
    }
}

/// Who shows which certificate.
struct Papers {
    client: Arc<rustls::ClientConfig>,
    certified: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

impl Papers {
    /// A CA, a server's certificate for localhost, and a client's for `certified`.
    fn new() -> Option<(Lab, Self)> {
        let lab = Lab::new()?;
        lab.ca("ca");
        lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        lab.leaf("client", "ca", "certified", "extendedKeyUsage=clientAuth\n");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = |name: &str| {
            let certificate = CertificateDer::from_pem_file(lab.path(&format!("{name}.crt"))).expect("PEM");
            let key = PrivateKeyDer::from_pem_file(lab.path(&format!("{name}.key"))).expect("PEM");
            (vec![certificate], key)
        };
        let client = |certified: bool| {
            let mut roots = rustls::RootCertStore::empty();
            let ca = CertificateDer::from_pem_file(lab.path("ca.crt")).expect("PEM");
            roots.add(ca).expect("a CA");
            let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
            let builder = builder.with_safe_default_protocol_versions().expect("versions");
            let builder = builder.with_root_certificates(roots);
            let (own, key) = chain("client");
            let mut config = match certified {
                true => builder.with_client_auth_cert(own, key).expect("a certificate"),
                false => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![b"postgresql".to_vec()];
            Arc::new(config)
        };
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let (own, key) = chain("server");
        let mut server = builder.with_no_client_auth().with_single_cert(own, key).expect("a certificate");
        server.alpn_protocols = vec![b"postgresql".to_vec()];
        let papers = Self { client: client(false), certified: client(true), server: Arc::new(server) };
        Some((lab, papers))
    }

    fn towards_server(&self, way: Way) -> rustls::ClientConnection {
        let config = if way == Way::Certified { &self.certified } else { &self.client };
        let name = "localhost".try_into().expect("a name");
        rustls::ClientConnection::new(config.clone(), name).expect("a client")
    }

    /// A ClientHello that a handshake could go on from.
    fn client_hello(&self) -> Vec<u8> {
        let (mut connection, mut hello) = (self.towards_server(Way::Tls), Vec::new());
        connection.write_tls(&mut hello).expect("written");
        hello
    }

    /// The answer of a server to this ClientHello, which the other side could go on from.
    fn server_hello(&self, tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut connection = rustls::ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        while !connection.wants_write() {
            if connection.read_tls(tcp)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            connection.process_new_packets().map_err(io::Error::other)?;
        }
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut hello)?;
        }
        Ok(hello)
    }
}

// ---- clients

/// Whom pg_hba.conf lets in how. The last needs TLS and its certificate.
const USERS: [(&str, &str); 5] = [
    ("trusted", "host app trusted all trust"),
    ("clear", "host app clear all password"),
    ("digest", "host app digest all md5"),
    ("scram", "host app scram all scram-sha-256"),
    ("certified", "hostssl app certified all cert"),
];
const ANYBODY: &[&str] = &["trusted", "clear", "digest", "scram"];

const CLIENTS: [Plan; 18] = [
    plan(Way::Asked, "SSLRequest", ANYBODY),
    plan(Way::Asked, "ClientHello", ANYBODY),
    plan(Way::Gss, "GSSENCRequest", ANYBODY),
    plan(Way::Plain, "startup", ANYBODY),
    plan(Way::Gss, "password", &["clear"]),
    plan(Way::Plain, "md5 answer", &["digest"]),
    plan(Way::Plain, "SASLInitialResponse", &["scram"]),
    plan(Way::Gss, "SASLResponse", &["scram"]),
    plan(Way::Plain, "logged in", ANYBODY),
    plan(Way::Tls, "record", ANYBODY),
    plan(Way::Tls, "startup", ANYBODY),
    plan(Way::Tls, "password", &["clear"]),
    plan(Way::Tls, "md5 answer", &["digest"]),
    plan(Way::Tls, "SASLInitialResponse", &["scram"]),
    plan(Way::Tls, "SASLResponse", &["scram"]),
    plan(Way::Tls, "logged in", ANYBODY),
    plan(Way::Certified, "startup", &["certified"]),
    plan(Way::Certified, "logged in", &["certified"]),
];

impl Talk<'_> {
    fn as_client(&mut self, papers: &Papers) -> Said {
        let user = *self.plan.by.choose(&mut self.rng).expect("somebody");
        match self.plan.way {
            Way::Plain => {}
            Way::Gss => {
                self.say("GSSENCRequest", &msg::gssenc_request(), false)?;
                self.line.bytes(1)?;
            }
            Way::Asked => {
                self.say("SSLRequest", &msg::ssl_request(), false)?;
                self.line.bytes(1)?;
                return self.say("ClientHello", &papers.client_hello(), true);
            }
            way @ (Way::Tls | Way::Certified) => {
                // Or at once, without asking.
                if self.rng.random() {
                    self.line.send(&msg::ssl_request())?;
                    self.line.bytes(1)?;
                }
                self.line.secure(papers.towards_server(way).into())?;
            }
        }
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]);
        self.say("startup", &startup, false)?;
        self.prove(user)?;
        while self.line.message(true)?.0 != b'Z' {}
        self.say("logged in", &msg::query("SELECT 1"), true)
    }

    /// Answers what is asked, until it was enough.
    fn prove(&mut self, user: &str) -> Said {
        let certificate = self.line.tls.as_ref().and_then(|t| t.peer_certificates()?.first().cloned());
        let mut scram = certificate.map_or_else(|| Scram::new(PASSWORD), |c| Scram::bound(PASSWORD, &c));
        loop {
            let (b'R', body) = self.line.message(true)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let mut words = msg::Cursor(&body);
            let code = words.i32().ok_or(io::ErrorKind::InvalidData)?;
            let (words, text) = (words.0, String::from_utf8_lossy(words.0).into_owned());
            match code {
                0 => return Ok(()),
                3 => self.say("password", &msg::password(PASSWORD.as_bytes()), true)?,
                5 => {
                    let answer = md5_response(user, PASSWORD, words);
                    self.say("md5 answer", &msg::password(answer.as_bytes()), true)?;
                }
                10 => {
                    let first = msg::sasl_initial(scram.mechanism(), scram.first().as_bytes());
                    self.say("SASLInitialResponse", &first, true)?;
                }
                11 => {
                    let last = scram.last(&text).map_err(io::Error::other)?;
                    self.say("SASLResponse", &msg::message(b'p', last.as_bytes()), true)?;
                }
                _ => {}
            }
        }
    }
}

/// Howdah before `server` for everybody of pg_hba.conf.
fn before_clients(lab: &Lab, server: &Fake) -> Howdah {
    let rules = USERS.map(|(_, rule)| format!("{rule}\n")).concat();
    std::fs::write(lab.path("hba.conf"), format!("host witness witness all trust\n{rules}"))
        .expect("written");
    let sections = USERS.map(|(u, _)| format!("[users.{u}]\npassword = \"{PASSWORD}\"\n")).concat();
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nmax_login_failures = 0\nscram_iterations = 1\nclient_login_timeout = \"{}ms\"\n\
         client_tls_mode = \"allow\"\nclient_tls_cert = \"{}\"\nclient_tls_key = \"{}\"\nclient_tls_ca = \"{}\"\n\
         {sections}[users.witness]\n[databases.app]\nhost = \"127.0.0.1:{port}\"\npool_size = 5\n\
         [databases.witness]\nhost = \"127.0.0.1:{port}\"\npool_size = 1\n",
        lab.path("hba.conf").display(),
        DEADLINE.as_millis(),
        lab.show("server.crt"),
        lab.show("server.key"),
        lab.show("ca.crt"),
        port = server.port(),
    ))
}

#[test]
fn ten_thousand_clients_depart_from_the_protocol() {
    let Some((lab, papers)) = Papers::new() else { return };
    let server = Fake::serving();
    let howdah = before_clients(&lab, &server);
    let witness = Witness::start(&howdah);
    let (tally, next) = (Tally::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // A few reach no departure: their number is made up for.
                    if number >= CONVERSATIONS + CONVERSATIONS / 20 {
                        break;
                    }
                    let mut rng = StdRng::seed_from_u64(number as u64);
                    let plan = *CLIENTS.choose(&mut rng).expect("a plan");
                    let tcp = TcpStream::connect(howdah.address()).expect("accepted");
                    let line = Line::new(tcp).expect("a connection");
                    let mut talk = Talk { number, rng, line, plan, spoilt: Vec::new(), tally: &tally };
                    let _ = talk.as_client(&papers);
                    talk.ends("client");
                }
            });
        }
    });
    witness.end();
    tally.settle("clients", CLIENTS.len());
    let shaken = metric(&howdah, "howdah_tls_handshakes_total", &[("side", "client")]);
    assert!(shaken * 3.0 > CONVERSATIONS as f64, "{shaken} handshakes are complete");
    is_unharmed(&howdah);
}

// ---- servers

/// The methods that a server asks by.
const ANYHOW: &[&str] = &["trust", "password", "md5", "scram"];

const SERVERS: [Plan; 21] = [
    plan(Way::Plain, "ErrorResponse", &["refuse"]),
    plan(Way::Plain, "password request", &["password"]),
    plan(Way::Plain, "md5 request", &["md5"]),
    plan(Way::Plain, "SASL", &["scram"]),
    plan(Way::Plain, "SASLContinue", &["scram"]),
    plan(Way::Plain, "SASLFinal", &["scram"]),
    plan(Way::Plain, "AuthenticationOk", ANYHOW),
    plan(Way::Plain, "ParameterStatus", ANYHOW),
    plan(Way::Plain, "BackendKeyData", ANYHOW),
    plan(Way::Plain, "ReadyForQuery", ANYHOW),
    plan(Way::Asked, "answer to SSLRequest", ANYHOW),
    plan(Way::Asked, "ServerHello", ANYHOW),
    plan(Way::Tls, "record", &["password", "md5", "scram"]),
    plan(Way::Tls, "ErrorResponse", &["refuse"]),
    plan(Way::Tls, "password request", &["password"]),
    plan(Way::Tls, "md5 request", &["md5"]),
    plan(Way::Tls, "SASL", &["scram"]),
    plan(Way::Tls, "SASLContinue", &["scram"]),
    plan(Way::Tls, "SASLFinal", &["scram"]),
    plan(Way::Tls, "AuthenticationOk", ANYHOW),
    plan(Way::Tls, "ReadyForQuery", ANYHOW),
];

impl Talk<'_> {
    fn as_server(&mut self, papers: &Papers) -> Said {
        let (_, first) = self.line.message(false)?;
        let asked = first == msg::ssl_request()[4..];
        if !asked {
            // Its attempt with TLS has failed, and this is the one in plain text.
            let plain: Vec<&Plan> = SERVERS.iter().filter(|p| p.way == Way::Plain).collect();
            self.plan = **plain.choose(&mut self.rng).expect("a plan");
        } else if self.plan.way == Way::Plain {
            self.line.send(b"N")?;
            self.line.message(false)?;
        } else {
            let refuses = self.plan.state == "answer to SSLRequest" && self.rng.random();
            let answer = if refuses { b"N" } else { b"S" };
            self.say("answer to SSLRequest", answer, true)?;
            if self.plan.way == Way::Asked {
                let hello = papers.server_hello(&mut self.line.tcp)?;
                return self.say("ServerHello", &hello, true);
            }
            let connection =
                rustls::ServerConnection::new(papers.server.clone()).map_err(io::Error::other)?;
            self.line.secure(connection.into())?;
            self.line.message(false)?;
        }
        self.ask()?;
        self.say("AuthenticationOk", &msg::auth(0, &[]), true)?;
        self.say("ParameterStatus", &msg::parameter_status("server_version", "15.1"), true)?;
        self.say("BackendKeyData", &msg::backend_key(7, &[1, 2, 3, 4]), true)?;
        self.say("ReadyForQuery", &msg::ready(b'I'), true)
    }

    /// Asks for what this server wants, and hears it.
    fn ask(&mut self) -> Said {
        let wanted = *self.plan.by.choose(&mut self.rng).expect("a method");
        match wanted {
            "refuse" => {
                self.say("ErrorResponse", &msg::error("FATAL", "53300", "too many connections"), true)?
            }
            "password" => self.first_request("password request", &msg::auth(3, &[]))?,
            "md5" => self.first_request("md5 request", &msg::auth(5, &[1, 2, 3, 4]))?,
            "scram" => return self.ask_scram(),
            _ => return Ok(()),
        }
        self.line.message(true).map(drop)
    }

    /// The first that is said within TLS may be a record that is none.
    fn first_request(&mut self, state: &'static str, message: &[u8]) -> Said {
        let state = if self.plan.state == "record" { "request" } else { state };
        self.say(state, message, true)
    }

    fn ask_scram(&mut self) -> Said {
        let (plus, offer): (bool, &[u8]) = match self.line.tls {
            Some(_) => (true, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
            None => (false, b"SCRAM-SHA-256\0\0"),
        };
        self.first_request("SASL", &msg::auth(10, offer))?;
        let (_, body) = self.line.message(true)?;
        if plus != body.starts_with(b"SCRAM-SHA-256-PLUS\0") {
            self.tally.failed(format!("server {}: the login is not bound as it can be", self.number));
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let first = text.find(if plus { "p=" } else { "n,," }).map_or("", |at| &text[at..]);
        let scram = ScramServer::new(PASSWORD, first, 1).ok_or(io::ErrorKind::InvalidData)?;
        self.say("SASLContinue", &msg::auth(11, scram.first().as_bytes()), true)?;
        let (_, body) = self.line.message(true)?;
        let last = scram.last(&String::from_utf8_lossy(&body)).ok_or(io::ErrorKind::InvalidData)?;
        self.say("SASLFinal", &msg::auth(12, last.as_bytes()), true)
    }
}

/// One conversation on an accepted connection, to its end.
fn serve(stream: TcpStream, number: usize, papers: &Papers, tally: &Tally) -> Said {
    let mut rng = StdRng::seed_from_u64(number as u64);
    let plan = *SERVERS.choose(&mut rng).expect("a plan");
    let line = Line::new(stream)?;
    let mut talk = Talk { number, rng, line, plan, spoilt: Vec::new(), tally };
    let _ = talk.as_server(papers);
    talk.ends("server");
    Ok(())
}

#[test]
fn ten_thousand_servers_depart_from_the_protocol() {
    /// Each with a pool and a host of its own: a pause after a failure holds up nobody else.
    const HOSTS: usize = 64;
    let Some((lab, papers)) = Papers::new() else { return };
    let listeners: Vec<TcpListener> =
        (0..HOSTS).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let good = Fake::serving();
    let mut config = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         server_tls_mode = \"prefer\"\nserver_tls_ca = \"{2}\"\nserver_connect_timeout = \"{0}ms\"\nserver_login_retry = \"100ms\"\n\
         server_cleartext_password = true\n[users.app]\npassword = \"{PASSWORD}\"\n[users.witness]\n\
         [databases.witness]\nhost = \"127.0.0.1:{1}\"\npool_size = 1\n",
        DEADLINE.as_millis(),
        good.port(),
        lab.show("ca.crt")
    );
    for (i, l) in listeners.iter().enumerate() {
        let port = l.local_addr().expect("bound").port();
        config.push_str(&format!("[databases.d{i}]\nhost = \"127.0.0.1:{port}\"\npool_size = 2\n"));
    }
    let howdah = Howdah::start(&config);
    let witness = Witness::start(&howdah);
    let (tally, next, served) = (Tally::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    let enough = || {
        served.load(Ordering::Relaxed) >= CONVERSATIONS * 5 / 4 || began.elapsed() > Duration::from_secs(180)
    };
    std::thread::scope(|scope| {
        for (i, listener) in listeners.iter().enumerate() {
            let (tally, next, served, enough, port) = (&tally, &next, &served, &enough, howdah.port());
            let papers = &papers;
            listener.set_nonblocking(true).expect("a listener");
            scope.spawn(move || {
                while !enough() {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            stream.set_nonblocking(false).expect("a stream");
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            let _ = serve(stream, number, papers, tally);
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
            scope.spawn(move || {
                let dsn = Dsn::local(port, "app", &format!("d{i}"));
                while !enough() {
                    if let Ok(mut raw) = Raw::try_login(&dsn, msg::PROTOCOL_3_0, &[]) {
                        let _ = raw.send(&msg::query("SELECT 1"));
                        let _ = raw.next_within(DEADLINE);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    witness.end();
    tally.settle("servers", SERVERS.len());
    is_unharmed(&howdah);
}
