//! Which server a transaction belongs on: decided from the protocol, from what the session has stated and from
//! what the monitor knows, without I/O. Every decision has a reason, and every reason is counted.

pub mod choose;
pub mod classify;
pub mod first;
mod functions;
pub mod held;
pub mod own_writes;

use self::classify::{Class, Hint, Verdict};
use crate::config::resolved::Role;
use crate::config::routing::Routing;

/// Why a transaction went where it went: the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It does not say that it only reads.
    Write,
    Serializable,
    /// The block says READ ONLY.
    ReadOnlyBlock,
    /// SET TRANSACTION READ ONLY behind a BEGIN that was held back.
    SetTransaction,
    /// default_transaction_read_only is on.
    ReadOnlyDefault,
    /// The text of a SELECT proves that it only reads.
    Select,
    Hint,
    /// The database, the user or the startup packet says where.
    Stated,
    /// The same, although the transaction says that it only reads and a replica could serve it.
    StatedReadOnly,
    /// A read, but no replica is confirmed as one or can be reached.
    NoReplica,
    /// A read, but every replica is behind by more than may be.
    Lag,
    /// A read, but no replica has replayed what its session has written.
    OwnWrites,
}

impl Reason {
    pub const ALL: [Self; 12] = [
        Self::Write,
        Self::Serializable,
        Self::ReadOnlyBlock,
        Self::SetTransaction,
        Self::ReadOnlyDefault,
        Self::Select,
        Self::Hint,
        Self::Stated,
        Self::StatedReadOnly,
        Self::NoReplica,
        Self::Lag,
        Self::OwnWrites,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Serializable => "serializable",
            Self::ReadOnlyBlock => "read_only_block",
            Self::SetTransaction => "set_transaction",
            Self::ReadOnlyDefault => "read_only_default",
            Self::Select => "select",
            Self::Hint => "hint",
            Self::Stated => "stated",
            Self::StatedReadOnly => "stated_read_only",
            Self::NoReplica => "no_replica",
            Self::Lag => "lag",
            Self::OwnWrites => "own_writes",
        }
    }
}

/// Where, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub role: Role,
    pub reason: Reason,
}

impl Decision {
    /// Whether the transaction is taken to read only, wherever it goes; every other one counts as a write.
    pub fn reads(self) -> bool {
        self.role == Role::Replica || self.reason == Reason::Serializable
    }
}

/// What a session has stated outside of its statements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stated {
    /// By its database, its user or `howdah.role`.
    pub role: Option<Role>,
    /// default_transaction_read_only.
    pub read_only: bool,
    /// default_transaction_isolation.
    pub serializable: bool,
}

/// The word of `howdah.role` in a startup packet's options.
pub fn stated_role(word: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|r| r.as_str() == word)
}

/// Where a transaction belongs whose first statement has this verdict.
pub fn decide(routing: &Routing, stated: Stated, v: Verdict) -> Decision {
    let to = |role, reason| Decision { role, reason };
    match (stated.role, v.class) {
        (Some(Role::Admin), _) => return to(Role::Admin, Reason::Stated),
        (Some(Role::Primary), _) if says_read_only(stated, v.class) => {
            return to(Role::Primary, Reason::StatedReadOnly);
        }
        (Some(Role::Primary), _) => return to(Role::Primary, Reason::Stated),
        // A hot standby refuses it, and it is a read: the primary can serve it.
        (_, Class::SerializableReadOnlyBlock) => return to(Role::Primary, Reason::Serializable),
        (Some(Role::Replica), _) => return to(Role::Replica, Reason::Stated),
        (None, _) => {}
    }
    match v.hint {
        Some(Hint::Primary) => return to(Role::Primary, Reason::Hint),
        Some(Hint::Replica) if routing.hints && !stated.serializable && v.class != Class::WriteBlock => {
            return to(Role::Replica, Reason::Hint);
        }
        _ => {}
    }
    match v.class {
        Class::ReadOnlyBlock | Class::HarmlessSelect | Class::SetReadOnly if stated.serializable => {
            to(Role::Primary, Reason::Serializable)
        }
        Class::ReadOnlyBlock => to(Role::Replica, Reason::ReadOnlyBlock),
        Class::WriteBlock => to(Role::Primary, Reason::Write),
        _ if stated.read_only && stated.serializable => to(Role::Primary, Reason::Serializable),
        _ if stated.read_only => to(Role::Replica, Reason::ReadOnlyDefault),
        Class::HarmlessSelect => to(Role::Replica, Reason::Select),
        _ => to(Role::Primary, Reason::Write),
    }
}

/// Whether a transaction is marked as one that only reads, and a hot standby takes it.
fn says_read_only(stated: Stated, class: Class) -> bool {
    !stated.serializable
        && match class {
            Class::ReadOnlyBlock => true,
            Class::SerializableReadOnlyBlock | Class::WriteBlock => false,
            _ => stated.read_only,
        }
}

/// Where a transaction belongs whose BEGIN was held back, by the statement behind it.
pub fn behind_begin(routing: &Routing, stated: Stated, begun_read_only: bool, v: Verdict) -> Decision {
    let begun = if begun_read_only { Class::ReadOnlyBlock } else { Class::BareBlock };
    match v.class {
        Class::SetReadWrite => Decision { role: Role::Primary, reason: Reason::Write },
        Class::SetReadOnly if begun_read_only => {
            decide(routing, stated, Verdict { class: begun, hint: None })
        }
        Class::SetReadOnly if stated.serializable => {
            Decision { role: Role::Primary, reason: Reason::Serializable }
        }
        Class::SetReadOnly => Decision { role: Role::Replica, reason: Reason::SetTransaction },
        _ => decide(routing, stated, Verdict { class: begun, hint: None }),
    }
}

#[cfg(test)]
mod tests;
