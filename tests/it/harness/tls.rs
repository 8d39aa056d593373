//! A CA and its certificates, PostgreSQL with TLS, and psql.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::certs::Lab;
use crate::harness::tools::client_program;
use crate::harness::{Cluster, Options, cluster, eventually};

/// Runs psql: what it printed, or what it complained of.
pub fn psql(dsn: &str, commands: &[&str]) -> Result<String, String> {
    psql_as(None, dsn, commands)
}

/// The same by another account of the system, by its numbers of user and group; only root can do that.
pub fn psql_as(account: Option<(u32, u32)>, dsn: &str, commands: &[&str]) -> Result<String, String> {
    static PSQL: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(PSQL.get_or_init(|| client_program("psql").expect("checked before")));
    if let Some((user, group)) = account {
        command.uid(user).gid(group).current_dir("/");
    }
    command.args(["-X", "-A", "-t", "-d", dsn]);
    for c in commands {
        command.args(["-c", c]);
    }
    // No certificates of whoever runs the tests.
    command.env("HOME", "/nonexistent").env("PGCONNECT_TIMEOUT", "20");
    let output = command.output().expect("psql runs");
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Whether one gets in, and if so, with TLS or without.
pub fn outcome(dsn: &str) -> Result<bool, ()> {
    let said = psql(dsn, &["\\conninfo"]).map_err(|e| println!("{dsn}: {e}"))?;
    Ok(said.contains("SSL connection"))
}

/// A CA, a server's certificate for localhost and 127.0.0.1, and a client's for `client`.
pub fn lab() -> Option<Lab> {
    client_program("psql")?;
    let lab = Lab::new()?;
    lab.ca("ca");
    lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    lab.leaf("client", "ca", "client", "extendedKeyUsage=clientAuth\n");
    Some(lab)
}

/// PostgreSQL with this certificate and CA, and these lines of pg_hba.conf.
pub fn tls_cluster(major: u32, lab: &Lab, hba: &[&str], sql: &[&str]) -> Option<Cluster> {
    let mut options = Options::default().sql("CREATE ROLE app LOGIN").sql("CREATE DATABASE app OWNER app");
    for line in hba {
        options = options.hba(line);
    }
    for line in sql {
        options = options.sql(line);
    }
    let cluster = cluster(major, options)?;
    lab.give("server.crt", &cluster.data_dir(), "server.crt");
    lab.give("server.key", &cluster.data_dir(), "server.key");
    lab.give("ca.crt", &cluster.data_dir(), "ca.crt");
    for set in
        ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl_ca_file = 'ca.crt'", "ssl = on"]
    {
        cluster.value(&format!("ALTER SYSTEM SET {set}")).ok();
    }
    cluster.reload().expect("reloaded");
    eventually("PostgreSQL has TLS", || {
        psql(
            &format!("host=127.0.0.1 port={} user=app dbname=app sslmode=require", cluster.port()),
            &["select 1"],
        )
        .is_ok()
    });
    Some(cluster)
}

/// Howdah's settings for that certificate.
pub fn client_tls(lab: &Lab, mode: &str) -> String {
    match mode {
        "disable" => "client_tls_mode = \"disable\"\n".to_owned(),
        _ => format!(
            "client_tls_mode = \"{mode}\"\nclient_tls_cert = \"{}\"\nclient_tls_key = \"{}\"\nclient_tls_ca = \"{}\"\n",
            lab.show("server.crt"),
            lab.show("server.key"),
            lab.show("ca.crt")
        ),
    }
}
