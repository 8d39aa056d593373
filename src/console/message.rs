//! The frontend's messages that the console understands, checked field by field; without I/O.

use crate::proto::frame::{cstr, fe};

/// What a Describe or Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// PostgreSQL documentation, 54.7 Message Formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Query(String),
    Parse {
        name: String,
        text: String,
    },
    Bind {
        portal: String,
        statement: String,
        /// How many: their values are of no interest.
        parameters: usize,
        formats: Vec<i16>,
    },
    Describe(Target, String),
    /// 0 rows are all.
    Execute {
        portal: String,
        rows: usize,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
}

impl Message {
    /// Reads a whole body; `None` if it is not what it should be.
    pub(super) fn read(tag: u8, body: &[u8]) -> Option<Self> {
        let mut c = Cursor(body);
        let message = match tag {
            fe::QUERY => Self::Query(c.text()?),
            fe::PARSE => {
                let (name, text) = (c.text()?, c.text()?);
                for _ in 0..c.count()? {
                    c.take(4)?;
                }
                Self::Parse { name, text }
            }
            fe::BIND => {
                let (portal, statement) = (c.text()?, c.text()?);
                for _ in 0..c.count()? {
                    c.take(2)?;
                }
                let parameters = c.count()?;
                for _ in 0..parameters {
                    // -1 is NULL and has no bytes.
                    match c.i32()? {
                        -1 => {}
                        n => drop(c.take(usize::try_from(n).ok()?)?),
                    }
                }
                let formats = (0..c.count()?).map(|_| c.i16()).collect::<Option<Vec<_>>>()?;
                if formats.iter().any(|f| !matches!(f, 0 | 1)) {
                    return None;
                }
                Self::Bind { portal, statement, parameters, formats }
            }
            fe::DESCRIBE => Self::Describe(c.target()?, c.text()?),
            fe::CLOSE => Self::Close(c.target()?, c.text()?),
            fe::EXECUTE => Self::Execute { portal: c.text()?, rows: usize::try_from(c.i32()?).unwrap_or(0) },
            fe::FLUSH => Self::Flush,
            fe::SYNC => Self::Sync,
            fe::TERMINATE => Self::Terminate,
            _ => return None,
        };
        c.0.is_empty().then_some(message)
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// What is no UTF-8 is no command either: it is shown as such in the error.
    fn text(&mut self) -> Option<String> {
        let (text, rest) = cstr(self.0)?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.i16()?).ok()
    }

    fn target(&mut self) -> Option<Target> {
        match self.take(1)? {
            b"S" => Some(Target::Statement),
            b"P" => Some(Target::Portal),
            _ => None,
        }
    }
}
