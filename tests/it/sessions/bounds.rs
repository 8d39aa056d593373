//! What peers can make Howdah keep, before and after their login: a server or a client that sends without end meets a
//! bound, the process stays small, and other databases are served.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::fake::{Fake, Login};
use crate::harness::wire::fake_conn::FakeConn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, program};
use serde_json::Value;

/// What the process may grow by. Everything that peers send in a test is a multiple of it.
const ROOM: u64 = 96 << 20;

/// Resident bytes of the process.
fn resident(howdah: &Howdah) -> u64 {
    program::resident(howdah.pid()) << 10
}

fn grown(howdah: &Howdah, before: u64) -> u64 {
    resident(howdah).saturating_sub(before)
}

/// A server that is honest with everybody but the clients of the database `bad`.
fn server(bad: impl Fn(&mut FakeConn) -> io::Result<()> + Send + Sync + 'static) -> Fake {
    Fake::start(move |conn| {
        if conn.param("database") == Some("bad") {
            return bad(conn);
        }
        conn.login(&Login::default())?;
        conn.serve()
    })
}

fn before(fake: &Fake, top: &str) -> Howdah {
    let host = format!("host = \"127.0.0.1:{}\"\npool_size = 4", fake.port());
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         server_login_retry = \"100ms\"\nserver_connect_timeout = \"60s\"\n{top}\n[users.app]\n\
         [databases.bad]\n{host}\n[databases.good]\n{host}\n"
    ))
}

/// Before a real server, which knows what it is to refuse.
fn real(top: &str) -> Option<Howdah> {
    let cluster = harness::shared(15)?;
    Some(Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n{top}\n\
         [users.app]\n[databases.good]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 4\n",
        cluster.tcp()
    )))
}

fn dsn(howdah: &Howdah, database: &str) -> Dsn {
    Dsn::local(howdah.port(), "app", database)
}

/// The other database answers, and at once.
fn others_are_served(howdah: &Howdah) {
    let mut good = Raw::login(&dsn(howdah, "good"));
    assert_eq!(good.select("select 'fine'"), ["fine"]);
}

fn ops(howdah: &Howdah, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut s = std::net::TcpStream::connect(howdah.ops_address()).expect("the ops port accepts");
    s.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    s.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a header").1.to_owned()
}

fn stats(howdah: &Howdah) -> Value {
    serde_json::from_str(&ops(howdah, "/stats")).expect("JSON")
}

/// ParameterStatus messages with names that nobody has seen, for as long as somebody takes them: 1 GB in all.
fn new_names(conn: &mut FakeConn, value: usize) -> io::Result<()> {
    let value = "x".repeat(value);
    for n in 0..(1 << 30) / (value.len() + 20) {
        conn.send(&msg::parameter_status(&format!("name_{n}"), &value))?;
    }
    Ok(())
}

/// A login that never ends: of long parameters, of many short ones, and of messages that nobody keeps.
#[test]
fn a_login_of_a_server_is_bounded_as_a_whole() {
    let fake = server(|conn| {
        conn.send(&msg::auth(0, &[]))?;
        match conn.id % 3 {
            0 => new_names(conn, 60_000),
            1 => new_names(conn, 1),
            _ => (0..1 << 20).try_for_each(|_| conn.send(&msg::notice(&"n".repeat(1000)))),
        }
    });
    let howdah = before(&fake, "query_wait_timeout = \"3s\"");
    let start = resident(&howdah);
    harness::eventually("each of them was tried", || {
        let refused = Raw::try_login(&dsn(&howdah, "bad"), msg::PROTOCOL_3_0, &[]).err().expect("no login");
        assert!(refused.contains("cannot be understood"), "{refused}");
        fake.seen().startups >= 6
    });
    others_are_served(&howdah);
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
    let log = howdah.log();
    for figures in ["at most 1000 parameters and 65536 bytes", "the login has more than 1048576 bytes"] {
        assert!(log.contains(figures), "{figures}\n{log}");
    }
}

/// The same behind a login: the connection is discarded, and its client told why.
#[test]
fn parameters_that_a_server_reports_are_bounded_over_its_life() {
    let fake = server(|conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&|conn, sql| {
            if sql.contains("flood") {
                new_names(conn, 60_000)?;
            } else if sql.contains("trickle") {
                // A little with each answer.
                for n in 0..1 << 20 {
                    conn.send(&msg::parameter_status(&format!("name_{n}"), "x"))?;
                }
            }
            Ok(false)
        })
    });
    let howdah = before(&fake, "");
    let start = resident(&howdah);
    for sql in ["select 'flood'", "select 'trickle'"] {
        let mut client = Raw::login(&dsn(&howdah, "bad"));
        client.put(&msg::query(sql));
        let last = loop {
            match client.next() {
                Ok(frame) if frame.tag == b'E' => break frame,
                Ok(_) => {}
                Err(e) => panic!("{sql}: {e:?}"),
            }
        };
        assert_eq!(last.field(b'C').as_deref(), Some("08006"), "{}", last.text());
        let detail = last.field(b'D').unwrap_or_default();
        assert!(detail.contains("at most 1000 parameters and 65536 bytes are kept"), "{detail}");
    }
    others_are_served(&howdah);
    let ended = "howdah_server_disconnects_total{reason=\"server_protocol_violation\"} 2";
    assert!(ops(&howdah, "/metrics").contains(ended));
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
}

fn disconnects(howdah: &Howdah, reason: &str) -> f64 {
    let series = format!("howdah_server_disconnects_total{{reason=\"{reason}\"}} ");
    let text = ops(howdah, "/metrics");
    text.lines().find_map(|l| l.strip_prefix(&series)).and_then(|n| n.parse().ok()).expect("the metric")
}

/// Nobody reads what an idle server says but Howdah, which keeps nothing of it.
#[test]
fn an_idle_server_that_sends_without_end_is_closed() {
    let (go, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let fake = server(move |conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&|conn, sql| {
            if sql.contains("flood") {
                conn.send(&[msg::command_complete("SELECT 0"), msg::ready(b'I')].concat())?;
                let _ = told.lock().expect("a lock").recv();
                let notice = msg::notice(&"n".repeat((1 << 20) - 100));
                return (0..1 << 10).try_for_each(|_| conn.send(&notice)).map(|()| true);
            }
            Ok(false)
        })
    });
    let howdah = before(&fake, "");
    let start = resident(&howdah);
    let mut client = Raw::login(&dsn(&howdah, "bad"));
    assert_eq!(tags(&client.ask(&msg::query("select 'flood'"))), "CZ");
    drop(client);
    harness::eventually("the connection is idle", || {
        let idle = "howdah_pool_servers{database=\"bad\",user=\"app\",role=\"primary\",state=\"idle\"} 1";
        ops(&howdah, "/metrics").contains(idle)
    });
    go.send(()).expect("it listens");
    harness::eventually("it is closed", || disconnects(&howdah, "idle_flood") == 1.0);
    howdah.await_log("an idle server sends without end", Duration::from_secs(5));
    others_are_served(&howdah);
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
}

/// What Howdah asks for itself, such as whether a parameter is set, has a short answer.
#[test]
fn the_answer_to_a_question_of_howdahs_own_is_bounded() {
    let fake = server(|conn| {
        conn.login(&Login::default())?;
        let kind = conn.id % 3;
        conn.serve_with(&|conn, sql| {
            if sql.contains("mine") {
                return Ok(false);
            }
            conn.send(&msg::row_description(&["set_config"]))?;
            let part = match kind {
                0 => msg::data_row(&[Some(b"x".to_vec())]),
                1 => msg::notice(&"n".repeat(1000)),
                _ => msg::data_row(&[Some(vec![b'x'; 60_000])]),
            };
            let many = part.repeat(1 + 100_000 / part.len());
            (0..1 << 13).try_for_each(|_| conn.send(&many)).map(|()| true)
        })
    });
    let howdah = before(&fake, "");
    let start = resident(&howdah);
    for n in 1..=3 {
        let name = format!("other {n}");
        let extra = [("application_name", name.as_str())];
        let mut client = Raw::try_login(&dsn(&howdah, "bad"), msg::PROTOCOL_3_0, &extra).expect("it logs in");
        client.put(&msg::query("select 'mine'"));
        let told = client.next().expect("an error");
        assert_eq!(told.tag, b'E', "{}", told.text());
        harness::eventually("it is closed", || disconnects(&howdah, "answer_too_long") == f64::from(n));
    }
    others_are_served(&howdah);
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
}

/// What was sent is to run to its end where `client_gone` says so, as with PostgreSQL; and as with PostgreSQL, not if it
/// answers with rows that nobody takes.
#[test]
fn rows_for_a_client_that_is_gone_end_its_statement() {
    let fake = server(|conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&|conn, sql| {
            if sql.contains("rows") {
                conn.send(&msg::row_description(&["x"]))?;
                let many = msg::data_row(&[Some(vec![b'x'; 1000])]).repeat(100);
                return (0..10_000).try_for_each(|_| conn.send(&many)).map(|()| true);
            }
            Ok(false)
        })
    });
    let howdah = before(&fake, "client_gone = \"finish\"");
    let start = resident(&howdah);
    let mut client = Raw::login(&dsn(&howdah, "bad"));
    client.put(&msg::query("select 'rows'"));
    assert_eq!(client.next().expect("a row description").tag, b'T');
    drop(client);
    harness::eventually("its server is given up", || {
        ops(&howdah, "/metrics").contains("howdah_client_disconnects_total{reason=\"write_error\"} 1")
    });
    others_are_served(&howdah);
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
}

/// The same while the parameters of a client are set: at its login, or when it comes to another connection.
#[test]
fn a_flood_while_parameters_are_set_is_told_with_its_bound() {
    let fake = server(|conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&|conn, sql| {
            if sql.contains("Asia/Tokyo") {
                new_names(conn, 60_000)?;
            } else if sql.contains("Asia/Seoul") {
                // Our own question is answered in hex, and with one row.
                for _ in 0..1 << 20 {
                    conn.send(&msg::notice(&"n".repeat(1000)))?;
                }
            }
            Ok(false)
        })
    });
    let howdah = before(&fake, "");
    for (zone, bound) in [
        ("Asia/Tokyo", "at most 1000 parameters and 65536 bytes are kept"),
        ("Asia/Seoul", "at most 1048576 are kept of them"),
    ] {
        let zone = [("TimeZone", zone)];
        let refused = Raw::try_login(&dsn(&howdah, "bad"), msg::PROTOCOL_3_0, &zone).err().expect("no login");
        assert!(refused.contains("cannot be understood") && refused.contains(bound), "{refused}");
    }
    others_are_served(&howdah);
}

/// Statements of one client: of 1 MB each, and short ones under ever new names. What it holds is in /stats; beyond the
/// bound the error names the setting and the numbers, and the client goes on with what it has.
#[test]
fn statements_of_one_client_are_bounded_in_bytes() {
    let Some(howdah) = real("max_client_statement_memory = \"20MB\"\nmax_server_statement_memory = \"8MB\"")
    else {
        return;
    };
    let start = resident(&howdah);
    let mut client = Raw::login(&dsn(&howdah, "good"));
    let long = |n: usize| format!("select '{n}{}'", "x".repeat(1 << 20));
    let mut refused = 0;
    for n in 0..200 {
        let answer = client.ask(&[msg::parse(&format!("s{n}"), &long(n), &[]), msg::sync()].concat());
        if tags(&answer) == "1Z" {
            assert_eq!(refused, 0);
            continue;
        }
        refused += 1;
        let detail = answer[0].field(b'D').unwrap_or_default();
        assert_eq!(answer[0].field(b'C').as_deref(), Some("54000"), "{}", answer[0].text());
        assert!(detail.contains("holds 19 named statements"), "{detail}");
        assert!(detail.contains("max_client_statement_memory is 20971520"), "{detail}");
    }
    assert_eq!(refused, 181);
    let memory = &stats(&howdah)["prepared_statements"];
    assert_eq!(memory["statements"], 19, "{memory}");
    assert!(memory["text_bytes"].as_u64().is_some_and(|n| (19 << 20..20 << 20).contains(&n)), "{memory}");
    // Those that its server had to give up are prepared again, one Bind after the other in one write.
    let mut binds = Vec::new();
    for n in (0..19).cycle().take(190) {
        binds.extend_from_slice(&msg::bind("", &format!("s{n}"), &[], &[], &[]));
    }
    binds.extend_from_slice(&msg::sync());
    let answer = client.ask(&binds);
    assert_eq!(tags(&answer), "2".repeat(190) + "Z");
    // What is closed makes room.
    assert_eq!(tags(&client.ask(&[msg::close(b'S', "s0"), msg::sync()].concat())), "3Z");
    assert_eq!(tags(&client.ask(&[msg::parse("t", &long(0), &[]), msg::sync()].concat())), "1Z");
    others_are_served(&howdah);
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB", grown >> 20);
    drop(client);
    harness::eventually("what the client held is given up but for what its server has", || {
        let memory = &stats(&howdah)["prepared_statements"];
        memory["name_bytes"] == 0 && memory["text_bytes"].as_u64().is_some_and(|n| n < 9 << 20)
    });
}

/// Statements that its client has prepared are prepared again on another connection when they are bound: short messages that
/// need long ones. What they need goes out as the server takes it.
#[test]
fn short_messages_that_need_long_ones_are_not_collected() {
    const STATEMENTS: usize = 60;
    let fake = server(|conn| {
        conn.login(&Login::default())?;
        conn.serve_with(&|conn, sql| {
            if sql.contains("leave") {
                conn.send(&[msg::command_complete("SELECT 0"), msg::ready(b'I')].concat())?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Ok(false)
        })
    });
    let howdah = before(&fake, "max_server_statement_memory = \"1GB\"");
    let mut client = Raw::login(&dsn(&howdah, "bad"));
    for n in 0..STATEMENTS {
        let text = format!("select '{n}{}'", "x".repeat(1_000_000));
        let answer = client.ask(&[msg::parse(&format!("s{n}"), &text, &[]), msg::sync()].concat());
        assert_eq!(tags(&answer), "1Z");
    }
    client.ask(&msg::query("select 'leave'"));
    // The end of that connection may not have been seen yet: another client meets it, and then a new one.
    let fresh = || {
        let mut other = Raw::login(&dsn(&howdah, "bad"));
        other.put(&msg::query("select 1"));
        std::iter::from_fn(|| other.next().ok()).any(|frame| frame.tag == b'Z')
    };
    harness::eventually("there is a new connection", fresh);
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", howdah.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("its resident memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    let before = peak();
    let mut binds = Vec::new();
    for n in 0..STATEMENTS {
        binds.extend_from_slice(&msg::bind("", &format!("s{n}"), &[], &[], &[]));
    }
    binds.extend_from_slice(&msg::sync());
    assert_eq!(tags(&client.ask(&binds)), "2".repeat(STATEMENTS) + "Z");
    let grown = peak().saturating_sub(before);
    assert!(grown < 20 << 20, "{} MB for {STATEMENTS} MB", grown >> 20);
}

/// Names that are given up in one transaction, in batches and in one batch without an end.
#[test]
fn names_that_a_transaction_gives_up_are_forgotten() {
    let fake = server(|_| Ok(()));
    let howdah = before(&fake, "max_client_statement_memory = \"1MB\"");
    let mut client = Raw::login(&dsn(&howdah, "good"));
    client.put(&msg::query("begin"));
    client.until(b'Z');
    let start = resident(&howdah);
    let mut turn = |n: usize, end: &[u8]| {
        let mut batch = Vec::new();
        for i in 0..100 {
            let name = format!("statement_{n}_{i}");
            batch.extend_from_slice(&msg::parse(&name, "select 'x'", &[]));
            batch.extend_from_slice(&msg::close(b'S', &name));
        }
        batch.extend_from_slice(end);
        client.put(&batch);
        for _ in 0..200 {
            let frame = client.next().expect("an answer");
            assert!(matches!(frame.tag, b'1' | b'3'), "{}", frame.text());
        }
        if end == msg::sync() {
            client.until(b'Z');
        }
    };
    for n in 0..2000 {
        turn(n, &msg::sync());
    }
    for n in 2000..3000 {
        turn(n, &msg::flush());
    }
    let grown = grown(&howdah, start);
    assert!(grown < 12 << 20, "{} kB for 300,000 names", grown >> 10);
}

/// One bound for all clients together; a client that is refused for it is told so.
#[test]
fn statements_of_all_clients_are_bounded_together() {
    let Some(howdah) = real("max_statement_memory = \"10MB\"\nmax_server_statement_memory = \"1MB\"") else {
        return;
    };
    let text = |n: usize| format!("select '{n}{}'", "x".repeat(1 << 20));
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::login(&dsn(&howdah, "good"))).collect();
    let mut seen = String::new();
    for n in 0..12 {
        let client = &mut clients[n % 4];
        let answer = client.ask(&[msg::parse(&format!("s{n}"), &text(n), &[]), msg::sync()].concat());
        let _ = write!(seen, "{} ", answer[0].field(b'C').unwrap_or_default());
        if answer[0].tag == b'E' {
            let detail = answer[0].field(b'D').unwrap_or_default();
            assert!(detail.contains("max_statement_memory is 10485760"), "{detail}");
        }
    }
    assert_eq!(seen.trim(), "53200 53200 53200", "after nine");
    let again =
        clients[1].ask(&[msg::close(b'S', "s1"), msg::parse("s1", "select 1", &[]), msg::sync()].concat());
    assert_eq!(tags(&again), "31Z", "the rest of its session is as it was");
}

/// Thousands of clients that have sent the beginning of a long Parse, and no more.
#[test]
fn the_beginning_of_a_long_message_is_not_collected_without_a_server() {
    let fake = server(|_| Ok(()));
    let howdah = before(&fake, "query_wait_timeout = \"60s\"");
    let long = msg::parse("s", &"x".repeat(8 << 20), &[]);
    let start = resident(&howdah);
    let clients: Vec<Raw> = (0..64)
        .map(|_| {
            let client = Raw::login(&dsn(&howdah, "good"));
            let writer = client.writer().expect("a socket");
            writer.set_nonblocking(true).expect("a socket");
            // As much as is taken.
            let mut at = 0;
            for _ in 0..2000 {
                match io::Write::write(&mut (&writer), &long[at..(at + (1 << 16)).min(7 << 20)]) {
                    Ok(n) => at += n,
                    Err(_) => std::thread::sleep(Duration::from_micros(100)),
                }
                if at >= 7 << 20 {
                    break;
                }
            }
            client
        })
        .collect();
    // Four of them have a server, and are collected; the others wait.
    harness::eventually("they wait", || {
        stats(&howdah)["pools"].as_array().is_some_and(|p| p.iter().any(|p| p["waiting"] == 60))
    });
    let grown = grown(&howdah, start);
    assert!(grown < ROOM, "{} MB for {} clients", grown >> 20, clients.len());
}

/// Unnamed texts under way, and one that cannot be kept for another transaction: its client is told.
#[test]
fn an_unnamed_statement_that_was_not_kept_is_told() {
    let Some(howdah) = real("max_statement_size = \"64kB\"") else { return };
    let (mut a, mut b) = (Raw::login(&dsn(&howdah, "good")), Raw::login(&dsn(&howdah, "good")));
    let text = format!("select '{}'", "x".repeat(100_000));
    assert_eq!(tags(&a.ask(&[msg::parse("", &text, &[]), msg::sync()].concat())), "1Z");
    // Still on the server that has it.
    assert_eq!(tags(&a.ask(&[msg::bind("", "", &[], &[], &[]), msg::sync()].concat())), "2Z");
    assert_eq!(b.select("select 'other'"), ["other"]);
    let answer = a.ask(&[msg::bind("", "", &[], &[], &[]), msg::sync()].concat());
    assert_eq!(answer[0].field(b'C').as_deref(), Some("26000"), "{}", answer[0].text());
    let detail = answer[0].field(b'D').unwrap_or_default();
    assert!(detail.contains("max_statement_size (65536)"), "{detail}");
    assert_eq!(a.select("select 'on'"), ["on"]);
}
