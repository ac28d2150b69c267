//! The syntax of the Common Expression Language (cel-spec, "Grammar"), as the filters of access logs
//! are written. Must never know what names an expression may use: that is for who evaluates it.

/// Expressions within each other beyond this are refused.
const MAX_DEPTH: usize = 64;

/// Whether a text is an expression.
///
/// # Errors
/// Where it is none, and what was expected there.
pub fn check(text: &str) -> Result<(), String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
    };
    parser.expression(0)?;
    match parser.next() {
        None => Ok(()),
        Some(token) => Err(format!("{token:?} is not expected after an expression")),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Literal,
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 26] = [
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}", "=", "&",
];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        let Some(first) = rest.chars().next() else {
            return Ok(tokens);
        };
        if let Some(after) = string(rest)? {
            tokens.push(Token::Literal);
            rest = after;
        } else if first.is_ascii_digit() {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '.';
            let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
            let (mut number, mut after) = rest.split_at(end);
            // The sign of an exponent.
            if number.ends_with(['e', 'E'])
                && !number.starts_with("0x")
                && after.starts_with(['+', '-'])
            {
                let more = after[1..].find(|c: char| !c.is_ascii_digit());
                let end = end + 1 + more.unwrap_or(after.len() - 1);
                (number, after) = rest.split_at(end);
            }
            let plain = number.trim_end_matches(['u', 'U']);
            let hexadecimal = plain
                .strip_prefix("0x")
                .or_else(|| plain.strip_prefix("0X"));
            let fine = hexadecimal.map_or_else(
                || plain.parse::<f64>().is_ok(),
                |digits| u64::from_str_radix(digits, 16).is_ok(),
            );
            if !fine {
                return Err(format!("{number:?} is no number"));
            }
            tokens.push(Token::Literal);
            rest = after;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, after) = rest.split_at(rest.find(|c| !fits(c)).unwrap_or(rest.len()));
            tokens.push(match name {
                "true" | "false" | "null" => Token::Literal,
                name => Token::Name(name.to_owned()),
            });
            rest = after;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            return Err(format!("{first:?} is not expected"));
        }
    }
}

/// What follows a string that the text begins with.
fn string(text: &str) -> Result<Option<&str>, String> {
    let body = text.trim_start_matches(['r', 'R', 'b', 'B']);
    let prefix = &text[..text.len() - body.len()];
    let quote = ["\"\"\"", "'''", "\"", "'"];
    let Some(quote) = quote.into_iter().find(|quote| body.starts_with(quote)) else {
        return Ok(None);
    };
    if prefix.len() > 2 {
        return Ok(None);
    }
    let raw = prefix.contains(['r', 'R']);
    let mut rest = &body[quote.len()..];
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            return Ok(Some(after));
        }
        let mut letters = rest.chars();
        match letters.next() {
            None => return Err("a string has no end".to_owned()),
            Some('\n') if quote.len() == 1 => return Err("a string has no end".to_owned()),
            Some('\\') if !raw => {
                letters.next();
            }
            Some(_) => {}
        }
        rest = letters.as_str();
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, signs: &[&str]) -> bool {
        let is = match self.tokens.get(self.at) {
            Some(Token::Sign(sign)) => signs.contains(sign),
            Some(Token::Name(name)) => name == "in" && signs.contains(&"in"),
            _ => false,
        };
        self.at += usize::from(is);
        is
    }

    fn wants(&mut self, sign: &'static str) -> Result<(), String> {
        if self.takes(&[sign]) {
            return Ok(());
        }
        Err(self.unexpected(&format!("{sign:?}")))
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.tokens.get(self.at) {
            None => format!("{wanted} is missing at the end"),
            Some(Token::Sign(sign)) => format!("{wanted} is expected, not {sign:?}"),
            Some(Token::Name(name)) => format!("{wanted} is expected, not {name:?}"),
            Some(Token::Literal) => format!("{wanted} is expected, not a value"),
        }
    }

    fn expression(&mut self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        self.operands(depth)?;
        if self.takes(&["?"]) {
            self.operands(depth)?;
            self.wants(":")?;
            self.expression(depth + 1)?;
        }
        Ok(())
    }

    /// Operands with any operators between them: which binds closer makes no difference to what is
    /// an expression.
    fn operands(&mut self, depth: usize) -> Result<(), String> {
        const BETWEEN: [&str; 14] = [
            "||", "&&", "==", "!=", "<=", ">=", "<", ">", "in", "+", "-", "*", "/", "%",
        ];
        loop {
            while self.takes(&["!", "-"]) {}
            self.member(depth)?;
            if !self.takes(&BETWEEN) {
                return Ok(());
            }
        }
    }

    fn member(&mut self, depth: usize) -> Result<(), String> {
        self.takes(&["."]);
        let mut is_name = false;
        match self.tokens.get(self.at) {
            Some(Token::Literal) => self.at += 1,
            Some(Token::Name(name)) if name != "in" => {
                self.at += 1;
                is_name = true;
                if self.takes(&["("]) {
                    self.list(")", depth)?;
                    is_name = false;
                }
            }
            Some(Token::Sign("(")) => {
                self.at += 1;
                self.expression(depth + 1)?;
                self.wants(")")?;
            }
            Some(Token::Sign("[")) => {
                self.at += 1;
                self.list("]", depth)?;
            }
            Some(Token::Sign("{")) => {
                self.at += 1;
                self.entries(depth)?;
            }
            _ => return Err(self.unexpected("a value")),
        }
        loop {
            if self.takes(&["."]) {
                match self.next() {
                    Some(Token::Name(_)) => {}
                    _ => return Err("a name is expected after \".\"".to_owned()),
                }
                if self.takes(&["("]) {
                    self.list(")", depth)?;
                    is_name = false;
                }
            } else if self.takes(&["["]) {
                self.expression(depth + 1)?;
                self.wants("]")?;
                is_name = false;
            } else if is_name && self.takes(&["{"]) {
                self.entries(depth)?;
                is_name = false;
            } else {
                return Ok(());
            }
        }
    }

    fn list(&mut self, end: &'static str, depth: usize) -> Result<(), String> {
        while !self.takes(&[end]) {
            self.expression(depth + 1)?;
            if !self.takes(&[","]) {
                return self.wants(end);
            }
        }
        Ok(())
    }

    fn entries(&mut self, depth: usize) -> Result<(), String> {
        while !self.takes(&["}"]) {
            self.expression(depth + 1)?;
            self.wants(":")?;
            self.expression(depth + 1)?;
            if !self.takes(&[","]) {
                return self.wants("}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_told_from_typing_errors() {
        for good in [
            "response.code >= 400",
            "response.code >= 400 && (connection.mtls || request.url_path.contains('v1beta3'))",
            "!has(response.code) || response.code == 5u",
            "request.headers['x-a'] in [\"a\", 'b',] ? true : false",
            "a.b(c, -d.e)[0].f == 1.5e-3 + 0x1F",
            "{'a': 1, 'b': [2]}.exists(k, k != r'\\d')",
            "type.Name{field: 1} == null // why",
            "\"\"\"several \" lines\"\"\" != ''",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "response.code = 500",
            "response.code >=",
            "a && && b",
            "(a",
            "a)",
            "a b",
            "'no end",
            "a.1",
            "a ? b",
            "1.2.3",
            "$x",
            "f(a,,b)",
            "",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&"(".repeat(100_000)).is_err());
        assert!(check(&"!".repeat(100_000)).is_err());
        assert!(check(&"[".repeat(100_000)).is_err());
    }
}
