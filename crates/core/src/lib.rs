//! What every room of the house may know: metrics and the drain signal.
//!
//! Nothing here touches a file, a socket or a protocol.

pub mod counters;
pub mod drain;
pub mod metrics;
