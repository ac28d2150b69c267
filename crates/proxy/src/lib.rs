//! See ARCHITECTURE.md.

pub mod access_log;
pub mod admin;
