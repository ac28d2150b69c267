//! The APIs in which services and rules are written, each turned into the model.

pub(crate) mod aeraki;
pub mod istio;
pub(crate) mod kubernetes;
