//! Text of a file → pieces of the mesh: finds the API that a document belongs to, has it
//! converted, and joins what is wrong to the lines where it was written.
//! Never knows which file came before: keeping the last good form is the registry's work.

use std::sync::Arc;

use weft_model::{Kind, Labels, MeshSettings, Namespace, ObjectRef, Timestamp};
use weft_proto::document::{Document, Recognised, parse_file};
use weft_proto::{Problem, reader};

use crate::api::aeraki;
use crate::api::istio::{
    authorization_policy, destination_rule, envoy_filter, gateway, message as istio,
    peer_authentication, proxy_config, request_authentication, service_entry, sidecar, telemetry,
    virtual_service, workload_entry, workload_group,
};
use crate::api::kubernetes::{self, secret};
use crate::check::{At, Checker, Context, Finding};
use crate::piece::{Outcome, Piece, ReadDocument};

/// At most so many documents are read from one file.
pub(crate) const MAX_DOCUMENTS: usize = 100_000;

/// Everything that a file says.
#[derive(Debug, Default)]
pub(crate) struct ReadFile {
    pub(crate) documents: Vec<ReadDocument>,
    /// Of documents that could not be told apart or named. While there are any, an object that
    /// is missing may merely be unreadable.
    pub(crate) problems: Vec<Problem>,
}

/// Reads a file. `source` names it in errors.
pub(crate) fn read_file(source: &str, text: &str, settings: &MeshSettings) -> ReadFile {
    let (documents, mut problems) = parse_file(source, text);
    if let Some(first) = documents.get(MAX_DOCUMENTS) {
        let message = format!(
            "the file has more than {MAX_DOCUMENTS} documents; this one and the rest are not read: split the file"
        );
        problems.push(first.problem("", message));
    }
    let mut read = Vec::with_capacity(documents.len().min(MAX_DOCUMENTS));
    for document in documents.iter().take(MAX_DOCUMENTS) {
        match recognise(document) {
            Ok(recognised) => read.push(ReadDocument {
                name: document.object(),
                line: document.line,
                outcome: read_document(document, recognised, settings),
            }),
            // A misspelt kind hides which object is meant, as broken text does.
            Err(problem) => problems.push(*problem),
        }
    }
    ReadFile {
        documents: read,
        problems,
    }
}

/// The model's name for an object that could not be read further.
pub(crate) fn model_name(name: &weft_proto::ObjectRef) -> Option<ObjectRef> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name.kind)?;
    let namespace = if kind == Kind::Namespace {
        &name.name
    } else {
        &name.namespace
    };
    Some(ObjectRef::new(
        kind,
        Namespace::new(namespace.as_str()),
        name.name.as_str(),
    ))
}

/// Kubernetes' own kinds that no mesh reads; others of its core group are misspelt, if they look
/// like one that a mesh reads.
const OTHER_CORE_KINDS: [&str; 10] = [
    "Binding",
    "Event",
    "LimitRange",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "ServiceAccount",
];

fn recognise(document: &Document) -> Result<Recognised, Box<Problem>> {
    let recognised = document.recognise()?;
    let kind = document.kind.as_str();
    if recognised == Recognised::Other
        && document.group().is_empty()
        && !OTHER_CORE_KINDS.contains(&kind)
    {
        let ours = [
            "ConfigMap",
            "Endpoints",
            "Namespace",
            "Pod",
            "Secret",
            "Service",
        ];
        if let Some(near) = reader::closest(kind, ours.into_iter()) {
            let text = format!("unknown kind \"{kind}\", did you mean \"{near}\"?");
            return Err(Box::new(document.problem("kind", text)));
        }
    }
    Ok(recognised)
}

fn read_document(document: &Document, recognised: Recognised, settings: &MeshSettings) -> Outcome {
    if recognised == Recognised::Other && !is_mesh_api(document) {
        return Outcome::Ignored;
    }
    let origin = match recognised {
        Recognised::Other => None,
        _ => model_name(&document.object()),
    };
    let Some(origin) = origin else {
        let text = format!(
            "{} {} is not supported yet (see docs/compatibility.md)",
            document.group(),
            document.kind
        );
        return Outcome::Refused(None, vec![document.problem("kind", text)]);
    };
    match convert(document, &origin, settings) {
        Ok(piece) => Outcome::Piece(origin, piece),
        Err(problems) => Outcome::Refused(Some(origin), problems),
    }
}

/// Groups whose rules change what traffic may do. To pass over one in silence could open a door
/// that its author wanted shut.
fn is_mesh_api(document: &Document) -> bool {
    let group = document.group();
    group.ends_with("istio.io")
        || group.ends_with("aeraki.io")
        || group == "gateway.networking.k8s.io"
        || (group == "networking.k8s.io" && document.kind.starts_with("Ingress"))
}

fn convert(
    document: &Document,
    origin: &ObjectRef,
    settings: &MeshSettings,
) -> Result<Piece, Vec<Problem>> {
    let checker = Checker::default();
    let root = checker.root();
    let metadata = root.field("metadata");
    let labels: Labels = document.metadata.labels.clone().into_iter().collect();
    let created = creation_time(document, metadata);
    check_names(origin, metadata);
    let context = Context {
        origin,
        created,
        labels: &labels,
        annotations: &document.metadata.annotations,
        settings,
    };
    let piece = convert_kind(document, &context, &checker);
    let findings = checker.into_findings();
    match piece {
        Ok(Some(piece)) if findings.is_empty() => Ok(piece),
        // Nothing without a finding: the object is valid, but nothing follows from it.
        Ok(None) if findings.is_empty() => Ok(Piece::Nothing),
        piece => {
            let place =
                |finding: Finding| document.problem(&finding.path.to_string(), finding.text);
            let mut problems: Vec<Problem> = findings.into_iter().map(place).collect();
            if let Err(unread) = piece {
                problems.extend(beside(document, &context, &unread));
                problems.extend(unread);
            }
            problems.sort_by_key(|problem| (problem.line, problem.column));
            Err(problems)
        }
    }
}

/// What else is wrong with a document of which fields cannot be read: all that is found without them,
/// but for what may follow from their absence.
fn beside(document: &Document, context: &Context<'_>, unread: &[Problem]) -> Vec<Problem> {
    let places: Vec<(u32, u32)> = unread.iter().map(|p| (p.line, p.column)).collect();
    let (readable, absent) = document.without(&places);
    let checker = Checker::default();
    // What of it cannot be read still is told already.
    if absent.is_empty() || convert_kind(&readable, context, &checker).is_err() {
        return Vec::new();
    }
    let findings = checker.into_findings().into_iter();
    let found = findings.map(|finding| (finding.path.to_string(), finding.text));
    found
        .filter(|(path, _)| !absent.iter().any(|absent| may_follow(path, absent)))
        .map(|(path, text)| document.problem(&path, text))
        .collect()
}

/// Whether what is said of a field may follow from the absence of another: of one above or below it,
/// or beside it.
fn may_follow(path: &str, absent: &str) -> bool {
    let above = |path: &str, other: &str| {
        let rest = other.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let parent = |path: &str| {
        let end = path.rfind(['.', '[']).unwrap_or_default();
        path.get(..end).unwrap_or_default().to_owned()
    };
    above(path, absent) || above(absent, path) || parent(path) == parent(absent)
}

/// What a Secret or a `ConfigMap` has for TLS.
fn credentials(
    document: &Document,
    context: &Context<'_>,
    root: At<'_>,
) -> Result<Option<Piece>, Vec<Problem>> {
    let found = if context.origin.kind == Kind::Secret {
        let message = document.read_body().map_err(secret::without_values)?;
        secret::convert(message, context, root)
    } else {
        secret::config_map(document.read_body()?, context, root)
    };
    Ok(found.map(|found| Piece::Secret(Arc::new(found))))
}

fn routes(document: &Document, context: &Context<'_>, spec: At<'_>) -> Result<Piece, Vec<Problem>> {
    let rule = if context.origin.kind == Kind::MetaRouter {
        aeraki::meta_router(document.read_spec()?, context, spec)
    } else {
        virtual_service::convert(document.read_spec()?, context, spec)
    };
    Ok(Piece::VirtualService(Arc::new(rule)))
}

fn convert_kind(
    document: &Document,
    context: &Context<'_>,
    checker: &Checker,
) -> Result<Option<Piece>, Vec<Problem>> {
    let root = checker.root();
    let spec = root.field("spec");
    Ok(match context.origin.kind {
        Kind::Service => {
            let message = document.read_body()?;
            kubernetes::service(message, context, root).map(|s| Piece::Service(Arc::new(s)))
        }
        Kind::Endpoints => {
            let message = document.read_body()?;
            Some(Piece::Addresses(Arc::new(kubernetes::endpoints(
                message, context, root,
            ))))
        }
        Kind::EndpointSlice => {
            let message = document.read_body()?;
            let list = kubernetes::endpoint_slice(message, context, root);
            list.map(|list| Piece::Addresses(Arc::new(list)))
        }
        Kind::Pod => {
            let message = document.read_body()?;
            kubernetes::pod(message, context, root).map(|pod| Piece::Workload(Arc::new(pod)))
        }
        Kind::Namespace => {
            let _checked: weft_proto::kubernetes::Namespace = document.read_body()?;
            Some(Piece::Namespace(kubernetes::namespace(context, root)))
        }
        Kind::Secret | Kind::ConfigMap => credentials(document, context, root)?,
        Kind::ServiceEntry => {
            let message: istio::ServiceEntry = document.read_spec()?;
            let beside = service_entry::Beside::of(&document.body, context, root);
            let services = service_entry::convert(message, &beside, context, spec);
            services.map(|services| Piece::ServiceEntry(Arc::new(services)))
        }
        Kind::WorkloadEntry => {
            let message = document.read_spec()?;
            let workload = workload_entry::convert(message, context, spec);
            workload.map(|workload| Piece::Workload(Arc::new(workload)))
        }
        Kind::WorkloadGroup => {
            let message = document.read_spec()?;
            let group = workload_group::convert(message, context, spec);
            group.map(|group| Piece::WorkloadGroup(Arc::new(group)))
        }
        Kind::VirtualService | Kind::MetaRouter => Some(routes(document, context, spec)?),
        Kind::DestinationRule => {
            let message = document.read_spec()?;
            let rule = destination_rule::convert(message, context, spec);
            rule.map(|rule| Piece::DestinationRule(Arc::new(rule)))
        }
        Kind::Gateway => {
            let message = document.read_spec()?;
            Some(Piece::Gateway(Arc::new(gateway::convert(
                message, context, spec,
            ))))
        }
        Kind::Sidecar => {
            let message = document.read_spec()?;
            Some(Piece::Sidecar(Arc::new(sidecar::convert(
                message, context, spec,
            ))))
        }
        Kind::EnvoyFilter => {
            let message = document.read_spec()?;
            let filter = envoy_filter::convert(message, document, context, spec)?;
            Some(Piece::EnvoyFilter(Arc::new(filter)))
        }
        Kind::PeerAuthentication => {
            let message = document.read_spec()?;
            let rule = peer_authentication::convert(message, context, spec);
            Some(Piece::PeerAuthentication(Arc::new(rule)))
        }
        Kind::AuthorizationPolicy => {
            let message = document.read_spec()?;
            let metadata = root.field("metadata");
            let rule = authorization_policy::convert(message, context, metadata, spec);
            rule.map(|rule| Piece::AuthorizationPolicy(Arc::new(rule)))
        }
        Kind::RequestAuthentication => {
            let message = document.read_spec()?;
            let rule = request_authentication::convert(message, context, spec);
            Some(Piece::RequestAuthentication(Arc::new(rule)))
        }
        Kind::ProxyConfig => {
            proxy_config::check(document.read_spec()?, spec);
            None
        }
        // It has a file of its own.
        Kind::MeshNetworks => None,
        Kind::Telemetry => {
            let message = document.read_spec()?;
            let rule = telemetry::convert(message, context, spec);
            Some(Piece::Telemetry(Arc::new(rule)))
        }
    })
}

fn check_names(origin: &ObjectRef, metadata: At<'_>) {
    if origin.kind != Kind::Namespace {
        metadata
            .field("namespace")
            .ok(Namespace::parse(origin.namespace.as_str()));
    }
    // Names of most kinds are DNS subdomains; a Service's is checked as the label that it is.
    let is_subdomain =
        origin.name.len() <= 253 && origin.name.split('.').all(weft_model::name::is_dns_label);
    let is_label = weft_model::name::is_dns_label(&origin.name);
    let valid = match origin.kind {
        Kind::Service | Kind::Namespace => is_label,
        _ => is_subdomain,
    };
    if !valid {
        metadata.field("name").error(format_args!(
            "\"{}\" is no valid name: use lower-case letters, digits and '-'",
            origin.name
        ));
    }
}

fn creation_time(document: &Document, metadata: At<'_>) -> Option<Timestamp> {
    let text = document.metadata.creation_timestamp.as_str();
    if text.is_empty() || text == "null" {
        return None;
    }
    let time = seconds_of(text);
    if time.is_none() {
        metadata.field("creationTimestamp").error(format_args!(
            "\"{text}\" is no time: write one such as \"2026-01-31T12:00:00Z\", or remove it"
        ));
    }
    time.map(Timestamp)
}

/// Seconds since 1970 of an RFC 3339 time. Fractions are dropped, as Kubernetes has none here.
fn seconds_of(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let mark = |place: usize, marks: &[u8]| {
        text.as_bytes()
            .get(place)
            .is_some_and(|byte| marks.contains(byte))
            .then_some(())
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (place, marks) in [
        (4, b"--"),
        (7, b"--"),
        (10, b"Tt"),
        (13, b"::"),
        (16, b"::"),
    ] {
        mark(place, marks)?;
    }
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let zone = text
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            let part = |text: &str, below: i64| {
                let number = text.parse::<i64>().ok()?;
                (0..below).contains(&number).then_some(number)
            };
            sign * (part(hours, 24)? * 3600 + part(minutes, 60)? * 60)
        }
    };
    // Days from the civil calendar: years begin in March, so that the leap day is the last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era_days = y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let days = era_days + (m * 153 + 2) / 5 + day - 1 - 719_468;
    in_range.then(|| days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_rfc_3339_writes_them() {
        assert_eq!(seconds_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds_of("2024-02-29T12:30:15Z"), Some(1_709_209_815));
        assert_eq!(
            seconds_of("2024-02-29T12:30:15.123+02:00"),
            Some(1_709_202_615)
        );
        for bad in [
            "",
            "yesterday",
            "2024-02-29",
            "2024-13-01T00:00:00Z",
            "2024-02-29T12:30:15",
            "2024-02-29T12:30:15+9223372036854775807:00",
            "2024-02-29T12:30:15+00:-9223372036854775808",
            "2024-02-29T12:30:15+24:00",
            "2024-02-29T12:30:15+00:60",
        ] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }
}
