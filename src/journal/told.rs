//! The log of errors that clients are told: one line for each, with the severity that [`level`] gives it, as long as
//! `log_pooler_errors` is on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clients::handle::ClientCtl;
use crate::clock::Clock;
use crate::error::{Error, Level, level, report};
use crate::journal::{self, Who};
use crate::net::stream::Peer;
use crate::shared::Shared;

/// So many lines of one code within [`PERIOD`] are written where sessions go on after the error; each of ten thousand
/// clients that wait in vain has the same to say.
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// What was written lately, by the error's code.
#[derive(Debug)]
pub struct Told {
    shared: Arc<Shared>,
    lately: Mutex<HashMap<&'static str, Lately>>,
}

#[derive(Debug)]
struct Lately {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

/// Writes an event with the severity of an error, which `tracing` wants to know when it is compiled.
macro_rules! event {
    ($error:expr, $($what:tt)+) => {
        match level($error) {
            Level::Error => tracing::error!($($what)+),
            Level::Warning => tracing::warn!($($what)+),
            Level::Info => tracing::info!($($what)+),
        }
    };
}

impl Told {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lately: Mutex::default() }
    }

    /// The number of lines that were left out before this one; `None` where this one is left out.
    fn admit(&self, code: &'static str, now: Instant) -> Option<u64> {
        let mut all = self.lately.lock();
        let l = all.entry(code).or_insert(Lately { since: now, lines: 0, suppressed: 0 });
        if now.saturating_duration_since(l.since) >= PERIOD {
            (l.since, l.lines) = (now, 0);
        }
        if l.lines >= LINES {
            l.suppressed += 1;
            return None;
        }
        l.lines += 1;
        Some(std::mem::take(&mut l.suppressed))
    }

    /// A client was told why its connection ends.
    pub fn end(&self, ctl: &ClientCtl, e: &Error) {
        if self.shared.pgbouncer() {
            let age = Clock::now().saturating_duration_since(ctl.connected);
            journal::told(&self.shared, &Who::client(ctl), &journal::words(e), age);
        } else if self.shared.log_pooler_errors() {
            let code = report(e).code;
            event!(e, client = ctl.id, user = %ctl.user, database = %ctl.database, code, error = %e, "client told");
        }
    }

    /// A client was told of an error, after which its session goes on.
    pub fn in_session(&self, ctl: &ClientCtl, e: &Error) {
        if !self.shared.log_pooler_errors() {
            return;
        }
        let code = report(e).code;
        let Some(suppressed) = self.admit(code, Clock::now()) else {
            self.shared.counters.count("log_suppressed_total", "client_told");
            return;
        };
        if self.shared.pgbouncer() {
            journal::warning(
                &self.shared,
                &Who::client(ctl),
                format_args!("pooler error: {}", journal::words(e)),
            );
            return;
        }
        event!(
            e,
            client = ctl.id, user = %ctl.user, database = %ctl.database, code, error = %e, suppressed, "client told"
        );
    }

    /// Somebody who wanted to log in was told why not.
    pub fn refused(&self, peer: Peer, user: &str, database: &str, e: &Error) {
        if self.shared.log_pooler_errors() {
            event!(e, %peer, user, database, code = report(e).code, error = %e, "login refused");
        }
    }

    /// Somebody on the console was refused a command.
    pub fn on_the_console(&self, ctl: &ClientCtl, e: &Error) {
        if self.shared.log_pooler_errors() {
            event!(e, client = ctl.id, user = %ctl.user, code = report(e).code, "console: refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;
    use crate::error::catalog::samples;

    /// Level and code of every event.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<(tracing::Level, String)>>>);

    struct Code(String);

    impl Visit for Code {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "code" {
                value.clone_into(&mut self.0);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
    }

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            let mut code = Code(String::new());
            event.record(&mut code);
            self.0.lock().push((*event.metadata().level(), code.0));
        }
    }

    #[test]
    fn every_error_is_logged_with_the_severity_of_its_row() {
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry().with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            for e in samples() {
                event!(&e, code = report(&e).code, "told");
            }
        });
        let seen = seen.0.lock();
        assert_eq!(seen.len(), samples().len());
        for (e, (level, code)) in samples().iter().zip(seen.iter()) {
            let wanted = match e {
                Error::Internal(_) => tracing::Level::ERROR,
                Error::Console(_) => tracing::Level::INFO,
                _ => tracing::Level::WARN,
            };
            assert_eq!((*level, code.as_str()), (wanted, report(e).code));
        }
    }

    #[test]
    fn a_thousand_alike_are_a_few_lines_and_a_number() {
        let (told, now) = (Told::new(crate::services::tests::minimal().shared.clone()), Clock::now());
        let admitted = (0..1000).filter(|_| told.admit("a", now).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(told.admit("b", now), Some(0), "another error has lines of its own");
        assert_eq!(told.admit("a", now + PERIOD), Some(1000 - u64::from(LINES)));
        assert_eq!(told.admit("a", now + PERIOD), Some(0));
    }
}
