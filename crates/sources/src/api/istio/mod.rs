//! Istio's API, one file a kind: message → model object. Every message is taken apart field by
//! field, so that a field of the real API that nobody thought of does not compile; what is not
//! generated yet is refused with its path.

pub(crate) mod authorization_policy;
mod authorization_policy_values;
mod authorization_policy_when;
pub(crate) mod destination_rule;
mod destination_rule_balancer;
mod destination_rule_pool;
pub(crate) mod envoy_filter;
mod envoy_filter_match;
mod envoy_filter_value;
mod extension_providers;
pub(crate) mod gateway;
mod gateway_tls;
mod log_format;
mod mesh_authorities;
pub mod mesh_config;
mod mesh_config_namespaces;
mod mesh_config_providers;
pub mod mesh_networks;
pub(crate) mod peer_authentication;
pub(crate) mod proxy_config;
mod proxy_connections;
pub mod proxy_settings;
pub(crate) mod request_authentication;
mod selector;
pub(crate) mod service_entry;
pub(crate) mod sidecar;
mod sidecar_ingress;
pub(crate) mod telemetry;
pub mod token_issuers;
pub(crate) mod virtual_service;
mod virtual_service_cors;
pub(crate) mod virtual_service_destination;
mod virtual_service_fault;
mod virtual_service_headers;
mod virtual_service_match;
mod virtual_service_stream;
pub(crate) mod workload_entry;
pub(crate) mod workload_group;

/// Istio's messages.
pub(crate) use weft_proto::istio::networking::v1alpha3 as message;
