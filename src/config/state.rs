//! Settings of what becomes of session state.

use std::time::Duration;

use crate::session_state::{Way, Ways};

/// What is done about session state: see [`crate::proto::holdings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    pub ways: Ways,
    /// `session_check = "always"`: the server is asked after every transaction.
    pub always: bool,
    pub check_timeout: Duration,
    /// `None`: half of the pool's size.
    pub max_pins: Option<u32>,
    pub pin_idle: Option<Duration>,
}

/// [`SessionState`], as far as one level states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionStateOverrides {
    pub parameters: Option<Way>,
    pub statements: Option<Way>,
    pub listen: Option<Way>,
    pub objects: Option<Way>,
    pub always: Option<bool>,
    pub check_timeout: Option<Duration>,
    pub max_pins: Option<Option<u32>>,
    pub pin_idle: Option<Option<Duration>>,
}

impl SessionState {
    pub(super) fn with(mut self, o: &SessionStateOverrides) -> Self {
        let w = &mut self.ways;
        w.parameters = o.parameters.unwrap_or(w.parameters);
        w.statements = o.statements.unwrap_or(w.statements);
        w.listen = o.listen.unwrap_or(w.listen);
        w.objects = o.objects.unwrap_or(w.objects);
        self.always = o.always.unwrap_or(self.always);
        self.check_timeout = o.check_timeout.unwrap_or(self.check_timeout);
        self.max_pins = o.max_pins.unwrap_or(self.max_pins);
        self.pin_idle = o.pin_idle.unwrap_or(self.pin_idle);
        self
    }
}
