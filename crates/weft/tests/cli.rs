//! The commands as people call them: the built binary, its output and its exit codes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn weft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .env_remove("WEFT_LOG")
        .output()
        .expect("the binary is built with the test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn text_of(output: &Output) -> String {
    text(&output.stderr)
}

/// A file of this test alone, in the folder that cargo gives for such.
fn file(name: &str, content: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cli");
    let path = folder.join(name);
    let parent = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(parent).expect("cargo's folder can be written");
    std::fs::write(&path, content).expect("cargo's folder can be written");
    path
}

fn validate(path: &Path) -> Output {
    weft(&["validate", &path.display().to_string()])
}

const VIRTUAL_SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: default
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
    timeout: 2s
";

#[test]
fn version_is_the_packages() {
    for line in [
        &["--version"][..],
        &["proxy", "--version"],
        &["control", "-V"],
    ] {
        let output = weft(line);
        assert!(output.status.success());
        let wanted = format!("weft {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(text(&output.stdout), wanted);
    }
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}]}
---
";

#[test]
fn validate_accepts_and_counts_what_is_right() {
    let output = validate(&file("good.yaml", &format!("{SERVICE}{VIRTUAL_SERVICE}")));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "valid: 2 objects (1 Service, 1 VirtualService)\n"
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_rule_that_leads_nowhere_is_a_warning_and_fails_only_if_that_is_asked_for() {
    let path = file(
        "nowhere.yaml",
        &format!(
            "{SERVICE}{}",
            VIRTUAL_SERVICE.replace("host: reviews", "host: revews")
        ),
    );
    let path = path.display().to_string();
    let output = weft(&["validate", &path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = "nowhere.yaml:16: warning: VirtualService/default/reviews: \
        spec.http[0].route[0].destination.host: no service has the host \
        \"revews.default.svc.cluster.local\", so what is sent there fails; \
        did you mean \"reviews.default.svc.cluster.local\"? (IST0101)\n";
    assert!(
        text(&output.stderr).ends_with(expected),
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("; 1 warning"));
    assert_eq!(
        weft(&["validate", "--strict", &path]).status.code(),
        Some(1)
    );

    let mesh = file("nowhere-mesh.conf", "rootNamespace: mesh-root")
        .display()
        .to_string();
    let args = ["analyze", "-o", "json", "--mesh-config", &mesh, &path];
    let output = weft(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(
        (&report["errors"], &report["warnings"]),
        (&0.into(), &1.into())
    );
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["code"], &finding["line"]),
        (&"IST0101".into(), &16.into())
    );
    assert_eq!(weft(&["analyze", "--strict", &path]).status.code(), Some(1));
}

#[test]
fn analyze_tells_what_is_wrong_as_well() {
    let bad = VIRTUAL_SERVICE.replace("timeout: 2s", "timeuot: 2s");
    let path = file("analyze-bad.yaml", &bad).display().to_string();
    let output = weft(&["analyze", &path]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    assert!(
        told.contains("analyze-bad.yaml:12: error: VirtualService/default/reviews: "),
        "{told}"
    );
    assert!(told.contains("(IST0106)"), "{told}");
}

#[test]
fn validate_names_every_error_with_its_place_and_fails() {
    let bad = VIRTUAL_SERVICE.replace("timeout: 2s", "timeuot: 2s");
    let bad = format!("{bad}---\n{}", bad.replace("name: reviews", "name: other"));
    let output = validate(&file("bad.yaml", &bad));
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for place in [
        "bad.yaml:12:",
        "bad.yaml:25:",
        "VirtualService/default/other",
        "timeuot",
    ] {
        assert!(errors.contains(place), "{place} is missing in: {errors}");
    }
}

#[test]
fn validate_reads_standard_input() {
    let validate = |document: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["validate", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built with the test");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(document.as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    };
    let good = validate(&format!("{SERVICE}{VIRTUAL_SERVICE}"));
    assert!(good.status.success(), "{}", text_of(&good));
    assert!(text(&good.stdout).starts_with("valid: 2 objects"));
    let bad = validate(&VIRTUAL_SERVICE.replace("timeout", "timeoutt"));
    assert_eq!(bad.status.code(), Some(1));
    assert!(text_of(&bad).starts_with("-:12: "), "{}", text_of(&bad));
}

#[test]
fn validate_fails_for_a_path_that_is_not_there() {
    let output = weft(&["validate", "/nonexistent/weft.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("/nonexistent/weft.yaml: "), "{errors}");
    assert!(!errors.contains("weft.yaml:1"), "it has no lines: {errors}");
}

#[test]
fn validate_fails_if_there_is_nothing_to_check() {
    let readme = file("nothing/README.md", "no configuration");
    let folder = readme.parent().expect("a file is in a folder");
    let output = validate(folder);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("no YAML document found in "), "{errors}");
}

#[test]
fn validate_knows_a_bootstrap_and_says_how_to_check_it() {
    let path = file("validated-bootstrap.yaml", BOOTSTRAP);
    let output = validate(&path);
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("weft proxy --mode validate -c {}", path.display());
    let errors = text(&output.stderr);
    assert!(errors.contains(&wanted), "{errors}");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weft(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(
            script.contains("validate") && script.contains("config-dir"),
            "{shell}"
        );
        for shown in [
            "wait",
            "proxy-status",
            "proxy-config",
            "explain",
            "simulate",
            "fqdn",
        ] {
            assert!(script.contains(shown), "{shell} lacks {shown}");
        }
        for hidden in ["demo-service", "until-stdin-closes"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
    }
}

const BOOTSTRAP: &str = "static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: hello}}
          http_filters:
          - name: router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
";

#[test]
fn proxy_validates_a_bootstrap_without_serving() {
    let path = file("bootstrap.yaml", BOOTSTRAP).display().to_string();
    let output = weft(&["proxy", "-c", &path, "--mode", "validate"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(&format!("configuration '{path}' OK")));
}

#[test]
fn proxy_validation_names_the_field() {
    let bad = BOOTSTRAP.replace("stat_prefix", "stat_prefx");
    let path = file("bad-bootstrap.yaml", &bad).display().to_string();
    let output = weft(&["proxy", "-c", &path, "--mode", "validate"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("bad-bootstrap.yaml:10:"), "{errors}");
    assert!(errors.contains("stat_prefx"), "{errors}");
}

#[test]
fn proxy_validation_refuses_what_the_data_plane_cannot_do() {
    let bad = BOOTSTRAP.replace("status: 200", "status: 99");
    let path = file("bad-status.yaml", &bad).display().to_string();
    let output = weft(&["proxy", "-c", &path, "--mode", "validate"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("direct_response") && errors.contains("status"),
        "{errors}"
    );
}

#[test]
fn what_the_data_plane_refuses_has_its_line_in_any_spelling() {
    let field = "listener main: static_resources.listeners[0].filter_chains[0].filters[0].\
                 typed_config.route_config.virtual_hosts[0].routes[0].route.cluster: leads to the cluster \"gone\"";
    let bad = BOOTSTRAP.replace(
        "direct_response: {status: 200, body: {inline_string: hello}}",
        "route: {cluster: gone}",
    );
    let camel = bad
        .replace("static_resources", "staticResources")
        .replace("filter_chains", "filterChains")
        .replace("typed_config", "typedConfig")
        .replace("route_config", "routeConfig")
        .replace("virtual_hosts", "virtualHosts");
    let json = "{\n\"static_resources\": {\"clusters\": [\n{\"name\": \"a\", \
                \"connect_timeout\": \"1s\"},\n{\"name\": \"b\",\n\
                \"connect_timeout\": \"1s\",\n\"lb_subset_config\": {}}]}}";
    for (name, text, wanted) in [
        ("snake.yaml", &*bad, format!("snake.yaml:17: {field}")),
        ("camel.yaml", &*camel, format!("camel.yaml:17: {field}")),
        (
            "bad.json",
            json,
            "bad.json:6: cluster b: static_resources.clusters[1].lb_subset_config: ".to_owned(),
        ),
    ] {
        let path = file(name, text).display().to_string();
        for mode in ["validate", "serve"] {
            let output = weft(&["proxy", "-c", &path, "--mode", mode, "-l", "off"]);
            assert_eq!(output.status.code(), Some(1));
            let errors = text_of(&output);
            assert!(errors.contains(&wanted), "{errors}\nwanted {wanted}");
        }
    }
}

#[test]
fn a_problem_of_merged_texts_is_told_where_it_is_written() {
    let path = file("first.yaml", BOOTSTRAP).display().to_string();
    let yaml = "static_resources:\n  listeners:\n  - name: second\n    address: \
                {pipe: {path: /x}}\n    filter_chains: []";
    let output = weft(&[
        "proxy",
        "-c",
        &path,
        "--config-yaml",
        yaml,
        "--mode",
        "validate",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text_of(&output);
    let wanted = "--config-yaml:4: listener second: static_resources.listeners[1].address";
    assert!(errors.contains(wanted), "{errors}");
}

#[test]
fn an_unreadable_certificate_is_told_at_its_transport_socket() {
    let tls = "      transport_socket:
        name: tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {filename: /nonexistent/cert.pem}
              private_key: {filename: /nonexistent/key.pem}
";
    let path = file("no-certificate.yaml", &format!("{BOOTSTRAP}{tls}"));
    let output = weft(&[
        "proxy",
        "-c",
        &path.display().to_string(),
        "--mode",
        "validate",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text_of(&output);
    let wanted = "no-certificate.yaml:22: listener main: \
                  static_resources.listeners[0].filter_chains[0].transport_socket: /nonexistent/cert.pem";
    assert!(errors.contains(wanted), "{errors}");
}

#[test]
fn what_a_bootstrap_sets_without_effect_is_told_with_its_line() {
    let path = file("ignored.yaml", &format!("{BOOTSTRAP}flags_path: /x\n"));
    let output = weft(&[
        "proxy",
        "-c",
        &path.display().to_string(),
        "--mode",
        "validate",
    ]);
    assert!(output.status.success(), "{}", text_of(&output));
    let told = text_of(&output);
    assert!(
        told.contains("ignored.yaml:22: flags_path: ignored: "),
        "{told}"
    );
}

#[test]
fn config_yaml_is_merged_over_the_file() {
    let path = file("merged.yaml", BOOTSTRAP).display().to_string();
    let yaml = "static_resources: {listeners: [{name: second}]}";
    let output = weft(&[
        "proxy",
        "-c",
        &path,
        "--config-yaml",
        yaml,
        "--mode",
        "validate",
    ]);
    // The second listener is there, and it has no address.
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("listeners[1]"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_proxy_without_a_bootstrap_says_what_to_give() {
    let output = weft(&["proxy"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--config-yaml"));
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.0.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn answers(address: SocketAddr) -> bool {
    let exchange = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    exchange().is_ok_and(|text: String| text.ends_with("hello"))
}

#[test]
fn a_proxy_takes_signals_as_envoy_does() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a port");
    let log = file("access.log", "");
    let rotated = log.with_extension("1");
    let access_log = format!(
        "stat_prefix: main
          access_log:
          - name: file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}",
        log.display()
    );
    let bootstrap = BOOTSTRAP
        .replace("10000", &address.port().to_string())
        .replace("stat_prefix: main", &access_log);
    let path = file("signals.yaml", &bootstrap).display().to_string();
    let child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["proxy", "-c", &path, "--concurrency", "1"])
        .stderr(Stdio::null())
        .spawn();
    let mut proxy = Running(child.expect("the binary is built with the test"));
    eventually("the proxy serves", || answers(address));

    std::fs::rename(&log, &rotated).expect("rotated");
    proxy.signal("HUP");
    proxy.signal("USR1");
    eventually("the log is reopened", || answers(address) && log.exists());
    assert!(proxy.0.try_wait().expect("a child").is_none(), "it goes on");

    proxy.signal("TERM");
    eventually("it ends", || proxy.0.try_wait().expect("a child").is_some());
}

#[test]
fn a_second_signal_ends_a_draining_proxy_as_a_shell_tells_it() {
    use std::os::unix::process::ExitStatusExt as _;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a port");
    let delay = "- name: fault
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
              delay: {fixed_delay: 60s, percentage: {numerator: 100}}
          - name: router";
    let bootstrap = BOOTSTRAP
        .replace("10000", &address.port().to_string())
        .replace("- name: router", delay);
    let path = file("second-signal.yaml", &bootstrap).display().to_string();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["proxy", "-c", &path, "--concurrency", "1"])
            .stderr(Stdio::null())
            .spawn();
        let mut proxy = Running(child.expect("the binary is built with the test"));
        let mut stream = None;
        eventually("the proxy accepts", || {
            stream = TcpStream::connect(address).ok();
            stream.is_some()
        });
        // A request that goes on holds the drain up.
        let mut stream = stream.expect("it accepts");
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(head).expect("it reads");
        std::thread::sleep(Duration::from_millis(300));
        proxy.signal("TERM");
        eventually("it stops to accept", || {
            TcpStream::connect(address).is_err()
        });
        assert!(proxy.0.try_wait().expect("a child").is_none(), "it drains");
        proxy.signal(signal);
        let mut ended = None;
        eventually("it ends", || {
            ended = proxy.0.try_wait().expect("a child");
            ended.is_some()
        });
        let ended = ended.expect("it has ended");
        assert_eq!((ended.code(), ended.signal()), (Some(code), None));
    }
}

#[test]
fn a_join_token_needs_the_folder_of_a_control_plane() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("nope");
    for path in [missing.as_path(), folder.path()] {
        let path = path.display().to_string();
        let output = weft(&["token", "create", "--ca-dir", &path, "-s", "cart"]);
        assert!(!output.status.success());
        let told = text(&output.stderr);
        assert!(told.contains("--ca-dir") && told.contains(&path), "{told}");
    }
    assert!(!missing.exists(), "nothing is made");
    let inside = std::fs::read_dir(folder.path()).expect("there").count();
    assert_eq!(inside, 0, "nothing is made");
}

#[test]
fn the_examples_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for mesh in ["bookinfo", "grpc/mesh"] {
        let output = validate(&examples.join(mesh));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let bootstraps = std::fs::read_dir(examples.join("envoy-bootstrap")).expect("a directory");
    let mut checked = 0;
    for bootstrap in bootstraps {
        let path = bootstrap.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let path = path.display().to_string();
            let output = weft(&["proxy", "-c", &path, "--mode", "validate"]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            checked += 1;
        }
    }
    assert!(checked >= 2, "there are examples");
}
