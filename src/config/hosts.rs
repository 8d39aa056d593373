//! Where a server listens, as it is written.

use super::resolved::HostAddr;

/// `name`, `name:port`, `[::1]:port`, `::1`, a directory, or `@name` for a socket in the abstract namespace.
pub(super) fn host_addr(text: &str, port: u16) -> Result<HostAddr, String> {
    if text.starts_with('/') || (text.starts_with('@') && text.len() > 1) {
        return Ok(HostAddr::Unix { dir: text.into(), port });
    }
    if text.contains("://") {
        let why = "is a URL; its host, port, database, user and password are settings of their own here \
                   (host, port, dbname, user, password), or it is the whole of --database";
        return Err(why.to_owned());
    }
    let number = |p: &str| {
        p.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| "not a port from 1 to 65535".to_owned())
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("not an IPv6 address in brackets".to_owned());
        }
        match after.strip_prefix(':') {
            Some(p) => (host, number(p)?),
            None if after.is_empty() => (host, port),
            None => return Err("not a port after the bracket".to_owned()),
        }
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, port)
    } else {
        match text.split_once(':') {
            Some((host, p)) => (host, number(p)?),
            None => (text, port),
        }
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || ",/@".contains(c)) {
        return Err("not a host name".to_owned());
    }
    Ok(HostAddr::Tcp { host: host.to_owned(), port })
}
