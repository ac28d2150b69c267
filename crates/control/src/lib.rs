//! The control plane: the mesh's model in, what each proxy is to have out, over ADS.
//!
//! ```text
//! weft-sources → world (indexes) → graph (incremental) → views → weft-xds → proxies
//! ```
//!
//! Invariants:
//! - Everything derived is computed by [`engine`] from recorded reads; there is no invalidation
//!   code. Incremental equals from scratch (a property test).
//! - Equal input gives equal bytes, on every replica and after every restart.
//! - A proxy whose view did not change is not touched: a no-op edit sends nothing.
//! - Every resource knows the objects that made it.
//!
//! Never knows the sockets of the data path.

mod ca;
mod core;
pub mod emit;
pub mod engine;
mod gateway_names;
mod generate;
mod graph;
pub mod identity;
mod keys;
mod monitoring;
pub mod node;
mod offline;
mod patch;
mod pb;
mod plane;
#[cfg(test)]
mod tests;
mod wire;
mod world;

pub use self::core::{Connected, Core, Push, Refused, Registration, TypeState};
pub use ca::{ReviewConfig, SecureConfig, SecureError, SignerConfig};
pub use graph::ProxyView;
pub use keys::{HttpProxies, KeyFetch};
pub use offline::Offline;
pub use plane::{ControlConfig, ControlError, ControlPlane};
