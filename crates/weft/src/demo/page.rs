//! The product page as a browser shows it. Must never know where its parts came from.

use std::fmt::Write;

use http::StatusCode;
use serde_json::Value;

/// The page for an answer of the `page` service (`product`, `details`, `reviews`, or `error`).
pub(crate) fn html(status: StatusCode, body: &Value) -> String {
    let mut content = String::new();
    if status.is_success() {
        let version = text(body, "/reviews/version");
        let colour = if version == "v3" { "#b00020" } else { "#222" };
        let _ = write!(content, "<h1>{}</h1><dl>", text(body, "/product"));
        if let Some(details) = body.pointer("/details").and_then(Value::as_object) {
            for (name, value) in details {
                let _ = write!(
                    content,
                    "<dt>{}</dt><dd>{}</dd>",
                    escaped(name),
                    plain(value)
                );
            }
        }
        let _ = write!(
            content,
            "</dl><h2>Reviews <small>by reviews {version}</small></h2>"
        );
        for review in body
            .pointer("/reviews/reviews")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let stars = review
                .pointer("/stars")
                .and_then(Value::as_u64)
                .unwrap_or(0)
                .min(5);
            let _ = write!(
                content,
                "<blockquote>{} <b style='color:{colour}'>{}</b></blockquote>",
                text(review, "/text"),
                "★".repeat(stars as usize)
            );
        }
    } else {
        let _ = write!(
            content,
            "<h1>{} {}</h1><p>{}</p>",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            text(body, "/error")
        );
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Weft demo</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;\
         padding:0 1rem}}dt{{font-weight:600}}small{{color:#777}}</style><body>{content}\
         <p><small>Reload to be balanced again.</small></p></body></html>"
    )
}

fn text(body: &Value, pointer: &str) -> String {
    body.pointer(pointer).map(plain).unwrap_or_default()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => escaped(text),
        other => escaped(&other.to_string()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_become_markup() {
        let body = serde_json::json!({"error": "<script>alert(1)</script>"});
        let page = html(StatusCode::BAD_GATEWAY, &body);
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script>"),
            "{page}"
        );
    }
}
