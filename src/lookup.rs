//! `auth_query`: the secrets of users that are not listed, asked of the server on a connection of its own.
//!
//! Nothing of a client's reaches that connection but its name, as a bound parameter; its search_path is pg_catalog
//! (CVE-2025-12819). An answer belongs to the question, the database in which it was asked, and one user.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::source::{BySource, Source};
use crate::clock::Clock;
use crate::config::resolved::{Config, Database, HostAddr, Lookup, Profile, Role, Secret};
use crate::error::{Error, ServerError};
use crate::server::own::{self, Own, OwnError, Rows};
use crate::server::target::Target;
use crate::shared::Shared;

/// Who may log in, and until when.
const QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
                     FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// Answers, and the connections on which they are asked for.
#[derive(Default)]
pub struct Lookups {
    answers: Mutex<BySource<Answer>>,
    lanes: Mutex<HashMap<(String, String), Arc<Lane>>>,
    /// How long the last answers took, by their questions.
    paces: Mutex<HashMap<Source, Pace>>,
}

/// How long the last answers to a question took.
#[derive(Debug, Default)]
struct Pace {
    last: VecDeque<Duration>,
}

impl Pace {
    /// Enough to draw from that one slow answer does not stand out.
    const KEPT: usize = 64;
    /// A server that is slower is not imitated: a listed user does not depend on it.
    const MOST: Duration = Duration::from_millis(50);
    /// What timers can tell apart.
    const STEP: Duration = Duration::from_millis(1);

    fn add(&mut self, took: Duration) {
        if self.last.len() >= Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(took.min(Self::MOST));
    }

    /// One of the last, by a number that is drawn.
    fn one(&self, drawn: u32) -> Duration {
        let n = u32::try_from(self.last.len()).unwrap_or(1).max(1);
        self.last.get((drawn % n) as usize).copied().unwrap_or_default()
    }

    /// When a client is told what its secret is asked for with, if finding that out took so long.
    fn steps(took: Duration) -> Duration {
        let steps = took.as_micros() / Self::STEP.as_micros() + 1;
        Self::STEP * u32::try_from(steps).unwrap_or(u32::MAX)
    }
}

/// Waits as long as a client waits whose secret the server is asked for, so that the time of the first answer does not tell
/// whom the configuration lists, nor whom the server was asked about lately. `began` is when the login got so far;
/// `asked` says that the server was asked for this one, or its answer was at hand.
pub async fn keep_pace(lookups: &Lookups, source: &Source, began: Instant, asked: Asked) {
    let took = match asked {
        Asked::Now => Clock::now().saturating_duration_since(began),
        Asked::Not => {
            let paces = lookups.paces.lock();
            paces.get(source).map_or(Duration::ZERO, |p| p.one(rand::random()))
        }
    };
    tokio::time::sleep_until((began + Pace::steps(took)).into()).await;
}

/// Whether the server was asked for this login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Now,
    Not,
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookups(..)")
    }
}

#[derive(Clone)]
struct Answer {
    found: Found,
    /// Nothing once a login has failed with it.
    at: Option<Instant>,
}

/// What the server says of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is no row.
    Nobody,
    /// There is one, and no password lets this user in.
    NoSecret,
    Secret(Secret),
}

impl Found {
    pub fn secret(self) -> Option<Secret> {
        match self {
            Self::Secret(s) => Some(s),
            Self::Nobody | Self::NoSecret => None,
        }
    }
}

/// One connection, and who asks on it waits for its turn. It belongs to one configuration.
#[derive(Default)]
struct Lane(tokio::sync::Mutex<Option<(Arc<Config>, Own)>>);

impl Lookups {
    /// A login failed with it: the next one asks.
    pub fn distrust(&self, source: &Source, user: &str) {
        if let Some(a) = self.answers.lock().get_mut(source, user) {
            a.at = None;
        }
    }

    /// What was asked under another configuration may not be what this one asks: each login asks anew.
    pub fn distrust_all(&self) {
        for a in self.answers.lock().values_mut() {
            a.at = None;
        }
    }

    /// Of roles that exist alone: strangers could fill the memory with names.
    fn keep(&self, source: &Source, user: &str, found: &Found, now: Instant) {
        let mut answers = self.answers.lock();
        match found {
            Found::Nobody => answers.remove(source, user),
            Found::NoSecret | Found::Secret(_) => {
                answers.put(source, user, Answer { found: found.clone(), at: Some(now) });
            }
        }
    }

    /// Where to ask. Those without a connection that nobody waits for are dropped: with `databases."*"` the names are
    /// the choice of clients that are not logged in, and most of them are of no database.
    fn lane(&self, place: &str, asker: &str) -> Arc<Lane> {
        let (key, mut lanes) = ((place.to_owned(), asker.to_owned()), self.lanes.lock());
        if !lanes.contains_key(&key) {
            // Nobody takes one from the map meanwhile, and who has one counts.
            lanes.retain(|_, l| Arc::strong_count(l) > 1 || l.0.try_lock().is_ok_and(|c| c.is_some()));
        }
        lanes.entry(key).or_default().clone()
    }

    fn answer(&self, source: &Source, user: &str) -> Option<Answer> {
        self.answers.lock().get(source, user).cloned()
    }
}

/// How the secret of an unlisted user of this database is asked for, if at all.
pub fn how(config: &Config, database: &str) -> Option<Lookup> {
    let how = match config.database(database) {
        Some(db) => db.lookup.clone(),
        // The console is no database to ask in.
        None if config.is_console(database) => {
            // PgBouncer takes its console for the place to ask in, and fails.
            let asks = |l: &&Lookup| l.database.is_some() || config.profile == Profile::PgBouncer;
            Some(&config.access.lookup).filter(asks)?.clone()
        }
        // Nowhere to ask in: the login fails as a wrong password does.
        None => return None,
    };
    how.user.is_some().then_some(how)
}

/// What the server says of this user, by an answer that is young enough or by a new one. `database` is that which
/// the client wants. Not being asked in time is the caller's to notice.
pub async fn ask(
    lookups: &Lookups,
    shared: &Shared,
    config: &Arc<Config>,
    database: &str,
    how: &Lookup,
    user: &str,
) -> Result<(Found, Asked), Error> {
    let began = Clock::now();
    let oldest = began.checked_sub(config.access.lifetime).unwrap_or(began);
    let source = Source::asked(how, database);
    let young = |since: Instant| lookups.answer(&source, user).filter(|a| a.at.is_some_and(|at| at >= since));
    if let Some(a) = young(oldest).filter(|_| !config.access.lifetime.is_zero()) {
        shared.counters.count("auth_lookups_total", "cached");
        return Ok((a.found, Asked::Not));
    }
    let (place, asker) =
        (how.database.as_deref().unwrap_or(database), how.user.as_deref().unwrap_or_default());
    let lane = lookups.lane(place, asker);
    let mut lane = lane.0.lock().await;
    // Somebody else may have asked the same while we waited.
    if let Some(a) = young(began) {
        shared.counters.count("auth_lookups_total", "shared");
        return Ok((a.found, Asked::Now));
    }
    // Out of its place while it is asked: a login that is given up leaves it in the middle of an answer.
    let open = lane.take().filter(|(c, _)| Arc::ptr_eq(c, config)).map(|(_, own)| own);
    let asked = exchange(shared, config, place, how, user, open).await;
    match asked {
        Ok((found, own)) => {
            *lane = Some((config.clone(), own));
            lookups.keep(&source, user, &found, Clock::now());
            let outcome = if found == Found::Nobody { "nobody" } else { "found" };
            shared.counters.count("auth_lookups_total", outcome);
            let took = Clock::now().saturating_duration_since(began);
            lookups.paces.lock().entry(source).or_default().add(took);
            Ok((found, Asked::Now))
        }
        Err(reason) => {
            // A name that leads nowhere leaves nothing either.
            lookups.lanes.lock().remove(&(place.to_owned(), asker.to_owned()));
            shared.counters.count("auth_lookups_total", "failed");
            if config.profile == Profile::PgBouncer {
                // In its log the server's words stand as they are; the whole line is escaped where it is written.
                tracing::warn!(database, auth_user = asker, user, "auth_query failed: {reason}");
            } else {
                tracing::warn!(database, auth_user = asker, user, error = %reason, "auth_query failed");
            }
            Err(match reason {
                // In PgBouncer's place the server's own words reach the client.
                Failed::Login(e) if config.profile == Profile::PgBouncer => {
                    tracing::warn!(target: "pgbouncer", "server login failed: FATAL {}", e.message());
                    Error::ServerLogin(e)
                }
                reason => Error::LookupFailed { reason: reason.to_string() },
            })
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// auth_user was refused.
    #[error("server refused the login of auth_user: {}", .0.summary())]
    Login(ServerError),
    #[error("{0}")]
    Otherwise(String),
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self::Otherwise(reason)
    }
}

async fn exchange(
    shared: &Shared,
    config: &Config,
    place: &str,
    how: &Lookup,
    user: &str,
    open: Option<Own>,
) -> Result<(Found, Own), Failed> {
    if config.is_console(place) {
        return Err(format!("cannot use the reserved \"{place}\" database as an auth_dbname").into());
    }
    if shared.control.is_disabled(place) {
        return Err(format!("authentication database \"{place}\" is disabled").into());
    }
    let sql = how.query.as_deref().unwrap_or(QUERY);
    if let Some(mut own) = open {
        match own.query_with(sql, &[Some(user)]).await {
            Ok(rows) => return Ok((found(&rows)?, own)),
            Err(e @ OwnError::Refused(_)) => return Err(refused(&e).into()),
            // The server may have restarted since: a new connection tells.
            Err(OwnError::Lost(_)) => {}
        }
    }
    let db = config
        .database(place)
        .ok_or_else(|| format!("authentication database \"{place}\" is not configured"))?;
    let mut own = dial(shared, config, &db, how).await?;
    let rows = own.query_with(sql, &[Some(user)]).await.map_err(|e| refused(&e))?;
    Ok((found(&rows)?, own))
}

fn refused(e: &OwnError) -> String {
    format!("error response from auth_query: {e}")
}

/// One row of a name and a secret.
fn found(rows: &Rows) -> Result<Found, String> {
    if rows.columns.len() != 2 {
        return Err(format!("expected 2 columns from auth_query, not {}", rows.columns.len()));
    }
    match rows.rows.as_slice() {
        [] => Ok(Found::Nobody),
        [row] => match (row.first(), row.get(1)) {
            (Some(Some(_)), Some(Some(secret))) if !secret.is_empty() => {
                Ok(Found::Secret(Secret::classify(secret)))
            }
            (Some(Some(_)), _) => Ok(Found::NoSecret),
            _ => Err("auth_query response contained null user name".to_owned()),
        },
        many => Err(format!("auth_query answered {} rows for one user", many.len())),
    }
}

/// Logs in as auth_user on the first of the database's hosts that lets it.
async fn dial(shared: &Shared, config: &Config, db: &Database, how: &Lookup) -> Result<Own, Failed> {
    let target = target(config, db, how).ok_or_else(|| "the database has no server to ask".to_owned())?;
    let mut last = Failed::Otherwise("the database has no host".to_owned());
    for host in db.roles.get(&Role::Primary).map_or(&[][..], |r| r.hosts.as_slice()) {
        match Own::open(HostAddr::clone(host), &target, &shared.handshakes.servers).await {
            Ok(own) => return Ok(own),
            Err(f) => {
                last = match f.error() {
                    Error::ServerLogin(e) => Failed::Login(e.clone()),
                    e => format!("{host}: {e}").into(),
                }
            }
        }
    }
    Err(last)
}

fn target(config: &Config, db: &Database, how: &Lookup) -> Option<Target> {
    let user: Arc<str> = how.user.as_deref()?.into();
    let mut target = Target::resolve(config, db, &user, Role::Primary)?;
    target.secret = config.users.get(&*user).and_then(|u| u.secret.clone());
    target.user = user;
    target.on_connect.clear();
    target.startup = vec![("application_name".to_owned(), own::AUTH_QUERY.to_owned())];
    // PgBouncer's users have queries that call functions of other schemas by their mere names.
    if config.profile == Profile::Native || how.query.is_none() {
        target.startup.push(("search_path".to_owned(), "pg_catalog".to_owned()));
    }
    Some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_row_of_two_columns() {
        let rows = |columns: usize, rows: &[&[Option<&str>]]| Rows {
            columns: vec!["c".to_owned(); columns],
            rows: rows.iter().map(|r| r.iter().map(|v| v.map(str::to_owned)).collect()).collect(),
        };
        assert_eq!(found(&rows(2, &[])), Ok(Found::Nobody));
        assert_eq!(found(&rows(2, &[&[Some("u"), None]])), Ok(Found::NoSecret));
        assert_eq!(found(&rows(2, &[&[Some("u"), Some("")]])), Ok(Found::NoSecret), "an empty one is none");
        assert_eq!(found(&rows(2, &[&[Some("u"), Some("p")]])), Ok(Found::Secret(Secret::classify("p"))));
        assert!(found(&rows(2, &[&[None, Some("p")]])).is_err());
        assert!(found(&rows(1, &[])).is_err() && found(&rows(3, &[])).is_err());
        assert!(found(&rows(2, &[&[Some("u"), None], &[Some("u"), Some("p")]])).is_err());
    }

    /// Both ends of a login's time are multiples of what a timer can tell apart, drawn from the same figures.
    #[test]
    fn whoever_is_not_asked_about_waits_as_those_who_are() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.one(7), Duration::ZERO, "nobody was asked about yet");
        for n in 0..200 {
            pace.add(Duration::from_micros(200 + n));
        }
        assert_eq!(pace.last.len(), Pace::KEPT);
        for drawn in 0..1000 {
            assert_eq!(Pace::steps(pace.one(drawn)), ms(1));
        }
        pace.add(Duration::from_secs(5));
        assert_eq!(pace.one(63), Pace::MOST, "a server that hangs does not hold up who is listed");
        for (took, told) in [(0, 1), (999, 1), (1000, 2), (1001, 2), (7300, 8)] {
            assert_eq!(Pace::steps(Duration::from_micros(took)), ms(told));
        }
    }

    #[test]
    fn names_of_databases_that_cannot_be_asked_leave_nothing() {
        let l = Lookups::default();
        let waiting = l.lane("slow", "asker");
        for n in 0..100 {
            drop(l.lane(&format!("d{n}"), "asker"));
        }
        assert_eq!(l.lanes.lock().len(), 2, "the one that somebody waits for and the last");
        assert!(Arc::ptr_eq(&waiting, &l.lane("slow", "asker")), "who asks in one database takes turns");
    }

    #[test]
    fn an_answer_is_of_one_question_and_user() {
        let l = Lookups::default();
        let how = Lookup { user: Some("asker".to_owned()), ..Lookup::default() };
        let (d, e) = (Source::asked(&how, "d"), Source::asked(&how, "e"));
        l.keep(&d, "u", &Found::Secret(Secret::classify("p")), Clock::now());
        assert!(l.answer(&d, "u").is_some());
        assert!(l.answer(&e, "u").is_none() && l.answer(&d, "v").is_none());
        l.distrust(&d, "u");
        assert!(l.answer(&d, "u").expect("it").at.is_none());
        l.keep(&d, "nobody", &Found::Nobody, Clock::now());
        assert!(l.answer(&d, "nobody").is_none(), "a name that is no role leaves nothing");
        l.keep(&d, "u", &Found::Nobody, Clock::now());
        assert!(l.answer(&d, "u").is_none(), "nor does a role that is gone");
    }
}
