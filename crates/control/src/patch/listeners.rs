//! Patches of listeners, their listener filters and filter chains. Must never know routes, but for
//! those that are written into inbound listeners.

use std::sync::Arc;

use prost::Message;
use weft_model::{
    ChainCondition, ListenerCondition, ObjectCondition, PatchContext, PatchOperation, PatchTarget,
};
use weft_xds::{Resource, TypeUrl};

use super::clusters::{is_outbound_only, merge_sockets};
use super::lists::place;
use super::{
    Active, Outcome, Patches, Plan, broken_rules, contained, encode, filters, joined, merge_any,
};
use crate::emit::{Emitted, origins};
use crate::pb::core::v3::{TransportSocket, address::Address, socket_address::PortSpecifier};
use crate::pb::listener::v3::{FilterChain, Listener, ListenerFilter, listener_filter::ConfigType};

/// Patches a listener, and the routes that are written into it.
pub(crate) fn listener(plan: &Plan, context: PatchContext, emitted: &Emitted) -> Outcome {
    let mut patches = plan.on(context);
    let name = &*emitted.resource.name;
    // Most patches are for some listeners only; the others are not even decoded.
    patches.all.retain(|active| match &active.patch.object {
        ObjectCondition::Listener(wanted) => wanted.name.as_ref().is_none_or(|w| **w == *name),
        _ => true,
    });
    patches.all.retain(|active| {
        !(active.is(PatchOperation::Add) && active.patch.target == PatchTarget::Listener)
    });
    if patches.all.is_empty() {
        return Outcome::Same;
    }
    let what = format!("LDS {name}");
    let tried = contained(&what, &patches, &emitted.origins, |patches| {
        apply(patches, context, &emitted.resource)
    });
    let Some(tried) = tried else {
        return Outcome::Same;
    };
    if tried.used.is_empty() && tried.faults.is_empty() {
        return Outcome::Same;
    }
    let Some(resource) = tried.result else {
        return Outcome::Gone;
    };
    Outcome::Patched(Emitted {
        resource,
        origins: joined(&emitted.origins, &tried.used),
        faults: emitted.faults.iter().cloned().chain(tried.faults).collect(),
    })
}

fn apply(
    patches: &Patches<'_>,
    context: PatchContext,
    resource: &Resource,
) -> Result<Option<Resource>, String> {
    if patches.all.is_empty() {
        return Ok(Some(resource.clone()));
    }
    let mut listener = Listener::decode(resource.body.to_bytes()).map_err(|e| e.to_string())?;
    filters::inline_routes(patches, context, &mut listener)?;
    if !whole(patches, &mut listener)? {
        return Ok(None);
    }
    if patches.used.borrow().is_empty() {
        return Ok(Some(resource.clone()));
    }
    finish(listener).map(Some)
}

/// A listener that is checked, with the names of the route configurations that it asks for.
fn finish(listener: Listener) -> Result<Resource, String> {
    let body = encode(&listener)?;
    broken_rules(&TypeUrl::LISTENER, &body)?;
    let links = filters::links(&listener);
    let resource = Resource::new(&TypeUrl::LISTENER, listener.name, body);
    Ok(resource.with_links(links))
}

/// Applies everything but additions of listeners; false if the listener is taken away.
fn whole(patches: &Patches<'_>, listener: &mut Listener) -> Result<bool, String> {
    for active in patches.of(PatchTarget::Listener) {
        if !is_listener(listener, &active) {
            continue;
        }
        if active.is(PatchOperation::Remove) {
            patches.uses(&active);
            return Ok(false);
        }
        if let Some(lists) = active.merges() {
            patches.uses(&active);
            active.merge_into(listener, lists)?;
        }
    }
    listener_filters(patches, listener)?;
    chains(patches, listener)?;
    Ok(true)
}

fn listener_filters(patches: &Patches<'_>, listener: &mut Listener) -> Result<(), String> {
    for active in patches.of(PatchTarget::ListenerFilter) {
        if !is_listener(listener, &active) {
            continue;
        }
        let wanted = condition(&active).and_then(|c| c.listener_filter.as_ref());
        let is = |filter: &ListenerFilter| wanted.is_none_or(|w| **w == *filter.name);
        let list = &mut listener.listener_filters;
        let changed = match active.patch.operation {
            PatchOperation::Remove if wanted.is_some() => {
                let before = list.len();
                list.retain(|filter| !is(filter));
                list.len() != before
            }
            PatchOperation::Merge if wanted.is_some() => {
                let upper: ListenerFilter = active.value()?;
                let mut changed = false;
                for filter in list.iter_mut().filter(|filter| is(filter)) {
                    changed |= merge_listener_filter(filter, &upper)?;
                }
                changed
            }
            operation => place(list, operation, wanted.is_some(), is, || active.value())?,
        };
        if changed {
            patches.uses(&active);
        }
    }
    Ok(())
}

fn merge_listener_filter(
    lower: &mut ListenerFilter,
    upper: &ListenerFilter,
) -> Result<bool, String> {
    match (&mut lower.config_type, &upper.config_type) {
        (Some(ConfigType::TypedConfig(lower)), Some(ConfigType::TypedConfig(upper))) => {
            merge_any(lower, upper).map(|()| true)
        }
        _ => Ok(false),
    }
}

fn chains(patches: &Patches<'_>, listener: &mut Listener) -> Result<(), String> {
    let mut all = std::mem::take(&mut listener.filter_chains);
    let mut kept = Vec::with_capacity(all.len());
    for mut one in all.drain(..) {
        if one.filters.is_empty() || chain(patches, listener, &mut one)? {
            kept.push(one);
        }
    }
    if let Some(mut default) = listener.default_filter_chain.take()
        && (default.filters.is_empty() || chain(patches, listener, &mut default)?)
    {
        listener.default_filter_chain = Some(default);
    }
    for active in patches.of(PatchTarget::FilterChain) {
        if active.is(PatchOperation::Add) && is_listener(listener, &active) {
            patches.uses(&active);
            kept.push(active.value()?);
        }
    }
    listener.filter_chains = kept;
    Ok(())
}

/// Patches a chain; false if it is taken away.
fn chain(
    patches: &Patches<'_>,
    listener: &Listener,
    chain: &mut FilterChain,
) -> Result<bool, String> {
    for active in patches.of(PatchTarget::FilterChain) {
        if !is_listener(listener, &active) || !is_chain(listener, chain, &active) {
            continue;
        }
        if active.is(PatchOperation::Remove) {
            patches.uses(&active);
            return Ok(false);
        }
        if let Some(lists) = active.merges() {
            patches.uses(&active);
            let upper: FilterChain = active.value()?;
            match (&mut chain.transport_socket, upper.transport_socket) {
                (Some(lower), Some(upper)) if same_name(lower, &upper) => {
                    merge_sockets(lower, upper)?;
                }
                _ => active.merge_into(chain, lists)?,
            }
        }
    }
    filters::network(patches, listener, chain)?;
    Ok(true)
}

fn same_name(lower: &TransportSocket, upper: &TransportSocket) -> bool {
    lower.name == upper.name
}

fn condition<'a>(active: &Active<'a>) -> Option<&'a ListenerCondition> {
    match &active.patch.object {
        ObjectCondition::Listener(condition) => Some(condition),
        _ => None,
    }
}

/// The listeners for captured connections, whose ports are those of their chains.
fn is_virtual(listener: &Listener) -> bool {
    matches!(&*listener.name, "virtualInbound" | "virtualOutbound")
}

fn port(listener: &Listener) -> Option<u32> {
    match listener.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(address) => match address.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some(port),
            _ => Some(0),
        },
        _ => None,
    }
}

pub(super) fn is_listener(listener: &Listener, active: &Active<'_>) -> bool {
    let Some(wanted) = condition(active) else {
        return true;
    };
    if wanted.name.as_ref().is_some_and(|w| **w != *listener.name) {
        return false;
    }
    if active.patch.target != PatchTarget::Listener && is_virtual(listener) {
        return true;
    }
    wanted.port.is_none() || port(listener) == wanted.port
}

/// Whether a chain of a listener that fits is meant.
pub(super) fn is_chain(listener: &Listener, chain: &FilterChain, active: &Active<'_>) -> bool {
    let Some(listener_wanted) = condition(active) else {
        return true;
    };
    let matched = chain.filter_chain_match.as_ref();
    let destination = matched.and_then(|m| m.destination_port.as_ref().map(|p| p.value));
    if is_virtual(listener)
        && listener_wanted
            .port
            .is_some_and(|port| destination.unwrap_or(0) != port)
    {
        return false;
    }
    let Some(wanted) = &listener_wanted.chain else {
        return true;
    };
    let ChainCondition {
        name,
        sni,
        transport_protocol,
        application_protocols,
        destination_port,
        filter: _,
        http_filter: _,
    } = wanted;
    let has = |list: &[String], text: &Arc<str>| list.iter().any(|item| **item == **text);
    name.as_ref().is_none_or(|name| **name == *chain.name)
        && sni
            .as_ref()
            .is_none_or(|sni| matched.is_some_and(|m| has(&m.server_names, sni)))
        && transport_protocol
            .as_ref()
            .is_none_or(|p| matched.is_some_and(|m| *m.transport_protocol == **p))
        && application_protocols
            .iter()
            .all(|p| matched.is_some_and(|m| has(&m.application_protocols, p)))
        && destination_port.is_none_or(|port| destination == Some(port))
}

/// The network filter and the HTTP filter that a patch names.
pub(super) fn named<'a>(active: &Active<'a>) -> (Option<&'a Arc<str>>, Option<&'a Arc<str>>) {
    let chain = condition(active).and_then(|listener| listener.chain.as_ref());
    chain.map_or((None, None), |chain| {
        (chain.filter.as_ref(), chain.http_filter.as_ref())
    })
}

/// Listeners that patches add. What does not say on which side is for calls that go out.
pub(crate) fn added(plan: &Plan, context: PatchContext) -> Vec<Emitted> {
    let patches = plan.on(context);
    let adds = patches
        .of(PatchTarget::Listener)
        .filter(|active| active.is(PatchOperation::Add) && !is_outbound_only(active, context));
    let made = adds.filter_map(|active| {
        let resource = active.value().and_then(finish).ok()?;
        Some(Emitted::new(resource, origins([active.origin.clone()])))
    });
    made.collect()
}
