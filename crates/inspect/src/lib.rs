//! What people see of a running mesh: configuration dumps as tables in `istioctl`'s columns, where
//! proxies stand, whether an edit is live. Texts and JSON in, texts out.
//!
//! Invariants:
//! - Reads dumps of Envoy, of Weft's proxy and of both control planes alike: field names in either
//!   spelling, messages of unknown types passed over.
//! - Never fails on a dump that misses something: what is not there is not shown.
//!
//! Never does I/O, and never knows how a resource came about.
#![warn(missing_docs)]

pub mod bootstrap;
pub mod clusters;
pub mod dump;
pub mod endpoints;
pub mod explain;
pub mod extensions;
mod fields;
pub mod listeners;
pub mod output;
pub mod routes;
pub mod secrets;
pub mod simulate;
pub mod status;
pub mod table;
pub mod wait;

pub use dump::{Dump, DumpError};
pub use table::Table;
