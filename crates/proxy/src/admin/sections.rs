//! The sections of `/config_dump`: the kept resources as `envoy.admin.v3.*ConfigDump` messages.
//! Knows no resource's meaning, except where a listener keeps its inline route configuration.

use regex::Regex;
use serde_json::{Map, Value, json};
use weft_proto::Any;
use weft_proto::json::any_to_json;
use weft_proto::redact::redact;

use super::clusters::{compact, json_load_assignment};
use super::dump::{Dynamic, Failure, Kind, Raw, Resources};
use super::server_info::timestamp;
use super::state::AdminState;

pub(super) const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";
pub(super) const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";

/// One message of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Bootstrap,
    Clusters,
    Endpoints,
    Listeners,
    ScopedRoutes,
    Routes,
    Secrets,
}

/// A field of a section; repeated ones name the message they hold.
pub(super) type Field = (&'static str, Option<&'static str>);

impl Section {
    pub(super) const ALL: [Self; 7] = [
        Self::Bootstrap,
        Self::Clusters,
        Self::Endpoints,
        Self::Listeners,
        Self::ScopedRoutes,
        Self::Routes,
        Self::Secrets,
    ];

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Bootstrap => "BootstrapConfigDump",
            Self::Clusters => "ClustersConfigDump",
            Self::Endpoints => "EndpointsConfigDump",
            Self::Listeners => "ListenersConfigDump",
            Self::ScopedRoutes => "ScopedRoutesConfigDump",
            Self::Routes => "RoutesConfigDump",
            Self::Secrets => "SecretsConfigDump",
        }
    }

    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            Self::Bootstrap => &[("bootstrap", None), ("last_updated", None)],
            Self::Clusters => &[
                ("version_info", None),
                ("static_clusters", Some("StaticCluster")),
                ("dynamic_active_clusters", Some("DynamicCluster")),
                ("dynamic_warming_clusters", Some("DynamicCluster")),
            ],
            Self::Endpoints => &[
                ("static_endpoint_configs", Some("StaticEndpointConfig")),
                ("dynamic_endpoint_configs", Some("DynamicEndpointConfig")),
            ],
            Self::Listeners => &[
                ("version_info", None),
                ("static_listeners", Some("StaticListener")),
                ("dynamic_listeners", Some("DynamicListener")),
            ],
            Self::ScopedRoutes => &[
                (
                    "inline_scoped_route_configs",
                    Some("InlineScopedRouteConfigs"),
                ),
                (
                    "dynamic_scoped_route_configs",
                    Some("DynamicScopedRouteConfigs"),
                ),
            ],
            Self::Routes => &[
                ("static_route_configs", Some("StaticRouteConfig")),
                ("dynamic_route_configs", Some("DynamicRouteConfig")),
            ],
            Self::Secrets => &[
                ("static_secrets", Some("StaticSecret")),
                ("dynamic_active_secrets", Some("DynamicSecret")),
                ("dynamic_warming_secrets", Some("DynamicSecret")),
            ],
        }
    }
}

/// A message with `@type` first and its secrets hidden.
pub(super) fn any(type_url: &str, value: &[u8]) -> Value {
    let any = Any {
        type_url: type_url.to_owned(),
        value: value.to_vec(),
    };
    let mut printed = any_to_json(&any);
    redact(&mut printed);
    printed
}

/// Prints sections; with `names`, only the resources that match.
pub(super) struct Printer<'a> {
    pub(super) state: &'a AdminState,
    pub(super) names: Option<Regex>,
}

impl Printer<'_> {
    fn wants(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(name))
    }

    pub(super) fn section(&self, section: Section) -> Value {
        let mut config = Map::new();
        let url = format!("{ADMIN}{}", section.message());
        config.insert("@type".to_owned(), url.into());
        let fields = match section {
            Section::Bootstrap => self.bootstrap(),
            Section::Clusters => self.clusters(),
            Section::Endpoints => self.endpoints(),
            Section::Listeners => self.listeners(),
            Section::ScopedRoutes => json!({}),
            Section::Routes => self.routes(),
            Section::Secrets => self.secrets(),
        };
        if let Value::Object(fields) = fields {
            config.extend(fields);
        }
        Value::Object(config)
    }

    fn bootstrap(&self) -> Value {
        let Some(raw) = self.state.dump.bootstrap() else {
            return json!({});
        };
        let mut bootstrap = any(BOOTSTRAP, &raw.value);
        if let Some(fields) = bootstrap.as_object_mut() {
            fields.remove("@type"); // the field has this type already
        }
        json!({"bootstrap": bootstrap, "last_updated": timestamp(raw.updated)})
    }

    fn fixed(&self, kind: Kind, all: &Resources, field: &str) -> Vec<Value> {
        let wanted = all.fixed.iter().filter(|(name, _)| self.wants(name));
        wanted
            .map(|(name, raw)| {
                let name = if kind == Kind::Secret { &**name } else { "" };
                compact([
                    ("name", name.into()),
                    (field, any(kind.type_url(), &raw.value)),
                    ("last_updated", timestamp(raw.updated).into()),
                ])
            })
            .collect()
    }

    /// The dynamic resources that `part` finds something in.
    fn dynamic(
        &self,
        kind: Kind,
        all: &Resources,
        field: &str,
        part: impl Fn(&Dynamic) -> (Option<&Raw>, bool),
    ) -> Vec<Value> {
        let wanted = all.dynamic.iter().filter(|(name, _)| self.wants(name));
        wanted
            .filter_map(|(name, resource)| {
                let (raw, with_failure) = part(resource);
                let failure = resource.failure.as_ref().filter(|_| with_failure);
                if raw.is_none() && failure.is_none() {
                    return None;
                }
                let name = if kind == Kind::Secret { &**name } else { "" };
                Some(compact([
                    ("name", name.into()),
                    ("version_info", raw.map(|raw| &*raw.version).into()),
                    (field, raw.map(|r| any(kind.type_url(), &r.value)).into()),
                    ("last_updated", raw.map(|r| timestamp(r.updated)).into()),
                    ("error_state", failure.map(|f| error_state(kind, f)).into()),
                ]))
            })
            .collect()
    }

    fn clusters(&self) -> Value {
        let all = self.state.dump.resources(Kind::Cluster);
        compact([
            ("version_info", all.version.as_deref().into()),
            (
                "static_clusters",
                self.fixed(Kind::Cluster, &all, "cluster").into(),
            ),
            (
                "dynamic_active_clusters",
                self.dynamic(Kind::Cluster, &all, "cluster", |r| {
                    (r.active.as_ref(), true)
                })
                .into(),
            ),
            (
                "dynamic_warming_clusters",
                self.dynamic(Kind::Cluster, &all, "cluster", |r| {
                    (r.warming.as_ref(), false)
                })
                .into(),
            ),
        ])
    }

    fn endpoints(&self) -> Value {
        let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
        for cluster in self.state.clusters.clusters() {
            let name = cluster.eds_service_name.as_ref().unwrap_or(&cluster.name);
            if self.wants(name) {
                let config = json!({"endpoint_config": json_load_assignment(&cluster)});
                let list = if cluster.added_via_api {
                    &mut dynamic
                } else {
                    &mut fixed
                };
                list.push(config);
            }
        }
        compact([
            ("static_endpoint_configs", fixed.into()),
            ("dynamic_endpoint_configs", dynamic.into()),
        ])
    }

    fn listeners(&self) -> Value {
        let all = self.state.dump.resources(Kind::Listener);
        let version = |raw: &Raw| {
            compact([
                ("version_info", (*raw.version).into()),
                ("listener", any(Kind::Listener.type_url(), &raw.value)),
                ("last_updated", timestamp(raw.updated).into()),
            ])
        };
        let wanted = all.dynamic.iter().filter(|(name, _)| self.wants(name));
        let dynamic: Vec<_> = wanted
            .map(|(name, listener)| {
                let failure = listener.failure.as_ref();
                compact([
                    ("name", (**name).into()),
                    ("active_state", listener.active.as_ref().map(version).into()),
                    (
                        "warming_state",
                        listener.warming.as_ref().map(version).into(),
                    ),
                    (
                        "draining_state",
                        listener.draining.as_ref().map(version).into(),
                    ),
                    (
                        "error_state",
                        failure.map(|f| error_state(Kind::Listener, f)).into(),
                    ),
                ])
            })
            .collect();
        compact([
            ("version_info", all.version.as_deref().into()),
            (
                "static_listeners",
                self.fixed(Kind::Listener, &all, "listener").into(),
            ),
            ("dynamic_listeners", dynamic.into()),
        ])
    }

    fn routes(&self) -> Value {
        let all = self.state.dump.resources(Kind::Route);
        let mut fixed = self.fixed(Kind::Route, &all, "route_config");
        let listeners = self.state.dump.resources(Kind::Listener);
        let active = listeners.dynamic.values().filter_map(|l| l.active.as_ref());
        for raw in listeners.fixed.values().chain(active) {
            let listener = any(Kind::Listener.type_url(), &raw.value);
            for mut route in inline_routes(&listener) {
                let name = route.get("name").and_then(Value::as_str).unwrap_or("");
                if !self.wants(name) {
                    continue;
                }
                let mut typed = json!({"@type": Kind::Route.type_url()});
                if let (Some(typed), Some(route)) = (typed.as_object_mut(), route.as_object_mut()) {
                    typed.append(route);
                }
                let updated = timestamp(raw.updated);
                fixed.push(json!({"route_config": typed, "last_updated": updated}));
            }
        }
        let dynamic = self.dynamic(Kind::Route, &all, "route_config", |r| {
            (r.active.as_ref(), true)
        });
        compact([
            ("static_route_configs", fixed.into()),
            ("dynamic_route_configs", dynamic.into()),
        ])
    }

    fn secrets(&self) -> Value {
        let all = self.state.dump.resources(Kind::Secret);
        let active = self.dynamic(Kind::Secret, &all, "secret", |r| (r.active.as_ref(), true));
        let warming = self.dynamic(Kind::Secret, &all, "secret", |r| {
            (r.warming.as_ref(), false)
        });
        compact([
            (
                "static_secrets",
                self.fixed(Kind::Secret, &all, "secret").into(),
            ),
            ("dynamic_active_secrets", active.into()),
            ("dynamic_warming_secrets", warming.into()),
        ])
    }
}

fn error_state(kind: Kind, failure: &Failure) -> Value {
    let value = failure.value.as_ref();
    compact([
        (
            "failed_configuration",
            value.map(|value| any(kind.type_url(), value)).into(),
        ),
        ("last_update_attempt", timestamp(failure.at).into()),
        ("details", failure.details.as_str().into()),
        ("version_info", (*failure.version).into()),
    ])
}

/// The `route_config`s of the HTTP managers of a printed listener.
fn inline_routes(listener: &Value) -> Vec<Value> {
    let array = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
    let mut chains = array(listener.get("filter_chains")).unwrap_or_default();
    chains.extend(listener.get("default_filter_chain").cloned());
    let filters = chains
        .iter()
        .flat_map(|c| array(c.get("filters")).unwrap_or_default());
    filters
        .filter_map(|filter| filter.get("typed_config")?.get("route_config").cloned())
        .collect()
}
