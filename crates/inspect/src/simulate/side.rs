//! A proxy's resources, compiled as the data plane compiles them, from a control plane's
//! `/debug/view`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::Value;
use weft_config::{Cluster, Context, Listener, LoadAssignment, RouteConfig};

use super::secrets;
use crate::fields::{field, list, text, texts};

/// What a page says instead of a view.
#[derive(Debug)]
pub struct SideError(pub String);

impl std::fmt::Display for SideError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the control plane's view of the proxy: {}", self.0)
    }
}

impl std::error::Error for SideError {}

/// A proxy and what it has.
#[derive(Debug, Default)]
pub struct Side {
    /// Node id.
    pub proxy: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether it is a gateway.
    pub gateway: bool,
    /// Whether it is connected; else it is made up of what the configuration says.
    pub connected: bool,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The identity that its certificate has, as far as it is known.
    pub principal: Option<String>,
    /// What the control plane holds back from it, such as keys that could not be fetched.
    pub(crate) held_back: Vec<String>,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) assignments: BTreeMap<String, LoadAssignment>,
    pub(crate) listeners: BTreeMap<String, Listener>,
    pub(crate) routes: BTreeMap<String, RouteConfig>,
    /// Resources that the data plane would refuse, with its reason.
    pub(crate) refused: BTreeMap<(&'static str, String), String>,
}

impl Side {
    /// Reads a page.
    ///
    /// # Errors
    /// It is no view.
    pub fn parse(page: &Value) -> Result<Self, SideError> {
        if !page["resources"].is_array() {
            return Err(SideError("it has no list of resources".to_owned()));
        }
        let principal = text(page, "principal");
        let mut side = Self {
            proxy: text(page, "proxy").to_owned(),
            namespace: text(page, "namespace").to_owned(),
            gateway: text(page, "kind") == "router",
            connected: field(page, "connected") == true,
            ips: texts(page, "ips")
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            principal: (!principal.is_empty()).then(|| principal.to_owned()),
            held_back: texts(page, "heldBack")
                .into_iter()
                .map(str::to_owned)
                .collect(),
            ..Self::default()
        };
        for resource in list(page, "resources") {
            let body = STANDARD.decode(text(resource, "body"));
            let body = body.map_err(|error| SideError(format!("a body: {error}")))?;
            side.take(text(resource, "type"), text(resource, "name"), &body)?;
        }
        Ok(side)
    }

    fn take(&mut self, kind: &str, name: &str, body: &[u8]) -> Result<(), SideError> {
        let context = Context::default();
        let name = name.to_owned();
        let body = &match kind {
            "CDS" => secrets::from_ads("envoy.config.cluster.v3.Cluster", body),
            "LDS" => secrets::from_ads("envoy.config.listener.v3.Listener", body),
            _ => body.to_vec(),
        };
        let outcome = match kind {
            "CDS" => {
                let loaded = Cluster::from_proto(&decode(body)?, &context);
                loaded.map(|it| drop(self.clusters.insert(name.clone(), it.value)))
            }
            "EDS" => {
                let loaded = LoadAssignment::from_proto(&decode(body)?, &context);
                loaded.map(|it| drop(self.assignments.insert(name.clone(), it.value)))
            }
            "LDS" => {
                let loaded = Listener::from_proto(&decode(body)?, &context);
                loaded.map(|it| drop(self.listeners.insert(name.clone(), it.value)))
            }
            "RDS" => {
                let loaded = RouteConfig::from_proto(&decode(body)?, &context);
                loaded.map(|it| drop(self.routes.insert(name.clone(), it.value)))
            }
            _ => return Ok(()),
        };
        if let Err(error) = outcome {
            let kind = match kind {
                "CDS" => "cluster",
                "EDS" => "endpoints",
                "LDS" => "listener",
                _ => "route configuration",
            };
            self.refused.insert((kind, name), error.to_string());
        }
        Ok(())
    }

    /// Why a resource is not there.
    pub(crate) fn absence(&self, kind: &'static str, name: &str) -> String {
        match self.refused.get(&(kind, name.to_owned())) {
            Some(error) => format!(
                "the {kind} {name} has parts that Weft's data plane, which the simulation runs, does not have: {error}"
            ),
            None => format!("there is no {kind} {name}"),
        }
    }

    /// Notes for listeners that cannot be looked at.
    pub(crate) fn refused_listeners(&self) -> impl Iterator<Item = String> {
        let listeners = self.refused.keys().filter(|(kind, _)| *kind == "listener");
        listeners.map(|(kind, name)| self.absence(kind, name))
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, SideError> {
    M::decode(body).map_err(|error| SideError(format!("a body: {error}")))
}
