//! Numbers of seven bits a byte, the lowest first.

/// As long as one of 64 bits can be.
const MAX: usize = 10;

/// Why there is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// It is not there as a whole.
    Short,
    /// It goes on for too long.
    Long,
}

/// The number at `at`, and the place behind it.
pub(crate) fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), NoNumber> {
    let mut value = 0;
    let rest = bytes.get(at..).unwrap_or_default();
    for (count, byte) in rest.iter().take(MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (count * 7);
        if byte & 0x80 == 0 {
            return Ok((value, at + count + 1));
        }
    }
    Err(if rest.len() < MAX {
        NoNumber::Short
    } else {
        NoNumber::Long
    })
}

/// Writes a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
