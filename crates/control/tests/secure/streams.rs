//! Streams are for nodes that are who their credentials say.

use std::time::Duration;

use crate::plane::{PATIENCE, SERVICE, SIDECAR, Sotw, get, node, write};
use crate::setup::{Secure, answer, cart, request, request_for, serial};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_xds::TypeUrl;
use weft_xds::pb::DiscoveryRequest;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

#[tokio::test]
async fn streams_are_for_nodes_that_are_who_their_credentials_say() {
    let secure = Secure::start().await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let cluster = cluster.as_str();
    for (identity, bearer) in [
        (Some(&own), None),
        (None, Some(secure.kubernetes_token("istio-ca"))),
    ] {
        for metadata in [&[][..], &[("SERVICE_ACCOUNT", "cart")][..]] {
            let answer = secure
                .stream(identity, bearer.as_deref(), cart(metadata), cluster)
                .await;
            assert!(!answer.expect("served").resources.is_empty());
        }
    }
    for other in [
        node("sidecar~10.0.0.9~vault.bank~bank.svc.cluster.local"),
        cart(&[("NAMESPACE", "bank")]),
        cart(&[("SERVICE_ACCOUNT", "vault")]),
    ] {
        let refused = secure.stream(Some(&own), None, other, cluster).await;
        let refused = refused.expect_err("somebody else");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert_eq!(secure.metric("weft_xds_identity_mismatches").await, 3);
    let join = secure.join_token("shop", "cart");
    let unknown = Some("Bearer weft-join-x");
    for bearer in [None, Some(&*join), unknown] {
        let refused = secure.stream(None, bearer, cart(&[]), cluster).await;
        assert_eq!(refused.expect_err("nobody").code(), Code::Unauthenticated);
    }
    let elsewhere = "weft_authentication_failures{reason=\"join_token_elsewhere\"}";
    assert_eq!(secure.metric(elsewhere).await, 2, "neither is looked up");
    let (_, good) = request_for(None);
    let unspent = secure.ask(None, Some(&join), good).await;
    assert!(unspent.is_ok(), "a stream spends no join token");
    secure.stop().await;
}

#[tokio::test]
async fn workloads_register_themselves_as_who_they_are() {
    const GROUP: &str = r"
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: carts, namespace: shop}
spec: {template: {serviceAccount: cart}}
";
    let secure = Secure::start().await;
    let directory = secure.running.directory.path();
    write(directory, "group.yaml", GROUP);
    let other = GROUP
        .replace("carts", "vaults")
        .replace("Account: cart", "Account: vault");
    write(directory, "other.yaml", &other);
    get(&secure.running, "/debug/wait?refresh").await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let carts = cart(&[("AUTO_REGISTER_GROUP", "carts")]);
    let served = secure
        .stream(Some(&own), None, carts.clone(), cluster.as_str())
        .await;
    served.expect("it is one of them");
    assert_eq!(secure.metric("auto_registration_success_total").await, 1);
    let vaults = cart(&[("AUTO_REGISTER_GROUP", "vaults")]);
    let refused = secure
        .stream(Some(&own), None, vaults, cluster.as_str())
        .await;
    let refused = refused.expect_err("another account");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // On the plain port nobody is anybody.
    let address = format!("http://{}", secure.running.control.grpc_addr);
    let client = AggregatedDiscoveryServiceClient::connect(address).await;
    let (requests, receiver) = mpsc::channel(4);
    let first = DiscoveryRequest {
        node: Some(carts),
        type_url: cluster.as_str().to_owned(),
        ..DiscoveryRequest::default()
    };
    requests.send(first).await.expect("room");
    let stream = client
        .expect("connects")
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await;
    let refused = answer(&mut stream.expect("a stream").into_inner()).await;
    let refused = refused.expect_err("no identity");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(secure.metric("auto_registration_errors_total").await, 2);
    secure.stop().await;
}

#[tokio::test]
async fn streams_of_the_two_ports_have_nothing_to_do_with_each_other() {
    let secure = Secure::start().await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    // Each is the first of its port.
    let mut plain = Sotw::connect(&secure.running, SIDECAR, std::slice::from_ref(&cluster)).await;
    plain.next(PATIENCE, None).await.expect("clusters");
    let opened = secure.open(Some(&own), None, cart(&[]), cluster.as_str());
    let (requests, mut stream) = opened.await.expect("believed");
    let first = answer(&mut stream).await.expect("clusters");
    let accepted = DiscoveryRequest {
        type_url: first.type_url,
        version_info: first.version_info,
        response_nonce: first.nonce,
        ..DiscoveryRequest::default()
    };
    requests.send(accepted).await.expect("room");
    let page = get(&secure.running, "/debug/connections").await;
    assert!(
        page.contains("app.shop") && page.contains("cart.shop"),
        "{page}"
    );
    drop(plain);
    let since = std::time::Instant::now();
    while get(&secure.running, "/debug/connections")
        .await
        .contains("app.shop")
    {
        assert!(since.elapsed() < PATIENCE, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = get(&secure.running, "/debug/connections").await;
    assert!(page.contains("cart.shop"), "{page}");
    let edited = SERVICE.replace("number: 80", "number: 81");
    write(secure.running.directory.path(), "mesh.yaml", &edited);
    let edit = answer(&mut stream).await;
    edit.expect("the end of one stream is not that of the other");
    secure.stop().await;
}

#[tokio::test]
async fn only_members_of_the_root_namespace_ask_about_all_proxies() {
    let secure = Secure::start().await;
    let question = "istio.io/debug/syncz";
    let own = secure.join("shop", "cart").await;
    let refused = secure.stream(Some(&own), None, cart(&[]), question).await;
    assert_eq!(
        refused.expect_err("a tenant").code(),
        Code::PermissionDenied
    );
    let system = secure.join("istio-system", "operator").await;
    let answer = secure
        .stream(Some(&system), None, cart(&[]), question)
        .await;
    assert_eq!(answer.expect("answered").type_url, question);
    secure.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_call_on_and_its_streams_end() {
    let secure = Secure::start().await;
    let lost = secure.join("shop", "cart").await;
    let kept = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let cluster = cluster.as_str();
    let opened = secure.open(Some(&lost), None, cart(&[]), cluster).await;
    let (_requests, mut of_lost) = opened.expect("it is good still");
    answer(&mut of_lost).await.expect("clusters");
    let opened = secure.open(Some(&kept), None, cart(&[]), cluster).await;
    let (_requests, mut of_kept) = opened.expect("it is good");
    answer(&mut of_kept).await.expect("clusters");
    let serial = serial(&lost);
    write(&secure.ca(), "revoked.txt", &format!("{serial}\n"));
    let since = std::time::Instant::now();
    while secure.metric("weft_ca_revoked").await == 0 {
        assert!(since.elapsed() < PATIENCE, "it is not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = secure
        .ask(Some(&lost), None, request().1)
        .await
        .expect_err("revoked");
    assert!(
        refused.message().contains("certificate_revoked"),
        "{refused}"
    );
    let refused = secure.stream(Some(&lost), None, cart(&[]), cluster).await;
    assert_eq!(refused.expect_err("revoked").code(), Code::Unauthenticated);
    let ended = answer(&mut of_lost).await.expect_err("its stream ends");
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let more = tokio::time::timeout(Duration::from_millis(300), of_kept.message()).await;
    assert!(more.is_err(), "that of another certificate goes on");
    assert_eq!(secure.metric("weft_xds_credentials_ended").await, 1);
    assert!(secure.ask(Some(&kept), None, request().1).await.is_ok());
    secure.stop().await;
}
