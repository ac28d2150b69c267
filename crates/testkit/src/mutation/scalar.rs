//! Values that stand at the edges of what fields allow.

use serde_json::Value;

use super::Seeded;

const TEXTS: &[&str] = &[
    "",
    " ",
    "*",
    ".",
    "~",
    "/",
    "*.",
    "*.*",
    "./*",
    "*/*",
    "~/*",
    "*-a.example.com",
    "a..b",
    "-",
    "A",
    "ä",
    "%",
    "%%",
    "%REQ(",
    "%REQ(:path)%",
    "\n",
    "\u{0}",
    "\u{1}",
    "\"",
    "'",
    "\\",
    "(",
    "[a-",
    "a{99999}",
    "(a+)+$",
    ".*",
    "\\d{1,1001}",
    "0",
    "1",
    "-1",
    "1.5",
    "65536",
    "true",
    "null",
    "0.0.0.0",
    "0.0.0.0/0",
    "::",
    "::/0",
    "::ffff:10.0.0.1",
    "10.0.0.1",
    "10.0.0.1/33",
    "10.0.0.1/8",
    "255.255.255.255",
    "fe80::1%eth0",
    "127.0.0.1:80",
    "[::1]:80",
    "unix:///a",
    "unix://@a",
    "@request.auth.claims.a",
    "@request.auth.claims[a]",
    ":authority",
    ":path",
    "host",
    "mesh",
    "mesh/a",
    "a/b/c",
    "istio-system",
    "default",
    "kubernetes://a",
    "spiffe://a/b",
    "http://",
    "https://a",
    "cluster.local",
    "reviews",
    "reviews.shop",
    "reviews.shop.svc.cluster.local",
    "*.svc.cluster.local",
    "example.com.",
];
const DURATIONS: &[&str] = &[
    "0s",
    "-1s",
    "0.000000001s",
    "0.0009s",
    "1ms",
    "1s",
    "1h",
    "24h",
    "315576000000s",
    "315576000001s",
    "1e3s",
    "1",
    "s",
];
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    3,
    79,
    80,
    100,
    101,
    127,
    199,
    200,
    443,
    599,
    600,
    1000,
    1_001,
    15_001,
    15_006,
    15_021,
    32_767,
    65_535,
    65_536,
    4_194_304,
    8_388_608,
    8_388_609,
    2_147_483_647,
    2_147_483_648,
    4_294_967_295,
    4_294_967_296,
    9_007_199_254_740_993,
    i64::MAX,
    i64::MIN,
];
const FRACTIONS: &[f64] = &[0.0, 1e-9, 0.5, 1.5, 99.999_999, 100.000_1, -0.1, 1e300];

/// Another value in the place of this one.
pub(super) fn twist(random: &mut Seeded, value: &mut Value) {
    *value = match &*value {
        Value::String(text) => twisted(random, text),
        Value::Number(_) | Value::Null => number(random),
        Value::Bool(is) => Value::from(!is),
        // Collections stay; what is in them has places of its own.
        other => other.clone(),
    };
}

fn number(random: &mut Seeded) -> Value {
    if random.chance(15) {
        return Value::from(
            FRACTIONS
                .get(random.below(FRACTIONS.len()))
                .copied()
                .unwrap_or_default(),
        );
    }
    Value::from(
        NUMBERS
            .get(random.below(NUMBERS.len()))
            .copied()
            .unwrap_or_default(),
    )
}

fn twisted(random: &mut Seeded, text: &str) -> Value {
    let is_duration = text.ends_with('s') && text.starts_with(|first: char| first.is_ascii_digit());
    if is_duration && random.chance(70) {
        return Value::from(random.pick(DURATIONS).copied().unwrap_or_default());
    }
    let made = match random.below(10) {
        0 => format!("{text}{}", "a".repeat(1 + random.below(300))),
        1 => text
            .chars()
            .take(random.below(text.chars().count().max(1)))
            .collect(),
        2 => format!("*{text}"),
        3 => text.to_uppercase(),
        4 => format!("{text}."),
        5 => text.replacen('.', "", 1),
        _ => random.pick(TEXTS).copied().unwrap_or_default().to_owned(),
    };
    Value::from(made)
}

/// A text that was not written to its end, or was written over.
pub(super) fn torn(random: &mut Seeded, mut text: String) -> String {
    let at = random.below(text.len().max(1));
    let Some(at) = (at..=text.len()).find(|at| text.is_char_boundary(*at)) else {
        return text;
    };
    if random.chance(50) {
        text.truncate(at);
    } else {
        text.insert_str(
            at,
            ["---\n", "\t", "&a ", "*a ", "}", "\n- ", ": "][random.below(7)],
        );
    }
    text
}
