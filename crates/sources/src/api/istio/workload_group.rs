//! `WorkloadGroup` → [`WorkloadGroup`]: what workloads that register themselves have in common, and how
//! their agents find out that they are ready. Rules of validity follow Istio's `ValidateWorkloadGroup`.

use std::collections::BTreeMap;

use weft_model::{Labels, Locality, Weight, WorkloadGroup};

use super::message as pb;
use crate::api::kubernetes::labelled_locality;
use crate::check::{At, Context, optional};
use pb::readiness_probe::HealthCheckMethod;

/// Takes a group in.
pub(crate) fn convert(
    message: pb::WorkloadGroup,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<WorkloadGroup> {
    let pb::WorkloadGroup {
        metadata,
        template,
        probe,
    } = message;
    let mut over = Labels::default();
    if let Some(pb::workload_group::ObjectMeta {
        labels,
        // As in Kubernetes, any text; nothing follows from it.
        annotations: _,
    }) = metadata
    {
        over = at.field("metadata").field("labels").labels(labels);
    }
    if let Some(probe) = probe {
        // It is told to agents (`istioctl x workload entry configure`), not by this.
        check_probe(probe, at.field("probe"));
    }
    let place = at.field("template");
    let Some(template) = template else {
        place.error("is missing: write what the workloads have in common, or {}");
        return None;
    };
    Some(group(template, &over, context, place))
}

/// `over`: labels that count before those of the template.
fn group(
    template: pb::WorkloadEntry,
    over: &Labels,
    context: &Context<'_>,
    at: At<'_>,
) -> WorkloadGroup {
    let pb::WorkloadEntry {
        address,
        ports,
        labels,
        network,
        locality,
        weight,
        service_account,
    } = template;
    if !address.is_empty() {
        at.field("address")
            .error("is each workload's own: remove it");
    }
    let numbers = at.field("ports");
    let ports: BTreeMap<_, _> = ports
        .iter()
        .filter_map(|(name, number)| Some((name.as_str().into(), numbers.key(name).port(*number)?)))
        .collect();
    let mut labels: Labels = at.field("labels").labels(labels);
    for (name, value) in over.iter() {
        labels.insert(name, value);
    }
    WorkloadGroup {
        origin: context.origin.clone(),
        ports,
        service_account: optional(service_account),
        locality: if locality.is_empty() {
            labelled_locality(&labels)
        } else {
            Locality::parse(&locality)
        },
        labels,
        network: network.into(),
        weight: Weight(weight.max(1)),
    }
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
