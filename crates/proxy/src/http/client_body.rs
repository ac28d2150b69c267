//! The request's body as the client sends it: counted, and read ahead as far as a filter wants to see
//! it. Who reads it later gets all of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use weft_filters::body::Reading;
use weft_filters::{Beginning, LocalReply, RequestBody};
use weft_upstream::FailureKind;

use super::router::REQUEST_TIMEOUT;
use super::upload::Received;
use crate::stats::HttpStats;

/// See the module.
#[derive(Debug)]
pub(crate) struct ClientBody {
    incoming: Incoming,
    /// What has been read ahead, at most what a filter asked for and one frame. In one piece: a client
    /// chooses how small its frames are, and each would cost more than its bytes.
    ahead: Bytes,
    /// Trailers that came after it.
    trailers: Option<Frame<Bytes>>,
    received: Rc<Received>,
    /// A client that sends nothing for so long while a filter waits is answered.
    idle: Option<Duration>,
    /// And one that has not sent everything by then.
    deadline: Option<Instant>,
    stats: Arc<HttpStats>,
    /// A filter has refused it: nobody waits for the rest.
    refused: Cell<bool>,
}

impl ClientBody {
    /// A body of which nothing has been read; `received` is told what the client sends.
    pub(crate) fn new(
        incoming: Incoming,
        received: Rc<Received>,
        (idle, deadline): (Option<Duration>, Option<Instant>),
        stats: Arc<HttpStats>,
    ) -> Self {
        Self {
            incoming,
            ahead: Bytes::new(),
            trailers: None,
            received,
            idle,
            deadline,
            stats,
            refused: Cell::new(false),
        }
    }

    /// Whether the connection can be used again without what is left of it.
    pub(crate) fn is_done(&self) -> bool {
        // As in Envoy a body that is too long costs the connection, however much of it is here.
        !self.refused.get() && self.is_received()
    }

    /// Whether the client has sent all of it.
    fn is_received(&self) -> bool {
        self.received.ended_at.get().is_some() || self.incoming.is_end_stream()
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.received.add(data.len());
                }
                if self.incoming.is_end_stream() || frame.is_trailers() {
                    self.received.end();
                }
            }
            Poll::Ready(None) => self.received.end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, LocalReply> {
        let silent = self.idle.map(|idle| Instant::now() + idle);
        let (deadline, stats) = (self.deadline, Arc::clone(&self.stats));
        let frame = poll_fn(|cx| self.poll_incoming(cx));
        let frame = match [silent, deadline].into_iter().flatten().min() {
            None => frame.await,
            Some(until) => tokio::time::timeout_at(until.into(), frame)
                .await
                .map_err(|_| {
                    let timeout = StatusCode::REQUEST_TIMEOUT;
                    if deadline == Some(until) {
                        stats.downstream_rq_timeout.inc();
                        let (details, text) = REQUEST_TIMEOUT;
                        return LocalReply::new(timeout, details).body(text);
                    }
                    LocalReply::new(timeout, "stream_idle_timeout")
                        .body("stream timeout")
                        .flag("SI")
                })?,
        };
        frame.transpose().map_err(|error| {
            let malformed = FailureKind::of_body(&error) == FailureKind::ProtocolError;
            let (details, flag) = if malformed {
                ("codec_error", "DPE")
            } else {
                ("downstream_remote_disconnect", "DC")
            };
            LocalReply::new(StatusCode::BAD_REQUEST, details)
                .body("Bad Request")
                .flag(flag)
        })
    }
}

impl RequestBody for ClientBody {
    fn read(&mut self, enough: usize) -> Reading<'_> {
        Box::pin(async move {
            let mut bytes = BytesMut::from(std::mem::take(&mut self.ahead));
            let mut read = Ok(());
            while bytes.len() < enough && !self.is_received() {
                match self.next().await {
                    Ok(None) => break,
                    Ok(Some(frame)) => match frame.into_data() {
                        Ok(data) => bytes.extend_from_slice(&data),
                        Err(trailers) => self.trailers = Some(trailers),
                    },
                    Err(reply) => {
                        read = Err(reply);
                        break;
                    }
                }
            }
            self.ahead = bytes.freeze();
            read?;
            Ok(Beginning {
                bytes: self.ahead.clone(),
                whole: self.is_received(),
            })
        })
    }

    fn too_large(&self) -> LocalReply {
        self.refused.set(true);
        self.stats.downstream_rq_too_large.inc();
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        LocalReply::new(status, "request_payload_too_large").body("Payload Too Large")
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.ahead)))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        self.poll_incoming(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.trailers.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.len() as u64;
        let rest = self.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Reads ahead, and then what there is: the sizes of its pieces.
    async fn pieces(request: Request<Incoming>) -> Vec<usize> {
        let incoming = request.into_body();
        let mut body = ClientBody::new(incoming, Rc::default(), (None, None), Arc::default());
        let beginning = body.read(90).await.expect("it comes");
        assert!(beginning.bytes.len() >= 90, "{beginning:?}");
        let mut sizes = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.expect("a good body");
            sizes.push(frame.data_ref().map_or(0, Bytes::len));
        }
        sizes
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_one_piece_however_it_came() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let head =
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = "1\r\nx\r\n".repeat(100) + "0\r\n\r\n";
        let sent = client.write_all((head.to_owned() + &body).as_bytes()).await;
        sent.expect("there is room");
        let seen = Rc::new(Cell::new(Vec::new()));
        let told = Rc::clone(&seen);
        let service = service_fn(move |request| {
            let told = Rc::clone(&told);
            async move {
                told.set(pieces(request).await);
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let connection = connection.serve_connection(TokioIo::new(server), service);
        connection.await.expect("served");
        let sizes = seen.take();
        assert!(sizes[0] >= 90, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 100, "{sizes:?}");
    }
}
