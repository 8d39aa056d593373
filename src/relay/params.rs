//! Brings a server's parameters to what its next client wants, before the client's first message is sent: a
//! statement must never run under somebody else's settings.

use std::sync::Arc;
use std::time::Duration;

use crate::client::ctl::ClientCtl;
use crate::error::ServerError;
use crate::net::lane::Lane;
use crate::proto::frame::{self, be};
use crate::proto::params::{self, ParamChange, ParamSet};
use crate::proto::pipeline::{Expect, TxStatus};
use crate::proto::{encode, startup};
use crate::relay::down;
use crate::relay::state::{ClientProto, Unnamed};
use crate::server::conn::ServerConn;
use crate::services::Services;

/// The usual case: the server is as this client left it, or as one like it did.
#[inline]
pub fn in_step(c: &ClientProto, conn: &ServerConn) -> bool {
    Arc::ptr_eq(&conn.state.applied, &c.overrides) && Arc::ptr_eq(&conn.state.view, &c.view)
}

/// The first parameter that the server refused, with its words.
#[derive(Debug)]
pub struct Refused(pub ServerError);

/// Sets and resets what differs; tells the client what it sees changed. What the server refuses is no longer
/// asked for.
pub async fn bring_into_step(
    services: &Services,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    down: &mut Lane,
    limit: Duration,
) -> Result<Option<Refused>, &'static str> {
    let mut wanted = (*c.overrides).clone();
    let list = params::changes(&conn.state.applied, &wanted, &conn.state.view, &conn.state.defaults);
    let mut refused = None;
    // What is in force where one of ours has failed: what the last client set there is still to be undone.
    let mut in_force = None;
    if !list.is_empty() {
        services.counters.count("parameter_syncs_total", "");
        let failed = match tokio::time::timeout(limit, apply(conn, &list)).await {
            Ok(r) => r?,
            Err(_) => return Err("parameter_timeout"),
        };
        if failed.iter().any(Option::is_some) {
            in_force = Some(after(&conn.state.applied, &list, &failed));
        }
        let failed_ones: Vec<&str> =
            list.iter().zip(&failed).filter(|(_, e)| e.is_some()).map(|(c, _)| &*c.name).collect();
        for (change, e) in list.iter().zip(failed) {
            let Some(e) = e else { continue };
            services.counters.count("parameter_refused_total", "");
            if e.sqlstate() != b"57014" {
                wanted.remove(&change.name);
            }
            refused.get_or_insert(Refused(e));
        }
        note_defaults(conn, &list, &failed_ones);
        // The server may spell a value otherwise; its spelling is the one to compare with from now on.
        for (name, _) in wanted.clone().iter().filter(|(n, _)| !failed_ones.contains(n)) {
            if let Some(v) = conn.state.view.get(name) {
                wanted.set(name, v);
            }
        }
    }
    adopt(services, ctl, c, conn, wanted);
    if let Some(set) = in_force {
        conn.state.applied = services.params.intern(set);
    }
    conn.state.view_changed = false;
    tell(c, conn, down);
    Ok(refused)
}

/// What a RESET led to is the server's default now, whatever it was at its login.
fn note_defaults(conn: &mut ServerConn, list: &[ParamChange], failed: &[&str]) {
    let s = &mut conn.state;
    for change in list.iter().filter(|c| c.value.is_none() && !failed.contains(&&*c.name)) {
        if let Some(now) = s.view.get(&change.name)
            && s.defaults.get(&change.name) != Some(now)
        {
            let mut d = (*s.defaults).clone();
            d.set(&change.name, now);
            s.defaults = Arc::new(d);
        }
    }
}

/// The overrides in force after those changes that did not fail.
fn after(before: &ParamSet, list: &[ParamChange], failed: &[Option<ServerError>]) -> ParamSet {
    let mut set = before.clone();
    for (change, _) in list.iter().zip(failed).filter(|(_, e)| e.is_none()) {
        match &change.value {
            Some(v) => set.set(&change.name, v),
            None => set.remove(&change.name),
        };
    }
    set
}

fn adopt(
    services: &Services,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    overrides: ParamSet,
) {
    let overrides = services.params.intern(overrides);
    if let Some(name) = conn.state.view.get("application_name")
        && c.view.get("application_name") != Some(name)
    {
        ctl.set_application_name(&String::from_utf8_lossy(name));
    }
    conn.state.applied = overrides.clone();
    c.overrides = overrides;
    conn.state.view = services.params.intern((*conn.state.view).clone());
}

/// ParameterStatus for everything that the client has seen otherwise.
fn tell(c: &mut ClientProto, conn: &ServerConn, down: &mut Lane) {
    if Arc::ptr_eq(&c.view, &conn.state.view) {
        return;
    }
    for (name, value) in conn.state.view.iter() {
        if c.view.get(name) != Some(value) {
            let out = down.insert();
            out.push(be::PARAMETER_STATUS);
            out.extend_from_slice(&frame::length(name.len() + value.len() + 2));
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.extend_from_slice(value);
            out.push(0);
        }
    }
    c.view = conn.state.view.clone();
}

/// Whether it cannot be told who changed what the server reports: a parameter is neither as the client had it nor as
/// the server has it by default, and the client has run no SET or RESET. It may have called `set_config()`; or the
/// server's configuration was reloaded, of which a backend tells with the end of the next transaction.
pub fn in_doubt(c: &ClientProto, conn: &ServerConn) -> bool {
    let s = &conn.state;
    s.view_changed
        && !c.set_in_transaction
        && s.view.iter().any(|(name, value)| {
            !params::is_fixed(name) && c.overrides.get(name).or_else(|| s.defaults.get(name)) != Some(value)
        })
}

const OF_THE_SESSION: &str = "SELECT name FROM pg_catalog.pg_settings WHERE source = 'session'";

/// Asks the server which of its parameters were set in the session; what else has changed is its new default.
pub async fn attribute(conn: &mut ServerConn, limit: Duration) -> Result<(), &'static str> {
    let query = encode::query(OF_THE_SESSION).map_err(|_| "parameter_encoding")?;
    let answer = tokio::time::timeout(limit, ask_all(conn, query, 1));
    let answer = answer.await.map_err(|_| "parameter_timeout")??;
    if answer.errors.iter().any(Option::is_some) {
        return Err("parameter_source");
    }
    let s = &mut conn.state;
    let mut defaults = (*s.defaults).clone();
    for (name, value) in s.view.iter() {
        if !answer.rows.iter().any(|r| r.eq_ignore_ascii_case(name.as_bytes())) {
            defaults.set(name, value);
        }
    }
    s.defaults = Arc::new(defaults);
    Ok(())
}

/// After a transaction in which the server reported changes: they are the client's from now on.
pub fn learn(services: &Services, ctl: &ClientCtl, c: &mut ClientProto, conn: &mut ServerConn) {
    if !conn.state.view_changed {
        return;
    }
    conn.state.view_changed = false;
    let overrides = params::overrides_after(&conn.state.defaults, &conn.state.view, &c.overrides);
    adopt(services, ctl, c, conn, overrides);
    c.view = conn.state.view.clone();
}

/// `set_config` takes a value whole; SET would take a list's commas for a part of one name.
fn statement(change: &ParamChange) -> Result<Vec<u8>, &'static str> {
    let name = startup::quote_literal(&change.name);
    let sql = match &change.value {
        Some(v) => {
            let value = std::str::from_utf8(v).map_err(|_| "parameter_encoding")?;
            format!("SELECT pg_catalog.set_config({name}, {}, false)", startup::quote_literal(value))
        }
        None => format!("RESET {}", quote_name(&change.name)),
    };
    encode::query(&sql).map_err(|_| "parameter_encoding")
}

fn quote_name(name: &str) -> String {
    name.split('.').map(|p| format!("\"{}\"", p.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

/// A question whose answer is only that there is one.
pub async fn ask(conn: &mut ServerConn, sql: &str) -> Result<(), &'static str> {
    let query = encode::query(sql).map_err(|_| "check_encoding")?;
    match ask_all(conn, query, 1).await?.errors.pop().flatten() {
        None => Ok(()),
        Some(_) => Err("check_failed"),
    }
}

/// One statement for each change, all in one write, so that it is known which of them failed.
async fn apply(
    conn: &mut ServerConn,
    list: &[ParamChange],
) -> Result<Vec<Option<ServerError>>, &'static str> {
    let mut out = Vec::new();
    for change in list {
        out.extend_from_slice(&statement(change)?);
    }
    ask_all(conn, out, list.len()).await.map(|a| a.errors)
}

/// What is kept of the rows of an answer: there are some hundred names of parameters.
const MOST_ANSWER: usize = 1024 * 1024;
/// What a row costs beside its value.
const ROW: usize = 32;

/// What the server says to statements of ours.
#[derive(Default)]
struct Answer {
    /// For each statement, the error that it met.
    errors: Vec<Option<ServerError>>,
    /// The first value of each row.
    rows: Vec<Vec<u8>>,
}

/// Sends `n` simple Queries and reads to the last ReadyForQuery.
async fn ask_all(conn: &mut ServerConn, queries: Vec<u8>, n: usize) -> Result<Answer, &'static str> {
    // A simple Query drops it.
    conn.state.unnamed = Unnamed::Nobody;
    for _ in 0..n {
        conn.state.pipeline.sent(Expect::OwnQuery);
    }
    conn.stream.write_all(&queries).await.map_err(|_| "write_failed")?;
    let mut answer = Answer::default();
    let (mut error, mut kept) = (None, 0);
    let mut buf = Vec::new();
    while answer.errors.len() < n {
        match conn.stream.read_some(&mut buf).await {
            Ok(0) => return Err("eof"),
            Ok(_) => {}
            Err(_) => return Err("read_failed"),
        }
        let mut at = 0;
        while let Some(h) =
            frame::header(buf.get(at..).unwrap_or_default(), 1 << 20).map_err(|_| "protocol")?
        {
            let Some(body) = buf.get(at + frame::HEADER..at + h.total) else { break };
            match h.tag {
                be::PARAMETER_STATUS => {
                    let (n, v) = down::parameter(body).map_err(|_| "protocol")?;
                    let kept = conn.state.on_parameter(n, v);
                    kept.map_err(|e| conn.reports_too_much(&e))?;
                }
                be::ERROR => {
                    conn.state.pipeline.on_error(&mut Vec::new());
                    error = Some(ServerError { body: body.to_vec() });
                }
                be::READY => {
                    let status = body.first().copied().and_then(TxStatus::from_byte).ok_or("protocol")?;
                    conn.state.pipeline.on_ready(status).map_err(|_| "protocol")?;
                    answer.errors.push(error.take());
                }
                be::NOTICE | be::NOTIFICATION => {}
                tag => {
                    if tag == be::DATA_ROW {
                        let value = first_value(body).ok_or("protocol")?;
                        kept += ROW + value.len();
                        if kept > MOST_ANSWER {
                            return Err("answer_too_long");
                        }
                        answer.rows.push(value.to_vec());
                    }
                    conn.state.pipeline.on_message(tag).map_err(|_| "protocol")?;
                }
            }
            at += h.total;
        }
        buf.drain(..at);
    }
    if buf.is_empty() { Ok(answer) } else { Err("protocol") }
}

/// Of a DataRow; nothing of one that is NULL.
fn first_value(row: &[u8]) -> Option<&[u8]> {
    let (length, rest) = row.get(2..)?.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0))
}
