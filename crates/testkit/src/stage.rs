//! Two meshes alike side by side, one with real Envoys and one with our own proxies, in
//! namespaces of one control plane; and the sharing of them by the tests of a program. Must never
//! know what is in the meshes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::control::Control;
use crate::dataplane::{AdsMode, Dataplane, Node, Program};
use crate::folder::ConfigFolder;
use crate::peers::Peers;
use crate::wait::{Turn, eventually, one_at_a_time};

/// The longest that an edit may take to reach traffic on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// One of the two meshes: a namespace whose proxies are of one program.
#[derive(Clone, Debug)]
pub struct Side {
    /// `envoy` or `weft`; also the namespace.
    pub name: &'static str,
    /// What its proxies are.
    pub program: Program,
    /// The control plane of both.
    pub control: Arc<Control>,
    /// The files of both.
    pub folder: Arc<ConfigFolder>,
}

impl Side {
    /// Writes a watched file of this mesh; `$NS` in the text is the namespace.
    pub fn write(&self, file: &str, text: &str) {
        let file = format!("{}-{file}.yaml", self.name);
        self.folder.write(&file, &self.fill(text));
    }

    /// The text with the namespace in place of `$NS`.
    pub fn fill(&self, text: &str) -> String {
        text.replace("$NS", self.name)
    }

    /// An address of the loopback network that only this mesh uses.
    pub fn ip(&self, last: u8) -> Ipv4Addr {
        let net = if self.name == "envoy" { 1 } else { 2 };
        Ipv4Addr::new(127, 0, net, last)
    }

    /// A sidecar of this namespace; see [`Node::sidecar`].
    pub fn sidecar(&self, app: &str, ip: Ipv4Addr, port: u16, inbound: &[(u16, u16)]) -> Node {
        let mut node = Node::sidecar(app, ip, port, inbound);
        self.place(&mut node, app, ip);
        node
    }

    /// A gateway of this namespace for Gateways with `gateway: $NS-app`.
    pub fn gateway(&self, app: &str) -> Node {
        let mut node = Node::gateway(app);
        self.place(&mut node, app, Ipv4Addr::LOCALHOST);
        node.id = node.id.replacen("sidecar~", "router~", 1);
        node.metadata["LABELS"] = json!({"app": app, "gateway": format!("{}-{app}", self.name)});
        node
    }

    fn place(&self, node: &mut Node, app: &str, ip: Ipv4Addr) {
        let namespace = self.name;
        node.id = format!("sidecar~{ip}~{app}.{namespace}~{namespace}.svc.cluster.local");
        node.metadata["NAMESPACE"] = json!(namespace);
    }

    /// Starts a proxy and waits until it has accepted all that it needs.
    pub async fn proxy(&self, node: &Node) -> Dataplane {
        let xds = self.control.grpc();
        let proxy = Dataplane::start(&self.program, node, AdsMode::Delta, xds, &self.folder).await;
        self.control
            .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
        proxy
    }

    /// Looks until `look` gives what is `wanted`.
    pub async fn becomes<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        wanted: T,
        mut look: impl AsyncFnMut() -> T,
    ) {
        let what = format!("through {}: {what}", self.name);
        eventually(&what, SOON, async || {
            let seen = look().await;
            let fine = seen == wanted;
            fine.then_some(())
                .ok_or_else(|| format!("{seen:?} instead of {wanted:?}"))
        })
        .await;
    }
}

/// What a test program builds in each of the two meshes.
pub trait World: Send + Sync + Sized + 'static {
    /// Mesh settings.
    const SETTINGS: &'static str;

    /// Builds it.
    fn build(side: Side) -> impl Future<Output = Self>;
}

/// The two worlds and what they live in.
#[derive(Debug)]
struct Stage<W> {
    // Dropped in this order: what runs on the runtime first.
    worlds: [W; 2],
    runtime: Runtime,
    /// One test at a time plays on it.
    busy: Mutex<()>,
    _turn: Turn,
}

/// A stage that lives as long as tests of this program need it: those that run or wait share it.
#[derive(Debug)]
pub struct SharedStage<W>(Mutex<Weak<Stage<W>>>);

impl<W: World> Default for SharedStage<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: World> SharedStage<W> {
    /// One that is built by its first test.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// Plays a task in both worlds at once, each in a thread that tells its name if it panics.
    pub fn play(&self, weft: &str, task: impl AsyncFn(&W) + Sync) {
        let stage = self.enter(weft);
        let _alone = stage.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let (runtime, task) = (stage.runtime.handle(), &task);
        thread::scope(|scope| {
            let players = [
                ("through Envoy", &stage.worlds[0]),
                ("through Weft", &stage.worlds[1]),
            ];
            let players = players.map(|(name, world)| {
                let play = move || runtime.block_on(task(world));
                let player = thread::Builder::new().name(name.to_owned());
                let player = player.spawn_scoped(scope, play);
                player.unwrap_or_else(|error| panic!("a thread: {error}"))
            });
            let failed = players.map(|player| player.join().is_err());
            assert!(!failed.contains(&true), "the task failed as told above");
        });
    }

    fn enter(&self, weft: &str) -> Arc<Stage<W>> {
        let shared = self.0.lock();
        let mut shared = shared.expect("the stage was built, as another test tells");
        shared.upgrade().unwrap_or_else(|| {
            let stage = Arc::new(Stage::build(weft));
            *shared = Arc::downgrade(&stage);
            stage
        })
    }
}

impl<W: World> Stage<W> {
    fn build(weft: &str) -> Self {
        let turn = one_at_a_time();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.unwrap_or_else(|error| panic!("a runtime: {error}"));
        let envoy = Program::Envoy(Peers::new().envoy());
        let worlds = runtime.block_on(async {
            let folder = Arc::new(ConfigFolder::new());
            // A control plane does not start on a folder without files.
            folder.write("00-start.yaml", "# Each mesh has files of its own.\n");
            let settings = folder.write_beside("mesh.yaml", W::SETTINGS);
            let control = Arc::new(Control::start(weft, &folder, Some(&settings)).await);
            let side = |name, program| Side {
                name,
                program,
                control: Arc::clone(&control),
                folder: Arc::clone(&folder),
            };
            let (one, other) = tokio::join!(
                W::build(side("envoy", envoy)),
                W::build(side("weft", Program::Weft(weft.into())))
            );
            [one, other]
        });
        Self {
            worlds,
            runtime,
            busy: Mutex::default(),
            _turn: turn,
        }
    }
}

/// A port of 127.0.0.1.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
