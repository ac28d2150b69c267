//! Pure functions from the model to Envoy's resources, in the names and shapes that istiod emits
//! (see `shared` conventions in ARCHITECTURE.md). Equal input gives equal bytes. Must never know
//! the engine that calls them, nor proxies beyond what they are told.

pub(crate) mod access;
mod access_logs;
mod actions;
mod balancers;
mod bridge;
pub(crate) mod clusters;
mod connections;
mod cors;
pub(crate) mod dynamic;
pub(crate) mod endpoints;
pub(crate) mod gateways;
pub(crate) mod grpc;
pub(crate) mod grpc_clusters;
pub(crate) mod hash;
pub(crate) mod http;
pub(crate) mod inbound;
mod inspectors;
pub(crate) mod listeners;
pub(crate) mod locality;
pub(crate) mod matches;
pub(crate) mod metadata;
pub(crate) mod mutual;
pub(crate) mod name_table;
pub(crate) mod names;
pub(crate) mod networks;
pub(crate) mod own_clusters;
pub(crate) mod peers;
mod policies;
pub(crate) mod reporting;
pub(crate) mod routes;
mod rpc;
pub(crate) mod rpc_routes;
pub(crate) mod sds;
pub(crate) mod secrets;
pub(crate) mod stat_names;
mod streams;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod tokens;
mod tracing;
pub(crate) mod virtual_hosts;
