//! One request, from its arrival to the choice of what answers it: checks, forwarding headers,
//! route, filters, and then the router, a redirect or a direct response.
//!
//! It must never know how an upstream is reached.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, EXPECT, HOST, HeaderValue, LOCATION, VIA};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use weft_config::http_manager::StripPort;
use weft_config::http_options::UnderscoreAction;
use weft_config::route::Picked;
use weft_config::{
    DataSource, Forward, HttpManager, RequestHead, Route, RouteAction, RouteConfig, RouteLookup,
    VirtualHost,
};
use weft_filters::{CorsAnswer, LocalReply, RequestContext, Verdict};

use super::exchange::{Downstream, Exchange, Record, UpstreamInfo};
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
        let text = |name| {
            self.headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
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
    /// Envoy's codec refuses it before it is a request: no access log tells of it.
    silent: bool,
}

impl Refusal {
    fn new(status: StatusCode, details: &'static str) -> Self {
        Self {
            reply: LocalReply::new(status, details),
            close: true,
            silent: false,
        }
    }

    /// Not even a request.
    fn codec(status: StatusCode, details: &'static str) -> Self {
        let mut refusal = Self::new(status, details);
        refusal.silent = true;
        refusal.with_text()
    }

    /// With the status' name as its body.
    fn with_text(mut self) -> Self {
        self.reply.body = Bytes::from(self.reply.status.canonical_reason().unwrap_or_default());
        self
    }
}

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

fn redirect(status: StatusCode, location: &str) -> LocalReply {
    let mut reply = LocalReply::new(status, "direct_response");
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers.push((LOCATION, location));
    }
    reply
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
fn note_cluster(exchange: &mut Exchange, picked: Option<&Picked<'_>>) {
    let cluster = picked.and_then(|picked| exchange.manager().worker.clusters.get(picked.name));
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
        let picked = forward
            .as_deref()
            .and_then(|f| f.cluster.pick(random, &view));
        let cors = match self.filters(&mut exchange, &head, picked.as_ref()).await {
            Ok(cors) => cors,
            Err(reply) => {
                note_cluster(&mut exchange, picked.as_ref());
                return Ok(respond::local(exchange, &reply, head.grpc, &head.method));
            }
        };
        let reply = match &self.route.action {
            RouteAction::Forward(forward) => {
                if let Some(refusal) = upgrade_refusal(&manager.config, forward, &head) {
                    manager.stats.downstream_rq_ws_on_non_ws_route.inc();
                    note_cluster(&mut exchange, picked.as_ref());
                    return Ok(refuse(exchange, &refusal, &head.method));
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
            // To Envoy it is a route to a cluster without a name.
            RouteAction::NonForwarding => {
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found").flag("NC")
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
            cluster: picked.map(|picked| picked.name),
            overrides: [
                picked
                    .and_then(|picked| picked.weighted)
                    .map(|weighted| &weighted.overrides),
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
                exchange
                    .flags
                    .add(super::flags::ResponseFlags::DELAY_INJECTED);
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

/// Checks a request and brings it into one form. A refused one stays in `parts`.
fn admit(parts: &mut Parts, exchange: &Exchange) -> Result<Head, Refusal> {
    let manager = exchange.manager();
    let config = &manager.config;
    let headers = &mut parts.headers;
    let version = parts.version;
    if version == Version::HTTP_10 || version == Version::HTTP_09 {
        admit_old(config, headers)?;
    }
    if headers.len() > config.common.max_headers_count as usize {
        manager.stats.downstream_rq_too_large.inc();
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::codec(status, "http_headers_too_large"));
    }
    let scheme = admit_uri(&parts.uri, &parts.method, headers, exchange)?;
    check_host(headers, config, exchange.downstream.local)?;
    check_names(headers, config.common.underscores)?;
    if parts.method == Method::CONNECT {
        // Nothing terminates a CONNECT here; `docs/compatibility.md` says so.
        let mut refusal = Refusal::new(StatusCode::NOT_FOUND, "route_not_found");
        refusal.reply.flag = Some("NR");
        return Err(refusal);
    }
    let path = parts
        .uri
        .path_and_query()
        .cloned()
        .ok_or_else(|| bad("missing_path"))?;
    let path = clean_path(path, config)?;
    if let Some(via) = &manager.via {
        headers::append_joined(headers, &VIA, b", ", via);
    }
    let upgrade = (version == Version::HTTP_11)
        .then(|| headers::upgrade_of(headers))
        .flatten()
        .and_then(|value| Some(value.to_str().ok()?.to_ascii_lowercase().into_boxed_str()));
    headers::remove_hop_by_hop(headers, upgrade.is_some());
    exchange
        .downstream
        .client_cert
        .apply(config.forward_client_cert, headers);
    if !config.proxy_100_continue {
        // hyper has answered it, or will when the body is read.
        headers.remove(EXPECT);
    }
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    Ok(Head {
        grpc: weft_filters::local_reply::is_grpc(headers),
        method: parts.method.clone(),
        path,
        scheme,
        headers: std::mem::take(headers),
        upgrade,
    })
}

/// The scheme; the host of an absolute URI wins over the `host` header.
fn admit_uri(
    uri: &Uri,
    method: &Method,
    headers: &mut HeaderMap,
    exchange: &Exchange,
) -> Result<&'static str, Refusal> {
    let tls = exchange.downstream.is_tls();
    let plain = if tls { "https" } else { "http" };
    let Some(authority) = uri.authority().filter(|_| method != Method::CONNECT) else {
        return Ok(plain);
    };
    let scheme = match uri.scheme_str() {
        Some("https") if exchange.version == Version::HTTP_2 || tls => "https",
        Some("https") => {
            return Err(Refusal::codec(
                StatusCode::FORBIDDEN,
                "https_url_on_plaintext_connection",
            ));
        }
        Some("http") | None => "http",
        _ => return Err(Refusal::codec(StatusCode::BAD_REQUEST, "invalid_scheme")),
    };
    let host = HeaderValue::from_str(authority.as_str());
    headers.insert(
        HOST,
        host.map_err(|_| Refusal::codec(StatusCode::BAD_REQUEST, "invalid_authority"))?,
    );
    Ok(scheme)
}

/// HTTP/2 clients may send a cookie in crumbs, which upstreams need not understand (RFC 9113,
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) {
        let crumbs: Vec<_> = headers.get_all(COOKIE).iter().cloned().collect();
        headers.remove(COOKIE);
        for crumb in crumbs {
            headers::append_joined(headers, &COOKIE, b"; ", &crumb);
        }
    }
}

fn bad(details: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, details)
}

fn admit_old(config: &HttpManager, headers: &mut HeaderMap) -> Result<(), Refusal> {
    if !config.http1.accept_http_10 {
        return Err(Refusal::codec(StatusCode::UPGRADE_REQUIRED, "low_version"));
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
fn check_host(
    headers: &mut HeaderMap,
    config: &HttpManager,
    local: SocketAddr,
) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("missing_host_header"));
    };
    let Some(text) = host.to_str().ok().filter(|host| host.bytes().all(in_host)) else {
        return Err(Refusal::codec(StatusCode::BAD_REQUEST, "invalid_authority"));
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

/// What may stand in a host with its port (RFC 3986, 3.2).
fn in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]@".contains(&byte)
}

fn check_names(headers: &mut HeaderMap, underscores: UnderscoreAction) -> Result<(), Refusal> {
    if underscores == UnderscoreAction::Allow {
        return Ok(());
    }
    let with: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if underscores == UnderscoreAction::Reject && !with.is_empty() {
        return Err(Refusal::codec(
            StatusCode::BAD_REQUEST,
            "http1.unexpected_underscore",
        ));
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
        return Err(Refusal::codec(StatusCode::BAD_REQUEST, "missing_path"));
    }
    match clean(text, rules) {
        PathVerdict::Use(std::borrow::Cow::Borrowed(_)) => Ok(path),
        PathVerdict::Use(std::borrow::Cow::Owned(clean)) => {
            PathAndQuery::try_from(clean).map_err(|_| bad("path_normalization_failed"))
        }
        PathVerdict::Redirect(to) => Err(Refusal {
            reply: redirect(StatusCode::TEMPORARY_REDIRECT, &to),
            close: false,
            silent: false,
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
