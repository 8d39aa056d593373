use std::path::PathBuf;

use super::*;
use crate::config::load;

/// A directory with an ini, its user list and what else it names.
struct Written(tempfile::TempDir);

impl Written {
    fn new(ini: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("userlist.txt"), "\"app\" \"hunter2\"\n\"old\" \"\"\n").unwrap();
        std::fs::write(dir.path().join("hba"), "host all all 127.0.0.1/32 md5\n").unwrap();
        std::fs::write(dir.path().join("ident"), "").unwrap();
        let ini = ini.replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("pgbouncer.ini"), ini).unwrap();
        Self(dir)
    }

    fn ini(&self) -> PathBuf {
        self.0.path().join("pgbouncer.ini")
    }

    fn convert(&self, aim: Aim) -> Converted {
        convert(&self.ini(), aim).unwrap()
    }

    /// The ini's configuration, and that of the TOML.
    fn both(&self, toml: &str) -> (Config, Config) {
        let native = self.0.path().join("howdah.toml");
        std::fs::write(&native, toml).unwrap();
        let read =
            |path: &Path| load(path, &Overrides::default()).unwrap_or_else(|e| panic!("{e:?}\n{toml}"));
        (read(&self.ini()), read(&native))
    }
}

/// Each states what bears on what clients, servers or operators meet.
const INIS: &[&str] = &[
    "[databases]\n* =\n[pgbouncer]\n",
    "[databases]\napp = host=db port=5433 dbname=appdb pool_size=7 password='it''s' user=reader\n\
     * = host=other,third\n[users]\napp = pool_mode=session max_user_connections=3\n\
     [pgbouncer]\nlisten_addr = 127.0.0.1\nauth_type = md5\nauth_file = DIR/userlist.txt\n\
     query_wait_timeout = 10\ndns_nxdomain_ttl = 5\n",
    // Session state that stays, or goes.
    "[databases]\na = host=h connect_query='set x.y to 1' timezone=UTC client_encoding=latin1\n\
     b = host=h pool_mode=statement min_pool_size=2 reserve_pool=3\n\
     [pgbouncer]\npool_mode = transaction\nserver_reset_query = RESET ALL\nserver_reset_query_always = 1\n\
     server_check_query =\nserver_check_delay = 0\nmax_prepared_statements = 0\ntrack_extra_parameters = search_path\n\
     ignore_startup_parameters = extra_float_digits, options\nserver_lifetime = 0\nserver_round_robin = 1\n",
    // Timeouts and limits, also those that 0 turns off.
    "[databases]\na = host=h max_db_connections=9 max_db_client_connections=8 query_wait_timeout=3 server_lifetime=0\n\
     [users]\nzoe = query_timeout=1.5 transaction_timeout=2 idle_transaction_timeout=3 client_idle_timeout=4 \
     max_user_client_connections=5 reserve_pool_size=1 pool_size=6\n\
     [pgbouncer]\nauth_type = trust\nauth_file = DIR/userlist.txt\nmax_client_conn = 7\ndefault_pool_size = 0\n\
     query_timeout = 0.25\nclient_login_timeout = 0\nserver_login_retry = 0\nserver_connect_timeout = 0\n\
     cancel_wait_timeout = 0\nreserve_pool_timeout = 0\nquery_wait_timeout = 0\nmax_db_connections = 4\n\
     max_user_connections = 3\nmax_db_client_connections = 2\nmax_user_client_connections = 1\n\
     tcp_user_timeout = 1500\ntcp_keepcnt = 3\ntcp_keepidle = 9\ntcp_keepintvl = 2\npkt_buf = 2048\n\
     max_packet_size = 1000000\nlisten_backlog = 5\nstats_period = 5\nlog_stats = 0\nserver_idle_timeout = 0\n",
    // Who may come in.
    "[databases]\na = host=h auth_user=app auth_query='select 1, $1' auth_dbname=b\nb = host=h user=app password=x\n\
     [users]\nstranger = pool_mode=session\nold = pool_mode=session\n\
     [pgbouncer]\nauth_type = hba\nauth_hba_file = DIR/hba\nauth_ident_file = DIR/ident\n\
     auth_file = DIR/userlist.txt\nauth_user = app\nadmin_users = app, old\nstats_users = app\n\
     disable_pqexec = 1\napplication_name_add_host = 1\nlogin_notify_message = hello there\nuser = nobody\n",
    // TLS, papers and sockets.
    "[databases]\na = host=/run/pg load_balance_hosts=disable\nb = host=one,two\n[peers]\n3 = host=/run/three\n\
     4 = host=four port=7000\n[pgbouncer]\nlisten_addr = *, ::1\nlisten_port = 0x1935\npeer_id = 2\n\
     server_tls_sslmode = require\nserver_tls_protocols = tlsv1.3\nclient_tls_sslmode = disable\n\
     client_tls_cert_file = some.crt\nclient_tls_key_file = some.key\n\
     logfile = a.log\npidfile = b.pid\nverbose = 2\nsyslog = 1\nsyslog_ident = it\nsyslog_facility = local3\n\
     so_reuseport = 1\nunix_socket_dir = run\nunix_socket_mode = 0700\nunix_socket_group = staff\n\
     tcp_socket_buffer = 4096\nlog_connections = 0\nlog_disconnections = 0\nlog_pooler_errors = 0\n",
];

/// Every field, so that nothing can be lost without a word.
#[test]
fn the_toml_comes_to_the_same_as_the_ini_field_by_field() {
    for ini in INIS {
        let w = Written::new(ini);
        let done = w.convert(Aim::Keep);
        assert!(
            !done.undecided && !done.report.contains("to decide"),
            "{ini}\n{}\n{}",
            done.report,
            done.toml
        );
        let (was, is) = w.both(&done.toml);
        assert_eq!(compare::differences(&was, &is), Vec::<String>::new(), "{ini}\n{}", done.toml);
        assert_eq!((is.profile, is.pool.reset_state), (Profile::PgBouncer, false));
        assert!(!done.report.contains("improved") && !done.report.contains("changed"), "{}", done.report);
    }
}

/// Whoever changes one setting of the TOML is told of the difference, so that the comparison is no empty one.
#[test]
fn the_comparison_sees_a_setting_of_every_kind() {
    let w = Written::new(INIS[1]);
    let toml = w.convert(Aim::Keep).toml;
    for (from, to, field) in [
        ("reset_state = false", "reset_state = true", "pool"),
        ("query_wait_timeout = \"10s\"", "query_wait_timeout = \"11s\"", "query_wait_timeout"),
        ("max_connections = 3", "max_connections = 4", "users"),
        ("pool_size = 7", "pool_size = 8", "databases"),
        ("password = \"it's\"", "password = \"its\"", "databases"),
        ("server_tls_mode = \"prefer\"", "server_tls_mode = \"require\"", "tls"),
        ("max_client_connections = 100", "max_client_connections = 101", "limits"),
    ] {
        assert!(toml.contains(from), "{from}\n{toml}");
        let (was, is) = w.both(&toml.replace(from, to));
        let found = compare::differences(&was, &is);
        assert!(found.iter().any(|d| d.starts_with(field)), "{to}: {found:?}");
        assert!(found.iter().all(|d| !d.contains("it's")), "{found:?}");
    }
}

#[test]
fn the_report_names_what_became_of_each_key() {
    let done = Written::new(INIS[1]).convert(Aim::Keep);
    for line in [
        "kept: auth_file\n",
        "renamed: auth_type is auth_method\n",
        "renamed: listen_addr and listen_port is listen\n",
        "without meaning: dns_nxdomain_ttl: ",
        "kept: databases.app: dbname, host, password, pool_size, port, user\n",
        "kept: users.app: max_user_connections (now max_connections), pool_mode\n",
    ] {
        assert!(done.report.contains(line), "{line}\n{}", done.report);
    }
}

/// Howdah's own defaults come in only when they are asked for, and each by name with the way back.
#[test]
fn modernise_names_each_change_of_behaviour() {
    let w = Written::new(INIS[1]);
    let done = w.convert(Aim::Modernise);
    for line in [
        "changed: reset_state is true: ",
        "; as before: reset_state = false\n",
        "changed: compatibility is \"native\": ",
        "; as before: compatibility = \"pgbouncer\"\n",
    ] {
        assert!(done.report.contains(line), "{line}\n{}", done.report);
    }
    assert!(!done.undecided && !done.report.contains("improved"), "{}", done.report);
    let (was, is) = w.both(&done.toml);
    assert_eq!((is.profile, is.pool.reset_state, is.pool.size), (Profile::Native, true, 20));
    assert_eq!((is.pool.mode, is.users.clone()), (was.pool.mode, was.users.clone()));
    assert_eq!(is.databases["app"].roles, was.databases["app"].roles);
    assert!(is.autodb.unwrap().load_balance);
    // Each top-level setting that differs is named, and nothing else differs.
    for (key, value) in &was.notes.settings {
        let named = done.report.contains(&format!("changed: {key}"));
        let same = is.notes.settings.get(key).is_some_and(|now| now.value == value.value);
        assert!(same || named, "{key} changes without a word");
    }
}

/// What the native profile refuses is left to decide, and so is what keeps the ini itself from starting.
#[test]
fn something_left_to_decide_is_said() {
    let w =
        Written::new("[databases]\na = host=h,h\n[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_type = trust\n");
    let done = w.convert(Aim::Modernise);
    assert!(done.undecided && done.report.contains("to decide: the result:"), "{}", done.report);
    assert!(done.report.contains("listed twice"), "{}", done.report);
    assert!(!w.convert(Aim::Keep).undecided);
    let broken = "[databases]\na = host=h\n[pgbouncer]\nclient_tls_sslmode = require\n\
                  client_tls_cert_file = /no/such.crt\nclient_tls_key_file = /no/such.key\n";
    let done = Written::new(broken).convert(Aim::Keep);
    assert!(done.undecided && done.report.contains("pgbouncer.ini:5"), "{}", done.report);
}
