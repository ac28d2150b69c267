//! Values of Hessian 2 as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::tree::{Node, Tree};

/// Values inside of values; one that contains itself gets there.
const MAX_DEPTH: usize = 128;
/// What each value counts for beyond its text.
const VALUE: usize = 4;
/// Under this key generic servers name the class of an object.
const CLASS: &str = "class";

/// How values are written, and how much more of them may be.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) omit_class: bool,
    pub(crate) bytes_left: usize,
}

/// Why a value has no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// More bytes than allowed.
    Bytes,
    /// Nested too deeply.
    Depth,
}

impl Form {
    fn spend(&mut self, bytes: usize) -> Result<(), TooLarge> {
        let left = self.bytes_left.checked_sub(bytes.saturating_add(VALUE));
        self.bytes_left = left.ok_or(TooLarge::Bytes)?;
        Ok(())
    }
}

impl Tree<'_> {
    /// The value of a node. Numbers that JSON does not have, times, bytes and big numbers are strings.
    pub(crate) fn json(&self, at: u32, form: &mut Form) -> Result<Value, TooLarge> {
        self.json_at(at, form, 0)
    }

    fn json_at(&self, at: u32, form: &mut Form, depth: usize) -> Result<Value, TooLarge> {
        if depth > MAX_DEPTH {
            return Err(TooLarge::Depth);
        }
        form.spend(0)?;
        let text = |text: String, form: &mut Form| {
            form.spend(text.len())?;
            Ok(Value::String(text))
        };
        match self.node(at) {
            None | Some(Node::Null) => Ok(Value::Null),
            Some(Node::Bool(value)) => Ok(Value::Bool(*value)),
            Some(Node::Int(value)) => Ok(Value::from(*value)),
            Some(Node::Double(value)) => match Number::from_f64(*value) {
                Some(number) => Ok(Value::Number(number)),
                None if value.is_nan() => text("NaN".to_owned(), form),
                None if *value > 0.0 => text("Infinity".to_owned(), form),
                None => text("-Infinity".to_owned(), form),
            },
            Some(Node::Text(value)) => {
                form.spend(value.len())?;
                Ok(Value::String(value.to_string()))
            }
            Some(Node::Bytes(value)) => {
                form.spend(value.len().saturating_mul(4) / 3)?;
                Ok(Value::String(STANDARD.encode(value)))
            }
            Some(Node::Time(millis)) => text(time(*millis), form),
            Some(Node::List(items)) => {
                let mut out = Vec::new();
                for item in items {
                    out.push(self.json_at(*item, form, depth + 1)?);
                }
                Ok(Value::Array(out))
            }
            Some(Node::Map(pairs)) => self.json_map(pairs, form, depth),
            Some(Node::Object(class, values)) => self.json_object(*class, values, form, depth),
        }
    }

    fn json_map(
        &self,
        pairs: &[(u32, u32)],
        form: &mut Form,
        depth: usize,
    ) -> Result<Value, TooLarge> {
        let mut out = Map::new();
        for (key, value) in pairs {
            // What is no string is its own JSON, as in a map from numbers.
            let key = match self.json_at(*key, form, depth + 1)? {
                Value::String(key) => key,
                other => {
                    let key = other.to_string();
                    form.spend(key.len())?;
                    key
                }
            };
            if form.omit_class && key == CLASS {
                continue;
            }
            out.insert(key, self.json_at(*value, form, depth + 1)?);
        }
        Ok(Value::Object(out))
    }

    fn json_object(
        &self,
        class: u32,
        values: &[u32],
        form: &mut Form,
        depth: usize,
    ) -> Result<Value, TooLarge> {
        let Some(class) = self.class(class) else {
            return Ok(Value::Null);
        };
        // Numbers of any length are written as their digits; as JSON's they would lose some.
        if let ("java.math.BigDecimal" | "java.math.BigInteger", [value]) = (&*class.name, values) {
            return self.json_at(*value, form, depth + 1);
        }
        let mut out = Map::new();
        for (name, value) in class.fields.iter().zip(values) {
            form.spend(name.len())?;
            out.insert(name.to_string(), self.json_at(*value, form, depth + 1)?);
        }
        Ok(Value::Object(out))
    }
}

/// A time in the form of RFC 3339. Source of the calendar: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
fn time(millis: i64) -> String {
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    fn json(bytes: &[u8], bytes_left: usize) -> Result<Value, TooLarge> {
        let mut tree = Tree::default();
        let root = tree.read(&mut Reader::new(bytes, 0)).expect("a value");
        let omit_class = true;
        tree.json(
            root,
            &mut Form {
                omit_class,
                bytes_left,
            },
        )
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
        assert!(!time(i64::MIN).is_empty() && !time(i64::MAX).is_empty());
    }

    #[test]
    fn values_of_all_kinds_have_their_json() {
        // From the examples of the Hessian 2.0 specification, and Java's implementation.
        for (bytes, wanted) in [
            (&b"N"[..], "null"),
            (b"T", "true"),
            (b"\x90", "0"),
            (b"I\xff\xff\xff\xfe", "-2"),
            (b"L\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807"),
            (b"\x5e\x80\x00", "-32768.0"),
            (b"\x5f\x00\x00\x2f\xda", "12.25"),
            (b"D\x7f\xf8\0\0\0\0\0\0", "\"NaN\""),
            (
                b"\x4a\0\0\0\xd0\x4b\x92\x84\xb8",
                "\"1998-05-08T09:51:31.000Z\"",
            ),
            (b"\x4b\x00\xe3\x83\x8f", "\"1998-05-08T09:51:00.000Z\""),
            (b"\x23\x01\x02\x03", "\"AQID\""),
            (b"\x57\x90\x91Z", "[0,1]"),
            (b"V\x04[int\x92\x90\x91", "[0,1]"),
            (b"\x72\x04[int\x90\x91", "[0,1]"),
            (b"H\x91\x03fee\xa0\x03fieZ", r#"{"1":"fee","16":"fie"}"#),
            (b"H\x05class\x01x\x01a\x90Z", r#"{"a":0}"#),
            (
                b"C\x03Car\x92\x05color\x05model\x60\x03red\x05civic",
                r#"{"color":"red","model":"civic"}"#,
            ),
            (
                b"C\x14java.math.BigDecimal\x91\x05value\x60\x0512.50",
                "\"12.50\"",
            ),
            // The second is the first.
            (b"\x7a\x79\x91\x51\x91", "[[1],[1]]"),
        ] {
            let json = json(bytes, 1000).expect("small").to_string();
            assert_eq!(json, wanted, "{bytes:x?}");
        }
    }

    #[test]
    fn what_contains_itself_or_grows_by_references_is_given_up() {
        assert_eq!(json(b"\x79\x51\x90", 1 << 20), Err(TooLarge::Depth));
        // Each list has the one before twice.
        let mut bomb = vec![0x58, 0x90 + 30, 0x7a, 0x90, 0x90];
        for before in 1..30 {
            bomb.extend([0x7a, 0x51, 0x90 + before, 0x51, 0x90 + before]);
        }
        assert_eq!(json(&bomb, 1 << 20), Err(TooLarge::Bytes));
    }

    #[test]
    fn damaged_values_are_none() {
        let whole = b"C\x03Car\x92\x05color\x05model\x7a\x60\x03red\x05civic\x57\x90\x91Z";
        assert!(Tree::default().read(&mut Reader::new(whole, 0)).is_some());
        for len in 0..whole.len() {
            let cut = whole.get(..len).unwrap_or_default();
            assert!(
                Tree::default().read(&mut Reader::new(cut, 0)).is_none(),
                "{len}"
            );
        }
        let deep = vec![0x79; 1000];
        assert!(Tree::default().read(&mut Reader::new(&deep, 0)).is_none());
        let mut many = vec![0x58, b'I', 0x7f, 0xff, 0xff, 0xff];
        many.extend(vec![0x90; 300_000]);
        assert!(Tree::default().read(&mut Reader::new(&many, 0)).is_none());
    }
}
