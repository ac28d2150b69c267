//! The table from which an agent answers its workload's DNS queries (NDS), in pieces that are
//! concatenated. Must never know who sees which service.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use prost::Message;
use weft_model::{Endpoint, Health, Kind, Resolution, Service};
use weft_proto::istio::networking::nds::v1::name_table::NameInfo;
use weft_xds::{Resource, TypeUrl};

/// The name of the one resource; Istio's has none, and its agents look for none.
const NAME: &str = "name-table";

/// One entry of the table's map, as the wire has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<NameInfo>,
}

/// The table with a few entries only.
#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(message, repeated, tag = "1")]
    table: Vec<Entry>,
}

/// The entries of a service: its host with the addresses that clients are to use, and the names of
/// single pods of a headless one. `addresses` are its own that the proxy can use, `endpoints` those
/// that it can reach. None if there is no address to give.
pub(crate) fn entries(service: &Service, addresses: &[IpAddr], endpoints: &[Endpoint]) -> Vec<u8> {
    let is_kubernetes = service.origin.kind == Kind::Service;
    let mut info = NameInfo {
        ips: addresses.iter().map(IpAddr::to_string).collect(),
        registry: if is_kubernetes {
            "Kubernetes"
        } else {
            "External"
        }
        .to_owned(),
        ..NameInfo::default()
    };
    let mut part = Part::default();
    if service.addresses.is_empty() && service.assigned.is_empty() && is_headless(service) {
        for endpoint in endpoints.iter().filter(|e| e.health == Health::Healthy) {
            let Some(ip) = endpoint.address.ip().map(|ip| ip.to_string()) else {
                continue;
            };
            if info.ips.contains(&ip) {
                continue;
            }
            if let (true, Some(pod)) = (is_kubernetes, &endpoint.hostname) {
                part.add_pod(service, pod, &ip, &info.registry);
            }
            info.ips.push(ip);
        }
    }
    if info.ips.is_empty() {
        return Vec::new();
    }
    if is_kubernetes {
        info.shortname = service.name.to_string();
        info.namespace = service.namespace.to_string();
    }
    part.table.push(Entry {
        key: service.hostname.to_string(),
        value: Some(info),
    });
    part.encode_to_vec()
}

/// Whether clients choose among the endpoints themselves.
fn is_headless(service: &Service) -> bool {
    let chosen = service.headless || service.resolution == Resolution::Passthrough;
    chosen && !service.ports.is_empty()
}

impl Part {
    /// `pod.service.namespace.svc.domain`, as Kubernetes names the pods of a headless service.
    fn add_pod(&mut self, service: &Service, pod: &str, ip: &str, registry: &str) {
        let Some((_, domain)) = service.hostname.as_str().split_once('.') else {
            return;
        };
        let shortname = format!("{pod}.{}", service.name);
        let key = format!("{shortname}.{domain}");
        if let Some(known) = self.table.iter_mut().find(|entry| entry.key == key) {
            known.value.get_or_insert_default().ips.push(ip.to_owned());
            return;
        }
        let value = NameInfo {
            ips: vec![ip.to_owned()],
            registry: registry.to_owned(),
            shortname,
            namespace: service.namespace.to_string(),
            ..NameInfo::default()
        };
        self.table.push(Entry {
            key,
            value: Some(value),
        });
    }
}

/// The table of these pieces.
pub(crate) fn table<'a>(pieces: impl Iterator<Item = &'a Bytes> + Clone) -> Resource {
    let mut body = BytesMut::with_capacity(pieces.clone().map(Bytes::len).sum());
    for piece in pieces {
        body.extend_from_slice(piece);
    }
    Resource::new(&TypeUrl::NAME_TABLE, NAME, body.freeze())
}
