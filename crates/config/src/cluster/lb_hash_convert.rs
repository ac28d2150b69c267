//! Balancing by hash, old fields and typed policies → ring and table.

use super::lb::{HashFunction, LbCommon, LbPolicy, LocalityBalancing};
use super::lb_convert::Typed;
use crate::extension::decode;
use crate::pass::Pass;
use crate::pb;
use pb::config::cluster::v3 as cluster;
use pb::extensions::load_balancing_policies as policies;
use policies::common::v3 as common;

const MAX_RING: u64 = 8 << 20;
const DEFAULT_TABLE: u64 = 65_537;
const MAX_TABLE: u64 = 5_000_011;

fn ring(
    p: &mut Pass<'_>,
    min: Option<u64>,
    max: Option<u64>,
    function: HashFunction,
) -> Option<LbPolicy> {
    let (min_size, max_size) = (min.unwrap_or(1024), max.unwrap_or(MAX_RING));
    if max_size > MAX_RING {
        p.refuse_field("maximum_ring_size", format!("must be at most {MAX_RING}"));
    }
    if min_size > max_size {
        p.refuse_field("minimum_ring_size", "must be at most maximum_ring_size");
    }
    Some(LbPolicy::RingHash {
        min_size,
        max_size,
        function,
    })
}

pub(super) fn old_ring_hash(
    p: &mut Pass<'_>,
    message: &cluster::cluster::RingHashLbConfig,
) -> Option<LbPolicy> {
    use cluster::cluster::ring_hash_lb_config::HashFunction as Pb;
    let cluster::cluster::RingHashLbConfig {
        minimum_ring_size,
        hash_function,
        maximum_ring_size,
    } = message;
    let function = match p.enumeration("hash_function", *hash_function)? {
        Pb::XxHash => HashFunction::XxHash,
        Pb::MurmurHash2 => HashFunction::Murmur2,
    };
    ring(
        p,
        minimum_ring_size.map(|v| v.value),
        maximum_ring_size.map(|v| v.value),
        function,
    )
}

pub(super) fn typed_ring_hash(p: &mut Pass<'_>, bytes: &[u8]) -> Option<Typed> {
    use policies::ring_hash::v3::{RingHash, ring_hash::HashFunction as Pb};
    let RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = decode(p, bytes)?;
    let function = match p.enumeration("hash_function", hash_function)? {
        Pb::DefaultHash | Pb::XxHash => HashFunction::XxHash,
        Pb::MurmurHash2 => HashFunction::Murmur2,
    };
    let policy = ring(
        p,
        minimum_ring_size.map(|v| v.value),
        maximum_ring_size.map(|v| v.value),
        function,
    )?;
    let mut out = LbCommon {
        use_hostname_for_hashing,
        ..LbCommon::default()
    };
    balance_factor(p, hash_balance_factor.as_ref(), &mut out);
    consistent(p, consistent_hashing_lb_config.as_ref(), &mut out);
    if locality_weighted_lb_config.is_some() {
        out.locality = LocalityBalancing::Weighted;
    }
    Some((policy, out))
}

pub(super) fn maglev(p: &mut Pass<'_>, size: Option<&pb::google::UInt64Value>) -> Option<LbPolicy> {
    let table_size = size.map_or(DEFAULT_TABLE, |size| size.value);
    if table_size > MAX_TABLE || !is_prime(table_size) {
        p.refuse_field(
            "table_size",
            format!("must be a prime of at most {MAX_TABLE}"),
        );
        return None;
    }
    Some(LbPolicy::Maglev { table_size })
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..=number.isqrt()).all(|d| !number.is_multiple_of(d))
}

pub(super) fn consistent(
    p: &mut Pass<'_>,
    message: Option<&common::ConsistentHashingLbConfig>,
    out: &mut LbCommon,
) {
    p.opt("consistent_hashing_lb_config", message, |p, config| {
        let common::ConsistentHashingLbConfig {
            use_hostname_for_hashing,
            hash_balance_factor,
            hash_policy,
        } = config;
        unsupported!(p; hash_policy);
        out.use_hostname_for_hashing |= use_hostname_for_hashing;
        balance_factor(p, hash_balance_factor.as_ref(), out);
        Some(())
    });
}

pub(super) fn balance_factor(
    p: &mut Pass<'_>,
    value: Option<&pb::google::UInt32Value>,
    out: &mut LbCommon,
) {
    if let Some(factor) = value {
        if factor.value < 100 {
            p.refuse_field("hash_balance_factor", "must be at least 100");
        }
        out.hash_balance_factor = Some(factor.value);
    }
}
