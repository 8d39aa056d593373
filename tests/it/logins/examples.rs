//! The worked examples of docs/src/how-to/tls-and-authentication.md, as they stand there, against a real PostgreSQL.

use crate::harness::certs::Lab;
use crate::harness::proxy::Howdah;
use crate::harness::tls::{lab, psql, tls_cluster};
use crate::harness::{self, Cluster, app_options, cluster};

/// The block of the page that begins with this comment.
fn example(kind: &str, title: &str) -> String {
    let page = std::fs::read_to_string(harness::root().join("docs/src/how-to/tls-and-authentication.md"))
        .expect("the page");
    let comment = if kind == "sql" { "--" } else { "#" };
    let begin = format!("```{kind}\n{comment} example: {title}\n");
    let (_, block) = page.split_once(&begin).unwrap_or_else(|| panic!("no example {title}"));
    block.split_once("\n```").expect("the end of the block").0.to_owned()
}

/// Howdah as the example says, beside the files of `lab`.
fn started(lab: &Lab, cluster: &Cluster, text: &str) -> Howdah {
    let mut text = text
        .replace("127.0.0.1:6432", "127.0.0.1:{port}")
        .replace("127.0.0.1:5432", &cluster.tcp().to_string());
    for file in ["howdah.crt", "howdah.key", "ca.crt", "app.secret", "asker.secret"] {
        text = text.replace(&format!("\"{file}\""), &format!("\"{}\"", lab.show(file)));
    }
    Howdah::start(&format!("ops_listen = \"127.0.0.1:{{ops_port}}\"\n{text}"))
}

fn who(howdah: &Howdah, password: &str, more: &str) -> Result<String, String> {
    let dsn =
        format!("host=127.0.0.1 port={} user=app dbname=app password='{password}' {more}", howdah.port());
    psql(&dsn, &["select current_user"])
}

fn secretive() -> Option<(Lab, Cluster)> {
    let lab = lab()?;
    let options = app_options()
        .hba("host app asker 127.0.0.1/32 scram-sha-256")
        .hba("host app app 127.0.0.1/32 scram-sha-256")
        .sql("ALTER ROLE app PASSWORD 'canary-app'");
    Some((lab, cluster(15, options)?))
}

#[test]
fn scram_pass_through() {
    let Some((lab, cluster)) = secretive() else { return };
    let verifier =
        cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").expect("a verifier");
    let text = example("toml", "pass-through").replace("SCRAM-SHA-256$4096:salt$stored:server", &verifier);
    assert!(!text.contains("canary"));
    let howdah = started(&lab, &cluster, &text);
    assert_eq!(who(&howdah, "canary-app", ""), Ok("app".to_owned()));
    assert!(who(&howdah, "canary-no", "").is_err());
}

#[test]
fn auth_query() {
    let Some((lab, cluster)) = secretive() else { return };
    let mut client = cluster.connect(harness::SUPERUSER, "app").expect("a session");
    client.query(&example("sql", "auth_query")).expect("it runs as it stands there");
    std::fs::write(lab.path("asker.secret"), "the asker's secret\n").expect("written");
    let howdah = started(&lab, &cluster, &example("toml", "auth_query"));
    assert_eq!(who(&howdah, "canary-app", ""), Ok("app".to_owned()));
    assert!(who(&howdah, "canary-no", "").is_err());
    client.query("ALTER ROLE app VALID UNTIL 'yesterday'").expect("altered");
    harness::eventually("the answer is asked for anew", || who(&howdah, "canary-app", "").is_err());
}

#[test]
fn mutual_tls() {
    let Some(lab) = lab() else { return };
    lab.leaf("howdah", "ca", "howdah", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    lab.leaf("app", "ca", "app", "extendedKeyUsage=clientAuth\n");
    let sql = ["ALTER ROLE app PASSWORD 'canary-app'"];
    let first = ["hostssl app app 127.0.0.1/32 trust"];
    let Some(cluster) = tls_cluster(15, &lab, &first, &sql) else { return };
    let rule = "hostssl app app 127.0.0.1/32 scram-sha-256 clientcert=verify-ca".to_owned();
    cluster.write_hba(&[rule]).expect("written");
    cluster.reload().expect("reloaded");
    let without = format!("host=127.0.0.1 port={} user=app dbname=app sslmode=require", cluster.port());
    harness::eventually("nobody comes in without a certificate", || {
        psql(&without, &["select 1"]).is_err_and(|e| e.contains("certificate"))
    });
    std::fs::write(lab.path("app.secret"), "canary-app\n").expect("written");
    let howdah = started(&lab, &cluster, &example("toml", "mutual TLS"));
    let shown = |certificate: &str| {
        let (crt, key) = (lab.show(&format!("{certificate}.crt")), lab.show(&format!("{certificate}.key")));
        format!("sslmode=verify-full sslrootcert={} sslcert={crt} sslkey={key}", lab.show("ca.crt"))
    };
    assert_eq!(who(&howdah, "", &shown("app")), Ok("app".to_owned()));
    assert!(who(&howdah, "", &shown("client")).is_err(), "somebody else's certificate");
    assert!(who(&howdah, "canary-app", "sslmode=require sslcert=none").is_err(), "none");
}
