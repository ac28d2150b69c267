//! Of a simulation, what policies said: which of them lets a call pass or stops it, and where.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::fields::{list, text};
use crate::table::Table;

/// `{"decisions": [{"proxy", "filter", "action", "decision", "by"}], "allowed", "reason"}` of a
/// simulation's report. `allowed`: no policy stops the call and it reaches the server; `reason`
/// says why not.
pub fn authorization(report: &Value) -> Value {
    let mut decisions = Vec::new();
    for passage in list(report, "passages") {
        for policy in list(passage, "policies") {
            let by = match (text(policy, "rule"), text(policy, "policy")) {
                ("", named) => named,
                (rule, _) => rule,
            };
            let decision = match (policy["allowed"] == true, by.is_empty()) {
                (true, true) => "no rule matches: passes",
                (true, false) => "passes",
                (false, true) => "no rule matches: stops",
                (false, false) => "stops",
            };
            decisions.push(json!({
                "proxy": passage["proxy"], "filter": policy["filter"], "action": policy["action"],
                "decision": decision, "by": by,
            }));
        }
    }
    let verdict = text(report, "verdict");
    let allowed = ["forwarded", "reached"].contains(&verdict);
    json!({
        "decisions": decisions, "allowed": allowed,
        "verdict": verdict, "reason": report["reason"], "status": report["status"],
    })
}

/// The same as text.
pub fn render_authorization(authorization: &Value) -> String {
    let mut out = String::new();
    let decisions = list(authorization, "decisions");
    let mut table = Table::new(["PROXY", "ACTION", "DECISION", "BY"], 3);
    for decision in decisions {
        let cells = ["proxy", "action", "decision", "by"];
        table.row(cells.map(|name| match text(decision, name) {
            "" => "-".to_owned(),
            cell => cell.to_owned(),
        }));
    }
    // Writing to a string cannot fail.
    let _ = if table.is_empty() {
        writeln!(out, "No policy looks at this call.")
    } else {
        write!(out, "{table}")
    };
    let reason = text(authorization, "reason");
    let _ = match (authorization["allowed"] == true, reason) {
        (true, "") => writeln!(out, "ALLOWED"),
        (true, reason) => writeln!(out, "ALLOWED: {reason}"),
        (false, reason) => {
            let verdict = text(authorization, "verdict").to_uppercase();
            writeln!(out, "NOT ALLOWED: {verdict}: {reason}")
        }
    };
    out
}
