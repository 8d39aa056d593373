//! The decision of [`super::share::Terms::grant`], as one statement under a lock, and what it answers.

use std::fmt::Write as _;

use super::share::{Member, Terms, View};

/// What the backends of a fleet have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub fleet: String,
    /// Databases of the pools, on the server.
    pub databases: Vec<String>,
    /// Roles of the pools; empty where not all are known, and then every role counts.
    pub roles: Vec<String>,
    /// Each `application_name` of Howdah's own connections, the control connections apart.
    pub own: &'static [&'static str],
}

/// Marks control connections, before the fleet's name.
pub const MARK: &str = "howdah-fleet";
/// The first key of the advisory lock: `Howd`; the second is the fleet's name.
const LOCK: u32 = 0x486f_7764;
/// `application_name` has 63 bytes: mark, name, id, and four figures.
pub const MAX_NAME: usize = 16;
const MAX_FIGURE: u32 = 99_999;

impl Member {
    /// The figures as they stand in an `application_name`, without the openings that a statement adds.
    fn name(&self, scope: &Scope, opening: &str) -> String {
        let f = |n: u32| n.min(MAX_FIGURE);
        format!(
            "{MARK} {} {} {} {} {opening} {}",
            scope.fleet,
            self.id,
            f(self.minimum),
            f(self.used),
            f(self.wants)
        )
    }
}

/// The name that a control connection begins with.
pub fn first_name(scope: &Scope, me: &Member) -> String {
    me.name(scope, &me.opening.to_string())
}

/// For what the others are called, where the server is a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// If less is granted than is wanted.
    pub lack: bool,
    /// If somebody lacks something.
    pub freed: bool,
}

fn channel(scope: &Scope) -> String {
    format!("{MARK} {}", scope.fleet)
}

/// Lets the session hear who calls.
pub fn listen(scope: &Scope) -> String {
    format!("LISTEN \"{}\"", channel(scope))
}

/// Asks for `wanted` connections, which may be none, tells the others about `me`, and reads what they tell. Nothing
/// is granted if one of `known` has gone.
pub fn decide(scope: &Scope, terms: &Terms, me: &Member, known: &[String], wanted: u32) -> String {
    let Terms { budget, instances, minimum, own } = *terms;
    let (ours, member) = (within(scope), of_member(scope));
    let (fleet, own_names) = (&scope.fleet, array(scope.own));
    let name = me.name(scope, "%s");
    let known = array(known);
    let (used, opening) = (me.used, me.opening);
    let mut q = String::new();
    let _ = write!(
        q,
        "SELECT pg_advisory_xact_lock({LOCK}, hashtext('{fleet}'));
WITH a AS MATERIALIZED (
  SELECT pid, application_name AS n, datname AS d, usename AS u FROM pg_stat_activity
  WHERE usename IS NOT NULL AND backend_type IS DISTINCT FROM 'parallel worker'
), t AS MATERIALIZED (
  SELECT string_to_array(n, ' ') AS f FROM a
  WHERE pid <> pg_backend_pid() AND {member} AND n ~ '^{MARK} {fleet} [0-9a-f]{{8}}( [0-9]{{1,5}}){{4}}$'
), m AS MATERIALIZED (
  SELECT f[3] AS id, f[4]::int AS minimum, f[5]::int AS used, f[6]::int AS opening, f[7]::int AS wants FROM t
), c AS MATERIALIZED (
  SELECT (SELECT count(*) FROM a WHERE {ours} OR {member} AND n LIKE '{MARK} {fleet} %')::int AS backends,
         (SELECT count(*) FROM a WHERE ({ours}) AND n = ANY ({own_names}))::int AS own,
         greatest({instances} - 1 - (SELECT count(*) FROM m), 0)::int AS absent,
         (SELECT coalesce(sum(opening), 0) FROM m)::int AS opening,
         (SELECT coalesce(sum(greatest(minimum - used - opening, 0)), 0) FROM m)::int AS missing,
         (SELECT count(*) FROM unnest({known}) AS k WHERE k NOT IN (SELECT id FROM m))::int AS vanished
), r AS MATERIALIZED (
  SELECT greatest({budget} - backends - opening - {opening} - greatest({instances} * {own} - own, 0) - absent, 0)
           AS room, missing + absent * {minimum} AS reserved, vanished FROM c
), g AS MATERIALIZED (
  SELECT CASE WHEN vanished > 0 THEN 0 ELSE
    least({wanted}, greatest(least(greatest({minimum} - {used} - {opening}, 0), room), room - reserved)) END AS granted
  FROM r
), s AS MATERIALIZED (
  SELECT set_config('application_name', format({name}, least({opening} + granted, {MAX_FIGURE})), false) AS told FROM g
)
SELECT c.backends, c.own, c.vanished, g.granted, s.told, pg_is_in_recovery() AS recovery,
       (SELECT string_agg(concat_ws(' ', id, minimum, used, opening, wants), ',' ORDER BY id) FROM m) AS others
FROM c, g, s",
        name = literal(&name),
    );
    q
}

/// Calls the others. A statement of its own: where the server's queue of notifications is full it fails, and nothing but
/// the others' delay may depend on it.
pub fn call(scope: &Scope) -> String {
    format!("SELECT pg_notify({}, '')", literal(&channel(scope)))
}

/// What [`decide`] answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub view: View,
    pub granted: u32,
    /// Members that were known and are gone.
    pub vanished: u32,
    /// The server is not in recovery.
    pub primary: bool,
}

/// Reads the one row, by the names of its columns.
pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Decision> {
    let number = |column: &str| get(column)?.parse::<u32>().ok();
    let others = get("others").unwrap_or_default();
    let others = others.split(',').filter(|m| !m.is_empty()).map(member).collect::<Option<Vec<_>>>()?;
    Some(Decision {
        view: View { backends: number("backends")?, own: number("own")?, others },
        granted: number("granted")?,
        vanished: number("vanished")?,
        primary: get("recovery")? == "f",
    })
}

fn member(text: &str) -> Option<Member> {
    let mut parts = text.split(' ');
    let id = parts.next()?.to_owned();
    let mut figure = || parts.next()?.parse::<u32>().ok();
    Some(Member { id, minimum: figure()?, used: figure()?, opening: figure()?, wants: figure()? })
}

/// Where sessions of the pools are, and whose.
fn within(scope: &Scope) -> String {
    of_roles(scope, format!("d = ANY ({})", array(&scope.databases)))
}

/// Where control connections are, and whose; a name alone makes nobody a member. Clients of the pools, who may call
/// themselves what they like, are elsewhere, unless the control connections are in a database of theirs.
fn of_member(scope: &Scope) -> String {
    of_roles(scope, format!("(d = current_database() OR d <> ALL ({}))", array(&scope.databases)))
}

fn of_roles(scope: &Scope, place: String) -> String {
    if scope.roles.is_empty() {
        return place;
    }
    format!("{place} AND u = ANY ({})", array(&scope.roles))
}

fn array(items: &[impl AsRef<str>]) -> String {
    let items: Vec<String> = items.iter().map(|i| literal(i.as_ref())).collect();
    format!("ARRAY[{}]::text[]", items.join(", "))
}

/// A string literal; the control connection has standard_conforming_strings on.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_figures_are_read() {
        assert_eq!(literal("it's"), "'it''s'");
        let row = |column: &str| match column {
            "backends" => Some("12"),
            "own" | "vanished" => Some("0"),
            "recovery" => Some("f"),
            "granted" => Some("3"),
            "others" => Some("00000001 1 2 3 4,00000002 5 6 7 8"),
            _ => None,
        };
        let d = read(row).expect("a decision");
        assert_eq!((d.granted, d.view.backends, d.view.others.len()), (3, 12, 2));
        assert!(d.primary);
        let second = Member { id: "00000002".to_owned(), minimum: 5, used: 6, opening: 7, wants: 8 };
        assert_eq!(d.view.others[1], second);
        assert_eq!(read(|c| if c == "others" { Some("x y") } else { row(c) }), None);
    }

    #[test]
    fn a_name_fits_where_it_must() {
        let scope = Scope { fleet: "f".repeat(MAX_NAME), databases: vec![], roles: vec![], own: &["howdah"] };
        let big = Member { id: "0".repeat(8), minimum: 1 << 30, used: 1 << 30, opening: 0, wants: 1 << 30 };
        assert!(big.name(&scope, &MAX_FIGURE.to_string()).len() <= 63);
    }
}
