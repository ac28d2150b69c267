//! `MeshNetworks` (the file of `--networks-config`) → [`MeshNetworks`]. Rules of validity follow
//! Istio's `ValidateMeshNetworks`, and what it would take without effect is refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use weft_model::{
    AddressRange, GatewayPlace, Hostname, Kind, MeshNetworks, MeshSettings, Network,
    NetworkEndpoints, NetworkGateway, Object, ObjectRef,
};
use weft_proto::istio::mesh::v1alpha1 as mesh;
use weft_proto::istio::mesh::v1alpha1::network as pb;
use weft_proto::yaml::{self, Limits};
use weft_proto::{Problem, bootstrap};

use crate::check::{At, Checker};
use crate::piece::{Outcome, Piece, ReadDocument};

/// Fields of `MeshNetworks` that are taken and have no effect, and why.
pub const IGNORED: [(&str, &str); 1] = [(
    "networks.*.gateways[].locality",
    "Istio does not look at it: gateways stand where the endpoints behind them stand",
)];

/// Networks of one mesh.
const MAX_NETWORKS: usize = 1024;
/// Ranges of addresses, in all networks.
const MAX_RANGES: usize = 10_000;
/// Gateways of one network; what is divided among them must stay a small number.
const MAX_GATEWAYS: usize = 64;

/// Reads the networks of a mesh. `source` names the file in errors; all errors are returned.
///
/// # Errors
/// The text is no `MeshNetworks`, or a value in it is wrong.
pub fn parse(
    source: &str,
    text: &str,
    settings: &MeshSettings,
) -> Result<MeshNetworks, Vec<Problem>> {
    let origin = origin(settings);
    let name = weft_proto::ObjectRef {
        kind: origin.kind.to_string(),
        namespace: origin.namespace.to_string(),
        name: origin.name.to_string(),
    };
    let named = |problem: Problem| Problem {
        object: Some(name.clone()),
        ..problem
    };
    let message = bootstrap::read_mesh_networks(source, text);
    let message = message.map_err(|all| all.into_iter().map(named).collect::<Vec<_>>())?;
    let checker = Checker::default();
    let networks = convert(message, checker.root());
    let problems = checker.into_problems(source, text);
    if problems.is_empty() {
        return Ok(MeshNetworks { origin, networks });
    }
    Err(problems.into_iter().map(named).collect())
}

/// Reads the file of `--networks-config`.
///
/// # Errors
/// It cannot be read, is no `MeshNetworks`, or a value in it is wrong.
pub fn load(path: &Path, settings: &MeshSettings) -> Result<Object, Vec<Problem>> {
    let source = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Problem {
            source: source.as_str().into(),
            line: 0,
            column: 0,
            object: None,
            path: String::new(),
            message: format!("cannot be read: {error}; give a readable file of MeshNetworks YAML"),
        }]
    })?;
    let networks = parse(&source, &text, settings)?;
    Ok(Object::Networks(Arc::new(networks)))
}

/// The file as the one document that it is.
pub(crate) fn read(
    source: &str,
    text: Result<&str, Box<Problem>>,
    settings: &MeshSettings,
) -> ReadDocument {
    let origin = origin(settings);
    let name = weft_proto::ObjectRef {
        kind: origin.kind.to_string(),
        namespace: origin.namespace.to_string(),
        name: origin.name.to_string(),
    };
    let read = text.map_err(|problem| vec![*problem]);
    let outcome = match read.and_then(|text| parse(source, text, settings)) {
        Ok(networks) => Outcome::Piece(origin, Piece::Networks(Arc::new(networks))),
        Err(problems) => Outcome::Refused(Some(origin), problems),
    };
    ReadDocument {
        name,
        line: 1,
        outcome,
    }
}

/// The text of a file as it is now, for the places of its fields.
pub(crate) fn root_of(source: &str) -> Option<yaml::Node> {
    let text = std::fs::read_to_string(source).ok()?;
    let mut documents = yaml::parse(&text, &Limits::default()).into_iter();
    documents.find_map(|document| document.root)
}

/// The document has no name of its own; it belongs to the whole mesh.
fn origin(settings: &MeshSettings) -> ObjectRef {
    ObjectRef::new(
        Kind::MeshNetworks,
        settings.root_namespace.clone(),
        "networks",
    )
}

fn convert(message: mesh::MeshNetworks, at: At<'_>) -> BTreeMap<Arc<str>, Network> {
    let at = at.field("networks");
    if message.networks.len() > MAX_NETWORKS {
        at.error(format_args!("there are more than {MAX_NETWORKS} networks"));
    }
    let mut ranges = 0;
    let networks: BTreeMap<String, mesh::Network> = message.networks.into_iter().collect();
    let mut found = BTreeMap::new();
    for (name, network) in networks {
        let at = at.key(&name);
        if name.is_empty() {
            at.error("the network has no name: endpoints and proxies name theirs");
        }
        let mesh::Network {
            endpoints,
            gateways,
        } = network;
        ranges += endpoints.len();
        if ranges > MAX_RANGES {
            at.field("endpoints")
                .error(format_args!("there are more than {MAX_RANGES} entries"));
            break;
        }
        if gateways.len() > MAX_GATEWAYS {
            at.field("gateways").error(format_args!(
                "a network has {MAX_GATEWAYS} gateways at most: give some of them one name"
            ));
            continue;
        }
        let list = at.field("endpoints");
        let endpoints = endpoints
            .into_iter()
            .enumerate()
            .filter_map(|(index, entry)| endpoints_of(entry, list.index(index)));
        let list = at.field("gateways");
        let gateways = gateways
            .into_iter()
            .enumerate()
            .filter_map(|(index, entry)| gateway(entry, list.index(index)));
        let network = Network {
            endpoints: endpoints.collect(),
            gateways: gateways.collect(),
        };
        found.insert(name.as_str().into(), network);
    }
    found
}

fn endpoints_of(message: pb::NetworkEndpoints, at: At<'_>) -> Option<NetworkEndpoints> {
    use pb::network_endpoints::Ne;
    let pb::NetworkEndpoints { ne } = message;
    match ne {
        Some(Ne::FromCidr(text)) => {
            let range = at.field("fromCidr").ok(AddressRange::parse(&text))?;
            Some(NetworkEndpoints::Range(range.truncated()))
        }
        Some(Ne::FromRegistry(name)) if is_cluster_name(&name) => {
            Some(NetworkEndpoints::Registry(name.into()))
        }
        Some(Ne::FromRegistry(name)) => {
            at.field("fromRegistry").error(format_args!(
                "\"{name}\" is no name of a cluster: use letters, digits and '-', at most 63"
            ));
            None
        }
        None => {
            at.error("says nothing: write fromCidr or fromRegistry");
            None
        }
    }
}

/// A DNS label that may have capitals, as in Istio: its default name has one.
fn is_cluster_name(name: &str) -> bool {
    weft_model::name::is_dns_label(&name.to_ascii_lowercase())
}

fn gateway(message: pb::IstioNetworkGateway, at: At<'_>) -> Option<NetworkGateway> {
    use pb::istio_network_gateway::Gw;
    let pb::IstioNetworkGateway {
        gw,
        port,
        // See `IGNORED`.
        locality: _,
    } = message;
    let port = at.field("port").port(port);
    let place = match gw {
        Some(Gw::Address(text)) => {
            if let Ok(ip) = text.parse() {
                GatewayPlace::Ip(ip)
            } else {
                let name = host(&text, at.field("address"))?;
                GatewayPlace::Name(name.as_str().into())
            }
        }
        Some(Gw::RegistryServiceName(text)) => {
            GatewayPlace::Service(host(&text, at.field("registryServiceName"))?)
        }
        None => {
            at.error("says not where it is: write address or registryServiceName");
            return None;
        }
    };
    Some(NetworkGateway { place, port: port? })
}

fn host(text: &str, at: At<'_>) -> Option<Hostname> {
    let name = at.ok(Hostname::parse(text))?;
    if name.is_wildcard() {
        at.error("a wildcard is no address: write a full name");
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
networks:
  near:
    endpoints: [{fromCidr: 10.1.2.3/16}, {fromRegistry: Kubernetes}]
    gateways:
    - {address: 192.0.2.1, port: 15443, locality: eu}
    - {address: gateway.example.com, port: 443}
    - {registryServiceName: east.istio-system.svc.cluster.local, port: 15443}
  far: {}
";

    #[test]
    fn networks_are_read_in_istios_form() {
        let settings = MeshSettings::default();
        let read = parse("n.yaml", GOOD, &settings).expect("valid");
        let near = &read.networks["near"];
        let range = AddressRange::parse("10.1.0.0/16").expect("a range");
        assert_eq!(
            near.endpoints,
            [
                NetworkEndpoints::Range(range),
                NetworkEndpoints::Registry("Kubernetes".into())
            ]
        );
        let places: Vec<String> = near.gateways.iter().map(|g| format!("{g:?}")).collect();
        assert!(places[0].contains("Ip(192.0.2.1)"), "{places:?}");
        assert!(
            places[1].contains("Name(\"gateway.example.com\")"),
            "{places:?}"
        );
        assert!(places[2].contains("Service("), "{places:?}");
        assert_eq!(read.networks["far"], Network::default());
        let empty = parse("n.yaml", "# none\n", &settings).expect("valid");
        assert!(empty.networks.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_path() {
        let text = "networks:
  a:
    endpoints: [{}, {fromCidr: 10.0.0.0/33}, {fromRegistry: a_b}]
    gateways:
    - {port: 1}
    - {address: 10.0.0.300, port: 0}
    - {address: '*.example.com', port: 70000}
    - {registryServiceName: '', port: 1}
";
        let problems = parse("n.yaml", text, &MeshSettings::default()).expect_err("wrong");
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let expected = "\
n.yaml:3: MeshNetworks/istio-system/networks: networks.a.endpoints[0]: says nothing: write fromCidr or fromRegistry
n.yaml:3: MeshNetworks/istio-system/networks: networks.a.endpoints[1].fromCidr: \"10.0.0.0/33\" is neither an IP address nor a CIDR range such as 10.0.0.0/8
n.yaml:3: MeshNetworks/istio-system/networks: networks.a.endpoints[2].fromRegistry: \"a_b\" is no name of a cluster: use letters, digits and '-', at most 63
n.yaml:5: MeshNetworks/istio-system/networks: networks.a.gateways[0]: says not where it is: write address or registryServiceName";
        assert_eq!(told[..4].join("\n"), expected);
        let rest = told[4..].join("\n");
        for wanted in [
            "n.yaml:6: MeshNetworks/istio-system/networks: networks.a.gateways[1].port: port 0 is out of range",
            "n.yaml:7: MeshNetworks/istio-system/networks: networks.a.gateways[2].port: port 70000 is out of range",
            "networks.a.gateways[2].address: a wildcard is no address: write a full name",
            "n.yaml:8: MeshNetworks/istio-system/networks: networks.a.gateways[3].registryServiceName: ",
        ] {
            assert!(rest.contains(wanted), "{wanted}:\n{rest}");
        }
        let typo = parse("n.yaml", "netwroks: {}", &MeshSettings::default());
        let typo = typo.expect_err("a fault")[0].to_string();
        assert!(typo.contains("did you mean \"networks\""), "{typo}");
    }
}
