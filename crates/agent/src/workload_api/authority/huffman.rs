//! Strings as HPACK packs them. Never knows what they are for.
//!
//! Source: RFC 7541, 5.2 and appendix B. The code is canonical: of the same length, codes follow each
//! other in the order of their symbols, so that the lengths say all.

use std::sync::LazyLock;

/// Symbols: the bytes, and the end of a string, which may not occur.
const SYMBOLS: usize = 257;
const LONGEST: usize = 30;
/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30,
    28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6,
    6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13,
    19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6,
    5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23,
    23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23,
    20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24,
    25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21,
    21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// Symbols in the order of their codes, and for each length its first code, how many there are, and
/// where they begin in that order.
struct Code {
    symbols: Vec<usize>,
    lengths: [(u32, u32, usize); LONGEST + 1],
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut code = Code {
        symbols: Vec::with_capacity(SYMBOLS),
        lengths: [(0, 0, 0); LONGEST + 1],
    };
    let mut next = 0;
    for (length, place) in code.lengths.iter_mut().enumerate() {
        next <<= 1;
        let begin = code.symbols.len();
        let of_length = LENGTHS.iter().enumerate();
        let of_length = of_length.filter(|(_, bits)| usize::from(**bits) == length);
        code.symbols.extend(of_length.map(|(symbol, _)| symbol));
        let count = (code.symbols.len() - begin) as u32;
        *place = (next, count, begin);
        next += count;
    }
    code
});

/// Appends what `packed` holds; `None` if it is no such string.
pub(super) fn unpack(packed: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in packed {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let (first, count, begin) = *CODE.lengths.get(length)?;
            // An index of the table, if the code is of one of this length.
            if let Some(at) = code.checked_sub(first).filter(|at| *at < count) {
                let symbol = *CODE.symbols.get(begin + at as usize)?;
                into.push(u8::try_from(symbol).ok()?);
                (code, length) = (0, 0);
            }
        }
    }
    // What is left is the beginning of the string's end: ones only, and less than a byte.
    (length < 8 && code == (1 << length) - 1).then_some(())
}

#[cfg(test)]
pub(super) fn pack(text: &[u8]) -> Vec<u8> {
    let mut codes = [(0_u32, 0_usize); SYMBOLS];
    for (length, (first, count, begin)) in CODE.lengths.iter().enumerate() {
        for at in 0..*count {
            codes[CODE.symbols[begin + at as usize]] = (first + at, length);
        }
    }
    let mut bits = Vec::new();
    for byte in text {
        let (code, length) = codes[usize::from(*byte)];
        bits.extend((0..length).rev().map(|bit| (code >> bit & 1) as u8));
    }
    bits.resize(bits.len().next_multiple_of(8), 1);
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | bit);
    bits.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_the_standard_are_read_and_written() {
        // RFC 7541, C.4 and C.6.
        for (text, packed) in [
            (
                "www.example.com",
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
            ),
            ("no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            ("custom-value", b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf"),
            ("302", b"\x64\x02"),
        ] {
            let mut read = Vec::new();
            assert_eq!(unpack(packed, &mut read), Some(()), "{text}");
            assert_eq!(read, text.as_bytes());
            assert_eq!(pack(text.as_bytes()), packed);
        }
    }

    #[test]
    fn all_bytes_come_back_and_what_is_no_string_is_refused() {
        let all: Vec<u8> = (0..=255).collect();
        let mut read = Vec::new();
        assert_eq!(unpack(&pack(&all), &mut read), Some(()));
        assert_eq!(read, all);
        // A byte of padding; padding of zeros; the end of a string within it.
        for wrong in [&b"\x64\x02\xff"[..], b"\x18", b"\xff\xff\xff\xff"] {
            assert_eq!(unpack(wrong, &mut Vec::new()), None, "{wrong:?}");
        }
    }
}
