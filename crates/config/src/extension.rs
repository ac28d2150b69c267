//! Typed extensions: one table per extension point, from type URL to constructor. What is on no
//! table is refused with its path.

use std::borrow::Cow;

use prost::Message;

use crate::error::Problem;
use crate::filter_chain::{NetworkFilter, NetworkGuard};
use crate::pass::Pass;
use crate::pb;
use pb::core::api_config_source::ApiType;
use pb::google::Any;
use weft_proto::typed_struct;

/// An extension that Weft has.
pub(crate) struct Extension<T: 'static> {
    /// Type URL after the slash.
    pub(crate) name: &'static str,
    pub(crate) read: fn(&mut Pass<'_>, &[u8]) -> Option<T>,
}

/// Reads an `Any` by a table.
pub(crate) fn typed<T>(
    p: &mut Pass<'_>,
    field: &'static str,
    message: Option<&Any>,
    table: &[Extension<T>],
) -> Option<T> {
    p.required(field, message, |p, any| by_table(p, any, table))
}

/// Reads the `Any` we stand at by a table, also one that is written as `TypedStruct`.
pub(crate) fn by_table<T>(p: &mut Pass<'_>, any: &Any, table: &[Extension<T>]) -> Option<T> {
    let written = typed_struct::is(any);
    let any = meant(p, any)?;
    let name = type_name(&any);
    let Some(extension) = table.iter().find(|extension| extension.name == name) else {
        refuse_type(p, name);
        return None;
    };
    if written {
        p.at("value", |p| (extension.read)(p, &any.value))
    } else {
        (extension.read)(p, &any.value)
    }
}

/// The message that a `TypedStruct` stands for; any other is meant itself.
pub(crate) fn meant<'a>(p: &mut Pass<'_>, any: &'a Any) -> Option<Cow<'a, Any>> {
    if !typed_struct::is(any) {
        return Some(Cow::Borrowed(any));
    }
    match typed_struct::resolve(any) {
        Ok(meant) => Some(Cow::Owned(meant)),
        Err(problems) => {
            for (path, text) in problems {
                p.adopt_problem(Problem::new(path, text));
            }
            None
        }
    }
}

/// Refuses an `Any` whose type is on no table.
pub(crate) fn refuse_type(p: &mut Pass<'_>, name: &str) {
    if name.is_empty() {
        p.refuse("\"@type\" is missing, it names the message's type");
    } else {
        p.refuse(format!("{name} is not supported by Weft"));
    }
}

/// The message's full name in a type URL.
pub(crate) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Decodes the bytes of an `Any`.
pub(crate) fn decode<M: Message + Default>(p: &mut Pass<'_>, bytes: &[u8]) -> Option<M> {
    match M::decode(bytes) {
        Ok(message) => Some(message),
        Err(error) => {
            p.refuse(format!("cannot be decoded: {error}"));
            None
        }
    }
}

/// A network filter by its place in the chain.
pub(crate) enum ChainFilter {
    Guard(NetworkGuard),
    End(NetworkFilter),
}

/// Network filters.
pub(crate) const NETWORK_FILTERS: &[Extension<ChainFilter>] = &[
    Extension {
        name: "envoy.extensions.filters.network.rbac.v3.RBAC",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::rbac::filters::network_rbac(p, &message)
                .map(|rbac| ChainFilter::Guard(NetworkGuard::Rbac(rbac.into())))
        },
    },
    Extension {
        name: "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::name_cache::sni_names(p, &message)
                .map(|names| ChainFilter::Guard(NetworkGuard::Names(names.into())))
        },
    },
    Extension {
        name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::http_manager::convert::http_manager(p, &message)
                .map(|manager| ChainFilter::End(NetworkFilter::Http(manager.into())))
        },
    },
    Extension {
        name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::tcp_proxy::convert::tcp_proxy(p, &message)
                .map(|proxy| ChainFilter::End(NetworkFilter::TcpProxy(proxy.into())))
        },
    },
    Extension {
        name: "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::rpc::dubbo_proxy::dubbo_proxy(p, &message)
                .map(|manager| ChainFilter::End(NetworkFilter::Rpc(manager.into())))
        },
    },
    Extension {
        name: "envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::rpc::thrift_proxy::thrift_proxy(p, &message)
                .map(|manager| ChainFilter::End(NetworkFilter::Rpc(manager.into())))
        },
    },
    Extension {
        name: "aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::rpc::convert::rpc_manager(p, &message)
                .map(|manager| ChainFilter::End(NetworkFilter::Rpc(manager.into())))
        },
    },
];

/// A transport socket as configured: its TLS context, or none for plain text.
pub(crate) fn transport_socket<T>(
    p: &mut Pass<'_>,
    message: &pb::core::TransportSocket,
    table: &[Extension<Option<T>>],
) -> Option<Option<T>> {
    use pb::core::transport_socket::ConfigType;
    let pb::core::TransportSocket { name, config_type } = message;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => typed(p, "typed_config", Some(any), table),
        None if name == "envoy.transport_sockets.raw_buffer" => Some(None),
        None => {
            p.refuse_field("typed_config", "is required");
            None
        }
    }
}

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Transport sockets of filter chains.
pub(crate) const DOWNSTREAM_TRANSPORTS: &[Extension<Option<crate::tls::DownstreamTls>>] = &[
    Extension {
        name: RAW_BUFFER,
        read: raw_buffer,
    },
    Extension {
        name: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::tls::convert::downstream(p, &message).map(Some)
        },
    },
];

/// Transport sockets of clusters.
pub(crate) const UPSTREAM_TRANSPORTS: &[Extension<Option<crate::tls::UpstreamTls>>] = &[
    Extension {
        name: RAW_BUFFER,
        read: raw_buffer,
    },
    Extension {
        name: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            crate::tls::convert::upstream(p, &message).map(Some)
        },
    },
];

fn raw_buffer<T>(p: &mut Pass<'_>, bytes: &[u8]) -> Option<Option<T>> {
    let pb::extensions::transport_sockets::raw_buffer::v3::RawBuffer {} = decode(p, bytes)?;
    Some(None)
}

/// Formatter extensions of format strings: what they add is built in, or shows nothing.
pub(crate) fn formatter(p: &mut Pass<'_>, message: &pb::core::TypedExtensionConfig) {
    const KNOWN: [&str; 2] = [
        "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
        "envoy.extensions.formatter.metadata.v3.Metadata",
    ];
    let pb::core::TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    match typed_config {
        Some(any) if KNOWN.contains(&type_name(any)) => {}
        _ => p.refuse_field("typed_config", "is no formatter that Weft has"),
    }
}

/// A configuration source: only the one ADS stream exists.
pub(crate) fn ads_source(p: &mut Pass<'_>, message: &pb::core::ConfigSource) -> Option<()> {
    use pb::core::config_source::ConfigSourceSpecifier as Source;
    let pb::core::ConfigSource {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    } = message;
    unsupported!(p; authorities);
    ignore!(p, "core.ConfigSource"; initial_fetch_timeout);
    api_version(p, "resource_api_version", *resource_api_version);
    match config_source_specifier {
        Some(Source::Ads(pb::core::AggregatedConfigSource {})) => Some(()),
        Some(Source::Self_(pb::core::SelfConfigSource {
            transport_api_version,
        })) => {
            p.at("self", |p| {
                api_version(p, "transport_api_version", *transport_api_version);
            });
            Some(())
        }
        _ => {
            p.refuse("must be `ads: {}`: Weft takes resources from the one ADS stream only");
            None
        }
    }
}

/// Versions of the API: only 3 exists.
pub(crate) fn api_version(p: &mut Pass<'_>, field: &'static str, version: i32) {
    if p.enumeration::<pb::core::ApiVersion>(field, version) == Some(pb::core::ApiVersion::V2) {
        p.refuse_field(field, "must be V3");
    }
}

/// How and whom a source of the xDS protocol asks; the rest of it is refused or ignored.
pub(crate) fn api_source<'m>(
    p: &mut Pass<'_>,
    message: &'m pb::core::ApiConfigSource,
) -> (Option<ApiType>, &'m [pb::core::GrpcService]) {
    let pb::core::ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        grpc_services,
        refresh_delay,
        request_timeout,
        rate_limit_settings,
        set_node_on_first_message_only,
        config_validators,
    } = message;
    unsupported!(p; config_validators, cluster_names);
    ignore!(p, "core.ApiConfigSource"; refresh_delay, request_timeout, rate_limit_settings,
        set_node_on_first_message_only);
    api_version(p, "transport_api_version", *transport_api_version);
    let api_type = p.enumeration("api_type", *api_type);
    (api_type, grpc_services)
}
