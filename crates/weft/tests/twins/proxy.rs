//! Envoy and Weft with the same bootstrap, written for one test. Must never know what is compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{ConfigFolder, Peers, Process, eventually, free_port, get};

/// The longest that anything here may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// One of the two.
#[derive(Debug)]
pub(crate) struct Proxy {
    process: Process,
    pub(crate) port: u16,
    admin: SocketAddr,
    log: PathBuf,
}

impl Proxy {
    /// Both, with this text as bootstrap, in which `{{port}}` is the listener's port, `{{log}}` the
    /// file of access logs, `{{hcm}}` and others are types, and what `words` say stands for itself.
    pub(crate) async fn both(
        folder: &ConfigFolder,
        text: &str,
        words: &[(&str, String)],
    ) -> [Self; 2] {
        let mut envoy = Command::new(Peers::new().envoy());
        envoy.args([
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "50",
            "-l",
            "warning",
        ]);
        let mut weft = Command::new(env!("CARGO_BIN_EXE_weft"));
        weft.args(["proxy", "--until-stdin-closes"]);
        weft.env_remove("WEFT_LOG").env_remove("RUST_LOG");
        [
            Self::start("envoy", envoy, folder, (text, words)).await,
            Self::start("weft", weft, folder, (text, words)).await,
        ]
    }

    async fn start(
        name: &str,
        mut command: Command,
        folder: &ConfigFolder,
        (text, words): (&str, &[(&str, String)]),
    ) -> Self {
        let (port, admin) = (free_port(), free_port());
        let log = folder.log(&format!("access-{name}.log"));
        let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
        let mut all = vec![
            ("port", port.to_string()),
            ("log", format!("{{name: log, typed_config: {{\"@type\": {}, path: {}, log_format: {{text_format_source: {{inline_string: \"{}\"}}}}}}}}",
                kind("access_loggers.file.v3.FileAccessLog"), log.display(),
                "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_HOST% %BYTES_RECEIVED% %BYTES_SENT%\\n")),
            ("hcm", kind("filters.network.http_connection_manager.v3.HttpConnectionManager")),
            ("tcp", kind("filters.network.tcp_proxy.v3.TcpProxy")),
            ("router", format!("{{name: router, typed_config: {{\"@type\": {}}}}}", kind("filters.http.router.v3.Router"))),
            ("h2", "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}".to_owned()),
        ];
        all.extend(words.iter().cloned());
        let mut text = format!(
            "node: {{id: twin, cluster: twins}}\n\
             admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n{text}"
        );
        for (word, meaning) in &all {
            text = text.replace(&format!("{{{{{word}}}}}"), meaning);
        }
        let file = folder.write_beside(&format!("{name}.yaml"), &text);
        command.arg("-c").arg(file).args(["--concurrency", "1"]);
        let output = folder.log(&format!("{name}.log"));
        let mut process = if name == "envoy" {
            Process::start_bound(name, &command, &output)
        } else {
            Process::start(name, command, &output)
        };
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, admin));
        eventually(
            &format!("{name} is ready"),
            Duration::from_mins(1),
            async || {
                if let Some(status) = process.ended() {
                    panic!("{name} ended: {status}\n{}", process.output());
                }
                let answer = get(admin, "/ready").await?;
                (answer.status == 200).then_some(()).ok_or(answer.body)
            },
        )
        .await;
        Self {
            process,
            port,
            admin,
            log,
        }
    }

    /// Sends these parts, with a moment between two, and says what came until the end, silence, or
    /// `enough` bytes; the proxy's own name and times left out.
    pub(crate) async fn say(&self, parts: &[&[u8]]) -> String {
        let address = (Ipv4Addr::LOCALHOST, self.port);
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // It may have closed already, as is seen below.
            let _ = stream.write_all(part).await;
        }
        let mut bytes = Vec::new();
        let reading = async {
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(got) => bytes.extend_from_slice(&buffer[..got]),
                }
            }
        };
        let end = match tokio::time::timeout(SILENCE, reading).await {
            Ok(()) => "closed",
            Err(_) => "open",
        };
        format!("{}\n<{end}>", tidy(&bytes))
    }

    /// The values of statistics whose names contain one of these, unless they are 0.
    pub(crate) async fn stats(&self, names: &[&str]) -> BTreeMap<String, String> {
        let text = get(self.admin, "/stats").await.expect("statistics").body;
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let lines =
            lines.filter(|(name, value)| *value != "0" && names.iter().any(|n| name.contains(n)));
        lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Lines of the access log, when there are so many.
    pub(crate) async fn logged(&self, lines: usize) -> Vec<String> {
        for _ in 0..60 {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            if text.lines().count() >= lines {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "{lines} lines in {}: {}",
            self.log.display(),
            self.process.output()
        );
    }
}

/// Answers without what differs from run to run, headers in order.
fn tidy(bytes: &[u8]) -> String {
    let text = without_ports(&String::from_utf8_lossy(bytes));
    let mut answers = text.split("HTTP/1.1 ");
    let mut out = answers.next().unwrap_or_default().to_owned();
    for answer in answers {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let mut lines = head.split("\r\n");
        let _ = write!(out, "HTTP/1.1 {}", lines.next().unwrap_or_default());
        let varies = ["date:", "x-envoy-upstream-service-time:"];
        let mut headers: Vec<&str> = lines
            .filter(|line| !varies.iter().any(|name| line.starts_with(name)))
            .collect();
        headers.sort_unstable();
        for header in headers {
            let _ = write!(out, "\n{header}");
        }
        let _ = write!(out, "\n\n{body}\n");
    }
    out
}

/// Ports of this machine have a name instead.
fn without_ports(text: &str) -> String {
    const LOCAL: &str = "127.0.0.1:";
    let mut parts = text.split(LOCAL);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let _ = write!(out, "{LOCAL}<port>{rest}");
    }
    out
}

/// A request after which the connection closes.
pub(crate) const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";

/// Runs the same with both and compares what it gives.
pub(crate) async fn same(what: &str, scene: impl AsyncFn(usize) -> String) {
    let (envoy, weft) = (scene(0).await, scene(1).await);
    assert_eq!(envoy, weft, "{what}: Envoy (left) and Weft differ");
}
