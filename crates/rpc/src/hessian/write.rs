//! JSON as values of Hessian 2, and what else is written of them.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Values inside of values; no JSON that was read has more.
const MAX_DEPTH: usize = 128;
/// The member of an object under which servers look for its class.
const CLASS: &str = "class";

/// Which of the two grammars of Hessian 2 is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The final one (Dubbo).
    Final,
    /// The first draft (SOFARPC).
    Draft,
}

/// Why a value cannot be written: where, and what is wrong.
pub(crate) type Wrong = (String, String);

/// What is expected of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'t> {
    Bool,
    /// A whole number of so many bits.
    Int(u32),
    Long,
    Double,
    Char,
    Text,
    /// A number of any length, as text.
    Digits,
    Array(&'t str),
    /// Whatever the server makes of it.
    Any,
}

/// What a type of Java wants, and whether null is something else.
fn wanted(of: &str) -> (Wanted<'_>, bool) {
    if let Some(items) = of.strip_suffix("[]") {
        return (Wanted::Array(items), false);
    }
    let wanted = match of {
        "boolean" | "java.lang.Boolean" => Wanted::Bool,
        "byte" | "java.lang.Byte" => Wanted::Int(8),
        "short" | "java.lang.Short" => Wanted::Int(16),
        "int" | "java.lang.Integer" => Wanted::Int(32),
        "long" | "java.lang.Long" => Wanted::Long,
        "float" | "java.lang.Float" | "double" | "java.lang.Double" => Wanted::Double,
        "char" | "java.lang.Character" => Wanted::Char,
        "java.lang.String" | "java.lang.CharSequence" => Wanted::Text,
        "java.math.BigDecimal" | "java.math.BigInteger" => Wanted::Digits,
        _ => Wanted::Any,
    };
    (wanted, !of.contains('.') && wanted != Wanted::Any)
}

/// Writes an argument for a parameter of a type, by Java's name; none if it is empty. Objects name their
/// classes only if they may.
pub(crate) fn argument(
    out: &mut Vec<u8>,
    value: &Value,
    (of, allow_class): (&str, bool),
    dialect: Dialect,
) -> Result<(), Wrong> {
    let mut place = Place {
        path: String::new(),
        depth: 0,
        allow_class,
        dialect,
    };
    write(out, (value, of), &mut place).map_err(|text| (place.path, text))
}

/// Where inside of an argument.
struct Place {
    path: String,
    depth: usize,
    allow_class: bool,
    dialect: Dialect,
}

fn write(out: &mut Vec<u8>, (value, of): (&Value, &str), place: &mut Place) -> Result<(), String> {
    if place.depth > MAX_DEPTH {
        return Err("is nested too deeply".to_owned());
    }
    let (wanted, primitive) = wanted(of);
    let dialect = place.dialect;
    let wrong = || {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "this number",
            Value::String(_) => "this string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Err(format!("{kind} is no {of}"))
    };
    match (wanted, value) {
        (_, Value::Null) if primitive => return wrong(),
        (_, Value::Null) => out.push(b'N'),
        (Wanted::Bool | Wanted::Any, Value::Bool(value)) => {
            out.push(if *value { b'T' } else { b'F' });
        }
        (Wanted::Int(bits), Value::Number(number)) => {
            let range = 1_i64 << (bits - 1);
            let fits = |value: &i64| (-range..range).contains(value);
            let Some(value) = number.as_i64().filter(fits) else {
                return wrong();
            };
            put_int(out, value as i32);
        }
        (Wanted::Long, Value::Number(number)) => match number.as_i64() {
            Some(value) => put_long(out, value, dialect),
            None => return wrong(),
        },
        (Wanted::Double, Value::Number(number)) => match number.as_f64() {
            Some(value) => put_double(out, value),
            None => return wrong(),
        },
        (Wanted::Char, Value::String(text)) if text.encode_utf16().count() == 1 => {
            put_text(out, text, dialect);
        }
        (Wanted::Text | Wanted::Any, Value::String(text)) => put_text(out, text, dialect),
        (Wanted::Digits, Value::String(text)) => put_digits(out, text, (of, dialect)),
        (Wanted::Digits, Value::Number(number)) => {
            put_digits(out, &number.to_string(), (of, dialect));
        }
        (Wanted::Any, Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => match i32::try_from(value) {
                Ok(value) => put_int(out, value),
                Err(_) => put_long(out, value, dialect),
            },
            (None, _) if number.is_u64() => return Err("this number is no long".to_owned()),
            (None, Some(value)) => put_double(out, value),
            (None, None) => return Err("this number is no double".to_owned()),
        },
        (Wanted::Any, Value::Array(items)) => write_list(out, (items, ""), place)?,
        (Wanted::Array(of), Value::Array(items)) => write_list(out, (items, of), place)?,
        (Wanted::Any, Value::Object(members)) => write_members(out, members, place)?,
        _ => return wrong(),
    }
    Ok(())
}

fn write_members(
    out: &mut Vec<u8>,
    members: &Map<String, Value>,
    place: &mut Place,
) -> Result<(), String> {
    let len = place.path.len();
    let enter = |place: &mut Place, key: &str| {
        place.path.truncate(len);
        place.path.push('.');
        place.path.push_str(key);
    };
    let class = members.get(CLASS);
    if class.is_some() && !place.allow_class {
        enter(place, CLASS);
        return Err("names a class, which callers must not".to_owned());
    }
    match place.dialect {
        Dialect::Final => out.push(b'H'),
        // There the name of the class is that of the map.
        Dialect::Draft => {
            let class = match class {
                None => "",
                Some(Value::String(class)) if u16::try_from(class.len()).is_ok() => class,
                Some(_) => {
                    enter(place, CLASS);
                    return Err("is no name of a class".to_owned());
                }
            };
            put_draft_map(out, class);
        }
    }
    let is_entry = |key: &str| place_is_entry(place.dialect, key);
    let entries: Vec<_> = members.iter().filter(|(key, _)| is_entry(key)).collect();
    for (key, value) in entries {
        put_text(out, key, place.dialect);
        enter(place, key);
        place.depth += 1;
        write(out, (value, ""), place)?;
        place.depth -= 1;
    }
    place.path.truncate(len);
    put_end(out, place.dialect);
    Ok(())
}

/// Whether a member is one of the object's, and does not stand elsewhere.
fn place_is_entry(dialect: Dialect, key: &str) -> bool {
    dialect == Dialect::Final || key != CLASS
}

fn write_list(
    out: &mut Vec<u8>,
    (items, of): (&[Value], &str),
    place: &mut Place,
) -> Result<(), String> {
    match place.dialect {
        Dialect::Final => put_list(out, items.len()),
        Dialect::Draft => out.push(b'V'),
    }
    let len = place.path.len();
    for (number, item) in items.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(place.path, "[{number}]");
        place.depth += 1;
        write(out, (item, of), place)?;
        place.depth -= 1;
        place.path.truncate(len);
    }
    if place.dialect == Dialect::Draft {
        put_end(out, Dialect::Draft);
    }
    Ok(())
}

/// A number of any length: servers make it of a string, those of the draft of an object with one.
fn put_digits(out: &mut Vec<u8>, digits: &str, (of, dialect): (&str, Dialect)) {
    if dialect == Dialect::Final {
        return put_string(out, digits);
    }
    put_draft_map(out, of);
    put_text(out, "value", dialect);
    put_text(out, digits, dialect);
    put_end(out, dialect);
}

/// The beginning of a map or, with a class, of an object; a class's name is short.
fn put_draft_map(out: &mut Vec<u8>, class: &str) {
    out.push(b'M');
    if !class.is_empty() {
        put_draft_type(out, class);
    }
}

fn put_draft_type(out: &mut Vec<u8>, name: &str) {
    out.push(b't');
    // In units of UTF-16, as all texts are measured.
    let mut text = Vec::new();
    put_units(&mut text, name.encode_utf16());
    let units = name.encode_utf16().count();
    out.extend_from_slice(&(units as u16).to_be_bytes());
    out.extend_from_slice(&text);
}

fn put_end(out: &mut Vec<u8>, dialect: Dialect) {
    out.push(match dialect {
        Dialect::Final => b'Z',
        Dialect::Draft => b'z',
    });
}

fn put_int(out: &mut Vec<u8>, value: i32) {
    if (-16..=47).contains(&value) {
        return out.push((value + 0x90) as u8);
    }
    out.push(b'I');
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_long(out: &mut Vec<u8>, value: i64, dialect: Dialect) {
    match (value, i32::try_from(value)) {
        (-8..=15, _) => out.push((value + 0xe0) as u8),
        (_, Ok(value)) => {
            out.push(match dialect {
                Dialect::Final => 0x59,
                Dialect::Draft => 0x77,
            });
            out.extend_from_slice(&value.to_be_bytes());
        }
        _ => {
            out.push(b'L');
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn put_double(out: &mut Vec<u8>, value: f64) {
    out.push(b'D');
    out.extend_from_slice(&value.to_bits().to_be_bytes());
}

/// The beginning of a list of so many values.
fn put_list(out: &mut Vec<u8>, len: usize) {
    out.push(0x58);
    put_int(out, len as i32);
}

/// The beginning of a list of a type; one of the draft has an end.
pub(crate) fn put_typed_list(out: &mut Vec<u8>, of: &str, len: usize, dialect: Dialect) {
    out.push(b'V');
    match dialect {
        Dialect::Final => {
            put_string(out, of);
            put_int(out, len as i32);
        }
        Dialect::Draft => {
            put_draft_type(out, of);
            out.push(b'l');
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

/// Writes a string.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_text(out, text, Dialect::Final);
}

/// Writes a string in one of the grammars.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str, dialect: Dialect) {
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut pieces = units.chunks(0x7fff).peekable();
    if pieces.peek().is_none() {
        out.push(0);
    }
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        match piece.len() {
            short @ 0..=0x1f if last => out.push(short as u8),
            len => {
                out.push(match dialect {
                    _ if last => b'S',
                    Dialect::Final => b'R',
                    Dialect::Draft => b's',
                });
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        put_units(out, piece.iter().copied());
    }
}

/// Surrogates are encoded apart, as Java's implementations do.
fn put_units(out: &mut Vec<u8>, units: impl Iterator<Item = u16>) {
    for unit in units {
        let (high, middle, low) = (
            (unit >> 12) as u8,
            (unit >> 6 & 0x3f) as u8,
            (unit & 0x3f) as u8,
        );
        match unit {
            0..=0x7f => out.push(low | middle << 6),
            0x80..=0x7ff => out.extend([0xc0 | (unit >> 6) as u8, 0x80 | low]),
            _ => out.extend([0xe0 | high, 0x80 | middle, 0x80 | low]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Form, Reader, Tree};
    use super::*;

    fn there_and_back(value: &Value, of: &str) -> Value {
        let last = through(value, of, Dialect::Final);
        // There it is an object, and its class is not shown.
        if !of.starts_with("java.math.") && !value.to_string().contains("\"class\"") {
            assert_eq!(through(value, of, Dialect::Draft), last);
        }
        last
    }

    fn through(value: &Value, of: &str, dialect: Dialect) -> Value {
        let mut bytes = Vec::new();
        argument(&mut bytes, value, (of, true), dialect).expect("it can be written");
        let mut tree = Tree::default();
        let mut reader = Reader::new(&bytes, 0);
        let root = match dialect {
            Dialect::Final => tree.read(&mut reader),
            Dialect::Draft => tree.read_draft(&mut reader),
        };
        let root = root.expect("it can be read");
        assert_eq!(reader.place(), bytes.len());
        let (omit_class, bytes_left) = (false, 1 << 20);
        let mut form = Form {
            omit_class,
            bytes_left,
        };
        tree.json(root, &mut form).expect("it is small")
    }

    #[test]
    fn values_come_back_as_they_went() {
        let long = "ä😀".repeat(30_000);
        let value = json!({"a": [null, true, false, 1, -17, 48, 70_000, 5_000_000_000_i64, i64::MIN, 0.5, ""],
            "b": {"class": "shop.Item", "text": long}, "c": [[], {}]});
        assert_eq!(there_and_back(&value, ""), value);
        let plain = json!({"text": long, "list": [{"a": 1}, {}], "": null});
        assert_eq!(there_and_back(&plain, "shop.Item"), plain);
        let named = json!({"class": "shop.Ä", "a": 1});
        assert_eq!(through(&named, "", Dialect::Draft), json!({"a": 1}));
        let digits = through(&json!("0.10"), "java.math.BigDecimal", Dialect::Draft);
        assert_eq!(digits, json!({"value": "0.10"}));
        for number in [-9_i64, -8, 15, 16, 47, -16, 1 << 31, -(1 << 31) - 1] {
            assert_eq!(there_and_back(&json!(number), "long"), number);
            assert_eq!(there_and_back(&json!(number), "java.lang.Object"), number);
        }
        assert_eq!(there_and_back(&json!(3), "double"), 3.0);
        assert_eq!(there_and_back(&json!(12.5), "java.math.BigDecimal"), "12.5");
        assert_eq!(
            there_and_back(&json!([[1], []]), "int[][]"),
            json!([[1], []])
        );
        assert_eq!(
            there_and_back(&json!(null), "java.lang.Integer"),
            Value::Null
        );
    }

    #[test]
    fn what_a_parameter_cannot_have_is_told_with_its_place() {
        for (value, of, place, text) in [
            (json!("x"), "int", "", "this string is no int"),
            (json!(null), "long", "", "null is no long"),
            (json!(128), "byte", "", "this number is no byte"),
            (
                json!(1.5),
                "java.lang.Long",
                "",
                "this number is no java.lang.Long",
            ),
            (json!("ab"), "char", "", "this string is no char"),
            (
                json!(1),
                "java.lang.String",
                "",
                "this number is no java.lang.String",
            ),
            (json!([1, [2]]), "int[]", "[1]", "an array is no int"),
            (
                json!({"a": [{"b": u64::MAX}]}),
                "shop.Item",
                ".a[0].b",
                "this number is no long",
            ),
        ] {
            let wrong = argument(&mut Vec::new(), &value, (of, false), Dialect::Final);
            let wrong = wrong.expect_err("it is wrong");
            assert_eq!(wrong, (place.to_owned(), text.to_owned()), "{value}");
        }
    }
}
