//! Why an address cannot be listened on: which setting names it, and who has it already where the system tells.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// The whole of the error, with what can be done.
pub(super) fn cannot_listen(addr: SocketAddr, setting: &str, e: &io::Error) -> String {
    let help = match e.kind() {
        io::ErrorKind::AddrInUse => match holder(addr.port()) {
            Some((pid, name)) => format!(
                "; the process {pid} ({}) listens there: end it, or state another address in {setting}",
                name.escape_debug()
            ),
            None => format!("; another process listens there: end it, or state another address in {setting}"),
        },
        io::ErrorKind::AddrNotAvailable => {
            format!("; no interface of this machine has this address: state another one in {setting}")
        }
        io::ErrorKind::PermissionDenied if addr.port() < 1024 => {
            format!("; ports below 1024 are for root: state a higher one in {setting}")
        }
        _ => String::new(),
    };
    format!("cannot listen on {addr} ({setting}): {e}{help}")
}

/// The same of a Unix socket.
pub(super) fn cannot_make_socket(path: &Path, e: &io::Error) -> String {
    let dir = path.parent().unwrap_or(path).display();
    let help = match e.kind() {
        io::ErrorKind::NotFound => {
            format!("; the directory {dir} does not exist: make it, or state another one in unix_socket_dir")
        }
        io::ErrorKind::NotADirectory => format!("; {dir} is no directory: state one in unix_socket_dir"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => format!(
            "; the account that Howdah runs as may not write in {dir}: give the directory to it, or state another one \
             in unix_socket_dir"
        ),
        _ => String::new(),
    };
    format!("cannot listen on {} (unix_socket_dir): {e}{help}", path.display())
}

/// Number and name of a process that listens on the port, as far as this account may see it.
fn holder(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = |to: std::path::PathBuf| inodes.iter().any(|i| to.as_os_str() == i.as_str());
        if open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(has)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The inodes of the sockets that listen on a port, from one of the kernel's tables.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match (fields.get(1), fields.get(3), fields.get(9)) {
            (Some(local), Some(state), Some(inode)) if *state == LISTEN && local.ends_with(&end) => {
                Some((*inode).to_owned())
            }
            _ => None,
        }
    };
    table.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_in_use_is_told_with_its_setting_and_who_has_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        let e = TcpListener::bind(addr).unwrap_err();
        let said = cannot_listen(addr, "ops_listen", &e);
        let who = format!("the process {} (", std::process::id());
        for part in [&addr.to_string(), "(ops_listen)", who.as_str(), "state another address in ops_listen"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_that() {
        let addr: SocketAddr = "192.0.2.7:6432".parse().unwrap();
        let e = TcpListener::bind(addr).unwrap_err();
        let said = cannot_listen(addr, "listen", &e);
        assert!(said.contains("no interface of this machine"), "{said}");
    }
}
