//! Logins by PAM: pam_matrix of Debian's libpam-wrapper, with services in a folder of their own, and PostgreSQL's verdict
//! on the same lines of pg_hba.conf beside ours. Only with the cargo feature `pam`; the system's PAM is not touched.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, Options, Running, Stop, cluster, left_out};

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

/// A service whose module waits until it is released, as one does that asks over a network.
struct Hanging {
    modules: Modules,
}

impl Hanging {
    fn new() -> Option<Self> {
        let modules = Modules::new()?;
        let dir = modules.0.path();
        if !["/lib", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]
            .iter()
            .any(|lib| Path::new(lib).join("security/pam_exec.so").exists())
        {
            left_out("a PAM module that hangs", "there is no pam_exec");
            return None;
        }
        let (gate, open, script) = (dir.join("gate"), dir.join("open"), dir.join("wait"));
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let text = format!("#!/bin/sh\n[ -e {} ] || read x < {}\nexit 0\n", open.display(), gate.display());
        std::fs::write(&script, text).expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let lines =
            format!("auth required pam_exec.so quiet {}\naccount required pam_permit.so\n", script.display());
        std::fs::write(dir.join("services/hanging"), lines).expect("written");
        Some(Self { modules })
    }

    /// Nobody waits from now on.
    fn release(&self) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let dir = self.modules.0.path();
        drop(std::fs::write(dir.join("open"), ""));
        // Without a reader there is nobody to release.
        let mut pipe = std::fs::OpenOptions::new();
        drop(pipe.write(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(dir.join("gate")));
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.release();
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
    harness::eventually("PostgreSQL", || asked.value("SELECT 1").is_ok());
    for options in ["", "pamservice=other", "pamservice=missing", "pam_use_hostname=0 pamservice=postgresql"]
    {
        let line = format!("host all all 127.0.0.1/32 pam {options}");
        std::fs::write(&hba, format!("{line}\n")).expect("written");
        asked.write_hba(std::slice::from_ref(&line)).expect("written");
        let loaded = || asked.value("SELECT pg_conf_load_time()").expect("a time");
        let before = loaded();
        asked.value("SELECT pg_reload_conf()").expect("reloaded");
        harness::eventually("PostgreSQL's reload", || loaded() != before);
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

/// A login's end is not the end of its request: the next one waits for the place, and is told why it did so in vain.
#[test]
fn requests_that_hang_are_bounded() {
    let Some(hanging) = Hanging::new() else { return };
    let options = Options::default().sql("CREATE ROLE alice LOGIN").sql("CREATE DATABASE app");
    let Some(server) = cluster(15, options) else { return };
    let howdah = hanging.modules.howdah(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"pam\"\n\
         auth_pam_service = \"hanging\"\nmax_pam_requests = 1\nclient_login_timeout = \"1s\"\n[users.alice]\n\
         [databases.app]\nhost = \"{}\"\npool_size = 2\n",
        server.tcp()
    ));
    let ended = |outcome| harness::metric(&howdah, "howdah_pam_requests_total", &[("outcome", outcome)]);
    let under_way = || harness::metric(&howdah, "howdah_pam_requests_in_flight", &[]);
    let first = outcome(howdah.port(), "alice", "x").expect_err("nobody answers");
    assert!(first.contains("login timed out while PAM was asked"), "{first}");
    assert_eq!((ended("abandoned"), under_way()), (1.0, 1.0));
    let second = outcome(howdah.port(), "alice", "x").expect_err("there is one place");
    assert!(second.contains("53300") && second.contains("too many PAM requests"), "{second}");
    assert_eq!((ended("busy"), under_way()), (1.0, 1.0));
    hanging.release();
    harness::eventually("its place is given back", || under_way() == 0.0);
    assert_eq!(outcome(howdah.port(), "alice", "x"), Ok(()));
    assert_eq!((ended("accepted"), ended("abandoned")), (1.0, 1.0));
}
