//! Logs: text or JSON, on standard error, through `tracing`.
//!
//! Values that peers chose are logged with `Debug`, which escapes control characters; secrets never get here,
//! their types do not print.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::resolved::{LogFormat, Process};

/// Counts lines that standard error did not take.
type Dropped = Arc<AtomicU64>;

#[derive(Debug, Clone)]
struct Lossy(Dropped);

struct Line(Dropped);

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // A full disk or a closed pipe must not stop the service.
        if io::stderr().lock().write_all(buf).is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.0.clone())
    }
}

/// Sets the process's subscriber up; once.
pub(super) fn init(p: &Process) -> Result<Arc<AtomicU64>, String> {
    let filter = EnvFilter::try_new(&p.log_level).map_err(|e| format!("log_level: {e}"))?;
    let dropped = Dropped::default();
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(Lossy(dropped.clone()));
    let done = match p.log_format {
        LogFormat::Text => base.try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
    done.map_err(|e| format!("logging: {e}"))?;
    Ok(dropped)
}
