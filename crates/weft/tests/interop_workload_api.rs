//! The SPIFFE Workload API of `weft proxy`, asked by a public SPIFFE client.

mod agents;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use agents::{SOON, World, metric};
use serde_json::Value;
use weft_testkit::{Peers, Script, eventually, one_at_a_time};

const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
/// Of users that are not the one who tests.
const FRIEND: &str = "65533";
const STRANGER: &str = "65534";

fn foreign_root() -> weft_ca::TrustBundle {
    let domain = weft_ca::TrustDomain::parse("example.org").expect("valid");
    let (kind, life) = (weft_ca::KeyKind::P256, Duration::from_hours(24));
    let made = weft_ca::Issuer::new_root(&domain, kind, life, SystemTime::now());
    weft_ca::TrustBundle::new([made.expect("a root").1]).expect("a bundle")
}

fn client(world: &World, socket: &Path, user: Option<&str>) -> Script {
    let mut python = Command::new(Peers::new().python_with_spiffe());
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/interop/spiffe_client.py"
    );
    python.arg(script).arg(socket).args(user);
    let log = world
        .folder
        .log(&format!("spiffe-{}.log", user.unwrap_or("own")));
    Script::start("the SPIFFE client", python, &log)
}

fn text<'v>(answer: &'v Value, name: &str) -> &'v str {
    let found = answer[name].as_str();
    found.unwrap_or_else(|| panic!("no {name}: {answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_get_the_identity_of_their_workload() {
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let others = folder.path().join("others");
    std::fs::create_dir(&others).expect("made");
    let foreign = foreign_root();
    let bundle = weft_ca::federation::own_bundle(&foreign, b"{}");
    std::fs::write(others.join("example.org.json"), bundle).expect("written");
    let federated = format!("--federated-bundles={}", others.display());
    let world = World::start(&[&federated]).await;
    let socket = folder.path().join("api.sock");
    let flag = format!("--workload-api={}", socket.display());
    let (server, _) = world.server_with(&[&flag, "--secret-ttl=16s"]).await;
    let mode = std::fs::metadata(&socket).expect("there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    let mut client = client(&world, &socket, None);
    let svid = client.ask("x509").await;
    assert_eq!(text(&svid, "id"), SERVER);
    let root = std::fs::read_to_string(world.roots()).expect("written");
    let own = &svid["roots"]["cluster.local"];
    assert_eq!(own[0].as_str(), Some(&*root), "{svid}");

    let foreign = String::from_utf8(foreign.pem().to_vec()).expect("PEM");
    eventually(
        "the bundle of the other trust domain is there",
        SOON,
        async || {
            let svid = client.ask("x509").await;
            let other = svid["roots"]["example.org"][0].as_str();
            (other == Some(&*foreign))
                .then_some(())
                .ok_or(svid.to_string())
        },
    )
    .await;

    // What is revoked is told with the bundles.
    let none = serde_json::json!({"svid": [], "bundles": []});
    assert_eq!(client.ask("lists").await, none);
    let revoked = world.folder.path("ca").join("revoked.txt");
    std::fs::write(revoked, "1badcafe\n").expect("written");
    let listed = serde_json::json!({"svid": ["1badcafe"], "bundles": ["1badcafe"]});
    eventually("the list is there", SOON, async || {
        let lists = client.ask("lists").await;
        (lists == listed).then_some(()).ok_or(lists.to_string())
    })
    .await;

    // The certificate is renewed, and who follows hears of it.
    let first = client.ask("follow").await;
    let next = client.ask("next").await;
    assert_eq!(text(&next, "id"), SERVER);
    assert_ne!(text(&first, "serial"), text(&next, "serial"));

    // The client checks the token by the bundle that it was given.
    let jwt = client.ask("jwt shop bank").await;
    assert_eq!(text(&jwt, "id"), SERVER);
    let token = text(&jwt, "token");
    let again = client.ask("jwt bank shop").await;
    assert_eq!(
        text(&again, "token"),
        token,
        "it is kept for half of its life"
    );
    let valid = client.ask(&format!("validate shop {token}")).await;
    assert_eq!(text(&valid, "id"), SERVER);
    let refused = client.ask(&format!("validate vault {token}")).await;
    assert!(
        text(&refused, "error").contains("other audiences"),
        "{refused}"
    );
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let forged = client.ask(&format!("validate shop {signed}.AAAA")).await;
    assert!(text(&forged, "error").contains("fail"), "{forged}");
    let bare = client.ask("bare").await;
    assert!(text(&bare, "error").contains("INVALID_ARGUMENT"), "{bare}");
    assert_eq!(metric(&server, "agent.workload_api_bad_requests").await, 1);
    assert_eq!(metric(&server, "agent.jwt_svids").await, 1);
    assert_eq!(world.control.metric("weft_ca_jwt_svids").await, 1);
    assert!(!server.log().contains(signed), "tokens are not logged");
    drop(server);
}

/// Needs root, to be other users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_other_users_get_nothing_unless_their_user_is_named() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("changed");
    let socket = folder.path().join("api.sock");
    let flags = [
        format!("--workload-api={}", socket.display()),
        format!("--workload-api-user={FRIEND}"),
    ];
    let (server, _) = world.server_with(&[&flags[0], &flags[1]]).await;
    let mut friend = client(&world, &socket, Some(FRIEND));
    assert_eq!(text(&friend.ask("x509").await, "id"), SERVER);
    let mut stranger = client(&world, &socket, Some(STRANGER));
    for command in ["x509", "jwt shop", "validate shop a.b.c"] {
        let refused = stranger.ask(command).await;
        assert!(
            text(&refused, "error").contains("no identity issued"),
            "{refused}"
        );
    }
    assert_eq!(metric(&server, "agent.workload_api_refused").await, 3);
    eventually("the log names the stranger", SOON, async || {
        let said = server.log();
        said.contains(STRANGER).then_some(()).ok_or(said)
    })
    .await;
}
