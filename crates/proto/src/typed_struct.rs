//! Messages that are written as `TypedStruct`: the JSON of a message beside its type's name. Must never
//! know which types there are uses for.

use std::borrow::Cow;
use std::sync::Arc;

use prost::Message;

use crate::pb::google::protobuf::{Struct, Value as Json, value::Kind};
use crate::reader::{Fault, Options, read_dynamic};
use crate::yaml::{Entry, Node, Number, NumberValue, Style, Value};
use crate::{Any, pool, xds};

/// Both names; the messages are the same.
const NAMES: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// Whether a message is written so.
pub fn is(any: &Any) -> bool {
    NAMES.contains(&pool::full_name_of(&any.type_url))
}

/// The full name of the message that is meant; empty if there is none.
pub fn type_of(any: &Any) -> Cow<'_, str> {
    if !is(any) {
        return Cow::Borrowed(pool::full_name_of(&any.type_url));
    }
    let written = xds::r#type::v3::TypedStruct::decode(any.value.as_slice());
    let url = written.map(|written| written.type_url).unwrap_or_default();
    Cow::Owned(pool::full_name_of(&url).to_owned())
}

/// The message that is meant. Reads it by its descriptor, like a document.
///
/// # Errors
/// Paths from the `TypedStruct` on, and what is wrong there.
pub fn resolve(any: &Any) -> Result<Any, Vec<(String, String)>> {
    let one = |path: &str, text: String| vec![(path.to_owned(), text)];
    let written = xds::r#type::v3::TypedStruct::decode(any.value.as_slice())
        .map_err(|error| one("", format!("cannot be decoded: {error}")))?;
    let name = pool::full_name_of(&written.type_url);
    if NAMES.contains(&name) {
        return Err(one("type_url", "names a TypedStruct again".to_owned()));
    }
    let kind = pool::message(name).ok_or_else(|| {
        let what = match name {
            "" => "is required".to_owned(),
            name => format!("{name} is not supported by Weft"),
        };
        one("type_url", what)
    })?;
    let node = mapping(written.value.unwrap_or_default());
    let message = read_dynamic(&node, &kind, "value", Options::ENVOY).map_err(|faults| {
        let told = |fault: Fault| (fault.path, fault.message);
        faults.into_iter().map(told).collect::<Vec<_>>()
    })?;
    Ok(Any {
        type_url: written.type_url,
        value: message.encode_to_vec(),
    })
}

/// Nesting is bounded by the decoder of the `Struct`.
fn mapping(fields: Struct) -> Node {
    let mut entries: Vec<Entry> = fields
        .fields
        .into_iter()
        .map(|(key, value)| Entry {
            key: key.into(),
            line: 0,
            column: 0,
            value: node(value),
        })
        .collect();
    entries.sort_by(|one, other| one.key.cmp(&other.key));
    at_no_place(Value::Map(Arc::new(entries)))
}

fn at_no_place(value: Value) -> Node {
    Node {
        value,
        line: 0,
        column: 0,
    }
}

fn node(value: Json) -> Node {
    match value.kind {
        None | Some(Kind::NullValue(_)) => at_no_place(Value::Null),
        Some(Kind::BoolValue(flag)) => at_no_place(Value::Bool(flag)),
        Some(Kind::NumberValue(number)) => at_no_place(Value::Number(Number {
            text: number.to_string().into(),
            value: number_value(number),
        })),
        Some(Kind::StringValue(text)) => at_no_place(Value::String(text.into(), Style::Quoted)),
        Some(Kind::ListValue(list)) => {
            let items = list.values.into_iter().map(node).collect();
            at_no_place(Value::Seq(Arc::new(items)))
        }
        Some(Kind::StructValue(fields)) => mapping(fields),
    }
}

/// A `Struct` has only floating numbers; whole ones are whole again.
fn number_value(number: f64) -> NumberValue {
    /// Wider than any integer of a message, and exact enough to be refused where it is out of range.
    const WIDEST: f64 = 1e30;
    if number.fract() == 0.0 && number.abs() < WIDEST {
        #[allow(clippy::cast_possible_truncation, reason = "whole, and in range")]
        NumberValue::Int(number as i128)
    } else {
        NumberValue::Float(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::read_yaml_message;
    use crate::pb::envoy::config::core::v3::TypedExtensionConfig;
    use crate::pb::envoy::extensions::filters::http::fault::v3::HttpFault;

    const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

    fn written(kind: &str, type_url: &str, value: &str) -> Any {
        let text = format!(
            "{{name: x, typed_config: {{'@type': type.googleapis.com/{kind}, type_url: {type_url}, value: {value}}}}}"
        );
        let name = "envoy.config.core.v3.TypedExtensionConfig";
        let message: TypedExtensionConfig =
            read_yaml_message("test.yaml", &text, name).expect("it is readable");
        message.typed_config.expect("it is there")
    }

    #[test]
    fn both_forms_mean_the_message() {
        let value = "{delay: {fixed_delay: 2.5s, percentage: {numerator: 7}}, max_active_faults: 3, \
                      downstreamNodes: [a, '5'], disable_downstream_cluster_stats: true}";
        for kind in NAMES {
            let any = written(kind, FAULT, value);
            assert!(is(&any));
            let meant = resolve(&any).expect("it is read");
            assert_eq!(meant.type_url, FAULT);
            assert!(!is(&meant));
            let fault = HttpFault::decode(meant.value.as_slice()).expect("a message");
            assert_eq!(fault.max_active_faults.map(|most| most.value), Some(3));
            assert_eq!(fault.downstream_nodes, ["a", "5"]);
            assert!(fault.disable_downstream_cluster_stats);
            let share = fault.delay.and_then(|delay| delay.percentage);
            assert_eq!(share.map(|share| share.numerator), Some(7));
        }
        let nothing = resolve(&written(NAMES[0], FAULT, "{}")).expect("it is read");
        assert!(nothing.value.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (type_url, value, path, text) in [
            (
                FAULT,
                "{abort: {percentage: {numerator: -1}}}",
                "value.abort.percentage.numerator",
                "",
            ),
            (
                FAULT,
                "{max_active_faults: 1.5}",
                "value.max_active_faults",
                "",
            ),
            (
                FAULT,
                "{max_active_faults: 1e20}",
                "value.max_active_faults",
                "",
            ),
            (FAULT, "{delai: {}}", "value", "delay"),
            (
                "type.googleapis.com/a.B",
                "{}",
                "type_url",
                "a.B is not supported",
            ),
            ("''", "{}", "type_url", "is required"),
            ("x/xds.type.v3.TypedStruct", "{}", "type_url", "again"),
        ] {
            let any = written(NAMES[1], type_url, value);
            let problems = resolve(&any).expect_err(value);
            let (found, what) = &problems[0];
            assert_eq!(found, path, "{what}");
            assert!(what.contains(text), "{what}");
        }
        let damaged = Any {
            type_url: "x/xds.type.v3.TypedStruct".to_owned(),
            value: vec![0xff],
        };
        assert!(resolve(&damaged).is_err());
    }
}
