//! The derivation of sizes, step by step, as `howdah plan` prints it.

use std::fmt::Write as _;

use super::check::{self, Severity, count, divide};
use super::facts::Facts;
use super::need::{HostNeed, PoolNeed};

/// A pool that is busier than this makes its clients wait: in thousandths.
const BUSY: u64 = 800;

/// Roles and databases whose present connections are told.
const IN_USE: usize = 10;

/// What the derivation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For people.
    pub text: String,
    /// The size of each pool, in the order of the need; empty where the server could not be asked.
    pub sizes: Vec<u64>,
    /// Whether serving would be refused, or the expected load does not fit.
    pub refused: bool,
}

/// `facts` is nothing where the server could not be asked, with the reason.
pub fn plan(need: &HostNeed, facts: Result<&Facts, &str>, instances: u32) -> Plan {
    let margin = need.margin;
    let mut out = format!("{}\n", need.host);
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return unasked(out, need, instances, why),
    };
    let role = if facts.in_recovery { "a standby" } else { "a primary" };
    let version = facts.version / 10_000;
    let _ = writeln!(
        out,
        "  1. The server, {role} of PostgreSQL {version}: {} for ordinary roles.",
        facts.ordinary_sum()
    );
    let _ = writeln!(out, "     In use now: {}.", facts.in_use_told(IN_USE));
    let ordinary = u64::from(facts.ordinary());
    let usable = need.usable(facts);
    let _ = writeln!(
        out,
        "  2. safety_margin {:?}: {ordinary} x {:?} = {usable} for poolers.",
        share(margin),
        share(margin)
    );
    let fleet = need.budget_of(facts).map(u64::from);
    if let Some(budget) = fleet {
        let _ = writeln!(
            out,
            "     fleet.budget {budget} bounds all instances together; what follows is an even share."
        );
    }
    let usable = fleet.map_or(usable, |b| usable.min(b));
    let each = usable / u64::from(instances);
    let room = each.saturating_sub(u64::from(need.own));
    let _ = writeln!(
        out,
        "  3. {}: {usable} / {instances} = {each} each, less Howdah's own {}: {room} for pools.",
        count(instances),
        need.own
    );
    let weights: Vec<u64> = need.pools.iter().map(|p| u64::from(p.share)).collect();
    let sizes = divide(room, &weights);
    let all: u64 = weights.iter().sum();
    let mut refused = false;
    let _ = writeln!(out, "  4. Divided by capacity_share:");
    for (pool, size) in need.pools.iter().zip(&sizes) {
        let _ = writeln!(
            out,
            "     {}: {room} x {}/{all} = {size}{}",
            pool.name(),
            pool.share,
            split(pool, *size)
        );
        refused |= *size == 0;
    }
    let _ = writeln!(out, "  5. The expected load (Little's law: in use = rate x duration):");
    for (pool, size) in need.pools.iter().zip(&sizes) {
        let fits = little(&mut out, pool, *size, instances);
        refused |= !fits;
    }
    let _ = writeln!(out, "  6. As configured:");
    refused |= verdict(&mut out, need, facts, instances);
    Plan { text: out, sizes, refused }
}

fn share(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1000.0
}

/// How a size divides into pool_size and the reserve that is stated.
fn split(pool: &PoolNeed, size: u64) -> String {
    let reserve = u64::from(pool.reserve);
    if size == 0 {
        return ": none left for it".to_owned();
    }
    if reserve == 0 {
        return format!(": pool_size = {size}");
    }
    if reserve < size {
        return format!(": pool_size = {}, reserve_pool_size = {reserve}", size - reserve);
    }
    format!(": pool_size = {size}, reserve_pool_size = 0")
}

/// Says what the load needs; false if it is more than the size.
fn little(out: &mut String, pool: &PoolNeed, size: u64, instances: u32) -> bool {
    let (Some(tps), Some(duration)) = (pool.expected_tps, pool.expected_duration) else {
        let _ = writeln!(out, "     {}: expected_tps and expected_duration are not stated.", pool.name());
        return true;
    };
    // In use, in millionths: transactions a second times microseconds.
    let busy = u128::from(tps) * duration.as_micros();
    let one = busy / u128::from(instances);
    let least = u64::try_from((one * 1000).div_ceil(u128::from(BUSY) * 1_000_000).max(1)).unwrap_or(u64::MAX);
    let utilisation = one as f64 / 1e4 / size.max(1) as f64;
    let _ = write!(
        out,
        "     {}: {tps}/s x {:?} = {:.2} in use, {:.2} in each instance: {least} at least, to stay below {} % busy",
        pool.name(),
        duration,
        busy as f64 / 1e6,
        one as f64 / 1e6,
        BUSY / 10,
    );
    let fits = least <= size;
    let _ = match fits {
        true => writeln!(out, "; {size} would be {utilisation:.0} % busy."),
        false => writeln!(out, "; the server cannot carry it: only {size} are left for this pool."),
    };
    fits
}

/// The findings of the check as serving would report them; true if it would refuse.
fn verdict(out: &mut String, need: &HostNeed, facts: &Facts, instances: u32) -> bool {
    let found = check::check(need, facts, instances);
    if let Some(most) = need.most(|_| true).filter(|_| found.is_empty()) {
        let mut lines = String::new();
        check::lines(&mut lines, need, most);
        indent(out, &lines);
        let one = most + u64::from(need.own);
        let _ = writeln!(
            out,
            "     one instance: {one}; {}: {}; it fits.",
            count(instances),
            one * u64::from(instances)
        );
    }
    for f in &found {
        let word = if f.severity == Severity::Refuse { "refused: " } else { "warning: " };
        indent(out, &format!("{word}{}", f.text));
    }
    found.iter().any(|f| f.severity == Severity::Refuse)
}

fn indent(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "     {}", line.strip_prefix("  ").unwrap_or(line));
    }
}

fn unasked(mut out: String, need: &HostNeed, instances: u32, why: &str) -> Plan {
    let _ = writeln!(out, "  The server could not be asked, so nothing can be derived: {why}");
    let _ = writeln!(out, "  What the configuration can open there:");
    let most = need.most(|_| true);
    let mut lines = String::new();
    check::lines(&mut lines, need, most.unwrap_or_default());
    indent(&mut out, &lines);
    if let Some(most) = most {
        let one = most + u64::from(need.own);
        let _ =
            writeln!(out, "     one instance: {one}; {}: {}", count(instances), one * u64::from(instances));
    }
    Plan { text: out, sizes: Vec::new(), refused: false }
}
