//! Weft proxies that are their own agents: they make their keys, get certificates by join tokens,
//! renew them, and speak mutual TLS with each other and with Envoy. No renewal is noticed.

mod agents;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use agents::{SERVICE, SOON, World, call, lasting, metric, through};
use serde_json::Value;
use weft_testkit::{Connection, Dataplane, eventually, get, one_at_a_time};

/// Life of certificates, with renewals in the test.
const LIFE: &str = "8s";
const WATCHED: Duration = Duration::from_secs(14);

/// What `/certs` says: serial numbers and URIs of the certificates that are shown.
async fn shown(proxy: &Dataplane) -> Vec<(String, String)> {
    let page: Value = serde_json::from_str(&proxy.admin("/certs").await).expect("JSON");
    let all = page["certificates"].as_array().expect("a list").iter();
    let chains = all.flat_map(|entry| entry["cert_chain"].as_array().into_iter().flatten());
    let shown = chains.filter_map(|one| {
        let uri = one["subject_alt_names"][0]["uri"].as_str()?;
        Some((one["serial_number"].as_str()?.to_owned(), uri.to_owned()))
    });
    shown.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_get_their_own_certificates_and_never_notice_a_renewal() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    let output = world.folder.path("output");
    let environment = [
        ("SECRET_TTL", LIFE),
        ("OUTPUT_CERTS", &*output.display().to_string()),
    ];
    let (server, _) = world.server(&environment).await;
    let (front, front_port) = world.caller("front", 25, &[("SECRET_TTL", LIFE)]).await;
    let (_back, back_port) = world.caller("back", 26, &[]).await;
    eventually("the caller is served", SOON, async || {
        let seen = call(front_port).await;
        (seen == Ok(200)).then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    assert_eq!(call(back_port).await, Ok(403), "another account is refused");
    let plain = get(SERVICE, "/").await;
    assert!(plain.is_err(), "STRICT refuses plain text: {plain:?}");

    let before = shown(&server).await;
    let uri = "spiffe://cluster.local/ns/shop/sa/server";
    assert!(
        !before.is_empty() && before.iter().all(|(_, name)| name == uri),
        "{before:?}"
    );
    let mut kept = Connection::open(front_port).await.expect("connected");
    assert_eq!(through(&mut kept).await, Ok(200));
    let opened = lasting(&front).await;
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        let seen = (through(&mut kept).await, call(front_port).await);
        assert_eq!(seen, (Ok(200), Ok(200)), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = shown(&server).await;
    let renewed = after.iter().all(|one| !before.contains(one));
    assert!(renewed && !after.is_empty(), "{before:?}, {after:?}");
    for proxy in [&server, &front] {
        assert!(metric(proxy, "agent.certificates").await >= 3);
        assert_eq!(metric(proxy, "agent.num_failed_outgoing_requests").await, 0);
        proxy.assert_nothing_refused().await;
        let dump = proxy.admin("/config_dump").await;
        // Of bytes it shows the base64.
        assert!(
            dump.contains("W3JlZGFjdGVkXQ==") && dump.contains("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0t")
        );
        assert!(!dump.contains("LS0tLS1CRUdJTiBQUklWQVRFIEtFW"), "a key");
        assert!(!proxy.log().contains("PRIVATE KEY"));
    }
    assert_eq!(
        lasting(&front).await,
        opened,
        "no connection between them closed"
    );
    let made = world.control.metric("weft_ca_workload_certificates").await;
    assert_eq!(made, 0, "the control plane knows no key");

    for name in ["key.pem", "cert-chain.pem", "root-cert.pem"] {
        let file = std::fs::metadata(output.join(name)).expect("written");
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let roots = std::fs::read(output.join("root-cert.pem")).expect("written");
    assert_eq!(roots, std::fs::read(world.roots()).expect("written"));
}

/// Whatever the log's level and whoever asks: of keys and tokens nothing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_tokens_are_in_no_log_no_dump_and_no_metadata() {
    let _turn = one_at_a_time();
    let world = World::start(&["--log-level=trace"]).await;
    let output = world.folder.path("output");
    let token = world.token("server");
    let environment = [
        ("WEFT_LOG", "trace"),
        ("SECRET_TTL", LIFE),
        ("OUTPUT_CERTS", &*output.display().to_string()),
    ];
    let own = Some(token.clone());
    let (server, _) = world
        .sidecar_of(own, "server", 24, true, &environment)
        .await;
    let read = |name: &str| std::fs::read_to_string(output.join(name)).expect("written");
    let mut secrets = vec![token];
    let lines_of = |text: &str| -> Vec<String> {
        let body = text.lines().filter(|line| !line.starts_with("-----"));
        body.map(str::to_owned).collect()
    };
    secrets.extend(lines_of(&read("key.pem")));
    // The control plane's own: what it signs with.
    let ca = std::fs::read_dir(world.folder.path("ca")).expect("a folder");
    for file in ca {
        let path = file.expect("a file").path();
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let keys = text.split("-----BEGIN ").skip(1);
        for key in keys.filter(|block| block.starts_with("PRIVATE KEY")) {
            let body = key.split("-----END").next().unwrap_or_default();
            secrets.extend(body.lines().skip(1).map(str::to_owned));
        }
    }
    secrets.retain(|secret| secret.len() > 16);
    assert!(secrets.len() >= 5, "{}", secrets.len());
    let certificates = metric(&server, "agent.certificates").await;
    eventually("it was renewed", SOON, async || {
        let now = metric(&server, "agent.certificates").await;
        (now > certificates).then_some(()).ok_or(now.to_string())
    })
    .await;
    secrets.extend(
        lines_of(&read("key.pem"))
            .into_iter()
            .filter(|line| line.len() > 16),
    );
    let mut told = vec![
        ("the proxy's log", server.log()),
        ("the control plane's log", world.control.log()),
    ];
    for page in [
        "/config_dump?include_eds",
        "/certs",
        "/server_info",
        "/stats",
        "/clusters?format=json",
        "/init_dump",
    ] {
        told.push((page, server.admin(page).await));
    }
    let id = &server.id;
    for page in [
        format!("/debug/config_dump?proxyID={id}"),
        "/debug/connections".to_owned(),
        "/debug/adsz".to_owned(),
        "/debug/syncz".to_owned(),
        "/metrics".to_owned(),
    ] {
        let answer = get(world.control.monitoring(), &page).await;
        told.push(("a page of the control plane", answer.expect(&page).body));
    }
    let traced = told[..2].iter().all(|(_, log)| log.contains("TRACE"));
    assert!(traced, "the level counts");
    assert!(told.iter().all(|(_, text)| !text.is_empty()));
    for (place, text) in &told {
        for secret in &secrets {
            assert!(!text.contains(&**secret), "{place} tells a secret");
        }
        // Keys in bytes are shown in base64.
        for mark in ["PRIVATE KEY", "LS0tLS1CRUdJTiBQUklWQVRFIEtFW"] {
            assert!(!text.contains(mark), "{place} tells a key");
        }
    }
}

/// Hours before its renewal would be due: the proxy hears of it from the control plane's refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_certificate_is_revoked_gets_another_one_at_once_by_its_token() {
    let _turn = one_at_a_time();
    let lines = ["--log-level", "info,weft_ca::issued=debug"];
    let world = World::start(&lines).await;
    let token = world.tokens.of("shop", "server");
    let token = world.folder.write_beside("token", &token);
    let token = token.display().to_string();
    let environment = [("WEFT_TOKEN_FILE", &*token)];
    let (server, _) = world
        .sidecar_of(None, "server", 24, true, &environment)
        .await;
    let (lost, _) = shown(&server).await.pop().expect("it has one");
    // What an operator revokes by.
    let log = world.control.log();
    let mut told = log.lines().filter(|line| line.contains("weft_ca::issued"));
    let line = told.find(|line| line.contains("sa/server")).expect("told");
    for part in [&*lost, "by=\"token\"", "expires=", "address="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("eyJ"), "no token: {line}");
    let revoked = world.folder.path("ca").join("revoked.txt");
    std::fs::write(revoked, format!("{lost}\n")).expect("mine");
    // Certificates that are some seconds old are meant.
    eventually("the next one", 3 * SOON, async || {
        let count = metric(&server, "agent.certificates").await;
        (count == 2).then_some(()).ok_or(count.to_string())
    })
    .await;
    assert!(
        shown(&server)
            .await
            .iter()
            .all(|(serial, _)| *serial != lost)
    );
    assert_eq!(metric(&server, "agent.num_revoked_certificates").await, 1);
    let asked = "agent.num_refused_outgoing_requests";
    assert_eq!(metric(&server, asked).await, 0, "not with the revoked one");
    eventually("it has a stream again", 2 * SOON, async || {
        let state = metric(&server, "control_plane.connected_state").await;
        (state == 1).then_some(()).ok_or(state.to_string())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        metric(&server, "agent.certificates").await,
        2,
        "and no more"
    );
}

/// What is on its disk gets a proxy its next certificate after its end: the join token is used up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_starts_again_shows_the_certificate_that_it_wrote() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    let output = world.folder.path("output").display().to_string();
    let (first, _) = world.server(&[("OUTPUT_CERTS", &output)]).await;
    drop(first);
    let folder = [("OUTPUT_CERTS", &*output), ("PROV_CERT", &*output)];
    let (again, _) = world.sidecar_of(None, "server", 24, true, &folder).await;
    assert_eq!(metric(&again, "agent.certificates").await, 1);
    assert_eq!(
        metric(&again, "agent.num_refused_outgoing_requests").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_may_be_away_and_certificates_are_renewed_when_it_is_back() {
    let _turn = one_at_a_time();
    let mut world = World::start(&[]).await;
    // A token that is good more than once: a join token gets nobody back whose certificate has ended.
    let tokens = ["server", "front"].map(|account| {
        let file = world
            .folder
            .write_beside(account, &world.tokens.of("shop", account));
        [
            ("SECRET_TTL", "20s".to_owned()),
            ("WEFT_TOKEN_FILE", file.display().to_string()),
        ]
    });
    let short = |at: usize| -> Vec<(&str, &str)> {
        tokens[at]
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect()
    };
    let (server, _) = world.sidecar_of(None, "server", 24, true, &short(0)).await;
    let (front, front_port) = world.sidecar_of(None, "front", 25, false, &short(1)).await;
    eventually("the caller is served", SOON, async || {
        let seen = call(front_port).await;
        (seen == Ok(200)).then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    let mut kept = Connection::open(front_port).await.expect("connected");
    // Half of a life and more without it: all goes on.
    world.control.kill();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(13) {
        let seen = (through(&mut kept).await, call(front_port).await);
        assert_eq!(seen, (Ok(200), Ok(200)), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for proxy in [&server, &front] {
        assert!(metric(proxy, "agent.num_failed_outgoing_requests").await > 0);
        assert_eq!(metric(proxy, "agent.certificates").await, 1);
    }
    world.control.run().await;
    for proxy in [&server, &front] {
        eventually("it has the next certificate", SOON, async || {
            let count = metric(proxy, "agent.certificates").await;
            (count >= 2).then_some(()).ok_or(count.to_string())
        })
        .await;
    }
    assert_eq!(through(&mut kept).await, Ok(200), "the same connection");

    // So long that certificates end: what is open goes on, and it recovers by itself.
    world.control.kill();
    eventually(
        "the certificates have ended",
        Duration::from_secs(40),
        async || {
            assert_eq!(
                through(&mut kept).await,
                Ok(200),
                "what was open stays open"
            );
            let left = front.stats().await.ending("cert_expiry_seconds");
            let shown = front.admin("/stats").await;
            let ended = shown.contains("agent.cert_expiry_seconds: -");
            ended.then_some(()).ok_or(format!("{left:?}"))
        },
    )
    .await;
    world.control.run().await;
    eventually(
        "new connections again",
        Duration::from_mins(1),
        async || {
            let seen = world.fresh(front_port).await;
            (seen == Ok(200)).then_some(()).ok_or(format!("{seen:?}"))
        },
    )
    .await;
    assert_eq!(through(&mut kept).await, Ok(200));
}
