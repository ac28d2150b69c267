//! What calls pass before they are routed, what befalls them on purpose, and what is logged of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::task::JoinHandle;
use weft_rpc::{Decoded, Kind, Limits, Outcome};

use super::proxy::{PATIENCE, Proxy, Upstream};
use super::routes::{RDS, control_plane, view_of};
use super::rpc::{DUBBO, Peer, attribute, dubbo, frame, has, request, response};

/// An RPC connection manager with these fields before its routes.
fn with(fields: &str, route: &str) -> String {
    let dubbo = DUBBO.replace("route_config: ", fields);
    format!("{dubbo} route_config: {{routes: [{route}]}}}}}}")
}

const ROUTE: &str = "{route: {cluster: up}}";

/// The filter of some policies, before the router.
fn rbac(rules: &str) -> String {
    format!("meta_protocol_filters: [{rules}, {{name: aeraki.meta_protocol.filters.router}}],")
}

fn policy(action: &str, permissions: &str) -> String {
    format!(
        "{{name: envoy.filters.http.rbac, config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, \
         rules: {{action: {action}, policies: {{one: {{permissions: [{permissions}], \
         principals: [{{any: true}}]}}}}}}}}}}"
    )
}

/// Answers every call.
async fn serve(listener: Upstream) {
    loop {
        let mut host = Peer::accept(&listener).await;
        tokio::spawn(async move {
            while let Some(call) = host.frame().await {
                host.send(response(call.id(), "served")).await;
            }
        });
    }
}

/// The status of the answer to a call.
async fn status(client: &mut Peer, call: Vec<u8>) -> u8 {
    client.send(call).await;
    client.answer().await.bytes()[3]
}

const OK: u8 = 20;
const DENIED: u8 = 70;

#[tokio::test]
async fn each_call_is_denied_or_let_in_by_what_it_calls() {
    let (listener, address) = Upstream::start().await;
    let deny = policy(
        "DENY",
        "{url_path: {path: {prefix: /del}}}, {header: {name: user, string_match: {exact: eve}}}, \
         {header: {name: group, string_match: {exact: secret}}}",
    );
    let allow = policy(
        "ALLOW",
        "{and_rules: {rules: [{header: {name: ':authority', string_match: {exact: shop.Cart}}}, \
         {not_rule: {header: {name: ':method', string_match: {exact: hidden}}}}]}}",
    );
    let filter = with(&rbac(&format!("{deny}, {allow}")), ROUTE);
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    tokio::spawn(serve(listener));
    let mut client = Peer::connect(&proxy).await;
    for (method, attachments, wanted) in [
        ("get", &[][..], OK),
        ("delete", &[], DENIED),
        ("hidden", &[], DENIED),
        ("get", &["user", "bob"], OK),
        ("get", &["user", "eve"], DENIED),
        // Names have no case, and each value counts.
        ("get", &["user", "bob", "User", "eve"], DENIED),
        ("get", &["group", "public", "group", "secret"], DENIED),
    ] {
        let call = request(1, method, attachments);
        let found = status(&mut client, call).await;
        assert_eq!(found, wanted, "{method} {attachments:?}");
    }
    client.send(request(9, "delete", &[])).await;
    let answer = client.answer().await;
    assert!(answer.id() == 9 && has(&answer, "RBAC: access denied"));
    assert_eq!(answer.outcome(), Outcome::ServerError);
    for (name, wanted) in [
        ("request_denied", 6),
        ("local_response_error", 6),
        ("rbac.denied", 6),
        ("request_no_route", 0),
    ] {
        let name = format!("meta_protocol.d.p.{name}");
        assert_eq!(proxy.stat(&name).await, wanted, "{name}");
    }
    assert_eq!(proxy.stat("cluster.up.upstream_rq_total").await, 2);
    for (name, wanted) in [
        ("get|request", 5),
        ("get|response_success", 2),
        ("get|local_response_error", 3),
        ("get|response_error", 0),
    ] {
        let (method, name) = name.split_once('|').expect("both");
        let name = format!("meta_protocol.d.p.method.shop.Cart|{method}.{name}");
        assert_eq!(proxy.stat(&name).await, wanted, "{name}");
    }
    // Methods that nobody was let in to are counted together.
    for (name, wanted) in [("request", 3), ("local_response_error", 3)] {
        let name = format!("meta_protocol.d.p.method.(other)|(other).{name}");
        assert_eq!(proxy.stat(&name).await, wanted, "{name}");
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_read_gets_past_no_policy_that_looks_into_it() {
    let (listener, address) = Upstream::start().await;
    tokio::spawn(serve(listener));
    // In a serialization that nobody here reads.
    let opaque = || frame(0xc8, 0, 5, b"anything");
    let mut damaged = request(6, "get", &["user", "bob"]);
    let len = damaged.len();
    // The attachments say that more of them follow.
    damaged[len - 1] = b'N';
    for (rules, of_opaque, of_damaged) in [
        (
            policy("DENY", "{url_path: {path: {exact: /delete}}}"),
            DENIED,
            OK,
        ),
        (
            policy("ALLOW", "{not_rule: {url_path: {path: {exact: /delete}}}}"),
            DENIED,
            OK,
        ),
        (
            policy("DENY", "{header: {name: user, string_match: {exact: eve}}}"),
            DENIED,
            DENIED,
        ),
        (policy("ALLOW", "{any: true}"), OK, OK),
        (policy("DENY", "{destination_port: 1}"), OK, OK),
    ] {
        let filter = with(&rbac(&rules), ROUTE);
        let proxy = Proxy::start(&filter, &[("up", address)]).await;
        let mut client = Peer::connect(&proxy).await;
        let seen = status(&mut client, opaque()).await;
        assert_eq!(seen == DENIED, of_opaque == DENIED, "{rules}");
        let seen = status(&mut client, damaged.clone()).await;
        assert_eq!(seen == DENIED, of_damaged == DENIED, "{rules}");
    }
}

#[tokio::test]
async fn rules_that_are_only_tried_keep_nobody_out_and_are_counted() {
    let (listener, address) = Upstream::start().await;
    tokio::spawn(serve(listener));
    let tried = "{name: envoy.filters.http.rbac, config: {'@type': \
        type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, \
        shadow_rules_stat_prefix: dry_, shadow_rules: {action: DENY, policies: {one: \
        {permissions: [{url_path: {path: {exact: /delete}}}], principals: [{any: true}]}}}}}";
    let proxy = Proxy::start(&with(&rbac(tried), ROUTE), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    assert_eq!(status(&mut client, request(1, "delete", &[])).await, OK);
    assert_eq!(status(&mut client, request(2, "get", &[])).await, OK);
    let of = |name: &str| format!("meta_protocol.d.p.rbac.dry_.{name}");
    assert_eq!(proxy.stat(&of("shadow_denied")).await, 1);
    assert_eq!(proxy.stat(&of("shadow_allowed")).await, 1);
    assert_eq!(proxy.stat("meta_protocol.d.p.request_denied").await, 0);
}

/// Of the issuer `i`, for `bob` of the team `gray`, signed with [`KEYS`].
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJpc3MiOiJpIiwic3ViIjoiYm9iIiwidGVhbSI6ImdyYXkifQ.\
    F_nXn9vcmEsinRZi1dnOQsgL34hgq1YVS8_OxqeJ6JI";
const KEYS: &str = r#"{\"keys\":[{\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4u\"}]}"#;

#[tokio::test]
async fn tokens_stand_in_attachments_and_policies_know_what_they_say() {
    let (listener, address) = Upstream::start().await;
    let tokens = format!(
        "{{name: envoy.filters.http.jwt_authn, config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, \
         providers: {{p: {{issuer: i, payload_in_metadata: payload, from_headers: [{{name: token}}], \
         claim_to_headers: [{{header_name: x-team, claim_name: team}}], \
         local_jwks: {{inline_string: \"{KEYS}\"}}}}}}, \
         rules: [{{match: {{prefix: /}}, requires: {{requires_any: {{requirements: \
         [{{provider_name: p}}, {{allow_missing: {{}}}}]}}}}}}]}}}}"
    );
    let claim = "{metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: sub}], \
                 value: {string_match: {exact: bob}}}}";
    let deny = policy("DENY", &format!("{{not_rule: {claim}}}"));
    // By what the filter before it writes, not by what the caller does.
    let admins = policy(
        "DENY",
        "{header: {name: x-team, string_match: {prefix: admins}}}",
    );
    let routes =
        "{match: {metadata: [{name: x-team, string_match: {exact: gray}}]}, route: {cluster: up}}";
    let filter = with(&rbac(&format!("{tokens}, {deny}, {admins}")), routes);
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    // No token; a bad one, whatever it says.
    let bad = TOKEN.replace("F_n", "F_m");
    let denied = request_of("get", &[]);
    client.send(denied).await;
    assert!(has(&client.answer().await, "RBAC: access denied"));
    client.send(request_of("get", &[("token", &bad)])).await;
    let answer = client.answer().await;
    assert_eq!(answer.bytes()[3], DENIED);
    assert!(has(&answer, "Jwt verification fails"));
    // A good one is taken out, and its claim stands where nobody else may write it.
    let attachments = [("Token", TOKEN), ("X-Team", "admins\n"), ("user", "bob")];
    client.send(request_of("get", &attachments)).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    assert_eq!(attribute(&call, "x-team").as_deref(), Some("gray"));
    assert_eq!(attribute(&call, "user").as_deref(), Some("bob"));
    assert_eq!(attribute(&call, "token"), None);
    assert!(!has(&call, "admins"));
    host.send(response(call.id(), "served")).await;
    assert_eq!(client.answer().await.bytes()[3], OK);
    // What cannot be read could say anything in the filter's name.
    let opaque = frame(0xc8, 0, 5, b"anything");
    assert_eq!(status(&mut client, opaque).await, DENIED);
    let of = |name: &str| format!("meta_protocol.d.p.jwt_authn.{name}");
    assert_eq!(proxy.stat(&of("denied")).await, 1);
    assert_eq!(proxy.stat(&of("allowed")).await, 2);
}

/// A request with attachments of any length.
fn request_of(method: &str, attachments: &[(&str, &str)]) -> Vec<u8> {
    let mut whole = dubbo()
        .decode(
            &mut BytesMut::from(&*request(1, method, &[])),
            Limits::default(),
        )
        .ok()
        .and_then(|decoded| match decoded {
            Decoded::Frame(frame) => Some(frame),
            Decoded::NeedMore(_) => None,
        })
        .expect("a frame");
    dubbo()
        .set_attachments(&mut whole, attachments)
        .expect("attachments");
    whole.bytes().to_vec()
}

/// The lines of a log, as soon as there are so many.
async fn lines(path: &std::path::Path, count: usize) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < end, "{lines:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_are_logged_with_what_became_of_them() {
    let (listener, address) = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.log");
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE% \
                  %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% \
                  %BYTES_RECEIVED% %REQ(USER)% %ROUTE_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\\n";
    let log = format!(
        "access_log: [{{name: file, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
         path: '{}', log_format: {{text_format_source: {{inline_string: \"{format}\"}}}}}}}}],",
        path.display()
    );
    let deny = rbac(&policy("DENY", "{url_path: {path: {exact: /delete}}}"));
    let routes = "{name: own, match: {metadata: [{name: method, invert_match: true, string_match: \
                  {exact: nowhere}}]}, route: {cluster: up}}";
    let filter = with(&format!("{log} {deny}"), routes);
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "get", &["User", "bob"])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    host.send(response(call.id(), "served")).await;
    client.answer().await;
    for method in ["delete", "nowhere"] {
        status(&mut client, request(2, method, &[])).await;
    }
    client.send(request(3, "note", &[])).await;
    host.answer().await;
    // This one's client does not wait for the answer.
    client.send(request(4, "slow", &[])).await;
    host.answer().await;
    drop(client);
    let len = |method: &str, attachments: &[&str]| request(1, method, attachments).len();
    let wanted = [
        format!(
            "get /get shop.Cart dubbo 20 - via_upstream up {address} {} bob own 1",
            len("get", &["User", "bob"])
        ),
        format!(
            "delete /delete shop.Cart dubbo 70 - rbac_access_denied_matched_policy[one] - - {} - - 0",
            len("delete", &[])
        ),
        format!(
            "nowhere /nowhere shop.Cart dubbo 60 NR route_not_found - - {} - - 0",
            len("nowhere", &[])
        ),
        format!(
            "note /note shop.Cart dubbo 0 - - up {address} {} - own 1",
            len("note", &[])
        ),
        format!(
            "slow /slow shop.Cart dubbo 0 DC downstream_remote_disconnect up {address} {} - own 1",
            len("slow", &[])
        ),
    ];
    assert_eq!(lines(&path, 5).await, wanted);
}

/// A proxy with these routes of a control plane, and the control plane.
async fn by_rds(routes: &str, hosts: &[(&str, SocketAddr)]) -> (Proxy, JoinHandle<()>) {
    let (_, address, server) = control_plane(view_of(routes)).await;
    let dubbo = DUBBO.strip_suffix("route_config: ").expect("routes");
    let filter = format!("{dubbo}{RDS}}}}}");
    let clusters = [hosts, &[("ads_http2", address)]].concat();
    (Proxy::start(&filter, &clusters).await, server)
}

/// A fault of a route.
fn fault(fields: &str) -> String {
    format!(
        "typed_per_filter_config: {{envoy.filters.http.fault: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, {fields}}}}}"
    )
}

#[tokio::test]
async fn faults_delay_calls_and_answer_them_in_their_own_status() {
    let (listener, address) = Upstream::start().await;
    tokio::spawn(serve(listener));
    let delay = fault("delay: {fixed_delay: 0.4s, percentage: {numerator: 100}}");
    let both = fault(
        "delay: {fixed_delay: 0.1s, percentage: {numerator: 100}}, \
         abort: {http_status: 429, percentage: {numerator: 100}}",
    );
    let some = fault("abort: {http_status: 504, percentage: {numerator: 50}}");
    let of_bob = fault(
        "abort: {http_status: 403, percentage: {numerator: 100}}, \
         headers: [{name: user, string_match: {exact: bob}}]",
    );
    let route = |method: &str, fault: &str| {
        format!(
            "{{match: {{prefix: /, headers: [{{name: method, string_match: {{exact: {method}}}}}]}}, \
             route: {{cluster: up}}, {fault}}}"
        )
    };
    let routes = [
        route("late", &delay),
        route("both", &both),
        route("some", &some),
        route("bob", &of_bob),
        route("note", &delay),
    ];
    let (proxy, server) = by_rds(&routes.join(", "), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    // A call that waits holds up no other, nor does its client's end.
    let begun = Instant::now();
    client.send(request(1, "late", &[])).await;
    client.send(request(2, "bob", &[])).await;
    assert_eq!(client.answer().await.id(), 2);
    assert!(begun.elapsed() < Duration::from_millis(400));
    assert_eq!(client.answer().await.id(), 1);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let begun = Instant::now();
    assert_eq!(status(&mut client, request(3, "both", &[])).await, 100);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(
        status(&mut client, request(4, "bob", &["user", "bob"])).await,
        DENIED
    );
    let mut late = 0;
    for id in 0..200 {
        late += u32::from(status(&mut client, request(id, "some", &[])).await == 31);
    }
    assert!((60..140).contains(&late), "{late}");
    let mut gone = Peer::connect(&proxy).await;
    gone.send(request(1, "late", &[])).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.fault_delays_injected", 3)
        .await;
    let before = proxy.stat("cluster.up.upstream_rq_total").await;
    drop(gone);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(proxy.stat("cluster.up.upstream_rq_total").await, before);
    assert_eq!(proxy.stat("meta_protocol.d.p.request_active").await, 0);
    let aborted = proxy.stat("meta_protocol.d.p.fault_aborts_injected").await;
    assert_eq!(aborted, u64::from(late) + 2);
    server.abort();
}

#[tokio::test]
async fn delayed_calls_are_bounded_and_end_with_a_drain_after_they_were_served() {
    let (listener, address) = Upstream::start().await;
    tokio::spawn(serve(listener));
    let delay = fault("delay: {fixed_delay: 0.5s, percentage: {numerator: 100}}");
    let route = format!("{{match: {{prefix: /}}, route: {{cluster: up}}, {delay}}}");
    let (proxy, server) = by_rds(&route, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let mut large = request(1, "get", &[]);
    large.extend(vec![7; 600_000]);
    let len = (large.len() - 16) as u32;
    large[12..16].copy_from_slice(&len.to_be_bytes());
    // The third waits until there is room for it.
    for _ in 0..3 {
        client.send(large.clone()).await;
    }
    proxy
        .wait_for_stat("meta_protocol.d.p.fault_delays_injected", 2)
        .await;
    assert_eq!(proxy.stat("meta_protocol.d.p.request").await, 2);
    assert_eq!(proxy.stat("meta_protocol.d.p.request_active").await, 2);
    for _ in 0..3 {
        client.answer().await;
    }
    assert_eq!(proxy.stat("meta_protocol.d.p.request").await, 3);
    client.send(request(9, "get", &[])).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.fault_delays_injected", 4)
        .await;
    proxy.drain();
    assert_eq!(client.answer().await.kind(), Kind::GoAway);
    assert_eq!(client.answer().await.id(), 9);
    assert!(client.frame().await.is_none());
    server.abort();
}

#[tokio::test]
async fn attachments_are_taken_out_and_nothing_is_set_to_nothing() {
    let (listener, address) = Upstream::start().await;
    let route = "{match: {prefix: /}, route: {cluster: up}, \
        request_headers_to_remove: [secret], response_headers_to_remove: [inner], \
        request_headers_to_add: [{header: {key: empty, value: ''}}, {header: {key: kept, value: ''}, \
        keep_empty_value: true}, {header: {key: by, value: weft}}]}";
    let (proxy, server) = by_rds(route, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let sent = request(1, "get", &["Secret", "x", "user", "bob"]);
    client.send(sent).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    let seen = ["Secret", "secret", "user", "empty", "kept", "by"];
    let seen = seen.map(|name| attribute(&call, name));
    let text = |text: &str| Some(text.to_owned());
    let wanted = [None, None, text("bob"), None, text(""), text("weft")];
    assert_eq!(seen, wanted);
    let mut body = vec![0x94, 1, b'v', b'H'];
    for text in ["inner", "x", "outer", "y"] {
        body.push(text.len() as u8);
        body.extend(text.as_bytes());
    }
    body.push(b'Z');
    host.send(frame(2, 20, call.id(), &body)).await;
    let answer = client.answer().await;
    assert!(has(&answer, "outer") && !has(&answer, "inner"));
    assert_eq!(proxy.stat("meta_protocol.d.p.mutation_failed").await, 0);
    server.abort();
}

#[tokio::test]
async fn a_call_is_sent_again_after_a_pause_if_its_route_wants_one() {
    // Nobody listens there.
    let (closed, nowhere) = Upstream::start().await;
    drop(closed);
    let route = "{match: {prefix: /}, route: {cluster: up, retry_policy: \
        {retry_on: connect-failure, num_retries: 3, retry_back_off: {base_interval: 0.4s}}}}";
    let (proxy, server) = by_rds(route, &[("up", nowhere)]).await;
    let mut client = Peer::connect(&proxy).await;
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for id in 0..3 {
        let begun = Instant::now();
        assert_eq!(status(&mut client, request(id, "get", &[])).await, 80);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest > Duration::from_millis(50), "{longest:?}");
    assert_eq!(proxy.stat("meta_protocol.d.p.request_retry").await, 9);
    // The call's own time ends the pauses.
    client.send(request(7, "get", &["timeout", "20"])).await;
    assert_eq!(client.answer().await.id(), 7);
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(proxy.stat("meta_protocol.d.p.request_active").await, 0);
    server.abort();
}
