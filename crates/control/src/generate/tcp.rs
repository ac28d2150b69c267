//! What a `DestinationRule` sets on the TCP proxies that lead to its host. Must never know listeners.

use std::time::Duration;

use weft_model::{Forwarding, Tunnel};

use super::names;
use crate::pb::duration;
use crate::pb::tcp_proxy::{TcpProxy, tcp_proxy::TunnelingConfig};
use crate::pb::types::{HashPolicy, hash_policy};

/// What a `DestinationRule` sets on a TCP proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TcpPolicy {
    idle: Option<Duration>,
    max_duration: Option<Duration>,
    by_source_ip: bool,
    tunnel: Option<Tunnel>,
}

impl TcpPolicy {
    /// For a host, or a subset of it.
    pub(crate) fn of(says: &Forwarding, subset: Option<&str>) -> Self {
        Self {
            idle: says.idle_timeout,
            max_duration: says.max_connection_duration,
            by_source_ip: says.by_source_ip(subset),
            tunnel: says.tunnel(subset).cloned(),
        }
    }

    /// How long a connection may be idle.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// The same for bytes that are passed on as they are.
    pub(crate) fn without_tunnel(self) -> Self {
        Self {
            tunnel: None,
            ..self
        }
    }

    pub(super) fn apply(&self, proxy: &mut TcpProxy) {
        proxy.idle_timeout = self.idle.map(duration);
        proxy.max_downstream_connection_duration = self.max_duration.map(duration);
        if self.by_source_ip {
            let source_ip = hash_policy::SourceIp::default();
            proxy.hash_policy = vec![HashPolicy {
                policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(source_ip)),
            }];
        }
        proxy.tunneling_config = self.tunnel.as_ref().map(|tunnel| TunnelingConfig {
            hostname: names::host_port(&tunnel.target_host, tunnel.target_port.get()),
            use_post: tunnel.post,
            ..TunnelingConfig::default()
        });
    }
}
