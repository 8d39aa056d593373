//! The page of the ops port in a real browser: no error on its console, its figures those of /stats and /queries, in
//! both themes, and the client that a pool is exhausted by is the one that it names.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::ops_port::json;
use crate::harness::proxy::Howdah;
use crate::harness::{self, app_options, cluster, eventually, left_out, shared};
use serde_json::Value;

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path).flat_map(|d| names.map(|n| d.join(n))).find(|p| p.is_file());
    if found.is_none() {
        left_out("the page in a browser", "no chromium on this machine");
    }
    found
}

/// Head and body of an answer of the ops port.
fn get(howdah: &Howdah, path: &str) -> (String, String) {
    let mut s = std::net::TcpStream::connect(howdah.ops_address()).expect("the ops port accepts");
    s.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(s, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", howdah.ops_address())
        .expect("a request");
    let mut answer = String::new();
    s.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
    (head.to_owned(), body.to_owned())
}

/// The page's document after it has asked twice at least, and what the browser said meanwhile.
fn open(browser: &PathBuf, howdah: &Howdah, more: &[&str], path: &str) -> (String, String) {
    let profile = tempfile::tempdir().expect("a directory");
    let output = Command::new("timeout")
        .args(["-k", "5", "90"])
        .arg(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(format!("http://{}{path}", howdah.ops_address()))
        .output()
        .expect("the browser can be run");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// What elements with `data-figure` show.
fn figures(document: &str) -> BTreeMap<String, String> {
    document
        .split("data-figure=\"")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once('"')?;
            let shown = rest.split_once('>')?.1.split_once('<')?.0;
            Some((name.to_owned(), shown.to_owned()))
        })
        .collect()
}

fn attribute(document: &str, name: &str) -> String {
    let rest = document.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}

#[test]
fn the_page_shows_what_the_figures_say() {
    let (Some(browser), Some(cluster)) = (chromium(), shared(15)) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         [users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 1\nquery_wait_timeout = \"3s\"\n",
        cluster.tcp()
    ));
    let mut client = howdah.connect("app", "app").expect("a login");
    for n in 0..30 {
        client.query(&format!("SELECT {n} AS \"<b>not markup</b>\"")).expect("an answer");
    }
    client.query("BEGIN").expect("an answer");
    client.query("SELECT 42").expect("an answer");
    howdah.connect("app", "app").expect("a login").query("SELECT 1").expect_err("a timeout");
    // It and the event of the timeout come in either order.
    eventually("nobody waits", || {
        let stats = json(&howdah, "/stats");
        stats["recent_events"].as_array().is_some_and(|all| all.iter().any(|e| e["kind"] == "recovered"))
    });

    let (document, said) = open(&browser, &howdah, &[], "/?theme=dark");
    let complaints: Vec<&str> = said.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(attribute(&document, "data-rounds").parse::<u32>().is_ok_and(|n| n >= 2), "it asks again");
    assert_eq!(attribute(&document, "data-background"), "rgb(18, 22, 28)");

    let (stats, queries) = (json(&howdah, "/stats"), json(&howdah, "/queries"));
    let shown = figures(&document);
    let pool = &stats["pools"][0];
    for (name, value) in [
        ("clients.connected", &stats["clients"]["connected"]),
        ("pools.app/app/primary.totals.transactions", &pool["totals"]["transactions"]),
        ("pools.app/app/primary.totals.queries", &pool["totals"]["queries"]),
        ("pools.app/app/primary.servers.active", &pool["servers"]["active"]),
        ("pools.app/app/primary.settings.size", &pool["settings"]["size"]),
        ("pools.app/app/primary.waiting", &pool["waiting"]),
        ("wait_timeouts", &pool["totals"]["wait_timeouts"]),
        ("transactions", &pool["totals"]["transactions"]),
    ] {
        assert_eq!(shown.get(name), Some(&value.to_string()), "{name}: {shown:?}");
    }
    for s in queries["statements"].as_array().expect("an array") {
        let name = format!("statements.{}.calls", s["id"].as_str().expect("an id"));
        assert_eq!(shown.get(&name), Some(&s["calls"].to_string()), "{name}: {shown:?}");
    }
    // The client that does not end its transaction, by its number, among the holders and in the events.
    let number = client.cancel_key().0;
    assert!(shown.contains_key(&format!("holders.{number}")), "{shown:?}");
    assert!(document.contains(&format!("client {number} of user app")));
    assert!(document.contains("&lt;b&gt;not markup&lt;/b&gt;") && !document.contains("<b>not markup"));

    let (document, said) = open(&browser, &howdah, &["--blink-settings=preferredColorScheme=1"], "/");
    assert!(!said.contains("CONSOLE"), "{said}");
    assert_eq!(attribute(&document, "data-background"), "rgb(246, 247, 249)");
}

/// Each server's role and lag; a transaction is red when it is a leak, and not before; a long statement is no tall row,
/// on a phone either.
#[test]
fn the_page_tells_roles_and_lag_and_what_is_too_long() {
    let Some(browser) = chromium() else { return };
    let Some(mut primary) = cluster(15, app_options()) else { return };
    let replica = primary.replica().expect("a replica");
    let (at, behind) = (primary.tcp(), replica.tcp());
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         [users.app]\n[databases.app]\nhost = \"{at}\"\npool_size = 2\nwhen_no_replica = \"error\"\n\
         leak_threshold = \"1h\"\n[databases.app.replica]\nhost = \"{behind}\"\n\
         [databases.quick]\nhost = \"{at}\"\ndbname = \"app\"\npool_size = 2\nleak_threshold = \"10ms\"\n",
    ));
    let mut clients = ["app", "quick"].map(|d| howdah.connect("app", d).expect("a login"));
    let long = format!("SELECT 1 AS one{}", ", 2 AS another_column".repeat(60));
    for client in &mut clients {
        client.query("BEGIN").expect("an answer");
        client.query(&long).expect("an answer");
    }
    // Of many applications each name would be a line of its own in a narrow column.
    for n in 0..4 {
        let name = format!("howdah-page-application-{n}");
        let all = [("user", "app"), ("database", "app"), ("application_name", &*name)];
        let target = harness::Target::Tcp(howdah.address());
        let mut client =
            harness::Client::connect_with(&target, &all, Duration::from_secs(30)).expect("a login");
        client.query(&long).expect("an answer");
    }
    let host = |figures: &Value, name: &str| {
        let all = figures["hosts"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|h| h["host"] == name).expect("the host")
    };
    eventually("the replica's lag is known", || {
        let replica = host(&json(&howdah, "/stats"), &behind.to_string());
        replica["role"] == "replica" && replica["lag_seconds"].is_number()
    });
    let phone = ["--window-size=390,844"];
    for more in [&phone[..], &["--window-size=1280,900"][..]] {
        let (document, said) = open(&browser, &howdah, more, "/");
        assert!(!said.contains("CONSOLE"), "{said}");
        let shown = figures(&document);
        let figure =
            |host: &str, what: &str| shown.get(&format!("hosts.{host}.{what}")).cloned().unwrap_or_default();
        assert_eq!(
            (figure(&at.to_string(), "role"), figure(&at.to_string(), "lag")),
            ("primary".into(), "none".into())
        );
        assert_eq!(figure(&behind.to_string(), "role"), "replica");
        let lag = figure(&behind.to_string(), "lag");
        assert!(lag.starts_with(|c: char| c.is_ascii_digit()), "{lag}");
        let open = document.matches(">idle in transaction</td>").count();
        let red = document.matches("class=\"bad\">idle in transaction</td>").count();
        assert_eq!((open, red), (2, 1), "only what is a leak");
        let tallest: u32 = attribute(&document, "data-tallest-statement").parse().expect("pixels");
        assert!((1..=80).contains(&tallest), "{tallest}");
        assert!(document.matches("another_column").count() >= 60, "the whole text is there");
    }
}

/// Where other machines can ask and no token is set, a person is told what to set, and a program as before.
#[test]
fn without_a_token_the_page_says_what_to_set() {
    let Some(cluster) = shared(15) else { return };
    let with = |token: &str| {
        Howdah::start(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"0.0.0.0:{{ops_port}}\"\nauth_method = \"trust\"\n\
             {token}\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 1\n",
            cluster.tcp()
        ))
    };
    let howdah = with("");
    let (head, body) = get(&howdah, "/");
    assert!(head.starts_with("HTTP/1.1 403") && head.contains("text/html"), "{head}");
    for part in ["ops_token = ", "ops_token_file", "ops_listen = \"127.0.0.1:9127\"", "reload"] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let (head, body) = get(&howdah, "/stats");
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("token_needed"), "{head} {body}");
    let (head, body) = get(&with("ops_token = \"secret\""), "/");
    assert!(
        head.starts_with("HTTP/1.1 401") && head.to_lowercase().contains("www-authenticate: basic"),
        "{head}"
    );
    assert!(body.contains("<code>ops_token</code>") && !body.contains("secret"), "{body}");
}
