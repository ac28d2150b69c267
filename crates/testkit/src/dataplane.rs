//! A proxy as a process: a real Envoy, or ours in its place, with the same bootstrap. Must never
//! know what the control plane sends.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::{Value, json};

use crate::folder::ConfigFolder;
use crate::http_client::get;
use crate::ports::free_port;
use crate::process::Process;
use crate::wait::eventually;

const READY: Duration = Duration::from_mins(1);
const TLS_CONTEXT: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// Which proxy it is.
#[derive(Clone, Debug)]
pub enum Program {
    /// The Envoy binary at this path.
    Envoy(PathBuf),
    /// The `weft` binary at this path.
    Weft(PathBuf),
}

/// The form of ADS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdsMode {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// Who the proxy says it is.
#[derive(Clone, Debug)]
pub struct Node {
    /// `type~ip~name.namespace~domain`.
    pub id: String,
    /// Node metadata.
    pub metadata: Value,
}

impl Node {
    /// A gateway in namespace `shop` that takes Gateways with `istio: ingressgateway`.
    pub fn gateway(name: &str) -> Self {
        Self {
            id: format!("router~127.0.0.1~{name}.shop~shop.svc.cluster.local"),
            metadata: json!({
                "NAMESPACE": "shop",
                "LABELS": {"istio": "ingressgateway"},
                "UNPRIVILEGED_POD": "true",
            }),
        }
    }

    /// A sidecar in namespace `shop` without redirection: the application calls its HTTP proxy
    /// port, and what `inbound` lists (service port and the application's port) is bound on `ip`.
    pub fn sidecar(name: &str, ip: Ipv4Addr, http_proxy: u16, inbound: &[(u16, u16)]) -> Self {
        let ports = inbound
            .iter()
            .map(|(port, app)| (port.to_string(), json!(app.to_string())));
        Self {
            id: format!("sidecar~{ip}~{name}.shop~shop.svc.cluster.local"),
            metadata: json!({
                "NAMESPACE": "shop",
                "INSTANCE_IPS": ip.to_string(),
                "LABELS": {"app": name},
                "INTERCEPTION_MODE": "NONE",
                "HTTP_PROXY_PORT": http_proxy.to_string(),
                "WEFT_INBOUND": ports.collect::<serde_json::Map<_, _>>(),
                "WEFT_OUTBOUND_LISTENERS": "false",
            }),
        }
    }

    /// A sidecar in namespace `shop` to which traffic is redirected, as in Kubernetes.
    pub fn captured_sidecar(name: &str, ip: Ipv4Addr) -> Self {
        Self {
            id: format!("sidecar~{ip}~{name}.shop~shop.svc.cluster.local"),
            metadata: json!({
                "NAMESPACE": "shop",
                "INSTANCE_IPS": ip.to_string(),
                "LABELS": {"app": name},
            }),
        }
    }
}

/// How a proxy comes to the control plane's secure port.
#[derive(Clone, Debug)]
pub struct SecurePort {
    /// Where it is.
    pub address: SocketAddr,
    /// File with the roots by which it is checked.
    pub roots: PathBuf,
    /// The token that says who the proxy is.
    pub token: String,
}

impl SecurePort {
    /// A bootstrap with TLS and the token on the way to the control plane.
    fn secured(&self, mut bootstrap: Value) -> Value {
        let service = "/dynamic_resources/ads_config/grpc_services/0";
        if let Some(service) = bootstrap.pointer_mut(service) {
            let bearer = format!("Bearer {}", self.token);
            service["initial_metadata"] = json!([{"key": "authorization", "value": bearer}]);
        }
        if let Some(cluster) = bootstrap.pointer_mut("/static_resources/clusters/0") {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("type.googleapis.com/{TLS_CONTEXT}"),
                    "sni": "istiod.istio-system.svc",
                    "common_tls_context": {
                        "alpn_protocols": ["h2"],
                        "validation_context": {
                            "trusted_ca": {"filename": self.roots},
                            "match_typed_subject_alt_names": [{
                                "san_type": "DNS",
                                "matcher": {"exact": "istiod.istio-system.svc"},
                            }],
                        },
                    },
                },
            });
        }
        bootstrap
    }
}

/// How a Weft proxy that is its own agent comes by its identity.
#[derive(Clone, Debug)]
pub struct OwnAgent {
    /// The control plane's secure port, for certificates and configuration.
    pub address: SocketAddr,
    /// File with the roots by which it is checked the first time.
    pub roots: PathBuf,
    /// A join token or another one; none is needed if `environment` says otherwise.
    pub token: Option<String>,
    /// More of its environment, such as `SECRET_TTL`.
    pub environment: Vec<(String, String)>,
}

impl OwnAgent {
    fn environment(&self) -> Vec<(String, String)> {
        let mut all = vec![
            ("CA_ADDR".to_owned(), self.address.to_string()),
            ("CA_ROOT_CA".to_owned(), self.roots.display().to_string()),
        ];
        let token = self.token.clone();
        all.extend(token.map(|token| ("WEFT_JOIN_TOKEN".to_owned(), token)));
        all.extend(self.environment.iter().cloned());
        all
    }

    /// A bootstrap with TLS on the way to the control plane, and no word of certificates.
    fn secured(mut bootstrap: Value) -> Value {
        if let Some(cluster) = bootstrap.pointer_mut("/static_resources/clusters/0") {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("type.googleapis.com/{TLS_CONTEXT}"),
                    "sni": "istiod.istio-system.svc",
                    "common_tls_context": {"validation_context": {
                        "match_typed_subject_alt_names": [{
                            "san_type": "DNS",
                            "matcher": {"exact": "istiod.istio-system.svc"},
                        }],
                    }},
                },
            });
        }
        bootstrap
    }
}

/// Numbers of `/stats`, by name.
#[derive(Clone, Debug, Default)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// A statistic; 0 if it is not there.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All whose name ends so.
    pub fn ending(&self, end: &str) -> BTreeMap<String, u64> {
        let picked = self.0.iter().filter(|(name, _)| name.ends_with(end));
        picked.map(|(name, value)| (name.clone(), *value)).collect()
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Dataplane {
    /// Its node id.
    pub id: String,
    admin: SocketAddr,
    process: Process,
}

impl Dataplane {
    /// Starts a proxy that gets everything from the control plane at `xds`, and waits until it
    /// says that it is ready.
    pub async fn start(
        program: &Program,
        node: &Node,
        mode: AdsMode,
        xds: SocketAddr,
        folder: &ConfigFolder,
    ) -> Self {
        let mut proxy = Self::launch(program, node, mode, xds, folder, &[]);
        proxy.wait_ready().await;
        proxy
    }

    /// Starts a proxy and does not wait. `more` goes to its command line.
    pub fn launch(
        program: &Program,
        node: &Node,
        mode: AdsMode,
        xds: SocketAddr,
        folder: &ConfigFolder,
        more: &[&str],
    ) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let bootstrap = bootstrap(node, mode, xds, admin);
        Self::launch_with(program, node, &bootstrap, (admin, folder), more, &[])
    }

    /// Starts a Weft proxy that is its own agent, on the control plane's secure port, and does not
    /// wait.
    pub fn launch_agent(
        binary: &str,
        node: &Node,
        agent: &OwnAgent,
        folder: &ConfigFolder,
        more: &[&str],
    ) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mode = AdsMode::Delta;
        let bootstrap = OwnAgent::secured(bootstrap(node, mode, agent.address, admin));
        let program = Program::Weft(binary.into());
        let environment = agent.environment();
        Self::launch_with(
            &program,
            node,
            &bootstrap,
            (admin, folder),
            more,
            &environment,
        )
    }

    /// The same, on the control plane's secure port.
    pub async fn start_secure(
        program: &Program,
        node: &Node,
        mode: AdsMode,
        port: &SecurePort,
        folder: &ConfigFolder,
    ) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let bootstrap = port.secured(bootstrap(node, mode, port.address, admin));
        let mut proxy = Self::launch_with(program, node, &bootstrap, (admin, folder), &[], &[]);
        proxy.wait_ready().await;
        proxy
    }

    fn launch_with(
        program: &Program,
        node: &Node,
        bootstrap: &Value,
        (admin, folder): (SocketAddr, &ConfigFolder),
        more: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        let file = format!("bootstrap-{}.json", admin.port());
        let file = folder.write_beside(&file, &bootstrap.to_string());
        let log = folder.log(&format!("proxy-{}.log", admin.port()));
        let name = format!("the proxy {}", node.id);
        let process = match program {
            Program::Envoy(path) => {
                let mut command = envoy(path);
                command
                    .arg("-c")
                    .arg(&file)
                    .args(["--concurrency", "2", "-l", "warning"])
                    .args(more);
                Process::start_bound(&name, &command, &log)
            }
            Program::Weft(path) => {
                let mut command = Command::new(path);
                command.args(["proxy", "--until-stdin-closes", "--concurrency", "2", "-c"]);
                command
                    .arg(&file)
                    .args(more)
                    .env_remove("WEFT_LOG")
                    .env_remove("RUST_LOG")
                    .envs(environment.iter().cloned());
                Process::start(&name, command, &log)
            }
        };
        Self {
            id: node.id.clone(),
            admin,
            process,
        }
    }

    /// Where its admin server is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until it says that it is ready.
    pub async fn wait_ready(&mut self) {
        let what = format!("the proxy {} is ready", self.id);
        eventually(&what, READY, async || {
            self.assert_running();
            let answer = get(self.admin, "/ready").await?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        get(self.admin, "/ready")
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    /// Asserts that its process lives.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!("the proxy {} ended: {status}", self.id);
        }
    }

    /// Its process, to be stopped and continued.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Asks its process to end (SIGTERM) and waits; see [`Process::terminate`].
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.process.terminate(timeout)
    }

    /// A page of its admin server.
    pub async fn admin(&self, path: &str) -> String {
        let answer = get(self.admin, path).await;
        let answer = answer.unwrap_or_else(|error| panic!("{} {path}: {error}", self.id));
        assert_eq!(answer.status, 200, "{} {path}: {}", self.id, answer.body);
        answer.body
    }

    /// Counters and gauges.
    pub async fn stats(&self) -> Stats {
        let page = self.admin("/stats").await;
        let lines = page.lines().filter_map(|line| line.split_once(": "));
        let numbers =
            lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Stats(numbers.collect())
    }

    /// Asserts that it has refused nothing and is connected to its control plane.
    pub async fn assert_nothing_refused(&self) {
        let stats = self.stats().await;
        let refused: Vec<_> = stats
            .ending(".update_rejected")
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert!(
            refused.is_empty(),
            "{} refused resources: {refused:?}",
            self.id
        );
        assert_eq!(
            stats.get("control_plane.connected_state"),
            1,
            "{} is not connected",
            self.id
        );
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// Runs `envoy --mode validate` over a bootstrap.
///
/// # Errors
/// Envoy refuses it; the text is Envoy's.
pub(crate) fn validate(envoy_path: &Path, file: &Path) -> Result<(), String> {
    let mut command = envoy(envoy_path);
    command
        .args(["--mode", "validate", "-l", "warning", "-c"])
        .arg(file);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

impl Program {
    /// Runs `--mode validate` over a bootstrap.
    ///
    /// # Errors
    /// It is refused; the text is the program's.
    pub fn validate(&self, bootstrap: &Path) -> Result<(), String> {
        match self {
            Self::Envoy(path) => validate(path, bootstrap),
            Self::Weft(path) => {
                let mut command = Command::new(path);
                command
                    .args(["proxy", "--mode", "validate", "-c"])
                    .arg(bootstrap);
                let output = command.output().map_err(|error| error.to_string())?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() {
                    Ok(())
                } else {
                    Err(said)
                }
            }
        }
    }
}

fn envoy(path: &Path) -> Command {
    let mut command = Command::new(path);
    // Shared memory of hot restart would tie Envoys of different tests together.
    command.arg("--disable-hot-restart");
    command
}

fn bootstrap(node: &Node, mode: AdsMode, xds: SocketAddr, admin: SocketAddr) -> Value {
    let api_type = match mode {
        AdsMode::Delta => "DELTA_GRPC",
        AdsMode::Sotw => "GRPC",
    };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "node": {"id": node.id, "cluster": "interop", "metadata": node.metadata},
        "admin": {"address": socket_address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [{
                "name": "xds",
                "type": "STATIC",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": "xds",
                    "endpoints": [{"lb_endpoints": [{
                        "endpoint": {"address": socket_address(xds)},
                    }]}],
                },
                "typed_extension_protocol_options": {
                    options: {
                        "@type": format!("type.googleapis.com/{options}"),
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
            }],
        },
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}
