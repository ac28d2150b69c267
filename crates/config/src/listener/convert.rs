use crate::pass::Pass; use crate::pb; use super::*;
pub(crate) fn listener(_: &mut Pass<'_>, _: &pb::config::listener::v3::Listener) -> Option<Listener> { None }
