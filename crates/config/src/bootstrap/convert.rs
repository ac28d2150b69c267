//! `Bootstrap` → bootstrap.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Admin, AdsConfig, AdsTransport, Bootstrap, Node};
use crate::access_log::convert::access_log;
use crate::address::{Address, bind_address};
use crate::cluster::{Cluster, Transport};
use crate::endpoint::convert::locality;
use crate::error::{ConfigError, Loaded};
use crate::ext_authz::convert::header;
use crate::extension::{api_source, api_version};
use crate::listener::Listener;
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use crate::secret::{AGENT_SECRETS, Secret};
use pb::config::bootstrap::v3 as bootstrap;

const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn bootstrap(p: &mut Pass<'_>, message: &bootstrap::Bootstrap) -> Option<Bootstrap> {
    let bootstrap::Bootstrap {
        node,
        node_context_params,
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    } = message;
    ignore!(p, "bootstrap.Bootstrap"; node_context_params, flags_path, stats_sinks, deferred_stat_options,
        stats_config, stats_flush_interval, stats_flush, stats_eviction, watchdog, watchdogs, tracing,
        layered_runtime, overload_manager, enable_dispatcher_stats, stats_server_version_override,
        use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, bootstrap_extensions,
        fatal_actions, default_config_source, default_socket_interface, inline_headers,
        perf_tracing_file_path, default_regex_engine, listener_manager, application_log_config,
        grpc_async_client_manager_config, memory_allocator_manager, enable_worker_cpu_affinity);
    unsupported!(p; hds_config, config_sources, certificate_provider_instances, xds_delegate_extension,
        xds_config_tracker_extension);
    if header_prefix.is_set() && header_prefix != "x-envoy" {
        p.refuse_field("header_prefix", "must be x-envoy: Weft has no other");
    }
    let mut out = Bootstrap {
        node: read_node(p, node.as_ref()),
        header_prefix: Arc::from("x-envoy"),
        ..Bootstrap::default()
    };
    p.opt(
        "static_resources",
        static_resources.as_ref(),
        |p, resources| {
            static_part(p, resources, &mut out);
            Some(())
        },
    );
    out.ads = p
        .opt(
            "dynamic_resources",
            dynamic_resources.as_ref(),
            dynamic_part,
        )
        .flatten();
    p.opt("cluster_manager", cluster_manager.as_ref(), |p, manager| {
        let bootstrap::ClusterManager {
            local_cluster_name,
            outlier_detection,
            upstream_bind_config,
            load_stats_config,
            enable_deferred_cluster_creation,
        } = manager;
        ignore!(p, "bootstrap.ClusterManager"; local_cluster_name, outlier_detection, load_stats_config,
            enable_deferred_cluster_creation);
        p.unsupported("upstream_bind_config", upstream_bind_config.is_some());
        Some(())
    });
    out.admin = p.opt("admin", admin.as_ref(), read_admin).flatten();
    check_references(p, &out);
    check_routes(p, &out);
    Some(out)
}

fn read_node(p: &mut Pass<'_>, message: Option<&pb::core::Node>) -> Node {
    let message = message.cloned().unwrap_or_default();
    let or = |given: &Arc<str>, own: &str| {
        if given.is_empty() {
            Arc::from(own)
        } else {
            Arc::clone(given)
        }
    };
    let mut node = Node {
        id: or(&p.context.node_id, &message.id),
        cluster: or(&p.context.node_cluster, &message.cluster),
        locality: message.locality.as_ref().map(locality).unwrap_or_default(),
        message,
    };
    node.message.id = node.id.to_string();
    node.message.cluster = node.cluster.to_string();
    node
}

fn read_admin(p: &mut Pass<'_>, message: &bootstrap::Admin) -> Option<Option<Admin>> {
    let bootstrap::Admin {
        access_log: logs,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = message;
    ignore!(p, "bootstrap.Admin"; profile_path, socket_options, ignore_global_conn_limit, access_log_path);
    p.ignore("bootstrap.Admin", "access_log", !logs.is_empty());
    // What they say is checked although nothing is written.
    p.each("access_log", logs, access_log);
    unsupported!(p; allow_paths);
    // Without an address Envoy starts no admin endpoint.
    let address = match address {
        None => return Some(None),
        Some(address) => p.at("address", |p| bind_address(p, address))?,
    };
    Some(Some(Admin { address }))
}

/// Takes over the result of a resource's own conversion, its problems under our path.
fn adopt<T>(p: &mut Pass<'_>, result: Result<Loaded<T>, ConfigError>) -> Option<Arc<T>> {
    match result {
        Ok(Loaded { value, ignored }) => {
            p.adopt_ignored(ignored);
            Some(Arc::new(value))
        }
        Err(ConfigError { resource, problems }) => {
            for problem in problems {
                p.adopt_problem(problem.of(&resource));
            }
            None
        }
    }
}

fn static_part(
    p: &mut Pass<'_>,
    message: &bootstrap::bootstrap::StaticResources,
    out: &mut Bootstrap,
) {
    let bootstrap::bootstrap::StaticResources {
        listeners,
        clusters,
        secrets,
    } = message;
    let context = p.context;
    out.listeners = p.each("listeners", listeners, |p, one| {
        adopt(p, Listener::from_proto(one, context))
    });
    out.clusters = p.each("clusters", clusters, |p, one| {
        adopt(p, Cluster::from_proto(one, context))
    });
    out.secrets = p.each("secrets", secrets, |p, one| {
        adopt(p, Secret::from_proto(one, context))
    });
    unique(p, "listeners", out.listeners.iter().map(|one| &one.name));
    unique(p, "clusters", out.clusters.iter().map(|one| &one.name));
    unique(p, "secrets", out.secrets.iter().map(|one| &one.name));
}

fn unique<'a>(p: &mut Pass<'_>, field: &'static str, names: impl Iterator<Item = &'a Arc<str>>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            p.refuse_field(field, format!("has {name} twice"));
        }
    }
}

fn has_pipe(cluster: &Cluster) -> bool {
    let mut endpoints = cluster.endpoints.endpoints();
    endpoints.any(|endpoint| matches!(endpoint.address, Address::Pipe(_)))
}

fn check_references(p: &mut Pass<'_>, out: &Bootstrap) {
    let Some(ads) = &out.ads else { return };
    for name in &ads.clusters {
        let found = out.clusters.iter().find(|cluster| cluster.name == *name);
        let problem = match found {
            None => format!("names the cluster {name}, which static_resources.clusters lacks"),
            Some(cluster) if !cluster.transport_matches.is_empty() => format!(
                "names the cluster {name}, which has transport_socket_matches: write one \
                 transport_socket for all of its endpoints"
            ),
            Some(cluster) if cluster.proxy_protocol.is_some() => format!(
                "names the cluster {name}, whose connections begin with a PROXY header: the control \
                 plane takes none"
            ),
            Some(cluster) if has_pipe(cluster) => format!(
                "names the cluster {name}, whose host is a Unix socket: write the address and port of the \
                 control plane"
            ),
            Some(cluster) if waits_for_secrets(cluster, p.context.agent) => format!(
                "names the cluster {name}, whose TLS takes secrets by SDS: they would come over the \
                 very stream that it is for; write files or inline certificates"
            ),
            Some(_) => continue,
        };
        p.at("dynamic_resources", |p| {
            p.refuse_field("ads_config", problem);
        });
    }
}

/// Routes inside of static listeners lead to static clusters, unless they say otherwise: others
/// come later, as in Envoy.
fn check_routes(p: &mut Pass<'_>, out: &Bootstrap) {
    if p.problem_count() > 0 {
        // Clusters that were refused are missing, and listeners may have moved up.
        return;
    }
    let known: HashSet<&str> = out.clusters.iter().map(|cluster| &*cluster.name).collect();
    for (at, listener) in out.listeners.iter().enumerate() {
        let resource = format!("listener {}", listener.name);
        for problem in listener.unknown_clusters(&|name| known.contains(name)) {
            let place = format!("static_resources.listeners[{at}]");
            p.adopt_problem(problem.within(&place).of(&resource));
        }
    }
}

/// Whether a cluster needs secrets that only the ADS stream brings.
fn waits_for_secrets(cluster: &Cluster, agent: bool) -> bool {
    match &cluster.transport {
        Transport::Raw => false,
        Transport::Tls(tls) => {
            let own = |name: &Arc<str>| agent && AGENT_SECRETS.contains(&&**name);
            tls.context.secret_names().any(|name| !own(name))
        }
    }
}

fn dynamic_part(
    p: &mut Pass<'_>,
    message: &bootstrap::bootstrap::DynamicResources,
) -> Option<Option<AdsConfig>> {
    let bootstrap::bootstrap::DynamicResources {
        lds_config,
        lds_resources_locator,
        cds_config,
        cds_resources_locator,
        ads_config,
    } = message;
    unsupported!(p; lds_resources_locator, cds_resources_locator);
    let listeners = p.opt("lds_config", lds_config.as_ref(), source);
    let clusters = p.opt("cds_config", cds_config.as_ref(), source);
    let Some(ads) = ads_config else {
        if listeners.is_some() || clusters.is_some() {
            p.refuse_field("ads_config", "is required by lds_config and cds_config");
        }
        return Some(None);
    };
    let mut ads = p.at("ads_config", |p| read_ads(p, ads))?;
    ads.listeners = listeners.is_some();
    ads.clusters_by_cds = clusters.is_some();
    if let Some(timeout) = clusters.or(listeners) {
        ads.initial_fetch_timeout = timeout;
    }
    Some(Some(ads))
}

/// An LDS or CDS source, which must be ADS; gives its initial fetch timeout.
fn source(p: &mut Pass<'_>, message: &pb::core::ConfigSource) -> Option<Option<Duration>> {
    use pb::core::config_source::ConfigSourceSpecifier as Source;
    let pb::core::ConfigSource {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    } = message;
    unsupported!(p; authorities);
    api_version(p, "resource_api_version", *resource_api_version);
    if !matches!(config_source_specifier, Some(Source::Ads(_))) {
        p.refuse("must be `ads: {}`: Weft takes resources from the one ADS stream only");
        return None;
    }
    Some(p.timeout(
        "initial_fetch_timeout",
        initial_fetch_timeout.as_ref(),
        Some(FETCH_TIMEOUT),
    ))
}

fn read_ads(p: &mut Pass<'_>, message: &pb::core::ApiConfigSource) -> Option<AdsConfig> {
    use pb::core::api_config_source::ApiType;
    let (api_type, grpc_services) = api_source(p, message);
    let transport = match api_type? {
        ApiType::Grpc | ApiType::AggregatedGrpc => AdsTransport::Grpc,
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => AdsTransport::DeltaGrpc,
        ApiType::Rest | ApiType::DeprecatedAndUnavailableDoNotUse => {
            p.refuse_field("api_type", "must be GRPC or DELTA_GRPC");
            return None;
        }
    };
    let mut ads = AdsConfig {
        transport,
        clusters: Vec::new(),
        listeners: false,
        clusters_by_cds: false,
        metadata: Vec::new(),
        initial_fetch_timeout: Some(FETCH_TIMEOUT),
    };
    p.each("grpc_services", grpc_services, |p, one| {
        grpc_service(p, one, &mut ads)
    });
    if grpc_services.is_empty() {
        p.refuse_field("grpc_services", "is required");
    }
    Some(ads)
}

fn grpc_service(
    p: &mut Pass<'_>,
    message: &pb::core::GrpcService,
    ads: &mut AdsConfig,
) -> Option<()> {
    use pb::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let pb::core::GrpcService {
        timeout,
        initial_metadata,
        retry_policy,
        target_specifier,
    } = message;
    unsupported!(p; retry_policy);
    let mut metadata = p.each("initial_metadata", initial_metadata, header);
    for (_, value) in &mut metadata {
        // A token is as good as a key.
        value.set_sensitive(true);
    }
    if ads.clusters.is_empty() {
        ads.metadata = metadata;
    } else if ads.metadata != metadata {
        p.refuse_field(
            "initial_metadata",
            "must be that of the first service: the stream goes to any of them",
        );
    }
    ignore!(p, "core.GrpcService"; timeout);
    match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => p.at("envoy_grpc", |p| {
            let EnvoyGrpc {
                cluster_name,
                authority,
                retry_policy,
                max_receive_message_length,
                skip_envoy_headers,
            } = target;
            ignore!(p, "core.GrpcService.EnvoyGrpc"; retry_policy, max_receive_message_length,
                skip_envoy_headers);
            unsupported!(p; authority);
            ads.clusters.push(p.name("cluster_name", cluster_name)?);
            Some(())
        }),
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            p.refuse_field("google_grpc", "is not supported by Weft; use envoy_grpc");
            None
        }
        None => {
            p.refuse_field("envoy_grpc", "is required");
            None
        }
    }
}
