//! Clients of every kind of header block, whose requests a server must read as they were sent, but for
//! the authorities that it would refuse.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::frames::{Frames, MAX_BLOCK};
use super::{Authorities, huffman};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const TIME: Duration = Duration::from_secs(5);

/// How a field is written.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// 0: the reader keeps it; 1: it does not; 2: nobody ever does.
    keep: u8,
    by_place: bool,
    pack_name: bool,
    pack_value: bool,
}

fn style() -> impl Strategy<Value = Style> {
    (0..3_u8, any::<[bool; 3]>()).prop_map(|(keep, [by_place, pack_name, pack_value])| Style {
        keep,
        by_place,
        pack_name,
        pack_value,
    })
}

/// A writer of header blocks that uses all that the standard has.
#[derive(Default)]
struct Writer {
    kept: VecDeque<(Vec<u8>, Vec<u8>)>,
    limit: Option<usize>,
}

impl Writer {
    fn size(&self) -> usize {
        let sizes = self.kept.iter();
        sizes
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum()
    }

    fn shrink(&mut self) {
        while self.size() > self.limit.unwrap_or(4096) {
            self.kept.pop_back();
        }
    }

    fn resize(&mut self, limit: usize, block: &mut Vec<u8>) {
        integer(limit, 5, 0x20, block);
        self.limit = Some(limit);
        self.shrink();
    }

    fn field(&mut self, name: &[u8], value: &[u8], style: Style, block: &mut Vec<u8>) {
        let whole = self.kept.iter().position(|(n, v)| n == name && v == value);
        if let (true, Some(place)) = (style.by_place, whole) {
            integer(62 + place, 7, 0x80, block);
            return;
        }
        let (bits, first) = [(6, 0x40), (4, 0), (4, 0x10)][usize::from(style.keep)];
        let place = self.kept.iter().position(|(n, _)| n == name);
        let known = match name {
            b":authority" => Some(1),
            b":method" => Some(2),
            b":path" => Some(4),
            b":scheme" => Some(6),
            b"user-agent" => Some(58),
            _ => None,
        };
        let index = place.map(|place| 62 + place).or(known);
        if let Some(index) = index.filter(|_| style.by_place) {
            integer(index, bits, first, block);
        } else {
            block.push(first);
            string(name, style.pack_name, block);
        }
        string(value, style.pack_value, block);
        if style.keep == 0 {
            self.kept.push_front((name.to_vec(), value.to_vec()));
            self.shrink();
        }
    }
}

fn integer(value: usize, bits: u32, first: u8, block: &mut Vec<u8>) {
    let mask = (1 << bits) - 1;
    let Some(mut left) = value.checked_sub(mask) else {
        block.push(first | value as u8);
        return;
    };
    block.push(first | mask as u8);
    while left > 127 {
        block.push(left as u8 | 128);
        left >>= 7;
    }
    block.push(left as u8);
}

fn string(text: &[u8], pack: bool, block: &mut Vec<u8>) {
    let text = if pack {
        huffman::pack(text)
    } else {
        text.to_vec()
    };
    integer(text.len(), 7, if pack { 0x80 } else { 0 }, block);
    block.extend(text);
}

/// How a block is put into frames.
#[derive(Clone, Debug)]
struct Framing {
    padding: Option<u8>,
    priority: bool,
    pieces: usize,
}

fn framing() -> impl Strategy<Value = Framing> {
    (proptest::option::of(0..40_u8), any::<bool>(), 1..4_usize).prop_map(
        |(padding, priority, pieces)| Framing {
            padding,
            priority,
            pieces,
        },
    )
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn frames(block: &[u8], stream: u32, how: &Framing, bytes: &mut Vec<u8>) {
    let mut pieces: Vec<&[u8]> = block.chunks(block.len().div_ceil(how.pieces)).collect();
    let rest = pieces.split_off(1);
    let end = |last: bool| if last { 4 } else { 0 };
    let (mut flags, mut payload) = (1 | end(rest.is_empty()), Vec::new());
    if let Some(padding) = how.padding {
        flags |= 8;
        payload.push(padding);
    }
    if how.priority {
        flags |= 0x20;
        payload.extend_from_slice(&[0, 0, 0, 0, 16]);
    }
    payload.extend_from_slice(pieces[0]);
    payload.extend(vec![0; how.padding.unwrap_or(0).into()]);
    frame(1, flags, stream, &payload, bytes);
    for (at, piece) in rest.iter().enumerate() {
        frame(9, end(at + 1 == rest.len()), stream, piece, bytes);
    }
}

#[derive(Clone, Debug)]
struct Sent {
    authority: String,
    path: String,
    fields: Vec<(String, String)>,
    styles: Vec<Style>,
    framing: Framing,
    resize: Option<usize>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let authority = prop_oneof![
        Just("localhost".to_owned()),
        Just("tmp%2Fid%2Fs.sock".to_owned()),
        Just("/run/spire/agent.sock".to_owned()),
        "[a-z%/@: -]{1,200}",
    ];
    let field = (
        prop_oneof![Just("user-agent".to_owned()), "x-[a-d]"],
        "[ -~]{0,120}",
    );
    let field = field.prop_map(|(name, value)| (name, value.trim().to_owned()));
    (
        authority,
        "/[a-c]{1,3}",
        prop::collection::vec(field, 0..6),
        prop::collection::vec(style(), 10),
        framing(),
        proptest::option::weighted(0.2, 0..=4096_usize),
    )
        .prop_map(|(authority, path, fields, styles, framing, resize)| Sent {
            authority,
            path,
            fields,
            styles,
            framing,
            resize,
        })
}

fn bytes_of(requests: &[Sent]) -> Vec<u8> {
    let (mut writer, mut bytes) = (Writer::default(), PREFACE.to_vec());
    for (at, request) in requests.iter().enumerate() {
        let mut block = Vec::new();
        if let Some(limit) = request.resize {
            writer.resize(limit, &mut block);
        }
        let pseudo = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &*request.path),
            (":authority", &*request.authority),
        ];
        let fields = request
            .fields
            .iter()
            .map(|(name, value)| (&**name, &**value));
        for ((name, value), style) in pseudo.into_iter().chain(fields).zip(&request.styles) {
            writer.field(name.as_bytes(), value.as_bytes(), *style, &mut block);
        }
        frames(&block, 2 * at as u32 + 1, &request.framing, &mut bytes);
    }
    bytes
}

/// The first `wanted` requests that a server reads of a client that sends these bytes, in pieces of
/// this size.
async fn read(bytes: Vec<u8>, piece: usize, wanted: usize) -> Vec<http::Request<()>> {
    let (mut client, server): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 20);
    for piece in bytes.chunks(piece) {
        client.write_all(piece).await.expect("written");
    }
    let connection = h2::server::handshake(Authorities::new(server)).await;
    let mut connection = connection.expect("a preface");
    let mut found = Vec::new();
    while found.len() < wanted {
        let next = tokio::time::timeout(TIME, connection.accept()).await;
        let (request, _respond) = next.expect("in time").expect("more").expect("a request");
        found.push(request.map(drop));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn requests_are_read_as_they_were_sent_but_for_authorities_that_are_none(
        requests in prop::collection::vec(sent(), 1..8),
        piece in prop_oneof![Just(1_usize), 2..40_usize, Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let reading = read(bytes_of(&requests), piece, requests.len());
        let found = runtime.expect("a runtime").block_on(reading);
        prop_assert_eq!(found.len(), requests.len());
        for (sent, found) in requests.iter().zip(found) {
            prop_assert_eq!(found.uri().path(), &*sent.path);
            let authority = found.uri().authority().expect("there").as_str();
            if sent.authority.parse::<http::uri::Authority>().is_ok() {
                prop_assert_eq!(authority, &*sent.authority);
            } else {
                prop_assert_eq!(authority.len(), sent.authority.len());
            }
            let fields = found.headers().iter();
            let mut fields: Vec<_> = fields
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
                .collect();
            let mut wanted = sent.fields.clone();
            fields.sort();
            wanted.sort();
            prop_assert_eq!(fields, wanted);
        }
    }

    #[test]
    fn damaged_bytes_go_through_alike_however_they_come(
        requests in prop::collection::vec(sent(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        pieces in prop::collection::vec(1..50_usize, 1..20),
    ) {
        let mut bytes = bytes_of(&requests);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let (mut frames, mut whole) = (Frames::new(), Vec::new());
        frames.take(&bytes, &mut whole);
        let (mut frames, mut pieced, mut left) = (Frames::new(), Vec::new(), &*bytes);
        for piece in pieces.iter().cycle() {
            let (piece, rest) = left.split_at((*piece).min(left.len()));
            frames.take(piece, &mut pieced);
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        prop_assert!(whole == pieced);
    }

    #[test]
    fn any_block_is_followed_or_goes_through(block in prop::collection::vec(any::<u8>(), 1..300)) {
        let mut bytes = PREFACE.to_vec();
        frame(1, 5, 1, &block, &mut bytes);
        let mut out = Vec::new();
        Frames::new().take(&bytes, &mut out);
        prop_assert_eq!(&out[..PREFACE.len()], PREFACE);
        prop_assert!(out.len() <= bytes.len() * 2);
    }
}

#[test]
fn what_is_right_goes_through_byte_for_byte_and_what_is_too_long_is_not_kept() {
    let style = Style {
        keep: 0,
        by_place: true,
        pack_name: true,
        pack_value: true,
    };
    let mut request = Sent {
        authority: "localhost:80".to_owned(),
        path: "/a".to_owned(),
        fields: vec![("x-a".to_owned(), "text".to_owned())],
        styles: vec![style; 10],
        framing: Framing {
            padding: Some(7),
            priority: true,
            pieces: 3,
        },
        resize: None,
    };
    let bytes = bytes_of(&[request.clone(), request.clone()]);
    let mut out = Vec::new();
    Frames::new().take(&bytes, &mut out);
    assert_eq!(out, bytes);

    // A block without an end comes out as it went in, before it takes much room.
    request.authority = "a%2Fb".to_owned();
    let mut bytes = PREFACE.to_vec();
    frame(1, 0, 1, b"\x82", &mut bytes);
    while bytes.len() < 2 * MAX_BLOCK {
        frame(9, 0, 1, &[0x82; 16_000], &mut bytes);
    }
    let (mut frames, mut out, mut behind) = (Frames::new(), Vec::new(), 0);
    for piece in bytes.chunks(1000) {
        frames.take(piece, &mut out);
        behind = behind.max(bytes.len().min(out.len() + MAX_BLOCK) - out.len());
    }
    assert!(behind <= MAX_BLOCK);
    assert_eq!(out, bytes);

    // What is no HTTP/2, such as HTTP/1.1, goes through.
    let mut out = Vec::new();
    Frames::new().take(b"GET / HTTP/1.1\r\n\r\n", &mut out);
    assert_eq!(out, b"GET / HTTP/1.1\r\n\r\n");
}
