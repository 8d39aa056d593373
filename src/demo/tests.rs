use std::net::TcpStream;
use std::thread::JoinHandle;

use super::postgres::Stop;
use super::*;

/// A proxy that only forwards bytes: enough to try the demo without Howdah.
struct Forwarder {
    address: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: JoinHandle<()>,
}

impl Forwarder {
    fn start(config: &str) -> Result<Self, BoxError> {
        let port_after = |key: &str| -> u16 {
            let rest = &config[config.find(key).unwrap()..];
            let rest = &rest[rest.find("127.0.0.1:").unwrap() + 10..];
            rest[..rest.find('"').unwrap()].parse().unwrap()
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port_after("\nlisten =")));
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port_after("\nhost =")));
        let listener = TcpListener::bind(address)?;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let (client, server) = (client.unwrap(), TcpStream::connect(upstream).unwrap());
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        drop(std::io::copy(&mut from, &mut to));
                        drop(to.shutdown(std::net::Shutdown::Write));
                    });
                }
            }
        });
        Ok(Self { address, stop, thread })
    }
}

impl Running for Forwarder {
    fn stop(self) -> Result<(), BoxError> {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        TcpStream::connect(self.address)?;
        self.thread.join().map_err(|_| "the forwarder panicked".into())
    }
}

/// The PostgreSQL tests say that they are left out where there is no server; `make test` installs one.
fn installed() -> bool {
    let found = install::Install::find();
    if let Err(e) = &found {
        eprintln!("left out: {e}");
    }
    found.is_ok()
}

#[test]
fn every_address_of_the_shipped_configuration_is_replaced() {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let text = config_text(at(1001), at(1002), at(1003), at(1004));
    for port in 1001..=1004 {
        assert_eq!(text.matches(&format!("127.0.0.1:{port}")).count(), 1, "{text}");
    }
    assert!(!text.contains("5432\"") && !text.contains("0.0.0.0"), "{text}");
    assert!(CONFIG.contains(&format!("pool_size = {POOL_SIZE}\n")));
}

#[test]
fn the_demo_runs_its_workload_and_checks_it() {
    if !installed() {
        return;
    }
    let mut out = Vec::new();
    let result = run(Some(Duration::from_millis(1500)), &mut out, Forwarder::start);
    let out = String::from_utf8(out).unwrap();
    println!("{out}");
    assert!(result.is_ok(), "{result:?}\n{out}");
    assert!(out.contains("no error; both servers hold"), "{out}");
    assert!(out.contains("http://127.0.0.1:") && out.contains("psql -h 127.0.0.1"), "{out}");
}

#[test]
fn a_cluster_stops_restarts_suspends_and_leaves_nothing() {
    if !installed() {
        return;
    }
    let options =
        ClusterOptions::default().setting("max_connections", "17").sql("CREATE TABLE t AS SELECT 7 AS n");
    let mut cluster = Cluster::start_new(options).unwrap();
    let directory = cluster.socket_dir().to_owned();
    assert_eq!(cluster.value("SHOW max_connections").unwrap(), "17");

    let mut client = wire::Client::connect(&wire::Target::Tcp(cluster.tcp()), SUPERUSER, SUPERUSER).unwrap();
    let error = client.query("SELECT 1; SELECT 1/0").unwrap_err();
    assert_eq!(error.code(), Some("22012"));
    assert_eq!(client.value("SELECT n FROM t").unwrap(), "7", "the session goes on after an error");

    cluster.suspend().unwrap();
    client.set_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.query("SELECT 1").is_err(), "a suspended server says nothing");
    cluster.resume().unwrap();

    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        cluster.restart(how).unwrap();
        assert_eq!(cluster.value("SELECT n FROM t").unwrap(), "7", "after {how:?}");
    }
    cluster.suspend().unwrap();
    let pid = cluster.pid().unwrap();
    drop(cluster);
    assert!(!directory.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn nothing_of_a_killed_cluster_goes_on() {
    if !installed() {
        return;
    }
    let mut cluster = Cluster::start_new(ClusterOptions::default()).unwrap();
    let home = std::path::PathBuf::from(cluster.value("SHOW data_directory").unwrap());
    let mut client = wire::Client::connect(&wire::Target::Tcp(cluster.tcp()), SUPERUSER, SUPERUSER).unwrap();
    client.set_timeout(Some(Duration::from_millis(200))).unwrap();
    // A process that is no child of the postmaster.
    assert!(client.query("COPY (SELECT 1) TO PROGRAM 'exec sleep 60'").is_err(), "it goes on");
    cluster.stop(Stop::Kill).unwrap();
    assert!(process::working_in(&home).is_empty());
    cluster.start().unwrap();
}

#[test]
fn a_cluster_that_cannot_start_says_why() {
    if !installed() {
        return;
    }
    let error = Cluster::start_new(ClusterOptions::default().setting("max_connections", "many")).unwrap_err();
    assert!(error.to_string().contains("max_connections"), "{error}");
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "runs only inside nothing_stays_when_the_process_is_killed"]
fn hold_a_cluster() {
    let cluster = Cluster::start_new(ClusterOptions::default()).unwrap();
    println!("\nholding {} {}", cluster.socket_dir().display(), cluster.pid().unwrap());
    std::io::stdout().flush().unwrap();
    drop(std::io::stdin().read_line(&mut String::new()));
}

#[test]
fn nothing_stays_when_the_process_is_killed() {
    use std::io::BufRead;
    use std::process::{Command, Stdio};

    if !installed() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "demo::tests::hold_a_cluster", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).find(|line| line.starts_with("holding ")).unwrap();
    let [_, directory, pid] = held.split(' ').collect::<Vec<_>>()[..] else { panic!("{held}") };
    let (directory, process) = (std::path::Path::new(directory), format!("/proc/{pid}"));
    assert!(directory.exists() && std::path::Path::new(&process).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    while directory.exists() || std::path::Path::new(&process).exists() {
        assert!(Instant::now() < deadline, "{held} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
