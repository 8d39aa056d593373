//! How a client proves who it is: by a rule or the one method for all, with a secret that is listed or asked for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use super::dialogue::{gone, message};
use super::progress::Progress;
use crate::auth::access::{self, Caller, Identity};
use crate::auth::failures::{self, Claim, Standing};
use crate::auth::source::{Shown, Source};
use crate::auth::{Action, ClientAuth, ScramKeys};
use crate::clock::Clock;
use crate::config::hba::{ClientCert, Rule};
use crate::config::resolved::{AuthMethod, Config, Profile, Secret};
use crate::directory;
use crate::error::Error;
use crate::lookup::{self, Asked, Found};
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
    pub(super) progress: Progress,
}

/// Lets the client in, or says why not; a user that does not exist fails where a wrong password does. Returns what the
/// client has shown of its secret, for the pool's own logins to the server.
pub(super) async fn authenticate(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    config: &Arc<Config>,
    startup: &Startup,
    Arrival { peer, end_point, deadline, progress }: Arrival,
) -> Result<Option<Shown>, Error> {
    let rule = rule(stream, peer, config, startup)?;
    let method = rule.map_or(config.auth_method, |r| r.method);
    let (user, limit) = (startup.user.as_str(), config.limits.max_login_failures);
    let address = address(peer);
    let source = source(config, startup, method);
    let progress = &progress;
    let way = Way { rule, method, address, end_point, deadline, progress, source: &source };
    // Nothing can be guessed where no secret is asked for, and what comes in that way proves none.
    if matches!(method, AuthMethod::Trust | AuthMethod::Any | AuthMethod::Cert | AuthMethod::Peer) {
        return by_rule(stream, buf, services, config, startup, way).await;
    }
    let who = Claim::new(address, &source, user);
    let too_many =
        || Err(Error::TooManyFailures { user: user.to_owned(), from: failures::origin(address), limit });
    let before = services.failures.lock().standing(Clock::now(), limit, &who);
    if before == Standing::LockedOut {
        return too_many();
    }
    let proved = by_rule(stream, buf, services, config, startup, way).await;
    progress.client();
    let mut failures = services.failures.lock();
    let now = Clock::now();
    match &proved {
        // Others may have guessed meanwhile: one that was right among too many is no proof.
        Ok(_) if failures.standing(now, limit, &who) == Standing::LockedOut => return too_many(),
        Ok(_) => failures.succeeded(now, limit, &who),
        Err(
            Error::AuthenticationFailed { .. } | Error::DirectoryRefused { .. } | Error::NoSuchUser { .. },
        ) => {
            failures.failed(now, limit, &who);
            if before == Standing::LockedOutButKnown {
                return too_many();
            }
        }
        Err(_) => {}
    }
    proved
}

/// By whose word this client's secret is right.
fn source(config: &Config, startup: &Startup, method: AuthMethod) -> Source {
    if matches!(method, AuthMethod::Ldap | AuthMethod::Pam) {
        return Source::Directory;
    }
    let listed = config.users.get(&startup.user).is_some_and(|u| u.secret.is_some());
    match lookup::how(config, &startup.database).filter(|_| !listed) {
        Some(how) => Source::asked(&how, &startup.database),
        None => Source::Listed,
    }
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
    method: AuthMethod,
    source: &'c Source,
    address: Option<IpAddr>,
    end_point: Option<Vec<u8>>,
    deadline: Instant,
    progress: &'c Progress,
}

/// By the rule that was chosen, or the one method for all.
async fn by_rule(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    config: &Arc<Config>,
    startup: &Startup,
    way: Way<'_>,
) -> Result<Option<Shown>, Error> {
    let began = Clock::now();
    let (rule, method) = (way.rule, way.method);
    prove_identity(stream, config, rule, method, &startup.user).await?;
    let user = startup.user.as_str();
    if method == AuthMethod::Ldap {
        let ldap = rule.map_or(&config.access.ldap, |r| &r.ldap).clone();
        let ldap = ldap.ok_or_else(|| Error::Internal("ldap without its options".to_owned()))?;
        let ask = async |password: &str| {
            way.progress.answer("the directory was asked by LDAP");
            Ok(directory::check(&ldap, user, password).await)
        };
        return Box::pin(by_directory(stream, buf, "LDAP", user, ask)).await.map(|()| None);
    }
    if method == AuthMethod::Pam {
        let service = rule.and_then(|r| r.pam_service.as_ref()).unwrap_or(&config.access.pam_service);
        let ask = async |password: &str| {
            way.progress.answer("PAM was asked");
            ask_pam(services, &way, service, user, password).await
        };
        return Box::pin(by_directory(stream, buf, "PAM", user, ask)).await.map(|()| None);
    }
    if method == AuthMethod::Any {
        let forced = config.database(&startup.database).is_none_or(|db| db.server_user.is_some());
        let without = || Error::NoForcedUser { database: startup.database.clone() };
        return if forced { Ok(None) } else { Err(without()) };
    }
    let known = config.users.get(user);
    let mut secret = known.and_then(|u| u.secret.clone());
    let how = lookup::how(config, &startup.database);
    let asked = match how.as_ref().filter(|_| secret.is_none()) {
        Some(how) => {
            way.progress.answer("the secret of this user was asked for by auth_query");
            let (lookups, shared) = (&services.lookups, &services.shared);
            let asking = lookup::ask(lookups, shared, config, &startup.database, how, user);
            Some(Box::pin(asking).await?)
        }
        None => None,
    };
    way.progress.client();
    let now = asked.as_ref().map_or(Asked::Not, |(_, asked)| *asked);
    let asked = asked.map(|(found, _)| found);
    if let Some(found) = &asked {
        if *found == Found::Nobody && config.profile == Profile::PgBouncer {
            return Err(Error::NoSuchUser { user: user.to_owned() });
        }
        secret = found.clone().secret();
    }
    if matches!(method, AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer) {
        let exists = known.is_some_and(|u| u.listed) || asked.is_some_and(|f| f != Found::Nobody);
        let shown = secret.map(|secret| Shown { secret, keys: None });
        return if exists { Ok(shown) } else { Err(Error::AuthenticationFailed { user: user.to_owned() }) };
    }
    // PgBouncer's profile tells in so many words who does not exist.
    if let Some(how) = how.filter(|_| config.profile == Profile::Native) {
        Box::pin(lookup::keep_pace(&services.lookups, &Source::asked(&how, &startup.database), began, now))
            .await;
    }
    let proved = Box::pin(prove_secret(stream, buf, services, &way, user, secret.as_ref())).await;
    if proved.is_err() && asked.is_some() {
        services.lookups.distrust(way.source, user);
    }
    let keys = proved?;
    Ok(secret.map(|secret| Shown { secret, keys }))
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
            services.shared.counters.count("pam_requests_total", "abandoned");
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
        services.shared.counters.count("pam_requests_total", "busy");
        return Err(Error::DirectoryBusy { method: "PAM", limit: services.pam.most });
    };
    let place = place.map_err(|e| Error::Internal(e.to_string()))?;
    let mut unanswered = Unanswered(Some(services));
    let verdict = directory::check_pam(place, service, user, password, &from).await;
    unanswered.0 = None;
    match verdict {
        Ok(true) => services.shared.counters.count("pam_requests_total", "accepted"),
        Ok(false) => services.shared.counters.count("pam_requests_total", "refused"),
        Err(_) => services.shared.counters.count("pam_requests_total", "failed"),
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
        tracing::warn!(user, method, reason, "the directory could not be asked");
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

async fn prove_secret(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    way: &Way<'_>,
    user: &str,
    secret: Option<&Secret>,
) -> Result<Option<ScramKeys>, Error> {
    let cached = secret.and_then(|s| services.derived.get(way.source, user, s));
    let mut auth =
        ClientAuth::new(way.method, user, secret, &services.mock_secret(), cached.as_ref(), &mut rand::rng())
            .bound_to(way.end_point.clone());
    let mut action = auth.start();
    loop {
        action = match action {
            Action::Accept => return Ok(None),
            Action::SendThenAccept(bytes) => {
                stream.write_all(&bytes).await.map_err(gone)?;
                // With a verifier alone, the client's own proof opens the server.
                return Ok(auth.take_keys().filter(|_| matches!(secret, Some(Secret::Scram(_)))));
            }
            Action::Fail(e) => return Err(e),
            Action::Derive(job) => {
                let keys = services.derive(job).await?;
                if way.method == AuthMethod::ScramSha256
                    && let Some(s) = secret
                {
                    services.derived.put(way.source, user, s, &keys);
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
