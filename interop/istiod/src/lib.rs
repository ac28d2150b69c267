//! An oracle for the control plane: the same rules for istiod and for Weft, the same nodes, and
//! then what each of them tells every node, resource by resource.
//!
//! `worlds/` holds the rules, our own; [`nodes`] the proxies that ask. [`fetch`] takes a node's whole
//! configuration over ADS, [`normal`] brings it into the form in which the two are compared and
//! says, for everything that it takes out, why. `recorded/` keeps what istiod said as hashes, so
//! that the comparison runs where istiod is not. [`coverage`] says which fields no world sets, [`left_out`]
//! why.
//!
//! Must never know how the control plane works inside.

pub mod coverage;
pub mod difference;
pub mod fetch;
pub mod known;
pub mod left_out;
pub mod nodes;
pub mod normal;
pub mod planes;
pub mod recorded;
pub mod world;

/// What one node was told: resources by kind and name, normalised.
pub type Answers =
    std::collections::BTreeMap<&'static str, std::collections::BTreeMap<String, serde_json::Value>>;
