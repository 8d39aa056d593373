//! Logins by an LDAP directory: Debian's slapd, in a directory of its own, and PostgreSQL's verdict on the same lines
//! of pg_hba.conf beside ours. Only with the cargo feature `ldap`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::certs::Lab;
use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, Options, Running, cluster, free_port, left_out};

const USERS: &str = "\
dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: uid=alice,dc=example,dc=net
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: twin
userPassword: right

dn: uid=bob,dc=example,dc=net
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
mail: twin
userPassword: other
";

/// slapd with these users; its port in plain text (and StartTLS), and that of ldaps.
struct Directory {
    _slapd: Running,
    lab: Lab,
    plain: u16,
    tls: u16,
}

impl Directory {
    fn start() -> Option<Self> {
        let slapd = Path::new("/usr/sbin/slapd");
        if !slapd.exists() {
            left_out("LDAP", "slapd is not installed");
            return None;
        }
        let lab = Lab::new()?;
        lab.ca("ca");
        lab.leaf("server", "ca", "localhost", "subjectAltName=DNS:localhost");
        let dir = lab.path("data");
        std::fs::create_dir(&dir).expect("a folder");
        let conf = lab.path("slapd.conf");
        let schema = "/etc/ldap/schema";
        let text = format!(
            "include {schema}/core.schema\ninclude {schema}/cosine.schema\ninclude {schema}/inetorgperson.schema\n\
             pidfile {0}/slapd.pid\nmodulepath /usr/lib/ldap\naccess to * by * read by anonymous auth\n\
             TLSCACertificateFile {0}/ca.crt\nTLSCertificateFile {0}/server.crt\nTLSCertificateKeyFile {0}/server.key\n\
             database ldif\ndirectory {0}/data\nsuffix \"dc=example,dc=net\"\n\
             rootdn \"cn=admin,dc=example,dc=net\"\nrootpw secret\n",
            lab.path("").display()
        );
        std::fs::write(&conf, text).expect("written");
        std::fs::write(lab.path("users.ldif"), USERS).expect("written");
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(&conf)
            .arg("-l")
            .arg(lab.path("users.ldif"))
            .output();
        let added = added.expect("slapadd runs");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (plain, tls) = (free_port().expect("a port"), free_port().expect("a port"));
        let urls = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}");
        let mut command = Command::new(slapd);
        command.args(["-d", "0", "-h", &urls, "-f"]).arg(&conf).stderr(Stdio::piped());
        let running = Running::listening(&mut command, ([127, 0, 0, 1], tls).into());
        Some(Self { _slapd: running, lab, plain, tls })
    }
}

/// Whether one comes in.
fn outcome(port: u16, user: &str, password: &str) -> bool {
    let dsn = Dsn { password: Some(password.to_owned()), ..Dsn::local(port, user, "app") };
    Raw::try_login(&dsn, msg::PROTOCOL_3_0, &[]).is_ok()
}

#[test]
fn a_directory_lets_in_whom_postgres_lets_in() {
    let Some(directory) = Directory::start() else { return };
    let roles = ["CREATE ROLE alice LOGIN", "CREATE ROLE bob LOGIN", "CREATE DATABASE app"];
    let options = roles.iter().fold(Options::default(), |o, r| o.sql(r));
    let Some(postgres) = cluster(15, options) else { return };
    let Some(server) = cluster(15, roles.iter().fold(Options::default(), |o, r| o.sql(r))) else { return };
    let lab = &directory.lab;
    let ca = format!("LDAPTLS_CACERT={}", lab.show("ca.crt"));
    let config = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\n[users.alice]\n[users.bob]\n[databases.app]\nhost = \"{}\"\npool_size = 2\n",
        lab.path("hba.conf").display(),
        server.tcp()
    );
    std::fs::write(lab.path("hba.conf"), "host all all 127.0.0.1/32 trust\n").expect("written");
    let howdah = Howdah::spawn_by(&["env", &ca], &config, &[]);
    howdah.await_listening();
    let at = format!("ldapserver=127.0.0.1 ldapport={}", directory.plain);
    let url = format!("ldap://127.0.0.1:{}/dc=example,dc=net", directory.plain);
    let cases = [
        format!("{at} ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\""),
        format!("{at} ldapbasedn=\"dc=example,dc=net\""),
        format!("{at} ldapbasedn=\"dc=example,dc=net\" ldapsearchattribute=cn"),
        format!("{at} ldapbasedn=\"dc=example,dc=net\" ldapsearchfilter=\"(uid=$username)\""),
        format!(
            "{at} ldapbasedn=\"dc=example,dc=net\" ldapbinddn=\"cn=admin,dc=example,dc=net\" ldapbindpasswd=secret"
        ),
        format!(
            "{at} ldapbasedn=\"dc=example,dc=net\" ldapbinddn=\"cn=admin,dc=example,dc=net\" ldapbindpasswd=no"
        ),
        // Both users have that address: nobody knows which of them it is.
        format!("{at} ldapbasedn=\"dc=example,dc=net\" ldapsearchfilter=\"(|(uid=$username)(mail=twin))\""),
        format!("{at} ldapbasedn=\"dc=nowhere\""),
        format!("ldapurl=\"{url}?uid?sub\""),
        format!("ldapurl=\"{url}??sub?(uid=$username)\""),
        format!("ldapurl=\"{url}?uid\""),
        "ldapserver=127.0.0.1 ldapport=9 ldapbasedn=\"dc=example,dc=net\"".to_owned(),
        format!(
            "ldapserver=\"127.0.0.2 127.0.0.1\" ldapport={} ldapbasedn=\"dc=example,dc=net\"",
            directory.plain
        ),
    ];
    let reloads = |n: usize| howdah.log().matches("configuration reloaded").count() >= n;
    for (i, case) in cases.iter().enumerate() {
        let line = format!("host all all 127.0.0.1/32 ldap {case}");
        postgres.write_hba(std::slice::from_ref(&line)).expect("written");
        postgres.reload().expect("reloaded");
        std::fs::write(lab.path("hba.conf"), format!("{line}\n")).expect("written");
        howdah.hup();
        harness::eventually("a reload", || reloads(i + 1));
        harness::eventually("PostgreSQL's reload", || {
            postgres
                .value("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'ldap' AND error IS NULL")
                .ok()
                == Some("1".to_owned())
        });
        for (user, password) in
            [("alice", "right"), ("alice", "wrong"), ("alice", ""), ("bob", "right"), ("bob", "other")]
        {
            let direct = outcome(postgres.port(), user, password);
            assert_eq!(outcome(howdah.port(), user, password), direct, "{user}/{password}: {case}");
        }
    }
}

#[test]
fn the_way_to_the_directory_can_be_tls() {
    let Some(directory) = Directory::start() else { return };
    let roles = ["CREATE ROLE alice LOGIN", "CREATE DATABASE app"];
    let Some(server) = cluster(15, roles.iter().fold(Options::default(), |o, r| o.sql(r))) else { return };
    let lab = &directory.lab;
    let by = |options: &str, ca: &str| {
        let config = format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"ldap\"\n\
             auth_ldap_options = '{options}'\n[users.alice]\n[databases.app]\nhost = \"{}\"\npool_size = 2\n",
            server.tcp()
        );
        let howdah = Howdah::spawn_by(&["env", ca], &config, &[]);
        howdah.await_listening();
        (outcome(howdah.port(), "alice", "right"), outcome(howdah.port(), "alice", "wrong"))
    };
    let trusted = format!("LDAPTLS_CACERT={}", lab.show("ca.crt"));
    let base = "ldapbasedn=dc=example,dc=net";
    let ldaps = format!("ldapserver=localhost ldapscheme=ldaps ldapport={} {base}", directory.tls);
    let start = format!("ldapserver=localhost ldapport={} ldaptls=1 {base}", directory.plain);
    assert_eq!(by(&ldaps, &trusted), (true, false));
    assert_eq!(by(&start, &trusted), (true, false));
    for untrusted in [&ldaps, &start] {
        assert_eq!(
            by(untrusted, "LDAPTLS_REQCERT=demand"),
            (false, false),
            "an unknown certificate: {untrusted}"
        );
        assert_eq!(by(untrusted, "LDAPTLS_REQCERT=never"), (true, false));
    }
    // ldaps by another name than the certificate's.
    let other = format!("ldapserver=127.0.0.1 ldapscheme=ldaps ldapport={} {base}", directory.tls);
    assert_eq!(by(&other, &trusted), (false, false));
}
