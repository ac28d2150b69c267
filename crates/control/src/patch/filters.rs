//! Patches of network filters and of the HTTP filters in connection managers. Must never know
//! which listener or chain a patch is for: `listeners` says that.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::{Message, Name};
use weft_model::{PatchContext, PatchOperation, PatchTarget};

use super::listeners::{is_chain, is_listener, named};
use super::lists::place;
use super::{Active, Patches, encode, merge_any, routes};
use crate::pb::hcm::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier,
    http_filter::ConfigType as HttpConfig,
};
use crate::pb::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use crate::pb::protobuf::Any;

const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Patches the network filters of a chain.
pub(super) fn network<'a>(
    patches: &Patches<'a>,
    listener: &Listener,
    chain: &mut FilterChain,
) -> Result<(), String> {
    // A patch of filters never changes what chains are known by.
    let here = |target| {
        let chain = &*chain;
        let fitting = patches.of(target).filter(move |active| {
            is_listener(listener, active) && is_chain(listener, chain, active)
        });
        fitting.collect::<Vec<Active<'a>>>()
    };
    let (of_network, of_http) = (
        here(PatchTarget::NetworkFilter),
        here(PatchTarget::HttpFilter),
    );
    for active in &of_network {
        let (wanted, _) = named(active);
        let is = |filter: &Filter| wanted.is_none_or(|w| **w == *filter.name);
        let list = &mut chain.filters;
        let changed = if active.is(PatchOperation::Remove) {
            let before = list.len();
            list.retain(|filter| wanted.is_none() || !is(filter));
            list.len() != before
        } else {
            let operation = active.patch.operation;
            place(list, operation, wanted.is_some(), is, || active.value())?
        };
        if changed {
            patches.uses(active);
        }
    }
    for filter in &mut chain.filters {
        for active in &of_network {
            let (wanted, _) = named(active);
            if active.is(PatchOperation::Merge) && wanted.is_none_or(|w| **w == *filter.name) {
                merge_network(patches, active, filter)?;
            }
        }
        if filter.name == HTTP_MANAGER && !of_http.is_empty() {
            http(patches, &of_http, filter)?;
        }
    }
    Ok(())
}

fn merge_network<'a>(
    patches: &Patches<'a>,
    active: &Active<'a>,
    filter: &mut Filter,
) -> Result<(), String> {
    let Some(ConfigType::TypedConfig(lower)) = &mut filter.config_type else {
        return Ok(());
    };
    let upper: Filter = active.value()?;
    if let Some(ConfigType::TypedConfig(upper)) = &upper.config_type {
        merge_any(lower, upper)?;
    }
    if !upper.name.is_empty() {
        filter.name = upper.name;
    }
    patches.uses(active);
    Ok(())
}

/// The manager in a network filter.
fn manager(filter: &Filter) -> Option<Result<HttpConnectionManager, String>> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if is_manager(any) => {
            let decoded = HttpConnectionManager::decode(&any.value[..]);
            Some(decoded.map_err(|error| error.to_string()))
        }
        _ => None,
    }
}

fn is_manager(any: &Any) -> bool {
    weft_proto::pool::full_name_of(&any.type_url) == HttpConnectionManager::full_name()
}

fn put_back(filter: &mut Filter, manager: &HttpConnectionManager) -> Result<(), String> {
    if let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type {
        any.value = encode(manager)?;
    }
    Ok(())
}

fn http<'a>(patches: &Patches<'a>, all: &[Active<'a>], filter: &mut Filter) -> Result<(), String> {
    let Some(manager) = manager(filter) else {
        return Ok(());
    };
    let mut manager = manager?;
    let mut any_change = false;
    let here: Vec<&Active<'a>> = all
        .iter()
        .filter(|active| named(active).0.is_none_or(|w| **w == *filter.name))
        .collect();
    for active in &here {
        let (_, wanted) = named(active);
        let is = |filter: &HttpFilter| wanted.is_none_or(|w| **w == *filter.name);
        let list = &mut manager.http_filters;
        let changed = if active.is(PatchOperation::Remove) {
            let before = list.len();
            list.retain(|filter| wanted.is_none() || !is(filter));
            list.len() != before
        } else {
            let operation = active.patch.operation;
            place(list, operation, wanted.is_some(), is, || active.value())?
        };
        if changed {
            patches.uses(active);
            any_change = true;
        }
    }
    for inner in &mut manager.http_filters {
        for active in here.iter().filter(|a| a.is(PatchOperation::Merge)) {
            let (_, wanted) = named(active);
            if wanted.is_none_or(|w| **w == *inner.name) && merge_http(active, inner)? {
                patches.uses(active);
                any_change = true;
            }
        }
    }
    if any_change {
        put_back(filter, &manager)?;
    }
    Ok(())
}

fn merge_http(active: &Active<'_>, filter: &mut HttpFilter) -> Result<bool, String> {
    let Some(HttpConfig::TypedConfig(lower)) = &mut filter.config_type else {
        return Ok(false);
    };
    let upper: HttpFilter = active.value()?;
    if let Some(HttpConfig::TypedConfig(upper)) = &upper.config_type {
        merge_any(lower, upper)?;
    }
    if !upper.name.is_empty() {
        filter.name = upper.name;
    }
    Ok(true)
}

fn all_chains(listener: &mut Listener) -> impl Iterator<Item = &mut FilterChain> {
    let default = listener.default_filter_chain.as_mut();
    listener.filter_chains.iter_mut().chain(default)
}

/// Patches the routes that are written into a listener, before the listener itself is patched.
pub(super) fn inline_routes(
    patches: &Patches<'_>,
    context: PatchContext,
    listener: &mut Listener,
) -> Result<(), String> {
    let targets = [
        PatchTarget::RouteConfiguration,
        PatchTarget::VirtualHost,
        PatchTarget::HttpRoute,
    ];
    if !targets.into_iter().any(|target| patches.has(target)) {
        return Ok(());
    }
    for filter in all_chains(listener).flat_map(|chain| &mut chain.filters) {
        let Some(manager) = manager(filter) else {
            continue;
        };
        let mut manager = manager?;
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            continue;
        };
        if routes::whole(patches, context, routes)? {
            put_back(filter, &manager)?;
        }
    }
    Ok(())
}

/// The route configurations that a listener asks for.
pub(super) fn links(listener: &Listener) -> Vec<Arc<str>> {
    let default = listener.default_filter_chain.as_ref();
    let chains = listener.filter_chains.iter().chain(default);
    let filters = chains.flat_map(|chain| &chain.filters);
    let managers = filters.filter_map(|filter| manager(filter)?.ok());
    let names: BTreeSet<Arc<str>> = managers
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name.into()),
            _ => None,
        })
        .collect();
    names.into_iter().collect()
}
