//! HTTP/1 as bytes, for a client and a server that have to see and to send what no library would.
//! Must never correct what it reads.

/// How a body ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    /// Status of a response; 0 for a request.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

/// Where the head ends, if it is all there.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    let found = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    found.map(|at| at + 4)
}

impl Head {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let status = first_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let headers = lines.take_while(|line| !line.is_empty());
        let headers = headers.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Self {
            headers: headers.collect(),
            status: status.unwrap_or(0),
            first_line,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The headers, sorted by name, those of one name in their order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut headers = self.headers.clone();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        let line = |(name, value)| format!("header {name}: {value}");
        headers.into_iter().map(line).collect()
    }

    /// The framing of a response to `method`, or (with "") of a request.
    pub(crate) fn framing(&self, method: &str) -> Framing {
        let without = method == "HEAD" || matches!(self.status, 204 | 304);
        let length = self
            .get("content-length")
            .and_then(|length| length.parse().ok());
        match (self.get("transfer-encoding"), length) {
            _ if without => Framing::Length(0),
            (Some(coding), _) if coding.contains("chunked") => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length),
            _ if method.is_empty() => Framing::Length(0),
            _ => Framing::UntilClose,
        }
    }
}

/// A whole chunked body, its trailers and the bytes it took.
pub(crate) fn decode_chunks(bytes: &[u8]) -> Option<(Vec<u8>, Vec<String>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    let line = |from: usize| {
        let rest = bytes.get(from..)?;
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        Some((
            String::from_utf8_lossy(&rest[..end]).into_owned(),
            from + end + 2,
        ))
    };
    loop {
        let (size, next) = line(at)?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
    let mut trailers = Vec::new();
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((body, trailers, at));
        }
        trailers.push(trailer);
    }
}
