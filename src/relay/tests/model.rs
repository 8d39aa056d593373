//! What PostgreSQL answers, in small: statements, portals, transaction status, skipping to Sync, COPY. Texts are
//! words that say what happens (`sel …`, `bad …`, `fail …`, `rows N`, `begin`, `copyin`, …).

use std::collections::HashMap;

use crate::proto::frame;

#[derive(Debug, Clone)]
struct Portal {
    text: Vec<u8>,
    /// Rows that were sent.
    sent: usize,
    done: bool,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) statements: HashMap<Vec<u8>, Vec<u8>>,
    portals: HashMap<Vec<u8>, Portal>,
    tx: Tx,
    /// Messages of the extended protocol have begun what only a Sync or a Query ends.
    implicit: bool,
    skipping: bool,
    copy: Option<Copy>,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Tx {
    #[default]
    Idle,
    Open,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Simple,
    Extended,
}

type Failure = (&'static str, String);

enum Ran {
    Done,
    Copying,
}

pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut v = vec![tag];
    v.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    v.extend_from_slice(body);
    v
}

fn exits(text: &[u8]) -> bool {
    text == b"commit" || text == b"rollback"
}

fn returns_rows(text: &[u8]) -> bool {
    [&b"sel"[..], b"rows", b"fail", b"notice"].iter().any(|w| text.starts_with(w))
}

fn rows_of(text: &[u8]) -> usize {
    match text.strip_prefix(b"rows ") {
        Some(n) => usize::from(n[0] - b'0'),
        None => 1,
    }
}

fn lossy(b: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(b)
}

impl Model {
    /// Nothing is pending and no transaction, open or implicit, is under way.
    pub(super) fn idle(&self) -> bool {
        self.tx == Tx::Idle
            && !self.implicit
            && !self.skipping
            && self.copy.is_none()
            && self.input.is_empty()
            && self.output.is_empty()
    }

    /// Deals with one message, if a whole one is there.
    pub(super) fn step(&mut self) -> bool {
        let Some(h) = frame::header(&self.input, i32::MAX as u32).expect("the pooler keeps the framing")
        else {
            return false;
        };
        if self.input.len() < h.total {
            return false;
        }
        let rest = self.input.split_off(h.total);
        let whole = std::mem::replace(&mut self.input, rest);
        let body = &whole[frame::HEADER..];
        if let Some(copy) = self.copy {
            self.in_copy(copy, h.tag, body);
            return true;
        }
        if self.skipping && h.tag != b'S' {
            return true;
        }
        match h.tag {
            b'Q' => self.query(&body[..body.len() - 1]),
            b'S' => self.finish(),
            b'F' => self.function(body),
            b'H' | b'd' | b'c' | b'f' => {}
            tag => {
                if let Err(e) = self.extended(tag, body) {
                    self.fail(e);
                    self.skipping = true;
                }
            }
        }
        true
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.output.extend(message(tag, body));
    }

    /// The end of a Query, FunctionCall or batch.
    fn finish(&mut self) {
        self.skipping = false;
        self.implicit = false;
        let status = match self.tx {
            Tx::Idle => {
                self.portals.clear();
                b'I'
            }
            Tx::Open => b'T',
            Tx::Failed => b'E',
        };
        self.put(b'Z', &[status]);
    }

    fn fail(&mut self, (code, text): Failure) {
        let body = format!("SERROR\0VERROR\0C{code}\0M{text}\0\0");
        self.put(b'E', body.as_bytes());
        if self.tx == Tx::Open {
            self.tx = Tx::Failed;
        }
        self.implicit = false;
        self.portals.clear();
    }

    fn aborted(&self) -> Result<(), Failure> {
        if self.tx == Tx::Failed {
            return Err(("25P02", "current transaction is aborted".to_owned()));
        }
        Ok(())
    }

    fn query(&mut self, text: &[u8]) {
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        match self.simple(text) {
            Ok(Ran::Copying) => self.copy = Some(Copy::Simple),
            Ok(Ran::Done) => self.finish(),
            Err(e) => {
                self.fail(e);
                self.finish();
            }
        }
    }

    fn simple(&mut self, text: &[u8]) -> Result<Ran, Failure> {
        if text.starts_with(b"bad") {
            return Err(("42601", format!("syntax error: {}", lossy(text))));
        }
        if text.is_empty() {
            self.put(b'I', b"");
            return Ok(Ran::Done);
        }
        if !exits(text) {
            self.aborted()?;
        }
        if returns_rows(text) {
            self.put(b'T', b"\0\0");
        }
        self.run(text)
    }

    fn function(&mut self, body: &[u8]) {
        let result = self.aborted().and_then(|()| match body {
            [0xff, ..] => Err(("42883", "no such function".to_owned())),
            _ => Ok(()),
        });
        match result {
            Ok(()) => self.put(b'V', &[0xff; 4]),
            Err(e) => self.fail(e),
        }
        self.finish();
    }

    /// All of a statement that is no cursor.
    fn run(&mut self, text: &[u8]) -> Result<Ran, Failure> {
        let row = |m: &mut Self| {
            let mut b = vec![0, 1];
            b.extend_from_slice(&(text.len() as u32).to_be_bytes());
            b.extend_from_slice(text);
            m.put(b'D', &b);
        };
        let words: Vec<&[u8]> = text.split(|b| *b == b' ').collect();
        match words[0] {
            b"begin" => {
                if self.tx == Tx::Open {
                    self.put(b'N', b"SWARNING\0C25001\0Mthere is already a transaction in progress\0\0");
                }
                self.tx = Tx::Open;
                self.put(b'C', b"BEGIN\0");
            }
            b"commit" | b"rollback" => {
                let failed = self.tx == Tx::Failed;
                if self.tx == Tx::Idle {
                    self.put(b'N', b"SWARNING\0C25P01\0Mthere is no transaction in progress\0\0");
                } else {
                    self.portals.clear();
                }
                self.tx = Tx::Idle;
                let rolled_back = failed || words[0] == b"rollback";
                self.put(b'C', if rolled_back { b"ROLLBACK\0" } else { b"COMMIT\0" });
            }
            b"copyin" => {
                self.put(b'G', b"\0\0\0");
                return Ok(Ran::Copying);
            }
            b"copyout" => {
                self.put(b'H', b"\0\0\0");
                self.put(b'd', text);
                self.put(b'd', text);
                self.put(b'c', b"");
                self.put(b'C', b"COPY 2\0");
            }
            b"fail" => {
                row(self);
                return Err(("22012", format!("division by zero in {}", lossy(text))));
            }
            b"notice" => {
                self.put(b'N', b"SNOTICE\0C00000\0Mhear\0\0");
                row(self);
                self.put(b'C', b"SELECT 1\0");
            }
            b"deallocate" if words[1] == b"all" => {
                self.statements.retain(|n, _| n.is_empty());
                self.put(b'C', b"DEALLOCATE ALL\0");
            }
            b"deallocate" | b"DEALLOCATE" => {
                let name: Vec<u8> = words[1].iter().copied().filter(|b| *b != b'"').collect();
                if self.statements.remove(&name).is_none() {
                    return Err(missing(&name));
                }
                self.put(b'C', b"DEALLOCATE\0");
            }
            b"discard" => {
                if self.tx == Tx::Open {
                    return Err(("25001", "DISCARD ALL cannot run inside a transaction block".to_owned()));
                }
                self.statements.retain(|n, _| n.is_empty());
                self.put(b'C', b"DISCARD ALL\0");
            }
            _ => {
                for _ in 0..rows_of(text) {
                    row(self);
                }
                self.put(b'C', b"SELECT n\0");
            }
        }
        Ok(Ran::Done)
    }

    fn extended(&mut self, tag: u8, body: &[u8]) -> Result<(), Failure> {
        if tag != b'C' {
            self.implicit = true;
        }
        match tag {
            b'P' => {
                let (name, rest) = frame::cstr(body).expect("a name");
                let (text, _) = frame::cstr(rest).expect("a text");
                if name.is_empty() {
                    self.statements.remove(name);
                }
                if text.starts_with(b"bad") {
                    return Err(("42601", format!("syntax error: {}", lossy(text))));
                }
                if !exits(text) && !text.is_empty() {
                    self.aborted()?;
                }
                if self.statements.contains_key(name) {
                    // PostgreSQL finds the duplicate first; a statement that has to be prepared again to be
                    // one is refused a step earlier.
                    self.aborted()?;
                    return Err(("42P05", format!("prepared statement \"{}\" already exists", lossy(name))));
                }
                self.statements.insert(name.to_vec(), text.to_vec());
                self.put(b'1', b"");
            }
            b'B' => {
                let (portal, rest) = frame::cstr(body).expect("a portal");
                let (name, rest) = frame::cstr(rest).expect("a name");
                assert!(rest.len() >= 6, "a Bind keeps its tail");
                let Some(text) = self.statements.get(name).cloned() else { return Err(missing(name)) };
                if !exits(&text) {
                    self.aborted()?;
                }
                if !portal.is_empty() && self.portals.contains_key(portal) {
                    return Err(("42P03", format!("cursor \"{}\" already exists", lossy(portal))));
                }
                self.portals.insert(portal.to_vec(), Portal { text, sent: 0, done: false });
                self.put(b'2', b"");
            }
            b'D' => {
                let (name, _) = frame::cstr(&body[1..]).expect("a name");
                let text = if body[0] == b'S' {
                    self.statements.get(name).cloned().ok_or_else(|| missing(name))?
                } else {
                    self.portals.get(name).map(|p| p.text.clone()).ok_or_else(|| no_portal(name))?
                };
                // Even then PostgreSQL describes a statement that returns no rows. Only for real SQL is that known.
                let certain = [&b"begin"[..], b"deallocate", b"discard"].iter().any(|w| text.starts_with(w));
                if !exits(&text) && !certain {
                    self.aborted()?;
                }
                if body[0] == b'S' {
                    self.put(b't', b"\0\0");
                }
                let (tag, fields): (u8, &[u8]) =
                    if returns_rows(&text) { (b'T', b"\0\0") } else { (b'n', b"") };
                self.put(tag, fields);
            }
            b'E' => return self.execute(body),
            b'C' => {
                let (name, _) = frame::cstr(&body[1..]).expect("a name");
                if body[0] == b'S' {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.put(b'3', b"");
            }
            other => panic!("message {other} reached the server"),
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (name, rest) = frame::cstr(body).expect("a portal");
        let max = usize::from(rest[3]);
        let Some(p) = self.portals.get_mut(name) else { return Err(no_portal(name)) };
        let text = p.text.clone();
        if text.is_empty() {
            self.put(b'I', b"");
            return Ok(());
        }
        if text.starts_with(b"rows") {
            let left = rows_of(&text) - p.sent;
            let n = if max == 0 { left } else { left.min(max) };
            p.sent += n;
            let suspended = max != 0 && n == max;
            let failed = self.tx == Tx::Failed;
            if failed {
                return self.aborted();
            }
            for _ in 0..n {
                self.put(b'D', &[&b"\0\x01\0\0\0\x06"[..], &text].concat());
            }
            self.put(if suspended { b's' } else { b'C' }, if suspended { b"" } else { b"SELECT n\0" });
            return Ok(());
        }
        if std::mem::replace(&mut p.done, true) {
            return Err(("55000", format!("portal \"{}\" cannot be run", lossy(name))));
        }
        if !exits(&text) {
            self.aborted()?;
        }
        if let Ran::Copying = self.run(&text)? {
            self.copy = Some(Copy::Extended);
        }
        Ok(())
    }

    fn in_copy(&mut self, copy: Copy, tag: u8, body: &[u8]) {
        let result = match tag {
            b'S' | b'H' => return,
            b'd' if !body.contains(&b'X') => return,
            b'd' => Err(("22P04", "bad data".to_owned())),
            b'c' => Ok(()),
            b'f' => Err(("57014", "COPY from stdin failed".to_owned())),
            other => Err(("08P01", format!("unexpected message {other} during COPY"))),
        };
        self.copy = None;
        let failed = result.is_err();
        match result {
            Ok(()) => self.put(b'C', b"COPY 1\0"),
            Err(e) => self.fail(e),
        }
        match copy {
            Copy::Simple => self.finish(),
            Copy::Extended => self.skipping = failed,
        }
    }
}

fn missing(name: &[u8]) -> Failure {
    if name.is_empty() {
        return ("26000", "unnamed prepared statement does not exist".to_owned());
    }
    ("26000", format!("prepared statement \"{}\" does not exist", lossy(name)))
}

fn no_portal(name: &[u8]) -> Failure {
    ("34000", format!("portal \"{}\" does not exist", lossy(name)))
}
