//! The RBAC filters of HTTP and of connections, as configured.

use std::sync::Arc;
use std::time::Duration;

use super::Rbac;
use super::convert::Both;
use crate::pass::Pass;
use crate::pb;
use pb::extensions::filters::http::rbac::v3 as http;
use pb::extensions::filters::network::rbac::v3 as network;

/// Rules that count, and rules that are only tried.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RbacFilter {
    /// Enforced; without them everybody gets in.
    pub rules: Option<Arc<Rbac>>,
    /// Tried; what they say goes into statistics and metadata.
    pub shadow: Option<Arc<Rbac>>,
    /// Goes before the statistics of the enforced rules.
    pub stat_prefix: Arc<str>,
    /// Goes before the statistics and metadata of the shadow rules.
    pub shadow_stat_prefix: Arc<str>,
}

impl RbacFilter {
    /// Whether a policy looks at the names in the client's certificate.
    pub fn wants_names(&self) -> bool {
        let mut both = self.rules.iter().chain(&self.shadow);
        both.any(|rules| rules.wants_names())
    }
}

/// `envoy.filters.network.rbac`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRbac {
    /// Its rules. `stat_prefix` is that of the filter: `<stat prefix>rbac.…`.
    pub filter: RbacFilter,
    /// A refused connection is kept open for this time.
    pub delay_deny: Option<Duration>,
}

/// Reads the HTTP filter.
pub(crate) fn http_rbac(p: &mut Pass<'_>, message: &http::Rbac) -> Option<RbacFilter> {
    let http::Rbac {
        rules,
        rules_stat_prefix,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        track_per_rule_stats,
    } = message;
    unsupported!(p; matcher, shadow_matcher);
    ignore!(p, "rbac.RBAC"; track_per_rule_stats);
    let (rules, shadow) = Both {
        rules: rules.as_ref(),
        shadow_rules: shadow_rules.as_ref(),
    }
    .read(p);
    Some(RbacFilter {
        rules,
        shadow,
        stat_prefix: Arc::from(rules_stat_prefix.as_str()),
        shadow_stat_prefix: Arc::from(shadow_rules_stat_prefix.as_str()),
    })
}

/// Reads what a route has in the HTTP filter's place; without a filter the route has none.
pub(crate) fn http_rbac_per_route(
    p: &mut Pass<'_>,
    message: &http::RbacPerRoute,
) -> Option<Option<RbacFilter>> {
    let http::RbacPerRoute { rbac } = message;
    let before = p.problem_count();
    let rbac = p.opt("rbac", rbac.as_ref(), http_rbac);
    (p.problem_count() == before).then_some(rbac)
}

/// Reads the network filter.
pub(crate) fn network_rbac(p: &mut Pass<'_>, message: &network::Rbac) -> Option<NetworkRbac> {
    let network::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = message;
    unsupported!(p; matcher, shadow_matcher);
    // No filter of a connection changes what the rules look at: once is enough.
    p.enumeration::<network::rbac::EnforcementType>("enforcement_type", *enforcement_type)?;
    let stat_prefix = p.name("stat_prefix", stat_prefix)?;
    let (rules, shadow) = Both {
        rules: rules.as_ref(),
        shadow_rules: shadow_rules.as_ref(),
    }
    .read(p);
    Some(NetworkRbac {
        filter: RbacFilter {
            rules,
            shadow,
            stat_prefix,
            shadow_stat_prefix: Arc::from(shadow_rules_stat_prefix.as_str()),
        },
        delay_deny: p.timeout("delay_deny", delay_deny.as_ref(), None),
    })
}
