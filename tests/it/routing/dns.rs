//! The name of a host leads elsewhere, or nowhere. Howdah runs with an /etc/hosts of
//! its own, which only root can give it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::harness::proxy::Howdah;
use crate::harness::{self, app_options, cluster, eventually, left_out, metric};

/// Passes what comes to `at` on to `to`, for as long as the test runs.
fn forward(at: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            for (mut from, mut into) in [
                (client.try_clone().expect("a socket"), server.try_clone().expect("a socket")),
                (server, client),
            ] {
                std::thread::spawn(move || {
                    drop(io::copy(&mut from, &mut into));
                    drop(into.shutdown(std::net::Shutdown::Write));
                });
            }
        }
    });
    Ok(())
}

fn write(hosts: &Path, line: &str) {
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{line}\n")).expect("written");
}

#[test]
fn a_name_is_followed_and_old_connections_drain() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success()) {
        left_out("a host name that moves", "this account may not have an /etc/hosts of its own (unshare -m)");
        return;
    }
    let (Some(a), Some(b)) = (cluster(15, app_options()), cluster(15, app_options())) else { return };
    let port = harness::free_port().expect("a port");
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), port);
    forward(at("127.0.0.1"), a.tcp()).expect("a listener");
    forward(at("127.0.0.2"), b.tcp()).expect("a listener");
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    write(&hosts, "127.0.0.1 db.test");
    let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let config = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         dns_check_interval = \"100ms\"\n[users.app]\n[databases.app]\nhost = \"db.test:{port}\"\npool_size = 3\n",
    );
    let howdah = Howdah::spawn_by(&["unshare", "-m", "sh", "-c", &mount, "sh"], &config, &[]);
    howdah.await_listening();
    let (mut c, mut long) = (harness::app(&howdah), harness::app(&howdah));
    let ask = "SELECT inet_server_port()";
    let (old, new) = (a.port().to_string(), b.port().to_string());
    long.query("BEGIN").expect("a block");
    assert_eq!(long.value(ask).expect("a port"), old);
    assert_eq!(c.value(ask).expect("a port"), old);

    write(&hosts, "127.0.0.2 db.test");
    eventually("the name is followed", || c.value(ask).expect("no error") == new);
    assert_eq!(long.value(ask).expect("a transaction stays where it is"), old);
    long.query("COMMIT").expect("its end");
    assert_eq!(long.value(ask).expect("a port"), new);
    assert!((metric(&howdah, "howdah_dns_changes_total", &[("change", "moved")]) - 1.0).abs() < 0.1);

    // A name without an address: what is open stays.
    write(&hosts, "");
    eventually("a look-up that fails", || metric(&howdah, "howdah_dns_errors_total", &[]) > 0.0);
    assert_eq!(c.value(ask).expect("served"), new);
    write(&hosts, "127.0.0.2 db.test");
}
