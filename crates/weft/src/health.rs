//! The probe of the workload beside `weft proxy`, which its node asks for as those of Istio's agent do:
//! `readinessProbe` of the metadata `PROXY_CONFIG`. Must never know how a look is done.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use weft_agent::{Probe, start_probe};
use weft_proto::bootstrap::read_proxy_config;
use weft_proto::json::message_to_json;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::google::protobuf::value::Kind;
use weft_proxy::WorkloadHealth;

use crate::Failure;

const METADATA: &str = "PROXY_CONFIG";

/// A probe that waits for the proxy to be ready.
pub(crate) struct WorkloadProbe {
    probe: Probe,
    itself: Option<IpAddr>,
}

impl WorkloadProbe {
    /// Begins when `ready` comes; on a runtime.
    pub(crate) fn start(self, ready: Arc<Notify>) -> watch::Receiver<Option<WorkloadHealth>> {
        start_probe(self.probe, self.itself, ready)
    }
}

/// The probe that a node asks for.
///
/// # Errors
/// It cannot be read; the text says where and why.
pub(crate) fn probe(node: &Node) -> Result<Option<WorkloadProbe>, Failure> {
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let text = |name: &str| fields.and_then(|fields| fields.get(name)?.kind.as_ref());
    let config = match text(METADATA) {
        Some(Kind::StructValue(config)) => message_to_json(config).to_string(),
        Some(Kind::StringValue(config)) if !config.is_empty() => config.clone(),
        _ => return Ok(None),
    };
    let config = read_proxy_config(METADATA, &config).map_err(|problems| {
        let problem = problems.first();
        let problem = problem.map_or_else(String::new, |p| format!("{}: {}", p.path, p.message));
        format!("node metadata {METADATA}: {problem}")
    })?;
    let Some(message) = config.readiness_probe else {
        return Ok(None);
    };
    let probe = Probe::read(message)
        .map_err(|problem| format!("node metadata {METADATA}: readinessProbe: {problem}"))?;
    let said = match text("INSTANCE_IPS") {
        Some(Kind::StringValue(list)) => list.split(',').next().unwrap_or_default().trim(),
        _ => "",
    };
    // `type~address~name.namespace~domain`
    let of_id = node.id.split('~').nth(1).unwrap_or_default();
    let itself = said.parse().or_else(|_| of_id.parse()).ok();
    Ok(Some(WorkloadProbe { probe, itself }))
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::google::protobuf::{Struct, Value};

    use super::*;

    fn node(config: &str) -> Node {
        let kind = Some(Kind::StringValue(config.to_owned()));
        let fields = [(METADATA.to_owned(), Value { kind })]
            .into_iter()
            .collect();
        Node {
            id: "sidecar~10.1.2.3~a.b~b.svc.cluster.local".to_owned(),
            metadata: Some(Struct { fields }),
            ..Node::default()
        }
    }

    #[test]
    fn the_node_says_how_its_workload_is_probed() {
        let text = r#"{"readinessProbe":{"periodSeconds":3,"tcpSocket":{"port":8080}}}"#;
        let found = probe(&node(text)).expect("valid").expect("a probe");
        assert_eq!(found.itself, "10.1.2.3".parse().ok());
        assert_eq!(found.probe.period.as_secs(), 3);
        assert!(probe(&node("{}")).expect("valid").is_none());
        assert!(probe(&Node::default()).expect("valid").is_none());
        for wrong in [
            r#"{"readinessProbe":{}}"#,
            r#"{"readinessProbe":{"tcpSocket":{"port":0}}}"#,
        ] {
            let error = probe(&node(wrong)).err().expect("wrong");
            assert!(error.contains("readinessProbe"), "{error}");
        }
    }
}
