//! What an `EnvoyFilter`'s patch puts in: a message of Envoy's, read as strictly as our own
//! documents, and checked by Envoy's rules where it stands for itself.

use weft_model::{PatchOperation, PatchTarget, PatchValue};
use weft_proto::document::Document;
use weft_proto::reader::{self, Fault, Options, normalised};
use weft_proto::yaml::Node;
use weft_proto::{Problem, canonical, pool, rules, untyped};

/// The full name of what a target is.
fn message_of(target: PatchTarget) -> &'static str {
    match target {
        PatchTarget::Listener => "envoy.config.listener.v3.Listener",
        PatchTarget::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
        PatchTarget::FilterChain => "envoy.config.listener.v3.FilterChain",
        PatchTarget::NetworkFilter => "envoy.config.listener.v3.Filter",
        PatchTarget::HttpFilter => {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
        }
        PatchTarget::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
        PatchTarget::VirtualHost => "envoy.config.route.v3.VirtualHost",
        PatchTarget::HttpRoute => "envoy.config.route.v3.Route",
        PatchTarget::Cluster => "envoy.config.cluster.v3.Cluster",
        PatchTarget::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
    }
}

/// Reads the value of a patch.
///
/// # Errors
/// All that is wrong with it, each with its place in the file and its path.
pub(super) fn read(
    document: &Document,
    patch: usize,
    target: PatchTarget,
    operation: PatchOperation,
) -> Result<PatchValue, Vec<Problem>> {
    let root = format!("spec.configPatches[{patch}].patch.value");
    let name = message_of(target);
    let (Some(node), Some(descriptor)) = (node(document, patch), pool::message(name)) else {
        return Err(vec![document.problem(&root, "it cannot be read")]);
    };
    let problem = |fault: Fault| {
        let mut problem = document.problem(&fault.path, with_remedy(fault.message));
        (problem.line, problem.column) = (fault.line, fault.column);
        problem
    };
    let message = reader::read_dynamic(node, &descriptor, &root, Options::ENVOY)
        .map_err(|faults| faults.into_iter().map(problem).collect::<Vec<_>>())?;
    let merges = matches!(
        operation,
        PatchOperation::Merge | PatchOperation::MergeAndReplaceLists
    );
    let mut problems = Vec::new();
    if !merges {
        let broken = rules::validate_dynamic(&message).err().unwrap_or_default();
        problems.extend(broken.into_iter().map(|violation| {
            let path = format!("{root}.{}", violation.path);
            document.problem(&path, violation.message)
        }));
        problems.extend(untyped::find(&message, &root).into_iter().map(|path| {
            document.problem(&path, "\"@type\" is missing, it names the message's type")
        }));
        // Of these Envoy's rules say nothing, but nothing could be done with them.
        let wanted = match target {
            PatchTarget::Listener => Some("name"),
            PatchTarget::FilterChain => Some("filters"),
            _ => None,
        };
        if let Some(field) = wanted.filter(|field| !message.has_field_by_name(field)) {
            let path = format!("{root}.{field}");
            problems.push(document.problem(&path, "it is missing"));
        }
    } else if target == PatchTarget::Cluster && message.has_field_by_name("transport_socket") {
        let others = message.fields().count() - 1;
        if others > 0 {
            let path = format!("{root}.transport_socket");
            let text =
                "beside it nothing else of a cluster is merged: put it into a patch of its own";
            problems.push(document.problem(&path, text));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(PatchValue {
        message: name.into(),
        body: canonical::encode(&message).into(),
    })
}

/// Where the value is written.
fn node(document: &Document, patch: usize) -> Option<&Node> {
    let fields = document.spec()?.entries()?;
    let list = fields
        .iter()
        .find(|field| normalised(&field.key) == "configpatches")?;
    let patch = list.value.items()?.get(patch)?;
    patch.get("patch")?.get("value")
}

fn with_remedy(message: String) -> String {
    if message.starts_with("unknown type") {
        return format!(
            "{message}; a type that is not known here can be written as type.googleapis.com/xds.type.v3.TypedStruct with type_url and value"
        );
    }
    message
}
