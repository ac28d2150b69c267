//! Filters that enforce authorization policies, as istiod makes them: for each action one filter of
//! RBAC with all rules, and for `CUSTOM` one that only finds out whether the provider is to be asked.
//! Must never know which listeners they are for.

mod attributes;
mod matchers;
mod provider;
mod rules;

pub(crate) use matchers::claim;

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::provider::AuthorizationProvider;
use weft_model::{AccessAction, AuthorizationPolicy, MeshSettings, ObjectRef};

use crate::emit::Fault;
use crate::pb::hcm::{HttpFilter, http_filter};
use crate::pb::listener::v3::{Filter, filter};
use crate::pb::protobuf::Any;
use crate::pb::rbac::{Permission, Policy, Principal, permission, principal};

const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const HTTP_RBAC_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
/// Name of statistics of network filters.
const TCP_PREFIX: &str = "tcp.";
/// Prefix of the metadata and statistics of rules that are counted only.
const COUNTED_ALLOW: &str = "istio_dry_run_allow_";
/// Prefix of the metadata in which a filter says whether the provider is to be asked.
const ASK_PREFIX: &str = "istio_ext_authz_";

/// What stands before the ports of a workload, or of a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Guard {
    /// Before the routes of requests.
    pub(crate) http: Vec<HttpFilter>,
    /// Before bytes are forwarded.
    pub(crate) tcp: Vec<Filter>,
    /// Before connections that carry RPC calls: what cannot be asked for each call.
    pub(crate) rpc: Vec<Filter>,
    /// Before the routes of RPC calls.
    pub(crate) calls: Vec<HttpFilter>,
    /// The rules that made them.
    pub(crate) origins: Vec<ObjectRef>,
    /// What is enforced otherwise than its author meant.
    pub(crate) faults: Vec<Fault>,
}

/// The filters of some policies.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Of policies with the action `CUSTOM`: before tokens are checked.
    pub(crate) custom_http: Vec<HttpFilter>,
    pub(crate) custom_tcp: Vec<Filter>,
    /// Of all others: after it.
    pub(crate) http: Vec<HttpFilter>,
    pub(crate) tcp: Vec<Filter>,
    /// What is enforced otherwise than its author meant.
    pub(crate) problems: Vec<String>,
}

/// Action of Envoy's filter. What cannot be expressed makes rules that allow smaller, and all
/// others wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Allow = 0,
    Deny = 1,
    Log = 2,
}

/// The wire shape of `envoy.config.rbac.v3.RBAC`, with policies in an order.
#[derive(Clone, PartialEq, Message)]
struct Rules {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(btree_map = "string, message", tag = "2")]
    policies: BTreeMap<String, Policy>,
}

/// The wire shape of `envoy.extensions.filters.http.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
struct HttpRbac {
    #[prost(message, optional, tag = "1")]
    rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    shadow_rules_stat_prefix: String,
}

/// The wire shape of `envoy.extensions.filters.network.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
struct NetworkRbac {
    #[prost(message, optional, tag = "1")]
    rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    stat_prefix: String,
    #[prost(string, tag = "5")]
    shadow_rules_stat_prefix: String,
}

/// What is enforced, and what is only counted.
#[derive(Default)]
struct Both {
    enforced: Option<Rules>,
    counted: Option<Rules>,
    counted_prefix: &'static str,
}

/// A provider, and the cluster that leads to it.
pub(crate) type Provider<'a> = (&'a AuthorizationProvider, Result<String, String>);

/// The filters of policies, in order of precedence. `provider` finds a provider by its name.
pub(crate) fn filters<'a>(
    mesh: &MeshSettings,
    policies: &[Arc<AuthorizationPolicy>],
    provider: impl Fn(&str) -> Option<Provider<'a>>,
) -> Filters {
    let mut out = Filters::default();
    custom(mesh, policies, provider, &mut out);
    let order = [
        (AccessAction::Audit, Effect::Log),
        (AccessAction::Deny, Effect::Deny),
        (AccessAction::Allow, Effect::Allow),
    ];
    for (action, effect) in order {
        let chosen: Vec<_> = policies.iter().filter(|p| p.action == action).collect();
        if chosen.is_empty() {
            continue;
        }
        out.http.push(http(both(mesh, &chosen, effect, false)));
        out.tcp.push(network(both(mesh, &chosen, effect, true)));
    }
    out
}

fn http(rules: Both) -> HttpFilter {
    let message = HttpRbac {
        rules: rules.enforced,
        shadow_rules: rules.counted,
        shadow_rules_stat_prefix: rules.counted_prefix.to_owned(),
    };
    http_filter(HTTP_RBAC, encoded(HTTP_RBAC_TYPE, &message))
}

fn network(rules: Both) -> Filter {
    let message = NetworkRbac {
        rules: rules.enforced,
        shadow_rules: rules.counted,
        stat_prefix: TCP_PREFIX.to_owned(),
        shadow_rules_stat_prefix: rules.counted_prefix.to_owned(),
    };
    network_filter(NETWORK_RBAC, encoded(NETWORK_RBAC_TYPE, &message))
}

fn encoded(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

pub(super) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// The rules of policies with one effect. There are rules to enforce as soon as one policy is
/// enforced, even if none of its rules can be expressed: to allow nothing is something.
fn both(
    mesh: &MeshSettings,
    policies: &[&Arc<AuthorizationPolicy>],
    effect: Effect,
    tcp: bool,
) -> Both {
    let mut out = Both {
        // As istiod writes it even if nothing is counted only.
        counted_prefix: COUNTED_ALLOW,
        ..Both::default()
    };
    for policy in policies {
        let rules = if policy.dry_run {
            out.counted_prefix = match effect {
                Effect::Allow => COUNTED_ALLOW,
                Effect::Deny => "istio_dry_run_deny_",
                Effect::Log => "",
            };
            &mut out.counted
        } else {
            &mut out.enforced
        };
        let rules = rules.get_or_insert_with(|| Rules {
            action: effect as i32,
            policies: BTreeMap::new(),
        });
        add(mesh, rules, policy, "", effect, tcp);
    }
    out
}

/// Adds the rules of a policy under their names.
fn add(
    mesh: &MeshSettings,
    rules: &mut Rules,
    policy: &AuthorizationPolicy,
    prefix: &str,
    effect: Effect,
    tcp: bool,
) {
    let origin = &policy.meta.origin;
    let name = |index: usize| {
        format!(
            "{prefix}ns[{}]-policy[{}]-rule[{index}]",
            origin.namespace, origin.name
        )
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        if let Some(made) = rules::policy(mesh, origin, rule, effect, tcp) {
            rules.policies.insert(name(index), made);
        }
    }
    if policy.rules.is_empty() {
        rules.policies.insert(name(0), never());
    }
}

/// Matches nothing.
fn never() -> Policy {
    let any = Permission {
        rule: Some(permission::Rule::Any(true)),
    };
    let anybody = Principal {
        identifier: Some(principal::Identifier::Any(true)),
    };
    Policy {
        permissions: vec![Permission {
            rule: Some(permission::Rule::NotRule(Box::new(any))),
        }],
        principals: vec![Principal {
            identifier: Some(principal::Identifier::NotId(Box::new(anybody))),
        }],
        ..Policy::default()
    }
}

/// Two filters for the provider: one finds out whether a rule matches, the other asks if so. A
/// provider that cannot be asked keeps out what the rules match.
fn custom<'a>(
    mesh: &MeshSettings,
    policies: &[Arc<AuthorizationPolicy>],
    provider: impl Fn(&str) -> Option<Provider<'a>>,
    out: &mut Filters,
) {
    let mut by_provider: BTreeMap<&Arc<str>, Vec<&Arc<AuthorizationPolicy>>> = BTreeMap::new();
    for policy in policies {
        if let AccessAction::Custom(name) = &policy.action {
            by_provider.entry(name).or_default().push(policy);
        }
    }
    let several = by_provider.len() > 1;
    for (name, policies) in by_provider {
        let found = match provider(name) {
            _ if several => Err("policies of a workload name several providers".to_owned()),
            None => Err(format!("the mesh has no extensionProvider \"{name}\"")),
            Some((_, Err(reason))) => Err(reason),
            Some((provider, Ok(cluster))) => Ok((provider, cluster)),
        };
        let rules = |tcp: bool, suffix: &str| {
            let mut rules = Rules {
                action: Effect::Deny as i32,
                policies: BTreeMap::new(),
            };
            let prefix = format!("{}-{name}-", provider::POLICY_PREFIX);
            for policy in &policies {
                add(mesh, &mut rules, policy, &prefix, Effect::Deny, tcp);
            }
            let named = std::mem::take(&mut rules.policies).into_iter();
            rules.policies = named.map(|(k, v)| (format!("{k}{suffix}"), v)).collect();
            Some(rules)
        };
        match found {
            Ok((provider, cluster)) => {
                let asked = |tcp: bool| Both {
                    counted: rules(tcp, ""),
                    counted_prefix: ASK_PREFIX,
                    ..Both::default()
                };
                out.custom_http.push(http(asked(false)));
                out.custom_http
                    .push(provider::http(provider, &cluster, name));
                if let Some(filter) = provider::network(provider, &cluster, name) {
                    out.custom_tcp.push(network(asked(true)));
                    out.custom_tcp.push(filter);
                }
            }
            Err(reason) => {
                out.problems.push(format!(
                    "action CUSTOM: {reason}; what the rules match is kept out"
                ));
                let kept_out = |tcp: bool| Both {
                    enforced: rules(tcp, "-deny-due-to-bad-CUSTOM-action"),
                    ..Both::default()
                };
                out.custom_http.push(http(kept_out(false)));
                out.custom_tcp.push(network(kept_out(true)));
            }
        }
    }
}
