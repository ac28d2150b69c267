//! The HTTP connection manager: from a downstream connection to requests, through filters and
//! route to the router, and back.
//!
//! Read forward: [`serve`](serve::serve) → [`exchange`] → [`request::handle`] →
//! `weft_filters` → [`router`] → `weft_upstream`.

pub(crate) mod body;
pub(crate) mod client_cert;
pub(crate) mod exchange;
pub(crate) mod flags;
pub(crate) mod headers;
pub(crate) mod manager;
pub(crate) mod mirror;
pub(crate) mod path;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod retry;
pub(crate) mod router;
pub(crate) mod serve;
pub(crate) mod upgrade;
pub(crate) mod upload;

pub(crate) use exchange::Downstream;
pub(crate) use manager::Manager;
pub(crate) use serve::{serve, version};
