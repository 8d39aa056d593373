//! What the commands do that are no SHOW.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::protocol::Answer;
use super::table::{Command, Verb};
use crate::client::ctl::ClientCtl;
use crate::control::Order;
use crate::error::Refusal;
use crate::services::Services;

pub(super) async fn act(
    services: &Arc<Services>,
    _ctl: &Arc<ClientCtl>,
    command: Command,
) -> Result<Answer, Refusal> {
    match command {
        Command::Do(Verb::Reload, _) => reload(services).await,
        Command::Do(verb, _) => Err(Refusal::InvalidCommand { text: format!("{verb:?}") }),
        Command::Set { .. } => Err(Refusal::SetFailed { why: "Not possible yet.".to_owned() }),
        _ => Ok(Answer::done("")),
    }
}

async fn reload(services: &Arc<Services>) -> Result<Answer, Refusal> {
    let (done, outcome) = oneshot::channel();
    let nobody = || Refusal::ReloadFailed { why: "This process does not reload.".to_owned() };
    if !services.control.order(Order::Reload(done)) {
        return Err(nobody());
    }
    match outcome.await {
        Ok(Ok(())) => Ok(Answer::done("RELOAD")),
        Ok(Err(why)) => Err(Refusal::ReloadFailed { why }),
        Err(_) => Err(nobody()),
    }
}
