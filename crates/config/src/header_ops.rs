//! Headers to remove and to add, with Envoy's append actions. Where they apply is the caller's affair.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::format::{Format, FormatSource};
use crate::pass::{Pass, flag};
use crate::pb;

/// What happens when the header is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Add another.
    AppendOrAdd,
    /// Add only if absent.
    AddIfAbsent,
    /// Replace all, or add.
    OverwriteOrAdd,
    /// Replace all, if any.
    OverwriteIfExists,
}

/// One header to add.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderTemplate,
    /// What happens when it is already there.
    pub action: AppendAction,
    /// Add it even if the value is empty.
    pub keep_empty: bool,
}

/// A value, made once if it has no operators.
#[derive(Debug, Clone)]
pub enum HeaderTemplate {
    /// The same for all.
    Fixed(HeaderValue),
    /// Made for each.
    Made(Format),
}

/// Headers to remove and then to add.
#[derive(Debug, Clone, Default)]
pub struct HeaderOps {
    /// To remove, before adding.
    pub remove: Vec<HeaderName>,
    /// To add, in order.
    pub add: Vec<HeaderAdd>,
}

impl HeaderOps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Removes and adds as Envoy does: all values are made and all conditions looked at before the
    /// first header changes; what overwrites goes first. Values that come out empty are left out
    /// unless kept; those that are no header values (control characters from a request) are too.
    pub fn apply(&self, headers: &mut HeaderMap, source: &dyn FormatSource) {
        for name in &self.remove {
            headers.remove(name);
        }
        if let [only] = self.add.as_slice() {
            if let Some((overwrite, value)) = only.decide(headers, source) {
                put(headers, &only.name, value, overwrite);
            }
            return;
        }
        let decided: Vec<_> = self
            .add
            .iter()
            .filter_map(|add| Some((&add.name, add.decide(headers, source)?)))
            .collect();
        for (name, (_, value)) in decided.iter().filter(|(_, (overwrite, _))| *overwrite) {
            put(headers, name, value.clone(), true);
        }
        for (name, (_, value)) in decided.into_iter().filter(|(_, (overwrite, _))| !overwrite) {
            put(headers, name, value, false);
        }
    }
}

impl HeaderAdd {
    /// Whether it overwrites, and the value; `None` if nothing is to be done.
    fn decide(
        &self,
        headers: &HeaderMap,
        source: &dyn FormatSource,
    ) -> Option<(bool, HeaderValue)> {
        let overwrite = match self.action {
            AppendAction::AddIfAbsent if headers.contains_key(&self.name) => return None,
            AppendAction::AppendOrAdd | AppendAction::AddIfAbsent => false,
            AppendAction::OverwriteIfExists if !headers.contains_key(&self.name) => return None,
            AppendAction::OverwriteIfExists | AppendAction::OverwriteOrAdd => true,
        };
        let value = match &self.value {
            HeaderTemplate::Fixed(value) => value.clone(),
            HeaderTemplate::Made(format) => {
                let mut bytes = Vec::new();
                format.write_present(&mut bytes, source);
                HeaderValue::from_bytes(&bytes).ok()?
            }
        };
        (!value.is_empty() || self.keep_empty).then_some((overwrite, value))
    }
}

/// A full map refuses more headers, which loses this one and nothing else.
fn put(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue, overwrite: bool) {
    if overwrite {
        drop(headers.try_insert(name, value));
    } else {
        drop(headers.try_append(name, value));
    }
}

/// Reads the four fields that routes, virtual hosts and route configurations have.
pub(crate) fn header_ops(
    p: &mut Pass<'_>,
    fields: (&'static str, &[pb::core::HeaderValueOption]),
    remove: (&'static str, &[String]),
) -> HeaderOps {
    let add = p.each(fields.0, fields.1, header_add);
    let remove = p.each(remove.0, remove.1, |p, name| modifiable(p, name));
    HeaderOps { remove, add }
}

fn modifiable(p: &mut Pass<'_>, name: &str) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        p.refuse("`:`-prefixed headers and host may not be modified; use the route's rewrites");
        return None;
    }
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        p.refuse(format!("{name:?} is no header name"));
    }
    parsed
}

/// Reads one header to add.
pub(crate) fn header_add(
    p: &mut Pass<'_>,
    message: &pb::core::HeaderValueOption,
) -> Option<HeaderAdd> {
    use pb::core::header_value_option::HeaderAppendAction as Pb;
    let pb::core::HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value,
    } = message;
    let action = match p.enumeration("append_action", *append_action)? {
        Pb::AppendIfExistsOrAdd => AppendAction::AppendOrAdd,
        Pb::AddIfAbsent => AppendAction::AddIfAbsent,
        Pb::OverwriteIfExistsOrAdd => AppendAction::OverwriteOrAdd,
        Pb::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    if append.is_some() && action != AppendAction::AppendOrAdd {
        p.refuse_field("append", "and append_action exclude each other");
        return None;
    }
    let action = if flag(append.as_ref(), true) {
        action
    } else {
        AppendAction::OverwriteOrAdd
    };
    let (name, value) = p.required("header", header.as_ref(), |p, header| {
        let pb::core::HeaderValue {
            key,
            value,
            raw_value,
        } = header;
        let name = p.at("key", |p| modifiable(p, key))?;
        Some((name, header_template(p, value, raw_value)?))
    })?;
    Some(HeaderAdd {
        name,
        value,
        action,
        keep_empty: *keep_empty_value,
    })
}

fn header_template(p: &mut Pass<'_>, value: &str, raw: &[u8]) -> Option<HeaderTemplate> {
    let (field, text) = if raw.is_empty() {
        ("value", value)
    } else if value.is_empty() {
        match std::str::from_utf8(raw) {
            Ok(text) => ("raw_value", text),
            Err(_) => {
                p.refuse_field("raw_value", "must be UTF-8");
                return None;
            }
        }
    } else {
        p.refuse_field("raw_value", "and value exclude each other");
        return None;
    };
    p.at(field, |p| {
        let format = Format::compile(p, text)?;
        match format.literal() {
            None => Some(HeaderTemplate::Made(format)),
            Some(fixed) => match HeaderValue::from_bytes(fixed) {
                Ok(value) => Some(HeaderTemplate::Fixed(value)),
                Err(_) => {
                    p.refuse("is no header value");
                    None
                }
            },
        }
    })
}
