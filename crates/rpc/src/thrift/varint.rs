//! Numbers of seven bits a byte, the lowest first.

/// As long as one of 64 bits can be.
const MAX: usize = 10;

/// The number at `at`, and the place behind it. `Some(None)`: it is not there as a whole; `None`: it is too
/// long.
pub(crate) fn varint(bytes: &[u8], at: usize) -> Option<Option<(u64, usize)>> {
    let mut value = 0;
    for (count, byte) in bytes.get(at..).unwrap_or_default().iter().enumerate() {
        if count == MAX {
            return None;
        }
        value |= u64::from(byte & 0x7f).checked_shl(count as u32 * 7)?;
        if byte & 0x80 == 0 {
            return Some(Some((value, at + count + 1)));
        }
    }
    // Ten bytes that all go on are too many, whatever follows.
    if bytes.len() >= at.saturating_add(MAX) {
        return None;
    }
    Some(None)
}

/// Writes a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
