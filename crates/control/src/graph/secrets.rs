//! Which secrets a proxy may have: those that its gateways and `DestinationRules` name, of its own
//! namespace. Must never know what is in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::secret::AUTHORITIES;
use weft_model::{
    CredentialName, Gateway, Namespace, ProviderKind, Secret, ServerIdentity, TlsTermination,
};
use weft_xds::TypeUrl;

use super::clusters::chosen;
use super::gateway::{read_ports, type_view};
use super::key::GatewayClass;
use super::value::Value;
use super::{Cx, Key, Scope, Shard, contain, read, telemetry};
use crate::emit::{Chunk, Emitted, Fault, origins};
use crate::generate::gateways::{BoundServer, GatewayPort};
use crate::generate::secrets;
use crate::node::ProxyKind;

fn find(cx: &mut Cx<'_, '_>, namespace: &Namespace, name: &str) -> Option<Arc<Secret>> {
    read!(cx, Key::Secret(namespace.clone(), name.into()), Secret)
}

/// What proxies of a namespace get for a name. A name of authorities means a secret of that very
/// name, else one without the ending.
fn resource(cx: &mut Cx<'_, '_>, namespace: &Namespace, name: &CredentialName) -> Option<Emitted> {
    let (own, secret) = name.secret();
    if let (true, Some(own)) = (name.is_config_map(), &own) {
        // Authorities are no secret: as in Istio, they are for every namespace.
        let short = secret.strip_suffix(AUTHORITIES).unwrap_or(secret);
        let key = Key::ConfigMap(own.clone(), short.into());
        return secrets::authorities(name, &*read!(cx, key, Secret)?);
    }
    // Whose namespace it is not gets nothing: keys do not travel between tenants.
    if own.is_some_and(|own| own != *namespace) {
        return None;
    }
    match secret.strip_suffix(AUTHORITIES) {
        Some(short) => {
            let found = find(cx, namespace, secret).or_else(|| find(cx, namespace, short))?;
            secrets::authorities(name, &found)
        }
        None => secrets::pair(name, &*find(cx, namespace, secret)?),
    }
}

pub(super) fn credential(
    cx: &mut Cx<'_, '_>,
    namespace: &Namespace,
    name: &CredentialName,
) -> Value {
    let made = resource(cx, namespace, name);
    contain::chunk(cx, &TypeUrl::SECRET, made.into_iter().collect())
}

/// What workloads of a service account get for themselves, if the control plane makes their keys.
pub(super) fn workload(cx: &mut Cx<'_, '_>, namespace: &Namespace, account: &Arc<str>) -> Value {
    let key = Key::Svid(namespace.clone(), Arc::clone(account));
    let svid = read!(cx, key, Svid);
    let mesh = cx.mesh();
    let made = svid
        .iter()
        .flat_map(|svid| [secrets::own(svid), secrets::roots(svid, &mesh)]);
    Value::Chunk(made.collect())
}

/// The credentials that the `DestinationRules` for a shard name. As in Istio, those of sidecars
/// count only in rules for some workloads, which their own namespace wrote for them.
pub(super) fn of_shard(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    kind: ProxyKind,
    shard: Shard,
) -> Value {
    let mut names = BTreeSet::new();
    for (_, rules) in chosen(cx, scope, shard)
        .iter()
        .filter(|(_, rules)| !rules.is_empty())
    {
        let Some(rule) = cx.policies(rules).rule else {
            continue;
        };
        let for_all = kind == ProxyKind::Sidecar && rule.selector.is_none();
        let usable = rule
            .credentials()
            .filter(|(name, _)| !name.is_for_gateways())
            .filter(|(name, _)| !for_all || name.is_config_map());
        for (name, mutual) in usable.filter(|(name, _)| !name.is_built_in()) {
            names.insert(name.here().authorities());
            names.extend(mutual.then(|| name.here()));
        }
    }
    Value::Credentials(Arc::new(names))
}

/// The credentials that a server names and may use.
fn of_server<'a>(
    gateway: &Gateway,
    termination: Option<&'a TlsTermination>,
    namespace: &Namespace,
) -> impl Iterator<Item = &'a CredentialName> {
    let trusted = gateway.meta.origin.namespace == *namespace;
    let named = match termination.map(|t| &t.identity) {
        Some(ServerIdentity::Credentials { pairs, authorities }) => {
            Some(pairs.iter().chain(authorities))
        }
        _ => None,
    };
    let named = named.into_iter().flatten();
    named.filter(move |name| trusted || !name.is_for_gateways())
}

/// All secrets for the proxies of a scope, and of a gateway class.
pub(super) fn view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    kind: ProxyKind,
    class: Option<&Arc<GatewayClass>>,
    account: Option<&Arc<str>>,
) -> Value {
    let mut names = BTreeSet::new();
    // Sidecars have credentials only by rules for some workloads, and most have no such rule.
    let may_name = match kind {
        ProxyKind::Gateway => true,
        ProxyKind::Sidecar => {
            let maps = read!(cx, Key::NamedConfigMaps, LabelKeys);
            !scope.rules.is_empty() || maps.is_some_and(|maps| !maps.is_empty())
        }
        ProxyKind::Grpc => false,
    };
    if may_name {
        for shard in Shard::all() {
            let key = Key::ShardCredentials(Arc::clone(scope), kind, shard);
            let of_shard = read!(cx, key, Credentials).unwrap_or_default();
            names.extend(of_shard.iter().cloned());
        }
    }
    if let Some(class) = class {
        for bound in read_ports(cx, class)
            .values()
            .flat_map(GatewayPort::servers)
        {
            let termination = bound.server().termination();
            let own = of_server(&bound.gateway, termination, &scope.namespace);
            names.extend(own.filter(|n| !n.is_built_in()).map(CredentialName::here));
        }
    }
    let namespace = &scope.namespace;
    let chunks = names
        .into_iter()
        .map(|name| cx.chunk(&Key::Credential(namespace.clone(), name)));
    let mut chunks: Vec<Chunk> = chunks.collect();
    if let Some(account) = account {
        let key = Key::WorkloadSecrets(namespace.clone(), Arc::clone(account));
        chunks.push(cx.chunk(&key));
    }
    type_view(cx, &TypeUrl::SECRET, chunks)
}

/// The mesh's server of credentials for gateways, by cluster and host: the first of them counts. One
/// that they do not see is none.
pub(super) fn provider(cx: &mut Cx<'_, '_>, class: &GatewayClass) -> Option<(String, String)> {
    let mesh = cx.mesh();
    let mut services = mesh.providers.iter().filter_map(|p| match &p.kind {
        ProviderKind::Secrets(service) => Some(service),
        _ => None,
    });
    let found = telemetry::upstream(cx, &class.reader.scope, services.next()?).ok()?;
    Some((found.cluster, found.host))
}

/// Secrets that the servers of a port name and that are not there for this gateway.
pub(super) fn missing(cx: &mut Cx<'_, '_>, class: &GatewayClass, port: &GatewayPort) -> Vec<Fault> {
    let namespace = &class.reader.scope.namespace;
    let mut faults = Vec::new();
    let elsewhere = class.credential_socket || provider(cx, class).is_some();
    for BoundServer { gateway, index } in port.servers() {
        let termination = gateway.servers.get(*index).and_then(|s| s.termination());
        let Some(ServerIdentity::Credentials { pairs, authorities }) =
            termination.map(|t| &t.identity)
        else {
            continue;
        };
        let usable: BTreeSet<&CredentialName> =
            of_server(gateway, termination, namespace).collect();
        for name in pairs.iter().chain(authorities) {
            if name.is_built_in() || elsewhere && name.elsewhere().is_some() {
                continue;
            }
            let there = usable.contains(name)
                && !cx
                    .chunk(&Key::Credential(namespace.clone(), name.here()))
                    .is_empty();
            if !there {
                let what = if name.is_authorities() {
                    "authorities"
                } else {
                    "a certificate and key"
                };
                let message = format!(
                    "servers[{index}].tls: no Secret in namespace {namespace} has {what} for {name}: connections to this server fail until there is one"
                );
                faults.push(Fault {
                    message: message.into(),
                    origins: origins([gateway.meta.origin.clone()]),
                });
            }
        }
    }
    faults
}
