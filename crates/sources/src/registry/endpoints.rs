//! Which endpoints a Kubernetes service has, from slices or from the pods that it selects.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{
    Endpoint, EndpointAddress, Health, Kind, Labels, Locality, ObjectRef, PortNumber, Service,
    ServicePort, TargetPort, Weight, Workload,
};

use crate::api::kubernetes::{Address, AddressList, KubernetesService};

/// An `ExternalName` service has one endpoint: the name.
pub(super) fn of_external_name(service: &Service, name: &str) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Dns(name.into()),
        ports: ports(service, |port| match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(_) => Some(port.number),
        }),
        labels: Labels::new(),
        locality: Locality::default(),
        weight: Weight(1),
        health: Health::Healthy,
        network: "".into(),
        service_account: None,
        hostname: None,
        namespace: service.namespace.clone(),
        origin: service.origin.clone(),
    }
}

/// Endpoints of one `Endpoints` or `EndpointSlice`; `pod` finds the workload behind an address.
pub(super) fn of_addresses<'a>(
    kubernetes: &KubernetesService,
    origin: &ObjectRef,
    list: &AddressList,
    pod: impl Fn(&Address) -> Option<&'a Arc<Workload>>,
) -> Vec<Endpoint> {
    let service = &kubernetes.service;
    let mut found = Vec::new();
    for group in &list.groups {
        let ports = ports(service, |port| group.ports.get(&port.name).copied());
        for address in &group.addresses {
            let pod = pod(address);
            let mut locality = pod.map(|pod| pod.locality.clone()).unwrap_or_default();
            if locality.is_empty() {
                locality.zone = address.zone.clone();
            }
            found.push(Endpoint {
                address: address.place.clone(),
                ports: ports.clone(),
                labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
                locality,
                weight: pod.map_or(Weight(1), |pod| pod.weight),
                health: health(kubernetes, address.health),
                network: pod.map(|pod| pod.network.clone()).unwrap_or_default(),
                service_account: pod.and_then(|pod| pod.service_account.clone()),
                hostname: address.hostname.clone(),
                namespace: service.namespace.clone(),
                origin: origin.clone(),
            });
        }
    }
    found
}

/// The endpoint at a workload that the service selects; `None` if it serves no port of it.
pub(super) fn of_workload(kubernetes: &KubernetesService, workload: &Workload) -> Option<Endpoint> {
    let service = &kubernetes.service;
    let is_pod = workload.origin.kind == Kind::Pod;
    let ports = ports(service, |port| match &port.target {
        TargetPort::Name(name) if is_pod => workload.ports.get(name).copied(),
        // A WorkloadEntry has no containers: its ports are named after the service's.
        TargetPort::Name(name) => {
            let named = workload
                .ports
                .get(name)
                .or_else(|| workload.ports.get(&port.name));
            Some(named.copied().unwrap_or(port.number))
        }
        TargetPort::Number(number) => {
            let named = workload.ports.get(&port.name).filter(|_| !is_pod);
            Some(named.copied().unwrap_or(*number))
        }
    });
    if ports.is_empty() && !service.ports.is_empty() {
        return None;
    }
    Some(Endpoint {
        address: workload.addresses.first()?.clone(),
        ports,
        labels: workload.labels.clone(),
        locality: workload.locality.clone(),
        weight: workload.weight,
        health: health(kubernetes, workload.health),
        network: workload.network.clone(),
        service_account: workload.service_account.clone(),
        hostname: workload.hostname.clone(),
        namespace: service.namespace.clone(),
        origin: workload.origin.clone(),
    })
}

fn health(kubernetes: &KubernetesService, health: Health) -> Health {
    if kubernetes.publish_not_ready {
        Health::Healthy
    } else {
        health
    }
}

fn ports(
    service: &Service,
    target: impl Fn(&ServicePort) -> Option<PortNumber>,
) -> BTreeMap<PortNumber, PortNumber> {
    service
        .ports
        .iter()
        .filter_map(|port| Some((port.number, target(port)?)))
        .collect()
}
