//! Where objects are found. Today: a directory of files.

pub(crate) mod allocate;
pub(crate) mod assemble;
mod endpoints;
pub mod file;
mod index;
pub mod load;
mod look;
mod namespaces;
mod networks_file;
pub mod places;
mod scan;
pub mod store;
mod writers;
