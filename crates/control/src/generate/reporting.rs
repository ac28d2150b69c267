//! What the listeners of one side report: rules and settings of the mesh, joined as istiod does.
//! Must never know listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::provider::{FileLog, LogFormat, Provider, ProviderKind};
use weft_model::telemetry::{AccessLogging, CallSide, Telemetry, Tracing as Rule};
use weft_model::{MeshSettings, ProxySettings};

use super::access_logs::{self, Level};
pub(crate) use super::tracing::SpanIdentity;
use super::tracing::{self, Lookup, Spans};
use crate::emit::{Fault, origins};
use crate::pb::accesslog::v3::{AccessLog, AccessLogFilter};
use crate::pb::hcm::http_connection_manager::Tracing;

/// What the listeners of one side report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reporting {
    /// Of connection managers.
    pub(crate) http_logs: Vec<AccessLog>,
    /// Of TCP proxies.
    pub(crate) tcp_logs: Vec<AccessLog>,
    /// Of listeners themselves.
    pub(crate) listener_logs: Vec<AccessLog>,
    pub(crate) tracing: Option<Tracing>,
    /// Whether the request id says if a request is sampled.
    pub(crate) by_request_id: bool,
}

impl Default for Reporting {
    fn default() -> Self {
        Self {
            http_logs: Vec::new(),
            tcp_logs: Vec::new(),
            listener_logs: Vec::new(),
            tracing: None,
            by_request_id: true,
        }
    }
}

/// Where a provider is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) host: String,
    pub(crate) cluster: String,
}

/// Who reports: the settings of the mesh and of the proxy, and the rules that hold for it, those of
/// the root namespace first.
pub(crate) struct Reporter<'a> {
    pub(crate) mesh: &'a MeshSettings,
    pub(crate) proxy: &'a ProxySettings,
    /// What spans say of the proxy; none for those that are only there by default.
    pub(crate) identity: Option<&'a SpanIdentity>,
    pub(crate) gateway: bool,
    pub(crate) rules: &'a [Arc<Telemetry>],
}

impl Reporter<'_> {
    /// What listeners of a side report. What cannot be done is left out, and said in `faults`.
    pub(crate) fn report(
        &self,
        side: CallSide,
        lookup: &mut Lookup<'_>,
        faults: &mut Vec<Fault>,
    ) -> Reporting {
        let mut made = Reporting::default();
        self.logs(side, &mut made, lookup, faults);
        self.spans(side, &mut made, lookup, faults);
        made
    }

    fn logs(
        &self,
        side: CallSide,
        made: &mut Reporting,
        lookup: &mut Lookup<'_>,
        faults: &mut Vec<Fault>,
    ) {
        let mut said = false;
        for (name, spec) in self.log_providers(side) {
            match self.log(&name, lookup) {
                Ok(None) => {}
                Ok(Some(log)) => {
                    said = true;
                    if !spec.disabled {
                        made.add(&log, spec.filter.as_deref());
                    }
                }
                Err(reason) => {
                    let naming = |rule: &Telemetry| {
                        let mut names = rule.access_logs.iter().flat_map(|log| &log.providers);
                        names.any(|other| *other == name)
                    };
                    faults.push(self.fault("accessLogging", &name, &reason, naming));
                }
            }
        }
        if !said {
            self.legacy_logs(made);
        }
        if !self.mesh.listener_log {
            made.listener_logs.clear();
        }
    }

    /// Where no rule says anything: the mesh's file and service.
    fn legacy_logs(&self, made: &mut Reporting) {
        if let Some(path) = &self.mesh.access_log_file {
            let file = FileLog {
                path: Arc::clone(path),
                format: None,
                omit_empty: false,
            };
            let log = access_logs::file(&file, &self.mesh.access_log_format);
            made.add(&log, None);
        }
        if self.mesh.access_log_service {
            made.http_logs
                .push(access_logs::bootstrap_service(Level::Http));
            made.tcp_logs
                .push(access_logs::bootstrap_service(Level::Tcp));
            let listener = access_logs::bootstrap_service(Level::Listener);
            made.listener_logs
                .push(with(&listener, vec![access_logs::unmatched()]));
        }
    }

    fn provider(&self, name: &str) -> Option<&Provider> {
        let mut all = self.mesh.providers.iter();
        all.find(|provider| provider.name.eq_ignore_ascii_case(name))
    }

    /// The log of a provider; none if it is one for other things.
    fn log(&self, name: &str, lookup: &mut Lookup<'_>) -> Result<Option<AccessLog>, String> {
        let Some(provider) = self.provider(name) else {
            return Err(UNKNOWN.to_owned());
        };
        Ok(Some(match &provider.kind {
            ProviderKind::FileLog(said) => {
                let of_mesh = &*provider.name == "envoy" && !said.omit_empty;
                let fallback = if of_mesh {
                    &self.mesh.access_log_format
                } else {
                    &LogFormat::DefaultText
                };
                access_logs::file(said, fallback)
            }
            ProviderKind::HttpLog(said) => {
                access_logs::service(said, &lookup(&said.service)?, false)
            }
            ProviderKind::TcpLog(said) => access_logs::service(said, &lookup(&said.service)?, true),
            ProviderKind::OtelLog(said) => access_logs::collector(said, &lookup(&said.service)?),
            ProviderKind::Zipkin(_)
            | ProviderKind::Datadog(_)
            | ProviderKind::SkyWalking(_)
            | ProviderKind::OpenTelemetry(_)
            | ProviderKind::Authorization(_)
            | ProviderKind::Secrets(_)
            | ProviderKind::Prometheus => return Ok(None),
        }))
    }

    /// Providers of logs with what holds for each, by name. As in istiod the last level that names
    /// providers for this side decides which; filters of all levels are kept by name.
    fn log_providers(&self, side: CallSide) -> BTreeMap<Arc<str>, LogSpec> {
        let defaults = &self.mesh.default_providers.access_logs;
        let levels = self.rules.iter().map(|rule| &rule.access_logs[..]);
        let levels: Vec<&[AccessLogging]> = levels.filter(|level| !level.is_empty()).collect();
        if levels.is_empty() {
            let each = defaults
                .iter()
                .map(|name| (name.clone(), LogSpec::default()));
            return each.collect();
        }
        let mut in_scope: BTreeSet<&Arc<str>> = defaults.iter().collect();
        let mut filters: BTreeMap<&Arc<str>, LogSpec> = BTreeMap::new();
        for level in &levels {
            let here = level.iter().filter(|log| log.side.includes(side));
            let mut names = BTreeSet::new();
            for log in here {
                for name in &log.providers {
                    let filter = log.filter.clone();
                    names.insert(name);
                    filters.insert(
                        name,
                        LogSpec {
                            disabled: false,
                            filter,
                        },
                    );
                }
            }
            if !names.is_empty() {
                in_scope = names;
            }
        }
        let mut found = BTreeMap::new();
        let mut above = defaults;
        for log in levels.iter().flat_map(|level| level.iter()) {
            if !log.providers.is_empty() {
                above = &log.providers;
            }
            if !log.side.includes(side) {
                continue;
            }
            for name in above.iter().filter(|name| in_scope.contains(name)) {
                let spec = if log.disabled {
                    LogSpec {
                        disabled: true,
                        filter: None,
                    }
                } else {
                    filters.get(name).cloned().unwrap_or_default()
                };
                found.insert(Arc::clone(name), spec);
            }
        }
        found
    }

    fn spans(
        &self,
        side: CallSide,
        made: &mut Reporting,
        lookup: &mut Lookup<'_>,
        faults: &mut Vec<Fault>,
    ) {
        let default = self.mesh.default_providers.tracing.first();
        let rules = || self.rules.iter().flat_map(|rule| &rule.tracing);
        if default.is_none() && rules().next().is_none() {
            let said = self.proxy.tracing.as_ref();
            let spans = Spans {
                sampling: None,
                tags: None,
                istio_tags: said.and_then(|said| said.istio_tags).unwrap_or(true),
                no_propagation: false,
            };
            let legacy = || tracing::spans(&spans, self.proxy, self.identity);
            made.tracing = self.mesh.tracing.unwrap_or(true).then(legacy);
            return;
        }
        let rules: Vec<&Rule> = rules().filter(|rule| rule.side.includes(side)).collect();
        let last = |part: fn(&Rule) -> Option<bool>| rules.iter().rev().find_map(|rule| part(rule));
        if last(|rule| rule.disabled) == Some(true) {
            return;
        }
        let named = rules.iter().rev().find_map(|rule| rule.provider.as_ref());
        let Some(name) = named.or(default) else {
            return;
        };
        let sampling = rules.iter().rev().find_map(|rule| rule.sampling);
        let spans = Spans {
            sampling: sampling.map(weft_model::Number::get),
            tags: rules.iter().rev().find_map(|rule| rule.tags.as_ref()),
            istio_tags: last(|rule| rule.istio_tags).unwrap_or(true),
            no_propagation: last(|rule| rule.no_propagation).unwrap_or(false),
        };
        let mut tracing = tracing::spans(&spans, self.proxy, self.identity);
        let identity = self.identity.cloned().unwrap_or_default();
        let sent = match self.provider(name) {
            Some(provider) => tracing::send_to(
                &mut tracing,
                &provider.kind,
                &identity,
                self.gateway,
                lookup,
            ),
            None => Err(UNKNOWN.to_owned()),
        };
        match sent {
            Ok(()) => {
                made.tracing = Some(tracing);
                made.by_request_id = last(|rule| rule.by_request_id).unwrap_or(true);
            }
            Err(reason) => {
                let naming = |rule: &Telemetry| {
                    let mut all = rule.tracing.iter();
                    all.any(|rule| rule.provider.as_ref() == Some(name))
                };
                faults.push(self.fault("tracing", name, &reason, naming));
            }
        }
    }

    fn fault(
        &self,
        what: &str,
        name: &str,
        reason: &str,
        naming: impl Fn(&Telemetry) -> bool,
    ) -> Fault {
        let guilty = self.rules.iter().filter(|rule| naming(rule));
        let guilty = guilty.map(|rule| rule.meta.origin.clone());
        Fault {
            message: format!("{what}: provider \"{name}\" is left out: {reason}").into(),
            origins: origins(guilty),
        }
    }
}

const UNKNOWN: &str = "extensionProviders of the mesh have no such name";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LogSpec {
    disabled: bool,
    filter: Option<Arc<str>>,
}

impl Reporting {
    /// Adds a log everywhere.
    fn add(&mut self, log: &AccessLog, filter: Option<&str>) {
        let filter = || filter.map(access_logs::expression);
        let own = with(log, filter().into_iter().collect());
        self.http_logs.push(own.clone());
        self.tcp_logs.push(own);
        let filters = std::iter::once(access_logs::unmatched()).chain(filter());
        self.listener_logs.push(with(log, filters.collect()));
    }
}

fn with(log: &AccessLog, filters: Vec<AccessLogFilter>) -> AccessLog {
    AccessLog {
        filter: access_logs::all(filters),
        ..log.clone()
    }
}
