//! SHOW ADVICE: what `howdah doctor` says, of the Howdah that is asked. It asks the servers, and so it waits.

use std::sync::Arc;

use super::protocol::Answer;
use super::rows::{Cell, Column, Row, int, row, text};
use crate::doctor::{Evidence, Finding, ask, examine};
use crate::services::Services;

pub(super) const ADVICE: &[Column] =
    &[int("rank"), text("severity"), text("finding"), text("subject"), text("evidence"), text("change")];

/// One examination at a time: each of them takes a connection of Howdah's own to one server after the other.
pub(super) async fn advice(services: &Arc<Services>) -> Answer {
    let _turn = services.examining.lock().await;
    let config = services.config_as_served();
    let evidence = ask::collect_here(services, &config).await;
    Answer::Rows { columns: ADVICE, rows: rows(&evidence, &examine(&evidence)) }
}

/// The most urgent first; behind it what could not be examined, and why.
fn rows(evidence: &Evidence, found: &[Finding]) -> Vec<Row> {
    let advice = found.iter().enumerate().map(|(i, f)| {
        row![i + 1, f.urgency.as_str(), f.code.as_str(), &*f.subject, &*f.evidence, &*f.change]
    });
    let unasked = evidence
        .unasked
        .iter()
        .map(|why| row![Cell::Null, "unknown", "not_examined", Cell::Null, why.as_str(), Cell::Null]);
    advice.chain(unasked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Code, Urgency};

    #[test]
    fn the_rank_is_that_of_the_report() {
        let evidence = Evidence { unasked: vec!["db: refused".to_owned()], ..Evidence::default() };
        let finding = |urgency, code| Finding {
            urgency,
            code,
            subject: "app".to_owned(),
            database: None,
            evidence: "figures".to_owned(),
            change: "a change".to_owned(),
            steps: Vec::new(),
        };
        let found = [finding(Urgency::High, Code::PoolTooSmall), finding(Urgency::Low, Code::IndexUnused)];
        let rows = rows(&evidence, &found);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0][..3], row![1usize, "high", "pool_too_small"][..]);
        assert_eq!(rows[1][0], Cell::from(2usize));
        assert_eq!(rows[2][4], Cell::from("db: refused"));
    }
}
