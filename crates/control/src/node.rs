//! Who a proxy says it is: the xDS `Node` read by Istio's rules. Quirks of the metadata:
//! booleans, numbers and lists may arrive as JSON strings, and structures as JSON inside a
//! string. Must never know what is generated from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;
use weft_model::ProxySettings;
use weft_sources::proxy_settings;

use crate::generate::locality::NODE;
use crate::generate::networks::NETWORK;
use crate::identity::Identity;
use crate::pb::core::v3::Node;
use crate::pb::core::v3::node::UserAgentVersionType;
use crate::pb::protobuf::{Struct, Value, value::Kind};

/// What this mesh's own proxies call themselves.
const OWN_AGENT: &str = "weft";
/// Settings of a node may be nested so deep.
const MAX_DEPTH: usize = 32;

/// What kind of proxy a node is, and so which generator serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// Beside a workload: outbound and inbound listeners.
    Sidecar,
    /// A gateway (`router` in node ids): the servers of `Gateway` objects.
    Gateway,
    /// A gRPC client without a proxy (metadata `GENERATOR: grpc`).
    Grpc,
}

/// How traffic reaches a sidecar (metadata `INTERCEPTION_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interception {
    /// Redirected by iptables to 15001 and 15006.
    #[default]
    Redirect,
    /// The same with a transparent socket.
    Tproxy,
    /// Not at all: listeners bind real ports.
    None,
}

/// A proxy as its node message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The node id as sent.
    pub id: String,
    /// Which generator serves it.
    pub kind: ProxyKind,
    /// Addresses of the workload, the first one is the primary.
    pub ips: Vec<IpAddr>,
    /// Workload instance name.
    pub name: String,
    /// Namespace whose configuration applies.
    pub namespace: String,
    /// Domain against which short host names are completed, e.g. `ns.svc.cluster.local`.
    pub dns_domain: String,
    /// Workload labels.
    pub labels: BTreeMap<String, String>,
    /// Cluster (site) of the workload.
    pub cluster_id: String,
    /// Network of the workload (metadata `NETWORK`, else the label `topology.istio.io/network`).
    pub network: String,
    /// The networks whose endpoints it wants to see; empty: all (metadata `REQUESTED_NETWORK_VIEW`).
    pub network_view: BTreeSet<String>,
    /// Locality as `region/zone/subzone`.
    pub locality: String,
    /// How traffic reaches it.
    pub interception: Interception,
    /// Port of the outbound HTTP proxy listener on 127.0.0.1 (metadata `HTTP_PROXY_PORT`).
    pub http_proxy_port: Option<u16>,
    /// Inbound ports of a sidecar without redirection → port on 127.0.0.1 where the application
    /// listens (metadata `WEFT_INBOUND`).
    pub inbound: BTreeMap<u16, u16>,
    /// Whether a sidecar without redirection binds a listener for each outbound port
    /// (metadata `WEFT_OUTBOUND_LISTENERS`, default true as in Istio).
    pub outbound_listeners: bool,
    /// Istio's version, if it says one (metadata `ISTIO_VERSION`).
    pub version: Option<String>,
    /// The entries of its metadata that are text.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Its certificates.
    pub identity: Identity,
    /// The service account that its credentials proved.
    pub proved_account: Option<Arc<str>>,
    /// Whether it may not bind ports below 1024 (metadata `UNPRIVILEGED_POD`); counts for gateways.
    pub unprivileged: bool,
    /// Whether its agent answers the workload's DNS queries (metadata `DNS_CAPTURE`).
    pub dns_capture: bool,
    /// Whether its bootstrap has the cluster of its own workload, with which it balances by zones
    /// (metadata `ENABLE_SELF_DISCOVERY`).
    pub self_discovery: bool,
    /// The node's `cluster`: the service in the words of Envoy's bootstrap.
    pub cluster: String,
    /// Name of the mesh (metadata `MESH_ID`).
    pub mesh_id: String,
    /// What runs the workload, such as a deployment (metadata `WORKLOAD_NAME`).
    pub workload: String,
    /// Metadata `NAMESPACE` as it was sent.
    pub said_namespace: String,
    /// Settings that the proxy brings (metadata `PROXY_CONFIG`).
    pub settings: Option<Arc<ProxySettings>>,
    /// Whether its agent tells how the workload is (`readinessProbe` of `PROXY_CONFIG`).
    pub is_probed: bool,
    /// Free text for people: the user agent and its version.
    pub agent: String,
    /// Whether it speaks the RPC protocols: a proxy of this mesh, and not Envoy.
    pub speaks_rpc: bool,
}

/// Why a node is not served. The stream is refused with this text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeError {
    /// The id is not of Istio's form.
    #[error(
        "node id {0:?} is not `type~ip~name.namespace~dnsDomain`; set node.id in the bootstrap \
         (for example `router~10.0.0.1~gw.default~default.svc.cluster.local`)"
    )]
    Id(String),
    /// A type that is not served.
    #[error("node type {0:?} is not served; this control plane serves `sidecar` and `router`")]
    Type(String),
    /// A metadata value that cannot be read.
    #[error("node metadata {key}: {problem}")]
    Metadata {
        /// Name of the metadata entry.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Proxy {
    /// Reads a node message.
    ///
    /// # Errors
    /// The id or a metadata entry cannot be read; the text says which and how to write it.
    pub fn parse(node: &Node) -> Result<Self, NodeError> {
        let empty = Struct::default();
        let metadata = Metadata(node.metadata.as_ref().unwrap_or(&empty));
        let id = NodeId::parse(&node.id)?;
        let grpc = metadata
            .text("GENERATOR")
            .is_some_and(|g| g.starts_with("grpc"))
            || (node.user_agent_name.starts_with("gRPC") && id.kind == ProxyKind::Sidecar);
        let kind = if grpc { ProxyKind::Grpc } else { id.kind };
        let mut ips: Vec<IpAddr> = metadata
            .list("INSTANCE_IPS")
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect();
        if ips.is_empty() {
            ips.extend(id.ip);
        }
        let mut labels = metadata.labels()?;
        if let Some(node) = metadata.text("NODE_NAME") {
            labels.insert(NODE.to_owned(), node);
        }
        let locality = locality_of(&labels).unwrap_or_else(|| {
            let said = node.locality.as_ref();
            said.map_or_else(String::new, |l| join([&l.region, &l.zone, &l.sub_zone]))
        });
        let network = metadata
            .text("NETWORK")
            .or_else(|| labels.get(NETWORK).cloned())
            .unwrap_or_default();
        Ok(Self {
            id: node.id.clone(),
            kind,
            ips,
            name: id.name,
            namespace: metadata.text("NAMESPACE").unwrap_or(id.namespace),
            dns_domain: id.dns_domain,
            labels,
            cluster_id: metadata.text("CLUSTER_ID").unwrap_or_default(),
            network,
            network_view: metadata
                .list("REQUESTED_NETWORK_VIEW")
                .into_iter()
                .collect(),
            locality,
            interception: metadata.interception()?,
            http_proxy_port: metadata.port("HTTP_PROXY_PORT")?,
            inbound: metadata.inbound()?,
            outbound_listeners: metadata.flag("WEFT_OUTBOUND_LISTENERS", true)?,
            version: metadata.text("ISTIO_VERSION"),
            metadata: Arc::new(metadata.texts()),
            identity: Identity::read(|key| metadata.text(key))?,
            proved_account: None,
            unprivileged: metadata.flag("UNPRIVILEGED_POD", false)?,
            dns_capture: metadata.flag("DNS_CAPTURE", false)?,
            self_discovery: metadata.flag("ENABLE_SELF_DISCOVERY", false)?,
            cluster: node.cluster.clone(),
            mesh_id: metadata.text("MESH_ID").unwrap_or_default(),
            workload: metadata.text("WORKLOAD_NAME").unwrap_or_default(),
            said_namespace: metadata.text("NAMESPACE").unwrap_or_default(),
            settings: metadata.settings()?,
            is_probed: metadata.is_probed(),
            agent: agent(node),
            speaks_rpc: node.user_agent_name == OWN_AGENT && kind != ProxyKind::Grpc,
        })
    }
}

impl Proxy {
    /// Takes what the credentials of the stream have proved. Who has an agent gets certificates from
    /// it; all others that are proxies get them from the control plane.
    pub(crate) fn prove(&mut self, account: &str) {
        self.proved_account = Some(account.into());
        self.identity.served = !self.identity.agent && self.kind != ProxyKind::Grpc;
    }

    /// The service account whose certificate the control plane serves it.
    pub(crate) fn served_account(&self) -> Option<Arc<str>> {
        self.proved_account.clone().filter(|_| self.identity.served)
    }
}

/// `envoy/1.40.0`; what a node does not say is left out.
fn agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let number = build.version.as_ref();
            number.map_or_else(String::new, |v| {
                format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)
            })
        }
        None => String::new(),
    };
    if version.is_empty() || node.user_agent_name.is_empty() {
        return node.user_agent_name.clone();
    }
    format!("{}/{version}", node.user_agent_name)
}

fn join(parts: [&str; 3]) -> String {
    parts.join("/").trim_end_matches('/').to_owned()
}

/// The place that a workload's labels name, which counts before that of the node.
fn locality_of(labels: &BTreeMap<String, String>) -> Option<String> {
    let parts = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.istio.io/subzone",
    ]
    .map(|name| labels.get(name).map_or("", String::as_str));
    if parts.iter().any(|part| !part.is_empty()) {
        return Some(join(parts));
    }
    let names = ["topology.istio.io/locality", "istio-locality"];
    let mut whole = names.iter().filter_map(|name| labels.get(*name));
    let whole = whole.next().filter(|text| !text.is_empty())?;
    // No label can hold a slash in Kubernetes, so that dots stand for them.
    Some(if whole.contains('/') {
        whole.clone()
    } else {
        whole.replace('.', "/")
    })
}

struct NodeId {
    kind: ProxyKind,
    ip: Option<IpAddr>,
    name: String,
    namespace: String,
    dns_domain: String,
}

impl NodeId {
    fn parse(id: &str) -> Result<Self, NodeError> {
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, ip, instance, dns_domain] = parts[..] else {
            return Err(NodeError::Id(id.to_owned()));
        };
        let kind = match kind {
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Gateway,
            other => return Err(NodeError::Type(other.to_owned())),
        };
        // Instance names hold dots; the namespace is what follows the last one.
        let (name, namespace) = instance.rsplit_once('.').unwrap_or((instance, "default"));
        if name.is_empty() || namespace.is_empty() {
            return Err(NodeError::Id(id.to_owned()));
        }
        Ok(Self {
            kind,
            ip: ip.parse().ok(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            dns_domain: dns_domain.to_owned(),
        })
    }
}

struct Metadata<'a>(&'a Struct);

impl Metadata<'_> {
    fn kind(&self, key: &str) -> Option<&Kind> {
        self.0.fields.get(key).and_then(|v| v.kind.as_ref())
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.kind(key)? {
            Kind::StringValue(s) if !s.is_empty() => Some(s.clone()),
            Kind::NumberValue(n) => Some(n.to_string()),
            Kind::BoolValue(b) => Some(b.to_string()),
            _ => None,
        }
    }

    fn texts(&self) -> BTreeMap<String, String> {
        let entries = self.0.fields.iter();
        let texts = entries.filter_map(|(key, value)| match &value.kind {
            Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        });
        texts.collect()
    }

    /// A list, or a string of parts that are separated by commas.
    fn list(&self, key: &str) -> Vec<String> {
        let parts: Vec<String> = match self.kind(key) {
            Some(Kind::ListValue(list)) => list
                .values
                .iter()
                .filter_map(|v| match &v.kind {
                    Some(Kind::StringValue(s)) => Some(s.clone()),
                    _ => None,
                })
                .collect(),
            Some(Kind::StringValue(s)) => serde_json::from_str(s)
                .unwrap_or_else(|_| s.split(',').map(str::to_owned).collect()),
            _ => Vec::new(),
        };
        parts
            .into_iter()
            .map(|p| p.trim().to_owned())
            .filter(|p| !p.is_empty())
            .collect()
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, NodeError> {
        match self.text(key).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(NodeError::Metadata {
                key,
                problem: format!("{other:?} is not true or false"),
            }),
        }
    }

    fn port(&self, key: &'static str) -> Result<Option<u16>, NodeError> {
        self.text(key)
            .map(|text| parse_port(key, &text))
            .transpose()
    }

    fn interception(&self) -> Result<Interception, NodeError> {
        match self.text("INTERCEPTION_MODE").as_deref() {
            None | Some("REDIRECT") => Ok(Interception::Redirect),
            Some("TPROXY") => Ok(Interception::Tproxy),
            Some("NONE") => Ok(Interception::None),
            Some(other) => Err(NodeError::Metadata {
                key: "INTERCEPTION_MODE",
                problem: format!("{other:?} is not REDIRECT, TPROXY or NONE"),
            }),
        }
    }

    /// A structure of strings, or the same as JSON in a string.
    fn map(&self, key: &'static str) -> Result<BTreeMap<String, String>, NodeError> {
        let text_of = |value: &Value| match &value.kind {
            Some(Kind::StringValue(s)) => s.clone(),
            Some(Kind::NumberValue(n)) => n.to_string(),
            Some(Kind::BoolValue(b)) => b.to_string(),
            _ => String::new(),
        };
        match self.kind(key) {
            Some(Kind::StructValue(map)) => Ok(map
                .fields
                .iter()
                .map(|(k, v)| (k.clone(), text_of(v)))
                .collect()),
            Some(Kind::StringValue(json)) if !json.is_empty() => {
                let map: BTreeMap<String, serde_json::Value> =
                    serde_json::from_str(json).map_err(|e| NodeError::Metadata {
                        key,
                        problem: e.to_string(),
                    })?;
                let text = |v: serde_json::Value| match v {
                    serde_json::Value::String(s) => s,
                    other => other.to_string(),
                };
                Ok(map.into_iter().map(|(k, v)| (k, text(v))).collect())
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Whether `PROXY_CONFIG` has a probe of the workload.
    fn is_probed(&self) -> bool {
        const PROBE: &str = "readinessProbe";
        match self.kind("PROXY_CONFIG") {
            Some(Kind::StructValue(map)) => map
                .fields
                .get(PROBE)
                .is_some_and(|probe| matches!(probe.kind, Some(Kind::StructValue(_)))),
            Some(Kind::StringValue(text)) => {
                let config: Result<serde_json::Value, _> = serde_json::from_str(text);
                config
                    .is_ok_and(|config| config.get(PROBE).is_some_and(serde_json::Value::is_object))
            }
            _ => false,
        }
    }

    /// A structure, or JSON in a string.
    fn settings(&self) -> Result<Option<Arc<ProxySettings>>, NodeError> {
        const KEY: &str = "PROXY_CONFIG";
        let json = match self.kind(KEY) {
            Some(Kind::StructValue(map)) => json_of(map, MAX_DEPTH).map(|json| json.to_string()),
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.clone()),
            _ => return Ok(None),
        };
        let settings = json
            .ok_or_else(|| format!("is nested deeper than {MAX_DEPTH} levels"))
            .and_then(|json| proxy_settings::of_node(&json));
        settings
            .map(|settings| Some(Arc::new(settings)))
            .map_err(|problem| NodeError::Metadata { key: KEY, problem })
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, NodeError> {
        self.map("LABELS")
    }

    fn inbound(&self) -> Result<BTreeMap<u16, u16>, NodeError> {
        const KEY: &str = "WEFT_INBOUND";
        self.map(KEY)?
            .into_iter()
            .map(|(listen, app)| Ok((parse_port(KEY, &listen)?, parse_port(KEY, &app)?)))
            .collect()
    }
}

/// `None` for what is nested deeper than `depth`.
fn json_of(map: &Struct, depth: usize) -> Option<serde_json::Value> {
    let depth = depth.checked_sub(1)?;
    let fields = map.fields.iter();
    let fields: Option<serde_json::Map<String, serde_json::Value>> = fields
        .map(|(key, value)| Some((key.clone(), json_value(value, depth)?)))
        .collect();
    fields.map(serde_json::Value::Object)
}

fn json_value(value: &Value, depth: usize) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match &value.kind {
        Some(Kind::StringValue(text)) => Json::from(text.as_str()),
        Some(Kind::BoolValue(flag)) => Json::from(*flag),
        // A structure knows no integers; many fields want them.
        #[allow(clippy::cast_possible_truncation)] // in range, and without a fraction
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 1e15 => Json::from(*n as i64),
        Some(Kind::NumberValue(n)) => Json::from(*n),
        Some(Kind::StructValue(map)) => json_of(map, depth)?,
        Some(Kind::ListValue(list)) => {
            let depth = depth.checked_sub(1)?;
            let values = list.values.iter().map(|value| json_value(value, depth));
            Json::Array(values.collect::<Option<_>>()?)
        }
        Some(Kind::NullValue(_)) | None => Json::Null,
    })
}

fn parse_port(key: &'static str, text: &str) -> Result<u16, NodeError> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(NodeError::Metadata {
            key,
            problem: format!("{text:?} is not a port (1-65535)"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(value.to_owned())),
        }
    }

    fn node(id: &str, metadata: &[(&str, Value)]) -> Node {
        let fields = metadata
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        Node {
            id: id.to_owned(),
            metadata: Some(Struct { fields }),
            ..Node::default()
        }
    }

    #[test]
    fn a_node_id_gives_type_address_name_and_namespace() {
        let proxy = Proxy::parse(&node(
            "router~10.1.2.3~gw-7.x.infra~infra.svc.cluster.local",
            &[],
        ))
        .expect("a valid id");
        assert_eq!(proxy.kind, ProxyKind::Gateway);
        assert_eq!(
            proxy.ips,
            ["10.1.2.3".parse::<IpAddr>().expect("an address")]
        );
        assert_eq!(
            (proxy.name.as_str(), proxy.namespace.as_str()),
            ("gw-7.x", "infra")
        );
        assert_eq!(proxy.dns_domain, "infra.svc.cluster.local");
    }

    #[test]
    fn metadata_written_as_json_strings_is_read() {
        let proxy = Proxy::parse(&node(
            "sidecar~10.0.0.1~a.b~b.svc.cluster.local",
            &[
                ("INSTANCE_IPS", text("10.0.0.9,fd00::1")),
                ("NAMESPACE", text("c")),
                ("LABELS", text(r#"{"app":"a","version":"v1"}"#)),
                (
                    "HTTP_PROXY_PORT",
                    Value {
                        kind: Some(Kind::NumberValue(15007.0)),
                    },
                ),
                ("WEFT_INBOUND", text(r#"{"9080": 19080}"#)),
                ("WEFT_OUTBOUND_LISTENERS", text("false")),
                ("INTERCEPTION_MODE", text("NONE")),
            ],
        ))
        .expect("valid metadata");
        assert_eq!(proxy.ips.len(), 2);
        assert_eq!(proxy.namespace, "c");
        assert_eq!(proxy.labels["version"], "v1");
        assert_eq!(proxy.http_proxy_port, Some(15007));
        assert_eq!(proxy.inbound, BTreeMap::from([(9080, 19080)]));
        assert!(!proxy.outbound_listeners);
        assert_eq!(proxy.interception, Interception::None);
    }

    #[test]
    fn who_the_proxy_is_comes_with_its_version() {
        let mut node = node("sidecar~10.0.0.1~a.b~b.svc", &[]);
        let agent = |node: &Node| Proxy::parse(node).expect("valid").agent;
        assert_eq!(agent(&node), "");
        node.user_agent_name = "weft".to_owned();
        assert_eq!(agent(&node), "weft");
        let version = UserAgentVersionType::UserAgentVersion("0.1.0".to_owned());
        node.user_agent_version_type = Some(version);
        assert_eq!(agent(&node), "weft/0.1.0");
    }

    #[test]
    fn a_grpc_client_is_known_by_its_generator() {
        let proxy = Proxy::parse(&node(
            "sidecar~10.0.0.1~a.b~b.svc",
            &[("GENERATOR", text("grpc"))],
        ))
        .expect("valid");
        assert_eq!(proxy.kind, ProxyKind::Grpc);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(matches!(
            Proxy::parse(&node("envoy-1", &[])),
            Err(NodeError::Id(_))
        ));
        assert!(matches!(
            Proxy::parse(&node("ztunnel~1~a.b~c", &[])),
            Err(NodeError::Type(_))
        ));
        let bad = node(
            "sidecar~10.0.0.1~a.b~c",
            &[("HTTP_PROXY_PORT", text("99999"))],
        );
        let error = Proxy::parse(&bad).expect_err("not a port").to_string();
        assert!(
            error.contains("HTTP_PROXY_PORT") && error.contains("99999"),
            "{error}"
        );
    }
}
