//! Passwords and verifiers, which a section states itself, or says where they are.

use super::build::{Builder, join, shown};
use super::files;
use super::hidden::Hidden;
use super::problem::ConfigError;
use super::raw::{Source, Table};
use super::resolved::{Config, Secret};
use super::setting::Section;

impl Builder<'_, '_> {
    /// The secret that a section states, in one of three ways.
    pub(super) fn secret(&mut self, section: &Section, table: &Table, path: &str) -> Option<Secret> {
        let stated: Vec<&str> = ["password", "password_file", "password_env"]
            .into_iter()
            .filter(|k| table.contains_key(*k))
            .collect();
        let (&key, others) = stated.split_first()?;
        let full = join(path, key);
        let source = table.get(key).map_or(Source::Default, |n| n.source.clone());
        if !others.is_empty() {
            let why = format!("stated together with {}; one of them is enough", others.join(" and "));
            self.errors.push(ConfigError::new(&source, &full, why));
            return None;
        }
        let text = match self.secret_text(section)? {
            Ok(text) => text,
            Err((value, why)) => {
                self.errors.push(ConfigError::new(&source, &full, why).value(Some(value)));
                return None;
            }
        };
        if text.is_empty() || text.contains('\0') {
            let why = "an empty password, or one with a zero byte, cannot be used";
            self.errors.push(ConfigError::new(&source, &full, why));
            return None;
        }
        Some(Secret::classify(&text))
    }

    /// The token of the ops port, where a file holds it; an empty one would let everybody in.
    pub(super) fn ops_token(&mut self, tree: &Table, global: &Section, config: &mut Config) {
        let source = |key: &str| tree.get(key).map_or(Source::Default, |n| n.source.clone());
        if let Some(file) = global.ops_token_file.as_deref().filter(|f| !f.is_empty()) {
            let (key, path) = ("ops_token_file", self.context.dir.join(file));
            if config.process.ops_token.is_some() {
                let why = "stated together with ops_token; one of them is enough";
                self.errors.push(ConfigError::new(&source(key), key, why));
                return;
            }
            match files::text(&path).map(Hidden::from) {
                Ok(text) => {
                    let first = text.lines().next().unwrap_or_default().trim();
                    config.process.ops_token = Some(Secret::Plain(first.into()));
                }
                Err(e) => {
                    let why = format!("cannot be read: {e}");
                    self.errors.push(ConfigError::new(&source(key), key, why).value(Some(shown(&path))));
                    return;
                }
            }
        }
        if let Some(Secret::Plain(t)) = &config.process.ops_token
            && t.is_empty()
        {
            let key = if tree.contains_key("ops_token") { "ops_token" } else { "ops_token_file" };
            self.errors.push(ConfigError::new(&source(key), key, "an empty token would let everybody in"));
        }
    }

    /// `None` if the value itself was not readable, which is a problem already told.
    #[allow(clippy::type_complexity)] // used once, right above
    fn secret_text(&self, section: &Section) -> Option<Result<Hidden, (String, String)>> {
        if let Some(text) = &section.password {
            return Some(Ok(text.clone()));
        }
        if let Some(file) = &section.password_file {
            let path = self.context.dir.join(file);
            let first = |text: String| Hidden::from(Hidden::from(text).lines().next().unwrap_or_default());
            let read = files::text(&path);
            return Some(read.map(first).map_err(|e| (shown(&path), format!("cannot be read: {e}"))));
        }
        let name = section.password_env.as_ref()?;
        Some(match self.context.variables.get(name) {
            Some(text) => Ok(text.as_str().into()),
            None => Err((format!("\"{}\"", name.escape_debug()), "no such variable is set".to_owned())),
        })
    }
}

/// A server user whose secret is not stated is looked up among the users.
pub(super) fn server_secrets(config: &mut Config) {
    for database in config.databases.values_mut() {
        if let (None, Some(user)) = (&database.server_secret, &database.server_user) {
            database.server_secret = config.users.get(user).and_then(|u| u.secret.clone());
        }
    }
}
