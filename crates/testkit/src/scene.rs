//! What most tests begin with: the mesh of two versions, its upstreams, a control plane. Must
//! never start a proxy: which one is the test's question.

use std::time::Duration;

use crate::control::Control;
use crate::dataplane::{AdsMode, Dataplane, Node, Program};
use crate::folder::ConfigFolder;
use crate::http_client::Connection;
use crate::mesh::{Mesh, Version};
use crate::ports::free_port;
use crate::upstream::Upstream;
use crate::wait::eventually;

/// A mesh with its control plane.
#[derive(Debug)]
pub struct Scene {
    /// The control plane.
    pub control: Control,
    /// The one instance of v1.
    pub v1: Upstream,
    /// The one instance of v2.
    pub v2: Upstream,
    /// What the files say.
    pub mesh: Mesh,
    /// The files.
    pub folder: ConfigFolder,
}

impl Scene {
    /// Starts upstreams and `binary control` with a split of 90 to 10.
    pub async fn start(binary: &str) -> Self {
        Self::start_with(binary, &[]).await
    }

    /// The same with `more` on the control plane's command line.
    pub async fn start_with(binary: &str, more: &[&str]) -> Self {
        let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
        let version = |name, upstream: &Upstream| Version {
            name,
            instances: vec![upstream.address()],
        };
        let mesh = Mesh {
            protocol: "HTTP",
            gateway_ports: vec![free_port()],
            versions: vec![version("v1", &v1), version("v2", &v2)],
        };
        let folder = ConfigFolder::new();
        mesh.write(&folder, 90, 10);
        let control = Control::start_with(binary, &folder, None, more).await;
        Self {
            control,
            v1,
            v2,
            mesh,
            folder,
        }
    }

    /// Starts a proxy of this control plane and waits until it has accepted all that it needs.
    pub async fn proxy(&self, program: &Program, node: &Node, mode: AdsMode) -> Dataplane {
        let proxy = Dataplane::start(program, node, mode, self.control.grpc(), &self.folder).await;
        self.control
            .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
        proxy
    }

    /// Edits the split.
    pub fn split(&self, v1: u32, v2: u32) {
        self.folder.write(Mesh::SPLIT_FILE, &Mesh::split(v1, v2));
    }

    /// Waits until a way into the mesh answers 200 with one of these bodies.
    pub async fn wait_for(&self, way: &Way, versions: &[&str]) {
        eventually(
            &format!("{way:?} leads to {versions:?}"),
            Duration::from_secs(20),
            async || {
                let answer = Connection::open(way.address)
                    .await?
                    .get(way.host, way.uri)
                    .await?;
                let fine = answer.status == 200 && versions.contains(&&*answer.body);
                fine.then_some(()).ok_or_else(|| format!("{answer:?}"))
            },
        )
        .await;
    }
}

/// A way into the mesh: where to connect and what to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where to connect.
    pub address: std::net::SocketAddr,
    /// The header `host`.
    pub host: &'static str,
    /// Path, or the whole URI.
    pub uri: &'static str,
}

impl Way {
    /// Through the gateway's port.
    pub fn gateway(port: u16) -> Self {
        Self {
            address: ([127, 0, 0, 1], port).into(),
            host: Mesh::PUBLIC,
            uri: "/",
        }
    }

    /// Through a sidecar's HTTP proxy port.
    pub fn http_proxy(port: u16) -> Self {
        let uri = "http://reviews.shop.svc.cluster.local:9080/";
        Self {
            address: ([127, 0, 0, 1], port).into(),
            host: "reviews.shop.svc.cluster.local:9080",
            uri,
        }
    }
}
