//! How far a frame has been looked at that does not say its length, and is not there as a whole.

use crate::thrift::skip::Skip;

/// The memory of [`crate::Codec::decode_on`]: belongs to one input. Empty, and no larger than a pointer, for
/// all frames but those.
#[derive(Debug, Default)]
pub struct Scan(pub(crate) Option<Box<Skip>>);
