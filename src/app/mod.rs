//! Puts everything together: listeners, janitor, signals, reload, drain. The only module that knows all others.

mod advice;
mod bind;
pub mod cli;
mod commands;
#[cfg(feature = "demo")]
mod demo_command;
mod escape;
mod found;
mod grid;
mod init;
mod init_text;
mod janitor;
mod listen;
mod look;
mod names;
mod papers;
mod pause;
mod pidfile;
mod probe;
mod shell;
mod start;
mod statistics;
mod taken;
mod telemetry;
mod terminal;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "demo"))]
mod usage;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::capacity;
use crate::clients::handle::Signal;
use crate::clock::Clock;
use crate::config::resolved::{Config, Drain, Profile};
use crate::config::{self, ConfigError};
use crate::control::{Order, Outcome, ShutDown};
use crate::fleet;
use crate::ops;
use crate::services::Services;

use self::pidfile::PidFile;
use self::telemetry::Logs;

/// A Howdah that serves.
pub struct Service {
    runtime: Runtime,
    services: Arc<Services>,
    tasks: Vec<JoinHandle<()>>,
    hangups: Option<Signals>,
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    if workers <= 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("howdah")
            .enable_all()
            .build()
    }
}

/// Raises the limit of open files to what the configuration can need, and says so where that is not possible. Returns how many
/// there are for clients.
fn raise_file_limit(config: &Config) -> u64 {
    let l = &config.limits;
    let servers: u64 = config
        .databases
        .values()
        .map(|d| u64::from(d.pool.size + d.pool.reserve_size) * config.users.len().max(1) as u64)
        .sum();
    let need = u64::from(l.max_client_connections)
        + u64::from(l.reserved_client_connections)
        + 2 * u64::from(l.max_login_connections)
        + u64::from(l.max_cancels_in_flight)
        + servers
        + 64;
    let got = crate::net::descriptors::raise_limit(u64::MAX);
    if got < need {
        tracing::warn!(
            "file descriptor limit is {got}, but {need} may be needed \
             (max_client_connections {} + reserved {} + logins 2 * {} + cancels {} + servers {servers} + 64): \
             raise the limit (ulimit -n, LimitNOFILE) or lower max_client_connections",
            l.max_client_connections,
            l.reserved_client_connections,
            l.max_login_connections,
            l.max_cancels_in_flight,
        );
    } else {
        tracing::info!("file descriptor limit {got}, at most {need} needed");
    }
    let clients = u64::from(l.max_client_connections) + u64::from(l.reserved_client_connections);
    got.saturating_sub(need - clients).max(1)
}

impl Service {
    /// Binds, starts the loops, and returns; serves until it is shut down or dropped.
    pub fn start(config: Arc<Config>) -> Result<Self, String> {
        Self::start_with(config, false)
    }

    /// `reloads` keeps a SIGHUP that comes while Howdah starts for later, instead of ending by it.
    fn start_with(config: Arc<Config>, reloads: bool) -> Result<Self, String> {
        let descriptors = usize::try_from(raise_file_limit(&config)).unwrap_or(usize::MAX);
        let runtime =
            runtime(config.process.workers).map_err(|e| format!("cannot start the runtime: {e}"))?;
        let services = Services::new(config.clone());
        services.clients.descriptors.store(descriptors, Ordering::Relaxed);
        let guard = runtime.enter();
        let hangups = reloads.then(|| watch(SignalKind::hangup())).transpose()?;
        let (mut tasks, mut failed) = (Vec::new(), Vec::new());
        let reserved = bind::reserve(&config).unwrap_or_else(|all| {
            failed = all;
            bind::Reserved::default()
        });
        if let Some(addr) = config.listen.ops {
            match ops::start(addr, services.clone()) {
                Ok(task) => tasks.push(task),
                Err(e) => failed.push(taken::cannot_listen(addr, "ops_listen", &e)),
            }
        }
        if !failed.is_empty() {
            return Err(failed.join("\n"));
        }
        tasks.push(tokio::spawn(janitor::run(services.clone())));
        tasks.push(tokio::spawn(names::run(services.clone())));
        services.monitor.reconfigure(&config);
        drop(guard);
        let all_asked = runtime.block_on(start::prove(&services, &config))?;
        let guard = runtime.enter();
        // Nobody connects to a Howdah that may yet refuse to serve.
        for b in reserved.open()? {
            tasks.push(tokio::spawn(listen::accept_loop(b, services.clone())));
        }
        tasks.push(tokio::spawn(start::watch(services.clone(), all_asked)));
        tasks.push(tokio::spawn(statistics::run(services.clone())));
        tasks.push(tokio::spawn(advice::run(services.clone())));
        drop(guard);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.origin, "serving");
        Ok(Self { runtime, services, tasks, hangups })
    }

    /// Ends at once.
    pub fn shut_down(self) {
        for t in &self.tasks {
            t.abort();
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// Serves until a signal ends it. `read` reads the configuration again at SIGHUP.
fn run_to_end(
    config: Arc<Config>,
    logs: &Logs,
    detached: bool,
    read: impl Fn() -> Result<Config, Vec<ConfigError>>,
) -> Result<(), String> {
    let pid_file = config.compat.process.pid_file.as_deref();
    pid_file.map(PidFile::check).transpose()?;
    let mut service = Service::start_with(config.clone(), true)?;
    let _held = pid_file.map(PidFile::write).transpose()?;
    let _ = service.services.log_dropped.set(logs.dropped());
    let services = service.services.clone();
    let follow = logs.clone();
    services.on_config(move |c| follow.apply(c));
    if detached {
        logs.mute_stderr();
        papers::report_detached();
    }
    papers::notify("READY=1");
    let hangups = service.hangups.take();
    service.runtime.block_on(signals(&services, hangups, read))?;
    service.shut_down();
    Ok(())
}

fn watch(kind: SignalKind) -> Result<Signals, String> {
    signal(kind).map_err(|e| format!("cannot watch signals: {e}"))
}

async fn signals(
    services: &Arc<Services>,
    hangups: Option<Signals>,
    read: impl Fn() -> Result<Config, Vec<ConfigError>>,
) -> Result<(), String> {
    let mut term = watch(SignalKind::terminate())?;
    let mut int = watch(SignalKind::interrupt())?;
    let mut hup = match hangups {
        Some(hangups) => hangups,
        None => watch(SignalKind::hangup())?,
    };
    let mut quit = watch(SignalKind::quit())?;
    let mut pauses = pause::Pauses::watch()?;
    let mut orders = services.control.listen();
    let how = loop {
        tokio::select! {
            () = pauses.follow(services) => {}
            _ = quit.recv() => {
                tracing::info!("got SIGQUIT, fast exit");
                papers::notify("STOPPING=1");
                return Ok(());
            }
            _ = hup.recv() => {
                tracing::info!("got SIGHUP, re-reading config");
                papers::notify_reloading();
                drop(reload_checked(services, read()).await);
                papers::notify("READY=1");
            }
            Some(order) = orders.recv() => match order {
                Order::Reload(done) => {
                    tracing::info!("RELOAD command issued");
                    drop(done.send(reload_checked(services, read()).await));
                }
                Order::Apply(new, done) => drop(done.send(reload_checked(services, Ok(*new)).await)),
                Order::ShutDown(ShutDown::Now) => return Ok(()),
                Order::ShutDown(ShutDown::WaitForServers) => break Drain::Transactions,
                Order::ShutDown(ShutDown::WaitForClients) => break Drain::Clients,
            },
            _ = term.recv() => {
                tracing::info!("got SIGTERM, shutting down, waiting for all clients disconnect");
                break services.config().process.drain;
            }
            // Somebody at a terminal wants it to end now, though in order.
            _ = int.recv() => {
                tracing::info!("got SIGINT, shutting down, waiting for all servers connections to be released");
                break Drain::Transactions;
            }
        }
    };
    papers::notify("STOPPING=1");
    tokio::select! {
        () = drain(services, how) => {}
        () = pauses.follow(services) => {}
        _ = term.recv() => tracing::warn!("second signal: ending at once"),
        _ = int.recv() => tracing::warn!("second signal: ending at once"),
        _ = quit.recv() => tracing::warn!("got SIGQUIT, fast exit"),
        () = told_to_end(&mut orders) => tracing::warn!("SHUTDOWN: ending at once"),
    }
    Ok(())
}

/// During a drain one order counts.
async fn told_to_end(orders: &mut tokio::sync::mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Reload(done) | Order::Apply(_, done) => {
                drop(done.send(Err("Howdah is shutting down.".to_owned())));
            }
            Order::ShutDown(_) => return,
        }
    }
    std::future::pending().await
}

/// [`reload`], if the servers can carry the new configuration.
pub async fn reload_checked(services: &Arc<Services>, new: Result<Config, Vec<ConfigError>>) -> Outcome {
    if let Ok(config) = &new
        && let Err(why) = capacity::admit::admit(services, &Arc::new(config.clone())).await
    {
        services.counters.count("reload_failures_total", "");
        for line in why.lines() {
            tracing::error!("configuration not reloaded: {line}");
        }
        return Err(why);
    }
    reload(services, new)
}

/// Puts a new configuration in force whole, or keeps the old one and says why.
pub fn reload(services: &Arc<Services>, new: Result<Config, Vec<ConfigError>>) -> Outcome {
    let new = match new {
        Ok(c) => c,
        Err(errors) => {
            // Whoever reads the log, the console or the ops port need not be the one who may read the file.
            let errors: Vec<ConfigError> = errors.iter().map(ConfigError::discreet).collect();
            services.counters.count("reload_failures_total", "");
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            services.event("reload_failed", format!("the old configuration stays: {first}"));
            for e in &errors {
                if services.pgbouncer() && e.is_about_tls() {
                    tracing::error!("{}", e.as_tls_setup());
                }
                tracing::error!("configuration not reloaded: {e}");
            }
            return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        }
    };
    let old = services.config();
    // Against what the process began with: a change stays undone through any number of reloads.
    let restart = config::restart_needed(&services.begun_with, &new);
    for key in &restart {
        tracing::warn!("{key} has changed, which needs a restart; the old value stays in force until then");
    }
    *services.restart_needed.lock() = restart.clone();
    for w in &new.notes.warnings {
        tracing::warn!("{w}");
    }
    let new = Arc::new(new);
    services.set_config(new.clone());
    let gone = services.pools.reconfigure(&old, &new, services);
    services.clients.each(|c| {
        let removed = gone.iter().any(|k| k.database == c.database && k.user == c.user)
            || !(new.database(&c.database).is_some() || new.is_console(&c.database));
        if removed {
            c.signal(Signal::Removed);
        }
    });
    fleet::control::follow(services, &new);
    services.monitor.reconfigure(&new);
    start::warm(services, &new);
    services.counters.count("reloads_total", "");
    services.event("reload", format!("{} is in force", new.origin));
    tracing::info!(config = %new.origin, "configuration reloaded");
    Ok(restart)
}

/// Sees the clients off: see [`Drain`].
async fn drain(services: &Arc<Services>, how: Drain) {
    let config = services.config();
    let limit = config.process.drain_timeout;
    let deadline = Clock::now() + limit;
    services.draining.store(true, Ordering::Relaxed);
    if config.profile == Profile::PgBouncer {
        // Another process may take the port; the Unix socket stays for the console.
        services.close_tcp();
    }
    services.event("drain", format!("new connections are refused; {} clients", services.clients.len()));
    tracing::info!(
        clients = services.clients.len(),
        timeout_ms = crate::number::millis(limit),
        "draining: new connections are refused"
    );
    if how == Drain::Transactions && config.profile == Profile::PgBouncer {
        // Clients stay; whoever waits for a server, or asks for one, is told.
        for pool in services.pools.all() {
            pool.close();
        }
        let released = async {
            while services.pools.all().iter().any(|p| p.counts().busy() > 0) {
                services.control.tick.notified().await;
            }
        };
        if tokio::time::timeout(limit, released).await.is_err() {
            tracing::warn!(clients = services.clients.len(), "drain_timeout: ending with servers in use");
        }
        return;
    }
    if how == Drain::Clients {
        // The last tenth of the time is for those that have not left by themselves.
        let patience = limit.mul_f64(0.9).max(limit.saturating_sub(Duration::from_secs(5)));
        if wait_gone(services, patience).await {
            return;
        }
        tracing::info!(clients = services.clients.len(), "drain_timeout nears: clients are told to leave");
    }
    services.seeing_off.store(true, Ordering::SeqCst);
    services.clients.each(|c| c.signal(Signal::Drain));
    let left = deadline.saturating_duration_since(Clock::now());
    if !wait_gone(services, left).await {
        tracing::warn!(clients = services.clients.len(), "drain_timeout: ending with clients connected");
    }
}

/// Waits until nobody is connected, at most for `limit`.
async fn wait_gone(services: &Services, limit: Duration) -> bool {
    let all_gone = async {
        loop {
            let gone = services.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if services.clients.is_empty() {
                return;
            }
            gone.await;
        }
    };
    tokio::time::timeout(limit, all_gone).await.is_ok()
}
