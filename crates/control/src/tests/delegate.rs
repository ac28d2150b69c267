//! Routes that a rule leaves to others, and what happens when those change.

use weft_xds::TypeUrl;

use super::worlds::SHOP;
use super::{Mesh, sidecar};
use crate::pb::route::v3::{Route, route_match::PathSpecifier};

const HOST: &str = "reviews.shop.svc.cluster.local";

/// The split of the shop is left to `team/reviews`.
fn mesh(condition: &str, delegate: &str) -> Mesh {
    let begin = SHOP.find("  - name: split").expect("the split");
    let end = SHOP[begin..].find("---").expect("an end") + begin;
    let root = format!(
        "  - name: root\n    match: [{{uri: {{prefix: /a}}}}]\n    timeout: 7s\n    {condition}delegate: {{name: reviews, namespace: team}}\n  - name: rest\n    route: [{{destination: {{host: {HOST}}}}}]\n"
    );
    let mut mesh = Mesh::new(&format!("{}{root}{}", &SHOP[..begin], &SHOP[end..]));
    if !delegate.is_empty() {
        mesh.edit("team.yaml", delegate);
    }
    mesh
}

fn delegate(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: team}}\nspec:\n{spec}"
    )
}

fn routes(mesh: &mut Mesh) -> Vec<Route> {
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    config.host("9080", &format!("{HOST}:9080")).routes
}

fn names(mesh: &mut Mesh) -> Vec<String> {
    routes(mesh).into_iter().map(|r| r.name).collect()
}

fn faults(mesh: &mut Mesh) -> Vec<String> {
    let faults = mesh.world.delegate_faults();
    let told = faults.iter().map(|f| {
        let origins: Vec<String> = f.origins.iter().map(ToString::to_string).collect();
        assert!(
            origins.contains(&"VirtualService/shop/reviews".to_owned()),
            "{origins:?}"
        );
        f.message.to_string()
    });
    told.collect()
}

const TEAM: &str = "  http:
  - name: deep
    match: [{uri: {prefix: /a/b}}]
    retries: {attempts: 5}
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2}}]
  - name: elsewhere
    match: [{uri: {prefix: /c}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local}}]
  - route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1}}]
";

#[test]
fn routes_of_a_delegate_stand_where_it_is_named() {
    let mut mesh = mesh("", &delegate(TEAM));
    assert_eq!(names(&mut mesh), ["root-deep", "root", "rest"]);
    let first = routes(&mut mesh).remove(0);
    let path = first.r#match.and_then(|m| m.path_specifier);
    assert_eq!(path, Some(PathSpecifier::Prefix("/a/b".to_owned())));
    let Some(crate::pb::route::v3::route::Action::Route(action)) = first.action else {
        panic!("forwards")
    };
    assert_eq!(action.timeout.map(|t| t.seconds), Some(7), "the root's");
    let retries = action.retry_policy.and_then(|p| p.num_retries);
    assert_eq!(retries.map(|n| n.value), Some(5), "the delegate's");
    let told = faults(&mut mesh);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("http[0].delegate: http[1] of VirtualService/team/reviews is left out"),
        "{told:?}"
    );
}

#[test]
fn both_rules_are_origins_and_edits_of_both_arrive() {
    let mut mesh = mesh("", &delegate(TEAM));
    let proxy = sidecar("10.0.0.9", "shop");
    let view = mesh.view(&proxy);
    let origins = view.origins(&TypeUrl::ROUTE, "9080").expect("origins");
    let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
    for name in ["VirtualService/shop/reviews", "VirtualService/team/reviews"] {
        assert!(origins.contains(&name.to_owned()), "{origins:?}");
    }
    assert_eq!(
        mesh.edit("team.yaml", &delegate(&TEAM.replace("deep", "deeper"))),
        1
    );
    assert_eq!(names(&mut mesh), ["root-deeper", "root", "rest"]);
    let same = delegate(TEAM)
        .replace("spec:", "# a remark\nspec:")
        .replace("deep", "deeper");
    assert_eq!(mesh.edit("team.yaml", &same), 0);
    assert_eq!(mesh.edit("team.yaml", ""), 1);
    assert_eq!(names(&mut mesh), ["rest"]);
}

#[test]
fn a_delegate_that_is_not_there_costs_its_route_only() {
    let mut mesh = mesh("", "");
    assert_eq!(names(&mut mesh), ["rest"]);
    let told = faults(&mut mesh);
    assert_eq!(
        told,
        [
            "http[0].delegate: VirtualService/team/reviews does not exist: create it, or remove the route"
        ]
    );
    mesh.edit("team.yaml", &delegate(TEAM));
    assert_eq!(names(&mut mesh), ["root-deep", "root", "rest"]);
}

#[test]
fn a_delegate_is_without_hosts_and_exported_to_the_root() {
    let with_hosts = delegate(&TEAM.replace("  http:", "  hosts: [other.team]\n  http:"));
    let mut root = mesh("", &with_hosts);
    assert_eq!(names(&mut root), ["rest"]);
    assert!(faults(&mut root)[0].contains("has hosts of its own"));
    let private = delegate(&TEAM.replace("  http:", "  exportTo: [\".\"]\n  http:"));
    root.edit("team.yaml", &private);
    assert_eq!(names(&mut root), ["rest"]);
    assert!(faults(&mut root)[0].contains("is not exported to namespace shop"));
    let shared = delegate(&TEAM.replace("  http:", "  exportTo: [shop]\n  http:"));
    root.edit("team.yaml", &shared);
    assert_eq!(names(&mut root), ["root-deep", "root", "rest"]);
}

#[test]
fn rules_that_lead_to_themselves_end_there() {
    let text = SHOP.replace(
        "  - name: split",
        "  - delegate: {name: reviews}\n  - name: split",
    );
    let mut mesh = Mesh::new(&text);
    assert_eq!(names(&mut mesh), ["split"]);
    assert!(faults(&mut mesh)[0].contains("has hosts of its own"));
}
