//! Calls of a protocol that has one at a time on a host's connection.

use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use weft_rpc::{Decoded, Frame, Kind, Limits, Outcome};

use super::proxy::{Client, PATIENCE, Proxy, Upstream};
use super::rpc::{has, routes};

fn thrift(cluster: &str) -> String {
    let filter = routes(&format!("{{route: {{cluster: {cluster}}}}}"));
    filter.replace("codec: {name: dubbo", "codec: {name: thrift")
}

/// A message in the binary protocol without a frame: one string.
fn message(kind: u8, field: u8, id: u32, text: &str) -> Vec<u8> {
    let mut out = vec![0x80, 1, 0, kind, 0, 0, 0, 3];
    out.extend(b"pay");
    out.extend(id.to_be_bytes());
    out.extend([11, 0, field]);
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
    out.push(0);
    out
}

fn call(id: u32, text: &str) -> Vec<u8> {
    message(1, 1, id, text)
}

fn reply(id: u64, text: &str) -> Vec<u8> {
    message(2, 0, id as u32, text)
}

struct Peer(Client, BytesMut);

impl Peer {
    async fn connect(proxy: &Proxy) -> Self {
        Self(Client::connect(proxy.address).await, BytesMut::new())
    }

    async fn accept(host: &Upstream) -> Self {
        let accepted = tokio::time::timeout(PATIENCE, host.accept()).await;
        Self(accepted.expect("a connection"), BytesMut::new())
    }

    async fn frame(&mut self) -> Option<Frame> {
        let codec = weft_rpc::codec("thrift").unwrap();
        let reading = async {
            loop {
                let decoded = codec.decode(&mut self.1, Limits::default());
                if let Decoded::Frame(frame) = decoded.expect("a frame") {
                    return Some(frame);
                }
                if !matches!(self.0.0.read_buf(&mut self.1).await, Ok(1..)) {
                    return None;
                }
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.expect("neither a frame nor the end")
    }

    async fn next(&mut self) -> Frame {
        self.frame().await.expect("a frame")
    }
}

#[tokio::test]
async fn calls_under_way_have_connections_of_their_own_which_others_use_after_them() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("up"), &[("up", address)]).await;
    let (mut one, mut two) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    one.0.send(call(7, "a")).await;
    let mut first = Peer::accept(&listener).await;
    let a = first.next().await;
    assert_eq!(a.bytes(), call(7, "a"), "nothing of it has changed");
    two.0.send(call(7, "b")).await;
    let mut second = Peer::accept(&listener).await;
    assert!(has(&second.next().await, "b"));
    second.0.send(reply(7, "to b")).await;
    assert!(has(&two.next().await, "to b"));
    first.0.send(reply(7, "to a")).await;
    assert!(has(&one.next().await, "to a"));
    for _ in 0..10 {
        two.0.send(call(8, "c")).await;
        // Whichever of the two is asked.
        let host = tokio::select! {
            frame = first.next() => { assert!(has(&frame, "c")); &mut first }
            frame = second.next() => { assert!(has(&frame, "c")); &mut second }
        };
        // With a number of the host's own.
        host.0.send(reply(99, "to c")).await;
        let answer = two.next().await;
        assert_eq!((answer.id(), has(&answer, "to c")), (8, true));
    }
    assert_eq!(proxy.stat("cluster.up.upstream_cx_total").await, 2);
}

#[tokio::test]
async fn calls_of_the_same_number_are_answered_in_their_order() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("up"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let calls = [call(0, "first"), call(0, "second"), call(0, "third")];
    client.0.send(calls.concat()).await;
    let mut host = Peer::accept(&listener).await;
    for text in ["first", "second", "third"] {
        assert!(has(&host.next().await, text));
        if text == "first" {
            assert_eq!(proxy.stat("meta_protocol.d.p.request_active").await, 1);
        }
        host.0.send(reply(0, text)).await;
        assert!(has(&client.next().await, text));
    }
    assert_eq!(proxy.stat("cluster.up.upstream_cx_total").await, 1);
}

#[tokio::test]
async fn beyond_the_breaker_calls_get_an_error_at_once() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("single"), &[("single", address)]).await;
    let (mut one, mut two) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    one.0.send(call(1, "a")).await;
    let mut host = Peer::accept(&listener).await;
    host.next().await;
    let begun = Instant::now();
    two.0.send(call(2, "b")).await;
    let refused = two.next().await;
    assert_eq!((refused.kind(), refused.id()), (Kind::Response, 2));
    assert_eq!(refused.outcome(), Outcome::ServerError);
    assert!(has(&refused, "pay"), "answers name the method");
    assert!(begun.elapsed() < PATIENCE / 2);
    host.0.send(reply(1, "to a")).await;
    assert!(has(&one.next().await, "to a"));
    two.0.send(call(3, "c")).await;
    assert!(has(&host.next().await, "c"));
    host.0.send(reply(3, "to c")).await;
    assert!(has(&two.next().await, "to c"));
}

#[tokio::test]
async fn a_connection_ends_with_the_client_whose_call_it_has() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("up"), &[("up", address)]).await;
    let mut leaving = Peer::connect(&proxy).await;
    leaving.0.send(call(1, "a")).await;
    let mut host = Peer::accept(&listener).await;
    host.next().await;
    drop(leaving);
    assert!(host.frame().await.is_none(), "it is still open");
    let mut client = Peer::connect(&proxy).await;
    client.0.send(call(1, "b")).await;
    let mut host = Peer::accept(&listener).await;
    assert!(has(&host.next().await, "b"));
    host.0.send(reply(1, "to b")).await;
    assert!(has(&client.next().await, "to b"));
}

#[tokio::test]
async fn a_message_without_a_frame_may_come_byte_by_byte() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("up"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    for byte in call(1, "slowly") {
        client.0.send([byte]).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut host = Peer::accept(&listener).await;
    assert!(has(&host.next().await, "slowly"));
    for byte in reply(1, "slow, too") {
        host.0.send([byte]).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(has(&client.next().await, "slow, too"));
}

#[tokio::test]
async fn a_connection_that_may_owe_an_answer_nobody_waits_for_is_not_used_again() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&thrift("up"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.0.send(message(4, 1, 1, "oneway")).await;
    let mut host = Peer::accept(&listener).await;
    assert!(has(&host.next().await, "oneway"));
    assert!(host.frame().await.is_none(), "it is still open");
    client.0.send(call(2, "a")).await;
    let mut host = Peer::accept(&listener).await;
    assert!(has(&host.next().await, "a"));
    host.0.send(reply(2, "to a")).await;
    assert!(has(&client.next().await, "to a"));
    // One answer more than there were calls.
    host.0.send(reply(2, "to nobody")).await;
    assert!(host.frame().await.is_none(), "it is still open");
    client.0.send(call(3, "b")).await;
    let mut host = Peer::accept(&listener).await;
    assert!(has(&host.next().await, "b"));
    host.0.send(reply(3, "to b")).await;
    assert!(has(&client.next().await, "to b"));
    assert_eq!(proxy.stat("meta_protocol.d.p.response_unknown").await, 1);
}

#[tokio::test]
async fn copies_go_over_connections_of_their_own() {
    let (listener, address) = Upstream::start().await;
    let filter = thrift("up, request_mirror_policies: [{cluster: up}]");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.0.send(call(1, "a")).await;
    let (mut one, mut two) = (Peer::accept(&listener).await, Peer::accept(&listener).await);
    assert!(has(&one.next().await, "a"));
    assert!(has(&two.next().await, "a"));
    // What the copy is answered is nobody's.
    two.0.send(reply(1, "to two")).await;
    one.0.send(reply(1, "to one")).await;
    let answer = client.next().await;
    assert!(has(&answer, "to one") != has(&answer, "to two"));
    let more = tokio::time::timeout(std::time::Duration::from_millis(100), client.frame()).await;
    assert!(more.is_err(), "a second answer, or the end");
    assert_eq!(proxy.stat("meta_protocol.d.p.request_mirrored").await, 1);
}
