//! What tests with real peers need: real programs (Envoy, gRPC clients, this project's own
//! binary), a mesh to configure them with, an upstream that says who it is, and a load that
//! remembers every answer. A dev-dependency only; everything here panics with a full account
//! where a test cannot go on. Must never know how the control plane or the proxy work inside.

mod app;
mod certificate;
mod control;
mod dataplane;
mod dubbo;
mod folder;
mod http_client;
mod identities;
mod load;
mod mesh;
mod mutation;
mod namespace;
mod peers;
mod ports;
mod process;
mod scene;
mod script;
mod stage;
mod static_bootstrap;
mod tokens;
mod upstream;
mod wait;

pub use app::{Answers, App, Echo, Reply, Seen};
pub use certificate::Certificate;
pub use control::Control;
pub use dataplane::{AdsMode, Dataplane, Node, OwnAgent, Program, SecurePort, Stats};
pub use dubbo::dubbo_request;
pub use folder::ConfigFolder;
pub use http_client::{Answer, Connection, get};
pub use identities::{Identities, IdentityFiles};
pub use load::{Call, Load};
pub use mesh::{Mesh, Version};
pub use mutation::{Edit, Former, Mutated, Seeded, Vocabulary, WrittenWorld};
pub use namespace::Namespace;
pub use peers::Peers;
pub use ports::free_port;
pub use process::Process;
pub use scene::{Scene, Way};
pub use script::Script;
pub use stage::{SharedStage, Side, World, local};
pub use static_bootstrap::static_bootstrap;
pub use tokens::Tokens;
pub use upstream::Upstream;
pub use wait::{Turn, eventually, one_at_a_time};
