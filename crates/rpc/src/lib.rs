//! RPC protocols without I/O: a [`Codec`] finds frames in bytes, tells what a proxy has to know of
//! them, and rewrites what a proxy has to change. Knows no socket, no route and no configuration.
//!
//! A protocol is one file (or folder) with a [`Codec`], and one row in [`CODECS`].

mod attributes;
mod bolt;
mod bytes_at;
mod codec;
mod dubbo;
mod frame;
mod generic;
mod hessian;
mod scan;
mod tars;
mod thrift;

pub use attributes::{Attachments, Attribute, Attributes, Call};
pub use codec::{Codec, DecodeError, Decoded, Failure, Limits, PoolMode, RewriteError, Sniffed};
pub use frame::{Flavour, Frame, Kind, Origin, Outcome};
pub use generic::{
    ArgumentError, Generic, GenericAnswer, GenericCall, GenericFailure, ResultForm, Unreadable,
};
pub use scan::Scan;

/// Every protocol that there is.
pub static CODECS: &[&dyn Codec] = &[&bolt::Bolt, &dubbo::Dubbo, &tars::Tars, &thrift::Thrift];

/// The codec of a name, e.g. `dubbo`.
pub fn codec(name: &str) -> Option<&'static dyn Codec> {
    CODECS.iter().copied().find(|codec| codec.name() == name)
}

#[cfg(test)]
mod tests;
