//! Substitution formats: the little language of `%OPERATOR(arguments):length%` in header values
//! and access logs, as Envoy 1.40 reads it. Knows whether a text is well formed, not what an
//! operator shows.

/// `NAME(arguments):max_len%`, without the first `%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Which operator.
    pub name: &'a str,
    /// What stands in its brackets, if it has some.
    pub arguments: Option<&'a str>,
    /// At most so many bytes are shown.
    pub max_len: Option<usize>,
    /// What follows the last `%`.
    pub rest: &'a str,
}

impl<'a> Command<'a> {
    /// Reads the command that `text` begins with.
    pub fn split(text: &'a str) -> Option<Self> {
        let end = text
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .filter(|end| *end > 0)?;
        let (name, after) = text.split_at_checked(end)?;
        let Some(open) = after.strip_prefix('(') else {
            let (max_len, rest) = tail(after)?;
            return Some(Self {
                name,
                arguments: None,
                max_len,
                rest,
            });
        };
        // Arguments may have brackets of their own: the first one that ends a command counts.
        open.match_indices(')').find_map(|(at, _)| {
            let (max_len, rest) = tail(open.get(at + 1..)?)?;
            Some(Self {
                name,
                arguments: open.get(..at),
                max_len,
                rest,
            })
        })
    }
}

/// `:max_len%` or `%`, and what follows.
fn tail(text: &str) -> Option<(Option<usize>, &str)> {
    let Some(limited) = text.strip_prefix(':') else {
        return Some((None, text.strip_prefix('%')?));
    };
    let (digits, rest) = limited.split_once('%')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Some((plain.then(|| digits.parse().ok())?, rest)).filter(|(max_len, _)| max_len.is_some())
}

/// Operators that stand alone.
const PLAIN: &str = "
    ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_RETRANSMITTED BYTES_SENT CONNECTION_ID
    CONNECTION_TERMINATION_DETAILS CUSTOM_FLAGS DOWNSTREAM_CX_RTT
    DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT
    DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_DIRECT_LOCAL_PORT
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_HANDSHAKE_DURATION
    DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_LOCAL_ADDRESS
    DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_LOCAL_DNS_SAN
    DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN
    DOWNSTREAM_LOCAL_PORT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT
    DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256
    DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_EMAIL_SAN
    DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_IP_SAN
    DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256 DOWNSTREAM_PEER_ISSUER_SERIAL
    DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT
    DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_PORT
    DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_GROUP DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION
    DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED
    DOWNSTREAM_WIRE_BYTES_SENT DURATION FILTER_CHAIN_NAME GRPC_STATUS_NUMBER HOSTNAME
    LISTENER_NAME LOCAL_REPLY_BODY PACKETS_RETRANSMITTED PROTOCOL REQUEST_DURATION
    REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_CODE RESPONSE_DURATION RESPONSE_FLAGS
    RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION
    ROUNDTRIP_DURATION ROUTE_NAME ROUTE_RESOLUTION_COUNT ROUTE_RESOLUTION_TIME_US SPAN_ID
    STREAM_ID TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID UNIQUE_ID UPSTREAM_CLUSTER
    UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID UPSTREAM_CONNECTION_IDS_ATTEMPTED
    UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED
    UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DETECTED_CLOSE_TYPE
    UPSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST
    UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT UPSTREAM_HOST_NAME
    UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT
    UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_CLOSE_REASON
    UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_URI_SAN
    UPSTREAM_PEER_CERT UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER
    UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PROTOCOL UPSTREAM_REMOTE_ADDRESS
    UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_REMOTE_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT
    UPSTREAM_SERVER_NAME UPSTREAM_TLS_CIPHER UPSTREAM_TLS_GROUP UPSTREAM_TLS_SESSION_ID
    UPSTREAM_TLS_VERSION UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_WIRE_BYTES_RECEIVED
    UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME
";

/// What an operator takes in brackets, and whether a length may follow.
#[rustfmt::skip] // one line an operator
const WITH_ARGUMENTS: &[(&str, Arguments, bool)] = &[
    ("CLUSTER_METADATA", Arguments::Required(any), false),
    ("COMMON_DURATION", Arguments::Required(common_duration), false),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
    ("DOWNSTREAM_PEER_CERT_V_END", Arguments::Optional(time), false),
    ("DOWNSTREAM_PEER_CERT_V_START", Arguments::Optional(time), false),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
    ("DYNAMIC_METADATA", Arguments::Required(any), true),
    ("EMIT_TIME", Arguments::Optional(time), false),
    ("EMIT_TIME_LOCAL", Arguments::Optional(time), false),
    ("ENVIRONMENT", Arguments::Required(any), true),
    ("FILTER_STATE", Arguments::Required(filter_state), true),
    ("GRPC_STATUS", Arguments::Optional(grpc_status), false),
    ("METADATA", Arguments::Required(metadata), true),
    ("PATH", Arguments::Optional(path), true),
    ("PER_REQUEST_STATE", Arguments::Required(any), false),
    ("QUERY_PARAM", Arguments::Required(any), true),
    ("QUERY_PARAMS", Arguments::Optional(query_params), true),
    ("REQ", Arguments::Required(headers), true),
    ("REQUESTED_SERVER_NAME", Arguments::Optional(server_name), false),
    ("REQUEST_HEADER", Arguments::Required(headers), true),
    ("RESP", Arguments::Required(headers), true),
    ("RESPONSE_CODE_DETAILS", Arguments::Optional(any), false),
    ("RESPONSE_HEADER", Arguments::Required(headers), true),
    ("RESPONSE_TRAILER", Arguments::Required(headers), true),
    ("START_TIME", Arguments::Optional(time), false),
    ("START_TIME_LOCAL", Arguments::Optional(time), false),
    ("STREAM_INFO_REQ", Arguments::Required(headers), true),
    ("TRAILER", Arguments::Required(headers), true),
    ("UPSTREAM_FILTER_STATE", Arguments::Required(filter_state), true),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
    ("UPSTREAM_METADATA", Arguments::Required(any), false),
    ("UPSTREAM_PEER_CERT_V_END", Arguments::Optional(time), false),
    ("UPSTREAM_PEER_CERT_V_START", Arguments::Optional(time), false),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Arguments::Optional(any), false),
];

#[derive(Clone, Copy)]
enum Arguments {
    Required(fn(&str) -> bool),
    Optional(fn(&str) -> bool),
}

fn any(_: &str) -> bool {
    true
}

/// One of these; empty parts are left to their default.
fn one_of(text: Option<&str>, known: &[&str]) -> bool {
    text.is_none_or(|text| text.is_empty() || known.contains(&text))
}

/// Whether a byte may stand in the name of a header (RFC 9110's `tchar`).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn headers(text: &str) -> bool {
    let name = |name: &str| name.strip_prefix(':').unwrap_or(name).bytes().all(is_token);
    text.split('?').count() <= 2 && text.split('?').all(name)
}

/// Neither a line break nor the directive that writes one.
fn time(text: &str) -> bool {
    let mut directives = text.split('%').skip(1);
    let breaks = directives.any(|directive| {
        let flags = directive.trim_start_matches(['-', '_', '0', '^', '#']);
        let width = flags.trim_start_matches(|c: char| matches!(c, '1'..='9'));
        let modified = width.strip_prefix(['E', 'O']).unwrap_or(width);
        modified.starts_with('n')
    });
    !text.contains(['\n', '\r', '\0']) && !breaks
}

fn grpc_status(text: &str) -> bool {
    one_of(Some(text), &["CAMEL_STRING", "SNAKE_STRING", "NUMBER"])
}

fn path(text: &str) -> bool {
    let mut parts = text.splitn(2, ':');
    one_of(parts.next(), &["WQ", "NQ"]) && one_of(parts.next(), &["ORIG", "PATH", "ORIG_OR_PATH"])
}

fn query_params(text: &str) -> bool {
    one_of(Some(text), &["ORIG", "DECODED"])
}

fn server_name(text: &str) -> bool {
    let mut parts = text.splitn(2, ':');
    one_of(parts.next(), &["SNI_ONLY", "SNI_FIRST", "HOST_FIRST"])
        && one_of(parts.next(), &["ORIG_OR_HOST", "HOST", "ORIG"])
}

fn metadata(text: &str) -> bool {
    let kind = text.split(':').next().unwrap_or_default();
    let kinds = [
        "DYNAMIC",
        "CLUSTER",
        "UPSTREAM_HOST",
        "ROUTE",
        "LISTENER",
        "VIRTUAL_HOST",
        "LISTENER_FILTER_CHAIN",
    ];
    kinds.contains(&kind)
}

fn filter_state(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let key = parts.next().unwrap_or_default();
    let form = parts.next().unwrap_or_default();
    let field = parts.next().unwrap_or_default();
    !key.is_empty()
        && one_of(Some(form), &["PLAIN", "TYPED", "FIELD"])
        && (form == "FIELD") != field.is_empty()
}

fn common_duration(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [start, end] | [start, end, "ms" | "us" | "ns"] => !start.is_empty() && !end.is_empty(),
        _ => false,
    }
}

/// Why Envoy would refuse a format, if it would. `CEL` and `COALESCE` hold languages of their own
/// that are not read here: they count as refused.
pub fn check(text: &str) -> Result<(), String> {
    judge(text, check_command)
}

/// The same for access logs, which may have `REQ_WITHOUT_QUERY`, an operator of an extension.
pub fn check_log(text: &str) -> Result<(), String> {
    judge(text, |command| {
        let name = match command.name {
            "REQ_WITHOUT_QUERY" => "REQ",
            name => name,
        };
        check_command(&Command { name, ..*command })
    })
}

fn judge(
    text: &str,
    check_command: impl Fn(&Command<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(literal) = after.strip_prefix('%') {
            rest = literal;
            continue;
        }
        let Some(command) = Command::split(after) else {
            let start: String = after.chars().take(40).collect();
            return Err(format!(
                "`%{start}` is no operator: write %NAME%, or %% for the sign"
            ));
        };
        check_command(&command)?;
        rest = command.rest;
    }
    Ok(())
}

fn check_command(command: &Command<'_>) -> Result<(), String> {
    let Command {
        name,
        arguments,
        max_len,
        ..
    } = *command;
    let arguments = arguments.filter(|text| !text.is_empty());
    if PLAIN.split_ascii_whitespace().any(|known| known == name) {
        if arguments.is_some() || max_len.is_some() {
            return Err(format!("`%{name}%` takes no arguments and no length"));
        }
        return Ok(());
    }
    let row = WITH_ARGUMENTS.iter().find(|(known, ..)| *known == name);
    let Some((_, kind, limited)) = row else {
        return Err(format!("`%{name}%` is no operator that can be used here"));
    };
    let valid = match (kind, arguments) {
        (Arguments::Required(_), None) => {
            return Err(format!("`%{name}%` lacks its arguments: write %{name}(…)%"));
        }
        (Arguments::Optional(_), None) => true,
        (Arguments::Required(valid) | Arguments::Optional(valid), Some(text)) => valid(text),
    };
    if !valid {
        return Err(format!("`%{name}%` does not take these arguments"));
    }
    if max_len.is_some() && !limited {
        return Err(format!("`%{name}%` takes no length"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `envoy --mode validate` says to each as the value of a header.
    #[test]
    fn formats_are_judged_as_by_envoy() {
        for text in [
            "",
            "plain",
            "a%%b",
            "%%50",
            "%%%PROTOCOL%",
            "%PROTOCOL%",
            "%PROTOCOL()%",
            "%REQ(a)%",
            "%REQ(a?b)%",
            "%REQ(:path)%",
            "%REQ(?a)%",
            "%REQ(aa%bb)%",
            "%TRAILER(a):0%",
            "%START_TIME(%Q)%",
            "%START_TIME(%Y(a)b)%",
            "%START_TIME(%s%)%",
            "%GRPC_STATUS(NUMBER)%",
            "%PATH(:ORIG)%",
            "%PATH:5%",
            "%METADATA(ROUTE:a):5%",
            "%FILTER_STATE(a:FIELD:b:c)%",
            "%COMMON_DURATION(DS_RX_BEG:DS_TX_END)%",
            "%REQUESTED_SERVER_NAME(SNI_FIRST:ORIG)%",
            "%UPSTREAM_METADATA([\"a\",\"b\"])%",
            "%PACKETS_RETRANSMITTED%",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "%FOO%",
            "%_%",
            "%",
            "50%",
            "50% off",
            "% %",
            "%PROTOCOL%%",
            "%req(a)%",
            "%PROTOCOL(a)%",
            "%RESPONSE_CODE:5%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a",
            "%REQ(a):%",
            "%REQ(a):-1%",
            "%REQ(a):99999999999999999999999%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%REQ(a:b)%",
            "%REQ(é)%",
            "%REQ(a)b)%",
            "%START_TIME(%n)%",
            "%START_TIME(%-3En)%",
            "%CLUSTER_METADATA(a:b):5%",
            "%GRPC_STATUS(a)%",
            "%PATH(WQ:X)%",
            "%METADATA(FILTER_CHAIN:a)%",
            "%FILTER_STATE(a:FIELD)%",
            "%FILTER_STATE(a:PLAIN:b)%",
            "%COMMON_DURATION(FOO:BAR:h)%",
            "%REQUESTED_SERVER_NAME(X)%",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_operator_is_listed_twice() {
        let mut names: Vec<&str> = PLAIN.split_ascii_whitespace().collect();
        names.extend(WITH_ARGUMENTS.iter().map(|(name, ..)| *name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
