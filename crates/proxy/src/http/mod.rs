//! The HTTP connection manager: from a downstream connection to requests, through filters and
//! route to the router, and back.
//!
//! Read forward: [`serve`](serve::serve) → [`exchange`] → [`request::handle`] → [`admit`] →
//! `weft_filters` → [`router`] → `weft_upstream`.

pub(crate) mod admit;
pub(crate) mod body;
mod call;
mod client_body;
pub(crate) mod client_cert;
pub(crate) mod downstream;
pub(crate) mod exchange;
pub(crate) mod file_bodies;
pub(crate) mod flags;
pub(crate) mod headers;
mod log_view;
pub(crate) mod manager;
pub(crate) mod mirror;
mod pieces;
pub(crate) mod referer;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod retry;
pub(crate) mod router;
pub(crate) mod selection;
pub(crate) mod serve;
pub(crate) mod upgrade;
pub(crate) mod upload;

pub(crate) use downstream::Downstream;
pub(crate) use manager::Manager;
pub(crate) use serve::{serve, version};
