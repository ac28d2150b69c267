//! What the data plane does with a head before it looks for a route: one form of hosts and paths.

use std::borrow::Cow;

use http::Method;
use http::header::{HOST, HeaderValue};
use weft_config::HttpManager;
use weft_config::http_manager::is_host;
use weft_config::http_options::UnderscoreAction;
use weft_config::path::{PathRules, PathVerdict, clean};

use super::End;
use super::call::Head;

/// Brings a head into the form that rules look at; `local` is the port that was called.
pub(super) fn admit(
    manager: &HttpManager,
    head: &mut Head,
    local: u16,
    notes: &mut Vec<String>,
) -> Result<(), End> {
    let bad = |why: &str| End::answered("refused", 400, why);
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("there is not one host header"));
    };
    let host = host.to_str().ok().filter(|host| is_host(host));
    let host = host.ok_or_else(|| bad("the host header is no host"))?;
    let stripped = manager.stripped_host(host, local);
    if let Some(host) = stripped.and_then(|host| HeaderValue::from_str(&host).ok()) {
        head.headers.insert(HOST, host);
    }
    underscores(manager, head)?;
    if head.method == Method::CONNECT {
        return Err(End::answered("refused", 404, "no proxy takes a CONNECT"));
    }
    path(manager, head, notes)
}

fn underscores(manager: &HttpManager, head: &mut Head) -> Result<(), End> {
    let names = head.headers.keys();
    let with: Vec<_> = names
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    match manager.common.underscores {
        UnderscoreAction::Allow => {}
        UnderscoreAction::Reject if with.is_empty() => {}
        UnderscoreAction::Reject => {
            let why = "names of headers must have no underscore here";
            return Err(End::answered("refused", 400, why));
        }
        UnderscoreAction::Drop => {
            for name in with {
                head.headers.remove(name);
            }
        }
    }
    Ok(())
}

fn path(manager: &HttpManager, head: &mut Head, notes: &mut Vec<String>) -> Result<(), End> {
    if head.path == "*" {
        return Err(End::answered(
            "refused",
            404,
            "the path is no path of a resource",
        ));
    }
    let bad = || End::answered("refused", 400, format!("the path {} is none", head.path));
    if !head.path.starts_with('/') {
        return Err(bad());
    }
    let clean = match clean(&head.path, PathRules::of(manager)) {
        PathVerdict::Use(Cow::Borrowed(_)) => return Ok(()),
        PathVerdict::Use(Cow::Owned(clean)) => clean,
        PathVerdict::Redirect(to) => {
            let why = format!("slashes are escaped in the path: redirect to {to}");
            return Err(End::answered("redirected", 307, why));
        }
        PathVerdict::Reject => return Err(bad()),
    };
    if clean != head.path {
        notes.push(format!("the path {} counts as {clean}", head.path));
    }
    head.path = clean;
    Ok(())
}
