use std::time::Duration;

use super::check::{Severity, check, divide};
use super::facts::Facts;
use super::need::{HostNeed, needs};
use super::plan::plan;
use crate::config::{Config, Overrides, load};

fn config(text: &str) -> Config {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(file.path(), &Overrides::default()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn need(text: &str) -> HostNeed {
    let text = format!("auth_method = \"trust\"\n{text}");
    needs(&config(&text)).remove(0)
}

#[test]
fn a_listener_is_counted_where_it_is_stated_and_clients_can_make_one_necessary() {
    let own = |lines: &str| {
        let text = format!(
            "auth_method = \"trust\"\n{lines}\npool_size = 5\n[users.app]\n[databases.one]\nhost = \"db\"\n[databases.two]\nhost = \"db\"\n"
        );
        needs(&config(&text)).remove(0).own_kinds
    };
    assert_eq!(own("session_listen = \"share\""), ["checks", "listener", "listener"]);
    assert_eq!(own(""), ["checks"]);
    assert_eq!(own("session_listen = \"pin\""), ["checks"]);
    assert_eq!(own("session_listen = \"share\"\npool_mode = \"session\""), ["checks"]);
}

fn pool(lines: &str) -> HostNeed {
    need(&format!("[users.app]\n[databases.app]\nhost = \"db\"\n{lines}\n"))
}

fn hundred() -> Facts {
    Facts { version: 150_000, max_connections: 100, superuser_reserved: 3, ..Facts::default() }
}

fn refusal(need: &HostNeed, facts: &Facts, instances: u32) -> Option<String> {
    let found = check(need, facts, instances);
    found.into_iter().find(|f| f.severity == Severity::Refuse).map(|f| f.text)
}

/// The system that nobody added up: five instances, pools of 16 to 50 with a reserve of 5, 100 connections.
#[test]
fn the_sum_is_told_line_by_line_with_three_ways_out() {
    for (size, sum, most) in [(16, 110, 22), (20, 130, 26), (25, 155, 31), (30, 180, 36), (50, 280, 56)] {
        let need = pool(&format!("pool_size = {size}\nreserve_pool_size = 5"));
        let text = refusal(&need, &hundred(), 5).expect("it does not fit");
        for part in [
            format!("5 instances can open {sum} server connections, and the server has 97 for them"),
            format!("app/app/primary: pool_size {size} + reserve_pool_size 5 = {}", size + 5),
            "Howdah's own (checks): 1".to_owned(),
            format!("one instance: {most}; 5 of them: {sum}"),
            "max_connections 100 - superuser_reserved_connections 3 = 97".to_owned(),
            "smaller pools: 18 connections for the pools of one instance, for example app/app/primary 18"
                .to_owned(),
            format!("fewer instances: {}", 97 / most),
            format!("larger max_connections: {}", sum + 3),
        ] {
            assert!(text.contains(&part), "no {part:?} in\n{text}");
        }
    }
    // Each way out, taken, is one.
    assert_eq!(refusal(&pool("pool_size = 18"), &hundred(), 5), None);
    assert!(refusal(&pool("pool_size = 19"), &hundred(), 5).is_some());
    assert_eq!(refusal(&pool("pool_size = 25\nreserve_pool_size = 5"), &hundred(), 3), None);
    let larger = Facts { max_connections: 158, ..hundred() };
    assert_eq!(refusal(&pool("pool_size = 25\nreserve_pool_size = 5"), &larger, 5), None);
    let not_enough = Facts { max_connections: 157, ..hundred() };
    assert!(refusal(&pool("pool_size = 25\nreserve_pool_size = 5"), &not_enough, 5).is_some());
}

#[test]
fn limits_of_hosts_databases_and_users_bound_the_sum() {
    let two = |lines: &str| {
        need(&format!(
            "[users.a]\n[users.b]\nmax_connections = 4\n[databases.x]\nhost = \"db\"\npool_size = 50\n{lines}\n\
             [databases.y]\nhost = \"db\"\npool_size = 50\n"
        ))
    };
    assert_eq!(two("").most(|_| true), Some(104), "a has 100, b is bounded to 4");
    assert_eq!(two("max_connections = 10").most(|_| true), Some(104));
    assert_eq!(two("max_host_connections = 30").most(|_| true), Some(30));
    assert_eq!(two("max_connections = 10").most(|p| p.dbname == "x"), Some(10));
}

#[test]
fn roles_and_databases_have_limits_of_their_own() {
    let need = pool("pool_size = 10");
    let role = Facts { role_limits: [("app".to_owned(), 25)].into(), ..hundred() };
    assert_eq!(refusal(&need, &role, 2), None);
    let text = refusal(&need, &role, 3).expect("30 > 25");
    for part in
        ["role app, whose CONNECTION LIMIT is 25", "ALTER ROLE app CONNECTION LIMIT 30", "8 connections"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let database = Facts { database_limits: [("app".to_owned(), 29)].into(), ..hundred() };
    assert!(refusal(&need, &database, 3).is_some_and(|t| t.contains("ALTER DATABASE app")));
}

#[test]
fn present_use_of_others_only_warns() {
    let need = need("safety_margin = 1.0\n[users.app]\n[databases.app]\nhost = \"db\"\npool_size = 40\n");
    let mut facts = Facts { in_use: [("app".to_owned(), 80)].into(), ..hundred() };
    assert_eq!(check(&need, &facts, 2), [], "ours are among what is counted");
    facts.in_use.insert("backup".to_owned(), 16);
    let found = check(&need, &facts, 2);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity, Severity::Warn, "{}", found[0].text);
}

#[test]
fn users_that_nobody_knows_need_a_limit() {
    let open = |lines: &str| {
        let mut config = config(&format!(
            "auth_method = \"trust\"\n[databases.app]\nhost = \"db\"\npool_size = 5\n{lines}\n"
        ));
        config.users.clear();
        needs(&config).remove(0)
    };
    assert!(refusal(&open(""), &hundred(), 1).is_some_and(|t| t.contains("no list of users")));
    assert_eq!(refusal(&open("max_host_connections = 50"), &hundred(), 1), None);
    assert_eq!(refusal(&open("max_connections = 50"), &hundred(), 1), None);
}

#[test]
fn a_fleets_budget_replaces_the_sum() {
    let fleet = |budget: &str, minimum: u32| {
        need(&format!(
            "[users.app]\n[databases.app]\nhost = \"db\"\npool_size = 50\n[fleet]\nbudget = {budget}\nminimum = {minimum}\n"
        ))
    };
    assert_eq!(refusal(&fleet("60", 5), &hundred(), 8), None);
    assert!(refusal(&fleet("60", 6), &hundred(), 8).is_some_and(|t| t.contains("fleet.minimum = 5")));
    assert!(refusal(&fleet("98", 1), &hundred(), 1).is_some_and(|t| t.contains("fleet.budget = 97")));
    assert_eq!(fleet("\"80%\"", 1).budget_of(&hundred()), Some(80));
    assert_eq!(fleet("0.8", 1).budget_of(&hundred()), Some(80));
}

#[test]
fn the_derivation_uses_what_is_stated() {
    let need = pool("pool_size = 50\nexpected_tps = 1000\nexpected_duration = \"5ms\"");
    assert_eq!(need.pools[0].expected_duration, Some(Duration::from_millis(5)));
    let p = plan(&need, Ok(&hundred()), 5);
    assert_eq!(p.sizes, [14], "{}", p.text);
    assert!(p.refused, "as configured it does not fit");
    for part in [
        "97 x 0.8 = 77 for poolers",
        "77 / 5 = 15 each, less Howdah's own 1: 14 for pools",
        "14 x 1/1 = 14: pool_size = 14",
        "1000/s x 5ms = 5.00 in use, 1.00 in each instance: 2 at least",
        "refused: db:5432: 5 instances can open 255",
    ] {
        assert!(p.text.contains(part), "no {part:?} in\n{}", p.text);
    }
    let derived = pool("pool_size = 14");
    assert!(!plan(&derived, Ok(&hundred()), 5).refused);
    // More than the server can carry, whatever the sizes.
    let heavy = pool("pool_size = 14\nexpected_tps = 20000\nexpected_duration = \"5ms\"");
    assert!(plan(&heavy, Ok(&hundred()), 5).text.contains("cannot carry it"));
    assert!(plan(&need, Err("connection refused"), 5).text.contains("could not be asked"));
}

#[test]
fn a_division_is_whole() {
    for whole in 0..200u64 {
        for weights in [&[1, 1, 1][..], &[3, 1], &[7, 5, 3, 1], &[1]] {
            let parts = divide(whole, weights);
            assert_eq!(parts.iter().sum::<u64>(), whole);
            let sum: u64 = weights.iter().sum();
            for (p, w) in parts.iter().zip(weights) {
                assert!(p.abs_diff(whole * w / sum) <= 1);
            }
        }
    }
}

/// 85 of 97: it can work, and leaves nothing to anybody else. `plan`, `check` and the start are one function.
#[test]
fn above_the_margin_is_a_warning_and_a_refusal_where_the_margin_is_stated() {
    let of = |top: &str| need(&format!("{top}[users.app]\n[databases.app]\nhost = \"db\"\npool_size = 16\n"));
    let found = check(&of(""), &hundred(), 5);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one.severity, Severity::Warn);
    for part in [
        "5 instances can open 85 server connections, and safety_margin 0.8 leaves them 77 of the server's 97",
        "one instance: 17; 5 of them: 85",
        "smaller pools: 14 connections",
        "a wider safety_margin: 0.877",
        "larger max_connections: 110",
    ] {
        assert!(one.text.contains(part), "no {part:?} in\n{}", one.text);
    }
    assert!(!plan(&of(""), Ok(&hundred()), 5).refused);
    let stated = of("safety_margin = 0.8\n");
    assert!(refusal(&stated, &hundred(), 5).is_some_and(|t| t.contains("safety_margin 0.8 leaves them 77")));
    assert!(plan(&stated, Ok(&hundred()), 5).refused);
    assert_eq!(check(&stated, &hundred(), 4), [], "68 of 77");
    assert_eq!(check(&of("safety_margin = 1.0\n"), &hundred(), 5), []);
    // Each way out, taken, is one.
    let larger = Facts { max_connections: 110, ..hundred() };
    assert_eq!(check(&stated, &larger, 5), []);
    assert_eq!(check(&of("safety_margin = 0.877\n"), &hundred(), 5), []);
}
