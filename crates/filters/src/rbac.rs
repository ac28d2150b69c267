//! `envoy.filters.http.rbac`: lets in whom the policies let in.
//!
//! Source: Envoy, "Role Based Access Control (RBAC) Filter".

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};
use weft_config::rbac::{Action, RbacFilter as Config, Subject};

use crate::{CounterGroup, LocalReply, RequestContext, Surroundings, Verdict};

/// Namespace of the metadata that the filter leaves.
const NAMESPACE: &str = "envoy.filters.http.rbac";
/// Namespace of the metadata that logs look at.
const COMMON: &str = "envoy.common";

/// Counters of enforced rules, in the order of [`RbacCounters`].
const COUNTERS: &[&str] = &["allowed", "denied"];
/// Counters of shadow rules, in the order of [`RbacCounters`].
const SHADOW_COUNTERS: &[&str] = &["shadow_allowed", "shadow_denied"];

/// `rbac.…` of a filter.
#[derive(Debug, Clone)]
pub struct RbacCounters {
    enforced: Arc<CounterGroup>,
    shadow: Arc<CounterGroup>,
}

impl RbacCounters {
    /// The counters of a filter below `prefix`.
    pub fn new(
        prefix: &str,
        config: (&str, &str),
        make: &dyn Fn(&str, &'static [&'static str]) -> Arc<CounterGroup>,
    ) -> Self {
        let (rules, shadow) = config;
        Self {
            enforced: make(&format!("{prefix}rbac.{rules}"), COUNTERS),
            shadow: make(&format!("{prefix}rbac.{shadow}"), SHADOW_COUNTERS),
        }
    }

    /// The enforced rules have decided.
    pub fn decided(&self, allowed: bool) {
        self.enforced.inc(usize::from(!allowed));
    }

    /// The shadow rules have decided.
    pub fn shadow_decided(&self, allowed: bool) {
        self.shadow.inc(usize::from(!allowed));
    }
}

/// What access logs say of a refusal.
pub fn details(policy: Option<&Arc<str>>) -> String {
    let name = policy.map_or("none", |name| &**name);
    let name: String = name
        .chars()
        .map(|letter| if letter.is_whitespace() { '_' } else { letter })
        .collect();
    format!("rbac_access_denied_matched_policy[{name}]")
}

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct RbacFilter {
    configured: Arc<Config>,
    counters: RbacCounters,
}

impl RbacFilter {
    pub(crate) fn new(configured: &Arc<Config>, surroundings: &dyn Surroundings) -> Self {
        let prefixes = (&*configured.stat_prefix, &*configured.shadow_stat_prefix);
        let make = |prefix: &str, names| surroundings.counters(prefix, names);
        Self {
            configured: Arc::clone(configured),
            counters: RbacCounters::new("", prefixes, &make),
        }
    }

    /// `own` are the route's rules, which take the place of the filter's; names of statistics and
    /// metadata stay the filter's.
    pub(crate) fn request(
        &self,
        own: Option<&Arc<Config>>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let config = own.unwrap_or(&self.configured);
        let subject = subject(context);
        let shadow = config.shadow.as_ref().map(|rules| {
            let policy = rules.effective_policy(&subject);
            (policy.cloned(), rules.allows(policy))
        });
        let enforced = config.rules.as_ref().map(|rules| {
            let policy = rules.effective_policy(&subject);
            (policy.cloned(), rules.allows(policy), rules.action)
        });
        if let Some((policy, allowed)) = &shadow {
            self.counters.shadow_decided(*allowed);
            let prefix = &self.configured.shadow_stat_prefix;
            leave(
                context,
                &format!("{prefix}shadow_"),
                policy.as_ref(),
                *allowed,
            );
        }
        let Some((policy, allowed, action)) = enforced else {
            return Verdict::Continue;
        };
        if action == Action::Log {
            let logged = Value::Bool(policy.is_some());
            let hint = Map::from_iter([("access_log_hint".to_owned(), logged)]);
            context.metadata.merge(COMMON, hint);
        }
        self.counters.decided(allowed);
        let prefix = &self.configured.stat_prefix;
        leave(
            context,
            &format!("{prefix}enforced_"),
            policy.as_ref(),
            allowed,
        );
        if allowed {
            return Verdict::Continue;
        }
        let reply = LocalReply::new(StatusCode::FORBIDDEN, details(policy.as_ref()));
        Verdict::Reply(reply.body("RBAC: access denied"))
    }
}

fn subject<'s>(context: &'s RequestContext<'_>) -> Subject<'s> {
    let connection = context.connection;
    Subject {
        head: Some(context.head.view()),
        peer: connection.names.as_ref(),
        server_name: &connection.server_name,
        destination: connection.local,
        direct_remote: connection.direct,
        remote: context.remote,
        metadata: Some(context.metadata),
        route_metadata: context.route_metadata,
    }
}

/// Leaves what rules said as metadata.
fn leave(context: &mut RequestContext<'_>, prefix: &str, policy: Option<&Arc<str>>, allowed: bool) {
    let mut fields = Map::new();
    if let Some(policy) = policy {
        let policy = Value::String((**policy).to_owned());
        fields.insert(format!("{prefix}effective_policy_id"), policy);
    }
    let result = if allowed { "allowed" } else { "denied" };
    fields.insert(
        format!("{prefix}engine_result"),
        Value::String(result.to_owned()),
    );
    context.metadata.merge(NAMESPACE, fields);
}
