//! Commands that look inside of a running mesh: asks control planes and proxies over HTTP, and
//! prints what `weft-inspect` makes of the answers.

pub(crate) mod args;
pub(crate) mod authz;
pub(crate) mod explain;
mod fetch;
mod pages;
pub(crate) mod proxy_config;
pub(crate) mod proxy_status;
pub(crate) mod simulate;
pub(crate) mod wait;
