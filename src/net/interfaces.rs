//! The addresses of this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockaddrStorage;

/// Each address and its mask, as they are now: a machine gets and loses them while Howdah runs.
pub fn interfaces() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let pair = |i: nix::ifaddrs::InterfaceAddress| {
        let own = ip(i.address.as_ref()?)?;
        // Where there is no mask, there is no network but itself.
        let alone =
            if own.is_ipv4() { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from_bits(u128::MAX).into() };
        Some((own, i.netmask.as_ref().and_then(ip).unwrap_or(alone)))
    };
    Ok(all.filter_map(pair).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_itself() {
        let all = interfaces().expect("interfaces");
        assert!(all.iter().any(|(ip, mask)| ip.is_loopback() && mask.is_ipv4() == ip.is_ipv4()), "{all:?}");
    }
}
