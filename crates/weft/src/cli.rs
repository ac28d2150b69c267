//! The command line as clap sees it: names, help texts, defaults. Must never act on anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::age::Age;
use crate::agent::AgentArgs;
use crate::identity::{AuthorityArgs, SecureArgs, TokenArgs};
use crate::inspect::args::{
    AuthzArgs, ExplainArgs, ProxyConfigArgs, ProxyStatusArgs, SimulateArgs, WaitArgs,
};

/// A service mesh in one binary: control plane, proxy, and what people need to live with them.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane: a directory of YAML becomes xDS for every proxy that connects
    #[command(display_name = "weft")]
    Control(Box<ControlArgs>),
    /// Run the data plane: an Envoy v3 bootstrap becomes listeners, routes and clusters
    #[command(display_name = "weft")]
    Proxy(Box<ProxyArgs>),
    /// Check files and directories of mesh configuration; exit 1 with all errors
    #[command(display_name = "weft")]
    Validate(ValidateArgs),
    /// Look for what is suspicious in mesh configuration, with the codes of `istioctl analyze`
    Analyze(AnalyzeArgs),
    /// Wait until an edit is live on all the proxies that it concerns; exit 1 with those that lag
    #[command(display_name = "weft")]
    Wait(WaitArgs),
    /// Show where connected proxies stand: SYNCED, STALE, NOT SENT, ERROR
    #[command(display_name = "weft", visible_alias = "ps")]
    ProxyStatus(ProxyStatusArgs),
    /// Show what a proxy has, or is to have: clusters, listeners, routes, endpoints, secrets
    #[command(display_name = "weft", visible_alias = "pc")]
    ProxyConfig(ProxyConfigArgs),
    /// Say which objects made a listener, route, cluster of a proxy, with file and line
    #[command(display_name = "weft")]
    Explain(ExplainArgs),
    /// Say what would become of a call, and why: listener, chain, route, cluster, endpoints,
    /// policies; exit 1 if it does not get through
    #[command(display_name = "weft")]
    Simulate(Box<SimulateArgs>),
    /// Ask who may do what: which policy lets a call pass or stops it
    #[command(display_name = "weft")]
    Authz(AuthzArgs),
    /// Give out join tokens, with which workloads get their first certificates
    #[command(display_name = "weft")]
    Token(TokenArgs),
    /// Steer the certificate authority: replace its root
    #[command(display_name = "weft")]
    Ca(AuthorityArgs),
    /// Watch a whole mesh at work on this machine, with nothing installed and without root
    #[command(display_name = "weft")]
    Demo(DemoArgs),
    /// Print the completion script for a shell
    #[command(display_name = "weft")]
    Completions(CompletionsArgs),
    /// One of the demo's sample services
    #[command(hide = true)]
    DemoService(DemoServiceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// Directory of YAML that is read and watched
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: PathBuf,
    /// Serve proxies although the directory is empty or partly unreadable, or a policy of security
    /// in it is refused, at the start; without it, they keep what they have until that is repaired
    #[arg(long)]
    pub(crate) serve_incomplete: bool,
    /// File with the mesh's settings (Istio's `MeshConfig`); read once, at the start
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
    /// Where proxies connect for xDS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15010")]
    pub(crate) grpc_addr: SocketAddr,
    /// Where metrics, readiness and debug pages are served
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014")]
    pub(crate) monitoring_addr: SocketAddr,
    /// How long a proxy's connection lasts before the proxy is to connect anew, so that proxies
    /// spread over replicas: 30m, 90s, 1h; `never`. It is sent nothing again
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub(crate) grpc_max_connection_age: Age,
    /// How often the keys are fetched anew that a `RequestAuthentication` names by `jwksUri`: 20m,
    /// 90s, 1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "20m",
        env = "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL"
    )]
    pub(crate) jwks_refresh_interval: Interval,
    /// PEM file of authorities that are trusted when keys are fetched, besides those of the
    /// system; may be absent
    #[arg(long, value_name = "FILE", default_value = "/cacerts/extra.pem")]
    pub(crate) jwks_extra_roots: PathBuf,
    #[command(flatten)]
    pub(crate) registration: RegistrationArgs,
    #[command(flatten)]
    pub(crate) secure: SecureArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
}

/// Workloads that register themselves (`WorkloadGroup`).
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistrationArgs {
    /// How long the entry of a workload that registers itself outlives its proxy's connection
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        env = "PILOT_WORKLOAD_ENTRY_GRACE_PERIOD"
    )]
    pub(crate) workload_entry_grace_period: Interval,
    /// Whether only workloads with a verified identity may register themselves: those of the secure
    /// port
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        default_value_t = true,
        env = "ISTIO_WORKLOAD_ENTRY_VALIDATE_IDENTITY"
    )]
    pub(crate) workload_entry_validate_identity: bool,
}

/// The networks of a mesh that has several.
#[derive(Debug, Clone, Args)]
pub(crate) struct NetworkArgs {
    /// File with the mesh's networks (Istio's `MeshNetworks`); `weft control` follows its changes
    #[arg(long, value_name = "FILE", alias = "networksConfig")]
    pub(crate) networks_config: Option<PathBuf>,
    /// Name of the cluster that endpoints are in, which networks may name (`fromRegistry`)
    #[arg(
        long,
        value_name = "NAME",
        default_value = "Kubernetes",
        env = "CLUSTER_ID"
    )]
    pub(crate) cluster_id: String,
}

/// A time with its unit, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval(pub(crate) Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As Go prints times: 20m0s, 24h0m0s.
        let text = text
            .strip_suffix("m0s")
            .map_or(text.to_owned(), |m| format!("{m}m"));
        let text = text
            .strip_suffix("h0m")
            .map_or(text.clone(), |h| format!("{h}h"));
        match text.parse::<Age>()? {
            Age(Some(time)) if !time.is_zero() => Ok(Self(time)),
            _ => Err("write a time above zero, such as 20m or 90s".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What is logged to standard error: trace, debug, info, warning, error, critical, off; or
    /// a filter such as `info,weft_xds=debug`
    #[arg(
        short = 'l',
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "WEFT_LOG"
    )]
    pub(crate) log_level: String,
}

#[derive(Debug, Args)]
pub(crate) struct LifetimeArgs {
    /// Drain and end when standard input closes: how a parent's death ends its children
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

/// What `weft proxy` does with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyMode {
    /// Serve traffic
    Serve,
    /// Read and check the bootstrap, say what is wrong, and exit
    Validate,
}

/// Local addresses that Envoy would prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

/// How connections are let go while draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrainStrategy {
    Gradual,
    Immediate,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Envoy v3 bootstrap: YAML or JSON
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) config_path: Option<PathBuf>,
    /// Bootstrap as text, merged over the file as Envoy merges it: set fields win, lists append
    #[arg(long, value_name = "YAML")]
    pub(crate) config_yaml: Option<String>,
    /// What to do with the bootstrap
    #[arg(long, value_enum, default_value = "serve")]
    pub(crate) mode: ProxyMode,
    /// Worker threads; default is one for each core this process may use
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log_path: Option<PathBuf>,
    /// Node id, in place of the bootstrap's
    #[arg(long, value_name = "ID")]
    pub(crate) service_node: Option<String>,
    /// Node cluster, in place of the bootstrap's
    #[arg(long, value_name = "NAME")]
    pub(crate) service_cluster: Option<String>,
    /// Zone of the node's locality, in place of the bootstrap's
    #[arg(long, value_name = "ZONE")]
    pub(crate) service_zone: Option<String>,
    /// Write the admin server's address to this file once it is bound
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_address_path: Option<PathBuf>,
    /// Longest time that connections of a changed or removed listener get to finish
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) drain_time_s: u64,
    /// Longest time that requests get to finish when the proxy stops
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub(crate) shutdown_time_s: u64,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) envoy: EnvoyFlags,
}

/// Flags of Envoy's that change nothing here; they are taken so that a command line written for
/// `envoy` works, and the help says that they do nothing.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted for envoy's command line, without effect")]
pub(crate) struct EnvoyFlags {
    /// No effect: the log has one level; use a filter in --log-level
    #[arg(long, value_name = "LIST")]
    pub(crate) component_log_level: Option<String>,
    /// No effect: the log's form is fixed
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// No effect: log lines never hold raw line breaks of foreign text
    #[arg(long)]
    pub(crate) log_format_escaped: bool,
    /// No effect: levels are kept per module already
    #[arg(long)]
    pub(crate) enable_fine_grain_logging: bool,
    /// No effect: several proxies on a host need no number
    #[arg(long, value_name = "N")]
    pub(crate) base_id: Option<u32>,
    /// No effect: several proxies on a host need no number
    #[arg(long)]
    pub(crate) use_dynamic_base_id: bool,
    /// No effect: there is no hot restart to switch off
    #[arg(long)]
    pub(crate) disable_hot_restart: bool,
    /// No effect: there is no hot restart; only 0 is taken
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=0))]
    pub(crate) restart_epoch: Option<u32>,
    /// No effect: there is no parent process to shut down
    #[arg(long, value_name = "SECONDS")]
    pub(crate) parent_shutdown_time_s: Option<u64>,
    /// No effect: a draining listener stops at once and its connections get --drain-time-s
    #[arg(long, value_enum)]
    pub(crate) drain_strategy: Option<DrainStrategy>,
    /// No effect: every listener has the address that the configuration gives
    #[arg(long, value_enum)]
    pub(crate) local_address_ip_version: Option<IpVersion>,
    /// No effect: unknown fields are always refused, so that nothing is dropped unseen
    #[arg(long)]
    pub(crate) allow_unknown_fields: bool,
    /// No effect: unknown fields are always refused, so that nothing is dropped unseen
    #[arg(long)]
    pub(crate) allow_unknown_static_fields: bool,
    /// No effect: fields of xDS resources are refused or counted, one by one
    #[arg(long)]
    pub(crate) reject_unknown_dynamic_fields: bool,
    /// No effect: fields of xDS resources are refused or counted, one by one
    #[arg(long)]
    pub(crate) ignore_unknown_dynamic_fields: bool,
    /// No effect: logs are written as they come
    #[arg(long, value_name = "MS")]
    pub(crate) file_flush_interval_msec: Option<u64>,
    /// No effect: logs are written as they come
    #[arg(long, value_name = "KB")]
    pub(crate) file_flush_min_size_kb: Option<u64>,
    /// No effect: the default concurrency respects the process's CPU set anyway
    #[arg(long)]
    pub(crate) cpuset_threads: bool,
    /// No effect: only version 3 is spoken
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(3..=3))]
    pub(crate) bootstrap_version: Option<u32>,
}

impl EnvoyFlags {
    /// The flags that were given, for a note in the log.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--component-log-level", self.component_log_level.is_some()),
            ("--log-format", self.log_format.is_some()),
            ("--log-format-escaped", self.log_format_escaped),
            (
                "--enable-fine-grain-logging",
                self.enable_fine_grain_logging,
            ),
            ("--base-id", self.base_id.is_some()),
            ("--use-dynamic-base-id", self.use_dynamic_base_id),
            ("--disable-hot-restart", self.disable_hot_restart),
            ("--restart-epoch", self.restart_epoch.is_some()),
            (
                "--parent-shutdown-time-s",
                self.parent_shutdown_time_s.is_some(),
            ),
            ("--drain-strategy", self.drain_strategy.is_some()),
            (
                "--local-address-ip-version",
                self.local_address_ip_version.is_some(),
            ),
            ("--allow-unknown-fields", self.allow_unknown_fields),
            (
                "--allow-unknown-static-fields",
                self.allow_unknown_static_fields,
            ),
            (
                "--reject-unknown-dynamic-fields",
                self.reject_unknown_dynamic_fields,
            ),
            (
                "--ignore-unknown-dynamic-fields",
                self.ignore_unknown_dynamic_fields,
            ),
            (
                "--file-flush-interval-msec",
                self.file_flush_interval_msec.is_some(),
            ),
            (
                "--file-flush-min-size-kb",
                self.file_flush_min_size_kb.is_some(),
            ),
            ("--cpuset-threads", self.cpuset_threads),
            ("--bootstrap-version", self.bootstrap_version.is_some()),
        ];
        flags
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files, or directories of YAML; `-`: standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Exit 1 for warnings, too
    #[arg(long)]
    pub(crate) strict: bool,
    /// File with the mesh's settings (Istio's `MeshConfig`)
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportForm {
    /// A line each
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Files, or directories of YAML; `-`: standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// File with the mesh's settings (Istio's `MeshConfig`)
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
    /// How findings are printed
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: ReportForm,
    /// Exit 1 for warnings, too
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run the whole walk once, as fast as it goes, and exit 0 only if all of it held
    #[arg(long)]
    pub(crate) once: bool,
    /// Print the result of --once as one JSON object
    #[arg(long, requires = "once")]
    pub(crate) json: bool,
    /// Keep everything in this folder (made if missing) instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Port of the gateway on 127.0.0.1; default is 8080, or a free one if that is taken
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Requests a second of the load on the gateway while you watch
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rps: u32,
    /// Seconds that each step of the walk is shown
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) step_time: u64,
    /// Print plain lines although output is a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// The sample services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SampleService {
    Page,
    Details,
    Reviews,
    Ratings,
}

#[derive(Debug, Args)]
pub(crate) struct DemoServiceArgs {
    /// Which one
    #[arg(long, value_enum)]
    pub(crate) name: SampleService,
    /// Its version
    #[arg(long)]
    pub(crate) service_version: String,
    /// Where it listens
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Its sidecar's HTTP proxy port, for calls to other services
    #[arg(long)]
    pub(crate) proxy: SocketAddr,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_line_written_for_envoy_is_taken() {
        let line = "weft proxy -c /etc/envoy.yaml --drain-time-s 45 --drain-strategy immediate \
                    --local-address-ip-version v4 --file-flush-interval-msec 1000 \
                    --disable-hot-restart --allow-unknown-static-fields -l warning \
                    --component-log-level misc:error --concurrency 2 --use-dynamic-base-id \
                    --service-cluster c --service-node n --parent-shutdown-time-s 60";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("all flags are known");
        let Command::Proxy(args) = cli.command else {
            panic!("not the proxy")
        };
        assert_eq!(args.drain_time_s, 45);
        assert_eq!(args.concurrency, Some(2));
        assert_eq!(args.envoy.given().len(), 8);
    }

    #[test]
    fn json_needs_once() {
        assert!(Cli::try_parse_from(["weft", "demo", "--json"]).is_err());
    }
}
