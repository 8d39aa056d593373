//! [`Error`] in PgBouncer's words, for its profile: message, SQLSTATE and severity are those that monitoring and
//! drivers match on; DETAIL and HINT are Howdah's, which PgBouncer never sends.

use super::{Error, Report, Severity, SqlState, report};

/// What the client is told in PgBouncer's profile.
pub fn report_as_pgbouncer(error: &Error) -> Report {
    let native = report(error);
    // A server's own words stay as they are, but end the connection.
    if let Error::ServerLogin(e) = error {
        return Report { severity: Severity::Fatal, verbatim: Some(e.fatal().body), ..native };
    }
    let Some(message) = words(error) else { return native };
    Report {
        severity: Severity::Fatal,
        sqlstate: SqlState::PROTOCOL_VIOLATION,
        message,
        verbatim: None,
        ..native
    }
}

/// The reason as PgBouncer words it, in messages and in its log; `None` where it has no word of its own.
pub fn words(error: &Error) -> Option<String> {
    let known = match error {
        Error::ProtocolViolation(why) => return Some(why.clone()),
        Error::UnsupportedProtocol { major: 2, .. } => "old V2 protocol not supported",
        Error::UnsupportedStartupOption(_) => {
            "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed"
        }
        Error::TransactionInStatementMode => "transaction blocks not allowed in statement pooling mode",
        Error::NoUserName => "no username supplied",
        Error::AuthenticationFailed { .. } => "password authentication failed",
        Error::NoHbaRule { .. } => "no authentication method is found",
        Error::HbaReject { .. } => "login rejected",
        Error::IdentityUnproved { method: "Peer", .. } => "unix socket login rejected",
        Error::DirectoryRefused { method: "LDAP", .. } => "LDAP authentication failed",
        Error::DirectoryRefused { .. } => "PAM authentication failed",
        Error::IdentityUnproved { .. } => "TLS certificate name mismatch",
        Error::CertificateRequired => "TLS client certificate required",
        Error::NoSuchUser { .. } => "no such user",
        Error::LookupFailed { reason } if reason.ends_with("is disabled") => {
            return Some(reason.clone());
        }
        Error::LookupFailed { .. } | Error::NoForcedUser { .. } => "bouncer config error",
        Error::TooManyClients { .. } => "no more connections allowed (max_client_conn)",
        Error::TooManyDatabaseClients { .. } => "client connections exceeded (max_db_client_connections)",
        Error::TooManyUserClients { .. } => "client connections exceeded (max_user_client_connections)",
        Error::UnknownDatabase { database } => return Some(format!("no such database: {database}")),
        Error::ReplicationLogin(_) => "login failed",
        Error::LoginTimeout { .. } | Error::LoginUnserved { .. } | Error::LoginUnanswered { .. } => {
            "client_login_timeout"
        }
        Error::ClientLeft { .. } => "client unexpected eof",
        Error::ShuttingDown => "pooler is shutting down",
        Error::WaitTimeout { .. } => "query_wait_timeout",
        Error::ServerUnreachable { reason, .. } => {
            let reason = cached(reason);
            return Some(format!(
                "server login has been failing, cached error: {reason} (server_login_retry)"
            ));
        }
        Error::ServerAuth { .. } => "server login failed: wrong password type",
        Error::ServerLost { .. } | Error::ServerProtocol { .. } => "server conn crashed?",
        Error::QueryTimeout { .. } | Error::QueryTimeoutUnanswered { .. } => "query timeout",
        Error::TransactionTimeout { .. } => "transaction timeout",
        Error::IdleTransactionTimeout { .. } => "idle transaction timeout",
        Error::ClientIdleTimeout { .. } => "client_idle_timeout",
        Error::ParameterRejected(_) => "invalid server parameter",
        Error::DatabaseRemoved { .. } => "database removed",
        Error::ServerReplaced => "database configuration changed",
        Error::ServersShuttingDown => "server shutting down",
        _ => return None,
    };
    Some(known.to_owned())
}

/// What stands before a server's own reason for refusing a login, where that is told later.
pub const LOGIN_FAILED: &str = "server login failed: ";

/// Why a server could not be reached, by PgBouncer's few names.
pub fn cached(reason: &str) -> &str {
    if let Some(own) = reason.strip_prefix(LOGIN_FAILED) {
        return own;
    }
    if reason.contains("server_connect_timeout") {
        "connect timeout"
    } else if reason.contains("host name") || reason.contains("failed to lookup") {
        "server DNS lookup failed"
    } else {
        "connect failed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::catalog::samples;

    #[test]
    fn what_pgbouncer_says_ends_the_connection_with_its_sqlstate() {
        for e in samples() {
            let r = report_as_pgbouncer(&e);
            if words(&e).is_some() && r.verbatim.is_none() {
                assert_eq!((r.severity, r.sqlstate), (Severity::Fatal, SqlState("08P01")), "{e}");
                assert_eq!(r.code, report(&e).code, "metrics and logs keep their labels");
            }
        }
    }
}
