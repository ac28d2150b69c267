//! Bodies of requests on their way to an upstream and of its responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::lease::Lease;

/// The error of a request's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request. The first three need no allocation.
#[derive(Default)]
pub enum RequestBody {
    /// No body.
    #[default]
    Empty,
    /// All of it at once.
    Full(Bytes),
    /// The body of a downstream request, passed on as it comes.
    Incoming(Incoming),
    /// Anything else, on this worker only.
    Dyn(Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>),
}

impl RequestBody {
    /// A body of any kind.
    pub fn boxed(body: impl Body<Data = Bytes, Error = BoxError> + 'static) -> Self {
        Self::Dyn(Box::pin(body))
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) => "Incoming",
            Self::Dyn(_) => "Dyn",
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Self::Dyn(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Dyn(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) => incoming.size_hint(),
            Self::Dyn(body) => body.size_hint(),
        }
    }
}

/// Why a response's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// What the HTTP library says.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// Passing a part of them on would change their meaning.
    #[error("the trailers are larger than max_response_headers_kb or max_headers_count")]
    Trailers,
}

/// The body of an upstream's response. When it ends, its connection goes back to the pool;
/// when it is dropped before, the connection (HTTP/1) or stream (HTTP/2) is closed.
pub struct ResponseBody {
    content: Content,
    lease: Option<Lease>,
}

enum Content {
    Incoming(Incoming),
    /// What was made of an answer that is no HTTP.
    Made(Bytes),
}

impl ResponseBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self {
            content: Content::Incoming(incoming),
            lease: Some(lease),
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The body of a response after which the connection speaks another protocol.
    pub(crate) fn of_upgrade(incoming: Incoming, lease: Lease) -> Self {
        Self {
            content: Content::Incoming(incoming),
            lease: Some(lease),
        }
    }

    /// What was made of an answer of another protocol than HTTP.
    pub fn made(bytes: Bytes) -> Self {
        Self {
            content: Content::Made(bytes),
            lease: None,
        }
    }

    fn within_limits(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        match (frame.trailers_ref(), &self.lease) {
            (Some(trailers), Some(lease)) if !lease.limits().allow(trailers) => {
                Err(BodyError::Trailers)
            }
            _ => Ok(frame),
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody")
            .field("ended", &self.lease.is_none())
            .finish_non_exhaustive()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incoming = match &mut self.content {
            Content::Incoming(incoming) => incoming,
            Content::Made(bytes) => {
                let bytes = std::mem::take(bytes);
                let frame = (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)));
                return Poll::Ready(frame);
            }
        };
        let frame = Pin::new(incoming).poll_frame(cx);
        let frame = frame.map(|frame| frame.map(|frame| self.within_limits(frame?)));
        match &frame {
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if self.is_end_stream() => self.finish(),
            Poll::Ready(Some(Err(_))) => {
                if let Some(lease) = self.lease.take() {
                    lease.fail();
                }
            }
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Incoming(incoming) => incoming.is_end_stream(),
            Content::Made(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Incoming(incoming) => incoming.size_hint(),
            Content::Made(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
