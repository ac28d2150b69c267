//! Durations as text and as numbers: what protobuf's JSON writes (`0.5s`) and what Go's
//! `time.ParseDuration` reads (`1h30m`, `15m`, `30ms`), which is how Istio's users write them.

use crate::Duration;

/// Protobuf's limit, ten thousand years, in seconds.
const MAX_SECONDS: i128 = 315_576_000_000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;
/// More digits than this cannot change a duration of nanoseconds.
const MAX_DIGITS: usize = 18;

/// Reads `900s`, `0.5s`, `1h30m`, `30ms`, `-2s`; the message of an error says what is wrong.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        |why: &str| format!("{text:?} is not a duration: {why}, write e.g. \"1.5s\" or \"15m\"");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::default());
    }
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let (value, unit, after) = component(rest).map_err(|why| wrong(&why))?;
        nanos = nanos.saturating_add(value.nanos(unit));
        if nanos > MAX_SECONDS * NANOS_PER_SECOND {
            return Err(wrong("it is longer than 10000 years"));
        }
        rest = after;
    }
    if negative {
        nanos = -nanos;
    }
    Ok(Duration {
        seconds: (nanos / NANOS_PER_SECOND) as i64,
        nanos: (nanos % NANOS_PER_SECOND) as i32,
    })
}

/// A decimal number, kept as whole digits and a power of ten.
struct Decimal {
    digits: i128,
    scale: u32,
}

impl Decimal {
    fn nanos(&self, unit: i128) -> i128 {
        self.digits.saturating_mul(unit) / 10_i128.pow(self.scale)
    }
}

/// Splits the first number and its unit (in nanoseconds) off.
fn component(text: &str) -> Result<(Decimal, i128, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(|| "a unit is missing (ns, us, ms, s, m or h)".to_owned())?;
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(format!("a number is expected before {rest:?}"));
    }
    if whole.len() > MAX_DIGITS {
        return Err("it is longer than 10000 years".to_owned());
    }
    let fraction = fraction.get(..MAX_DIGITS.min(fraction.len())).unwrap_or("");
    let mut digits: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits * 10 + i128::from(digit - b'0');
    }
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let unit = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        _ => return Err(format!("unknown unit {unit:?} (ns, us, ms, s, m or h)")),
    };
    Ok((
        Decimal {
            digits,
            scale: fraction.len() as u32,
        },
        unit,
        after,
    ))
}

/// As protobuf's JSON prints it: seconds with 0, 3, 6 or 9 decimals.
pub fn format(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    match nanos {
        0 => format!("{sign}{seconds}s"),
        n if n % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{sign}{seconds}.{:06}s", n / 1_000),
        n => format!("{sign}{seconds}.{n:09}s"),
    }
}

/// The duration as the standard library's; `None` if it is negative or malformed.
pub fn to_std(duration: &Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(seconds, nanos))
}

/// The standard library's duration as a message, cut at protobuf's limit.
pub fn from_std(duration: std::time::Duration) -> Duration {
    match i64::try_from(duration.as_secs()) {
        Ok(seconds) if i128::from(seconds) < MAX_SECONDS => Duration {
            seconds,
            nanos: duration.subsec_nanos().cast_signed(),
        },
        _ => Duration {
            seconds: MAX_SECONDS as i64,
            nanos: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_and_proto_durations_are_read() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("0s", 0, 0),
            ("900s", 900, 0),
            ("0.5s", 0, 500_000_000),
            (".5s", 0, 500_000_000),
            ("1.s", 1, 0),
            ("15m", 900, 0),
            ("24h", 86_400, 0),
            ("1h30m", 5_400, 0),
            ("1h30m0.25s", 5_400, 250_000_000),
            ("30ms", 0, 30_000_000),
            ("1500ms", 1, 500_000_000),
            ("7us", 0, 7_000),
            ("7\u{b5}s", 0, 7_000),
            ("7ns", 0, 7),
            ("1.5h", 5_400, 0),
            ("0.000000001s", 0, 1),
            ("0.0000000001s", 0, 0),
            ("-1.5s", -1, -500_000_000),
            ("+2s", 2, 0),
            ("315576000000s", 315_576_000_000, 0),
        ] {
            assert_eq!(parse(text), Ok(Duration { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for (text, why) in [
            ("", "it is empty"),
            ("-", "it is empty"),
            ("5", "a unit is missing"),
            ("1.2.3s", "a number is expected"),
            ("s", "a number is expected"),
            (".s", "a number is expected"),
            ("5d", "unknown unit \"d\""),
            ("5 s", "unknown unit \" s\""),
            ("5S", "unknown unit \"S\""),
            ("1h-5m", "unknown unit \"h-\""),
            ("315576000001s", "10000 years"),
            ("99999999999999999999h", "10000 years"),
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn printing_uses_as_few_groups_of_decimals_as_it_can() {
        for (text, printed) in [
            ("2s", "2s"),
            ("250ms", "0.250s"),
            ("7us", "0.000007s"),
            ("7ns", "0.000000007s"),
            ("-1.5s", "-1.500s"),
            ("-0.5s", "-0.500s"),
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(format(duration.seconds, duration.nanos), printed);
        }
    }
}
