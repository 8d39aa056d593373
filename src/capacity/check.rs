//! The sum, line by line, against what a server has; and what would make it fit.

use std::fmt::Write as _;

use super::facts::Facts;
use super::need::{HostNeed, PoolNeed};

/// Pools that are listed one by one; more of them are told as one sum.
const LISTED: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot work: the pools can open more than the server will ever let in.
    Refuse,
    /// It works as long as others leave room.
    Warn,
}

/// One thing that does not fit, with its figures; several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
}

fn refuse(text: String) -> Finding {
    Finding { severity: Severity::Refuse, text }
}

/// Everything that does not fit at one host.
pub fn check(need: &HostNeed, facts: &Facts, instances: u32) -> Vec<Finding> {
    let mut found = Vec::new();
    for database in &need.open_ended {
        found.push(refuse(format!(
            "{}: database {database} has no list of users, so nobody knows how many pools there will be; state \
             max_host_connections or max_connections in [databases.{database}]",
            need.host
        )));
    }
    let Some(most) = need.most(|_| true) else {
        if need.open_ended.is_empty() {
            found.push(refuse(format!(
                "{}: a pool without a size has no limit; state pool_size, or max_host_connections for the host",
                need.host
            )));
        }
        return found;
    };
    match need.budget_of(facts) {
        Some(budget) => found.extend(fleet(need, facts, instances, budget)),
        None => found.extend(whole(need, facts, instances, most)),
    }
    found.extend(limits(need, facts, instances));
    if found.is_empty() {
        found.extend(present_use(need, facts, instances, most));
    }
    found
}

/// The most that all instances can open at the host, Howdah's own connections among them.
fn total(need: &HostNeed, facts: &Facts, instances: u32, most: u64) -> u64 {
    let sum = (most + u64::from(need.own)) * u64::from(instances);
    need.budget_of(facts).map_or(sum, |b| sum.min(u64::from(b)))
}

/// Above what the server has it cannot work. Above `safety_margin` nothing is left for migrations, backups and people:
/// a warning, and where the configuration states the margin, as good as a limit.
fn whole(need: &HostNeed, facts: &Facts, instances: u32, most: u64) -> Option<Finding> {
    let (ordinary, sum) = (u64::from(facts.ordinary()), total(need, facts, instances, most));
    let usable = need.usable(facts);
    let within_margin = need.margin_stated || sum <= ordinary;
    let limit = if within_margin { usable } else { ordinary };
    if sum <= usable {
        return None;
    }
    let one = most + u64::from(need.own);
    let margin = f64::from(need.margin) / 1000.0;
    let has = match within_margin {
        true => format!("safety_margin {margin:?} leaves them {usable} of the server's {ordinary}"),
        false => format!("the server has {limit} for them"),
    };
    let mut out =
        format!("{}: {} can open {sum} server connections, and {has}\n", need.host, count(instances));
    lines(&mut out, need, most);
    let _ = writeln!(out, "  one instance: {one}; {} of them: {sum}", instances);
    let _ = writeln!(out, "  the server: {}", facts.ordinary_sum());
    let _ = writeln!(out, "  what would fit, one of these:");
    let room = (limit / u64::from(instances)).saturating_sub(u64::from(need.own));
    let _ = writeln!(
        out,
        "    smaller pools: {} connections for the pools of one instance{}",
        room,
        smaller(need, room)
    );
    match limit / one.max(1) {
        0 => out.push_str("    fewer instances: none, already one has too many\n"),
        n => {
            let _ = writeln!(out, "    fewer instances: {n}");
        }
    }
    let for_them = if within_margin { (sum * 1000).div_ceil(u64::from(need.margin.max(1))) } else { sum };
    let _ = write!(
        out,
        "    larger max_connections: {}",
        for_them + u64::from(facts.superuser_reserved) + u64::from(facts.reserved)
    );
    if within_margin {
        let share = (sum * 1000).div_ceil(ordinary.max(1));
        if share <= 1000 {
            let _ = write!(out, "\n    a wider safety_margin: {:?}", share as f64 / 1000.0);
        }
    } else if usable < ordinary {
        let _ = write!(
            out,
            "\n  these fill the server; above {usable}, which safety_margin {margin:?} leaves, a warning remains"
        );
    }
    let severity = if sum > ordinary || need.margin_stated { Severity::Refuse } else { Severity::Warn };
    Some(Finding { severity, text: out })
}

fn fleet(need: &HostNeed, facts: &Facts, instances: u32, budget: u32) -> Option<Finding> {
    let limit = facts.ordinary();
    if budget > limit {
        return Some(refuse(format!(
            "{}: fleet.budget is {budget}, and the server has {limit} connections\n  the server: {}\n  what would \
             fit, one of these:\n    fleet.budget = {limit}\n    larger max_connections: {}",
            need.host,
            facts.ordinary_sum(),
            budget + facts.superuser_reserved + facts.reserved
        )));
    }
    let one = u64::from(need.minimum) + u64::from(need.own);
    let sum = one * u64::from(instances);
    (sum > u64::from(budget)).then(|| {
        refuse(format!(
            "{}: {} are guaranteed {sum} connections, and fleet.budget is {budget}\n  one instance: fleet.minimum {} + \
             Howdah's own {} = {one}\n  what would fit, one of these:\n    fleet.minimum = {}\n    fewer instances: \
             {}\n    fleet.budget = {sum}",
            need.host,
            count(instances),
            need.minimum,
            need.own,
            (u64::from(budget) / u64::from(instances)).saturating_sub(u64::from(need.own)),
            u64::from(budget) / one,
        ))
    })
}

/// CONNECTION LIMITs of roles and databases.
fn limits(need: &HostNeed, facts: &Facts, instances: u32) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut of = |what: &str, name: &str, limit: u32, most: Option<u64>| {
        let sum = most.unwrap_or(u64::MAX / 1_000_000) * u64::from(instances);
        let sum = need.budget_of(facts).map_or(sum, |b| sum.min(u64::from(b)));
        if sum > u64::from(limit) {
            found.push(refuse(format!(
                "{}: {} can open {sum} connections of {what} {name}, whose CONNECTION LIMIT is {limit}\n  what would \
                 fit, one of these:\n    smaller pools: {} connections of {what} {name} in one instance\n    fewer \
                 instances: {}\n    ALTER {} {name} CONNECTION LIMIT {sum}",
                need.host,
                count(instances),
                u64::from(limit) / u64::from(instances),
                u64::from(limit) * u64::from(instances) / sum.max(1),
                what.to_uppercase(),
            )));
        }
    };
    for role in need.roles() {
        if let Some(limit) = facts.role_limits.get(role) {
            of("role", role, *limit, need.most(|p| p.server_user == role));
        }
    }
    for database in need.databases() {
        if let Some(limit) = facts.database_limits.get(database) {
            of("database", database, *limit, need.most(|p| p.dbname == database));
        }
    }
    found
}

/// What others have now is no reason to refuse: it may be gone when the pools grow.
fn present_use(need: &HostNeed, facts: &Facts, instances: u32, most: u64) -> Option<Finding> {
    let roles = need.roles();
    let others = facts.used_by_others(|r| roles.contains(r));
    let sum = total(need, facts, instances, most);
    (sum + u64::from(others) > u64::from(facts.ordinary())).then(|| Finding {
        severity: Severity::Warn,
        text: format!(
            "{}: {} can open {sum} connections, and roles of no pool have {others} now: together more than the {} that \
             the server has ({})",
            need.host,
            count(instances),
            facts.ordinary(),
            facts.ordinary_sum()
        ),
    })
}

pub(super) fn count(instances: u32) -> String {
    if instances == 1 { "1 instance".to_owned() } else { format!("{instances} instances") }
}

/// The lines of the sum: every pool, the limits that are below it, and Howdah's own.
pub(super) fn lines(out: &mut String, need: &HostNeed, most: u64) {
    for pool in need.pools.iter().take(LISTED) {
        let _ = writeln!(
            out,
            "  {}: pool_size {} + reserve_pool_size {} = {}",
            pool.name(),
            pool.size,
            pool.reserve,
            pool.most().map_or("no limit".to_owned(), |n| n.to_string())
        );
    }
    let more: Vec<&PoolNeed> = need.pools.iter().skip(LISTED).collect();
    if !more.is_empty() {
        let sum: u64 = more.iter().filter_map(|p| p.most()).sum();
        let _ = writeln!(out, "  and {} more pools: {sum}", more.len());
    }
    let sum: u64 = need.pools.iter().filter_map(PoolNeed::most).sum();
    if most != sum {
        let _ = writeln!(out, "  within max_connections and max_host_connections: {most}");
    }
    let _ = writeln!(out, "  Howdah's own ({}): {}", need.own_kinds.join(", "), need.own);
}

/// The sizes that fill `room`, by the sizes that are stated.
fn smaller(need: &HostNeed, room: u64) -> String {
    if need.pools.len() > LISTED {
        return format!("; for example max_host_connections = {room}");
    }
    let weights: Vec<u64> = need.pools.iter().map(|p| p.most().unwrap_or(1)).collect();
    let sizes = divide(room, &weights);
    if sizes.contains(&0) {
        return format!("; for example max_host_connections = {room}");
    }
    let each = need.pools.iter().zip(sizes).map(|(p, n)| format!("{} {n}", p.name()));
    format!(", for example {}", each.collect::<Vec<_>>().join(", "))
}

/// Divides `whole` by weight, to the last unit; the largest remainders get what is left over.
pub fn divide(whole: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u64 = weights.iter().sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let part = |w: &u64| u128::from(whole) * u128::from(*w);
    let mut out: Vec<u64> =
        weights.iter().map(|w| u64::try_from(part(w) / u128::from(sum)).unwrap_or(whole)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(weights.get(*i).map_or(0, |w| part(w) % u128::from(sum))));
    let left = whole - out.iter().sum::<u64>();
    for i in order.into_iter().take(crate::number::size(left)) {
        if let Some(n) = out.get_mut(i) {
            *n += 1;
        }
    }
    out
}
