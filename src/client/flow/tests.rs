//! The relay's loop between a real socket and a scripted server.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::*;
use crate::pool::tests::{client, login, served_at};
use crate::proto::frame::{be, fe};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

#[tokio::test]
async fn a_server_is_kept_to_the_end_of_a_message_that_it_ignores() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (services, pool) = served_at(listener.local_addr().unwrap().port(), 1);
    let answers = [
        message(be::ERROR, b"SERROR\0VERROR\0C22P04\0Mno\0\0"),
        encode::ready_for_query(TxStatus::Idle).to_vec(),
    ]
    .concat();
    let query = message(fe::QUERY, b"copyin\0");
    let data = message(fe::COPY_DATA, &[b'r'; 100]);
    let (first, rest) = data.split_at(40);
    let script = {
        let (query, first, rest) = (query.clone(), first.to_vec(), rest.to_vec());
        let answers = answers.clone();
        async move {
            let (mut s, _) = listener.accept().await.unwrap();
            login(&mut s).await.unwrap();
            let mut got = vec![0; query.len()];
            s.read_exact(&mut got).await.unwrap();
            s.write_all(&message(be::COPY_IN, b"\0\0\0")).await.unwrap();
            let mut got = vec![0; first.len()];
            s.read_exact(&mut got).await.unwrap();
            s.write_all(&answers).await.unwrap();
            let mut got = vec![0; rest.len()];
            s.read_exact(&mut got).await.unwrap();
            assert_eq!(got, rest);
        }
    };
    let server = tokio::spawn(script);

    let ctl = client(&pool);
    let mut lease = pool.acquire(&ctl).await.unwrap();
    let (mut app, ours) = UnixStream::pair().unwrap();
    let (mut up, mut down) = (Lane::default(), Lane::default());
    let nothing = services.nothing.clone();
    let mut proto = ClientProto::new(ctl.id, nothing.clone(), nothing, services.statements.memory());
    let pins = Arc::default();
    let env = Env::in_a_test(&services.statements, &pins);
    let mut stream = Stream::Unix(ours);
    let mut flow = Flow {
        services: &services,
        ctl: &ctl,
        client: &mut stream,
        up: &mut up,
        down: &mut down,
        proto: &mut proto,
        timers: Timers::new(lease.since),
        silent: Silent::default(),
        lease: &mut lease,
        env,
        mode: PoolMode::Transaction,
        timeouts: &Timeouts::default(),
    };
    app.write_all(&[&query[..], first].concat()).await.unwrap();
    let mut heard = vec![0; 8 + answers.len()];
    let early = {
        let read = app.read_exact(&mut heard);
        tokio::select! {
            end = std::future::poll_fn(|cx| flow.poll(cx)) => Some(end),
            _ = read => None,
        }
    };
    assert!(early.is_none(), "given away inside of a message: {early:?}");
    assert_eq!(heard.get(8..), Some(&answers[..]));
    let wait = tokio::time::timeout(Duration::from_millis(50), std::future::poll_fn(|cx| flow.poll(cx)));
    assert!(wait.await.is_err(), "given away inside of a message");
    app.write_all(rest).await.unwrap();
    let end = std::future::poll_fn(|cx| flow.poll(cx));
    let end = tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
    assert!(matches!(end, End::Boundary), "{end:?}");
    server.await.unwrap();
}
