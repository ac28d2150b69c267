use crate::pass::Pass; use crate::pb; use super::*;
pub(crate) fn bootstrap(_: &mut Pass<'_>, _: &pb::config::bootstrap::v3::Bootstrap) -> Option<Bootstrap> { None }
