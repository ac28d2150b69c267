//! The listener filter that takes a connection's addresses from the header of the PROXY protocol.
//! It must never know what follows the header.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use weft_config::listener::ProxyProtocol;
use weft_core::metrics::Scope;
use weft_net::Peeked;
use weft_net::proxy_protocol::{Accepts, Header, Parsed, ReadError, Version, read};

use super::{Listener, ListenerSpec};
use crate::connection::Registered;
use crate::worker::Worker;

/// Envoy's names.
const COUNTERS: &[&str] = &[
    "not_found_allowed",
    "not_found_disallowed",
    "versions.v1.found",
    "versions.v1.disallowed",
    "versions.v1.error",
    "versions.v2.found",
    "versions.v2.disallowed",
    "versions.v2.error",
];
const NOT_FOUND_ALLOWED: usize = 0;
const NOT_FOUND_DISALLOWED: usize = 1;
const FOUND: usize = 0;
const DISALLOWED: usize = 1;
const ERROR: usize = 2;

/// The place of a version's counter.
fn of(version: Version, what: usize) -> usize {
    match version {
        Version::V1 => 2 + what,
        Version::V2 => 5 + what,
    }
}

fn count(worker: &Worker, filter: &ProxyProtocol, parsed: Parsed) {
    let group = (&*filter.stat_prefix, COUNTERS);
    let (owner, scope) = (&filter.stat_prefix, Scope::root(""));
    let counters = worker
        .prefixes
        .counters(&worker.registry, owner, scope, group);
    match parsed {
        Parsed::NeedMore => {}
        Parsed::Absent => counters.inc(NOT_FOUND_ALLOWED),
        Parsed::Invalid(None) => counters.inc(NOT_FOUND_DISALLOWED),
        Parsed::Invalid(Some(version)) => counters.inc(of(version, ERROR)),
        Parsed::Disallowed(version) => {
            counters.inc(of(version, FOUND));
            counters.inc(of(version, DISALLOWED));
        }
        Parsed::Header(header) => counters.inc(of(header.version, FOUND)),
    }
}

impl Listener {
    /// Reads the header, if the listener wants one, and gives the connection and the addresses of its
    /// ends (client and own) as far as a header tells; `None` if it is to be closed.
    pub(super) async fn proxy_header(
        &self,
        tcp: TcpStream,
        ends: (SocketAddr, SocketAddr),
        (spec, worker): (&ListenerSpec, &Worker),
        registered: &Registered,
    ) -> Option<(Peeked, (SocketAddr, SocketAddr))> {
        let filters = &spec.config.filters;
        let (peer, local) = ends;
        let configured = filters.proxy_protocol.as_ref();
        let Some(filter) = configured.filter(|it| !it.disabled.disabled_for(local.port())) else {
            return Some((tcp.into(), ends));
        };
        let accepts = Accepts {
            v1: filter.v1,
            v2: filter.v2,
            without: filter.without,
        };
        self.stats.downstream_pre_cx_active.inc();
        let result = tokio::select! {
            result = read(tcp, accepts, filters.timeout) => Some(result),
            () = registered.handle().finishing() => None,
        };
        self.stats.downstream_pre_cx_active.dec();
        let (io, parsed) = match result? {
            Ok(read) => read,
            Err(ReadError::Io(_)) => {
                self.stats.downstream_listener_filter_error.inc();
                return None;
            }
            Err(ReadError::Closed) => {
                self.stats.downstream_listener_filter_remote_close.inc();
                return None;
            }
            Err(ReadError::Timeout(io)) => {
                self.stats.downstream_pre_cx_timeout.inc();
                return filters.continue_on_timeout.then_some((io, ends));
            }
        };
        count(worker, filter, parsed);
        match parsed {
            Parsed::Absent => Some((io, ends)),
            Parsed::Header(Header { addresses, .. }) => {
                let told = addresses.unwrap_or(ends);
                if addresses.is_some() {
                    registered.handle().set_direct(peer);
                }
                if told.1 != local {
                    registered.handle().set_redirected();
                }
                Some((io, told))
            }
            Parsed::NeedMore | Parsed::Invalid(_) | Parsed::Disallowed(_) => None,
        }
    }
}
