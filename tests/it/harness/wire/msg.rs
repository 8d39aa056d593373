//! Builders for every message of the protocol, both directions, and a cursor to read bodies.

/// One tagged message as it came off the wire, without tag and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor(&self.body)
    }

    /// The field `code` of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|&b| b == 0)
            .find(|f| f.first() == Some(&code))
            .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
    }

    /// The columns of a DataRow; `None` is NULL.
    pub fn columns(&self) -> Vec<Option<Vec<u8>>> {
        let mut c = self.cursor();
        (0..c.u16().unwrap_or(0)).filter_map(|_| c.value()).collect()
    }

    /// The first column of a DataRow as text.
    pub fn text(&self) -> String {
        let first = self.columns().into_iter().next().flatten();
        String::from_utf8_lossy(&first.unwrap_or_default()).into_owned()
    }
}

/// Reads a body from the front; every read says `None` when the bytes do not suffice.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    pub fn i32(&mut self) -> Option<i32> {
        let b = self.take(4)?;
        Some(i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    /// A length-prefixed value: `Some(None)` is NULL, `None` is not enough bytes.
    pub fn value(&mut self) -> Option<Option<Vec<u8>>> {
        match self.i32()? {
            -1 => Some(None),
            n => Some(Some(self.take(usize::try_from(n).ok()?)?.to_vec())),
        }
    }

    pub fn done(&self) -> bool {
        self.0.is_empty()
    }
}

/// A value of a Bind or FunctionCall; `None` is NULL.
pub type Value = Option<Vec<u8>>;

pub fn text(value: &str) -> Value {
    Some(value.as_bytes().to_vec())
}

/// Any message: tag, right length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(tag);
    out.extend_from_slice(&be32(body.len() + 4));
    out.extend_from_slice(body);
    out
}

fn be32(n: usize) -> [u8; 4] {
    i32::try_from(n).expect("a test message fits i32").to_be_bytes()
}

fn be16(n: usize) -> [u8; 2] {
    u16::try_from(n).expect("a test count fits u16").to_be_bytes()
}

fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

fn values(out: &mut Vec<u8>, list: &[Value]) {
    out.extend_from_slice(&be16(list.len()));
    for value in list {
        match value {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(bytes) => {
                out.extend_from_slice(&be32(bytes.len()));
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn formats(out: &mut Vec<u8>, list: &[u16]) {
    out.extend_from_slice(&be16(list.len()));
    list.iter().for_each(|f| out.extend_from_slice(&f.to_be_bytes()));
}

// ---- frontend ----------------------------------------------------------------------------------

pub const PROTOCOL_3_0: u32 = 3 << 16;

fn untagged(code: u32, rest: &[u8]) -> Vec<u8> {
    let mut out = be32(rest.len() + 8).to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(rest);
    out
}

pub fn startup(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut rest = Vec::new();
    for (key, value) in params {
        cstr(&mut rest, key.as_bytes());
        cstr(&mut rest, value.as_bytes());
    }
    rest.push(0);
    untagged(version, &rest)
}

pub fn ssl_request() -> Vec<u8> {
    untagged(80_877_103, &[])
}

pub fn gssenc_request() -> Vec<u8> {
    untagged(80_877_104, &[])
}

/// The key has four bytes in protocol 3.0 and up to 256 in 3.2.
pub fn cancel_request(pid: u32, key: &[u8]) -> Vec<u8> {
    untagged(80_877_102, &[&pid.to_be_bytes(), key].concat())
}

pub fn query(sql: &str) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, sql.as_bytes());
    message(b'Q', &body)
}

pub fn parse(name: &str, sql: &str, oids: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, name.as_bytes());
    cstr(&mut body, sql.as_bytes());
    body.extend_from_slice(&be16(oids.len()));
    oids.iter().for_each(|o| body.extend_from_slice(&o.to_be_bytes()));
    message(b'P', &body)
}

pub fn bind(portal: &str, statement: &str, pf: &[u16], args: &[Value], rf: &[u16]) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, portal.as_bytes());
    cstr(&mut body, statement.as_bytes());
    formats(&mut body, pf);
    values(&mut body, args);
    formats(&mut body, rf);
    message(b'B', &body)
}

/// `kind` is `S` for a statement and `P` for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    named(b'D', kind, name)
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    named(b'C', kind, name)
}

fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    cstr(&mut body, name.as_bytes());
    message(tag, &body)
}

/// `max` 0 means all rows.
pub fn execute(portal: &str, max: u32) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, portal.as_bytes());
    body.extend_from_slice(&max.to_be_bytes());
    message(b'E', &body)
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, why.as_bytes());
    message(b'f', &body)
}

pub fn function_call(oid: u32, af: &[u16], args: &[Value], rf: u16) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    formats(&mut body, af);
    values(&mut body, args);
    body.extend_from_slice(&rf.to_be_bytes());
    message(b'F', &body)
}

pub fn password(secret: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, secret);
    message(b'p', &body)
}

pub fn sasl_initial(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, mechanism.as_bytes());
    body.extend_from_slice(&be32(first.len()));
    body.extend_from_slice(first);
    message(b'p', &body)
}

/// The unnamed statement from Parse to Execute, without Describe and Sync.
pub fn pbe(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[], &[]), execute("", 0)].concat()
}

// ---- backend -----------------------------------------------------------------------------------

pub fn auth(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, name.as_bytes());
    cstr(&mut body, value.as_bytes());
    message(b'S', &body)
}

pub fn backend_key(pid: u32, key: &[u8]) -> Vec<u8> {
    message(b'K', &[&pid.to_be_bytes(), key].concat())
}

/// `status` is `I`, `T` or `E`.
pub fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

pub fn fields(tag: u8, list: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (code, value) in list {
        body.push(*code);
        cstr(&mut body, value.as_bytes());
    }
    body.push(0);
    message(tag, &body)
}

pub fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    fields(b'E', &[(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)])
}

pub fn notice(text: &str) -> Vec<u8> {
    fields(b'N', &[(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', text)])
}

pub fn notification(pid: u32, channel: &str, payload: &str) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    cstr(&mut body, channel.as_bytes());
    cstr(&mut body, payload.as_bytes());
    message(b'A', &body)
}

/// Text columns of the given names.
pub fn row_description(names: &[&str]) -> Vec<u8> {
    let mut body = be16(names.len()).to_vec();
    for name in names {
        cstr(&mut body, name.as_bytes());
        body.extend_from_slice(&[0; 6]); // no table, no column
        body.extend_from_slice(&25u32.to_be_bytes());
        body.extend_from_slice(&(-1i16).to_be_bytes());
        body.extend_from_slice(&(-1i32).to_be_bytes());
        body.extend_from_slice(&[0; 2]);
    }
    message(b'T', &body)
}

pub fn data_row(columns: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    values(&mut body, columns);
    message(b'D', &body)
}

pub fn command_complete(tag: &str) -> Vec<u8> {
    let mut body = Vec::new();
    cstr(&mut body, tag.as_bytes());
    message(b'C', &body)
}

/// A whole answer to a simple query: one text column, one row, `SELECT 1`, ReadyForQuery.
pub fn one_row(value: &str, status: u8) -> Vec<u8> {
    [row_description(&["?column?"]), data_row(&[text(value)]), command_complete("SELECT 1"), ready(status)]
        .concat()
}

/// Messages without a body: `1`, `2`, `3`, `n`, `s`, `I`, `c`.
pub fn bare(tag: u8) -> Vec<u8> {
    message(tag, &[])
}

/// CopyInResponse (`G`) or CopyOutResponse (`H`) in text format.
pub fn copy_response(tag: u8, columns: usize) -> Vec<u8> {
    let mut body = vec![0];
    formats(&mut body, &vec![0; columns]);
    message(tag, &body)
}
