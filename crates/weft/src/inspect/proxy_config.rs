//! `weft proxy-config`: what a proxy has, or is to have, in `istioctl`'s columns.

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weft_inspect::clusters::{self, ClusterFilter};
use weft_inspect::endpoints::{self, EndpointFilter};
use weft_inspect::listeners::{self, ListenerFilter};
use weft_inspect::{Dump, bootstrap, extensions, output as forms, routes, secrets};

use super::args::{
    AllArgs, ClusterArgs, EndpointArgs, Form, ListenerArgs, LogLevelArgs, ProxyConfigArgs,
    ProxyConfigCommand, RouteArgs, Source,
};
use super::fetch;
use crate::{Failure, output};

/// How long a proxy or control plane may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &ProxyConfigArgs) -> Result<ExitCode, Failure> {
    let text = match &args.what {
        ProxyConfigCommand::Clusters(args) => of_clusters(args)?,
        ProxyConfigCommand::Listeners(args) => of_listeners(args)?,
        ProxyConfigCommand::Routes(args) => of_routes(args)?,
        ProxyConfigCommand::Endpoints(args) => of_endpoints(args)?,
        ProxyConfigCommand::Eds(args) => assigned(args)?,
        ProxyConfigCommand::Secrets(args) => of_secrets(&args.source)?,
        ProxyConfigCommand::Ecds(args) => {
            let dump = dump(&args.source)?;
            let all = extensions::select(&dump);
            let table = || extensions::table(&all).to_string();
            form(args.source.output, &list(&all), table)
        }
        ProxyConfigCommand::Bootstrap(args) => of_bootstrap(&args.source)?,
        ProxyConfigCommand::Log(args) => log(args)?,
        ProxyConfigCommand::All(args) => all(args)?,
    };
    output::text(&text);
    Ok(ExitCode::SUCCESS)
}

/// The text of a dump.
fn read(source: &Source) -> Result<String, Failure> {
    if let Some(file) = &source.file {
        let mut text = String::new();
        if file.as_os_str() == "-" {
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| format!("standard input: {error}"))?;
        } else {
            text = std::fs::read_to_string(file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        return Ok(text);
    }
    if let Some(admin) = &source.admin {
        let dump = fetch::get(admin, "/config_dump?include_eds", LIMIT);
        return fetch::block_on(dump);
    }
    let proxy = source.proxy.as_deref().unwrap_or_default();
    let id = fetch::escaped(proxy.strip_prefix("pod/").unwrap_or(proxy));
    let path = format!("/debug/config_dump?include_eds&proxyID={id}");
    fetch::block_on(fetch::get(&source.control.control, &path, LIMIT))
}

fn dump(source: &Source) -> Result<Dump, Failure> {
    Dump::parse(&read(source)?).map_err(|error| error.to_string())
}

fn form(form: Form, value: &Value, table: impl FnOnce() -> String) -> String {
    match form {
        Form::Short => table(),
        Form::Json => format!("{}\n", forms::json(value)),
        Form::Yaml => forms::yaml(value),
    }
}

fn list(values: &[&Value]) -> Value {
    values.iter().copied().cloned().collect()
}

fn of_clusters(args: &ClusterArgs) -> Result<String, Failure> {
    let dump = dump(&args.source)?;
    let filter = ClusterFilter {
        fqdn: args.fqdn.clone(),
        port: args.port,
        subset: args.subset.clone(),
        direction: args.direction.clone(),
    };
    let all = clusters::select(&dump, &filter);
    let table = || clusters::table(&all, false).to_string();
    Ok(form(args.source.output, &list(&all), table))
}

fn of_listeners(args: &ListenerArgs) -> Result<String, Failure> {
    let dump = dump(&args.source)?;
    let filter = ListenerFilter {
        address: args.address.clone(),
        port: args.port,
        kind: args.kind.clone(),
    };
    let all = listeners::select(&dump, &filter);
    let table = || listeners::table(&all, args.verbose, false).to_string();
    Ok(form(args.source.output, &list(&all), table))
}

fn of_routes(args: &RouteArgs) -> Result<String, Failure> {
    let dump = dump(&args.source)?;
    let all = routes::select(&dump, &args.name);
    let table = || routes::table(&all, args.verbose, false).to_string();
    Ok(form(args.source.output, &list(&all), table))
}

fn endpoint_filter(args: &EndpointArgs) -> EndpointFilter {
    EndpointFilter {
        address: args.address.clone(),
        port: args.port,
        cluster: args.cluster.clone(),
        status: args.status.clone(),
    }
}

/// As the proxy itself sees them, if it is asked.
fn of_endpoints(args: &EndpointArgs) -> Result<String, Failure> {
    let text = match &args.source.admin {
        Some(admin) => fetch::block_on(fetch::get(admin, "/clusters?format=json", LIMIT))?,
        None if args.source.file.is_some() => read(&args.source)?,
        None => return assigned(args),
    };
    let page: Value =
        serde_json::from_str(&text).map_err(|error| format!("this is no JSON: {error}"))?;
    if page.get("configs").is_some() {
        return assignments(args, &text);
    }
    let live = endpoints::select_live(&page, &endpoint_filter(args));
    let table = || endpoints::live_table(&live).to_string();
    Ok(form(args.source.output, &live.clone().into(), table))
}

fn assigned(args: &EndpointArgs) -> Result<String, Failure> {
    assignments(args, &read(&args.source)?)
}

fn assignments(args: &EndpointArgs, dump: &str) -> Result<String, Failure> {
    let dump = Dump::parse(dump).map_err(|error| error.to_string())?;
    let all = endpoints::select(&dump, &endpoint_filter(args));
    let table = || endpoints::table(&all, false).to_string();
    Ok(form(args.source.output, &all.clone().into(), table))
}

fn of_secrets(source: &Source) -> Result<String, Failure> {
    let dump = dump(source)?;
    Ok(form(source.output, &secrets::section(&dump), || {
        secret_table(&dump, false)
    }))
}

fn secret_table(dump: &Dump, named: bool) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs() as i64);
    let items = secrets::select(dump, now);
    if items.is_empty() {
        "No active or warming secrets found.\n".to_owned()
    } else {
        secrets::table(&items, named).to_string()
    }
}

fn of_bootstrap(source: &Source) -> Result<String, Failure> {
    let dump = dump(source)?;
    let Some(section) = bootstrap::section(&dump) else {
        return Err(
            "only a proxy knows its bootstrap; give its admin address with --admin".to_owned(),
        );
    };
    // As istioctl, JSON unless YAML is asked for.
    Ok(match source.output {
        Form::Yaml => forms::yaml(section),
        Form::Json | Form::Short => format!("{}\n", forms::json(section)),
    })
}

fn log(args: &LogLevelArgs) -> Result<String, Failure> {
    let levels = match (&args.level, args.reset) {
        (_, true) => "warning",
        (Some(levels), _) => levels,
        (None, false) => "",
    };
    let changes: Vec<String> = levels
        .split(',')
        .filter(|level| !level.is_empty())
        .map(|level| match level.split_once([':', '=']) {
            Some((logger, level)) => {
                format!(
                    "/logging?{}={}",
                    fetch::escaped(logger),
                    fetch::escaped(level)
                )
            }
            None => format!("/logging?level={}", fetch::escaped(level)),
        })
        .collect();
    fetch::block_on(async {
        for change in &changes {
            fetch::post(&args.admin, change, LIMIT).await?;
        }
        // Envoy and Weft show the levels for a POST without a change.
        fetch::post(&args.admin, "/logging", LIMIT).await
    })
}

fn all(args: &AllArgs) -> Result<String, Failure> {
    let text = read(&args.source)?;
    match args.source.output {
        Form::Json => return Ok(text),
        Form::Yaml => {
            let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            return Ok(forms::yaml(&value));
        }
        Form::Short => {}
    }
    let dump = Dump::parse(&text).map_err(|error| error.to_string())?;
    let of_clusters = ClusterFilter {
        fqdn: args.fqdn.clone(),
        port: args.port,
        ..ClusterFilter::default()
    };
    let of_listeners = ListenerFilter {
        port: args.port,
        ..ListenerFilter::default()
    };
    let assignments = endpoints::select(&dump, &EndpointFilter::default());
    let parts = [
        ("BOOTSTRAP INFO", bootstrap::summary(&dump)),
        (
            "CLUSTER INFO",
            clusters::table(&clusters::select(&dump, &of_clusters), true).to_string(),
        ),
        (
            "LISTENER INFO",
            listeners::table(&listeners::select(&dump, &of_listeners), true, true).to_string(),
        ),
        (
            "ROUTE INFO",
            routes::table(&routes::select(&dump, &args.name), true, true).to_string(),
        ),
        ("SECRET INFO", secret_table(&dump, true)),
        (
            "ENDPOINTS INFO",
            endpoints::table(&assignments, true).to_string(),
        ),
    ];
    let shown = parts.iter().map(|(header, table)| {
        if args.with_headers {
            format!("------ {header} ------\n\n{table}")
        } else {
            table.clone()
        }
    });
    Ok(shown.collect::<Vec<_>>().join("\n"))
}
