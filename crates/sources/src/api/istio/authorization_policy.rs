//! `AuthorizationPolicy` → [`AuthorizationPolicy`]. Rules of validity follow Istio's
//! `ValidateAuthorizationPolicy`, and what Envoy's filter takes.

use std::sync::Arc;

use weft_model::{
    AccessAction, AccessOperation, AccessRule, AccessSource, AuthorizationPolicy, ValueSet,
};
use weft_proto::istio::security::v1beta1 as pb;

use super::authorization_policy_values::{
    any, ip_block, path, port, service_accounts, set, trust_domain,
};
use super::authorization_policy_when::condition;
use super::selector;
use crate::check::{At, Context};

/// Annotation by which a policy is counted only.
const DRY_RUN: &str = "istio.io/dry-run";

pub(crate) fn convert(
    message: pb::AuthorizationPolicy,
    context: &Context<'_>,
    metadata: At<'_>,
    at: At<'_>,
) -> Option<AuthorizationPolicy> {
    let pb::AuthorizationPolicy {
        selector: chosen,
        rules,
        action,
        action_detail,
        target_ref,
        target_refs,
    } = message;
    selector::refuse_targets(target_ref.as_ref(), &target_refs, at);
    let action = action_of(action, action_detail, rules.is_empty(), at)?;
    let dry_run = dry_run(context, &action, metadata);
    let list = at.field("rules");
    let custom = matches!(action, AccessAction::Custom(_));
    let rules = rules.into_iter().enumerate();
    let rules = rules.map(|(index, rule)| rule_of(rule, custom, list.index(index)));
    Some(AuthorizationPolicy {
        meta: context.meta(),
        selector: selector::of(chosen, at.field("selector")),
        action,
        dry_run,
        rules: rules.collect(),
    })
}

fn action_of(
    action: i32,
    detail: Option<pb::authorization_policy::ActionDetail>,
    without_rules: bool,
    at: At<'_>,
) -> Option<AccessAction> {
    use pb::authorization_policy::{Action, ActionDetail, ExtensionProvider};
    let action = at.field("action").ok(Action::try_from(action))?;
    let provider = detail.map(|detail| {
        let ActionDetail::Provider(ExtensionProvider { name }) = detail;
        name
    });
    let place = at.field("provider");
    if action != Action::Custom && provider.is_some() {
        place.error("goes with the action CUSTOM only: remove it");
    }
    if without_rules && matches!(action, Action::Deny | Action::Custom) {
        at.field("rules").error(
            "there is none, so that nothing would ever match: write \"rules: [{}]\" to mean every request",
        );
    }
    Some(match action {
        Action::Allow => AccessAction::Allow,
        Action::Deny => AccessAction::Deny,
        Action::Audit => AccessAction::Audit,
        Action::Custom => {
            let name = provider.unwrap_or_default();
            if name.is_empty() {
                place.field("name").error(
                    "the action CUSTOM needs the name of one of the mesh's extensionProviders",
                );
            }
            AccessAction::Custom(name.into())
        }
    })
}

fn dry_run(context: &Context<'_>, action: &AccessAction, metadata: At<'_>) -> bool {
    let Some(text) = context.annotations.get(DRY_RUN) else {
        return false;
    };
    let annotations = metadata.field("annotations");
    let at = annotations.key(DRY_RUN);
    match text.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => {
            if matches!(action, AccessAction::Custom(_)) {
                at.error("is not supported for the action CUSTOM: the provider would be asked all the same");
            }
            true
        }
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            at.error(format_args!("\"{text}\" is neither \"true\" nor \"false\""));
            false
        }
    }
}

fn rule_of(message: pb::Rule, custom: bool, at: At<'_>) -> AccessRule {
    let pb::Rule { from, to, when } = message;
    let list = at.field("from");
    let from = from.into_iter().enumerate().map(|(index, item)| {
        let pb::rule::From { source } = item;
        let at = list.index(index);
        source_of(source.unwrap_or_default(), custom, at.field("source"))
    });
    let from = from.collect();
    let list = at.field("to");
    let to = to.into_iter().enumerate().map(|(index, item)| {
        let pb::rule::To { operation } = item;
        let at = list.index(index);
        operation_of(operation.unwrap_or_default(), at.field("operation"))
    });
    let to = to.collect();
    let list = at.field("when");
    let when = when.into_iter().enumerate();
    let when = when.filter_map(|(index, item)| condition(item, custom, list.index(index)));
    AccessRule {
        from,
        to,
        when: when.collect(),
    }
}

fn source_of(message: pb::Source, custom: bool, at: At<'_>) -> AccessSource {
    let pb::Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts: accounts,
        not_service_accounts,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        trust_domains,
        not_trust_domains,
    } = message;
    let of =
        |names: [&'static str; 2], values, check: fn(At<'_>, &str)| set(at, names, values, check);
    let source = AccessSource {
        principals: of(
            ["principals", "notPrincipals"],
            [principals, not_principals],
            any,
        ),
        request_principals: of(
            ["requestPrincipals", "notRequestPrincipals"],
            [request_principals, not_request_principals],
            any,
        ),
        namespaces: of(
            ["namespaces", "notNamespaces"],
            [namespaces, not_namespaces],
            any,
        ),
        service_accounts: service_accounts(
            at,
            ["serviceAccounts", "notServiceAccounts"],
            [accounts, not_service_accounts],
        ),
        trust_domains: of(
            ["trustDomains", "notTrustDomains"],
            [trust_domains, not_trust_domains],
            trust_domain,
        ),
        ip_blocks: of(
            ["ipBlocks", "notIpBlocks"],
            [ip_blocks, not_ip_blocks],
            ip_block,
        ),
        remote_ip_blocks: of(
            ["remoteIpBlocks", "notRemoteIpBlocks"],
            [remote_ip_blocks, not_remote_ip_blocks],
            ip_block,
        ),
    };
    if source == AccessSource::default() {
        at.error("is empty: say who is meant, or remove the entry to mean everybody");
    }
    let by_account = !source.service_accounts.is_empty();
    let otherwise = !source.principals.is_empty() || !source.namespaces.is_empty();
    if by_account && otherwise {
        at.field("serviceAccounts")
            .error("cannot stand beside principals or namespaces: keep one of them");
    }
    if custom {
        let by_identity: [(&'static str, &ValueSet); 5] = [
            ("principals", &source.principals),
            ("requestPrincipals", &source.request_principals),
            ("namespaces", &source.namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("trustDomains", &source.trust_domains),
        ];
        for (field, set) in by_identity {
            if !set.is_empty() {
                at.field(field)
                    .error("cannot be used with the action CUSTOM: callers are not known yet when the provider is asked");
            }
        }
    }
    source
}

fn operation_of(message: pb::Operation, at: At<'_>) -> AccessOperation {
    let pb::Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    } = message;
    let operation = AccessOperation {
        hosts: set(at, ["hosts", "notHosts"], [hosts, not_hosts], any),
        ports: set(at, ["ports", "notPorts"], [ports, not_ports], port),
        methods: set(at, ["methods", "notMethods"], [methods, not_methods], any),
        paths: set(at, ["paths", "notPaths"], [paths, not_paths], path),
    };
    if operation == AccessOperation::default() {
        at.error("is empty: say what is meant, or remove the entry to mean everything");
    }
    operation
}

/// Texts as the model keeps them.
pub(super) fn shared(list: Vec<String>) -> Vec<Arc<str>> {
    list.into_iter().map(Into::into).collect()
}
