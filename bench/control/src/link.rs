//! One gRPC call on an HTTP/2 connection of its own, and no more of HTTP/2 than that takes: the
//! client must cost little beside the control plane that is measured on the same machine. Headers
//! of answers are not read: what counts is whether messages come.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of the stream and of the connection, in both cases what this side takes.
const WINDOW: u32 = 4 << 20;
/// What a side takes before it says anything.
const INITIAL_WINDOW: i64 = 65_535;
const FRAME_HEADER: usize = 9;
const MAX_FRAME: usize = 16 << 10;
/// A flag for compression, and the length.
const GRPC_HEADER: usize = 5;
const STREAM: u32 = 1;

/// Types of frames (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

struct Frame {
    kind: u8,
    flags: u8,
    /// And not of the one stream.
    of_connection: bool,
    payload: BytesMut,
}

/// The call.
pub(crate) struct Link {
    socket: TcpStream,
    read: BytesMut,
    /// Data of the call of which the last message may not be complete.
    data: BytesMut,
    /// Frames that wait to be written.
    frames: BytesMut,
    /// Messages for which the server has to open its window.
    waiting: BytesMut,
    stream_window: i64,
    connection_window: i64,
    initial_window: i64,
    /// Data since the windows were opened last.
    taken: u32,
}

impl Link {
    /// Connects to `HOST:PORT` and begins a call of `path`.
    pub(crate) async fn open(address: &str, path: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut frames = BytesMut::from(PREFACE);
        head(kind::SETTINGS, 0, 0, 6, &mut frames);
        frames.put_u16(SETTINGS_INITIAL_WINDOW_SIZE);
        frames.put_u32(WINDOW);
        open_window(0, WINDOW - INITIAL_WINDOW as u32, &mut frames);
        let headers = headers(address, path);
        head(
            kind::HEADERS,
            END_HEADERS,
            STREAM,
            headers.len(),
            &mut frames,
        );
        frames.put_slice(&headers);
        Ok(Link {
            socket,
            read: BytesMut::new(),
            data: BytesMut::new(),
            frames,
            waiting: BytesMut::new(),
            stream_window: INITIAL_WINDOW,
            connection_window: INITIAL_WINDOW,
            initial_window: INITIAL_WINDOW,
            taken: 0,
        })
    }

    /// Adds a message to those that the next [`message`](Self::message) sends.
    pub(crate) fn push(&mut self, message: &impl Message) {
        self.waiting.put_u8(0);
        self.waiting.put_u32(message.encoded_len() as u32);
        message.encode_raw(&mut self.waiting);
    }

    /// The next message; meanwhile what is pushed is sent. `None`: the call has ended.
    pub(crate) async fn message(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.complete() {
                return Ok(Some(message));
            }
            while let Some(frame) = self.frame() {
                if !self.take(frame) {
                    return Ok(None);
                }
            }
            if let Some(message) = self.complete() {
                return Ok(Some(message));
            }
            self.release();
            if !self.frames.is_empty() {
                self.socket.write_all(&self.frames).await?;
                self.frames.clear();
            }
            self.read.reserve(MAX_FRAME + FRAME_HEADER);
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn complete(&mut self) -> Option<Bytes> {
        let length = self.data.get(1..GRPC_HEADER)?;
        let length = length
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte));
        if self.data.len() < GRPC_HEADER + length {
            return None;
        }
        self.data.advance(GRPC_HEADER);
        Some(self.data.split_to(length).freeze())
    }

    /// The next frame that was read whole.
    fn frame(&mut self) -> Option<Frame> {
        let &[a, b, c, kind, flags, _, _, _, stream] = self.read.first_chunk::<FRAME_HEADER>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if self.read.len() < FRAME_HEADER + length {
            return None;
        }
        self.read.advance(FRAME_HEADER);
        Some(Frame {
            kind,
            flags,
            of_connection: stream == 0,
            payload: self.read.split_to(length),
        })
    }

    /// Takes a frame in. Returns whether the call goes on.
    fn take(&mut self, frame: Frame) -> bool {
        let Frame {
            kind,
            flags,
            of_connection,
            mut payload,
        } = frame;
        match kind {
            kind::DATA => {
                self.taken += payload.len() as u32;
                if self.data.is_empty() {
                    self.data = payload;
                } else {
                    self.data.extend_from_slice(&payload);
                }
                if self.taken > WINDOW / 2 {
                    open_window(0, self.taken, &mut self.frames);
                    open_window(STREAM, self.taken, &mut self.frames);
                    self.taken = 0;
                }
                flags & END_STREAM == 0
            }
            kind::HEADERS => flags & END_STREAM == 0,
            kind::SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (name, value) = (payload.get_u16(), i64::from(payload.get_u32()));
                    if name == SETTINGS_INITIAL_WINDOW_SIZE {
                        self.stream_window += value - self.initial_window;
                        self.initial_window = value;
                    }
                }
                head(kind::SETTINGS, ACK, 0, 0, &mut self.frames);
                true
            }
            kind::PING if flags & ACK == 0 => {
                head(kind::PING, ACK, 0, payload.len(), &mut self.frames);
                self.frames.put_slice(&payload);
                true
            }
            kind::WINDOW_UPDATE => {
                let more = payload.try_get_u32().unwrap_or_default();
                if of_connection {
                    self.connection_window += i64::from(more);
                } else {
                    self.stream_window += i64::from(more);
                }
                true
            }
            kind::RST_STREAM | kind::GOAWAY => false,
            _ => true,
        }
    }

    /// Moves what the server takes to the frames.
    fn release(&mut self) {
        while !self.waiting.is_empty() {
            let window = self.stream_window.min(self.connection_window);
            let window = usize::try_from(window).unwrap_or(0);
            let length = self.waiting.len().min(MAX_FRAME).min(window);
            if length == 0 {
                return;
            }
            head(kind::DATA, 0, STREAM, length, &mut self.frames);
            self.frames.put_slice(&self.waiting.split_to(length));
            self.stream_window -= length as i64;
            self.connection_window -= length as i64;
        }
    }
}

fn head(kind: u8, flags: u8, stream: u32, length: usize, to: &mut BytesMut) {
    to.put_uint(length as u64, 3);
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u32(stream);
}

fn open_window(stream: u32, by: u32, to: &mut BytesMut) {
    head(kind::WINDOW_UPDATE, 0, stream, 4, to);
    to.put_u32(by);
}

/// The request's headers in HPACK's plainest form: static names, plain texts, nothing remembered.
fn headers(authority: &str, path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: http`.
    let mut block = vec![0x83, 0x86];
    let mut plain = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    plain(&[0x04], path);
    plain(&[0x01], authority);
    plain(&[0x0f, 0x10], "application/grpc");
    plain(b"\x00\x02te", "trailers");
    block
}
