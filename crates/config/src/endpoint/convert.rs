use crate::pass::Pass; use crate::pb; use super::*;
pub(crate) fn load_assignment(_: &mut Pass<'_>, _: &pb::config::endpoint::v3::ClusterLoadAssignment, _: &str) -> Option<LoadAssignment> { None }
