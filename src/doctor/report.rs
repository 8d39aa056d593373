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
    let n = found.len();
    out.push_str(&match n {
        0 => "no advice\n".to_owned(),
        1 => "1 piece of advice\n".to_owned(),
        n => format!("{n} pieces of advice\n"),
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
    let all = serde_json::json!({ "advice": found, "not_examined": evidence.unasked });
    format!("{all:#}\n")
}
