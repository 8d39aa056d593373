//! `docs/src/reference/console.md`: every command of the console, from the tables that answer them.

use std::fmt::Write as _;

use super::advice::ADVICE;
use super::rows::Column;
use super::show::routes::ROUTES;
use super::table::{Right, SHOWS, verbs};

const HEAD: &str = "\
# The console

Generated from `src/console/table.rs`; do not edit.

The databases `pgbouncer` and `howdah` are the console. `admin_users` may do everything there, `stats_users` may look.
Both log in like any other client. The console answers over the simple and the extended protocol, so that
drivers and monitoring agents can use it. Columns that PgBouncer does not have are in *italics*. Behind a
`pgbouncer.ini` the database `pgbouncer` leaves them out, and the database `howdah` has them.
";

/// The page, whole.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n## Commands that act\n\n| command | for | what it does |\n|---|---|---|\n");
    let _ = writeln!(
        out,
        "| `SET key = value` | `admin_users` | Changes a setting until the next RELOAD or restart. `SET databases.app.pool_size = 9` \
         reaches into a section. |"
    );
    for (usage, right, tells) in verbs() {
        let usage = usage.replace('|', "\\|");
        let _ = writeln!(out, "| `{usage}` | {} | {tells} |", who(right));
    }
    out.push_str("\n## Commands that look\n");
    let help = "The list of commands, as a NOTICE.";
    let advice = "What `howdah doctor` finds, most urgent first. It asks the servers.";
    let routes = "Where this statement would go now, and why.";
    let mut shows = vec![
        ("ADVICE", Right::Admin, ADVICE, advice),
        ("HELP", Right::Stats, &[], help),
        ("ROUTES [db] 'statement'", Right::Stats, ROUTES, routes),
    ];
    shows.extend(SHOWS.iter().map(|s| (s.name, s.right, s.columns, s.tells)));
    shows.sort_by_key(|s| s.0);
    for (name, right, columns, tells) in shows {
        let _ = write!(out, "\n### SHOW {name}\n\n{tells} For {}.\n", who(right));
        if !columns.is_empty() {
            let columns: Vec<String> = columns.iter().map(column).collect();
            let _ = write!(out, "\nColumns: {}.\n", columns.join(", "));
        }
    }
    out
}

fn who(right: Right) -> &'static str {
    match right {
        Right::Stats => "`stats_users` and `admin_users`",
        Right::Admin => "`admin_users`",
    }
}

fn column(column: &Column) -> String {
    if column.own { format!("*`{}`*", column.name) } else { format!("`{}`", column.name) }
}

#[cfg(test)]
mod tests {
    /// `UPDATE=1 cargo test` writes the file anew.
    #[test]
    fn the_page_of_commands_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/console.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, super::render()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == super::render(), "run UPDATE=1 cargo test");
    }
}
