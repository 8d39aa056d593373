//! Connections of Howdah's own: the monitor, `auth_query` and the fleet's control speak through them. They are
//! never lent to a client, and nothing of a client's is ever applied to them.

use std::sync::Arc;
use std::time::Duration;

use crate::config::resolved::HostAddr;
use crate::error::{Error, OpenFailure, ServerError};
use crate::net::stream::Stream;
use crate::net::tls::Handshakes;
use crate::proto::encode;
use crate::proto::frame::{self, be};
use crate::proto::params::ParamSet;
use crate::proto::pipeline::TxStatus;
use crate::server::close::{self, Goodbye};
use crate::server::conn::{Place, ServerConn};
use crate::server::connect;
use crate::server::target::Target;

/// `application_name` of what asks a server now and then.
pub const APPLICATION: &str = "howdah";
/// Of the monitor.
pub const MONITOR: &str = "howdah monitor";
/// Of `auth_query`.
pub const AUTH_QUERY: &str = "howdah auth_query";
/// Of a listener.
pub const LISTENER: &str = "howdah listener";
/// By these a fleet knows its own connections in `pg_stat_activity`; control connections have names of their own.
pub const NAMES: [&str; 4] = [APPLICATION, MONITOR, AUTH_QUERY, LISTENER];

/// More than any question of ours is answered with; a server that says more is not believed.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// What a message of an answer costs beside its bytes.
const MESSAGE: usize = 64;

/// One open connection. Callers bound the time of each call; a call that was given up leaves the connection in the
/// middle of an answer, and it must then be dropped.
#[derive(Debug)]
pub struct Own {
    conn: Box<ServerConn>,
    buf: Vec<u8>,
    /// Notifications of other sessions that nobody has asked for yet.
    heard: u64,
}

/// The rows of the last result of a statement, in text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// The value in a row's column of that name; nothing where it is NULL or there is none such.
    pub fn get(&self, row: usize, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|c| c == column)?;
        self.rows.get(row)?.get(at)?.as_deref()
    }
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The server refused the statement; the connection is still of use.
    #[error("{}", String::from_utf8_lossy(.0.field(b'M').unwrap_or(b"an error without a message")))]
    Refused(ServerError),
    /// The connection is of no use any more.
    #[error("{0}")]
    Lost(String),
}

impl From<OwnError> for String {
    fn from(e: OwnError) -> Self {
        e.to_string()
    }
}

/// What is not answered in time is lost: the rest of its answer would be taken for that of the next question.
pub async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, OwnError>>,
) -> Result<T, OwnError> {
    let late = |_| OwnError::Lost(format!("no answer within {:.1} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

/// A connection of Howdah's own counts against no limit of the pools.
#[derive(Debug)]
struct Uncounted;

impl Place for Uncounted {
    fn arrived(&mut self) -> bool {
        true
    }
}

impl Own {
    /// Dials and logs in, bounded by the target's timeout.
    pub async fn open(host: HostAddr, target: &Target, beside: &Handshakes) -> Result<Self, OpenFailure> {
        let conn = connect::open(host, target, 0, Box::new(Uncounted), Arc::new(ParamSet::default()), beside)
            .await?;
        Ok(Self { conn, buf: Vec::new(), heard: 0 })
    }

    pub fn conn(&self) -> &ServerConn {
        &self.conn
    }

    /// Runs a simple Query to its ReadyForQuery.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, OwnError> {
        let message = encode::query(sql).map_err(|e| lost(&e))?;
        self.exchange(&message).await
    }

    /// Runs one statement with bound text parameters, through the unnamed statement and portal.
    pub async fn query_with(&mut self, sql: &str, values: &[Option<&str>]) -> Result<Rows, OwnError> {
        let mut message = encode::parse("", sql, &[]).map_err(|e| lost(&e))?;
        message.extend_from_slice(&encode::bind_text(values).map_err(|e| lost(&e))?);
        message.extend_from_slice(encode::DESCRIBE_UNNAMED_PORTAL);
        message.extend_from_slice(encode::EXECUTE_UNNAMED_PORTAL);
        message.extend_from_slice(encode::SYNC);
        self.exchange(&message).await
    }

    /// Waits until the server says something or closes; for `LISTEN`, and to learn of a lost connection. What it
    /// said is digested by [`Self::heard`] or with the next answer. Cancel safe.
    pub async fn watch(&mut self) -> Result<(), OwnError> {
        let n = self.conn.stream.read_some(&mut self.buf).await.map_err(|e| OwnError::Lost(e.to_string()))?;
        if n == 0 {
            return Err(OwnError::Lost("the server closed the connection".to_owned()));
        }
        Ok(())
    }

    /// Notifications that other sessions have sent since the last call, as far as they are read: by
    /// [`Self::watch`], or among the answers to questions.
    pub fn heard(&mut self) -> Result<u64, OwnError> {
        while let Some((tag, body)) = self.take()? {
            match tag {
                be::NOTIFICATION => self.note(&body),
                be::NOTICE | be::PARAMETER_STATUS => {}
                be::ERROR => return Err(OwnError::Lost(OwnError::Refused(ServerError { body }).to_string())),
                _ => return Err(protocol("came unasked")),
            }
        }
        Ok(std::mem::take(&mut self.heard))
    }

    /// A session hears its own notifications, too; those tell it nothing.
    fn note(&mut self, body: &[u8]) {
        let sender = body.first_chunk::<4>().map(|pid| i32::from_be_bytes(*pid));
        self.heard += u64::from(sender.is_some_and(|pid| pid != self.conn.pid));
    }

    async fn exchange(&mut self, message: &[u8]) -> Result<Rows, OwnError> {
        let sent = self.conn.stream.write_all(message).await;
        sent.map_err(|e| OwnError::Lost(e.to_string()))?;
        let (mut answer, mut refused, mut taken) = (Rows::default(), None, 0);
        loop {
            let (tag, body) = self.next().await?;
            // A row costs more than its bytes.
            taken += body.len() + MESSAGE;
            if taken > MAX_ANSWER_BYTES {
                return Err(OwnError::Lost(format!("an answer of more than {MAX_ANSWER_BYTES} bytes")));
            }
            match tag {
                be::ROW_DESCRIPTION => answer = Rows { columns: columns(&body)?, rows: Vec::new() },
                be::DATA_ROW => answer.rows.push(values(&body)?),
                be::ERROR => refused = Some(ServerError { body }),
                be::READY if TxStatus::of_ready(&body) == Some(TxStatus::Idle) => break,
                be::READY => return Err(protocol("left a transaction open")),
                be::COPY_IN | be::COPY_OUT | be::COPY_BOTH => return Err(protocol("began a COPY")),
                be::NOTIFICATION => self.note(&body),
                _ => {}
            }
        }
        match refused {
            Some(e) => Err(OwnError::Refused(e)),
            None => Ok(answer),
        }
    }

    async fn next(&mut self) -> Result<(u8, Vec<u8>), OwnError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.watch().await?;
        }
    }

    /// The next message, if all of it is read.
    fn take(&mut self) -> Result<Option<(u8, Vec<u8>)>, OwnError> {
        let max = u32::try_from(MAX_ANSWER_BYTES).unwrap_or(u32::MAX);
        let h = frame::header(&self.buf, max);
        let h = h.map_err(|b| OwnError::Lost(format!("a message announces {} bytes", b.length)))?;
        let Some(h) = h.filter(|h| self.buf.len() >= h.total) else { return Ok(None) };
        let rest = self.buf.split_off(h.total);
        let mut message = std::mem::replace(&mut self.buf, rest);
        Ok(Some((h.tag, message.split_off(frame::HEADER))))
    }

    /// Ends the session, and waits until the server has let go of it, as long as such a wait makes sense.
    pub async fn end(mut self) {
        close::see_off(&mut self.conn.stream, Goodbye::Terminate).await;
    }

    /// The socket, for those who look at it from outside.
    pub fn stream(&self) -> &Stream {
        &self.conn.stream
    }
}

fn lost(e: &Error) -> OwnError {
    OwnError::Lost(e.to_string())
}

fn protocol(why: &str) -> OwnError {
    OwnError::Lost(format!("the server's answer {why}"))
}

fn count(body: &[u8]) -> Result<(usize, &[u8]), OwnError> {
    let (n, rest) = body.split_first_chunk::<2>().ok_or_else(|| protocol("is cut short"))?;
    Ok((usize::from(u16::from_be_bytes(*n)), rest))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn columns(body: &[u8]) -> Result<Vec<String>, OwnError> {
    let (n, mut rest) = count(body)?;
    let mut names = Vec::new();
    for _ in 0..n {
        let (name, after) = frame::cstr(rest).ok_or_else(|| protocol("is cut short"))?;
        names.push(text(name));
        // Table, column, type, size, modifier, format.
        rest = after.get(18..).ok_or_else(|| protocol("is cut short"))?;
    }
    Ok(names)
}

fn values(body: &[u8]) -> Result<Vec<Option<String>>, OwnError> {
    let (n, mut rest) = count(body)?;
    let mut row = Vec::new();
    for _ in 0..n {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| protocol("is cut short"))?;
        rest = after;
        // A negative length is NULL.
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            continue;
        };
        let (value, after) = rest.split_at_checked(length).ok_or_else(|| protocol("is cut short"))?;
        row.push(Some(text(value)));
        rest = after;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_never_past_their_end() {
        let mut description = vec![0, 1];
        description.extend_from_slice(b"lag\0");
        description.extend_from_slice(&[0; 18]);
        let row = [0, 2, 0, 0, 0, 2, b'4', b'2', 0xff, 0xff, 0xff, 0xff];
        let rows = Rows {
            columns: columns(&description).expect("a description"),
            rows: vec![values(&row).expect("a row")],
        };
        assert_eq!((rows.get(0, "lag"), rows.get(0, "none"), rows.get(1, "lag")), (Some("42"), None, None));
        assert_eq!(rows.rows, [[Some("42".to_owned()), None]]);
        for cut in 0..row.len() {
            assert!(values(&row[..cut]).is_err(), "{cut}");
        }
        for cut in 0..description.len() {
            assert!(columns(&description[..cut]).is_err(), "{cut}");
        }
    }
}
