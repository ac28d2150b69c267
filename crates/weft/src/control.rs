//! `weft control`: the control plane as a process. Must never know how it works inside.

use std::process::ExitCode;

use weft_control::{ControlConfig, ControlPlane, HttpProxies, KeyFetch, Registration};

use crate::Failure;
use crate::cli::ControlArgs;
use crate::{logging, stop};

pub(crate) fn run(args: &ControlArgs) -> Result<ExitCode, Failure> {
    logging::start(&args.log.log_level, None)?;
    if !args.grpc_addr.ip().is_loopback() {
        tracing::warn!(
            address = %args.grpc_addr,
            "xDS is served in plain text: who reaches this address can read all configuration, and the keys of Secrets that gateways use"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("weft-control")
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    runtime.block_on(async {
        let drain = stop::drain_on_request(args.lifetime.until_stdin_closes)
            .map_err(|error| format!("listening for signals: {error}"))?;
        let config = ControlConfig {
            config_dir: args.config_dir.clone(),
            serve_incomplete: args.serve_incomplete,
            mesh_config: args.mesh_config.clone(),
            networks_config: args.networks.networks_config.clone(),
            cluster_id: Some(args.networks.cluster_id.clone()),
            grpc_addr: args.grpc_addr,
            monitoring_addr: args.monitoring_addr,
            max_connection_age: args.grpc_max_connection_age.0,
            keys: KeyFetch {
                refresh: args.jwks_refresh_interval.0,
                extra_roots: args.jwks_extra_roots.clone(),
                proxies: HttpProxies::from_env(|name| std::env::var(name).ok())?,
            },
            registration: Registration {
                grace: args.registration.workload_entry_grace_period.0,
                verified_only: args.registration.workload_entry_validate_identity,
            },
            secure: args.secure.config(),
        };
        ControlPlane::run(config, drain)
            .await
            .map_err(|error| format!("control: {error}"))
    })?;
    Ok(ExitCode::SUCCESS)
}
