//! The sockets of a listener: which addresses, how they are bound, and when a change of the
//! listener may keep them. Must never know what is served on them.

use std::net::{SocketAddr, TcpListener};

use weft_net::BindOptions;

/// Where a listener is bound, and with what.
pub(super) type Bound = (Vec<SocketAddr>, Sockets);

/// For every worker a socket an address.
pub(super) type Sockets = Vec<Vec<TcpListener>>;

/// One socket an address and worker; they do not listen yet.
///
/// # Errors
/// An address is taken or not allowed; the text names it.
pub(super) fn bind(config: &weft_config::Listener, workers: usize) -> std::io::Result<Bound> {
    let options = bind_options(config);
    let mut bound = Vec::new();
    let mut per_worker: Sockets = Vec::new();
    per_worker.resize_with(workers, Vec::new);
    for address in addresses(config) {
        let sockets = weft_net::bind(address, workers, &options)?;
        if let Some(first) = sockets.first() {
            bound.push(first.local_addr()?);
        }
        for (mine, socket) in per_worker.iter_mut().zip(sockets) {
            mine.push(socket);
        }
    }
    Ok((bound, per_worker))
}

/// How a listener's sockets are made.
pub(super) fn bind_options(config: &weft_config::Listener) -> BindOptions {
    BindOptions {
        reuse_port: config.reuse_port,
        backlog: config.backlog.unwrap_or(BindOptions::default().backlog),
        transparent: config.transparent,
        freebind: config.freebind,
    }
}

/// All addresses of a listener.
pub(super) fn addresses(config: &weft_config::Listener) -> Vec<SocketAddr> {
    let more = config.additional_addresses.iter().copied();
    std::iter::once(config.address).chain(more).collect()
}

/// Whether a change can keep the sockets.
pub(super) fn same_sockets(old: &weft_config::Listener, new: &weft_config::Listener) -> bool {
    addresses(old) == addresses(new)
        && old.bind_to_port == new.bind_to_port
        && old.reuse_port == new.reuse_port
        && old.transparent == new.transparent
        && old.freebind == new.freebind
        && old.backlog == new.backlog
        && old.tcp_keepalive == new.tcp_keepalive
}
