//! A look at what a client has sent so far: which transaction is about to begin? No bytes are consumed.

use super::classify::{Class, Hint, MAX_TEXT, Reading, Verdict, classify};
use crate::proto::frame::{self, fe};

/// The answer for what is in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// What the rest of the batch is decides; it is on its way.
    NeedMore,
    /// The same, but something of it is to run already: this is the answer if nothing more comes.
    Pauses(Verdict),
    Is(Verdict),
}

/// What else must be known of the client: its prepared statements.
pub trait Known {
    /// The verdict about a statement that this client has prepared by this name; the empty one is the unnamed.
    fn statement(&self, name: &[u8], reading: Reading<'_>) -> Option<Verdict>;
}

/// Looks at the batch at the front of `bytes`, which begins with a message that needs a server.
pub fn look(bytes: &[u8], known: &dyn Known, reading: Reading<'_>) -> First {
    let mut rest = bytes;
    let mut batch = Batch::default();
    // What the batch prepares hides what the client had by the same name.
    let mut prepared: Vec<(&[u8], Verdict)> = Vec::new();
    loop {
        let Some(&tag) = rest.first() else { return batch.incomplete(bytes) };
        let Some(h) = frame::header(rest, u32::MAX / 2).ok().flatten() else {
            return batch.incomplete(bytes);
        };
        if rest.len() < h.total {
            // A text that is too long to be read is not waited for, nor are values that nobody looks at.
            let readable = h.total <= MAX_TEXT && bytes.len() <= MAX_TEXT;
            return if readable { First::NeedMore } else { batch.give_up() };
        }
        let body = rest.get(frame::HEADER..h.total).unwrap_or_default();
        match tag {
            fe::QUERY if batch.is_empty() => {
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                return First::Is(classify(text, reading));
            }
            fe::PARSE => {
                let parts = frame::cstr(body).and_then(|(n, r)| frame::cstr(r).map(|(text, _)| (n, text)));
                let Some((name, text)) = parts else { return First::Is(Verdict::OTHER) };
                let verdict = classify(text, reading);
                prepared.push((name, verdict));
                batch.add(verdict);
            }
            fe::BIND => {
                let name = frame::cstr(body).and_then(|(_, r)| frame::cstr(r)).map(|(name, _)| name);
                let Some(name) = name else { return First::Is(Verdict::OTHER) };
                let here = prepared.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| *v);
                match here.or_else(|| known.statement(name, reading)) {
                    Some(v) => batch.add(v),
                    None => return First::Is(Verdict::OTHER),
                }
            }
            fe::DESCRIBE if body.first() == Some(&b'S') && batch.is_empty() => {
                let name = body.get(1..).and_then(frame::cstr).map(|(name, _)| name).unwrap_or_default();
                batch.add(known.statement(name, reading).unwrap_or(Verdict::OTHER));
            }
            fe::SYNC => return First::Is(batch.verdict()),
            fe::EXECUTE => batch.executed = true,
            fe::DESCRIBE | fe::CLOSE => {}
            // The client wants answers before it goes on.
            fe::FLUSH => return batch.give_up(),
            _ => return First::Is(Verdict::OTHER),
        }
        rest = rest.get(h.total..).unwrap_or_default();
    }
}

/// The statements of one extended batch, in order.
#[derive(Default)]
struct Batch {
    first: Option<Verdict>,
    /// A statement behind the first that is no harmless query.
    more: bool,
    /// One that leaves a block, or begins another.
    escapes: bool,
    /// A COMMIT or ROLLBACK behind the first.
    ended: bool,
    /// One of which nothing is known to be harmless.
    other: bool,
    /// There was an Execute.
    executed: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn add(&mut self, v: Verdict) {
        self.other |= v.class == Class::Other;
        match self.first {
            None => self.first = Some(v),
            // Its Bind, behind its Parse.
            Some(f) if f == v && f.class != Class::Other => {}
            Some(_) => {
                self.more |= v.class != Class::HarmlessSelect;
                let inside = matches!(v.class, Class::HarmlessSelect | Class::Other | Class::SetReadOnly);
                let ends = v.class == Class::EndBlock;
                self.escapes |= if ends { false } else { self.ended || !inside };
                self.ended |= ends;
            }
        }
    }

    /// The batch is whole.
    fn verdict(&self) -> Verdict {
        let Some(first) = self.first else { return Verdict::OTHER };
        let class = match first.class {
            Class::HarmlessSelect if self.more => Class::Other,
            Class::ReadOnlyBlock | Class::SerializableReadOnlyBlock if self.escapes => Class::Other,
            // Not alone any more.
            Class::BareBlock | Class::SetReadOnly | Class::EndBlock if self.more => Class::Other,
            class => class,
        };
        // A hint is about a transaction of which it is known that nothing else is in it.
        let hint = first.hint.filter(|h| *h == Hint::Primary || !self.escapes);
        Verdict { class, hint }
    }

    /// The rest will not come before an answer, or is too long: only what a block says of itself counts.
    fn without_rest(&self) -> Verdict {
        let v = self.verdict();
        match v.class {
            Class::ReadOnlyBlock | Class::SerializableReadOnlyBlock | Class::WriteBlock => v,
            _ => Verdict { class: Class::Other, hint: v.hint },
        }
    }

    fn give_up(&self) -> First {
        First::Is(self.without_rest())
    }

    fn incomplete(&self, bytes: &[u8]) -> First {
        // A COPY FROM STDIN is answered without a Sync, and its data comes behind the answer.
        if bytes.len() >= MAX_TEXT || self.executed && self.other {
            self.give_up()
        } else if self.executed {
            First::Pauses(self.without_rest())
        } else {
            First::NeedMore
        }
    }
}
