//! Requests of Dubbo 2 as bytes, for tests of what is made of them.

use bytes::BytesMut;

/// A request in hessian2 to `shop.Cart`, version 1.2.0, without arguments. Texts are short and its body has
/// fewer than 256 bytes.
pub fn dubbo_request(method: &str, attachments: &[(&str, &str)]) -> BytesMut {
    let mut body = Vec::new();
    let put = |text: &str, body: &mut Vec<u8>| {
        body.push(text.len() as u8);
        body.extend_from_slice(text.as_bytes());
    };
    for text in ["2.0.2", "shop.Cart", "1.2.0", method, ""] {
        put(text, &mut body);
    }
    body.push(b'H');
    for (key, value) in attachments {
        put(key, &mut body);
        put(value, &mut body);
    }
    body.push(b'Z');
    let mut bytes = BytesMut::from(&b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\0\0\0"[..]);
    bytes.extend_from_slice(&[body.len() as u8]);
    bytes.extend_from_slice(&body);
    bytes
}
