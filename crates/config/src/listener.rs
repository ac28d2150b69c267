//! A listener as the data plane runs it. Opens no socket.

pub(crate) mod convert;
mod filters;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_rpc::Codec;

use crate::address::TcpKeepalive;
use crate::error::{ConfigError, Loaded};
use crate::filter_chain::FilterChains;
use crate::pass::{Context, Pass};
use crate::pb;

/// Which way its traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    Unspecified,
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// Which listener filters run, and where not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListenerFilters {
    /// Take the destination from before the redirect (`SO_ORIGINAL_DST`).
    pub original_dst: Option<FilterDisabled>,
    /// Take the client's address from the PROXY protocol's header, before anything else is read.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Read server name and ALPN from a TLS hello.
    pub tls_inspector: Option<FilterDisabled>,
    /// Tell HTTP/1, HTTP/2 and other bytes apart.
    pub http_inspector: Option<FilterDisabled>,
    /// Tell RPC protocols by their first bytes.
    pub rpc_inspector: Option<RpcInspector>,
    /// Bound on waiting for the bytes; `None` waits for ever. Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// Go on (instead of closing) when the time is up.
    pub continue_on_timeout: bool,
}

/// Envoy's listener filter for the PROXY protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyProtocol {
    /// Where it does not run.
    pub disabled: FilterDisabled,
    /// Take headers of version 1.
    pub v1: bool,
    /// Take headers of version 2.
    pub v2: bool,
    /// Take connections without a header, too.
    pub without: bool,
    /// Prefix of its statistics: `proxy_proto.` and perhaps a name of its own with a dot.
    pub stat_prefix: Arc<str>,
}

/// Weft's listener filter that tells RPC protocols.
#[derive(Debug, Clone)]
pub struct RpcInspector {
    /// Where it does not run.
    pub disabled: FilterDisabled,
    /// What it looks for; not empty. The name of a codec is the application protocol of its connections.
    pub codecs: Vec<&'static dyn Codec>,
    /// Prefix of its statistics: `rpc_inspector.`.
    pub stat_prefix: Arc<str>,
}

impl PartialEq for RpcInspector {
    fn eq(&self, other: &Self) -> bool {
        let names = |of: &Self| of.codecs.iter().map(|it| it.name()).collect::<Vec<_>>();
        self.disabled == other.disabled && names(self) == names(other)
    }
}

/// Destinations for which a listener filter does not run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FilterDisabled {
    /// Runs everywhere.
    #[default]
    Never,
    /// Runs nowhere.
    Always,
    /// Off for destination ports from the first up to, not including, the second.
    Ports(u16, u32),
    /// Off if one says so.
    Any(Vec<FilterDisabled>),
    /// Off if all say so.
    All(Vec<FilterDisabled>),
    /// Off where the other is not.
    Not(Box<FilterDisabled>),
}

impl FilterDisabled {
    /// Whether the filter is off for a destination port.
    pub fn disabled_for(&self, port: u16) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Ports(start, end) => *start <= port && u32::from(port) < *end,
            Self::Any(rules) => rules.iter().any(|rule| rule.disabled_for(port)),
            Self::All(rules) => rules.iter().all(|rule| rule.disabled_for(port)),
            Self::Not(rule) => !rule.disabled_for(port),
        }
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Resource name; Envoy makes one up when it is empty, we use the address.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// More addresses of the same listener.
    pub additional_addresses: Vec<SocketAddr>,
    /// `false`: no socket of its own; connections arrive by `use_original_dst` of another listener.
    pub bind_to_port: bool,
    /// One socket a worker; on by default.
    pub reuse_port: bool,
    /// Length of the accept queue; `None` is the system's.
    pub backlog: Option<u32>,
    /// Hand connections to the listener of their original destination, if there is one.
    pub use_original_dst: bool,
    /// Accept connections for addresses that are not ours (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Bind to addresses that are not ours yet (`IP_FREEBIND`).
    pub freebind: bool,
    /// Listener filters.
    pub filters: ListenerFilters,
    /// Filter chains with their matcher, default chain included.
    pub chains: FilterChains,
    /// TCP keep-alive of accepted connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Which way its traffic goes.
    pub traffic_direction: TrafficDirection,
    /// Prefix of its statistics, if not its address.
    pub stat_prefix: Option<Arc<str>>,
}

impl Listener {
    /// Compiles Envoy's message.
    pub fn from_proto(
        message: &pb::config::listener::v3::Listener,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(context, format!("listener {}", message.name), |p| {
            convert::listener(p, message)
        })
    }
}
