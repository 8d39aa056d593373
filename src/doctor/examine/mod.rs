//! From evidence to findings; every threshold is where it is used, with its reason.

mod pooler;
mod server;

use super::evidence::Evidence;
use super::finding::Finding;

/// The findings, most urgent first.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for host in &evidence.hosts {
        server::host(host, &mut found);
    }
    for database in &evidence.databases {
        let scanned: Vec<_> = evidence
            .scanned
            .iter()
            .filter(|s| s.host == database.host && s.database == database.name)
            .collect();
        server::database(database, &scanned, &mut found);
    }
    if let Some(pooler) = &evidence.pooler {
        for pool in &pooler.pools {
            pooler::pool(pooler, pool, &mut found);
        }
        for reads in &pooler.reads {
            found.extend(pooler::reads(reads, &evidence.hosts));
        }
    }
    found.sort_by(|a, b| (a.urgency, a.code, &a.subject).cmp(&(b.urgency, b.code, &b.subject)));
    found
}
