//! Which Telemetry objects hold for a proxy, and what its listeners report. Must never know
//! listeners.

use std::sync::Arc;

use weft_model::provider::{Provider, ProviderKind, ProviderService};
use weft_model::{CallSide, MeshSettings, ObjectRef, ProxySettings, Telemetry};

use super::key::{Observer, ProxyFacts};
use super::value::Value;
use super::{Cx, Scope};
use crate::emit::Fault;
use crate::generate::dynamic::Resolver;
use crate::generate::http::Setup;
use crate::generate::names;
use crate::generate::reporting::{Reporter, Reporting, SpanIdentity, Upstream};
use crate::generate::virtual_hosts::RouteHeaders;
use crate::node::ProxyKind;

/// What the listeners of a proxy report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reports {
    client: Reporting,
    server: Reporting,
    /// What is left out, and why.
    pub(super) faults: Arc<[Fault]>,
    /// Who looks up unknown hosts that requests of the workload name.
    resolver: Option<Resolver>,
}

impl Reports {
    /// What listeners of a side are made with.
    pub(super) fn setup<'a>(
        &'a self,
        mesh: &'a MeshSettings,
        observer: &'a Observer,
        side: CallSide,
    ) -> Setup<'a> {
        Setup {
            mesh,
            proxy: &observer.proxy,
            rules: &observer.rules,
            reporting: match side {
                CallSide::Server => &self.server,
                CallSide::Client | CallSide::Both => &self.client,
            },
            resolver: self.resolver.filter(|_| side != CallSide::Server),
        }
    }
}

fn settings(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Arc<ProxySettings> {
    let mesh = Arc::clone(&cx.mesh().proxy);
    match &facts.settings {
        None => mesh,
        // As in Istio these alone are the mesh's where the proxy's own settings are silent.
        Some(own) if own.connection.is_none() && mesh.connection.is_some() => {
            Arc::new(ProxySettings {
                connection: mesh.connection.clone(),
                ..ProxySettings::clone(own)
            })
        }
        Some(own) => Arc::clone(own),
    }
}

/// Headers that routes add for a proxy. gRPC clients add none.
pub(super) fn route_headers(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> RouteHeaders {
    if facts.kind == ProxyKind::Grpc {
        return RouteHeaders::default();
    }
    let settings = settings(cx, facts);
    RouteHeaders::of(&settings)
}

/// With whom a proxy shares its reports.
pub(super) fn observer(
    cx: &mut Cx<'_, '_>,
    facts: &ProxyFacts,
    scope: &Arc<Scope>,
) -> Arc<Observer> {
    let mesh = cx.mesh();
    let rules = rules(cx, &mesh, facts);
    let proxy = settings(cx, facts);
    Arc::new(Observer {
        scope: Arc::clone(scope),
        gateway: facts.kind == ProxyKind::Gateway,
        identity: identity(&mesh, facts, &proxy, &rules),
        proxy,
        rules: rules.iter().map(|rule| rule.meta.origin.clone()).collect(),
    })
}

/// The oldest rule for the whole root namespace, that of the proxy's namespace, then all of its
/// namespace that choose its workload.
fn rules(cx: &mut Cx<'_, '_>, mesh: &MeshSettings, facts: &ProxyFacts) -> Vec<Arc<Telemetry>> {
    let whole = |list: &[Arc<Telemetry>]| {
        let mut all = list.iter();
        all.find(|rule| rule.selector.is_none()).cloned()
    };
    let mut found = Vec::new();
    found.extend(whole(&cx.telemetries(&mesh.root_namespace)));
    let own = cx.telemetries(&facts.namespace);
    if facts.namespace != mesh.root_namespace {
        found.extend(whole(&own));
    }
    let chosen = own.iter().filter(|rule| {
        let selector = rule.selector.as_ref();
        selector.is_some_and(|selector| selector.selects(&facts.labels))
    });
    found.extend(chosen.cloned());
    found
}

/// As much of a proxy's identity as some span shows, so that proxies share what they can: nothing
/// where spans are only there by default. Nobody collects those, unless a proxy's bootstrap says
/// where; such a proxy says so under `PROXY_CONFIG`, too.
fn identity(
    mesh: &MeshSettings,
    facts: &ProxyFacts,
    proxy: &ProxySettings,
    rules: &[Arc<Telemetry>],
) -> Option<SpanIdentity> {
    let set_up = match mesh.tracing {
        Some(said) => said,
        None => proxy.tracing.is_some(),
    };
    let spans = set_up
        || !mesh.default_providers.tracing.is_empty()
        || rules.iter().any(|rule| !rule.tracing.is_empty());
    if !spans {
        return None;
    }
    let kind = |wanted: fn(&ProviderKind) -> bool| {
        mesh.providers.iter().any(|p: &Provider| wanted(&p.kind))
    };
    let mut identity = facts.spans.clone();
    if !kind(|kind| matches!(kind, ProviderKind::OpenTelemetry(said) if said.semantic_names)) {
        identity.workload = Arc::default();
    }
    if !kind(|kind| {
        matches!(
            kind,
            ProviderKind::OpenTelemetry(_) | ProviderKind::Datadog(_)
        )
    }) {
        identity.cluster = Arc::default();
    }
    Some(identity)
}

/// What the listeners of these proxies report.
pub(super) fn reports(cx: &mut Cx<'_, '_>, observer: &Observer) -> Value {
    let mesh = cx.mesh();
    let resolver = cx.unknown(&observer.scope).resolver();
    let rules: Vec<Arc<Telemetry>> = observer
        .rules
        .iter()
        .filter_map(|origin| telemetry(cx, origin))
        .collect();
    let reporter = Reporter {
        mesh: &mesh,
        proxy: &observer.proxy,
        identity: observer.identity.as_ref(),
        gateway: observer.gateway,
        rules: &rules,
    };
    let mut lookup = |service: &ProviderService| upstream(cx, &observer.scope, service);
    let mut faults = Vec::new();
    let client = reporter.report(CallSide::Client, &mut lookup, &mut faults);
    let server = if observer.gateway {
        Reporting::default()
    } else {
        reporter.report(CallSide::Server, &mut lookup, &mut faults)
    };
    let mut told: Vec<Fault> = Vec::new();
    for fault in faults {
        if !told.contains(&fault) {
            told.push(fault);
        }
    }
    Value::Reports(Arc::new(Reports {
        client,
        server,
        faults: told.into(),
        resolver: resolver.filter(|_| !observer.gateway),
    }))
}

fn telemetry(cx: &mut Cx<'_, '_>, origin: &ObjectRef) -> Option<Arc<Telemetry>> {
    let all = cx.telemetries(&origin.namespace);
    all.iter().find(|rule| rule.meta.origin == *origin).cloned()
}

/// The cluster of a provider. Envoy refuses a listener whose collector it does not know: one that the
/// proxies do not see counts as none.
pub(super) fn upstream(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    service: &ProviderService,
) -> Result<Upstream, String> {
    cx.provider_service(service)?;
    let ProviderService { host, port, .. } = service;
    let Some(seen) = cx.visible_service(scope, host) else {
        return Err(format!(
            "the service {host} is not visible to the proxies that are to report to it"
        ));
    };
    let speaks = |port: &weft_model::ServicePort| port.protocol != weft_model::Protocol::Udp;
    if !seen.port(*port).is_some_and(speaks) {
        return Err(format!(
            "the service {host} has no port {port} for TCP: proxies do not report by UDP"
        ));
    }
    Ok(Upstream {
        host: host.to_string(),
        cluster: names::outbound(*port, "", host),
    })
}
