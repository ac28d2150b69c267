//! Routes of connections whose bytes are not looked into: TCP, and TLS by its server name.
//! Knows no listeners.

use crate::address::AddressRange;
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::name::{Namespace, PortNumber, Weight};
use crate::route::{Destination, GatewayRef};

/// Where connections go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamRoute {
    /// Alternatives: one must hold. Empty matches everything; never empty for TLS.
    pub matches: Vec<StreamMatch>,
    /// Never empty. A single destination gets everything whatever its weight.
    pub destinations: Vec<StreamDestination>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct StreamMatch {
    /// Server names, wildcards by suffix; never empty for TLS, always for TCP.
    pub sni_hosts: Vec<Hostname>,
    /// Where the client wanted to connect; empty is anywhere.
    pub destination_subnets: Vec<AddressRange>,
    /// The port of the listener.
    pub port: Option<PortNumber>,
    /// Labels that the calling workload must have.
    pub source_labels: Labels,
    /// Namespace of the calling workload.
    pub source_namespace: Option<Namespace>,
    /// Where the condition applies, instead of all of the rule's gateways; empty is everywhere.
    pub gateways: Vec<GatewayRef>,
}

/// A destination and its share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamDestination {
    /// Where.
    pub destination: Destination,
    /// Share among its siblings.
    pub weight: Weight,
}
