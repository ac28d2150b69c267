//! Who takes part in the demo and where each listens. Every instance has a loopback address of
//! its own for the mesh; what only its own machine half uses is a free port of 127.0.0.1. Must
//! never start anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use super::service::SERVICE_PORT;
use crate::cli::SampleService;

/// One instance of a sample service and its sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Which service it is an instance of.
    pub(crate) service: SampleService,
    /// Its version, a label.
    pub(crate) version: &'static str,
    /// Its address in the mesh; the sidecar takes calls here, on [`SERVICE_PORT`].
    pub(crate) address: Ipv4Addr,
    /// Where the application listens, on 127.0.0.1.
    pub(crate) app_port: u16,
    /// Where its sidecar is an HTTP proxy for it, on 127.0.0.1.
    pub(crate) http_proxy_port: u16,
    /// The sidecar's admin server, on 127.0.0.1.
    pub(crate) admin_port: u16,
}

/// Where everything listens.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// xDS of the control plane.
    pub(crate) grpc: SocketAddr,
    /// Debug pages of the control plane.
    pub(crate) monitoring: SocketAddr,
    /// Where the gateway serves people and the load.
    pub(crate) gateway: SocketAddr,
    /// The gateway's admin server.
    pub(crate) gateway_admin: SocketAddr,
    /// The gateway's address in its node id.
    pub(crate) gateway_address: Ipv4Addr,
    /// The sample services.
    pub(crate) instances: Vec<Instance>,
}

const INSTANCES: [(SampleService, &str); 6] = [
    (SampleService::Page, "v1"),
    (SampleService::Details, "v1"),
    (SampleService::Reviews, "v1"),
    (SampleService::Reviews, "v2"),
    (SampleService::Reviews, "v3"),
    (SampleService::Ratings, "v1"),
];

/// Below the range from which Linux gives ports to outgoing connections (32768 up), so that no
/// connection takes a port between its choice and its use.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// The gateway's port if it is free and nobody chose another.
const GATEWAY_PORT: u16 = 8080;

impl SampleService {
    /// Its host name in the mesh, without namespace.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Details => "details",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
        }
    }
}

impl Instance {
    /// `reviews-v2`: the name of its workload.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.service.host(), self.version)
    }

    /// Where its application listens.
    pub(crate) fn app(&self) -> SocketAddr {
        loopback(self.app_port)
    }

    /// Its sidecar's HTTP proxy.
    pub(crate) fn http_proxy(&self) -> SocketAddr {
        loopback(self.http_proxy_port)
    }

    /// Its sidecar's admin server.
    pub(crate) fn admin(&self) -> SocketAddr {
        loopback(self.admin_port)
    }
}

impl Plan {
    /// Chooses addresses and ports that are free now.
    ///
    /// # Errors
    /// The wanted gateway port is taken, or the machine has no free ones; the text says what to
    /// do.
    pub(crate) fn choose(gateway_port: Option<u16>) -> Result<Self, String> {
        let seed = std::process::id();
        let mut ports = FreePorts::new(seed);
        let network = free_network(seed)?;
        let gateway = match gateway_port {
            Some(port) => {
                TcpListener::bind(loopback(port)).map_err(|error| {
                    format!("--port {port}: {error}; choose another one, or leave the choice out")
                })?;
                loopback(port)
            }
            None if TcpListener::bind(loopback(GATEWAY_PORT)).is_ok() => loopback(GATEWAY_PORT),
            None => loopback(ports.next()?),
        };
        let mut instances = Vec::with_capacity(INSTANCES.len());
        for (index, (service, version)) in (10..).zip(INSTANCES) {
            instances.push(Instance {
                service,
                version,
                address: host_of(network, index),
                app_port: ports.next()?,
                http_proxy_port: ports.next()?,
                admin_port: ports.next()?,
            });
        }
        Ok(Self {
            grpc: loopback(ports.next()?),
            monitoring: loopback(ports.next()?),
            gateway,
            gateway_admin: loopback(ports.next()?),
            gateway_address: host_of(network, 2),
            instances,
        })
    }

    /// The instances of one service.
    pub(crate) fn of(&self, service: SampleService) -> impl Iterator<Item = &Instance> {
        self.instances
            .iter()
            .filter(move |instance| instance.service == service)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn host_of(network: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(network[0], network[1], network[2], host)
}

/// A part of 127.0.0.0/8 in which nobody has the services' port; two demos get two parts.
fn free_network(seed: u32) -> Result<[u8; 3], String> {
    let mut last = None;
    for attempt in 0..64_u32 {
        // 127.64.0.x to 127.191.255.x: away from what people bind by hand.
        let number = seed.wrapping_add(attempt * 131) % (128 * 256);
        let network = [127, 64 + (number / 256) as u8, (number % 256) as u8];
        let taken = (10..).zip(INSTANCES).find_map(|(index, _)| {
            TcpListener::bind((host_of(network, index), SERVICE_PORT)).err()
        });
        match taken {
            None => return Ok(network),
            Some(error) => last = Some((network, error)),
        }
    }
    let (network, error) = last.map_or_else(Default::default, |(network, error)| {
        (network, error.to_string())
    });
    Err(format!(
        "no loopback addresses for the instances (tried {} last: {error}); the demo needs Linux, \
         where all of 127.0.0.0/8 is this machine",
        host_of(network, 10)
    ))
}

struct FreePorts {
    next: u16,
    left: usize,
}

impl FreePorts {
    fn new(seed: u32) -> Self {
        let span = u32::from(PORTS.end - PORTS.start);
        Self {
            next: PORTS.start + (seed.wrapping_mul(37) % span) as u16,
            left: span as usize,
        }
    }

    fn next(&mut self) -> Result<u16, String> {
        while self.left > 0 {
            self.left -= 1;
            let port = self.next;
            self.next = if port + 1 == PORTS.end {
                PORTS.start
            } else {
                port + 1
            };
            if TcpListener::bind(loopback(port)).is_ok() {
                return Ok(port);
            }
        }
        Err(format!(
            "no free port on 127.0.0.1 in {PORTS:?}; end some servers and try again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn everything_has_an_address_of_its_own() {
        let plan = Plan::choose(None).expect("free ports");
        let mut all =
            BTreeSet::from([plan.grpc, plan.monitoring, plan.gateway, plan.gateway_admin]);
        for instance in &plan.instances {
            all.extend([instance.app(), instance.http_proxy(), instance.admin()]);
            all.insert(SocketAddr::new(instance.address.into(), SERVICE_PORT));
        }
        assert_eq!(all.len(), 4 + 4 * plan.instances.len());
    }

    #[test]
    fn a_taken_gateway_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error = Plan::choose(Some(port)).expect_err("the port is taken");
        assert!(error.contains(&port.to_string()), "{error}");
    }
}
