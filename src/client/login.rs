//! From an accepted connection to a session: startup packet, authentication, limits, welcome (PostgreSQL
//! documentation, 54.2.1 Start-up). The caller bounds the time.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng;

use super::authenticate::{Arrival, authenticate};
use super::dialogue::gone;
use super::params;
use super::progress::Progress;
use super::replication::{self, Walsender};
use super::route;
use super::session::Session;
use crate::auth::source::Shown;
use crate::cancel;
use crate::clients::handle::{CancelSecret, ClientCtl};
use crate::clients::strangers::{PATIENCE, Stranger};
use crate::clients::{Full, Places};
use crate::clock::Clock;
use crate::config::CONSOLE;
use crate::config::resolved::{AuthMethod, Config, Database, Profile, Role, Secret};
use crate::error::{Error, Report, Severity};
use crate::journal::{self, Who};
use crate::net::stream::{Peer, Stream};
use crate::pool::greeting::Greeting;
use crate::pool::spelling::Spelling;
use crate::pool::{Pool, PoolKey};
use crate::proto::encode;
use crate::proto::params::ParamSet;
use crate::proto::pipeline::TxStatus;
use crate::proto::session::shown;
use crate::proto::startup::{self, FirstPacket, Replication, Startup};
use crate::relay::state::{ClientProto, TxStats};
use crate::services::Services;
use crate::tls::{Acceptor, Mode};

/// What the handshake led to.
pub enum Login {
    Session(Box<Session>),
    Console(Box<Visitor>),
    Replication(Box<Walsender>),
    /// A cancel request, or a connection that ended before it said anything.
    Done,
    /// Refused, and told so.
    Refused,
}

/// A client of the console, which holds no server.
#[derive(Debug)]
pub struct Visitor {
    pub stream: Stream,
    pub ctl: Arc<ClientCtl>,
    /// Bytes that came behind the login.
    pub early: Vec<u8>,
    /// The user that runs Howdah, over the Unix socket: in PgBouncer's profile, an admin without a password.
    pub trusted: bool,
    /// Among the clients of its user and of the console; held as long as it is here.
    pub places: Box<Places>,
}

enum Admitted {
    Session(Box<Session>, Box<Places>),
    Console { ctl: Arc<ClientCtl>, trusted: bool, places: Box<Places> },
    Replication(Arc<ClientCtl>, Box<replication::Opened>, Box<Places>),
}

/// Logs a client in; says goodbye to those who may not. The time until the startup packet is the global
/// client_login_timeout, from then on that of the database and user. Not cancel safe: a login that is dropped is
/// over.
pub async fn login(stream: Stream, peer: Peer, services: &Arc<Services>, stranger: &Stranger) -> Login {
    let came = Clock::now();
    let config = services.shared.config();
    let mut buf = Vec::new();
    let limit = config.pool.client_login_timeout;
    let mut stream = stream;
    match heard(&mut stream, &mut buf, limit, stranger).await {
        Some(Ok(true)) => {}
        Some(Ok(false)) => return Login::Done,
        Some(Err(_)) => {
            let e = Error::LoginTimeout { after: limit };
            return timed_out(&mut stream, services, peer, &e, None).await;
        }
        None => return cut(&mut stream, services).await,
    }
    // Who had to wait for a turn is not late: all the time is there from then on.
    let started = if stranger.begin().await { Clock::now() } else { came };
    // Empty in the middle of a handshake, where nothing can be said.
    let mut slot = Some(stream);
    let first = Box::pin(first_packet(&mut slot, peer, &mut buf, services, &config));
    let opening = unless_cut(stranger, tokio::time::timeout_at((started + limit).into(), first)).await;
    let Some(mut stream) = slot else {
        if matches!(opening, Some(Err(_))) {
            services.shared.counters.count("timeouts_total", "client_login_timeout");
        }
        return Login::Done;
    };
    let Some(opening) = opening else { return cut(&mut stream, services).await };
    let startup = match opening {
        Ok(Opening::Startup(s)) => s,
        Ok(Opening::Cancel { pid, key }) => {
            // Its time is cancel_wait_timeout.
            stranger.leave();
            Box::pin(cancel::request(services, pid, &key)).await;
            return Login::Done;
        }
        Ok(Opening::Done) => return Login::Done,
        Ok(Opening::Refused(e)) => return refuse(&mut stream, services, peer, &e, None).await,
        Ok(Opening::Unreadable(why)) => return unreadable(services, peer, why),
        Err(_) => {
            let e = Error::LoginTimeout { after: limit };
            return timed_out(&mut stream, services, peer, &e, None).await;
        }
    };
    let who = (startup.user.clone(), startup.database.clone());
    let limit = config.database(&startup.database).map_or(config.pool.client_login_timeout, |db| {
        config.pool_settings(&db, &startup.user, Role::Primary).client_login_timeout
    });
    let deadline = started + limit;
    // Of the certificate that this client was shown, whatever a reload has brought since.
    let acceptor = config.tls.acceptor.as_ref().filter(|_| stream.tls().is_some());
    let end_point = acceptor.and_then(|a| a.end_point().map(<[u8]>::to_vec));
    let progress = Progress::default();
    let arrival = Arrival { peer, end_point, deadline, progress: progress.clone() };
    // What few logins need is boxed where it is asked for, so that this is small for the others.
    let admitted = Box::pin(admit(&mut stream, arrival, services, startup, &mut buf, stranger));
    let admitted = unless_cut(stranger, tokio::time::timeout_at(deadline.into(), admitted)).await;
    let Some(admitted) = admitted else { return cut(&mut stream, services).await };
    match admitted {
        Ok(Ok(Admitted::Session(mut session, places))) => {
            let took = Clock::us(came, Clock::now());
            services.logins.lock().add(took);
            session.start(stream, &buf, places);
            Login::Session(session)
        }
        Ok(Ok(Admitted::Console { ctl, trusted, places })) => {
            Login::Console(Box::new(Visitor { stream, ctl, early: buf, trusted, places }))
        }
        Ok(Ok(Admitted::Replication(ctl, opened, places))) => {
            Login::Replication(Box::new(Walsender::new(services, ctl, stream, *opened, &buf, places)))
        }
        Ok(Err(Error::ClientLeft { at })) => left(services, peer, &who, at, started),
        Ok(Err(e)) => refuse(&mut stream, services, peer, &e, Some(who)).await,
        Err(_) => timed_out(&mut stream, services, peer, &progress.timed_out(limit), Some(who)).await,
    }
}

/// Waits for the first bytes; false where none come. `None` where the stranger's place was taken away meanwhile.
async fn heard(
    stream: &mut Stream,
    buf: &mut Vec<u8>,
    limit: Duration,
    stranger: &Stranger,
) -> Option<Result<bool, tokio::time::error::Elapsed>> {
    let reading = async |stream: &mut Stream, buf: &mut Vec<u8>, limit| {
        let read = unless_cut(stranger, tokio::time::timeout(limit, stream.read_some(buf))).await?;
        Some(read.map(|n| n.is_ok_and(|n| n > 0)))
    };
    let first = reading(stream, buf, limit.min(PATIENCE)).await?;
    if first.is_ok() || limit <= PATIENCE {
        return Some(first);
    }
    if stranger.overstays() {
        return None;
    }
    reading(stream, buf, limit.saturating_sub(PATIENCE)).await
}

/// A connection that does not speak the protocol is closed without a word, as by PostgreSQL.
fn unreadable(services: &Services, peer: Peer, why: &'static str) -> Login {
    services.shared.counters.count("clients_rejected_total", "client_protocol_violation");
    if services.shared.pgbouncer() {
        journal::closing(&services.shared, &Who::stranger(peer, "", ""), why, Duration::ZERO);
    } else {
        tracing::info!(%peer, reason = why, "closed without a word: what it began with is no startup packet");
    }
    Login::Refused
}

/// A client that has left in the middle of its login: psql does, to ask its user for a password.
fn left(
    services: &Services,
    peer: Peer,
    (user, database): &(String, String),
    at: &'static str,
    since: Instant,
) -> Login {
    services.shared.counters.count("logins_abandoned_total", at);
    if services.shared.pgbouncer() {
        let age = Clock::now().saturating_duration_since(since);
        journal::closing(
            &services.shared,
            &Who::stranger(peer, database, user),
            "client unexpected eof",
            age,
        );
    } else if services.shared.log_disconnections() {
        tracing::info!(%peer, user = ?user, database = ?database, at, "left before the end of its login");
    }
    Login::Refused
}

/// `None` where the stranger's place was taken away meanwhile.
async fn unless_cut<T>(stranger: &Stranger, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = what => Some(done),
        () = stranger.cut() => None,
    }
}

/// Tells one whose place was taken away. There may be many, and the log has told of them.
async fn cut(stream: &mut Stream, services: &Services) -> Login {
    let limit = services.shared.config().limits.max_login_connections as usize;
    let e = Error::TooManyLogins { current: services.strangers.places().taken.max(limit), limit };
    let r = Report { severity: Severity::Fatal, ..services.shared.report(&e) };
    services.shared.counters.count("clients_rejected_total", r.code);
    let told = encode::error_response(&r);
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&told)).await;
    Login::Refused
}

async fn timed_out(
    stream: &mut Stream,
    services: &Services,
    peer: Peer,
    e: &Error,
    who: Option<(String, String)>,
) -> Login {
    services.shared.counters.count("timeouts_total", "client_login_timeout");
    let told = refuse(stream, services, peer, e, who);
    // One that does not read either is not waited for once more.
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    Login::Refused
}

async fn refuse(
    stream: &mut Stream,
    services: &Services,
    peer: Peer,
    e: &Error,
    who: Option<(String, String)>,
) -> Login {
    let mut r = Report { severity: Severity::Fatal, ..services.shared.report(e) };
    services.shared.counters.count("clients_rejected_total", r.code);
    let (user, database) = who.unwrap_or_default();
    if services.shared.pgbouncer() {
        if matches!(e, Error::AuthenticationFailed { .. }) {
            auth_words(&services.shared.config(), &user).clone_into(&mut r.message);
        }
        let reason = if r.verbatim.is_some() { journal::words(e) } else { r.message.clone() };
        journal::told(&services.shared, &Who::stranger(peer, &database, &user), &reason, Duration::ZERO);
    } else {
        services.told.refused(peer, &user, &database, e);
    }
    let _ = stream.write_all(&encode::error_response(&r)).await;
    Login::Refused
}

/// PgBouncer's word for a failed login, which depends on how it was to be proved.
fn auth_words(config: &Config, user: &str) -> &'static str {
    let secret = config.users.get(user).and_then(|u| u.secret.as_ref());
    match (config.auth_method, secret) {
        (AuthMethod::Trust, _) => "\"trust\" authentication failed",
        (AuthMethod::ScramSha256, _) | (AuthMethod::Md5 | AuthMethod::Hba, Some(Secret::Scram(_))) => {
            "SASL authentication failed"
        }
        _ => "password authentication failed",
    }
}

/// What a connection began with.
enum Opening {
    Startup(Startup),
    Cancel {
        pid: i32,
        key: Vec<u8>,
    },
    Refused(Error),
    /// What came is no packet; nothing is said to it.
    Unreadable(&'static str),
    /// A connection that ended before it said anything, or a handshake that failed.
    Done,
}

/// Reads packets until a StartupMessage or a CancelRequest; answers requests for encryption.
async fn first_packet(
    slot: &mut Option<Stream>,
    peer: Peer,
    buf: &mut Vec<u8>,
    services: &Arc<Services>,
    config: &Config,
) -> Opening {
    let mut asked = 0;
    loop {
        let Some(stream) = slot.as_mut() else { return Opening::Done };
        let (packet, used) = match startup::parse_first(buf) {
            Ok(Some(found)) => found,
            Ok(None) => match stream.read_some(buf).await {
                Ok(n) if n > 0 => continue,
                _ => return Opening::Done,
            },
            Err(e) => return Opening::Refused(e),
        };
        buf.drain(..used);
        let acceptor = match stream {
            Stream::Tcp(_) => config.tls.acceptor.as_deref(),
            Stream::Unix(_) | Stream::Tls(_) => None,
        };
        match packet {
            FirstPacket::Ssl | FirstPacket::GssEnc => {
                asked += 1;
                if let Err(e) = may_ask(asked, stream, buf) {
                    return Opening::Refused(e);
                }
                let acceptor = acceptor.filter(|_| packet == FirstPacket::Ssl);
                let answer = if acceptor.is_some() { b"S" } else { b"N" };
                if stream.write_all(answer).await.is_err() {
                    return Opening::Done;
                }
                match acceptor {
                    None => {
                        services.shared.counters.count("protocol_negotiations_total", "encryption_refused")
                    }
                    Some(a) => {
                        let Some(plain) = slot.take() else { return Opening::Done };
                        *slot = Box::pin(secure(plain, peer, a, &[], services)).await;
                    }
                }
            }
            FirstPacket::Tls => {
                let Some(a) = acceptor else {
                    return Opening::Unreadable("a TLS handshake where there is no TLS");
                };
                let Some(plain) = slot.take() else { return Opening::Done };
                *slot = Box::pin(secure(plain, peer, a, &std::mem::take(buf), services)).await;
                let Some(stream) = slot.as_ref() else { return Opening::Done };
                // Without it, a browser could be made to speak to us (ALPACA). PostgreSQL closes without a word, too.
                if stream.tls().and_then(|c| c.alpn_protocol()) != Some(crate::tls::ALPN) {
                    return Opening::Unreadable("direct TLS without the protocol's name (ALPN)");
                }
            }
            FirstPacket::Cancel { pid, key } => return Opening::Cancel { pid, key },
            FirstPacket::Unreadable(why) => return Opening::Unreadable(why),
            FirstPacket::UnsupportedProtocol { major, minor } => {
                return Opening::Refused(Error::UnsupportedProtocol { major, minor });
            }
            FirstPacket::Startup(s) => return Opening::Startup(s),
        }
    }
}

/// Whether a request for encryption has its place here.
fn may_ask(asked: u32, stream: &Stream, buf: &[u8]) -> Result<(), Error> {
    let violation = |why: &str| Err(Error::ProtocolViolation(why.to_owned()));
    if asked > 2 {
        return violation("too many requests for encryption");
    }
    if stream.tls().is_some() {
        return violation("a request for encryption within TLS");
    }
    // What came in plain text behind a request for encryption was not meant for us (CVE-2021-3935).
    if !buf.is_empty() {
        return violation("received unencrypted data after a request for encryption");
    }
    Ok(())
}

/// The handshake of TLS; `early` are bytes of it that were read already. A client that fails in it gets an alert.
async fn secure(
    stream: Stream,
    peer: Peer,
    acceptor: &Acceptor,
    early: &[u8],
    services: &Services,
) -> Option<Stream> {
    let secured = match acceptor.connection() {
        Ok(c) => {
            stream.into_tls(c, early, &services.shared.handshakes.clients).await.map_err(|e| e.to_string())
        }
        Err(e) => Err(e.to_string()),
    };
    match secured {
        Ok(s) => {
            services.shared.counters.count("tls_handshakes_total", "client");
            Some(s)
        }
        Err(error) => {
            services.shared.counters.count("tls_handshake_failures_total", "client");
            tracing::info!(%peer, error, "TLS handshake failed");
            None
        }
    }
}

async fn admit(
    stream: &mut Stream,
    arrival: Arrival,
    services: &Arc<Services>,
    mut startup: Startup,
    buf: &mut Vec<u8>,
    stranger: &Stranger,
) -> Result<Admitted, Error> {
    let (peer, progress) = (arrival.peer, arrival.progress.clone());
    let config = services.shared.config();
    replication::settle_database(&config, &mut startup)?;
    let console = config.is_console(&startup.database);
    // Nobody is privileged whom a native configuration does not name.
    let trusted = console && config.profile == Profile::PgBouncer && is_ourselves(stream, &startup.user);
    may_log_in(services, &config, &startup, stream, trusted)?;
    if let Some(n) = startup::negotiate(&startup) {
        services.shared.counters.count("protocol_negotiations_total", "version");
        let bytes = encode::negotiate_protocol_version(n.newest_minor, &n.unrecognized)?;
        stream.write_all(&bytes).await.map_err(gone)?;
    }
    let shown = match trusted {
        true => None,
        false => authenticate(stream, buf, services, &config, &startup, arrival).await?,
    };
    stranger.leave();
    if console {
        return Box::pin(enter_console(stream, peer, services, &config, &startup, trusted)).await;
    }
    if startup.replication != Replication::No {
        let entering = enter_replication(stream, peer, services, &config, &startup, shown, &progress);
        return Box::pin(entering).await;
    }
    let entered = enter(peer, services, &config, &startup, shown, &progress).await?;
    let Entered { session, welcome, places } = entered;
    stream.write_all(&welcome).await.map_err(gone)?;
    Ok(Admitted::Session(Box::new(session), places))
}

/// What can be refused before anybody is asked for a password.
///
/// The console is for those who come when nothing else works: neither a full Howdah nor one that is shutting down
/// keeps them out.
fn may_log_in(
    services: &Services,
    config: &Config,
    startup: &Startup,
    stream: &Stream,
    trusted: bool,
) -> Result<(), Error> {
    if matches!(stream, Stream::Tcp(_)) && config.tls.client.mode >= Mode::Require {
        return Err(Error::TlsRequired);
    }
    if config.is_console(&startup.database)
        && startup.replication == Replication::No
        && (trusted || config.may_use_console(&startup.user))
    {
        return Ok(());
    }
    // Asked again when it has proved who it is, and then with a place.
    let (entered, limit) = (services.clients.entered(), most_clients(config, &startup.user) as usize);
    if entered >= limit {
        return Err(Error::TooManyClients { current: entered, limit });
    }
    if services.shared.draining.load(Ordering::Relaxed) {
        return Err(Error::ShuttingDown);
    }
    if config.is_console(&startup.database) && startup.replication != Replication::No {
        return Err(Error::FeatureNotSupported("replication connections to the console are not supported"));
    }
    Ok(())
}

/// How many clients there may be when this user comes.
fn most_clients(config: &Config, user: &str) -> u32 {
    let l = &config.limits;
    let admin = config.admin_users.iter().any(|a| a == user);
    l.max_client_connections.saturating_add(if admin { l.reserved_client_connections } else { 0 })
}

/// Whether the other end of the Unix socket is run by the same system user as Howdah, and says so: PgBouncer's admin.
fn is_ourselves(stream: &Stream, user: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    const OURSELVES: &str = "pgbouncer";
    let Some((uid, _)) = stream.unix_peer().filter(|_| user == OURSELVES) else { return false };
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == uid)
}

type Belongs<'c> = (Cow<'c, Database>, Arc<Pool>, Box<Places>);

/// Where a client that may come in belongs, and its places there.
fn pool_of<'c>(
    services: &Arc<Services>,
    config: &'c Config,
    startup: &Startup,
    shown: Option<Shown>,
) -> Result<Belongs<'c>, Error> {
    let unknown = || Error::UnknownDatabase { database: startup.database.clone() };
    let db = config.database(&startup.database).ok_or_else(unknown)?;
    services.clients.count_login(&startup.database);
    if services.shared.control.is_disabled(&startup.database) {
        return Err(Error::DatabaseDisabled { database: startup.database.clone() });
    }
    let places =
        take_places(services, config, (&startup.database, db.max_client_connections), startup, false)?;
    // PgBouncer's pools are those of the server's users; where all clients share one, they share its pool.
    let forced = db.server_user.as_deref().filter(|_| config.profile == Profile::PgBouncer);
    let pool_user = forced.map_or_else(|| places.user.clone(), Arc::from);
    let key = PoolKey::new(places.database.clone(), pool_user, Role::Primary);
    if config.profile == Profile::PgBouncer
        && !config.databases.contains_key(&startup.database)
        && services.pools.get(&key).is_none()
    {
        tracing::info!(target: "pgbouncer", "registered new auto-database: {}", startup.database.escape_debug());
    }
    let pool = services.pools.obtain(&key, &services.pooling).ok_or_else(unknown)?;
    // The client's secret is of use where the pool logs in as the same user.
    let server_user = pool.spec().server_user().clone();
    if let Some(shown) = shown.filter(|_| *server_user == startup.user) {
        services.shared.keyring.lock().put(&pool.key.database, &server_user, shown);
    }
    Ok((db, pool, places))
}

/// A client whose parameters are its own business, or the server's.
fn client_of(
    services: &Services,
    stream: &Stream,
    peer: Peer,
    startup: &Startup,
    secret: CancelSecret,
) -> Arc<ClientCtl> {
    let application = startup.params.iter().rfind(|(n, _)| n == "application_name");
    let application = application.map_or("", |(_, v)| v).into();
    let (user, database) = (startup.user.as_str().into(), startup.database.as_str().into());
    let id = services.clients.next_id();
    let ctl = Arc::new(ClientCtl::new(id, peer, user, database, application, secret, Clock::now()));
    ctl.set_place(stream, startup.replication);
    ctl
}

/// After authentication, for a client that will have a server of its own.
async fn enter_replication(
    stream: &mut Stream,
    peer: Peer,
    services: &Arc<Services>,
    config: &Config,
    startup: &Startup,
    shown: Option<Shown>,
    progress: &Progress,
) -> Result<Admitted, Error> {
    let (_, pool, places) = pool_of(services, config, startup, shown)?;
    let ctl = client_of(services, stream, peer, startup, key_for_cancel(config, startup));
    progress.server(&pool);
    let (opened, reported) = replication::open(config, startup, &pool, &ctl).await?;
    progress.client();
    let welcome = welcome_of(&statuses(&reported), &ctl, config.compat.login.notify.as_deref())?;
    stream.write_all(&welcome).await.map_err(gone)?;
    Ok(Admitted::Replication(ctl, Box::new(opened), places))
}

struct Entered {
    session: Session,
    welcome: Vec<u8>,
    places: Box<Places>,
}

/// After authentication: the pool, the places, the welcome.
async fn enter(
    peer: Peer,
    services: &Arc<Services>,
    config: &Config,
    startup: &Startup,
    shown: Option<Shown>,
    progress: &Progress,
) -> Result<Entered, Error> {
    let (db, pool, places) = pool_of(services, config, startup, shown)?;
    let (asked, version) = (asked(startup), pool.version());
    // With its client's address in it, an application_name is one client's alone.
    let own = config.compat.login.application_name_add_host;
    // What is said about routes is read each time.
    let plain = !own && !route::concerns(services, startup);
    let known = pool.greetings.get(&asked, version, pool.welcome.get().as_ref()).filter(|_| plain);
    let mut route = None;
    let (overrides, application) = match &known {
        Some(g) => (ParamSet::default(), g.application.clone()),
        None => {
            let mut o = overrides(config, startup)?;
            if own {
                add_host(&mut o, peer);
            }
            route = route::at_login(services, &db, startup, &mut o)?;
            let a = String::from_utf8_lossy(o.get("application_name").unwrap_or_default()).into();
            (o, a)
        }
    };
    let secret = key_for_cancel(config, startup);
    let id = services.clients.next_id();
    let now = Clock::now();
    let (user, database) = (places.user.clone(), places.database.clone());
    let ctl = Arc::new(ClientCtl::new(id, peer, user, database, application, secret, now));

    let greeting = match known {
        Some(g) => g,
        None => {
            // Who only reads does not depend on the primary.
            let from = match &mut route {
                Some(r) => r.for_login(&pool, &ctl, services),
                None => pool.clone(),
            };
            progress.server(&from);
            let defaults = Box::pin(welcome(&from, &ctl)).await?;
            if let Some(r) = &mut route {
                r.reported(&from, &defaults);
            }
            // What no server has been asked about is not kept: the next such login asks, or knows by then.
            let base = |name| defaults.get(name);
            let certain = plain && overrides.iter().all(|(n, v)| pool.spellings.get(n, v, base(n)).is_some());
            let (proto, notices) = Box::pin(settle(services, &from, &ctl, &defaults, overrides)).await?;
            progress.client();
            let application = ctl.application_name();
            let statuses = [notices, statuses(&proto.view)].concat().into();
            let (overrides, view) = (proto.overrides, proto.view);
            let g = Arc::new(Greeting { version, defaults, application, overrides, view, statuses });
            if certain && !own {
                pool.greetings.put(&asked, g.clone());
            }
            g
        }
    };
    let proto = ClientProto::new(
        id,
        greeting.overrides.clone(),
        greeting.view.clone(),
        services.shared.statements.memory(),
    );
    let welcome = welcome_of(&greeting.statuses, &ctl, config.compat.login.notify.as_deref())?;
    let mut session = Session::new(services.clone(), ctl, pool, proto);
    session.take_route(route);
    Ok(Entered { session, welcome, places })
}

/// What the console reports of itself. Exporters read the version.
const CONSOLE_PARAMETERS: [(&str, &str); 7] = [
    ("server_version", "1.25.2/bouncer"),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

/// After authentication to the console: who is on no list is turned away.
async fn enter_console(
    stream: &mut Stream,
    peer: Peer,
    services: &Arc<Services>,
    config: &Config,
    startup: &Startup,
    trusted: bool,
) -> Result<Admitted, Error> {
    services.clients.count_login(CONSOLE);
    if !trusted && !config.may_use_console(&startup.user) {
        return Err(Error::ConsoleNotAllowed { user: startup.user.clone() });
    }
    let limit = config.limits.max_database_client_connections;
    let places = take_places(services, config, (CONSOLE, limit), startup, trusted)?;
    let ctl = client_of(services, stream, peer, startup, secret(startup));
    let mut view = ParamSet::default();
    for (name, value) in CONSOLE_PARAMETERS {
        view.set(name, value.as_bytes());
    }
    let welcome = welcome_of(&statuses(&view), &ctl, None)?;
    stream.write_all(&welcome).await.map_err(gone)?;
    Ok(Admitted::Console { ctl, trusted, places })
}

/// What a CancelRequest must name.
fn secret(startup: &Startup) -> CancelSecret {
    let mut secret = CancelSecret::from_elem(0, if startup.effective_minor() >= 2 { 32 } else { 4 });
    rand::rng().fill_bytes(&mut secret);
    secret
}

/// The same where other instances may be asked for it.
fn key_for_cancel(config: &Config, startup: &Startup) -> CancelSecret {
    match config.compat.peers.own {
        0 => secret(startup),
        own => cancel::PeerKey::new(rand::random(), own).bytes().as_slice().into(),
    }
}

/// What a startup packet asks for besides user and database, as a key.
fn asked(startup: &Startup) -> Vec<u8> {
    let mut key = Vec::with_capacity(128);
    let pairs = startup.params.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (name, value) in pairs.chain(startup.options.as_deref().map(|o| ("", o))) {
        // No zero byte is in either.
        for part in [name, value] {
            key.extend_from_slice(part.as_bytes());
            key.push(0);
        }
    }
    key
}

fn take_places(
    services: &Arc<Services>,
    config: &Config,
    (database, database_limit): (&str, Option<u32>),
    startup: &Startup,
    trusted: bool,
) -> Result<Box<Places>, Error> {
    let user = &startup.user;
    let admin = config.admin_users.contains(user)
        && (config.profile == Profile::Native || config.is_console(database));
    let lift = |l: Option<u32>| if admin || trusted { None } else { l };
    let user_limit = config
        .users
        .get(user)
        .map_or(config.limits.max_user_client_connections, |u| u.max_client_connections);
    let of = |l: Option<u32>| l.unwrap_or_default() as usize;
    let most = most_clients(config, user);
    // The console is for those who come when nothing else works.
    let of_all = Some(most).filter(|_| !config.is_console(database));
    let places =
        Places::take(&services.clients, of_all, (database, lift(database_limit)), (user, lift(user_limit)));
    places.map(Box::new).map_err(|full| match full {
        Full::All(current) => Error::TooManyClients { current, limit: most as usize },
        Full::Database(current) => Error::TooManyDatabaseClients {
            database: database.to_owned(),
            current,
            limit: of(database_limit),
        },
        Full::User(current) => {
            Error::TooManyUserClients { user: user.clone(), current, limit: of(user_limit) }
        }
    })
}

/// What a server of the pool reports; asks for one where none is known.
async fn welcome(pool: &Arc<Pool>, ctl: &Arc<ClientCtl>) -> Result<Arc<ParamSet>, Error> {
    if let Some(w) = pool.welcome.get() {
        return Ok(w);
    }
    let mut lease = pool.acquire(ctl).await?;
    let defaults = lease.conn().map(|c| c.state.defaults.clone());
    lease.release_unused();
    defaults.ok_or_else(|| Error::Internal("a lease without a server".to_owned()))
}

/// Finds out how the server spells what the startup packet asks for, and whether it takes it at all: from what
/// is known of earlier clients, or from a server. With it, what the server has to say to the client about it.
async fn settle(
    services: &Arc<Services>,
    pool: &Arc<Pool>,
    ctl: &Arc<ClientCtl>,
    defaults: &Arc<ParamSet>,
    overrides: ParamSet,
) -> Result<(ClientProto, Vec<u8>), Error> {
    let (mut named, mut raw, mut notices) = (ParamSet::default(), ParamSet::default(), Vec::new());
    for (name, value) in overrides.iter() {
        match pool.spellings.get(name, value, defaults.get(name)) {
            Some(known) => {
                named.set(name, &known.value);
                notices.extend_from_slice(&known.notices);
            }
            None => {
                named.set(name, value);
                raw.set(name, value);
            }
        }
    }
    let view = services.shared.params.intern(shown(defaults, &named));
    let mut proto = ClientProto::new(
        ctl.id,
        services.shared.params.intern(named),
        view,
        services.shared.statements.memory(),
    );
    if raw.is_empty() {
        if let Some(name) = proto.overrides.get("application_name") {
            ctl.set_application_name(&String::from_utf8_lossy(name));
        }
        return Ok((proto, notices));
    }
    let mut lease = pool.acquire(ctl).await?;
    let limit = services.shared.config().limits.server_repair_timeout;
    let Some(conn) = lease.conn() else {
        return Err(Error::Internal("a lease without a server".to_owned()));
    };
    match params::apply(&services.shared, ctl, &mut proto, conn, &raw, limit).await {
        Ok(params::Applied { refused: None, notices: said }) => {
            for (name, value) in raw.iter() {
                let said: Vec<u8> =
                    said.iter().filter(|(n, _)| n == name).flat_map(|(_, m)| m.iter().copied()).collect();
                notices.extend_from_slice(&said);
                let value_now = proto.overrides.get(name).unwrap_or(value).into();
                let spelling = Spelling { value: value_now, notices: said.into() };
                pool.spellings.learn(name, value, conn.state.defaults.get(name), spelling);
            }
            proto.named = proto.overrides.clone();
            proto.view = conn.state.view.clone();
            lease.release_unused();
            Ok((proto, notices))
        }
        Ok(params::Applied { refused: Some(refused), .. }) => {
            lease.release_unused();
            Err(Error::ServerLogin(refused.0.at_login().fatal()))
        }
        Err(why) => {
            let host = conn.host.to_string();
            lease.discard(why.label, TxStats::default());
            Err(why.error(host, "while the parameters of the login were set", limit))
        }
    }
}

/// The parameters that the startup packet asks for: its own, over those in `options`.
fn overrides(config: &Config, startup: &Startup) -> Result<ParamSet, Error> {
    let mut set = ParamSet::default();
    let ignored = |n: &str| config.ignore_startup_parameters.iter().any(|i| i.eq_ignore_ascii_case(n));
    let pgbouncer = config.profile == Profile::PgBouncer;
    let mut add = |name: &str, value: &str, place: &str| {
        if ignored(name) {
            return Ok(());
        }
        if pgbouncer && !is_tracked(config, name) {
            if !place.is_empty() && ignored("options") {
                return Ok(());
            }
            let name = name.escape_default();
            return Err(Error::ProtocolViolation(format!("unsupported startup parameter{place}: {name}")));
        }
        if !startup::is_valid_guc_name(name) {
            return Err(Error::ProtocolViolation(format!(
                "invalid parameter name \"{}\" in the startup packet",
                name.escape_default()
            )));
        }
        set.set(name, value.as_bytes());
        Ok(())
    };
    if let Some(o) = &startup.options {
        for (n, v) in startup::parse_options(o)? {
            add(&n, &v, " in options")?;
        }
    }
    for (n, v) in &startup.params {
        add(n, v, "")?;
    }
    Ok(set)
}

/// The application's name with the client's address behind it.
fn add_host(set: &mut ParamSet, peer: Peer) {
    let name = set.get("application_name").filter(|n| !n.is_empty());
    let name = name.map_or_else(|| "app".into(), String::from_utf8_lossy);
    let at = match peer {
        Peer::Tcp(a) => a.to_string(),
        Peer::Unix => "unix".to_owned(),
    };
    let whole = format!("{name} - {at}");
    set.set("application_name", whole.as_bytes());
}

/// Whether PgBouncer tracks this parameter for each client, so that one may ask for it at the login.
fn is_tracked(config: &Config, name: &str) -> bool {
    const ALWAYS: [&str; 5] =
        ["client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name"];
    let extra = config.compat.login.extra_parameters.iter().map(String::as_str);
    ALWAYS.into_iter().chain(extra).any(|t| t.eq_ignore_ascii_case(name))
}

fn statuses(view: &ParamSet) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in view.iter() {
        encode::write_parameter_status(&mut out, name, value);
    }
    out
}

/// Everything that a client hears between its authentication and its first query.
fn welcome_of(statuses: &[u8], ctl: &ClientCtl, notice: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(encode::AUTHENTICATION_OK.len() + statuses.len() + 64);
    out.extend_from_slice(encode::AUTHENTICATION_OK);
    out.extend_from_slice(statuses);
    let pid = i32::try_from(ctl.id).map_err(|_| Error::Internal("client number too large".to_owned()))?;
    let (pid, key) = match ctl.secret.split_first_chunk::<4>() {
        // Among peers the whole key tells where it is from.
        Some((first, rest)) if ctl.secret.len() == 8 => (i32::from_be_bytes(*first), rest),
        _ => (pid, ctl.secret.as_slice()),
    };
    out.extend_from_slice(&encode::backend_key_data(pid, key)?);
    if let Some(text) = notice {
        out.extend_from_slice(&encode::notice(text)?);
    }
    out.extend_from_slice(&encode::ready_for_query(TxStatus::Idle));
    Ok(out)
}
