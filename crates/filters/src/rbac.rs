//! `envoy.filters.http.rbac`: lets in whom the policies let in.
//!
//! Source: Envoy, "Role Based Access Control (RBAC) Filter".

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};
use weft_config::Metadata;
use weft_config::rbac::{Action, Head, Rbac, RbacFilter as Config, Subject};

use crate::{CounterGroup, LocalReply, RequestContext, Surroundings, Verdict};

/// Namespace of the metadata that the filter leaves.
const NAMESPACE: &str = "envoy.filters.http.rbac";
/// Namespace of the metadata that logs look at.
const COMMON: &str = "envoy.common";

/// What callers are told.
pub const DENIED: &str = "RBAC: access denied";

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
    /// The counters of a filter below `prefix`. As in Envoy a dot ends each prefix, written or not.
    pub fn new(
        prefix: &str,
        config: (&str, &str),
        make: &dyn Fn(&str, &'static [&'static str]) -> Arc<CounterGroup>,
    ) -> Self {
        let (rules, shadow) = config;
        let dotted = |text: &str| match text {
            "" => String::new(),
            text => format!("{}.", text.strip_suffix('.').unwrap_or(text)),
        };
        let prefix = dotted(prefix) + "rbac.";
        Self {
            enforced: make(&format!("{prefix}{}", dotted(rules)), COUNTERS),
            shadow: make(&format!("{prefix}{}", dotted(shadow)), SHADOW_COUNTERS),
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
fn details(policy: Option<&Arc<str>>) -> String {
    let name = policy.map_or("none", |name| &**name);
    let name: String = name
        .chars()
        .map(|letter| if letter.is_whitespace() { '_' } else { letter })
        .collect();
    format!("rbac_access_denied_matched_policy[{name}]")
}

/// What rules said of a subject.
#[derive(Debug, Default)]
pub struct Judged {
    /// The shadow rules: the effective policy, and whether they would let it in.
    shadow: Option<(Option<Arc<str>>, bool)>,
    /// The same of the rules that count, and what a match of theirs means.
    enforced: Option<(Option<Arc<str>>, bool, Action)>,
}

impl Judged {
    /// Asks rules, and counts what they say.
    pub fn by(config: &Config, counters: &RbacCounters, subject: &Subject<'_>) -> Self {
        let ask = |rules: &Rbac| {
            let policy = rules.effective_policy(subject);
            (policy.cloned(), rules.allows(policy))
        };
        let shadow = config.shadow.as_deref().map(ask);
        if let Some((_, allowed)) = &shadow {
            counters.shadow_decided(*allowed);
        }
        let enforced = config.rules.as_deref().map(|rules| {
            let (policy, allowed) = ask(rules);
            counters.decided(allowed);
            (policy, allowed, rules.action)
        });
        Self { shadow, enforced }
    }

    /// What access logs say if the rules keep it out; `None`: they let it in.
    pub fn refusal(&self) -> Option<String> {
        match &self.enforced {
            Some((policy, false, _)) => Some(details(policy.as_ref())),
            _ => None,
        }
    }

    /// Leaves what was said as metadata, under the names of the filter `configured`.
    pub fn leave(&self, configured: &Config, metadata: &mut Metadata) {
        if let Some((policy, allowed)) = &self.shadow {
            let prefix = format!("{}shadow_", configured.shadow_stat_prefix);
            leave(metadata, &prefix, policy.as_ref(), *allowed);
        }
        let Some((policy, allowed, action)) = &self.enforced else {
            return;
        };
        if *action == Action::Log {
            let logged = Value::Bool(policy.is_some());
            let hint = Map::from_iter([("access_log_hint".to_owned(), logged)]);
            metadata.merge(COMMON, hint);
        }
        let prefix = format!("{}enforced_", configured.stat_prefix);
        leave(metadata, &prefix, policy.as_ref(), *allowed);
    }
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
        let judged = Judged::by(config, &self.counters, &subject(context));
        judged.leave(&self.configured, context.metadata);
        match judged.refusal() {
            None => Verdict::Continue,
            Some(details) => {
                let reply = LocalReply::new(StatusCode::FORBIDDEN, details);
                Verdict::Reply(reply.body(DENIED))
            }
        }
    }
}

fn subject<'s>(context: &'s RequestContext<'_>) -> Subject<'s> {
    let connection = context.connection;
    Subject {
        head: Some(Head::Http(context.head.view())),
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
fn leave(metadata: &mut Metadata, prefix: &str, policy: Option<&Arc<str>>, allowed: bool) {
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
    metadata.merge(NAMESPACE, fields);
}
