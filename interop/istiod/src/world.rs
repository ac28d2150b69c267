//! The worlds: a file of rules each, and where one needs it a mesh configuration beside it.

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
            let is_mesh = |name: &&str| name.strip_suffix(".mesh").is_some();
            if let Some(name) = name.filter(|name| !is_mesh(name)) {
                let mesh = rules.with_file_name(format!("{name}.mesh.yaml"));
                worlds.push(Self {
                    name: name.to_owned(),
                    mesh: mesh.exists().then_some(mesh),
                    rules,
                });
            }
        }
        worlds.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(worlds)
    }

    /// The listeners that the gRPC client asks for: the world's lines `# grpc: host:port`.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn grpc_targets(&self) -> std::io::Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.rules)?;
        let targets = text
            .lines()
            .filter_map(|line| line.strip_prefix("# grpc: "));
        Ok(targets.map(|target| target.trim().to_owned()).collect())
    }
}
