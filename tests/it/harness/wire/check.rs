//! Strict structure checks of frontend messages, and readable error fields.
//!
//! A pooler that rewrites or interleaves messages shows here first: a body that does not parse to
//! its last byte is two messages mixed, or one cut.

use super::msg::Cursor;

/// What is wrong with a frontend message, if anything.
pub fn frontend(tag: u8, body: &[u8]) -> Result<(), String> {
    let mut c = Cursor(body);
    let whole = match tag {
        b'Q' | b'f' => c.cstr().is_some(),
        b'p' | b'd' => return Ok(()),
        b'P' => parse(&mut c).is_some(),
        b'B' => bind(&mut c).is_some(),
        b'D' | b'C' => matches!(c.u8(), Some(b'S' | b'P')) && c.cstr().is_some(),
        b'E' => c.cstr().is_some() && c.i32().is_some(),
        b'F' => call(&mut c).is_some(),
        b'S' | b'H' | b'X' | b'c' => true,
        _ => return Err(format!("unknown frontend message {:?}", char::from(tag))),
    };
    match (whole, c.0.len()) {
        (true, 0) => Ok(()),
        (true, n) => Err(format!("{n} bytes too many in {:?}", char::from(tag))),
        (false, _) => Err(format!("malformed {:?}: {body:02x?}", char::from(tag))),
    }
}

fn parse(c: &mut Cursor<'_>) -> Option<()> {
    c.cstr()?;
    c.cstr()?;
    let count = c.u16()?;
    (0..count).try_for_each(|_| c.i32().map(drop))
}

fn formats(c: &mut Cursor<'_>) -> Option<()> {
    let count = c.u16()?;
    (0..count).try_for_each(|_| c.u16().map(drop))
}

fn values(c: &mut Cursor<'_>) -> Option<()> {
    let count = c.u16()?;
    (0..count).try_for_each(|_| c.value().map(drop))
}

fn bind(c: &mut Cursor<'_>) -> Option<()> {
    c.cstr()?;
    c.cstr()?;
    formats(c)?;
    values(c)?;
    formats(c)
}

fn call(c: &mut Cursor<'_>) -> Option<()> {
    c.i32()?;
    formats(c)?;
    values(c)?;
    c.u16().map(drop)
}

/// ErrorResponse and NoticeResponse fields in the order sent, as `S=ERROR C=42601 …`.
pub fn show_fields(body: &[u8]) -> String {
    let fields = body.split(|&b| b == 0).filter(|f| !f.is_empty());
    let shown = fields.map(|f| format!("{}={:?}", char::from(f[0]), String::from_utf8_lossy(&f[1..])));
    shown.collect::<Vec<_>>().join(" ")
}
