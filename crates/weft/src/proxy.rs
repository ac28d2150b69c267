//! `weft proxy`: the data plane as a process that stands in for `envoy`: reads the bootstrap,
//! lets the flags have their say, then serves or only checks. Must never know what is served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use weft_agent::AgentOptions;
use weft_core::drain;
use weft_proto::bootstrap::{BootstrapTexts, INLINE_SOURCE, read_located_bootstrap};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapMessage;
use weft_proto::pb::envoy::config::core::v3::node::UserAgentVersionType;
use weft_proto::pb::envoy::config::core::v3::{Locality, Node};
use weft_proxy::admin::ServerOptions;
use weft_proxy::{CheckedBootstrap, ConfigError, ProxyOptions};

use crate::Failure;
use crate::cli::{ProxyArgs, ProxyMode};
use crate::logging::{self, Log};
use crate::{agent, health, output, stop};

pub(crate) fn run(args: &ProxyArgs) -> Result<ExitCode, Failure> {
    let log = logging::start(&args.log.log_level, args.log_path.as_deref())?;
    let without_effect = args.envoy.given();
    if !without_effect.is_empty() {
        tracing::info!(flags = %without_effect.join(" "), "accepted without effect");
    }
    let (mut message, texts) = bootstrap(args)?;
    let agent = args.agent.equip(&mut message)?;
    let bootstrap = CheckedBootstrap::with_agent(message, agent.is_some());
    let bootstrap = bootstrap.map_err(|error| refused(&texts, &error))?;
    match args.mode {
        ProxyMode::Validate => validate(args, &bootstrap, &texts),
        ProxyMode::Serve => {
            // Only what is refused needs its lines.
            drop(texts);
            serve(args, bootstrap, agent, log)
        }
    }
}

/// The bootstrap of the file and of `--config-yaml`, with what the flags replace in it.
fn bootstrap(args: &ProxyArgs) -> Result<(BootstrapMessage, BootstrapTexts), Failure> {
    let file = args.config_path.as_ref().map(read).transpose()?;
    if file.is_none() && args.config_yaml.is_none() {
        return Err("no bootstrap: give a file with -c, or its text with --config-yaml".to_owned());
    }
    let file = file
        .as_ref()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let read = read_located_bootstrap(file, args.config_yaml.as_deref());
    let (mut bootstrap, texts) = read.map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("the bootstrap is refused:\n{}", lines.join("\n"))
    })?;
    let node = bootstrap.node.get_or_insert_default();
    override_node(node, args);
    // As Envoy, whatever the bootstrap says of it.
    "weft".clone_into(&mut node.user_agent_name);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion(version));
    Ok((bootstrap, texts))
}

/// `file:line: listener x: path: text`, a line for each problem.
fn refused(texts: &BootstrapTexts, error: &ConfigError) -> Failure {
    let lines = error.problems.iter().map(|problem| {
        let at = texts.problem(&problem.path, "");
        let mut parts = vec![format!("{}:{}", at.source, at.line)];
        parts.extend(problem.resource.clone());
        parts.extend((!at.path.is_empty()).then_some(at.path));
        parts.push(problem.text.clone());
        parts.join(": ")
    });
    let lines: Vec<String> = lines.collect();
    format!("the bootstrap is refused:\n{}", lines.join("\n"))
}

fn read(path: &PathBuf) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(format!(
            "-c {name}: {error}; give a readable file of Envoy v3 YAML"
        )),
    }
}

/// As in Envoy, what the command line says of the node counts more than the bootstrap.
fn override_node(node: &mut Node, args: &ProxyArgs) {
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &args.service_zone {
        node.locality
            .get_or_insert_with(Locality::default)
            .zone
            .clone_from(zone);
    }
}

/// What Envoy's `--mode validate` does: everything is converted and loaded, no socket opened.
fn validate(
    args: &ProxyArgs,
    bootstrap: &CheckedBootstrap,
    texts: &BootstrapTexts,
) -> Result<ExitCode, Failure> {
    let name = args.config_path.as_ref().map_or_else(
        || INLINE_SOURCE.to_owned(),
        |path| path.display().to_string(),
    );
    bootstrap
        .check_certificates()
        .map_err(|error| refused(texts, &error))?;
    for field in bootstrap.ignored() {
        let text = format!("ignored: {}", field.reason);
        eprintln!("{}", texts.problem(&field.path, text));
    }
    output::line(&format!("configuration '{name}' OK"));
    Ok(ExitCode::SUCCESS)
}

fn serve(
    args: &ProxyArgs,
    bootstrap: CheckedBootstrap,
    agent: Option<AgentOptions>,
    log: Log,
) -> Result<ExitCode, Failure> {
    let node = bootstrap.message().node.clone().unwrap_or_default();
    let concurrency = args
        .concurrency
        .unwrap_or_else(weft_net::worker::default_concurrency)
        .max(1);
    let drain_time = Duration::from_secs(args.drain_time_s);
    let reopen_logs = Arc::new(Notify::new());
    let probe = health::probe(&node)?;
    let (agent, identity) = agent
        .map(|options| agent::start(options, args.agent.crl_file(), seed()))
        .unzip();
    let mut options = ProxyOptions {
        bootstrap,
        concurrency: Some(concurrency),
        drain_time,
        shutdown_time: Duration::from_secs(args.shutdown_time_s),
        server: ServerOptions {
            concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
            config_path: args
                .config_path
                .as_ref()
                .map(|p| p.display().to_string())
                .unwrap_or_default(),
            config_yaml: args.config_yaml.clone().unwrap_or_default(),
            log_level: log.level(),
            service_cluster: node.cluster,
            service_node: node.id,
            service_zone: node
                .locality
                .map(|locality| locality.zone)
                .unwrap_or_default(),
            drain_time,
            ..ServerOptions::default()
        },
        logging: Box::new(log),
        identity,
        workload_health: None,
        reopen_logs: Arc::clone(&reopen_logs),
        on_ready: None,
    };
    // The main thread only: requests are served by the workers' own runtimes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    runtime.block_on(async {
        let with_stdin = args.lifetime.until_stdin_closes;
        let drain = stop::drain_on_request_as_envoy(with_stdin, reopen_logs)
            .map_err(|error| format!("listening for signals: {error}"))?;
        // Of a proxy that drains, requests may still need the certificate: it works to the end.
        let (_end, ended) = drain::channel();
        if let Some(agent) = agent {
            if let Some(options) = args.agent.workload_api() {
                let api = agent.workload_api(options);
                let socket = api.open();
                let socket = socket.map_err(|error| format!("--workload-api {error}"))?;
                tokio::spawn(api.serve(socket, ended.clone()));
            }
            tokio::spawn(agent.run(ended));
        }
        let ready = Arc::new(Notify::new());
        options.workload_health = probe.map(|probe| probe.start(Arc::clone(&ready)));
        options.on_ready = Some(announce(args.admin_address_path.clone(), ready));
        Box::pin(weft_proxy::run(options, drain))
            .await
            .map_err(|error| format!("proxy: {error}"))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What makes the renewals of proxies differ that start together.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Says that the proxy is ready and writes where the admin server listens, as Envoy does for
/// `--admin-address-path`. The workload is probed from then on.
fn announce(
    path: Option<PathBuf>,
    ready: Arc<Notify>,
) -> Box<dyn FnOnce(Option<SocketAddr>) + Send> {
    Box::new(move |address| {
        ready.notify_one();
        tracing::info!(admin = ?address, "ready");
        let (Some(path), Some(address)) = (path, address) else {
            return;
        };
        if let Err(error) = std::fs::write(&path, address.to_string()) {
            tracing::error!(path = %path.display(), %error, "--admin-address-path is not written");
        }
    })
}
