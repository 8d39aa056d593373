//! The workloads: what one transaction sends, and how many clients send it.

use clap::ValueEnum;

use crate::answers::copy_in_stream;
use crate::wire::{cstring, message, query};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// One simple query, always the same text.
    Simple,
    /// One simple query, a different constant each time.
    SimpleDistinct,
    /// Unnamed Parse, Bind, Describe, Execute, Sync.
    Extended,
    /// Parse of a named statement once per client, then Bind, Execute, Sync.
    Prepared,
    /// BEGIN; SELECT; COMMIT in three round trips.
    Tx3,
    /// 1,000 rows of 100 bytes.
    Rows1000,
    /// COPY of 1,000 lines of 100 bytes to the server.
    Copyin,
    /// COPY of 1,000 lines of 100 bytes from the server.
    Copyout,
    /// Connect, one query, disconnect.
    Connect,
    /// The same with a SCRAM-SHA-256 login.
    Scram,
    /// 10,000 clients, 200 of them waiting for an answer at any time.
    Clients10k,
    /// 20 clients in flight per server connection: what the queue does to the latency.
    Wait,
    /// 10,000 clients that do nothing.
    Idle,
    /// 10,000 clients that have each run a prepared statement and then do nothing.
    IdlePrepared,
}

/// What must arrive before the next step begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Ready,
    CopyIn,
}

pub(crate) struct Step {
    pub(crate) bytes: Vec<u8>,
    pub(crate) until: Until,
}

impl Workload {
    /// Clients connected, and clients in flight.
    pub(crate) fn size(self) -> (usize, usize) {
        match self {
            Self::Clients10k | Self::Idle | Self::IdlePrepared => (10_000, 200),
            Self::Wait => (800, 800),
            Self::Connect | Self::Scram => (40, 40),
            _ => (100, 40),
        }
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) fn reconnects(self) -> bool {
        matches!(self, Self::Connect | Self::Scram)
    }

    pub(crate) fn idles(self) -> bool {
        matches!(self, Self::Idle | Self::IdlePrepared)
    }

    pub(crate) fn prepares(self) -> bool {
        matches!(self, Self::Prepared | Self::IdlePrepared)
    }

    /// Sent by every client once, after its login.
    pub(crate) fn setup(self) -> Option<Vec<u8>> {
        self.prepares().then(|| {
            let mut out = parse("bench_1");
            message(&mut out, b'S', |_| {});
            out
        })
    }

    pub(crate) fn steps(self) -> Vec<Step> {
        let ready = |bytes| Step { bytes, until: Until::Ready };
        match self {
            Self::Extended => {
                let mut out = parse("");
                bind_execute(&mut out, "", true);
                vec![ready(out)]
            }
            Self::Prepared | Self::IdlePrepared => {
                let mut out = Vec::new();
                bind_execute(&mut out, "bench_1", false);
                vec![ready(out)]
            }
            Self::Tx3 => ["BEGIN", SELECT, "COMMIT"].map(|text| ready(query(text))).into(),
            Self::Rows1000 => {
                vec![ready(query("SELECT repeat('x', 100) AS line FROM generate_series(1, 1000)"))]
            }
            Self::Copyin => vec![
                Step { bytes: query("COPY howdah_bench FROM STDIN"), until: Until::CopyIn },
                ready(copy_in_stream()),
            ],
            Self::Copyout => {
                let text = "COPY (SELECT repeat('x', 99) FROM generate_series(1, 1000)) TO STDOUT";
                vec![ready(query(text))]
            }
            _ => vec![ready(query(SELECT))],
        }
    }
}

const SELECT: &str = "SELECT 17 AS answer";

/// The query of `SimpleDistinct`.
pub(crate) fn distinct(out: &mut Vec<u8>, number: u64) {
    message(out, b'Q', |body| {
        body.extend_from_slice(b"SELECT ");
        body.extend_from_slice(number.to_string().as_bytes());
        body.extend_from_slice(b" AS answer\0");
    });
}

fn parse(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, b'P', |body| {
        cstring(body, name.as_bytes());
        cstring(body, b"SELECT $1::int4 AS answer");
        body.extend_from_slice(&[0, 0]);
    });
    out
}

fn bind_execute(out: &mut Vec<u8>, statement: &str, describe: bool) {
    message(out, b'B', |body| {
        cstring(body, b"");
        cstring(body, statement.as_bytes());
        body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
        body.extend_from_slice(b"17");
        body.extend_from_slice(&[0, 0]);
    });
    if describe {
        message(out, b'D', |body| cstring(body, b"P"));
    }
    message(out, b'E', |body| {
        cstring(body, b"");
        body.extend_from_slice(&[0; 4]);
    });
    message(out, b'S', |_| {});
}
