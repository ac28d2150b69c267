//! Numbers at places of foreign bytes, which may be too short.

use std::ops::Range;

use bytes::{Buf as _, BytesMut};

/// The `N` bytes at `at`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_be_bytes)
}

/// Overwrites bytes; what would lie outside stays away.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let place = at
        .checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end));
    debug_assert!(place.is_some(), "a place that decoding has not checked");
    if let Some(place) = place {
        place.copy_from_slice(value);
    }
}

/// Replaces a part near the beginning by one that may have another length. What follows is copied only if
/// the new part is longer.
pub(crate) fn splice(bytes: &mut BytesMut, part: Range<usize>, new: &[u8]) {
    let old = part.len();
    let Some(less) = old.checked_sub(new.len()) else {
        let mut longer = BytesMut::with_capacity(bytes.len() + new.len() - old);
        longer.extend_from_slice(bytes.get(..part.start).unwrap_or_default());
        longer.extend_from_slice(new);
        longer.extend_from_slice(bytes.get(part.end..).unwrap_or_default());
        *bytes = longer;
        return;
    };
    debug_assert!(
        part.end <= bytes.len(),
        "a place that decoding has not checked"
    );
    if part.end <= bytes.len() {
        if less > 0 {
            bytes.copy_within(..part.start, less);
            bytes.advance(less);
        }
        put(bytes, part.start, new);
    }
}
