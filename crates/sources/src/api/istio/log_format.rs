//! Formats of access logs: lines of text, and objects.

use weft_model::balancing::Number;
use weft_model::provider::{Json, JsonObject, LogFormat};
use weft_proto::format;
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind as ValueKind};

use crate::check::At;

/// Nobody nests a log line deeper.
const MAX_JSON_DEPTH: usize = 32;

/// A line of text; empty is the default, and a missing line feed is added.
pub(super) fn text_format(text: &str, at: At<'_>) -> LogFormat {
    if text.is_empty() {
        return LogFormat::DefaultText;
    }
    operators(text, at);
    let feed = if text.ends_with('\n') { "" } else { "\n" };
    LogFormat::Text(format!("{text}{feed}").into())
}

/// `accessLogFormat` with `accessLogEncoding: JSON`: an object as text.
pub(super) fn json_format(text: &str, at: At<'_>) -> LogFormat {
    if text.is_empty() {
        return LogFormat::DefaultJson;
    }
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(map) => LogFormat::Json(
            map.into_iter()
                .filter_map(|(key, value)| Some((key.into(), read_json(value, at)?)))
                .collect(),
        ),
        Err(error) => {
            at.error(format_args!(
                "is no JSON object, which accessLogEncoding JSON wants: {error}"
            ));
            LogFormat::DefaultJson
        }
    }
}

/// The reader's own limit of depth (128) bounds the recursion.
fn read_json(value: serde_json::Value, at: At<'_>) -> Option<Json> {
    use serde_json::Value as From;
    Some(match value {
        From::Null => Json::Null,
        From::Bool(flag) => Json::Bool(flag),
        From::Number(number) => Json::Number(Number::new(number.as_f64()?)?),
        From::String(text) => {
            operators(&text, at);
            Json::Text(text.into())
        }
        From::Array(list) => {
            Json::List(list.into_iter().filter_map(|v| read_json(v, at)).collect())
        }
        From::Object(map) => Json::Object(
            map.into_iter()
                .filter_map(|(key, value)| Some((key.into(), read_json(value, at)?)))
                .collect(),
        ),
    })
}

/// Operators that Envoy does not have would cost proxies the whole listener.
pub(super) fn operators(text: &str, at: At<'_>) {
    at.ok(format::check_log(text));
}

/// An object whose values have operators.
pub(super) fn object(labels: Struct, at: At<'_>) -> JsonObject {
    fields(labels, at, MAX_JSON_DEPTH)
}

fn fields(message: Struct, at: At<'_>, depth: usize) -> JsonObject {
    let mut fields: Vec<(String, Value)> = message.fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
        .into_iter()
        .map(|(key, value)| {
            let value = json(value, at.key(&key), depth);
            (key.into(), value)
        })
        .collect()
}

fn json(value: Value, at: At<'_>, depth: usize) -> Json {
    let Some(depth) = depth.checked_sub(1) else {
        at.error(format_args!(
            "is nested deeper than {MAX_JSON_DEPTH} levels"
        ));
        return Json::Null;
    };
    match value.kind {
        Some(ValueKind::BoolValue(flag)) => Json::Bool(flag),
        Some(ValueKind::NumberValue(number)) => {
            let finite = Number::new(number);
            if finite.is_none() {
                at.error("is no finite number");
            }
            finite.map_or(Json::Null, Json::Number)
        }
        Some(ValueKind::StringValue(text)) => {
            operators(&text, at);
            Json::Text(text.into())
        }
        Some(ValueKind::ListValue(list)) => {
            let values = list.values.into_iter().enumerate();
            let values = values.map(|(index, value)| json(value, at.index(index), depth));
            Json::List(values.collect())
        }
        Some(ValueKind::StructValue(message)) => Json::Object(fields(message, at, depth)),
        Some(ValueKind::NullValue(_)) | None => Json::Null,
    }
}
