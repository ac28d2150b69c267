//! Sending a request over a pooled connection, and connecting for plain TCP.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use weft_net::Stream;

use crate::body::{RequestBody, ResponseBody};
use crate::breaker::Priority;
use crate::cluster::Cluster;
use crate::connector::{Ends, Protocol};
use crate::failure::{FailureKind, SendFailure, classify};
use crate::host::Host;
use crate::lease::{Active, Carrier, Lease};
use crate::outlier::Outcome;
use crate::pool::{Pool, PoolKey};

/// Connections that may turn out to be dead before a request is given up.
const MAX_DEAD_CONNECTIONS: usize = 16;

/// What a request needs besides itself.
#[derive(Debug, Clone, Copy)]
pub struct SendOptions {
    /// Which breakers count it.
    pub priority: Priority,
    /// What the client speaks, for clusters that follow it.
    pub downstream: Protocol,
    /// Names the downstream connection, for clusters that give each its own connections.
    pub downstream_id: u64,
    /// Its ends, for clusters that tell of them.
    pub ends: Option<Ends>,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            priority: Priority::Default,
            downstream: Protocol::Http1,
            downstream_id: 0,
            ends: None,
        }
    }
}

impl Cluster {
    /// The protocol that a request to `host` goes up with.
    pub fn protocol(&self, host: &Host, downstream: Protocol) -> Protocol {
        host.pools.connector().protocol(downstream)
    }

    /// Whether connections to `host` are encrypted.
    pub fn is_tls(&self, host: &Host) -> bool {
        host.pools.connector().is_tls()
    }

    /// Sends a request to a host and waits for the head of its response. The URI and version
    /// are put into the form that the upstream's protocol wants; hop-by-hop headers are the
    /// caller's affair. Counts the request, the response and what outlier detection needs.
    ///
    /// Dropping the future gives the request up: its connection (HTTP/1) is closed, its
    /// stream (HTTP/2) reset. A connection being made is kept for others.
    pub async fn send(
        self: &Rc<Self>,
        host: &Rc<Host>,
        request: Request<RequestBody>,
        options: &SendOptions,
    ) -> Result<Response<ResponseBody>, SendFailure> {
        let pool = match self.pool_for(host, &request, options) {
            Ok(pool) => pool,
            Err(failure) => return Err(failure.with_request(request)),
        };
        let result = match self.protocol(host, options.downstream) {
            Protocol::Http1 => {
                self.send_http1(host, &pool, request, options.priority)
                    .await
            }
            Protocol::Http2 => {
                self.send_http2(host, &pool, request, options.priority)
                    .await
            }
        };
        match &result {
            Ok(response) => self.count_response(host, response),
            Err(failure) => self.count_failure(host, failure),
        }
        result
    }

    fn pool_for(
        &self,
        host: &Rc<Host>,
        request: &Request<RequestBody>,
        options: &SendOptions,
    ) -> Result<Rc<Pool>, SendFailure> {
        let http = &self.config.http;
        let named = http.auto_sni || http.auto_sni_header.is_some();
        let ends = options.ends.filter(|_| host.pools.connector().tells_ends());
        let apart = self.config.connection_pool_per_downstream_connection || ends.is_some();
        if !named && !apart {
            return host.pools.pool(None);
        }
        let server_name = if named && self.is_tls(host) {
            server_name_of(request, http.auto_sni_header.as_deref())
        } else {
            None
        };
        let downstream = apart.then_some(options.downstream_id);
        if let Some(downstream) = downstream {
            self.downstreams().note(downstream, &host.pools);
        }
        host.pools.pool(Some(PoolKey {
            server_name,
            downstream,
            ends,
        }))
    }

    async fn send_http1(
        self: &Rc<Self>,
        host: &Rc<Host>,
        pool: &Rc<Pool>,
        mut request: Request<RequestBody>,
        priority: Priority,
    ) -> Result<Response<ResponseBody>, SendFailure> {
        let connect = request.method() == Method::CONNECT;
        fit_http1(&mut request, connect);
        for _ in 0..MAX_DEAD_CONNECTIONS {
            let mut connection = match pool.http1(priority).await {
                Ok(connection) => connection,
                Err(failure) => return Err(failure.with_request(request)),
            };
            let Some(active) = Active::begin(self, host, priority) else {
                pool.give_back(connection);
                return Err(SendFailure::new(FailureKind::Overflow, "").with_request(request));
            };
            connection.begin_request();
            let sent = connection.send.try_send_request(request);
            let lease = Lease::new(active, Carrier::Http1(connection, Rc::clone(pool)));
            match sent.await {
                Ok(response) => return with_lease(response, lease, connect),
                Err(mut error) => {
                    let back = error.take_message();
                    lease.abandon(back.is_some());
                    match back {
                        // It died while it was idle and nothing was sent: take another.
                        Some(back) => request = back,
                        None => return Err(SendFailure::new(classify(error.error()), "")),
                    }
                }
            }
        }
        let kind = FailureKind::ConnectionTermination;
        Err(SendFailure::new(kind, "").with_request(request))
    }

    async fn send_http2(
        self: &Rc<Self>,
        host: &Rc<Host>,
        pool: &Rc<Pool>,
        mut request: Request<RequestBody>,
        priority: Priority,
    ) -> Result<Response<ResponseBody>, SendFailure> {
        let connect = request.method() == Method::CONNECT;
        fit_http2(&mut request, self.is_tls(host));
        for _ in 0..MAX_DEAD_CONNECTIONS {
            let stream = match pool.http2(priority).await {
                Ok(stream) => stream,
                Err(failure) => return Err(failure.with_request(request)),
            };
            let Some(active) = Active::begin(self, host, priority) else {
                return Err(SendFailure::new(FailureKind::Overflow, "").with_request(request));
            };
            let sent = stream.send(request);
            let lease = Lease::new(active, Carrier::Http2(stream));
            match sent.await {
                Ok(response) => return with_lease(response, lease, connect),
                Err(mut error) => {
                    let back = error.take_message();
                    lease.abandon(back.is_some());
                    match back {
                        Some(back) => request = back,
                        None => return Err(SendFailure::new(classify(error.error()), "")),
                    }
                }
            }
        }
        let kind = FailureKind::ConnectionTermination;
        Err(SendFailure::new(kind, "").with_request(request))
    }

    fn count_response(&self, host: &Host, response: &Response<ResponseBody>) {
        let status = response.status().as_u16();
        let headers = response.headers();
        let judged = || match &self.config.http.errors {
            Some(errors) => errors.judge(status, headers),
            None => grpc_status(headers).unwrap_or(status),
        };
        self.count_status(host, status, judged);
    }

    /// Counts an answer by its status; outlier detection hears of what it is `judged` by.
    pub(crate) fn count_status(&self, host: &Host, status: u16, judged: impl FnOnce() -> u16) {
        self.stats.charge_status(status);
        let counts = host.counts();
        if status >= 500 {
            counts.rq_error.fetch_add(1, Relaxed);
        } else {
            counts.rq_success.fetch_add(1, Relaxed);
        }
        if self.config.outlier.is_some() {
            self.report(host, Outcome::Status(judged()));
        }
    }

    fn count_failure(&self, host: &Host, failure: &SendFailure) {
        match failure.kind {
            FailureKind::RemoteReset | FailureKind::RemoteRefusedStream => {
                self.stats.upstream_rq_rx_reset.inc();
            }
            FailureKind::ProtocolError => self.stats.upstream_cx_protocol_error.inc(),
            _ => {}
        }
        match failure.kind {
            FailureKind::Overflow | FailureKind::LocalReset => {}
            _ => self.report(host, Outcome::LocalOriginFailure),
        }
    }

    /// A connection to a host for bytes without HTTP meaning, for a downstream connection with
    /// these ends: counted, limited by the
    /// breakers, with TLS if the cluster has it.
    pub async fn connect_tcp(
        &self,
        host: &Host,
        priority: Priority,
        ends: Option<Ends>,
    ) -> Result<Stream, SendFailure> {
        let connected = host.pools.pool(None)?.connect_tcp(priority, ends).await;
        self.judge(host, &connected);
        connected
    }

    /// Like [`Cluster::connect_tcp`], for a connection to the host that requests of a worker share. The
    /// first one the breakers count but do not forbid: its requests have no other. `any` tells whether the
    /// worker has one already.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub async fn connect_shared(
        &self,
        host: &Host,
        priority: Priority,
        any: bool,
    ) -> Result<Stream, SendFailure> {
        let connected = host.pools.pool(None)?.connect_shared(priority, any).await;
        self.judge(host, &connected);
        connected
    }

    fn judge(&self, host: &Host, connected: &Result<Stream, SendFailure>) {
        match connected {
            Ok(_) => self.report(host, Outcome::LocalOriginSuccess),
            Err(failure) => self.count_failure(host, failure),
        }
    }
}

fn with_lease(
    response: Response<hyper::body::Incoming>,
    mut lease: Lease,
    connect: bool,
) -> Result<Response<ResponseBody>, SendFailure> {
    if !lease.limits().allow(response.headers()) {
        let kind = match lease.protocol() {
            // Envoy's word for it, though it resets the stream itself.
            Protocol::Http2 => FailureKind::RemoteReset,
            Protocol::Http1 => FailureKind::ProtocolError,
        };
        lease.abandon(false);
        return Err(SendFailure::new(kind, ""));
    }
    lease.answered();
    let status = response.status();
    let upgraded = status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
    Ok(response.map(|incoming| {
        if upgraded {
            ResponseBody::of_upgrade(incoming, lease)
        } else {
            ResponseBody::new(incoming, lease)
        }
    }))
}

/// Whether the headers say how the body ends.
fn is_framed(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(UPGRADE)
}

/// Origin form with a `host` header (CONNECT: authority form), HTTP/1.1.
fn fit_http1(request: &mut Request<RequestBody>, connect: bool) {
    *request.version_mut() = Version::HTTP_11;
    let bodiless = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    );
    // Most requests have no body and need no look at their headers.
    let is_empty = matches!(request.body(), RequestBody::Empty);
    let measured = request.body().size_hint().exact().is_some();
    if (!bodiless && is_empty || !connect && !measured) && !is_framed(request.headers()) {
        let headers = request.headers_mut();
        if !bodiless && is_empty {
            // The server need not know that this method has no body.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if !connect && !measured {
            // Without it the HTTP library drops the body of a GET or HEAD.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    let Some(authority) = request.uri().authority() else {
        return;
    };
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    if connect {
        return;
    }
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
}

/// Absolute form, from the `host` header if need be, HTTP/2.
fn fit_http2(request: &mut Request<RequestBody>, tls: bool) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    if request.uri().authority().is_some() && request.uri().scheme().is_some() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.authority.is_none() {
        parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    }
    if parts.authority.is_some() && request.method() != Method::CONNECT {
        parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
        let path = parts.path_and_query.take();
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// The host name a request asks for, without its port; an address is none.
fn server_name_of(request: &Request<RequestBody>, header: Option<&str>) -> Option<Box<str>> {
    let asked = header.and_then(|name| request.headers().get(name));
    let text = match asked.or_else(|| request.headers().get(HOST)) {
        Some(value) => value.to_str().ok()?,
        None => request.uri().authority()?.as_str(),
    };
    let name = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let name = match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => name,
    };
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    (address.is_err() && !name.is_empty()).then(|| name.to_ascii_lowercase().into())
}

/// The HTTP status that a gRPC status in the head stands for, as Envoy maps it.
fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(match status.parse::<u32>().ok()? {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<RequestBody> {
        let mut builder = Request::builder().uri(uri);
        if let Some(host) = host {
            builder = builder.header(HOST, host);
        }
        builder.body(RequestBody::Empty).unwrap()
    }

    #[test]
    fn requests_take_the_form_of_the_upstreams_protocol() {
        let mut one = request("http://a.test:81/p?q=1", None);
        fit_http1(&mut one, false);
        assert_eq!(one.uri(), "/p?q=1");
        assert_eq!(one.headers()[HOST], "a.test:81");
        let mut kept = request("http://a.test/", Some("b.test"));
        fit_http1(&mut kept, false);
        assert_eq!(kept.headers()[HOST], "b.test");
        let mut two = request("/p?q=1", Some("a.test:81"));
        fit_http2(&mut two, true);
        assert_eq!(two.uri(), "https://a.test:81/p?q=1");
        assert!(two.headers().get(HOST).is_none());
        assert_eq!(two.version(), Version::HTTP_2);
    }

    #[test]
    fn server_names_come_from_the_host() {
        for (host, name) in [
            ("A.test:443", Some("a.test")),
            ("a.test", Some("a.test")),
            ("10.0.0.1:80", None),
            ("[::1]:80", None),
            ("", None),
        ] {
            let found = server_name_of(&request("/", Some(host)), None);
            assert_eq!(found.as_deref(), name, "{host}");
        }
        let mut with_header = request("/", Some("a.test"));
        with_header
            .headers_mut()
            .insert("x-sni", HeaderValue::from_static("b.test"));
        let found = server_name_of(&with_header, Some("x-sni"));
        assert_eq!(found.as_deref(), Some("b.test"));
    }
}
