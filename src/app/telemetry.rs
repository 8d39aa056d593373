//! Logs: text, JSON or PgBouncer's lines, through `tracing`, to standard error, a file and the syslog.
//!
//! Values are logged as they are (`%value`, or a `&str`), and escaped here, as each form of the log needs it: what peers
//! chose stays within its field. Secrets never get here, their types do not print.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::escape;
use crate::config::Config;
use crate::config::resolved::{LogFormat, Profile};

/// Where lines go. A full disk or a closed pipe must not stop the service: what is not taken is counted.
#[derive(Debug)]
struct Outputs {
    stderr: AtomicBool,
    file: Mutex<Option<(PathBuf, File)>>,
    syslog: Option<Syslog>,
    form: Form,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    PgBouncer,
}

impl Form {
    fn of(config: &Config) -> Self {
        match (config.profile, config.process.log_format) {
            (_, LogFormat::Json) => Self::Json,
            (Profile::PgBouncer, LogFormat::Text) => Self::PgBouncer,
            (Profile::Native, LogFormat::Text) => Self::Text,
        }
    }

    /// Each event is one line; PgBouncer's have continued ones.
    fn safe(self, event: &str) -> String {
        match self {
            Self::Json => escape::json(event),
            Self::PgBouncer => event.to_owned(),
            Self::Text => format!("{}\n", escape::shown(event.strip_suffix('\n').unwrap_or(event), false)),
        }
    }

    /// The line without time, process and level, which the syslog adds itself: so many words, none of them a peer's.
    fn message(self, line: &str) -> &str {
        let words = match self {
            Self::Text => 2,
            Self::Json => 0,
            Self::PgBouncer => 5,
        };
        let mut rest = line;
        for _ in 0..words {
            rest = rest.split_once(' ').map_or(rest, |(_, rest)| rest.trim_start_matches(' '));
        }
        rest
    }
}

/// The local syslog (RFC 3164 over `/dev/log`).
#[derive(Debug)]
struct Syslog {
    socket: UnixDatagram,
    facility: u8,
    ident: String,
}

impl Syslog {
    fn open(ident: &str, facility: &str) -> Result<Self, String> {
        let socket = UnixDatagram::unbound().map_err(|e| format!("syslog: {e}"))?;
        let code = match facility {
            "user" => 1,
            "auth" => 4,
            "authpriv" => 10,
            local => local.strip_prefix("local").and_then(|n| n.parse::<u8>().ok()).map_or(3, |n| 16 + n),
        };
        Ok(Self { socket, facility: code, ident: ident.to_owned() })
    }

    fn send(&self, level: Level, text: &str) -> io::Result<()> {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let pri = self.facility * 8 + severity;
        let line = format!("<{pri}>{}[{}]: {text}", self.ident, std::process::id());
        self.socket.send_to(line.as_bytes(), "/dev/log").map(drop)
    }
}

#[derive(Debug, Clone)]
struct Sink(Arc<Outputs>);

struct Line {
    outputs: Arc<Outputs>,
    level: Level,
}

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (o, length) = (&self.outputs, buf.len());
        let event = o.form.safe(&String::from_utf8_lossy(buf));
        let buf = event.as_bytes();
        let mut lost = o.stderr.load(Ordering::Relaxed) && io::stderr().lock().write_all(buf).is_err();
        if let Some((_, file)) = &mut *o.file.lock() {
            lost |= file.write_all(buf).is_err();
        }
        if let Some(syslog) = &o.syslog {
            lost |= syslog.send(self.level, o.form.message(event.trim_end())).is_err();
        }
        if lost {
            o.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { outputs: self.0.clone(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { outputs: self.0.clone(), level: *meta.level() }
    }
}

/// PgBouncer's lines: `2026-01-31 12:00:00.000 UTC [1234] LOG message`.
#[derive(Debug)]
struct PgBouncerLines;

/// The message, then the other fields as `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => {
                let _ =
                    write!(self.fields, " {name}=").and_then(|()| escape::quoted(&mut self.fields, value));
            }
        }
    }

    /// Numbers, and what is logged by its `Display`.
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message.push_str(&text),
            name => {
                let _ = write!(self.fields, " {name}=").and_then(|()| escape::value(&mut self.fields, &text));
            }
        }
    }
}

/// `2026-01-31T12:00:00.000000Z  INFO message name=value`.
#[derive(Debug)]
struct NativeLines;

impl<S, N> FormatEvent<S, N> for NativeLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        SystemTime.format_time(&mut out)?;
        writeln!(out, " {:>5} {}{}", event.metadata().level().as_str(), text.message, text.fields)
    }
}

impl<S, N> FormatEvent<S, N> for PgBouncerLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        writeln!(
            out,
            "{} {level} {}",
            stamp(),
            escape::shown(&format!("{}{}", text.message, text.fields), true)
        )
    }
}

/// Time, zone and process, as they begin each of PgBouncer's lines.
pub(super) fn stamp() -> String {
    let now = jiff::ZonedDateTime::now();
    format!("{} [{}]", now.strftime("%Y-%m-%d %H:%M:%S%.3f %Z"), std::process::id())
}

/// The logs of the process: what a new configuration changes of them.
#[derive(Clone)]
pub(super) struct Logs {
    outputs: Arc<Outputs>,
    set_filter: Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl Logs {
    /// Sets the process's subscriber up; once. `quiet` keeps standard error silent.
    pub(super) fn init(config: &Config, quiet: bool) -> Result<Self, String> {
        let p = &config.process;
        let filter = EnvFilter::try_new(&p.log_level).map_err(|e| format!("log_level: {e}"))?;
        let papers = &config.compat.process;
        let syslog =
            papers.syslog.then(|| Syslog::open(&papers.syslog_ident, &papers.syslog_facility)).transpose()?;
        let outputs = Arc::new(Outputs {
            stderr: AtomicBool::new(!quiet),
            file: Mutex::new(papers.log_file.as_deref().map(open).transpose()?),
            syslog,
            form: Form::of(config),
            dropped: Arc::default(),
        });
        let base = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_ansi(false)
            .with_writer(Sink(outputs.clone()));
        macro_rules! start {
            ($subscriber:expr) => {{
                let s = $subscriber.with_filter_reloading();
                let handle = s.reload_handle();
                s.try_init().map_err(|e| format!("logging: {e}"))?;
                Arc::new(move |f| handle.reload(f).is_ok()) as Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>
            }};
        }
        let set_filter = match Form::of(config) {
            Form::Json => start!(base.json().flatten_event(true)),
            Form::PgBouncer => start!(base.event_format(PgBouncerLines)),
            Form::Text => start!(base.event_format(NativeLines)),
        };
        Ok(Self { outputs, set_filter })
    }

    /// Lines that some output did not take.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        self.outputs.dropped.clone()
    }

    /// Whether lines are objects of JSON.
    pub(super) fn writes_json(&self) -> bool {
        self.outputs.form == Form::Json
    }

    pub(super) fn mute_stderr(&self) {
        self.outputs.stderr.store(false, Ordering::Relaxed);
    }

    /// A configuration has come into force: its level holds, and the file is opened anew, as a rotation needs it.
    pub(super) fn apply(&self, config: &Config) {
        match EnvFilter::try_new(&config.process.log_level) {
            Ok(f) => {
                (self.set_filter)(f);
            }
            Err(e) => tracing::error!("log_level: {e}; the old one stays"),
        }
        match config.compat.process.log_file.as_deref().map(open).transpose() {
            Ok(file) => *self.outputs.file.lock() = file,
            Err(e) => tracing::error!("{e}; the old one stays open"),
        }
    }
}

fn open(path: &Path) -> Result<(PathBuf, File), String> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.map_err(|e| format!("cannot open log_file {}: {e}", path.display()))?;
    Ok((path.to_owned(), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a peer is called, its name stays in the line that is about it.
    #[test]
    fn the_syslog_gets_the_message_whole() {
        let name = "x] INFO root logged in";
        for (form, head) in [
            (Form::PgBouncer, "2026-01-31 12:00:00.000 UTC [7] LOG "),
            (Form::Text, "2026-01-31T12:00:00.000000Z  INFO "),
            (Form::Text, "2026-01-31T12:00:00.000000Z ERROR "),
            (Form::Json, ""),
        ] {
            let message = format!("login refused user=\"{name}\"");
            assert_eq!(form.message(&format!("{head}{message}")), message, "{form:?}");
        }
    }

    #[test]
    fn a_line_begins_as_pgbouncers() {
        let stamp = stamp();
        let parts: Vec<&str> = stamp.split(' ').collect();
        assert_eq!(parts.len(), 4, "{stamp}");
        assert_eq!((parts[0].len(), parts[1].len()), (10, 12), "{stamp}");
        assert_eq!(parts[3], format!("[{}]", std::process::id()));
    }
}
