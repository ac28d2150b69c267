//! JSON access-log lines, and the choice between text and JSON.

use std::io::Write as _;

use http::header::HeaderName;

use super::{Format, FormatSource, Segment, Shown, evaluate};
use crate::pass::Pass;
use crate::pb;
use pb::google::value::Kind;

/// A template whose strings are format strings. Keys are written in order of their names.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    /// An object.
    Object(Vec<(String, JsonFormat)>),
    /// An array.
    Array(Vec<JsonFormat>),
    /// A format string; a lone operator keeps numbers and null.
    Text(Format),
    /// A number, as configured.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// Null.
    Null,
}

/// How a line of an access log looks.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Text; the line feed is part of the format.
    Text {
        /// The format.
        format: Format,
        /// Absent values are nothing instead of `-`.
        omit_empty: bool,
    },
    /// A JSON object and a line feed.
    Json {
        /// The template.
        format: JsonFormat,
        /// Absent values are left out instead of null.
        omit_empty: bool,
    },
}

impl LogFormat {
    /// Appends one line.
    pub fn write(&self, out: &mut Vec<u8>, source: &dyn FormatSource) {
        match self {
            Self::Text {
                format,
                omit_empty: false,
            } => format.write(out, source),
            Self::Text {
                format,
                omit_empty: true,
            } => format.write_present(out, source),
            Self::Json { format, omit_empty } => {
                format.write(out, source, *omit_empty);
                out.push(b'\n');
            }
        }
    }
}

impl LogFormat {
    /// Adds the headers of requests that it shows.
    pub(crate) fn request_headers(&self, out: &mut Vec<HeaderName>) {
        match self {
            Self::Text { format, .. } => format.request_headers(out),
            Self::Json { format, .. } => format.request_headers(out),
        }
    }
}

impl JsonFormat {
    fn request_headers(&self, out: &mut Vec<HeaderName>) {
        match self {
            Self::Object(fields) => {
                for (_, one) in fields {
                    one.request_headers(out);
                }
            }
            Self::Array(items) => {
                for one in items {
                    one.request_headers(out);
                }
            }
            Self::Text(format) => format.request_headers(out),
            Self::Number(_) | Self::Bool(_) | Self::Null => {}
        }
    }

    fn write(&self, out: &mut Vec<u8>, source: &dyn FormatSource, omit_empty: bool) {
        match self {
            Self::Object(fields) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in fields {
                    if omit_empty && value.is_absent(source) {
                        continue;
                    }
                    if !first {
                        out.push(b',');
                    }
                    first = false;
                    write_json_string(out, key.as_bytes());
                    out.push(b':');
                    value.write(out, source, omit_empty);
                }
                out.push(b'}');
            }
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out, source, omit_empty);
                }
                out.push(b']');
            }
            Self::Text(format) => write_text(format, out, source, omit_empty),
            // Writing to a Vec cannot fail.
            Self::Number(number) if number.is_finite() => drop(write!(out, "{number}")),
            Self::Bool(value) => drop(write!(out, "{value}")),
            Self::Number(_) | Self::Null => out.extend_from_slice(b"null"),
        }
    }

    fn is_absent(&self, source: &dyn FormatSource) -> bool {
        match self {
            Self::Text(Format { segments }) => match segments.as_slice() {
                [Segment::Operator { operator, .. }] => {
                    matches!(evaluate(operator, source), Shown::Absent)
                }
                _ => false,
            },
            Self::Null => true,
            _ => false,
        }
    }
}

fn write_text(format: &Format, out: &mut Vec<u8>, source: &dyn FormatSource, omit_empty: bool) {
    if let [
        Segment::Operator {
            operator,
            max_len: None,
        },
    ] = format.segments.as_slice()
    {
        match evaluate(operator, source) {
            Shown::Absent => out.extend_from_slice(b"null"),
            Shown::Number(number) => drop(write!(out, "{number}")),
            Shown::Bytes(bytes) => write_json_string(out, &bytes),
        }
        return;
    }
    let mut text = Vec::new();
    if omit_empty {
        format.write_present(&mut text, source);
    } else {
        format.write(&mut text, source);
    }
    write_json_string(out, &text);
}

/// Appends a JSON string; bytes that are no UTF-8 become U+FFFD.
fn write_json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if u32::from(c) < 0x20 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => {
                let mut buffer = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Envoy's default access-log line.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(crate) fn default_log_format(p: &mut Pass<'_>) -> Option<LogFormat> {
    plain_log_format(p, DEFAULT)
}

pub(crate) fn plain_log_format(p: &mut Pass<'_>, text: &str) -> Option<LogFormat> {
    let text = if text.is_empty() { DEFAULT } else { text };
    Some(LogFormat::Text {
        format: Format::compile(p, text)?,
        omit_empty: false,
    })
}

/// `SubstitutionFormatString`.
pub(crate) fn log_format(
    p: &mut Pass<'_>,
    message: &pb::core::SubstitutionFormatString,
) -> Option<LogFormat> {
    use pb::core::substitution_format_string::Format as Pb;
    let pb::core::SubstitutionFormatString {
        omit_empty_values,
        content_type,
        formatters,
        json_format_options,
        format,
    } = message;
    ignore!(p, "core.SubstitutionFormatString"; content_type, json_format_options);
    p.each("formatters", formatters, |p, one| {
        crate::extension::formatter(p, one);
        Some(())
    });
    let omit_empty = *omit_empty_values;
    match format {
        Some(Pb::TextFormat(text)) => {
            let format = p.at("text_format", |p| Format::compile(p, text))?;
            Some(LogFormat::Text { format, omit_empty })
        }
        Some(Pb::TextFormatSource(source)) => p.at("text_format_source", |p| {
            let text = inline_text(p, source)?;
            Some(LogFormat::Text {
                format: Format::compile(p, &text)?,
                omit_empty,
            })
        }),
        Some(Pb::JsonFormat(message)) => {
            let format = p.at("json_format", |p| json_format(p, message))?;
            Some(LogFormat::Json { format, omit_empty })
        }
        None => {
            p.refuse("needs one of text_format, json_format, text_format_source");
            None
        }
    }
}

/// The text of a data source that needs no file.
pub(crate) fn inline_text(p: &mut Pass<'_>, message: &pb::core::DataSource) -> Option<String> {
    use crate::data_source::DataSource;
    match crate::data_source::data_source(p, message)? {
        DataSource::Inline(bytes) => match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Some(text),
            Err(_) => {
                p.refuse("must be UTF-8");
                None
            }
        },
        DataSource::Environment(name) => {
            let value = p.context.environment.get(&*name).cloned();
            if value.is_none() {
                p.refuse_field("environment_variable", format!("{name} is not set"));
            }
            value
        }
        DataSource::File { .. } => {
            p.refuse_field(
                "filename",
                "is not supported here; write the text into the configuration",
            );
            None
        }
    }
}

pub(crate) fn json_format(p: &mut Pass<'_>, message: &pb::google::Struct) -> Option<JsonFormat> {
    let pb::google::Struct { fields } = message;
    if p.too_deep() {
        return None;
    }
    let mut out = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let converted = p.at_key(key, |p| json_value(p, value))?;
        out.push((key.clone(), converted));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Some(JsonFormat::Object(out))
}

fn json_value(p: &mut Pass<'_>, value: &pb::google::Value) -> Option<JsonFormat> {
    Some(match &value.kind {
        None | Some(Kind::NullValue(_)) => JsonFormat::Null,
        Some(Kind::NumberValue(number)) => JsonFormat::Number(*number),
        Some(Kind::BoolValue(value)) => JsonFormat::Bool(*value),
        Some(Kind::StringValue(text)) => JsonFormat::Text(Format::compile(p, text)?),
        Some(Kind::StructValue(inner)) => json_format(p, inner)?,
        Some(Kind::ListValue(list)) => {
            if p.too_deep() {
                return None;
            }
            JsonFormat::Array(p.each("values", &list.values, json_value))
        }
    })
}
