//! `weft control` as a process: started, asked, killed and started again at the same addresses.
//! Must never know its inside: only its command line and its monitoring pages.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::folder::ConfigFolder;
use crate::http_client::{Answer, get};
use crate::ports::free_port;
use crate::process::Process;
use crate::wait::eventually;

const READY: Duration = Duration::from_secs(30);

/// A control plane that watches a folder.
#[derive(Debug)]
pub struct Control {
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    grpc: SocketAddr,
    monitoring: SocketAddr,
    process: Option<Process>,
}

impl Control {
    /// Starts `binary control` on free ports and waits until it is ready. `mesh_config` is a
    /// file with mesh settings.
    pub async fn start(binary: &str, folder: &ConfigFolder, mesh_config: Option<&Path>) -> Self {
        Self::start_with(binary, folder, mesh_config, &[]).await
    }

    /// The same with `more` on its command line.
    pub async fn start_with(
        binary: &str,
        folder: &ConfigFolder,
        mesh_config: Option<&Path>,
        more: &[&str],
    ) -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (grpc, monitoring) = (local(free_port()), local(free_port()));
        let mut arguments = vec![
            "control".to_owned(),
            "--until-stdin-closes".to_owned(),
            format!("--config-dir={}", folder.watched().display()),
            format!("--grpc-addr={grpc}"),
            format!("--monitoring-addr={monitoring}"),
        ];
        arguments.extend(mesh_config.map(|file| format!("--mesh-config={}", file.display())));
        arguments.extend(more.iter().map(ToString::to_string));
        let log = folder.log("control.log");
        let mut control = Self {
            binary: binary.into(),
            arguments,
            log,
            grpc,
            monitoring,
            process: None,
        };
        control.run().await;
        control
    }

    /// Starts the process, which must not run, and waits until it is ready.
    pub async fn run(&mut self) {
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .env_remove("WEFT_LOG")
            .env_remove("RUST_LOG");
        self.process = Some(Process::start("weft control", command, &self.log));
        eventually("the control plane is ready", READY, async || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the control plane ended: {status}");
            }
            let answer = get(self.monitoring, "/ready").await?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
    }

    /// Kills the process (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Where proxies connect.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where its monitoring pages are.
    pub fn monitoring(&self) -> SocketAddr {
        self.monitoring
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default()
    }

    async fn page(&self, path: &str) -> Answer {
        let answer = get(self.monitoring, path).await;
        let answer = answer.unwrap_or_else(|error| panic!("the page {path}: {error}"));
        assert_eq!(answer.status, 200, "the page {path}: {}", answer.body);
        answer
    }

    /// A page of its monitoring server.
    pub async fn json(&self, path: &str) -> Value {
        let body = self.page(path).await.body;
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// The sum of a metric over its labels; 0 if it is not there.
    pub async fn metric(&self, name: &str) -> u64 {
        let page = self.page("/metrics").await.body;
        let samples = page.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let of = sample.split('{').next()?;
            (of == name).then(|| value.parse::<u64>().ok()).flatten()
        });
        samples.sum()
    }

    /// Where a connected proxy stands: the entry of its node id in `/debug/proxies`.
    pub async fn proxy(&self, id: &str) -> Option<Value> {
        let page = self.json("/debug/proxies").await;
        page["proxies"]
            .as_array()?
            .iter()
            .find(|proxy| proxy["proxy"] == id)
            .cloned()
    }

    /// Waits until this proxy has accepted and is in step with all of these types (`CDS`, …).
    pub async fn wait_in_step(&self, id: &str, types: &[&str]) {
        eventually(&format!("{id} is in step"), READY, async || {
            let proxy = self
                .proxy(id)
                .await
                .ok_or_else(|| "it is not connected".to_owned())?;
            let fine = types.iter().all(|name| {
                let state = &proxy["types"][name];
                state["synced"].is_string() && state["error"].is_null()
            });
            fine.then_some(()).ok_or_else(|| proxy.to_string())
        })
        .await;
    }

    /// What this proxy is to have: `resources` of `/debug/resources`.
    pub async fn resources(&self, id: &str) -> Vec<Value> {
        let path = format!("/debug/resources?proxyID={id}");
        let mut dump = self.json(&path).await;
        match dump["resources"].take() {
            Value::Array(resources) => resources,
            other => panic!("{path} has no list of resources: {other}"),
        }
    }

    /// The entries of `/debug/status` that `wanted` picks.
    pub async fn objects(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let page = self.json("/debug/status").await;
        let objects = page["objects"].as_array().map_or(&[][..], Vec::as_slice);
        objects
            .iter()
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }
}
