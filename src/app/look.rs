//! `howdah show`: a console answer in the terminal, once or again and again, for those who have only ssh.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::found::{Place, Where};
use super::{grid, terminal};
use crate::config::resolved::{HostAddr, Profile, Secret, ServerMethod};
use crate::config::{CONSOLE, Config, Hidden};
use crate::net::tls::Handshakes;
use crate::ops::ask::from_here;
use crate::server::own::{APPLICATION, Own, Rows, within};
use crate::server::target::Target;
use crate::tls::{Connector, Files, Mode, in_one_line};

/// For the login, and for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where psql and others look for a password as well.
const PASSWORD: &str = "PGPASSWORD";
/// The port, where no TCP address says another.
const PORT: u16 = 6432;

/// What to show, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// What follows SHOW on the console: pools, clients, `routes app 'SELECT 1'`.
    #[arg(required = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The configuration that the Howdah serves by. Without it the file that HOWDAH_CONFIG names, or HOWDAH_* variables.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show it again and again, every 2 seconds or as often as is said here, until Ctrl-C.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = seconds
    )]
    watch: Option<Duration>,
    /// Log in as this user; without it the first of admin_users, or else of stats_users.
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// A file whose first line is the user's password. Without it the configuration's own, PGPASSWORD, or a question.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A setting by its key path, as the Howdah was given it.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Hidden>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let stated = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let pause = stated.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let fits = pause.filter(|p| (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(p));
    fits.ok_or_else(|| "is not a number of seconds from 0.1 to 86400".to_owned())
}

/// Prints what the console answers; the error is why it does not.
pub(super) fn show(wish: &Show) -> Result<(), String> {
    let config = Place { config: wish.config.as_deref(), set: &wish.set }.outline(Where::Console)?;
    let host = console(&config)?;
    let user = user(&config, &host, wish.user.as_deref())?;
    let secret = secret(&config, &user, wish.password_file.as_deref())?;
    let target = target(&config, &user, secret)?;
    let words = wish.command.join(" ");
    let words = words.trim().trim_end_matches(';');
    let words = match words.split_once(char::is_whitespace) {
        Some((first, rest)) if first.eq_ignore_ascii_case("show") => rest,
        _ => words,
    };
    let statement = format!("SHOW {words}");
    let runtime = super::runtime(1).map_err(|e| format!("cannot start the runtime: {e}"))?;
    runtime.block_on(answers(host, &target, &statement, wish.watch))
}

async fn answers(
    host: HostAddr,
    target: &Target,
    statement: &str,
    watch: Option<Duration>,
) -> Result<(), String> {
    let mut console = log_in(host.clone(), target).await?;
    loop {
        let rows = within(PATIENCE, console.query(statement)).await;
        let rows = rows.map_err(|e| format!("the console at {host}: {statement}: {e}"))?;
        if print(&rows, statement, watch).is_err() {
            // Whoever read is gone.
            return Ok(());
        }
        let Some(pause) = watch else { break };
        tokio::time::sleep(pause).await;
    }
    console.end().await;
    Ok(())
}

/// With a password that is asked for, where the console wants one and none is known.
async fn log_in(host: HostAddr, target: &Target) -> Result<Own, String> {
    let beside = Handshakes::new(1);
    let failed = |why: String| format!("the console at {host}, as {}: {why}", target.user);
    match Own::open(host.clone(), target, &beside).await {
        Ok(own) => Ok(own),
        Err(e) if target.secret.is_none() && io::stdin().is_terminal() => {
            let password = terminal::password(&format!("Password for user {}: ", target.user))
                .map_err(|why| failed(format!("{}; {why}", e.error())))?;
            let target = Target { secret: Some(Secret::Plain(password)), ..target.clone() };
            Own::open(host.clone(), &target, &beside).await.map_err(|e| failed(e.error().to_string()))
        }
        Err(e) => Err(failed(e.error().to_string())),
    }
}

fn print(rows: &Rows, statement: &str, watch: Option<Duration>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(pause) = watch {
        if out.is_terminal() {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        let now = jiff::ZonedDateTime::now();
        writeln!(out, "{}  {statement}  (every {} s)\n", now.strftime("%F %T %Z"), pause.as_secs_f64())?;
    }
    write!(out, "{}", grid::render(rows))?;
    out.flush()
}

/// The Unix socket, where there is one; else the first address.
fn console(config: &Config) -> Result<HostAddr, String> {
    let listen = &config.listen;
    if let Some(dir) = &listen.unix_dir {
        let port = listen.unix_port.or(listen.tcp.first().map(|a| a.port())).unwrap_or(PORT);
        return Ok(HostAddr::Unix { dir: dir.clone(), port });
    }
    let first = listen.tcp.first().ok_or_else(|| {
        format!("{}: neither listen nor unix_socket_dir names an address to ask", config.origin)
    })?;
    let address = from_here(*first);
    Ok(HostAddr::Tcp { host: address.ip().to_string(), port: address.port() })
}

fn user(config: &Config, host: &HostAddr, stated: Option<&str>) -> Result<String, String> {
    let first = config.admin_users.first().or_else(|| config.stats_users.first());
    // PgBouncer's own name for whoever runs it, over the Unix socket.
    let itself =
        (config.profile == Profile::PgBouncer && matches!(host, HostAddr::Unix { .. })).then_some(CONSOLE);
    stated.or(first.map(String::as_str)).or(itself).map(str::to_owned).ok_or_else(|| {
        format!(
            "{}: nobody may look on the console: name a user in stats_users or admin_users",
            config.origin
        )
    })
}

/// What proves who the user is, where it is known.
fn secret(config: &Config, user: &str, file: Option<&Path>) -> Result<Option<Secret>, String> {
    if let Some(file) = file {
        return terminal::first_line(file).map(|p| Some(Secret::Plain(p)));
    }
    let known = config.users.get(user).and_then(|u| u.secret.clone());
    // Howdah itself checks passwords with a verifier; it does not make one log in.
    let usable = known.filter(|s| !matches!(s, Secret::Scram(_)));
    let stated = std::env::var(PASSWORD).ok().filter(|p| !p.is_empty());
    Ok(stated.map(|p| Secret::Plain(p.into())).or(usable))
}

fn target(config: &Config, user: &str, secret: Option<Secret>) -> Result<Target, String> {
    let secured = config.tls.client.mode >= Mode::Allow;
    let files = Files {
        cert: None,
        key: None,
        ca: None,
        protocols: &["secure".to_owned()],
        ciphers: &["default".to_owned()],
    };
    let tls = secured.then(|| Connector::new(Mode::Prefer, false, &files).map(Arc::new)).transpose();
    Ok(Target {
        dbname: CONSOLE.to_owned(),
        user: user.into(),
        secret,
        keys: None,
        startup: vec![("application_name".to_owned(), APPLICATION.to_owned())],
        on_connect: Vec::new(),
        keepalive: config.listen.tcp_keepalive,
        timeout: PATIENCE,
        max_message: config.limits.max_message_size,
        tls: tls.map_err(in_one_line)?,
        // An address of this machine; a password as it is goes over loopback and a Unix socket alone.
        require_auth: vec![ServerMethod::ByChannel, ServerMethod::None],
        cleartext: false,
        binding: config.tls.binding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_of_seconds() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.5s"), Ok(Duration::from_millis(500)));
        for bad in ["", "0", "-1", "inf", "NaN", "1e300", "soon", "0.01"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
