//! Access-log messages → access logs.

use std::sync::Arc;

use super::{AccessLog, Comparison, LogFilter, LogSink};
use crate::extension::{Extension, decode, typed};
use crate::format::{LogFormat, default_log_format, json_format, log_format, plain_log_format};
use crate::matching::header_matcher;
use crate::pass::Pass;
use crate::pb;
use pb::config::accesslog::v3 as accesslog;
use pb::extensions::access_loggers::{file::v3 as file, stream::v3 as stream};

const LOGGERS: &[Extension<(LogSink, LogFormat)>] = &[
    Extension {
        name: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        read: file_logger,
    },
    Extension {
        name: "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        read: |p, bytes| {
            let stream::StdoutAccessLog { access_log_format } = decode(p, bytes)?;
            let stream::stdout_access_log::AccessLogFormat::LogFormat(format) =
                match access_log_format {
                    Some(format) => format,
                    None => return Some((LogSink::Stdout, default_log_format(p)?)),
                };
            Some((
                LogSink::Stdout,
                p.at("log_format", |p| log_format(p, &format))?,
            ))
        },
    },
    Extension {
        name: "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        read: |p, bytes| {
            let stream::StderrAccessLog { access_log_format } = decode(p, bytes)?;
            let stream::stderr_access_log::AccessLogFormat::LogFormat(format) =
                match access_log_format {
                    Some(format) => format,
                    None => return Some((LogSink::Stderr, default_log_format(p)?)),
                };
            Some((
                LogSink::Stderr,
                p.at("log_format", |p| log_format(p, &format))?,
            ))
        },
    },
];

fn file_logger(p: &mut Pass<'_>, bytes: &[u8]) -> Option<(LogSink, LogFormat)> {
    use file::file_access_log::AccessLogFormat as Format;
    let file::FileAccessLog {
        path,
        access_log_format,
    } = decode(p, bytes)?;
    let path = p.name("path", &path)?;
    let format = match &access_log_format {
        None => default_log_format(p),
        Some(Format::Format(text)) => p.at("format", |p| plain_log_format(p, text)),
        Some(Format::LogFormat(format)) => p.at("log_format", |p| log_format(p, format)),
        Some(Format::JsonFormat(format)) => {
            p.at("json_format", |p| json_format(p, format)).map(json)
        }
        Some(Format::TypedJsonFormat(format)) => p
            .at("typed_json_format", |p| json_format(p, format))
            .map(json),
    };
    Some((LogSink::File(path), format?))
}

fn json(format: crate::format::JsonFormat) -> LogFormat {
    LogFormat::Json {
        format,
        omit_empty: false,
    }
}

/// Reads an access log.
pub(crate) fn access_log(p: &mut Pass<'_>, message: &accesslog::AccessLog) -> Option<AccessLog> {
    use accesslog::access_log::ConfigType;
    let accesslog::AccessLog {
        name: _,
        filter,
        config_type,
    } = message;
    let filter = match filter {
        None => None,
        Some(filter) => Some(p.at("filter", |p| log_filter(p, filter))?),
    };
    let any = config_type.as_ref().map(|ConfigType::TypedConfig(any)| any);
    let (sink, format) = typed(p, "typed_config", any, LOGGERS)?;
    Some(AccessLog {
        filter,
        sink,
        format: Arc::new(format),
    })
}

fn log_filter(p: &mut Pass<'_>, message: &accesslog::AccessLogFilter) -> Option<LogFilter> {
    use accesslog::access_log_filter::FilterSpecifier as Spec;
    if p.too_deep() {
        return None;
    }
    let accesslog::AccessLogFilter { filter_specifier } = message;
    match filter_specifier {
        Some(Spec::StatusCodeFilter(accesslog::StatusCodeFilter { comparison: found })) => p
            .at("status_code_filter", |p| {
                p.required("comparison", found.as_ref(), comparison)
            })
            .map(LogFilter::StatusCode),
        Some(Spec::DurationFilter(accesslog::DurationFilter { comparison: found })) => p
            .at("duration_filter", |p| {
                p.required("comparison", found.as_ref(), comparison)
            })
            .map(LogFilter::Duration),
        Some(Spec::NotHealthCheckFilter(accesslog::NotHealthCheckFilter {})) => {
            Some(LogFilter::NotHealthCheck)
        }
        Some(Spec::ResponseFlagFilter(accesslog::ResponseFlagFilter { flags })) => Some(
            LogFilter::ResponseFlag(flags.iter().map(|flag| Arc::from(flag.as_str())).collect()),
        ),
        Some(Spec::RuntimeFilter(filter)) => p.at("runtime_filter", |p| runtime_filter(p, filter)),
        Some(Spec::HeaderFilter(accesslog::HeaderFilter { header })) => p
            .at("header_filter", |p| {
                p.required("header", header.as_ref(), header_matcher)
            })
            .map(|matcher| LogFilter::Header(Box::new(matcher))),
        Some(Spec::GrpcStatusFilter(filter)) => {
            p.at("grpc_status_filter", |p| grpc_filter(p, filter))
        }
        Some(Spec::AndFilter(accesslog::AndFilter { filters })) => {
            Some(LogFilter::And(p.at("and_filter", |p| {
                p.each("filters", filters, log_filter)
            })))
        }
        Some(Spec::OrFilter(accesslog::OrFilter { filters })) => Some(LogFilter::Or(
            p.at("or_filter", |p| p.each("filters", filters, log_filter)),
        )),
        Some(
            Spec::TraceableFilter(_)
            | Spec::ExtensionFilter(_)
            | Spec::MetadataFilter(_)
            | Spec::LogTypeFilter(_),
        )
        | None => {
            p.refuse(
                "is not supported by Weft; use one of status_code_filter, duration_filter, \
                 not_health_check_filter, response_flag_filter, runtime_filter, header_filter, \
                 grpc_status_filter, and_filter, or_filter",
            );
            None
        }
    }
}

fn comparison(p: &mut Pass<'_>, message: &accesslog::ComparisonFilter) -> Option<Comparison> {
    use accesslog::comparison_filter::Op;
    let accesslog::ComparisonFilter { op, value } = message;
    let value = p.required("value", value.as_ref(), |p, value| {
        let pb::core::RuntimeUInt32 {
            default_value,
            runtime_key,
        } = value;
        ignore!(p, "core.RuntimeUInt32"; runtime_key);
        Some(u64::from(*default_value))
    })?;
    Some(match p.enumeration("op", *op)? {
        Op::Eq => Comparison::Eq(value),
        Op::Ge => Comparison::Ge(value),
        Op::Le => Comparison::Le(value),
        Op::Ne => Comparison::Ne(value),
    })
}

fn runtime_filter(p: &mut Pass<'_>, message: &accesslog::RuntimeFilter) -> Option<LogFilter> {
    let accesslog::RuntimeFilter {
        runtime_key,
        percent_sampled,
        use_independent_randomness,
    } = message;
    ignore!(p, "accesslog.RuntimeFilter"; runtime_key, use_independent_randomness);
    match percent_sampled {
        Some(share) => p
            .at("percent_sampled", |p| p.fraction(share))
            .map(LogFilter::Runtime),
        // Without a share Envoy takes 0.
        None => Some(LogFilter::Runtime(crate::fraction::Fraction {
            numerator: 0,
            denominator: 100,
        })),
    }
}

fn grpc_filter(p: &mut Pass<'_>, message: &accesslog::GrpcStatusFilter) -> Option<LogFilter> {
    let accesslog::GrpcStatusFilter { statuses, exclude } = message;
    let statuses = p.each("statuses", statuses, |p, status| {
        let number = u64::try_from(*status).ok().filter(|number| *number <= 16);
        if number.is_none() {
            p.refuse("is no gRPC status");
        }
        number
    });
    Some(LogFilter::GrpcStatus {
        statuses,
        exclude: *exclude,
    })
}
