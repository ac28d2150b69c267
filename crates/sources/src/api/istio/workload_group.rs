//! `WorkloadGroup`: what workloads that register themselves have in common, and how their agent finds
//! out that they are ready. Nothing of the mesh follows from it. Rules of validity follow Istio's
//! `ValidateWorkloadGroup`.

use super::message as pb;
use crate::check::At;
use pb::readiness_probe::HealthCheckMethod;

/// Checks a group.
pub(crate) fn check(message: pb::WorkloadGroup, at: At<'_>) {
    let pb::WorkloadGroup {
        metadata,
        template,
        probe,
    } = message;
    if let Some(pb::workload_group::ObjectMeta {
        labels,
        // As in Kubernetes, any text.
        annotations: _,
    }) = metadata
    {
        at.field("metadata").field("labels").labels(labels);
    }
    let place = at.field("template");
    match template {
        Some(template) => check_template(template, place),
        None => place.error("is missing: write what the workloads have in common, or {}"),
    }
    if let Some(probe) = probe {
        check_probe(probe, at.field("probe"));
    }
}

fn check_template(template: pb::WorkloadEntry, at: At<'_>) {
    let pb::WorkloadEntry {
        address,
        ports,
        labels,
        // Names that nothing refers to.
        network: _,
        locality: _,
        weight: _,
        service_account: _,
    } = template;
    if !address.is_empty() {
        at.field("address")
            .error("is each workload's own: remove it");
    }
    let numbers = at.field("ports");
    for (name, number) in &ports {
        numbers.key(name).port(*number);
    }
    at.field("labels").labels(labels);
}

fn check_probe(probe: pb::ReadinessProbe, at: At<'_>) {
    let pb::ReadinessProbe {
        initial_delay_seconds,
        timeout_seconds,
        period_seconds,
        success_threshold,
        failure_threshold,
        health_check_method,
    } = probe;
    for (field, number) in [
        ("initialDelaySeconds", initial_delay_seconds),
        ("timeoutSeconds", timeout_seconds),
        ("periodSeconds", period_seconds),
        ("successThreshold", success_threshold),
        ("failureThreshold", failure_threshold),
    ] {
        at.field(field).count(number);
    }
    match health_check_method {
        Some(HealthCheckMethod::HttpGet(http)) => check_http(http, at.field("httpGet")),
        Some(HealthCheckMethod::TcpSocket(pb::TcpHealthCheckConfig { host: _, port })) => {
            at.field("tcpSocket").field("port").port(port);
        }
        Some(HealthCheckMethod::Exec(pb::ExecHealthCheckConfig { command })) => {
            if command.is_empty() {
                let at = at.field("exec");
                at.field("command").error("is missing: write one");
            }
        }
        Some(HealthCheckMethod::Grpc(pb::GrpcHealthCheckConfig { port, service: _ })) => {
            at.field("grpc").field("port").port(port);
        }
        None => at.error("says not how to probe: write httpGet, tcpSocket, exec or grpc"),
    }
}

fn check_http(http: pb::HttpHealthCheckConfig, at: At<'_>) {
    let pb::HttpHealthCheckConfig {
        path: _,
        port,
        host: _,
        scheme,
        http_headers,
    } = http;
    at.field("port").port(port);
    if !["", "HTTP", "HTTPS"].contains(&scheme.as_str()) {
        at.field("scheme")
            .error(format_args!("\"{scheme}\" is no scheme: use HTTP or HTTPS"));
    }
    let headers = at.field("httpHeaders");
    for (index, pb::HttpHeader { name, value: _ }) in http_headers.iter().enumerate() {
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            headers
                .index(index)
                .field("name")
                .error(format_args!("\"{name}\" is no name of a header"));
        }
    }
}
