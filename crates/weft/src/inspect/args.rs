//! The command lines of the commands that look inside.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::age::Age;
use crate::cli::NetworkArgs;

/// Where the control plane is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ControlAddress {
    /// Monitoring address of the control plane
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:15014",
        env = "WEFT_CONTROL"
    )]
    pub(crate) control: String,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table
    #[value(alias = "table")]
    Short,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// A running control plane, or files.
#[derive(Debug, Clone, Args)]
pub(crate) struct PageSource {
    #[command(flatten)]
    pub(crate) control: ControlAddress,
    /// Files or directories of mesh configuration, instead of a running control plane
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Vec<PathBuf>,
    /// File with the mesh's settings (Istio's `MeshConfig`), for --config
    #[arg(long, value_name = "FILE", requires = "config")]
    pub(crate) mesh_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
}

/// What is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResourceKind {
    Listener,
    Route,
    Cluster,
    Endpoint,
    Secret,
}

impl ResourceKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Secret => "secret",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// What kind of resource
    #[arg(value_enum)]
    pub(crate) kind: ResourceKind,
    /// Its name, or a part that only one resource has; `weft proxy-config` shows names
    pub(crate) name: String,
    /// Whose: a connected proxy (node id or name.namespace), a workload or service
    /// (namespace/name), an address, or gateway/NAMESPACE/NAME for the workloads of a Gateway
    #[arg(value_name = "PROXY")]
    pub(crate) proxy: String,
    /// Of a route configuration, only virtual hosts with this in a name or domain
    #[arg(long, value_name = "TEXT")]
    pub(crate) host: Option<String>,
    #[command(flatten)]
    pub(crate) source: PageSource,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "short")]
    pub(crate) output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Who calls: a connected proxy (node id or name.namespace), a workload or service
    /// (namespace/name), an address, or gateway/NAMESPACE/NAME for a call from outside to the
    /// workloads of a Gateway
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// What is called: http://host:port/path, https://…, or tcp://host:port for bytes that are no
    /// HTTP
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: String,
    /// A header, `name: value`; may be repeated
    #[arg(short = 'H', long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Where the connection goes, instead of the address of the host's service
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) to: Option<std::net::SocketAddr>,
    /// The caller's address, instead of the workload's
    #[arg(long, value_name = "IP")]
    pub(crate) source_ip: Option<std::net::IpAddr>,
    /// URI name of the caller's certificate, instead of the workload's: spiffe://…
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// The caller has no certificate and no proxy of the mesh: plain text
    #[arg(long, conflicts_with = "principal")]
    pub(crate) no_identity: bool,
    /// Server name of the TLS hello, instead of the URL's host
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// Speak HTTP/2 with prior knowledge
    #[arg(long)]
    pub(crate) http2: bool,
    /// Decides where a share does: 0 to 99 walks through weights that make 100
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) random: u64,
    /// Stop before the proxy of the server
    #[arg(long)]
    pub(crate) client_only: bool,
    #[command(flatten)]
    pub(crate) source: PageSource,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "short")]
    pub(crate) output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct AuthzArgs {
    #[command(subcommand)]
    pub(crate) command: AuthzCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthzCommand {
    /// Say which policy lets a call pass or stops it, at each proxy on its way; exit 1 if it does not
    /// get through
    #[command(display_name = "weft")]
    Check(Box<SimulateArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Files of mesh configuration, or objects as kind/namespace/name
    #[arg(required = true, value_name = "FILE|OBJECT")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) control: ControlAddress,
    /// How long to wait: 30s, 5m, 1h; `never` gives up never
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(crate) timeout: Age,
    /// Wait until the objects are gone, from the configuration and from all proxies
    #[arg(long)]
    pub(crate) gone: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyStatusArgs {
    /// Only this proxy, in detail: its node id or name.namespace
    #[arg(value_name = "PROXY")]
    pub(crate) proxy: Option<String>,
    #[command(flatten)]
    pub(crate) control: ControlAddress,
    /// Only proxies of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "short")]
    pub(crate) output: Form,
    /// Exit 1 unless everything is SYNCED
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyConfigArgs {
    #[command(subcommand)]
    pub(crate) what: ProxyConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyConfigCommand {
    /// Clusters
    #[command(visible_alias = "c", aliases = ["cluster"])]
    Clusters(ClusterArgs),
    /// Listeners
    #[command(visible_alias = "l", aliases = ["listener"])]
    Listeners(ListenerArgs),
    /// Route configurations
    #[command(visible_alias = "r", aliases = ["route"])]
    Routes(RouteArgs),
    /// Endpoints: as a proxy sees them with --admin, else those of EDS
    #[command(visible_alias = "ep", aliases = ["endpoint"])]
    Endpoints(EndpointArgs),
    /// Endpoints of EDS, with their localities
    Eds(EndpointArgs),
    /// Certificates and authorities, without keys
    #[command(visible_alias = "s", aliases = ["secret"])]
    Secrets(PlainArgs),
    /// Configurations of extensions that came by ECDS
    #[command(visible_alias = "ec")]
    Ecds(PlainArgs),
    /// What a proxy was started with
    #[command(visible_alias = "b")]
    Bootstrap(PlainArgs),
    /// Log levels of a proxy, and changing them
    #[command(visible_alias = "o")]
    Log(LogLevelArgs),
    /// All of it
    #[command(visible_alias = "a")]
    All(AllArgs),
}

/// Whose configuration, and where it is taken from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// Node id or name.namespace of a connected proxy, asked of the control plane
    #[arg(value_name = "PROXY", required_unless_present_any = ["admin", "file"], conflicts_with_all = ["admin", "file"])]
    pub(crate) proxy: Option<String>,
    #[command(flatten)]
    pub(crate) control: ControlAddress,
    /// Admin address of the proxy itself, Envoy or Weft
    #[arg(long, value_name = "ADDR", conflicts_with = "file")]
    pub(crate) admin: Option<String>,
    /// A file with a configuration dump; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "short")]
    pub(crate) output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct PlainArgs {
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Only clusters with this in the host name
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) fqdn: String,
    /// Only clusters of this port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only clusters with this in the subset
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) subset: String,
    /// Only clusters of this direction: inbound, outbound
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) direction: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListenerArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Only listeners on this address
    #[arg(long, value_name = "IP", default_value = "")]
    pub(crate) address: String,
    /// Only listeners on this port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only listeners of this type: HTTP, TCP, HTTP+TCP, UNKNOWN
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    pub(crate) kind: String,
    /// Show filter chains; `--verbose=false` shows the listeners' types instead
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Only the route configuration of this name
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) name: String,
    /// Show routes; `--verbose=false` counts virtual hosts instead
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Only this address
    #[arg(long, value_name = "IP", default_value = "")]
    pub(crate) address: String,
    /// Only this port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only endpoints of the cluster of this name
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) cluster: String,
    /// Only endpoints of this health: HEALTHY, UNHEALTHY, …
    #[arg(long, value_name = "STATUS", default_value = "")]
    pub(crate) status: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogLevelArgs {
    /// Admin address of the proxy, Envoy or Weft
    #[arg(long, value_name = "ADDR", required = true)]
    pub(crate) admin: String,
    /// The new level of all loggers, or LOGGER:LEVEL of some, separated by commas
    #[arg(long, value_name = "LEVELS", conflicts_with = "reset")]
    pub(crate) level: Option<String>,
    /// Back to `warning`
    #[arg(short, long)]
    pub(crate) reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Only clusters with this in the host name
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) fqdn: String,
    /// Only clusters and listeners of this port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only the route configuration of this name
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) name: String,
    /// A line before each table
    #[arg(long)]
    pub(crate) with_headers: bool,
}
