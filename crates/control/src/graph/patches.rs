//! Which patches hold for a proxy, and views with them. Proxies for which the same patches hold
//! share what is patched; a proxy without patches never comes here. Must never know how a patch
//! is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::{
    EnvoyFilter, EnvoyPatch, Labels, Namespace, ObjectRef, PatchContext, PatchTarget,
    ProxyCondition, Timestamp,
};
use weft_proto::regex;
use weft_xds::TypeUrl;

use super::key::{OwnPatches, PatchClass, ProxyFacts};
use super::value::Value;
use super::{Cx, Key, read};
use crate::emit::{Chunk, Emitted, TypeView};
use crate::node::ProxyKind;
use crate::patch::{self, Chosen, HostMemo, Outcome, Plan, Ports, Workloads};

/// Kinds of resources, each on the sides of a proxy, that a filter has patches of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Areas(u16);

impl Areas {
    const CLUSTERS: u16 = 0b111;
    const LISTENERS: u16 = 0b111 << 3;
    const ROUTES: u16 = 0b111 << 6;
    const EXTENSIONS: Self = Self(1 << 9);
    const INBOUND: u16 = 0b001_001_001;
    const OUTBOUND: u16 = 0b010_010_010;
    const GATEWAY: u16 = 0b100_100_100;

    fn of(patch: &EnvoyPatch) -> Self {
        use PatchTarget as T;
        let kind = match patch.target {
            T::Cluster => Self::CLUSTERS,
            T::Listener | T::ListenerFilter | T::FilterChain | T::NetworkFilter | T::HttpFilter => {
                Self::LISTENERS
            }
            T::RouteConfiguration | T::VirtualHost | T::HttpRoute => Self::ROUTES,
            T::ExtensionConfig => return Self::EXTENSIONS,
        };
        let side = match patch.context {
            PatchContext::Any => Self::INBOUND | Self::OUTBOUND | Self::GATEWAY,
            PatchContext::SidecarInbound => Self::INBOUND,
            PatchContext::SidecarOutbound => Self::OUTBOUND,
            PatchContext::Gateway => Self::GATEWAY,
        };
        Self(kind & side)
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What is to be known of a filter to choose it without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterFacts {
    origin: ObjectRef,
    created: Option<Timestamp>,
    priority: i32,
    selector: Option<Labels>,
    areas: Areas,
    /// Whether a patch asks for the proxy's version.
    by_version: bool,
    /// Entries of the proxy's metadata that patches ask for.
    metadata: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl FilterFacts {
    pub(crate) fn of(filter: &EnvoyFilter) -> Self {
        let patches = filter.patches.iter();
        let areas = patches.clone().fold(0, |all, p| all | Areas::of(p).0);
        Self {
            origin: filter.meta.origin.clone(),
            created: filter.meta.created,
            priority: filter.priority,
            selector: filter.selector.clone(),
            areas: Areas(areas),
            by_version: patches.clone().any(|p| p.proxies.version.is_some()),
            metadata: patches
                .flat_map(|p| p.proxies.metadata.iter())
                .map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
                .collect(),
        }
    }
}

/// The patches of a proxy, by what they are for; mostly none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OfProxy {
    pub(super) clusters: Option<Arc<PatchClass>>,
    pub(super) listeners: Option<Arc<PatchClass>>,
    pub(super) routes: Option<Arc<PatchClass>>,
    pub(super) own_clusters: Option<Arc<PatchClass>>,
    /// Routes that are written into listeners too.
    pub(super) own_listeners: Option<Arc<PatchClass>>,
    pub(super) extensions: Option<Arc<PatchClass>>,
}

fn facts_of(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> Arc<[FilterFacts]> {
    read!(cx, Key::EnvoyFilters(namespace.clone()), EnvoyFilters).unwrap_or_default()
}

/// The filters that select a proxy in the order in which they are applied: by priority; those of
/// the root namespace first; the older one first; by name.
fn chosen(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Vec<FilterFacts> {
    let root = cx.mesh().root_namespace.clone();
    let of_root = facts_of(cx, &root);
    let own = if facts.namespace == root {
        Arc::default()
    } else {
        facts_of(cx, &facts.namespace)
    };
    let selects = |filter: &&FilterFacts| {
        let selector = filter.selector.as_ref();
        selector.is_none_or(|selector| selector.selects(&facts.labels))
    };
    let mut all: Vec<FilterFacts> = of_root
        .iter()
        .chain(own.iter())
        .filter(selects)
        .cloned()
        .collect();
    all.sort_by_cached_key(|filter| {
        let origin = &filter.origin;
        (
            filter.priority,
            origin.namespace != root,
            filter.created,
            format!("{}.{}", origin.name, origin.namespace),
        )
    });
    all
}

pub(super) fn of_proxy(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> OfProxy {
    if facts.kind == ProxyKind::Grpc {
        return OfProxy::default();
    }
    let all = chosen(cx, facts);
    if all.is_empty() {
        return OfProxy::default();
    }
    let mut class = |areas: u16| class(cx, facts, &all, Areas(areas));
    if facts.kind == ProxyKind::Gateway {
        return OfProxy {
            clusters: class(Areas::CLUSTERS & Areas::GATEWAY),
            listeners: class(Areas::LISTENERS & Areas::GATEWAY),
            routes: class(Areas::ROUTES & Areas::GATEWAY),
            extensions: class(Areas::EXTENSIONS.0),
            ..OfProxy::default()
        };
    }
    OfProxy {
        // Among a class's clusters are some for calls that come in.
        clusters: class(Areas::CLUSTERS & (Areas::INBOUND | Areas::OUTBOUND)),
        listeners: class(Areas::LISTENERS & Areas::OUTBOUND),
        routes: class(Areas::ROUTES & Areas::OUTBOUND),
        own_clusters: class(Areas::CLUSTERS & Areas::INBOUND),
        own_listeners: class((Areas::LISTENERS | Areas::ROUTES) & Areas::INBOUND),
        extensions: class(Areas::EXTENSIONS.0),
    }
}

/// The class of a proxy for some resources; none if no patch holds.
fn class(
    cx: &mut Cx<'_, '_>,
    facts: &ProxyFacts,
    all: &[FilterFacts],
    areas: Areas,
) -> Option<Arc<PatchClass>> {
    let filters: Vec<&FilterFacts> = all.iter().filter(|f| f.areas.meets(areas)).collect();
    if filters.is_empty() {
        return None;
    }
    let by_version = filters.iter().any(|filter| filter.by_version);
    // Other values are alike for the patches, so that proxies which differ in them share a class.
    let asked = filters.iter().flat_map(|filter| &filter.metadata);
    let has = |(key, value): &&(Arc<str>, Arc<str>)| {
        let own = facts.metadata.get(&**key);
        own.is_some_and(|own| own.as_str() == &**value)
    };
    let class = Arc::new(PatchClass {
        filters: filters.iter().map(|filter| filter.origin.clone()).collect(),
        areas,
        version: facts.version.clone().filter(|_| by_version),
        metadata: asked.filter(has).cloned().collect(),
    });
    let plan = read_plan(cx, &class);
    (!plan.0.is_empty()).then_some(class)
}

fn read_plan(cx: &mut Cx<'_, '_>, class: &Arc<PatchClass>) -> Arc<Plan> {
    read!(cx, Key::PatchPlan(Arc::clone(class)), PatchPlan).unwrap_or_default()
}

/// The patches that hold for a class.
pub(super) fn plan(cx: &mut Cx<'_, '_>, class: &PatchClass) -> Value {
    let mut plan = Plan::default();
    for origin in class.filters.iter() {
        let Some(filter) = read!(cx, Key::EnvoyFilter(origin.clone()), EnvoyFilter) else {
            continue;
        };
        for (index, patch) in filter.patches.iter().enumerate() {
            if Areas::of(patch).meets(class.areas) && is_for(&patch.proxies, class) {
                plan.0.push(Chosen {
                    filter: Arc::clone(&filter),
                    index,
                });
            }
        }
    }
    Value::PatchPlan(Arc::new(plan))
}

fn is_for(condition: &ProxyCondition, class: &PatchClass) -> bool {
    let version = condition.version.as_ref().is_none_or(|pattern| {
        // Sources let only expressions through that compile.
        let pattern = regex::compile(pattern).ok();
        let version = class.version.as_ref();
        pattern
            .zip(version)
            .is_some_and(|((pattern, _), version)| pattern.is_match(version.as_bytes()))
    });
    let mut entries = condition.metadata.iter();
    version && entries.all(|(key, value)| class.metadata.get(key) == Some(value))
}

/// A view with patches, and from what it was made: what did not change is not patched again.
#[derive(Clone, Debug)]
pub(crate) struct PatchedView {
    view: Arc<TypeView>,
    plan: Arc<Plan>,
    ports: Ports,
    inputs: Arc<[Chunk]>,
    /// What became of each resource of each chunk.
    outcomes: Vec<Outcomes>,
    hosts: BTreeMap<Arc<str>, Arc<HostMemo>>,
}

/// In the order of a chunk; nothing for what was taken away.
type Outcomes = Arc<[Option<Emitted>]>;

impl PartialEq for PatchedView {
    fn eq(&self, other: &Self) -> bool {
        self.view == other.view
    }
}

/// Reads a view, with the patches of a class if there is one.
pub(super) fn read_view(
    cx: &mut Cx<'_, '_>,
    class: Option<&Arc<PatchClass>>,
    key: Key,
) -> Option<Arc<TypeView>> {
    let Some(class) = class else {
        return read!(cx, key, TypeView);
    };
    let key = Key::PatchedView(Arc::clone(class), Arc::new(key));
    read!(cx, key, PatchedView).map(|patched| Arc::clone(&patched.view))
}

/// Of what a view is.
#[derive(Clone, Copy)]
enum Of {
    Clusters { gateway: bool },
    Listeners(PatchContext),
    Routes(PatchContext),
}

fn kind_of(key: &Key) -> Option<Of> {
    Some(match key {
        Key::ClusterView(_, client, _) => Of::Clusters {
            gateway: client.kind == ProxyKind::Gateway,
        },
        Key::OutboundListeners(..) => Of::Listeners(PatchContext::SidecarOutbound),
        Key::GatewayListeners(..) => Of::Listeners(PatchContext::Gateway),
        Key::OutboundRoutes(..) => Of::Routes(PatchContext::SidecarOutbound),
        Key::GatewayRoutes(_) => Of::Routes(PatchContext::Gateway),
        _ => return None,
    })
}

/// Which servers' ports the bound ports of a gateway stand for.
fn ports(cx: &mut Cx<'_, '_>, key: &Key) -> Ports {
    let Key::GatewayRoutes(class) = key else {
        return Ports::new();
    };
    let all = read!(cx, Key::GatewayPorts(Arc::clone(class)), GatewayPorts).unwrap_or_default();
    let mut ports = Ports::new();
    for port in all.values() {
        let routed = port.slots.iter().filter(|slot| slot.route.is_some());
        let servers = routed.flat_map(|slot| &slot.servers);
        let numbers = servers.map(|bound| u32::from(bound.server().port.get()));
        ports.entry(port.bound.into()).or_default().extend(numbers);
    }
    ports
}

/// A view with the patches of a class.
pub(super) fn view(cx: &mut Cx<'_, '_>, class: &Arc<PatchClass>, inner: &Arc<Key>) -> Value {
    let plan = read_plan(cx, class);
    let ports = ports(cx, inner);
    let before = match cx.previous() {
        Some(Value::PatchedView(before)) => Some(before),
        _ => None,
    };
    let unpatched = read!(cx, **inner, TypeView);
    let inputs = unpatched.map_or_else(|| Arc::from([]), |view| Arc::clone(&view.chunks));
    let of = kind_of(inner);
    let same = before
        .as_ref()
        .filter(|before| *before.plan == *plan && before.ports == ports);
    let mut hosts = BTreeMap::new();
    let mut chunks: Vec<Chunk> = Vec::with_capacity(inputs.len() + 1);
    let mut outcomes = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        let known = same.and_then(|before| Known::of(before, index));
        if let Some(known) = known.filter(|known| Arc::ptr_eq(known.input, input)) {
            known.keep(&mut hosts);
            chunks.push(Arc::clone(known.chunk));
            outcomes.push(Arc::clone(known.outcomes));
        } else {
            let patched = chunk(&plan, of, &ports, input, known, &mut hosts);
            chunks.push(patched.iter().flatten().cloned().collect());
            outcomes.push(patched);
        }
    }
    let type_url = match of {
        Some(Of::Clusters { gateway }) => {
            let context = if gateway {
                PatchContext::Gateway
            } else {
                PatchContext::SidecarOutbound
            };
            chunks.push(patch::added_clusters(&plan, context).into());
            TypeUrl::CLUSTER
        }
        Some(Of::Listeners(context)) => {
            chunks.push(patch::added_listeners(&plan, context).into());
            TypeUrl::LISTENER
        }
        Some(Of::Routes(_)) | None => TypeUrl::ROUTE,
    };
    let last = before.as_ref().map(|before| &*before.view);
    Value::PatchedView(Arc::new(PatchedView {
        view: Arc::new(TypeView::build(&type_url, chunks, last)),
        plan,
        ports,
        inputs,
        outcomes,
        hosts,
    }))
}

/// A chunk the last time.
#[derive(Clone, Copy)]
struct Known<'a> {
    input: &'a Chunk,
    outcomes: &'a Outcomes,
    chunk: &'a Chunk,
    hosts: &'a BTreeMap<Arc<str>, Arc<HostMemo>>,
}

impl<'a> Known<'a> {
    fn of(before: &'a PatchedView, index: usize) -> Option<Self> {
        Some(Self {
            input: before.inputs.get(index)?,
            outcomes: before.outcomes.get(index)?,
            chunk: before.view.chunks.get(index)?,
            hosts: &before.hosts,
        })
    }

    fn keep(&self, hosts: &mut BTreeMap<Arc<str>, Arc<HostMemo>>) {
        for emitted in self.input.iter() {
            let name = &emitted.resource.name;
            let memo = self.hosts.get(name);
            hosts.extend(memo.map(|memo| (Arc::clone(name), Arc::clone(memo))));
        }
    }
}

/// Patches a chunk. `known` is the same chunk the last time: what is as it was then is taken over.
fn chunk(
    plan: &Plan,
    of: Option<Of>,
    ports: &Ports,
    input: &Chunk,
    known: Option<Known<'_>>,
    hosts: &mut BTreeMap<Arc<str>, Arc<HostMemo>>,
) -> Outcomes {
    let before: ahash::HashMap<&str, (&Emitted, &Option<Emitted>)> = known
        .iter()
        .flat_map(|known| known.input.iter().zip(known.outcomes.iter()))
        .map(|(emitted, outcome)| (&*emitted.resource.name, (emitted, outcome)))
        .collect();
    let mut out = Vec::with_capacity(input.len());
    for emitted in input.iter() {
        let name = &emitted.resource.name;
        let outcome = match of {
            Some(Of::Routes(context)) => {
                let memo = known.and_then(|known| known.hosts.get(name));
                let (outcome, memo) =
                    patch::configuration(plan, context, ports, emitted, memo.map(AsRef::as_ref));
                hosts.insert(Arc::clone(name), Arc::new(memo));
                outcome
            }
            _ => match before.get(&**name) {
                Some((same, outcome)) if *same == emitted => {
                    out.push((*outcome).clone());
                    continue;
                }
                _ => resource(plan, of, emitted),
            },
        };
        out.push(match outcome {
            Outcome::Same => Some(emitted.clone()),
            Outcome::Gone => None,
            Outcome::Patched(patched) => Some(patched),
        });
    }
    out.into()
}

fn resource(plan: &Plan, of: Option<Of>, emitted: &Emitted) -> Outcome {
    match of {
        Some(Of::Clusters { gateway }) => patch::cluster(plan, gateway, &Workloads::new(), emitted),
        Some(Of::Listeners(context)) => patch::listener(plan, context, emitted),
        Some(Of::Routes(_)) | None => Outcome::Same,
    }
}

/// A proxy's own resources with patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatchedOwn {
    pub(crate) clusters: Chunk,
    pub(crate) listeners: Chunk,
}

pub(super) fn own(cx: &mut Cx<'_, '_>, own: &OwnPatches) -> Value {
    let mut patched = PatchedOwn {
        clusters: Arc::clone(&own.own_clusters),
        listeners: Arc::clone(&own.own_listeners),
    };
    let context = PatchContext::SidecarInbound;
    if let Some(class) = &own.clusters {
        let plan = read_plan(cx, class);
        let patch = |e: &Emitted| patch::cluster(&plan, false, &own.workloads, e);
        let added = patch::added_clusters(&plan, context);
        patched.clusters = each(&own.own_clusters, patch, added);
    }
    if let Some(class) = &own.listeners {
        let plan = read_plan(cx, class);
        let patch = |e: &Emitted| patch::listener(&plan, context, e);
        let added = patch::added_listeners(&plan, context);
        patched.listeners = each(&own.own_listeners, patch, added);
    }
    Value::PatchedOwn(Arc::new(patched))
}

fn each(chunk: &Chunk, patch: impl Fn(&Emitted) -> Outcome, added: Vec<Emitted>) -> Chunk {
    let kept = chunk.iter().filter_map(|emitted| match patch(emitted) {
        Outcome::Same => Some(emitted.clone()),
        Outcome::Gone => None,
        Outcome::Patched(patched) => Some(patched),
    });
    let mut all: Vec<Emitted> = kept.collect();
    for emitted in added {
        if all.iter().all(|e| e.resource.name != emitted.resource.name) {
            all.push(emitted);
        }
    }
    all.into()
}

/// The configurations of extensions that proxies of a class may ask for.
pub(super) fn extensions(cx: &mut Cx<'_, '_>, class: &Arc<PatchClass>) -> Value {
    let plan = read_plan(cx, class);
    let chunks = vec![plan.extensions().into()];
    super::gateway::type_view(cx, &TypeUrl::EXTENSION_CONFIG, chunks)
}
