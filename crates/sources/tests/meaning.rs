//! What documents mean, from text to the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::proxy::{ForwardClientCert, GatewayTopology};
use weft_model::{
    AbortKind, AddressRange, ClientTlsMode, Endpoint, EndpointAddress, ExportTo, GatewayRef,
    H2Upgrade, Health, HostScope, Hostname, HttpAction, HttpMatch, LoadBalancer, MeshSettings,
    Namespace, Object, OutboundTrafficPolicy, PatchContext, PatchOperation, PatchTarget, Percent,
    PortNumber, Protocol, ProxySettings, RedirectPath, RedirectPort, Resolution, ResponseBody,
    ServerIdentity, Service, StringMatch, Timestamp, TlsVersion, VirtualService, Weight,
};
use weft_sources::{FileStore, ObjectState, mesh_config};

fn load(text: &str) -> (FileStore, BTreeMap<String, Object>) {
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("mesh.yaml", Some(text));
    let problems: Vec<_> = update
        .statuses
        .iter()
        .flat_map(|status| &status.problems)
        .map(ToString::to_string)
        .collect();
    assert_eq!(problems, Vec::<String>::new());
    let objects = store
        .objects()
        .map(|object| (object.key().to_string(), object.clone()))
        .collect();
    (store, objects)
}

fn service(objects: &BTreeMap<String, Object>, key: &str) -> Arc<Service> {
    match objects.get(&format!("service {key}")) {
        Some(Object::Service(service)) => Arc::clone(service),
        other => panic!("{key} is {other:?}; there are {:?}", objects.keys()),
    }
}

fn endpoints(objects: &BTreeMap<String, Object>, key: &str) -> Vec<Endpoint> {
    match objects.get(&format!("endpoints of {key}")) {
        Some(Object::Endpoints(list)) => list.endpoints.clone(),
        None => Vec::new(),
        other => panic!("{key} is {other:?}"),
    }
}

/// `address port→target…` of each endpoint.
fn places(endpoints: &[Endpoint]) -> Vec<String> {
    let place = |endpoint: &Endpoint| {
        let ports = endpoint
            .ports
            .iter()
            .map(|(port, target)| format!(" {port}→{target}"));
        format!("{}{}", endpoint.address, ports.collect::<String>())
    };
    endpoints.iter().map(place).collect()
}

fn port(number: u16) -> PortNumber {
    PortNumber::new(number).expect("in range")
}

fn host(text: &str) -> Hostname {
    Hostname::parse(text).expect("valid")
}

const SHOP: &str = include_str!("data/good/shop.yaml");
const RULES: &str = include_str!("data/good/rules.yaml");
const OUTSIDE: &str = include_str!("data/good/outside.yaml");

#[test]
fn kubernetes_services_get_ports_protocols_and_endpoints_from_slices() {
    let (_, objects) = load(SHOP);
    let reviews = service(&objects, "shop/reviews.shop.svc.cluster.local");
    assert_eq!(
        reviews.addresses,
        [AddressRange::parse("10.96.0.10").expect("valid")]
    );
    assert_eq!(reviews.resolution, Resolution::Registry);
    assert_eq!(reviews.created, Some(Timestamp(1_769_860_800)));
    let ports: Vec<_> = reviews
        .ports
        .iter()
        .map(|p| (p.number.get(), &*p.name, p.protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (5353, "discovery", Protocol::Udp),
            (9080, "http", Protocol::Http),
            (9090, "grpc-admin", Protocol::Grpc)
        ]
    );
    let found = endpoints(&objects, "shop/reviews.shop.svc.cluster.local");
    assert_eq!(
        places(&found),
        [
            "10.1.0.1 9080→8080 9090→9090",
            "10.1.0.2 9080→8080 9090→9090"
        ]
    );
    assert_eq!(
        found[0].labels.get("version"),
        Some("v1"),
        "the pod's labels serve subsets"
    );
    assert_eq!(found[0].service_account.as_deref(), Some("reviews"));
    assert_eq!(&*found[0].locality.zone, "eu-1a");
    assert_eq!(
        [found[0].health, found[1].health],
        [Health::Healthy, Health::Draining]
    );
}

#[test]
fn services_without_slices_take_the_pods_they_select() {
    let (_, objects) = load(SHOP);
    let ratings = service(&objects, "shop/ratings.shop.svc.cluster.local");
    assert!(ratings.headless);
    assert_eq!(ratings.resolution, Resolution::Passthrough);
    let namespaces = ["shop", "team-b"].map(Namespace::new).into();
    assert_eq!(ratings.export_to, ExportTo::Namespaces(namespaces));
    let found = endpoints(&objects, "shop/ratings.shop.svc.cluster.local");
    assert_eq!(
        places(&found),
        ["10.1.0.5 9080→7070", "10.1.0.6 9080→7071"],
        "named target port"
    );
    assert_eq!(found[0].hostname.as_deref(), Some("ratings-0"));
    assert_eq!(
        [found[0].health, found[1].health],
        [Health::Healthy, Health::Unhealthy]
    );
    assert!(
        !objects.contains_key("workload Pod/shop/ratings-pending"),
        "it has no address"
    );
}

#[test]
fn endpoints_documents_and_external_names_are_read() {
    let (_, objects) = load(SHOP);
    let details = service(&objects, "shop/details.shop.svc.cluster.local");
    assert_eq!(details.ports[0].protocol, Protocol::Http2);
    let found = endpoints(&objects, "shop/details.shop.svc.cluster.local");
    assert_eq!(
        places(&found),
        ["10.1.0.7 80→8080", "10.1.0.8 80→8080", "10.1.0.9 80→8080"]
    );
    assert_eq!(found[0].health, Health::Unhealthy);
    let bank = service(&objects, "shop/bank.shop.svc.cluster.local");
    assert_eq!((bank.resolution, bank.external), (Resolution::Dns, true));
    let found = endpoints(&objects, "shop/bank.shop.svc.cluster.local");
    assert_eq!(places(&found), ["api.bank.example 443→443"]);
}

#[test]
fn kinds_that_are_no_part_of_a_mesh_are_ignored_by_name() {
    let (store, _) = load(SHOP);
    let ignored: Vec<String> = store
        .statuses()
        .filter(|status| status.state == ObjectState::Ignored)
        .filter_map(|status| status.object.as_ref().map(ToString::to_string))
        .collect();
    assert_eq!(
        ignored,
        ["Deployment/shop/reviews-v1", "ServiceAccount/shop/reviews"]
    );
}

#[test]
fn service_entries_become_services_with_endpoints() {
    let (_, objects) = load(OUTSIDE);
    let weather = service(&objects, "shop/api.weather.example");
    assert!(weather.external && weather.resolution == Resolution::Dns);
    assert_eq!(
        places(&endpoints(&objects, "shop/api.weather.example")),
        ["api.weather.example 443→8443"]
    );
    assert_eq!(
        places(&endpoints(&objects, "shop/alt.weather.example")),
        ["alt.weather.example 443→8443"]
    );
    let legacy = service(&objects, "shop/legacy.example");
    assert!(!legacy.external && legacy.addresses.len() == 2);
    let found = endpoints(&objects, "shop/legacy.example");
    assert_eq!(places(&found), ["10.9.0.1 80→8080", "10.9.0.2 80→7777"]);
    assert_eq!(
        (found[1].weight, &*found[1].locality.zone),
        (Weight(5), "west")
    );
    assert_eq!(found[1].labels.get("version"), Some("v1"));
    assert_eq!(
        (&*found[0].network, found[0].service_account.as_deref()),
        ("vm", Some("legacy"))
    );
    assert_eq!(
        places(&endpoints(&objects, "shop/machines.example")),
        ["10.9.1.1 80→8000"]
    );
    let wide = service(&objects, "shop/*.wide.example");
    assert_eq!(wide.resolution, Resolution::Passthrough);
    assert_eq!(endpoints(&objects, "shop/*.wide.example"), []);
}

fn text(value: &str) -> Arc<str> {
    value.into()
}

fn reviews_rule() -> Arc<VirtualService> {
    let (_, objects) = load(RULES);
    match objects.get("VirtualService/shop/reviews") {
        Some(Object::VirtualService(rule)) => Arc::clone(rule),
        _ => panic!("{:?}", objects.keys()),
    }
}

#[test]
fn virtual_services_keep_hosts_gateways_and_matches() {
    let rule = reviews_rule();
    assert_eq!(
        rule.hosts,
        [
            host("reviews.shop.svc.cluster.local"),
            host("reviews.example.com")
        ]
    );
    let named = |namespace, name: &str| GatewayRef::Named {
        namespace: Namespace::new(namespace),
        name: name.into(),
    };
    assert_eq!(
        rule.gateways,
        [
            GatewayRef::Mesh,
            named("shop", "front"),
            named("other", "back")
        ]
    );
    assert_eq!(
        rule.export_to,
        ExportTo::Namespaces([Namespace::new("shop")].into())
    );
    let canary = &rule.http[0];
    let expected = HttpMatch {
        name: text("testers"),
        uri: Some(StringMatch::Prefix(text("/reviews"))),
        ignore_uri_case: true,
        scheme: Some(StringMatch::Exact(text("http"))),
        method: Some(StringMatch::Exact(text("GET"))),
        authority: Some(StringMatch::Regex(text("reviews\\..*"))),
        headers: [
            (text("x-user"), StringMatch::Exact(text("jo"))),
            (text("x-any"), StringMatch::Present),
        ]
        .into(),
        without_headers: [(text("x-bot"), StringMatch::Prefix(text("crawl")))].into(),
        query_params: [(text("beta"), StringMatch::Exact(text("1")))].into(),
        port: Some(port(9080)),
        source_labels: [("app", "page")].into_iter().collect(),
        source_namespace: Some(Namespace::new("shop")),
        gateways: vec![GatewayRef::Mesh],
        stat_prefix: text("canary"),
    };
    assert_eq!(canary.matches, [expected]);
}

#[test]
fn routes_keep_what_they_do_with_a_request() {
    let rule = reviews_rule();
    let canary = &rule.http[0];
    assert_eq!(canary.timeout, Some(Duration::from_millis(2500)));
    let retries = canary.retries.as_ref().expect("given");
    assert_eq!(
        (retries.attempts, retries.retry_on.as_deref()),
        (3, Some("5xx,reset,503"))
    );
    assert_eq!(retries.per_try_timeout, Some(Duration::from_millis(500)));
    let fault = canary.fault.as_ref().expect("given");
    let (delay, abort) = (
        fault.delay.as_ref().expect("given"),
        fault.abort.as_ref().expect("given"),
    );
    assert_eq!(
        (delay.percent.millionths(), delay.duration.as_secs()),
        (125_000, 1)
    );
    assert_eq!(
        (abort.percent.millionths(), abort.kind),
        (1000, AbortKind::Http(503))
    );
    assert_eq!(
        canary.mirror.as_ref().expect("given").host,
        host("shadow.shop.svc.cluster.local")
    );
    assert_eq!(
        canary.mirror_percent.expect("given"),
        Percent::new(10.0).expect("in range")
    );
    let rewrite = canary.rewrite.as_ref().expect("given");
    assert_eq!(
        (rewrite.uri.as_deref(), rewrite.authority.as_deref()),
        (Some("/v2"), Some("v2.example.com"))
    );
    assert_eq!(
        canary.headers.request.set,
        [(text("x-one"), text("a"))].into()
    );
    assert_eq!(canary.headers.request.remove, [text("x-three")]);
    let HttpAction::Forward(destinations) = &canary.action else {
        panic!("{canary:?}")
    };
    let split: Vec<_> = destinations
        .iter()
        .map(|d| {
            (
                d.destination.host.as_str(),
                d.destination.subset.as_deref(),
                d.weight.0,
            )
        })
        .collect();
    let reviews = "reviews.shop.svc.cluster.local";
    assert_eq!(
        split,
        [(reviews, Some("v1"), 90), (reviews, Some("v2"), 10)]
    );
    assert!(!destinations[1].headers.is_empty());
    let HttpAction::Redirect(redirect) = &rule.http[1].action else {
        panic!()
    };
    assert_eq!(
        (redirect.code, redirect.port),
        (302, RedirectPort::Number(port(8443)))
    );
    assert_eq!(redirect.path, Some(RedirectPath::Full(text("/new"))));
    let HttpAction::Respond(response) = &rule.http[2].action else {
        panic!()
    };
    assert_eq!(
        (response.status, &response.body),
        (404, &ResponseBody::Text(text("nothing here")))
    );
}

#[test]
fn destination_rules_gateways_and_sidecars_keep_their_semantics() {
    let (_, objects) = load(RULES);
    let Some(Object::DestinationRule(rule)) = objects.get("DestinationRule/shop/reviews") else {
        panic!();
    };
    let settings = rule.effective(rule.subset("v2"), port(9080));
    assert_eq!(
        settings.load_balancer.and_then(|lb| lb.policy),
        Some(LoadBalancer::RoundRobin)
    );
    let pool = settings.connection_pool.expect("inherited");
    assert_eq!(
        (pool.tcp.max_connections, pool.http.max_retries),
        (Some(100), Some(5))
    );
    assert_eq!(pool.tcp.connect_timeout, Some(Duration::from_millis(30)));
    assert_eq!(pool.http.h2_upgrade, H2Upgrade::Upgrade);
    let outlier = settings.outlier_detection.expect("inherited");
    assert_eq!(
        (outlier.consecutive_5xx, outlier.max_ejection_percent),
        (Some(7), Some(50))
    );
    let tls = rule.effective(None, port(9090)).tls.expect("given");
    assert_eq!(
        (tls.mode, tls.ca_file.as_deref()),
        (ClientTlsMode::Simple, Some("/etc/ca.pem"))
    );

    let Some(Object::Gateway(gateway)) = objects.get("Gateway/shop/front") else {
        panic!()
    };
    let [plain, secure] = gateway.servers.as_slice() else {
        panic!()
    };
    assert!(plain.https_redirect && plain.tls.is_none());
    assert_eq!(plain.hosts[0].scope, HostScope::Any);
    assert_eq!(
        plain.hosts[1].scope,
        HostScope::Namespace(Namespace::new("shop"))
    );
    let tls = secure.termination().expect("given");
    let ServerIdentity::Files { pairs, .. } = &tls.identity else {
        panic!("{tls:?}")
    };
    assert_eq!(
        (&*pairs[0].certificate, tls.min_version),
        ("/etc/cert.pem", Some(TlsVersion::V1_2))
    );

    let Some(Object::Sidecar(sidecar)) = objects.get("Sidecar/shop/default") else {
        panic!()
    };
    sidecar_means(sidecar);
}

#[test]
fn patches_are_read_as_messages_of_envoy() {
    let text = include_str!("data/good/patches.yaml");
    let read = |text: &str| {
        let mut store = FileStore::new(MeshSettings::default());
        let update = store.apply("patches.yaml", Some(text));
        assert_eq!(update.statuses[0].problems, []);
        let object = store.objects().next().cloned();
        match object {
            Some(Object::EnvoyFilter(filter)) => filter,
            other => panic!("{other:?}"),
        }
    };
    let filter = read(text);
    assert_eq!((filter.priority, filter.patches.len()), (-1, 2));
    assert!(filter.selector.is_some());
    let [first, second] = &filter.patches[..] else {
        panic!("two patches")
    };
    assert_eq!(first.context, PatchContext::SidecarInbound);
    assert_eq!(first.target, PatchTarget::HttpFilter);
    let value = first.value.as_ref().expect("a value");
    assert!(value.message.ends_with("HttpFilter") && !value.body.is_empty());
    assert_eq!(
        (second.operation, &second.value),
        (PatchOperation::Remove, &None)
    );
    // Another way to write the same is no change: the order of keys, the form of names.
    let other = text
        .replace(
            "{b: [1, {c: true}], a: text}",
            "{a: text, b: [1, {c: true}]}",
        )
        .replace("typedConfig", "typed_config");
    assert_ne!(other, text);
    assert_eq!(read(&other), filter);
}

#[test]
fn mesh_settings_are_read_over_istios_defaults() {
    let text = "accessLogFile: /dev/stdout\nproxyHttpPort: 15080\nconnectTimeout: 3s\n\
                outboundTrafficPolicy: {mode: REGISTRY_ONLY}\ndefaultServiceExportTo: [\"~\"]\n\
                enableAutoMtls: false\ndefaultConfig: {concurrency: 2, gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: APPEND_FORWARD, proxyProtocol: {}}}\n";
    let settings = mesh_config::parse("mesh.yaml", text).expect("valid");
    let expected = MeshSettings {
        access_log_file: Some("/dev/stdout".into()),
        proxy_http_port: Some(port(15080)),
        connect_timeout: Duration::from_secs(3),
        proxy: Arc::new(ProxySettings {
            topology: GatewayTopology {
                trusted_proxies: 2,
                forward_client_cert: Some(ForwardClientCert::AppendForward),
                proxy_protocol: true,
            },
            ..ProxySettings::default()
        }),
        outbound_policy: OutboundTrafficPolicy::RegistryOnly,
        default_service_export_to: Some(ExportTo::Nobody),
        auto_mtls: false,
        ..MeshSettings::default()
    };
    assert_eq!(settings, expected);
    assert_eq!(
        mesh_config::parse("empty.yaml", "").expect("valid"),
        MeshSettings::default()
    );
}

#[test]
fn a_pod_that_comes_later_gives_its_labels_to_the_endpoint() {
    let (mut store, objects) = load(SHOP);
    let before = endpoints(&objects, "shop/reviews.shop.svc.cluster.local");
    assert!(before[1].labels.is_empty());
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: reviews-v2-0, namespace: shop, labels: {version: v2}}\nstatus: {podIP: 10.1.0.2}\n";
    let update = store.apply("later.yaml", Some(pod));
    let keys: Vec<String> = update
        .changes
        .iter()
        .map(|change| change.key.to_string())
        .collect();
    assert_eq!(
        keys,
        [
            "endpoints of shop/reviews.shop.svc.cluster.local",
            "workload Pod/shop/reviews-v2-0"
        ]
    );
    let Some(Object::Endpoints(list)) = &update.changes[0].object else {
        panic!()
    };
    assert_eq!(list.endpoints[1].labels.get("version"), Some("v2"));
    assert_eq!(
        list.endpoints[1].address,
        EndpointAddress::Ip([10, 1, 0, 2].into())
    );
    let update = store.apply("later.yaml", None);
    assert_eq!(update.changes.len(), 2, "and takes them along when it goes");
}

fn sidecar_means(sidecar: &weft_model::Sidecar) {
    use weft_model::{CaptureMode, DefaultEndpoint, Protocol};
    let [web, unix, rest] = &sidecar.egress[..] else {
        panic!("{:?}", sidecar.egress)
    };
    let shop = Namespace::new("shop");
    let sees =
        |namespace: &str, name: &str| rest.imports(&shop, &Namespace::new(namespace), &host(name));
    assert!(sees("shop", "a.b") && sees("istio-system", "a.b"));
    assert!(sees("x", "reviews.shop.svc.cluster.local") && !sees("x", "a.b"));
    assert_eq!(
        (web.bind.as_deref(), web.capture, web.matched_port()),
        (Some("127.0.0.5"), CaptureMode::None, Some(port(9080)))
    );
    assert!(web.imports(&shop, &shop, &host("a.com")));
    assert!(!web.imports(&shop, &Namespace::new("other"), &host("a.com")));
    assert_eq!(unix.unix_path(), Some("/run/out.sock"));
    assert_eq!(unix.matched_port(), None);
    assert_eq!(
        [Some(port(9080)), Some(port(7)), None].map(|port| sidecar.egress_of(port)),
        [Some(0), Some(2), Some(2)]
    );
    let proxy = sidecar.egress_proxy.as_ref().expect("given");
    assert_eq!(
        (sidecar.outbound_policy, proxy.port),
        (Some(OutboundTrafficPolicy::AllowAny), Some(port(80)))
    );
    let endpoints = sidecar.ingress.iter().map(|listener| &listener.endpoint);
    assert_eq!(
        endpoints.collect::<Vec<_>>(),
        [
            &DefaultEndpoint::Loopback {
                v6: false,
                port: port(8080)
            },
            &DefaultEndpoint::Unix("/run/app.sock".into()),
            &DefaultEndpoint::Instance {
                v6: true,
                port: port(81)
            },
        ]
    );
    let protocols = sidecar.ingress.iter().map(|listener| listener.protocol);
    assert_eq!(
        protocols.collect::<Vec<_>>(),
        [Protocol::Https, Protocol::Tcp, Protocol::Unsupported]
    );
    assert!(sidecar.ingress[0].tls.is_some() && sidecar.ingress[1].tls.is_none());
    let limits = |port| {
        let pool = sidecar.pool_at(port).expect("given");
        (pool.tcp.max_connections, pool.http.max_requests)
    };
    assert_eq!(limits(9443), (None, Some(3)));
    assert_eq!(limits(9081), (Some(9), None));
}

#[test]
fn a_sidecar_has_a_bounded_number_of_listeners() {
    let listeners: Vec<String> = (1..=1001)
        .map(|port| format!("{{port: {{number: {port}, protocol: HTTP}}, hosts: ['./*']}}"))
        .collect();
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: many, namespace: shop}}\nspec: {{egress: [{}]}}\n",
        listeners.join(", ")
    );
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("many.yaml", Some(&text));
    assert_eq!(update.changes, []);
    let told: Vec<String> = update
        .statuses
        .iter()
        .flat_map(|status| status.problems.iter().map(ToString::to_string))
        .collect();
    assert!(
        told.len() == 1 && told[0].contains("1001 listeners are more than 1000"),
        "{told:?}"
    );
}
