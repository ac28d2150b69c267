//! HTTP/2 by hand.

pub(super) const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A GET of `/`, or of `/index.html`: both are in HPACK's static table.
pub(super) fn get(stream: u32, path: u8) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, path, 0x01, 0x01];
    block.push(b'a');
    frame(1, 5, stream, &block)
}
