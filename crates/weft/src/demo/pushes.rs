//! What the control plane has pushed to whom, read from its debug pages and told in lines: one
//! for all proxies that got the same type at about the same time. Must never be needed for the
//! walk: without these pages it goes on.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::client;

const ASK_EVERY: Duration = Duration::from_millis(300);
/// Lines that are remembered.
const MAX_LINES: usize = 50;
/// Proxies that a line names one by one.
const MAX_NAMES: usize = 3;

#[derive(Default)]
struct Seen {
    lines: VecDeque<String>,
    /// Lines that [`Pushes::news`] has not given yet.
    unread: usize,
}

/// The pushes seen so far; asks for more in the background until it is dropped.
pub(crate) struct Pushes {
    seen: Rc<RefCell<Seen>>,
    _asking: JoinSet<()>,
}

impl Pushes {
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

    /// The latest lines, the newest last.
    pub(crate) fn latest(&self) -> Vec<String> {
        self.seen.borrow().lines.iter().cloned().collect()
    }

    /// The lines that were not given yet.
    pub(crate) fn news(&self) -> Vec<String> {
        let mut seen = self.seen.borrow_mut();
        let unread = std::mem::take(&mut seen.unread).min(seen.lines.len());
        seen.lines
            .iter()
            .skip(seen.lines.len() - unread)
            .cloned()
            .collect()
    }
}

async fn ask(monitoring: SocketAddr, seen: Rc<RefCell<Seen>>) {
    let mut after = 0;
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let path = format!("/debug/pushes?after={after}");
        let answer = match client::get(monitoring, &path, Duration::from_secs(2)).await {
            Ok(answer) if answer.status() == 200 => answer,
            // It is down, perhaps killed for a try. A new one counts from the start.
            _ => {
                after = 0;
                continue;
            }
        };
        let page: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let (lines, last) = told(&page);
        after = last.unwrap_or(after);
        let mut seen = seen.borrow_mut();
        for line in lines {
            if seen.lines.len() == MAX_LINES {
                seen.lines.pop_front();
            }
            seen.lines.push_back(line);
            seen.unread += 1;
        }
    }
}

/// A line for each type of a page of pushes, in the order of their first push, and the number
/// of the last one.
fn told(page: &Value) -> (Vec<String>, Option<u64>) {
    struct Group<'a> {
        first: u64,
        proxies: Vec<&'a str>,
        resources: u64,
        removed: u64,
        bytes: u64,
    }
    let number = |push: &Value, field: &str| push.get(field).and_then(Value::as_u64).unwrap_or(0);
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    let pushes = page
        .get("pushes")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    for push in pushes {
        let text = |field: &str| push.get(field).and_then(Value::as_str).unwrap_or("?");
        let name = text("name");
        let name = name.strip_suffix(".default").unwrap_or(name);
        let group = groups.entry(text("type")).or_insert_with(|| Group {
            first: number(push, "number"),
            proxies: Vec::new(),
            resources: 0,
            removed: 0,
            bytes: 0,
        });
        if !group.proxies.contains(&name) {
            group.proxies.push(name);
        }
        group.resources += number(push, "resources");
        group.removed += number(push, "removed");
        group.bytes += number(push, "bytes");
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| group.first);
    let line = |(kind, group): (&str, Group<'_>)| {
        let to = if group.proxies.len() <= MAX_NAMES {
            group.proxies.join(", ")
        } else {
            format!("{} proxies", group.proxies.len())
        };
        let removed = match group.removed {
            0 => String::new(),
            removed => format!(", {removed} removed"),
        };
        format!(
            "{kind} to {to}: {} resources, {} bytes{removed}",
            group.resources, group.bytes
        )
    };
    let last = pushes.iter().map(|push| number(push, "number")).max();
    (groups.into_iter().map(line).collect(), last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pushes_of_one_type_make_one_line() {
        let push = |number: u64, name: &str, kind: &str| {
            json!({"number": number, "name": name, "type": kind,
                   "resources": 1, "removed": 0, "bytes": 100})
        };
        let page = json!({"pushes": [
            push(5, "a.default", "RDS"), push(6, "b.default", "RDS"),
            push(7, "c.x", "EDS"), push(8, "a.default", "RDS"),
        ]});
        let (lines, last) = told(&page);
        let expected = [
            "RDS to a, b: 3 resources, 300 bytes",
            "EDS to c.x: 1 resources, 100 bytes",
        ];
        assert_eq!(lines, expected);
        assert_eq!(last, Some(8));
    }

    #[test]
    fn a_page_of_another_form_says_nothing() {
        assert_eq!(told(&json!({"other": 1})), (vec![], None));
    }
}
