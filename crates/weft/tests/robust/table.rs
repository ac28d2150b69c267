//! What misbehaving clients do and how it may end.

use std::time::Duration;

use super::attacks::{Attack, End, after_preface, frame, literal, preface, request_block, text};

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// An answer with one of these statuses, or (if empty) none.
    Status(&'static [u16]),
    /// `GOAWAY` or `RST_STREAM`, or a closed connection.
    Error,
    /// The connection is closed, whatever came before.
    Ended,
    /// Anything that ends or is kept within bounds: the good clients and the memory tell.
    Bounded,
}

impl Want {
    pub(crate) fn allows(self, end: &End) -> bool {
        match (self, end) {
            (Self::Status(codes), End::Answered(code)) => codes.contains(code),
            (Self::Status(codes), End::Closed(_)) => codes.is_empty(),
            (Self::Bounded, _)
            | (Self::Error, End::Closed(_))
            | (Self::Ended, End::Closed(_) | End::Answered(_)) => true,
            (Self::Error, End::Open(frames)) => frames.contains(&7) || frames.contains(&3),
            _ => false,
        }
    }
}

const REFUSED: Want = Want::Status(&[400, 408, 414, 431, 501]);
const GATEWAY: Want = Want::Status(&[502, 503, 504]);

pub(crate) type Row = (&'static str, Attack, Want);

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").into_bytes()
}

fn bytes(name: &'static str, text: &str) -> Row {
    (name, Attack::Bytes(text.as_bytes().to_vec()), REFUSED)
}

pub(crate) fn http1() -> Vec<Row> {
    let slow = Duration::from_millis(150);
    let head = "POST /silent HTTP/1.1\r\nhost: a.test\r\n";
    let many = "x-many: 1\r\n".repeat(200);
    vec![
        ("says nothing", Attack::Bytes(Vec::new()), Want::Ended),
        ("headers byte by byte", Attack::Slow(Vec::new(), get("/good"), slow), Want::Ended),
        ("half a head, then silence", Attack::Bytes(b"GET /good HTTP/1.1\r\nho".to_vec()), Want::Ended),
        (
            "a body that stops",
            Attack::Bytes(format!("{head}content-length: 100\r\n\r\nhalf").into_bytes()),
            Want::Ended,
        ),
        ("half a head, then closed", Attack::Half(b"GET /good HTT".to_vec()), Want::Ended),
        (
            "half a body, then closed",
            Attack::Half(format!("{head}content-length: 100\r\n\r\nhalf").into_bytes()),
            Want::Ended,
        ),
        // A client that closes its side is gone, as in Envoy.
        ("a request, then closed", Attack::Half(get("/good")), Want::Ended),
        bytes("a large header", &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(100_000))),
        bytes("many headers", &format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n")),
        bytes("a long path", &format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100_000))),
        bytes("no HTTP at all", "hello proxy, how do you do?\r\n\r\n"),
        bytes("an empty method", " / HTTP/1.1\r\nhost: a\r\n\r\n"),
        bytes("a folded header", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n"),
        bytes("NUL bytes", "GET /\0 HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n"),
        bytes("a negative length", &format!("{head}content-length: -5\r\n\r\n")),
        bytes("a huge length", &format!("{head}content-length: 99999999999999999999999\r\n\r\n")),
        bytes("two lengths", &format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        bytes("a bad chunk size", &format!("{head}transfer-encoding: chunked\r\n\r\nxyz\r\n")),
        bytes("a huge chunk size", &format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n")),
        bytes("gzip in place of chunks", &format!("{head}transfer-encoding: gzip\r\n\r\n")),
        (
            // Chunks win and the connection is closed (RFC 9112, 6.3): nothing can be smuggled.
            "a length and chunks",
            Attack::Bytes(
                b"POST /good HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /bad/garbage HTTP/1.1\r\nhost: a\r\n\r\n"
                    .to_vec(),
            ),
            Want::Ended,
        ),
        (
            "an endless chunk extension",
            Attack::Flood(
                format!("{head}transfer-encoding: chunked\r\n\r\n1;").into_bytes(),
                vec![b'x'; 16 * 1024],
                2000,
            ),
            Want::Ended,
        ),
        (
            "endless trailers",
            Attack::Flood(
                format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n").into_bytes(),
                b"x-trailer: 1\r\n".repeat(1000),
                2000,
            ),
            Want::Ended,
        ),
        ("pipelined without reading", Attack::Deaf(get("/good").repeat(20_000)), Want::Bounded),
        ("an endless answer without reading", Attack::Deaf(get("/endless-body")), Want::Bounded),
    ]
}

#[allow(clippy::too_many_lines, reason = "a table")]
pub(crate) fn http2() -> Vec<Row> {
    let raw = |name, bytes: Vec<u8>, want| (name, Attack::Bytes(bytes), want);
    let frames =
        |name, frames: &[Vec<u8>]| (name, Attack::Bytes(after_preface(frames)), Want::Error);
    let headers = |flags, block: &[u8]| frame(1, flags, 1, block);
    let request = request_block("/good");
    let with = |more: &[u8]| [&request, more].concat();
    let mut bomb = request.clone();
    // A large header enters the table and is then named by one byte each time.
    bomb.push(0x40);
    bomb.extend(text("x-bomb"));
    bomb.extend(text(&"b".repeat(3000)));
    bomb.extend([0xbe; 12_000]);
    let settings = |id: u16, value: u32| {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(4, 0, 0, &payload)
    };
    let largest = 0x7fff_ffff_u32.to_be_bytes();
    let deaf = (0..50).map(|n| frame(1, 5, n * 2 + 1, &request_block("/endless-body")));
    vec![
        raw(
            "a broken preface",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
            Want::Ended,
        ),
        raw(
            "a preface without settings",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            Want::Ended,
        ),
        raw(
            "garbage after the preface",
            [preface(), vec![0xff; 4000]].concat(),
            Want::Error,
        ),
        frames("data on no stream", &[frame(0, 1, 0, b"x")]),
        frames("data on a stream that never was", &[frame(0, 1, 5, b"x")]),
        frames("an even stream", &[frame(1, 5, 2, &request)]),
        frames("an oversized frame", &[frame(1, 5, 1, &vec![0; 20_000])]),
        frames("a header block that is none", &[headers(5, &[0xff; 40])]),
        frames("an index beyond the table", &[headers(5, &with(&[0xfe]))]),
        frames(
            "upper case in a name",
            &[headers(5, &with(&literal("X-Upper", "1")))],
        ),
        frames("no path", &[headers(5, &[0x82, 0x86])]),
        frames(
            "a window of nothing",
            &[headers(4, &request), frame(8, 0, 1, &[0; 4])],
        ),
        frames(
            "a window that overflows",
            &[frame(8, 0, 0, &largest), frame(8, 0, 0, &largest)],
        ),
        frames("a setting out of range", &[settings(4, 0xffff_ffff)]),
        frames("settings of a wrong length", &[frame(4, 0, 0, &[0; 5])]),
        frames("a ping of a wrong length", &[frame(6, 0, 0, &[0; 3])]),
        frames("continuation of nothing", &[frame(9, 4, 1, &request)]),
        frames(
            "a stream that depends on itself",
            &[frame(
                1,
                0x25,
                1,
                &[vec![0, 0, 0, 1, 0], request.clone()].concat(),
            )],
        ),
        (
            "endless continuations",
            Attack::Flood(
                [preface(), headers(1, &request)].concat(),
                frame(9, 0, 1, &literal("x-c", &"c".repeat(8000))),
                5000,
            ),
            Want::Error,
        ),
        (
            "empty continuations",
            Attack::Flood(
                [preface(), headers(1, &request)].concat(),
                frame(9, 0, 1, &[]).repeat(1000),
                200,
            ),
            Want::Error,
        ),
        raw(
            "a header bomb",
            after_preface(&[
                headers(1, &bomb[..15_000.min(bomb.len())]),
                frame(9, 4, 1, &bomb[15_000.min(bomb.len())..]),
            ]),
            Want::Bounded,
        ),
        ("rapid reset", Attack::RapidReset(20_000), Want::Error),
        (
            "settings flood",
            Attack::Flood(preface(), settings(3, 100).repeat(100), 300),
            Want::Bounded,
        ),
        (
            "ping flood",
            Attack::Flood(preface(), frame(6, 0, 0, &[1; 8]).repeat(100), 300),
            Want::Bounded,
        ),
        (
            "empty data flood",
            Attack::Flood(
                [preface(), frame(1, 4, 1, &request_block("/silent"))].concat(),
                frame(0, 0, 1, &[]).repeat(100),
                300,
            ),
            Want::Bounded,
        ),
        (
            "no window for the answers",
            Attack::Bytes(after_preface(&[
                settings(4, 0),
                frame(1, 5, 1, &request_block("/endless-body")),
            ])),
            Want::Ended,
        ),
        (
            "no window for the proxy's own answer",
            Attack::Bytes(after_preface(&[
                settings(4, 0),
                frame(1, 5, 1, &request_block("/own-answer")),
            ])),
            Want::Ended,
        ),
        (
            "fifty answers without reading",
            Attack::Deaf(after_preface(&deaf.collect::<Vec<_>>())),
            Want::Bounded,
        ),
        (
            "more streams than allowed",
            Attack::Bytes(after_preface(
                &(0..200)
                    .map(|n| frame(1, 5, n * 2 + 1, &request_block("/silent")))
                    .collect::<Vec<_>>(),
            )),
            Want::Error,
        ),
    ]
}

/// What upstreams do to the proxy, seen by a client that behaves.
pub(crate) fn upstreams() -> Vec<Row> {
    let row = |name, path: &str, want| (name, Attack::Bytes(get(path)), want);
    vec![
        row("upstream: closes", "/bad/close", GATEWAY),
        row("upstream: garbage", "/bad/garbage", GATEWAY),
        row("upstream: half a head", "/bad/half-head", GATEWAY),
        row("upstream: an endless head", "/bad/endless-head", GATEWAY),
        row("upstream: silent", "/bad/silent", GATEWAY),
        row("upstream: many headers", "/bad/many-headers", GATEWAY),
        row("upstream: a large header", "/bad/large-header", GATEWAY),
        row(
            "upstream: interim answers without end",
            "/bad/interim",
            GATEWAY,
        ),
        row("upstream: half a body", "/bad/half-body", Want::Ended),
        row("upstream: a bad chunk", "/bad/bad-chunk", Want::Ended),
        row("upstream: a silent body", "/bad/silent-body", Want::Ended),
    ]
}
