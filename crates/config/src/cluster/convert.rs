use crate::pass::Pass; use crate::pb; use super::*;
pub(crate) fn cluster(_: &mut Pass<'_>, _: &pb::config::cluster::v3::Cluster) -> Option<Cluster> { None }
