//! JSON Web Key Sets (RFC 7517) as rules name them, or as they are fetched: whether a text is one,
//! and whether one may be fetched from a URL. Fetches nothing.

/// Keys that a set may have.
const MAX_KEYS: usize = 256;

/// Whether a text is a set of keys, as far as a proxy would find no key at all in it.
///
/// # Errors
/// What is wrong, to be put after the name of the field.
pub fn check(text: &str) -> Result<(), String> {
    let set: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
    let keys = set.get("keys").and_then(serde_json::Value::as_array);
    let keys = keys.ok_or("is no JSON Web Key Set: there is no list \"keys\"")?;
    if keys.is_empty() {
        return Err("is a JSON Web Key Set without keys: no token would be valid".to_owned());
    }
    if keys.len() > MAX_KEYS {
        return Err(format!(
            "has {} keys: at most {MAX_KEYS} are taken",
            keys.len()
        ));
    }
    let untyped = keys.iter().position(|key| !key["kty"].is_string());
    untyped.map_or(Ok(()), |index| Err(format!("keys[{index}] has no \"kty\"")))
}

/// Whether a text is the URL of something that can be fetched.
///
/// # Errors
/// What is wrong, to be put after the URL.
pub fn check_url(text: &str) -> Result<(), String> {
    let no_url = || "is no URL: write one such as https://example.com/keys.json".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(format!("is of scheme \"{scheme}\": use https or http"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_graphic();
    if authority.is_empty() || authority.contains('@') || !text.chars().all(is_plain) {
        return Err(no_url());
    }
    let port = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => Some(port),
        _ => None,
    };
    match port.map(str::parse::<u16>) {
        None => Ok(()),
        Some(Ok(port)) if port != 0 => Ok(()),
        Some(_) => Err(no_url()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_can_be_fetched_are_told_from_others() {
        for good in [
            "https://example.com/keys",
            "http://[::1]:8080/k?x=1",
            "HTTPS://example.com",
            "http://10.0.0.1:80",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https:///keys",
            "https://user:secret@example.com",
            "https://example.com:0",
            "https://example.com:x",
            "https://exa mple.com",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
