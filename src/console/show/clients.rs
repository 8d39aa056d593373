//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::clients::handle::{ClientCtl, ClientState};
use crate::config::resolved::HostAddr;
use crate::console::rows::{Cell, Column, Row, int, row, text};
use crate::console::view::View;
use crate::net::stream::Peer;
use crate::pool::Pool;
use crate::pool::core::ServerState;
use crate::pool::inspect::Server;
use crate::proto::startup::Replication;

macro_rules! with_common {
    ($($more:expr),*) => {
        &[
            text("type"),
            text("user"),
            text("database"),
            text("replication"),
            text("state"),
            text("addr"),
            int("port"),
            text("local_addr"),
            int("local_port"),
            text("connect_time"),
            text("request_time"),
            int("wait"),
            int("wait_us"),
            int("close_needed"),
            text("ptr"),
            text("link"),
            int("remote_pid"),
            text("tls"),
            text("application_name"),
            int("prepared_statements"),
            int("id"),
            $($more),*
        ]
    };
}

pub(in crate::console) const CLIENTS: &[Column] = with_common!();

pub(in crate::console) const SOCKETS: &[Column] = with_common!(
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail")
);

/// The place of the state in a row.
const STATE: usize = 4;

/// Which server each client holds, and the other way round.
#[derive(Default)]
struct Links {
    server_of: HashMap<u64, u64>,
    servers: Vec<(Arc<Pool>, Server)>,
}

impl Links {
    fn of(view: &View) -> Self {
        let mut links = Self::default();
        for pool in view.pools() {
            // Those that are being closed serve nobody any more.
            for s in pool.servers().into_iter().filter(|s| s.state != ServerState::Closing) {
                if let (Some(holder), Some(facts)) = (&s.holder, &s.facts) {
                    links.server_of.insert(holder.id, facts.serial);
                }
                links.servers.push((pool.clone(), s));
            }
        }
        links
    }
}

/// Where PgBouncer prints an address in memory, something that is as good for telling apart.
fn client_ptr(id: u64) -> String {
    format!("0xc{id:011x}")
}

fn server_ptr(serial: u64) -> String {
    format!("0x5{serial:011x}")
}

fn address(a: Option<SocketAddr>, view: &View) -> (String, u16) {
    a.map_or_else(|| ("unix".to_owned(), view.port()), |a| (a.ip().to_string(), a.port()))
}

fn client(view: &View, c: &ClientCtl, links: &Links) -> Row {
    let state = c.state();
    let linked = links.server_of.get(&c.id).copied();
    let shown = match state {
        ClientState::Waiting => "waiting",
        _ if view.is_console(&c.database) || linked.is_some() => "active",
        _ => "idle",
    };
    let (addr, port) = match c.peer {
        Peer::Tcp(a) => address(Some(a), view),
        Peer::Unix => address(None, view),
    };
    let place = c.place();
    let (local_addr, local_port) = address(place.local, view);
    let waited = if state == ClientState::Waiting {
        view.services.clock.ms(view.now).saturating_sub(c.state_since())
    } else {
        0
    };
    let requested = if c.state_since() == 0 { view.time(c.connected) } else { view.time_ms(c.state_since()) };
    row![
        "C",
        &c.user,
        &c.database,
        place.replication.as_str(),
        shown,
        addr,
        port,
        local_addr,
        local_port,
        view.time(c.connected),
        requested,
        waited / 1000,
        waited % 1000 * 1000,
        0,
        client_ptr(c.id),
        linked.map_or(String::new(), server_ptr),
        place.pid.unwrap_or(0),
        place.tls.map_or(String::new(), |t| t.to_string()),
        &c.application_name(),
        c.prepared(),
        c.id,
    ]
}

pub(in crate::console) fn clients(view: &View) -> Vec<Row> {
    let links = Links::of(view);
    view.clients().iter().map(|c| client(view, c, &links)).collect()
}

fn server(view: &View, pool: &Pool, s: &Server) -> Row {
    let state = match s.state {
        ServerState::Opening => "new",
        ServerState::Idle => "idle",
        ServerState::Leased => "active",
        ServerState::Parked => "being_canceled",
        ServerState::Repairing | ServerState::Closing => "tested",
    };
    let facts = s.facts.as_ref();
    let remote = facts.and_then(|f| f.remote);
    let (mut addr, mut port) = address(remote, view);
    if remote.is_none()
        && let Some(HostAddr::Unix { port: p, .. }) = facts.map(|f| &f.cancel.host)
    {
        ("unix".clone_into(&mut addr), port = *p).1
    }
    let (local_addr, local_port) = match facts.and_then(|f| f.local) {
        Some(a) => (a.ip().to_string(), a.port()),
        None => (addr.clone(), port),
    };
    let application = s.holder.as_ref().map(|h| h.application_name());
    row![
        "S",
        &pool.key.user,
        &pool.key.database,
        s.holder.as_ref().map_or(Replication::No, |h| h.place().replication).as_str(),
        state,
        addr,
        port,
        local_addr,
        local_port,
        view.time(facts.map_or(s.since, |f| f.opened)),
        view.time(s.since),
        0,
        0,
        s.doomed,
        facts.map_or(String::new(), |f| server_ptr(f.serial)),
        s.holder.as_ref().map_or(String::new(), |h| client_ptr(h.id)),
        facts.map_or(0, |f| f.cancel.pid),
        facts.and_then(|f| f.tls).map_or(String::new(), |t| t.to_string()),
        application.as_deref().unwrap_or_default(),
        0,
        facts.map_or(0, |f| f.serial),
    ]
}

pub(in crate::console) fn servers(view: &View) -> Vec<Row> {
    Links::of(view).servers.iter().map(|(pool, s)| server(view, pool, s)).collect()
}

/// Clients and servers together. Positions in buffers are Howdah's own business: nothing is kept in one while it
/// could be written.
pub(in crate::console) fn sockets(view: &View) -> Vec<Row> {
    let links = Links::of(view);
    let clients = view.clients();
    let clients = clients.iter().map(|c| ("cl_", client(view, c, &links)));
    let servers = links.servers.iter().map(|(pool, s)| ("sv_", server(view, pool, s)));
    clients
        .chain(servers)
        .map(|(prefix, mut row)| {
            if let Some(Cell::Text(state)) = row.get_mut(STATE) {
                if state == "new" {
                    "login".clone_into(state);
                }
                state.insert_str(0, prefix);
            }
            row.extend(row![0, 0, 0, 0, 0, 0, 0]);
            row
        })
        .collect()
}

pub(in crate::console) fn active_sockets(view: &View) -> Vec<Row> {
    let mut rows = sockets(view);
    rows.retain(|r| matches!(r.get(STATE), Some(Cell::Text(s)) if s.ends_with("_active")));
    rows
}
