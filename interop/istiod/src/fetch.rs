//! A node's whole configuration over state-of-the-world ADS: clusters, their endpoints, listeners,
//! their routes and the filters that they ask for by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::Any;
use weft_proto::pb::envoy::config::core::v3::Locality;
use weft_proto::pb::google::protobuf::{Struct, Value as PbValue, value::Kind as PbKind};
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Node as WireNode};

use crate::Answers;
use crate::nodes::{Kind, Node};
use crate::world::Asked;

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the control plane at `address` (`http://…`) as `node`. The answers are canonical JSON, not yet normalised.
///
/// # Errors
/// What the control plane did not answer.
pub async fn fetch(address: &str, node: &Node, asked: &Asked) -> Result<Answers, String> {
    let targets = &asked.grpc_targets;
    if node.kind == Kind::Grpc && targets.is_empty() {
        return Ok(Answers::new());
    }
    let wanted = if node.kind == Kind::Grpc {
        &targets[..]
    } else {
        &[]
    };
    let first = (TypeUrl::LISTENER, wanted);
    let mut stream = Stream::open(address, node, first, &asked.metadata).await?;
    let listeners = stream.take(TypeUrl::LISTENER, wanted).await?;
    let mut clusters = BTreeMap::new();
    if node.kind != Kind::Grpc {
        clusters = stream.ask(TypeUrl::CLUSTER, &[]).await?;
    }
    let names = named(listeners.values(), "rds", "route_config_name");
    let routes = stream.ask_if_any(TypeUrl::ROUTE, &names).await?;
    if node.kind == Kind::Grpc {
        let names = clusters_of(routes.values());
        clusters = stream.ask_if_any(TypeUrl::CLUSTER, &names).await?;
    }
    let mut names = services(&clusters);
    if asked.own_service() && node.kind != Kind::Grpc {
        names.insert("local_cluster".to_owned());
    }
    let endpoints = stream.ask_if_any(TypeUrl::ENDPOINT, &names).await?;
    let mut answers = BTreeMap::from([
        ("cluster", clusters),
        ("endpoint", endpoints),
        ("listener", listeners),
        ("route", routes),
    ]);
    let names = discovered(listeners_of(&answers));
    if !names.is_empty() {
        let extensions = stream.ask_if_any(TypeUrl::EXTENSION_CONFIG, &names).await?;
        answers.insert("extension", extensions);
    }
    if asked.names() && node.kind != Kind::Grpc {
        answers.insert("names", stream.ask(TypeUrl::NAME_TABLE, &[]).await?);
    }
    Ok(answers)
}

struct Stream {
    node: WireNode,
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: tonic::Streaming<DiscoveryResponse>,
}

impl Stream {
    /// Opens a stream with its first request: istiod answers the call itself only then.
    async fn open(
        address: &str,
        node: &Node,
        (kind, names): (TypeUrl, &[String]),
        more: &[(String, String)],
    ) -> Result<Self, String> {
        let text = |error: &dyn std::error::Error| format!("{address}: {error}");
        let client = AggregatedDiscoveryServiceClient::connect(address.to_owned());
        let mut client = client
            .await
            .map_err(|error| text(&error))?
            .max_decoding_message_size(256 * 1024 * 1024);
        let (requests, receiver) = mpsc::channel(16);
        let mut metadata = node.metadata();
        for (name, value) in more {
            metadata[name] = Value::String(value.clone());
        }
        let metadata = match struct_value(metadata).kind {
            Some(PbKind::StructValue(fields)) => Some(fields),
            _ => None,
        };
        let [region, zone, sub_zone] = node.locality.map(str::to_owned);
        let locality = Locality {
            region,
            zone,
            sub_zone,
        };
        let node = WireNode {
            id: node.id.to_owned(),
            cluster: format!("{}.shop", node.name),
            metadata,
            locality: Some(locality),
            ..WireNode::default()
        };
        let first = request(&node, &kind, names);
        let gone = |_| format!("{address}: no stream");
        requests.send(first).await.map_err(gone)?;
        let call = client.stream_aggregated_resources(ReceiverStream::new(receiver));
        let response = tokio::time::timeout(PATIENCE, call);
        let response = response
            .await
            .map_err(|_| format!("{address}: no stream"))?;
        let responses = response.map_err(|status| text(&status))?.into_inner();
        Ok(Self {
            node,
            requests,
            responses,
        })
    }

    async fn ask_if_any(
        &mut self,
        kind: TypeUrl,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Value>, String> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<_> = names.iter().cloned().collect();
        self.ask(kind, &names).await
    }

    async fn ask(
        &mut self,
        kind: TypeUrl,
        names: &[String],
    ) -> Result<BTreeMap<String, Value>, String> {
        let asked = request(&self.node, &kind, names);
        let gone = |_| format!("{kind}: the stream has ended");
        self.requests.send(asked).await.map_err(gone)?;
        self.take(kind, names).await
    }

    /// The answer about `kind`, accepted.
    async fn take(
        &mut self,
        kind: TypeUrl,
        names: &[String],
    ) -> Result<BTreeMap<String, Value>, String> {
        let gone = |_| format!("{kind}: the stream has ended");
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.responses.message().await {
                    Ok(Some(response)) if response.type_url == kind.as_str() => {
                        return Ok(response);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(format!("{kind}: the stream has ended")),
                    Err(status) => return Err(format!("{kind}: {status}")),
                }
            }
        });
        let response = answer.await.map_err(|_| format!("{kind}: no answer"))??;
        let accepted = DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..request(&self.node, &kind, names)
        };
        self.requests.send(accepted).await.map_err(gone)?;
        let resources = response.resources.iter().map(|any| {
            let value = weft_proto::json::canonical(weft_proto::json::any_to_json(any));
            let name = name_of(any, &value);
            (name, value)
        });
        Ok(resources.collect())
    }
}

fn request(node: &WireNode, kind: &TypeUrl, names: &[String]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node.clone()),
        type_url: kind.as_str().to_owned(),
        resource_names: names.to_vec(),
        ..DiscoveryRequest::default()
    }
}

fn name_of(any: &Any, value: &Value) -> String {
    let name = value.get("name").or_else(|| value.get("cluster_name"));
    let name = name.and_then(Value::as_str);
    name.unwrap_or(&any.type_url).to_owned()
}

/// All texts under `key` in objects under `parent`, anywhere.
fn named<'v>(values: impl Iterator<Item = &'v Value>, parent: &str, key: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for value in values {
        walk(value, &mut |name, inner| {
            if name == parent
                && let Some(text) = inner.get(key).and_then(Value::as_str)
            {
                names.insert(text.to_owned());
            }
        });
    }
    names
}

fn listeners_of(answers: &Answers) -> impl Iterator<Item = &Value> {
    let listeners = answers.get("listener");
    listeners.into_iter().flat_map(BTreeMap::values)
}

/// Names of filters that come by themselves.
fn discovered<'v>(listeners: impl Iterator<Item = &'v Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut note = |filter: &Value| {
        if let (Some(name), Some(_)) = (filter["name"].as_str(), filter.get("config_discovery")) {
            names.insert(name.to_owned());
        }
    };
    for listener in listeners {
        walk(listener, &mut |_, inner| {
            for filter in inner.as_array().into_iter().flatten() {
                note(filter);
            }
        });
    }
    names
}

fn clusters_of<'v>(routes: impl Iterator<Item = &'v Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for route in routes {
        walk(route, &mut |key, inner| {
            if key == "cluster"
                && let Some(text) = inner.as_str()
            {
                names.insert(text.to_owned());
            }
            for entry in inner
                .as_array()
                .filter(|_| key == "clusters")
                .into_iter()
                .flatten()
            {
                names.extend(entry.get("name").and_then(Value::as_str).map(str::to_owned));
            }
        });
    }
    names
}

fn services(clusters: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let by_eds = clusters
        .iter()
        .filter(|(_, cluster)| cluster["type"] == "EDS");
    let name = |(name, cluster): (&String, &Value)| {
        let service = cluster["eds_cluster_config"]["service_name"].as_str();
        service.map_or_else(|| name.clone(), str::to_owned)
    };
    by_eds.map(name).collect()
}

fn walk(value: &Value, see: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                see(key, inner);
                walk(inner, see);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, see)),
        _ => {}
    }
}

fn struct_value(value: Value) -> PbValue {
    let kind = match value {
        Value::Null => PbKind::NullValue(0),
        Value::Bool(flag) => PbKind::BoolValue(flag),
        Value::Number(number) => PbKind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => PbKind::StringValue(text),
        Value::Array(items) => PbKind::ListValue(weft_proto::pb::google::protobuf::ListValue {
            values: items.into_iter().map(struct_value).collect(),
        }),
        Value::Object(fields) => PbKind::StructValue(Struct {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name, struct_value(value)))
                .collect(),
        }),
    };
    PbValue { kind: Some(kind) }
}
