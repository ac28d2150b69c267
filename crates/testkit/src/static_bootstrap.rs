//! What a control plane emits, as a bootstrap without a control plane: routes and endpoints move
//! to where they are referred to. Must never repair anything on the way.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Makes a bootstrap of the resources of `/debug/resources`.
///
/// # Panics
/// A listener names a route configuration, or a cluster endpoints, that are not among them.
pub fn static_bootstrap(resources: &[Value]) -> Value {
    let of = |kind: &str| -> BTreeMap<String, Value> {
        let picked = resources.iter().filter(|resource| resource["type"] == kind);
        picked
            .map(|resource| {
                let name = resource["name"].as_str().unwrap_or_default().to_owned();
                let mut body = resource["resource"].clone();
                if let Some(body) = body.as_object_mut() {
                    body.remove("@type");
                }
                (name, body)
            })
            .collect()
    };
    let (routes, endpoints) = (of("RDS"), of("EDS"));
    let mut listeners: Vec<Value> = of("LDS").into_values().collect();
    for listener in &mut listeners {
        inline_routes(listener, &routes);
    }
    let mut clusters: Vec<Value> = of("CDS").into_values().collect();
    for cluster in &mut clusters {
        inline_endpoints(cluster, &endpoints);
    }
    // Secrets are asked for over ADS, which must be there; nobody is asked while validating.
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    clusters.push(json!({
        "name": "xds",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "xds"},
        "typed_extension_protocol_options": {
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    }));
    json!({
        "node": {"id": "validate", "cluster": "validate"},
        "dynamic_resources": {"ads_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        }},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn inline_routes(value: &mut Value, routes: &BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap_or_default();
                let route = routes.get(name);
                let route = route.unwrap_or_else(|| panic!("no route configuration {name:?}"));
                map.insert("route_config".to_owned(), route.clone());
            }
            map.values_mut()
                .for_each(|inner| inline_routes(inner, routes));
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|inner| inline_routes(inner, routes)),
        _ => {}
    }
}

fn inline_endpoints(cluster: &mut Value, endpoints: &BTreeMap<String, Value>) {
    let name = cluster["name"].as_str().unwrap_or_default().to_owned();
    let Some(map) = cluster.as_object_mut() else {
        return;
    };
    let Some(eds) = map.remove("eds_cluster_config") else {
        return;
    };
    let service = eds["service_name"]
        .as_str()
        .filter(|s| !s.is_empty())
        .unwrap_or(&name);
    let found = endpoints.get(service);
    let assignment = found
        .unwrap_or_else(|| panic!("no endpoints {service:?}"))
        .clone();
    map.insert("type".to_owned(), json!("STATIC"));
    map.insert("load_assignment".to_owned(), assignment);
}
