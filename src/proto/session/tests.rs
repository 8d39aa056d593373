use super::*;

fn set(pairs: &[(&str, &str)]) -> ParamSet {
    let mut s = ParamSet::default();
    for (n, v) in pairs {
        s.set(n, v.as_bytes());
    }
    s
}

/// A connection of which nothing is in doubt.
struct Conn {
    applied: ParamSet,
    doubtful: Vec<Box<str>>,
    pool: ParamSet,
    defaults: ParamSet,
    view: ParamSet,
}

impl Conn {
    fn new(applied: &[(&str, &str)], view: &[(&str, &str)]) -> Self {
        let defaults = set(&[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY"), ("is_superuser", "off")]);
        let mut now = defaults.clone();
        set(view).iter().for_each(|(n, v)| now.set(n, v));
        Self { applied: set(applied), doubtful: Vec::new(), pool: ParamSet::default(), defaults, view: now }
    }

    fn standing(&self) -> Standing<'_> {
        Standing {
            applied: &self.applied,
            doubtful: &self.doubtful,
            pool: &self.pool,
            defaults: &self.defaults,
            view: &self.view,
        }
    }

    fn texts(&self, wanted: &[(&str, &str)], raw: &[(&str, &str)]) -> Vec<String> {
        let list = changes(&self.standing(), &set(wanted), &set(raw));
        list.iter()
            .map(|c| match (&c.value, &c.from) {
                (None, _) => format!("RESET {}", c.name),
                (Some(v), None) => format!("SET {}={}", c.name, String::from_utf8_lossy(v)),
                (Some(v), Some(base)) => format!(
                    "SET {}={} from {}",
                    c.name,
                    String::from_utf8_lossy(v),
                    base.as_ref().map_or("RESET".into(), |b| String::from_utf8_lossy(b))
                ),
            })
            .collect()
    }
}

#[test]
fn a_console_is_not_told_to_set_what_it_has_for_good() {
    let mut console = Conn::new(&[], &[]);
    for (name, value) in
        [("server_version", "1.25.2/bouncer"), ("client_encoding", "UTF8"), ("TimeZone", "GMT")]
    {
        console.defaults.set(name, value.as_bytes());
        console.view.set(name, value.as_bytes());
    }
    let nothing: [String; 0] = [];
    let same = [("client_encoding", "utf8"), ("TimeZone", "GMT"), ("application_name", "psql")];
    assert_eq!(console.texts(&same, &same), nothing);
    assert_eq!(console.texts(&same, &[]), nothing);
    // It may say itself that it does not take this one.
    assert_eq!(console.texts(&[("TimeZone", "CET")], &[]), ["SET TimeZone=CET"]);
    assert_eq!(console.texts(&[], &[]), nothing, "nor is it told to reset what was not set");

    // A server may have another default by the time that the client's statement reaches it.
    let mut server = console;
    server.view.set("server_version", b"17.2");
    server.defaults.set("server_version", b"17.2");
    let set = ["SET application_name=psql", "SET client_encoding=utf8", "SET TimeZone=GMT"];
    assert_eq!(server.texts(&same, &[]), set);
}

#[test]
fn only_differences_are_sent() {
    let conn = Conn::new(&[("application_name", "old"), ("work_mem", "1MB"), ("TimeZone", "CET")], &[]);
    let mut conn = Conn { view: conn.view.clone(), ..conn };
    conn.view.set("TimeZone", b"CET");
    let wanted = [("application_name", "new"), ("TimeZone", "CET")];
    assert_eq!(conn.texts(&wanted, &[]), ["RESET work_mem", "SET application_name=new"]);
    let same = [("application_name", "old"), ("work_mem", "1MB"), ("TimeZone", "CET")];
    assert!(conn.texts(&same, &[]).is_empty());
}

/// A reload of the server's configuration would change it otherwise.
#[test]
fn what_was_named_is_set_although_it_equals_the_default() {
    let conn = Conn::new(&[], &[]);
    assert_eq!(conn.texts(&[("TimeZone", "UTC")], &[]), ["SET TimeZone=UTC"]);
}

#[test]
fn what_is_in_doubt_is_set_or_reset() {
    let mut conn = Conn::new(&[], &[]);
    conn.doubtful = vec!["work_mem".into(), "search_path".into()];
    assert_eq!(conn.texts(&[("search_path", "t1")], &[]), ["RESET work_mem", "SET search_path=t1"]);
}

#[test]
fn what_on_connect_has_set_is_gone_back_to() {
    let mut conn = Conn::new(&[("work_mem", "1MB"), ("TimeZone", "CET")], &[("TimeZone", "CET")]);
    conn.pool = set(&[("work_mem", "9MB")]);
    assert_eq!(conn.texts(&[], &[]), ["RESET TimeZone", "SET work_mem=9MB"]);
    let raw = [("work_mem", "8MB")];
    assert_eq!(conn.texts(&raw, &raw), ["RESET TimeZone", "SET work_mem=8MB from 9MB"]);
}

#[test]
fn a_relative_value_of_a_login_begins_with_the_default() {
    let conn = Conn::new(&[("DateStyle", "SQL, DMY")], &[("DateStyle", "SQL, DMY")]);
    let raw = [("DateStyle", "ISO")];
    assert_eq!(conn.texts(&raw, &raw), ["SET DateStyle=ISO from RESET"]);
}

#[test]
fn the_role_is_first_to_go_and_last_to_come() {
    let conn = Conn::new(&[("role", "bob"), ("app.x", "1")], &[]);
    let wanted = [("application_name", "a"), ("role", "ann"), ("session_authorization", "bob"), ("zz", "1")];
    assert_eq!(
        conn.texts(&wanted, &[]),
        [
            "RESET app.x",
            "SET application_name=a",
            "SET zz=1",
            "SET session_authorization=bob",
            "SET role=ann"
        ]
    );
    // What is set beside a role is set without its rights.
    let wanted = [("role", "bob"), ("work_mem", "1MB")];
    assert_eq!(conn.texts(&wanted, &[]), ["RESET role", "RESET app.x", "SET work_mem=1MB", "SET role=bob"]);
    assert!(conn.texts(&[("role", "bob"), ("app.x", "1")], &[]).is_empty());
}

#[test]
fn what_has_failed_is_still_to_be_done() {
    let mut conn = Conn::new(&[("work_mem", "1MB")], &[]);
    conn.doubtful = vec!["jit".into()];
    let list = changes(&conn.standing(), &set(&[("search_path", "t1")]), &ParamSet::default());
    let (applied, doubtful) = after(&conn.standing(), &list, &[None, None, None]);
    assert_eq!((applied, doubtful), (conn.applied.clone(), conn.doubtful.clone()));
    let all = vec![Some(None), Some(None), Some(Some(b"\"t1\"".to_vec()))];
    let (applied, doubtful) = after(&conn.standing(), &list, &all);
    assert_eq!((applied, doubtful), (set(&[("search_path", "\"t1\"")]), Vec::new()));
}

#[test]
fn a_reset_leads_to_what_the_client_has_named() {
    let conn = Conn::new(&[("TimeZone", "CET"), ("work_mem", "1MB")], &[]);
    let named = set(&[("TimeZone", "CET"), ("work_mem", "1MB")]);
    // RESET ALL: nothing is set any more.
    let s = settled(&named, &named, &conn.standing(), &ParamSet::default(), Scope::Reported);
    assert_eq!((&s.overrides, &s.applied), (&named, &ParamSet::default()));
    // A SET to what is the default anyway is a SET.
    let s = settled(
        &named,
        &named,
        &conn.standing(),
        &set(&[("TimeZone", "UTC"), ("work_mem", "1MB")]),
        Scope::Reported,
    );
    assert_eq!(s.overrides, set(&[("TimeZone", "UTC"), ("work_mem", "1MB")]));
    assert_eq!(s.applied, s.overrides);
}

#[test]
fn who_keeps_the_connection_keeps_what_nobody_reports() {
    let conn = Conn::new(&[("app.x", "1"), ("work_mem", "1MB")], &[]);
    let named = set(&[("app.x", "1"), ("work_mem", "1MB")]);
    let now = set(&[("app.x", ""), ("work_mem", "2MB")]);
    let s = settled(&named, &named, &conn.standing(), &now, Scope::OwnConnection);
    assert_eq!(s.overrides, set(&[("app.x", "1"), ("work_mem", "2MB")]));
    assert_eq!(settled(&named, &named, &conn.standing(), &now, Scope::Reported).overrides, named);
}

#[test]
fn what_nobody_has_set_is_a_new_default() {
    let conn = Conn::new(&[], &[("TimeZone", "Asia/Tokyo")]);
    let nothing = ParamSet::default();
    assert!(conn.standing().is_unexplained(&nothing));
    let s = settled(&nothing, &nothing, &conn.standing(), &nothing, Scope::Reported);
    assert_eq!(s.defaults.get("timezone"), Some(&b"Asia/Tokyo"[..]));
    assert_eq!((s.overrides, s.pool_lost), (nothing, false));
}

#[test]
fn the_pools_own_is_no_clients() {
    let mut conn = Conn::new(&[], &[("TimeZone", "Asia/Tokyo")]);
    conn.pool = set(&[("TimeZone", "Asia/Tokyo")]);
    conn.defaults = conn.view.clone();
    let nothing = ParamSet::default();
    let s = settled(&nothing, &nothing, &conn.standing(), &conn.pool, Scope::Reported);
    assert_eq!((s.overrides, s.applied, s.pool_lost), (nothing.clone(), nothing.clone(), false));
    conn.view.set("TimeZone", b"UTC");
    let s = settled(&nothing, &nothing, &conn.standing(), &nothing, Scope::Reported);
    assert_eq!((s.overrides, s.pool_lost), (nothing, true));
    assert_eq!(s.defaults.get("TimeZone"), Some(&b"Asia/Tokyo"[..]), "it comes back with the next reset");
}

#[test]
fn statements_are_ascii_whatever_the_value() {
    let change = |value: Option<&[u8]>, from| ParamChange {
        name: "app.a\"b".into(),
        value: value.map(<[u8]>::to_vec),
        from,
        undoes: false,
    };
    assert_eq!(statement(&change(None, None)), "RESET \"app\".\"a\"\"b\"");
    let plain = statement(&change(Some(b"it's"), None));
    assert!(plain.contains("set_config('app.a\"b', 'it''s', false)"), "{plain}");
    for value in [&b"Zo\xc3\xab"[..], b"Zo\xeb"] {
        let text = statement(&change(Some(value), Some(None)));
        assert!(text.is_ascii() && text.starts_with("RESET \"app\".\"a\"\"b\"; SELECT "), "{text}");
        assert!(text.contains("decode('5a6f"), "{text}");
    }
    assert_eq!(unhex(b"5a6fc3ab"), Some(b"Zo\xc3\xab".to_vec()));
    assert_eq!(unhex(b"5a6"), None);
    assert_eq!(unhex(b"zz"), None);
    let conn = Conn::new(&[("app.x", "1"), ("role", "bob"), ("work_mem", "1MB")], &[]);
    let q = question(&conn.standing());
    assert!(q.contains("SELECT 'app.x'") && q.contains("SELECT 'role'") && !q.contains("'work_mem'"), "{q}");
}
