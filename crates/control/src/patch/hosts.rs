//! Patches of an encoded route configuration, which may have ten thousand virtual hosts: one that
//! did not change is not patched again, and one that no patch is for is not even decoded. Must
//! never know what a virtual host is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use ahash::HashMap;
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use weft_model::{ObjectRef, PatchContext, PatchOperation, PatchTarget};
use weft_xds::{Resource, TypeUrl};
use xxhash_rust::xxh3::xxh3_128;

use super::routes::{self, Patched, Ports};
use super::{Outcome, Patches, Plan, broken_rules, contained, encode, joined};
use crate::emit::{Emitted, Fault, Origins, origins};
use crate::graph::refused_host;
use crate::pb::route::v3::{RouteConfiguration, VirtualHost};
use crate::wire::as_field;

/// Number of `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// What became of virtual hosts, by the hash of their bytes. It holds for one plan and one name of
/// a configuration, and never outgrows the hosts of the configuration.
pub(crate) type HostMemo = HashMap<u128, Arc<HostOutcome>>;

/// See [`HostMemo`].
#[derive(Debug)]
pub(crate) struct HostOutcome {
    result: HostResult,
    used: Vec<ObjectRef>,
    faults: Vec<Fault>,
}

#[derive(Debug)]
enum HostResult {
    Same,
    Gone(String),
    /// The field, encoded, and the host's domains if they are others now.
    Changed(Bytes, Option<Vec<String>>),
}

/// Of a virtual host, what patches know it by.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    domains: Vec<String>,
}

/// A route configuration taken apart: its virtual host fields, and the rest.
fn split(body: &Bytes) -> Option<(Vec<Bytes>, Vec<u8>)> {
    let (mut hosts, mut rest) = (Vec::new(), Vec::new());
    let mut left = body.clone();
    while !left.is_empty() {
        let start = body.len() - left.len();
        let (tag, wire) = decode_key(&mut left).ok()?;
        if tag == VIRTUAL_HOSTS && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut left).ok()?).ok()?;
            if length > left.len() {
                return None;
            }
            hosts.push(left.split_to(length));
        } else {
            skip_field(wire, tag, &mut left, DecodeContext::default()).ok()?;
            rest.extend_from_slice(body.get(start..body.len() - left.len())?);
        }
    }
    Some((hosts, rest))
}

/// Patches a route configuration. `before` is what this gave back the last time for the same plan
/// and name.
pub(crate) fn configuration(
    plan: &Plan,
    context: PatchContext,
    ports: &Ports,
    emitted: &Emitted,
    before: Option<&HostMemo>,
) -> (Outcome, HostMemo) {
    let same = || (Outcome::Same, HostMemo::default());
    let name = &*emitted.resource.name;
    let mut patches = plan.on(context);
    let fits = |active: &super::Active<'_>| routes::is_configuration(active, context, name, ports);
    patches.all.retain(fits);
    if patches.all.is_empty() {
        return same();
    }
    let Some((fields, rest)) = split(&emitted.resource.body.to_bytes()) else {
        return same();
    };
    let what = format!("RDS {name}");
    let from = &emitted.origins;
    let Some(head) = contained(&what, &patches, from, |patches| shell(patches, &rest)) else {
        return same();
    };
    let (shell, more) = head.result;
    let mut joint = Joint::new(&patches, what);
    joint.used.extend(head.used);
    joint.faults.extend(head.faults);
    for field in fields.iter().chain(&more) {
        joint.host(field, before);
    }
    joint.additions();
    joint.settle_domains();
    if joint.is_same() {
        return (Outcome::Same, joint.memo);
    }
    let mut body = BytesMut::from(&shell[..]);
    for piece in &joint.pieces {
        body.extend_from_slice(&as_field(VIRTUAL_HOSTS, &piece.bytes));
    }
    let used: Vec<ObjectRef> = joint.used.into_iter().collect();
    let resource = Resource::new(&TypeUrl::ROUTE, name, body.freeze());
    let faults = emitted.faults.iter().cloned().chain(joint.faults);
    let patched = Emitted {
        resource,
        origins: joined(from, &used),
        faults: faults.collect(),
    };
    (Outcome::Patched(patched), joint.memo)
}

/// The configuration but for its hosts, and hosts that come with a patch of it.
fn shell(patches: &Patches<'_>, rest: &[u8]) -> Result<(Vec<u8>, Vec<Bytes>), String> {
    if !patches.has(PatchTarget::RouteConfiguration) {
        return Ok((rest.to_vec(), Vec::new()));
    }
    let mut shell = RouteConfiguration::decode(rest).map_err(|e| e.to_string())?;
    let name = shell.name.clone();
    if !routes::shell(patches, &mut shell)? {
        return Ok((rest.to_vec(), Vec::new()));
    }
    if shell.name != name {
        return Err("the name of a route configuration cannot be changed".to_owned());
    }
    let hosts = std::mem::take(&mut shell.virtual_hosts);
    let hosts = hosts.iter().map(|host| encode(host).map(Bytes::from));
    let hosts = hosts.collect::<Result<_, _>>()?;
    let body = encode(&shell)?;
    broken_rules(&TypeUrl::ROUTE, &body)?;
    Ok((body, hosts))
}

/// A virtual host of the result.
struct Piece {
    bytes: Bytes,
    /// The form without patches, for those that have another one.
    unpatched: Option<Bytes>,
    /// Its domains, if patches may have changed them.
    domains: Option<Vec<String>>,
    used: Vec<ObjectRef>,
}

/// The hosts of the result while they are gathered.
struct Joint<'a, 'p> {
    patches: &'p Patches<'a>,
    what: String,
    pieces: Vec<Piece>,
    gone: BTreeSet<String>,
    used: BTreeSet<ObjectRef>,
    faults: Vec<Fault>,
    memo: HostMemo,
}

impl<'a, 'p> Joint<'a, 'p> {
    fn new(patches: &'p Patches<'a>, what: String) -> Self {
        Self {
            patches,
            what,
            pieces: Vec::new(),
            gone: BTreeSet::new(),
            used: BTreeSet::new(),
            faults: Vec::new(),
            memo: HostMemo::default(),
        }
    }

    fn is_same(&self) -> bool {
        self.used.is_empty() && self.faults.is_empty()
    }

    fn host(&mut self, field: &Bytes, before: Option<&HostMemo>) {
        let hash = xxh3_128(field);
        let known = before.and_then(|memo| memo.get(&hash)).map(Arc::clone);
        let outcome = known.unwrap_or_else(|| Arc::new(host(self.patches, &self.what, field)));
        self.memo.insert(hash, Arc::clone(&outcome));
        self.used.extend(outcome.used.iter().cloned());
        self.faults.extend(outcome.faults.iter().cloned());
        match &outcome.result {
            HostResult::Same => self.pieces.push(Piece {
                bytes: field.clone(),
                unpatched: None,
                domains: None,
                used: Vec::new(),
            }),
            HostResult::Gone(name) => {
                self.gone.insert(name.clone());
            }
            HostResult::Changed(bytes, domains) => self.pieces.push(Piece {
                bytes: bytes.clone(),
                unpatched: Some(field.clone()),
                domains: domains.clone(),
                used: outcome.used.clone(),
            }),
        }
    }

    fn additions(&mut self) {
        for (active, host) in routes::added(self.patches).unwrap_or_default() {
            self.used.insert(active.origin.clone());
            let Ok(bytes) = encode(&host) else { continue };
            // As in Istio what has a removed name goes with it.
            if self.gone.contains(&host.name) {
                continue;
            }
            if let Some(reason) = refused_host(&as_field(VIRTUAL_HOSTS, &bytes)) {
                self.fault(&host.name, slice::from_ref(active.origin), &reason);
                continue;
            }
            self.pieces.push(Piece {
                bytes: bytes.into(),
                unpatched: None,
                domains: Some(host.domains),
                used: vec![active.origin.clone()],
            });
        }
    }

    fn fault(&mut self, host: &str, filters: &[ObjectRef], reason: &str) {
        let message = format!(
            "{}: virtual host {host} is not patched: {reason}",
            self.what
        );
        self.faults.push(Fault {
            message: message.into(),
            origins: origins(filters.iter().cloned()),
        });
    }

    /// A domain that two hosts have makes Envoy refuse all of them: what patches brought gives way.
    fn settle_domains(&mut self) {
        if self.pieces.iter().all(|piece| piece.domains.is_none()) {
            return;
        }
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        for piece in self.pieces.iter().filter(|p| p.domains.is_none()) {
            let head = Head::decode(piece.bytes.clone()).unwrap_or_default();
            let all = head.domains.into_iter();
            taken.extend(all.map(|domain| (domain, head.name.clone())));
        }
        let mut kept = Vec::with_capacity(self.pieces.len());
        for mut piece in std::mem::take(&mut self.pieces) {
            let domains = piece.domains.take().unwrap_or_default();
            let clash = domains.iter().find_map(|d| taken.get_key_value(d));
            let Some((domain, owner)) = clash else {
                let name = Head::decode(piece.bytes.clone()).unwrap_or_default().name;
                taken.extend(domains.into_iter().map(|domain| (domain, name.clone())));
                kept.push(piece);
                continue;
            };
            let reason = format!("{owner} has the domain {domain} already");
            let name = Head::decode(piece.bytes.clone()).unwrap_or_default().name;
            self.fault(&name, &piece.used, &reason);
            if let Some(bytes) = piece.unpatched.take() {
                let head = Head::decode(bytes.clone()).unwrap_or_default();
                let all = head.domains.into_iter();
                taken.extend(all.map(|domain| (domain, head.name.clone())));
                kept.push(Piece { bytes, ..piece });
            }
        }
        self.pieces = kept;
    }
}

/// Patches one host.
fn host(patches: &Patches<'_>, what: &str, field: &Bytes) -> HostOutcome {
    let same = HostOutcome {
        result: HostResult::Same,
        used: Vec::new(),
        faults: Vec::new(),
    };
    let Ok(head) = Head::decode(field.clone()) else {
        return same;
    };
    let concerned = patches.all.iter().any(|active| {
        let host = active.patch.target == PatchTarget::VirtualHost;
        let route = active.patch.target == PatchTarget::HttpRoute;
        let adds = host && active.is(PatchOperation::Add);
        (host || route) && !adds && routes::is_host(active, &head.name, &head.domains)
    });
    if !concerned {
        return same;
    }
    let what = format!("{what}: virtual host {}", head.name);
    // The outcome is remembered, so that it must not know what the whole configuration is made of.
    let tried = contained(&what, patches, &Origins::default(), |patches| {
        apply(patches, field)
    });
    tried.map_or(same, |tried| HostOutcome {
        result: tried.result,
        used: tried.used,
        faults: tried.faults,
    })
}

fn apply(patches: &Patches<'_>, field: &Bytes) -> Result<HostResult, String> {
    let mut host = VirtualHost::decode(field.clone()).map_err(|e| e.to_string())?;
    let (name, domains) = (host.name.clone(), host.domains.clone());
    match routes::host(patches, &mut host)? {
        Patched::Same => Ok(HostResult::Same),
        Patched::Gone => Ok(HostResult::Gone(name)),
        Patched::Changed => {
            let bytes = encode(&host)?;
            if let Some(reason) = refused_host(&as_field(VIRTUAL_HOSTS, &bytes)) {
                return Err(reason);
            }
            let domains = (host.domains != domains).then_some(host.domains);
            Ok(HostResult::Changed(bytes.into(), domains))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_taken_apart_and_nothing_is_lost() {
        let whole = RouteConfiguration {
            name: "80".to_owned(),
            virtual_hosts: ["a", "b"]
                .map(|name| VirtualHost {
                    name: name.to_owned(),
                    domains: vec![name.to_owned()],
                    ..VirtualHost::default()
                })
                .to_vec(),
            ignore_port_in_host_matching: true,
            ..RouteConfiguration::default()
        };
        let (hosts, rest) = split(&whole.encode_to_vec().into()).expect("valid");
        let names: Vec<String> = hosts
            .iter()
            .map(|h| Head::decode(h.clone()).expect("a host").name)
            .collect();
        assert_eq!(names, ["a", "b"]);
        let mut body = rest;
        for host in &hosts {
            body.extend_from_slice(&as_field(VIRTUAL_HOSTS, host));
        }
        assert_eq!(RouteConfiguration::decode(&body[..]).expect("valid"), whole);
        assert_eq!(split(&Bytes::from_static(&[0x12, 0x7f, 1])), None);
    }
}
