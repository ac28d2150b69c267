//! Putting encoded protobuf together from encoded parts. Two uses: a route configuration of
//! ten thousand virtual hosts is the concatenation of their bytes, and a map field is written in
//! key order, which prost's `HashMap` fields are not. Must never know what a message means.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Length of a length-delimited field with this number and this many bytes of content.
pub(crate) fn field_len(number: u32, content: usize) -> usize {
    key_len(number) + encoded_len_varint(content as u64) + content
}

/// Appends a length-delimited field whose content is encoded already.
pub(crate) fn put_field(out: &mut impl BufMut, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.put_slice(content);
}

/// Appends an entry of a `map<string, Message>` field.
pub(crate) fn put_map_entry(out: &mut impl BufMut, number: u32, key: &str, value: &[u8]) {
    let mut entry = BytesMut::with_capacity(field_len(1, key.len()) + field_len(2, value.len()));
    put_field(&mut entry, 1, key.as_bytes());
    put_field(&mut entry, 2, value);
    put_field(out, number, &entry);
}

/// A message encoded as one length-delimited field, ready to be concatenated into its parent.
pub(crate) fn as_field(number: u32, content: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(field_len(number, content.len()));
    put_field(&mut out, number, content);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pb::route::v3::{RouteConfiguration, VirtualHost};

    #[test]
    fn concatenated_fields_decode_as_the_whole_message() {
        let hosts = ["a", "b"].map(|name| VirtualHost {
            name: name.to_owned(),
            domains: vec![name.to_owned()],
            ..VirtualHost::default()
        });
        let mut bytes = BytesMut::new();
        for host in &hosts {
            bytes.extend_from_slice(&as_field(2, &host.encode_to_vec()));
        }
        put_field(&mut bytes, 1, b"80");
        let whole = RouteConfiguration::decode(&bytes[..]).expect("valid bytes");
        let expected = RouteConfiguration {
            name: "80".to_owned(),
            virtual_hosts: hosts.to_vec(),
            ..RouteConfiguration::default()
        };
        assert_eq!(whole, expected);
    }
}
