//! "Did you mean": the nearest of the names that would have been right.

use prost_reflect::MessageDescriptor;

use super::{Naming, normalised};

/// More names than this do not help in a message.
const MOST_LISTED: usize = 12;
/// Names longer than this are not compared: nobody misspells them, machines made them.
const LONGEST_COMPARED: usize = 64;

/// The message for a field that does not exist.
pub(super) fn unknown_field(key: &str, descriptor: &MessageDescriptor, naming: Naming) -> String {
    let snake = key.contains('_') || (naming == Naming::Proto && !key.contains(char::is_uppercase));
    let names: Vec<String> = descriptor
        .fields()
        .map(|field| {
            if snake {
                field.name()
            } else {
                field.json_name()
            }
            .to_owned()
        })
        .collect();
    let shown: String = key.chars().take(LONGEST_COMPARED).collect();
    if let Some(name) = closest(key, names.iter().map(String::as_str)) {
        return format!("unknown field {shown:?}, did you mean {name:?}?");
    }
    let message = format!("unknown field {shown:?} in {}", descriptor.name());
    match names.len() {
        0 => format!("{message}, which has no fields"),
        1..=MOST_LISTED => format!("{message}, which has {}", names.join(", ")),
        _ => message,
    }
}

/// The candidate nearest to a word, if one is near enough to be meant by it.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = normalised(word);
    if bare.is_empty() || bare.len() > LONGEST_COMPARED {
        return None;
    }
    let allowed = (bare.len() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (distance(&bare, &normalised(candidate), allowed), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour; more
/// than `enough` is not counted exactly.
fn distance(a: &str, b: &str, enough: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > enough {
        return enough + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            // All indices are below the lengths that the rows were made with.
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let names = ["perTryTimeout", "attempts", "retryOn", "backoff"];
        for (word, meant) in [
            ("perTryTimout", Some("perTryTimeout")),
            ("per_try_timeout", Some("perTryTimeout")),
            ("retyrOn", Some("retryOn")),
            ("attempt", Some("attempts")),
            ("RETRYON", Some("retryOn")),
            ("x", None),
            ("timeout", None),
            ("", None),
        ] {
            assert_eq!(closest(word, names.into_iter()), meant, "{word}");
        }
    }
}
