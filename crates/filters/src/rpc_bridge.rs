//! `weft.http.v1.RpcBridge`: requests with JSON become calls of an RPC protocol. The router sends them; this
//! filter says which call it is, and answers what is none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Number, Value, json};
use weft_config::RpcBridge;
use weft_config::rpc_bridge::{ArgumentSource, Called, Mapping, Parameter, decoded};
use weft_rpc::{Frame, GenericCall};

use crate::{CounterGroup, LocalReply, RequestContext, Surroundings, Verdict};

/// Version and group of a service, under the names that Triple has for them.
const VERSION: HeaderName = HeaderName::from_static("tri-service-version");
const GROUP: HeaderName = HeaderName::from_static("tri-service-group");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Counters under `rpc_bridge.`; the constants are their places.
const COUNTS: &[&str] = &["request", "bad_request", "not_found"];
const REQUEST: usize = 0;
const BAD_REQUEST: usize = 1;
const NOT_FOUND: usize = 2;

/// A request that has become a call.
#[derive(Debug)]
pub struct BridgedCall {
    /// The call, with id 0.
    pub frame: Frame,
    /// By which rules.
    pub bridge: Arc<RpcBridge>,
    /// How long it may take.
    pub timeout: Duration,
}

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct BridgeFilter {
    configured: Arc<RpcBridge>,
    counters: Arc<CounterGroup>,
}

/// The body of an error: what kind it is, a text for people, and more for programs.
pub fn error_body(kind: &str, message: &str, more: &[(&str, Value)]) -> Bytes {
    let mut error = json!({ "kind": kind, "message": message });
    if let Some(members) = error.as_object_mut() {
        let more = more.iter();
        members.extend(more.map(|(name, value)| ((*name).to_owned(), value.clone())));
    }
    json!({ "error": error }).to_string().into()
}

/// An answer of the proxy's own as JSON.
#[must_use]
pub fn in_json(mut reply: LocalReply) -> LocalReply {
    let kind = match reply.status {
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        StatusCode::GATEWAY_TIMEOUT => "timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        status if status.is_client_error() => "bad_request",
        _ => "internal",
    };
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    reply.body = error_body(kind, &text, &[]);
    reply.headers.push((CONTENT_TYPE, JSON));
    reply
}

/// Why a request is no call.
struct NoCall {
    status: StatusCode,
    kind: &'static str,
    message: String,
    path: Option<String>,
}

impl NoCall {
    fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_request",
            message: message.into(),
            path: None,
        }
    }

    fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::bad(message)
        }
    }

    fn reply(self) -> LocalReply {
        let path = self.path.map(|path| ("path", Value::String(path)));
        let body = error_body(self.kind, &self.message, path.as_slice());
        let details = format!("rpc_bridge_{}", self.kind);
        let mut reply = LocalReply::new(self.status, details).body(body);
        reply.headers.push((CONTENT_TYPE, JSON));
        reply
    }
}

impl BridgeFilter {
    pub(crate) fn new(configured: &Arc<RpcBridge>, surroundings: &dyn Surroundings) -> Self {
        Self {
            configured: Arc::clone(configured),
            counters: surroundings.counters("rpc_bridge.", COUNTS),
        }
    }

    /// `own` are the route's rules, which take the place of the filter's.
    pub(crate) async fn request(
        &self,
        own: Option<&Arc<RpcBridge>>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        if !context.forwarded {
            // Nothing of it reaches a host.
            return Verdict::Continue;
        }
        let bridge = own.unwrap_or(&self.configured);
        let path = context.head.path.path().to_owned();
        let called = bridge.called(context.head.method, &path);
        let (status, kind, message) = match called {
            Called::Mapped(..) | Called::Direct(..) => {
                return match self.bridged(bridge, called, context).await {
                    Ok(call) => {
                        self.counters.inc(REQUEST);
                        context.rpc = Some(Box::new(call));
                        Verdict::Continue
                    }
                    Err(reply) => {
                        self.counters.inc(BAD_REQUEST);
                        Verdict::Reply(*reply)
                    }
                };
            }
            Called::WrongMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the path is called with another method",
            ),
            Called::Nothing => (
                StatusCode::NOT_FOUND,
                "not_found",
                "the path names no method of a service",
            ),
        };
        self.counters.inc(NOT_FOUND);
        let none = NoCall {
            status,
            kind,
            message: message.to_owned(),
            path: None,
        };
        let mut reply = none.reply();
        if status == StatusCode::METHOD_NOT_ALLOWED
            && let Ok(allowed) = HeaderValue::from_str(&allowed(bridge, &path))
        {
            reply.headers.push((ALLOW, allowed));
        }
        Verdict::Reply(reply)
    }

    async fn bridged(
        &self,
        bridge: &Arc<RpcBridge>,
        called: Called<'_, '_>,
        context: &mut RequestContext<'_>,
    ) -> Result<BridgedCall, Box<LocalReply>> {
        let body = body(bridge, context).await?;
        let made = call(bridge, called, context, &body);
        made.map_err(|none| Box::new(none.reply()))
    }
}

/// The methods with which a path is called.
fn allowed(bridge: &RpcBridge, path: &str) -> String {
    let methods = bridge.mappings.iter().map(|mapping| &mapping.http_method);
    let mut all: Vec<&Method> = methods.chain([&Method::POST]).collect();
    all.sort_by_key(|method| method.as_str());
    all.dedup();
    let is_call = |method: &&Method| {
        let called = bridge.called(method, path);
        matches!(called, Called::Mapped(..) | Called::Direct(..))
    };
    let names = all.into_iter().filter(is_call).map(Method::as_str);
    names.collect::<Vec<_>>().join(", ")
}

/// The request's body.
async fn body(
    bridge: &RpcBridge,
    context: &mut RequestContext<'_>,
) -> Result<Bytes, Box<LocalReply>> {
    let Some(body) = context.body.as_mut() else {
        return Ok(Bytes::new());
    };
    let most = bridge.max_request_bytes;
    let read = body.read(most.saturating_add(1)).await;
    let read = read.map_err(|reply| Box::new(in_json(reply)))?;
    if read.bytes.len() > most {
        return Err(Box::new(in_json(body.too_large())));
    }
    Ok(read.bytes)
}

fn call(
    bridge: &Arc<RpcBridge>,
    called: Called<'_, '_>,
    context: &RequestContext<'_>,
    body: &[u8],
) -> Result<BridgedCall, NoCall> {
    let headers = &*context.head.headers;
    let body = read_json(headers, body)?;
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let version = header(&VERSION).unwrap_or(&bridge.version);
    let group = header(&GROUP).unwrap_or(&bridge.group);
    let attachments: Vec<(&str, &str)> = bridge
        .attachments
        .iter()
        .filter_map(|name| Some((name.as_str(), header(name)?)))
        .collect();
    let mut whole = GenericCall {
        interface: "",
        method: "",
        version,
        group,
        types: None,
        arguments: &[],
        allow_class: bridge.allow_class,
        attachments: &attachments,
        timeout_ms: bridge.timeout.as_millis() as u32,
    };
    match called {
        Called::Mapped(number, named) => {
            // It was found there.
            let Some(mapping) = bridge.mappings.get(number) else {
                return Err(NoCall::bad("the mapping is gone"));
            };
            let timeout = mapping.timeout.unwrap_or(bridge.timeout);
            let query = context.head.path.query().unwrap_or_default();
            let source = Source {
                named: &named,
                query,
                headers,
                body: &body,
            };
            let arguments = source.arguments(mapping)?;
            let types = mapping.parameters.iter().map(|parameter| &*parameter.of);
            let types: Vec<&str> = types.collect();
            whole.interface = &mapping.interface;
            whole.method = &mapping.method;
            whole.version = mapping.version.as_deref().unwrap_or(version);
            whole.group = mapping.group.as_deref().unwrap_or(group);
            whole.timeout_ms = timeout.as_millis() as u32;
            whole.types = Some(&types);
            whole.arguments = &arguments;
            let place = |argument| mapping.parameters.get(argument).map(place_of);
            finish(bridge, &whole, timeout, |argument| {
                place(argument).unwrap_or_default()
            })
        }
        Called::Direct(interface, method) => {
            let (types, arguments) = direct(&body)?;
            whole.interface = interface;
            whole.method = method;
            whole.types = types.as_deref();
            whole.arguments = arguments;
            let before = if body.is_array() { "" } else { "args" };
            finish(bridge, &whole, bridge.timeout, |argument| {
                format!("{before}[{argument}]")
            })
        }
        Called::WrongMethod | Called::Nothing => Err(NoCall::bad("it is no call")),
    }
}

/// The call as a request of the protocol; `place` says where an argument stands.
fn finish(
    bridge: &Arc<RpcBridge>,
    call: &GenericCall<'_>,
    timeout: Duration,
    place: impl Fn(usize) -> String,
) -> Result<BridgedCall, NoCall> {
    let frame = bridge.generic.request(call);
    let frame = frame.map_err(|error| {
        let path = place(error.argument) + &error.place;
        NoCall::at(path.trim_start_matches('.'), error.text)
    })?;
    if frame.bytes().len() > bridge.limits.max_frame {
        return Err(NoCall {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            kind: "too_large",
            ..NoCall::bad("the call is longer than a frame may be")
        });
    }
    Ok(BridgedCall {
        frame,
        bridge: Arc::clone(bridge),
        timeout,
    })
}

/// The JSON of a body; null if there is none.
fn read_json(headers: &HeaderMap, body: &[u8]) -> Result<Value, NoCall> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.map_or("", |kind| kind.to_str().unwrap_or("?"));
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    if !kind.is_empty() && kind != "application/json" && !kind.ends_with("+json") {
        return Err(NoCall {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            kind: "unsupported_media_type",
            ..NoCall::bad("the body has to be application/json")
        });
    }
    serde_json::from_slice(body).map_err(|error| NoCall::bad(format!("no JSON: {error}")))
}

type Direct<'v> = (Option<Vec<&'v str>>, &'v [Value]);

/// What the body of a call says whose method stands in the path: the arguments, or these and their types.
fn direct(body: &Value) -> Result<Direct<'_>, NoCall> {
    let members = match body {
        Value::Null => return Ok((None, &[])),
        Value::Array(arguments) => return Ok((None, arguments)),
        Value::Object(members) => members,
        _ => {
            return Err(NoCall::bad(
                "the body has to be an array, or an object with types and args",
            ));
        }
    };
    if let Some(other) = members
        .keys()
        .find(|key| !matches!(key.as_str(), "types" | "args"))
    {
        let text = "is neither types nor args; arguments stand in an array";
        return Err(NoCall::at(other.as_str(), text));
    }
    let arguments = match members.get("args") {
        Some(Value::Array(arguments)) => &**arguments,
        None | Some(Value::Null) => &[],
        Some(_) => return Err(NoCall::at("args", "is no array")),
    };
    let types = match members.get("types") {
        None | Some(Value::Null) => return Ok((None, arguments)),
        Some(Value::Array(types)) => types,
        Some(_) => return Err(NoCall::at("types", "is no array")),
    };
    if types.len() != arguments.len() {
        let text = format!("are {} for {} arguments", types.len(), arguments.len());
        return Err(NoCall::at("types", text));
    }
    let mut names = Vec::with_capacity(types.len());
    for (number, name) in types.iter().enumerate() {
        match name.as_str() {
            Some(name) if !name.is_empty() => names.push(name),
            _ => {
                return Err(NoCall::at(
                    format!("types[{number}]"),
                    "is no name of a type",
                ));
            }
        }
    }
    Ok((Some(names), arguments))
}

/// Where the argument of a parameter stands, for people.
fn place_of(parameter: &Parameter) -> String {
    match &parameter.from {
        ArgumentSource::Path(name) => format!("path {name}"),
        ArgumentSource::Query(name) => format!("query {name}"),
        ArgumentSource::Header(name) => format!("header {name}"),
        ArgumentSource::Member(name) => name.to_string(),
        ArgumentSource::Body => String::new(),
    }
}

/// Where arguments of mapped calls come from.
struct Source<'r> {
    named: &'r [(&'r str, String)],
    query: &'r str,
    headers: &'r HeaderMap,
    body: &'r Value,
}

impl Source<'_> {
    fn arguments(&self, mapping: &Mapping) -> Result<Vec<Value>, NoCall> {
        let of_body = |one: &Parameter| matches!(one.from, ArgumentSource::Member(_));
        let wants_members = mapping.parameters.iter().any(of_body);
        if wants_members && !matches!(self.body, Value::Object(_) | Value::Null) {
            return Err(NoCall::bad("the body has to be an object"));
        }
        let all = mapping.parameters.iter();
        all.map(|parameter| self.argument(parameter)).collect()
    }

    fn argument(&self, parameter: &Parameter) -> Result<Value, NoCall> {
        let of = &*parameter.of;
        let items = of.strip_suffix("[]");
        let texts: Vec<String> = match &parameter.from {
            ArgumentSource::Body => return Ok(self.body.clone()),
            ArgumentSource::Member(name) => {
                return Ok(self.body.get(&**name).cloned().unwrap_or_default());
            }
            ArgumentSource::Path(name) => {
                let all = self.named.iter().filter(|(own, _)| *own == &**name);
                all.map(|(_, value)| value.clone()).collect()
            }
            ArgumentSource::Query(name) => self.query(name)?,
            ArgumentSource::Header(name) => {
                let all = self.headers.get_all(name).iter();
                all.filter_map(|value| Some(value.to_str().ok()?.to_owned()))
                    .collect()
            }
        };
        let value = |text: String, of: &str| match text_as(&text, of) {
            Some(value) => Ok(value),
            None => Err(NoCall::at(
                place_of(parameter),
                format!("{text:?} is no {of}"),
            )),
        };
        if let Some(of) = items {
            let values = texts.into_iter().map(|text| value(text, of));
            return values.collect::<Result<_, _>>().map(Value::Array);
        }
        match texts.into_iter().next() {
            Some(text) => value(text, of),
            None => Ok(Value::Null),
        }
    }

    /// The values of a parameter of the query.
    fn query(&self, name: &str) -> Result<Vec<String>, NoCall> {
        let mut found = Vec::new();
        for pair in self.query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if decoded(key, true).as_deref() != Some(name) {
                continue;
            }
            match decoded(value, true) {
                Some(value) => found.push(value),
                None => return Err(NoCall::at(format!("query {name}"), "is no text")),
            }
        }
        Ok(found)
    }
}

/// A text as the value of a type: numbers and truth values where the type is one, else the text.
fn text_as(text: &str, of: &str) -> Option<Value> {
    let float = |text: &str| Number::from_f64(text.parse().ok()?).map(Value::Number);
    match of {
        "boolean" | "java.lang.Boolean" => Some(Value::Bool(text.parse().ok()?)),
        "byte" | "short" | "int" | "long" | "java.lang.Byte" | "java.lang.Short"
        | "java.lang.Integer" | "java.lang.Long" => Some(Value::from(text.parse::<i64>().ok()?)),
        "float" | "double" | "java.lang.Float" | "java.lang.Double" => float(text),
        _ => Some(Value::String(text.to_owned())),
    }
}
