//! The control plane: model → Envoy resources → proxies.
pub mod emit;
pub mod engine;
mod generate;
mod graph;
pub mod node;
mod pb;
mod wire;
