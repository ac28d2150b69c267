//! The two proxies with the same bootstrap, each with upstreams of its own so that nothing of one
//! can be taken for the other's. Must never know the cases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testkit::{ConfigFolder, Peers, Process, eventually, free_port, get};

use super::upstream::{self, Seen};

const BOOTSTRAP: &str = include_str!("bootstrap.yaml");
const LISTENERS: [&str; 6] = ["edge", "inner", "trusted", "inspected", "bare", "secure"];
const LOG: &str = "case=%REQ(x-case)%\tcode=%RESPONSE_CODE%\tflags=%RESPONSE_FLAGS%\t\
    details=%RESPONSE_CODE_DETAILS%\treceived=%BYTES_RECEIVED%\tsent=%BYTES_SENT%\t\
    protocol=%PROTOCOL%\tmethod=%REQ(:METHOD)%\tpath=%REQ(x-envoy-original-path?:path)%\t\
    authority=%REQ(:AUTHORITY)%\troute=%ROUTE_NAME%\tcluster=%UPSTREAM_CLUSTER%\t\
    host=%UPSTREAM_HOST%\tattempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%\t\
    failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\tname=%REQUESTED_SERVER_NAME%\t\
    kind=%RESP(content-type)%\t\
    remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\n";

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    process: Process,
    pub(crate) ports: BTreeMap<&'static str, u16>,
    /// Ports of its upstreams, by name.
    upstreams: BTreeMap<&'static str, u16>,
    access_log: PathBuf,
    pub(crate) seen: Seen,
}

impl Proxy {
    pub(crate) async fn envoy(folder: &ConfigFolder, certificate: &Path) -> Self {
        let mut command = Command::new(Peers::new().envoy());
        command.args([
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "50",
            "-l",
            "warning",
        ]);
        Self::start("envoy", command, folder, certificate).await
    }

    pub(crate) async fn weft(folder: &ConfigFolder, certificate: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(["proxy", "--until-stdin-closes"])
            .env_remove("WEFT_LOG")
            .env_remove("RUST_LOG");
        Self::start("weft", command, folder, certificate).await
    }

    async fn start(
        name: &'static str,
        mut command: Command,
        folder: &ConfigFolder,
        certificate: &Path,
    ) -> Self {
        let seen = Seen::default();
        let (echo, echo2) = upstream::start(&seen).await;
        let upstreams = BTreeMap::from([("echo", echo), ("echo2", echo2), ("closed", free_port())]);
        let ports: BTreeMap<_, _> = LISTENERS
            .into_iter()
            .map(|listener| (listener, free_port()))
            .collect();
        let access_log = folder.log(&format!("access-{name}.log"));
        let admin = free_port();
        let text = fill(admin, &ports, &upstreams, &access_log, certificate);
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

    /// The access log's line of every case, as `what: value`; waits until `wanted` are there.
    pub(crate) async fn access_log(&self, wanted: usize) -> BTreeMap<usize, Vec<String>> {
        let mut lines = BTreeMap::new();
        for _ in 0..60 {
            let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
            let parsed = text.lines().filter_map(|line| {
                let mut parts = line.split('\t');
                let id = parts.next()?.strip_prefix("case=")?.parse().ok()?;
                let parts = parts
                    .map(|part| self.name_ports(&format!("log {}", part.replacen('=', ": ", 1))));
                Some((id, parts.collect()))
            });
            lines = parsed.collect();
            if lines.len() >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        lines
    }

    /// The requests that its upstreams have seen for a case, sorted.
    pub(crate) fn seen(&self, id: usize) -> Vec<String> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut texts = seen.get(&id.to_string()).cloned().unwrap_or_default();
        texts.sort();
        let numbered = texts.iter().enumerate();
        numbered
            .flat_map(|(at, text)| {
                text.lines()
                    .map(move |line| format!("upstream {} {line}", at + 1))
            })
            .map(|line| self.comparable(&line))
            .collect()
    }

    /// A line in which what differs between any two runs has a name instead.
    pub(crate) fn comparable(&self, line: &str) -> String {
        let line = self.name_ports(line);
        let Some((before, value)) = line.split_once(": ") else {
            return line;
        };
        let replaced = match before.rsplit(' ').next().unwrap_or(before) {
            "date" if !value.contains("1970") => "<date>",
            "x-envoy-upstream-service-time" if value.bytes().all(|b| b.is_ascii_digit()) => "<ms>",
            // What is left of 15 s when a retry is sent.
            "x-envoy-expected-rq-timeout-ms"
                if value
                    .parse()
                    .is_ok_and(|ms| (14_000..=15_000).contains(&ms)) =>
            {
                "<about 15000>"
            }
            "x-forwarded-port" if self.ports.values().any(|port| port.to_string() == value) => {
                "<port>"
            }
            // Made of the addresses of both ends.
            "set-cookie" => return format!("{before}: {}", without_hash(value)),
            "x-request-id" if !value.starts_with("1111") && is_uuid(value) => "<uuid>",
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

fn is_uuid(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_hexdigit() { 'h' } else { c })
        .collect();
    let version = text.as_bytes().get(14) == Some(&b'4');
    version && shape == "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh"
}

fn fill(
    admin: u16,
    ports: &BTreeMap<&str, u16>,
    upstreams: &BTreeMap<&str, u16>,
    access_log: &Path,
    certificate: &Path,
) -> String {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let log = json!({"name": "file", "typed_config": {
        "@type": kind("access_loggers.file.v3.FileAccessLog"),
        "path": access_log,
        "log_format": {"text_format_source": {"inline_string": LOG}},
    }});
    let router = json!({"name": "envoy.filters.http.router", "typed_config": {"@type": kind("filters.http.router.v3.Router")}});
    let hcm = kind("filters.network.http_connection_manager.v3.HttpConnectionManager");
    let mut text = BOOTSTRAP
        .replace("{{admin}}", &admin.to_string())
        .replace("{{hcm}}", &hcm)
        .replace("{{log}}", &log.to_string())
        .replace("{{router}}", &router.to_string());
    for (name, port) in ports {
        text = text.replace(&format!("{{{{port:{name}}}}}"), &port.to_string());
    }
    for (name, port) in upstreams {
        text = text.replace(&format!("{{{{up:{name}}}}}"), &port.to_string());
    }
    for (name, domain) in [
        ("exact", "a.tls.test"),
        ("suffix", "*.tls.test"),
        ("default", ""),
    ] {
        let chain = tls_chain(name, domain, &hcm, &log, &router, certificate);
        text = text.replace(&format!("{{{{tls:{name}|{domain}}}}}"), &chain.to_string());
    }
    text
}

fn tls_chain(
    name: &str,
    domain: &str,
    hcm: &str,
    log: &Value,
    router: &Value,
    certificate: &Path,
) -> Value {
    let file = |name: &str| json!({"filename": certificate.join(name)});
    let mut chain = json!({
        "name": name,
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}],
            },
        }},
        "filters": [{"name": "hcm", "typed_config": {
            "@type": hcm,
            "stat_prefix": name,
            "use_remote_address": true,
            "access_log": [log],
            "http_filters": [router],
            "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [
                {"match": {"path": "/name"}, "direct_response": {"status": 200, "body": {"inline_string": name}}},
                {"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/there"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "echo"}},
            ]}]},
        }}],
    });
    if !domain.is_empty() {
        chain["filter_chain_match"] = json!({"server_names": [domain]});
    }
    chain
}

/// A cookie whose value has a name instead, if it is 64 bits in hexadecimal digits.
fn without_hash(cookie: &str) -> String {
    let parts = cookie.split_once("=\"").and_then(|(name, rest)| {
        let (value, rest) = rest.split_once('"')?;
        let is_hash = value.len() == 16 && value.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then_some((name, rest))
    });
    match parts {
        Some((name, rest)) => format!("{name}=<hash>{rest}"),
        None => cookie.to_owned(),
    }
}
