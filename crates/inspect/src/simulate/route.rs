//! The virtual host, the route and what it does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::{HOST, HeaderValue};
use serde_json::{Value, json};
use weft_config::format::{Field, FormatSource, Pseudo, Value as FormatValue};
use weft_config::matching::HeaderKey;
use weft_config::metadata::Metadata;
use weft_config::rbac::PeerNames;
use weft_config::route::{ClusterSpec, RouteMatch};
use weft_config::{Forward, HttpManager, RequestHead, RouteAction, RouteConfig, VirtualHost};

use super::admit::admit;
use super::call::{Call, Head};
use super::reach::reach;
use super::selection::{Found, Routed, Selection};
use super::side::Side;
use super::{End, Next, filters};

/// Routes that are told besides the one that is taken.
const TOLD_ROUTES: usize = 100;

/// What a request is routed within.
pub(super) struct Around<'a> {
    pub(super) side: &'a Side,
    pub(super) call: &'a Call,
    pub(super) manager: &'a HttpManager,
    pub(super) routes: &'a RouteConfig,
    /// The names in the client's certificate: `None` in plain text.
    pub(super) peer: Option<PeerNames>,
    /// The client as far as trusted proxies in front tell.
    pub(super) remote: IpAddr,
}

pub(super) fn view(head: &Head) -> RequestHead<'_> {
    RequestHead::of(&head.method, &head.path, head.scheme, &head.headers)
}

pub(super) async fn pass(
    around: &Around<'_>,
    head: &Head,
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Next, End> {
    let mut head = head.clone();
    admit(
        around.manager,
        &mut head,
        around.call.destination.port(),
        notes,
    )?;
    report["request"] = json!({
        "method": head.method.as_str(), "authority": view(&head).authority, "path": head.path,
        "client": around.remote.to_string(),
        "principal": around.peer.as_ref().and_then(|peer| peer.uris.first()),
    });
    let nothing = Metadata::default();
    let mut selection = Selection::find(around, (&head, &nothing), report);
    filters::run(around, &mut head, &mut selection, report, notes).await?;
    let found = match selection.routed {
        Routed::Found(found) => found,
        Routed::ToTls => {
            let location = RouteConfig::tls_location(&view(&head));
            let why = format!("the virtual host wants TLS: redirect to {location}");
            return Err(End::answered("redirected", 301, why));
        }
        Routed::None(why) => return Err(End::answered("refused", 404, why)),
    };
    match &found.route.action {
        RouteAction::Redirect(redirect) => {
            let location = redirect.location(&view(&head), Some(&found.route.matcher));
            let status = redirect.status;
            let why = format!("the route redirects to {location}");
            Err(End::answered("redirected", status, why))
        }
        RouteAction::Direct { status, .. } => {
            let why = "the route answers by itself";
            Err(End::answered("answered", *status, why))
        }
        // To the data plane it is a route to a cluster without a name.
        RouteAction::NonForwarding => {
            Err(End::answered("refused", 503, "the route does not forward"))
        }
        RouteAction::Forward(forward) => {
            shares(&forward.cluster, report);
            let not_found = forward.cluster_not_found_status;
            let Some(cluster) = selection.cluster else {
                let why = "no header names the cluster";
                return Err(End::answered("refused", not_found, why));
            };
            let request = rewritten(around, forward, found, &head);
            let reached = reach(
                around.side,
                around.call,
                &cluster,
                Some(request),
                not_found,
                report,
                notes,
            )?;
            Ok(Next {
                cluster,
                call: reached,
            })
        }
    }
}

pub(super) fn told_host(vhost: &VirtualHost, report: &mut Value) {
    let domains: Vec<&str> = vhost.domains.iter().map(|domain| &**domain).collect();
    report["virtualHost"] = json!({ "name": &*vhost.name, "domains": domains });
}

/// Why there is no route.
pub(super) fn no_route(
    around: &Around<'_>,
    request: &RequestHead<'_>,
    report: &mut Value,
) -> String {
    let authority = request.authority.to_owned();
    let Some(vhost) = around.routes.virtual_host(&authority) else {
        let all = around.routes.virtual_hosts.iter();
        let domains = all.flat_map(|host| host.domains.iter().take(1).map(|d| &**d));
        let some: Vec<&str> = domains.take(10).collect();
        return format!("no virtual host is for {authority:?}; there are hosts for {some:?}");
    };
    told_host(vhost, report);
    report["passedOver"] = passed_over(vhost, None, request, around.call.random);
    format!("no route of the virtual host {} matches", vhost.name)
}

/// The routes before the one that is taken, each with why it was not.
pub(super) fn passed_over(
    vhost: &VirtualHost,
    taken: Option<usize>,
    request: &RequestHead<'_>,
    random: u64,
) -> Value {
    let upto = taken.unwrap_or(usize::MAX);
    let routes = vhost
        .routes()
        .iter()
        .enumerate()
        .take(upto.min(TOLD_ROUTES));
    let told = routes.map(|(number, route)| {
        json!({
            "number": number, "name": &*route.name,
            "why": why_not(&route.matcher, request, random),
        })
    });
    told.collect()
}

/// Why a route does not match, part by part, by the route's own rules.
fn why_not(matcher: &RouteMatch, request: &RequestHead<'_>, random: u64) -> String {
    if !matcher.path_matches(request.path_only()) {
        return format!("the path is not {}", condition(matcher));
    }
    // Each part alone: what is left is the one that fails.
    let alone = |part: RouteMatch| !part.conditions_match(request, random);
    let bare = RouteMatch {
        headers: Vec::new(),
        query: Vec::new(),
        cookies: Vec::new(),
        fraction: None,
        grpc: false,
        metadata: Vec::new(),
        ..matcher.clone()
    };
    let mut reasons = Vec::new();
    for header in &matcher.headers {
        let headers = vec![header.clone()];
        if alone(RouteMatch {
            headers,
            ..bare.clone()
        }) {
            reasons.push(format!(
                "the header {} does not match",
                header_name(&header.key)
            ));
        }
    }
    for query in &matcher.query {
        let parameters = vec![query.clone()];
        if alone(RouteMatch {
            query: parameters,
            ..bare.clone()
        }) {
            reasons.push(format!("the query parameter {} does not match", query.name));
        }
    }
    for cookie in &matcher.cookies {
        let cookies = vec![cookie.clone()];
        if alone(RouteMatch {
            cookies,
            ..bare.clone()
        }) {
            reasons.push(format!("the cookie {} does not match", cookie.name));
        }
    }
    for metadata in &matcher.metadata {
        let all = vec![metadata.clone()];
        if alone(RouteMatch {
            metadata: all,
            ..bare.clone()
        }) {
            reasons.push(format!(
                "what {} has left at {} does not match",
                metadata.namespace,
                metadata.path.join(".")
            ));
        }
    }
    let fraction = matcher.fraction;
    if alone(RouteMatch {
        fraction,
        ..bare.clone()
    }) {
        reasons.push("it takes only a share of the requests".to_owned());
    }
    if alone(RouteMatch {
        grpc: matcher.grpc,
        ..bare
    }) {
        reasons.push("it takes only gRPC".to_owned());
    }
    if reasons.is_empty() {
        "an earlier route was taken".to_owned()
    } else {
        reasons.join("; ")
    }
}

fn header_name(key: &HeaderKey) -> String {
    match key {
        HeaderKey::Pseudo(Pseudo::Method) => ":method".to_owned(),
        HeaderKey::Pseudo(Pseudo::Path) => ":path".to_owned(),
        HeaderKey::Pseudo(Pseudo::Authority) => ":authority".to_owned(),
        HeaderKey::Pseudo(Pseudo::Scheme) => ":scheme".to_owned(),
        HeaderKey::Pseudo(Pseudo::Protocol) => ":protocol".to_owned(),
        HeaderKey::Pseudo(Pseudo::Status) => ":status".to_owned(),
        HeaderKey::Name(name) => name.to_string(),
    }
}

/// What a route asks of the path.
pub(super) fn condition(matcher: &RouteMatch) -> String {
    use weft_config::route::PathRule;
    match &matcher.path {
        PathRule::Prefix(prefix) => format!("{prefix}*"),
        PathRule::Exact(path) => path.to_string(),
        PathRule::SeparatedPrefix(prefix) => format!("{prefix} or {prefix}/*"),
        PathRule::Regex(_) => "as its expression says".to_owned(),
    }
}

/// The object behind a route, as `istioctl` names it.
pub(super) fn config_of(metadata: &Metadata) -> Option<String> {
    let path = [Arc::from("config")];
    let config = metadata.get("istio", &path)?.as_str()?;
    let pieces: Vec<&str> = config.split('/').collect();
    match pieces[..] {
        [.., namespace, _, name] => Some(format!("{name}.{namespace}")),
        _ => None,
    }
}

fn shares(spec: &ClusterSpec, report: &mut Value) {
    let ClusterSpec::Weighted {
        clusters, total, ..
    } = spec
    else {
        return;
    };
    let mut before = 0;
    let all = clusters.iter().map(|cluster| {
        let weight = cluster.cumulative - std::mem::replace(&mut before, cluster.cumulative);
        json!({ "cluster": &*cluster.name, "weight": weight, "of": total })
    });
    report["clusters"] = all.collect();
}

/// Formats in header values, without what only traffic knows.
struct Known<'a>(&'a Head, &'a Call);

impl FormatSource for Known<'_> {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        match which {
            Pseudo::Method => Some(self.0.method.as_str()),
            Pseudo::Path => Some(&self.0.path),
            Pseudo::Authority => Some(view(self.0).authority),
            Pseudo::Scheme => Some(self.0.scheme),
            Pseudo::Protocol | Pseudo::Status => None,
        }
    }

    fn request_headers(&self) -> Option<&HeaderMap> {
        Some(&self.0.headers)
    }

    fn start_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn value(&self, field: Field) -> FormatValue<'_> {
        match field {
            Field::DownstreamRemoteAddress => FormatValue::Address(self.1.source),
            _ => FormatValue::Absent,
        }
    }
}

/// The request as it goes on.
fn rewritten(around: &Around<'_>, forward: &Forward, found: Found<'_>, head: &Head) -> Head {
    let Found {
        vhost,
        route,
        weighted,
    } = found;
    let mut out = head.clone();
    if let Some(path) = forward.rewrite_path(&route.matcher, &head.path) {
        out.path = path;
    }
    if let Some(host) = forward.rewrite_host(&view(head), weighted) {
        out.headers.insert(HOST, host);
    }
    let source = Known(head, around.call);
    around
        .routes
        .apply_request_headers(vhost, route, weighted, &mut out.headers, &source);
    if around.manager.use_remote_address && !around.manager.skip_xff_append {
        let peer = around.call.source.ip().to_string();
        let before = out
            .headers
            .get("x-forwarded-for")
            .and_then(|it| it.to_str().ok());
        let all = before.map_or_else(|| peer.clone(), |before| format!("{before},{peer}"));
        if let Ok(value) = HeaderValue::from_str(&all) {
            out.headers.insert("x-forwarded-for", value);
        }
    }
    out
}
