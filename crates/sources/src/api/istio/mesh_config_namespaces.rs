//! What a `MeshConfig` says of namespaces by their labels: `discoverySelectors` and
//! `serviceEntryVisibility`. Must never know namespaces.

use weft_model::selector::{EntryVisibilities, EntryVisibility, LabelCondition, LabelSelector};
use weft_proto::istio::mesh::v1alpha1 as mesh;

use crate::check::At;

pub(super) fn discovery(list: Vec<mesh::LabelSelector>, at: At<'_>) -> Vec<LabelSelector> {
    let list = list.into_iter().enumerate();
    list.map(|(index, message)| selector(message, at.index(index)))
        .collect()
}

/// `None` if it is for the mesh without sidecars only, which is not served.
pub(super) fn visibility(
    message: mesh::ServiceEntryVisibility,
    at: At<'_>,
) -> Option<EntryVisibilities> {
    let mesh::ServiceEntryVisibility {
        default_visibility,
        apply_to_sidecars,
        policies,
    } = message;
    let default = seen(default_visibility, at.field("defaultVisibility"));
    let at = at.field("policies");
    let policies = policies.into_iter().enumerate().map(|(index, policy)| {
        let mesh::service_entry_visibility::Policy {
            visibility,
            matching_rules,
        } = policy;
        let at = at.index(index);
        let rules = matching_rules.into_iter().enumerate();
        let rules =
            rules.map(|(index, rule)| rule_of(rule, at.field("matchingRules").index(index)));
        (seen(visibility, at.field("visibility")), rules.collect())
    });
    let policies = policies.collect();
    apply_to_sidecars.then_some(EntryVisibilities { default, policies })
}

fn rule_of(rule: mesh::service_entry_visibility::MatchRule, at: At<'_>) -> LabelSelector {
    use mesh::service_entry_visibility::match_rule::Matcher;
    match rule.matcher {
        Some(Matcher::NamespaceSelector(message)) => {
            selector(message, at.field("namespaceSelector"))
        }
        None => {
            at.error("says nothing, and so never matches: write namespaceSelector, or remove it");
            LabelSelector::default()
        }
    }
}

fn seen(visibility: i32, at: At<'_>) -> EntryVisibility {
    use mesh::service_entry_visibility::Visibility;
    match at.ok(Visibility::try_from(visibility)) {
        Some(Visibility::None) => EntryVisibility::Nobody,
        Some(Visibility::Namespace) => EntryVisibility::Namespace,
        Some(Visibility::Public | Visibility::Unspecified) | None => EntryVisibility::Public,
    }
}

fn selector(message: mesh::LabelSelector, at: At<'_>) -> LabelSelector {
    let mesh::LabelSelector {
        match_labels,
        match_expressions,
    } = message;
    let labels = at.field("matchLabels").labels(match_labels);
    let wanted = labels
        .iter()
        .map(|(key, value)| LabelCondition::In(key.into(), [value.into()].into()));
    let mut conditions: Vec<LabelCondition> = wanted.collect();
    let at = at.field("matchExpressions");
    for (index, requirement) in match_expressions.into_iter().enumerate() {
        conditions.extend(condition(requirement, at.index(index)));
    }
    LabelSelector(conditions)
}

fn condition(requirement: mesh::LabelSelectorRequirement, at: At<'_>) -> Option<LabelCondition> {
    let mesh::LabelSelectorRequirement {
        key,
        operator,
        values,
    } = requirement;
    if key.is_empty() {
        at.field("key")
            .error("is missing: write the key of a label");
    }
    let with_values = matches!(operator.as_str(), "In" | "NotIn");
    let known = with_values || matches!(operator.as_str(), "Exists" | "DoesNotExist");
    if known && with_values == values.is_empty() {
        at.field("values").error(if with_values {
            "is empty: In and NotIn need values to compare with"
        } else {
            "has no effect with this operator: remove it"
        });
    }
    let (key, values) = (key.into(), values.into_iter().map(Into::into).collect());
    match operator.as_str() {
        "In" => Some(LabelCondition::In(key, values)),
        "NotIn" => Some(LabelCondition::NotIn(key, values)),
        "Exists" => Some(LabelCondition::Exists(key)),
        "DoesNotExist" => Some(LabelCondition::DoesNotExist(key)),
        other => {
            at.field("operator").error(format_args!(
                "\"{other}\" is unknown: use In, NotIn, Exists or DoesNotExist"
            ));
            None
        }
    }
}
