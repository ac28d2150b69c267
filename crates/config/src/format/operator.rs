//! The operators of format strings and what each asks the source for.

use std::sync::Arc;

use super::time::TimeFormat;
use crate::matching::HeaderKey;

/// Pseudo headers of HTTP/2, which HTTP/1 has in other places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pseudo {
    /// `:method`.
    Method,
    /// `:path`, with the query.
    Path,
    /// `:authority`, or HTTP/1's `host`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:protocol` of an extended CONNECT.
    Protocol,
    /// `:status` of the response.
    Status,
}

impl Pseudo {
    /// Reads a name such as `:path`; `host` is `:authority`.
    pub fn parse(name: &str) -> Option<Self> {
        const NAMES: [(&str, Pseudo); 7] = [
            (":method", Pseudo::Method),
            (":path", Pseudo::Path),
            (":authority", Pseudo::Authority),
            ("host", Pseudo::Authority),
            (":scheme", Pseudo::Scheme),
            (":protocol", Pseudo::Protocol),
            (":status", Pseudo::Status),
        ];
        NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, pseudo)| *pseudo)
    }
}

/// A value that is neither a header nor the start time. Durations are whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "each is the operator of the same name in Envoy's access-log reference"
)]
pub enum Field {
    Protocol,
    UpstreamProtocol,
    /// Number; 0 if there was no response.
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    /// Short forms joined by `,`; absent if none.
    ResponseFlags,
    /// Long forms joined by `,`; absent if none.
    ResponseFlagsLong,
    BytesReceived,
    BytesSent,
    UpstreamWireBytesReceived,
    UpstreamWireBytesSent,
    DownstreamWireBytesReceived,
    DownstreamWireBytesSent,
    Duration,
    /// From the start until the last byte of the request.
    RequestDuration,
    /// From the start until the last byte of the request went upstream.
    RequestTxDuration,
    /// From the start until the first byte of the response.
    ResponseDuration,
    /// From the first byte of the response until the last.
    ResponseTxDuration,
    UpstreamHost,
    UpstreamHostName,
    /// `alt_stat_name` if there is one.
    UpstreamCluster,
    /// The cluster's real name.
    UpstreamClusterRaw,
    UpstreamLocalAddress,
    UpstreamRemoteAddress,
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    UpstreamConnectionId,
    DownstreamRemoteAddress,
    DownstreamDirectRemoteAddress,
    DownstreamLocalAddress,
    DownstreamTransportFailureReason,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    DownstreamPeerUriSan,
    DownstreamPeerSubject,
    DownstreamLocalUriSan,
    RequestedServerName,
    RouteName,
    VirtualHostName,
    FilterChainName,
    ConnectionId,
    /// `x-request-id` as Envoy's `STREAM_ID`.
    StreamId,
    /// A new UUID.
    UniqueId,
    /// Camel case, such as `OK`, `DeadlineExceeded`.
    GrpcStatus,
    /// Snake case, such as `OK`, `DEADLINE_EXCEEDED`.
    GrpcStatusSnake,
    GrpcStatusNumber,
    /// Such as `DownstreamEnd`, `TcpConnectionEnd`.
    AccessLogType,
}

/// Which part of an address an operator shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressPart {
    /// `ip:port`.
    Whole,
    /// The IP.
    Ip,
    /// The port, a number.
    Port,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operator {
    RequestHeader {
        first: HeaderKey,
        second: Option<HeaderKey>,
    },
    RequestWithoutQuery {
        first: HeaderKey,
        second: Option<HeaderKey>,
    },
    ResponseHeader {
        first: HeaderKey,
        second: Option<HeaderKey>,
    },
    ResponseTrailer {
        first: HeaderKey,
        second: Option<HeaderKey>,
    },
    StartTime(TimeFormat),
    /// Namespace and keys below it; without keys the whole namespace.
    DynamicMetadata(Arc<str>, Vec<Arc<str>>),
    Field(Field, AddressPart),
    /// An operator of the table of ignored fields: always absent.
    Absent,
}

/// Operators without arguments.
pub(super) fn plain(name: &str) -> Option<(Field, AddressPart)> {
    use AddressPart::{Ip, Port, Whole};
    use Field as F;
    Some(match name {
        "PROTOCOL" => (F::Protocol, Whole),
        "UPSTREAM_PROTOCOL" => (F::UpstreamProtocol, Whole),
        "RESPONSE_CODE" => (F::ResponseCode, Whole),
        "RESPONSE_CODE_DETAILS" => (F::ResponseCodeDetails, Whole),
        "CONNECTION_TERMINATION_DETAILS" => (F::ConnectionTerminationDetails, Whole),
        "RESPONSE_FLAGS" => (F::ResponseFlags, Whole),
        "RESPONSE_FLAGS_LONG" => (F::ResponseFlagsLong, Whole),
        "BYTES_RECEIVED" => (F::BytesReceived, Whole),
        "BYTES_SENT" => (F::BytesSent, Whole),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => (F::UpstreamWireBytesReceived, Whole),
        "UPSTREAM_WIRE_BYTES_SENT" => (F::UpstreamWireBytesSent, Whole),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => (F::DownstreamWireBytesReceived, Whole),
        "DOWNSTREAM_WIRE_BYTES_SENT" => (F::DownstreamWireBytesSent, Whole),
        "DURATION" => (F::Duration, Whole),
        "REQUEST_DURATION" => (F::RequestDuration, Whole),
        "REQUEST_TX_DURATION" => (F::RequestTxDuration, Whole),
        "RESPONSE_DURATION" => (F::ResponseDuration, Whole),
        "RESPONSE_TX_DURATION" => (F::ResponseTxDuration, Whole),
        "UPSTREAM_HOST" => (F::UpstreamHost, Whole),
        "UPSTREAM_HOST_NAME" => (F::UpstreamHostName, Whole),
        "UPSTREAM_CLUSTER" => (F::UpstreamCluster, Whole),
        "UPSTREAM_CLUSTER_RAW" => (F::UpstreamClusterRaw, Whole),
        "UPSTREAM_LOCAL_ADDRESS" => (F::UpstreamLocalAddress, Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => (F::UpstreamLocalAddress, Ip),
        "UPSTREAM_LOCAL_PORT" => (F::UpstreamLocalAddress, Port),
        "UPSTREAM_REMOTE_ADDRESS" => (F::UpstreamRemoteAddress, Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => (F::UpstreamRemoteAddress, Ip),
        "UPSTREAM_REMOTE_PORT" => (F::UpstreamRemoteAddress, Port),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => (F::UpstreamTransportFailureReason, Whole),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => (F::UpstreamRequestAttemptCount, Whole),
        "UPSTREAM_CONNECTION_ID" => (F::UpstreamConnectionId, Whole),
        "DOWNSTREAM_REMOTE_ADDRESS" => (F::DownstreamRemoteAddress, Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => (F::DownstreamRemoteAddress, Ip),
        "DOWNSTREAM_REMOTE_PORT" => (F::DownstreamRemoteAddress, Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => (F::DownstreamDirectRemoteAddress, Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => (F::DownstreamDirectRemoteAddress, Ip),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => (F::DownstreamDirectRemoteAddress, Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => (F::DownstreamLocalAddress, Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => (F::DownstreamLocalAddress, Ip),
        "DOWNSTREAM_LOCAL_PORT" => (F::DownstreamLocalAddress, Port),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => (F::DownstreamTransportFailureReason, Whole),
        "DOWNSTREAM_TLS_VERSION" => (F::DownstreamTlsVersion, Whole),
        "DOWNSTREAM_TLS_CIPHER" => (F::DownstreamTlsCipher, Whole),
        "DOWNSTREAM_PEER_URI_SAN" => (F::DownstreamPeerUriSan, Whole),
        "DOWNSTREAM_PEER_SUBJECT" => (F::DownstreamPeerSubject, Whole),
        "DOWNSTREAM_LOCAL_URI_SAN" => (F::DownstreamLocalUriSan, Whole),
        "REQUESTED_SERVER_NAME" => (F::RequestedServerName, Whole),
        "ROUTE_NAME" => (F::RouteName, Whole),
        "VIRTUAL_HOST_NAME" => (F::VirtualHostName, Whole),
        "FILTER_CHAIN_NAME" => (F::FilterChainName, Whole),
        "CONNECTION_ID" => (F::ConnectionId, Whole),
        "STREAM_ID" => (F::StreamId, Whole),
        "UNIQUE_ID" => (F::UniqueId, Whole),
        "GRPC_STATUS" => (F::GrpcStatus, Whole),
        "GRPC_STATUS_NUMBER" => (F::GrpcStatusNumber, Whole),
        "ACCESS_LOG_TYPE" => (F::AccessLogType, Whole),
        _ => return None,
    })
}
