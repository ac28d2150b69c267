//! What a person is told about a fault in a file: the place, the object, the field, the fault.
//! It must never know what kinds of objects exist.

use std::{fmt, sync::Arc};

use crate::reader::Fault;

/// Names one object of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// As written, e.g. `VirtualService`.
    pub kind: String,
    /// Empty for kinds that live in no namespace.
    pub namespace: String,
    /// Its name inside of the namespace.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One fault of one file. Displays as
/// `file:line: kind/namespace/name: spec.http[0].retries: what is wrong`, where parts that are
/// not known (the object of an unreadable document, the path of a syntax error) are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the user named it.
    pub source: Arc<str>,
    /// Counted from 1; 0 if the file itself is at fault, not a line of it.
    pub line: u32,
    /// Counted from 1.
    pub column: u32,
    /// The object that is at fault, if it could be read far enough to know.
    pub object: Option<ObjectRef>,
    /// From the document's root, e.g. `spec.http[0].retries`; empty for the document itself.
    pub path: String,
    /// What is wrong and, where that is known, what to do.
    pub message: String,
}

impl Problem {
    /// A reader's fault, placed in a file and an object.
    pub fn from_fault(source: &Arc<str>, object: Option<&ObjectRef>, fault: Fault) -> Self {
        Self {
            source: Arc::clone(source),
            line: fault.line,
            column: fault.column,
            object: object.cloned(),
            path: fault.path,
            message: fault.message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.source)?,
            line => write!(f, "{}:{line}: ", self.source)?,
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
