//! CORS policies in the form of Envoy's filter. Must never know routes.

use weft_model::CorsPolicy;

use super::{actions, matches};
use crate::pb::core::v3::RuntimeFractionalPercent;
use crate::pb::cors::CorsPolicy as PbCors;
use crate::pb::{any, bool_value};

/// Name of the CORS filter, under which routes set it up.
pub(crate) const CORS_FILTER: &str = "envoy.filters.http.cors";

/// The policy of a route, encoded as its filter configuration.
pub(super) fn translate(policy: &CorsPolicy) -> Vec<u8> {
    let joined = |names: &[std::sync::Arc<str>]| names.join(",");
    let message = PbCors {
        allow_origin_string_match: policy
            .allow_origins
            .iter()
            .filter_map(matches::string)
            .collect(),
        allow_methods: joined(&policy.allow_methods),
        allow_headers: joined(&policy.allow_headers),
        expose_headers: joined(&policy.expose_headers),
        max_age: policy
            .max_age
            .map(|age| age.to_string())
            .unwrap_or_default(),
        allow_credentials: policy.allow_credentials.and_then(bool_value),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(actions::all()),
            ..RuntimeFractionalPercent::default()
        }),
        forward_not_matching_preflights: bool_value(!policy.ignore_unmatched_preflights),
        ..PbCors::default()
    };
    prost::Message::encode_to_vec(&any(&message))
}
