//! Which namespaces are meant, by their labels, and what a mesh says of them. Must never know where the
//! labels come from.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::labels::Labels;
use crate::name::{ExportTo, Namespace};

/// One condition on labels, as in Kubernetes' label selectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelCondition {
    /// The label is there and has one of these values.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// The label has none of these values; it may be absent.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// The label is there.
    Exists(Arc<str>),
    /// It is not.
    DoesNotExist(Arc<str>),
}

impl LabelCondition {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

/// Conditions that must all hold. Without any, everything is selected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector(pub Vec<LabelCondition>);

impl LabelSelector {
    /// Whether all conditions hold for these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|condition| condition.holds(labels))
    }
}

/// How far `ServiceEntries` are seen, whatever they say themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EntryVisibility {
    /// As they say.
    #[default]
    Public,
    /// In their own namespace at most.
    Namespace,
    /// Nowhere.
    Nobody,
}

impl EntryVisibility {
    /// What is left of an entry's `exportTo`, `own` being its namespace.
    #[must_use]
    pub fn cap(self, export: &ExportTo, own: &Namespace) -> ExportTo {
        match self {
            Self::Public => export.clone(),
            Self::Namespace if export.allows(own) => ExportTo::Namespaces([own.clone()].into()),
            Self::Namespace | Self::Nobody => ExportTo::Nobody,
        }
    }
}

/// Which visibility holds where (Istio's `serviceEntryVisibility` with `applyToSidecars`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryVisibilities {
    /// Where no policy matches.
    pub default: EntryVisibility,
    /// In order; all selectors of one must select the namespace.
    pub policies: Vec<(EntryVisibility, Vec<LabelSelector>)>,
}

impl EntryVisibilities {
    /// That of a namespace with these labels.
    pub fn of(&self, labels: &Labels) -> EntryVisibility {
        let mut policies = self.policies.iter();
        let first = policies.find(|(_, rules)| rules.iter().all(|rule| rule.selects(labels)));
        first.map_or(self.default, |(visibility, _)| *visibility)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_those_of_kubernetes() {
        let labels: Labels = [("env", "prod"), ("team", "a")].into_iter().collect();
        let values = |list: &[&str]| list.iter().map(|v| Arc::from(*v)).collect();
        let cases = [
            (
                LabelCondition::In("env".into(), values(&["dev", "prod"])),
                true,
            ),
            (LabelCondition::In("none".into(), values(&["prod"])), false),
            (
                LabelCondition::NotIn("env".into(), values(&["prod"])),
                false,
            ),
            (
                LabelCondition::NotIn("none".into(), values(&["prod"])),
                true,
            ),
            (LabelCondition::Exists("team".into()), true),
            (LabelCondition::DoesNotExist("team".into()), false),
        ];
        for (condition, holds) in cases {
            let text = format!("{condition:?}");
            assert_eq!(
                LabelSelector(vec![condition]).selects(&labels),
                holds,
                "{text}"
            );
        }
        assert!(LabelSelector::default().selects(&Labels::new()));
    }

    #[test]
    fn visibility_only_ever_narrows() {
        let own = Namespace::new("a");
        let others = ExportTo::Namespaces([Namespace::new("b")].into());
        let mine = ExportTo::Namespaces([own.clone()].into());
        let cap = |visibility: EntryVisibility, export| visibility.cap(export, &own);
        assert_eq!(cap(EntryVisibility::Public, &others), others);
        assert_eq!(cap(EntryVisibility::Namespace, &ExportTo::All), mine);
        assert_eq!(cap(EntryVisibility::Namespace, &others), ExportTo::Nobody);
        assert_eq!(
            cap(EntryVisibility::Nobody, &ExportTo::All),
            ExportTo::Nobody
        );
    }
}
