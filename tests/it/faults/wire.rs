//! Ends and unsynced batches, byte by byte: who has left is noticed whatever lies unread, who still listens is
//! answered, and nothing that was meant for one client strikes or delays another.

use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::replicas::Replicated;
use crate::harness::rig::{Rig, fake_that_hangs, plan};
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, Cluster, eventually, metric, shared};

fn howdah(cluster: &Cluster, top: &str, database: &str) -> Howdah {
    harness::start(cluster, &format!("log_level = \"debug\"\n{top}"), database, "")
}

fn dsn(howdah: &Howdah) -> Dsn {
    Dsn::local(howdah.port(), "app", "app")
}

fn direct(cluster: &Cluster) -> Dsn {
    let at = cluster.tcp();
    Dsn::local(at.port(), "app", "app")
}

fn count(cluster: &Cluster, sql: &str) -> String {
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
    admin.value(sql).expect("a value")
}

/// A table of the test's own, for `app`.
fn table(cluster: &Cluster, name: &str) {
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
    admin.query(&format!("create table {name} (a text)")).expect("a table");
    admin.query(&format!("grant all on {name} to app")).expect("a grant");
}

/// Whether somebody else is served soon by a pool that has one connection.
fn served_within(howdah: &Howdah, limit: Duration) {
    let began = Instant::now();
    let mut other = Raw::login(&dsn(howdah));
    other.patience = limit;
    assert_eq!(other.select("select 'served'"), ["served"]);
    assert!(began.elapsed() < limit, "served after {:?}", began.elapsed());
}

// ---- cancels

#[test]
fn a_cancel_that_was_given_up_on_strikes_nobody() {
    let (fake, gate, release) = fake_that_hangs();
    let globals = "cancel_wait_timeout = \"300ms\"\nops_listen = \"127.0.0.1:{ops_port}\"";
    let rig = Rig::start(&fake, plan(1).globals(globals));
    let mut client = rig.client();
    client.put(&msg::query("select hangs"));
    fake.wait_until(|s| s.frames.concat().iter().any(|f| f.body.starts_with(b"select hangs")));
    let opened = fake.seen().startups;
    // Its sender hears the end of its connection when the cancel has been given up on, and not before.
    client.cancel(&rig.dsn()).expect("a connection");
    assert_eq!(fake.cancels().len(), 1);
    gate.open();
    assert_eq!(client.until(b'Z')[1].text(), "hangs");
    // Nobody gets that connection any more: the cancel may be delivered yet.
    let mut other = rig.client();
    assert_eq!(other.select("select 'undisturbed'"), ["undisturbed"]);
    assert_eq!(fake.seen().startups, opened + 1, "a connection of its own");
    let closed = |why| metric(&rig.howdah, "howdah_server_disconnects_total", &[("reason", why)]);
    assert_eq!(closed("cancel_unanswered"), 1.0);
    let log = rig.howdah.log();
    assert!(log.contains("a cancel was sent and the server did not end"), "{log}");
    release.open();
    drop((client, other));
    rig.invariants();
}

// ---- batches without a Sync

#[test]
fn what_is_left_without_a_sync_keeps_nobody_waiting() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "server_repair_timeout = \"30s\"", "pool_size = 1");
    let close_portal = msg::close(b'P', "");
    let batches: [(&str, Vec<u8>); 9] = [
        ("Close of a portal", close_portal.clone()),
        ("Close of the unnamed statement", msg::close(b'S', "")),
        ("Close and Terminate", [close_portal.clone(), msg::terminate()].concat()),
        ("Close and Flush", [close_portal, msg::flush()].concat()),
        ("Parse", msg::parse("", "select 1", &[])),
        ("named Parse", msg::parse("s", "select 1", &[])),
        ("Parse, Bind, Execute", msg::pbe("select 1")),
        ("Parse and Describe", [msg::parse("", "select 1", &[]), msg::describe(b'S', "")].concat()),
        ("Close after a transaction's Query", [msg::query("begin"), msg::close(b'P', "")].concat()),
    ];
    for (what, bytes) in batches {
        let mut client = Raw::login(&dsn(&howdah));
        client.put(&bytes);
        // It has the server before anybody else asks.
        let busy = || {
            metric(&howdah, "howdah_pool_servers", &[("state", "active")]) == 1.0
                || bytes.ends_with(&msg::terminate())
        };
        eventually(what, busy);
        drop(client);
        served_within(&howdah, Duration::from_secs(8));
    }
}

// ---- COPY and Syncs

fn copy_with_syncs(dsn: &Dsn, table: &str) -> (String, Vec<String>) {
    let mut client = Raw::login(dsn);
    client.put(&msg::query(&format!("copy {table} from stdin"))).expect("G");
    let mut bytes = msg::sync().repeat(40_000);
    bytes.extend([msg::copy_data(b"1\n"), msg::copy_done()].concat());
    let copied = tags(&client.ask(&bytes));
    (copied, client.select(&format!("select count(*) from {table}")))
}

#[test]
fn any_number_of_syncs_inside_of_a_copy_is_ignored() {
    let Some(cluster) = shared(15) else { return };
    table(cluster, "many_syncs");
    table(cluster, "many_syncs_through");
    let howdah = howdah(cluster, "", "pool_size = 1");
    let expected = copy_with_syncs(&direct(cluster), "many_syncs");
    assert_eq!(copy_with_syncs(&dsn(&howdah), "many_syncs_through"), expected);
    // And who leaves behind them is noticed.
    let mut client = Raw::login(&dsn(&howdah));
    client.put(&msg::query("copy many_syncs from stdin")).expect("G");
    client.put(&msg::sync().repeat(40_000));
    drop(client);
    served_within(&howdah, Duration::from_secs(8));
    // Sent before the server has said that it waits for data.
    let mut client = Raw::login(&dsn(&howdah));
    let query = msg::query("select pg_sleep(0.3)\\; copy many_syncs from stdin".replace('\\', "").as_str());
    client.put(&[query, msg::sync().repeat(50_000)].concat());
    drop(client);
    served_within(&howdah, Duration::from_secs(8));
}

// ---- clients that leave

#[test]
fn a_client_that_leaves_behind_unread_bytes_is_noticed() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "", "pool_size = 1");
    let slow = msg::query("select pg_sleep(60)");
    let more: [(&str, Vec<u8>); 4] = [
        ("too many messages in flight", msg::sync().repeat(60_000)),
        ("a barrier, and more than is read ahead", {
            let long = msg::query(&format!("select '{}'", "x".repeat(200_000)));
            [msg::query("deallocate all"), long].concat()
        }),
        ("more than the server's socket takes", msg::copy_data(&vec![0; 1 << 20]).repeat(24)),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in more {
        let mut client = Raw::login(&dsn(&howdah));
        client.put(&slow);
        let running = || {
            count(
                cluster,
                "select count(*) from pg_stat_activity where query like '%pg_sleep(60)' and state = 'active'",
            )
        };
        eventually(what, || running() == "1");
        // As much as there is room for: the rest waits in its own socket.
        let writer = client.writer().expect("TCP");
        writer.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let _ = std::io::Write::write_all(&mut &writer, &bytes);
        drop((client, writer));
        served_within(&howdah, Duration::from_secs(15));
        eventually(what, || running() == "0");
    }
}

#[test]
fn a_half_close_is_answered_as_by_postgres() {
    let Some(cluster) = shared(15) else { return };
    table(cluster, "half_closed");
    let howdah = howdah(cluster, "", "pool_size = 1");
    let batch = |sleep: f64| {
        let sql = format!("select pg_sleep({sleep}); insert into half_closed values ('x')");
        [msg::query(&sql), msg::pbe("select 'last'"), msg::sync()].concat()
    };
    let answers = |dsn: &Dsn, bytes: &[u8]| {
        let mut client = Raw::login(dsn);
        client.put(bytes).half_close().expect("FIN");
        let mut seen = Vec::new();
        while let Ok(frame) = client.next() {
            seen.push(frame);
        }
        client.expect_closed();
        seen
    };
    for (bytes, rows) in [
        (batch(0.2), "2"),
        ([msg::pbe("insert into half_closed values ('unsynced')"), msg::flush()].concat(), "2"),
        (msg::pbe("select 1"), "2"),
        ([msg::query("begin"), msg::query("insert into half_closed values ('open')")].concat(), "2"),
        (msg::query("select 1")[..9].to_vec(), "2"),
    ] {
        let plain = tags(&answers(&direct(cluster), &bytes));
        let through = tags(&answers(&dsn(&howdah), &bytes));
        // What PostgreSQL has not flushed when it ends may come all the same.
        assert!(through == plain || plain.is_empty() && !through.contains('E'), "{plain} and {through}");
        assert_eq!(count(cluster, "select count(*) from half_closed"), rows);
    }
    // One that listens for long is asked whether it does, with what it knows already, and then answered.
    let frames = answers(&dsn(&howdah), &batch(2.2));
    let (asked, told): (Vec<_>, Vec<_>) = frames.into_iter().partition(|f| f.tag == b'S');
    assert_eq!(tags(&told), "TDCCZ12DCZ");
    assert!(asked.iter().all(|f| f.body.starts_with(b"server_version\0")) && asked.len() == 1, "{asked:?}");
    // And so is one that waits for its turn.
    let mut holder = Raw::login(&dsn(&howdah));
    holder.select("begin");
    let mut waiter = Raw::login(&dsn(&howdah));
    waiter.put(&msg::query("select 'served'")).half_close().expect("FIN");
    eventually("it waits", || metric(&howdah, "howdah_clients", &[("state", "waiting")]) == 1.0);
    std::thread::sleep(Duration::from_millis(500));
    holder.select("commit");
    let frames = waiter.until(b'Z');
    assert_eq!(tags(&frames).trim_start_matches('S'), "TDCZ");
    waiter.expect_closed();
}

#[test]
fn client_gone_says_what_becomes_of_a_statement_without_its_client() {
    let Some(cluster) = shared(15) else { return };
    table(cluster, "departed");
    for (mode, rows) in [("cancel", "0"), ("finish", "2")] {
        let howdah = howdah(cluster, "", &format!("pool_size = 1\nclient_gone = \"{mode}\""));
        for reset in [false, true] {
            let mut client = Raw::login(&dsn(&howdah));
            let slow = format!("select pg_sleep(2.5); insert into departed values ('{mode}')");
            client.put(&msg::query(&slow));
            eventually("it runs", || {
                count(
                    cluster,
                    "select count(*) from pg_stat_activity where query like '%pg_sleep(2.5)%' and state = 'active' and usename = 'app'",
                ) == "1"
            });
            if reset {
                client.reset()
            } else {
                drop(client)
            }
            served_within(&howdah, Duration::from_secs(10));
        }
        let found = count(cluster, &format!("select count(*) from departed where a = '{mode}'"));
        assert_eq!(found, rows, "{mode}");
    }
    // What takes no longer than it takes to find out is done in either case, as a direct connection does it.
    let howdah = howdah(cluster, "", "pool_size = 1");
    let mut client = Raw::login(&dsn(&howdah));
    client.put(
        &[
            msg::query("select pg_sleep(0.2); insert into departed values ('soon')"),
            msg::query("insert into departed values ('soon')"),
        ]
        .concat(),
    );
    drop(client);
    eventually("both have run", || count(cluster, "select count(*) from departed where a = 'soon'") == "2");
    // Rows that nobody takes are not run to their end.
    let howdah = self::howdah(cluster, "", "pool_size = 1\nclient_gone = \"finish\"");
    let mut client = Raw::login(&dsn(&howdah));
    client.put(&msg::query("select repeat('x', 1000), pg_sleep(0.001) from generate_series(1, 1000000)"));
    client.expect("TD");
    client.reset();
    served_within(&howdah, Duration::from_secs(10));
}

#[test]
fn a_waiter_that_leaves_behind_much_leaves_the_queue() {
    let Some(cluster) = shared(15) else { return };
    table(cluster, "queued");
    let howdah = howdah(cluster, "", "pool_size = 1");
    let mut holder = Raw::login(&dsn(&howdah));
    holder.select("begin");
    let insert = |n: usize| msg::query(&format!("insert into queued values ('{}')", "x".repeat(n)));
    let waiting = || metric(&howdah, "howdah_clients", &[("state", "waiting")]);
    for bytes in [insert(10), [insert(30_000), insert(60_000), insert(1)].concat(), insert(10).repeat(40_000)]
    {
        for reset in [false, true] {
            let mut waiter = Raw::login(&dsn(&howdah));
            waiter.put(&bytes);
            eventually("it waits", || waiting() == 1.0);
            if reset {
                waiter.reset()
            } else {
                drop(waiter)
            }
            eventually("it has left the queue", || waiting() == 0.0);
        }
    }
    holder.select("commit");
    assert_eq!(holder.select("select count(*) from queued"), ["0"]);
    // Who stays is served, however much it has sent.
    let mut waiter = Raw::login(&dsn(&howdah));
    holder.select("begin");
    waiter.put(&[insert(60_000), insert(60_000), insert(1)].concat());
    eventually("it waits", || waiting() == 1.0);
    std::thread::sleep(Duration::from_millis(300));
    holder.select("commit");
    for _ in 0..3 {
        assert_eq!(tags(&waiter.until(b'Z')), "CZ");
    }
}

// ---- names of statements

/// Frames as words: tags, rows and what errors say.
fn words(frames: &[msg::Frame]) -> String {
    let word = |f: &msg::Frame| match f.tag {
        b'D' => format!("D[{}]", f.text()),
        b'E' => format!("E[{} {}]", f.field(b'C').unwrap_or_default(), f.field(b'M').unwrap_or_default()),
        b'Z' => format!("Z{}", String::from_utf8_lossy(&f.body)),
        tag => char::from(tag).to_string(),
    };
    frames.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Sends each piece and reads as many ReadyForQuery as it asks for; in words.
fn transcript(dsn: &Dsn, pieces: &[Vec<u8>]) -> Vec<String> {
    let mut client = Raw::login(dsn);
    let mut said = Vec::new();
    for piece in pieces {
        client.put(piece);
        let mut rest = piece.as_slice();
        while let Some((tag, after)) = rest.split_first() {
            let length = after.first_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n) as usize);
            if matches!(tag, b'Q' | b'S') {
                said.push(words(&client.until(b'Z')));
            }
            rest = after.get(length..).unwrap_or_default();
        }
    }
    said
}

fn named(name: &str, sql: &str) -> Vec<u8> {
    msg::parse(name, sql, &[])
}

fn run(name: &str) -> Vec<u8> {
    [msg::bind("", name, &[], &[], &[]), msg::execute("", 0)].concat()
}

#[test]
fn what_a_message_does_to_names_is_ordered_with_the_messages_around_it() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "", "pool_size = 1");
    let q = msg::query;
    let sync = msg::sync;
    let all = |sql: &str| -> Vec<Vec<u8>> {
        vec![
            [named("early", "select 1"), sync()].concat(),
            [msg::pbe(sql), named("late", "select 2"), sync()].concat(),
            [run("late"), sync()].concat(),
            [run("early"), sync()].concat(),
            [q(sql), named("late2", "select 3"), sync(), run("late2"), sync()].concat(),
            // Before the Execute that drops it.
            [
                msg::parse("", sql, &[]),
                msg::bind("", "", &[], &[], &[]),
                named("mid", "select 4"),
                msg::execute("", 0),
                run("mid"),
                sync(),
            ]
            .concat(),
            [named("all", sql), sync()].concat(),
            [run("all"), named("early", "select 5"), run("early"), msg::describe(b'S', "all"), sync()]
                .concat(),
            [run("early"), msg::close(b'S', "early"), named("early", "select 6"), run("early"), sync()]
                .concat(),
            [q("begin"), q("select 1/0"), msg::pbe(sql), named("early", "select 7"), sync(), q("rollback")]
                .concat(),
            [run("early"), sync()].concat(),
        ]
    };
    let one: Vec<Vec<u8>> = vec![
        [named("d", "select 1"), sync()].concat(),
        [msg::pbe("deallocate d"), named("d", "select 2"), run("d"), sync()].concat(),
        [msg::pbe("deallocate d"), run("d"), sync()].concat(),
        [
            msg::pbe("deallocate d"),
            sync(),
            named("d", "select 3"),
            msg::describe(b'S', "d"),
            run("d"),
            sync(),
        ]
        .concat(),
        [named("x", "deallocate d"), run("x"), named("d", "select 4"), run("d"), sync()].concat(),
        [run("x"), msg::close(b'S', "d"), run("d"), sync()].concat(),
        [run("x"), sync()].concat(),
    ];
    for (what, pieces) in [
        ("deallocate all", all("deallocate all")),
        ("DEALLOCATE PREPARE ALL", all("DEALLOCATE PREPARE ALL")),
        ("discard all", all("discard all").into_iter().take(9).collect()),
        ("deallocate d", one),
    ] {
        assert_eq!(transcript(&dsn(&howdah), &pieces), transcript(&direct(cluster), &pieces), "{what}");
    }
}

#[test]
fn a_parse_of_a_name_that_the_server_has_lost_is_taken() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "", "pool_size = 1");
    let lost = msg::query("do $$begin execute 'deallocate all'; end$$");
    let again = |n: u32| named("d", &format!("select {n}"));
    let pieces = vec![
        [again(11), msg::sync(), run("d"), msg::sync()].concat(),
        [lost.clone(), again(12), msg::sync()].concat(),
        [run("d"), msg::sync()].concat(),
        [lost.clone(), again(13), run("d"), msg::sync()].concat(),
        [run("d"), msg::sync(), again(14), msg::sync()].concat(),
        // Within one transaction, and the first text once more under another name.
        [
            msg::query("begin"),
            lost,
            again(11),
            run("d"),
            named("e", "select 11"),
            run("e"),
            named("f", "select 12"),
            run("f"),
            msg::sync(),
            msg::query("commit"),
        ]
        .concat(),
        [run("d"), run("e"), run("f"), msg::sync()].concat(),
    ];
    let expected = transcript(&direct(cluster), &pieces);
    assert_eq!(transcript(&dsn(&howdah), &pieces), expected);
    assert_eq!(transcript(&dsn(&howdah), &pieces), expected, "whoever comes next");
}

#[test]
fn names_of_our_own_are_in_no_error() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "max_prepared_statements = 1", "pool_size = 1");
    let ours = "__howdah_5";
    let s = msg::sync;
    let bind_one = |name: &str| msg::bind("", name, &[], &[msg::text("1")], &[]);
    let pieces = vec![
        msg::query(&format!("deallocate {ours}")),
        msg::query("deallocate nobody"),
        [run(ours), s(), msg::describe(b'S', ours), s()].concat(),
        [msg::pbe(&format!("deallocate {ours}")), s()].concat(),
        // A statement that deallocates what is gone by then.
        [named("a", "select 1"), named("gone", "deallocate a"), s(), run("gone"), s(), run("gone"), s()]
            .concat(),
        // In a transaction that has failed, and the server has given up the statement for another.
        [
            named("p0", "select 1"),
            named("p1", "select $1::int"),
            named("rb", "rollback"),
            named("other", "select 2"),
            s(),
            run("other"),
            s(),
        ]
        .concat(),
        [msg::query("begin"), msg::query("select 1/0")].concat(),
        [bind_one("p0"), s(), run("p0"), s(), bind_one("p1"), s(), run("p1"), s(), bind_one("rb"), s()]
            .concat(),
        [named("p0", "selekt"), s(), named("p0", "select 3"), s(), named("new", "selekt"), s()].concat(),
        [run("unknown"), s(), run("rb"), s()].concat(),
        [named("p0", "select 4"), s(), run("p0"), s(), run("p1"), s(), bind_one("p0"), s()].concat(),
    ];
    let through = transcript(&dsn(&howdah), &pieces);
    assert_eq!(through, transcript(&direct(cluster), &pieces));
    assert!(!through.concat().contains("__howdah_none") && !through.concat().contains("__howdah_gone"));
}

// ---- logins

/// What comes back before the end, and whether the end comes.
fn first_answer(dsn: &Dsn, bytes: &[u8], half_close: bool) -> String {
    let mut client = Raw::connect(dsn).expect("accepted");
    client.put(bytes);
    if half_close {
        client.half_close().expect("FIN");
    }
    match client.next() {
        Ok(frame) => words(&[frame]),
        Err(e) => format!("{e:?}"),
    }
}

#[test]
fn what_is_no_startup_packet_is_closed_without_a_word() {
    let Some(cluster) = shared(15) else { return };
    let howdah = howdah(cluster, "log_disconnections = true", "pool_size = 1");
    let mut packets: Vec<Vec<u8>> = (0..8_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    packets.extend([
        msg::terminate(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        10_001_u32.to_be_bytes().to_vec(),
        [16_u32, 80_877_102, 1].map(u32::to_be_bytes).concat()[..8].to_vec(),
        [8_u32.to_be_bytes(), 80_877_102_u32.to_be_bytes()].concat(),
        [8_u32.to_be_bytes(), 0x0003_0000_u32.to_be_bytes()].concat(),
        [9_u32.to_be_bytes(), 0x0003_0000_u32.to_be_bytes()].concat()[..8].to_vec(),
        Vec::new(),
        vec![0],
        vec![0, 0, 0],
    ]);
    for packet in packets {
        // Whoever waits for the rest of a packet is not told either.
        let whole = first_answer(&direct(cluster), &packet, true);
        assert_eq!(first_answer(&dsn(&howdah), &packet, true), whole, "{packet:?}");
    }
    for packet in [msg::terminate(), 4_u32.to_be_bytes().to_vec(), vec![0; 4]] {
        assert_eq!(first_answer(&dsn(&howdah), &packet, false), "Closed", "{packet:?}");
    }
    assert!(howdah.log().contains("closed without a word"), "{}", howdah.log());
}

#[test]
fn leaving_in_the_middle_of_a_login_is_no_violation() {
    let Some(cluster) = shared(15) else { return };
    let config = harness::config(cluster, "log_disconnections = true", "pool_size = 1", "")
        .replace("auth_method = \"trust\"", "auth_method = \"scram-sha-256\"")
        .replace("[users.app]", "[users.app]\npassword = \"secret\"");
    let howdah = Howdah::start(&config);
    let mut client = Raw::connect(&dsn(&howdah)).expect("accepted");
    client.put(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")])).expect("R");
    drop(client);
    let abandoned = || metric(&howdah, "howdah_logins_abandoned_total", &[("at", "password")]);
    eventually("it is counted", || abandoned() == 1.0);
    let rejected = metric(&howdah, "howdah_clients_rejected_total", &[]);
    assert_eq!(rejected, 0.0);
    let log = howdah.log();
    assert!(log.contains("left before the end of its login") && !log.contains("violation"), "{log}");
}

// ---- routing

#[test]
fn a_batch_without_a_sync_is_not_held_back_from_its_server() {
    let Some(servers) = Replicated::start(15) else { return };
    let mut admin = servers.primary.connect(harness::SUPERUSER, "app").expect("a direct session");
    admin.query("create table routed (a text); grant all on routed to app").expect("a table");
    for r in &servers.replicas {
        r.await_replay(&servers.primary).expect("it follows");
    }
    let howdah = servers.howdah("when_no_replica = \"error\"\nroute_selects = true", "");
    let mut client = Raw::login(&dsn(&howdah));
    // PostgreSQL answers that it waits for data, Sync or not.
    client.put(&msg::pbe("copy routed from stdin"));
    client.expect("12G");
    client.put(&[msg::copy_data(b"x\n"), msg::copy_done(), msg::sync()].concat());
    client.expect("CZ");
    // Rows that fill its buffer come without a Sync, too.
    client.put(&msg::pbe("select repeat('x', 1000) from generate_series(1, 100)"));
    client.expect("12DD");
    client.put(&msg::sync());
    client.until(b'Z');
    client.put(&[msg::pbe("begin read only"), msg::pbe("copy routed to stdout")].concat());
    client.put(&msg::flush()).expect("12C12H");
    client.put(&[msg::pbe("commit"), msg::sync()].concat()).until(b'Z');
    // And what only pauses goes on where it belongs.
    client.put(&msg::parse("", "select 'whole'", &[]));
    client.put(&[msg::bind("", "", &[], &[], &[]), msg::execute("", 0), msg::sync()].concat());
    assert_eq!(client.until(b'Z')[2].text(), "whole");
}

#[test]
fn a_route_that_turns_out_wrong_says_so_or_leads_to_the_primary() {
    let Some(servers) = Replicated::start(15) else { return };
    let mut admin = servers.primary.connect(harness::SUPERUSER, "app").expect("a direct session");
    admin
        .query("create table turned (a text); grant all on turned to app; create sequence turned_seq")
        .expect("a table");
    admin.query("grant all on turned_seq to app").expect("a grant");
    admin.query("select nextval('turned_seq')").expect("a number");
    let on = |howdah: &Howdah, params: &[(&str, &str)], statements: &[&str]| -> Vec<String> {
        let mut client = Raw::login_with(&dsn(howdah), msg::PROTOCOL_3_0, params);
        statements.iter().map(|sql| words(&client.ask(&msg::query(sql)))).collect()
    };
    let read_only: &[(&str, &str)] = &[("default_transaction_read_only", "on")];
    let turn = ["begin read only", "set transaction read write", "insert into turned values ('x')", "commit"];
    let turn_default = ["begin", "set transaction read write", "insert into turned values ('x')", "commit"];
    let deferring =
        servers.howdah("when_no_replica = \"error\"\nroute_selects = true\ndefer_begin = true", "");
    assert_eq!(on(&deferring, &[], &turn), ["C ZT", "C ZT", "C ZT", "C ZI"]);
    assert_eq!(on(&deferring, read_only, &turn_default), ["C ZT", "C ZT", "C ZT", "C ZI"]);
    assert_eq!(on(&deferring, &[], &["select last_value from turned_seq"]), ["T D[1] C ZI"]);
    // Read-only blocks go to replicas as before.
    let where_am_i = ["begin read only", "select pg_is_in_recovery()", "commit"];
    assert_eq!(on(&deferring, &[], &where_am_i), ["C ZT", "T D[t] C ZT", "C ZI"]);
    assert_eq!(
        on(&deferring, read_only, &["begin", "select pg_is_in_recovery()", "commit"])[1],
        "T D[t] C ZT"
    );
    // Where the BEGIN is on a replica already, the error says why.
    let plain = servers.howdah("when_no_replica = \"error\"\nroute_selects = true", "");
    let mut client = Raw::login(&dsn(&plain));
    client.select("begin read only");
    let frames = client.ask(&msg::query("set transaction read write"));
    let e = frames.iter().find(|f| f.tag == b'E').expect("an error");
    assert_eq!(e.field(b'C').as_deref(), Some("0A000"));
    let detail = e.field(b'D').unwrap_or_default();
    assert!(detail.contains("replica") && detail.contains("read_only_block"), "{detail}");
    assert!(e.field(b'H').is_some_and(|h| h.contains("howdah.role=primary")), "{e:?}");
}
