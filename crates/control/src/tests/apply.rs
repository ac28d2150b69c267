//! What a batch publishes, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use tonic::metadata::MetadataMap;
use weft_model::MeshSettings;
use weft_sources::{Batch, FileStore, ObjectState};
use weft_xds::server::grpc::{Connection, ConnectionId, Standing, ViewSource};
use weft_xds::{Mode, TypeUrl, View, pb};

use crate::core::Core;
use crate::pb::endpoint::v3::ClusterLoadAssignment;

const SIDECAR: &str = "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local";

/// A store of files and the core that takes its batches.
pub(super) struct Plane {
    store: FileStore,
    pub(super) core: Arc<Core>,
}

impl Plane {
    pub(super) fn new() -> Self {
        Self {
            store: FileStore::new(MeshSettings::default()),
            core: Arc::new(Core::new(MeshSettings::default())),
        }
    }

    /// One save of a file.
    pub(super) fn save(&mut self, file: &str, text: &str) {
        let update = self.store.apply(file, Some(text));
        let batch = Batch {
            changes: update.changes,
            statuses: update.statuses,
            ..Batch::default()
        };
        self.core.apply(vec![batch]);
    }

    fn connect(&self, id: u64) -> tokio::sync::watch::Receiver<View> {
        let connection = Connection {
            id: ConnectionId(id),
            node: pb::Node {
                id: SIDECAR.to_owned(),
                ..pb::Node::default()
            },
            mode: Mode::Delta,
            peer: None,
            metadata: MetadataMap::new(),
            extensions: tonic::Extensions::new(),
            standing: Standing::closed(),
        };
        self.core.connect(&connection).expect("a known node")
    }
}

fn service(name: &str, port: u16, addresses: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: shop}}\nspec:\n  hosts: [{name}.shop]\n  \
         resolution: STATIC\n  ports: [{{number: {port}, name: http, protocol: HTTP}}]\n  \
         endpoints: [{addresses}]\n---\n"
    )
}

fn route(to: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: front, namespace: shop}}\nspec:\n  hosts: [front.shop]\n  \
         http: [{{route: [{{destination: {{host: {to}.shop, port: {{number: 80}}}}}}]}}]\n"
    )
}

/// How many endpoints a cluster of a view has; `None` if there is no such cluster.
fn endpoints(view: &View, cluster: &str) -> Option<usize> {
    view.resource(&TypeUrl::CLUSTER, cluster)?;
    let Some(resource) = view.resource(&TypeUrl::ENDPOINT, cluster) else {
        return Some(0);
    };
    let assignment = ClusterLoadAssignment::decode(resource.body.to_bytes()).expect("a message");
    let hosts = assignment.endpoints.iter();
    Some(hosts.map(|locality| locality.lb_endpoints.len()).sum())
}

/// All views that are published while `edit` runs.
fn published(plane: &mut Plane, edit: impl FnOnce(&mut Plane)) -> Vec<View> {
    let mut receiver = plane.connect(1);
    receiver.borrow_and_update();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut views = Vec::new();
            loop {
                let last = stop.load(Ordering::Acquire);
                if receiver.has_changed().expect("the core lives") {
                    views.push(receiver.borrow_and_update().clone());
                }
                if last {
                    return views;
                }
            }
        });
        edit(plane);
        stop.store(true, Ordering::Release);
        collector.join().expect("no panic")
    })
}

/// Saves `after` over `before`, and looks at each view that is published on the way. A view is seen
/// only while it is the newest one, so it is done several times.
fn never_without_endpoints(before: &str, after: &str) {
    for _ in 0..10 {
        let mut plane = Plane::new();
        plane.save("mesh.yaml", before);
        let views = published(&mut plane, |plane| plane.save("mesh.yaml", after));
        assert!(!views.is_empty(), "an edit is published");
        for view in views {
            let left = endpoints(&view, "outbound|80||a.shop");
            assert_ne!(left, Some(0), "the cluster is there without its endpoints");
        }
    }
}

#[test]
fn a_service_keeps_its_endpoints_until_the_rules_have_left_it() {
    let a = service("a", 80, "{address: 10.0.0.1}");
    let b = service("b", 80, "{address: 10.0.0.2}");
    never_without_endpoints(&(a + &b + &route("a")), &(b.clone() + &route("b")));
}

#[test]
fn a_port_moves_with_its_endpoints() {
    let before = service("a", 80, "{address: 10.0.0.1}") + &route("a");
    let after = service("a", 81, "{address: 10.0.0.1}") + &route("a").replace("80", "81");
    never_without_endpoints(&before, &after);
}

#[test]
fn an_object_that_comes_twice_in_a_file_has_both_statuses() {
    let once = service("a", 80, "{address: 10.0.0.1}");
    let mut plane = Plane::new();
    let states = |plane: &Plane| -> Vec<ObjectState> {
        let statuses = plane.core.statuses();
        statuses.iter().map(|status| status.state).collect()
    };
    plane.save("mesh.yaml", &once);
    assert_eq!(states(&plane), [ObjectState::Accepted]);
    plane.save("mesh.yaml", &once.repeat(2));
    assert_eq!(
        states(&plane),
        [ObjectState::Accepted, ObjectState::Shadowed]
    );
    plane.save("mesh.yaml", &once);
    assert_eq!(
        states(&plane),
        [ObjectState::Accepted],
        "the one that counts stays"
    );
}
