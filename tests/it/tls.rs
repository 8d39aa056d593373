//! TLS on both sides, each outcome compared with that of libpq and PostgreSQL without Howdah between them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::harness::certs::{Lab, Validity};
use crate::harness::proxy::Howdah;
use crate::harness::tls::{client_tls, lab, outcome, psql, tls_cluster};
use crate::harness::tools::client_program;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, msg::Frame};
use crate::harness::{self, eventually, metric, shared};

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

fn config(top: &str, server: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n{top}\n\
         [users.app]\n[users.client]\n[databases.app]\n{server}pool_size = 5\n"
    )
}

fn before(lab: &Lab, mode: &str) -> Option<Howdah> {
    let server = format!("host = \"{}\"\nuser = \"app\"\n", shared(15)?.tcp());
    Some(Howdah::start(&config(&client_tls(lab, mode), &server)))
}

/// Each mode of Howdah against each of libpq, with a certificate and without, as PostgreSQL with the pg_hba.conf
/// that says the same.
#[test]
fn modes_towards_clients() {
    let Some(lab) = lab() else { return };
    let lines = [
        "host all pref 127.0.0.1/32 trust",
        "hostssl all req 127.0.0.1/32 trust",
        "hostssl all ver 127.0.0.1/32 trust clientcert=verify-ca",
        "host all app 127.0.0.1/32 trust",
    ];
    let roles = ["CREATE ROLE pref LOGIN", "CREATE ROLE req LOGIN", "CREATE ROLE ver LOGIN"];
    let (Some(with), Some(without)) = (tls_cluster(15, &lab, &lines, &roles), shared(15)) else { return };
    let shown = format!("sslcert={} sslkey={}", lab.show("client.crt"), lab.show("client.key"));
    let none = "sslcert=/nonexistent/c".to_owned();
    let ways = MODES.map(|m| (m, &none)).into_iter().chain([("require", &shown), ("allow", &shown)]);
    let dsn = |port, user, (sslmode, certificate): (&str, &String)| {
        let root = lab.show("ca.crt");
        format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user={user} dbname=app sslmode={sslmode} \
             sslrootcert={root} {certificate}"
        )
    };
    let mut known = std::collections::HashMap::new();
    for mode in MODES {
        let howdah = before(&lab, mode).expect("there is a server");
        let (port, role) = match mode {
            "disable" => (without.port(), "app"),
            "allow" | "prefer" => (with.port(), "pref"),
            "require" => (with.port(), "req"),
            _ => (with.port(), "ver"),
        };
        for way in ways.clone() {
            let direct = *known.entry((role, way)).or_insert_with(|| outcome(&dsn(port, role, way)));
            let through = outcome(&dsn(howdah.port(), "app", way));
            assert_eq!(through, direct, "client_tls_mode {mode}, sslmode {way:?}");
        }
        if mode == "require" {
            let e = psql(&howdah.dsn("app", "app?sslmode=disable"), &["select 1"]).expect_err("no TLS");
            assert!(e.contains("SSL required"), "{e}");
        }
    }
}

/// Each mode of Howdah as a client of a server with TLS, without, and of one that has it for some only.
#[test]
fn modes_towards_servers() {
    let Some(lab) = lab() else { return };
    for major in harness::VERSIONS {
        let lines = [
            "host all app 127.0.0.1/32 trust",
            "hostssl all only_tls 127.0.0.1/32 trust",
            "hostnossl all no_tls 127.0.0.1/32 trust",
        ];
        let roles = ["CREATE ROLE only_tls LOGIN", "CREATE ROLE no_tls LOGIN"];
        let (Some(with), Some(without)) = (tls_cluster(major, &lab, &lines, &roles), shared(major)) else {
            return;
        };
        for mode in MODES {
            let entry = |name: &str, port: u16, user: &str| {
                format!(
                    "[databases.{name}]\ndbname = \"app\"\nhost = \"localhost:{port}\"\nuser = \"{user}\"\npool_size = 2\n"
                )
            };
            let top = format!(
                "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
                 server_tls_mode = \"{mode}\"\n{}[users.app]\n",
                if mode.starts_with("verify") {
                    format!("server_tls_ca = \"{}\"\n", lab.show("ca.crt"))
                } else {
                    String::new()
                }
            );
            let cases = [
                ("off", without.port(), "app"),
                ("both", with.port(), "app"),
                ("only", with.port(), "only_tls"),
                ("not", with.port(), "no_tls"),
            ];
            let entries: String = cases.iter().map(|(n, p, u)| entry(n, *p, u)).collect();
            let howdah = Howdah::start(&format!("{top}{entries}"));
            for (name, port, user) in cases {
                let root =
                    if mode.starts_with("verify") { lab.show("ca.crt") } else { "/nonexistent".to_owned() };
                let dsn = format!(
                    "host=localhost port={port} user={user} dbname=app sslmode={mode} sslrootcert={root}"
                );
                let ask = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
                let direct = psql(&dsn, &[ask]).map_err(|e| println!("{e}"));
                let through = howdah.connect("app", name).and_then(|mut c| c.value(ask));
                let through = through.map_err(|e| println!("{e}"));
                assert_eq!(through, direct, "{major}: server_tls_mode {mode}, server {name}");
            }
            if mode == "prefer" {
                let falls = metric(&howdah, "howdah_server_tls_fallbacks_total", &[("to", "plain")]);
                assert!(falls >= 2.0, "{falls}");
            }
        }
    }
}

/// (name, the CA file, the host that is asked for)
type Case = (&'static str, &'static str, &'static str);

/// Servers' certificates, each judged by libpq and by Howdah.
#[test]
fn certificates_of_servers_are_judged_as_libpq_does() {
    let Some(lab) = lab() else { return };
    let Some(server) = tls_cluster(15, &lab, &["host all app 127.0.0.1/32 trust"], &[]) else { return };
    lab.ca("other");
    lab.leaf("v1", "ca", "localhost", "");
    lab.leaf("cn_only", "ca", "localhost", "basicConstraints=CA:FALSE\n");
    lab.leaf("dns_san", "ca", "elsewhere", "subjectAltName=DNS:localhost\n");
    lab.leaf("ip_san", "ca", "localhost", "subjectAltName=IP:127.0.0.1\n");
    lab.leaf("other_san", "ca", "localhost", "subjectAltName=DNS:elsewhere\n");
    lab.leaf("ip_in_dns", "ca", "x", "subjectAltName=DNS:127.0.0.1\n");
    lab.leaf("ip_in_cn", "ca", "127.0.0.1", "");
    lab.leaf("for_clients", "ca", "localhost", "extendedKeyUsage=clientAuth\n");
    lab.leaf("for_servers", "ca", "localhost", "extendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n");
    lab.leaf("strange", "ca", "localhost", "1.2.3.4=critical,ASN1:NULL\n");
    // The CA's name as two tools write it.
    lab.renamed("upper", "ca", "utf8only", "CA");
    lab.leaf("by_upper", "upper", "localhost", "");
    lab.renamed("other_name", "ca", "utf8only", "cb");
    lab.leaf("by_other_name", "other_name", "localhost", "");
    // The name of the CA, and another key.
    lab.renamed("impostor", "other", "utf8only", "ca");
    lab.leaf("by_impostor", "impostor", "localhost", "");
    // As old tools write a name that has more than letters in it.
    lab.t61("t61", "ca", "localhost");
    lab.leaf("of_other", "other", "localhost", "");
    lab.key("past", "ec");
    lab.sign("past", "ca", "localhost", "subjectAltName=DNS:localhost", Validity::Past, "sha256");
    lab.key("localhost", "ec");
    lab.self_signed("localhost", &[]);
    lab.key("rsa", "rsa:2048");
    lab.sign("rsa", "ca", "localhost", "", Validity::Now, "sha256");
    lab.leaf("inter", "ca", "inter", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n");
    lab.leaf("below", "inter", "localhost", "");
    lab.join("chain.crt", &["below.crt", "inter.crt"]);
    std::fs::copy(lab.path("below.key"), lab.path("chain.key")).expect("copied");
    lab.join("both.crt", &["ca.crt", "inter.crt"]);
    lab.leaf("flat", "ca", "flat", "basicConstraints=critical,CA:TRUE,pathlen:0\n");
    lab.leaf("deep", "flat", "deep", "basicConstraints=critical,CA:TRUE\n");
    lab.leaf("deepest", "deep", "localhost", "");
    lab.join("deepest.crt", &["deepest.crt", "deep.crt", "flat.crt"]);
    // Signed by a leaf, which is no CA.
    lab.leaf("by_leaf", "cn_only", "localhost", "");
    lab.join("by_leaf.crt", &["by_leaf.crt", "cn_only.crt"]);
    let cases: &[Case] = &[
        ("server", "ca", "localhost"),
        ("server", "ca", "127.0.0.1"),
        ("server", "other", "localhost"),
        ("v1", "ca", "localhost"),
        ("v1", "ca", "127.0.0.1"),
        ("cn_only", "ca", "localhost"),
        ("dns_san", "ca", "localhost"),
        ("dns_san", "ca", "127.0.0.1"),
        ("ip_san", "ca", "localhost"),
        ("ip_san", "ca", "127.0.0.1"),
        ("other_san", "ca", "localhost"),
        ("ip_in_dns", "ca", "127.0.0.1"),
        ("ip_in_cn", "ca", "127.0.0.1"),
        ("for_clients", "ca", "localhost"),
        ("for_servers", "ca", "localhost"),
        ("strange", "ca", "localhost"),
        ("t61", "ca", "localhost"),
        ("by_upper", "ca", "localhost"),
        ("by_other_name", "ca", "localhost"),
        ("by_impostor", "ca", "localhost"),
        ("of_other", "ca", "localhost"),
        ("past", "ca", "localhost"),
        ("localhost", "localhost", "localhost"),
        ("localhost", "ca", "localhost"),
        ("rsa", "ca", "localhost"),
        ("chain", "ca", "localhost"),
        ("below", "ca", "localhost"),
        ("below", "both", "localhost"),
        ("below", "inter", "localhost"),
        ("deepest", "ca", "localhost"),
        ("by_leaf", "ca", "localhost"),
    ];
    let mut verdicts = Vec::new();
    let mut in_force = "";
    for (name, ca, host) in cases {
        if in_force != *name {
            in_force = name;
            lab.give(&format!("{name}.crt"), &server.data_dir(), "server.crt");
            lab.give(&format!("{name}.key"), &server.data_dir(), "server.key");
            server.reload().expect("reloaded");
            let leaf = lab.openssl(&["x509", "-in", &format!("{name}.crt"), "-noout", "-fingerprint"]);
            eventually("the certificate is in force", || shown_at(&lab, server.port()) == leaf);
        }
        let root = lab.show(&format!("{ca}.crt"));
        let dsn = format!(
            "host={host} port={} user=app dbname=app sslmode=verify-full sslrootcert={root}",
            server.port()
        );
        let direct = psql(&dsn, &["select 1"]);
        let howdah = Howdah::start(&config(
            &format!("server_tls_mode = \"verify-full\"\nserver_tls_ca = \"{root}\""),
            &format!("host = \"{host}:{}\"\n", server.port()),
        ));
        let through = psql(&howdah.dsn("app", "app"), &["select 1"]);
        assert_eq!(
            through.is_ok(),
            direct.is_ok(),
            "{name}, {ca}, {host}: libpq {direct:?}, Howdah {through:?}\n{}",
            howdah.log()
        );
        if let Err(e) = &through {
            // What exactly was wrong is for the log.
            assert!(e.contains("no secure connection") && !e.contains("ertificate"), "{e}");
            eventually("the log says it", || howdah.log().contains("certificate"));
        }
        verdicts.push(direct.is_ok());
    }
    let accepted = verdicts.iter().filter(|v| **v).count();
    assert!(accepted >= 10 && verdicts.len() - accepted >= 10, "{accepted} of {}", verdicts.len());
}

/// An extension that cannot be read, in a leaf or a CA above it. PostgreSQL would not show such a certificate: Howdah
/// does, to libpq and to a Howdah that verifies.
#[test]
fn unreadable_extensions_are_judged_as_libpq_does() {
    let Some(lab) = lab() else { return };
    let Some(server) = shared(15) else { return };
    let name = "subjectAltName=DNS:localhost\n";
    for (case, of_leaf) in [
        ("fine", name.to_owned()),
        ("purpose", format!("{name}extendedKeyUsage=DER:0500\n")),
        ("usage", format!("{name}keyUsage=DER:0500\n")),
        ("names", "subjectAltName=DER:0500\n".to_owned()),
    ] {
        lab.leaf(case, "ca", "localhost", &of_leaf);
    }
    for (case, of_ca) in [
        ("by_ca", "basicConstraints=CA:TRUE\n"),
        ("by_half", "basicConstraints=DER:0500\nkeyUsage=keyCertSign\n"),
        ("by_limited", "basicConstraints=CA:TRUE\nnameConstraints=DER:0500\n"),
    ] {
        let ca = format!("{case}_ca");
        lab.leaf(&ca, "ca", &ca, of_ca);
        lab.leaf(case, &ca, "localhost", name);
        lab.join(&format!("{case}.crt"), &[&format!("{case}.crt"), &format!("{ca}.crt")]);
    }
    let root = lab.show("ca.crt");
    let verifying = format!("server_tls_mode = \"verify-full\"\nserver_tls_ca = \"{root}\"");
    let mut accepted = Vec::new();
    for case in ["fine", "purpose", "usage", "names", "by_ca", "by_half", "by_limited"] {
        let (crt, key) = (lab.show(&format!("{case}.crt")), lab.show(&format!("{case}.key")));
        let shows =
            format!("client_tls_mode = \"require\"\nclient_tls_cert = \"{crt}\"\nclient_tls_key = \"{key}\"");
        let shown = Howdah::start(&config(&shows, &format!("host = \"{}\"\n", server.tcp())));
        let dsn = format!(
            "host=localhost port={} user=app dbname=app sslmode=verify-full sslrootcert={root}",
            shown.port()
        );
        let direct = psql(&dsn, &["select 1"]);
        let howdah = Howdah::start(&config(&verifying, &format!("host = \"localhost:{}\"\n", shown.port())));
        let through = psql(&howdah.dsn("app", "app"), &["select 1"]);
        assert_eq!(
            through.is_ok(),
            direct.is_ok(),
            "{case}: libpq {direct:?}, Howdah {through:?}\n{}",
            howdah.log()
        );
        if direct.is_ok() {
            accepted.push(case);
        }
    }
    assert_eq!(accepted, ["fine", "by_ca"]);
}

/// What the table of docs/src/reference/authentication.md says is refused, whatever OpenSSL does with it.
#[test]
fn certificates_are_refused_as_the_table_says() {
    let Some(lab) = lab() else { return };
    let name = "subjectAltName=DNS:localhost\n";
    lab.key("sha1", "ec");
    lab.sign("sha1", "ca", "localhost", name, Validity::Now, "sha1");
    lab.key("short", "rsa:1024");
    lab.sign("short", "ca", "localhost", name, Validity::Now, "sha256");
    lab.openssl(&["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", "p521.key"]);
    lab.sign("p521", "ca", "localhost", name, Validity::Now, "sha256");
    lab.leaf(
        "bound",
        "ca",
        "bound",
        "basicConstraints=critical,CA:TRUE\nnameConstraints=permitted;DNS:localhost\n",
    );
    lab.leaf("under", "bound", "localhost", name);
    lab.join("chained.crt", &["under.crt", "bound.crt"]);
    for (certificate, key, fine) in [
        ("server", "server", true),
        ("sha1", "sha1", false),
        ("short", "short", false),
        ("p521", "p521", false),
        ("chained", "under", false),
    ] {
        let port = harness::free_port().expect("a port");
        let mut server = Command::new("openssl");
        server.args([
            "s_server",
            "-quiet",
            "-alpn",
            "postgresql",
            "-cipher",
            "DEFAULT@SECLEVEL=0",
            "-accept",
        ]);
        server.arg(format!("127.0.0.1:{port}")).args(["-cert", &lab.show(&format!("{certificate}.crt"))]);
        // A chain's first is the server's own.
        server.args(["-cert_chain", &lab.show(&format!("{certificate}.crt"))]);
        server.args(["-key", &lab.show(&format!("{key}.key"))]);
        server.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let _server = harness::Running::listening(&mut server, ([127, 0, 0, 1], port).into());
        let howdah = Howdah::start(&config(
            &format!(
                "server_tls_mode = \"verify-full\"\nserver_tls_ca = \"{}\"\nserver_tls_negotiation = \"direct\"\n\
                 server_connect_timeout = \"1s\"",
                lab.show("ca.crt")
            ),
            &format!("host = \"localhost:{port}\"\n"),
        ));
        // It never speaks PostgreSQL's protocol: what counts is how far it gets.
        assert!(psql(&howdah.dsn("app", "app"), &["select 1"]).is_err());
        let failures = metric(&howdah, "howdah_tls_handshake_failures_total", &[("side", "server")]);
        assert_eq!(failures == 0.0, fine, "{certificate}: {}", howdah.log());
    }
}

/// The protocols and cipher suites that are chosen are those that are spoken.
#[test]
fn protocols_and_ciphers_are_those_that_are_chosen() {
    let Some(lab) = lab() else { return };
    let Some(server) = shared(15) else { return };
    let host = format!("host = \"{}\"\nuser = \"app\"\n", server.tcp());
    let speaks = |howdah: &Howdah, more: &str| {
        psql(&howdah.dsn("app", &format!("app?sslmode=require&{more}")), &["\\conninfo"])
    };
    let top = |more: &str| format!("{}{more}", client_tls(&lab, "require"));
    let old = Howdah::start(&config(&top("client_tls_protocols = \"tlsv1.2\"\n"), &host));
    assert!(speaks(&old, "ssl_min_protocol_version=TLSv1.3").is_err());
    assert!(speaks(&old, "").expect("it comes in").contains("TLSv1.2"));
    let new = Howdah::start(&config(&top("client_tls_protocols = \"tlsv1.3\"\n"), &host));
    assert!(speaks(&new, "ssl_max_protocol_version=TLSv1.2").is_err());
    assert!(speaks(&new, "").expect("it comes in").contains("TLSv1.3"));
    let one = "ECDHE-ECDSA-AES256-GCM-SHA384";
    let one = Howdah::start(&config(
        &top(&format!("client_tls_ciphers = \"{one}\"\nclient_tls_protocols = \"tlsv1.2\"\n")),
        &host,
    ));
    let said = speaks(&one, "ssl_max_protocol_version=TLSv1.2").expect("it comes in");
    assert!(said.contains("ECDHE-ECDSA-AES256-GCM-SHA384"), "{said}");
}

/// The fingerprint of what a server on this port shows.
fn shown_at(lab: &Lab, port: u16) -> String {
    let address = format!("127.0.0.1:{port}");
    let output = Command::new("openssl")
        .args(["s_client", "-starttls", "postgres", "-connect", &address])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl runs");
    std::fs::write(lab.path("shown.crt"), &output.stdout).expect("written");
    if !output.stdout.windows(11).any(|w| w == b"BEGIN CERTI") {
        return String::new();
    }
    lab.openssl(&["x509", "-in", "shown.crt", "-noout", "-fingerprint"])
}

/// Clients' certificates, each judged by PostgreSQL and by Howdah.
#[test]
fn certificates_of_clients_are_judged_as_postgresql_does() {
    let Some(lab) = lab() else { return };
    lab.ca("other");
    lab.leaf("v1", "ca", "client", "");
    lab.leaf("for_servers", "ca", "client", "extendedKeyUsage=serverAuth\n");
    lab.leaf("of_other", "other", "client", "");
    lab.key("past", "ec");
    lab.sign("past", "ca", "client", "basicConstraints=CA:FALSE", Validity::Past, "sha256");
    lab.key("self", "ec");
    lab.self_signed("self", &[]);
    lab.key("unknown_self", "ec");
    lab.self_signed("unknown_self", &[]);
    std::fs::copy(lab.path("ca.crt"), lab.path("only_ca.crt")).expect("copied");
    lab.join("ca.crt", &["only_ca.crt", "self.crt"]);
    let hba = ["host all app 127.0.0.1/32 trust", "hostssl all ver 127.0.0.1/32 trust clientcert=verify-ca"];
    let Some(server) = tls_cluster(15, &lab, &hba, &["CREATE ROLE ver LOGIN"]) else { return };
    let backend = format!("host = \"{}\"\nuser = \"app\"\n", server.tcp());
    let mandatory = Howdah::start(&config(&client_tls(&lab, "verify-full"), &backend));
    let optional = Howdah::start(&config(&client_tls(&lab, "require"), &backend));
    let mut accepted = 0;
    for name in ["client", "v1", "for_servers", "of_other", "past", "self", "unknown_self", "none"] {
        let dsn = |port, user| {
            format!(
                "host=127.0.0.1 port={port} user={user} dbname=app sslmode=require sslcert={} sslkey={}",
                lab.show(&format!("{name}.crt")),
                lab.show(&format!("{name}.key"))
            )
        };
        let direct = outcome(&dsn(server.port(), "ver"));
        assert_eq!(outcome(&dsn(mandatory.port(), "app")), direct, "{name}");
        // Where none is needed, a bad one is still refused.
        let direct_optional = outcome(&dsn(server.port(), "app"));
        assert_eq!(outcome(&dsn(optional.port(), "app")), direct_optional, "{name}");
        accepted += u32::from(direct.is_ok());
    }
    assert_eq!(accepted, 3);
    let failures = metric(&mandatory, "howdah_tls_handshake_failures_total", &[("side", "client")]);
    assert!(failures >= 5.0, "{failures}");
}

/// Howdah shows a certificate to a server that logs in by it.
#[test]
fn mutual_tls_towards_servers() {
    let Some(lab) = lab() else { return };
    for major in harness::VERSIONS {
        let hba = ["host all app 127.0.0.1/32 trust", "hostssl all client 127.0.0.1/32 cert"];
        let Some(server) = tls_cluster(major, &lab, &hba, &["CREATE ROLE client LOGIN"]) else { return };
        let top = format!(
            "server_tls_mode = \"verify-full\"\nserver_tls_ca = \"{}\"\nserver_tls_cert = \"{}\"\nserver_tls_key = \"{}\"",
            lab.show("ca.crt"),
            lab.show("client.crt"),
            lab.show("client.key")
        );
        let host = format!("host = \"localhost:{}\"\nuser = \"client\"\n", server.port());
        let howdah = Howdah::start(&config(&top, &host));
        let user = psql(&howdah.dsn("app", "app"), &["select current_user"]);
        assert_eq!(user.as_deref(), Ok("client"), "{major}");
    }
}

/// Long results, long parameters and many short queries, with TLS on both sides.
#[test]
fn everything_passes_through_tls() {
    let Some(lab) = lab() else { return };
    let Some(server) = tls_cluster(15, &lab, &["hostssl all app 127.0.0.1/32 trust"], &[]) else { return };
    let top = format!("{}server_tls_mode = \"require\"", client_tls(&lab, "require"));
    let howdah = Howdah::start(&config(&top, &format!("host = \"localhost:{}\"\n", server.port())));
    let dsn = howdah.dsn("app", "app?sslmode=require");
    let rows =
        psql(&dsn, &["select i, repeat(md5(i::text), 30) from generate_series(1, 20000) i"]).expect("rows");
    assert_eq!(rows.lines().count(), 20_000);
    for (n, line) in rows.lines().enumerate() {
        assert!(line.starts_with(&format!("{}|", n + 1)) && line.len() > 960, "{line}");
    }
    let input = lab.path("rows.txt");
    std::fs::write(&input, &rows).expect("written");
    let copy = format!("\\copy t from '{}' with (delimiter '|')", input.display());
    let sum =
        psql(&dsn, &["create table t (i int, x text)", &copy, "select count(*), sum(length(x)) from t"]);
    let sum = sum.expect("copied");
    assert!(sum.ends_with("20000|19200000"), "{sum}");
    let many: Vec<String> = (0..200).map(|i| format!("select {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let answers = psql(&dsn, &many).expect("answers");
    let expected: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
    assert!(metric(&howdah, "howdah_tls_handshakes_total", &[("side", "server")]) >= 1.0);
    let expiry =
        metric(&howdah, "howdah_tls_certificate_not_after_seconds", &[("setting", "client_tls_cert")]);
    assert!(expiry > 1.7e9 && expiry.is_finite(), "{expiry}");
}

/// A handshake that is computed where messages are relayed takes its time from every client that is there already.
#[test]
fn handshakes_with_clients_and_servers_are_computed_beside_the_relay() {
    let Some(lab) = lab() else { return };
    let Some(server) = tls_cluster(15, &lab, &["hostssl all app 127.0.0.1/32 trust"], &[]) else { return };
    let top = format!("{}server_tls_mode = \"require\"", client_tls(&lab, "require"));
    let howdah = Howdah::start(&config(&top, &format!("host = \"localhost:{}\"\n", server.port())));
    for _ in 0..3 {
        psql(&howdah.dsn("app", "app?sslmode=require"), &["select 1"]).expect("a row");
    }
    for side in ["client", "server"] {
        let done = metric(&howdah, "howdah_tls_handshakes_total", &[("side", side)]);
        let steps = metric(&howdah, "howdah_tls_handshake_steps_total", &[("side", side)]);
        assert!(done >= 1.0 && steps >= done, "{side}: {steps} steps of {done} handshakes");
        assert_eq!(metric(&howdah, "howdah_tls_handshakes_waiting", &[("side", side)]), 0.0, "{side}");
    }
}

/// New connections see the new certificate, old ones go on; one that cannot be used changes nothing.
#[test]
fn certificates_are_read_again_on_reload() {
    let Some(lab) = lab() else { return };
    let Some(howdah) = before(&lab, "require") else { return };
    let program = client_program("psql").expect("checked");
    let mut old = Command::new(program)
        .args(["-X", "-A", "-t", "-d", &howdah.dsn("app", "app?sslmode=require")])
        .env("HOME", "/nonexistent")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut ask = old.stdin.take().expect("piped");
    let mut answers = old.stdout.take().expect("piped");
    let mut exchange = |text: &str| {
        writeln!(ask, "select '{text}';").expect("written");
        ask.flush().expect("flushed");
        let mut said = vec![0; text.len() + 1];
        answers.read_exact(&mut said).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&said).trim(), text);
    };
    exchange("before");
    let first = shown_at(&lab, howdah.port());
    lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost\n");
    howdah.hup();
    eventually("the new certificate is shown", || {
        let now = shown_at(&lab, howdah.port());
        !now.is_empty() && now != first
    });
    let second = shown_at(&lab, howdah.port());
    exchange("between");
    std::fs::write(lab.path("server.key"), "nonsense").expect("written");
    howdah.hup();
    eventually("the reload has failed", || metric(&howdah, "howdah_reload_failures_total", &[]) >= 1.0);
    eventually("the log says why", || howdah.log().contains("client_tls_key: has no private key in it"));
    assert_eq!(shown_at(&lab, howdah.port()), second);
    exchange("after");
    drop(ask);
    assert!(old.wait().expect("it ends").success());
}

fn driver(dsn: &str) -> Option<Result<String, String>> {
    let python = harness::cache().join("venv/bin/python");
    if !python.exists() {
        harness::left_out("direct TLS", "psycopg with a libpq of version 17 or newer is not installed");
        return None;
    }
    let script = "import sys, psycopg\n\
                  if psycopg.pq.version() < 170000: print('old'); sys.exit(0)\n\
                  c = psycopg.connect(sys.argv[1])\n\
                  print(c.execute('select 7').fetchone()[0], c.pgconn.ssl_in_use)\n";
    let output = Command::new(python)
        .args(["-c", script, dsn])
        .env("HOME", "/nonexistent")
        .output()
        .expect("python runs");
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
    if output.status.success() { Some(Ok(text(&output.stdout))) } else { Some(Err(text(&output.stderr))) }
}

/// TLS without an SSLRequest, on both sides: with ALPN, and not without.
#[test]
fn direct_tls() {
    let Some(lab) = lab() else { return };
    let Some(server) = tls_cluster(18, &lab, &["hostssl all app 127.0.0.1/32 trust"], &[]) else { return };
    let top = format!(
        "{}server_tls_mode = \"verify-full\"\nserver_tls_negotiation = \"direct\"\nserver_tls_ca = \"{}\"\n",
        client_tls(&lab, "require"),
        lab.show("ca.crt")
    );
    let howdah = Howdah::start(&config(&top, &format!("host = \"localhost:{}\"\n", server.port())));
    let dsn = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=app dbname=app sslmode=verify-full sslnegotiation=direct sslrootcert={}",
        howdah.port(),
        lab.show("ca.crt")
    );
    match driver(&dsn) {
        None => {}
        Some(Ok(said)) if said == "old" => {
            harness::left_out("direct TLS", "psycopg's libpq is older than 17")
        }
        Some(said) => assert_eq!(said, Ok("7 True".to_owned()), "{}", howdah.log()),
    }
    assert!(psql(&howdah.dsn("app", "app?sslmode=require"), &["select 1"]).is_ok());
    // Other protocols' clients are sent away, in TLS or before it.
    let address = format!("127.0.0.1:{}", howdah.port());
    for alpn in [&["-alpn", "http/1.1"][..], &[]] {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-ign_eof"])
            .args(alpn)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(said.contains("no application protocol"), !alpn.is_empty(), "{alpn:?}: {said}");
        // PostgreSQL closes without a word.
        assert!(!said.contains("FATAL"), "{alpn:?}: {said}");
    }
    eventually("it is logged", || howdah.log().contains("direct TLS without the protocol's name (ALPN)"));
    // A server of an older kind, which takes the handshake for a startup packet.
    let Some(old) = tls_cluster(15, &lab, &["hostssl all app 127.0.0.1/32 trust"], &[]) else { return };
    let howdah = Howdah::start(&config(&top, &format!("host = \"localhost:{}\"\n", old.port())));
    let e = psql(&howdah.dsn("app", "app?sslmode=require"), &["select 1"]).expect_err("no direct TLS");
    assert!(e.contains("no secure connection"), "{e}");
}

/// Plain text around the negotiation and garbage within it are the end, and concern nobody else.
#[test]
fn plain_text_and_garbage_around_the_handshake() {
    let Some(lab) = lab() else { return };
    let Some(howdah) = before(&lab, "require") else { return };
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
    for request in [msg::ssl_request(), msg::gssenc_request()] {
        let mut raw = Raw::connect(&dsn).expect("accepted");
        raw.put(&[request, startup.clone()].concat());
        let said: Frame = raw.expect_error("FATAL", "08P01");
        assert!(String::from_utf8_lossy(&said.body).contains("unencrypted data"));
        raw.expect_closed();
    }
    // GSSAPI is refused first, then TLS is offered.
    let mut raw = Raw::connect(&dsn).expect("accepted");
    assert_eq!(raw.put(&msg::gssenc_request()).byte(), Ok(b'N'));
    assert_eq!(raw.put(&msg::ssl_request()).byte(), Ok(b'S'));
    drop(raw);
    let failures = || metric(&howdah, "howdah_tls_handshake_failures_total", &[("side", "client")]);
    let mut expected = failures();
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    for garbage in
        [startup.as_slice(), b"GET / HTTP/1.1\r\n\r\n", &[0x15, 3, 3, 0, 2, 2, 40], &hello, &[0x17; 40]]
    {
        let mut raw = Raw::connect(&dsn).expect("accepted");
        assert_eq!(raw.put(&msg::ssl_request()).byte(), Ok(b'S'));
        raw.put(garbage);
        // An alert may come; then the end.
        while raw.byte().is_ok() {}
        expected += 1.0;
        eventually("the failure is counted", || failures() >= expected);
    }
    // Gone at each stage.
    for stage in [&[][..], &[0x16], &[0x16, 3, 1, 2, 0, 1]] {
        let mut raw = Raw::connect(&dsn).expect("accepted");
        assert_eq!(raw.put(&msg::ssl_request()).byte(), Ok(b'S'));
        raw.send(stage).expect("sent");
        drop(raw);
    }
    eventually("nobody is left in a login", || {
        metric(&howdah, "howdah_clients", &[("state", "login")]) == 0.0
    });
    assert!(psql(&howdah.dsn("app", "app?sslmode=require"), &["select 1"]).is_ok());
}

/// What stands behind a server's answer to the SSLRequest was put there by somebody else, and is not read.
#[test]
fn plain_text_behind_the_server_s_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut request = [0; 8];
        stream.read_exact(&mut request).expect("an SSLRequest");
        let injected = [b"S".as_slice(), &[b'R', 0, 0, 0, 8, 0, 0, 0, 0], b"Z\0\0\0\x05I"].concat();
        stream.write_all(&injected).expect("sent");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        (request, rest)
    });
    let top = "server_tls_mode = \"require\"\nserver_login_retry = \"30s\"";
    let howdah = Howdah::start(&config(top, &format!("host = \"127.0.0.1:{port}\"\n")));
    let mut raw = Raw::connect(&Dsn::local(howdah.port(), "app", "app")).expect("accepted");
    let error =
        raw.start(&Dsn::local(howdah.port(), "app", "app"), msg::PROTOCOL_3_0, &[]).expect_err("refused");
    assert!(error.contains("08006"), "{error}");
    let (request, rest) = server.join().expect("the server ends");
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
    assert!(rest.is_empty(), "nothing follows, not even a ClientHello");
    eventually("the log says why", || howdah.log().contains("received unencrypted data"));
    assert_eq!(metric(&howdah, "howdah_tls_handshake_failures_total", &[("side", "server")]), 1.0);
}

/// Both sides bind their logins to the certificate, as libpq and PostgreSQL do between them.
fn bound(major: u32) {
    let Some(lab) = lab() else { return };
    let hba = [
        "hostssl app app 127.0.0.1/32 trust",
        "hostssl app bound 127.0.0.1/32 scram-sha-256",
        "host app loose 127.0.0.1/32 md5",
    ];
    let sql = [
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE bound LOGIN PASSWORD 'canary-b'",
        "SET password_encryption = 'md5'; CREATE ROLE loose LOGIN PASSWORD 'canary-l'",
    ];
    let Some(cluster) = tls_cluster(major, &lab, &hba, &sql) else { return };
    let start = |server: &str| {
        Howdah::start(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\n{}{server}\
             server_channel_binding = \"require\"\n[users.bound]\npassword = \"canary-b\"\n\
             [users.loose]\npassword = \"canary-l\"\n[databases.app]\nhost = \"{}\"\npool_size = 2\n",
            client_tls(&lab, "allow"),
            cluster.tcp()
        ))
    };
    let howdah = start("server_tls_mode = \"require\"\n");
    let ca = lab.show("ca.crt");
    let dsn = |port: u16, password: &str, mode: &str, binding: &str| {
        format!(
            "host=127.0.0.1 port={port} user=bound password={password} dbname=app sslmode={mode} sslrootcert={ca} \
             channel_binding={binding}"
        )
    };
    for (password, mode, binding) in [
        ("canary-b", "verify-full", "require"),
        ("canary-b", "verify-full", "disable"),
        ("canary-b", "disable", "require"),
        ("canary-wrong", "verify-full", "require"),
    ] {
        let ask = ["select current_user"];
        let direct = psql(&dsn(cluster.port(), password, mode, binding), &ask).ok();
        assert_eq!(psql(&dsn(howdah.port(), password, mode, binding), &ask).ok(), direct, "{mode} {binding}");
        assert_eq!(direct.is_some(), password == "canary-b" && mode == "verify-full", "{mode} {binding}");
    }
    // What a server that asks for less is told: nothing.
    let dsn = format!("host=127.0.0.1 port={} user=loose password=canary-l dbname=app", howdah.port());
    let e = psql(&dsn, &["select 1"]).expect_err("md5 binds nothing");
    assert!(e.contains("server_channel_binding"), "{e}");
    let plain = start("server_tls_mode = \"disable\"\n");
    let dsn = format!("host=127.0.0.1 port={} user=loose password=canary-l dbname=app", plain.port());
    assert!(psql(&dsn, &["select 1"]).is_err(), "without TLS there is nothing to bind to");
}

#[test]
fn logins_are_bound_to_the_certificate_on_15() {
    bound(15);
}

#[test]
fn logins_are_bound_to_the_certificate_on_18() {
    bound(18);
}
