//! Findings as they are printed.

use super::evidence::Evidence;
use super::finding::{Finding, Step, Urgency};

/// For people.
pub fn text(evidence: &Evidence, found: &[Finding]) -> String {
    let mut out = String::new();
    for f in found {
        let word = match f.urgency {
            Urgency::High => "HIGH",
            u => u.as_str(),
        };
        out.push_str(&format!(
            "{word}  {}  {}\n  because  {}\n  change   {}\n",
            f.code.as_str(),
            f.subject,
            f.evidence,
            f.change
        ));
        for step in &f.steps {
            out.push_str(&format!("  step     {}\n", told(step)));
        }
    }
    for u in &evidence.unasked {
        out.push_str(&format!("not examined: {u}\n"));
    }
    for p in &evidence.partial {
        out.push_str(&format!("examined in part: {p}\n"));
    }
    let advice = match found.len() {
        0 => "no advice".to_owned(),
        1 => "1 piece of advice".to_owned(),
        n => format!("{n} pieces of advice"),
    };
    let seen = evidence.hosts.len() + evidence.databases.len() + usize::from(evidence.pooler.is_some());
    out.push_str(&match (seen, evidence.unreached) {
        (_, 0) => format!("{advice}\n"),
        (0, _) => "nothing could be examined, so there is no advice\n".to_owned(),
        (_, n) => format!("{advice}, and {n} could not be examined\n"),
    });
    out
}

fn told(step: &Step) -> String {
    match step {
        Step::Sql { host, database: None, sql } => format!("on {host}: {sql};"),
        Step::Sql { host, database: Some(database), sql } => format!("on {host}/{database}: {sql};"),
        Step::Set { section, lines } if section.is_empty() => {
            format!("in Howdah's configuration: {}", lines.join("; "))
        }
        Step::Set { section, lines } => {
            format!("in {section} of Howdah's configuration: {}", lines.join("; "))
        }
        Step::Restart { host } => format!("restart {host}"),
    }
}

/// For machines.
pub fn json(evidence: &Evidence, found: &[Finding]) -> String {
    let all = serde_json::json!({
        "advice": found,
        "complete": evidence.unreached == 0,
        "examined_in_part": evidence.partial,
        "not_examined": evidence.unasked,
    });
    format!("{all:#}\n")
}
