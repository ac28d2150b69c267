//! Security rules by workload, namespace and service: which hold, and what they make. Must never
//! know listeners or clusters.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::provider::AuthorizationProvider;
use weft_model::{
    AuthorizationPolicy, Labels, MutualTlsMode, Namespace, ObjectRef, PeerAuthentication,
    PeerModes, RequestAuthentication, Service, ServiceEndpoints, ServiceKey,
};

use super::key::PolicyRefs;
use super::value::Value;
use super::{Cx, Key, read};
use crate::emit::{Fault, origins};
use crate::generate::access::{self, Guard};
use crate::generate::peers::{Accounts, Peers, Servers};
use crate::generate::{names, tokens};

/// Rules of a namespace, in order of precedence.
type PeerRules = Arc<[Arc<PeerAuthentication>]>;

fn peer_rules(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> PeerRules {
    read!(cx, Key::PeerAuthentications(namespace.clone()), Peers).unwrap_or_default()
}

/// Rules of the root namespace, and of a namespace if it is another one.
fn peer_rules_for(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> (PeerRules, Option<PeerRules>) {
    let root = cx.mesh().root_namespace.clone();
    let mesh = peer_rules(cx, &root);
    let own = (root != *namespace).then(|| peer_rules(cx, namespace));
    (mesh, own)
}

/// What connections a workload takes.
pub(super) fn modes(cx: &mut Cx<'_, '_>, namespace: &Namespace, labels: &Labels) -> PeerModes {
    let (mesh, own) = peer_rules_for(cx, namespace);
    PeerModes::of_workload(&mesh, own.as_deref(), labels)
}

pub(super) fn namespace_mode(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> Value {
    let (mesh, own) = peer_rules_for(cx, namespace);
    Value::Mode(PeerModes::of_namespace(&mesh, own.as_deref()))
}

pub(super) fn accounts(cx: &mut Cx<'_, '_>, service: &ServiceKey) -> Value {
    let endpoints = cx.endpoints(service);
    let accounts = endpoints.map(|endpoints| Accounts::of(&endpoints));
    Value::Accounts(Arc::new(accounts.unwrap_or_default()))
}

/// What clients assume of the servers of a service.
pub(super) fn servers(cx: &mut Cx<'_, '_>, service: &Service) -> Servers {
    let mode: Option<MutualTlsMode> =
        read!(cx, Key::NamespaceMode(service.namespace.clone()), Mode);
    let accounts: Option<Arc<Accounts>> = read!(cx, Key::Accounts(service.key()), Accounts);
    Servers {
        mode: mode.unwrap_or_default(),
        accounts: accounts.map(|a| (*a).clone()).unwrap_or_default(),
    }
}

/// The rules for the workloads behind endpoints.
pub(super) fn peers(cx: &mut Cx<'_, '_>, endpoints: Option<&ServiceEndpoints>) -> Peers {
    let list = endpoints.map_or(&[][..], |e| &e.endpoints);
    let namespaces: BTreeSet<&Namespace> = list.iter().map(|e| &e.namespace).collect();
    let root = cx.mesh().root_namespace.clone();
    Peers {
        mesh: peer_rules(cx, &root),
        own: namespaces
            .into_iter()
            .map(|namespace| (namespace.clone(), peer_rules(cx, namespace)))
            .collect(),
        root: Some(root),
    }
}

fn policies(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> Arc<[Arc<AuthorizationPolicy>]> {
    read!(cx, Key::AuthorizationPolicies(namespace.clone()), Access).unwrap_or_default()
}

fn token_rules(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> Arc<[Arc<RequestAuthentication>]> {
    read!(cx, Key::RequestAuthentications(namespace.clone()), Tokens).unwrap_or_default()
}

/// Those that hold for a workload: policies of the root namespace and its own, and rules for tokens
/// the other way round, as istiod lists them.
pub(super) fn policies_for(
    cx: &mut Cx<'_, '_>,
    namespace: &Namespace,
    labels: &Labels,
) -> PolicyRefs {
    let root = cx.mesh().root_namespace.clone();
    let mut out: Vec<ObjectRef> = Vec::new();
    let mut places = vec![&root];
    if *namespace != root {
        places.push(namespace);
    }
    for place in &places {
        let all = policies(cx, place);
        let chosen = all.iter().filter(|p| p.selector.selects(labels));
        out.extend(chosen.map(|p| p.meta.origin.clone()));
    }
    for place in places.iter().rev() {
        let all = token_rules(cx, place);
        let chosen = all.iter().filter(|r| r.selector.selects(labels));
        out.extend(chosen.map(|r| r.meta.origin.clone()));
    }
    out.into()
}

/// The filters of policies.
pub(super) fn read_guard(cx: &mut Cx<'_, '_>, policies: &PolicyRefs, gateway: bool) -> Arc<Guard> {
    if policies.is_empty() {
        return Arc::default();
    }
    read!(cx, Key::Guard(Arc::clone(policies), gateway), Guard).unwrap_or_default()
}

pub(super) fn guard(cx: &mut Cx<'_, '_>, refs: &PolicyRefs, gateway: bool) -> Value {
    let mut chosen = Vec::new();
    let mut tokens_of = Vec::new();
    for origin in refs.iter() {
        let all = policies(cx, &origin.namespace);
        chosen.extend(all.iter().find(|p| p.meta.origin == *origin).cloned());
        let all = token_rules(cx, &origin.namespace);
        tokens_of.extend(all.iter().find(|r| r.meta.origin == *origin).cloned());
    }
    let mesh = cx.mesh();
    let mut named = BTreeSet::new();
    for policy in &chosen {
        if let weft_model::AccessAction::Custom(name) = &policy.action {
            named.insert(Arc::clone(name));
        }
    }
    let mut clusters = std::collections::BTreeMap::new();
    for name in named {
        if let Some(provider) = mesh.authorization_provider(&name) {
            clusters.insert(name, (provider, cluster_of(cx, provider)));
        }
    }
    let made = access::filters(&mesh, &chosen, |name| clusters.get(name).cloned());
    let from = origins(refs.iter().cloned());
    let faults = made.problems.into_iter().map(|message| Fault {
        message: message.into(),
        origins: origins(chosen.iter().filter_map(|policy| {
            let custom = matches!(policy.action, weft_model::AccessAction::Custom(_));
            custom.then(|| policy.meta.origin.clone())
        })),
    });
    let mut faults: Vec<Fault> = faults.collect();
    let mut fetched = std::collections::BTreeMap::new();
    for rule in &tokens_of {
        for (place, _) in rule.places() {
            let keys: Option<Arc<str>> = read!(cx, Key::TokenKeys(place.clone()), Text);
            if keys.is_none() {
                faults.push(Fault {
                    message: format!("no keys from {place} yet: tokens are refused").into(),
                    origins: origins([rule.meta.origin.clone()]),
                });
            }
            fetched.extend(keys.map(|keys| (place.clone(), keys)));
        }
    }
    let tokens = tokens::filter(&tokens_of, &fetched, gateway);
    let rpc = made.custom_tcp.clone();
    let calls = tokens.iter().chain(&made.http).cloned().collect();
    let mut http = made.custom_http;
    http.extend(tokens);
    http.extend(made.http);
    let mut tcp = made.custom_tcp;
    tcp.extend(made.tcp);
    Value::Guard(Arc::new(Guard {
        http,
        tcp,
        rpc,
        calls,
        origins: from.iter().cloned().collect(),
        faults,
    }))
}

/// The cluster that leads to a provider.
fn cluster_of(cx: &mut Cx<'_, '_>, provider: &AuthorizationProvider) -> Result<String, String> {
    let service = &provider.service;
    let owner = cx.provider_service(service)?;
    Ok(names::outbound(service.port, "", &owner.hostname))
}
