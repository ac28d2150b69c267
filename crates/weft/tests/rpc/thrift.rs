//! Apache Thrift's own clients and servers, in each transport and protocol.

use super::*;

struct Thrift {
    python: PathBuf,
    folder: ConfigFolder,
    _hosts: Vec<Script>,
    proxy: Proxy,
}

impl Thrift {
    async fn start(dialect: &str) -> Self {
        let python = Peers::new().python_with_thrift();
        let folder = ConfigFolder::new();
        let ports = (free_port(), free_port());
        let mut hosts = Vec::new();
        for (name, port) in [("one", ports.0), ("two", ports.1)] {
            let mut command = Command::new(&python);
            command.arg(script("thrift_server.py"));
            command.args([&port.to_string(), name, dialect]);
            let mut host = Script::start(name, command, &folder.log(&format!("{name}.log")));
            assert_eq!(host.answer().await, json!({"ready": true}));
            hosts.push(host);
        }
        let proxy = Proxy::start(&folder, "thrift", ports).await;
        Self {
            python,
            folder,
            _hosts: hosts,
            proxy,
        }
    }

    fn client(&self, transport: &str, protocol: &str) -> Script {
        let mut command = Command::new(&self.python);
        command.arg(script("thrift_client.py"));
        let port = self.proxy.listener.port().to_string();
        command.args([&port, transport, protocol]);
        let name = format!("{transport}-{protocol}");
        Script::start(&name, command, &self.folder.log(&format!("{name}.log")))
    }

    async fn all_forms_pass(&self, transport: &str, protocol: &str, notes: &mut u64) {
        let form = format!("{transport} {protocol}");
        let client = &mut self.client(transport, protocol);
        let answer = ask(client, json!({"op": "call", "method": "where"})).await;
        let value = answer["value"].as_str().unwrap_or_default();
        assert!(["one", "two"].contains(&value), "{form}: {answer}");
        let failing =
            json!({"op": "call", "method": "fail", "item": "no such item", "service": "shop.Cart"});
        let answer = ask(client, failing).await;
        assert_eq!(answer["error"], "no such item", "{form}: {answer}");
        // 1 MB of UTF-8.
        let answer = ask(client, json!({"op": "payload", "count": 250_000})).await;
        assert_eq!(answer["same"], true, "{form}: {answer}");
        // What the host itself does not know.
        let answer = ask(client, json!({"op": "call", "method": "nope"})).await;
        assert_eq!(answer["refused"], "no nope", "{form}: {answer}");
        let note = json!({"op": "call", "method": "note", "oneway": true});
        assert_eq!(ask(client, note).await["sent"], true, "{form}");
        // Answers come in the order of calls that have the same number.
        let items: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let answer = ask(client, json!({"op": "pipeline", "items": items})).await;
        assert_eq!(answer["values"], json!(items), "{form}: {answer}");
        // The proxy's own errors, in this form.
        for (service, kind) in [("shop.Other", 1), ("shop.Empty", 6), ("shop.Refused", 6)] {
            let begun = Instant::now();
            let call = json!({"op": "call", "method": "where", "service": service});
            let answer = ask(client, call).await;
            let text = answer["refused"].as_str().unwrap_or_default();
            assert!(text.starts_with("weft: "), "{form} {service}: {answer}");
            assert_eq!(answer["type"], kind, "{form} {service}: {answer}");
            let named = (&answer["method"], &answer["id"]);
            assert_eq!(named, (&json!("where"), &json!(true)), "{form}: {answer}");
            assert!(begun.elapsed() < AT_ONCE, "{form} {service}");
        }
        *notes += 1;
        eventually("the note arrives", AT_ONCE * 5, async || {
            let one = ask(client, json!({"op": "call", "method": "notes"})).await;
            let done = one["value"].as_str() == Some(&*notes.to_string());
            done.then_some(()).ok_or_else(|| one.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thrift_calls_of_all_transports_and_protocols_pass_unchanged() {
    let _turn = one_at_a_time();
    let thrift = Thrift::start("auto").await;
    // A oneway goes to any of two hosts, and only one of them is asked for notes.
    let mut notes = 0;
    for (transport, protocol) in [
        ("framed", "strict"),
        ("framed", "compact"),
        ("unframed", "strict"),
        ("unframed", "compact"),
        ("header", "strict"),
        ("header", "compact"),
    ] {
        thrift.all_forms_pass(transport, protocol, &mut notes).await;
    }
    let stats = thrift.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!((of("request_oneway"), of("request_active")), (6, 0));
    assert_eq!(
        of("request_decoding_error") + of("response_decoding_error"),
        0
    );
    assert_eq!(of("response_unknown"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thrift_calls_of_the_old_protocol_pass_unchanged() {
    let _turn = one_at_a_time();
    let thrift = Thrift::start("old").await;
    thrift.all_forms_pass("framed", "old", &mut 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thrift_calls_of_one_connection_are_split_by_weight() {
    let _turn = one_at_a_time();
    let thrift = Thrift::start("auto").await;
    let mut client = thrift.client("framed", "compact");
    let many = json!({"op": "many", "method": "where", "service": "shop.Cart", "times": 3000});
    let answer = ask(&mut client, many).await;
    let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
    assert_eq!(of("one") + of("two"), 3000, "{answer}");
    assert!((220..=380).contains(&of("two")), "{answer}");
    assert_eq!(answer["connections"], 1);
    // One call at a time needs one connection to a host.
    let stats = thrift.proxy.stats().await;
    assert_eq!(stats["cluster.one.upstream_cx_total"], 1);
    assert_eq!(stats["cluster.two.upstream_cx_total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_thrift_route_and_limit_a_call() {
    let _turn = one_at_a_time();
    let thrift = Thrift::start("auto").await;
    let mut client = thrift.client("header", "compact");
    for _ in 0..20 {
        let call = json!({"op": "call", "method": "where", "service": "shop.Cart", "headers": {"tag": "gray"}});
        assert_eq!(ask(&mut client, call).await["value"], "two");
    }
    let begun = Instant::now();
    let slow = json!({"op": "call", "method": "slow", "millis": 10_000, "headers": {"client_timeout": "300"}});
    let answer = ask(&mut client, slow).await;
    let text = answer["refused"].as_str().unwrap_or_default();
    assert!(text.contains("did not answer in time"), "{answer}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // The host is still at it, so that the next call has another connection.
    let answer = ask(&mut client, json!({"op": "call", "method": "notes"})).await;
    assert_eq!(answer["value"], "0", "{answer}");
    assert!(begun.elapsed() < AT_ONCE * 2);
    let stats = thrift.proxy.stats().await;
    assert_eq!(stats["cluster.one.upstream_cx_total"], 2);
    assert_eq!(stats["meta_protocol.shop.cart.request_timeout"], 1);
    assert_eq!(stats["meta_protocol.shop.cart.cx_total"], 1);
}
