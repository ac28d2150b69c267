//! YAML and JSON text as a tree whose nodes know their lines. Everything that a hostile text
//! could blow up has a limit here: size, nodes, depth and what aliases expand to. It must
//! never know about messages or Kubernetes.

mod json;
mod merge;
mod scalar;
mod split;
mod tree;

use std::{fmt, sync::Arc};

pub use merge::MERGE_KEY;

/// One value of a document and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1.
    pub column: u32,
}

/// What a node is. Collections are shared, so that a clone (and an alias) costs nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// As go-yaml reads it for Kubernetes: `true`, `yes`, `on`, `y` and their opposites.
    Bool(bool),
    /// A plain scalar that looks like a number.
    Number(Number),
    /// Every other scalar.
    String(Arc<str>, Style),
    /// `- a`
    Seq(Arc<Vec<Node>>),
    /// `a: b`, in the order of the text; keys are unique.
    Map(Arc<Vec<Entry>>),
}

/// A number and the text that it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// As written.
    pub text: Arc<str>,
    /// What it is.
    pub value: NumberValue,
}

/// Whole numbers are kept exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NumberValue {
    /// Wider than any integer of a message, so that range checks can be exact.
    Int(i128),
    /// Everything with a point or an exponent, infinities and NaN.
    Float(f64),
}

/// Whether a string was quoted: a quoted `"5"` is never a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bare.
    Plain,
    /// In quotes, or a block.
    Quoted,
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key's text, whatever it looks like: `on`, `n` and `80` are strings as keys.
    pub key: Arc<str>,
    /// Of the key, counted from 1.
    pub line: u32,
    /// Of the key, counted from 1.
    pub column: u32,
    /// What it is set to.
    pub value: Node,
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A key with its value, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| &*entry.key == key)
    }

    /// The entries, if this is a mapping.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text, _) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `null`, or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// For messages: `the string "x"`, `the number 5`, `a list`, …
    pub fn describe(&self) -> String {
        /// Longer texts are of no help in a message.
        const LONGEST: usize = 60;
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(number) => format!("the number {}", number.text),
            Value::String(text, _) if text.chars().count() > LONGEST => {
                let start: String = text.chars().take(LONGEST).collect();
                format!("the string {:?}", start + "…")
            }
            Value::String(text, _) => format!("the string {text:?}"),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// How much a text may demand. The defaults hold any real mesh and stop a bomb within a
/// few hundred megabytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of the whole text.
    pub bytes: usize,
    /// Of one document, aliases included.
    pub nodes: usize,
    /// Of lists and mappings in each other.
    pub depth: usize,
    /// How many nodes all aliases of a document may stand for.
    pub alias_nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            nodes: 4_000_000,
            depth: 96,
            alias_nodes: 200_000,
        }
    }
}

/// A fault of the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for YamlError {}

/// One document of a text.
#[derive(Debug, Clone)]
pub struct Document {
    /// All of it, or what was read before it broke; `None` if nothing was.
    pub root: Option<Node>,
    /// Empty if the document is sound. Doubled keys are listed here, each with both lines.
    pub errors: Vec<YamlError>,
    /// Whether the text was read to its end: then `root` is the whole document, even if
    /// `errors` lists keys that are set twice.
    pub complete: bool,
}

/// Reads all documents of a text. A document that is broken takes no other one with it: each
/// `---` at the start of a line begins anew. Documents with nothing in them are left out.
pub fn parse(text: &str, limits: &Limits) -> Vec<Document> {
    if text.len() > limits.bytes {
        let message = format!(
            "the text has {} bytes, more than the {} that are allowed",
            text.len(),
            limits.bytes
        );
        let error = YamlError {
            line: 1,
            column: 1,
            message,
        };
        return vec![Document {
            root: None,
            errors: vec![error],
            complete: false,
        }];
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for chunk in split::chunks(text) {
        tree::parse_chunk(&chunk, limits, &mut documents);
    }
    documents
}
