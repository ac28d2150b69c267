//! The worlds: a file of rules each, and where one needs it a mesh configuration and networks beside
//! it.

use std::path::{Path, PathBuf};

/// Rules that both control planes get.
#[derive(Debug, Clone)]
pub struct World {
    /// The file's name without its end.
    pub name: String,
    /// The rules.
    pub rules: PathBuf,
    /// Istio's `MeshConfig`, if it is not the default one.
    pub mesh: Option<PathBuf>,
    /// Istio's `MeshNetworks`, if there are any.
    pub networks: Option<PathBuf>,
}

impl World {
    /// The folder of all worlds.
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("worlds")
    }

    /// All worlds, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all() -> std::io::Result<Vec<Self>> {
        let mut worlds = Vec::new();
        for entry in std::fs::read_dir(Self::folder())? {
            let rules = entry?.path();
            let file = rules.file_name().and_then(|name| name.to_str());
            let name = file.and_then(|name| name.strip_suffix(".yaml"));
            let beside = [".mesh", ".networks"];
            let is_world = |name: &&str| !beside.iter().any(|end| name.strip_suffix(end).is_some());
            if let Some(name) = name.filter(is_world) {
                let mesh = rules.with_file_name(format!("{name}.mesh.yaml"));
                let networks = rules.with_file_name(format!("{name}.networks.yaml"));
                worlds.push(Self {
                    name: name.to_owned(),
                    mesh: mesh.exists().then_some(mesh),
                    networks: networks.exists().then_some(networks),
                    rules,
                });
            }
        }
        worlds.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(worlds)
    }

    /// What the proxies say and ask for beyond what they all do.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn asked(&self) -> std::io::Result<Asked> {
        Ok(Asked {
            grpc_targets: self.lines("# grpc: ")?,
            metadata: pairs(self.lines("# metadata: ")?),
        })
    }

    /// Environment variables for istiod: the world's lines `# istiod: NAME=value`.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn istiod(&self) -> std::io::Result<Vec<(String, String)>> {
        Ok(pairs(self.lines("# istiod: ")?))
    }

    fn lines(&self, start: &str) -> std::io::Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.rules)?;
        let found = text.lines().filter_map(|line| line.strip_prefix(start));
        Ok(found.map(|rest| rest.trim().to_owned()).collect())
    }
}

/// What the proxies of a world say and ask for beyond what they all do.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The listeners that the gRPC client asks for: the world's lines `# grpc: host:port`.
    pub grpc_targets: Vec<String>,
    /// Metadata of every node: the world's lines `# metadata: NAME=value`. With `DNS_CAPTURE=true`
    /// proxies ask for the name table, too, with `ENABLE_SELF_DISCOVERY=true` for the endpoints of
    /// their own service.
    pub metadata: Vec<(String, String)>,
}

impl Asked {
    /// Whether proxies ask for the name table.
    pub fn names(&self) -> bool {
        self.says("DNS_CAPTURE")
    }

    /// Whether proxies ask for the endpoints of their own service.
    pub fn own_service(&self) -> bool {
        self.says("ENABLE_SELF_DISCOVERY")
    }

    fn says(&self, flag: &str) -> bool {
        let mut metadata = self.metadata.iter();
        metadata.any(|(name, value)| name == flag && value == "true")
    }
}

fn pairs(lines: Vec<String>) -> Vec<(String, String)> {
    let pair = |line: String| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    lines.into_iter().filter_map(pair).collect()
}
