//! Requests as they come from the network. A stream keeps nothing of a request that it has read: the first one of a
//! type may name thousands of resources, and streams last. Never knows what a request means.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;

use super::wire::GRPC_HEADER;

/// Why there is no message.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client has gone; there is nobody to tell.
    Gone,
    /// What it sent is none, or too much.
    Wrong(Status),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Wrong(status)
    }
}

impl Broken {
    /// How a stream ends for it.
    pub(super) fn end(self) -> Result<(), Status> {
        match self {
            Self::Gone => Ok(()),
            Self::Wrong(status) => Err(status),
        }
    }
}

/// The messages of a gRPC request.
pub(super) struct Requests<T> {
    body: Body,
    buffer: BytesMut,
    /// Bytes of the largest message that is read.
    most: usize,
    message: PhantomData<fn() -> T>,
}

impl<T: prost::Message + Default> Requests<T> {
    pub(super) fn new(body: Body, most: usize) -> Self {
        Requests {
            body,
            buffer: BytesMut::new(),
            most,
            message: PhantomData,
        }
    }

    /// The next message; `None` at the end. What was read is not lost if this is given up.
    pub(super) async fn message(&mut self) -> Result<Option<T>, Broken> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|_| Broken::Gone)?;
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let status = Status::internal("the request ends within a message");
                    return Err(status.into());
                }
            }
        }
    }

    fn complete(&mut self) -> Result<Option<T>, Status> {
        let Some((&[compressed, ref length @ ..], rest)) =
            self.buffer.split_first_chunk::<GRPC_HEADER>()
        else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not read"));
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.most {
            return Err(Status::out_of_range(format!(
                "a request has {length} bytes; {} are allowed",
                self.most
            )));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(GRPC_HEADER);
        let message = T::decode(self.buffer.split_to(length).freeze())
            .map_err(|error| Status::internal(format!("a request cannot be read: {error}")))?;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message;

    use super::*;
    use crate::pb::DeltaDiscoveryRequest;

    fn request(nonce: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            ..Default::default()
        }
    }

    fn encoded(message: &DeltaDiscoveryRequest) -> Vec<u8> {
        let body = message.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn cut(bytes: &[u8], size: usize, most: usize) -> Requests<DeltaDiscoveryRequest> {
        let frames: Vec<Result<Frame<Bytes>, Status>> = bytes
            .chunks(size)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        Requests::new(Body::new(StreamBody::new(stream::iter(frames))), most)
    }

    #[tokio::test]
    async fn however_it_is_cut_each_message_is_read() {
        let sent = [request("a"), request(""), request(&"b".repeat(1000))];
        let bytes: Vec<u8> = sent.iter().flat_map(encoded).collect();
        for size in [1, 2, 5, 7, 100, bytes.len()] {
            let mut requests = cut(&bytes, size, 2000);
            for message in &sent {
                assert_eq!(
                    requests.message().await.expect("it reads").as_ref(),
                    Some(message)
                );
            }
            assert_eq!(requests.message().await.expect("the end"), None);
            assert_eq!(requests.buffer.capacity(), 0, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_has_its_status() {
        let good = encoded(&request("nonce"));
        let cases: [(&[u8], tonic::Code); 4] = [
            (&good[..good.len() - 1], tonic::Code::Internal),
            (&[0, 0, 0, 0, 2, 0xff, 0xff], tonic::Code::Internal),
            (&[1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            (&[0, 0xff, 0xff, 0xff, 0xff], tonic::Code::OutOfRange),
        ];
        for (bytes, code) in cases {
            let error = cut(bytes, 3, 1000).message().await.expect_err("refused");
            let error = error.end().expect_err("the client is told");
            assert_eq!(error.code(), code, "{error}");
        }
    }
}
