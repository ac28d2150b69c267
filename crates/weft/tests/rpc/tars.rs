//! Tars' own client and server for Node.

use super::*;

struct Tars {
    modules: PathBuf,
    folder: ConfigFolder,
    _hosts: Vec<Script>,
    proxy: Proxy,
}

impl Tars {
    async fn start() -> Self {
        let modules = Peers::new().tars_node_modules();
        let folder = ConfigFolder::new();
        let ports = (free_port(), free_port());
        let mut hosts = Vec::new();
        for (name, port) in [("one", ports.0), ("two", ports.1)] {
            let arguments = [port.to_string(), name.to_owned()];
            let command = node(&modules, "tars_server.js", &arguments);
            let mut host = Script::start(name, command, &folder.log(&format!("{name}.log")));
            assert_eq!(host.answer().await, json!({"ready": true}));
            hosts.push(host);
        }
        let proxy = Proxy::start(&folder, "tars", ports).await;
        Self {
            modules,
            folder,
            _hosts: hosts,
            proxy,
        }
    }

    fn client(&self) -> Script {
        let arguments = [self.proxy.listener.port().to_string()];
        let command = node(&self.modules, "tars_client.js", &arguments);
        Script::start("client", command, &self.folder.log("client.log"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_calls_of_all_forms_pass_unchanged() {
    let _turn = one_at_a_time();
    let tars = Tars::start().await;
    let client = &mut tars.client();
    let answer = ask(client, json!({"op": "call", "method": "where"})).await;
    let value = answer["value"].as_str().unwrap_or_default();
    assert!(["one", "two"].contains(&value), "{answer}");
    let answer = ask(
        client,
        json!({"op": "call", "method": "fail", "item": "no"}),
    )
    .await;
    assert!(answer["error"].is_string(), "{answer}");
    // 1 MB of UTF-8.
    let answer = ask(client, json!({"op": "payload", "count": 250_000})).await;
    assert_eq!(answer["same"], true, "{answer}");
    for _ in 0..20 {
        let tagged = json!({"op": "call", "method": "where", "context": {"tag": "gray"}});
        assert_eq!(ask(client, tagged).await["value"], "two");
    }
    let note = json!({"op": "call", "method": "note", "oneway": true});
    assert_eq!(ask(client, note).await["sent"], true);
    eventually("the note arrives", AT_ONCE * 5, async || {
        let answer = ask(client, json!({"op": "call", "method": "notes"})).await;
        let done = answer["value"] == "1";
        done.then_some(()).ok_or_else(|| answer.to_string())
    })
    .await;
    let stats = tars.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!((of("request_oneway"), of("request_active")), (1, 0));
    assert_eq!(of("request_decoding_error") + of("local_response_error"), 0);
    // Hosts are asked whether they are alive, and are.
    tars.proxy.reaches("upstream_heartbeat", 2).await;
    let stats = tars.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!(
        (of("upstream_heartbeat_failed"), of("response_unknown")),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_calls_of_one_connection_are_split_by_weight() {
    let _turn = one_at_a_time();
    let tars = Tars::start().await;
    let many = json!({"op": "many", "method": "where", "times": 5000});
    let answer = ask(&mut tars.client(), many).await;
    let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
    assert_eq!(of("one") + of("two"), 5000, "{answer}");
    assert!((380..=620).contains(&of("two")), "{answer}");
    let stats = tars.proxy.stats().await;
    assert_eq!(stats["cluster.two.upstream_rq_total"], of("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_calls_that_cannot_be_answered_get_an_error_at_once() {
    let _turn = one_at_a_time();
    let tars = Tars::start().await;
    let client = &mut tars.client();
    for service in ["shop.Other", "shop.Empty", "shop.Refused"] {
        let call = json!({"op": "call", "service": service, "method": "where"});
        refused(client, call).await;
    }
    let slow = json!({"op": "call", "method": "slow", "item": "20000", "timeout": 600});
    refused(client, slow).await;
    let stats = tars.proxy.stats().await;
    let of = |name: &str| stats[&format!("meta_protocol.shop.cart.{name}")];
    assert_eq!((of("request_no_route"), of("local_response_error")), (1, 4));
    assert_eq!(of("request_timeout"), 1);
}
