//! What proxies would refuse stays behind, names its objects, and harms nothing else.

use std::sync::Arc;

use weft_model::{Object, RegexRewrite, Rewrite, VirtualService};
use weft_sources::Change;

use super::worlds::SHOP;
use super::{Mesh, sidecar};

const OTHER: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ratings, namespace: shop}
spec:
  hosts: [ratings.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.5}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: shop}
spec:
  hosts: [ratings.shop.svc.cluster.local]
  http:
  - name: first
    route: [{destination: {host: ratings.shop.svc.cluster.local}}]
";

/// Puts a changed rule into the mesh as if the sources had let it through.
fn smuggle(mesh: &mut Mesh, name: &str, change: impl FnOnce(&mut VirtualService)) {
    let rule = mesh.world.objects().find_map(|object| match object {
        Object::VirtualService(rule) if &*rule.meta.origin.name == name => Some(Arc::clone(rule)),
        _ => None,
    });
    let mut rule = (*rule.expect("the rule")).clone();
    change(&mut rule);
    let object = Object::VirtualService(rule.into());
    mesh.world.apply(&[Change {
        key: object.key(),
        object: Some(object),
    }]);
    mesh.world.engine.settle();
}

/// After `change`, the rule's last good form is served and its object carries a fault of this kind.
fn held_back(change: impl FnOnce(&mut VirtualService), reason: &str) {
    let mut mesh = Mesh::new(SHOP);
    let proxy = sidecar("10.0.0.9", "shop");
    let before = mesh.view(&proxy);
    assert_eq!(before.faults().count(), 0);
    smuggle(&mut mesh, "reviews", change);
    let after = mesh.view(&proxy);
    let versions = (after.view.version(), before.view.version());
    assert_eq!(versions.0, versions.1, "the last good form stays");
    let fault = after.faults().next().expect("a fault");
    assert!(fault.message.contains(reason), "{}", fault.message);
    let origins: Vec<String> = fault.origins.iter().map(ToString::to_string).collect();
    let named = origins.contains(&"VirtualService/shop/reviews".to_owned());
    assert!(named, "{origins:?}");
    let edited = SHOP.replace("weight: 90", "weight: 91");
    assert_eq!(mesh.edit("mesh.yaml", &edited), 1);
    assert_eq!(mesh.view(&proxy).faults().count(), 0);
}

fn rewrite(uri: Option<&str>, uri_regex: Option<(&str, &str)>) -> Rewrite {
    Rewrite {
        uri: uri.map(Into::into),
        uri_regex: uri_regex.map(|(pattern, substitution)| RegexRewrite {
            pattern: pattern.into(),
            substitution: substitution.into(),
        }),
        authority: None,
    }
}

fn set_header(rule: &mut VirtualService, value: &str) {
    let headers = &mut rule.http[0].headers.response.set;
    headers.insert("x".into(), value.into());
}

#[test]
fn a_field_that_breaks_its_rule() {
    held_back(
        |rule| rule.http[0].rewrite = Some(rewrite(Some("/a\nb"), None)),
        "prefix_rewrite",
    );
}

#[test]
fn a_header_format_that_is_none() {
    held_back(|rule| set_header(rule, "%FOO%"), "%FOO%");
}

#[test]
fn a_substitution_without_its_group() {
    held_back(
        |rule| rule.http[0].rewrite = Some(rewrite(None, Some(("^/a", "\\1")))),
        "\\1",
    );
}

#[test]
fn a_refused_route_leaves_the_other_hosts_of_its_port_alone() {
    let mut mesh = Mesh::new(SHOP);
    mesh.edit("other.yaml", OTHER);
    let proxy = sidecar("10.0.0.9", "shop");
    mesh.view(&proxy);
    smuggle(&mut mesh, "reviews", |rule| {
        set_header(rule, "%FOO%");
        rule.http[0].name = "broken".into();
    });
    let file = OTHER.replace("name: first", "name: second");
    assert_eq!(mesh.edit("other.yaml", &file), 1);
    let config = mesh.config(&proxy);
    let name = |host: &str| config.host("9080", host).routes[0].name.clone();
    assert_eq!(name("ratings.shop.svc.cluster.local:9080"), "second");
    assert_eq!(name("reviews.shop.svc.cluster.local:9080"), "split");
}
