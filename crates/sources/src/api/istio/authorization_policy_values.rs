//! The values that authorization policies compare with, and which texts they may be.

use weft_model::{AddressRange, ValueSet};

use super::authorization_policy::shared;
use crate::check::At;

/// At most so many service accounts in one list, as in Istio.
const MAX_ACCOUNTS: usize = 16;

/// A pair of lists: `name` and `notName`. Each value is checked.
pub(super) fn set(
    at: At<'_>,
    names: [&'static str; 2],
    lists: [Vec<String>; 2],
    check: fn(At<'_>, &str),
) -> ValueSet {
    for (name, list) in names.into_iter().zip(&lists) {
        let at = at.field(name);
        for (index, value) in list.iter().enumerate() {
            let at = at.index(index);
            if value.is_empty() {
                at.error("the value is empty: write one, or \"*\" for any");
            } else {
                check(at, value);
            }
        }
    }
    let [values, not_values] = lists.map(shared);
    ValueSet { values, not_values }
}

/// Accounts, of which there may not be many.
pub(super) fn service_accounts(
    at: At<'_>,
    names: [&'static str; 2],
    lists: [Vec<String>; 2],
) -> ValueSet {
    for (name, list) in names.into_iter().zip(&lists) {
        if list.len() > MAX_ACCOUNTS {
            at.field(name).error(format_args!(
                "there are {}: at most {MAX_ACCOUNTS} may be named",
                list.len()
            ));
        }
    }
    set(at, names, lists, service_account)
}

/// Any text.
pub(super) fn any(_: At<'_>, _: &str) {}

/// `account` or `namespace/account`.
pub(super) fn service_account(at: At<'_>, value: &str) {
    let parts: Vec<&str> = value.split('/').collect();
    let fits = matches!(parts[..], [account] | [_, account] if !account.is_empty())
        && parts.first().is_some_and(|first| !first.is_empty())
        && !value.contains('*')
        && value.len() <= 320;
    if !fits {
        at.error(format_args!(
            "\"{value}\" is no service account: write \"account\" or \"namespace/account\", without wildcards"
        ));
    }
}

/// A wildcard only at one end, or alone.
pub(super) fn wildcard(at: At<'_>, value: &str) {
    let stars = value.matches('*').count();
    let at_an_end = value.starts_with('*') || value.ends_with('*');
    if stars > 1 || (stars == 1 && !at_an_end) {
        at.error(format_args!(
            "\"{value}\" has a wildcard within: one \"*\" may stand at the start or the end"
        ));
    }
}

/// A trust domain, perhaps with a wildcard.
pub(super) fn trust_domain(at: At<'_>, value: &str) {
    wildcard(at, value);
    if value.contains('/') {
        at.error(format_args!(
            "\"{value}\" is no trust domain: it holds a '/'"
        ));
    }
}

/// An address or a range.
pub(super) fn ip_block(at: At<'_>, value: &str) {
    at.ok(AddressRange::parse(value));
}

/// A port.
pub(super) fn port(at: At<'_>, value: &str) {
    if value.parse::<u16>().is_err() {
        at.error(format_args!("\"{value}\" is no port: use 0 to 65535"));
    }
}

/// A path, or a template with `{*}` and, after all of those, `{**}`.
pub(super) fn path(at: At<'_>, value: &str) {
    let is_template = value.contains("{*}") || value.contains("{**}");
    if is_template && !value.starts_with('/') {
        at.error(format_args!(
            "\"{value}\" is a template and must start with '/'"
        ));
    }
    let mut ended = false;
    for part in value.trim_matches('/').split('/') {
        match part {
            "{*}" | "{**}" if ended => {
                at.error(format_args!(
                    "\"{value}\": nothing but plain parts may follow \"{{**}}\""
                ));
                return;
            }
            "{*}" => {}
            "{**}" => ended = true,
            _ if part.contains(['{', '}']) => {
                at.error(format_args!(
                    "\"{value}\": \"{part}\" is neither \"{{*}}\" nor \"{{**}}\", and braces mean nothing else"
                ));
                return;
            }
            _ if is_template && !is_literal(part) => {
                at.error(format_args!(
                    "\"{value}\": \"{part}\" is no part of a path: use letters, digits and -._~%!$&'()+,;:@="
                ));
                return;
            }
            _ => {}
        }
    }
}

/// RFC 3986, `pchar`, as templates of Envoy have them.
fn is_literal(part: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
    !part.is_empty() && part.bytes().all(fits)
}
