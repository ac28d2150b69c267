//! HTTP with JSON at a gateway, and servers of Java behind it that only speak RPC.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{
    ConfigFolder, Peers, Process, Script, eventually, free_port, get, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// A server of the store, with its jars.
fn store(folder: &ConfigFolder, jars: &Path, main: &str, port: u16) -> Script {
    let classes = folder.path("classes");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rpc/java/store");
    let mut compile = Command::new("javac");
    compile.arg("-nowarn").arg("-d").arg(&classes).arg("-cp");
    compile.arg(jars.join("*"));
    let files = ["Store", "Item", "Order", "StoreOf", main];
    compile.args(files.map(|file| sources.join(format!("{file}.java"))));
    let output = compile
        .output()
        .expect("javac, of the JDK that Maven runs on");
    assert!(output.status.success(), "{output:?}");
    // Servers ask how this machine is called, which not every machine can tell.
    let hosts = folder.write_beside("hosts", "127.0.0.1 localhost\n");
    let path = format!("{}:{}/*", classes.display(), jars.display());
    let mut command = Command::new("java");
    command
        .args(["--add-opens=java.base/java.lang=ALL-UNNAMED", "-Xmx192m"])
        .args(["--add-opens=java.base/java.math=ALL-UNNAMED"])
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg(format!("-Djdk.net.hosts.file={}", hosts.display()))
        .arg("-Ddubbo.network.interface.ignored=.*")
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        .args(["-cp", &path, &format!("store.{main}"), &port.to_string()]);
    Script::start("store", command, &folder.log("store.log"))
}

struct Gateway {
    _process: Process,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    async fn start(folder: &ConfigFolder, protocol: &str, host: u16) -> Self {
        let (listener, admin) = (free_port(), free_port());
        let mut text = include_str!("rpc/bridge.yaml").replace("{{protocol}}", protocol);
        for (name, port) in [
            ("admin", admin),
            ("listener", listener),
            ("host", host),
            ("refused", free_port()),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
        }
        let file = folder.write_beside("bootstrap.yaml", &text);
        let mut command = Command::new(WEFT);
        command.args(["proxy", "--until-stdin-closes", "--concurrency", "1", "-c"]);
        command.arg(file).env_remove("WEFT_LOG");
        let mut process = Process::start("weft", command, &folder.log("weft.log"));
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (listener, admin) = (at(listener), at(admin));
        eventually("weft is ready", Duration::from_mins(1), async || {
            if let Some(status) = process.ended() {
                panic!("weft ended: {status}\n{}", process.output());
            }
            let answer = get(admin, "/ready").await?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
        Self {
            _process: process,
            listener,
            admin,
        }
    }

    /// The status and the JSON of an answer.
    async fn ask(&self, head: &str, body: &str) -> (u16, Value) {
        ask(self.listener, head, body).await
    }

    async fn stat(&self, name: &str) -> u64 {
        let answer = get(self.admin, "/stats").await.expect("statistics");
        let value = answer.body.lines().find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            (own == name).then(|| value.trim().parse().ok())?
        });
        value.unwrap_or_default()
    }
}

/// `head` is the first line of a request, and further headers.
async fn ask(gateway: SocketAddr, head: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(gateway).await.expect("a connection");
    let (first, more) = head.split_once('\n').unwrap_or((head, ""));
    let mut lines = String::new();
    for line in more.lines() {
        lines += line.trim();
        lines += "\r\n";
    }
    let text = format!(
        "{first} HTTP/1.1\r\nhost: store.example\r\nconnection: close\r\n{lines}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(text.as_bytes())
        .await
        .expect("it is taken");
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
    read.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status.expect("a status"), body)
}

/// What every server of the store does, whatever it speaks; an enumeration has its own form.
async fn calls_by_names_are_answered(gateway: &Gateway, kind: impl Fn(&str) -> Value) {
    let call = |method: &str| format!("POST /rpc/store.Store/{method}\ntri-service-version: 1.2.0");
    let types = |types: &[&str], args: Value| json!({"types": types, "args": args}).to_string();
    let hello = types(&["java.lang.String"], json!(["wörld 😀"]));
    let answer = gateway.ask(&call("hello"), &hello).await;
    assert_eq!(answer, (200, json!("hello wörld 😀")));
    // Objects in objects, an enumeration, one of two methods of a name.
    let tea = json!({"name": "tea", "price": 2.5, "kind": kind("TEA"), "part": {"name": "leaf", "price": 1.0}});
    let body = types(&["store.Item", "int"], json!([tea, 3]));
    let (status, order) = gateway.ask(&call("order"), &body).await;
    assert_eq!(status, 200, "{order}");
    let item = &order["items"][0];
    assert_eq!(
        (&item["name"], &item["kind"]),
        (&json!("tea"), &kind("TEA")),
        "{order}"
    );
    assert_eq!(
        (&item["part"]["name"], &item["part"]["part"]),
        (&json!("leaf"), &Value::Null)
    );
    assert_eq!(order["counts"], json!({"tea": 3}));
    let body = types(
        &["java.util.List", "java.util.Map"],
        json!([[tea], {"tea": 5_000_000_000_i64}]),
    );
    let (status, order) = gateway.ask(&call("order"), &body).await;
    assert_eq!(
        (status, &order["counts"]["tea"]),
        (200, &json!(5_000_000_000_i64)),
        "{order}"
    );
    let body = types(&["java.math.BigDecimal", "long[]"], json!(["0.10", [1, 2]]));
    assert_eq!(
        gateway.ask(&call("total"), &body).await,
        (200, json!("0.30"))
    );
    let body = types(&["long"], json!([0]));
    let answer = gateway.ask(&call("at"), &body).await;
    assert_eq!(answer, (200, json!("1970-01-01T00:00:00.000Z")));
    assert_eq!(gateway.ask(&call("none"), "").await, (200, Value::Null));
    // 1 MB of UTF-8 there and back.
    let long = "ä😀".repeat(150_000);
    let body = types(&["java.lang.String"], json!([long]));
    let (status, text) = gateway.ask(&call("hello"), &body).await;
    assert_eq!(status, 200);
    assert!(text.as_str().is_some_and(|text| text.ends_with(&long)));
    // A mapping, whose arguments come from everywhere.
    let answer = gateway
        .ask("GET /total/0.25?count=1&count=3\nx-tag: blue", "")
        .await;
    assert_eq!(answer, (200, json!("1.00")));
    let answer = gateway.ask("GET /tags/x-tag\nx-tag: blue", "").await;
    assert_eq!(answer, (200, json!("blue")), "headers become attachments");
    // What goes wrong.
    let body = types(&["java.lang.String"], json!(["no such item"]));
    let (status, said) = gateway.ask(&call("fail"), &body).await;
    let error = &said["error"];
    assert_eq!(
        (status, &error["kind"]),
        (500, &json!("exception")),
        "{said}"
    );
    assert_eq!(error["class"], "java.lang.IllegalStateException", "{said}");
    assert_eq!(error["message"], "no such item", "{said}");
    let begun = Instant::now();
    let body = types(&["int"], json!([30_000]));
    let (status, said) = gateway.ask(&call("slow"), &body).await;
    assert_eq!(
        (status, &said["error"]["kind"]),
        (504, &json!("timeout")),
        "{said}"
    );
    assert!(begun.elapsed() < Duration::from_secs(6));
    let (status, said) = gateway
        .ask(&call("slow"), &types(&["int"], json!(["x"])))
        .await;
    assert_eq!(
        (status, &said["error"]["path"]),
        (400, &json!("args[0]")),
        "{said}"
    );
    let (status, said) = gateway.ask("POST /refused/store.Store/hello", &hello).await;
    assert_eq!(
        (status, &said["error"]["kind"]),
        (503, &json!("unavailable")),
        "{said}"
    );
    let (status, said) = gateway.ask(&call("nothing"), "[]").await;
    assert!(
        (500..=502).contains(&status),
        "a method that is not there: {said}"
    );
    assert_eq!(gateway.stat("cluster.host.upstream_cx_total").await, 1);
    assert_eq!(gateway.stat("cluster.host.upstream_rq_active").await, 0);
}

async fn dubbo(release: &str) {
    let folder = ConfigFolder::new();
    let jars: PathBuf = Peers::new().dubbo(release);
    let port = free_port();
    let mut server = store(&folder, &jars, "DubboStore", port);
    assert_eq!(server.answer().await, json!({"ready": true}));
    let gateway = Gateway::start(&folder, "dubbo", port).await;
    calls_by_names_are_answered(&gateway, |name| json!(name)).await;
    // Dubbo finds the only method of a name without its types.
    let call = |method: &str| format!("POST /rpc/store.Store/{method}\ntri-service-version: 1.2.0");
    let answer = gateway.ask(&call("hello"), "[\"you\"]").await;
    assert_eq!(answer, (200, json!("hello you")));
    let (status, said) = gateway.ask(&call("order"), "[{}, 1]").await;
    assert_eq!(status, 502, "there are two of that name: {said}");
    let message = said["error"]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("Not unique") && !message.contains('\n'),
        "{said}"
    );
    let answer = gateway
        .ask(
            "POST /rpc/store.Store/hello\ntri-service-version: 9.9.9",
            "[\"x\"]",
        )
        .await;
    let known = matches!(answer.0, 400 | 502);
    assert!(known, "a version that is not there: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_calls_dubbo_3() {
    let _turn = one_at_a_time();
    dubbo("3.2.14").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_calls_dubbo_2_7() {
    let _turn = one_at_a_time();
    dubbo("2.7.23").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_calls_sofa_rpc() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let jars = Peers::new().sofa_rpc("5.13.2");
    let port = free_port();
    let mut server = store(&folder, &jars, "SofaStore", port);
    assert_eq!(server.answer().await, json!({"ready": true}));
    let gateway = Gateway::start(&folder, "bolt", port).await;
    calls_by_names_are_answered(&gateway, |name| json!({ "name": name })).await;
}
