//! One rule of a policy as Envoy's permissions and principals. Must never know filters.

use weft_model::{
    AccessOperation, AccessRule, AccessSource, Attribute, MeshSettings, ObjectRef, ValueSet,
};

use super::Effect;
use super::attributes::{self, Refused};
use crate::pb::rbac::{Permission, Policy, Principal, permission, principal};

/// A kind of thing that conditions are made of.
pub(super) trait Part: Sized {
    fn any() -> Self;
    fn all(parts: Vec<Self>) -> Self;
    fn one(parts: Vec<Self>) -> Self;
    fn not(part: Self) -> Self;
}

impl Part for Permission {
    fn any() -> Self {
        permission::Rule::Any(true).into_part()
    }
    fn all(rules: Vec<Self>) -> Self {
        permission::Rule::AndRules(permission::Set { rules }).into_part()
    }
    fn one(rules: Vec<Self>) -> Self {
        permission::Rule::OrRules(permission::Set { rules }).into_part()
    }
    fn not(part: Self) -> Self {
        permission::Rule::NotRule(Box::new(part)).into_part()
    }
}

impl Part for Principal {
    fn any() -> Self {
        principal::Identifier::Any(true).into_part()
    }
    fn all(ids: Vec<Self>) -> Self {
        principal::Identifier::AndIds(principal::Set { ids }).into_part()
    }
    fn one(ids: Vec<Self>) -> Self {
        principal::Identifier::OrIds(principal::Set { ids }).into_part()
    }
    fn not(part: Self) -> Self {
        principal::Identifier::NotId(Box::new(part)).into_part()
    }
}

/// Wraps the inner choice in its message.
pub(super) trait IntoPart<P> {
    fn into_part(self) -> P;
}

impl IntoPart<Permission> for permission::Rule {
    fn into_part(self) -> Permission {
        Permission { rule: Some(self) }
    }
}

impl IntoPart<Principal> for principal::Identifier {
    fn into_part(self) -> Principal {
        Principal {
            identifier: Some(self),
        }
    }
}

/// Makes a part of one value, or of several.
type Make<'a, P> = Box<dyn Fn(&str) -> Result<P, Refused> + 'a>;
type TogetherMake<'a, P> = Box<dyn Fn(&[&str]) -> Result<P, Refused> + 'a>;

/// How values of an attribute become parts.
pub(super) enum Maker<'a, P> {
    /// Each by itself.
    Each(Make<'a, P>),
    /// All of them together.
    Together(TogetherMake<'a, P>),
}

/// An attribute with its values.
pub(super) struct Clause<'a, P> {
    pub(super) values: Vec<&'a str>,
    pub(super) not_values: Vec<&'a str>,
    pub(super) maker: Maker<'a, P>,
}

impl<'a, P: Part> Clause<'a, P> {
    pub(super) fn each(set: &'a ValueSet, make: impl Fn(&str) -> Result<P, Refused> + 'a) -> Self {
        Self::new(set, Maker::Each(Box::new(make)))
    }

    pub(super) fn together(
        set: &'a ValueSet,
        make: impl Fn(&[&str]) -> Result<P, Refused> + 'a,
    ) -> Self {
        Self::new(set, Maker::Together(Box::new(make)))
    }

    fn new(set: &'a ValueSet, maker: Maker<'a, P>) -> Self {
        Self {
            values: set.values.iter().map(AsRef::as_ref).collect(),
            not_values: set.not_values.iter().map(AsRef::as_ref).collect(),
            maker,
        }
    }

    fn says_nothing(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }

    /// What must hold: one of the values, and none of the others. What cannot be expressed costs
    /// a rule that allows; other rules go on without it.
    fn parts(&self, effect: Effect) -> Result<Vec<P>, Refused> {
        let mut out = Vec::new();
        out.extend(self.one_of(&self.values, effect)?);
        out.extend(self.one_of(&self.not_values, effect)?.map(P::not));
        Ok(out)
    }

    fn one_of(&self, values: &[&str], effect: Effect) -> Result<Option<P>, Refused> {
        let keep = |made: Result<P, Refused>| match made {
            Ok(part) => Ok(Some(part)),
            Err(refused) if effect == Effect::Allow => Err(refused),
            Err(_) => Ok(None),
        };
        if values.is_empty() {
            return Ok(None);
        }
        match &self.maker {
            Maker::Together(make) => keep(make(values)),
            Maker::Each(make) => {
                let mut parts = Vec::new();
                for value in values {
                    parts.extend(keep(make(value))?);
                }
                Ok((!parts.is_empty()).then(|| P::one(parts)))
            }
        }
    }
}

/// All of them; without any, everything.
fn conjunction<P: Part>(clauses: &[Clause<'_, P>], effect: Effect) -> Result<P, Refused> {
    let mut parts = Vec::new();
    for clause in clauses.iter().filter(|clause| !clause.says_nothing()) {
        parts.extend(clause.parts(effect)?);
    }
    if parts.is_empty() {
        parts.push(P::any());
    }
    Ok(P::all(parts))
}

/// `None`: the rule cannot be expressed (a rule that allows, with what only HTTP has, for TCP).
pub(super) fn policy(
    mesh: &MeshSettings,
    origin: &ObjectRef,
    rule: &AccessRule,
    effect: Effect,
    tcp: bool,
) -> Option<Policy> {
    let permissions = permissions(rule, effect, tcp).ok()?;
    let principals = principals(mesh, origin, rule, effect, tcp).ok()?;
    Some(Policy {
        permissions,
        principals,
        ..Policy::default()
    })
}

fn permissions(rule: &AccessRule, effect: Effect, tcp: bool) -> Result<Vec<Permission>, Refused> {
    let everything = AccessOperation::default();
    let mut operations: Vec<&AccessOperation> = rule.to.iter().collect();
    if operations.is_empty() {
        operations.push(&everything);
    }
    let each = operations.into_iter().map(|operation| {
        let mut clauses = attributes::operation(operation, tcp);
        let conditions = rule.when.iter();
        clauses.extend(conditions.filter_map(|c| attributes::of_permission(&c.attribute, &c.set)));
        conjunction(&clauses, effect)
    });
    each.collect()
}

fn principals(
    mesh: &MeshSettings,
    origin: &ObjectRef,
    rule: &AccessRule,
    effect: Effect,
    tcp: bool,
) -> Result<Vec<Principal>, Refused> {
    let anybody = AccessSource::default();
    let mut sources: Vec<&AccessSource> = rule.from.iter().collect();
    if sources.is_empty() {
        sources.push(&anybody);
    }
    // The conditions first: their values may be more than were written.
    let conditions: Vec<(&Attribute, ValueSet)> = rule
        .when
        .iter()
        .map(|c| {
            (
                &c.attribute,
                attributes::with_aliases(mesh, &c.attribute, &c.set),
            )
        })
        .collect();
    let each = sources.into_iter().map(|source| {
        let widened = attributes::source_with_aliases(mesh, source);
        let mut clauses = attributes::source(&widened, &origin.namespace, tcp);
        let conditions = conditions.iter();
        clauses.extend(conditions.filter_map(|(attribute, set)| {
            attributes::of_principal(attribute, set, &origin.namespace, tcp)
        }));
        conjunction(&clauses, effect)
    });
    each.collect()
}
