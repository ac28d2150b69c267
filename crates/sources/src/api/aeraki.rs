//! Aeraki's API: `MetaRouter` → a rule for RPC requests, in the model of [`VirtualService`] with attributes as headers.
//! Rules of validity follow Aeraki's `ValidateMetaRouter`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    CallBucket, CallLimit, CallLimits, Destination, GatewayRef, HeaderOperations, HeaderOps,
    HttpAction, HttpMatch, HttpRoute, LimitCondition, RouteDestination, ServiceCallLimit,
    StringMatch, VirtualService,
};
use weft_proto::aeraki::metaprotocol::v1alpha1 as pb;

use super::istio::message as istio;
use super::istio::virtual_service_destination::{destination_of, hostname, shares};
use crate::check::{At, Context};

/// Bytes of a key or value that is set, as in Aeraki's API.
const MAX_MUTATION: usize = 16 * 1024;
/// Attachments that a route sets, and conditions of a limit, as proxies take them.
const MAX_ENTRIES: usize = 1000;
/// Descriptors of a limit by a service, as proxies take them.
const MAX_DESCRIPTORS: usize = 100;
/// Least time between two fills, as in Aeraki.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn meta_router(
    message: pb::MetaRouter,
    context: &Context<'_>,
    at: At<'_>,
) -> VirtualService {
    let pb::MetaRouter {
        hosts,
        gateways,
        routes,
        local_rate_limit,
        global_rate_limit,
        export_to,
    } = message;
    for (index, gateway) in gateways.iter().enumerate() {
        if gateway != "mesh" {
            at.field("gateways")
                .index(index)
                .error("gateways route no RPC requests: remove it, or write \"mesh\"");
        }
    }
    if hosts.len() != 1 {
        at.field("hosts")
            .error("there must be one host: write a rule for each");
    }
    let named = hosts.iter().enumerate().filter_map(|(index, host)| {
        let at = at.field("hosts");
        let at = at.index(index);
        let host = at.ok(hostname(host, context))?;
        if host.is_wildcard() {
            at.error("a wildcard is no service: write a whole name");
        }
        Some(host)
    });
    let hosts = named.collect();
    let list = at.field("routes");
    let numbered = routes.into_iter().enumerate();
    let http = numbered.filter_map(|(index, one)| route(one, context, list.index(index)));
    let local = local_rate_limit.map(|limit| limit_of(limit, at.field("localRateLimit")));
    let global = global_rate_limit
        .and_then(|limit| service_limit(limit, context, at.field("globalRateLimit")));
    let limits = (local.is_some() || global.is_some()).then_some(CallLimits { local, global });
    VirtualService {
        meta: context.meta(),
        hosts,
        gateways: vec![GatewayRef::Mesh],
        export_to: at
            .field("exportTo")
            .export_to(&export_to, context.namespace(), None),
        http: http.collect(),
        tls: Vec::new(),
        tcp: Vec::new(),
        call_limit: limits.map(Arc::new),
    }
}

fn route(message: pb::MetaRoute, context: &Context<'_>, at: At<'_>) -> Option<HttpRoute> {
    let pb::MetaRoute {
        name,
        r#match,
        route,
        mirror,
        mirror_percentage,
        request_mutation,
        response_mutation,
    } = message;
    let headers = attributes(r#match, at.field("match"));
    let matches = if headers.is_empty() {
        Vec::new()
    } else {
        vec![HttpMatch {
            headers,
            ..HttpMatch::default()
        }]
    };
    let mirror = mirror.and_then(|to| destination_of(of_istio(to), context, at.field("mirror")));
    let mirror_percent = mirror_percentage.and_then(|pb::Percent { value }| {
        at.field("mirrorPercentage").field("value").percent(value)
    });
    let request = mutation(request_mutation, at.field("requestMutation"));
    let response = mutation(response_mutation, at.field("responseMutation"));
    let action = HttpAction::Forward(destinations(route, context, at.field("route"))?);
    Some(HttpRoute {
        name: name.into(),
        matches,
        action,
        rewrite: None,
        timeout: None,
        retries: None,
        fault: None,
        mirror,
        mirror_percent,
        mirrors: Vec::new(),
        headers: HeaderOperations { request, response },
        cors: None,
    })
}

fn of_istio(message: pb::Destination) -> istio::Destination {
    let pb::Destination { host, subset, port } = message;
    let port = port.map(|pb::PortSelector { number }| istio::PortSelector { number });
    istio::Destination { host, subset, port }
}

fn destinations(
    list: Vec<pb::MetaRouteDestination>,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Vec<RouteDestination>> {
    if list.is_empty() {
        at.error("there is no destination: name a host");
        return None;
    }
    let parts = |item, at: At<'_>| {
        let pb::MetaRouteDestination {
            destination,
            weight,
        } = item;
        let weight = i32::try_from(weight).unwrap_or_else(|_| {
            at.field("weight").error("is too large: use a smaller one");
            1
        });
        (destination.map(of_istio), weight, ())
    };
    let found = shares(list, context, at, parts)?.into_iter();
    let found = found.map(
        |(destination, weight, ()): (Destination, _, ())| RouteDestination {
            destination,
            weight,
            headers: HeaderOperations::default(),
        },
    );
    Some(found.collect())
}

/// What each attribute must be; one without a value has to be there.
fn attributes(message: Option<pb::MetaRouteMatch>, at: At<'_>) -> BTreeMap<Arc<str>, StringMatch> {
    use pb::string_match::MatchType;
    let list = at.field("attributes");
    let mut found = BTreeMap::new();
    for (name, pb::StringMatch { match_type }) in message.unwrap_or_default().attributes {
        let at = list.key(&name);
        if name.is_empty() {
            at.error("an attribute has a name: write it");
        }
        let wanted = match match_type {
            None => StringMatch::Present,
            Some(MatchType::Exact(text)) => StringMatch::Exact(text.into()),
            Some(MatchType::Prefix(text)) => {
                if text.is_empty() {
                    at.field("prefix")
                        .error("is empty: write what values begin with");
                }
                StringMatch::Prefix(text.into())
            }
            Some(MatchType::Regex(text)) => {
                at.field("regex").regex(&text);
                StringMatch::Regex(text.into())
            }
        };
        found.insert(name.as_str().into(), wanted);
    }
    found
}

/// Attachments that are set, whose names keep their case.
fn mutation(list: Vec<pb::KeyValue>, at: At<'_>) -> HeaderOps {
    let mut set = BTreeMap::<Arc<str>, Arc<str>>::new();
    if list.len() > MAX_ENTRIES {
        at.error(format_args!("there are more than {MAX_ENTRIES} entries"));
    }
    for (index, pb::KeyValue { key, value }) in list.into_iter().enumerate() {
        let at = at.index(index);
        for (field, text) in [("key", &key), ("value", &value)] {
            if text.is_empty() {
                at.field(field).error("is empty: write it");
            } else if text.len() > MAX_MUTATION {
                at.field(field)
                    .error(format_args!("is longer than {MAX_MUTATION} bytes"));
            }
        }
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            at.field("key")
                .error("an attachment of this name cannot be set: use another");
        }
        if set.insert(key.into(), value.into()).is_some() {
            at.field("key").error("is set twice: remove one");
        }
    }
    HeaderOps {
        set,
        ..HeaderOps::default()
    }
}

fn limit_of(message: pb::LocalRateLimit, at: At<'_>) -> CallLimit {
    let pb::LocalRateLimit {
        token_bucket,
        conditions,
    } = message;
    if token_bucket.is_none() && conditions.is_empty() {
        at.error("limits nothing: write tokenBucket or conditions");
    }
    let list = at.field("conditions");
    if conditions.len() > MAX_ENTRIES {
        list.error(format_args!("there are more than {MAX_ENTRIES} entries"));
    }
    let rest = token_bucket.and_then(|message| bucket(message, at.field("tokenBucket")));
    let numbered = conditions.into_iter().enumerate();
    let conditions = numbered.filter_map(|(index, message)| {
        let at = list.index(index);
        let pb::local_rate_limit::Condition {
            r#match,
            token_bucket,
        } = message;
        let attributes = attributes(r#match, at.field("match"));
        let Some(message) = token_bucket else {
            at.field("tokenBucket").error("is missing: write it");
            return None;
        };
        let bucket = bucket(message, at.field("tokenBucket"))?;
        Some(LimitCondition { attributes, bucket })
    });
    CallLimit {
        conditions: conditions.collect(),
        rest,
    }
}

fn service_limit(
    message: pb::GlobalRateLimit,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<ServiceCallLimit> {
    let pb::GlobalRateLimit {
        r#match,
        domain,
        request_timeout,
        deny_on_fail,
        rate_limit_service,
        descriptors,
    } = message;
    for (field, text) in [
        ("domain", &domain),
        ("rateLimitService", &rate_limit_service),
    ] {
        if text.is_empty() {
            at.field(field).error("is missing: write it");
        }
    }
    let cluster = at.field("rateLimitService");
    if !rate_limit_service.is_empty() {
        service_host(&rate_limit_service, context, cluster);
    }
    let list = at.field("descriptors");
    if descriptors.is_empty() {
        list.error("there is none: name a property and its descriptorKey");
    } else if descriptors.len() > MAX_DESCRIPTORS {
        list.error(format_args!(
            "there are more than {MAX_DESCRIPTORS} entries"
        ));
    }
    let numbered = descriptors.into_iter().enumerate();
    let descriptors = numbered.map(|(index, one)| {
        let at = list.index(index);
        let pb::global_rate_limit::Descriptor {
            property,
            descriptor_key,
        } = one;
        for (field, text) in [("property", &property), ("descriptorKey", &descriptor_key)] {
            if text.is_empty() {
                at.field(field).error("is empty: write it");
            }
        }
        (property.into(), descriptor_key.into())
    });
    let timeout = request_timeout.map(|time| {
        let at = at.field("requestTimeout");
        at.duration(Some(time), Duration::from_millis(1))
    });
    Some(ServiceCallLimit {
        attributes: attributes(r#match, at.field("match")),
        domain: domain.into(),
        cluster: rate_limit_service.into(),
        timeout: match timeout {
            Some(time) => Some(time?),
            None => None,
        },
        deny_on_fail,
        descriptors: descriptors.collect(),
    })
}

/// A cluster that is written in its four parts, as Aeraki's pages do.
fn service_host(cluster: &str, context: &Context<'_>, at: At<'_>) {
    let parts: Vec<&str> = cluster.split('|').collect();
    match parts[..] {
        ["outbound", port, _, host] if port.parse::<u16>().is_ok_and(|port| port > 0) => {
            at.ok(hostname(host, context));
        }
        _ => at.error("is no cluster: write outbound|PORT||HOST"),
    }
}

fn bucket(message: pb::local_rate_limit::TokenBucket, at: At<'_>) -> Option<CallBucket> {
    let pb::local_rate_limit::TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    } = message;
    let tokens_per_fill = tokens_per_fill.map_or(1, |tokens| tokens.value);
    for (field, tokens) in [
        ("maxTokens", max_tokens),
        ("tokensPerFill", tokens_per_fill),
    ] {
        if tokens == 0 {
            at.field(field).error("must be more than 0");
        }
    }
    if fill_interval.is_none() {
        at.field("fillInterval").error("is missing: write it");
    }
    let interval = at.field("fillInterval");
    Some(CallBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval: interval.duration(fill_interval, LEAST_INTERVAL)?,
    })
}
