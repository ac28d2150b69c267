//! Listener filters: what is read of a connection before its filter chain is known.

use std::sync::Arc;

use weft_proto::rpc as rpc_inspector;
use weft_rpc::{CODECS, Codec};

use super::{FilterDisabled, ListenerFilters, ProxyProtocol, RpcInspector};
use crate::extension::{Extension, decode, typed};
use crate::pass::Pass;
use crate::pb;
use pb::config::listener::v3 as listener;
use pb::extensions::filters::listener::{
    http_inspector::v3 as http_inspector, original_dst::v3 as original_dst,
    proxy_protocol::v3 as proxy_protocol, tls_inspector::v3 as tls_inspector,
};

enum ListenerFilter {
    OriginalDst,
    ProxyProtocol(ProxyProtocol),
    TlsInspector,
    HttpInspector,
    RpcInspector(Vec<&'static dyn Codec>),
}

pub(super) fn listener_filter_list(
    p: &mut Pass<'_>,
    message: &[listener::ListenerFilter],
) -> ListenerFilters {
    let mut out = ListenerFilters::default();
    p.each("listener_filters", message, |p, one| {
        let listener::ListenerFilter {
            name,
            filter_disabled: disabled,
            config_type,
        } = one;
        let kind = listener_filter(p, name, config_type.as_ref())?;
        let disabled = match disabled {
            None => FilterDisabled::Never,
            Some(rule) => p.at("filter_disabled", |p| filter_disabled(p, rule))?,
        };
        let slot = match kind {
            ListenerFilter::ProxyProtocol(filter) => {
                let reads = out.tls_inspector.is_some()
                    || out.http_inspector.is_some()
                    || out.rpc_inspector.is_some();
                if reads || out.original_dst.is_some() || out.proxy_protocol.is_some() {
                    p.refuse("proxy_protocol must be the first filter of its listener, once: others would read its header");
                }
                out.proxy_protocol = Some(ProxyProtocol { disabled, ..filter });
                return Some(());
            }
            ListenerFilter::OriginalDst if out.proxy_protocol.is_some() => {
                p.refuse("original_dst does not go together with proxy_protocol in Weft");
                return None;
            }
            ListenerFilter::OriginalDst => &mut out.original_dst,
            ListenerFilter::TlsInspector => &mut out.tls_inspector,
            ListenerFilter::HttpInspector => &mut out.http_inspector,
            ListenerFilter::RpcInspector(codecs) => {
                out.rpc_inspector = Some(RpcInspector {
                    disabled,
                    codecs,
                    stat_prefix: Arc::from("rpc_inspector."),
                });
                return Some(());
            }
        };
        *slot = Some(disabled);
        Some(())
    });
    out
}

fn listener_filter(
    p: &mut Pass<'_>,
    name: &str,
    config: Option<&listener::listener_filter::ConfigType>,
) -> Option<ListenerFilter> {
    const TABLE: &[Extension<ListenerFilter>] = &[
        Extension {
            name: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            read: |p, bytes| {
                let original_dst::OriginalDst {} = decode(p, bytes)?;
                Some(ListenerFilter::OriginalDst)
            },
        },
        Extension {
            name: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            read: |p, bytes| {
                let message = decode(p, bytes)?;
                proxy_protocol_filter(p, &message).map(ListenerFilter::ProxyProtocol)
            },
        },
        Extension {
            name: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            read: |p, bytes| {
                let tls_inspector::TlsInspector {
                    enable_ja3_fingerprinting,
                    enable_ja4_fingerprinting,
                    initial_read_buffer_size,
                    close_connection_on_client_hello_parsing_errors,
                    max_client_hello_size,
                } = decode(p, bytes)?;
                ignore!(p, "tls_inspector.TlsInspector"; enable_ja3_fingerprinting,
                    enable_ja4_fingerprinting, initial_read_buffer_size, max_client_hello_size);
                unsupported!(p; close_connection_on_client_hello_parsing_errors);
                Some(ListenerFilter::TlsInspector)
            },
        },
        Extension {
            name: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            read: |p, bytes| {
                let http_inspector::HttpInspector {} = decode(p, bytes)?;
                Some(ListenerFilter::HttpInspector)
            },
        },
        Extension {
            name: "weft.rpc.v1.RpcInspector",
            read: |p, bytes| {
                let message = decode(p, bytes)?;
                rpc_codecs(p, &message).map(ListenerFilter::RpcInspector)
            },
        },
    ];
    match config {
        Some(listener::listener_filter::ConfigType::TypedConfig(any)) => {
            typed(p, "typed_config", Some(any), TABLE)
        }
        Some(listener::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            p.unsupported("config_discovery", true);
            None
        }
        None => {
            p.refuse_field("typed_config", format!("of {name} is required"));
            None
        }
    }
}

fn proxy_protocol_filter(
    p: &mut Pass<'_>,
    message: &proxy_protocol::ProxyProtocol,
) -> Option<ProxyProtocol> {
    use pb::core::proxy_protocol_config::Version;
    let proxy_protocol::ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = message;
    unsupported!(p; rules, pass_through_tlvs, tlv_location);
    let refused = p.each("disallowed_versions", disallowed_versions, |p, version| {
        p.enumeration::<Version>("", *version)
    });
    let (v1, v2) = (
        !refused.contains(&Version::V1),
        !refused.contains(&Version::V2),
    );
    if !v1 && !v2 {
        p.refuse_field("disallowed_versions", "leaves no version");
    }
    let own = if stat_prefix.is_empty() { "" } else { "." };
    Some(ProxyProtocol {
        disabled: FilterDisabled::Never,
        v1,
        v2,
        without: *allow_requests_without_proxy_protocol,
        stat_prefix: format!("proxy_proto.{stat_prefix}{own}").into(),
    })
}

fn rpc_codecs(
    p: &mut Pass<'_>,
    message: &rpc_inspector::RpcInspector,
) -> Option<Vec<&'static dyn Codec>> {
    let rpc_inspector::RpcInspector { codecs } = message;
    let known = || {
        let names: Vec<&str> = CODECS.iter().map(|codec| codec.name()).collect();
        format!("write some of {}", names.join(", "))
    };
    if codecs.is_empty() {
        p.refuse_field("codecs", format!("is required: {}", known()));
    }
    let found = p.each("codecs", codecs, |p, name| {
        let codec = weft_rpc::codec(name);
        if codec.is_none() {
            p.refuse(format!("{name:?} is no protocol: {}", known()));
        }
        codec
    });
    (!found.is_empty()).then_some(found)
}

fn filter_disabled(
    p: &mut Pass<'_>,
    message: &listener::ListenerFilterChainMatchPredicate,
) -> Option<FilterDisabled> {
    use listener::listener_filter_chain_match_predicate::Rule;
    if p.too_deep() {
        return None;
    }
    match &message.rule {
        Some(Rule::AnyMatch(true)) => Some(FilterDisabled::Always),
        Some(Rule::AnyMatch(false)) | None => {
            p.refuse("needs a rule: any_match: true, or_match, and_match, not_match, destination_port_range");
            None
        }
        Some(Rule::OrMatch(set)) => {
            Some(FilterDisabled::Any(p.at("or_match", |p| {
                p.each("rules", &set.rules, filter_disabled)
            })))
        }
        Some(Rule::AndMatch(set)) => Some(FilterDisabled::All(p.at("and_match", |p| {
            p.each("rules", &set.rules, filter_disabled)
        }))),
        Some(Rule::NotMatch(rule)) => {
            let rule = p.at("not_match", |p| filter_disabled(p, rule))?;
            Some(FilterDisabled::Not(Box::new(rule)))
        }
        Some(Rule::DestinationPortRange(range)) => {
            let pb::typ::Int32Range { start, end } = range;
            match (u16::try_from(*start), u32::try_from(*end)) {
                (Ok(start), Ok(end)) if u32::from(start) < end => {
                    Some(FilterDisabled::Ports(start, end))
                }
                _ => {
                    p.refuse_field("destination_port_range", "must be a range of ports");
                    None
                }
            }
        }
    }
}
