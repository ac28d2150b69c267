//! HTTP options of clusters: the typed ones, or the deprecated fields of the cluster.

use std::collections::HashMap;
use std::sync::Arc;

use super::errors::error_matcher as errors;
use super::http::{UpstreamHttp, UpstreamProtocol};
use crate::extension::{decode, type_name};
use crate::http_options::convert::{common as any_common, http1 as any_http1, http2};
use crate::http_options::{CommonHttpOptions, Http1Options};
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use pb::config::cluster::v3 as cluster;
use pb::extensions::upstreams::http::v3 as upstream_http;

/// The deprecated fields of the cluster itself.
pub(super) struct OldHttp<'a> {
    pub(super) max_requests: Option<u32>,
    pub(super) upstream: Option<&'a pb::core::UpstreamHttpProtocolOptions>,
    pub(super) common: Option<&'a pb::core::HttpProtocolOptions>,
    pub(super) http1: Option<&'a pb::core::Http1ProtocolOptions>,
    pub(super) http2: Option<&'a pb::core::Http2ProtocolOptions>,
    pub(super) protocol_selection: i32,
}

/// What both directions have, without what only the downstream side does.
fn common(p: &mut Pass<'_>, message: &pb::core::HttpProtocolOptions) -> Option<CommonHttpOptions> {
    let options = any_common(p, message)?;
    p.unsupported("max_stream_duration", options.max_stream_duration.is_some());
    Some(options)
}

fn http1(p: &mut Pass<'_>, message: &pb::core::Http1ProtocolOptions) -> Option<Http1Options> {
    p.ignore(
        "cluster.Http1ProtocolOptions",
        "enable_trailers",
        message.enable_trailers,
    );
    any_http1(p, message)
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn http(
    p: &mut Pass<'_>,
    old: &OldHttp<'_>,
    typed: &HashMap<String, pb::google::Any>,
) -> Option<UpstreamHttp> {
    use cluster::cluster::ClusterProtocolSelection;
    let mut out = UpstreamHttp::default();
    let mut options: Option<upstream_http::HttpProtocolOptions> = None;
    p.at("typed_extension_protocol_options", |p| {
        for (key, any) in typed {
            p.at_key(key, |p| {
                if type_name(any) == HTTP_OPTIONS {
                    options = decode(p, &any.value);
                } else {
                    p.refuse(format!("{} is not supported by Weft", type_name(any)));
                }
            });
        }
    });
    if let Some(options) = options {
        // With typed options Envoy reads none of the old fields.
        return p.at("typed_extension_protocol_options", |p| {
            p.at_key(HTTP_OPTIONS, |p| typed_http(p, &options, out))
        });
    }
    if let Some(options) = old.upstream {
        p.at("upstream_http_protocol_options", |_| {
            upstream(&mut out, options);
        });
    }
    if let Some(found) = p.opt("common_http_protocol_options", old.common, common) {
        out.common = found;
    }
    if let Some(max) = old.max_requests.filter(|max| *max > 0) {
        out.common.max_requests_per_connection = Some(max);
    }
    if let Some(found) = p.opt("http_protocol_options", old.http1, http1) {
        out.http1 = found;
    }
    if let Some(found) = p.opt("http2_protocol_options", old.http2, http2) {
        out.http2 = found;
        out.protocol = UpstreamProtocol::Http2;
    }
    let selection =
        p.enumeration::<ClusterProtocolSelection>("protocol_selection", old.protocol_selection)?;
    if selection == ClusterProtocolSelection::UseDownstreamProtocol {
        out.protocol = UpstreamProtocol::UseDownstream;
    }
    Some(out)
}

fn upstream(out: &mut UpstreamHttp, message: &pb::core::UpstreamHttpProtocolOptions) {
    let pb::core::UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    } = message;
    out.auto_sni = *auto_sni;
    out.auto_san_validation = *auto_san_validation;
    out.auto_sni_header = override_auto_sni_header
        .is_set()
        .then(|| Arc::from(override_auto_sni_header.to_ascii_lowercase()));
}

fn typed_http(
    p: &mut Pass<'_>,
    message: &upstream_http::HttpProtocolOptions,
    mut out: UpstreamHttp,
) -> Option<UpstreamHttp> {
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions as Kind, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    };
    let upstream_http::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = message;
    unsupported!(p; http_filters, header_validation_config, request_mirror_policies,
        hash_policy, retry_policy);
    if let Some(found) = p.opt(
        "common_http_protocol_options",
        common_http_protocol_options.as_ref(),
        common,
    ) {
        out.common = found;
    }
    if let Some(options) = upstream_http_protocol_options {
        upstream(&mut out, options);
    }
    out.errors = p.opt("outlier_detection", outlier_detection.as_ref(), |p, it| {
        let upstream_http::http_protocol_options::OutlierDetection { error_matcher } = it;
        p.required("error_matcher", error_matcher.as_ref(), errors)
    });
    match upstream_protocol_options {
        Some(Kind::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
            p.at("explicit_http_config", |p| match protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    out.http1 = p.at("http_protocol_options", |p| http1(p, options))?;
                    Some(())
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    out.protocol = UpstreamProtocol::Http2;
                    out.http2 = p.at("http2_protocol_options", |p| http2(p, options))?;
                    Some(())
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    p.unsupported("http3_protocol_options", true);
                    None
                }
                None => {
                    p.refuse("needs one of http_protocol_options, http2_protocol_options");
                    None
                }
            })?;
        }
        Some(Kind::UseDownstreamProtocolConfig(config)) => {
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = config;
            out.protocol = UpstreamProtocol::UseDownstream;
            p.at("use_downstream_protocol_config", |p| {
                unsupported!(p; http3_protocol_options);
                if let Some(found) = p.opt(
                    "http_protocol_options",
                    http_protocol_options.as_ref(),
                    http1,
                ) {
                    out.http1 = found;
                }
                if let Some(found) = p.opt(
                    "http2_protocol_options",
                    http2_protocol_options.as_ref(),
                    http2,
                ) {
                    out.http2 = found;
                }
            });
        }
        Some(Kind::AutoConfig(_)) => {
            p.refuse_field(
                "auto_config",
                "is not supported by Weft; use explicit_http_config",
            );
        }
        None => {
            p.refuse("needs one of explicit_http_config, use_downstream_protocol_config");
        }
    }
    Some(out)
}
