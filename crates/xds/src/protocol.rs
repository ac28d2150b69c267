//! The two spellings of the protocol, state of the world and delta, as conversions between their
//! messages and the neutral ones that the machines work with. No state, and no meaning of resources.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::pb;
use crate::resource::{Resource, Version};
use crate::type_url::TypeUrl;

/// Bytes of a refusal's text that are looked at and kept.
const ERROR_BYTES: usize = 4096;

const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// Which of the two RPCs a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `StreamAggregatedResources`.
    Sotw,
    /// `DeltaAggregatedResources`.
    Delta,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Sotw => "state of the world",
            Mode::Delta => "delta",
        })
    }
}

/// State of the world: every request names all, every answer of LDS and CDS holds all.
#[derive(Clone, Copy, Debug)]
pub enum Sotw {}

/// Delta: requests and answers hold only what changes.
#[derive(Clone, Copy, Debug)]
pub enum Delta {}

/// A request, in either spelling.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// On the first request of a stream only.
    pub node: Option<pb::Node>,
    /// As on the wire.
    pub type_url: String,
    /// The answer that this acknowledges or refuses; empty if none.
    pub nonce: String,
    /// Set if that answer is refused.
    pub error: Option<pb::Status>,
    /// State of the world: the version accepted last.
    pub version: String,
    /// State of the world: all names. Delta: names to add.
    pub names: Vec<String>,
    /// Delta: names to take away.
    pub unsubscribe: Vec<String>,
    /// Delta, first request of a type: what the client has from an earlier stream.
    pub have: HashMap<String, String>,
}

/// An answer to be sent, in either spelling.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The type of all resources.
    pub type_url: TypeUrl,
    /// Unique within the stream.
    pub nonce: String,
    /// Content hash of what the client has once it accepts this.
    pub version: Version,
    /// Resources with the version that each has on the wire.
    pub resources: Vec<(Resource, Version)>,
    /// Delta: names that are gone or never were.
    pub removed: Vec<Arc<str>>,
    /// Who answers; on the first answer of a stream.
    pub control_plane: Option<Arc<str>>,
}

/// An answer that came in, in either spelling.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// As on the wire.
    pub type_url: String,
    /// To be sent back.
    pub nonce: String,
    /// Of the whole answer.
    pub version: String,
    /// The resources.
    pub resources: Vec<Received>,
    /// Delta: names that are gone or never were.
    pub removed: Vec<String>,
}

/// A resource as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its name; `None` if neither the wrapper nor field 1 of the body gives one.
    pub name: Option<String>,
    /// Its own version in delta, the answer's otherwise.
    pub version: String,
    /// The type that the `Any` announces.
    pub type_url: String,
    /// The encoded message.
    pub body: Bytes,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Sotw {}
    impl Sealed for super::Delta {}
}

/// One of the two spellings: [`Sotw`] or [`Delta`].
pub trait Protocol: sealed::Sealed + Send + Sync + 'static {
    /// Which one.
    const MODE: Mode;
    /// The request message.
    type Request: Message + Default + Clone + 'static;
    /// The answer message.
    type Response: Message + Default + Clone + 'static;

    /// The node that a request names.
    fn node_of(request: &Self::Request) -> Option<pb::Node>;
    /// The type that a request names.
    fn type_of(request: &Self::Request) -> &str;
    /// Reads a request.
    fn read_request(request: Self::Request) -> Request;
    /// Writes a request.
    fn write_request(request: Request) -> Self::Request;
    /// Reads an answer.
    fn read_response(response: Self::Response) -> Incoming;
    /// Writes an answer.
    fn write_response(response: Outgoing) -> Self::Response;
    /// Writes an answer whose resources have types of their own.
    fn write_answer(
        type_url: &str,
        nonce: &str,
        identifier: Option<Arc<str>>,
        resources: Vec<(String, pb::Any)>,
    ) -> Self::Response;
}

impl Protocol for Sotw {
    const MODE: Mode = Mode::Sotw;
    type Request = pb::DiscoveryRequest;
    type Response = pb::DiscoveryResponse;

    fn node_of(request: &Self::Request) -> Option<pb::Node> {
        request.node.clone()
    }

    fn type_of(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn read_request(request: Self::Request) -> Request {
        let mut names = request.resource_names;
        names.extend(
            request
                .resource_locators
                .into_iter()
                .map(|locator| locator.name),
        );
        Request {
            node: request.node,
            type_url: request.type_url,
            nonce: request.response_nonce,
            error: request.error_detail.map(short),
            version: request.version_info,
            names,
            ..Request::default()
        }
    }

    fn write_request(request: Request) -> Self::Request {
        pb::DiscoveryRequest {
            version_info: request.version,
            node: request.node,
            resource_names: request.names,
            type_url: request.type_url,
            response_nonce: request.nonce,
            error_detail: request.error,
            ..Default::default()
        }
    }

    fn read_response(response: Self::Response) -> Incoming {
        let version = response.version_info;
        let resources = response
            .resources
            .into_iter()
            .map(|any| received(any, &version))
            .collect();
        Incoming {
            type_url: response.type_url,
            nonce: response.nonce,
            version,
            resources,
            removed: Vec::new(),
        }
    }

    /// Resources are not wrapped in `Resource`: grpc-js refuses that.
    fn write_response(response: Outgoing) -> Self::Response {
        let type_url = response.type_url;
        pb::DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response
                .resources
                .into_iter()
                .map(|(resource, _)| any(&type_url, &resource))
                .collect(),
            type_url: type_url.to_string(),
            nonce: response.nonce,
            control_plane: control_plane(response.control_plane),
            ..Default::default()
        }
    }

    fn write_answer(
        type_url: &str,
        nonce: &str,
        identifier: Option<Arc<str>>,
        resources: Vec<(String, pb::Any)>,
    ) -> Self::Response {
        pb::DiscoveryResponse {
            resources: resources.into_iter().map(|(_, any)| any).collect(),
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            control_plane: control_plane(identifier),
            ..Default::default()
        }
    }
}

impl Protocol for Delta {
    const MODE: Mode = Mode::Delta;
    type Request = pb::DeltaDiscoveryRequest;
    type Response = pb::DeltaDiscoveryResponse;

    fn node_of(request: &Self::Request) -> Option<pb::Node> {
        request.node.clone()
    }

    fn type_of(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn read_request(request: Self::Request) -> Request {
        let mut names = request.resource_names_subscribe;
        names.extend(
            request
                .resource_locators_subscribe
                .into_iter()
                .map(|locator| locator.name),
        );
        let mut unsubscribe = request.resource_names_unsubscribe;
        unsubscribe.extend(
            request
                .resource_locators_unsubscribe
                .into_iter()
                .map(|locator| locator.name),
        );
        Request {
            node: request.node,
            type_url: request.type_url,
            nonce: request.response_nonce,
            error: request.error_detail.map(short),
            version: String::new(),
            names,
            unsubscribe,
            have: request.initial_resource_versions,
        }
    }

    fn write_request(request: Request) -> Self::Request {
        pb::DeltaDiscoveryRequest {
            node: request.node,
            type_url: request.type_url,
            resource_names_subscribe: request.names,
            resource_names_unsubscribe: request.unsubscribe,
            initial_resource_versions: request.have,
            response_nonce: request.nonce,
            error_detail: request.error,
            ..Default::default()
        }
    }

    fn read_response(response: Self::Response) -> Incoming {
        let mut removed = response.removed_resources;
        removed.extend(
            response
                .removed_resource_names
                .into_iter()
                .map(|name| name.name),
        );
        let resources = response
            .resources
            .into_iter()
            .map(|wrapper| unwrapped(wrapper, &response.system_version_info))
            .collect();
        Incoming {
            type_url: response.type_url,
            nonce: response.nonce,
            version: response.system_version_info,
            resources,
            removed,
        }
    }

    fn write_response(response: Outgoing) -> Self::Response {
        let type_url = response.type_url;
        pb::DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            resources: response
                .resources
                .into_iter()
                .map(|(resource, version)| pb::WireResource {
                    name: resource.name.to_string(),
                    version: version.to_string(),
                    resource: Some(any(&type_url, &resource)),
                    ..Default::default()
                })
                .collect(),
            type_url: type_url.to_string(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            nonce: response.nonce,
            control_plane: control_plane(response.control_plane),
            ..Default::default()
        }
    }

    fn write_answer(
        type_url: &str,
        nonce: &str,
        identifier: Option<Arc<str>>,
        resources: Vec<(String, pb::Any)>,
    ) -> Self::Response {
        let resources = resources.into_iter().map(|(name, any)| pb::WireResource {
            name,
            resource: Some(any),
            ..Default::default()
        });
        pb::DeltaDiscoveryResponse {
            resources: resources.collect(),
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            control_plane: control_plane(identifier),
            ..Default::default()
        }
    }
}

/// A refusal without more text than is kept; a word that is cut through goes as a whole, since half
/// of a name may be another one.
fn short(mut error: pb::Status) -> pb::Status {
    if error.message.len() > ERROR_BYTES {
        let end = error.message.floor_char_boundary(ERROR_BYTES);
        let head = error.message.get(..end).unwrap_or_default();
        let end = head.rfind(char::is_whitespace).unwrap_or(end);
        error.message.truncate(end);
        error.message.shrink_to_fit();
    }
    error
}

fn any(type_url: &TypeUrl, resource: &Resource) -> pb::Any {
    pb::Any {
        type_url: type_url.to_string(),
        value: resource.body.to_vec(),
    }
}

fn control_plane(identifier: Option<Arc<str>>) -> Option<pb::ControlPlane> {
    identifier.map(|identifier| pb::ControlPlane {
        identifier: identifier.to_string(),
    })
}

/// A state-of-the-world resource; a server may wrap it in `Resource` or not.
fn received(any: pb::Any, version: &str) -> Received {
    if any.type_url == WRAPPER
        && let Ok(wrapper) = pb::WireResource::decode(any.value.as_slice())
    {
        return unwrapped(wrapper, version);
    }
    Received {
        name: first_string(&any.value),
        version: version.to_owned(),
        type_url: any.type_url,
        body: any.value.into(),
    }
}

fn unwrapped(wrapper: pb::WireResource, version: &str) -> Received {
    let any = wrapper.resource.unwrap_or_default();
    let named = wrapper.resource_name.map(|name| name.name);
    let name = Some(wrapper.name)
        .filter(|name| !name.is_empty())
        .or(named)
        .or_else(|| first_string(&any.value));
    let version = if wrapper.version.is_empty() {
        version.to_owned()
    } else {
        wrapper.version
    };
    Received {
        name,
        version,
        type_url: any.type_url,
        body: any.value.into(),
    }
}

/// Field 1 as a string: the name, in every xDS resource message there is.
fn first_string(body: &[u8]) -> Option<String> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(bytes = "vec", optional, tag = "1")]
        name: Option<Vec<u8>>,
    }
    let name = Named::decode(body).ok()?.name?;
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}
