//! Paths of fields: `spec.http[0].headers["x-user"]`, written while reading and looked up when
//! a later stage wants to know where a field stands.

use std::{fmt::Write as _, sync::Arc};

use crate::yaml::{Entry, Node, Value};

/// One step down.
#[derive(Debug, Clone)]
pub(crate) enum Segment {
    Field(Arc<str>),
    Key(Arc<str>),
    Index(usize),
}

/// Where a walk over a tree stands; turned into text only when there is something to say.
#[derive(Debug)]
pub(crate) struct Path {
    root: String,
    segments: Vec<Segment>,
}

impl Path {
    pub(crate) fn new(root: &str) -> Self {
        Self {
            root: root.to_owned(),
            segments: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    pub(crate) fn pop(&mut self) {
        self.segments.pop();
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn render(&self) -> String {
        let mut text = self.root.clone();
        for segment in &self.segments {
            // Writing to a String cannot fail.
            let _ = match segment {
                Segment::Index(index) => write!(text, "[{index}]"),
                Segment::Field(name) | Segment::Key(name) if is_plain(name) => {
                    let dot = if text.is_empty() { "" } else { "." };
                    write!(text, "{dot}{name}")
                }
                Segment::Field(name) | Segment::Key(name) => write!(text, "[{name:?}]"),
            };
        }
        text
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@')
}

/// The node at a path, or the deepest one above it that exists. Names are found in either
/// form (`perTryTimeout`, `per_try_timeout`); the place returned is that of the key, if there
/// is one, so that it points at the line a person would edit.
pub fn find(root: &Node, path: &str) -> (u32, u32) {
    let mut place = (root.line, root.column);
    let mut node = root;
    for step in steps(path) {
        match (&node.value, step) {
            (Value::Map(entries), Step::Name(name)) => {
                let Some(entry) = entry_named(entries, &name) else {
                    return place;
                };
                place = (entry.line, entry.column);
                node = &entry.value;
            }
            (Value::Seq(items), Step::Index(index)) => {
                let Some(item) = items.get(index) else {
                    return place;
                };
                place = (item.line, item.column);
                node = item;
            }
            _ => return place,
        }
    }
    place
}

/// [`find`] in several texts whose messages are merged in this order, as protobuf merges them:
/// lists are joined, and a field is that of the last text that sets it. Gives the number of the
/// text, too. `None` without any text.
pub fn find_merged(roots: &[&Node], path: &str) -> Option<(usize, u32, u32)> {
    let first = roots.first()?;
    let mut place = (0, first.line, first.column);
    let mut nodes: Vec<(usize, &Node)> = roots.iter().copied().enumerate().collect();
    for step in steps(path) {
        let mut next = Vec::new();
        match step {
            Step::Name(name) => {
                for (text, node) in nodes {
                    let entries = node.entries().unwrap_or_default();
                    if let Some(entry) = entry_named(entries, &name) {
                        place = (text, entry.line, entry.column);
                        next.push((text, &entry.value));
                    }
                }
            }
            Step::Index(mut index) => {
                for (text, node) in nodes {
                    let items = node.items().unwrap_or_default();
                    if let Some(item) = items.get(index) {
                        place = (text, item.line, item.column);
                        next.push((text, item));
                        break;
                    }
                    index -= items.len();
                }
            }
        }
        if next.is_empty() {
            break;
        }
        nodes = next;
    }
    Some(place)
}

/// Removes the entries of mappings of which key or value is at one of these places (line and column);
/// items of lists go with their list, so that the paths of others stay what they are. Returns the
/// paths of what was removed, below that of the root.
pub fn remove_at(root: &mut Node, path: &str, places: &[(u32, u32)]) -> Vec<String> {
    let mut removed = Vec::new();
    // A root at such a place has nothing around it that could go.
    prune(root, path, places, &mut removed);
    removed
}

/// Returns whether what is around the node is to go.
fn prune(node: &mut Node, path: &str, places: &[(u32, u32)], removed: &mut Vec<String>) -> bool {
    match &mut node.value {
        Value::Map(entries) => {
            Arc::make_mut(entries).retain_mut(|entry| {
                let key = &*entry.key;
                let below = match (path.is_empty(), is_plain(key)) {
                    (true, true) => key.to_owned(),
                    (false, true) => format!("{path}.{key}"),
                    (_, false) => format!("{path}[{key:?}]"),
                };
                let goes = places.contains(&(entry.line, entry.column))
                    || prune(&mut entry.value, &below, places, removed);
                if goes {
                    removed.push(below);
                }
                !goes
            });
            false
        }
        Value::Seq(items) => {
            let mut goes = false;
            for (index, item) in Arc::make_mut(items).iter_mut().enumerate() {
                goes |= prune(item, &format!("{path}[{index}]"), places, removed);
            }
            goes
        }
        _ => places.contains(&(node.line, node.column)),
    }
}

fn entry_named<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let bare = normalised(name);
    entries
        .iter()
        .find(|entry| &*entry.key == name)
        .or_else(|| entries.iter().find(|entry| normalised(&entry.key) == bare))
}

/// A field's name without the marks that tell its two forms apart:
/// `per_try_timeout` and `perTryTimeout` become the same.
pub fn normalised(name: &str) -> String {
    name.chars()
        .filter(|c| *c != '_')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

enum Step {
    Name(String),
    Index(usize),
}

/// Splits `a.b[0]["c"]` and forgives what it does not understand: it serves messages only.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let quoted = inner
                .strip_prefix('"')
                .and_then(|inner| inner.split_once("\"]"));
            if let Some((name, after)) = quoted {
                steps.push(Step::Name(name.replace("\\\"", "\"").replace("\\\\", "\\")));
                rest = after;
                continue;
            }
            let Some((index, after)) = inner.split_once(']') else {
                return steps;
            };
            match index.parse() {
                Ok(index) => steps.push(Step::Index(index)),
                Err(_) => steps.push(Step::Name(index.to_owned())),
            }
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !name.is_empty() {
            steps.push(Step::Name(name.to_owned()));
        }
        rest = after;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Limits, parse};

    #[test]
    fn rendered_paths_lead_back_to_their_lines() {
        let text = "spec:\n  http:\n  - per_try: 1\n  - headers:\n      \"x-a.b\":\n        c: 1\n";
        let root = parse(text, &Limits::default())
            .remove(0)
            .root
            .expect("a document");
        let mut path = Path::new("spec");
        path.push(Segment::Field("http".into()));
        path.push(Segment::Index(1));
        path.push(Segment::Field("headers".into()));
        path.push(Segment::Key("x-a.b".into()));
        assert_eq!(path.render(), "spec.http[1].headers[\"x-a.b\"]");
        assert_eq!(find(&root, &path.render()).0, 5);
        assert_eq!(find(&root, "spec.http[0].perTry").0, 3);
        assert_eq!(
            find(&root, "spec.http[1].headers[\"x-a.b\"].missing.deeper").0,
            5
        );
        assert_eq!(find(&root, "spec.http[7].x").0, 2);
        assert_eq!(find(&root, "").0, 1);
        assert_eq!(find(&root, "spec.[[]].\"").0, 1);
    }

    #[test]
    fn a_path_of_a_merged_message_leads_to_the_text_that_has_it() {
        let read = |text| parse(text, &Limits::default()).remove(0).root;
        let one = read("a:\n- {x: 1}\n- {x: 2}\nb:\n  c: 1\n  d: 1\n").expect("a document");
        let two = read("aA: 1\na:\n  -\n    x: 3\nb:\n  c: 2\n").expect("a document");
        let at = |path| find_merged(&[&one, &two], path).map(|(text, line, _)| (text, line));
        assert_eq!(at("a[1].x"), Some((0, 3)));
        assert_eq!(at("a[2].x"), Some((1, 4)));
        assert_eq!(at("a[3].x"), Some((1, 2)), "the nearest that is written");
        assert_eq!(at("b.c"), Some((1, 6)));
        assert_eq!(at("b.d.missing"), Some((0, 6)));
        assert_eq!(at(""), Some((0, 1)));
        assert_eq!(find_merged(&[], "a"), None);
    }
}
