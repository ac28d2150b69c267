//! The protobuf messages that the generators write, under short names, and their small builders.
//! Must never know the mesh.
#![allow(clippy::unnecessary_wraps)] // optional message fields want their values wrapped

use std::net::IpAddr;
use std::time::Duration as StdDuration;

pub(crate) use weft_proto::pb::envoy::config::common::matcher as matchers;
pub(crate) use weft_proto::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use weft_proto::pb::envoy::config::trace;
pub(crate) use weft_proto::pb::envoy::config::{
    accesslog, cluster, core, endpoint, listener, route,
};
pub(crate) use weft_proto::pb::envoy::extensions::access_loggers::file::v3 as file_log;
pub(crate) use weft_proto::pb::envoy::extensions::access_loggers::filters::cel::v3 as cel_log_filter;
pub(crate) use weft_proto::pb::envoy::extensions::access_loggers::grpc::v3 as grpc_log;
pub(crate) use weft_proto::pb::envoy::extensions::access_loggers::open_telemetry::v3 as otel_log;
pub(crate) use weft_proto::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as http_ext_authz;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::grpc_web::v3 as grpc_web;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt_authn;
pub(crate) use weft_proto::pb::envoy::extensions::filters::http::router::v3 as router;
pub(crate) use weft_proto::pb::envoy::extensions::filters::listener::{
    http_inspector, original_dst, proxy_protocol as proxy_protocol_listener, tls_inspector,
};
pub(crate) use weft_proto::pb::envoy::extensions::filters::network::ext_authz::v3 as network_ext_authz;
pub(crate) use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
#[cfg(test)]
pub(crate) use weft_proto::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub(crate) use weft_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use weft_proto::pb::envoy::extensions::formatter::req_without_query::v3 as req_without_query;
pub(crate) use weft_proto::pb::envoy::extensions::http::header_formatters::preserve_case::v3 as preserve_case;
pub(crate) use weft_proto::pb::envoy::extensions::network::dns_resolver::cares::v3 as dns_cares;
pub(crate) use weft_proto::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
pub(crate) use weft_proto::pb::envoy::extensions::request_id::uuid::v3 as request_id;
pub(crate) use weft_proto::pb::envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
pub(crate) use weft_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;
pub(crate) use weft_proto::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as otel_detectors;
pub(crate) use weft_proto::pb::envoy::extensions::tracers::opentelemetry::samplers::v3 as otel_samplers;
pub(crate) use weft_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
pub(crate) use weft_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub(crate) use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use weft_proto::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use weft_proto::pb::envoy::r#type::metadata::v3 as metadata_kind;
pub(crate) use weft_proto::pb::envoy::r#type::tracing::v3 as tracing_tags;
pub(crate) use weft_proto::pb::envoy::r#type::v3 as types;
pub(crate) use weft_proto::pb::google::protobuf;
pub(crate) use weft_proto::pb::opentelemetry::proto::common::v1 as otel;

/// What looks names up as they are called.
pub(crate) mod dynamic_forward_proxy {
    pub(crate) use weft_proto::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as cluster;
    pub(crate) use weft_proto::pb::envoy::extensions::common::dynamic_forward_proxy::v3 as cache;
    pub(crate) use weft_proto::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as http;
    pub(crate) use weft_proto::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;
}

use prost::{Message, Name};
use protobuf::{Any, BoolValue, Duration, UInt32Value, UInt64Value};

/// Wraps a message for an extension's `typed_config`.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub(crate) fn duration(duration: StdDuration) -> Duration {
    // Durations of the model come from text of at most 64-bit seconds; nanoseconds are below 1e9.
    Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

pub(crate) fn seconds(seconds: u64) -> Option<Duration> {
    Some(duration(StdDuration::from_secs(seconds)))
}

pub(crate) fn u32_value(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn u64_value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

pub(crate) fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A TCP address; `host` is an IP address (or a name where Envoy resolves one).
pub(crate) fn address(host: &str, port: u16) -> core::v3::Address {
    core::v3::Address {
        address: Some(core::v3::address::Address::SocketAddress(
            core::v3::SocketAddress {
                address: host.to_owned(),
                port_specifier: Some(core::v3::socket_address::PortSpecifier::PortValue(
                    port.into(),
                )),
                ..Default::default()
            },
        )),
    }
}

pub(crate) fn pipe(path: &str) -> core::v3::Address {
    core::v3::Address {
        address: Some(core::v3::address::Address::Pipe(core::v3::Pipe {
            path: path.to_owned(),
            ..Default::default()
        })),
    }
}

pub(crate) fn cidr(ip: IpAddr, prefix_len: u8) -> core::v3::CidrRange {
    core::v3::CidrRange {
        address_prefix: ip.to_string(),
        prefix_len: u32_value(prefix_len.into()),
    }
}

pub(crate) fn file(path: &str) -> Option<core::v3::DataSource> {
    Some(core::v3::DataSource {
        specifier: Some(core::v3::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    })
}

pub(crate) fn inline_text(text: &str) -> core::v3::DataSource {
    core::v3::DataSource {
        specifier: Some(core::v3::data_source::Specifier::InlineString(
            text.to_owned(),
        )),
        ..Default::default()
    }
}

/// "Ask the stream that this came on."
pub(crate) fn ads() -> core::v3::ConfigSource {
    core::v3::ConfigSource {
        config_source_specifier: Some(core::v3::config_source::ConfigSourceSpecifier::Ads(
            core::v3::AggregatedConfigSource {},
        )),
        // No limit: a listener waits for its routes instead of failing requests.
        initial_fetch_timeout: seconds(0),
        resource_api_version: core::v3::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

pub(crate) fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
            text.to_owned(),
        )),
        ..Default::default()
    }
}

pub(crate) fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn transport_socket<M: Message + Name>(context: &M) -> core::v3::TransportSocket {
    // grpc clients insist on this very name.
    socket("envoy.transport_sockets.tls", context)
}

pub(crate) fn socket<M: Message + Name>(name: &str, config: &M) -> core::v3::TransportSocket {
    core::v3::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::v3::transport_socket::ConfigType::TypedConfig(any(
            config,
        ))),
    }
}

pub(crate) fn percent(share: weft_model::Percent) -> types::Percent {
    types::Percent {
        value: f64::from(share.millionths()) / 10_000.0,
    }
}

/// A network filter.
pub(crate) fn filter<M: Message + Name>(name: &str, config: &M) -> listener::v3::Filter {
    listener::v3::Filter {
        name: name.to_owned(),
        config_type: Some(listener::v3::filter::ConfigType::TypedConfig(any(config))),
    }
}

pub(crate) fn listener_filter<M: Message + Name>(
    name: &str,
    config: &M,
) -> listener::v3::ListenerFilter {
    listener::v3::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::v3::listener_filter::ConfigType::TypedConfig(any(
            config,
        ))),
        ..Default::default()
    }
}
