//! Serving one downstream connection as HTTP/1 or HTTP/2, and draining it.
//!
//! hyper speaks the protocol; this file chooses it, sets its limits and tells it when to stop.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use weft_config::http_manager::CodecType;
use weft_config::http_options::Http2Options;
use weft_net::Stream;
use weft_net::inspect::HttpVersion;

use super::downstream::Downstream;
use super::manager::Manager;
use crate::connection::{Handle, Phase};

/// Envoy's default windows and streams since 1.36 would starve nobody here, and hyper's own
/// defaults of 64 KiB make a large upload wait for acknowledgements.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// hyper's smallest allowed read buffer.
const SMALLEST_BUFFER: usize = 8192;

/// Runs HTTP/2 streams on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The version a connection speaks: by configuration, ALPN, or its first bytes.
pub(crate) fn version(
    codec: CodecType,
    alpn: Option<&[u8]>,
    sniffed: Option<HttpVersion>,
) -> http::Version {
    match (codec, alpn) {
        (CodecType::Http2, _) | (CodecType::Auto, Some(b"h2")) => http::Version::HTTP_2,
        (CodecType::Auto, None) if sniffed == Some(HttpVersion::H2c) => http::Version::HTTP_2,
        _ => http::Version::HTTP_11,
    }
}

/// Serves `stream` until it ends, and gives hyper's error if it did not end well.
pub(crate) async fn serve(
    stream: Stream,
    version: http::Version,
    downstream: Rc<Downstream>,
) -> Result<(), hyper::Error> {
    let handle = Rc::clone(downstream.handle());
    let manager = Rc::clone(downstream.manager());
    let service =
        service_fn(move |request| super::request::handle(Rc::clone(&downstream), request));
    if version == http::Version::HTTP_2 {
        let connection = http2_builder(&manager).serve_connection(stream, service);
        let mut connection = pin!(connection);
        steer(&handle, |cx, stop| {
            if stop {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await
    } else {
        let watched = Watched {
            stream,
            received: handle.limit_head(manager.config.head_timeout()),
        };
        let connection = http1_builder(&manager).serve_connection(watched, service);
        let mut connection = pin!(connection.with_upgrades());
        steer(&handle, |cx, stop| {
            // While it drains, responses carry `connection: close`; the socket of an idle
            // client is closed only when it has had the time to send what it was sending.
            if stop && handle.phase() >= Phase::Finishing {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await
    }
}

/// Polls a connection and, when its handle moves on, tells it to stop.
async fn steer<E>(
    handle: &Rc<Handle>,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<Result<(), E>>,
) -> Result<(), E> {
    let mut told = Phase::Serving;
    poll_fn(move |cx| {
        handle.register(cx.waker());
        let phase = handle.phase();
        if phase == Phase::Closing {
            return Poll::Ready(Ok(()));
        }
        let stop = phase > told;
        told = told.max(phase);
        poll(cx, stop)
    })
    .await
}

fn http1_builder(manager: &Manager) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let config = &manager.config;
    let bytes = (config.max_request_headers_kb as usize) * 1024;
    builder
        .half_close(false)
        .keep_alive(true)
        .auto_date_header(true)
        .max_headers(config.common.max_headers_count as usize)
        .max_buf_size(bytes.max(SMALLEST_BUFFER))
        // hyper's timer would run while the client is idle; the handle's does not.
        .header_read_timeout(None);
    builder
}

/// A connection whose handle learns when the client sends something.
struct Watched {
    stream: Stream,
    received: Option<Arc<AtomicBool>>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Read::poll_read(Pin::new(&mut self.stream), cx, buffer);
        if let (Some(received), Poll::Ready(Ok(()))) = (&self.received, &read) {
            received.store(true, Relaxed);
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(Pin::new(&mut self.stream), cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
    fn is_write_vectored(&self) -> bool {
        Write::is_write_vectored(&self.stream)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write_vectored(Pin::new(&mut self.stream), cx, bytes)
    }
}

fn http2_builder(manager: &Manager) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    let Http2Options {
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        keepalive,
    } = &manager.config.http2;
    builder
        .initial_stream_window_size(initial_stream_window_size.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(initial_connection_window_size.unwrap_or(CONNECTION_WINDOW))
        .max_concurrent_streams(max_concurrent_streams.unwrap_or(MAX_CONCURRENT_STREAMS))
        .max_header_list_size(manager.config.max_request_headers_kb.saturating_mul(1024))
        .auto_date_header(true)
        .timer(TokioTimer::new());
    if let Some(keepalive) = keepalive {
        builder
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout);
    }
    builder
}

/// What the service of a connection gives: it always answers, or drops the connection.
pub(crate) type Answer = Result<http::Response<super::body::ResponseBody>, Aborted>;

/// The request cannot be answered any more: hyper resets the stream or closes the connection.
#[derive(Debug)]
pub(crate) struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream's response was cut off")
    }
}

impl std::error::Error for Aborted {}
