//! The bootstraps of the demo's proxies, in Envoy's form: a real Envoy would take them, too.
//! Must never hold anything that the control plane can give.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::plan::{Instance, Plan};
use super::service::SERVICE_PORT;

/// For the sidecar of an instance.
pub(crate) fn sidecar(plan: &Plan, instance: &Instance) -> String {
    let node = json!({
        "id": format!(
            "sidecar~{}~{}.default~default.svc.cluster.local", instance.address, instance.name()
        ),
        "cluster": format!("{}.default", instance.service.host()),
        "metadata": {
            "NAMESPACE": "default",
            "INSTANCE_IPS": instance.address.to_string(),
            "LABELS": {"app": instance.service.host(), "version": instance.version},
            // No root, so no redirection: the application calls its sidecar's HTTP proxy, and
            // the sidecar takes calls on a real port of the instance's address.
            "INTERCEPTION_MODE": "NONE",
            "HTTP_PROXY_PORT": instance.http_proxy_port.to_string(),
            "WEFT_INBOUND": {SERVICE_PORT.to_string(): instance.app_port.to_string()},
            "WEFT_OUTBOUND_LISTENERS": "false",
        },
    });
    bootstrap(&node, plan.grpc, instance.admin())
}

/// For the ingress gateway.
pub(crate) fn gateway(plan: &Plan) -> String {
    let node = json!({
        "id": format!("router~{}~gateway.default~default.svc.cluster.local", plan.gateway_address),
        "cluster": "gateway.default",
        "metadata": {
            "NAMESPACE": "default",
            "INSTANCE_IPS": plan.gateway_address.to_string(),
            "LABELS": {"istio": "ingressgateway"},
            // A port below 1024 is a plan nobody has here.
            "UNPRIVILEGED_POD": "true",
        },
    });
    bootstrap(&node, plan.grpc, plan.gateway_admin)
}

fn bootstrap(node: &Value, grpc: SocketAddr, admin: SocketAddr) -> String {
    let bootstrap = json!({
        "node": node,
        "admin": {"address": socket_address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [{
                "name": "xds",
                "type": "STATIC",
                "connect_timeout": "2s",
                "load_assignment": {
                    "cluster_name": "xds",
                    "endpoints": [{"lb_endpoints": [{
                        "endpoint": {"address": socket_address(grpc)},
                    }]}],
                },
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.\
                                  HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
            }],
        },
    });
    // JSON is YAML; the pretty form is there to be read.
    format!("{bootstrap:#}\n")
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}
