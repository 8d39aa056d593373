//! Bugs that other poolers had over the time of a process: stalls, figures that drift, limits of zero, memory that
//! stays, passwords that change.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::program::resident;
use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{
    self, SUPERUSER, app_options, cluster, config, connections, eventually, metric, shared, start,
};

const MAJOR: u32 = 15;

fn dsn(howdah: &Howdah) -> Dsn {
    Dsn::local(howdah.port(), "app", "app")
}

/// Both directions become ready at one time, again and again, through buffers of the smallest size: whoever forgets
/// one of the two events stalls for ever.
#[test]
fn small_buffers_in_both_directions() {
    let Some(cluster) = shared(MAJOR) else { return };
    let top = "tcp_socket_buffer = \"4kB\"\nbuffer_size = \"1kB\"";
    let howdah = start(cluster, top, "pool_size = 3", "");
    std::thread::scope(|scope| {
        for lane in 0..6u64 {
            let dsn = dsn(&howdah);
            scope.spawn(move || {
                let mut client = Raw::login(&dsn);
                client.shrink_receive_buffer(4096).expect("a smaller buffer");
                client.patience = 4 * harness::rig::SOON;
                let mut writer = client.writer().expect("a second handle");
                let mut seed = lane + 1;
                let mut random = move |below: u64| {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % below
                };
                for round in 0..8 {
                    let sizes: Vec<u64> = (0..16).map(|_| random(9000)).collect();
                    let stalls = [random(3000), random(3000)];
                    let batches: Vec<Vec<u8>> = sizes
                        .iter()
                        .map(|n| {
                            let sql = format!(
                                "select '{lane}/{round}', repeat('x', {n}) /* {} */",
                                "y".repeat(*n as usize)
                            );
                            [msg::pbe(&sql), msg::sync()].concat()
                        })
                        .collect();
                    std::thread::scope(|inner| {
                        inner.spawn(|| {
                            for (i, batch) in batches.iter().enumerate() {
                                writer.write_all(batch).expect("written in the end");
                                if i == 10 {
                                    std::thread::sleep(Duration::from_micros(stalls[0]));
                                }
                            }
                        });
                        for (i, n) in sizes.iter().enumerate() {
                            if i == 5 {
                                std::thread::sleep(Duration::from_micros(stalls[1]));
                            }
                            let row = client.expect("12DCZ").remove(2).columns();
                            assert_eq!(row[0].as_deref(), Some(format!("{lane}/{round}").as_bytes()));
                            assert_eq!(row[1].as_ref().map(Vec::len), Some(*n as usize));
                        }
                    });
                }
            });
        }
    });
}

/// Sessions that end in every way there is; then everything that counts what is there now says that nothing is.
#[test]
fn figures_come_back_to_nothing() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "query_wait_timeout = \"700ms\"", "pool_size = 3", "");
    std::thread::scope(|scope| {
        for lane in 0..6 {
            let howdah = &howdah;
            scope.spawn(move || (0..24).for_each(|n| one_ending(howdah, lane + n)));
        }
    });
    for (name, labels) in [
        ("howdah_clients_connected", &[][..]),
        ("howdah_clients", &[]),
        ("howdah_cancels_in_flight", &[]),
        ("howdah_pool_waiting_clients", &[]),
        ("howdah_pool_longest_wait_seconds", &[]),
        ("howdah_pool_utilization_ratio", &[]),
        ("howdah_pool_servers", &[("state", "active")]),
        ("howdah_pool_servers", &[("state", "opening")]),
        ("howdah_pool_servers", &[("state", "repairing")]),
        ("howdah_pool_servers", &[("state", "canceling")]),
        ("howdah_pool_servers", &[("state", "closing")]),
    ] {
        eventually(&format!("{name}{labels:?} is 0"), || metric(&howdah, name, labels) == 0.0);
    }
    let idle = metric(&howdah, "howdah_pool_servers", &[("state", "idle")]);
    assert!((1.0..=3.0).contains(&idle), "{idle}");
    // A backend whose connection was closed takes a moment to end.
    eventually("the server counts as many", || connections(&cluster, "app") as f64 == idle);
    assert_eq!(metric(&howdah, "howdah_leases_dropped_total", &[]), 0.0);
    assert_eq!(metric(&howdah, "howdah_panics_total", &[]), 0.0);
}

fn one_ending(howdah: &Howdah, n: usize) {
    let dsn = dsn(howdah);
    match n % 12 {
        0 => drop(Raw::connect(&dsn)),
        1 => {
            let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app")]);
            Raw::connect(&dsn).expect("accepted").put(&startup[..9]);
        }
        2 => drop(Raw::try_login(&Dsn { database: "none".into(), ..dsn }, msg::PROTOCOL_3_0, &[])),
        3 => drop(Raw::try_login(&Dsn { user: "none".into(), ..dsn }, msg::PROTOCOL_3_0, &[])),
        kind => {
            // The pool may be full for longer than a login waits.
            let Ok(mut c) = Raw::try_login(&dsn, msg::PROTOCOL_3_0, &[]) else { return };
            match kind {
                4 => {
                    c.put(&msg::query("select pg_sleep(0.05)"));
                }
                5 => {
                    c.put(&msg::query("begin"));
                    c.until(b'Z');
                    c.reset();
                }
                6 => {
                    c.put(&msg::query("select pg_sleep(5)"));
                    c.cancel(&dsn).expect("a cancel connection");
                    c.reset();
                }
                7 => c.put(&msg::terminate()).expect_closed(),
                8 => {
                    c.put(&[0x99, 0, 0, 0, 4]);
                }
                9 => {
                    c.put(&[msg::pbe("select 1"), msg::flush()].concat());
                }
                10 => {
                    c.put(&msg::query("listen x"));
                }
                _ => {
                    c.put(&msg::query("copy (select generate_series(1, 100000)) to stdout"));
                }
            }
        }
    }
}

/// What 0 means for every limit: refused with the smallest value that is allowed, or no limit, as the reference says.
#[test]
fn every_limit_at_zero() {
    const REFUSED: &[&str] = &[
        "max_client_connections",
        "max_login_connections",
        "max_parallel_connects",
        "max_cancels_in_flight",
        "max_pam_requests",
        "max_message_size",
        "max_statement_size",
        "buffer_size",
        "backlog",
        "pool_size",
        "server_repair_timeout",
        "server_connect_timeout",
        "client_login_timeout",
        "cancel_wait_timeout",
        "server_login_retry",
        "drain_timeout",
    ];
    const NO_LIMIT: &[&str] = &[
        "reserved_client_connections",
        "max_database_connections",
        "max_database_client_connections",
        "max_user_connections",
        "max_user_client_connections",
        "client_write_timeout",
        "min_pool_size",
        "reserve_pool_size",
        "query_timeout",
        "query_wait_timeout",
        "transaction_timeout",
        "idle_transaction_timeout",
        "client_idle_timeout",
        "server_lifetime",
        "server_idle_timeout",
    ];
    let Some(cluster) = shared(MAJOR) else { return };
    let base = config(cluster, "{top}", "{pool}", "").replace("{port}", "6432").replace("{ops_port}", "9127");
    let check = |key: &str| {
        let (top, pool) = if key == "pool_size" { ("", "pool_size = 0") } else { ("", "pool_size = 1") };
        let line = if key == "pool_size" { String::new() } else { format!("{key} = 0") };
        let text = base.replace("{top}", &format!("{top}{line}")).replace("{pool}", pool);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("howdah.toml");
        std::fs::write(&path, text).expect("written");
        let out = harness::program().arg("check").arg(&path).output().expect("it runs");
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    for key in REFUSED {
        let (accepted, said) = check(key);
        assert!(!accepted && said.contains(key) && said.contains("allowed"), "{key}: {said}");
    }
    for key in NO_LIMIT {
        let (accepted, said) = check(key);
        assert!(accepted, "{key}: {said}");
    }
    // And all of them at once: nothing of it stops anybody.
    let zeros: String = NO_LIMIT.iter().map(|k| format!("{k} = 0\n")).collect();
    let howdah = start(cluster, &zeros, "pool_size = 1", "");
    let mut clients: Vec<Raw> = (0..10).map(|_| Raw::login(&dsn(&howdah))).collect();
    for c in &mut clients {
        c.put(&msg::query("select pg_sleep(0.02), 'served'"));
    }
    for c in &mut clients {
        assert_eq!(tags(&c.until(b'Z')), "TDCZ");
    }
}

/// The smallest value of everything serves one client after the other.
#[test]
fn everything_at_its_smallest() {
    let Some(cluster) = shared(MAJOR) else { return };
    let smallest = "max_client_connections = 1\nreserved_client_connections = 0\nmax_login_connections = 1\n\
         max_parallel_connects = 1\nmax_cancels_in_flight = 1\nmax_prepared_statements = 1\n\
         max_client_statements = 1\nmax_statement_size = \"1kB\"\nbuffer_size = \"1kB\"\nbacklog = 1\nworkers = 1\n\
         max_database_connections = 1\nmax_user_connections = 1\nmax_database_client_connections = 1\n\
         max_user_client_connections = 1";
    let howdah = start(cluster, smallest, "pool_size = 1", "");
    for n in 0..5 {
        let mut client = None;
        eventually("its place is free", || {
            client = Raw::try_login(&dsn(&howdah), msg::PROTOCOL_3_0, &[]).ok();
            client.is_some()
        });
        let mut c = client.expect("logged in");
        let named = |name: &str, text: &str| {
            [
                msg::parse(name, text, &[]),
                msg::bind("", name, &[], &[], &[]),
                msg::execute("", 0),
                msg::sync(),
            ]
            .concat()
        };
        assert_eq!(tags(&c.ask(&named("a", &format!("select {n}")))), "12DCZ");
        c.put(&named("b", "select 2")).expect_error("ERROR", "54000");
        c.expect("Z");
        c.put(&named("", &format!("select {n} /* {} */", "x".repeat(5000)))).expect("12DCZ");
        c.put(&msg::query("select pg_sleep(20)"));
        eventually("it runs", || {
            harness::count(cluster, "query = 'select pg_sleep(20)' and state = 'active'") == 1
        });
        drop(c);
        eventually("it is cancelled", || harness::count(cluster, "state = 'active'") == 0);
    }
    assert!(connections(cluster, "app") <= 1);
}

/// Rows of 100 MB down and up, several at one time: they are streamed, and what they took comes back.
#[test]
fn large_rows_leave_no_memory_behind() {
    const ROW: usize = 100_000_000;
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 4", "");
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::login(&dsn(&howdah))).collect();
    for c in &mut clients {
        c.select("select 1");
    }
    let before = resident(howdah.pid());
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in &mut clients {
            let (howdah, most) = (&howdah, &most);
            scope.spawn(move || {
                // Read past the frames: a row of this size need not be collected here either.
                let mut stream = client.writer().expect("a second handle");
                stream.set_read_timeout(Some(6 * harness::rig::SOON)).expect("a timeout");
                stream.write_all(&msg::query(&format!("select repeat('x', {ROW})"))).expect("sent");
                let (mut chunk, mut read, mut tail) = (vec![0; 1 << 18], 0, Vec::new());
                while read < ROW || !tail.ends_with(b"Z\0\0\0\x05I") {
                    let n = stream.read(&mut chunk).expect("a part of the row");
                    assert!(n > 0, "it ended");
                    read += n;
                    tail = chunk[n.saturating_sub(6)..n].to_vec();
                    most.fetch_max(resident(howdah.pid()) as usize, Ordering::Relaxed);
                }
            });
        }
    });
    let long = format!("select length('{}')", "y".repeat(ROW / 4));
    assert_eq!(clients[0].select(&long), [(ROW / 4).to_string()]);
    let most = most.load(Ordering::Relaxed) as u64;
    println!("{before} kB before, at most {most} kB");
    assert!(most < before + 16 * 1024, "{before} kB became {most} kB while the rows passed");
    // A fifth more, and 4 MB for what an allocator keeps.
    eventually("it comes back", || resident(howdah.pid()) <= before + before / 5 + 4 * 1024);
}

/// The password of a role changes on the server under load, and the configuration follows by a reload: nobody
/// notices, and connections of the old password are replaced.
#[test]
fn a_password_changes_under_load() {
    let options = app_options()
        .sql("ALTER ROLE app PASSWORD 'first'")
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .hba("host all all 127.0.0.1/32 trust");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let with = |password: &str| {
        config(&cluster, "", "pool_size = 3", "")
            .replace("[users.app]", &format!("[users.app]\npassword = \"{password}\""))
    };
    let howdah = Howdah::start(&with("first"));
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for lane in 0..8 {
            let (howdah, over, served) = (&howdah, &over, &served);
            scope.spawn(move || {
                let mut client = Raw::login(&dsn(howdah));
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    n += 1;
                    let own = format!("{lane}/{n}");
                    assert_eq!(client.select(&format!("select '{own}'")), [own]);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |what: &str| {
            let before = served.load(Ordering::Relaxed);
            eventually(what, || served.load(Ordering::Relaxed) > before + 100);
        };
        more("the load runs");
        let mut admin = cluster.connect(SUPERUSER, "app").expect("a direct session");
        admin.query("ALTER ROLE app PASSWORD 'second'").expect("changed");
        let changed = admin.value("SELECT clock_timestamp()").expect("a time");
        more("the old connections serve on");
        howdah.rewrite_config(&with("second"));
        howdah.hup();
        howdah.await_log("configuration reloaded", harness::rig::SOON);
        eventually("connections are those of the new password", || {
            let old = format!("usename = 'app' AND backend_start < '{changed}'");
            harness::count(&cluster, &old) == 0 && connections(&cluster, "app") > 0
        });
        more("and they serve");
        over.store(true, Ordering::Relaxed);
    });
    assert!(connections(&cluster, "app") <= 3);
    assert!(!howdah.log().contains("first") && !howdah.log().contains("second"), "no password in the log");
    // With one that the server does not know, who comes is told so by the server, and logins are spaced.
    let started = Instant::now();
    howdah.rewrite_config(&with("third"));
    howdah.hup();
    // At its login, or with its first query where the greeting was known.
    eventually("it is told", || {
        let told = match howdah.connect("app", "app") {
            Err(e) => format!("{e:?}"),
            Ok(mut client) => client.query("SELECT 1").err().map_or_else(String::new, |e| format!("{e:?}")),
        };
        told.contains("28P01")
    });
    let tries = metric(&howdah, "howdah_server_connect_failures_total", &[("reason", "refused")]);
    let rounds = 8.0 + started.elapsed().as_secs_f64() * 4.0 * 8.0;
    assert!(tries >= 1.0 && tries <= rounds, "{tries} logins");
}
