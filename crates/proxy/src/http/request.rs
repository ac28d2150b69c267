//! One request, from its arrival to the choice of what answers it: checks, forwarding headers,
//! route, filters, and then the router, a redirect or a direct response.
//!
//! It must never know how an upstream is reached.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use weft_config::http_manager::StripPort;
use weft_config::http_options::UnderscoreAction;
use weft_config::route::Picked;
use weft_config::{
    DataSource, Forward, HttpManager, RequestHead, Route, RouteAction, RouteConfig, RouteLookup,
    VirtualHost,
};
use weft_filters::{CorsAnswer, LocalReply, RequestContext, Verdict};

use super::exchange::{Downstream, Exchange, Record};
use super::headers::{self, X_FORWARDED_PROTO};
use super::path::{PathRules, PathVerdict, clean};
use super::serve::Answer;
use super::{respond, router};

/// A request's head in one form, whatever HTTP version it came in: the host is in the `host`
/// header, the path is separate.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) scheme: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) grpc: bool,
    /// The protocol that the client wants to change to, in lower case.
    pub(crate) upgrade: Option<Box<str>>,
}

impl Head {
    /// What routing looks at.
    pub(crate) fn view(&self) -> RequestHead<'_> {
        let text = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        RequestHead {
            authority: text(HOST).unwrap_or_default(),
            path: self.path.as_str(),
            method: &self.method,
            scheme: self.scheme,
            forwarded_proto: text(X_FORWARDED_PROTO).unwrap_or(self.scheme),
            headers: &self.headers,
        }
    }

    /// Keeps copies for logs and header templates.
    pub(crate) fn record(&self, exchange: &mut Exchange) {
        let view = self.view();
        exchange.record = Some(Box::new(Record {
            method: self.method.clone(),
            path: view.path.to_owned(),
            authority: view.authority.to_owned(),
            request: self.headers.clone(),
            ..Record::default()
        }));
    }
}

/// Why a request is not served, beyond its answer.
#[derive(Debug)]
struct Refusal {
    reply: LocalReply,
    close: bool,
}

impl Refusal {
    fn new(status: StatusCode, details: &'static str) -> Self {
        Self {
            reply: LocalReply::new(status, details),
            close: true,
        }
    }
}

/// Answers one request of a connection.
pub(crate) async fn handle(downstream: Rc<Downstream>, request: Request<Incoming>) -> Answer {
    let mut exchange = Exchange::begin(downstream);
    let (mut parts, body) = request.into_parts();
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let method = parts.method.clone();
    let mut head = match admit(parts, &exchange) {
        Ok(head) => head,
        Err(refusal) => return Ok(refuse(exchange, refusal, &method)),
    };
    let manager = Rc::clone(exchange.manager());
    let mut random = || manager.worker.random();
    let peer = &exchange.downstream.peer;
    headers::forwarded(&mut head.headers, manager.forwarding, peer, &mut random);
    if exchange.logged() {
        head.record(&mut exchange);
    }
    let found = find(&manager.config, manager.routes(), &head, random());
    let (routes, vhost, route) = match found {
        Ok(found) => found,
        Err(reply) => {
            manager.stats.no_route.inc();
            return Ok(respond::local(exchange, &reply, head.grpc, &head.method));
        }
    };
    exchange.vhost = Some(Arc::clone(&vhost));
    exchange.route = Some(Arc::clone(&route));
    let found = Found {
        routes,
        vhost,
        route,
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

fn find(
    config: &HttpManager,
    routes: Option<Arc<RouteConfig>>,
    head: &Head,
    random: u64,
) -> Result<Routed, LocalReply> {
    let none = || LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag("NR");
    let Some(routes) = routes else {
        return Err(none());
    };
    let _ = config;
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

fn redirect(status: StatusCode, location: &str) -> LocalReply {
    let mut reply = LocalReply::new(status, "direct_response");
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers.push((LOCATION, location));
    }
    reply
}

fn refuse(exchange: Box<Exchange>, refusal: Refusal, method: &Method) -> http::Response<super::body::ResponseBody> {
    let http1 = exchange.downstream.version != Version::HTTP_2;
    let mut response = respond::local(exchange, &refusal.reply, false, method);
    if refusal.close && http1 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

impl Found {
    async fn answer(
        self,
        mut exchange: Box<Exchange>,
        head: Head,
        body: Incoming,
        on_upgrade: Option<OnUpgrade>,
    ) -> Answer {
        let manager = Rc::clone(exchange.manager());
        let random = manager.worker.random();
        let forward = match &self.route.action {
            RouteAction::Forward(forward) => Some(Arc::clone(forward)),
            _ => None,
        };
        let view = head.view();
        let picked = forward.as_deref().and_then(|f| f.cluster.pick(random, &view));
        let cors = match self.filters(&mut exchange, &head, picked.as_ref()).await {
            Ok(cors) => cors,
            Err(reply) => return Ok(respond::local(exchange, &reply, head.grpc, &head.method)),
        };
        let reply = match &self.route.action {
            RouteAction::Forward(forward) => {
                if let Some(refusal) = upgrade_refusal(&manager.config, forward, &head) {
                    manager.stats.downstream_rq_ws_on_non_ws_route.inc();
                    return Ok(refuse(exchange, refusal, &head.method));
                }
                let picked = picked.map(|picked| router::Choice::new(&picked, forward));
                let target = router::Target {
                    found: self,
                    choice: picked,
                    cors,
                };
                return router::forward(exchange, head, body, on_upgrade, target).await;
            }
            RouteAction::Redirect(redirect_to) => {
                manager.stats.rq_redirect.inc();
                let location = redirect_to.location(&view, Some(&self.route.matcher));
                let status = StatusCode::from_u16(redirect_to.status);
                redirect(status.unwrap_or(StatusCode::MOVED_PERMANENTLY), &location)
            }
            RouteAction::Direct { status, body } => {
                manager.stats.rq_direct_response.inc();
                let body = body.as_ref().map(|body| manager.worker.files.get(body));
                direct(*status, body.unwrap_or_default(), &view)
            }
            RouteAction::NonForwarding => {
                LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag("NR")
            }
        };
        Ok(respond::local(exchange, &reply, head.grpc, &head.method))
    }

    /// Runs the filters before the router.
    async fn filters(
        &self,
        exchange: &mut Exchange,
        head: &Head,
        picked: Option<&Picked<'_>>,
    ) -> Result<Option<CorsAnswer>, LocalReply> {
        let manager = Rc::clone(exchange.manager());
        if manager.filters.is_empty() {
            return Ok(None);
        }
        let mut context = RequestContext {
            head: head.view(),
            cluster: picked.map(|picked| &*picked.name),
            overrides: [
                picked.and_then(|picked| picked.weighted).map(|weighted| &weighted.overrides),
                Some(&self.route.overrides),
                Some(&self.vhost.overrides),
                Some(&self.routes.overrides),
            ],
            random: [manager.worker.random(), manager.worker.random()],
            delayed: false,
            cors: None,
        };
        for filter in &manager.filters {
            let verdict = filter.request(&mut context).await;
            if context.delayed {
                exchange.flags.add(super::flags::ResponseFlags::DELAY_INJECTED);
            }
            if let Verdict::Reply(reply) = verdict {
                return Err(reply);
            }
        }
        Ok(context.cors)
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
    let of_route = forward.upgrades.iter().find(|upgrade| &*upgrade.kind == wanted);
    let rule = of_route.or_else(|| config.upgrades.iter().find(|upgrade| &*upgrade.kind == wanted));
    if rule.is_some_and(|rule| rule.enabled) {
        return None;
    }
    Some(Refusal::new(StatusCode::FORBIDDEN, "upgrade_failed"))
}

/// Checks a request and brings it into one form.
fn admit(parts: Parts, exchange: &Exchange) -> Result<Head, Refusal> {
    let manager = exchange.manager();
    let config = &manager.config;
    let Parts {
        method,
        uri,
        version,
        mut headers,
        ..
    } = parts;
    if version == Version::HTTP_10 || version == Version::HTTP_09 {
        admit_old(config, &mut headers)?;
    }
    if headers.len() > config.common.max_headers_count as usize {
        manager.stats.downstream_rq_too_large.inc();
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(status, "http_headers_too_large"));
    }
    let tls = exchange.downstream.is_tls();
    let mut scheme = if tls { "https" } else { "http" };
    if let Some(authority) = uri.authority()
        && method != Method::CONNECT
    {
        match uri.scheme_str() {
            Some("https") if version == Version::HTTP_2 || tls => scheme = "https",
            Some("http") | None => scheme = "http",
            _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_scheme")),
        }
        let host = HeaderValue::from_str(authority.as_str());
        headers.insert(HOST, host.map_err(|_| bad("invalid_authority"))?);
    }
    check_host(&mut headers, config, exchange.downstream.local)?;
    check_names(&mut headers, config.common.underscores)?;
    if method == Method::CONNECT {
        // Nothing terminates a CONNECT here; `docs/compatibility.md` says so.
        let mut refusal = Refusal::new(StatusCode::NOT_FOUND, "route_not_found");
        refusal.reply.flag = Some("NR");
        return Err(refusal);
    }
    let path = uri.into_parts().path_and_query.ok_or_else(|| bad("missing_path"))?;
    let path = clean_path(path, config)?;
    let upgrade = (version == Version::HTTP_11)
        .then(|| headers::upgrade_of(&headers))
        .flatten()
        .and_then(|value| Some(value.to_str().ok()?.to_ascii_lowercase().into_boxed_str()));
    headers::remove_hop_by_hop(&mut headers, upgrade.is_some());
    if config.add_user_agent {
        let agent = headers.entry(USER_AGENT);
        agent.or_insert_with(|| manager.worker.node_cluster.clone());
    }
    Ok(Head {
        grpc: weft_filters::local_reply::is_grpc(&headers),
        method,
        path,
        scheme,
        headers,
        upgrade,
    })
}

fn bad(details: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, details)
}

fn admit_old(config: &HttpManager, headers: &mut HeaderMap) -> Result<(), Refusal> {
    if !config.http1.accept_http_10 {
        let mut refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "low_version");
        refusal.reply.body = Bytes::from_static(b"Upgrade Required");
        return Err(refusal);
    }
    if !headers.contains_key(HOST)
        && let Some(host) = &config.http1.default_host_for_http_10
        && let Ok(host) = HeaderValue::from_str(host)
    {
        headers.insert(HOST, host);
    }
    Ok(())
}

/// Exactly one host, in a form that routing can read.
fn check_host(headers: &mut HeaderMap, config: &HttpManager, local: SocketAddr) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("missing_host_header"));
    };
    let Ok(text) = host.to_str() else {
        return Err(bad("invalid_authority"));
    };
    if config.strip_port == StripPort::Keep && !config.strip_trailing_host_dot {
        return Ok(());
    }
    let (mut name, mut port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (text, None),
    };
    let drop_port = match config.strip_port {
        StripPort::Keep => false,
        StripPort::Any => true,
        StripPort::Matching => port.and_then(|port| port.parse().ok()) == Some(local.port()),
    };
    if drop_port {
        port = None;
    }
    if config.strip_trailing_host_dot {
        name = name.strip_suffix('.').unwrap_or(name);
    }
    let host = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(HOST, host);
    }
    Ok(())
}

fn check_names(headers: &mut HeaderMap, underscores: UnderscoreAction) -> Result<(), Refusal> {
    if underscores == UnderscoreAction::Allow {
        return Ok(());
    }
    let with: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    if underscores == UnderscoreAction::Reject && !with.is_empty() {
        return Err(bad("http1.unexpected_underscore"));
    }
    for name in with {
        headers.remove(name);
    }
    Ok(())
}

fn clean_path(path: PathAndQuery, config: &HttpManager) -> Result<PathAndQuery, Refusal> {
    let rules = PathRules {
        normalize: config.normalize_path,
        merge_slashes: config.merge_slashes,
        escaped_slashes: config.escaped_slashes,
    };
    let text = path.as_str();
    if !text.starts_with('/') && text != "*" {
        return Err(bad("missing_path"));
    }
    match clean(text, rules) {
        PathVerdict::Use(std::borrow::Cow::Borrowed(_)) => Ok(path),
        PathVerdict::Use(std::borrow::Cow::Owned(clean)) => {
            PathAndQuery::try_from(clean).map_err(|_| bad("path_normalization_failed"))
        }
        PathVerdict::Redirect(to) => Err(Refusal {
            reply: redirect(StatusCode::TEMPORARY_REDIRECT, &to),
            close: false,
        }),
        PathVerdict::Reject => Err(bad("path_normalization_failed")),
    }
}

/// Bodies of direct responses that are files, read when the configuration was loaded.
#[derive(Debug, Default)]
pub(crate) struct FileBodies(parking_lot::RwLock<ahash::AHashMap<Arc<str>, Bytes>>);

impl FileBodies {
    /// Keeps a file's bytes.
    pub(crate) fn set(&self, path: &Arc<str>, bytes: Bytes) {
        self.0.write().insert(Arc::clone(path), bytes);
    }

    fn get(&self, source: &DataSource) -> Bytes {
        match source {
            DataSource::Inline(bytes) => bytes.clone(),
            DataSource::File { path, .. } => self.0.read().get(path).cloned().unwrap_or_default(),
            DataSource::Environment(name) => {
                std::env::var(&**name).map(Bytes::from).unwrap_or_default()
            }
        }
    }
}
