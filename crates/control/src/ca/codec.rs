//! Protobuf of calls about identities: what cannot be read is the caller's fault, and is counted and
//! told. Must never know what is asked.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::Desk;
use super::tls::Peer;

/// How gRPC says that a message is longer than the server reads.
const OUT_OF_RANGE: &str = "11";

/// Answers of `T` to requests of `U`.
pub(super) struct Reading<T, U> {
    reader: Reader<U>,
    answers: PhantomData<T>,
}

impl<T, U> Reading<T, U> {
    /// For one call.
    pub(super) fn of(desk: &Arc<Desk>, request: &http::Request<tonic::body::Body>) -> Self {
        let peer = request.extensions().get::<Peer>();
        Self {
            reader: Reader {
                desk: Arc::clone(desk),
                address: peer.and_then(|peer| peer.address),
                kind: PhantomData,
            },
            answers: PhantomData,
        }
    }

    /// Who is told of what cannot be read.
    pub(super) fn reader(&self) -> Reader<U> {
        self.reader.clone()
    }
}

impl<T, U> Codec for Reading<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.reader.clone()
    }
}

/// Reads one request.
pub(super) struct Reader<U> {
    desk: Arc<Desk>,
    address: Option<SocketAddr>,
    kind: PhantomData<fn() -> U>,
}

impl<U> Clone for Reader<U> {
    fn clone(&self) -> Self {
        Self {
            desk: Arc::clone(&self.desk),
            address: self.address,
            kind: PhantomData,
        }
    }
}

impl<U> Reader<U> {
    /// Looks at an answer: tells if it is to a request that was too long to be read.
    pub(super) fn look_at<B>(&self, answer: &http::Response<B>) {
        let status = answer.headers().get("grpc-status");
        if status.is_some_and(|status| status == OUT_OF_RANGE) {
            self.desk
                .unreadable("it is longer than 64 KiB", self.address);
        }
    }
}

impl<U: Message + Default> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(bytes).map(Some).map_err(|error| {
            let error = error.to_string();
            self.desk.unreadable(&error, self.address);
            Status::invalid_argument(format!("the request cannot be read: {error}"))
        })
    }
}
