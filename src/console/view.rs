//! What a SHOW may look at: one moment of everything that runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clients::handle::{ClientCtl, ClientState};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::resolved::{Database, PoolMode, Role};
use crate::pool::Pool;
use crate::services::Services;

/// See the module. Figures are read when they are asked for, each kind under its own short locks.
#[derive(Debug)]
pub struct View {
    pub services: Arc<Services>,
    pub config: Arc<Config>,
    /// The database that the client of the console named: `pgbouncer` or `howdah`.
    pub console: Arc<str>,
    pub now: Instant,
    wall: SystemTime,
}

pub use crate::config::CONSOLE as PGBOUNCER;

/// Clients of one database and user.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientCounts {
    pub active: usize,
    pub waiting: usize,
}

impl View {
    pub fn new(services: Arc<Services>, console: Arc<str>) -> Self {
        let config = services.config();
        Self { services, config, console, now: Clock::now(), wall: Clock::wall() }
    }

    /// Pools by key.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.services.pools.all()
    }

    /// Clients by the time at which they came.
    pub fn clients(&self) -> Vec<Arc<ClientCtl>> {
        let mut all = self.services.clients.all();
        all.sort_by_key(|c| (c.connected, c.id));
        all
    }

    pub fn is_console(&self, database: &str) -> bool {
        self.config.is_console(database)
    }

    /// Clients by database and user.
    pub fn client_counts(&self) -> HashMap<(Arc<str>, Arc<str>), ClientCounts> {
        let mut counts: HashMap<_, ClientCounts> = HashMap::new();
        self.services.clients.each(|c| {
            let of = counts.entry((c.database.clone(), c.user.clone())).or_default();
            if c.state() == ClientState::Waiting {
                of.waiting += 1;
            } else {
                of.active += 1;
            }
        });
        counts
    }

    /// Figures of all pools of a database, those that are gone among them.
    /// `YYYY-MM-DD HH:MM:SS UTC`.
    pub fn time(&self, t: Instant) -> String {
        let ago = self.now.saturating_duration_since(t);
        let since_epoch =
            self.wall.duration_since(UNIX_EPOCH).unwrap_or_default().checked_sub(ago).unwrap_or_default();
        timestamp(since_epoch)
    }

    /// The same of milliseconds of the clock.
    pub fn time_ms(&self, ms: u64) -> String {
        let ago = self.services.clock.ms(self.now).saturating_sub(ms);
        self.time(self.now.checked_sub(Duration::from_millis(ago)).unwrap_or(self.now))
    }

    /// The port that clients connect to, as PgBouncer has one.
    pub fn port(&self) -> u16 {
        self.config.listen.tcp.first().map_or(6432, std::net::SocketAddr::port)
    }

    /// The mode of a database where it is not the one that holds for all.
    pub fn stated_mode(&self, db: &Database) -> Option<&'static str> {
        let mode: PoolMode = db.pool.mode;
        (mode != self.config.pool.mode).then(|| mode.as_str())
    }

    pub fn primary_of<'a>(&self, db: &'a Database) -> Option<&'a crate::config::resolved::RoleConfig> {
        db.roles.get(&Role::Primary)
    }
}

fn timestamp(since_epoch: Duration) -> String {
    let secs = since_epoch.as_secs();
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them() {
        for (secs, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (1_795_266_038, "2026-11-21 13:00:38 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(secs)), text);
        }
    }
}
