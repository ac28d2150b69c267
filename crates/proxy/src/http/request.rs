//! One request, from its arrival to the choice of what answers it: route, filters, and then the
//! router, a redirect or a direct response.
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
use weft_config::{
    Forward, HttpManager, RequestHead, Route, RouteAction, RouteConfig, RouteLookup, VirtualHost,
};
use weft_filters::{LocalReply, RequestContext, RequestParts, Verdict};

use super::admit::{Head, Refusal, admit};
use super::downstream::Downstream;
use super::exchange::{Exchange, Record, UpstreamInfo};
use super::respond::redirect;
use super::serve::Answer;
use super::{headers, respond, router};

/// Answers one request of a connection.
pub(crate) async fn handle(downstream: Rc<Downstream>, request: Request<Incoming>) -> Answer {
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
            return Ok(refuse(exchange, &refusal, &parts.method));
        }
    };
    exchange.request_open |= head.upgrade.is_some();
    let manager = Rc::clone(exchange.manager());
    let routes = manager.routes();
    let mut random = || manager.worker.random();
    let peer = &exchange.downstream.peer;
    let internal_only = routes
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
    let found = find(routes, &head, random());
    let found = match found {
        Ok(found) => Found::of(found, &mut exchange),
        Err(reply) => {
            manager.stats.no_route.inc();
            return Ok(respond::local(exchange, &reply, head.grpc, &head.method));
        }
    };
    found.answer(exchange, head, body, on_upgrade).await
}

/// The route of a request with what it belongs to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) routes: Arc<RouteConfig>,
    pub(crate) vhost: Arc<VirtualHost>,
    pub(crate) route: Arc<Route>,
}

type Routed = (Arc<RouteConfig>, Arc<VirtualHost>, Arc<Route>);

fn find(routes: Option<Arc<RouteConfig>>, head: &Head, random: u64) -> Result<Routed, LocalReply> {
    let none = || LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag("NR");
    let Some(routes) = routes else {
        return Err(none());
    };
    if !head.path.as_str().starts_with('/') {
        // `OPTIONS *`
        return Err(LocalReply::new(
            StatusCode::NOT_FOUND,
            "absolute_path_rejected",
        ));
    }
    let view = head.view();
    match routes.find(&view, random) {
        RouteLookup::None => Err(none()),
        RouteLookup::RedirectToTls => {
            let location = RouteConfig::tls_location(&view);
            Err(redirect(StatusCode::MOVED_PERMANENTLY, &location))
        }
        RouteLookup::Found { vhost, route } => {
            let found = (Arc::clone(vhost), Arc::clone(route));
            Ok((Arc::clone(&routes), found.0, found.1))
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

impl Found {
    async fn answer(
        mut self,
        mut exchange: Box<Exchange>,
        mut head: Head,
        body: Incoming,
        on_upgrade: Option<OnUpgrade>,
    ) -> Answer {
        let manager = Rc::clone(exchange.manager());
        let mut choice = self.choose(&head, manager.worker.random());
        if let RouteAction::Forward(forward) = &self.route.action
            && let Some(refusal) = upgrade_refusal(&manager.config, forward, &head)
        {
            manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            note_cluster(&mut exchange, choice.as_ref());
            return Ok(refuse(exchange, &refusal, &head.method));
        }
        if !manager.filters.is_empty() {
            let filtered = self.filters(&mut exchange, &mut head, choice.as_ref());
            let again = match filtered.await {
                Ok(again) => again,
                Err(reply) => {
                    note_cluster(&mut exchange, choice.as_ref());
                    return Ok(respond::local(exchange, &reply, head.grpc, &head.method));
                }
            };
            if again {
                let random = manager.worker.random();
                match find(manager.routes(), &head, random) {
                    Ok(found) => self = Self::of(found, &mut exchange),
                    Err(reply) => {
                        manager.stats.no_route.inc();
                        return Ok(respond::local(exchange, &reply, head.grpc, &head.method));
                    }
                }
                choice = self.choose(&head, random);
            }
        }
        let reply = match &self.route.action {
            RouteAction::Forward(_) => {
                let target = router::Target {
                    found: self,
                    choice,
                };
                return router::forward(exchange, head, body, on_upgrade, target).await;
            }
            RouteAction::Redirect(redirect_to) => {
                manager.stats.rq_redirect.inc();
                let location = redirect_to.location(&head.view(), Some(&self.route.matcher));
                let status = StatusCode::from_u16(redirect_to.status);
                redirect(status.unwrap_or(StatusCode::MOVED_PERMANENTLY), &location)
            }
            RouteAction::Direct { status, body } => {
                manager.stats.rq_direct_response.inc();
                let body = body.as_ref().map(|body| manager.worker.files.get(body));
                direct(*status, body.unwrap_or_default(), &head.view())
            }
            // To Envoy it is a route to a cluster without a name.
            RouteAction::NonForwarding => {
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found").flag("NC")
            }
        };
        Ok(respond::local(exchange, &reply, head.grpc, &head.method))
    }

    /// Takes what routing found, and tells the exchange.
    fn of((routes, vhost, route): Routed, exchange: &mut Exchange) -> Self {
        exchange.vhost = Some(Arc::clone(&vhost));
        exchange.route = Some(Arc::clone(&route));
        Self {
            routes,
            vhost,
            route,
        }
    }

    /// The cluster of a route that forwards; none if the header that names it is missing.
    fn choose(&self, head: &Head, random: u64) -> Option<router::Choice> {
        let RouteAction::Forward(forward) = &self.route.action else {
            return None;
        };
        let picked = forward.cluster.pick(random, &head.view())?;
        Some(router::Choice::new(&picked, forward))
    }

    /// Runs the filters before the router; whether the request is to be routed again.
    async fn filters(
        &self,
        exchange: &mut Exchange,
        head: &mut Head,
        choice: Option<&router::Choice>,
    ) -> Result<bool, LocalReply> {
        let downstream = Rc::clone(&exchange.downstream);
        let manager = downstream.manager();
        let forward = match &self.route.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        };
        let weighted = choice
            .zip(forward)
            .and_then(|(c, forward)| c.entry(forward));
        let mut context = RequestContext {
            head: RequestParts {
                method: &head.method,
                path: &mut head.path,
                scheme: head.scheme,
                headers: &mut head.headers,
            },
            cluster: choice.map(|choice| &*choice.name),
            forwarded: forward.is_some(),
            overrides: [
                weighted.map(|weighted| &weighted.overrides),
                Some(&self.route.overrides),
                Some(&self.vhost.overrides),
                Some(&self.routes.overrides),
            ],
            route_metadata: self.route.metadata.as_deref(),
            connection: &downstream.connection,
            remote: exchange.remote.ip(),
            metadata: &mut exchange.metadata,
            calls: &*manager.worker,
            random: [manager.worker.random(), manager.worker.random()],
            delayed: false,
            reroute: false,
            response: Vec::new(),
            cors: None,
        };
        for filter in &manager.filters {
            let verdict = filter.request(&mut context).await;
            exchange.response_edits.append(&mut context.response);
            if context.cors.is_some() {
                exchange.cors = context.cors.take();
            }
            if context.delayed {
                exchange
                    .flags
                    .add(super::flags::ResponseFlags::DELAY_INJECTED);
            }
            if let Verdict::Reply(reply) = verdict {
                return Err(reply);
            }
        }
        Ok(context.reroute)
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

fn upgrade_refusal(config: &HttpManager, forward: &Forward, head: &Head) -> Option<Refusal> {
    let wanted = head.upgrade.as_deref()?;
    let of_route = forward
        .upgrades
        .iter()
        .find(|upgrade| &*upgrade.kind == wanted);
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
