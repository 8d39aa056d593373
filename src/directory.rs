//! Asks somebody else whether a password is a user's: an LDAP directory or the system's PAM, with the cargo feature of
//! that name alone.

use std::sync::Arc;

use crate::config::Hidden;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::ldap::Ldap;

/// How many requests to PAM may be under way, and the places of those that are not.
#[derive(Debug, Clone)]
pub struct PamPlaces {
    pub free: Arc<Semaphore>,
    pub most: u32,
}

impl PamPlaces {
    pub fn new(most: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(most as usize)), most }
    }

    pub fn taken(&self) -> usize {
        (self.most as usize).saturating_sub(self.free.available_permits())
    }
}

/// Whether the directory lets this user in with this password; an error is that nobody could say.
#[cfg(not(feature = "ldap"))]
pub async fn check(_: &Ldap, _: &str, _: &str) -> Result<bool, String> {
    // The configuration refuses the method.
    Err("this program was built without the feature ldap".to_owned())
}

/// Whether the directory lets this user in with this password; an error is that nobody could say.
#[cfg(feature = "ldap")]
pub async fn check(ldap: &Ldap, user: &str, password: &str) -> Result<bool, String> {
    // An empty password would be an anonymous visit, which succeeds.
    let Some(name) = ldap.name(user).filter(|_| !password.is_empty()) else { return Ok(false) };
    let mut last = "there is no server to ask".to_owned();
    for url in &ldap.urls {
        match with::ask(ldap, url, &name, password).await {
            Ok(verdict) => return Ok(verdict),
            Err(e) => last = format!("{url}: {e}"),
        }
    }
    Err(last)
}

/// Whether PAM lets this user in with this password, as pam_authenticate(3) and pam_acct_mgmt(3) say; an error is that
/// nobody could say. A module may wait for the network, and holds a refusal back by seconds: it has one of the threads
/// that are for such work, and the place until it returns, even where nobody waits for that any more.
pub async fn check_pam(
    place: OwnedSemaphorePermit,
    service: &str,
    user: &str,
    password: &str,
    from: &str,
) -> Result<bool, String> {
    let (service, user, from) = (service.to_owned(), user.to_owned(), from.to_owned());
    let password = Hidden::from(password);
    let asked = tokio::task::spawn_blocking(move || {
        let _place = place;
        pam::ask(&service, &user, password, &from)
    });
    asked.await.map_err(|_| "the module panicked".to_owned())?
}

#[cfg(not(feature = "pam"))]
mod pam {
    /// The configuration refuses the method.
    pub(super) fn ask(_: &str, _: &str, _: crate::config::Hidden, _: &str) -> Result<bool, String> {
        Err("this program was built without the feature pam".to_owned())
    }
}

#[cfg(feature = "pam")]
mod pam {
    use std::ffi::{CStr, CString};

    use crate::config::Hidden;
    use pam_client2::{Context, ConversationHandler, ErrorCode, Flag};

    /// Answers what modules ask: the password, and nothing else.
    struct Answers(Hidden);

    impl ConversationHandler for Answers {
        fn prompt_echo_on(&mut self, _: &CStr) -> Result<CString, ErrorCode> {
            Err(ErrorCode::CONV_ERR)
        }

        fn prompt_echo_off(&mut self, _: &CStr) -> Result<CString, ErrorCode> {
            CString::new(self.0.as_bytes()).map_err(|_| ErrorCode::CONV_ERR)
        }

        fn text_info(&mut self, text: &CStr) {
            tracing::info!(text = %text.to_string_lossy(), "PAM");
        }

        fn error_msg(&mut self, text: &CStr) {
            tracing::warn!(text = %text.to_string_lossy(), "PAM");
        }
    }

    pub(super) fn ask(service: &str, user: &str, password: Hidden, from: &str) -> Result<bool, String> {
        let start = Context::new(service, Some(user), Answers(password));
        let mut context = start.map_err(|e| format!("service {service}: {e}"))?;
        context.set_rhost(Some(from)).map_err(|e| format!("service {service}: {e}"))?;
        let asked = context.authenticate(Flag::NONE).and_then(|()| context.acct_mgmt(Flag::NONE));
        let Err(e) = asked else { return Ok(true) };
        match e.code() {
            // What is wrong with the user or the password.
            ErrorCode::AUTH_ERR
            | ErrorCode::USER_UNKNOWN
            | ErrorCode::MAXTRIES
            | ErrorCode::PERM_DENIED
            | ErrorCode::ACCT_EXPIRED
            | ErrorCode::CRED_EXPIRED
            | ErrorCode::NEW_AUTHTOK_REQD
            | ErrorCode::AUTHTOK_EXPIRED => Ok(false),
            _ => Err(format!("service {service}: {e}")),
        }
    }
}

#[cfg(feature = "ldap")]
mod with {
    use std::path::PathBuf;
    use std::time::Duration;

    use ldap3::{Ldap as Connection, LdapConnAsync, LdapConnSettings, LdapError, SearchEntry};

    use crate::config::ldap::{Entry, Ldap, Scope};

    /// For a connection with its TLS: a directory is near, and the next one is asked.
    const CONNECT: Duration = Duration::from_secs(2);
    /// For each answer.
    const LIMIT: Duration = Duration::from_secs(10);
    /// `invalidCredentials` and `noSuchObject` (RFC 4511): an answer, and not the one that was hoped for.
    const REFUSED: [u32; 2] = [49, 32];

    pub(super) async fn ask(ldap: &Ldap, url: &str, name: &str, password: &str) -> Result<bool, String> {
        let found;
        let dn = match &ldap.entry {
            Entry::Named { .. } => name,
            Entry::Searched { base, scope, searcher, .. } => {
                let mut c = connect(ldap, url).await?;
                if let Some(s) = searcher {
                    let bound = c.with_timeout(LIMIT).simple_bind(&s.dn, &s.password).await;
                    bound
                        .and_then(|r| r.success())
                        .map_err(|e| format!("could not perform initial bind: {e}"))?;
                }
                let scope = match scope {
                    Scope::Base => ldap3::Scope::Base,
                    Scope::One => ldap3::Scope::OneLevel,
                    Scope::Sub => ldap3::Scope::Subtree,
                };
                let answer = c.with_timeout(LIMIT).search(base, scope, name, ["1.1"]).await;
                let entries =
                    answer.and_then(|r| r.success()).map_err(|e| format!("could not search: {e}"))?.0;
                let _ = c.unbind().await;
                // None, or several: nobody can say which of them it is.
                let mut entries = entries.into_iter().filter(|e| !e.is_ref() && !e.is_intermediate());
                let (Some(entry), None) = (entries.next(), entries.next()) else { return Ok(false) };
                found = SearchEntry::construct(entry).dn;
                &found
            }
        };
        let mut c = connect(ldap, url).await?;
        let bound = c.with_timeout(LIMIT).simple_bind(dn, password).await.and_then(|r| r.success());
        let _ = c.unbind().await;
        match bound {
            Ok(_) => Ok(true),
            Err(LdapError::LdapResult { result }) if REFUSED.contains(&result.rc) => Ok(false),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn connect(ldap: &Ldap, url: &str) -> Result<Connection, String> {
        // PostgreSQL reads such a line, too, and nobody comes in by it.
        if ldap.start_tls && url.starts_with("ldaps:") {
            return Err("could not start LDAP TLS session: there is TLS already".to_owned());
        }
        // Files are read, which must not hold up who relays.
        let start_tls = ldap.start_tls;
        let settings = tokio::task::spawn_blocking(move || settings(start_tls));
        let settings = settings.await.map_err(|e| e.to_string())??;
        let (driver, connection) =
            LdapConnAsync::with_settings(settings, url).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            let _ = driver.drive().await;
        });
        Ok(connection)
    }

    fn settings(start_tls: bool) -> Result<LdapConnSettings, String> {
        let tls = Tls::of_the_system();
        let settings = LdapConnSettings::new()
            .set_conn_timeout(CONNECT)
            .set_starttls(start_tls)
            .set_no_tls_verify(tls.never);
        match tls.ca.as_deref().filter(|_| !tls.never) {
            Some(path) => Ok(settings.set_config(std::sync::Arc::new(trusting(path)?))),
            None => Ok(settings),
        }
    }

    fn trusting(path: &std::path::Path) -> Result<rustls::ClientConfig, String> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let told = |e: &dyn std::fmt::Display| format!("TLS_CACERT {}: {e}", path.display());
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_file_iter(path).map_err(|e| told(&e))? {
            roots.add(ca.map_err(|e| told(&e))?).map_err(|e| told(&e))?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(builder.map_err(|e| told(&e))?.with_root_certificates(roots).with_no_client_auth())
    }

    /// What ldap.conf(5) and its variables say of TLS, for that is where operators of libldap have it.
    struct Tls {
        ca: Option<PathBuf>,
        never: bool,
    }

    impl Tls {
        fn of_the_system() -> Self {
            let file = std::env::var_os("LDAPCONF")
                .map_or_else(|| PathBuf::from("/etc/ldap/ldap.conf"), PathBuf::from);
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let stated = |name: &str| {
                let of_file = text.lines().rev().find_map(|l| {
                    let (key, value) = l.trim().split_once(char::is_whitespace)?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                });
                std::env::var(format!("LDAP{name}")).ok().or(of_file)
            };
            let never =
                stated("TLS_REQCERT").is_some_and(|v| matches!(v.to_lowercase().as_str(), "never" | "allow"));
            Self { ca: stated("TLS_CACERT").map(PathBuf::from), never }
        }
    }
}
