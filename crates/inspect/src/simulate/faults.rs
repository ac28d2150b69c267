//! Faults on a call: one that befalls every request is the verdict, one that befalls a share is told.

use weft_config::http_filter::{Fault, FilterOverride};
use weft_config::{Fraction, HttpFilter};
use weft_filters::RequestContext;
use weft_filters::fault::injected;

use super::End;

/// The fault of the route, else the filter's own, as in the data plane; nobody waits.
pub(super) fn inject(
    configured: &HttpFilter,
    own: &Fault,
    context: &RequestContext<'_>,
    notes: &mut Vec<String>,
) -> Result<(), End> {
    let name = &configured.name;
    let fault = match context.overrides.settings(name) {
        Some(FilterOverride::Fault(fault)) => fault,
        _ => own,
    };
    if fault.max_active_faults == Some(0) {
        return Ok(());
    }
    let found = injected(fault, context);
    if let Some((share, wait)) = found.delay
        && share.numerator > 0
    {
        notes.push(format!(
            "{name}: {} for {wait:?} first",
            words(share, "waits", "wait")
        ));
    }
    let Some((share, reply)) = found.abort.filter(|(share, _)| share.numerator > 0) else {
        return Ok(());
    };
    let status = reply.status.as_u16();
    let answer = match reply.grpc_status {
        Some(grpc) => format!("gRPC status {grpc}"),
        None => status.to_string(),
    };
    let said = format!("{name}: {} {answer}", words(share, "gets", "get"));
    if share.numerator < share.denominator {
        notes.push(said);
        return Ok(());
    }
    Err(End::answered(
        "aborted",
        status,
        format!("{said}, a fault that is configured"),
    ))
}

fn words(share: Fraction, one: &str, many: &str) -> String {
    if share.numerator >= share.denominator {
        return format!("every request {one}");
    }
    let Fraction {
        numerator,
        denominator,
    } = share;
    format!("{numerator} of {denominator} requests {many}")
}
