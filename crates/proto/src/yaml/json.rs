//! JSON by its own grammar (RFC 8259), as the events that YAML's parser would give. YAML holds
//! nearly all of JSON, but not its surrogate pairs, and machines write those.

use std::borrow::Cow;

use saphyr_parser::{Event, ScalarStyle};

use super::YamlError;

/// Why a text was not read to its end.
pub(super) enum Stop {
    /// It is something else; perhaps YAML in braces.
    NotJson,
    /// The receiver of the events does not want more.
    Refused(YamlError),
}

/// Takes an event with its line and column, both counted from 1.
pub(super) type Receiver<'r> = dyn FnMut(Event<'_>, usize, usize) -> Result<(), YamlError> + 'r;

/// Whether it is worth trying.
pub(super) fn looks_like(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Reads a text that is one JSON value. The receiver is trusted to refuse depth: this function
/// calls itself once for each level.
pub(super) fn scan(text: &str, receiver: &mut Receiver<'_>) -> Result<(), Stop> {
    let mut scanner = Scanner {
        text,
        at: 0,
        line: 1,
        counted: (0, 1),
        receiver,
    };
    scanner.value()?;
    scanner.space();
    if scanner.rest().is_empty() {
        Ok(())
    } else {
        Err(Stop::NotJson)
    }
}

struct Scanner<'a, 'r> {
    text: &'a str,
    /// A byte offset, always at the start of a character.
    at: usize,
    line: usize,
    /// An offset in this line and its column: the next column is counted from here, so that a
    /// long line is counted once.
    counted: (usize, usize),
    receiver: &'r mut Receiver<'r>,
}

impl<'a> Scanner<'a, '_> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.line += 1;
                self.counted = (self.at, 1);
            }
        }
    }

    /// Goes over one byte, if it is the one.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The column of the byte that comes next.
    fn column(&mut self) -> usize {
        let (from, column) = self.counted;
        let more = self.text.get(from..self.at).unwrap_or("");
        self.counted = (self.at, column + more.chars().count());
        self.counted.1
    }

    fn emit(&mut self, event: Event<'_>, place: (usize, usize)) -> Result<(), Stop> {
        (self.receiver)(event, place.0, place.1).map_err(Stop::Refused)
    }

    /// Line and column of the byte that comes next.
    fn place(&mut self) -> (usize, usize) {
        (self.line, self.column())
    }

    fn value(&mut self) -> Result<(), Stop> {
        self.space();
        let start = self.place();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.emit(Event::MappingStart(0, None), start)?;
                self.members()?;
                self.emit(Event::MappingEnd, start)
            }
            Some(b'[') => {
                self.at += 1;
                self.emit(Event::SequenceStart(0, None), start)?;
                self.items()?;
                self.emit(Event::SequenceEnd, start)
            }
            Some(b'"') => self.string(),
            _ => self.bare(),
        }
    }

    fn members(&mut self) -> Result<(), Stop> {
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(Stop::NotJson);
            }
            self.value()?;
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(Stop::NotJson);
            }
        }
    }

    fn items(&mut self) -> Result<(), Stop> {
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value()?;
            self.space();
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(Stop::NotJson);
            }
        }
    }

    fn string(&mut self) -> Result<(), Stop> {
        let start = self.place();
        if !self.take(b'"') {
            return Err(Stop::NotJson);
        }
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let end = rest.find(['"', '\\']).ok_or(Stop::NotJson)?;
            let part = rest.get(..end).unwrap_or("");
            if part.bytes().any(|byte| byte < b' ') {
                return Err(Stop::NotJson);
            }
            text.push_str(part);
            self.at += end;
            if self.take(b'"') {
                break;
            }
            self.at += 1;
            text.push(self.escape()?);
        }
        let scalar = Event::Scalar(Cow::Owned(text), ScalarStyle::DoubleQuoted, 0, None);
        self.emit(scalar, start)
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<char, Stop> {
        let byte = self.peek().ok_or(Stop::NotJson)?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let code = match first {
                    0xd800..=0xdbff => {
                        if !(self.take(b'\\') && self.take(b'u')) {
                            return Err(Stop::NotJson);
                        }
                        let second = self.hex()?;
                        if !(0xdc00..=0xdfff).contains(&second) {
                            return Err(Stop::NotJson);
                        }
                        0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    code => code,
                };
                char::from_u32(code).ok_or(Stop::NotJson)?
            }
            _ => return Err(Stop::NotJson),
        })
    }

    fn hex(&mut self) -> Result<u32, Stop> {
        let digits = self.rest().get(..4).ok_or(Stop::NotJson)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Stop::NotJson);
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| Stop::NotJson)
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&mut self) -> Result<(), Stop> {
        let start = self.place();
        let rest = self.rest();
        let end = rest
            .find([',', ']', '}', ' ', '\t', '\r', '\n'])
            .unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or("");
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            return Err(Stop::NotJson);
        }
        self.at += end;
        self.emit(
            Event::Scalar(Cow::Borrowed(word), ScalarStyle::Plain, 0, None),
            start,
        )
    }
}

/// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
fn is_number(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_json(text: &str) -> bool {
        scan(text, &mut |_, _, _| Ok(())).is_ok()
    }

    #[test]
    fn json_is_told_from_what_only_looks_like_it() {
        for text in [
            "{}",
            "[]",
            " [1, -0.5e+3, true, null]\n",
            r#"{"a": {"b": ["\u00e4\ud83d\ude00"]}}"#,
        ] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "{a: 1}",
            "[1,]",
            "{\"a\" 1}",
            "[01]",
            "[1.]",
            "[.5]",
            "[yes]",
            "[1] x",
            "[\"\\x\"]",
            "[\"\\ud83d\"]",
            "[\"\\ude00\"]",
            "[\"\n\"]",
            "[",
            "{\"a\":",
            "[1 2]",
            "[\"\\u12",
            "",
        ] {
            assert!(!is_json(text), "{text}");
        }
    }
}
