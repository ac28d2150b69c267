//! The four sample services, each a small HTTP server of its own process: `page` asks `details`
//! and `reviews`, `reviews` v2 and v3 ask `ratings`, all through their sidecar's HTTP proxy
//! port. Must never know of the mesh beyond that port.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::client::Client;
use super::page;
use crate::Failure;
use crate::cli::{DemoServiceArgs, SampleService};
use crate::stop::StopRequests;

/// Which version of reviews answered; what the load counts.
pub(crate) const VERSION_HEADER: &str = "x-reviews-version";
/// Set by the route of reviews, so that an answer tells which edit routed it.
pub(crate) const MARK_HEADER: &str = "x-demo-step";
/// How often reviews was asked, retries included; reviews hears it from its caller's sidecar.
pub(crate) const ATTEMPTS_HEADER: &str = "x-reviews-attempts";
/// The port on which every sample service is called.
pub(crate) const SERVICE_PORT: u16 = 9080;

/// Longest call from one service to another.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Headers that carry a request's identity from hop to hop.
const TRACE_HEADERS: [&str; 3] = ["x-request-id", "traceparent", "tracestate"];

struct Service {
    name: SampleService,
    version: String,
    client: Client,
}

/// What a service answers before it becomes bytes.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

pub(crate) fn run(args: &DemoServiceArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, serve(args))
}

async fn serve(args: &DemoServiceArgs) -> Result<ExitCode, Failure> {
    let mut stop = StopRequests::listen(args.lifetime.until_stdin_closes)
        .map_err(|error| format!("listening for signals: {error}"))?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("listening on {}: {error}", args.listen))?;
    let service = Rc::new(Service {
        name: args.name,
        version: args.service_version.clone(),
        client: Client::new(args.proxy, CALL_TIMEOUT),
    });
    loop {
        tokio::select! {
            _ = stop.next() => return Ok(ExitCode::SUCCESS),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::task::spawn_local(connection(Rc::clone(&service), stream, peer));
                }
                // Out of file descriptors or a peer that left: the next one may do.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
        }
    }
}

async fn connection(service: Rc<Service>, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let answer = service_fn(|request: Request<Incoming>| {
        let service = Rc::clone(&service);
        async move { Ok::<_, std::convert::Infallible>(service.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        eprintln!("connection from {peer}: {error}");
    }
}

impl Service {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let answer = match (self.name, path) {
            (_, "/health") => Answer::ok(json!({"status": "ok"})),
            (SampleService::Page, "/" | "/productpage") => self.page(request.headers()).await,
            (SampleService::Details, _) if path.starts_with("/details") => details(),
            (SampleService::Reviews, _) if path.starts_with("/reviews") => {
                self.reviews(request.headers()).await
            }
            (SampleService::Ratings, _) if path.starts_with("/ratings") => {
                Answer::ok(json!({"ratings": {"first": 5, "second": 4}}))
            }
            _ => Answer::failed(StatusCode::NOT_FOUND, &format!("nothing lives at {path}")),
        };
        let wants_html = self.name == SampleService::Page
            && request
                .headers()
                .get(ACCEPT)
                .is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
        answer.into_response(wants_html)
    }

    async fn page(&self, incoming: &HeaderMap) -> Answer {
        let (details, reviews) = tokio::join!(
            self.call("details", "/details/0", incoming),
            self.call("reviews", "/reviews/0", incoming),
        );
        let mut answer = match (&details, &reviews) {
            (Ok(details), Ok(reviews)) if details.succeeded() && reviews.succeeded() => {
                Answer::ok(json!({
                    "product": "The Comedy of Errors",
                    "details": details.body,
                    "reviews": reviews.body,
                }))
            }
            _ => {
                let text = [("details", &details), ("reviews", &reviews)]
                    .into_iter()
                    .filter_map(|(name, called)| Some(format!("{name}: {}", problem(called)?)))
                    .collect::<Vec<_>>()
                    .join("; ");
                Answer::failed(StatusCode::INTERNAL_SERVER_ERROR, &text)
            }
        };
        if let Ok(reviews) = reviews {
            for name in [VERSION_HEADER, MARK_HEADER, ATTEMPTS_HEADER] {
                if let Some(value) = reviews.headers.get(name) {
                    answer
                        .headers
                        .insert(HeaderName::from_static(name), value.clone());
                }
            }
        }
        answer
    }

    async fn reviews(&self, incoming: &HeaderMap) -> Answer {
        let mut review_1 = json!({"reviewer": "first", "text": "An extremely entertaining play."});
        let mut review_2 = json!({"reviewer": "second", "text": "Absolutely fun, but thin."});
        let mut answer = if self.version == "v1" {
            Answer::ok(Value::Null)
        } else {
            let called = self.call("ratings", "/ratings/0", incoming).await;
            match problem(&called) {
                Some(text) => Answer::failed(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("ratings: {text}"),
                ),
                None => Answer::ok(called.map_or(Value::Null, |called| called.body)),
            }
        };
        if answer.status == StatusCode::OK {
            for (review, name) in [(&mut review_1, "first"), (&mut review_2, "second")] {
                if let Some(stars) = answer.body.pointer(&format!("/ratings/{name}")) {
                    review["stars"] = stars.clone();
                }
            }
            answer.body = json!({"version": self.version, "reviews": [review_1, review_2]});
        }
        if let Ok(version) = HeaderValue::from_str(&self.version) {
            answer
                .headers
                .insert(HeaderName::from_static(VERSION_HEADER), version);
        }
        if let Some(attempts) = incoming.get("x-envoy-attempt-count") {
            answer
                .headers
                .insert(HeaderName::from_static(ATTEMPTS_HEADER), attempts.clone());
        }
        answer
    }

    /// Calls another service as an application does that knows an HTTP proxy: the full URL to
    /// the proxy's port.
    async fn call(
        &self,
        service: &str,
        path: &str,
        incoming: &HeaderMap,
    ) -> Result<Answer, String> {
        let authority = format!("{service}:{SERVICE_PORT}");
        let uri: http::Uri = format!("http://{authority}{path}")
            .parse()
            .map_err(|error| format!("{authority}{path}: {error}"))?;
        let host = HeaderValue::from_str(&authority).map_err(|error| error.to_string())?;
        let response = self
            .client
            .call(|| {
                let mut request = Request::new(Empty::new());
                *request.uri_mut() = uri.clone();
                request.headers_mut().insert(HOST, host.clone());
                for name in TRACE_HEADERS {
                    if let Some(value) = incoming.get(name) {
                        request.headers_mut().insert(name, value.clone());
                    }
                }
                request
            })
            .await?;
        let (parts, body) = response.into_parts();
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

fn details() -> Answer {
    Answer::ok(json!({
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "language": "English",
    }))
}

/// Why a call is of no use, if it is of none.
fn problem(called: &Result<Answer, String>) -> Option<String> {
    match called {
        Ok(answer) if answer.succeeded() => None,
        Ok(answer) => Some(format!(
            "{} {}",
            answer.status.as_u16(),
            brief(&answer.body)
        )),
        Err(error) => Some(error.clone()),
    }
}

fn brief(body: &Value) -> String {
    match body {
        Value::String(text) => text.chars().take(200).collect(),
        other => other
            .pointer("/error")
            .map_or_else(|| other.to_string(), brief),
    }
}

impl Answer {
    fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body,
        }
    }

    fn failed(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: json!({ "error": text }),
        }
    }

    fn succeeded(&self) -> bool {
        self.status.is_success()
    }

    fn into_response(self, wants_html: bool) -> Response<Full<Bytes>> {
        let (body, content_type) = if wants_html {
            (
                page::html(self.status, &self.body),
                "text/html; charset=utf-8",
            )
        } else {
            (self.body.to_string(), "application/json")
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}
