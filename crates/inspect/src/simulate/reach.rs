//! The cluster of a call and its endpoints.

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_config::endpoint::Health;
use weft_config::tls::ValidationSource;
use weft_config::{Address, Cluster, Discovery, Endpoint, LoadAssignment, Transport};

use super::End;
use super::call::{Call, Head, Hello};
use super::side::Side;

/// Endpoints that are told.
const TOLD_ENDPOINTS: usize = 100;

/// The cluster, its endpoints, and the call as one of them gets it. `not_found` is the status for a
/// cluster that is not there.
pub(super) fn reach(
    side: &Side,
    call: &Call,
    name: &str,
    head: Option<Head>,
    not_found: u16,
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Option<Call>, End> {
    report["cluster"] = name.into();
    let Some(cluster) = side.clusters.get(name) else {
        return Err(End::answered(
            "refused",
            not_found,
            side.absence("cluster", name),
        ));
    };
    if name == "BlackHoleCluster" {
        let why = "BlackHoleCluster: nobody is to be called there";
        return Err(End::answered("refused", 503, why));
    }
    let assignment = match &cluster.discovery {
        Discovery::Eds { service_name } => side.assignments.get(&**service_name),
        _ => Some(&*cluster.endpoints),
    };
    let to = match &cluster.discovery {
        Discovery::OriginalDst { port_override, .. } => {
            let port = port_override.unwrap_or(call.destination.port());
            report["endpoints"] = json!([{
                "address": SocketAddr::new(call.destination.ip(), port).to_string(),
                "why": "where the connection was meant to go",
            }]);
            Some((SocketAddr::new(call.destination.ip(), port), None))
        }
        Discovery::Named { .. } => {
            notes.push("the host that the call names is looked up when it is called".to_owned());
            None
        }
        _ => endpoints(cluster, assignment, report, notes)?,
    };
    Ok(to.map(|(address, endpoint)| Call {
        source: SocketAddr::new(
            side.ips.first().copied().unwrap_or(call.source.ip()),
            call.source.port(),
        ),
        destination: address,
        tls: hello(side, cluster, endpoint),
        head,
        protocol: protocol(cluster),
        random: call.random,
    }))
}

/// How plain requests to a cluster are spoken.
fn protocol(cluster: &Cluster) -> &'static str {
    match cluster.http.protocol {
        weft_config::UpstreamProtocol::Http2 => "h2c",
        _ => "http/1.1",
    }
}

fn hello(side: &Side, cluster: &Cluster, endpoint: Option<&Endpoint>) -> Option<Hello> {
    match cluster.transport_for(endpoint) {
        Transport::Raw => None,
        Transport::Tls(tls) => Some(Hello {
            server_name: tls.sni.to_string(),
            protocols: tls.context.alpn.iter().map(ToString::to_string).collect(),
            principal: side
                .principal
                .clone()
                .filter(|_| !tls.context.certificates.is_empty()),
            accepts: match &tls.context.validation {
                Some(ValidationSource::Inline(validation)) => validation.san_matchers.clone(),
                Some(ValidationSource::Sds { defaults, .. }) => defaults.san_matchers.clone(),
                None => Vec::new(),
            },
        }),
    }
}

type Chosen<'a> = (SocketAddr, Option<&'a Endpoint>);

/// Tells the endpoints, and takes the first one that would get traffic.
fn endpoints<'a>(
    cluster: &Cluster,
    assignment: Option<&'a LoadAssignment>,
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Option<Chosen<'a>>, End> {
    let mut told = Vec::new();
    let mut chosen: Option<&Endpoint> = None;
    let mut count = 0;
    let priorities = assignment.map_or(&[][..], |assignment| &assignment.priorities);
    for (priority, localities) in priorities.iter().enumerate() {
        for locality in localities {
            for endpoint in &locality.endpoints {
                count += 1;
                if endpoint.health == Health::Healthy {
                    chosen = chosen.or(Some(endpoint));
                }
                if told.len() < TOLD_ENDPOINTS {
                    told.push(told_endpoint(
                        cluster,
                        endpoint,
                        priority,
                        &locality.locality,
                    ));
                }
            }
        }
    }
    report["endpoints"] = told.into();
    if count == 0 {
        let why = format!("the cluster {} has no endpoint", cluster.name);
        return Err(End::answered("refused", 503, why));
    }
    let Some(endpoint) = chosen else {
        let why = format!(
            "none of the {count} endpoints of the cluster {} is healthy",
            cluster.name
        );
        return Err(End::answered("refused", 503, why));
    };
    match &endpoint.address {
        Address::Ip(address) => Ok(Some((*address, Some(endpoint)))),
        Address::Pipe(path) => {
            notes.push(format!("{path} is a socket of the proxy's own machine"));
            Ok(None)
        }
        Address::Host { host, port } => {
            notes.push(format!(
                "{host}:{port} is looked up by DNS when traffic comes"
            ));
            Ok(None)
        }
    }
}

fn told_endpoint(
    cluster: &Cluster,
    endpoint: &Endpoint,
    priority: usize,
    locality: &weft_config::Locality,
) -> Value {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone].map(|part| &**part);
    let locality = parts.join("/").trim_end_matches('/').to_owned();
    let health = match endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    };
    let transport = match cluster.transport_for(Some(endpoint)) {
        Transport::Raw => "plain text",
        Transport::Tls(tls) if tls.context.certificates.is_empty() => "TLS",
        Transport::Tls(_) => "mutual TLS",
    };
    let address = endpoint.address.to_string();
    json!({
        "address": address, "health": health, "priority": priority, "locality": locality,
        "weight": endpoint.weight, "transport": transport,
    })
}
