//! The command line: `howdah CONFIG`, `howdah check CONFIG`, `howdah demo`, or flags in place of a file.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::start::Examined;
use super::telemetry::{self, Logs};
use super::{commands, found, init, look, papers, probe, shell};
use crate::config::convert::Aim;
use crate::config::resolved::Profile;
use crate::config::{self, Config, ConfigError, Flags, Hidden, Overrides};
use crate::doctor::ask::Wish;
use crate::ops::ask::Identity;

/// A PostgreSQL connection-pooling proxy.
#[derive(Debug, Parser)]
#[command(
    name = "howdah",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
struct Cli {
    /// Print the version.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate a configuration: prints what it amounts to, or every problem at once.
    Check(Serve),
    /// Derive the sizes of the pools from what the servers say, step by step, and tell whether the
    /// configuration fits; its exit code is 1 where serving would be refused.
    Plan(Serve),
    /// Read the servers' catalogues and the figures of a running Howdah, and advise: what should be changed,
    /// why, and how. The exit code is 1 where there is advice, and 2 where there is none but a server, a database or
    /// the running Howdah could not be examined.
    Doctor {
        #[command(flatten)]
        serve: Serve,
        /// For machines.
        #[arg(long)]
        json: bool,
        /// Plan the slowest statements (EXPLAIN, which runs none of them) to see which tables they read as a whole. Planning
        /// may evaluate functions that are said to be immutable or stable, so that it is not done as a superuser.
        #[arg(long)]
        explain: bool,
        /// The certificate to show to an ops port that asks for one (ops_tls_ca), in PEM.
        #[arg(long, value_name = "FILE", requires = "ops_key")]
        ops_cert: Option<PathBuf>,
        /// Its private key.
        #[arg(long, value_name = "FILE", requires = "ops_cert")]
        ops_key: Option<PathBuf>,
    },
    /// Write the TOML that a pgbouncer.ini comes to, and on standard error what became of each key. The TOML behaves as
    /// the ini did. The exit code is 1 where something is left to decide.
    Convert {
        /// The pgbouncer.ini.
        file: PathBuf,
        /// Take Howdah's own defaults where the ini states nothing; the report names each change of behaviour.
        #[arg(long, visible_alias = "modernize")]
        modernise: bool,
    },
    /// Write a first configuration, with comments and with the sizes that `plan` derives. What no flag says is asked for
    /// where there is a terminal. A password comes from a file, from a variable, or from a question that does not show it.
    Init(init::Init),
    /// Ask the running Howdah whether it is up, or with --ready or --database whether it serves. The exit code is 0 where it
    /// does, and 1 with the reason on standard error where it does not, or does not answer in time.
    Health(probe::Health),
    /// Print what the console of the running Howdah answers to SHOW COMMAND, as a table.
    Show(look::Show),
    /// Write the completions of a shell to standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages, howdah.1 and one for each command, into a directory.
    Man {
        /// The directory; it is made where it is not there.
        dir: PathBuf,
    },
    #[cfg(feature = "demo")]
    /// Start a private PostgreSQL primary and replica with Howdah before them, and a workload to watch.
    Demo {
        /// Stop after this time, for example 10s; without it, at Ctrl-C.
        #[arg(long = "for", value_name = "DURATION", value_parser = config::units::parse_duration)]
        duration: Option<std::time::Duration>,
    },
}

#[derive(Debug, Clone, clap::Args)]
struct Serve {
    /// A configuration: TOML, or PgBouncer's if its name ends in .ini or a section of it is called pgbouncer. Without it,
    /// the file that the variable HOWDAH_CONFIG names.
    config: Option<PathBuf>,
    /// Serve this database without a file: postgres://user:password@host:port/name.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    database: Option<Hidden>,
    /// A replica of it; may be given several times.
    #[arg(long, value_name = "URL", requires = "database")]
    replica: Vec<Hidden>,
    /// Server connections of its pool.
    #[arg(long, value_name = "N", requires = "database")]
    pool_size: Option<u32>,
    /// What a read-only transaction does when no replica can serve: primary, wait or error.
    #[arg(long, value_name = "POLICY", requires = "database")]
    when_no_replica: Option<String>,
    /// Any setting by its key path, over file and variables: --set query_timeout=30s.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Hidden>,
    /// Log warnings and errors only; with a pgbouncer.ini: nothing on standard error. `check` then prints problems and
    /// warnings only.
    #[arg(short, long)]
    quiet: bool,
    /// Run in the background; needs a pid file, and a log file or the syslog.
    #[arg(short, long)]
    daemon: bool,
    /// Log more; twice: much more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Change to this user before listening.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Take the sockets of a running process over: not supported yet, and refused.
    #[arg(short = 'R', long)]
    reboot: bool,
}

impl Cli {
    /// The variable names the file where the command line does not.
    fn settle(&mut self) -> Result<(), String> {
        let serve = match &mut self.command {
            Some(Command::Check(serve) | Command::Plan(serve) | Command::Doctor { serve, .. }) => serve,
            Some(_) => return Ok(()),
            None => &mut self.serve,
        };
        match found::file() {
            Some(file) if serve.database.is_some() => Err(format!(
                "both --database and HOWDAH_CONFIG ({}) say what to serve: leave one of them out",
                file.display()
            )),
            file => {
                serve.config = serve.config.take().or(file);
                Ok(())
            }
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    if let Some(why) = commands::unknown(std::env::args_os().nth(1).as_deref(), &Cli::command()) {
        let _ = writeln!(io::stderr(), "howdah: {why}");
        return ExitCode::from(2);
    }
    let mut cli = Cli::parse();
    if let Err(why) = cli.settle() {
        return done(Err(why), 2);
    }
    if cli.version {
        return version(&cli.serve);
    }
    match cli.command {
        Some(Command::Check(serve)) => check(&serve),
        Some(Command::Plan(serve)) => plan(&serve),
        Some(Command::Doctor { serve, json, explain, ops_cert, ops_key }) => {
            let files = ops_cert.zip(ops_key);
            match files.map(|(cert, key)| identity(&cert, &key)).transpose() {
                Ok(identity) => doctor(&serve, json, &Wish { explain, identity }),
                Err(why) => {
                    let _ = writeln!(io::stderr(), "howdah: {why}");
                    ExitCode::from(2)
                }
            }
        }
        Some(Command::Convert { file, modernise }) => {
            convert(&file, if modernise { Aim::Modernise } else { Aim::Keep })
        }
        Some(Command::Init(wish)) => done(init::init(wish), 2),
        Some(Command::Health(wish)) => done(probe::health(&wish).map(println), 1),
        Some(Command::Show(wish)) => done(look::show(&wish), 1),
        Some(Command::Completions { shell }) => done(shell::completions(Cli::command(), shell), 1),
        Some(Command::Man { dir }) => done(shell::man(Cli::command(), &dir), 1),
        #[cfg(feature = "demo")]
        Some(Command::Demo { duration }) => super::demo_command::run(duration),
        None => run(&cli.serve),
    }
}

fn println(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Says on standard error why it could not be done.
fn done(result: Result<(), String>, failure: u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stderr(), "howdah: {why}");
            ExitCode::from(failure)
        }
    }
}

/// PgBouncer's first where the program stands in for it: under its name, or with its file.
fn version(serve: &Serve) -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    let as_pgbouncer = called.as_deref().and_then(|p| p.file_name()).is_some_and(|n| n == "pgbouncer")
        || serve.config.as_deref().is_some_and(config::is_ini);
    let profile = if as_pgbouncer { Profile::PgBouncer } else { Profile::Native };
    let _ = writeln!(io::stdout(), "{}", config::compat::version(profile));
    ExitCode::SUCCESS
}

impl Serve {
    /// PgBouncer's failures are 1, whatever they are.
    fn failure(&self) -> ExitCode {
        ExitCode::from(if self.is_ini() { 1 } else { 2 })
    }

    fn is_ini(&self) -> bool {
        self.config.as_deref().is_some_and(config::is_ini)
    }

    /// Says on standard error what stopped the start, as PgBouncer does where it is asked to be like it.
    fn fatal(&self, what: &dyn std::fmt::Display) {
        let _ = if self.is_ini() {
            writeln!(io::stderr(), "{} FATAL {what}", telemetry::stamp())
        } else {
            writeln!(io::stderr(), "howdah: {what}")
        };
    }
}

/// Reads the configuration as the command line says; called again at each reload.
fn read(serve: &Serve) -> Result<Config, Vec<ConfigError>> {
    let mut overrides = Overrides::from_environment(found::environment());
    for s in &serve.set {
        overrides = overrides.set(s.as_str());
    }
    let nothing = overrides.is_empty();
    if serve.quiet && !serve.is_ini() {
        overrides = overrides.flag("log_level", "warn");
    }
    match serve.verbose {
        0 => {}
        1 => overrides = overrides.flag("log_level", config::VERBOSE[0]),
        _ => overrides = overrides.flag("log_level", config::VERBOSE[1]),
    }
    if let Some(user) = &serve.user {
        overrides = overrides.flag("run_as", user);
    }
    match (&serve.config, &serve.database) {
        (Some(path), _) => config::load(path, &overrides),
        (None, Some(url)) => config::from_flags(
            &Flags {
                database: url.clone(),
                replicas: serve.replica.clone(),
                pool_size: serve.pool_size,
                when_no_replica: serve.when_no_replica.clone(),
            },
            &overrides,
        ),
        (None, None) if nothing => Err(Vec::new()),
        (None, None) => config::from_overrides(&overrides),
    }
}

fn complain(errors: &[ConfigError]) -> ExitCode {
    let mut err = io::stderr().lock();
    if errors.is_empty() {
        let _ = writeln!(
            err,
            "howdah: there is nothing to serve: name a configuration file, or give --database URL with --pool-size, or \
             state databases and users by HOWDAH_* variables or --set; see howdah --help"
        );
    }
    for e in errors {
        let _ = writeln!(err, "howdah: {e}");
    }
    if errors.len() > 1 {
        let _ = writeln!(err, "howdah: {} problems; nothing was started", errors.len());
    }
    ExitCode::from(2)
}

/// As [`complain`], with PgBouncer's last line and exit code where its file was read.
fn refuse(serve: &Serve, errors: &[ConfigError]) -> ExitCode {
    let code = complain(errors);
    if !serve.is_ini() {
        return code;
    }
    serve.fatal(&"cannot load config file");
    serve.failure()
}

fn check(serve: &Serve) -> ExitCode {
    match read(serve) {
        Ok(c) => {
            let mut out = io::stdout().lock();
            if serve.quiet {
                for warning in &c.notes.warnings {
                    let _ = writeln!(out, "warning: {warning}");
                }
            } else {
                let _ = write!(out, "{}", config::summary(&c));
            }
            ExitCode::SUCCESS
        }
        Err(e) => complain(&e),
    }
}

fn plan(serve: &Serve) -> ExitCode {
    let config = match read(serve) {
        Ok(c) => c,
        Err(e) => return complain(&e),
    };
    match super::start::plan(config) {
        Ok((text, refused)) => {
            let _ = write!(io::stdout().lock(), "{text}");
            if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "howdah: {e}");
            ExitCode::from(2)
        }
    }
}

pub(super) fn identity(cert: &std::path::Path, key: &std::path::Path) -> Result<Identity, String> {
    let read = |file: &std::path::Path| std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()));
    Ok(Identity { cert: read(cert)?, key: read(key)?.into() })
}

fn doctor(serve: &Serve, json: bool, wish: &Wish) -> ExitCode {
    let config = match read(serve) {
        Ok(c) => c,
        Err(e) => return complain(&e),
    };
    match super::start::doctor(config, json, wish) {
        Ok((text, came)) => {
            let _ = write!(io::stdout().lock(), "{text}");
            match came {
                Examined::WithoutAdvice => ExitCode::SUCCESS,
                Examined::WithAdvice => ExitCode::FAILURE,
                Examined::Incompletely => ExitCode::from(2),
            }
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "howdah: {e}");
            ExitCode::from(2)
        }
    }
}

fn convert(file: &std::path::Path, aim: Aim) -> ExitCode {
    match config::convert::convert(file, aim) {
        Ok(c) => {
            let _ = write!(io::stdout(), "{}", c.toml);
            let _ = write!(io::stderr(), "{}", c.report);
            if c.undecided { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(e) => complain(&e),
    }
}

fn run(serve: &Serve) -> ExitCode {
    if serve.reboot {
        serve.fatal(
            &"-R: taking the sockets of a running process over is not supported yet; \
              start this one beside it with so_reuseport, or stop that one first",
        );
        return ExitCode::FAILURE;
    }
    let config = match read(serve) {
        Ok(c) => Arc::new(c),
        Err(e) => return refuse(serve, &e),
    };
    let detached = papers::is_detached();
    if serve.daemon && !detached {
        return papers::detach(&config).unwrap_or_else(|e| {
            serve.fatal(&e);
            serve.failure()
        });
    }
    if let Some(user) = &config.compat.process.run_as
        && let Err(e) = papers::become_user(user)
    {
        serve.fatal(&e);
        return serve.failure();
    }
    let logs = match Logs::init(&config, serve.quiet && config.profile == Profile::PgBouncer) {
        Ok(d) => d,
        Err(e) => {
            serve.fatal(&e);
            return serve.failure();
        }
    };
    for w in &config.notes.warnings {
        tracing::warn!("{w}");
    }
    if config.profile == Profile::PgBouncer && papers::is_root() {
        tracing::warn!("running as root, which PgBouncer refuses; name another account with `user` or -u");
    }
    let again = serve.clone();
    match super::run_to_end(config, &logs, detached, move || read(&again)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error gets it once: as a line of the log where lines are for machines, else as it is.
            let for_machines = logs.writes_json();
            if !for_machines {
                logs.mute_stderr();
            }
            for line in e.lines() {
                tracing::error!("{line}");
            }
            if !for_machines {
                serve.fatal(&e);
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo test` writes the file anew.
    #[test]
    #[cfg(feature = "demo")]
    fn the_page_of_the_command_line_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/command-line.md");
        let page = crate::app::usage::render(Cli::command().term_width(100));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == page, "run UPDATE=1 cargo test");
    }
}
