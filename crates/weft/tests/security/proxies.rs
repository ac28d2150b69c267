//! The two proxies with the same bootstrap, each with upstreams of its own. Must never know the
//! cases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use weft_testkit::{ConfigFolder, Peers, Process, eventually, free_port, get};

use super::scene::Scene;
use crate::parity::cases::Case;
use crate::parity::upstream::{self, Seen};

const LOG: &str = "case=%REQ(x-case)%\tcode=%RESPONSE_CODE%\tflags=%RESPONSE_FLAGS%\t\
    details=%RESPONSE_CODE_DETAILS%\tmethod=%REQ(:METHOD)%\tpath=%REQ(:path)%\t\
    cluster=%UPSTREAM_CLUSTER%\tfailure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\t\
    rbac=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%\t\
    shadow=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%\t\
    enforced=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%\t\
    result=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%\t\
    hint=%DYNAMIC_METADATA(envoy.common:access_log_hint)%\t\
    issuer=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:iss)%\t\
    scope=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:scope)%\t\
    why=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:failed:message)%\t\
    authz=%DYNAMIC_METADATA(envoy.filters.http.ext_authz:said)%\n";

/// Of a connection that is not HTTP; it belongs to no case.
const BYTES: &str = "bytes\tcode=%RESPONSE_CODE%\tflags=%RESPONSE_FLAGS%\t\
    details=%CONNECTION_TERMINATION_DETAILS%\tcluster=%UPSTREAM_CLUSTER%\tsent=%BYTES_SENT%\n";

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    process: Process,
    admin: u16,
    pub(crate) ports: BTreeMap<&'static str, u16>,
    upstreams: BTreeMap<&'static str, u16>,
    access_log: PathBuf,
    seen: Seen,
}

impl Proxy {
    pub(crate) async fn envoy(
        scene: &Scene,
        words: &BTreeMap<String, String>,
        folder: &ConfigFolder,
        files: &Path,
    ) -> Self {
        let mut command = Command::new(Peers::new().envoy());
        command.args(["--disable-hot-restart", "--file-flush-interval-msec", "50"]);
        command.args(["-l", "warning"]);
        Self::start("envoy", command, scene, words, (folder, files)).await
    }

    pub(crate) async fn weft(
        scene: &Scene,
        words: &BTreeMap<String, String>,
        folder: &ConfigFolder,
        files: &Path,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(["proxy", "--until-stdin-closes"])
            .env_remove("WEFT_LOG")
            .env_remove("RUST_LOG");
        Self::start("weft", command, scene, words, (folder, files)).await
    }

    async fn start(
        name: &'static str,
        mut command: Command,
        scene: &Scene,
        words: &BTreeMap<String, String>,
        (folder, files): (&ConfigFolder, &Path),
    ) -> Self {
        let seen = Seen::default();
        let (echo, echo2) = upstream::start(&seen).await;
        let upstreams = BTreeMap::from([("echo", echo), ("echo2", echo2), ("closed", free_port())]);
        let ports: BTreeMap<_, _> = scene
            .listeners
            .iter()
            .map(|listener| (*listener, free_port()))
            .collect();
        let access_log = folder.log(&format!("access-{name}.log"));
        let admin = free_port();
        let mut text = fill(scene.bootstrap, admin, &access_log, files);
        for (name, port) in &ports {
            text = text.replace(&format!("{{{{port:{name}}}}}"), &port.to_string());
        }
        for (name, port) in &upstreams {
            text = text.replace(&format!("{{{{up:{name}}}}}"), &port.to_string());
        }
        for (name, value) in words {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        let file = folder.write_beside(&format!("{name}.yaml"), &text);
        command.arg("-c").arg(file).args(["--concurrency", "1"]);
        let log = folder.log(&format!("{name}.log"));
        let mut process = if name == "envoy" {
            Process::start_bound(name, &command, &log)
        } else {
            Process::start(name, command, &log)
        };
        eventually(
            &format!("{name} is ready"),
            Duration::from_mins(1),
            async || {
                if let Some(status) = process.ended() {
                    panic!("{name} ended: {status}\n{}", process.output());
                }
                let answer = get(([127, 0, 0, 1], admin).into(), "/ready").await?;
                (answer.status == 200).then_some(()).ok_or(answer.body)
            },
        )
        .await;
        Self {
            process,
            admin,
            ports,
            upstreams,
            access_log,
            seen,
        }
    }

    /// What it has written beside its access log.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// Counters that the scene watches, without those that never counted.
    pub(crate) async fn stats(&self, scene: &Scene) -> Vec<String> {
        let address = ([127, 0, 0, 1], self.admin).into();
        let answer = get(address, "/stats?usedonly").await;
        let answer = answer.unwrap_or_else(|error| panic!("/stats: {error}"));
        let lines = answer.body.lines().filter(|line| {
            let name = line.split(": ").next().unwrap_or_default();
            let watched = scene.stats.iter().any(|part| name.contains(part));
            let counter = !line.contains("P0(") && !line.ends_with(": 0");
            let others = ["cluster.", "listener.", "http.admin.", "http.async-client."];
            watched && counter && !others.iter().any(|other| name.starts_with(other))
        });
        lines.map(|line| self.name_ports(line)).collect()
    }

    /// The access log's lines of every case, as `what: value`.
    pub(crate) async fn access_log(&self, cases: &[Case]) -> BTreeMap<usize, Vec<String>> {
        let mut lines = BTreeMap::<usize, Vec<String>>::new();
        let (mut before, mut same) = (0, 0);
        for _ in 0..60 {
            let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
            lines.clear();
            for line in text.lines() {
                let mut parts = line.split('\t');
                let id = parts.next().and_then(|id| id.strip_prefix("case="));
                let Some(id) = id.and_then(|id| id.parse().ok()) else {
                    continue;
                };
                let parts = parts.filter(|part| !part.ends_with("=-"));
                let parts = parts
                    .map(|part| self.name_ports(&format!("log {}", part.replacen('=', ": ", 1))));
                lines.entry(id).or_default().extend(parts);
            }
            // Connections that were refused leave no line.
            same = if text.len() == before { same + 1 } else { 0 };
            if lines.len() >= cases.len() || (same == 6 && before > 0) {
                break;
            }
            before = text.len();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        lines
    }

    /// The access log's lines of connections that are not HTTP.
    pub(crate) fn bytes(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("bytes\t"));
        lines.map(str::to_owned).collect()
    }

    /// The requests that its upstreams have seen for a case, sorted.
    pub(crate) fn seen(&self, id: usize) -> Vec<String> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut texts = seen.get(&id.to_string()).cloned().unwrap_or_default();
        texts.sort();
        let lines = texts.iter().flat_map(|text| text.lines());
        lines
            .map(|line| self.comparable(&format!("upstream {line}")))
            .collect()
    }

    /// A line in which what differs between any two runs has a name instead.
    pub(crate) fn comparable(&self, line: &str) -> String {
        let line = self.name_ports(line);
        let Some((before, value)) = line.split_once(": ") else {
            return line;
        };
        let replaced = match before.rsplit(' ').next().unwrap_or(before) {
            "date" => "<date>",
            "x-envoy-upstream-service-time" if value.bytes().all(|b| b.is_ascii_digit()) => "<ms>",
            "x-request-id" => "<uuid>",
            _ => return line,
        };
        format!("{before}: {replaced}")
    }

    fn name_ports(&self, line: &str) -> String {
        let all = self.ports.iter().chain(&self.upstreams);
        all.fold(line.to_owned(), |line, (name, port)| {
            line.replace(&format!(":{port}"), &format!(":<{name}>"))
        })
    }
}

fn fill(bootstrap: &str, admin: u16, access_log: &Path, files: &Path) -> String {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let log = |format: &str| {
        json!({"name": "file", "typed_config": {
            "@type": kind("access_loggers.file.v3.FileAccessLog"),
            "path": access_log,
            "log_format": {"text_format_source": {"inline_string": format}},
        }})
    };
    let router = json!({"name": "envoy.filters.http.router", "typed_config": {"@type": kind("filters.http.router.v3.Router")}});
    bootstrap
        .replace("{{admin}}", &admin.to_string())
        .replace(
            "{{hcm}}",
            &kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        )
        .replace("{{http}}", &kind("filters.http"))
        .replace("{{network}}", &kind("filters.network"))
        .replace("{{tls}}", &kind("transport_sockets.tls.v3"))
        .replace("{{log}}", &log(LOG).to_string())
        .replace("{{bytes}}", &log(BYTES).to_string())
        .replace("{{router}}", &router.to_string())
        .replace("{{files}}", &files.display().to_string())
}
