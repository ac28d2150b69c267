//! Which addresses of a service proxies know. Must never know what is made of them.

use std::net::IpAddr;

use weft_model::{AddressRange, Service};

use super::key::Scope;
pub(crate) use crate::generate::networks::Families;

impl Scope {
    /// The virtual addresses of a service: its own, else those that it was given, if the proxies
    /// answer DNS queries with these.
    pub(super) fn addresses(&self, service: &Service) -> Vec<AddressRange> {
        if !service.addresses.is_empty() {
            return service.addresses.clone();
        }
        let assigned = service.assigned.iter().copied();
        let known = assigned.filter(|ip| self.assigned.contain(*ip));
        known.map(AddressRange::host).collect()
    }

    /// Whether there are any.
    pub(super) fn has_address(&self, service: &Service) -> bool {
        let mut assigned = service.assigned.iter();
        !service.addresses.is_empty() || assigned.any(|ip| self.assigned.contain(*ip))
    }

    /// Those that are no ranges.
    pub(super) fn host_addresses(&self, service: &Service) -> Vec<IpAddr> {
        let all = self.addresses(service).into_iter();
        all.filter(AddressRange::is_host).map(|a| a.ip).collect()
    }
}
