//! What the feature tests share: configurations in one line, and sessions that panic with reasons.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ops_port::scrape;
use crate::harness::proxy::Howdah;
use crate::harness::{Client, Cluster, Target};
use howdah::demo::wire::{Error, ServerError};

/// One database `app` on `cluster` for clients that need no password: lines for the top level, lines for the
/// database, and whole sections.
pub fn config(cluster: &Cluster, top: &str, database: &str, sections: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         {top}\n[users.app]\n[databases.app]\nhost = \"{}\"\n{database}\n{sections}\n",
        cluster.tcp()
    )
}

/// A Howdah before `cluster` with that configuration.
pub fn start(cluster: &Cluster, top: &str, database: &str, sections: &str) -> Howdah {
    Howdah::start(&config(cluster, top, database, sections))
}

/// A session of `app` that is logged in.
pub fn app(howdah: &Howdah) -> Client {
    howdah.connect("app", "app").expect("a login")
}

/// A session with these startup parameters beside user and database.
pub fn app_with(howdah: &Howdah, parameters: &[(&str, &str)]) -> Result<Client, Error> {
    let mut all = vec![("user", "app"), ("database", "app")];
    all.extend_from_slice(parameters);
    Client::connect_with(&Target::Tcp(howdah.address()), &all, Duration::from_secs(30))
}

/// The server's words; panics if it was no error of a server.
pub fn refusal<T>(result: Result<T, Error>) -> ServerError {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(Error::Server(e)) => *e,
        Err(e) => panic!("not an ErrorResponse: {e}"),
    }
}

/// What a client's query gives; panics with the query where it fails.
pub fn value(client: &mut Client, sql: &str) -> String {
    client.value(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// The same where what it gives does not matter.
pub fn run(client: &mut Client, sql: &str) {
    client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The process id of the server that this client has now.
pub fn backend(client: &mut Client) -> String {
    client.value("SELECT pg_backend_pid()").expect("an answer")
}

/// The sum of the series of this name that have these labels, whatever else they have.
pub fn metric(howdah: &Howdah, name: &str, labels: &[(&str, &str)]) -> f64 {
    let scrape = scrape(howdah);
    let fits = |l: &std::collections::BTreeMap<String, String>| {
        labels.iter().all(|(n, v)| l.get(*n).is_some_and(|have| have == v))
    };
    scrape.samples.iter().filter(|((n, l), _)| n == name && fits(l)).map(|(_, v)| v).sum()
}

/// A child process that ends with the test.
pub struct Running(pub Child);

impl Running {
    /// Starts it and waits until `address` accepts.
    pub fn listening(command: &mut Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut running = Self(child.expect("the program can be run"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            let ended = running.0.try_wait().expect("our own child").is_some();
            if ended || Instant::now() > deadline {
                panic!("it does not listen:\n{}", running.end());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Ends it and gives what it printed on standard error.
    pub fn end(mut self) -> String {
        drop(self.0.kill());
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            drop(stderr.read_to_string(&mut said));
        }
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
