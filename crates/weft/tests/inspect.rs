//! The commands that look inside, and `istioctl`, on a mesh with a gateway: what they print, and what
//! they say when something is wrong.

use std::process::{Command, Output};

use weft_testkit::{AdsMode, Mesh, Node, Program, Scene, one_at_a_time};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command beside the test's own runtime, which serves the mesh's upstreams.
async fn run(program: &str, arguments: &[String]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("WEFT_CONTROL");
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("it runs").expect("it is there");
    assert!(
        output.status.code().is_some(),
        "{arguments:?}: {}",
        output.status
    );
    output
}

async fn weft(scene: &Scene, arguments: &[&str]) -> Output {
    let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    arguments.push(format!("--control={}", scene.control.monitoring()));
    run(WEFT, &arguments).await
}

async fn shows(scene: &Scene, arguments: &[&str]) -> String {
    let output = weft(scene, arguments).await;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Cells of a line, which are two or more blanks apart.
fn cells(line: &str) -> Vec<&str> {
    let parts = line.split("  ").map(str::trim);
    parts.filter(|cell| !cell.is_empty()).collect()
}

async fn with_gateway() -> (Scene, weft_testkit::Dataplane) {
    let scene = Scene::start(WEFT).await;
    let program = Program::Weft(WEFT.into());
    let proxy = scene
        .proxy(&program, &Node::gateway("gateway"), AdsMode::Delta)
        .await;
    (scene, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_when_an_edit_is_live_and_says_why_it_is_not() {
    let _turn = one_at_a_time();
    let (scene, proxy) = with_gateway().await;
    let split = scene.folder.path(Mesh::SPLIT_FILE).display().to_string();
    for round in 0..5 {
        scene.split(10 * round, 100 - 10 * round);
        let told = shows(&scene, &["wait", &split, "--timeout=20s"]).await;
        assert_eq!(told, "live on 1 proxy\n");
        // It is: the proxy has the new weight by now.
        let weight = format!("\"weight\": {},", 10 * round);
        let routes = run(
            WEFT,
            &["pc", "routes", "-o=json", "--admin"]
                .map(str::to_owned)
                .into_iter()
                .chain([proxy.admin_address().to_string()])
                .collect::<Vec<_>>(),
        )
        .await;
        let routes = text(&routes.stdout);
        assert!(
            round == 0 || routes.contains(weight.trim_end_matches(',')),
            "{routes}"
        );
    }
    let by_name = ["wait", "virtualservice/shop/reviews", "--timeout=20s"];
    assert_eq!(shows(&scene, &by_name).await, "live on 1 proxy\n");

    // A file that the control plane refuses.
    scene.folder.write(
        Mesh::SPLIT_FILE,
        &Mesh::split(50, 50).replace("weight:", "wieght:"),
    );
    let refused = weft(&scene, &["wait", &split]).await;
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(
        why.contains(Mesh::SPLIT_FILE) && why.contains("wieght"),
        "{why}"
    );
    scene.split(50, 50);

    // One that is not there, and one that goes.
    let absent = weft(&scene, &["wait", "gateway/shop/nowhere"]).await;
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("Gateway/shop/nowhere is not configured"));
    scene.folder.remove(Mesh::SPLIT_FILE);
    let gone = [
        "wait",
        "virtualservice/shop/reviews",
        "--gone",
        "--timeout=20s",
    ];
    assert!(shows(&scene, &gone).await.starts_with("gone"));

    // A proxy that hangs.
    let stop = |signal: &str| {
        let status = Command::new("kill")
            .args([signal, &proxy.process_id().to_string()])
            .status();
        assert!(status.expect("kill is there").success());
    };
    stop("-STOP");
    scene.split(30, 70);
    let late = weft(&scene, &["wait", &split, "--timeout=1s"]).await;
    stop("-CONT");
    assert_eq!(late.status.code(), Some(1));
    let who = text(&late.stderr);
    assert!(who.contains("gateway") && who.contains("RDS"), "{who}");
    assert_eq!(
        shows(&scene, &["wait", &split, "--timeout=20s"]).await,
        "live on 1 proxy\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_show_where_a_proxy_stands_and_what_it_has() {
    let _turn = one_at_a_time();
    let (scene, proxy) = with_gateway().await;
    let table = shows(&scene, &["proxy-status"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(cells).collect();
    assert_eq!(
        lines[0][..6],
        ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS"]
    );
    assert!(
        lines[1].contains(&"SYNCED") && !table.contains("STALE"),
        "{table}"
    );
    shows(&scene, &["ps", "--check"]).await;
    let detail = shows(&scene, &["ps", &proxy.id]).await;
    assert!(
        detail.contains(&proxy.id) && detail.contains("RDS    SYNCED"),
        "{detail}"
    );
    let nobody = weft(&scene, &["ps", "nobody.nowhere"]).await;
    assert_eq!(nobody.status.code(), Some(1));

    // What it is to have, and what it has, in the same words.
    for (what, words) in [
        ("clusters", "reviews.shop.svc.cluster.local"),
        ("listeners", "Route: http."),
        ("routes", "reviews.shop"),
        ("eds", "outbound|9080|v1|reviews.shop.svc.cluster.local"),
    ] {
        let wanted = shows(&scene, &["pc", what, &proxy.id]).await;
        assert!(wanted.contains(words), "{what}: {wanted}");
        let admin = format!("--admin={}", proxy.admin_address());
        let has = run(WEFT, &["pc".to_owned(), what.to_owned(), admin]).await;
        let has = text(&has.stdout);
        // Health is the proxy's own.
        let known = |line| -> Vec<&str> {
            let cells = cells(line).into_iter();
            cells
                .filter(|cell| !["UNKNOWN", "HEALTHY"].contains(cell))
                .collect()
        };
        for line in wanted.lines().skip(1).map(known) {
            let there = has.lines().any(|other| known(other) == line);
            assert!(there, "{what}: {line:?} is not in\n{has}");
        }
    }
    let subset = [
        "pc",
        "c",
        &proxy.id,
        "--fqdn=reviews",
        "--subset=v2",
        "--port=9080",
    ];
    let only = shows(&scene, &subset).await;
    assert_eq!(only.lines().count(), 2, "{only}");
    assert_eq!(
        cells(only.lines().nth(1).expect("a line")),
        [Mesh::HOST, "9080", "v2", "outbound", "EDS", "reviews.shop"]
    );
    let none = ["pc", "c", &proxy.id, "--direction=inbound"];
    assert_eq!(shows(&scene, &none).await.lines().count(), 1);

    // From a file, and in other forms.
    let path = format!("/debug/config_dump?include_eds&proxyID={}", proxy.id);
    let dump = scene.control.json(&path).await.to_string();
    let file = scene.folder.write_beside("dump.json", &dump);
    let file = format!("--file={}", file.display());
    let all = run(WEFT, &["pc".to_owned(), "all".to_owned(), file.clone()]).await;
    assert!(
        text(&all.stdout).contains("route/http."),
        "{}",
        text(&all.stdout)
    );
    let yaml = ["pc", "listeners", "-o=yaml", &file].map(str::to_owned);
    assert!(text(&run(WEFT, &yaml).await.stdout).contains("route_config_name: http."));
    let wrong = ["pc", "clusters", "--file=/dev/null"].map(str::to_owned);
    let wrong = run(WEFT, &wrong).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("no JSON"));

    // Levels of the log.
    let level = ["pc", "log", "--level=debug"].map(str::to_owned).to_vec();
    let admin = format!("--admin={}", proxy.admin_address());
    let told = run(WEFT, &[level, vec![admin]].concat()).await;
    assert!(text(&told.stdout).contains("weft_proxy: debug"), "{told:?}");
}

/// The real `istioctl`, if `ISTIOCTL` names it. Without a revision it would look for a Kubernetes
/// cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istioctl_works_unmodified() {
    let Ok(istioctl) = std::env::var("ISTIOCTL") else {
        eprintln!("skipped: ISTIOCTL does not name an istioctl binary");
        return;
    };
    let _turn = one_at_a_time();
    let (scene, proxy) = with_gateway().await;
    let ask = async |arguments: &[&str]| {
        let address = format!("--xds-address={}", scene.control.grpc());
        let more = [
            address.as_str(),
            "--plaintext",
            "--revision=default",
            "--timeout=20s",
        ];
        let arguments = arguments.iter().chain(&more);
        let arguments: Vec<String> = arguments.map(ToString::to_string).collect();
        let output = run(&istioctl, &arguments).await;
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    let table = ask(&["proxy-status"]).await;
    let line = table.lines().nth(1).expect("a proxy");
    assert!(line.contains("4 (CDS,LDS,EDS,RDS)"), "{table}");
    let name = cells(line)[0].to_owned();
    let verbose = ask(&["proxy-status", "-v", "1"]).await;
    assert_eq!(verbose.matches("SYNCED").count(), 4, "{verbose}");
    assert!(
        ask(&["proxy-status", "-o", "json"])
            .await
            .contains("\"configStatus\": \"SYNCED\"")
    );
    assert!(
        ask(&["x", "internal-debug", "syncz"])
            .await
            .contains("listener_acked")
    );
    assert!(ask(&["x", "version"]).await.contains("(1 proxies)"));

    // What the proxy says it has against what the control plane wants it to have.
    let admin = weft_testkit::get(proxy.admin_address(), "/config_dump")
        .await
        .expect("a dump");
    let file = scene.folder.write_beside("envoy.json", &admin.body);
    let file = file.display().to_string();
    let matched = ask(&["proxy-status", &name, "--file", &file]).await;
    for words in ["Clusters Match", "Listeners Match", "Routes Match"] {
        assert!(matched.contains(words), "{matched}");
    }

    // Our tables are its tables.
    let path = format!("/debug/config_dump?include_eds&proxyID={}", proxy.id);
    let dump = scene.control.json(&path).await.to_string();
    let file = scene.folder.write_beside("dump.json", &dump);
    let file = format!("--file={}", file.display());
    for what in ["cluster", "listener", "route", "eds", "secret", "ecds"] {
        let arguments = ["pc", what, &file].map(str::to_owned);
        let (its, ours) = (
            run(&istioctl, &arguments).await,
            run(WEFT, &arguments).await,
        );
        assert_eq!(text(&its.stdout), text(&ours.stdout), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_objects_lines_and_fields() {
    const RULES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local, reviews.example.com]
  gateways: [mesh, shop/public]
  http:
  - match: [{uri: {prefix: /mesh}, gateways: [mesh]}, {uri: {prefix: /both}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1}}]
  - name: rest
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";
    let _turn = one_at_a_time();
    let (scene, proxy) = with_gateway().await;
    scene.folder.write(Mesh::SPLIT_FILE, RULES);
    let rules = scene.folder.path(Mesh::SPLIT_FILE).display().to_string();
    shows(&scene, &["wait", &rules, "--timeout=20s"]).await;
    let subsets = scene.folder.path(Mesh::SUBSETS_FILE).display().to_string();

    let cluster = ["explain", "cluster", "outbound|9080|v2|", &proxy.id];
    let told = shows(&scene, &cluster).await;
    for line in [
        &format!("  {subsets}:1: DestinationRule/shop/reviews\n    spec.subsets[1] (line 8)"),
        &format!("Looked at for it:\n  {rules}:13: PeerAuthentication/shop/strict"),
    ] {
        assert!(told.contains(line), "{line:?} in {told}");
    }
    let listener = shows(&scene, &["explain", "listener", "", &proxy.id]).await;
    assert!(
        listener.contains("Gateway/shop/public\n    spec.servers[0] (line "),
        "{listener}"
    );

    // The gateway's routes and those of a sidecar that is not there come from other conditions.
    let route = shows(&scene, &["explain", "route", "http.", &proxy.id]).await;
    for line in [
        format!("route 0 \"\": {rules}:8: VirtualService/shop/reviews spec.http[0].match[1]"),
        format!("route 1 \"rest\": {rules}:10: VirtualService/shop/reviews spec.http[1]\n"),
    ] {
        assert!(route.contains(&line), "{line:?} in {route}");
    }
    let sidecar = ["explain", "route", "9080", "shop/reviews", "--host=reviews"];
    let sidecar = shows(&scene, &sidecar).await;
    assert!(
        sidecar.contains("spec.http[0].match[0]") && sidecar.contains("would have"),
        "{sidecar}"
    );

    // What a workload has for itself.
    let inbound = ["explain", "listener", "virtualInbound", "shop/reviews"];
    let inbound = shows(&scene, &inbound).await;
    assert!(
        inbound.contains("PeerAuthentication/shop/strict"),
        "{inbound}"
    );

    // The same from files alone, and what is not there.
    let folder = format!("--config={}", scene.folder.watched().display());
    let offline = [
        "explain",
        "route",
        "http.",
        "gateway/shop/public",
        "-o=json",
        &folder,
    ];
    let offline = shows(&scene, &offline).await;
    assert!(
        offline.contains("\"path\": \"spec.http[0].match[1]\""),
        "{offline}"
    );
    let none = weft(&scene, &["explain", "cluster", "reviews", &proxy.id]).await;
    let why = text(&none.stderr);
    assert!(
        why.contains("is not one cluster; there are: outbound|9080|v1|reviews"),
        "{why}"
    );
    let nobody = weft(&scene, &["explain", "cluster", "x", "shop/nobody"]).await;
    assert!(text(&nobody.stderr).contains("is no connected proxy"));
}

/// What is simulated for a gateway is what happens to real requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_call_ends_as_a_real_one() {
    const RULES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.example.com]
  gateways: [shop/public]
  http:
  - match: [{uri: {exact: /v1}}, {uri: {prefix: /both}, headers: {x-to: {exact: v1}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1}}]
  - match: [{uri: {regex: \"/(v2|both).*\"}, method: {exact: GET}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2}}]
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, redirectCode: 308}
  - match: [{uri: {prefix: /none}}]
    directResponse: {status: 418}
  - match: [{uri: {prefix: /empty}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v3}}]
";
    let _turn = one_at_a_time();
    let (scene, proxy) = with_gateway().await;
    scene.folder.write(Mesh::SPLIT_FILE, RULES);
    let rules = scene.folder.path(Mesh::SPLIT_FILE).display().to_string();
    shows(&scene, &["wait", &rules, "--timeout=20s"]).await;
    let port = scene.mesh.gateway_ports[0];
    for (host, path, status, subset) in [
        (Mesh::PUBLIC, "/v1", 200, "v1"),
        (Mesh::PUBLIC, "/v1/more", 404, ""),
        (Mesh::PUBLIC, "/v2?a=b", 200, "v2"),
        (Mesh::PUBLIC, "/both", 200, "v2"),
        (Mesh::PUBLIC, "/old/x", 308, ""),
        (Mesh::PUBLIC, "/none", 418, ""),
        (Mesh::PUBLIC, "/empty", 503, ""),
        ("other.example.com", "/v1", 404, ""),
    ] {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut real = weft_testkit::Connection::open(address)
            .await
            .expect("it listens");
        let real = real.get(host, path).await.expect("an answer");
        let url = format!("http://{host}:{port}{path}");
        let call = ["simulate", &proxy.id, &url, "--client-only", "-o=json"];
        let output = weft(&scene, &call).await;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        let simulated = report["status"].as_u64().unwrap_or(200);
        assert_eq!(
            (real.status.into(), simulated),
            (status, status),
            "{url}: {report:#}"
        );
        if status == 200 {
            assert_eq!(real.body, subset);
            let cluster = format!("outbound|9080|{subset}|{}", Mesh::HOST);
            assert_eq!(report["passages"][0]["cluster"], cluster);
        }
    }
}
