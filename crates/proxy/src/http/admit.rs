//! What is a request and what is not: the checks before routing, and one form for all versions.
//!
//! Refusals, their words and their details are Envoy's.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{COOKIE, EXPECT, HOST, HeaderName, HeaderValue, REFERER, VIA};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use weft_config::http_manager::is_host;
use weft_config::http_options::UnderscoreAction;
use weft_config::path::{PathRules, PathVerdict, clean};
use weft_config::{HttpManager, RequestHead};
use weft_filters::LocalReply;

use super::exchange::{Exchange, Record};
use super::headers;
use super::referer;
use super::respond::redirect;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

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
        RequestHead::of(&self.method, self.path.as_str(), self.scheme, &self.headers)
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
pub(crate) struct Refusal {
    pub(crate) reply: Box<LocalReply>,
    pub(crate) close: bool,
    /// Envoy's codec refuses it before it is a request: no access log tells of it.
    pub(crate) silent: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, details: &'static str) -> Self {
        Self {
            reply: Box::new(LocalReply::new(status, details)),
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

/// Checks a request and brings it into one form. A refused one stays in `parts`.
pub(crate) fn admit(parts: &mut Parts, exchange: &Exchange) -> Result<Head, Refusal> {
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
    let upgrade = upgrade.filter(|wanted| {
        let http2 = **wanted == *"h2c";
        if http2 {
            // Nobody upgrades to HTTP/2 here, and a client that asks for it does without.
            headers.remove(HTTP2_SETTINGS);
        }
        !http2
    });
    headers::remove_hop_by_hop(headers, upgrade.is_some());
    let referers = headers.get_all(REFERER);
    if !referers
        .iter()
        .all(|value| referer::is_valid(value.as_bytes()))
    {
        headers.remove(REFERER);
    }
    exchange
        .downstream
        .client_cert
        .apply(config.forward_client_cert, headers);
    if !config.proxy_100_continue {
        // hyper has answered it, or will when the body is read.
        headers::take(headers, &EXPECT);
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
    let Some(text) = host.to_str().ok().filter(|host| is_host(host)) else {
        return Err(Refusal::codec(StatusCode::BAD_REQUEST, "invalid_authority"));
    };
    let stripped = config.stripped_host(text, local.port());
    if let Some(host) = stripped.and_then(|host| HeaderValue::from_str(&host).ok()) {
        headers.insert(HOST, host);
    }
    Ok(())
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
    let text = path.as_str();
    if !text.starts_with('/') && text != "*" {
        return Err(Refusal::codec(StatusCode::BAD_REQUEST, "missing_path"));
    }
    match clean(text, PathRules::of(config)) {
        PathVerdict::Use(std::borrow::Cow::Borrowed(_)) => Ok(path),
        PathVerdict::Use(std::borrow::Cow::Owned(clean)) => {
            PathAndQuery::try_from(clean).map_err(|_| bad("path_normalization_failed"))
        }
        PathVerdict::Redirect(to) => Err(Refusal {
            reply: Box::new(redirect(StatusCode::TEMPORARY_REDIRECT, &to)),
            close: false,
            silent: false,
        }),
        PathVerdict::Reject => Err(bad("path_normalization_failed")),
    }
}
