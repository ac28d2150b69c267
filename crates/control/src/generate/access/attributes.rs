//! Attributes of calls as Envoy's conditions: which are permissions and which principals, and in
//! which order istiod writes them. Must never know rules.

use std::sync::Arc;

use weft_model::{
    AccessOperation, AccessSource, AddressRange, Attribute, MeshSettings, Namespace, ValueSet,
};

use super::matchers::{
    claims, contains_template, header, host, identity, metadata, path, quoted, regex, request_id,
    template, text, text_with_prefix, values,
};
use super::rules::{Clause, IntoPart};
use crate::pb;
use crate::pb::core::v3::CidrRange;
use crate::pb::matcher::{MetadataMatcher, StringMatcher};
use crate::pb::rbac::{Permission, Principal, permission, principal};

/// It cannot be expressed.
#[derive(Debug)]
pub(super) struct Refused;

type Made<P> = Result<P, Refused>;

/// What is called.
pub(super) fn operation(operation: &AccessOperation, tcp: bool) -> Vec<Clause<'_, Permission>> {
    let header = move |matcher| http_only(tcp, permission::Rule::Header(matcher).into_part());
    vec![
        Clause::each(&operation.hosts, move |value| header(host(value))),
        Clause::each(&operation.methods, move |value| {
            header(self::header(":method", value))
        }),
        Clause::each(&operation.paths, move |value| {
            let rule = if contains_template(value) {
                permission::Rule::UriTemplate(template(value))
            } else {
                permission::Rule::UrlPath(path(value))
            };
            http_only(tcp, rule.into_part())
        }),
        Clause::each(&operation.ports, port),
    ]
}

fn http_only<P>(tcp: bool, part: P) -> Made<P> {
    if tcp { Err(Refused) } else { Ok(part) }
}

fn port(value: &str) -> Made<Permission> {
    let port = value.parse::<u16>().map_err(|_| Refused)?;
    Ok(permission::Rule::DestinationPort(port.into()).into_part())
}

fn range(value: &str) -> Made<CidrRange> {
    let range = AddressRange::parse(value).map_err(|_| Refused)?;
    Ok(pb::cidr(range.ip, range.prefix_len))
}

/// Conditions on the server's side of a call.
#[allow(deprecated)] // istiod's form, which older proxies know
pub(super) fn of_permission<'a>(
    attribute: &'a Attribute,
    set: &'a ValueSet,
) -> Option<Clause<'a, Permission>> {
    Some(match attribute {
        Attribute::DestinationIp => Clause::each(set, |value| {
            Ok(permission::Rule::DestinationIp(range(value)?).into_part())
        }),
        Attribute::DestinationPort => Clause::each(set, port),
        Attribute::ConnectionSni => Clause::each(set, |value| {
            Ok(permission::Rule::RequestedServerName(text(value)).into_part())
        }),
        Attribute::FilterMetadata { filter, key } => Clause::together(set, move |list| {
            let matcher = metadata(filter, &[key], values(list, true));
            Ok(permission::Rule::Metadata(matcher).into_part())
        }),
        _ => return None,
    })
}

/// Who calls, the last condition of istiod's first.
pub(super) fn source<'a>(
    source: &'a AccessSource,
    own: &'a Namespace,
    tcp: bool,
) -> Vec<Clause<'a, Principal>> {
    vec![
        Clause::each(&source.principals, by_principal),
        Clause::together(&source.request_principals, move |list| {
            http_only(tcp, by_request_principal(list))
        }),
        Clause::each(&source.service_accounts, move |value| {
            Ok(by_account(own, value))
        }),
        Clause::each(&source.trust_domains, by_trust_domain),
        Clause::each(&source.namespaces, by_namespace),
        Clause::each(&source.remote_ip_blocks, by_remote_ip),
        Clause::each(&source.ip_blocks, by_ip),
    ]
}

/// Conditions on the client's side of a call.
pub(super) fn of_principal<'a>(
    attribute: &'a Attribute,
    set: &'a ValueSet,
    own: &'a Namespace,
    tcp: bool,
) -> Option<Clause<'a, Principal>> {
    let claim = move |path: Vec<&'a str>| {
        Clause::together(set, move |list: &[&str]| {
            http_only(tcp, by_metadata(claims(&path, list)))
        })
    };
    Some(match attribute {
        Attribute::SourceIp => Clause::each(set, by_ip),
        Attribute::RemoteIp => Clause::each(set, by_remote_ip),
        Attribute::SourceNamespace => Clause::each(set, by_namespace),
        Attribute::SourceServiceAccount => {
            Clause::each(set, move |value| Ok(by_account(own, value)))
        }
        Attribute::SourcePrincipal => Clause::each(set, by_principal),
        Attribute::SourceTrustDomain => Clause::each(set, by_trust_domain),
        Attribute::RequestPrincipal => {
            Clause::together(set, move |list| http_only(tcp, by_request_principal(list)))
        }
        Attribute::RequestAudiences => claim(vec!["aud"]),
        Attribute::RequestPresenter => claim(vec!["azp"]),
        Attribute::RequestClaim(path) => claim(path.iter().map(AsRef::as_ref).collect()),
        Attribute::RequestHeader(name) => Clause::each(set, move |value| {
            let header = principal::Identifier::Header(header(name, value));
            http_only(tcp, header.into_part())
        }),
        _ => return None,
    })
}

fn authenticated(name: StringMatcher) -> Principal {
    principal::Identifier::Authenticated(principal::Authenticated {
        principal_name: Some(name),
    })
    .into_part()
}

#[allow(clippy::unnecessary_wraps)] // one signature for all makers
fn by_principal(value: &str) -> Made<Principal> {
    Ok(authenticated(text_with_prefix(value, "spiffe://")))
}

#[allow(clippy::unnecessary_wraps)] // as above
fn by_namespace(value: &str) -> Made<Principal> {
    let parts: Vec<String> = value.split('*').map(quoted).collect();
    Ok(authenticated(regex(&format!(
        ".*/ns/{}/.*",
        parts.join(".*")
    ))))
}

fn by_account(own: &Namespace, value: &str) -> Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((own.as_str(), value));
    authenticated(regex(&format!(
        "spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?",
        quoted(namespace),
        quoted(account)
    )))
}

#[allow(clippy::unnecessary_wraps)] // as above
fn by_trust_domain(value: &str) -> Made<Principal> {
    Ok(authenticated(match value.split_once('*') {
        Some(("", "")) => identity("spiffe://"),
        Some((before, after)) => regex(&format!(
            "spiffe://{}[^/]*{}/.*",
            quoted(before),
            quoted(after)
        )),
        None => identity(&format!("spiffe://{value}/")),
    }))
}

fn by_ip(value: &str) -> Made<Principal> {
    Ok(principal::Identifier::DirectRemoteIp(range(value)?).into_part())
}

fn by_remote_ip(value: &str) -> Made<Principal> {
    Ok(principal::Identifier::RemoteIp(range(value)?).into_part())
}

#[allow(deprecated)] // istiod's form, which older proxies know
fn by_metadata(matcher: MetadataMatcher) -> Principal {
    principal::Identifier::Metadata(matcher).into_part()
}

fn by_request_principal(list: &[&str]) -> Principal {
    let each = list.iter().map(|value| {
        let [issuer, subject] = request_id(value);
        principal::Identifier::AndIds(principal::Set {
            ids: vec![by_metadata(issuer), by_metadata(subject)],
        })
        .into_part()
    });
    let mut ids: Vec<Principal> = each.collect();
    match ids.len() {
        1 => ids.remove(0),
        _ => principal::Identifier::OrIds(principal::Set { ids }).into_part(),
    }
}

/// The same values, and those that the trust domain's other names make of them.
pub(super) fn with_aliases(mesh: &MeshSettings, attribute: &Attribute, set: &ValueSet) -> ValueSet {
    match attribute {
        Attribute::SourcePrincipal => each_list(set, |list| principals(mesh, list)),
        Attribute::SourceTrustDomain => each_list(set, |list| domains(mesh, list)),
        _ => set.clone(),
    }
}

pub(super) fn source_with_aliases(mesh: &MeshSettings, source: &AccessSource) -> AccessSource {
    AccessSource {
        principals: with_aliases(mesh, &Attribute::SourcePrincipal, &source.principals),
        trust_domains: with_aliases(mesh, &Attribute::SourceTrustDomain, &source.trust_domains),
        ..source.clone()
    }
}

fn each_list(set: &ValueSet, widen: impl Fn(&[Arc<str>]) -> Vec<Arc<str>>) -> ValueSet {
    ValueSet {
        values: widen(&set.values),
        not_values: widen(&set.not_values),
    }
}

fn all_domains(mesh: &MeshSettings) -> impl Iterator<Item = &Arc<str>> {
    std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases)
}

fn domains(mesh: &MeshSettings, list: &[Arc<str>]) -> Vec<Arc<str>> {
    let mut out: Vec<Arc<str>> = Vec::new();
    for value in list {
        let own = all_domains(mesh).any(|domain| domain == value);
        let all: Vec<&Arc<str>> = if own {
            all_domains(mesh).collect()
        } else {
            vec![value]
        };
        for value in all {
            if !out.contains(value) {
                out.push(Arc::clone(value));
            }
        }
    }
    out
}

/// A principal of the own trust domain (`cluster.local` always means that one) is one of all its
/// names. Texts of another form say nothing about the trust domain.
fn principals(mesh: &MeshSettings, list: &[Arc<str>]) -> Vec<Arc<str>> {
    let mut out = Vec::new();
    for value in list {
        let parts: Vec<&str> = value.split('/').collect();
        let [domain, rest @ ..] = &parts[..] else {
            continue;
        };
        let own = all_domains(mesh).any(|known| fits(known, domain)) || *domain == "cluster.local";
        if rest.len() != 4 || *domain == "*" || !own {
            out.push(Arc::clone(value));
            continue;
        }
        let mut all: Vec<Arc<str>> = Vec::new();
        for known in all_domains(mesh) {
            let same: Arc<str> = if ends(known, domain) {
                Arc::clone(value)
            } else {
                format!("{known}/{}", rest.join("/")).into()
            };
            if !all.contains(&same) {
                all.push(same);
            }
        }
        out.extend(all);
    }
    out
}

/// Whether a trust domain is the one that is meant, perhaps with a wildcard.
fn fits(known: &str, meant: &str) -> bool {
    let starts = |meant: &str| {
        meant
            .strip_suffix('*')
            .is_some_and(|m| known.starts_with(m))
    };
    known == meant || starts(meant) || ends(known, meant)
}

fn ends(known: &str, meant: &str) -> bool {
    meant.strip_prefix('*').is_some_and(|m| known.ends_with(m))
}
