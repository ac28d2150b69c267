//! Whether a proxy would take a resource: Envoy's rules for fields, and what Weft's own proxy says. It
//! is shared with `fuzz/`, so it knows public names only.

use prost::Message;
use weft_config::{Cluster, Context, Listener, LoadAssignment, RouteConfig, Secret};
use weft_proto::{Any, rules};
use weft_xds::{Resource, TypeUrl};

/// What our own proxy lacks and says so (docs/compatibility.md), in its words.
const LACKING: &[&str] = &[
    "is not supported",
    "Weft listens on TCP only",
    // `maxProtocolVersion` of a Gateway below 1.2.
    "must be TLSv1_2 or TLSv1_3",
    // Certificates of an agent's: our proxy gets its own from the control plane.
    "Weft takes resources from the one ADS stream only",
];

/// What is wrong with a resource, each with its path. Empty if proxies take it, or our own one lacks
/// what it asks for. `envoy`: whether it is for a proxy, and not for a gRPC client.
#[allow(unreachable_pub)] // `fuzz/` has it as a module of its own
pub fn faults(kind: &TypeUrl, resource: &Resource, envoy: bool) -> Vec<String> {
    let any = Any {
        type_url: kind.as_str().to_owned(),
        value: resource.body.to_vec(),
    };
    let mut faults: Vec<String> = match rules::validate_any(&any) {
        Ok(()) => Vec::new(),
        Err(violations) => violations
            .iter()
            .map(|v| format!("{}: {}", v.path, v.message))
            .collect(),
    };
    let refusal = if envoy {
        refusal(kind, resource)
    } else {
        Ok(Vec::new())
    };
    match refusal {
        Ok(problems) => faults.extend(problems),
        Err(damage) => faults.push(damage),
    }
    for fault in &mut faults {
        fault.insert_str(0, &format!("{} {}: ", kind.short(), resource.name));
    }
    faults
}

fn decoded<M: Message + Default>(resource: &Resource) -> Result<M, String> {
    M::decode(resource.body.to_bytes()).map_err(|error| format!("is damaged: {error}"))
}

fn refusal(kind: &TypeUrl, resource: &Resource) -> Result<Vec<String>, String> {
    let context = Context::default();
    let error = match kind {
        kind if *kind == TypeUrl::CLUSTER => {
            Cluster::from_proto(&decoded(resource)?, &context).err()
        }
        kind if *kind == TypeUrl::ENDPOINT => {
            LoadAssignment::from_proto(&decoded(resource)?, &context).err()
        }
        kind if *kind == TypeUrl::LISTENER => {
            Listener::from_proto(&decoded(resource)?, &context).err()
        }
        kind if *kind == TypeUrl::SECRET => Secret::from_proto(&decoded(resource)?, &context).err(),
        kind if *kind == TypeUrl::ROUTE => {
            RouteConfig::from_proto(&decoded(resource)?, &context).err()
        }
        // Tables of names and configurations of filters are not for our proxy.
        _ => None,
    };
    let problems = error.into_iter().flat_map(|error| error.problems);
    let told = problems.filter(|problem| !LACKING.iter().any(|words| problem.text.contains(words)));
    Ok(told
        .map(|problem| format!("{}: {}", problem.path, problem.text))
        .collect())
}
