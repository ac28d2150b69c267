//! Bytes of a connection through an HTTP proxy: the cluster's host is asked (`CONNECT`) for a tunnel
//! to somebody else, over HTTP/1.1 or HTTP/2, and nothing is read of the client before it is there.
//!
//! Source of the rules: Envoy, "TCP proxy", tunneling over HTTP; RFC 9110, 9.3.6.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri, Version};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_config::format::Format;
use weft_net::copy::CopyEnd;
use weft_upstream::{Cluster, Host, Protocol, RequestBody, ResponseBody, SendOptions};

use super::{Failure, Session, SessionView, TcpManager, Upstream};

/// A host that has not answered after so long will not, where connections have no idle timeout; it is
/// Envoy's default for that.
const LONGEST_ANSWER: Duration = Duration::from_hours(1);

/// An open tunnel.
pub(super) struct Open {
    io: TokioIo<Upgraded>,
    /// The host has said all.
    heard_end: bool,
    /// Keeps the request counted.
    _request: ResponseBody,
}

impl Open {
    /// How it ended: a host that has said all and then takes no more has closed in order, as HTTP/2
    /// says it.
    pub(super) fn ended(&self, end: CopyEnd) -> CopyEnd {
        match end {
            CopyEnd::FailedB(_) if self.heard_end => CopyEnd::Closed,
            other => other,
        }
    }
}

impl AsyncRead for Open {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before {
            self.heard_end = true;
        }
        read
    }
}

impl AsyncWrite for Open {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl TcpManager {
    /// Asks a host for a tunnel to `name`.
    pub(super) async fn tunnel(
        &self,
        name: &Format,
        (cluster, host): (&Rc<Cluster>, &Rc<Host>),
        session: &Session,
    ) -> Result<Upstream, Failure> {
        let request = request(name, session).ok_or_else(|| refused("no name for a tunnel"))?;
        let options = SendOptions {
            downstream: Protocol::Http1,
            downstream_id: session.id,
            ends: Some((session.peer, session.local)),
            ..SendOptions::default()
        };
        let asked = async {
            let mut response = cluster.send(host, request, &options).await?;
            let status = response.status();
            let agreed = if response.version() == Version::HTTP_2 {
                status == StatusCode::OK
            } else {
                status.is_success()
            };
            if !agreed {
                return Err(refused(&format!("tunnel_response:{}", status.as_u16())));
            }
            let upgraded = hyper::upgrade::on(&mut response).await;
            let upgraded = upgraded.map_err(|error| refused(&error.to_string()))?;
            Ok(Open {
                io: TokioIo::new(upgraded),
                heard_end: false,
                _request: response.into_body(),
            })
        };
        let limit = self.config.idle_timeout.unwrap_or(LONGEST_ANSWER);
        let open = tokio::time::timeout(limit, asked).await;
        let open = open.map_err(|_| refused("no answer to CONNECT"))?;
        Ok(Upstream::Tunnel(Box::new(open?)))
    }
}

fn refused(why: &str) -> Failure {
    Failure {
        kind: None,
        transport: why.to_owned(),
    }
}

fn request(name: &Format, session: &Session) -> Option<Request<RequestBody>> {
    let mut authority = Vec::new();
    let view = SessionView {
        session,
        duration: session.opened.elapsed(),
        flags: session.flags.to_string(),
    };
    name.write_present(&mut authority, &view);
    let host = HeaderValue::from_bytes(&authority).ok()?;
    let authority = Authority::try_from(authority.as_slice()).ok()?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority);
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    request.headers_mut().insert(HOST, host);
    Some(request)
}
