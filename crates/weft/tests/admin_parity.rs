//! The same bootstrap in a real Envoy and in Weft: what the admin endpoint tells of certificates.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_testkit::{ConfigFolder, Peers, Process, eventually, free_port, get, one_at_a_time};

/// `ADMIN`, `FRONT` and `FOLDER` are filled in; `cert.pem`, `key.pem` and `ca.pem` are there.
const BOOTSTRAP: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: ADMIN } } }
static_resources:
  secrets:
  - name: own
    tls_certificate:
      certificate_chain: { filename: FOLDER/cert.pem }
      private_key: { filename: FOLDER/key.pem }
  - name: trusted
    validation_context: { trusted_ca: { filename: FOLDER/roots.pem } }
  listeners:
  - name: front
    address: { socket_address: { address: 127.0.0.1, port_value: FRONT } }
    listener_filters:
    - name: tls
      typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }
    filter_chains:
    - filter_chain_match: { server_names: [a.test] }
      filters: &filters
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: plain
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs: [{ name: own }]
            combined_validation_context:
              default_validation_context: {}
              validation_context_sds_secret_config: { name: trusted }
    - filter_chain_match: { server_names: [b.test] }
      filters: *filters
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: { environment_variable: WEFT_TEST_CHAIN }
              private_key: { filename: FOLDER/key.pem }
  clusters:
  - name: plain
    type: STATIC
    connect_timeout: 1s
  - name: unverified
    type: STATIC
    connect_timeout: 1s
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: a.test
  - name: verified
    type: STATIC
    connect_timeout: 1s
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates:
          - certificate_chain: { filename: FOLDER/chain.pem }
            private_key: { filename: FOLDER/key.pem }
          validation_context: { trusted_ca: { filename: FOLDER/ca.pem } }
"#;

const DAYS: &str = "/stats?filter=^server.days_until_first_cert_expiring$";

/// What a proxy lists, sorted: Envoy's order is by chance.
async fn certificates(
    name: &str,
    mut command: Command,
    folder: &ConfigFolder,
) -> (Vec<String>, String) {
    let admin = free_port();
    let directory = folder.write_beside("unused", "");
    let directory = directory.parent().expect("a file is in a folder");
    let text = BOOTSTRAP
        .replace("ADMIN", &admin.to_string())
        .replace("FRONT", &free_port().to_string())
        .replace("FOLDER", &directory.display().to_string());
    let file = folder.write_beside(&format!("{name}.yaml"), &text);
    let chain = std::fs::read_to_string(directory.join("cert.pem")).expect("it was written");
    command.arg("-c").arg(file).args(["--concurrency", "1"]);
    command.env("WEFT_TEST_CHAIN", chain);
    let log = folder.log(&format!("{name}.log"));
    let mut process = if name == "envoy" {
        Process::start_bound(name, &command, &log)
    } else {
        Process::start(name, command, &log)
    };
    let admin: SocketAddr = ([127, 0, 0, 1], admin).into();
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
    let listed = get(admin, "/certs").await.expect("an answer").body;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let listed = listed["certificates"].as_array().expect("a list");
    let mut listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
    listed.sort();
    (listed, get(admin, DAYS).await.expect("an answer").body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_and_weft_list_the_same_certificates() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let directory = folder.write_certificate("other.test");
    let other = std::fs::read_to_string(directory.join("ca.pem")).expect("it was written");
    folder.write_certificate("a.test");
    let own = std::fs::read_to_string(directory.join("cert.pem")).expect("it was written");
    folder.write_beside("roots.pem", &format!("{other}{own}"));
    folder.write_beside("chain.pem", &format!("{own}{other}"));
    let mut envoy = Command::new(Peers::new().envoy());
    envoy.args(["--disable-hot-restart", "-l", "error"]);
    let mut weft = Command::new(env!("CARGO_BIN_EXE_weft"));
    weft.args(["proxy", "--until-stdin-closes"])
        .env_remove("WEFT_LOG");
    let (of_envoy, days_of_envoy) = certificates("envoy", envoy, &folder).await;
    let (of_weft, days_of_weft) = certificates("weft", weft, &folder).await;
    assert_eq!(of_envoy.len(), 4, "two filter chains and two clusters");
    assert_eq!(of_weft, of_envoy);
    assert_eq!(days_of_weft, days_of_envoy);
}
