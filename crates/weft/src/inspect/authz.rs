//! `weft authz check`: which policy lets a call pass or stops it. The call is simulated.

use std::process::ExitCode;

use weft_inspect::output as forms;
use weft_inspect::simulate::{authorization, render_authorization};

use super::args::{AuthzArgs, AuthzCommand, Form};
use super::fetch;
use super::pages::Pages;
use super::simulate::simulate;
use crate::{Failure, output};

pub(crate) fn run(args: &AuthzArgs) -> Result<ExitCode, Failure> {
    let AuthzCommand::Check(args) = &args.command;
    let pages = Pages::open(&args.source)?;
    let report = authorization(&fetch::block_on(simulate(args, &pages))?);
    match args.output {
        Form::Short => output::text(&render_authorization(&report)),
        Form::Json => output::line(&forms::json(&report)),
        Form::Yaml => output::text(&forms::yaml(&report)),
    }
    Ok(if report["allowed"] == true {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
