//! `weft explain`: which objects made a resource of a proxy.

use std::process::ExitCode;

use weft_inspect::{explain, output as forms};

use super::args::{ExplainArgs, Form};
use super::fetch::{self, escaped};
use super::pages::Pages;
use crate::{Failure, output};

pub(crate) fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let pages = Pages::open(&args.source)?;
    let mut target = format!(
        "/debug/explain?proxyID={}&type={}&name={}",
        escaped(&args.proxy),
        args.kind.word(),
        escaped(&args.name),
    );
    if let Some(host) = &args.host {
        target = format!("{target}&host={}", escaped(host));
    }
    let page = fetch::block_on(pages.json(&target))?;
    match args.output {
        Form::Short => output::text(&explain::render(&page)),
        Form::Json => output::line(&forms::json(&page)),
        Form::Yaml => output::text(&forms::yaml(&page)),
    }
    Ok(ExitCode::SUCCESS)
}
