//! Services that filters call: one that gives keys, and one that decides about requests. Must
//! never know which proxy asks.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Starts the server of keys; gives its port.
pub(crate) async fn keys(set: String) -> u16 {
    let set = Arc::new(set);
    serve(move |request: Request<Bytes>| {
        let answer = match request.uri().path() {
            "/jwks" => answer(200, &[], &set),
            "/empty" => answer(200, &[], "{\"keys\": []}"),
            "/odd" => answer(200, &[], "odd"),
            _ => answer(500, &[], ""),
        };
        std::future::ready(answer)
    })
    .await
}

/// An answer of a server.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = Full::from(Bytes::copy_from_slice(body.as_bytes()));
    response.body(body).expect("an answer of a test is valid")
}

/// Starts an HTTP/1.1 server on a free port, which it gives. What `handle` waits for must not
/// hold its thread, which other connections of the test need within their time.
pub(crate) async fn serve<F>(handle: impl Fn(Request<Bytes>) -> F + Send + Sync + 'static) -> u16
where
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let handle = Arc::new(handle);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = Arc::clone(&handle);
            let service = service_fn(move |request: Request<Incoming>| {
                let handle = Arc::clone(&handle);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body
                        .collect()
                        .await
                        .map(http_body_util::Collected::to_bytes);
                    let request = Request::from_parts(head, body.unwrap_or_default());
                    Ok::<_, Infallible>(handle(request).await)
                }
            });
            // However it ends is the proxy's affair.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}
