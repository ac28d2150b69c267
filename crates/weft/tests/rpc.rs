//! Real RPC clients and servers with the proxy between them: every call arrives where its route leads,
//! unchanged, and whoever gets no answer from a host gets the protocol's own error at once.

#[path = "rpc/tars.rs"]
mod tars;
#[path = "rpc/thrift.rs"]
mod thrift;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{
    ConfigFolder, Peers, Process, Script, eventually, free_port, get, one_at_a_time,
};

/// Of calls that the proxy answers itself: far less than what the client would wait.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Proxy {
    process: Process,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    async fn start(folder: &ConfigFolder, codec: &str, hosts: (u16, u16)) -> Self {
        let (listener, admin) = (free_port(), free_port());
        let mut text = include_str!("rpc/bootstrap.yaml").replace("{{codec}}", codec);
        for (name, port) in [
            ("admin", admin),
            ("listener", listener),
            ("one", hosts.0),
            ("two", hosts.1),
            ("refused", free_port()),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
        }
        let file = folder.write_beside("bootstrap.yaml", &text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(["proxy", "--until-stdin-closes", "--concurrency", "2", "-c"]);
        command.arg(file).env_remove("WEFT_LOG");
        let process = Process::start("weft", command, &folder.log("weft.log"));
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut proxy = Self {
            process,
            listener: at(listener),
            admin: at(admin),
        };
        eventually("weft is ready", Duration::from_mins(1), async || {
            if let Some(status) = proxy.process.ended() {
                panic!("weft ended: {status}\n{}", proxy.process.output());
            }
            let answer = get(proxy.admin, "/ready").await?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
        proxy
    }

    async fn stats(&self) -> BTreeMap<String, u64> {
        let answer = get(self.admin, "/stats").await.expect("statistics");
        let parse = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        answer.body.lines().filter_map(parse).collect()
    }

    async fn stat(&self, name: &str) -> u64 {
        let stats = self.stats().await;
        stats.get(name).copied().unwrap_or_default()
    }

    /// Waits until a statistic of the connection manager has a value.
    async fn reaches(&self, name: &str, wanted: u64) {
        let name = format!("meta_protocol.shop.cart.{name}");
        eventually(&name, Duration::from_secs(20), async || {
            let value = self.stat(&name).await;
            let done = value >= wanted;
            done.then_some(()).ok_or_else(|| value.to_string())
        })
        .await;
    }
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/rpc")
        .join(name)
}

fn node(modules: &PathBuf, file: &str, arguments: &[String]) -> Command {
    let mut command = Command::new("node");
    command.arg(script(file)).args(arguments);
    command.env("NODE_PATH", modules);
    command
}

struct Bolt {
    modules: PathBuf,
    folder: ConfigFolder,
    one: Script,
    _two: Script,
    proxy: Proxy,
}

impl Bolt {
    async fn start() -> Self {
        let modules = Peers::new().rpc_node_modules();
        let folder = ConfigFolder::new();
        let ports = (free_port(), free_port());
        let mut servers = Vec::new();
        for (name, port) in [("one", ports.0), ("two", ports.1)] {
            let command = node(
                &modules,
                "bolt_server.js",
                &[port.to_string(), name.to_owned()],
            );
            let mut server = Script::start(name, command, &folder.log(&format!("{name}.log")));
            assert_eq!(server.answer().await, json!({"ready": true}));
            servers.push(server);
        }
        let proxy = Proxy::start(&folder, "bolt", ports).await;
        let two = servers.pop().expect("two servers");
        Self {
            modules,
            folder,
            one: servers.pop().expect("two servers"),
            _two: two,
            proxy,
        }
    }

    fn client(&self, name: &str, version: u8, crc: bool) -> Script {
        let crc = if crc { "crc" } else { "plain" };
        let port = self.proxy.listener.port().to_string();
        let arguments = [port, version.to_string(), crc.to_owned()];
        let command = node(&self.modules, "bolt_client.js", &arguments);
        Script::start(name, command, &self.folder.log(&format!("{name}.log")))
    }
}

async fn ask(client: &mut Script, command: Value) -> Value {
    client.ask(&command.to_string()).await
}

/// A call that has to fail, in time.
async fn refused(client: &mut Script, command: Value) {
    let begun = Instant::now();
    let answer = ask(client, command.clone()).await;
    assert!(answer["error"].is_string(), "{command}: {answer}");
    assert_ne!(answer["error"], "closed", "{command}");
    assert!(
        begun.elapsed() < AT_ONCE,
        "{command}: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bolt_calls_of_all_forms_pass_unchanged() {
    let _turn = one_at_a_time();
    let bolt = Bolt::start().await;
    for (number, (version, crc)) in [(1, false), (2, false), (2, true)].into_iter().enumerate() {
        let mut client = bolt.client(&format!("client{number}"), version, crc);
        let answer = ask(
            &mut client,
            json!({"op": "call", "method": "fail", "args": ["no such item"]}),
        )
        .await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("no such item"), "{answer}");
        // 1 MB of UTF-8.
        let answer = ask(&mut client, json!({"op": "payload", "args": [500_000]})).await;
        assert_eq!(answer["same"], true, "{answer}");
        let answer = ask(&mut client, json!({"op": "heartbeat"})).await;
        assert_eq!(answer["alive"], true);
        let answer = ask(
            &mut client,
            json!({"op": "oneway", "method": "note", "args": ["x"]}),
        )
        .await;
        assert_eq!(answer["sent"], true);
        let wanted = number as u64 + 1;
        eventually("the note arrives", AT_ONCE * 5, async || {
            let answer = ask(&mut client, json!({"op": "call", "method": "notes"})).await;
            let done = answer["value"] == wanted;
            done.then_some(()).ok_or_else(|| answer.to_string())
        })
        .await;
    }
    let stats = bolt.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!((of("request_oneway"), of("request_event")), (3, 3));
    assert_eq!((of("request_active"), of("local_response_error")), (0, 0));
    assert_eq!(stats["cluster.one.upstream_rq_active"], 0);
    // Hosts are asked whether they are alive, and are.
    bolt.proxy.reaches("upstream_heartbeat", 2).await;
    let failed = "meta_protocol.shop.cart.upstream_heartbeat_failed";
    assert_eq!(bolt.proxy.stat(failed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bolt_calls_of_one_connection_are_split_by_weight() {
    let _turn = one_at_a_time();
    let bolt = Bolt::start().await;
    let mut client = bolt.client("client", 2, true);
    let many = json!({"op": "many", "method": "where", "args": ["x"], "times": 10_000});
    let answer = ask(&mut client, many).await;
    let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
    assert_eq!(of("one") + of("two"), 10_000, "{answer}");
    assert!((800..=1200).contains(&of("two")), "{answer}");
    assert_eq!(answer["connections"], 1);
    // One connection carries what a worker has for a host.
    let stats = bolt.proxy.stats().await;
    assert_eq!(stats["cluster.one.upstream_cx_total"], 1);
    assert_eq!(stats["cluster.two.upstream_cx_total"], 1);
    assert_eq!(stats["cluster.two.upstream_rq_total"], of("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bolt_calls_that_cannot_be_answered_get_an_error_at_once() {
    let _turn = one_at_a_time();
    let mut bolt = Bolt::start().await;
    let mut client = bolt.client("client", 2, true);
    let call = |service: &str, method: &str| json!({"op": "call", "service": service, "method": method, "args": ["x"]});
    refused(&mut client, call("shop.Other:1.0", "where")).await;
    refused(&mut client, call("shop.Cart:2.0", "where")).await;
    refused(&mut client, call("shop.Cart:3.0", "where")).await;
    refused(&mut client, call("shop.Cart:4.0", "where")).await;
    let slow = json!({"op": "call", "method": "slow", "args": [30_000], "timeout": 300});
    refused(&mut client, slow).await;
    let stats = bolt.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!((of("request_no_route"), of("request_timeout")), (2, 1));
    assert_eq!(of("local_response_error"), 5);
    assert_eq!(stats["cluster.empty.upstream_cx_none_healthy"], 1);
    assert_eq!(stats["cluster.refused.upstream_cx_connect_fail"], 1);
    assert_eq!(stats["cluster.one.upstream_rq_timeout"], 1);
    // A host that goes away.
    let slow = json!({"op": "call", "method": "slow", "args": [30_000], "timeout": 60_000});
    let begun = Instant::now();
    let asking = ask(&mut client, slow);
    let leaving = async {
        let active = "meta_protocol.shop.cart.request_active";
        eventually("the call waits", AT_ONCE * 5, async || {
            let waits = bolt.proxy.stat(active).await;
            (waits == 1).then_some(()).ok_or_else(|| waits.to_string())
        })
        .await;
        bolt.one = Script::start("nobody", Command::new("true"), &bolt.folder.log("nobody"));
    };
    let (answer, ()) = tokio::join!(asking, leaving);
    assert!(answer["error"].is_string(), "{answer}");
    assert!(begun.elapsed() < AT_ONCE * 5);
    // The connection of the client goes on.
    refused(&mut client, json!({"op": "call", "method": "notes"})).await;
    assert_eq!(bolt.proxy.stat("meta_protocol.shop.cart.cx_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_bolt_ends_its_own_connection_alone() {
    let _turn = one_at_a_time();
    let bolt = Bolt::start().await;
    let mut client = bolt.client("client", 1, false);
    let mut wrong_sum = vec![2, 2, 1, 0, 1, 1, 0, 0, 0, 7, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    wrong_sum.extend([0; 8]);
    let mut lying = vec![1, 1, 0, 1, 1, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    lying.extend(0x7fff_ffff_u32.to_be_bytes());
    for (number, bytes) in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), wrong_sum, lying]
        .into_iter()
        .enumerate()
    {
        let mut socket = TcpStream::connect(bolt.proxy.listener)
            .await
            .expect("a connection");
        socket.write_all(&bytes).await.expect("bytes are taken");
        let mut rest = Vec::new();
        let read = socket.read_to_end(&mut rest);
        let read = tokio::time::timeout(AT_ONCE, read).await;
        assert!(read.is_ok() && rest.is_empty(), "{number}");
        let answer = ask(&mut client, json!({"op": "call", "method": "notes"})).await;
        assert_eq!(answer["value"], 0, "{answer}");
    }
    bolt.proxy.reaches("request_decoding_error", 3).await;
}
