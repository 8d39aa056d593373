//! `howdah health`: asks the ops port of the Howdah that serves by a configuration, for probes where there is no curl.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::found::{self, Where};
use crate::config::Hidden;
use crate::config::units::parse_duration;
use crate::ops::ask::{self, Answer};

/// What to ask, and whom.
#[derive(Debug, clap::Args)]
pub(super) struct Health {
    /// The configuration that the Howdah serves by, also a pgbouncer.ini. Without it the file that HOWDAH_CONFIG names, or
    /// HOWDAH_* variables, or else the defaults: the ops port is then 127.0.0.1:9127.
    config: Option<PathBuf>,
    /// Ask whether new clients are served now (/readyz), and not only whether the process answers (/healthz).
    #[arg(long)]
    ready: bool,
    /// Ask whether this database is served (/readyz/NAME); NAME/replica and NAME/admin ask for these pools.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Ask at this address, and not at `ops_listen` of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    ops: Option<SocketAddr>,
    /// Give up after this time.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
    /// The certificate to show to an ops port that asks for one (ops_tls_ca), in PEM.
    #[arg(long, value_name = "FILE", requires = "ops_key")]
    ops_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "ops_cert")]
    ops_key: Option<PathBuf>,
    /// A setting by its key path, as the Howdah was given it: --set ops_listen=127.0.0.1:9200.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Hidden>,
}

/// What is so, in one word; the error says why it is not.
pub(super) fn health(wish: &Health) -> Result<&'static str, String> {
    let file = found::Place { config: wish.config.as_deref(), set: &wish.set };
    let config = match (file.outline(Where::Ops), wish.ops) {
        (Ok(config), _) => config,
        // A file that cannot be read must not end a Howdah that serves, where its address is known anyway.
        (Err(_), Some(_)) => found::Place { config: None, set: &[] }.defaults()?,
        (Err(why), None) => return Err(why),
    };
    let Some(ops) = wish.ops.or(config.listen.ops) else {
        return Err(format!(
            "{}: ops_listen is off, so that there is no port to ask; set it, for example \
             HOWDAH_OPS_LISTEN=127.0.0.1:9127",
            config.origin
        ));
    };
    let identity = match (&wish.ops_cert, &wish.ops_key) {
        (Some(cert), Some(key)) => Some(super::cli::identity(cert, key)?),
        _ => None,
    };
    let path = path(wish.ready, wish.database.as_deref());
    let runtime = super::runtime(1).map_err(|e| format!("cannot start the runtime: {e}"))?;
    let answer = runtime
        .block_on(ask::ask(ops, &path, &config, identity.as_ref(), wish.timeout))
        .map_err(|why| format!("the ops port at {ops} (ops_listen): {why}"))?;
    judge(&answer, &path)
}

fn path(ready: bool, database: Option<&str>) -> String {
    match database {
        None if ready => "/readyz".to_owned(),
        None => "/healthz".to_owned(),
        Some(name) => format!("/readyz/{}", encoded(name)),
    }
}

/// As a path of HTTP has it; a slash divides database and role.
fn encoded(name: &str) -> String {
    let mut out = String::new();
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn judge(answer: &Answer, path: &str) -> Result<&'static str, String> {
    match answer.status {
        200 if path == "/healthz" => return Ok("up"),
        200 => return Ok("ready"),
        _ => {}
    }
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let text = |pointer: &str| told.pointer(pointer).and_then(serde_json::Value::as_str);
    let why = text("/reason").or_else(|| text("/message")).or_else(|| text("/error/message"));
    Err(match (answer.status, why) {
        (503, Some(why)) => format!("not ready: {why}"),
        (_, Some(why)) => format!("{path} was answered with {}: {why}", answer.status),
        (_, None) => format!("{path} was answered with {}", answer.line),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_what_is_asked() {
        assert_eq!(path(false, None), "/healthz");
        assert_eq!(path(true, None), "/readyz");
        assert_eq!(path(false, Some("app")), "/readyz/app");
        assert_eq!(path(true, Some("my db/replica")), "/readyz/my%20db/replica");
        assert_eq!(path(true, Some("a?b#ä\r\n")), "/readyz/a%3Fb%23%C3%A4%0D%0A");
    }

    #[test]
    fn an_answer_that_is_no_is_told_with_its_reason() {
        let judged = |status, body: &str, path| {
            let line = format!("HTTP/1.1 {status} x");
            judge(&Answer { status, line, body: body.to_owned() }, path)
        };
        assert_eq!(judged(200, "ok\n", "/healthz"), Ok("up"));
        assert_eq!(judged(200, "{}", "/readyz"), Ok("ready"));
        let why = judged(503, r#"{"ready":false,"reason":"draining"}"#, "/readyz");
        assert_eq!(why, Err("not ready: draining".to_owned()));
        assert_eq!(judged(500, "<html>", "/x"), Err("/x was answered with HTTP/1.1 500 x".to_owned()));
    }
}
