//! One HTTP request to a control plane or a proxy. Must never know what is asked.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Failure;

/// A dump of ten thousand services is about a tenth of this.
const MAX_BODY: usize = 512 << 20;

/// The body of a page.
///
/// # Errors
/// The address cannot be reached, the answer is none or not 200, or took longer than `limit`.
pub(super) async fn get(address: &str, path: &str, limit: Duration) -> Result<String, Failure> {
    let answer = find(address, path, limit).await?;
    answer.map_err(|refused| refused.to_string())
}

/// An answer that says that there is no such thing.
#[derive(Debug)]
pub(super) struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The body of a page, or that there is none (404), apart from all that keeps from knowing.
///
/// # Errors
/// As [`get`], but for 404.
pub(super) async fn find(
    address: &str,
    path: &str,
    limit: Duration,
) -> Result<Result<String, Missing>, Failure> {
    let (status, body) = call(Method::GET, address, path, limit).await?;
    match status {
        StatusCode::OK => Ok(Ok(body)),
        StatusCode::NOT_FOUND => Ok(Err(Missing(refusal(address, path, status, &body)))),
        _ => Err(refusal(address, path, status, &body)),
    }
}

fn refusal(address: &str, path: &str, status: StatusCode, body: &str) -> Failure {
    format!(
        "{}{path}: {status}: {}",
        authority(address),
        body.trim_end()
    )
}

fn authority(address: &str) -> &str {
    let authority = address.strip_prefix("http://").unwrap_or(address);
    authority.trim_end_matches('/')
}

/// The same by POST.
pub(super) async fn post(address: &str, path: &str, limit: Duration) -> Result<String, Failure> {
    let (status, body) = call(Method::POST, address, path, limit).await?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    Err(refusal(address, path, status, &body))
}

async fn call(
    method: Method,
    address: &str,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, String), Failure> {
    let authority = authority(address);
    let answer = tokio::time::timeout(limit, attempt(method, authority, path)).await;
    answer
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
        .map_err(|error| format!("asking {authority}: {error}; give the address of a running one"))
}

async fn attempt(
    method: Method,
    authority: &str,
    path: &str,
) -> Result<(StatusCode, String), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(authority)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Its failure reaches whoever waits for an answer on it.
    let connection = tokio::spawn(connection);
    let answered = sender.send_request(request).await;
    let response = answered.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| format!("reading the answer: {error}"))?;
    connection.abort();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, text))
}

/// Text as a value of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Runs what asks, on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_could_misread_is_escaped() {
        assert_eq!(escaped("a/b~c.d-e_f"), "a/b~c.d-e_f");
        assert_eq!(escaped("a b&c=%é"), "a%20b%26c%3D%25%C3%A9");
    }
}
