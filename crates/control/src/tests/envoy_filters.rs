//! `EnvoyFilter`s: what is patched, in which order, for whom, and what a bad patch costs.

use std::sync::Arc;

use prost::Message;
use weft_model::{EnvoyFilter, Object, PatchValue};
use weft_sources::Change;
use weft_xds::TypeUrl;

use super::worlds::SHOP;
use super::{Mesh, gateway, grpc, manager, proxy, sidecar};
use crate::pb::listener::v3::FilterChain;
use crate::pb::route::v3::VirtualHost;

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// A filter with these patches, in YAML flow style.
fn filter(name: &str, namespace: &str, patches: &[&str]) -> String {
    filter_with(name, namespace, "", patches)
}

fn filter_with(name: &str, namespace: &str, more: &str, patches: &[&str]) -> String {
    let patches: Vec<String> = patches.iter().map(|p| format!("  - {p}\n")).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{more}  configPatches:\n{}",
        patches.concat()
    )
}

fn timeout(seconds: u32) -> String {
    format!(
        "{{applyTo: CLUSTER, match: {{cluster: {{name: \"{REVIEWS}\"}}}}, \
         patch: {{operation: MERGE, value: {{connect_timeout: {seconds}s}}}}}}"
    )
}

fn server_name(context: &str, name: &str) -> String {
    format!(
        "{{applyTo: NETWORK_FILTER, match: {{context: {context}, listener: {{filterChain: {{filter: \
         {{name: envoy.filters.network.http_connection_manager}}}}}}}}, patch: {{operation: MERGE, value: \
         {{typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, server_name: {name}}}}}}}}}"
    )
}

/// A host that is added to the routes of port 9080.
fn extra_host(name: &str, domain: &str) -> String {
    format!(
        "{{applyTo: VIRTUAL_HOST, match: {{routeConfiguration: {{name: \"9080\"}}}}, patch: {{operation: ADD, \
         value: {{name: {name}, domains: [{domain}], routes: [{{match: {{prefix: /}}, direct_response: \
         {{status: 204}}}}]}}}}}}"
    )
}

fn mesh(filters: &[String]) -> Mesh {
    let mut mesh = Mesh::new(SHOP);
    mesh.edit("filters.yaml", &filters.concat());
    mesh
}

fn connect_timeout(mesh: &mut Mesh, proxy: &crate::node::Proxy) -> i64 {
    let cluster = mesh.config(proxy).cluster(REVIEWS);
    cluster.connect_timeout.expect("a timeout").seconds
}

#[test]
fn filters_are_applied_by_priority_then_root_namespace_then_age_and_name() {
    let later = filter("a", "shop", &[&timeout(5)]);
    let root = filter("z", "istio-system", &[&timeout(4)]);
    let last = filter_with("b", "istio-system", "  priority: 1\n", &[&timeout(6)]);
    let other = filter("a", "other", &[&timeout(9)]);
    let caller = sidecar("10.0.0.9", "shop");
    let mut mesh = mesh(&[later.clone(), root.clone(), other.clone()]);
    assert_eq!(connect_timeout(&mut mesh, &caller), 5);
    mesh.edit("filters.yaml", &[later, root, last, other].concat());
    assert_eq!(connect_timeout(&mut mesh, &caller), 6);
    // The rule's own timeout, where no filter selects the proxy.
    mesh.edit("filters.yaml", &filter("a", "other", &[&timeout(9)]));
    assert_eq!(connect_timeout(&mut mesh, &caller), 3);
}

#[test]
fn proxies_are_chosen_by_labels_version_and_metadata() {
    let patch = timeout(8).replace(
        "match: {",
        "match: {proxy: {proxyVersion: '^1\\.3', metadata: {TIER: gold}}, ",
    );
    let selector = "  workloadSelector: {labels: {app: caller}}\n";
    let mut mesh = mesh(&[filter_with("some", "shop", selector, &[&patch])]);
    let id = "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local";
    let (labels, version) = (
        ("LABELS", r#"{"app":"caller"}"#),
        ("ISTIO_VERSION", "1.32.0"),
    );
    let tier = ("TIER", "gold");
    for (metadata, expected) in [
        (&[labels, version, tier][..], 8),
        (&[labels, ("ISTIO_VERSION", "1.20.0"), tier], 3),
        (&[labels, tier], 3),
        (&[labels, version, ("TIER", "silver")], 3),
        (&[version, tier], 3),
    ] {
        let node = proxy(id, metadata);
        assert_eq!(connect_timeout(&mut mesh, &node), expected, "{metadata:?}");
    }
}

#[test]
fn inbound_outbound_and_gateway_listeners_are_told_apart() {
    let filters = ["SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"]
        .map(|side| server_name(side, &side.to_lowercase()));
    let all: Vec<&str> = filters.iter().map(String::as_str).collect();
    let mut mesh = mesh(&[filter("names", "istio-system", &all)]);
    let name = |chain: &FilterChain| manager(chain).server_name;
    let config = mesh.config(&sidecar("10.0.0.1", "shop"));
    let chains = config.listener("virtualInbound").filter_chains;
    let inbound = chains.iter().find(|c| c.name.starts_with("0.0.0.0_9080"));
    assert_eq!(name(inbound.expect("a chain")), "sidecar_inbound");
    let outbound = config.listener("0.0.0.0_9080").filter_chains;
    assert_eq!(name(&outbound[0]), "sidecar_outbound");
    let front = mesh
        .config(&gateway())
        .listener("0.0.0.0_8080")
        .filter_chains;
    assert_eq!(name(&front[0]), "gateway");
    // gRPC clients take no patches.
    let plain = Mesh::new(SHOP).view(&grpc("shop")).view.version();
    assert_eq!(mesh.view(&grpc("shop")).view.version(), plain);
}

#[test]
fn patches_that_are_for_nothing_leave_everything_as_it_is() {
    let elsewhere = [
        timeout(5).replace("reviews", "nobody"),
        server_name("GATEWAY", "x").replace("listener: {", "listener: {name: nobody, "),
        server_name("SIDECAR_INBOUND", "x").replace("listener: {", "listener: {name: nobody, "),
        extra_host("x", "x.example.com").replace("9080", "1234"),
    ];
    let all: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
    let mut patched = mesh(&[filter("none", "istio-system", &all)]);
    let mut plain = Mesh::new(SHOP);
    for node in [sidecar("10.0.0.1", "shop"), gateway()] {
        let (patched, plain) = (patched.view(&node), plain.view(&node));
        assert_eq!(patched.view.version(), plain.view.version());
        assert_eq!(patched.faults().count(), 0);
    }
}

#[test]
fn merging_nothing_changes_no_message() {
    let targets = [
        "LISTENER",
        "FILTER_CHAIN",
        "NETWORK_FILTER",
        "HTTP_FILTER",
        "ROUTE_CONFIGURATION",
        "VIRTUAL_HOST",
        "HTTP_ROUTE",
        "CLUSTER",
    ];
    let all = targets
        .map(|target| format!("{{applyTo: {target}, patch: {{operation: MERGE, value: {{}}}}}}"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut patched = mesh(&[filter("nothing", "istio-system", &all)]);
    let mut plain = Mesh::new(SHOP);
    for node in [sidecar("10.0.0.1", "shop"), gateway()] {
        let (patched, plain) = (patched.view(&node), plain.view(&node));
        assert_eq!(patched.faults().count(), 0);
        for set in plain.view.sets() {
            let kind = set.type_url();
            let type_name = weft_proto::pool::full_name_of(kind.as_str()).to_owned();
            for before in set.iter() {
                let after = patched.view.resource(kind, &before.name).expect("kept");
                let json = |body: &[u8]| {
                    let any = weft_proto::Any {
                        type_url: type_name.clone(),
                        value: body.to_vec(),
                    };
                    weft_proto::json::any_to_json(&any)
                };
                assert_eq!(
                    json(&after.body.to_bytes()),
                    json(&before.body.to_bytes()),
                    "{}",
                    before.name
                );
            }
        }
    }
}

#[test]
fn a_resource_names_the_filters_that_changed_it_and_no_others() {
    let mut mesh = mesh(&[
        filter("timeouts", "shop", &[&timeout(5)]),
        filter("names", "shop", &[&server_name("SIDECAR_OUTBOUND", "x")]),
        filter(
            "hosts",
            "shop",
            &[&extra_host("extra", "extra.example.com")],
        ),
    ]);
    let view = mesh.view(&sidecar("10.0.0.9", "shop"));
    let filters = |kind: TypeUrl, name: &str| -> Vec<String> {
        let origins = view.origins(&kind, name).expect("origins");
        let all = origins.iter().map(ToString::to_string);
        all.filter(|o| o.starts_with("EnvoyFilter")).collect()
    };
    let one = |name: &str| vec![format!("EnvoyFilter/shop/{name}")];
    assert_eq!(filters(TypeUrl::CLUSTER, REVIEWS), one("timeouts"));
    assert_eq!(filters(TypeUrl::LISTENER, "0.0.0.0_9080"), one("names"));
    assert_eq!(filters(TypeUrl::ROUTE, "9080"), one("hosts"));
    let other = "outbound|9080|v1|reviews.shop.svc.cluster.local";
    assert_eq!(filters(TypeUrl::CLUSTER, other), Vec::<String>::new());
}

#[test]
fn proxies_of_one_set_share_what_is_patched_and_an_edit_costs_what_it_touches() {
    let mut mesh = mesh(&[filter("timeouts", "shop", &[&timeout(5)])]);
    let (one, two) = (sidecar("10.0.0.8", "shop"), sidecar("10.0.0.9", "shop"));
    let sets = [&one, &two].map(|node| {
        let view = mesh.view(node);
        view.view.get(&TypeUrl::CLUSTER).expect("clusters").clone()
    });
    assert!(sets[0].ptr_eq(&sets[1]), "one set for both");
    let before = mesh.world.engine.counters().computed;
    let unrelated = filter("front", "infra", &[&server_name("GATEWAY", "x")]);
    mesh.edit("other.yaml", &unrelated);
    let computed = mesh.world.engine.counters().computed - before;
    assert_eq!(
        computed, 0,
        "a filter of another namespace wakes nobody here"
    );
}

#[test]
fn extensions_are_served_by_name() {
    let added = "{applyTo: EXTENSION_CONFIG, patch: {operation: ADD, value: {name: found, typed_config: \
        {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 4096}}}}";
    let mut mesh = mesh(&[filter("ecds", "shop", &[added])]);
    let view = mesh.view(&sidecar("10.0.0.9", "shop"));
    let resource = view.view.resource(&TypeUrl::EXTENSION_CONFIG, "found");
    let body = resource.expect("the extension").body.to_bytes();
    let extension = crate::pb::core::v3::TypedExtensionConfig::decode(body).expect("valid");
    assert_eq!(extension.name, "found");
    assert!(view.origins(&TypeUrl::EXTENSION_CONFIG, "found").is_some());
    let elsewhere = mesh.view(&sidecar("10.0.0.9", "other"));
    let resource = elsewhere.view.resource(&TypeUrl::EXTENSION_CONFIG, "found");
    assert!(resource.is_none());
}

/// Puts a changed filter into the mesh as if the sources had let it through.
fn smuggle(mesh: &mut Mesh, name: &str, change: impl FnOnce(&mut EnvoyFilter)) {
    let filter = mesh.world.objects().find_map(|object| match object {
        Object::EnvoyFilter(filter) if &*filter.meta.origin.name == name => {
            Some(Arc::clone(filter))
        }
        _ => None,
    });
    let mut filter = (*filter.expect("the filter")).clone();
    change(&mut filter);
    let object = Object::EnvoyFilter(filter.into());
    mesh.world.apply(&[Change {
        key: object.key(),
        object: Some(object),
    }]);
    mesh.world.engine.settle();
}

fn faulty(mesh: &mut Mesh, node: &crate::node::Proxy) -> Vec<(String, Vec<String>)> {
    let view = mesh.view(node);
    let faults = view.faults().map(|fault| {
        let origins = fault.origins.iter().map(ToString::to_string);
        (fault.message.to_string(), origins.collect())
    });
    faults.collect()
}

#[test]
fn a_patch_that_breaks_a_resource_is_left_out_there_and_the_others_hold() {
    // A negative timeout breaks Envoy's rule for the field, which a merge alone cannot know.
    let broken = timeout(0).replace("connect_timeout: 0s", "connect_timeout: -1s");
    let limit = timeout(5);
    let mut mesh = mesh(&[
        filter(
            "good",
            "shop",
            &[&limit, &extra_host("extra", "extra.example.com")],
        ),
        filter_with("worse", "shop", "  priority: 3\n", &[&broken]),
    ]);
    let caller = sidecar("10.0.0.9", "shop");
    assert_eq!(connect_timeout(&mut mesh, &caller), 5);
    let told = faulty(&mut mesh, &caller);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0.contains("connect_timeout"), "{told:?}");
    assert!(
        told[0].1.contains(&"EnvoyFilter/shop/worse".to_owned()),
        "{told:?}"
    );
    let host = mesh.config(&caller).host("9080", "extra");
    assert_eq!(host.domains, ["extra.example.com"]);
    mesh.edit("filters.yaml", &filter("good", "shop", &[&limit]));
    assert_eq!(faulty(&mut mesh, &caller), []);
}

#[test]
fn a_domain_that_a_patch_takes_twice_costs_that_host_only() {
    let taken = extra_host("thief", "reviews.shop.svc.cluster.local");
    let fine = extra_host("extra", "extra.example.com");
    let mut mesh = mesh(&[filter("hosts", "shop", &[&taken, &fine])]);
    let caller = sidecar("10.0.0.9", "shop");
    let configuration = mesh.config(&caller).route("9080");
    let names: Vec<&str> = configuration
        .virtual_hosts
        .iter()
        .map(|h| &*h.name)
        .collect();
    assert!(
        names.contains(&"extra") && !names.contains(&"thief"),
        "{names:?}"
    );
    let told = faulty(&mut mesh, &caller);
    assert!(
        told[0].0.contains("thief") && told[0].0.contains("domain"),
        "{told:?}"
    );
}

#[test]
fn a_host_that_envoy_would_not_load_is_left_as_it_was() {
    let patch = "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: \
        \"reviews.shop.svc.cluster.local:9080\"}}}, patch: {operation: MERGE, value: \
        {include_attempt_count_in_response: true}}}";
    let mut mesh = mesh(&[filter("hosts", "shop", &[patch])]);
    let caller = sidecar("10.0.0.9", "shop");
    let reviews = "reviews.shop.svc.cluster.local:9080";
    let host = mesh.config(&caller).host("9080", reviews);
    assert!(host.include_attempt_count_in_response);
    smuggle(&mut mesh, "hosts", |filter| {
        let broken = VirtualHost {
            request_headers_to_remove: vec!["host".to_owned()],
            ..VirtualHost::default()
        };
        filter.patches[0].value = Some(PatchValue {
            message: "envoy.config.route.v3.VirtualHost".into(),
            body: broken.encode_to_vec().into(),
        });
    });
    let host = mesh.config(&caller).host("9080", reviews);
    assert_eq!(host.request_headers_to_remove, Vec::<String>::new());
    let told = faulty(&mut mesh, &caller);
    assert!(told[0].0.contains("may not be modified"), "{told:?}");
}
