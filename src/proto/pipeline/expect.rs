//! One reply that a server connection owes.

use std::sync::Arc;

use super::super::prepared::{Moment, Statement};

/// A statement name of a client and what it stands for.
pub type Named = Box<(Box<[u8]>, Arc<Statement>)>;

/// A second Parse of a client's name.
#[derive(Debug, Clone)]
pub struct Duplicate {
    pub name: Box<[u8]>,
    /// What the name stands for.
    pub live: Arc<Statement>,
    /// What it stands for if the server takes the Parse after all.
    pub fresh: Arc<Statement>,
}

/// A new Parse of a text that was parsed before, which is described so that it is known whether it comes to the same.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The client's name for it.
    pub name: Box<[u8]>,
    pub fresh: Arc<Statement>,
    pub sent: Moment,
    /// The ParameterDescription, once it has come.
    pub types: Option<Box<[u8]>>,
    /// It is asked whether a copy has the columns that its client knows, and not which is to be shared.
    pub is_check: bool,
}

/// One owed reply.
#[derive(Debug, Clone)]
pub enum Expect {
    /// A simple Query: anything, then ReadyForQuery.
    Query,
    /// A FunctionCall: its result, then ReadyForQuery.
    Function,
    /// A simple Query of our own; nothing of its reply reaches the client.
    OwnQuery,
    /// Parse of the unnamed statement.
    ParseUnnamed,
    /// Parse of a name; the statement is new on this server.
    ParseNamed(Named),
    /// Parse of a name that the client has already: the server refuses it, unless it has lost the statement.
    ParseDuplicate(Box<Duplicate>),
    /// A message with a name that the server does not have, sent under another that it does not have either, because
    /// the client's could be one of ours. The error says the client's.
    Unknown(Box<[u8]>),
    /// A message that the server will refuse for its form.
    Malformed,
    /// A statement that this server lacked, prepared ahead of the message that needs it.
    InjectedParse(Arc<Statement>),
    /// Describe of a statement that its client has had parsed, for [`super::super::prepared::Interner::settle`].
    InjectedDescribe(Box<Compared>),
    /// The client's unnamed statement, repeated on a server that has another one.
    InjectedUnnamed,
    /// A statement that a Query may need under its client's own name. Its error is not the client's.
    QuietParse,
    /// A statement closed on the server to make room.
    InjectedClose(Arc<Statement>),
    /// Close of the server's unnamed statement, which belongs to somebody else.
    InjectedCloseUnnamed,
    /// ParseComplete that we send ourselves when its turn comes: the server has the statement.
    LocalParse(Named),
    /// CloseComplete that we send ourselves when its turn comes; `None` when the name was unknown.
    LocalClose(Option<Named>),
    /// Of the statement with this id; 0 when it is not an interned one.
    Bind(u64),
    /// The same.
    Describe(u64),
    Execute,
    ClosePortal,
    CloseUnnamed,
    /// A message made to fail, so that the server itself aborts and skips; the client sees this body instead.
    Provoked(Box<[u8]>),
    Sync,
    /// The same of our own: its error is not the client's.
    QuietProvoked,
    /// A Sync of our own.
    OwnSync,
    /// An empty Query of our own; answers that come before its own are the client's.
    Probe {
        answered: bool,
    },
    /// CopyData was sent here (one mark for a run of them).
    CopyData,
    /// CopyDone or CopyFail was sent here.
    CopyEnd,
}

impl Expect {
    /// Howdah answers it itself.
    pub(super) const fn is_local(&self) -> bool {
        matches!(self, Self::LocalParse(_) | Self::LocalClose(_))
    }
}
