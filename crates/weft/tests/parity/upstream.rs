//! The upstreams: what they got, they say in the answer's body and remember; `x-do` tells them to
//! be odd. Must never know which proxy asks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{Framing, Head, decode_chunks, head_end};

/// What every case's upstream requests looked like, by `x-case`.
pub(crate) type Seen = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Starts the HTTP/1 and the HTTP/2 upstream; gives their ports.
pub(crate) async fn start(seen: &Seen) -> (u16, u16) {
    let local = (Ipv4Addr::LOCALHOST, 0);
    let plain = TcpListener::bind(local).await.expect("a port");
    let two = TcpListener::bind(local).await.expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    let ports = (port(&plain), port(&two));
    let own = Arc::clone(seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            // Only speed is lost without it.
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve_http1(stream, Arc::clone(&own)));
        }
    });
    let own = Arc::clone(seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = two.accept().await {
            let seen = Arc::clone(&own);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer_http2(request, Arc::clone(&seen)));
                // However it ends is the proxy's affair.
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    ports
}

/// Remembers a request; gives its number among those of its case, from 1.
fn remember(seen: &Seen, case: Option<&str>, text: &str) -> usize {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let of_case = seen.entry(case.unwrap_or("-").to_owned()).or_default();
    of_case.push(text.to_owned());
    of_case.len()
}

/// What the upstream has been told to do.
#[derive(Debug, Default)]
struct Orders {
    status: u16,
    headers: Vec<(String, String)>,
    no_body: bool,
    delay: u64,
    odd: String,
    early: Option<String>,
}

impl Orders {
    /// Reads `x-do`; `attempt` counts from 1.
    fn parse(text: &str, attempt: usize) -> Self {
        let mut orders = Self {
            status: 200,
            ..Self::default()
        };
        for order in text.split(';').map(str::trim) {
            let words: Vec<&str> = order.split(' ').collect();
            let number = |at: usize| {
                words
                    .get(at)
                    .and_then(|word| word.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            let early = attempt as u64 <= number(1);
            match words[0] {
                "status" => orders.status = number(1) as u16,
                "header" => {
                    let header = order.trim_start_matches("header ");
                    let (name, value) = header.split_once(": ").expect("a header");
                    orders.headers.push((name.to_owned(), value.to_owned()));
                }
                "big" => {
                    let value = "a".repeat(number(1) as usize);
                    orders.headers.push(("x-big".to_owned(), value));
                }
                "no-body" => orders.no_body = true,
                "delay" => orders.delay = number(1),
                "fail" if early => orders.status = number(2) as u16,
                "drop" if early => "close".clone_into(&mut orders.odd),
                "slow" if early => orders.delay = number(2),
                "grpc" if early => orders
                    .headers
                    .push(("grpc-status".to_owned(), words[2].to_owned())),
                "early" => orders.early = Some(words[1].to_owned()),
                "fail" | "drop" | "slow" | "grpc" => {}
                odd => odd.clone_into(&mut orders.odd),
            }
        }
        orders
    }
}

async fn serve_http1(mut stream: TcpStream, seen: Seen) {
    let mut bytes = Vec::new();
    while let Some((head, body)) = read_request(&mut stream, &mut bytes).await {
        let mut lines = vec![head.first_line.clone()];
        lines.extend(head.lines());
        lines.push(String::new());
        lines.extend(body.split('\n').map(str::to_owned));
        let text = lines.join("\n");
        let attempt = remember(&seen, head.get("x-case"), &text);
        let orders = Orders::parse(head.get("x-do").unwrap_or_default(), attempt);
        tokio::time::sleep(Duration::from_millis(orders.delay)).await;
        let kept = answer_http1(&mut stream, &orders, &text).await;
        if !matches!(kept, Ok(true)) {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(Head, String)> {
    let mut head: Option<Head> = None;
    loop {
        if head.is_none()
            && let Some(end) = head_end(bytes)
        {
            let rest = bytes.split_off(end);
            let read = Head::parse(&std::mem::replace(bytes, rest));
            if read.get("expect").is_some() {
                stream
                    .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                    .await
                    .ok()?;
            }
            head = Some(read);
        }
        let body = head.as_ref().and_then(|head| match head.framing("") {
            Framing::Length(length) => {
                (bytes.len() >= length).then(|| (bytes[..length].to_vec(), Vec::new(), length))
            }
            Framing::Chunked => decode_chunks(bytes),
            Framing::UntilClose => None,
        });
        if let (Some((body, trailers, used)), Some(head)) = (body, &head) {
            bytes.drain(..used);
            let mut text = String::from_utf8_lossy(&body).into_owned();
            for trailer in trailers {
                text = format!("{text}\ntrailer {trailer}");
            }
            return Some((head.clone(), text));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// Whether the connection goes on.
async fn answer_http1(
    stream: &mut TcpStream,
    orders: &Orders,
    text: &str,
) -> std::io::Result<bool> {
    let fixed: &[u8] = match &*orders.odd {
        "close" => return Ok(false),
        "garbage" => b"this is not HTTP\r\n\r\n",
        "half" | "stall" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "half-chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "until-close" => b"HTTP/1.1 200 OK\r\n\r\nthat was it",
        "http10" => b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold",
        "chunked" => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n"
        }
        "trailers" => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n3\r\none\r\n0\r\nx-end: 1\r\n\r\n"
        }
        "upgrade" => {
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        }
        _ => return answer_plainly(stream, orders, text).await,
    };
    stream.write_all(fixed).await?;
    match &*orders.odd {
        "upgrade" => {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            Ok(false)
        }
        "stall" => {
            let mut byte = [0];
            // Until the proxy has had enough.
            let _ended = stream.read(&mut byte).await?;
            Ok(false)
        }
        "chunked" | "trailers" => Ok(true),
        _ => Ok(false),
    }
}

async fn answer_plainly(
    stream: &mut TcpStream,
    orders: &Orders,
    text: &str,
) -> std::io::Result<bool> {
    if let Some(code) = &orders.early {
        let early = format!("HTTP/1.1 {code} Early\r\nlink: x\r\n\r\n");
        stream.write_all(early.as_bytes()).await?;
    }
    let reason = http::StatusCode::from_u16(orders.status).ok();
    let reason = reason
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Odd");
    let mut answer = format!("HTTP/1.1 {} {reason}\r\n", orders.status);
    for (name, value) in &orders.headers {
        let _ = write!(answer, "{name}: {value}\r\n");
    }
    if orders.no_body {
        answer += "\r\n";
    } else {
        let _ = write!(answer, "content-length: {}\r\n\r\n{text}", text.len());
    }
    stream.write_all(answer.as_bytes()).await?;
    Ok(true)
}

async fn answer_http2(
    request: Request<Incoming>,
    seen: Seen,
) -> Result<
    Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>,
    &'static str,
> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the body broke off")?;
    let mut lines = vec![format!("{} {} HTTP/2", head.method, head.uri)];
    let mut headers: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| {
            format!(
                "header {name}: {}",
                String::from_utf8_lossy(value.as_bytes())
            )
        })
        .collect();
    headers.sort();
    lines.extend(headers);
    lines.push(String::from_utf8_lossy(&body.to_bytes()).into_owned());
    let text = lines.join("\n");
    let get = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let attempt = remember(&seen, get("x-case"), &text);
    let orders = Orders::parse(get("x-do").unwrap_or_default(), attempt);
    if orders.odd == "reset" {
        return Err("as it was told");
    }
    let mut response = Response::builder().status(orders.status);
    for (name, value) in &orders.headers {
        response = response.header(name, value);
    }
    let trailers = (orders.odd == "trailers").then(|| {
        HeaderMap::from_iter([(
            http::HeaderName::from_static("x-end"),
            HeaderValue::from_static("1"),
        )])
    });
    let body = Full::from(text)
        .with_trailers(async { trailers.map(Ok) })
        .boxed();
    response.body(body).map_err(|_| "an order was not valid")
}
