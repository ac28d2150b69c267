//! Addresses that the mesh gives to services, and the table of names that tells them.

use prost::Message;
use weft_proto::istio::networking::nds::v1::NameTable;
use weft_xds::TypeUrl;

use super::{Mesh, proxy, sidecar};
use crate::node::Proxy;

const ENTRIES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ledger, namespace: shop}
spec:
  hosts: [ledger.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 5432, name: tcp, protocol: TCP}
  - {number: 80, name: http, protocol: HTTP}
status:
  addresses: [{value: 240.240.7.7, host: ledger.example.com}, {value: '2001:2::77', host: ledger.example.com}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: books, namespace: shop}
spec:
  hosts: [books.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 5432, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shy, namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}
spec:
  hosts: [shy.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 5433, name: tcp, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: tcp, port: 3306}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: tcp, port: 3306}]
endpoints:
- {addresses: [10.0.1.1], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.0.1.2], hostname: db-1, conditions: {ready: true}}
- {addresses: [10.0.1.3], hostname: db-2, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  ports: [{name: http, port: 80}]
";

fn captures(ips: &str) -> Proxy {
    let metadata = [("DNS_CAPTURE", "true"), ("INSTANCE_IPS", ips)];
    proxy(
        "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
        &metadata,
    )
}

fn table(mesh: &mut Mesh, proxy: &Proxy) -> NameTable {
    let view = mesh.config(proxy).0;
    let set = view.get(&TypeUrl::NAME_TABLE).expect("a name table");
    let only = set.iter().next().expect("one resource");
    assert_eq!(set.iter().count(), 1);
    NameTable::decode(only.body.to_bytes()).expect("valid")
}

fn addresses(table: &NameTable, host: &str) -> Vec<String> {
    table
        .table
        .get(host)
        .map(|info| info.ips.clone())
        .unwrap_or_default()
}

#[test]
fn only_who_answers_dns_queries_listens_on_assigned_addresses() {
    let mut mesh = Mesh::new(ENTRIES);
    let listeners = mesh.config(&captures("10.0.0.9")).names(&TypeUrl::LISTENER);
    assert!(
        listeners.contains(&"240.240.7.7_5432".to_owned()),
        "{listeners:?}"
    );
    let own = |name: &&String| name.starts_with("240.240.");
    assert_eq!(listeners.iter().filter(own).count(), 2, "{listeners:?}");
    // Who wants no address is told apart by its port.
    assert!(
        listeners.contains(&"0.0.0.0_5433".to_owned()),
        "{listeners:?}"
    );
    let plain = mesh.config(&sidecar("10.0.0.9", "shop"));
    let listeners = plain.names(&TypeUrl::LISTENER);
    assert_eq!(listeners.iter().filter(own).count(), 0, "{listeners:?}");
    assert!(
        listeners.contains(&"0.0.0.0_5432".to_owned()),
        "{listeners:?}"
    );
    assert!(plain.0.get(&TypeUrl::NAME_TABLE).is_none());
}

#[test]
fn requests_to_an_assigned_address_find_their_host() {
    let mut mesh = Mesh::new(ENTRIES);
    let host = "ledger.example.com:80";
    let both = mesh.config(&captures("10.0.0.9,fd00::9")).host("80", host);
    assert!(
        both.domains.contains(&"240.240.7.7".to_owned()),
        "{:?}",
        both.domains
    );
    assert!(
        both.domains.contains(&"[2001:2::77]".to_owned()),
        "{:?}",
        both.domains
    );
    let v6 = mesh.config(&captures("fd00::9")).host("80", host);
    assert!(
        !v6.domains.contains(&"240.240.7.7".to_owned()),
        "{:?}",
        v6.domains
    );
    let plain = mesh.config(&sidecar("10.0.0.9", "shop")).host("80", host);
    assert!(
        !plain.domains.contains(&"240.240.7.7".to_owned()),
        "{:?}",
        plain.domains
    );
}

#[test]
fn the_name_table_has_services_pods_and_assigned_addresses() {
    let mut mesh = Mesh::new(ENTRIES);
    let names = table(&mut mesh, &captures("10.0.0.9"));
    assert_eq!(addresses(&names, "ledger.example.com"), ["240.240.7.7"]);
    assert_eq!(addresses(&names, "books.example.com").len(), 1);
    assert_eq!(names.table["books.example.com"].registry, "External");
    assert!(!names.table.contains_key("shy.example.com"));
    assert_eq!(
        addresses(&names, "web.shop.svc.cluster.local"),
        ["10.96.0.5"]
    );
    let web = &names.table["web.shop.svc.cluster.local"];
    assert_eq!(
        (&*web.registry, &*web.shortname, &*web.namespace),
        ("Kubernetes", "web", "shop")
    );
    let db = "db.shop.svc.cluster.local";
    assert_eq!(addresses(&names, db), ["10.0.1.1", "10.0.1.2"]);
    assert_eq!(addresses(&names, &format!("db-1.{db}")), ["10.0.1.2"]);
    assert_eq!(names.table[&format!("db-1.{db}")].shortname, "db-1.db");
    assert!(!names.table.contains_key(&format!("db-2.{db}")));
}

#[test]
fn the_name_table_follows_endpoints_of_headless_services_and_nothing_else() {
    let mut mesh = Mesh::new(ENTRIES);
    let proxy = captures("10.0.0.9");
    let before = table(&mut mesh, &proxy);
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\nspec: {hosts: [web], http: [{timeout: 3s, route: [{destination: {host: web}}]}]}\n";
    let old = mesh.config(&proxy).0;
    mesh.edit("route.yaml", route);
    let new = mesh.config(&proxy).0;
    assert_eq!(old.get(&TypeUrl::NAME_TABLE), new.get(&TypeUrl::NAME_TABLE));
    mesh.edit("mesh.yaml", &ENTRIES.replace("ready: false", "ready: true"));
    let after = table(&mut mesh, &proxy);
    assert_ne!(before, after);
    assert_eq!(addresses(&after, "db.shop.svc.cluster.local").len(), 3);
}
