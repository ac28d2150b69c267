//! Addresses for services of `ServiceEntries` that have none of their own, so that a proxy which
//! answers its workload's DNS queries can tell them apart. The same services get the same
//! addresses on every replica and after every restart: places are found by hash, and where two
//! want one place the older service has it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_model::{AddressRange, Kind, Resolution, Service, ServiceKey, Timestamp};

/// Places in the table, as in Istio.
const PLACES: u32 = 256 * 254;
/// A prime below it, for the second hash.
const PRIME: u32 = 65_011;
/// Label that keeps a `ServiceEntry` from getting addresses.
const OPT_OUT: &str = "networking.istio.io/enable-autoallocate-ip";

/// What a service means for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// It is to have addresses.
    Wants(Option<Timestamp>),
    /// It has these already.
    Has(Vec<IpAddr>),
}

/// Who has which addresses.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    claims: HashMap<ServiceKey, Claim>,
    given: HashMap<ServiceKey, [IpAddr; 2]>,
    is_stale: bool,
}

/// Whether a service may have addresses that its author did not write: one of a `ServiceEntry`
/// without any, which did not opt out, and whose endpoints are not chosen by address. A wildcard
/// has one only if names below it are looked up when they are called.
pub(crate) fn may_be_assigned(service: &Service) -> bool {
    let opted_out = service
        .labels
        .get(OPT_OUT)
        .is_some_and(|value| value.eq_ignore_ascii_case("false"));
    service.origin.kind == Kind::ServiceEntry
        && service.addresses.is_empty()
        && service.resolution != Resolution::Passthrough
        && (!service.hostname.is_wildcard() || service.resolution == Resolution::DynamicDns)
        && !opted_out
}

impl Allocator {
    /// Takes note of the service that has a host now.
    pub(super) fn note(&mut self, host: &ServiceKey, service: Option<&Service>) {
        let claim = service.and_then(claim_of);
        if self.claims.get(host) == claim.as_ref() {
            return;
        }
        match claim {
            Some(claim) => self.claims.insert(host.clone(), claim),
            None => self.claims.remove(host),
        };
        self.is_stale = true;
    }

    /// Works out the addresses anew if the claims are others; returns whose are different now.
    pub(super) fn settle(&mut self) -> BTreeSet<ServiceKey> {
        if !std::mem::take(&mut self.is_stale) {
            return BTreeSet::new();
        }
        let given = allocate(&self.claims);
        let different = |(host, addresses): (&ServiceKey, &[IpAddr; 2])| {
            (given.get(host) != Some(addresses)).then(|| host.clone())
        };
        let mut changed: BTreeSet<_> = self.given.iter().filter_map(different).collect();
        let new = given.keys().filter(|host| !self.given.contains_key(*host));
        changed.extend(new.cloned());
        self.given = given;
        changed
    }

    /// The service with the addresses that it was given.
    pub(super) fn assign(&self, service: Arc<Service>) -> Arc<Service> {
        match self.given.get(&service.key()) {
            Some(addresses) => {
                let mut service = Arc::unwrap_or_clone(service);
                service.assigned = addresses.to_vec();
                Arc::new(service)
            }
            None => service,
        }
    }
}

fn claim_of(service: &Service) -> Option<Claim> {
    if may_be_assigned(service) && service.assigned.is_empty() {
        return Some(Claim::Wants(service.created));
    }
    let written = service.addresses.iter().filter(|range| range.is_host());
    let written = written.map(|AddressRange { ip, .. }| *ip);
    let taken: Vec<IpAddr> = written
        .chain(service.assigned.iter().copied())
        .filter(is_ours)
        .collect();
    (!taken.is_empty()).then_some(Claim::Has(taken))
}

/// Whether an address lies where these are given out.
fn is_ours(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..2] == [240, 240],
        IpAddr::V6(ip) => ip.segments()[..3] == [0x2001, 2, 0],
    }
}

fn allocate(claims: &HashMap<ServiceKey, Claim>) -> HashMap<ServiceKey, [IpAddr; 2]> {
    let mut taken: HashSet<IpAddr> = HashSet::new();
    let mut wanting: BTreeSet<(Option<Timestamp>, &ServiceKey)> = BTreeSet::new();
    for (host, claim) in claims {
        match claim {
            Claim::Has(addresses) => taken.extend(addresses),
            Claim::Wants(created) => {
                wanting.insert((*created, host));
            }
        }
    }
    let mut given = HashMap::with_capacity(wanting.len());
    for (_, host) in wanting {
        let Some(addresses) = find(host, |address| taken.contains(&address)) else {
            // As in Istio, who comes too late has none.
            break;
        };
        taken.extend(addresses);
        given.insert(host.clone(), addresses);
    }
    given
}

/// The first free place of a host; `None` if there is none.
fn find(host: &ServiceKey, is_taken: impl Fn(IpAddr) -> bool) -> Option<[IpAddr; 2]> {
    let hash = fnv1a(&format!("{}/{}", host.namespace, host.hostname));
    let step = PRIME - hash % PRIME;
    let first = std::iter::once(hash % PLACES);
    let next = (1..PLACES).map(|i| hash.wrapping_add(i.wrapping_mul(step)) % (PLACES - 1));
    // The steps need not reach every place.
    let any = 0..PLACES;
    first.chain(next).chain(any).find_map(|place| {
        let addresses = addresses_of(place)?;
        let free = addresses.iter().all(|address| !is_taken(*address));
        free.then_some(addresses)
    })
}

/// The addresses of a place. Some have none, so that no address ends in 0 or 255 and the places
/// after them do not depend on who is there.
fn addresses_of(place: u32) -> Option<[IpAddr; 2]> {
    let high = u8::try_from((place + 1) / 255).ok()?;
    let low = u8::try_from((place + 1) % 255).ok()?;
    if low == 0 {
        return None;
    }
    let v4 = Ipv4Addr::new(240, 240, high, low);
    let last = u16::from_be_bytes([high, low]);
    let v6 = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, last);
    Some([v4.into(), v6.into()])
}

/// FNV-1a of 32 bits.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use weft_model::{Hostname, Namespace};

    use super::*;

    fn host(name: &str) -> ServiceKey {
        ServiceKey {
            hostname: Hostname::parse(name).expect("valid"),
            namespace: Namespace::new("shop"),
        }
    }

    fn wanting(names: impl IntoIterator<Item = String>) -> HashMap<ServiceKey, Claim> {
        let claim = |name: String| (host(&name), Claim::Wants(None));
        names.into_iter().map(claim).collect()
    }

    #[test]
    fn every_address_is_given_once_and_none_ends_in_0_or_255() {
        let claims = wanting((0..40_000).map(|i| format!("h{i}.example.com")));
        let given = allocate(&claims);
        assert_eq!(given.len(), 40_000);
        let all: HashSet<IpAddr> = given.values().flatten().copied().collect();
        assert_eq!(all.len(), 80_000);
        for ip in all {
            assert!(is_ours(&ip), "{ip}");
            if let IpAddr::V4(ip) = ip {
                assert!(!matches!(ip.octets()[3], 0 | 255), "{ip}");
            }
        }
    }

    #[test]
    fn who_comes_later_takes_no_address_from_who_is_there() {
        let mut claims: HashMap<ServiceKey, Claim> = (0..3000)
            .map(|i| {
                (
                    host(&format!("h{i}.example.com")),
                    Claim::Wants(Some(Timestamp(1))),
                )
            })
            .collect();
        let before = allocate(&claims);
        for i in 0..3000 {
            claims.insert(
                host(&format!("a{i}.example.com")),
                Claim::Wants(Some(Timestamp(2))),
            );
        }
        let after = allocate(&claims);
        assert_eq!(after.len(), 6000);
        assert!(before.iter().all(|(host, ip)| after.get(host) == Some(ip)));
    }

    #[test]
    fn what_is_written_is_not_given_out() {
        let claims = wanting(["a.example.com".to_owned()]);
        let first = allocate(&claims)[&host("a.example.com")];
        let mut claims = claims;
        claims.insert(host("b.example.com"), Claim::Has(first.to_vec()));
        let second = allocate(&claims)[&host("a.example.com")];
        assert!(first.iter().all(|ip| !second.contains(ip)), "{second:?}");
    }

    #[test]
    fn a_full_table_leaves_the_last_without() {
        let claims = wanting((0..PLACES).map(|i| format!("h{i}")));
        // One place in 255 has no address.
        let given = allocate(&claims);
        assert_eq!(given.len() as u32, PLACES - PLACES / 255);
    }

    #[test]
    fn hashes_are_fnv_1a() {
        assert_eq!(fnv1a(""), 0x811c_9dc5);
        assert_eq!(fnv1a("foobar"), 0xbf9c_f968);
    }
}
