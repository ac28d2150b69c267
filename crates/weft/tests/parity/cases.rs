//! Reads `cases.txt`. Must never know what an answer should be.

/// What a client does, in order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Wait until bytes come.
    Read,
    /// Wait a moment.
    Pause,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) id: usize,
    pub(crate) name: String,
    pub(crate) listener: String,
    pub(crate) h2: bool,
    pub(crate) tls: Option<String>,
    /// What the files of the client's certificate are called.
    pub(crate) cert: Option<String>,
    pub(crate) raw: bool,
    pub(crate) close: bool,
    /// Request line and headers.
    pub(crate) head: Vec<String>,
    /// What follows the head.
    pub(crate) steps: Vec<Step>,
}

impl Case {
    /// The method, as far as there is one.
    pub(crate) fn method(&self) -> &str {
        self.request_line().first().copied().unwrap_or_default()
    }

    pub(crate) fn request_line(&self) -> Vec<&str> {
        self.head[0].split(' ').collect()
    }

    /// The head as it goes over the wire in HTTP/1.
    pub(crate) fn head_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.head {
            bytes.extend(unescape(line));
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

/// All cases of the file.
pub(crate) fn all(text: &str) -> Vec<Case> {
    let sections = text.split("\n=== ").skip(1);
    sections
        .enumerate()
        .map(|(id, text)| case(id, text))
        .collect()
}

fn case(id: usize, text: &str) -> Case {
    let (title, rest) = text.split_once('\n').expect("a case has a request");
    let (name, options) = title.split_once('|').unwrap_or((title, ""));
    let mut case = Case {
        id,
        name: name.trim().to_owned(),
        listener: "edge".to_owned(),
        h2: false,
        tls: None,
        cert: None,
        raw: false,
        close: false,
        head: Vec::new(),
        steps: Vec::new(),
    };
    for option in options.split_whitespace() {
        match option {
            "h2" => case.h2 = true,
            "raw" => case.raw = true,
            "close" => case.close = true,
            listener if !listener.contains('=') => listener.clone_into(&mut case.listener),
            other => match other.split_once('=') {
                Some(("cert", name)) => case.cert = Some(name.to_owned()),
                Some(("tls", name)) => case.tls = Some(name.to_owned()),
                _ => panic!("{name}: unknown option {other}"),
            },
        }
    }
    let (head, body) = rest.split_once("\n\n").unwrap_or((rest.trim_end(), ""));
    case.head = head.lines().map(expand).collect();
    if !case.raw {
        case.head.insert(1, format!("x-case: {id}"));
    }
    for line in body.trim_end().lines() {
        case.steps.push(match line {
            "--- read" => Step::Read,
            "--- pause" => Step::Pause,
            text => Step::Send(unescape(text)),
        });
    }
    case
}

/// `{{9000}}` stands for so many letters.
fn expand(line: &str) -> String {
    let Some((before, rest)) = line.split_once("{{") else {
        return line.to_owned();
    };
    let (count, after) = rest.split_once("}}").expect("braces are closed");
    let count = count.parse().expect("a number");
    format!("{before}{}{after}", "a".repeat(count))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let code = (*byte == b'\\').then(|| after.first()).flatten();
        let decoded = match code {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b'0') => 0,
            Some(b'x') => {
                let digits = std::str::from_utf8(&after[1..3]).expect("digits");
                rest = &after[2..];
                u8::from_str_radix(digits, 16).expect("hexadecimal")
            }
            _ => {
                bytes.push(*byte);
                continue;
            }
        };
        bytes.push(decoded);
        rest = &rest[1..];
    }
    bytes
}
