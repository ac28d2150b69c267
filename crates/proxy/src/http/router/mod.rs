//! The router: from a route to an upstream's response, with timeouts, retries and mirrors.
//!
//! Source of the rules: Envoy, "Router" filter.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use weft_config::route::{HashPolicy, HostRewrite, Priority, RequestHash};
use weft_config::{Forward, RouteAction};
use weft_filters::rpc_bridge::in_json;
use weft_filters::{BridgedCall, LocalReply};
use weft_upstream::{
    Called, Cluster, Host, Outcome as Seen, PickContext, PreviousPriorities, Protocol, RequestBody,
    ResponseBody as UpstreamBody, SendFailure, SendOptions,
};

use super::admit::Head;
use super::client_body::ClientBody;
use super::exchange::{Exchange, UpstreamInfo};
use super::flags::ResponseFlags;
use super::headers::{self, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_EXPECTED_TIMEOUT};
use super::request::{Received, Refused};
use super::retry::{Decision, Retries};
use super::selection::Routed;
use super::serve::Answer;
use super::upload::Upload;
use super::{mirror, respond, retry};

mod bridge;
mod failure;
mod response;
mod rewrite;
mod target;
mod timeouts;

pub(super) use failure::REQUEST_TIMEOUT;
use failure::malformed_body;
use rewrite::{needs_source, replace_host, rewrite};
pub(crate) use target::{Choice, Target};
use timeouts::{AttemptLimits, Timeouts};

/// A request body of which no more than this is kept for a retry (Envoy: the connection's
/// buffer limit, 1 MiB).
const RETRY_BUFFER: usize = 1024 * 1024;

/// Everything about one request that its attempts share.
struct Routing {
    target: Target,
    forward: Arc<Forward>,
    cluster: Rc<Cluster>,
    head: Head,
    body: Outgoing,
    retries: Option<Retries>,
    timeouts: Timeouts,
    /// When the filters were done: their time is not the upstream's.
    began: Instant,
    hash: Option<u64>,
    /// Values of `set-cookie` for clients that had none of what is hashed.
    cookies: Vec<String>,
    tried: Vec<Rc<Host>>,
    /// Where it has been tried, if retries go to other priorities.
    previous: Option<RefCell<PreviousPriorities>>,
    /// Held from the decision to try again until that attempt has its outcome.
    retrying: Option<Retrying>,
    on_upgrade: Option<OnUpgrade>,
    /// It goes up as a call of an RPC protocol.
    rpc: Option<Box<BridgedCall>>,
}

/// A retry that the circuit breaker has allowed.
struct Retrying {
    cluster: Rc<Cluster>,
    priority: Priority,
}

impl Retrying {
    fn begin(cluster: &Rc<Cluster>, priority: Priority) -> Option<Self> {
        cluster.try_retry(priority).then(|| Self {
            cluster: Rc::clone(cluster),
            priority,
        })
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.cluster.end_retry(self.priority);
    }
}

/// The request's body, if it has one.
enum Outgoing {
    None,
    Upload(Upload),
}

impl Outgoing {
    /// Whether the client has sent everything.
    fn is_complete(&self) -> bool {
        match self {
            Self::None => true,
            Self::Upload(upload) => upload.complete(),
        }
    }

    /// Whether the client's body turned out to be none.
    fn is_malformed(&self) -> bool {
        match self {
            Self::None => false,
            Self::Upload(upload) => upload.is_malformed(),
        }
    }

    /// When the upstream had all it needs to answer, which is not before the router `began`;
    /// `None` while the client is sending.
    fn asked_at(&self, began: Instant) -> Option<Instant> {
        match self {
            Self::None => Some(began),
            Self::Upload(upload) => upload.completed_at().map(|at| at.max(began)),
        }
    }
}

/// What became of one attempt.
enum Outcome {
    Response(Response<UpstreamBody>),
    Failed(SendFailure),
    Late(Late),
}

/// The limit that an attempt has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    PerTry,
    Route,
    Idle,
    MaxStream,
    /// The client has not sent its request in time.
    Request,
}

/// Sends the request to the route's cluster and gives the response.
pub(crate) async fn forward(received: Box<Received>) -> Answer {
    let (mut exchange, mut routing) = match Routing::of(*received) {
        Ok(ready) => ready,
        Err(refused) => return Ok(*refused),
    };
    let result = if routing.cluster.drops_request() {
        Err(routing.drop_overload(&mut exchange))
    } else {
        routing.mirror(&exchange);
        routing.run(&mut exchange).await
    };
    match result {
        Ok(response) => Ok(routing.respond(exchange, response)),
        Err(reply) => {
            exchange.request_open &= !routing.body.is_complete();
            let reply = if routing.rpc.is_some() {
                in_json(reply)
            } else {
                reply
            };
            let (grpc, method) = (routing.head.grpc, &routing.head.method);
            Ok(respond::local(exchange, &reply, grpc, method))
        }
    }
}

fn no_route(exchange: Box<Exchange>, head: &Head) -> Refused {
    let reply = LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag("NR");
    Box::new(respond::local(exchange, &reply, head.grpc, &head.method))
}

/// The hash by which a cluster that hashes chooses the host.
fn hash(exchange: &Exchange, head: &Head, forward: &Forward, cluster: &Cluster) -> RequestHash {
    if forward.hash_policies.is_empty() || !cluster.hashes() {
        return RequestHash::default();
    }
    let digest = xxhash_rust::xxh3::xxh3_64;
    let downstream = &exchange.downstream;
    let connection = || {
        let ends = format!("{}{}", downstream.remote, downstream.local);
        format!("{:016x}", digest(ends.as_bytes()))
    };
    let remote = exchange.remote.ip();
    HashPolicy::combine(
        &forward.hash_policies,
        &head.view(),
        remote,
        connection,
        digest,
    )
}

impl Routing {
    /// What a request that is routed needs on its way; the error is its answer if its route leads nowhere.
    fn of(received: Received) -> Result<(Box<Exchange>, Box<Self>), Refused> {
        let Received {
            mut exchange,
            head,
            body,
            on_upgrade,
            selection,
        } = received;
        let Routed::Found(found) = selection.routed else {
            return Err(no_route(exchange, &head));
        };
        let RouteAction::Forward(forward) = &found.route.action else {
            return Err(no_route(exchange, &head));
        };
        let forward = Arc::clone(forward);
        let choice = selection.choice;
        let manager = exchange.manager();
        let name = choice.as_ref().map(|choice| &*choice.name);
        let Some(cluster) = name.and_then(|name| manager.worker.clusters.get(name)) else {
            manager.stats.no_cluster.inc();
            let status = StatusCode::from_u16(forward.cluster_not_found_status);
            let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let reply = LocalReply::new(status, "cluster_not_found").flag("NC");
            let reply = respond::local(exchange, &reply, head.grpc, &head.method);
            return Err(Box::new(reply));
        };
        let target = Target { found, choice };
        let mut routing = Self::prepare(&mut exchange, head, body, target, forward, cluster);
        routing.on_upgrade = on_upgrade;
        Ok((exchange, Box::new(routing)))
    }

    fn prepare(
        exchange: &mut Exchange,
        mut head: Head,
        body: ClientBody,
        target: Target,
        forward: Arc<Forward>,
        cluster: Rc<Cluster>,
    ) -> Self {
        let began = Instant::now();
        let mut timeouts = Timeouts::new(exchange, &mut head, &forward, &target);
        let rpc = exchange.rpc.take();
        if let Some(call) = &rpc {
            let route = timeouts.route.unwrap_or(call.timeout);
            timeouts.route = Some(route.min(call.timeout));
        }
        let configured = forward.retry.as_ref().or(target.found.vhost.retry.as_ref());
        let retries = retry::policy(configured, &mut head.headers);
        let retries = retries.filter(|retries| retries.applies_to(&head.view()));
        let previous = retries
            .as_ref()
            .and_then(|retries| retries.policy().previous_priorities)
            .map(|frequency| RefCell::new(PreviousPriorities::new(frequency)));
        let RequestHash { hash, cookies } = hash(exchange, &head, &forward, &cluster);
        rewrite(exchange, &mut head, &forward, &target);
        let body = if rpc.is_some() || body.is_end_stream() {
            Outgoing::None
        } else {
            let limit = if retries.is_some() { RETRY_BUFFER } else { 0 };
            let manager = exchange.manager();
            let trailers =
                exchange.version == Version::HTTP_2 || manager.config.http1.enable_trailers;
            Outgoing::Upload(Upload::new(body, limit, trailers, exchange.received()))
        };
        if exchange.logged() || needs_source(&target) {
            head.record(exchange);
        }
        Self {
            target,
            forward,
            cluster,
            head,
            body,
            retries,
            timeouts,
            began,
            hash,
            cookies,
            tried: Vec::new(),
            previous,
            retrying: None,
            on_upgrade: None,
            rpc,
        }
    }

    fn mirror(&self, exchange: &Exchange) {
        for configured in &self.forward.mirrors {
            let worker = &exchange.manager().worker;
            if configured.share.holds(worker.random())
                && let Some(cluster) = worker.clusters.get(&configured.cluster)
            {
                if let Some(call) = &self.rpc {
                    bridge::mirror(call, exchange, cluster);
                    continue;
                }
                let body = match &self.body {
                    Outgoing::None => None,
                    Outgoing::Upload(upload) => Some(upload.mirror()),
                };
                let limit = self.timeouts.route;
                mirror::send(
                    &self.head,
                    body,
                    configured,
                    cluster,
                    limit,
                    &worker.local_address,
                );
            }
        }
    }

    /// Attempts until one gives a response that may be passed on. The error is the answer.
    async fn run(&mut self, exchange: &mut Exchange) -> Result<Response<UpstreamBody>, LocalReply> {
        loop {
            exchange.attempts += 1;
            let called = self.called();
            let looked_up = match &called {
                Some(called) => self.cluster.look_up(called).await,
                None => Ok(()),
            };
            let Some(host) = self.pick(exchange, called.as_ref()) else {
                self.note_upstream(exchange, None);
                return Err(Self::no_host(exchange, looked_up.err()));
            };
            if let Some(previous) = &self.previous {
                previous.borrow_mut().attempt(&host);
            }
            self.note_upstream(exchange, Some(&host));
            let outcome = self.attempt(exchange, &host).await;
            self.retrying = None;
            let decision = self.decide(&outcome);
            if decision == Decision::Yes && self.can_replay() {
                self.retrying = Retrying::begin(&self.cluster, self.forward.priority);
                if self.retrying.is_some() {
                    self.pause(exchange, host).await;
                    continue;
                }
                exchange.flags.add(ResponseFlags::UPSTREAM_OVERFLOW);
            }
            if decision == Decision::Exhausted {
                exchange
                    .flags
                    .add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                self.cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            }
            return match outcome {
                Outcome::Response(response) => {
                    if exchange.attempts > 1 && response.status().as_u16() < 500 {
                        self.cluster.stats.upstream_rq_retry_success.inc();
                    }
                    Ok(response)
                }
                _ if self.body.is_malformed() => Err(malformed_body(exchange)),
                failed => {
                    let reply = self.failure(exchange, &failed);
                    self.cluster
                        .charge_local_response(Some(&host), reply.status.as_u16());
                    Err(reply)
                }
            };
        }
    }

    /// The host that the request names, if its cluster leads there.
    fn called(&self) -> Option<Called> {
        if !self.cluster.leads_to_named() {
            return None;
        }
        let host = self.head.headers.get(http::header::HOST)?;
        self.cluster.called(host.to_str().ok()?, None)
    }

    fn pick(&self, exchange: &Exchange, called: Option<&Called>) -> Option<Rc<Host>> {
        let tried = |host: &Host| self.tried.iter().any(|one| one.same(host));
        let header = self.cluster.original_dst_header();
        let named = header.and_then(|name| self.head.headers.get(name));
        let named = named.and_then(|value| value.to_str().ok()?.parse().ok());
        self.cluster.pick(&PickContext {
            called,
            hash: self.hash,
            original_dst: if header.is_some() {
                named
            } else {
                let downstream = &exchange.downstream;
                downstream.handle().original_dst(downstream.local)
            },
            avoid: if self.tried.is_empty() {
                None
            } else {
                Some(&tried)
            },
            previous: self.previous.as_ref(),
            attempts: self
                .retries
                .as_ref()
                .map_or(1, |r| r.policy().host_selection_attempts),
        })
    }

    async fn pause(&mut self, exchange: &Exchange, host: Rc<Host>) {
        let random = exchange.manager().worker.random();
        let wait = self.retries.as_mut().map(|retries| retries.begin(random));
        if self
            .retries
            .as_ref()
            .is_some_and(|r| r.policy().avoid_previous_hosts)
        {
            self.tried.push(host);
        }
        tokio::time::sleep(wait.unwrap_or_default()).await;
    }

    fn can_replay(&self) -> bool {
        match &self.body {
            Outgoing::None => true,
            Outgoing::Upload(upload) => upload.replayable(),
        }
    }

    fn decide(&self, outcome: &Outcome) -> Decision {
        let Some(retries) = &self.retries else {
            return Decision::No;
        };
        match outcome {
            Outcome::Response(response) => {
                retries.after_response(response.status(), response.headers())
            }
            Outcome::Failed(failure) => retries.after_failure(Some(failure.kind)),
            Outcome::Late(Late::PerTry) => retries.after_failure(None),
            Outcome::Late(_) => Decision::No,
        }
    }

    async fn attempt(&mut self, exchange: &mut Exchange, host: &Rc<Host>) -> Outcome {
        if self.rpc.is_some() {
            return Box::pin(self.attempt_call(exchange, host)).await;
        }
        let request = self.request(exchange, host);
        // What a PROXY header said is passed on in any case, as in Envoy.
        let downstream = &exchange.downstream;
        let tells = exchange.manager().config.tells_clients || downstream.handle().is_told();
        let options = SendOptions {
            priority: self.forward.priority,
            downstream: protocol(exchange.downstream.version),
            downstream_id: exchange.downstream.id(),
            ends: tells.then_some((exchange.downstream.remote, exchange.downstream.local)),
        };
        // In a box: every future around it is copied with it.
        let send = Box::pin(self.cluster.send(host, request, &options));
        self.within_limits(exchange, host, send).await
    }

    /// Waits for an attempt as long as it may take.
    async fn within_limits(
        &self,
        exchange: &Exchange,
        host: &Host,
        mut send: Pin<Box<impl Future<Output = Result<Response<UpstreamBody>, SendFailure>>>>,
    ) -> Outcome {
        let limits = AttemptLimits {
            started: exchange.started(),
            began: self.began,
            now: Instant::now(),
            timeouts: self.timeouts,
        };
        loop {
            let Some((at, late)) = limits.next(&self.body) else {
                return sent(send.await);
            };
            tokio::select! {
                biased;
                result = &mut send => return sent(result),
                () = tokio::time::sleep_until(at.into()) => {}
            }
            // The client may still be sending: the route's time has then not begun.
            if limits
                .next(&self.body)
                .is_none_or(|(later, _)| later <= Instant::now())
            {
                self.count_timeout(exchange, host, late);
                return Outcome::Late(late);
            }
        }
    }

    fn count_timeout(&self, exchange: &Exchange, host: &Host, late: Late) {
        match late {
            Late::Request => {
                // The client's doing, not the host's.
                exchange.manager().stats.downstream_rq_timeout.inc();
                return;
            }
            Late::PerTry => self.cluster.stats.upstream_rq_per_try_timeout.inc(),
            _ => self.cluster.stats.upstream_rq_timeout.inc(),
        }
        self.cluster.report(host, Seen::LocalOriginFailure);
    }

    /// The request of one attempt.
    fn request(&mut self, exchange: &mut Exchange, host: &Rc<Host>) -> Request<RequestBody> {
        let again = self.retries.is_some();
        let mut headers = if again {
            self.head.headers.clone()
        } else {
            std::mem::take(&mut self.head.headers)
        };
        if exchange.attempts > 1 && headers.contains_key(X_ENVOY_EXPECTED_TIMEOUT) {
            let asked_at = self.body.asked_at(self.began);
            let passed = asked_at.map_or(Duration::ZERO, |at| at.elapsed());
            let left = self
                .timeouts
                .route
                .map(|limit| limit.saturating_sub(passed));
            let limit = [self.timeouts.per_try, left].into_iter().flatten().min();
            let millis = limit.map_or(0, |limit| limit.as_millis() as u64);
            headers.insert(X_ENVOY_EXPECTED_TIMEOUT, headers::number(millis.max(1)));
        }
        if self.target.found.vhost.include_request_attempt_count {
            let count = headers::number(u64::from(exchange.attempts));
            headers.insert(X_ENVOY_ATTEMPT_COUNT, count);
        }
        if self.forward.host_rewrite == HostRewrite::Auto
            && !host.hostname().is_empty()
            && let Ok(value) = HeaderValue::from_str(host.hostname())
        {
            if let Some(record) = &mut exchange.record {
                host.hostname().as_ref().clone_into(&mut record.authority);
            }
            replace_host(exchange, &mut headers, &self.forward, value);
        }
        let body = match &self.body {
            Outgoing::None => RequestBody::Empty,
            Outgoing::Upload(upload) => RequestBody::boxed(upload.reader()),
        };
        upstream_request(&self.head, headers, body)
    }

    fn note_upstream(&self, exchange: &mut Exchange, host: Option<&Rc<Host>>) {
        let config = &self.cluster.config;
        exchange.upstream = Some(UpstreamInfo {
            cluster: Arc::clone(&config.name),
            stat_name: Arc::clone(config.alt_stat_name.as_ref().unwrap_or(&config.name)),
            host: host.map(|host| host.address().clone()),
            hostname: host
                .map(|host| Arc::clone(host.hostname()))
                .filter(|name| !name.is_empty()),
        });
    }
}

fn sent(result: Result<Response<UpstreamBody>, SendFailure>) -> Outcome {
    match result {
        Ok(response) => Outcome::Response(response),
        Err(failure) => Outcome::Failed(failure),
    }
}

/// Puts a request together; `upstream` gives it the form of the upstream's protocol.
pub(crate) fn upstream_request(
    head: &Head,
    headers: HeaderMap,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(head.path.clone());
    *request.headers_mut() = headers;
    request
}

/// What the client speaks, for clusters that follow it.
pub(crate) fn protocol(version: Version) -> Protocol {
    if version == Version::HTTP_2 {
        Protocol::Http2
    } else {
        Protocol::Http1
    }
}
