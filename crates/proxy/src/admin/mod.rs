//! The admin interface: Envoy's paths, outputs and status codes over HTTP/1.
//!
//! The data path fills an [`AdminState`]; handlers only read it, and what a caller orders
//! (drain, quit) leaves as an [`AdminCommand`]. This module must never reach into a worker
//! and never decide about traffic.
//!
//! Known differences from Envoy 1.40: label values in Prometheus come from the scope and so
//! keep dots (`envoy_cluster_name="a.b"`), histograms have no interval values (`nan`, `null`),
//! there is no HTML form of `/stats`, and profilers and heap dumps are unknown paths.

mod certs;
mod clusters;
mod config_dump;
pub mod dump;
mod handlers;
mod histogram;
mod logging;
mod prometheus;
mod request;
mod sections;
mod server;
mod server_info;
mod state;
mod stats;

#[cfg(test)]
mod tests;

pub use certs::CertificateDirectory;
#[cfg(test)]
pub(crate) use certs::contexts as certificate_contexts;
pub use clusters::{
    BreakerLimits, ClusterDirectory, ClusterStatus, HostHealth, HostStats, HostStatus, Locality,
    OutlierStatus,
};
pub use dump::{Kind, ResourceDump};
pub use logging::{LogControl, LogLevel};
pub use server::AdminServer;
pub use server_info::ServerOptions;
pub use state::{
    AdminCommand, AdminParts, AdminState, DrainRequest, InitTargets, ListenerDirectory, Readiness,
    ServerState,
};
