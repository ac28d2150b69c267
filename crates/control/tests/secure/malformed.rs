//! Requests for certificates that cannot be read at all, or ask for what is not to be had.

use crate::setup::{CART, CREATE, DAY, Secure, identity, names, request, request_for};
use bytes::{Buf, BufMut};
use std::time::Duration;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use weft_ca::{Lifetimes, SpiffeId};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

async fn send(secure: &Secure, path: &'static str, bytes: Vec<u8>) -> Status {
    let mut client = tonic::client::Grpc::new(secure.channel(None).await);
    client.ready().await.expect("connected");
    let mut request = Request::new(bytes);
    let bearer = secure.kubernetes_token("istio-ca");
    let bearer = bearer.parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client.unary(request, path, Raw).await;
    answer.expect_err("it is no request")
}

/// A field of bytes: its tag, its length in 7 bits each, and they.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length % 0x80) as u8 | 0x80);
        length /= 0x80;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

#[tokio::test]
async fn what_is_no_message_is_the_callers_fault_and_is_counted() {
    let secure = Secure::start().await;
    // DER where PEM belongs: no text.
    let der = field(1, &[0x30, 0x82, 0xff, 0xfe, 0x80]);
    let refused = send(&secure, CREATE, der).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused.message().contains("IstioCertificateRequest.csr"),
        "{refused}"
    );
    assert!(refused.message().contains("UTF-8"), "{refused}");
    for bytes in [vec![0xff; 20], field(1, b"x")[..2].to_vec()] {
        let refused = send(&secure, CREATE, bytes).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("cannot be read"), "{refused}");
    }
    let refused = send(&secure, CREATE, field(1, &vec![b'x'; 3_000_000])).await;
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let jwt = "/weft.identity.v1.IdentityService/CreateJwtSvid";
    let refused = send(&secure, jwt, vec![0xff; 20]).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(secure.metric("weft_secure_requests_unreadable").await, 5);
    assert_eq!(
        secure.metric("citadel_server_csr_parsing_err_count").await,
        0
    );
    secure.stop().await;
}

#[tokio::test]
async fn a_join_token_outlives_a_request_of_who_takes_himself_for_somebody_else() {
    let secure = Secure::start().await;
    let token = secure.join_token("shop", "cart");
    // It names the workload vault of bank.
    let refused = secure.ask(None, Some(&token), request().1).await;
    let refused = refused.expect_err("somebody else");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    for part in ["ns/bank/sa/vault", CART, "not used up"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    // Another trust domain's name for the same workload may be an alias.
    let cart = SpiffeId::parse("spiffe://old.mesh/ns/shop/sa/cart").expect("valid");
    let (key, good) = request_for(Some(&cart));
    let chain = secure.ask(None, Some(&token), good).await.expect("issued");
    assert_eq!(names(&identity(&key, &chain)), [CART]);
    secure.stop().await;
}

#[tokio::test]
async fn a_request_for_no_time_gets_what_the_authority_likes_and_too_long_ones_are_told_what_to_do()
{
    let hour = Duration::from_hours(1);
    let short = Lifetimes {
        default: hour,
        longest: hour,
    };
    let secure = Secure::start_later(Duration::ZERO, short).await;
    let token = secure.kubernetes_token("istio-ca");
    let mut long = request().1;
    long.validity_duration = i64::try_from(DAY.as_secs()).expect("small");
    let refused = secure.ask(None, Some(&token), long).await;
    let refused = refused.expect_err("too long");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    for flag in ["--secret-ttl", "--max-workload-cert-ttl"] {
        assert!(refused.message().contains(flag), "{refused}");
    }
    // As an agent asks without --secret-ttl.
    let (_, unsaid) = request();
    assert_eq!(unsaid.validity_duration, 0);
    secure
        .ask(None, Some(&token), unsaid)
        .await
        .expect("issued");
    secure.stop().await;
}
