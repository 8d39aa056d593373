//! The running Howdah, found by what it serves by: for commands that ask it something.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, ConfigError, Hidden, Overrides};

/// Names the configuration file where the command line does not.
const VARIABLE: &str = "HOWDAH_CONFIG";

/// The file that the environment names.
pub(super) fn file() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|f| !f.is_empty()).map(PathBuf::from)
}

/// What the command line says of it.
pub(super) struct Place<'a> {
    pub(super) config: Option<&'a Path>,
    pub(super) set: &'a [Hidden],
}

/// Which of its ports is looked for: problems of other settings do not matter then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    Ops,
    Console,
}

impl Where {
    fn needs(self, key: &str) -> bool {
        let last = key.rsplit('.').next().unwrap_or_default();
        match self {
            Self::Ops => last.starts_with("ops_"),
            Self::Console => {
                ["listen", "admin_users", "stats_users", "auth_file", "unix_socket_dir"].contains(&last)
                    || last.starts_with("client_tls_")
            }
        }
    }
}

impl Place<'_> {
    /// The configuration, as far as it can be read. Its file may be in the middle of a change that the running
    /// Howdah has not taken over, so that only what is needed must be right.
    pub(super) fn outline(&self, needed: Where) -> Result<Config, String> {
        let mut overrides = Overrides::from_environment(environment());
        for s in self.set {
            overrides = overrides.set(s.as_str());
        }
        let file = self.config.map(Path::to_path_buf).or_else(file);
        let (config, errors) = config::outline(file.as_deref(), &overrides).map_err(|all| told(&all))?;
        let in_the_way: Vec<ConfigError> = errors.into_iter().filter(|e| needed.needs(&e.key)).collect();
        if in_the_way.is_empty() { Ok(config) } else { Err(told(&in_the_way)) }
    }

    /// Nothing but defaults.
    pub(super) fn defaults(&self) -> Result<Config, String> {
        config::outline(None, &Overrides::default()).map(|(config, _)| config).map_err(|all| told(&all))
    }
}

pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
}

pub(super) fn told(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
