//! Two networks with a gateway between them, through real Envoy and through our own proxy: a sidecar
//! calls a service of the other network through that network's gateway, which passes mutual TLS on by
//! server name.

use serde_json::json;
use weft_testkit::{
    App, Connection, Dataplane, Identities, SharedStage, Side, World, free_port, local,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Split> = SharedStage::new();
const HTTP: u16 = 8000;

/// A server in the far network, the gateway before that, and a caller in the near one.
struct Split {
    side: Side,
    /// Of the caller's sidecar.
    port: u16,
    east: Dataplane,
    httpbin: App,
    /// Kept alive.
    _server: Dataplane,
    _caller: Dataplane,
}

/// Services of the far network; what `plain` names has no identity.
fn service(name: &str, endpoint: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: [{name}.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: {HTTP}, name: http, protocol: HTTP}}]
  endpoints: [{{{endpoint}, network: $NS-far}}]
---
"
    )
}

/// The gateway's own service says where it is, and which network is behind it.
fn gateway(port: u16) -> String {
    // The second server has routes, so that the gateway asks for resources of every type.
    let http = free_port();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: east
  namespace: $NS
  labels: {{topology.istio.io/network: $NS-far, networking.istio.io/gatewayPort: '{port}'}}
spec: {{type: LoadBalancer, clusterIP: 10.96.9.9, ports: [{{port: {port}, name: tls}}]}}
status: {{loadBalancer: {{ingress: [{{ip: 127.0.0.1}}]}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: east, namespace: $NS}}
spec:
  selector: {{gateway: $NS-east}}
  servers:
  - port: {{number: {port}, name: tls, protocol: TLS}}
    hosts: ['*.$NS.svc.cluster.local']
    tls: {{mode: AUTO_PASSTHROUGH}}
  - port: {{number: {http}, name: http, protocol: HTTP}}
    hosts: ['*']
"
    )
}

impl World for Split {
    const SETTINGS: &'static str = "";

    async fn build(side: Side) -> Self {
        let httpbin = App::start("httpbin").await;
        let (server, client) = (side.ip(31), side.ip(32));
        let east_port = free_port();
        let labels = "labels: {app: server, version: v1}";
        side.write(
            "10-services",
            &[
                service(
                    "httpbin",
                    &format!("address: {server}, {labels}, serviceAccount: server"),
                ),
                service("plain", &format!("address: {server}")),
                gateway(east_port),
            ]
            .concat(),
        );
        let identities = Identities::new_for(&side.folder, side.name);
        let port = free_port();
        let mut guard = side.sidecar("server", server, free_port(), &[(HTTP, httpbin.port())]);
        let mut caller = side.sidecar("client", client, port, &[]);
        let mut east = side.gateway("east");
        for (node, account, network) in [
            (&mut guard, "server", "far"),
            (&mut caller, "client", "near"),
            (&mut east, "east", "far"),
        ] {
            let files = identities.issue_in(&side.folder, side.name, account);
            files.announce(&mut node.metadata);
            node.metadata["NETWORK"] = json!(format!("{}-{network}", side.name));
        }
        let (server, caller, east) =
            tokio::join!(side.proxy(&guard), side.proxy(&caller), side.proxy(&east));
        Self {
            side,
            port,
            east,
            httpbin,
            _server: server,
            _caller: caller,
        }
    }
}

impl Split {
    /// Status of a call through the caller's sidecar; 0 if there is no answer.
    async fn status(&self, service: &str) -> u16 {
        let called = async {
            let host = format!("{service}.{}.svc.cluster.local:{HTTP}", self.side.name);
            let mut connection = Connection::open(local(self.port)).await?;
            let uri = format!("http://{host}/");
            connection.call("GET", &host, &uri, &[]).await
        };
        called.await.map_or(0, |answer| answer.status)
    }

    /// Connections that the gateway has passed on by a server name that begins so.
    async fn passed(&self, name: &str) -> u64 {
        let stats = self.east.stats().await;
        let of_cluster = format!("cluster.{name}");
        let all = stats.ending(".upstream_cx_total").into_iter();
        all.filter(|(stat, _)| stat.starts_with(&of_cluster))
            .map(|(_, count)| count)
            .sum()
    }
}

#[test]
fn a_service_of_another_network_is_reached_through_its_gateway() {
    STAGE.play(WEFT, async |world: &Split| {
        let side = &world.side;
        let whole = format!("outbound_.{HTTP}_._.httpbin.{}", side.name);
        let status = async || world.status("httpbin").await;
        side.becomes("the server in the other network", 200, status)
            .await;
        assert!(
            world.passed(&whole).await > 0,
            "it went through the gateway"
        );
        // The gateway did not end the connection: the server knows who called.
        let seen = world.httpbin.seen();
        let names = seen
            .last()
            .map(|s| s.header("x-forwarded-client-cert").to_owned());
        let caller = format!("URI=spiffe://cluster.local/ns/{}/sa/client", side.name);
        assert!(
            names.as_ref().is_some_and(|n| n.contains(&caller)),
            "{names:?}"
        );

        // Subsets have server names of their own.
        let subset = format!("outbound_.{HTTP}_.v1_.httpbin.{}", side.name);
        assert_eq!(world.passed(&subset).await, 0);
        side.write(
            "50-rules",
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: $NS}
spec: {host: httpbin, exportTo: ['.'], subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin, namespace: $NS}
spec:
  hosts: [httpbin]
  exportTo: ['.']
  http: [{route: [{destination: {host: httpbin, subset: v1}}]}]
",
        );
        let by_subset = async || {
            let status = world.status("httpbin").await;
            (status, world.passed(&subset).await > 0)
        };
        side.becomes("the subset", (200, true), by_subset).await;
        side.write("50-rules", "# none\n");

        // What has no identity cannot be told apart at the gateway.
        assert_eq!(world.status("plain").await, 503);
    });
}
