//! Serial numbers of certificates that hold no longer: those that hold for any issuer, and those of
//! issuers' lists. Never knows whether a list is its issuer's.

use std::collections::{BTreeMap, BTreeSet};

/// Serial numbers of a list.
const MAX_SERIALS: usize = 65_536;
/// Bytes of a serial number (RFC 5280, 4.1.2.2).
const MAX_SERIAL: usize = 20;

/// Revoked serial numbers: big-endian, without zeros in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Of any issuer.
    serials: BTreeSet<Vec<u8>>,
    /// By the issuer's name in DER, within which alone a serial number is unique. Their files bound
    /// them.
    listed: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
}

impl Revoked {
    /// Reads a list: a serial number a line in hexadecimal, with or without colons, as `openssl
    /// x509 -serial` prints it; `#` begins a comment.
    ///
    /// # Errors
    /// The first line that is none, or there are more than 65,536.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut serials = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let serial = serial(content).ok_or_else(|| {
                let line = index + 1;
                format!("line {line}: is no serial number; write it in hexadecimal")
            })?;
            serials.insert(serial);
            if serials.len() > MAX_SERIALS {
                return Err(format!(
                    "holds more than {MAX_SERIALS} serial numbers; take those away whose certificates have ended"
                ));
            }
        }
        Ok(Self {
            serials,
            listed: BTreeMap::new(),
        })
    }

    /// Adds serial numbers of any issuer.
    ///
    /// # Errors
    /// There are more than 65,536.
    pub fn extend<'a>(
        &mut self,
        serials: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), String> {
        for serial in serials {
            self.serials.insert(without_zeros(serial).to_vec());
            if self.serials.len() > MAX_SERIALS {
                return Err(format!("holds more than {MAX_SERIALS} serial numbers"));
            }
        }
        Ok(())
    }

    /// Adds what a list of this issuer holds. `issuer`: its name in DER.
    pub(crate) fn list<'a>(&mut self, issuer: &[u8], serials: impl IntoIterator<Item = &'a [u8]>) {
        let listed = self.listed.entry(issuer.to_vec()).or_default();
        listed.extend(serials.into_iter().map(|one| without_zeros(one).to_vec()));
        if listed.is_empty() {
            self.listed.remove(issuer);
        }
    }

    /// Whether a serial number is among those of any issuer.
    pub fn contains(&self, serial: &[u8]) -> bool {
        !self.serials.is_empty() && self.serials.contains(without_zeros(serial))
    }

    /// Whether it is on a list of this issuer. `issuer`: its name in DER.
    pub fn lists(&self, issuer: &[u8], serial: &[u8]) -> bool {
        let listed = self.listed.get(issuer);
        listed.is_some_and(|listed| listed.contains(without_zeros(serial)))
    }

    /// Whether anything is on an issuer's list.
    pub fn has_lists(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Those of any issuer.
    pub fn serials(&self) -> Vec<Vec<u8>> {
        self.serials.iter().cloned().collect()
    }

    /// How many there are, with those of lists.
    pub fn len(&self) -> usize {
        let listed: usize = self.listed.values().map(BTreeSet::len).sum();
        self.serials.len() + listed
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.listed.is_empty()
    }
}

fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

fn serial(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("serial=").unwrap_or(text);
    let mut digits = Vec::new();
    for character in text.chars().filter(|c| *c != ':') {
        digits.push(u8::try_from(character.to_digit(16)?).ok()?);
    }
    if digits.is_empty() || digits.len() > 2 * MAX_SERIAL {
        return None;
    }
    if digits.len() % 2 == 1 {
        digits.insert(0, 0);
    }
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?))
        .collect();
    let serial = without_zeros(&bytes);
    (!serial.is_empty()).then(|| serial.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serial_numbers_are_read_in_the_forms_of_openssl() {
        let list = Revoked::parse("# lost laptop\n0A:ff\nserial=0102  # stolen\n\n7\n");
        let list = list.expect("valid");
        assert_eq!(list.serials(), [vec![1, 2], vec![7], vec![10, 255]]);
        assert!(list.contains(&[0, 10, 255]) && !list.contains(&[10]));
        for bad in ["xyz", "0", &"1".repeat(41), "serial="] {
            let error = Revoked::parse(&format!("1\n{bad}\n")).expect_err(bad);
            assert!(error.starts_with("line 2:"), "{error}");
        }
    }

    #[test]
    fn a_list_holds_for_its_issuer_only() {
        let mut revoked = Revoked::parse("7").expect("valid");
        revoked.list(b"one", [&[0, 5][..], &[6]]);
        revoked.list(b"two", [&[5][..]]);
        revoked.list(b"none", []);
        assert_eq!((revoked.len(), revoked.serials()), (4, vec![vec![7]]));
        assert!(revoked.lists(b"one", &[5]) && revoked.lists(b"one", &[0, 6]));
        assert!(revoked.lists(b"two", &[5]) && !revoked.lists(b"two", &[6]));
        assert!(!revoked.lists(b"none", &[5]) && !revoked.lists(b"one", &[7]));
        assert!(revoked.contains(&[7]) && !revoked.contains(&[5]));
        let mut empty = Revoked::default();
        empty.list(b"none", []);
        assert!(empty.is_empty() && !empty.has_lists());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
            let _ = Revoked::parse(&text);
        }
    }
}
