use super::calls::Calls;
use super::*;
use crate::proto::prepared::Interner;

fn scope(limit: usize) -> Scope {
    Scope::new(Arc::new(Store::new(limit)), "app".into())
}

fn run(q: &Scope, calls: &mut Calls, sql: &str, us: u64) {
    let app: Arc<str> = "test".into();
    let found = calls.find(q, sql.as_bytes());
    calls.query(found, sql.len());
    calls.complete(0);
    calls.book(q, us, &app, |_, _| {});
    calls.end();
}

fn total(q: &Scope) -> u64 {
    q.store.fallen().calls + q.store.all().iter().map(|(_, f)| f.calls).sum::<u64>()
}

#[test]
fn a_million_distinct_statements_take_bounded_memory_and_the_heavy_ones_stay() {
    let q = scope(500);
    let app: Arc<str> = "test".into();
    let mut calls = Calls::default();
    let call = Call { server_us: 1, ..Call::default() };
    for n in 0..1_000_000_u64 {
        // Most of them without their texts, whose reading is not what this is about.
        if n % 200 == 0 {
            run(&q, &mut calls, &format!("SELECT c{n}"), 1);
        } else {
            let text = || Normal { text: format!("SELECT {n}"), comment: None };
            let entry = q.store.obtain(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), &q.database, text);
            q.store.add(&entry, &call, &app);
        }
        if n % 100 == 0 {
            run(&q, &mut calls, &format!("SELECT heavy FROM t WHERE id = {n}"), 50);
        }
        assert!(n % 50_000 != 0 || q.store.len() <= 500);
    }
    assert!(q.store.len() <= 500 && q.store.len() >= 400, "{}", q.store.len());
    let (entry, figures) = q.store.all().swap_remove(0);
    assert_eq!(&*entry.text, "SELECT heavy FROM t WHERE id = ?");
    assert_eq!((figures.calls, figures.server_us), (10_000, 500_000));
    // Nothing is lost from the sums.
    assert_eq!(total(&q), 1_010_000);
    let fallen = q.store.fallen();
    assert_eq!(fallen.statements + q.store.len() as u64, 1_000_001);
    assert_eq!(fallen.calls, fallen.total_us);
}

#[test]
fn a_statement_that_was_dropped_and_is_remembered_counts_again() {
    let q = scope(10);
    let mut calls = Calls::default();
    run(&q, &mut calls, "SELECT first", 1);
    for n in 0..30 {
        run(&q, &mut Calls::default(), &format!("SELECT other{n}"), 100);
    }
    assert!(q.store.all().iter().all(|(e, _)| &*e.text != "SELECT first"));
    run(&q, &mut calls, "SELECT first", 1000);
    let (entry, figures) = q.store.all().swap_remove(0);
    assert_eq!((&*entry.text, figures.calls), ("SELECT first", 1));
    assert_eq!(total(&q), 32);
}

#[test]
fn databases_are_kept_apart_and_ids_do_not_change() {
    let store = Arc::new(Store::new(10));
    let (a, b) = (Scope::new(store.clone(), "a".into()), Scope::new(store.clone(), "b".into()));
    run(&a, &mut Calls::default(), "SELECT 1", 1);
    run(&b, &mut Calls::default(), "SELECT 2", 1);
    run(&b, &mut Calls::default(), "SELECT 3", 1);
    let mut seen: Vec<_> = store.all().iter().map(|(e, f)| (e.database.to_string(), f.calls)).collect();
    seen.sort();
    assert_eq!(seen, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    // People keep them in their notes: a change of the hash is a change that others see.
    let known = store.all().iter().find(|(e, _)| &*e.database == "a").map(|(e, _)| e.name());
    assert_eq!(known, Some(format!("{:016x}", a.id(fingerprint::fingerprint(b"select 77")))));
}

#[test]
fn applications_are_bounded() {
    let q = scope(10);
    let mut calls = Calls::default();
    for n in 0..20 {
        let found = calls.find(&q, b"SELECT 1");
        calls.query(found, 8);
        calls.complete(0);
        calls.book(&q, 1, &format!("app{}", n % 12).into(), |_, _| {});
    }
    let applications = q.store.all()[0].1.applications();
    assert_eq!(applications.len(), APPLICATIONS + 1);
    assert_eq!(applications.iter().map(|(_, n)| n).sum::<u64>(), 20);
    assert_eq!(applications.last().map(|(a, n)| (a.as_str(), *n)), Some(("(other)", 4)));
}

#[test]
fn a_pipeline_shares_its_time_and_an_error_takes_off_what_was_skipped() {
    let q = scope(10);
    let interner = Interner::default();
    let stmts: Vec<_> = ["SELECT a\0\0\0", "SELECT b\0\0\0", "SELECT c\0\0\0"]
        .map(|t| interner.intern(t.as_bytes(), &Default::default(), false))
        .into();
    let mut calls = Calls::default();
    for s in &stmts {
        calls.bind(&q, b"", s, 20);
        calls.execute(b"", 10);
    }
    calls.begin_scan(100);
    calls.tag(b"SELECT 12");
    calls.complete(60);
    calls.batch_failed(2, 50);
    assert!(calls.any_answered());
    calls.book(&q, 300, &"x".into(), |_, _| {});
    let of = |text: &str| q.store.all().into_iter().find(|(e, _)| &*e.text == text).map(|(_, f)| f);
    let a = of("SELECT a").unwrap();
    assert_eq!((a.calls, a.rows, a.errors, a.server_us, a.received, a.sent), (1, 12, 0, 150, 30, 40));
    let b = of("SELECT b").unwrap();
    assert_eq!((b.calls, b.errors, b.server_us, b.sent), (1, 1, 150, 10));
    assert!(of("SELECT c").is_none());
}

#[test]
fn portals_and_names_lead_to_their_statements() {
    let q = scope(10);
    let interner = Interner::default();
    let a = interner.intern(b"SELECT a\0\0\0", &Default::default(), false);
    let b = interner.intern(b"SELECT b\0\0\0", &Default::default(), false);
    let mut calls = Calls::default();
    calls.bind(&q, b"p", &a, 1);
    calls.bind(&q, b"", &b, 1);
    calls.execute(b"p", 1);
    calls.execute(b"", 1);
    let found = calls.find(&q, b"SELECT own");
    let own = calls.parse(&found, 1);
    calls.name(b"s", own);
    let found = calls.find(&q, b"SELECT unnamed");
    let unnamed = calls.parse(&found, 1);
    calls.bind_own(&q, b"", b"s", unnamed, 1);
    calls.execute(b"", 1);
    calls.bind_own(&q, b"", b"", unnamed, 1);
    calls.execute(b"", 1);
    (0..4).for_each(|_| calls.complete(0));
    calls.book(&q, 4, &"x".into(), |_, _| {});
    let mut texts: Vec<_> = q.store.all().iter().map(|(e, f)| (e.text.to_string(), f.calls)).collect();
    texts.sort();
    let wanted = ["SELECT a", "SELECT b", "SELECT own", "SELECT unnamed"];
    assert_eq!(texts, wanted.map(|t| (t.to_owned(), 1)));
}

#[test]
fn a_threshold_and_a_sample_say_what_is_logged() {
    let q = scope(10);
    let logged = |us: u64| {
        let mut calls = Calls::default();
        let mut n = 0;
        for _ in 0..10 {
            let found = calls.find(&q, b"SELECT 1");
            calls.query(found, 8);
            calls.complete(0);
            calls.book(&q, us, &"x".into(), |_, _| n += 1);
        }
        n
    };
    assert_eq!(logged(1_000_000), 0);
    q.set_slow(Some(Duration::from_millis(1)), 100);
    assert_eq!((logged(999), logged(1000)), (0, 10));
    q.set_slow(Some(Duration::from_millis(1)), 30);
    assert_eq!(logged(1000), 3);
}
