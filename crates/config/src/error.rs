//! Why a resource was refused: each problem with the path of its field. Knows no resource's meaning.

use std::fmt;

use crate::IgnoredField;

/// A resource that was accepted, with the fields of it that have no effect.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The compiled resource.
    pub value: T,
    /// Fields that were set but are on the table of ignored fields, in the order of reading.
    pub ignored: Vec<IgnoredField>,
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field inside the resource, such as `filter_chains[2].transport_socket`.
    /// Empty when the resource as a whole is meant.
    pub path: String,
    /// What is wrong and what to do about it.
    pub text: String,
}

/// All problems of one resource. Shown as `listener foo: filter_chains[2].name: text`, joined by `; `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Kind and name, such as `listener foo`.
    pub resource: String,
    /// At least one problem; at most [`ConfigError::MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// Further problems of the same resource are counted but not kept.
    pub const MAX_PROBLEMS: usize = 64;

    /// An error with one problem.
    pub fn one(
        resource: impl Into<String>,
        path: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            resource: resource.into(),
            problems: vec![Problem {
                path: path.into(),
                text: text.into(),
            }],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: ", self.resource)?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.text)?;
        }
        Ok(())
    }
}
