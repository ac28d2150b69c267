//! HTTP filters on a call, run by the data plane's own code; those that need another service or
//! would wait are only told.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use weft_config::http_filter::{FilterOverride, HttpFilterConfig, OverrideLevels};
use weft_config::jwt::RemoteKeySource;
use weft_config::local_rate_limit::{LocalRateLimit, RateLimitCounts};
use weft_config::rate_limit::{RateLimitFilter, RouteLimits};
use weft_config::rbac::Action;
use weft_config::{DataSource, HttpFilter, HttpManager, Metadata, Rbac, RpcBridge};
use weft_filters::call::{Call as ServiceCall, Calling};
use weft_filters::{
    CallError, Calls, Connection, ConnectionBucket, CounterGroup, FaultStats, Filter, LimitCounts,
    LocalReply, RemoteKeys, RequestContext, RequestParts, Surroundings, Verdict,
};

use super::call::Head;
use super::route::Around;
use super::selection::Selection;
use super::{End, faults};

/// Where the RBAC filter leaves what it decided.
const RBAC: &str = "envoy.filters.http.rbac";

/// No other service is asked.
#[derive(Debug)]
struct Nobody;

impl Calls for Nobody {
    fn call<'a>(&'a self, _: ServiceCall<'a>) -> Calling<'a> {
        let refused = Err(CallError::Failed(
            "a simulation asks no other service".to_owned(),
        ));
        Box::pin(std::future::ready(refused))
    }
}

#[derive(Debug)]
struct Bare;

impl LimitCounts for Bare {
    fn of(&self, _: &Arc<str>) -> Arc<RateLimitCounts> {
        Arc::default()
    }
}

impl Surroundings for Bare {
    fn faults(&self) -> Arc<FaultStats> {
        Arc::default()
    }

    fn remote_keys(&self, source: &Arc<RemoteKeySource>) -> Rc<RemoteKeys> {
        Rc::new(RemoteKeys::new(Arc::clone(source)))
    }

    fn limits(&self) -> Arc<dyn LimitCounts> {
        Arc::new(Self)
    }

    fn read(&self, source: &DataSource) -> Option<Bytes> {
        match source {
            DataSource::Inline(bytes) => Some(bytes.clone()),
            // Files are the proxy's, not ours.
            _ => None,
        }
    }

    fn counters(&self, prefix: &str, names: &'static [&'static str]) -> Arc<CounterGroup> {
        Arc::new(CounterGroup::new(prefix, names))
    }
}

/// The client as far as trusted proxies in front tell.
pub(super) fn remote(manager: &HttpManager, head: &Head, peer: IpAddr) -> IpAddr {
    let entries = head.headers.get_all("x-forwarded-for").iter().rev();
    let entries = entries.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    let mut entries = entries.map(|entry| entry.trim().parse().ok());
    let hops = manager.xff_num_trusted_hops as usize;
    let told = match (manager.use_remote_address, hops) {
        (true, 0) => None,
        (true, hops) => entries.nth(hops - 1).flatten(),
        (false, hops) => entries.nth(hops).flatten(),
    };
    told.unwrap_or(peer)
}

/// What was decided by which policy.
pub(super) fn decision(filter: &str, action: Action, policy: Option<&str>, allowed: bool) -> Value {
    let action = match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Log => "LOG",
    };
    json!({
        "filter": filter, "action": action, "allowed": allowed,
        "policy": policy, "rule": policy.and_then(object),
    })
}

/// `ns[NS]-policy[NAME]-rule[N]` of istiod's policy names as the object and its field.
fn object(policy: &str) -> Option<String> {
    let rest = policy.split_once("ns[")?.1;
    let (namespace, rest) = rest.split_once("]-policy[")?;
    let (name, rest) = rest.split_once("]-rule[")?;
    let rule = rest.strip_suffix(']')?;
    Some(format!(
        "AuthorizationPolicy/{namespace}/{name} spec.rules[{rule}]"
    ))
}

/// Why policies refuse.
pub(super) fn refusal(action: Action, policy: Option<&str>) -> String {
    let named = policy.map(|policy| object(policy).unwrap_or_else(|| policy.to_owned()));
    match (action, named) {
        (Action::Deny, Some(policy)) => format!("denied by {policy}"),
        (_, Some(policy)) => format!("refused by {policy}"),
        (_, None) => "policies with ALLOW hold here, and none of their rules matches".to_owned(),
    }
}

/// What is to be said of a service that is not asked.
fn not_asked(configured: &HttpFilter, overrides: OverrideLevels<'_>) -> Option<String> {
    let name = &configured.name;
    if let Some(FilterOverride::ExtAuthz(own)) = overrides.settings(name)
        && own.disabled
    {
        return None;
    }
    Some(format!(
        "{name}: an authorization service decides as well; it is not asked here"
    ))
}

/// What is to be said of a limit whose tokens are in the proxy.
fn limited(
    configured: &HttpFilter,
    own: &LocalRateLimit,
    overrides: OverrideLevels<'_>,
) -> Option<String> {
    let name = &configured.name;
    let limit = match overrides.settings(name) {
        Some(FilterOverride::LocalRateLimit(route)) => route,
        _ => own,
    };
    let has = limit.limiter.has_default() || limit.limiter.has_descriptors();
    let holds = has && limit.enabled.numerator > 0;
    (holds && limit.enforced.numerator > 0).then(|| {
        let status = limit.status.as_u16();
        format!("{name}: a request too many is answered with {status}")
    })
}

/// What is to be said of a limit that a service counts.
fn limited_by_service(configured: &HttpFilter, own: &RateLimitFilter) -> String {
    let (name, domain) = (&configured.name, &own.domain);
    format!("{name}: a rate limit service counts requests of domain {domain}; it is not asked here")
}

/// Runs the filters in their order. Each looks at the route as those before it have made it; which
/// ones run is the first route's decision, as in the data plane.
pub(super) async fn run<'a>(
    around: &Around<'a>,
    head: &mut Head,
    selection: &mut Selection<'a>,
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<(), End> {
    let call = around.call;
    let connection = Connection {
        local: call.destination,
        protocol: "HTTP/1.1",
        peer: call.source,
        direct: call.source.ip(),
        server_name: call
            .tls
            .as_ref()
            .map_or("", |hello| &hello.server_name)
            .into(),
        names: around.peer.clone(),
        bucket: ConnectionBucket::default(),
    };
    let first = selection.overrides();
    let mut metadata = Metadata::default();
    for configured in &around.manager.filters {
        let Some(filter) = Filter::build(configured, &Bare) else {
            continue;
        };
        if filter.is_off(first) {
            continue;
        }
        // What this filter says, not one before it.
        let before = metadata.namespace(RBAC).cloned();
        let mut path: PathAndQuery = head
            .path
            .parse()
            .map_err(|_| End::answered("refused", 400, "the path is no path of a URL"))?;
        let mut context = context(
            around,
            (&mut *head, &mut path),
            selection,
            &connection,
            &mut metadata,
        );
        match &configured.config {
            HttpFilterConfig::Fault(own) => {
                faults::inject(configured, own, &context, notes)?;
                continue;
            }
            HttpFilterConfig::ExtAuthz(_) => {
                notes.extend(not_asked(configured, context.overrides));
                continue;
            }
            HttpFilterConfig::RpcBridge(own) => {
                notes.push(bridged(configured, own, context.overrides));
                continue;
            }
            // Nothing is looked up in a simulation.
            HttpFilterConfig::DynamicForwardProxy(_) => continue,
            HttpFilterConfig::LocalRateLimit(own) => {
                notes.extend(limited(configured, own, context.overrides));
                continue;
            }
            HttpFilterConfig::RateLimit(own) => {
                notes.push(limited_by_service(configured, own));
                continue;
            }
            _ => {}
        }
        let verdict = filter.request(&mut context).await;
        let reroute = context.reroute;
        head.path = path.to_string();
        let reply = match verdict {
            Verdict::Continue | Verdict::Edit(_) => None,
            Verdict::Reply(reply) => Some(reply),
        };
        let passes = reply.is_none();
        if let HttpFilterConfig::Jwt(_) = &configured.config {
            let jwt = json!({ "filter": &*configured.name, "action": "JWT", "allowed": passes });
            tell(report, jwt);
        }
        if let Some((rules, key)) = rules(configured, selection.overrides()) {
            let of = |fields: Option<&serde_json::Map<String, Value>>| {
                let value = fields.and_then(|fields| fields.get(&key));
                value.and_then(Value::as_str).map(str::to_owned)
            };
            let policy = of(metadata.namespace(RBAC));
            let policy = policy.filter(|policy| of(before.as_ref()).as_ref() != Some(policy));
            let policy = policy.as_deref();
            tell(
                report,
                decision(&configured.name, rules.action, policy, passes),
            );
            if !passes {
                return Err(End::answered("denied", 403, refusal(rules.action, policy)));
            }
        }
        if let Some(reply) = reply {
            return Err(answered(configured, &reply));
        }
        if reroute {
            *selection = Selection::find(around, (head, &metadata), report);
        }
    }
    Ok(())
}

fn context<'c>(
    around: &'c Around<'_>,
    (head, path): (&'c mut Head, &'c mut PathAndQuery),
    selection: &'c Selection<'_>,
    connection: &'c Connection,
    metadata: &'c mut Metadata,
) -> RequestContext<'c> {
    RequestContext {
        head: RequestParts {
            method: &mut head.method,
            path,
            scheme: &mut head.scheme,
            headers: &mut head.headers,
        },
        cluster: selection.cluster.as_deref(),
        routed: selection.is_routed(),
        forwarded: selection.forwards(),
        overrides: selection.overrides(),
        route_metadata: selection.metadata(),
        limits: RouteLimits::default(),
        connection,
        remote: around.remote,
        metadata,
        body: None,
        calls: &Nobody,
        random: [around.call.random; 2],
        delayed: false,
        reroute: false,
        response: Vec::new(),
        cors: None,
        rpc: None,
    }
}

/// What a filter makes of a request, of which a simulation has no body.
fn bridged(configured: &HttpFilter, own: &RpcBridge, overrides: OverrideLevels<'_>) -> String {
    let bridge = match overrides.settings(&configured.name) {
        Some(FilterOverride::RpcBridge(bridge)) => bridge,
        _ => own,
    };
    let protocol = bridge.codec.name();
    format!("{} makes a call of {protocol} of it", configured.name)
}

/// The rules that a filter goes by, those of the route before its own, and the name under which it
/// leaves the policy that decided.
fn rules<'a>(
    configured: &'a HttpFilter,
    overrides: OverrideLevels<'a>,
) -> Option<(&'a Rbac, String)> {
    let HttpFilterConfig::Rbac(filter) = &configured.config else {
        return None;
    };
    let rules = match overrides.settings(&configured.name) {
        Some(FilterOverride::Rbac(own)) => own.as_ref()?.rules.as_ref()?,
        _ => filter.rules.as_ref()?,
    };
    let key = format!("{}enforced_effective_policy_id", filter.stat_prefix);
    Some((rules, key))
}

/// Tells what a policy said.
fn tell(report: &mut Value, decision: Value) {
    match report["policies"].as_array_mut() {
        Some(told) => told.push(decision),
        None => report["policies"] = json!([decision]),
    }
}

/// A filter has answered.
fn answered(configured: &HttpFilter, reply: &LocalReply) -> End {
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    let status = reply.status.as_u16();
    let why = match status {
        401 => format!("the token is refused (RequestAuthentication): {body}"),
        _ => format!("answered by {}: {} {body}", configured.name, reply.details),
    };
    let verdict = if status >= 400 { "denied" } else { "answered" };
    End::answered(verdict, status, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_policies_lead_to_objects() {
        assert_eq!(
            object("ns[shop]-policy[only-get]-rule[2]").as_deref(),
            Some("AuthorizationPolicy/shop/only-get spec.rules[2]")
        );
        assert_eq!(
            object("istio-ext-authz-ns[a]-policy[b]-rule[0]").as_deref(),
            Some("AuthorizationPolicy/a/b spec.rules[0]")
        );
        assert_eq!(object("allow-all"), None);
        assert!(refusal(Action::Allow, None).contains("ALLOW"));
        assert_eq!(refusal(Action::Deny, Some("x")), "denied by x");
    }
}
