//! Whether edits are live, from a control plane's `/debug/wait`.

use serde_json::Value;

use crate::fields::{list, number, text, texts};

/// What a page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All proxies that the objects concern have accepted what they made; how many these are.
    Live(u64),
    /// It is on its way; who lags, a line each.
    Waiting(Vec<String>),
    /// It will not become live without another edit; why, a line each.
    Refused(Vec<String>),
}

/// Judges a page. With `gone`, the objects are to be absent.
pub fn verdict(page: &Value, gone: bool) -> Verdict {
    let mut refused = Vec::new();
    let mut lags = Vec::new();
    for object in list(page, "objects") {
        if gone {
            lags.push(format!("{} is still configured", place(object)));
        } else {
            refused.extend(wrong(object));
            if object["waitsForKeys"] == true {
                lags.push(format!("{} waits for keys to be fetched", place(object)));
            }
        }
    }
    if !gone {
        for name in texts(page, "unknown") {
            refused.push(format!(
                "{name} is not configured (to wait until an object is gone, give --gone)"
            ));
        }
    }
    for proxy in list(page, "proxies") {
        for state in list(proxy, "types") {
            let who = format!("{}: {}", text(proxy, "name"), text(state, "type"));
            for refusal in list(state, "refused") {
                let resource = text(refusal, "resource");
                refused.push(format!(
                    "{who}: refuses {resource}: {}",
                    text(refusal, "error")
                ));
            }
            let waiting = texts(state, "waiting");
            let more = number(&state["more"]).unwrap_or_default();
            let status = text(state, "status");
            if !waiting.is_empty() || more > 0 || status == "NO ANSWER" {
                lags.push(format!("{who}: {}", lag(status, &waiting, more)));
            }
        }
    }
    if !refused.is_empty() {
        refused.extend(lags);
        Verdict::Refused(refused)
    } else if lags.is_empty() {
        Verdict::Live(number(&page["concerned"]).unwrap_or_default())
    } else {
        Verdict::Waiting(lags)
    }
}

fn lag(status: &str, waiting: &[&str], more: u64) -> String {
    let mut out = status.to_owned();
    if !waiting.is_empty() {
        out = format!("{out}, has not accepted {}", waiting.join(", "));
    }
    if more > 0 {
        out = format!("{out} and {more} more");
    }
    out
}

fn place(object: &Value) -> String {
    let name = text(object, "object");
    let line = number(&object["line"]).unwrap_or_default();
    let at = format!("{}:{line}", text(object, "source"));
    if name.is_empty() {
        at
    } else {
        format!("{at}: {name}")
    }
}

/// Why the present form of an object is not in force.
fn wrong(object: &Value) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    match text(object, "state") {
        "refused" | "keptLastGood" => {
            lines.extend(texts(object, "problems").into_iter().map(str::to_owned));
            if lines.is_empty() {
                lines.push(format!("{}: is refused", place(object)));
            }
        }
        "shadowed" => lines.push(format!(
            "{}: another file defines the same object, and counts",
            place(object)
        )),
        _ => {}
    }
    for held in texts(object, "heldBack") {
        lines.push(format!("{}: is held back: {held}", place(object)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(state: &str) -> Value {
        json!({"object": "VirtualService/a/b", "source": "x.yaml", "line": 3, "state": state,
               "problems": [], "heldBack": []})
    }

    fn page(objects: &[Value], types: &Value) -> Value {
        json!({"objects": objects, "unknown": [], "concerned": 2,
               "proxies": [{"name": "p.a", "types": types}]})
    }

    #[test]
    fn live_is_what_nobody_lags_behind_or_refuses() {
        let fine = page(&[object("accepted")], &json!([]));
        assert_eq!(verdict(&fine, false), Verdict::Live(2));
        let conflicting = page(&[object("conflicting")], &json!([]));
        assert_eq!(verdict(&conflicting, false), Verdict::Live(2));
        let lagging = json!([{"type": "RDS", "status": "STALE", "waiting": ["80"], "more": 1, "refused": []}]);
        let Verdict::Waiting(lines) = verdict(&page(&[object("accepted")], &lagging), false) else {
            panic!("it lags")
        };
        assert_eq!(lines, ["p.a: RDS: STALE, has not accepted 80 and 1 more"]);
    }

    #[test]
    fn what_is_refused_says_why() {
        let nack = json!([{"type": "RDS", "status": "ERROR", "waiting": [], "more": 0,
                           "refused": [{"resource": "80", "error": "bad regex"}]}]);
        let Verdict::Refused(lines) = verdict(&page(&[object("accepted")], &nack), false) else {
            panic!("it is refused")
        };
        assert_eq!(lines, ["p.a: RDS: refuses 80: bad regex"]);
        let mut kept = object("keptLastGood");
        kept["problems"] = json!(["x.yaml:4: VirtualService/a/b: spec: no"]);
        let refused = verdict(&page(&[kept], &json!([])), false);
        assert_eq!(
            refused,
            Verdict::Refused(vec!["x.yaml:4: VirtualService/a/b: spec: no".to_owned()])
        );
        for (state, words) in [("refused", "x.yaml:3"), ("shadowed", "another file")] {
            let Verdict::Refused(lines) = verdict(&page(&[object(state)], &json!([])), false)
            else {
                panic!("{state}")
            };
            assert!(lines[0].contains(words), "{lines:?}");
        }
    }

    #[test]
    fn a_rule_without_its_keys_is_not_in_force_yet() {
        let mut rule = object("accepted");
        rule["waitsForKeys"] = true.into();
        let Verdict::Waiting(lines) = verdict(&page(&[rule], &json!([])), false) else {
            panic!("it waits")
        };
        assert_eq!(
            lines,
            ["x.yaml:3: VirtualService/a/b waits for keys to be fetched"]
        );
    }

    #[test]
    fn an_object_that_is_not_there_is_refused_unless_it_is_to_be_gone() {
        let page =
            json!({"objects": [], "unknown": ["Gateway/a/b"], "concerned": 1, "proxies": []});
        assert!(matches!(verdict(&page, false), Verdict::Refused(_)));
        assert_eq!(verdict(&page, true), Verdict::Live(1));
        let there = json!({"objects": [object("accepted")], "proxies": []});
        assert!(matches!(verdict(&there, true), Verdict::Waiting(_)));
    }
}
