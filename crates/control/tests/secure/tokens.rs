//! Tokens: those of workloads, and those by which workloads show who they are.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::setup::{
    CART, Identity, KeyServer, Secure, cart, identity, identity_call, names, request,
};
use serde_json::json;
use tonic::{Code, Status};
use weft_ca::Lifetimes;
use weft_xds::TypeUrl;

#[tokio::test]
async fn tokens_are_for_who_asks_and_are_checked_by_the_bundle() {
    use weft_proto::identity::{BundlesRequest, BundlesResponse, JwtSvidRequest, JwtSvidResponse};
    let secure = Secure::start().await;
    let cart = secure.join("shop", "cart").await;
    let request = |audience: &[&str], validity_duration| JwtSvidRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        validity_duration,
    };
    let ask = async |identity: Option<&Identity>, bearer: Option<&str>, request| {
        let channel = secure.channel(identity).await;
        identity_call::<_, JwtSvidResponse>(channel, "CreateJwtSvid", bearer, request).await
    };
    let svid = ask(Some(&cart), None, request(&["shop"], 0)).await;
    let svid = svid.expect("signed").svid;
    let channel = secure.channel(Some(&cart)).await;
    let bundles = identity_call(channel, "GetBundles", None, BundlesRequest {}).await;
    let bundles: BundlesResponse = bundles.expect("given");
    let own = &bundles.bundles["cluster.local"];
    assert_eq!(
        own.x509_authorities,
        [secure.roots().certificates()[0].to_vec()]
    );
    let keys = weft_jwt::Keys::parse(&own.jwks).expect("keys");
    let now = SystemTime::now();
    let judged = weft_ca::JwtSvid::validate(&svid, "shop", |_| Some(&keys), now);
    let judged = judged.expect("good");
    assert_eq!(judged.id.to_string(), CART);
    let life = judged.expiry.duration_since(now).expect("later");
    assert!(life <= Duration::from_mins(5), "{life:?}");
    // By a token of Kubernetes, too, and an hour at most.
    let token = secure.kubernetes_token("istio-ca");
    let long = ask(None, Some(&token), request(&["a", "b"], 1_000_000)).await;
    let long = weft_ca::JwtSvid::read(&long.expect("signed").svid).expect("read");
    let life = long.expiry.duration_since(now).expect("later");
    assert!(
        life > Duration::from_mins(50) && life <= Duration::from_mins(61),
        "{life:?}"
    );

    let nobody = ask(None, None, request(&["a"], 0))
        .await
        .expect_err("nobody");
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let token = secure.join_token("shop", "cart");
    let join = ask(None, Some(&token), request(&["a"], 0)).await;
    let join = join.expect_err("good for a certificate only");
    assert!(join.message().contains("join_token_elsewhere"), "{join}");
    for audiences in [&[][..], &[""], &["a"; 17]] {
        let wrong = ask(Some(&cart), None, request(audiences, 0)).await;
        assert_eq!(wrong.expect_err("refused").code(), Code::InvalidArgument);
    }
    let channel = secure.channel(None).await;
    let bundles = identity_call(channel, "GetBundles", None, BundlesRequest {}).await;
    let bundles: Result<BundlesResponse, Status> = bundles;
    assert_eq!(bundles.expect_err("nobody").code(), Code::Unauthenticated);
    assert_eq!(secure.metric("weft_ca_jwt_svids").await, 2);
    secure.stop().await;
}

#[tokio::test]
async fn keys_of_an_issuer_are_fetched_and_the_last_good_ones_hold() {
    let server = KeyServer::start().await;
    let mut set = String::new();
    let url = format!("jwksUri: 'http://{}/keys'", server.address);
    let keys = |jwks: &str| {
        set = jwks.to_owned();
        url
    };
    let secure = Secure::start_with(Duration::ZERO, Lifetimes::default(), keys).await;
    let token = secure.kubernetes_token("istio-ca");
    let early = secure.ask(None, Some(&token), request().1).await;
    let early = early.expect_err("the server is away");
    assert_eq!(early.code(), Code::Unauthenticated, "{early}");
    assert!(early.message().contains("token_signature"), "{early}");
    server.put(200, &set);
    // By itself, after a failure.
    let believed = async {
        while secure.ask(None, Some(&token), request().1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let believed = tokio::time::timeout(Duration::from_secs(30), believed).await;
    believed.expect("its keys are fetched");
    // Away again, and then with other keys: an unknown key has them fetched before their time.
    server.put(503, "");
    let mut forged = token.clone();
    forged.truncate(token.len() - 4);
    forged.push_str("AAAA");
    let stranger = secure.ask(None, Some(&forged), request().1).await;
    stranger.expect_err("another signature");
    server.is_asked_again().await;
    let kept = secure.ask(None, Some(&token), request().1).await;
    kept.expect("the last good keys hold");
    server.put(200, r#"{"keys": []}"#);
    server.is_asked_again().await;
    let kept = secure.ask(None, Some(&token), request().1).await;
    kept.expect("a set without a key is no set");
    let failed = secure.metric("weft_token_issuer_fetches_failed").await;
    assert!(failed >= 3, "{failed}");
    secure.stop().await;
}

#[tokio::test]
async fn a_kubernetes_api_judges_tokens_whose_keys_nobody_has() {
    let api = KeyServer::start().await;
    let (none, lifetimes) = (Duration::ZERO, Lifetimes::default());
    let secure = Secure::start_reviewed(none, lifetimes, str::to_owned, Some(api.address)).await;
    let token = secure.kubernetes_token("istio-ca");
    let away = secure.ask(None, Some(&token), request().1).await;
    let away = away.expect_err("the API is away");
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    let status = |authenticated: bool, name: &str| {
        let user = json!({"username": name, "groups": ["system:serviceaccounts"]});
        let status =
            json!({"authenticated": authenticated, "audiences": ["istio-ca"], "user": user});
        json!({"kind": "TokenReview", "status": status}).to_string()
    };
    api.put(201, &status(true, "system:serviceaccount:shop:cart"));
    let (key, first) = request();
    let chain = secure.ask(None, Some(&token), first).await.expect("issued");
    assert_eq!(names(&identity(&key, &chain)), [CART]);
    let asked = api.request.lock().expect("whole").clone();
    let bare = token.strip_prefix("Bearer ").expect("one");
    assert!(
        asked.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "),
        "{asked}"
    );
    assert!(asked.contains("authorization: Bearer own-token"), "{asked}");
    assert!(
        asked.contains(bare) && asked.contains("istio-ca"),
        "{asked}"
    );
    // A stream, too.
    let cluster = TypeUrl::CLUSTER;
    let cds = cluster.as_str();
    let answer = secure.stream(None, Some(&token), cart(&[]), cds).await;
    assert_eq!(answer.expect("a stream").type_url, cds);

    api.put(201, &status(false, ""));
    let refused = secure.ask(None, Some(&token), request().1).await;
    let refused = refused.expect_err("not authenticated");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("(token_review)"), "{refused}");
    let stream = secure.stream(None, Some(&token), cart(&[]), cds).await;
    assert_eq!(stream.expect_err("refused").code(), Code::Unauthenticated);
    // What cannot be good is not asked about.
    let before = api.asked.load(Ordering::Relaxed);
    let other = secure.kubernetes_token("vault");
    for token in ["Bearer x", &other] {
        let refused = secure.ask(None, Some(token), request().1).await;
        assert_eq!(refused.expect_err(token).code(), Code::Unauthenticated);
    }
    assert_eq!(api.asked.load(Ordering::Relaxed), before);
    // A join token is nobody else's matter.
    secure.join("shop", "cart").await;
    assert_eq!(api.asked.load(Ordering::Relaxed), before);
    secure.stop().await;
}
