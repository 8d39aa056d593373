//! The asynchronous handle under aborts: whatever is dropped, and when, every place comes back.

use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::departure::Departure;
use super::*;
use crate::clients::handle::{CancelSecret, ClientState};
use crate::net::stream::Peer;
use crate::server::conn::Place as _;
use crate::services::Services;
use crate::services::tests::configured;

/// Logs in whoever comes.
pub(crate) async fn login(s: &mut TcpStream) -> std::io::Result<()> {
    let n = s.read_u32().await?;
    let mut rest = vec![0; n as usize - 4];
    s.read_exact(&mut rest).await?;
    let mut hello = encode::AUTHENTICATION_OK.to_vec();
    hello.extend(encode::backend_key_data(7, &[0; 4]).unwrap());
    hello.extend(encode::ready_for_query(crate::proto::pipeline::TxStatus::Idle));
    s.write_all(&hello).await
}

async fn serve(mut s: TcpStream) -> std::io::Result<()> {
    login(&mut s).await?;
    while s.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

async fn fake() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((s, _)) = listener.accept().await {
            tokio::spawn(serve(s));
        }
    });
    port
}

async fn pool(size: usize) -> Arc<Pool> {
    pool_at(fake().await, size)
}

/// A pool of this size before the server at this port.
pub(crate) fn pool_at(port: u16, size: usize) -> Arc<Pool> {
    served_at(port, size).1
}

/// The same, with the parts of the Howdah that it belongs to.
pub(crate) fn served_at(port: u16, size: usize) -> (Arc<Services>, Arc<Pool>) {
    let services = configured(&format!(
        "listen = [\"127.0.0.1:6432\"]\nauth_method = \"trust\"\n[users.app]\n[databases.app]\n\
         host = \"127.0.0.1\"\nport = {port}\npool_size = {size}\n"
    ));
    let key = PoolKey::new("app".into(), "app".into(), Role::Primary);
    let pool = services.pools.obtain(&key, &services.pooling).unwrap();
    (services, pool)
}

pub(crate) fn client(pool: &Pool) -> Arc<ClientCtl> {
    let id = pool.pooling.clients.next_id();
    Arc::new(ClientCtl::new(
        id,
        Peer::Unix,
        "app".into(),
        "app".into(),
        "".into(),
        CancelSecret::new(),
        Clock::now(),
    ))
}

/// Waits until nothing is under way; the janitor's part is done here.
async fn settled(pool: &Arc<Pool>) -> Counts {
    for _ in 0..2000 {
        let c = pool.counts();
        if c.tracked() == c.idle && c.waiting == 0 {
            return c;
        }
        pool.tick(Clock::now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not everything came back: {:?}", pool.counts());
}

#[tokio::test]
async fn a_wait_dropped_at_any_poll_leaves_no_trace() {
    let pool = pool(1).await;
    for polls in 0..12 {
        for granted in [false, true] {
            let holder = pool.acquire(&client(&pool)).await.unwrap();
            let (ctl, next) = (client(&pool), client(&pool));
            let mut first = Box::pin(pool.acquire(&ctl));
            for _ in 0..polls {
                assert!(first.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
            let mut second = Box::pin(pool.acquire(&next));
            assert!(second.as_mut().now_or_never().is_none());
            if granted {
                // The connection is the first one's now, which has not heard of it.
                holder.release_unused();
                drop(first);
            } else {
                drop(first);
                holder.release_unused();
            }
            let lease = tokio::time::timeout(Duration::from_secs(10), second).await.unwrap().unwrap();
            lease.release_unused();
            assert_eq!(settled(&pool).await, Counts { idle: 1, ..Counts::default() });
        }
    }
    assert_eq!(pool.totals().opened, 1, "no connection was lost on the way");
}

#[tokio::test]
async fn an_aborted_dial_gives_its_place_back() {
    let pool = pool(2).await;
    for _ in 0..50 {
        let ctl = client(&pool);
        // Begins to dial, and leaves before the connection is there.
        assert!(Box::pin(pool.acquire(&ctl)).now_or_never().is_none());
    }
    let c = settled(&pool).await;
    assert!(c.idle <= 2, "{c:?}");
    assert_eq!(pool.pooling.ledger.used(&LimitKey::Database("app".into())), c.idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_aborted_at_random_leave_the_pool_whole() {
    const SIZE: usize = 3;
    let pool = pool(SIZE).await;
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = tokio::spawn({
        let (pool, watching) = (pool.clone(), watching.clone());
        async move {
            while watching.load(Ordering::Relaxed) {
                assert!(pool.counts().tracked() <= SIZE);
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..400 {
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (pool, ctl) = (pool.clone(), client(&pool));
                tokio::spawn(async move {
                    let lease = pool.acquire(&ctl).await.unwrap();
                    let holds = rand::rng().random_range(0..4);
                    for _ in 0..holds {
                        tokio::task::yield_now().await;
                    }
                    if rand::random() {
                        lease.release(TxStats::default(), None, Clock::now());
                    } else {
                        lease.release_unused();
                    }
                })
            })
            .collect();
        let mut kept = Vec::new();
        for t in tasks {
            if rand::random() {
                let yields = rand::rng().random_range(0..3);
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
                t.abort();
            } else {
                kept.push(t);
            }
        }
        for t in kept {
            let served = tokio::time::timeout(Duration::from_secs(20), t).await;
            served.expect("nobody waits for ever").unwrap();
        }
    }
    let c = settled(&pool).await;
    watching.store(false, Ordering::Relaxed);
    watcher.await.unwrap();
    assert!((1..=SIZE).contains(&c.idle), "{c:?}");
    assert_eq!(pool.pooling.ledger.used(&LimitKey::Database("app".into())), c.idle);
    // Nothing shrank: as many as ever can be held at once.
    let mut all = Vec::new();
    for _ in 0..SIZE {
        let ctl = client(&pool);
        let lease = tokio::time::timeout(Duration::from_secs(10), pool.acquire(&ctl)).await;
        all.push(lease.expect("a place for each").unwrap());
    }
    assert_eq!(pool.counts().leased, SIZE);
    drop(all);
    assert_eq!(settled(&pool).await, Counts::default());
}

/// What the server of `abandoned` answers to a Query after its client has left, and whether it is reset then.
async fn abandoned(answer: &'static [u8]) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_at(listener.local_addr().unwrap().port(), 1);
    let ready = encode::ready_for_query(crate::proto::pipeline::TxStatus::Idle);
    let server = tokio::spawn(async move {
        let (mut s, _) = listener.accept().await.unwrap();
        login(&mut s).await.unwrap();
        let mut query = [0; 16];
        s.read_exact(&mut query[..7]).await.unwrap();
        // The cancel comes first; it strikes too late.
        drop(listener.accept().await.unwrap());
        s.write_all(&[answer, &ready].concat()).await.unwrap();
        let mut reset = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(300), s.read_buf(&mut reset)).await;
        if read.is_ok() {
            s.write_all(&[b"C\0\0\0\x10DISCARD ALL\0", &ready[..]].concat()).await.unwrap();
        }
        (s, reset.starts_with(b"Q\0\0\0\x10DISCARD ALL"))
    });
    let mut lease = pool.acquire(&client(&pool)).await.unwrap();
    let conn = lease.conn().unwrap();
    conn.state.pipeline.sent(crate::proto::pipeline::Expect::Query);
    conn.stream.write_all(b"Q\0\0\0\x06x\0").await.unwrap();
    lease.abandon(crate::net::lane::Unread::default(), TxStats::default(), false, Departure::Left);
    let (_s, reset) = server.await.unwrap();
    assert_eq!(settled(&pool).await, Counts { idle: 1, ..Counts::default() });
    reset
}

#[tokio::test]
async fn what_an_abandoned_query_leaves_behind_is_reset() {
    assert!(abandoned(b"C\0\0\0\x08SET\0").await);
    assert!(abandoned(b"C\0\0\0\x0bLISTEN\0").await);
    assert!(abandoned(b"S\0\0\0\x11TimeZone\0CET\0C\0\0\0\x0dSELECT 1\0").await, "set_config()");
    assert!(!abandoned(b"C\0\0\0\x0dSELECT 1\0").await);
}

/// Accepts and logs in; then reads until the other side has said its last, and keeps its own side open.
async fn reluctant(listener: &TcpListener) -> (TcpStream, Vec<u8>) {
    let (mut s, _) = listener.accept().await.unwrap();
    login(&mut s).await.unwrap();
    let mut heard = Vec::new();
    s.read_to_end(&mut heard).await.unwrap();
    (s, heard)
}

#[tokio::test]
async fn a_place_comes_back_when_the_server_has_closed_its_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_at(listener.local_addr().unwrap().port(), 1);
    let database = LimitKey::Database("app".into());
    let soon = Duration::from_secs(20);
    let server = tokio::spawn(async move {
        let first = reluctant(&listener).await;
        (first, listener)
    });
    let lease = pool.acquire(&client(&pool)).await.unwrap();
    pool.reconfigure({
        let mut spec = (*pool.spec()).clone();
        spec.target.dbname = "moved".to_owned();
        spec
    });
    lease.release_unused();
    let ((first, heard), listener) = tokio::time::timeout(soon, server).await.unwrap().unwrap();
    assert_eq!(heard, encode::TERMINATE);
    assert_eq!((pool.counts().closing, pool.pooling.ledger.used(&database)), (1, 1));
    let ctl = client(&pool);
    let mut next = Box::pin(pool.acquire(&ctl));
    assert!(next.as_mut().now_or_never().is_none());
    assert_eq!(pool.counts().opening, 0, "its place is not free yet");
    drop(first);
    let (lease, second) = tokio::join!(next, async {
        let (mut s, _) = listener.accept().await.unwrap();
        login(&mut s).await.unwrap();
        s
    });
    assert_eq!(pool.counts(), Counts { leased: 1, ..Counts::default() });
    assert_eq!(pool.shared.counters.get("server_close_timeouts_total", ""), 0);
    // The end of the connection is known: there is nothing to wait for.
    drop(second);
    let mut lease = lease.unwrap();
    lease.conn().unwrap().stream.read_some(&mut Vec::new()).await.unwrap();
    lease.discard("eof", TxStats::default());
    assert_eq!((pool.counts(), pool.pooling.ledger.used(&database)), (Counts::default(), 0));
}

#[tokio::test]
async fn a_server_that_never_closes_its_side_does_not_keep_the_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_at(listener.local_addr().unwrap().port(), 1);
    let server = tokio::spawn(async move { reluctant(&listener).await });
    let lease = pool.acquire(&client(&pool)).await.unwrap();
    lease.discard("not_clean", TxStats::default());
    let (_open, heard) = server.await.unwrap();
    assert!(heard.is_empty(), "half a message may be out");
    assert_eq!(settled(&pool).await, Counts::default());
    assert_eq!(pool.shared.counters.get("server_close_timeouts_total", ""), 1);
}

/// A lease that nobody gives back, and a socket that no pool knows of, are told by the second look; what changes
/// hands in between is none.
#[tokio::test]
async fn an_injected_leak_is_told() {
    let pool = pool(3).await;
    let services = pool.pooling.clone();
    let leaked = || {
        (0..3).for_each(|_| holders::audit(&services));
        services.audit.lock().leaked()
    };
    let ctl = client(&pool);
    services.clients.insert(ctl.clone());
    ctl.set_state(ClientState::Active, services.shared.clock.now_ms());
    let lease = pool.acquire(&ctl).await.unwrap();
    assert_eq!(leaked(), (0, 0));
    // Its client goes, and the lease stays.
    services.clients.remove(ctl.id);
    holders::audit(&services);
    assert_eq!(services.audit.lock().leaked(), (0, 0), "one look is not enough");
    assert_eq!(leaked(), (1, 0));
    lease.release_unused();
    assert_eq!(leaked(), (0, 0));

    let socket = Socket::new(&services.shared.server_sockets);
    assert_eq!(leaked(), (0, 1));
    drop(socket);
    assert_eq!(leaked(), (0, 0));
    // The other way round: the place stays, and the connection is gone.
    let ctl = client(&pool);
    let mut lease = pool.acquire(&ctl).await.unwrap();
    lease.conn().unwrap().counted = None;
    assert_eq!(leaked().1, 1);
}

/// Nobody counts a login whose control connection has gone; it must not come in later, beside those who took its place.
#[tokio::test]
async fn a_dial_whose_place_was_taken_back_does_not_arrive() {
    use crate::config::resolved::HostAddr;
    use crate::pool::ledger::LimitKey;

    let text = "auth_method = \"trust\"\n[users.a]\n[databases.a]\nhost = \"h\"\npool_size = 1\n";
    let services = configured(text);
    let ledger = &services.ledger;
    let host = HostAddr::Tcp { host: "db".to_owned(), port: 5432 };
    let wanted = [(LimitKey::Host(host.clone()), None)];
    assert!(ledger.bound(&host));
    assert!(ledger.take(&wanted, &services.pooling).is_err(), "nothing was granted");
    ledger.grant(&host, 2);
    let mut early = ledger.take(&wanted, &services.pooling).unwrap();
    let mut late = ledger.take(&wanted, &services.pooling).unwrap();
    assert!(early.arrived());
    ledger.revoke(&host);
    assert!(!late.arrived());
    drop(late);
    let places = ledger.places(&host, Clock::now(), Duration::from_secs(1));
    assert_eq!((places.open, places.dialling, places.granted, places.lingering), (1, 0, 0, 1));
    ledger.grant(&host, 1);
    assert!(ledger.take(&wanted, &services.pooling).unwrap().arrived());
}
