//! The text of a statement as it may be shown.

use super::is_space;

/// Where the text goes, if somebody wants it.
pub(super) trait Out {
    const TEXT: bool;
    fn blank(&mut self, skipped: &[u8]);
    fn push(&mut self, bytes: &[u8]);
    fn len(&self) -> usize;
    fn truncate(&mut self, len: usize);
    fn full(&self) -> bool;
}

pub(super) struct NoText;

impl Out for NoText {
    const TEXT: bool = false;
    #[inline]
    fn blank(&mut self, _: &[u8]) {}
    #[inline]
    fn push(&mut self, _: &[u8]) {}
    #[inline]
    fn len(&self) -> usize {
        0
    }
    #[inline]
    fn truncate(&mut self, _: usize) {}
    #[inline]
    fn full(&self) -> bool {
        false
    }
}

pub(super) struct Written {
    pub(super) text: Vec<u8>,
    pub(super) comment: Option<String>,
    pub(super) limit: usize,
}

impl Out for Written {
    const TEXT: bool = true;

    fn blank(&mut self, skipped: &[u8]) {
        if skipped.is_empty() {
            return;
        }
        if !self.text.is_empty() && self.text.last() != Some(&b' ') {
            self.text.push(b' ');
        }
        if self.comment.is_none() && skipped.iter().any(|b| !is_space(*b)) {
            self.comment = scrub(skipped);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    fn len(&self) -> usize {
        self.text.len()
    }

    fn truncate(&mut self, len: usize) {
        self.text.truncate(len);
    }

    fn full(&self) -> bool {
        self.text.len() > self.limit
    }
}

/// A comment as it may be shown: a number or a quoted text in it may be somebody's data.
fn scrub(comment: &[u8]) -> Option<String> {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(comment);
    if text.to_ascii_lowercase().contains("password") {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        if out.len() >= LONGEST {
            break;
        }
        match c {
            '\'' | '"' => {
                out.push('?');
                let _ = chars.by_ref().find(|e| *e == c);
            }
            c if c.is_numeric() => {
                out.push('?');
                while chars.peek().is_some_and(|n| n.is_numeric()) {
                    chars.next();
                }
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    Some(out)
}
