//! A client's name for a statement.

use std::ops::Deref;
use std::sync::Arc;

use super::Statement;

/// What a client's name stands for; the statement counts its names.
#[derive(Debug)]
pub(super) struct Name {
    statement: Arc<Statement>,
    /// Howdah has answered its Parse itself, and no server has confirmed it yet.
    pub(super) unseen: bool,
}

impl Name {
    pub(super) fn new(statement: Arc<Statement>, unseen: bool) -> Self {
        statement.trust.named();
        Self { statement, unseen }
    }

    pub(super) fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }
}

impl Deref for Name {
    type Target = Statement;

    fn deref(&self) -> &Statement {
        &self.statement
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.statement.trust.unnamed();
    }
}
