//! Istio's task pages about security, through real Envoy and through our own proxy; the table of
//! all pages is in `tasks_traffic`.

use weft_testkit::SharedStage;

#[path = "tasks/guarded.rs"]
mod guarded;
#[path = "tasks/judge.rs"]
mod judge;
#[path = "security/tokens.rs"]
mod tokens;

use guarded::{Guarded, HTTP, policy};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Guarded> = SharedStage::new();
/// The body of an answer of the filter that refuses.
const DENIED: &str = "RBAC: access denied";

#[test]
fn a_namespace_moves_to_mutual_tls() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let mode = |mode: &str| {
            format!(
                "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: $NS}}
spec: {{mtls: {{mode: {mode}}}}}
"
            )
        };
        world.rules("");
        world.becomes("both are served at first", "/", 200).await;
        let meshed = async || world.meshed("GET", "/").await;
        world
            .side
            .becomes("the caller's sidecar", 200, meshed)
            .await;
        // As the page has it: the server is told who called, by the sidecar that knows.
        let seen = world.httpbin.seen();
        let names = seen
            .last()
            .map(|seen| seen.header("x-forwarded-client-cert"));
        let caller = format!(
            "URI=spiffe://cluster.local/ns/{}/sa/client",
            world.side.name
        );
        assert!(
            names.is_some_and(|names| names.contains(&caller)),
            "{names:?}"
        );
        world.rules(&mode("STRICT"));
        world.becomes("plain text is refused", "/", 0).await;
        assert_eq!(meshed().await, 200);
        // As the page about authentication has it: one port of one workload stays open.
        let port = format!(
            "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: server, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  mtls: {{mode: STRICT}}
  portLevelMtls: {{{HTTP}: {{mode: DISABLE}}}}
"
        );
        world.rules(&(mode("STRICT") + &port));
        world.becomes("the port takes plain text", "/", 200).await;
        world
            .side
            .becomes("the caller's sidecar sends it", 200, meshed)
            .await;
        assert_eq!(world.echoes().await, [false, false], "other ports do not");
        world.rules(&mode("PERMISSIVE"));
        world.becomes("plain text is served again", "/", 200).await;
        assert_eq!(meshed().await, 200);
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn http_is_allowed_by_method_and_caller() {
    STAGE.play(WEFT, async |world: &Guarded| {
        // The first policy of the page is for the whole namespace and allows nothing.
        let nothing = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing, namespace: $NS}
spec: {}
---
";
        world.rules(nothing);
        world.becomes("nothing is allowed", "/", 403).await;
        let answer = world.plain("GET", "/", &[]).await.expect("an answer");
        assert_eq!(answer.body, DENIED);
        let get = async || world.meshed("GET", "/").await;
        world.side.becomes("also to the caller", 403, get).await;

        let viewer = policy("viewer", "  rules: [{to: [{operation: {methods: [GET]}}]}]");
        world.rules(&(nothing.to_owned() + &viewer));
        world.becomes("who reads", "/", 200).await;
        assert_eq!(world.status("POST", "/", &[]).await, 403);

        let caller = policy(
            "caller",
            "  rules:
  - from: [{source: {principals: [cluster.local/ns/$NS/sa/client]}}]
    to: [{operation: {methods: [GET]}}]",
        );
        world.rules(&(nothing.to_owned() + &caller));
        world.becomes("nobody without a name", "/", 403).await;
        assert_eq!(world.meshed("GET", "/").await, 200);
        assert_eq!(world.meshed("POST", "/").await, 403);
        let namespaces = policy(
            "namespaces",
            "  rules: [{from: [{source: {namespaces: [$NS]}}]}]",
        );
        world.rules(&(nothing.to_owned() + &namespaces));
        let post = async || world.meshed("POST", "/").await;
        world.side.becomes("a namespace", 200, post).await;
        assert_eq!(world.status("GET", "/", &[]).await, 403);
        world.rules("");
        world.becomes("no policy", "/", 200).await;
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn tcp_is_allowed_and_denied_by_port() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let tcp = |spec: &str| world.rules(&policy("tcp", spec));
        let becomes = async |what: &str, wanted: [bool; 2]| {
            world
                .side
                .becomes(what, wanted, async || world.echoes().await)
                .await;
        };
        world.rules("");
        becomes("without a policy", [true, true]).await;
        tcp("  rules: [{to: [{operation: {ports: ['9001']}}]}]");
        becomes("one port", [false, true]).await;
        tcp("  rules: [{to: [{operation: {ports: ['9000', '9001']}}]}]");
        becomes("both ports", [true, true]).await;
        // A rule with what only HTTP has allows nothing of bytes.
        tcp("  rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]");
        becomes("with a method", [false, false]).await;
        // It denies as if the method were not there.
        tcp("  action: DENY\n  rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]");
        becomes("denied with a method", [false, true]).await;
        tcp("  action: DENY\n  rules: [{to: [{operation: {ports: ['9001']}}]}]");
        becomes("denied by its port", [true, false]).await;
        world.rules("");
        becomes("without a policy again", [true, true]).await;
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn tokens_are_checked_and_wanted() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let words = tokens::words();
        let authentication = format!(
            "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  jwtRules: [{{issuer: me, jwks: {}}}]
---
",
            words["jwks"]
        );
        let call = async |token: &str| {
            let value = format!("Bearer {}", words.get(token).map_or(token, |token| token));
            world.status("GET", "/", &[("authorization", &value)]).await
        };
        let none = async || world.status("GET", "/", &[]).await;
        world.rules(&authentication);
        let invalid = async || call("invalid").await;
        world.side.becomes("an invalid token", 401, invalid).await;
        assert_eq!(none().await, 200, "no token is no harm");
        assert_eq!(call("token:good").await, 200);
        assert_eq!(call("token:stranger").await, 401);
        assert_eq!(call("token:expired").await, 401);

        let wanted = policy(
            "wanted",
            "  rules: [{from: [{source: {requestPrincipals: [me/someone]}}]}]",
        );
        world.rules(&(authentication.clone() + &wanted));
        world.side.becomes("a token is wanted", 403, none).await;
        assert_eq!(call("token:good").await, 200);
        assert_eq!(call("token:sub-other").await, 403, "of somebody else");
        assert_eq!(call("invalid").await, 401);

        let claim = |value: &str| {
            let rule = format!(
                "  rules:
  - from: [{{source: {{requestPrincipals: [me/someone]}}}}]
    when: [{{key: 'request.auth.claims[scope]', values: [{value}]}}]"
            );
            authentication.clone() + &policy("wanted", &rule)
        };
        let good = async || call("token:good").await;
        world.rules(&claim("admin"));
        world.side.becomes("a claim is wanted", 403, good).await;
        world.rules(&claim("write"));
        world.side.becomes("the claim is there", 200, good).await;
        assert_eq!(none().await, 403);
        world.rules("");
        world.becomes("no rules", "/", 200).await;
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn denial_comes_before_permission() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let deny = |rule: &str| policy("deny", &format!("  action: DENY\n  rules: [{{{rule}}}]"));
        world.rules(&deny("to: [{operation: {methods: [GET]}}]"));
        world.becomes("GET is denied", "/", 403).await;
        assert_eq!(world.status("POST", "/", &[]).await, 200);

        let header = deny(
            "to: [{operation: {methods: [GET]}}], when: [{key: 'request.headers[x-token]', notValues: [admin]}]",
        );
        let token = async |token: &str| world.status("GET", "/", &[("x-token", token)]).await;
        world.rules(&header);
        let admin = async || token("admin").await;
        world.side.becomes("the header of an admin", 200, admin).await;
        assert_eq!(token("guest").await, 403);
        assert_eq!(world.status("GET", "/", &[]).await, 403);

        let allow = policy("allow", "  rules: [{to: [{operation: {paths: [/ip]}}]}]");
        world.rules(&(header + &allow));
        world.side.becomes("another path", 403, admin).await;
        let headers = [("x-token", "admin")];
        assert_eq!(world.status("GET", "/ip", &headers).await, 200);
        assert_eq!(world.status("GET", "/ip", &[("x-token", "guest")]).await, 403);
        world.rules("");
        world.becomes("no policy", "/", 200).await;
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn a_dry_run_denies_nothing_and_counts() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let dry = policy(
            "dry",
            "  action: DENY\n  rules: [{to: [{operation: {paths: [/dry]}}]}]",
        );
        let dry = dry.replace(
            "namespace: $NS}",
            "namespace: $NS, annotations: {istio.io/dry-run: 'true'}}",
        );
        world.rules(&dry);
        let counted = async || {
            assert_eq!(world.status("GET", "/dry", &[]).await, 200);
            let stats = world.sidecar.stats().await;
            stats.ending("shadow_denied").values().sum::<u64>() > 0
        };
        world.side.becomes("it is counted", true, counted).await;
        world.rules("");
        world.sidecar.assert_nothing_refused().await;
    });
}

#[test]
fn another_service_decides() {
    STAGE.play(WEFT, async |world: &Guarded| {
        world.rules(&policy(
            "judged",
            "  action: CUSTOM
  provider: {name: judge-$NS}
  rules: [{to: [{operation: {paths: [/headers]}}]}]",
        ));
        world.becomes("who does not ask", "/headers", 403).await;
        let denied = world
            .plain("GET", "/headers", &[("x-ext-authz", "deny")])
            .await;
        let denied = denied.expect("an answer");
        assert_eq!((denied.status, &*denied.body), (403, "denied by the judge"));
        let allow = [("x-ext-authz", "allow")];
        assert_eq!(world.status("GET", "/headers", &allow).await, 200);
        let seen = world.httpbin.seen();
        let last = seen.last().expect("it was called");
        assert_eq!(
            (&*last.path, last.header("x-judged")),
            ("/headers", "allowed")
        );
        assert_eq!(world.status("GET", "/ip", &[]).await, 200, "another path");

        let deny = policy(
            "deny",
            "  action: DENY\n  rules: [{to: [{operation: {paths: [/ip]}}]}]",
        );
        world.rules(&deny);
        world.becomes("denied", "/ip", 403).await;
        world
            .becomes("nobody is asked any more", "/headers", 200)
            .await;
        world.rules("");
        world.becomes("no policy", "/ip", 200).await;
        world.sidecar.assert_nothing_refused().await;
    });
}
