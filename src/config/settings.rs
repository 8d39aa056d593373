//! Every setting, declared once. Defaults, validation, `config/reference.toml`, the names of variables and
//! what is read of a `pgbouncer.ini` all come from this table; nothing else lists keys.

use std::time::Duration;

use super::resolved::{
    AuthMethod, CapacityCheck, ChannelBinding, Drain, LogFormat, PoolMode, Profile, Role, ServerMethod,
    WhenNoReplica,
};
use super::routing::{Balance, ReadYourWrites};
use super::setting::{Level, PgBouncer, Preset, Put, Reload, Setting};
use super::value::{Kind, Value};
use crate::session_state::Way;
use crate::tls::Mode;

use Preset::{Is, Mandatory, Unset};

const GLOBAL: &[Level] = &[Level::Global];
const DATABASE: &[Level] = &[Level::Database];
const POOL_ENTRY: &[Level] = &[Level::Pool];
const WITH_PEERS: &[Level] = &[Level::Database, Level::Role, Level::Peer];
const FLEET: &[Level] = &[Level::Fleet];
const ASKED: &[Level] = &[Level::Global, Level::Database];
const NAMED: &[Level] = &[Level::Database, Level::User];
const USER: &[Level] = &[Level::User];
/// Settings of a pool can be stated at every level; the narrowest one wins.
const ANY: &[Level] = &Level::ALL;

const NATIVE: PgBouncer = PgBouncer::NONE;
const COUNT: u32 = 1_000_000;
const MS_100: Kind = Kind::at_least(Duration::from_millis(100));
const ONE_S: Kind = Kind::at_least(Duration::from_secs(1));
const FACILITIES: &[&str] = &[
    "daemon", "user", "auth", "authpriv", "local0", "local1", "local2", "local3", "local4", "local5",
    "local6", "local7",
];
/// PgBouncer's 0 for "never" where Howdah insists on some limit.
const NEVER: &str = "365d";

const fn pgb(name: &'static str) -> PgBouncer {
    PgBouncer::main(name)
}

/// The setting of this name at this level.
pub fn find(level: Level, key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key && s.at(level))
}

/// The keys that a section of this level may have, without its subsections.
pub fn keys(level: Level) -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter(move |s| s.at(level)).map(|s| s.key)
}

fn auth_method(word: &str) -> AuthMethod {
    match word {
        "trust" => AuthMethod::Trust,
        "any" => AuthMethod::Any,
        "password" => AuthMethod::Password,
        "cert" => AuthMethod::Cert,
        "ldap" => AuthMethod::Ldap,
        "pam" => AuthMethod::Pam,
        "hba" => AuthMethod::Hba,
        "md5" => AuthMethod::Md5,
        _ => AuthMethod::ScramSha256,
    }
}

fn channel_binding(word: &str) -> ChannelBinding {
    match word {
        "disable" => ChannelBinding::Disable,
        "require" => ChannelBinding::Require,
        _ => ChannelBinding::Prefer,
    }
}

fn way(word: &str) -> Way {
    match word {
        "pin" => Way::Pin,
        "share" => Way::Share,
        "reset" => Way::Reset,
        "reject" => Way::Reject,
        _ => Way::Follow,
    }
}

fn pool_mode(word: &str) -> PoolMode {
    match word {
        "session" => PoolMode::Session,
        "statement" => PoolMode::Statement,
        _ => PoolMode::Transaction,
    }
}

fn role(word: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|r| r.as_str() == word)
}

fn when_no_replica(word: &str) -> WhenNoReplica {
    match word {
        "primary" => WhenNoReplica::Primary,
        "wait" => WhenNoReplica::Wait,
        _ => WhenNoReplica::Error,
    }
}

fn capacity_check(word: &str) -> CapacityCheck {
    match word {
        "warn" => CapacityCheck::Warn,
        "off" => CapacityCheck::Off,
        _ => CapacityCheck::Refuse,
    }
}

fn path(text: &str) -> Option<std::path::PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

fn stated(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A row: doc, key, levels, type, default and its reason, reload class, PgBouncer's names, and where it goes.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident: $levels:expr, $kind:expr, $preset:expr, $reason:literal, $reload:ident, $pgb:expr,
            $target:ident |$t:ident, $variant:ident($v:ident)| $put:expr;
    )+) => {
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                key: stringify!($key),
                levels: $levels,
                kind: $kind,
                preset: $preset,
                reason: $reason,
                reload: Reload::$reload,
                pgbouncer: $pgb,
                doc: concat!($($doc, "\n"),+),
                put: Put::$target(|$t, value| match value {
                    Value::$variant($v) => {
                        $put;
                        true
                    }
                    _ => false,
                }),
            },
        )+];
    };
}

settings! {
    // --- where Howdah listens
    /// TCP addresses for clients. `localhost` and `*` (every IPv4 address) are understood; no name is looked up.
    listen: GLOBAL, Kind::Addresses, Is("127.0.0.1:6432"),
        "6432 is the port that poolers use; other machines reach Howdah only when the operator says so",
        Restart, NATIVE.preset(""), Config |c, Addresses(v)| c.listen.tcp = v.clone();
    /// Directory of the Unix socket `.s.PGSQL.<port>`; the port is the first TCP one, or 6432.
    unix_socket_dir: GLOBAL, Kind::Text, Unset, "without it there is no Unix socket",
        Restart, pgb("unix_socket_dir").preset("/tmp"),
        Config |c, Text(v)| c.listen.unix_dir = (!v.is_empty()).then(|| v.into());
    /// The port in the name of the Unix socket; 0 is that of the first TCP address, or 6432.
    unix_socket_port: GLOBAL, Kind::Limit { max: 65_535 }, Is("0"), "clients find both with one port",
        Restart, NATIVE,
        Config |c, Limit(v)| c.listen.unix_port = v.and_then(|p| u16::try_from(p).ok());
    /// Permission bits of the Unix socket, as an octal string.
    unix_socket_mode: GLOBAL, Kind::Mode, Is("0700"),
        "only the user that runs Howdah; widen it to the group or to all on purpose",
        Restart, pgb("unix_socket_mode").preset("0777"), Config |c, Mode(v)| c.listen.unix_mode = *v;
    /// Connections that the kernel may queue before they are accepted.
    backlog: GLOBAL, Kind::Count { min: 1, max: 65_535 }, Is("4096"),
        "a deploy that reconnects every client at once must not be refused; the kernel caps it at somaxconn",
        Restart, pgb("listen_backlog").preset("128"), Config |c, Count(v)| c.listen.backlog = *v;
    /// HTTP address of /metrics, /healthz and /readyz, or `off`.
    ops_listen: GLOBAL, Kind::Address, Is("127.0.0.1:9127"),
        "metrics are there when they are needed, for this machine only",
        Restart, NATIVE.preset("off"), Config |c, Address(v)| c.listen.ops = *v;

    /// Whose behaviour clients see where Howdah and PgBouncer differ: messages, SQLSTATEs, defaults, log lines.
    compatibility: GLOBAL, Kind::Word(&["native", "pgbouncer"]), Is("native"),
        "errors say more; `pgbouncer` is for what matches on its words, and is implied by a pgbouncer.ini",
        Restart, NATIVE.preset("pgbouncer"),
        Config |c, Word(v)| c.profile = if *v == "native" { Profile::Native } else { Profile::PgBouncer };
    /// Lets several processes listen on the same TCP port (SO_REUSEPORT).
    so_reuseport: GLOBAL, Kind::Boolean, Is("false"), "a second one by mistake is an error, not half of the clients",
        Restart, pgb("so_reuseport"), Config |c, Boolean(v)| c.compat.listen.reuse_port = *v;
    /// Size of the kernel's send and receive buffers of each TCP connection; 0 leaves it to the system.
    tcp_socket_buffer: GLOBAL, Kind::Bytes { min: 0, max: 1 << 30 }, Is("0"), "the system sizes them by need",
        NewConnections, pgb("tcp_socket_buffer"),
        Config |c, Bytes(v)| c.compat.listen.socket_buffer = usize::try_from(*v).ok().filter(|n| *n > 0);
    /// Group of the Unix socket.
    unix_socket_group: GLOBAL, Kind::Text, Unset, "that of the process",
        Restart, pgb("unix_socket_group"),
        Config |c, Text(v)| c.compat.listen.unix_group = Some(v.clone()).filter(|v| !v.is_empty());
    /// Number of this process among its peers, in every cancel key; 0 is none.
    peer_id: GLOBAL, Kind::Limit { max: 16_383 }, Is("0"), "one process alone gets every cancel request itself",
        Restart, pgb("peer_id"),
        Config |c, Limit(v)| c.compat.peers.own = v.and_then(|n| u16::try_from(n).ok()).unwrap_or(0);

    /// What asks for more than metrics and health at `ops_listen` must show: `Authorization: Bearer TOKEN`, or the token
    /// as the password of a browser's login.
    ops_token: GLOBAL, Kind::Secret, Unset,
        "on a loopback address everything is answered without; elsewhere only metrics and health are answered at all",
        Live, NATIVE, Config |c, Secret(v)| c.process.ops_token = Some(super::resolved::Secret::Plain(v.clone()));
    /// File whose first line is that token.
    ops_token_file: GLOBAL, Kind::Text, Unset, "the token may stand in the configuration itself",
        Live, NATIVE, Section |s, Text(v)| s.ops_token_file = Some(v.clone());
    /// The ops port's certificate in PEM, with the intermediate ones behind it: with one it speaks HTTPS, and HTTPS alone.
    /// Read again at each reload.
    ops_tls_cert: GLOBAL, Kind::Text, Unset, "on the loopback interface nobody listens in",
        NewConnections, NATIVE, Config |c, Text(v)| c.tls.ops.cert = path(v);
    /// Its private key in PEM, without a passphrase.
    ops_tls_key: GLOBAL, Kind::Text, Unset, "a secret has no default",
        NewConnections, NATIVE, Config |c, Text(v)| c.tls.ops.key = path(v);
    /// CA certificates in PEM: whoever scrapes needs a certificate that they vouch for.
    ops_tls_ca: GLOBAL, Kind::Text, Unset, "without it no client certificate is asked for",
        NewConnections, NATIVE, Config |c, Text(v)| c.tls.ops.ca = path(v);
    /// Hosts by whose names the ops port on a loopback address may be asked where there is no `ops_token`, beside localhost
    /// and the loopback addresses: what a proxy before it sends as Host. /healthz and /readyz are answered to all.
    ops_hosts: GLOBAL, Kind::Names, Is(""),
        "a page in a browser on this machine can have its own name point here, and would read what the port answers",
        Live, NATIVE, Config |c, List(v)| c.process.ops_hosts = v.clone();
    /// What /readyz asks for besides a valid configuration and open listeners: databases, as `DATABASE` (its primary)
    /// or `DATABASE/ROLE`, that the pools must not know to be out of reach.
    ready_requires: GLOBAL, Kind::Names, Is(""),
        "a pooler that is taken out of service because its server is restarting only adds to the trouble",
        Live, NATIVE, Config |c, List(v)| c.process.ready_requires = v.clone();
    /// Whether /metrics has the names of the community's pgbouncer_exporter as well.
    pgbouncer_exporter_metrics: GLOBAL, Kind::Boolean, Is("false"), "one name for one figure is enough for new dashboards",
        Live, NATIVE, Config |c, Boolean(v)| c.process.exporter_names = *v;

    // --- who may come in
    /// How clients prove who they are. `md5` also accepts users whose secret is a SCRAM verifier; with `cert` the
    /// common name of their certificate is their user; with `hba` the rules of `auth_hba_file` say how. `any` is for
    /// PgBouncer's profile: no name needs to be known, and each database states the server's user.
    auth_method: GLOBAL, Kind::Word(&["trust", "password", "md5", "scram-sha-256", "cert", "ldap", "pam", "hba", "any"]), Is("scram-sha-256"),
        "what PostgreSQL itself has as its default; no secret crosses the network",
        NewConnections, pgb("auth_type").preset("md5"), Config |c, Word(v)| c.auth_method = auth_method(v);
    /// What `auth_method = "ldap"` asks, in the words of pg_hba.conf (needs the cargo feature ldap):
    /// `ldapurl="ldap://directory/dc=example,dc=net?uid?sub"`. Shown nowhere: there may be an ldapbindpasswd in it.
    auth_ldap_options: GLOBAL, Kind::Secret, Unset, "which directory knows the users is up to the operator",
        NewConnections, pgb("auth_ldap_options"), Config |c, Secret(v)| c.access.ldap_options = Some(v.clone()).filter(|v| !v.is_empty()).map(super::resolved::Secret::Plain);
    /// From this the salts are made that users get who do not exist: after a restart, and in all instances that have the
    /// same, they are the same, and tell nothing. 32 random bytes or more, in any writing.
    scram_mock_secret: GLOBAL, Kind::Secret, Unset,
        "a new one at each start does; a restart then tells who watches which users exist",
        Restart, NATIVE, Config |c, Secret(v)| c.access.mock_secret = Some(super::resolved::Secret::Plain(v.clone()));
    /// The service that PAM is asked as (needs the cargo feature pam), where a rule has no `pamservice`.
    auth_pam_service: GLOBAL, Kind::Text, Is("postgresql"), "what PostgreSQL itself asks; PgBouncer's is always pgbouncer",
        NewConnections, NATIVE.preset("pgbouncer"), Config |c, Text(v)| c.access.pam_service = v.clone();
    /// Requests to PAM that are under way at one time. More wait for one to end, and are refused when their login's time is
    /// over. A request that hangs is not ended by the end of its login, which is why there is a bound.
    max_pam_requests: GLOBAL, Kind::Count { min: 1, max: 256 }, Is("16"),
        "each takes a thread for as long as a module likes, of those that also look up names and derive keys",
        Restart, NATIVE, Config |c, Count(v)| c.access.max_pam_requests = *v;
    /// A PgBouncer user list: lines of `"user" "secret"`. Users of this file win over its entries.
    auth_file: GLOBAL, Kind::Text, Unset, "users can be stated under [users] just as well",
        Live, pgb("auth_file"), Section |s, Text(v)| s.auth_file = Some(v.clone());
    /// A pg_hba.conf, for `auth_method = "hba"`: types local, host, hostssl, hostnossl (and their gssenc forms),
    /// methods trust, reject, password, md5, scram-sha-256, cert, peer and (with the cargo features) ldap and pam; no memberships of roles and no names
    /// of hosts. No rule that fits is no way in.
    auth_hba_file: GLOBAL, Kind::Text, Unset, "rules are the operator's to make",
        NewConnections, pgb("auth_hba_file"), Config |c, Text(v)| c.access.hba_file = path(v);
    /// A pg_ident.conf, with the maps that rules name: `MAP SYSTEM-USER DATABASE-USER`.
    auth_ident_file: GLOBAL, Kind::Text, Unset, "without a map, both names must be the same",
        NewConnections, pgb("auth_ident_file"), Config |c, Text(v)| c.access.ident_file = path(v);
    /// The user as whom the server is asked for the secrets of users that are not listed here; itself it must be.
    auth_user: ASKED, Kind::Text, Unset, "nobody is asked for secrets unless the operator says as whom",
        NewConnections, pgb("auth_user").database("auth_user"), Section |s, Text(v)| s.lookup.user = stated(v);
    /// The configured database in which `auth_query` runs, instead of the one that the client wants.
    auth_dbname: ASKED, Kind::Text, Unset, "roles are the same in all databases of a server",
        NewConnections, pgb("auth_dbname").database("auth_dbname"), Section |s, Text(v)| s.lookup.database = stated(v);
    /// What is asked: one row of the user's name ($1) and its secret (plain, md5 or a SCRAM verifier); a NULL lets
    /// nobody in. It runs on a connection of its own with search_path = pg_catalog.
    auth_query: ASKED, Kind::Statement, Unset,
        "the default asks pg_authid, honours VALID UNTIL and NOLOGIN, and needs the right to read it",
        NewConnections, pgb("auth_query").database("auth_query"), Section |s, Text(v)| s.lookup.query = stated(v);
    /// For how long an answer of `auth_query` is used again. After a login that failed with it the next one asks anew.
    auth_query_lifetime: GLOBAL, Kind::Timeout { max: Duration::from_secs(86_400) }, Is("30s"),
        "a role that is locked is out within this time; 0 asks for each login",
        Live, NATIVE.preset("0"), Config |c, Timeout(v)| c.access.lifetime = v.unwrap_or_default();
    /// Rounds of PBKDF2 in the verifiers that are made of plain secrets, and in those that are shown to unknown users.
    scram_iterations: GLOBAL, Kind::Count { min: 1, max: 100_000 }, Is("4096"),
        "PostgreSQL's; such verifiers live in memory alone, so that more of them only costs time",
        Restart, pgb("scram_iterations"), Config |c, Count(v)| c.access.scram_iterations = *v;
    /// Users that may do everything on the console and take the reserved client connections.
    admin_users: GLOBAL, Kind::Names, Is(""), "nobody is privileged unless the operator says so",
        Live, pgb("admin_users"), Config |c, List(v)| c.admin_users = v.clone();
    /// Users that may look at everything on the console and change nothing.
    stats_users: GLOBAL, Kind::Names, Is(""), "nobody is privileged unless the operator says so",
        Live, pgb("stats_users"), Config |c, List(v)| c.stats_users = v.clone();
    /// Startup parameters of clients that are accepted and dropped.
    ignore_startup_parameters: GLOBAL, Kind::Names, Is(""),
        "every parameter reaches the server, which is the one to judge it",
        NewConnections, pgb("ignore_startup_parameters"),
        Config |c, List(v)| c.ignore_startup_parameters = v.clone();

    /// Whether `- host:port` of the client is added to its application_name.
    application_name_add_host: GLOBAL, Kind::Boolean, Is("false"), "the name is the application's own",
        NewConnections, pgb("application_name_add_host"),
        Config |c, Boolean(v)| c.compat.login.application_name_add_host = *v;
    /// A notice for each client that logs in.
    login_notify_message: GLOBAL, Kind::Text, Unset, "nothing is said",
        NewConnections, pgb("login_notify_message"),
        Config |c, Text(v)| c.compat.login.notify = Some(v.clone()).filter(|v| !v.is_empty());
    /// In PgBouncer's profile: parameters beside client_encoding, DateStyle, TimeZone, standard_conforming_strings
    /// and application_name that a client may set in its startup packet. In the native profile it may set any.
    track_extra_parameters: GLOBAL, Kind::Names, Is(""), "the native profile tracks every parameter",
        NewConnections, pgb("track_extra_parameters").preset("IntervalStyle"),
        Config |c, List(v)| c.compat.login.extra_parameters = v.clone();
    /// Refuses the simple query protocol, and with it several statements in one text.
    disable_pqexec: GLOBAL, Kind::Boolean, Is("false"), "nearly every client uses it",
        NewConnections, pgb("disable_pqexec"), Config |c, Boolean(v)| c.compat.login.no_simple_query = *v;
    // --- TLS towards clients
    /// TLS for clients over TCP, with libpq's words. `allow` and `prefer`: whoever asks for it has it; `require`:
    /// nobody comes in without; `verify-ca` and `verify-full`: nor without a certificate that `client_tls_ca` vouches for.
    client_tls_mode: GLOBAL, Kind::Word(Mode::WORDS), Is("disable"),
        "it needs a certificate, which only the operator can give",
        NewConnections, pgb("client_tls_sslmode"), Config |c, Word(v)| c.tls.client.mode = Mode::from_word(v);
    /// Howdah's certificate in PEM, with the intermediate ones behind it. Read again at each reload.
    client_tls_cert: GLOBAL, Kind::Text, Unset, "whom Howdah is to be known as is up to the operator",
        NewConnections, pgb("client_tls_cert_file"), Config |c, Text(v)| c.tls.client.cert = path(v);
    /// Its private key in PEM, without a passphrase.
    client_tls_key: GLOBAL, Kind::Text, Unset, "a secret has no default",
        NewConnections, pgb("client_tls_key_file"), Config |c, Text(v)| c.tls.client.key = path(v);
    /// CA certificates in PEM. With them, clients are asked for a certificate, and one that is shown must be good.
    client_tls_ca: GLOBAL, Kind::Text, Unset, "without it no client is asked for a certificate",
        NewConnections, pgb("client_tls_ca_file"), Config |c, Text(v)| c.tls.client.ca = path(v);
    /// Protocols: `tlsv1.2`, `tlsv1.3`, or `secure` for both.
    client_tls_protocols: GLOBAL, Kind::Names, Is("secure"), "what is older is broken, and not implemented",
        NewConnections, pgb("client_tls_protocols"), Config |c, List(v)| c.tls.client.protocols = v.clone();
    /// Cipher suites by their names in OpenSSL or at IANA, or `default` for all nine that there are.
    client_tls_ciphers: GLOBAL, Kind::Names, Is("default"), "all of them are sound",
        NewConnections, pgb("client_tls_ciphers"), Config |c, List(v)| c.tls.client.ciphers = v.clone();

    // --- TLS towards servers
    /// TLS to servers over TCP, with libpq's words. `allow` and `prefer` fall back to plain text, or from it, and
    /// count it; from `require` on there is no connection without TLS. With `server_tls_ca` the certificate is
    /// verified in every mode, with `verify-full` its name, too.
    server_tls_mode: GLOBAL, Kind::Word(Mode::WORDS), Is("disable"),
        "libpq's prefer falls back to plain text without a word: say which you want",
        NewConnections, pgb("server_tls_sslmode").preset("prefer"),
        Config |c, Word(v)| c.tls.server.mode = Mode::from_word(v);
    /// How TLS to servers begins: `postgres` asks with an SSLRequest, `direct` (PostgreSQL 17 and newer) does not.
    server_tls_negotiation: GLOBAL, Kind::Word(&["postgres", "direct"]), Is("postgres"),
        "every version of PostgreSQL understands it",
        NewConnections, NATIVE, Config |c, Word(v)| c.tls.direct = *v == "direct";
    /// Whether a login to a server is bound to its certificate (SCRAM-SHA-256-PLUS): libpq's `channel_binding`. With
    /// `require`, a server that does not offer it, or asks for anything else, is not logged in to.
    server_channel_binding: GLOBAL, Kind::Word(&["disable", "prefer", "require"]), Is("prefer"),
        "as libpq; a server without TLS has nothing to bind to",
        NewConnections, NATIVE.preset("disable"), Config |c, Word(v)| c.tls.binding = channel_binding(v);
    /// In which ways a server may ask Howdah to prove who it is (libpq's `require_auth`): some of `none` (it asks for
    /// nothing), `password` (as it is), `md5` and `scram-sha-256`; `any` of them; or `by-channel`: any over a Unix socket,
    /// loopback and TLS with a certificate that `server_tls_ca` vouches for, md5 and scram-sha-256 elsewhere. Words add up:
    /// `["by-channel", "none"]` is for a network in which servers trust Howdah's address.
    server_require_auth: ANY, Kind::Words(ServerMethod::WORDS), Is("by-channel"),
        "whoever answers at a server's address must not get a password, nor pass for a database that asks for none",
        NewConnections, NATIVE.preset("any"),
        Section |s, List(v)| s.overrides.require_auth = Some(ServerMethod::from_words(v));
    /// Whether `by-channel` and `any` of `server_require_auth` let a server have a password as it is over TCP without TLS,
    /// or with an unverified certificate.
    server_cleartext_password: GLOBAL, Kind::Boolean, Is("false"),
        "anybody on the way could read it",
        NewConnections, NATIVE.preset("true"), Config |c, Boolean(v)| c.tls.cleartext = *v;
    /// The certificate that Howdah shows to servers, in PEM, with the intermediate ones behind it.
    server_tls_cert: GLOBAL, Kind::Text, Unset, "few servers ask for one",
        NewConnections, pgb("server_tls_cert_file"), Config |c, Text(v)| c.tls.server.cert = path(v);
    /// Its private key in PEM, without a passphrase.
    server_tls_key: GLOBAL, Kind::Text, Unset, "a secret has no default",
        NewConnections, pgb("server_tls_key_file"), Config |c, Text(v)| c.tls.server.key = path(v);
    /// CA certificates in PEM that servers' certificates are verified with.
    server_tls_ca: GLOBAL, Kind::Text, Unset, "whom to trust is up to the operator; the system's CAs vouch for anybody",
        NewConnections, pgb("server_tls_ca_file"), Config |c, Text(v)| c.tls.server.ca = path(v);
    /// Protocols: `tlsv1.2`, `tlsv1.3`, or `secure` for both.
    server_tls_protocols: GLOBAL, Kind::Names, Is("secure"), "what is older is broken, and not implemented",
        NewConnections, pgb("server_tls_protocols"), Config |c, List(v)| c.tls.server.protocols = v.clone();
    /// Cipher suites by their names in OpenSSL or at IANA, or `default` for all nine that there are.
    server_tls_ciphers: GLOBAL, Kind::Names, Is("default"), "all of them are sound",
        NewConnections, pgb("server_tls_ciphers"), Config |c, List(v)| c.tls.server.ciphers = v.clone();

    // --- limits of the process
    /// Clients that may be connected at one time.
    max_client_connections: GLOBAL, Kind::Count { min: 1, max: COUNT }, Is("10000"),
        "an idle client costs little, and being refused costs the application a request",
        Live, pgb("max_client_conn").preset("100"), Config |c, Count(v)| c.limits.max_client_connections = *v;
    /// Client connections above that number which only `admin_users` may take.
    reserved_client_connections: GLOBAL, Kind::Count { min: 0, max: 1000 }, Is("5"),
        "the operator must get in when everything else is full",
        Live, NATIVE.preset("0"), Config |c, Count(v)| c.limits.reserved_client_connections = *v;
    /// Places of connections that have not proved who they are, apart from `max_client_connections`: so many over TCP, and
    /// as many over the Unix socket. Where all are taken, one that has said nothing for 5 s loses its place, the oldest of
    /// the address that has most of them. Until then more may come, as long as max_client_connections has places free; where it
    /// has none, the oldest silent one goes at once. So many log in at a time; others that have said something
    /// wait for their turn, and a login that has taken longer than 5 s makes room for them where few others are over.
    max_login_connections: GLOBAL, Kind::Count { min: 1, max: COUNT }, Is("1000"),
        "connections that say nothing must not use up the places of those that do",
        Live, NATIVE, Config |c, Count(v)| c.limits.max_login_connections = *v;
    /// Failed logins of one user from one address (of IPv6, one /64) in a minute; then such logins are refused, and the
    /// allowance fills again within a minute. A login that succeeds forgets them, and who has come in from there within
    /// the last day still does with the right secret. 0 is no limit.
    max_login_failures: GLOBAL, Kind::Count { min: 0, max: 1_000_000 }, Is("60"),
        "passwords are not guessed at one a second, and a deploy with a wrong one is told why it is refused",
        Live, NATIVE.preset("0"), Config |c, Count(v)| c.limits.max_login_failures = *v;
    /// A client that reads nothing of its results for this long is closed.
    client_write_timeout: GLOBAL, Kind::ON_OFF, Is("60s"),
        "a reader that has stopped holds a server connection; a slow one still reads something in a minute",
        NewConnections, NATIVE.preset("0"), Config |c, Timeout(v)| c.limits.client_write_timeout = *v;
    /// Server logins that one pool has under way at one time.
    max_parallel_connects: GLOBAL, Kind::Count { min: 1, max: 1000 }, Is("4"),
        "a pool fills fast enough, and a server that just came back is not stormed",
        Live, NATIVE, Config |c, Count(v)| c.limits.max_parallel_connects = *v;
    /// Cancel requests that are being forwarded at one time; more are dropped and counted.
    max_cancels_in_flight: GLOBAL, Kind::Count { min: 1, max: 100_000 }, Is("100"),
        "cancels come in bursts when a server is slow, and each of them is one more connection to it",
        Live, NATIVE, Config |c, Count(v)| c.limits.max_cancels_in_flight = *v;
    /// How long an abandoned server connection may take to be cancelled, drained and rolled back.
    server_repair_timeout: GLOBAL, MS_100, Is("10s"),
        "a repair is cheaper than a login, but not if it takes longer than that",
        Live, NATIVE, Config |c, Duration(v)| c.limits.server_repair_timeout = *v;
    /// How often the monitor asks each host of a database with replicas where it stands.
    monitor_interval: GLOBAL, MS_100, Is("1s"), "a failover is noticed within this time, and the question is cheap",
        Live, NATIVE, Config |c, Duration(v)| c.limits.monitor_interval = *v;
    /// How often the names of hosts are looked up. Where a name has none of its old addresses any more, the
    /// connections to them are replaced as their transactions end; 0 follows a name with new connections only.
    dns_check_interval: GLOBAL, Kind::ON_OFF, Is("15s"), "as soon as PgBouncer by default",
        Live, pgb("dns_max_ttl"), Config |c, Timeout(v)| c.limits.dns_check_interval = *v;
    /// Largest message that is accepted from either side; messages are streamed, not collected.
    max_message_size: GLOBAL, Kind::Bytes { min: 1 << 10, max: (1 << 31) - 1 }, Is("1073741823B"),
        "PostgreSQL's own limit",
        NewConnections, pgb("max_packet_size").preset("2147483647B"),
        Config |c, Bytes(v)| c.limits.max_message_size = u32::try_from(*v).unwrap_or(u32::MAX);
    /// Largest statement that can be prepared by name, since Howdah keeps its text.
    max_statement_size: GLOBAL, Kind::Bytes { min: 1 << 10, max: 1 << 30 }, Is("16MB"),
        "far above what people write; what many of them may take has limits of its own",
        Live, NATIVE.preset("1GB"), Config |c, Bytes(v)| c.limits.max_statement_size = u32::try_from(*v).unwrap_or(u32::MAX);
    /// Prepared statements that are kept on one server connection; 0 passes names through as they are, which only
    /// session mode can do right.
    max_prepared_statements: GLOBAL, Kind::Count { min: 0, max: 100_000 }, Is("200"),
        "holds what an application uses again and again; each costs memory on the server",
        Live, pgb("max_prepared_statements"), Config |c, Count(v)| c.limits.max_prepared_statements = *v;
    /// Prepared statements that one client may hold; 0 for no limit but that of their memory.
    max_client_statements: GLOBAL, Kind::Limit { max: COUNT }, Is("0"),
        "some clients close none, as PostgreSQL lets them; max_client_statement_memory stops a leak",
        Live, NATIVE, Config |c, Limit(v)| c.limits.max_client_statements = *v;
    /// Notifications that may wait for one client, which takes them too slowly (`session_listen = "share"`). One with more
    /// is ended.
    listen_buffer: GLOBAL, Kind::Bytes { min: 1 << 14, max: 1 << 30 }, Is("1MB"),
        "room for a hundred of the longest notifications; PostgreSQL keeps them for all until the slowest has read them",
        Live, NATIVE, Config |c, Bytes(v)| c.limits.listen_buffer = usize::try_from(*v).unwrap_or(usize::MAX);
    /// Memory that the prepared statements of one client may take, names and texts; a text that others have as well counts
    /// for each. A Parse that goes beyond is refused.
    max_client_statement_memory: GLOBAL, Kind::Bytes { min: 1 << 16, max: 1 << 40 }, Is("64MB"),
        "room for tens of thousands of usual statements, or for dozens of the longest",
        Live, NATIVE.preset("1GB"), Config |c, Bytes(v)| c.limits.max_client_statement_memory = usize::try_from(*v).unwrap_or(usize::MAX);
    /// Memory that the texts of the statements on one server connection may take. The least recently used are closed
    /// there to make room, and prepared again when they are needed.
    max_server_statement_memory: GLOBAL, Kind::Bytes { min: 1 << 16, max: 1 << 40 }, Is("32MB"),
        "PostgreSQL takes a multiple of it for their plans",
        Live, NATIVE, Config |c, Bytes(v)| c.limits.max_server_statement_memory = usize::try_from(*v).unwrap_or(usize::MAX);
    /// Memory that all prepared statements may take, those of all clients and on all servers; a text counts once. A Parse
    /// that goes beyond is refused.
    max_statement_memory: GLOBAL, Kind::Bytes { min: 1 << 16, max: 1 << 40 }, Is("2GB"),
        "a bound that usual clients do not reach, before the system ends the process for all",
        Live, NATIVE.preset("64GB"), Config |c, Bytes(v)| c.limits.max_statement_memory = usize::try_from(*v).unwrap_or(usize::MAX);
    /// Size of a relay buffer; a connection has one only while bytes are in flight.
    buffer_size: GLOBAL, Kind::Bytes { min: 1 << 10, max: 1 << 24 }, Is("16kB"),
        "takes most queries and results whole; larger ones gain little",
        NewConnections, pgb("pkt_buf").preset("4kB"),
        Config |c, Bytes(v)| c.limits.buffer_size = usize::try_from(*v).unwrap_or(usize::MAX);
    /// Limit of server connections of each database that has no `max_connections` of its own; 0 for none.
    max_database_connections: GLOBAL, Kind::Limit { max: COUNT }, Is("0"), "the pools' sizes limit already",
        Live, pgb("max_db_connections"), Section |s, Limit(v)| s.max_database_connections = *v;
    /// Limit of clients of each database that has no `max_client_connections` of its own; 0 for none.
    max_database_client_connections: GLOBAL, Kind::Limit { max: COUNT }, Is("0"),
        "the global max_client_connections limits already",
        Live, pgb("max_db_client_connections"), Section |s, Limit(v)| s.max_database_client_connections = *v;
    /// Limit of server connections of each user that has no `max_connections` of its own; 0 for none.
    max_user_connections: GLOBAL, Kind::Limit { max: COUNT }, Is("0"), "the pools' sizes limit already",
        Live, pgb("max_user_connections"), Section |s, Limit(v)| s.max_user_connections = *v;
    /// Limit of clients of each user that has no `max_client_connections` of its own; 0 for none.
    max_user_client_connections: GLOBAL, Kind::Limit { max: COUNT }, Is("0"),
        "the global max_client_connections limits already",
        Live, pgb("max_user_client_connections"), Section |s, Limit(v)| s.max_user_client_connections = *v;

    // --- what the servers can carry
    /// Processes with this configuration before the same servers: what one can open is multiplied by it.
    instances: GLOBAL, Kind::Count { min: 1, max: 10_000 }, Is("1"), "only the operator knows of the others",
        Live, NATIVE, Config |c, Count(v)| c.capacity.instances = *v;
    /// Share of a server's connections that poolers may use: in the sizes that `howdah plan` derives, and at the start.
    /// Pools that can open more than that bring a warning; where the margin is stated, they are refused as they are
    /// above the whole (see `capacity_check`).
    safety_margin: GLOBAL, Kind::Share, Is("0.8"), "leaves room for migrations, backups, and people",
        Live, NATIVE, Config |c, Share(v)| c.capacity.safety_margin = *v;
    /// What happens at start and reload when the pools of all instances can open more connections than a server
    /// has: `refuse`, or `warn`. `off` asks the servers nothing.
    capacity_check: GLOBAL, Kind::Word(&["refuse", "warn", "off"]), Is("refuse"),
        "what cannot work is best told before anybody depends on it",
        Live, NATIVE.preset("warn"), Config |c, Word(v)| c.capacity.check = capacity_check(v);
    /// Whether Howdah ends at its start when a server cannot be asked or the minimum of a pool cannot be opened.
    /// Otherwise it serves, says so, and checks as soon as the server answers.
    startup_requires_server: GLOBAL, Kind::Boolean, Is("false"),
        "applications and servers start in any order, and a sidecar must not fail because of it",
        Live, NATIVE, Config |c, Boolean(v)| c.capacity.startup_requires_server = *v;
    /// How often the servers are asked again while serving; 0 is only at start and reload.
    capacity_interval: GLOBAL, Kind::ON_OFF, Is("60s"),
        "notices a smaller server after a failover, for one short login a minute",
        Live, NATIVE, Config |c, Timeout(v)| c.capacity.interval = *v;

    // --- the process
    /// Worker threads; 0 is one for each available core, 1 runs everything on one thread.
    workers: GLOBAL, Kind::Limit { max: 1024 }, Is("0"), "uses the machine, and what a container is given of it",
        Restart, NATIVE, Config |c, Limit(v)| c.process.workers = v.map_or_else(cores, |n| n as usize);
    /// Form of the log lines.
    log_format: GLOBAL, Kind::Word(&["text", "json"]), Is("text"), "people read it first",
        Restart, NATIVE,
        Config |c, Word(v)| c.process.log_format = if *v == "json" { LogFormat::Json } else { LogFormat::Text };
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,howdah::pool=debug`.
    log_level: GLOBAL, Kind::Text, Is("info"), "tells what changed, and nothing per query",
        Live, NATIVE, Config |c, Text(v)| c.process.log_level = v.clone();
    /// File that log lines are appended to, beside standard error; opened anew on reload.
    log_file: GLOBAL, Kind::Text, Unset, "a supervisor collects standard error",
        Live, pgb("logfile"),
        Config |c, Text(v)| c.compat.process.log_file = (!v.is_empty()).then(|| v.into());
    /// File for the number of the process. One that is empty, or that holds the number of a process that is gone, is
    /// replaced; anything else that is there, and any symbolic link, stops the start.
    pid_file: GLOBAL, Kind::Text, Unset, "a supervisor knows its children",
        Restart, pgb("pidfile"), Config |c, Text(v)| c.compat.process.pid_file = (!v.is_empty()).then(|| v.into());
    /// Whether log lines go to the syslog.
    syslog: GLOBAL, Kind::Boolean, Is("false"), "a supervisor collects standard error",
        Restart, pgb("syslog"), Config |c, Boolean(v)| c.compat.process.syslog = *v;
    /// The name of the program in the syslog.
    syslog_ident: GLOBAL, Kind::Text, Is("howdah"), "it is the program's name",
        Restart, pgb("syslog_ident").preset("pgbouncer"),
        Config |c, Text(v)| c.compat.process.syslog_ident = v.clone();
    /// The syslog's facility.
    syslog_facility: GLOBAL, Kind::Word(FACILITIES), Is("daemon"), "it is a daemon",
        Restart, pgb("syslog_facility"), Config |c, Word(v)| c.compat.process.syslog_facility = (*v).to_owned();
    /// Account to change to after binding; only for root, or that account itself.
    run_as: GLOBAL, Kind::Text, Unset, "a supervisor starts it under the right account",
        Restart, pgb("user"), Config |c, Text(v)| c.compat.process.run_as = Some(v.clone()).filter(|v| !v.is_empty());
    /// Whether errors that clients are told are logged: as warnings, but for what the console refuses (information) and
    /// faults of Howdah's own (errors).
    log_pooler_errors: GLOBAL, Kind::Boolean, Is("true"), "what clients complain about is found in the log",
        Live, pgb("log_pooler_errors"), Config |c, Boolean(v)| c.compat.process.log_pooler_errors = *v;
    /// Whether each client connection is logged.
    log_connections: GLOBAL, Kind::Boolean, Is("true"), "who connected is the first question after an incident",
        Live, pgb("log_connections"), Config |c, Boolean(v)| c.process.log_connections = *v;
    /// Whether each disconnection is logged, with its reason and duration.
    log_disconnections: GLOBAL, Kind::Boolean, Is("true"), "why it ended is the second",
        Live, pgb("log_disconnections"), Config |c, Boolean(v)| c.process.log_disconnections = *v;
    /// How often totals are logged; 0 is never.
    stats_period: GLOBAL, Kind::ON_OFF, Is("60s"), "a record even where nobody collects the metrics",
        Live, pgb("stats_period"), Config |c, Timeout(v)| c.process.stats_period = *v;
    /// How often the servers are examined as `howdah doctor` does it, for the metrics of advice, cache hits and use of
    /// indexes; 0 is never.
    advice_interval: GLOBAL, Kind::Timeout { max: Duration::from_secs(86_400) }, Is("0"),
        "it costs each server a login for each database, and whoever wants no such metric must not pay for it",
        Live, NATIVE, Config |c, Timeout(v)| c.process.advice_interval = *v;
    /// Statements of which statistics are kept, without their constants: those that took the most time. 0 keeps none.
    query_statistics: GLOBAL, Kind::Count { min: 0, max: 100_000 }, Is("1000"),
        "what is slow must be known before somebody asks; an application has some hundreds, of about 3 kB each",
        Live, NATIVE, Config |c, Count(v)| c.process.query_statistics = *v as usize;
    /// What SIGTERM does: `clients` serves until the last client has left, `transactions` ends each client at
    /// its next transaction boundary.
    drain: GLOBAL, Kind::Word(&["clients", "transactions"]), Is("clients"),
        "right for a sidecar, which must not stop before the application does",
        Live, NATIVE,
        Config |c, Word(v)| c.process.drain = if *v == "clients" { Drain::Clients } else { Drain::Transactions };
    /// Time from SIGTERM to the end, whatever clients do.
    drain_timeout: GLOBAL, ONE_S, Is("60s"),
        "long enough for requests under way; keep it below the supervisor's own patience",
        Live, NATIVE.preset(NEVER), Config |c, Duration(v)| c.process.drain_timeout = *v;

    // --- databases
    /// The server: a name or address, with or without `:port`, or the directory of its Unix socket. An array
    /// lists servers of the same role. An admin section without it has those of the database.
    host: WITH_PEERS, Kind::Names, Mandatory, "only the operator knows where the server is",
        Live, NATIVE.database("host"), Section |s, List(v)| s.hosts = v.clone();
    /// Port of the hosts that do not name one.
    port: WITH_PEERS, Kind::Count { min: 1, max: 65_535 }, Is("5432"), "PostgreSQL's port",
        Live, NATIVE.database("port"), Section |s, Count(v)| s.port = u16::try_from(*v).ok();
    /// With several hosts: `disable` uses the first one that works, `round-robin` the next one for each connection.
    load_balance_hosts: DATABASE, Kind::Word(&["disable", "round-robin"]), Unset,
        "`disable`, and in PgBouncer's profile `round-robin`, as there",
        Live, NATIVE.database("load_balance_hosts"),
        Section |s, Word(v)| s.load_balance = Some(*v == "round-robin");
    /// The database's name on the server.
    dbname: DATABASE, Kind::Text, Unset, "the name of the section",
        Live, NATIVE.database("dbname"), Section |s, Text(v)| s.dbname = Some(v.clone());
    /// The server user for all clients of this database. Without a password here, that of the user of this
    /// name under `users` is used.
    user: DATABASE, Kind::Text, Unset, "each client's own name is used on the server",
        Live, NATIVE.database("user"), Section |s, Text(v)| s.user = Some(v.clone());
    /// The user's password, or its md5 or SCRAM-SHA-256 verifier. In a database: that of its `user`.
    password: NAMED, Kind::Secret, Unset, "a secret has no default",
        Live, NATIVE.database("password"), Section |s, Secret(v)| s.password = Some(v.clone());
    /// File whose first line is the password.
    password_file: NAMED, Kind::Text, Unset, "a secret has no default",
        Live, NATIVE, Section |s, Text(v)| s.password_file = Some(v.clone());
    /// Environment variable that holds the password.
    password_env: NAMED, Kind::Text, Unset, "a secret has no default",
        Live, NATIVE, Section |s, Text(v)| s.password_env = Some(v.clone());
    /// Whether the section makes its user known. With `false` it only says what holds for the user, who must be in
    /// `auth_file` or be found by `auth_query` to come in.
    listed: USER, Kind::Boolean, Is("true"), "a section is there for a user who is meant to come in",
        Live, NATIVE, Section |s, Boolean(v)| s.listed = Some(*v);
    /// What to do with a read-only transaction when no replica can take it: `primary` sends it there, `wait`
    /// lets it wait, `error` refuses it. Only where there is a replica section.
    when_no_replica: DATABASE, Kind::Word(&["primary", "wait", "error"]), Mandatory,
        "overloading the primary, stalling and failing are all wrong for somebody",
        Live, NATIVE, Section |s, Word(v)| s.when_no_replica = Some(when_no_replica(v));
    /// What the hosts are: `primary`, or `auto` for the primary and its replicas in any order. With `auto` the
    /// monitor finds out who is the primary, and follows a promotion.
    role: DATABASE, Kind::Word(&["primary", "auto"]), Is("primary"), "what is stated is not guessed",
        Live, NATIVE, Section |s, Word(v)| s.routing.auto = *v == "auto";
    /// Where the transactions of this database go: `transactions` is by what each of them says, the others send
    /// all of them to servers of that role.
    route: DATABASE, Kind::Word(&["transactions", "primary", "replica", "admin"]), Is("transactions"),
        "a transaction that says READ ONLY can be served by a replica, every other one cannot",
        NewConnections, NATIVE, Section |s, Word(v)| s.routing.fixed = role(v);
    /// Whether SELECTs outside a transaction block go to replicas too, where their text proves that they only
    /// read: no locking clause, no INTO, no WITH that writes, no function beyond the known ones and
    /// `route_functions`. Names are not looked up: somebody who makes a function or operator of a known name that
    /// writes, in a schema before pg_catalog, fools it.
    route_selects: DATABASE, Kind::Boolean, Is("false"), "a reader of text can be fooled, a READ ONLY cannot",
        NewConnections, NATIVE, Section |s, Boolean(v)| s.routing.selects = *v;
    /// Functions that such a SELECT may call, beside the built-in ones that only compute.
    route_functions: DATABASE, Kind::Names, Is(""), "nobody but their author knows what functions do",
        NewConnections, NATIVE, Section |s, List(v)| s.routing.functions = v.clone();
    /// Whether a comment `/* howdah: replica */` or `/* howdah: primary */` at the front of a transaction's first
    /// statement decides where it goes.
    route_hints: DATABASE, Kind::Boolean, Is("false"), "comments do nothing unless the operator says so",
        NewConnections, NATIVE, Section |s, Boolean(v)| s.routing.hints = *v;
    /// How one of the replicas is chosen: the one with the least outstanding work, or each in turn.
    replica_choice: DATABASE, Kind::Word(&["least_outstanding", "round_robin"]), Is("least_outstanding"),
        "a replica that is slow gets less",
        Live, NATIVE, Section |s, Word(v)| s.routing.balance =
            if *v == "round_robin" { Balance::RoundRobin } else { Balance::LeastOutstanding };
    /// Weights of replicas by host, such as `{ "replica1:5432" = 3 }`; 1 for those that are not named.
    weights: DATABASE, Kind::Map, Is(""), "replicas are alike unless somebody says otherwise",
        Live, NATIVE, Section |s, Map(v)| s.routing.weights = v.clone();
    /// Zones of replicas by host, such as `{ "replica1:5432" = "a" }`.
    zones: DATABASE, Kind::Map, Is(""), "distances are the operator's to know",
        Live, NATIVE, Section |s, Map(v)| s.routing.zones = v.clone();
    /// The zone that Howdah itself is in: its replicas are chosen while one of them is eligible.
    zone: DATABASE, Kind::Text, Unset, "no replica is nearer than another",
        Live, NATIVE, Section |s, Text(v)| s.routing.zone = (!v.is_empty()).then(|| v.clone());
    /// A replica serves only while it is proven to hold everything that was committed this long ago.
    max_lag: DATABASE, Kind::ON_OFF, Is("0"), "only the application knows how old its reads may be",
        Live, NATIVE, Section |s, Timeout(v)| s.routing.max_lag = *v;
    /// A replica serves only while it is behind by no more than so much WAL; 0 is no limit.
    max_lag_bytes: DATABASE, Kind::Bytes { min: 0, max: 1 << 40 }, Is("0B"),
        "only the application knows how old its reads may be",
        Live, NATIVE, Section |s, Bytes(v)| s.routing.max_lag_bytes = (*v > 0).then_some(*v);
    /// Whether a BEGIN that does not say READ WRITE is answered at once and sent to a server with the next statement:
    /// SET TRANSACTION READ ONLY then takes the transaction to a replica, SET TRANSACTION READ WRITE to the primary,
    /// and a transaction that ends without a statement needs no server. Then now() is the time of that statement, and an error about
    /// servers comes there, after which the transaction has failed. In transaction mode only.
    defer_begin: DATABASE, Kind::Boolean, Is("false"), "now() of a transaction is the time of its BEGIN",
        NewConnections, NATIVE, Section |s, Boolean(v)| s.routing.defer_begin = *v;
    /// With `session`, reads of a client that has written go only to a replica that has replayed its writes, and to
    /// the primary while there is none. Clients that name the same key (`options=-c howdah.session=KEY`) count as
    /// one. It holds within one Howdah process and one section of the configuration.
    read_your_writes: DATABASE, Kind::Word(&["off", "session"]), Is("off"),
        "it costs questions to the servers, and reads on the primary, that not everybody needs",
        NewConnections, NATIVE, Section |s, Word(v)| s.routing.read_your_writes =
            if *v == "session" { ReadYourWrites::Session } else { ReadYourWrites::Off };
    /// How long a read waits for a replica that has its session's writes before it goes to the primary.
    read_your_writes_wait: DATABASE, Kind::ON_OFF, Is("0"), "the primary can serve it at once",
        Live, NATIVE, Section |s, Timeout(v)| s.routing.read_your_writes_wait = v.unwrap_or_default();
    /// The user as whom the monitor asks the hosts where they stand; with a password under `users`. Give it
    /// pg_monitor, and it sees a replica's timeline at once.
    monitor_user: DATABASE, Kind::Text, Unset, "the database's `user`, or else the first user by name that has a password, or the first of all",
        Live, NATIVE, Section |s, Text(v)| s.routing.monitor_user = Some(v.clone());
    /// Users whose transactions use the admin pool. Only where there is an admin section.
    admin_pool_users: DATABASE, Kind::Names, Is(""), "clients ask for it by `howdah.role`, or by another database",
        NewConnections, NATIVE, Section |s, List(v)| s.routing.admin_pool_users = v.clone();
    /// Materialized views of the database, by name with their schema, and how old each may become, such as
    /// `{ "public.sums" = "1h" }`: `howdah doctor` says which of them are older. When they were refreshed is known
    /// only where the server has `track_commit_timestamp = on`.
    materialized_views: DATABASE, Kind::Map, Is(""), "PostgreSQL has no schedule for them, so nobody but the operator knows it",
        Live, NATIVE, Section |s, Map(v)| s.materialized_views = v.clone();
    /// Limit of server connections, over all pools of the database or user; 0 for none.
    max_connections: NAMED, Kind::Limit { max: COUNT }, Unset, "the pools' sizes limit already",
        Live, NATIVE.database("max_db_connections").user("max_user_connections"),
        Section |s, Limit(v)| s.max_connections = Some(*v);
    /// Limit of clients of the database or user; 0 for none.
    max_client_connections: NAMED, Kind::Limit { max: COUNT }, Unset,
        "the global max_client_connections limits already",
        Live, NATIVE.database("max_db_client_connections").user("max_user_client_connections"),
        Section |s, Limit(v)| s.max_client_connections = Some(*v);
    /// Limit of server connections to each host of the database, over all its pools; 0 for none.
    max_host_connections: DATABASE, Kind::Limit { max: COUNT }, Unset, "the pools' sizes limit already",
        Live, NATIVE, Section |s, Limit(v)| s.max_host_connections = Some(*v);

    // --- which pool a [[pools]] entry is about
    /// The database of the pool, by the name of its section.
    database: POOL_ENTRY, Kind::Text, Mandatory, "an entry is about pools of one database",
        Live, NATIVE, Section |s, Text(v)| s.database = Some(v.clone());
    /// The user of the pool.
    user: POOL_ENTRY, Kind::Text, Unset, "the entry is about every user",
        Live, NATIVE, Section |s, Text(v)| s.user = Some(v.clone());
    /// The role of the pool.
    role: POOL_ENTRY, Kind::Word(&["primary", "replica", "admin"]), Unset, "the entry is about every role",
        Live, NATIVE, Section |s, Word(v)| s.role = role(v);

    // --- pools
    /// When a server goes back to its pool: after each transaction, session or statement.
    pool_mode: ANY, Kind::Word(&["transaction", "session", "statement"]), Is("transaction"),
        "this is what lets many clients share few servers",
        NewConnections, pgb("pool_mode").database("pool_mode").user("pool_mode").preset("session"),
        Section |s, Word(v)| s.overrides.mode = Some(pool_mode(v));
    /// Server connections of one pool, that is, of one (database, user, role).
    pool_size: ANY, Kind::Count { min: 1, max: 100_000 }, Mandatory,
        "it follows from what the server can do, and any guess would hurt somebody",
        Live, pgb("default_pool_size").database("pool_size").user("pool_size").preset("20").zero("100000"),
        Section |s, Count(v)| s.overrides.size = Some(*v);
    /// `auto` moves a pool's size between `min_pool_size` (at least 1) and `pool_size` by what it measures: more as long
    /// as the server gets more done with them, fewer as long as it does not get less done. Needs pool_mode
    /// `transaction` or `statement`, and no reserve. Capacity is checked with `pool_size`.
    size: ANY, Kind::Word(&["fixed", "auto"]), Is("fixed"), "a size that was derived holds; nothing moves unless it is asked to",
        Live, NATIVE, Section |s, Word(v)| s.overrides.auto = Some(*v == "auto");
    /// Server connections that are kept open although idle.
    min_pool_size: ANY, Kind::Count { min: 0, max: 100_000 }, Is("0"), "nothing is held that nobody uses",
        Live, pgb("min_pool_size").database("min_pool_size"), Section |s, Count(v)| s.overrides.min_size = Some(*v);
    /// Server connections beyond `pool_size` that may be opened when clients have waited for `reserve_delay`.
    reserve_pool_size: ANY, Kind::Count { min: 0, max: 100_000 }, Is("0"), "pool_size means what it says",
        Live, pgb("reserve_pool_size").database("reserve_pool_size").user("reserve_pool_size"),
        Section |s, Count(v)| s.overrides.reserve_size = Some(*v);
    /// Weight of a pool when `howdah plan` divides a server's connections among the pools.
    capacity_share: ANY, Kind::Count { min: 1, max: 10_000 }, Is("1"), "all pools count alike",
        Live, NATIVE, Section |s, Count(v)| s.overrides.share = Some(*v);
    /// Transactions a second that are expected of one pool, from all instances; 0 is not known.
    expected_tps: ANY, Kind::Limit { max: 100 * COUNT }, Is("0"), "only the operator can expect something",
        Live, NATIVE, Section |s, Limit(v)| s.overrides.expected_tps = Some(*v);
    /// Server time of one of these transactions; 0 is not known.
    expected_duration: ANY, Kind::ON_OFF, Is("0"), "only the operator can expect something",
        Live, NATIVE, Section |s, Timeout(v)| s.overrides.expected_duration = Some(*v);
    /// Whether a request is refused at once when a lower bound of its wait already exceeds `query_wait_timeout`.
    shed_load: ANY, Kind::Boolean, Is("false"), "nothing is refused that might have been served",
        Live, NATIVE, Section |s, Boolean(v)| s.overrides.shed_load = Some(*v);
    /// How long a client must have waited before the reserve is used.
    reserve_delay: ANY, Kind::at_least(Duration::ZERO), Is("5s"), "a passing burst is no reason for it",
        Live, pgb("reserve_pool_timeout").zero(NEVER), Section |s, Duration(v)| s.overrides.reserve_delay = Some(*v);
    /// A batch that runs longer is cancelled; the client gets an error and goes on.
    query_timeout: ANY, Kind::ON_OFF, Is("0"), "only the application knows how long its queries may take",
        Live, pgb("query_timeout").user("query_timeout"),
        Section |s, Timeout(v)| s.overrides.query_timeout = Some(*v);
    /// A transaction that lasts longer is ended, and its client with it.
    transaction_timeout: ANY, Kind::ON_OFF, Is("0"), "only the application knows how long its transactions may take",
        Live, pgb("transaction_timeout").user("transaction_timeout"),
        Section |s, Timeout(v)| s.overrides.transaction_timeout = Some(*v);
    /// A client that is idle in a transaction for longer is ended.
    idle_transaction_timeout: ANY, Kind::ON_OFF, Is("0"),
        "ending a transaction is the application's business unless the operator says otherwise",
        Live, pgb("idle_transaction_timeout").user("idle_transaction_timeout"),
        Section |s, Timeout(v)| s.overrides.idle_transaction_timeout = Some(*v);
    /// A statement that takes longer, its time in the queue included, is logged without its constants; 0 logs none.
    slow_query_threshold: ANY, Kind::ON_OFF, Is("0"), "only the operator knows what is slow; /queries has them all",
        Live, NATIVE, Section |s, Timeout(v)| s.overrides.slow_query_threshold = Some(*v);
    /// Of a hundred slow statements so many are logged.
    slow_query_sample_percent: ANY, Kind::Count { min: 1, max: 100 }, Is("100"),
        "who asks for a log wants it whole, until it is too much",
        Live, NATIVE, Section |s, Count(v)| s.overrides.slow_query_sample_percent = Some(*v);
    /// A client that is idle in a transaction for longer is reported as a leak: in the log, in the metrics, on the
    /// page; 0 reports none.
    leak_threshold: ANY, Kind::ON_OFF, Is("5min"),
        "no application thinks for so long while it holds a transaction; being told costs nothing",
        Live, NATIVE, Section |s, Timeout(v)| s.overrides.leak_threshold = Some(*v);
    /// What is done about such a leak: `report`, or `end` the transaction and its client.
    leak_action: ANY, Kind::Word(&["report", "end"]), Is("report"),
        "ending a transaction is the application's business unless the operator says otherwise",
        Live, NATIVE, Section |s, Word(v)| s.overrides.leak_end = Some(*v == "end");
    /// What becomes of a statement that runs when its client is gone. `cancel`: it is cancelled and its transaction rolled
    /// back, once the client's socket refuses what is sent to it, which is found out within about a second. `finish`: it
    /// runs to its end, with all that was sent before the client left, as on a direct connection; only one whose rows
    /// nobody takes is ended. Either way a client that has only shut down its sending side is answered, what was sent
    /// before a Terminate runs to its end, and a request that still waits for a server goes with its client.
    client_gone: ANY, Kind::Word(&["cancel", "finish"]), Is("cancel"),
        "a long statement that nobody waits for would keep a connection that others wait for; PgBouncer, which closes \
         that connection and leaves the statement running, costs the server one more meanwhile",
        Live, NATIVE, Section |s, Word(v)| s.overrides.finish_for_gone = Some(*v == "finish");
    /// A client that waits longer for a server connection gets an error.
    query_wait_timeout: ANY, Kind::ON_OFF, Is("120s"),
        "PgBouncer's value: outlasts a failover, so that clients need not; state less where callers give up sooner",
        Live, pgb("query_wait_timeout").database("query_wait_timeout").user("query_wait_timeout"),
        Section |s, Timeout(v)| s.overrides.query_wait_timeout = Some(*v);
    /// A client that is idle outside a transaction for longer is closed.
    client_idle_timeout: ANY, Kind::ON_OFF, Is("0"),
        "idle clients cost little, and applications keep them on purpose",
        Live, pgb("client_idle_timeout").user("client_idle_timeout"),
        Section |s, Timeout(v)| s.overrides.client_idle_timeout = Some(*v);
    /// How long a server may take to answer a cancel before its connection is closed.
    cancel_wait_timeout: ANY, MS_100, Is("10s"),
        "PostgreSQL reacts at once as a rule; a server that does not is better replaced",
        Live, pgb("cancel_wait_timeout").zero(NEVER), Section |s, Duration(v)| s.overrides.cancel_wait_timeout = Some(*v);
    /// Time for connecting and logging in to a server.
    server_connect_timeout: ANY, MS_100, Is("15s"),
        "a server that starts up under load needs seconds, and a lost packet is repeated by then",
        Live, pgb("server_connect_timeout").zero(NEVER),
        Section |s, Duration(v)| s.overrides.server_connect_timeout = Some(*v);
    /// Ceiling of the growing delay after failed server logins.
    server_login_retry: ANY, MS_100, Is("15s"),
        "a server that is back is used again within this time",
        Live, pgb("server_login_retry").zero("100ms"), Section |s, Duration(v)| s.overrides.server_login_retry = Some(*v);
    /// Time for a login from connection to ready.
    client_login_timeout: ANY, MS_100, Is("15s"),
        "ample for a person's network, short for one who only holds a place",
        NewConnections, pgb("client_login_timeout").preset("60s").zero(NEVER),
        Section |s, Duration(v)| s.overrides.client_login_timeout = Some(*v);
    /// TCP keepalive on client and server connections.
    tcp_keepalive: ANY, Kind::Boolean, Is("true"),
        "a peer that vanished without a word is noticed in the end",
        NewConnections, pgb("tcp_keepalive"), Section |s, Boolean(v)| s.overrides.keepalive.enabled = Some(*v);
    /// Silence before the first keepalive probe; 0 leaves it to the system.
    tcp_keepalive_idle: ANY, Kind::ON_OFF, Is("0"), "the system's setting is the operator's own",
        NewConnections, pgb("tcp_keepidle"), Section |s, Timeout(v)| s.overrides.keepalive.idle = Some(*v);
    /// Time between keepalive probes; 0 leaves it to the system.
    tcp_keepalive_interval: ANY, Kind::ON_OFF, Is("0"), "the system's setting is the operator's own",
        NewConnections, pgb("tcp_keepintvl"), Section |s, Timeout(v)| s.overrides.keepalive.interval = Some(*v);
    /// Unanswered probes that end a connection; 0 leaves it to the system.
    tcp_keepalive_count: ANY, Kind::Limit { max: 127 }, Is("0"), "the system's setting is the operator's own",
        NewConnections, pgb("tcp_keepcnt"), Section |s, Limit(v)| s.overrides.keepalive.count = Some(*v);
    /// Time that sent data may stay unacknowledged (TCP_USER_TIMEOUT); 0 leaves it to the system.
    tcp_user_timeout: ANY, Kind::ON_OFF, Is("0"), "the system's setting is the operator's own",
        NewConnections, pgb("tcp_user_timeout").millis(),
        Section |s, Timeout(v)| s.overrides.keepalive.user_timeout = Some(*v);
    /// A server connection that is older is replaced when it is free; 0 is never.
    server_lifetime: ANY, Kind::ON_OFF, Is("1h"),
        "caches and memory of a server process grow; replacing it costs one login an hour",
        Live, pgb("server_lifetime").database("server_lifetime").zero("1us"),
        Section |s, Timeout(v)| s.overrides.server_lifetime = Some(*v);
    /// A server connection that was idle for longer is closed; 0 is never.
    server_idle_timeout: ANY, Kind::ON_OFF, Is("10min"),
        "gives back what a peak has opened, without reconnecting at every lull",
        Live, pgb("server_idle_timeout"), Section |s, Timeout(v)| s.overrides.server_idle_timeout = Some(*v);
    /// Statement that must succeed before a server connection that has been idle for `server_check_delay` is
    /// handed out: `<empty>` is an empty query, an empty text no check.
    server_check_query: GLOBAL, Kind::Statement, Is(""), "an end of the connection is noticed without asking",
        Live, pgb("server_check_query").preset("<empty>"),
        Config |c, Text(v)| c.compat.servers.check_query = match v.as_str() {
            "" => None,
            "<empty>" => Some(String::new()),
            v => Some(v.to_owned()),
        };
    /// How long a server connection is used without a check; 0 checks it each time.
    server_check_delay: GLOBAL, Kind::at_least(Duration::ZERO), Is("30s"), "as long as firewalls keep quiet connections",
        Live, pgb("server_check_delay"), Config |c, Duration(v)| c.compat.servers.check_delay = *v;
    /// Ends server connections at once when their database changes or RECONNECT asks, not when they are released.
    server_fast_close: GLOBAL, Kind::Boolean, Is("false"), "a session goes on until its end",
        Live, pgb("server_fast_close"), Config |c, Boolean(v)| c.compat.servers.fast_close = *v;
    /// Runs `reset_query` after every lease, whatever the mode.
    server_reset_query_always: GLOBAL, Kind::Boolean, Is("false"), "it costs a round trip for each transaction",
        Live, pgb("server_reset_query_always"), Config |c, Boolean(v)| c.compat.servers.reset_always = *v;
    /// Hands out the server connection that has been idle longest, not the one used last.
    server_round_robin: GLOBAL, Kind::Boolean, Is("false"), "few connections are warm, and the rest can end",
        Live, pgb("server_round_robin"), Config |c, Boolean(v)| c.compat.servers.round_robin = *v;
    /// A pool without clients, servers and a minimum is forgotten after this time; 0 is never.
    pool_idle_timeout: GLOBAL, Kind::ON_OFF, Is("0"), "its figures would be forgotten too",
        Live, pgb("pool_idle_timeout"), Config |c, Timeout(v)| c.compat.servers.pool_idle = *v;
    /// A client that waits for a server connection for so long is told, once for each wait; 0 is never.
    query_wait_notify: GLOBAL, Kind::ON_OFF, Is("0"), "few applications read notices",
        Live, pgb("query_wait_notify").preset("5s"), Config |c, Timeout(v)| c.compat.servers.wait_notify = *v;
    /// A database that was made from the entry `*` is forgotten when nobody has used it for this long; 0 is never.
    autodb_idle_timeout: GLOBAL, Kind::ON_OFF, Is("1h"), "names that were typed once do not stay for ever",
        Live, pgb("autodb_idle_timeout"), Config |c, Timeout(v)| c.compat.login.autodb_idle = *v;
    /// Settings that every server connection of the pool starts with.
    startup: ANY, Kind::Parameters, Is(""), "the server's own configuration holds",
        NewConnections, NATIVE, Section |s, Map(v)| s.overrides.startup = Some(v.clone());
    /// Statements that run on each new server connection, and again behind a reset; if one fails, it is closed. Set
    /// parameters that servers report (TimeZone, DateStyle, …) under `startup` instead: behind a client that had its
    /// own value a RESET leads back to that.
    on_connect: ANY, Kind::Statements, Is(""), "nothing runs that nobody asked for",
        NewConnections, NATIVE.database("connect_query"),
        Section |s, List(v)| s.overrides.on_connect = Some(v.clone());
    /// What cleans a server connection before another client gets it, where it needs it. It may keep prepared
    /// statements: what it drops is known from the server's answers. Where it fails, the connection is closed and the
    /// log says why.
    reset_query: ANY, Kind::Statement, Is("DISCARD ALL"), "leaves nothing behind",
        Live, pgb("server_reset_query"), Section |s, Text(v)| s.overrides.reset_query = Some(v.clone());
    /// Whether session state that shows (SET, LISTEN, temporary tables and the like) is reset between clients.
    reset_state: ANY, Kind::Boolean, Is("true"), "no client ever meets another's state",
        Live, NATIVE.preset("false"), Section |s, Boolean(v)| s.overrides.reset_state = Some(*v);

    /// What becomes of the parameters and the role that a client sets in its session. `follow`: they go with it to its next
    /// server connection. `reset`: those that the server does not report are reset after its transaction, and lost. Where
    /// `reset_state` is off, or `pool_mode` is session, this and the next three say nothing.
    session_parameters: ANY, Kind::Word(&["follow", "reset"]), Is("follow"),
        "a client finds what it has set, as on a connection of its own",
        Live, NATIVE, Section |s, Word(v)| s.overrides.session.parameters = Some(way(v));
    /// The same of statements of PREPARE. `pin`: their client keeps its server connection until they are gone. A statement
    /// that cannot be prepared again from its text pins where it would follow. `reject`: a statement is
    /// refused if its text shows that it would leave such state; a client that has left some all the same is ended.
    session_statements: ANY, Kind::Word(&["follow", "pin", "reset", "reject"]), Is("follow"),
        "a client finds what it has prepared, as on a connection of its own",
        Live, NATIVE, Section |s, Word(v)| s.overrides.session.statements = Some(way(v));
    /// The same of LISTEN. `share`: Howdah opens one connection to the primary of each database and listens there for all
    /// clients, so that a client that listens keeps no server connection. A client whose client_encoding is not that of its
    /// database is pinned instead. If `share` is stated at the top level, capacity counts one connection for each database;
    /// otherwise it takes one of those that safety_margin leaves free.
    session_listen: ANY, Kind::Word(&["share", "pin", "reset", "reject"]), Is("share"),
        "a client that listens hears what it listens to, and thousands of them cost one server connection",
        Live, NATIVE, Section |s, Word(v)| s.overrides.session.listen = Some(way(v));
    /// The same of temporary objects, cursors WITH HOLD and advisory locks of the session.
    session_objects: ANY, Kind::Word(&["pin", "reset", "reject"]), Is("pin"),
        "they exist on one connection alone; a client that has them keeps it, within max_pins",
        Live, NATIVE, Section |s, Word(v)| s.overrides.session.objects = Some(way(v));
    /// When a server is asked what a transaction has left in its session. `suspected`: where a completion tag or a trace in
    /// the text shows that there may be something. `always`: after every transaction, for functions that hide it.
    session_check: ANY, Kind::Word(&["suspected", "always"]), Is("suspected"),
        "most transactions leave nothing, and a question costs the server about a millisecond",
        Live, NATIVE, Section |s, Word(v)| s.overrides.session.always = Some(*v == "always");
    /// How long a server may take to answer that question. Behind that its connection is closed, and its client told.
    session_check_timeout: ANY, MS_100, Is("1s"), "the question takes about a millisecond",
        Live, NATIVE, Section |s, Duration(v)| s.overrides.session.check_timeout = Some(*v);
    /// How many clients of one pool may keep a server connection between transactions because of what their sessions hold.
    /// A statement that would need one more is refused. Where it is 0, one in a transaction block is not, because what it
    /// makes may be gone at the block's end; a client that has left something there is ended.
    max_pins: ANY, Kind::Count { min: 0, max: COUNT }, Unset, "half of the pool's size, so that the others are served",
        Live, NATIVE, Section |s, Count(v)| s.overrides.session.max_pins = Some(Some(*v));
    /// A client that is idle for longer while it keeps a connection in this way is ended.
    pin_idle_timeout: ANY, Kind::ON_OFF, Is("0"), "what a session holds, an advisory lock say, may be held on purpose",
        Live, NATIVE, Section |s, Timeout(v)| s.overrides.session.pin_idle = Some(*v);

    // --- one budget for all instances
    /// Server connections to each host that all instances together may have, Howdah's own among them: a number,
    /// or a share of the server's max_connections. Needs PostgreSQL 14 or newer. Replication connections take a
    /// place each; physical ones, which are in no database, are bounded by their instance's share alone.
    budget: FLEET, Kind::Budget, Unset, "each instance is bounded by its own pools alone",
        Live, NATIVE, Config |c, Budget(v)| c.fleet.budget = Some(*v);
    /// Name of the fleet; instances of one name and one `database` share the budget. Backends are counted by the
    /// roles and databases of the pools, so two fleets on one server need different ones.
    name: FLEET, Kind::Text, Is("howdah"), "one fleet before a server is the usual case",
        Live, NATIVE, Config |c, Text(v)| c.fleet.name = v.clone();
    /// Server connections to each host that each instance is guaranteed, Howdah's own apart.
    minimum: FLEET, Kind::Count { min: 1, max: 10_000 }, Is("1"), "nobody is shut out, and the rest is lent by demand",
        Live, NATIVE, Config |c, Count(v)| c.fleet.minimum = *v;
    /// Database on each host to which the control connections go; the same for all instances of a fleet. Best one that
    /// no pool has: there a session of a pool's role is taken for an instance if its application_name says so.
    database: FLEET, Kind::Text, Is("postgres"), "advisory locks are per database, and this one is everywhere",
        Live, NATIVE, Config |c, Text(v)| c.fleet.database = v.clone();
    /// After so long without its control connection an instance has given back what is beyond its minimum.
    control_timeout: FLEET, MS_100, Is("10s"), "outlasts a restart of the connection, not an outage",
        Live, NATIVE, Config |c, Duration(v)| c.fleet.control_timeout = *v;
}
