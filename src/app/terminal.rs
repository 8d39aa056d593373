//! Questions to the person at the terminal. They go to standard error, so that standard output stays what it is.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::config::Hidden;

/// A line of an answer has at most so many bytes.
const MAX_LINE: u64 = 4096;

/// One line of standard input; nothing where it is at its end.
pub(super) fn line(question: &str) -> io::Result<Option<String>> {
    let mut err = io::stderr();
    write!(err, "{question}")?;
    err.flush()?;
    let mut text = String::new();
    let n = io::stdin().lock().take(MAX_LINE).read_line(&mut text)?;
    Ok((n > 0).then(|| text.trim().to_owned()))
}

/// A password, which the terminal does not show while it is typed.
pub(super) fn password(question: &str) -> Result<Hidden, String> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|e| format!("the terminal: {e}"))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(|e| format!("the terminal: {e}"))?;
    let mut text = Zeroizing::new(String::new());
    let asked = (|| {
        let mut err = io::stderr();
        write!(err, "{question}")?;
        err.flush()?;
        stdin.lock().take(MAX_LINE).read_line(&mut text)
    })();
    let restored = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    let _ = writeln!(io::stderr());
    restored.map_err(|e| format!("the terminal: {e}"))?;
    match asked.map_err(|e| format!("the terminal: {e}"))? {
        0 => Err("no password was given".to_owned()),
        _ => Ok(text.trim_end_matches(['\n', '\r']).into()),
    }
}

/// A secret is the first line of its file.
pub(super) fn first_line(file: &Path) -> Result<Hidden, String> {
    let told = |e: io::Error| format!("{}: cannot be read: {e}", file.display());
    let mut text = Zeroizing::new(String::new());
    BufReader::new(File::open(file).map_err(told)?).take(MAX_LINE).read_line(&mut text).map_err(told)?;
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(format!("{}: the first line is empty, and no password", file.display())),
        secret => Ok(secret.into()),
    }
}
