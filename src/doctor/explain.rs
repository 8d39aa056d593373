//! From a statement as the statistics keep it to one that a server can plan, and from its plan to what scans of tables
//! filter by. No I/O.

use serde_json::Value;

use crate::proto::sql::lexer::{Lexer, Token};

/// A statement with its constants and parameters as `$1` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameterised {
    pub sql: String,
    pub parameters: usize,
}

/// A sequential scan of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub schema: String,
    pub table: String,
    pub filter: String,
}

/// What may be explained. The rest is refused although EXPLAIN runs no statement.
const BEGINNINGS: [&[u8]; 7] = [b"select", b"insert", b"update", b"delete", b"merge", b"with", b"values"];

/// Whether a text begins as what has a plan.
pub fn has_plan(text: &str) -> bool {
    let first = Lexer::new(text.as_bytes()).peek();
    BEGINNINGS.iter().any(|b| first.is_word(b))
}

/// Numbers the `?` of a normalised text; whether each of them stands where a value can is up to the server.
pub fn parameterised(text: &str) -> Result<Parameterised, &'static str> {
    let mut lexer = Lexer::new(text.as_bytes());
    if !has_plan(text) {
        return Err("it is no SELECT, INSERT, UPDATE, DELETE, MERGE, WITH or VALUES");
    }
    let mut sql = String::with_capacity(text.len() + 16);
    let (mut parameters, mut from, mut dots) = (0, 0, 0);
    loop {
        // Signs that stood apart may have become one.
        if lexer.take_blank().iter().any(|b| !b.is_ascii_whitespace() && *b != 0x0b) {
            return Err("it has a comment, which no normalised text has");
        }
        let Some(token) = lexer.next_token() else { break };
        let end = text.len() - lexer.rest().len();
        dots = if token == Token::Other(b'.') { dots + 1 } else { 0 };
        match token {
            Token::Semicolon => return Err("it is more than one statement"),
            Token::Literal => return Err("it has a literal, which no normalised text has"),
            Token::Other(b'$') => return Err("it has a parameter, which no normalised text has"),
            Token::Other(b'.') if dots == 3 => return Err("its text is too long to be kept whole"),
            Token::Other(b'?') => {
                parameters += 1;
                // An ASCII byte, so that both cuts are between characters.
                sql.push_str(text.get(from..end - 1).unwrap_or_default());
                // A word or number beside it would swallow it, or be swallowed.
                if sql.bytes().last().is_some_and(joins) {
                    sql.push(' ');
                }
                sql.push_str(&format!("${parameters}"));
                if lexer.rest().first().copied().is_some_and(|b| joins(b) || b == b'?') {
                    sql.push(' ');
                }
                from = end;
            }
            _ => {}
        }
    }
    if lexer.ambiguous_from().is_some() {
        return Err("it can be read in two ways");
    }
    sql.push_str(text.get(from..).unwrap_or_default());
    Ok(Parameterised { sql, parameters })
}

fn joins(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || b >= 128
}

/// The sequential scans with a filter in what `EXPLAIN (VERBOSE, FORMAT JSON)` says.
pub fn scans(plan: &str) -> Result<Vec<Scan>, String> {
    let plan: Value = serde_json::from_str(plan).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    collect(&plan, &mut found);
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<Scan>) {
    match value {
        Value::Array(all) => all.iter().for_each(|v| collect(v, found)),
        Value::Object(fields) => {
            let word = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
            if word("Node Type").as_deref() == Some("Seq Scan")
                && let (Some(schema), Some(table), Some(filter)) =
                    (word("Schema"), word("Relation Name"), word("Filter"))
            {
                found.push(Scan { schema, table, filter });
            }
            fields.values().for_each(|v| collect(v, found));
        }
        _ => {}
    }
}

/// The columns that a filter compares, those compared for equality first: what an index would be on.
pub fn compared<'c>(filter: &str, columns: impl Fn(&str) -> Option<&'c str>) -> Vec<&'c str> {
    let mut lexer = Lexer::new(filter.as_bytes());
    let (mut equal, mut ordered) = (Vec::new(), Vec::new());
    while let Some(token) = lexer.next_token() {
        let (Token::Word(name) | Token::Quoted(name)) = token else { continue };
        let Some(column) = std::str::from_utf8(name).ok().and_then(&columns) else { continue };
        match operator(lexer) {
            Some(b'=') if !equal.contains(&column) => equal.push(column),
            Some(b'<' | b'>') if !ordered.contains(&column) => ordered.push(column),
            _ => {}
        }
    }
    ordered.retain(|c| !equal.contains(c));
    // Behind the first range an index helps no further.
    ordered.truncate(1);
    equal.append(&mut ordered);
    equal
}

/// The operator behind a column, its brackets and casts left out; only one that an index of a usual kind serves.
fn operator(mut lexer: Lexer<'_>) -> Option<u8> {
    loop {
        match lexer.next_token()? {
            Token::Other(b')') => {}
            Token::Other(b':') => {
                lexer.next_token().filter(|t| *t == Token::Other(b':'))?;
                lexer.next_token()?;
            }
            Token::Other(b'=') => return Some(b'='),
            Token::Other(op @ (b'<' | b'>')) => {
                return match lexer.peek() {
                    Token::Other(b'=') | Token::Word(_) | Token::Quoted(_) => Some(op),
                    Token::Other(b'$' | b'(' | b'0'..=b'9') | Token::Literal => Some(op),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::sql::fingerprint::normal;

    fn sql(text: &str) -> String {
        parameterised(text).map(|p| p.sql).unwrap_or_else(|why| format!("({why})"))
    }

    #[test]
    fn placeholders_are_numbered() {
        assert_eq!(
            sql("SELECT a FROM t WHERE id = ? AND b IN (?)"),
            "SELECT a FROM t WHERE id = $1 AND b IN ($2)"
        );
        assert_eq!(
            sql("select \"who?\" from t where zoë=?::int"),
            "select \"who?\" from t where zoë=$1::int"
        );
        assert_eq!(sql("VALUES (?)"), "VALUES ($1)");
        assert_eq!(sql("SELECT x?y ? ??"), "SELECT x $1 y $2 $3 $4");
        for (text, why) in [
            ("SELECT ?; DROP TABLE t", "more than one"),
            ("SELECT ?;", "more than one"),
            ("DROP TABLE t", "it is no SELECT"),
            ("", "it is no SELECT"),
            ("EXPLAIN ANALYZE DELETE FROM t", "it is no SELECT"),
            ("SELECT aaaa ...", "too long"),
            ("SELECT $1", "a parameter"),
            ("SELECT 'x'", "a literal"),
            ("SELECT --?", "a comment"),
        ] {
            assert!(sql(text).contains(why), "{text}: {}", sql(text));
        }
    }

    #[test]
    fn scans_and_what_they_filter_by() {
        let plan = r#"[{"Plan": {"Node Type": "Nested Loop", "Plans": [
            {"Node Type": "Seq Scan", "Schema": "public", "Relation Name": "Orders", "Filter": "(a = $1)"},
            {"Node Type": "Seq Scan", "Schema": "public", "Relation Name": "whole"},
            {"Node Type": "Index Scan", "Schema": "public", "Relation Name": "t", "Filter": "(a = 1)"}]}}]"#;
        let found = scans(plan).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].table.as_str(), found[0].filter.as_str()), ("Orders", "(a = $1)"));
        assert!(scans("no plan").is_err());

        let columns = |name: &str| ["a", "b", "Note", "d"].into_iter().find(|c| *c == name);
        let of = |filter: &str| compared(filter, columns).join(" ");
        assert_eq!(of("((t.d > $1) AND (t.a = $2) AND ((t.\"Note\")::text = $3))"), "a Note d");
        assert_eq!(of("((a <> $1) AND (b ~~ $2) AND (f(d) = $3) AND (x = 1))"), "d");
        assert_eq!(of("((a >= 1) AND (b <= 2))"), "a");
        assert_eq!(of("((a = 1) OR (a > 3))"), "a");
        assert_eq!(of("(a IS NULL)"), "");
    }

    fn tokens(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text.as_bytes());
        std::iter::from_fn(|| lexer.next_token().map(|t| format!("{t:?}"))).collect()
    }

    #[test]
    fn what_is_numbered_is_the_same_statement() {
        let part = "(SELECT|WITH|a|b1|1|22|'x'|\"Q?\"|ü|E'q'|-|,|\\(|\\)| | \\$1 |1\\.5|/\\*7\\*/|--8|\n|;|IN|VALUES|=|\\.)";
        let text = proptest::collection::vec(proptest::string::string_regex(part).unwrap(), 0..14);
        proptest!(ProptestConfig::with_cases(3000), |(parts in text)| {
            let text = format!("SELECT {}", parts.concat());
            let shown = normal(text.as_bytes(), 2000).text;
            let Ok(p) = parameterised(&shown) else { return Ok(()) };
            prop_assert!(!p.sql.replace("\"Q?\"", "").contains('?'), "{}", p.sql);
            for n in 1..=p.parameters {
                prop_assert!(p.sql.contains(&format!("${n}")), "{}", p.sql);
            }
            // Nothing else has changed, and what was apart is apart.
            let back = (1..=p.parameters).rev().fold(p.sql.clone(), |sql, n| sql.replace(&format!("${n}"), "?"));
            prop_assert_eq!(back.replace(' ', ""), shown.replace(' ', ""));
            prop_assert_eq!(tokens(&back), tokens(&shown));
            let mut lexer = Lexer::new(p.sql.as_bytes());
            while let Some(t) = lexer.next_token() {
                prop_assert!(t != Token::Semicolon && t != Token::Literal, "{}", p.sql);
            }
        });
    }

    #[test]
    fn any_text_and_any_filter_can_be_read() {
        proptest!(|(text in "\\PC{0,60}", filter in "\\PC{0,60}")| {
            let _ = parameterised(&format!("SELECT {text}"));
            let _ = compared(&filter, |_| Some("a"));
            let _ = scans(&filter);
        });
    }
}
