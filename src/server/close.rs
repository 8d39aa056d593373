//! The end of a server connection. Its place is given back when the server has let go of it: until then the server
//! counts it towards `max_connections`, and one that is full would refuse the next.

use std::io::ErrorKind;
use std::time::Duration;

use crate::net::stream::Stream;
use crate::proto::encode;

/// How long the server's end of a closed connection is awaited. A server at work ends within milliseconds; one that
/// hangs, or runs a statement that nobody waits for, must not hold a place for ever.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What can be said to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    Terminate,
    /// Half a message may be out, which Terminate would complete.
    Silent,
}

/// Whether the server has closed its side already; asks without waiting, and throws away what it said before.
pub fn has_ended(stream: &mut Stream) -> bool {
    let mut chunk = [0; 4096];
    for _ in 0..4 {
        match stream.try_read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return e.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

/// Says goodbye and waits for the server's end; false when [`CLOSE_TIMEOUT`] came first.
pub async fn see_off(stream: &mut Stream, goodbye: Goodbye) -> bool {
    let all = async {
        if goodbye == Goodbye::Terminate && stream.write_all(encode::TERMINATE).await.is_err() {
            return;
        }
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut sink = Vec::new();
        while stream.read_some(&mut sink).await.is_ok_and(|n| n > 0) {
            sink.clear();
        }
    };
    tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_ok()
}
