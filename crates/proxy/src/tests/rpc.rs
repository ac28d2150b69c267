//! RPC calls through a whole proxy, between hosts and clients that do what the test says.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_rpc::{Attribute, Attributes, Codec, Decoded, Frame, Kind, Limits, Outcome};

use super::proxy::{Client, PATIENCE, Proxy, Upstream};

pub(super) const DUBBO: &str = "{name: rpc, typed_config: {'@type': \
    type.googleapis.com/aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy, stat_prefix: p, \
    protocol: {name: d, codec: {name: dubbo, config: {'@type': \
    type.googleapis.com/weft.rpc.v1.CodecOptions, heartbeat_interval: 500s}}}, route_config: ";

pub(super) fn routes(routes: &str) -> String {
    format!("{DUBBO}{{routes: [{routes}]}}}}}}")
}

pub(super) fn dubbo() -> &'static dyn Codec {
    weft_rpc::codec("dubbo").unwrap()
}

fn strings(texts: &[&str]) -> Vec<u8> {
    let string = |text: &&str| match text.len() as u8 {
        short @ 0..=0x1f => [&[short], text.as_bytes()].concat(),
        long => [&[b'S', 0, long], text.as_bytes()].concat(),
    };
    texts.iter().flat_map(string).collect()
}

pub(super) fn frame(flags: u8, status: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xda, 0xbb, flags, status];
    out.extend(id.to_be_bytes());
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out
}

/// A request of `shop.Cart` without arguments, in hessian2.
pub(super) fn request(id: u64, method: &str, attachments: &[&str]) -> Vec<u8> {
    let mut body = strings(&["2.0.2", "shop.Cart", "1.0", method, ""]);
    body.push(b'H');
    body.extend(strings(attachments));
    body.push(b'Z');
    let flags = if method == "note" { 0x82 } else { 0xc2 };
    frame(flags, 0, id, &body)
}

/// A string, with attachments.
pub(super) fn response(id: u64, text: &str) -> Vec<u8> {
    let mut body = vec![0x94];
    body.extend(strings(&[text]));
    body.extend(b"HZ");
    frame(2, 20, id, &body)
}

/// A peer that speaks Dubbo.
pub(super) struct Peer(pub(super) Client, BytesMut);

impl Peer {
    pub(super) async fn connect(proxy: &Proxy) -> Self {
        Self(Client::connect(proxy.address).await, BytesMut::new())
    }

    pub(super) async fn accept(host: &Upstream) -> Self {
        Self(host.accept().await, BytesMut::new())
    }

    pub(super) async fn send(&mut self, bytes: Vec<u8>) {
        self.0.send(bytes).await;
    }

    /// The next frame; `None` if the connection is closed instead.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        let reading = async {
            loop {
                let decoded = dubbo().decode(&mut self.1, Limits::default());
                if let Decoded::Frame(frame) = decoded.expect("a frame") {
                    return Some(frame);
                }
                let read = self.0.0.read_buf(&mut self.1).await;
                if read.is_err() || matches!(read, Ok(0)) {
                    return None;
                }
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.expect("neither a frame nor the end")
    }

    pub(super) async fn answer(&mut self) -> Frame {
        self.frame().await.expect("an answer")
    }
}

pub(super) fn attribute(frame: &Frame, name: &str) -> Option<String> {
    let attributes = Attributes::new(dubbo(), frame);
    attributes.get(&Attribute::named(name)).map(str::to_owned)
}

pub(super) fn has(frame: &Frame, text: &str) -> bool {
    let bytes = frame.bytes();
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn calls_of_all_clients_share_a_connection_and_answers_find_their_way() {
    let (host, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let (mut one, mut two) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    one.send(request(7, "a", &[])).await;
    let mut host = Peer::accept(&host).await;
    let a = host.answer().await;
    two.send(request(7, "b", &[])).await;
    one.send(request(7, "c", &[])).await;
    let (b, c) = (host.answer().await, host.answer().await);
    let mut seen = [&a, &b, &c].map(|frame| (attribute(frame, "method").unwrap(), frame.id()));
    seen.sort();
    assert_eq!(
        seen.each_ref().map(|(method, _)| &**method),
        ["a", "b", "c"]
    );
    assert!(seen[0].1 != seen[1].1 && seen[1].1 != seen[2].1 && seen[0].1 != seen[2].1);
    // In the opposite order, with one that nobody asked for.
    host.send(response(12_345, "unknown")).await;
    for (method, id) in seen.iter().rev() {
        host.send(response(*id, &format!("for {method}"))).await;
    }
    let got = two.answer().await;
    assert!(got.id() == 7 && has(&got, "for b"));
    let (first, second) = (one.answer().await, one.answer().await);
    assert!(first.id() == 7 && has(&first, "for c"));
    assert!(second.id() == 7 && has(&second, "for a"));
    assert_eq!(proxy.stat("meta_protocol.d.p.response_unknown").await, 1);
    assert_eq!(proxy.stat("meta_protocol.d.p.request_active").await, 0);
    assert_eq!(proxy.stat("cluster.up.upstream_cx_total").await, 1);
    assert_eq!(proxy.stat("cluster.up.upstream_rq_2xx").await, 3);
    assert_eq!(proxy.stat("cluster.up.upstream_rq_active").await, 0);
}

#[tokio::test]
async fn what_nobody_answers_is_answered_here_in_the_protocols_status() {
    let (host, address) = Upstream::start().await;
    let (gone, nowhere) = Upstream::start().await;
    drop(gone);
    let filter = routes(
        "{match: {metadata: [{name: method, string_match: {exact: unknown}}]}, route: {cluster: none}},
         {match: {metadata: [{name: method, string_match: {exact: refused}}]}, route: {cluster: gone}},
         {match: {metadata: [{name: method, string_match: {exact: slow}}]}, route: {cluster: up}}",
    );
    let clusters = [("up", address), ("gone", nowhere)];
    let proxy = Proxy::start(&filter, &clusters).await;
    let mut client = Peer::connect(&proxy).await;
    for (method, status, outcome) in [
        ("other", 60, Outcome::ClientError),
        ("unknown", 60, Outcome::ClientError),
        ("refused", 80, Outcome::ServerError),
    ] {
        client.send(request(3, method, &[])).await;
        let answer = client.answer().await;
        assert_eq!((answer.id(), answer.outcome()), (3, outcome), "{method}");
        assert_eq!(answer.bytes()[3], status, "{method}");
    }
    // The client's own timeout, which its attachment says.
    let begun = Instant::now();
    client.send(request(4, "slow", &["timeout", "400"])).await;
    let mut host = Peer::accept(&host).await;
    let late = host.answer().await;
    let answer = client.answer().await;
    assert_eq!((answer.id(), answer.outcome()), (4, Outcome::Timeout));
    let took = begun.elapsed();
    assert!((Duration::from_millis(390)..Duration::from_secs(5)).contains(&took));
    assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout").await, 1);
    // The answer that comes too late is nobody's.
    host.send(response(late.id(), "late")).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.response_unknown", 1)
        .await;
    // The host goes away in the middle of a call; the next call makes a new connection.
    client.send(request(5, "slow", &[])).await;
    host.answer().await;
    drop(host);
    let answer = client.answer().await;
    assert_eq!((answer.id(), answer.bytes()[3]), (5, 35));
    assert_eq!(
        proxy.stat("meta_protocol.d.p.local_response_error").await,
        5
    );
    assert_eq!(proxy.stat("meta_protocol.d.p.request_no_route").await, 2);
    // Nobody answers a call that wants no answer.
    client.send(request(6, "note", &[])).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.oneway_dropped", 1)
        .await;
}

#[tokio::test]
async fn heartbeats_are_answered_here_and_goaways_are_heeded() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(frame(0xe2, 0, 9, b"N")).await;
    let answer = client.answer().await;
    assert_eq!((answer.kind(), answer.id()), (Kind::HeartbeatAnswer, 9));
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let a = host.answer().await;
    assert_eq!(a.kind(), Kind::Request, "the heartbeat stays here");
    host.send(frame(0xe2, 0, 77, b"N")).await;
    let answer = host.answer().await;
    assert_eq!((answer.kind(), answer.id()), (Kind::HeartbeatAnswer, 77));
    // The host wants nothing new; what it has, it finishes.
    host.send(frame(0xa2, 0, 0, b"\x01R")).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.response_decoding_success", 2)
        .await;
    client.send(request(2, "b", &[])).await;
    let mut other = Peer::accept(&listener).await;
    let b = other.answer().await;
    host.send(response(a.id(), "first")).await;
    assert!(has(&client.answer().await, "first"));
    assert!(
        host.frame().await.is_none(),
        "it has nothing to do any more"
    );
    other.send(response(b.id(), "second")).await;
    assert!(has(&client.answer().await, "second"));
    assert_eq!(proxy.stat("meta_protocol.d.p.request_event").await, 1);
}

#[tokio::test]
async fn a_silent_host_is_asked_and_then_given_up() {
    let (listener, address) = Upstream::start().await;
    let filter = routes("{route: {cluster: up}}").replace("500s", "0.2s");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &["timeout", "60000"])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    for _ in 0..2 {
        let beat = host.answer().await;
        assert_eq!(beat.kind(), Kind::Heartbeat);
        assert_ne!(beat.id(), call.id());
        let answer = dubbo().heartbeat_answer(&beat).unwrap();
        host.send(answer.to_vec()).await;
    }
    for _ in 0..3 {
        assert_eq!(host.answer().await.kind(), Kind::Heartbeat);
    }
    assert!(host.frame().await.is_none());
    assert_eq!(client.answer().await.bytes()[3], 35);
    let failed = "meta_protocol.d.p.upstream_heartbeat_failed";
    assert_eq!(proxy.stat(failed).await, 1);
}

#[tokio::test]
async fn attachments_are_changed_on_the_way_and_on_the_way_back() {
    let (listener, address) = Upstream::start().await;
    let filter = routes(
        "{route: {cluster: up}, request_mutation: [{key: tag, value: gray}], \
         response_mutation: [{key: by, value: weft}]}",
    );
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &["tag", "x", "k", "v"])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    assert_eq!(attribute(&call, "tag").as_deref(), Some("gray"));
    assert_eq!(attribute(&call, "k").as_deref(), Some("v"));
    host.send(response(call.id(), "done")).await;
    let answer = client.answer().await;
    assert_eq!(answer.id(), 1);
    let attachments = dubbo().attachments(&answer);
    assert_eq!(attachments.len(), 1);
    assert_eq!((&*attachments[0].0, &*attachments[0].1), ("by", "weft"));
    // Other serializations are carried as they are.
    let mut other = request(2, "a", &[]);
    other[2] = 0xc0 | 16;
    client.send(other.clone()).await;
    let call = host.answer().await;
    assert_eq!(call.bytes()[12..], other[12..]);
    proxy
        .wait_for_stat("meta_protocol.d.p.mutation_failed", 1)
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_calls_along_and_garbage_harms_nobody_else() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let (mut client, mut leaving) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let a = host.answer().await;
    leaving.send(request(1, "b", &[])).await;
    let b = host.answer().await;
    drop(leaving);
    proxy
        .wait_for_stat("meta_protocol.d.p.request_cancelled", 1)
        .await;
    assert_eq!(proxy.stat("cluster.up.upstream_rq_active").await, 1);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\x7f\0\0\0",
    ] {
        let mut bad = Client::connect(proxy.address).await;
        bad.0.write_all(garbage).await.unwrap();
        assert_eq!(bad.rest().await, "");
    }
    let errors = "meta_protocol.d.p.request_decoding_error";
    assert_eq!(proxy.stat(errors).await, 2);
    host.send(response(b.id(), "too late")).await;
    host.send(response(a.id(), "in time")).await;
    assert!(has(&client.answer().await, "in time"));
    // A host that sends garbage loses its connection, and calls on it get an error.
    client.send(request(2, "c", &[])).await;
    host.answer().await;
    host.send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())
        .await;
    assert_eq!(client.answer().await.bytes()[3], 35);
}

#[tokio::test]
async fn clients_are_told_to_go_when_the_proxy_ends() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    proxy.drain();
    assert_eq!(client.answer().await.kind(), Kind::GoAway);
    host.send(response(call.id(), "still served")).await;
    assert!(has(&client.answer().await, "still served"));
    assert!(client.frame().await.is_none());
}

#[tokio::test]
async fn large_frames_pass_and_larger_ones_are_refused() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let mut large = request(1, "a", &[]);
    large.extend(vec![7; 4_000_000]);
    let len = (large.len() - 16) as u32;
    large[12..16].copy_from_slice(&len.to_be_bytes());
    let sent = large.clone();
    let sending = async move {
        client.send(sent).await;
        client
    };
    let receiving = async {
        let mut host = Peer::accept(&listener).await;
        let call = host.answer().await;
        (host, call)
    };
    let (mut client, (mut host, call)) = tokio::join!(sending, receiving);
    assert_eq!(call.bytes()[12..], large[12..]);
    let mut back = frame(2, 20, call.id(), &large[16..]);
    back.truncate(16 + len as usize);
    let (got, ()) = tokio::join!(client.answer(), host.send(back));
    assert_eq!(got.bytes()[16..], large[16..]);
    client.send(frame(0xc2, 0, 2, &[])[..12].to_vec()).await;
    client.send((9_u32 << 20).to_be_bytes().to_vec()).await;
    assert!(client.frame().await.is_none());
}

#[tokio::test]
async fn copies_go_elsewhere_and_nobody_sees_what_becomes_of_them() {
    let (listener, address) = Upstream::start().await;
    let (copies, shadow) = Upstream::start().await;
    let filter = routes(
        "{route: {cluster: up, request_mirror_policies: [{cluster: shadow, runtime_fraction: {default_value: {numerator: 50}}}]}, \
         request_mutation: [{key: tag, value: gray}]}",
    );
    let clusters = [("up", address), ("shadow", shadow)];
    let proxy = Proxy::start(&filter, &clusters).await;
    let mut client = Peer::connect(&proxy).await;
    let serve = |listener: Upstream, text: &'static str| async move {
        let mut host = Peer::accept(&listener).await;
        while let Some(call) = host.frame().await {
            assert_eq!(attribute(&call, "tag").as_deref(), Some("gray"));
            if call.kind() == Kind::Request {
                host.send(response(call.id(), text)).await;
            }
        }
    };
    let tasks = [
        tokio::spawn(serve(listener, "from the host")),
        tokio::spawn(serve(copies, "from the shadow")),
    ];
    for number in 0..400 {
        client.send(request(number, "a", &[])).await;
        let answer = client.answer().await;
        assert!(answer.id() == number && has(&answer, "from the host"));
    }
    let copied = proxy.stat("meta_protocol.d.p.request_mirrored").await;
    assert!((140..260).contains(&copied), "{copied}");
    proxy
        .wait_for_stat("cluster.shadow.upstream_rq_2xx", copied)
        .await;
    assert_eq!(proxy.stat("meta_protocol.d.p.response").await, 400);
    // A shadow that is gone takes nothing from the calls.
    tasks[1].abort();
    for number in 0..40 {
        client.send(request(number, "a", &[])).await;
        assert!(has(&client.answer().await, "from the host"));
    }
    tasks[0].abort();
}
