//! The commands for those who begin, or who have only a shell: `init`, `health`, `show`, `completions`, `man`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::harness::program::{Dir, output};
use crate::harness::proxy::Howdah;
use crate::harness::{free_port, program, shared};

const MAJOR: u32 = 15;

fn howdah(arguments: &[&str]) -> (Option<i32>, String, String) {
    output(program().args(arguments).stdin(std::process::Stdio::null()))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn config(host: &SocketAddr) -> String {
    format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"scram-sha-256\"\n\
         admin_users = [\"app\"]\n[users.app]\npassword = \"canary\"\n[databases.app]\nhost = \"{host}\"\npool_size = 3\n"
    )
}

#[test]
fn health_says_whether_a_howdah_serves_and_why_not() {
    let Some(cluster) = shared(MAJOR) else { return };
    let running = Howdah::start(&config(&cluster.tcp()));
    let file = running.config_path();
    let file = path(&file);
    assert_eq!(howdah(&["health", file]), (Some(0), "up\n".to_owned(), String::new()));
    assert_eq!(howdah(&["health", "--ready", file]), (Some(0), "ready\n".to_owned(), String::new()));
    let (code, out, err) = howdah(&["health", "--database", "nowhere", file]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with("howdah: ") && err.contains("nowhere"), "{err}");

    // By the variable that names the file, and by the address alone.
    let by_variable = output(program().arg("health").env("HOWDAH_CONFIG", file));
    assert_eq!(by_variable.0, Some(0), "{}", by_variable.2);
    let ops = running.ops_address().to_string();
    assert_eq!(howdah(&["health", "--ops", &ops]).0, Some(0));

    // What it serves by is being changed: the port is found all the same.
    let broken = format!("{}\nquery_timeot = \"1s\"\n", std::fs::read_to_string(file).expect("it is there"));
    std::fs::write(file, broken.replacen("listen", "query_timeout = \"soon\"\nlisten", 1)).expect("written");
    assert_eq!(howdah(&["health", file]).0, Some(0));
}

#[test]
fn health_fails_in_time_where_nothing_answers() {
    let dead = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port"))).to_string();
    let (code, out, err) = howdah(&["health", "--ops", &dead]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains(&dead) && err.contains("ops_listen") && err.contains("refused"), "{err}");

    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let silent = silent.local_addr().expect("its address").to_string();
    let (code, _, err) = howdah(&["health", "--timeout", "200ms", "--ops", &silent]);
    assert_eq!(code, Some(1), "{err}");

    let dir = Dir::new();
    let off = dir.file("off.toml", "ops_listen = \"off\"\n[databases.app]\nhost = \"h\"\npool_size = 1\n");
    let (code, _, err) = howdah(&["health", path(&off)]);
    assert_eq!(code, Some(1));
    assert!(err.contains("ops_listen is off"), "{err}");
}

#[test]
fn show_prints_what_the_console_answers() {
    let Some(cluster) = shared(MAJOR) else { return };
    let running = Howdah::start(&config(&cluster.tcp()));
    let file = running.config_path();
    let file = path(&file);
    for words in [&["databases"][..], &["SHOW", "databases;"]] {
        let (code, out, err) = howdah(&[&["show", "--config", file], words].concat());
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        let mut lines = out.lines();
        assert!(lines.next().is_some_and(|head| head.contains(" name ") && head.contains('|')), "{out}");
        assert!(lines.next().is_some_and(|dashes| dashes.contains("-+-")), "{out}");
        assert!(lines.any(|l| l.starts_with(" app ")), "{out}");
        assert!(out.trim_end().ends_with("rows)"), "{out}");
    }
    let (code, _, err) = howdah(&["show", "--config", file, "nothing"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("SHOW nothing"), "{err}");
    let (code, _, err) = howdah(&["show", "--config", file, "--user", "stranger", "pools"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("stranger") && !err.contains("canary"), "{err}");
}

#[test]
fn init_writes_a_configuration_that_serves() {
    let Some(cluster) = shared(MAJOR) else { return };
    let dir = Dir::new();
    let secret = dir.file("secret", "canary\n");
    let file = dir.0.path().join("howdah.toml");
    let (host, port) = (cluster.tcp().to_string(), free_port().expect("a port"));
    let (listen, ops) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port().expect("a port")));
    let wish = [
        "init",
        path(&file),
        "--host",
        &host,
        "--database",
        "app",
        "--user",
        "app",
        "--password-file",
        path(&secret),
        "--listen",
        &listen,
        "--ops-listen",
        &ops,
        "--admin",
        "app",
    ];
    let (code, out, err) = howdah(&wish);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains("The pool has ") && err.contains("howdah check "), "{err}");
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.contains("pool_size = ") && !text.contains("canary"), "{text}");
    let (code, out, err) = howdah(&["check", path(&file)]);
    assert_eq!(code, Some(0), "{out}{err}");

    // It is never written over unasked, and nothing else is left beside it.
    let (code, _, err) = howdah(&wish);
    assert_eq!(code, Some(2));
    assert!(err.contains("--force"), "{err}");
    assert_eq!(howdah(&[&wish[..], &["--force"]].concat()).0, Some(0));
    assert_eq!(std::fs::read_dir(dir.0.path()).expect("the directory").count(), 2);

    let mut child = program().arg(&file).stderr(std::process::Stdio::null()).spawn().expect("it runs");
    crate::harness::eventually("it is ready", || howdah(&["health", "--ready", path(&file)]).0 == Some(0));
    let (code, out, err) = howdah(&["show", "--config", path(&file), "pools"]);
    assert_eq!(code, Some(0), "{out}{err}");
    child.kill().expect("it is there");
    child.wait().expect("it ends");
}

#[test]
fn init_says_at_once_what_it_must_be_told() {
    let dir = Dir::new();
    let file = dir.0.path().join("howdah.toml");
    let (code, _, err) = howdah(&["init", path(&file), "--host", "h"]);
    assert_eq!(code, Some(2));
    for flag in ["--database NAME", "--user NAME", "--password-file FILE or --password-env VARIABLE"] {
        assert!(err.contains(flag), "{err}");
    }
    let dead = format!("127.0.0.1:{}", free_port().expect("a port"));
    let known = ["--host", &dead, "--database", "app", "--user", "app", "--password-env", "NO_SUCH_VARIABLE"];
    let (code, _, err) = howdah(&[&["init", path(&file)][..], &known].concat());
    assert_eq!(code, Some(2));
    assert!(err.contains("NO_SUCH_VARIABLE"), "{err}");
    let mut command = program();
    command.args(["init", path(&file)]).args(known).env("NO_SUCH_VARIABLE", "canary");
    let (code, _, err) = output(&mut command);
    assert_eq!(code, Some(2));
    assert!(err.contains(&dead) && err.contains("--pool-size N") && !err.contains("canary"), "{err}");
    assert_eq!(std::fs::read_dir(dir.0.path()).expect("the directory").count(), 0);
}

#[test]
fn shells_and_man_know_the_command_line() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, err) = howdah(&["completions", shell]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains("howdah") && out.contains("doctor"), "{shell}: {out}");
    }
    let dir = Dir::new();
    let (code, out, err) = howdah(&["man", path(dir.0.path())]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    for page in ["howdah.1", "howdah-doctor.1", "howdah-init.1"] {
        let text = std::fs::read_to_string(dir.0.path().join(page)).expect("a page");
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }
}
