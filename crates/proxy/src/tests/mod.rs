//! Requests and connections through a whole proxy: what only shows when all parts are together.

mod ends;
mod faults;
mod frames;
mod limits;
mod lying;
mod proxy;
mod routes;
mod rpc;
mod rpc_bridge;
mod rpc_limits;
mod rpc_local_limits;
mod rpc_policies;
mod rpc_service_limits;
mod rpc_thrift;
mod rpc_tracing;
mod uploads;
