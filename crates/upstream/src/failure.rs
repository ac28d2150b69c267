//! Why a request got no response, in the terms of Envoy's retry policy and response flags.

use std::fmt;

use http::Request;

use crate::body::{BodyError, RequestBody};

/// What went wrong. The response flag that Envoy shows stands in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A circuit breaker was open (`UO`).
    Overflow,
    /// This side could not make a connection: no source address, no TLS context (`UF`).
    LocalConnectFailure,
    /// The other side refused the connection or failed the TLS handshake (`UF`).
    RemoteConnectFailure,
    /// No connection within the cluster's connect timeout (`UF`).
    ConnectTimeout,
    /// The connection was closed before the response's head (`UC`).
    ConnectionTermination,
    /// The stream was reset by the upstream (`UR`).
    RemoteReset,
    /// The stream was reset by the upstream, which did not process it (`UR`).
    RemoteRefusedStream,
    /// The upstream's answer is not HTTP (`UPE`).
    ProtocolError,
    /// The stream was given up on this side, for example because the request's body failed
    /// (`LR`).
    LocalReset,
}

impl FailureKind {
    /// The reset reason in Envoy's words, as in "reset reason: connection timeout".
    pub fn reset_reason(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::LocalConnectFailure => "local connection failure",
            Self::RemoteConnectFailure => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStream => "remote refused stream reset",
            Self::ProtocolError => "protocol error",
            Self::LocalReset => "local reset",
        }
    }

    /// Why a body broke off: the HTTP library's error, or a [`BodyError`].
    pub fn of_body(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(BodyError::Trailers) = error.downcast_ref() {
            return Self::RemoteReset;
        }
        let source = error.source();
        if let Some(h2) = source.and_then(|source| source.downcast_ref::<h2::Error>()) {
            return classify_h2(h2);
        }
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            // The peer closed before the announced end, or the chunks are no chunks.
            Some(
                std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::InvalidData,
            ) => Self::ProtocolError,
            _ => Self::ConnectionTermination,
        }
    }

    /// Whether the request certainly did not reach the upstream's application: what the retry
    /// conditions `connect-failure` and `refused-stream` allow.
    pub fn certainly_unsent(self) -> bool {
        match self {
            Self::Overflow
            | Self::LocalConnectFailure
            | Self::RemoteConnectFailure
            | Self::ConnectTimeout
            | Self::RemoteRefusedStream => true,
            Self::ConnectionTermination
            | Self::RemoteReset
            | Self::ProtocolError
            | Self::LocalReset => false,
        }
    }

    /// Whether it is a failure to connect (`UF`, retry condition `connect-failure`).
    pub fn is_connect_failure(self) -> bool {
        matches!(
            self,
            Self::LocalConnectFailure | Self::RemoteConnectFailure | Self::ConnectTimeout
        )
    }
}

/// A request that got no response.
pub struct SendFailure {
    /// What went wrong.
    pub kind: FailureKind,
    /// What the transport said (`Connection refused`); empty if it said nothing.
    pub transport: String,
    /// The request, when it was never begun to be sent.
    pub request: Option<Box<Request<RequestBody>>>,
}

impl SendFailure {
    /// A failure of what is sent by others than this crate.
    pub fn of(kind: FailureKind, transport: impl Into<String>) -> Self {
        Self::new(kind, transport)
    }

    pub(crate) fn new(kind: FailureKind, transport: impl Into<String>) -> Self {
        Self {
            kind,
            transport: transport.into(),
            request: None,
        }
    }

    pub(crate) fn with_request(mut self, request: Request<RequestBody>) -> Self {
        self.request = Some(Box::new(request));
        self
    }

    /// Whether the request certainly did not reach the upstream's application.
    pub fn certainly_unsent(&self) -> bool {
        self.request.is_some() || self.kind.certainly_unsent()
    }
}

impl fmt::Debug for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendFailure")
            .field("kind", &self.kind)
            .field("transport", &self.transport)
            .field("request", &self.request.is_some())
            .finish()
    }
}

impl fmt::Display for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reset_reason())?;
        if !self.transport.is_empty() {
            write!(f, ", transport failure reason: {}", self.transport)?;
        }
        Ok(())
    }
}

impl std::error::Error for SendFailure {}

/// What hyper's error means for the retry policy.
pub(crate) fn classify(error: &hyper::Error) -> FailureKind {
    let h2 = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
    if let Some(h2) = h2 {
        return classify_h2(h2);
    }
    if error.is_user() || error.is_body_write_aborted() {
        FailureKind::LocalReset
    } else if error.is_parse() {
        FailureKind::ProtocolError
    } else {
        FailureKind::ConnectionTermination
    }
}

fn classify_h2(error: &h2::Error) -> FailureKind {
    if error.is_io() {
        return FailureKind::ConnectionTermination;
    }
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && error.is_reset() {
        if refused {
            FailureKind::RemoteRefusedStream
        } else {
            FailureKind::RemoteReset
        }
    } else if error.is_remote() {
        // GOAWAY for a stream that it says was not or may not have been processed.
        FailureKind::ConnectionTermination
    } else if error.is_library() {
        FailureKind::ProtocolError
    } else {
        FailureKind::LocalReset
    }
}
