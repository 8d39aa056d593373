//! The replies that one server connection still owes, in order: the one place that knows where a connection
//! stands in the protocol (PostgreSQL documentation, 54.2 Message Flow).
//!
//! Every message that reaches the server and will be answered leaves an [`Expect`] here. The server's messages
//! take them off again. An ErrorResponse in the extended protocol takes off everything up to the next Sync,
//! because the server skips it; what was taken off is handed back, so that its effects can be undone.
//!
//! Invariant: [`Pipeline::at_boundary`] is true exactly when the server owes nothing and is outside of a
//! transaction; only then may the connection change hands.

use std::collections::VecDeque;

use super::frame::be;

mod expect;

pub use expect::{Compared, Duplicate, Expect, Named};

/// The transaction status of the last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TxStatus {
    pub fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            b'I' => Self::Idle,
            b'T' => Self::InTransaction,
            b'E' => Self::Failed,
            _ => return None,
        })
    }

    /// What the body of a ReadyForQuery says.
    pub fn of_ready(body: &[u8]) -> Option<Self> {
        body.first().copied().and_then(Self::from_byte)
    }

    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// What a server message means for the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Forward,
    Swallow,
    /// Forward this ErrorResponse body instead.
    Replace(Box<[u8]>),
}

/// The server sent what it cannot have sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unexpected {
    pub tag: u8,
}

/// See the module.
#[derive(Debug)]
pub struct Pipeline {
    queue: VecDeque<Expect>,
    status: TxStatus,
    /// The front entry has answered CopyInResponse.
    copy_in: bool,
    copy_out: bool,
    /// An error came with no Sync behind it yet: the server skips until one comes.
    skipping: bool,
    /// The number of ReadyForQuery to come cannot be known (a Sync inside a COPY that failed).
    uncertain: bool,
    /// Syncs that may be answered yet.
    maybe_answered: u32,
    /// Syncs that were sent while the server waits for CopyData. It ignores them as long as the COPY does not fail; they
    /// are counted and take no place in the queue, so that there may be any number of them.
    copy_syncs: u32,
    /// The server got messages of the extended protocol and no Sync behind them. Answered or not, they have
    /// begun a transaction that ReadyForQuery has not told of, and that the next Sync or Query commits.
    unsynced: bool,
    /// It got a Query in a batch whose Sync has not come. From PostgreSQL 17 on the batch's transaction goes on after it.
    query_in_batch: bool,
    /// It got a Close and no Sync behind it. A Close begins no transaction, but the server keeps its answer back.
    unflushed: bool,
    /// Syncs that were sent, and those that were answered or ignored.
    syncs_sent: u64,
    syncs_done: u64,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            status: TxStatus::Idle,
            copy_in: false,
            copy_out: false,
            skipping: false,
            uncertain: false,
            maybe_answered: 0,
            copy_syncs: 0,
            unsynced: false,
            query_in_batch: false,
            unflushed: false,
            syncs_sent: 0,
            syncs_done: 0,
        }
    }
}

impl Pipeline {
    pub fn status(&self) -> TxStatus {
        self.status
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The server is waiting for CopyData, and no end of it is on its way.
    pub fn wants_copy_data(&self) -> bool {
        self.copy_in && !self.queue.iter().any(|e| matches!(e, Expect::CopyEnd))
    }

    /// Messages are skipped by the server until a Sync.
    pub fn skipping(&self) -> bool {
        self.skipping
    }

    /// A Sync must come before the server is done with what it has.
    pub fn sync_owed(&self) -> bool {
        self.skipping || self.unsynced || (self.unflushed && !self.queue.is_empty())
    }

    /// Whether a Sync would end a batch of the client's; nothing is owed.
    pub fn in_batch(&self) -> bool {
        self.sync_owed() || (self.query_in_batch && self.status != TxStatus::Idle)
    }

    /// The number of the batch that the next message belongs to. Batches end with a Sync.
    pub fn batch(&self) -> u64 {
        self.syncs_sent
    }

    /// The batch is before the present one and not answered yet: the server may still skip a part of it.
    pub fn may_be_skipped(&self, batch: u64) -> bool {
        (self.syncs_done..self.syncs_sent).contains(&batch)
    }

    /// Nothing is owed and no transaction is open.
    #[inline]
    pub fn at_boundary(&self) -> bool {
        self.queue.is_empty()
            && self.status == TxStatus::Idle
            && !self.skipping
            && !self.uncertain
            && !self.unsynced
    }

    /// The server owes nothing and no transaction is open; Howdah may owe its client answers of its own.
    #[inline]
    pub fn server_at_boundary(&self) -> bool {
        self.at_boundary() || self.owes_only_local()
    }

    fn owes_only_local(&self) -> bool {
        let is_idle = self.status == TxStatus::Idle && !self.skipping && !self.uncertain && !self.unsynced;
        is_idle && self.queue.iter().all(Expect::is_local)
    }

    /// How many ReadyForQuery are still to come, as far as is known.
    pub fn ready_owed(&self) -> usize {
        self.queue
            .iter()
            .filter(|e| {
                matches!(
                    e,
                    Expect::Query
                        | Expect::Function
                        | Expect::OwnQuery
                        | Expect::Sync
                        | Expect::OwnSync
                        | Expect::Probe { .. }
                )
            })
            .count()
    }

    /// A message was sent that will be answered so.
    #[inline]
    pub fn sent(&mut self, e: Expect) {
        match e {
            Expect::Sync if self.wants_copy_data() => {
                self.unsynced = false;
                self.syncs_sent += 1;
                self.copy_syncs = self.copy_syncs.saturating_add(1);
                return;
            }
            Expect::Sync | Expect::OwnSync => {
                self.skipping = false;
                self.unsynced = false;
                self.query_in_batch = false;
                self.unflushed = false;
                self.syncs_sent += 1;
            }
            // The server reads them and says nothing.
            _ if self.skipping => return,
            // A simple Query ends the implicit transaction of a batch before it.
            Expect::Query | Expect::Function | Expect::OwnQuery | Expect::Probe { .. } => {
                // That of an earlier batch is over where nothing is owed and no transaction is open.
                if self.query_in_batch && self.status == TxStatus::Idle && self.queue.is_empty() {
                    self.query_in_batch = false;
                }
                self.query_in_batch |= self.unsynced;
                self.unsynced = false;
                self.unflushed = false;
            }
            Expect::CopyData => {
                if self.queue.is_empty() || matches!(self.queue.back(), Some(Expect::CopyData)) {
                    return;
                }
            }
            Expect::CopyEnd => {
                if self.queue.is_empty() {
                    return;
                }
            }
            Expect::LocalParse(_) | Expect::LocalClose(_) => {}
            Expect::InjectedClose(_)
            | Expect::InjectedCloseUnnamed
            | Expect::ClosePortal
            | Expect::CloseUnnamed => self.unflushed = true,
            Expect::ParseUnnamed
            | Expect::ParseNamed(_)
            | Expect::ParseDuplicate(_)
            | Expect::Unknown(_)
            | Expect::InjectedParse(_)
            | Expect::InjectedDescribe(_)
            | Expect::InjectedUnnamed
            | Expect::Bind(_)
            | Expect::Describe(_)
            | Expect::Execute
            | Expect::Malformed
            | Expect::QuietParse
            | Expect::QuietProvoked
            | Expect::Provoked(_) => self.unsynced = true,
        }
        self.queue.push_back(e);
    }

    /// Takes off the local replies whose turn has come; the caller sends them in this order.
    #[inline]
    pub fn pop_local(&mut self) -> Option<Expect> {
        if self.queue.front().is_some_and(Expect::is_local) { self.pop() } else { None }
    }

    fn pop(&mut self) -> Option<Expect> {
        let e = self.queue.pop_front();
        self.drop_copy_marks();
        e
    }

    /// CopyData and CopyDone outside of a COPY are ignored by the server.
    fn drop_copy_marks(&mut self) {
        while matches!(self.queue.front(), Some(Expect::CopyData | Expect::CopyEnd)) {
            self.queue.pop_front();
        }
    }

    /// Syncs were ignored: if there is none behind them, the Execute of the COPY waits for another.
    fn ignored_syncs(&mut self, n: u32) {
        self.syncs_done += u64::from(n);
        let synced =
            |e: &Expect| matches!(e, Expect::Sync | Expect::OwnSync | Expect::Query | Expect::Function);
        if matches!(self.queue.front(), Some(Expect::Execute)) && !self.queue.iter().any(synced) {
            self.unsynced = true;
        }
    }

    /// The COPY of the front entry has ended well: Syncs read inside of it were ignored by the server.
    ///
    /// When it `failed`, whether a Sync that was sent before the end of the data was read inside the COPY and ignored,
    /// or after the failure and is answered, cannot be known.
    fn end_copy_in(&mut self, failed: bool) {
        self.copy_in = false;
        let inside = std::mem::take(&mut self.copy_syncs);
        if inside > 0 {
            self.ignored_syncs(inside);
            if failed {
                self.maybe_answered = self.maybe_answered.saturating_add(inside);
                self.uncertain = true;
            }
        }
        let mut i = 1;
        while let Some(e) = self.queue.get(i) {
            match e {
                Expect::CopyEnd => {
                    self.queue.remove(i);
                    return;
                }
                Expect::CopyData => {
                    self.queue.remove(i);
                }
                Expect::OwnSync if failed => i += 1,
                Expect::Sync | Expect::OwnSync => {
                    self.queue.remove(i);
                    self.ignored_syncs(1);
                    if failed {
                        self.maybe_answered += 1;
                        self.uncertain = true;
                    }
                }
                _ => i += 1,
            }
        }
    }

    /// A COPY has begun: the Syncs that follow it in the queue are read inside of it.
    fn count_copy_syncs(&mut self) {
        while let Some(Expect::Sync | Expect::CopyData) = self.queue.get(1) {
            if let Some(Expect::Sync) = self.queue.remove(1) {
                self.copy_syncs = self.copy_syncs.saturating_add(1);
            }
        }
    }

    /// Answers may come that nobody can count: an empty Query tells, for they come before its own answer.
    pub fn needs_probe(&self) -> bool {
        self.uncertain && self.queue.is_empty() && !self.skipping
    }

    /// One message of the server, ErrorResponse and ReadyForQuery excepted. Asynchronous ones (NoticeResponse,
    /// ParameterStatus, NotificationResponse) do not come here.
    #[inline]
    pub fn on_message(&mut self, tag: u8) -> Result<Reply, Unexpected> {
        let Some(front) = self.queue.front() else { return Err(Unexpected { tag }) };
        match (tag, front) {
            (
                be::DATA_ROW
                | be::ROW_DESCRIPTION
                | be::COMMAND_COMPLETE
                | be::EMPTY_QUERY
                | be::COPY_DATA
                | be::COPY_DONE,
                Expect::Query,
            ) => {
                if tag == be::COMMAND_COMPLETE {
                    self.copy_out = false;
                    if self.copy_in {
                        self.end_copy_in(false);
                    }
                }
                Ok(Reply::Forward)
            }
            (be::DATA_ROW | be::COPY_DATA | be::COPY_DONE, Expect::Execute) => Ok(Reply::Forward),
            (be::COMMAND_COMPLETE | be::EMPTY_QUERY | be::PORTAL_SUSPENDED, Expect::Execute) => {
                self.copy_out = false;
                if self.copy_in {
                    self.end_copy_in(false);
                }
                self.pop();
                Ok(Reply::Forward)
            }
            (be::BIND_COMPLETE, Expect::Bind(_))
            | (
                be::PARSE_COMPLETE,
                Expect::ParseUnnamed | Expect::ParseNamed(_) | Expect::ParseDuplicate(_),
            )
            | (be::CLOSE_COMPLETE, Expect::ClosePortal | Expect::CloseUnnamed)
            | (be::ROW_DESCRIPTION | be::NO_DATA, Expect::Describe(_)) => {
                self.pop();
                Ok(Reply::Forward)
            }
            (be::PARAMETER_DESCRIPTION, Expect::Describe(_)) => Ok(Reply::Forward),
            (be::PARAMETER_DESCRIPTION, Expect::InjectedDescribe(_)) => Ok(Reply::Swallow),
            (be::COPY_IN, Expect::Query | Expect::Execute) => {
                self.copy_in = true;
                self.count_copy_syncs();
                Ok(Reply::Forward)
            }
            (be::COPY_OUT, Expect::Query | Expect::Execute) => {
                self.copy_out = true;
                Ok(Reply::Forward)
            }
            (be::FUNCTION_RESULT, Expect::Function) => Ok(Reply::Forward),
            (be::PARSE_COMPLETE, Expect::InjectedParse(_) | Expect::InjectedUnnamed | Expect::QuietParse)
            | (be::CLOSE_COMPLETE, Expect::InjectedClose(_) | Expect::InjectedCloseUnnamed)
            | (be::ROW_DESCRIPTION | be::NO_DATA, Expect::InjectedDescribe(_)) => {
                self.pop();
                Ok(Reply::Swallow)
            }
            (
                be::DATA_ROW | be::ROW_DESCRIPTION | be::COMMAND_COMPLETE | be::EMPTY_QUERY,
                Expect::OwnQuery,
            ) => Ok(Reply::Swallow),
            (be::EMPTY_QUERY, Expect::Probe { .. }) => {
                if let Some(Expect::Probe { answered }) = self.queue.front_mut() {
                    *answered = true;
                }
                Ok(Reply::Swallow)
            }
            _ => Err(Unexpected { tag }),
        }
    }

    /// All that is owed belongs to one batch, whose Sync was sent.
    pub fn is_last_batch(&self) -> bool {
        let sync = self.queue.iter().position(|e| matches!(e, Expect::Sync));
        sync.is_some_and(|at| at + 1 == self.queue.len())
    }

    /// After an error: the one thing that is still owed is the batch's own Sync, and its answer is not for the
    /// client, because the batch will be sent again. Returns whether that was so.
    pub fn retry_batch(&mut self) -> bool {
        if self.queue.len() == 1 && matches!(self.queue.front(), Some(Expect::Sync)) {
            self.queue.clear();
            self.queue.push_back(Expect::OwnSync);
            return true;
        }
        false
    }

    /// What waits for its answer now.
    #[inline]
    pub fn front(&self) -> Option<&Expect> {
        self.queue.front()
    }

    /// What waits for its answer now, where that is a comparison of Howdah's own.
    pub fn compared(&mut self) -> Option<&mut Compared> {
        match self.queue.front_mut() {
            Some(Expect::InjectedDescribe(c)) => Some(c),
            _ => None,
        }
    }

    /// All that waits for an answer, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Expect> {
        self.queue.iter()
    }

    /// An ErrorResponse. The entry that failed comes first in `undone`, then what the server skips because of
    /// it, in order; undo them from the last to the first.
    pub fn on_error(&mut self, undone: &mut Vec<Expect>) -> Reply {
        match self.queue.front() {
            // Between transactions only a FATAL comes, and the connection ends.
            None => Reply::Forward,
            Some(Expect::Query | Expect::Function | Expect::Sync) => {
                self.copy_out = false;
                if self.copy_in {
                    self.end_copy_in(true);
                }
                Reply::Forward
            }
            Some(Expect::Probe { .. }) => {
                if let Some(Expect::Probe { answered }) = self.queue.front_mut() {
                    *answered = true;
                }
                Reply::Swallow
            }
            Some(Expect::OwnQuery | Expect::OwnSync) => Reply::Swallow,
            Some(_) => {
                if self.copy_in {
                    self.end_copy_in(true);
                }
                self.copy_out = false;
                let reply = match self.queue.front() {
                    Some(Expect::Provoked(body)) => Reply::Replace(body.clone()),
                    Some(Expect::QuietProvoked | Expect::QuietParse) => Reply::Swallow,
                    _ => Reply::Forward,
                };
                while let Some(e) = self.queue.front() {
                    if matches!(e, Expect::Sync | Expect::OwnSync) {
                        return reply;
                    }
                    undone.extend(self.queue.pop_front());
                }
                self.skipping = true;
                reply
            }
        }
    }

    /// ReadyForQuery.
    #[inline]
    pub fn on_ready(&mut self, status: TxStatus) -> Result<Reply, Unexpected> {
        let reply = match self.queue.front() {
            Some(Expect::Query | Expect::Function | Expect::Sync) => Reply::Forward,
            Some(Expect::OwnQuery | Expect::OwnSync) => Reply::Swallow,
            Some(Expect::Probe { answered: true }) => {
                self.uncertain = false;
                self.maybe_answered = 0;
                Reply::Swallow
            }
            _ if self.maybe_answered > 0 => {
                self.maybe_answered -= 1;
                self.uncertain = self.maybe_answered > 0;
                self.status = status;
                self.skipping = false;
                self.unsynced = false;
                return Ok(Reply::Forward);
            }
            _ => return Err(Unexpected { tag: be::READY }),
        };
        self.status = status;
        self.copy_in = false;
        self.copy_out = false;
        if matches!(self.pop(), Some(Expect::Sync | Expect::OwnSync)) {
            self.syncs_done += 1;
        }
        Ok(reply)
    }
}
