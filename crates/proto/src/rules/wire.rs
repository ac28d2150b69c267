//! A look at encoded bytes that says whether a message is surely sound, without taking it apart: most
//! messages are, and are looked at as often as they change. Of what it is not sure, the walk over the decoded message
//! decides; it must never call sound what the walk would not.

use prost_reflect::MessageDescriptor;

use super::check::Check;
use super::encoded::{Encoded, Kind, Raw, next};
use super::table::{Child, FieldPlan, Plan, Table};
use crate::pool;

/// Deeper messages are left to the walk, which knows the decoders' limit.
const MAX_DEPTH: usize = 64;
/// Fields of a message that can be told apart here.
const MAX_FIELDS: usize = 256;
/// Lists of one message whose items are counted here.
const MAX_COUNTED: usize = 8;

/// What the bytes of a message look like.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// In the order of their numbers.
    fields: Vec<FieldShape>,
    /// Of the oneofs, those of which one field must be set.
    required_oneofs: u64,
    /// Whether there are more fields or oneofs than can be told apart.
    too_large: bool,
}

#[derive(Debug)]
struct FieldShape {
    number: u32,
    kind: Kind,
    form: Form,
    oneof: Option<u32>,
    /// In the plan of the message.
    plan: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    List,
    Map,
}

impl Shape {
    /// `place_of` tells where the shape of a message is, `plan` what is to be checked.
    pub(super) fn new(
        message: &MessageDescriptor,
        plan: Option<&Plan>,
        place_of: &dyn Fn(&MessageDescriptor) -> Option<usize>,
    ) -> Self {
        let oneofs: Vec<_> = message.oneofs().collect();
        let mut shape = Self {
            too_large: oneofs.len() > 64 || message.fields().len() > MAX_FIELDS,
            ..Self::default()
        };
        let place = |name: &str| oneofs.iter().position(|oneof| oneof.name() == name);
        for required in plan.iter().flat_map(|plan| &plan.required_oneofs) {
            if let Some(place) = place(required.name()) {
                shape.required_oneofs |= 1 << (place % 64);
            }
        }
        for field in message.fields() {
            let fields = plan.map_or(&[][..], |plan| &plan.fields);
            let number = field.number();
            let oneof = field.containing_oneof();
            shape.fields.push(FieldShape {
                number,
                kind: Kind::of(&field, place_of),
                form: if field.is_map() {
                    Form::Map
                } else if field.is_list() {
                    Form::List
                } else {
                    Form::Single
                },
                oneof: oneof.and_then(|of| place(of.name())?.try_into().ok()),
                plan: fields.iter().position(|plan| plan.field.number() == number),
            });
        }
        shape.fields.sort_by_key(|field| field.number);
        shape
    }

    /// Fields mostly come in the order of their numbers: `near` is where the last one was.
    fn field(&self, number: u32, near: usize) -> Option<usize> {
        let is_it = |place: &usize| self.fields.get(*place).is_some_and(|f| f.number == number);
        [near, near + 1].into_iter().find(is_it).or_else(|| {
            let found = self.fields.binary_search_by_key(&number, |f| f.number);
            found.ok()
        })
    }
}

/// What was met in one message.
#[derive(Default)]
struct Met {
    fields: [u64; MAX_FIELDS / 64],
    oneofs: u64,
    /// Of lists with rules: which, and how many items.
    counts: [(usize, usize); MAX_COUNTED],
    counted: usize,
}

impl Met {
    /// Notes a field; says whether it was there before.
    fn again(&mut self, place: usize) -> bool {
        let bit = 1 << (place % 64);
        let Some(word) = self.fields.get_mut(place / 64) else {
            return true;
        };
        std::mem::replace(word, *word | bit) & bit != 0
    }

    fn has(&self, place: usize) -> bool {
        let word = self.fields.get(place / 64).copied().unwrap_or_default();
        word & (1 << (place % 64)) != 0
    }

    /// `None` if there are too many lists.
    fn count(&mut self, place: usize, more: usize) -> Option<()> {
        let counts = self.counts.get_mut(..self.counted)?;
        if let Some((_, count)) = counts.iter_mut().find(|(of, _)| *of == place) {
            *count += more;
            return Some(());
        }
        *self.counts.get_mut(self.counted)? = (place, more);
        self.counted += 1;
        Some(())
    }
}

impl Table {
    /// Whether the bytes are surely a sound message of this name; if not, nothing is known.
    pub(super) fn is_surely_sound(&self, full_name: &str, bytes: &[u8]) -> bool {
        self.sound_any(full_name, bytes, 0).is_some()
    }

    /// What is in an `Any`: of a type without rules, not even the bytes are looked at.
    fn sound_any(&self, full_name: &str, bytes: &[u8], depth: usize) -> Option<()> {
        let Some(plan) = self.index_of(full_name) else {
            return Some(());
        };
        let shape = self.place_of(full_name)?;
        self.sound(shape, Some(plan), bytes, depth)
    }

    /// `Some` if it is sound; `plan` is `None` if nothing but the bytes is looked at.
    fn sound(
        &self,
        shape: usize,
        plan: Option<usize>,
        mut bytes: &[u8],
        depth: usize,
    ) -> Option<()> {
        let shape = self.shape(shape).filter(|shape| !shape.too_large)?;
        let plan = plan.and_then(|plan| self.plan(plan));
        let depth = Some(depth + 1).filter(|depth| *depth <= MAX_DEPTH)?;
        let mut met = Met::default();
        let mut near = 0;
        while !bytes.is_empty() {
            let (number, value) = next(&mut bytes)?;
            let Some(place) = shape.field(number, near) else {
                // A field of a later version.
                continue;
            };
            near = place;
            let field = shape.fields.get(place)?;
            let rules = plan.and_then(|plan| plan.fields.get(field.plan?));
            match field.form {
                Form::Single => {
                    // Of what comes twice, the last holds, or both are one.
                    if met.again(place) {
                        return None;
                    }
                    if let Some(oneof) = field.oneof {
                        let bit = 1 << oneof;
                        if met.oneofs & bit != 0 {
                            return None;
                        }
                        met.oneofs |= bit;
                    }
                    self.single(field.kind, value, rules, Checks::Whole, depth)?;
                }
                Form::List => {
                    let items = self.items(field.kind, value, rules, depth)?;
                    if items > 0 {
                        met.again(place);
                    }
                    if rules.is_some_and(|rules| rules.check.is_some()) {
                        met.count(place, items)?;
                    }
                }
                Form::Map => {
                    met.again(place);
                    self.entry(field.kind, value, rules, depth)?;
                    if rules.is_some_and(|rules| rules.check.is_some()) {
                        met.count(place, 1)?;
                    }
                }
            }
        }
        plan.is_none_or(|plan| is_complete(shape, plan, &met))
            .then_some(())
    }

    /// A value with its rules; those of an item are its list's.
    fn single(
        &self,
        kind: Kind,
        value: Encoded<'_>,
        rules: Option<&FieldPlan>,
        checks: Checks,
        depth: usize,
    ) -> Option<()> {
        let check = rules.and_then(|rules| rules.check.as_ref());
        let check = check.and_then(|check| checks.of(check));
        let Kind::Message(shape) = kind else {
            let raw = kind.read(value)?;
            return check.is_none_or(|check| check.passes(raw)).then_some(());
        };
        let Encoded::Delimited(bytes) = value else {
            return None;
        };
        if let Some(check) = check {
            check.passes_encoded(|number| self.part(shape, bytes, number))?;
        }
        let child = match checks {
            Checks::Keys => Child::None,
            _ => rules.map_or(Child::None, |rules| rules.child),
        };
        match child {
            Child::None => self.sound(shape, None, bytes, depth),
            Child::Plan(plan) => self.sound(shape, Some(plan), bytes, depth),
            Child::Any => {
                self.sound(shape, None, bytes, depth)?;
                let Raw::Text(url) = self.part(shape, bytes, 1)? else {
                    return None;
                };
                let Raw::Bytes(value) = self.part(shape, bytes, 2)? else {
                    return None;
                };
                self.sound_any(pool::full_name_of(url), value, depth)
            }
        }
    }

    /// The value of a field of a message that has few.
    fn part<'b>(&self, shape: usize, mut bytes: &'b [u8], number: u32) -> Option<Raw<'b>> {
        let shape = self.shape(shape)?;
        let kind = shape.fields.get(shape.field(number, 0)?)?.kind;
        let mut found = None;
        while !bytes.is_empty() {
            let (of, value) = next(&mut bytes)?;
            if of == number {
                found = Some(kind.read(value)?);
            }
        }
        found.or_else(|| kind.default())
    }

    /// One item of a list, or several that are packed; how many they are.
    fn items(
        &self,
        kind: Kind,
        value: Encoded<'_>,
        rules: Option<&FieldPlan>,
        depth: usize,
    ) -> Option<usize> {
        let is_whole = matches!(kind, Kind::Text | Kind::Bytes | Kind::Message(_));
        let (false, Encoded::Delimited(mut left)) = (is_whole, value) else {
            self.single(kind, value, rules, Checks::Items, depth)?;
            return Some(1);
        };
        let mut count = 0;
        while !left.is_empty() {
            let item = kind.unpack(&mut left)?;
            self.single(kind, item, rules, Checks::Items, depth)?;
            count += 1;
        }
        Some(count)
    }

    /// A pair of a map.
    fn entry(
        &self,
        kind: Kind,
        value: Encoded<'_>,
        rules: Option<&FieldPlan>,
        depth: usize,
    ) -> Option<()> {
        let (Kind::Message(shape), Encoded::Delimited(mut bytes)) = (kind, value) else {
            return None;
        };
        let fields = &self.shape(shape)?.fields;
        let [key, of_value] = fields.as_slice() else {
            return None;
        };
        let mut parts = [None, None];
        while !bytes.is_empty() {
            let (number, part) = next(&mut bytes)?;
            let place = usize::try_from(number).ok()?.checked_sub(1)?;
            if parts.get_mut(place)?.replace(part).is_some() {
                return None;
            }
        }
        for (field, part, checks) in [
            (key, parts[0], Checks::Keys),
            (of_value, parts[1], Checks::Values),
        ] {
            // What is left out is left to the walk.
            self.single(field.kind, part?, rules, checks, depth)?;
        }
        Some(())
    }
}

/// Whether all is there that must be, and as many items as there may be.
fn is_complete(shape: &Shape, plan: &Plan, met: &Met) -> bool {
    let oneofs = shape.required_oneofs & !met.oneofs == 0;
    let is_there = |(place, field): (usize, &FieldShape)| {
        let rules = field.plan.and_then(|at| plan.fields.get(at));
        rules.is_none_or(|rules| rules.unset.is_none() || met.has(place))
    };
    let fields = shape.fields.iter().enumerate().all(is_there);
    let counts = met.counts.get(..met.counted).unwrap_or_default();
    let counts = counts.iter().all(|(place, count)| {
        let rules = shape.fields.get(*place).and_then(|field| field.plan);
        let check = rules.and_then(|at| plan.fields.get(at)?.check.as_ref());
        check.is_none_or(|check| check.passes_count(*count))
    });
    oneofs && fields && counts
}

/// Which of a field's rules a value must fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Whole,
    Items,
    Keys,
    Values,
}

impl Checks {
    fn of(self, check: &Check) -> Option<&Check> {
        match self {
            Self::Whole => Some(check),
            Self::Items => check.items(),
            Self::Keys => check.keys(),
            Self::Values => check.values(),
        }
    }
}
