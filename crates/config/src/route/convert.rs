use crate::pass::Pass; use crate::pb; use super::*;
pub(crate) fn route_config(_: &mut Pass<'_>, _: &pb::config::route::v3::RouteConfiguration) -> Option<RouteConfig> { None }
