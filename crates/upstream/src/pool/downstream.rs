//! Which hosts keep pools for a downstream connection, so that those go when it ends.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use ahash::AHashMap;

use super::HostPools;

/// Downstream connections that are remembered; the pools of others go when they are idle.
const MAX_DOWNSTREAMS: usize = 65_536;

/// Of one worker.
#[derive(Default)]
pub(crate) struct Downstreams(RefCell<AHashMap<u64, Vec<Weak<HostPools>>>>);

impl Downstreams {
    /// A host has a pool for this downstream connection.
    pub(crate) fn note(&self, downstream: u64, pools: &Rc<HostPools>) {
        let mut noted = self.0.borrow_mut();
        if noted.len() >= MAX_DOWNSTREAMS && !noted.contains_key(&downstream) {
            return;
        }
        let hosts = noted.entry(downstream).or_default();
        let known = |host: &Weak<HostPools>| std::ptr::eq(host.as_ptr(), Rc::as_ptr(pools));
        if !hosts.iter().any(known) {
            hosts.push(Rc::downgrade(pools));
        }
    }

    /// A downstream connection is over.
    pub(crate) fn ended(&self, downstream: u64) {
        let hosts = self.0.borrow_mut().remove(&downstream);
        for host in hosts.iter().flatten().filter_map(Weak::upgrade) {
            host.retire_downstream(downstream);
        }
    }
}
