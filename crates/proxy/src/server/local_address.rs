//! This machine's own address, which stands in `x-forwarded-for` for clients on loopback.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The address that traffic to other machines leaves from; loopback without a network. A
/// datagram socket is connected to a documentation address (RFC 5737) to ask the routing
/// table; nothing is sent.
pub(super) fn local_address() -> IpAddr {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    ask().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
