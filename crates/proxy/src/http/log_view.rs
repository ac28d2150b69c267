//! An exchange as access logs and header templates see it.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use http::Version;
use http::header::{HOST, HeaderMap};
use weft_config::Metadata;
use weft_config::format::{Field, FormatSource, Pseudo, Value};

use super::exchange::Exchange;
use super::headers::X_REQUEST_ID;
use crate::tcp::upstream_host;

/// An exchange while header templates are evaluated or when it is logged.
pub(super) struct LogView<'a> {
    exchange: &'a Exchange,
    duration: Duration,
    flags: String,
}

impl<'a> LogView<'a> {
    /// The exchange as it is at `now`.
    pub(super) fn new(exchange: &'a Exchange, now: Instant) -> Self {
        Self {
            exchange,
            duration: now.duration_since(exchange.started()),
            flags: exchange.flags.to_string(),
        }
    }

    fn millis(&self, until: Option<Instant>) -> Value<'static> {
        until.map_or(Value::Absent, |until| {
            Value::Number(until.duration_since(self.exchange.started()).as_millis() as u64)
        })
    }

    fn upstream_value(&self, field: Field) -> Value<'_> {
        let Some(upstream) = &self.exchange.upstream else {
            return Value::Absent;
        };
        match field {
            Field::UpstreamHost | Field::UpstreamRemoteAddress => {
                upstream_host(upstream.host.as_ref())
            }
            Field::UpstreamHostName => Value::text(upstream.hostname.as_deref()),
            Field::UpstreamCluster => Value::text(Some(&upstream.stat_name)),
            Field::UpstreamClusterRaw => Value::text(Some(&upstream.cluster)),
            _ => Value::Absent,
        }
    }

    fn downstream_value(&self, field: Field) -> Value<'_> {
        let downstream = &self.exchange.downstream;
        let tls = downstream.tls.as_ref();
        match field {
            Field::DownstreamRemoteAddress => Value::Address(self.exchange.remote),
            Field::DownstreamDirectRemoteAddress => {
                Value::Address(downstream.handle().direct(downstream.remote))
            }
            Field::DownstreamLocalAddress => Value::Address(downstream.local),
            Field::DownstreamTlsVersion => Value::text(tls.and_then(|tls| tls.version)),
            Field::RequestedServerName => {
                Value::text(tls.and_then(|tls| tls.server_name.as_deref()))
            }
            Field::ConnectionId => Value::Number(downstream.id()),
            _ => Value::Absent,
        }
    }
}

impl FormatSource for LogView<'_> {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        let record = self.exchange.record.as_deref()?;
        match which {
            Pseudo::Method => Some(record.method.as_str()),
            Pseudo::Path => (!record.path.is_empty()).then_some(&*record.path),
            Pseudo::Authority => {
                let said = !record.authority.is_empty() || record.request.contains_key(HOST);
                said.then_some(&*record.authority)
            }
            Pseudo::Scheme => Some(self.exchange.downstream.peer.scheme),
            Pseudo::Protocol => None,
            Pseudo::Status => (!record.status.is_empty()).then_some(&*record.status),
        }
    }

    fn request_headers(&self) -> Option<&HeaderMap> {
        self.exchange
            .record
            .as_deref()
            .map(|record| &record.request)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        self.exchange
            .record
            .as_deref()
            .map(|record| &record.response)
    }

    fn response_trailers(&self) -> Option<&HeaderMap> {
        self.exchange.record.as_deref()?.trailers.as_ref()
    }

    fn dynamic_metadata(&self) -> Option<&Metadata> {
        Some(&self.exchange.metadata)
    }

    fn start_time(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }

    fn value(&self, field: Field) -> Value<'_> {
        let exchange = self.exchange;
        match field {
            Field::Protocol => Value::text(Some(match exchange.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            })),
            Field::ResponseCode => Value::Number(u64::from(exchange.status)),
            Field::ResponseCodeDetails => {
                Value::text((!exchange.details.is_empty()).then_some(&*exchange.details))
            }
            Field::ResponseFlags => Value::text(Some(&self.flags)),
            Field::ResponseFlagsLong => {
                let long = exchange.flags.long();
                if long.is_empty() {
                    Value::Absent
                } else {
                    Value::Text(Cow::Owned(long))
                }
            }
            Field::BytesReceived => Value::Number(
                exchange
                    .received
                    .as_ref()
                    .map_or(0, |received| received.bytes.get()),
            ),
            Field::BytesSent => Value::Number(exchange.sent),
            Field::Duration => Value::Number(self.duration.as_millis() as u64),
            Field::ResponseDuration => self.millis(exchange.response_started),
            Field::ResponseTxDuration => exchange.response_started.map_or(Value::Absent, |at| {
                let first = at.duration_since(exchange.started());
                Value::Number(self.duration.saturating_sub(first).as_millis() as u64)
            }),
            Field::UpstreamTransportFailureReason => {
                let reason = &exchange.transport_failure;
                Value::text((!reason.is_empty()).then_some(reason))
            }
            Field::UpstreamRequestAttemptCount => Value::Number(u64::from(exchange.attempts)),
            Field::RouteName => {
                let name = exchange.route.as_deref().map(|route| &*route.name);
                Value::text(name.filter(|name| !name.is_empty()))
            }
            Field::VirtualHostName => Value::text(exchange.vhost.as_deref().map(|v| &*v.name)),
            Field::StreamId => {
                let headers = self.request_headers();
                let id = headers.and_then(|headers| headers.get(X_REQUEST_ID));
                Value::text(id.and_then(|id| id.to_str().ok()))
            }
            Field::GrpcStatusNumber => exchange
                .grpc_status
                .map_or(Value::Absent, |s| Value::Number(u64::from(s))),
            Field::GrpcStatus => {
                Value::text(exchange.grpc_status.and_then(|s| grpc_name(s).map(|n| n.0)))
            }
            Field::GrpcStatusSnake => {
                Value::text(exchange.grpc_status.and_then(|s| grpc_name(s).map(|n| n.1)))
            }
            Field::AccessLogType => Value::text(Some("DownstreamEnd")),
            Field::UpstreamHost
            | Field::UpstreamRemoteAddress
            | Field::UpstreamHostName
            | Field::UpstreamCluster
            | Field::UpstreamClusterRaw => self.upstream_value(field),
            _ => self.downstream_value(field),
        }
    }
}

fn grpc_name(status: u32) -> Option<(&'static str, &'static str)> {
    const NAMES: [(&str, &str); 17] = [
        ("OK", "OK"),
        ("Canceled", "CANCELLED"),
        ("Unknown", "UNKNOWN"),
        ("InvalidArgument", "INVALID_ARGUMENT"),
        ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
        ("NotFound", "NOT_FOUND"),
        ("AlreadyExists", "ALREADY_EXISTS"),
        ("PermissionDenied", "PERMISSION_DENIED"),
        ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
        ("FailedPrecondition", "FAILED_PRECONDITION"),
        ("Aborted", "ABORTED"),
        ("OutOfRange", "OUT_OF_RANGE"),
        ("Unimplemented", "UNIMPLEMENTED"),
        ("Internal", "INTERNAL"),
        ("Unavailable", "UNAVAILABLE"),
        ("DataLoss", "DATA_LOSS"),
        ("Unauthenticated", "UNAUTHENTICATED"),
    ];
    NAMES.get(status as usize).copied()
}
