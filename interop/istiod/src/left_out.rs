//! Fields of Istio's API that no world sets, or not in all their parts, each with its reason.

/// Paths as in [`crate::coverage`] (with all that is below them), and why no world sets them.
/// `*` stands for any one step of the path.
pub const LEFT_OUT: &[(&str, &str)] = &[
    (
        "DestinationRule.trafficPolicy.outlierDetection.consecutiveErrors",
        REFUSED,
    ),
    (
        "DestinationRule.trafficPolicy.portLevelSettings.outlierDetection.consecutiveErrors",
        REFUSED,
    ),
    (
        "DestinationRule.subsets.trafficPolicy.outlierDetection.consecutiveErrors",
        REFUSED,
    ),
    (
        "DestinationRule.subsets.trafficPolicy.portLevelSettings.outlierDetection.consecutiveErrors",
        REFUSED,
    ),
    ("EnvoyFilter.configPatches.applyTo=BOOTSTRAP", REFUSED),
    ("EnvoyFilter.configPatches.applyTo=INVALID", NOTHING),
    ("EnvoyFilter.configPatches.match.context=WAYPOINT", REFUSED),
    ("EnvoyFilter.configPatches.match.waypoint", REFUSED),
    ("EnvoyFilter.configPatches.patch.operation=INVALID", NOTHING),
    ("EnvoyFilter.targetRefs", REFUSED),
    ("Gateway.servers.port.targetPort", REFUSED),
    ("Gateway.servers.defaultEndpoint", REFUSED),
    (
        "Gateway.servers.tls.tlsCertificates.caCertificates",
        REFUSED,
    ),
    ("Sidecar.ingress.port.targetPort", REFUSED),
    ("Sidecar.egress.port.targetPort", REFUSED),
    ("Sidecar.ingress.tls.httpsRedirect", INGRESS),
    ("Sidecar.ingress.tls.mode=PASSTHROUGH", INGRESS),
    ("Sidecar.ingress.tls.mode=AUTO_PASSTHROUGH", INGRESS),
    ("Sidecar.ingress.tls.mode=ISTIO_MUTUAL", INGRESS),
    ("Sidecar.ingress.tls.subjectAltNames", INGRESS),
    ("Sidecar.ingress.tls.credentialName", INGRESS),
    ("Sidecar.ingress.tls.credentialNames", INGRESS),
    ("Sidecar.ingress.tls.caCertCredentialName", INGRESS),
    ("Sidecar.ingress.tls.tlsCertificates", INGRESS),
    ("VirtualService.http.fault.delay.exponentialDelay", REFUSED),
    ("VirtualService.http.fault.abort.http2Error", REFUSED),
    ("VirtualService.tcp.match.sourceSubnet", REFUSED),
    ("WorkloadGroup.template.address", REFUSED),
    (
        "WorkloadGroup.probe.grpc",
        "refused by Istio's validation; Weft takes it, and looks at no probe",
    ),
    ("AuthorizationPolicy.targetRef", REFUSED),
    ("AuthorizationPolicy.targetRefs", REFUSED),
    ("RequestAuthentication.targetRef", REFUSED),
    ("RequestAuthentication.targetRefs", REFUSED),
    ("RequestAuthentication.jwtRules.presence=REQUIRED", REFUSED),
    ("Telemetry.targetRef", REFUSED),
    ("Telemetry.targetRefs", REFUSED),
    ("Telemetry.metrics.overrides", REFUSED),
    ("Telemetry.metrics.reportingInterval", REFUSED),
    ("MeshConfig.ca", REFUSED),
    ("MeshConfig.caCertificates", REFUSED),
    ("MeshConfig.certificates", REFUSED),
    ("MeshConfig.configSources", REFUSED),
    ("MeshConfig.discoverySelectors", LABELS),
    ("MeshConfig.hboneIdleTimeout", IGNORED),
    ("MeshConfig.serviceEntryVisibility", LABELS),
    ("MeshConfig.serviceScopeConfigs", IGNORED),
    ("MeshConfig.serviceSettings", IGNORED),
    (
        "MeshConfig.verifyCertificateAtClient",
        "refused if false, and true is the default",
    ),
    (
        "MeshConfig.outboundTrafficPolicy.tls",
        "has the fields of a DestinationRule's tls",
    ),
    ("MeshConfig.meshMTLS.ecdhCurves", REFUSED),
    (
        "MeshConfig.defaultInboundHttpRetryPolicy.perTryTimeout",
        REFUSED,
    ),
    (
        "MeshConfig.defaultInboundHttpRetryPolicy.retryRemoteLocalities",
        REFUSED,
    ),
    (
        "MeshConfig.defaultInboundHttpRetryPolicy.retryIgnorePreviousHosts",
        REFUSED,
    ),
    (
        "MeshConfig.defaultTrafficPolicy.outlierDetection.consecutiveErrors",
        REFUSED,
    ),
    ("MeshConfig.extensionProviders.*.clearRouteCache", REFUSED),
    ("MeshConfig.extensionProviders.lightstep", REFUSED),
    ("MeshConfig.extensionProviders.opencensus", REFUSED),
    ("MeshConfig.extensionProviders.stackdriver", REFUSED),
    (
        "MeshConfig.extensionProviders.skywalking.accessToken",
        REFUSED,
    ),
    (
        "MeshConfig.extensionProviders.zipkin.headers.envName",
        REFUSED,
    ),
    (
        "MeshConfig.extensionProviders.opentelemetry.http.headers.envName",
        REFUSED,
    ),
    (
        "MeshConfig.extensionProviders.opentelemetry.grpc.initialMetadata.envName",
        REFUSED,
    ),
    (
        "MeshConfig.extensionProviders.opentelemetry.dynatraceSampler.httpService.http.headers.envName",
        REFUSED,
    ),
    ("MeshConfig.defaultConfig.connectionSettings", REFUSED),
    ("MeshConfig.defaultConfig.privateKeyProvider", REFUSED),
    ("MeshConfig.defaultConfig.statsdUdpAddress", REFUSED),
    ("MeshConfig.defaultConfig.zipkinAddress", REFUSED),
    // One value of what nobody looks at is in the world `mesh-agents`.
    ("MeshConfig.ingressControllerMode=*", AGENTS),
    ("MeshConfig.defaultConfig.controlPlaneAuthPolicy=*", AGENTS),
    ("MeshConfig.defaultConfig.envoyAccessLogService.*", AGENTS),
    ("MeshConfig.defaultConfig.envoyMetricsService.*", AGENTS),
    ("MeshConfig.defaultConfig.interceptionMode=*", AGENTS),
    ("MeshConfig.defaultConfig.readinessProbe.*", AGENTS),
    ("MeshConfig.defaultConfig.serviceCluster", AGENTS),
    ("MeshConfig.defaultConfig.tracingServiceName=*", AGENTS),
    ("MeshConfig.defaultConfig.tracing.datadog", AGENTS),
    ("MeshConfig.defaultConfig.tracing.lightstep", AGENTS),
    ("MeshConfig.defaultConfig.tracing.openCensusAgent", AGENTS),
    ("MeshConfig.defaultConfig.tracing.stackdriver", AGENTS),
    ("MeshConfig.defaultConfig.tracing.tlsSettings.*", AGENTS),
];

/// Shown by `crates/sources/tests/namespaces.rs`.
const LABELS: &str = "istiod reads labels of namespaces from Kubernetes alone";
const IGNORED: &str = "ignored (docs/compatibility.md)";
const REFUSED: &str = "refused with its path (docs/compatibility.md)";
const NOTHING: &str = "the value of who says nothing; refused";
const INGRESS: &str = "refused at ingress listeners, by Istio's validation, too";
const AGENTS: &str = "how agents start proxies, or Ingress: ignored (docs/compatibility.md)";

/// Why no world sets a path; `None`: one must.
pub fn reason(path: &str) -> Option<&'static str> {
    let entry = LEFT_OUT.iter().find(|(pattern, _)| covers(pattern, path));
    entry.map(|(_, reason)| *reason)
}

/// Whether a pattern is a path's or one's above it.
pub fn covers(pattern: &str, path: &str) -> bool {
    let mut steps = path.split(['.', '=']);
    let mut same = |wanted: &str| {
        steps
            .next()
            .is_some_and(|step| wanted == "*" || wanted == step)
    };
    pattern.split(['.', '=']).all(&mut same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_what_is_below_it() {
        for (pattern, path, expected) in [
            ("A.b", "A.b", true),
            ("A.b", "A.b.c", true),
            ("A.b", "A.bc", false),
            ("A.b.c", "A.b", false),
            ("A.*.c", "A.b.c=D", true),
            ("A.b=*", "A.b=C", true),
            ("A.b=*", "A.b", false),
            ("A.b=C", "A.b=D", false),
        ] {
            assert_eq!(covers(pattern, path), expected, "{pattern} {path}");
        }
    }
}
