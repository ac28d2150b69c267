//! Which workloads a security rule is for.

use weft_model::Labels;
use weft_proto::istio::r#type::v1beta1::{PolicyTargetReference, WorkloadSelector};

use crate::check::At;

/// Labels of the workloads; empty: all of the namespace.
pub(super) fn of(message: Option<WorkloadSelector>, at: At<'_>) -> Labels {
    let Some(WorkloadSelector { match_labels }) = message else {
        return Labels::new();
    };
    at.field("matchLabels").labels(match_labels)
}

/// Policies cannot be attached to objects: those belong to APIs that are not read.
pub(super) fn refuse_targets(
    one: Option<&PolicyTargetReference>,
    several: &[PolicyTargetReference],
    at: At<'_>,
) {
    let text = "is not supported: it names objects of the Gateway API, which is not read; use selector (see docs/compatibility.md)";
    if one.is_some() {
        at.field("targetRef").error(text);
    }
    if !several.is_empty() {
        at.field("targetRefs").error(text);
    }
}
