//! Servers that stop, are suspended and restart under load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::rig::{CANARY, Rig, errors, plan};
use crate::harness::wire::fake::Gate;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::wire::{Dsn, msg};
use crate::harness::{self, Stop, app_options, cluster};

#[test]
fn the_server_comes_back() {
    let Some(mut cluster) = cluster(15, app_options()) else { return };
    let mut rig = Rig::unproven(&cluster, plan(2));
    rig.take_baseline();
    let dsn = rig.dsn();
    let Rig { howdah, user, .. } = rig;
    cluster.stop(Stop::Immediate).expect("it stops");
    std::thread::scope(|scope| {
        // Within `server_login_retry` of its last sign of life, the server is taken to restart: they wait, or they
        // are told that they cannot connect now.
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    match Raw::try_login(&dsn, msg::PROTOCOL_3_0, &[]) {
                        Ok(mut c) => {
                            let frames = c.send(&msg::query("select 'back'")).map(|()| c.next());
                            if let Ok(Ok(f)) = frames
                                && f.tag == b'T'
                            {
                                return;
                            }
                        }
                        Err(e) => assert!(e.contains("57P03") || e.contains("08001"), "{e}"),
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        cluster.start().expect("it starts");
    });
    let size = format!("usename = '{user}'");
    assert!(harness::count(&cluster, &size) <= 2);
    assert!(!howdah.log().contains(CANARY));
}

#[test]
fn server_is_suspended_and_goes_on() {
    let Some(cluster) = cluster(15, app_options()) else { return };
    let rig = Rig::start(&cluster, plan(4));
    let mut clients: Vec<Raw> = (0..20).map(|_| rig.client()).collect();
    cluster.suspend().expect("suspended");
    for (i, c) in clients.iter_mut().enumerate() {
        c.put(&msg::query(&format!("select 'own {i}'")));
    }
    clients[0].expect_silence(Duration::from_secs(5));
    cluster.resume().expect("resumed");
    for (i, c) in clients.iter_mut().enumerate() {
        assert_eq!(c.until(b'Z')[1].text(), format!("own {i}"));
    }
    assert!(rig.backends("true") <= 4, "no storm of new logins");
    drop(clients);
    rig.invariants();
}

#[test]
fn restart_under_load() {
    let Some(mut cluster) = cluster(15, app_options()) else { return };
    let rig = Rig::start(&cluster, plan(4));
    let (dsn, stop, answered) = (rig.dsn(), Gate::default(), AtomicUsize::new(0));
    let Rig { howdah, user, .. } = rig;
    let lost: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let work = |n| works_through(&dsn, &stop, &answered, n);
        let clients: Vec<_> = (0..16).map(|n| scope.spawn(move || work(n))).collect();
        harness::eventually("the load runs", || answered.load(Ordering::Relaxed) > 100);
        cluster.restart(Stop::Fast).expect("restarted");
        stop.open();
        clients.into_iter().map(|c| c.join().expect("only the errors of a restart")).collect()
    });
    let (answers, ended) = lost.iter().fold((0, 0), |a, l| (a.0 + l.0, a.1 + l.1));
    assert!(answers > 100 && ended > 0, "{lost:?}");
    // Each was hit at most by the end of its server and by a login that came too early.
    assert!(ended <= 16 * 3, "{lost:?}");
    assert!(harness::count(&cluster, &format!("usename = '{user}'")) <= 4);
    assert_works(&howdah, &dsn);
}

/// Asks on and on, connecting again when the connection ends. Returns answers and ends.
fn works_through(dsn: &Dsn, stop: &Gate, answered: &AtomicUsize, n: usize) -> (usize, usize) {
    let (mut answers, mut ended) = (0, 0);
    let allowed = ["57P01", "08006", "57P03", "08001"];
    let mut last_round = false;
    while !last_round {
        let mut client = match Raw::try_login(dsn, msg::PROTOCOL_3_0, &[]) {
            Ok(c) => c,
            Err(e) => {
                assert!(allowed.iter().any(|c| e.contains(c)), "{e}");
                ended += 1;
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        loop {
            let own = format!("own {n} {answers}");
            if client.send(&msg::query(&format!("select '{own}', pg_sleep(0.002)"))).is_err() {
                break;
            }
            let mut frames = Vec::new();
            while let Ok(f) = client.next() {
                frames.push(f);
                if frames.last().is_some_and(|f| f.tag == b'Z') {
                    break;
                }
            }
            if let [_, row, _, _] = frames.as_slice()
                && tags(&frames) == "TDCZ"
            {
                assert!(row.text().starts_with(&own), "foreign row");
                answers += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                // After the restart each is served once more before it may leave.
                if stop.wait(Duration::ZERO) {
                    last_round = true;
                    break;
                }
                continue;
            }
            let told = errors(&frames);
            assert!(told.len() <= 1, "told more than once: {told:?}");
            assert!(told.iter().all(|(_, c)| allowed.contains(&c.as_str())), "{told:?}");
            ended += 1;
            break;
        }
    }
    (answers, ended)
}

fn assert_works(howdah: &Howdah, dsn: &Dsn) {
    assert_eq!(Raw::login(dsn).select("select 'fine'"), ["fine"]);
    assert!(!howdah.log().contains("panicked") && !howdah.log().contains(CANARY));
}
