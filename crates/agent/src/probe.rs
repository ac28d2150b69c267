//! Finds out whether the workload beside the proxy serves, as a `readinessProbe` says: when to look,
//! and what a row of outcomes means. Thresholds and defaults are those of Istio's agent. Never does
//! I/O; [`look`](super::look) does.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::istio::networking::v1alpha3 as pb;

use pb::readiness_probe::HealthCheckMethod;

/// How a workload is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// From the proxy's readiness to the first look.
    pub initial_delay: Duration,
    /// Time for one look.
    pub timeout: Duration,
    /// From one look to the next.
    pub period: Duration,
    /// So many successes in a row make it healthy.
    pub success_threshold: u32,
    /// So many failures in a row make it unhealthy.
    pub failure_threshold: u32,
    /// What a look is.
    pub method: Method,
}

/// What a look is. Hosts are names or addresses; `None` is the workload itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// `GET`; a status from 200 to 399 is a success.
    Http {
        /// Whose.
        host: Option<Arc<str>>,
        /// TCP port.
        port: u16,
        /// With a query, perhaps.
        path: Arc<str>,
        /// Over TLS, whose certificate is not looked at.
        tls: bool,
        /// As they are written; `host` replaces the host.
        headers: Vec<(http::HeaderName, http::HeaderValue)>,
    },
    /// A connection that comes about is a success.
    Tcp {
        /// Whose.
        host: Option<Arc<str>>,
        /// TCP port.
        port: u16,
    },
    /// A command with its arguments; exit code 0 is a success.
    Exec(Arc<[String]>),
    /// `grpc.health.v1.Health/Check`; `SERVING` is a success.
    Grpc {
        /// TCP port.
        port: u16,
        /// The service that is asked about; empty: the server.
        service: Arc<str>,
    },
}

impl Probe {
    /// Reads a probe, with the defaults of Istio's agent.
    ///
    /// # Errors
    /// The text names the field, and what to write.
    pub fn read(message: pb::ReadinessProbe) -> Result<Self, String> {
        let pb::ReadinessProbe {
            initial_delay_seconds,
            timeout_seconds,
            period_seconds,
            success_threshold,
            failure_threshold,
            health_check_method,
        } = message;
        let count = |field: &str, number: i32, default: u32| match u32::try_from(number) {
            Ok(0) => Ok(default),
            Ok(number) => Ok(number),
            Err(_) => Err(format!("{field}: {number} is below zero")),
        };
        let seconds = |field: &str, number: i32, default: u32| {
            count(field, number, default).map(|number| Duration::from_secs(number.into()))
        };
        Ok(Self {
            initial_delay: seconds("initialDelaySeconds", initial_delay_seconds, 0)?,
            timeout: seconds("timeoutSeconds", timeout_seconds, 1)?,
            period: seconds("periodSeconds", period_seconds, 10)?,
            success_threshold: count("successThreshold", success_threshold, 1)?,
            failure_threshold: count("failureThreshold", failure_threshold, 1)?,
            method: method(health_check_method)?,
        })
    }
}

fn port(field: &str, number: u32) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{field}.port: {number} is no port: use 1 to 65535"))
}

fn host(text: String) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn method(message: Option<HealthCheckMethod>) -> Result<Method, String> {
    Ok(match message {
        Some(HealthCheckMethod::HttpGet(http)) => return http_get(http),
        Some(HealthCheckMethod::TcpSocket(tcp)) => Method::Tcp {
            port: port("tcpSocket", tcp.port)?,
            host: host(tcp.host),
        },
        Some(HealthCheckMethod::Exec(exec)) if exec.command.is_empty() => {
            return Err("exec.command: is missing: write one".to_owned());
        }
        Some(HealthCheckMethod::Exec(exec)) => Method::Exec(exec.command.into()),
        Some(HealthCheckMethod::Grpc(grpc)) => Method::Grpc {
            port: port("grpc", grpc.port)?,
            service: grpc.service.into(),
        },
        None => {
            return Err("says not how to probe: write httpGet, tcpSocket, exec or grpc".to_owned());
        }
    })
}

fn http_get(message: pb::HttpHealthCheckConfig) -> Result<Method, String> {
    let pb::HttpHealthCheckConfig {
        path,
        port: number,
        host: name,
        scheme,
        http_headers,
    } = message;
    let tls = match scheme.to_ascii_uppercase().as_str() {
        "" | "HTTP" => false,
        "HTTPS" => true,
        _ => {
            return Err(format!(
                "httpGet.scheme: \"{scheme}\" is no scheme: use HTTP or HTTPS"
            ));
        }
    };
    let mut headers = Vec::with_capacity(http_headers.len());
    for (index, header) in http_headers.into_iter().enumerate() {
        let field = format!("httpGet.httpHeaders[{index}]");
        let name = header.name.parse();
        let name = name.map_err(|_| format!("{field}.name: \"{}\" is none", header.name))?;
        let value = header.value.parse();
        let value =
            value.map_err(|_| format!("{field}.value: is none: remove what does not print"))?;
        headers.push((name, value));
    }
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    if path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err(format!("httpGet.path: \"{path}\" is no path"));
    }
    Ok(Method::Http {
        host: host(name),
        port: port("httpGet", number)?,
        path: path.into(),
        tls,
        headers,
    })
}

/// What looks have come to.
#[derive(Debug)]
pub(crate) struct Verdict {
    success_threshold: u32,
    failure_threshold: u32,
    in_a_row: u32,
    last: Option<bool>,
    told: Option<bool>,
}

impl Verdict {
    /// Nothing is known yet.
    pub(crate) fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.max(1),
            failure_threshold: probe.failure_threshold.max(1),
            in_a_row: 0,
            last: None,
            told: None,
        }
    }

    /// Takes the outcome of a look; whether the workload is to be told of as healthy now, if that is
    /// news.
    pub(crate) fn take(&mut self, success: bool) -> Option<bool> {
        if self.last != Some(success) {
            self.in_a_row = 0;
        }
        self.last = Some(success);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        let news = self.in_a_row >= threshold && self.told != Some(success);
        news.then(|| {
            self.told = Some(success);
            success
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(get: pb::HttpHealthCheckConfig) -> pb::ReadinessProbe {
        pb::ReadinessProbe {
            health_check_method: Some(HealthCheckMethod::HttpGet(get)),
            ..pb::ReadinessProbe::default()
        }
    }

    #[test]
    fn defaults_are_those_of_istios_agent() {
        let probe = Probe::read(http(pb::HttpHealthCheckConfig {
            port: 8080,
            ..pb::HttpHealthCheckConfig::default()
        }));
        let probe = probe.expect("valid");
        assert_eq!(probe.initial_delay, Duration::ZERO);
        assert_eq!(probe.timeout, Duration::from_secs(1));
        assert_eq!(probe.period, Duration::from_secs(10));
        assert_eq!((probe.success_threshold, probe.failure_threshold), (1, 1));
        let Method::Http {
            path, tls, host, ..
        } = probe.method
        else {
            panic!("{probe:?}");
        };
        assert_eq!((&*path, tls, host), ("/", false, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: fn(&mut pb::HttpHealthCheckConfig)| {
            let mut get = pb::HttpHealthCheckConfig {
                port: 1,
                ..pb::HttpHealthCheckConfig::default()
            };
            change(&mut get);
            Probe::read(http(get)).expect_err("wrong")
        };
        assert!(wrong(|get| get.port = 0).starts_with("httpGet.port"));
        assert!(wrong(|get| get.scheme = "ftp".to_owned()).starts_with("httpGet.scheme"));
        assert!(wrong(|get| get.path = "a b".to_owned()).starts_with("httpGet.path"));
        let none = Probe::read(pb::ReadinessProbe::default()).expect_err("no method");
        assert!(none.contains("tcpSocket"), "{none}");
        let mut early = http(pb::HttpHealthCheckConfig {
            port: 1,
            ..pb::HttpHealthCheckConfig::default()
        });
        early.period_seconds = -1;
        let error = Probe::read(early).expect_err("below zero");
        assert!(error.starts_with("periodSeconds"), "{error}");
    }

    #[test]
    fn rows_of_outcomes_decide_and_only_changes_are_told() {
        let mut verdict = Verdict {
            success_threshold: 2,
            failure_threshold: 3,
            in_a_row: 0,
            last: None,
            told: None,
        };
        let outcomes = [
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (true, Some(true)),
        ];
        for (step, (success, told)) in outcomes.into_iter().enumerate() {
            assert_eq!(verdict.take(success), told, "step {step}");
        }
    }
}
