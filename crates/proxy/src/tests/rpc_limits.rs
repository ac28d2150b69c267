//! RPC connections whose peers are slow, silent or full: what is waited for, and what ends them.

use std::time::{Duration, Instant};

use super::proxy::{PATIENCE, Proxy, Upstream};
use super::rpc::{Peer, frame, has, request, response, routes};
use tokio::io::AsyncReadExt;
use weft_rpc::Kind;

const MIB: usize = 1024 * 1024;

/// An answer of so many bytes.
fn large(id: u64, len: usize) -> Vec<u8> {
    frame(2, 20, id, &vec![0x94; len])
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test]
async fn a_request_that_comes_with_a_large_answer_is_read() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(0, "first", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let first = host.answer().await;
    host.send(response(first.id(), "first")).await;
    client.answer().await;
    for round in 0..30 {
        client.send(request(1, "large", &[])).await;
        let call = host.answer().await;
        let answer = large(call.id(), MIB + MIB / 8);
        let (last, most) = answer.split_last().unwrap();
        host.send(most.to_vec()).await;
        pause(5).await;
        // Both at once: the answer is there when the request's bytes are seen.
        host.send(vec![*last]).await;
        client.send(request(2, "next", &[])).await;
        let next = host.answer().await;
        host.send(response(next.id(), "next")).await;
        assert_eq!(client.answer().await.id(), 1, "round {round}");
        assert!(has(&client.answer().await, "next"), "round {round}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_loses_its_connection() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let (mut slow, mut other) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    other.send(request(1, "waits", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let waits = host.answer().await;
    let mut ids = Vec::new();
    for id in 0..16 {
        slow.send(request(id, "large", &[])).await;
        ids.push(host.answer().await.id());
    }
    for id in ids {
        host.send(large(id, 4 * MIB)).await;
    }
    proxy
        .wait_for_stat("meta_protocol.d.p.cx_destroy_stalled", 1)
        .await;
    proxy.wait_for_stat("meta_protocol.d.p.cx_active", 1).await;
    host.send(response(waits.id(), "unharmed")).await;
    assert!(has(&other.answer().await, "unharmed"));
    let read = async {
        let mut sink = vec![0; MIB];
        while matches!(slow.0.0.read(&mut sink).await, Ok(1..)) {}
    };
    let ended = tokio::time::timeout(PATIENCE, read).await;
    ended.expect("the slow client's connection is still open");
}

#[tokio::test]
async fn a_worker_gets_its_connection_though_the_breaker_is_full() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(
        &routes("{route: {cluster: single}}"),
        &[("single", address)],
    )
    .await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut leaving = Peer::accept(&listener).await;
    leaving.answer().await;
    leaving.send(frame(0xa2, 0, 0, b"\x01R")).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.response_decoding_success", 1)
        .await;
    // The first connection still has its call, and the only place.
    client.send(request(2, "b", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    host.send(response(call.id(), "served")).await;
    assert!(has(&client.answer().await, "served"));
    assert_eq!(proxy.stat("cluster.single.upstream_cx_overflow").await, 1);
}

#[tokio::test]
async fn an_answer_that_comes_slowly_is_a_sign_of_life() {
    let (listener, address) = Upstream::start().await;
    let filter = routes("{route: {cluster: up}}").replace("500s", "0.3s");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    // Without a word on heartbeats, which end the connection after 1.2 s.
    for piece in large(call.id(), 1000).chunks(50) {
        host.send(piece.to_vec()).await;
        pause(100).await;
    }
    assert_eq!(client.answer().await.bytes().len(), 1016);
}

#[tokio::test]
async fn a_request_that_leaves_slowly_is_a_sign_of_life() {
    let (listener, address) = Upstream::start_small();
    let filter = routes("{route: {cluster: up}}").replace("500s", "0.5s");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let mut padded = request(1, "a", &[]).split_off(16);
    padded.resize(8 * MIB, 0);
    let sent = frame(0xc2, 0, 1, &padded).repeat(2);
    let mut left = sent.len();
    let sending = async move {
        client.send(sent).await;
        client
    };
    let receiving = async {
        let mut host = Peer::accept(&listener).await;
        let mut head = [0; 16];
        host.0.0.read_exact(&mut head).await.unwrap();
        left -= head.len();
        // Heartbeats, which nobody answers, end the connection after 2 s.
        let begun = Instant::now();
        let mut part = vec![0; 300_000];
        while begun.elapsed() < Duration::from_millis(2600) {
            host.0.0.read_exact(&mut part).await.unwrap();
            left -= part.len();
            pause(100).await;
        }
        let mut rest = vec![0; left];
        host.0.0.read_exact(&mut rest).await.unwrap();
        let id = head[4..12].try_into().unwrap();
        host.send(response(u64::from_be_bytes(id), "taken")).await;
        host
    };
    let (mut client, _host) = tokio::join!(sending, receiving);
    assert!(has(&client.answer().await, "taken"));
}

#[tokio::test]
async fn a_host_that_asks_and_does_not_read_gets_no_more_replies() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    let questions = [frame(0xc2, 0, 5, b"N"), frame(0xe2, 0, 6, b"N")]
        .concat()
        .repeat(2000);
    let dropped = "meta_protocol.d.p.upstream_reply_dropped";
    let begun = Instant::now();
    while proxy.stat(dropped).await == 0 {
        assert!(
            begun.elapsed() < 3 * PATIENCE,
            "the proxy replies without end"
        );
        for _ in 0..10 {
            host.send(questions.clone()).await;
        }
    }
    host.send(response(call.id(), "served")).await;
    assert!(has(&client.answer().await, "served"));
}

#[tokio::test]
async fn a_host_that_loses_calls_is_ejected() {
    let (listener, address) = Upstream::start().await;
    let filter = routes("{route: {cluster: judged}}");
    let proxy = Proxy::start(&filter, &[("judged", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    host.answer().await;
    drop(host);
    assert_eq!(client.answer().await.bytes()[3], 35);
    let ejections = "cluster.judged.outlier_detection.ejections_enforced_total";
    proxy.wait_for_stat(ejections, 1).await;
}

#[tokio::test]
async fn an_idle_timeout_does_not_cut_a_message_that_is_coming() {
    let (listener, address) = Upstream::start().await;
    let filter = routes("{route: {cluster: up}}")
        .replace("stat_prefix: p,", "stat_prefix: p, idle_timeout: 1s,");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    for piece in request(1, "slow", &[]).chunks(8) {
        client.send(piece.to_vec()).await;
        pause(400).await;
    }
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    host.send(response(call.id(), "whole")).await;
    assert!(has(&client.answer().await, "whole"));
    // One that does not go on is idle.
    client.send(request(2, "half", &[])[..20].to_vec()).await;
    assert_eq!(client.answer().await.kind(), Kind::GoAway);
    assert!(client.frame().await.is_none());
    assert_eq!(proxy.stat("meta_protocol.d.p.idle_timeout").await, 1);
}

#[tokio::test]
async fn draining_does_not_cut_a_message_that_is_coming() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    let two = [request(1, "a", &[]), request(2, "b", &[])].concat();
    let (now, later) = two.split_at(two.len() - 10);
    client.send(now.to_vec()).await;
    let mut host = Peer::accept(&listener).await;
    let call = host.answer().await;
    proxy.drain();
    assert_eq!(client.answer().await.kind(), Kind::GoAway);
    host.send(response(call.id(), "first")).await;
    assert!(has(&client.answer().await, "first"));
    // Longer than draining takes.
    pause(1500).await;
    client.send(later.to_vec()).await;
    let call = host.answer().await;
    host.send(response(call.id(), "second")).await;
    assert!(has(&client.answer().await, "second"));
    assert!(client.frame().await.is_none());
}

#[tokio::test]
async fn a_leaving_connection_ends_when_its_last_call_is_given_up() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&routes("{route: {cluster: up}}"), &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "a", &[])).await;
    let mut host = Peer::accept(&listener).await;
    host.answer().await;
    let goaway = frame(0xa2, 0, 0, b"\x01R");
    host.send(goaway).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.response_decoding_success", 1)
        .await;
    drop(client);
    assert!(host.frame().await.is_none());
}
