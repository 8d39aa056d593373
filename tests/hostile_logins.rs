//! Generated login conversations that begin as they should and depart at one point: ten thousand of clients and ten
//! thousand of servers. Nobody else may notice, nothing may wait longer than its deadline, and no panic may follow.
//! A conversation is made from its number, which a failure names.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::certs::Lab;
use common::proxy::Howdah;
use kit::metric;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use wire::Dsn;
use wire::auth::{Scram, ScramServer, md5_response};
use wire::fake::Fake;
use wire::msg;
use wire::raw::Raw;

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
    states: Mutex<BTreeMap<&'static str, usize>>,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn reached(&self, state: &'static str) {
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
    common::eventually("nobody is left in a login", || {
        metric(howdah, "howdah_clients", &[("state", "login")]) == 0.0
    });
    assert_eq!(metric(howdah, "howdah_leaked_connections", &[]), 0.0);
    assert!(!howdah.log().contains(PASSWORD), "a password is in the log");
}

// ---- clients

/// What the client says, one after the other; the last of them is spoilt.
struct Client<'a> {
    rng: StdRng,
    raw: Raw,
    number: usize,
    depart: usize,
    said: usize,
    tally: &'a Tally,
}

/// Whether the conversation goes on.
type Said = Result<(), io::Error>;

impl Client<'_> {
    fn say(&mut self, state: &'static str, message: &[u8], tagged: bool) -> Said {
        self.said += 1;
        if self.said <= self.depart {
            return self.raw.send(message);
        }
        self.tally.reached(state);
        if self.rng.random_range(0..100) > 0 {
            let spoilt = spoil(&mut self.rng, message, tagged);
            self.raw.send(&spoilt)?;
            // Half a message without an end of the stream is a wait for the deadline, which there is in a login alone.
            if spoilt.len() >= message.len() || state == "logged in" || self.rng.random_range(0..10) > 0 {
                self.raw.half_close()?;
            }
        } else if state == "logged in" {
            self.raw.half_close()?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// The words of an authentication request.
    fn challenge(&mut self) -> Option<(i32, Vec<u8>)> {
        let frame = self.raw.next().ok().filter(|f| f.tag == b'R')?;
        let mut c = frame.cursor();
        Some((c.i32()?, c.0.to_vec()))
    }

    fn talk(&mut self, user: &str, prelude: usize, hello: &[u8]) -> Said {
        if prelude > 0 {
            let (state, request) = match prelude {
                1 => ("SSLRequest", msg::ssl_request()),
                2 => ("GSSENCRequest", msg::gssenc_request()),
                _ => ("SSLRequest", msg::ssl_request()),
            };
            self.say(state, &request, false)?;
            let _ = self.raw.byte();
            if prelude != 2 {
                // Who has asked for TLS and been promised it does not go on without.
                self.depart = self.depart.min(1);
                return self.say("ClientHello", hello, true);
            }
        }
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]);
        self.say("startup", &startup, false)?;
        let mut scram = Scram::new(PASSWORD);
        loop {
            let Some((code, words)) = self.challenge() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let text = String::from_utf8_lossy(&words).into_owned();
            match code {
                0 => break,
                3 => self.say("password", &msg::password(PASSWORD.as_bytes()), true)?,
                5 => {
                    let answer = md5_response(user, PASSWORD, &words);
                    self.say("md5 answer", &msg::password(answer.as_bytes()), true)?;
                }
                10 => {
                    let first = msg::sasl_initial("SCRAM-SHA-256", scram.first().as_bytes());
                    self.say("SASLInitialResponse", &first, true)?;
                }
                11 => {
                    let last = scram.last(&text).map_err(io::Error::other)?;
                    self.say("SASLResponse", &msg::message(b'p', last.as_bytes()), true)?;
                }
                _ => {}
            }
        }
        while self.raw.next().map_err(|e| io::Error::other(format!("{e:?}")))?.tag != b'Z' {}
        self.said = self.depart;
        self.say("logged in", &msg::query("SELECT 1"), true)
    }
}

/// A ClientHello that a handshake could go on from.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("written");
    hello
}

#[test]
fn ten_thousand_clients_depart_from_the_protocol() {
    let Some(lab) = Lab::new() else { return };
    lab.ca("ca");
    lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost");
    let server = Fake::serving();
    let users = ["trusted", "clear", "digest", "scram"];
    let rules = "host witness witness all trust\nhost app trusted all trust\nhost app clear all password\n\
                 host app digest all md5\nhost app scram all scram-sha-256\n";
    std::fs::write(lab.path("hba.conf"), rules).expect("written");
    let sections: String = users
        .iter()
        .map(|u| format!("[users.{u}]\npassword = \"{PASSWORD}\"\n"))
        .collect::<Vec<_>>()
        .concat();
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nmax_login_failures = 0\nscram_iterations = 1\nclient_login_timeout = \"{}ms\"\n\
         client_tls_mode = \"allow\"\nclient_tls_cert = \"{}\"\nclient_tls_key = \"{}\"\n{sections}\
         [users.witness]\n[databases.app]\nhost = \"127.0.0.1:{port}\"\npool_size = 5\n\
         [databases.witness]\nhost = \"127.0.0.1:{port}\"\npool_size = 1\n",
        lab.path("hba.conf").display(),
        DEADLINE.as_millis(),
        lab.show("server.crt"),
        lab.show("server.key"),
        port = server.port(),
    ));
    let witness = Witness::start(&howdah);
    let (tally, next, hello) = (Tally::default(), AtomicUsize::new(0), client_hello());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // A few reach no departure: their number is made up for.
                    if number >= CONVERSATIONS + CONVERSATIONS / 10 {
                        break;
                    }
                    let mut rng = StdRng::seed_from_u64(number as u64);
                    let user = users[rng.random_range(0..users.len())];
                    let (prelude, depart) =
                        (rng.random_range(0..5_usize).saturating_sub(1), rng.random_range(0..4));
                    let raw = Raw::connect(&Dsn::local(howdah.port(), user, "app")).expect("accepted");
                    let mut client = Client { rng, raw, number, depart, said: 0, tally: &tally };
                    client.raw.patience = PATIENCE;
                    let _ = client.talk(user, prelude, &hello);
                    // Whatever was said, the connection ends, in time.
                    let began = Instant::now();
                    loop {
                        match client.raw.byte() {
                            Ok(_) => {}
                            Err(wire::raw::Missing::Timeout) => {
                                let what = format!("client {} still waits for the end", client.number);
                                break tally.failed(what);
                            }
                            Err(_) => break,
                        }
                        if began.elapsed() > PATIENCE {
                            break tally.failed(format!("client {} is served for ever", client.number));
                        }
                    }
                }
            });
        }
    });
    witness.end();
    tally.settle("clients", 9);
    is_unharmed(&howdah);
}

// ---- servers

/// What a server says to one connection; the last of it is spoilt.
struct Server<'a> {
    rng: StdRng,
    stream: TcpStream,
    depart: usize,
    said: usize,
    /// The state, and what was sent in it.
    departed: (&'static str, Vec<u8>),
    tally: &'a Tally,
}

impl Server<'_> {
    fn say(&mut self, state: &'static str, message: &[u8], tagged: bool) -> Said {
        self.said += 1;
        if self.said <= self.depart {
            return self.stream.write_all(message);
        }
        self.tally.reached(state);
        if self.rng.random_range(0..100) > 0 {
            let spoilt = spoil(&mut self.rng, message, tagged);
            self.stream.write_all(&spoilt)?;
            self.departed = (state, spoilt.clone());
            if spoilt.len() >= message.len() || self.rng.random_range(0..10) > 0 {
                self.stream.shutdown(Shutdown::Write)?;
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn bytes(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn message(&mut self, tagged: bool) -> io::Result<Vec<u8>> {
        if tagged {
            self.bytes(1)?;
        }
        let length = self.bytes(4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        assert!((4..10_000).contains(&length), "Howdah sent a message of {length} bytes");
        self.bytes(length as usize - 4)
    }

    fn talk(&mut self) -> Said {
        self.message(false)?;
        if self.rng.random_range(0..8) == 0 {
            self.depart = self.depart.min(1);
            self.say("answer to SSLRequest", b"S", true)?;
            self.message_of_tls()?;
            return self.say("ServerHello", &[0x16, 3, 3, 0, 50, 2, 0, 0, 46, 3, 3, 1, 2, 3], true);
        }
        self.say("answer to SSLRequest", b"N", true)?;
        self.message(false)?;
        let kind = self.rng.random_range(0..7);
        if kind < 3 && self.rng.random_range(0..2) == 0 {
            // Each of these stands for itself alone.
            self.depart = self.depart.min(1);
        }
        match kind {
            0 => self.say("ErrorResponse", &msg::error("FATAL", "53300", "too many connections"), true)?,
            1 => self.say("password request", &msg::auth(3, &[]), true)?,
            2 => self.say("md5 request", &msg::auth(5, &[1, 2, 3, 4]), true)?,
            3 => {}
            _ => {
                self.say("SASL", &msg::auth(10, b"SCRAM-SHA-256\0\0"), true)?;
                let body = self.message(true)?;
                let text = String::from_utf8_lossy(&body).into_owned();
                let first = text.find("n,,").map_or("", |at| &text[at..]);
                let scram = ScramServer::new(PASSWORD, first, 1).ok_or(io::ErrorKind::InvalidData)?;
                self.say("SASLContinue", &msg::auth(11, scram.first().as_bytes()), true)?;
                let body = self.message(true)?;
                let last = scram.last(&String::from_utf8_lossy(&body)).ok_or(io::ErrorKind::InvalidData)?;
                self.say("SASLFinal", &msg::auth(12, last.as_bytes()), true)?;
            }
        }
        self.say("AuthenticationOk", &msg::auth(0, &[]), true)?;
        self.say("ParameterStatus", &msg::parameter_status("server_version", "15.1"), true)?;
        self.say("BackendKeyData", &msg::backend_key(7, &[1, 2, 3, 4]), true)?;
        self.said = self.depart;
        self.say("ReadyForQuery", &msg::ready(b'I'), true)
    }

    /// One record.
    fn message_of_tls(&mut self) -> Said {
        let head = self.bytes(5)?;
        self.bytes(usize::from(u16::from_be_bytes([head[3], head[4]])))?;
        Ok(())
    }
}

/// One conversation on an accepted connection, to its end.
fn serve(stream: TcpStream, number: usize, tally: &Tally) -> Said {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut rng = StdRng::seed_from_u64(number as u64);
    let depart = rng.random_range(0..8);
    let mut server = Server { rng, stream, depart, said: 0, departed: Default::default(), tally };
    let _ = server.talk();
    let began = Instant::now();
    let mut rest = [0; 4096];
    loop {
        match server.stream.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) if began.elapsed() < PATIENCE => {}
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(());
            }
            Ok(_) | Err(_) => {
                tally.failed(format!("server {number} is still waited for: {:?}", server.departed));
                return Ok(());
            }
        }
    }
}

#[test]
fn ten_thousand_servers_depart_from_the_protocol() {
    /// Each with a pool and a host of its own: a pause after a failure holds up nobody else.
    const HOSTS: usize = 64;
    let listeners: Vec<TcpListener> =
        (0..HOSTS).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let good = Fake::serving();
    let mut config = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         server_tls_mode = \"prefer\"\nserver_connect_timeout = \"{0}ms\"\nserver_login_retry = \"100ms\"\n\
         server_cleartext_password = true\n[users.app]\npassword = \"{PASSWORD}\"\n[users.witness]\n\
         [databases.witness]\nhost = \"127.0.0.1:{1}\"\npool_size = 1\n",
        DEADLINE.as_millis(),
        good.port()
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
            listener.set_nonblocking(true).expect("a listener");
            scope.spawn(move || {
                while !enough() {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            stream.set_nonblocking(false).expect("a stream");
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            let _ = serve(stream, number, tally);
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
    tally.settle("servers", 12);
    is_unharmed(&howdah);
}
