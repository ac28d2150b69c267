//! x
use crate::pass::Pass; use crate::pb;
pub(crate) fn formatter(_: &mut Pass<'_>, _: &pb::core::TypedExtensionConfig) {}
