//! The command line as people and scripts meet it: check, flags, variables, a pgbouncer.ini, the demo.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::harness::program::{Dir, output};
use crate::harness::{
    self, Client, Install, Running, Target, app_options, cluster, eventually, free_port, left_out,
    processes_with, program, shared,
};

const MAJOR: u32 = 15;

fn check(path: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    output(program().arg("check").arg(path).args(arguments))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn port() -> u16 {
    free_port().expect("a port")
}

#[test]
fn check_tells_what_a_good_file_amounts_to() {
    let dir = Dir::new();
    let path = dir.file(
        "good.toml",
        "query_timeout = \"30s\"\n[users.app]\npassword = \"canary\"\n\
         [databases.shop]\nhost = \"db.example\"\npool_size = 7\nreserve_pool_size = 2\nmin_pool_size = 1\n",
    );
    let (code, out, err) = check(&path, &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for part in [
        "good.toml: valid",
        "shop/app/primary: 7 + 2, 1; transaction mode",
        "db.example:5432: 9",
        "pool_mode",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(!out.contains("canary"), "{out}");
    assert!(!out.contains("  query_timeout ="), "it is stated, so it is no default:\n{out}");
}

#[test]
fn check_tells_every_mistake_at_once() {
    let dir = Dir::new();
    let text = "\
query_timeot = \"30s\"
query_wait_timeout = \"30\"
pool_mode = \"transactoin\"
[users.app]
password = \"canary\"
[databases.app]
pool_size = 0
host = \"127.0.0.1\"
[databases.other]
host = \"127.0.0.1\"
";
    let path = dir.file("bad.toml", text);
    let (code, out, err) = check(&path, &[]);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    let expected: [(usize, &[&str]); 5] = [
        (1, &["query_timeot", "did you mean `query_timeout`?"]),
        (2, &["query_wait_timeout = \"30\"", "allowed: a duration"]),
        (3, &["pool_mode = \"transactoin\"", "\"session\""]),
        (7, &["databases.app.pool_size = 0", "from 1"]),
        (9, &["databases.other", "pool_size"]),
    ];
    for (line, parts) in expected {
        let place = format!("bad.toml:{line}:");
        let said = err.lines().find(|l| l.contains(&place)).unwrap_or_else(|| panic!("no {place} in\n{err}"));
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
    assert!(err.contains("5 problems"), "{err}");
    assert!(!err.contains("canary"), "{err}");
}

/// The same problems keep a server from starting, with the same words.
#[test]
fn a_bad_file_does_not_serve() {
    let dir = Dir::new();
    let path =
        dir.file("bad.toml", "lisen = \"127.0.0.1:1\"\n[databases.app]\nhost = \"h\"\npool_size = 1\n");
    let served = program().arg(&path).output().expect("it runs");
    assert_eq!(served.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&served.stderr), check(&path, &[]).2);
    assert!(String::from_utf8_lossy(&served.stderr).contains("did you mean `listen`?"));
}

#[test]
fn no_configuration_and_no_file() {
    let nothing = program().output().expect("it runs");
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--database"));
    let (code, _, err) = check(std::path::Path::new("/no/such.toml"), &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("/no/such.toml"), "{err}");
}

/// Variables win over the file, flags over both, and `check` shows what comes of it.
#[test]
fn variables_and_set_override_the_file() {
    let dir = Dir::new();
    let path = dir.file("c.toml", "[users.app]\n[databases.app]\nhost = \"h\"\npool_size = 3\n");
    let pool = |variables: &[(&str, &str)], set: &[&str]| {
        let mut command = program();
        command.arg("check").arg(&path).args(["--set", "auth_method=trust"]).envs(variables.iter().copied());
        let output = command.args(set).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find(|l| l.contains("app/app/primary")).map(str::trim).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let variable = ("HOWDAH_DATABASES__APP__POOL_SIZE", "4");
    assert_eq!(pool(&[], &[]), "app/app/primary: 3 + 0, 0; transaction mode");
    assert_eq!(pool(&[variable], &[]), "app/app/primary: 4 + 0, 0; transaction mode");
    let set = ["--set", "databases.app.pool_size=5"];
    assert_eq!(pool(&[variable], &set), "app/app/primary: 5 + 0, 0; transaction mode");
    assert_eq!(
        pool(&[("HOWDAH_POOL_MODE", "session"), ("HOWDAH_RESERVE_POOL_SIZE", "2")], &[]),
        "app/app/primary: 3 + 2, 0; session mode"
    );

    let mut wrong = program();
    wrong.arg("check").arg(&path).env("HOWDAH_QUERY_TIMEOT", "1s").args(["--set", "auth_method=trust"]);
    let output = wrong.args(["--set", "pool_sise=1"]).output().expect("it runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("HOWDAH_QUERY_TIMEOT") && err.contains("`pool_size`"), "{err}");
}

#[test]
fn flags_serve_without_a_file() {
    let Some(cluster) = shared(MAJOR) else { return };
    let listen = local(port());
    let url = format!("postgres://app@{}/app", cluster.tcp());
    let mut command = program();
    command.args(["--database", &url, "--pool-size", "2", "--set", "auth_method=trust"]);
    command.env("HOWDAH_LISTEN", listen.to_string()).env("HOWDAH_OPS_LISTEN", "off");
    let running = Running::listening(&mut command, listen);
    let mut clients: Vec<_> =
        (0..4).map(|_| Client::connect(&Target::Tcp(listen), "app", "app").expect("a login")).collect();
    for client in &mut clients {
        assert_eq!(client.value("SELECT current_user || current_database()").expect("it"), "appapp");
    }
    assert!(harness::connections(cluster, "app") <= 2);
    drop(running);

    // Without a size there is no safe default; the password of the URL is not told.
    let secret = url.replace("app@", "app:canary@");
    let output = program().args(["--database", &secret]).output().expect("it runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(err.contains("--pool-size") && !err.contains("canary"), "{err}");
}

/// The migration that is promised: the file of a PgBouncer, as it is.
#[test]
fn a_pgbouncer_ini_serves() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let dir = Dir::new();
    let (md5, port) = ("md5f1dd4a9a4f0e4b86c1ba8c1d3cc5aec5", port());
    let listen = local(port);
    dir.file("userlist.txt", &format!("\"app\" \"drop-in\"\n\"other\" \"{md5}\"\n"));
    let ini = format!(
        ";; a comment\n[databases]\napp = host=127.0.0.1 port={} dbname=app\n\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = md5\nauth_file = {}\n\
         pool_mode = transaction\nmax_client_conn = 10000\ndefault_pool_size = 25\nmin_pool_size = 10\n\
         reserve_pool_size = 5\nreserve_pool_timeout = 3\nserver_idle_timeout = 60\n\
         server_reset_query = DISCARD ALL\nadmin_users = app\nlogfile = /dev/null\npidfile = {}\n",
        cluster.port(),
        dir.0.path().join("userlist.txt").display(),
        dir.0.path().join("pgbouncer.pid").display(),
    );
    let path = dir.file("pgbouncer.ini", &ini);
    let (code, out, err) = check(&path, &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("valid (PgBouncer profile)"), "{out}");
    assert!(out.contains("app/app/primary: 25 + 5, 10; transaction mode"), "{out}");

    let mut command = program();
    command.arg(&path).arg("-q").env("HOWDAH_OPS_LISTEN", "off");
    let running = Running::listening(&mut command, listen);
    let Some(psql) = harness::tools::client_program("psql") else { return };
    let run = |password: &str| {
        let dsn = format!("postgresql://app@{listen}/app");
        let mut psql = std::process::Command::new(&psql);
        psql.env("PGPASSWORD", password).args(["-X", "-A", "-t", "-d", &dsn, "-c", "SELECT current_user"]);
        psql.output().expect("psql runs")
    };
    assert_eq!(String::from_utf8_lossy(&run("drop-in").stdout).trim(), "app");
    let wrong = run("wrong");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("password authentication failed"));
    eventually("the pool is warm", || harness::connections(&cluster, "app") >= 10);
    let said = running.end();
    assert!(!said.contains(" INFO "), "-q is quiet:\n{said}");
    assert!(!said.contains("drop-in") && !said.contains(md5), "{said}");
}

/// In a pgbouncer.ini, too, all mistakes are told at once, with their lines.
#[test]
fn check_of_a_wrong_pgbouncer_ini() {
    let dir = Dir::new();
    let ini = "[databases]\napp = host=127.0.0.1 pool_sise=3\n[pgbouncer]\npool_mode = transactions\n\
               default_pol_size = 5\nlisten_port = many\n";
    let (code, _, err) = check(&dir.file("pgbouncer.ini", ini), &[]);
    assert_eq!(code, Some(2));
    for part in ["ini:2:", "pool_sise", "`pool_size`", "ini:4:", "ini:5:", "`default_pool_size`", "ini:6:"] {
        assert!(err.contains(part), "no {part:?} in\n{err}");
    }
}

/// The demo makes everything it needs and takes all of it away again.
#[test]
fn the_demo_runs_and_leaves_nothing() {
    if let Err(why) = Install::find() {
        return left_out("howdah demo", &why.to_string());
    }
    // Short, for the sockets in it, and open to the account that the servers run as.
    let dir = tempfile::Builder::new().prefix("hd").tempdir_in("/tmp").expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), open).expect("ours");
    let mut command = program();
    let demo = command.args(["demo", "--for", "3s"]).env("TMPDIR", dir.path());
    let output = demo.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}\n{err}");
    let word = |name: &str| {
        let line = said.lines().find(|l| l.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{said}")).trim_start()[name.len()..].trim().to_owned()
    };
    assert!(word("DSN").starts_with("postgresql://app@127.0.0.1:"), "{said}");
    assert!(
        word("metrics").starts_with("http://127.0.0.1:") && word("metrics").ends_with("/metrics"),
        "{said}"
    );
    assert!(word("psql").starts_with("psql -h 127.0.0.1 -p "), "{said}");
    let page = word("page");
    assert!(page.starts_with("http://127.0.0.1:") && page.ends_with('/'), "{said}");
    assert!(said.contains("transactions, no error"), "{said}");

    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let living = processes_with(dir.path());
    assert!(living.is_empty(), "{living:?}");
    for port in [word("DSN"), word("metrics")] {
        let address = port.split(['/', '@']).find(|p| p.starts_with("127.0.0.1:")).expect("an address");
        let address: SocketAddr = address.parse().expect("an address");
        let after = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
        assert!(after.is_err(), "somebody still answers on {address}");
    }
}
