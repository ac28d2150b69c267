//! Answers on their way to the network: an answer is written piece by piece as the connection takes it, and
//! bodies of resources, which all streams share, are not copied into a buffer that each stream would keep. Never
//! decides what is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use crate::protocol::{Mode, Outgoing};
use crate::resource::{self, Resource, Version, WORTH_SHARING};
use crate::type_url::TypeUrl;

/// Pieces are gathered up to this size, that of a frame of HTTP/2.
const PIECE: usize = 16 << 10;
/// A flag for compression, and the length.
pub(super) const GRPC_HEADER: usize = 5;

/// Field numbers of `DiscoveryResponse` or `DeltaDiscoveryResponse`.
struct Fields {
    version: u32,
    resources: u32,
    type_url: u32,
    nonce: u32,
    control_plane: u32,
    removed: Option<u32>,
}

const SOTW: Fields = Fields {
    version: 1,
    resources: 2,
    type_url: 4,
    nonce: 5,
    control_plane: 6,
    removed: None,
};

const DELTA: Fields = Fields {
    version: 1,
    resources: 2,
    type_url: 4,
    nonce: 5,
    control_plane: 7,
    removed: Some(6),
};

/// Field numbers of `Resource`, in which delta answers wrap.
mod wrapper {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCE: u32 = 2;
    pub(super) const NAME: u32 = 3;
}

/// Field numbers of `google.protobuf.Any`.
mod any {
    pub(super) const TYPE_URL: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}

fn delimited_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

fn open(tag: u32, length: usize, to: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

fn text(tag: u32, value: &str, to: &mut BytesMut) {
    open(tag, value.len(), to);
    to.put_slice(value.as_bytes());
}

/// How resources of an answer are written.
#[derive(Clone, Debug)]
struct Spelling {
    mode: Mode,
    type_url: TypeUrl,
}

impl Spelling {
    fn any_len(&self, resource: &Resource) -> usize {
        delimited_len(any::TYPE_URL, self.type_url.as_str().len())
            + delimited_len(any::VALUE, resource.body.len())
    }

    /// The length of the field's content.
    fn len(&self, resource: &Resource) -> usize {
        let any = self.any_len(resource);
        match self.mode {
            Mode::Sotw => any,
            Mode::Delta => {
                delimited_len(wrapper::NAME, resource.name.len())
                    + delimited_len(wrapper::VERSION, VERSION_LEN)
                    + delimited_len(wrapper::RESOURCE, any)
            }
        }
    }

    /// Everything of the field before the body, which comes last.
    fn before_body(&self, resource: &Resource, version: Version, to: &mut BytesMut) {
        open(SOTW.resources, self.len(resource), to);
        if self.mode == Mode::Delta {
            text(wrapper::NAME, &resource.name, to);
            text(wrapper::VERSION, &version.to_string(), to);
            open(wrapper::RESOURCE, self.any_len(resource), to);
        }
        text(any::TYPE_URL, self.type_url.as_str(), to);
        open(any::VALUE, resource.body.len(), to);
    }
}

/// Digits of a [`Version`].
const VERSION_LEN: usize = 16;

/// One gRPC message with its header.
#[derive(Debug)]
pub(super) struct Message {
    head: Bytes,
    resources: IntoIter<(Resource, Version)>,
    spelling: Spelling,
    /// Of the message, without the header.
    length: usize,
    /// Of it, after the head.
    left: usize,
}

impl Message {
    /// A discovery answer. Fails if it has more bytes than `most`.
    pub(super) fn answer(mode: Mode, answer: Outgoing, most: usize) -> Result<Self, Status> {
        let fields = match mode {
            Mode::Sotw => &SOTW,
            Mode::Delta => &DELTA,
        };
        let spelling = Spelling {
            mode,
            type_url: answer.type_url,
        };
        let mut head = BytesMut::with_capacity(256);
        head.put_bytes(0, GRPC_HEADER);
        text(fields.version, &answer.version.to_string(), &mut head);
        text(fields.type_url, spelling.type_url.as_str(), &mut head);
        text(fields.nonce, &answer.nonce, &mut head);
        if let Some(identifier) = answer.control_plane {
            let message = crate::pb::ControlPlane {
                identifier: identifier.to_string(),
            };
            encoding::message::encode(fields.control_plane, &message, &mut head);
        }
        if let Some(tag) = fields.removed {
            for name in &answer.removed {
                text(tag, name, &mut head);
            }
        }
        let resources = answer.resources.iter();
        let lengths =
            resources.map(|(resource, _)| delimited_len(fields.resources, spelling.len(resource)));
        let length = head.len() - GRPC_HEADER + lengths.sum::<usize>();
        let left = length + GRPC_HEADER - head.len();
        Ok(Message {
            head: with_length(head, length, most)?,
            resources: answer.resources.into_iter(),
            spelling,
            length,
            left,
        })
    }

    /// Any message. Fails if it has more bytes than `most`.
    pub(super) fn of(message: &impl prost::Message, most: usize) -> Result<Self, Status> {
        let length = message.encoded_len();
        let mut head = BytesMut::with_capacity(GRPC_HEADER + length);
        head.put_bytes(0, GRPC_HEADER);
        message.encode_raw(&mut head);
        Ok(Message {
            head: with_length(head, length, most)?,
            resources: Vec::new().into_iter(),
            spelling: Spelling {
                mode: Mode::Delta,
                type_url: TypeUrl::from_static(""),
            },
            length,
            left: 0,
        })
    }

    /// Bytes of the message.
    pub(super) fn len(&self) -> usize {
        self.length
    }
}

fn with_length(mut head: BytesMut, length: usize, most: usize) -> Result<Bytes, Status> {
    let told = u32::try_from(length).ok().filter(|_| length <= most);
    let Some(told) = told else {
        return Err(Status::out_of_range(format!(
            "an answer has {length} bytes; {most} are allowed"
        )));
    };
    if let Some(place) = head.get_mut(1..GRPC_HEADER) {
        place.copy_from_slice(&told.to_be_bytes());
    }
    Ok(head.freeze())
}

/// The body of a gRPC response: messages, then the status.
#[derive(Debug)]
pub(super) struct Answers {
    queue: mpsc::Receiver<Result<Message, Status>>,
    writing: Option<Message>,
    /// Pieces of a body that come after what was gathered: which body, and which of them is next.
    body: Option<(resource::Body, usize)>,
    ended: bool,
}

impl Answers {
    pub(super) fn new(queue: mpsc::Receiver<Result<Message, Status>>) -> Self {
        Answers {
            queue,
            writing: None,
            body: None,
            ended: false,
        }
    }

    /// The next piece of what is being written; `None` if that is done.
    fn piece(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.body_piece() {
            return Some(piece);
        }
        let message = self.writing.as_mut()?;
        let head = std::mem::take(&mut message.head);
        if message.resources.len() == 0 {
            self.writing = None;
            return (!head.is_empty()).then_some(head);
        }
        // No more than is left, and room for the last resource beyond the size of a piece.
        let left = head.len() + message.left;
        let mut piece = BytesMut::with_capacity(left.min(PIECE + WORTH_SHARING + 1024));
        piece.put_slice(&head);
        while piece.len() < PIECE {
            let Some((resource, version)) = message.resources.next() else {
                self.writing = None;
                break;
            };
            message.spelling.before_body(&resource, version, &mut piece);
            if resource.body.len() >= WORTH_SHARING {
                self.body = Some((resource.body, 0));
                break;
            }
            for part in resource.body.pieces() {
                piece.put_slice(part);
            }
        }
        if let Some(message) = &mut self.writing {
            let body = self.body.as_ref().map_or(0, |(body, _)| body.len());
            let written = (piece.len() + body).saturating_sub(head.len());
            message.left = message.left.saturating_sub(written);
        }
        Some(piece.freeze())
    }

    /// The next piece of the body that is being written.
    fn body_piece(&mut self) -> Option<Bytes> {
        let (body, next) = self.body.as_mut()?;
        let piece = body.pieces().get(*next).cloned();
        *next += 1;
        if *next >= body.pieces().len() {
            self.body = None;
        }
        piece
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.piece() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let status = match ready!(self.queue.poll_recv(context)) {
                Some(Ok(message)) => {
                    self.writing = Some(message);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            self.queue.close();
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use prost::Message as _;

    use super::*;
    use crate::protocol::{Delta, Protocol, Sotw};

    fn answer(sizes: &[usize]) -> Outgoing {
        let resource = |(index, size): (usize, &usize)| {
            let body = vec![index as u8; *size];
            let parts = 1 + index % 4 * 40;
            let parts = body
                .chunks((size / parts).max(1))
                .map(Bytes::copy_from_slice);
            let body: resource::Body = parts.collect();
            let resource = Resource::new(&TypeUrl::CLUSTER, format!("c{index}"), body);
            let version = resource.version;
            (resource, version)
        };
        Outgoing {
            type_url: TypeUrl::CLUSTER,
            nonce: "1-1".to_owned(),
            version: Version::from_u64(7),
            resources: sizes.iter().enumerate().map(resource).collect(),
            removed: vec!["gone".into(), "away".into()],
            control_plane: Some("weft".into()),
        }
    }

    async fn pieces(messages: Vec<Message>) -> (Vec<Bytes>, HeaderMap) {
        let (sender, receiver) = mpsc::channel(8);
        for message in messages {
            sender.send(Ok(message)).await.expect("there is room");
        }
        drop(sender);
        let mut body = Answers::new(receiver);
        let mut pieces = Vec::new();
        loop {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            match frame
                .expect("trailers come first")
                .expect("no error")
                .into_data()
            {
                Ok(piece) => pieces.push(piece),
                Err(frame) => {
                    let trailers = frame.into_trailers().expect("trailers");
                    assert!(body.is_end_stream());
                    return (pieces, trailers);
                }
            }
        }
    }

    async fn same<P: Protocol>(sizes: &[usize])
    where
        P::Response: PartialEq + std::fmt::Debug,
    {
        let message = Message::answer(P::MODE, answer(sizes), usize::MAX).expect("it fits");
        let told = message.len();
        let (pieces, trailers) = pieces(vec![message]).await;
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        let bytes = pieces.concat();
        assert_eq!(bytes[1..5], (told as u32).to_be_bytes());
        assert_eq!(bytes.len(), told + GRPC_HEADER);
        let read = P::Response::decode(&bytes[GRPC_HEADER..]).expect("a message");
        assert_eq!(read, P::write_response(answer(sizes)), "{sizes:?}");
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[tokio::test]
    async fn what_is_written_is_what_the_message_says() {
        let many: Vec<usize> = (0..300).map(|size| size * 7).collect();
        let sizes: [&[usize]; 7] = [
            &[],
            &[0],
            &[100, WORTH_SHARING, 5],
            &[WORTH_SHARING - 1, WORTH_SHARING + 1, 3 * PIECE],
            &[PIECE; 3],
            &[40 * WORTH_SHARING; 5],
            &many,
        ];
        for sizes in sizes {
            same::<Delta>(sizes).await;
            same::<Sotw>(sizes).await;
        }
    }

    #[tokio::test]
    async fn large_bodies_are_not_copied_and_small_ones_are_gathered() {
        let mut answer = answer(&[10, 10, 100_000]);
        let parts = [PIECE, WORTH_SHARING].map(|size| Bytes::from(vec![1; size]));
        answer.resources[2].0.body = parts.iter().cloned().collect();
        let message = Message::answer(Mode::Delta, answer, usize::MAX).expect("it fits");
        let (pieces, _) = pieces(vec![message]).await;
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].as_ptr(), parts[0].as_ptr());
        assert_eq!(pieces[2].as_ptr(), parts[1].as_ptr());
    }

    #[tokio::test]
    async fn messages_follow_each_other() {
        let first = Message::answer(Mode::Delta, answer(&[1]), usize::MAX).expect("it fits");
        let plain = Delta::write_response(answer(&[2]));
        let second = Message::of(&plain, usize::MAX).expect("it fits");
        let at = first.len() + GRPC_HEADER;
        let bytes = pieces(vec![first, second]).await.0.concat();
        let read = <Delta as Protocol>::Response::decode(&bytes[at + GRPC_HEADER..]);
        assert_eq!(read.expect("a message"), plain);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let refused = Message::answer(Mode::Delta, answer(&[1000]), 1000).expect_err("too large");
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        assert!(refused.message().contains("1000 are allowed"), "{refused}");
    }
}
