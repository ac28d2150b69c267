//! RBAC messages → policies.

use std::sync::Arc;

use super::{Action, Condition, MetadataSource, Policy, Rbac, UriTemplate};
use crate::address::cidr_range;
use crate::extension::{Extension, decode, typed};
use crate::matching::{header_matcher, metadata_matcher, string_matcher};
use crate::pass::Pass;
use crate::pb;
use pb::config::rbac::v3 as rbac;

/// Reads `envoy.config.rbac.v3.RBAC`.
pub(crate) fn rules(p: &mut Pass<'_>, message: &rbac::Rbac) -> Option<Rbac> {
    let rbac::Rbac {
        action,
        policies,
        audit_logging_options,
    } = message;
    unsupported!(p; audit_logging_options);
    let action = match p.enumeration("action", *action)? {
        rbac::rbac::Action::Allow => Action::Allow,
        rbac::rbac::Action::Deny => Action::Deny,
        rbac::rbac::Action::Log => Action::Log,
    };
    let mut named: Vec<_> = policies.iter().collect();
    named.sort_by_key(|(name, _)| *name);
    let policies = p.at("policies", |p| {
        let read = |(name, message): (&String, &rbac::Policy)| {
            p.at_key(name, |p| policy(p, name, message))
        };
        named.into_iter().filter_map(read).collect()
    });
    Some(Rbac { action, policies })
}

fn policy(p: &mut Pass<'_>, name: &str, message: &rbac::Policy) -> Option<Policy> {
    let rbac::Policy {
        permissions,
        principals,
        condition,
        checked_condition,
        cel_config,
    } = message;
    // Expressions in CEL.
    unsupported!(p; condition, checked_condition, cel_config);
    for (field, empty) in [
        ("permissions", permissions.is_empty()),
        ("principals", principals.is_empty()),
    ] {
        if empty {
            p.refuse_field(field, "is required");
        }
    }
    Some(Policy {
        name: Arc::from(name),
        permissions: p.each("permissions", permissions, permission),
        principals: p.each("principals", principals, principal),
    })
}

fn permission(p: &mut Pass<'_>, message: &rbac::Permission) -> Option<Condition> {
    use rbac::permission::{Rule, Set};
    if p.too_deep() {
        return None;
    }
    let rbac::Permission { rule } = message;
    let Some(rule) = rule else {
        p.refuse("needs a rule, such as any: true or url_path");
        return None;
    };
    match rule {
        Rule::AndRules(Set { rules }) => {
            set(p, "and_rules", "rules", rules, permission).map(Condition::All)
        }
        Rule::OrRules(Set { rules }) => {
            set(p, "or_rules", "rules", rules, permission).map(Condition::OneOf)
        }
        Rule::Any(any) => only_true(p, *any),
        Rule::Header(header) => p
            .at("header", |p| header_matcher(p, header))
            .map(Condition::Header),
        Rule::UrlPath(message) => p.at("url_path", |p| path(p, message)),
        Rule::DestinationIp(range) => p
            .at("destination_ip", |p| cidr_range(p, range))
            .map(Condition::DestinationIp),
        Rule::DestinationPort(port) => match u16::try_from(*port) {
            Ok(port) => Some(Condition::DestinationPorts(port, u32::from(port) + 1)),
            Err(_) => {
                p.refuse_field("destination_port", "must be at most 65535");
                None
            }
        },
        Rule::DestinationPortRange(pb::typ::Int32Range { start, end }) => {
            match (u16::try_from(*start), u32::try_from(*end)) {
                (Ok(start), Ok(end @ ..=65536)) if u32::from(start) < end => {
                    Some(Condition::DestinationPorts(start, end))
                }
                _ => {
                    p.refuse_field("destination_port_range", "must be a range of ports");
                    None
                }
            }
        }
        Rule::Metadata(message) => p
            .at("metadata", |p| metadata_matcher(p, message))
            .map(|found| Condition::Metadata(found, MetadataSource::Dynamic)),
        Rule::SourcedMetadata(message) => p.at("sourced_metadata", |p| sourced(p, message)),
        Rule::NotRule(message) => p
            .at("not_rule", |p| permission(p, message))
            .map(|one| Condition::Not(Box::new(one))),
        Rule::RequestedServerName(name) => p
            .at("requested_server_name", |p| string_matcher(p, name))
            .map(Condition::ServerName),
        Rule::Matcher(message) => p.at("matcher", |p| extension(p, message, &[])),
        Rule::UriTemplate(message) => p.at("uri_template", |p| extension(p, message, TEMPLATES)),
    }
}

fn principal(p: &mut Pass<'_>, message: &rbac::Principal) -> Option<Condition> {
    use rbac::principal::{Authenticated, Identifier, Set};
    if p.too_deep() {
        return None;
    }
    let rbac::Principal { identifier } = message;
    let Some(identifier) = identifier else {
        p.refuse("needs an identifier, such as any: true or authenticated");
        return None;
    };
    match identifier {
        Identifier::AndIds(Set { ids }) => {
            set(p, "and_ids", "ids", ids, principal).map(Condition::All)
        }
        Identifier::OrIds(Set { ids }) => {
            set(p, "or_ids", "ids", ids, principal).map(Condition::OneOf)
        }
        Identifier::Any(any) => only_true(p, *any),
        Identifier::Authenticated(Authenticated { principal_name }) => {
            let before = p.problem_count();
            let name = p.at("authenticated", |p| {
                p.opt("principal_name", principal_name.as_ref(), string_matcher)
            });
            (p.problem_count() == before).then_some(Condition::Authenticated(name))
        }
        // Nothing here reads an address from the PROXY protocol, so that the connection's
        // address, with which the older field deals, is that of its peer.
        Identifier::SourceIp(range) => p
            .at("source_ip", |p| cidr_range(p, range))
            .map(Condition::DirectRemoteIp),
        Identifier::DirectRemoteIp(range) => p
            .at("direct_remote_ip", |p| cidr_range(p, range))
            .map(Condition::DirectRemoteIp),
        Identifier::RemoteIp(range) => p
            .at("remote_ip", |p| cidr_range(p, range))
            .map(Condition::RemoteIp),
        Identifier::Header(header) => p
            .at("header", |p| header_matcher(p, header))
            .map(Condition::Header),
        Identifier::UrlPath(message) => p.at("url_path", |p| path(p, message)),
        Identifier::Metadata(message) => p
            .at("metadata", |p| metadata_matcher(p, message))
            .map(|found| Condition::Metadata(found, MetadataSource::Dynamic)),
        Identifier::SourcedMetadata(message) => p.at("sourced_metadata", |p| sourced(p, message)),
        Identifier::NotId(message) => p
            .at("not_id", |p| principal(p, message))
            .map(|one| Condition::Not(Box::new(one))),
        Identifier::FilterState(_) => {
            p.refuse_field(
                "filter_state",
                "is not supported by Weft, where nothing sets filter state; use authenticated",
            );
            None
        }
        Identifier::Custom(_) => {
            p.unsupported("custom", true);
            None
        }
    }
}

fn set<M>(
    p: &mut Pass<'_>,
    field: &'static str,
    inner: &'static str,
    messages: &[M],
    read: impl FnMut(&mut Pass<'_>, &M) -> Option<Condition>,
) -> Option<Vec<Condition>> {
    p.at(field, |p| {
        if messages.is_empty() {
            p.refuse_field(inner, "is required");
        }
        Some(p.each(inner, messages, read))
    })
}

fn only_true(p: &mut Pass<'_>, any: bool) -> Option<Condition> {
    if !any {
        p.refuse_field("any", "must be true, as in Envoy");
    }
    any.then_some(Condition::Any)
}

fn path(p: &mut Pass<'_>, message: &pb::matcher::PathMatcher) -> Option<Condition> {
    use pb::matcher::path_matcher::Rule;
    match &message.rule {
        Some(Rule::Path(text)) => p
            .at("path", |p| string_matcher(p, text))
            .map(Condition::Path),
        None => {
            p.refuse_field("path", "is required");
            None
        }
    }
}

fn sourced(p: &mut Pass<'_>, message: &rbac::SourcedMetadata) -> Option<Condition> {
    let rbac::SourcedMetadata {
        metadata_matcher: matcher,
        metadata_source,
    } = message;
    let source = match p.enumeration("metadata_source", *metadata_source)? {
        rbac::MetadataSource::Dynamic => MetadataSource::Dynamic,
        rbac::MetadataSource::Route => MetadataSource::Route,
    };
    let found = p.required("metadata_matcher", matcher.as_ref(), metadata_matcher)?;
    Some(Condition::Metadata(found, source))
}

const TEMPLATES: &[Extension<Condition>] = &[Extension {
    name: "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
    read: |p, bytes| {
        let pb::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig {
            path_template,
        } = decode(p, bytes)?;
        match UriTemplate::new(&path_template) {
            Ok(template) => Some(Condition::Template(template)),
            Err(error) => {
                p.refuse_field("path_template", error);
                None
            }
        }
    },
}];

fn extension(
    p: &mut Pass<'_>,
    message: &pb::core::TypedExtensionConfig,
    table: &[Extension<Condition>],
) -> Option<Condition> {
    let pb::core::TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    typed(p, "typed_config", typed_config.as_ref(), table)
}

/// What the filters of both kinds share: enforced and shadow rules.
pub(crate) struct Both<'m> {
    pub(crate) rules: Option<&'m rbac::Rbac>,
    pub(crate) shadow_rules: Option<&'m rbac::Rbac>,
}

impl Both<'_> {
    /// Reads both; what is refused is left out, and the pass fails.
    pub(crate) fn read(&self, p: &mut Pass<'_>) -> (Option<Arc<Rbac>>, Option<Arc<Rbac>>) {
        let enforced = p.opt("rules", self.rules, rules).map(Arc::new);
        let shadow = p
            .opt("shadow_rules", self.shadow_rules, rules)
            .map(Arc::new);
        (enforced, shadow)
    }
}
