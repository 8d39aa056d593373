//! SIGUSR1 and SIGUSR2: PAUSE and RESUME for an operator without a console (PgBouncer's manual, "Signals").

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::signal::unix::{Signal as Signals, SignalKind};

use crate::control::Hold;
use crate::services::Services;

/// Both signals; unwatched, either would end the process.
pub(super) struct Pauses {
    pause: Signals,
    resume: Signals,
}

impl Pauses {
    pub(super) fn watch() -> Result<Self, String> {
        Ok(Self {
            pause: super::watch(SignalKind::user_defined1())?,
            resume: super::watch(SignalKind::user_defined2())?,
        })
    }

    /// Follows the signals as long as it is polled. A signal has no answer, so what does not apply is logged.
    pub(super) async fn follow(&mut self, services: &Arc<Services>) {
        let ending = || services.draining.load(Ordering::Relaxed);
        loop {
            tokio::select! {
                _ = self.pause.recv() => match services.control.halt() {
                    _ if ending() => tracing::info!("got SIGUSR1 while shutting down, ignoring"),
                    Hold::No => {
                        tracing::info!("got SIGUSR1, pausing all activity");
                        put(services, Hold::Paused);
                    }
                    _ => tracing::info!("got SIGUSR1, but already paused or suspended"),
                },
                _ = self.resume.recv() => match services.control.halt() {
                    _ if ending() => tracing::info!("got SIGUSR2 while shutting down, ignoring"),
                    Hold::No => tracing::info!("got SIGUSR2, but not paused or suspended"),
                    _ => {
                        tracing::info!("got SIGUSR2, continuing after a pause");
                        put(services, Hold::No);
                    }
                },
            }
        }
    }
}

fn put(services: &Services, hold: Hold) {
    services.control.set_halt(hold);
    services.pools.all().iter().for_each(crate::pool::Pool::follow_control);
}
