//! Calls that get no answer from a host: each protocol's own client sees an error that it understands, at once.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_testkit::{Dataplane, Peers, Script, eventually, free_port, one_at_a_time};

use super::java::Java;
use super::mesh::RpcMesh;
use super::peers::error_of;
use super::{SOON, in_force, script};

/// Far less than what clients would wait.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What calls of a tag come to, in the numbers of the protocol; 0 where a client does not show them.
struct Numbers {
    no_route: i64,
    no_host: i64,
    overload: i64,
    denied: i64,
    timeout: i64,
}

/// How a client is told to call a method with a tag.
type Line = fn(method: &str, tag: &str) -> Vec<String>;

struct Errors {
    mesh: RpcMesh,
    front: Dataplane,
    server: Dataplane,
    _app: Script,
}

impl Errors {
    async fn start(port_name: &str, app: impl AsyncFnOnce(&RpcMesh, u16) -> Script) -> Self {
        let mesh = RpcMesh::start(port_name).await;
        mesh.by_tag();
        let port = free_port();
        let app = app(&mesh, port).await;
        let server = mesh.server(1, port).await;
        let front = mesh.client().await;
        in_force(&server, "ns[shop]-policy[tag]-rule[0]").await;
        in_force(&server, "meta_protocol.filters.local_ratelimit").await;
        Self {
            mesh,
            front,
            server,
            _app: app,
        }
    }

    /// Every failure, as a client sees it. `holder` is another one, whose call takes the only place.
    async fn are_seen(
        &self,
        client: &mut Script,
        holder: &mut Script,
        line: Line,
        numbers: &Numbers,
    ) {
        eventually("a call passes", SOON, async || {
            let answer = call(client, line("where", "fine")).await;
            error_of(&answer).map_or(Ok(()), |error| Err(error.to_owned()))
        })
        .await;
        let fine = call(client, line("where", "limited")).await;
        assert_eq!(error_of(&fine), None, "the one that the limit allows");
        for (tag, method, number) in [
            ("nowhere", "where", numbers.no_route),
            ("lost", "where", numbers.no_host),
            ("limited", "where", numbers.overload),
            ("denied", "where", numbers.denied),
            ("slow", "slow", numbers.timeout),
        ] {
            failed(client, line(method, tag), number).await;
            let answer = call(client, line("where", "fine")).await;
            assert_eq!(error_of(&answer), None, "after {tag}: {answer}");
        }
        // One call of the subset waits for its host, and the breaker lets no other in.
        let held = async {
            let mut answer = Value::Null;
            for line in line("slow", "busy") {
                answer = holder.ask(&line).await;
            }
            answer
        };
        let others = async {
            let active = self.mesh.of_subset("few", "upstream_rq_active");
            eventually("the place is taken", SOON, async || {
                let active = self.front.stats().await.get(&active);
                (active == 1)
                    .then_some(())
                    .ok_or_else(|| active.to_string())
            })
            .await;
            failed(client, line("where", "busy"), numbers.overload).await;
        };
        let (held, ()) = tokio::join!(held, others);
        assert_eq!(error_of(&held), None, "{held}");
        let stats = self.front.stats().await;
        let ending =
            |stats: &weft_testkit::Stats, name: &str| -> u64 { stats.ending(name).values().sum() };
        assert_eq!(ending(&stats, ".request_no_route"), 1);
        assert_eq!(ending(&stats, ".request_timeout"), 1);
        assert_eq!(ending(&stats, ".request_active"), 0);
        let stats = self.server.stats().await;
        assert_eq!(ending(&stats, ".request_denied"), 1);
        assert_eq!(ending(&stats, ".local_rate_limit.rate_limited"), 1);
    }
}

/// Tells it all lines but the last, and gives the answer to that.
async fn call(client: &mut Script, lines: Vec<String>) -> Value {
    let mut answer = Value::Null;
    for line in lines {
        answer = client.ask(&line).await;
    }
    answer
}

async fn failed(client: &mut Script, lines: Vec<String>, number: i64) {
    let (shown, begun) = (lines.join("; "), Instant::now());
    let answer = call(client, lines).await;
    assert!(error_of(&answer).is_some(), "{shown}: {answer}");
    assert_ne!(answer["error"], "closed", "{shown}");
    assert!(begun.elapsed() < AT_ONCE, "{shown}: {:?}", begun.elapsed());
    if number != 0 {
        let seen = answer.get("type").unwrap_or(&answer["code"]);
        assert_eq!(seen, &json!(number), "{shown}: {answer}");
    }
}

fn start(mesh: &RpcMesh, name: &str, command: Command) -> Script {
    Script::start(name, command, &mesh.folder.log(&format!("{name}.log")))
}

async fn ready(mesh: &RpcMesh, command: Command) -> Script {
    let mut app = start(mesh, "one", command);
    assert_eq!(app.answer().await, json!({"ready": true}));
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_dubbo_sees_its_own_errors_at_once() {
    let _turn = one_at_a_time();
    let mut java = None;
    let errors = Errors::start(
        "tcp-metaprotocol-dubbo-cart",
        async |mesh: &RpcMesh, port: u16| {
            let java = java.insert(Java::dubbo(&mesh.folder, "3.2.14"));
            let arguments = ["provider", &port.to_string(), "one", "hessian2"];
            java.ready(&mesh.folder, "one", &arguments).await
        },
    )
    .await;
    let java = java.expect("the server's");
    let folder = &errors.mesh.folder;
    let port = errors.mesh.port.to_string();
    let arguments = ["consumer", &*port, "hessian2"];
    let (mut client, mut holder) = tokio::join!(
        java.ready(folder, "client", &arguments),
        java.ready(folder, "holder", &arguments)
    );
    let line: Line = |method, tag| {
        let argument = if method == "slow" { 3000 } else { 1 };
        vec![format!("tag {tag}"), format!("{method} {argument}")]
    };
    // Its exceptions have the status in their text.
    let numbers = Numbers {
        no_route: 0,
        no_host: 0,
        overload: 0,
        denied: 0,
        timeout: 0,
    };
    errors
        .are_seen(&mut client, &mut holder, line, &numbers)
        .await;
}

fn python(program: &Path, file: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(super::programs().join(file)).args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_thrift_sees_its_own_errors_at_once() {
    let _turn = one_at_a_time();
    let program = Peers::new().python_with_thrift();
    let errors = Errors::start(
        "tcp-metaprotocol-thrift-cart",
        async |mesh: &RpcMesh, port: u16| {
            let arguments = [&*port.to_string(), "one", "auto"];
            ready(mesh, python(&program, "thrift_server.py", &arguments)).await
        },
    )
    .await;
    let mesh = &errors.mesh;
    let port = mesh.port.to_string();
    let [mut client, mut holder] = ["client", "holder"].map(|name| {
        let arguments = [&*port, "header", "compact"];
        start(mesh, name, python(&program, "thrift_client.py", &arguments))
    });
    let line: Line = |method, tag| {
        let call = json!({"op": "call", "method": method, "millis": 3000, "headers": {"tag": tag}});
        vec![call.to_string()]
    };
    // TApplicationException: unknown method, internal error.
    let numbers = Numbers {
        no_route: 1,
        no_host: 6,
        overload: 6,
        denied: 6,
        timeout: 6,
    };
    errors
        .are_seen(&mut client, &mut holder, line, &numbers)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_tars_sees_its_own_errors_at_once() {
    let _turn = one_at_a_time();
    let modules = Peers::new().tars_node_modules();
    let errors = Errors::start(
        "tcp-metaprotocol-tars-cart",
        async |mesh: &RpcMesh, port: u16| {
            let arguments = [port.to_string(), "one".to_owned()];
            ready(mesh, script(&modules, "tars_server.js", &arguments)).await
        },
    )
    .await;
    let mesh = &errors.mesh;
    let arguments = [mesh.port.to_string()];
    let [mut client, mut holder] = ["client", "holder"]
        .map(|name| start(mesh, name, script(&modules, "tars_client.js", &arguments)));
    let line: Line = |method, tag| {
        let call = json!({"op": "call", "method": method, "item": "3000", "context": {"tag": tag}});
        vec![call.to_string()]
    };
    let numbers = Numbers {
        no_route: 0,
        no_host: 0,
        overload: 0,
        denied: 0,
        timeout: 0,
    };
    errors
        .are_seen(&mut client, &mut holder, line, &numbers)
        .await;
}
