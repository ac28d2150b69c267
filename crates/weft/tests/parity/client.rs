//! Sends a case and writes down what came back, line by line, in a form that two proxies can be
//! compared by. Must never know which proxy it talks to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_net::Stream;
use weft_net::tls::{ClientSpec, Identity, Pem, client_config, connect};

use super::cases::{Case, Step};
use super::wire::{Framing, Head, decode_chunks, head_end};

/// Nothing in the table takes longer than this without a byte.
const SILENCE: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(150);

/// What came back, as lines `what: value`.
pub(crate) type Lines = Vec<String>;

pub(crate) async fn run(case: &Case, port: u16) -> Lines {
    let stream = match open(case, port).await {
        Ok(stream) => stream,
        Err(error) => return vec![format!("no connection: {error}")],
    };
    if case.h2 {
        return run_http2(case, stream).await;
    }
    let mut wire = Wire {
        stream,
        bytes: Vec::new(),
        ended: false,
    };
    run_http1(case, &mut wire).await
}

async fn open(case: &Case, port: u16) -> Result<Stream, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let Some(name) = &case.tls else {
        return Ok(Stream::from(tcp));
    };
    let alpn = if case.h2 { "h2" } else { "http/1.1" };
    let pem = |kind: &str, name: &String| {
        let file = format!("{name}.{kind}");
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        Pem::new(file, bytes)
    };
    let spec = ClientSpec {
        alpn: vec![alpn.into()],
        identity: case.cert.as_ref().map(|name| Identity {
            chain: pem("pem", name),
            key: pem("key", name),
        }),
        ..ClientSpec::default()
    };
    let config = client_config(&spec).map_err(|e| e.to_string())?;
    let stream = connect(tcp, config, Some(name), Some(SILENCE)).await;
    stream.map_err(|e| e.to_string())
}

struct Wire {
    stream: Stream,
    bytes: Vec<u8>,
    ended: bool,
}

impl Wire {
    /// Waits for more bytes; false when none will come.
    async fn more(&mut self, wait: Duration) -> bool {
        let mut buffer = [0; 16 * 1024];
        match tokio::time::timeout(wait, self.stream.read(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => {
                self.bytes.extend_from_slice(&buffer[..read]);
                true
            }
            Ok(_) => {
                self.ended = true;
                false
            }
            Err(_) => false,
        }
    }

    /// Writes as far as the other side takes it.
    async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        // A proxy that has closed already is seen when its answer is read.
        let _ = sent.await;
    }

    async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = head_end(&self.bytes) {
                let rest = self.bytes.split_off(end);
                let head = std::mem::replace(&mut self.bytes, rest);
                return Some(Head::parse(&head));
            }
            if !self.more(SILENCE).await {
                return None;
            }
        }
    }

    /// The body, or what there is of it and why it is not all.
    async fn body(&mut self, framing: Framing, lines: &mut Lines) -> bool {
        loop {
            let done = match framing {
                Framing::Length(length) => (self.bytes.len() >= length)
                    .then(|| (self.bytes[..length].to_vec(), Vec::new(), length)),
                Framing::Chunked => decode_chunks(&self.bytes),
                Framing::UntilClose => self
                    .ended
                    .then(|| (self.bytes.clone(), Vec::new(), self.bytes.len())),
            };
            if let Some((body, trailers, used)) = done {
                self.bytes.drain(..used);
                write_body(&body, lines);
                lines.extend(trailers.iter().map(|trailer| format!("trailer {trailer}")));
                return true;
            }
            if self.ended || !self.more(SILENCE).await {
                let end = if self.ended { "closed" } else { "silent" };
                lines.push(format!("body cut off: {end}"));
                return false;
            }
        }
    }
}

fn write_body(body: &[u8], lines: &mut Lines) {
    let text = String::from_utf8_lossy(body);
    lines.extend(text.split('\n').map(|line| format!("body {line}")));
}

async fn run_http1(case: &Case, wire: &mut Wire) -> Lines {
    let mut lines = Lines::new();
    wire.send(&case.head_bytes()).await;
    for step in &case.steps {
        match step {
            Step::Send(bytes) => wire.send(bytes).await,
            Step::Pause => tokio::time::sleep(MOMENT).await,
            Step::Read => {
                wire.more(SILENCE).await;
            }
        }
    }
    if case.close {
        // It is seen by the proxy, or the proxy has closed first.
        let _ = wire.stream.shutdown().await;
    }
    loop {
        let Some(head) = wire.head().await else {
            lines.push(format!(
                "no answer: {}",
                if wire.ended { "closed" } else { "silent" }
            ));
            return lines;
        };
        lines.push(format!("status {}", head.first_line));
        lines.extend(head.lines());
        if head.status == 101 {
            while wire.more(MOMENT).await {}
            write_body(&wire.bytes, &mut lines);
            return lines;
        }
        if head.status >= 200 {
            if !wire.body(head.framing(case.method()), &mut lines).await {
                return lines;
            }
            break;
        }
    }
    if !case.close {
        lines.push(format!("connection: {}", probe(wire).await));
    }
    lines
}

/// Whether the connection takes another request.
async fn probe(wire: &mut Wire) -> &'static str {
    if !wire.bytes.is_empty() {
        return "more than one answer";
    }
    wire.send(b"GET /direct HTTP/1.1\r\nhost: a.test\r\nx-case: probe\r\n\r\n")
        .await;
    match wire.head().await {
        Some(_) => "kept",
        None if wire.ended => "closed",
        None => "silent",
    }
}

async fn run_http2(case: &Case, stream: Stream) -> Lines {
    let mut lines = Lines::new();
    let work = async {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let shaken = builder
            .max_header_list_size(64 * 1024)
            .handshake(stream)
            .await;
        let (mut sender, connection) = shaken.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.ready().await.map_err(|e| e.to_string())?;
        let response = sender.send_request(request_http2(case)).await;
        let (head, mut body) = response.map_err(|e| cause(&e))?.into_parts();
        lines.push(format!("status {}", head.status.as_u16()));
        write_headers("header", &head.headers, &mut lines);
        let mut all = Vec::new();
        let end = loop {
            match body.frame().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(format!("body cut off: {}", cause(&error))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        all.extend_from_slice(data);
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        write_headers("trailer", trailers, &mut lines);
                    }
                }
            }
        };
        write_body(&all, &mut lines);
        end
    };
    let result = tokio::time::timeout(SILENCE, work).await;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => lines.push(format!("error: {error}")),
        Err(_) => lines.push("silent".to_owned()),
    }
    lines
}

fn cause(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn request_http2(case: &Case) -> Request<Full<Bytes>> {
    let line = case.request_line();
    let headers: Vec<(&str, &str)> = case.head[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let host = headers
        .iter()
        .find(|(name, _)| *name == "host")
        .map_or("", |(_, host)| *host);
    let scheme = if case.tls.is_some() { "https" } else { "http" };
    let mut request = Request::builder()
        .method(line[0])
        .uri(format!("{scheme}://{host}{}", line[1]));
    for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
        request = request.header(*name, *value);
    }
    let mut body = Vec::new();
    for step in &case.steps {
        if let Step::Send(bytes) = step {
            body.extend_from_slice(bytes);
        }
    }
    request
        .body(Full::from(body))
        .expect("a request of the table is valid")
}

fn write_headers(kind: &str, headers: &HeaderMap, lines: &mut Lines) {
    let mut written: Vec<String> = headers
        .iter()
        .map(|(name, value)| {
            format!(
                "{kind} {name}: {}",
                String::from_utf8_lossy(value.as_bytes())
            )
        })
        .collect();
    written.sort();
    lines.extend(written);
}
