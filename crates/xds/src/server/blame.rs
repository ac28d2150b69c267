//! Which resources a NACK is about. The protocol gives only a message for people; Envoy and gRPC
//! put the names of the refused resources into it.

use std::sync::Arc;

use ahash::AHashSet;

/// The names that stand in the message as whole words. A name that occurs only inside a longer
/// one is not meant.
pub(super) fn named<'a>(message: &str, names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
    // An answer may offer a hundred thousand names: the message is taken apart once.
    let words: AHashSet<&str> = message
        .split(|c| !in_name(c))
        .flat_map(|word| [Some(word), word.strip_suffix(['.', ':'])])
        .flatten()
        .collect();
    let is_named = |name: &str| {
        if name.chars().all(in_name) {
            words.contains(name)
        } else {
            stands_in(message, name)
        }
    };
    names
        .filter(|name| !name.is_empty() && is_named(name))
        .cloned()
        .collect()
}

fn stands_in(message: &str, name: &str) -> bool {
    message.match_indices(name).any(|(start, found)| {
        let before = message[..start].chars().next_back();
        let mut after = message[start + found.len()..].chars();
        let (next, second) = (after.next(), after.next());
        let open_before = before.is_none_or(|c| !in_name(c));
        // A full stop or a colon ends a sentence unless the name goes on behind it.
        let open_after = match next {
            Some('.' | ':') => second.is_none_or(|c| !in_name(c)),
            Some(c) => !in_name(c),
            None => true,
        };
        open_before && open_after
    })
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '|' | '.' | '/' | ':' | '*' | '~' | '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(message: &str, all: &[&str]) -> Vec<String> {
        let all: Vec<Arc<str>> = all.iter().map(|name| Arc::from(*name)).collect();
        named(message, all.iter())
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn envoys_messages_name_the_refused() {
        let message = "Error adding/updating cluster(s) outbound|80||a.b: EDS cluster without \
                       eds_cluster_config, outbound|8080||a.b: bad";
        assert_eq!(
            names(
                message,
                &[
                    "outbound|80||a.b",
                    "outbound|8080||a.b",
                    "outbound|80||a",
                    "b"
                ]
            ),
            ["outbound|80||a.b", "outbound|8080||a.b"]
        );
        assert_eq!(
            names(
                "Error adding/updating listener(s) 0.0.0.0_8080: x\n",
                &["0.0.0.0_80", "0.0.0.0_8080"]
            ),
            ["0.0.0.0_8080"]
        );
    }

    #[test]
    fn a_name_within_another_is_not_meant() {
        assert!(names("virtualInbound-x failed", &["virtualInbound", "x"]).is_empty());
        assert_eq!(names("failed: 'x'.", &["x"]), ["x"]);
        assert_eq!(names("cannot load x.", &["x"]), ["x"]);
    }

    #[test]
    fn words_are_what_stands_in_the_message() {
        let pieces = [
            "a", "a.b", "|", ".", ":", " ", "'", ",", "b", "-", "a:", "é",
        ];
        let mut state = 1_u64;
        for _ in 0..3_000 {
            let mut text = |length: u64| -> String {
                (0..length)
                    .map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        pieces[(state >> 33) as usize % pieces.len()]
                    })
                    .collect()
            };
            let (message, name) = (text(8), text(2));
            let found = !names(&message, &[&name]).is_empty();
            assert_eq!(found, stands_in(&message, &name), "{name:?} in {message:?}");
        }
    }
}
