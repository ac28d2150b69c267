//! A change of one header.

use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};

/// See the module.
#[derive(Debug, Clone)]
pub enum HeaderEdit {
    /// The value takes the place of all there are.
    Set(HeaderName, HeaderValue),
    /// Another value.
    Add(HeaderName, HeaderValue),
    /// Joined by a comma to the value there is; nothing if there is none.
    Join(HeaderName, HeaderValue),
    /// Only if there is none.
    AddIfAbsent(HeaderName, HeaderValue),
    /// Only if there is one.
    Replace(HeaderName, HeaderValue),
}

impl HeaderEdit {
    /// Makes the change.
    pub fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => {
                headers.insert(name, value);
            }
            Self::Add(name, value) => {
                headers.append(name, value);
            }
            Self::Join(name, value) => {
                if let Entry::Occupied(mut entry) = headers.entry(name) {
                    let both = [entry.get().as_bytes(), value.as_bytes()].join(&b","[..]);
                    if let Ok(both) = HeaderValue::from_bytes(&both) {
                        entry.insert(both);
                    }
                }
            }
            Self::AddIfAbsent(name, value) => {
                headers.entry(name).or_insert(value);
            }
            Self::Replace(name, value) => {
                if headers.contains_key(&name) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_edit_does_its_own() {
        let name = HeaderName::from_static("x");
        let value = || HeaderValue::from_static("b");
        type Make = fn(HeaderName, HeaderValue) -> HeaderEdit;
        for (make, to_none, to_one) in [
            (HeaderEdit::Set as Make, vec!["b"], vec!["b"]),
            (HeaderEdit::Add, vec!["b"], vec!["a", "b"]),
            (HeaderEdit::Join, vec![], vec!["a,b"]),
            (HeaderEdit::AddIfAbsent, vec!["b"], vec!["a"]),
            (HeaderEdit::Replace, vec![], vec!["b"]),
        ] {
            for (before, wanted) in [(None, to_none), (Some("a"), to_one)] {
                let mut headers = HeaderMap::new();
                if let Some(before) = before {
                    headers.insert(&name, HeaderValue::from_static(before));
                }
                make(name.clone(), value()).apply(&mut headers);
                let after: Vec<_> = headers.get_all(&name).iter().collect();
                assert_eq!(after, wanted, "{:?}", make(name.clone(), value()));
            }
        }
    }
}
