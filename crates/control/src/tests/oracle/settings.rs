//! What a mesh of the property test has for settings: each seed its own.

use weft_model::MeshSettings;
use weft_sources::mesh_config;

use super::super::telemetry::RANDOM_SETTINGS;

/// Settings from which something follows for what proxies get.
const MORE: [&str; 12] = [
    "",
    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\ntrustDomain: new\ntrustDomainAliases: [old]",
    "defaultServiceExportTo: ['.']\ndefaultVirtualServiceExportTo: ['.']\ndefaultDestinationRuleExportTo: ['.']",
    "discoverySelectors: [{matchExpressions: [{key: env, operator: NotIn, values: [one]}]}]",
    "localityLbSetting: {failover: [{from: eu, to: us}]}\ndefaultTrafficPolicy: {outlierDetection: {}, connectionPool: {tcp: {maxConnections: 7}}}",
    "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
    "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\nenableEnvoyAccessLogService: true",
    "h2UpgradePolicy: UPGRADE\ntcpKeepalive: {probes: 3}\nconnectTimeout: 3s\nprotocolDetectionTimeout: 1s",
    "enableAutoMtls: false\ninboundTrafficPolicy: {mode: LOCALHOST}",
    "rootNamespace: b\ndefaultHttpRetryPolicy: {attempts: 0}",
    "localityLbSetting: {distribute: [{from: eu/*, to: {eu/*: 80, us/*: 20}}]}\npathNormalization: {normalization: BASE}",
    "proxyHttpPort: 15080\nmeshMTLS: {minProtocolVersion: TLSV1_3}\ndefaultConfig: {proxyHeaders: {server: {disabled: true}}, gatewayTopology: {numTrustedProxies: 2}}",
];

/// Providers whose services come and go, and settings by the seed.
pub(super) fn of(seed: u64) -> MeshSettings {
    let more = MORE[(seed % MORE.len() as u64) as usize];
    let text = format!("{RANDOM_SETTINGS}{more}\n");
    mesh_config::parse("mesh.yaml", &text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

#[test]
fn all_settings_are_valid() {
    for seed in 0..MORE.len() as u64 {
        of(seed);
    }
}
