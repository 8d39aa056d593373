//! Files that the configuration names. Whoever may SET on the console may name any, so that what is in one is never
//! told, and one without an end is not read for ever.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// More than any list of users or rules has.
const LIMIT: u64 = 64 << 20;

pub(super) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut found)?;
    if found.len() as u64 > LIMIT {
        return Err(io::Error::other("it has more than 64 MiB"));
    }
    Ok(found)
}

pub(super) fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(bytes(path)?).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        assert!(bytes(Path::new("/dev/zero")).unwrap_err().to_string().contains("64 MiB"));
    }
}
