//! A connection manager in one worker: its configuration made ready to run.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use arc_swap::cache::Cache;
use bytes::Bytes;
use http::HeaderValue;
use weft_config::http_filter::{HttpFilterConfig, Router};
use weft_config::jwt::RemoteKeySource;
use weft_config::{DataSource, HttpManager, RouteConfig, RouteSource};
use weft_core::metrics::Scope;
use weft_filters::{
    Calls, CounterGroup, FaultStats, Filter, LimitCounts, RemoteKeys, Surroundings,
};

use super::headers::Forwarding;
use crate::access_log::{AccessLogFile, Log};
use crate::prefixes::AllLimits;
use crate::routes::RouteSlot;
use crate::stats::HttpStats;
use crate::worker::Worker;

type RouteCache = Cache<Arc<ArcSwapOption<RouteConfig>>, Option<Arc<RouteConfig>>>;

/// See the module.
pub(crate) struct Manager {
    pub(crate) config: Arc<HttpManager>,
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) filters: Vec<Filter>,
    /// A filter looks at the names in clients' certificates.
    pub(crate) wants_names: bool,
    pub(crate) router: Arc<Router>,
    pub(crate) forwarding: Forwarding,
    pub(crate) server: HeaderValue,
    pub(crate) via: Option<HeaderValue>,
    pub(crate) logs: Vec<Log>,
    routes: Option<RefCell<RouteCache>>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager")
            .field("stat_prefix", &self.config.stat_prefix)
            .finish_non_exhaustive()
    }
}

/// What the filters of a connection manager get.
struct Own<'a> {
    worker: &'a Rc<Worker>,
    prefix: &'a Arc<str>,
}

impl Surroundings for Own<'_> {
    fn faults(&self) -> Arc<FaultStats> {
        let worker = self.worker;
        let kept = &worker.prefixes;
        kept.faults(&worker.registry, &worker.faults, self.prefix)
    }

    fn remote_keys(&self, source: &Arc<RemoteKeySource>) -> Rc<RemoteKeys> {
        let (keys, new) = self.worker.keys.get(source);
        if new && source.fetch_early {
            let worker: Rc<dyn Calls> = Rc::<Worker>::clone(self.worker);
            tokio::task::spawn_local(RemoteKeys::keep_fresh(Rc::downgrade(&keys), worker));
        }
        keys
    }

    fn limits(&self) -> Arc<dyn LimitCounts> {
        Arc::<AllLimits>::clone(&self.worker.limits)
    }

    fn read(&self, source: &DataSource) -> Option<Bytes> {
        match weft_upstream::read(source) {
            Ok(text) => Some(text.bytes.clone().into()),
            Err(error) => {
                tracing::warn!(%error, "a file of the configuration cannot be read");
                None
            }
        }
    }

    fn counters(&self, prefix: &str, names: &'static [&'static str]) -> Arc<CounterGroup> {
        let scope = Scope::http(Arc::clone(self.prefix));
        let kept = &self.worker.prefixes;
        kept.counters(&self.worker.registry, self.prefix, scope, (prefix, names))
    }
}

impl Manager {
    /// A manager for one worker; `slot` is where its routes are.
    pub(crate) fn new(
        config: Arc<HttpManager>,
        slot: Option<RouteSlot>,
        files: &[AccessLogFile],
        worker: Rc<Worker>,
    ) -> Rc<Self> {
        let (kept, registry) = (&worker.prefixes, &worker.registry);
        let stats = kept.http(registry, &config.stat_prefix);
        let own = Own {
            worker: &worker,
            prefix: &config.stat_prefix,
        };
        let filters = config.filters.iter();
        let filters = filters.filter_map(|filter| Filter::build(filter, &own));
        let filters: Vec<_> = filters.collect();
        let router = config
            .filters
            .iter()
            .find_map(|filter| match &filter.config {
                HttpFilterConfig::Router(router) => Some(Arc::clone(router)),
                _ => None,
            });
        let names = || (worker.node_cluster.clone(), worker.node_id.clone());
        let forwarding = Forwarding {
            use_remote_address: config.use_remote_address,
            skip_xff_append: config.skip_xff_append,
            append_port: config.append_x_forwarded_port,
            xff_num_trusted_hops: config.xff_num_trusted_hops,
            internal: config.internal_addresses.clone(),
            generate_request_id: config.generate_request_id,
            preserve_external_request_id: config.preserve_external_request_id,
            names: config.add_user_agent.then(names),
        };
        Rc::new(Self {
            stats,
            wants_names: filters.iter().any(Filter::wants_names),
            filters,
            router: router.unwrap_or_default(),
            forwarding,
            server: HeaderValue::from_str(&config.server_name)
                .unwrap_or_else(|_| HeaderValue::from_static("envoy")),
            via: config
                .via
                .as_ref()
                .and_then(|via| HeaderValue::from_str(via).ok()),
            logs: Log::all(&config.access_logs, files),
            routes: slot.map(|slot| RefCell::new(Cache::new(slot))),
            worker,
            config,
        })
    }

    /// The routes as they are now; `None` until they arrive.
    pub(crate) fn routes(&self) -> Option<Arc<RouteConfig>> {
        match (&self.config.routes, &self.routes) {
            (RouteSource::Inline(routes), _) => Some(Arc::clone(routes)),
            (RouteSource::Rds(_), Some(cache)) => cache.borrow_mut().load().clone(),
            (RouteSource::Rds(_), None) => None,
        }
    }
}
