//! Events of the YAML parser to nodes, without recursion and within limits. A document that
//! breaks off is closed where it stands, so that its name can still be told.

use std::{
    collections::{HashMap, hash_map},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{
    Document, Entry, Limits, Node, Style, Value, YamlError, json, merge, scalar, split::Chunk,
};

/// Reads one part of a stream and adds its documents.
pub(super) fn parse_chunk(chunk: &Chunk<'_>, limits: &Limits, documents: &mut Vec<Document>) {
    let before = documents.len();
    // The parser is foreign code that was written to assert its own state. Whatever it may
    // assert, a text must not end the process.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut found = Vec::new();
        parse_events(chunk, limits, &mut found);
        found
    }));
    match outcome {
        Ok(found) => documents.extend(found),
        Err(_) => documents.push(Document {
            root: None,
            errors: vec![YamlError {
                line: chunk.lines_before + 1,
                column: 1,
                message: "the document cannot be read as YAML".to_owned(),
            }],
            complete: false,
        }),
    }
    debug_assert!(documents.len() >= before, "documents are only added");
}

fn parse_events(chunk: &Chunk<'_>, limits: &Limits, documents: &mut Vec<Document>) {
    // What is JSON is read as JSON, for YAML does not know all of its escapes. What is not may
    // still be YAML in braces, and then YAML's message is the better one.
    if json::looks_like(chunk.text) {
        let mut tree = Tree::new(chunk.lines_before, limits);
        let read = json::scan(chunk.text, &mut |event, line, column| {
            let place = tree.place(line, column);
            tree.event(event, place)
        });
        match read {
            Ok(()) => return documents.extend(tree.finish()),
            Err(json::Stop::Refused(error)) => {
                tree.errors.push(error);
                return documents.push(tree.break_off());
            }
            Err(json::Stop::NotJson) => {}
        }
    }
    let mut parser = Parser::new_from_str(chunk.text);
    let mut tree = Tree::new(chunk.lines_before, limits);
    let mut inside = false;
    while let Some(next) = parser.next_event() {
        let (event, span) = match next {
            Ok(next) => next,
            Err(error) => {
                // What is missing at the end is missing in the last line, not in one after it.
                let last = chunk.text.lines().count().max(1);
                let marker = error.marker();
                let line = marker.line().clamp(1, last);
                let told = match indented_by_tab(chunk.text, line) {
                    Some(line) => tree
                        .place(line, 1)
                        .error("a tab indents this line, use spaces"),
                    None => tree
                        .place(line, marker.col() + 1)
                        .error(error.info().to_owned()),
                };
                tree.errors.push(told);
                documents.push(tree.break_off());
                return;
            }
        };
        match event {
            Event::StreamEnd => return,
            Event::DocumentStart(_) => inside = true,
            Event::DocumentEnd => {
                inside = false;
                documents.extend(tree.finish());
            }
            event if inside => {
                let place = tree.marked(&span.start);
                if let Err(error) = tree.event(event, place) {
                    tree.errors.push(error);
                    documents.push(tree.break_off());
                    return;
                }
            }
            _ => {}
        }
    }
}

/// The line with a tab before its text that broke the parser: the one where it stopped, or the
/// next, into which it looked. YAML indents by spaces only.
fn indented_by_tab(text: &str, stopped: usize) -> Option<usize> {
    let lines = (1..)
        .zip(text.lines())
        .skip(stopped.saturating_sub(1))
        .take(2);
    let indents = lines.map(|(number, line): (usize, &str)| {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        (
            number,
            !bare.is_empty() && line.get(..indent).is_some_and(|i| i.contains('\t')),
        )
    });
    let mut tabs = indents.filter(|(_, tab)| *tab);
    tabs.next().map(|(number, _)| number)
}

/// A line and a column, both from 1.
#[derive(Debug, Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
}

impl Place {
    fn error(self, message: impl Into<String>) -> YamlError {
        YamlError {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }

    fn node(self, value: Value) -> Node {
        Node {
            value,
            line: self.line,
            column: self.column,
        }
    }
}

/// A node with what it costs when an alias repeats it.
#[derive(Debug, Clone)]
struct Weighed {
    node: Node,
    /// Nodes in it, itself included; long texts count as several.
    nodes: usize,
    /// Collections in each other, itself included; 0 for a scalar.
    height: usize,
}

/// A list or a mapping that is not closed yet.
struct Frame {
    place: Place,
    anchor: usize,
    nodes: usize,
    height: usize,
    open: Open,
}

enum Open {
    Seq(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        merged: Vec<Entry>,
        key: Option<(Arc<str>, Place, bool)>,
    },
}

struct Tree<'a> {
    lines_before: u32,
    limits: &'a Limits,
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, Weighed>,
    nodes: usize,
    alias_nodes: usize,
    errors: Vec<YamlError>,
}

impl<'a> Tree<'a> {
    fn new(lines_before: u32, limits: &'a Limits) -> Self {
        Self {
            lines_before,
            limits,
            stack: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
            alias_nodes: 0,
            errors: Vec::new(),
        }
    }

    fn marked(&self, marker: &Marker) -> Place {
        self.place(marker.line().max(1), marker.col() + 1)
    }

    /// A place in the chunk, both counted from 1, as a place in the file.
    fn place(&self, line: usize, column: usize) -> Place {
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        Place {
            line: line.saturating_add(self.lines_before),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }

    /// Ends a document; one with nothing in it is none.
    fn finish(&mut self) -> Option<Document> {
        self.anchors.clear();
        self.stack.clear();
        (self.nodes, self.alias_nodes) = (0, 0);
        let errors = std::mem::take(&mut self.errors);
        let root = self
            .root
            .take()
            .filter(|root| !root.is_null() || !errors.is_empty())?;
        Some(Document {
            root: Some(root),
            errors,
            complete: true,
        })
    }

    /// Ends a document that broke, with what was read of it.
    fn break_off(&mut self) -> Document {
        while let Some(frame) = self.stack.pop() {
            let closed = self.close(frame);
            match self.stack.last_mut() {
                Some(parent) => self.errors.extend(attach(parent, closed).err()),
                None => self.root = Some(closed.node),
            }
        }
        let root = self.root.take();
        let mut errors = std::mem::take(&mut self.errors);
        errors.sort_by_key(|error| (error.line, error.column));
        Document {
            root,
            errors,
            complete: false,
        }
    }

    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1 + text.len() / 64, place)?;
                if self.awaits_key() {
                    return self.set_key(&text, style, anchor, place);
                }
                let value =
                    scalar::tagged(&text, style, tag.as_deref()).map_err(|m| place.error(m))?;
                let nodes = 1 + text.len() / 64;
                self.add(
                    Weighed {
                        node: place.node(value),
                        nodes,
                        height: 0,
                    },
                    anchor,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Open::Seq(Vec::new()), anchor, tag.as_deref(), place)
            }
            Event::MappingStart(anchor, tag) => {
                let open = Open::Map {
                    entries: Vec::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.open(open, anchor, tag.as_deref(), place)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                // The parser pairs starts with ends.
                let Some(frame) = self.stack.pop() else {
                    return Ok(());
                };
                let anchor = frame.anchor;
                let closed = self.close(frame);
                self.add(closed, anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, place),
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > self.limits.nodes {
            return Err(place.error(format!(
                "the document has more than {} values; split it",
                self.limits.nodes
            )));
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Frame {
                open: Open::Map { key: None, .. },
                ..
            })
        )
    }

    fn open(
        &mut self,
        open: Open,
        anchor: usize,
        tag: Option<&Tag>,
        place: Place,
    ) -> Result<(), YamlError> {
        if self.awaits_key() {
            return Err(place.error("a key must be a text, not a list or a mapping"));
        }
        if let Some(tag) = tag {
            let known = tag.is_yaml_core_schema()
                && matches!(
                    (&open, &*tag.suffix),
                    (Open::Seq(_), "seq") | (Open::Map { .. }, "map")
                );
            if !known {
                return Err(place.error(format!("the tag {tag} is not supported; leave it out")));
            }
        }
        if self.stack.len() >= self.limits.depth {
            return Err(place.error(self.too_deep()));
        }
        self.count(1, place)?;
        self.stack.push(Frame {
            place,
            anchor,
            nodes: 1,
            height: 1,
            open,
        });
        Ok(())
    }

    fn too_deep(&self) -> String {
        format!(
            "lists and mappings are nested deeper than {} levels",
            self.limits.depth
        )
    }

    fn set_key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        place: Place,
    ) -> Result<(), YamlError> {
        let text: Arc<str> = Arc::from(text);
        if anchor != 0 {
            let node = place.node(Value::String(Arc::clone(&text), Style::Plain));
            self.anchors.insert(
                anchor,
                Weighed {
                    node,
                    nodes: 1,
                    height: 0,
                },
            );
        }
        let merge = style == ScalarStyle::Plain && &*text == merge::MERGE_KEY;
        match self.stack.last_mut() {
            Some(Frame {
                open: Open::Map { key, .. },
                ..
            }) => {
                *key = Some((text, place, merge));
                Ok(())
            }
            _ => Err(place.error("a key stands outside of a mapping")),
        }
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), YamlError> {
        let Some(mut target) = self.anchors.get(&anchor).cloned() else {
            return Err(place.error("an alias stands inside of the value that it names"));
        };
        if self.awaits_key() {
            let Some(text) = target.node.as_str().map(str::to_owned) else {
                return Err(place.error("a key must be a text, not a list or a mapping"));
            };
            return self.set_key(&text, ScalarStyle::DoubleQuoted, 0, place);
        }
        self.alias_nodes = self.alias_nodes.saturating_add(target.nodes);
        if self.alias_nodes > self.limits.alias_nodes {
            return Err(place.error(format!(
                "aliases stand for more than {} values; write them out",
                self.limits.alias_nodes
            )));
        }
        self.count(target.nodes, place)?;
        if self.stack.len() + target.height > self.limits.depth {
            return Err(place.error(self.too_deep()));
        }
        // A fault in an aliased value is best seen where the value stands, except for a scalar.
        if target.height == 0 {
            (target.node.line, target.node.column) = (place.line, place.column);
        }
        self.add(target, 0)
    }

    fn close(&mut self, frame: Frame) -> Weighed {
        let value = match frame.open {
            Open::Seq(items) => Value::Seq(Arc::new(items)),
            Open::Map {
                entries, merged, ..
            } => {
                let entries = if entries.len() > 1 {
                    self.without_doubles(entries)
                } else {
                    entries
                };
                Value::Map(Arc::new(merge::with_merged(entries, merged)))
            }
        };
        Weighed {
            node: frame.place.node(value),
            nodes: frame.nodes,
            height: frame.height,
        }
    }

    /// Reports keys that are set twice, and keeps the first of each.
    fn without_doubles(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut lines: HashMap<Arc<str>, u32> = HashMap::with_capacity(entries.len());
        let mut unique = Vec::with_capacity(entries.len());
        for entry in entries {
            match lines.entry(Arc::clone(&entry.key)) {
                hash_map::Entry::Vacant(slot) => {
                    slot.insert(entry.line);
                    unique.push(entry);
                }
                hash_map::Entry::Occupied(first) => {
                    let (key, line, column) = (&entry.key, entry.line, entry.column);
                    let first = first.get();
                    let message = format!("key {key:?} is set twice, on lines {first} and {line}");
                    self.errors.push(YamlError {
                        line,
                        column,
                        message,
                    });
                }
            }
        }
        unique
    }

    fn add(&mut self, value: Weighed, anchor: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        if let Some(parent) = self.stack.last_mut() {
            return attach(parent, value);
        }
        self.root = Some(value.node);
        Ok(())
    }
}

/// Puts a finished value into the collection that it belongs to.
fn attach(parent: &mut Frame, value: Weighed) -> Result<(), YamlError> {
    parent.nodes = parent.nodes.saturating_add(value.nodes);
    parent.height = parent.height.max(value.height + 1);
    match &mut parent.open {
        Open::Seq(items) => items.push(value.node),
        Open::Map {
            entries,
            merged,
            key,
        } => {
            let Some((text, place, merge)) = key.take() else {
                return Ok(());
            };
            if merge {
                return merge::collect(&value.node, merged).map_err(|message| place.error(message));
            }
            entries.push(Entry {
                key: text,
                line: place.line,
                column: place.column,
                value: value.node,
            });
        }
    }
    Ok(())
}
