//! One look at a workload after another, and telling what they come to. Never decides what a row of
//! them means; [`probe`](super::probe) does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tonic_prost::ProstCodec;
use weft_net::tls::{ClientSpec, client_config, connect};
use weft_net::{Peeked, Stream};
use weft_proto::pb::google::protobuf::{Int32Value, StringValue};
use weft_xds::client::WorkloadHealth;
use weft_xds::client::grpc::{ConnectError, connect_over, of_status};

use crate::probe::{Method, Probe, Verdict};

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;
/// What Istio's agent calls itself.
const USER_AGENT: &str = "istio-probe/1.0";
/// How often it is looked whether a command has ended.
const EXIT_LOOK: Duration = Duration::from_millis(10);
/// Longest status line that is read.
const STATUS_LINE: usize = 256;
/// Looks at the workload itself come from here: the rules that capture a workload's traffic (those of
/// Istio, too) let it alone.
const OURSELVES: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Looks at a workload for as long as somebody listens. `itself`: its address.
async fn watch(probe: Probe, itself: Option<IpAddr>, tell: watch::Sender<Option<WorkloadHealth>>) {
    tokio::time::sleep(probe.initial_delay).await;
    let mut verdict = Verdict::new(&probe);
    let mut turn = tokio::time::interval(probe.period);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = tell.closed() => return,
        }
        let outcome = look(&probe, itself).await;
        match verdict.take(outcome.is_ok()) {
            Some(true) => {
                tracing::info!("the workload serves");
                tell.send_replace(Some(WorkloadHealth::Healthy));
            }
            Some(false) => {
                let reason = outcome.err().unwrap_or_default();
                tracing::warn!(reason, "the workload does not serve");
                tell.send_replace(Some(WorkloadHealth::Unhealthy(reason)));
            }
            None => {}
        }
    }
}

/// One look; the error says what went wrong.
async fn look(probe: &Probe, itself: Option<IpAddr>) -> Result<(), String> {
    let one = async {
        match &probe.method {
            Method::Tcp { host, port } => tcp(host.as_deref(), *port, itself).await.map(drop),
            Method::Exec(command) => exec(command).await,
            Method::Grpc { port, service } => grpc(*port, service, itself, probe.timeout).await,
            Method::Http { .. } => http(&probe.method, itself, probe.timeout).await,
        }
    };
    match tokio::time::timeout(probe.timeout, one).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no outcome within {:?}", probe.timeout)),
    }
}

async fn tcp(host: Option<&str>, port: u16, itself: Option<IpAddr>) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("connecting to port {port}: {error}");
    match (host, itself) {
        (Some(host), _) => TcpStream::connect((host, port)).await.map_err(failed),
        (None, None) => TcpStream::connect(("localhost", port))
            .await
            .map_err(failed),
        (None, Some(IpAddr::V4(address))) => {
            let socket = TcpSocket::new_v4().map_err(failed)?;
            socket
                .bind(SocketAddr::from((OURSELVES, 0)))
                .map_err(failed)?;
            let address = SocketAddr::from((address, port));
            socket.connect(address).await.map_err(failed)
        }
        (None, Some(address)) => TcpStream::connect((address, port)).await.map_err(failed),
    }
}

async fn exec(command: &[String]) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("there is no command")?;
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut running = Running(child);
    let status = loop {
        if let Some(status) = running.0.try_wait().map_err(failed)? {
            break status;
        }
        tokio::time::sleep(EXIT_LOOK).await;
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("{program}: {status}"))
}

/// A command that does not outlive its look, nor what it has started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that has ended the number may be another's by now.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

async fn http(method: &Method, itself: Option<IpAddr>, time: Duration) -> Result<(), String> {
    let Method::Http {
        host,
        port,
        path,
        tls,
        headers,
    } = method
    else {
        return Err("this is no HTTP probe".to_owned());
    };
    let tcp = tcp(host.as_deref(), *port, itself).await?;
    let mut stream: Stream = if *tls {
        let config = client_config(&ClientSpec::default()).map_err(|error| error.to_string())?;
        let tls = connect(tcp, config, None, Some(time)).await;
        tls.map_err(|error| error.to_string())?
    } else {
        Stream::plain(Peeked::from(tcp))
    };
    let authority = match (host, itself) {
        (Some(host), _) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), _) => format!("{host}:{port}"),
        (None, Some(address)) => SocketAddr::new(address, *port).to_string(),
        (None, None) => format!("localhost:{port}"),
    };
    let request = request(path, &authority, headers);
    let failed = |error: std::io::Error| format!("port {port}: {error}");
    stream.write_all(&request).await.map_err(failed)?;
    let mut line = Vec::with_capacity(STATUS_LINE);
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        let mut part = [0; STATUS_LINE];
        let read = stream.read(&mut part).await.map_err(failed)?;
        if read == 0 {
            break;
        }
        line.extend_from_slice(part.get(..read).unwrap_or_default());
    }
    match status_of(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path} is answered with {status}")),
        None => Err(format!("port {port} does not speak HTTP/1")),
    }
}

/// A request of HTTP/1.1 whose answer ends the connection.
fn request(
    path: &str,
    authority: &str,
    headers: &[(http::HeaderName, http::HeaderValue)],
) -> Vec<u8> {
    let mut request = format!("GET {path} HTTP/1.1\r\n").into_bytes();
    let mut add = |name: &str, value: &[u8]| {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    };
    let has = |name: http::HeaderName| headers.iter().any(|(other, _)| *other == name);
    if !has(http::header::HOST) {
        add("host", authority.as_bytes());
    }
    if !has(http::header::USER_AGENT) {
        add("user-agent", USER_AGENT.as_bytes());
    }
    add("connection", b"close");
    for (name, value) in headers {
        if *name != http::header::CONNECTION {
            add(name.as_str(), value.as_bytes());
        }
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// The status of `HTTP/1.1 200 OK`.
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.strip_prefix(b"HTTP/1.")?;
    let digits = line.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The messages of `grpc.health.v1` have one field each, a name and a number: on the wire they are
/// those of protobuf's wrappers.
async fn grpc(
    port: u16,
    service: &str,
    itself: Option<IpAddr>,
    time: Duration,
) -> Result<(), String> {
    let connector = connect_over(
        vec![format!("http://localhost:{port}")],
        move |_| async move {
            let stream = tcp(None, port, itself).await.map_err(ConnectError::from)?;
            Ok(Stream::plain(Peeked::from(stream)))
        },
    );
    let channel = connector(0).await.map_err(|error| error.to_string())?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let mut question = tonic::Request::new(StringValue {
        value: service.to_owned(),
    });
    question.set_timeout(time);
    let codec = ProstCodec::<StringValue, Int32Value>::default();
    let answer = client.unary(question, PathAndQuery::from_static(CHECK), codec);
    let answer = answer.await.map_err(|status| of_status(&status))?;
    match answer.into_inner().value {
        SERVING => Ok(()),
        other => Err(format!("the server says {other}, which is not SERVING")),
    }
}

/// Starts to look when `begin` comes, and gives what follows; nothing before the first verdict.
pub fn start(
    probe: Probe,
    itself: Option<IpAddr>,
    begin: Arc<tokio::sync::Notify>,
) -> watch::Receiver<Option<WorkloadHealth>> {
    let (tell, health) = watch::channel(None);
    tokio::spawn(async move {
        begin.notified().await;
        watch(probe, itself, tell).await;
    });
    health
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
