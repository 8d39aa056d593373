//! Evidence and findings as the figures of [`crate::metrics::advice`].

use super::evidence::{Database, Evidence};
use super::finding::{Code, Finding};
use crate::metrics::advice::{self, Look};

/// The figures of one examination.
pub fn of(evidence: &Evidence, found: &[Finding]) -> Look {
    let mut look = Look {
        databases: evidence.databases.iter().map(database).collect(),
        hosts: evidence
            .hosts
            .iter()
            .filter(|h| h.facts.in_recovery)
            // Of one that is cut off and has replayed nothing there is no figure.
            .map(|h| advice::Host { host: h.host.clone(), lag: h.lag.or((!h.cut).then_some(0.0)) })
            .collect(),
        ..Look::default()
    };
    none(&mut look, "");
    for d in &evidence.databases {
        none(&mut look, &d.name);
    }
    for f in found {
        let key = (f.database.clone().unwrap_or_default(), f.code.as_str());
        *look.findings.entry(key).or_insert(0) += 1;
    }
    look
}

/// A database of which nothing may have been found.
pub fn none(look: &mut Look, database: &str) {
    for code in Code::ALL {
        look.findings.entry((database.to_owned(), code.as_str())).or_insert(0);
    }
}

fn database(d: &Database) -> advice::Database {
    let ratio = |part: u64, rest: u64| (part + rest > 0).then(|| part as f64 / (part + rest) as f64);
    let (by_index, whole) = d.tables.iter().fold((0_u64, 0_u64), |(by_index, whole), t| {
        (by_index.saturating_add(t.index_scans), whole.saturating_add(t.sequential_scans))
    });
    advice::Database {
        host: d.host.clone(),
        name: d.name.clone(),
        cache_hits: ratio(d.blocks_hit, d.blocks_read),
        index_scans: ratio(by_index, whole),
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::{Host, Table};
    use super::super::finding::Urgency;
    use super::*;

    #[test]
    fn each_code_has_a_figure_for_each_database() {
        let finding = |database: Option<&str>, code| Finding {
            urgency: Urgency::Low,
            code,
            subject: String::new(),
            database: database.map(str::to_owned),
            evidence: String::new(),
            change: String::new(),
            steps: Vec::new(),
        };
        let tables = vec![Table { index_scans: 3, sequential_scans: 1, ..Table::default() }];
        let app =
            Database { name: "app".to_owned(), blocks_hit: 9, blocks_read: 1, tables, ..Database::default() };
        let mut standby = Host { lag: Some(2.5), ..Host::default() };
        standby.facts.in_recovery = true;
        let done = Host { lag: None, ..standby.clone() };
        let cut = Host { cut: true, ..done.clone() };
        let hosts = vec![Host::default(), standby, done, cut];
        let evidence = Evidence { databases: vec![app, Database::default()], hosts, ..Evidence::default() };
        let unused = finding(Some("app"), Code::IndexUnused);
        let look = of(&evidence, &[unused.clone(), unused, finding(None, Code::ReplicationLag)]);
        let n =
            |database: &str, code: Code| look.findings.get(&(database.to_owned(), code.as_str())).copied();
        assert_eq!(n("app", Code::IndexUnused), Some(2));
        assert_eq!(n("app", Code::IndexMissing), Some(0));
        assert_eq!(n("", Code::ReplicationLag), Some(1));
        assert_eq!(look.findings.len(), 2 * Code::ALL.len());
        assert_eq!((look.databases[0].cache_hits, look.databases[0].index_scans), (Some(0.9), Some(0.75)));
        assert_eq!((look.databases[1].cache_hits, look.databases[1].index_scans), (None, None));
        let lags: Vec<_> = look.hosts.iter().map(|h| h.lag).collect();
        assert_eq!(lags, [Some(2.5), Some(0.0), None], "a cut one that has nothing is not up to date");
    }
}
