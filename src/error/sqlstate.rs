//! The SQLSTATEs that Howdah itself raises (PostgreSQL documentation, appendix A).

/// Five characters, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    pub const CONNECTION_FAILURE: Self = Self("08006");
    pub const CANNOT_CONNECT: Self = Self("08001");
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    pub const IN_FAILED_TRANSACTION: Self = Self("25P02");
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self("25P03");
    pub const TRANSACTION_TIMEOUT: Self = Self("25P04");
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    pub const INVALID_PASSWORD: Self = Self("28P01");
    pub const INVALID_CATALOG_NAME: Self = Self("3D000");
    pub const OUT_OF_MEMORY: Self = Self("53200");
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self("54000");
    pub const QUERY_CANCELED: Self = Self("57014");
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    pub const IDLE_SESSION_TIMEOUT: Self = Self("57P05");
    pub const INVALID_TEXT_REPRESENTATION: Self = Self("22P02");
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self("26000");
    pub const INVALID_CURSOR_NAME: Self = Self("34000");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    pub const SYNTAX_ERROR: Self = Self("42601");
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    pub const WRONG_OBJECT_TYPE: Self = Self("42809");
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self("42P05");
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self("55000");
    pub const CONFIG_FILE_ERROR: Self = Self("F0000");
    pub const INTERNAL_ERROR: Self = Self("XX000");
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
