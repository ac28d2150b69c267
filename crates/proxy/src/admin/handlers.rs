//! The table of admin paths, and the handlers that are a line long. A new path is a row here.

use std::fmt::Write;

use http::{Method, StatusCode};
use serde_json::json;

use super::request::{AdminRequest, Reply};
use super::state::{AdminCommand, AdminState, DrainRequest, ServerState};
use super::{certs, clusters, config_dump, logging, server_info, stats};

/// One path.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// Changes the server: only by POST.
    pub(super) mutates: bool,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    handler: fn(&AdminState, &AdminRequest) -> Reply,
}

const fn get(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    handler: fn(&AdminState, &AdminRequest) -> Reply,
) -> Endpoint {
    Endpoint {
        path,
        mutates: false,
        help,
        params,
        handler,
    }
}

const fn post(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    handler: fn(&AdminState, &AdminRequest) -> Reply,
) -> Endpoint {
    Endpoint {
        mutates: true,
        ..get(path, help, params, handler)
    }
}

const FILTER: (&str, &str) = ("filter", "Regular expression that names must contain");
const FORMAT: (&str, &str) = ("format", "Form of the answer; One of (text, json)");

/// All paths, by name.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    get("/", "Admin home page", &[], home),
    get("/certs", "print certs on machine", &[], certs::handle),
    get(
        "/clusters",
        "upstream cluster status",
        &[FILTER, FORMAT],
        clusters::handle,
    ),
    get(
        "/config_dump",
        "dump current configs",
        &[
            ("resource", "The repeated field of a dump to print"),
            ("mask", "Comma-separated field paths to print"),
            (
                "name_regex",
                "Regular expression that whole resource names must match",
            ),
            ("include_eds", "Print endpoints too"),
        ],
        config_dump::handle,
    ),
    get(
        "/contention",
        "dump current mutex contention stats (if enabled)",
        &[],
        contention,
    ),
    post(
        "/drain_listeners",
        "drain listeners",
        &[
            (
                "graceful",
                "Taken without effect: connections drain, listeners stop at once",
            ),
            ("skip_exit", "Taken without effect: listeners stop, too"),
            (
                "inboundonly",
                "Only listeners with traffic direction INBOUND",
            ),
        ],
        drain_listeners,
    ),
    post(
        "/healthcheck/fail",
        "cause the server to fail health checks",
        &[],
        |state, _| {
            state.readiness.fail_health(true);
            Reply::ok()
        },
    ),
    post(
        "/healthcheck/ok",
        "cause the server to pass health checks",
        &[],
        |state, _| {
            state.readiness.fail_health(false);
            Reply::ok()
        },
    ),
    get("/help", "print out list of admin commands", &[], |_, _| {
        Reply::text(help())
    }),
    get(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        &[],
        |_, _| Reply::text(server_info::HOT_RESTART_VERSION),
    ),
    get(
        "/init_dump",
        "dump what the server waits for before it is live",
        &[("mask", "A part of the name of what waits")],
        server_info::init_dump,
    ),
    get(
        "/listeners",
        "print listener info",
        &[FORMAT],
        server_info::listeners,
    ),
    post(
        "/logging",
        "query/change logging levels",
        &[
            (
                "paths",
                "Several loggers: <logger>:<level>,<logger>:<level>",
            ),
            (
                "level",
                "Level of all loggers; One of (, trace, debug, info, warning, error, critical, off)",
            ),
        ],
        |state, request| logging::handle(&*state.logging, request),
    ),
    get(
        "/memory",
        "print current allocation/heap usage",
        &[],
        server_info::memory,
    ),
    post("/quitquitquit", "exit the server", &[], |state, _| {
        order(state, AdminCommand::Quit)
    }),
    get(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        &[],
        ready,
    ),
    post("/reopen_logs", "reopen access logs", &[], |state, _| {
        state.reopen_logs();
        Reply::ok()
    }),
    post(
        "/reset_counters",
        "reset all counters to zero",
        &[],
        |state, _| stats::reset_counters(state),
    ),
    get("/runtime", "print runtime values", &[], |_, _| {
        Reply::json(&json!({"layers": [], "entries": {}}))
    }),
    get(
        "/server_info",
        "print server version/status information",
        &[],
        server_info::server_info,
    ),
    get(
        "/stats",
        "print server stats",
        &[
            ("usedonly", "Only stats that are not zero"),
            FILTER,
            ("invert_filter", "Only names that the filter does not match"),
            (
                "format",
                "Form of the answer; One of (text, json, prometheus)",
            ),
            (
                "type",
                "One of (All, Counters, Histograms, Gauges, TextReadouts)",
            ),
            (
                "histogram_buckets",
                "One of (cumulative, disjoint, summary)",
            ),
        ],
        stats::handle,
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            ("usedonly", "Only stats that are not zero"),
            FILTER,
            ("invert_filter", "Only names that the filter does not match"),
            ("histogram_buckets", "One of (cumulative, summary)"),
        ],
        stats::handle_prometheus,
    ),
];

/// Answers any request.
pub(super) fn dispatch(
    state: &AdminState,
    method: &Method,
    path: &str,
    request: &AdminRequest,
) -> Reply {
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        let text = format!("invalid path. {}", help());
        return Reply::text_status(StatusCode::NOT_FOUND, text);
    };
    if endpoint.mutates && method != Method::POST {
        let text = format!("Method {method} not allowed, POST required.");
        return Reply::text_status(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    (endpoint.handler)(state, request)
}

fn help() -> String {
    let mut out = String::from("admin commands are:\n");
    for Endpoint {
        path,
        mutates,
        help,
        params,
        ..
    } in ENDPOINTS
    {
        let post = if *mutates { " (POST)" } else { "" };
        let _ = writeln!(out, "  {path}{post}: {help}");
        for (name, help) in *params {
            let _ = writeln!(out, "      {name}: {help}");
        }
    }
    out
}

fn home(_: &AdminState, _: &AdminRequest) -> Reply {
    let mut rows = String::new();
    for Endpoint {
        path,
        mutates,
        help,
        ..
    } in ENDPOINTS.iter().filter(|e| e.path != "/")
    {
        // All texts are constants of the table without markup.
        let link = if *mutates {
            format!("<form action=\"{path}\" method=\"post\"><button>{path}</button></form>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        let _ = writeln!(rows, "<tr><td>{link}</td><td>{help}</td></tr>");
    }
    Reply::html(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Weft admin</title></head>\n\
         <body><table>\n<tr><th>Command</th><th>Description</th></tr>\n{rows}</table></body></html>\n"
    ))
}

fn ready(state: &AdminState, _: &AdminRequest) -> Reply {
    let now = state.readiness.state();
    let status = if now == ServerState::Live {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Reply::text_status(status, format!("{}\n", now.name()))
}

fn contention(_: &AdminState, _: &AdminRequest) -> Reply {
    Reply::text("Mutex contention tracing is not enabled. Weft has no such tracing.")
}

fn drain_listeners(state: &AdminState, request: &AdminRequest) -> Reply {
    let drain = DrainRequest {
        graceful: request.has("graceful"),
        inbound_only: request.has("inboundonly"),
        skip_exit: request.has("skip_exit"),
    };
    order(state, AdminCommand::DrainListeners(drain))
}

fn order(state: &AdminState, command: AdminCommand) -> Reply {
    if state.order(command) {
        return Reply::ok();
    }
    let text = "the server is busy with earlier admin commands or is leaving; try again later\n";
    Reply::text_status(StatusCode::SERVICE_UNAVAILABLE, text)
}
