//! Many clients listen through one connection: each hears what it would hear on a connection of its own, in the same
//! place and order, once, or is told that it does not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{
    Client, Cluster, VERSIONS, app, app_options, cluster, config, count, eventually, metric, shared, start,
};

const MAJOR: u32 = 15;

fn login(howdah: &Howdah) -> Raw {
    Raw::login(&Dsn::local(howdah.port(), "app", "app"))
}

/// Sender, channel, payload.
fn heard(frame: &Frame) -> (u32, String, String) {
    assert_eq!(frame.tag, b'A', "{frame:?}");
    let mut c = frame.cursor();
    let pid = c.i32().expect("a process id").cast_unsigned();
    let mut text = || String::from_utf8_lossy(c.cstr().expect("a text")).into_owned();
    (pid, text(), text())
}

/// The next message, which is a notification: channel and payload.
fn hear(raw: &mut Raw) -> String {
    let frame = raw.next().expect("a notification");
    let (_, channel, text) = heard(&frame);
    format!("{channel}: {text}")
}

fn all_heard(frames: &[Frame]) -> Vec<String> {
    let heard = frames.iter().filter(|f| f.tag == b'A').map(heard);
    heard.map(|(_, channel, text)| format!("{channel}: {text}")).collect()
}

fn run(client: &mut Client, sql: &str) {
    client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn ok(raw: &mut Raw, sql: &str) -> Vec<Frame> {
    let frames = raw.ask(&msg::query(sql));
    assert!(!tags(&frames).contains('E'), "{sql}: {frames:?}");
    frames
}

const CHANNELS: &str = "SELECT coalesce(string_agg(c, ',' ORDER BY c), '') FROM pg_listening_channels() c";

/// Nobody keeps a connection, and one listener has these channels.
fn listens(howdah: &Howdah, channels: f64, clients: f64) {
    eventually("the listener has its channels and clients", || {
        metric(howdah, "howdah_listener_channels", &[]) == channels
            && metric(howdah, "howdah_listener_clients", &[]) == clients
    });
    assert_eq!(metric(howdah, "howdah_pool_pins", &[]), 0.0);
}

#[test]
fn clients_that_listen_share_one_connection_and_hear_at_once() {
    for major in VERSIONS {
        let Some(cluster) = shared(major) else { continue };
        let howdah = start(cluster, "", "pool_size = 1", "");
        let (mut first, mut second, mut other) = (login(&howdah), login(&howdah), app(&howdah));
        assert_eq!(tags(&ok(&mut first, "LISTEN news")), "CZ");
        ok(&mut second, "LISTEN news; LISTEN \"More \"\"News\"");
        listens(&howdah, 2.0, 2.0);
        run(&mut other, "NOTIFY news, 'one'");
        run(&mut other, "NOTIFY \"More \"\"News\", 'two'; NOTIFY news, 'three'");
        assert_eq!([hear(&mut first), hear(&mut first)], ["news: one", "news: three"]);
        assert_eq!(
            [hear(&mut second), hear(&mut second), hear(&mut second)],
            ["news: one", "More \"News: two", "news: three"]
        );
        assert_eq!(first.select(CHANNELS), ["news"]);
        assert_eq!(second.select(CHANNELS), ["More \"News,news"]);
        assert_eq!(other.value(CHANNELS).expect("an answer"), "");
        let listeners = count(cluster, "application_name = 'howdah listener'");
        assert_eq!(listeners, 1);
        assert_eq!(metric(&howdah, "howdah_notifications_delivered_total", &[]), 5.0);
    }
}

/// One's own notification comes before the end of the transaction that sends it, from the process id that the client was
/// told at its login.
#[test]
fn a_client_hears_itself_before_the_end_of_its_transaction() {
    for major in VERSIONS {
        let Some(cluster) = cluster(major, app_options()) else { continue };
        let howdah = start(&cluster, "", "pool_size = 1", "");
        let mut owner = cluster.connect("app", "app").expect("a direct session");
        run(
            &mut owner,
            "CREATE TABLE t (x int); CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_notify('news', 'trigger'); RETURN NULL; END $$; \
             CREATE TRIGGER told AFTER INSERT ON t EXECUTE FUNCTION told()",
        );
        let mut raw = login(&howdah);
        ok(&mut raw, "LISTEN news");
        let mut other = app(&howdah);
        run(&mut other, "SELECT 1");
        let frames = ok(&mut raw, "NOTIFY news, 'own'");
        assert_eq!(tags(&frames), "CAZ");
        assert_eq!(heard(&frames[1]), (raw.pid, "news".to_owned(), "own".to_owned()));
        let frames = raw.ask(&[msg::pbe("SELECT pg_notify('news', 'called')"), msg::sync()].concat());
        assert_eq!(tags(&frames), "12DCAZ");
        // Nothing in the text shows it.
        let frames = ok(&mut raw, "INSERT INTO t VALUES (1)");
        assert_eq!(all_heard(&frames), ["news: trigger"]);
        assert_eq!(frames.last().map(|f| f.tag), Some(b'Z'));
        // LISTEN and NOTIFY in one transaction.
        let frames = ok(&mut raw, "BEGIN; LISTEN more; NOTIFY more, 'both'; COMMIT");
        assert_eq!(all_heard(&frames), ["more: both"]);
        raw.expect_silence(Duration::from_millis(100));
    }
}

/// A client in a transaction hears what others say at the end of it, before its ReadyForQuery.
#[test]
fn a_busy_client_hears_at_the_end_of_its_transaction() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let (mut raw, mut other) = (login(&howdah), app(&howdah));
    ok(&mut raw, "LISTEN news");
    for n in 0..20 {
        ok(&mut raw, "BEGIN");
        run(&mut other, &format!("NOTIFY news, '{n}'"));
        assert_eq!(all_heard(&ok(&mut raw, "SELECT 1")), Vec::<String>::new());
        let frames = ok(&mut raw, "COMMIT");
        assert_eq!(tags(&frames), "CAZ");
        assert_eq!(all_heard(&frames), [format!("news: {n}")]);
    }
}

/// What is heard at the end is what PostgreSQL says that the session listens to.
#[test]
fn what_a_client_listens_to_is_as_on_a_connection_of_its_own() {
    let Some(cluster) = shared(MAJOR) else { return };
    let programs: &[&[&str]] = &[
        &["LISTEN a", "LISTEN b", "UNLISTEN a"],
        &["LISTEN a; LISTEN b", "UNLISTEN *"],
        &["LISTEN a; LISTEN b", "DISCARD ALL"],
        &["BEGIN", "LISTEN a", "ROLLBACK"],
        &["LISTEN a", "BEGIN", "UNLISTEN a", "LISTEN b", "ROLLBACK"],
        &["LISTEN a", "BEGIN", "UNLISTEN *", "LISTEN b", "COMMIT"],
        &["LISTEN a", "BEGIN", "SAVEPOINT s", "UNLISTEN a", "ROLLBACK TO s", "LISTEN b", "COMMIT"],
        &["BEGIN", "LISTEN a", "SAVEPOINT s", "LISTEN b", "ROLLBACK TO s", "COMMIT"],
        &["LISTEN a", "BEGIN", "UNLISTEN a", "SELECT 1/0", "COMMIT"],
        &["LISTEN a", "DO $$ BEGIN EXECUTE 'UNLISTEN a'; EXECUTE 'LISTEN b'; END $$"],
        &["LISTEN a", "CREATE TEMP TABLE mine (x int)", "LISTEN b", "UNLISTEN a", "DROP TABLE mine"],
        &["LISTEN a", "SELECT 1", "SET client_encoding = 'LATIN1'", "LISTEN b", "RESET client_encoding"],
    ];
    let howdah = start(cluster, "", "pool_size = 3", "");
    let mut other = app(&howdah);
    for program in programs {
        let mut direct = Raw::login(&Dsn::local(cluster.port(), "app", "app"));
        let mut raw = login(&howdah);
        for sql in *program {
            raw.ask(&msg::query(sql));
            direct.ask(&msg::query(sql));
            run(&mut other, "SELECT 1");
        }
        run(&mut other, "NOTIFY a, '1'; NOTIFY b, '2'; NOTIFY a, '3'");
        let expected = all_heard(&direct_frames(&mut direct));
        let got: Vec<String> = expected.iter().map(|_| hear(&mut raw)).collect();
        assert_eq!(got, expected, "{program:?}");
        assert_eq!(raw.select(CHANNELS), direct.select(CHANNELS), "{program:?}");
        raw.expect_silence(Duration::from_millis(30));
        drop(raw);
    }
    eventually("nobody keeps a connection", || metric(&howdah, "howdah_pool_pins", &[]) == 0.0);
    for _ in 0..3 {
        assert_eq!(other.value(CHANNELS).expect("an answer"), "", "what clients left listens no more");
    }
}

/// What a direct session has heard by its next statement.
fn direct_frames(direct: &mut Raw) -> Vec<Frame> {
    direct.ask(&msg::query("SELECT 1"))
}

/// While others send without a pause, clients listen, work, stop listening and listen again. Between the answer to the
/// LISTEN and that to the UNLISTEN each hears every number, in order, once.
#[test]
fn nothing_between_listen_and_unlisten_is_lost_or_doubled() {
    for major in VERSIONS {
        let Some(cluster) = cluster(major, app_options().setting("fsync", "off")) else { continue };
        let howdah = start(&cluster, "", "pool_size = 3", "");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sender = cluster.connect("app", "app").expect("a direct session");
                let mut n = 0;
                let until = Instant::now() + Duration::from_secs(20);
                while !over.load(Ordering::Relaxed) && Instant::now() < until {
                    n += 1;
                    run(&mut sender, &format!("NOTIFY a, '{n}'; NOTIFY b, '{n}'"));
                }
                assert!(n > 100, "{n} were sent");
            });
            let clients: Vec<_> = (0..4)
                .map(|n| {
                    let howdah = &howdah;
                    scope.spawn(move || one_that_comes_and_goes(howdah, n))
                })
                .collect();
            let numbers: Vec<u64> = clients.into_iter().map(|c| c.join().expect("no panic")).collect();
            over.store(true, Ordering::Relaxed);
            assert!(numbers.iter().all(|n| *n > 100), "each has heard many: {numbers:?}");
        });
        assert_eq!(metric(&howdah, "howdah_listen_clients_ended_total", &[]), 0.0);
        assert_eq!(metric(&howdah, "howdah_errors_total", &[]), 0.0);
    }
}

/// How many notifications it has heard.
fn one_that_comes_and_goes(howdah: &Howdah, seed: usize) -> u64 {
    let mut raw = login(howdah);
    let mut heard = 0;
    let until = Instant::now() + Duration::from_secs(4);
    let mut round = seed;
    while Instant::now() < until {
        round += 1;
        // Of each channel, the number that was heard last.
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let take = |frames: &[Frame], last: &mut BTreeMap<String, u64>| {
            for line in all_heard(frames) {
                let (channel, n) = line.split_once(": ").expect("a channel");
                let n: u64 = n.parse().expect("a number");
                if let Some(before) = last.insert(channel.to_owned(), n) {
                    assert_eq!(n, before + 1, "{channel} behind {before}");
                }
            }
        };
        let mut all = ok(&mut raw, "LISTEN a");
        // While it is idle, in transactions, and pinned.
        for step in 0..(round % 5) + 2 {
            match (step + round) % 5 {
                0 => all.extend((0..20).map(|_| raw.next().expect("a notification"))),
                1 => all.extend(ok(&mut raw, "SELECT 1")),
                2 => {
                    all.extend(ok(&mut raw, "BEGIN"));
                    all.extend(ok(&mut raw, "SELECT pg_sleep(0.002)"));
                    all.extend(ok(&mut raw, "COMMIT"));
                }
                3 => all.extend(ok(&mut raw, "LISTEN b")),
                _ => {
                    // No pin, for the other clients of the pool.
                    all.extend(ok(
                        &mut raw,
                        "BEGIN; CREATE TEMP TABLE mine (x int); DROP TABLE mine; COMMIT",
                    ));
                }
            }
        }
        all.extend(ok(&mut raw, "UNLISTEN *"));
        heard += all_heard(&all).len() as u64;
        take(&all, &mut last);
        assert!(all_heard(&ok(&mut raw, "SELECT 1")).is_empty(), "it listens no more");
    }
    heard
}

/// A client that takes too little is ended with the numbers; others hear on.
#[test]
fn a_client_that_takes_its_notifications_too_slowly_is_ended_with_the_reason() {
    let Some(cluster) = shared(MAJOR) else { return };
    let small = "listen_buffer = \"64kB\"\ntcp_socket_buffer = \"16kB\"";
    let howdah = start(cluster, small, "pool_size = 1", "");
    let (mut slow, mut quick, mut other) = (login(&howdah), login(&howdah), app(&howdah));
    slow.shrink_receive_buffer(4096).expect("a small buffer");
    ok(&mut slow, "LISTEN news");
    ok(&mut quick, "LISTEN news");
    let mut sent = 0;
    let ended = || metric(&howdah, "howdah_listen_clients_ended_total", &[("reason", "slow")]);
    while ended() == 0.0 {
        sent += 1;
        assert!(sent < 2000, "nobody is ended");
        run(&mut other, &format!("SELECT pg_notify('news', repeat('x', 7000) || {sent})"));
        assert!(hear(&mut quick).ends_with(&format!("x{sent}")));
    }
    let mut frames = Vec::new();
    while let Ok(frame) = slow.next() {
        frames.push(frame);
    }
    // Where the last words still had room.
    if let Some(e) = frames.iter().find(|f| f.tag == b'E') {
        assert_eq!(e.field(b'C').as_deref(), Some("54000"));
    }
    howdah.await_log("code=\"listen_buffer\"", Duration::from_secs(5));
    let errors = metric(&howdah, "howdah_errors_total", &[("code", "listen_buffer")]);
    assert_eq!(errors, 1.0);
    run(&mut other, "NOTIFY news, 'on'");
    assert_eq!(hear(&mut quick), "news: on");
}

fn listener_pid(cluster: &Cluster) -> String {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'howdah listener'";
    cluster.value(sql).expect("a listener")
}

/// Whoever may have missed something is told; who hears on its own server connection goes on.
#[test]
fn every_client_of_a_listener_that_is_lost_is_told() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let mut clients: Vec<Raw> = (0..5).map(|_| login(&howdah)).collect();
    for c in &mut clients {
        ok(c, "LISTEN news");
    }
    let (mut busy, mut other) = (login(&howdah), app(&howdah));
    ok(&mut busy, "LISTEN news");
    ok(&mut busy, "BEGIN");
    let old = listener_pid(&cluster);
    assert_eq!(cluster.value(&format!("SELECT pg_terminate_backend({old})")).expect("an answer"), "t");
    for c in &mut clients {
        let e = c.expect_error("FATAL", "57P01");
        assert!(e.field(b'M').is_some_and(|m| m.contains("notifications may have been missed")), "{e:?}");
        c.expect_closed();
    }
    run(&mut other, "NOTIFY news, 'meanwhile'");
    assert_eq!(all_heard(&ok(&mut busy, "COMMIT")), ["news: meanwhile"]);
    run(&mut other, "NOTIFY news, 'later'");
    assert_eq!(hear(&mut busy), "news: later");
    assert_ne!(listener_pid(&cluster), old);
    assert_eq!(metric(&howdah, "howdah_listen_clients_ended_total", &[("reason", "lost")]), 5.0);
}

/// A LISTEN that nobody could hear for is no LISTEN.
#[test]
fn a_listener_that_cannot_be_had_is_told() {
    let options = app_options().sql("CREATE ROLE limited LOGIN CONNECTION LIMIT 1");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let howdah = start(&cluster, "", "pool_size = 1", "[users.limited]");
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "limited", "app"));
    raw.put(&msg::query("LISTEN news"));
    let frames = raw.until(b'E');
    let e = frames.last().expect("an error");
    assert_eq!(e.field(b'C').as_deref(), Some("57P01"));
    assert!(e.field(b'D').is_some_and(|d| d.contains("too many connections for role")), "{e:?}");
}

/// Where a reload leads elsewhere, nobody waits in silence for notifications of a server that is not asked any more.
#[test]
fn a_reload_that_leads_to_another_server_is_told() {
    let (Some(one), Some(two)) = (cluster(MAJOR, app_options()), cluster(MAJOR, app_options())) else {
        return;
    };
    let howdah = start(&one, "", "pool_size = 1", "");
    let mut raw = login(&howdah);
    ok(&mut raw, "LISTEN news");
    howdah.rewrite_config(&config(&two, "", "pool_size = 1", ""));
    howdah.hup();
    let e = raw.expect_error("FATAL", "57P01");
    assert!(e.field(b'D').is_some_and(|d| d.contains("leads to another server")), "{e:?}");
    let mut raw = login(&howdah);
    ok(&mut raw, "LISTEN news");
    run(&mut two.connect("app", "app").expect("a direct session"), "NOTIFY news, 'there'");
    assert_eq!(hear(&mut raw), "news: there");
}

/// The bytes of a notification are in the encoding of its database: who has another one keeps a connection.
#[test]
fn a_client_with_another_encoding_gets_its_own() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut latin = Raw::login_with(&dsn, msg::PROTOCOL_3_0, &[("client_encoding", "LATIN1")]);
    let mut utf = login(&howdah);
    ok(&mut utf, "LISTEN \"\u{e9}t\u{e9}\"");
    latin.put(&msg::message(b'Q', b"LISTEN \"\xe9t\xe9\"\0")).until(b'Z');
    run(&mut app(&howdah), "NOTIFY \"\u{e9}t\u{e9}\", '\u{e0}'");
    assert_eq!(hear(&mut utf), "\u{e9}t\u{e9}: \u{e0}");
    let frame = latin.next().expect("a notification");
    assert_eq!(&frame.body[4..], b"\xe9t\xe9\0\xe0\0");
    // From then on it shares.
    ok(&mut latin, "SET client_encoding = 'UTF8'");
    eventually("nobody keeps a connection", || metric(&howdah, "howdah_pool_pins", &[]) == 0.0);
    run(&mut app(&howdah), "NOTIFY \"\u{e9}t\u{e9}\", '\u{e7}'");
    assert_eq!([hear(&mut latin), hear(&mut utf)], ["\u{e9}t\u{e9}: \u{e7}", "\u{e9}t\u{e9}: \u{e7}"]);
}

/// Clients that leave take their channels along, and the last one the listener.
#[test]
fn what_nobody_wants_any_more_is_given_up() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let (mut first, mut second) = (login(&howdah), login(&howdah));
    ok(&mut first, "LISTEN a");
    ok(&mut second, "LISTEN b");
    ok(&mut second, "BEGIN");
    listens(&howdah, 2.0, 2.0);
    drop(second);
    listens(&howdah, 2.0, 1.0);
    eventually("the channel is given up", || metric(&howdah, "howdah_listener_channels", &[]) == 1.0);
    ok(&mut first, "UNLISTEN a");
    eventually("the listener has ended", || count(&cluster, "application_name = 'howdah listener'") == 0);
    ok(&mut first, "LISTEN a");
    run(&mut app(&howdah), "NOTIFY a, 'again'");
    assert_eq!(hear(&mut first), "a: again");
    assert_eq!(metric(&howdah, "howdah_listeners_opened_total", &[]), 2.0);
    assert_eq!(metric(&howdah, "howdah_listeners_lost_total", &[]), 0.0);
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |n| n.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// Reads from each socket what is there, until each client has heard so many notifications; what they say is checked by
/// `check` with the client's number.
fn all_hear(clients: &mut [Raw], each: &[usize], limit: Duration, check: impl Fn(usize, usize, &Frame)) {
    let until = Instant::now() + limit;
    for (n, raw) in clients.iter_mut().enumerate() {
        for i in 0..each[n] {
            let left = until.saturating_duration_since(Instant::now());
            let frame =
                raw.next_within(left).unwrap_or_else(|e| panic!("client {n}, notification {i}: {e:?}"));
            check(n, i, &frame);
        }
    }
}

/// `HOWDAH_TEST_LISTENERS` clients on a tenth as many channels and one server connection, so many notifications a second
/// in all for a minute: each client gets each of its channel's once and in order. Then all of them on one channel, and one
/// notification a second.
#[test]
#[ignore = "long: make soak"]
fn soak_ten_thousand_clients_listen_through_one_connection() {
    let n = number("HOWDAH_TEST_LISTENERS", 10_000);
    let seconds = number("HOWDAH_TEST_SECONDS", 60);
    let (channels, rate) = (n / 10, n / 10);
    howdah::net::descriptors::raise_limit(u64::MAX);
    let options = app_options().setting("fsync", "off");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let howdah = start(
        &cluster,
        "log_connections = false\nlog_disconnections = false\nmax_client_connections = 12000\n",
        "pool_size = 1\nquery_wait_timeout = \"5min\"",
        "",
    );
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let began = Instant::now();
    let mut clients: Vec<Raw> = (0..n)
        .map(|c| {
            let mut raw = Raw::login(&dsn);
            raw.patience = Duration::from_secs(60);
            ok(&mut raw, &format!("LISTEN c{}", c % channels));
            raw
        })
        .collect();
    println!("{n} clients listen after {:.1?}", began.elapsed());
    listens(&howdah, channels as f64, n as f64);
    let mut sender = cluster.connect("app", "app").expect("a direct session");
    let began = Instant::now();
    let total = rate * seconds;
    let mut sent = vec![0_usize; channels];
    for i in 0..total {
        let due = Duration::from_secs_f64(i as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        // Not in turn: a step that shares no factor with the number of channels.
        let c = (i * 7919) % channels;
        run(&mut sender, &format!("NOTIFY c{c}, '{}'", sent[c]));
        sent[c] += 1;
    }
    let each: Vec<usize> = (0..n).map(|c| sent[c % channels]).collect();
    all_hear(&mut clients, &each, Duration::from_secs(60), |n, i, frame| {
        let (_, channel, text) = heard(frame);
        assert_eq!((channel, text), (format!("c{}", n % channels), i.to_string()));
    });
    println!(
        "{total} notifications, {} in all, heard after {:.1?}",
        each.iter().sum::<usize>(),
        began.elapsed()
    );

    for raw in &mut clients {
        ok(raw, "UNLISTEN *; LISTEN everybody");
    }
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let each = vec![1; n];
    for i in 0..seconds {
        std::thread::sleep(Duration::from_secs(i as u64).saturating_sub(began.elapsed()));
        let sent = Instant::now();
        run(&mut sender, &format!("NOTIFY everybody, '{i}'"));
        all_hear(&mut clients, &each, Duration::from_secs(60), |_, _, frame| {
            let (_, channel, text) = heard(frame);
            assert_eq!((channel.as_str(), text), ("everybody", i.to_string()));
        });
        slowest = slowest.max(sent.elapsed());
    }
    println!("one notification to {n} clients was heard by the last one within {slowest:.1?}");
    for raw in &mut clients {
        raw.expect_silence(Duration::from_millis(1));
    }
    assert_eq!(metric(&howdah, "howdah_listen_clients_ended_total", &[]), 0.0);
    assert_eq!(count(&cluster, "application_name = 'howdah listener'"), 1);
}
