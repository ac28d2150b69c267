//! `weft proxy-status`: where connected proxies stand.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weft_inspect::{output as forms, status};

use super::args::{Form, ProxyStatusArgs};
use super::fetch;
use crate::{Failure, output};

/// How long the control plane may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &ProxyStatusArgs) -> Result<ExitCode, Failure> {
    let path = match &args.proxy {
        Some(proxy) => format!("/debug/proxies?proxyID={}", fetch::escaped(proxy)),
        None => "/debug/proxies".to_owned(),
    };
    let page = fetch::block_on(fetch::get(&args.control.control, &path, LIMIT))?;
    let page: Value = serde_json::from_str(&page).map_err(|error| {
        format!(
            "{}: the answer is no JSON ({error}); is it a Weft control plane?",
            args.control.control
        )
    })?;
    let proxies = status::select(&page, args.namespace.as_deref());
    if let Some(wanted) = &args.proxy
        && proxies.is_empty()
    {
        return Err(format!(
            "no proxy {wanted:?} is connected to {}; `weft proxy-status` lists those that are",
            args.control.control
        ));
    }
    let shown = Value::Array(proxies.iter().copied().cloned().collect());
    match args.output {
        Form::Json => output::line(&forms::json(&shown)),
        Form::Yaml => output::text(&forms::yaml(&shown)),
        Form::Short if args.proxy.is_some() => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_millis() as u64);
            for proxy in &proxies {
                output::text(&status::detail(proxy, now));
            }
        }
        Form::Short => output::text(&status::table(&proxies).to_string()),
    }
    let fails = args.check && !status::all_synced(&proxies);
    Ok(if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
