//! What Istio's agent does beside a proxy. The identity of a workload: makes its key, asks the mesh's
//! authority for a certificate, renews it in time, keeps the last good one while the authority is
//! away, and gives it to the workload's own processes. The health of a workload: probes it, and tells
//! what has changed. Never knows for what the certificate is used, nor what follows from the health.
//!
//! ```text
//! Plan (when, with which credential) ─┐
//! token, provisioned files ───────────┴→ Agent ──► authority (Istio's CreateCertificate)
//!                                          ├─────► its user, and the folder of OUTPUT_CERTS
//!                                          └─────► applications (SPIFFE Workload API)
//! ```
//!
//! Invariants:
//! - A key never leaves the process but to the folder that the operator names, with 0600; its
//!   memory is wiped, and it never shows itself.
//! - An answer that is of no use changes nothing.
//! - Roots that the authority sent count for the next call as those of the file do, since roots
//!   change while files stay.
//!
//! Source: names of flags, of files and of metrics are those of Istio's agent.

mod agent;
mod client;
mod credentials;
mod doubts;
mod look;
mod options;
mod output;
mod plan;
mod probe;
mod stats;
mod workload_api;

pub use agent::{Agent, Publish, WorkloadIdentity};
pub use credentials::TokenSource;
pub use doubts::Doubts;
pub use look::start as start_probe;
pub use options::{AgentOptions, Roots};
pub use plan::{Plan, Schedule, Shown, Trouble};
pub use probe::{Method, Probe};
pub use stats::AgentStats;
pub use workload_api::{Socket, SocketError, WorkloadApi, WorkloadApiOptions};
