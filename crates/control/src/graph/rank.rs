//! The order in which keys are computed: a node reads only keys of a lower rank. Must never know how
//! anything is computed.

use super::key::{Key, Part};

impl Key {
    #[allow(clippy::too_many_lines, reason = "a table")]
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Mesh
            | Self::Service(_)
            | Self::Endpoints(_)
            | Self::ServiceIndex(_)
            | Self::VirtualService(_)
            | Self::RuleIndex(..)
            | Self::WildcardRules(_)
            | Self::CallRules
            | Self::StreamIndex(_)
            | Self::WildcardStreams
            | Self::GatewayStreams(_)
            | Self::Secret(..)
            | Self::Svid(..)
            | Self::ConfigMap(..)
            | Self::NamedConfigMaps
            | Self::DestinationRule(_)
            | Self::DestinationIndex(..)
            | Self::WildcardDestinations(_)
            | Self::Gateways
            | Self::Sidecars(_)
            | Self::EnvoyFilter(_)
            | Self::EnvoyFilters(_)
            | Self::Telemetries(_)
            | Self::RuleSelectors(_)
            | Self::ServicesAt(_)
            | Self::WorkloadAt(..)
            | Self::VipOwners(_)
            | Self::MeshNetworks
            | Self::GatewayServices
            | Self::GatewayAddresses
            | Self::NamespaceLabels(_)
            | Self::MentionedLabels
            | Self::StreamLabels
            | Self::PeerAuthentications(_)
            | Self::AuthorizationPolicies(_)
            | Self::RequestAuthentications(_)
            | Self::TokenKeys(_) => 0,
            Self::Visible(scope, _) if scope.part == Part::Whole => 3,
            Self::Networks
            | Self::Special(_)
            | Self::OwnRules(..)
            | Self::ResolvedRule(_)
            | Self::Visible(..)
            | Self::RuleNeeds(..)
            | Self::NamespaceMode(_)
            | Self::Accounts(_)
            | Self::Guard(..)
            | Self::GrpcListeners(..)
            | Self::StandingClusters(..)
            | Self::PatchPlan(_)
            | Self::Credential(..)
            | Self::WorkloadSecrets(..)
            | Self::GatewayPorts(_) => 1,
            Self::RuleTargets(..) | Self::Plain(_) => 2,
            Self::Destinations(..)
            | Self::HostRules(..)
            | Self::PortShard(..)
            | Self::Reports(_)
            | Self::ServiceClusters(..)
            | Self::ServiceEndpoints(..)
            | Self::OwnEndpoints(..)
            | Self::GrpcClusters(..)
            | Self::NameShard(..) => 4,
            Self::ClusterChunk(..)
            | Self::EndpointChunk(..)
            | Self::ShardNeeds(..)
            | Self::Forwarding(..)
            | Self::GrpcListenerChunk(..)
            | Self::WildcardPorts(..)
            | Self::ShardCredentials(..)
            | Self::Served(..)
            | Self::GatewayHosts(..) => 5,
            Self::ScopeNeeds(_)
            | Self::VipListeners(..)
            | Self::WildcardListener(..)
            | Self::EgressListeners(..)
            | Self::OutboundHost(_)
            | Self::PassedOn(..)
            | Self::GatewayHost(_) => 6,
            Self::HostChunk(..)
            | Self::SniffedRoutes(..)
            | Self::RpcRoutes(..)
            | Self::GrpcRoutes(..)
            | Self::ProxyPlan(_)
            | Self::GatewayListener(..)
            | Self::GatewayHostChunk(..) => 7,
            Self::OutboundRoute(..) | Self::GatewayRoute(..) => 8,
            Self::ClusterView(..)
            | Self::EndpointView(..)
            | Self::OutboundListeners(..)
            | Self::OutboundRoutes(..)
            | Self::GrpcListenerView(..)
            | Self::GrpcRouteView(_)
            | Self::GatewayListeners(..)
            | Self::GatewayRoutes(_)
            | Self::NameTable(..)
            | Self::Secrets(..) => 9,
            Self::PatchedView(..) | Self::PatchedOwn(_) | Self::ExtensionView(_) => 10,
            Self::ProxyView(_) => 11,
        }
    }
}
