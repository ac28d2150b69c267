//! Addresses and ranges of addresses as configuration writes them. Resolves nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where to connect: an IP address, or a host name that something else resolves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A DNS name and port.
    Host {
        /// The name to resolve.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
}

impl Address {
    /// TCP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }

    /// The socket address, unless it is a name.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

/// A range of IP addresses; the host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrRange {
    /// First address of the range.
    pub base: IpAddr,
    /// At most 32 for IPv4, 128 for IPv6.
    pub prefix_len: u8,
}

impl CidrRange {
    /// Makes a range, clearing the bits below the prefix; a longer prefix than the family allows is cut.
    pub fn new(address: IpAddr, prefix_len: u8) -> Self {
        let prefix_len = prefix_len.min(if address.is_ipv4() { 32 } else { 128 });
        Self { base: mask(address, prefix_len), prefix_len }
    }

    /// Whether the address lies in the range. Families never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && mask(address, self.prefix_len) == self.base
    }
}

/// The address with all bits below the prefix cleared.
pub(crate) fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & bits).into())
        }
    }
}

/// TCP keep-alive; unset parts keep the kernel's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dropped.
    pub probes: Option<u32>,
    /// Seconds of silence before the first probe.
    pub idle_seconds: Option<u32>,
    /// Seconds between probes.
    pub interval_seconds: Option<u32>,
}
