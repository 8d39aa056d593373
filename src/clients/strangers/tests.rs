use std::net::IpAddr;

use super::crowd::SILENT;
use super::*;

const LIMIT: usize = 8;

fn at(last: u8) -> Address {
    Some(IpAddr::from([10, 0, 0, last]))
}

fn ids(v: Result<Option<Victim>, Duration>) -> Result<Option<(u64, usize, bool)>, Duration> {
    v.map(|v| v.map(|v| (v.id, v.silent, v.begun)))
}

fn begin(c: &mut Crowd, id: u64, from: Address, now: Instant) {
    c.spoke(id, from, Arc::default());
    c.give_turns(usize::MAX, now);
}

#[test]
fn the_oldest_silent_one_of_the_address_that_has_most_goes_first() {
    let (mut c, began) = (Crowd::default(), Clock::now());
    let now = began + SILENT;
    let first = c.add(at(1), began);
    let many: Vec<u64> = (0..3).map(|_| c.add(at(2), began)).collect();
    let two: Vec<u64> = (0..2).map(|_| c.add(at(3), began)).collect();
    assert_eq!(ids(c.victim(began, LIMIT, false)), Err(SILENT), "they have hardly come");
    assert_eq!(ids(c.victim(now, LIMIT, false)), Ok(Some((many[0], 3, false))));
    // Where there is room, they have more time.
    assert_eq!(ids(c.victim(now, LIMIT, true)), Ok(None));
    assert_eq!(ids(c.victim(began + PATIENCE, LIMIT, true)), Ok(Some((many[0], 3, false))));
    // Logins under way do not count.
    begin(&mut c, many[0], at(2), now);
    begin(&mut c, many[1], at(2), now);
    assert_eq!(ids(c.victim(now, LIMIT, false)), Ok(Some((two[0], 2, false))));
    assert!(c.remove(two[0], at(3)) && c.remove(two[1], at(3)) && !c.remove(two[1], at(3)));
    assert_eq!(c.len(), 4);
    c.remove(many[2], at(2));
    assert_eq!(ids(c.victim(now, LIMIT, false)), Ok(Some((first, 1, false))));
    c.remove(first, at(1));
    // Nobody is silent: whoever has taken long goes, and nobody before.
    assert_eq!(ids(c.victim(now, LIMIT, false)), Err(SLOW));
    assert_eq!(ids(c.victim(now + SLOW, LIMIT, true)), Ok(None));
    assert_eq!(ids(c.victim(now + SLOW, LIMIT, false)), Ok(Some((many[0], 0, true))));
    c.remove(many[0], at(2));
    c.remove(many[1], at(2));
    assert_eq!((c.len(), c.silent.len(), c.ranks.len(), c.slowest.len()), (0, 0, 0, 0));
}

#[test]
fn turns_are_given_in_the_order_in_which_they_came() {
    let (mut c, now) = (Crowd::default(), Clock::now());
    let all: Vec<u64> = (0..5).map(|_| c.add(at(1), now)).collect();
    for id in all.iter().rev() {
        c.spoke(*id, at(1), Arc::default());
    }
    c.give_turns(2, now);
    assert!(c.begun.contains_key(&all[0]) && c.begun.contains_key(&all[1]));
    assert_eq!((c.begun.len(), c.waiting.len(), c.quiet), (2, 3, 0));
    // One that waits may leave, too.
    assert!(c.remove(all[2], at(1)) && c.remove(all[0], at(1)));
    c.give_turns(2, now);
    assert!(c.begun.contains_key(&all[3]) && !c.begun.contains_key(&all[4]));
    assert_eq!(c.len(), 3);
}

#[test]
fn a_login_is_slow_only_where_few_others_are_over() {
    let (mut c, began) = (Crowd::default(), Clock::now());
    let all: Vec<u64> = (0..4).map(|_| c.add(at(1), began)).collect();
    for id in &all {
        begin(&mut c, *id, at(1), began);
    }
    let slow = |c: &Crowd, now| c.slow(LIMIT, now).map(|v| v.id);
    let late = began + SLOW;
    assert_eq!((slow(&c, began), slow(&c, late)), (Err(SLOW), Ok(all[0])));
    // A quarter of the places are two.
    assert!(c.leave(all[3], at(1), LIMIT, late));
    assert_eq!(slow(&c, late), Ok(all[0]));
    assert!(c.leave(all[2], at(1), LIMIT, late));
    assert_eq!(slow(&c, late), Err(SLOW));
    assert_eq!(slow(&c, late + SLOW), Ok(all[0]));
    // One that is cut is not over by itself.
    assert!(c.remove(all[0], at(1)) && !c.leave(all[0], at(1), LIMIT, late + SLOW));
    assert_eq!(slow(&c, late + SLOW), Ok(all[1]));
}

fn peer(port: u16) -> Peer {
    Peer::Tcp(([127, 0, 0, 1], port).into())
}

async fn is_pending<T>(what: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(1), what).await.is_err()
}

#[tokio::test]
async fn a_newcomer_gets_a_place_and_a_login_under_way_keeps_its_own() {
    let strangers = Arc::new(Strangers::default());
    let full = || 0;
    let login = strangers.enter(peer(1), 3, full).await;
    login.begin().await;
    let silent = strangers.enter(peer(2), 3, full).await;
    let other = strangers.enter(peer(3), 3, full).await;
    // The Unix socket has places of its own.
    let unix = strangers.enter(Peer::Unix, 1, full).await;
    unix.begin().await;
    let newcomer = strangers.enter(peer(4), 3, full).await;
    silent.cut().await;
    assert_eq!((strangers.places().taken, strangers.places().silent, strangers.cut()), (4, 2, (1, 0)));
    assert!(is_pending(login.cut()).await, "a login under way keeps its place");
    // One that has spoken when it was about to lose its place goes on.
    let next = strangers.enter(peer(6), 3, full).await;
    other.begin().await;
    assert!(is_pending(other.cut()).await, "it was heard in time");
    assert_eq!(strangers.places().taken, 5);
    drop(next);
    // Where all are under way, the next one waits until one of them is over.
    newcomer.begin().await;
    let waits = strangers.enter(peer(5), 3, full);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(Duration::from_millis(1), waits.as_mut()).await.is_err());
    login.leave();
    let fifth = waits.await;
    drop((fifth, newcomer, login, silent, other, unix));
    assert_eq!(strangers.places().taken, 0);
}

/// A program that opens thousands of connections gets round to each of them in its own time.
#[tokio::test]
async fn a_crowd_that_comes_at_once_has_the_room_of_clients_and_logs_in_by_turns() {
    let strangers = Arc::new(Strangers::default());
    let mut all = Vec::new();
    for port in 1..=10 {
        all.push(strangers.enter(peer(port), 2, || 8).await);
    }
    assert_eq!((strangers.places().silent, strangers.cut()), (10, (0, 0)));
    // There is no room for more.
    let eleventh = strangers.enter(peer(11), 2, || 8).await;
    all[0].cut().await;
    assert_eq!(strangers.cut(), (1, 0));
    all[1].begin().await;
    all[2].begin().await;
    assert!(is_pending(eleventh.begin()).await, "two log in");
    assert_eq!((strangers.places().taken, strangers.places().waiting), (10, 1));
    assert!(!all[2].overstays() && !eleventh.overstays(), "they have spoken");
    all[1].leave();
    assert_eq!((strangers.places().taken, strangers.places().waiting), (9, 0), "it has its turn");
    // In the end the places are max_login_connections again.
    assert!(all[3].overstays());
    all[3].cut().await;
    all.truncate(4);
    assert!(!eleventh.overstays());
    drop((all, eleventh));
    assert_eq!(strangers.places().taken, 0);
}
