//! `weft simulate`: what would become of a call described on the command line.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};
use weft_inspect::output as forms;
use weft_inspect::simulate::{self, Call, Direction, Head, Hello, Passage, Side};

use super::args::{Form, SimulateArgs};
use super::fetch::{self, escaped};
use super::pages::Pages;
use crate::{Failure, output};

/// The port that a caller's connection comes from.
const SOURCE_PORT: u16 = 45_678;
/// An address of the Internet (RFC 5737), for hosts that no service is.
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
/// Proxies behind the first one.
const MAX_GATEWAYS: usize = 8;
/// Whoever calls a gateway from outside (RFC 5737).
const CALLER: [u8; 4] = [203, 0, 113, 7];

pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let pages = Pages::open(&args.source)?;
    let report = fetch::block_on(simulate(args, &pages))?;
    match args.output {
        Form::Short => output::text(&simulate::render(&report)),
        Form::Json => output::line(&forms::json(&report)),
        Form::Yaml => output::text(&forms::yaml(&report)),
    }
    let through =
        ["forwarded", "reached"].contains(&report["verdict"].as_str().unwrap_or_default());
    Ok(if through {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `{"passages": […], "verdict", "reason", "status"}`.
pub(super) async fn simulate(args: &SimulateArgs, pages: &Pages) -> Result<Value, Failure> {
    let side = view(pages, &args.from).await?;
    let target = Target::parse(args)?;
    let call = first_call(args, pages, &side, &target).await?;
    let mut passages = Vec::new();
    let Passage { report, next } = if args.no_identity {
        // Without a proxy the call goes to the server as it is.
        direct(pages, &call).await?
    } else {
        simulate::pass(&side, &call, Direction::Outbound).await
    };
    passages.push(report);
    let mut onward = next
        .and_then(|next| next.call)
        .filter(|_| !args.client_only && !args.no_identity);
    if let (Some(call), Some(principal)) = (&mut onward, &args.principal)
        && let Some(hello) = &mut call.tls
    {
        hello.principal = Some(principal.clone());
    }
    let end = follow(pages, onward, &mut passages).await?;
    let mut last = passages.last().cloned().unwrap_or_default();
    match end {
        Some(Reached::Server) => last["verdict"] = "reached".into(),
        Some(Reached::Outside(reason)) => {
            last["verdict"] = "reached".into();
            last["reason"] = reason.into();
        }
        None => {}
    }
    Ok(json!({
        "passages": passages, "verdict": last["verdict"], "reason": last["reason"],
        "status": last["status"],
    }))
}

/// Where a call has come to its end.
enum Reached {
    /// At the server, through its proxy.
    Server,
    /// Where no proxy is; with the reason to tell.
    Outside(String),
}

/// Takes a call through the proxies behind the first one: that of the server, and gateways before
/// it. `None`: it ends at the last of them, or goes on to where the simulation cannot look.
async fn follow(
    pages: &Pages,
    mut onward: Option<Call>,
    passages: &mut Vec<Value>,
) -> Result<Option<Reached>, Failure> {
    for _ in 0..MAX_GATEWAYS {
        let Some(call) = onward else { return Ok(None) };
        let Some(server) = find(pages, &call.destination.ip().to_string()).await? else {
            return Ok(Some(Reached::Outside(format!(
                "no workload of the mesh is at {}, so that nobody decides there",
                call.destination
            ))));
        };
        let Passage { report, next } = simulate::pass(&server, &call, Direction::Inbound).await;
        let through = next.is_some();
        passages.push(report);
        if through && !server.gateway {
            return Ok(Some(Reached::Server));
        }
        onward = next.and_then(|next| next.call);
    }
    Err(format!(
        "the call goes through more than {MAX_GATEWAYS} gateways; they may lead to each other"
    ))
}

/// A call that no proxy of the mesh takes on.
async fn direct(pages: &Pages, call: &Call) -> Result<Passage, Failure> {
    let server = view(pages, &call.destination.ip().to_string()).await?;
    let mut passage = simulate::pass(&server, call, Direction::Inbound).await;
    if passage.report["verdict"] == "forwarded" {
        passage.report["verdict"] = "reached".into();
    }
    Ok(passage)
}

async fn view(pages: &Pages, wanted: &str) -> Result<Side, Failure> {
    side(&pages.json(&view_of(wanted)).await?)
}

/// `None` if there is no such proxy or workload.
async fn find(pages: &Pages, wanted: &str) -> Result<Option<Side>, Failure> {
    let page = pages.find(&view_of(wanted)).await?;
    page.as_ref().map(side).transpose()
}

fn view_of(wanted: &str) -> String {
    format!("/debug/view?proxyID={}", escaped(wanted))
}

fn side(page: &Value) -> Result<Side, Failure> {
    Side::parse(page).map_err(|error| error.to_string())
}

/// What is called, taken apart.
#[derive(Debug)]
struct Target {
    scheme: Scheme,
    host: String,
    /// As in the `host` header.
    authority: String,
    port: u16,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Tcp,
}

impl Target {
    fn parse(args: &SimulateArgs) -> Result<Self, Failure> {
        let wrong = |why: &str| format!("{}: {why}; give http://host:port/path", args.url);
        let uri: Uri = args
            .url
            .parse()
            .map_err(|error| wrong(&format!("{error}")))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("tcp") => Scheme::Tcp,
            _ => return Err(wrong("the scheme is none of http, https, tcp")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("there is no host"))?;
        let port = match (uri.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, Scheme::Http) => 80,
            (None, Scheme::Https) => 443,
            (None, Scheme::Tcp) => return Err(wrong("there is no port")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            scheme,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            authority: authority.as_str().to_owned(),
            port,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        })
    }
}

async fn first_call(
    args: &SimulateArgs,
    pages: &Pages,
    side: &Side,
    target: &Target,
) -> Result<Call, Failure> {
    let source = args
        .source_ip
        .or_else(|| side.ips.first().copied().filter(|_| !side.gateway))
        .unwrap_or(IpAddr::from(CALLER));
    let own_address = side.ips.first().copied().filter(|_| side.gateway);
    let destination = match (args.to, own_address) {
        (Some(to), _) => to,
        // A gateway is called at its own address, whatever the host.
        (None, Some(ip)) => SocketAddr::new(ip, target.port),
        (None, None) if side.gateway => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), target.port),
        (None, None) => SocketAddr::new(resolve(pages, side, target).await, target.port),
    };
    let tls = (target.scheme == Scheme::Https).then(|| Hello {
        server_name: args.sni.clone().unwrap_or_else(|| target.host.clone()),
        protocols: vec![if args.http2 { "h2" } else { "http/1.1" }.to_owned()],
        // A sidecar's own caller is the application, which has no certificate of the mesh.
        principal: args.principal.clone().filter(|_| side.gateway),
        accepts: Vec::new(),
    });
    let head = if target.scheme == Scheme::Tcp {
        None
    } else {
        Some(head(args, target)?)
    };
    Ok(Call {
        source: SocketAddr::new(source, SOURCE_PORT),
        destination,
        tls,
        head,
        protocol: if args.http2 { "h2c" } else { "http/1.1" },
        random: args.random,
    })
}

async fn resolve(pages: &Pages, side: &Side, target: &Target) -> IpAddr {
    if let Ok(ip) = target.host.parse() {
        return ip;
    }
    let page = format!(
        "/debug/address?host={}&namespace={}",
        escaped(&target.host),
        escaped(&side.namespace)
    );
    let found = pages.json(&page).await;
    let first = found
        .ok()
        .and_then(|page| page["addresses"][0].as_str()?.parse().ok());
    first.unwrap_or_else(|| {
        eprintln!(
            "note: no service has the host {:?}; it counts as one outside of the mesh",
            target.host
        );
        IpAddr::from(OUTSIDE)
    })
}

fn head(args: &SimulateArgs, target: &Target) -> Result<Head, Failure> {
    let mut headers = HeaderMap::new();
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| format!("{text:?} is no value of a header"))
    };
    headers.insert(HOST, value(&target.authority)?);
    for header in &args.header {
        let (name, text) = header
            .split_once(':')
            .ok_or_else(|| format!("{header:?} is no header; give `name: value`"))?;
        let name: HeaderName = name
            .trim()
            .parse()
            .map_err(|_| format!("{name:?} is no name of a header"))?;
        let value = value(text.trim())?;
        if name == HOST {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    let method: Method = args
        .method
        .parse()
        .map_err(|_| format!("{:?} is no method", args.method))?;
    Ok(Head {
        method,
        path: target.path.clone(),
        scheme: if target.scheme == Scheme::Https {
            "https"
        } else {
            "http"
        },
        headers,
    })
}
