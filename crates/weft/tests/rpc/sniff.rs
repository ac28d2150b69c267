//! One port for clients of several protocols, told by the first bytes of their connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{
    ConfigFolder, Peers, Process, Script, eventually, free_port, get, one_at_a_time,
};

use super::java::Java;

/// `listener_filters_timeout`, and something for a machine that has other work.
const TIME_LIMIT: Duration = Duration::from_secs(10);

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/rpc")
        .join(name)
}

fn chain(codec: &str) -> String {
    format!(
        "{{filter_chain_match: {{application_protocols: [{codec}]}}, filters: [{{name: rpc, typed_config: {{\
         '@type': type.googleapis.com/aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy, stat_prefix: {codec}, \
         protocol: {{name: shop, codec: {{name: aeraki.meta_protocol.codec.{codec}}}}}, \
         route_config: {{name: {codec}, routes: [{{match: {{metadata: [{{name: method, present_match: true}}]}}, \
         route: {{cluster: {codec}}}}}]}}, \
         meta_protocol_filters: [{{name: aeraki.meta_protocol.filters.router}}]}}}}]}}"
    )
}

fn cluster(codec: &str, port: u16) -> String {
    format!(
        "{{name: {codec}, type: STATIC, load_assignment: {{cluster_name: {codec}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    )
}

/// What a client of Node's own gets from a port in HTTP/1 or HTTP/2.
fn http(version: u8, port: u16) -> String {
    let program = match version {
        1 => {
            "require('http').get({port: +process.argv[1], host: '127.0.0.1', agent: false}, r => r.pipe(process.stdout))"
        }
        _ => {
            "const s = require('http2').connect('http://127.0.0.1:' + process.argv[1]); const r = s.request({':path': '/'}); r.pipe(process.stdout); r.on('end', () => s.close())"
        }
    };
    let mut command = Command::new("node");
    let output = command.args(["-e", program, &port.to_string()]).output();
    let output = output.expect("node runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// How long a connection that begins so stays open, if nothing is answered.
async fn closed_after(listener: SocketAddr, begin: &[u8]) -> Duration {
    let mut socket = TcpStream::connect(listener).await.expect("a connection");
    let begun = Instant::now();
    socket.write_all(begin).await.expect("bytes are taken");
    let mut rest = Vec::new();
    let read = tokio::time::timeout(TIME_LIMIT * 3, socket.read_to_end(&mut rest)).await;
    assert!(read.is_ok() && rest.is_empty(), "{begin:?}: {rest:?}");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_several_protocols_share_a_port() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let (listener, admin) = (free_port(), free_port());
    let mut text = include_str!("sniff.yaml").to_owned();
    for (name, port) in [("admin", admin), ("listener", listener)] {
        text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
    }
    let ports = [free_port(), free_port(), free_port()];
    for (codec, port) in ["bolt", "dubbo", "thrift"].into_iter().zip(ports) {
        text = text.replace(&format!("{{{{{codec} chain}}}}"), &chain(codec));
        text = text.replace(&format!("{{{{{codec} cluster}}}}"), &cluster(codec, port));
    }
    let file = folder.write_beside("sniff.yaml", &text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["proxy", "--until-stdin-closes", "--concurrency", "2", "-c"]);
    command.arg(file).env_remove("WEFT_LOG");
    let mut proxy = Process::start("weft", command, &folder.log("weft.log"));
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually("weft is ready", Duration::from_mins(1), async || {
        if let Some(status) = proxy.ended() {
            panic!("weft ended: {status}\n{}", proxy.output());
        }
        let answer = get(at(admin), "/ready").await?;
        (answer.status == 200).then_some(()).ok_or(answer.body)
    })
    .await;

    let modules = Peers::new().rpc_node_modules();
    let python = Peers::new().python_with_thrift();
    let java = Java::dubbo(&folder, "3.2.14");
    let node = |file: &str, arguments: &[&str]| {
        let mut command = Command::new("node");
        command.arg(script(file)).args(arguments);
        command.env("NODE_PATH", &modules);
        command
    };
    let python = |file: &str, arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(script(file)).args(arguments);
        command
    };
    let start =
        |name: &str, command| Script::start(name, command, &folder.log(&format!("{name}.log")));
    let [bolt, dubbo, thrift] = ports.map(|port| port.to_string());
    let mut servers = [
        start("bolt-server", node("bolt_server.js", &[&bolt, "bolt"])),
        java.start(
            &folder,
            "dubbo-server",
            &["provider", &dubbo, "dubbo", "hessian2"],
        ),
        start(
            "thrift-server",
            python("thrift_server.py", &[&thrift, "thrift", "auto"]),
        ),
    ];
    for server in &mut servers {
        assert_eq!(server.answer().await, json!({"ready": true}));
    }

    let port = listener.to_string();
    let mut bolt = start("bolt", node("bolt_client.js", &[&port, "2", "crc"]));
    let mut old_bolt = start("old-bolt", node("bolt_client.js", &[&port, "1", "plain"]));
    let mut thrift = start(
        "thrift",
        python("thrift_client.py", &[&port, "framed", "strict"]),
    );
    let mut compact = start(
        "compact",
        python("thrift_client.py", &[&port, "unframed", "compact"]),
    );
    let mut dubbo = java.start(&folder, "dubbo", &["consumer", &port, "hessian2"]);
    assert_eq!(dubbo.answer().await, json!({"ready": true}));
    for _ in 0..3 {
        let call = json!({"op": "call", "method": "where", "args": ["x"]}).to_string();
        for client in [&mut bolt, &mut old_bolt] {
            assert_eq!(client.ask(&call).await["value"], "bolt");
        }
        let call = json!({"op": "call", "method": "where"}).to_string();
        for client in [&mut thrift, &mut compact] {
            assert_eq!(client.ask(&call).await["value"], "thrift");
        }
        assert_eq!(dubbo.ask("where 10").await["seen"]["dubbo"], 10);
        assert_eq!(http(1, listener), "HTTP/1");
        assert_eq!(http(2, listener), "HTTP/2");
    }

    // What is none of them has no chain, and what says too little is not waited for.
    assert!(closed_after(at(listener), b"\x7fELF").await < Duration::from_secs(2));
    for begin in [&b""[..], b"\xda", b"\x02\x01", b"GE"] {
        let after = closed_after(at(listener), begin).await;
        let limit = Duration::from_secs(1)..TIME_LIMIT;
        assert!(limit.contains(&after), "{begin:?}: {after:?}");
    }
    assert_counted(at(admin)).await;
}

async fn assert_counted(admin: SocketAddr) {
    let answer = get(admin, "/stats").await.expect("statistics");
    let stat = |name: &str| {
        let mut lines = answer.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.and_then(|value| value.trim().parse::<u64>().ok())
    };
    for (name, wanted) in [
        ("bolt_found", 2),
        ("dubbo_found", 1),
        ("thrift_found", 2),
        ("tars_found", 0),
        // Six requests, and the one that is nothing.
        ("not_found", 7),
        ("timeout", 4),
    ] {
        let found = stat(&format!("rpc_inspector.{name}"));
        assert_eq!(found, Some(wanted), "{name}");
    }
}
