//! The rules of the protocol on the server's side, one test each, as messages in and out.

mod order;
mod pushes;
mod refusals;
mod resume;
mod subscriptions;

use std::time::{Duration, Instant};

use weft_xds::pb::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Status,
};
use weft_xds::server::{Event, Limits, ServerStream};
use weft_xds::{Protocol, Resource, ResourceSet, TypeUrl, Version, View};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;

/// Sets of resources given as `name=content`.
fn view(sets: &[(TypeUrl, &[&str])]) -> View {
    View::new(sets.iter().map(|(type_url, resources)| {
        ResourceSet::new(
            type_url.clone(),
            resources.iter().map(|resource| {
                let name = resource.split('=').next().unwrap_or_default();
                Resource::new(type_url, name, resource.as_bytes().to_vec())
            }),
        )
    }))
}

struct Server<P: Protocol> {
    machine: ServerStream<P>,
    now: Instant,
    events: Vec<Event>,
}

impl<P: Protocol> Server<P> {
    fn new(view: View) -> Self {
        Self::bounded(view, Limits::default())
    }

    fn bounded(view: View, limits: Limits) -> Self {
        Server {
            machine: ServerStream::new(1, view, limits, None),
            now: Instant::now(),
            events: Vec::new(),
        }
    }

    fn take(&mut self, request: P::Request) -> Vec<P::Response> {
        self.machine
            .request(self.now, request)
            .expect("within bounds");
        self.poll()
    }

    fn publish(&mut self, view: View) -> Vec<P::Response> {
        self.machine.set_view(view);
        self.poll()
    }

    fn wait(&mut self, time: Duration) -> Vec<P::Response> {
        self.now += time;
        self.machine.tick(self.now);
        self.poll()
    }

    fn poll(&mut self) -> Vec<P::Response> {
        let mut responses = Vec::new();
        while let Some(response) = self.machine.poll_response(self.now) {
            responses.push(response);
        }
        while let Some(event) = self.machine.poll_event() {
            self.events.push(event);
        }
        responses
    }
}

fn sotw(type_url: &TypeUrl, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..sotw(&TypeUrl::new(&response.type_url), names)
    }
}

fn delta(type_url: &TypeUrl, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn delta_ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 3,
            message: message.to_owned(),
            ..Default::default()
        }),
        ..delta_ack(response)
    }
}

/// `CDS[a=1 b=1]`, in the order of sending.
fn bodies(responses: &[DiscoveryResponse]) -> Vec<String> {
    let body = |response: &DiscoveryResponse| {
        let bodies = response.resources.iter().map(|any| {
            assert_eq!(any.type_url, response.type_url, "not wrapped");
            String::from_utf8_lossy(&any.value).into_owned()
        });
        let mut bodies: Vec<_> = bodies.collect();
        bodies.sort();
        format!(
            "{}[{}]",
            TypeUrl::new(&response.type_url).short(),
            bodies.join(" ")
        )
    };
    responses.iter().map(body).collect()
}

/// `CDS[a=1 -b]`, in the order of sending.
fn deltas(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let body = |response: &DeltaDiscoveryResponse| {
        let added = response.resources.iter().map(|wrapper| {
            let any = wrapper.resource.clone().expect("is wrapped");
            let body = String::from_utf8_lossy(&any.value).into_owned();
            assert!(body.starts_with(&wrapper.name) && Version::parse(&wrapper.version).is_some());
            body
        });
        let removed = response
            .removed_resources
            .iter()
            .map(|name| format!("-{name}"));
        let mut all: Vec<_> = added.chain(removed).collect();
        all.sort();
        format!(
            "{}[{}]",
            TypeUrl::new(&response.type_url).short(),
            all.join(" ")
        )
    };
    responses.iter().map(body).collect()
}

fn second() -> Duration {
    Duration::from_secs(1)
}
