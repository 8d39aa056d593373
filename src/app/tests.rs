use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::Service;
use crate::client::session::PANIC;
use crate::config::{Overrides, load};
use crate::demo::process::free_port;
use crate::demo::wire::{Client, Error, Target};
use crate::pool::core::Counts;
use crate::proto::encode;

/// Logs everybody in and answers every query with an empty SELECT.
fn server(mut stream: TcpStream) -> std::io::Result<()> {
    let ready = b"Z\0\0\0\x05I";
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    stream.write_all(&[encode::AUTHENTICATION_OK, ready].concat())?;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
        stream.read_exact(&mut body)?;
        if head[0] == b'Q' {
            stream.write_all(&[&b"C\0\0\0\x0dSELECT 0\0"[..], ready].concat())?;
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never happened: {what}");
}

/// The panic is its client's alone.
#[test]
fn a_panic_ends_one_session_and_leaves_the_pool_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || server(stream));
        }
    });
    let port = free_port().unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = format!(
        "listen = [\"127.0.0.1:{port}\"]\nops_listen = \"off\"\nauth_method = \"trust\"\nworkers = 2\n\
         [users.app]\n[databases.app]\nhost = \"{backend}\"\npool_size = 2\n"
    );
    std::fs::write(file.path(), text).unwrap();
    let service = Service::start(Arc::new(load(file.path(), &Overrides::default()).unwrap())).unwrap();
    let services = service.services.clone();
    let target = Target::Tcp(([127, 0, 0, 1], port).into());
    let connect = |application: &str| {
        let params = [("user", "app"), ("database", "app"), ("application_name", application)];
        Client::connect_with(&target, &params, Duration::from_secs(10)).unwrap()
    };

    let mut others: Vec<Client> = (0..2).map(|_| connect("another")).collect();
    for round in 1..=5 {
        let mut unlucky = connect(PANIC);
        assert_eq!(unlucky.query("select").unwrap_err().code(), Some("XX000"));
        assert!(matches!(unlucky.query("select"), Err(Error::Io(_))), "closed");
        for c in &mut others {
            c.query("select").unwrap();
        }
        eventually("counted", || services.counters.get("panics_total", "session") == round);
        eventually("gone", || services.clients.len() == others.len());
        let pools = services.pools.all();
        assert_eq!(pools.len(), 1);
        eventually("nothing is out of account", || {
            let c = pools[0].counts();
            c.tracked() <= 2 && c == Counts { idle: c.idle, ..Counts::default() }
        });
    }
    assert_eq!(services.counters.get("leases_dropped_total", ""), 5);
    drop(others);
    service.shut_down();
}
