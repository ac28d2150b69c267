//! Times on the command line.

use std::str::FromStr;
use std::time::Duration;

/// A time with its unit, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(pub(crate) Option<Duration>);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Age(None));
        }
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err("give a number with s, m or h, such as 30m, or `never`".to_owned()),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| "give a number with s, m or h, such as 30m".to_owned())?;
        match number.checked_mul(seconds) {
            Some(seconds @ 1..=31_536_000) => Ok(Age(Some(Duration::from_secs(seconds)))),
            _ => Err("give a time from 1s to 8760h (a year), or `never`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        let age = |text: &str| text.parse::<Age>().map(|age| age.0.map(|it| it.as_secs()));
        assert_eq!(age("30m"), Ok(Some(1800)));
        assert_eq!(age("90s"), Ok(Some(90)));
        assert_eq!(age("1h"), Ok(Some(3600)));
        assert_eq!(age("never"), Ok(None));
        for wrong in [
            "",
            "30",
            "0s",
            "-1m",
            "1.5h",
            "h",
            "8761h",
            "99999999999999999999h",
            "5d",
        ] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
