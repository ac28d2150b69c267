//! The secure port: certificates for who is believed, and streams for nodes that are who their
//! credentials say.

mod certificates;
mod malformed;
#[path = "../plane/mod.rs"]
mod plane;
mod setup;
mod streams;
mod tokens;
