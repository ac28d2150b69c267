//! `EnvoyFilter`s applied to resources that are made: decode, patch, encode. Order, matching and
//! merging are istiod's (its `pilot/pkg/networking/core/envoyfilter`). Must never know the graph.
//!
//! Containment goes filter by filter: one whose patches would make a resource invalid is left out
//! for that resource, which carries the fault; the other filters hold.

mod clusters;
mod filters;
mod hosts;
mod listeners;
mod lists;
mod routes;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use prost::{Message, Name};
use weft_model::{
    EnvoyFilter, EnvoyPatch, ObjectRef, PatchContext, PatchOperation, PatchTarget, PatchValue,
};
use weft_proto::merge::{Lists, merge};
use weft_proto::{Any, canonical, rules};
use weft_xds::{Resource, TypeUrl};

use crate::emit::{Emitted, Fault, Origins, origins};

pub(crate) use clusters::{Workloads, added as added_clusters, cluster};
pub(crate) use hosts::{HostMemo, configuration};
pub(crate) use listeners::{added as added_listeners, listener};
pub(crate) use routes::Ports;

/// The patches that hold for a class of proxies, in the order in which they are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan(pub(crate) Vec<Chosen>);

/// One patch of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) filter: Arc<EnvoyFilter>,
    pub(crate) index: usize,
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No patch is for it.
    Same,
    /// It is taken away.
    Gone,
    /// It is another one now, or carries a fault.
    Patched(Emitted),
}

/// A patch as it is applied.
#[derive(Clone, Copy)]
pub(crate) struct Active<'a> {
    origin: &'a ObjectRef,
    patch: &'a EnvoyPatch,
}

impl Active<'_> {
    fn is(&self, operation: PatchOperation) -> bool {
        self.patch.operation == operation
    }

    fn merges(&self) -> Option<Lists> {
        match self.patch.operation {
            PatchOperation::Merge => Some(Lists::Append),
            PatchOperation::MergeAndReplaceLists => Some(Lists::Replace),
            _ => None,
        }
    }

    /// The value as a message; a value of another type is an error of ours.
    fn value<M: Message + Name + Default>(&self) -> Result<M, String> {
        let value = self.encoded::<M>()?;
        M::decode(&value.body[..]).map_err(|error| error.to_string())
    }

    fn encoded<M: Name>(&self) -> Result<&PatchValue, String> {
        let value = self.patch.value.as_ref();
        value
            .filter(|value| *value.message == *M::full_name())
            .ok_or_else(|| format!("the patch has no {}", M::NAME))
    }

    /// Lays the value over a message.
    fn merge_into<M: Message + Name + Default>(
        &self,
        message: &mut M,
        lists: Lists,
    ) -> Result<(), String> {
        let upper = self.encoded::<M>()?;
        let merged = merge(
            &M::full_name(),
            &message.encode_to_vec(),
            &upper.body,
            lists,
        )?;
        *message = M::decode(&merged[..]).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// The patches of one side of a proxy, and which filters of them have changed something.
pub(crate) struct Patches<'a> {
    all: Vec<Active<'a>>,
    used: RefCell<BTreeSet<&'a ObjectRef>>,
}

impl<'a> Patches<'a> {
    fn of(&self, target: PatchTarget) -> impl Iterator<Item = Active<'a>> + use<'a, '_> {
        let all = self.all.iter().copied();
        all.filter(move |active| active.patch.target == target)
    }

    fn has(&self, target: PatchTarget) -> bool {
        self.of(target).next().is_some()
    }

    fn uses(&self, active: &Active<'a>) {
        self.used.borrow_mut().insert(active.origin);
    }

    fn used(&self) -> Vec<ObjectRef> {
        self.used.borrow().iter().map(|o| (*o).clone()).collect()
    }

    /// These patches without those of other filters.
    fn only(&self, filters: &[&ObjectRef]) -> Self {
        let all = self.all.iter().copied();
        Self {
            all: all.filter(|a| filters.contains(&a.origin)).collect(),
            used: RefCell::default(),
        }
    }
}

impl Plan {
    /// The patches of a side.
    pub(crate) fn on(&self, context: PatchContext) -> Patches<'_> {
        let active = self.0.iter().filter_map(|chosen| {
            let patch = chosen.filter.patches.get(chosen.index)?;
            let fits = patch.context == context || patch.context == PatchContext::Any;
            // The side of an extension's configuration is that of whoever asks for it.
            (fits || patch.target == PatchTarget::ExtensionConfig).then_some(Active {
                origin: &chosen.filter.meta.origin,
                patch,
            })
        });
        Patches {
            all: active.collect(),
            used: RefCell::default(),
        }
    }

    /// The configurations of extensions; of two with one name the later one.
    pub(crate) fn extensions(&self) -> Vec<Emitted> {
        let patches = self.on(PatchContext::Any);
        let mut out: Vec<Emitted> = Vec::new();
        for active in patches.of(PatchTarget::ExtensionConfig) {
            let Ok(value) = active.value::<crate::pb::core::v3::TypedExtensionConfig>() else {
                continue;
            };
            let body = active.patch.value.as_ref().map(|v| v.body.to_vec());
            let resource = Resource::new(
                &TypeUrl::EXTENSION_CONFIG,
                value.name.as_str(),
                body.unwrap_or_default(),
            );
            out.retain(|other| other.resource.name != resource.name);
            out.push(Emitted::new(resource, origins([active.origin.clone()])));
        }
        out
    }
}

/// What a trial of patches gives: the result, and which filters have changed something.
struct Tried<T> {
    result: T,
    used: Vec<ObjectRef>,
    faults: Vec<Fault>,
}

/// Applies patches. If that fails, the filters are tried one after the other, and those that fail
/// are left out. `apply` checks its own result; without patches it must not fail.
fn contained<'a, T>(
    what: &str,
    patches: &Patches<'a>,
    from: &Origins,
    apply: impl Fn(&Patches<'a>) -> Result<T, String>,
) -> Option<Tried<T>> {
    let all = patches.only(&patches.all.iter().map(|a| a.origin).collect::<Vec<_>>());
    if let Ok(result) = apply(&all) {
        let used = all.used();
        let faults = Vec::new();
        return Some(Tried {
            result,
            used,
            faults,
        });
    }
    let mut kept: Vec<&ObjectRef> = Vec::new();
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for active in patches.all.iter().filter(|a| seen.insert(a.origin)) {
        kept.push(active.origin);
        if let Err(reason) = apply(&patches.only(&kept)) {
            kept.pop();
            let message = format!("{what} is not patched by {}: {reason}", active.origin);
            faults.push(Fault {
                message: message.into(),
                origins: joined(from, std::slice::from_ref(active.origin)),
            });
        }
    }
    let last = patches.only(&kept);
    let result = apply(&last).ok()?;
    let used = last.used();
    Some(Tried {
        result,
        used,
        faults,
    })
}

/// The objects of a resource and of the filters that changed it.
fn joined(from: &Origins, filters: &[ObjectRef]) -> Origins {
    if filters.is_empty() {
        return from.clone();
    }
    let own = origins(filters.iter().cloned());
    match from {
        Origins::Own(objects) => origins(objects.iter().cloned().chain(filters.iter().cloned())),
        Origins::Parts(parts) => Origins::Parts(parts.iter().cloned().chain([own]).collect()),
    }
}

/// Why Envoy's own field rules refuse a message.
fn broken_rules(type_url: &TypeUrl, body: &[u8]) -> Result<(), String> {
    let any = Any {
        type_url: type_url.as_str().to_owned(),
        value: body.to_vec(),
    };
    rules::validate_any(&any).map_err(|violations| {
        let lines = violations.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>().join("; ")
    })
}

/// A message as bytes that depend on nothing but the message.
fn encode<M: Message + Name>(message: &M) -> Result<Vec<u8>, String> {
    canonical::recode(&M::full_name(), &message.encode_to_vec())
}

/// A message laid over one of the same type in an `Any`, as istiod merges extensions.
fn merge_any(lower: &mut Any, upper: &Any) -> Result<(), String> {
    let name = weft_proto::pool::full_name_of(&lower.type_url).to_owned();
    if weft_proto::pool::full_name_of(&upper.type_url) != name {
        return Err(format!(
            "a {} cannot be merged into a {}: use REPLACE",
            upper.type_url, lower.type_url
        ));
    }
    lower.value = merge(&name, &lower.value, &upper.value, Lists::Append)?;
    Ok(())
}
