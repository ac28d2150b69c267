//! What other crates rely on: the entry points of this crate, seen from outside.

mod bootstrap;
mod documents;
mod json;
mod messages;
mod mutation;
mod rules;
mod yaml;
