//! A client's HTTP/2 bytes as they come: header blocks are collected and given to [`Fields`], all else
//! goes through. What cannot be followed goes through from there on, for the server to judge. Never
//! does I/O.
//!
//! Source: RFC 9113, 3.4, 4.1, 6.2 and 6.10.

use super::fields::Fields;

/// What a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame before its payload: length (3), type, flags, stream (4).
const HEAD: usize = 9;
/// Payload of a frame unless the reader announced more.
const FRAME: usize = 16_384;
/// Frames of one header block, with all that is in them. The server takes a fourth of that.
pub(super) const MAX_BLOCK: usize = 64 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Bytes that the flag [`PRIORITY`] announces.
const PRIORITY_LENGTH: usize = 5;

/// What comes next.
#[derive(Debug)]
enum Next {
    /// The preface, of which so much was there.
    Preface(usize),
    /// The head of a frame.
    Head,
    /// Payload that is not looked at.
    Payload(usize),
    /// Payload of a header block's frame.
    Block(usize),
    /// Nothing that is looked at.
    Anything,
}

/// Where a connection is.
#[derive(Debug)]
pub(super) struct Frames {
    next: Next,
    fields: Fields,
    /// Frames of a header block, or the head of a frame, as they came.
    kept: Vec<u8>,
    /// Where the last frame of `kept` begins.
    frame: usize,
    /// The block's fragments.
    block: Vec<u8>,
    /// Whether a block goes on.
    is_open: bool,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            next: Next::Preface(0),
            fields: Fields::new(),
            kept: Vec::new(),
            frame: 0,
            block: Vec::new(),
            is_open: false,
        }
    }

    /// Takes what came, and appends what the server is to read.
    pub(super) fn take(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let wanted = match self.next {
                Next::Preface(seen) => PREFACE.len() - seen,
                Next::Head => HEAD - (self.kept.len() - self.frame),
                Next::Payload(left) | Next::Block(left) => left,
                Next::Anything => input.len(),
            };
            let (bytes, rest) = input.split_at(wanted.min(input.len()));
            input = rest;
            match self.next {
                Next::Preface(seen) => {
                    out.extend_from_slice(bytes);
                    let end = seen + bytes.len();
                    self.next = if PREFACE.get(seen..end) != Some(bytes) {
                        Next::Anything
                    } else if end == PREFACE.len() {
                        Next::Head
                    } else {
                        Next::Preface(end)
                    };
                }
                Next::Head => {
                    self.kept.extend_from_slice(bytes);
                    if self.kept.len() - self.frame == HEAD {
                        self.next = self.head(out);
                        self.finish_frame(out);
                    }
                }
                Next::Payload(left) => {
                    out.extend_from_slice(bytes);
                    self.next = match left - bytes.len() {
                        0 => Next::Head,
                        left => Next::Payload(left),
                    };
                }
                Next::Block(left) => {
                    self.kept.extend_from_slice(bytes);
                    self.next = Next::Block(left - bytes.len());
                    self.finish_frame(out);
                }
                Next::Anything => out.extend_from_slice(bytes),
            }
        }
    }

    /// Looks at the head of a frame.
    fn head(&mut self, out: &mut Vec<u8>) -> Next {
        let Some([a, b, c, kind, _flags, stream @ ..]) = self.kept.get(self.frame..) else {
            return self.give_up(out);
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let is_of_block = *kind == HEADERS || *kind == CONTINUATION;
        let fits = if self.is_open {
            // Nothing else may come within a block.
            *kind == CONTINUATION && self.kept.get(5..HEAD) == Some(stream)
        } else {
            *kind != CONTINUATION
        };
        if !fits || is_of_block && self.kept.len() + length > MAX_BLOCK {
            return self.give_up(out);
        }
        if is_of_block {
            return Next::Block(length);
        }
        out.append(&mut self.kept);
        if length == 0 {
            Next::Head
        } else {
            Next::Payload(length)
        }
    }

    /// Once a frame of a header block is whole.
    fn finish_frame(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.next, Next::Block(0)) {
            return;
        }
        self.next = match self.add_frame() {
            None => self.give_up(out),
            Some(false) => {
                self.is_open = true;
                self.frame = self.kept.len();
                Next::Head
            }
            Some(true) => match self.fields.rewrite(&self.block, acceptable) {
                Err(_) => self.give_up(out),
                Ok(rewritten) => {
                    match rewritten {
                        Some(block) => self.write(&block, out),
                        None => out.extend_from_slice(&self.kept),
                    }
                    self.kept.clear();
                    self.block.clear();
                    self.frame = 0;
                    self.is_open = false;
                    Next::Head
                }
            },
        };
    }

    /// Adds a frame's fragment to the block; whether it is the last one, `None` if it is malformed.
    fn add_frame(&mut self) -> Option<bool> {
        let frame = self.kept.get(self.frame..)?;
        let (head, payload) = frame.split_at_checked(HEAD)?;
        let flags = *head.get(4)?;
        let fragment = if self.is_open {
            payload
        } else {
            let (padding, payload) = match payload.split_first() {
                Some((padding, payload)) if flags & PADDED != 0 => (usize::from(*padding), payload),
                None if flags & PADDED != 0 => return None,
                _ => (0, payload),
            };
            let skipped = if flags & PRIORITY == 0 {
                0
            } else {
                PRIORITY_LENGTH
            };
            payload.get(skipped..payload.len().checked_sub(padding)?)?
        };
        self.block.extend_from_slice(fragment);
        Some(flags & END_HEADERS != 0)
    }

    /// The block's frames with another block; without the padding.
    fn write(&self, block: &[u8], out: &mut Vec<u8>) {
        let (flags, stream) = (self.kept.get(4), self.kept.get(5..HEAD));
        let (Some(flags), Some(stream)) = (flags, stream) else {
            return;
        };
        let priority = match flags & (PADDED | PRIORITY) {
            0 | PADDED => &[][..],
            PRIORITY => self.kept.get(HEAD..HEAD + PRIORITY_LENGTH).unwrap_or(&[]),
            _ => {
                let begin = HEAD + 1;
                self.kept.get(begin..begin + PRIORITY_LENGTH).unwrap_or(&[])
            }
        };
        let first = FRAME - priority.len();
        let (first, rest) = block.split_at(first.min(block.len()));
        let mut pieces = std::iter::once(first).chain(rest.chunks(FRAME)).peekable();
        let (mut kind, mut flags, mut before) =
            (HEADERS, flags & (END_STREAM | PRIORITY), priority);
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= END_HEADERS;
            }
            let length = ((before.len() + piece.len()) as u32).to_be_bytes();
            out.extend_from_slice(&length[1..]);
            out.extend_from_slice(&[kind, flags]);
            out.extend_from_slice(stream);
            out.extend_from_slice(before);
            out.extend_from_slice(piece);
            (kind, flags, before) = (CONTINUATION, 0, &[]);
        }
    }

    /// From here on nothing is looked at.
    fn give_up(&mut self, out: &mut Vec<u8>) -> Next {
        out.append(&mut self.kept);
        (self.kept, self.block) = (Vec::new(), Vec::new());
        Next::Anything
    }
}

/// An authority that the HTTP library takes, if `authority` is none: of the same length, with hyphens
/// in place of what host names have not.
fn acceptable(authority: &[u8]) -> Option<Vec<u8>> {
    if http::uri::Authority::try_from(authority).is_ok() {
        return None;
    }
    let is_of_names = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
    let byte = |byte: &u8| if is_of_names(byte) { *byte } else { b'-' };
    Some(authority.iter().map(byte).collect())
}
