//! `aeraki.meta_protocol.filters.ratelimit`: what a rate limit service is asked about calls. Asks nobody.
//!
//! Source: Aeraki, `aeraki.meta_protocol_proxy.filters.ratelimit.v1alpha`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::aeraki::meta_protocol_proxy as aeraki;
use weft_proto::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use weft_rpc::{Attribute, Attributes};

use super::AttributeMatch;
use super::convert::route_match;
use crate::ext_authz::GrpcService;
use crate::ext_authz::convert::grpc_service;
use crate::extension::api_version;
use crate::pass::Pass;
use crate::rate_limit::Descriptor;
use aeraki::filters::ratelimit::v1alpha as limit;

/// Time for an answer, as in Aeraki's API.
const TIMEOUT: Duration = Duration::from_millis(20);
/// Descriptors of one filter; each is made for every call.
const MAX_DESCRIPTORS: usize = 100;

/// A limit of calls that a service counts.
#[derive(Debug)]
pub struct RpcServiceLimit {
    /// Whose limits they are, to the service.
    pub domain: Arc<str>,
    /// Who decides.
    pub service: GrpcService,
    /// Calls are answered with an error if the service cannot be asked.
    pub failure_deny: bool,
    /// All have to hold.
    matches: Vec<AttributeMatch>,
    descriptors: Vec<(Attribute, Arc<str>)>,
}

impl RpcServiceLimit {
    /// What the service is asked about a call; nothing if the call is not limited. A property that the call
    /// does not have is empty, as in Aeraki.
    pub fn descriptors<'d>(&'d self, call: &Attributes<'_>) -> Vec<Descriptor<'d>> {
        if !self.matches.iter().all(|one| one.matches(call)) {
            return Vec::new();
        }
        let each = self.descriptors.iter().map(|(property, key)| {
            let value = call.get(property).unwrap_or_default();
            Descriptor {
                entries: vec![(&**key, Cow::Owned(value.to_owned()))],
                limit: None,
                hits: None,
                x_headers: None,
            }
        });
        each.collect()
    }
}

pub(super) fn read(p: &mut Pass<'_>, message: &limit::RateLimit) -> Option<RpcServiceLimit> {
    let limit::RateLimit {
        r#match,
        domain,
        timeout,
        failure_mode_deny,
        rate_limit_service,
        descriptors,
    } = message;
    if descriptors.is_empty() {
        p.refuse_field("descriptors", "is required");
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        let text = format!("has more than {MAX_DESCRIPTORS} elements");
        p.refuse_field("descriptors", text);
    }
    let descriptors = p.each("descriptors", descriptors, |p, one| {
        let limit::Descriptor {
            property,
            descriptor_key,
        } = one;
        let property = p.name("property", property);
        let key = p.name("descriptor_key", descriptor_key)?;
        Some((Attribute::named(&property?), key))
    });
    let matches = p.opt("match", r#match.as_ref(), route_match);
    // Aeraki's control plane writes 0 if it is told none.
    let time = p.duration("timeout", timeout.as_ref());
    let time = time.filter(|time| !time.is_zero());
    let service = p.required(
        "rate_limit_service",
        rate_limit_service.as_ref(),
        |p, one| {
            let RateLimitServiceConfig {
                grpc_service: service,
                transport_api_version,
            } = one;
            api_version(p, "transport_api_version", *transport_api_version);
            p.required("grpc_service", service.as_ref(), |p, service| {
                p.ignore(
                    "ratelimit.RateLimitServiceConfig",
                    "grpc_service.timeout",
                    service.timeout.is_some(),
                );
                grpc_service(p, service)
            })
        },
    );
    let mut service = service?;
    service.timeout = time.unwrap_or(TIMEOUT);
    Some(RpcServiceLimit {
        domain: p.name("domain", domain)?,
        service,
        failure_deny: *failure_mode_deny,
        matches: matches.unwrap_or_default(),
        descriptors,
    })
}
