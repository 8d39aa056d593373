//! One client of the console, from its welcome to its end. It holds no server and waits in no pool's queue, so
//! that it works when nothing else does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;

use super::act;
use super::protocol::{Answer, Dialogue, Step};
use super::table::{Command, Right};
use super::view::{PGBOUNCER, View};
use crate::client::login::Visitor;
use crate::clients::handle::{ClientState, Signal};
use crate::config::resolved::Profile;
use crate::error::{Error, Refusal, Report, Severity, Shutdown, report};
use crate::net::stream::{PeerEnd, Stream};
use crate::proto::encode;
use crate::services::Services;

/// Bytes that are taken in while a command waits; more stay in the socket.
const AHEAD: usize = 64 * 1024;
/// How often the end of a client is looked for whose bytes are not read.
const LOOK: Duration = Duration::from_millis(250);
/// A client that does not take an answer for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Serves a client to its end; returns why it ended, for the metric and the log.
pub async fn serve(visitor: Visitor, services: &Arc<Services>) -> &'static str {
    let config = services.config();
    let all_columns = config.profile == Profile::Native || &*visitor.ctl.database != PGBOUNCER;
    let right = if visitor.trusted || config.admin_users.iter().any(|u| **u == *visitor.ctl.user) {
        Right::Admin
    } else {
        Right::Stats
    };
    let mut session = Session {
        services: services.clone(),
        dialogue: Dialogue::new(config.profile, all_columns),
        right,
        buf: BytesMut::from(&visitor.early[..]),
        visitor,
    };
    services.clients.insert(session.visitor.ctl.clone());
    let why = session.run().await;
    services.clients.remove(session.visitor.ctl.id);
    why
}

struct Session {
    services: Arc<Services>,
    visitor: Visitor,
    dialogue: Dialogue,
    right: Right,
    buf: BytesMut,
}

impl Session {
    async fn run(&mut self) -> &'static str {
        loop {
            match self.dialogue.next(&mut self.buf) {
                Ok(Step::NeedMore) => {
                    if let Err(why) = self.read().await {
                        return why;
                    }
                }
                Ok(Step::Send(bytes)) => {
                    if let Err(why) = self.send(&bytes).await {
                        return why;
                    }
                }
                Ok(Step::Run(command)) => {
                    let outcome = match self.execute(command).await {
                        Ok(outcome) => outcome,
                        Err(why) => return why,
                    };
                    let bytes = self.dialogue.ran(outcome);
                    if let Err(why) = self.send(&bytes).await {
                        return why;
                    }
                }
                Ok(Step::End) => return "terminate",
                Err(e) => {
                    self.farewell(&e).await;
                    return "protocol_violation";
                }
            }
        }
    }

    /// The error is why the session ends.
    async fn execute(&mut self, command: Command) -> Result<Result<Answer, Refusal>, &'static str> {
        let ctl = self.visitor.ctl.clone();
        if command.right() > self.right {
            return Ok(Err(Refusal::NeedsAdmin { user: ctl.user.to_string() }));
        }
        self.services.control.console_queries.fetch_add(1, Ordering::Relaxed);
        ctl.set_state(ClientState::Active, self.services.clock.now_ms());
        let view = View::new(self.services.clone(), ctl.database.clone());
        if let Some(answer) = command.look(&view) {
            return Ok(Ok(answer));
        }
        tracing::info!(client = ctl.id, user = %ctl.user, peer = %ctl.peer, command = %command.sql(), "console command");
        if let Some(label) = command.label() {
            self.services.counters.count("console_commands_total", label);
        }
        let services = self.services.clone();
        let mut acting = Box::pin(act::act(&services, &ctl, command));
        let (stream, buf) = (&mut self.visitor.stream, &mut self.buf);
        // What the client says meanwhile is kept for later; its end, or ours, ends the wait, not what was begun. Where
        // it has said so much that nothing more is read, its end is looked for by time.
        let mut pause = Box::pin(tokio::time::sleep(LOOK));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = acting.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            ctl.waker.register(cx.waker());
            if ctl.has(Signal::Kill) {
                return Poll::Ready(Err("killed"));
            }
            while buf.len() < AHEAD {
                match poll_read(stream, cx, buf) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err("eof_waiting")),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err("read_error_waiting")),
                    Poll::Pending => return Poll::Pending,
                }
            }
            while pause.as_mut().poll(cx).is_ready() {
                if stream.peer_end() != PeerEnd::Open {
                    return Poll::Ready(Err("eof_waiting"));
                }
                pause.as_mut().reset((crate::clock::Clock::now() + LOOK).into());
            }
            Poll::Pending
        })
        .await
    }

    async fn read(&mut self) -> Result<(), &'static str> {
        let ctl = self.visitor.ctl.clone();
        ctl.set_state(ClientState::Idle, self.services.clock.now_ms());
        let (stream, buf) = (&mut self.visitor.stream, &mut self.buf);
        let read = std::future::poll_fn(|cx| {
            ctl.waker.register(cx.waker());
            if ctl.any_signal() {
                return Poll::Ready(Err("admin"));
            }
            match poll_read(stream, cx, buf) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err("eof")),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => Poll::Ready(Err("read_error")),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if read == Err("admin") {
            self.farewell(&Error::AdminShutdown { by: Shutdown::Console }).await;
        }
        read
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for e in self.dialogue.take_refused() {
            self.services.counters.count("errors_total", report(&e).code);
            self.services.told.on_the_console(&self.visitor.ctl, &e);
        }
        match tokio::time::timeout(WRITE_LIMIT, self.visitor.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("write_error"),
            Err(_) => Err("client_write_timeout"),
        }
    }

    async fn farewell(&mut self, e: &Error) {
        let fatal = Report { severity: Severity::Fatal, ..self.dialogue.in_profile(report(e)) };
        let bytes = encode::error_response(&fatal);
        let last = self.visitor.stream.write_all(&bytes);
        let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
    }
}

fn poll_read(
    stream: &mut Stream,
    cx: &mut std::task::Context<'_>,
    buf: &mut BytesMut,
) -> Poll<std::io::Result<usize>> {
    let mut chunk = [0; 2048];
    stream.poll_read(cx, &mut chunk).map_ok(|n| {
        buf.extend_from_slice(chunk.get(..n).unwrap_or_default());
        n
    })
}
