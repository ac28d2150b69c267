//! Plain Kubernetes documents → pieces of the model: `Service`, `Endpoints`, `EndpointSlice`,
//! `Pod`, `Namespace`, `Secret`. What they mean together is `registry/assemble`'s business.
//!
//! These documents belong to Kubernetes, which has checked them, and most of what they say is
//! not about a mesh: `weft_proto::kubernetes` lists the fields that are read.

pub(crate) mod secret;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    AddressRange, EndpointAddress, ExportTo, Health, Hostname, Labels, Locality, Namespace,
    NamespaceInfo, PortNumber, Preference, Protocol, Resolution, RpcProtocol, Service, ServicePort,
    TargetPort, Weight, Workload,
};
use weft_proto::kubernetes as k8s;
use weft_proto::pb::google::protobuf::{Value, value};

use crate::check::{At, Context, optional};

/// Istio's annotation that limits who sees a Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Istio's annotation that says which endpoints callers prefer.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// The label of Kubernetes' nodes by which endpoints are told to stand on one; as in Istio, pods have it.
const NODE_LABEL: &str = "kubernetes.io/hostname";
/// Istio's label that overrides a workload's locality, with dots for slashes.
const LOCALITY_LABELS: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];
/// Istio's label for the network of a workload.
const NETWORK_LABEL: &str = "topology.istio.io/network";

/// The place that the labels of a workload say. Labels have no slashes, so dots stand for them.
pub(crate) fn labelled_locality(labels: &Labels) -> Locality {
    let mut names = LOCALITY_LABELS.iter();
    let said = names.find_map(|name| labels.get(name)).unwrap_or_default();
    if said.contains('/') {
        return Locality::parse(said);
    }
    Locality::parse(&said.replace('.', "/"))
}

/// A Kubernetes Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KubernetesService {
    pub(crate) service: Service,
    /// `ExternalName`: the name that it stands for.
    pub(crate) external_name: Option<Hostname>,
    /// Whether pods that are not ready count as well.
    pub(crate) publish_not_ready: bool,
}

/// Addresses of one Service, from `Endpoints` or an `EndpointSlice`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AddressList {
    /// Name of the Service, in the object's namespace.
    pub(crate) service: Arc<str>,
    pub(crate) groups: Vec<AddressGroup>,
}

/// Addresses that share their ports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AddressGroup {
    /// By name; a port without a name has the empty one.
    pub(crate) ports: BTreeMap<Arc<str>, PortNumber>,
    pub(crate) addresses: Vec<Address>,
}

/// One address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Address {
    pub(crate) place: EndpointAddress,
    pub(crate) health: Health,
    pub(crate) hostname: Option<Arc<str>>,
    pub(crate) zone: Arc<str>,
    /// The pod behind it.
    pub(crate) pod: Option<Arc<str>>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KubernetesNamespace {
    pub(crate) info: Arc<NamespaceInfo>,
    /// What holds for its services that say nothing themselves.
    pub(crate) preference: Option<Preference>,
}

pub(crate) fn namespace(context: &Context<'_>, at: At<'_>) -> KubernetesNamespace {
    let info = NamespaceInfo {
        name: Namespace::new(context.origin.name.clone()),
        labels: context.labels.clone(),
    };
    KubernetesNamespace {
        info: Arc::new(info),
        preference: annotated_preference(context, &at),
    }
}

pub(crate) fn service(
    message: k8s::Service,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<KubernetesService> {
    let spec = message.spec.unwrap_or_default();
    let place = at.field("spec");
    let is_external = spec.r#type == "ExternalName";
    if !matches!(
        spec.r#type.as_str(),
        "" | "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName"
    ) {
        place.field("type").error(format_args!(
            "\"{}\" is no type of a Service: use ClusterIP, NodePort, LoadBalancer or ExternalName",
            spec.r#type
        ));
        return None;
    }
    let headless = spec.cluster_ip == "None";
    let external_name = if is_external {
        Some(
            place
                .field("externalName")
                .ok(Hostname::parse(&spec.external_name))?,
        )
    } else {
        None
    };
    let mut addresses: Vec<AddressRange> = Vec::new();
    let first = std::iter::once((&spec.cluster_ip, place.field("clusterIP")));
    let list = place.field("clusterIPs");
    let rest = spec.cluster_ips.iter().map(|text| (text, list));
    for (text, at) in first.chain(rest) {
        if text.is_empty() || text == "None" || is_external {
            continue;
        }
        let address = at.ok(text.parse::<IpAddr>().map_err(|_| not_an_ip(text)))?;
        if !addresses.contains(&AddressRange::host(address)) {
            addresses.push(AddressRange::host(address));
        }
    }
    let external_addresses = external_addresses(&spec, message.status, &at);
    let preference = preference(&spec, context, &at);
    let ports = service_ports(spec.ports, place.field("ports"));
    let export_to = export_to_annotation(context, &at);
    let resolution = match (is_external, headless) {
        (true, _) => Resolution::Dns,
        (false, true) => Resolution::Passthrough,
        (false, false) => Resolution::Registry,
    };
    let name = &context.origin.name;
    let service = Service {
        assigned: Vec::new(),
        hostname: Hostname::of_service(name, context.namespace(), &context.settings.cluster_domain),
        namespace: context.namespace().clone(),
        name: name.clone(),
        addresses,
        ports,
        resolution,
        external: is_external,
        export_to,
        subject_alt_names: Vec::new(),
        selector: (!spec.selector.is_empty()).then(|| spec.selector.into_iter().collect()),
        external_addresses,
        races: false,
        preference,
        headless,
        created: context.created,
        origin: context.origin.clone(),
        labels: context.labels.clone(),
    };
    Some(KubernetesService {
        service,
        external_name,
        publish_not_ready: spec.publish_not_ready_addresses,
    })
}

/// Where a service is reached from outside of its cluster, as in Istio: its external addresses, and
/// those of its load balancer (a name only where there is no address).
fn external_addresses(
    spec: &k8s::ServiceSpec,
    status: Option<k8s::ServiceStatus>,
    at: &At<'_>,
) -> Vec<EndpointAddress> {
    let mut found = Vec::new();
    let place = at.field("spec");
    let list = place.field("externalIPs");
    for (index, text) in spec.external_ips.iter().enumerate() {
        let ip = list
            .index(index)
            .ok(text.parse().map_err(|_| not_an_ip(text)));
        found.extend(ip.map(EndpointAddress::Ip));
    }
    let balanced = status.filter(|_| spec.r#type == "LoadBalancer");
    let ingress = balanced.and_then(|status| status.load_balancer);
    let place = at.field("status");
    let place = place.field("loadBalancer");
    let list = place.field("ingress");
    for (index, entry) in ingress.into_iter().flat_map(|i| i.ingress).enumerate() {
        let at = list.index(index);
        if !entry.ip.is_empty() {
            let ip = at.field("ip");
            let ip = ip.ok(entry.ip.parse().map_err(|_| not_an_ip(&entry.ip)));
            found.extend(ip.map(EndpointAddress::Ip));
        } else if !entry.hostname.is_empty() {
            let name = at.field("hostname").ok(Hostname::parse(&entry.hostname));
            found.extend(name.map(|name| EndpointAddress::Dns(name.as_str().into())));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn not_an_ip(text: &str) -> String {
    format!("\"{text}\" is no IP address")
}

/// Which endpoints an object's annotation says that callers prefer.
pub(crate) fn annotated_preference(context: &Context<'_>, at: &At<'_>) -> Option<Preference> {
    let text = context.annotations.get(TRAFFIC_DISTRIBUTION)?;
    let said = |word: &str| text.eq_ignore_ascii_case(word);
    if said("PreferSameZone") || said("PreferClose") {
        return Some(Preference::SameZone);
    }
    if said("PreferSameNode") {
        return Some(Preference::SameNode);
    }
    if !text.is_empty() {
        let annotations = at.field("metadata");
        let annotations = annotations.field("annotations");
        annotations.key(TRAFFIC_DISTRIBUTION).error(format_args!(
            "\"{text}\" is no distribution of traffic: use PreferClose, PreferSameZone or PreferSameNode"
        ));
    }
    None
}

/// What a Service itself says; Kubernetes has checked the field, and what it adds to its values in
/// future says nothing here.
fn preference(spec: &k8s::ServiceSpec, context: &Context<'_>, at: &At<'_>) -> Option<Preference> {
    let annotated = annotated_preference(context, at);
    match spec.traffic_distribution.as_str() {
        "PreferSameZone" | "PreferClose" => Some(Preference::SameZone),
        "PreferSameNode" => Some(Preference::SameNode),
        _ => annotated,
    }
}

fn export_to_annotation(context: &Context<'_>, at: &At<'_>) -> ExportTo {
    let default = context.settings.default_service_export_to.as_ref();
    let Some(text) = context.annotations.get(EXPORT_TO) else {
        return default.cloned().unwrap_or(ExportTo::All);
    };
    let entries: Vec<String> = text
        .split(',')
        .map(|entry| entry.trim().to_owned())
        .filter(|entry| !entry.is_empty())
        .collect();
    let annotations = at.field("metadata");
    let annotations = annotations.field("annotations");
    annotations
        .key(EXPORT_TO)
        .export_to(&entries, context.namespace(), default)
}

fn service_ports(ports: Vec<k8s::ServicePort>, at: At<'_>) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::with_capacity(ports.len());
    for (index, port) in ports.into_iter().enumerate() {
        let at = at.index(index);
        let Some(number) = at.field("port").ok(PortNumber::new(port.port)) else {
            continue;
        };
        let app = (!port.app_protocol.is_empty()).then_some(port.app_protocol.as_str());
        let protocol = Protocol::select(number.get(), &port.name, &port.protocol, app);
        // The same number may serve TCP and UDP; a mesh routes TCP.
        if let Some(other) = found.iter_mut().find(|other| other.number == number) {
            if other.protocol == Protocol::Udp && protocol != Protocol::Udp {
                other.rpc = RpcProtocol::of_port(&port.name, app, protocol);
                other.name = port.name.into();
                other.protocol = protocol;
                other.target = target_port(port.target_port, number, at.field("targetPort"));
            } else if (other.protocol == Protocol::Udp) == (protocol == Protocol::Udp) {
                at.field("port")
                    .error(format_args!("port {number} is defined twice: remove one"));
            }
            continue;
        }
        if found.iter().any(|other| *other.name == port.name) {
            at.field("name").error(format_args!(
                "port name \"{}\" is used twice: names must differ within a Service",
                port.name
            ));
        }
        let target = target_port(port.target_port, number, at.field("targetPort"));
        found.push(ServicePort {
            number,
            rpc: RpcProtocol::of_port(&port.name, app, protocol),
            name: port.name.into(),
            protocol,
            target,
        });
    }
    found.sort_by_key(|port| port.number);
    found
}

fn target_port(value: Option<Value>, number: PortNumber, at: At<'_>) -> TargetPort {
    match value.and_then(|value| value.kind) {
        Some(value::Kind::NumberValue(target)) if target != 0.0 => {
            let target = at.ok(PortNumber::new(target as i64));
            TargetPort::Number(target.unwrap_or(number))
        }
        Some(value::Kind::StringValue(name)) if !name.is_empty() => match name.parse::<u16>() {
            Ok(target) => TargetPort::Number(at.ok(PortNumber::new(target)).unwrap_or(number)),
            Err(_) => TargetPort::Name(name.into()),
        },
        _ => TargetPort::Number(number),
    }
}

/// `Endpoints` are named like their Service.
pub(crate) fn endpoints(message: k8s::Endpoints, context: &Context<'_>, at: At<'_>) -> AddressList {
    let list = at.field("subsets");
    let groups = message
        .subsets
        .into_iter()
        .enumerate()
        .map(|(index, subset)| {
            let at = list.index(index);
            let mut addresses = Vec::new();
            let parts = [
                ("addresses", subset.addresses, Health::Healthy),
                (
                    "notReadyAddresses",
                    subset.not_ready_addresses,
                    Health::Unhealthy,
                ),
            ];
            for (field, part, health) in parts {
                let list = at.field(field);
                for (index, item) in part.into_iter().enumerate() {
                    let at = list.index(index);
                    let ip = at
                        .field("ip")
                        .ok(item.ip.parse().map_err(|_| not_an_ip(&item.ip)));
                    addresses.extend(ip.map(|ip| Address {
                        place: EndpointAddress::Ip(ip),
                        health,
                        hostname: optional(item.hostname),
                        zone: "".into(),
                        pod: pod_name(item.target_ref),
                    }));
                }
            }
            AddressGroup {
                ports: endpoint_ports(subset.ports, at.field("ports")),
                addresses,
            }
        });
    AddressList {
        service: context.origin.name.clone(),
        groups: groups.collect(),
    }
}

/// A slice names its Service by label; one without belongs to nothing.
pub(crate) fn endpoint_slice(
    message: k8s::EndpointSlice,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<AddressList> {
    let Some(service) = context.labels.get("kubernetes.io/service-name") else {
        let metadata = at.field("metadata");
        metadata.field("labels").error(
            "the label kubernetes.io/service-name is missing: it names the Service that the slice belongs to",
        );
        return None;
    };
    let is_fqdn = message.address_type == "FQDN";
    let list = at.field("endpoints");
    let mut addresses = Vec::with_capacity(message.endpoints.len());
    for (index, item) in message.endpoints.into_iter().enumerate() {
        let at = list.index(index);
        let at = at.field("addresses");
        // Kubernetes: consumers use the first address only.
        let Some(text) = item.addresses.first() else {
            at.error("there is no address: write one");
            continue;
        };
        let address = if is_fqdn {
            at.index(0)
                .ok(Hostname::parse(text))
                .map(|name| EndpointAddress::Dns(name.as_str().into()))
        } else {
            at.index(0)
                .ok(text.parse().map_err(|_| not_an_ip(text)))
                .map(EndpointAddress::Ip)
        };
        let conditions = item.conditions.unwrap_or_default();
        let health = match (conditions.ready, conditions.terminating) {
            (Some(true) | None, _) => Health::Healthy,
            (Some(false), Some(true)) => Health::Draining,
            _ => Health::Unhealthy,
        };
        addresses.extend(address.map(|address| Address {
            place: address,
            health,
            hostname: optional(item.hostname),
            zone: item.zone.into(),
            pod: pod_name(item.target_ref),
        }));
    }
    let ports = endpoint_ports(message.ports, at.field("ports"));
    Some(AddressList {
        service: service.into(),
        groups: vec![AddressGroup { ports, addresses }],
    })
}

fn endpoint_ports(ports: Vec<k8s::EndpointPort>, at: At<'_>) -> BTreeMap<Arc<str>, PortNumber> {
    let mut found = BTreeMap::new();
    for (index, port) in ports.into_iter().enumerate() {
        let at = at.index(index);
        // Without a number, all ports are meant, which only a headless service without ports has.
        if port.port == 0 || port.protocol == "UDP" || port.protocol == "SCTP" {
            continue;
        }
        found.extend(
            at.field("port")
                .ok(PortNumber::new(port.port))
                .map(|n| (port.name.into(), n)),
        );
    }
    found
}

fn pod_name(target: Option<k8s::ObjectReference>) -> Option<Arc<str>> {
    target
        .filter(|target| target.kind == "Pod")
        .and_then(|target| optional(target.name))
}

/// A pod with an address; one without (not started, finished) is no workload: `None`.
pub(crate) fn pod(message: k8s::Pod, context: &Context<'_>, at: At<'_>) -> Option<Workload> {
    let (spec, status) = (
        message.spec.unwrap_or_default(),
        message.status.unwrap_or_default(),
    );
    let place = at.field("status");
    let mut addresses: Vec<EndpointAddress> = Vec::new();
    let all = std::iter::once(status.pod_ip).chain(status.pod_ips.into_iter().map(|item| item.ip));
    for text in all.filter(|text| !text.is_empty()) {
        let ip = place
            .field("podIP")
            .ok(text.parse().map_err(|_| not_an_ip(&text)))?;
        if !addresses.contains(&EndpointAddress::Ip(ip)) {
            addresses.push(EndpointAddress::Ip(ip));
        }
    }
    if addresses.is_empty() || matches!(status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    // A file that says nothing about readiness means a pod that runs.
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.r#type == "Ready");
    let health = match ready {
        Some(condition) if condition.status != "True" => Health::Unhealthy,
        _ => Health::Healthy,
    };
    let ports = spec
        .containers
        .iter()
        .chain(&spec.init_containers)
        .flat_map(|container| {
            let tcp = container
                .ports
                .iter()
                .filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
            tcp.filter(|port| !port.name.is_empty())
        });
    let ports = ports
        .filter_map(|port| {
            Some((
                Arc::from(&*port.name),
                PortNumber::new(port.container_port).ok()?,
            ))
        })
        .collect();
    let mut labels: Labels = context.labels.clone();
    if !spec.node_name.is_empty() {
        labels.insert(NODE_LABEL, spec.node_name.as_str());
    }
    Some(Workload {
        origin: context.origin.clone(),
        addresses,
        ports,
        service_account: optional(spec.service_account_name),
        locality: labelled_locality(&labels),
        network: labels.get(NETWORK_LABEL).unwrap_or_default().into(),
        labels,
        weight: Weight(1),
        health,
        node: optional(spec.node_name),
        hostname: optional(spec.hostname),
    })
}
