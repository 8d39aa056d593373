//! What the commands do that are no SHOW.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Notify, oneshot};

use super::advice;
use super::protocol::Answer;
use super::table::{Command, Verb};
use super::view::PGBOUNCER;
use crate::clients::handle::{ClientCtl, Signal};
use crate::clients::link::Link;
use crate::config;
use crate::config::hidden::PLACEHOLDER;
use crate::control::Hold;
use crate::control::{Order, Outcome, ShutDown};
use crate::error::Refusal;
use crate::pool::Pool;
use crate::services::Services;

/// Runs one command of a client that may. What it began stays begun if its client leaves.
pub(super) async fn act(
    services: &Arc<Services>,
    ctl: &Arc<ClientCtl>,
    command: Command,
) -> Result<Answer, Refusal> {
    let operator = Operator { services, ctl };
    match command {
        Command::Do(verb, argument) => operator.act(verb, argument.as_deref()).await,
        Command::Set { key, value } => operator.set(&key, value.as_str()).await,
        Command::Advice => Ok(advice::advice(services).await),
        _ => Ok(Answer::done("")),
    }
}

struct Operator<'a> {
    services: &'a Arc<Services>,
    ctl: &'a Arc<ClientCtl>,
}

impl Operator<'_> {
    async fn act(&self, verb: Verb, argument: Option<&str>) -> Result<Answer, Refusal> {
        match verb {
            Verb::Reload => self.reload().await,
            Verb::Pause => self.pause(argument).await,
            Verb::Suspend => self.suspend().await,
            Verb::Resume => self.resume(argument),
            Verb::Disable | Verb::Enable => {
                let disable = verb == Verb::Disable;
                let database = argument.ok_or(Refusal::DatabaseRequired)?;
                self.known(database, if disable { "disable" } else { "enable" })?;
                self.services.control.set_disabled(database, disable);
                Ok(Answer::done(if disable { "DISABLE" } else { "ENABLE" }))
            }
            Verb::Reconnect => {
                self.named(argument, "reconnect")?;
                self.pools(argument).iter().for_each(Pool::reconnect);
                Ok(Answer::done("RECONNECT"))
            }
            Verb::WaitClose => {
                self.named(argument, "wait in")?;
                self.until(|| self.pools(argument).iter().all(|p| p.doomed() == 0)).await?;
                Ok(Answer::done("WAIT_CLOSE"))
            }
            Verb::Kill => self.kill(argument).await,
            Verb::KillClient => self.kill_client(argument.unwrap_or_default()).await,
            Verb::ShutDown => self.shut_down(argument).await,
        }
    }

    // ---- what a command is about

    /// A database that is configured and not the console.
    fn known(&self, database: &str, what: &'static str) -> Result<(), Refusal> {
        let config = self.services.config();
        if config.is_console(database) {
            return Err(Refusal::NotTheConsole { what, database: database.to_owned() });
        }
        match config.database(database) {
            Some(_) => Ok(()),
            None => Err(Refusal::NoSuchDatabase { database: database.to_owned() }),
        }
    }

    fn named(&self, database: Option<&str>, what: &'static str) -> Result<(), Refusal> {
        database.map_or(Ok(()), |d| self.known(d, what))
    }

    /// The pools of one database, or all.
    fn pools(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let mut all = self.services.pools.all();
        all.retain(|p| database.is_none_or(|d| *p.key.database == *d));
        all
    }

    fn follow(&self, database: Option<&str>) {
        self.pools(database).iter().for_each(Pool::follow_control);
    }

    /// Waits until `holds`; a CancelRequest ends the wait.
    async fn until(&self, holds: impl Fn() -> bool) -> Result<(), Refusal> {
        let cancelled = Arc::new(Notify::new());
        self.ctl.set_link(Link::Console(cancelled.clone()));
        let outcome = loop {
            let tick = self.services.control.tick.notified();
            if holds() {
                break Ok(());
            }
            tokio::select! {
                () = tick => {}
                () = cancelled.notified() => break Err(Refusal::WaitCancelled),
            }
        };
        self.ctl.set_link(Link::None);
        outcome
    }

    // ---- stopping and starting

    fn not_ending(&self) -> Result<(), Refusal> {
        if self.services.draining.load(Ordering::Relaxed) { Err(Refusal::ShuttingDown) } else { Ok(()) }
    }

    async fn pause(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        let control = &self.services.control;
        self.not_ending()?;
        self.named(database, "pause")?;
        match database {
            Some(d) => control.set_paused(d, true),
            None if control.halt() != Hold::No => return Err(Refusal::AlreadyPaused),
            None => control.set_halt(Hold::Paused),
        }
        self.follow(database);
        let listeners = &self.services.listeners;
        let gone = || self.pools(database).iter().all(|p| p.is_empty()) && listeners.let_go(database);
        let waited = self.until(gone).await;
        if waited.is_err() {
            self.undo(database);
        }
        waited.map(|()| Answer::done("PAUSE"))
    }

    async fn suspend(&self) -> Result<Answer, Refusal> {
        let control = &self.services.control;
        self.not_ending()?;
        if control.halt() != Hold::No {
            return Err(Refusal::AlreadyPaused);
        }
        if control.any_paused() {
            return Err(Refusal::SuspendWhilePaused);
        }
        control.set_halt(Hold::Suspended);
        self.follow(None);
        let waited = self.until(|| self.pools(None).iter().all(|p| p.counts().busy() == 0)).await;
        if waited.is_err() {
            self.undo(None);
        }
        waited.map(|()| Answer::done("SUSPEND"))
    }

    fn undo(&self, database: Option<&str>) {
        match database {
            Some(d) => self.services.control.set_paused(d, false),
            None => self.services.control.set_halt(Hold::No),
        }
        self.follow(database);
    }

    fn resume(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        let control = &self.services.control;
        self.not_ending()?;
        match database {
            None if control.halt() == Hold::No => return Err(Refusal::NotPaused),
            None => {}
            Some(d) if control.is_paused(d) => {}
            Some(d) => {
                if !self.services.config().is_console(d) {
                    self.known(d, "resume")?;
                }
                return Err(Refusal::DatabaseNotPaused { database: d.to_owned() });
            }
        }
        self.undo(database);
        Ok(Answer::done("RESUME"))
    }

    // ---- ending

    /// Ends every client and server connection; like PAUSE, until RESUME.
    async fn kill(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        self.named(database, "kill")?;
        let config = self.services.config();
        let names: Vec<String> = match database {
            Some(d) => vec![d.to_owned()],
            None => self.services.databases().into_iter().collect(),
        };
        for name in &names {
            self.services.control.set_killed(name);
            self.follow(Some(name));
        }
        let of =
            |c: &ClientCtl| !config.is_console(&c.database) && database.is_none_or(|d| *c.database == *d);
        let mut killed = Vec::new();
        self.services.clients.each(|c| {
            if of(c) {
                c.signal(Signal::DatabaseKilled);
                c.signal(Signal::Kill);
                killed.push(c.id);
            }
        });
        let listeners = &self.services.listeners;
        let gone = |id: &u64| self.services.clients.get(*id).is_none();
        self.until(|| killed.iter().all(gone) && listeners.let_go(database)).await?;
        Ok(Answer::done("KILL"))
    }

    async fn kill_client(&self, id: &str) -> Result<Answer, Refusal> {
        let Ok(id) = id.parse::<u64>() else {
            return Err(Refusal::InvalidClientId { text: id.to_owned() });
        };
        let client = self.services.clients.get(id).ok_or(Refusal::ClientNotFound { id })?;
        client.signal(Signal::Kill);
        drop(client);
        if id != self.ctl.id {
            self.until(|| self.services.clients.get(id).is_none()).await?;
        }
        Ok(Answer::done("KILL_CLIENT"))
    }

    async fn shut_down(&self, how: Option<&str>) -> Result<Answer, Refusal> {
        let how = match how {
            Some("WAIT_FOR_SERVERS") => ShutDown::WaitForServers,
            Some(_) => ShutDown::WaitForClients,
            None => ShutDown::Now,
        };
        if how != ShutDown::Now {
            self.not_ending()?;
        }
        if !self.services.control.order(Order::ShutDown(how)) {
            return Err(Refusal::ShuttingDown);
        }
        if how == ShutDown::Now {
            // The end of the process is the answer.
            std::future::pending::<()>().await;
        }
        Ok(Answer::done("SHUTDOWN"))
    }

    // ---- configuration

    async fn reload(&self) -> Result<Answer, Refusal> {
        self.not_ending()?;
        let (done, outcome) = oneshot::channel();
        let given = self.services.control.order(Order::Reload(done));
        let restart = applied(given, outcome).await.map_err(|why| Refusal::ReloadFailed { why })?;
        if restart.is_empty() || self.services.pgbouncer() {
            return Ok(Answer::done("RELOAD"));
        }
        let keys = restart.join(", ");
        Ok(Answer::Told {
            notice: format!("{keys}: changed, and not in force before a restart"),
            detail: "Everything else of the configuration is in force; these settings keep their old values."
                .to_owned(),
            tag: "RELOAD".to_owned(),
        })
    }

    /// In force until the next RELOAD.
    async fn set(&self, key: &str, value: &str) -> Result<Answer, Refusal> {
        let failed = |why| Refusal::SetFailed { why };
        self.not_ending()?;
        let pgbouncers = *self.ctl.database == *PGBOUNCER;
        let (new, kept) =
            config::with_setting(&self.services.config(), key, value, pgbouncers).map_err(failed)?;
        let (done, outcome) = oneshot::channel();
        let given = self.services.control.order(Order::Apply(Box::new(new), done));
        applied(given, outcome).await.map_err(failed)?;
        let shown = if config::is_public(key) { value } else { PLACEHOLDER };
        let tag = format!("SET {key}={shown}");
        Ok(match kept {
            Some(kept) => {
                Answer::Told { notice: format!("{key} is in force, but not everywhere"), detail: kept, tag }
            }
            None => Answer::Done { tag },
        })
    }
}

/// What became of an order.
async fn applied(given: bool, outcome: oneshot::Receiver<Outcome>) -> Outcome {
    let nobody = || "This process takes no new configuration now.".to_owned();
    if !given {
        return Err(nobody());
    }
    outcome.await.unwrap_or_else(|_| Err(nobody()))
}
