//! Addresses and ranges of addresses as configuration writes them. Resolves nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::pass::Pass;
use crate::pb;

/// Where to connect: an IP address, or a host name that something else resolves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A Unix socket: its path, or (with `@` before it) its name in the abstract namespace.
    Pipe(Arc<str>),
    /// A DNS name and port.
    Host {
        /// The name to resolve.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
}

impl Address {
    /// TCP port; a Unix socket has none.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Pipe(_) => None,
            Self::Host { port, .. } => Some(*port),
        }
    }

    /// The socket address, unless it is a name or a path.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) | Self::Host { .. } => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => f.write_str(path),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
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
        Self {
            base: mask(address, prefix_len),
            prefix_len,
        }
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
            let bits = u32::MAX
                .checked_shl(32 - u32::from(prefix_len.min(32)))
                .unwrap_or(0);
            IpAddr::V4((u32::from(v4) & bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX
                .checked_shl(128 - u32::from(prefix_len.min(128)))
                .unwrap_or(0);
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

/// What the kernel has room for, and a byte for the end.
const LONGEST_PATH: usize = 107;

/// Reads an address to connect to.
pub(crate) fn address(p: &mut Pass<'_>, message: &pb::core::Address) -> Option<Address> {
    use pb::core::address::Address as Pb;
    match &message.address {
        Some(Pb::SocketAddress(socket)) => {
            p.at("socket_address", |p| socket_address(p, socket, false))
        }
        Some(Pb::Pipe(pipe)) => p.at("pipe", |p| {
            let pb::core::Pipe { path, mode } = pipe;
            unsupported!(p; mode);
            if path.len() > LONGEST_PATH {
                p.refuse_field("path", format!("is longer than {LONGEST_PATH} bytes"));
            }
            p.name("path", path).map(Address::Pipe)
        }),
        Some(Pb::EnvoyInternalAddress(_)) => {
            p.unsupported("envoy_internal_address", true);
            None
        }
        None => {
            p.refuse("needs one of socket_address, pipe");
            None
        }
    }
}

/// Reads an address to bind: an IP, and perhaps port 0.
pub(crate) fn bind_address(p: &mut Pass<'_>, message: &pb::core::Address) -> Option<SocketAddr> {
    use pb::core::address::Address as Pb;
    match &message.address {
        Some(Pb::SocketAddress(socket)) => {
            p.at("socket_address", |p| bind_socket_address(p, socket))
        }
        Some(_) => {
            p.refuse("must be a socket_address: Weft listens on TCP only");
            None
        }
        None => {
            p.refuse("needs socket_address");
            None
        }
    }
}

/// Reads an IP and port, perhaps port 0.
pub(crate) fn bind_socket_address(
    p: &mut Pass<'_>,
    message: &pb::core::SocketAddress,
) -> Option<SocketAddr> {
    match socket_address(p, message, true)? {
        Address::Ip(address) => Some(address),
        Address::Pipe(_) | Address::Host { .. } => {
            p.refuse_field("address", "must be an IP address");
            None
        }
    }
}

fn socket_address(
    p: &mut Pass<'_>,
    message: &pb::core::SocketAddress,
    allow_zero: bool,
) -> Option<Address> {
    use pb::core::socket_address::{PortSpecifier, Protocol};
    let pb::core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = message;
    if p.enumeration::<Protocol>("protocol", *protocol)? == Protocol::Udp {
        p.refuse_field("protocol", "must be TCP: Weft does not speak UDP");
        return None;
    }
    ignore!(p, "core.SocketAddress"; resolver_name, ipv4_compat);
    unsupported!(p; network_namespace_filepath);
    let host = p.name("address", address)?;
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(0)) | None if allow_zero => 0,
        Some(PortSpecifier::PortValue(port)) => p.port("port_value", *port)?,
        Some(PortSpecifier::NamedPort(_)) => {
            p.unsupported("named_port", true);
            return None;
        }
        None => {
            p.refuse_field("port_value", "is required");
            return None;
        }
    };
    Some(match host.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
        Err(_) => Address::Host { host, port },
    })
}

/// Reads a range.
pub(crate) fn cidr_range(p: &mut Pass<'_>, message: &pb::core::CidrRange) -> Option<CidrRange> {
    let pb::core::CidrRange {
        address_prefix,
        prefix_len,
    } = message;
    let Ok(ip) = address_prefix.parse::<IpAddr>() else {
        p.refuse_field(
            "address_prefix",
            format!("{address_prefix:?} is no IP address"),
        );
        return None;
    };
    let len = prefix_len.map_or(0, |wrapped| wrapped.value);
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if len > most {
        p.refuse_field("prefix_len", format!("must be at most {most}"));
        return None;
    }
    Some(CidrRange::new(ip, len as u8))
}

/// Reads TCP keep-alive.
pub(crate) fn tcp_keepalive(
    _: &mut Pass<'_>,
    message: &pb::core::TcpKeepalive,
) -> Option<TcpKeepalive> {
    let pb::core::TcpKeepalive {
        keepalive_probes,
        keepalive_time,
        keepalive_interval,
    } = message;
    Some(TcpKeepalive {
        probes: keepalive_probes.map(|v| v.value),
        idle_seconds: keepalive_time.map(|v| v.value),
        interval_seconds: keepalive_interval.map(|v| v.value),
    })
}

/// Reads the source address of upstream connections; unset if it is a wildcard.
pub(crate) fn bind_config(
    p: &mut Pass<'_>,
    message: &pb::core::BindConfig,
) -> Option<Option<SocketAddr>> {
    let pb::core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = message;
    ignore!(p, "core.BindConfig"; freebind, socket_options);
    // Istio gives the other family's address here (::6 beside 127.0.0.6); the first is used.
    ignore!(p, "core.BindConfig"; extra_source_addresses, additional_source_addresses);
    unsupported!(p; local_address_selector, validate_network_namespaces);
    let address = p.opt(
        "source_address",
        source_address.as_ref(),
        bind_socket_address,
    );
    Some(address.filter(|address| !address.ip().is_unspecified() || address.port() != 0))
}
