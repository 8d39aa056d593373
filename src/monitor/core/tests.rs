use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "a test needs some instant")]
fn start() -> Instant {
    Instant::now()
}

fn facts(in_recovery: bool, lsn: u64, timeline: u32) -> Facts {
    Facts { in_recovery, lsn: Lsn(lsn), timeline, more: BTreeMap::new() }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn places_in_the_wal() {
    assert_eq!(Lsn::parse("16/B374D848"), Some(Lsn(0x16_B374_D848)));
    assert_eq!(Lsn::parse("0/0"), Some(Lsn(0)));
    assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    for bad in ["", "1", "1/", "/1", "1/x", "123456789/0"] {
        assert_eq!(Lsn::parse(bad), None, "{bad}");
    }
    for (lsn, end) in [(8192 * 5, 8192 * 5), (8192 * 5 + 24, 8192 * 5), (8192 * 5 + 40, 8192 * 5)] {
        assert_eq!(Lsn(lsn).before_page_header(8192), Lsn(end));
    }
    assert_eq!(Lsn(8192 * 5 + 48).before_page_header(8192), Lsn(8192 * 5 + 48));
    assert_eq!(Lsn(24).before_page_header(0), Lsn(24));
}

#[test]
fn an_idle_primary_is_not_mistaken_for_lag() {
    let t = start();
    let (mut primary, mut replica) = (HostCore::default(), HostCore::default());
    for s in 0..600 {
        let now = t + INTERVAL * s;
        primary.sampled(now, now + ms(1), facts(false, 1000, 1));
        replica.sampled(now + ms(2), now + ms(3), facts(true, 1000, 1));
    }
    let now = t + INTERVAL * 599 + ms(500);
    let lag = lag(replica.place(), Some(&primary), now).expect("known");
    assert_eq!((lag.bytes, lag.time, lag.at_most), (0, ms(3), ms(500)));
}

#[test]
fn a_replica_that_stands_still_grows_old() {
    let t = start();
    let (mut primary, mut replica) = (HostCore::default(), HostCore::default());
    let limits = Limits { lag: Some(ms(3000)), lag_bytes: None };
    assert_eq!(standing(replica.place(), Some(&primary), limits, t), Standing::Unconfirmed);
    for s in 0..10 {
        let now = t + INTERVAL * s;
        primary.sampled(now, now, facts(false, 1000 + u64::from(s), 1));
        replica.sampled(now, now, facts(true, 1002.min(1000 + u64::from(s)), 1));
        let want = if s <= 5 { Standing::Eligible } else { Standing::Lag };
        assert_eq!(standing(replica.place(), Some(&primary), limits, now), want, "{s}");
    }
    // Back in step.
    let now = t + INTERVAL * 10;
    replica.sampled(now, now, facts(true, 1009, 1));
    assert_eq!(standing(replica.place(), Some(&primary), limits, now), Standing::Eligible);
    // Without an answer it grows old as well.
    assert_eq!(standing(replica.place(), Some(&primary), limits, now + ms(2001)), Standing::Lag);
    // In bytes.
    let bytes = |n| Limits { lag: None, lag_bytes: Some(n) };
    replica.sampled(now, now, facts(true, 1004, 1));
    assert_eq!(standing(replica.place(), Some(&primary), bytes(5), now), Standing::Eligible);
    assert_eq!(standing(replica.place(), Some(&primary), bytes(4), now), Standing::Lag);
    // Nobody can tell without a primary; nobody asks without a limit.
    primary.failed("gone".to_owned());
    assert_eq!(standing(replica.place(), Some(&primary), bytes(5), now), Standing::Lag);
    assert_eq!(standing(replica.place(), None, Limits::default(), now), Standing::Eligible);
}

#[test]
fn another_timeline_proves_nothing() {
    let t = start();
    let (mut primary, mut replica) = (HostCore::default(), HostCore::default());
    primary.sampled(t, t, facts(false, 500, 2));
    replica.sampled(t, t, facts(true, 900, 1));
    assert_eq!(lag(replica.place(), Some(&primary), t), None);
    assert_eq!(replayed(&replica, 2, Lsn(500)), None);
    assert_eq!(replica.sampled(t, t, facts(true, 900, 2)), Change::Timeline);
    assert_eq!(replayed(&replica, 2, Lsn(500)), Some(t));
}

#[test]
fn what_is_lost_proves_nothing_until_it_is_asked_again() {
    let t = start();
    let mut replica = HostCore::default();
    replica.sampled(t, t, facts(true, 900, 1));
    assert_eq!(replayed(&replica, 1, Lsn(900)), Some(t));
    assert_eq!(replayed(&replica, 1, Lsn(901)), None);
    replica.connection_lost(t + ms(1));
    assert_eq!(replayed(&replica, 1, Lsn(900)), None);
    replica.sampled(t + ms(2), t + ms(3), facts(true, 900, 1));
    assert_eq!(replayed(&replica, 1, Lsn(900)), Some(t + ms(2)));
    assert_eq!(replica.failed("x".to_owned()), Change::Down);
    assert_eq!(replica.failed("x".to_owned()), Change::None);
    assert_eq!(replayed(&replica, 1, Lsn(900)), None);
    assert_eq!(replica.sampled(t, t, facts(true, 900, 1)), Change::Up);
}

#[test]
fn the_first_mark_after_a_write() {
    let t = start();
    let mut primary = HostCore::default();
    for (at, lsn) in [(0, 100), (10, 200), (20, 200), (30, 300)] {
        primary.sampled(t + ms(at), t + ms(at), facts(false, lsn, 1));
    }
    let after = |at| primary.mark_after(t + ms(at)).map(|m| m.lsn.0);
    // A question that was sent at the moment of the write may have been answered before it.
    assert_eq!(
        (after(0), after(9), after(10), after(20), after(30)),
        (Some(200), Some(200), Some(200), Some(300), None)
    );
}

#[test]
fn roles_change() {
    let t = start();
    let mut host = HostCore::default();
    assert_eq!(host.sampled(t, t, facts(true, 1, 1)), Change::Up);
    assert_eq!(host.sampled(t, t, facts(true, 1, 1)), Change::None);
    assert_eq!(host.sampled(t, t, facts(false, 1, 2)), Change::Promoted);
    host.failed("restart".to_owned());
    assert_eq!(host.sampled(t, t, facts(true, 1, 2)), Change::Demoted);
}

#[test]
fn a_host_that_is_down_is_asked_less_and_less() {
    let mut host = HostCore::default();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        host.failed("down".to_owned());
        pauses.push(host.pause(INTERVAL).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    let t = start();
    host.sampled(t, t, facts(true, 1, 1));
    assert_eq!(host.pause(INTERVAL), INTERVAL);
}

#[test]
fn marks_are_bounded() {
    let t = start();
    let mut primary = HostCore::default();
    for i in 0..10_000_u32 {
        primary.sampled(t + INTERVAL * i, t + INTERVAL * i, facts(false, u64::from(i), 1));
    }
    assert_eq!(primary.marks.len(), MARKS);
    // A restored server goes back.
    primary.sampled(t, t, facts(false, 5, 1));
    assert_eq!(primary.marks.len(), 1);
}
