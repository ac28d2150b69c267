//! A mesh of three sidecars that are their own agents, between a client and two versions of a service, all of
//! which speak an RPC protocol. Must never know what is asserted.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use serde_json::json;
use weft_testkit::{ConfigFolder, Control, Dataplane, Node, OwnAgent, free_port};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
pub(crate) const HOST: &str = "cart.shop.svc.cluster.local";
const RULES: &str = "20-rules.yaml";

/// See the module.
pub(crate) struct RpcMesh {
    pub(crate) folder: ConfigFolder,
    pub(crate) control: Control,
    secure: SocketAddr,
    /// Of the service, and where the client finds its sidecar.
    pub(crate) port: u16,
}

/// The service: two versions; in the subset `near` a host that is not there beside the first, in `nobody` none at
/// all. `few` is the first version, which takes one call at a time.
fn service(port: u16, port_name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
         hosts: [{HOST}]\n  addresses: [10.96.0.30]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: {port}, name: {port_name}, protocol: TCP}}]\n  endpoints:\n  \
         - {{address: 127.0.0.31, labels: {{version: v1, group: near}}, serviceAccount: cart}}\n  \
         - {{address: 127.0.0.32, labels: {{version: v2}}, serviceAccount: cart}}\n  \
         - {{address: 127.0.0.33, labels: {{version: gone, group: near}}, serviceAccount: cart}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
         host: {HOST}\n  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}\n  subsets:\n  \
         - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n  \
         - {{name: near, labels: {{group: near}}}}\n  - {{name: nobody, labels: {{version: v9}}}}\n  \
         - {{name: few, labels: {{version: v1}}, trafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: 1}}}}}}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: shop, namespace: shop}}\n\
         spec: {{mtls: {{mode: STRICT}}}}\n"
    )
}

fn to(subset: &str) -> String {
    format!("destination: {{host: {HOST}, subset: {subset}}}")
}

impl RpcMesh {
    /// The control plane, with a service whose port is called so.
    pub(crate) async fn start(port_name: &str) -> Self {
        Self::start_with(port_name, None).await
    }

    /// The same with settings of the mesh.
    pub(crate) async fn start_with(port_name: &str, settings: Option<&str>) -> Self {
        let folder = ConfigFolder::new();
        let port = free_port();
        folder.write("10-service.yaml", &service(port, port_name));
        let secure = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let settings = settings.map(|text| folder.write_beside("mesh.yaml", text));
        let ca = format!("--ca-dir={}", folder.path("ca").display());
        let address = format!("--secure-grpc-addr={secure}");
        let control =
            Control::start_with(WEFT, &folder, settings.as_deref(), &[&ca, &address]).await;
        Self {
            folder,
            control,
            secure,
            port,
        }
    }

    /// Calls with the attachment `tag: gray` go to the second version, those of `slow` of the interface within 700 ms; those of `notes` where half of the hosts
    /// is not there; all others are divided.
    pub(crate) fn split(&self, v1: u32, v2: u32) {
        let (one, two, near) = (to("v1"), to("v2"), to("near"));
        self.rules(&format!(
            "- match: [{{headers: {{tag: {{exact: gray}}}}}}]\n    route: [{{{two}}}]\n  \
             - match: [{{uri: {{prefix: /slo}}, authority: {{exact: shop.Cart}}}}]\n    timeout: 700ms\n    route: [{{{two}}}]\n  \
             - match: [{{method: {{exact: notes}}}}]\n    route: [{{{near}}}]\n  \
             - route:\n    - {{{one}, weight: {v1}}}\n    - {{{two}, weight: {v2}}}\n"
        ));
    }

    /// All calls go to a subset, those of `slow` within 700 ms.
    pub(crate) fn all_to(&self, subset: &str) {
        let to = to(subset);
        self.rules(&format!(
            "- match: [{{method: {{exact: slow}}}}]\n    timeout: 700ms\n    route: [{{{to}}}]\n  - route: [{{{to}}}]\n"
        ));
    }

    /// Routes by the attachment `tag`; calls without one, or another one, have none.
    pub(crate) fn by_tag(&self) {
        let (one, few, nobody) = (to("v1"), to("few"), to("nobody"));
        let tag = |tag: &str| format!("{{headers: {{tag: {{exact: {tag}}}}}}}");
        let (busy, lost, slow) = (tag("busy"), tag("lost"), tag("slow"));
        let fine = ["fine", "denied", "limited"].map(tag).join(", ");
        self.rules(&format!(
            "- match: [{busy}]\n    route: [{{{few}}}]\n  - match: [{lost}]\n    route: [{{{nobody}}}]\n  \
             - match: [{slow}]\n    timeout: 700ms\n    route: [{{{one}}}]\n  - match: [{fine}]\n    route: [{{{one}}}]\n"
        ));
        let denied = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      metadata: {name: tag, namespace: shop}\nspec:\n  action: DENY\n  \
                      rules: [{when: [{key: 'request.headers[tag]', values: [denied]}]}]\n";
        self.folder.write("30-denied.yaml", denied);
        let limited = format!(
            "apiVersion: metaprotocol.aeraki.io/v1alpha1\nkind: MetaRouter\nmetadata: {{name: limit, namespace: shop}}\nspec:\n  \
             hosts: [{HOST}]\n  localRateLimit:\n    conditions:\n    \
             - match: {{attributes: {{tag: {{exact: limited}}}}}}\n      \
             tokenBucket: {{maxTokens: 1, tokensPerFill: 1, fillInterval: 3600s}}\n"
        );
        self.folder.write("30-limited.yaml", &limited);
    }

    fn rules(&self, routes: &str) {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
             hosts: [{HOST}]\n  http:\n  {routes}"
        );
        self.folder.write(RULES, &text);
    }

    /// By Aeraki's rule, whatever Istio's says: every call goes to one version, and a workload takes no more than
    /// `limited` of a method.
    pub(crate) fn by_meta_router(&self, subset: &str, method: &str, limited: u32) {
        let text = format!(
            "apiVersion: metaprotocol.aeraki.io/v1alpha1\nkind: MetaRouter\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
             hosts: [{HOST}]\n  localRateLimit:\n    conditions:\n    \
             - match: {{attributes: {{method: {{exact: {method}}}}}}}\n      \
             tokenBucket: {{maxTokens: {limited}, tokensPerFill: 1, fillInterval: 3600s}}\n  routes:\n  \
             - name: by-meta-router\n    route: [{{destination: {{host: {HOST}, subset: {subset}}}}}]\n"
        );
        self.folder.write("30-meta-router.yaml", &text);
    }

    /// By Aeraki's rule as its page has it: a service at this port counts calls of a method.
    #[allow(dead_code, reason = "one program of tests uses it")]
    pub(crate) fn counted(&self, subset: &str, method: &str, service: u16) {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: rate-limit-server, namespace: shop}}\nspec:\n  \
             hosts: [rate-limit-server.shop.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 8081, name: grpc, protocol: GRPC, targetPort: {service}}}]\n  endpoints: [{{address: 127.0.0.1}}]\n---\n\
             apiVersion: metaprotocol.aeraki.io/v1alpha1\nkind: MetaRouter\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
             hosts: [{HOST}]\n  globalRateLimit:\n    domain: production\n    \
             match: {{attributes: {{method: {{exact: {method}}}}}}}\n    \
             rateLimitService: outbound|8081||rate-limit-server.shop.svc.cluster.local\n    requestTimeout: 1s\n    \
             denyOnFail: true\n    descriptors: [{{property: method, descriptorKey: method}}]\n  routes:\n  \
             - name: counted\n    route: [{{destination: {{host: {HOST}, subset: {subset}}}}}]\n"
        );
        self.folder.write("30-meta-router.yaml", &text);
    }

    fn token(&self, account: &str) -> String {
        let mut command = Command::new(WEFT);
        command.args(["token", "create", "-n", "shop", "-s", account, "--ca-dir"]);
        let output = command.arg(self.folder.path("ca")).output();
        let output = output.expect("the binary is built with the test");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A sidecar with the identity of an account; `serves`: before an application at this port.
    async fn sidecar(&self, account: &str, host: u8, serves: Option<u16>) -> Dataplane {
        let inbound: Vec<(u16, u16)> = serves.iter().map(|app| (self.port, *app)).collect();
        let ip = Ipv4Addr::new(127, 0, 0, host);
        let mut node = Node::sidecar(&format!("{account}-{host}"), ip, free_port(), &inbound);
        node.metadata["WEFT_OUTBOUND_LISTENERS"] = json!(serves.is_none().to_string());
        self.proxy(&node, account).await
    }

    /// A proxy with the identity of an account.
    async fn proxy(&self, node: &Node, account: &str) -> Dataplane {
        let agent = OwnAgent {
            address: self.secure,
            roots: self.folder.path("ca").join("root-cert.pem"),
            token: Some(self.token(account)),
            environment: Vec::new(),
        };
        let mut proxy = Dataplane::launch_agent(WEFT, node, &agent, &self.folder, &[]);
        proxy.wait_ready().await;
        let types = ["CDS", "EDS", "LDS", "RDS"];
        self.control.wait_in_step(&proxy.id, &types).await;
        proxy
    }

    /// The sidecar of version 1 or 2.
    pub(crate) async fn server(&self, version: u8, app: u16) -> Dataplane {
        self.sidecar("cart", 30 + version, Some(app)).await
    }

    /// A gateway, as the account `gateway`.
    pub(crate) async fn gateway(&self) -> Dataplane {
        self.proxy(&Node::gateway("gateway"), "gateway").await
    }

    pub(crate) async fn client(&self) -> Dataplane {
        self.sidecar("front", 40, None).await
    }

    /// Name of a statistic of the client's connection manager.
    pub(crate) fn of_client(&self, protocol: &str, name: &str) -> String {
        format!(
            "meta_protocol.{protocol}.outbound|{}||{HOST}.{name}",
            self.port
        )
    }

    /// Name of a statistic of the client's cluster of a subset.
    pub(crate) fn of_subset(&self, subset: &str, name: &str) -> String {
        format!("cluster.outbound|{}|{subset}|{HOST};.{name}", self.port)
    }
}
