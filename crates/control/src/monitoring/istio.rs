//! Pages and answers in istiod's forms, so that `istioctl` and scripts for istiod's debug pages work
//! unmodified. Must never change anything.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tonic::Status;
use weft_proto::Any;
use weft_proto::pb::envoy::admin::v3 as admin;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::status::v3 as status;
use weft_proto::pb::google::protobuf::{Struct, Timestamp, Value as PbValue, value::Kind};
use weft_xds::server::{Answered, Question};
use weft_xds::{TypeUrl, Version};

use super::pages::{full_name, kind_name, shown};
use super::query::Query;
use crate::core::{Connected, Core, Position, Step, TypePosition};
use crate::graph::ProxyView;
use crate::pb;

/// Type of a request for a debug page by name, and the start of the types of single ones.
const DEBUG: &str = "istio.io/debug";
const SYNCZ: &str = "istio.io/debug/syncz";
const CONFIG_DUMP: &str = "istio.io/debug/config_dump";

/// Whether a type asks for debug information instead of resources.
pub(crate) fn is_question(type_url: &str) -> bool {
    type_url
        .strip_prefix(DEBUG)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What this instance calls itself in `control_plane.identifier`: the JSON that Istio's tools read.
pub(crate) fn identifier() -> String {
    let pod = std::env::var("POD_NAME").ok();
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let id = pod.or_else(host).unwrap_or_default();
    let id = id.trim();
    json!({
        "Component": "weft-control",
        "ID": if id.is_empty() { "weft-control" } else { id },
        "Info": {
            "version": concat!("weft-", env!("CARGO_PKG_VERSION")),
            "revision": "", "golang_version": "", "status": "", "tag": "",
        },
    })
    .to_string()
}

/// Answers what `istioctl` asks on a stream.
///
/// # Errors
/// The type or the request is none of istiod's.
pub(crate) async fn answer_question(
    core: &Core,
    question: &Question,
) -> Result<Vec<Answered>, Status> {
    match question.type_url.as_str() {
        SYNCZ => {
            let positions = core.positions(|_| true).await;
            let configs = positions.iter().map(|position| {
                let config = client_config(position);
                (position.connected.proxy.id.clone(), pb::any(&config))
            });
            Ok(configs.collect())
        }
        CONFIG_DUMP => {
            let [wanted] = &question.names[..] else {
                return Ok(Vec::new());
            };
            let found = core.find_connected(wanted);
            let sections = found.map(|connected| {
                let view = core.view_of(&connected.proxy);
                sections(&view, false)
            });
            let unnamed = |section| (String::new(), section);
            Ok(sections.into_iter().flatten().map(unnamed).collect())
        }
        DEBUG => {
            let [page] = &question.names[..] else {
                return Err(Status::invalid_argument(
                    "resource_names: exactly one debug page, such as syncz, is to be named",
                ));
            };
            let (_, body) = super::page(core, &format!("/debug/{page}")).await;
            let resource = Any {
                type_url: DEBUG.to_owned(),
                value: body.into_bytes(),
            };
            Ok(vec![(page.clone(), resource)])
        }
        other => Err(Status::invalid_argument(format!(
            "type_url: {other:?} is not answered here; give {SYNCZ}, {CONFIG_DUMP}, or {DEBUG} \
             with the name of a page"
        ))),
    }
}

fn client_config(position: &Position) -> status::ClientConfig {
    let connected = &position.connected;
    let proxy = &connected.proxy;
    let version = proxy.version.as_deref().unwrap_or_default();
    let entries = [
        ("CLUSTER_ID", proxy.cluster_id.as_str()),
        ("NAMESPACE", proxy.namespace.as_str()),
        ("ISTIO_VERSION", version),
    ];
    let said = entries.into_iter().filter(|(_, value)| !value.is_empty());
    let fields = said.map(|(key, value)| {
        let kind = Some(Kind::StringValue(value.to_owned()));
        (key.to_owned(), PbValue { kind })
    });
    // The name under which other commands find it.
    let node = Node {
        id: full_name(connected),
        metadata: Some(Struct {
            fields: fields.collect(),
        }),
        ..Node::default()
    };
    let mut configs: Vec<_> = position.types.iter().map(generic).collect();
    configs.sort_by(|a, b| a.type_url.cmp(&b.type_url));
    status::ClientConfig {
        node: Some(node),
        generic_xds_configs: configs,
        ..status::ClientConfig::default()
    }
}

fn generic(of_type: &TypePosition) -> status::client_config::GenericXdsConfig {
    let config_status = match of_type.step {
        Step::Synced => status::ConfigStatus::Synced,
        Step::Stale => status::ConfigStatus::Stale,
        Step::NotSent => status::ConfigStatus::NotSent,
        Step::Error => status::ConfigStatus::Error,
    };
    let sent = of_type.sent.map(timestamp);
    status::client_config::GenericXdsConfig {
        type_url: of_type.type_url.as_str().to_owned(),
        config_status: config_status as i32,
        last_updated: sent,
        error_state: of_type
            .error
            .clone()
            .map(|details| admin::UpdateFailureState {
                last_update_attempt: sent,
                details,
                ..admin::UpdateFailureState::default()
            }),
        ..status::client_config::GenericXdsConfig::default()
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let at = prost_types::Timestamp::from(at);
    Timestamp {
        seconds: at.seconds,
        nanos: at.nanos,
    }
}

/// As RFC 3339 has it.
fn written(at: SystemTime) -> String {
    prost_types::Timestamp::from(at).to_string()
}

/// istiod's `/debug/syncz`: a list of `{"cluster_id", "proxy", "proxy_type", "istio_version",
/// "cluster_sent", "cluster_acked", …, "resources": {"<type URL>": {"sent", "acked", "sentTime",
/// "lastError"}}}`. Versions of contents stand for nonces: a type is in step when both are equal.
pub(super) async fn syncz(core: &Core, query: &Query) -> Value {
    const FIELDS: [(TypeUrl, &str); 5] = [
        (TypeUrl::CLUSTER, "cluster"),
        (TypeUrl::LISTENER, "listener"),
        (TypeUrl::ROUTE, "route"),
        (TypeUrl::ENDPOINT, "endpoint"),
        (TypeUrl::EXTENSION_CONFIG, "extensionconfig"),
    ];
    let namespace = query.get("namespace");
    let positions = core
        .positions(|c| namespace.is_none_or(|wanted| c.proxy.namespace == wanted))
        .await;
    let proxies = positions.iter().map(|position| {
        let connected = &position.connected;
        let mut entry = Map::new();
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                entry.insert(name.to_owned(), value.into());
            }
        };
        put("cluster_id", &connected.proxy.cluster_id);
        put("proxy", &full_name(connected));
        put("proxy_type", kind_name(connected.proxy.kind));
        put(
            "istio_version",
            connected.proxy.version.as_deref().unwrap_or_default(),
        );
        let view = core.published_view(connected);
        let mut resources = Map::new();
        for of_type in &position.types {
            let (sent, acked) = versions(of_type, view.as_deref());
            if let Some((_, field)) = FIELDS.iter().find(|(t, _)| *t == of_type.type_url) {
                put(&format!("{field}_sent"), &sent);
                put(&format!("{field}_acked"), &acked);
            }
            let mut resource = json!({ "sent": sent, "acked": acked });
            if let Some(at) = of_type.sent {
                resource["sentTime"] = written(at).into();
            }
            if let Some(error) = &of_type.error {
                resource["lastError"] = error.as_str().into();
            }
            resources.insert(of_type.type_url.as_str().to_owned(), resource);
        }
        entry.insert("resources".to_owned(), resources.into());
        Value::Object(entry)
    });
    Value::Array(proxies.collect())
}

fn versions(of_type: &TypePosition, view: Option<&ProxyView>) -> (String, String) {
    let text = |version: Option<Version>| version.map_or_else(String::new, |v| v.to_string());
    let set = view.and_then(|view| view.view.get(&of_type.type_url));
    let present = text(set.map(weft_xds::ResourceSet::version));
    match of_type.step {
        Step::Synced => (present.clone(), present),
        Step::NotSent => (String::new(), String::new()),
        Step::Stale | Step::Error => (present, text(of_type.acked)),
    }
}

/// istiod's `/debug/config_dump`: what a proxy is to have, as Envoy's admin server would show it;
/// endpoints with `include_eds`. With `types` (`cds,rds`), only the resources of these, without the
/// messages around them.
pub(super) fn config_dump(connected: &Connected, core: &Core, query: &Query) -> Value {
    let view = core.view_of(&connected.proxy);
    let json = |any: &Any| weft_proto::json::any_to_json(any);
    let types = query.get("types").filter(|types| !types.is_empty());
    let configs: Vec<Value> = if let Some(types) = types {
        let wanted: Vec<String> = types.split(',').map(str::to_lowercase).collect();
        let sets = view.view.sets();
        let sets = sets.filter(|set| wanted.contains(&set.type_url().short().to_lowercase()));
        let all = sets.flat_map(|set| set.iter().map(|r| shown(set.type_url(), r)));
        all.map(|any| json(&any)).collect()
    } else {
        let endpoints = query.get("include_eds").is_some();
        sections(&view, endpoints).iter().map(json).collect()
    };
    json!({ "configs": configs })
}

/// The messages of a dump.
fn sections(view: &ProxyView, endpoints: bool) -> Vec<Any> {
    let version = view.view.version().to_string();
    let of_type = |type_url: &TypeUrl| -> Vec<(String, Any)> {
        let set = view.view.get(type_url);
        let mut resources: Vec<_> = set.iter().flat_map(|set| set.iter()).collect();
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        let any = |r| {
            (
                weft_xds::Resource::clone(r).name.to_string(),
                shown(type_url, r),
            )
        };
        resources.into_iter().map(any).collect()
    };
    let anys = |type_url: &TypeUrl| -> Vec<Any> {
        of_type(type_url).into_iter().map(|(_, any)| any).collect()
    };
    let listener = |(name, listener)| admin::listeners_config_dump::DynamicListener {
        name,
        active_state: Some(admin::listeners_config_dump::DynamicListenerState {
            version_info: version.clone(),
            listener: Some(listener),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut sections = vec![
        pb::any(&admin::BootstrapConfigDump::default()),
        pb::any(&admin::ClustersConfigDump {
            version_info: version.clone(),
            dynamic_active_clusters: anys(&TypeUrl::CLUSTER)
                .into_iter()
                .map(|cluster| admin::clusters_config_dump::DynamicCluster {
                    version_info: version.clone(),
                    cluster: Some(cluster),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
    ];
    if endpoints {
        sections.push(pb::any(&admin::EndpointsConfigDump {
            dynamic_endpoint_configs: anys(&TypeUrl::ENDPOINT)
                .into_iter()
                .map(
                    |config| admin::endpoints_config_dump::DynamicEndpointConfig {
                        version_info: version.clone(),
                        endpoint_config: Some(config),
                        ..Default::default()
                    },
                )
                .collect(),
            ..Default::default()
        }));
    }
    sections.extend([
        pb::any(&admin::ListenersConfigDump {
            version_info: version.clone(),
            dynamic_listeners: of_type(&TypeUrl::LISTENER)
                .into_iter()
                .map(listener)
                .collect(),
            ..Default::default()
        }),
        pb::any(&admin::ScopedRoutesConfigDump::default()),
        pb::any(&admin::RoutesConfigDump {
            dynamic_route_configs: anys(&TypeUrl::ROUTE)
                .into_iter()
                .map(|config| admin::routes_config_dump::DynamicRouteConfig {
                    version_info: version.clone(),
                    route_config: Some(config),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
        pb::any(&admin::SecretsConfigDump {
            dynamic_active_secrets: of_type(&TypeUrl::SECRET)
                .into_iter()
                .map(|(name, secret)| admin::secrets_config_dump::DynamicSecret {
                    name,
                    version_info: version.clone(),
                    secret: Some(secret),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
        pb::any(&admin::EcdsConfigDump {
            ecds_filters: anys(&TypeUrl::EXTENSION_CONFIG)
                .into_iter()
                .map(|filter| admin::ecds_config_dump::EcdsFilterConfig {
                    version_info: version.clone(),
                    ecds_filter: Some(filter),
                    ..Default::default()
                })
                .collect(),
        }),
    ]);
    sections
}

/// istiod's `/debug/connections` and `/debug/adsz`.
pub(super) fn connections(core: &Core) -> Value {
    let clients = core.connected();
    let entry = |connected: &Connected| {
        let watches: Map<String, Value> = connected
            .types
            .keys()
            .map(|type_url| (type_url.as_str().to_owned(), Value::Array(Vec::new())))
            .collect();
        json!({
            "connectionId": full_name(connected),
            "connectedAt": written(connected.since),
            "address": connected.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            "labels": connected.proxy.labels,
            "metadata": *connected.proxy.metadata,
            "watches": watches,
        })
    };
    json!({
        "totalClients": clients.len(),
        "clients": clients.iter().map(entry).collect::<Vec<_>>(),
    })
}
