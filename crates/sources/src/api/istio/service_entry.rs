//! `ServiceEntry` → one [`Service`] a host, with its endpoints. Rules of validity follow Istio's
//! `ValidateServiceEntry`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_model::{
    AddressRange, Endpoint, EndpointAddress, Health, Hostname, Kind, Locality, Preference,
    Protocol, Resolution, RpcProtocol, Service, ServicePort, TargetPort, Weight, Workload,
};

use weft_proto::yaml::Node;

use super::message as pb;
use super::workload_entry::{Wanted, workload};
use crate::api::kubernetes::annotated_preference;
use crate::check::{At, Context};
use crate::registry::allocate;

/// A service and the endpoints that its entry lists; those of selected workloads are added when
/// the registry is put together.
pub(crate) type HostService = (Service, Vec<Endpoint>);

/// What an object says beside its `spec`.
pub(crate) struct Beside {
    /// Addresses that its status has.
    assignments: Vec<Assignment>,
    /// See [`Service::races`].
    races: bool,
    /// See [`Service::preference`].
    preference: Option<Preference>,
}

impl Beside {
    /// Reads it from the whole object.
    pub(crate) fn of(object: &Node, context: &Context<'_>, root: At<'_>) -> Self {
        Self {
            assignments: assignments(object, root),
            races: races(context, root),
            preference: annotated_preference(context, &root),
        }
    }
}

pub(crate) fn convert(
    message: pb::ServiceEntry,
    beside: &Beside,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Vec<HostService>> {
    let pb::ServiceEntry {
        hosts,
        addresses,
        ports,
        location,
        resolution,
        endpoints,
        workload_selector,
        export_to,
        subject_alt_names,
    } = message;
    let resolution = resolution_of(resolution, at.field("resolution"))?;
    let external = match at
        .field("location")
        .ok(pb::service_entry::Location::try_from(location))
    {
        Some(pb::service_entry::Location::MeshInternal) => false,
        Some(pb::service_entry::Location::MeshExternal) | None => true,
    };
    let ports = ports_of(ports, at.field("ports"));
    let addresses = addresses_of(&addresses, resolution, at.field("addresses"));
    check_endpoints(&endpoints, workload_selector.is_some(), resolution, &at);
    if resolution == Resolution::DynamicDns {
        check_dynamic(&hosts, &addresses, &ports, &at);
    }
    let workloads = workloads_of(
        endpoints,
        &ports,
        resolution,
        context,
        at.field("endpoints"),
    );
    let selector = workload_selector.map(|pb::WorkloadSelector { labels }| {
        let at = at.field("workloadSelector");
        if labels.is_empty() {
            at.error("selects nothing: write labels");
        }
        at.field("labels").labels(labels)
    });
    let export_to = at.field("exportTo").export_to(
        &export_to,
        context.namespace(),
        context.settings.default_service_export_to.as_ref(),
    );
    check_hosts_of_bytes(hosts.len(), &ports, resolution, &at);
    let hosts = hosts_of(
        &hosts,
        resolution,
        workloads.is_empty() && selector.is_none(),
        at.field("hosts"),
    );
    let services = hosts.into_iter().map(|hostname| {
        let mut service = Service {
            namespace: context.namespace().clone(),
            // As in Istio: of several hosts each is a service of its own name.
            name: hostname.as_str().into(),
            hostname,
            addresses: addresses.clone(),
            assigned: Vec::new(),
            ports: ports.clone(),
            resolution,
            external,
            export_to: export_to.clone(),
            subject_alt_names: subject_alt_names
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            selector: selector.clone(),
            external_addresses: Vec::new(),
            headless: false,
            races: beside.races,
            preference: beside.preference,
            created: context.created,
            origin: context.origin.clone(),
            labels: context.labels.clone(),
        };
        if allocate::may_be_assigned(&service) {
            service.assigned = assigned(&beside.assignments, &service.hostname);
        }
        let mut endpoints: Vec<Endpoint> = workloads
            .iter()
            .map(|workload| endpoint(workload, &service))
            .collect();
        if endpoints.is_empty() && service.selector.is_none() {
            endpoints.extend(own_name(&service));
        }
        (service, endpoints)
    });
    Some(services.collect())
}

/// The annotation that says how names are called.
const CONNECT_STRATEGY: &str = "istio.io/connect-strategy";
/// Its only value besides none.
const RACE: &str = "RACE_FIRST_TCP_CONNECT";

fn races(context: &Context<'_>, root: At<'_>) -> bool {
    let Some(said) = context.annotations.get(CONNECT_STRATEGY) else {
        return false;
    };
    let races = said.eq_ignore_ascii_case(RACE);
    if !races {
        let metadata = root.field("metadata");
        let annotations = metadata.field("annotations");
        annotations.key(CONNECT_STRATEGY).error(format_args!(
            "\"{said}\" is no strategy: write {RACE}, or remove it"
        ));
    }
    races
}

/// An address that a control plane gave to a host (`status.addresses`).
struct Assignment {
    host: String,
    address: IpAddr,
}

/// The addresses that Istio's allocator has written into an object; what else a status says is
/// of no interest.
fn assignments(object: &Node, at: At<'_>) -> Vec<Assignment> {
    let list = object
        .get("status")
        .and_then(|status| status.get("addresses"));
    let items = list.and_then(Node::items).unwrap_or_default();
    let (status, text) = (at.field("status"), |node: &Node, name: &str| {
        node.get(name)
            .and_then(Node::as_str)
            .unwrap_or_default()
            .to_owned()
    });
    let list = status.field("addresses");
    let assignment = |(index, node): (usize, &Node)| {
        let value = text(node, "value");
        let Ok(address) = value.parse() else {
            let at = list.index(index);
            at.field("value").error(format_args!(
                "\"{value}\" is no IP address: use one, or remove the status"
            ));
            return None;
        };
        Some(Assignment {
            host: text(node, "host"),
            address,
        })
    };
    items.iter().enumerate().filter_map(assignment).collect()
}

/// The addresses of a host, at most one of each family (the last one written, as in Istio), IPv4
/// first.
fn assigned(assignments: &[Assignment], host: &Hostname) -> Vec<IpAddr> {
    let last = |v4: bool| {
        let mut own = assignments.iter().rev();
        own.find(|a| a.host == host.as_str() && a.address.is_ipv4() == v4)
            .map(|a| a.address)
    };
    [last(true), last(false)].into_iter().flatten().collect()
}

/// An endpoint of `service` at a workload that a `ServiceEntry` lists or selects: the workload's
/// port of the same name, else the target port, else the same number.
pub(crate) fn endpoint(workload: &Workload, service: &Service) -> Endpoint {
    let port_of = |port: &ServicePort| {
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(_) => port.number,
        };
        // Names of a pod's ports are its containers' own business.
        let named = match workload.origin.kind {
            Kind::Pod => None,
            _ => workload.ports.get(&port.name).copied(),
        };
        (port.number, named.unwrap_or(target))
    };
    Endpoint {
        // A workload without an address is refused, unless a gateway leads to it.
        address: workload
            .addresses
            .first()
            .cloned()
            .unwrap_or(EndpointAddress::Hidden),
        ports: service.ports.iter().map(port_of).collect(),
        labels: workload.labels.clone(),
        locality: workload.locality.clone(),
        weight: workload.weight,
        health: workload.health,
        network: workload.network.clone(),
        service_account: workload.service_account.clone(),
        hostname: None,
        namespace: workload.origin.namespace.clone(),
        origin: workload.origin.clone(),
    }
}

/// A DNS service without endpoints is found under its own name.
fn own_name(service: &Service) -> Option<Endpoint> {
    if !matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    ) {
        return None;
    }
    let workload = Workload {
        origin: service.origin.clone(),
        addresses: vec![EndpointAddress::Dns(service.hostname.as_str().into())],
        labels: weft_model::Labels::new(),
        ports: BTreeMap::new(),
        service_account: None,
        locality: Locality::default(),
        network: "".into(),
        weight: Weight(1),
        health: Health::Healthy,
        node: None,
        hostname: None,
    };
    Some(endpoint(&workload, service))
}

fn resolution_of(value: i32, at: At<'_>) -> Option<Resolution> {
    use pb::service_entry::Resolution as Written;
    Some(match at.ok(Written::try_from(value))? {
        Written::None => Resolution::Passthrough,
        Written::Static => Resolution::Static,
        Written::Dns => Resolution::Dns,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
        Written::DynamicDns => Resolution::DynamicDns,
    })
}

fn ports_of(ports: Vec<pb::ServicePort>, at: At<'_>) -> Vec<ServicePort> {
    if ports.is_empty() {
        at.error("there is no port: write at least one");
    }
    let mut found: Vec<ServicePort> = Vec::with_capacity(ports.len());
    for (index, port) in ports.into_iter().enumerate() {
        let at = at.index(index);
        let pb::ServicePort {
            number,
            protocol: protocol_name,
            name,
            target_port,
        } = port;
        if name.is_empty() {
            at.field("name").error("the port has no name: give it one");
        }
        let protocol = Protocol::parse(&protocol_name);
        if protocol == Protocol::Unsupported && !protocol_name.is_empty() {
            at.field("protocol").error(format_args!(
                "\"{protocol_name}\" is no protocol: use HTTP, HTTPS, HTTP2, GRPC, TCP, TLS, UDP, MONGO, MYSQL or REDIS"
            ));
        }
        let target = at.field("targetPort").optional_port(target_port);
        let Some(number) = at.field("number").port(number) else {
            continue;
        };
        if found.iter().any(|other| other.number == number) {
            at.field("number")
                .error(format_args!("port {number} is defined twice: remove one"));
            continue;
        }
        if found.iter().any(|other| *other.name == name) {
            at.field("name").error(format_args!(
                "port name \"{name}\" is used twice: rename one"
            ));
        }
        let target = TargetPort::Number(target.unwrap_or(number));
        found.push(ServicePort {
            number,
            rpc: RpcProtocol::of_port(&name, None, protocol),
            name: name.into(),
            protocol,
            target,
        });
    }
    found.sort_by_key(|port| port.number);
    found
}

fn addresses_of(list: &[String], resolution: Resolution, at: At<'_>) -> Vec<AddressRange> {
    let mut found = Vec::with_capacity(list.len());
    for (index, text) in list.iter().enumerate() {
        let at = at.index(index);
        let Some(range) = at.ok(AddressRange::parse(text)) else {
            continue;
        };
        let takes_ranges = matches!(resolution, Resolution::Passthrough | Resolution::Static);
        if !range.is_host() && !takes_ranges {
            at.error("a CIDR range needs resolution NONE or STATIC: write single addresses");
        }
        if found.contains(&range) {
            at.error(format_args!("address {range} is written twice: remove one"));
            continue;
        }
        found.push(range);
    }
    found
}

fn check_endpoints(
    endpoints: &[pb::WorkloadEntry],
    selects: bool,
    resolution: Resolution,
    at: &At<'_>,
) {
    if selects && !endpoints.is_empty() {
        at.field("endpoints")
            .error("cannot stand beside workloadSelector: keep one of them");
    }
    match resolution {
        Resolution::Passthrough if !endpoints.is_empty() => {
            at.field("endpoints")
                .error("are not used by resolution NONE: use STATIC or DNS, or remove them");
        }
        Resolution::Passthrough if selects => {
            at.field("workloadSelector")
                .error("is not used by resolution NONE: use STATIC");
        }
        Resolution::DynamicDns if !endpoints.is_empty() => {
            at.field("endpoints")
                .error("are not used by resolution DYNAMIC_DNS: use DNS, or remove them");
        }
        Resolution::DynamicDns if selects => {
            at.field("workloadSelector")
                .error("is not used by resolution DYNAMIC_DNS: use STATIC, or remove it");
        }
        Resolution::Static if endpoints.is_empty() && !selects => {
            at.error("resolution STATIC needs endpoints or a workloadSelector");
        }
        Resolution::DnsRoundRobin if endpoints.len() > 1 => {
            at.field("endpoints")
                .error("resolution DNS_ROUND_ROBIN takes one endpoint: use DNS for several");
        }
        _ => {}
    }
}

/// What Istio demands of hosts whose names are looked up as they are called.
fn check_dynamic(hosts: &[String], addresses: &[AddressRange], ports: &[ServicePort], at: &At<'_>) {
    for (index, _) in hosts
        .iter()
        .enumerate()
        .filter(|(_, h)| !h.starts_with('*'))
    {
        let at = at.field("hosts");
        at.index(index)
            .error("resolution DYNAMIC_DNS is for wildcards: write one, or use DNS");
    }
    if !addresses.is_empty() {
        at.field("addresses")
            .error("are not used by resolution DYNAMIC_DNS: remove them");
    }
    for port in ports {
        let known = [
            Protocol::Http,
            Protocol::Http2,
            Protocol::Grpc,
            Protocol::Tls,
        ];
        if !known.contains(&port.protocol) {
            at.field("ports").error(format_args!(
                "port {} cannot be resolved by name: use HTTP, HTTP2, GRPC or TLS",
                port.number
            ));
        }
    }
}

/// What is no HTTP and has no server name does not say which host it is for.
fn check_hosts_of_bytes(hosts: usize, ports: &[ServicePort], resolution: Resolution, at: &At<'_>) {
    let bytes = |port: &&ServicePort| !port.protocol.is_http() && !port.protocol.is_tls();
    let port = ports.iter().find(bytes);
    if let (true, Some(port)) = (hosts > 1 && resolution != Resolution::Passthrough, port) {
        at.field("hosts").error(format_args!(
            "several hosts cannot be told apart on port {}, which is neither HTTP nor TLS: \
             write an entry for each",
            port.number
        ));
    }
}

fn workloads_of(
    endpoints: Vec<pb::WorkloadEntry>,
    ports: &[ServicePort],
    resolution: Resolution,
    context: &Context<'_>,
    at: At<'_>,
) -> Vec<Workload> {
    let wanted = match resolution {
        Resolution::Dns | Resolution::DnsRoundRobin => Wanted::Dns,
        _ => Wanted::Static,
    };
    let mut found = Vec::with_capacity(endpoints.len());
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        let at = at.index(index);
        for name in endpoint.ports.keys() {
            if !ports.iter().any(|port| *port.name == **name) {
                at.field("ports").key(name).error(format_args!(
                    "the service has no port \"{name}\": use a name from ports"
                ));
            }
        }
        if endpoint.address.starts_with("unix://") && ports.len() != 1 {
            at.field("address").error(
                "a Unix socket is one place: give the service one port, or an address to this endpoint",
            );
        }
        found.extend(workload(endpoint, wanted, context, at));
    }
    found
}

fn hosts_of(
    hosts: &[String],
    resolution: Resolution,
    by_own_name: bool,
    at: At<'_>,
) -> Vec<Hostname> {
    if hosts.is_empty() {
        at.error("there is no host: name at least one");
    }
    let is_dns = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let mut found: Vec<Hostname> = Vec::with_capacity(hosts.len());
    for (index, text) in hosts.iter().enumerate() {
        let at = at.index(index);
        let Some(host) = at.ok(Hostname::parse(text)) else {
            continue;
        };
        if host.as_str() == "*" {
            at.error(
                "\"*\" would take all traffic: name a host or a domain such as \"*.example.com\"",
            );
        } else if host.is_wildcard() && is_dns && by_own_name {
            at.error("a wildcard cannot be resolved: write a full name, or endpoints");
        }
        if found.contains(&host) {
            at.error(format_args!("host \"{host}\" is named twice: remove one"));
            continue;
        }
        found.push(host);
    }
    found
}
