//! Prints rows as psql does: a grid with a head, and numbers to the right. Control characters are written out, so that a
//! client's text cannot steer the terminal.

use std::fmt::Write as _;

use crate::server::own::Rows;

/// The grid, whole, with the number of rows below it.
pub(super) fn render(rows: &Rows) -> String {
    let cells: Vec<Vec<Vec<String>>> = rows
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| lines(cell.as_deref().unwrap_or_default())).collect())
        .collect();
    let heads: Vec<Vec<String>> = rows.columns.iter().map(|c| lines(c)).collect();
    let widths: Vec<usize> = (0..heads.len())
        .map(|i| {
            let column = cells.iter().filter_map(|row| row.get(i)).chain(heads.get(i));
            column.flatten().map(|l| l.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let right: Vec<bool> = (0..heads.len()).map(|i| is_numeric(rows, i)).collect();
    let mut out = String::new();
    line(&mut out, &heads, &widths, |text, width| format!("{text:^width$}"));
    let dashes: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
    let _ = writeln!(out, "{}", dashes.join("+"));
    for row in &cells {
        let mut at = right.iter();
        line(&mut out, row, &widths, |text, width| match at.next() {
            Some(true) => format!("{text:>width$}"),
            _ => format!("{text:<width$}"),
        });
    }
    let n = rows.rows.len();
    let _ = writeln!(out, "({n} {})", if n == 1 { "row" } else { "rows" });
    out
}

/// One row, which has as many lines as its longest cell; `+` says that a cell goes on.
fn line(
    out: &mut String,
    row: &[Vec<String>],
    widths: &[usize],
    mut aligned: impl FnMut(&str, usize) -> String,
) {
    let height = row.iter().map(Vec::len).max().unwrap_or(1);
    if height == 1 {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, w)| format!(" {} ", aligned(cell.first().map_or("", String::as_str), *w)))
            .collect();
        let _ = writeln!(out, "{}", cells.join("|").trim_end());
        return;
    }
    for i in 0..height {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, w)| {
                let goes_on = if i + 1 < cell.len() { '+' } else { ' ' };
                format!(" {:<w$}{goes_on}", cell.get(i).map_or("", String::as_str))
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("|").trim_end());
    }
}

fn is_numeric(rows: &Rows, column: usize) -> bool {
    let mut stated = rows.rows.iter().filter_map(|row| row.get(column)?.as_deref()).peekable();
    stated.peek().is_some() && stated.all(|v| v.parse::<f64>().is_ok_and(f64::is_finite))
}

/// The lines of a cell. Texts of clients are among them: what would move a terminal's cursor is written out.
fn lines(cell: &str) -> Vec<String> {
    let printable = |c: char| match c {
        '\t' => "        ".to_owned(),
        '\r' => "\\r".to_owned(),
        c if c.is_control() => format!("\\x{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    cell.split('\n').map(|l| l.chars().map(printable).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], rows: &[&[Option<&str>]]) -> Rows {
        Rows {
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            rows: rows.iter().map(|r| r.iter().map(|v| v.map(str::to_owned)).collect()).collect(),
        }
    }

    #[test]
    fn rows_are_printed_as_psql_prints_them() {
        let shown = render(&rows(
            &["database", "n", "none"],
            &[&[Some("app"), Some("7"), None], &[Some("b"), Some("1200"), None]],
        ));
        let expected = "\u{20}database |  n   | none\n\
                        ----------+------+------\n\
                        \u{20}app      |    7 |\n\
                        \u{20}b        | 1200 |\n\
                        (2 rows)\n";
        assert_eq!(shown, expected);
        assert!(render(&rows(&["a"], &[])).ends_with("(0 rows)\n"));
        assert!(render(&rows(&["a"], &[&[Some("1")]])).ends_with("(1 row)\n"));
    }

    #[test]
    fn what_a_client_has_sent_cannot_steer_the_terminal() {
        let shown = render(&rows(&["query"], &[&[Some("select 1\n\u{1b}[2J\u{9b}x\u{7}\r")]]));
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("select 1") && shown.contains("+\n"), "{shown}");
        assert!(shown.contains("\\x1B[2J\\x9Bx\\x07\\r"), "{shown}");
    }
}
