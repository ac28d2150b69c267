//! HTTP proxies that the environment names for fetching keys, as Go's programs read it: `HTTPS_PROXY`,
//! `HTTP_PROXY`, `NO_PROXY`, in upper or lower case. Must never call one.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;

/// The proxies of a process.
#[derive(Clone, Debug, Default)]
pub struct HttpProxies {
    /// For `https` URLs.
    secure: Option<HttpProxy>,
    /// For `http` URLs.
    plain: Option<HttpProxy>,
    /// Who is called without one.
    except: Exceptions,
}

/// One proxy, which is called in plain text.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct HttpProxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `proxy-authorization`.
    pub(super) authorization: Option<String>,
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({}:{})", self.host, self.port)
    }
}

/// Hosts that `NO_PROXY` lists.
#[derive(Clone, Debug, Default)]
struct Exceptions {
    all: bool,
    /// Ranges with the length of their prefix.
    ranges: Vec<(IpAddr, u8)>,
    /// Names with the port, if one is written; those with a dot before them are for what is below only.
    names: Vec<(String, Option<u16>)>,
}

impl HttpProxies {
    /// Reads them.
    ///
    /// # Errors
    /// A variable names no proxy that can be called; the text says which.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let either = |name: &str| {
            let said = get(name).or_else(|| get(&name.to_lowercase()));
            said.filter(|text| !text.trim().is_empty())
        };
        let proxy = |name: &str| match either(name) {
            Some(text) => read(text.trim())
                .map(Some)
                .map_err(|problem| format!("{name}: {problem}")),
            None => Ok(None),
        };
        Ok(Self {
            secure: proxy("HTTPS_PROXY")?,
            plain: proxy("HTTP_PROXY")?,
            except: Exceptions::read(&either("NO_PROXY").unwrap_or_default()),
        })
    }

    /// By which proxy a server is called; `None`: by none. As in Go, this machine is always called
    /// without.
    pub(super) fn of(&self, secure: bool, host: &str, port: u16) -> Option<&HttpProxy> {
        let proxy = if secure { &self.secure } else { &self.plain };
        let proxy = proxy.as_ref()?;
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let is_own =
            host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback());
        (!is_own && !self.except.has(host, ip, port)).then_some(proxy)
    }
}

fn read(text: &str) -> Result<HttpProxy, String> {
    // As in Go, `host:port` alone is a proxy that speaks HTTP.
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    // What is wrong is not shown: there may be a password in it.
    let uri: Uri = whole
        .parse()
        .map_err(|_| "is no URL: write http://host:port".to_owned())?;
    if uri.scheme_str() != Some("http") {
        return Err("is no proxy that is called over HTTP: write http://host:port".to_owned());
    }
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("names no host: write http://host:port".to_owned());
    }
    let user = uri.authority().map_or("", http::uri::Authority::as_str);
    let user = user.rsplit_once('@').map(|(user, _)| user);
    Ok(HttpProxy {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(80),
        authorization: user.map(|user| format!("Basic {}", STANDARD.encode(unescaped(user)))),
    })
}

/// `%40` and the like; what is no such code stays.
fn unescaped(text: &str) -> Vec<u8> {
    let mut found = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = if code.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
        found.push(code.unwrap_or(*first));
    }
    found
}

impl Exceptions {
    fn read(text: &str) -> Self {
        let mut found = Self::default();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            if entry == "*" {
                found.all = true;
                continue;
            }
            if let Some((ip, length)) = entry.split_once('/')
                && let (Ok(ip), Ok(length)) = (ip.parse(), length.parse())
            {
                found.ranges.push((ip, length));
                continue;
            }
            if let Ok(ip) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
                found.ranges.push((ip, if ip.is_ipv4() { 32 } else { 128 }));
                continue;
            }
            let (name, port) = match entry.rsplit_once(':') {
                Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
                _ => (entry, None),
            };
            let name = name.strip_prefix('*').unwrap_or(name);
            found.names.push((name.to_ascii_lowercase(), port));
        }
        found
    }

    fn has(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let in_range =
            |(range, length): &(IpAddr, u8)| ip.is_some_and(|ip| within(ip, *range, *length));
        let named = |(name, only): &(String, Option<u16>)| {
            let above = host.strip_suffix(name.as_str());
            let fits = above.is_some_and(|above| {
                name.starts_with('.') || above.is_empty() || above.ends_with('.')
            });
            fits && only.is_none_or(|only| only == port)
        };
        self.all || self.ranges.iter().any(in_range) || self.names.iter().any(named)
    }
}

fn within(ip: IpAddr, range: IpAddr, length: u8) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let ((ip, width), (range, of_range)) = (bits(ip), bits(range));
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128)));
    width == of_range && (ip ^ range) & mask.unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Result<HttpProxies, String> {
        HttpProxies::from_env(|name| {
            let mut found = pairs.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        let all = proxies(&[
            ("HTTPS_PROXY", "http://me:p%40ss@proxy.example:3128"),
            ("http_proxy", "10.0.0.5:8080"),
        ]);
        let all = all.expect("valid");
        let secure = all.of(true, "keys.example", 443).expect("a proxy");
        assert_eq!((secure.host.as_str(), secure.port), ("proxy.example", 3128));
        // me:p@ss
        let basic = secure.authorization.as_deref();
        assert_eq!(basic, Some("Basic bWU6cEBzcw=="));
        assert!(
            !format!("{secure:?}").contains("ss@"),
            "no password in logs"
        );
        let plain = all.of(false, "keys.example", 80).expect("a proxy");
        assert_eq!((plain.host.as_str(), plain.port), ("10.0.0.5", 8080));
        for own in ["localhost", "127.0.0.1", "127.9.9.9", "::1"] {
            assert_eq!(all.of(true, own, 443), None, "{own}");
        }
        let none = proxies(&[("HTTPS_PROXY", "")]).expect("valid");
        assert_eq!(none.of(true, "keys.example", 443), None);
    }

    #[test]
    fn what_is_no_proxy_is_named_without_its_password() {
        for wrong in [
            "socks5://u:secret@p:1080",
            "https://u:secret@p:443",
            "http://u:secret @p",
        ] {
            let error = proxies(&[("HTTPS_PROXY", wrong)]).expect_err("wrong");
            assert!(error.starts_with("HTTPS_PROXY: "), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn exceptions_are_names_ranges_and_ports() {
        let all = proxies(&[
            ("HTTPS_PROXY", "http://p:1"),
            (
                "NO_PROXY",
                "inside.example, .below.example,*.star.example,10.0.0.0/8,fd00::1,x.y:8443",
            ),
        ]);
        let all = all.expect("valid");
        for (host, port) in [
            ("inside.example", 443),
            ("KEYS.inside.example", 443),
            ("a.below.example", 443),
            ("a.star.example", 443),
            ("10.200.0.1", 443),
            ("fd00::1", 443),
            ("x.y", 8443),
        ] {
            assert_eq!(all.of(true, host, port), None, "{host}:{port}");
        }
        for (host, port) in [
            ("outside.example", 443),
            ("notinside.example", 443),
            ("below.example", 443),
            ("11.0.0.1", 443),
            ("fd00::2", 443),
            ("x.y", 443),
        ] {
            assert!(all.of(true, host, port).is_some(), "{host}:{port}");
        }
        let nobody = proxies(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")]).expect("valid");
        assert_eq!(nobody.of(true, "outside.example", 443), None);
    }
}
