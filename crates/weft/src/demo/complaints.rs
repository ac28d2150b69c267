//! What the control plane says against objects of the folder (a wrong field, a reference to
//! nothing, a resource that a proxy refused), read from its status page, so that whoever breaks a
//! file learns it where they look. Must never be needed for the walk.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::client;

const ASK_EVERY: Duration = Duration::from_millis(300);
/// Complaints that are followed; the page tells the rest.
const MAX_COMPLAINTS: usize = 50;
/// Events that wait to be shown.
const MAX_UNREAD: usize = 100;

#[derive(Default)]
struct Seen {
    /// Whether the mesh is complete: until then references lead to what is still to come.
    is_complete: bool,
    /// What the page said last.
    standing: BTreeSet<String>,
    unread: Vec<String>,
}

impl Seen {
    /// Notes what is new on a page, and that all is well again when the last complaint has gone.
    fn note(&mut self, now: BTreeSet<String>) {
        let mut events: Vec<String> = now.difference(&self.standing).cloned().collect();
        if now.is_empty() && !self.standing.is_empty() {
            events.push("the control plane has no complaint any more".to_owned());
        }
        self.standing = now;
        let room = MAX_UNREAD.saturating_sub(self.unread.len());
        self.unread.extend(events.into_iter().take(room));
    }
}

/// The complaints seen so far; asks for more in the background until it is dropped.
pub(crate) struct Complaints {
    seen: Rc<RefCell<Seen>>,
    _asking: JoinSet<()>,
}

impl Complaints {
    /// Begins to ask. Needs a `LocalSet`.
    pub(crate) fn follow(monitoring: SocketAddr) -> Self {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let mut asking = JoinSet::new();
        asking.spawn_local(ask(monitoring, Rc::clone(&seen)));
        Self {
            seen,
            _asking: asking,
        }
    }

    /// From now on all that the mesh needs is there.
    pub(crate) fn complete(&self) {
        self.seen.borrow_mut().is_complete = true;
    }

    /// The events that were not given yet.
    pub(crate) fn news(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.borrow_mut().unread)
    }
}

async fn ask(monitoring: SocketAddr, seen: Rc<RefCell<Seen>>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let answer = client::get(monitoring, "/debug/status", Duration::from_secs(2)).await;
        // While the control plane is down nothing is known, good or bad.
        let Ok(answer) = answer else { continue };
        if answer.status() == 200
            && let Ok(page) = serde_json::from_slice(answer.body())
        {
            let mut seen = seen.borrow_mut();
            let complaints = told(&page, seen.is_complete);
            seen.note(complaints);
        }
    }
}

/// Every complaint of a page of statuses, in a line each; with warnings or without.
fn told(page: &Value, warnings: bool) -> BTreeSet<String> {
    let list = |object: &Value, field: &str| -> Vec<Value> {
        object
            .get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut lines = BTreeSet::new();
    for object in list(page, "objects") {
        let name = object.get("object").and_then(Value::as_str).unwrap_or("?");
        let texts = |field| {
            list(&object, field)
                .into_iter()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        // Problems and warnings name their place and object themselves.
        lines.extend(texts("problems"));
        if warnings {
            lines.extend(texts("warnings"));
        }
        lines.extend(
            texts("heldBack")
                .iter()
                .map(|held| format!("{name}: held back: {held}")),
        );
        for refusal in list(&object, "refusedBy") {
            let text = |field| refusal.get(field).and_then(Value::as_str).unwrap_or("?");
            lines.insert(format!(
                "{name}: refused by {}: {} {}: {}",
                text("proxy"),
                text("type"),
                text("resource"),
                text("error")
            ));
        }
        if lines.len() >= MAX_COMPLAINTS {
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(problems: &[&str], refused: bool) -> Value {
        let refused = refused.then(|| {
            json!({"type": "RDS", "resource": "80", "proxy": "gateway", "error": "no such cluster"})
        });
        json!({"objects": [
            {"object": "VirtualService/default/a", "problems": problems, "heldBack": [],
             "refusedBy": refused.into_iter().collect::<Vec<_>>()},
            {"object": "Service/default/b", "problems": [], "heldBack": ["its port"]},
        ]})
    }

    #[test]
    fn all_kinds_of_complaints_are_told() {
        let expected = [
            "Service/default/b: held back: its port",
            "VirtualService/default/a: refused by gateway: RDS 80: no such cluster",
            "a.yaml:3: wrong",
        ];
        let lines = told(&page(&["a.yaml:3: wrong"], true), true);
        assert_eq!(Vec::from_iter(lines), expected);
    }

    #[test]
    fn references_are_not_judged_before_the_mesh_is_complete() {
        let warned = json!({"objects": [{"object": "Gateway/default/g", "problems": [],
            "warnings": ["g.yaml:1: nobody has its labels"], "heldBack": []}]});
        assert!(told(&warned, false).is_empty());
        assert_eq!(told(&warned, true).len(), 1);
    }

    #[test]
    fn a_complaint_is_told_once_and_its_end_as_well() {
        let mut seen = Seen::default();
        let set = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        seen.note(set(&[]));
        seen.note(set(&["x"]));
        seen.note(set(&["x"]));
        seen.note(set(&["x", "y"]));
        seen.note(set(&[]));
        seen.note(set(&[]));
        let expected = ["x", "y", "the control plane has no complaint any more"];
        assert_eq!(seen.unread, expected);
    }
}
