//! Conditions of authorization policies: the name of an attribute, and its values.

use std::sync::Arc;

use weft_model::{AccessCondition, Attribute};
use weft_proto::istio::security::v1beta1 as pb;

use super::authorization_policy_values::{any, ip_block, port, service_accounts, set, wildcard};
use crate::check::At;

const FILTERS: &str = "experimental.";

pub(super) fn condition(
    message: pb::Condition,
    custom: bool,
    at: At<'_>,
) -> Option<AccessCondition> {
    let pb::Condition {
        key,
        values,
        not_values,
    } = message;
    if values.is_empty() && not_values.is_empty() {
        at.error("there is neither values nor notValues: write one of them");
    }
    let place = at.field("key");
    let attribute = match attribute(&key) {
        Ok(attribute) => attribute,
        Err(text) => {
            place.error(text);
            return None;
        }
    };
    if custom && by_identity(&attribute) {
        place.error(format_args!(
            "{key} cannot be used with the action CUSTOM: callers are not known yet when the provider is asked"
        ));
    }
    let (names, lists) = (["values", "notValues"], [values, not_values]);
    let set = match &attribute {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            set(at, names, lists, ip_block)
        }
        Attribute::DestinationPort => set(at, names, lists, port),
        Attribute::SourceServiceAccount => service_accounts(at, names, lists),
        Attribute::SourceTrustDomain => set(at, names, lists, wildcard),
        _ => set(at, names, lists, any),
    };
    Some(AccessCondition { attribute, set })
}

fn by_identity(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::SourceNamespace
            | Attribute::SourceServiceAccount
            | Attribute::SourceTrustDomain
            | Attribute::SourcePrincipal
            | Attribute::RequestPrincipal
            | Attribute::RequestAudiences
            | Attribute::RequestPresenter
            | Attribute::RequestClaim(_)
    )
}

fn attribute(key: &str) -> Result<Attribute, String> {
    let plain = match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "source.namespace" => Attribute::SourceNamespace,
        "source.serviceAccount" => Attribute::SourceServiceAccount,
        "source.principal" => Attribute::SourcePrincipal,
        "source.trustDomain" => Attribute::SourceTrustDomain,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::RequestAudiences,
        "request.auth.presenter" => Attribute::RequestPresenter,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::DestinationPort,
        "connection.sni" => Attribute::ConnectionSni,
        _ => return of_map(key),
    };
    Ok(plain)
}

/// Attributes that are maps: `name[key]`.
fn of_map(key: &str) -> Result<Attribute, String> {
    let form = || format!("\"{key}\" is not of the form name[key]");
    let inside = |prefix: &str| -> Result<Option<&str>, String> {
        let Some(rest) = key.strip_prefix(prefix) else {
            return Ok(None);
        };
        let inside = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
        inside.filter(|i| !i.is_empty()).map(Some).ok_or_else(form)
    };
    if let Some(name) = inside("request.headers")? {
        let fits = |b: u8| weft_proto::format::is_token(b) || b == b':';
        return if name.bytes().all(fits) {
            Ok(Attribute::RequestHeader(name.into()))
        } else {
            Err(format!("\"{name}\" is no name of a header"))
        };
    }
    if let Some(path) = inside("request.auth.claims")? {
        let parts: Vec<&str> = path.split("][").collect();
        let nested = parts
            .iter()
            .all(|p| !p.is_empty() && !p.contains(['[', ']']));
        // Brackets that do not pair up are part of the name of one claim, as in Istio.
        let parts = if nested { parts } else { vec![path] };
        return Ok(Attribute::RequestClaim(
            parts.into_iter().map(Arc::from).collect(),
        ));
    }
    if let Some(rest) = key
        .strip_prefix(FILTERS)
        .filter(|r| r.starts_with("envoy.filters."))
    {
        let parts = rest.strip_suffix(']').and_then(|rest| rest.split_once('['));
        return match parts {
            Some((filter, name)) if !name.is_empty() => Ok(Attribute::FilterMetadata {
                filter: filter.into(),
                key: name.into(),
            }),
            _ => Err(form()),
        };
    }
    Err(match key {
        "" => "there is no key: name an attribute such as source.ip".to_owned(),
        "destination.namespace" => {
            format!("{key} is said by the policy's own namespace: remove the condition")
        }
        "destination.name" | "destination.user" => {
            format!("{key} is of an older API: use the selector")
        }
        _ if key.starts_with("destination.labels") => format!("{key} is said by the selector"),
        _ => format!("\"{key}\" is no attribute of Istio's authorization conditions"),
    })
}
