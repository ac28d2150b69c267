//! One request, from its arrival to the choice of what answers it: the filters, whatever the route
//! is, and then the router, a redirect or a direct response.
//!
//! It must never know how an upstream is reached.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use weft_config::{HttpManager, RequestHead, Route, RouteAction, RouteConfig};
use weft_filters::{LocalReply, RequestBody, RequestContext, RequestParts, Verdict};

use super::admit::{Head, Refusal, admit};
use super::client_body::ClientBody;
use super::downstream::Downstream;
use super::exchange::{Exchange, Record, UpstreamInfo};
use super::manager::Manager;
use super::respond::redirect;
use super::selection::{Routed, Selection};
use super::serve::Answer;
use super::{headers, respond, router};

/// The answer to a request that goes no further.
pub(crate) type Refused = Box<http::Response<super::body::ResponseBody>>;

/// A request that was let in, on its way to what answers it. Futures of answers hold it in a box: each
/// that waits for another is copied with it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) head: Head,
    pub(crate) body: ClientBody,
    pub(crate) on_upgrade: Option<OnUpgrade>,
    pub(crate) selection: Selection,
}

/// Answers one request of a connection.
pub(crate) async fn handle(downstream: Rc<Downstream>, request: Request<Incoming>) -> Answer {
    match Received::admit(downstream, request) {
        Ok(received) => received.answer().await,
        Err(refused) => Ok(*refused),
    }
}

impl Received {
    /// Lets a request in and routes it; the error is the answer to one that is kept out.
    fn admit(downstream: Rc<Downstream>, request: Request<Incoming>) -> Result<Box<Self>, Refused> {
        let (mut parts, body) = request.into_parts();
        let mut exchange = Exchange::begin(downstream, parts.version);
        exchange.request_open = !body.is_end_stream();
        exchange.close = is_last(&parts);
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let mut head = match admit(&mut parts, &exchange) {
            Ok(head) => head,
            Err(refusal) => {
                if exchange.logged() {
                    record_refused(&mut exchange, &mut parts);
                }
                return Err(Box::new(refuse(exchange, &refusal, &parts.method)));
            }
        };
        exchange.request_open |= head.upgrade.is_some();
        let manager = Rc::clone(exchange.manager());
        exchange.routes = manager.routes();
        let mut random = || manager.worker.random();
        let peer = &exchange.downstream.peer;
        let internal_only = exchange
            .routes
            .as_ref()
            .map_or(&[][..], |routes| &routes.internal_only_headers);
        let client = headers::forwarded(
            &mut head.headers,
            &manager.forwarding,
            internal_only,
            peer,
            &mut random,
        );
        if let Some(client) = client.filter(|client| *client != exchange.remote.ip()) {
            exchange.remote = SocketAddr::new(client, 0);
        }
        if exchange.logged() {
            head.record(&mut exchange);
        }
        if !head.path.as_str().starts_with('/') {
            // `OPTIONS *`
            manager.stats.downstream_rq_non_relative_path.inc();
            let reply = LocalReply::new(StatusCode::NOT_FOUND, "absolute_path_rejected");
            return Err(Box::new(respond::local(
                exchange,
                &reply,
                head.grpc,
                &head.method,
            )));
        }
        let selection = Selection::find(&mut exchange, &head, random());
        let received = if body.is_end_stream() {
            Rc::default()
        } else {
            exchange.received()
        };
        let request_timeout = manager.config.request_timeout;
        let body = ClientBody::new(
            body,
            received,
            (
                manager.config.stream_idle_timeout,
                request_timeout.map(|limit| exchange.started() + limit),
            ),
            Arc::clone(&manager.stats),
        );
        Ok(Box::new(Self {
            exchange,
            head,
            body,
            on_upgrade,
            selection,
        }))
    }

    async fn answer(mut self: Box<Self>) -> Answer {
        let manager = Rc::clone(self.exchange.manager());
        if let Some(found) = self.selection.found()
            && let Some(refusal) = upgrade_refusal(&manager.config, &found.route, &self.head)
        {
            manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            note_cluster(&mut self.exchange, self.selection.choice.as_ref());
            return Ok(refuse(self.exchange, &refusal, &self.head.method));
        }
        if !manager.filters.is_empty() {
            let Self {
                exchange,
                head,
                body,
                selection,
                ..
            } = &mut *self;
            let filtered = Box::pin(selection.run_filters(exchange, head, body)).await;
            if let Err(reply) = filtered {
                exchange.request_open &= head.upgrade.is_some() || !body.is_done();
                note_cluster(exchange, selection.choice.as_ref());
                return Ok(self.local(&reply));
            }
        }
        // What follows is the router's: Envoy counts only what reaches it.
        manager.stats.rq_total.inc();
        if self.selection.forward().is_some() {
            return router::forward(self).await;
        }
        let reply = self.without_upstream(&manager);
        Ok(self.local(&reply))
    }

    fn local(self, reply: &LocalReply) -> http::Response<super::body::ResponseBody> {
        respond::local(self.exchange, reply, self.head.grpc, &self.head.method)
    }

    /// What the proxy itself says to a request.
    fn without_upstream(&self, manager: &Manager) -> LocalReply {
        let head = &self.head;
        match &self.selection.routed {
            Routed::None => {
                manager.stats.no_route.inc();
                LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag("NR")
            }
            Routed::ToTls => {
                manager.stats.rq_direct_response.inc();
                let location = RouteConfig::tls_location(&head.view());
                redirect(StatusCode::MOVED_PERMANENTLY, &location)
            }
            Routed::Found(found) => match &found.route.action {
                RouteAction::Redirect(redirect_to) => {
                    manager.stats.rq_direct_response.inc();
                    let location = redirect_to.location(&head.view(), Some(&found.route.matcher));
                    let status = StatusCode::from_u16(redirect_to.status);
                    redirect(status.unwrap_or(StatusCode::MOVED_PERMANENTLY), &location)
                }
                RouteAction::Direct { status, body } => {
                    manager.stats.rq_direct_response.inc();
                    let body = body.as_ref().map(|body| manager.worker.files.get(body));
                    direct(*status, body.unwrap_or_default(), &head.view())
                }
                // To Envoy it is a route to a cluster without a name.
                RouteAction::Forward(_) | RouteAction::NonForwarding => {
                    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found").flag("NC")
                }
            },
        }
    }
}

fn refuse(
    mut exchange: Box<Exchange>,
    refusal: &Refusal,
    method: &Method,
) -> http::Response<super::body::ResponseBody> {
    exchange.close |= refusal.close;
    if refusal.silent {
        exchange.silence();
    }
    respond::local(exchange, &refusal.reply, false, method)
}

/// Whether an HTTP/1.0 client wants its connection closed; hyper answers HTTP/1.1 clients.
fn is_last(parts: &Parts) -> bool {
    let kept = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    parts.version == Version::HTTP_10 && !parts.headers.get(CONNECTION).is_some_and(kept)
}

/// Keeps what a refused request said for the access log.
fn record_refused(exchange: &mut Exchange, parts: &mut Parts) {
    let headers = std::mem::take(&mut parts.headers);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    exchange.record = Some(Box::new(Record {
        method: parts.method.clone(),
        path: parts
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        authority: host.unwrap_or_default().to_owned(),
        request: headers,
        ..Record::default()
    }));
}

/// The access log names the cluster even if no request was sent to it.
fn note_cluster(exchange: &mut Exchange, choice: Option<&router::Choice>) {
    let cluster = choice.and_then(|choice| exchange.manager().worker.clusters.get(&choice.name));
    if let Some(cluster) = cluster {
        let config = &cluster.config;
        exchange.upstream = Some(UpstreamInfo {
            cluster: Arc::clone(&config.name),
            stat_name: Arc::clone(config.alt_stat_name.as_ref().unwrap_or(&config.name)),
            host: None,
            hostname: None,
        });
    }
}

impl Selection {
    /// Runs the filters before the router. Each looks at the route as those before it have made it.
    async fn run_filters(
        &mut self,
        exchange: &mut Exchange,
        head: &mut Head,
        body: &mut ClientBody,
    ) -> Result<(), LocalReply> {
        let downstream = Rc::clone(&exchange.downstream);
        let manager = downstream.manager();
        let random = [manager.worker.random(), manager.worker.random()];
        let has_body = head.upgrade.is_none() && !body.is_end_stream();
        let mut first: Option<Self> = None;
        for filter in &manager.filters {
            if filter.is_off(first.as_ref().unwrap_or(self).overrides()) {
                continue;
            }
            let mut context = RequestContext {
                head: RequestParts {
                    method: &mut head.method,
                    path: &mut head.path,
                    scheme: &mut head.scheme,
                    headers: &mut head.headers,
                },
                cluster: self.choice.as_ref().map(|choice| &*choice.name),
                routed: !matches!(self.routed, Routed::None),
                forwarded: self.forward().is_some(),
                overrides: self.overrides(),
                route_metadata: self
                    .found()
                    .and_then(|found| found.route.metadata.as_deref()),
                limits: self.found().map_or_else(Default::default, |found| {
                    RouteConfig::rate_limits(&found.vhost, &found.route)
                }),
                connection: &downstream.connection,
                remote: exchange.remote.ip(),
                metadata: &mut exchange.metadata,
                body: has_body.then_some(&mut *body as &mut dyn RequestBody),
                calls: &*manager.worker,
                random,
                delayed: false,
                reroute: false,
                response: Vec::new(),
                cors: None,
                rpc: None,
            };
            let verdict = filter.request(&mut context).await;
            let reroute = context.reroute;
            exchange.response_edits.append(&mut context.response);
            if context.cors.is_some() {
                exchange.cors = context.cors.take();
            }
            if context.rpc.is_some() {
                exchange.rpc = context.rpc.take();
            }
            if context.delayed {
                exchange
                    .flags
                    .add(super::flags::ResponseFlags::DELAY_INJECTED);
            }
            match verdict {
                Verdict::Continue => {}
                Verdict::Edit(edit) => {
                    head.record(exchange);
                    edit.apply(&mut head.headers, &exchange.source());
                }
                Verdict::Reply(reply) => {
                    if reply.edit.is_some() {
                        head.record(exchange);
                    }
                    return Err(reply);
                }
            }
            if reroute {
                let again = Self::find(exchange, head, self.random);
                let before = std::mem::replace(self, again);
                first.get_or_insert(before);
            }
        }
        Ok(())
    }
}

fn direct(status: u16, body: Bytes, head: &RequestHead<'_>) -> LocalReply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut reply = LocalReply::new(status, "direct_response").body(body);
    if status == StatusCode::CREATED {
        // Envoy tells where the created thing is: where it was asked for.
        let location = format!("{}://{}{}", head.scheme, head.authority, head.path);
        if let Ok(location) = HeaderValue::from_str(&location) {
            reply.headers.push((LOCATION, location));
        }
    }
    reply
}

fn upgrade_refusal(config: &HttpManager, route: &Route, head: &Head) -> Option<Refusal> {
    let wanted = head.upgrade.as_deref()?;
    let of_route = match &route.action {
        RouteAction::Forward(forward) => {
            let mut upgrades = forward.upgrades.iter();
            upgrades.find(|upgrade| &*upgrade.kind == wanted)
        }
        _ => None,
    };
    let rule = of_route.or_else(|| {
        config
            .upgrades
            .iter()
            .find(|upgrade| &*upgrade.kind == wanted)
    });
    if rule.is_some_and(|rule| rule.enabled) {
        return None;
    }
    Some(Refusal::new(StatusCode::FORBIDDEN, "upgrade_failed"))
}
