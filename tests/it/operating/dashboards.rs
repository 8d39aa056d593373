//! What `docker/` offers to people's monitoring names only metrics that there are, and the alerts do what they say.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::exposition::Exposition;
use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replicated, eligible};
use crate::harness::{self, eventually, left_out, root};

const FILES: &[&str] =
    &["docker/grafana/howdah.json", "docker/prometheus/alerts.yml", "docker/prometheus/alerts.test.yml"];

/// Words of a text that are names of metrics, without what a histogram adds to them.
fn metrics_of(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| w.starts_with("howdah_") || w.starts_with("process_"))
        .map(|w| {
            let stripped = ["_bucket", "_sum", "_count"].iter().find_map(|s| w.strip_suffix(s));
            stripped.filter(|s| s.ends_with("_seconds")).unwrap_or(w).to_owned()
        })
        .collect()
}

#[test]
fn every_metric_that_is_named_is_in_a_live_scrape() {
    let Some(servers) = Replicated::start_with(15, harness::app_options()) else { return };
    let config = servers.config("advice_interval = \"1s\"", "when_no_replica = \"primary\"", "");
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    // A database whose tables nobody has scanned has no use of indexes.
    let mut direct = servers.primary.connect("app", "app").expect("a login");
    direct.query("CREATE TABLE t (n int); SELECT * FROM t").expect("a scan");
    drop(direct);
    eventually("an examination", || {
        harness::http(howdah.ops_address(), "/metrics").contains("howdah_database_index_scan_ratio{")
    });
    howdah.connect("app", "app").expect("a login").query("SELECT 1").expect("an answer");
    let mut s = std::net::TcpStream::connect(howdah.ops_address()).expect("the ops port accepts");
    s.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    s.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    s.read_to_string(&mut answer).expect("an answer");
    let scrape =
        Exposition::parse(answer.split_once("\r\n\r\n").expect("a header").1).expect("its form is right");
    for file in FILES {
        let named = metrics_of(&std::fs::read_to_string(root().join(file)).expect("a file"));
        assert!(named.len() > 8, "{file}: {named:?}");
        let unknown: Vec<_> = named.iter().filter(|n| !scrape.families.contains_key(*n)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_alerts_do_what_they_say() {
    let directory: PathBuf = root().join("docker/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let Ok(output) = Command::new("promtool").args(arguments).current_dir(&directory).output() else {
            return left_out("promtool test rules", "promtool is not installed");
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}
