use super::*;
use crate::pass::{Context, Pass};
use crate::testing::yaml;
use std::time::{Duration, UNIX_EPOCH};

struct Sample {
    request: HeaderMap,
    response: HeaderMap,
}

impl FormatSource for Sample {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        match which {
            Pseudo::Method => Some("GET"),
            Pseudo::Path => Some("/p?q=1"),
            Pseudo::Authority => Some("a.com"),
            Pseudo::Status => Some("200"),
            _ => None,
        }
    }
    fn request_headers(&self) -> Option<&HeaderMap> {
        Some(&self.request)
    }
    fn response_headers(&self) -> Option<&HeaderMap> {
        Some(&self.response)
    }
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::new(1_709_210_096, 7_089_012)
    }
    fn value(&self, field: Field) -> Value<'_> {
        match field {
            Field::Protocol => Value::text(Some("HTTP/1.1")),
            Field::ResponseCode => Value::Number(200),
            Field::BytesReceived => Value::Number(0),
            Field::BytesSent => Value::Number(12),
            Field::Duration => Value::Number(3),
            Field::UpstreamHost => Value::Address("10.0.0.1:8080".parse().expect("an address")),
            Field::DownstreamLocalAddress => {
                Value::Address("[::1]:80".parse().expect("an address"))
            }
            _ => Value::Absent,
        }
    }
}

fn sample() -> Sample {
    let mut request = HeaderMap::new();
    request.insert("user-agent", "curl/8 \"x\"".parse().expect("a value"));
    request.insert("x-envoy-original-path", "/orig".parse().expect("a value"));
    let mut response = HeaderMap::new();
    response.insert(
        "x-envoy-upstream-service-time",
        "2".parse().expect("a value"),
    );
    Sample { request, response }
}

fn text(format: &str) -> String {
    let context = Context {
        hostname: "box".into(),
        ..Context::default()
    };
    let mut pass = Pass::new(&context);
    let Some(compiled) = Format::compile(&mut pass, format) else {
        return "refused".to_owned();
    };
    let mut out = Vec::new();
    compiled.write(&mut out, &sample());
    String::from_utf8(out).expect("text")
}

#[test]
fn operators_show_what_envoy_shows() {
    for (format, wanted) in [
        ("plain", "plain"),
        ("100%%", "100%"),
        (
            "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
            "GET /orig",
        ),
        ("%REQ(X-NONE?:PATH)%", "/p?q=1"),
        ("%REQ(:PATH):2%", "/p"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/p"),
        ("%REQUEST_HEADER(X-NONE)%", "-"),
        (
            "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(:status)%",
            "2 200",
        ),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT%", "200 - 12"),
        (
            "%UPSTREAM_HOST% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "10.0.0.1:8080 [::1]:80 ::1 80",
        ),
        ("%HOSTNAME%", "box"),
        ("%HOSTNAME:2%", "bo"),
        ("%ENVIRONMENT(NONE)%", "-"),
        ("%DYNAMIC_METADATA(com.test:key)%", "-"),
        ("%START_TIME%", "2024-02-29T12:34:56.007Z"),
        (
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%",
            "2024/02/29T12:34:56+0000 1709210096",
        ),
        ("%START_TIME(%s.%3f)%", "1709210096.007"),
        ("%START_TIME(%s.%6f %f)%", "1709210096.007089 007089012"),
        ("%START_TIME(%a %b %e %j %I %p)%", "Thu Feb 29 060 12 PM"),
        ("%NOPE%", "refused"),
        ("%REQ(bad name)%", "refused"),
        ("%REQ(x", "refused"),
        ("50% off", "refused"),
        ("%START_TIME(%Q)%", "refused"),
        ("%PROTOCOL(x)%", "refused"),
    ] {
        assert_eq!(text(format), wanted, "{format}");
    }
}

#[test]
fn dates_are_right_over_centuries() {
    let format = TimeFormat::parse("%F %j %a").expect("a format");
    for (days, wanted) in [
        (0_u64, "1970-01-01 001 Thu"),
        (59, "1970-03-01 060 Sun"),
        (789, "1972-02-29 060 Tue"),
        (11_016, "2000-02-29 060 Tue"),
        (11_322, "2000-12-31 366 Sun"),
        (47_540, "2100-02-28 059 Sun"),
        (47_541, "2100-03-01 060 Mon"),
    ] {
        let mut out = Vec::new();
        format.write(&mut out, UNIX_EPOCH + Duration::from_secs(days * 86_400));
        assert_eq!(String::from_utf8(out).expect("text"), wanted);
    }
}

#[test]
fn the_default_line_is_envoys() {
    let context = Context::default();
    let mut pass = Pass::new(&context);
    let format = default_log_format(&mut pass).expect("the default compiles");
    let mut out = Vec::new();
    format.write(&mut out, &sample());
    assert_eq!(
        String::from_utf8(out).expect("text"),
        "[2024-02-29T12:34:56.007Z] \"GET /orig HTTP/1.1\" 200 - 0 12 3 2 \"-\" \"curl/8 \"x\"\" \"-\" \
         \"a.com\" \"10.0.0.1:8080\"\n"
    );
}

#[test]
fn json_lines_keep_types() {
    let context = Context::default();
    let shown = |extra: &str| {
        let mut pass = Pass::new(&context);
        let message = yaml(&format!(
            "{{{extra}json_format: {{code: '%RESPONSE_CODE%', mixed: 'c=%RESPONSE_CODE%', agent: '%REQ(user-agent)%', \
             none: '%RESPONSE_FLAGS%', n: 1.5, list: [true, null, x], inner: {{m: '%REQ(:method)%'}}}}}}"
        ));
        let format = log_format(&mut pass, &message).expect("a format");
        let mut out = Vec::new();
        format.write(&mut out, &sample());
        String::from_utf8(out).expect("text")
    };
    assert_eq!(
        shown(""),
        "{\"agent\":\"curl/8 \\\"x\\\"\",\"code\":200,\"inner\":{\"m\":\"GET\"},\"list\":[true,null,\"x\"],\
         \"mixed\":\"c=200\",\"n\":1.5,\"none\":null}\n"
    );
    assert!(!shown("omit_empty_values: true, ").contains("none"));
}
