//! Calls of callers that do not have the interface: names, types and values, the last as JSON. Must never
//! know where they come from.

use std::fmt;

use serde_json::Value;

use crate::frame::Frame;

/// What a protocol does for such callers.
pub trait Generic: Sync + fmt::Debug {
    /// The call as a request with id 0.
    ///
    /// # Errors
    /// An argument that its parameter cannot have.
    fn request(&self, call: &GenericCall<'_>) -> Result<Frame, ArgumentError>;

    /// What the response to such a request says.
    ///
    /// # Errors
    /// It cannot be read, or says more than may be passed on.
    fn answer(&self, response: &Frame, form: ResultForm) -> Result<GenericAnswer, Unreadable>;
}

/// A call by names and values.
#[derive(Debug, Clone, Copy)]
pub struct GenericCall<'c> {
    /// The interface.
    pub interface: &'c str,
    /// Its method.
    pub method: &'c str,
    /// Version of the service, or empty.
    pub version: &'c str,
    /// Its group (SOFA: unique id), or empty.
    pub group: &'c str,
    /// The parameters' types by Java's names, one for each argument; without them the server chooses the only
    /// method of that name.
    pub types: Option<&'c [&'c str]>,
    /// The arguments.
    pub arguments: &'c [Value],
    /// Whether objects in them may name their classes, which servers then make.
    pub allow_class: bool,
    /// Attachments.
    pub attachments: &'c [(&'c str, &'c str)],
    /// How long the caller waits, in milliseconds.
    pub timeout_ms: u32,
}

/// Why an argument cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgumentError {
    /// The number of the argument.
    pub argument: usize,
    /// Where inside of it, as in `.items[3].price`; empty for itself.
    pub place: String,
    /// What is wrong.
    pub text: String,
}

/// How results are written.
#[derive(Debug, Clone, Copy)]
pub struct ResultForm {
    /// Leave the entry `class` of each object out, in which generic servers name its class.
    pub omit_class: bool,
    /// Bytes that all names and values of a result may have together.
    pub max_bytes: usize,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum GenericAnswer {
    /// What the method returned.
    Returned(Value),
    /// What it threw.
    Thrown {
        /// The class of the exception.
        class: String,
        /// Its message.
        message: String,
    },
    /// It was not called, or nothing is known of it.
    Failed {
        /// In which way.
        failure: GenericFailure,
        /// The protocol's own status.
        status: u32,
        /// What the other side says of it.
        text: String,
    },
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenericFailure {
    /// The other side does not take the request.
    BadRequest,
    /// It does not know the service.
    NotFound,
    /// It took too long.
    Timeout,
    /// The other side has too much to do, or nobody to do it.
    Unavailable,
    /// Something else went wrong there.
    Other,
}

/// Why a response cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its bytes are none that this can read.
    #[error("the answer cannot be read")]
    Damaged,
    /// It has more values than are read, or more bytes than are wanted.
    #[error("the answer is too large")]
    TooLarge,
    /// It contains itself, or is nested too deeply.
    #[error("the answer is nested too deeply")]
    TooDeep,
}
