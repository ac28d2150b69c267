//! Listeners of gRPC clients: one name a service port, under every name by which the client may
//! call it. Must never know Envoy's listeners.

use prost::Message;
use weft_model::{Service, ServicePort};
use weft_xds::{Resource, TypeUrl};

use super::{http, names};
use crate::emit::{Emitted, origins};
use crate::pb::address;
use crate::pb::listener::v3::{ApiListener, Listener};

/// The API listeners of a service, whose names are those of `xds:///` targets: the host and its
/// short forms, each with the port, and without it if the service has one port only.
pub(crate) fn listeners(service: &Service, dns_domain: &str) -> Vec<Emitted> {
    let host = service.hostname.as_str();
    let mut hosts = vec![host.to_owned()];
    hosts.extend(
        names::alternatives(host, dns_domain)
            .into_iter()
            .filter(|n| !n.ends_with('.')),
    );
    let served: Vec<&ServicePort> = service
        .ports
        .iter()
        .filter(|p| p.protocol.is_http() || p.protocol.is_sniffed() || p.protocol.is_tcp())
        .collect();
    let mut out = Vec::new();
    for port in &served {
        for host in &hosts {
            out.push(listener(
                service,
                port,
                names::host_port(host, port.number.get()),
            ));
            if served.len() == 1 {
                out.push(listener(service, port, host.clone()));
            }
        }
    }
    out
}

/// What istiod names as a service's own address: of no consequence to a client that asks by name.
fn service_address(service: &Service) -> String {
    let own = service.addresses.iter().find(|a| a.is_host());
    own.map_or_else(|| "0.0.0.0".to_owned(), |a| a.ip.to_string())
}

fn listener(service: &Service, port: &ServicePort, name: String) -> Emitted {
    let route = names::outbound(port.number, "", &service.hostname);
    let message = Listener {
        name: name.clone(),
        address: Some(address(&service_address(service), port.number.get())),
        api_listener: Some(ApiListener {
            api_listener: Some(http::grpc_manager(&route)),
        }),
        ..Listener::default()
    };
    let resource =
        Resource::new(&TypeUrl::LISTENER, name, message.encode_to_vec()).with_links([route.into()]);
    Emitted::new(resource, origins([service.origin.clone()]))
}
