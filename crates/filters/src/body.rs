//! What a filter may see of a request's body. Who implements [`RequestBody`] reads it; the upstream
//! gets all of it all the same.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::LocalReply;

/// The beginning of a body.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// What has been read: at least what was asked for, unless the body ends before.
    pub bytes: Bytes,
    /// There is no more.
    pub whole: bool,
}

/// A body that is being read. The error is the answer to a client that sends none.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Beginning, LocalReply>> + 'a>>;

/// A request's body on its way up.
pub trait RequestBody: fmt::Debug {
    /// Reads until `enough` bytes are there or the body ends, and keeps them for who reads later.
    fn read(&mut self, enough: usize) -> Reading<'_>;

    /// The answer to a request whose body is too long, which is counted.
    fn too_large(&self) -> LocalReply;
}
