//! Who calls, and what each call passes before it is routed: tokens, policies and limits. Must never know
//! routes.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_config::Metadata;
use weft_config::rbac::{Head, RbacFilter, Subject};
use weft_config::rpc::{RpcFilter, RpcLimit, RpcServiceLimit};
use weft_core::metrics::Scope;
use weft_filters::{
    Connection, ConnectionBucket, CounterGroup, Judged, RBAC_DENIED, RbacCounters, limit_clock,
};
use weft_net::Stream;
use weft_rpc::{Attributes, Codec, Failure, Frame};

use super::Refusal;
use super::question::{Question, SERVICE_COUNTS};
use super::tokens::{Edits, TokenFilter};
use crate::connection::Registered;
use crate::http::client_cert::peer_names;
use crate::http::flags::ResponseFlags;
use crate::routes::RpcFilterSlot;
use crate::worker::Worker;

/// The client of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Number of its connection.
    pub(super) id: u64,
    /// As filters see it.
    pub(super) connection: Connection,
    /// The peer of its socket.
    pub(super) direct: SocketAddr,
    /// The address that it wanted, if the connection was redirected.
    pub(super) original_dst: Option<SocketAddr>,
}

impl Peer {
    pub(super) fn new(
        stream: &Stream,
        (peer, local): (SocketAddr, SocketAddr),
        registered: &Registered,
        protocol: &'static str,
    ) -> Self {
        let handle = registered.handle();
        let direct = handle.direct(peer);
        // Policies that come later may ask for them.
        let names = stream
            .is_tls()
            .then(|| peer_names(stream.peer_certificates()));
        Self {
            id: registered.id(),
            connection: Connection {
                local,
                protocol,
                peer,
                direct: direct.ip(),
                server_name: stream.server_name().unwrap_or_default().into(),
                names,
                bucket: ConnectionBucket::default(),
            },
            direct,
            original_dst: handle.original_dst(local),
        }
    }

    /// A call of its, to policies.
    fn subject<'s>(&'s self, call: &'s Attributes<'_>, metadata: &'s Metadata) -> Subject<'s> {
        let connection = &self.connection;
        Subject {
            head: Some(Head::Call(call)),
            peer: connection.names.as_ref(),
            server_name: &connection.server_name,
            destination: connection.local,
            direct_remote: connection.direct,
            remote: connection.peer.ip(),
            metadata: Some(metadata),
            route_metadata: None,
        }
    }
}

/// The filters of a manager in one worker: those of this moment, for calls of all connections.
#[derive(Debug)]
pub(super) struct Gate {
    slot: RpcFilterSlot,
    now: RefCell<Filters>,
}

/// Filters that are ready to be asked, and what they were made of.
#[derive(Debug, Default)]
struct Filters {
    of: Option<Arc<Vec<RpcFilter>>>,
    all: Vec<Filter>,
}

#[derive(Debug)]
enum Filter {
    Rbac(Arc<RbacFilter>, RbacCounters),
    Tokens(TokenFilter),
    /// Its counters are those of `LIMIT_COUNTS`.
    Limit(Arc<RpcLimit>, Arc<CounterGroup>),
    /// Its counters are those of `SERVICE_COUNTS`.
    ServiceLimit(Arc<RpcServiceLimit>, Arc<CounterGroup>),
}

/// How far a call has come.
#[derive(Debug)]
pub(super) enum Admitted {
    /// Through all filters.
    Through,
    /// Up to a service that has to be asked first.
    Ask(Box<Question>),
}

/// Where a call goes on that a service has let pass.
#[derive(Debug)]
pub(super) struct Passed {
    of: Arc<Vec<RpcFilter>>,
    /// The next of these filters.
    next: usize,
    /// What filters have left.
    left: Metadata,
}

/// What happened to calls under a limit, by Aeraki's names; [`OK`] and [`RATE_LIMITED`] are their places.
const LIMIT_COUNTS: &[&str] = &["local_rate_limit.ok", "local_rate_limit.rate_limited"];
const OK: usize = 0;
const RATE_LIMITED: usize = 1;

impl Gate {
    pub(super) fn new(slot: RpcFilterSlot) -> Self {
        Self {
            slot,
            now: RefCell::default(),
        }
    }

    /// Asks every filter; `edit` changes the call's attachments as one wants it, before the next looks at
    /// them. What filters leave goes to `logged`. Their counters belong to a stat prefix.
    ///
    /// # Errors
    /// The answer to a call that is kept out.
    pub(super) fn admits(
        &self,
        (codec, frame, peer): (&'static dyn Codec, &mut Frame, &Peer),
        (logged, passed): (Option<&mut Metadata>, Option<Passed>),
        (owner, worker): (&Arc<str>, &Worker),
        edit: impl Fn(&mut Frame, &Edits) -> Result<(), Refusal>,
    ) -> Result<Admitted, Refusal> {
        let wanted = self.slot.load();
        let Some(wanted) = &*wanted else {
            return Ok(Admitted::Through);
        };
        // Filters that have come while a service was asked look at the call from the first on, but it
        // is counted once.
        let (first, counted, mut unseen) = match passed {
            Some(passed) if Arc::ptr_eq(&passed.of, wanted) => (passed.next, false, passed.left),
            Some(passed) => (0, true, passed.left),
            None => (0, false, Metadata::default()),
        };

        let mut now = self.now.borrow_mut();
        if !now.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, wanted)) {
            *now = Filters::new(wanted, owner, worker);
        }
        let is_logged = logged.is_some();
        let metadata = match logged {
            Some(logged) => {
                if first > 0 || counted {
                    *logged = unseen;
                }
                logged
            }
            None => &mut unseen,
        };
        for (at, filter) in now.all.iter().enumerate().skip(first) {
            match filter {
                Filter::Tokens(tokens) => {
                    let call = Attributes::new(codec, frame);
                    let checked = tokens.check(&call, &peer.connection, metadata, worker);
                    drop(call);
                    let edits = checked.map_err(|reply| {
                        let text = String::from_utf8_lossy(&reply.body).into_owned();
                        denied(&text, reply.details)
                    })?;
                    edit(frame, &edits)?;
                }
                Filter::Rbac(rbac, counters) => {
                    let call = Attributes::new(codec, frame);
                    let subject = peer.subject(&call, metadata);
                    let judged = Judged::by(rbac, counters, &subject);
                    if is_logged {
                        judged.leave(rbac, metadata);
                    }
                    if let Some(details) = judged.refusal() {
                        return Err(denied(RBAC_DENIED, details.into()));
                    }
                }
                Filter::Limit(..) | Filter::ServiceLimit(..) if counted => {}
                Filter::ServiceLimit(limit, counters) => {
                    let call = Attributes::new(codec, frame);
                    let descriptors = limit.descriptors(&call);
                    if descriptors.is_empty() {
                        continue;
                    }
                    let left = std::mem::take(metadata);
                    let passed = Passed {
                        of: Arc::clone(wanted),
                        next: at + 1,
                        left,
                    };
                    let question = Question::new((limit, counters), descriptors, passed);
                    return Ok(Admitted::Ask(Box::new(question)));
                }
                Filter::Limit(limit, counters) => {
                    let call = Attributes::new(codec, frame);
                    if !limit.admits(&call, limit_clock()) {
                        counters.inc(RATE_LIMITED);
                        return Err(limited());
                    }
                    counters.inc(OK);
                }
            }
        }
        Ok(Admitted::Through)
    }
}

fn denied(text: &str, details: Cow<'static, str>) -> Refusal {
    Refusal {
        details,
        ..Refusal::new(Failure::Denied, format!("weft: {text}"))
    }
}

fn limited() -> Refusal {
    Refusal {
        flags: ResponseFlags::RATE_LIMITED,
        details: Cow::Borrowed("local_rate_limited"),
        ..Refusal::new(Failure::Overload, "weft: local rate limited".to_owned())
    }
}

impl Filters {
    fn new(configured: &Arc<Vec<RpcFilter>>, owner: &Arc<str>, worker: &Worker) -> Self {
        let make = |prefix: &str, names| {
            let scope = Scope::rpc(Arc::clone(owner));
            let kept = &worker.prefixes;
            kept.counters(&worker.registry, owner, scope, (prefix, names))
        };
        let filters = configured.iter().map(|filter| match filter {
            RpcFilter::Rbac(rbac) => {
                let prefixes = (&*rbac.stat_prefix, &*rbac.shadow_stat_prefix);
                let counters = RbacCounters::new("", prefixes, &make);
                Filter::Rbac(Arc::clone(rbac), counters)
            }
            RpcFilter::Limit(limit) => {
                let scope = Scope::rpc(Arc::clone(&limit.stat_prefix));
                let kept = &worker.prefixes;
                let names = ("", LIMIT_COUNTS);
                let counters = kept.counters(&worker.registry, owner, scope, names);
                Filter::Limit(Arc::clone(limit), counters)
            }
            RpcFilter::ServiceLimit(limit) => {
                Filter::ServiceLimit(Arc::clone(limit), make("ratelimit.", SERVICE_COUNTS))
            }
            RpcFilter::Jwt(tokens) => Filter::Tokens(TokenFilter::new(tokens, owner, worker)),
        });
        Self {
            all: filters.collect(),
            of: Some(Arc::clone(configured)),
        }
    }
}
