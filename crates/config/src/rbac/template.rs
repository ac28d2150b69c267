//! URI path templates: `/a/*/b`, `/a/**`, `/a/{name}/b.json`.
//!
//! Source: Envoy, `uri_template.v3.UriTemplateMatchConfig`.

use crate::matching::RegexMatch;

/// What a wildcard matches in a segment: what a path may have (RFC 3986, appendix A) without `*`.
const PART: &str = "-a-zA-Z0-9._~%!$&'()+,;:@=";
/// Variables in a template.
const MAX_VARIABLES: usize = 5;
/// Length of a variable's name.
const MAX_NAME: usize = 16;

/// A compiled template.
#[derive(Debug, Clone, PartialEq)]
pub struct UriTemplate(RegexMatch);

/// Reads a template from left to right.
struct Reader<'t> {
    rest: &'t str,
    regex: String,
    names: Vec<&'t str>,
    /// After `**` no other wildcard may come.
    ended: bool,
}

impl UriTemplate {
    /// Compiles a template; the error says what is wrong with it.
    pub fn new(template: &str) -> Result<Self, String> {
        let rest = template
            .strip_prefix('/')
            .filter(|rest| rest.bytes().all(|byte| byte.is_ascii_graphic()));
        let Some(rest) = rest else {
            return Err("must begin with `/` and have printable characters only".to_owned());
        };
        let mut reader = Reader {
            rest,
            regex: "/".to_owned(),
            names: Vec::new(),
            ended: false,
        };
        while !reader.rest.is_empty() {
            let before = reader.rest.len();
            reader.piece()?;
            if let Some(after) = reader.rest.strip_prefix('/') {
                reader.rest = after;
                reader.regex.push('/');
            }
            if reader.rest.len() == before {
                return Err(format!("cannot be read at `{}`", reader.rest));
            }
        }
        RegexMatch::new(&reader.regex).map(Self)
    }

    /// Whether a path without query matches.
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path.as_bytes())
    }
}

impl<'t> Reader<'t> {
    /// A wildcard, a variable or a literal.
    fn piece(&mut self) -> Result<(), String> {
        if self.rest.starts_with('*') {
            return self.wildcard();
        }
        if let Some(after) = self.rest.strip_prefix('{') {
            let Some((inner, after)) = after.split_once('}') else {
                return Err("has `{` without `}`".to_owned());
            };
            let (name, pattern) = match inner.split_once('=') {
                Some((name, pattern)) => (name, Some(pattern)),
                None => (inner, None),
            };
            self.name(name)?;
            return self.variable(pattern, after);
        }
        let end = self.rest.find(['/', '{', '*']).unwrap_or(self.rest.len());
        let (literal, after) = self.rest.split_at(end);
        self.rest = after;
        self.literal(literal)
    }

    fn name(&mut self, name: &'t str) -> Result<(), String> {
        let mut letters = name.bytes();
        let good = letters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !good || name.len() > MAX_NAME {
            return Err(format!(
                "has the variable {name:?}; names have 1 to {MAX_NAME} letters, digits and `_`, a letter first"
            ));
        }
        if self.names.contains(&name) || self.names.len() == MAX_VARIABLES {
            return Err(format!(
                "has the variable {name:?} twice, or more than {MAX_VARIABLES}"
            ));
        }
        self.names.push(name);
        Ok(())
    }

    /// What a variable stands for; without a pattern a segment.
    fn variable(&mut self, pattern: Option<&'t str>, after: &'t str) -> Result<(), String> {
        self.rest = pattern.unwrap_or("*");
        if self.rest.is_empty() {
            return Err("has a variable with an empty pattern".to_owned());
        }
        self.regex.push_str("(?:");
        loop {
            if self.rest.starts_with('*') {
                self.wildcard()?;
            } else {
                let end = self.rest.find('/').unwrap_or(self.rest.len());
                let (literal, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.literal(literal)?;
            }
            if self.rest.is_empty() {
                break;
            }
            match self.rest.strip_prefix('/').filter(|rest| !rest.is_empty()) {
                Some(rest) => self.rest = rest,
                None => return Err("has a variable whose pattern cannot be read".to_owned()),
            }
            self.regex.push('/');
        }
        self.regex.push(')');
        self.rest = after;
        Ok(())
    }

    fn wildcard(&mut self) -> Result<(), String> {
        if self.ended {
            return Err("has a wildcard after `**`".to_owned());
        }
        let (wildcard, rest) = match self.rest.strip_prefix("**") {
            Some(rest) => (format!("[{PART}/]*"), rest),
            None => (
                format!("[{PART}]+"),
                self.rest.strip_prefix('*').unwrap_or_default(),
            ),
        };
        self.ended = self.rest.starts_with("**");
        self.regex.push_str(&wildcard);
        self.rest = rest;
        Ok(())
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@".contains(&byte);
        if literal.is_empty() || !literal.bytes().all(known) {
            return Err(format!("has a segment that is no literal: {literal:?}"));
        }
        for letter in literal.chars() {
            if !letter.is_ascii_alphanumeric() {
                self.regex.push('\\');
            }
            self.regex.push(letter);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_by_segments() {
        for (template, path, wanted) in [
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/*", "/a/", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/{x}/c", "/a/b/c", true),
            ("/a/{x}/c", "/a//c", false),
            ("/a/{x=b/*}/c", "/a/b/z/c", true),
            ("/a/{x=b/*}/c", "/a/c/z/c", false),
            ("/a/{x=**}", "/a/b/c/d", true),
            ("/**.mpd", "/content/x.mpd", true),
            ("/**.mpd", "/content/x_mpd", false),
            ("/v{version}/{id}.json", "/v2/9.json", true),
            ("/v{version}/{id}.json", "/v/9.json", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/a.b", "/a.b", true),
            ("/a.b", "/axb", false),
            ("/a/*", "/a/b=c", true),
        ] {
            let compiled = UriTemplate::new(template).expect(template);
            assert_eq!(compiled.matches(path), wanted, "{template} {path}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for template in [
            "",
            "a",
            "/a/{",
            "/{1}",
            "/{x}/{x}",
            "/**/*",
            "/{x=**}/{y}",
            "/{x=}",
            "/{x=a/}",
            "/a=b",
            "//a",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/{abcdefghijklmnopq}",
            "/a b",
        ] {
            assert!(UriTemplate::new(template).is_err(), "{template}");
        }
    }
}
