//! Why a server connection came to be of no use while Howdah set parameters on it, or asked about them.

use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The label of the metric.
    pub label: &'static str,
    /// Which bound was passed, where it was one.
    pub bound: Option<Box<str>>,
}

impl From<&'static str> for Broken {
    fn from(label: &'static str) -> Self {
        Self { label, bound: None }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.bound.as_deref().unwrap_or(self.label))
    }
}

impl Broken {
    /// In a sentence of its own, where nothing was being done for the client.
    pub fn words(&self) -> String {
        if let Some(bound) = &self.bound {
            return sentence(bound);
        }
        sentence(match self.label {
            "parameter_timeout" => "it has not answered in time",
            "protocol" | "parameter_source" => {
                "it has refused the question, or has not answered as a PostgreSQL server does"
            }
            _ => "it has closed the connection",
        })
    }

    /// What the client is told: `doing` what the server was lost. `limit` is `server_repair_timeout`.
    pub fn error(&self, host: String, doing: &str, limit: Duration) -> Error {
        if let Some(bound) = &self.bound {
            return Error::ServerProtocol { host, reason: format!("{bound}; that was {doing}") };
        }
        let reason = match self.label {
            "protocol" | "parameter_source" => {
                let reason = format!("its answers are not those of a PostgreSQL server; that was {doing}");
                return Error::ServerProtocol { host, reason };
            }
            "parameter_timeout" => {
                let limit = limit.as_secs_f64();
                format!("it has not answered {doing}; server_repair_timeout is {limit:.3} s")
            }
            _ => format!("it went away {doing}"),
        };
        Error::ServerLost { host, reason }
    }
}

/// The server is what a clause calls "it".
fn sentence(clause: &str) -> String {
    clause.strip_prefix("it ").map_or_else(|| clause.to_owned(), |rest| format!("The server {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_which_bound_its_server_has_passed() {
        let told = |b: Broken| {
            let e = b.error("h:1".to_owned(), "while its parameters were set", Duration::from_secs(10));
            crate::error::report(&e).detail.unwrap_or_default()
        };
        let flood = Broken { label: "parameters", bound: Some("it reports 1001 parameters".into()) };
        assert_eq!(told(flood), "it reports 1001 parameters; that was while its parameters were set");
        assert_eq!(
            told("parameter_timeout".into()),
            "it has not answered while its parameters were set; server_repair_timeout is 10.000 s"
        );
        assert_eq!(told("eof".into()), "it went away while its parameters were set");
        assert_eq!(Broken::from("parameter_timeout").words(), "The server has not answered in time");
    }
}
