//! `EnvoyFilter` → [`EnvoyFilter`]: which patches there are. What they are for is in
//! `envoy_filter_match`, what they put in is in `envoy_filter_value`.

use weft_model::{EnvoyFilter, EnvoyPatch, ObjectCondition, PatchOperation, PatchTarget};
use weft_proto::Problem;
use weft_proto::document::Document;

use super::message as pb;
use super::{envoy_filter_match as condition, envoy_filter_value as value};
use crate::check::{At, Context};

use pb::envoy_filter::{ApplyTo, EnvoyConfigObjectPatch, Patch, patch::Operation};

/// Converts a filter. The values of its patches are read from the document itself, whose lines
/// their faults name.
///
/// # Errors
/// What is wrong with values, each with its place.
pub(crate) fn convert(
    message: pb::EnvoyFilter,
    document: &Document,
    context: &Context<'_>,
    at: At<'_>,
) -> Result<EnvoyFilter, Vec<Problem>> {
    let pb::EnvoyFilter {
        workload_selector,
        config_patches,
        priority,
        target_refs,
    } = message;
    at.field("targetRefs").refuse(!target_refs.is_empty());
    let labels = workload_selector.map(|pb::WorkloadSelector { labels }| labels);
    let selector = labels.filter(|labels| !labels.is_empty()).map(|labels| {
        let at = at.field("workloadSelector");
        at.field("labels").labels(labels)
    });
    let list = at.field("configPatches");
    let mut patches = Vec::with_capacity(config_patches.len());
    let mut problems = Vec::new();
    for (index, message) in config_patches.into_iter().enumerate() {
        match patch(message, document, index, list.index(index)) {
            Ok(found) => patches.extend(found),
            Err(more) => problems.extend(more),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(EnvoyFilter {
        meta: context.meta(),
        priority,
        selector,
        patches,
    })
}

/// One patch; `None` if it has a fault, which is noted then.
fn patch(
    message: EnvoyConfigObjectPatch,
    document: &Document,
    index: usize,
    at: At<'_>,
) -> Result<Option<EnvoyPatch>, Vec<Problem>> {
    let EnvoyConfigObjectPatch {
        apply_to,
        r#match,
        patch,
    } = message;
    let Some(target) = target(apply_to, at.field("applyTo")) else {
        return Ok(None);
    };
    let (context, proxies, object) =
        condition::convert(r#match.unwrap_or_default(), target, at.field("match"));
    let at = at.field("patch");
    let Some(Patch {
        operation,
        value: said,
        // Istio no longer looks at it either; see the list of ignored fields.
        filter_class: _,
    }) = patch
    else {
        at.error("there is no patch: write its operation and value");
        return Ok(None);
    };
    let Some(operation) = operation_on(operation, target, &at) else {
        return Ok(None);
    };
    check_effect(operation, target, &object, at.field("operation"));
    let at = at.field("value");
    if operation == PatchOperation::Remove {
        if said.is_some_and(|said| !said.fields.is_empty()) {
            at.error("REMOVE takes nothing: remove the value");
        }
        return Ok(Some(EnvoyPatch {
            target,
            context,
            proxies,
            object,
            operation,
            value: None,
        }));
    }
    if said.is_none() {
        at.error("the value is missing: write what the operation puts in");
        return Ok(None);
    }
    let value = value::read(document, index, target, operation)?;
    Ok(Some(EnvoyPatch {
        target,
        context,
        proxies,
        object,
        operation,
        value: Some(value),
    }))
}

fn target(apply_to: i32, at: At<'_>) -> Option<PatchTarget> {
    Some(match at.ok(ApplyTo::try_from(apply_to))? {
        ApplyTo::Invalid => {
            at.error("it is missing: write what is patched, for example HTTP_FILTER");
            return None;
        }
        ApplyTo::Listener => PatchTarget::Listener,
        ApplyTo::FilterChain => PatchTarget::FilterChain,
        ApplyTo::NetworkFilter => PatchTarget::NetworkFilter,
        ApplyTo::HttpFilter => PatchTarget::HttpFilter,
        ApplyTo::RouteConfiguration => PatchTarget::RouteConfiguration,
        ApplyTo::VirtualHost => PatchTarget::VirtualHost,
        ApplyTo::HttpRoute => PatchTarget::HttpRoute,
        ApplyTo::Cluster => PatchTarget::Cluster,
        ApplyTo::ExtensionConfig => PatchTarget::ExtensionConfig,
        ApplyTo::ListenerFilter => PatchTarget::ListenerFilter,
        ApplyTo::Bootstrap => {
            at.error(
                "BOOTSTRAP is for proxies whose bootstrap is made by Istio's agent: change the proxy's own bootstrap",
            );
            return None;
        }
    })
}

/// The operation, if it does anything to such a target. What cannot be ordered is added.
fn operation_on(operation: i32, target: PatchTarget, at: &At<'_>) -> Option<PatchOperation> {
    use PatchTarget as T;
    let at = at.field("operation");
    let said = at.ok(Operation::try_from(operation))?;
    let filters = matches!(target, T::NetworkFilter | T::HttpFilter | T::ListenerFilter);
    let ordered = filters || target == T::HttpRoute;
    let adds = target != T::RouteConfiguration;
    let merges = target != T::ExtensionConfig;
    let removes = adds && merges;
    let operation = match said {
        Operation::Invalid => {
            at.error("it is missing: write what the patch does, for example MERGE");
            return None;
        }
        Operation::Merge => merges.then_some(PatchOperation::Merge),
        Operation::MergeAndReplaceList => {
            (merges && !filters).then_some(PatchOperation::MergeAndReplaceLists)
        }
        Operation::Remove => removes.then_some(PatchOperation::Remove),
        Operation::Replace => {
            (filters || target == T::VirtualHost).then_some(PatchOperation::Replace)
        }
        Operation::InsertBefore if ordered => Some(PatchOperation::InsertBefore),
        Operation::InsertAfter if ordered => Some(PatchOperation::InsertAfter),
        Operation::InsertFirst if ordered => Some(PatchOperation::InsertFirst),
        Operation::Add
        | Operation::InsertBefore
        | Operation::InsertAfter
        | Operation::InsertFirst => adds.then_some(PatchOperation::Add),
    };
    if operation.is_none() {
        let said = said.as_str_name();
        let can = match target {
            T::RouteConfiguration => "MERGE",
            T::ExtensionConfig => "ADD",
            T::VirtualHost => "MERGE, ADD, REPLACE or REMOVE",
            T::NetworkFilter | T::HttpFilter | T::ListenerFilter => {
                "MERGE, ADD, INSERT_FIRST, INSERT_BEFORE, INSERT_AFTER, REPLACE or REMOVE"
            }
            T::HttpRoute => "MERGE, ADD, INSERT_FIRST, INSERT_BEFORE, INSERT_AFTER or REMOVE",
            T::Listener | T::FilterChain | T::Cluster => "MERGE, ADD or REMOVE",
        };
        at.error(format_args!(
            "{said} does nothing to what applyTo names: use {can}"
        ));
    }
    operation
}

/// Some operations on filters do nothing unless a filter is named.
fn check_effect(
    operation: PatchOperation,
    target: PatchTarget,
    object: &ObjectCondition,
    at: At<'_>,
) {
    use PatchOperation as Op;
    let listener = match object {
        ObjectCondition::Listener(listener) => Some(listener),
        _ => None,
    };
    let chain = listener.and_then(|listener| listener.chain.as_ref());
    let (named, field) = match target {
        PatchTarget::ListenerFilter => (
            listener.is_some_and(|l| l.listener_filter.is_some()),
            "match.listener.listenerFilter",
        ),
        PatchTarget::NetworkFilter => (
            chain.is_some_and(|c| c.filter.is_some()),
            "match.listener.filterChain.filter",
        ),
        PatchTarget::HttpFilter => (
            chain.is_some_and(|c| c.http_filter.is_some()),
            "match.listener.filterChain.filter.subFilter",
        ),
        _ => return,
    };
    let wants = matches!(operation, Op::Remove | Op::Replace)
        || (operation == Op::Merge && target == PatchTarget::ListenerFilter);
    if wants && !named {
        at.error(format_args!(
            "it does nothing unless {field} names the filter"
        ));
    }
}
