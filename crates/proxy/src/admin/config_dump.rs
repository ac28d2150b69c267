//! `/config_dump`: which sections, resources and fields a caller wants, by `resource`, `mask`,
//! `name_regex` and `include_eds`. Knows no resource; `sections` prints them.
//!
//! A mask is applied to JSON: a first segment that is no field is refused as in Envoy,
//! an unknown deeper segment selects nothing.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::clusters::compact;
use super::request::{AdminRequest, Reply, compile};
use super::sections::{ADMIN, Field, Printer, Section};
use super::state::AdminState;

pub(super) fn handle(state: &AdminState, request: &AdminRequest) -> Reply {
    match answer(state, request) {
        Ok(reply) => reply,
        Err((status, text)) => Reply {
            content_type: "text/plain",
            ..Reply::text_status(status, text)
        },
    }
}

type Refusal = (StatusCode, String);

fn answer(state: &AdminState, request: &AdminRequest) -> Result<Reply, Refusal> {
    let names = match request.param("name_regex").filter(|text| !text.is_empty()) {
        None => None,
        // Envoy wants the whole name to match.
        Some(text) => Some(compile(&format!("^(?:{text})$")).map_err(|error| {
            let text = format!("Error while parsing name_regex from {text}: {error}");
            (StatusCode::BAD_REQUEST, text)
        })?),
    };
    let mask = request.param("mask").filter(|mask| !mask.is_empty());
    let printer = Printer { state, names };
    let sections = Section::ALL
        .into_iter()
        .filter(|section| *section != Section::Endpoints || request.has("include_eds"));
    let configs = match request.param("resource").filter(|r| !r.is_empty()) {
        Some(resource) => one_field(&printer, sections, resource, mask)?,
        None => whole(&printer, sections, mask)?,
    };
    Ok(Reply::json(&compact([("configs", configs.into())])))
}

fn whole(
    printer: &Printer<'_>,
    sections: impl Iterator<Item = Section>,
    mask: Option<&str>,
) -> Result<Vec<Value>, Refusal> {
    let mut configs = Vec::new();
    for section in sections {
        let fields: Vec<_> = section.fields().iter().map(|(name, _)| *name).collect();
        // Not every mask fits every section; the others are left out.
        if mask.is_some_and(|mask| !fits(mask, &fields, section.fields())) {
            continue;
        }
        let config = printer.section(section);
        configs.push(masked(config, mask));
    }
    if let (Some(mask), true) = (mask, configs.is_empty()) {
        let text = format!("FieldMask {mask} could not be successfully applied to any configs.");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    Ok(configs)
}

/// Whether every path of `mask` starts with a field, and goes on only through a single one.
fn fits(mask: &str, names: &[&str], fields: &[Field]) -> bool {
    mask.split(',').all(|path| {
        let (first, more) = path.split_once('.').unwrap_or((path, ""));
        let repeated = fields
            .iter()
            .any(|(name, of)| *name == first && of.is_some());
        names.contains(&first) && (more.is_empty() || !repeated)
    })
}

fn one_field(
    printer: &Printer<'_>,
    mut sections: impl Iterator<Item = Section>,
    resource: &str,
    mask: Option<&str>,
) -> Result<Vec<Value>, Refusal> {
    let field = |section: &Section| section.fields().iter().find(|(name, _)| *name == resource);
    let Some((section, (_, element))) = sections.find_map(|s| field(&s).map(|f| (s, f))) else {
        let text = format!("{resource} not found in config dump");
        return Err((StatusCode::NOT_FOUND, text));
    };
    let Some(element) = element else {
        let text = format!(
            "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
        );
        return Err((StatusCode::BAD_REQUEST, text));
    };
    let mut config = printer.section(section);
    let elements = match config.get_mut(resource).map(Value::take) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    let url = format!("{ADMIN}{}.{element}", section.message());
    let fields = element_fields(element);
    if let Some(mask) = mask.filter(|mask| !fits(mask, fields, &[])) {
        let text = format!("FieldMask {mask} could not be successfully used.");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let typed = elements.into_iter().map(|element| {
        let element = masked(element, mask);
        let mut object = Map::new();
        object.insert("@type".to_owned(), url.as_str().into());
        if let Value::Object(fields) = element {
            object.extend(fields);
        }
        Value::Object(object)
    });
    Ok(typed.collect())
}

fn element_fields(element: &str) -> &'static [&'static str] {
    match element {
        "StaticCluster" => &["cluster", "last_updated"],
        "DynamicCluster" => &[
            "version_info",
            "cluster",
            "last_updated",
            "error_state",
            "client_status",
        ],
        "StaticListener" => &["listener", "last_updated"],
        "DynamicListener" => &[
            "name",
            "active_state",
            "warming_state",
            "draining_state",
            "error_state",
            "client_status",
        ],
        "StaticRouteConfig" => &["route_config", "last_updated"],
        "DynamicRouteConfig" => &[
            "version_info",
            "route_config",
            "last_updated",
            "error_state",
            "client_status",
        ],
        "StaticSecret" => &["name", "last_updated", "secret"],
        "DynamicSecret" => &[
            "name",
            "version_info",
            "last_updated",
            "secret",
            "error_state",
            "client_status",
        ],
        "StaticEndpointConfig" => &["endpoint_config", "last_updated"],
        "DynamicEndpointConfig" => &[
            "version_info",
            "endpoint_config",
            "last_updated",
            "error_state",
            "client_status",
        ],
        _ => &[
            "name",
            "scoped_route_configs",
            "last_updated",
            "version_info",
        ],
    }
}

/// The parts of `value` that `mask` (`a.b,c`) names, and its `@type`; all without a mask.
fn masked(value: Value, mask: Option<&str>) -> Value {
    let Some(mask) = mask else {
        return value;
    };
    let mut out = json!({});
    if let Some(url) = value.get("@type") {
        out["@type"] = url.clone();
    }
    for path in mask.split(',') {
        let path: Vec<&str> = path.split('.').collect();
        copy_path(&value, &path, &mut out);
    }
    out
}

fn copy_path(from: &Value, path: &[&str], to: &mut Value) {
    let Some((first, rest)) = path.split_first() else {
        from.clone_into(to);
        return;
    };
    let Some(field) = from.get(*first) else {
        return;
    };
    let Some(object) = to.as_object_mut() else {
        return;
    };
    let target = object.entry((*first).to_owned()).or_insert_with(|| {
        let url = field.get("@type");
        url.map_or_else(|| json!({}), |url| json!({"@type": url}))
    });
    copy_path(field, rest, target);
}
