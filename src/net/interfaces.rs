//! The addresses of this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockaddrStorage;

/// Each address and its mask, as they are now: a machine gets and loses them while Howdah runs.
pub fn interfaces() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let pair = |i: nix::ifaddrs::InterfaceAddress| {
        let own = ip(i.address.as_ref()?)?;
        Some((own, mask(own, i.netmask.as_ref().and_then(ip))))
    };
    Ok(all.filter_map(pair).collect())
}

/// Where there is no mask that narrows anything, there is no network but the address itself: all the world is not beside
/// it. PostgreSQL takes it so, too.
fn mask(own: IpAddr, told: Option<IpAddr>) -> IpAddr {
    let alone =
        if own.is_ipv4() { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from_bits(u128::MAX).into() };
    told.filter(|m| m.is_ipv4() == own.is_ipv4() && !m.is_unspecified()).unwrap_or(alone)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_zeros_lets_nobody_else_in() {
        let at = |t: &str| t.parse::<IpAddr>().expect("an address");
        for (own, told, wanted) in [
            ("10.0.0.1", Some("255.255.255.0"), "255.255.255.0"),
            ("10.0.0.1", Some("0.0.0.0"), "255.255.255.255"),
            ("10.0.0.1", Some("ffff::"), "255.255.255.255"),
            ("10.0.0.1", None, "255.255.255.255"),
            ("fe80::1", Some("ffff:ffff:ffff:ffff::"), "ffff:ffff:ffff:ffff::"),
            ("fe80::1", Some("::"), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(mask(at(own), told.map(at)), at(wanted), "{own} {told:?}");
        }
    }

    #[test]
    fn this_machine_knows_itself() {
        let all = interfaces().expect("interfaces");
        assert!(all.iter().any(|(ip, mask)| ip.is_loopback() && mask.is_ipv4() == ip.is_ipv4()), "{all:?}");
    }
}
