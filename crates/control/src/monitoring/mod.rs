//! The monitoring server: readiness, metrics under istiod's names, who is connected and in step,
//! what was pushed to whom, and the status of every object; and the same for tools that ask over
//! xDS. Must never change anything.

mod explain;
mod istio;
mod metrics;
mod pages;
mod query;
mod wait;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_core::drain::DrainSignal;

use crate::core::{Connected, Core};
pub(crate) use istio::{answer_question, identifier, is_question};
#[cfg(test)]
pub(crate) use pages::shown;
use query::Query;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 128;
/// Time for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// Serves until the drain signal comes.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>, drain: DrainSignal) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.wait() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; a pause lets some come back.
                tracing::warn!(%error, "monitoring: accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let core = Arc::clone(&core);
        let drain = drain.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let core = Arc::clone(&core);
                async move { Ok::<_, Infallible>(answer(&core, &request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A client that breaks off has ended its connection; there is no one to tell.
                _ = connection => {}
                () = drain.wait() => {}
            }
            drop(permit);
        });
    }
}

async fn answer(core: &Core, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n".to_owned(),
        );
    }
    let target = request.uri().path_and_query();
    let (kind, body) = page(core, target.map_or("/", |target| target.as_str())).await;
    match kind {
        PageKind::Json => json_answer(body),
        PageKind::Text(status) => text(status, body),
    }
}

/// Whose turn it is to have a whole configuration printed.
static RENDERING: Semaphore = Semaphore::const_new(1);

/// What a page's body is.
enum PageKind {
    Json,
    Text(StatusCode),
}

/// A page by its path and query.
async fn page(core: &Core, target: &str) -> (PageKind, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // Whole configurations are computed and printed one at a time, so that pushes go on beside.
    let _turn = match path {
        "/debug/config_dump" | "/debug/resources" | "/debug/edsz" | "/debug/ecdsz"
        | "/debug/explain" | "/debug/view" => RENDERING.acquire().await.ok(),
        _ => None,
    };
    let query = Query::parse(query);
    let json = |value: &Value| (PageKind::Json, format!("{value:#}\n"));
    let plain = |status, text: &str| (PageKind::Text(status), text.to_owned());
    match path {
        "/ready" if core.is_ready() => plain(StatusCode::OK, "ready\n"),
        "/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/version" => plain(StatusCode::OK, concat!(env!("CARGO_PKG_VERSION"), "\n")),
        "/metrics" => (PageKind::Text(StatusCode::OK), metrics::metrics(core)),
        "/debug/proxies" => json(&pages::proxies(core, query.get("proxyID")).await),
        "/debug/wait" if wait::asks_too_much(&query) => (
            PageKind::Text(StatusCode::BAD_REQUEST),
            format!(
                "more than {} objects and files: ask for them in parts\n",
                wait::MOST_ASKED
            ),
        ),
        "/debug/wait" => json(&wait::wait(core, &query).await),
        "/debug/status" => json(&pages::statuses(core)),
        "/debug/pushes" => {
            let after = query.get("after").and_then(|n| n.parse().ok()).unwrap_or(0);
            json(&pages::pushes(core, after))
        }
        "/debug/resources" => of_proxy(core, &query, |connected| pages::resources(core, connected)),
        "/debug/explain" => told(explain::explain(core, &query)),
        "/debug/address" => told(explain::address(core, &query)),
        "/debug/view" => told(explain::view(core, &query)),
        "/debug/syncz" => json(&istio::syncz(core, &query).await),
        "/debug/connections" | "/debug/adsz" => json(&istio::connections(core)),
        "/debug/config_dump" => of_proxy(core, &query, |connected| {
            istio::config_dump(connected, core, &query)
        }),
        "/debug/edsz" | "/debug/ecdsz" | "/debug/ndsz" => {
            let only = path.trim_start_matches("/debug/").trim_end_matches('z');
            let query = Query::parse(&format!("{}&types={only}", target_query(target)));
            of_proxy(core, &query, |connected| {
                istio::config_dump(connected, core, &query)
            })
        }
        "/debug/list" => json(
            &PAGES
                .map(|page| page.trim_start_matches("/debug/"))
                .as_slice()
                .into(),
        ),
        // istioctl looks for these words.
        _ if path.starts_with("/debug/") => (
            PageKind::Text(StatusCode::NOT_FOUND),
            format!("404 page not found; served here: {}\n", PAGES.join(" ")),
        ),
        _ => (
            PageKind::Text(StatusCode::NOT_FOUND),
            format!(
                "served here: /ready /version /metrics {}\n",
                PAGES.join(" ")
            ),
        ),
    }
}

/// The pages for people and tools.
const PAGES: [&str; 15] = [
    "/debug/address",
    "/debug/adsz",
    "/debug/config_dump",
    "/debug/connections",
    "/debug/ecdsz",
    "/debug/edsz",
    "/debug/explain",
    "/debug/ndsz",
    "/debug/proxies",
    "/debug/pushes",
    "/debug/resources",
    "/debug/status",
    "/debug/syncz",
    "/debug/view",
    "/debug/wait",
];

/// A page, or why there is none.
fn told(page: Result<Value, String>) -> (PageKind, String) {
    match page {
        Ok(value) => (PageKind::Json, format!("{value:#}\n")),
        Err(reason) => (PageKind::Text(StatusCode::NOT_FOUND), format!("{reason}\n")),
    }
}

/// A page without a server.
///
/// # Errors
/// What the server would say instead.
pub(crate) async fn answer_offline(
    core: &Core,
    target: &str,
) -> Result<String, (StatusCode, String)> {
    match page(core, target).await {
        (PageKind::Json | PageKind::Text(StatusCode::OK), body) => Ok(body),
        (PageKind::Text(status), body) => Err((status, body.trim_end().to_owned())),
    }
}

fn target_query(target: &str) -> &str {
    target.split_once('?').map_or("", |(_, query)| query)
}

/// A page about one connected proxy; the words of refusals are istiod's, which tools look for.
fn of_proxy(
    core: &Core,
    query: &Query,
    show: impl FnOnce(&Connected) -> Value,
) -> (PageKind, String) {
    let Some(wanted) = query.get("proxyID").filter(|id| !id.is_empty()) else {
        let words = "You must provide a proxyID in the query string\n";
        return (PageKind::Text(StatusCode::BAD_REQUEST), words.to_owned());
    };
    match core.find_connected(wanted) {
        Some(connected) => (PageKind::Json, format!("{:#}\n", show(&connected))),
        None => (
            PageKind::Text(StatusCode::NOT_FOUND),
            "Proxy not connected to this Pilot instance. It may be connected to another \
             instance; give ?proxyID=<node id or name.namespace>\n"
                .to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json_answer(body: String) -> Answer {
    let mut response = Response::new(Full::from(body));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
