//! The mesh as the control plane thinks of it: services, ports, endpoints, workloads, and the
//! rules about them, neutral of where they were read (registry) and how they were written (API).
//!
//! Invariants:
//! - Nothing here knows protobuf, YAML, files or I/O.
//! - Equality and hashing are the *semantic projection* of an object: annotations,
//!   `resourceVersion`, comments, and places in files are absent, so that an edit of those is no
//!   change at all. Places travel beside an object (see `weft-sources`), never inside it.
//! - Short names are already resolved to full ones, `.` namespaces to real ones, percentages to
//!   integers: a reader needs no context to understand a rule.
#![warn(missing_docs)]

pub mod access;
pub mod address;
pub mod balancing;
pub mod cors;
pub mod delegate;
pub mod destination;
pub mod envoy_filter;
pub mod forwarding;
pub mod gateway;
pub mod hostname;
pub mod labels;
pub mod mesh;
pub mod name;
pub mod network;
pub mod object;
pub mod peer;
mod protocol;
pub mod provider;
pub mod proxy;
pub mod route;
pub mod rpc;
pub mod secret;
pub mod selector;
pub mod service;
pub mod sidecar;
pub mod stream;
pub mod telemetry;
pub mod token;

pub use access::{
    AccessAction, AccessCondition, AccessOperation, AccessRule, AccessSource, Attribute,
    AuthorizationPolicy, ValueSet,
};
pub use address::{AddressError, AddressRange, EndpointAddress, Locality};
pub use balancing::{
    ConsistentHash, Distribute, Growth, HashCookie, HashKey, HashTable, LoadBalancer,
    LoadBalancing, LocalityBalancing, LocalityPattern, Number, PriorityLabel, Warmup, ZoneAware,
};
pub use cors::CorsPolicy;
pub use delegate::{DelegateProblem, Resolved};
pub use destination::{
    ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, H2Upgrade, Http2Keepalive, HttpPool,
    KeyPairFiles, OutlierDetection, PolicySettings, ProxyProtocol, RetryBudget, Subset,
    TcpKeepalive, TcpPool, TrafficPolicy, Tunnel,
};
pub use envoy_filter::{
    ChainCondition, ClusterCondition, EnvoyFilter, EnvoyPatch, HostCondition, HttpRouteCondition,
    ListenerCondition, ObjectCondition, PatchContext, PatchOperation, PatchTarget, PatchValue,
    ProxyCondition, RouteActionKind, RouteCondition,
};
pub use forwarding::Forwarding;
pub use gateway::{
    ClientCertificates, ClientCheck, Gateway, GatewayServer, ServerIdentity, ServerTls,
    TlsTermination, TlsVersion,
};
pub use hostname::{HostScope, Hostname, HostnameError, ScopedHost};
pub use labels::Labels;
pub use mesh::{
    MeshAuthorities, MeshSettings, MeshTls, OutboundTrafficPolicy, PathNormalization, TlsDefaults,
};
pub use name::{
    ExportTo, Kind, NameError, Namespace, ObjectRef, PortNumber, RuleMeta, Timestamp, Weight,
};
pub use network::{GatewayPlace, MeshNetworks, Network, NetworkEndpoints, NetworkGateway};
pub use object::{NamespaceInfo, Object, ObjectKey, ServiceEndpoints, ServiceKey};
pub use peer::{MutualTlsMode, PeerAuthentication, PeerModes, spiffe_id};
pub use protocol::Protocol;
pub use provider::{DefaultProviders, Provider, ProviderKind, ProviderService};
pub use proxy::{ProxyHeaders, ProxySettings};
pub use route::{
    Abort, AbortKind, Delay, Destination, DirectResponse, Fault, GatewayRef, HeaderOperations,
    HeaderOps, HttpAction, HttpMatch, HttpRoute, Mirror, Percent, Redirect, RedirectPath,
    RedirectPort, RegexRewrite, ResponseBody, RetryPolicy, Rewrite, RouteDestination, StringMatch,
    VirtualService, routing_claim,
};
pub use rpc::{CallBucket, CallLimit, CallLimits, LimitCondition, RpcProtocol, ServiceCallLimit};
pub use secret::{Authorities, CredentialName, KeyPair, PrivateKey, Secret};
pub use service::{
    Endpoint, Health, Preference, Resolution, Service, ServicePort, TargetPort, Workload,
    WorkloadGroup,
};
pub use sidecar::{
    CaptureMode, DefaultEndpoint, EgressHost, EgressListener, EgressPort, EgressScope,
    IngressListener, Sidecar, unix_path,
};
pub use stream::{StreamDestination, StreamMatch, StreamRoute};
pub use telemetry::{AccessLogging, CallSide, Telemetry, TraceTag, Tracing};
pub use token::{KeyPlace, RequestAuthentication, TokenKeys, TokenRule};
