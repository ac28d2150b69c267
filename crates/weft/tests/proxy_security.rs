//! Who gets in: the same bootstrap in a real Envoy and in Weft. Every request of the tables in
//! `security/` gets the same answer, looks the same to the upstream, leaves the same line in the
//! access log, and counts the same.

use std::collections::BTreeMap;

use weft_testkit::{ConfigFolder, one_at_a_time};

mod parity {
    pub(crate) mod cases;
    pub(crate) mod client;
    pub(crate) mod upstream;
    pub(crate) mod wire;
}
mod security {
    pub(crate) mod authz;
    pub(crate) mod certificates;
    pub(crate) mod guards;
    pub(crate) mod proxies;
    pub(crate) mod scene;
    pub(crate) mod servers;
    pub(crate) mod tokens;
}

use parity::cases::{self, Case};
use parity::client;
use security::proxies::Proxy;
use security::scene::{KNOWN, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_hold_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/rbac.yaml"),
        listeners: &["rbac", "tls", "mtls", "tcp", "barred", "guarded"],
        stats: &[
            "rbac.",
            "tcp.barred.downstream_cx_total",
            "http.guarded.downstream_cx_total",
            "http.guarded.downstream_cx_destroy",
        ],
    };
    compare(&scene, include_str!("security/rbac.txt"), &BTreeMap::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trust_domains_choose_their_roots_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/domains.yaml"),
        listeners: &["plain", "domains", "named"],
        stats: &["http.plain.downstream_rq_", "http.domains.downstream_rq_"],
    };
    compare(
        &scene,
        include_str!("security/domains.txt"),
        &BTreeMap::new(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_wanted_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/tokens.yaml"),
        listeners: &["tokens", "terse", "lenient"],
        stats: &["jwt_authn."],
    };
    let mut words = security::tokens::words();
    let port = security::servers::keys(words["jwks:plain"].clone()).await;
    words.insert("port-of-keys".to_owned(), port.to_string());
    compare(&scene, include_str!("security/tokens.txt"), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_service_decides_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/authz.yaml"),
        listeners: &[
            "http",
            "grpc",
            "open",
            "gone",
            "disabled",
            "custom",
            "slow",
            "slow_grpc",
        ],
        stats: &[".ext_authz."],
    };
    let (http, grpc) = tokio::join!(security::authz::by_http(), security::authz::by_grpc());
    let words = BTreeMap::from([
        ("port-of-authz".to_owned(), http.to_string()),
        ("port-of-grpc".to_owned(), grpc.to_string()),
    ]);
    compare(&scene, include_str!("security/authz.txt"), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_routes_hold_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/chain.yaml"),
        listeners: &["chain", "levels"],
        stats: &[
            ".rbac.",
            ".ext_authz.",
            ".fault.",
            ".jwt_authn.",
            ".rq_total",
            ".rq_direct_response",
            ".rq_redirect",
            ".no_",
            "rq_non_relative_path",
            "ws_on_non_ws_route",
        ],
    };
    let port = security::guards::by_http().await;
    let words = BTreeMap::from([("port-of-guard".to_owned(), port.to_string())]);
    compare(&scene, include_str!("security/chain.txt"), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_see_bodies_and_change_headers_as_in_envoy() {
    let scene = Scene {
        bootstrap: include_str!("security/guards.yaml"),
        listeners: &[
            "http-whole",
            "http-part",
            "http-none",
            "grpc-whole",
            "grpc-part",
            "grpc-bytes",
            "grpc-none",
            "grpc-allowed",
        ],
        stats: &[".ext_authz.", "downstream_rq_too_large"],
    };
    let (http, grpc) = tokio::join!(security::guards::by_http(), security::guards::by_grpc());
    let words = BTreeMap::from([
        ("port-of-guard".to_owned(), http.to_string()),
        ("port-of-grpc".to_owned(), grpc.to_string()),
    ]);
    compare(&scene, include_str!("security/guards.txt"), &words).await;
}

/// Sends every case to both proxies and tells all that differs. `words` stand in the tables and
/// the bootstrap as `{{name}}`.
async fn compare(scene: &Scene, table: &str, words: &BTreeMap<String, String>) {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let files = security::certificates::write(&folder);
    let only = std::env::var("SECURITY_CASE").ok();
    let table = words.iter().fold(table.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    });
    let mut cases = cases::all(&table);
    cases.retain(|case| only.as_ref().is_none_or(|only| case.name.contains(only)));
    for case in &mut cases {
        let named = case.cert.as_ref().map(|name| files.join(name));
        case.cert = named.map(|path| path.display().to_string());
    }
    let envoy = Proxy::envoy(scene, words, &folder, &files).await;
    let weft = Proxy::weft(scene, words, &folder, &files).await;
    let (of_envoy, of_weft) = tokio::join!(answers(&cases, &envoy), answers(&cases, &weft));
    let mut different = Vec::new();
    let mut used = std::collections::BTreeSet::new();
    for (case, (envoy, weft)) in cases.iter().zip(of_envoy.iter().zip(&of_weft)) {
        if only.is_some() {
            println!("=== {}\n{}", case.name, envoy.join("\n"));
        }
        let mut lines = lines_of_one('-', envoy, weft);
        lines.extend(lines_of_one('+', weft, envoy));
        lines.retain(|line| {
            match KNOWN
                .iter()
                .position(|known| known.covers(&case.name, line))
            {
                Some(at) => {
                    used.insert(at);
                    false
                }
                None => true,
            }
        });
        if !lines.is_empty() {
            different.push(format!("=== {}\n{}", case.name, lines.join("\n")));
        }
    }
    if only.is_none() {
        let (mut of_envoy, mut of_weft) = (envoy.stats(scene).await, weft.stats(scene).await);
        of_envoy.extend(envoy.bytes());
        of_weft.extend(weft.bytes());
        let mut lines = lines_of_one('-', &of_envoy, &of_weft);
        lines.extend(lines_of_one('+', &of_weft, &of_envoy));
        assert!(
            !of_envoy.is_empty(),
            "Envoy counts nothing called {:?}",
            scene.stats
        );
        if !lines.is_empty() {
            different.push(format!("=== statistics\n{}", lines.join("\n")));
        }
    }
    println!("{} cases", cases.len());
    let said = weft.output();
    assert!(!said.contains("panicked"), "Weft panicked:\n{said}");
    assert!(
        different.is_empty(),
        "{} of {} cases differ:\n{}",
        different.len(),
        cases.len(),
        different.join("\n\n")
    );
}

/// Lines that only `these` have.
fn lines_of_one(sign: char, these: &[String], others: &[String]) -> Vec<String> {
    let mut others = others.to_vec();
    let mut own = Vec::new();
    for line in these {
        match others.iter().position(|other| other == line) {
            Some(at) => {
                others.remove(at);
            }
            None => own.push(format!("{sign} {line}")),
        }
    }
    own
}

/// One after the other: what is counted and cached must not depend on chance.
async fn answers(cases: &[Case], proxy: &Proxy) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for case in cases {
        let lines = client::run(case, proxy.ports[&*case.listener]).await;
        all.push(lines.iter().map(|line| proxy.comparable(line)).collect());
    }
    let logged = proxy.access_log(cases).await;
    for (case, lines) in cases.iter().zip(&mut all) {
        let lines: &mut Vec<String> = lines;
        lines.extend(proxy.seen(case.id));
        lines.extend(logged.get(&case.id).cloned().unwrap_or_default());
    }
    all
}
