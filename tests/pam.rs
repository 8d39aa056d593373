//! Logins by PAM: pam_matrix of Debian's libpam-wrapper, with services in a folder of their own, and PostgreSQL's verdict
//! on the same lines of pg_hba.conf beside ours. Only with the cargo feature `pam`; the system's PAM is not touched.

#![cfg(feature = "pam")]
#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;
mod wire;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::proxy::Howdah;
use common::{Options, Stop, cluster, left_out};
use kit::Running;
use wire::Dsn;
use wire::msg;
use wire::raw::Raw;

const WRAPPER: &str = "/usr/lib/x86_64-linux-gnu/libpam_wrapper.so";
const MATRIX: &str = "/usr/lib/x86_64-linux-gnu/pam_wrapper/pam_matrix.so";

/// Services and what they know.
struct Modules(tempfile::TempDir);

impl Modules {
    fn new() -> Option<Self> {
        if [WRAPPER, MATRIX].iter().any(|file| !Path::new(file).exists()) {
            left_out("PAM", "libpam-wrapper is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        };
        open(dir.path());
        let services = dir.path().join("services");
        std::fs::create_dir(&services).expect("a folder");
        open(&services);
        let known = dir.path().join("known");
        // Carol's password is right everywhere, and she may come in nowhere.
        let users = "alice:right:postgresql\nbob:also right:other\ncarol:right:nowhere\n";
        std::fs::write(&known, users).expect("written");
        for service in ["postgresql", "other"] {
            let text = ["auth", "account", "password", "session"]
                .map(|step| format!("{step} required {MATRIX} passdb={}\n", known.display()))
                .concat();
            std::fs::write(services.join(service), text).expect("written");
        }
        Some(Self(dir))
    }

    fn environment(&self) -> [String; 3] {
        let services = self.0.path().join("services");
        [
            format!("LD_PRELOAD={WRAPPER}"),
            "PAM_WRAPPER=1".to_owned(),
            format!("PAM_WRAPPER_SERVICE_DIR={}", services.display()),
        ]
    }

    fn howdah(&self, config: &str) -> Howdah {
        let environment = self.environment();
        let mut runner = vec!["env"];
        runner.extend(environment.iter().map(String::as_str));
        let howdah = Howdah::spawn_by(&runner, config, &[]);
        howdah.await_listening();
        howdah
    }
}

/// Whether one comes in; else what is said, without what only one of both adds.
fn outcome(port: u16, user: &str, password: &str) -> Result<(), String> {
    let dsn = Dsn { password: Some(password.to_owned()), ..Dsn::local(port, user, "app") };
    let said = Raw::try_login(&dsn, msg::PROTOCOL_3_0, &[]).map(drop);
    said.map_err(|e| e.split(" H=").next().and_then(|e| e.split(" F=").next()).unwrap_or_default().to_owned())
}

#[test]
fn pam_lets_in_whom_postgres_lets_in() {
    let Some(modules) = Modules::new() else { return };
    let roles = [
        "CREATE ROLE alice LOGIN",
        "CREATE ROLE bob LOGIN",
        "CREATE ROLE carol LOGIN",
        "CREATE DATABASE app",
    ];
    let with_roles = || roles.iter().fold(Options::default(), |o, r| o.sql(r));
    let Some(mut asked) = cluster(15, with_roles()) else { return };
    let Some(server) = cluster(15, with_roles()) else { return };
    // PostgreSQL once more, with those modules; as the account that its data belongs to.
    asked.stop(Stop::Fast).expect("a stop");
    let owner = std::fs::metadata(asked.data_dir()).expect("its data");
    let hba = modules.0.path().join("hba.conf");
    let mut postgres = Command::new(asked.install().bin().join("postgres"));
    postgres.arg("-D").arg(asked.data_dir()).arg("-k").arg(asked.socket_dir());
    postgres.args(["-p", &asked.port().to_string()]).stderr(Stdio::null());
    postgres.uid(owner.uid()).gid(owner.gid()).current_dir(asked.socket_dir());
    postgres.envs(modules.environment().iter().filter_map(|e| e.split_once('=')));
    let _postgres = Running::listening(&mut postgres, asked.tcp());
    common::eventually("PostgreSQL", || asked.value("SELECT 1").is_ok());
    for options in ["", "pamservice=other", "pamservice=missing", "pam_use_hostname=0 pamservice=postgresql"]
    {
        let line = format!("host all all 127.0.0.1/32 pam {options}");
        std::fs::write(&hba, format!("{line}\n")).expect("written");
        asked.write_hba(std::slice::from_ref(&line)).expect("written");
        let loaded = || asked.value("SELECT pg_conf_load_time()").expect("a time");
        let before = loaded();
        asked.value("SELECT pg_reload_conf()").expect("reloaded");
        common::eventually("PostgreSQL's reload", || loaded() != before);
        let howdah = modules.howdah(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
             auth_hba_file = \"{}\"\n[users.alice]\n[users.bob]\n[users.carol]\n[databases.app]\nhost = \"{}\"\n\
             pool_size = 2\n",
            hba.display(),
            server.tcp()
        ));
        let mut let_in = 0;
        for (user, password) in [
            ("alice", "right"),
            ("alice", "wrong"),
            ("alice", ""),
            ("bob", "also right"),
            ("bob", "right"),
            ("carol", "right"),
        ] {
            let direct = outcome(asked.port(), user, password);
            let through = outcome(howdah.port(), user, password);
            assert_eq!(through.is_ok(), direct.is_ok(), "{user}/{password}: {line}: {direct:?} {through:?}");
            if !password.is_empty() {
                assert_eq!(through, direct, "{user}/{password}: {line}");
            }
            let_in += usize::from(through.is_ok());
        }
        let wanted = usize::from(options != "pamservice=missing");
        assert_eq!(let_in, wanted, "{line}");
        assert!(!howdah.log().contains("also right"), "a password is in the log");
    }
}

#[test]
fn one_method_for_all_can_be_pam() {
    let Some(modules) = Modules::new() else { return };
    let options = Options::default().sql("CREATE ROLE alice LOGIN").sql("CREATE ROLE bob LOGIN");
    let Some(server) = cluster(15, options.sql("CREATE DATABASE app")) else { return };
    let howdah = modules.howdah(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"pam\"\n\
         auth_pam_service = \"other\"\n[users.alice]\n[users.bob]\n[databases.app]\nhost = \"{}\"\npool_size = 2\n",
        server.tcp()
    ));
    assert_eq!(outcome(howdah.port(), "bob", "also right"), Ok(()));
    let wrong = outcome(howdah.port(), "bob", "right").expect_err("a wrong password");
    assert!(wrong.contains("PAM authentication failed for user"), "{wrong}");
}
