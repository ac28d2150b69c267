//! The data plane as a process: listeners, filter chains, the HTTP connection manager with its
//! router, the RPC connection manager, the TCP proxy, statistics, access logs and the admin endpoint.
//!
//! A connection read forward: [`listener`] → [`chain`] → [`http`], [`rpc`] or [`tcp`] →
//! `weft_upstream`. Configuration read forward: [`server`] → [`worker`]. It must never know
//! the control plane.

mod chain;
mod connection;
mod guard;
mod http;
mod key_servers;
mod listener;
mod prefixes;
mod routes;
mod rpc;
mod server;
mod stats;
mod tcp;
mod tracer;
mod worker;

#[cfg(test)]
mod tests;

pub mod access_log;
pub mod admin;

pub use weft_config::ConfigError; // of `CheckedBootstrap`
pub use weft_config::DataSource; // of `WorkloadSecrets`

pub use server::{
    CheckedBootstrap, OwnIdentity, ProxyError, ProxyOptions, WorkloadHealth, WorkloadSecrets,
    context, run,
};
