//! Expressions in RE2's syntax and what may take the place of their matches, as Envoy reads them.

use regex::bytes::{Regex, RegexBuilder};

/// Compiled programs larger than this are refused.
const SIZE_LIMIT: usize = 4 << 20;

/// Compiles as RE2 reads it: `\d`, `\w` and `\b` are ASCII. Only an expression that names characters
/// beyond ASCII is compiled in Unicode mode; the flag says whether it is.
pub fn compile(expression: &str) -> Result<(Regex, bool), String> {
    let build = |unicode| {
        RegexBuilder::new(expression)
            .unicode(unicode)
            .size_limit(SIZE_LIMIT)
            .build()
    };
    if expression.is_ascii()
        && let Ok(compiled) = build(false)
    {
        return Ok((compiled, false));
    }
    build(true)
        .map(|compiled| (compiled, true))
        .map_err(|error| error.to_string())
}

/// One part of a substitution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Literal(Vec<u8>),
    /// What a group matched; 0 is the whole match.
    Group(usize),
}

/// Takes a substitution apart (`\1` is the first group). One that names a group which the
/// expression lacks is an error; `groups` counts the whole match too.
pub fn pieces(substitution: &str, groups: usize) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let index = usize::from(digit - b'0');
                if index >= groups {
                    return Err(format!(
                        "substitution names group \\{index}, which the pattern lacks"
                    ));
                }
                out.push(Piece::Literal(std::mem::take(&mut literal)));
                out.push(Piece::Group(index));
            }
            _ => {
                return Err(
                    "substitution has a \\ that is neither \\\\ nor a group's digit".to_owned(),
                );
            }
        }
    }
    out.push(Piece::Literal(literal));
    Ok(out)
}

/// Why an expression and its substitution do not go together, if they do not.
pub fn check_substitution(pattern: &str, substitution: &str) -> Result<(), String> {
    let (compiled, _) = compile(pattern)?;
    pieces(substitution, compiled.captures_len()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_substitution_names_only_groups_that_there_are() {
        for (pattern, substitution) in [("^/a", "\\0"), ("^/(a)", "/\\1"), ("a", "\\\\")] {
            assert_eq!(check_substitution(pattern, substitution), Ok(()));
        }
        for (pattern, substitution) in [("^/a", "\\1"), ("(a)", "\\2"), ("a", "\\x"), ("a", "\\")] {
            assert!(check_substitution(pattern, substitution).is_err());
        }
    }
}
