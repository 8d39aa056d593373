//! Statements of Howdah's own on a connection that clients use: what is set in the session, what else it holds, and
//! what has to be set or reset. What they have to say is decided in [`crate::proto::session`] and
//! [`crate::proto::holdings`].

use std::sync::Arc;

use crate::error::ServerError;
use crate::proto::encode;
use crate::proto::frame::{self, be};
use crate::proto::holdings::{self, Holdings};
use crate::proto::params::ParamSet;
use crate::proto::pipeline::{Expect, TxStatus};
use crate::proto::session::{self, ParamChange, Scope};
use crate::relay::broken::Broken;
use crate::relay::down;
use crate::relay::state::Unnamed;
use crate::server::conn::ServerConn;

/// What the server says was set in the session, with its values. The caller bounds the time.
pub async fn ask_session(conn: &mut ServerConn) -> Result<ParamSet, Broken> {
    let sql = session::question(&conn.state.standing());
    let mut answers = queries(conn, &[sql]).await?;
    session_of(answers.pop(), &conn.user)
}

/// The answer to the question for what was set, in a session of this login.
fn session_of(answer: Option<Answer>, login: &str) -> Result<ParamSet, Broken> {
    let Some(answer) = answer.filter(|a| a.error.is_none()) else { return Err("parameter_source".into()) };
    let mut set = ParamSet::default();
    for row in answer.rows {
        // A parameter of an application that was never set has no value.
        let mut columns = row.into_iter();
        if let (Some(Some(name)), Some(Some(value))) = (columns.next(), columns.next()) {
            let name = String::from_utf8(name).map_err(|_| "parameter_source")?;
            let value = session::unhex(&value).ok_or("parameter_source")?;
            // The identity is asked for by name, and may be the login's own.
            let own = match name.as_str() {
                "role" => value == b"none",
                "session_authorization" => value == login.as_bytes(),
                _ => false,
            };
            if !own {
                set.set(&name, &value);
            }
        }
    }
    Ok(set)
}

/// What a session's own limits leave no time for is asked in a transaction that has none.
const BEGIN_UNLIMITED: &str = "BEGIN READ ONLY";
const LIMITS: &str =
    "SELECT pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('lock_timeout')";
/// For what Howdah itself asks or says in a transaction of its client's session.
pub const UNLIMIT: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// It was cancelled, or a lock was not to be had in time.
fn was_limited(e: &ServerError) -> bool {
    matches!(e.sqlstate(), b"57014" | b"55P03")
}

/// Statements of our own, each in a message of its own, all in one write.
async fn queries<S: AsRef<str>>(conn: &mut ServerConn, texts: &[S]) -> Result<Vec<Answer>, Broken> {
    let mut out = Vec::new();
    for sql in texts {
        out.extend_from_slice(&encode::query(sql.as_ref()).map_err(|_| "parameter_encoding")?);
    }
    ask_all(conn, out, texts.len()).await
}

/// Runs texts of our own, whose bytes are in the client's encoding; none of them may fail. What is heard meanwhile is
/// kept.
pub async fn run(conn: &mut ServerConn, texts: &[Vec<u8>]) -> Result<(), Broken> {
    let mut out = Vec::new();
    for text in texts {
        out.extend_from_slice(&encode::query_bytes(text).map_err(|_| "parameter_encoding")?);
    }
    match ask_all(conn, out, texts.len()).await?.into_iter().find_map(|a| a.error) {
        None => Ok(()),
        Some(e) => Err(Broken { label: "listen_refused", bound: Some(e.summary().into()) }),
    }
}

/// Both questions in one write: what is set, and what else the session holds.
pub async fn ask_everything(
    conn: &mut ServerConn,
    follow: bool,
) -> Result<(ParamSet, Holdings, bool), Broken> {
    let questions = [session::question(&conn.state.standing()), holdings::question()];
    let mut answers = queries(conn, &questions).await?;
    let mut limits = Vec::new();
    if answers.iter().any(|a| a.error.as_ref().is_some_and(was_limited)) {
        // The session's own limits are too short for a question.
        let [session, held] = &questions;
        let mut all = queries(conn, &[BEGIN_UNLIMITED, LIMITS, UNLIMIT, session, held, "COMMIT"]).await?;
        let rows = |a: &mut Answer| a.rows.pop().unwrap_or_default();
        limits = all.get_mut(1).map(rows).unwrap_or_default();
        answers = all.drain(..).skip(3).take(2).collect();
    }
    let held = answers.pop().filter(|a| a.error.is_none()).ok_or("parameter_source")?;
    let mut set = session_of(answers.pop(), &conn.user)?;
    for (name, value) in ["statement_timeout", "lock_timeout"].into_iter().zip(limits) {
        set.set(name, &value.ok_or("parameter_source")?);
    }
    let pools = &conn.state.pool_holds;
    let (held, complete) = holdings::read(held.rows, follow, &mut set, pools).ok_or("parameter_source")?;
    Ok((set, held, complete))
}

/// Behind `on_connect`, on a session in which nothing else is set: all that is set is the pool's. The caller bounds
/// the time.
pub async fn ask_pool_set(conn: &mut ServerConn) -> Result<(), Broken> {
    conn.state.defaults = conn.state.view.clone();
    conn.state.pool_holds = Arc::default();
    let (set, held, _) = ask_everything(conn, false).await?;
    conn.state.pool_set = Arc::new(set);
    conn.state.pool_holds = Arc::new(held);
    Ok(())
}

/// Undoes whatever clients have set on a connection, behind a `reset_query` that does not do it itself. The caller
/// bounds the time.
pub async fn undo_all(conn: &mut ServerConn, nothing: Arc<ParamSet>) -> Result<(), Broken> {
    let set = ask_session(conn).await?;
    let found = session::settled(&nothing, &nothing, &conn.state.standing(), &set, Scope::Reported);
    conn.state.new_defaults(Arc::new(found.defaults));
    let left = found.applied.iter().chain(found.overrides.iter()).map(|(n, _)| Box::from(n));
    conn.state.doubtful = left.collect();
    conn.state.applied = nothing.clone();
    let list = session::changes(&conn.state.standing(), &nothing, &nothing);
    if !list.is_empty() && change(conn, &list).await?.iter().any(|a| a.error.is_some()) {
        return Err("reset_failed".into());
    }
    conn.state.nothing_applied(nothing);
    conn.state.view_changed = false;
    Ok(())
}

/// A question whose answer is only that there is one.
pub async fn ask(conn: &mut ServerConn, sql: &str) -> Result<(), Broken> {
    match queries(conn, &[sql]).await?.pop().and_then(|a| a.error) {
        None => Ok(()),
        Some(_) => Err("check_failed".into()),
    }
}

/// One statement for each change, all in one write, so that it is known which of them failed.
pub async fn change(conn: &mut ServerConn, list: &[ParamChange]) -> Result<Vec<Answer>, Broken> {
    let texts: Vec<String> = list.iter().map(session::statement).collect();
    queries(conn, &texts).await
}

/// What is kept of the rows, notices and errors of all answers: there are some hundred names of parameters.
const MOST_ANSWER: usize = 1024 * 1024;

/// What a value costs beside its bytes.
const ROW: usize = 32;

/// What the server says to a statement of ours.
#[derive(Debug, Default)]
pub struct Answer {
    pub error: Option<ServerError>,
    /// Its NoticeResponses.
    pub notices: Vec<u8>,
    rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl Answer {
    /// What a parameter was set to, where that was the question.
    pub fn last_value(mut self) -> Result<Option<Vec<u8>>, Broken> {
        let first = self.rows.pop().and_then(|row| row.into_iter().next()).flatten();
        first.map(|hex| session::unhex(&hex).ok_or_else(|| "parameter_source".into())).transpose()
    }
}

/// Sends `n` simple Queries and reads to the last ReadyForQuery.
async fn ask_all(conn: &mut ServerConn, queries: Vec<u8>, n: usize) -> Result<Vec<Answer>, Broken> {
    // A simple Query drops it.
    conn.state.unnamed = Unnamed::Nobody;
    for _ in 0..n {
        conn.state.pipeline.sent(Expect::OwnQuery);
    }
    conn.stream.write_all(&queries).await.map_err(|_| "write_failed")?;
    let mut answers = Vec::new();
    let (mut answer, mut kept) = (Answer::default(), 0);
    let mut buf = Vec::new();
    // Behind the last answer a part of a notification may have come; nobody else would know what its rest is.
    while answers.len() < n || !buf.is_empty() {
        match conn.stream.read_some(&mut buf).await {
            Ok(0) => return Err("eof".into()),
            Ok(_) => {}
            Err(_) => return Err("read_failed".into()),
        }
        let mut at = 0;
        while let Some(h) =
            frame::header(buf.get(at..).unwrap_or_default(), 1 << 20).map_err(|_| "protocol")?
        {
            let Some(message) = buf.get(at..at + h.total) else { break };
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match h.tag {
                be::PARAMETER_STATUS => {
                    let (n, v) = down::parameter(body).map_err(|_| "protocol")?;
                    let kept = conn.state.on_parameter(n, v);
                    kept.map_err(|e| Broken {
                        label: conn.reports_too_much(&e),
                        bound: Some(e.to_string().into()),
                    })?;
                }
                be::ERROR => {
                    kept += message.len();
                    conn.state.pipeline.on_error(&mut Vec::new());
                    answer.error = Some(ServerError { body: body.to_vec() });
                }
                be::READY => {
                    let status = body.first().copied().and_then(TxStatus::from_byte).ok_or("protocol")?;
                    conn.state.pipeline.on_ready(status).map_err(|_| "protocol")?;
                    answers.push(std::mem::take(&mut answer));
                }
                be::NOTICE => {
                    kept += message.len();
                    answer.notices.extend_from_slice(message);
                }
                be::NOTIFICATION => {
                    // Its client listens, and hears it behind the question.
                    kept += message.len();
                    conn.state.heard.extend_from_slice(message);
                }
                tag => {
                    if tag == be::DATA_ROW {
                        let row = columns(body).ok_or("protocol")?;
                        kept += row.iter().map(|v| ROW + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
                        answer.rows.push(row);
                    }
                    conn.state.pipeline.on_message(tag).map_err(|_| "protocol")?;
                }
            }
            if kept > MOST_ANSWER {
                return Err(Broken {
                    label: "answer_too_long",
                    bound: Some(
                        format!("its answers take {kept} bytes, and at most {MOST_ANSWER} are kept of them")
                            .into(),
                    ),
                });
            }
            at += h.total;
        }
        buf.drain(..at);
    }
    if answers.len() == n { Ok(answers) } else { Err("protocol".into()) }
}

/// The values of a DataRow.
fn columns(row: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let (n, mut rest) = row.split_first_chunk::<2>()?;
    let mut all = Vec::new();
    for _ in 0..u16::from_be_bytes(*n) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            all.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length)?;
        all.push(Some(value.to_vec()));
        rest = after;
    }
    Some(all)
}
