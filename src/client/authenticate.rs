//! How a client proves who it is: by a rule or the one method for all, with a secret that is listed or asked for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use super::login::{gone, message};
use crate::auth::access::{self, Caller, Identity};
use crate::auth::{Action, ClientAuth, failures};
use crate::clock::Clock;
use crate::config::hba::{ClientCert, Rule};
use crate::config::resolved::{AuthMethod, Config, Lookup, Profile, Secret, User};
use crate::directory;
use crate::error::Error;
use crate::lookup::{self, Found};
use crate::net::interfaces::interfaces;
use crate::net::stream::{Peer, Stream};
use crate::proto::encode;
use crate::proto::startup::{Replication, Startup};
use crate::services::Services;

/// What of a login is known before anybody is asked.
pub(super) struct Arrival {
    pub(super) peer: Peer,
    /// What the channel can be bound to.
    pub(super) end_point: Option<Vec<u8>>,
    /// When the login is over, come what may.
    pub(super) deadline: Instant,
}

/// Lets the client in, or says why not; a user that does not exist fails where a wrong password does.
pub(super) async fn authenticate(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    config: &Arc<Config>,
    startup: &Startup,
    Arrival { peer, end_point, deadline }: Arrival,
) -> Result<(), Error> {
    let rule = rule(stream, peer, config, startup)?;
    let (user, limit) = (startup.user.as_str(), config.limits.max_login_failures);
    let address = address(peer);
    let too_many =
        || Err(Error::TooManyFailures { user: user.to_owned(), from: failures::origin(address), limit });
    if !services.failures.lock().may_try(Clock::now(), limit, address, user) {
        return too_many();
    }
    let way = Way { rule, address, end_point, deadline };
    let proved = by_rule(stream, buf, services, config, startup, way).await;
    let mut failures = services.failures.lock();
    match &proved {
        // Others may have guessed meanwhile: one that was right among too many is no proof.
        Ok(()) if !failures.may_try(Clock::now(), limit, address, user) => return too_many(),
        Ok(()) => failures.succeeded(address, user),
        Err(
            Error::AuthenticationFailed { .. }
            | Error::IdentityUnproved { .. }
            | Error::DirectoryRefused { .. }
            | Error::NoSuchUser { .. },
        ) => {
            failures.failed(Clock::now(), limit, address, user);
        }
        Err(_) => {}
    }
    proved
}

fn address(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(a) => Some(a.ip()),
        Peer::Unix => None,
    }
}

/// How, and from where.
struct Way<'c> {
    rule: Option<&'c Rule>,
    address: Option<IpAddr>,
    end_point: Option<Vec<u8>>,
    deadline: Instant,
}

/// By the rule that was chosen, or the one method for all.
async fn by_rule(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    config: &Arc<Config>,
    startup: &Startup,
    way: Way<'_>,
) -> Result<(), Error> {
    let rule = way.rule;
    let method = rule.map_or(config.auth_method, |r| r.method);
    prove_identity(stream, config, rule, method, &startup.user).await?;
    let user = startup.user.as_str();
    if method == AuthMethod::Ldap {
        let ldap = rule.map_or(&config.access.ldap, |r| &r.ldap).clone();
        let ldap = ldap.ok_or_else(|| Error::Internal("ldap without its options".to_owned()))?;
        let ask = async |password: &str| Ok(directory::check(&ldap, user, password).await);
        return by_directory(stream, buf, "LDAP", user, ask).await;
    }
    if method == AuthMethod::Pam {
        let service = rule.and_then(|r| r.pam_service.as_ref()).unwrap_or(&config.access.pam_service);
        let ask = async |password: &str| ask_pam(services, &way, service, user, password).await;
        return by_directory(stream, buf, "PAM", user, ask).await;
    }
    let known = config.users.get(user);
    let mut secret = known.and_then(|u| u.secret.clone());
    let asked = match how(config, &startup.database).filter(|_| secret.is_none()) {
        Some(how) => Some(lookup::ask(services, config, &startup.database, &how, user).await?),
        None => None,
    };
    if let Some(found) = &asked {
        if *found == Found::Nobody && config.profile == Profile::PgBouncer {
            return Err(Error::NoSuchUser { user: user.to_owned() });
        }
        secret = found.clone().secret();
    }
    if matches!(method, AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer) {
        let listed = |u: &User| u.listed || config.profile == Profile::Native;
        let exists = known.is_some_and(listed) || asked.is_some_and(|f| f != Found::Nobody);
        return if exists { Ok(()) } else { Err(Error::AuthenticationFailed { user: user.to_owned() }) };
    }
    let proved = prove_secret(stream, buf, services, method, user, secret.as_ref(), way.end_point).await;
    if proved.is_err() && asked.is_some() {
        services.lookups.distrust(&startup.database, user);
    }
    proved
}

/// The rule for this client, where rules decide.
fn rule<'c>(
    stream: &Stream,
    peer: Peer,
    config: &'c Config,
    startup: &Startup,
) -> Result<Option<&'c Rule>, Error> {
    if config.auth_method != AuthMethod::Hba {
        return Ok(None);
    }
    let address = address(peer);
    let tls = stream.tls().is_some();
    let interfaces = match config.access.hba.asks_for_interfaces() {
        true => interfaces().map_err(|e| Error::Internal(format!("the addresses of this machine: {e}")))?,
        false => Vec::new(),
    };
    let caller = Caller {
        address,
        interfaces: &interfaces,
        tls,
        user: &startup.user,
        database: &startup.database,
        physical_replication: startup.replication == Replication::Physical,
    };
    let from = address.map_or_else(|| "[local]".to_owned(), |a| a.to_string());
    let (user, database) = (startup.user.clone(), startup.database.clone());
    match access::choose(&config.access.hba, &caller) {
        None => Err(Error::NoHbaRule { from, user, database, tls }),
        Some(r) if r.method == AuthMethod::Reject => Err(Error::HbaReject { from, user, database, tls }),
        found => Ok(found),
    }
}

/// Whether a directory lets the user in, or why it could not say.
type Verdict = Result<bool, String>;

/// A request to PAM whose end is yet to be counted.
struct Unanswered<'s>(Option<&'s Services>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(services) = self.0 {
            services.counters.count("pam_requests_total", "abandoned");
        }
    }
}

/// Waits for a place among the requests that are under way, and asks; the error is that none was free in time.
async fn ask_pam(
    services: &Services,
    way: &Way<'_>,
    service: &str,
    user: &str,
    password: &str,
) -> Result<Verdict, Error> {
    let from = way.address.map_or_else(|| "[local]".to_owned(), |a| a.to_string());
    let free = services.pam.free.clone().acquire_owned();
    let Ok(place) = tokio::time::timeout_at(way.deadline.into(), free).await else {
        services.counters.count("pam_requests_total", "busy");
        return Err(Error::DirectoryBusy { method: "PAM", limit: services.pam.most });
    };
    let place = place.map_err(|e| Error::Internal(e.to_string()))?;
    let mut unanswered = Unanswered(Some(services));
    let verdict = directory::check_pam(place, service, user, password, &from).await;
    unanswered.0 = None;
    match verdict {
        Ok(true) => services.counters.count("pam_requests_total", "accepted"),
        Ok(false) => services.counters.count("pam_requests_total", "refused"),
        Err(_) => services.counters.count("pam_requests_total", "failed"),
    }
    Ok(verdict)
}

/// The password goes to the directory as it is: over TLS alone, if the operator sees to it.
async fn by_directory(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    method: &'static str,
    user: &str,
    ask: impl AsyncFnOnce(&str) -> Result<Verdict, Error>,
) -> Result<(), Error> {
    stream.write_all(encode::AUTHENTICATION_CLEARTEXT).await.map_err(gone)?;
    let (tag, body) = message(stream, buf).await?;
    if tag != b'p' {
        let why = format!("expected password response, got message type {tag}");
        return Err(Error::ProtocolViolation(why));
    }
    let body = Zeroizing::new(body);
    let password = crate::auth::password(&body)?;
    let right = match std::str::from_utf8(password) {
        Ok(text) => ask(text).await?,
        Err(_) => Ok(false),
    };
    if let Err(reason) = &right {
        tracing::warn!(user = ?user, method, reason, "the directory could not be asked");
    }
    match right {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Error::DirectoryRefused { method, user: user.to_owned() }),
    }
}

/// What the socket and the certificate say, where somebody wants to know it.
async fn prove_identity(
    stream: &Stream,
    config: &Config,
    rule: Option<&Rule>,
    method: AuthMethod,
    user: &str,
) -> Result<(), Error> {
    let certificate = rule.is_some_and(|r| r.client_cert != ClientCert::NotAsked);
    if !certificate && !matches!(method, AuthMethod::Cert | AuthMethod::Peer) {
        return Ok(());
    }
    let leaf = stream.tls().and_then(|c| c.peer_certificates()).and_then(|c| c.first());
    let mut who = Identity {
        system_user: None,
        certified: leaf.is_some(),
        common_name: leaf.and_then(|c| crate::tls::common_name(c)),
        distinguished_name: leaf.and_then(|c| crate::tls::distinguished_name(c)),
    };
    if let Some((uid, _)) = stream.unix_peer() {
        // The system may ask a directory over the network.
        let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into())).await;
        who.system_user = found.ok().and_then(Result::ok).flatten().map(|u| u.name);
    }
    if rule.is_some_and(|r| !access::certificate_fits(r, &who, user))
        || (method == AuthMethod::Cert && leaf.is_none())
    {
        return Err(Error::CertificateRequired);
    }
    match access::proved(method, rule, &config.access.ident, &who, user) {
        Some(false) => {
            let method = if method == AuthMethod::Peer { "Peer" } else { "certificate" };
            Err(Error::IdentityUnproved { method, user: user.to_owned() })
        }
        Some(true) | None => Ok(()),
    }
}

/// How the secret of an unlisted user of this database is asked for, if at all.
fn how(config: &Config, database: &str) -> Option<Lookup> {
    let how = match config.database(database) {
        Some(db) => db.lookup.clone(),
        // The console is no database to ask in.
        None if config.is_console(database) => {
            // PgBouncer takes its console for the place to ask in, and fails.
            let asks = |l: &&Lookup| l.database.is_some() || config.profile == Profile::PgBouncer;
            Some(&config.access.lookup).filter(asks)?.clone()
        }
        // Nowhere to ask in: the login fails as a wrong password does.
        None => return None,
    };
    how.user.is_some().then_some(how)
}

async fn prove_secret(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    method: AuthMethod,
    user: &str,
    secret: Option<&Secret>,
    end_point: Option<Vec<u8>>,
) -> Result<(), Error> {
    let cached = secret.and_then(|s| services.scram_cache.get(user, s));
    let mut auth =
        ClientAuth::new(method, user, secret, &services.mock_secret(), cached.as_ref(), &mut rand::rng())
            .bound_to(end_point);
    let mut action = auth.start();
    loop {
        action = match action {
            Action::Accept => return Ok(()),
            Action::SendThenAccept(bytes) => {
                // With a verifier alone, the client's own proof opens the server.
                if let (Some(s @ Secret::Scram(_)), Some(keys)) = (secret, auth.take_keys()) {
                    services.passkeys.put(user, s, &keys);
                }
                return stream.write_all(&bytes).await.map_err(gone);
            }
            Action::Fail(e) => return Err(e),
            Action::Derive(job) => {
                let keys = services.derive(job).await?;
                if method == AuthMethod::ScramSha256
                    && let Some(s) = secret
                {
                    services.scram_cache.put(user, s, &keys);
                }
                auth.resume(&keys)
            }
            Action::Send(bytes) => {
                stream.write_all(&bytes).await.map_err(gone)?;
                let (tag, body) = message(stream, buf).await?;
                auth.on_message(tag, &Zeroizing::new(body))
            }
        };
    }
}
