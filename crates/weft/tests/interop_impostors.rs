//! Who is not who he says, in a mesh of Weft proxies that are their own agents: refused, with a
//! reason in log and metric, by the server's proxy or by the control plane.

mod agents;

use std::path::Path;
use std::time::{Duration, SystemTime};

use agents::{SERVICE, SOON, WEFT, World, metric};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ca::{Csr, Issuer, KeyKind, KeyPair, SpiffeId, TrustBundle, TrustDomain};
use weft_net::tls::{ClientSpec, Identity, Pem, client_config, connect};
use weft_testkit::{Dataplane, Peers, Program, eventually, one_at_a_time};

const HOUR: Duration = Duration::from_hours(1);
const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

/// Somebody who has the authority's keys.
struct Forger(Issuer);

impl Forger {
    /// One who has stolen those of the mesh.
    fn of(world: &World) -> Self {
        let folder = world.folder.path("ca");
        let entries = std::fs::read_dir(&folder).expect("there").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Keys of tokens have no certificate.
        let name = names.filter_map(|name| name.strip_suffix("-cert.pem").map(str::to_owned));
        let mut name = name.filter(|name| folder.join(format!("{name}-key.pem")).exists());
        let name = name.next().expect("a root");
        let read =
            |end: &str| std::fs::read(folder.join(format!("{name}-{end}.pem"))).expect("mine");
        let bundle = TrustBundle::from_pem(&read("cert")).expect("a root");
        let root = bundle.certificates()[0].clone();
        let key = KeyPair::from_pem(&read("key")).expect("a key");
        Self(Issuer::new(root, key, &[], &bundle, SystemTime::now()).expect("usable"))
    }

    /// One who calls his own root the mesh's.
    fn stranger() -> Self {
        Self::root_of("cluster.local")
    }

    /// The authority of a trust domain.
    fn root_of(domain: &str) -> Self {
        let domain = TrustDomain::parse(domain).expect("valid");
        let now = SystemTime::now();
        let (key, root) = Issuer::new_root(&domain, KeyKind::P256, HOUR, now).expect("a root");
        let bundle = TrustBundle::new([root.clone()]).expect("a bundle");
        Self(Issuer::new(root, key, &[], &bundle, now).expect("usable"))
    }

    /// Chain and key in PEM of a certificate that begins then, for an hour.
    fn issue(&self, id: &str, begin: SystemTime) -> (String, Vec<u8>) {
        let key = KeyPair::generate(KeyKind::P256).expect("a key");
        let request = key.request(None).expect("a request");
        let request = Csr::from_pem(request.as_bytes()).expect("valid");
        let id = SpiffeId::parse(id).expect("valid");
        let issued = self
            .0
            .issue(&request, &id.into(), HOUR, begin)
            .expect("issued");
        (issued.pem().concat(), key.to_pem().expose().to_vec())
    }
}

/// Calls the server's proxy with a certificate; gives the status line.
async fn knock(certificate: Option<&(String, Vec<u8>)>) -> Result<String, String> {
    let spec = ClientSpec {
        identity: certificate.map(|(chain, key)| Identity {
            chain: Pem::new("chain", chain.as_bytes()),
            key: Pem::new("key", key.clone()),
        }),
        alpn: vec![b"http/1.1".to_vec()],
        ..ClientSpec::default()
    };
    let config = client_config(&spec).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect(SERVICE)
        .await
        .map_err(|e| e.to_string())?;
    let stream = connect(tcp, config, None, Some(SOON)).await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
    let written = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = written.await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.lines()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| "closed".to_owned())
}

/// The sum of a statistic of TLS over the proxy's listeners.
async fn ssl(proxy: &Dataplane, name: &str) -> u64 {
    proxy
        .stats()
        .await
        .ending(&format!("ssl.{name}"))
        .values()
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_certificates_are_refused_by_proxies_and_the_reason_is_told() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    let lists = world.folder.path("lists.pem");
    let (server, _) = world
        .server_with(&["--ca-crl", &lists.display().to_string()])
        .await;
    let (forger, now) = (Forger::of(&world), SystemTime::now());
    let good = forger.issue(FRONT, now);
    let served = |seen: Result<String, String>| seen.is_ok_and(|line| line.contains(" 200 "));
    eventually("who is who he says is served", SOON, async || {
        let seen = knock(Some(&good)).await;
        served(seen.clone())
            .then_some(())
            .ok_or(format!("{seen:?}"))
    })
    .await;
    // A certificate of another namespace is good, and its holder may do nothing here.
    let stolen = forger.issue("spiffe://cluster.local/ns/bank/sa/front", now);
    let seen = knock(Some(&stolen)).await;
    assert!(
        seen.as_ref().is_ok_and(|line| line.contains(" 403 ")),
        "{seen:?}"
    );
    let rbac = server
        .stats()
        .await
        .ending("rbac.denied")
        .values()
        .sum::<u64>();
    assert_eq!(rbac, 1, "{:?}", server.stats().await.ending("denied"));

    let unknown = Forger::stranger().issue(FRONT, now);
    let ended = forger.issue(FRONT, now.checked_sub(2 * HOUR).expect("after 1970"));
    let elsewhere = forger.issue("spiffe://other.mesh/ns/shop/sa/front", now);
    let cases = [
        (
            "unknown root",
            Some(&unknown),
            "fail_verify_error",
            "UnknownIssuer",
        ),
        ("ended", Some(&ended), "fail_verify_error", "expired"),
        (
            "wrong name",
            Some(&elsewhere),
            "fail_verify_san",
            "NotValidForName",
        ),
        ("nobody", None, "fail_verify_no_cert", "no certificates"),
    ];
    for (what, certificate, counter, reason) in cases {
        let before = ssl(&server, counter).await;
        // Of several in a second one is logged.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let seen = knock(certificate).await;
        assert!(seen.is_err(), "{what}: {seen:?}");
        eventually(what, SOON, async || {
            let count = ssl(&server, counter).await;
            let told = server.log().contains(reason);
            let fine = count == before + 1 && told;
            fine.then_some(()).ok_or(format!("{count} {told}"))
        })
        .await;
    }
    // A list of revoked certificates counts while its file is there.
    assert!(served(knock(Some(&good)).await));
    let listed = revoke(&world, &good.0).await;
    std::fs::write(&lists, &listed).expect("mine");
    eventually("the revoked certificate is refused", SOON, async || {
        let seen = knock(Some(&good)).await;
        seen.is_err().then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    let other = forger.issue(FRONT, now);
    assert!(
        served(knock(Some(&other)).await),
        "not everybody is revoked"
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(knock(Some(&good)).await.is_err());
    eventually("the reason is logged", SOON, async || {
        let told = server.log().contains("Revoked");
        told.then_some(()).ok_or("not yet".to_owned())
    })
    .await;
    std::fs::remove_file(&lists).expect("mine");
    eventually("without the list it is good", SOON, async || {
        let seen = knock(Some(&good)).await;
        served(seen.clone())
            .then_some(())
            .ok_or(format!("{seen:?}"))
    })
    .await;
}

/// Lists a certificate in the authority's folder; gives what the authority writes.
async fn revoke(world: &World, chain: &str) -> String {
    let ca = world.folder.path("ca");
    let leaf = world.folder.write_beside("revoked.pem", chain);
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["x509", "-noout", "-serial", "-in"]).arg(leaf);
    let output = openssl.output().expect("openssl is installed");
    std::fs::write(ca.join("revoked.txt"), &output.stdout).expect("mine");
    let file = ca.join("ca-crl.pem");
    eventually("the authority writes its list", SOON, async || {
        std::fs::read_to_string(&file).map_err(|error| error.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_callers_get_neither_certificates_nor_streams_and_the_reason_is_told() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    let token = world.token("front");
    let folders = ["spy", "stolen"].map(|name| world.folder.path(name));
    let (front, port) = world
        .sidecar_of(Some(token.clone()), "front", 25, false, &[])
        .await;
    assert_eq!(metric(&front, "agent.certificates").await, 1);
    drop((front, port));
    // The same join token again.
    let (spy, _) = world.launch(Some(token), "front", 26, false, &[]);
    world.refusal(&spy, "join_token_replayed").await;
    drop(spy);
    // A certificate of another namespace, whose holder says that he is of this one.
    let (forger, now) = (Forger::of(&world), SystemTime::now());
    provide(
        &folders[1],
        &forger.issue("spiffe://cluster.local/ns/bank/sa/front", now),
        &world,
    );
    let stolen = folders[1].display().to_string();
    let (thief, _) = world.launch(None, "front", 27, false, &[("PROV_CERT", &stolen)]);
    eventually("the stream is refused", SOON, async || {
        let refused = world.control.metric("weft_xds_identity_mismatches").await;
        let told = thief.log().contains("is not shop/");
        (refused > 0 && told)
            .then_some(())
            .ok_or(format!("{refused} {told}"))
    })
    .await;
    assert!(
        world
            .control
            .log()
            .contains("a node is not who its credentials say")
    );
    drop(thief);
    // A certificate of an unknown root.
    provide(&folders[0], &Forger::stranger().issue(FRONT, now), &world);
    let strange = folders[0].display().to_string();
    let (spy, _) = world.launch(None, "front", 28, false, &[("PROV_CERT", &strange)]);
    world.refusal(&spy, "certificate_invalid").await;
    assert!(world.control.log().contains("UnknownIssuer"));
}

/// Writes a folder as `PROV_CERT` has it.
fn provide(folder: &Path, (chain, key): &(String, Vec<u8>), world: &World) {
    std::fs::create_dir_all(folder).expect("mine");
    std::fs::write(folder.join("cert-chain.pem"), chain).expect("mine");
    std::fs::write(folder.join("key.pem"), key).expect("mine");
    std::fs::copy(world.roots(), folder.join("root-cert.pem")).expect("mine");
}

/// Whoever gets the mesh's roots from the control plane gets the list with them.
async fn the_list_reaches(program: &Program) {
    let world = World::start(&[]).await;
    let (_server, _) = world.served(program, "server", 24, true).await;
    let forger = Forger::of(&world);
    let (lost, good) = (
        forger.issue(FRONT, SystemTime::now()),
        forger.issue(FRONT, SystemTime::now()),
    );
    let served = |seen: &Result<String, String>| seen.as_ref().is_ok_and(|l| l.contains(" 200 "));
    eventually("both are served", SOON, async || {
        let seen = (knock(Some(&lost)).await, knock(Some(&good)).await);
        (served(&seen.0) && served(&seen.1))
            .then_some(())
            .ok_or(format!("{seen:?}"))
    })
    .await;
    revoke(&world, &lost.0).await;
    eventually(
        "the revoked one is refused, the other one not",
        SOON,
        async || {
            let seen = (knock(Some(&lost)).await, knock(Some(&good)).await);
            (seen.0.is_err() && served(&seen.1))
                .then_some(())
                .ok_or(format!("{seen:?}"))
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_refuse_certificates_that_the_authority_revokes() {
    let _turn = one_at_a_time();
    the_list_reaches(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_proxies_without_an_agent_refuse_certificates_that_the_authority_revokes() {
    let _turn = one_at_a_time();
    the_list_reaches(&Program::Weft(WEFT.into())).await;
}

/// `caCertificates`: the authority of another trust domain confirms identities of that domain and of
/// no other.
async fn another_trust_domain_is_let_in(program: &Program) {
    let others = Forger::root_of("example.org");
    let root = TrustBundle::new([others.0.certificate().clone()]).expect("a root");
    let pem = String::from_utf8(root.pem().to_vec()).expect("PEM");
    let mesh = serde_json::json!({
        "caCertificates": [{"pem": pem, "trustDomains": ["example.org"]}],
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, mesh.to_string()).expect("mine");
    let world = World::start(&[&format!("--mesh-config={}", file.display())]).await;
    let (server, _) = world.served(program, "server", 24, true).await;
    let (mesh, now) = (Forger::of(&world), SystemTime::now());
    let foreign = "spiffe://example.org/ns/shop/sa/front";
    let status = |seen: &Result<String, String>| {
        let line = seen.as_ref().ok()?;
        line.split(' ').nth(1).map(str::to_owned)
    };
    for (what, certificate, wanted) in [
        ("the mesh's own", mesh.issue(FRONT, now), Some("200")),
        // It is let in; no policy is for it.
        ("its own domain", others.issue(foreign, now), Some("403")),
        ("a domain of others", others.issue(FRONT, now), None),
        ("the mesh for others", mesh.issue(foreign, now), None),
        (
            "a domain that nobody knows",
            others.issue("spiffe://else.where/ns/shop/sa/front", now),
            None,
        ),
    ] {
        eventually(what, SOON, async || {
            let seen = knock(Some(&certificate)).await;
            (status(&seen).as_deref() == wanted)
                .then_some(())
                .ok_or(format!("{seen:?}"))
        })
        .await;
    }
    // A client may hear of its refusal before that is counted.
    eventually("each refusal is counted once", SOON, async || {
        let counted = ssl(&server, "fail_verify_error").await;
        (counted == 3).then_some(()).ok_or(counted.to_string())
    })
    .await;
    server.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_let_another_trust_domain_in_by_its_own_authority_only() {
    let _turn = one_at_a_time();
    another_trust_domain_is_let_in(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_proxies_let_another_trust_domain_in_by_its_own_authority_only() {
    let _turn = one_at_a_time();
    another_trust_domain_is_let_in(&Program::Weft(WEFT.into())).await;
}
