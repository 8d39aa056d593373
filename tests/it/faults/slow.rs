//! Peers that do not read.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::program::resident;
use crate::harness::rig::{Rig, Witness, plan};
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, shared};

#[test]
fn reader_that_stops_on_a_large_result() {
    let Some(cluster) = shared(15) else { return };
    let short = "client_write_timeout = \"600ms\"";
    let rig = Rig::start(cluster, plan(4).globals(short));
    let witness = Witness::watch(&rig);
    let before = resident(rig.howdah.pid());
    let mut clients: Vec<Raw> = (0..3).map(|_| rig.client()).collect();
    let gigabyte = "select repeat('x', 1000) from generate_series(1, 1000000)";
    for c in &mut clients {
        c.put(&msg::query(gigabyte));
    }
    rig.await_backends("state = 'active' and query like '%1000000%'", 3);
    let started = Instant::now();
    let mut most = 0;
    while rig.backends("state = 'active' and query like '%1000000%'") > 0 {
        most = most.max(resident(rig.howdah.pid()));
        assert!(started.elapsed() < 3 * harness::rig::SOON, "the server is never freed");
    }
    assert!(most.saturating_sub(before) < 8 * 1024, "{before} kB became {most} kB");
    for c in &mut clients {
        // What was on its way comes, then the end.
        let end = loop {
            match c.next() {
                Ok(f) if f.tag != b'E' => {}
                other => break other,
            }
        };
        assert!(!matches!(end, Err(harness::wire::raw::Missing::Timeout)), "it stays open");
    }
    drop(clients);
    witness.content();
    rig.invariants();
}

/// Both directions are full at one time: each side only writes, until the client begins to read.
#[test]
fn both_directions_full() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    let before = resident(rig.howdah.pid());
    let mut client = rig.client();
    let mut writer = client.writer().expect("a second handle");
    const ROUNDS: usize = 150;
    let padding = "y".repeat(200_000);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            for n in 0..ROUNDS {
                let sql = format!("select {n}, repeat('x', 200000) /* {padding} */");
                writer.write_all(&msg::query(&sql)).expect("written in the end");
            }
        });
        // Long enough that every buffer on the way is full.
        std::thread::sleep(Duration::from_millis(400));
        assert!(!written.is_finished(), "30 MB disappeared somewhere");
        let grown = resident(rig.howdah.pid()).saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} kB more");
        for n in 0..ROUNDS {
            let row = client.expect("TDCZ").remove(1).columns();
            assert_eq!(row[0].as_deref(), Some(n.to_string().as_bytes()));
            assert_eq!(row[1].as_ref().map(Vec::len), Some(200_000));
        }
    });
    drop((client, writer));
    witness.content();
    rig.invariants();
}
