//! Columns and rows of the console's answers, and how they go over the wire in both formats; without I/O.

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{
    DataRow, FORMAT_CODE_BINARY, FORMAT_CODE_TEXT, FieldDescription, RowDescription,
};

/// The types that the console answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Int4,
    Int8,
    Numeric,
    Bytea,
}

impl Type {
    /// `pg_type.oid`.
    pub const fn oid(self) -> u32 {
        match self {
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Numeric => 1700,
        }
    }

    const fn size(self) -> i16 {
        match self {
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Text | Self::Numeric | Self::Bytea => -1,
        }
    }
}

/// One column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Type,
    /// Not one of PgBouncer's: left out where clients expect exactly those.
    pub own: bool,
}

pub const fn text(name: &'static str) -> Column {
    Column { name, kind: Type::Text, own: false }
}
pub const fn int(name: &'static str) -> Column {
    Column { name, kind: Type::Int4, own: false }
}
pub const fn big(name: &'static str) -> Column {
    Column { name, kind: Type::Int8, own: false }
}
pub const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Type::Numeric, own: false }
}
pub const fn bytea(name: &'static str) -> Column {
    Column { name, kind: Type::Bytea, own: false }
}
/// A column that PgBouncer does not have.
pub const fn own(column: Column) -> Column {
    Column { own: true, ..column }
}

/// One value; the column says how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Null,
    Text(String),
    Number(i64),
}

impl From<String> for Cell {
    fn from(t: String) -> Self {
        Self::Text(t)
    }
}
impl From<&str> for Cell {
    fn from(t: &str) -> Self {
        Self::Text(t.to_owned())
    }
}
impl From<&std::sync::Arc<str>> for Cell {
    fn from(t: &std::sync::Arc<str>) -> Self {
        Self::Text(t.to_string())
    }
}
impl From<bool> for Cell {
    fn from(b: bool) -> Self {
        Self::Number(i64::from(b))
    }
}
impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(o: Option<T>) -> Self {
        o.map_or(Self::Null, Into::into)
    }
}
macro_rules! cell_of {
    ($($number:ty),*) => {$(
        impl From<$number> for Cell {
            fn from(n: $number) -> Self {
                Self::Number(i64::try_from(n).unwrap_or(i64::MAX))
            }
        }
    )*};
}
cell_of!(i32, i64, u16, u32, u64, usize, u128);

pub type Row = Vec<Cell>;

/// `row![a, b, c]`: cells of whatever can be one.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::console::rows::Cell::from($value)),*] };
}
pub(crate) use row;

/// How the columns of a result are asked for: by nothing (text), one code for all, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Formats(pub(super) Vec<i16>);

impl Formats {
    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => FORMAT_CODE_TEXT,
            [one] => *one,
            many => many.get(column).copied().unwrap_or(FORMAT_CODE_TEXT),
        }
    }
}

/// Columns that are shown, with their places in the row.
fn shown(columns: &[Column], all: bool) -> impl Iterator<Item = (usize, &Column)> {
    columns.iter().enumerate().filter(move |(_, c)| all || !c.own)
}

/// RowDescription. `all` shows the columns that PgBouncer does not have, too.
pub(super) fn description(columns: &[Column], all: bool, formats: &Formats) -> Vec<u8> {
    let fields = shown(columns, all)
        .enumerate()
        .map(|(place, (_, c))| {
            FieldDescription::new(c.name.to_owned(), 0, 0, c.kind.oid(), c.kind.size(), -1, formats.of(place))
        })
        .collect();
    encode(&RowDescription::new(fields))
}

/// DataRow.
pub(super) fn data(columns: &[Column], row: &Row, all: bool, formats: &Formats) -> Vec<u8> {
    let mut body = BytesMut::new();
    let mut n: i16 = 0;
    for (place, (at, column)) in shown(columns, all).enumerate() {
        n += 1;
        put(&mut body, column.kind, row.get(at).unwrap_or(&Cell::Null), formats.of(place));
    }
    encode(&DataRow::new(body, n))
}

fn put(out: &mut BytesMut, kind: Type, cell: &Cell, format: i16) {
    let mut put_bytes = |bytes: &[u8]| {
        out.put_i32(i32::try_from(bytes.len()).expect("a value of the console is far below 2 GiB"));
        out.put_slice(bytes);
    };
    let binary = format == FORMAT_CODE_BINARY;
    match (kind, cell) {
        (_, Cell::Null) => out.put_i32(-1),
        // A text with a zero byte would be no text to the client.
        (_, Cell::Text(t)) => put_bytes(t.replace('\0', "\u{fffd}").as_bytes()),
        (Type::Int4, Cell::Number(n)) => {
            let n = i32::try_from(*n).unwrap_or(i32::MAX);
            if binary { put_bytes(&n.to_be_bytes()) } else { put_bytes(n.to_string().as_bytes()) }
        }
        (Type::Int8, Cell::Number(n)) if binary => put_bytes(&n.to_be_bytes()),
        (Type::Numeric, Cell::Number(n)) if binary => put_bytes(&numeric_binary(*n)),
        (_, Cell::Number(n)) => put_bytes(n.to_string().as_bytes()),
    }
}

/// A whole number as `numeric_send` of PostgreSQL writes it: count of digits of base 10 000, weight of the first,
/// sign, display scale, digits.
fn numeric_binary(n: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = n.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    digits.reverse();
    // At most five digits of base 10 000.
    let weight = i16::try_from(digits.len().saturating_sub(1)).unwrap_or(i16::MAX);
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let mut out = Vec::with_capacity(8 + 2 * digits.len());
    out.put_u16(u16::try_from(digits.len()).unwrap_or(u16::MAX));
    out.put_i16(weight);
    out.put_u16(if n < 0 { 0x4000 } else { 0 });
    out.put_u16(0);
    for d in digits {
        out.put_u16(d);
    }
    out
}

/// Encodes one of pgwire's messages.
pub(super) fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut buf = BytesMut::new();
    message.encode(&mut buf).expect("what the console says is far below the limits of a message");
    buf.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_postgres_sends_them() {
        // SELECT numeric_send(n)
        for (n, hex) in [
            (0, "0000000000000000"),
            (1, "00010000000000000001"),
            (10_000, "00010001000000000001"),
            (12_345_678, "000200010000000004d2162e"),
            (-7, "00010000400000000007"),
        ] {
            let got: String = numeric_binary(n).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(got, hex, "{n}");
        }
    }

    #[test]
    fn own_columns_can_be_left_out() {
        let columns = [text("a"), own(int("b")), big("c")];
        let row = row!["x", 2u32, 3u64];
        let all = data(&columns, &row, true, &Formats::default());
        let some = data(&columns, &row, false, &Formats::default());
        assert_eq!(all.get(5..7), Some(&[0u8, 3][..]));
        assert_eq!(some.get(5..), Some(&b"\0\x02\0\0\0\x01x\0\0\0\x013"[..]));
        let binary = data(&columns, &row, false, &Formats(vec![1]));
        assert_eq!(binary.get(5..), Some(&b"\0\x02\0\0\0\x01x\0\0\0\x08\0\0\0\0\0\0\0\x03"[..]));
    }

    #[test]
    fn an_int4_does_not_wrap() {
        let got = data(&[int("n")], &row![u64::MAX], true, &Formats::default());
        assert!(got.ends_with(b"2147483647"));
    }
}
