//! Clusters whose hosts are names.

use super::*;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use weft_config::cluster::DnsSettings;

/// What names stand for, and names that are never answered.
#[derive(Default)]
pub(super) struct Names(
    pub(super) Mutex<HashMap<String, Vec<IpAddr>>>,
    Mutex<Vec<String>>,
);

impl dns::Resolve for Names {
    fn resolve(&self, name: &str) -> dns::Answer {
        if self.1.lock().unwrap().iter().any(|silent| silent == name) {
            return Box::pin(std::future::pending());
        }
        let found = self.0.lock().unwrap().get(name).cloned();
        let answer = found.ok_or_else(|| std::io::Error::other("no such name"));
        Box::pin(std::future::ready(answer))
    }
}

fn address_of(host: &HostAddress) -> SocketAddr {
    match host {
        HostAddress::Ip(address) => *address,
        HostAddress::Pipe(path) => panic!("{path} was not looked up"),
    }
}

#[test]
fn dns_follows_changes_and_keeps_the_last_answer_on_failure() {
    on_worker(async {
        let names = Arc::new(Names::default());
        let ip = |s: &str| -> IpAddr { s.parse().unwrap() };
        let set = |addresses: Option<&[&str]>| {
            let mut map = names.0.lock().unwrap();
            match addresses {
                Some(list) => {
                    let list = list.iter().map(|s| ip(s)).collect();
                    map.insert("a.test".to_owned(), list);
                }
                None => map.clear(),
            }
        };
        let registry = Arc::new(Registry::default());
        let store = ClusterStore::with_resolver(Arc::clone(&registry), 1, names.clone());
        let world = World::of(store, registry);
        let named = Endpoint {
            address: Address::Host {
                host: "a.test".into(),
                port: 80,
            },
            ..endpoint(([0, 0, 0, 0], 0).into())
        };
        let mut config = config(
            "c",
            assignment("c", vec![vec![locality(None, vec![named])]]),
        );
        let settings = DnsSettings {
            refresh_rate: Duration::from_millis(20),
            ..DnsSettings::default()
        };
        config.discovery = Discovery::StrictDns(settings.clone());
        set(Some(&["127.0.0.2", "127.0.0.1"]));
        world.store.apply_cluster(Arc::new(config.clone()), false);
        world.store.wait_ready().await;
        assert_eq!(world.stat("membership_total"), 2);
        let host = world.cluster().pick(&PickContext::default()).unwrap();
        assert_eq!(&**host.hostname(), "a.test");
        set(Some(&["127.0.0.2", "127.0.0.1", "127.0.0.3"]));
        world.until("membership_total", 3).await;
        set(None);
        let failures = world.stat("update_failure");
        while world.stat("update_failure") < failures + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.stat("membership_total"), 3);
        // LOGICAL_DNS: one address, which stays while it is among those found.
        config.discovery = Discovery::LogicalDns(settings);
        set(Some(&["127.0.0.7", "127.0.0.8"]));
        world.store.apply_cluster(Arc::new(config), false);
        let address = || {
            let host = world.cluster().pick(&PickContext::default());
            host.map(|host| address_of(host.address()).ip())
        };
        while address() != Some(ip("127.0.0.7")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.stat("membership_total"), 1);
        set(Some(&["127.0.0.8", "127.0.0.7", "127.0.0.9"]));
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert_eq!(address(), Some(ip("127.0.0.7")));
        set(Some(&["127.0.0.8", "127.0.0.9"]));
        while address() != Some(ip("127.0.0.8")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// A resolver whose answers the test gives, and a cluster with names.
struct Dns {
    names: Arc<Names>,
    world: World,
}

impl Dns {
    fn new() -> Self {
        let (names, registry) = (Arc::new(Names::default()), Arc::new(Registry::default()));
        let store = ClusterStore::with_resolver(Arc::clone(&registry), 1, names.clone());
        let world = World::of(store, registry);
        Self { names, world }
    }

    fn set(&self, name: &str, address: &str) {
        let addresses = vec![address.parse().unwrap()];
        self.names
            .0
            .lock()
            .unwrap()
            .insert(name.to_owned(), addresses);
    }

    fn apply(&self, names: &[&str]) {
        let endpoints = names.iter().map(|name| Endpoint {
            address: Address::Host {
                host: (*name).into(),
                port: 80,
            },
            ..endpoint(([0, 0, 0, 0], 0).into())
        });
        let locality = locality(None, endpoints.collect());
        let mut config = config("c", assignment("c", vec![vec![locality]]));
        config.discovery = Discovery::StrictDns(DnsSettings {
            refresh_rate: Duration::from_millis(20),
            ..DnsSettings::default()
        });
        self.world.store.apply_cluster(Arc::new(config), true);
    }

    fn hosts(&self) -> Vec<String> {
        let cluster = self.world.cluster();
        let hosts = cluster.hosts().hosts().iter();
        hosts
            .map(|host| address_of(host.shared.address()).ip().to_string())
            .collect()
    }

    async fn until(&self, hosts: &[&str]) {
        while self.hosts() != hosts {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[test]
fn new_names_keep_the_old_hosts_until_they_are_answered() {
    on_worker(async {
        let dns = Dns::new();
        dns.set("a.test", "127.0.0.1");
        dns.apply(&["a.test"]);
        dns.until(&["127.0.0.1"]).await;
        dns.apply(&["b.test"]);
        assert_eq!(dns.hosts(), ["127.0.0.1"]);
        let failures = dns.world.stat("update_failure");
        while dns.world.stat("update_failure") < failures + 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(dns.hosts(), ["127.0.0.1"]);
        dns.set("b.test", "127.0.0.2");
        dns.until(&["127.0.0.2"]).await;
    });
}

#[test]
fn a_name_without_an_answer_holds_up_no_other() {
    on_worker(async {
        let dns = Dns::new();
        dns.set("z.test", "127.0.0.1");
        dns.names.1.lock().unwrap().push("a.test".to_owned());
        dns.apply(&["a.test", "z.test"]);
        dns.world.store.wait_ready().await;
        assert_eq!(dns.hosts(), ["127.0.0.1"]);
        dns.set("z.test", "127.0.0.2");
        dns.until(&["127.0.0.2"]).await;
    });
}

#[test]
fn a_cluster_that_comes_back_is_looked_up_by_one_loop() {
    on_worker(async {
        let dns = Dns::new();
        dns.set("a.test", "127.0.0.1");
        for _ in 0..50 {
            dns.apply(&["a.test"]);
            tokio::time::sleep(Duration::from_millis(2)).await;
            dns.world.store.remove_cluster("c");
        }
        dns.apply(&["a.test"]);
        dns.until(&["127.0.0.1"]).await;
        let before = dns.world.stat("update_attempt");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let attempts = dns.world.stat("update_attempt") - before;
        assert!((1..=12).contains(&attempts), "{attempts}");
    });
}
