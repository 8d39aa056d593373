//! SIGINT and SIGTERM as a channel, for code that blocks.

use std::sync::mpsc::{Receiver, channel};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Listening ends when this is dropped.
pub(super) struct Guard(#[allow(dead_code, reason = "its drop is its use")] oneshot::Sender<()>);

/// From now on both signals arrive at the receiver, and end the process no more.
pub(super) fn listen() -> std::io::Result<(Guard, Receiver<()>)> {
    let (sender, receiver) = channel();
    let (guard, gone) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        let mut gone = gone;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = &mut gone => return,
            }
            if sender.send(()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok((Guard(guard), receiver))
}
