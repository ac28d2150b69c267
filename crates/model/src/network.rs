//! The networks of a mesh that has several: which endpoints lie in each, and the gateways by which
//! the others reach them (Istio's `MeshNetworks`). Looks nothing up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::AddressRange;
use crate::hostname::Hostname;
use crate::name::{ObjectRef, PortNumber};

/// All networks that are described, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshNetworks {
    /// The document.
    pub origin: ObjectRef,
    /// By name.
    pub networks: BTreeMap<Arc<str>, Network>,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Network {
    /// What lies in it.
    pub endpoints: Vec<NetworkEndpoints>,
    /// Where it is entered from other networks, by mutual TLS.
    pub gateways: Vec<NetworkGateway>,
}

/// Which endpoints lie in a network, of those that do not say it themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetworkEndpoints {
    /// Those with such addresses.
    Range(AddressRange),
    /// All of the cluster of this name.
    Registry(Arc<str>),
}

/// A way into a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkGateway {
    /// Where it is.
    pub place: GatewayPlace,
    /// The port for mutual TLS that is passed on by server name.
    pub port: PortNumber,
}

/// Where the gateway of a network is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayPlace {
    /// At an address.
    Ip(IpAddr),
    /// At the addresses of a name.
    Name(Arc<str>),
    /// At the external addresses of a service, if the network is that of its cluster.
    Service(Hostname),
}
