//! When a certificate is renewed.

use std::time::Duration;

/// Parts of the middle tenth of a life.
const PARTS: u32 = 256;

/// How long after its issue a certificate that lasts `life` is renewed: at half of its life, give or
/// take a twentieth of it, so that those who began together do not come back together.
pub fn renewal(life: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers it is only less even.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [part] = random;
    life * 9 / 20 + life / 10 * u32::from(part) / PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_lie_around_half_of_the_life_and_apart() {
        let life = Duration::from_hours(24);
        let mut seen: Vec<Duration> = (0..200).map(|_| renewal(life)).collect();
        assert!(
            seen.iter()
                .all(|at| *at >= life * 9 / 20 && *at < life * 11 / 20)
        );
        seen.sort();
        seen.dedup();
        assert!(seen.len() > 50, "{}", seen.len());
    }
}
