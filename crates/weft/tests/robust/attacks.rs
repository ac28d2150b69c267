//! Clients that misbehave. Each tells how it ended; none of them waits for ever. Must never know
//! what is right: the table in the test does.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that a misbehaving client is let live.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The proxy answered with this status in HTTP/1, and then closed or went on.
    Answered(u16),
    /// The proxy closed or reset the connection without an HTTP/1 answer; for HTTP/2 the types of
    /// the frames that it sent before.
    Closed(Vec<u8>),
    /// It was still open.
    Open(Vec<u8>),
}

/// What a client does.
pub(crate) enum Attack {
    /// Sends these bytes and reads.
    Bytes(Vec<u8>),
    /// Sends the first at once, then the second byte by byte with this pause.
    Slow(Vec<u8>, Vec<u8>, Duration),
    /// Sends and closes its sending side.
    Half(Vec<u8>),
    /// Sends the first once and the second over and over, so many times, without reading at first.
    Flood(Vec<u8>, Vec<u8>, usize),
    /// HTTP/2 streams that reset at once, so many.
    RapidReset(u32),
    /// Sends and then reads nothing.
    Deaf(Vec<u8>),
}

pub(crate) async fn run(attack: &Attack, port: u16) -> End {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return End::Closed(Vec::new());
    };
    let mut got = Vec::new();
    let work = act(attack, &mut stream, &mut got);
    let ended = tokio::time::timeout(PATIENCE, work).await.is_ok();
    judge(&got, ended)
}

async fn act(attack: &Attack, stream: &mut TcpStream, got: &mut Vec<u8>) {
    let (mut read, mut write) = stream.split();
    let sending = async {
        // What the proxy no longer takes is seen by reading.
        let _: std::io::Result<()> = async {
            match attack {
                Attack::Bytes(bytes) | Attack::Deaf(bytes) => write.write_all(bytes).await?,
                Attack::Slow(first, rest, pause) => {
                    write.write_all(first).await?;
                    for byte in rest {
                        tokio::time::sleep(*pause).await;
                        write.write_all(&[*byte]).await?;
                    }
                }
                Attack::Half(bytes) => {
                    write.write_all(bytes).await?;
                    write.shutdown().await?;
                }
                Attack::Flood(first, again, times) => {
                    write.write_all(first).await?;
                    for _ in 0..*times {
                        write.write_all(again).await?;
                    }
                }
                Attack::RapidReset(streams) => {
                    write.write_all(&preface()).await?;
                    for stream in 0..*streams {
                        let id = stream * 2 + 1;
                        let mut both = frame(1, 5, id, &request_block("/good"));
                        both.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
                        write.write_all(&both).await?;
                    }
                }
            }
            Ok(())
        }
        .await;
    };
    let deaf = matches!(attack, Attack::Deaf(_));
    let reading = async {
        if deaf {
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            taken += count;
            if got.len() < 64 * 1024 {
                got.extend_from_slice(&buffer[..count]);
            }
            // A deaf client has seen enough: what was waiting is bounded.
            if deaf && taken > 64 * 1024 * 1024 {
                break;
            }
        }
    };
    // Whoever reads to the end knows the end, whether or not everything could be sent.
    let sent_and_waiting = async {
        sending.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = sent_and_waiting => {}
    }
}

fn judge(got: &[u8], ended: bool) -> End {
    if let Some(rest) = got.strip_prefix(b"HTTP/1.") {
        let status = std::str::from_utf8(rest.get(2..5).unwrap_or_default()).ok();
        return End::Answered(status.and_then(|status| status.parse().ok()).unwrap_or(0));
    }
    let types = frame_types(got);
    if ended {
        End::Closed(types)
    } else {
        End::Open(types)
    }
}

fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = bytes {
        types.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    types.sort_unstable();
    types.dedup();
    types
}

/// The client's connection preface with empty settings.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// The preface, then frames.
pub(crate) fn after_preface(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = preface();
    bytes.extend(frames.iter().flatten());
    bytes
}

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a small frame")
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block: GET of a path, nothing indexed dynamically.
pub(crate) fn request_block(path: &str) -> Vec<u8> {
    // :method GET, :scheme http from the static table; :path and :authority as literals.
    let mut block = vec![0x82, 0x86, 0x04];
    block.extend(text(path));
    block.push(0x01);
    block.extend(text("a.test"));
    block
}

/// A literal header that is not indexed.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x00];
    bytes.extend(text(name));
    bytes.extend(text(value));
    bytes
}

/// A string of HPACK without Huffman coding.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).expect("short"));
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128 + 128).expect("seven bits and one"));
            length /= 128;
        }
        bytes.push(u8::try_from(length).expect("seven bits"));
    }
    bytes.extend(text.as_bytes());
    bytes
}
