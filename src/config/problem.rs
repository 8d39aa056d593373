//! What is wrong with a configuration, told so that the operator can put it right without the manual.

use std::fmt;

use super::hidden::without_passwords;
use super::raw::Source;

/// One problem; `Display` is for the owner of the configuration, see [`ConfigError::discreet`]. Never holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub source: Source,
    /// The key path, for example `databases.app.pool_size`; empty for the file as a whole.
    pub key: String,
    /// The value as it was written, where it is known and not secret.
    pub value: Option<String>,
    /// What is wrong, as a clause, in words of ours and of the file's grammar.
    pub problem: String,
    /// What is written there and is none of them; for the owner of the configuration only.
    pub quote: Option<String>,
    /// What would be right.
    pub allowed: Option<String>,
    /// The known key or name that is closest to what was written.
    pub nearest: Option<String>,
}

impl ConfigError {
    pub(super) fn new(source: &Source, key: &str, problem: impl Into<String>) -> Self {
        Self {
            source: source.clone(),
            key: key.to_owned(),
            value: None,
            problem: problem.into(),
            quote: None,
            allowed: None,
            nearest: None,
        }
    }

    pub(super) fn value(mut self, value: Option<String>) -> Self {
        self.value = value.map(|v| without_passwords(&v));
        self
    }

    pub(super) fn quote(mut self, quote: &str) -> Self {
        self.quote = Some(without_passwords(&quote.escape_debug().to_string()));
        self
    }

    /// Without anything that is written in a file; for everybody who need not be the file's owner: readers of the log, of
    /// the ops port, and of the console. What was typed on the console is repeated there.
    #[must_use]
    pub fn discreet(&self) -> Self {
        match self.source {
            Source::Console => self.clone(),
            _ => self.without_content(),
        }
    }

    pub(super) fn without_content(&self) -> Self {
        Self { value: None, quote: None, ..self.clone() }
    }

    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    /// What was surely meant.
    pub(super) fn means(mut self, key: &str) -> Self {
        self.nearest = Some(key.to_owned());
        self
    }

    pub(super) fn nearest<'a>(
        mut self,
        written: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.nearest = nearest(written, candidates);
        self
    }

    /// Whether a certificate, a key or a word of TLS is at fault.
    pub fn is_about_tls(&self) -> bool {
        self.key.starts_with("client_tls_") || self.key.starts_with("server_tls_")
    }

    /// In PgBouncer's words, which monitoring looks for.
    pub fn as_tls_setup(&self) -> String {
        let what =
            if self.key.ends_with("ciphers") { "failed to set the TLSv1.3 cipher suites: " } else { "" };
        format!("TLS setup failed: {what}{self}")
    }

    /// The file that the problem is in, if it is in one.
    pub fn file(&self) -> Option<&str> {
        match &self.source {
            Source::File { path, .. } => Some(path),
            _ => None,
        }
    }

    pub fn line(&self) -> Option<usize> {
        match self.source {
            Source::File { line, .. } => line,
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match (&self.value, self.key.is_empty()) {
            (Some(value), false) => write!(f, "{} = {value}: ", self.key)?,
            (None, false) => write!(f, "{}: ", self.key)?,
            (_, true) => {}
        }
        f.write_str(&self.problem)?;
        if let Some(quote) = &self.quote {
            write!(f, ": {quote}")?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The candidate that was probably meant: at most a third of what was written differs, or one begins with the other.
pub(super) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// Shorter beginnings are those of too many.
    const TELLING: usize = 4;
    let (exactly, written) = (written, written.to_lowercase());
    let limit = (written.chars().count() / 3).max(2);
    let begins = |c: &str| {
        let (long, short) = if c.len() > written.len() { (c, &*written) } else { (&*written, c) };
        short.len() >= TELLING && long.starts_with(short)
    };
    candidates
        .into_iter()
        .filter(|c| *c != exactly)
        .map(|c| (strsim::damerau_levenshtein(&written, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= limit || begins(c))
        .min()
        .map(|(_, c)| c.to_owned())
}
