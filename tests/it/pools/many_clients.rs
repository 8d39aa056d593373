//! 10,000 clients at once over a pool of 40, half of the queries in pipelines, a tenth of the clients aborted
//! at random; every query carries a nonce that its client checks, and the server's own count of connections is
//! sampled all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness;
use crate::harness::proxy::Howdah;
use crate::harness::wire::nonce;

const POOL: usize = 40;
const CLIENTS: usize = 10_000;

const CONFIG: &str = r#"
listen = ["127.0.0.1:{port}"]
ops_listen = "127.0.0.1:{ops_port}"
auth_method = "trust"
log_connections = false
log_disconnections = false
# Room for those that replace clients whose end has not been seen yet.
max_client_connections = 11000
# 10,000 requests at once on two cores: nobody is refused, everybody waits.
query_wait_timeout = "60s"
[users.app]
[databases.app]
host = "127.0.0.1:{pg}"
pool_size = 40
"#;

fn swarm(load: Duration) {
    let Some(cluster) = harness::shared(15) else { return };
    howdah::net::descriptors::raise_limit(u64::MAX);
    let howdah = Howdah::start(&CONFIG.replace("{pg}", &cluster.port().to_string()));
    let over = Arc::new(AtomicBool::new(false));
    let sampler = {
        let over = over.clone();
        std::thread::spawn(move || {
            let (mut most, mut samples) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                most = most.max(harness::connections(cluster, "app"));
                samples += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            (most, samples)
        })
    };
    let options = nonce::Options {
        host: "127.0.0.1".to_owned(),
        port: howdah.port(),
        user: "app".to_owned(),
        database: "app".to_owned(),
        clients: CLIENTS,
        load,
        abort_one_in: 10,
        pause: Duration::from_millis(1000),
        patience: Duration::from_secs(60),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(nonce::swarm(options));
    over.store(true, Ordering::Relaxed);
    let (most, samples) = sampler.join().expect("the sampler ends");
    println!("{report}server connections: at most {most} in {samples} samples");
    assert!(report.ok(), "{report}");
    assert!(most <= POOL && most > 0 && samples > 10, "{most} connections, {samples} samples");
    harness::eventually("no transaction is left open", || {
        harness::count(cluster, "usename = 'app' AND state <> 'idle'") == 0
    });
    assert!(harness::connections(cluster, "app") <= POOL);
}

#[test]
fn ten_thousand_clients_share_forty_connections() {
    swarm(Duration::from_secs(8));
}

#[test]
#[ignore = "long: make soak"]
fn soak_ten_thousand_clients() {
    swarm(Duration::from_secs(120));
}
