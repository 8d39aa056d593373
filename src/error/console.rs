//! What the console refuses. PgBouncer's words, since scripts look for them; SQLSTATE, DETAIL and HINT are ours.

use super::report::{Report, Severity};
use super::sqlstate::SqlState;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("invalid command '{text}', use SHOW HELP;")]
    InvalidCommand { text: String },
    #[error("bad arguments")]
    BadArguments { limit: usize },
    #[error("admin access needed")]
    NeedsAdmin { user: String },
    #[error("no such database: {database}")]
    NoSuchDatabase { database: String },
    #[error("a database is required")]
    DatabaseRequired,
    #[error("cannot {what} admin db: {database}")]
    NotTheConsole { what: &'static str, database: String },
    #[error("already suspended/paused")]
    AlreadyPaused,
    #[error("cannot suspend with paused databases")]
    SuspendWhilePaused,
    #[error("pooler is not paused/suspended")]
    NotPaused,
    #[error("database {database} is not paused")]
    DatabaseNotPaused { database: String },
    #[error("pooler is shutting down")]
    ShuttingDown,
    #[error("client not found")]
    ClientNotFound { id: u64 },
    #[error("invalid client pointer supplied")]
    InvalidClientId { text: String },
    #[error("SET failed")]
    SetFailed { why: String },
    #[error("RELOAD failed, see logs for additional details")]
    ReloadFailed { why: String },
    #[error("prepared statement \"{name}\" does not exist")]
    NoSuchStatement { name: String },
    #[error("portal \"{name}\" does not exist")]
    NoSuchPortal { name: String },
    #[error("prepared statement \"{name}\" already exists")]
    StatementExists { name: String },
    #[error("the console takes no parameters")]
    Parameters { count: usize },
    #[error("the wait was cancelled, and the pooler resumed")]
    WaitCancelled,
}

/// SQLSTATE, code, DETAIL and HINT.
fn row(r: &Refusal) -> (SqlState, &'static str, Option<String>, Option<&'static str>) {
    use Refusal as R;
    use SqlState as S;
    match r {
        R::InvalidCommand { .. } => (S::SYNTAX_ERROR, "console_invalid_command", None, None),
        R::BadArguments { limit } => (
            S::SYNTAX_ERROR,
            "console_bad_arguments",
            Some(format!("An argument may have {limit} bytes.")),
            None,
        ),
        R::NeedsAdmin { user } => (
            S::INSUFFICIENT_PRIVILEGE,
            "console_needs_admin",
            Some(format!("User \"{user}\" is in stats_users, not in admin_users.")),
            Some("Log in as one of admin_users, or add the user there and reload."),
        ),
        R::NoSuchDatabase { .. } => (
            S::INVALID_CATALOG_NAME,
            "console_no_such_database",
            None,
            Some("SHOW DATABASES lists the names; they are those of the configuration, in its case."),
        ),
        R::DatabaseRequired => (S::SYNTAX_ERROR, "console_database_required", None, None),
        R::NotTheConsole { .. } => (S::WRONG_OBJECT_TYPE, "console_not_the_console", None, None),
        R::AlreadyPaused => (
            S::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "console_already_paused",
            None,
            Some("RESUME first; SHOW STATE tells what is in force."),
        ),
        R::SuspendWhilePaused => (
            S::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "console_suspend_while_paused",
            None,
            Some("RESUME the databases that SHOW DATABASES shows as paused first."),
        ),
        R::NotPaused => (
            S::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "console_not_paused",
            None,
            Some("Databases that were paused one by one are resumed one by one: RESUME name."),
        ),
        R::DatabaseNotPaused { .. } => {
            (S::OBJECT_NOT_IN_PREREQUISITE_STATE, "console_database_not_paused", None, None)
        }
        R::ShuttingDown => (S::CANNOT_CONNECT_NOW, "console_shutting_down", None, None),
        R::ClientNotFound { id } => (
            S::UNDEFINED_OBJECT,
            "console_client_not_found",
            Some(format!("No client has the id {id}.")),
            Some("SHOW CLIENTS lists them in its column id."),
        ),
        R::InvalidClientId { text } => (
            S::INVALID_TEXT_REPRESENTATION,
            "console_invalid_client_id",
            Some(format!("\"{text}\" is not a client's id.")),
            Some("SHOW CLIENTS lists them in its column id."),
        ),
        R::SetFailed { why } => (
            S::INVALID_PARAMETER_VALUE,
            "console_set_failed",
            Some(why.clone()),
            Some("SHOW CONFIG lists the settings, their values and whether they can be changed."),
        ),
        R::ReloadFailed { why } => (
            S::CONFIG_FILE_ERROR,
            "console_reload_failed",
            Some(why.clone()),
            Some("The old configuration stays in force, whole. Mend the file and RELOAD again."),
        ),
        R::NoSuchStatement { .. } => (S::INVALID_SQL_STATEMENT_NAME, "console_no_such_statement", None, None),
        R::NoSuchPortal { .. } => (S::INVALID_CURSOR_NAME, "console_no_such_portal", None, None),
        R::StatementExists { .. } => {
            (S::DUPLICATE_PREPARED_STATEMENT, "console_statement_exists", None, None)
        }
        R::Parameters { count } => (
            S::FEATURE_NOT_SUPPORTED,
            "console_parameters",
            Some(format!("The statement was bound with {count} parameters.")),
            Some("Write the argument into the statement."),
        ),
        R::WaitCancelled => (S::QUERY_CANCELED, "console_wait_cancelled", None, None),
    }
}

pub(super) fn report(r: &Refusal) -> Report {
    let (sqlstate, code, detail, hint) = row(r);
    Report {
        severity: Severity::Error,
        sqlstate,
        code,
        message: r.to_string(),
        detail,
        hint: hint.map(str::to_owned),
        verbatim: None,
    }
}
