//! Clusters at run time: hosts, balancing, circuit breakers, outlier detection, connection
//! pools, DNS. Knows neither listeners nor routes.
//!
//! [`ClusterStore`] takes configuration on the main thread and builds what all workers share;
//! a [`ClusterManager`] on each worker gives out [`Cluster`]s, which choose a [`Host`]
//! ([`Cluster::pick`]) and send to it ([`Cluster::send`], [`Cluster::connect_tcp`]).

mod balance;
mod body;
mod breaker;
mod cluster;
mod connector;
mod counters;
pub mod dns;
mod dynamic;
mod failure;
mod header_limits;
mod host;
mod host_set;
mod lease;
mod manager;
mod outlier;
mod pool;
mod random;
mod send;
mod shared;
mod state;
mod stats;
mod store;
mod tls_context;

pub use balance::previous::PreviousPriorities;
pub use body::{BodyError, BoxError, RequestBody, ResponseBody};
pub use breaker::{Breaker, Priority, Resource};
pub use cluster::{Cluster, PickContext};
pub use connector::{Ends, Protocol};
pub use dynamic::{Called, NameCache, NameFailure};
pub use failure::{FailureKind, SendFailure};
pub use host::{Host, HostAddress, HostShared, Placed};
pub use host_set::HostSet;
pub use manager::ClusterManager;
pub use outlier::{Outcome, SuccessRates};
pub use random::Random;
pub use send::SendOptions;
pub use shared::{ActiveRequest, SharedConnection, WaitingRequest};
pub use stats::{ClusterStats, HostStats};
pub use store::{ClusterStatus, ClusterStore};
pub use tls_context::{Secrets, check_clients, client_spec, read, server_spec};

#[cfg(test)]
mod tests;
