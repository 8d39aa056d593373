use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::snapshot::{PoolFigures, Snapshot};
use super::*;
use crate::config::resolved::{HostAddr, PoolMode, Role};
use crate::metrics::BUCKETS_US;
use crate::metrics::advice::{Database, Host, Look};
use crate::metrics::catalog::{EXPORTER, Kind, METRICS, Source};
use crate::pool::adapt::{Decision, Reason};
use crate::pool::core::Counts;
use crate::pool::stats::Work;
use crate::pool::{PoolKey, PoolTotals};
use crate::services::tests::minimal;

#[path = "../../tests/it/harness/exposition.rs"]
#[expect(unreachable_pub, reason = "shared with the integration tests")]
mod format;
use format::Exposition;

#[test]
fn who_writes_a_scrape_steps_behind_the_relay() {
    let mine = || rustix::process::getpriority_process(None).unwrap();
    let before = mine();
    let writer = std::thread::spawn(move || {
        http::step_back();
        mine()
    });
    assert_eq!(writer.join().unwrap(), (before + http::NICE).min(19));
    assert_eq!(mine(), before, "no other thread does");
}

/// A pool whose names need escapes, with figures that can be told apart.
fn pool() -> PoolFigures {
    let mut totals = PoolTotals {
        transactions: 7,
        queries: 9,
        errors: 2,
        from_client: 100,
        to_client: 200,
        client_parses: 5,
        server_parses: 3,
        binds: 6,
        opened: 4,
        open_failures: 8,
        wait_timeouts: 1,
        ..PoolTotals::default()
    };
    // On a bound, between bounds, and above the last.
    for us in [0, 50, 51, 1_000_000, 1_000_001, 60_000_000, 60_000_001] {
        totals.wait.add(us);
    }
    PoolFigures {
        key: PoolKey::new("a\"b\\c\nd".into(), "zoë".into(), Role::Primary),
        mode: PoolMode::Transaction,
        size: 10,
        effective_size: 8,
        sized: Some(Decision { from: 4, to: 8, reason: Reason::Faster, before: None, after: None }),
        min_size: 2,
        reserve_size: 3,
        leak_threshold: Some(Duration::from_secs(300)),
        standstill: None,
        counts: Counts { idle: 1, leased: 4, opening: 2, parked: 1, repairing: 1, closing: 6, waiting: 12 },
        longest_wait: Duration::from_millis(1500),
        pins: 0,
        leaking: 1,
        since_change: (Duration::from_secs(2), Work::of(&totals)),
        totals,
    }
}

fn look() -> Look {
    let (host, name) = ("db".to_owned(), "app".to_owned());
    Look {
        at_ms: 1,
        findings: [((name.clone(), "index_unused"), 2)].into(),
        databases: vec![Database {
            host: host.clone(),
            name,
            cache_hits: Some(0.5),
            index_scans: Some(0.25),
        }],
        hosts: vec![Host { host, lag: Some(1.5) }],
    }
}

fn exposition(s: &Snapshot) -> Exposition {
    let text = exposition::render(s, &mut exposition::Last::default()).unwrap();
    Exposition::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

#[test]
fn an_idle_service_exports_all_but_the_pools() {
    let e = exposition(&Snapshot::take(&minimal()));
    for m in METRICS {
        assert_eq!(
            e.families.contains_key(m.name),
            !matches!(m.source, Source::Pool | Source::Route | Source::Advice)
                && !m.name.starts_with("howdah_listener_"),
            "{}",
            m.name
        );
        let Source::Event(known) = m.source else { continue };
        match m.labels {
            [] => assert_eq!(e.value(m.name, &[]), Some(0.0), "{}", m.name),
            [label, ..] => {
                for value in known {
                    assert_eq!(e.value(m.name, &[(label, value)]), Some(0.0), "{} {value}", m.name);
                }
            }
        }
    }
    assert!(e.value("process_resident_memory_bytes", &[]).unwrap() > 1e6);
    assert!(e.value("process_start_time_seconds", &[]).unwrap() > 1e9);
    assert!(e.value("process_open_fds", &[]) < e.value("process_max_fds", &[]));
}

#[test]
fn what_was_written_last_is_used_again_only_where_nothing_has_changed() {
    let mut s = Snapshot::take(&minimal());
    let (one, mut renamed, mut busier) = (pool(), pool(), pool());
    renamed.key = PoolKey::new("b".into(), "a\\c\nd\"".into(), Role::Primary);
    busier.totals.transaction.add(5);
    let mut last = exposition::Last::default();
    for (pools, cancels) in [
        (vec![], 0),
        (vec![one.clone()], 0),
        (vec![one.clone()], 1),
        (vec![renamed.clone()], 1),
        (vec![one.clone(), renamed], 1),
        (vec![busier], 1),
        (vec![], 1),
        (vec![one], 0),
    ] {
        (s.pools, s.cancels_in_flight) = (pools, cancels);
        let fresh = exposition::render(&s, &mut exposition::Last::default()).unwrap();
        assert_eq!(exposition::render(&s, &mut last).unwrap(), fresh);
    }
}

#[test]
fn a_pool_exports_every_row_of_the_catalog_with_its_figures() {
    let p = pool();
    let mut s = Snapshot::take(&minimal());
    s.pools = vec![p.clone()];
    s.exporter_names = true;
    s.advice = Some((Arc::new(look()), 3.0));
    let host = HostAddr::Tcp { host: "db".to_owned(), port: 5432 };
    s.listeners = vec![crate::listener::Row { database: "app".into(), host, channels: 2, clients: 3 }];
    let e = exposition(&s);
    for m in METRICS.iter().chain(EXPORTER).filter(|m| m.source != Source::Route) {
        assert_eq!(e.families.get(m.name).map(String::as_str), Some(m.kind.as_str()), "{}", m.name);
        assert!(m.kind != Kind::Histogram || e.value(m.name, &[]).is_none());
    }
    let app = [("database", "app"), ("host", "db")];
    assert_eq!(e.value("howdah_database_index_scan_ratio", &app), Some(0.25));
    assert_eq!(e.value("howdah_standby_replay_lag_seconds", &[("host", "db")]), Some(1.5));
    let findings = [("database", "app"), ("code", "index_unused")];
    assert_eq!(e.value("howdah_advice_findings", &findings), Some(2.0));
    let labels = [("database", "a\"b\\c\nd"), ("user", "zoë"), ("role", "primary")];
    for (name, value) in [
        ("pool_size", 10.0),
        ("pool_utilization_ratio", 0.6),
        ("pool_waiting_clients", 12.0),
        ("pool_longest_wait_seconds", 1.5),
        ("transactions_total", 7.0),
        ("queries_total", 9.0),
        ("server_errors_total", 2.0),
        ("client_parses_total", 5.0),
        ("server_parses_total", 3.0),
        ("binds_total", 6.0),
        ("server_connections_opened_total", 4.0),
        ("pool_server_connect_failures_total", 8.0),
        ("wait_timeouts_total", 1.0),
        ("pool_wait_seconds_count", 7.0),
        ("pool_wait_seconds_sum", 122.000_103),
        ("pool_transaction_seconds_count", 0.0),
    ] {
        assert_eq!(e.value(&format!("howdah_{name}"), &labels), Some(value), "{name}");
    }
    let with = |more| [labels[0], labels[1], labels[2], more];
    let received = with(("direction", "received"));
    assert_eq!(e.value("howdah_client_bytes_total", &received), Some(100.0));
    for (state, n) in [
        ("idle", 1.0),
        ("active", 4.0),
        ("opening", 2.0),
        ("canceling", 1.0),
        ("repairing", 1.0),
        ("closing", 6.0),
    ] {
        assert_eq!(e.value("howdah_pool_servers", &with(("state", state))), Some(n), "{state}");
    }
    // Cumulative: each bucket is all that is not above its bound.
    for (bound, n) in [("0.00005", 2.0), ("0.0001", 3.0), ("1", 4.0), ("5", 5.0), ("60", 6.0), ("+Inf", 7.0)]
    {
        assert_eq!(e.value("howdah_pool_wait_seconds_bucket", &with(("le", bound))), Some(n), "{bound}");
    }
}

#[test]
fn every_bucket_bound_is_exact_in_seconds() {
    for us in BUCKETS_US {
        let text = stats::seconds(us).to_string();
        let exact = us as u128 * 1_000_000_000;
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let printed = format!("{whole}{fraction:0<15}").parse::<u128>().unwrap();
        assert_eq!(printed, exact, "{text}");
    }
}

#[test]
fn events_appear_under_their_labels() {
    let services = minimal();
    services.counters.count("timeouts_total", "query_timeout");
    services.counters.count("timeouts_total", "a_new_one");
    services.counters.count("waiters_cancelled_total", "");
    let e = exposition(&Snapshot::take(&services));
    assert_eq!(e.value("howdah_timeouts_total", &[("timeout", "query_timeout")]), Some(1.0));
    assert_eq!(e.value("howdah_timeouts_total", &[("timeout", "a_new_one")]), Some(1.0));
    assert_eq!(e.value("howdah_timeouts_total", &[("timeout", "transaction_timeout")]), Some(0.0));
    assert_eq!(e.value("howdah_waiters_cancelled_total", &[("reason", "other")]), Some(1.0));
}

#[test]
fn stats_and_metrics_agree() {
    let mut s = Snapshot::take(&minimal());
    s.pools = vec![pool()];
    let json: serde_json::Value = serde_json::from_str(&stats::render(&s).unwrap()).unwrap();
    let p = &json["pools"][0];
    assert_eq!(p["database"], "a\"b\\c\nd");
    assert_eq!(p["settings"]["mode"], "transaction");
    assert_eq!(p["servers"]["active"], 4);
    assert_eq!(p["waiting"], 12);
    assert_eq!(p["longest_wait_seconds"], 1.5);
    assert_eq!(p["totals"]["transactions"], 7);
    assert_eq!(p["totals"]["waits"], 7);
    assert_eq!(p["totals"]["wait_seconds"], 122.000_103);
    assert_eq!(p["averages"]["wait_seconds"], 122.000_103 / 7.0);
    assert_eq!(p["averages"]["transaction_seconds"], 0.0);
    assert_eq!(json["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["clients"]["states"]["idle_in_transaction"].is_u64());
}

#[test]
fn the_format_check_finds_what_is_wrong() {
    let good = "# HELP a b.\n# TYPE a counter\na{x=\"1\"} 1\n";
    assert!(Exposition::parse(good).is_ok());
    let head = "# HELP h b.\n# TYPE h histogram\n";
    for bad in [
        "a 1\n",
        "# TYPE a counter\na 1\n",
        "# HELP a b.\n# TYPE a counter\na 1\na 1\n",
        "# HELP a b.\n# TYPE a counter\na -1\n",
        "# HELP a b.\n# TYPE a counter\na 1 \n",
        "# HELP a b.\n# TYPE a counter\na{x=1} 1\n",
        "# HELP a b.\n# TYPE a counter\na 1",
        &format!("{good}# HELP a b.\n"),
        &format!("{head}h_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 1\n"),
        &format!("{head}h_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 2\n"),
        &format!("{head}h_bucket{{le=\"+Inf\"}} 1\nh_count 1\n"),
    ] {
        assert!(Exposition::parse(bad).is_err(), "{bad}");
    }
}

async fn ask(endpoints: &Endpoints, method: Method, path: &str) -> (Response<()>, String) {
    let request = Request::builder().method(method).uri(path).header("Host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = endpoints.answer(request, LIMITS.request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_path_is_answered_and_nothing_else() {
    let services = minimal();
    let endpoints = Endpoints::new(services.clone(), true);
    let (_, index) = ask(&endpoints, Method::GET, "/index").await;
    for path in [
        "/",
        "/index",
        "/metrics",
        "/healthz",
        "/readyz",
        "/stats",
        "/queries",
        "/metrics?name=x",
        "/readyz/app",
    ] {
        let (r, _) = ask(&endpoints, Method::GET, path).await;
        assert_eq!(r.status(), StatusCode::OK, "{path}");
        assert_eq!(ask(&endpoints, Method::HEAD, path).await.0.status(), StatusCode::OK, "{path}");
        assert!(
            path.contains('?') || path == "/readyz/app" || index.contains(&format!("\n{path} ")),
            "{path} is listed"
        );
    }
    for (method, path, status, code) in [
        (Method::GET, "/nothing", 404, "not_found"),
        (Method::GET, "/readyz/nothing", 404, "unknown_database"),
        (Method::GET, "/readyz/app/replica", 404, "unknown_database"),
        (Method::POST, "/nothing", 404, "not_found"),
        (Method::POST, "/metrics", 405, "method_not_allowed"),
        (Method::DELETE, "/", 405, "method_not_allowed"),
    ] {
        let (r, body) = ask(&endpoints, method, path).await;
        assert_eq!((r.status().as_u16(), r.headers().contains_key("allow")), (status, status == 405));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"], code);
    }
    let elsewhere = Endpoints::new(services.clone(), false);
    for path in ["/stats", "/queries", "/"] {
        assert_eq!(ask(&elsewhere, Method::GET, path).await.0.status(), StatusCode::FORBIDDEN, "{path}");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/readyz/app"] {
        assert_eq!(ask(&elsewhere, Method::GET, path).await.0.status(), StatusCode::OK, "{path}");
    }

    services.draining.store(true, Ordering::Relaxed);
    let (r, body) = ask(&endpoints, Method::GET, "/readyz").await;
    assert_eq!(r.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("draining"), "{body}");
    assert_eq!(ask(&endpoints, Method::GET, "/healthz").await.0.status(), StatusCode::OK);
}

/// A peer that says nothing, and one that asks without end and reads nothing, give their places back.
#[tokio::test]
async fn a_place_is_not_kept_by_silence() {
    let limits = Limits {
        connections: 1,
        header: Duration::from_millis(200),
        request: Duration::from_millis(200),
        lifetime: Duration::from_millis(400),
    };
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, minimal(), limits));

    let _silent = TcpStream::connect(addr).await.unwrap();
    let mut greedy = TcpStream::connect(addr).await.unwrap();
    let asks = tokio::spawn(async move {
        while greedy.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {}
    });
    // It is behind the two, and is served all the same.
    let mut third = TcpStream::connect(addr).await.unwrap();
    third.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    asks.await.unwrap();
    server.abort();
}
