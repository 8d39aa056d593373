//! The ops port of a Howdah before a real server: its figures are what the clients counted, and its health
//! answers need no database.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::certs::Lab;
use crate::harness::exposition::Exposition;
use crate::harness::ops_port::{get, scrape};
use crate::harness::proxy::Howdah;
use crate::harness::{self, Cluster, SUPERUSER, Stop, app_options, cluster, eventually, left_out, shared};

const MAJOR: u32 = 15;
const POOL: [(&str, &str); 3] = [("database", "app"), ("user", "app"), ("role", "primary")];

fn howdah_before(cluster: &Cluster, more: &str) -> Howdah {
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         admin_users = [\"app\"]\n{more}\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 3\n",
        cluster.tcp()
    ))
}

fn stats(howdah: &Howdah) -> serde_json::Value {
    let (status, text) = get(howdah, "/stats");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The same over TLS; the error where the handshake failed.
fn get_securely(howdah: &Howdah, lab: &Lab, own: Option<&str>, path: &str) -> std::io::Result<(u16, String)> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(lab.path("ca.crt")).expect("the CA") {
        roots.add(ca.expect("a certificate")).expect("a root");
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(lab.path(&format!("{name}.crt"))).expect("a file");
            let chain = chain.map(|c| c.expect("a certificate")).collect();
            let key = PrivateKeyDer::from_pem_file(lab.path(&format!("{name}.key"))).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connection = rustls::ClientConnection::new(config.into(), name).expect("a connection");
    let socket = std::net::TcpStream::connect(howdah.ops_address())?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut s = rustls::StreamOwned::new(connection, socket);
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    match s.read_to_string(&mut answer) {
        // Whether the end was said in TLS is not asked here.
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        Err(e) => return Err(e),
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
    Ok((head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), body.to_owned()))
}

/// With a certificate of its own the port speaks HTTPS alone; a reload brings another one, and a CA asks who comes.
#[test]
fn the_ops_port_speaks_https() {
    let Some(cluster) = shared(MAJOR) else { return };
    let Some(lab) = Lab::new() else { return };
    lab.ca("ca");
    lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost");
    lab.leaf("scraper", "ca", "scraper", "extendedKeyUsage=clientAuth");
    let tls = format!(
        "ops_tls_cert = \"{}\"\nops_tls_key = \"{}\"",
        lab.show("server.crt"),
        lab.show("server.key")
    );
    let howdah = howdah_before(cluster, &tls);
    let (status, text) = get_securely(&howdah, &lab, None, "/metrics").expect("an answer");
    assert_eq!(status, 200);
    let scrape = Exposition::parse(&text).expect("its form is right");
    let expires = scrape.value("howdah_tls_certificate_not_after_seconds", &[("setting", "ops_tls_cert")]);
    assert!(expires.is_some_and(f64::is_finite), "{expires:?}");
    let of_ops = |name| scrape.value(name, &[("side", "ops")]).expect("it is there");
    let (steps, done) = (of_ops("howdah_tls_handshake_steps_total"), of_ops("howdah_tls_handshakes_total"));
    assert!(done >= 1.0 && steps >= done, "{steps} steps of {done} handshakes beside the relay");
    // Plain HTTP gets no answer of HTTP.
    let mut plain = std::net::TcpStream::connect(howdah.ops_address()).expect("the port accepts");
    plain.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    let text = std::fs::read_to_string(howdah.config_path()).expect("the configuration");
    let with_ca =
        text.replace("ops_tls_key", &format!("ops_tls_ca = \"{}\"\nops_tls_key", lab.show("ca.crt")));
    std::fs::write(howdah.config_path(), with_ca).expect("written");
    howdah.hup();
    howdah.await_log("configuration reloaded", Duration::from_secs(20));
    assert!(get_securely(&howdah, &lab, None, "/healthz").is_err(), "nobody without a certificate");
    assert_eq!(get_securely(&howdah, &lab, Some("scraper"), "/healthz").expect("an answer").0, 200);
    let (_, text) = get_securely(&howdah, &lab, Some("scraper"), "/metrics").expect("an answer");
    let scrape = Exposition::parse(&text).expect("its form is right");
    let failed = scrape.value("howdah_tls_handshake_failures_total", &[("side", "ops")]);
    assert_eq!(failed, Some(2.0));
}

/// Prometheus' own opinion of a scrape, where it is installed.
fn promtool(text: &str) {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        return left_out("promtool check metrics", "promtool is not installed");
    };
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&said));
}

#[test]
fn totals_are_what_the_clients_counted() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = howdah_before(cluster, "");
    let mut clients: Vec<_> = (0..4).map(|_| howdah.connect("app", "app").expect("a login")).collect();
    for client in &mut clients {
        for _ in 0..25 {
            client.query("SELECT 1").expect("an answer");
        }
        for sql in ["BEGIN", "SELECT 2", "SELECT 3", "COMMIT"] {
            client.query(sql).expect("an answer");
        }
        client.query("SELECT 1/0").expect_err("a division by zero");
    }
    let (transactions, queries, errors) = (4.0 * 27.0, 4.0 * 30.0, 4.0);
    // A client may have its answer before the transaction is booked.
    eventually("all is booked", || {
        scrape(&howdah).value("howdah_transactions_total", &POOL) == Some(transactions)
    });

    let (metrics, json) = (scrape(&howdah), stats(&howdah));
    let totals = &json["pools"][0]["totals"];
    let direction =
        |d| metrics.value("howdah_client_bytes_total", &[POOL[0], POOL[1], POOL[2], ("direction", d)]);
    for (name, metric, expected) in [
        ("transactions", metrics.value("howdah_transactions_total", &POOL), Some(transactions)),
        ("queries", metrics.value("howdah_queries_total", &POOL), Some(queries)),
        ("server_errors", metrics.value("howdah_server_errors_total", &POOL), Some(errors)),
        ("waits", metrics.value("howdah_pool_wait_seconds_count", &POOL), None),
        ("wait_timeouts", metrics.value("howdah_wait_timeouts_total", &POOL), Some(0.0)),
        ("server_connections_opened", metrics.value("howdah_server_connections_opened_total", &POOL), None),
        ("bytes_received", direction("received"), None),
        ("bytes_sent", direction("sent"), None),
        ("transaction_seconds", metrics.value("howdah_pool_transaction_seconds_sum", &POOL), None),
    ] {
        assert_eq!(totals[name].as_f64(), metric, "{name}: /stats and /metrics");
        assert!(expected.is_none() || metric == expected, "{name}: {metric:?}, not {expected:?}");
        assert!(expected.is_some() || metric > Some(0.0), "{name}: {metric:?}");
    }
    // The console, which is a client too, says the same.
    let mut console = howdah.connect("app", "howdah").expect("a login");
    let shown = console.query("SHOW STATS_TOTALS").expect("an answer");
    let row = shown.rows.iter().find(|r| r[0].as_deref() == Some("app")).expect("the database");
    for (column, name) in [
        ("xact_count", "transactions"),
        ("query_count", "queries"),
        ("bytes_received", "bytes_received"),
        ("bytes_sent", "bytes_sent"),
    ] {
        let at = shown.columns.iter().position(|c| c == column).expect("a column");
        assert_eq!(row[at], Some(totals[name].to_string()), "{name}: console and /stats");
    }
    drop(console);
    assert_eq!(metrics.value("howdah_pool_transaction_seconds_count", &POOL), Some(transactions));
    assert_eq!(metrics.value("howdah_logins_total", &[]), Some(4.0));
    assert_eq!(metrics.value("howdah_clients", &[("state", "idle")]), Some(4.0));
    assert_eq!(metrics.value("howdah_pool_size", &POOL), Some(3.0));
    assert_eq!(json["clients"]["connected"], 4);
    assert_eq!(json["pools"][0]["settings"]["size"], 3);
    let opened = metrics.value("howdah_server_connections_opened_total", &POOL);
    assert_eq!(opened, Some(harness::connections(cluster, "app") as f64), "as the server counts");

    promtool(&get(&howdah, "/metrics").1);
    assert_eq!(get(&howdah, "/").0, 200);
    assert_eq!(get(&howdah, "/no/such").0, 404);
}

/// Who holds and who waits is seen while it lasts.
#[test]
fn holders_and_waiters_are_seen() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = howdah_before(&cluster, "");
    let mut holders: Vec<_> = (0..3).map(|_| howdah.connect("app", "app").expect("a login")).collect();
    for holder in &mut holders {
        holder.query("BEGIN").expect("an answer");
    }
    let mut waiter = howdah.connect("app", "app").expect("a login");
    let waiting = std::thread::spawn(move || waiter.query("SELECT 1").map(|_| ()));
    eventually("one waits", || scrape(&howdah).value("howdah_pool_waiting_clients", &POOL) == Some(1.0));

    let (metrics, json) = (scrape(&howdah), stats(&howdah));
    assert_eq!(metrics.value("howdah_pool_utilization_ratio", &POOL), Some(1.0));
    assert!(metrics.value("howdah_pool_longest_wait_seconds", &POOL) > Some(0.0));
    assert_eq!(metrics.value("howdah_clients", &[("state", "idle_in_transaction")]), Some(3.0));
    assert_eq!(metrics.value("howdah_clients", &[("state", "waiting")]), Some(1.0));
    assert_eq!(json["pools"][0]["servers"]["active"], 3);
    assert_eq!(json["pools"][0]["waiting"], 1);

    holders[0].query("COMMIT").expect("an answer");
    waiting.join().expect("no panic").expect("an answer");
}

#[test]
fn health_needs_no_database() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = howdah_before(&cluster, "");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&howdah, path).0, 200, "{path}");
    }
    // Neither the answers nor a scrape have made a connection, nor did the start.
    scrape(&howdah);
    assert_eq!(harness::count(&cluster, &format!("usename <> '{SUPERUSER}'")), 0);
    cluster.stop(Stop::Immediate).expect("it stops");
    for path in ["/healthz", "/readyz", "/metrics", "/stats"] {
        assert_eq!(get(&howdah, path).0, 200, "{path} without a database");
    }
}

#[test]
fn a_drain_is_not_ready_and_lives() {
    let Some(cluster) = shared(MAJOR) else { return };
    let mut howdah = howdah_before(cluster, "drain_timeout = \"30s\"");
    let mut client = howdah.connect("app", "app").expect("a login");
    client.query("SELECT 1").expect("an answer");
    howdah.term();
    eventually("it is not ready", || get(&howdah, "/readyz").0 == 503);
    assert!(get(&howdah, "/readyz").1.contains("draining"));
    assert_eq!(get(&howdah, "/healthz").0, 200);
    assert_eq!(scrape(&howdah).value("howdah_draining", &[]), Some(1.0));
    client.query("SELECT 1").expect("the session goes on");
    drop(client);
    assert!(howdah.wait(Duration::from_secs(20)).success());
}
