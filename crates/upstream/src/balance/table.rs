//! Consistent hashing: a ring of weighted points, and Maglev's permutation table. Built from
//! the names and weights of the hosts alone, so that every worker and every proxy that sees
//! the same hosts sends the same hash to the same host.

use weft_config::cluster::HashFunction;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A host as the tables see it.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) weight: f64,
}

/// What maps a hash to an item.
#[derive(Debug)]
pub(crate) enum Table {
    /// Points in ascending order with their items.
    Ring(Vec<(u64, u32)>),
    /// Items by slot.
    Maglev(Vec<u32>),
}

impl Table {
    /// A ring in which the item with the least weight has about `min_size` × its share of
    /// points, and which has at most `max_size` points (Envoy: 1024 and 8M).
    pub(crate) fn ring(
        hosts: &[Named],
        (min_size, max_size): (u64, u64),
        function: HashFunction,
    ) -> Self {
        let total: f64 = hosts.iter().map(|h| h.weight).sum();
        if hosts.is_empty() || total <= 0.0 {
            return Self::Ring(Vec::new());
        }
        let least = hosts.iter().map(|h| h.weight / total).fold(1.0, f64::min);
        // Ketama's scale: enough points that the lightest host has whole ones.
        let scale = ((least * min_size as f64).ceil() / least).min(max_size as f64);
        let mut points = Vec::with_capacity(scale as usize + hosts.len());
        let (mut wanted, mut made) = (0.0, 0.0);
        for (item, host) in (0..).zip(hosts) {
            wanted += scale * host.weight / total;
            let mut replica = 0_u64;
            while made < wanted {
                points.push((point(&host.name, replica, function), item));
                replica += 1;
                made += 1.0;
            }
        }
        points.sort_unstable();
        Self::Ring(points)
    }

    /// Maglev's table of `size` slots, a prime (Envoy: 65537). Heavier items take more turns.
    pub(crate) fn maglev(hosts: &[Named], size: u64) -> Self {
        let size = size.max(1);
        let heaviest = hosts.iter().map(|h| h.weight).fold(0.0, f64::max);
        if hosts.is_empty() || heaviest <= 0.0 {
            return Self::Maglev(Vec::new());
        }
        struct Turn {
            offset: u64,
            skip: u64,
            next: u64,
            credit: f64,
        }
        let mut turns: Vec<Turn> = hosts
            .iter()
            .map(|host| Turn {
                offset: xxh3_64(host.name.as_bytes()) % size,
                skip: xxh3_64_with_seed(host.name.as_bytes(), 1) % size.saturating_sub(1).max(1)
                    + 1,
                next: 0,
                credit: 0.0,
            })
            .collect();
        const FREE: u32 = u32::MAX;
        let mut slots = vec![FREE; usize::try_from(size).unwrap_or(1)];
        let mut filled = 0;
        while filled < slots.len() {
            for (item, (turn, host)) in (0..).zip(turns.iter_mut().zip(hosts)) {
                turn.credit += host.weight / heaviest;
                if turn.credit < 1.0 {
                    continue;
                }
                turn.credit -= 1.0;
                // Ends: skip and the prime size have no common divisor, so that every slot
                // comes up, and one is free.
                for _ in 0..=size {
                    let at = (turn.offset + turn.skip.wrapping_mul(turn.next)) % size;
                    turn.next = (turn.next + 1) % size;
                    if let Some(slot) = slots.get_mut(at as usize)
                        && *slot == FREE
                    {
                        *slot = item;
                        filled += 1;
                        break;
                    }
                }
                if filled == slots.len() {
                    break;
                }
            }
        }
        Self::Maglev(slots)
    }

    /// The item of a hash. Further `attempts` give the items after it, for retries.
    pub(crate) fn pick(&self, hash: u64, attempt: u32) -> Option<u32> {
        match self {
            Self::Ring(points) => {
                let at = points.partition_point(|(point, _)| *point < hash);
                let at = (at + attempt as usize) % points.len().max(1);
                points.get(at).map(|(_, item)| *item)
            }
            Self::Maglev(slots) => {
                let hash = hash ^ !u64::from(attempt).wrapping_sub(1);
                let at = hash % (slots.len() as u64).max(1);
                slots.get(at as usize).copied()
            }
        }
    }
}

fn point(name: &str, replica: u64, function: HashFunction) -> u64 {
    match function {
        HashFunction::XxHash => xxh3_64_with_seed(name.as_bytes(), replica),
        HashFunction::Murmur2 => murmur2(format!("{name}_{replica}").as_bytes()),
    }
}

/// `MurmurHash64A` by Austin Appleby, with the seed of libstdc++'s `std::hash`.
fn murmur2(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        let word = (word ^ (word >> 47)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let little_endian = rest.iter().rev();
        let last = little_endian.fold(0, |sum: u64, byte| (sum << 8) | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(hosts: &[Named], min: u64, max: u64) -> Table {
        Table::ring(hosts, (min, max), HashFunction::XxHash)
    }

    #[test]
    fn murmur_is_that_of_libstdcxx() {
        // Values that g++'s std::hash<std::string> gives.
        assert_eq!(murmur2(b""), 6_142_509_188_972_423_790);
        assert_eq!(murmur2(b"a"), 4_993_892_634_952_068_459);
    }

    fn hosts(weights: &[f64]) -> Vec<Named> {
        let named = |(i, weight): (usize, &f64)| Named {
            name: format!("10.0.0.{i}:80"),
            weight: *weight,
        };
        weights.iter().enumerate().map(named).collect()
    }

    fn shares(table: &Table, items: usize) -> Vec<f64> {
        let mut counts = vec![0.0; items];
        for key in 0..100_000_u64 {
            let item = table.pick(xxh3_64(&key.to_le_bytes()), 0).unwrap();
            counts[item as usize] += 1.0 / 100_000.0;
        }
        counts
    }

    #[test]
    fn shares_follow_weights() {
        let weighted = hosts(&[1.0, 2.0, 1.0]);
        for (table, tolerance) in [
            (ring(&weighted, 4096, 1 << 23), 0.04),
            (Table::maglev(&weighted, 65_537), 0.01),
        ] {
            for (got, want) in shares(&table, 3).iter().zip([0.25, 0.5, 0.25]) {
                assert!((got - want).abs() < tolerance, "{got} {want}");
            }
        }
    }

    #[test]
    fn removing_a_host_moves_few_other_keys() {
        // A ring of a given size has more points a host when there are fewer hosts.
        let (before, after) = (hosts(&[1.0; 10]), hosts(&[1.0; 9]));
        for (a, b, limit) in [
            (
                ring(&before, 1024, 1 << 23),
                ring(&after, 1024, 1 << 23),
                0.12,
            ),
            (
                Table::maglev(&before, 65_537),
                Table::maglev(&after, 65_537),
                0.05,
            ),
        ] {
            let moved = (0..20_000_u64)
                .filter(|key| {
                    let hash = xxh3_64(&key.to_le_bytes());
                    let old = a.pick(hash, 0).unwrap();
                    old != 9 && old != b.pick(hash, 0).unwrap()
                })
                .count();
            assert!((moved as f64) / 20_000.0 < limit, "{moved}");
        }
    }

    #[test]
    fn nothing_maps_to_nothing_and_sizes_are_bounded() {
        assert_eq!(ring(&[], 1024, 4096).pick(7, 0), None);
        assert_eq!(Table::maglev(&[], 65_537).pick(7, 0), None);
        let Table::Ring(points) = ring(&hosts(&[1.0, 1000.0]), 1024, 2000) else {
            unreachable!("`ring` makes rings")
        };
        assert!(points.len() <= 2001);
    }
}
