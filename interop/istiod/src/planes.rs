//! The two control planes, each started on a world.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use weft_control::{ControlConfig, ControlPlane, KeyFetch, Registration};
use weft_core::drain;

use crate::world::World;

/// What istiod logs when it has read everything.
const SYNCED: &str = "All caches have been synced up";
const START: Duration = Duration::from_mins(1);

/// A running control plane; dropping it ends it.
pub struct Plane {
    /// Where it serves ADS, as a URL.
    pub address: String,
    _inner: Inner,
}

enum Inner {
    Istiod {
        _process: Child,
        _folder: tempfile::TempDir,
    },
    Weft {
        _drain: drain::Drain,
        _plane: Box<ControlPlane>,
        _folder: tempfile::TempDir,
    },
}

/// Starts istiod's `pilot-discovery` on a world, without Kubernetes.
///
/// # Errors
/// It does not start, or does not serve.
pub async fn istiod(binary: &Path, world: &World) -> Result<Plane, String> {
    let folder = folder(world)?;
    let (grpc, http, monitoring) = (port()?, port()?, port()?);
    let log = folder.path().join("istiod.log");
    let file = std::fs::File::create(&log).map_err(|error| error.to_string())?;
    let mesh = folder.path().join("mesh.yaml");
    let networks = networks(world, &folder);
    let mut command = Command::new(binary);
    command
        .arg("discovery")
        .arg("--registries=")
        .arg(format!(
            "--configDir={}",
            folder.path().join("rules").display()
        ))
        .arg(format!("--meshConfig={}", mesh.display()))
        .args(networks.map(|file| format!("--networksConfig={}", file.display())))
        .arg(format!("--grpcAddr=127.0.0.1:{grpc}"))
        .arg(format!("--httpAddr=127.0.0.1:{http}"))
        .arg(format!("--monitoringAddr=127.0.0.1:{monitoring}"))
        .args(["--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0"])
        .env("PILOT_ENABLE_ANALYSIS", "false")
        .env("INJECT_ENABLED", "false")
        .env("ENABLE_CA_SERVER", "false")
        .env("PILOT_CERT_PROVIDER", "none")
        .env("PILOT_ENABLE_WORKLOAD_ENTRY_AUTOREGISTRATION", "false")
        .env("POD_NAMESPACE", "istio-system")
        // Weft emits no exchange of metadata: a peer that agreed to one would write into the stream.
        .env("PILOT_DISABLE_MX_ALPN", "true")
        .envs(world.istiod().map_err(|error| error.to_string())?)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(|error| error.to_string())?)
        .stderr(file)
        .kill_on_drop(true);
    let mut process = command
        .spawn()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    let began = Instant::now();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    // Its /ready also waits for the injector, which needs Kubernetes.
    while !said().contains(SYNCED) {
        if let Ok(Some(status)) = process.try_wait() {
            return Err(format!("istiod ended: {status}\n{}", said()));
        }
        if began.elapsed() > START {
            return Err(format!("istiod is not ready:\n{}", said()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(Plane {
        address: format!("http://127.0.0.1:{grpc}"),
        _inner: Inner::Istiod {
            _process: process,
            _folder: folder,
        },
    })
}

/// Starts Weft's control plane on a world, in this process.
///
/// # Errors
/// It does not start.
pub async fn weft(world: &World) -> Result<Plane, String> {
    let folder = folder(world)?;
    let (drain, signal) = drain::channel();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ControlConfig {
        config_dir: folder.path().join("rules"),
        mesh_config: Some(folder.path().join("mesh.yaml")),
        networks_config: networks(world, &folder),
        cluster_id: None,
        grpc_addr: any,
        monitoring_addr: any,
        serve_incomplete: false,
        max_connection_age: None,
        keys: KeyFetch::default(),
        registration: Registration::default(),
        secure: None,
    };
    let plane = ControlPlane::start(config, signal);
    let plane = plane
        .await
        .map_err(|error| format!("{}: {error}", world.name))?;
    Ok(Plane {
        address: format!("http://{}", plane.grpc_addr),
        _inner: Inner::Weft {
            _drain: drain,
            _plane: Box::new(plane),
            _folder: folder,
        },
    })
}

/// A folder with `rules/`, `mesh.yaml`, and `networks.yaml` if there are networks.
fn folder(world: &World) -> Result<tempfile::TempDir, String> {
    let text = |error: std::io::Error| format!("{}: {error}", world.name);
    let folder = tempfile::tempdir().map_err(text)?;
    let rules: PathBuf = folder.path().join("rules");
    std::fs::create_dir(&rules).map_err(text)?;
    std::fs::copy(&world.rules, rules.join("world.yaml")).map_err(text)?;
    let mesh = folder.path().join("mesh.yaml");
    match &world.mesh {
        Some(file) => std::fs::copy(file, mesh).map(|_| ()),
        None => std::fs::write(mesh, "{}\n"),
    }
    .map_err(text)?;
    if let Some(file) = &world.networks {
        std::fs::copy(file, folder.path().join("networks.yaml")).map_err(text)?;
    }
    Ok(folder)
}

/// The file of networks, if the world has any.
fn networks(world: &World, folder: &tempfile::TempDir) -> Option<PathBuf> {
    let there = world.networks.is_some();
    there.then(|| folder.path().join("networks.yaml"))
}

fn port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|error| error.to_string())
}
