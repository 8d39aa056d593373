//! `howdah init`: a first configuration, written from flags or from questions, with the sizes that `howdah plan` derives.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::init_text::{Draft, Secret};
use super::{found, terminal};
use crate::capacity::{admit, plan};
use crate::config::resolved::{Config, Role};
use crate::config::{self, Overrides};
use crate::services::Services;

/// What the configuration is to say.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Init {
    /// The file to write.
    #[arg(default_value = "howdah.toml")]
    file: PathBuf,
    /// The server: a name, an address, or the directory of a Unix socket; with a port, HOST:PORT.
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// The database; clients ask for it by the same name.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The user who logs in to Howdah, and by whom Howdah logs in to the server.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The user's password is the first line of this file; the configuration names the file.
    #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
    password_file: Option<PathBuf>,
    /// The user's password is in this variable of the environment; the configuration names the variable.
    #[arg(long, value_name = "VARIABLE")]
    password_env: Option<String>,
    /// A replica, which takes the transactions that say READ ONLY; may be given several times.
    #[arg(long, value_name = "HOST[:PORT]")]
    replica: Vec<String>,
    /// What these do when no replica can serve: primary, wait or error.
    #[arg(long, value_name = "POLICY", requires = "replica")]
    when_no_replica: Option<String>,
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6432")]
    listen: String,
    /// Where metrics and health are served, or `off`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9127")]
    ops_listen: String,
    /// Howdahs like this one that will serve before the same server.
    #[arg(long, value_name = "N", default_value_t = 1)]
    instances: u32,
    /// Server connections of the pool; without it the server is asked, and the size is that of `howdah plan`.
    #[arg(long, value_name = "N")]
    pool_size: Option<u32>,
    /// May look on the console and use its commands; may be given several times.
    #[arg(long, value_name = "USER")]
    admin: Vec<String>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

/// Writes the file; says on standard error what it says.
pub(super) fn init(wish: Init) -> Result<(), String> {
    let file = wish.file.clone();
    if file.exists() && !wish.force {
        return Err(format!("{}: is there already; --force writes over it", file.display()));
    }
    let mut draft = draft(&wish)?;
    let beside = Beside::new(&file)?;
    if draft.pool_size.is_none() {
        let read = beside.read(&draft.with_a_size())?;
        (draft.pool_size, draft.replica_pool_size) = sizes(read, !draft.replicas.is_empty())?;
    }
    beside.read(&draft)?;
    beside.publish(&file, wish.force)?;
    let mut err = io::stderr();
    let shown = file.display();
    let _ =
        writeln!(err, "Written: {shown}. The pool has {} server connections.", draft.pool_size.unwrap_or(0));
    let _ = writeln!(err, "Next: howdah check {shown}; howdah {shown}");
    Ok(())
}

/// From flags; what is missing is asked for, or told at once where nobody can be asked.
fn draft(wish: &Init) -> Result<Draft, String> {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut missing = Vec::new();
    let mut need = |stated: Option<&String>, flag: &'static str, question: &str, default: &str| {
        if let Some(stated) = stated {
            return Ok(stated.clone());
        }
        if !asks {
            missing.push(flag);
            return Ok(String::new());
        }
        ask(question, default)
    };
    let host = need(wish.host.as_ref(), "--host HOST[:PORT]", "Server", "127.0.0.1:5432")?;
    let database = need(wish.database.as_ref(), "--database NAME", "Database", "postgres")?;
    let user = need(wish.user.as_ref(), "--user NAME", "User", &database)?;
    let policy = if wish.replica.is_empty() {
        None
    } else {
        let question = "What reads do when no replica can serve (primary, wait, error)";
        let flag = "--when-no-replica POLICY";
        Some(need(wish.when_no_replica.as_ref(), flag, question, "error")?)
    };
    let secret = match (&wish.password_file, &wish.password_env) {
        (Some(file), _) => Secret::File(absolute(file)?),
        (None, Some(name)) => Secret::Variable(name.clone()),
        (None, None) if asks => {
            Secret::Text(terminal::password(&format!("Password of {user} (it is written to the file): "))?)
        }
        (None, None) => {
            missing.push("--password-file FILE or --password-env VARIABLE");
            Secret::Variable(String::new())
        }
    };
    if !missing.is_empty() {
        return Err(format!("there is no terminal to ask at, so these are needed: {}", missing.join(", ")));
    }
    Ok(Draft {
        host,
        database,
        user,
        secret,
        replicas: wish.replica.clone(),
        when_no_replica: policy,
        listen: wish.listen.clone(),
        ops_listen: wish.ops_listen.clone(),
        instances: wish.instances,
        admins: wish.admin.clone(),
        pool_size: wish.pool_size,
        replica_pool_size: wish.pool_size,
        planned: wish.pool_size.is_none(),
    })
}

fn ask(question: &str, default: &str) -> Result<String, String> {
    match terminal::line(&format!("{question} [{default}]: ")) {
        Ok(Some(text)) if text.is_empty() => Ok(default.to_owned()),
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err("the input ended before the last question; nothing was written".to_owned()),
        Err(e) => Err(format!("the terminal: {e}")),
    }
}

/// A relative path in a configuration is relative to that, and not to where this command runs.
fn absolute(file: &Path) -> Result<PathBuf, String> {
    std::path::absolute(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// The text on its way: a file of this process's own beside the one that is to be written, so that it is read as it will
/// be read there, and put in place whole.
struct Beside(PathBuf);

impl Beside {
    fn new(file: &Path) -> Result<Self, String> {
        let name = file.file_name().ok_or_else(|| format!("{}: is no name of a file", file.display()))?;
        let own = format!(".{}.{}.toml", name.to_string_lossy(), std::process::id());
        let path = file.with_file_name(own);
        // There may be a password in it.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    fn read(&self, draft: &Draft) -> Result<Config, String> {
        let wrote = File::create(&self.0).and_then(|mut f| {
            f.write_all(draft.text().as_bytes())?;
            f.sync_all()
        });
        wrote.map_err(|e| format!("{}: {e}", self.0.display()))?;
        // Only the variable that holds the password: the file must be right by itself.
        let variables =
            found::environment().filter(|(n, _)| !n.starts_with("HOWDAH_") || draft.secret.is_in(n));
        config::load(&self.0, &Overrides::from_environment(variables)).map_err(|all| {
            let shown = self.0.display().to_string();
            found::told(&all).replace(&format!("{shown}:"), "").replace(&shown, "the new configuration")
        })
    }

    fn publish(&self, file: &Path, force: bool) -> Result<(), String> {
        let done = match force {
            true => std::fs::rename(&self.0, file),
            // Fails where somebody has made the file meanwhile.
            false => std::fs::hard_link(&self.0, file),
        };
        done.map_err(|e| format!("{}: {e}", file.display()))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The sizes that the servers can carry, of the primary's pool and of the replicas' where there are any.
fn sizes(config: Config, replicas: bool) -> Result<(Option<u32>, Option<u32>), String> {
    let runtime = super::runtime(1).map_err(|e| format!("cannot start the runtime: {e}"))?;
    let config = Arc::new(config);
    let services = Services::new(config.clone());
    let (mut primary, mut replica) = (None::<u64>, None::<u64>);
    for one in runtime.block_on(admit::ask_all(&services, &config)) {
        let host = &one.need.host;
        let facts = one.facts.as_ref().map_err(|why| {
            format!("{host} could not be asked what it can carry: {why}; --pool-size N needs no answer of it")
        })?;
        let plan = plan::plan(&one.need, Ok(facts), config.capacity.instances);
        for (pool, size) in one.need.pools.iter().zip(&plan.sizes) {
            let at = if pool.role == Role::Replica { &mut replica } else { &mut primary };
            *at = Some(at.map_or(*size, |smallest| smallest.min(*size)));
        }
        if plan.sizes.contains(&0) {
            return Err(format!("{host} has no connection left for a pool:\n{}", plan.text));
        }
    }
    let size = |s: Option<u64>| s.map(crate::number::narrow);
    match (size(primary), size(replica).or(size(primary).filter(|_| !replicas))) {
        (Some(p), r) => Ok((Some(p), r)),
        (None, _) => Err("no size could be derived; state --pool-size N".to_owned()),
    }
}
