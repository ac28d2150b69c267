//! The APIs in which services and rules are written, each turned into the model.

pub mod istio;
pub(crate) mod kubernetes;
