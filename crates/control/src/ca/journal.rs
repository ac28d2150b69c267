//! What is issued, line by line, for those who are to revoke it. Must never know keys or tokens.

use std::net::SocketAddr;

use tracing::Level;
use weft_ca::{Issued, SpiffeId};

/// The log's target: thousands of lines are only for who asks for them.
const TARGET: &str = "weft_ca::issued";

/// Tells of a certificate. `by`: how it was known whom it is for.
pub(super) fn issued(id: &SpiffeId, issued: &Issued, by: &str, address: Option<SocketAddr>) {
    if !tracing::enabled!(target: TARGET, Level::DEBUG) {
        return;
    }
    let (serial, expires) = issued.serial_and_end().unzip();
    tracing::debug!(
        target: TARGET,
        serial, identity = %id, expires, by, address = address.map(tracing::field::display),
        "a certificate is issued"
    );
}
