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
    /// Kind and name of a resource inside of the refused one that is at fault: `listener foo`
    /// of a bootstrap.
    pub resource: Option<String>,
    /// Path of the field inside the resource, such as `filter_chains[2].transport_socket`.
    /// Empty when the resource as a whole is meant.
    pub path: String,
    /// What is wrong and what to do about it.
    pub text: String,
}

impl Problem {
    /// A problem of the resource itself.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            resource: None,
            path: path.into(),
            text: text.into(),
        }
    }

    /// The same problem as seen from a message that has this one at `place`.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        let dot = match self.path.chars().next() {
            None | Some('[') => "",
            _ if place.is_empty() => "",
            Some(_) => ".",
        };
        self.path = format!("{place}{dot}{}", self.path);
        self
    }

    /// The same problem of a resource inside of another.
    #[must_use]
    pub fn of(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }
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
            problems: vec![Problem::new(path, text)],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            let resource = problem.resource.as_deref().unwrap_or(&self.resource);
            write!(f, "{resource}: ")?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.text)?;
        }
        Ok(())
    }
}
