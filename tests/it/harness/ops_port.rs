//! What the ops port says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::exposition::Exposition;
use super::proxy::Howdah;

/// Status and body of an answer to a request with these headers.
fn ask(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut s = TcpStream::connect(address).expect("the ops port accepts");
    s.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    s.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Status and body.
pub fn get(howdah: &Howdah, path: &str) -> (u16, String) {
    ask(howdah.ops_address(), path, "")
}

/// The same with more headers, each with its end of line.
pub fn get_with(howdah: &Howdah, path: &str, headers: &str) -> (u16, String) {
    ask(howdah.ops_address(), path, headers)
}

/// The body of an answer that is a success.
pub fn http(address: SocketAddr, path: &str) -> String {
    let (status, body) = ask(address, path, "");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The body of any answer, which is JSON.
pub fn json(howdah: &Howdah, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(howdah, path).1).expect("JSON")
}

/// All metrics.
pub fn scrape(howdah: &Howdah) -> Exposition {
    let text = http(howdah.ops_address(), "/metrics");
    Exposition::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}
