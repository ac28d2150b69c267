//! Where objects are found. Today: a directory of files, and workloads that register themselves.

pub(crate) mod allocate;
pub(crate) mod assemble;
mod each;
mod endpoints;
pub mod file;
mod index;
pub mod load;
mod look;
mod namespaces;
mod networks_file;
pub mod places;
pub mod registered;
mod scan;
pub mod store;
mod writers;
