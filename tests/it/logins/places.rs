//! Who gets in while strangers take what they can: connections that have not logged in, the ops port, cancels for peers.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, Client, Target, eventually};

fn before(fake: &Fake, top: &str, more: &str) -> Howdah {
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         unix_socket_dir = \"{{dir}}\"\nadmin_users = [\"boss\"]\nlog_connections = false\nlog_disconnections = false\n\
         {top}\n[users.app]\n[users.boss]\n[databases.app]\nhost = \"127.0.0.1:{}\"\npool_size = 4\n{more}",
        fake.port()
    ))
}

/// Connections that say nothing.
fn silent(howdah: &Howdah, n: usize) -> Vec<TcpStream> {
    (0..n).map(|_| TcpStream::connect(howdah.address()).expect("it accepts")).collect()
}

fn ops_request(howdah: &Howdah, path: &str, host: &str) -> io::Result<(u16, String)> {
    let mut s = TcpStream::connect(howdah.ops_address())?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(s, "GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    s.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

fn ops(howdah: &Howdah, path: &str) -> String {
    ops_request(howdah, path, "Host: localhost\r\n").expect("an answer").1
}

fn metric(howdah: &Howdah, series: &str) -> f64 {
    let text = ops(howdah, "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(series));
    line.and_then(|l| l.trim().parse().ok()).unwrap_or_else(|| panic!("{series}"))
}

fn everybody_gets_in(howdah: &Howdah) {
    let mut app = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    assert_eq!(app.select("select 'tcp'"), ["tcp"]);
    let dir = howdah.config_path().parent().expect("a directory").to_owned();
    let mut unix =
        Client::connect(&Target::unix(&dir, howdah.port()), "app", "app").expect("over the Unix socket");
    assert_eq!(unix.value("select 'unix'").expect("an answer"), "unix");
    let mut boss = Raw::login(&Dsn::local(howdah.port(), "boss", "howdah"));
    assert!(!boss.ask(&msg::query("SHOW VERSION")).is_empty());
    let mut boss = Raw::login(&Dsn::local(howdah.port(), "boss", "app"));
    assert_eq!(boss.select("select 'boss'"), ["boss"]);
}

#[test]
fn silent_connections_keep_nobody_out() {
    let fake = Fake::serving();
    let howdah = before(&fake, "client_login_timeout = \"60s\"", "");
    // One that is slow, and has begun: it keeps its place whoever comes.
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut slow = Raw::connect(&dsn).expect("it accepts");
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
    slow.put(&startup[..10]);
    let oldest = silent(&howdah, 1);
    let crowd = silent(&howdah, 1200);
    everybody_gets_in(&howdah);
    // In the place of the oldest, which is told.
    let mut told = String::new();
    oldest[0].set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    drop((&oldest[0]).read_to_string(&mut told));
    assert!(told.contains("53300") && told.contains("max_login_connections is 1000"), "{told}");
    let log = howdah.await_log("max_login_connections (1000)", Duration::from_secs(5));
    assert!(log.contains("127.0.0.1"), "{log}");
    eventually("there are as many as places again", || {
        metric(&howdah, "howdah_strangers{state=\"silent\"} ") <= 1000.0
    });
    let cut = metric(&howdah, "howdah_strangers_cut_total{reason=\"silent\"} ");
    assert!((200.0..210.0).contains(&cut), "{cut}");
    slow.put(&startup[10..]);
    slow.finish_login(&dsn).expect("a login under way is not cut");
    drop(crowd);
}

#[test]
fn silent_connections_take_no_places_of_clients() {
    let fake = Fake::serving();
    let howdah = before(&fake, "max_client_connections = 100", "");
    let crowd = silent(&howdah, 150);
    everybody_gets_in(&howdah);
    let mut clients: Vec<Raw> =
        (0..100).map(|_| Raw::login(&Dsn::local(howdah.port(), "app", "app"))).collect();
    let refused = Raw::try_login(&Dsn::local(howdah.port(), "app", "app"), msg::PROTOCOL_3_0, &[]);
    let refused = refused.err().expect("there are 100");
    assert!(refused.contains("100 clients are connected; max_client_connections is 100"), "{refused}");
    let mut boss = Raw::login(&Dsn::local(howdah.port(), "boss", "app"));
    assert_eq!(boss.select("select 'boss'"), ["boss"], "of the reserved places");
    assert_eq!(clients[99].select("select 'last'"), ["last"]);
    drop(crowd);
}

/// Far more than there are places, all from one address and all at once: each of them gets in.
#[test]
fn honest_clients_that_come_at_once_all_get_in() {
    const CLIENTS: usize = 4000;
    howdah::net::descriptors::raise_limit(u64::MAX);
    let fake = Fake::serving();
    let howdah = before(&fake, "max_login_connections = 100\nclient_login_timeout = \"60s\"", "");
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
    let next = AtomicUsize::new(0);
    let (failed, kept) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                // A batch of connections first, then all their startup packets.
                while next.fetch_add(50, Ordering::SeqCst) < CLIENTS {
                    let mut batch: Vec<TcpStream> = (0..50)
                        .map(|_| {
                            let mut c = TcpStream::connect(howdah.address()).expect("it accepts");
                            c.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
                            c.write_all(&startup).expect("room");
                            c
                        })
                        .collect();
                    for c in &mut batch {
                        let mut first = [0; 9];
                        if c.read_exact(&mut first).is_err() || first != *b"R\0\0\0\x08\0\0\0\0" {
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    kept.lock().expect("a lock").extend(batch);
                }
            });
        }
    });
    assert_eq!((failed.into_inner(), kept.into_inner().expect("a lock").len()), (0, CLIENTS));
}

/// A program that opens all its connections first gets round to the first of them late. None of them is cut for that.
fn they_come_at_once(howdah: &Howdah, clients: usize) {
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
    let mut all = silent(howdah, clients);
    eventually("they are all there", || {
        metric(howdah, "howdah_strangers{state=\"silent\"} ") == clients as f64
    });
    for c in &mut all {
        c.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        c.write_all(&startup).expect("room");
    }
    for c in &mut all {
        let mut first = [0; 9];
        c.read_exact(&mut first).expect("an answer");
        assert_eq!(first, *b"R\0\0\0\x08\0\0\0\0");
    }
    eventually("they have logged in", || metric(howdah, "howdah_logins_total ") == clients as f64);
    for c in &mut all {
        c.write_all(&msg::query("select 1")).expect("room");
    }
    for c in &mut all {
        let mut end = Vec::new();
        while !end.ends_with(b"Z\0\0\0\x05I") {
            let mut chunk = [0; 4096];
            let n = c.read(&mut chunk).expect("an answer");
            assert!(n > 0, "closed: {}", String::from_utf8_lossy(&end));
            end.extend_from_slice(chunk.get(..n).unwrap_or_default());
        }
    }
    assert_eq!(metric(howdah, "howdah_strangers_cut_total{reason=\"silent\"} "), 0.0);
}

#[test]
fn clients_that_connect_at_once_and_speak_later_all_get_in() {
    howdah::net::descriptors::raise_limit(u64::MAX);
    let fake = Fake::serving();
    they_come_at_once(&before(&fake, "max_login_connections = 50", ""), 2000);
}

/// As many as there may be, with the places and times that there are by default.
#[test]
#[ignore = "long: make soak"]
fn soak_ten_thousand_clients_that_come_at_once_all_get_in() {
    let Some(cluster) = harness::shared(15) else { return };
    howdah::net::descriptors::raise_limit(u64::MAX);
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         log_connections = false\nlog_disconnections = false\n[users.app]\n[databases.app]\n\
         host = \"127.0.0.1:{}\"\npool_size = 5\n",
        cluster.port()
    ));
    they_come_at_once(&howdah, 10_000);
}

/// Idle and silent connections to the ops port make room.
#[test]
fn the_ops_port_answers_probes_whoever_holds_connections() {
    let fake = Fake::serving();
    let howdah = before(&fake, "", "");
    let mut held = Vec::new();
    for n in 0..200 {
        let mut c = TcpStream::connect(howdah.ops_address()).expect("it accepts");
        c.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        if n % 2 == 0 {
            write!(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("room");
            let mut begin = [0; 12];
            c.read_exact(&mut begin).expect("an answer");
            assert_eq!(&begin, b"HTTP/1.1 200");
        }
        held.push(c);
        if n % 20 == 19 {
            for path in ["/healthz", "/readyz"] {
                let began = std::time::Instant::now();
                assert_eq!(ops_request(&howdah, path, "Host: localhost\r\n").expect("an answer").0, 200);
                assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            }
        }
    }
    assert!(metric(&howdah, "howdah_ops_connections_cut_total ") > 100.0);
    drop(held);
}

/// DNS rebinding: the page's own name is no name of ours.
#[test]
fn the_ops_port_answers_to_its_own_names_only() {
    let fake = Fake::serving();
    let howdah = before(&fake, "ops_hosts = [\"metrics.internal\"]", "");
    for path in ["/", "/stats", "/queries", "/metrics", "/index"] {
        for host in ["Host: evil.example:9127\r\n", "Host: evil.example\r\n", ""] {
            let (status, body) = ops_request(&howdah, path, host).expect("an answer");
            // A request of HTTP/1.1 without a Host is none.
            assert!(
                matches!(status, 421 | 400) && !body.contains("127.0.0.1:"),
                "{path} {host}: {status} {body}"
            );
        }
        for host in ["localhost", "127.0.0.1:9127", "[::1]", "metrics.internal"] {
            let (status, _) = ops_request(&howdah, path, &format!("Host: {host}\r\n")).expect("an answer");
            assert_eq!(status, 200, "{path} {host}");
        }
    }
    for path in ["/healthz", "/readyz", "/readyz/app"] {
        let (status, _) = ops_request(&howdah, path, "Host: evil.example\r\n").expect("an answer");
        assert_eq!(status, 200, "{path}");
    }
}

/// Cancels with made-up keys of a peer: no more connections to it than there may be cancels in flight.
#[test]
fn cancels_for_peers_are_bounded() {
    let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = peer.local_addr().expect("bound").port();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn({
        let (open, most) = (open.clone(), most.clone());
        move || {
            // It answers nobody.
            let mut held = Vec::new();
            for c in peer.incoming() {
                held.push(c);
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            }
        }
    });
    let fake = Fake::serving();
    let top = "peer_id = 1\nmax_cancels_in_flight = 10\ncancel_wait_timeout = \"60s\"";
    let howdah = before(&fake, top, &format!("[peers.2]\nhost = \"127.0.0.1:{port}\"\n"));
    let mut senders = Vec::new();
    for n in 0..600_u32 {
        let mut c = TcpStream::connect(howdah.address()).expect("it accepts");
        // The bytes 1 and 2 name the peer, the last two bits are what is left of its life.
        let mut packet = vec![0, 0, 0, 16, 4, 210, 22, 46, 0, 2, 0, 7];
        packet.extend_from_slice(&(n << 2 | 3).to_be_bytes());
        c.write_all(&packet).expect("room");
        senders.push(c);
    }
    eventually("the others are dropped", || {
        metric(&howdah, "howdah_cancels_total{outcome=\"dropped\"} ") >= 590.0
    });
    assert_eq!(most.load(Ordering::SeqCst), 10);
    assert_eq!(metric(&howdah, "howdah_cancels_in_flight "), 10.0);
    everybody_gets_in(&howdah);
}
