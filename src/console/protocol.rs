//! The console's side of the simple and the extended protocol (PostgreSQL documentation, 54.2): messages in,
//! answers and commands to be run out; without I/O.

use std::collections::HashMap;

use bytes::BytesMut;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery as ext;
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, NoticeResponse};

use super::command;
use super::message::{Message, Target};
use super::rows::{self, Column, Formats, Row};
use super::table::{self, Command};
use crate::config::resolved::Profile;
use crate::error::{Error, Refusal, Report, SqlState, report};
use crate::proto::encode;
use crate::proto::frame;
use crate::proto::pipeline::TxStatus;

/// Longest message that a console client may send.
const MAX_MESSAGE: u32 = 16 * 1024;
/// Statements and portals that one client may hold.
const MAX_HELD: usize = 1000;

/// What running a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Rows {
        columns: &'static [Column],
        rows: Vec<Row>,
    },
    Done {
        tag: String,
    },
    /// A notice with a DETAIL, and the tag.
    Told {
        notice: String,
        detail: String,
        tag: String,
    },
}

impl Answer {
    pub(super) fn done(tag: &str) -> Self {
        Self::Done { tag: tag.to_owned() }
    }
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing, until more bytes are there.
    NeedMore,
    Send(Vec<u8>),
    /// Run it and hand the outcome to [`Dialogue::ran`].
    Run(Command),
    End,
}

enum Running {
    Simple,
    /// The portal of this name, so many rows at most; 0 is all.
    Portal(String, usize),
}

struct Portal {
    command: Command,
    formats: Formats,
    /// What is left of it, once it has run.
    rows: Option<std::vec::IntoIter<Row>>,
}

/// One client of the console.
pub(super) struct Dialogue {
    profile: Profile,
    /// Columns that PgBouncer does not have are shown.
    all_columns: bool,
    statements: HashMap<String, Command>,
    portals: HashMap<String, Portal>,
    running: Option<Running>,
    /// An error was answered in the extended protocol.
    skip_to_sync: bool,
    /// The errors that were answered.
    refused: Vec<Error>,
}

impl Dialogue {
    pub(super) fn new(profile: Profile, all_columns: bool) -> Self {
        Self {
            profile,
            all_columns,
            statements: HashMap::new(),
            portals: HashMap::new(),
            running: None,
            skip_to_sync: false,
            refused: Vec::new(),
        }
    }

    /// The errors that were answered since the last call, for the metric and the log.
    pub(super) fn take_refused(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.refused)
    }

    /// Takes one message from the front of `buf`. An error ends the connection.
    pub(super) fn next(&mut self, buf: &mut BytesMut) -> Result<Step, Error> {
        let violation = |why: String| Err(Error::ProtocolViolation(why));
        let Some(&tag) = buf.first() else { return Ok(Step::NeedMore) };
        let Some(limit) = frame::frontend_limit(tag, MAX_MESSAGE) else {
            return violation(format!("invalid frontend message type {tag} on the console"));
        };
        let header = match frame::header(buf, limit) {
            Ok(Some(h)) if buf.len() >= h.total => h,
            Ok(_) => return Ok(Step::NeedMore),
            Err(bad) => {
                return violation(format!(
                    "a message of {} bytes on the console, which takes {limit}",
                    bad.length
                ));
            }
        };
        let message = buf.split_to(header.total);
        if self.skip_to_sync && !matches!(tag, frame::fe::SYNC | frame::fe::TERMINATE) {
            return Ok(Step::Send(Vec::new()));
        }
        match Message::read(tag, message.get(frame::HEADER..).unwrap_or_default()) {
            Some(m) => self.on(m),
            None => violation(format!("invalid message of type '{}' on the console", char::from(tag))),
        }
    }

    fn on(&mut self, message: Message) -> Result<Step, Error> {
        let done = match message {
            Message::Query(text) => {
                // As in PostgreSQL, a simple query ends the unnamed ones.
                self.statements.remove("");
                self.portals.remove("");
                match command::parse(&text).and_then(|s| table::resolve(&text, s)) {
                    Ok(Command::Empty) => Ok([rows::encode(&EmptyQueryResponse::new()), ready()].concat()),
                    Ok(command) => {
                        self.running = Some(Running::Simple);
                        return Ok(Step::Run(command));
                    }
                    Err(r) => Ok([self.refusal(&r), ready()].concat()),
                }
            }
            Message::Parse { name, text } => self.parse(name, &text),
            Message::Bind { portal, statement, parameters, formats } => {
                self.bind(portal, statement, parameters, formats)
            }
            Message::Describe(target, name) => self.describe(target, name),
            Message::Execute { portal, rows } => match self.execute(portal, rows) {
                Ok(Ok(step)) => return Ok(step),
                Ok(Err(bytes)) => Ok(bytes),
                Err(r) => Err(r),
            },
            Message::Close(Target::Statement, name) => {
                self.statements.remove(&name);
                Ok(encode::CLOSE_COMPLETE.to_vec())
            }
            Message::Close(Target::Portal, name) => {
                self.portals.remove(&name);
                Ok(encode::CLOSE_COMPLETE.to_vec())
            }
            Message::Flush => Ok(Vec::new()),
            Message::Sync => {
                self.skip_to_sync = false;
                // The implicit transaction is over, and with it its portals.
                self.portals.clear();
                Ok(ready())
            }
            Message::Terminate => return Ok(Step::End),
        };
        Ok(Step::Send(done.unwrap_or_else(|r| {
            self.skip_to_sync = true;
            self.refusal(&r)
        })))
    }

    fn parse(&mut self, name: String, text: &str) -> Result<Vec<u8>, Refusal> {
        if !name.is_empty() && (self.statements.contains_key(&name) || self.statements.len() >= MAX_HELD) {
            return Err(Refusal::StatementExists { name });
        }
        let command = command::parse(text).and_then(|s| table::resolve(text, s))?;
        self.statements.insert(name, command);
        Ok(encode::PARSE_COMPLETE.to_vec())
    }

    fn bind(
        &mut self,
        portal: String,
        statement: String,
        parameters: usize,
        formats: Vec<i16>,
    ) -> Result<Vec<u8>, Refusal> {
        let Some(command) = self.statements.get(&statement).cloned() else {
            return Err(Refusal::NoSuchStatement { name: statement });
        };
        if parameters > 0 {
            return Err(Refusal::Parameters { count: parameters });
        }
        if !portal.is_empty() && self.portals.len() >= MAX_HELD {
            return Err(Refusal::StatementExists { name: portal });
        }
        self.portals.insert(portal, Portal { command, formats: Formats(formats), rows: None });
        Ok(rows::encode(&ext::BindComplete::new()))
    }

    fn describe(&self, target: Target, name: String) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        let (command, formats) = match target {
            Target::Statement => {
                out = rows::encode(&ParameterDescription::new(Vec::new()));
                let c = self.statements.get(&name).ok_or(Refusal::NoSuchStatement { name })?;
                (c, Formats::default())
            }
            Target::Portal => {
                let p = self.portals.get(&name).ok_or(Refusal::NoSuchPortal { name })?;
                (&p.command, p.formats.clone())
            }
        };
        match command.columns() {
            Some(columns) => out.extend(rows::description(columns, self.all_columns, &formats)),
            None => out.extend(rows::encode(&NoData::new())),
        }
        Ok(out)
    }

    /// Either a command to run, or the answer.
    fn execute(&mut self, name: String, limit: usize) -> Result<Result<Step, Vec<u8>>, Refusal> {
        let Some(portal) = self.portals.get(&name) else { return Err(Refusal::NoSuchPortal { name }) };
        if portal.rows.is_some() {
            return Ok(Err(self.some_rows(&name, limit)));
        }
        if portal.command == Command::Empty {
            return Ok(Err(rows::encode(&EmptyQueryResponse::new())));
        }
        let command = portal.command.clone();
        self.running = Some(Running::Portal(name, limit));
        Ok(Ok(Step::Run(command)))
    }

    /// The outcome of the command that was to be run.
    pub(super) fn ran(&mut self, outcome: Result<Answer, Refusal>) -> Vec<u8> {
        match self.running.take() {
            Some(Running::Simple) | None => {
                let mut out = match outcome {
                    Ok(Answer::Rows { columns, rows }) => {
                        let formats = Formats::default();
                        let mut out = rows::description(columns, self.all_columns, &formats);
                        for row in &rows {
                            out.extend(rows::data(columns, row, self.all_columns, &formats));
                        }
                        out.extend(complete("SHOW"));
                        out
                    }
                    Ok(other) => told(&other),
                    Err(r) => self.refusal(&r),
                };
                out.extend(ready());
                out
            }
            Some(Running::Portal(name, limit)) => match outcome {
                Ok(Answer::Rows { rows, .. }) => {
                    if let Some(p) = self.portals.get_mut(&name) {
                        p.rows = Some(rows.into_iter());
                    }
                    self.some_rows(&name, limit)
                }
                Ok(other) => told(&other),
                Err(r) => {
                    self.skip_to_sync = true;
                    self.refusal(&r)
                }
            },
        }
    }

    /// The next rows of a portal.
    fn some_rows(&mut self, name: &str, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(Portal { command, formats, rows: Some(rows) }) = self.portals.get_mut(name) else {
            return out;
        };
        let columns = command.columns().unwrap_or_default();
        let mut n = 0;
        while limit == 0 || n < limit {
            let Some(row) = rows.next() else { break };
            out.extend(rows::data(columns, &row, self.all_columns, formats));
            n += 1;
        }
        if limit > 0 && n == limit && rows.len() > 0 {
            out.extend(rows::encode(&ext::PortalSuspended::new()));
        } else {
            out.extend(complete("SHOW"));
        }
        out
    }

    fn refusal(&mut self, r: &Refusal) -> Vec<u8> {
        let e = Error::Console(r.clone());
        let response = encode::error_response(&self.in_profile(report(&e)));
        self.refused.push(e);
        response
    }

    /// PgBouncer knows one SQLSTATE for nearly everything.
    pub(super) fn in_profile(&self, r: Report) -> Report {
        if self.profile == Profile::PgBouncer && r.sqlstate != SqlState::CONFIG_FILE_ERROR {
            return Report { sqlstate: SqlState::PROTOCOL_VIOLATION, ..r };
        }
        r
    }
}

fn told(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Rows { .. } => Vec::new(),
        Answer::Done { tag } => complete(tag),
        Answer::Told { notice, detail, tag } => {
            let mut fields = vec![
                (b'S', "NOTICE".to_owned()),
                (b'V', "NOTICE".to_owned()),
                (b'C', "00000".to_owned()),
                (b'M', notice.clone()),
            ];
            if !detail.is_empty() {
                fields.push((b'D', detail.clone()));
            }
            let mut out = rows::encode(&NoticeResponse::new(fields));
            out.extend(complete(tag));
            out
        }
    }
}

fn complete(tag: &str) -> Vec<u8> {
    rows::encode(&CommandComplete::new(tag.replace('\0', "\u{fffd}")))
}

fn ready() -> Vec<u8> {
    encode::ready_for_query(TxStatus::Idle).to_vec()
}

#[cfg(test)]
mod tests;
